//! Effects that take time: puts and deletions in R2, requests to other objects, messages for the
//! fan-out queue, and statements for the admin index. `js/effects.mjs` runs them, and calls the
//! code in here in between.

use std::cell::{Cell, RefCell};

use js_sys::{Array, Object, Reflect, Uint8Array};
use machine::outbox::{self, Request, Statement, Value};
use machine::segment::{Encoder, Put, Receipt};
use machine::{CorruptionError, EffectId, Webhook};
use wasm_bindgen::prelude::*;

use crate::storage::Storage;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** A request to another object. */
export interface Call {
  to: string;
  url: string;
  method: string;
  headers: [string, string][];
  body: Uint8Array | null;
}

/** What `js/effects.mjs` is to run. */
export type Effect =
  | { kind: "put"; put: PutJob }
  | { kind: "collect"; id: number; keys: string[] }
  | ({ kind: "call"; id: number } & Call)
  | {
      kind: "webhook";
      id: number;
      url: string;
      headers: [string, string][];
      body: string;
      timeMs: number;
      answerBytesMax: number;
    }
  | { kind: "enqueue"; id: number; messages: string[] }
  | { kind: "index"; id: number; statements: { sql: string; values: (string | number | null)[] }[] };
"#;

/// A put that is under way.
#[wasm_bindgen]
pub struct PutJob {
    pub(crate) put: Put,
    encoder: RefCell<Option<Encoder>>,
    has_begun: Cell<bool>,
    receipt: RefCell<Option<Receipt>>,
}

impl PutJob {
    const fn new(put: Put) -> Self {
        Self {
            put,
            encoder: RefCell::new(None),
            has_begun: Cell::new(false),
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

    /// Returns the object's next piece: its head, its rows or its end.
    pub(crate) fn piece(&self, storage: &Storage) -> Result<Option<Uint8Array>, JsValue> {
        let Some(mut encoder) = self.encoder.take() else {
            return Ok(None);
        };
        let piece = if !self.has_begun.replace(true) {
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

    /// Returns the receipt of a put that is known to have succeeded.
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

    /// Frees it.
    pub fn release(self) {}
}

fn described(damaged: CorruptionError) -> JsValue {
    damaged.to_string().into()
}

pub(crate) fn put(put: Put) -> Result<JsValue, JsValue> {
    object(&[("kind", "put".into()), ("put", PutJob::new(put).into())])
}

pub(crate) fn collect(effect: EffectId, keys: &[String]) -> Result<JsValue, JsValue> {
    let keys: Array = keys.iter().map(JsValue::from).collect();
    object(&[
        ("kind", "collect".into()),
        ("id", effect_number(effect)),
        ("keys", keys.into()),
    ])
}

pub(crate) fn call(effect: EffectId, to: &str, request: &Request) -> Result<JsValue, JsValue> {
    let [to, url, method, headers, body] = call_members(to, request);
    object(&[
        ("kind", "call".into()),
        ("id", effect_number(effect)),
        to,
        url,
        method,
        headers,
        body,
    ])
}

/// Returns the members of a request to another object.
pub(crate) fn call_members(to: &str, request: &Request) -> [(&'static str, JsValue); 5] {
    let pair = |(name, value): &(String, String)| Array::of2(&name.into(), &value.into());
    let headers: Array = request.headers.iter().map(pair).collect();
    // A request without a body has none at all.
    let body = if request.body.is_empty() {
        JsValue::NULL
    } else {
        request.body.as_str().into()
    };
    [
        ("to", to.into()),
        ("url", outbox::url(to).into()),
        ("method", request.method.as_str().into()),
        ("headers", headers.into()),
        ("body", body),
    ]
}

pub(crate) fn webhook(effect: EffectId, webhook: &Webhook) -> Result<JsValue, JsValue> {
    let pair = |(name, value): &(&str, String)| Array::of2(&(*name).into(), &value.into());
    let headers: Array = webhook.headers.iter().map(pair).collect();
    object(&[
        ("kind", "webhook".into()),
        ("id", effect_number(effect)),
        ("url", webhook.url.as_str().into()),
        ("headers", headers.into()),
        ("body", webhook.body.as_str().into()),
        ("timeMs", (webhook.time_ms as f64).into()),
        ("answerBytesMax", (webhook.answer_bytes_max as f64).into()),
    ])
}

pub(crate) fn enqueue(effect: EffectId, messages: &[String]) -> Result<JsValue, JsValue> {
    let messages: Array = messages.iter().map(JsValue::from).collect();
    object(&[
        ("kind", "enqueue".into()),
        ("id", effect_number(effect)),
        ("messages", messages.into()),
    ])
}

pub(crate) fn index(effect: EffectId, statements: &[Statement]) -> Result<JsValue, JsValue> {
    let statements = statements.iter().map(|each| {
        let (sql, values) = statement(each);
        object(&[("sql", sql), ("values", values)])
    });
    let statements = statements.collect::<Result<Array, JsValue>>()?;
    object(&[
        ("kind", "index".into()),
        ("id", effect_number(effect)),
        ("statements", statements.into()),
    ])
}

/// Returns the text of a statement, and its values.
pub(crate) fn statement(statement: &Statement) -> (JsValue, JsValue) {
    let values = statement.values.iter().map(|value| match value {
        Value::Null => JsValue::NULL,
        // Below 2^53.
        Value::Integer(integer) => JsValue::from_f64(*integer as f64),
        Value::Text(text) => text.into(),
    });
    let values: Array = values.collect();
    (statement.sql.into(), values.into())
}

fn effect_number(effect: EffectId) -> JsValue {
    JsValue::from_f64(effect.0 as f64)
}

pub(crate) fn object(fields: &[(&str, JsValue)]) -> Result<JsValue, JsValue> {
    let object = Object::new();
    for (name, value) in fields {
        Reflect::set(&object, &(*name).into(), value)?;
    }
    Ok(object.into())
}
