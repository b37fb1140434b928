//! The oracles, by which runs are judged. Failures and planted faults refer to them by name.

mod alarms;
mod cached_reads;
mod checker;
mod entity_tags;
mod events;
mod exactly_once;
mod offset_law;
mod pages;
mod position;
mod quiescence;
mod recency;
mod rows;
mod segments;
mod turn;

use core::fmt;
use core::str::FromStr;

use serde::Deserialize;

pub use alarms::{ALARM_MAX, AlarmLoop, AlarmsArmed};
pub use cached_reads::CachedRead;
pub use checker::{AfterTurn, Checker, Checkers, Finding, Quiescent, Subject, Violation};
pub use entity_tags::{EntityTags, Named};
pub use events::{Delivery, Follower};
pub use exactly_once::{ExactlyOnce, Marked};
pub use offset_law::{OffsetLaw, units};
pub use pages::{Pages, Source, Tagged};
pub use position::Position;
pub use quiescence::{IndexListed, NoOrphans, RegistryComplete};
pub use recency::Recency;
pub use rows::RowsTile;
pub use segments::SegmentsTile;
pub use turn::{Broadcasts, Memory};

/// Declares an enumeration of oracles with a stable name and a meaning for each.
macro_rules! oracles {
    ($($variant:ident: $name:literal, $meaning:literal;)*) => {
        /// An oracle.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub enum Oracle { $(#[doc = $meaning] $variant,)* }

        impl Oracle {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns its name in reports and in the files of planted faults.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns what holds unless it fails, in one line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

oracles! {
    AlarmArmed: "alarm armed", "An alarm is set in time for all work that is due later.";
    AlarmLoop: "alarm loop", "Alarms that change nothing do not follow one another without end.";
    AlarmTime: "alarm", "An alarm is set for a time that the platform accepts.";
    Alarms: "alarms", "At the end the server's index lists no alarm that never fires.";
    Answers: "answers", "A client's answer is allowed by some state between its request and now.";
    CachedReads: "cached reads", "A read through a cache is no older than it may be, and hides nothing when up to date.";
    Causes: "causes", "Each durable change was requested by a request under way.";
    ColdAnswers: "cold answers", "A body fetched from the cold tier is the content that its answer names.";
    Contract: "contract", "A turn asks only for effects that the executor's contract allows.";
    Segments: "segments", "Segments and hot rows tile the stream, and stored objects hold the sealed content.";
    EntityTags: "entity tags", "One entity tag names one state of one stream.";
    Events: "events", "An event stream shows the content in order, and its control events are true.";
    ExactlyOnce: "exactly once", "Acknowledged appends are there, and a producer's append is there once.";
    Expiry: "expiry", "An expired stream is removed without a request.";
    Folds: "folds", "The appends of a turn share rows, as far as the limits allow and no further.";
    ForkAnswers: "fork answers", "The answer to each request among forks is one that their model allows.";
    ForkContent: "fork content", "A fork has exactly its prefix of the source and its own content, for ever.";
    ForkObjects: "fork objects", "The cold tier keeps what streams and their forks need, and at rest nothing else.";
    ForkOffsets: "fork offsets", "Fork and source have the same offsets up to where they part, and all offsets are in order.";
    ForksFreed: "forks freed", "A deleted stream is kept while it has forks, and no longer.";
    Index: "index", "The admin index lists exactly the existing streams and their stored segments.";
    Keys: "keys", "No key of the cold tier is used twice.";
    Liveness: "liveness", "After the last fault all operations end.";
    LongPoll: "long-poll", "A long-poll returns the content after its offset, or its answer has no content because none came.";
    Memory: "memory", "An instance remembers at most one producer for each append of the open segment.";
    Model: "model", "The answer to each request is one that the reference model allows.";
    NoLostWake: "no lost wake", "Each reader at the tail gets each change there.";
    OffsetLaw: "offset law", "The content at an offset is always the same, for every client.";
    Orphans: "orphans", "At the end, storage holds only what existing streams need.";
    Panic: "panic", "Nothing panics.";
    PrivateAnswers: "private answers", "No shared cache keeps an answer in private cache mode.";
    Pins: "pins", "Each fork keeps its source, once, and nothing else keeps it at rest.";
    Producers: "producers", "Idle producers are forgotten when a segment is sealed, and no others.";
    Recency: "recency", "An answer is never older than what clients knew when it was requested.";
    Registry: "registry", "The registry has each stream's creation and end, once and in order.";
    RowsTile: "rows tile", "Hot rows follow one another without gap or overlap, and end at the tail.";
    Run: "run", "The hosts of the simulated network run.";
    RunEnds: "an end", "A run comes to its end within a bounded number of events.";
    SamePages: "same pages", "A page ends at the same position whether it is hot or cold.";
    SameTags: "same tags", "The same content keeps its entity tag.";
    SegmentSize: "segment size", "No segment grows beyond its limits.";
    StepEnds: "a step ends", "A step reads its storage a bounded number of times.";
    Storage: "storage", "Each write can be carried out, and each row can be read again.";
    StorageFreed: "storage freed", "An ended stream leaves no rows and no tables.";
    TimeGoesOn: "time goes on", "A bounded number of events happens at one time.";
    Wire: "wire", "A response that was not cut is complete.";
    AppendCost: "append cost", "An append writes the same rows with subscriptions and sessions and without, alarms aside.";
    Envelopes: "envelopes", "A session gets each append once, in order and unchanged.";
    SessionAnswers: "session answers", "Sessions and their subscriptions are as clients were told, and end for a known reason.";
    SessionGaps: "session gaps", "At rest each session has everything of the streams that it has subscribed to.";
    SessionRows: "session rows", "Nothing is left of sessions and of streams that have ended.";
    SessionWriters: "session writers", "Nobody but the server writes the stream of a session.";
    Cursors: "cursors", "A cursor only moves forward, by what was acknowledged, and never past the durable tail.";
    Fencing: "fencing", "A request that is not one of the present wake is refused, and changes nothing.";
    Generations: "generations", "Each wake has a generation above all before it, and at most one holder.";
    NothingOld: "nothing old", "No wake offers what was acknowledged before its subscription was asked for.";
    RetrySchedule: "retry schedule", "Attempts to deliver are as far apart as the schedule says, and none follows a success.";
    Secrets: "secrets", "Nothing outside has a private key, or a token of another subscription.";
    Signatures: "signatures", "A webhook's signature verifies with the public keys of its time and for the replay window.";
    SubscriptionRows: "subscription rows", "Nothing is left of deleted subscriptions and ended streams.";
    Wakes: "wakes", "Each acknowledged append that a subscription follows is offered, and cursors reach the tails.";
    WebhookUrls: "webhook URLs", "No webhook leaves for a URL that is refused.";
}

impl fmt::Display for Oracle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// There is no oracle of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownOracle(String);

impl fmt::Display for UnknownOracle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:?} is no oracle; `cargo sim oracles` lists them",
            self.0
        )
    }
}

impl core::error::Error for UnknownOracle {}

impl FromStr for Oracle {
    type Err = UnknownOracle;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL
            .iter()
            .copied()
            .find(|oracle| oracle.name() == name);
        found.ok_or_else(|| UnknownOracle(name.to_owned()))
    }
}

impl TryFrom<String> for Oracle {
    type Error = UnknownOracle;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_oracle_has_a_name_of_its_own_and_one_line_of_meaning() {
        let names: BTreeSet<_> = Oracle::ALL.iter().map(|oracle| oracle.name()).collect();
        assert_eq!(names.len(), Oracle::ALL.len());
        for oracle in Oracle::ALL {
            assert_eq!(oracle.name().parse(), Ok(*oracle));
            assert!(oracle.meaning().ends_with('.') && !oracle.meaning().contains('\n'));
        }
        assert!("no such oracle".parse::<Oracle>().is_err());
    }
}
