//! The reader's side of a live read: a small, pure state machine. It keeps one client's SSE
//! response or long-poll going over a connection to the stream, which can break at any time.
//!
//! It knows a position in the stream and nothing else. It reconnects from this position when a
//! message does not begin there, when the connection closes, and when the client falls behind. So
//! there are no gaps and no duplicates.
//!
//! The Cloudflare shell runs a JavaScript twin of this module (`shells/worker/js/live_reader.mjs`).
//! `cargo xtask live-reader-traces` and `tests/live-reader-cases.json` check that both behave the
//! same.

use serde::{Deserialize, Serialize};

use crate::wire::{header, sse};
use crate::{Class, Millis, Offset, StreamEnd};

/// The jitter of a step is a random number below this: a fraction in thousandths.
pub const JITTER_END: u64 = 1_000;
/// The longest pause before an attempt to reconnect doubles this many times at most.
pub(crate) const RECONNECT_DOUBLINGS_MAX: u32 = 4;

/// Response of the stream to a connection attempt, sent in the
/// [`LIVE_HEAD`](crate::wire::internal_headers::LIVE_HEAD) header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveHead {
    /// The kind of live read.
    pub class: Class,
    /// Incarnation of the stream. If it changes, the stream that the client was reading is gone.
    pub incarnation: String,
    /// Whether a connection for live data follows; otherwise the body is a page.
    pub attached: bool,
    /// Status of the event stream, or of the long-poll's answer when nothing arrives in time.
    pub status: u16,
    /// The position after the page, or the tail.
    pub next: Offset,
    /// The cursor of the answer (protocol 10.1).
    pub cursor: u64,
    /// Whether the page ends at the tail.
    pub up_to_date: bool,
    /// Whether the page ends at the end of a closed stream.
    pub closed: bool,
    /// Age at which an SSE response ends, or a long-poll is answered without data.
    pub age_ms_max: u64,
    /// Silence after which an SSE response sends a comment.
    pub heartbeat_ms: u64,
    /// Bytes that may be buffered for a client that does not read.
    pub held_bytes_max: u64,
    /// Bound of the random pause before the first attempt to reconnect, which doubles with each
    /// failed attempt, up to [`Limits::reconnect_ms_max`](crate::Limits::reconnect_ms_max).
    pub reconnect_base_ms: u64,
    /// `Cache-Control` of a long-poll answer with content.
    pub cache_control: String,
}

impl LiveHead {
    pub(crate) fn to_header(&self) -> String {
        serde_json::to_string(self).expect("a head always serializes")
    }

    /// Parses the [`LIVE_HEAD`](crate::wire::internal_headers::LIVE_HEAD) header; `None` if it is
    /// invalid.
    #[must_use]
    pub fn from_header(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// One message from the stream to a live reader. Its encoding is the length of the JSON (32 bits,
/// little-endian), the JSON, and the body: an SSE `data` event, or the body of a long-poll answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageHead {
    /// The tail before the content.
    pub from: Offset,
    /// The tail after the content.
    pub next: Offset,
    /// The cursor of an answer with the content (protocol 10.1).
    pub cursor: u64,
    /// Whether the body contains everything between `from` and `next`; otherwise the reader must
    /// fetch that as a page.
    pub whole: bool,
    /// Why nothing follows, in the last message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<StreamEnd>,
    /// Only for a long-poll answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Only for a long-poll answer: its headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

impl MessageHead {
    pub(crate) fn encode(&self, body: &[u8]) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("a head always serializes");
        let length = u32::try_from(json.len()).expect("the JSON is shorter than 4 GiB");
        [&length.to_le_bytes(), json.as_slice(), body].concat()
    }

    /// Decodes the output of `encode`; `None` if the bytes are not a valid message.
    #[must_use]
    pub fn decode(message: &[u8]) -> Option<(Self, Vec<u8>)> {
        let (length, rest) = message.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (json, body) = rest.split_at_checked(length)?;
        Some((serde_json::from_slice(json).ok()?, body.to_vec()))
    }
}

/// An event for the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The stream answered a connection attempt with a [`LiveHead`]: a page, or a connection.
    Connected {
        /// What the stream says about the connection.
        head: LiveHead,
        /// The page; empty if a connection follows.
        body: Vec<u8>,
    },
    /// The stream answered a connection attempt with another response, which a long-poll forwards.
    Forwarded {
        /// The status of the response.
        status: u16,
    },
    /// A connection attempt was not answered.
    Unanswered,
    /// A message arrived over the connection.
    Message {
        /// What the message says about its body.
        head: MessageHead,
        /// An SSE event, or the body of a long-poll answer.
        body: Vec<u8>,
    },
    /// The connection closed or broke.
    Disconnected,
    /// The client has read, and there is room for more.
    Drained,
    /// The client does not read, and the buffer is full.
    Backpressure,
    /// The deadline has passed. Ticks at other times do no harm.
    Tick,
    /// The client sends nothing more: it disconnected, or closed only its half of the connection.
    HalfClosed,
    /// The process is about to exit.
    Ending,
    /// The client disconnected.
    ClientGone,
}

