//! Turns HTTP requests into jobs, and replies into HTTP responses.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use machine::router::target::{self, Named};
use machine::router::{self, Route};
use machine::wire::request::{self, BodyBound, Parsed, RequestHead};
use machine::wire::session::{self, SessionRoute};
use machine::wire::{header, internal_headers};
use machine::{Answer, Body as AnswerBody, Call, Refusal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::actor::{Answered, JobKind, Rendering, Reply};
use crate::clients::{Answering, Client};
use crate::cold::{FetchError, Pages};
use crate::metrics::{self, Bound};
use crate::page;
use crate::page_cache::PageKey;
use crate::reader;
use crate::room::{self, Keeps, ResponseRoom, Room, Rule};
use crate::streams::Streams;

type Made = Pin<Box<dyn Stream<Item = Result<Bytes, FetchError>> + Send>>;

/// The reason that `/health` gives while the server ends.
const ENDING: &str = "ending";

/// A response.
pub(crate) struct Outgoing<Body = Content>(Response<Body>);

/// The body of a response that is not admitted yet.
pub(crate) enum Content {
    Whole(Bytes),
    /// The first bytes, and the rest as it is made.
    Streamed {
        first: Bytes,
        rest: Made,
        keeps: Keeps,
    },
}

/// The body of a response whose bytes count.
pub(crate) enum Admitted {
    Pieces(VecDeque<Bytes>),
    Streamed(Made),
}

/// The connection was closed to make room for another, so there is no client to answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection was closed to make room for another")]
pub(crate) struct GaveWayError;

/// The state that all requests share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) streams: Arc<Streams>,
    /// Memory for request bodies, and for responses.
    bodies: Arc<Room>,
    pages: Arc<Room>,
    ending: watch::Receiver<bool>,
}

impl Outgoing {
    pub(crate) fn whole<'a, 'b>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'b str)>,
        body: impl Into<Bytes>,
    ) -> Self {
        Self::new(status, headers, Content::Whole(body.into()))
    }

    /// Returns an answer whose body is an event stream. The first events are known.
    pub(crate) fn events(
        answer: &Answer,
        first: Bytes,
        events: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Self {
        let content = Content::Streamed {
            first,
            rest: Box::pin(events.map(Ok)),
            keeps: Keeps::Nothing,
        };
        Self::new(answer.status, answer.headers(), content)
    }

    /// Returns an answer whose body is sent piece by piece. The first bytes are known. If later
    /// ones cannot be made, the connection is cut, and the client reads on from its offset.
    fn pages(answer: &Answer, first: Bytes, pages: Pages) -> Self {
        let rest = stream::try_unfold(pages, |mut pages| async {
            let bytes = pages.next().await;
            if let Err(error) = &bytes {
                tracing::warn!(%error, "a response is cut off");
            }
            Ok(bytes?.map(|bytes| (bytes, pages)))
        });
        let content = Content::Streamed {
            first,
            rest: Box::pin(rest),
            keeps: Keeps::First,
        };
        Self::new(answer.status, answer.headers(), content)
    }
}

impl<Body> Outgoing<Body> {
    fn new<'a, 'b>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'b str)>,
        body: Body,
    ) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(status).expect("an answer has a status of HTTP");
        for (name, value) in headers {
            // This header is internal: it is for the reader's machine.
            if name != internal_headers::LIVE_HEAD {
                append(response.headers_mut(), name, value);
            }
        }
        Self(response)
    }

    /// Closes the connection after this response.
    fn and_close(mut self) -> Self {
        append(self.0.headers_mut(), "Connection", "close");
        self
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status().as_u16()
    }
}

fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    let name =
        HeaderName::from_bytes(name.as_bytes()).expect("the server's header names are valid");
    let value = HeaderValue::from_bytes(value.as_bytes())
        .expect("the machine checks what it puts into headers");
    headers.append(name, value);
}

impl Outgoing<Admitted> {
    /// Returns an answer that needs no room.
    pub(crate) fn small<'a, 'b>(
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'b str)>,
        body: Bytes,
    ) -> Self {
        Self::new(status, headers, Admitted::Pieces(VecDeque::from([body])))
    }
}

