//! Answers of the admin API about one stream, from its rows and its state. None of its calls counts
//! as use.

use std::collections::BTreeMap;

use super::outbox::implied_tasks;
use super::producer::Producers;
use super::{Response, Step, StepError, Stream, StreamState, seal};
use crate::admin::json::{Object, quoted};
use crate::admin::{self, AdminCall};
use crate::outbox::{Queue, Task, TaskKind};
use crate::plan::FRAME_OVERHEAD;
use crate::rows::{Activity, HotTable, MinuteOfRows, Minutes, RowKey, SealedSegment, Sums};
use crate::storage::activity::MILLIS_PER_MINUTE;
use crate::storage::{Storage, StorageError};
use crate::wire::Format;
use crate::{Context, Millis, Offset, Refusal};

/// What the open segment holds, minute by minute.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenMinutes {
    /// The rows before this key were there when the instance was loaded.
    loaded_at: Option<RowKey>,
    /// What these rows hold. Read from them when somebody wants to know it.
    before: Option<Minutes>,
    /// What this instance has appended.
    since: Minutes,
}

impl OpenMinutes {
    /// Creates the state of an instance that finds rows before this position.
    pub(super) fn recall(position: u64) -> Self {
        Self {
            loaded_at: (position > 0).then(|| RowKey::at(position)),
            ..Self::default()
        }
    }

    pub(super) fn record(&mut self, now: Millis, appended: Sums) {
        self.since.add(Minutes::of(now), appended);
    }
}

impl StreamState {
    /// Returns what the open segment holds in the minutes that count now.
    fn open_minutes(&mut self, now: Millis, rows: &dyn Storage) -> Result<Minutes, StorageError> {
        let open = &mut self.minutes;
        let mut minutes = match (open.loaded_at, &open.before) {
            (None, _) => Minutes::default(),
            (Some(_), Some(before)) => before.clone(),
            (Some(loaded_at), None) => {
                let mut before = Minutes::default();
                let table = HotTable::of(self.row.segment);
                for row in rows.minutes(table, loaded_at, Minutes::since(now))? {
                    before.add(row.minute, sums_of(self.format, row)?);
                }
                open.before.insert(before).clone()
            }
        };
        minutes.add_all(&open.since);
        Ok(minutes)
    }

    /// Returns what all own sealed segments hold.
    fn sealed_activity(&self, rows: &dyn Storage) -> Result<Activity, StorageError> {
        match &self.row.activity {
            Some(activity) => Ok(activity.clone()),
            None => Ok(Activity {
                sums: rows.sealed_sums()?,
                minutes: Minutes::default(),
            }),
        }
    }

    /// Returns what all own segments hold.
    pub(super) fn sums(&self, rows: &dyn Storage) -> Result<Sums, StorageError> {
        Ok(self.sealed_activity(rows)?.sums.plus(self.open_sums()))
    }

    const fn open_sums(&self) -> Sums {
        Sums {
            messages: self.messages(),
            framed: self.tail.bytes,
        }
    }

    /// Adds the open segment to what the sealed ones hold, because it is sealed.
    pub(super) fn seal_minutes(
        &mut self,
        now: Millis,
        rows: &dyn Storage,
    ) -> Result<(), StorageError> {
        let mut activity = self.sealed_activity(rows)?;
        activity.sums = activity.sums.plus(self.open_sums());
        activity.minutes.add_all(&self.open_minutes(now, rows)?);
        self.row.activity = Some(activity);
        self.minutes = OpenMinutes::default();
        Ok(())
    }

    fn described(&self, segment: &SealedSegment) -> Object {
        let head = &self.row;
        let stored = segment.stored.as_ref();
        let key = stored
            .map(|stored| seal::key(&head.name, head.incarnation, segment.number, stored.attempt));
        let sums = Sums {
            messages: segment.messages,
            framed: segment.bytes,
        };
        let end = Offset::new(segment.number, segment.units).to_string();
        Object::new()
            .text("streamId", &head.name)
            .number("readSeq", segment.number)
            .text("startOffset", &Offset::new(segment.number, 0).to_string())
            .text("endOffset", &end)
            .text_or_null("r2Key", key.as_deref())
            .text("contentType", &head.content_type)
            .number("createdAt", segment.attempted_at.0)
            .number_or_null("expiresAt", self.deadline().map(|at| at.0))
            .number("sizeBytes", sums.bytes())
            .number("messageCount", sums.messages)
            .number("attempts", segment.attempts)
    }
}

/// Returns what the rows of a minute hold.
///
/// # Errors
/// When the rows have fewer bytes than their units take.
fn sums_of(format: Format, row: MinuteOfRows) -> Result<Sums, StorageError> {
    let overhead = match format {
        Format::Json => row.units.checked_mul(FRAME_OVERHEAD),
        Format::Text | Format::Binary => row.bytes.checked_sub(row.units),
    };
    let overhead = overhead.filter(|overhead| *overhead <= row.bytes);
    let overhead = overhead.ok_or_else(|| StorageError("rows are too short".to_owned()))?;
    Ok(Sums {
        messages: overhead / FRAME_OVERHEAD,
        framed: row.bytes,
    })
}

