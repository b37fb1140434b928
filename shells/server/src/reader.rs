//! Live readers: one machine ([`machine::live_reader`]) for each, and the execution of its effects.
//!
//! A reader has no own task. Its response drives it: hyper polls for more when the client
//! has taken the bytes before. Messages that arrive in between are buffered in the attachment, up
//! to a bound.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use machine::live_reader::{Effect, Input, JITTER_END, LiveHead, LiveReader};
use machine::wire::internal_headers;
use machine::wire::request::Read;
use machine::{Answer, Body, Call};
use tokio::sync::watch;

use crate::actor::{Answered, JobKind, Reply};
use crate::clients::Seat;
use crate::cold::rendered;
use crate::http::{Outgoing, failure, plain, response, unavailable};
use crate::metrics::Counted;
use crate::streams::Streams;
use crate::subscribers::Attachment;

type Connecting = Pin<Box<dyn Future<Output = Connected> + Send>>;

/// The answer to a connection attempt.
enum Connected {
    /// The reader is attached at the tail.
    Attached(LiveHead, Attachment),
    /// A page for the reader's machine.
    Page(LiveHead, Vec<u8>),
    /// An answer to pass to the client.
    Forwarded(Outgoing),
}

pub(crate) struct Reader {
    streams: Arc<Streams>,
    name: Arc<str>,
    /// The read that each attempt repeats, from another offset.
    read: Read,
    live_reader: LiveReader,
    connecting: Option<Connecting>,
    attachment: Option<Attachment>,
    /// Bytes for the client, not sent yet.
    emitted: VecDeque<Bytes>,
    /// The answer to the first attempt.
    held: Answer,
    /// The last answer that is not for the reader's machine.
    forwarded: Option<Outgoing>,
    /// The answer of the long-poll.
    answer: Option<Outgoing>,
    ending: watch::Receiver<bool>,
    seat: Seat,
    /// Whether the client has closed its sending side.
    is_half_closed: bool,
    _counted: Counted,
}

/// Sends a call to a stream, and waits for the reply.
pub(crate) async fn ask(streams: &Arc<Streams>, name: &str, call: Call) -> Option<Reply> {
    let kind = JobKind::Input(streams.call(call));
    streams.ask(name, kind, None).ok()?.await.ok()
}

/// Returns the live head of an answer that begins a live read.
fn head(answer: &Answer) -> Option<LiveHead> {
    answer
        .header(internal_headers::LIVE_HEAD)
        .and_then(LiveHead::from_header)
}

/// Returns the body of an answer that needs no rows.
fn body(answer: Answer) -> Vec<u8> {
    match answer.body {
        Body::Bytes(bytes) => bytes,
        Body::Empty | Body::Plan(_) => Vec::new(),
    }
}

/// Turns a reply into the answer of a connection attempt. `reply` is `None` if the job failed.
async fn connected(streams: &Arc<Streams>, name: &str, reply: Option<Reply>) -> Connected {
    match reply {
        Some(Reply::Attached {
            subscriber,
            attachment,
        }) => Connected::Attached(subscriber.head, attachment),
        Some(Reply::Answered(Answered { answer, rendering })) => match (head(&answer), rendering) {
            (Some(head), Some(rendering)) => match rendered(streams, name, rendering).await {
                Ok(body) => Connected::Page(head, body.into()),
                Err(failed) => Connected::Forwarded(failure(streams, &failed)),
            },
            (Some(head), None) => Connected::Page(head, body(answer)),
            (None, rendering) => {
                let reply = Reply::Answered(Answered { answer, rendering });
                Connected::Forwarded(plain(streams, name, Some(reply)).await)
            }
        },
        reply => Connected::Forwarded(plain(streams, name, reply).await),
    }
}

/// Answers a live read. `reply` is the stream's reply to the first attempt.
pub(crate) async fn hold(
    streams: &Arc<Streams>,
    name: &str,
    read: Read,
    reply: Reply,
    ending: watch::Receiver<bool>,
    seat: Seat,
) -> Outgoing {
    let held = match &reply {
        Reply::Attached { subscriber, .. } => Some(subscriber.answer.clone()),
        Reply::Answered(answered) => Some(answered.answer.clone()),
        Reply::Done => None,
    };
    let first = connected(streams, name, Some(reply)).await;
    let (Some(held), Connected::Attached(head, _) | Connected::Page(head, _)) = (held, &first)
    else {
        return match first {
            Connected::Forwarded(outgoing) => outgoing,
            Connected::Attached(..) | Connected::Page(..) => unavailable(streams),
        };
    };
    let class = head.class;
    let mut reader = Reader {
        name: name.into(),
        read,
        live_reader: LiveReader::new(streams.platform.now(), head),
        connecting: None,
        attachment: None,
        emitted: VecDeque::new(),
        held,
        forwarded: None,
        answer: None,
        ending,
        seat,
        is_half_closed: false,
        _counted: Counted::new(&streams.metrics.readers),
        streams: Arc::clone(streams),
    };
    reader.take(first);
    match class {
        machine::Class::Sse => {
            let answer = reader.held.clone();
            let first = reader.emitted.pop_front().unwrap_or_default();
            Outgoing::events(&answer, first, reader.events())
        }
        machine::Class::LongPoll => reader.answer().await,
    }
}

