//! Creation (protocol 5.1): idempotent, with optional content and closure, all in one turn.

use super::chores::Chores;
use super::{About, Life, Stop, Stream, incarnation, precondition, producer};
use crate::rows::{Closed, Expiry, Rows, Write};
use crate::wire::request::Create;
use crate::wire::text::Ending;
use crate::wire::{content_type, header};
use crate::{Answer, Millis, Refusal, Turn};

impl Stream {
    pub(super) fn create(
        &mut self,
        now: Millis,
        create: Create,
        rows: &impl Rows,
        turn: &mut Turn,
    ) -> Result<Answer, Stop> {
        if let Some(life) = &self.life {
            life.meets(&create.preconditions)?;
            return match life.difference(&create) {
                None => Ok(life.created_answer(200)),
                Some(what) => Err(Refusal::Exists { what }.into()),
            };
        }
        precondition::met_by_none(&create.preconditions)?;
        let incarnation = incarnation(self.nonce, self.created);
        let about = About {
            incarnation,
            version: self.chores.next_version(now),
            registered: Chores::registers(&create.name, &self.limits),
            name: create.name,
            content_type: create.content_type,
            expiry: create.expiry,
        };
        let mut life = Life::new(now, about);
        let producer = create.producer;
        if let Some(stamp) = &producer {
            producer::admit(stamp, None)?;
        }
        // An empty array is a fine beginning, and no message (protocol 9.1.3).
        let records = life
            .records(&create.body, &self.limits)?
            .filter(|records| !records.is_empty());
        // Nothing is refused from here on.
        turn.writes.push(Write::CreateTables);
        self.chores.created(&mut life.head, &self.limits, turn);
        let by = producer.clone();
        if let Some(records) = records {
            life.push(now, records, producer, None, &self.limits, turn);
            life.ending = Ending::after(life.ending, &create.body);
        }
        if create.closed {
            life.head.closed = Some(Closed { by });
        }
        life.seal_if_full(now, &self.limits, rows, turn)?;
        let answer = life.created_answer(201).with(header::LOCATION, create.location);
        self.created += 1;
        self.life = Some(life);
        Ok(answer)
    }
}

impl Life {
    /// In what an existing stream differs from the one asked for.
    fn difference(&self, create: &Create) -> Option<&'static str> {
        if !content_type::matches(&self.head.content_type, &create.content_type) {
            Some("content type")
        } else if !same_expiry(&self.head.expiry, &create.expiry) {
            Some("TTL or expiry")
        } else if self.is_closed() != create.closed {
            Some("closure status")
        } else {
            None
        }
    }

    fn created_answer(&self, status: u16) -> Answer {
        Answer::uncached(status)
            .with(header::CONTENT_TYPE, self.head.content_type.clone())
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
