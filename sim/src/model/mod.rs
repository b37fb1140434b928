//! The reference model: what the protocol allows, written as plainly as possible. It shares no code
//! with the machine.
//!
//! [`Model::answered`] takes requests in the order in which the object took them, and judges each
//! answer.

mod append;
mod cache_control;
mod conditions;
mod content;
mod create;
mod faults;
mod fork;
mod read;
mod state;

use std::collections::BTreeSet;
use std::rc::Rc;

pub use content::Content;
use faults::faults;
pub use faults::time;
pub use fork::{
    FORK_OFFSET, FORK_SUB_OFFSET, FORKED_FROM, ForkOf, Forking, Inheritance, ROOT, source_of,
};
pub use state::{Created, Incarnation, State};

use crate::request::{Request, Response};
use crate::segments::{Segments, Token, token};

/// The difference between what the reference allows and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub expected: String,
    pub actual: String,
}

/// What the world saw of a turn.
#[derive(Clone, Copy, Debug)]
pub struct TurnFacts {
    /// The instance's clock.
    pub now: u64,
    /// Readers at the tail of the stream before the turn.
    pub attached: u64,
    /// Whether the turn removed the stream's rows, or hid the stream.
    pub dropped: bool,
    /// Whether the stream was hidden, because forks still need it.
    pub hidden: bool,
    /// Whether the caller was kept as a reader at the tail.
    pub kept: bool,
    /// The end of an SSE page.
    pub page_end: Option<Token>,
    /// Whether the answer has more pages.
    pub has_rest: bool,
    /// The number and the length of the segment that the turn sealed.
    pub sealed: Option<(u64, u64)>,
}

impl TurnFacts {
    /// Returns the facts of a turn that changed nothing, with one reader at the tail.
    #[must_use]
    pub const fn of_read(now: u64, has_rest: bool) -> Self {
        Self {
            now,
            attached: 1,
            dropped: false,
            hidden: false,
            kept: false,
            page_end: None,
            has_rest,
            sealed: None,
        }
    }
}

/// The bounds that the server was configured with.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub body_bytes: u64,
    pub page_bytes: u64,
    /// The appends of one turn can be as long together as this. A page does not end between them.
    pub folded_bytes: u64,
    /// The distance in framed bytes of the positions where a page may end.
    ///
    /// A segment has at most `page_ends_max` such ends.
    pub page_step: u64,
    pub page_ends_max: u64,
    /// Whether a plain read is answered with all pages up to the tail.
    pub whole_reads: bool,
    /// A new instance may be late by this fraction of a TTL.
    pub slack_divisor: u64,
    /// The greatest difference between the clocks of two instances.
    pub skew_ms: u64,
    pub cursor_epoch_ms: u64,
    pub cursor_interval_ms: u64,
    /// How long caches may keep a page before the tail, and use it while they ask for another.
    pub page_max_age_s: u64,
    pub page_stale_s: u64,
    /// How long caches may keep the content that a long-poll returns.
    pub long_poll_max_age_s: u64,
    /// Whether the model judges the `Cache-Control` of answers. In a world with caches it leaves
    /// that to them: a header that permits too much must show in what they serve.
    pub judges_cache_control: bool,
}

impl Bounds {
    /// Returns how many bytes a page may have before its last append.
    ///
    /// A page may also be as long as the distance between two possible ends, which grows with the
    /// segment.
    fn page_limit(&self, framed: u64) -> u64 {
        let steps = framed
            .div_ceil(self.page_step)
            .div_ceil(self.page_ends_max.max(1));
        self.page_bytes.max(1).max(self.page_step * steps)
    }
}

/// The reference model of one name.
#[derive(Debug)]
pub struct Model {
    pub state: State,
    pub bounds: Bounds,
    /// What is known of the source of the fork that is to be created.
    pub forking: Forking,
    incarnations: u64,
    /// The last known content and segments of each incarnation.
    archive: Vec<(Rc<Content>, Rc<Segments>)>,
    /// Idle producers that were forgotten, each with its incarnation.
    forgotten: BTreeSet<(u64, String)>,
}

type Verdict = Result<(), Mismatch>;

