//! What runs come across: situations that some of many runs must show, watermarks that say how far
//! they went, and faults with the difference that they made.

use core::fmt::Debug;
use core::marker::PhantomData;

/// An enumeration with a text for each value.
pub trait Listed: Copy + Debug + 'static {
    const ALL: &'static [Self];

    fn text(self) -> &'static str;

    /// Returns its position in [`Self::ALL`].
    fn index(self) -> usize;
}

/// Something that breaks.
pub trait Breakable: Listed {
    /// Returns the difference that it makes.
    fn change(self) -> &'static str;
}

/// An enumeration without values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {}

impl Listed for Nothing {
    const ALL: &'static [Self] = &[];

    fn text(self) -> &'static str {
        match self {}
    }

    fn index(self) -> usize {
        match self {}
    }
}

/// Declares an enumeration with a text for each variant, and a constant with their number.
#[macro_export]
macro_rules! named {
    (
        $(#[$outer:meta])*
        $name:ident, $count:ident {
            $($(#[$inner:meta])* $variant:ident: $text:literal,)*
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$inner])* $variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl $crate::coverage::Listed for $name {
            const ALL: &'static [Self] = Self::ALL;

            fn text(self) -> &'static str {
                self.text()
            }

            fn index(self) -> usize {
                self as usize
            }
        }

        pub const $count: usize = $name::ALL.len();
    };
}

named! {
    /// A situation that some of many runs must come across. Otherwise the runs prove nothing.
    Situation, SITUATIONS {
        Crash: "crash",
        CrashLostCommit: "crash that lost a commit",
        CrashKeptUnanswered: "crash with a commit durable but unanswered",
        CrashLostCreation: "crash that lost a creation",
        CrashLostDeletion: "crash that lost a deletion or an expiry",
        TurnFailed: "turn failed",
        Hibernated: "hibernated with readers at the tail",
        Evicted: "evicted",
        StaleAnswered: "stale instance answered",
        StaleStopped: "stale instance touched its storage",
        ClockWentBack: "instance with a clock behind the last one's",
        RequestLost: "request lost",
        AnswerLost: "answer lost",
        DuplicateInFlight: "request sent twice",
        SlowBody: "another turn while a body came in",
        CommitsQueued: "three commits on their way at once",
        AppendsTogether: "several appends in one turn",
        AppendsFolded: "several appends in one row",
        AppendDeferred: "an append put off by a seal",
        QueueFull: "an append refused because too many wait",
        AlarmFired: "alarm",
        AlarmLate: "alarm late",
        AlarmEarly: "alarm early",
        AlarmTwice: "alarm twice",
        AlarmRetried: "alarm tried again after a failure",
        AlarmAbandoned: "alarm given up after seven tries",
        AlarmNotMoved: "alarm at the time it was moved from",
        ExpiredByAlarm: "expired by alarm",
        ExpiredByCall: "expired as a call came",
        ExpiredLate: "expired late because an instance was lost",
        ExpiredUnderReader: "Expires-At reached under a reader",
        KeptByReader: "kept alive by a reader at the tail",
        DeletedUnderReader: "deleted under a reader",
        CreatedAgain: "created again under an old name",
        Confirmed: "creation confirmed",
        ExistsOtherwise: "creation refused because it exists otherwise",
        SeveralRows: "append over several rows",
        MessageOverRows: "one message over several rows",
        PageCut: "page that ends before the tail",
        NotModified: "not modified",
        ChangedByClose: "entity tag changed by closing alone",
        Duplicate: "duplicate of a producer",
        DuplicateAfterCrash: "duplicate of an append whose answer a crash had swallowed",
        EpochFenced: "epoch fenced",
        EpochRaised: "epoch raised",
        SequenceGap: "sequence gap",
        SequenceRegression: "Stream-Seq regression",
        TailElsewhere: "append refused because the tail is not where it was expected",
        TailExpected: "append at the expected offset",
        TailAsEnd: "append at the expected offset, as the end of a sealed segment",
        TailAsStart: "append at the expected offset, as the start of the segment after it",
        PreconditionFailed: "write refused because the stream is in another state",
        PreconditionMet: "write on the condition of a state",
        ConditionalDuplicate: "duplicate of an append whose condition no longer holds",
        ClosingRepeated: "closing append repeated",
        AppendToClosed: "append to a closed stream refused",
        TooLarge: "body too large",
        BadRequest: "bad request",
        LongPollWoken: "long-poll woken by an append",
        LongPollClosed: "long-poll woken by a close",
        LongPollGone: "long-poll woken by an end",
        LongPollTimeout: "long-poll timed out",
        LongPollReconnected: "long-poll whose connection was cut",
        EventsPushed: "events pushed over a connection",
        EventsPaged: "events read as a page",
        EventsResumed: "events resumed from the last one's id",
        EventsNotAgain: "no events for a reader at the end of a closed stream",
        EventsClosed: "event stream ended by a close",
        EventsAged: "event stream ended by age",
        EventsGone: "event stream ended by an end of the stream",
        Heartbeat: "heartbeat",
        ConnectionCut: "connection cut",
        FrameNotWhole: "append announced, not pushed",
        ReaderFull: "reader that fell behind and let go of its connection",
        ReaderLeft: "reader left",
        ConnectionUnwanted: "connection for a reader that is gone",
        ConnectFailed: "connection attempt failed",
        Sealed: "segment sealed",
        SealedByAge: "segment sealed by age",
        SealedByClose: "segment sealed by a close",
        TwoUnstored: "closed with two unstored segments",
        AppendDuringPut: "append while a sealed segment waits for the cold tier",
        SealedDuringPut: "segment sealed while another waits for the cold tier",
        StoredAfterOutage: "segment stored while others wait behind it",
        ProducersForgotten: "idle producers forgotten",
        Stored: "segment stored",
        PutFailed: "put failed",
        PutStoredUnreported: "put stored but reported failed, and tried again",
        PutUnanswered: "put never answered",
        PutLate: "put that landed late",
        PutAfterEnd: "put that landed after the end of its stream",
        PutCut: "put whose rows were dropped or whose instance died under it",
        StoredByEarlier: "stored by an earlier attempt",
        CrashBetweenPutAndRow: "instance lost between put and row",
        DeletedDuringPut: "stream ended while a put was under way",
        CreatedDuringCollection: "created again while the former's objects are there",
        ReadDuringDrop: "answer under way while its segment's rows are dropped or its stream ends",
        PageStitched: "page of several segments",
        PageColdAndHot: "page partly cold and partly hot",
        PageFromMiddle: "page that begins within a cold segment",
        PageFromInside: "page asked for from inside an append",
        PageFromInsideCold: "the same, in a cold segment",
        GetFailed: "object of an answer that cannot be read",
        WholeRead: "answer of several pages",
        WholeReadFixed: "answer of several pages that ends before what was appended meanwhile",
        WholeReadMoved: "answer of several pages that another instance has gone on with",
        WholeReadGone: "answer of several pages broken off by the end of its stream",
        CollectionInBatches: "collection in several batches",
        CollectionFailed: "collection failed",
        CollectionRepeated: "object to be collected that was not there",
        Collected: "object collected",
        RegistryCreated: "registry created on demand",
        RegistryRetried: "registry event known by its producer",
        QueueUnloaded: "queue of the outbox unloaded while it failed",
        MessageLost: "message lost",
        MessageTwice: "message delivered twice",
        MessageLate: "message late",
        IndexLate: "index statement of a former stream, too late",
        IndexRepeated: "index statement repeated",
        CacheStored: "answer stored by a cache",
        CacheRefused: "answer that a cache may not store",
        CacheHit: "answer of a cache",
        CacheHitOther: "answer of a cache that another client had asked for",
        CacheHitFormer: "answer of a cache about a former stream",
        CacheHitLongPoll: "answer of a cache to a long-poll",
        CacheStale: "stale answer of a cache that asks again",
        CacheRevalidated: "answer of a cache found to be unchanged",
        CacheReplaced: "answer of a cache found to be outdated",
        CacheInvalidated: "answer of a cache forgotten after a write",
        Settled: "nothing left to do, and nothing left behind",
    }
}

named! {
    /// A quantity whose maximum over all runs is shown.
    Watermark, WATERMARKS {
        Units: "longest stream (messages or bytes)",
        Rows: "most rows",
        Connections: "most connections to one object",
        Commits: "most commits on their way",
        Attempts: "most attempts of one request",
        AlarmTries: "most tries of one alarm",
        Incarnations: "most creations of one name",
        ConnectionAttempts: "most connection attempts of one reader",
        Events: "most events of one run",
        SimulatedSeconds: "longest run (simulated seconds)",
        TapeBytes: "longest tape (bytes)",
        Segments: "most sealed segments of one stream",
        Unstored: "most segments that wait for the cold tier",
        PutAttempts: "most puts of one segment",
        Outbox: "most tasks of one object",
        IdleAlarms: "most alarms in a row that changed nothing",
        StaleAlarms: "most alarms in a row set for a time that has passed",
        EventsAtOnce: "most events of one moment",
        StepReads: "most reads of storage in one step",
    }
}

named! {
    /// Something that breaks. Each run draws how often, if at all.
    Fault, FAULTS {
        /// After a turn: the instance dies before its commits are durable, or while they become so.
        Crash: "crash",
        /// After a crash: the old instance goes on with the requests that it has begun.
        StaleInstance: "stale instance",
        /// A turn fails: nothing of it is stored, and the instance is dropped.
        TurnFails: "turn fails",
        /// After a turn: the instance sleeps once it is idle, and its connections stay.
        Hibernate: "hibernate",
        /// The same, but the object is moved and its connections are cut.
        Evict: "evict",
        RequestLost: "request lost",
        AnswerLost: "answer lost",
        /// A client sends a request twice.
        Duplicate: "duplicate",
        /// A request's body arrives slowly.
        SlowBody: "slow body",
        ConnectionCut: "connection cut",
        /// A reader is slow, or stops reading for a while.
        SlowReader: "slow reader",
        /// A reader leaves before its response ends.
        Leave: "leave",
        /// The object learns late, or never, that a connection was closed.
        GoneLate: "gone late",
        AlarmLate: "alarm late",
        AlarmEarly: "alarm early",
        AlarmTwice: "alarm twice",
        AlarmFails: "alarm fails",
        /// The scheduler does not learn that an alarm was removed or moved to a later time.
        AlarmNotMoved: "alarm not moved",
        /// A commit takes far longer than others.
        CommitStalls: "commit stalls",
        /// Events of the same time happen in another order.
        Reorder: "reorder",
        /// An object of the cold tier is not stored, is stored late, or is stored without a report.
        Put: "put",
        /// An object of the cold tier cannot be read.
        Get: "get",
        /// Objects are not deleted, are deleted late, or are deleted without a report.
        Collect: "collect",
        /// A message to another object or to the index, or its answer, is lost, late or duplicated.
        Message: "message",
        /// The cold tier receives and sends its objects piece by piece.
        Trickle: "trickle",
    }
}

impl Breakable for Fault {
    fn change(self) -> &'static str {
        match self {
            Self::Crash => "a commit, a request in hand or a connection was lost",
            Self::StaleInstance => "a request went on in a dead instance",
            Self::TurnFails => "a turn was taken back",
            Self::Hibernate => "an instance was dropped",
            Self::Evict => "an instance was dropped, and its connections were cut",
            Self::RequestLost => "a request did not arrive",
            Self::AnswerLost => "an answer did not arrive",
            Self::Duplicate => "the copy was sent on its way",
            Self::SlowBody => "another turn came before the body",
            Self::ConnectionCut => "a message did not arrive",
            Self::SlowReader => "something had to wait for the reader",
            Self::Leave => "the reader was still there to leave",
            Self::GoneLate => "later than the slowest network",
            Self::AlarmLate => "later than asked for",
            Self::AlarmEarly => "earlier than asked for",
            Self::AlarmTwice => "the handler was called again",
            Self::AlarmFails => "the handler was not called",
            Self::AlarmNotMoved => "it came when it should not have",
            Self::CommitStalls => "slower than the slowest other commit",
            Self::Reorder => "an event came before an older one",
            Self::Put => "an object was not stored, or late, or not known to be",
            Self::Get => "an answer was cut",
            Self::Collect => "an object was not deleted, or late, or not known to be",
            Self::Message => "a message or its answer was lost, late or doubled",
            Self::Trickle => "something came between two pieces",
        }
    }
}

