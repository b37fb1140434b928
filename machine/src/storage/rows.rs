//! The durable state as typed rows, and every change of it.

use core::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::frames::Frames;
use crate::outbox::task::{Queue, Task};
use crate::words::{self, Words};
use crate::{Millis, Offset};

pub use super::activity::{Activity, MinuteOfRows, Minutes, MinutesOfRows, Sums};

/// Identifies a stream from its PUT to its deletion. Part of every entity tag and of every key of a
/// cold segment, so that a stream created anew under an old name shares nothing with the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Incarnation(pub u64);

impl From<Incarnation> for String {
    fn from(incarnation: Incarnation) -> Self {
        incarnation.to_string()
    }
}

impl TryFrom<String> for Incarnation {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::from_text(&text).ok_or("an incarnation is a hexadecimal number")
    }
}

impl Incarnation {
    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// When a stream ends by itself (protocol 5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Only when it is deleted.
    Never,
    /// `Stream-TTL`, in seconds: restarts with every read and write.
    Sliding {
        /// The time to live.
        seconds: u64,
    },
    /// `Stream-Expires-At`, with the text as the client wrote it.
    At {
        /// The parsed time.
        at: Millis,
        /// The text as the client wrote it.
        text: String,
    },
}

/// A producer's id, epoch and sequence on one append (protocol 5.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// `Producer-Id`.
    pub id: String,
    /// `Producer-Epoch`.
    pub epoch: u64,
    /// `Producer-Seq`.
    pub seq: u64,
}

/// The hot table of a segment. Each segment has its own, so that any number can wait for the cold
/// tier, and each can be dropped alone: dropping a table costs no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HotTable(u64);

impl HotTable {
    /// Returns the table of a segment.
    #[must_use]
    pub const fn of(segment: u64) -> Self {
        Self(segment)
    }

    /// Returns the number of the table's segment.
    #[must_use]
    pub const fn segment(self) -> u64 {
        self.0
    }
}

/// The number of the present layout of a stream's tables. Every change that earlier code could not
/// read raises it.
///
/// 1 is the first number. Since 2 a hot row can hold several appends. Since 3 a stream can be a
/// fork or have forks. Since 4 the row of a stream says what was appended. Since 5 it says whether
/// the directory has the stream.
pub const SCHEMA: u64 = 5;

/// The number of the present layout of the outbox.
pub const OUTBOX_SCHEMA: u64 = 1;

/// The number of the present layout of the control table.
pub const CONTROL_SCHEMA: u64 = 1;

/// Which tables there are, and the schema numbers of their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The schema number in the row of the stream, if there is one. Zero is from before rows had a
    /// number.
    pub stream: Option<u64>,
    /// The schema number in the rows of the outbox, if there is a table of them.
    pub outbox: Option<u64>,
    /// The schema number in the rows of the control table, if there is such a table.
    pub control: Option<u64>,
    /// The newest segment that has a hot table.
    pub newest_hot: Option<u64>,
    /// The oldest segment that has a hot table. There are no gaps between the two.
    pub oldest_hot: Option<u64>,
    /// Whether there is a table of sealed segments.
    pub has_segments: bool,
    /// The tables that only version 0.1 has.
    pub former: Option<Former>,
    /// The tasks of an older outbox, in order.
    pub older_tasks: Vec<Task>,
}

impl Layout {
    /// Returns the layout that this code makes, with or without each table, and without hot or
    /// sealed ones.
    #[must_use]
    pub fn present(has_stream: bool, has_outbox: bool, has_control: bool) -> Self {
        Self {
            stream: has_stream.then_some(SCHEMA),
            outbox: has_outbox.then_some(OUTBOX_SCHEMA),
            control: has_control.then_some(CONTROL_SCHEMA),
            newest_hot: None,
            oldest_hot: None,
            has_segments: false,
            former: None,
            older_tasks: Vec::new(),
        }
    }

