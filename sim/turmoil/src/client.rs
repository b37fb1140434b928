//! Clients: each a host of its own, with real HTTP connections. One thing at a time, again when it
//! was in vain, and readers of event streams beside it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use sim::oracles::Oracle;
use sim::request::{Request, Response};
use sim::tier::{self, Parts};
use sim::workload::{self, Claim, Knowledge, Next, Scene};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use crate::judge::{Judge, Notable, stream};
use crate::live;
use crate::marks::{Fault, Mark};
use crate::platform::{Fate, Fragile};
use crate::shared::{Inner, Phase, SERVER, Shared, now};

pub(crate) const PORT: u16 = 80;
/// A client that waits for the others looks up so often.
const LOOK: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(3);
/// After the heal, an answer comes within this, or not at all.
pub(crate) const LIVENESS_MS: u64 = 120_000;
/// Of several commits, each on its way for as long as drawn, and the network.
const OUTDATED_MS: u64 = 1_000;

/// What all clients of a run share.
#[derive(Clone)]
pub(crate) struct Company {
    pub(crate) shared: Shared,
    pub(crate) judge: Rc<RefCell<Judge>>,
    pub(crate) follows: Rc<RefCell<Vec<live::Follow>>>,
}

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Sent>,
    pub(crate) fate: Rc<Fate>,
    /// What had happened to the network when it was opened.
    pub(crate) disturbances: u64,
}

/// There is no whole answer.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

impl Company {
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
                Notable::CreatedAgain => shared.hit(Mark::CreatedAgain),
                Notable::DeletedUnderReader => shared.hit(Mark::DeletedUnderReader),
                Notable::ExpiredAlone => shared.hit(Mark::ExpiredByAlarm),
                Notable::ExpiredAfterCrash => shared.hit(Mark::ExpiredAfterCrash),
                Notable::Shown {
                    name,
                    life,
                    from,
                    to,
                    live,
                } => {
                    let parts = judge.life(name).filter(|it| it.id == life).and_then(|it| {
                        let disk = shared.disks.get(&stream(name))?;
                        Some(tier::parts(disk, it, from, to))
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

    /// A request is sent: what was durable by now it must know of.
    pub(crate) fn sent(&self, name: usize, request: &Rc<Request>) -> usize {
        self.absorb();
        self.judge.borrow_mut().sent(name, request, now())
    }

    /// Holds a whole answer against the model.
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

    /// Holds the beginning of an answer against the model.
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
            shared.hit(if ended {
                Mark::WholeReadGone
            } else {
                Mark::WholeReadCut
            });
        }
    }

    /// Opens a connection, which breaks off after so many bytes where that is drawn.
    pub(crate) async fn connect(&self) -> Result<Connection, Lost> {
        let disturbances = self.shared.lock().disturbances;
        let stream = timeout(CONNECT, TcpStream::connect((SERVER, PORT))).await;
        let stream = stream.map_err(|_| Lost("no connection in time".to_owned()))?;
        let stream = stream.map_err(|error| Lost(format!("no connection: {error}")))?;
        let fate = Rc::new(Fate::default());
        let io = TokioIo::new(Fragile::new(stream, Rc::clone(&fate)));
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|error| Lost(format!("no connection: {error}")))?;
        tokio::task::spawn_local(async move {
            // Whoever waits for an answer on it is told.
            drop(connection.await);
        });
        Ok(Connection {
            sender,
            fate,
            disturbances,
        })
    }

    /// Sends a request on a connection, and waits for the head of its answer.
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
            self.shared.lock().hit(Mark::SlowBody);
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
        if connection.fate.cut_writing.get() {
            self.judge.borrow_mut().cut(attempt);
        }
        head.map_err(|error| Lost(format!("no answer: {error}")))
    }

    /// Whether a connection may have broken off without the server's doing.
    pub(crate) fn is_excused(&self, connection: &Connection) -> bool {
        let shared = self.shared.lock();
        shared.disturbances != connection.disturbances
            || shared.disturbed > 0
            || connection.fate.cut_reading.get()
            || connection.fate.cut_writing.get()
    }
}