/// The effect of one kind of fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs in which it could happen.
    pub runs: u64,
    /// How often it fired.
    pub fired: u64,
    /// How often that made a difference.
    pub changed: u64,
}

/// The coverage of the inner layer.
pub type Coverage = Counts<Situation, Fault, Watermark>;

/// Counts of all situations and faults, and the heights of all watermarks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts<S, F, W> {
    counts: Vec<u64>,
    heights: Vec<u64>,
    tallies: Vec<Tally>,
    of: PhantomData<fn(S, F, W)>,
}

impl<S: Listed, F: Listed, W: Listed> Default for Counts<S, F, W> {
    fn default() -> Self {
        Self {
            counts: vec![0; S::ALL.len()],
            heights: vec![0; W::ALL.len()],
            tallies: vec![Tally::default(); F::ALL.len()],
            of: PhantomData,
        }
    }
}

impl<S: Listed, F: Listed, W: Listed> Counts<S, F, W> {
    pub fn cover(&mut self, situation: S) {
        self.counts[situation.index()] += 1;
    }

    /// Notes that a fault can happen in this run.
    pub fn fault_is_on(&mut self, fault: F) {
        self.tallies[fault.index()].runs += 1;
    }

    pub fn fired(&mut self, fault: F) {
        self.tallies[fault.index()].fired += 1;
    }

