//! Requests whose append waits for a commit.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use js_sys::{Function, Promise};
use machine::{AppendQueue, CallId, Input, Limits, Turn};
use wasm_bindgen::JsValue;
use web_sys::Response;

use crate::incoming::Room;

/// The object's queue of appends, and the promises of those that wait.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) queue: RefCell<AppendQueue>,
    requests: RefCell<BTreeMap<CallId, WaitingRequest>>,
    /// Commits that the entry has not asked about yet.
    commits: Cell<u32>,
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

    /// Notes the end of a turn with appends. Its writes are applied, and not durable yet.
    pub(crate) fn turn_ended(&self, turn: &mut Turn) {
        if !turn.writes.is_empty() {
            self.commits.set(self.commits.get() + 1);
        }
        self.queue.borrow_mut().turn_ended(turn);
    }

    /// Returns how many commits have begun since this was last asked.
    pub(crate) fn take_commits(&self) -> u32 {
        self.commits.take()
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
