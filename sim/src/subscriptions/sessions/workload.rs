//! What clients do with sessions. All of it is decided on the second tape.

use machine::{Offset, rows::Incarnation};

use super::super::coverage::Fault;
use super::super::request::{Asked, Delivery, Format, Kind, Request};
use super::super::world::{Event, World};
use super::request::{SessionKind, id, stream_of};

/// Sessions subscribe to fewer streams than there are, so that several follow one.
const STREAMS: [&str; 3] = ["a/1", "a/b/2", "c"];
const SUBSCRIPTION: &str = "s3";
const LEASE_MS: u64 = 30_000;
/// How many sessions clients use at the same time.
const SESSIONS: usize = 3;
/// The methods that write.
const WRITES: [&str; 3] = ["POST", "PUT", "DELETE"];
const PAUSES_MS: [u64; 6] = [100, 1_100, 4_000, 25_000, 70_000, 8_000_000];

impl World<'_, '_> {
    /// Sends the next request, if it is about sessions. Returns whether it is.
    pub(in crate::subscriptions) fn session_operation(&mut self) -> bool {
        let percent = self.settings.sessions.percent;
        let is_it = self.choices.added().percent(percent);
        if is_it {
            self.operate_session();
        }
        is_it
    }

    fn operate_session(&mut self) {
        let weights = [24, 12, 8, 5, 4, 2, 2, 2, 2, 1, 3, 10, 3, 3, 2, 1];
        match self.choices.added().weighted(&weights) {
            0 => self.append_to_source(),
            1 => self.subscribe_session(),
            2 => {
                // Several appends at the same time.
                for _ in 0..4 {
                    self.append_to_source();
                }
            }
            3 => self.create_session(),
            4 => {
                let stream = self.source();
                self.ask_session(SessionKind::Unsubscribe { stream });
            }
            5 => self.ask_session(SessionKind::List),
            6 => self.ask_session(SessionKind::Describe),
            7 => self.ask_session(SessionKind::Read),
            8 => self.ask_session(SessionKind::Delete),
            9 => {
                let method = self.choices.added().one_of(&WRITES);
                self.ask_session(SessionKind::Write(method));
            }
            10 => {
                // A stream ends, and another one begins under its name.
                let name = self.source();
                let kind = Kind::DeleteStream;
                self.send(Request {
                    name: name.clone(),
                    kind,
                });
                if self.choices.added().percent(70) {
                    self.create_source(name);
                }
            }
            11 => {
                // A subscription ends while appends are under way, and begins again.
                let session = self.session();
                let stream = self.source();
                self.append_to(stream.clone());
                let unsubscribe = SessionKind::Unsubscribe {
                    stream: stream.clone(),
                };
                self.ask(session.clone(), unsubscribe);
                if self.choices.added().percent(70) {
                    let from = self.place(&stream);
                    self.ask(session, SessionKind::Subscribe { stream, from });
                }
            }
            12 => self.pause_ms = self.choices.added().one_of(&PAUSES_MS),
            13 => {
                if self.fault(Fault::Crash) {
                    let name = if self.choices.added().percent(50) {
                        self.source()
                    } else {
                        stream_of(&self.session())
                    };
                    let delay = self.choices.added().upto(20);
                    self.schedule(delay, Event::Crash { name });
                }
            }
            14 => {
                let name = self.source();
                let kind = Kind::Close;
                self.send(Request { name, kind });
            }
            _ => {
                // A subscription whose wakes would be written to a session.
                let asked = Asked {
                    delivery: Delivery::PullWake(stream_of(&self.session())),
                    pattern: None,
                    streams: vec![self.source()],
                    lease_ms: LEASE_MS,
                };
                let (name, kind) = (SUBSCRIPTION.to_owned(), Kind::Subscribe(asked));
                self.send(Request { name, kind });
            }
        }
    }

