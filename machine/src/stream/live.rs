//! Live reads (protocol 5.7, 5.8). A reader behind the tail gets a page. A reader at the tail
//! becomes a subscriber, and each turn sends one broadcast to all subscribers.

use bytes::Bytes;

use super::StreamState;
use crate::live_reader::{self, MessageHead};
use crate::plan::{self, CorruptionError};
use crate::refusal::Refusal;
use crate::wire::answer::Body;
use crate::wire::entity_tag::{self, Reach};
use crate::wire::request::Read;
use crate::wire::{Format, cache, cursor, header, internal_headers};
use crate::{Answer, Broadcast, Class, Limits, Millis, Offset, StreamEnd, Subscriber};

impl StreamState {
    /// Creates the broadcast of a turn. [`Broadcast::with_end_and_cursor`] sets the remaining
    /// fields.
    pub(super) fn live(&self, from: Offset, frames: Option<Bytes>) -> Broadcast {
        assert!(from <= self.tail(), "the tail never moves back");
        let appended = from != self.tail();
        Broadcast {
            incarnation: self.row.incarnation,
            from,
            next: self.tail(),
            end: None,
            frames: if appended {
                frames.map(|frames| vec![frames])
            } else {
                Some(Vec::new())
            },
            stands_alone: true,
            format: self.format,
            content_type: self.row.content_type.clone(),
            cursor: 0,
        }
    }

    /// Answers a reader at the tail of an open stream.
    pub(super) fn attach(
        &self,
        class: Class,
        now: Millis,
        read: &Read,
        limits: &Limits,
    ) -> Subscriber {
        assert!(!self.is_closed(), "a reader waits only where more can come");
        let cursor = self.cursor(now, read, limits);
        let head = self.live_head(class, self.tail(), cursor, limits);
        let cache_control = cache::long_poll(read.cache_mode, limits).into_owned();
        let head = live_reader::LiveHead {
            attached: true,
            up_to_date: true,
            cache_control,
            ..head
        };
        let answer = match class {
            Class::Sse => self.event_stream(),
            Class::LongPoll => Answer::uncached(head.status)
                .at(self.tail())
                .up_to_date(true)
                .cursor(cursor),
        };
        Subscriber {
            class,
            incarnation: self.row.incarnation,
            answer: answer.with(internal_headers::LIVE_HEAD, head.to_header()),
            head,
        }
    }

    /// Returns the head of an event stream, with what its live reader needs to continue from
    /// `next`.
    pub(super) fn event_page(
        &self,
        next: Offset,
        now: Millis,
        read: &Read,
        limits: &Limits,
    ) -> Answer {
        assert!(next <= self.tail(), "a page ends at or before the tail");
        let up_to_date = next == self.tail();
        let head = self.live_head(Class::Sse, next, self.cursor(now, read, limits), limits);
        let head = live_reader::LiveHead {
            up_to_date,
            closed: up_to_date && self.is_closed(),
            ..head
        };
        self.event_stream()
            .with(internal_headers::LIVE_HEAD, head.to_header())
    }

    pub(super) fn cursor(&self, now: Millis, read: &Read, limits: &Limits) -> u64 {
        cursor::next(now, read.cursor, self.row.incarnation.0, limits)
    }

    fn event_stream(&self) -> Answer {
        let answer = Answer::new(200, cache::EVENT_STREAM)
            .with(header::CONTENT_TYPE, "text/event-stream")
            // nginx and similar proxies would otherwise buffer the events.
            .with(header::X_ACCEL_BUFFERING, "no");
        match self.format {
            Format::Binary => answer.with(header::STREAM_SSE_DATA_ENCODING, "base64"),
            Format::Json | Format::Text => answer,
        }
    }

