//! Judges each turn when it becomes durable: what has happened to the stream, and what clients are
//! answered. The turns of an object are durable in order, so the model follows them one by one.

use machine::rows::StreamRow;
use machine::{Answer, Effect, MemoryRows};

use super::coverage::Situation;
use super::model::{Asked, BEYOND, Expiry, ForkOf, Format, Incarnation, START, State};
use super::read::Reading;
use super::request::{Kind, Posted, Request};
use super::world::{Caller, Turned, World};
use crate::oracles::Oracle;
use crate::workload::timestamp;

/// The times of a request.
#[derive(Clone, Copy)]
struct Span {
    /// The number of commits when it arrived.
    from: u64,
    /// How long it has taken.
    elapsed: u64,
    /// When its turn was made.
    at: u64,
}

impl World<'_, '_> {
    pub(super) fn judge(&mut self, name: &str, before: &MemoryRows, turned: &Turned) {
        let disk = self.objects[name].disk.clone();
        self.judge_end(name, &disk, turned);
        for effect in &turned.effects {
            if self.failure.is_some() {
                return;
            }
            let Effect::Answer { call, answer } = effect else {
                continue;
            };
            let Some(pending) = self.calls.get(&call.0) else {
                continue;
            };
            let span = Span {
                from: pending.arrived,
                elapsed: self.now - pending.arrived_at.min(self.now),
                at: turned.at,
            };
            let request = match &pending.caller {
                Caller::Client(request) => request.clone(),
                Caller::Reader => {
                    if answer.status != 200 {
                        self.cover(Situation::ReadBrokenOff);
                    } else if let Some(present) = self.model.present_mut(name) {
                        let (certain, possible) = present.used;
                        present.used = (certain.max(span.at), possible.max(span.at));
                    }
                    continue;
                }
                Caller::Object { .. } => continue,
            };
            self.note(name, || {
                format!(
                    "{} is answered {} {}",
                    call.0,
                    answer.status,
                    answer.header("Stream-Next-Offset").unwrap_or_default()
                )
            });
            self.digest.number(u64::from(answer.status));
            self.judge_answer(call.0, &request, answer, span, &disk);
        }
        self.model.note(name, self.clock);
        if self.failure.is_none() && *before != disk {
            self.check_pins();
            self.check_content(name, &disk);
        }
    }

    /// Judges whether the stream has expired or has been freed.
    fn judge_end(&mut self, name: &str, disk: &MemoryRows, turned: &Turned) {
        let Some(present) = self.model.present(name) else {
            return;
        };
        let head = disk.head();
        let is_gone = head.is_none_or(|head| head.incarnation != present.machine);
        let is_hidden = head.is_some_and(|head| head.lineage.deleted_at.is_some());
        if present.hidden {
            if is_gone {
                let is_fork = present.fork.is_some();
                self.freed(name, Situation::Freed);
                if is_fork {
                    self.cover(Situation::Cascade);
                }
                self.model.note(name, self.clock);
            }
            return;
        }
        let is_deletion = turned.effects.iter().any(|effect| {
            let Effect::Answer { call, answer } = effect else {
                return false;
            };
            let caller = self.calls.get(&call.0).map(|pending| &pending.caller);
            let Some(Caller::Client(request)) = caller else {
                return false;
            };
            answer.status == 204 && matches!(request.kind, Kind::Delete)
        });
        let divisor = self.settings.limits.touch_slack_divisor;
        let (may, must) = present.expiry_at(turned.at, divisor);
        if (is_gone || is_hidden) && !is_deletion {
            if !may {
                let reason = format!("{:?}, used {:?}", present.expiry, present.used);
                let actual = format!("{name} has ended at {}", turned.at);
                return self.fail(Oracle::Expiry, reason, actual);
            }
            self.cover(Situation::Expired);
            if is_gone {
                self.freed(name, Situation::Expired);
            } else {
                self.hide(name, Situation::ExpiredHidden);
            }
            self.model.note(name, self.clock);
        } else if must && turned.ends_expired && !is_deletion {
            let reason = format!("{:?}, used {:?}", present.expiry, present.used);
            self.fail(Oracle::Expiry, reason, format!("{name} is still there"));
        }
    }

