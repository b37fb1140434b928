//! Requests in, answers out.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use machine::edge::target::{self, Named};
use machine::edge::{self, Route, ToStream};
use machine::wire::answer::Body as AnswerBody;
use machine::wire::header;
use machine::wire::request::{self, AwaitsBody, Head, Parsed};
use machine::{Answer, Call, Refusal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::cold::{Failed, Pages};
use crate::metrics::Bound;
use crate::reader;
use crate::stream::{Answered, Reply, What};
use crate::streams::Streams;

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Failed>> + Send>>;
type OutgoingBody = Either<Full<Bytes>, StreamBody<Frames>>;

/// A response.
pub(crate) struct Outgoing(Response<OutgoingBody>);

/// The request has broken off; there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the body has not come to its end")]
pub(crate) struct BrokenOff;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) streams: Arc<Streams>,
    /// What readers and bodies may take.
    readers: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
}

impl Outgoing {
    pub(crate) fn whole<'a, 'b>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'b str)>,
        body: impl Into<Bytes>,
    ) -> Self {
        Self::new(status, headers, Either::Left(Full::new(body.into())))
    }

    /// An answer whose body is an event stream.
    pub(crate) fn events(answer: &Answer, events: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::streamed(answer, events.map(Ok))
    }

    /// An answer whose body comes in pieces, of which the first is there. When the next cannot be had, the
    /// client is cut off, and reads on from where it was.
    fn pages(answer: &Answer, first: Bytes, pages: Pages) -> Self {
        let rest = stream::try_unfold(pages, |mut pages| async {
            let bytes = pages.next().await;
            if let Err(error) = &bytes {
                tracing::warn!(%error, "a response is cut off");
            }
            Ok(bytes?.map(|bytes| (bytes, pages)))
        });
        Self::streamed(answer, stream::iter([Ok(first)]).chain(rest))
    }

    fn streamed(answer: &Answer, bytes: impl Stream<Item = Result<Bytes, Failed>> + Send + 'static) -> Self {
        let frames: Frames = Box::pin(bytes.map(|bytes| bytes.map(Frame::data)));
        Self::new(
            answer.status,
            answer.headers(),
            Either::Right(StreamBody::new(frames)),
        )
    }

    fn new<'a, 'b>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'b str)>,
        body: OutgoingBody,
    ) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        for (name, value) in headers {
            // Between the two sides of a live read only.
            if name != header::LINE {
                append(response.headers_mut(), name, value);
            }
        }
        Self(response)
    }

    /// The response, after which the connection is closed.
    pub(crate) fn and_close(mut self) -> Response<OutgoingBody> {
        append(self.0.headers_mut(), "Connection", "close");
        self.0
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }
}

fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    let pair = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_bytes(value.as_bytes()),
    );
    if let (Ok(name), Ok(value)) = pair {
        headers.append(name, value);
    }
}

/// An answer whose body has been made.
pub(crate) fn response(answer: &Answer, body: impl Into<Bytes>) -> Outgoing {
    Outgoing::whole(answer.status, answer.headers(), body)
}

/// What a stream has replied, where that is an answer by itself. The first bytes of a page are known to be whole before it begins.
pub(crate) async fn plain(streams: &Arc<Streams>, name: &str, reply: Option<Reply>) -> Outgoing {
    let Some(Reply::Answered(Answered { answer, rendering })) = reply else {
        return unavailable(streams);
    };
    let Some(rendering) = rendering else {
        return direct(&answer);
    };
    let in_pieces = matches!(&answer.body, AnswerBody::Plan(plan) if plan.is_cold() || plan.rest.is_some());
    let mut pages = Pages::new(streams, name, rendering);
    match pages.next().await {
        Ok(Some(first)) if in_pieces => Outgoing::pages(&answer, first, pages),
        Ok(whole) => response(&answer, whole.unwrap_or_default()),
        Err(failed) => failure(streams, &failed),
    }
}

/// What is answered in the place of a page that cannot be made.
pub(crate) fn failure(streams: &Streams, failed: &Failed) -> Outgoing {
    tracing::warn!(error = %failed, "a page could not be made");
    direct(&failed.answer(streams))
}

pub(crate) fn unavailable(streams: &Streams) -> Outgoing {
    direct(&Answer::unavailable(&streams.settings.limits))
}

/// An answer whose body needs no rows.
fn direct(answer: &Answer) -> Outgoing {
    match &answer.body {
        AnswerBody::Bytes(bytes) => response(answer, bytes.clone()),
        AnswerBody::Empty | AnswerBody::Plan(_) => response(answer, Vec::new()),
    }
}

impl Service {
    pub(crate) fn new(streams: Arc<Streams>, ending: watch::Receiver<bool>) -> Self {
        let readers = Arc::new(Semaphore::new(streams.bounds.readers_max));
        let bodies = Arc::new(Semaphore::new(
            streams.bounds.bodies_bytes_max.min(Semaphore::MAX_PERMITS),
        ));
        Self {
            streams,
            readers,
            bodies,
            ending,
        }
    }