    /// Returns whether there is no table.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.stream.is_none() && self.outbox.is_none() && self.control.is_none()
    }

    /// Returns the schema numbers of the tables, each with the present one.
    pub(crate) fn schemas(&self) -> impl Iterator<Item = (u64, u64)> {
        let stream = self.stream.map(|schema| (schema, SCHEMA));
        let outbox = self.outbox.map(|schema| (schema, OUTBOX_SCHEMA));
        let control = self.control.map(|schema| (schema, CONTROL_SCHEMA));
        [stream, outbox, control].into_iter().flatten()
    }
}

/// The tables of version 0.1, where two hot tables took turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// The segment whose rows are in `hot_a`, if there is such a table.
    pub a: Option<u64>,
    /// The same of `hot_b`.
    pub b: Option<u64>,
    /// Whether there is a table of producers, which does not say when they wrote last.
    pub producers: bool,
}

/// What a stream is, apart from its content: one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRow {
    /// Distinguishes the stream from all others of its name.
    pub incarnation: Incarnation,
    /// In its canonical spelling.
    pub name: String,
    /// As the client wrote it.
    pub content_type: String,
    /// When the stream was created.
    pub created_at: Millis,
    /// When the stream ends by itself.
    pub expiry: Expiry,
    /// The index applies the changes of streams of this name in the order of their versions.
    pub version: u64,
    /// The shard of the registry that gets the creation and the end. Internal streams have none.
    pub registered: Option<u64>,
    /// Receivers that do not have the creation yet. This field saves them rows in the outbox.
    pub unannounced: Unannounced,
    /// The open segment.
    pub segment: u64,
    /// Whether the open segment can have rows. It cannot if the stream is closed and its last
    /// segment is sealed.
    pub writable: bool,
    /// The last `Stream-Seq` of the sealed segments.
    pub stream_seq: Option<String>,
    /// The last use that was stored; the rows of appends carry their own time.
    pub touched_at: Millis,
    /// The time for which the alarm was last set.
    pub alarm_at: Option<Millis>,
    /// Present once the stream is closed.
    pub closed: Option<Closed>,
    /// Its relations to other streams.
    pub lineage: Lineage,
    /// What its own sealed segments hold. `None` if earlier code sealed one of them.
    pub activity: Option<Activity>,
}

/// The relations of a stream to its source and to its forks (protocol 4.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Present if the stream is a fork.
    pub fork: Option<Fork>,
    /// Whether there is a table of pins, because the stream has been forked.
    pub has_pins: bool,
    /// When the stream was deleted or expired, if forks still inherit from it.
    pub deleted_at: Option<Millis>,
}

/// Where a fork comes from, and what its creation asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The canonical name of the source.
    pub source: String,
    /// The incarnation of the source that keeps the pin.
    pub incarnation: Incarnation,
    /// How many forks lie between this stream and one that is no fork: at least 1.
    pub depth: u64,
    /// The fork offset: the tail of the source if the request did not name one.
    pub fork_offset: Offset,
    /// `Stream-Fork-Sub-Offset`, in units after the fork offset.
    pub sub_offset: u64,
    /// The expiry that the request asked for. The stream's own can be inherited.
    pub asked_expiry: Expiry,
    /// How many segments are inherited. The stream's own segments follow them.
    pub segments: u64,
    /// Units that are inherited of the last of these segments.
    pub units: u64,
}

impl Lineage {
    /// Returns the form in which it is stored; `None` if there is nothing to store.
    #[must_use]
    pub fn to_stored(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let words = Words::new(if self.has_pins { "pins" } else { "none" });
        let words = words.optional(self.deleted_at.map(|at| at.0));
        let Some(fork) = &self.fork else {
            return Some(words.finish());
        };
        let words = words
            .word(&fork.source)
            .word(fork.incarnation)
            .word(fork.depth)
            .word(fork.fork_offset)
            .word(fork.sub_offset)
            .word(fork.segments)
            .word(fork.units);
        Some(words.expiry(&fork.asked_expiry))
    }

