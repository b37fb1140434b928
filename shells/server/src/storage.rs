//! The durable state of the server: shards, each with the rows and the alarms of its streams. On a
//! machine each shard is a file ([`crate::directory`]). A simulation has its own.

use std::fmt::Debug;
use std::io;

use machine::admin::Listed;
use machine::{AlarmChange, Millis, Span, StorageError, Write};
use sha2::{Digest as _, Sha256};

/// Streams whose alarm is due, the earliest first, and the time of the next alarm that is not due.
pub type Due = (Vec<String>, Option<Millis>);

/// Everything that outlives a server.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Returns how many shards there are. It never changes while a server runs.
    fn shards(&self) -> usize;

    /// Opens a shard for writes. No other writer of the shard is open. Everything that its readers
    /// can see is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be opened, or something visible may not be durable.
    fn open(&self, shard: usize) -> io::Result<Box<dyn Writer>>;

    /// Opens a shard for reads beside its writer. The writer is open.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn reader(&self, shard: usize) -> io::Result<Box<dyn Reader>>;
}

/// The rows of one stream.
pub trait Rows: machine::Storage {
    /// Returns the joined frames of the rows of a span.
    ///
    /// # Errors
    /// When they cannot be read, or are damaged.
    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError>;

    /// Returns the names of the tables that the stream has rows in.
    ///
    /// # Errors
    /// When they cannot be read.
    fn tables(&self) -> Result<Vec<String>, StorageError>;

    /// Returns what is damaged, if a question has failed because a row is not what was written.
    fn damage(&self) -> Option<String>;
}

/// A connection to a shard that reads.
pub trait Reader: Debug + Send {
    /// Returns the rows of a stream: those of the last commit, and for a [`Writer`] those of its
    /// open transaction. A connection that only reads can have the rows of one stream at a time.
    /// They stay as they are until they are dropped.
    ///
    /// # Errors
    /// When they cannot be read.
    fn stream(&self, name: &str) -> Result<Box<dyn Rows + '_>, StorageError>;

    /// Returns due alarms, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be read.
    fn due(&self, now: Millis, limit: u64) -> io::Result<Due>;

    /// Returns the streams of the shard from one name on and before another, at most `limit`, in
    /// order.
    ///
    /// # Errors
    /// When they cannot be read.
    fn list(&self, from: &str, before: &str, limit: u64) -> io::Result<Vec<Listed>>;
}

/// The connection that writes to a shard. Dropping it discards the open transaction.
pub trait Writer: Reader {
    /// Opens a transaction. [`Self::commit`] makes its turns durable all at once.
    ///
    /// # Errors
    /// When the storage cannot be locked or read.
    fn begin(&mut self) -> io::Result<()>;

    /// Begins a turn in the open transaction. [`Self::keep_turn`] or [`Self::undo_turn`] ends it.
    ///
    /// # Errors
    /// When it cannot begin.
    fn begin_turn(&mut self) -> io::Result<()>;

    /// Carries out writes of the turn, which are all of one stream. A turn that upgrades older rows
    /// does so before its other writes.
    ///
    /// # Errors
    /// When the storage refuses a part of them. The caller takes the turn back then.
    fn apply(&mut self, name: &str, writes: &[Write], alarm: AlarmChange) -> io::Result<()>;

    /// Ends the turn. Its writes are part of the transaction.
    ///
    /// # Errors
    /// When the transaction is gone.
    fn keep_turn(&mut self) -> io::Result<()>;

    /// Takes the writes of the turn back. Those of earlier turns stay.
    ///
    /// # Errors
    /// When the transaction is gone, with all of its turns.
    fn undo_turn(&mut self) -> io::Result<()>;

    /// Commits the open transaction. It is durable when this returns.
    ///
    /// # Errors
    /// When the transaction may or may not be durable, now or after a power cut. The caller closes
    /// the shard then.
    fn commit(&mut self) -> io::Result<()>;

    /// Gives space of deleted rows and of a long log back, a bounded amount at a time. No
    /// transaction is open.
    ///
    /// # Errors
    /// As [`Self::commit`].
    fn shrink(&mut self) -> io::Result<()>;

    /// Frees memory that is needed only to be faster. No transaction is open.
    ///
    /// # Errors
    /// When it stays in memory.
    fn release_memory(&mut self) -> io::Result<()>;

    /// Closes the shard. No transaction is open, and no reader.
    ///
    /// # Errors
    /// When it cannot be closed cleanly.
    fn close(self: Box<Self>) -> io::Result<()>;
}

/// Returns the shard of a stream: the first 64 bits of the SHA-256 of its name, as a big-endian
/// number, modulo the number of shards. A directory relies on this, so it never changes.
#[must_use]
pub fn shard_of(name: &str, shards: usize) -> usize {
    let digest = Sha256::digest(name.as_bytes());
    let number = digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    let shard = number % u64::try_from(shards).unwrap_or(u64::MAX).max(1);
    usize::try_from(shard).expect("a shard's number is less than their count")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_stream_never_changes() {
        let shards = ["a", "A", "a/b", "__registry__", ""].map(|name| shard_of(name, 16));
        assert_eq!(shards, [10, 9, 13, 4, 4]);
        for name in ["a", "b", "c"] {
            assert_eq!(shard_of(name, 1), 0);
        }
    }
}
