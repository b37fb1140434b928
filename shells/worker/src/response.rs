//! Answers as the platform's responses.

use js_sys::{Object, Reflect, Uint8Array};
use machine::wire::COMMON_HEADERS;
use machine::{Answer, Body};
use wasm_bindgen::JsValue;
use web_sys::{ReadableStream, Response, ResponseInit};

use crate::constant_cors_headers;
use crate::platform::Socket;

/// Returns a response with this body and the headers of the answer.
pub(crate) fn response(answer: &Answer, body: Option<&[u8]>) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(answer.status);
    init.set_headers(&headers(answer)?);
    let body = body.map(|body| Object::from(Uint8Array::from(body)));
    Response::new_with_opt_buffer_source_and_init(body.as_ref(), &init)
}

/// Returns a response whose body needs no rows.
pub(crate) fn plain(answer: &Answer) -> Result<Response, JsValue> {
    match &answer.body {
        Body::Bytes(bytes) => response(answer, Some(bytes)),
        Body::Empty | Body::Plan(_) => response(answer, None),
    }
}

/// Adds the CORS headers that the answers to all methods but POST have, if they do not depend on
/// the origin.
pub(crate) fn with_cors(response: Response) -> Result<Response, JsValue> {
    let headers = response.headers();
    for (name, value) in constant_cors_headers("GET") {
        headers.set(name, &value)?;
    }
    Ok(response)
}

/// Returns a response whose body is sent piece by piece.
pub(crate) fn streamed(answer: &Answer, body: &ReadableStream) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(answer.status);
    init.set_headers(&headers(answer)?);
    Response::new_with_opt_readable_stream_and_init(Some(body), &init)
}

/// Returns the response that hands a WebSocket to its reader, with the headers of the answer.
pub(crate) fn upgrade(answer: &Answer, socket: &Socket) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(101);
    init.set_headers(&headers(answer)?);
    Reflect::set(&init, &"webSocket".into(), socket)?;
    Response::new_with_opt_str_and_init(None, &init)
}

/// Returns the headers as a plain object, which the platform reads faster than it copies `Headers`.
fn headers(answer: &Answer) -> Result<JsValue, JsValue> {
    thread_local! {
        static COMMON: Object = common_headers();
    }
    let headers = COMMON.with(|common| Object::assign(&Object::new(), common));
    for (name, value) in answer.own_headers() {
        Reflect::set(&headers, &name.into(), &value.into())?;
    }
    Ok(headers.into())
}

fn common_headers() -> Object {
    let common = COMMON_HEADERS.map(|(name, value)| (name, value.into()));
    let headers = Object::new();
    for (name, value) in common.into_iter().chain(constant_cors_headers("POST")) {
        let set = Reflect::set(&headers, &name.into(), &value.as_ref().into());
        set.expect("a new object takes every property");
    }
    headers
}