/// Turns an answer and its body into a response.
pub(crate) fn response(answer: &Answer, body: impl Into<Bytes>) -> Outgoing {
    Outgoing::whole(answer.status, answer.headers(), body)
}

/// Turns a reply into a response. The first bytes of a page are checked before the response begins.
pub(crate) async fn plain(streams: &Arc<Streams>, name: &str, reply: Option<Reply>) -> Outgoing {
    let Some(Reply::Answered(Answered { answer, rendering })) = reply else {
        return unavailable(streams);
    };
    let writer = match rendering {
        Some(Rendering::Writer(writer)) => *writer,
        Some(Rendering::Page(page)) => return response(&answer, page),
        None => return direct(&answer),
    };
    let in_pieces = matches!(&answer.body, AnswerBody::Plan(plan) if !plan.is_whole());
    let mut pages = Pages::new(streams, name, writer);
    match pages.next().await {
        Ok(Some(first)) if in_pieces => Outgoing::pages(&answer, first, pages),
        Ok(whole) => {
            let whole = whole.unwrap_or_default();
            if let Some(key) = PageKey::of(&name.into(), &answer) {
                streams.page_cache.insert(key, whole.clone());
            }
            response(&answer, whole)
        }
        Err(failed) => failure(streams, &failed),
    }
}

/// Returns the answer in place of a page that cannot be made.
pub(crate) fn failure(streams: &Streams, failed: &FetchError) -> Outgoing {
    tracing::warn!(error = %failed, "a page could not be made");
    direct(&failed.answer(streams))
}

pub(crate) fn unavailable(streams: &Streams) -> Outgoing {
    direct(&Answer::unavailable(&streams.settings.limits))
}

/// Returns an answer whose body needs no rows.
pub(crate) fn direct(answer: &Answer) -> Outgoing {
    match &answer.body {
        AnswerBody::Bytes(bytes) => response(answer, bytes.clone()),
        AnswerBody::Empty | AnswerBody::Plan(_) => response(answer, Vec::new()),
    }
}

impl Service {
    pub(crate) fn new(streams: Arc<Streams>, ending: watch::Receiver<bool>) -> Self {
        let bounds = &streams.bounds;
        let bodies = Room::new(
            bounds.bodies_bytes_max,
            Rule::NewestLarge(bounds.large_body_bytes),
        );
        let pages = Room::new(bounds.pages_bytes_max, Rule::Stalled(bounds.page_grace));
        Self {
            bodies: Arc::new(bodies),
            pages: Arc::new(pages),
            streams,
            ending,
        }
    }