    fn live_head(
        &self,
        class: Class,
        next: Offset,
        cursor: u64,
        limits: &Limits,
    ) -> live_reader::LiveHead {
        live_reader::LiveHead {
            class,
            incarnation: self.row.incarnation.to_string(),
            attached: false,
            status: match class {
                Class::Sse => 200,
                Class::LongPoll => 204,
            },
            next,
            cursor,
            up_to_date: false,
            closed: false,
            age_ms_max: match class {
                Class::Sse => limits.sse_max_age_ms,
                Class::LongPoll => limits.long_poll_timeout_ms,
            },
            heartbeat_ms: limits.sse_heartbeat_ms,
            held_bytes_max: limits.reader_held_bytes_max,
            reconnect_base_ms: limits.reconnect_base_ms,
            cache_control: String::new(),
        }
    }
}

impl Broadcast {
    pub(super) fn with_end_and_cursor(self, now: Millis, closed: bool, limits: &Limits) -> Self {
        Self {
            end: closed.then_some(StreamEnd::Closed),
            cursor: cursor::interval(now, limits),
            ..self
        }
    }

    /// Returns the broadcast of a turn with one more append.
    pub(super) fn followed_by(self, next: Self, limits: &Limits) -> Self {
        assert_eq!(
            (self.incarnation, self.next),
            (next.incarnation, next.from),
            "the appends of a turn follow one another"
        );
        assert_eq!(self.end, None, "nothing follows the end");
        let frames = self.frames.zip(next.frames).map(|(mut frames, next)| {
            frames.extend(next);
            frames
        });
        let is_small = |frames: &Vec<Bytes>| {
            let bytes: u64 = frames.iter().map(|frames| frames.len() as u64).sum();
            bytes <= limits.frame_bytes_max
        };
        Self {
            from: self.from,
            frames: frames.filter(is_small),
            stands_alone: self.stands_alone && next.stands_alone,
            ..next
        }
    }
}

/// Returns the message; see [`Broadcast::message`].
pub(crate) fn message(broadcast: &Broadcast, class: Class) -> Result<Vec<u8>, CorruptionError> {
    let head = MessageHead {
        from: broadcast.from,
        next: broadcast.next,
        cursor: broadcast.cursor,
        whole: broadcast.frames.is_some(),
        end: broadcast.end,
        status: None,
        headers: Vec::new(),
    };
    let frames = match broadcast.frames.as_deref() {
        None | Some([]) => Bytes::new(),
        Some([single]) => single.clone(),
        Some(several) => several.concat().into(),
    };
    match class {
        // The event may need bytes before it to complete a character. A page has them.
        Class::Sse if !broadcast.stands_alone => Ok(MessageHead {
            whole: false,
            ..head
        }
        .encode(&[])),
        Class::Sse => Ok(head.encode(&plan::event(broadcast.format, &frames)?)),
        Class::LongPoll => {
            let answer = long_poll_answer(broadcast, &frames)?;
            let body = match &answer.body {
                Body::Bytes(bytes) => bytes.as_slice(),
                Body::Empty | Body::Plan(_) => &[],
            };
            let headers = answer
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            Ok(MessageHead {
                status: Some(answer.status),
                headers,
                ..head
            }
            .encode(body))
        }
    }
}

/// Returns the answer to a waiting long-poll.
fn long_poll_answer(broadcast: &Broadcast, frames: &[u8]) -> Result<Answer, CorruptionError> {
    let closed = broadcast.end == Some(StreamEnd::Closed);
    if broadcast.end == Some(StreamEnd::Deleted) {
        return Ok(Answer::refusal(&Refusal::StreamNotFound));
    }
    if frames.is_empty() {
        return Ok(Answer::uncached(204)
            .at(broadcast.next)
            .up_to_date(true)
            .closed(closed));
    }
    let tag = entity_tag::entity_tag(
        broadcast.incarnation,
        broadcast.from,
        broadcast.next,
        Reach::tail(closed),
    );
    let answer = Answer::uncached(200)
        .with(header::CONTENT_TYPE, broadcast.content_type.clone())
        .with(header::ETAG, tag)
        .at(broadcast.next)
        .up_to_date(true)
        .closed(closed);
    let answer = if closed {
        answer
    } else {
        answer.cursor(broadcast.cursor)
    };
    Ok(answer.body(Body::Bytes(plan::body(broadcast.format, frames.to_vec())?)))
}
