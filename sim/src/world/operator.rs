//! An operator who uses the admin API: asks objects for their state, and seals segments.

use machine::admin::AdminCall;
use machine::{Answer, Body, Call, CallId, Effect, Input};

use super::{Event, Phase, World};
use crate::ids::ObjectId;
use crate::model::{Content, Mismatch};
use crate::oracles::Oracle;

/// Names the call of an operator. No client's call has this number.
pub(super) const CALL: CallId = CallId(u64::MAX);

/// Returns the operator's call in an input, if it is one.
pub(super) fn call_of(input: &Input) -> Option<AdminCall> {
    match input {
        Input::Call {
            call: Call::Admin(call),
            ..
        } => Some(call.clone()),
        Input::Call { .. }
        | Input::Appends(_)
        | Input::Continue { .. }
        | Input::SubscriberLeft { .. }
        | Input::Alarm
        | Input::PutFinished { .. }
        | Input::CollectFinished { .. }
        | Input::CallFinished { .. }
        | Input::IndexFinished { .. }
        | Input::EnqueueFinished { .. } => None,
    }
}

impl World<'_, '_> {
    /// Draws whether an operator looks at an object after one of its turns.
    pub(super) fn draw_operator(&mut self, object: ObjectId) {
        let percent = self.engine.settings.operator_percent;
        if percent == 0 || self.phase != Phase::Busy {
            return;
        }
        let choices = self.engine.choices.fifth();
        if !choices.percent(percent) {
            return;
        }
        let (after, limit) = (None, 1 + choices.upto(2));
        let call = match choices.upto(6) {
            0..=2 => AdminCall::Seal,
            3 => AdminCall::Detail,
            4 => AdminCall::Throughput { minutes: limit },
            5 => AdminCall::Producers { after: None, limit },
            _ => AdminCall::Segments { after, limit },
        };
        let pause = choices.magnitude(1_000);
        self.engine
            .schedule(pause, Event::Operator { object, call });
    }

    pub(super) fn operate(&mut self, object: ObjectId, call: AdminCall) {
        self.engine.note("operator", || format!("{call:?}"));
        let call = Call::Admin(call);
        self.turn(object, Input::Call { id: CALL, call });
    }

    /// Judges the answer to an operator: what it counts is what the model has.
    pub(super) fn judge_operator(&mut self, at: ObjectId, call: &AdminCall, effects: &[Effect]) {
        let answer = effects.iter().find_map(|effect| {
            if let Effect::Answer { call: CALL, answer } = effect {
                return Some(answer);
            }
            None
        });
        let Some(answer) = answer else {
            let actual = format!("{effects:?}");
            let expected = "an answer to the operator".to_owned();
            return self.engine.fail(Oracle::Contract, expected, actual);
        };
        let incarnation = self.models[at].state.incarnation.as_ref();
        let expected = match (incarnation, call) {
            (None, _) => Expected::Status(404),
            (Some(_), AdminCall::Seal) if !self.engine.settings.limits.cold => {
                Expected::Status(503)
            }
            (Some(incarnation), AdminCall::Detail) => {
                let name = match *incarnation.content {
                    Content::Messages(_) => "messageCount",
                    Content::Run { .. } => "totalBytes",
                };
                Expected::Count(name, incarnation.content.len())
            }
            (Some(_), _) => Expected::Status(200),
        };
        let verdict = expected.check(answer);
        self.engine.check(Oracle::Model, verdict);
    }
}

/// What is known of an answer.
enum Expected {
    Status(u16),
    /// A member of the object, and its value.
    Count(&'static str, u64),
}

impl Expected {
    fn check(&self, answer: &Answer) -> Result<(), Mismatch> {
        let body = match &answer.body {
            Body::Bytes(bytes) => bytes.as_slice(),
            Body::Empty | Body::Plan(_) => &[],
        };
        let object: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let (is_it, expected) = match self {
            Self::Status(status) => {
                let is_it = answer.status == *status && object.is_some();
                (is_it, format!("{status} with an object"))
            }
            Self::Count(name, count) => {
                let found = object.as_ref().and_then(|object| object[name].as_u64());
                (found == Some(*count), format!("{name} {count}"))
            }
        };
        if is_it {
            return Ok(());
        }
        let actual = format!("{} {}", answer.status, String::from_utf8_lossy(body));
        Err(Mismatch { expected, actual })
    }
}
