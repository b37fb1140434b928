//! Stored rows: any columns are read as a row or reported as unreadable, and a row that was read is
//! bound to the same columns.

use bytes::Bytes;
use machine::admin::Listed;
use machine::rows::{
    AppendEnd, Expiry, Fork, HotRow, HotTable, Incarnation, Layout, Lineage, ManifestRow, Pin,
    ProducerStamp, RowKey,
};
use machine::sql::{self, Columns, Value};
use machine::{Millis, Offset, StorageError, Write};
use sim::choices::Choices;

/// The number of columns of the widest row.
const WIDTH: usize = 18;

/// The column of the lineage, which is drawn last.
const LINEAGE: usize = WIDTH;
/// The place among the bound values of each column of a task that is read.
const TASK_COLUMNS: [usize; 5] = [3, 4, 0, 1, 2];

/// Reads drawn columns as each kind of row.
///
/// # Panics
/// When a row does not survive being bound and read again, or a statement that fails is followed by
/// another.
pub fn row(input: &[u8]) {
    let mut choices = Choices::from_tape(input);
    let mut drawn = Row((0..WIDTH).map(|_| Cell::draw(&mut choices)).collect());
    drawn.0.push(Cell::Null);
    let _ = (sql::row_mark(&drawn), sql::writers_of(&drawn));
    let _ = (sql::retried_segment(&drawn), sql::producer(&drawn));
    let _ = (sql::sealed_producer(&drawn), sql::minute(&drawn));
    let _ = (sql::sums(&drawn), Listed::from_index(&drawn));
    let table = choices.one_of(&[HotTable::of(0), HotTable::of(1)]);
    let mut writes = vec![
        Write::CreateStreamTable,
        Write::CreateSealedTables,
        Write::CreateHot(table),
        Write::DropHot(table),
        Write::CreateManifest,
        Write::CreatePins,
        Write::CreateOutbox,
        Write::DropOutbox,
        Write::CreateControl,
        Write::DropControl,
        Write::DropTables,
        Write::ForgetProducers {
            used_at: Millis(1),
            most: 3,
        },
    ];
    let has = |table: &str| {
        let column = match table {
            "hot_a" => 2,
            "hot_b" => 3,
            _ => 4,
        };
        drawn.integer(column).is_ok_and(|value| value.is_some())
    };
    if let Ok(former) = sql::former(&drawn, has) {
        let is_even = |segment: u64| segment.is_multiple_of(2);
        assert!(former.a.is_none_or(is_even), "even segments were in hot_a");
        let both = former.a.zip(former.b).filter(|(a, b)| *a > 0 || *b > 0);
        assert!(
            both.is_none_or(|(a, b)| a.abs_diff(b) == 1),
            "two follow each other"
        );
        let from = Layout {
            stream: Some(0),
            outbox: Some(0),
            control: None,
            newest_hot: None,
            oldest_hot: None,
            has_segments: has("segments"),
            former: Some(former),
            older_tasks: sql::older_task(&drawn).into_iter().collect(),
        };
        let now = Millis(2);
        writes.push(Write::Upgrade { from, now });
    }
    if let Ok(head) = sql::head(&drawn) {
        let write = Write::InsertStream(head.clone());
        assert_eq!(sql::head(&bound(&write)).ok(), Some(head.clone()));
        writes.extend([write, Write::UpdateStream(head)]);
    }
    if let Ok(segment) = sql::segment(&drawn) {
        let write = Write::InsertSegment(segment.clone());
        assert_eq!(sql::segment(&bound(&write)).ok(), Some(segment.clone()));
        writes.extend([write, Write::UpdateSegment(segment)]);
    }
    if let Ok(task) = sql::older_task(&drawn) {
        writes.push(Write::InsertTask(task));
    }
    if let Ok(task) = sql::task(&drawn) {
        let write = Write::InsertTask(task.clone());
        let bound = bound(&write).in_order(&TASK_COLUMNS);
        assert_eq!(sql::task(&bound).ok(), Some(task.clone()));
        writes.extend([
            write,
            Write::RemoveTask {
                queue: task.what.queue(),
                id: task.id,
            },
            Write::UpdateTask(task),
        ]);
    }
    writes.push(appends_of_a_row(&mut choices, table));
    drawn.0[LINEAGE] = Cell::draw(&mut choices);
    let _ = (sql::head(&drawn), sql::appends_of(&drawn));
    writes.extend(sql::manifest(&drawn).ok().map(Write::InsertManifest));
    writes.extend(sql::pin(&drawn).ok().map(Write::PutPin));
    if let Ok(row) = sql::control(&drawn) {
        let write = Write::PutControl(row.clone());
        assert_eq!(sql::control(&bound(&write)).ok(), Some(row.clone()));
        writes.extend([write, Write::RemoveControl { key: row.key }]);
    }
    for write in &writes {
        stops_where_it_fails(write);
    }
    lineage(&mut choices);
    inherited_and_pinned(&mut choices);
}

