//! The data directory: one SQLite file for each stream, under a name that every file system
//! accepts.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use machine::{Millis, Span, StorageError, Write};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use crate::alarms::Index;
use crate::storage::{Database, Due, Storage};

/// How many bytes of the stream's name are in the file's name, for people who look at the
/// directory.
const SHOWN_BYTES: usize = 40;

/// The storage of one machine.
#[derive(Debug)]
pub(crate) struct Files {
    streams: PathBuf,
    cache_kib: u32,
    alarms: Index,
    /// The lock of the directory, held while the server runs.
    _lock: File,
}

impl Files {
    /// Opens the directory. Creates it if it does not exist.
    ///
    /// # Errors
    /// When it cannot be written, or another server uses it.
    pub(crate) fn take(data: &Path, cache_kib: u32) -> io::Result<Self> {
        let streams = data.join("streams");
        fs::create_dir_all(&streams)?;
        let lock = File::create(data.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another server uses this directory",
            ),
            TryLockError::Error(error) => error,
        })?;
        sync_directory(data)?;
        Ok(Self {
            streams,
            cache_kib,
            alarms: Index::open(data).map_err(io::Error::other)?,
            _lock: lock,
        })
    }

    /// Returns the path of a stream's file. A digest makes the name unique and safe for every
    /// stream name. No two file names differ in case alone.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let digest = Sha256::digest(name.as_bytes());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = name.bytes().take(SHOWN_BYTES).map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(byte),
            b'A'..=b'Z' => char::from(byte.to_ascii_lowercase()),
            _ => '_',
        });
        let file = format!("{}.{digest}.sqlite", shown.collect::<String>());
        self.streams.join(&digest[..2]).join(file)
    }
}

impl Storage for Files {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn Database>>> {
        let path = self.path(name);
        if !path.try_exists()? {
            return Ok(None);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        connect(&path, flags, self.cache_kib).map(Some)
    }

    /// Creates the file. The first commit makes it durable, because it also syncs the directory.
    fn create(&self, name: &str) -> io::Result<Box<dyn Database>> {
        let path = self.path(name);
        if let Some(shelf) = path.parent()
            && !shelf.try_exists()?
        {
            fs::create_dir_all(shelf)?;
            sync_directory(&self.streams)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        connect(&path, flags, self.cache_kib)
    }

    /// Removes the file, whose tables are already dropped durably. A file that a crash leaves
    /// behind is empty, and is removed when it is next opened.
    fn remove(&self, name: &str, database: Box<dyn Database>) -> io::Result<()> {
        // Closing moves everything into the one file, and removes the files beside it.
        database.close()?;
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn set_alarm(&self, name: &str, at: Millis) -> io::Result<()> {
        self.alarms.set(name, at).map_err(io::Error::other)
    }

    fn remove_alarm(&self, name: &str) -> io::Result<()> {
        self.alarms.remove(name).map_err(io::Error::other)
    }

    fn due(&self, now: Millis) -> io::Result<Due> {
        self.alarms.due(now).map_err(io::Error::other)
    }
}

fn connect(path: &Path, flags: OpenFlags, cache_kib: u32) -> io::Result<Box<dyn Database>> {
    let connection = Connection::open_with_flags(path, flags).map_err(io::Error::other)?;
    configure(&connection, cache_kib).map_err(io::Error::other)?;
    Ok(Box::new(sqlite::Database::new(connection)))
}

impl Database for sqlite::Database {
    fn rows(&self) -> &dyn machine::Storage {
        self
    }

    fn begin(&mut self) -> io::Result<()> {
        Self::begin(self).map_err(io::Error::other)
    }

    fn apply(&mut self, writes: &[Write]) -> io::Result<()> {
        Self::apply(self, writes).map_err(io::Error::other)
    }

    fn commit(&mut self) -> io::Result<()> {
        Self::commit(self).map_err(io::Error::other)
    }

    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        Self::frames(self, span)
    }

    fn tables(&self) -> io::Result<Vec<String>> {
        Self::tables(self).map_err(io::Error::other)
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Self::close(*self).map_err(io::Error::other)
    }
}

/// Sets the options of every connection.
pub(crate) fn configure(connection: &Connection, cache_kib: u32) -> rusqlite::Result<()> {
    // One process, one connection: no shared memory file, and no lock taken for each transaction.
    // To be set before the first access.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit returns when it is on disk. On macOS this needs a full sync.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "cache_size", -i64::from(cache_kib))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (tempfile::TempDir, Files) {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::take(directory.path(), 256).unwrap();
        (directory, files)
    }

    #[test]
    fn any_name_has_a_file_of_its_own_inside_of_the_directory() {
        let (directory, files) = files();
        let long = "n".repeat(1_024);
        let longer = "n".repeat(1_023);
        let names = [
            "a",
            "A",
            "a/b",
            "a%2Fb",
            "a_b",
            "...",
            "a/...",
            ".a",
            "con",
            "%C3%BC",
            "aux.sqlite",
            &long,
            &longer,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            let path = files.path(name);
            assert!(path.starts_with(directory.path().join("streams")), "{name}");
            assert_eq!(
                path.components().count(),
                directory.path().components().count() + 3,
                "{name}"
            );
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(file.len() < 128, "{name}");
            assert!(seen.insert(file.to_lowercase()), "{name}");
        }
    }

    #[test]
    fn a_stream_has_a_file_from_its_creation_to_its_removal() {
        let (_directory, files) = files();
        assert!(files.open("a/b").unwrap().is_none());
        assert!(!files.path("a/b").exists());
        drop(files.create("a/b").unwrap());
        assert!(files.open("a/b").unwrap().is_some());
        let database = files.open("a/b").unwrap().unwrap();
        files.remove("a/b", database).unwrap();
        assert!(files.open("a/b").unwrap().is_none());
        assert_eq!(
            fs::read_dir(files.path("a/b").parent().unwrap())
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn a_directory_has_one_server() {
        let (directory, _files) = files();
        let second = Files::take(directory.path(), 256);
        assert!(second.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy));
    }
}
