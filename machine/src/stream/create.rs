//! Creation (protocol 5.1): idempotent, with optional content and closure, in one turn.

use super::outbox::registry_shard;
use super::{Creation, RowChange, Step, StepError, Stream, StreamState};
use super::{incarnation, precondition, producer};
use crate::rows::{Closed, Expiry, Write};
use crate::storage::Storage;
use crate::wire::request::Create;
use crate::wire::text::Ending;
use crate::wire::{content_type, header};
use crate::{Answer, Millis, Refusal};

impl Stream {
    pub(super) fn create(
        &mut self,
        now: Millis,
        create: Create,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        if let Some(state) = &self.state {
            state.meets(&create.preconditions)?;
            return match state.difference(&create) {
                None => Ok(state.created_answer(200)),
                Some(what) => Err(Refusal::Exists { what }.into()),
            };
        }
        precondition::check_without_stream(&create.preconditions)?;
        let incarnation = incarnation(self.instance_seed, self.created);
        let about = Creation {
            incarnation,
            version: self.next_version(now),
            registered: registry_shard(&create.name, &self.limits),
            name: create.name,
            content_type: create.content_type,
            expiry: create.expiry,
        };
        let mut state = StreamState::new(now, about);
        let producer = create.producer;
        if let Some(stamp) = &producer {
            producer::admit(stamp, None)?;
        }
        // An empty array creates a stream without messages (protocol 9.1.3).
        let records = state
            .records(&create.body, &self.limits)?
            .filter(|records| !records.is_empty());
        // From here on the request cannot be refused.
        step.row = RowChange::Insert;
        step.opens_segment = true;
        step.turn.writes.push(Write::CreateStreamTable);
        self.announce_creation(&mut state.row, rows, &mut step.turn)?;
        let by = producer.clone();
        if let Some(records) = records {
            state.push(now, records, producer, None, &self.limits, &mut step.turn);
            state.ending = Ending::after(state.ending, &create.body);
        }
        if create.closed {
            state.row.closed = Some(Closed { by });
        }
        state.seal_if_full(now, &self.limits, rows, step)?;
        let answer = state
            .created_answer(201)
            .with(header::LOCATION, create.location);
        self.created += 1;
        self.state = Some(state);
        Ok(answer)
    }
}

impl StreamState {
    /// Returns the first property in which the existing stream differs from the request.
    fn difference(&self, create: &Create) -> Option<&'static str> {
        if !content_type::matches(&self.row.content_type, &create.content_type) {
            Some("content type")
        } else if !same_expiry(&self.row.expiry, &create.expiry) {
            Some("TTL or expiry")
        } else if self.is_closed() != create.closed {
            Some("closure status")
        } else {
            None
        }
    }

    fn created_answer(&self, status: u16) -> Answer {
        Answer::uncached(status)
            .with(header::CONTENT_TYPE, self.row.content_type.clone())
            .at(self.tail())
            .closed(self.is_closed())
    }
}

fn same_expiry(one: &Expiry, other: &Expiry) -> bool {
    match (one, other) {
        (Expiry::At { at: one, .. }, Expiry::At { at: other, .. }) => one == other,
        (one, other) => one == other,
    }
}
