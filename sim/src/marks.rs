//! Marks: things that must happen in some of many runs, or the simulator proves nothing. Watermarks: how far it went.

macro_rules! named {
    ($(#[$outer:meta])* $name:ident, $count:ident { $($variant:ident: $text:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        const $count: usize = $name::ALL.len();
    };
}

named! {
    /// Something that a batch of runs must come across.
    Mark, MARKS {
        Crash: "crash",
        CrashLostCommit: "crash that lost a commit",
        CrashKeptUnanswered: "crash with a commit durable but unanswered",
        CrashLostCreation: "crash that lost a creation",
        CrashLostDeletion: "crash that lost a deletion or an expiry",
        TurnFailed: "turn failed",
        Hibernated: "hibernated with readers at the tail",
        Evicted: "evicted",
        ZombieAnswered: "zombie answered",
        ZombieKilled: "zombie touched its storage",
        ClockWentBack: "instance with a clock behind the last one's",
        RequestLost: "request lost",
        AnswerLost: "answer lost",
        DuplicateInFlight: "request sent twice",
        SlowBody: "another turn while a body came in",
        CommitsQueued: "three commits on their way at once",
        AlarmFired: "alarm",
        AlarmLate: "alarm late",
        AlarmEarly: "alarm early",
        AlarmTwice: "alarm twice",
        AlarmRetried: "alarm tried again after a failure",
        AlarmAbandoned: "alarm given up after six tries",
        AlarmNotMoved: "alarm at the time it was moved from",
        ExpiredByAlarm: "expired by alarm",
        ExpiredByCall: "expired as a call came",
        ExpiredLate: "expired late, for an instance was lost",
        ExpiredUnderReader: "Expires-At reached under a reader",
        KeptByReader: "kept alive by a reader at the tail",
        DeletedUnderReader: "deleted under a reader",
        CreatedAgain: "created again under an old name",
        Confirmed: "creation confirmed",
        ExistsOtherwise: "creation refused, for it exists otherwise",
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
        ClosingRepeated: "closing append repeated",
        AppendToClosed: "append to a closed stream refused",
        TooLarge: "body too large",
        BadRequest: "bad request",
        LongPollWoken: "long-poll woken by an append",
        LongPollClosed: "long-poll woken by a close",
        LongPollGone: "long-poll woken by an end",
        LongPollTimeout: "long-poll timed out",
        LongPollRedialled: "long-poll whose line was cut",
        EventsPushed: "events pushed over a line",
        EventsPaged: "events read as a page",
        EventsClosed: "event stream ended by a close",
        EventsAged: "event stream ended by age",
        EventsGone: "event stream ended by an end of the stream",
        Heartbeat: "heartbeat",
        LineCut: "line cut",
        FrameNotWhole: "append announced, not pushed",
        ReaderFull: "reader that fell behind and let go of its line",
        ReaderLeft: "reader left",
        LineUnwanted: "line for a reader that is no more",
        DialFailed: "dial failed",
    }
}

named! {
    /// The greatest that any run has seen of something.
    Watermark, WATERMARKS {
        Units: "longest stream (messages or bytes)",
        Rows: "most rows",
        Lines: "most lines to one object",
        Commits: "most commits on their way",
        Attempts: "most attempts of one request",
        AlarmTries: "most tries of one alarm",
        Lives: "most creations of one name",
        Dials: "most dials of one reader",
        Events: "most events of one run",
        SimulatedSeconds: "longest run (simulated seconds)",
        TapeBytes: "longest tape (bytes)",
    }
}

/// Counts of all marks, and all watermarks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    counts: [u64; MARKS],
    heights: [u64; WATERMARKS],
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            counts: [0; MARKS],
            heights: [0; WATERMARKS],
        }
    }
}

impl Marks {
    pub const fn hit(&mut self, mark: Mark) {
        self.counts[mark as usize] += 1;
    }

    pub fn reach(&mut self, watermark: Watermark, height: u64) {
        let place = &mut self.heights[watermark as usize];
        *place = (*place).max(height);
    }

    #[must_use]
    pub const fn count(&self, mark: Mark) -> u64 {
        self.counts[mark as usize]
    }

    #[must_use]
    pub const fn height(&self, watermark: Watermark) -> u64 {
        self.heights[watermark as usize]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.heights.iter_mut().zip(&other.heights) {
            *mine = (*mine).max(*theirs);
        }
    }

    /// The marks that nothing has hit.
    pub fn missed(&self) -> impl Iterator<Item = Mark> {
        Mark::ALL.iter().copied().filter(|mark| self.count(*mark) == 0)
    }
}
