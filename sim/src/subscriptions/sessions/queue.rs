//! The fan-out queue and its consumer. The queue brings each message at least once, after any time,
//! and as often as the consumer does not acknowledge it.

use std::collections::BTreeMap;

use machine::fanout::{Delivery, Next};
use machine::{CallOutcome, EffectId, Input};

use super::super::coverage::{Fault, Situation};
use super::super::world::{Caller, Event, Place, World};
use crate::trace::Mark;

const MILLIS_PER_SECOND: u64 = 1_000;

#[derive(Debug, Default)]
pub(super) struct FanoutQueue {
    /// The messages that are not acknowledged, by their numbers.
    messages: BTreeMap<u64, Message>,
    sent: u64,
    /// What the consumer is doing.
    runs: BTreeMap<u64, Run>,
    begun: u64,
}

#[derive(Debug)]
struct Message {
    body: String,
    /// How often it was brought.
    attempts: u64,
}

#[derive(Debug)]
struct Run {
    message: u64,
    delivery: Delivery,
    /// How many calls it has made.
    calls: u64,
}

impl World<'_, '_> {
    /// Takes messages of a stream, or fails.
    pub(in crate::subscriptions) fn enqueue(
        &mut self,
        at: &Place,
        effect: EffectId,
        messages: Vec<String>,
    ) {
        self.cover(Situation::QueueUsed);
        let (mut taken, mut done) = (messages.len(), true);
        if self.fault(Fault::Queue) {
            done = false;
            let most = taken as u64;
            taken = usize::try_from(self.choices.upto(most)).expect("a batch is small");
            self.cover(if taken == 0 {
                Situation::QueueRefused
            } else {
                Situation::QueueUncertain
            });
        }
        for body in messages.into_iter().take(taken) {
            self.sessions.queue.sent += 1;
            let message = self.sessions.queue.sent;
            let attempts = 0;
            let messages = &mut self.sessions.queue.messages;
            messages.insert(message, Message { body, attempts });
            let mut delay = self.network_delay();
            if self.fault(Fault::Queue) {
                delay += self.late();
            }
            self.schedule(delay, Event::Message { message });
            if self.fault(Fault::Queue) {
                let again = delay + self.late();
                self.schedule(again, Event::Message { message });
            }
        }
        if !self.fault(Fault::Silence) {
            let (at, input) = (at.clone(), Input::EnqueueFinished { effect, done });
            let delay = self.network_delay();
            self.schedule(delay, Event::Ended { at, input });
        }
    }

    /// Brings a message to the consumer.
    pub(in crate::subscriptions) fn bring(&mut self, message: u64) {
        let Some(brought) = self.sessions.queue.messages.get_mut(&message) else {
            return;
        };
        brought.attempts += 1;
        let (body, attempts) = (brought.body.clone(), brought.attempts);
        if attempts > 1 {
            self.cover(Situation::QueueRepeated);
        }
        let (delivery, next) = Delivery::begin(&body, attempts, &self.settings.limits);
        self.note_as(Mark::Point, "queue", || {
            format!("message {message}, attempt {attempts}: {body}")
        });
        let queue = &mut self.sessions.queue;
        queue.begun += 1;
        let run = queue.begun;
        let calls = 0;
        let begun = Run {
            message,
            delivery,
            calls,
        };
        queue.runs.insert(run, begun);
        self.go_on(run, next);
    }

    /// Handles the end of a call of the consumer.
    pub(in crate::subscriptions) fn consumed(&mut self, run: u64, outcome: &CallOutcome) {
        let limits = &self.settings.limits;
        let Some(running) = self.sessions.queue.runs.get_mut(&run) else {
            return;
        };
        let next = running.delivery.called(outcome, limits);
        self.go_on(run, next);
    }

    fn go_on(&mut self, run: u64, next: Next) {
        let Some(mut running) = self.sessions.queue.runs.remove(&run) else {
            return;
        };
        let message = running.message;
        match next {
            Next::Call {
                to,
                request,
                time_ms,
            } => {
                let call = format!("{request:?}");
                self.cover_call(&call, running.calls);
                // Each call has a run of its own, so that a late answer finds none.
                running.calls += 1;
                let queue = &mut self.sessions.queue;
                queue.begun += 1;
                let run = queue.begun;
                queue.runs.insert(run, running);
                let Some(input) = self.read_call(&to, &request) else {
                    return;
                };
                let caller = |is_answered| Caller::Consumer { run, is_answered };
                let fails = self.send_call(&to, &input, &caller);
                let delay = if fails { self.network_delay() } else { time_ms };
                let outcome = CallOutcome::Failed;
                self.schedule(delay, Event::Consumed { run, outcome });
            }
            Next::Acknowledge => {
                if self.fault(Fault::Queue) {
                    // The queue does not hear it.
                    let delay = self.late();
                    return self.schedule(delay, Event::Message { message });
                }
                self.sessions.queue.messages.remove(&message);
            }
            Next::Retry { after_seconds } => {
                self.cover(Situation::QueueRetried);
                let mut delay = after_seconds * MILLIS_PER_SECOND;
                if self.fault(Fault::Queue) {
                    delay += self.late();
                }
                self.schedule(delay, Event::Message { message });
            }
        }
    }

    fn cover_call(&mut self, call: &str, calls: u64) {
        if call.contains("undelivered") {
            self.cover(Situation::QueueGaveBack);
        } else if call.contains("unfollow") {
            self.cover(Situation::QueueEnded);
        } else if calls > 0 {
            self.cover(Situation::QueuePaged);
        }
    }
}
