//! The oracles of subscriptions. Each is a type of its own. Most look at a turn and at the rows
//! before and after it, some at what leaves an object.

pub(super) mod cost;
mod cursors;
mod departed;
mod fencing;
mod generations;
mod notice;
mod schedule;
mod secrets;
mod signatures;

use std::collections::BTreeMap;

use machine::{Answer, Effect, Input, Limits, Millis, Object, StorageError, Turn, Webhook, Write};

use super::coverage::Coverage;
use super::model::{Life, Model, Wake};
use super::request::{Kind, Request, Work};
use super::view::View;
use super::world::{Caller, Pending};
use crate::oracles::{Oracle, Violation};

pub(super) use cursors::NothingOld;
pub(super) use departed::{Cause, Departed};

/// Alarms in a row that may find nothing to do. A clock that is behind makes some.
const IDLE_ALARMS_MAX: u64 = 1_000;

/// The verdict of a checker.
pub(super) type Finding = Result<(), Violation>;

/// Returns a finding.
///
/// # Errors
/// Always, so that a checker can return what this returns.
pub(super) fn violation(
    oracle: Oracle,
    expected: impl Into<String>,
    actual: impl Into<String>,
) -> Finding {
    Err(Violation {
        oracle,
        expected: expected.into(),
        actual: actual.into(),
    })
}

/// A turn whose writes are applied. Nothing of it has left yet.
pub(super) struct Seen<'a> {
    /// The id, if the object is a subscription.
    pub(super) id: Option<&'a str>,
    pub(super) before: &'a View,
    pub(super) after: &'a View,
    pub(super) turn: &'a Turn,
    pub(super) calls: &'a BTreeMap<u64, Pending>,
    /// Who makes the call that is the input.
    pub(super) caller: Option<&'a Caller>,
    pub(super) cause: &'a Cause,
    /// The clock of the object.
    pub(super) now: Millis,
    /// What a request that changes nothing would have written in place of this one.
    pub(super) expected: Option<&'a [Write]>,
    /// What an append would have written with subscriptions and without.
    pub(super) compared: Option<&'a cost::Compared>,
    pub(super) idle_alarms: u64,
    pub(super) limits: &'a Limits,
}

impl Seen<'_> {
    /// Returns the requests of clients that the turn answers.
    pub(super) fn answered(&self) -> impl Iterator<Item = (&Request, &Answer)> {
        self.turn.after_commit.iter().filter_map(|effect| {
            let Effect::Answer { call, answer } = effect else {
                return None;
            };
            match &self.calls.get(&call.0)?.caller {
                Caller::Client { request, .. } => Some((&**request, answer)),
                Caller::Object { .. } | Caller::Consumer { .. } => None,
            }
        })
    }

    /// Returns the requests for a wake that the turn answers, and whether it accepts them.
    pub(super) fn worked(&self) -> impl Iterator<Item = (&Work, bool)> {
        self.answered().filter_map(|(request, answer)| {
            let Kind::Work(work) = &request.kind else {
                return None;
            };
            Some((work, matches!(answer.status, 200..=299)))
        })
    }

    /// Returns the subscription that is there after the turn.
    fn life(&self) -> Option<Life> {
        let head = self.after.live()?;
        Some((self.id?.to_owned(), head.incarnation))
    }
}

/// A copy of an object, which gets another request.
pub(super) struct Twin {
    machine: Object,
    input: Input,
}

impl Twin {
    /// Returns what the copy writes.
    pub(super) fn writes(
        mut self,
        context: &machine::Context<'_>,
    ) -> Result<Vec<Write>, StorageError> {
        Ok(self.machine.step(context, self.input)?.writes)
    }
}

/// Everything that a token opens.
#[derive(Clone, Debug)]
struct Grant {
    of: Life,
    generation: u64,
    expires_at: u64,
}

/// All oracles that have a state.
#[derive(Debug, Default)]
pub(super) struct Checkers {
    generations: generations::Generations,
    cursors: cursors::Cursors,
    fencing: fencing::Fencing,
    pub(super) schedule: schedule::Schedule,
    pub(super) signatures: signatures::Signatures,
    pub(super) secrets: secrets::Secrets,
    pub(super) begin: NothingOld,
}

impl Checkers {
    /// Makes a copy of a subscription that will be asked to describe itself, if the input is a
    /// request for a wake.
    pub(super) fn twin(
        machine: Option<&Object>,
        input: &Input,
        calls: &BTreeMap<u64, Pending>,
        limits: &Limits,
    ) -> Option<Twin> {
        let Input::Call { id, .. } = input else {
            return None;
        };
        let Caller::Client { request, .. } = &calls.get(&id.0)?.caller else {
            return None;
        };
        if !matches!(request.kind, Kind::Work(_)) {
            return None;
        }
        let describe = Request {
            name: request.name.clone(),
            kind: Kind::Describe,
        };
        let call = describe.call(limits)?;
        Some(Twin {
            machine: machine?.clone(),
            input: Input::Call { id: *id, call },
        })
    }

    /// Lets every checker judge a turn.
    pub(super) fn after_turn(
        &mut self,
        model: &mut Model,
        seen: &Seen<'_>,
        coverage: &mut Coverage,
    ) -> Vec<Violation> {
        notice::notice(model, seen, coverage);
        let mut findings = vec![idle(seen.idle_alarms)];
        findings.extend(seen.compared.map(cost::Compared::judge));
        if seen.id.is_some() {
            findings.push(self.generations.after_turn(seen));
            findings.push(self.fencing.after_turn(seen));
            findings.push(self.cursors.after_turn(model, seen));
        }
        findings.into_iter().filter_map(Result::err).collect()
    }

    /// Notes that a turn is durable.
    pub(super) fn committed(&mut self, departed: &Departed) {
        self.schedule.committed(departed);
        self.generations.committed(departed);
    }

    /// Judges a webhook that leaves.
    pub(super) fn webhook(
        &mut self,
        webhook: &Webhook,
        wake: &Wake,
        departed: &Departed,
        skew_ms: u64,
        limits: &Limits,
    ) -> Vec<Violation> {
        self.grants(wake, departed, skew_ms, limits);
        let findings = [
            schedule::url(webhook, limits),
            self.schedule.leaves(wake, departed, skew_ms, limits),
            self.generations.leaves(wake, None),
            self.secrets.in_webhook(webhook, wake),
        ];
        findings.into_iter().filter_map(Result::err).collect()
    }

    /// Judges a wake that a worker was given.
    pub(super) fn claimed(
        &mut self,
        wake: &Wake,
        worker: &str,
        departed: &Departed,
        skew_ms: u64,
        limits: &Limits,
    ) -> Finding {
        self.grants(wake, departed, skew_ms, limits);
        self.generations.leaves(wake, Some(worker))
    }

    fn grants(&mut self, wake: &Wake, departed: &Departed, skew_ms: u64, limits: &Limits) {
        let time_ms = limits.token_ms.max(wake.lease_ms) + 2 * skew_ms;
        let grant = Grant {
            of: wake.of.clone(),
            generation: wake.generation,
            expires_at: departed.at + time_ms,
        };
        self.secrets.grants(&wake.token, &wake.of.0);
        self.fencing.grants(&wake.token, grant);
    }
}

fn idle(alarms: u64) -> Finding {
    if alarms <= IDLE_ALARMS_MAX {
        return Ok(());
    }
    let expected = format!("{IDLE_ALARMS_MAX} alarms in a row that find nothing to do at most");
    violation(Oracle::AlarmLoop, expected, "another one")
}
