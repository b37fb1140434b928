//! The source's side of forks (protocol 4.2): what a fork inherits, the pins that keep it, and the
//! deletion of a stream that still has forks.
//!
//! A pin belongs to one incarnation of a fork and to one of the source, so that a call that arrives
//! twice or late counts once. A released pin stays for [`Limits::collect_grace_ms`], so that a call
//! that was sent before its release does not renew it.

use std::sync::Arc;

use super::read::Source;
use super::seal::missing;
use super::{Step, Stream, StreamState};
use crate::manifest::{InheritedSegment, ManifestWriter, Owner};
use crate::rows::{Incarnation, ManifestRow, Pin, RowKey, SealedSegment, StoredSegment, Write};
use crate::segment::append_ends;
use crate::storage::hot_table::HotTableReader;
use crate::storage::{Storage, StorageError};
use crate::wire::answer::Body;
use crate::wire::fork::{
    Description, ForkAnswer, ForkCall, ForkPoint, SourceRefusal, segments_before,
};
use crate::{Answer, Broadcast, CallId, Effect, Limits, Millis, Offset, StreamEnd, manifest};

/// A pin whose call is answered once all that it keeps is in the cold tier.
#[derive(Clone, Debug)]
pub(super) struct WaitingPin {
    call: CallId,
    fork: Incarnation,
    place: Offset,
}

/// How a source answers a call.
enum Response {
    Answer(ForkAnswer, Vec<ManifestRow>),
    /// Later, with [`StreamState::answer_pins`].
    Waits,
}

/// Why a source does not answer as it was asked.
enum CallError {
    Refused(SourceRefusal),
    StorageError(StorageError),
}

