//! The effects of an object, and all their outcomes.

use bytes::Bytes;
use machine::outbox::{Request, Statement, Value};
use machine::segment::Put;
use machine::{CallOutcome, Effect, EffectId, Input, Millis, Webhook};

use crate::object::Object;

pub(crate) enum EffectJob {
    Put {
        since: Millis,
        put: Put,
    },
    /// A put of a former instance.
    Upload {
        since: Millis,
        key: String,
        object: Vec<u8>,
    },
    Collect {
        effect: EffectId,
        keys: Vec<String>,
    },
    Call {
        effect: EffectId,
        to: String,
        request: Request,
    },
    Index {
        effect: EffectId,
        statements: Vec<Statement>,
    },
    Enqueue {
        effect: EffectId,
        messages: Vec<String>,
    },
    Webhook {
        since: Millis,
        effect: EffectId,
        webhook: Webhook,
    },
}

/// The outcome of an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Done, but reported as failed.
    Doubted,
    /// Done, but never reported.
    Unsaid,
    Failed,
    /// Not done, and never reported.
    Lost,
}

impl Outcome {
    pub(crate) const ALL: [(&str, Self); 5] = [
        ("DONE", Self::Done),
        ("DOUBTED", Self::Doubted),
        ("UNSAID", Self::Unsaid),
        ("FAILED", Self::Failed),
        ("LOST", Self::Lost),
    ];

    pub(crate) const fn takes_effect(self) -> bool {
        matches!(self, Self::Done | Self::Doubted | Self::Unsaid)
    }

    pub(crate) const fn is_reported(self) -> bool {
        matches!(self, Self::Done | Self::Doubted | Self::Failed)
    }
}

impl EffectJob {
    /// Returns `None` for answers, which are pushed to `answers`.
    pub(crate) fn asked(now: Millis, effect: Effect, answers: &mut Vec<Effect>) -> Option<Self> {
        match effect {
            Effect::Put(put) => Some(Self::Put { since: now, put }),
            Effect::Collect { effect, keys } => Some(Self::Collect { effect, keys }),
            Effect::Call {
                effect,
                to,
                request,
            } => Some(Self::Call {
                effect,
                to,
                request,
            }),
            Effect::Index { effect, statements } => Some(Self::Index { effect, statements }),
            Effect::Webhook { effect, webhook } => Some(Self::Webhook {
                since: now,
                effect,
                webhook,
            }),
            Effect::Enqueue { effect, messages } => Some(Self::Enqueue { effect, messages }),
            Effect::Answer { .. } | Effect::Attach { .. } => {
                answers.push(effect);
                None
            }
        }
    }

    /// Returns whether it may still take effect after its instance has ended.
    pub(crate) fn left_behind(self, object: &Object) -> Option<Self> {
        match self {
            Self::Put { since, put } => object.encode(&put).map(|(bytes, _)| Self::Upload {
                since,
                key: put.key,
                object: bytes,
            }),
            Self::Upload { .. } => Some(self),
            Self::Collect { .. }
            | Self::Call { .. }
            | Self::Index { .. }
            | Self::Enqueue { .. }
            | Self::Webhook { .. } => None,
        }
    }

    /// Carries out the effect, as far as the object alone can. Returns the input that reports it to
    /// the object. A call is answered 200, without the called object. A receiver of webhooks is
    /// done with everything.
    pub(crate) fn carry_out(self, outcome: Outcome, now: Millis, object: &Object) -> Option<Input> {
        // Garbage is kept for longer than any put takes.
        let too_late = |since: Millis| since.plus(object.limits.collect_grace_ms) <= now;
        let input = match self {
            Self::Put { since, .. } | Self::Upload { since, .. } if too_late(since) => return None,
            Self::Put { put, .. } => {
                let encoded = object.encode(&put).filter(|_| outcome.takes_effect());
                let receipt = encoded.map(|(bytes, receipt)| {
                    let former = object.cold.borrow_mut().insert(put.key, bytes);
                    assert!(former.is_none(), "a key is used once");
                    receipt
                });
                Input::PutFinished {
                    id: put.id,
                    receipt: receipt.filter(|_| outcome == Outcome::Done),
                }
            }
            Self::Upload {
                key, object: bytes, ..
            } => {
                if outcome.takes_effect() {
                    let former = object.cold.borrow_mut().insert(key, bytes);
                    assert!(former.is_none(), "a key is used once");
                }
                return None;
            }
            Self::Collect { effect, keys } => {
                if outcome.takes_effect() {
                    let mut cold = object.cold.borrow_mut();
                    keys.iter().for_each(|key| drop(cold.remove(key)));
                }
                Input::CollectFinished {
                    effect,
                    done: outcome == Outcome::Done,
                }
            }
            Self::Call { effect, to, .. } => Input::CallFinished {
                effect,
                outcome: if outcome == Outcome::Done {
                    // No pattern matches the stream.
                    let is_directory = to.starts_with("__ds/directory/");
                    let body = if is_directory {
                        br#"{"subscriptions":[]}"#.as_slice()
                    } else {
                        b""
                    };
                    let body = Bytes::from_static(body);
                    CallOutcome::Answered { status: 200, body }
                } else {
                    CallOutcome::Failed
                },
            },
            Self::Webhook { effect, .. } => Input::CallFinished {
                effect,
                outcome: if outcome == Outcome::Done {
                    let body = Bytes::from_static(br#"{"done":true}"#);
                    CallOutcome::Answered { status: 200, body }
                } else {
                    CallOutcome::Failed
                },
            },
            Self::Enqueue { .. } => unreachable!("the queue takes them"),
            Self::Index { effect, statements } => {
                if outcome.takes_effect() {
                    statements.iter().for_each(check_statement);
                }
                Input::IndexFinished {
                    effect,
                    done: outcome == Outcome::Done,
                }
            }
        };
        outcome.is_reported().then_some(input)
    }
}

/// Panics when the index could not execute the statement.
fn check_statement(statement: &Statement) {
    let places = statement.sql.matches('?').count();
    assert_eq!(places, statement.values.len(), "{}", statement.sql);
    let is_whole = |value: &Value| match value {
        Value::Null | Value::Integer(_) => true,
        Value::Text(text) => !text.contains('\0'),
    };
    assert!(statement.values.iter().all(is_whole));
}