    fn ask(&mut self, name: String, kind: SessionKind) {
        let is_write = matches!(kind, SessionKind::Write(_));
        let request = Request {
            name,
            kind: Kind::Session(kind),
        };
        if is_write {
            let is_let_in = request.call(&self.settings.limits).is_some();
            return self.session_write(is_let_in);
        }
        self.send(request);
    }

    fn ask_session(&mut self, kind: SessionKind) {
        let session = self.session();
        self.ask(session, kind);
    }

    /// Returns the id of one of the last sessions that exist, or now and then of one that does not.
    fn session(&mut self) -> String {
        let created = self.sessions.created;
        if created == 0 {
            self.create_session();
            return id(self.sessions.created);
        }
        let sessions = self.sessions.model.sessions.iter().rev();
        let live = sessions.filter(|(_, session)| session.exists);
        let live: Vec<_> = live.map(|(id, _)| id.clone()).take(SESSIONS).collect();
        if live.is_empty() || self.choices.added().percent(8) {
            let back = self.choices.added().upto(created.min(SESSIONS as u64));
            return id(created - back);
        }
        let last = live.len() as u64 - 1;
        let at = usize::try_from(self.choices.added().upto(last)).unwrap_or(0);
        live[at].clone()
    }

    fn create_session(&mut self) {
        self.sessions.created += 1;
        let session = id(self.sessions.created);
        self.ask(session, SessionKind::Create);
    }

    fn source(&mut self) -> String {
        self.choices.added().one_of(&STREAMS).to_owned()
    }

    fn subscribe_session(&mut self) {
        let session = self.session();
        let stream = self.source();
        if !self.model.present.contains_key(&stream) && self.choices.added().percent(80) {
            self.create_source(stream.clone());
        }
        let from = self.place(&stream);
        self.ask(session, SessionKind::Subscribe { stream, from });
    }

    /// Returns where a subscription to a stream begins: at the tail, at the start, behind one of
    /// its appends, or anywhere.
    fn place(&mut self, stream: &str) -> Option<Offset> {
        match self.choices.added().weighted(&[5, 3, 3, 1]) {
            0 => None,
            1 => Some(Offset::START),
            2 => {
                let ends = self.ends(stream);
                let last = ends.len().checked_sub(1)? as u64;
                let at = usize::try_from(self.choices.added().upto(last)).unwrap_or(0);
                Some(ends[at].1)
            }
            _ => {
                let segment = self.choices.added().upto(1);
                let position = self.choices.added().upto(9);
                Some(Offset::new(segment, position))
            }
        }
    }

    /// Returns the ends of all appends to streams of a name.
    fn ends(&self, stream: &str) -> Vec<(Incarnation, Offset)> {
        let sources = self.sessions.model.sources.iter();
        let sources = sources.filter(|((name, _), _)| name == stream);
        let ends = sources.flat_map(|((_, incarnation), appends)| {
            appends.iter().map(|append| (*incarnation, append.end))
        });
        ends.collect()
    }

    fn append_to_source(&mut self) {
        let name = self.source();
        self.append_to(name);
    }

    fn append_to(&mut self, name: String) {
        if !self.model.present.contains_key(&name) {
            return self.create_source(name);
        }
        let messages = self.choices.added().between(1, 3);
        let content = self.content(&name, messages);
        let kind = Kind::Append {
            content,
            then_claim: None,
        };
        self.send(Request { name, kind });
    }

    fn create_source(&mut self, name: String) {
        let formats = [Format::Json, Format::Json, Format::Bytes, Format::Text];
        let format = self.choices.added().one_of(&formats);
        let messages = self.choices.added().upto(2);
        let content = self.new_content(format, messages);
        let ttl_s = [None, None, None, None, Some(3), Some(100)];
        let kind = Kind::CreateStream {
            content,
            closed: self.choices.added().percent(3),
            ttl_s: self.choices.added().one_of(&ttl_s),
        };
        self.send(Request { name, kind });
    }
}
