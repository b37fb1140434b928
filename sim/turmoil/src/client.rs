//! Clients: each is a host with real HTTP connections. It does one thing at a time and retries what
//! failed. Readers of event streams run beside it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sim::cold_tier::{self, Parts};
use sim::model::source_of;
use sim::oracles::Oracle;
use sim::request::{Request, Response};
use sim::workload::{self, Action, Claim, Context, Knowledge};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::coverage::{Fault, Situation};
use crate::forking;
use crate::judge::{Judge, Notable, stream};
use crate::live;
use crate::platform::{ConnectionFault, FaultyStream};
use crate::shared::{Inner, Phase, SERVER, Shared, now};

pub(crate) const PORT: u16 = 80;
/// How often a client that waits for the others looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(3);
/// After the heal, an answer comes within this time.
pub(crate) const LIVENESS_MS: u64 = 120_000;
/// Several commits, each with its drawn delay, and the network.
const OUTDATED_MS: u64 = 1_000;

/// What all clients of a run share.
#[derive(Clone)]
pub(crate) struct ClientContext {
    pub(crate) shared: Shared,
    pub(crate) judge: Rc<RefCell<Judge>>,
    pub(crate) follows: Rc<RefCell<Vec<live::Follow>>>,
    /// The last creation of a fork of each name.
    pub(crate) forks: Rc<RefCell<Vec<Option<Request>>>>,
}

/// A connection of a client.
pub(crate) struct Connection {
    sender: SendRequest<Sent>,
    pub(crate) fault: Rc<ConnectionFault>,
    /// The number of disturbances when it was opened.
    pub(crate) disturbances: u64,
}

/// No whole answer came.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

impl ClientContext {
    /// Judges what has become durable.
    pub(crate) fn absorb(&self) {
        let mut shared = self.shared.lock();
        let logged = std::mem::take(&mut shared.log);
        let mut judge = self.judge.borrow_mut();
        for each in logged {
            let after_crash = shared.crashed_at > 0;
            if let Err((oracle, mismatch)) = judge.absorb(each, after_crash, &shared.tier.objects) {
                shared.check(oracle, Err(mismatch));
            }
        }
        for notable in std::mem::take(&mut judge.notable) {
            match notable {
                Notable::CreatedAgain => shared.cover(Situation::CreatedAgain),
                Notable::DeletedUnderReader => shared.cover(Situation::DeletedUnderReader),
                Notable::ExpiredAlone => shared.cover(Situation::ExpiredByAlarm),
                Notable::ExpiredAfterCrash => shared.cover(Situation::ExpiredAfterCrash),
                Notable::Forked { deep, inside } => {
                    shared.cover(Situation::Forked);
                    if deep {
                        shared.cover(Situation::ForkedDeep);
                    }
                    if inside {
                        shared.cover(Situation::ForkedInside);
                    }
                }
                Notable::DeletedHidden => shared.cover(Situation::SourceDeleted),
                Notable::ExpiredHidden => shared.cover(Situation::SourceExpired),
                Notable::Freed => shared.cover(Situation::SourceFreed),
                Notable::Abandoned => shared.cover(Situation::ForkAbandoned),
                Notable::Shown {
                    name,
                    incarnation,
                    from,
                    to,
                    live,
                } => {
                    let present = judge.incarnation(name);
                    let present = present.filter(|it| it.id == incarnation);
                    let fork = present.and_then(|it| it.fork.as_ref());
                    if fork.is_some_and(|fork| from < fork.cut && fork.cut < to) {
                        shared.cover(if live {
                            Situation::ForkEvents
                        } else {
                            Situation::ForkRead
                        });
                    }
                    let parts = present.and_then(|it| {
                        let disk = shared.disks.get(&stream(name))?;
                        Some(cold_tier::parts(disk, it, from, to))
                    });
                    note_parts(&mut shared, parts.unwrap_or_default(), live);
                }
            }
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.shared.lock().phase
    }

    fn goes_on(&self) -> bool {
        self.shared.lock().goes_on()
    }

    /// Notes that a request is sent. Its answer must know what is durable now.
    pub(crate) fn sent(&self, name: usize, request: &Rc<Request>) -> usize {
        self.absorb();
        self.judge.borrow_mut().sent(name, request, now())
    }

    /// Judges a whole answer.
    pub(crate) fn answered(
        &self,
        who: &str,
        attempt: usize,
        request: &Request,
        response: &Response,
    ) {
        self.absorb();
        let verdict = self.judge.borrow_mut().answered(attempt, response, now());
        let mut shared = self.shared.lock();
        shared.note(who, || format!("a{attempt} ← {}", response.line()));
        shared.check(Oracle::Answers, verdict);
        note_answer(&mut shared, request, response);
    }

    /// Judges the beginning of an answer.
    fn broke_off(&self, who: &str, attempt: usize, response: &Response) {
        self.absorb();
        let mut judge = self.judge.borrow_mut();
        let verdict = judge.broke_off(attempt, response);
        let ended = judge.has_turned_over(attempt);
        let mut shared = self.shared.lock();
        shared.note(who, || {
            format!("a{attempt} breaks off: {}", response.line())
        });
        shared.check(Oracle::Answers, verdict);
        if shared.settings.workload.whole_reads && !response.body.is_empty() {
            shared.cover(if ended {
                Situation::WholeReadGone
            } else {
                Situation::WholeReadCut
            });
        }
    }

    /// Opens a connection, which breaks off after a number of bytes if that is drawn.
    pub(crate) async fn connect(&self) -> Result<Connection, Lost> {
        let disturbances = self.shared.lock().disturbances;
        let stream = timeout(CONNECT, TcpStream::connect((SERVER, PORT))).await;
        let stream = stream.map_err(|_| Lost("no connection in time".to_owned()))?;
        let stream = stream.map_err(|error| Lost(format!("no connection: {error}")))?;
        let fault = Rc::new(ConnectionFault::default());
        let io = TokioIo::new(FaultyStream::new(stream, Rc::clone(&fault)));
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|error| Lost(format!("no connection: {error}")))?;
        tokio::task::spawn_local(async move {
            // A request that waits on this connection gets the error.
            drop(connection.await);
        });
        Ok(Connection {
            sender,
            fault,
            disturbances,
        })
    }