/// Draws what a fork and a source store, and checks that it is read as it was written.
fn inherited_and_pinned(choices: &mut Choices<'_>) {
    let row = ManifestRow {
        first: choices.magnitude(1 << 53),
        body: Cell::bytes(choices).into(),
    };
    let write = Write::InsertManifest(row.clone());
    assert_eq!(sql::manifest(&bound(&write)).ok(), Some(row));
    let pin = Pin {
        fork: Incarnation(choices.magnitude(u64::MAX)),
        name: choices.one_of(&["a", "a/b", "caf%C3%A9"]).to_owned(),
        released_at: (choices.upto(1) == 1).then(|| Millis(choices.magnitude(1 << 53))),
    };
    let write = Write::PutPin(pin.clone());
    assert_eq!(sql::pin(&bound(&write)).ok(), Some(pin));
    let write = appends_of_a_row(choices, HotTable::of(0));
    let Write::InsertHot { row, .. } = &write else {
        panic!("a row is drawn");
    };
    let columns = bound(&write).0;
    // Only some rows have their appends in a column of their own.
    let ends = match columns.as_slice() {
        [_, _, _, _, _, ends] => ends.clone(),
        _ => Cell::Null,
    };
    let read = sql::appends_of(&Row(vec![columns[0].clone(), columns[1].clone(), ends]));
    let read = read.map(|appends| (appends.units, appends.ends));
    let written = row.ends.iter().map(|end| end.units).collect();
    assert_eq!(read.ok(), Some((row.units, written)));
}

/// Draws the relations of a stream, and checks that they are read as they were stored.
fn lineage(choices: &mut Choices<'_>) {
    let number = |choices: &mut Choices<'_>| choices.magnitude(1 << 53);
    let fork = (choices.upto(1) == 1).then(|| Fork {
        source: choices
            .one_of(&["a", "a/b", "caf%C3%A9", "__registry__"])
            .to_owned(),
        incarnation: Incarnation(choices.magnitude(u64::MAX)),
        depth: number(choices),
        fork_offset: Offset::new(number(choices), number(choices)),
        sub_offset: number(choices),
        asked_expiry: match choices.upto(2) {
            0 => Expiry::Never,
            1 => Expiry::Sliding {
                seconds: number(choices),
            },
            _ => Expiry::At {
                at: Millis(number(choices)),
                text: choices
                    .one_of(&["", " ", "2027-01-01T00:00:00Z", "2027-01-01 00:00:00Z"])
                    .to_owned(),
            },
        },
        segments: number(choices),
        units: number(choices),
    });
    let lineage = Lineage {
        fork,
        has_pins: choices.upto(1) == 1,
        deleted_at: (choices.upto(1) == 1).then(|| Millis(number(choices))),
    };
    let stored = lineage.to_stored();
    let read = stored.as_deref().map(Lineage::from_stored);
    assert_eq!(
        read.unwrap_or_default(),
        Some(lineage).filter(|_| stored.is_some())
    );
}