/// One client's life.
pub(crate) async fn run(company: Company, number: u64) {
    let who = format!("client {number}");
    let settings = company.shared.settings();
    let names = company.judge.borrow().names();
    let mut client = Client {
        company: company.clone(),
        who,
        knowledge: vec![Knowledge::default(); names],
        connection: None,
    };
    while company.goes_on() && company.phase() == Phase::Busy {
        let operation = {
            let mut shared = company.shared.lock();
            if shared.operations >= settings.workload.operations {
                break;
            }
            shared.operations += 1;
            shared.operations - 1
        };
        client.operate(operation).await;
        let pause = {
            let mut shared = company.shared.lock();
            let most = shared.settings.think_ms_max;
            shared.choices.upto(most)
        };
        sleep(Duration::from_millis(pause)).await;
    }
    company.shared.lock().idle += 1;
    while company.goes_on() && company.phase() < Phase::Reading {
        sleep(LOOK).await;
    }
    if number == 0 && company.goes_on() {
        client.connection = None;
        for name in 0..names {
            client.read_everything(name).await;
        }
        company.shared.lock().phase = Phase::Waiting;
    }
    client.connection = None;
    while company.goes_on() && company.phase() < Phase::Waiting {
        sleep(LOOK).await;
    }
}

struct Client {
    company: Company,
    who: String,
    /// Of each name.
    knowledge: Vec<Knowledge>,
    connection: Option<Connection>,
}

impl Client {
    /// The next thing, in as many attempts as it takes.
    async fn operate(&mut self, operation: u64) {
        let company = self.company.clone();
        company.absorb();
        let settings = company.shared.settings();
        let (name, next) = {
            let mut shared = company.shared.lock();
            let judge = company.judge.borrow();
            let name =
                usize::try_from(shared.choices.upto(settings.workload.names - 1)).unwrap_or(0);
            let scene = Scene {
                settings: &settings.workload,
                life: judge.life(name),
                has_ended: judge.has_ended(name, now()),
                knowledge: &self.knowledge[name],
                operation,
                now: now(),
            };
            (name, workload::next(&mut shared.choices, scene))
        };
        let (request, claim) = match next {
            Next::Send { request, claim, .. } => (Rc::new(request), claim),
            Next::Wait(pause) => {
                let pause = pause.min(3_000);
                company
                    .shared
                    .lock()
                    .note(&self.who, || format!("waits for {pause} ms"));
                return sleep(Duration::from_millis(pause)).await;
            }
        };
        if request.method == "GET" && request.parameter("live") == Some("sse") {
            return live::follow(&company, &self.who, name, request);
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
                Err(_) if !company.goes_on() => return,
                Err(_) => {
                    unknown_since.get_or_insert(begun);
                }
            }
            let pause = company.shared.lock().choices.upto(300);
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
        let mut shared = self.company.shared.lock();
        let duplicate = claim.is_some()
            && request.method == "POST"
            && response.status == 204
            && !request.body.is_empty();
        if duplicate {
            shared.hit(Mark::Duplicate);
            if unknown_since.is_some_and(|since| shared.crashed_at > since) {
                shared.hit(Mark::DuplicateAfterCrash);
            }
        }
    }

