//! The fork's side of forks (protocol 4.2): a creation that asks its source first.
//!
//! The creation takes several turns. Until the last one, nothing of the stream is stored: only the
//! release of the pin, as a task that is due when the creation has taken too long. The turn that
//! creates the stream removes that task. So a crash, a lost answer or a refusal at any point leaves
//! no pin behind.
//!
//! The fork numbers its own segments after those that it inherits. So what it inherits looks like
//! sealed segments of its own, the last of which can end early.

use std::collections::VecDeque;

use super::outbox::registry_shard;
use super::{
    Creation, Response, Step, StepError, Stream, StreamState, append, effect_of, incarnation,
    precondition, producer,
};
use crate::outbox::{Queue, TaskKind};
use crate::rows::{Expiry, Fork, Incarnation, ManifestRow};
use crate::storage::{Storage, StorageError};
use crate::wire::content_type;
use crate::wire::fork::{
    Description, ForkAnswer, ForkCall, ForkPoint, ForkRequest, SourceRefusal, inherited,
    segments_before,
};
use crate::wire::request::Create;
use crate::wire::text::Ending;
use crate::{Answer, CallId, CallOutcome, Effect, EffectId, Millis, Offset, Refusal};

/// A creation that waits for its source, and the creations that wait behind it.
#[derive(Clone, Debug)]
pub(super) struct Forking {
    id: CallId,
    create: Create,
    stage: Stage,
    /// The call of the source that is under way.
    effect: EffectId,
    /// When the creation counts as failed, and what it has pinned is released.
    due_at: Millis,
    waiting: VecDeque<(CallId, Create)>,
    /// Bytes in the bodies of those that wait.
    waiting_bytes: u64,
}

#[derive(Clone, Debug)]
enum Stage {
    Describing,
    Bounding(Description),
    Pinning {
        source: Description,
        place: Offset,
        incarnation: Incarnation,
        /// The task that releases the pin.
        task: u64,
    },
}

/// What follows an answer of the source.
enum Next {
    /// The creation goes on with another call.
    Call,
    /// The creation has ended.
    Ended(Answer),
}

impl Stream {
    /// Creates a stream, or begins to create a fork. While a fork is being created, other creations
    /// wait.
    pub(super) fn begin_create(
        &mut self,
        now: Millis,
        (id, create): (CallId, Create),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        if let Some(forking) = &mut self.forking {
            let bytes = forking
                .waiting_bytes
                .saturating_add(create.body.len() as u64);
            let is_full = bytes > self.limits.waiting_bytes_max
                || forking.waiting.len() as u64 >= self.limits.turn_calls_max;
            if is_full {
                let answer = Answer::unavailable(&self.limits);
                let effect = Effect::Answer { call: id, answer };
                step.turn.after_commit.push(effect);
            } else {
                forking.waiting_bytes = bytes;
                forking.waiting.push_back((id, create));
            }
            return Ok(());
        }
        self.create_or_fork(now, (id, create), VecDeque::new(), rows, step)
    }

    /// Runs a creation, and those behind it until one has to wait for its source.
    fn create_or_fork(
        &mut self,
        now: Millis,
        first: (CallId, Create),
        mut waiting: VecDeque<(CallId, Create)>,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let mut next = Some(first);
        while let Some((id, create)) = next {
            let begins = match &create.fork {
                Some(fork) if self.state.is_none() => self.check_fork(&create, fork).map(Some),
                _ => Ok(None),
            };
            let answer = match begins {
                Ok(Some(call)) => {
                    let source = create.fork.as_ref().map(|fork| fork.source.clone());
                    let source = source.expect("the creation is a fork's");
                    self.forking = Some(Box::new(Forking {
                        id,
                        create,
                        stage: Stage::Describing,
                        effect: self.call_source(source, &call, step),
                        due_at: now.plus(self.limits.fork_time_ms),
                        waiting_bytes: waiting
                            .iter()
                            .map(|(_, create)| create.body.len() as u64)
                            .sum(),
                        waiting,
                    }));
                    return Ok(());
                }
                Ok(None) => self.create(now, create, rows, step),
                Err(refusal) => Err(refusal.into()),
            };
            let effect = effect_of(id, answer.map(Response::Answer), false)?;
            step.turn.after_commit.push(effect);
            next = waiting.pop_front();
        }
        Ok(())
    }

