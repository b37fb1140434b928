//! What has to be waited for: puts and deletions in the cold tier, messages to the registry and the
//! index, and bodies that are partly cold or have several pages. The waiting is done by `entry.mjs`
//! and `cold.mjs`; the code in here is called in between.

use std::cell::RefCell;

use js_sys::{Array, Object, Reflect, Uint8Array};
use machine::message::Value;
use machine::plan::{BodyWriter, CorruptionError, Rest};
use machine::segment::{Encoder, Put, Receipt};
use machine::{Answer, EffectId, Limits, Message};
use wasm_bindgen::prelude::*;
use web_sys::{ReadableStream, Response};

use crate::response;
use crate::storage::Storage;

/// A put that is under way.
#[wasm_bindgen]
pub struct PutJob {
    pub(crate) put: Put,
    encoder: RefCell<Option<Encoder>>,
    receipt: RefCell<Option<Receipt>>,
}

impl PutJob {
    pub(crate) const fn new(put: Put) -> Self {
        Self {
            put,
            encoder: RefCell::new(None),
            receipt: RefCell::new(None),
        }
    }

    pub(crate) fn begin(&self, storage: &Storage) -> Result<f64, JsValue> {
        let encoder = self
            .put
            .begin(storage)
            .map_err(|unreadable| JsValue::from(unreadable.to_string()))?;
        let length = encoder.length();
        self.encoder.replace(Some(encoder));
        Ok(length as f64)
    }

    /// The object's next piece: its head, its rows, its end.
    pub(crate) fn piece(
        &self,
        storage: &Storage,
        is_first: bool,
    ) -> Result<Option<Uint8Array>, JsValue> {
        let Some(mut encoder) = self.encoder.take() else {
            return Ok(None);
        };
        let piece = if is_first {
            encoder.head().to_vec()
        } else if let Some(span) = encoder.next_span() {
            encoder.push(storage.frames(span)?).map_err(described)?
        } else {
            let (end, receipt) = encoder.finish().map_err(described)?;
            self.receipt.replace(Some(receipt));
            return Ok(Some(Uint8Array::from(end.as_slice())));
        };
        self.encoder.replace(Some(encoder));
        Ok(Some(Uint8Array::from(piece.as_slice())))
    }

    /// Of a put that is known to have succeeded.
    pub(crate) fn receipt(&self) -> Option<Receipt> {
        self.receipt.take()
    }
}

#[wasm_bindgen]
impl PutJob {
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn key(&self) -> String {
        self.put.key.clone()
    }
}

fn described(damaged: CorruptionError) -> JsValue {
    damaged.to_string().into()
}

/// What `entry.mjs` is to do, by its kind.
pub(crate) fn put(put: Put) -> Result<JsValue, JsValue> {
    job("put", &[("put", PutJob::new(put).into())])
}

pub(crate) fn collect(effect: EffectId, keys: &[String]) -> Result<JsValue, JsValue> {
    let keys: Array = keys.iter().map(JsValue::from).collect();
    job(
        "collect",
        &[("flight", flight_number(effect)), ("keys", keys.into())],
    )
}

pub(crate) fn send(effect: EffectId, message: &Message) -> Result<JsValue, JsValue> {
    match message {
        Message::Registry(request) => {
            let pair = |(name, value): &(&str, String)| Array::of2(&(*name).into(), &value.into());
            let headers: Array = request.headers.iter().map(pair).collect();
            // A request without a body has none at all.
            let body = if request.body.is_empty() {
                JsValue::NULL
            } else {
                Uint8Array::from(request.body.as_slice()).into()
            };
            job(
                "registry",
                &[
                    ("flight", flight_number(effect)),
                    ("name", request.stream.as_str().into()),
                    ("path", machine::router::STREAM_PREFIX.into()),
                    ("method", request.method.into()),
                    ("headers", headers.into()),
                    ("body", body),
                ],
            )
        }
        Message::Index(statements) => {
            let statements = statements.iter().map(|statement| {
                let values = statement.values.iter().map(|value| match value {
                    // Below 2^53.
                    Value::Integer(integer) => JsValue::from_f64(*integer as f64),
                    Value::Text(text) => text.into(),
                });
                job(
                    "statement",
                    &[
                        ("sql", statement.sql.into()),
                        ("values", values.collect::<Array>().into()),
                    ],
                )
            });
            let statements = statements.collect::<Result<Array, JsValue>>()?;
            job(
                "index",
                &[
                    ("flight", flight_number(effect)),
                    ("statements", statements.into()),
                ],
            )
        }
    }
}

