//! The reader's side of a live read: a second machine, small and pure, that keeps one client's SSE
//! response or long-poll going over a line to the stream that may be cut at any time.
//!
//! It knows a position and nothing else of the stream. A frame that does not begin there, a line
//! that closes, a client that does not read: all of them mean to dial again from the position, so
//! that there is no gap and no duplicate.
//!
//! The Cloudflare shell runs a twin of it in JavaScript (`shells/worker/js/tail.mjs`).
//! `tests/tail-cases.json` holds both to the same behaviour.

use serde::{Deserialize, Serialize};

use crate::wire::{header, sse};
use crate::{Class, Millis, Offset, StreamEnd};

/// What the stream tells the reader's side with each answer to a dial, as the
/// [`LIVE_HEAD`](crate::wire::internal_headers::LIVE_HEAD) header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveHead {
    pub class: Class,
    /// Of the stream: if it changes, the reader was reading something that is no more.
    pub incarnation: String,
    /// Whether a line came with it; otherwise its body is a page.
    pub attached: bool,
    /// Status of the event stream, or of the long-poll's answer when nothing comes in time.
    pub status: u16,
    /// The position after the page, or of the tail.
    pub next: Offset,
    pub cursor: u64,
    pub up_to_date: bool,
    pub closed: bool,
    /// After this the response is ended (SSE), or answered as it stands (long-poll).
    pub age_ms_max: u64,
    /// Silence after which an SSE response carries a comment.
    pub heartbeat_ms: u64,
    /// Bytes that may be held for a client that does not read.
    pub held_bytes_max: u64,
    /// Longest pause before the first attempt to replace a line that was cut.
    pub redial_ms_max: u64,
    /// `Cache-Control` of a long-poll answer with content.
    pub cache_control: String,
}

impl LiveHead {
    pub(crate) fn to_header(&self) -> String {
        // Nothing in it can fail to become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the [`LIVE_HEAD`](crate::wire::internal_headers::LIVE_HEAD) header; `None` when it is
    /// not one.
    #[must_use]
    pub fn from_header(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// One message over a line. On the wire: the length of its JSON (32 bits, little-endian), the JSON,
/// and the rest is the body: an SSE `data` event, or the body of a long-poll answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    pub from: Offset,
    pub next: Offset,
    pub cursor: u64,
    /// Whether the body has all there is between `from` and `next`; otherwise it is to be read as a
    /// page.
    pub whole: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<StreamEnd>,
    /// Of a long-poll answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl Frame {
    pub(crate) fn encode(&self, body: &[u8]) -> Vec<u8> {
        // Nothing in it can fail to become JSON, which is far below 4 GiB.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
        [&length.to_le_bytes(), json.as_slice(), body].concat()
    }

    /// Reads what `encode` has written; `None` when the bytes are no message.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<(Self, Vec<u8>)> {
        let (length, rest) = message.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (json, body) = rest.split_at_checked(length)?;
        Some((serde_json::from_slice(json).ok()?, body.to_vec()))
    }
}

/// What can happen to a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A dial was answered with a [`LiveHead`]: a page, or a line.
    Dialled { head: LiveHead, body: Vec<u8> },
    /// A dial was answered with something else, which a long-poll hands on as it is.
    Passed { status: u16 },
    /// A dial was not answered.
    Unanswered,
    /// A message came over the line.
    Message { frame: Frame, body: Vec<u8> },
    /// The line was closed by the other side, or cut.
    LineClosed,
    /// There is room for more: the client reads.
    Pull,
    /// There is none: it does not.
    Full,
    /// The deadline has come, or any other time.
    Tick,
    /// The client sends nothing more: it has left, or has closed only its half of the connection.
    HalfClosed,
    /// The process ends.
    Ending,
    /// The client has left.
    ClientGone,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the stream again, from here, after a pause.
    Dial { from: Offset, after_ms: u64 },
    /// Let go of the line; nothing of it is to be handed in any more.
    HangUp,
    /// Write to the client.
    Emit(Vec<u8>),
    /// Answer the long-poll with this.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// Answer the long-poll with what came with the line.
    AnswerHeld,
    /// Answer the long-poll with what the dial was answered with.
    AnswerPassed,
    /// StreamEnd the response.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A dial is under way.
    Dialling,
    /// A line is held.
    Attached,
    /// The client must read before anything more is asked of the stream.
    Behind,
    Ended,
}

