//! The world: clients, edges and objects, and what each event does to them.

mod caching;
mod client;
mod cold;
mod connection;
mod index;
mod judge;
mod lifecycle;
mod object;
mod operator;
mod outgoing;
mod quiescence;
mod reader;
mod rpc;
mod situations;
mod stale_instance;
pub(crate) mod state;
mod turn;

use machine::Offset;
use machine::admin::AdminCall;
use machine::router::name;

use crate::choices::Choices;
use crate::coverage::Watermark;
use crate::engine::Engine;
use crate::ids::{CallId, ClientId, ConnectionId, ObjectId, OperationId, ReaderId, RpcId, Table};
use crate::model::Model;
use crate::oracles::{Checkers, Oracle, Subject};
use crate::platform;
use crate::settings::Settings;
use crate::storage;
use caching::Caches;
use client::{Call, Client, Operation, Received};
use cold::Cold;
use connection::Connection;
use index::Index;
use object::{Message, Object};
use reader::Reader;
use rpc::Rpc;

/// An event of the world.
#[derive(Debug)]
pub enum Event {
    /// A client decides what to do next.
    Think {
        client: ClientId,
    },
    /// A client sends its request once more.
    Retry {
        operation: OperationId,
    },
    /// A request reaches its object.
    Arrive {
        call: CallId,
    },
    /// An operator's call reaches an object.
    Operator {
        object: ObjectId,
        call: AdminCall,
    },
    /// The rest of a request's body reaches its object.
    Body {
        call: CallId,
    },
    /// The platform does something with an object.
    Platform(platform::Event),
    /// An event of the cold tier.
    Cold(cold::Event),
    /// An event of a message to another object or to the index.
    Rpc(rpc::Event),
    /// An answer reaches its client.
    Reply {
        call: CallId,
        received: Received,
    },
    /// A client learns that there will be no answer.
    Lost {
        call: CallId,
    },
    /// A message reaches the reader's side of a connection.
    Message {
        connection: ConnectionId,
        message: Message,
    },
    /// The reader's side learns that its connection is closed.
    ConnectionClosed {
        connection: ConnectionId,
    },
    /// The object learns that a connection is closed.
    ConnectionGone {
        connection: ConnectionId,
    },
    /// An edge connects, for the first time or again.
    Connect {
        reader: ReaderId,
        from: Option<Offset>,
    },
    Tick {
        reader: ReaderId,
    },
    /// A slow client reads what has arrived.
    Drain {
        reader: ReaderId,
    },
    /// A client leaves.
    Leave {
        reader: ReaderId,
    },
    /// Time to judge whether everything is in order again after the heal.
    Judge,
    /// Time to judge whether expired streams are gone.
    JudgeExpiry,
}

impl From<cold::Event> for Event {
    fn from(event: cold::Event) -> Self {
        Self::Cold(event)
    }
}

impl From<rpc::Event> for Event {
    fn from(event: rpc::Event) -> Self {
        Self::Rpc(event)
    }
}

impl From<platform::Event> for Event {
    fn from(event: platform::Event) -> Self {
        Self::Platform(event)
    }
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients send requests, and faults happen.
    Busy,
    /// Faults have ended; what is under way finishes.
    Healing,
    /// Everything is read once more.
    Reading,
    /// Clients no longer use the streams.
    Waiting,
}

/// The simulated world.
#[derive(Debug)]
pub struct World<'w, 't> {
    pub engine: Engine<'w, 't, Event>,
    /// The system under test.
    objects: Table<ObjectId, Object>,
    /// The reference model of each name.
    models: Table<ObjectId, Model>,
    /// The state of the oracles.
    checkers: Checkers,
    clients: Table<ClientId, Client>,
    operations: Table<OperationId, Operation>,
    calls: Table<CallId, Call>,
    connections: Table<ConnectionId, Connection>,
    readers: Table<ReaderId, Reader>,
    cold: Cold,
    index: Index,
    rpcs: Table<RpcId, Rpc>,
    caches: Caches,
    /// How many requests were sent because work remained when no event was left.
    nudges: u64,
    phase: Phase,
    /// How many more times there may be no progress after the heal.
    patience: u64,
    /// The sum of all readers' positions at the last judgement.
    progress: u64,
    /// Names that are still being read once more.
    unread: u64,
    /// How many of the offsets that appends were answered have been read from.
    answers_read: u64,
}

impl<'w, 't> World<'w, 't> {
    /// Makes a world in which nothing has happened yet.
    #[must_use]
    pub fn new(
        choices: &'w mut Choices<'t>,
        settings: Settings,
        storage: storage::Kind,
        traced: bool,
    ) -> Self {
        let mut objects = Table::default();
        for name in 0..settings.names {
            let name = format!("name-{name}");
            objects.push(Object::new(&name, objects.next_id(), storage));
        }
        if settings.limits.registry {
            for shard in 0..settings.limits.registry_shards {
                let name = name::of_registry_shard(shard);
                objects.push(Object::new(&name, objects.next_id(), storage));
            }
        }
        let mut models = Table::default();
        for _ in objects.ids() {
            models.push(Model::new(settings.model_bounds()));
        }
        let mut clients = Table::default();
        for _ in 0..settings.clients {
            clients.push(Client::new(objects.len()));
        }
        let mut world = Self {
            engine: Engine::new(choices, settings, traced),
            objects,
            models,
            checkers: Checkers::default(),
            clients,
            operations: Table::default(),
            calls: Table::default(),
            connections: Table::default(),
            readers: Table::default(),
            cold: Cold::default(),
            index: Index::new(storage),
            rpcs: Table::default(),
            caches: Caches::default(),
            nudges: 0,
            phase: Phase::Busy,
            patience: 4,
            progress: 0,
            unread: 0,
            answers_read: 0,
        };
        world.place_caches();
        world
    }

