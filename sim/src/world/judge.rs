//! The judgement of turns, against the reference model and by the checkers.

use machine::wire::internal_headers;
use machine::{Body, Effect, Turn, live_reader};

use super::World;
use super::object::{has_rest, plain};
use super::outgoing::rendered;
use super::turn::Cause;
use crate::coverage::{Situation, Watermark};
use crate::ids::{CallId, ObjectId};
use crate::model::{Mismatch, TurnFacts};
use crate::oracles::{AfterTurn, Finding, Oracle, Position, Violation};

/// Returns the call that an effect answers.
fn answered(effect: &Effect) -> Option<(CallId, &Effect)> {
    match effect {
        Effect::Answer { call, .. } | Effect::Attach { call, .. } => {
            Some((CallId::from(*call), effect))
        }
        Effect::Put(_)
        | Effect::Collect { .. }
        | Effect::Call { .. }
        | Effect::Webhook { .. }
        | Effect::Index { .. }
        | Effect::Enqueue { .. } => None,
    }
}

/// Returns whether an effect is a page of an answer.
fn gives_page(effect: &Effect) -> bool {
    matches!(effect, Effect::Answer { answer, .. } if matches!(answer.body, Body::Plan(_)))
}

impl World<'_, '_> {
    /// Records the finding of a checker.
    pub(super) fn record(&mut self, finding: Finding) {
        if let Err(violation) = finding {
            let Violation {
                oracle,
                expected,
                actual,
            } = violation;
            self.engine.fail(oracle, expected, actual);
        }
    }

    /// Compares a turn with the reference model, and lets every checker judge it.
    pub(super) fn judge_turn(
        &mut self,
        at: ObjectId,
        cause: &Cause,
        turn: &Turn,
        facts: TurnFacts,
        before: Position,
    ) {
        let model_incarnation = self.models[at].state.incarnation.clone();
        let verdict = match (cause.calls.as_slice(), cause.page_of) {
            // Both expire a stream that is due, and may seal.
            ([], _) if cause.is_alarm || cause.operator.is_some() => self.models[at].alarm(&facts),
            ([], Some(fetching)) => {
                let given = turn.after_commit.iter().any(gives_page);
                let incarnation = self.cold.incarnation_of(fetching);
                self.models[at].continued(incarnation, given, &facts)
            }
            ([], None) => {
                let model = &mut self.models[at];
                if cause.is_gone {
                    model.gone(facts.now, facts.attached);
                }
                model.turned(&facts)
            }
            (calls, _) => {
                let answered = self.judge_answers(at, calls, turn, facts);
                let Some(verdict) = answered else { return };
                verdict
            }
        };
        self.engine.check(Oracle::Model, verdict);
        if let Some(call) = &cause.operator {
            self.judge_operator(at, call, &turn.after_commit);
        }
        self.note_tiers(at, turn);
        let model = &self.models[at];
        let after = Position::of(&model.state);
        let seen = AfterTurn {
            subject: self.objects[at].subject(at, model),
            turn,
            limits: &self.engine.settings.limits,
            cold: self.cold.objects(),
            before,
            after,
            is_idle_alarm: cause.is_idle_alarm,
            rotates: cause.rotates,
            alarm_believed: cause.alarm_believed,
            now: self.engine.now(),
        };
        let coverage = &mut self.engine.recorder.coverage;
        for violation in self.checkers.after_turn(&seen, coverage) {
            self.record(Err(violation));
        }
        if facts.dropped {
            let is_delete = |call: &CallId| self.calls[*call].request.method == "DELETE";
            let deleted = cause.calls.iter().any(is_delete);
            if facts.attached > 0 {
                self.engine.cover(if deleted {
                    Situation::DeletedUnderReader
                } else {
                    Situation::ExpiredUnderReader
                });
            }
            if !deleted {
                self.engine.cover(if cause.is_alarm {
                    Situation::ExpiredByAlarm
                } else {
                    Situation::ExpiredByCall
                });
                let ends = model_incarnation
                    .and_then(|incarnation| incarnation.ends(&self.models[at].bounds));
                if ends.is_some_and(|(least, most)| least < most && facts.now > least + 1) {
                    self.engine.cover(Situation::ExpiredLate);
                }
            }
        } else if facts.attached > 0 {
            let ends =
                model_incarnation.and_then(|incarnation| incarnation.ends(&self.models[at].bounds));
            if ends.is_some_and(|(_, most)| facts.now >= most) {
                self.engine.cover(Situation::KeptByReader);
            }
        }
        self.engine.raise(Watermark::Units, after.length);
        self.engine.raise(
            Watermark::Incarnations,
            self.models[at].state.last_incarnation,
        );
    }

