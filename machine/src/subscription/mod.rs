//! A subscription (protocol 6 and 7): durable cursors over streams, and a wake for the worker that
//! follows them.
//!
//! What a subscription knows of a stream comes from the stream: the answer to [`LinkCall::Link`],
//! then a [`Notify`](crate::wire::control::Notify) whenever the tail has moved. While the
//! subscription is busy, a second one is answered with *hold*, and the stream says nothing more
//! until it is asked. So a stream that is written all the time costs a busy subscription two calls.
//!
//! `requests.rs` has what clients ask, `links.rs` what streams and the directory say, `wake.rs` the
//! wakes and their deliveries, `inquiry.rs` what operators ask.

pub(crate) mod glob;
mod inquiry;
pub(crate) mod links;
mod requests;
pub(crate) mod signing;
mod token;
mod wake;
pub(crate) mod webhook_url;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::control::{Changes, Step, each_row, stored, to_json};
use crate::rows::Incarnation;
use crate::storage::{Storage, StorageError};
use crate::timer::Timers;
use crate::wire::control::{Action, SubscriptionCall};
use crate::{Answer, CallId, EffectId, Limits, Millis, Offset, TimerReason};

const LINK: &str = "link/";

/// The row of a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The id in canonical spelling, as in the name of the object.
    name: String,
    id: String,
    incarnation: Incarnation,
    config: Config,
    /// The start of URLs that receivers are given.
    base: Option<String>,
    created_at: Millis,
    /// How many subscriptions of this id have come before it, as far as that is remembered.
    #[serde(default)]
    predecessors: u64,
    /// Signs the tokens of this subscription.
    secret: Secret,
    /// The number of the last wake. It never goes back, even if the subscription is created anew.
    generation: u64,
    stage: Stage,
    wake: Option<Wake>,
    retry: Retry,
    /// The id of the key that signed last. A webhook says which one has signed it.
    kid: Option<String>,
}

/// 32 random bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret([u8; 32]);

impl core::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// What a client asked for at creation, in normal form (protocol 6.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    delivery: Delivery,
    /// As the client wrote it.
    pattern: Option<String>,
    /// Canonical names, sorted.
    streams: Vec<String>,
    lease_ttl_ms: u64,
    description: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Delivery {
    Webhook { url: String },
    PullWake { wake_stream: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    /// Shards of the directory whose streams are not all linked yet.
    Creating {
        shards: BTreeSet<u64>,
    },
    Ready,
    /// The row stays for a while, so that no token of this subscription fits a later one.
    Deleted {
        at: Millis,
    },
}

/// The wake that is in flight (protocol 7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wake {
    id: String,
    /// Who has claimed it.
    holder: Option<String>,
    /// When its lease ends; `None` until somebody has claimed it.
    leased_until: Option<Millis>,
    /// Whether its receiver has taken it. Only a webhook has one.
    is_delivered: bool,
}

/// The schedule of a webhook's attempts. It outlives the wakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Retry {
    /// How often in a row a delivery has failed.
    failures: u64,
    /// No attempt begins before.
    next_attempt_at: Option<Millis>,
    /// Why the last one failed.
    error: Option<String>,
}

/// A stream that the subscription follows: one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Link {
    is_explicit: bool,
    is_by_pattern: bool,
    /// Whether the stream has not answered yet.
    is_linking: bool,
    /// The stream that the offsets belong to; `None` if there was none.
    incarnation: Option<Incarnation>,
    /// The last processed offset; `None` before the first, which the protocol writes as `-1`.
    acked: Option<Offset>,
    /// The tail, as far as it is known; `None` if there is no stream.
    tail: Option<Offset>,
    /// Whether the stream says nothing until it is asked.
    is_held: bool,
    /// Whether a stored task asks it.
    is_asked: bool,
}

impl Link {
    /// Returns whether there are events behind the cursor.
    fn is_pending(&self) -> bool {
        let acked = self.acked.unwrap_or(Offset::START);
        self.tail.is_some_and(|tail| tail > acked)
    }

    fn kind(&self) -> &'static str {
        if self.is_explicit { "explicit" } else { "glob" }
    }
}

