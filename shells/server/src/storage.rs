//! Where the server keeps what is durable: a database for each stream, and the index of alarms. On
//! a machine these are files ([`crate::files`], [`crate::alarms`]); a simulation brings its own.

use std::fmt::Debug;
use std::io;

use machine::plan::Span;
use machine::{Millis, Rows, StorageError, Write};

/// One stream's rows. [`Rows::attached`] is not asked of it: readers are not stored.
///
/// What has been written and not committed is gone when it is dropped.
pub trait Database: Rows + Debug + Send {
    /// Opens a transaction, whose writes [`Self::commit`] makes durable all at once. It sees what
    /// it has written.
    ///
    /// # Errors
    /// When the storage cannot be locked or read.
    fn begin(&mut self) -> io::Result<()>;

    /// Carries out writes in the open transaction.
    ///
    /// # Errors
    /// When the storage refuses one of them. The database is dropped then.
    fn apply(&mut self, writes: &[Write]) -> io::Result<()>;

    /// Durable when it returns.
    ///
    /// # Errors
    /// When the transaction could not be made durable. Whether it was is unknown then. The database
    /// is dropped.
    fn commit(&mut self) -> io::Result<()>;

    /// The joined frames of the rows of a span.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError>;

    /// The names of the tables.
    ///
    /// # Errors
    /// When the storage cannot be read.
    fn tables(&self) -> io::Result<Vec<String>>;

    /// Lets go of it, with nothing written that is not committed.
    ///
    /// # Errors
    /// When that cannot be done cleanly.
    fn close(self: Box<Self>) -> io::Result<()>;
}

/// Streams whose alarm is due, and when the first of all alarms is.
pub type Due = (Vec<String>, Option<Millis>);

/// Everything that outlives a server.
pub trait Storage: Debug + Send + Sync + 'static {
    /// The database of a stream, where it has one.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Database>>>;

    /// A new, empty database for a stream. It need not last before its first commit.
    ///
    /// # Errors
    /// When it cannot be made.
    fn create(&self, name: &str) -> io::Result<Box<dyn Database>>;

    /// Removes the database of a stream that is no more, and whose tables are gone already.
    ///
    /// # Errors
    /// When it cannot be removed. An empty one is left then.
    fn remove(&self, name: &str, database: Box<dyn Database>) -> io::Result<()>;

    /// Enters when a stream is to be woken. Durable when it returns.
    ///
    /// # Errors
    /// When it could not be made durable.
    fn set_alarm(&self, name: &str, at: Millis) -> io::Result<()>;

    /// Takes a stream's alarm out.
    ///
    /// # Errors
    /// When it may still be there.
    fn remove_alarm(&self, name: &str) -> io::Result<()>;

    /// The alarms that are due, the earliest first, up to a number.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn due(&self, now: Millis) -> io::Result<Due>;
}