    /// Notes that a stream has ended for good.
    fn freed(&mut self, name: &str, situation: Situation) {
        let Some(index) = self.model.present.get(name).copied() else {
            return;
        };
        let heirs: Vec<_> = self
            .model
            .forks_of(index)
            .map(|fork| fork.name.clone())
            .collect();
        if !heirs.is_empty() {
            let expected = format!("{name}, the source of {heirs:?}");
            return self.fail(Oracle::Pins, expected, "it has ended");
        }
        self.cover(situation);
        self.model.end(name);
    }

    /// Notes that a stream was deleted or has expired, and lives on for its forks.
    fn hide(&mut self, name: &str, situation: Situation) {
        if self
            .model
            .fork_requests
            .get(name)
            .is_none_or(|count| *count == 0)
        {
            return self.fail(Oracle::ForksFreed, "an end", format!("{name} is kept"));
        }
        self.cover(situation);
        if let Some(present) = self.model.present_mut(name) {
            present.hidden = true;
        }
    }

    fn judge_answer(
        &mut self,
        call: u64,
        request: &Request,
        answer: &Answer,
        span: Span,
        disk: &MemoryRows,
    ) {
        let name = &request.name;
        let state = self.model.state(name);
        if state.hidden && answer.status == 410 {
            self.cover(Situation::GoneAnswered);
        }
        match &request.kind {
            Kind::Create(asked) => self.judge_create(name, asked, answer, span, disk),
            Kind::Append(posted) => self.judge_append(name, posted, answer, span),
            Kind::Delete => {
                self.expect(name, "DELETE", answer.status, &[status_of(state, 204)]);
                if answer.status != 204 || self.failure.is_some() {
                    return;
                }
                let head = disk.head();
                let present = self.model.present(name).map(|present| present.machine);
                if head.is_some_and(|head| Some(head.incarnation) == present) {
                    self.hide(name, Situation::Hidden);
                } else {
                    self.freed(name, Situation::Deleted);
                }
            }
            Kind::Read { from } => {
                self.expect(name, "GET", answer.status, &[status_of(state, 200)]);
                if answer.status == 200 {
                    self.judge_read(call, name, from.as_deref(), answer, span);
                }
            }
            Kind::Head => {
                self.expect(name, "HEAD", answer.status, &[status_of(state, 200)]);
                if answer.status == 200 {
                    self.judge_head(name, answer);
                }
            }
        }
    }

    fn expect(&mut self, name: &str, what: &str, status: u16, allowed: &[u16]) {
        if !allowed.contains(&status) {
            self.fail(
                Oracle::ForkAnswers,
                format!("{what} {name}: one of {allowed:?}"),
                status.to_string(),
            );
        }
    }

    fn judge_create(
        &mut self,
        name: &str,
        asked: &Asked,
        answer: &Answer,
        span: Span,
        disk: &MemoryRows,
    ) {
        let mut allowed = Vec::new();
        // Creations wait for one that asks its source.
        let may_wait = self.settings.has_faults()
            || span.elapsed >= self.settings.limits.fork_time_ms
            || self.settings.limits.turn_calls_max <= 2;
        if may_wait {
            allowed.push(503);
        }
        if answer.status == 503 {
            self.cover(Situation::Unavailable);
        }
        if let Some(present) = self.model.present(name) {
            if present.hidden {
                allowed.push(409);
                return self.expect(name, "PUT", answer.status, &allowed);
            }
            let source = present
                .fork
                .map(|fork| &self.model.incarnations[fork.source]);
            let is_same = present.is_asked_for(asked, source);
            allowed.push(if is_same { 200 } else { 409 });
            if is_same && let Some(fork) = present.fork {
                let source = &self.model.incarnations[fork.source];
                let has_changed =
                    source.ended || source.hidden || source.content.len() as u64 > fork.cut;
                self.coverage.cover(if has_changed {
                    Situation::RepeatedAfterChange
                } else {
                    Situation::Repeated
                });
            }
            self.expect(name, "PUT", answer.status, &allowed);
            if let Some(present) = self.model.present_mut(name) {
                present.used.1 = present.used.1.max(span.at);
            }
            if answer.status == 200 {
                self.learn_tail(name, answer);
            }
            return;
        }
        let is_again = self.model.incarnations.iter().any(|each| each.name == name);
        if asked.fork.is_some() {
            self.judge_fork(name, asked, answer, allowed, span, disk);
        } else {
            let format = asked.format.unwrap_or(Format::Bytes);
            let content = format.content(&asked.body);
            allowed.push(if content.is_some() { 201 } else { 400 });
            self.expect(name, "PUT", answer.status, &allowed);
            if answer.status != 201 || self.failure.is_some() {
                return;
            }
            let content = content.unwrap_or_default();
            let Some(head) = disk.head() else {
                return self.fail(Oracle::ForkContent, "a stream", "none");
            };
            let incarnation = created(name, asked, head, format, span.at);
            let length = content.len() as u64;
            self.enter(
                name,
                Incarnation {
                    ends: Some(length)
                        .filter(|length| *length > 0)
                        .into_iter()
                        .collect(),
                    content,
                    ..incarnation
                },
            );
            self.learn_tail(name, answer);
        }
        if is_again && answer.status == 201 {
            self.cover(Situation::CreatedAgain);
        }
    }

