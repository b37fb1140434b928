//! Readers of event streams. Each is a task of its client's host, which resumes when its connection
//! breaks off.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use sim::oracles::Oracle;
use sim::request::{Request, Response};
use tokio::time::{sleep, timeout};

use crate::client::{ClientContext, Connection, Lost, head_of, whole};
use crate::coverage::{Fault, Situation};
use crate::judge::{Progress, Reading, stream};
use crate::settings::{TIER_STEPS, WORK_STEPS};
use crate::shared::{Phase, now};

/// How often a waiting reader looks again.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time for the network, and for the server to notice.
const SLACK_MS: u64 = 2_000;
/// Time for the server to send what it has, without a fault.
const TOLD_MS: u64 = 1_000;
/// Connection attempts of one reader while faults happen.
const ATTEMPTS_MAX: u64 = 8;
/// Time for the head of an answer.
const HEAD: Duration = Duration::from_secs(15);

/// The state of a reader, for tasks that wait for it.
pub(crate) struct Follow {
    pub(crate) number: usize,
    pub(crate) name: usize,
    pub(crate) over: Rc<RefCell<bool>>,
    pub(crate) readings: Rc<RefCell<Vec<Reading>>>,
}

/// Begins to follow a stream.
pub(crate) fn follow(context: &ClientContext, who: &str, name: usize, request: Rc<Request>) {
    let mut follows = context.follows.borrow_mut();
    let number = follows.len();
    let follow = Follow {
        number,
        name,
        over: Rc::default(),
        readings: Rc::default(),
    };
    let mut reader = Reader {
        context: context.clone(),
        who: format!("reader {number}"),
        name,
        request,
        readings: Rc::clone(&follow.readings),
        attempts: 0,
        cut_within: None,
        finished: false,
    };
    context.shared.lock().note(who, || {
        format!("follows {} as reader {number}", stream(name))
    });
    let over = Rc::clone(&follow.over);
    follows.push(follow);
    drop(follows);
    tokio::task::spawn_local(async move {
        reader.run().await;
        reader.note("is done");
        over.replace(true);
    });
}

struct Reader {
    context: ClientContext,
    who: String,
    name: usize,
    /// The request of the next connection attempt.
    request: Rc<Request>,
    readings: Rc<RefCell<Vec<Reading>>>,
    attempts: u64,
    /// Whether the last connection broke off, and whether that was within an event.
    cut_within: Option<bool>,
    finished: bool,
}

/// How a connection ended.
enum End {
    /// The response was complete.
    Whole,
    Broken(String),
    /// Nothing came for too long.
    Silent,
    Left,
    /// The run has ended or failed.
    Over,
}

impl Reader {
    fn note(&self, what: &str) {
        self.context
            .shared
            .lock()
            .note(&self.who, || what.to_owned());
    }

    fn goes_on(&self) -> bool {
        let shared = self.context.shared.lock();
        shared.goes_on()
            && shared.phase < Phase::Reading
            && (self.attempts < ATTEMPTS_MAX || shared.phase > Phase::Busy)
    }