/// An action for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Connect to the stream from this position, after a pause.
    Connect {
        /// The position of the reader.
        from: Offset,
        /// Length of the pause.
        after_ms: u64,
    },
    /// Close the connection, and pass in nothing more from it.
    Disconnect,
    /// Write these bytes to the client.
    Emit(Vec<u8>),
    /// Answer the long-poll with this response.
    Answer {
        /// The HTTP status.
        status: u16,
        /// Names and values, in order.
        headers: Vec<(String, String)>,
        /// The whole body.
        body: Vec<u8>,
    },
    /// Answer the long-poll with the response that opened the connection.
    RespondEmpty,
    /// Answer the long-poll with the stream's response to the connection attempt.
    Forward,
    /// End the response.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A connection attempt is under way.
    Connecting,
    /// The connection is open.
    Attached,
    /// The client must read before the reader connects again.
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
    /// Whether the last control event said that the client is up to date.
    sent_up_to_date: bool,
    /// Failed connection attempts since the last success.
    attempts: u32,
    ends_at: Millis,
    written_at: Millis,
    heartbeat_ms: u64,
    reconnect_base_ms: u64,
    cache_control: String,
}

impl LiveReader {
    /// Creates a reader from the head that answered its first connection attempt. Pass the same
    /// answer in as the first input.
    #[must_use]
    pub fn new(now: Millis, head: &LiveHead) -> Self {
        Self {
            class: head.class,
            incarnation: head.incarnation.clone(),
            phase: Phase::Connecting,
            position: head.next,
            cursor: head.cursor,
            sent_up_to_date: false,
            attempts: 0,
            ends_at: now.plus(head.age_ms_max),
            written_at: now,
            heartbeat_ms: head.heartbeat_ms,
            reconnect_base_ms: head.reconnect_base_ms,
            cache_control: head.cache_control.clone(),
        }
    }