    /// Answers a request that came to `local`.
    ///
    /// # Errors
    /// When its body breaks off.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        local: SocketAddr,
    ) -> Result<Response<OutgoingBody>, BrokenOff> {
        let began = Instant::now();
        let (parts, mut body) = request.into_parts();
        let method = parts.method.as_str();
        let origin = origin(&parts, local);
        if origin.is_ok()
            && let Some(outgoing) = self.own_path(method, parts.uri.path())
        {
            return Ok(outgoing.0);
        }
        let begun = match origin {
            Ok(origin) => self.begin(&parts, &origin),
            Err(refusal) => Begun::Answered(direct(&edge::refused(method, &refusal))),
        };
        let (outgoing, is_live) = match begun {
            Begun::Answered(outgoing) => (outgoing, false),
            Begun::Asks(asks) => {
                let asked = Instant::now();
                let (is_timed, is_live) = (asks.to_stream.timing, asks.to_stream.live);
                let mut outgoing = self.ask(asks, &mut body).await?;
                if is_timed {
                    let [object, edge] = [asked, began].map(|from| from.elapsed().as_secs_f64() * 1e3);
                    let timing = format!("object;dur={object:.3}, edge;dur={edge:.3}");
                    append(outgoing.0.headers_mut(), "Server-Timing", &timing);
                }
                (outgoing, is_live)
            }
        };
        let took = (!is_live).then(|| began.elapsed());
        self.streams.metrics.answered(method, outgoing.status(), took);
        if !parts.headers.contains_key(hyper::header::EXPECT) {
            self.discard(&mut body).await?;
        }
        Ok(self.shared(outgoing, &parts.headers).0)
    }

    /// The answer, with what it tells a browser of the pages that may read it.
    fn shared(&self, mut outgoing: Outgoing, asked: &HeaderMap) -> Outgoing {
        let origin = given(asked, header::ORIGIN);
        let origins = &self.streams.settings.cors_origins;
        for (name, value) in origins.headers(origin.as_deref()) {
            append(outgoing.0.headers_mut(), name, &value);
        }
        outgoing
    }

    /// There is no room for the connection that a request came on.
    pub(crate) fn refuse_connection(&self, request: &Request<Incoming>) -> Response<OutgoingBody> {
        let outgoing = self.refuse(Bound::Connections);
        self.shared(outgoing, request.headers()).and_close()
    }

    /// What is asked of the server, and not of a stream.
    fn own_path(&self, method: &str, path: &str) -> Option<Outgoing> {
        if !matches!(method, "GET" | "HEAD") {
            return None;
        }
        let (status, content_type, body) = match path {
            "/health" if *self.ending.borrow() => {
                (503, "application/json", r#"{"status":"ending"}"#.to_owned())
            }
            "/health" => (200, "application/json", r#"{"status":"ok"}"#.to_owned()),
            "/metrics" => {
                let text = self.streams.metrics.text().ok()?;
                (
                    200,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    text,
                )
            }
            _ => return None,
        };
        let headers = [("Content-Type", content_type), ("Cache-Control", "no-store")];
        Some(Outgoing::whole(status, headers.into_iter(), body.into_bytes()))
    }

    /// What a request's head says: everything that its body need not be waited for.
    fn begin(&self, parts: &Parts, origin: &str) -> Begun {
        let given = |name: &str| given(&parts.headers, name);
        let target = parts.uri.path_and_query();
        let head = Head {
            method: parts.method.as_str(),
            origin: self.streams.settings.location_base(origin),
            target: target.map_or("", |target| target.as_str()),
            header: &given,
        };
        let to_stream = match edge::route(head, &self.streams.settings) {
            Route::Answered(answer) => return Begun::Answered(direct(&answer)),
            Route::Stream(to_stream) => to_stream,
        };
        // The cache mode that holds, whatever the client says of it.
        let header = |name: &str| match name {
            header::CACHE_MODE => Some(to_stream.cache_mode.name().to_owned()),
            _ => given(name),
        };
        let head = Head {
            header: &header,
            ..head
        };
        match request::parse(head, &self.streams.settings.limits) {
            Ok(parsed) => Begun::Asks(Asks {
                parsed,
                #[cfg(feature = "test-routes")]
                test: given("X-Test-Op"),
                to_stream,
            }),
            Err(refusal) => Begun::Answered(direct(&Answer::refusal(&refusal))),
        }
    }

    /// Asks a stream.
    async fn ask(&self, asks: Asks, body: &mut Incoming) -> Result<Outgoing, BrokenOff> {
        let (streams, name) = (&self.streams, asks.to_stream.name.as_str());
        #[cfg(feature = "test-routes")]
        if let Some(outgoing) = crate::test_routes::answer(streams, name, asks.test.as_deref()).await {
            return Ok(outgoing);
        }
        let (call, permit) = match asks.parsed {
            Parsed::Whole(call) => (Ok(call), None),
            Parsed::AwaitsBody(awaits) => match self.take_body(&awaits, body).await? {
                Taken::Whole(bytes, permit) => (awaits.with_body(bytes), permit),
                Taken::TooLarge => (Err(awaits.too_large()), None),
                Taken::NoRoom => return Ok(self.refuse(Bound::Bodies)),
            },
        };
        let call = match call {
            Ok(call) => call,
            Err(refusal) => return Ok(direct(&Answer::refusal(&refusal))),
        };
        let live = match &call {
            Call::Read(read) if read.live.is_some() => {
                let Ok(permit) = Arc::clone(&self.readers).try_acquire_owned() else {
                    return Ok(self.refuse(Bound::Readers));
                };
                Some((read.clone(), permit))
            }
            Call::Create(_) | Call::Append(_) | Call::Metadata | Call::Read(_) | Call::Delete(_) => None,
        };
        let call = streams.call(call);
        #[cfg(not(feature = "test-routes"))]
        let what = What::Input(call);
        #[cfg(feature = "test-routes")]
        let what = match asks.test.as_deref() {
            Some("panic") => What::Panic(call),
            _ => What::Input(call),
        };
        let Ok(reply) = streams.ask(name, what, permit) else {
            return Ok(self.refuse(Bound::Queue));
        };
        let Ok(reply) = reply.await else {
            return Ok(unavailable(streams));
        };
        Ok(match live {
            Some((read, permit)) => {
                reader::hold(streams, name, read, reply, self.ending.clone(), permit).await
            }
            None => plain(streams, name, Some(reply)).await,
        })
    }

    /// There is no room for the request.
    pub(crate) fn refuse(&self, bound: Bound) -> Outgoing {
        self.streams.metrics.refuse(bound);
        unavailable(&self.streams)
    }

    async fn take_body(&self, awaits: &AwaitsBody, body: &mut Incoming) -> Result<Taken, BrokenOff> {
        let announced = body.size_hint().exact();
        let mut permit = match announced {
            Some(length) if length > awaits.bytes_max => return Ok(Taken::TooLarge),
            Some(length) => match self.room_for(length) {
                Ok(permit) => permit,
                Err(NoPermits) => return Ok(Taken::NoRoom),
            },
            None => None,
        };
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(part) = self.next_part(body).await? {
            let length = first.len().max(rest.len()) + part.len();
            if length as u64 > awaits.bytes_max {
                return Ok(Taken::TooLarge);
            }
            if announced.is_none() {
                match (self.room_for(part.len() as u64), &mut permit) {
                    (Ok(Some(more)), Some(permit)) => permit.merge(more),
                    (Ok(more), none) => *none = more,
                    (Err(NoPermits), _) => return Ok(Taken::NoRoom),
                }
            }
            // Most bodies come in one part, which need not be copied.
            if first.is_empty() {
                first = part;
            } else {
                if rest.is_empty() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&part);
            }
        }
        let whole = if rest.is_empty() { first } else { rest.freeze() };
        Ok(Taken::Whole(whole, permit))
    }

    /// The next bytes of a body; `None` at its end.
    async fn next_part(&self, body: &mut Incoming) -> Result<Option<Bytes>, BrokenOff> {
        loop {
            let frame = tokio::time::timeout(self.streams.bounds.body_timeout, body.frame());
            match frame.await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(_))) | Err(_) => return Err(BrokenOff),
            }
        }
    }

    fn room_for(&self, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, NoPermits> {
        if bytes == 0 {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes).map_err(|_| NoPermits)?;
        let permit = Arc::clone(&self.bodies).try_acquire_many_owned(bytes);
        permit.map(Some).map_err(|_| NoPermits)
    }

    /// Reads what is left of a body, so that a client that is still sending it gets to see the answer, and the connection can go on.
    async fn discard(&self, body: &mut Incoming) -> Result<(), BrokenOff> {
        let mut left = self.streams.settings.limits.append_bytes_max;
        if body.size_hint().lower() > left {
            return Ok(());
        }
        while !body.is_end_stream() && left > 0 {
            let Some(part) = self.next_part(body).await? else {
                break;
            };
            left = left.saturating_sub(part.len() as u64);
        }
        Ok(())
    }
}

enum Begun {
    Answered(Outgoing),
    Asks(Asks),
}

/// A request that is for a stream.
struct Asks {
    to_stream: ToStream,
    parsed: Parsed,
    #[cfg(feature = "test-routes")]
    test: Option<String>,
}

/// What became of a body.
enum Taken {
    Whole(Bytes, Option<OwnedSemaphorePermit>),
    TooLarge,
    NoRoom,
}

struct NoPermits;

/// The origin that a request which came to `local` names.
fn origin(parts: &Parts, local: SocketAddr) -> Result<String, Refusal> {
    let hosts: Vec<_> = parts.headers.get_all("Host").iter().map(text).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let uri = &parts.uri;
    let named = Named {
        absolute: uri.scheme_str().zip(uri.authority().map(Authority::as_str)),
        hosts: &hosts,
        needs_host: parts.version == Version::HTTP_11,
    };
    target::origin(named, &local.to_string())
}

/// The value of a header; several are joined as lists are (RFC 9110, 5.3).
fn given(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).into_iter().map(text);
    let first = values.next()?;
    Some(values.fold(first, |joined, value| joined + ", " + &value))
}

/// Header values are bytes: read as UTF-8 where they are that, and otherwise as what older software means by them.
fn text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}