    /// Reads what [`Self::to_stored`] returns; `None` if the text is malformed.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let mut words = words::Reader::new(text);
        let has_pins = match words.word()? {
            "pins" => true,
            "none" => false,
            _ => return None,
        };
        let deleted_at = words.optional()?.map(Millis);
        let fork = match words.word() {
            None => None,
            Some(source) => Some(Fork {
                source: source.to_owned(),
                incarnation: words.incarnation()?,
                depth: words.parse()?,
                fork_offset: words.parse()?,
                sub_offset: words.parse()?,
                segments: words.parse()?,
                units: words.parse()?,
                asked_expiry: words.expiry()?,
            }),
        };
        Some(Self {
            fork,
            has_pins,
            deleted_at,
        })
    }
}

impl Fork {
    /// Returns whether this is the fork offset. The end of a segment and the beginning of the next
    /// one are the same place.
    pub(crate) fn is_at(&self, offset: Offset) -> bool {
        let at = self.fork_offset;
        // The segment of the fork offset ends there, unless more of it is inherited.
        let ends_segment = self.sub_offset == 0 || self.segments > at.segment + 1;
        let next = Offset::new(at.segment + 1, 0);
        offset == at || (at.position > 0 && ends_segment && offset == next)
    }
}

/// A run of inherited segments: one row of a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow {
    /// The number of its first segment.
    pub first: u64,
    /// The encoded segments.
    pub body: Bytes,
}

/// The promise of a source that it keeps what a fork inherits. A released pin stays for a while, so
/// that a call that arrives late does not renew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The incarnation of the fork.
    pub fork: Incarnation,
    /// The canonical name of the fork.
    pub name: String,
    /// When the fork gave it back.
    pub released_at: Option<Millis>,
}

/// Receivers that do not have a stream's creation yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unannounced {
    /// Whether the registry is missing it.
    pub registry: bool,
    /// Whether the admin index is missing it.
    pub index: bool,
    /// Whether the directory of streams is missing it. Earlier code registered no stream with it.
    pub directory: bool,
}

/// A row of the control table, which an object can have with or without a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRow {
    /// Unique. Rows are in the order of the bytes of their keys.
    pub key: String,
    /// A text of JSON.
    pub body: String,
}

/// Closes a stream. Names the producer's request that closed it, so that a retry of that request is
/// recognised (protocol 5.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The producer of the request that closed the stream, if it had one.
    pub by: Option<ProducerStamp>,
}

/// Where a row begins in its segment: the position of its first unit, and for a message too large
/// for one row, which part of it this row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(u64);

impl RowKey {
    /// At or after every key.
    pub const LAST: Self = Self((1 << 53) - 1);

    const PART_BITS: u32 = 12;
    const PART_MAX: u64 = (1 << Self::PART_BITS) - 1;

    /// Returns the key of the row that begins at `position`.
    #[must_use]
    pub const fn at(position: u64) -> Self {
        Self(position << Self::PART_BITS)
    }

    /// Returns the greatest key of any row that begins at `position`.
    #[must_use]
    pub const fn last_at(position: u64) -> Self {
        Self(position << Self::PART_BITS | Self::PART_MAX)
    }

    /// Returns the key that is stored as this number.
    #[must_use]
    pub const fn from_stored(key: u64) -> Self {
        Self(key)
    }

    /// Returns the key as it is stored.
    #[must_use]
    pub const fn stored(self) -> u64 {
        self.0
    }

    /// Returns the position of the row's first unit.
    #[must_use]
    pub const fn position(self) -> u64 {
        self.0 >> Self::PART_BITS
    }

