//! Requests as they come over the wire: hostile heads and bodies, through the router and the parser
//! to streams.
//!
//! The input is text with a record separator (0x1E) between its records. The first has the
//! operator's variables, a `NAME=value` in each line, and what only a deployment or nobody sets
//! ([`SWITCHES`], [`NUMBERS`]). Each of the others is a request without its version: `METHOD
//! /path`, header lines, an empty line, and the body. Other records are commands: `SLEEP 5000` ends
//! all instances and lets 5,000 milliseconds pass; `WAIT 5000` only lets them pass; `FAIL 3` lets
//! the storage fail after three reads in the next turn; `DONE 1`, or another [`Outcome`], is the
//! outcome of the second effect in flight, and `ANSWERED 404` that of the first message.

use std::collections::BTreeMap;

use bytes::Bytes;
use machine::live_reader::{Frame, LiveHead};
use machine::message::{self, Message};
use machine::router::{self, Route, Settings, target};
use machine::rows::{Expiry, ProducerStamp, StreamRow as StoredHead, Write};
use machine::wire::answer::Body;
use machine::wire::content_type;
use machine::wire::request::{
    self, Append, Create, Parsed, Preconditions, Read, RequestHead, StartOffset,
};
use machine::wire::{CacheMode, Format, internal_headers};
use machine::{
    AlarmChange, Answer, Broadcast, Call, CallId, Class, Effect, Input, Limits, Millis, Offset,
    Refusal, SendOutcome, Turn,
};

use crate::effects::{Errand, Outcome};
use crate::grammar;
use crate::object::Object;

const RECORD_SEPARATOR: u8 = 0x1e;
const BEGINNING: Millis = Millis(1_800_000_000_000);
/// Reading back costs a turn for each page.
const PAGES_MAX: usize = 1_000;
/// By then everything is stored and told, unless it fails forever.
const ROUNDS_MAX: usize = 50;
/// Alarms of one object in one pause.
const ALARMS_MAX: usize = 10;

type Switch = fn(&mut Limits) -> &mut bool;
type Number = fn(&mut Limits) -> &mut u64;

/// On with `1`.
const SWITCHES: [(&str, Switch); 3] = [
    ("COLD", |limits| &mut limits.cold),
    ("REGISTRY", |limits| &mut limits.registry),
    ("INDEX", |limits| &mut limits.index),
];

/// Each with its least value.
const NUMBERS: [(&str, Number, u64); 5] = [
    ("INDEX_STEP_BYTES", |limits| &mut limits.index_step_bytes, 0),
    ("PAGE_PARTS_MAX", |limits| &mut limits.page_parts_max, 0),
    ("ROW_BYTES_MAX", |limits| &mut limits.row_bytes_max, 16),
    ("COLLECT_KEYS_MAX", |limits| &mut limits.collect_keys_max, 0),
    ("FRAME_BYTES_MAX", |limits| &mut limits.frame_bytes_max, 0),
];

/// Sends the requests to as many streams as they name.
///
/// # Panics
/// When an answer breaks a rule that every answer keeps, a call does not survive being printed and
/// parsed again, a refusal stores something, or a stream does not give back what it took.
pub fn request(input: &[u8]) {
    let mut records = input.split(|byte| *byte == RECORD_SEPARATOR);
    let variables = latin(records.next().unwrap_or_default());
    let variable = |name: &str| {
        let mut lines = variables.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(each, _)| *each == name)
            .map(|(_, value)| value.to_owned())
    };
    let Ok(mut settings) = Settings::read(&variable) else {
        return;
    };
    for (name, switch) in SWITCHES {
        *switch(&mut settings.limits) |= variable(name).as_deref() == Some("1");
    }
    for (name, number, least) in NUMBERS {
        if let Some(value) = variable(name).and_then(|value| value.parse::<u64>().ok()) {
            *number(&mut settings.limits) = value.max(least);
        }
    }
    let mut server = Server {
        settings,
        now: BEGINNING,
        reads_left: None,
        objects: BTreeMap::new(),
    };
    for record in records {
        if !server.direct(record)
            && let Some(request) = Request::read(record)
        {
            server.take(&request);
        }
    }
    server.read_all();
    let is_quiet = server.settle();
    server.read_all();
    if is_quiet {
        server.check_leftovers();
    }
}