    fn enter(&mut self, name: &str, incarnation: Incarnation) {
        let index = self.model.incarnations.len();
        self.model.incarnations.push(incarnation);
        self.model.present.insert(name.to_owned(), index);
    }

    fn judge_fork(
        &mut self,
        name: &str,
        asked: &Asked,
        answer: &Answer,
        mut allowed: Vec<u16>,
        span: Span,
        disk: &MemoryRows,
    ) {
        let Some(fork) = &asked.fork else { return };
        let limits = self.settings.limits.clone();
        let states = if fork.source == name {
            vec![State {
                incarnation: None,
                hidden: false,
                length: 0,
            }]
        } else {
            self.model.since(&fork.source, span.from)
        };
        for state in &states {
            let refusals = self.model.refusals(asked, *state, &limits);
            if refusals.is_empty() {
                allowed.push(201);
            }
            allowed.extend(refusals);
            // An offset of another incarnation may be no place in this one.
            let source = state
                .incarnation
                .map(|index| &self.model.incarnations[index]);
            let is_foreign = fork
                .offset
                .as_ref()
                .is_some_and(|offset| source.is_some_and(|source| source.anchor(offset).is_none()));
            if is_foreign {
                allowed.push(400);
            }
        }
        let requests = self.model.fork_requests.get(&fork.source).copied();
        if requests.unwrap_or_default() > limits.forks_max {
            allowed.push(429);
        }
        if limits.fork_segments_max <= 2 {
            allowed.push(409);
        }
        self.expect(name, "PUT of a fork", answer.status, &allowed);
        self.note_refusal(asked, answer.status, &states);
        if answer.status != 201 || self.failure.is_some() {
            return;
        }
        let head = disk.head().filter(|head| head.lineage.fork.is_some());
        let Some((head, lineage)) = head.and_then(|head| {
            let lineage = head.lineage.fork.as_ref()?;
            Some((head, lineage))
        }) else {
            return self.fail(Oracle::ForkContent, "a fork", "none");
        };
        let mut all = self.model.incarnations.iter();
        let source =
            all.position(|each| each.machine == lineage.incarnation && each.name == fork.source);
        let fits = |state: &&State| {
            state.incarnation == source && self.model.refusals(asked, **state, &limits).is_empty()
        };
        let fitting: Vec<_> = states.iter().filter(fits).copied().collect();
        let Some(source) = source.filter(|_| !fitting.is_empty()) else {
            let expected = format!("a source among {states:?}");
            return self.fail(Oracle::ForkAnswers, expected, format!("{source:?}"));
        };
        let seen = match self.see(name, disk) {
            Ok(seen) => seen,
            Err(reason) => return self.fail(Oracle::ForkContent, "a fork", reason),
        };
        let origin = &self.model.incarnations[source];
        let format = origin.format;
        let own = format.content(&asked.body).unwrap_or_default();
        let cut = (seen.units.len() as u64).saturating_sub(own.len() as u64);
        let known = fork
            .offset
            .as_ref()
            .and_then(|offset| origin.anchor(offset));
        let anchor = known.unwrap_or_else(|| cut.saturating_sub(fork.sub_offset));
        let (least, most) = if known.is_some() {
            let cut = anchor + fork.sub_offset;
            (cut, cut)
        } else if fork.offset.is_some() {
            (0, origin.content.len() as u64)
        } else {
            let lengths = || fitting.iter().map(|state| state.length);
            let least = lengths().min().unwrap_or_default();
            (least, lengths().max().unwrap_or_default())
        };
        let has_inherited = (least..=most).contains(&cut);
        let content = [
            &origin.content[..(cut as usize).min(origin.content.len())],
            &own,
        ]
        .concat();
        if !has_inherited || content != seen.units {
            let expected = format!(
                "{name} has {least} to {most} units of {}, and {own:?}",
                fork.source
            );
            return self.fail(Oracle::ForkContent, expected, format!("{:?}", seen.units));
        }
        let mut ends: Vec<_> = origin
            .ends
            .iter()
            .copied()
            .filter(|end| *end < cut)
            .collect();
        ends.extend(Some(cut).filter(|cut| *cut > 0));
        let length = content.len() as u64;
        ends.extend(Some(length).filter(|length| *length > cut));
        let tokens = origin.tokens.iter().filter(|(_, place)| **place <= cut);
        let tokens = tokens
            .map(|(token, place)| (token.clone(), *place))
            .collect();
        let (depth, expiry) = (origin.depth + 1, origin.expiry);
        self.cover_fork(asked, source, cut, anchor, depth);
        let incarnation = Incarnation {
            content,
            ends,
            tokens,
            depth,
            fork: Some(ForkOf {
                source,
                anchor,
                cut,
            }),
            expiry: if asked.expiry == Expiry::Never {
                expiry
            } else {
                asked.expiry
            },
            ..created(name, asked, head, format, span.at)
        };
        self.enter(name, incarnation);
        self.learn_tail(name, answer);
        let forks = self.model.forks_of(source).count() as u64;
        if forks > limits.forks_max {
            let expected = format!("at most {} forks", limits.forks_max);
            self.fail(Oracle::ForkAnswers, expected, forks.to_string());
        }
    }