    /// Sends a request, and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        connection: &mut Connection,
        attempt: usize,
        name: usize,
        request: &Request,
    ) -> Result<hyper::Response<Incoming>, Lost> {
        let (slow, pauses) = {
            let mut shared = self.shared.lock();
            let slow = request.body.len() > 1 && shared.fault(Fault::SlowBody);
            let pauses: Vec<_> = (0..if slow { 1 + shared.choices.upto(3) } else { 0 })
                .map(|_| shared.choices.magnitude(700))
                .collect();
            (slow, pauses)
        };
        let chunked = slow && self.shared.lock().choices.upto(1) == 1;
        let mut head = hyper::Request::builder()
            .method(request.method)
            .uri(request.url(&format!("/v1/stream/{}", stream(name))))
            .header("Host", SERVER);
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        if !chunked && (!request.body.is_empty() || matches!(request.method, "POST" | "PUT")) {
            head = head.header("Content-Length", request.body.len());
        }
        let (pieces, received) = mpsc::unbounded_channel();
        let body = Sent::new(received, &request.body, chunked);
        let sent = head
            .body(body)
            .map_err(|error| Lost(format!("no request: {error}")))?;
        self.shared
            .lock()
            .note("network", || format!("a{attempt} is sent"));
        let bytes = request.body.clone();
        if slow {
            self.shared.lock().cover(Situation::SlowBody);
            self.shared.lock().changed(Fault::SlowBody);
        }
        let feed = async move {
            let size = bytes.len() / (pauses.len() + 1) + 1;
            let mut rest = bytes;
            let mut pauses = pauses.into_iter();
            while !rest.is_empty() {
                let piece = rest.split_to(size.min(rest.len()));
                if pieces.send(piece).is_err() {
                    return;
                }
                if let Some(pause) = pauses.next() {
                    sleep(Duration::from_millis(pause)).await;
                }
            }
        };
        let ready = connection.sender.ready().await;
        ready.map_err(|error| Lost(format!("the connection is closed: {error}")))?;
        tokio::task::spawn_local(feed);
        let head = connection.sender.send_request(sent).await;
        if connection.fault.cut_writing.get() {
            self.judge.borrow_mut().cut(attempt);
        }
        head.map_err(|error| Lost(format!("no answer: {error}")))
    }

    /// Returns whether a connection may have broken off without a fault of the server.
    pub(crate) fn is_excused(&self, connection: &Connection) -> bool {
        let shared = self.shared.lock();
        shared.disturbances != connection.disturbances
            || shared.disturbed > 0
            || connection.fault.cut_reading.get()
            || connection.fault.cut_writing.get()
    }
}

