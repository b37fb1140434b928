//! The cold tier in both layers of the simulator: the outcomes of puts and deletions, and what the
//! tier must hold.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use machine::rows::{HotTable, RowKey, SealedSegment, StreamRow};
use machine::segment::{self, key, key_prefix};

use crate::model::{Content, Incarnation, Mismatch, State};
use machine::MemoryRows;

/// Objects by their keys.
pub type Objects = BTreeMap<String, Bytes>;

/// The report on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The true outcome, when it is known.
    Truth,
    /// A failure, at once.
    Failure,
    Never,
}

/// The outcome of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    pub lands: bool,
    /// Whether the object appears after its put is no longer expected.
    pub is_late: bool,
    pub report: Report,
}

impl PutOutcome {
    pub const GOOD: Self = Self {
        lands: true,
        is_late: false,
        report: Report::Truth,
    };

    /// The outcomes of a fault.
    pub const BAD: [Self; 7] = {
        const fn bad(lands: bool, is_late: bool, report: Report) -> PutOutcome {
            PutOutcome {
                lands,
                is_late,
                report,
            }
        }
        [
            bad(false, false, Report::Failure),
            bad(true, false, Report::Failure),
            bad(true, true, Report::Failure),
            bad(true, true, Report::Truth),
            bad(true, false, Report::Never),
            bad(false, false, Report::Never),
            bad(true, true, Report::Never),
        ]
    };
}

/// The outcome of a deletion of several objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    pub deletes: Deletes,
    pub is_late: bool,
    pub report: Report,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletes {
    None,
    AllButLast,
    All,
}

impl DeleteOutcome {
    pub const GOOD: Self = Self {
        deletes: Deletes::All,
        is_late: false,
        report: Report::Truth,
    };

    /// The outcomes of a fault.
    pub const BAD: [Self; 5] = {
        const fn bad(deletes: Deletes, is_late: bool, report: Report) -> DeleteOutcome {
            DeleteOutcome {
                deletes,
                is_late,
                report,
            }
        }
        [
            bad(Deletes::None, false, Report::Failure),
            bad(Deletes::All, false, Report::Failure),
            bad(Deletes::AllButLast, false, Report::Failure),
            bad(Deletes::All, false, Report::Never),
            bad(Deletes::All, true, Report::Failure),
        ]
    };
}

fn broken<T>(expected: impl Into<String>, actual: impl Into<String>) -> Result<T, Mismatch> {
    Err(Mismatch {
        expected: expected.into(),
        actual: actual.into(),
    })
}

/// Returns the keys of the objects that a stream refers to.
#[must_use]
pub fn referenced(rows: &MemoryRows) -> BTreeSet<String> {
    let Some(head) = rows.head() else {
        return BTreeSet::new();
    };
    let prefix = key_prefix(&head.name, head.incarnation);
    let stored = rows.segments().filter_map(|segment| {
        let stored = segment.stored.as_ref()?;
        Some(key(&prefix, segment.number, stored.attempt))
    });
    stored.collect()
}

/// Returns how many segments a stream has from its source.
fn inherited(rows: &MemoryRows) -> u64 {
    let fork = rows.head().and_then(|head| head.lineage.fork.as_ref());
    fork.map_or(0, |fork| fork.segments)
}

/// Judges that segments and hot rows tile a stream.
///
/// # Errors
///
/// When they do not.
pub fn tiles(rows: &MemoryRows, incarnation: &Incarnation) -> Result<(), Mismatch> {
    let Some(head) = rows.head() else {
        return broken("a head row", "none");
    };
    let segments = &incarnation.segments;
    if head.segment != segments.sealed() {
        let expected = format!("{} sealed segments", segments.sealed());
        return broken(expected, head.segment.to_string());
    }
    let mut tables = BTreeSet::new();
    // The first row makes the table.
    if rows.rows().next().is_some() {
        tables.insert(HotTable::of(head.segment));
    }
    // Inherited segments have no rows of their own.
    let mut next = inherited(rows);
    for segment in rows.segments() {
        let (start, end) = (segments.start(next), segments.end(next));
        let units = start.zip(end).map(|(start, end)| end - start);
        if segment.number != next || Some(segment.units) != units {
            let expected = format!("the segment {next} of {units:?}");
            return broken(expected, format!("{segment:?}"));
        }
        next += 1;
        if segment.stored.is_some() {
            continue;
        }
        let table = HotTable::of(segment.number);
        tables.insert(table);
        let (mut row_key, mut bytes) = (RowKey::at(0), 0);
        for row in rows.table(table).into_iter().flatten() {
            if row.key != row_key || row.bytes_before != bytes {
                return broken(format!("a row at {row_key:?}"), format!("{:?}", row.key));
            }
            bytes += row.frames.bytes();
            row_key = if row.units == 0 {
                row.key.next_part()
            } else {
                RowKey::at(row.key.position() + row.units)
            };
        }
        if row_key != RowKey::at(segment.units) || bytes != segment.bytes {
            let expected = format!("the rows of {segment:?}");
            return broken(expected, format!("rows to {row_key:?}, {bytes} bytes"));
        }
    }
    if next != segments.sealed() {
        return broken(format!("{} segments", segments.sealed()), next.to_string());
    }
    let there: BTreeSet<_> = rows.hot_tables().collect();
    if there != tables {
        return broken(format!("the tables {tables:?}"), format!("{there:?}"));
    }
    Ok(())
}

