//! `Cache-Control` (protocol 10.1). Every answer has it. Caches may only store what can never
//! become wrong.

use std::borrow::Cow;

use super::CacheMode;
use crate::Limits;

pub(crate) const NO_STORE: Cow<'static, str> = Cow::Borrowed("no-store");
pub(crate) const EVENT_STREAM: Cow<'static, str> =
    Cow::Borrowed("no-cache, no-store, no-transform");

/// Returns the value for a catch-up answer with content. One that ends before the tail can never
/// change. One that reaches the tail grows with the next append, so it must be revalidated each
/// time.
pub(crate) fn catch_up(mode: CacheMode, reaches_tail: bool, limits: &Limits) -> Cow<'static, str> {
    let scope = scope(mode);
    if reaches_tail {
        return Cow::Borrowed("private, no-cache");
    }
    let (age, stale) = (limits.page_max_age_s, limits.page_stale_s);
    Cow::Owned(format!(
        "{scope}, max-age={age}, stale-while-revalidate={stale}"
    ))
}

/// Returns the value for a long-poll answer with content. Its offset and cursor are in the URL, so
/// a shared cache may serve it to all clients that wait at the same place.
pub(crate) fn long_poll(mode: CacheMode, limits: &Limits) -> Cow<'static, str> {
    match mode {
        CacheMode::Private => NO_STORE,
        CacheMode::Shared => Cow::Owned(format!("public, max-age={}", limits.long_poll_max_age_s)),
    }
}

const fn scope(mode: CacheMode) -> &'static str {
    match mode {
        CacheMode::Private => "private",
        CacheMode::Shared => "public",
    }
}