/// Header values and URLs are bytes, which JavaScript hands on as characters of Latin-1.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[derive(Debug)]
struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Request {
    /// `None` for what no HTTP server would hand on: control characters, a URL that is not one, a
    /// header without a name.
    fn read(record: &[u8]) -> Option<Self> {
        let mut lines = record.split(|byte| *byte == b'\n');
        let first = latin(lines.next()?);
        let (method, path) = first.split_once(' ')?;
        let is_url = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        let is_token = |text: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !text.is_empty() && text.bytes().all(plain)
        };
        if !is_url || !is_token(method) {
            return None;
        }
        let mut length = first.len() + 1;
        let mut headers = Vec::new();
        for line in lines {
            length += line.len() + 1;
            if line.is_empty() {
                break;
            }
            let line = latin(line);
            let (name, value) = line.split_once(':')?;
            let value = value.trim_matches([' ', '\t']);
            let is_value = value
                .chars()
                .all(|each| each == '\t' || !each.is_ascii_control());
            if !is_token(name) || !is_value {
                return None;
            }
            headers.push((name.to_owned(), value.to_owned()));
        }
        Some(Self {
            method: method.to_owned(),
            url: format!("https://host{path}"),
            headers,
            body: Bytes::copy_from_slice(record.get(length..).unwrap_or_default()),
        })
    }

    /// The value of a header; of one that is given several times, all values.
    fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self
            .headers
            .iter()
            .filter(|(each, _)| each.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    fn parse(&self, limits: &Limits) -> Result<Call, Refusal> {
        let header = |name: &str| self.header(name);
        let (origin, target) = target::split(&self.url);
        let head = RequestHead {
            method: &self.method,
            origin,
            target,
            header: &header,
        };
        match request::parse(head, limits)? {
            Parsed::Whole(call) => Ok(call),
            Parsed::AwaitsBody(awaits) => awaits.with_body(self.body.clone()),
        }
    }

    /// A request that asks for this call.
    fn print(call: &Call, base: &str) -> Self {
        let mut headers = Vec::new();
        let mut url = base.to_owned();
        let (method, body) = match call {
            Call::Create(create) => {
                url.clone_from(&create.location);
                headers.extend(print_create(create));
                ("PUT", create.body.clone())
            }
            Call::Append(append) => {
                headers.extend(print_append(append));
                ("POST", append.body.clone())
            }
            Call::Read(read) => {
                url.push_str(&print_query(read));
                headers.extend(
                    read.if_none_match
                        .clone()
                        .map(|tags| ("If-None-Match", tags)),
                );
                let id = read.last_event_id.map(|id| id.to_string());
                headers.extend(id.map(|id| ("Last-Event-ID", id)));
                headers.push((
                    internal_headers::CACHE_MODE,
                    read.cache_mode.name().to_owned(),
                ));
                ("GET", Bytes::new())
            }
            Call::Metadata => ("HEAD", Bytes::new()),
            Call::Delete(preconditions) => {
                headers.extend(print_preconditions(preconditions));
                ("DELETE", Bytes::new())
            }
        };
        Self {
            method: method.to_owned(),
            url,
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body,
        }
    }
}