    /// One request, and its whole answer.
    async fn attempt(&mut self, name: usize, request: &Rc<Request>) -> Result<Response, Lost> {
        let company = self.company.clone();
        let attempt = company.sent(name, request);
        let (patience, twice) = {
            let mut shared = company.shared.lock();
            shared.note(&self.who, || {
                format!("a{attempt} {} on {}", request.line(), stream(name))
            });
            shared.under_way += 1;
            let waits = request.parameter("live").is_some();
            let patience = shared.settings.patience_ms
                + if waits {
                    shared.settings.workload.limits.long_poll_timeout_ms
                } else if shared.phase == Phase::Reading && shared.settings.workload.whole_reads {
                    // All pages of a stream come one after the other, each from a slow tier.
                    LIVENESS_MS
                } else {
                    0
                };
            (patience, shared.fault(Fault::Twice))
        };
        if twice {
            let copies = 1 + company.shared.lock().choices.upto(2);
            (0..copies).for_each(|_| self.send_copy(name, request));
        }
        let leaves = if request.parameter("live").is_some() {
            let mut shared = company.shared.lock();
            shared
                .fault(Fault::Leave)
                .then(|| shared.choices.magnitude(5_000))
        } else {
            None
        };
        let exchange = self.exchange(attempt, name, request);
        let limit = Duration::from_millis(leaves.unwrap_or(patience).min(patience));
        let done = timeout(limit, exchange).await;
        let mut shared = company.shared.lock();
        shared.under_way -= 1;
        company.judge.borrow_mut().over(attempt, now());
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

    /// The same request again, on a connection of its own, whose answer is judged, too.
    fn send_copy(&self, name: usize, request: &Rc<Request>) {
        let company = self.company.clone();
        let request = Rc::clone(request);
        let who = format!("{}'", self.who);
        tokio::task::spawn_local(async move {
            let attempt = company.sent(name, &request);
            company
                .shared
                .lock()
                .note(&who, || format!("a{attempt} is a copy"));
            let Ok(mut connection) = company.connect().await else {
                return;
            };
            company.shared.lock().changed(Fault::Twice);
            let response = async {
                let head = company
                    .send(&mut connection, attempt, name, &request)
                    .await?;
                whole(head).await
            };
            let patience = company.shared.settings().patience_ms;
            let patience = Duration::from_millis(patience);
            if let Ok(Ok(response)) = timeout(patience, response).await {
                company.answered(&who, attempt, &request, &response);
            }
            company.judge.borrow_mut().over(attempt, now());
        });
    }

    async fn exchange(
        &mut self,
        attempt: usize,
        name: usize,
        request: &Rc<Request>,
    ) -> Result<Response, Lost> {
        let company = self.company.clone();
        let cuts = {
            let mut shared = company.shared.lock();
            let writes = shared.fault(Fault::CutRequest);
            let writes = writes.then(|| shared.choices.upto(300 + request.body.len() as u64));
            let reads = shared.fault(Fault::CutResponse);
            let reads = reads.then(|| shared.choices.magnitude(1_500));
            (writes, reads)
        };
        let reused = {
            let mut shared = company.shared.lock();
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
            None => company.connect().await?,
        };
        connection.fate.writes_left.set(cuts.0);
        connection.fate.reads_left.set(cuts.1);
        let begun = now();
        let response = async {
            let head = company
                .send(&mut connection, attempt, name, request)
                .await?;
            self.whole(attempt, request, head).await
        };
        let response = response.await;
        let fate = &connection.fate;
        if fate.cut_writing.get() {
            let mut shared = company.shared.lock();
            company.judge.borrow_mut().cut(attempt);
            shared.hit(Mark::RequestCut);
            if fate.written.get() > 0 {
                shared.changed(Fault::CutRequest);
            }
        }
        if fate.cut_reading.get() {
            let mut shared = company.shared.lock();
            shared.hit(Mark::ResponseCut);
            if fate.read.get() > 0 {
                shared.changed(Fault::CutResponse);
            }
        }
        let response = match response {
            Ok(response) => response,
            // A connection that is kept may be closed by the server at any time between two
            // requests.
            Err(Lost(reason)) => {
                // An answer of several pages breaks off when its stream ends, or the turn for one
                // fails.
                let ended = company.shared.settings().workload.whole_reads
                    && (company.judge.borrow().has_turned_over(attempt)
                        || company.shared.lock().storage_failed_at >= begun);
                let some = connection.fate.read.get() > 0 && !was_kept && !ended;
                if some && !company.is_excused(&connection) && !self.company.shared.lock().ending {
                    company.shared.lock().fail(
                        Oracle::Wire,
                        "a whole answer, where nothing has cut it".to_owned(),
                        format!("a{attempt}: {reason}"),
                    );
                }
                return Err(Lost(reason));
            }
        };
        company.answered(&self.who, attempt, request, &response);
        self.note_poll(&connection, attempt, request, &response, begun);
        let closes = response
            .header("Connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if cuts == (None, None) && !closes {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// What a long-poll's answer says of wakes.
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
        let excused = self.company.is_excused(connection);
        let judge = self.company.judge.borrow();
        let outdated = judge.outdated_at(attempt, response);
        let has_turned_over = judge.has_turned_over(attempt);
        let mut shared = self.company.shared.lock();
        let least = shared.settings.workload.limits.long_poll_timeout_ms;
        let slack =
            OUTDATED_MS + shared.settings.latency_ms_max * 4 + shared.settings.work_ms_max * 4;
        match response.status {
            204 if response.is_true("Stream-Closed") && waited > 100 => {
                shared.hit(Mark::LongPollClosed)
            }
            204 if response.is_true("Stream-Closed") => {}
            204 => {
                shared.hit(Mark::LongPollTimeout);
                if waited + 10 < least && !excused && !shared.ending && !has_turned_over {
                    shared.fail(
                        Oracle::LongPoll,
                        format!("a wait of {least} ms"),
                        format!("a{attempt}: {waited} ms"),
                    );
                }
                // A stream that disconnects its readers makes them reconnect, which takes a while.
                let reconnect = shared.settings.workload.limits.reconnect_base_ms * 4;
                let late = outdated.is_some_and(|at| at + slack + reconnect < now());
                if late && !excused {
                    shared.fail(
                        Oracle::NoLostWake,
                        format!("to be told what was durable since {outdated:?}"),
                        format!("a{attempt}: {}", response.line()),
                    );
                }
            }
            200 if waited > 150 => shared.hit(Mark::LongPollWoken),
            404 if waited > 150 => shared.hit(Mark::LongPollGone),
            _ => {}
        }
    }

    /// The rest of an answer, as fast as its client reads. When it breaks off, what came must be
    /// the beginning of what the head promised.
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
                        self.company.broke_off(&self.who, attempt, &response);
                    }
                    return Err(Lost(format!("half an answer: {error}")));
                }
            }
        }
        response.body = bytes.freeze();
        Ok(response)
    }

    /// A last look at a name: everything that was acknowledged is there, as the model has it.
    async fn read_everything(&mut self, name: usize) {
        let company = self.company.clone();
        let mut offset = "-1".to_owned();
        let since = now();
        while company.goes_on() {
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
                    company.shared.lock().fail(
                        Oracle::Liveness,
                        format!("to read {} after the heal", stream(name)),
                        format!("{answer:?}"),
                    );
                    return;
                }
                Ok(_) | Err(_) => sleep(LOOK).await,
            }
        }
    }
}

