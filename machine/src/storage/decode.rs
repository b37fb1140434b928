//! Decodes the rows of the answers to the queries of [`super::sql`].

use std::collections::BTreeMap;

use bytes::Bytes;

use super::append_ends::take_end;
use super::port::StorageError;
use super::rows::{
    Activity, CONTROL_SCHEMA, Closed, ControlRow, Expiry, Former, Incarnation, Layout, Lineage,
    ManifestRow, MinuteOfRows, OUTBOX_SCHEMA, Pin, ProducerStamp, ProducerState, RowAppends,
    RowKey, RowMeta, SCHEMA, SealedSegment, StoredSegment, StreamRow, Sums, Unannounced,
    WriterColumns,
};
use super::sql::{
    Columns, FORMER, LISTED, OLDER_TASKS, REGISTERED, SCHEMA_OF_CONTROL, SCHEMA_OF_OUTBOX,
    SCHEMA_OF_STREAM, SHARD_SHIFT, TABLES, UNANNOUNCED_INDEX, UNANNOUNCED_REGISTRY,
};
use crate::Millis;
use crate::outbox::registry;
use crate::outbox::task::{Garbage, Task, TaskKind};

/// Reads a row of [`HEAD`](super::sql::HEAD).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn head(row: &impl Columns) -> Result<StreamRow, StorageError> {
    let incarnation = Incarnation::from_text(&required(row.text(0)?)?);
    let incarnation =
        incarnation.ok_or_else(|| StorageError("the incarnation is not one".to_owned()))?;
    let expiry = match (row.integer(3)?, row.integer(4)?) {
        (None, None) => Expiry::Never,
        (Some(seconds), _) => Expiry::Sliding { seconds },
        (None, Some(at)) => Expiry::At {
            at: Millis(at),
            text: required(row.text(5)?)?,
        },
    };
    let closed = required(row.integer(14)?)? != 0;
    let text = row.text(18)?.unwrap_or_default();
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (lineage, activity, listed) = (line(), line(), line());
    let lineage = match lineage {
        "" => Lineage::default(),
        text => Lineage::from_stored(text)
            .ok_or_else(|| StorageError("the lineage cannot be read".to_owned()))?,
    };
    let segment = required(row.integer(9)?)?;
    let first_own = lineage.fork.as_ref().map_or(0, |fork| fork.segments);
    let activity = match activity {
        // Earlier code did not count what it sealed.
        "" => (segment <= first_own).then(Activity::default),
        text => Some(
            Activity::from_stored(text)
                .ok_or_else(|| StorageError("the activity cannot be read".to_owned()))?,
        ),
    };
    let is_listed = match listed {
        "" => false,
        LISTED => true,
        _ => {
            let unknown = "what the directory has of the stream cannot be read";
            return Err(StorageError(unknown.to_owned()));
        }
    };
    let registered = required(row.integer(8)?)?;
    Ok(StreamRow {
        incarnation,
        content_type: required(row.text(1)?)?,
        created_at: Millis(required(row.integer(2)?)?),
        expiry,
        name: required(row.text(6)?)?,
        version: required(row.integer(7)?)?,
        registered: (registered & REGISTERED != 0).then_some(registered >> SHARD_SHIFT),
        unannounced: Unannounced {
            registry: registered & UNANNOUNCED_REGISTRY != 0,
            index: registered & UNANNOUNCED_INDEX != 0,
            directory: !is_listed,
        },
        segment,
        writable: required(row.integer(10)?)? != 0,
        stream_seq: row.text(11)?,
        touched_at: Millis(required(row.integer(12)?)?),
        alarm_at: row.integer(13)?.map(Millis),
        closed: if closed {
            Some(Closed {
                by: stamp_at(row, 15)?,
            })
        } else {
            None
        },
        lineage,
        activity,
    })
}

/// Receives the rows of an answer, one after the other.
pub type EachRow<'a> = dyn FnMut(&dyn Columns) -> Result<(), StorageError> + 'a;

