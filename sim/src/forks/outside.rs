//! What effects do outside of their object: calls, puts and deletions, and how they go wrong.

use std::collections::BTreeMap;

use bytes::Bytes;
use machine::rows::Incarnation;
use machine::segment::{Put, Receipt};
use machine::wire::request::{self, Parsed, RequestHead};
use machine::{
    Answer, Body, BodyWriter, Call, CallOutcome, Effect, EffectId, ForkCall, Input, MemoryRows,
    outbox,
};

use super::coverage::{Fault, Situation};
use super::world::{Caller, Event, Pending, Place, World};
use crate::cold_tier::{DeleteOutcome, Deletes, PutOutcome, Report};
use crate::oracles::Oracle;

/// The path of a name.
pub(super) fn path(name: &str) -> String {
    outbox::target(name)
}

impl World<'_, '_> {
    pub(super) fn carry_out(
        &mut self,
        at: &Place,
        effect: Effect,
        bodies: &mut BTreeMap<u64, BodyWriter>,
    ) {
        match effect {
            Effect::Answer { call, answer } => {
                let body = bodies.remove(&call.0);
                self.answered(call.0, answer, body);
            }
            Effect::Call {
                effect,
                to,
                request,
            } => self.call(at, effect, &to, &request),
            Effect::Put(put) => self.put(at, &put),
            Effect::Collect { effect, keys } => self.collect(at, effect, keys),
            Effect::Attach { .. }
            | Effect::Index { .. }
            | Effect::Enqueue { .. }
            | Effect::Webhook { .. } => {
                self.fail(Oracle::Contract, "no such effect", "one");
            }
        }
    }

    /// Hands an answer to whoever waits for it.
    fn answered(&mut self, call: u64, answer: Answer, body: Option<BodyWriter>) {
        let Some(pending) = self.calls.remove(&call) else {
            return;
        };
        match pending.caller {
            Caller::Client(_) | Caller::Reader => {
                if let Some(writer) = body {
                    let delay = self.network_delay();
                    let writer = Box::new(writer);
                    self.schedule(delay, Event::Page { call, writer });
                }
            }
            Caller::Object {
                place,
                effect,
                is_answered,
            } => {
                if !is_answered {
                    return;
                }
                let body = match answer.body {
                    Body::Bytes(bytes) => bytes.into(),
                    Body::Empty | Body::Plan(_) => Bytes::new(),
                };
                let outcome = CallOutcome::Answered {
                    status: answer.status,
                    body,
                };
                let mut delay = self.network_delay();
                if self.fault(Fault::Call) {
                    delay += self.late();
                }
                self.call_ended(delay, place, effect, outcome);
            }
        }
    }

    fn call_ended(&mut self, delay: u64, at: Place, effect: EffectId, outcome: CallOutcome) {
        let input = Input::CallFinished { effect, outcome };
        self.schedule(delay, Event::Ended { at, input });
    }

    /// Tells a caller that its call was lost with the object that had it.
    pub(super) fn lost(&mut self, caller: Caller) {
        match caller {
            Caller::Client(_) | Caller::Reader => {}
            Caller::Object {
                place,
                effect,
                is_answered,
            } => {
                if is_answered && !self.fault(Fault::Silence) {
                    let delay = self.network_delay();
                    self.call_ended(delay, place, effect, CallOutcome::Failed);
                }
            }
        }
    }

    fn call(&mut self, at: &Place, effect: EffectId, to: &str, request: &outbox::Request) {
        let header = |name: &str| {
            let mut headers = request.headers.iter();
            let found = headers.find(|(each, _)| each == name);
            found.map(|(_, value)| value.clone())
        };
        let target = path(to);
        let head = RequestHead {
            method: &request.method,
            origin: outbox::ORIGIN,
            target: &target,
            header: &header,
        };
        let Ok(Parsed::Whole(input)) = request::parse(head, &self.settings.limits) else {
            return self.fail(Oracle::Contract, "a call of a fork", format!("{request:?}"));
        };
        let is_release = request
            .headers
            .iter()
            .any(|(_, value)| value.contains("release"));
        if !is_release && let Some(object) = self.objects.get_mut(&at.name) {
            object.waits_for.insert(effect);
        }
        let (mut copies, mut is_late, mut is_answered, mut fails) = (1, false, true, false);
        if self.fault(Fault::Call) {
            match self.choices.upto(4) {
                0 => (copies, fails) = (0, true),
                1 => (is_answered, fails) = (false, true),
                2 => copies = 2,
                3 => (is_late, is_answered, fails) = (true, false, true),
                _ => (copies, is_late) = (2, true),
            }
        }
        if self.fault(Fault::Silence) {
            (is_answered, fails) = (false, false);
            copies = self.choices.upto(1);
        }
        for copy in 0..copies {
            let mut delay = self.network_delay();
            if is_late && (copies == 1 || copy > 0) {
                delay += self.late();
            }
            self.next_call += 1;
            let call = self.next_call;
            let caller = Caller::Object {
                place: at.clone(),
                effect,
                is_answered,
            };
            self.calls.insert(
                call,
                Pending {
                    caller,
                    holder: None,
                    arrived: 0,
                    arrived_at: 0,
                },
            );
            let (to, input) = (to.to_owned(), input.clone());
            self.schedule(delay, Event::Arrive { call, to, input });
        }
        if fails {
            let delay = self.network_delay();
            self.call_ended(delay, at.clone(), effect, CallOutcome::Failed);
        }
    }

