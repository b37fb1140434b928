//! Reads: of clients, over several pages and while everything goes on, and of the oracle, which
//! reads what is durable and changes nothing.

use machine::wire::internal_headers::CACHE_MODE;
use machine::{
    Answer, Body, BodyWriter, CallId, Context, Effect, Input, MemoryRows, Millis, Stream,
};

use super::coverage::Situation;
use super::model::{Format, Unit};
use super::outside::path;
use super::request::parse;
use super::world::{Caller, Event, Pending, Place, World};
use crate::oracles::Oracle;

/// An answer that a client receives.
#[derive(Debug)]
pub(super) struct Reading {
    /// The place of the stream in the model.
    pub(super) incarnation: usize,
    /// The first unit; `None` if the offset is not one of the stream.
    pub(super) from: Option<u64>,
    /// The tail at that time.
    pub(super) to: u64,
    pub(super) body: Vec<u8>,
    pages: u64,
}

impl Reading {
    pub(super) const fn new(incarnation: usize, from: Option<u64>, to: u64) -> Self {
        Self {
            incarnation,
            from,
            to,
            body: Vec::new(),
            pages: 0,
        }
    }
}

/// What a whole stream holds, as a reader sees it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) units: Vec<Unit>,
    /// Each offset that an answer gave, and what came before it.
    pub(super) tokens: Vec<(String, u64)>,
    pub(super) is_closed: bool,
    pub(super) content_type: String,
}

impl World<'_, '_> {
    /// Renders the next page of an answer to a client.
    pub(super) fn page(&mut self, call: u64, mut writer: BodyWriter) {
        let Some(mut reading) = self.readings.remove(&call) else {
            return;
        };
        if let Err(reason) = self.render(&mut writer, &mut reading.body) {
            return self.fail(Oracle::ColdAnswers, "content that is there", reason);
        }
        reading.pages += 1;
        let Some(rest) = writer.rest() else {
            return self.finish_reading(&reading);
        };
        self.cover(Situation::ReadGoesOn);
        let name = self.model.incarnations[reading.incarnation].name.clone();
        let instance = self.objects.get(&name).map_or(0, |object| object.instance);
        self.next_call += 1;
        let next = self.next_call;
        self.readings.insert(next, reading);
        let pending = Pending {
            caller: Caller::Reader,
            holder: None,
            arrived: 0,
            arrived_at: 0,
        };
        self.calls.insert(next, pending);
        let input = Input::Continue {
            id: CallId(next),
            rest,
        };
        let at = Place { name, instance };
        if !self.is_present(&at) {
            self.calls.remove(&next);
            return;
        }
        let mut delay = self.network_delay();
        // Some clients read slowly.
        if !self.is_calm && self.choices.percent(30) {
            delay += self.late();
        }
        self.schedule(delay, Event::Ended { at, input });
    }

    fn finish_reading(&mut self, reading: &Reading) {
        let Some(from) = reading.from else { return };
        let incarnation = &self.model.incarnations[reading.incarnation];
        let range = from as usize..reading.to as usize;
        let expected = incarnation.format.body(&incarnation.content[range]);
        if let Some(fork) = incarnation.fork
            && from < fork.cut
            && fork.cut < reading.to
        {
            self.recorder.coverage.cover(Situation::ReadAcross);
        }
        if reading.body != expected {
            let name = incarnation.name.clone();
            let actual = String::from_utf8_lossy(&reading.body).into_owned();
            self.fail(
                Oracle::ForkContent,
                format!("{name} from {from}: {}", String::from_utf8_lossy(&expected)),
                actual,
            );
        }
    }

    /// Checks a body that comes with its answer.
    pub(super) fn whole_body(&mut self, call: u64, answer: &Answer) {
        let body = match &answer.body {
            Body::Plan(_) => return,
            Body::Bytes(bytes) => bytes.clone(),
            Body::Empty => Vec::new(),
        };
        if let Some(mut reading) = self.readings.remove(&call) {
            reading.body = body;
            self.finish_reading(&reading);
        }
    }

