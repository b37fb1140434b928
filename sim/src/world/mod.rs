//! The world: a queue of events, and everything that they happen to. No ticks and no threads: the next event is taken, the
//! time is set to its own, and what follows from it is put into the queue.

mod client;
mod object;
mod reader;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::Bytes;
use machine::offset::Offset;

use crate::choices::Choices;
use crate::digest::Digest;
use crate::marks::{Mark, Marks, Watermark};
use crate::model::Mismatch;
use crate::oracle::OffsetLaw;
use crate::settings::{BEGINNING, Settings};
use crate::storage;
use client::{Call, Client, Operation, Received};
use object::{Line, Object};
use reader::Reader;

/// No run goes on for longer.
const EVENTS_MAX: u64 = 60_000;

/// What can happen.
#[derive(Debug)]
enum Event {
    /// A client thinks of what to do next.
    Think {
        client: usize,
    },
    /// A client sends its request once more.
    Retry {
        operation: usize,
    },
    /// A request reaches its object.
    Arrive {
        call: usize,
    },
    /// The rest of its body, too.
    Body {
        call: usize,
    },
    /// A commit is durable, and all before it.
    Durable {
        object: usize,
        epoch: u64,
        number: u64,
    },
    Crash {
        object: usize,
        epoch: u64,
    },
    /// The instance is dropped if it has nothing to do.
    Idle {
        object: usize,
        epoch: u64,
        cut_lines: bool,
    },
    Alarm {
        object: usize,
        token: u64,
        again: bool,
    },
    /// An answer reaches whoever asked.
    Reply {
        call: usize,
        received: Received,
    },
    /// Whoever asked learns that there will be no answer.
    Lost {
        call: usize,
    },
    /// A message reaches the reader's side of a line.
    Message {
        line: usize,
        bytes: Bytes,
        place: crate::oracle::Place,
    },
    /// The reader's side learns that its line is closed.
    LineClosed {
        line: usize,
    },
    /// The object learns that a line is closed.
    LineGone {
        line: usize,
    },
    /// An edge dials, for the first time or again.
    Dial {
        reader: usize,
        from: Option<Offset>,
    },
    Tick {
        reader: usize,
    },
    /// A slow client reads what it was sent.
    Drain {
        reader: usize,
    },
    /// A client leaves.
    Leave {
        reader: usize,
    },
    /// Enough time has passed for everything to be in order again.
    Judge,
    /// Enough time has passed for every stream that ends by itself to be gone.
    JudgeExpiry,
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    tie: u64,
    sequence: u64,
    event: Event,
}

impl Scheduled {
    const fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, for the heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub oracle: &'static str,
    pub expected: String,
    pub actual: String,
    /// Number of the event that showed it.
    pub event: u64,
}

/// How a run goes on after its operations are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients do things, and things break.
    Busy,
    /// Nothing breaks any more; what is under way comes to its end.
    Healing,
    /// Everything is read once more.
    Reading,
    /// Nobody uses the streams any more.
    Waiting,
}

/// See the module.
#[derive(Debug)]
pub struct World<'w, 't> {
    choices: &'w mut Choices<'t>,
    pub settings: Settings,
    now: u64,
    queue: BinaryHeap<Scheduled>,
    sequence: u64,
    objects: Vec<Object>,
    clients: Vec<Client>,
    operations: Vec<Operation>,
    calls: Vec<Call>,
    lines: Vec<Line>,
    readers: Vec<Reader>,
    law: OffsetLaw,
    /// What each entity tag was given for: name, life, end, closed.
    tags: BTreeMap<String, (usize, u64, u64, bool)>,
    /// Ends of open streams for which one was given.
    open_ends: BTreeSet<(usize, u64, u64)>,
    phase: Phase,
    /// How often it may still be found that nothing has come of what is pending after the heal.
    patience: u64,
    /// How far all readers together had come by then.
    progress: u64,
    /// Names that are still being read once more.
    unread: u64,
    pub events: u64,
    pub digest: Digest,
    pub marks: Marks,
    pub failure: Option<Failure>,
    pub trace: Option<Vec<String>>,
}