    /// Returns whether the response is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Returns when the next [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Millis {
        match (self.class, self.phase) {
            (Class::Sse, Phase::Connecting | Phase::Attached) => {
                self.ends_at.min(self.written_at.plus(self.heartbeat_ms))
            }
            (Class::LongPoll, _) | (Class::Sse, Phase::Behind | Phase::Ended) => self.ends_at,
        }
    }

    /// Processes one input. `jitter` is a random number below [`JITTER_END`] that spreads the
    /// connection attempts of many readers.
    #[must_use]
    pub fn step(&mut self, now: Millis, jitter: u64, input: Input) -> Vec<Effect> {
        assert!(jitter < JITTER_END, "the jitter is a fraction of 1");
        if self.phase == Phase::Ended {
            return Vec::new();
        }
        match input {
            Input::Connected { head, body } => self.connected(now, head, body),
            Input::Forwarded { status } => self.forwarded(status, jitter),
            Input::Unanswered => self.reconnect(jitter),
            Input::Message { head, body } => self.message(now, head, body),
            Input::Disconnected if self.phase == Phase::Attached => {
                self.attempts = 0;
                self.reconnect(jitter)
            }
            Input::Drained if self.phase == Phase::Behind => vec![self.connect(0)],
            Input::Backpressure if self.phase == Phase::Attached => self.backpressure(),
            Input::Disconnected | Input::Drained | Input::Backpressure => Vec::new(),
            Input::Tick => self.tick(now),
            Input::HalfClosed => self.half_closed(now),
            Input::Ending | Input::ClientGone => self.end(),
        }
    }

    fn connected(&mut self, now: Millis, head: LiveHead, body: Vec<u8>) -> Vec<Effect> {
        if self.phase != Phase::Connecting || head.incarnation != self.incarnation {
            return self.end();
        }
        self.attempts = 0;
        self.position = head.next;
        self.cursor = self.cursor.max(head.cursor);
        if head.attached {
            self.phase = Phase::Attached;
            self.cache_control = head.cache_control;
            if self.class == Class::LongPoll || self.sent_up_to_date {
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

    fn forwarded(&mut self, status: u16, jitter: u64) -> Vec<Effect> {
        match self.class {
            Class::Sse if status >= 500 => self.reconnect(jitter),
            Class::Sse => self.end(),
            Class::LongPoll => {
                self.phase = Phase::Ended;
                vec![Effect::Forward]
            }
        }
    }

    fn message(&mut self, now: Millis, head: MessageHead, body: Vec<u8>) -> Vec<Effect> {
        if self.phase != Phase::Attached {
            return Vec::new();
        }
        if head.end == Some(StreamEnd::Deleted) && self.class == Class::Sse {
            return self.end();
        }
        if head.from != self.position || !head.whole {
            return vec![Effect::Disconnect, self.connect(0)];
        }
        self.position = head.next;
        self.cursor = self.cursor.max(head.cursor);
        match self.class {
            Class::Sse => {
                let closed = head.end == Some(StreamEnd::Closed);
                let emit = self.emit(now, body, true, closed);
                if closed {
                    [vec![emit], self.end()].concat()
                } else {
                    vec![emit]
                }
            }
            Class::LongPoll => {
                self.phase = Phase::Ended;
                let status = head.status.expect("a long-poll's head has a status");
                let headers = head
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
                    Effect::Disconnect,
                    Effect::Answer {
                        status,
                        headers: headers.collect(),
                        body,
                    },
                ]
            }
        }
    }

    fn backpressure(&mut self) -> Vec<Effect> {
        match self.class {
            Class::Sse => {
                self.phase = Phase::Behind;
                vec![Effect::Disconnect]
            }
            // A long-poll has nothing before its answer that its client would have to read first.
            Class::LongPoll => vec![Effect::Disconnect, self.connect(0)],
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

    /// Returns the data, if any, and the control event that follows it. The data carries the same
    /// `id`, because the response can break between the two.
    fn emit(&mut self, now: Millis, data: Vec<u8>, up_to_date: bool, closed: bool) -> Effect {
        self.written_at = now;
        self.sent_up_to_date = up_to_date;
        let control = sse::control_event(self.position, self.cursor, up_to_date, closed);
        if data.is_empty() {
            return Effect::Emit(control);
        }
        Effect::Emit([sse::id_line(self.position), data, control].concat())
    }

    fn connect(&mut self, after_ms: u64) -> Effect {
        self.phase = Phase::Connecting;
        Effect::Connect {
            from: self.position,
            after_ms,
        }
    }

    /// Connects after a random pause. Its bound doubles with each failed attempt, up to a maximum.
    fn reconnect(&mut self, jitter: u64) -> Vec<Effect> {
        let bound = self.reconnect_base_ms << self.attempts.min(RECONNECT_DOUBLINGS_MAX);
        self.attempts += 1;
        vec![self.connect(bound * jitter / JITTER_END)]
    }

    fn end(&mut self) -> Vec<Effect> {
        self.phase = Phase::Ended;
        let last = match self.class {
            Class::Sse => Effect::End,
            Class::LongPoll => Effect::RespondEmpty,
        };
        vec![Effect::Disconnect, last]
    }
}