impl Stream {
    pub(super) fn admin(
        &mut self,
        context: &Context<'_>,
        call: AdminCall,
        step: &mut Step,
    ) -> Result<Response, StepError> {
        let (now, rows) = (context.now, context.storage);
        let answer = match call {
            AdminCall::Detail => self.detail(context)?,
            AdminCall::Segments { after, limit } => self.segments(after, limit, rows)?,
            AdminCall::Producers { after, limit } => self.producers(after, limit, rows)?,
            AdminCall::Outbox { after, limit } => self.tasks(after, limit, rows)?,
            AdminCall::Throughput { minutes } => self.throughput(now, minutes, rows)?,
            AdminCall::Subscribers => {
                let (state, _) = self.state()?;
                let count = (context.subscribers)(state.row.incarnation)?;
                Object::new()
                    .text("streamId", &state.row.name)
                    .number("activeSubscribers", count)
            }
            AdminCall::Session { .. } => unreachable!("`inspect_session` answers it"),
            AdminCall::Seal => self.seal_now(now, rows, step)?,
        };
        Ok(Response::Answer(answer.answer()))
    }

    fn detail(&mut self, context: &Context<'_>) -> Result<Object, StepError> {
        let rows = context.storage;
        let alarm_reason = self.alarm_reason();
        let alarm = self.alarm_at.map(|at| {
            let reason = alarm_reason.map(|reason| reason.to_string());
            Object::new()
                .number("at", at.0)
                .text_or_null("reason", reason.as_deref())
                .finish()
        });
        let timers: Vec<_> = self.timers().collect();
        let outbox_empty = self.outbox.is_empty();
        let session_count = self.followers.count();
        let (state, _) = self.state()?;
        let head = &state.row;
        let fork = head.lineage.fork.as_ref();
        let (_, ttl_seconds) = admin::expiry_columns(&head.expiry);
        let forks = if head.lineage.has_pins {
            rows.pins()?
        } else {
            0
        };
        let open = state.open_sums();
        let open_segment = state.tail.opened_at.map(|opened_at| {
            Object::new()
                .number("readSeq", head.segment)
                .number("messageCount", open.messages)
                .number("sizeBytes", open.bytes())
                .number("openedAt", opened_at.0)
                .finish()
        });
        let sums = state.sums(rows)?;
        let unstored = state.unstored.as_ref();
        let fork_offset = fork.map(|fork| fork.fork_offset.to_string());
        Ok(Object::new()
            .text("streamId", &head.name)
            .text("incarnation", &head.incarnation.to_string())
            .text("contentType", &head.content_type)
            .flag("closed", state.is_closed())
            .number("createdAt", head.created_at.0)
            .number_or_null("expiresAt", state.deadline().map(|at| at.0))
            .number_or_null("ttlSeconds", ttl_seconds)
            .text_or_null("forkedFrom", fork.map(|fork| fork.source.as_str()))
            .text_or_null("forkOffset", fork_offset.as_deref())
            .number("inheritedSegments", state.inherited_segments())
            .number("forkCount", forks)
            .text("tailOffset", &state.tail().to_string())
            .number("segmentCount", head.segment - state.inherited_segments())
            .number("messageCount", sums.messages)
            .number("totalBytes", sums.bytes())
            .number("subscriberCount", (context.subscribers)(head.incarnation)?)
            .number("sessionCount", session_count)
            .json("openSegment", &open_segment.as_deref().unwrap_or("null"))
            .number_or_null("nextToStore", unstored.map(|next| next.segment.number))
            .flag("outboxEmpty", outbox_empty)
            .json("alarm", &alarm.as_deref().unwrap_or("null"))
            .array(
                "timers",
                timers.into_iter().map(|timer| {
                    Object::new()
                        .text("reason", &timer.reason.to_string())
                        .number("at", timer.at.0)
                }),
            ))
    }

    fn segments(
        &mut self,
        after: Option<u64>,
        limit: u64,
        rows: &dyn Storage,
    ) -> Result<Object, StepError> {
        let (state, _) = self.state()?;
        let first_own = state.inherited_segments();
        let from = after.map_or(first_own, |after| first_own.max(after.saturating_add(1)));
        let segments = if from < state.row.segment {
            rows.sealed_segments(from, limit + 1)?
        } else {
            Vec::new()
        };
        let (segments, has_more) = page(segments, limit);
        let next = segments.last().filter(|_| has_more);
        let next = next.map(|segment| segment.number.to_string());
        let segments = segments.iter().map(|segment| state.described(segment));
        Ok(paged(
            Object::new().array("segments", segments),
            next,
            has_more,
        ))
    }

