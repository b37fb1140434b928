//! Requests that a later turn answers.

use std::cell::RefCell;
use std::collections::BTreeMap;

use js_sys::{Function, Promise};
use machine::{AppendQueue, CallId, Input, Limits};
use wasm_bindgen::JsValue;
use web_sys::Response;

use crate::incoming::Room;
use crate::response::with_cors;

/// The object's queue of appends, and the promises of the requests that wait.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) queue: RefCell<AppendQueue>,
    requests: RefCell<BTreeMap<CallId, WaitingRequest>>,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Its append waits in the queue.
    Append,
    /// Its call has run, and waits for another object.
    Held,
}

struct WaitingRequest {
    resolve: Function,
    reason: Reason,
    /// When the request came, if its client wants to know how long it took.
    began: Option<f64>,
    /// Counts its body for as long as it waits.
    _room: Option<Room>,
}

impl Waiting {
    /// Returns the promise of the response of an append that waits in the queue.
    pub(crate) fn append(&self, id: CallId, began: Option<f64>, room: Room) -> Promise {
        self.promise(id, Reason::Append, began, room)
    }

    /// Returns the promise of the response of a call that has run without an answer.
    pub(crate) fn hold(&self, id: CallId, began: Option<f64>, room: Room) -> Promise {
        self.promise(id, Reason::Held, began, room)
    }

    fn promise(&self, id: CallId, reason: Reason, began: Option<f64>, room: Room) -> Promise {
        let mut room = Some(room);
        Promise::new(&mut |resolve, _reject| {
            let request = WaitingRequest {
                resolve,
                reason,
                began,
                _room: room.take(),
            };
            self.requests.borrow_mut().insert(id, request);
        })
    }

    /// Answers a call that has waited. `response` gets the time at which the request came, and
    /// returns the response. Returns whether there is such a call.
    pub(crate) fn answer(
        &self,
        id: CallId,
        response: impl FnOnce(Option<f64>) -> Result<Response, JsValue>,
    ) -> Result<bool, JsValue> {
        let Some(request) = self.requests.borrow_mut().remove(&id) else {
            return Ok(false);
        };
        let mut response = response(request.began)?;
        if request.reason == Reason::Held {
            response = with_cors(response)?;
        }
        request.resolve.call1(&JsValue::UNDEFINED, &response)?;
        Ok(true)
    }

    /// Answers all calls that have run without an answer.
    pub(crate) fn fail_held(
        &self,
        response: impl Fn() -> Result<Response, JsValue>,
    ) -> Result<(), JsValue> {
        let requests = self.requests.borrow();
        let held = requests.iter();
        let held = held.filter(|(_, request)| request.reason == Reason::Held);
        let held: Vec<_> = held.map(|(id, _)| *id).collect();
        drop(requests);
        for id in held {
            self.answer(id, |_| response())?;
        }
        Ok(())
    }

    /// Notes that commits have ended. Returns whether they were in flight.
    pub(crate) fn commits_ended(&self, commits: u32) -> bool {
        let mut queue = self.queue.borrow_mut();
        let are_in_flight = queue.commits_in_flight() >= u64::from(commits);
        if are_in_flight {
            for _ in 0..commits {
                queue.commit_ended();
            }
        }
        are_in_flight
    }

    /// Returns the appends of the next turn, if there is one now.
    pub(crate) fn next(&self, limits: &Limits) -> Option<Input> {
        self.queue.borrow_mut().next(limits)
    }
}
