//! One stream: compares what it returns with what it accepted.

use std::collections::BTreeMap;

use machine::live_reader::{LiveHead, MessageHead};
use machine::rows::{Expiry, Incarnation as IncarnationId, StreamRow as StoredHead};
use machine::wire::request::{Append, Create, Read, StartOffset};
use machine::wire::{CacheMode, Format, content_type, internal_headers};
use machine::{
    AlarmChange, Answer, Body, Broadcast, Call, CallId, Class, Effect, ForkRequest, Input, Millis,
    Offset, Turn, Write,
};

use super::PAGES_MAX;
use super::wire::Request;
use crate::grammar;
use crate::object::Object;

/// A name, its stream, and the content that this must have.
pub(super) struct Named {
    pub(super) object: Object,
    pub(super) incarnation: Option<Incarnation>,
    /// Those that have ended. Forks may still have their content.
    pub(super) former: Vec<Incarnation>,
    /// Pages that were returned, with their entity tags, by the offset where they begin. A page
    /// that does not reach the tail never changes.
    pub(super) pages: BTreeMap<Offset, (Option<String>, Vec<u8>)>,
}

#[derive(Clone)]
pub(super) struct Incarnation {
    id: IncarnationId,
    format: Format,
    expires: bool,
    tail: Offset,
    /// What was accepted: messages, or runs of bytes.
    records: Vec<Vec<u8>>,
    /// The offsets that were sent, and the units before each.
    offsets: BTreeMap<Offset, u64>,
}

/// What is known of the source of a fork.
pub(super) struct Source {
    pub(super) content: Incarnation,
    /// Its units when the fork was asked for.
    pub(super) length_then: u64,
}

impl Incarnation {
    fn length(&self) -> u64 {
        match self.format {
            Format::Json => self.records.len() as u64,
            Format::Text | Format::Binary => {
                self.records.iter().map(Vec::len).sum::<usize>() as u64
            }
        }
    }

    /// Returns the content before a position.
    fn prefix(&self, units: u64) -> Vec<Vec<u8>> {
        let units = usize::try_from(units).expect("a number of units in memory");
        match self.format {
            Format::Json => self.records[..units].to_vec(),
            Format::Text | Format::Binary => vec![self.records.concat()[..units].to_vec()],
        }
    }

    fn note_offset(&mut self) {
        let length = self.length();
        self.offsets.insert(self.tail, length);
    }
}

impl Named {
    /// Returns an incarnation of this name, if it was created.
    pub(super) fn of(&self, id: IncarnationId) -> Option<&Incarnation> {
        let mut all = self.former.iter().chain(&self.incarnation);
        all.find(|incarnation| incarnation.id == id)
    }

    /// Returns the present incarnation and its length.
    pub(super) fn extent(&self) -> Option<(IncarnationId, u64)> {
        let incarnation = self.incarnation.as_ref()?;
        Some((incarnation.id, incarnation.length()))
    }

