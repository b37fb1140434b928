//! What is known of a turn when its effects leave.

use std::collections::BTreeMap;

use machine::rows::Incarnation;
use machine::{CallOutcome, EffectId, Input, Offset};

use super::Seen;
use crate::subscriptions::model::{Life, Wake};
use crate::subscriptions::receivers::Attempt;
use crate::subscriptions::world::Place;

/// What a turn handles.
#[derive(Clone, Debug)]
pub(in crate::subscriptions) enum Cause {
    /// The end of an attempt to deliver a wake.
    Attempt {
        wake: Wake,
        is_success: bool,
        /// Whether the receiver has said that it is done.
        is_done: bool,
        /// Whether the object may have given it up.
        may_be_lost: bool,
    },
    Other,
}

impl Cause {
    pub(in crate::subscriptions) fn of(
        input: &Input,
        place: &Place,
        attempts: &BTreeMap<(Place, EffectId), Attempt>,
        now: u64,
    ) -> Self {
        let Input::CallFinished { effect, outcome } = input else {
            return Self::Other;
        };
        let Some(attempt) = attempts.get(&(place.clone(), *effect)) else {
            return Self::Other;
        };
        let body = match outcome {
            CallOutcome::Answered {
                status: 200..=299,
                body,
            } => Some(body),
            CallOutcome::Answered { .. } | CallOutcome::Failed => None,
        };
        let value: Option<serde_json::Value> =
            body.and_then(|body| serde_json::from_slice(body).ok());
        Self::Attempt {
            wake: attempt.wake.clone(),
            is_success: body.is_some(),
            is_done: value.is_some_and(|value| value["done"] == true),
            may_be_lost: attempt.lost_at <= now,
        }
    }
}

/// What is known of a turn when its effects leave.
#[derive(Clone, Debug, Default)]
pub(in crate::subscriptions) struct Departed {
    /// The subscription that is there after the turn.
    pub(in crate::subscriptions) of: Option<Life>,
    /// The subscription that the turn has deleted.
    pub(in crate::subscriptions) ended: Option<Life>,
    /// The id of a deleted subscription that the turn has forgotten.
    pub(super) forgotten: Option<String>,
    /// The streams that its links belong to.
    pub(in crate::subscriptions) streams: BTreeMap<String, Incarnation>,
    /// Its cursors.
    pub(in crate::subscriptions) cursors: BTreeMap<String, Option<Offset>>,
    pub(in crate::subscriptions) lease_ms: u64,
    /// How often in a row a delivery had failed before the turn.
    pub(super) failures: u64,
    /// Wakes whose receiver has taken them.
    pub(super) delivered: Vec<String>,
    /// Whether a delivery has succeeded.
    pub(super) succeeds: bool,
    /// The time of the turn.
    pub(in crate::subscriptions) at: u64,
}

impl Departed {
    pub(in crate::subscriptions) fn new(seen: &Seen<'_>, at: u64) -> Self {
        let Some(id) = seen.id else {
            return Self {
                at,
                ..Self::default()
            };
        };
        let life_of = |head: &crate::subscriptions::view::Head| (id.to_owned(), head.incarnation);
        let of = seen.after.live().map(life_of);
        let was = seen.before.live().map(life_of);
        let links = seen.after.links.iter();
        let mut delivered: Vec<_> = seen
            .worked()
            .filter(|(_, is_accepted)| *is_accepted)
            .map(|(work, _)| work.wake.clone())
            .collect();
        // A receiver that calls back has the wake, whatever becomes of its answer.
        let mut succeeds = !delivered.is_empty();
        if let Cause::Attempt {
            wake,
            is_success: true,
            may_be_lost,
            ..
        } = seen.cause
        {
            succeeds = true;
            delivered.extend((!may_be_lost).then(|| wake.id.clone()));
        }
        let head = seen.before.head.as_ref();
        let failures = head.map_or(0, |head| head.retry.failures);
        let is_forgotten = seen.before.head.is_some() && seen.after.head.is_none();
        Self {
            ended: was.filter(|was| of.as_ref() != Some(was)),
            forgotten: is_forgotten.then(|| id.to_owned()),
            streams: links
                .clone()
                .filter_map(|(name, link)| Some((name.clone(), link.incarnation?)))
                .collect(),
            cursors: links
                .map(|(name, link)| (name.clone(), link.acked))
                .collect(),
            lease_ms: seen.after.live().map_or(0, |head| head.config.lease_ttl_ms),
            failures: if succeeds { 0 } else { failures },
            delivered,
            succeeds,
            at,
            of,
        }
    }
}
