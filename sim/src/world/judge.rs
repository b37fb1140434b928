//! The judgement of turns, against the reference model and by the checkers.

use machine::wire::internal_headers;
use machine::{Body, Effect, Turn, live_reader};

use super::World;
use super::object::{has_rest, plain};
use super::outgoing::rendered;
use super::turn::Cause;
use crate::coverage::{Situation, Watermark};
use crate::ids::ObjectId;
use crate::model::TurnFacts;
use crate::oracles::{AfterTurn, Finding, Oracle, Position, Violation};

const fn is_answer(effect: &Effect) -> bool {
    matches!(effect, Effect::Answer { .. } | Effect::Attach { .. })
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
        cause: Cause,
        turn: &Turn,
        facts: TurnFacts,
        before: Position,
    ) {
        let Cause {
            call,
            page_of,
            is_alarm,
            is_gone,
            is_idle_alarm,
            alarm_believed,
        } = cause;
        let model_incarnation = self.models[at].state.incarnation.clone();
        let model = &mut self.models[at];
        let object = &self.objects[at];
        let verdict = match call {
            None if is_alarm => model.alarm(&facts),
            None if let Some(fetching) = page_of => {
                let given = turn.after_commit.iter().any(gives_page);
                let incarnation = self.cold.incarnation_of(fetching);
                model.continued(incarnation, given, &facts)
            }
            None => {
                if is_gone {
                    model.gone(facts.now, facts.attached);
                }
                model.turned(&facts)
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
                model.answered(
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
            is_idle_alarm,
            alarm_believed,
            now: self.engine.now(),
        };
        let coverage = &mut self.engine.recorder.coverage;
        for violation in self.checkers.after_turn(&seen, coverage) {
            self.record(Err(violation));
        }
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
