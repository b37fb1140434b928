//! The Worker's router: finds the stream's object for a request.

use js_sys::{Array, Object, Reflect};
use machine::Answer;
use machine::router::{self, EdgeCache, Origins, Route, ToStream, target};
use machine::wire::internal_headers;
use wasm_bindgen::prelude::*;
use web_sys::{Headers, Request, RequestInit};

use crate::head::Head;
use crate::platform::Namespace;
use crate::{response, settings};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** Where a request goes whose answer needs something from the entry. */
export type Routed =
  | { answer: Response }
  | {
      answer?: undefined;
      stub: { fetch(request: Request): Promise<Response> };
      request: Request;
      isTimed: boolean;
      cache?: string | null;
    };
"#;

#[wasm_bindgen]
pub struct Router {
    env: JsValue,
    streams: Namespace,
}

#[wasm_bindgen]
impl Router {
    /// Creates the router from the Worker's bindings.
    ///
    /// # Errors
    /// When the streams' namespace is not bound.
    #[wasm_bindgen(constructor)]
    pub fn new(env: JsValue) -> Result<Self, JsValue> {
        let streams = Reflect::get(&env, &"STREAMS".into())?.unchecked_into();
        Ok(Self { env, streams })
    }

    /// Routes a request. Sends it to the stream's object if the object's answer is the client's.
    /// Otherwise `answer` is set in the result if the router answers itself. If not,
    /// `stub` is the stream's object, and `request` is the request for it. `isTimed` says whether
    /// the response has a `Server-Timing` header. `cache` is the URL to look up in the cache at the
    /// edge, `null` if this request must not use the cache, or `undefined` if there is no cache.
    ///
    /// # Errors
    /// When the platform fails in making a response or a request.
    #[wasm_bindgen(unchecked_return_type = "Routed | Promise<Response>")]
    pub fn route(&self, request: &Request, head: &str) -> Result<JsValue, JsValue> {
        let head = Head::new(head);
        let settings = settings(&self.env);
        let route = match &settings {
            Ok(settings) => match target::checked(head.url, head.header("Host")) {
                Ok(split) => head.read_at(split, settings, |head| router::route(head, settings)),
                Err(refusal) => Route::Answered(router::refused(head.method, &refusal)),
            },
            Err(bad) => Route::Answered(Answer::internal(bad)),
        };
        let routed = Object::new();
        let set = |name: &str, value: JsValue| Reflect::set(&routed, &name.into(), &value);
        match route {
            Route::Answered(answer) => {
                set("answer", response::plain(&answer)?.into())?;
            }
            Route::Stream(to_stream) => {
                let changed = changed_request(request, &head, &to_stream)?;
                let request = changed.as_ref().unwrap_or(request);
                // A stub that has failed stays broken, so each request gets a new one.
                let stub = self.streams.by_name(&to_stream.name)?;
                if to_stream.is_direct() {
                    return stub.fetch(request).map(JsValue::from);
                }
                set("request", request.into())?;
                set("stub", stub.into())?;
                set("isTimed", to_stream.timing.into())?;
                match to_stream.edge_cache {
                    EdgeCache::Unused => {}
                    EdgeCache::Bypassed => {
                        set("cache", JsValue::NULL)?;
                    }
                    EdgeCache::Asked(url) => {
                        set("cache", url.into())?;
                    }
                }
            }
        }
        Ok(routed.into())
    }

    /// Returns whether the cache at the edge may keep a response with this status and this
    /// `Cache-Control`.
    #[wasm_bindgen(js_name = mayKeep)]
    #[must_use]
    pub fn may_keep(&self, status: u16, cache_control: &str) -> bool {
        router::may_keep(status, cache_control)
    }

    /// Returns the CORS headers of every response, as pairs of name and value.
    #[wasm_bindgen(js_name = crossOrigin, unchecked_return_type = "[string, string][]")]
    #[must_use]
    pub fn cross_origin(&self, method: &str, origin: Option<String>) -> Vec<JsValue> {
        let open = Origins::default();
        let settings = settings(&self.env);
        let origins = settings
            .as_ref()
            .map_or(&open, |settings| &settings.cors_origins);
        let headers = origins.headers(method, origin.as_deref());
        let pair = |(name, value): (&str, _)| {
            let value: std::borrow::Cow<'_, str> = value;
            Array::of2(&name.into(), &value.as_ref().into()).into()
        };
        headers.map(pair).collect()
    }
}

/// Returns the request for the object if it differs from the client's: with the internal headers
/// that the router sets, and without those of the client.
fn changed_request(
    request: &Request,
    head: &Head<'_>,
    to_stream: &ToStream,
) -> Result<Option<Request>, JsValue> {
    let mut changed = None;
    for name in internal_headers::ALL {
        let value = to_stream.internal_header(name);
        if value.is_none() && head.header(name).is_none() {
            continue;
        }
        let headers = match &mut changed {
            Some(changed) => changed,
            None => changed.insert(Headers::new_with_headers(&request.headers())?),
        };
        match value {
            Some(value) => headers.set(name, value)?,
            None => headers.delete(name)?,
        }
    }
    let Some(headers) = changed else {
        return Ok(None);
    };
    let init = RequestInit::new();
    init.set_headers(&headers);
    Request::new_with_request_and_init(request, &init).map(Some)
}