    fn note_refusal(&mut self, asked: &Asked, status: u16, states: &[State]) {
        let Some(fork) = &asked.fork else { return };
        let live = states.iter().filter(|state| !state.hidden);
        let mut live = live.filter_map(|state| state.incarnation);
        let source = live.next().map(|index| &self.model.incarnations[index]);
        let situation = match status {
            404 => Situation::RefusedAbsent,
            429 => Situation::RefusedTooMany,
            409 if states.iter().all(|state| state.hidden) => Situation::RefusedHidden,
            409 if asked
                .format
                .is_some_and(|format| source.is_some_and(|source| source.format != format)) =>
            {
                Situation::RefusedType
            }
            409 if source
                .is_some_and(|source| source.depth >= self.settings.limits.fork_depth_max) =>
            {
                Situation::RefusedTooDeep
            }
            400 if fork.offset.as_deref() == Some(BEYOND) || fork.sub_offset > 0 => {
                Situation::RefusedOffset
            }
            400 if asked.body == b"{" => Situation::RefusedBody,
            _ => return,
        };
        self.cover(situation);
        if states.len() > 1 && states.iter().any(|state| state.hidden) {
            self.cover(Situation::ForkBesideDelete);
        }
    }

    fn cover_fork(&mut self, asked: &Asked, source: usize, cut: u64, anchor: u64, depth: u64) {
        let source = &self.model.incarnations[source];
        let situations = [
            (true, Situation::Forked),
            (depth > 1, Situation::ForkedDeep),
            (cut < source.content.len() as u64, Situation::ForkedAtOffset),
            (
                cut > anchor && !source.ends.contains(&cut),
                Situation::ForkedInside,
            ),
            (source.closed, Situation::ForkedClosed),
            (!asked.body.is_empty(), Situation::ForkedWithBody),
        ];
        for (holds, situation) in situations {
            if holds {
                self.coverage.cover(situation);
            }
        }
    }