    /// Returns the key of the next part of the same message.
    #[must_use]
    pub const fn next_part(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One append of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEnd {
    /// Units of the append that are in this row: all of them, unless it began in an earlier row.
    pub units: u64,
    /// The producer, if the append names one.
    pub producer: Option<ProducerStamp>,
    /// Its `Stream-Seq`, if it has one.
    pub stream_seq: Option<String>,
}

impl AppendEnd {
    /// Returns the writer, if the append names one.
    pub(crate) fn writer(self, at: Millis) -> Option<WriterColumns> {
        let is_named = self.producer.is_some() || self.stream_seq.is_some();
        is_named.then_some(WriterColumns {
            at,
            producer: self.producer,
            stream_seq: self.stream_seq,
        })
    }
}

/// One row of a hot table: the framed records of some appends, or of a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotRow {
    /// Where the row begins.
    pub key: RowKey,
    /// Units (messages or bytes) that end in this row: 0 in all parts but the last of a message
    /// spread over rows.
    pub units: u64,
    /// Framed bytes of the segment before this row.
    pub bytes_before: u64,
    /// When the append came.
    pub at: Millis,
    /// The appends that end in this row, in order.
    pub ends: Vec<AppendEnd>,
    /// The content.
    pub frames: Frames,
}

impl HotRow {
    /// Returns whether the row holds whole records only, so that others can follow in it.
    fn is_whole(&self) -> bool {
        self.units > 0 && self.key == RowKey::at(self.key.position()) && !self.ends.is_empty()
    }

    /// Adds the next row of the same turn to this one, if both are whole and take at most
    /// `bytes_max` together. Otherwise gives it back.
    pub(crate) fn fold(&mut self, next: Self, bytes_max: u64) -> Option<Self> {
        let is_full = self.frames.bytes() + next.frames.bytes() > bytes_max;
        if is_full || !self.is_whole() || !next.is_whole() {
            return Some(next);
        }
        assert_eq!(
            next.key,
            RowKey::at(self.key.position() + self.units),
            "the next row follows this one"
        );
        assert_eq!(
            next.bytes_before,
            self.bytes_before + self.frames.bytes(),
            "the next row counts the bytes of this one"
        );
        assert_eq!(next.at, self.at, "one turn has one time");
        self.units += next.units;
        self.ends.extend(next.ends);
        self.frames.push(&next.frames);
        None
    }

    /// Returns the writers that the row names, in order.
    pub fn writers(&self) -> impl Iterator<Item = WriterColumns> {
        let ends = self.ends.iter().cloned();
        ends.filter_map(|end| end.writer(self.at))
    }
}

/// A row without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMeta {
    /// Where the row begins.
    pub key: RowKey,
    /// Units (messages or bytes) that end in this row.
    pub units: u64,
    /// Framed bytes of the segment before this row.
    pub bytes_before: u64,
    /// Framed bytes in this row.
    pub bytes: u64,
    /// When the append came.
    pub at: Millis,
}

impl RowMeta {
    /// Returns the position after the row's last unit.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.key.position() + self.units
    }

    /// Returns the framed bytes of the segment up to and including this row.
    #[must_use]
    pub const fn bytes_through(&self) -> u64 {
        self.bytes_before + self.bytes
    }

    /// Returns the key of the row that follows.
    #[must_use]
    pub const fn next_key(&self) -> RowKey {
        if self.units == 0 {
            self.key.next_part()
        } else {
            RowKey::at(self.end())
        }
    }
}

/// A hot row's writer, where it names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterColumns {
    /// When the append came.
    pub at: Millis,
    /// The producer of the append.
    pub producer: Option<ProducerStamp>,
    /// The append's `Stream-Seq`.
    pub stream_seq: Option<String>,
}

/// The last accepted state of a producer in the sealed segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// The highest epoch.
    pub epoch: u64,
    /// The last sequence number of that epoch.
    pub seq: u64,
}

