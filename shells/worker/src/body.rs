//! Reading a request's body, no further than it may be long.

use bytes::Bytes;
use js_sys::{Reflect, Uint8Array};
use machine::wire::request::AwaitsBody;
use machine::{Call, Refusal};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{ReadableStreamDefaultReader, Request};

pub(crate) enum Failure {
    Refused(Refusal),
    /// The client left in the middle of it.
    Broken(JsValue),
}

impl From<JsValue> for Failure {
    fn from(error: JsValue) -> Self {
        Self::Broken(error)
    }
}

/// The call with its body.
pub(crate) async fn read(request: &Request, awaits: AwaitsBody) -> Result<Call, Failure> {
    let body = match request.body() {
        None => Bytes::new(),
        // Bounded already, for more than was announced does not come.
        Some(_) if request.headers().has("Content-Length")? => {
            let buffer = JsFuture::from(request.array_buffer()?).await?;
            Uint8Array::new(&buffer).to_vec().into()
        }
        Some(stream) => {
            let reader: ReadableStreamDefaultReader = stream.get_reader().unchecked_into();
            let mut body = Vec::new();
            loop {
                let chunk = JsFuture::from(reader.read()).await?;
                if Reflect::get(&chunk, &"done".into())?.is_truthy() {
                    break body.into();
                }
                let chunk: Uint8Array = Reflect::get(&chunk, &"value".into())?.unchecked_into();
                let end = body.len();
                if (end as u64).saturating_add(u64::from(chunk.length())) > awaits.bytes_max {
                    // Whether the rest is still sent is up to the client.
                    drop(reader.cancel());
                    return Err(Failure::Refused(awaits.too_large()));
                }
                body.resize(end + chunk.length() as usize, 0);
                chunk.copy_to(&mut body[end..]);
            }
        }
    };
    awaits.with_body(body).map_err(Failure::Refused)
}
