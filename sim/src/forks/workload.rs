//! What clients do.

use super::coverage::{Fault, Situation};
use super::model::{Asked, AskedFork, BEYOND, Expiry, Format, START};
use super::request::{Kind, Posted, Request};
use super::world::{Caller, Event, Pending, World, of_call, what};
use crate::trace::Mark;

impl World<'_, '_> {
    /// Sends the next request.
    pub(super) fn client(&mut self) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let gap = if self.settings.is_enumerated {
            self.send_enumerated();
            self.choices.upto(1)
        } else {
            self.send_drawn();
            self.choices.upto(self.settings.gap_ms)
        };
        let pause = core::mem::take(&mut self.pause_ms);
        self.schedule(gap + pause, Event::Client);
    }

    pub(super) fn send(&mut self, request: Request) {
        let Some(input) = request.call(&self.settings.limits) else {
            return;
        };
        if let Kind::Create(Asked {
            fork: Some(fork), ..
        }) = &request.kind
        {
            let requests = &mut self.model.fork_requests;
            *requests.entry(fork.source.clone()).or_default() += 1;
        }
        self.next_call += 1;
        let call = self.next_call;
        let to = request.name.clone();
        if let Kind::Create(_) = &request.kind {
            let is_create = |pending: &Pending| {
                matches!(&pending.caller, Caller::Client(other)
                    if other.name == to && matches!(other.kind, Kind::Create(_)))
            };
            if self.calls.values().any(is_create) {
                self.cover(Situation::TwoCreations);
            }
            self.requests.push(request.clone());
        }
        let pending = Pending {
            caller: Caller::Client(Box::new(request)),
            holder: None,
            arrived: 0,
            arrived_at: 0,
        };
        self.calls.insert(call, pending);
        let span = Mark::Begins(of_call(call));
        self.note_as(span, "client", || {
            format!("c{call} to {to}: {}", what(&input))
        });
        let delay = self.network_delay();
        self.schedule(delay, Event::Arrive { call, to, input });
    }

    fn send_enumerated(&mut self) {
        let (first, second) = ("s0".to_owned(), "s1".to_owned());
        let kind = self.choices.upto(5);
        let (name, kind) = match kind {
            0 => {
                let body = self.json(2);
                let asked = Asked {
                    format: Some(Format::Json),
                    expiry: Expiry::Never,
                    closed: false,
                    body,
                    fork: None,
                };
                (first, Kind::Create(asked))
            }
            1 => (first, Kind::Append(self.posted(Format::Json))),
            2 => {
                let fork = AskedFork {
                    source: first,
                    offset: None,
                    sub_offset: 0,
                };
                let asked = Asked {
                    format: None,
                    expiry: Expiry::Never,
                    closed: false,
                    body: Vec::new(),
                    fork: Some(fork),
                };
                (second, Kind::Create(asked))
            }
            3 => (second, Kind::Append(self.posted(Format::Json))),
            4 => (first, Kind::Delete),
            _ => (second, Kind::Delete),
        };
        self.send(Request { name, kind });
    }

    fn posted(&mut self, format: Format) -> Posted {
        let body = self.body(format, 1);
        Posted {
            format,
            body,
            producer: None,
            stream_seq: None,
            close: false,
        }
    }

    fn send_drawn(&mut self) {
        match self
            .choices
            .weighted(&[5, 9, 9, 4, 4, 2, 6, 2, 2, 2, 2, 1, 1, 2])
        {
            0 => {
                let name = self.name();
                let kind = self.plain();
                self.send(Request { name, kind });
            }
            1 => self.append(),
            2 => {
                let request = self.fork();
                self.send(request);
            }
            3 => self.repeat(),
            4 => {
                let name = self.name();
                let kind = Kind::Delete;
                self.send(Request { name, kind });
            }
            5 => self.close(),
            6 => self.read(),
            7 => {
                let name = self.name();
                let kind = Kind::Head;
                self.send(Request { name, kind });
            }
            8 => {
                // Time passes.
                self.pause_ms = self.choices.one_of(&[100, 1_100, 6_000, 30_000]);
            }
            9 => {
                let request = self.fork();
                self.send(request.clone());
                self.send(request);
            }
            10 => {
                let request = self.fork();
                if let Kind::Create(Asked {
                    fork: Some(fork), ..
                }) = &request.kind
                {
                    let name = fork.source.clone();
                    let kind = Kind::Delete;
                    self.send(request);
                    self.send(Request { name, kind });
                }
            }
            11 => {
                let name = self.name();
                if self.fault(Fault::Crash) {
                    self.schedule(0, Event::Crash { name });
                }
            }
            12 => {
                // The same name, but another content type.
                let request = self.fork();
                let mut other = request.clone();
                if let Kind::Create(asked) = &mut other.kind {
                    asked.format = Some(Format::Bytes);
                }
                self.send(request);
                self.send(other);
            }
            _ => {
                // A stream is read, deleted and created again.
                let name = self.name();
                let mut former = self.requests.iter().rev();
                let former = former.find(|request| request.name == name).cloned();
                let from = None;
                for kind in [Kind::Read { from }, Kind::Delete] {
                    let name = name.clone();
                    self.send(Request { name, kind });
                }
                if let Some(former) = former {
                    self.send(former);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        format!("s{}", self.choices.upto(self.settings.names - 1))
    }

    /// Returns a body with this number of new units.
    fn body(&mut self, format: Format, units: u64) -> Vec<u8> {
        match format {
            Format::Json if units == 1 => {
                self.units += 1;
                self.units.to_string().into_bytes()
            }
            Format::Json => self.json(units),
            Format::Bytes => {
                let first = self.units;
                self.units += units;
                (first..self.units)
                    .map(|unit| b'a' + (unit * 7 % 26) as u8)
                    .collect()
            }
        }
    }

    fn json(&mut self, units: u64) -> Vec<u8> {
        let first = self.units;
        self.units += units;
        let units: Vec<_> = (first..self.units).map(|unit| unit.to_string()).collect();
        format!("[{}]", units.join(",")).into_bytes()
    }

    fn expiry(&mut self) -> Expiry {
        match self.choices.weighted(&[14, 1, 1, 1, 1]) {
            0 => Expiry::Never,
            1 => Expiry::Ttl(1),
            2 => Expiry::Ttl(5),
            3 => Expiry::Ttl(100),
            _ => Expiry::At(self.now + 3_000),
        }
    }

    fn plain(&mut self) -> Kind {
        let format = self.choices.one_of(&[Format::Json, Format::Bytes]);
        let units = self.choices.upto(4);
        let body = if units == 0 {
            Vec::new()
        } else {
            self.body(format, units)
        };
        Kind::Create(Asked {
            format: Some(format),
            expiry: self.expiry(),
            closed: self.choices.percent(5),
            body,
            fork: None,
        })
    }

    fn append(&mut self) {
        let name = self.name();
        let Some(present) = self.model.present(&name) else {
            return self.create_first(name);
        };
        let format = present.format;
        let known = present.producers.clone();
        let seq_known = present.stream_seq;
        let units = self.choices.between(1, 4);
        let mut posted = self.posted(format);
        posted.body = self.body(format, units);
        match self.choices.upto(5) {
            3 => posted.stream_seq = Some(seq_known.unwrap_or(4) + self.choices.upto(1)),
            4 | 5 => {
                let id = self.choices.upto(1);
                let next = known.get(&id).map_or(0, |(_, seq)| seq + 1);
                let seq = match self.choices.upto(4) {
                    0 => next + 1,
                    1 => next.saturating_sub(1),
                    _ => next,
                };
                posted.producer = Some((id, 0, seq));
            }
            _ => {}
        }
        let kind = Kind::Append(posted);
        self.send(Request { name, kind });
    }

    fn create_first(&mut self, name: String) {
        let kind = self.plain();
        self.send(Request { name, kind });
    }

    fn close(&mut self) {
        let name = self.name();
        let format = self.model.present(&name).map(|present| present.format);
        let posted = Posted {
            format: format.unwrap_or(Format::Json),
            body: Vec::new(),
            producer: None,
            stream_seq: None,
            close: true,
        };
        let kind = Kind::Append(posted);
        self.send(Request { name, kind });
    }

    fn read(&mut self) {
        let name = self.name();
        let tokens = self.model.present(&name).map(|present| {
            let tokens: Vec<_> = present.tokens.keys().cloned().collect();
            tokens
        });
        let from = tokens.and_then(|tokens| self.some_token(&tokens));
        let kind = Kind::Read { from };
        self.send(Request { name, kind });
    }

    fn some_token(&mut self, tokens: &[String]) -> Option<String> {
        let at = self.choices.upto(tokens.len() as u64);
        let at = usize::try_from(at).ok()?.checked_sub(1)?;
        tokens.get(at).cloned()
    }

    /// Sends an earlier PUT again.
    fn repeat(&mut self) {
        let count = self.requests.len() as u64;
        if count == 0 {
            return;
        }
        let back = self.choices.upto((count - 1).min(5));
        let request = self.requests[(count - 1 - back) as usize].clone();
        self.send(request);
    }

    fn fork(&mut self) -> Request {
        let mut source = self.name();
        // Most sources exist.
        if self.model.present(&source).is_none() && !self.choices.percent(20) {
            let present: Vec<_> = self.model.present.keys().cloned().collect();
            if !present.is_empty() {
                let at = self.choices.upto(present.len() as u64 - 1);
                source.clone_from(&present[at as usize]);
            }
        }
        let mut name = self.name();
        // Most forks get a name that is free.
        if self.model.present(&name).is_some() && !self.choices.percent(20) {
            let free = (0..self.settings.names).map(|number| format!("s{number}"));
            let free: Vec<_> = free
                .filter(|name| self.model.present(name).is_none())
                .collect();
            if !free.is_empty() {
                let at = self.choices.upto(free.len() as u64 - 1);
                name.clone_from(&free[at as usize]);
            }
        }
        let all = self.model.incarnations.iter().rev();
        let last = all.clone().find(|each| each.name == source);
        let format = last.map_or(Format::Json, |last| last.format);
        let tokens: Vec<_> = last
            .map(|last| last.tokens.keys().cloned().collect())
            .unwrap_or_default();
        let (offset, sub_offset) = match self.choices.weighted(&[6, 3, 8, 1, 1]) {
            0 => (None, 0),
            1 => (Some(START.to_owned()), self.choices.upto(4)),
            2 => {
                let token = self.some_token(&tokens);
                let sub_offset = if token.is_some() {
                    self.choices.upto(3)
                } else {
                    0
                };
                (token, sub_offset)
            }
            3 => (Some(BEYOND.to_owned()), 0),
            _ => (None, 1),
        };
        let body = match self.choices.weighted(&[7, 4, 1]) {
            0 => Vec::new(),
            1 => {
                let units = self.choices.between(1, 2);
                self.body(format, units)
            }
            _ => b"{".to_vec(),
        };
        let asked = match self.choices.weighted(&[6, 3, 1]) {
            0 => None,
            1 => Some(format),
            _ => Some(self.choices.one_of(&[Format::Json, Format::Bytes])),
        };
        let kind = Kind::Create(Asked {
            format: asked,
            expiry: self.expiry(),
            closed: self.choices.percent(5),
            body,
            fork: Some(AskedFork {
                source,
                offset,
                sub_offset,
            }),
        });
        Request { name, kind }
    }

    /// Deletes all that is there.
    pub(super) fn delete_all(&mut self) {
        let present = self.model.present.keys().cloned();
        let live = present.filter(|name| self.model.present(name).is_some_and(|it| !it.hidden));
        let live: Vec<_> = live.collect();
        for name in live {
            let kind = Kind::Delete;
            self.send(Request { name, kind });
        }
    }
}