    /// Runs to the end, to the first failure, or to an event.
    pub fn run(&mut self, until: u64) {
        for client in self.clients.ids() {
            let delay = self
                .engine
                .choices
                .upto(self.engine.settings.delays.network);
            self.engine.schedule(delay, Event::Think { client });
        }
        while self.engine.recorder.failure.is_none() && self.engine.events() < until {
            let Some(event) = self.engine.take_next() else {
                if self.is_over() {
                    break;
                }
                continue;
            };
            self.happen(event);
        }
        self.engine.raise(Watermark::Events, self.engine.events());
        self.engine.raise(
            Watermark::SimulatedSeconds,
            self.engine.simulated_ms() / 1_000,
        );
        self.engine.raise(
            Watermark::TapeBytes,
            self.engine.choices.tape().len() as u64,
        );
    }

    #[must_use]
    pub fn operation_count(&self) -> u64 {
        self.operations.len() as u64
    }

    #[must_use]
    pub const fn answers_read(&self) -> u64 {
        self.answers_read
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Think { client } => self.think(client),
            Event::Retry { operation } => self.attempt(operation),
            Event::Arrive { call } => self.arrive(call),
            Event::Operator { object, call } => self.operate(object, call),
            Event::Body { call } => self.body_complete(call),
            Event::Platform(event) => self.happen_to_object(event),
            Event::Cold(event) => self.happen_in_cold(event),
            Event::Rpc(event) => self.happen_to_rpc(event),
            Event::Reply { call, received } => self.reply(call, received),
            Event::Lost { call } => self.lost(call),
            Event::Message {
                connection,
                message,
            } => self.message(connection, &message),
            Event::ConnectionClosed { connection } => self.connection_closed(connection),
            Event::ConnectionGone { connection } => self.connection_gone(connection),
            Event::Connect { reader, from } => self.connect(reader, from),
            Event::Tick { reader } => self.tick(reader),
            Event::Drain { reader } => self.drain(reader),
            Event::Leave { reader } => self.leave(reader),
            Event::Judge => self.judge(),
            Event::JudgeExpiry => self.judge_expiry(),
        }
    }

    /// Returns what a checker sees of an object.
    fn subject(&self, at: ObjectId) -> Subject<'_> {
        self.objects[at].subject(at, &self.models[at])
    }

    /// Returns the object of this name.
    fn object_named(&self, name: &str) -> ObjectId {
        let found = self.objects.named().find(|(_, object)| object.name == name);
        let (object, _) = found.expect("the called object exists");
        object
    }

    /// Returns the client that reads everything at the end.
    fn first_client(&self) -> ClientId {
        self.clients.ids().next().expect("a world has a client")
    }

    /// Begins the next phase when all work of this one is done.
    fn advance(&mut self) {
        let begun = self.operation_count() >= self.engine.settings.operations;
        let idle = self
            .clients
            .iter()
            .all(|client| !client.busy || client.following);
        match self.phase {
            Phase::Busy if begun && idle => {
                let stall = self.engine.settings.delays.stall
                    + self.engine.settings.delays.body
                    + self.engine.settings.delays.commit;
                self.engine.settings.heal();
                self.readers.iter_mut().for_each(Reader::hurry);
                self.phase = Phase::Healing;
                self.engine.note("world", || "heals".to_owned());
                let reconnect = self.engine.settings.limits.reconnect_ms_max();
                let network = self.engine.settings.delays.network * 40 + 60_000;
                self.engine
                    .schedule(stall + reconnect + network, Event::Judge);
            }
            Phase::Reading if self.unread == 0 => {
                self.phase = Phase::Waiting;
                self.exactly_once();
                let last = self
                    .objects
                    .ids()
                    .filter_map(|object| self.latest_end(object))
                    .max();
                if let Some(last) = last {
                    self.engine.schedule_at(last, Event::JudgeExpiry);
                }
            }
            Phase::Busy | Phase::Healing | Phase::Reading | Phase::Waiting => {}
        }
    }

    /// Judges whether everything is in order some time after the heal.
    fn judge(&mut self) {
        if let Some(reason) = self.pending() {
            // A slow reader that makes progress is not stuck.
            let progress = self.readers.iter().map(Reader::position).sum();
            if progress == self.progress {
                self.patience = self.patience.saturating_sub(1);
            }
            self.progress = progress;
            if self.patience > 0 {
                // A page from the cold tier takes time.
                let pause = 5_000 + self.engine.settings.delays.cold_tier * 2;
                return self.engine.schedule(pause, Event::Judge);
            }
            self.engine.fail(
                Oracle::Liveness,
                "nothing left to be done".to_owned(),
                reason,
            );
            return;
        }
        for reader in self.readers.ids() {
            self.leave(reader);
        }
        self.phase = Phase::Reading;
        self.engine
            .note("world", || "reads everything once more".to_owned());
        for object in self.objects.ids() {
            self.read_all(object);
        }
        if self.engine.settings.writers {
            self.read_all_answers();
        }
    }

    /// Returns why the run is not quiescent, or `None`.
    #[must_use]
    pub fn pending(&self) -> Option<String> {
        for (number, client) in self.clients.named() {
            if client.busy && !client.following {
                return Some(format!("client {number} waits for an answer"));
            }
        }
        for (number, object) in self.objects.named() {
            if let Some(reason) = object.platform.pending() {
                return Some(format!("object {number} {reason}"));
            }
        }
        self.readers.named().find_map(|(number, reader)| {
            let reason = reader.pending(&self.models[reader.object])?;
            Some(format!("reader {number} {reason}"))
        })
    }
}