    pub fn changed(&mut self, fault: F) {
        self.tallies[fault.index()].changed += 1;
    }

    pub fn raise(&mut self, watermark: W, height: u64) {
        let highest = &mut self.heights[watermark.index()];
        *highest = (*highest).max(height);
    }

    #[must_use]
    pub fn count(&self, situation: S) -> u64 {
        self.counts[situation.index()]
    }

    #[must_use]
    pub fn height(&self, watermark: W) -> u64 {
        self.heights[watermark.index()]
    }

    #[must_use]
    pub fn tally(&self, fault: F) -> Tally {
        self.tallies[fault.index()]
    }

    /// Adds the coverage of other runs.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.heights.iter_mut().zip(&other.heights) {
            *mine = (*mine).max(*theirs);
        }
        for (mine, theirs) in self.tallies.iter_mut().zip(&other.tallies) {
            mine.runs += theirs.runs;
            mine.fired += theirs.fired;
            mine.changed += theirs.changed;
        }
    }

    /// Returns everything as numbers, for another process.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        let tallies = self.tallies.iter();
        let tallies = tallies.flat_map(|tally| [tally.runs, tally.fired, tally.changed]);
        let counts = self.counts.iter().chain(&self.heights).copied();
        counts.chain(tallies)
    }

    /// Takes the numbers of another process; `None` when some are missing.
    pub fn from_numbers(mut numbers: impl Iterator<Item = u64>) -> Option<Self> {
        let mut coverage = Self::default();
        for count in coverage.counts.iter_mut().chain(&mut coverage.heights) {
            *count = numbers.next()?;
        }
        for tally in &mut coverage.tallies {
            tally.runs = numbers.next()?;
            tally.fired = numbers.next()?;
            tally.changed = numbers.next()?;
        }
        Some(coverage)
    }

    /// Returns the situations that no run has come across.
    pub fn missed(&self) -> impl Iterator<Item = S> {
        let all = S::ALL.iter().copied();
        all.filter(|situation| self.count(*situation) == 0)
    }

    /// Returns the faults that have changed nothing.
    pub fn inert(&self) -> impl Iterator<Item = F> {
        let all = F::ALL.iter().copied();
        all.filter(|fault| self.tally(*fault).changed == 0)
    }
}