/// Runs one client.
pub(crate) async fn run(context: ClientContext, number: u64) {
    let who = format!("client {number}");
    let settings = context.shared.settings();
    let names = context.judge.borrow().names();
    let mut client = Client {
        context: context.clone(),
        who,
        knowledge: vec![Knowledge::default(); names],
        connection: None,
    };
    while context.goes_on() && context.phase() == Phase::Busy {
        let operation = {
            let mut shared = context.shared.lock();
            if shared.operations >= settings.workload.operations {
                break;
            }
            shared.operations += 1;
            shared.operations - 1
        };
        client.operate(operation).await;
        let pause = {
            let mut shared = context.shared.lock();
            let most = shared.settings.think_ms_max;
            shared.choices.upto(most)
        };
        sleep(Duration::from_millis(pause)).await;
    }
    context.shared.lock().idle += 1;
    while context.goes_on() && context.phase() < Phase::Reading {
        sleep(POLL_INTERVAL).await;
    }
    if number == 0 && context.goes_on() {
        client.connection = None;
        for name in 0..names {
            client.read_everything(name).await;
        }
        for name in 0..if settings.clears { names } else { 0 } {
            client.delete(name).await;
        }
        context.shared.lock().phase = Phase::Waiting;
    }
    client.connection = None;
    while context.goes_on() && context.phase() < Phase::Waiting {
        sleep(POLL_INTERVAL).await;
    }
}

struct Client {
    context: ClientContext,
    who: String,
    /// What it knows of each name.
    knowledge: Vec<Knowledge>,
    connection: Option<Connection>,
}