    fn render(&self, writer: &mut BodyWriter, out: &mut Vec<u8>) -> Result<(), String> {
        let damaged = |error: machine::CorruptionError| error.to_string();
        while let Some(fetch) = writer.advance(out).map_err(damaged)? {
            let Some(object) = self.cold.get(&fetch.key) else {
                return Err(format!("there is no object {}", fetch.key));
            };
            let range = fetch.offset as usize..(fetch.offset + fetch.length) as usize;
            let bytes = object.get(range).unwrap_or_default();
            for chunk in bytes.chunks(7) {
                writer.push(chunk, out).map_err(damaged)?;
            }
            writer.fetched().map_err(damaged)?;
        }
        Ok(())
    }

    /// Reads all that is durable of a stream, as a new instance shows it to shared caches.
    pub(super) fn see(&self, name: &str, rows: &MemoryRows) -> Result<Seen, String> {
        let unreadable = |error: machine::StorageError| error.to_string();
        // At this time nothing has expired.
        let now = Millis(1);
        let limits = &self.settings.limits;
        let mut stream = Stream::load(now, rows, limits, 0).map_err(unreadable)?;
        let mut seen = Seen {
            units: Vec::new(),
            tokens: Vec::new(),
            is_closed: false,
            content_type: String::new(),
        };
        let mut offset = "-1".to_owned();
        loop {
            let target = format!("{}?offset={offset}", path(name));
            let mode = [(
                CACHE_MODE,
                machine::wire::CacheMode::Shared.name().to_owned(),
            )];
            let call = parse("GET", &target, &mode, Vec::new(), limits);
            let call = call.ok_or("a read is refused")?;
            let context = Context {
                now,
                storage: rows,
                subscribers: &|_| Ok(0),
                entropy: &|| -> [u8; 32] { unreachable!("there are no subscriptions here") },
            };
            let id = CallId(0);
            let turn = stream.step(&context, Input::Call { id, call });
            let effects = turn.map_err(unreadable)?.after_commit;
            let answer = effects.into_iter().find_map(|effect| match effect {
                Effect::Answer { answer, .. } => Some(answer),
                Effect::Attach { .. }
                | Effect::Put(_)
                | Effect::Collect { .. }
                | Effect::Call { .. }
                | Effect::Webhook { .. }
                | Effect::Index { .. }
                | Effect::Enqueue { .. } => None,
            });
            let answer = answer.ok_or("a read has no answer")?;
            if answer.status != 200 {
                return Err(format!("a read is answered {}", answer.status));
            }
            let mut body = Vec::new();
            match &answer.body {
                Body::Empty => {}
                Body::Bytes(bytes) => body.clone_from(bytes),
                Body::Plan(plan) => {
                    let writer = plan.begin(|span| rows.frames(span));
                    self.render(&mut writer.map_err(unreadable)?, &mut body)?;
                }
            }
            let content_type = answer.header("Content-Type").unwrap_or_default();
            let format = if content_type == Format::Json.content_type() {
                Format::Json
            } else {
                Format::Bytes
            };
            let units = format
                .units(&body)
                .ok_or_else(|| format!("a malformed page {:?}", String::from_utf8_lossy(&body)))?;
            seen.content_type = content_type.to_owned();
            seen.units.extend(units);
            let next = answer.header("Stream-Next-Offset").unwrap_or_default();
            seen.tokens.push((next.to_owned(), seen.units.len() as u64));
            if answer.header("Stream-Up-To-Date").is_some() {
                seen.is_closed = answer.header("Stream-Closed").is_some();
                return Ok(seen);
            }
            if offset == next {
                return Err(format!("a read from {next} does not go on"));
            }
            next.clone_into(&mut offset);
        }
    }
}
