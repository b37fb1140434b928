//! Envelopes: each append of a stream arrives once, in order and unchanged, and nothing else does.

use machine::rows::{HotRow, ProducerStamp};
use machine::{MemoryRows, Offset};
use serde_json::Value;

use super::super::model::{Model, records};
use super::super::view::View;
use super::{violated, writers};
use crate::oracles::{Oracle, Violation};
use crate::subscriptions::coverage::Situation;

/// Judges the new envelopes of a session. Returns what they show.
pub(in crate::subscriptions::sessions) fn arrived(
    model: &mut Model,
    id: &str,
    rows: &MemoryRows,
    view: &View,
) -> Result<Vec<Situation>, Violation> {
    let known = model.sessions.entry(id.to_owned()).or_default().envelopes;
    let mut situations = Vec::new();
    for row in rows.rows().filter(|row| row.key.position() >= known) {
        situations.extend(page(model, id, row, view)?);
        let session = model.sessions.entry(id.to_owned()).or_default();
        session.envelopes = row.key.position() + row.units;
    }
    Ok(situations)
}

/// Judges one append to the stream of a session: the envelopes of a page of one stream.
fn page(
    model: &mut Model,
    id: &str,
    row: &HotRow,
    view: &View,
) -> Result<Vec<Situation>, Violation> {
    let (name, from, stamp) = writers::of(row, view)?;
    let records = records(row);
    let envelopes = records.iter().map(|record| serde_json::from_slice(record));
    let envelopes: Result<Vec<Value>, _> = envelopes.collect();
    let envelopes = envelopes.expect("a stored message is JSON");
    let mut base = model.has(id, name, from);
    let life = (name.to_owned(), from.incarnation);
    let mut situations = vec![Situation::EnvelopeArrived];
    if envelopes.len() > 1 {
        situations.push(Situation::EnvelopePage);
    }
    let last = model
        .sessions
        .get(id)
        .and_then(|known| known.has.get(&life));
    if from.offset.is_some_and(|offset| last > Some(&offset)) {
        situations.push(Situation::EnvelopeKnown);
    }
    let appends = model.sources.get(&life).map_or(&[][..], Vec::as_slice);
    for envelope in &envelopes {
        let next = appends.iter().find(|append| append.end > base);
        let allowed = next.map_or(Vec::new(), |next| next.envelopes(&life.0, base));
        if !allowed.contains(envelope) {
            let expected = format!("one of {allowed:?} behind {base} in {id}");
            return Err(violated(Oracle::Envelopes, expected, envelope.to_string()));
        }
        base = next.expect("an envelope is allowed").end;
        situations.extend(shape(envelope));
    }
    stamped(stamp, base)?;
    let session = model.sessions.entry(id.to_owned()).or_default();
    session.has.insert(life, base);
    Ok(situations)
}

fn shape(envelope: &Value) -> Option<Situation> {
    if envelope["omitted"] == true {
        Some(Situation::EnvelopeOmitted)
    } else if envelope["encoding"] == "base64" {
        Some(Situation::EnvelopeBytes)
    } else if envelope["messages"].is_u64() {
        Some(Situation::EnvelopeArray)
    } else {
        None
    }
}

/// Checks that an append says how far its session is.
fn stamped(stamp: &ProducerStamp, end: Offset) -> Result<(), Violation> {
    if Offset::new(stamp.epoch, stamp.seq) == end {
        return Ok(());
    }
    let actual = format!("{stamp:?}");
    Err(violated(
        Oracle::Envelopes,
        format!("the stamp {end}"),
        actual,
    ))
}
