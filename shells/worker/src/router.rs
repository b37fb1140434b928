//! The Worker: from a request to its stream's object.

use js_sys::Reflect;
use machine::Answer;
use machine::edge::{self, Route, ToStream};
use machine::wire::request::Head;
use machine::wire::{CacheMode, header};
use wasm_bindgen::prelude::*;
use web_sys::{Headers, Request, RequestInit, Response, ResponseInit};

use crate::platform::Namespace;
use crate::{response, settings};

#[wasm_bindgen]
pub struct Router {
    env: JsValue,
    streams: Namespace,
}

#[wasm_bindgen]
impl Router {
    /// # Errors
    /// When the streams' namespace is not bound.
    #[wasm_bindgen(constructor)]
    pub fn new(env: JsValue) -> Result<Self, JsValue> {
        let streams = Reflect::get(&env, &"STREAMS".into())?.unchecked_into();
        Ok(Self { env, streams })
    }

    /// The response to a request, or the promise of one by the stream's object.
    ///
    /// # Errors
    /// When the platform fails in making a response or in reaching the object.
    pub fn fetch(&self, request: &Request) -> Result<JsValue, JsValue> {
        let (method, url, headers) = (request.method(), request.url(), request.headers());
        let header = |name: &str| headers.get(name).ok().flatten();
        let head = Head {
            method: &method,
            url: &url,
            header: &header,
        };
        let route = settings(&self.env, |settings| match settings {
            Ok(settings) => edge::route(head, settings),
            Err(bad) => Route::Answered(Answer::internal(bad)),
        });
        match route {
            Route::Answered(answer) => response::plain(&answer).map(JsValue::from),
            Route::Stream(to_stream) => {
                let changed = changed_request(request, &headers, &to_stream)?;
                // A new stub each time, for one that has failed stays broken.
                let stub = self.streams.by_name(&to_stream.name)?;
                stub.fetch(changed.as_ref().unwrap_or(request)).map(JsValue::from)
            }
        }
    }

    /// A response in which the object says how long it took, with what the router saw of it.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn timed(&self, response: &Response, took_ms: f64) -> Result<Response, JsValue> {
        let headers = Headers::new_with_headers(&response.headers())?;
        headers.append("Server-Timing", &format!("edge;dur={took_ms}"))?;
        let init = ResponseInit::new();
        init.set_status(response.status());
        init.set_headers(&headers);
        Response::new_with_opt_readable_stream_and_init(response.body().as_ref(), &init)
    }
}

/// The request as the object is to see it, when that is not as it came: with the offer of a line, and with the cache mode
/// that holds, whatever the client says of it.
fn changed_request(
    request: &Request,
    headers: &Headers,
    to_stream: &ToStream,
) -> Result<Option<Request>, JsValue> {
    let named = headers.has(header::CACHE_MODE)?;
    if !to_stream.live && !named && to_stream.cache_mode == CacheMode::default() {
        return Ok(None);
    }
    let headers = Headers::new_with_headers(headers)?;
    headers.set(header::CACHE_MODE, to_stream.cache_mode.name())?;
    if to_stream.live {
        headers.set("Upgrade", "websocket")?;
    }
    let init = RequestInit::new();
    init.set_headers(&headers);
    Request::new_with_request_and_init(request, &init).map(Some)
}
