//! Cold segments: the format of the objects that hold sealed segments, and range reads of them.
//!
//! # Format, version 1
//!
//! All integers are little-endian. A *varint* stores seven bits per byte, lowest first; the high
//! bit is set on all bytes except the last. Checksums are CRC-32 (ISO-HDLC).
//!
//! | bytes | content |
//! | --- | --- |
//! | 4 | `DSsg` |
//! | 1 | version, 1 |
//! | 1 | 1: the body is frames, one per message or append; 0: plain bytes (older versions) |
//! | 2 | zero |
//! | 8 | incarnation of the stream |
//! | 8 | number of the segment |
//! | 4 | length n of the context |
//! | n | context: JSON with `path` and `contentType`, which identifies an object found on its own |
//! | 4 | checksum of all bytes before it |
//! | body | frames as in the rows (each message or append after its length in 32 bits), or plain bytes |
//! | index | see below |
//! | 4 | length of the index |
//! | 4 | checksum of the index and of its length |
//! | 4 | `DSsx` |
//!
//! The index begins with varints: version (1), kind of body as above, length of everything before
//! the body, length of the body, units (messages or bytes), length of a block, number of entries.
//! The entries follow, two varints each: the increase of the position and of the framed bytes
//! before it since the previous entry. An entry is the beginning of the first row at or after a
//! multiple of the block length in framed bytes. The checksums of the body's blocks come last, 4
//! bytes each. All blocks have the same length except the last. The segment's row holds the same
//! index, so any part can be fetched with one range request and verified.

pub(crate) mod append_ends;
mod blocks;
mod decode;
mod encoder;
mod index;
mod key;

use serde::{Deserialize, Serialize};

use crate::rows::{HotTable, Incarnation};

pub use decode::{Decoded, decode};
pub use encoder::{Encoder, Receipt};
pub use index::{Entry, Index};
pub use key::{key, key_prefix};

const MAGIC: [u8; 4] = *b"DSsg";
const MAGIC_END: [u8; 4] = *b"DSsx";
const VERSION: u8 = 1;
const CHECK_BYTES: usize = 4;
/// Bytes of the head before the context. It begins with the magic, the version, whether the body
/// consists of frames, and two bytes of 0.
const FIXED_HEAD_BYTES: usize = 28;
/// Where the fields of the head are.
const FRAMED_AT: usize = 5;
const INCARNATION_AT: usize = 8;
const SEGMENT_AT: usize = 16;
const CONTEXT_LENGTH_AT: usize = 24;
/// The trailer is the length of the index, its checksum, and the magic at the end.
const TRAILER_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;

/// Identifies one attempt to store a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PutId {
    /// The incarnation of the stream.
    pub incarnation: Incarnation,
    /// The number of the segment.
    pub segment: u64,
    /// The number of the attempt, from 0.
    pub attempt: u64,
}

/// A segment to store under a key that was never used before. If an object exists at the key, the
/// put must not overwrite it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The attempt.
    pub id: PutId,
    /// The key of the object.
    pub key: String,
    pub(crate) table: HotTable,
    pub(crate) units: u64,
    pub(crate) bytes: u64,
    pub(crate) block: u64,
    pub(crate) row_bytes_max: u64,
    pub(crate) appends_read_max: u64,
    /// Time limit of the put. After it the outcome is unknown and the next attempt starts.
    pub time_ms: u64,
    pub(crate) context: Context,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    pub(crate) path: String,
    pub(crate) content_type: String,
}
