//! Answers as the platform's responses.

use js_sys::{Reflect, Uint8Array};
use machine::wire::COMMON_HEADERS;
use machine::{Answer, Body};
use wasm_bindgen::JsValue;
use web_sys::{Headers, ReadableStream, Response, ResponseInit};

use crate::platform::Socket;

/// Returns a response with this body and the headers of the answer.
pub(crate) fn response(answer: &Answer, body: Option<&[u8]>) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(answer.status);
    init.set_headers(headers(answer)?.as_ref());
    let body = body.map(|body| js_sys::Object::from(Uint8Array::from(body)));
    Response::new_with_opt_buffer_source_and_init(body.as_ref(), &init)
}

/// Returns a response whose body needs no rows.
pub(crate) fn plain(answer: &Answer) -> Result<Response, JsValue> {
    match &answer.body {
        Body::Bytes(bytes) => response(answer, Some(bytes)),
        Body::Empty | Body::Plan(_) => response(answer, None),
    }
}

/// Returns a response whose body is sent piece by piece.
pub(crate) fn streamed(answer: &Answer, body: &ReadableStream) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(answer.status);
    init.set_headers(headers(answer)?.as_ref());
    Response::new_with_opt_readable_stream_and_init(Some(body), &init)
}

/// Returns the response that hands a WebSocket to its reader, with the headers of the answer.
pub(crate) fn upgrade(answer: &Answer, socket: &Socket) -> Result<Response, JsValue> {
    let init = ResponseInit::new();
    init.set_status(101);
    init.set_headers(headers(answer)?.as_ref());
    Reflect::set(&init, &"webSocket".into(), socket)?;
    Response::new_with_opt_str_and_init(None, &init)
}

fn headers(answer: &Answer) -> Result<Headers, JsValue> {
    thread_local! {
        static COMMON: Headers = common_headers();
    }
    let headers = COMMON.with(Headers::new_with_headers)?;
    for (name, value) in answer.own_headers() {
        headers.set(name, value)?;
    }
    Ok(headers)
}

fn common_headers() -> Headers {
    let pairs = COMMON_HEADERS
        .iter()
        .map(|(name, value)| js_sys::Array::of2(&(*name).into(), &(*value).into()));
    // The names and values are constants that are valid in HTTP.
    Headers::new_with_str_sequence_sequence(&pairs.collect::<js_sys::Array>())
        .unwrap_or_else(|error| wasm_bindgen::throw_val(error))
}
