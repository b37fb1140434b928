//! What must hold of sealed segments and of what remains to be done: after each turn, and when
//! nothing is left to happen.

use std::collections::BTreeSet;

use machine::router::name;
use machine::segment::{key, key_prefix};
use machine::{Turn, Write};

use super::object::{ALARM_MAX, Object};
use super::{Event, Phase, World};
use crate::cold_tier::{self, Parts};
use crate::coverage::{Situation, Watermark};
use crate::ids::ObjectId;
use crate::model::{Content, Mismatch};
use crate::oracles::Oracle;
use crate::request::{Request, Response};
use crate::segments::{spell, token};

/// Which page was asked for: of an object's incarnation, in which epoch of it, from where, when it had so
/// much.
pub(super) type Asked = (ObjectId, u64, u64, u64, u64);

/// Which content was tagged: of an object's incarnation, in which epoch of it, from where, to where, and
/// whether that was the tail, and closed.
pub(super) type Tagged = (ObjectId, u64, u64, u64, u64, (bool, bool));

/// An alarm that the platform has given up is made up for by a request, some of which come in vain.
const NUDGES_MAX: u64 = 40;

type Broken = (Oracle, String, String);

fn broken<T>(
    oracle: Oracle,
    expected: impl Into<String>,
    actual: impl Into<String>,
) -> Result<T, Broken> {
    Err((oracle, expected.into(), actual.into()))
}

impl World<'_, '_> {
    fn judge_broken(&mut self, verdict: Result<(), Broken>) {
        if let Err((oracle, expected, actual)) = verdict {
            self.engine.fail(oracle, expected, actual);
        }
    }

    /// Every object of the cold tier that a stream refers to.
    pub(super) fn referenced(&self) -> BTreeSet<String> {
        let all_rows = self
            .objects
            .iter()
            .map(|object| &object.platform.storage.rows);
        all_rows.flat_map(cold_tier::referenced).collect()
    }

    /// Segments and hot rows tile the stream, and what is stored is what was sealed.
    pub(super) fn check_segments(&mut self, at: ObjectId, turn: &Turn) {
        self.note_tiers(at, turn);
        self.check_size(at);
        let object = &self.objects[at];
        if let (Some(incarnation), false) =
            (&object.model.state.incarnation, turn.writes.is_empty())
        {
            let rows = &object.platform.storage.rows;
            let mut verdict = cold_tier::tiles(rows, incarnation);
            for write in &turn.writes {
                if let (Write::UpdateSegment(segment), Ok(()), Some(head)) =
                    (write, &verdict, rows.head())
                {
                    verdict = cold_tier::holds(self.cold.objects(), head, incarnation, segment);
                }
            }
            self.engine.check(Oracle::Segments, verdict);
        }
    }

    /// A segment that has reached its size is sealed by the append that fills it, so that the open
    /// one never has.
    fn check_size(&mut self, at: ObjectId) {
        let limits = &self.engine.settings.limits;
        let rows = &self.objects[at].platform.storage.rows;
        let Some(row) = rows.last_row().filter(|_| limits.cold) else {
            return;
        };
        let bytes = row.bytes_before + row.frames.bytes();
        if bytes >= limits.segment_bytes_max {
            let expected = format!(
                "an open segment of less than {} bytes",
                limits.segment_bytes_max
            );
            self.engine
                .fail(Oracle::SegmentSize, expected, format!("{bytes} bytes"));
        }
    }

