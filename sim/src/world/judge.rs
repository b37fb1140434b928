//! Whether a turn was right: against the reference model, and against what must hold of every turn.

use machine::rows::RowKey;
use machine::wire::answer::Body;
use machine::wire::internal_headers;
use machine::{Effect, Turn, Write, live_reader};

use super::World;
use super::object::{has_rest, plain, rendered};
use crate::coverage::{Situation, Watermark};
use crate::ids::{CallId, FetchId, ObjectId};
use crate::model::TurnFacts;
use crate::oracles::{Oracle, Position};

const fn is_answer(effect: &Effect) -> bool {
    matches!(effect, Effect::Answer { .. } | Effect::Attach { .. })
}

/// Whether it is a page of an answer.
fn gives_page(effect: &Effect) -> bool {
    matches!(effect, Effect::Answer { answer, .. } if matches!(answer.body, Body::Plan(_)))
}

impl World<'_, '_> {
    /// The turn against the reference, and against what must hold of every turn.
    pub(super) fn judge_turn(
        &mut self,
        at: ObjectId,
        (call, page_of): (Option<CallId>, Option<FetchId>),
        turn: &Turn,
        facts: TurnFacts,
        (is_alarm, is_gone): (bool, bool),
        before: Position,
    ) {
        let model_incarnation = self.objects[at].model.state.incarnation.clone();
        let object = &mut self.objects[at];
        let verdict = match call {
            None if is_alarm => object.model.alarm(&facts),
            None if let Some(fetching) = page_of => {
                let given = turn.after_commit.iter().any(gives_page);
                let incarnation = self.cold.incarnation_of(fetching);
                object.model.continued(incarnation, given, &facts)
            }
            None => {
                if is_gone {
                    object.model.gone(facts.now, facts.attached);
                }
                object.model.turned(&facts)
            }
            Some(call) => {
                let request = &self.calls[call].request;
                let answers: Vec<_> = turn
                    .after_commit
                    .iter()
                    .filter(|effect| is_answer(effect))
                    .collect();
                let (response, kept, page_end, has_rest) = match answers.as_slice() {
                    [Effect::Answer { answer, .. }] => {
                        match rendered(&object.platform.storage, &self.cold, answer) {
                            Ok(response) => {
                                let head = response
                                    .header(internal_headers::LIVE_HEAD)
                                    .and_then(live_reader::LiveHead::from_header);
                                (
                                    response,
                                    false,
                                    head.map(|head| (head.next.segment, head.next.position)),
                                    has_rest(answer),
                                )
                            }
                            Err(damaged) => {
                                return self.engine.fail(
                                    Oracle::Storage,
                                    "what can be rendered".to_owned(),
                                    damaged,
                                );
                            }
                        }
                    }
                    [Effect::Attach { subscriber, .. }] => {
                        (plain(&subscriber.answer), true, None, false)
                    }
                    _ => {
                        return self.engine.fail(
                            Oracle::Contract,
                            "one answer to one call".to_owned(),
                            format!("{:?}", turn.after_commit),
                        );
                    }
                };
                object.model.answered(
                    request,
                    &response,
                    &TurnFacts {
                        kept,
                        page_end,
                        has_rest,
                        ..facts
                    },
                )
            }
        };
        self.engine.check(Oracle::Model, verdict);
        self.check_rows(at, turn);
        self.check_segments(at, turn);
        let object = &self.objects[at];
        let after = Position::of(&object.model.state);
        if facts.dropped {
            let deleted = call.is_some_and(|call| self.calls[call].request.method == "DELETE");
            if facts.attached > 0 {
                self.engine.cover(if deleted {
                    Situation::DeletedUnderReader
                } else {
                    Situation::ExpiredUnderReader
                });
            }
            if !deleted {
                self.engine.cover(if is_alarm {
                    Situation::ExpiredByAlarm
                } else {
                    Situation::ExpiredByCall
                });
                let ends = model_incarnation
                    .and_then(|incarnation| incarnation.ends(&self.objects[at].model.bounds));
                if ends.is_some_and(|(least, most)| least < most && facts.now > least + 1) {
                    self.engine.cover(Situation::ExpiredLate);
                }
            }
        } else if facts.attached > 0 {
            let ends = model_incarnation
                .and_then(|incarnation| incarnation.ends(&self.objects[at].model.bounds));
            if ends.is_some_and(|(_, most)| facts.now >= most) {
                self.engine.cover(Situation::KeptByReader);
            }
        }
        // Every reader at the tail is told of everything that happens there.
        let model = &self.objects[at].model;
        if before != after && before.incarnation().is_some() {
            let announced = turn.broadcast.as_ref().is_some_and(|live| {
                let ended = after.incarnation() != before.incarnation();
                let segments = model.segments(before.incarnation().unwrap_or(0));
                let sent = |offset: machine::Offset| {
                    segments.position_sent((offset.segment, offset.position))
                };
                sent(live.from) == Some(before.length)
                    && (ended || sent(live.next) == Some(after.length))
            });
            if !announced {
                self.engine.fail(
                    Oracle::NoLostWake,
                    format!("a broadcast from {before:?} to {after:?}"),
                    format!("{:?}", turn.broadcast),
                );
            }
        }
        self.engine.raise(Watermark::Units, after.length);
        self.engine.raise(
            Watermark::Incarnations,
            self.objects[at].model.state.last_incarnation,
        );
    }

