//! Live readers: one machine ([`machine::live_reader`]) for each, and the execution of its effects.
//!
//! A reader has no task of its own. Its response drives it: hyper polls for more when the client
//! has taken the bytes before. Messages that arrive in between are buffered in the subscription, up
//! to a bound.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use machine::live_reader::{Effect, Input, LiveHead, LiveReader};
use machine::wire::answer::Body;
use machine::wire::internal_headers;
use machine::wire::request::Read;
use machine::{Answer, Call};
use tokio::sync::watch;

use crate::actor::{Answered, JobKind, Reply};
use crate::clients::Seat;
use crate::cold::Pages;
use crate::http::{Outgoing, failure, plain, response, unavailable};
use crate::metrics::Counted;
use crate::streams::Streams;
use crate::subscribers::Subscription;

type Dial = Pin<Box<dyn Future<Output = Dialled> + Send>>;

/// The answer to a connection attempt.
enum Dialled {
    /// The reader is attached at the tail.
    Attached(LiveHead, Subscription),
    /// A page for the reader's machine.
    Page(LiveHead, Vec<u8>),
    /// An answer to pass to the client.
    Passed(Outgoing),
}

pub(crate) struct Reader {
    streams: Arc<Streams>,
    name: Arc<str>,
    /// The read that each attempt repeats, from another offset.
    read: Read,
    tail: LiveReader,
    dial: Option<Dial>,
    subscription: Option<Subscription>,
    /// Bytes for the client, not sent yet.
    emitted: VecDeque<Bytes>,
    /// The answer to the first attempt.
    held: Answer,
    /// The last answer that is not for the reader's machine.
    passed: Option<Outgoing>,
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
async fn dialled(streams: &Arc<Streams>, name: &str, reply: Option<Reply>) -> Dialled {
    match reply {
        Some(Reply::Attached { line, subscription }) => Dialled::Attached(line.head, subscription),
        Some(Reply::Answered(Answered { answer, rendering })) => match (head(&answer), rendering) {
            (Some(head), Some(rendering)) => {
                match Pages::new(streams, name, rendering).whole().await {
                    Ok(body) => Dialled::Page(head, body),
                    Err(failed) => Dialled::Passed(failure(streams, &failed)),
                }
            }
            (Some(head), None) => Dialled::Page(head, body(answer)),
            (None, rendering) => {
                let reply = Reply::Answered(Answered { answer, rendering });
                Dialled::Passed(plain(streams, name, Some(reply)).await)
            }
        },
        reply => Dialled::Passed(plain(streams, name, reply).await),
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
        Reply::Attached { line, .. } => Some(line.answer.clone()),
        Reply::Answered(answered) => Some(answered.answer.clone()),
        Reply::Done => None,
    };
    let first = dialled(streams, name, Some(reply)).await;
    let (Some(held), Dialled::Attached(head, _) | Dialled::Page(head, _)) = (held, &first) else {
        return match first {
            Dialled::Passed(outgoing) => outgoing,
            Dialled::Attached(..) | Dialled::Page(..) => unavailable(streams),
        };
    };
    let class = head.class;
    let mut reader = Reader {
        name: name.into(),
        read,
        tail: LiveReader::new(streams.platform.now(), head),
        dial: None,
        subscription: None,
        emitted: VecDeque::new(),
        held,
        passed: None,
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
            Outgoing::events(&answer, reader.events())
        }
        machine::Class::LongPoll => reader.answer().await,
    }
}

impl Reader {
    /// The body of an event stream.
    fn events(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, |mut reader| async {
            loop {
                if let Some(bytes) = reader.emitted.pop_front() {
                    return Some((bytes, reader));
                }
                if reader.tail.is_ended() {
                    return None;
                }
                // hyper polls only when the client has taken everything before.
                reader.step(Input::Pull);
                reader.advance().await;
            }
        })
    }

    /// The answer of a long-poll.
    async fn answer(mut self) -> Outgoing {
        loop {
            if let Some(answer) = self.answer.take() {
                return answer;
            }
            if self.tail.is_ended() {
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
            Dialled(Dialled),
            Message(Input),
        }
        let wait = self
            .tail
            .deadline()
            .0
            .saturating_sub(self.streams.platform.now().0);
        let event = tokio::select! {
            biased;
            _ = self.ending.wait_for(|ending| *ending) => Event::Ending,
            dialled = either(self.dial.as_mut()) => Event::Dialled(dialled),
            () = self.seat.half_closed(), if !self.is_half_closed => Event::HalfClosed,
            input = next_message(self.subscription.as_mut()) => Event::Message(input),
            () = tokio::time::sleep(Duration::from_millis(wait)) => Event::Message(Input::Tick),
        };
        match event {
            Event::Ending => self.step(Input::Ending),
            Event::HalfClosed => {
                self.is_half_closed = true;
                self.step(Input::HalfClosed);
            }
            Event::Dialled(dialled) => {
                self.dial = None;
                self.take(dialled);
            }
            Event::Message(input) => {
                if input == Input::LineClosed {
                    self.subscription = None;
                }
                self.step(input);
            }
        }
    }

    /// Handles the answer to a connection attempt.
    fn take(&mut self, dialled: Dialled) {
        match dialled {
            Dialled::Attached(head, subscription) => {
                self.subscription = Some(subscription);
                let body = Vec::new();
                self.step(Input::Dialled { head, body });
            }
            Dialled::Page(head, body) => self.step(Input::Dialled { head, body }),
            Dialled::Passed(outgoing) => {
                let status = outgoing.status();
                self.passed = Some(outgoing);
                self.step(Input::Passed { status });
            }
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.streams.platform.now();
        let chance = self.streams.platform.random().unwrap_or_default() % 1_000;
        for effect in self.tail.step(now, chance, input) {
            match effect {
                Effect::Dial { from, after_ms } => {
                    let (streams, name) = (Arc::clone(&self.streams), Arc::clone(&self.name));
                    let call = Call::Read(self.read.again_from(from));
                    self.dial = Some(Box::pin(async move {
                        if after_ms > 0 {
                            tokio::time::sleep(Duration::from_millis(after_ms)).await;
                        }
                        let reply = ask(&streams, &name, call).await;
                        dialled(&streams, &name, reply).await
                    }));
                }
                Effect::HangUp => self.subscription = None,
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
                Effect::AnswerHeld => self.answer = Some(response(&self.held, Vec::new())),
                Effect::AnswerPassed => self.answer = self.passed.take(),
                Effect::End => {}
            }
        }
    }
}

/// Waits for the connection attempt. Without one, waits for ever.
async fn either(dial: Option<&mut Dial>) -> Dialled {
    match dial {
        Some(dial) => dial.await,
        None => std::future::pending().await,
    }
}

async fn next_message(subscription: Option<&mut Subscription>) -> Input {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}