    /// Holds the answers of a turn against the reference model, one after the other, as if each
    /// call had come alone. Calls that the turn has put off have no answer. Returns `None` when the
    /// answers are not those of the calls.
    fn judge_answers(
        &mut self,
        at: ObjectId,
        calls: &[CallId],
        turn: &Turn,
        facts: TurnFacts,
    ) -> Option<Result<(), Mismatch>> {
        let answers: Vec<_> = turn.after_commit.iter().filter_map(answered).collect();
        let deferred = turn.deferred.iter().map(|(id, _)| CallId::from(*id));
        let expected = answers.iter().map(|(call, _)| *call).chain(deferred);
        if answers.is_empty() || !expected.eq(calls.iter().copied()) {
            let expected = "one answer to each call, in order".to_owned();
            let actual = format!("{:?}", turn.after_commit);
            self.engine.fail(Oracle::Contract, expected, actual);
            return None;
        }
        if answers.len() > 1 {
            self.engine.cover(Situation::AppendsTogether);
        }
        let most = self.engine.settings.limits.turn_calls_max;
        if calls.len() as u64 > most {
            let actual = format!("{} calls in one turn", calls.len());
            self.engine
                .fail(Oracle::Contract, format!("{most} at most"), actual);
            return None;
        }
        if !turn.deferred.is_empty() {
            self.engine.cover(Situation::AppendDeferred);
        }
        let last = answers.len() - 1;
        for (index, (call, effect)) in answers.into_iter().enumerate() {
            let (response, kept, page_end, has_rest) = match effect {
                Effect::Answer { answer, .. } => {
                    let storage = &self.objects[at].platform.storage;
                    match rendered(storage, &self.cold, answer) {
                        Ok(response) => {
                            let head = response
                                .header(internal_headers::LIVE_HEAD)
                                .and_then(live_reader::LiveHead::from_header);
                            let end = head.map(|head| (head.next.segment, head.next.position));
                            (response, false, end, has_rest(answer))
                        }
                        Err(damaged) => {
                            let expected = "what can be rendered".to_owned();
                            self.engine.fail(Oracle::Storage, expected, damaged);
                            return None;
                        }
                    }
                }
                Effect::Attach { subscriber, .. } => (plain(&subscriber.answer), true, None, false),
                Effect::Put(_)
                | Effect::Collect { .. }
                | Effect::Call { .. }
                | Effect::Webhook { .. }
                | Effect::Index { .. }
                | Effect::Enqueue { .. } => unreachable!("only answers are judged"),
            };
            let facts = TurnFacts {
                // A stream expires before the first call, and a segment is sealed after the last.
                dropped: facts.dropped && index == 0,
                sealed: facts.sealed.filter(|_| index == last),
                kept,
                page_end,
                has_rest,
                ..facts
            };
            let request = &self.calls[call].request;
            let verdict = self.models[at].answered(request, &response, &facts);
            if verdict.is_err() {
                return Some(verdict);
            }
        }
        Some(Ok(()))
    }

    /// Returns the time by which an unused stream must be gone and its storage free.
    pub(super) fn latest_end(&self, at: ObjectId) -> Option<u64> {
        let (object, model) = (&self.objects[at], &self.models[at]);
        let incarnation = model.state.incarnation.as_ref()?;
        let (_, most) = incarnation.ends(&model.bounds)?;
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

    /// Judges whether the streams that have expired are gone.
    pub(super) fn judge_expiry(&mut self) {
        for at in self.objects.ids() {
            let now = self.engine.now();
            let (object, model) = (&self.objects[at], &self.models[at]);
            let Some(incarnation) = &model.state.incarnation else {
                continue;
            };
            let ended = incarnation
                .ends(&model.bounds)
                .is_some_and(|(_, most)| most.saturating_add(1_000) < now);
            if ended
                && !object.platform.alarm.abandoned
                && self.latest_end(at).is_some_and(|end| end <= now)
            {
                let state = self.of_object(at, object).text;
                self.engine.fail(
                    Oracle::Expiry,
                    "the storage of an expired stream to be free".to_owned(),
                    state,
                );
            }
        }
    }
}
