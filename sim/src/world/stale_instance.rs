//! An instance that has died and still finishes a request that it had begun.

use std::cell::Cell;

use machine::{
    AlarmChange, Answer, Call, Context, Effect, Guarded, Input, MemoryRows, Millis, Refusal,
    StorageError, Stream,
};

use super::object::plain;
use super::{Event, World};
use crate::coverage::Situation;
use crate::ids::CallId;
use crate::model::{State, TurnFacts};
use crate::oracles::{Oracle, Position};
use crate::platform::Clock;

/// The memory of an instance that has died.
#[derive(Debug)]
pub(super) struct StaleInstance {
    pub(super) stream: Option<Stream>,
    pub(super) state: State,
    pub(super) clock: Clock,
}

impl World<'_, '_> {
    /// Lets a dead instance finish a request. It may compute, but it must not touch its storage.
    pub(super) fn continue_stale(
        &mut self,
        call: CallId,
        stale_instance: StaleInstance,
        whole: Result<Call, Refusal>,
    ) {
        let StaleInstance {
            stream,
            state,
            mut clock,
        } = stale_instance;
        let at = self.calls[call].object;
        let now = clock.read(self.engine.now());
        let touched = Cell::new(false);
        let storage = Guarded::new(&None::<&MemoryRows>, || {
            touched.set(true);
            Err(StorageError("this instance is dead".to_owned()))
        });
        let refused = whole.is_err();
        let answered = match whole {
            Err(refusal) => Some(Answer::refusal(&refusal)),
            Ok(whole) => stream.and_then(|mut stream| {
                let input = Input::Call {
                    id: call.into(),
                    call: whole,
                };
                let context = Context {
                    now: Millis(now),
                    storage: &storage,
                    subscribers: &|_| {
                        touched.set(true);
                        Err(StorageError("this instance is dead".to_owned()))
                    },
                    entropy: &|| -> [u8; 32] { unreachable!("there are no subscriptions here") },
                };
                let mut turn = stream.step(&context, input).ok()?;
                let quiet =
                    turn.writes.is_empty() && turn.alarm == AlarmChange::Keep && !touched.get();
                match turn.after_commit.pop() {
                    Some(Effect::Answer { answer, .. }) if quiet => Some(answer),
                    _ => None,
                }
            }),
        };
        let Some(answer) = answered else {
            self.engine.cover(Situation::StaleStopped);
            self.engine.note(format_args!("object {at}"), || {
                format!("stale: c{call} is stopped at its storage")
            });
            let delay = self.engine.network_delay();
            self.engine.schedule(delay, Event::Lost { call });
            return;
        };
        self.engine.cover(Situation::StaleAnswered);
        let response = plain(&answer);
        self.engine.note(format_args!("object {at}"), || {
            format!("stale: c{call} {}", response.line())
        });
        let position = Position::of(&state);
        let model = &mut self.models[at];
        let facts = TurnFacts {
            now,
            attached: 0,
            dropped: false,
            hidden: false,
            kept: false,
            page_end: None,
            has_rest: false,
            sealed: None,
        };
        let request = &self.calls[call].request;
        let verdict = if refused {
            model.refused(request, &response)
        } else {
            model.answered_in(state, request, &response, &facts)
        };
        self.engine.check(Oracle::Model, verdict);
        self.schedule_reply(call, response, position);
    }
}
