//! What runs with subscriptions come across.

use crate::coverage::{Breakable, Counts, Nothing};
use crate::named;

named! {
    /// A situation that some of many runs must come across. Otherwise the runs prove nothing.
    Situation, SITUATIONS {
        Created: "subscription created",
        Confirmed: "subscription confirmed by a repeated PUT",
        OtherConfiguration: "PUT of another configuration refused",
        DirectoryFull: "subscription refused because the directory is full",
        RefusedUrl: "URL refused at creation",
        ForbiddenLater: "URL refused at an attempt",
        Deleted: "subscription deleted",
        DeletedDuringCreation: "subscription deleted before its creation was answered",
        Recreated: "subscription created again under an old id",
        TombstoneGone: "deleted subscription forgotten",
        StreamAdded: "stream added to a subscription",
        StreamRemoved: "stream removed from a subscription",
        StreamRecreated: "linked stream created again under an old name",
        StreamExpired: "linked stream expired",
        LinkedLate: "stream linked that was created after the subscription",
        LinkedBackfill: "stream linked that the directory listed",
        Woken: "wake delivered",
        WokenAgain: "wake delivered again",
        NextWake: "end of a wake that begins the next one",
        DoneInAnswer: "wake ended by the answer to its webhook",
        DoneByCallback: "wake ended by a callback",
        DoneTwice: "wake ended by a callback before its webhook was answered",
        LateAnswer: "webhook answered after its wake had ended",
        LeaseEnded: "lease that ended",
        Held: "stream told to hold",
        Claimed: "wake claimed",
        ClaimBusy: "claim refused because another worker has the wake",
        ClaimNothing: "claim refused because nothing is pending",
        ClaimAtOnce: "claim right after an append",
        Acked: "ack accepted",
        AckedPart: "ack before the tail",
        AckRefused: "ack refused because of an offset",
        AckUnanswered: "ack answered 503 because a stream did not say its tail",
        AckHalf: "ack refused with a good and a bad offset",
        Released: "wake released",
        Fenced: "request of an earlier wake refused",
        TokenRefused: "request with a token of another subscription refused",
        EventWritten: "wake event written",
        EventRepeated: "wake event written again without effect",
        WakeStreamGone: "wake stream deleted",
        KeyRotated: "webhook signed by another key than the one before",
        KeyGiven: "webhook signed by another key after the operator gave one",
        SignatureLater: "signature verified at the end of the replay window",
        CostCompared: "append compared with one without subscriptions",
        CrashLostTurn: "crash that lost a turn",
        CrashKeptTurn: "crash after a commit, before its effects",
        CrashAttempt: "crash during an attempt",
        CrashCreating: "crash during the creation of a subscription",
        SessionCreated: "session created",
        SessionDeleted: "session deleted",
        SessionExpired: "session expired",
        SessionForgotten: "expired session forgotten",
        SessionGone: "request of an expired session refused",
        SessionUnknown: "request of an unknown or deleted session refused",
        SessionRead: "stream of a session read",
        SessionWriteRefused: "write of a client to the stream of a session refused",
        SessionSubscribed: "session subscribed from the tail",
        SessionSubscribedFrom: "session subscribed from an offset",
        SessionUnsubscribed: "session unsubscribed",
        FormerSubscription: "former subscription of a session brought back by a late call",
        SessionNoStream: "subscription of a session to no stream refused",
        SessionNoSuchOffset: "subscription of a session from no such offset refused",
        SessionLimit: "subscription of a session beyond a limit refused",
        SessionAtRest: "session at rest with all that it should have",
        EnvelopeArrived: "envelopes that arrived",
        EnvelopePage: "several envelopes in one append",
        EnvelopeArray: "envelope of several messages",
        EnvelopeBytes: "envelope of bytes",
        EnvelopeOmitted: "envelope without content",
        QueueUsed: "sessions told through the queue",
        QueueRefused: "queue that took nothing",
        QueueUncertain: "queue that took some or all, and said that it did not",
        QueueRepeated: "message of the queue brought again",
        QueueRetried: "message of the queue tried again after a failure",
        QueueGaveBack: "message of the queue given back to its stream",
        QueueEnded: "message of the queue for a session that had ended",
        QueuePaged: "message of the queue that took several pages",
        EnvelopeKnown: "envelopes behind what the session had from a former subscription",
    }
}

named! {
    /// Something that breaks. Each run draws how often, if at all.
    Fault, FAULTS {
        /// An object dies: before its turns are durable, after that, or between its effects.
        Crash: "crash",
        /// A call between objects, or its answer, is lost, late or duplicated.
        Call: "call",
        /// The outcome of a call or of a webhook is never reported.
        Silence: "silence",
        AlarmLate: "alarm late",
        AlarmTwice: "alarm twice",
        AlarmEarly: "alarm early",
        /// Storage does not answer, and the object dies.
        Read: "read",
        /// An instance has another clock than its predecessor.
        Clock: "clock",
        /// A receiver of webhooks fails, or does not do what it should.
        Receiver: "receiver",
        /// A worker fails, or does not do what it should.
        Worker: "worker",
        /// The queue takes nothing, takes some, or brings messages twice or late.
        Queue: "queue",
    }
}

impl Breakable for Fault {
    fn change(self) -> &'static str {
        match self {
            Self::Crash => "an instance was lost",
            Self::Call => "a call did not go as usual",
            Self::Silence => "a caller was not told an outcome",
            Self::AlarmLate => "an alarm came after its time",
            Self::AlarmTwice => "an alarm came again",
            Self::AlarmEarly => "an alarm came before its time",
            Self::Read => "an instance was lost in the middle of a turn",
            Self::Clock => "a clock was wrong",
            Self::Receiver => "a webhook was not handled as it should be",
            Self::Queue => "the queue did not do as usual",
            Self::Worker => "a wake was not handled as it should be",
        }
    }
}

/// What one run or many have come across.
pub type Coverage = Counts<Situation, Fault, Nothing>;
