//! What the runs of this layer must have come across, and what breaks in them.

use sim::coverage::Tally;

sim::named! {
    /// Something that a batch of runs must come across.
    Situation, SITUATIONS {
        LostCommit: "crash before a commit was durable",
        KeptUnanswered: "crash after a commit was durable, before its answers",
        CommitUnknownKept: "commit told to have failed, and durable",
        CommitUnknownLost: "commit told to have failed, and lost",
        CrashMidBody: "crash while a response was under way",
        EndedUnderReader: "server ended under a live reader",
        GroupCommit: "commit of several turns",
        GroupFailed: "turn failed with others waiting for the commit",
        PutToSleep: "stream opened again by the same server",
        RequestCut: "request cut before its end, without an effect",
        ResponseCut: "response cut before its end",
        SlowBody: "body in pieces",
        Duplicate: "duplicate of a producer",
        DuplicateAfterCrash: "duplicate of an append whose answer a crash had swallowed",
        EpochFenced: "epoch fenced",
        NotModified: "not modified",
        PageCut: "page that ends before the tail",
        WholeReadCut: "answer with everything, cut after its beginning",
        WholeReadGone: "answer with everything, cut after its beginning in a stream that has ended",
        BadRequest: "bad request",
        TooLarge: "body too large",
        Unavailable: "answered 503, for want of room or after a failure",
        LongPollWoken: "long-poll woken by an append",
        LongPollClosed: "long-poll ended by a close",
        LongPollGone: "long-poll ended by an end of the stream",
        LongPollTimeout: "long-poll timed out",
        Events: "events pushed to a reader at the tail",
        EventsPaged: "events read as a page",
        EventsClosed: "event stream ended by a close",
        EventsAged: "event stream ended by age",
        EventsGone: "event stream ended by an end of the stream",
        EventsSilent: "event stream given up, for nothing came",
        EventsResumed: "event stream resumed after a cut",
        EventsResumedWithin: "event stream resumed after a cut within an event",
        EventsSlow: "event stream whose client stopped reading",
        EventsBase64: "events in base64",
        Heartbeat: "heartbeat",
        CreatedAgain: "created again under an old name",
        DeletedUnderReader: "deleted under a reader",
        ExpiredByAlarm: "expired with nobody there",
        ExpiredAfterCrash: "expired after a crash since its last use",
        Sealed: "segment sealed",
        Stored: "segment stored",
        StoredAgain: "segment stored by another attempt than the first",
        SealedByClose: "last segment sealed by a close",
        RowsDropped: "read of a segment whose rows are dropped",
        PageColdAndHot: "page from both tiers",
        PageStitched: "page from several segments",
        PageFromMiddle: "page from the middle of a stored segment",
        EventsCold: "events from the cold tier",
        PutFailed: "put told to have failed",
        PutLate: "put done after it was given up",
        PutUnanswered: "put never answered",
        PutStoredUntold: "put again, for nobody was told that it was done",
        PutAfterEnd: "object stored after its stream was gone",
        ColdCutOff: "put or deletion broken off with its server, or by its timeout",
        Throttled: "cold tier that has too much to do",
        GetFailed: "object not given",
        GetCut: "object's body cut",
        GetSilent: "object's body that stays away",
        GetUnanswered: "object asked for without an answer",
        Collected: "object deleted that nothing refers to",
        CollectionRepeated: "object deleted that is gone",
        CollectionFailed: "deletion told to have failed, or never answered",
        RegistryTold: "registry told of a stream",
        RegistryCold: "registry that is partly cold",
        SettledCold: "nothing left in the cold tier but what is referred to, and that",
        Settled: "everything read once more, and nothing left behind",
    }
}