impl Client {
    /// Does one operation, in several attempts if needed.
    async fn operate(&mut self, operation: u64) {
        let context = self.context.clone();
        context.absorb();
        let settings = context.shared.settings();
        let (name, next) = 'drawn: {
            let mut shared = context.shared.lock();
            let judge = context.judge.borrow();
            let has_forks = settings.forks > 0;
            if has_forks && shared.choices.fifth().percent(settings.fork_percent) {
                let created = &context.forks.borrow();
                let choices = shared.choices.fifth();
                let (name, request) = forking::next(choices, &settings, &judge, created, operation);
                let next = Action::Send {
                    request,
                    marker: None,
                    claim: None,
                };
                break 'drawn (name, next);
            }
            let name = shared.choices.upto(settings.workload.names - 1);
            let name = usize::try_from(name).unwrap_or(0);
            let fork = if has_forks {
                forking::fork(shared.choices.fifth(), &settings, &judge)
            } else {
                None
            };
            let name = fork.unwrap_or(name);
            let context = Context {
                settings: &settings.workload,
                incarnation: judge.incarnation(name),
                has_ended: judge.has_ended(name, now()),
                knowledge: &self.knowledge[name],
                operation,
                now: now(),
            };
            (name, workload::next(&mut shared.choices, context))
        };
        let (request, claim) = match next {
            Action::Send { request, claim, .. } => (Rc::new(request), claim),
            Action::Wait(pause) => {
                let pause = pause.min(3_000);
                context
                    .shared
                    .lock()
                    .note(&self.who, || format!("waits for {pause} ms"));
                return sleep(Duration::from_millis(pause)).await;
            }
        };
        if request.method == "GET" && request.parameter("live") == Some("sse") {
            return live::follow(&context, &self.who, name, request);
        }
        if source_of(&request).is_some() {
            context.forks.borrow_mut()[name] = Some((*request).clone());
        }
        let is_plain_read = request.method == "GET" && request.parameter("live").is_none();
        if is_plain_read && settings.forks > 0 && context.shared.lock().choices.fifth().percent(15)
        {
            // The stream may end while its pages follow one another.
            self.send_copy(name, &Rc::new(Request::new("DELETE")));
        }
        let mut unknown_since = None;
        for _ in 0..=settings.workload.retries {
            let begun = now();
            match self.attempt(name, &request).await {
                Ok(response) if response.status < 500 => {
                    self.note_duplicate(&request, claim.as_ref(), &response, unknown_since);
                    self.knowledge[name].learn(&request, &response);
                    return;
                }
                Ok(_) => {}
                Err(_) if !context.goes_on() => return,
                Err(_) => {
                    unknown_since.get_or_insert(begun);
                }
            }
            let pause = context.shared.lock().choices.upto(300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    fn note_duplicate(
        &self,
        request: &Request,
        claim: Option<&Claim>,
        response: &Response,
        unknown_since: Option<u64>,
    ) {
        let mut shared = self.context.shared.lock();
        let after_crash = unknown_since.is_some_and(|since| shared.crashed_at > since);
        if source_of(request).is_some() {
            match response.status {
                201 if after_crash => shared.cover(Situation::ForkedAfterCrash),
                200 if after_crash => shared.cover(Situation::ForkConfirmedAfterCrash),
                _ => {}
            }
        }
        let duplicate = claim.is_some()
            && request.method == "POST"
            && response.status == 204
            && !request.body.is_empty();
        if duplicate {
            shared.cover(Situation::Duplicate);
            if after_crash {
                shared.cover(Situation::DuplicateAfterCrash);
            }
        }
    }

    /// Sends one request, and reads its whole answer.
    async fn attempt(&mut self, name: usize, request: &Rc<Request>) -> Result<Response, Lost> {
        let context = self.context.clone();
        let attempt = context.sent(name, request);
        let (patience, twice) = {
            let mut shared = context.shared.lock();
            shared.note(&self.who, || {
                format!("a{attempt} {} on {}", request.line(), stream(name))
            });
            shared.under_way += 1;
            let waits = request.parameter("live").is_some();
            let patience = shared.settings.patience_ms
                + if waits {
                    shared.settings.workload.limits.long_poll_timeout_ms
                } else if shared.phase == Phase::Reading {
                    // The parts of a page follow one another, each from a slow tier.
                    LIVENESS_MS
                } else {
                    0
                };
            (patience, shared.fault(Fault::Twice))
        };
        if twice {
            let mut shared = context.shared.lock();
            shared.changed(Fault::Twice);
            let copies = 1 + shared.choices.upto(2);
            drop(shared);
            (0..copies).for_each(|_| self.send_copy(name, request));
        }
        self.send_crowd(name, request);
        let leaves = if request.parameter("live").is_some() {
            let mut shared = context.shared.lock();
            shared
                .fault(Fault::Leave)
                .then(|| shared.choices.magnitude(5_000))
        } else {
            None
        };
        let exchange = self.exchange(attempt, name, request);
        let limit = Duration::from_millis(leaves.unwrap_or(patience).min(patience));
        let done = timeout(limit, exchange).await;
        let mut shared = context.shared.lock();
        shared.under_way -= 1;
        context.judge.borrow_mut().over(attempt, now());
        match done {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(Lost(reason))) => {
                shared.note(&self.who, || format!("a{attempt} is lost: {reason}"));
                drop(shared);
                self.connection = None;
                Err(Lost(reason))
            }
            Err(_) => {
                if leaves.is_some() {
                    shared.changed(Fault::Leave);
                }
                shared.note(&self.who, || format!("a{attempt} is given up"));
                drop(shared);
                self.connection = None;
                Err(Lost("given up".to_owned()))
            }
        }
    }

    /// Sends more appends at the same time as an append, so that they wait together.
    fn send_crowd(&self, name: usize, request: &Rc<Request>) {
        let mut shared = self.context.shared.lock();
        let is_append = request.method == "POST" && !request.body.is_empty();
        let most = shared.settings.crowd_max;
        let others = if is_append && most > 0 && shared.phase == Phase::Busy {
            shared.choices.fourth().upto(most)
        } else {
            0
        };
        drop(shared);
        let plain = Request {
            headers: request
                .headers
                .iter()
                .filter(|(name, _)| *name == "Content-Type")
                .cloned()
                .collect(),
            ..(**request).clone()
        };
        let plain = Rc::new(plain);
        (0..others).for_each(|_| self.send_copy(name, &plain));
    }

    /// Sends the same request on another connection, and judges its answer as well.
    fn send_copy(&self, name: usize, request: &Rc<Request>) {
        let context = self.context.clone();
        let request = Rc::clone(request);
        let who = format!("{}'", self.who);
        tokio::task::spawn_local(async move {
            let attempt = context.sent(name, &request);
            context
                .shared
                .lock()
                .note(&who, || format!("a{attempt} is a copy"));
            let Ok(mut connection) = context.connect().await else {
                return;
            };
            let response = async {
                let head = context
                    .send(&mut connection, attempt, name, &request)
                    .await?;
                whole(head).await
            };
            let patience = context.shared.settings().patience_ms;
            let patience = Duration::from_millis(patience);
            if let Ok(Ok(response)) = timeout(patience, response).await {
                context.answered(&who, attempt, &request, &response);
            }
            context.judge.borrow_mut().over(attempt, now());
        });
    }

    async fn exchange(
        &mut self,
        attempt: usize,
        name: usize,
        request: &Rc<Request>,
    ) -> Result<Response, Lost> {
        let context = self.context.clone();
        let cuts = {
            let mut shared = context.shared.lock();
            let writes = shared.fault(Fault::CutRequest);
            let writes = writes.then(|| shared.choices.upto(300 + request.body.len() as u64));
            let reads = shared.fault(Fault::CutResponse);
            let reads = reads.then(|| shared.choices.magnitude(1_500));
            (writes, reads)
        };
        let reused = {
            let mut shared = context.shared.lock();
            let percent = shared.settings.reuse_percent;
            cuts == (None, None) && shared.choices.percent(percent)
        };
        let kept = self
            .connection
            .take()
            .filter(|it| reused && !it.sender.is_closed());
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => context.connect().await?,
        };
        connection.fault.writes_left.set(cuts.0);
        connection.fault.reads_left.set(cuts.1);
        let begun = now();
        let response = async {
            let head = context
                .send(&mut connection, attempt, name, request)
                .await?;
            self.whole(attempt, request, head).await
        };
        let response = response.await;
        let fault = &connection.fault;
        if fault.cut_writing.get() {
            let mut shared = context.shared.lock();
            context.judge.borrow_mut().cut(attempt);
            shared.cover(Situation::RequestCut);
            if fault.written.get() > 0 {
                shared.changed(Fault::CutRequest);
            }
        }
        if fault.cut_reading.get() {
            let mut shared = context.shared.lock();
            shared.cover(Situation::ResponseCut);
            if fault.read.get() > 0 {
                shared.changed(Fault::CutResponse);
            }
        }
        let response = match response {
            Ok(response) => response,
            // The server may close a kept connection at any time between two requests.
            Err(Lost(reason)) => {
                // An answer of several pages breaks off when its stream ends, or when the turn for
                // a page fails.
                let ended = context.shared.settings().workload.whole_reads
                    && (context.judge.borrow().has_turned_over(attempt)
                        || context.shared.lock().storage_failed_at >= begun);
                let some = connection.fault.read.get() > 0 && !was_kept && !ended;
                if some && !context.is_excused(&connection) && !self.context.shared.lock().ending {
                    context.shared.lock().fail(
                        Oracle::Wire,
                        "a whole answer, where nothing has cut it".to_owned(),
                        format!("a{attempt}: {reason}"),
                    );
                }
                return Err(Lost(reason));
            }
        };
        context.answered(&self.who, attempt, request, &response);
        self.note_poll(&connection, attempt, request, &response, begun);
        let closes = response
            .header("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if cuts == (None, None) && !closes {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// Counts and judges what a long-poll's answer shows.
    fn note_poll(
        &self,
        connection: &Connection,
        attempt: usize,
        request: &Request,
        response: &Response,
        begun: u64,
    ) {
        if request.parameter("live") != Some("long-poll") {
            return;
        }
        let waited = now() - begun;
        let excused = self.context.is_excused(connection);
        let judge = self.context.judge.borrow();
        let outdated = judge.outdated_at(attempt, response);
        let has_turned_over = judge.has_turned_over(attempt);
        let mut shared = self.context.shared.lock();
        let least = shared.settings.workload.limits.long_poll_timeout_ms;
        let slack =
            OUTDATED_MS + shared.settings.latency_ms_max * 4 + shared.settings.work_ms_max * 4;
        match response.status {
            204 if response.is_true("Stream-Closed") && waited > 100 => {
                shared.cover(Situation::LongPollClosed)
            }
            204 if response.is_true("Stream-Closed") => {}
            204 => {
                shared.cover(Situation::LongPollTimeout);
                if waited + 10 < least && !excused && !shared.ending && !has_turned_over {
                    shared.fail(
                        Oracle::LongPoll,
                        format!("a wait of {least} ms"),
                        format!("a{attempt}: {waited} ms"),
                    );
                }
                // When a stream disconnects its readers, reconnecting takes a while.
                let reconnect = shared.settings.workload.limits.reconnect_base_ms * 4;
                let late = outdated.is_some_and(|at| at + slack + reconnect < now());
                if late && !excused {
                    shared.fail(
                        Oracle::NoLostWake,
                        format!("to get what was durable since {outdated:?}"),
                        format!("a{attempt}: {}", response.line()),
                    );
                }
            }
            200 if waited > 150 => shared.cover(Situation::LongPollWoken),
            404 | 410 if waited > 150 => shared.cover(Situation::LongPollGone),
            _ => {}
        }
    }

    /// Reads the rest of an answer, as fast as its client reads. If it breaks off, what came must
    /// be the beginning of what the head promised.
    async fn whole(
        &self,
        attempt: usize,
        request: &Request,
        head: hyper::Response<Incoming>,
    ) -> Result<Response, Lost> {
        let mut response = head_of(&head);
        let mut body = head.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Some(data) = frame.data_ref() {
                        bytes.extend_from_slice(data);
                    }
                }
                Err(error) => {
                    response.body = bytes.freeze();
                    if request.parameter("live").is_none() && response.status == 200 {
                        self.context.broke_off(&self.who, attempt, &response);
                    }
                    return Err(Lost(format!("half an answer: {error}")));
                }
            }
        }
        response.body = bytes.freeze();
        Ok(response)
    }

    /// Deletes a stream, if there is one.
    async fn delete(&mut self, name: usize) {
        let request = Rc::new(Request::new("DELETE"));
        let since = now();
        while self.context.goes_on() {
            match self.attempt(name, &request).await {
                Ok(response) if response.status < 500 => return,
                answer if now() > since + LIVENESS_MS => {
                    self.context.shared.lock().fail(
                        Oracle::Liveness,
                        format!("to delete {} after the heal", stream(name)),
                        format!("{answer:?}"),
                    );
                    return;
                }
                Ok(_) | Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }

    /// Reads a name once more: everything acknowledged must be there, as in the model.
    async fn read_everything(&mut self, name: usize) {
        let context = self.context.clone();
        let mut offset = "-1".to_owned();
        let since = now();
        while context.goes_on() {
            let mut request = Request::new("GET");
            request.query.push(("offset", offset.clone()));
            let answer = self.attempt(name, &Rc::new(request)).await;
            match answer {
                Ok(response) if response.status == 200 => {
                    match response.header("Stream-Next-Offset") {
                        Some(next) if !response.is_true("Stream-Up-To-Date") => {
                            next.clone_into(&mut offset)
                        }
                        _ => return,
                    }
                }
                Ok(response) if response.status < 500 => return,
                Ok(_) | Err(_) if now() > since + LIVENESS_MS => {
                    context.shared.lock().fail(
                        Oracle::Liveness,
                        format!("to read {} after the heal", stream(name)),
                        format!("{answer:?}"),
                    );
                    return;
                }
                Ok(_) | Err(_) => sleep(POLL_INTERVAL).await,
            }
        }
    }
}

/// A body to be sent, of known or unknown length.
struct Sent {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    left: u64,
    chunked: bool,
}

impl Sent {
    const fn new(pieces: mpsc::UnboundedReceiver<Bytes>, bytes: &Bytes, chunked: bool) -> Self {
        Self {
            pieces,
            left: bytes.len() as u64,
            chunked,
        }
    }
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return std::task::Poll::Ready(None);
        }
        let piece = self.pieces.poll_recv(context);
        piece.map(|piece| {
            piece.map(|bytes| {
                self.left -= bytes.len() as u64;
                Ok(Frame::data(bytes))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        if self.chunked {
            hyper::body::SizeHint::new()
        } else {
            hyper::body::SizeHint::with_exact(self.left)
        }
    }
}

/// Returns status and headers of an answer.
pub(crate) fn head_of(head: &hyper::Response<Incoming>) -> Response {
    let headers = head.headers().iter().map(|(name, value)| {
        (
            spelled(name.as_str()).into(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    });
    Response {
        status: head.status().as_u16(),
        headers: headers.collect(),
        body: Bytes::new(),
    }
}

/// Returns the name of a header as the protocol spells it.
fn spelled(name: &str) -> String {
    if name == "etag" {
        return "ETag".to_owned();
    }
    let mut spelled = String::with_capacity(name.len());
    for byte in name.chars() {
        if spelled.is_empty() || spelled.ends_with('-') {
            spelled.push(byte.to_ascii_uppercase());
        } else {
            spelled.push(byte);
        }
    }
    spelled
}

/// Reads the body of an answer, which must end.
pub(crate) async fn whole(head: hyper::Response<Incoming>) -> Result<Response, Lost> {
    let mut response = head_of(&head);
    let body = head.into_body().collect().await;
    let body = body.map_err(|error| Lost(format!("half an answer: {error}")))?;
    response.body = body.to_bytes();
    Ok(response)
}

/// Counts the tiers that something was read from.
fn note_parts(shared: &mut Inner, parts: Parts, live: bool) {
    let Parts {
        cold,
        hot,
        from_middle,
    } = parts;
    let situations = [
        (cold > 0, Situation::RowsDropped),
        (cold > 0 && live, Situation::EventsCold),
        (cold > 0 && hot > 0, Situation::PageColdAndHot),
        (cold + hot > 1, Situation::PageStitched),
        (from_middle, Situation::PageFromMiddle),
    ];
    let holding = situations.into_iter().filter(|(holds, _)| *holds);
    holding.for_each(|(_, situation)| shared.cover(situation));
}

/// Counts the situation that an answer shows.
fn note_answer(shared: &mut Inner, request: &Request, response: &Response) {
    match (request.method, response.status) {
        (_, 304) => shared.cover(Situation::NotModified),
        (_, 400) => shared.cover(Situation::BadRequest),
        (_, 413) => shared.cover(Situation::TooLarge),
        (_, 503) => shared.cover(Situation::Unavailable),
        (_, 500) => shared.cover(Situation::Damaged),
        (_, 410) => shared.cover(Situation::SourceGone),
        ("PUT", 200) if source_of(request).is_some() => shared.cover(Situation::ForkConfirmed),
        ("PUT", 404 | 409 | 429) if source_of(request).is_some() => {
            shared.cover(Situation::ForkRefused);
        }
        ("POST", 403) => shared.cover(Situation::EpochFenced),
        ("GET", 200)
            if response.header("Stream-Next-Offset").is_some()
                && !response.is_true("Stream-Up-To-Date") =>
        {
            shared.cover(Situation::PageCut);
        }
        _ => {}
    }
}