type Printed = (&'static str, String);

fn print_create(create: &Create) -> Vec<Printed> {
    let mut headers = vec![("Content-Type", create.content_type.clone())];
    match &create.expiry {
        Expiry::Never => {}
        Expiry::Sliding { seconds } => headers.push(("Stream-TTL", seconds.to_string())),
        Expiry::At { text, .. } => headers.push(("Stream-Expires-At", text.clone())),
    }
    headers.extend(create.closed.then(|| ("Stream-Closed", "true".to_owned())));
    headers.extend(print_producer(create.producer.as_ref()));
    headers.extend(print_preconditions(&create.preconditions));
    headers
}

fn print_append(append: &Append) -> Vec<Printed> {
    let mut headers = Vec::new();
    headers.extend(
        append
            .content_type
            .clone()
            .map(|text| ("Content-Type", text)),
    );
    headers.extend(append.stream_seq.clone().map(|text| ("Stream-Seq", text)));
    let expected = append.expected_offset;
    headers.extend(expected.map(|offset| ("Stream-Expected-Offset", offset.to_string())));
    headers.extend(append.close.then(|| ("Stream-Closed", "true".to_owned())));
    headers.extend(print_producer(append.producer.as_ref()));
    headers.extend(print_preconditions(&append.preconditions));
    headers
}

fn print_producer(stamp: Option<&ProducerStamp>) -> Vec<Printed> {
    stamp.map_or_else(Vec::new, |stamp| {
        vec![
            ("Producer-Id", stamp.id.clone()),
            ("Producer-Epoch", stamp.epoch.to_string()),
            ("Producer-Seq", stamp.seq.to_string()),
        ]
    })
}

fn print_preconditions(preconditions: &Preconditions) -> impl Iterator<Item = Printed> {
    let lists = [
        ("If-Match", &preconditions.if_match),
        ("If-None-Match", &preconditions.if_none_match),
    ];
    lists
        .into_iter()
        .filter_map(|(name, list)| Some((name, list.clone()?)))
}

fn print_query(read: &Read) -> String {
    let from = match read.from {
        StartOffset::Start => "-1".to_owned(),
        StartOffset::Now => "now".to_owned(),
        StartOffset::Offset(offset) => offset.to_string(),
    };
    let live = match read.live {
        None => "",
        Some(Class::LongPoll) => "&live=long-poll",
        Some(Class::Sse) => "&live=sse",
    };
    let cursor = read
        .cursor
        .map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
    format!("?offset={from}{live}{cursor}")
}

/// A stream, and what it must hold.
struct Named {
    object: Object,
    incarnation: Option<Incarnation>,
    /// Pages that were returned, with their entity tags, by the offset where they begin. A page
    /// that does not reach the tail never changes.
    pages: BTreeMap<Offset, (Option<String>, Vec<u8>)>,
}

struct Incarnation {
    format: Format,
    expires: bool,
    tail: Offset,
    /// What was accepted: messages, or runs of bytes.
    records: Vec<Vec<u8>>,
}

struct Server {
    settings: Settings,
    now: Millis,
    /// In the next turn.
    reads_left: Option<u64>,
    objects: BTreeMap<String, Named>,
}

impl Server {
    /// Does what a record says that is no request.
    fn direct(&mut self, record: &[u8]) -> bool {
        let text = latin(record.get(..32).unwrap_or(record));
        let Some((word, number)) = text.split_once(' ') else {
            return false;
        };
        let number = number.trim().parse().unwrap_or(0);
        let outcome = Outcome::ALL.into_iter().find(|(name, _)| *name == word);
        match (word, outcome) {
            ("SLEEP", _) => {
                self.sleep();
                self.wait(number);
            }
            ("WAIT", _) => self.wait(number),
            ("FAIL", _) => self.reads_left = Some(number),
            ("ANSWERED", _) => self.answer_message(u16::try_from(number).unwrap_or(500)),
            (_, Some((_, outcome))) => self.run_errand(number, outcome),
            _ => return false,
        }
        true
    }

    fn sleep(&mut self) {
        self.objects
            .values_mut()
            .for_each(|named| named.object.sleep());
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now = self.now.plus(milliseconds % (1 << 40));
        for named in self.objects.values_mut() {
            for _ in 0..ALARMS_MAX {
                let Some(at) = named.object.alarm.take_if(|at| *at <= self.now) else {
                    break;
                };
                named.object.reads_left = self.reads_left.take();
                match named.object.step(self.now, Input::Alarm) {
                    Ok(turn) => {
                        assert!(
                            turn.after_commit.is_empty(),
                            "nobody is answered by an alarm"
                        );
                        named.note_removal(&turn);
                    }
                    // The platform tries again.
                    Err(_) => named.object.alarm = Some(at),
                }
            }
        }
    }

    /// Lets this become of one of all errands on their way.
    fn run_errand(&mut self, number: u64, outcome: Outcome) {
        let count = |named: &Named| named.object.errands.len() as u64;
        let total: u64 = self.objects.values().map(count).sum();
        let Some(mut at) = number.checked_rem(total) else {
            return;
        };
        let owner = self.objects.iter().find(|(_, named)| {
            let is_here = at < count(named);
            at -= if is_here { 0 } else { count(named) };
            is_here
        });
        let Some(name) = owner.map(|(name, _)| name.clone()) else {
            return;
        };
        let Some(mut named) = self.objects.remove(&name) else {
            return;
        };
        let errand = named.object.errands.remove(at as usize);
        let now = self.now;
        let told = errand.carry_out(outcome, now, &mut named.object, |message| {
            self.deliver(message)
        });
        if let Some(input) = told {
            named.object.reads_left = self.reads_left.take();
            named.tell(now, input);
        }
        self.objects.insert(name, named);
    }

    /// The first message on its way is answered with this status, by nobody.
    fn answer_message(&mut self, status: u16) {
        for named in self.objects.values_mut() {
            let errands = &mut named.object.errands;
            let is_message = |errand: &Errand| matches!(errand, Errand::Send { .. });
            if let Some(at) = errands.iter().position(is_message)
                && let Errand::Send { effect, .. } = errands.remove(at)
            {
                let reply = SendOutcome::Status(status);
                return named.tell(self.now, Input::SendFinished { effect, reply });
            }
        }
    }

    /// Takes a message to where it is sent; gives the status of the answer.
    fn deliver(&mut self, message: &Message) -> u16 {
        match message {
            Message::Registry(request) => {
                let headers = request.headers.iter();
                let headers = headers.map(|(name, value)| ((*name).to_owned(), value.clone()));
                self.hand_over(
                    request.stream.clone(),
                    &Request {
                        method: request.method.to_owned(),
                        url: request.url(),
                        headers: headers.collect(),
                        body: request.body.clone().into(),
                    },
                )
            }
            Message::Index(statements) => {
                for statement in statements {
                    let places = statement.sql.matches('?').count();
                    assert_eq!(places, statement.values.len(), "{}", statement.sql);
                    let is_whole = |value: &message::Value| match value {
                        message::Value::Integer(_) => true,
                        message::Value::Text(text) => !text.contains('\0'),
                    };
                    assert!(statement.values.iter().all(is_whole));
                }
                200
            }
        }
    }

    /// Lets everything be done that is to be done, without a failure; whether that came to an end.
    fn settle(&mut self) -> bool {
        self.reads_left = None;
        for _ in 0..ROUNDS_MAX {
            while self
                .objects
                .values()
                .any(|named| !named.object.errands.is_empty())
            {
                self.run_errand(0, Outcome::Done);
            }
            let alarms = self.objects.values().filter_map(|named| named.object.alarm);
            let Some(next) = alarms.min() else {
                return true;
            };
            self.now = self.now.max(next);
            self.wait(0);
        }
        false
    }

    /// When nothing remains to be done, nothing is kept that nobody refers to.
    fn check_leftovers(&self) {
        for (name, named) in &self.objects {
            let object = &named.object;
            assert!(
                object.cold_is_tidy(),
                "{name} leaves objects in the cold tier"
            );
            assert!(
                !object.has_no_stream() || object.is_empty(),
                "{name} leaves rows"
            );
        }
    }

    /// What the router and the object do with a request.
    fn take(&mut self, request: &Request) {
        let header = |name: &str| request.header(name);
        let (origin, target) = target::split(&request.url);
        let head = RequestHead {
            method: &request.method,
            origin,
            target,
            header: &header,
        };
        let to = match router::route(head, &self.settings) {
            Route::Answered(answer) => {
                // The parser must stand what the router keeps from it.
                let _ = request.parse(&self.settings.limits);
                return check(request, &answer, b"");
            }
            Route::Stream(to) => to,
        };
        // A client's internal headers never reach the object.
        let mut headers = request.headers.clone();
        for name in internal_headers::ALL {
            headers.retain(|(given, _)| !given.eq_ignore_ascii_case(name));
            let value = to.internal_header(name);
            headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        }
        let handed = Request {
            method: request.method.clone(),
            url: request.url.clone(),
            headers,
            body: request.body.clone(),
        };
        let limits = &self.settings.limits;
        if let Ok(Call::Read(read)) = handed.parse(limits) {
            assert_eq!(
                to.live,
                read.live.is_some(),
                "the router offers a connection to live reads"
            );
        }
        self.hand_over(to.name, &handed);
    }

    /// What the object of this name does with a request; gives the status of its answer.
    fn hand_over(&mut self, name: String, request: &Request) -> u16 {
        let limits = &self.settings.limits;
        let call = match request.parse(limits) {
            Ok(call) => call,
            Err(refusal) => {
                let answer = Answer::refusal(&refusal);
                check(request, &answer, b"");
                return answer.status;
            }
        };
        let base = request.url.split(['?', '#']).next().unwrap_or_default();
        let again = Request::print(&call, base).parse(limits);
        assert_eq!(again.as_ref(), Ok(&call), "a call survives being printed");
        let named = self.objects.entry(name).or_insert_with(|| Named {
            object: Object::new(limits.clone()),
            incarnation: None,
            pages: BTreeMap::new(),
        });
        named.object.reads_left = self.reads_left.take();
        named.take(self.now, request, call)
    }

    fn read_all(&mut self) {
        let now = self.now;
        for named in self.objects.values_mut() {
            named.read_all(now);
        }
    }
}

impl Named {
    /// Gives the status of the answer.
    fn take(&mut self, now: Millis, request: &Request, call: Call) -> u16 {
        let input = Input::Call {
            id: CallId(0),
            call: call.clone(),
        };
        let turn = match self.object.step(now, input) {
            Ok(turn) => turn,
            Err(unreadable) => {
                let answer = Answer::internal(&unreadable.to_string());
                check(request, &answer, b"");
                return answer.status;
            }
        };
        self.note_removal(&turn);
        let [effect] = turn.after_commit.as_slice() else {
            panic!(
                "a call is answered once, in its turn: {:?}",
                turn.after_commit
            )
        };
        let answer = match effect {
            Effect::Answer {
                call: CallId(0),
                answer,
            } => answer,
            Effect::Attach {
                call: CallId(0),
                subscriber,
            } => {
                let told = subscriber
                    .answer
                    .header(internal_headers::LIVE_HEAD)
                    .and_then(LiveHead::from_header);
                assert_eq!(told.as_ref(), Some(&subscriber.head));
                let head = &subscriber.head;
                assert!(head.attached && head.up_to_date && !head.closed);
                &subscriber.answer
            }
            Effect::Answer { .. }
            | Effect::Attach { .. }
            | Effect::Put(_)
            | Effect::Collect { .. }
            | Effect::Send { .. } => panic!("another call is answered: {effect:?}"),
        };
        if let Some(body) = self.object.body(now, answer) {
            check(request, answer, &body);
        }
        if answer.status >= 400 {
            // But that a stream with a TTL was used, that it is gone, and that what was left to do
            // is being done.
            let slides = |head: &StoredHead| matches!(head.expiry, Expiry::Sliding { .. });
            let ends = turn.writes.contains(&Write::DropTables);
            let allowed = |write: &Write| match write {
                Write::DropTables | Write::UpdateSegment(_) => true,
                Write::UpdateStream(head) => slides(head) || turn.alarm != AlarmChange::Keep,
                Write::CreateOutbox
                | Write::InsertTask(_)
                | Write::DropOutbox
                | Write::DropHot(_) => ends,
                Write::CreateTables
                | Write::InsertStream(_)
                | Write::InsertHot { .. }
                | Write::CreateSealedTables
                | Write::CreateHot(_)
                | Write::InsertSegment(_)
                | Write::PutProducer { .. }
                | Write::ForgetProducers { .. }
                | Write::Upgrade { .. }
                | Write::UpdateTask(_)
                | Write::RemoveTask { .. } => false,
            };
            assert!(
                turn.writes.iter().all(allowed),
                "a refusal stores nothing: {:?}",
                turn.writes
            );
        }
        match call {
            Call::Create(create) if answer.status == 201 => self.created(&create, answer),
            Call::Append(append) if answer.status < 300 => {
                self.appended(&append, answer, turn.broadcast.as_ref())
            }
            Call::Delete(_) if answer.status < 300 => {
                assert!(
                    self.object.has_no_stream(),
                    "a deleted stream leaves nothing"
                );
            }
            Call::Create(_)
            | Call::Append(_)
            | Call::Delete(_)
            | Call::Read(_)
            | Call::Metadata => {}
        }
        answer.status
    }

    /// Tells the stream what has become of an errand.
    fn tell(&mut self, now: Millis, input: Input) {
        if let Ok(turn) = self.object.step(now, input) {
            assert!(
                turn.after_commit.is_empty() && turn.broadcast.is_none(),
                "nobody has asked"
            );
        }
    }

    /// A stream goes when it is deleted, and when it expires.
    fn note_removal(&mut self, turn: &Turn) {
        if turn.writes.contains(&Write::DropTables) {
            self.incarnation = None;
            self.pages.clear();
        }
    }

    fn created(&mut self, create: &Create, answer: &Answer) {
        let format = content_type::format(&create.content_type);
        self.incarnation = Some(Incarnation {
            format,
            expires: create.expiry != Expiry::Never,
            tail: next_offset(answer),
            records: records(format, &create.body),
        });
    }

    fn appended(&mut self, append: &Append, answer: &Answer, live: Option<&Broadcast>) {
        let incarnation = self
            .incarnation
            .as_mut()
            .expect("only a stream can be appended to");
        let next = next_offset(answer);
        let Some(live) = live else {
            assert_eq!(next, incarnation.tail, "what is not told is not new");
            return;
        };
        assert_eq!(live.next, next, "the readers are told what the writer is");
        assert_eq!(
            live.from, incarnation.tail,
            "the tail moves from where it was, and sealing does not rename it"
        );
        for class in [Class::Sse, Class::LongPoll] {
            let message = live
                .message(class)
                .expect("the machine's own frames are whole");
            let (frame, _) = Frame::decode(&message).expect("a message can be read");
            assert_eq!(
                (frame.from, frame.next, frame.end),
                (live.from, live.next, live.end)
            );
        }
        incarnation.tail = next;
        incarnation
            .records
            .extend(records(incarnation.format, &append.body));
    }

    /// One answer has what all pages have together.
    fn read_at_once(&mut self, now: Millis, content: &[Vec<u8>]) {
        let read = Read {
            from: StartOffset::Start,
            live: None,
            last_event_id: None,
            cursor: None,
            if_none_match: None,
            cache_mode: CacheMode::Private,
        };
        let input = Input::Call {
            id: CallId(0),
            call: Call::Read(read),
        };
        let turn = self.object.step(now, input).expect("a map can be read");
        let Some(Effect::Answer { answer, .. }) = turn.after_commit.first() else {
            panic!("a catch-up read is answered")
        };
        assert_eq!(answer.header("Stream-Up-To-Date"), Some("true"));
        let body = self.object.body(now, answer).expect("a map can be read");
        let incarnation = self
            .incarnation
            .as_ref()
            .expect("only a stream can be read");
        let whole = records(incarnation.format, &body);
        assert_eq!(whole.concat(), content.concat(), "all pages at once");
        assert!(incarnation.format != Format::Json || whole.len() == content.len());
    }

    /// Everything that was accepted is there, in its order.
    fn read_all(&mut self, now: Millis) {
        self.object.sleep();
        self.object.reads_left = None;
        let mut from = StartOffset::Start;
        let mut content: Vec<Vec<u8>> = Vec::new();
        let mut is_known = false;
        for _ in 0..PAGES_MAX {
            let read = Read {
                from,
                live: None,
                last_event_id: None,
                cursor: None,
                if_none_match: None,
                cache_mode: CacheMode::Shared,
            };
            let input = Input::Call {
                id: CallId(0),
                call: Call::Read(read),
            };
            let turn = self.object.step(now, input).expect("a map can be read");
            let Some(Effect::Answer { answer, .. }) = turn.after_commit.first() else {
                panic!("a catch-up read is answered")
            };
            if answer.status == 404 {
                let gone = self
                    .incarnation
                    .as_ref()
                    .is_none_or(|incarnation| incarnation.expires);
                assert!(gone, "a stream is lost");
                return;
            }
            assert_eq!(answer.status, 200);
            let page = self.object.body(now, answer).expect("a map can be read");
            let next = next_offset(answer);
            let incarnation = self
                .incarnation
                .as_ref()
                .expect("only a stream can be read");
            content.extend(records(incarnation.format, &page));
            if answer.header("Stream-Up-To-Date").is_some() {
                assert_eq!(next, incarnation.tail);
                if incarnation.format == Format::Json {
                    assert_eq!(content, incarnation.records, "messages");
                } else {
                    assert_eq!(content.concat(), incarnation.records.concat(), "bytes");
                }
                if is_known {
                    return self.read_at_once(now, &content);
                }
                // The tail as the last writer knows it, though that may be the end of a sealed
                // segment by now.
                is_known = true;
                from = StartOffset::Offset(incarnation.tail);
                continue;
            }
            assert!(!is_known, "nothing is behind the tail");
            let start = match from {
                StartOffset::Offset(offset) => offset,
                StartOffset::Start | StartOffset::Now => Offset::START,
            };
            let page = (answer.header("ETag").map(str::to_owned), page);
            if let Some(former) = self.pages.insert(start, page.clone()) {
                assert_eq!(
                    former, page,
                    "a page stays as it is, wherever its content is moved"
                );
            }
            from = StartOffset::Offset(next);
        }
    }
}

fn records(format: Format, body: &[u8]) -> Vec<Vec<u8>> {
    if body.is_empty() {
        return Vec::new();
    }
    match format {
        Format::Json => {
            let messages = grammar::messages(body).expect("only JSON is accepted");
            messages.into_iter().map(<[u8]>::to_vec).collect()
        }
        Format::Text | Format::Binary => vec![body.to_vec()],
    }
}

fn next_offset(answer: &Answer) -> Offset {
    let text = answer
        .header("Stream-Next-Offset")
        .expect("the answer tells the next offset");
    let offset: Offset = text.parse().expect("what the server gives is an offset");
    assert_eq!(offset.to_string(), text);
    offset
}

/// What every answer keeps to, whatever was asked.
fn check(request: &Request, answer: &Answer, body: &[u8]) {
    let status = answer.status;
    assert!((200..=501).contains(&status), "{status} to {request:?}");
    assert!(answer.header("Cache-Control").is_some(), "{request:?}");
    for (name, value) in answer.headers() {
        let plain = value
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) || byte == b'\t');
        assert!(plain, "{name}: {value:?}");
    }
    if let Some(offset) = answer.header("Stream-Next-Offset") {
        assert!(offset.parse::<Offset>().is_ok(), "{offset}");
    }
    let has_body = answer.body != Body::Empty;
    match status {
        204 | 304 => assert!(!has_body, "{status} has no body"),
        400..500 if request.method == "HEAD" => assert!(!has_body, "HEAD has no body"),
        400.. => {
            let Body::Bytes(error) = &answer.body else {
                panic!("{status} has no reason")
            };
            let error: serde_json::Value = serde_json::from_slice(error).expect("an error is JSON");
            assert!(error["error"]["code"].is_string() && error["error"]["message"].is_string());
        }
        _ => {
            let is_json =
                answer.header("Content-Type").map(content_type::format) == Some(Format::Json);
            if is_json && has_body {
                assert!(grammar::messages(body).is_some(), "a body in JSON is JSON");
            }
        }
    }
    let reads_if = request.header("If-None-Match").is_some();
    assert!(status != 304 || reads_if, "nobody asked for {status}");
    let writes_if = reads_if || request.header("If-Match").is_some();
    let writes = matches!(&*request.method, "PUT" | "POST" | "DELETE");
    assert!(
        status != 412 || (writes_if && writes),
        "nobody asked for {status}"
    );
}

#[cfg(test)]
mod tests {
    /// Where a page ends exactly at an entry of the index is a matter of one byte, which chance
    /// seldom meets.
    #[test]
    fn pages_of_any_size_stay_as_they_are_when_their_content_is_moved() {
        let appends =
            "\x1ePOST /v1/stream/a\nContent-Type: application/json\n\n[\"abcd\",\"ef\"]".repeat(6);
        for chunk in 1..=70 {
            for step in [1, 10, 18, 25] {
                let records = format!(
                    "COLD=1\nSEGMENT_MAX_MESSAGES=10\nMAX_CHUNK_BYTES={chunk}\nINDEX_STEP_BYTES={step}\
                     \x1ePUT /v1/stream/a\nContent-Type: application/json\n\n{appends}"
                );
                super::request(records.as_bytes());
            }
        }
    }
}
