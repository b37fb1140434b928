//! The Worker: from a request to its stream's object.

use js_sys::{Date, Reflect};
use machine::edge::{self, Route, ToStream};
use machine::wire::{CacheMode, header, request::Head};
use machine::{Answer, Limits};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, Request, RequestInit, Response, ResponseInit};
use worker::{Context, Env, event};

use crate::platform::{Namespace, log_error};
use crate::{response, settings};

#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> worker::Result<Response> {
    handle(&request, env.as_ref()).await.map_err(worker::Error::from)
}

async fn handle(request: &Request, env: &JsValue) -> Result<Response, JsValue> {
    let headers = request.headers();
    let header = |name: &str| headers.get(name).ok().flatten();
    let head = Head {
        method: &request.method(),
        url: &request.url(),
        header: &header,
    };
    let route = settings(env, |settings| match settings {
        Ok(settings) => edge::route(head, settings),
        Err(bad) => Route::Answered(Answer::internal(bad)),
    });
    match route {
        Route::Answered(answer) => response::plain(&answer),
        Route::Stream(to_stream) => forward(request, &headers, &to_stream, env).await,
    }
}

async fn forward(
    request: &Request,
    headers: &Headers,
    to_stream: &ToStream,
    env: &JsValue,
) -> Result<Response, JsValue> {
    let began = Date::now();
    let streams: Namespace = Reflect::get(env, &"STREAMS".into())?.unchecked_into();
    // A new stub each time, for one that has failed stays broken.
    let stub = streams.by_name(&to_stream.name)?;
    let changed = changed_request(request, headers, to_stream)?;
    let answered = match stub.fetch(changed.as_ref().unwrap_or(request)) {
        Ok(promise) => JsFuture::from(promise).await,
        Err(error) => Err(error),
    };
    let response: Response = match answered {
        Ok(response) => response.unchecked_into(),
        Err(error) => {
            log_error("the stream's object failed", &error);
            let unavailable = |limits: &Limits| response::plain(&Answer::unavailable(limits));
            return settings(env, |settings| match settings {
                Ok(settings) => unavailable(&settings.limits),
                Err(_) => unavailable(&Limits::DEFAULT),
            });
        }
    };
    if to_stream.timing && !to_stream.live {
        timed(&response, Date::now() - began)
    } else {
        Ok(response)
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

/// The same response with what the object took, as the router saw it and as the object said.
fn timed(response: &Response, object_ms: f64) -> Result<Response, JsValue> {
    let headers = Headers::new_with_headers(&response.headers())?;
    headers.append(
        "Server-Timing",
        &format!("edge;desc=\"router to object and back\";dur={object_ms}"),
    )?;
    let init = ResponseInit::new();
    init.set_status(response.status());
    init.set_headers(&headers);
    Response::new_with_opt_readable_stream_and_init(response.body().as_ref(), &init)
}
