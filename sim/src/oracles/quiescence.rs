//! The end of a run, when no event is left: nothing unneeded remains, and registry and index list
//! all streams.

use std::collections::BTreeSet;

use machine::router::name;
use machine::rows::Expiry;
use machine::segment::{key, key_prefix};

use super::Oracle;
use super::checker::{Checker, Finding, Quiescent, Subject, finding, violation};
use crate::cold_tier;
use crate::model::Content;
use crate::segments::spell;

/// Holds that the cold tier has exactly what living streams refer to, and that no rows of ended
/// streams are left.
#[derive(Debug, Default)]
pub struct NoOrphans;

impl Checker for NoOrphans {
    fn at_quiescence(&mut self, world: &Quiescent<'_>) -> Finding {
        let stored: BTreeSet<String> = world.cold.keys().cloned().collect();
        let all_rows = world.subjects.iter().map(|subject| &subject.store.rows);
        let referenced: BTreeSet<_> = all_rows.flat_map(cold_tier::referenced).collect();
        if let Some(key) = stored.symmetric_difference(&referenced).next() {
            let expected = format!("the objects {referenced:?}");
            let actual = format!("{key} there: {}", stored.contains(key));
            return violation(Oracle::Orphans, expected, actual);
        }
        for subject in &world.subjects {
            let rows = &subject.store.rows;
            if subject.model.state.incarnation.is_none() && !rows.is_empty() {
                let expected = format!("no rows of {}, which has ended", subject.name);
                return violation(Oracle::Orphans, expected, format!("{rows:?}"));
            }
        }
        Ok(())
    }
}

/// Holds that one shard of the registry has each stream's creation and end, once and in order.
#[derive(Debug, Default)]
pub struct RegistryComplete;

impl Checker for RegistryComplete {
    fn at_quiescence(&mut self, world: &Quiescent<'_>) -> Finding {
        if !world.limits.registry {
            return Ok(());
        }
        let is_registry = |subject: &&Subject<'_>| name::is_registry(subject.name);
        let (shards, streams): (Vec<_>, Vec<_>) = world.subjects.iter().partition(is_registry);
        let events = |shard: &&Subject<'_>| {
            let incarnation = shard.model.state.incarnation.as_ref();
            match incarnation.map(|incarnation| &*incarnation.content) {
                Some(Content::Messages(messages)) => messages.clone(),
                _ => Vec::new(),
            }
        };
        let events: Vec<_> = shards.iter().map(events).collect();
        for subject in streams {
            let expected = cold_tier::registered(subject.name, &subject.model.state);
            let shards = events.iter().map(Vec::as_slice);
            let verdict = cold_tier::one_was_sent(subject.name, shards, &expected);
            finding(Oracle::Registry, verdict)?;
        }
        Ok(())
    }
}

/// Holds that the index lists the living streams and their stored segments, and nothing else.
#[derive(Debug, Default)]
pub struct IndexListed;

impl Checker for IndexListed {
    fn at_quiescence(&mut self, world: &Quiescent<'_>) -> Finding {
        if !world.limits.index {
            return Ok(());
        }
        let mut streams = Vec::new();
        let mut segments = Vec::new();
        for subject in &world.subjects {
            let rows = &subject.store.rows;
            let Some(head) = rows.head() else { continue };
            let (expires_at, ttl_seconds) = match &head.expiry {
                Expiry::Never => (None, None),
                Expiry::Sliding { seconds } => (None, Some(*seconds)),
                Expiry::At { at, .. } => (Some(at.0), None),
            };
            streams.push(format!(
                "{} {} {} {} {} {expires_at:?} {ttl_seconds:?} None",
                head.name,
                head.incarnation,
                head.content_type,
                head.created_at.0,
                head.closed.is_some()
            ));
            let prefix = key_prefix(&head.name, head.incarnation);
            segments.extend(rows.segments().filter_map(|segment| {
                let key = key(&prefix, segment.number, segment.stored.as_ref()?.attempt);
                let (start, end) = ((segment.number, 0), (segment.number, segment.units));
                let bytes = world.cold.get(&key).map_or(0, |bytes| bytes.len() as u64);
                Some(format!(
                    "{} {} {} {} {} {key} {bytes} {}",
                    head.name,
                    head.incarnation,
                    segment.number,
                    spell(start),
                    spell(end),
                    segment.messages
                ))
            }));
        }
        streams.sort();
        segments.sort();
        let (listed_streams, listed_segments) = &world.listed;
        if *listed_streams != streams {
            let expected = format!("the streams {streams:?}");
            return violation(Oracle::Index, expected, format!("{listed_streams:?}"));
        }
        if *listed_segments != segments {
            let expected = format!("the segments {segments:?}");
            return violation(Oracle::Index, expected, format!("{listed_segments:?}"));
        }
        Ok(())
    }
}