/// A body to be sent, of known length or not.
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

/// Status and headers of an answer.
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

/// The name of a header as the protocol spells it.
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

/// An answer with its body, which must come to its end.
pub(crate) async fn whole(head: hyper::Response<Incoming>) -> Result<Response, Lost> {
    let mut response = head_of(&head);
    let body = head.into_body().collect().await;
    let body = body.map_err(|error| Lost(format!("half an answer: {error}")))?;
    response.body = body.to_bytes();
    Ok(response)
}

/// Which tiers something was read from is worth a mark, too.
fn note_parts(shared: &mut Inner, parts: Parts, live: bool) {
    let Parts {
        cold,
        hot,
        from_middle,
    } = parts;
    let marks = [
        (cold > 0, Mark::RowsDropped),
        (cold > 0 && live, Mark::EventsCold),
        (cold > 0 && hot > 0, Mark::PageColdAndHot),
        (cold + hot > 1, Mark::PageStitched),
        (from_middle, Mark::PageFromMiddle),
    ];
    let hit = marks.into_iter().filter(|(hit, _)| *hit);
    hit.for_each(|(_, mark)| shared.hit(mark));
}

/// What an answer is worth a mark for.
fn note_answer(shared: &mut Inner, request: &Request, response: &Response) {
    match (request.method, response.status) {
        (_, 304) => shared.hit(Mark::NotModified),
        (_, 400) => shared.hit(Mark::BadRequest),
        (_, 413) => shared.hit(Mark::TooLarge),
        (_, 503) => shared.hit(Mark::Unavailable),
        ("POST", 403) => shared.hit(Mark::EpochFenced),
        ("GET", 200)
            if response.header("Stream-Next-Offset").is_some()
                && !response.is_true("Stream-Up-To-Date") =>
        {
            shared.hit(Mark::PageCut);
        }
        _ => {}
    }
}