/// Finds out which tables there are. `ask` executes a statement without parameters, and hands over
/// its rows.
///
/// # Errors
/// When the storage cannot be read, or is not as any version wrote it.
pub fn layout(
    ask: impl Fn(&str, &mut EachRow<'_>) -> Result<(), StorageError>,
) -> Result<Layout, StorageError> {
    let (mut tables, mut newest_hot, mut oldest_hot) = (BTreeMap::new(), None, None);
    ask(TABLES, &mut |row| {
        let (name, number) = (required(row.text(0)?)?, row.integer(1)?);
        match name.as_str() {
            "newest hot" => newest_hot = number,
            "oldest hot" => oldest_hot = number,
            _ => {
                tables.insert(name, required(number)? > 0);
            }
        }
        Ok(())
    })?;
    let schema = |table: &str, known: u64, statement: &str| {
        let Some(is_numbered) = tables.get(table) else {
            return Ok(None);
        };
        if !is_numbered {
            return Ok(Some(0));
        }
        let mut schema = known;
        ask(statement, &mut |row| {
            schema = required(row.integer(0)?)?;
            Ok(())
        })?;
        Ok(Some(schema))
    };
    let stream = schema("stream", SCHEMA, SCHEMA_OF_STREAM)?;
    let mut outbox = schema("outbox", OUTBOX_SCHEMA, SCHEMA_OF_OUTBOX)?;
    let control = schema("control", CONTROL_SCHEMA, SCHEMA_OF_CONTROL)?;
    let has = |table: &str| tables.contains_key(table);
    let mut former = None;
    if stream == Some(0) && (has("hot_a") || has("hot_b")) {
        ask(FORMER, &mut |row| {
            former = Some(self::former(row, has)?);
            Ok(())
        })?;
    }
    let mut older_tasks = Vec::new();
    if outbox.is_none() && has("chores") {
        outbox = Some(0);
        ask(OLDER_TASKS, &mut |row| {
            older_tasks.push(older_task(row)?);
            Ok(())
        })?;
    }
    Ok(Layout {
        stream,
        outbox,
        control,
        newest_hot,
        oldest_hot,
        has_segments: has("segments"),
        former,
        older_tasks,
    })
}

/// Reads what version 0.1 says of its open segment. `has` tells which tables there are.
///
/// # Errors
/// When the row is not as version 0.1 wrote it.
pub fn former(row: &dyn Columns, has: impl Fn(&str) -> bool) -> Result<Former, StorageError> {
    let open = required(row.integer(0)?)?;
    // Version 0.1 has tables of the last two segments: the even one in `hot_a`, the odd one in
    // `hot_b`.
    let last = if required(row.integer(1)?)? == 0 {
        open.saturating_sub(1)
    } else {
        open
    };
    let segment = |parity: u64| {
        if last % 2 == parity {
            last
        } else {
            last.saturating_sub(1)
        }
    };
    Ok(Former {
        a: has("hot_a").then(|| segment(0)),
        b: has("hot_b").then(|| segment(1)),
        producers: has("producers"),
    })
}

/// Reads a row of [`SEGMENT`](super::sql::SEGMENT).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn segment(row: &impl Columns) -> Result<SealedSegment, StorageError> {
    let stored = match row.integer(6)? {
        None => None,
        Some(attempt) => Some(StoredSegment {
            attempt,
            index: Bytes::from(required(row.blob(7)?)?),
            append_ends: Bytes::new(),
        }),
    };
    Ok(SealedSegment {
        number: required(row.integer(0)?)?,
        units: required(row.integer(1)?)?,
        bytes: required(row.integer(2)?)?,
        messages: required(row.integer(3)?)?,
        attempts: required(row.integer(4)?)?,
        attempted_at: Millis(required(row.integer(5)?)?),
        stored,
    })
}

/// Reads a row of [`MANIFEST`](super::sql::MANIFEST).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn manifest(row: &impl Columns) -> Result<ManifestRow, StorageError> {
    Ok(ManifestRow {
        first: required(row.integer(0)?)?,
        body: Bytes::from(required(row.blob(1)?)?),
    })
}