impl Model {
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let none = Rc::new(Content::Messages(Vec::new()));
        Self {
            state: State::default(),
            bounds,
            forking: Forking::default(),
            incarnations: 0,
            archive: vec![(none, Rc::default())],
            forgotten: BTreeSet::new(),
        }
    }

    /// Returns the content of a present or past incarnation.
    #[must_use]
    pub fn content(&self, incarnation: u64) -> &Content {
        &self.archive[usize::try_from(incarnation).unwrap_or(0)].0
    }

    /// Returns the segments of a present or past incarnation.
    #[must_use]
    pub fn segments(&self, incarnation: u64) -> &Segments {
        &self.archive[usize::try_from(incarnation).unwrap_or(0)].1
    }

    /// Begins again from `state`, because an instance has ended.
    pub fn restart(&mut self, state: State) {
        self.state = state;
        if let Some(incarnation) = &mut self.state.incarnation {
            incarnation.forgot = true;
        }
        self.note();
    }

    /// Judges an answer that was given in an earlier state, without changing this model.
    ///
    /// # Errors
    /// When the answer was not allowed in that state.
    pub fn answered_in(
        &mut self,
        then: State,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let present = core::mem::replace(&mut self.state, then);
        let archive = self.archive.clone();
        let verdict = self.answered(request, response, facts);
        self.archive = archive;
        self.state = present;
        verdict
    }

    /// Returns the state that follows when a request was answered in an earlier state. Does not
    /// change this model.
    ///
    /// # Errors
    /// When the answer was not allowed in that state.
    pub fn after(
        &mut self,
        then: State,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Result<State, Mismatch> {
        let present = core::mem::replace(&mut self.state, then);
        let archive = self.archive.clone();
        let incarnations = core::mem::replace(&mut self.incarnations, self.state.last_incarnation);
        let verdict = self.answered(request, response, facts);
        self.incarnations = incarnations;
        self.archive = archive;
        let after = core::mem::replace(&mut self.state, present);
        verdict.map(|()| after)
    }

    /// Notes that a read used the present incarnation between these two times.
    pub fn read_between(&mut self, incarnation: u64, asked_at: u64, answered_at: u64) {
        if let Some(it) = self
            .state
            .incarnation
            .as_mut()
            .filter(|it| it.id == incarnation)
        {
            it.used = (it.used.0.max(asked_at), it.used.1.max(answered_at));
        }
    }

    /// Returns how many incarnations have begun.
    #[must_use]
    pub const fn incarnations(&self) -> u64 {
        self.incarnations
    }

    /// Judges a refusal that did not need the stream.
    ///
    /// # Errors
    /// When the request has no such fault.
    pub fn refused(&self, request: &Request, response: &Response) -> Verdict {
        let faults = faults(request, &self.bounds);
        ensure(
            faults.contains(&response.status),
            || format!("an answer of {faults:?}"),
            response,
        )
    }

    /// Judges the turn of an alarm.
    ///
    /// # Errors
    /// When the stream ended too early, or should have.
    pub fn alarm(&mut self, facts: &TurnFacts) -> Verdict {
        self.settle_expiry(facts, false)?;
        self.turned(facts)
    }

    /// Judges a turn that no request has caused. It may seal the open segment and change nothing
    /// else.
    ///
    /// # Errors
    /// When it seals a segment anywhere but at the tail.
    pub fn turned(&mut self, facts: &TurnFacts) -> Verdict {
        self.seal(facts)?;
        self.note();
        Ok(())
    }

    /// Fixes the end of the open segment at the tail if the turn has sealed it. The end never
    /// changes after that.
    fn seal(&mut self, facts: &TurnFacts) -> Verdict {
        let Some((number, units)) = facts.sealed else {
            return Ok(());
        };
        let incarnation = self.state.incarnation.as_mut();
        let (next, length) = incarnation.as_ref().map_or((None, 0), |incarnation| {
            let start = incarnation.segments.start(number).unwrap_or(0);
            (
                Some(incarnation.segments.sealed()),
                incarnation.content.len() - start,
            )
        });
        let Some(incarnation) =
            incarnation.filter(|_| next == Some(number) && units == length && units > 0)
        else {
            return Err(Mismatch {
                expected: format!("the segment {next:?} to be sealed at {length}"),
                actual: format!("{number} at {units}"),
            });
        };
        let end = incarnation.content.len();
        Rc::make_mut(&mut incarnation.segments).seal(end);
        Ok(())
    }

    /// Removes the producers that a seal has forgotten, because they were idle for `idle_ms`
    /// (protocol 5.2.1). Returns how many were forgotten, and how many idle ones are left.
    pub fn forget(
        &mut self,
        now: u64,
        idle_ms: u64,
        is_known: impl Fn(&str) -> bool,
    ) -> (u64, Result<u64, Mismatch>) {
        let Some(incarnation) = self
            .state
            .incarnation
            .as_mut()
            .filter(|incarnation| !incarnation.closed)
        else {
            return (0, Ok(0));
        };
        let (mut forgotten, mut left) = (0, 0);
        for producer in incarnation.producers.keys().cloned().collect::<Vec<_>>() {
            let used_at = incarnation.produced_at.get(&producer).copied().unwrap_or(0);
            let is_idle = used_at.saturating_add(idle_ms) <= now;
            if is_known(&producer) {
                left += u64::from(is_idle);
                continue;
            }
            if !is_idle {
                let mismatch = Mismatch {
                    expected: format!(
                        "{producer}, which appended at {used_at}, to be known at {now}"
                    ),
                    actual: "it was forgotten".to_owned(),
                };
                return (forgotten, Err(mismatch));
            }
            forgotten += 1;
            Rc::make_mut(&mut incarnation.producers).remove(&producer);
            self.forgotten.insert((incarnation.id, producer));
        }
        (forgotten, Ok(left))
    }

    /// Returns whether a producer was ever forgotten. If so, its repeated appends may be stored
    /// again.
    #[must_use]
    pub fn has_forgotten(&self, incarnation: u64, producer: &str) -> bool {
        self.forgotten.contains(&(incarnation, producer.to_owned()))
    }

    /// Notes that one of `attached` readers at the tail has left. It has used the stream until now.
    pub fn gone(&mut self, now: u64, attached: u64) {
        if let Some(incarnation) = self.state.incarnation.as_mut().filter(|_| attached > 0) {
            incarnation.use_at(now);
        }
    }

    /// Judges the answer to a request, and applies what the request has changed.
    ///
    /// # Errors
    /// When the answer is not allowed.
    pub fn answered(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let deletes = request.method == "DELETE" && response.status == 204;
        self.settle_expiry(facts, deletes)?;
        self.bounds.keeps_in_caches(request, response)?;
        let faults = faults(request, &self.bounds);
        if !faults.is_empty() {
            return ensure(
                faults.contains(&response.status),
                || format!("an answer of {faults:?}"),
                response,
            );
        }
        let done = match (request.method, self.state.incarnation.is_some()) {
            ("PUT", false) if self.state.hidden.is_some() => ensure(
                response.status == 409,
                || "409: forks need the stream that was here".to_owned(),
                response,
            ),
            ("PUT", false) => self.created(request, response, facts),
            (_, false) if self.state.hidden.is_some() => ensure(
                response.status == 410,
                || "410: forks need the stream that was here".to_owned(),
                response,
            ),
            (_, false) => ensure(
                response.status == 404,
                || "404: there is no stream".to_owned(),
                response,
            ),
            ("PUT", true) => self.confirmed(request, response, facts),
            ("POST", true) => self.appended(request, response, facts),
            ("DELETE", true) if response.status == 412 => self.failed(request, response),
            ("DELETE", true) => {
                self.meets(request, response)?;
                ensure(
                    deletes && facts.dropped,
                    || "204, and nothing left".to_owned(),
                    response,
                )?;
                self.end(facts);
                Ok(())
            }
            ("HEAD", true) => self.described(response),
            _ => self.read(request, response, facts),
        };
        self.note();
        done?;
        self.name(response)
    }

    /// Judges whether the stream has expired in this turn.
    fn settle_expiry(&mut self, facts: &TurnFacts, deletes: bool) -> Verdict {
        let Some(incarnation) = &mut self.state.incarnation else {
            return Ok(());
        };
        let ends = incarnation.ends(&self.bounds);
        let (least, most) = ends.unwrap_or((u64::MAX, u64::MAX));
        let mismatch = |expected: &str| Mismatch {
            expected: expected.to_owned(),
            actual: format!(
                "now {}, ends {ends:?}, {} attached",
                facts.now, facts.attached
            ),
        };
        let watched = facts.attached > 0 && incarnation.ttl.is_some_and(|ttl| ttl > 0);
        if facts.dropped && !deletes {
            if facts.now < least {
                return Err(mismatch("the stream lives on"));
            }
            if watched {
                return Err(mismatch("a stream with readers at its tail lives on"));
            }
            self.end(facts);
        } else if watched {
            if facts.now >= least {
                incarnation.maybe_used_at(facts.now);
            }
        } else if facts.now >= most && !deletes {
            return Err(mismatch("the stream has expired"));
        }
        Ok(())
    }

    /// Ends the present incarnation. It stays hidden if forks need it.
    fn end(&mut self, facts: &TurnFacts) {
        let ended = self.state.incarnation.take();
        self.state.hidden = ended.filter(|_| facts.hidden).map(Rc::new);
    }

    /// Judges whether an answer names the tail, and whether the stream is closed.
    fn at_tail(&self, response: &Response) -> Verdict {
        let Some(incarnation) = &self.state.incarnation else {
            return Ok(());
        };
        let next = response.header("Stream-Next-Offset").and_then(token);
        let next = next.and_then(|token| incarnation.segments.position_sent(token));
        let tail = incarnation.content.len();
        ensure(
            next == Some(tail),
            || format!("Stream-Next-Offset: {tail}"),
            response,
        )?;
        let closed = incarnation.closed;
        ensure(
            response.is_true("Stream-Closed") == closed,
            || format!("Stream-Closed: {closed}"),
            response,
        )
    }

    /// Judges whether an answer names the content type.
    fn names_type(&self, response: &Response) -> Verdict {
        let Some(incarnation) = &self.state.incarnation else {
            return Ok(());
        };
        let content_type = response.header("Content-Type");
        ensure(
            content_type == Some(&incarnation.content_type),
            || format!("Content-Type: {}", incarnation.content_type),
            response,
        )
    }

    /// Archives the present content and segments.
    fn note(&mut self) {
        if let Some(incarnation) = &self.state.incarnation {
            let archived = &mut self.archive[usize::try_from(incarnation.id).unwrap_or(0)];
            if !Rc::ptr_eq(&archived.0, &incarnation.content) {
                archived.0 = Rc::clone(&incarnation.content);
            }
            if !Rc::ptr_eq(&archived.1, &incarnation.segments) {
                archived.1 = Rc::clone(&incarnation.segments);
            }
        }
    }
}

fn ensure(holds: bool, expected: impl FnOnce() -> String, response: &Response) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Mismatch {
            expected: expected(),
            actual: response.line(),
        })
    }
}