impl<'w, 't> World<'w, 't> {
    /// A world with its settings, in which nothing has happened yet.
    #[must_use]
    pub fn new(
        choices: &'w mut Choices<'t>,
        settings: Settings,
        storage: storage::Kind,
        traced: bool,
    ) -> Self {
        let objects = (0..settings.names)
            .map(|name| Object::new(name, &settings, storage))
            .collect();
        let names = usize::try_from(settings.names).unwrap_or(1);
        let clients = (0..settings.clients).map(|_| Client::new(names)).collect();
        Self {
            choices,
            now: BEGINNING,
            queue: BinaryHeap::new(),
            sequence: 0,
            objects,
            clients,
            operations: Vec::new(),
            calls: Vec::new(),
            lines: Vec::new(),
            readers: Vec::new(),
            law: OffsetLaw::default(),
            tags: BTreeMap::new(),
            open_ends: BTreeSet::new(),
            phase: Phase::Busy,
            patience: 4,
            progress: 0,
            unread: 0,
            events: 0,
            digest: Digest::default(),
            marks: Marks::default(),
            failure: None,
            trace: traced.then(Vec::new),
            settings,
        }
    }

    /// Runs to the end, to the first failure, or to an event.
    pub fn run(&mut self, until: u64) {
        for client in 0..self.clients.len() {
            let delay = self.choices.upto(self.settings.delays.network);
            self.schedule(delay, Event::Think { client });
        }
        while self.failure.is_none() && self.events < until {
            let Some(Scheduled { at, event, .. }) = self.queue.pop() else {
                break;
            };
            self.now = at;
            self.events += 1;
            self.digest.number(at);
            if self.events > EVENTS_MAX {
                self.fail(
                    "liveness",
                    "an end".to_owned(),
                    format!("{EVENTS_MAX} events; {:?}", self.pending()),
                );
                break;
            }
            self.happen(event);
        }
        self.marks.reach(Watermark::Events, self.events);
        self.marks
            .reach(Watermark::SimulatedSeconds, self.simulated_ms() / 1_000);
        self.marks
            .reach(Watermark::TapeBytes, self.choices.tape().len() as u64);
    }

    #[must_use]
    pub const fn simulated_ms(&self) -> u64 {
        self.now - BEGINNING
    }

    #[must_use]
    pub fn operation_count(&self) -> u64 {
        self.operations.len() as u64
    }

