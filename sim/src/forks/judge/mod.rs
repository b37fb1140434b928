//! Judges each turn when it becomes durable: what has happened to the stream, and what clients are
//! answered. The turns of an object are durable in order, so the model follows them one by one.

mod content;
mod create;

use machine::{Answer, Effect, MemoryRows};

use super::coverage::Situation;
use super::model::State;
use super::request::{Kind, Request};
use super::world::{Caller, Turned, World, of_call};
use crate::oracles::Oracle;
use crate::trace::Mark;

/// The times of a request.
#[derive(Clone, Copy)]
struct Span {
    /// The number of commits when it arrived.
    from: u64,
    /// How long it has taken.
    elapsed: u64,
    /// When its turn was made.
    at: u64,
}

impl World<'_, '_> {
    pub(super) fn judge(&mut self, name: &str, before: &MemoryRows, turned: &Turned) {
        let disk = self.objects[name].disk.clone();
        self.judge_end(name, &disk, turned);
        for effect in &turned.effects {
            if self.recorder.failure.is_some() {
                return;
            }
            let Effect::Answer { call, answer } = effect else {
                continue;
            };
            let Some(pending) = self.calls.get(&call.0) else {
                continue;
            };
            let span = Span {
                from: pending.arrived,
                elapsed: self.now - pending.arrived_at.min(self.now),
                at: turned.at,
            };
            let request = match &pending.caller {
                Caller::Client(request) => request.clone(),
                Caller::Reader => {
                    if answer.status != 200 {
                        self.cover(Situation::ReadBrokenOff);
                    } else if let Some(present) = self.model.present_mut(name) {
                        let (certain, possible) = present.used;
                        present.used = (certain.max(span.at), possible.max(span.at));
                    }
                    continue;
                }
                Caller::Object { .. } => continue,
            };
            let ends = Mark::Ends(of_call(call.0));
            self.note_as(ends, "client", || {
                format!(
                    "c{} is answered {} {}",
                    call.0,
                    answer.status,
                    answer.header("Stream-Next-Offset").unwrap_or_default()
                )
            });
            self.recorder.digest.number(u64::from(answer.status));
            self.judge_answer(call.0, &request, answer, span, &disk);
        }
        self.model.note(name, self.clock);
        if self.recorder.failure.is_none() && *before != disk {
            self.check_pins();
            self.check_content(name, &disk);
        }
    }

    /// Judges whether the stream has expired or has been freed.
    fn judge_end(&mut self, name: &str, disk: &MemoryRows, turned: &Turned) {
        let Some(present) = self.model.present(name) else {
            return;
        };
        let head = disk.head();
        let is_gone = head.is_none_or(|head| head.incarnation != present.machine);
        let is_hidden = head.is_some_and(|head| head.lineage.deleted_at.is_some());
        if present.hidden {
            if is_gone {
                let is_fork = present.fork.is_some();
                self.freed(name, Situation::Freed);
                if is_fork {
                    self.cover(Situation::Cascade);
                }
                self.model.note(name, self.clock);
            }
            return;
        }
        let is_deletion = turned.effects.iter().any(|effect| {
            let Effect::Answer { call, answer } = effect else {
                return false;
            };
            let caller = self.calls.get(&call.0).map(|pending| &pending.caller);
            let Some(Caller::Client(request)) = caller else {
                return false;
            };
            answer.status == 204 && matches!(request.kind, Kind::Delete)
        });
        let divisor = self.settings.limits.touch_slack_divisor;
        let (may, must) = present.expiry_at(turned.at, divisor);
        if (is_gone || is_hidden) && !is_deletion {
            if !may {
                let reason = format!("{:?}, used {:?}", present.expiry, present.used);
                let actual = format!("{name} has ended at {}", turned.at);
                return self.fail(Oracle::Expiry, reason, actual);
            }
            self.cover(Situation::Expired);
            if is_gone {
                self.freed(name, Situation::Expired);
            } else {
                self.hide(name, Situation::ExpiredHidden);
            }
            self.model.note(name, self.clock);
        } else if must && turned.ends_expired && !is_deletion {
            let reason = format!("{:?}, used {:?}", present.expiry, present.used);
            self.fail(Oracle::Expiry, reason, format!("{name} is still there"));
        }
    }

    /// Notes that a stream has ended for good.
    fn freed(&mut self, name: &str, situation: Situation) {
        let Some(index) = self.model.present.get(name).copied() else {
            return;
        };
        let heirs: Vec<_> = self
            .model
            .forks_of(index)
            .map(|fork| fork.name.clone())
            .collect();
        if !heirs.is_empty() {
            let expected = format!("{name}, the source of {heirs:?}");
            return self.fail(Oracle::Pins, expected, "it has ended");
        }
        self.cover(situation);
        self.model.end(name);
    }

    /// Notes that a stream was deleted or has expired, and lives on for its forks.
    fn hide(&mut self, name: &str, situation: Situation) {
        if self
            .model
            .fork_requests
            .get(name)
            .is_none_or(|count| *count == 0)
        {
            return self.fail(Oracle::ForksFreed, "an end", format!("{name} is kept"));
        }
        self.cover(situation);
        if let Some(present) = self.model.present_mut(name) {
            present.hidden = true;
        }
    }

    fn judge_answer(
        &mut self,
        call: u64,
        request: &Request,
        answer: &Answer,
        span: Span,
        disk: &MemoryRows,
    ) {
        let name = &request.name;
        let state = self.model.state(name);
        if state.hidden && answer.status == 410 {
            self.cover(Situation::GoneAnswered);
        }
        match &request.kind {
            Kind::Create(asked) => self.judge_create(name, asked, answer, span, disk),
            Kind::Append(posted) => self.judge_append(name, posted, answer, span),
            Kind::Delete => {
                self.expect(name, "DELETE", answer.status, &[status_of(state, 204)]);
                if answer.status != 204 || self.recorder.failure.is_some() {
                    return;
                }
                let head = disk.head();
                let present = self.model.present(name).map(|present| present.machine);
                if head.is_some_and(|head| Some(head.incarnation) == present) {
                    self.hide(name, Situation::Hidden);
                } else {
                    self.freed(name, Situation::Deleted);
                }
            }
            Kind::Read { from } => {
                self.expect(name, "GET", answer.status, &[status_of(state, 200)]);
                if answer.status == 200 {
                    self.judge_read(call, name, from.as_deref(), answer, span);
                }
            }
            Kind::Head => {
                self.expect(name, "HEAD", answer.status, &[status_of(state, 200)]);
                if answer.status == 200 {
                    self.judge_head(name, answer);
                }
            }
        }
    }

    fn expect(&mut self, name: &str, what: &str, status: u16, allowed: &[u16]) {
        if !allowed.contains(&status) {
            self.fail(
                Oracle::ForkAnswers,
                format!("{what} {name}: one of {allowed:?}"),
                status.to_string(),
            );
        }
    }
}

/// Returns the status of a request to a stream in this state that succeeds if it exists.
const fn status_of(state: State, done: u16) -> u16 {
    match state {
        State {
            incarnation: None, ..
        } => 404,
        State { hidden: true, .. } => 410,
        State { .. } => done,
    }
}