    fn put(&mut self, at: &Place, put: &Put) {
        let Some(object) = self.objects.get(&at.name) else {
            return;
        };
        // The stream may have ended in a later turn. Then the rows are only in the durable state.
        let encoded = encode(put, &object.disk);
        let (bytes, receipt) = match encoded {
            Ok(encoded) => encoded,
            Err(reason) => return self.fail(Oracle::Storage, "rows of a segment", reason),
        };
        self.note("cold tier", || format!("{} puts {}", at.name, put.key));
        let outcome = if self.fault(Fault::Put) {
            self.choices.one_of(&PutOutcome::BAD)
        } else {
            PutOutcome::GOOD
        };
        let mut delay = self.network_delay();
        if outcome.is_late {
            let longest = put.time_ms.min(self.settings.late_ms);
            delay += self.choices.upto(longest);
        }
        if outcome.lands {
            let key = put.key.clone();
            let object = Bytes::from(bytes);
            self.schedule(delay, Event::Land { key, object });
        }
        let receipt = match outcome.report {
            Report::Truth => Some(receipt).filter(|_| outcome.lands),
            Report::Failure => None,
            Report::Never => return,
        };
        let delay = match outcome.report {
            Report::Truth => delay,
            Report::Failure | Report::Never => self.network_delay(),
        };
        let input = Input::PutFinished {
            id: put.id,
            receipt,
        };
        let at = at.clone();
        self.schedule(delay, Event::Ended { at, input });
    }

    pub(super) fn land(&mut self, key: String, object: Bytes) {
        self.note("cold tier", || format!("{key} is stored"));
        if self.cold.insert(key.clone(), object).is_some() {
            self.fail(Oracle::Keys, "a new key", key);
        }
    }

    fn collect(&mut self, at: &Place, effect: EffectId, keys: Vec<String>) {
        let outcome = if self.fault(Fault::Collect) {
            self.choices.one_of(&DeleteOutcome::BAD)
        } else {
            DeleteOutcome::GOOD
        };
        let keys = match outcome.deletes {
            Deletes::None => Vec::new(),
            Deletes::AllButLast => keys[..keys.len() - 1].to_vec(),
            Deletes::All => keys,
        };
        let mut delay = self.network_delay();
        if outcome.is_late {
            delay += self.late();
        }
        self.schedule(delay, Event::Delete { keys });
        let done = match outcome.report {
            Report::Truth => true,
            Report::Failure => false,
            Report::Never => return,
        };
        let input = Input::CollectFinished { effect, done };
        let at = at.clone();
        self.schedule(delay, Event::Ended { at, input });
    }

    /// Notes what a call of a fork meets.
    pub(super) fn notice_call(&mut self, to: &str, input: &Call) {
        let Call::Fork(call) = input else { return };
        let Some(object) = self.objects.get(to) else {
            return;
        };
        let pin = |fork| object.rows.pins().find(|pin| pin.fork == fork);
        let is_released = |fork| pin(fork).map(|pin| pin.released_at.is_some());
        let situation = match call {
            ForkCall::Describe { .. } => None,
            ForkCall::Bound { .. } => Some(Situation::ForkedInherited),
            ForkCall::Pin { fork, .. } => is_released(*fork).map(|is_released| {
                if is_released {
                    Situation::PinLate
                } else {
                    Situation::PinTwice
                }
            }),
            ForkCall::Release { fork, source, .. } => {
                let head = object.rows.head();
                if head.is_some_and(|head| head.incarnation != *source) {
                    Some(Situation::ReleaseOfFormer)
                } else {
                    match is_released(*fork) {
                        Some(true) => Some(Situation::ReleasedTwice),
                        Some(false) if self.model_lacks(*fork) => Some(Situation::Abandoned),
                        Some(false) | None => None,
                    }
                }
            }
        };
        if let Some(situation) = situation {
            self.cover(situation);
        }
    }

    fn model_lacks(&self, fork: Incarnation) -> bool {
        let mut all = self.model.incarnations.iter();
        !all.any(|each| each.machine == fork)
    }
}

fn encode(put: &Put, rows: &MemoryRows) -> Result<(Vec<u8>, Receipt), String> {
    let mut encoder = put.begin(rows).map_err(|error| error.to_string())?;
    let mut object = encoder.head().to_vec();
    while let Some(span) = encoder.next_span() {
        let frames = rows.frames(span).map_err(|error| error.to_string())?;
        object.extend(encoder.push(frames).map_err(|error| error.to_string())?);
    }
    let (end, receipt) = encoder.finish().map_err(|error| error.to_string())?;
    object.extend(end);
    Ok((object, receipt))
}