/// A segment that takes no more appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// The number of the segment, from 0.
    pub number: u64,
    /// Messages or bytes.
    pub units: u64,
    /// Framed bytes.
    pub bytes: u64,
    /// Messages, or appends where the content is bytes.
    pub messages: u64,
    /// Attempts to put it so far. Each attempt has its own key.
    pub attempts: u64,
    /// When the last attempt began.
    pub attempted_at: Millis,
    /// Its object, once it is in the cold tier. Until then its rows are in its hot table.
    pub stored: Option<StoredSegment>,
}

/// The object of a segment in the cold tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSegment {
    /// Which put succeeded.
    pub attempt: u64,
    /// The encoded index of the object; see [`crate::segment::Index`].
    pub index: Bytes,
    /// Where its appends end, encoded. Written together with the index.
    /// [`Storage::append_ends`](crate::Storage::append_ends) reads it; a segment that is read has
    /// none here.
    pub append_ends: Bytes,
}

/// How many units of each append end in a hot row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowAppends {
    /// Where the row begins.
    pub key: RowKey,
    /// Units (messages or bytes) that end in this row.
    pub units: u64,
    /// For each append that ends in this row, the units of it that are in this row.
    pub ends: Vec<u64>,
}

/// One change of the durable state. All writes of a turn are one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Makes the table of a new stream's row.
    CreateStreamTable,
    /// Inserts the head row of a new stream.
    InsertStream(StreamRow),
    /// Updates everything in the head row that can change.
    UpdateStream(StreamRow),
    /// Adds a row to a hot table.
    InsertHot {
        /// The table.
        table: HotTable,
        /// The row.
        row: HotRow,
    },
    /// Makes the tables of sealed segments. Written when the first segment is sealed.
    CreateSealedTables,
    /// Makes a hot table. Written with its first row, so that a stream that is not used again has
    /// none.
    CreateHot(HotTable),
    /// Adds the row of a sealed segment.
    InsertSegment(SealedSegment),
    /// Updates everything in a segment's row that can change.
    UpdateSegment(SealedSegment),
    /// Replaces the state of this producer, whose last append was at `used_at`.
    PutProducer {
        /// The last append of the producer.
        stamp: ProducerStamp,
        /// When that append came.
        used_at: Millis,
    },
    /// Removes producers whose last append was at `used_at` or before. Those idle for longest go
    /// first.
    ForgetProducers {
        /// The latest time of use that is forgotten.
        used_at: Millis,
        /// The greatest number of producers to forget.
        most: u64,
    },
    /// Removes a hot table, and with it its rows.
    DropHot(HotTable),
    /// Makes the table of inherited segments. Written when a fork is created.
    CreateManifest,
    /// Adds a run of inherited segments.
    InsertManifest(ManifestRow),
    /// Makes the table of pins. Written when the stream is forked for the first time.
    CreatePins,
    /// Adds a pin, or replaces that of the same fork.
    PutPin(Pin),
    /// Removes the pins that were released at `released_at` or before.
    ForgetPins {
        /// The latest release that is forgotten.
        released_at: Millis,
    },
    /// Makes the table of tasks.
    CreateOutbox,
    /// Adds a task to the outbox.
    InsertTask(Task),
    /// Replaces everything of a task but its queue and its id.
    UpdateTask(Task),
    /// Removes a task from the outbox.
    RemoveTask {
        /// The queue of the task.
        queue: Queue,
        /// Its id in the queue.
        id: u64,
    },
    /// Removes the table of tasks. Written when no task is left and there is no stream.
    DropOutbox,
    /// Makes the control table.
    CreateControl,
    /// Adds a row to the control table, or replaces that of the same key.
    PutControl(ControlRow),
    /// Removes a row of the control table.
    RemoveControl {
        /// The key of the row.
        key: String,
    },
    /// Removes the control table. Written when no row is left.
    DropControl,
    /// Removes every table of the stream but the hot ones, and with them every row. Tasks and
    /// control rows do not belong to the stream, and stay.
    DropTables,
    /// Brings older tables to the present layout.
    Upgrade {
        /// The older layout.
        from: Layout,
        /// When its producers count as having written last.
        now: Millis,
    },
}

