//! A bit of a stored row that changes on the disk. The rows are put into a real shard, so that its
//! code reads what has changed.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use machine::{AlarmChange, MemoryRows, Span, StorageError};
use rusqlite::{Connection, params};
use sim::choices::Choices;
use sqlite::{Identity, Shard};

const CACHE_KIB: u32 = 64;
const ROWS: &str = "SELECT key, coalesce(hot.frames, large.frames) FROM hot \
     LEFT JOIN large ON large.id = hot.large \
     WHERE segment = ? AND key BETWEEN ? AND ? ORDER BY key";
const CHANGE_SMALL: &str =
    "UPDATE hot SET frames = ?1 WHERE segment = ?2 AND key = ?3 AND large IS NULL";
const CHANGE_LARGE: &str = "UPDATE large SET frames = ?1 WHERE id = \
     (SELECT large FROM hot WHERE segment = ?2 AND key = ?3)";

/// What a read of a span has found.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) frames: Result<Vec<u8>, StorageError>,
    pub(crate) damage: Option<String>,
}

/// Flips one bit in the content of a span's rows, and reads the span. Returns nothing if its rows
/// have no content.
pub(crate) fn read(
    name: &str,
    rows: &MemoryRows,
    span: Span,
    choices: &mut Choices<'_>,
) -> Option<Read> {
    // Each database in memory needs a name of its own. Runs do not see the number.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = format!("file:flipped-{number}?mode=memory&cache=shared");
    let shard = shard(&path, name, rows).expect("a stream's rows fit into a shard");
    let file = Connection::open(&path).expect("a database in memory can be opened again");
    flip(&file, span, choices).expect("rows in memory can be changed")?;
    let stream = shard.stream(name).expect("the stream is there");
    let frames = stream.frames(span);
    Some(Read {
        frames,
        damage: stream.damage(),
    })
}

fn shard(path: &str, name: &str, rows: &MemoryRows) -> Result<Shard, sqlite::OpenError> {
    let identity = Identity {
        directory: "flipped".to_owned(),
        number: 0,
        count: 1,
    };
    let shard = Shard::create(Path::new(path), &identity, CACHE_KIB)?;
    shard.begin()?;
    shard.apply(name, &rows.as_writes(), AlarmChange::Keep)?;
    shard.commit()?;
    Ok(shard)
}

fn flip(file: &Connection, span: Span, choices: &mut Choices<'_>) -> rusqlite::Result<Option<()>> {
    let segment = span.table.segment().cast_signed();
    let keys = [span.from, span.to].map(|key| key.stored().cast_signed());
    let mut statement = file.prepare(ROWS)?;
    let rows = statement.query_map(params![segment, keys[0], keys[1]], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
    })?;
    let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.retain(|(_, content)| !content.is_empty());
    if rows.is_empty() {
        return Ok(None);
    }
    let (key, mut content) = rows.swap_remove(below(choices, rows.len()));
    let bit = below(choices, content.len() * 8);
    content[bit / 8] ^= 1 << (bit % 8);
    for change in [CHANGE_SMALL, CHANGE_LARGE] {
        file.execute(change, params![content, segment, key])?;
    }
    Ok(Some(()))
}

fn below(choices: &mut Choices<'_>, count: usize) -> usize {
    let drawn = choices.upto(count as u64 - 1);
    usize::try_from(drawn).expect("it is less than a count")
}