    /// Judges the answer to a call. `is_alone` says that nothing else has happened in its turn.
    pub(super) fn answered<'a>(
        &mut self,
        now: Millis,
        (request, call): (&Request, &Call),
        effect: &'a Effect,
        turn: &Turn,
        is_alone: bool,
        source: Option<Source>,
    ) -> &'a Answer {
        let answer = match effect {
            Effect::Answer { answer, .. } => answer,
            Effect::Attach { subscriber, .. } => {
                let header = subscriber
                    .answer
                    .header(internal_headers::LIVE_HEAD)
                    .and_then(LiveHead::from_header);
                assert_eq!(header.as_ref(), Some(&subscriber.head));
                let head = &subscriber.head;
                assert!(head.attached && head.up_to_date && !head.closed);
                &subscriber.answer
            }
            Effect::Put(_)
            | Effect::Collect { .. }
            | Effect::Call { .. }
            | Effect::Webhook { .. }
            | Effect::Index { .. }
            | Effect::Enqueue { .. } => panic!("a call is answered: {effect:?}"),
        };
        if let Some(body) = self.object.body(now, answer) {
            check(request, answer, &body);
        }
        if answer.status >= 400 && is_alone {
            // A refused call may change only three things: it may store a use of a stream with a
            // TTL, end an expired stream, and begin remaining work.
            let slides = |head: &StoredHead| matches!(head.expiry, Expiry::Sliding { .. });
            let ends = turn.writes.iter().any(ends);
            let allowed = |write: &Write| match write {
                Write::DropTables | Write::UpdateSegment(_) => true,
                Write::UpdateStream(head) => slides(head) || turn.alarm != AlarmChange::Keep,
                Write::CreateOutbox
                | Write::InsertTask(_)
                | Write::DropOutbox
                | Write::DropHot(_) => ends,
                Write::CreateStreamTable
                | Write::InsertStream(_)
                | Write::InsertHot { .. }
                | Write::CreateSealedTables
                | Write::CreateHot(_)
                | Write::InsertSegment(_)
                | Write::PutProducer { .. }
                | Write::ForgetProducers { .. }
                | Write::Upgrade { .. }
                | Write::UpdateTask(_)
                | Write::RemoveTask { .. }
                | Write::CreateControl
                | Write::PutControl(_)
                | Write::RemoveControl { .. }
                | Write::DropControl
                | Write::CreateManifest
                | Write::InsertManifest(_)
                | Write::CreatePins
                | Write::PutPin(_)
                | Write::ForgetPins { .. } => false,
            };
            assert!(
                turn.writes.iter().all(allowed),
                "a refusal stores nothing: {:?}",
                turn.writes
            );
        }
        match call {
            Call::Create(create) if answer.status == 201 => {
                self.created(now, create, answer, source);
            }
            Call::Append(append) if answer.status < 300 => {
                self.appended(append, answer, turn.broadcast.as_ref())
            }
            Call::Delete(_) if answer.status < 300 => {
                assert!(
                    self.object.has_no_stream() || self.object.is_hidden(),
                    "a deleted stream leaves nothing but what its forks need"
                );
            }
            Call::Create(_)
            | Call::Append(_)
            | Call::Delete(_)
            | Call::Read(_)
            | Call::Metadata
            | Call::Fork(_)
            | Call::Admin(_)
            | Call::Link(_)
            | Call::Control(_)
            | Call::Session(_) => {}
        }
        answer
    }

    /// Notes that a stream was deleted or has expired.
    pub(super) fn note_removal(&mut self, turn: &Turn) {
        if turn.writes.iter().any(ends) {
            self.former.extend(self.incarnation.take());
            self.pages.clear();
        }
    }

    fn created(&mut self, now: Millis, create: &Create, answer: &Answer, source: Option<Source>) {
        let head = self.object.store.rows.head();
        let head = head.expect("a created stream has a row").clone();
        let is_fork = head.lineage.fork.is_some();
        assert_eq!(create.fork.is_some(), is_fork, "a fork is created as asked");
        let format = content_type::format(&head.content_type);
        let mut incarnation = Incarnation {
            id: head.incarnation,
            format,
            expires: head.expiry != Expiry::Never,
            tail: next_offset(answer),
            records: records(format, &create.body),
            offsets: BTreeMap::new(),
        };
        if let (Some(source), Some(fork)) = (source, &create.fork) {
            assert_eq!(
                source.content.format, format,
                "a fork has its source's format"
            );
            let units = self.inherited(now, &incarnation, fork, &source);
            let mut records = source.content.prefix(units);
            records.append(&mut incarnation.records);
            incarnation.records = records;
            let shared = source.content.offsets.iter();
            let shared = shared.filter(|(_, place)| **place <= units);
            incarnation.offsets = shared.map(|(offset, place)| (*offset, *place)).collect();
        }
        incarnation.note_offset();
        self.incarnation = Some(incarnation);
    }

    /// Returns how many units a new fork has from its source. Everything that it has is read later.
    fn inherited(
        &mut self,
        now: Millis,
        own: &Incarnation,
        fork: &ForkRequest,
        source: &Source,
    ) -> u64 {
        self.object.reads_left = None;
        let answer = self.catch_up(now, StartOffset::Start, CacheMode::Private);
        if answer.status != 200 {
            // It has expired at once.
            assert!(own.expires, "a new fork can be read");
            return 0;
        }
        assert_eq!(answer.header("Stream-Up-To-Date"), Some("true"));
        let body = self.object.body(now, &answer).expect("a map can be read");
        let whole = Incarnation {
            records: records(own.format, &body),
            ..own.clone()
        };
        let units = whole.length() - own.length();
        let (least, most) = match &fork.offset {
            None => (source.length_then, source.content.length()),
            Some(offset) => match source.content.offsets.get(offset) {
                Some(place) => (place + fork.sub_offset, place + fork.sub_offset),
                // It is one that no answer has named.
                None => (0, source.content.length()),
            },
        };
        assert!(
            (least..=most).contains(&units),
            "a fork has {least} to {most} units of its source, not {units}"
        );
        units
    }

    pub(super) fn appended(&mut self, append: &Append, answer: &Answer, live: Option<&Broadcast>) {
        let incarnation = self
            .incarnation
            .as_mut()
            .expect("only a stream can be appended to");
        let next = next_offset(answer);
        let Some(live) = live else {
            assert_eq!(
                next, incarnation.tail,
                "an offset is left out only when it is not new"
            );
            return;
        };
        assert_eq!(
            live.next, next,
            "readers and the writer get the same offset"
        );
        assert_eq!(
            live.from, incarnation.tail,
            "the tail moves from where it was, and sealing does not rename it"
        );
        for class in [Class::Sse, Class::LongPoll] {
            let message = live
                .message(class)
                .expect("the machine's own frames are whole");
            let (head, _) = MessageHead::decode(&message).expect("a message can be read");
            assert_eq!(
                (head.from, head.next, head.end),
                (live.from, live.next, live.end)
            );
        }
        incarnation.tail = next;
        incarnation
            .records
            .extend(records(incarnation.format, &append.body));
        incarnation.note_offset();
    }

    /// Returns the answer to a catch-up read.
    fn catch_up(&mut self, now: Millis, from: StartOffset, cache_mode: CacheMode) -> Answer {
        let read = Read {
            from,
            live: None,
            last_event_id: None,
            cursor: None,
            if_none_match: None,
            cache_mode,
        };
        let input = Input::Call {
            id: CallId(0),
            call: Call::Read(read),
        };
        let turn = self.object.step(now, input).expect("a map can be read");
        match turn.after_commit.into_iter().next() {
            Some(Effect::Answer { answer, .. }) => answer,
            other => panic!("a catch-up read is answered, not {other:?}"),
        }
    }

    /// Checks that one answer has the same content as all pages together.
    pub(super) fn read_at_once(&mut self, now: Millis, content: &[Vec<u8>]) {
        let answer = self.catch_up(now, StartOffset::Start, CacheMode::Private);
        assert_eq!(answer.header("Stream-Up-To-Date"), Some("true"));
        let body = self.object.body(now, &answer).expect("a map can be read");
        let incarnation = self
            .incarnation
            .as_ref()
            .expect("only a stream can be read");
        let whole = records(incarnation.format, &body);
        assert_eq!(whole.concat(), content.concat(), "all pages at once");
        assert!(incarnation.format != Format::Json || whole.len() == content.len());
    }

    /// Checks that everything accepted is there, in order.
    pub(super) fn read_all(&mut self, now: Millis) {
        self.object.sleep();
        self.object.reads_left = None;
        let mut from = StartOffset::Start;
        let mut content: Vec<Vec<u8>> = Vec::new();
        let mut is_known = false;
        for _ in 0..PAGES_MAX {
            let answer = self.catch_up(now, from, CacheMode::Shared);
            let is_hidden = self.object.is_hidden();
            assert_eq!(
                answer.status == 410,
                is_hidden,
                "only a hidden stream is gone"
            );
            if matches!(answer.status, 404 | 410) {
                let gone = self
                    .incarnation
                    .as_ref()
                    .is_none_or(|incarnation| incarnation.expires);
                assert!(gone, "a stream is lost");
                return;
            }
            assert_eq!(answer.status, 200);
            let page = self.object.body(now, &answer).expect("a map can be read");
            let next = next_offset(&answer);
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
                // The tail as the last writer knows it, which may be the end of a sealed segment by
                // now.
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
                    "a page does not change when its content is moved"
                );
            }
            from = StartOffset::Offset(next);
        }
    }
}

