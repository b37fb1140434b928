//! Fencing (protocol 7.3).

use std::collections::BTreeMap;

use super::{Cause, Finding, Grant, Seen, violation};
use crate::oracles::Oracle;
use crate::subscriptions::request::Work;

/// Holds that only a request with the token, the generation and the id of the wake that is in
/// flight, within its lease, is accepted; that a refused one writes what a request that changes
/// nothing writes; and that a late answer to a webhook leaves the next wake alone.
#[derive(Debug, Default)]
pub(super) struct Fencing {
    grants: BTreeMap<String, Grant>,
}

impl Fencing {
    pub(super) fn grants(&mut self, token: &str, grant: Grant) {
        self.grants.insert(token.to_owned(), grant);
    }

    pub(super) fn after_turn(&self, seen: &Seen<'_>) -> Finding {
        // A request that has waited for its streams can be refused in the turn of one that is
        // accepted.
        let is_quiet = seen.worked().all(|(_, is_accepted)| !is_accepted);
        for (work, is_accepted) in seen.worked() {
            if is_accepted && !self.is_current(work, seen) {
                let actual = format!("{work:?} was accepted");
                let expected = format!("a refusal, because {:?} is in flight", seen.before.wake());
                return violation(Oracle::Fencing, expected, actual);
            }
            if let Some(expected) = seen.expected.filter(|_| is_quiet)
                && expected != seen.turn.writes
            {
                let actual = format!("{work:?} was refused and wrote {:?}", seen.turn.writes);
                return violation(Oracle::Fencing, format!("{expected:?}"), actual);
            }
        }
        late_answer(seen)
    }

    fn is_current(&self, work: &Work, seen: &Seen<'_>) -> bool {
        let (Some(head), Some(wake)) = (seen.before.live(), seen.before.wake()) else {
            return false;
        };
        let grant = work.token.as_ref().and_then(|token| self.grants.get(token));
        let is_granted = grant.is_some_and(|grant| {
            Some(grant.of.0.as_str()) == seen.id
                && grant.of.1 == head.incarnation
                && grant.generation == head.generation
                && seen.now.0 <= grant.expires_at
        });
        is_granted
            && work.generation == head.generation
            && work.wake == wake.id
            && wake.leased_until.is_some_and(|until| seen.now < until)
    }
}

fn late_answer(seen: &Seen<'_>) -> Finding {
    let Cause::Attempt { wake, .. } = seen.cause else {
        return Ok(());
    };
    let Some(current) = seen.before.wake().filter(|current| current.id != wake.id) else {
        return Ok(());
    };
    let has_ended = current.leased_until.is_some_and(|until| until <= seen.now);
    if has_ended || seen.after.wake() == Some(current) {
        return Ok(());
    }
    let expected = format!("{current:?}, because the answer is one to {}", wake.id);
    violation(
        Oracle::Fencing,
        expected,
        format!("{:?}", seen.after.wake()),
    )
}
