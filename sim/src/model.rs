//! What the protocol says a stream is: a reference that shares no code with the machine, and is as
//! plain as can be. It takes the requests in the order in which the object took them, and says
//! whether an answer is one that is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::request::{Request, Response};
use crate::segments::{Segments, Tag, Token, spell, tag, token};

/// What the server adds to an append when it stores it.
const FRAME_BYTES: usize = 4;

const SAFE_INTEGER_MAX: u64 = 9_007_199_254_740_991;

/// What a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Messages(Vec<Bytes>),
    Run {
        text: bool,
        bytes: Vec<u8>,
        /// Where each append ends.
        ends: Vec<u64>,
    },
}

impl Content {
    /// Messages or bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Messages(messages) => messages.len() as u64,
            Self::Run { bytes, .. } => bytes.len() as u64,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where an answer begins that is asked for from a position: no append is cut.
    #[must_use]
    pub fn begin(&self, position: u64) -> u64 {
        match self {
            Self::Messages(_) => position,
            Self::Run { ends, .. } => {
                let before = ends.partition_point(|end| *end <= position);
                before.checked_sub(1).map_or(0, |before| ends[before])
            }
        }
    }

    /// Whether an answer may end at a position.
    #[must_use]
    pub fn is_end(&self, position: u64) -> bool {
        position == 0 || position <= self.len() && self.begin(position) == position
    }

    /// The text that an event stream shows of what lies between two places, with each line ending a
    /// line feed: a character is shown with its last byte, and what can never become one as soon as
    /// that is known. `None` when this is no text, or the range not within it.
    #[must_use]
    pub fn text(&self, from: u64, to: u64, closed: bool) -> Option<String> {
        let Self::Run {
            text: true, bytes, ..
        } = self
        else {
            return None;
        };
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        // Not in the middle of anything, and far enough before it.
        let mut base = from.saturating_sub(8);
        while base + 4 < from && matches!(bytes[base], 0x80..0xc0 | b'\n') {
            base += 1;
        }
        let seen = |to: usize, closed: bool| {
            let bytes = bytes.get(base..to)?;
            let mut seen = String::new();
            let mut chunks = bytes.utf8_chunks().peekable();
            while let Some(chunk) = chunks.next() {
                seen.push_str(chunk.valid());
                let invalid = chunk.invalid();
                let unfinished =
                    core::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
                let waits = unfinished && !closed && chunks.peek().is_none();
                if !invalid.is_empty() && !waits {
                    seen.push('\u{fffd}');
                }
            }
            Some(seen.replace("\r\n", "\n").replace('\r', "\n"))
        };
        let before = seen(from, false)?;
        Some(seen(to, closed)?.strip_prefix(&before)?.to_owned())
    }

    /// The body of a page; `None` when the range is not within the content.
    #[must_use]
    pub fn page(&self, from: u64, to: u64) -> Option<Vec<u8>> {
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        match self {
            Self::Messages(messages) => {
                let mut page = b"[".to_vec();
                page.extend(messages.get(from..to)?.join(&b","[..]));
                page.push(b']');
                Some(page)
            }
            Self::Run { bytes, .. } => bytes.get(from..to).map(<[u8]>::to_vec),
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub expected: String,
    pub actual: String,
}

/// What the world saw of the turn that answered.
#[derive(Clone, Copy, Debug)]
pub struct TurnFacts {
    /// The instance's clock.
    pub now: u64,
    /// Readers at the tail of the stream before the turn.
    pub attached: u64,
    /// Whether the turn removed the stream's rows.
    pub dropped: bool,
    /// Whether the caller was kept as a reader at the tail.
    pub kept: bool,
    /// The end of an SSE page.
    pub page_end: Option<Token>,
    /// Whether the answer is only the beginning of one.
    pub has_rest: bool,
    /// The number and the length of the segment that the turn sealed.
    pub sealed: Option<(u64, u64)>,
}

/// The bounds that the server was configured with.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub body_bytes: u64,
    pub page_bytes: u64,
    /// Distance of the places where a page may end, in framed bytes, and how many such places a
    /// segment has at most.
    pub page_step: u64,
    pub page_ends_max: u64,
    /// Whether a plain read is answered with all pages up to the tail.
    pub whole_reads: bool,
    /// Of a TTL, the part by which a new instance may be late.
    pub slack_divisor: u64,
    /// Most that the clocks of two instances differ.
    pub skew_ms: u64,
    pub cursor_epoch_ms: u64,
    pub cursor_interval_ms: u64,
}

impl Bounds {
    /// Bytes of a page but its last append: what a page may have, or the distance of the places
    /// where it may end, which is longer in a long segment.
    fn page_limit(&self, framed: u64) -> u64 {
        let steps = framed
            .div_ceil(self.page_step)
            .div_ceil(self.page_ends_max.max(1));
        self.page_bytes.max(1).max(self.page_step * steps)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    id: String,
    epoch: u64,
    seq: u64,
}

/// A stream between its creation and its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// Counts the creations of this name.
    pub id: u64,
    pub content_type: String,
    ttl: Option<u64>,
    expires: Option<(u64, String)>,
    /// The last use that surely counts, and the last that may.
    used: (u64, u64),
    /// Whether an instance has been lost since the last use.
    forgot: bool,
    pub closed: bool,
    closed_by: Option<Claim>,
    pub content: Rc<Content>,
    pub segments: Rc<Segments>,
    producers: Rc<BTreeMap<String, (u64, u64)>>,
    /// What its entity tags name it by, once one of them was seen.
    named: Option<String>,
    /// When each producer appended last.
    produced_at: Rc<BTreeMap<String, u64>>,
    stream_seq: Option<String>,
}

impl Life {
    /// From when on it may be gone, and from when on it must be.
    #[must_use]
    pub fn ends(&self, bounds: &Bounds) -> Option<(u64, u64)> {
        if let Some((at, _)) = &self.expires {
            return Some((*at, *at));
        }
        let ttl_ms = self.ttl?.saturating_mul(1_000);
        let (early, late) = if self.forgot {
            (bounds.skew_ms, ttl_ms / bounds.slack_divisor)
        } else {
            (0, 0)
        };
        let least = self.used.0.saturating_add(ttl_ms).saturating_sub(early);
        Some((
            least,
            self.used.1.saturating_add(ttl_ms).saturating_add(late),
        ))
    }