impl From<SourceRefusal> for CallError {
    fn from(refusal: SourceRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StorageError> for CallError {
    fn from(unreadable: StorageError) -> Self {
        Self::StorageError(unreadable)
    }
}

fn answer(call: CallId, answer: &ForkAnswer, manifest: &[ManifestRow]) -> Effect {
    let body = Body::Bytes(answer.encode(manifest));
    let answer = Answer::uncached(200).body(body);
    Effect::Answer { call, answer }
}

impl Stream {
    /// Answers a call of a fork.
    pub(super) fn call_of_fork(
        &mut self,
        now: Millis,
        id: CallId,
        call: ForkCall,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let done = match call {
            ForkCall::Describe { offset, sub_offset } => self.describe(offset, sub_offset, rows),
            ForkCall::Bound { incarnation, at } => self.bound(incarnation, at, rows),
            ForkCall::Pin {
                fork,
                name,
                source,
                place,
            } => self.pin(now, id, (fork, name), (source, place), rows, step),
            ForkCall::Release { fork, name, source } => {
                self.release(now, (fork, name), source, rows, step)?;
                Ok(Response::Answer(ForkAnswer::Released, Vec::new()))
            }
        };
        let effect = match done {
            Ok(Response::Answer(done, manifest)) => answer(id, &done, &manifest),
            Ok(Response::Waits) => return Ok(()),
            Err(CallError::Refused(refusal)) => answer(id, &ForkAnswer::Refused(refusal), &[]),
            Err(CallError::StorageError(unreadable)) => return Err(unreadable),
        };
        step.turn.after_commit.push(effect);
        Ok(())
    }

    /// Returns the stream to fork, if it exists and was not deleted.
    fn source(&mut self) -> Result<(&mut StreamState, &Limits), SourceRefusal> {
        match &mut self.state {
            Some(state) if state.row.lineage.deleted_at.is_some() => Err(SourceRefusal::Deleted),
            Some(state) => Ok((state, &self.limits)),
            None => Err(SourceRefusal::NotFound),
        }
    }

    fn describe(
        &mut self,
        offset: Option<Offset>,
        sub_offset: u64,
        rows: &dyn Storage,
    ) -> Result<Response, CallError> {
        let (state, limits) = self.source()?;
        let depth = state.row.lineage.fork.as_ref().map_or(0, |fork| fork.depth);
        if depth >= limits.fork_depth_max {
            return Err(SourceRefusal::TooDeep.into());
        }
        let tail = state.tail();
        let fork_offset = match offset {
            None => tail,
            Some(offset) => match state.sent_place(offset, rows)? {
                Some(place) => place,
                None if offset > tail => return Err(SourceRefusal::OffsetBeyondTail.into()),
                None => return Err(SourceRefusal::NoSuchOffset.into()),
            },
        };
        let place = if sub_offset == 0 {
            ForkPoint::At(fork_offset)
        } else {
            state.place_inside(fork_offset, sub_offset, rows, limits)?
        };
        let segments = match &place {
            ForkPoint::At(place) => segments_before(*place),
            ForkPoint::InInherited { from, .. } => from.segment + 1,
        };
        if segments > limits.fork_segments_max {
            return Err(SourceRefusal::TooLong.into());
        }
        let described = ForkAnswer::Described(Description {
            incarnation: state.row.incarnation,
            content_type: state.row.content_type.clone(),
            expiry: state.row.expiry.clone(),
            depth,
            fork_offset,
            place,
        });
        Ok(Response::Answer(described, Vec::new()))
    }

    /// Finds the end of an append. Works for a deleted stream too, because it still owns segments.
    fn bound(
        &self,
        incarnation: Incarnation,
        at: Offset,
        rows: &dyn Storage,
    ) -> Result<Response, CallError> {
        let state = self.state.as_ref();
        let state = state.filter(|state| state.row.incarnation == incarnation);
        let state = state.ok_or(SourceRefusal::NotFound)?;
        let is_own = (state.inherited_segments()..=state.row.segment).contains(&at.segment);
        if !is_own || at.position >= state.units_of(at.segment, rows)? {
            return Err(SourceRefusal::NoSuchOffset.into());
        }
        let end = state.append_end(at.segment, at.position, rows, &self.limits)?;
        Ok(Response::Answer(ForkAnswer::Bound(end), Vec::new()))
    }

    /// Keeps what comes before `place` for a fork.
    fn pin(
        &mut self,
        now: Millis,
        call: CallId,
        (fork, name): (Incarnation, String),
        (source, place): (Incarnation, Offset),
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<Response, CallError> {
        let limits = Arc::clone(&self.limits);
        let state = self.state.as_mut();
        let state = state.filter(|state| state.row.incarnation == source);
        let state = state.ok_or(SourceRefusal::NotFound)?;
        let has_pins = state.row.lineage.has_pins;
        let pin = if has_pins { rows.pin(fork)? } else { None };
        match pin {
            Some(Pin {
                released_at: Some(_),
                ..
            }) => return Err(SourceRefusal::Deleted.into()),
            Some(_) => {}
            None => {
                if state.row.lineage.deleted_at.is_some() {
                    return Err(SourceRefusal::Deleted.into());
                }
                if has_pins && rows.pins()? >= limits.forks_max {
                    return Err(SourceRefusal::TooManyForks.into());
                }
                if state.sent_place(place, rows)? != Some(place) {
                    return Err(SourceRefusal::NoSuchOffset.into());
                }
                // A fork reads what it inherits from the cold tier, so the open segment has to be
                // sealed.
                if place.segment == state.row.segment && place.position > 0 {
                    state.seal(now, &limits, rows, step)?;
                }
                let pin = Pin {
                    fork,
                    name,
                    released_at: None,
                };
                state.write_pin(now, pin, &limits, step);
            }
        }
        let waits_for = state.unstored.as_ref();
        let waits_for = waits_for.map(|unstored| unstored.segment.number);
        if waits_for.is_some_and(|number| number < segments_before(place)) {
            state.waiting_pins.push(WaitingPin { call, fork, place });
            return Ok(Response::Waits);
        }
        let manifest = state.manifest(place, None, rows, &limits)?;
        Ok(Response::Answer(ForkAnswer::Pinned, manifest))
    }

    /// Gives up a pin. The last one of a deleted stream ends it.
    fn release(
        &mut self,
        now: Millis,
        (fork, name): (Incarnation, String),
        source: Incarnation,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let state = self.state.as_mut();
        let Some(state) = state.filter(|state| state.row.incarnation == source) else {
            return Ok(());
        };
        let has_pins = state.row.lineage.has_pins;
        let pin = if has_pins { rows.pin(fork)? } else { None };
        if pin.as_ref().is_some_and(|pin| pin.released_at.is_some()) {
            return Ok(());
        }
        let others = if has_pins { rows.pins()? } else { 0 } - u64::from(pin.is_some());
        let released = Pin {
            fork,
            name,
            released_at: Some(now),
        };
        let (waiting, kept) = core::mem::take(&mut state.waiting_pins)
            .into_iter()
            .partition(|waiting| waiting.fork == fork);
        state.waiting_pins = kept;
        let refused = ForkAnswer::Refused(SourceRefusal::Deleted);
        let waiting: Vec<WaitingPin> = waiting;
        let answers = waiting.iter().map(|pin| answer(pin.call, &refused, &[]));
        step.turn.after_commit.extend(answers);
        if state.row.lineage.deleted_at.is_some() && others == 0 {
            assert!(
                state.waiting_pins.is_empty(),
                "a pin that waits to be answered is not released"
            );
            return self.end(now, rows, step);
        }
        state.write_pin(now, released, &self.limits, step);
        Ok(())
    }

    /// Ends a stream that is deleted or has expired, or, if forks still inherit from it, hides it
    /// until the last of them has gone (protocol 4.2, 5.4).
    pub(super) fn end_or_hide(
        &mut self,
        now: Millis,
        rows: &dyn Storage,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let Some(state) = &mut self.state else {
            return Ok(());
        };
        if !state.row.lineage.has_pins || rows.pins()? == 0 {
            return self.end(now, rows, step);
        }
        state.row.lineage.deleted_at = Some(now);
        step.row.save();
        step.turn.broadcast = Some(Broadcast {
            end: Some(StreamEnd::Deleted),
            ..state.live(state.tail(), None)
        });
        let row = state.row.clone();
        self.announce_end(now, &row, rows, &mut step.turn)
    }
}

impl StreamState {
    /// Returns how many of the segments are inherited.
    pub(super) fn inherited_segments(&self) -> u64 {
        let fork = self.row.lineage.fork.as_ref();
        fork.map_or(0, |fork| fork.segments)
    }

    fn write_pin(&mut self, now: Millis, pin: Pin, limits: &Limits, step: &mut Step) {
        let writes = &mut step.turn.writes;
        if core::mem::replace(&mut self.row.lineage.has_pins, true) {
            if let Some(released_at) = now.0.checked_sub(limits.collect_grace_ms) {
                let released_at = Millis(released_at);
                writes.push(Write::ForgetPins { released_at });
            }
        } else {
            writes.push(Write::CreatePins);
            step.row.save();
        }
        writes.push(Write::PutPin(pin));
    }

    /// Returns the place `sub_offset` units after an offset, which is at most the end of the append
    /// that begins there.
    fn place_inside(
        &self,
        fork_offset: Offset,
        sub_offset: u64,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<ForkPoint, CallError> {
        if fork_offset == self.tail() {
            return Err(SourceRefusal::SubOffsetTooLarge.into());
        }
        let mut from = fork_offset;
        if from.position == self.units_of(from.segment, rows)? {
            from = Offset::new(from.segment + 1, 0);
        }
        let units = self.units_of(from.segment, rows)?;
        let place = from.position.checked_add(sub_offset);
        let place = place.filter(|place| *place <= units);
        let place = place.ok_or(SourceRefusal::SubOffsetTooLarge)?;
        if from.segment < self.inherited_segments() {
            let owner = self.inherited(from.segment, rows)?.owner;
            return Ok(ForkPoint::InInherited {
                owner: owner.name,
                incarnation: owner.incarnation,
                from,
                units,
            });
        }
        if place > self.append_end(from.segment, from.position, rows, limits)? {
            return Err(SourceRefusal::SubOffsetTooLarge.into());
        }
        Ok(ForkPoint::At(Offset::new(from.segment, place)))
    }

    /// Returns the position after the append with the unit at `position` of an own segment.
    pub(super) fn append_end(
        &self,
        segment: u64,
        position: u64,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<u64, StorageError> {
        let units = self.units_of(segment, rows)?;
        assert!(position < units, "the unit is in the segment");
        let end = match self.segment(segment, rows)?.source {
            Source::HotTableReader(table) => {
                let row = HotTableReader::new(table, rows).row(RowKey::last_at(position))?;
                // The parts of a message share its position, and the last one ends it.
                let from = RowKey::at(row.key.position());
                append_ends::in_rows((table, from), position, rows, limits.appends_read_max)?
            }
            Source::Cold { .. } => {
                // Earlier code did not keep the ends, and too many of them are not kept either.
                match rows.append_ends(segment)?.filter(|ends| !ends.is_empty()) {
                    None => units,
                    Some(ends) => append_ends::in_ends(&ends, position)
                        .map_err(|damaged| StorageError(format!("segment {segment}: {damaged}")))?,
                }
            }
        };
        assert!(
            position < end && end <= units,
            "an append ends inside its segment"
        );
        Ok(end)
    }

    /// Returns the number of messages or bytes of a segment, sealed or open.
    pub(super) fn units_of(&self, segment: u64, rows: &dyn Storage) -> Result<u64, StorageError> {
        if segment == self.row.segment {
            Ok(self.tail.position)
        } else {
            self.units(segment, rows)
        }
    }

    /// Reads an inherited segment.
    pub(super) fn inherited(
        &self,
        number: u64,
        rows: &dyn Storage,
    ) -> Result<InheritedSegment, StorageError> {
        let row = rows.manifest(number)?.ok_or_else(|| missing(number))?;
        assert!(row.first <= number, "a run begins at or before its segment");
        manifest::find(&row, number)
            .map_err(|damaged| StorageError(format!("inherited segment {number}: {damaged}")))
    }

    /// Returns the segments before a place, all of which are in the cold tier. The storage does not
    /// show yet that `stored` is.
    fn manifest(
        &self,
        place: Offset,
        stored: Option<&SealedSegment>,
        rows: &dyn Storage,
        limits: &Limits,
    ) -> Result<Vec<ManifestRow>, StorageError> {
        let mut manifest = ManifestWriter::new(limits);
        let all = segments_before(place);
        let inherited = self.inherited_segments().min(all);
        let mut next = 0;
        while next < inherited {
            let row = rows.manifest(next)?.ok_or_else(|| missing(next))?;
            let before = next;
            let done = manifest::each(&row, &mut |mut segment| {
                if next + 1 == all {
                    segment.units = segment.units.min(place.position);
                }
                manifest.push(&segment);
                next += 1;
                next < inherited
            });
            done.map_err(|damaged| StorageError(format!("inherited segments: {damaged}")))?;
            assert!(next > before, "a run has at least one segment");
        }
        let owner = Owner {
            name: self.row.name.clone(),
            incarnation: self.row.incarnation,
        };
        for number in next..all {
            let sealed = match stored.filter(|stored| stored.number == number) {
                Some(stored) => stored.clone(),
                None => rows.segment(number)?.ok_or_else(|| missing(number))?,
            };
            let Some(StoredSegment { attempt, index, .. }) = sealed.stored else {
                return Err(StorageError(format!("segment {number} is not stored")));
            };
            let is_last = number + 1 == all;
            manifest.push(&InheritedSegment {
                units: if is_last {
                    place.position
                } else {
                    sealed.units
                },
                owner: owner.clone(),
                attempt,
                index,
            });
        }
        Ok(manifest.finish())
    }

    /// Answers the pins that have waited for a segment, which is in the cold tier now.
    pub(super) fn answer_pins(
        &mut self,
        stored: &SealedSegment,
        rows: &dyn Storage,
        limits: &Limits,
        step: &mut Step,
    ) -> Result<(), StorageError> {
        let done = stored.number + 1;
        let (ready, waiting): (Vec<_>, Vec<_>) = core::mem::take(&mut self.waiting_pins)
            .into_iter()
            .partition(|waiting| segments_before(waiting.place) <= done);
        self.waiting_pins = waiting;
        for pin in ready {
            let manifest = self.manifest(pin.place, Some(stored), rows, limits)?;
            let effect = answer(pin.call, &ForkAnswer::Pinned, &manifest);
            step.turn.after_commit.push(effect);
        }
        Ok(())
    }
}