/// Draws a row of any number of appends, and checks that its writers are read again. Returns its
/// write.
fn appends_of_a_row(choices: &mut Choices<'_>, table: HotTable) -> Write {
    let mut ends = Vec::new();
    for _ in 0..choices.upto(3) {
        let text = choices.one_of(&["", "a", "\u{20ac}uro", "p-1"]);
        let producer = (choices.upto(1) == 1).then(|| ProducerStamp {
            id: text.to_owned(),
            epoch: choices.magnitude(1 << 53),
            seq: choices.magnitude(1 << 53),
        });
        ends.push(AppendEnd {
            units: 1 + choices.magnitude(1_000),
            producer,
            stream_seq: (choices.upto(1) == 1).then(|| text.to_owned()),
        });
    }
    let row = HotRow {
        key: RowKey::at(0),
        units: ends.iter().map(|end| end.units).sum(),
        bytes_before: 0,
        at: Millis(7),
        ends,
        frames: Bytes::from_static(b"frames").into(),
    };
    let writers: Vec<_> = row.writers().collect();
    let is_single = row.ends.len() == 1;
    let write = Write::InsertHot { table, row };
    let bound = bound(&write).0;
    let [key, units, bytes_before, at, rest @ ..] = bound.as_slice() else {
        panic!("a row has at least four columns");
    };
    assert!(
        [key, units, bytes_before, at]
            .iter()
            .all(|cell| matches!(cell, Cell::Integer(_))),
        "the first columns are numbers"
    );
    let null = || Cell::Null;
    let columns = match rest {
        [producer, epoch, seq, stream_seq, _frames] => {
            let stamp = [producer, epoch, seq, stream_seq, at].map(Clone::clone);
            [&stamp[..], &[null()]].concat()
        }
        [_frames, ends] => vec![null(), null(), null(), null(), at.clone(), ends.clone()],
        _ => {
            assert!(
                writers.is_empty(),
                "a row with writers has columns for them"
            );
            return write;
        }
    };
    assert_eq!(
        is_single,
        rest.len() == 5,
        "only a single append has columns"
    );
    assert_eq!(sql::writers_of(&Row(columns)).ok(), Some(writers));
    write
}

/// Returns the bound values of a write that is one statement.
fn bound(write: &Write) -> Row {
    let mut bound = Row(Vec::new());
    let executed = sql::statements(write, |_, values| {
        bound.0 = values.iter().map(Cell::from).collect();
        Ok::<_, StorageError>(())
    });
    assert!(executed.is_ok());
    bound
}

fn stops_where_it_fails(write: &Write) {
    let mut count = 0;
    let whole = sql::statements(write, |_, _| {
        count += 1;
        Ok::<_, ()>(())
    });
    assert_eq!(whole, Ok(()));
    for fails_at in 1..=count {
        let mut executed = 0;
        let cut = sql::statements(write, |_, _| {
            executed += 1;
            if executed == fails_at {
                Err(())
            } else {
                Ok(())
            }
        });
        assert_eq!(
            (cut, executed),
            (Err(()), fails_at),
            "nothing follows what has failed"
        );
    }
}

#[derive(Clone, Debug)]
enum Cell {
    Null,
    Integer(u64),
    Text(String),
    Blob(Vec<u8>),
}

impl Cell {
    fn draw(choices: &mut Choices<'_>) -> Self {
        match choices.upto(3) {
            0 => Self::Null,
            1 => Self::Integer(choices.magnitude(u64::MAX)),
            2 => Self::Text(Self::bytes(choices).into_iter().map(char::from).collect()),
            _ => Self::Blob(Self::bytes(choices)),
        }
    }

    fn bytes(choices: &mut Choices<'_>) -> Vec<u8> {
        let length = choices.magnitude(20);
        let bytes = (0..length).map(|_| u8::try_from(choices.upto(255)).unwrap_or(0));
        bytes.collect()
    }

    fn unreadable(&self) -> StorageError {
        StorageError(format!("another kind of value: {self:?}"))
    }
}

impl From<&Value<'_>> for Cell {
    fn from(value: &Value<'_>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(integer) => Self::Integer(*integer),
            Value::Text(text) => Self::Text((*text).to_owned()),
            Value::Blob(bytes) => Self::Blob((*bytes).to_vec()),
        }
    }
}

struct Row(Vec<Cell>);

impl Row {
    fn in_order(&self, columns: &[usize]) -> Self {
        Self(
            columns
                .iter()
                .map(|column| self.0[*column].clone())
                .collect(),
        )
    }
}

impl Columns for Row {
    fn integer(&self, column: usize) -> Result<Option<u64>, StorageError> {
        match &self.0[column] {
            Cell::Null => Ok(None),
            Cell::Integer(integer) => Ok(Some(*integer)),
            other @ (Cell::Text(_) | Cell::Blob(_)) => Err(other.unreadable()),
        }
    }

    fn text(&self, column: usize) -> Result<Option<String>, StorageError> {
        match &self.0[column] {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text.clone())),
            other @ (Cell::Integer(_) | Cell::Blob(_)) => Err(other.unreadable()),
        }
    }

    fn blob(&self, column: usize) -> Result<Option<Vec<u8>>, StorageError> {
        match &self.0[column] {
            Cell::Null => Ok(None),
            Cell::Blob(bytes) => Ok(Some(bytes.clone())),
            other @ (Cell::Integer(_) | Cell::Text(_)) => Err(other.unreadable()),
        }
    }
}