    fn note_tiers(&mut self, at: ObjectId, turn: &Turn) {
        let limits = &self.engine.settings.limits;
        let object = &self.objects[at];
        let rows = &object.platform.storage.rows;
        let closed = rows.head().is_some_and(|head| head.closed.is_some());
        let unstored = rows.segments().filter(|segment| segment.stored.is_none());
        let (mut waiting, mut tried) = (0, 0);
        for segment in unstored {
            waiting += 1;
            tried += u64::from(segment.attempts > 0);
        }
        let putting = self.cold.is_putting(at);
        let coverage = &mut self.engine.recorder.coverage;
        coverage.raise(
            Watermark::Segments,
            rows.head().map_or(0, |head| head.segment),
        );
        coverage.raise(Watermark::Unstored, waiting);
        coverage.raise(Watermark::Outbox, rows.tasks().count() as u64);
        for write in &turn.writes {
            match write {
                Write::InsertSegment(segment) => {
                    coverage.cover(Situation::Sealed);
                    if closed {
                        coverage.cover(Situation::SealedByClose);
                    } else if segment.bytes < limits.segment_bytes_max
                        && segment.messages < limits.segment_messages_max
                    {
                        coverage.cover(Situation::SealedByAge);
                    }
                    if waiting > 1 {
                        coverage.cover(if closed {
                            Situation::TwoUnstored
                        } else {
                            Situation::SealedDuringPut
                        });
                    }
                }
                Write::UpdateSegment(segment) => {
                    if let Some(stored) = &segment.stored {
                        coverage.cover(Situation::Stored);
                        if waiting > 1 {
                            coverage.cover(Situation::StoredAfterOutage);
                        }
                        if stored.attempt < segment.attempts {
                            coverage.cover(Situation::StoredByEarlier);
                        }
                    }
                }
                Write::InsertHot { .. } if tried > 0 => coverage.cover(Situation::AppendDuringPut),
                Write::InsertStream(head) => {
                    let prefix = key_prefix(&head.name, head.incarnation);
                    let of_name = prefix.split_inclusive('/').next().unwrap_or_default();
                    if self.cold.has_with_prefix(of_name) {
                        coverage.cover(Situation::CreatedDuringCollection);
                    }
                }
                Write::DropTables if putting => coverage.cover(Situation::DeletedDuringPut),
                Write::UpdateTask(_) => coverage.cover(Situation::CollectionInBatches),
                Write::CreateTables
                | Write::UpdateStream(_)
                | Write::InsertHot { .. }
                | Write::CreateSealedTables
                | Write::CreateHot(_)
                | Write::PutProducer { .. }
                | Write::ForgetProducers { .. }
                | Write::DropHot(_)
                | Write::Upgrade { .. }
                | Write::CreateOutbox
                | Write::InsertTask(_)
                | Write::RemoveTask { .. }
                | Write::DropOutbox
                | Write::DropTables => {}
            }
        }
    }

    /// Where a page ends depends on what the stream has, and not on where that is.
    pub(super) fn same_page(&mut self, at: ObjectId, request: &Request, response: &Response) {
        let object = &self.objects[at];
        let Some(incarnation) = &object.model.state.incarnation else {
            return;
        };
        let offset = request.parameter("offset");
        let (Some(end), 200, "GET", true) = (
            self.next_position(at, incarnation.id, response),
            response.status,
            request.method,
            offset != Some("now"),
        ) else {
            return;
        };
        let tail = incarnation.content.len();
        let start = offset
            .and_then(token)
            .map_or(0, |token| incarnation.segments.position_requested(token))
            .min(tail);
        self.same_tag(at, start, end, response);
        if start >= tail {
            return;
        }
        self.note_page(at, start, end);
        if self.engine.settings.whole_reads && request.parameter("live").is_none() {
            // It has all pages, wherever they end.
            return;
        }
        let object = &self.objects[at];
        let Some(incarnation) = &object.model.state.incarnation else {
            return;
        };
        let page = (at, object.platform.epoch, incarnation.id, start, tail);
        let before = *self.pages.entry(page).or_insert(end);
        if before != end {
            self.engine.fail(
                Oracle::SamePages,
                format!("a page from {start} to {before}, as before"),
                end.to_string(),
            );
        }
    }

    /// The same content has the same tag for ever, whatever was sealed, stored or dropped in
    /// between.
    pub(super) fn same_tag(&mut self, at: ObjectId, start: u64, end: u64, response: &Response) {
        let object = &self.objects[at];
        let (Some(incarnation), Some(tag)) =
            (&object.model.state.incarnation, response.header("ETag"))
        else {
            return;
        };
        let closed = response.is_true("Stream-Closed");
        let reaches = (end == incarnation.content.len(), closed);
        let tagged = (
            at,
            object.platform.epoch,
            incarnation.id,
            start,
            end,
            reaches,
        );
        let before = self.tag_of.entry(tagged).or_insert_with(|| tag.to_owned());
        if before != tag {
            let expected = format!("the tag {before} of {start} to {end}, as before");
            self.engine.fail(Oracle::SameTags, expected, tag.to_owned());
        }
    }

    fn note_page(&mut self, at: ObjectId, start: u64, end: u64) {
        let object = &self.objects[at];
        let Some(incarnation) = &object.model.state.incarnation else {
            return;
        };
        let Parts {
            cold,
            hot,
            from_middle,
        } = cold_tier::parts(&object.platform.storage.rows, incarnation, start, end);
        let inside = incarnation.content.begin(start) != start;
        let situations = [
            (cold + hot > 1, Situation::PageStitched),
            (cold > 0 && hot > 0, Situation::PageColdAndHot),
            (from_middle, Situation::PageFromMiddle),
            (inside, Situation::PageFromInside),
            (inside && from_middle, Situation::PageFromInsideCold),
        ];
        for (holds, situation) in situations {
            if holds {
                self.engine.cover(situation);
            }
        }
    }