/// One client's live read.
#[derive(Clone, Debug)]
pub struct LiveReader {
    class: Class,
    incarnation: String,
    phase: Phase,
    position: Offset,
    cursor: u64,
    /// Whether the client has been told that it is up to date at its position.
    told_up_to_date: bool,
    /// Dials that came to nothing since the last that did not.
    attempts: u32,
    ends_at: Millis,
    written_at: Millis,
    heartbeat_ms: u64,
    redial_ms_max: u64,
    cache_control: String,
}

impl LiveReader {
    /// A reader whose first dial was answered with this head. That answer is its first input, too.
    #[must_use]
    pub fn new(now: Millis, head: &LiveHead) -> Self {
        Self {
            class: head.class,
            incarnation: head.incarnation.clone(),
            phase: Phase::Dialling,
            position: head.next,
            cursor: head.cursor,
            told_up_to_date: false,
            attempts: 0,
            ends_at: now.plus(head.age_ms_max),
            written_at: now,
            heartbeat_ms: head.heartbeat_ms,
            redial_ms_max: head.redial_ms_max,
            cache_control: head.cache_control.clone(),
        }
    }

    /// Whether the response is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Millis {
        match (self.class, self.phase) {
            (Class::Sse, Phase::Dialling | Phase::Attached) => {
                self.ends_at.min(self.written_at.plus(self.heartbeat_ms))
            }
            (Class::LongPoll, _) | (Class::Sse, Phase::Behind | Phase::Ended) => self.ends_at,
        }
    }

    /// Takes one input. `jitter` is a random number below 1,000, by which many readers spread their
    /// dials.
    #[must_use]
    pub fn step(&mut self, now: Millis, jitter: u64, input: Input) -> Vec<Effect> {
        if self.phase == Phase::Ended {
            return Vec::new();
        }
        match input {
            Input::Dialled { head, body } => self.dialled(now, head, body),
            Input::Passed { status } => self.passed(status, jitter),
            Input::Unanswered => self.redial(jitter),
            Input::Message { frame, body } => self.message(now, frame, body),
            Input::LineClosed if self.phase == Phase::Attached => {
                self.attempts = 0;
                self.redial(jitter)
            }
            Input::Pull if self.phase == Phase::Behind => vec![self.dial(0)],
            Input::Full if self.phase == Phase::Attached => self.full(),
            Input::LineClosed | Input::Pull | Input::Full => Vec::new(),
            Input::Tick => self.tick(now),
            Input::HalfClosed => self.half_closed(now),
            Input::Ending | Input::ClientGone => self.end(),
        }
    }

    fn dialled(&mut self, now: Millis, head: LiveHead, body: Vec<u8>) -> Vec<Effect> {
        if self.phase != Phase::Dialling || head.incarnation != self.incarnation {
            return self.end();
        }
        self.attempts = 0;
        self.position = head.next;
        self.cursor = self.cursor.max(head.cursor);
        if head.attached {
            self.phase = Phase::Attached;
            self.cache_control = head.cache_control;
            if self.class == Class::LongPoll || self.told_up_to_date {
                return Vec::new();
            }
            return vec![self.emit(now, Vec::new(), true, false)];
        }
        self.phase = Phase::Behind;
        let page = self.emit(now, body, head.up_to_date, head.closed);
        if head.closed {
            [vec![page], self.end()].concat()
        } else {
            vec![page]
        }
    }

    fn passed(&mut self, status: u16, jitter: u64) -> Vec<Effect> {
        match self.class {
            Class::Sse if status >= 500 => self.redial(jitter),
            Class::Sse => self.end(),
            Class::LongPoll => {
                self.phase = Phase::Ended;
                vec![Effect::AnswerPassed]
            }
        }
    }

    fn message(&mut self, now: Millis, frame: Frame, body: Vec<u8>) -> Vec<Effect> {
        if self.phase != Phase::Attached {
            return Vec::new();
        }
        if frame.end == Some(StreamEnd::Deleted) && self.class == Class::Sse {
            return self.end();
        }
        if frame.from != self.position || !frame.whole {
            return vec![Effect::HangUp, self.dial(0)];
        }
        self.position = frame.next;
        self.cursor = self.cursor.max(frame.cursor);
        match self.class {
            Class::Sse => {
                let closed = frame.end == Some(StreamEnd::Closed);
                let emit = self.emit(now, body, true, closed);
                if closed {
                    [vec![emit], self.end()].concat()
                } else {
                    vec![emit]
                }
            }
            Class::LongPoll => {
                self.phase = Phase::Ended;
                let status = frame.status.expect("a long-poll's frame has a status");
                let headers = frame
                    .headers
                    .into_iter()
                    .map(|(name, value)| match name.as_str() {
                        header::STREAM_CURSOR => (name, self.cursor.to_string()),
                        header::CACHE_CONTROL if status == 200 => {
                            (name, self.cache_control.clone())
                        }
                        _ => (name, value),
                    });
                vec![
                    Effect::HangUp,
                    Effect::Answer {
                        status,
                        headers: headers.collect(),
                        body,
                    },
                ]
            }
        }
    }

    fn full(&mut self) -> Vec<Effect> {
        match self.class {
            Class::Sse => {
                self.phase = Phase::Behind;
                vec![Effect::HangUp]
            }
            // A long-poll has nothing before its answer that its client would have to read first.
            Class::LongPoll => vec![Effect::HangUp, self.dial(0)],
        }
    }

    /// Writes a heartbeat at once, because writing shows whether the client is still there.
    fn half_closed(&mut self, now: Millis) -> Vec<Effect> {
        match self.class {
            Class::Sse => vec![self.heartbeat(now)],
            Class::LongPoll => Vec::new(),
        }
    }

    fn heartbeat(&mut self, now: Millis) -> Effect {
        self.written_at = now;
        Effect::Emit(sse::HEARTBEAT.to_vec())
    }

    fn tick(&mut self, now: Millis) -> Vec<Effect> {
        if now >= self.ends_at {
            return self.end();
        }
        if now < self.deadline() {
            return Vec::new();
        }
        vec![self.heartbeat(now)]
    }

    /// Data, if any, and the control event that follows it. The data has the same `id`, because a
    /// response may be cut between the two.
    fn emit(&mut self, now: Millis, data: Vec<u8>, up_to_date: bool, closed: bool) -> Effect {
        self.written_at = now;
        self.told_up_to_date = up_to_date;
        let control = sse::control_event(self.position, self.cursor, up_to_date, closed);
        if data.is_empty() {
            return Effect::Emit(control);
        }
        Effect::Emit([sse::id_line(self.position), data, control].concat())
    }

    fn dial(&mut self, after_ms: u64) -> Effect {
        self.phase = Phase::Dialling;
        Effect::Dial {
            from: self.position,
            after_ms,
        }
    }

    /// Dials after a pause that is random, and longer the more often it was in vain.
    fn redial(&mut self, jitter: u64) -> Vec<Effect> {
        let longest = self.redial_ms_max << self.attempts.min(4);
        self.attempts += 1;
        vec![self.dial(longest * jitter / 1_000)]
    }

    fn end(&mut self) -> Vec<Effect> {
        self.phase = Phase::Ended;
        let last = match self.class {
            Class::Sse => Effect::End,
            Class::LongPoll => Effect::AnswerHeld,
        };
        vec![Effect::HangUp, last]
    }
}
