//! The Cloudflare shell: a router, and one Durable Object per stream. It carries out what the
//! machine decides, and decides nothing itself.
//!
//! Nothing in here waits: the JavaScript code in `js/` waits for bodies, objects and readers. A
//! panic aborts the wasm instance that everything in the isolate shares, and would leave every Rust
//! future hanging. Because there are no futures, a panic breaks only the call in which it happens.

mod effects;
mod fanout;
mod head;
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

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;

use js_sys::Reflect;
use machine::router::{Origins, Settings};
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

thread_local! {
    static SETTINGS: OnceCell<Result<Rc<Settings>, String>> = const { OnceCell::new() };
}

/// Returns the operator's settings, or what is wrong with them. They are read once in each isolate,
/// because they cannot change while it runs.
fn settings(env: &JsValue) -> Result<Rc<Settings>, String> {
    let not_a_text = Cell::new(None);
    let variable = |name: &str| {
        let value = Reflect::get(env, &name.into()).ok()?;
        let text = value.as_string();
        if text.is_none() && !value.is_undefined() {
            not_a_text.set(Some(name.to_owned()));
        }
        text
    };
    let is_bound =
        |name: &str| Reflect::get(env, &name.into()).is_ok_and(|value| !value.is_undefined());
    let read = || {
        let mut settings = Settings::read(&variable).map_err(|bad| bad.to_string())?;
        // A secret that cannot be read must not leave the server open.
        if let Some(name) = not_a_text.take() {
            return Err(format!("{name} must be a text"));
        }
        // The machine does without a part whose binding is missing.
        let limits = Arc::make_mut(&mut settings.limits);
        limits.cold = is_bound("SEGMENTS");
        limits.index = is_bound("ADMIN_INDEX");
        limits.metrics = is_bound("METRICS");
        limits.fanout_queue = is_bound("FANOUT_QUEUE");
        limits.registry = true;
        Ok(Rc::new(settings))
    };
    SETTINGS.with(|settings| settings.get_or_init(read).clone())
}

/// Returns the CORS headers of the answers to a method, if all have the same. If the settings are
/// bad, the answers that say so are for everybody.
fn constant_cors_headers(method: &str) -> Vec<(&'static str, Cow<'static, str>)> {
    let any = Origins::default();
    SETTINGS.with(|settings| {
        let settings = settings.get().expect("settings are read before any answer");
        let origins = settings.as_ref().map_or(&any, |read| &read.cors_origins);
        let headers = origins.are_any().then(|| origins.headers(method, None));
        headers.into_iter().flatten().collect()
    })
}