sim::named! {
    /// Something that breaks. A run draws how often each does, if at all.
    Fault, FAULTS {
        Crash: "crash",
        CrashAtCommit: "crash at a commit",
        Bounce: "polite crash",
        End: "graceful end",
        Partition: "partition",
        OneWay: "partition one way",
        Hold: "hold and release",
        Latency: "latency storm",
        CutRequest: "request cut",
        CutResponse: "response cut",
        Leave: "reader leaves",
        SlowReader: "slow reader",
        SlowBody: "slow body",
        Twice: "request sent twice",
        WorkDelayed: "work delayed",
        CommitFails: "commit fails",
        StorageFails: "storage fails",
        AlarmFails: "alarm index fails",
        Put: "put fails",
        Get: "get fails",
        Collect: "collection fails",
        Throttle: "cold tier throttles",
        Trickle: "cold tier trickles",
    }
}

impl Fault {
    /// What it means that it has changed something.
    pub(crate) const fn change(self) -> &'static str {
        match self {
            Self::Crash => "requests, readers or a reply were lost",
            Self::CrashAtCommit => "the commit was lost, or nobody was told of it",
            Self::Bounce => "connections were closed",
            Self::End => "the server ended, and another began",
            Self::Partition => "a connection was open across it",
            Self::OneWay => "a connection was open across it",
            Self::Hold => "a connection was open across it",
            Self::Latency => "requests were sent in it",
            Self::CutRequest => "the server saw a part",
            Self::CutResponse => "the client saw a part",
            Self::Leave => "the response had not come to its end",
            Self::SlowReader => "the client let bytes wait",
            Self::SlowBody => "the head came before the body",
            Self::Twice => "both were sent",
            Self::WorkDelayed => "more work came meanwhile",
            Self::CommitFails => "a commit was told to have failed",
            Self::StorageFails => "a turn was taken back",
            Self::AlarmFails => "an alarm was not set, removed or found",
            Self::Put => "an object, or the news of it, was lost or late",
            Self::Get => "a page was not made, or cut off",
            Self::Collect => "objects, or the news of their end, stayed",
            Self::Throttle => "something was refused",
            Self::Trickle => "a body came in pieces",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coverage {
    counts: [u64; SITUATIONS],
    tallies: [Tally; FAULTS],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            counts: [0; SITUATIONS],
            tallies: [Tally::default(); FAULTS],
        }
    }
}

impl Coverage {
    pub(crate) const fn cover(&mut self, situation: Situation) {
        self.counts[situation as usize] += 1;
    }

    pub(crate) const fn fault_is_on(&mut self, fault: Fault) {
        self.tallies[fault as usize].runs += 1;
    }

    pub(crate) const fn fired(&mut self, fault: Fault) {
        self.tallies[fault as usize].fired += 1;
    }

    pub(crate) const fn changed(&mut self, fault: Fault) {
        self.tallies[fault as usize].changed += 1;
    }

    pub(crate) const fn count(&self, situation: Situation) -> u64 {
        self.counts[situation as usize]
    }

    pub(crate) const fn tally(&self, fault: Fault) -> Tally {
        self.tallies[fault as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        for (mine, theirs) in self.tallies.iter_mut().zip(&other.tallies) {
            mine.runs += theirs.runs;
            mine.fired += theirs.fired;
            mine.changed += theirs.changed;
        }
    }

    /// Everything, for another process.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        let tallies = self.tallies.iter();
        let tallies = tallies.flat_map(|tally| [tally.runs, tally.fired, tally.changed]);
        self.counts.iter().copied().chain(tallies)
    }

    /// What another process has told.
    pub(crate) fn from_numbers(mut numbers: impl Iterator<Item = u64>) -> Option<Self> {
        let mut coverage = Self::default();
        for count in &mut coverage.counts {
            *count = numbers.next()?;
        }
        for tally in &mut coverage.tallies {
            (tally.runs, tally.fired, tally.changed) =
                (numbers.next()?, numbers.next()?, numbers.next()?);
        }
        Some(coverage)
    }

    pub(crate) fn missed(&self) -> impl Iterator<Item = Situation> {
        Situation::ALL
            .iter()
            .copied()
            .filter(|situation| self.count(*situation) == 0)
    }

    pub(crate) fn inert(&self) -> impl Iterator<Item = Fault> {
        let all = Fault::ALL.iter().copied();
        all.filter(|fault| self.tally(*fault).changed == 0)
    }
}
