//! Bodies that are partly in R2 or have several pages. `js/pages.mjs` fetches what they need and
//! streams them.

use js_sys::Uint8Array;
use machine::{Answer, BodyWriter, CorruptionError, Fetch, Rest};
use wasm_bindgen::prelude::*;
use web_sys::{ReadableStream, Response};

use crate::effects::object;
use crate::response;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** The outcome of one step of a page. */
export interface PageStep {
  /** Bytes for the client. */
  bytes: Uint8Array;
  /** The range to fetch next. Absent when the page is complete. */
  fetch?: { key: string; offset: number; length: number };
  /** Why the page cannot be made, in one line. */
  error?: string;
}
"#;

/// A response whose body is partly in the cold tier, or has several pages.
#[wasm_bindgen]
pub struct Pages {
    answer: Answer,
    /// The writer of the current page.
    rendering: BodyWriter,
}

impl Pages {
    pub(crate) const fn new(answer: Answer, rendering: BodyWriter) -> Self {
        Self { answer, rendering }
    }

    pub(crate) const fn rest(&self) -> Option<Rest> {
        self.rendering.rest()
    }

    /// Begins the next page.
    pub(crate) fn turn_to(&mut self, rendering: BodyWriter) {
        self.rendering = rendering;
    }
}

fn step(bytes: &[u8], outcome: Result<Option<Fetch>, CorruptionError>) -> Result<JsValue, JsValue> {
    let bytes = ("bytes", Uint8Array::from(bytes).into());
    match outcome {
        Ok(None) => object(&[bytes]),
        Ok(Some(fetch)) => {
            let fetch = object(&[
                ("key", fetch.key.into()),
                ("offset", JsValue::from_f64(fetch.offset as f64)),
                ("length", JsValue::from_f64(fetch.length as f64)),
            ]);
            object(&[bytes, ("fetch", fetch?)])
        }
        Err(damaged) => object(&[bytes, ("error", damaged.to_string().into())]),
    }
}

#[wasm_bindgen]
impl Pages {
    /// Advances to the next range to fetch, or to the end of the page.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(unchecked_return_type = "PageStep")]
    pub fn advance(&mut self) -> Result<JsValue, JsValue> {
        let mut bytes = Vec::new();
        let outcome = self.rendering.advance(&mut bytes);
        step(&bytes, outcome)
    }

    /// Accepts a piece of the range.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(unchecked_return_type = "PageStep")]
    pub fn push(&mut self, piece: &[u8]) -> Result<JsValue, JsValue> {
        let mut bytes = Vec::new();
        let outcome = self.rendering.push(piece, &mut bytes);
        step(&bytes, outcome.map(|()| None))
    }

    /// Finishes the range.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(unchecked_return_type = "PageStep")]
    pub fn fetched(&mut self) -> Result<JsValue, JsValue> {
        step(&[], self.rendering.fetched().map(|()| None))
    }

    /// Reports that the object does not exist. Returns, in one line, why the page cannot be made.
    #[must_use]
    pub fn missing(&self) -> String {
        self.rendering.missing().to_string()
    }

    /// Returns whether another page follows.
    #[wasm_bindgen(getter, js_name = hasRest)]
    #[must_use]
    pub fn has_rest(&self) -> bool {
        self.rendering.rest().is_some()
    }

    /// Returns the response, whose body is the stream of bytes that the entry sends.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn response(&self, body: &ReadableStream) -> Result<Response, JsValue> {
        response::with_cors(response::streamed(&self.answer, body)?)
    }

    /// Frees it.
    pub fn release(self) {}
}