/// An instance of a subscription.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscription {
    head: Option<Head>,
    links: BTreeMap<String, Link>,
    changed: Changed,
    key: SigningKey,
    attempt: Option<wake::Attempt>,
    /// The last task that appends a wake event, unless it is known to be done.
    event: Option<u64>,
    /// Calls that are answered once all streams are linked.
    linking_calls: Vec<LinkingCall>,
    /// Calls that are answered once some streams have said their tails.
    rounds: Vec<Round>,
    /// Claims that came while the streams were asked for others. The next round is for all of them.
    next_claims: Vec<(CallId, SubscriptionCall)>,
    /// The streams that are asked for these calls, with their questions.
    asks: BTreeMap<EffectId, String>,
    /// Streams of which two questions have been under way at the same time.
    contested: BTreeSet<String>,
}

#[derive(Clone, Debug, Default)]
struct Changed {
    head: bool,
    links: BTreeSet<String>,
}

/// The key that signs webhooks. Only in memory, because the keys rotate.
#[derive(Clone, Debug, Default)]
struct SigningKey {
    known: Option<(signing::KeyPair, Millis)>,
    call: Option<(EffectId, Millis)>,
    failures: u64,
    retry_at: Millis,
}

#[derive(Clone, Debug)]
struct LinkingCall {
    id: CallId,
    answer: LinkingAnswer,
    /// Whether a stream that the call has added takes no more subscriptions.
    is_refused: bool,
    due_at: Millis,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LinkingAnswer {
    /// The subscription, with this status.
    Described(u16),
    /// Nothing, because the call has added these streams.
    Added(BTreeSet<String>),
}

/// Some streams are asked for their tails, because calls need them.
#[derive(Clone, Debug)]
struct Round {
    /// One call, or several claims.
    calls: Vec<(CallId, SubscriptionCall)>,
    /// The questions that are not answered yet.
    asks: BTreeSet<EffectId>,
    asked: Asked,
    due_at: Millis,
    /// Whether the questions leave after the present step.
    is_new: bool,
}

impl Round {
    fn is_of_claims(&self) -> bool {
        self.calls
            .iter()
            .all(|(_, call)| call.action == Action::Claim)
    }
}

/// The streams that were asked for a call.
#[derive(Clone, Debug, Default)]
struct Asked {
    streams: BTreeSet<String>,
    /// Whether one of them has not answered.
    has_failed: bool,
}

impl Subscription {
    /// Creates an instance over stored rows.
    pub(crate) fn recall(head: Head, storage: &dyn Storage) -> Result<Self, StorageError> {
        let mut links = BTreeMap::new();
        each_row(storage, LINK, &mut |stream, row| {
            links.insert(stream.to_owned(), stored(row)?);
            Ok(())
        })?;
        Ok(Self {
            head: Some(head),
            links,
            ..Self::default()
        })
    }

    pub(crate) const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Returns the head of a subscription that is not deleted.
    fn live(&self) -> Option<&Head> {
        let head = self.head.as_ref();
        head.filter(|head| !matches!(head.stage, Stage::Deleted { .. }))
    }

    /// Returns the head of a subscription that is not deleted, to change it.
    fn live_mut(&mut self) -> Option<&mut Head> {
        self.changed.head = true;
        let head = self.head.as_mut();
        head.filter(|head| !matches!(head.stage, Stage::Deleted { .. }))
    }

    fn link_mut(&mut self, stream: &str) -> Option<&mut Link> {
        let link = self.links.get_mut(stream)?;
        self.changed.links.insert(stream.to_owned());
        Some(link)
    }

    fn insert_link(&mut self, stream: &str, link: Link) {
        self.changed.links.insert(stream.to_owned());
        self.links.insert(stream.to_owned(), link);
    }

    fn remove_link(&mut self, stream: &str) {
        if self.links.remove(stream).is_some() {
            self.changed.links.insert(stream.to_owned());
        }
    }

    fn is_linking(&self) -> bool {
        self.links.values().any(|link| link.is_linking)
    }

    fn is_pending(&self) -> bool {
        self.links.values().any(Link::is_pending)
    }