    /// Length of the sliding window, for those who wonder how late an alarm may be.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<u64> {
        self.ttl.map(|seconds| seconds.saturating_mul(1_000))
    }

    #[must_use]
    pub fn producers(&self) -> &BTreeMap<String, (u64, u64)> {
        &self.producers
    }

    #[must_use]
    pub fn stream_seq(&self) -> Option<&str> {
        self.stream_seq.as_deref()
    }

    /// Whether its present state is not what the request demands (RFC 9110, 13.1); `None` when that
    /// cannot be known, because no entity tag of this life was seen.
    fn fails(&self, request: &Request) -> Option<bool> {
        let matched = request
            .header("If-Match")
            .map(|list| self.is_named_in(list, false));
        let unmatched = request
            .header("If-None-Match")
            .map(|list| self.is_named_in(list, true));
        match (matched, unmatched) {
            (Some(Some(false)), _) | (_, Some(Some(true))) => Some(true),
            (Some(None), _) | (_, Some(None)) => None,
            _ => Some(false),
        }
    }

    fn is_named_in(&self, list: &str, weak: bool) -> Option<bool> {
        // Within a list, a star is nothing.
        if list == "*" {
            return Some(true);
        }
        let mut known = Some(false);
        for each in list.split(',').map(str::trim) {
            let strong = if weak {
                each.trim_start_matches("W/")
            } else {
                each
            };
            let names =
                |tag: &Tag<'_>| !tag.is_page && tag.closed == self.closed && self.is_at(tag.end);
            let Some(tag) = tag(strong).filter(names) else {
                continue;
            };
            match &self.named {
                Some(named) if named == tag.life => return Some(true),
                Some(_) => {}
                None => known = None,
            }
        }
        known
    }

    /// Whether an offset is the tail, whichever of its names it is.
    fn is_at(&self, offset: Token) -> bool {
        let tail = self.content.len();
        [true, false]
            .map(|earlier| self.segments.spell(tail, earlier))
            .contains(&spell(offset))
    }

    /// Whether `Stream-Expected-Offset` names another place than the tail.
    fn ends_elsewhere(&self, request: &Request) -> bool {
        match request.header("Stream-Expected-Offset") {
            None => false,
            Some("-1") => !self.content.is_empty(),
            Some(text) => !token(text).is_some_and(|offset| self.is_at(offset)),
        }
    }

    fn use_at(&mut self, now: u64) {
        self.used = (self.used.0.max(now), self.used.1.max(now));
        self.forgot = self.forgot && now < self.used.1;
    }

    fn maybe_used_at(&mut self, now: u64) {
        self.used.1 = self.used.1.max(now);
    }
}

/// Everything about one name that a crash can take back.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub life: Option<Life>,
    /// The id of the last life that there was.
    pub last_life: u64,
    /// When each life began, and of which type it was.
    pub history: Rc<Vec<(u64, String)>>,
}