    /// Refuses what can be refused without the source, and returns the first call.
    fn check_fork(&self, create: &Create, fork: &ForkRequest) -> Result<ForkCall, Refusal> {
        precondition::check_without_stream(&create.preconditions)?;
        if let Some(stamp) = &create.producer {
            producer::admit(stamp, None)?;
        }
        if !self.limits.cold {
            return Err(Refusal::NotSupported("forks without a cold tier"));
        }
        if fork.source == create.name {
            return Err(Refusal::SourceNotFound);
        }
        Ok(ForkCall::Describe {
            offset: fork.offset,
            sub_offset: fork.sub_offset,
        })
    }

    fn call_source(&mut self, to: String, call: &ForkCall, step: &mut Step) -> EffectId {
        let effect = self.outbox.next_effect();
        step.turn.after_commit.push(Effect::Call {
            effect,
            to,
            request: call.request(),
        });
        effect
    }

    /// Returns whether a creation waits for this effect.
    pub(super) fn waits_for(&self, effect: EffectId) -> bool {
        let forking = self.forking.as_ref();
        forking.is_some_and(|forking| forking.effect == effect)
    }

    /// Returns when the creation that waits for its source counts as failed.
    pub(super) fn creation_due_at(&self) -> Option<Millis> {
        self.forking.as_ref().map(|forking| forking.due_at)
    }

    /// Ends a creation whose source has not answered in time, so that others need not wait for it.
    pub(super) fn end_overdue_creation(
        &mut self,
        now: Millis,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        if self.creation_due_at().is_some_and(|due_at| due_at <= now) {
            self.source_answered(now, &CallOutcome::Failed, rows, step)?;
        }
        Ok(())
    }

    /// Goes on with a creation after its source has answered.
    pub(super) fn source_answered(
        &mut self,
        now: Millis,
        outcome: &CallOutcome,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let mut forking = self.forking.take().expect("a creation waits");
        assert!(
            self.state.is_none(),
            "no stream is created while a fork is being created"
        );
        let next = match self.go_on(now, &mut forking, outcome, rows, step) {
            Ok(Next::Call) => {
                self.forking = Some(forking);
                return Ok(());
            }
            Ok(Next::Ended(answer)) => Ok(Response::Answer(answer)),
            Err(error) => Err(error),
        };
        let effect = effect_of(forking.id, next, false)?;
        step.turn.after_commit.push(effect);
        match forking.waiting.pop_front() {
            Some(first) => self.create_or_fork(now, first, forking.waiting, rows, step),
            None => Ok(()),
        }
    }