    /// Rows follow one another without gap or overlap, and end at the tail; where there is no
    /// stream there is nothing.
    fn check_rows(&mut self, at: ObjectId, turn: &Turn) {
        let object = &self.objects[at];
        let rows = &object.platform.storage.rows;
        let Some(incarnation) = &object.model.state.incarnation else {
            let outbox = u64::from(rows.tasks().next().is_some());
            if !rows.is_freed() || object.platform.storage.table_count() != outbox {
                let left = format!(
                    "{} rows, {} tables",
                    rows.row_count(),
                    object.platform.storage.table_count()
                );
                self.engine.fail(
                    Oracle::StorageFreed,
                    "nothing of a stream that is no more".to_owned(),
                    left,
                );
            }
            return;
        };
        if !turn.writes.is_empty() {
            let (mut key, mut bytes) = (RowKey::at(0), 0);
            let mut broken = None;
            for row in rows.rows() {
                if row.key != key || row.bytes_before != bytes {
                    broken = Some(format!(
                        "{} with {} before it",
                        row.key.stored(),
                        row.bytes_before
                    ));
                    break;
                }
                bytes += row.frames.bytes();
                key = if row.units == 0 {
                    row.key.next_part()
                } else {
                    RowKey::at(row.key.position() + row.units)
                };
            }
            let sealed = incarnation.segments.sealed();
            let tail = incarnation.content.len() - incarnation.segments.start(sealed).unwrap_or(0);
            if broken.is_none() && key != RowKey::at(tail) {
                broken = Some(format!("the tail at {tail}"));
            }
            if let Some(actual) = broken {
                return self.engine.fail(
                    Oracle::RowsTile,
                    format!("a row at {} with {bytes} before it", key.stored()),
                    actual,
                );
            }
            let inserted = turn.writes.iter().filter_map(|write| {
                if let Write::InsertHot { row, .. } = write {
                    Some(row.units)
                } else {
                    None
                }
            });
            let (mut count, mut parts) = (0, 0);
            for units in inserted {
                count += 1;
                parts += u64::from(units == 0);
            }
            let rows = rows.row_count();
            if count > 1 {
                self.engine.cover(Situation::SeveralRows);
            }
            if parts > 0 {
                self.engine.cover(Situation::MessageOverRows);
            }
            self.engine.raise(Watermark::Rows, rows);
        }
    }

    /// When a stream that nobody uses must be gone, and its storage free.
    pub(super) fn latest_end(&self, at: ObjectId) -> Option<u64> {
        let object = &self.objects[at];
        let incarnation = object.model.state.incarnation.as_ref()?;
        let (_, most) = incarnation.ends(&object.model.bounds)?;
        let slack =
            incarnation.ttl_ms().unwrap_or(0) / self.engine.settings.limits.touch_slack_divisor;
        let alarm = object.platform.alarm.stored?;
        let end = most.saturating_add(slack).max(alarm).max(self.engine.now());
        let delays = self.engine.settings.limits.alarm_delay_ms_min * 2
            + self.engine.settings.delays.skew * 4
            + 1_000;
        let near = end < self.engine.now() + 10_000_000;
        (near && !object.platform.alarm.abandoned)
            .then(|| end + delays + self.engine.settings.delays.commit * 2)
    }

    pub(super) fn judge_expiry(&mut self) {
        for at in self.objects.ids() {
            let now = self.engine.now();
            let object = &self.objects[at];
            let Some(incarnation) = &object.model.state.incarnation else {
                continue;
            };
            let ended = incarnation
                .ends(&object.model.bounds)
                .is_some_and(|(_, most)| most.saturating_add(1_000) < now);
            if ended
                && !object.platform.alarm.abandoned
                && self.latest_end(at).is_some_and(|end| end <= now)
            {
                let state = self.objects[at].state();
                self.engine.fail(
                    Oracle::Expiry,
                    "the storage of an expired stream to be free".to_owned(),
                    state,
                );
            }
        }
    }
}