/// Returns whether the admin API refuses a request because the operator has not set something up.
fn is_not_configured(answer: &Answer) -> bool {
    let Body::Bytes(body) = &answer.body else {
        return false;
    };
    let error: Result<serde_json::Value, _> = serde_json::from_slice(body);
    error.is_ok_and(|error| error["error"]["code"] == "not_configured")
}

/// Returns whether a write ends the stream, or hides it because its forks need it.
fn ends(write: &Write) -> bool {
    if let Write::UpdateStream(head) = write {
        return head.lineage.deleted_at.is_some();
    }
    *write == Write::DropTables
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
        .expect("the answer has the next offset");
    let offset: Offset = text.parse().expect("the server sends valid offsets");
    assert_eq!(offset.to_string(), text);
    offset
}

/// Checks the rules of all answers of streams and of the admin API.
pub(super) fn check(request: &Request, answer: &Answer, body: &[u8]) {
    // Only a fork can fail to be created in time, and what waits behind it.
    let may_fail = request.method == "PUT" || is_not_configured(answer);
    check_common(request, answer, body, may_fail);
}

/// Checks the rules of all answers. `may_fail` says whether 503 is one of them.
pub(crate) fn check_common(request: &Request, answer: &Answer, body: &[u8], may_fail: bool) {
    let status = answer.status;
    assert!(
        (200..=501).contains(&status) || status == 503 && may_fail,
        "{status} to {request:?}"
    );
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
        400..500 | 501 if request.method == "HEAD" => assert!(!has_body, "HEAD has no body"),
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
    assert!(status != 304 || reads_if, "{status} without a condition");
    let writes_if = reads_if || request.header("If-Match").is_some();
    let writes = matches!(&*request.method, "PUT" | "POST" | "DELETE");
    assert!(
        status != 412 || (writes_if && writes),
        "{status} without a condition"
    );
}