    /// The latest time for which an alarm must be set, and why.
    fn needs_alarm(&self, at: ObjectId, now: u64) -> Option<(u64, &'static str)> {
        let object = &self.objects[at];
        let limits = &self.engine.settings.limits;
        let rows = &object.platform.storage.rows;
        let skew = object.model.bounds.skew_ms;
        let mut needs = Vec::new();
        if let Some(incarnation) = &object.model.state.incarnation
            && let Some((_, most)) = incarnation.ends(&object.model.bounds)
        {
            let slack = incarnation.ttl_ms().unwrap_or(0) / limits.touch_slack_divisor;
            needs.push((most.saturating_add(slack), "the stream ends"));
        }
        let mut unstored = rows.segments().filter(|segment| segment.stored.is_none());
        if unstored.next().is_some() {
            let wait = limits
                .put_time_ms(u64::MAX, u64::MAX)
                .max(limits.retry_ms_max);
            needs.push((now + wait + skew, "a segment is to be stored"));
        } else if let Some(row) = rows.rows().next().filter(|_| limits.cold) {
            let at = row.at.0.saturating_add(limits.segment_age_ms_max);
            needs.push((at, "the open segment grows old"));
        }
        let wait = limits.reply_timeout_ms.max(limits.retry_ms_max);
        let outbox = rows.tasks();
        needs.extend(outbox.map(|task| {
            (
                task.due_at.0.max(now + wait + skew),
                "something remains to be done",
            )
        }));
        let (latest, why) = needs.into_iter().min()?;
        let nearest = now + skew + limits.alarm_delay_ms_min;
        let latest = latest.max(nearest);
        (latest <= ALARM_MAX).then_some((latest, why))
    }

    /// Whenever something is to be done without being asked for, an alarm is set for it, and not
    /// too late.
    pub(super) fn check_armed(&mut self, at: ObjectId, now: u64) {
        let Some((latest, why)) = self.needs_alarm(at, now) else {
            return;
        };
        let object = &self.objects[at];
        let alarm = &object.platform.alarm;
        let grace = self.engine.settings.limits.alarm_grace_ms;
        if alarm.abandoned && alarm.stored.is_none() {
            let believed = object
                .platform
                .storage
                .rows
                .head()
                .and_then(|head| head.alarm_at);
            let believed = believed.map_or(0, |at| at.0).max(object.alarm_set_at);
            if now <= believed.saturating_add(grace) {
                return;
            }
        }
        if alarm.stored.is_none_or(|stored| stored > latest) {
            let actual = format!("{alarm:?}");
            self.engine.fail(
                Oracle::AlarmArmed,
                format!("an alarm by {latest}: {why}"),
                actual,
            );
        }
    }

    /// What an object has left to do.
    fn undone(&self, at: ObjectId) -> Option<String> {
        let object = &self.objects[at];
        let rows = &object.platform.storage.rows;
        if let Some(task) = rows.tasks().next() {
            return Some(format!("{task:?}"));
        }
        let mut unstored = rows.segments().filter(|segment| segment.stored.is_none());
        if let Some(segment) = unstored.next() {
            return Some(format!("{segment:?}"));
        }
        let limits = &self.engine.settings.limits;
        let aged = rows.rows().next().filter(|row| {
            let at = row.at.0.saturating_add(limits.segment_age_ms_max);
            limits.cold && at <= self.engine.now() && at <= ALARM_MAX
        });
        aged.map(|_| "an old open segment".to_owned())
    }

    /// Nothing is left to happen: everything must be done. Says whether the run is over.
    pub(super) fn is_over(&mut self) -> bool {
        if self.phase != Phase::Waiting {
            return true;
        }
        let undone = self
            .objects
            .ids()
            .find_map(|at| Some((at, self.undone(at)?)));
        let Some((at, reason)) = undone else {
            let verdict = self.check_quiescent();
            self.judge_broken(verdict);
            if self.engine.settings.limits.cold {
                self.engine.cover(Situation::Settled);
            }
            return true;
        };
        let object = &self.objects[at];
        self.nudges += 1;
        if !object.platform.alarm.abandoned || self.nudges > NUDGES_MAX {
            self.engine.fail(
                Oracle::Liveness,
                format!("nothing left to be done by object {at}"),
                reason,
            );
            return true;
        }
        // The machine has to find by itself that its alarm is lost, when somebody comes.
        let limits = &self.engine.settings.limits;
        let believed = object
            .platform
            .storage
            .rows
            .head()
            .and_then(|head| head.alarm_at);
        let believed = believed.map_or(0, |at| at.0).max(object.alarm_set_at);
        let when = believed.max(self.engine.now())
            + limits.alarm_grace_ms
            + object.model.bounds.skew_ms
            + 1_000;
        let operation = self.begin_nudge(at);
        self.engine.schedule_at(when, Event::Retry { operation });
        false
    }