impl Reader {
    /// Returns the body of an event stream.
    fn events(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, |mut reader| async {
            loop {
                if let Some(bytes) = reader.emitted.pop_front() {
                    return Some((bytes, reader));
                }
                if reader.live_reader.is_ended() {
                    return None;
                }
                // hyper polls only when the client has taken everything before.
                reader.step(Input::Drained);
                reader.advance().await;
            }
        })
    }

    /// Returns the answer of a long-poll.
    async fn answer(mut self) -> Outgoing {
        loop {
            if let Some(answer) = self.answer.take() {
                return answer;
            }
            if self.live_reader.is_ended() {
                return unavailable(&self.streams);
            }
            self.advance().await;
        }
    }

    /// Waits for the next event, and lets the reader's machine decide.
    async fn advance(&mut self) {
        enum Event {
            Ending,
            HalfClosed,
            Connected(Connected),
            Message(Input),
        }
        let wait = self
            .live_reader
            .deadline()
            .0
            .saturating_sub(self.streams.platform.now().0);
        let event = tokio::select! {
            biased;
            _ = self.ending.wait_for(|ending| *ending) => Event::Ending,
            connected = either(self.connecting.as_mut()) => Event::Connected(connected),
            () = self.seat.half_closed(), if !self.is_half_closed => Event::HalfClosed,
            input = next_message(self.attachment.as_mut()) => Event::Message(input),
            () = tokio::time::sleep(Duration::from_millis(wait)) => Event::Message(Input::Tick),
        };
        match event {
            Event::Ending => self.step(Input::Ending),
            Event::HalfClosed => {
                self.is_half_closed = true;
                self.step(Input::HalfClosed);
            }
            Event::Connected(connected) => {
                self.connecting = None;
                self.take(connected);
            }
            Event::Message(input) => {
                if input == Input::Disconnected {
                    self.attachment = None;
                }
                self.step(input);
            }
        }
    }

    /// Handles the answer to a connection attempt.
    fn take(&mut self, connected: Connected) {
        match connected {
            Connected::Attached(head, attachment) => {
                self.attachment = Some(attachment);
                let body = Vec::new();
                self.step(Input::Connected { head, body });
            }
            Connected::Page(head, body) => self.step(Input::Connected { head, body }),
            Connected::Forwarded(outgoing) => {
                let status = outgoing.status();
                self.forwarded = Some(outgoing);
                self.step(Input::Forwarded { status });
            }
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.streams.platform.now();
        let jitter = self.streams.platform.random().unwrap_or_default() % JITTER_END;
        for effect in self.live_reader.step(now, jitter, input) {
            match effect {
                Effect::Connect { from, after_ms } => {
                    let (streams, name) = (Arc::clone(&self.streams), Arc::clone(&self.name));
                    let call = Call::Read(self.read.again_from(from));
                    self.connecting = Some(Box::pin(async move {
                        if after_ms > 0 {
                            tokio::time::sleep(Duration::from_millis(after_ms)).await;
                        }
                        let making = streams.make_page().await;
                        let reply = ask(&streams, &name, call).await;
                        drop(making);
                        connected(&streams, &name, reply).await
                    }));
                }
                Effect::Disconnect => self.attachment = None,
                Effect::Emit(bytes) => self.emitted.push_back(bytes.into()),
                Effect::Answer {
                    status,
                    headers,
                    body,
                } => {
                    let headers = headers
                        .iter()
                        .map(|(name, value)| (name.as_str(), value.as_str()));
                    self.answer = Some(Outgoing::whole(status, headers, body));
                }
                Effect::RespondEmpty => self.answer = Some(response(&self.held, Vec::new())),
                Effect::Forward => self.answer = self.forwarded.take(),
                Effect::End => {}
            }
        }
    }
}

/// Waits for the connection attempt. Without one, waits for ever.
async fn either(connecting: Option<&mut Connecting>) -> Connected {
    match connecting {
        Some(connecting) => connecting.await,
        None => std::future::pending().await,
    }
}

async fn next_message(attachment: Option<&mut Attachment>) -> Input {
    match attachment {
        Some(attachment) => attachment.next().await,
        None => std::future::pending().await,
    }
}
