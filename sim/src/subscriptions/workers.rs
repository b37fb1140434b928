//! Workers of pull-wake subscriptions. They hear of a wake from its event in the wake stream, and
//! from nothing else, unless their wake stream was deleted or closed.

use std::collections::{BTreeMap, BTreeSet};

use machine::EffectId;

use super::coverage::{Fault, Situation};
use super::judge::Departed;
use super::model::{Life, Wake};
use super::outside::code_of;
use super::receivers::WakeBody;
use super::request::{Action, Kind, Request, Work};
use super::world::{Event, Place, World};
use crate::oracles::Oracle;

/// How many workers there are.
const WORKERS: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct Workers {
    /// Calls that write wake events, and their subscriptions.
    pub(super) events: BTreeMap<(Place, EffectId), String>,
    /// Subscriptions with a wake event that no worker has followed.
    pub(super) heard: BTreeSet<String>,
    /// Whether a wake stream was deleted or closed, so that its events are lost.
    pub(super) has_lost_stream: bool,
}

impl World<'_, '_> {
    /// Notes that a wake event is in the wake stream.
    pub(super) fn event_written(&mut self, id: String, status: u16) {
        let is_new = status == 200;
        self.cover(if is_new {
            Situation::EventWritten
        } else {
            Situation::EventRepeated
        });
        self.workers.heard.insert(id.clone());
        if self.misbehaves(Fault::Worker) {
            return;
        }
        let first = self.choices.upto(WORKERS - 1);
        self.claim(&id, first);
        if self.choices.percent(20) {
            self.claim(&id, 1 - first);
        }
    }

    /// Lets a worker claim.
    pub(super) fn claim(&mut self, id: &str, worker: u64) {
        let kind = Kind::Claim {
            worker: format!("worker {worker}"),
        };
        let name = id.to_owned();
        let delay = self.network_delay();
        self.schedule(delay, Event::Send(Box::new(Request { name, kind })));
    }

    pub(super) fn claim_answered(
        &mut self,
        request: &Request,
        worker: &str,
        asked: u64,
        text: &str,
        departed: &Departed,
    ) {
        let id = &request.name;
        let body: Option<WakeBody> = serde_json::from_str(text).ok();
        let Some(body) = body else {
            return self.claim_refused(request, asked, text, departed);
        };
        let wake = departed.of.clone().and_then(|of| body.wake(of, departed));
        let Some(wake) = wake else {
            return self.fail(Oracle::Contract, "a wake", text);
        };
        self.workers.heard.remove(id);
        self.cover(Situation::Claimed);
        let (skew, limits) = (self.settings.skew_ms, &self.settings.limits);
        let finding = self.checkers.claimed(&wake, worker, departed, skew, limits);
        self.judged(finding);
        let wake = self.read_on(wake);
        self.take(&wake);
        if self.misbehaves(Fault::Worker) {
            return self.misuse_claim(&wake);
        }
        let pause = self.choices.upto(wake.lease_ms / 4);
        let soon = self.network_delay();
        let done = ack(&wake, true);
        match self.choices.upto(2) {
            0 => self.schedule(soon, Event::Send(Box::new(done))),
            1 => {
                // A heartbeat comes before the end.
                let mut heartbeat = ack(&wake, false);
                if let Kind::Work(work) = &mut heartbeat.kind {
                    work.acks.clear();
                }
                self.schedule(soon + pause, Event::Send(Box::new(heartbeat)));
                self.schedule(soon + 2 * pause + 50, Event::Send(Box::new(done)));
            }
            _ => {
                let mut part = ack(&wake, false);
                if let Kind::Work(work) = &mut part.kind {
                    work.acks.truncate(1);
                }
                self.schedule(soon, Event::Send(Box::new(part)));
                self.schedule(soon + pause + 50, Event::Send(Box::new(done)));
            }
        }
    }

    fn claim_refused(&mut self, request: &Request, asked: u64, text: &str, departed: &Departed) {
        match code_of(text).as_str() {
            "ALREADY_CLAIMED" => self.cover(Situation::ClaimBusy),
            "NO_PENDING_WORK" => {
                self.cover(Situation::ClaimNothing);
                self.workers.heard.remove(&request.name);
                // With faults the streams may not have been heard, and the wake comes later.
                let is_sure = !self.settings.has_faults() && self.settings.limits.asks_max > 1;
                if let Some(of) = departed.of.as_ref().filter(|_| is_sure) {
                    let cursor = |life: &Life| {
                        let is_it = departed.streams.get(&life.0) == Some(&life.1);
                        // A stream that is not linked yet is not asked.
                        departed.cursors.get(&life.0).filter(|_| is_it).copied()
                    };
                    let pending = self.model.pending_before(of, asked, cursor);
                    if let Some(pending) = pending {
                        let expected = format!("a wake, because {pending}");
                        self.fail(Oracle::Wakes, expected, text);
                    }
                }
            }
            "unavailable" if self.is_calm => {
                let again = Event::Send(Box::new(request.clone()));
                self.schedule(1_000, again);
            }
            _ => {}
        }
    }

    /// Judges that an ack was called wrong.
    pub(super) fn ack_refused(&mut self, work: &Work, asked: u64, text: &str) {
        self.cover(Situation::AckRefused);
        let is_known = |(name, offset): &(String, String)| {
            let offset = offset.parse().ok();
            let present = self.model.present(name);
            present.is_some_and(|(_, stream)| {
                let mut before = stream.appends.iter().filter(|it| it.answered < asked);
                before.any(|append| Some(append.end) >= offset)
            })
        };
        if text.contains("beyond the tail") && work.acks.iter().all(is_known) {
            self.fail(Oracle::Cursors, "that a stream is asked for its tail", text);
        }
    }

    fn misuse_claim(&mut self, wake: &Wake) {
        match self.choices.upto(3) {
            0 => {}
            1 => {
                let mut release = ack(wake, false);
                if let Kind::Work(work) = &mut release.kind {
                    work.action = Action::Release;
                    work.acks.clear();
                }
                let delay = self.network_delay();
                self.schedule(delay, Event::Send(Box::new(release)));
            }
            _ => self.misuse(wake, Action::Ack),
        }
    }
}

/// Returns an ack of everything that is pending.
fn ack(wake: &Wake, done: bool) -> Request {
    let pending = wake.streams.iter().filter(|stream| stream.is_pending);
    let work = Work {
        action: Action::Ack,
        token: Some(wake.token.clone()),
        wake: wake.id.clone(),
        generation: wake.generation,
        acks: pending
            .map(|stream| (stream.path.clone(), stream.tail.to_string()))
            .collect(),
        done,
    };
    Request {
        name: wake.of.0.clone(),
        kind: Kind::Work(work),
    }
}