    /// Answers a request of a client.
    ///
    /// # Errors
    /// When the connection was closed to make room for another.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        client: &Arc<Client>,
    ) -> Result<Response<Leaving>, GaveWayError> {
        let answering = client.begin().ok_or(GaveWayError)?;
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        let outgoing = self.answer_in_time(&parts, &mut body, client).await;
        let outgoing = self.leave_rest(&parts, body, outgoing);
        Ok(outgoing.0.map(|content| Leaving {
            content,
            _answering: answering,
        }))
    }

    async fn answer_in_time(
        &self,
        parts: &Parts,
        body: &mut Option<Incoming>,
        client: &Arc<Client>,
    ) -> Outgoing<Admitted> {
        let began = Instant::now();
        let method = parts.method.as_str();
        let origin = origin(parts, client.local);
        if origin.is_ok()
            && let Some(outgoing) = self.own_path(parts)
        {
            return if client.is_refused {
                outgoing.and_close()
            } else {
                outgoing
            };
        }
        if client.is_refused {
            let outgoing = self.admit(self.refuse(Bound::Connections), client);
            return self.shared(outgoing, parts).and_close();
        }
        let admin = origin.as_ref().ok();
        let admin = admin.and_then(|origin| self.admin_route(parts, origin, client));
        let is_admin = admin.is_some();
        let routed = match (origin, admin) {
            (Err(refusal), _) => Routed::Answered(direct(&router::refused(method, &refusal))),
            (Ok(origin), Some(admin)) => self.admin(parts, &origin, admin).await,
            (Ok(origin), None) => match self.session(parts, &origin, body, client).await {
                Some(routed) => routed,
                None => self.route(parts, &origin),
            },
        };
        let (outgoing, is_live) = match routed {
            Routed::Answered(outgoing) => (self.admit(outgoing, client), false),
            Routed::ToStream(request) => {
                let asked = Instant::now();
                let (is_timed, is_live) = (request.is_timed, request.is_live);
                let outgoing = self.ask(request, body, client).await;
                let mut outgoing = self.admit(outgoing, client);
                if is_timed {
                    let [object, edge] =
                        [asked, began].map(|from| from.elapsed().as_secs_f64() * 1e3);
                    let timing = format!("object;dur={object:.3}, edge;dur={edge:.3}");
                    append(outgoing.0.headers_mut(), "Server-Timing", &timing);
                }
                (outgoing, is_live)
            }
        };
        let took = (!is_live).then(|| began.elapsed());
        self.streams
            .metrics
            .answered(method, outgoing.status(), took);
        // No page of another origin may read the answers of the admin API.
        if is_admin {
            outgoing
        } else {
            self.shared(outgoing, parts)
        }
    }

    /// Handles the rest of a request body that was not read. A short rest is read while the answer
    /// is sent, so that the connection can be used again. Otherwise the connection is closed after
    /// the answer.
    fn leave_rest<Body>(
        &self,
        parts: &Parts,
        body: Option<Incoming>,
        outgoing: Outgoing<Body>,
    ) -> Outgoing<Body> {
        let Some(mut body) = body.filter(|body| !body.is_end_stream()) else {
            return outgoing;
        };
        let bounds = &self.streams.bounds;
        let left = body.size_hint().upper();
        // A client that sent `Expect` may never send the body.
        let may_not_come = parts.headers.contains_key(hyper::header::EXPECT);
        if may_not_come || left.is_none_or(|left| left > bounds.drain_bytes_max) {
            return outgoing.and_close();
        }
        let rest = async move { while let Some(Ok(_)) = body.frame().await {} };
        tokio::spawn(tokio::time::timeout(bounds.body_timeout, rest));
        outgoing
    }

    /// Adds the CORS headers.
    fn shared<Body>(&self, mut outgoing: Outgoing<Body>, asked: &Parts) -> Outgoing<Body> {
        let origin = given(&asked.headers, header::ORIGIN);
        let origins = &self.streams.settings.cors_origins;
        for (name, value) in origins.headers(asked.method.as_str(), origin.as_deref()) {
            append(outgoing.0.headers_mut(), name, &value);
        }
        outgoing
    }

    /// Reserves room for the first bytes of a response before its head is sent. Without room the
    /// response is a refusal.
    fn admit(&self, outgoing: Outgoing, client: &Client) -> Outgoing<Admitted> {
        let (head, content) = outgoing.0.into_parts();
        let (first, rest, keeps) = match content {
            Content::Whole(whole) => (whole, None, Keeps::Nothing),
            Content::Streamed { first, rest, keeps } => (first, Some(rest), keeps),
        };
        let Ok((room, pieces)) = self
            .pages
            .respond(client.address, &client.end, first, keeps)
        else {
            // A refusal is too small to count.
            return self.admit(self.refuse(Bound::Pages), client);
        };
        let admitted = match rest {
            None => Admitted::Pieces(pieces),
            Some(rest) => Admitted::Streamed(streamed(room, pieces, rest)),
        };
        Outgoing(Response::from_parts(head, admitted))
    }

    /// Answers `/health`, `/metrics`, and requests for the admin page.
    ///
    /// There is always room for these answers. They are small or in the program, and each
    /// connection has one.
    fn own_path(&self, parts: &Parts) -> Option<Outgoing<Admitted>> {
        if let Some(outgoing) = page::answer(parts.method.as_str(), parts.uri.path()) {
            return Some(outgoing);
        }
        if !matches!(parts.method.as_str(), "GET" | "HEAD") {
            return None;
        }
        let (status, content_type, body) = match parts.uri.path() {
            "/health" => {
                let (status, body) = match self.reason_not_to_ask() {
                    None => (200, r#"{"status":"ok"}"#.to_owned()),
                    Some(ENDING) => (503, r#"{"status":"ending"}"#.to_owned()),
                    Some(reason) => (
                        503,
                        format!(r#"{{"status":"failing","reason":"{reason}"}}"#),
                    ),
                };
                (status, "application/json", body)
            }
            "/metrics" => {
                let metrics = &self.streams.metrics;
                metrics
                    .healthy
                    .set(i64::from(self.reason_not_to_ask().is_none()));
                let accept = given(&parts.headers, "Accept").unwrap_or_default();
                let format = metrics::Format::asked_for(&accept);
                (200, format.content_type(), metrics.text(format).ok()?)
            }
            _ => return None,
        };
        let headers = [
            ("Content-Type", content_type),
            ("Cache-Control", "no-store"),
        ];
        Some(Outgoing::small(
            status,
            headers.into_iter(),
            Bytes::from(body),
        ))
    }

    /// Returns why a load balancer should not use this server, if there is a reason.
    fn reason_not_to_ask(&self) -> Option<&'static str> {
        if *self.ending.borrow() {
            return Some(ENDING);
        }
        self.streams.health.trouble()
    }

    /// Handles the head of a request, as far as its body is not needed.
    fn route(&self, parts: &Parts, origin: &str) -> Routed {
        let given = |name: &str| given(&parts.headers, name);
        let target = parts.uri.path_and_query();
        let head = RequestHead {
            method: parts.method.as_str(),
            origin: self.streams.settings.location_base(origin),
            target: target.map_or("", |target| target.as_str()),
            header: &given,
        };
        let now = self.streams.platform.now();
        let to_stream = match router::route(head, now, &self.streams.settings) {
            Route::Answered(answer) => return Routed::Answered(direct(&answer)),
            Route::Stream(to_stream) => to_stream,
        };
        // Internal headers come from the router alone.
        let header = |name: &str| {
            if internal_headers::ALL.contains(&name) {
                to_stream.internal_header(name).map(str::to_owned)
            } else {
                given(name)
            }
        };
        let head = RequestHead {
            header: &header,
            ..head
        };
        match request::parse(head, &self.streams.settings.limits) {
            Ok(parsed) => Routed::ToStream(StreamRequest {
                parsed,
                is_live: to_stream.live,
                is_timed: to_stream.timing,
                #[cfg(feature = "test-routes")]
                test: given("X-Test-Op"),
                name: to_stream.name,
            }),
            Err(refusal) => Routed::Answered(direct(&Answer::refusal(&refusal))),
        }
    }

    /// Sends a request to its stream, and waits for the answer.
    async fn ask(
        &self,
        request: StreamRequest,
        body: &mut Option<Incoming>,
        client: &Arc<Client>,
    ) -> Outgoing {
        let (streams, name) = (&self.streams, request.name.as_str());
        #[cfg(feature = "test-routes")]
        if let Some(outgoing) =
            crate::test_routes::answer(streams, name, request.test.as_deref()).await
        {
            return outgoing;
        }
        let (call, held) = match request.parsed {
            Parsed::Whole(call) => (Ok(call), None),
            Parsed::AwaitsBody(awaits) => match self.take_body(awaits.bound, body, client).await {
                BodyRead::Whole(bytes, held) => (awaits.with_body(bytes), Some(held)),
                BodyRead::Refused(refusal) => (Err(refusal), None),
                BodyRead::RoomFull => return self.refuse(Bound::Bodies).and_close(),
            },
        };
        let call = match call {
            Ok(call) => call,
            Err(refusal) => return direct(&Answer::refusal(&refusal)),
        };
        let live = match &call {
            Call::Read(read) if read.live.is_some() => {
                let Some(seat) = client.take_seat() else {
                    return self.refuse(Bound::Readers);
                };
                Some((read.clone(), seat))
            }
            Call::Create(_)
            | Call::Append(_)
            | Call::Metadata
            | Call::Read(_)
            | Call::Delete(_)
            | Call::Fork(_)
            | Call::Admin(_)
            | Call::Link(_)
            | Call::Control(_)
            | Call::Session(_) => None,
        };
        let call = streams.call(call);
        #[cfg(not(feature = "test-routes"))]
        let kind = JobKind::Input(call);
        #[cfg(feature = "test-routes")]
        let kind = match request.test.as_deref() {
            Some("panic") => JobKind::Panic(call),
            Some(operation) => match crate::test_routes::CommitTest::named(operation) {
                Some(test) => JobKind::Commit(call, test),
                None => JobKind::Input(call),
            },
            None => JobKind::Input(call),
        };
        let Ok(reply) = streams.ask(name, kind, held) else {
            return self.refuse(Bound::Queue);
        };
        let Ok(reply) = reply.await else {
            return unavailable(streams);
        };
        match live {
            Some((read, seat)) => {
                reader::hold(streams, name, read, reply, self.ending.clone(), seat).await
            }
            None => plain(streams, name, Some(reply)).await,
        }
    }

    /// Refuses a request that exceeds a bound of the server.
    pub(crate) fn refuse(&self, bound: Bound) -> Outgoing {
        self.streams.metrics.refuse(bound);
        unavailable(&self.streams)
    }

    /// Routes a request about sessions, and reads its body if it has one that matters; `None` if it
    /// is not one.
    async fn session(
        &self,
        parts: &Parts,
        origin: &str,
        body: &mut Option<Incoming>,
        client: &Client,
    ) -> Option<Routed> {
        let route = match self.session_route(parts, origin, None)? {
            SessionRoute::AwaitsBody(bound) => match self.take_body(bound, body, client).await {
                BodyRead::Whole(bytes, _) => self.session_route(parts, origin, Some(&bytes))?,
                BodyRead::Refused(refusal) => SessionRoute::Answered(Answer::refusal(&refusal)),
                BodyRead::RoomFull => {
                    return Some(Routed::Answered(self.refuse(Bound::Bodies).and_close()));
                }
            },
            route @ (SessionRoute::Answered(_) | SessionRoute::Object { .. }) => route,
        };
        Some(match route {
            SessionRoute::Answered(answer) => Routed::Answered(direct(&answer)),
            SessionRoute::AwaitsBody(_) => unreachable!("the body is there"),
            SessionRoute::Object { to, call } => Routed::ToStream(StreamRequest {
                parsed: Parsed::Whole(Call::Session(call)),
                is_live: false,
                is_timed: false,
                #[cfg(feature = "test-routes")]
                test: None,
                name: to,
            }),
        })
    }

    fn session_route(
        &self,
        parts: &Parts,
        origin: &str,
        body: Option<&[u8]>,
    ) -> Option<SessionRoute> {
        let settings = &self.streams.settings;
        let given = |name: &str| given(&parts.headers, name);
        let target = parts.uri.path_and_query();
        let head = RequestHead {
            method: parts.method.as_str(),
            origin: settings.location_base(origin),
            target: target.map_or("", |target| target.as_str()),
            header: &given,
        };
        let platform = &self.streams.platform;
        session::route(head, body, &|| platform.entropy(), platform.now(), settings)
    }

    /// Reads a whole body. A body that was read to its end is taken out of `coming`.
    async fn take_body(
        &self,
        bound: BodyBound,
        coming: &mut Option<Incoming>,
        client: &Client,
    ) -> BodyRead {
        let Some(body) = coming else {
            return BodyRead::Refused(bound.broken_off());
        };
        if body
            .size_hint()
            .exact()
            .is_some_and(|length| length > bound.bytes_max)
        {
            return BodyRead::Refused(bound.too_large());
        }
        let held = self.bodies.growing(client);
        let begun = Instant::now();
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let length = first.len().max(rest.len());
            let part = tokio::select! {
                part = self.next_part(body, begun, length) => part,
                () = held.gives_way() => return BodyRead::RoomFull,
            };
            let part = match part {
                Next::Part(part) => part,
                Next::End => break,
                Next::Broken => return BodyRead::Refused(bound.broken_off()),
                Next::TooSlow => return BodyRead::Refused(bound.too_slow()),
            };
            if (length + part.len()) as u64 > bound.bytes_max {
                return BodyRead::Refused(bound.too_large());
            }
            if held.more(part.len()).is_err() {
                return BodyRead::RoomFull;
            }
            // Most bodies come in one part. Do not copy that.
            if first.is_empty() {
                first = part;
            } else {
                if rest.is_empty() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&part);
            }
        }
        *coming = None;
        held.settle();
        let whole = if rest.is_empty() {
            first
        } else {
            rest.freeze()
        };
        BodyRead::Whole(whole, held)
    }

    /// Returns the next bytes of a body, of which `length` bytes have arrived since `begun`.
    async fn next_part(&self, body: &mut Incoming, begun: Instant, length: usize) -> Next {
        let bounds = &self.streams.bounds;
        let earned = Duration::from_secs(length as u64 / bounds.body_rate_min.max(1));
        let whole = (bounds.body_timeout + earned).min(bounds.body_deadline);
        let late = (begun + whole).min(Instant::now() + bounds.body_timeout);
        loop {
            match tokio::time::timeout_at(late, body.frame()).await {
                Ok(None) => return Next::End,
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Next::Part(bytes);
                    }
                }
                Ok(Some(Err(_))) => return Next::Broken,
                Err(_) => return Next::TooSlow,
            }
        }
    }
}

