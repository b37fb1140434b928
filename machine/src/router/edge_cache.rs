//! The Worker's cache at the edge, in shared cache mode: which requests it may answer, and which
//! answers it may store.
//!
//! The cache does not learn of appends and deletions. So it may only store what no append changes:
//! a page that ends before the tail. After a deletion, it can serve a page for the rest of the
//! page's `max-age`.

use super::{STREAM_PREFIX, Settings};
use crate::wire::request::{self, RequestHead, StartOffset};
use crate::wire::{CacheMode, header};

/// The use of the cache for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeCache {
    /// This cache mode has no cache.
    Unused,
    /// Neither read the cache nor write to it.
    Bypassed,
    /// Look up this URL first. On a miss, store the answer if [`may_keep`] allows it. Equal URLs
    /// have equal answers.
    Asked(String),
}

/// Decides for an authorized request to the stream of this canonical name.
pub(super) fn of(head: RequestHead<'_>, name: &str, settings: &Settings) -> EdgeCache {
    if settings.cache_mode == CacheMode::Private {
        return EdgeCache::Unused;
    }
    if settings.answers_cache_mode() == CacheMode::Private {
        return EdgeCache::Bypassed;
    }
    let wants_origin = [header::CACHE_CONTROL, header::PRAGMA]
        .into_iter()
        .filter_map(|name| (head.header)(name))
        .any(|value| has_directive(&value, "no-cache") || has_directive(&value, "no-store"));
    // HEAD returns metadata, which depend on the tail. The stream itself compares entity tags.
    if head.method != "GET" || wants_origin || (head.header)(header::IF_NONE_MATCH).is_some() {
        return EdgeCache::Bypassed;
    }
    let from = match request::read(head) {
        Ok(read) if read.live.is_none() => read.from,
        Ok(_) | Err(_) => return EdgeCache::Bypassed,
    };
    let offset = match from {
        StartOffset::Start => "-1".to_owned(),
        StartOffset::Offset(offset) => offset.to_string(),
        StartOffset::Now => return EdgeCache::Bypassed,
    };
    let base = settings.location_base(head.origin);
    EdgeCache::Asked(format!("{base}{STREAM_PREFIX}{name}?offset={offset}"))
}

/// Returns whether the cache may store an answer after a miss: a whole page that allows shared
/// caches.
#[must_use]
pub fn may_keep(status: u16, cache_control: &str) -> bool {
    let mut directives = cache_control.split(',').map(str::trim);
    let age = directives.find_map(|each| each.strip_prefix("max-age="));
    status == 200
        && has_directive(cache_control, "public")
        && age.is_some_and(|age| age.parse::<u64>().is_ok_and(|age| age > 0))
        && !["no-store", "no-cache", "private"]
            .into_iter()
            .any(|directive| has_directive(cache_control, directive))
}

fn has_directive(list: &str, directive: &str) -> bool {
    list.split(',')
        .any(|each| each.trim().eq_ignore_ascii_case(directive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;
    use crate::wire::cache;

    fn asked(method: &str, query: &str, headers: &[(&str, &str)]) -> EdgeCache {
        let settings = Settings {
            cache_mode: CacheMode::Shared,
            ..Settings::default()
        };
        let header = |name: &str| {
            let found = headers.iter().find(|(each, _)| *each == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let target = format!("/v1/stream/%61{query}");
        let head = RequestHead {
            method,
            origin: "http://h",
            target: &target,
            header: &header,
        };
        of(head, "a", &settings)
    }

    #[test]
    fn equal_reads_have_one_key_and_others_have_their_own() {
        let key = |query: &str| asked("GET", query, &[]);
        let start = EdgeCache::Asked("http://h/v1/stream/a?offset=-1".to_owned());
        for query in [
            "",
            "?",
            "?offset=-1",
            "?offset=%2D1",
            "?x=1&offset=-1",
            "?cursor=7",
        ] {
            assert_eq!(key(query), start, "{query}");
        }
        let offset = "0000000000000000_0000000000000005";
        let other = EdgeCache::Asked(format!("http://h/v1/stream/a?offset={offset}"));
        assert_eq!(key(&format!("?offset={offset}")), other);
    }

    #[test]
    fn reads_of_the_tail_and_of_one_client_bypass_the_cache() {
        for (method, query, headers) in [
            ("HEAD", "", &[][..]),
            ("POST", "", &[]),
            ("GET", "?offset=now", &[]),
            ("GET", "?offset=-1&live=sse", &[]),
            ("GET", "?offset=-1&live=long-poll", &[]),
            ("GET", "?offset=x", &[]),
            ("GET", "", &[(header::IF_NONE_MATCH, "\"x\"")]),
            ("GET", "", &[(header::CACHE_CONTROL, "max-age=0, No-Cache")]),
            ("GET", "", &[(header::CACHE_CONTROL, "no-store")]),
            ("GET", "", &[(header::PRAGMA, "no-cache")]),
        ] {
            assert_eq!(
                asked(method, query, headers),
                EdgeCache::Bypassed,
                "{method} {query}"
            );
        }
    }

    #[test]
    fn only_a_public_page_is_kept() {
        let limits = Limits::DEFAULT;
        let page = |mode, reaches_tail| cache::catch_up(mode, reaches_tail, &limits);
        assert!(may_keep(200, &page(CacheMode::Shared, false)));
        assert!(!may_keep(206, &page(CacheMode::Shared, false)));
        assert!(!may_keep(304, &page(CacheMode::Shared, false)));
        for cache_control in [
            page(CacheMode::Shared, true),
            page(CacheMode::Private, false),
            cache::NO_STORE,
            cache::EVENT_STREAM,
            "public".into(),
            "public, max-age=0".into(),
            "public, max-age=60, no-store".into(),
            "".into(),
        ] {
            assert!(!may_keep(200, &cache_control), "{cache_control}");
        }
    }
}
