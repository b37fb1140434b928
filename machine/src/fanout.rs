//! The fan-out queue (`docs/sessions.md`).
//!
//! A stream with many sessions does not call each of them. It sends notices to a queue, many at
//! once, and the queue's consumer calls the sessions. A notice only says what the stream has, so it
//! does no harm if it comes late, twice or out of order: the session fetches what it lacks.
//!
//! [`Delivery`] is what the consumer does with one notice. It holds no other state than the notice.
//! So a consumer that is lost begins again.

use serde::{Deserialize, Serialize};

use crate::backoff::backoff;
use crate::control::{answered, to_json};
use crate::outbox::Request;
use crate::rows::Incarnation;
use crate::wire::control::Presence;
use crate::wire::cursor::splitmix64;
use crate::wire::session::{DeliverAnswer, SessionCall, session_request};
use crate::{CallOutcome, Limits};

const MILLIS_PER_SECOND: u64 = 1_000;
/// The queue brings nothing again later than after 12 hours.
const RETRY_SECONDS_MAX: u64 = 43_200;

/// What a stream notifies a session of through the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    /// The name of the session's stream.
    pub(crate) session: String,
    /// The name of the stream.
    pub(crate) stream: String,
    /// The incarnation of the subscription.
    pub(crate) subscription: Incarnation,
    /// The stream as it is; `None` if it does not exist.
    pub(crate) present: Option<Presence>,
}

impl Notice {
    /// Returns the body of the message that carries the notice.
    pub(crate) fn to_text(&self) -> String {
        to_json(self)
    }

    fn deliver(&self, limits: &Limits) -> Next {
        let call = SessionCall::Deliver {
            stream: self.stream.clone(),
            subscription: self.subscription,
            present: self.present,
        };
        Next::call(&self.session, &call, limits)
    }

    fn unfollow(&self, limits: &Limits) -> Next {
        let call = SessionCall::Unfollow {
            session: self.session.clone(),
            subscription: self.subscription,
        };
        Next::call(&self.stream, &call, limits)
    }

    fn give_back(&self, limits: &Limits) -> Next {
        let call = SessionCall::Undelivered {
            session: self.session.clone(),
            subscription: self.subscription,
        };
        Next::call(&self.stream, &call, limits)
    }
}

/// What the consumer does next with a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this request to an object, and report to [`Delivery::called`] how it ended.
    Call {
        /// The name of the object.
        to: String,
        /// The request.
        request: Request,
        /// How long to wait for the answer.
        time_ms: u64,
    },
    /// Acknowledge the message: nothing is left to be done.
    Acknowledge,
    /// Let the queue bring the message again.
    Retry {
        /// The pause before that.
        after_seconds: u64,
    },
}

impl Next {
    fn call(to: &str, call: &SessionCall, limits: &Limits) -> Self {
        Self::Call {
            to: to.to_owned(),
            request: session_request(call),
            time_ms: limits.reply_timeout_ms,
        }
    }
}

/// The delivery of one notice by the consumer of the queue.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `None` if this version cannot read the message.
    notice: Option<Notice>,
    /// How often the queue has brought the message, this time included.
    attempts: u64,
    /// How often the session was called in this attempt.
    calls: u64,
    stage: Stage,
}

/// What the call in flight is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Delivering,
    Unfollowing,
    GivingBack,
}

impl Delivery {
    /// Begins with the body of a message. `attempts` says how often the queue has brought it, and
    /// is 1 the first time. If this version cannot read the body, another one may be able to. So
    /// the message is tried again. At last it comes to the dead-letter queue, where an operator
    /// sees it.
    #[must_use]
    pub fn begin(body: &str, attempts: u64, limits: &Limits) -> (Self, Next) {
        let (notice, next) = match serde_json::from_str::<Notice>(body) {
            Ok(notice) => {
                let next = notice.deliver(limits);
                (Some(notice), next)
            }
            Err(_) => (None, retry(body.len() as u64, attempts, limits)),
        };
        let delivery = Self {
            notice,
            attempts,
            calls: 1,
            stage: Stage::Delivering,
        };
        (delivery, next)
    }

    /// Says what comes next, now that a call has ended.
    ///
    /// # Panics
    /// When nothing was called.
    pub fn called(&mut self, outcome: &CallOutcome, limits: &Limits) -> Next {
        let notice = self.notice.as_ref();
        let notice = notice.expect("only the delivery of a notice calls an object");
        match (self.stage, answered(outcome)) {
            (Stage::Delivering, Some(DeliverAnswer::Ended)) => {
                self.stage = Stage::Unfollowing;
                notice.unfollow(limits)
            }
            (Stage::Delivering, Some(DeliverAnswer::Has(offset)))
                if notice.present.is_some_and(|it| it.tail <= offset) =>
            {
                Next::Acknowledge
            }
            // The session takes page by page.
            (Stage::Delivering, Some(DeliverAnswer::Has(_)))
                if self.calls < limits.fanout_calls_max =>
            {
                self.calls += 1;
                notice.deliver(limits)
            }
            // The stream itself goes on where this takes too long.
            (Stage::Delivering, Some(DeliverAnswer::Has(_))) => {
                self.stage = Stage::GivingBack;
                notice.give_back(limits)
            }
            (Stage::Delivering, None) if self.attempts >= limits.fanout_attempts_max => {
                self.stage = Stage::GivingBack;
                notice.give_back(limits)
            }
            (Stage::Unfollowing | Stage::GivingBack, Some(_)) => Next::Acknowledge,
            (_, None) => retry(notice.subscription.0, self.attempts, limits),
        }
    }
}

fn retry(chance: u64, attempts: u64, limits: &Limits) -> Next {
    let pause = backoff(attempts, splitmix64(chance), limits);
    let after_seconds = pause.div_ceil(MILLIS_PER_SECOND).min(RETRY_SECONDS_MAX);
    Next::Retry { after_seconds }
}
