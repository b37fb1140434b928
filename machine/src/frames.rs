//! The framed records of a row that will be written.

use bytes::Bytes;

use crate::plan::{FRAME_OVERHEAD, push_frame, push_length};
use crate::wire::json;

/// The framed records of one row. The frames of a large append are built when the row is written
/// and dropped afterwards. So memory holds a second copy of one row, not of the whole append.
#[derive(Clone, Debug)]
pub struct Frames(Content);

#[derive(Clone, Debug)]
enum Content {
    Made(Bytes),
    /// The frame of one record, or the part of it that fits into the row.
    Record {
        record: Bytes,
        taken: Bytes,
    },
    /// The continuation of a record that begins in an earlier row.
    RestOfRecord(Bytes),
    /// The frames of several appends.
    Joined(Vec<u8>),
    /// Messages as written in a JSON array.
    Messages {
        text: Bytes,
        framed: u64,
    },
}

impl Frames {
    /// Creates the frame of a record, cut after the first `taken` bytes of its payload.
    pub(crate) fn record(record: Bytes, taken: usize) -> Self {
        Self(Content::Record {
            taken: record.slice(..taken),
            record,
        })
    }

    pub(crate) const fn rest_of_record(bytes: Bytes) -> Self {
        Self(Content::RestOfRecord(bytes))
    }

    /// Creates the frames of the messages in `text`, which begins with the first message and ends
    /// with the last. `framed` is the size of the frames.
    pub(crate) const fn messages(text: Bytes, framed: u64) -> Self {
        Self(Content::Messages { text, framed })
    }

    /// Returns the size of the frames in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Content::Made(bytes) | Content::RestOfRecord(bytes) => bytes.len() as u64,
            Content::Joined(bytes) => bytes.len() as u64,
            Content::Record { taken, .. } => FRAME_OVERHEAD + taken.len() as u64,
            Content::Messages { framed, .. } => *framed,
        }
    }

    /// Adds the frames of the next append.
    pub(crate) fn push(&mut self, next: &Self) {
        if !matches!(self.0, Content::Joined(_)) {
            self.0 = Content::Joined(self.make().to_vec());
        }
        if let Content::Joined(bytes) = &mut self.0 {
            bytes.extend_from_slice(&next.make());
        }
    }

    /// Builds the bytes to store.
    #[must_use]
    pub fn make(&self) -> Bytes {
        if let Content::Made(bytes) | Content::RestOfRecord(bytes) = &self.0 {
            return bytes.clone();
        }
        let mut frames =
            Vec::with_capacity(usize::try_from(self.bytes()).expect("a row fits into memory"));
        match &self.0 {
            Content::Made(_) | Content::RestOfRecord(_) => {}
            Content::Joined(bytes) => frames.extend_from_slice(bytes),
            Content::Record { record, taken } => {
                push_length(&mut frames, record.len());
                frames.extend_from_slice(taken);
            }
            Content::Messages { text, .. } => {
                json::messages_between_commas(text, |message| push_frame(&mut frames, message));
            }
        }
        assert_eq!(
            frames.len() as u64,
            self.bytes(),
            "the frames have the size that their row counts"
        );
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
