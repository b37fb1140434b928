//! A dead instance that goes on with what it had begun.

use std::cell::Cell;

use machine::rows::{
    HotTable, Incarnation, ProducerState, RowKey, RowMeta, SealedSegment, StreamRow, Task,
    WriterColumns,
};
use machine::{
    AlarmChange, Answer, Call, Effect, Input, Millis, Refusal, Rows, StorageError, Stream,
};

use super::client::Received;
use super::object::plain;
use super::{Event, World};
use crate::coverage::Situation;
use crate::ids::CallId;
use crate::model::{State, TurnFacts};
use crate::oracles::{Oracle, Position};
use crate::platform::Clock;

/// What a dead instance goes on with.
#[derive(Debug)]
pub(super) struct StaleInstance {
    pub(super) stream: Option<Stream>,
    pub(super) state: State,
    pub(super) clock: Clock,
}

/// The storage of a dead instance: whoever touches it is stopped.
#[derive(Default)]
struct Grave {
    touched: Cell<bool>,
}

impl Grave {
    fn touch<T>(&self) -> Result<T, StorageError> {
        self.touched.set(true);
        Err(StorageError("this instance is dead".to_owned()))
    }
}

impl Rows for Grave {
    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.touch()
    }

    fn at_or_before(
        &self,
        _table: HotTable,
        _key: RowKey,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.touch()
    }

    fn writers(
        &self,
        _table: HotTable,
        _each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        self.touch()
    }

    fn first_at_or_after_bytes(
        &self,
        _table: HotTable,
        _after: RowKey,
        _bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        self.touch()
    }

    fn producer(&self, _id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.touch()
    }

    fn segment(&self, _number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.touch()
    }

    fn retried_segments(&self, _each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.touch()
    }

    fn outbox(&self) -> Result<Option<Vec<Task>>, StorageError> {
        self.touch()
    }

    fn attached(&self, _incarnation: Incarnation) -> Result<u64, StorageError> {
        self.touch()
    }
}

impl World<'_, '_> {
    /// A dead instance goes on with a request that it had begun: it may compute, but never touch
    /// its storage.
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
        let grave = Grave::default();
        let refused = whole.is_err();
        let answered = match whole {
            Err(refusal) => Some(Answer::refusal(&refusal)),
            Ok(whole) => stream.and_then(|mut stream| {
                let input = Input::Call {
                    id: call.into(),
                    call: whole,
                };
                let mut turn = stream.step(Millis(now), input, &grave).ok()?;
                let quiet = turn.writes.is_empty()
                    && turn.alarm == AlarmChange::Keep
                    && !grave.touched.get();
                match turn.after_commit.pop() {
                    Some(Effect::Answer { answer, .. }) if quiet => Some(answer),
                    _ => None,
                }
            }),
        };
        let Some(answer) = answered else {
            self.engine.cover(Situation::StaleStopped);
            self.engine
                .note("stale", || format!("c{call} is stopped at its storage"));
            let delay = self.engine.network_delay();
            self.engine.schedule(delay, Event::Lost { call });
            return;
        };
        self.engine.cover(Situation::StaleAnswered);
        let response = plain(&answer);
        self.engine
            .note("stale", || format!("c{call} {}", response.line()));
        let position = Position::of(&state);
        let model = &mut self.objects[at].model;
        let facts = TurnFacts {
            now,
            attached: 0,
            dropped: false,
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
        let delay = self.engine.network_delay();
        self.engine.schedule(
            delay,
            Event::Reply {
                call,
                received: Received {
                    response,
                    position,
                    connection: None,
                    fetching: None,
                },
            },
        );
    }
}