/// One name's reference.
#[derive(Debug)]
pub struct Model {
    pub state: State,
    pub bounds: Bounds,
    lives: u64,
    /// The content of each life, and its segments, as they were last known.
    archive: Vec<(Rc<Content>, Rc<Segments>)>,
    /// Producers that were forgotten for being idle, and in which life.
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
            lives: 0,
            archive: vec![(none, Rc::default())],
            forgotten: BTreeSet::new(),
        }
    }

    /// The content of a life, past or present.
    #[must_use]
    pub fn content(&self, life: u64) -> &Content {
        &self.archive[usize::try_from(life).unwrap_or(0)].0
    }

    /// The segments of a life, past or present.
    #[must_use]
    pub fn segments(&self, life: u64) -> &Segments {
        &self.archive[usize::try_from(life).unwrap_or(0)].1
    }

    /// An instance is no more; what comes next begins from `state`.
    pub fn restart(&mut self, state: State) {
        self.state = state;
        if let Some(life) = &mut self.state.life {
            life.forgot = true;
        }
        self.note();
    }

    /// Takes an answer that was given in an earlier state, and leaves no trace.
    ///
    /// # Errors
    /// When the answer was none of those allowed then.
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

    /// What an earlier state becomes by an answer that was given in it. Leaves no trace.
    ///
    /// # Errors
    /// When the answer was none of those allowed then.
    pub fn after(
        &mut self,
        then: State,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Result<State, Mismatch> {
        let present = core::mem::replace(&mut self.state, then);
        let archive = self.archive.clone();
        let lives = core::mem::replace(&mut self.lives, self.state.last_life);
        let verdict = self.answered(request, response, facts);
        self.lives = lives;
        self.archive = archive;
        let after = core::mem::replace(&mut self.state, present);
        verdict.map(|()| after)
    }

    /// The present life was used by a read that was asked for and answered at these times.
    pub fn read_between(&mut self, life: u64, asked_at: u64, answered_at: u64) {
        if let Some(it) = self.state.life.as_mut().filter(|it| it.id == life) {
            it.used = (it.used.0.max(asked_at), it.used.1.max(answered_at));
        }
    }

    /// How many lives have begun.
    #[must_use]
    pub const fn lives(&self) -> u64 {
        self.lives
    }

    /// A request that was refused before the stream was asked.
    ///
    /// # Errors
    /// When it is not one to be refused so.
    pub fn refused(&self, request: &Request, response: &Response) -> Verdict {
        let faults = faults(request, &self.bounds);
        ensure(
            faults.contains(&response.status),
            || format!("an answer of {faults:?}"),
            response,
        )
    }

    /// The stream's own clock has struck.
    ///
    /// # Errors
    /// When the stream ended too early, or should have.
    pub fn alarm(&mut self, facts: &TurnFacts) -> Verdict {
        self.settle_expiry(facts, false)?;
        self.turned(facts)
    }

    /// A turn that nobody outside has caused. It may seal the open segment, and changes nothing
    /// else.
    ///
    /// # Errors
    /// When it seals elsewhere than at the tail.
    pub fn turned(&mut self, facts: &TurnFacts) -> Verdict {
        self.seal(facts)?;
        self.note();
        Ok(())
    }

    /// The boundary of a segment is fixed in one turn, at its tail, for ever.
    fn seal(&mut self, facts: &TurnFacts) -> Verdict {
        let Some((number, units)) = facts.sealed else {
            return Ok(());
        };
        let life = self.state.life.as_mut();
        let (next, length) = life.as_ref().map_or((None, 0), |life| {
            let start = life.segments.start(number).unwrap_or(0);
            (Some(life.segments.sealed()), life.content.len() - start)
        });
        let Some(life) = life.filter(|_| next == Some(number) && units == length && units > 0)
        else {
            return Err(Mismatch {
                expected: format!("the segment {next:?} to be sealed at {length}"),
                actual: format!("{number} at {units}"),
            });
        };
        let end = life.content.len();
        Rc::make_mut(&mut life.segments).seal(end);
        Ok(())
    }

    /// A segment was sealed, by which producers may be forgotten that have not appended for so long
    /// (protocol 5.2.1). Tells how many were, and how many others are as idle.
    pub fn forget(
        &mut self,
        now: u64,
        idle_ms: u64,
        is_known: impl Fn(&str) -> bool,
    ) -> (u64, Result<u64, Mismatch>) {
        let Some(life) = self.state.life.as_mut().filter(|life| !life.closed) else {
            return (0, Ok(0));
        };
        let (mut forgotten, mut left) = (0, 0);
        for producer in life.producers.keys().cloned().collect::<Vec<_>>() {
            let used_at = life.produced_at.get(&producer).copied().unwrap_or(0);
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
            Rc::make_mut(&mut life.producers).remove(&producer);
            self.forgotten.insert((life.id, producer));
        }
        (forgotten, Ok(left))
    }

    /// Whether a producer was ever forgotten, so that what it repeats may have been appended again.
    #[must_use]
    pub fn has_forgotten(&self, life: u64, producer: &str) -> bool {
        self.forgotten.contains(&(life, producer.to_owned()))
    }

    /// What the body of a plain read from an offset is, if it begins now and has all pages.
    #[must_use]
    pub fn promised(&self, offset: Option<&str>) -> Option<Vec<u8>> {
        let life = self.state.life.as_ref()?;
        let tail = life.content.len();
        let start = match offset {
            None | Some("-1") => 0,
            Some(text) => life.segments.position_requested(token(text)?).min(tail),
        };
        let begin = if start == tail {
            tail
        } else {
            life.content.begin(start)
        };
        life.content.page(begin, tail)
    }

    /// The next page of an answer about a life was asked for, and was given or not.
    ///
    /// # Errors
    /// When it was given of another life, or not given although this one lasts.
    pub fn continued(&mut self, id: u64, given: bool, facts: &TurnFacts) -> Verdict {
        self.settle_expiry(facts, false)?;
        let life = self.state.life.as_mut().filter(|life| life.id == id);
        if given != life.is_some() {
            return Err(Mismatch {
                expected: format!("the next page of life {id}: {}", life.is_some()),
                actual: given.to_string(),
            });
        }
        if let Some(life) = life {
            life.use_at(facts.now);
        }
        self.turned(facts)
    }

    /// A reader has left, one of so many at the tail.
    pub fn gone(&mut self, now: u64, attached: u64) {
        if let Some(life) = self.state.life.as_mut().filter(|_| attached > 0) {
            life.maybe_used_at(now);
        }
    }

    /// Takes a request and its answer.
    ///
    /// # Errors
    /// When the answer is none of those allowed.
    pub fn answered(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let deletes = request.method == "DELETE" && response.status == 204;
        self.settle_expiry(facts, deletes)?;
        let faults = faults(request, &self.bounds);
        if !faults.is_empty() {
            return ensure(
                faults.contains(&response.status),
                || format!("an answer of {faults:?}"),
                response,
            );
        }
        ensure(
            response.header("Cache-Control").is_some(),
            || "a Cache-Control".to_owned(),
            response,
        )?;
        let done = match (request.method, self.state.life.is_some()) {
            ("PUT", false) => self.created(request, response, facts),
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
                self.state.life = None;
                Ok(())
            }
            ("HEAD", true) => self.described(response),
            _ => self.read(request, response, facts),
        };
        self.note();
        done?;
        self.name(response)
    }

    /// Takes the entity tag of an answer: all of a life name it alike, and no two lives.
    fn name(&mut self, response: &Response) -> Verdict {
        let Some(text) = response.header("ETag") else {
            return Ok(());
        };
        let life = self.state.life.as_mut();
        let (Some(life), Some(tag)) = (life, tag(text)) else {
            return ensure(
                false,
                || "no entity tag, or one of ours".to_owned(),
                response,
            );
        };
        let (start, end) = (
            life.segments.position_sent(tag.start),
            life.segments.position_sent(tag.end),
        );
        let fits = start <= end && end.is_some_and(|end| end <= life.content.len());
        let named = life
            .named
            .get_or_insert_with(|| tag.life.to_owned())
            .clone();
        ensure(
            fits && start.is_some() && named == tag.life,
            || format!("a tag of {named}, within its content"),
            response,
        )
    }

    /// A request that was not refused with 412 may not have had to be.
    fn meets(&self, request: &Request, response: &Response) -> Verdict {
        let fails = self
            .state
            .life
            .as_ref()
            .and_then(|life| life.fails(request));
        ensure(fails != Some(true), || "412".to_owned(), response)
    }

    /// A request that was refused with 412 has demanded another state.
    fn failed(&self, request: &Request, response: &Response) -> Verdict {
        let fails = self
            .state
            .life
            .as_ref()
            .and_then(|life| life.fails(request));
        ensure(fails != Some(false), || "not 412".to_owned(), response)?;
        ensure(
            response.header("ETag").is_some(),
            || "the entity tag of the present state".to_owned(),
            response,
        )?;
        self.at_tail(response)
    }

    fn settle_expiry(&mut self, facts: &TurnFacts, deletes: bool) -> Verdict {
        let Some(life) = &mut self.state.life else {
            return Ok(());
        };
        let ends = life.ends(&self.bounds);
        let (least, most) = ends.unwrap_or((u64::MAX, u64::MAX));
        let mismatch = |expected: &str| Mismatch {
            expected: expected.to_owned(),
            actual: format!(
                "now {}, ends {ends:?}, {} attached",
                facts.now, facts.attached
            ),
        };
        let watched = facts.attached > 0 && life.ttl.is_some_and(|ttl| ttl > 0);
        if facts.dropped && !deletes {
            if facts.now < least {
                return Err(mismatch("the stream lives on"));
            }
            if watched {
                return Err(mismatch("a stream with readers at its tail lives on"));
            }
            self.state.life = None;
        } else if watched {
            if facts.now >= least {
                life.maybe_used_at(facts.now);
            }
        } else if facts.now >= most && !deletes {
            return Err(mismatch("the stream has expired"));
        }
        Ok(())
    }

    fn created(&mut self, request: &Request, response: &Response, facts: &TurnFacts) -> Verdict {
        let content_type = request
            .header("Content-Type")
            .filter(|text| !text.trim().is_empty());
        let content_type = content_type
            .unwrap_or("application/octet-stream")
            .to_owned();
        let mut content = empty(&content_type);
        let claim = claim(request);
        let mut refusals = Vec::new();
        if !request.body.is_empty() && extend(&mut content, &request.body).is_none() {
            refusals.push(400);
        }
        if claim.as_ref().is_some_and(|claim| claim.seq != 0) {
            refusals.push(409);
        }
        // Where there is no stream, nothing is what a tag names.
        if request.header("If-Match").is_some() {
            refusals.push(412);
        }
        if !refusals.is_empty() {
            return ensure(
                refusals.contains(&response.status),
                || format!("an answer of {refusals:?}"),
                response,
            );
        }
        let closed = is_closed(request);
        ensure(response.status == 201, || "201".to_owned(), response)?;
        ensure(
            response.header("Location").is_some(),
            || "a Location".to_owned(),
            response,
        )?;
        self.lives += 1;
        self.archive.push((Rc::new(empty("")), Rc::default()));
        let producers = claim.iter().filter(|_| !content.is_empty());
        let producers = producers
            .map(|claim| (claim.id.clone(), (claim.epoch, claim.seq)))
            .collect();
        let produced_at = claim
            .iter()
            .map(|claim| (claim.id.clone(), facts.now))
            .collect();
        let life = Life {
            id: self.lives,
            ttl: request
                .header("Stream-TTL")
                .and_then(|text| text.parse().ok()),
            expires: request
                .header("Stream-Expires-At")
                .and_then(|text| Some((time(text)?, text.to_owned()))),
            used: (facts.now, facts.now),
            forgot: false,
            closed,
            closed_by: claim.filter(|_| closed),
            content: Rc::new(content),
            segments: Rc::default(),
            producers: Rc::new(producers),
            named: None,
            produced_at: Rc::new(produced_at),
            stream_seq: None,
            content_type,
        };
        Rc::make_mut(&mut self.state.history).push((facts.now, life.content_type.clone()));
        self.state.last_life = life.id;
        self.state.life = Some(life);
        self.seal(facts)?;
        self.at_tail(response)?;
        self.names_type(response)
    }

    fn confirmed(&mut self, request: &Request, response: &Response, facts: &TurnFacts) -> Verdict {
        let Some(life) = &mut self.state.life else {
            return Ok(());
        };
        let requested = request
            .header("Content-Type")
            .filter(|text| !text.trim().is_empty());
        let ttl = request
            .header("Stream-TTL")
            .and_then(|text| text.parse().ok());
        let expires = request.header("Stream-Expires-At").and_then(time);
        let same = essence(requested.unwrap_or("application/octet-stream"))
            == essence(&life.content_type)
            && ttl == life.ttl
            && expires == life.expires.as_ref().map(|(at, _)| *at)
            && is_closed(request) == life.closed;
        life.maybe_used_at(facts.now);
        if response.status == 412 {
            return self.failed(request, response);
        }
        self.meets(request, response)?;
        if !same {
            return ensure(
                response.status == 409,
                || "409: it exists otherwise".to_owned(),
                response,
            );
        }
        ensure(
            response.status == 200,
            || "200: it exists".to_owned(),
            response,
        )?;
        self.at_tail(response)?;
        self.names_type(response)
    }

    fn appended(&mut self, request: &Request, response: &Response, facts: &TurnFacts) -> Verdict {
        let Some(life) = &mut self.state.life else {
            return Ok(());
        };
        let claim = claim(request);
        let closes = is_closed(request);
        if life.closed {
            life.maybe_used_at(facts.now);
            let repeated = claim.is_some() && claim == life.closed_by;
            let only_closes = closes && request.body.is_empty() && claim.is_none();
            let closes_again = only_closes && !life.ends_elsewhere(request);
            if closes_again {
                if response.status == 412 {
                    return self.failed(request, response);
                }
                self.meets(request, response)?;
            }
            let status = if repeated || closes_again { 204 } else { 409 };
            ensure(
                response.status == status,
                || format!("{status}: the stream is closed"),
                response,
            )?;
            if repeated {
                echoes(claim.as_ref(), response)?;
            }
            return self.at_tail(response);
        }
        // What the protocol does not put into an order may be told in any.
        let mut allowed = Vec::new();
        let requested = request.header("Content-Type").unwrap_or_default();
        let mismatched =
            !request.body.is_empty() && essence(requested) != essence(&life.content_type);
        if mismatched {
            allowed.push(409);
        }
        let mut content = Rc::clone(&life.content);
        if !request.body.is_empty() {
            // An empty array is nothing to append (9.1.3).
            let added = extend(Rc::make_mut(&mut content), &request.body);
            if added.is_none_or(|added| added == 0) && !mismatched {
                allowed.push(400);
            }
        }
        let mut duplicate = None;
        if let Some(claim) = &claim {
            match life.producers.get(&claim.id) {
                None if claim.seq == 0 => {}
                None => allowed.push(409),
                Some((epoch, _)) if claim.epoch < *epoch => allowed.push(403),
                Some((epoch, _)) if claim.epoch > *epoch && claim.seq == 0 => {}
                Some((epoch, _)) if claim.epoch > *epoch => allowed.push(400),
                Some((_, seq)) if claim.seq <= *seq => duplicate = Some(*seq),
                Some((_, seq)) if claim.seq > *seq + 1 => allowed.push(409),
                Some(_) => {}
            }
            if response.status == 403 {
                let current = life
                    .producers
                    .get(&claim.id)
                    .map(|(epoch, _)| epoch.to_string());
                let epoch = response.header("Producer-Epoch");
                ensure(
                    epoch == current.as_deref(),
                    || format!("Producer-Epoch: {current:?}"),
                    response,
                )?;
            }
        }
        // A retry carries the Stream-Seq that it carried before, and is a success all the same.
        let regressed = match (request.header("Stream-Seq"), &life.stream_seq) {
            (Some(next), Some(last)) => next.as_bytes() <= last.as_bytes(),
            _ => false,
        };
        // So is one that expects a tail or a state from before it.
        let elsewhere = life.ends_elsewhere(request);
        let says_tail = !allowed.contains(&409) && duplicate.is_none();
        if duplicate.is_none() {
            if regressed || elsewhere {
                allowed.push(409);
            }
            match life.fails(request) {
                Some(true) => allowed.push(412),
                None if response.status == 412 => allowed.push(412),
                _ => {}
            }
        }
        if let Some(seq) = duplicate {
            if response.status == 204 {
                life.use_at(facts.now);
                let last = claim.map(|claim| Claim { seq, ..claim });
                echoes(last.as_ref(), response)?;
                return self.at_tail(response);
            }
            allowed.push(204);
        }
        if !allowed.is_empty() {
            life.maybe_used_at(facts.now);
            ensure(
                allowed.contains(&response.status),
                || format!("an answer of {allowed:?}"),
                response,
            )?;
            return match response.status {
                412 => self.failed(request, response),
                409 if says_tail => self.at_tail(response),
                _ => Ok(()),
            };
        }
        life.use_at(facts.now);
        let new_data = claim.is_some() && !request.body.is_empty();
        let status = if new_data { 200 } else { 204 };
        ensure(response.status == status, || status.to_string(), response)?;
        echoes(claim.as_ref(), response)?;
        life.content = content;
        if !request.body.is_empty() {
            if let Some(claim) = &claim {
                Rc::make_mut(&mut life.producers)
                    .insert(claim.id.clone(), (claim.epoch, claim.seq));
                Rc::make_mut(&mut life.produced_at).insert(claim.id.clone(), facts.now);
            }
            if let Some(seq) = request.header("Stream-Seq") {
                life.stream_seq = Some(seq.to_owned());
            }
        }
        if closes {
            life.closed = true;
            life.closed_by = claim;
        }
        self.seal(facts)?;
        self.at_tail(response)
    }

    fn described(&self, response: &Response) -> Verdict {
        let Some(life) = &self.state.life else {
            return Ok(());
        };
        ensure(
            response.status == 200 && response.body.is_empty(),
            || "200 without a body".to_owned(),
            response,
        )?;
        let ttl = life.ttl.map(|seconds| seconds.to_string());
        ensure(
            response.header("Stream-TTL") == ttl.as_deref(),
            || format!("Stream-TTL: {ttl:?}"),
            response,
        )?;
        let expires = life.expires.as_ref().map(|(_, text)| text.as_str());
        ensure(
            response.header("Stream-Expires-At") == expires,
            || format!("Stream-Expires-At: {expires:?}"),
            response,
        )?;
        ensure(
            response.header("Cache-Control") == Some("no-store"),
            || "no-store".to_owned(),
            response,
        )?;
        let all = response.header("ETag").and_then(tag);
        let names_all = all
            .filter(|tag| tag.start == (0, 0) && tag.closed == life.closed && life.is_at(tag.end));
        ensure(
            names_all.is_some(),
            || "the entity tag of the whole stream".to_owned(),
            response,
        )?;
        self.at_tail(response)?;
        self.names_type(response)
    }

    fn read(&mut self, request: &Request, response: &Response, facts: &TurnFacts) -> Verdict {
        let Some(life) = &mut self.state.life else {
            return Ok(());
        };
        life.use_at(facts.now);
        let tail = life.content.len();
        let live = request.parameter("live");
        let offset = request.parameter("offset");
        let start = life.segments.begin(request, tail).unwrap_or(tail);
        let sent = |token| life.segments.position_sent(token);
        if start == tail && live.is_some() && !life.closed {
            let status = if live == Some("sse") { 200 } else { 204 };
            ensure(
                facts.kept && response.status == status,
                || "to be kept as a reader at the tail".to_owned(),
                response,
            )?;
            return if status == 204 {
                self.at_tail(response)
            } else {
                Ok(())
            };
        }
        ensure(!facts.kept, || "to be answered".to_owned(), response)?;
        if life.closed && life.segments.resumed(request, tail) == Some(tail) {
            ensure(
                response.status == 204 && response.is_true("Stream-Up-To-Date"),
                || "204, so that a browser does not connect again".to_owned(),
                response,
            )?;
            return self.at_tail(response);
        }
        if live == Some("sse") {
            let end = facts.page_end.and_then(sent).unwrap_or(u64::MAX);
            let reasonable = if start == tail {
                end == tail
            } else {
                start < end && end <= tail && life.content.is_end(end)
            };
            ensure(
                reasonable,
                || format!("a page from {start} to at most {tail}"),
                response,
            )?;
            return ensure(response.status == 200, || "200".to_owned(), response);
        }
        if live == Some("long-poll") && start == tail {
            ensure(
                response.status == 204,
                || "204: the end of a closed stream".to_owned(),
                response,
            )?;
            ensure(
                response.is_true("Stream-Up-To-Date"),
                || "Stream-Up-To-Date".to_owned(),
                response,
            )?;
            return self.at_tail(response);
        }
        let end = response
            .header("Stream-Next-Offset")
            .and_then(token)
            .and_then(sent)
            .unwrap_or(u64::MAX);
        let reasonable = if start == tail {
            end == tail
        } else {
            start < end && end <= tail && life.content.is_end(end)
        };
        ensure(
            reasonable,
            || format!("a page from {start} to at most {tail}"),
            response,
        )?;
        let whole = self.bounds.whole_reads && live.is_none();
        ensure(
            !whole || end == tail,
            || format!("everything up to {tail}"),
            response,
        )?;
        let reached = end == tail;
        ensure(
            response.is_true("Stream-Up-To-Date") == reached,
            || format!("Stream-Up-To-Date: {reached}"),
            response,
        )?;
        let eof = reached && life.closed;
        ensure(
            response.is_true("Stream-Closed") == eof,
            || format!("Stream-Closed: {eof}"),
            response,
        )?;
        let tagged = offset != Some("now");
        ensure(
            response.header("ETag").is_some() == tagged,
            || format!("an ETag: {tagged}"),
            response,
        )?;
        let known = request.header("If-None-Match").unwrap_or_default();
        let tag = response.header("ETag").unwrap_or("none");
        let named = live.is_none()
            && known
                .split(", ")
                .any(|each| each == "*" || each.trim_start_matches("W/") == tag)
            && tagged;
        let status = if named { 304 } else { 200 };
        ensure(response.status == status, || status.to_string(), response)?;
        if live.is_some() && !eof {
            let client = request
                .parameter("cursor")
                .and_then(|text| text.parse::<u64>().ok());
            let cursor = response
                .header("Stream-Cursor")
                .and_then(|text| text.parse::<u64>().ok());
            let present = facts.now.saturating_sub(self.bounds.cursor_epoch_ms)
                / self.bounds.cursor_interval_ms;
            let ahead = cursor.is_some_and(|cursor| {
                cursor >= present && client.is_none_or(|client| cursor > client)
            });
            ensure(
                ahead,
                || format!("a cursor of {present} or more, and beyond {client:?}"),
                response,
            )?;
        }
        if status == 304 {
            return ensure(response.body.is_empty(), || "no body".to_owned(), response);
        }
        let begin = if start == tail {
            tail
        } else {
            life.content.begin(start)
        };
        let page = life.content.page(begin, end).unwrap_or_default();
        if whole && facts.has_rest {
            let begins = !response.body.is_empty() && page.starts_with(&response.body);
            let expected = || format!("the beginning of {}", crate::request::excerpt(&page));
            ensure(begins, expected, response)?;
            return self.names_type(response);
        }
        let expected = || format!("the body {}", crate::request::excerpt(&page));
        ensure(
            response.body == page || (page == b"[]" && response.body.is_empty() && start != tail),
            expected,
            response,
        )?;
        if let Content::Run { ends, bytes, .. } = &*life.content
            && start != tail
            && !whole
        {
            // It is too large by its last append at most.
            let last = life.content.begin(end - 1);
            let framed = (bytes.len() + ends.len() * FRAME_BYTES) as u64;
            let limit = self.bounds.page_limit(framed);
            ensure(
                last - begin <= limit,
                || format!("at most {limit} bytes before the last append"),
                response,
            )?;
        }
        self.names_type(response)
    }

    /// Says the tail, and whether the stream is closed.
    fn at_tail(&self, response: &Response) -> Verdict {
        let Some(life) = &self.state.life else {
            return Ok(());
        };
        let next = response.header("Stream-Next-Offset").and_then(token);
        let next = next.and_then(|token| life.segments.position_sent(token));
        let tail = life.content.len();
        ensure(
            next == Some(tail),
            || format!("Stream-Next-Offset: {tail}"),
            response,
        )?;
        let closed = life.closed;
        ensure(
            response.is_true("Stream-Closed") == closed,
            || format!("Stream-Closed: {closed}"),
            response,
        )
    }

    fn names_type(&self, response: &Response) -> Verdict {
        let Some(life) = &self.state.life else {
            return Ok(());
        };
        let content_type = response.header("Content-Type");
        ensure(
            content_type == Some(&life.content_type),
            || format!("Content-Type: {}", life.content_type),
            response,
        )
    }

    fn note(&mut self) {
        if let Some(life) = &self.state.life {
            let place = &mut self.archive[usize::try_from(life.id).unwrap_or(0)];
            if !Rc::ptr_eq(&place.0, &life.content) {
                place.0 = Rc::clone(&life.content);
            }
            if !Rc::ptr_eq(&place.1, &life.segments) {
                place.1 = Rc::clone(&life.segments);
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

fn echoes(claim: Option<&Claim>, response: &Response) -> Verdict {
    let Some(claim) = claim else { return Ok(()) };
    let echoed = (
        response.header("Producer-Epoch"),
        response.header("Producer-Seq"),
    );
    let (epoch, seq) = (claim.epoch.to_string(), claim.seq.to_string());
    ensure(
        echoed == (Some(&epoch), Some(&seq)),
        || format!("Producer-Epoch: {epoch}, Producer-Seq: {seq}"),
        response,
    )
}

/// Everything for which a request may be refused whatever the stream is.
fn faults(request: &Request, bounds: &Bounds) -> Vec<u16> {
    let mut faults = Vec::new();
    let writes = matches!(request.method, "PUT" | "POST");
    if writes {
        let names = ["Producer-Id", "Producer-Epoch", "Producer-Seq"];
        let given = names
            .iter()
            .filter(|name| request.header(name).is_some())
            .count();
        if given != 0 && (given != 3 || claim(request).is_none()) {
            faults.push(400);
        }
        if request.body.len() as u64 > bounds.body_bytes {
            faults.push(413);
        }
        let named = request
            .header("Content-Type")
            .filter(|text| !text.trim().is_empty());
        let needed = request.method == "POST" && !request.body.is_empty();
        let ignored = request.method == "POST" && request.body.is_empty();
        let formed = named.map(|text| {
            essence(text)
                .split_once('/')
                .is_some_and(|(kind, of)| !kind.is_empty() && !of.is_empty())
        });
        if (formed == Some(false) && !ignored) || (formed.is_none() && needed) {
            faults.push(400);
        }
    }
    match request.method {
        "PUT" => {
            let (ttl, expires) = (
                request.header("Stream-TTL"),
                request.header("Stream-Expires-At"),
            );
            let bad_ttl = ttl.is_some_and(|text| {
                integer(text).is_none() || (text.len() > 1 && text.starts_with('0'))
            });
            let bad_expiry = expires.is_some_and(|text| time(text).is_none());
            if bad_ttl || bad_expiry || (ttl.is_some() && expires.is_some()) {
                faults.push(400);
            }
        }
        "POST" if request.body.is_empty() && !is_closed(request) => faults.push(400),
        "POST"
            if request
                .header("Stream-Expected-Offset")
                .is_some_and(|text| text != "-1" && token(text).is_none()) =>
        {
            faults.push(400);
        }
        "GET" => {
            let offset = request.parameter("offset");
            let live = request.parameter("live");
            let bad_offset =
                offset.is_some_and(|text| text != "-1" && text != "now" && token(text).is_none());
            let bad_live =
                live.is_some_and(|text| !matches!(text, "sse" | "long-poll") || offset.is_none());
            let repeated = request.parameters("offset").count() > 1;
            if bad_offset || bad_live || repeated {
                faults.push(400);
            }
        }
        _ => {}
    }
    faults
}

fn integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && *number <= SAFE_INTEGER_MAX)
}

fn claim(request: &Request) -> Option<Claim> {
    let id = request
        .header("Producer-Id")
        .filter(|id| !id.is_empty())?
        .to_owned();
    Some(Claim {
        id,
        epoch: integer(request.header("Producer-Epoch")?)?,
        seq: integer(request.header("Producer-Seq")?)?,
    })
}

fn is_closed(request: &Request) -> bool {
    request
        .header("Stream-Closed")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_lowercase()
}

fn empty(content_type: &str) -> Content {
    match essence(content_type).as_str() {
        "application/json" => Content::Messages(Vec::new()),
        other => Content::Run {
            text: other.starts_with("text/"),
            bytes: Vec::new(),
            ends: Vec::new(),
        },
    }
}

/// Adds a body; says by how much, or `None` when it is none of this type.
fn extend(content: &mut Content, body: &Bytes) -> Option<u64> {
    match content {
        Content::Run { bytes, ends, .. } => {
            bytes.extend_from_slice(body);
            ends.push(bytes.len() as u64);
            Some(body.len() as u64)
        }
        Content::Messages(messages) => {
            let whole: &RawValue = serde_json::from_slice(body).ok()?;
            if !whole.get().starts_with('[') {
                messages.push(body.slice_ref(whole.get().as_bytes()));
                return Some(1);
            }
            let elements: Vec<&RawValue> = serde_json::from_str(whole.get()).ok()?;
            messages.extend(
                elements
                    .iter()
                    .map(|element| body.slice_ref(element.get().as_bytes())),
            );
            Some(elements.len() as u64)
        }
    }
}

/// Milliseconds since 1970 of a time written as the workload writes it: `2027-01-02T03:04:05.678Z`.
#[must_use]
pub fn time(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to).and_then(integer);
    let shape = text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    if !shape {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days before the first of March, from which leap days follow a pattern.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let seconds = (days.checked_sub(719_468)?) * 86_400
        + number(11, 13)? * 3_600
        + number(14, 16)? * 60
        + number(17, 19)?;
    Some(seconds * 1_000 + number(20, 23)?)
}