/// Reads a row of [`PIN`](super::sql::PIN).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn pin(row: &impl Columns) -> Result<Pin, StorageError> {
    let fork = Incarnation::from_text(&required(row.text(0)?)?);
    Ok(Pin {
        fork: fork.ok_or_else(|| StorageError("the fork of a pin is not one".to_owned()))?,
        name: required(row.text(1)?)?,
        released_at: row.integer(2)?.map(Millis),
    })
}

/// Reads a row of [`PRODUCER`](super::sql::PRODUCER).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn producer(row: &impl Columns) -> Result<ProducerState, StorageError> {
    Ok(ProducerState {
        epoch: required(row.integer(0)?)?,
        seq: required(row.integer(1)?)?,
    })
}

/// Reads a task of an outbox that had no queues. The ids of all queues together are in order.
///
/// # Errors
/// When the row is not as any version wrote it.
pub fn older_task(row: &dyn Columns) -> Result<Task, StorageError> {
    let id = required(row.integer(0)?)?;
    let body = required(row.text(3)?)?;
    let what = match required(row.integer(1)?)? {
        0 => registry::from_older(&body),
        1 => serde_json::from_str(&body).map(TaskKind::Index),
        2 => Ok(TaskKind::Collect(Garbage {
            prefix: body,
            segments: required(row.integer(4)?)?..=required(row.integer(5)?)?,
            attempts: required(row.integer(6)?)?..=required(row.integer(7)?)?,
        })),
        lane => {
            let unknown = format!("a task of the outbox has the unknown lane {lane}");
            return Err(StorageError(unknown));
        }
    };
    let what = what.map_err(|error| {
        StorageError(format!(
            "a task of the outbox cannot be read: {id}: {error}"
        ))
    })?;
    Ok(Task {
        id,
        due_at: Millis(required(row.integer(2)?)?),
        failures: 0,
        what,
    })
}

/// Reads a row of [`TASKS`](super::sql::TASKS).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn task(row: &impl Columns) -> Result<Task, StorageError> {
    Task::from_stored(
        &required(row.text(0)?)?,
        required(row.integer(1)?)?,
        Millis(required(row.integer(2)?)?),
        required(row.integer(3)?)?,
        &required(row.text(4)?)?,
    )
}

/// Reads a row of [`CONTROL`](super::sql::CONTROL).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn control(row: &impl Columns) -> Result<ControlRow, StorageError> {
    Ok(ControlRow {
        key: required(row.text(0)?)?,
        body: required(row.text(1)?)?,
    })
}

/// Reads a row of [`RETRIED_SEGMENTS`](super::sql::RETRIED_SEGMENTS).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn retried_segment(row: &impl Columns) -> Result<(u64, u64), StorageError> {
    Ok((required(row.integer(0)?)?, required(row.integer(1)?)?))
}

/// Reads a row of [`SEALED_PRODUCERS`](super::sql::SEALED_PRODUCERS): the last append of a
/// producer, and its time.
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn sealed_producer(row: &impl Columns) -> Result<(ProducerStamp, Millis), StorageError> {
    let stamp = stamp_at(row, 0)?;
    Ok((required(stamp)?, Millis(required(row.integer(3)?)?)))
}

/// Reads a row of [`SEALED_SUMS`](super::sql::SEALED_SUMS).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn sums(row: &impl Columns) -> Result<Sums, StorageError> {
    Ok(Sums {
        messages: required(row.integer(0)?)?,
        framed: required(row.integer(1)?)?,
    })
}

/// Reads a row of [`minutes`](super::sql::minutes).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn minute(row: &impl Columns) -> Result<MinuteOfRows, StorageError> {
    Ok(MinuteOfRows {
        minute: required(row.integer(0)?)?,
        units: required(row.integer(1)?)?,
        bytes: required(row.integer(2)?)?,
    })
}

