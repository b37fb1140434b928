//! Creation (protocol 5.1): idempotent, with optional content and closure, in one turn. Forks take
//! several; see [`super::fork`].

use super::outbox::registry_shard;
use super::{Creation, RowChange, Step, StepError, Stream, StreamState};
use super::{append, incarnation, precondition, producer};
use crate::rows::{Closed, Expiry, ManifestRow, Write};
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
            if state.row.lineage.deleted_at.is_some() {
                return Err(Refusal::InUse.into());
            }
            state.meets(&create.preconditions)?;
            return match state.difference(&create) {
                None => Ok(state.created_answer(200)),
                Some(what) => Err(Refusal::Exists { what }.into()),
            };
        }
        precondition::check_without_stream(&create.preconditions)?;
        let incarnation = incarnation(self.instance_seed, self.created);
        self.created += 1;
        let about = Creation {
            incarnation,
            version: self.next_version(now),
            registered: registry_shard(&create.name, &self.limits),
            name: create.name.clone(),
            content_type: create.content_type.clone(),
            expiry: create.expiry.clone(),
        };
        let state = StreamState::new(now, about);
        self.finish_create(now, create, (state, Vec::new()), rows, step)
    }

    /// Creates a stream with its initial content. `manifest` has what it inherits.
    pub(super) fn finish_create(
        &mut self,
        now: Millis,
        create: Create,
        (mut state, manifest): (StreamState, Vec<ManifestRow>),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Answer, StepError> {
        let producer = create.producer;
        if let Some(stamp) = &producer {
            producer::admit(stamp, None)?;
        }
        // An empty array creates a stream without messages (protocol 9.1.3).
        let records = append::records(state.format, &create.body, &self.limits)?
            .filter(|records| !records.is_empty());
        // From here on the request cannot be refused.
        step.row = RowChange::Insert;
        step.opens_segment = true;
        let writes = &mut step.turn.writes;
        writes.push(Write::CreateStreamTable);
        if !manifest.is_empty() {
            writes.push(Write::CreateManifest);
            writes.extend(manifest.into_iter().map(Write::InsertManifest));
        }
        if create.closed {
            let by = producer.clone();
            state.row.closed = Some(Closed { by });
        }
        self.announce_creation(&mut state.row, rows, &mut step.turn)?;
        if let Some(records) = records {
            state.push(now, records, producer, None, &self.limits, &mut step.turn);
            state.ending = Ending::after(state.ending, &create.body);
        }
        state.seal_if_full(now, &self.limits, rows, step)?;
        let answer = state
            .created_answer(201)
            .with(header::LOCATION, create.location);
        self.state = Some(state);
        Ok(answer)
    }
}

impl StreamState {
    /// Returns the first property in which the existing stream differs from the request.
    fn difference(&self, create: &Create) -> Option<&'static str> {
        let (is_source, names_type, expiry) = match (&self.row.lineage.fork, &create.fork) {
            (None, None) => (true, true, &self.row.expiry),
            (Some(fork), Some(asked)) => {
                // Without an offset the request asks for the tail at that time, wherever it was.
                let is_fork_offset = match asked.offset {
                    None => true,
                    Some(offset) => fork.is_at(offset),
                };
                let is_source = fork.source == asked.source
                    && is_fork_offset
                    && fork.sub_offset == asked.sub_offset;
                (is_source, asked.has_content_type, &fork.asked_expiry)
            }
            (None, Some(_)) | (Some(_), None) => (false, true, &self.row.expiry),
        };
        let same_type = content_type::matches(&self.row.content_type, &create.content_type);
        if names_type && !same_type {
            Some("content type")
        } else if !is_source {
            Some("source or fork offset")
        } else if !same_expiry(expiry, &create.expiry) {
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
