//! The durable state of the server: a database for each stream, and the index of alarms. On a
//! machine these are files ([`crate::files`], [`crate::alarms`]). A simulation has its own.

use std::fmt::Debug;
use std::io;

use machine::{Millis, Span, StorageError, Write};

/// The rows of one stream. Dropping it discards uncommitted writes.
pub trait Database: Debug + Send {
    /// Returns the storage for the machine. It includes the writes of the open transaction.
    fn rows(&self) -> &dyn machine::Storage;

    /// Opens a transaction. [`Self::commit`] makes its writes durable all at once.
    ///
    /// # Errors
    /// When the storage cannot be locked or read.
    fn begin(&mut self) -> io::Result<()>;

    /// Applies writes in the open transaction.
    ///
    /// # Errors
    /// When the storage refuses one of them. The caller drops the database then.
    fn apply(&mut self, writes: &[Write]) -> io::Result<()>;

    /// Commits the open transaction. It is durable when this returns.
    ///
    /// # Errors
    /// When the commit failed. The transaction may or may not be durable. The caller drops the
    /// database then.
    fn commit(&mut self) -> io::Result<()>;

    /// Returns the joined frames of the rows of a span.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError>;

    /// Returns the names of the tables.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn tables(&self) -> io::Result<Vec<String>>;

    /// Closes the database. No transaction is open.
    ///
    /// # Errors
    /// When it cannot be closed cleanly.
    fn close(self: Box<Self>) -> io::Result<()>;
}

/// Streams whose alarm is due, and the time of the earliest of all alarms.
pub type Due = (Vec<String>, Option<Millis>);

/// Everything that outlives a server.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Opens the database of a stream, if it has one.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Database>>>;

    /// Creates an empty database for a stream. It need not be durable before its first commit.
    ///
    /// # Errors
    /// When it cannot be created.
    fn create(&self, name: &str) -> io::Result<Box<dyn Database>>;

    /// Removes the database of a deleted stream, whose tables are already dropped.
    ///
    /// # Errors
    /// When it cannot be removed. An empty database is left then.
    fn remove(&self, name: &str, database: Box<dyn Database>) -> io::Result<()>;

    /// Sets the alarm of a stream. It is durable when this returns.
    ///
    /// # Errors
    /// When the alarm may not be durable.
    fn set_alarm(&self, name: &str, at: Millis) -> io::Result<()>;

    /// Removes the alarm of a stream.
    ///
    /// # Errors
    /// When the alarm may still be set.
    fn remove_alarm(&self, name: &str) -> io::Result<()>;

    /// Returns due alarms, the earliest first, up to a fixed number.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn due(&self, now: Millis) -> io::Result<Due>;
}
