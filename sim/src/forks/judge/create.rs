//! Judges creations, and what a fork inherits.

use machine::rows::StreamRow;
use machine::{Answer, MemoryRows};

use super::Span;
use crate::forks::coverage::Situation;
use crate::forks::model::{Asked, BEYOND, Expiry, ForkOf, Format, Incarnation, State};
use crate::forks::world::World;
use crate::oracles::Oracle;

impl World<'_, '_> {
    pub(super) fn judge_create(
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
                self.recorder.coverage.cover(if has_changed {
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
            if answer.status != 201 || self.recorder.failure.is_some() {
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
        if answer.status != 201 || self.recorder.failure.is_some() {
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
                self.recorder.coverage.cover(situation);
            }
        }
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