    fn go_on(
        &mut self,
        now: Millis,
        forking: &mut Forking,
        outcome: &CallOutcome,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Next, StepError> {
        let answered = match outcome {
            CallOutcome::Answered { status: 200, body } => ForkAnswer::decode(body),
            CallOutcome::Answered { .. } | CallOutcome::Failed => None,
        };
        let unavailable = || Ok(Next::Ended(Answer::unavailable(&self.limits)));
        // What is pinned is being released.
        if forking.due_at <= now {
            return unavailable();
        }
        let Some((answer, rest)) = answered else {
            return unavailable();
        };
        if let ForkAnswer::Refused(refusal) = answer {
            return Err(Refusal::from(refusal).into());
        }
        let request = forking.create.fork.as_ref();
        let request = request.expect("the creation is a fork's").clone();
        match (forking.stage.clone(), answer) {
            (Stage::Describing, ForkAnswer::Described(source)) => {
                let create = &forking.create;
                if request.has_content_type
                    && !content_type::matches(&create.content_type, &source.content_type)
                {
                    let expected = source.content_type;
                    return Err(Refusal::ContentTypeMismatch { expected }.into());
                }
                // Refuse a bad body before anything is pinned.
                let format = content_type::format(&source.content_type);
                append::records(format, &create.body, &self.limits)?;
                match source.place.clone() {
                    ForkPoint::At(place) => self.pin_source(forking, source, place, rows, step)?,
                    ForkPoint::InInherited {
                        owner,
                        incarnation,
                        from: at,
                        ..
                    } => {
                        let call = ForkCall::Bound { incarnation, at };
                        forking.effect = self.call_source(owner, &call, step);
                        forking.stage = Stage::Bounding(source);
                    }
                }
                Ok(Next::Call)
            }
            (Stage::Bounding(source), ForkAnswer::Bound(end)) => {
                let ForkPoint::InInherited { from, units, .. } = source.place else {
                    unreachable!("only a place in an inherited segment has an unknown bound");
                };
                let place = from.position + request.sub_offset;
                if place > end.min(units) {
                    return Err(Refusal::from(SourceRefusal::SubOffsetTooLarge).into());
                }
                let place = Offset::new(from.segment, place);
                self.pin_source(forking, source, place, rows, step)?;
                Ok(Next::Call)
            }
            (
                Stage::Pinning {
                    source,
                    place,
                    incarnation,
                    task,
                },
                ForkAnswer::Pinned,
            ) => {
                let Ok(manifest) = inherited(&rest, place) else {
                    return unavailable();
                };
                let queue = Queue::Call(request.source.clone());
                let turn = &mut step.turn;
                // The clock may have been set back since the release was begun.
                if !self.outbox.remove(&queue, task, rows, &self.limits, turn)? {
                    return unavailable();
                }
                let fork = Fork {
                    source: request.source.clone(),
                    incarnation: source.incarnation,
                    depth: source.depth + 1,
                    fork_offset: source.fork_offset,
                    sub_offset: request.sub_offset,
                    asked_expiry: forking.create.expiry.clone(),
                    segments: segments_before(place),
                    units: place.position,
                };
                let create = Create {
                    content_type: if request.has_content_type {
                        forking.create.content_type.clone()
                    } else {
                        source.content_type
                    },
                    expiry: if forking.create.expiry == Expiry::Never {
                        source.expiry
                    } else {
                        forking.create.expiry.clone()
                    },
                    ..forking.create.clone()
                };
                let answer =
                    self.create_fork(now, create, incarnation, (fork, manifest), rows, step)?;
                Ok(Next::Ended(answer))
            }
            (Stage::Describing | Stage::Bounding(_) | Stage::Pinning { .. }, _) => unavailable(),
        }
    }

    /// Stores the release of the pin, and asks for the pin.
    fn pin_source(
        &mut self,
        forking: &mut Forking,
        source: Description,
        place: Offset,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let incarnation = incarnation(self.instance_seed, self.created);
        self.created += 1;
        let request = forking.create.fork.as_ref();
        let to = request.expect("the creation is a fork's").source.clone();
        let name = forking.create.name.clone();
        let due_at = forking.due_at;
        let release = release(&to, source.incarnation, incarnation, &name);
        let task = self
            .outbox
            .add(due_at, release, rows, &self.limits, &mut step.turn)?;
        let pin = ForkCall::Pin {
            fork: incarnation,
            name,
            source: source.incarnation,
            place,
        };
        forking.effect = self.call_source(to, &pin, step);
        forking.stage = Stage::Pinning {
            source,
            place,
            incarnation,
            task,
        };
        Ok(())
    }

    /// Creates the stream, whose source has pinned what it inherits.
    fn create_fork(
        &mut self,
        now: Millis,
        create: Create,
        incarnation: Incarnation,
        (fork, manifest): (Fork, Vec<ManifestRow>),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        let about = Creation {
            incarnation,
            version: self.next_version(now),
            registered: registry_shard(&create.name, &self.limits),
            name: create.name.clone(),
            content_type: create.content_type.clone(),
            expiry: create.expiry.clone(),
        };
        let mut state = StreamState::new(now, about);
        state.row.segment = fork.segments;
        state.sealed_units = fork.units;
        if fork.segments > 0 {
            state.ending = Ending::Unknown;
        }
        state.row.lineage.fork = Some(fork);
        self.finish_create(now, create, (state, manifest), rows, step)
    }
}

/// Returns the task that gives a pin back.
pub(super) fn release(to: &str, source: Incarnation, fork: Incarnation, name: &str) -> TaskKind {
    let name = name.to_owned();
    TaskKind::Call {
        to: to.to_owned(),
        request: ForkCall::Release { fork, name, source }.request(),
        create: None,
    }
}
