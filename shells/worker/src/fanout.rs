//! The consumer of the fan-out queue. `js/fanout.mjs` receives its messages, and calls the code in
//! here in between.

use std::cell::RefCell;
use std::rc::Rc;

use machine::CallOutcome;
use machine::fanout::{Delivery, Next};
use machine::router::Settings;
use wasm_bindgen::prelude::*;

use crate::effects::{call_members, object};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** What the consumer of the fan-out queue does next with a message. */
export type Next =
  | ({ kind: "call"; timeMs: number } & Call)
  | { kind: "acknowledge" }
  | { kind: "retry"; afterSeconds: number };
"#;

/// A message of the fan-out queue that is being handled.
#[wasm_bindgen]
pub struct QueuedDelivery {
    settings: Rc<Settings>,
    body: String,
    attempts: u64,
    delivery: RefCell<Option<Delivery>>,
}

impl QueuedDelivery {
    pub(crate) const fn new(settings: Rc<Settings>, body: String, attempts: u64) -> Self {
        Self {
            settings,
            body,
            attempts,
            delivery: RefCell::new(None),
        }
    }
}

#[wasm_bindgen]
impl QueuedDelivery {
    /// Says what comes first.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(unchecked_return_type = "Next")]
    pub fn begin(&self) -> Result<JsValue, JsValue> {
        let (delivery, next) = Delivery::begin(&self.body, self.attempts, &self.settings.limits);
        self.delivery.replace(Some(delivery));
        described(&next)
    }

    /// Says what comes next after a call: the status of its answer, or `None` without one, and the
    /// body.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(unchecked_return_type = "Next")]
    pub fn called(&self, status: Option<u16>, body: Vec<u8>) -> Result<JsValue, JsValue> {
        let body = body.into();
        let answered = |status| CallOutcome::Answered { status, body };
        let outcome = status.map_or(CallOutcome::Failed, answered);
        let mut delivery = self.delivery.borrow_mut();
        let delivery = delivery.as_mut().expect("a call follows the beginning");
        described(&delivery.called(&outcome, &self.settings.limits))
    }

    /// Frees it.
    pub fn release(self) {}
}

fn described(next: &Next) -> Result<JsValue, JsValue> {
    match next {
        Next::Call {
            to,
            request,
            time_ms,
        } => {
            let [to, url, method, headers, body] = call_members(to, request);
            object(&[
                ("kind", "call".into()),
                ("timeMs", (*time_ms as f64).into()),
                to,
                url,
                method,
                headers,
                body,
            ])
        }
        Next::Acknowledge => object(&[("kind", "acknowledge".into())]),
        Next::Retry { after_seconds } => object(&[
            ("kind", "retry".into()),
            ("afterSeconds", (*after_seconds as f64).into()),
        ]),
    }
}