    fn judge_append(&mut self, name: &str, posted: &Posted, answer: &Answer, span: Span) {
        let state = self.model.state(name);
        let status = answer.status;
        let Some(present) = self.model.present_mut(name).filter(|it| !it.hidden) else {
            return self.expect(name, "POST", status, &[status_of(state, 204)]);
        };
        let is_inherited = |id: u64, model: &super::model::Model| {
            let fork = model.present(name).and_then(|present| present.fork);
            fork.is_some_and(|fork| model.incarnations[fork.source].producers.contains_key(&id))
        };
        present.used.1 = present.used.1.max(span.at);
        if present.closed {
            let expected = if posted.body.is_empty() { 204 } else { 409 };
            return self.expect(name, "POST to a closed stream", status, &[expected]);
        }
        let content = present.format.content(&posted.body).unwrap_or_default();
        let is_other = posted.format != present.format && !posted.body.is_empty();
        let last = posted
            .producer
            .map(|(id, _, _)| present.producers.get(&id).copied());
        let expected = match (is_other, posted.producer, last.flatten()) {
            (true, _, _) => 409,
            (_, Some((_, _, seq)), Some((_, last))) if seq <= last => 204,
            (_, Some((_, _, seq)), Some((_, last))) if seq > last + 1 => 409,
            (_, Some((_, _, seq)), None) if seq > 0 => 409,
            _ => {
                let last = present.stream_seq;
                let is_behind = posted.stream_seq.is_some_and(|seq| last >= Some(seq));
                match (is_behind, posted.producer) {
                    (true, _) => 409,
                    (false, Some(_)) => 200,
                    (false, None) => 204,
                }
            }
        };
        // A producer that is not known has a gap, or has to begin with 0.
        let is_gap =
            matches!((posted.producer, last.flatten()), (Some((_, _, seq)), None) if seq > 0);
        let allowed = if is_gap {
            vec![expected, 400]
        } else {
            vec![expected]
        };
        let is_duplicate = expected == 204 && posted.producer.is_some();
        let is_done = allowed.contains(&status) && matches!(status, 200 | 204) && !is_duplicate;
        if is_done {
            present.used.0 = present.used.0.max(span.at);
            present.content.extend(content);
            let length = present.content.len() as u64;
            if present.ends.last().is_none_or(|last| *last < length) && length > 0 {
                present.ends.push(length);
            }
            present.closed |= posted.close;
            if let Some((id, epoch, seq)) = posted.producer {
                present.producers.insert(id, (epoch, seq));
            }
            present.stream_seq = posted.stream_seq.or(present.stream_seq);
        }
        if is_done
            && posted
                .producer
                .is_some_and(|(id, _, seq)| seq == 0 && is_inherited(id, &self.model))
        {
            self.cover(Situation::ProducerAgain);
        }
        self.expect(name, "POST", status, &allowed);
        if is_done {
            self.learn_tail(name, answer);
        }
    }

    fn judge_read(
        &mut self,
        call: u64,
        name: &str,
        from: Option<&str>,
        answer: &Answer,
        span: Span,
    ) {
        let index = self.model.present.get(name).copied();
        let (Some(index), Some(present)) = (index, self.model.present_mut(name)) else {
            return;
        };
        present.used = (present.used.0.max(span.at), present.used.1.max(span.at));
        let length = present.content.len() as u64;
        let start = from.map_or(Some(0), |from| present.anchor(from));
        let start = start.filter(|start| *start <= length);
        let is_closed = present.closed;
        self.readings
            .insert(call, Reading::new(index, start, length));
        if answer.header("Stream-Closed").is_some() != is_closed {
            let expected = format!("{name} closed: {is_closed}");
            return self.fail(Oracle::ForkAnswers, expected, "the other");
        }
        self.learn_tail(name, answer);
        self.whole_body(call, answer);
    }

