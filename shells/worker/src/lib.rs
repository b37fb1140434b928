//! The Cloudflare shell: a router, and one Durable Object per stream. It carries out what the
//! machine decides, and decides nothing itself.
//!
//! Nothing in here waits: the JavaScript code in `js/` waits for bodies, objects and readers. A
//! panic aborts the wasm instance that everything in the isolate shares, and would leave every Rust
//! future hanging. Because there are no futures, a panic breaks only the call in which it happens.

mod effects;
mod incoming;
mod object;
mod pages;
mod platform;
mod response;
mod router;
mod storage;
#[cfg(feature = "test-routes")]
mod test_routes;
mod waiting;

use std::cell::OnceCell;

use js_sys::Reflect;
use machine::router::Settings;
use machine::wire::header;
use wasm_bindgen::{JsValue, intern};
use worker::event;

/// Strings that cross into JavaScript with almost every request cross only once.
#[event(start)]
fn start() {
    for text in header::FREQUENT
        .into_iter()
        .chain(["STREAMS", "no-store", "true"])
    {
        intern(text);
    }
}

/// Returns the operator's settings, or what is wrong with them. They are read once in each isolate,
/// because they cannot change while it runs.
fn settings<T>(env: &JsValue, then: impl FnOnce(&Result<Settings, String>) -> T) -> T {
    thread_local! {
        static SETTINGS: OnceCell<Result<Settings, String>> = const { OnceCell::new() };
    }
    let variable = |name: &str| {
        Reflect::get(env, &name.into())
            .ok()
            .and_then(|value| value.as_string())
    };
    let is_bound =
        |name: &str| Reflect::get(env, &name.into()).is_ok_and(|value| !value.is_undefined());
    let read = || {
        let mut settings = Settings::read(&variable).map_err(|bad| bad.to_string())?;
        // The machine does without a part whose binding is missing.
        settings.limits.cold = is_bound("SEGMENTS");
        settings.limits.index = is_bound("ADMIN_INDEX");
        settings.limits.registry = true;
        Ok(settings)
    };
    SETTINGS.with(|settings| then(settings.get_or_init(read)))
}