    async fn run(&mut self) {
        while self.goes_on() && !self.finished {
            self.attempts += 1;
            self.context.shared.lock().under_way += 1;
            let connected = self.connect().await;
            self.context.shared.lock().under_way -= 1;
            if let Err(Lost(reason)) = connected {
                self.note(&format!("is cut off: {reason}"));
            }
            let pause = self.context.shared.lock().choices.upto(300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn connect(&mut self) -> Result<(), Lost> {
        let context = self.context.clone();
        let request = Rc::clone(&self.request);
        let attempt = context.sent(self.name, &request);
        let began = now();
        let boot = context.shared.lock().boot;
        self.note(&format!("a{attempt} {}", request.line()));
        let mut connection = context.connect().await.inspect_err(|_| {
            context.judge.borrow_mut().over(attempt, now());
        })?;
        let (cut, leaves, slow) = {
            let mut shared = context.shared.lock();
            let cut = shared.fault(Fault::CutResponse) || shared.fault(Fault::CutResponse);
            let cut = cut.then(|| 300 + shared.choices.upto(600));
            let leaves = shared.fault(Fault::Leave);
            let leaves = leaves.then(|| shared.choices.magnitude(8_000));
            (cut, leaves, shared.fault(Fault::SlowReader))
        };
        connection.fault.reads_left.set(cut);
        let head = timeout(
            HEAD,
            context.send(&mut connection, attempt, self.name, &request),
        )
        .await;
        let head = match head {
            Ok(Ok(head)) => head,
            Ok(Err(lost)) => {
                context.judge.borrow_mut().over(attempt, now());
                return Err(lost);
            }
            Err(_) => {
                context.judge.borrow_mut().over(attempt, now());
                return Err(Lost("no answer in time".to_owned()));
            }
        };
        let response = head_of(&head);
        if response.status != 200 {
            let response = timeout(HEAD, whole(head)).await;
            let response = response.map_err(|_| Lost("half an answer in time".to_owned()))??;
            context.answered(&self.who, attempt, &request, &response);
            self.refused(&response);
            return Ok(());
        }
        self.note(&format!("a{attempt} ← {}", response.line()));
        context.absorb();
        let readings = context.judge.borrow_mut().follows(attempt, &response);
        match readings {
            Ok(readings) => self.readings.replace(readings),
            Err(mismatch) => {
                context.shared.lock().check(Oracle::Events, Err(mismatch));
                return Ok(());
            }
        };
        if response.header("Stream-SSE-Data-Encoding").is_some() {
            context.shared.lock().cover(Situation::EventsBase64);
        }
        context.judge.borrow_mut().readers[self.name] += 1;
        let end = self
            .read(attempt, head.into_body(), &connection, leaves, slow)
            .await;
        context.absorb();
        context.judge.borrow_mut().readers[self.name] -= 1;
        context.judge.borrow_mut().over(attempt, now());
        self.ended(attempt, end, &connection, began, boot, slow);
        Ok(())
    }

    /// Handles an answer that is not an event stream.
    fn refused(&mut self, response: &Response) {
        let shared = self.context.shared.lock();
        let bounds = &shared.settings.bounds;
        let tight = bounds.readers_max == 1 || bounds.connections_max <= 2 || bounds.queue_max == 1;
        self.finished = response.status < 500 || (tight && shared.phase > Phase::Busy);
    }

    /// Reads events up to the end of the response, or until nothing comes.
    async fn read(
        &mut self,
        attempt: usize,
        mut body: Incoming,
        connection: &Connection,
        leaves: Option<u64>,
        slow: bool,
    ) -> End {
        let context = self.context.clone();
        let settings = context.shared.settings();
        let silence =
            settings.workload.limits.sse_heartbeat_ms * 2 + SLACK_MS + settings.latency_ms_max * 2;
        let began = now();
        let mut heard = began;
        let mut progress_at = began;
        let mut last = [0; 2];
        loop {
            if !context.shared.lock().goes_on() || context.phase() >= Phase::Reading {
                return End::Over;
            }
            let busy = context.phase() == Phase::Busy;
            if let Some(after) = leaves
                && busy
                && now() >= began + after
            {
                return End::Left;
            }
            if slow && busy {
                let pause = context.shared.lock().choices.magnitude(3_000);
                if pause > 100 {
                    let mut shared = context.shared.lock();
                    shared.changed(Fault::SlowReader);
                    shared.cover(Situation::EventsSlow);
                }
                sleep(Duration::from_millis(pause)).await;
                heard = heard.max(now());
            }
            let frame = match timeout(POLL_INTERVAL, body.frame()).await {
                Ok(None) => return End::Whole,
                Ok(Some(Err(error))) => {
                    self.cut_within = Some(last != *b"\n\n" && last != [0; 2]);
                    return End::Broken(error.to_string());
                }
                Ok(Some(Ok(frame))) => frame,
                Err(_) if now() > heard + silence => return End::Silent,
                Err(_) => {
                    if !slow && !context.is_excused(connection) {
                        self.check_progress(attempt, progress_at);
                    }
                    continue;
                }
            };
            heard = now();
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            for byte in &bytes {
                last = [last[1], *byte];
            }
            context.absorb();
            let progress = {
                let mut readings = self.readings.borrow_mut();
                context
                    .judge
                    .borrow_mut()
                    .read(attempt, &mut readings, &bytes)
            };
            let mut shared = context.shared.lock();
            shared.note(&self.who, || sim::request::excerpt(&bytes));
            match progress {
                Ok(progress) => {
                    if progress.data {
                        progress_at = heard;
                    }
                    note_progress(&mut shared, &bytes, progress, self.cut_within.take());
                }
                Err(mismatch) => shared.check(Oracle::Events, Err(mismatch)),
            }
        }
    }

    /// Judges that a reader at the tail has what has been durable for a while.
    fn check_progress(&self, attempt: usize, progress_at: u64) {
        self.context.absorb();
        let behind = self
            .context
            .judge
            .borrow()
            .behind_since(attempt, &self.readings.borrow());
        let Some(since) = behind else { return };
        let mut shared = self.context.shared.lock();
        let settings = Arc::clone(&shared.settings);
        let limits = &settings.workload.limits;
        let work = if settings.chance(Fault::WorkDelayed) > 0 {
            settings.work_ms_max * WORK_STEPS
        } else {
            0
        };
        let tier = if limits.cold {
            settings.tier_ms * TIER_STEPS
        } else {
            0
        };
        let slack =
            TOLD_MS + settings.latency_ms_max * 4 + work + tier + limits.reconnect_base_ms * 4;
        let since = since.max(progress_at);
        // The server retries a failed read after pauses that grow.
        let excused =
            shared.ending || shared.storage_failed_at > since || settings.bounds.queue_max == 1;
        if since + slack < now() && !excused {
            let expected = format!("to get what was durable since {since}");
            let actual = format!("reader's a{attempt}: nothing in {} ms", now() - since);
            shared.fail(Oracle::NoLostWake, expected, actual);
        }
    }

    /// Judges whether the end of a response was allowed, and prepares the next request.
    fn ended(
        &mut self,
        attempt: usize,
        end: End,
        connection: &Connection,
        began: u64,
        boot: u64,
        slow: bool,
    ) {
        let context = self.context.clone();
        let excused = context.is_excused(connection) || slow;
        let readings = self.readings.borrow();
        let judge = context.judge.borrow();
        let position = judge.position(attempt, &readings);
        let gone = judge.is_gone(attempt, &readings);
        self.finished = position.as_ref().is_some_and(|(_, _, finished)| *finished);
        let mut shared = context.shared.lock();
        let limits = &shared.settings.workload.limits;
        let aged = now() >= began + limits.sse_max_age_ms;
        let server_ended = shared.boot != boot || shared.ending;
        let silence = limits.sse_heartbeat_ms * 2;
        match end {
            End::Whole if self.finished => shared.cover(Situation::EventsClosed),
            End::Whole if gone => shared.cover(Situation::EventsGone),
            End::Whole if aged => shared.cover(Situation::EventsAged),
            End::Whole if server_ended => shared.cover(Situation::EndedUnderReader),
            End::Whole => shared.fail(
                Oracle::Events,
                "an event stream that goes on".to_owned(),
                format!("reader's a{attempt} ended after {} ms", now() - began),
            ),
            End::Broken(reason) => {
                if connection.fault.cut_reading.get() {
                    shared.cover(Situation::ResponseCut);
                    shared.changed(Fault::CutResponse);
                }
                if shared.boot != boot || shared.dead {
                    shared.cover(Situation::CrashMidBody);
                }
                if !excused && !server_ended {
                    shared.fail(
                        Oracle::Wire,
                        "a whole response, where nothing has cut it".to_owned(),
                        format!("reader's a{attempt}: {reason}"),
                    );
                }
            }
            End::Silent => {
                shared.cover(Situation::EventsSilent);
                if !excused && !server_ended {
                    shared.fail(
                        Oracle::Events,
                        format!("something every {silence} ms"),
                        format!("reader's a{attempt}: silence"),
                    );
                }
            }
            End::Left => {
                shared.changed(Fault::Leave);
                self.finished = true;
            }
            End::Over => {}
        }
        if let Some((offset, cursor, _)) = position {
            let mut next = Request::new("GET");
            next.query.push(("offset", offset));
            next.query.push(("live", "sse".to_owned()));
            if let Some(cursor) = cursor {
                next.query.push(("cursor", cursor.to_string()));
            }
            self.request = Rc::new(next);
        }
    }
}

fn note_progress(
    shared: &mut crate::shared::Inner,
    bytes: &[u8],
    progress: Progress,
    cut_within: Option<bool>,
) {
    if bytes.starts_with(b":") {
        shared.cover(Situation::Heartbeat);
    }
    if progress.data {
        shared.cover(if progress.pushed {
            Situation::Events
        } else {
            Situation::EventsPaged
        });
    }
    if let Some(within) = cut_within {
        shared.cover(Situation::EventsResumed);
        if within {
            shared.cover(Situation::EventsResumedWithin);
        }
    }
}
