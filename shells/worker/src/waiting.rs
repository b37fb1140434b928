//! Requests whose append waits for a commit.

use std::cell::RefCell;
use std::collections::BTreeMap;

use js_sys::{Function, Promise};
use machine::{AppendQueue, CallId, Input, Limits};
use wasm_bindgen::JsValue;
use web_sys::Response;

use crate::incoming::Room;

/// The object's queue of appends, and the promises of those that wait.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) queue: RefCell<AppendQueue>,
    requests: RefCell<BTreeMap<CallId, WaitingRequest>>,
}

struct WaitingRequest {
    resolve: Function,
    /// When the request came, if its client wants to know how long it took.
    began: Option<f64>,
    /// Counts its body for as long as it waits.
    _room: Option<Room>,
}

impl Waiting {
    /// Returns the promise of the response of a call that waits.
    pub(crate) fn promise(&self, id: CallId, began: Option<f64>, room: Room) -> Promise {
        let mut room = Some(room);
        Promise::new(&mut |resolve, _reject| {
            let request = WaitingRequest {
                resolve,
                began,
                _room: room.take(),
            };
            self.requests.borrow_mut().insert(id, request);
        })
    }

    /// Answers a call that has waited. `response` makes the response, given when the request came.
    /// Returns whether there is such a call.
    pub(crate) fn answer(
        &self,
        id: CallId,
        response: impl FnOnce(Option<f64>) -> Result<Response, JsValue>,
    ) -> Result<bool, JsValue> {
        let Some(request) = self.requests.borrow_mut().remove(&id) else {
            return Ok(false);
        };
        let response = response(request.began)?;
        request.resolve.call1(&JsValue::UNDEFINED, &response)?;
        Ok(true)
    }

    /// Notes that commits have ended.
    pub(crate) fn commits_ended(&self, commits: u32) {
        for _ in 0..commits {
            self.queue.borrow_mut().commit_ended();
        }
    }

    /// Returns the appends of the next turn, if there is one now.
    pub(crate) fn next(&self, limits: &Limits) -> Option<Input> {
        self.queue.borrow_mut().next(limits)
    }
}
