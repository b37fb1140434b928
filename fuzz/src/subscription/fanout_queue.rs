//! The fan-out queue and its consumer. It brings each message at once, and again until the consumer
//! acknowledges it.

use std::collections::{BTreeMap, VecDeque};

use machine::fanout::{Delivery, Next};
use machine::{CallOutcome, EffectId, Input};

use super::server::{Caller, Server};
use crate::effects::Outcome;

/// Who calls as the consumer. No object has this name.
pub(super) const CONSUMER: &str = "";

/// A message, how often it was brought, and what the consumer does with it.
type Run = (String, u64, Delivery);

#[derive(Default)]
pub(super) struct FanoutQueue {
    /// The messages, and how often each was brought.
    messages: Vec<(String, u64)>,
    /// What waits for the end of a call.
    consuming: BTreeMap<EffectId, Run>,
    /// The calls that have ended.
    pub(super) ended: VecDeque<(EffectId, CallOutcome)>,
    runs: u64,
}

impl Server {
    /// Gives messages to the fan-out queue, which brings them at once.
    pub(super) fn enqueue(
        &mut self,
        name: &str,
        effect: EffectId,
        messages: Vec<String>,
        outcome: Outcome,
    ) {
        if outcome.takes_effect() {
            let messages = messages.into_iter().map(|body| (body, 0));
            self.queue.messages.extend(messages);
        }
        if outcome.is_reported() {
            let done = outcome == Outcome::Done;
            self.step(name, Input::EnqueueFinished { effect, done }, None);
        }
        self.consume();
    }

    /// Handles the end of a call of the consumer.
    pub(super) fn consumed(&mut self, run: EffectId, outcome: &CallOutcome) {
        let run = self.queue.consuming.remove(&run);
        let (body, attempts, mut delivery) = run.expect("each call of the consumer ends once");
        let next = delivery.called(outcome, &self.settings.limits);
        self.go_on((body, attempts, delivery), next);
    }

    /// Brings each message once.
    pub(super) fn consume(&mut self) {
        for (body, attempts) in core::mem::take(&mut self.queue.messages) {
            let attempts = attempts + 1;
            let (delivery, next) = Delivery::begin(&body, attempts, &self.settings.limits);
            self.go_on((body, attempts, delivery), next);
        }
    }

    fn go_on(&mut self, run: Run, next: Next) {
        match next {
            Next::Acknowledge => {}
            Next::Retry { .. } => self.queue.messages.push((run.0, run.1)),
            Next::Call { to, request, .. } => {
                self.queue.runs += 1;
                let effect = EffectId(self.queue.runs);
                self.queue.consuming.insert(effect, run);
                let (name, instance) = (CONSUMER.to_owned(), None);
                let caller = Caller {
                    name,
                    instance,
                    effect,
                };
                self.deliver(to, request, Some(caller));
            }
        }
    }
}