/// Returns the body of a streamed response: first these pieces, and then the rest as it is made.
fn streamed(room: ResponseRoom, pieces: VecDeque<Bytes>, rest: Made) -> Made {
    let state = (room, pieces, rest);
    Box::pin(stream::try_unfold(state, |state| async {
        let (room, mut pieces, mut rest) = state;
        loop {
            if let Some(piece) = pieces.pop_front() {
                return Ok(Some((piece, (room, pieces, rest))));
            }
            room.has_room().await;
            match rest.next().await {
                Some(bytes) => pieces = room.pieces(bytes?),
                None => return Ok(None),
            }
        }
    }))
}

/// The body of a response while it is sent.
pub(crate) struct Leaving {
    content: Admitted,
    _answering: Answering,
}

impl Body for Leaving {
    type Data = Bytes;
    type Error = FetchError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.content {
            Admitted::Pieces(pieces) => Poll::Ready(pieces.pop_front().map(Frame::data).map(Ok)),
            Admitted::Streamed(bytes) => bytes
                .poll_next_unpin(context)
                .map(|bytes| bytes.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Admitted::Pieces(pieces) => pieces.is_empty(),
            Admitted::Streamed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Admitted::Pieces(pieces) => {
                SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum())
            }
            Admitted::Streamed(_) => SizeHint::default(),
        }
    }
}

pub(crate) enum Routed {
    Answered(Outgoing),
    ToStream(StreamRequest),
}

/// A request for a stream.
pub(crate) struct StreamRequest {
    /// The canonical name.
    pub(crate) name: String,
    pub(crate) is_live: bool,
    /// Whether the answer says how long it took.
    pub(crate) is_timed: bool,
    pub(crate) parsed: Parsed,
    #[cfg(feature = "test-routes")]
    pub(crate) test: Option<String>,
}

/// The result of reading a body.
enum BodyRead {
    Whole(Bytes, room::Reservation),
    Refused(Refusal),
    RoomFull,
}

/// The next part of a body.
enum Next {
    Part(Bytes),
    End,
    Broken,
    TooSlow,
}

/// Returns the origin that a request to the address `local` names.
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

/// Returns the value of a header. Several values are joined with commas (RFC 9110, 5.3).
pub(crate) fn given(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).into_iter().map(text);
    let first = values.next()?;
    Some(values.fold(first, |joined, value| joined + ", " + &value))
}

/// Returns the text of a header value. Values are bytes. They are read as UTF-8 if they are valid
/// UTF-8, and as Latin-1 otherwise, because that is what older software sends.
fn text(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}