    fn judge_head(&mut self, name: &str, answer: &Answer) {
        let Some(present) = self.model.present(name) else {
            return;
        };
        let ttl = match present.expiry {
            Expiry::Ttl(seconds) => Some(seconds.to_string()),
            Expiry::Never | Expiry::At(_) => None,
        };
        let at = match present.expiry {
            Expiry::At(at) => Some(timestamp(at)),
            Expiry::Never | Expiry::Ttl(_) => None,
        };
        let closed = present.closed.then(|| "true".to_owned());
        let expected = [
            (
                "Content-Type",
                Some(present.format.content_type().to_owned()),
            ),
            ("Stream-TTL", ttl),
            ("Stream-Expires-At", at),
            ("Stream-Closed", closed),
        ];
        for (header, expected) in expected {
            let actual = answer.header(header);
            if actual != expected.as_deref() {
                let expected = format!("{name} {header}: {expected:?}");
                return self.fail(Oracle::ForkAnswers, expected, format!("{actual:?}"));
            }
        }
        self.learn_tail(name, answer);
    }

    /// Checks that an answer names the tail.
    fn learn_tail(&mut self, name: &str, answer: &Answer) {
        let Some(index) = self.model.present.get(name).copied() else {
            return;
        };
        let length = self.model.incarnations[index].content.len() as u64;
        let token = answer.header("Stream-Next-Offset").unwrap_or_default();
        self.learn(index, token, length);
    }

    fn learn(&mut self, index: usize, token: &str, place: u64) {
        let learned = if token == START && place == 0 {
            Ok(())
        } else {
            self.model.learn(index, token, place)
        };
        if let Err(reason) = learned {
            self.fail(Oracle::ForkOffsets, "an offset of one place", reason);
        }
    }

    /// Checks what is durable of a stream against the model.
    pub(super) fn check_content(&mut self, name: &str, disk: &MemoryRows) {
        let Some(index) = self.model.present.get(name).copied() else {
            if disk.head().is_some() {
                self.fail(Oracle::ForksFreed, format!("no stream {name}"), "one");
            }
            return;
        };
        let present = &self.model.incarnations[index];
        let head = disk
            .head()
            .filter(|head| head.incarnation == present.machine);
        let Some(head) = head else {
            return self.fail(Oracle::ForkContent, format!("the stream {name}"), "another");
        };
        if head.lineage.deleted_at.is_some() != present.hidden {
            let expected = format!("{name} deleted: {}", present.hidden);
            return self.fail(Oracle::ForkContent, expected, "the other");
        }
        if present.hidden {
            return;
        }
        let seen = match self.see(name, disk) {
            Ok(seen) => seen,
            Err(reason) => {
                return self.fail(Oracle::ForkContent, format!("all of {name}"), reason);
            }
        };
        let format = present.format.content_type();
        if seen.units != present.content
            || seen.is_closed != present.closed
            || seen.content_type != format
        {
            let show = |units: &[Vec<u8>]| String::from_utf8_lossy(&units.join(&b' ')).into_owned();
            let expected = format!(
                "{name}: {} closed: {} {format}",
                show(&present.content),
                present.closed
            );
            let actual = format!(
                "{} closed: {} {}",
                show(&seen.units),
                seen.is_closed,
                seen.content_type
            );
            return self.fail(Oracle::ForkContent, expected, actual);
        }
        for (token, place) in seen.tokens {
            self.learn(index, &token, place);
        }
    }
}

/// Returns the status of a request to a stream in this state that succeeds if it exists.
const fn status_of(state: State, done: u16) -> u16 {
    match state {
        State {
            incarnation: None, ..
        } => 404,
        State { hidden: true, .. } => 410,
        State { .. } => done,
    }
}

fn created(name: &str, asked: &Asked, head: &StreamRow, format: Format, at: u64) -> Incarnation {
    Incarnation {
        name: name.to_owned(),
        machine: head.incarnation,
        format,
        expiry: asked.expiry,
        closed: asked.closed,
        content: Vec::new(),
        ends: Vec::new(),
        tokens: Default::default(),
        fork: None,
        asked: asked.clone(),
        depth: 0,
        used: (at, at),
        hidden: false,
        ended: false,
        producers: Default::default(),
        stream_seq: None,
    }
}