    /// Finishes a step: answers what can be answered, begins what is due, and returns what has
    /// changed.
    pub(crate) fn advance(&mut self, step: &mut Step<'_>) -> Result<Changes, StorageError> {
        self.end_overdue_calls(step)?;
        self.end_overdue_key(step);
        self.finish_linking(step);
        self.forget_if_deleted(step);
        if self.is_ready() {
            self.end_overdue_lease(step)?;
            self.wake_if_pending(step)?;
            if self.live().is_some_and(|head| head.wake.is_none()) {
                // Their answers may have been lost or contradicted each other.
                self.ask_held(step)?;
            }
            self.deliver(step);
        } else if self.live().is_some() {
            self.fetch_key(step);
        }
        for round in &mut self.rounds {
            round.is_new = false;
        }
        assert!(
            self.next_claims.is_empty() || self.rounds.iter().any(Round::is_of_claims),
            "claims wait only while the streams are asked for others"
        );
        let changed = core::mem::take(&mut self.changed);
        let links = changed.links.into_iter().map(|stream| {
            let body = self.links.get(&stream).map(to_json);
            (format!("{LINK}{stream}"), body)
        });
        Ok(Changes {
            head: changed.head,
            rows: links.collect(),
        })
    }

    fn is_ready(&self) -> bool {
        self.live().is_some_and(|head| head.stage == Stage::Ready)
    }

    /// Answers the calls that have waited for too long.
    fn end_overdue_calls(&mut self, step: &mut Step<'_>) -> Result<(), StorageError> {
        let now = step.now;
        let overdue = self.linking_calls.extract_if(.., |call| call.due_at <= now);
        for LinkingCall { id, .. } in overdue {
            step.answer(id, Answer::unavailable(step.limits));
        }
        let overdue = self.rounds.extract_if(.., |round| round.due_at <= now);
        for mut round in overdue.collect::<Vec<_>>() {
            for ask in &round.asks {
                self.asks.remove(ask);
            }
            round.asked.has_failed = true;
            self.end_round(step, round)?;
        }
        Ok(())
    }

    /// Goes on with the calls of a round.
    fn end_round(&mut self, step: &mut Step<'_>, round: Round) -> Result<(), StorageError> {
        let is_of_claims = round.is_of_claims();
        for (id, call) in round.calls {
            self.act(step, id, call, round.asked.clone())?;
        }
        if is_of_claims {
            for (id, call) in core::mem::take(&mut self.next_claims) {
                self.act(step, id, call, Asked::default())?;
            }
        }
        Ok(())
    }

    /// Removes the row of a deleted subscription when no token of it can be valid any more.
    fn forget_if_deleted(&mut self, step: &Step<'_>) {
        let Some(Stage::Deleted { at }) = self.head.as_ref().map(|head| &head.stage) else {
            return;
        };
        if step.outbox.is_empty() && step.now >= at.plus(step.limits.token_ms) {
            assert!(self.links.is_empty(), "a deleted subscription has no links");
            self.head = None;
            self.changed.head = true;
        }
    }

    /// Returns when the subscription needs its next steps.
    /// `is_done` says whether no task remains.
    pub(crate) fn timers(&self, is_done: bool, limits: &Limits) -> Timers<4> {
        let calls = self.linking_calls.iter().map(|call| call.due_at);
        let rounds = self.rounds.iter().map(|round| round.due_at);
        let key = self
            .key
            .call
            .map(|(_, since)| since.plus(limits.reply_timeout_ms));
        let attempt = self.attempt.as_ref().map(|attempt| attempt.lost_at(limits));
        let reply = calls.chain(rounds).chain(key).chain(attempt).min();
        let deleted = self.head.as_ref().and_then(|head| match head.stage {
            // The end of the last task is a step, too.
            Stage::Deleted { at } if is_done => Some(at.plus(limits.token_ms)),
            Stage::Creating { .. } | Stage::Ready | Stage::Deleted { .. } => None,
        });
        let lease = self
            .live()
            .and_then(|head| head.wake.as_ref()?.leased_until);
        [
            TimerReason::Answer.at(reply),
            TimerReason::Tombstone.at(deleted),
            TimerReason::Lease.at(lease),
            TimerReason::Attempt.at(self.attempts_at()),
        ]
    }
}