    /// The state at this point, to be looked at.
    #[must_use]
    pub fn state(&self) -> String {
        self.objects
            .iter()
            .map(Object::state)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Think { client } => self.think(client),
            Event::Retry { operation } => self.attempt(operation),
            Event::Arrive { call } => self.arrive(call),
            Event::Body { call } => self.body_complete(call),
            Event::Durable {
                object,
                epoch,
                number,
            } => self.durable(object, epoch, number),
            Event::Crash { object, epoch } => self.crash(object, epoch),
            Event::Idle {
                object,
                epoch,
                cut_lines,
            } => self.idle(object, epoch, cut_lines),
            Event::Alarm { object, token, again } => self.alarm(object, token, again),
            Event::Reply { call, received } => self.reply(call, received),
            Event::Lost { call } => self.lost(call),
            Event::Message { line, bytes, place } => self.message(line, &bytes, place),
            Event::LineClosed { line } => self.line_closed(line),
            Event::LineGone { line } => self.line_gone(line),
            Event::Dial { reader, from } => self.dial(reader, from),
            Event::Tick { reader } => self.tick(reader),
            Event::Drain { reader } => self.drain(reader),
            Event::Leave { reader } => self.leave(reader),
            Event::Judge => self.judge(),
            Event::JudgeExpiry => self.judge_expiry(),
        }
    }

    fn schedule(&mut self, after: u64, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    fn schedule_at(&mut self, at: u64, event: Event) {
        let tie = if self.fault(self.settings.faults.reorder) {
            1 + self.choices.upto(7)
        } else {
            0
        };
        self.sequence += 1;
        self.queue.push(Scheduled {
            at: at.max(self.now),
            tie,
            sequence: self.sequence,
            event,
        });
    }

    /// Whether something breaks now.
    fn fault(&mut self, percent: u64) -> bool {
        if percent == 0 || self.is_calm() {
            return false;
        }
        if self.settings.enumerated {
            self.choices.upto(1) == 1
        } else {
            self.choices.percent(percent)
        }
    }

    /// Whether it is a time between storms.
    const fn is_calm(&self) -> bool {
        let (storm, calm) = (self.settings.storm_ms, self.settings.calm_ms);
        calm > 0 && (self.now - BEGINNING) % (storm + calm) >= storm
    }

    fn network_delay(&mut self) -> u64 {
        self.choices.upto(self.settings.delays.network)
    }

    fn fail(&mut self, oracle: &'static str, expected: String, actual: String) {
        let heard = self.settings.only.is_none_or(|only| only == oracle);
        if heard && self.failure.is_none() {
            self.note("!!", || format!("{oracle}: expected {expected}, but {actual}"));
            self.failure = Some(Failure {
                oracle,
                expected,
                actual,
                event: self.events,
            });
        }
    }

    fn check(&mut self, oracle: &'static str, verdict: Result<(), Mismatch>) {
        if let Err(Mismatch { expected, actual }) = verdict {
            self.fail(oracle, expected, actual);
        }
    }

    fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        let seconds = self.simulated_ms() / 1_000;
        let millis = self.simulated_ms() % 1_000;
        let events = self.events;
        if let Some(trace) = &mut self.trace {
            trace.push(format!(
                "{seconds:>6}.{millis:03} e{events:<5} {who:<10} {}",
                what()
            ));
        }
    }

    fn hit(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    /// Goes on to the next phase when nothing of this one is left to be done.
    fn advance(&mut self) {
        let begun = self.operation_count() >= self.settings.operations;
        let idle = self.clients.iter().all(|client| !client.busy || client.following);
        match self.phase {
            Phase::Busy if begun && idle => {
                let stall =
                    self.settings.delays.stall + self.settings.delays.body + self.settings.delays.commit;
                self.settings.heal();
                self.readers.iter_mut().for_each(Reader::hurry);
                self.phase = Phase::Healing;
                self.note("world", || "heals".to_owned());
                let redial = self.settings.limits.redial_ms_max * 16;
                let network = self.settings.delays.network * 40 + 60_000;
                self.schedule(stall + redial + network, Event::Judge);
            }
            Phase::Reading if self.unread == 0 => {
                self.phase = Phase::Waiting;
                self.exactly_once();
                let last = (0..self.objects.len())
                    .filter_map(|object| self.latest_end(object))
                    .max();
                if let Some(last) = last {
                    self.schedule_at(last, Event::JudgeExpiry);
                }
            }
            Phase::Busy | Phase::Healing | Phase::Reading | Phase::Waiting => {}
        }
    }

    /// After the heal, everybody has what there is.
    fn judge(&mut self) {
        if let Some(reason) = self.pending() {
            // Whoever reads on, however slowly, is not stuck.
            let progress = self.readers.iter().map(Reader::position).sum();
            if progress == self.progress {
                self.patience = self.patience.saturating_sub(1);
            }
            self.progress = progress;
            if self.patience > 0 {
                return self.schedule(5_000, Event::Judge);
            }
            self.fail("liveness", "nothing left to be done".to_owned(), reason);
            return;
        }
        for reader in 0..self.readers.len() {
            self.leave(reader);
        }
        self.phase = Phase::Reading;
        self.note("world", || "reads everything once more".to_owned());
        for object in 0..self.objects.len() {
            self.read_all(object);
        }
    }

    /// Why it is not over yet; `None` when it is.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        for (number, client) in self.clients.iter().enumerate() {
            if client.busy && !client.following {
                return Some(format!("client {number} waits for an answer"));
            }
        }
        for (number, object) in self.objects.iter().enumerate() {
            if let Some(reason) = object.pending() {
                return Some(format!("object {number} {reason}"));
            }
        }
        self.readers.iter().enumerate().find_map(|(number, reader)| {
            let reason = reader.pending(&self.objects[reader.object].model)?;
            Some(format!("reader {number} {reason}"))
        })
    }
}