impl Write {
    /// Returns whether the write makes or removes tables other than hot ones. Only after such a
    /// write the storage can be empty, and need not be kept.
    #[must_use]
    pub const fn changes_tables(&self) -> bool {
        match self {
            Self::CreateStreamTable
            | Self::DropTables
            | Self::CreateOutbox
            | Self::DropOutbox
            | Self::CreateControl
            | Self::DropControl => true,
            Self::InsertStream(_)
            | Self::UpdateStream(_)
            | Self::InsertHot { .. }
            | Self::CreateSealedTables
            | Self::CreateHot(_)
            | Self::InsertSegment(_)
            | Self::UpdateSegment(_)
            | Self::PutProducer { .. }
            | Self::ForgetProducers { .. }
            | Self::DropHot(_)
            | Self::CreateManifest
            | Self::InsertManifest(_)
            | Self::CreatePins
            | Self::PutPin(_)
            | Self::ForgetPins { .. }
            | Self::InsertTask(_)
            | Self::UpdateTask(_)
            | Self::RemoveTask { .. }
            | Self::PutControl(_)
            | Self::RemoveControl { .. }
            | Self::Upgrade { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_read_as_it_was_stored() {
        let fork = |asked_expiry| Fork {
            source: "a/b%20c".to_owned(),
            incarnation: Incarnation(u64::MAX),
            depth: 3,
            fork_offset: Offset::new(7, 8),
            sub_offset: 9,
            segments: 8,
            units: 17,
            asked_expiry,
        };
        let text = "2027-01-01 00:00:00Z".to_owned();
        let expiries = [
            Expiry::Never,
            Expiry::Sliding { seconds: 60 },
            Expiry::At {
                at: Millis(5),
                text,
            },
        ];
        let forks = expiries.map(|expiry| Some(fork(expiry)));
        for fork in forks.into_iter().chain([None]) {
            for (has_pins, deleted_at) in [(true, None), (false, Some(Millis(0)))] {
                let lineage = Lineage {
                    fork: fork.clone(),
                    has_pins,
                    deleted_at,
                };
                let stored = lineage.to_stored().expect("there is something to store");
                assert_eq!(Lineage::from_stored(&stored), Some(lineage));
                for end in 0..stored.len() {
                    let cut = Lineage::from_stored(&stored[..end]);
                    assert!(cut.is_none_or(|cut| cut.to_stored().as_deref() != Some(&stored)));
                }
            }
        }
        assert_eq!(Lineage::default().to_stored(), None);
    }

    #[test]
    fn an_activity_is_read_as_it_was_stored() {
        let sums = |messages| Sums {
            messages,
            framed: 10 * messages,
        };
        let mut activity = Activity::default();
        for minute in [0, 1, 59, 60, 200, 259] {
            activity.minutes.add(minute, sums(minute));
            activity.sums = activity.sums.plus(sums(minute));
            let stored = activity.to_stored();
            assert_eq!(Activity::from_stored(&stored), Some(activity.clone()));
            for end in 0..stored.len() {
                let cut = Activity::from_stored(&stored[..end]);
                assert_ne!(cut, Some(activity.clone()), "{stored} cut at {end}");
            }
        }
        assert_eq!(
            [199, 200, 259].map(|minute| activity.minutes.at(minute).messages),
            [0, 200, 259]
        );
        for malformed in [
            "",
            "1",
            "x 1",
            "1 3",
            "0 0 1",
            "0 0 1 1",
            "0 0 1 1 3",
            "0 9007199254740992",
        ] {
            assert_eq!(Activity::from_stored(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn the_last_key_is_the_last_integer_that_javascript_has() {
        assert_eq!(RowKey::LAST.stored(), (1 << f64::MANTISSA_DIGITS) - 1);
        assert_eq!(RowKey::last_at(RowKey::LAST.position()), RowKey::LAST);
    }
}