/// Reads a row of [`at_or_before`](super::sql::at_or_before).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn row_mark(row: &impl Columns) -> Result<RowMeta, StorageError> {
    Ok(RowMeta {
        key: RowKey::from_stored(required(row.integer(0)?)?),
        units: required(row.integer(1)?)?,
        bytes_before: required(row.integer(2)?)?,
        bytes: required(row.integer(3)?)?,
        at: Millis(required(row.integer(4)?)?),
    })
}

/// Reads a row of [`writers`](super::sql::writers): the writers that it names, in order.
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn writers_of(row: &impl Columns) -> Result<Vec<WriterColumns>, StorageError> {
    let at = Millis(required(row.integer(4)?)?);
    let Some(ends) = row.blob(5)? else {
        return Ok(vec![WriterColumns {
            at,
            producer: stamp_at(row, 0)?,
            stream_seq: row.text(3)?,
        }]);
    };
    let (mut ends, mut writers) = (ends.as_slice(), Vec::new());
    while !ends.is_empty() {
        let end = take_end(&mut ends)
            .ok_or_else(|| StorageError("the appends of a row are malformed".to_owned()))?;
        writers.extend(end.writer(at));
    }
    Ok(writers)
}

/// Reads a row of [`appends`](super::sql::appends).
///
/// # Errors
/// When the row is not as the machine writes it.
pub fn appends_of(row: &impl Columns) -> Result<RowAppends, StorageError> {
    let units = required(row.integer(1)?)?;
    let mut appends = RowAppends {
        key: RowKey::from_stored(required(row.integer(0)?)?),
        units,
        ends: Vec::new(),
    };
    match row.blob(2)? {
        // The row holds one whole append, or a part of a message.
        None => appends.ends.extend((units > 0).then_some(units)),
        Some(ends) => {
            let mut ends = ends.as_slice();
            while !ends.is_empty() {
                let end = take_end(&mut ends)
                    .ok_or_else(|| StorageError("the appends of a row are malformed".to_owned()))?;
                appends.ends.push(end.units);
            }
        }
    }
    Ok(appends)
}

fn stamp_at(row: &impl Columns, column: usize) -> Result<Option<ProducerStamp>, StorageError> {
    let Some(id) = row.text(column)? else {
        return Ok(None);
    };
    Ok(Some(ProducerStamp {
        id,
        epoch: required(row.integer(column + 1)?)?,
        seq: required(row.integer(column + 2)?)?,
    }))
}

fn required<T>(value: Option<T>) -> Result<T, StorageError> {
    value.ok_or_else(|| StorageError("a column is NULL that never is".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::index::Change;

    /// A row of the outbox with this queue and body.
    struct TaskColumns(&'static str, &'static str);

    impl Columns for TaskColumns {
        fn integer(&self, _: usize) -> Result<Option<u64>, StorageError> {
            Ok(Some(7))
        }

        fn text(&self, column: usize) -> Result<Option<String>, StorageError> {
            let text = if column == 0 { self.0 } else { self.1 };
            Ok(Some(text.to_owned()))
        }

        fn blob(&self, _: usize) -> Result<Option<Vec<u8>>, StorageError> {
            Ok(None)
        }
    }

    #[test]
    fn a_task_that_cannot_be_read_is_an_error_that_names_it() {
        let purged = r#"{"index":{"change":"purged","path":"p","version":3}}"#;
        let read = task(&TaskColumns("purge", purged)).expect("the row is whole");
        let (path, version) = ("p".to_owned(), 3);
        assert_eq!(read.what, TaskKind::Index(Change::Purged { path, version }));
        for (queue, body) in [
            ("purge", ""),
            ("purge", r#"{"of a later release":{}}"#),
            ("purge", r#"{"index":{"change":"of a later release"}}"#),
            ("index", purged),
            ("of a later release", purged),
        ] {
            let error = task(&TaskColumns(queue, body)).expect_err("the row cannot be read");
            assert!(error.0.contains(&format!("{queue:?}")), "{error}");
        }
    }
}
