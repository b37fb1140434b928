//! The framed records of a row that is to be written.

use bytes::Bytes;

use crate::plan::{FRAME_OVERHEAD, push_frame, push_length};
use crate::wire::json;

/// The framed records of one row. Those of a large append are made when their row is written, and
/// dropped with it: what is held twice of an append is a row and not the whole.
#[derive(Clone, Debug)]
pub struct Frames(Content);

#[derive(Clone, Debug)]
enum Content {
    Made(Bytes),
    /// One record, or as much of it as the row takes.
    Record {
        record: Bytes,
        taken: Bytes,
    },
    /// What follows of a record that begins in an earlier row.
    RestOfRecord(Bytes),
    /// Messages as they stand in a JSON array.
    Messages {
        text: Bytes,
        framed: u64,
    },
}

impl Frames {
    /// The frame of a record, with no more than its first `taken` bytes.
    pub(crate) fn record(record: Bytes, taken: usize) -> Self {
        Self(Content::Record {
            taken: record.slice(..taken),
            record,
        })
    }

    pub(crate) const fn rest_of_record(bytes: Bytes) -> Self {
        Self(Content::RestOfRecord(bytes))
    }

    /// Messages that take `framed` bytes as frames, from the beginning of the first to the end of
    /// the last.
    pub(crate) const fn messages(text: Bytes, framed: u64) -> Self {
        Self(Content::Messages { text, framed })
    }

    /// How many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Content::Made(bytes) | Content::RestOfRecord(bytes) => bytes.len() as u64,
            Content::Record { taken, .. } => FRAME_OVERHEAD + taken.len() as u64,
            Content::Messages { framed, .. } => *framed,
        }
    }

    /// As they are stored.
    #[must_use]
    pub fn make(&self) -> Bytes {
        if let Content::Made(bytes) | Content::RestOfRecord(bytes) = &self.0 {
            return bytes.clone();
        }
        let mut frames =
            Vec::with_capacity(usize::try_from(self.bytes()).expect("a row fits into memory"));
        match &self.0 {
            Content::Made(_) | Content::RestOfRecord(_) => {}
            Content::Record { record, taken } => {
                push_length(&mut frames, record.len());
                frames.extend_from_slice(taken);
            }
            Content::Messages { text, .. } => {
                json::messages_between_commas(text, |message| push_frame(&mut frames, message));
            }
        }
        frames.into()
    }
}

impl From<Bytes> for Frames {
    fn from(bytes: Bytes) -> Self {
        Self(Content::Made(bytes))
    }
}

impl PartialEq for Frames {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes() && self.make() == other.make()
    }
}

impl Eq for Frames {}