/// Judges that a stored segment's object holds exactly what the segment has.
///
/// # Errors
///
/// When it does not, or when there is no object.
pub fn holds(
    objects: &Objects,
    head: &StreamRow,
    incarnation: &Incarnation,
    sealed: &SealedSegment,
) -> Result<(), Mismatch> {
    let Some(stored) = &sealed.stored else {
        return Ok(());
    };
    let prefix = key_prefix(&head.name, head.incarnation);
    let key = key(&prefix, sealed.number, stored.attempt);
    let Some(bytes) = objects.get(&key) else {
        return broken(format!("the object {key}"), "none");
    };
    let decoded = match segment::decode(bytes) {
        Ok(decoded) => decoded,
        Err(damaged) => return broken(format!("an object at {key}"), damaged.to_string()),
    };
    let bounds = incarnation.segments.start(sealed.number);
    let (from, to) = (
        bounds.unwrap_or(0),
        incarnation.segments.end(sealed.number).unwrap_or(0),
    );
    let (from, to) = (
        usize::try_from(from).unwrap_or(0),
        usize::try_from(to).unwrap_or(0),
    );
    let holds = match &*incarnation.content {
        Content::Messages(messages) => decoded
            .records
            .iter()
            .map(Vec::as_slice)
            .eq(messages[from..to].iter().map(|message| &message[..])),
        Content::Run { bytes, ends, .. } => {
            let ends = ends.iter().filter_map(|end| usize::try_from(*end).ok());
            let mut begin = from;
            let appends = ends.filter(|end| (from + 1..=to).contains(end)).map(|end| {
                let append = &bytes[begin..end];
                begin = end;
                append
            });
            decoded.records.iter().map(Vec::as_slice).eq(appends)
        }
    };
    let names = (decoded.incarnation, decoded.segment, decoded.path.as_str());
    if !holds || names != (head.incarnation, sealed.number, head.name.as_str()) {
        return broken(
            format!("the units {from} to {to} of {}", head.name),
            format!("{names:?}, {} records", decoded.records.len()),
        );
    }
    Ok(())
}

/// The sources of a page's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub cold: u64,
    pub hot: u64,
    /// Whether it begins in the middle of a stored segment.
    pub from_middle: bool,
}

/// Returns the parts of a page.
#[must_use]
pub fn parts(rows: &MemoryRows, incarnation: &Incarnation, start: u64, end: u64) -> Parts {
    let mut parts = Parts::default();
    let own = rows.segments();
    let own = own.map(|segment| (segment.number, segment.stored.is_some()));
    for (number, is_stored) in (0..inherited(rows)).map(|number| (number, true)).chain(own) {
        let segments = &incarnation.segments;
        let bounds = segments.start(number).zip(segments.end(number));
        let Some((first, last)) = bounds.filter(|(first, last)| *first < end && start < *last)
        else {
            continue;
        };
        if is_stored {
            parts.cold += 1;
            parts.from_middle |= first < start && start < last;
        } else {
            parts.hot += 1;
        }
    }
    let open = incarnation
        .segments
        .start(incarnation.segments.sealed())
        .unwrap_or(0);
    parts.hot += u64::from(open < end);
    parts
}

/// Returns the events that the registry must have of the streams of a name: each creation and end,
/// once and in order.
#[must_use]
pub fn registered(name: &str, state: &State) -> Vec<String> {
    let mut events = Vec::new();
    for (number, created) in state.history.iter().enumerate() {
        let created_at = created.at;
        let content_type = serde_json::Value::from(created.content_type.as_str());
        let source = created.forked_from.as_ref();
        let source = source.map(|source| format!(r#","forkedFrom":"{source}""#));
        let source = source.unwrap_or_default();
        events.push(format!(
            r#"{{"type":"stream","key":"{name}","value":{{"path":"{name}","contentType":{content_type},"createdAt":{created_at}{source}}},"headers":{{"operation":"insert"}}}}"#
        ));
        if number + 1 < state.history.len() || state.incarnation.is_none() {
            events.push(format!(
                r#"{{"type":"stream","key":"{name}","headers":{{"operation":"delete"}}}}"#
            ));
        }
    }
    events
}

/// Judges that one shard of the registry has these events of the streams of a name, and that no
/// other shard has any.
///
/// # Errors
///
/// The expected events, and those of each shard.
pub fn one_was_sent<'a, M: AsRef<[u8]> + 'a>(
    name: &str,
    shards: impl Iterator<Item = &'a [M]>,
    expected: &[String],
) -> Result<(), Mismatch> {
    let sent: Vec<_> = shards
        .map(|messages| sent_of(name, messages.iter()))
        .filter(|events| !events.is_empty())
        .collect();
    match sent.as_slice() {
        [] if expected.is_empty() => Ok(()),
        [events] if events == expected => Ok(()),
        _ => Err(Mismatch {
            expected: format!("one shard that was sent {expected:?}"),
            actual: format!("{sent:?}"),
        }),
    }
}

/// Returns the events about the streams of a name.
fn sent_of(name: &str, messages: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<String> {
    let of_name = format!(r#""key":"{name}""#);
    messages
        .map(|message| String::from_utf8_lossy(message.as_ref()).into_owned())
        .filter(|message| message.contains(&of_name))
        .collect()
}