fn flight_number(effect: EffectId) -> JsValue {
    JsValue::from_f64(effect.0 as f64)
}

fn job(kind: &str, fields: &[(&str, JsValue)]) -> Result<JsValue, JsValue> {
    let job = Object::new();
    Reflect::set(&job, &"kind".into(), &kind.into())?;
    for (name, value) in fields {
        Reflect::set(&job, &(*name).into(), value)?;
    }
    Ok(job.into())
}

/// A response whose body is partly in the cold tier, or has several pages.
#[wasm_bindgen]
pub struct Pages {
    answer: Answer,
    /// Of the present page.
    rendering: BodyWriter,
    written: Vec<u8>,
    damaged: Option<CorruptionError>,
    unavailable: Answer,
}

impl Pages {
    pub(crate) fn new(answer: Answer, rendering: BodyWriter, limits: &Limits) -> Self {
        Self {
            answer,
            rendering,
            written: Vec::new(),
            damaged: None,
            unavailable: Answer::unavailable(limits),
        }
    }

    pub(crate) const fn rest(&self) -> Option<Rest> {
        self.rendering.rest()
    }

    /// The next page has come.
    pub(crate) fn turn_to(&mut self, rendering: BodyWriter) {
        self.rendering = rendering;
    }

    fn noted<T: Default>(&mut self, outcome: Result<T, CorruptionError>) -> T {
        outcome.unwrap_or_else(|damaged| {
            self.damaged.get_or_insert(damaged);
            T::default()
        })
    }
}

#[wasm_bindgen]
impl Pages {
    /// What is to be fetched next; nothing when the present page is whole, or damaged.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    pub fn advance(&mut self) -> Result<JsValue, JsValue> {
        let mut written = core::mem::take(&mut self.written);
        let advanced = self.rendering.advance(&mut written);
        self.written = written;
        match self.noted(advanced) {
            None => Ok(JsValue::UNDEFINED),
            Some(fetch) => job(
                "fetch",
                &[
                    ("key", fetch.key.into()),
                    ("offset", JsValue::from_f64(fetch.offset as f64)),
                    ("length", JsValue::from_f64(fetch.length as f64)),
                ],
            ),
        }
    }

    /// A piece of what is fetched.
    pub fn push(&mut self, piece: &[u8]) {
        let mut written = core::mem::take(&mut self.written);
        let pushed = self.rendering.push(piece, &mut written);
        self.written = written;
        self.noted(pushed);
    }

    /// All of it has come.
    pub fn fetched(&mut self) {
        let fetched = self.rendering.fetched();
        self.noted(fetched);
    }

    /// There is no such object.
    pub fn missing(&mut self) {
        let missing = self.rendering.missing();
        self.noted::<()>(Err(missing));
    }

    /// Whether the body goes on after the present page.
    #[wasm_bindgen(getter, js_name = hasRest)]
    #[must_use]
    pub fn has_rest(&self) -> bool {
        self.rendering.rest().is_some()
    }

    /// What can be sent on.
    pub fn take(&mut self) -> Uint8Array {
        let written = Uint8Array::from(self.written.as_slice());
        self.written.clear();
        written
    }

    /// In one line, why the page cannot be made.
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn damaged(&self) -> Option<String> {
        self.damaged.map(|damaged| damaged.to_string())
    }

    /// The response, whose body is what is sent on.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn response(&self, body: &ReadableStream) -> Result<Response, JsValue> {
        response::streamed(&self.answer, body)
    }

    /// The response when nothing can be sent on: the page is damaged, or the cold tier does not
    /// answer.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn failure(&self) -> Result<Response, JsValue> {
        match self.damaged {
            Some(damaged) => response::plain(&Answer::internal(&damaged.to_string())),
            None => response::plain(&self.unavailable),
        }
    }
}