    /// What is left is what the streams that live need, and everybody has been told of them.
    fn check_quiescent(&self) -> Result<(), Broken> {
        let (there, referenced) = (self.cold.keys(), self.referenced());
        if let Some(key) = there.symmetric_difference(&referenced).next() {
            let expected = format!("the objects {referenced:?}");
            return broken(
                Oracle::Orphans,
                expected,
                format!("{key} there: {}", there.contains(key)),
            );
        }
        for object in &self.objects {
            let rows = &object.platform.storage.rows;
            match (&object.model.state.incarnation, rows.head()) {
                (None, _) if !rows.is_empty() => {
                    return broken(
                        Oracle::Orphans,
                        "no rows of a stream that is no more",
                        object.state(),
                    );
                }
                (Some(incarnation), Some(head)) => {
                    for segment in rows.segments() {
                        let held =
                            cold_tier::holds(self.cold.objects(), head, incarnation, segment);
                        held.or_else(|Mismatch { expected, actual }| {
                            broken(Oracle::Segments, expected, actual)
                        })?;
                    }
                }
                (None, _) | (Some(_), None) => {}
            }
        }
        if self.engine.settings.limits.registry {
            self.check_registry()?;
        }
        if self.engine.settings.limits.index {
            self.check_index()?;
        }
        Ok(())
    }

    /// One shard of the registry was told of each stream's beginning and end, once, and in order.
    fn check_registry(&self) -> Result<(), Broken> {
        let is_registry = |object: &&Object| name::is_registry(&object.name);
        let (shards, streams): (Vec<_>, Vec<_>) = self.objects.iter().partition(is_registry);
        let sent = |shard: &&Object| {
            let content = shard
                .model
                .state
                .incarnation
                .as_ref()
                .map(|incarnation| &*incarnation.content);
            match content {
                Some(Content::Messages(messages)) => messages.clone(),
                _ => Vec::new(),
            }
        };
        let sent: Vec<_> = shards.iter().map(sent).collect();
        for object in streams {
            let name = &object.name;
            let expected = cold_tier::registered(name, &object.model.state);
            cold_tier::one_was_sent(name, sent.iter().map(Vec::as_slice), &expected).or_else(
                |Mismatch { expected, actual }| broken(Oracle::Registry, expected, actual),
            )?;
        }
        Ok(())
    }

    /// The index lists the streams that live, and their stored segments, and nothing else.
    fn check_index(&self) -> Result<(), Broken> {
        let mut streams = Vec::new();
        let mut segments = Vec::new();
        for object in &self.objects {
            let rows = &object.platform.storage.rows;
            let Some(head) = rows.head() else { continue };
            streams.push(format!(
                "{} {} {} {} None",
                head.name, head.incarnation, head.content_type, head.created_at.0
            ));
            let prefix = key_prefix(&head.name, head.incarnation);
            segments.extend(rows.segments().filter_map(|segment| {
                let key = key(&prefix, segment.number, segment.stored.as_ref()?.attempt);
                let (start, end) = ((segment.number, 0), (segment.number, segment.units));
                let bytes = self
                    .cold
                    .objects()
                    .get(&key)
                    .map_or(0, |bytes| bytes.len() as u64);
                Some(format!(
                    "{} {} {} {} {} {key} {bytes} {}",
                    head.name,
                    head.incarnation,
                    segment.number,
                    spell(start),
                    spell(end),
                    segment.messages
                ))
            }));
        }
        streams.sort();
        segments.sort();
        let listed = self.index.streams().iter().map(|(path, row)| {
            format!(
                "{path} {} {} {} {:?}",
                row.incarnation, row.content_type, row.created_at, row.deleted_at
            )
        });
        let listed: Vec<_> = listed.collect();
        if listed != streams {
            return broken(
                Oracle::Index,
                format!("the streams {streams:?}"),
                format!("{listed:?}"),
            );
        }
        let listed = self
            .index
            .segments()
            .iter()
            .map(|((path, incarnation, number), row)| {
                format!(
                    "{path} {incarnation} {number} {} {} {} {} {}",
                    row.start, row.end, row.key, row.bytes, row.messages
                )
            });
        let mut listed: Vec<_> = listed.collect();
        listed.sort();
        if listed != segments {
            return broken(
                Oracle::Index,
                format!("the segments {segments:?}"),
                format!("{listed:?}"),
            );
        }
        Ok(())
    }
}
