//! What runs with forks come across.

use crate::coverage::{Breakable, Counts, Nothing};
use crate::named;

named! {
    /// A situation that some of many runs must come across. Otherwise the runs prove nothing.
    Situation, SITUATIONS {
        Forked: "fork created",
        ForkedDeep: "fork of a fork created",
        ForkedAtOffset: "fork at an offset before the tail",
        ForkedInside: "fork inside an append",
        ForkedInherited: "fork inside an append that the source has inherited",
        ForkedClosed: "fork of a closed stream",
        ForkedWithBody: "fork with initial content",
        Repeated: "fork confirmed by a repeated PUT",
        RepeatedAfterChange: "fork confirmed after its source had grown or gone",
        TwoCreations: "two creations of one name at once",
        RefusedAbsent: "fork refused because its source does not exist",
        RefusedHidden: "fork refused because its source was deleted",
        RefusedType: "fork refused because of its content type",
        RefusedOffset: "fork refused because of its offset or sub-offset",
        RefusedBody: "fork refused because of its body",
        RefusedTooMany: "fork refused because the source has too many",
        RefusedTooDeep: "fork refused because the chain is too long",
        Unavailable: "fork that could not be created in time",
        Deleted: "stream deleted",
        Hidden: "stream deleted while forks need it",
        ExpiredHidden: "stream expired while forks need it",
        Freed: "deleted stream freed by its last fork",
        Cascade: "deleted fork freed, which frees its source",
        Abandoned: "pin released without a fork",
        PinTwice: "pin asked for again",
        PinLate: "pin asked for after its release",
        ReleasedTwice: "pin released again",
        ReleaseOfFormer: "release for a former incarnation of the source",
        ForkBesideDelete: "source deleted during the creation of a fork",
        CreatedAgain: "stream created again under an old name",
        GoneAnswered: "request to a deleted stream that forks need",
        ReadAcross: "page with inherited and own content",
        ReadBrokenOff: "read broken off because its stream has ended",
        ReadGoesOn: "answer of several pages",
        ProducerAgain: "producer that the source knows begins anew on the fork",
        Expired: "stream expired",
        CrashLostTurn: "crash that lost a turn",
        CrashKeptTurn: "crash after a commit, before its effects",
        CrashWaiting: "crash of an object that waits for a source",
    }
}

named! {
    /// Something that breaks. Each run draws how often, if at all.
    Fault, FAULTS {
        /// An object dies: before its turns are durable, after that, or between its effects.
        Crash: "crash",
        /// A call between objects, or its answer, is lost, late or duplicated.
        Call: "call",
        /// The outcome of a call is never reported.
        Silence: "silence",
        Put: "put",
        Collect: "collect",
        AlarmLate: "alarm late",
        AlarmTwice: "alarm twice",
        /// Storage does not answer, and the object dies.
        Read: "read",
    }
}

impl Breakable for Fault {
    fn change(self) -> &'static str {
        match self {
            Self::Crash => "an instance was lost",
            Self::Call => "a call did not go as usual",
            Self::Silence => "a caller was not told an outcome",
            Self::Put => "an object was not stored, or late, or without a report",
            Self::Collect => "objects were not deleted, or late, or without a report",
            Self::AlarmLate => "an alarm came after its time",
            Self::AlarmTwice => "an alarm came again",
            Self::Read => "an instance was lost in the middle of a turn",
        }
    }
}

/// What one run or many have come across.
pub type Coverage = Counts<Situation, Fault, Nothing>;