    fn producers(
        &mut self,
        after: Option<String>,
        limit: u64,
        rows: &dyn Storage,
    ) -> Result<Object, StepError> {
        let (state, _) = self.state()?;
        let after = after.unwrap_or_default();
        let mut found = BTreeMap::new();
        if state.row.segment > state.inherited_segments() {
            for (stamp, used_at) in rows.sealed_producers(&after, limit + 1)? {
                found.insert(stamp.id.clone(), (stamp, used_at));
            }
        }
        let open: &mut Producers = state.producers(rows)?;
        for (stamp, used_at) in open.after(&after, limit + 1) {
            found.insert(stamp.id.clone(), (stamp, used_at));
        }
        let (producers, has_more) = page(found.into_values().collect(), limit);
        let next = producers.last().filter(|_| has_more);
        let next = next.map(|(stamp, _)| quoted(&stamp.id));
        let producers = producers.iter().map(|(stamp, used_at)| {
            Object::new()
                .text("producerId", &stamp.id)
                .number("epoch", stamp.epoch)
                .number("seq", stamp.seq)
                .number("usedAt", used_at.0)
        });
        let object = Object::new().array("producers", producers);
        Ok(paged(object, next, has_more))
    }

    fn tasks(
        &mut self,
        after: Option<(String, u64)>,
        limit: u64,
        rows: &dyn Storage,
    ) -> Result<Object, StepError> {
        let (queue, id) = match &after {
            None => (Queue::first(), 0),
            Some((queue, id)) => {
                let queue = Queue::from_stored(queue).map_err(|_| Refusal::BadParameter {
                    name: "cursor".to_owned(),
                    rule: "names an unknown queue".to_owned(),
                })?;
                (queue, id + 1)
            }
        };
        let stored = if self.outbox.has_table() {
            rows.tasks(&queue, id, limit + 1)?
        } else {
            Vec::new()
        };
        if self.state.is_none() && stored.is_empty() && after.is_none() {
            return Err(Refusal::StreamNotFound.into());
        }
        let (stored, has_more) = page(stored, limit);
        let row = self.state.as_ref().map(|state| &state.row);
        let implied = row
            .into_iter()
            .flat_map(|row| implied_tasks(row, &self.limits));
        let implied = implied.filter(|_| after.is_none()).map(|what| Task {
            id: crate::outbox::IMPLIED_ID,
            due_at: crate::outbox::AT_ONCE,
            failures: 0,
            what,
        });
        let next = stored.last().filter(|_| has_more);
        let next =
            next.map(|task| quoted(&admin::cursor_of(&task.what.queue().to_string(), task.id)));
        let tasks: Vec<_> = implied.chain(stored).collect();
        let tasks = tasks.iter().map(|task| {
            let queue = task.what.queue();
            let kind = match task.what {
                TaskKind::Call { .. } => "call",
                TaskKind::Index(_) => "index",
                TaskKind::Collect(_) => "collect",
            };
            let failures = self.outbox.failures(&queue, task.id);
            Object::new()
                .text("queue", &queue.to_string())
                .number("id", task.id)
                .text("kind", kind)
                .number("dueAt", task.due_at.0)
                .number("failures", failures.unwrap_or(task.failures))
        });
        Ok(paged(Object::new().array("tasks", tasks), next, has_more))
    }

    fn throughput(
        &mut self,
        now: Millis,
        period: u64,
        rows: &dyn Storage,
    ) -> Result<Object, StepError> {
        let (state, _) = self.state()?;
        let mut minutes = state.sealed_activity(rows)?.minutes;
        minutes.add_all(&state.open_minutes(now, rows)?);
        let present = Minutes::of(now);
        let first = (present + 1).saturating_sub(period);
        let total: u64 = (first..=present)
            .map(|minute| minutes.at(minute).messages)
            .sum();
        let buckets = (first..=present).map(|minute| {
            let sums = minutes.at(minute);
            Object::new()
                .number("timestamp", minute * MILLIS_PER_MINUTE)
                .number("messages", sums.messages)
                .number("bytes", sums.bytes())
        });
        Ok(Object::new()
            .text("streamId", &state.row.name)
            .array("buckets", buckets)
            .json("avgMessagesPerMinute", &admin::ratio(total, period))
            .number("periodMinutes", period))
    }

    /// Ends the open segment, whatever its size.
    fn seal_now(
        &mut self,
        now: Millis,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Object, StepError> {
        let (state, limits) = self.state()?;
        if !limits.cold {
            return Err(
                Refusal::NotConfigured("there is no cold tier to store a segment in").into(),
            );
        }
        let has_content = state.row.writable && state.tail.position > 0;
        if has_content {
            state.seal(now, limits, rows, step)?;
        }
        Ok(Object::new()
            .flag("sealed", has_content)
            .text("tailOffset", &state.tail().to_string()))
    }
}

/// Removes the entry beyond the limit, which only shows that more follow. Returns whether there was
/// one.
pub(super) fn page<T>(mut entries: Vec<T>, limit: u64) -> (Vec<T>, bool) {
    let limit = usize::try_from(limit).expect("the router has bounded it");
    let has_more = entries.len() > limit;
    entries.truncate(limit);
    (entries, has_more)
}

/// Ends a page. `next` is its cursor as JSON.
pub(super) fn paged(object: Object, next: Option<String>, has_more: bool) -> Object {
    let object = match next {
        Some(next) => object.json("nextCursor", &next),
        None => object,
    };
    object.flag("hasMore", has_more)
}
