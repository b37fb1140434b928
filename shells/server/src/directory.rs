//! The data directory: one SQLite file for each shard.
//!
//! ```text
//! DATA/lock                  held while a server or `reshard` uses the directory
//! DATA/shards/N.sqlite       the shards, numbered from 0
//! ```
//!
//! Each file states the random id of its directory, its number, and how many there are. All files
//! are made beside the directory `shards` and moved by one rename, so that there are all or none.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use machine::admin::Listed;
use machine::{AlarmChange, Millis, Span, StorageError, Write};
use sqlite::{Identity, OpenError, Shard, StreamRows};

use crate::storage::{Due, Reader, Rows, Storage, Writer};

/// The folder of the shards, where they are made, and where [`crate::reshard`] leaves the old ones.
pub(crate) const SHARDS: &str = "shards";
pub(crate) const NEW_SHARDS: &str = "shards.new";
pub(crate) const OLD_SHARDS: &str = "shards.old";
/// What a directory of version 0.1 has.
pub(crate) const STREAMS: &str = "streams";
pub(crate) const ALARMS: &str = "alarms.sqlite";

/// The storage of one machine.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    shards: PathBuf,
    /// The random id.
    id: String,
    count: usize,
    cache_kib: u32,
    /// Held while the server runs.
    _lock: File,
}

impl DataDirectory {
    /// Opens the directory, and creates it if it does not exist. A count of 0 keeps the shards of
    /// an existing directory, and gives a new one a shard for each processor.
    ///
    /// # Errors
    /// When it cannot be used, another server uses it, or it has another number of shards.
    pub(crate) fn take(data: &Path, count: usize, cache_kib: u32) -> io::Result<Self> {
        let lock = lock(data)?;
        let shards = data.join(SHARDS);
        if !shards.try_exists()? {
            let former = [
                (
                    STREAMS,
                    "it has one file per stream, as version 0.1 made it",
                ),
                (ALARMS, "it has one file per stream, as version 0.1 made it"),
                (OLD_SHARDS, "a change of its shards was interrupted"),
            ];
            for (name, reason) in former {
                if data.join(name).try_exists()? {
                    return Err(refused(&format!("{reason}; {}", hint(data, count))));
                }
            }
            make(data, new_count(count), cache_kib)?;
        }
        let Identity {
            directory: id,
            count: there,
            ..
        } = Shard::identity(&file(&shards, 0)).map_err(|error| in_file(&shards, 0, &error))?;
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        if count != 0 && count != there {
            return Err(refused(&format!(
                "it has {there} shards, and not {count}; {}",
                hint(data, count)
            )));
        }
        Ok(Self {
            shards,
            id,
            count: there,
            cache_kib,
            _lock: lock,
        })
    }

    fn identity(&self, shard: usize) -> Identity {
        Identity {
            directory: self.id.clone(),
            number: shard as u64,
            count: self.count as u64,
        }
    }
}

/// Makes the shards of a new directory.
fn make(data: &Path, count: usize, cache_kib: u32) -> io::Result<()> {
    let new = data.join(NEW_SHARDS);
    if new.try_exists()? {
        // A crash has left it.
        fs::remove_dir_all(&new)?;
    }
    for shard in make_files(&new, count, cache_kib)? {
        shard.close().map_err(io::Error::other)?;
    }
    sync_directory(&new)?;
    fs::rename(&new, data.join(SHARDS))?;
    sync_directory(data)
}

/// Makes empty shards with a new id in a new folder.
pub(crate) fn make_files(folder: &Path, count: usize, cache_kib: u32) -> io::Result<Vec<Shard>> {
    fs::create_dir(folder)?;
    let random = || getrandom::u64().map_err(io::Error::from);
    let id = format!("{:016x}{:016x}", random()?, random()?);
    let make = |number| {
        let identity = Identity {
            directory: id.clone(),
            number: number as u64,
            count: count as u64,
        };
        let shard = Shard::create(&file(folder, number), &identity, cache_kib);
        shard.map_err(|error| in_file(folder, number, &error))
    };
    (0..count).map(make).collect()
}

/// Takes the lock of a directory. Creates the directory if it does not exist.
pub(crate) fn lock(data: &Path) -> io::Result<File> {
    create(data)?;
    let lock = File::create(data.join("lock"))?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::new(
            io::ErrorKind::ResourceBusy,
            "another server uses this directory",
        ),
        TryLockError::Error(error) => error,
    })?;
    Ok(lock)
}

/// Creates a directory with its parents, durably.
///
/// # Errors
/// When one of them cannot be created or synced.
pub fn create(directory: &Path) -> io::Result<()> {
    // Without a parent in its path it is in the working directory.
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => path.to_owned(),
    };
    let mut changed = Vec::new();
    let mut missing = directory.to_owned();
    while !missing.try_exists()? {
        missing = parent(&missing);
        changed.push(missing.clone());
    }
    fs::create_dir_all(directory)?;
    changed.iter().try_for_each(|parent| sync_directory(parent))
}

pub(crate) fn new_count(asked: usize) -> usize {
    if asked == 0 {
        thread::available_parallelism().map_or(1, usize::from)
    } else {
        asked
    }
}

fn hint(data: &Path, count: usize) -> String {
    format!(
        "stop every server and run `durable-streams reshard --data {} --shards {}`",
        data.display(),
        new_count(count)
    )
}

pub(crate) fn file(shards: &Path, number: usize) -> PathBuf {
    shards.join(format!("{number}.sqlite"))
}

pub(crate) fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn in_file(shards: &Path, number: usize, error: &OpenError) -> io::Error {
    refused(&format!("{}: {error}", file(shards, number).display()))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

impl Storage for DataDirectory {
    fn shards(&self) -> usize {
        self.count
    }

    fn open(&self, shard: usize) -> io::Result<Box<dyn Writer>> {
        let path = file(&self.shards, shard);
        let opened = Shard::open(&path, &self.identity(shard), self.cache_kib);
        let opened = opened.map_err(|error| in_file(&self.shards, shard, &error))?;
        // SQLite made the log's file if there was none. It syncs the log's entry with the first
        // commit, but takes that commit for durable even if this sync fails.
        sync_directory(&self.shards)?;
        Ok(Box::new(opened))
    }

    fn reader(&self, shard: usize) -> io::Result<Box<dyn Reader>> {
        let opened = Shard::open_reader(&file(&self.shards, shard), self.cache_kib);
        let opened = opened.map_err(|error| in_file(&self.shards, shard, &error))?;
        Ok(Box::new(opened))
    }
}

impl Rows for StreamRows<'_> {
    fn frames(&self, span: Span) -> Result<Vec<u8>, StorageError> {
        StreamRows::frames(self, span)
    }

    fn tables(&self) -> Result<Vec<String>, StorageError> {
        StreamRows::tables(self)
    }

    fn damage(&self) -> Option<String> {
        StreamRows::damage(self)
    }
}

impl Reader for Shard {
    fn stream(&self, name: &str) -> Result<Box<dyn Rows + '_>, StorageError> {
        Ok(Box::new(Self::stream(self, name)?))
    }

    fn due(&self, now: Millis, limit: u64) -> io::Result<Due> {
        Self::due(self, now, limit).map_err(io::Error::other)
    }

    fn list(&self, from: &str, before: &str, limit: u64) -> io::Result<Vec<Listed>> {
        Self::list(self, from, before, limit).map_err(io::Error::other)
    }
}

impl Writer for Shard {
    fn begin(&mut self) -> io::Result<()> {
        Self::begin(self).map_err(io::Error::other)
    }

    fn begin_turn(&mut self) -> io::Result<()> {
        Self::begin_turn(self).map_err(io::Error::other)
    }

    fn apply(&mut self, name: &str, writes: &[Write], alarm: AlarmChange) -> io::Result<()> {
        Self::apply(self, name, writes, alarm).map_err(io::Error::other)
    }

    fn keep_turn(&mut self) -> io::Result<()> {
        Self::keep_turn(self).map_err(io::Error::other)
    }

    fn undo_turn(&mut self) -> io::Result<()> {
        Self::undo_turn(self).map_err(io::Error::other)
    }

    fn commit(&mut self) -> io::Result<()> {
        Self::commit(self).map_err(io::Error::other)
    }

    fn shrink(&mut self) -> io::Result<()> {
        Self::bound_log(self).map_err(io::Error::other)?;
        Self::shrink(self).map_err(io::Error::other)
    }

    fn release_memory(&mut self) -> io::Result<()> {
        Self::release_memory(self).map_err(io::Error::other)
    }

    fn close(self: Box<Self>) -> io::Result<()> {
        Self::close(*self).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(data: &Path, count: usize) -> io::Result<DataDirectory> {
        DataDirectory::take(data, count, 256)
    }

    #[test]
    fn a_directory_keeps_its_number_of_shards() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("deep").join("er");
        let directory = take(&data, 3).unwrap();
        for shard in 0..3 {
            directory.open(shard).unwrap().close().unwrap();
        }
        let busy = take(&data, 3);
        assert!(busy.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy));
        drop(directory);
        assert_eq!(take(&data, 0).unwrap().shards(), 3);
        let error = take(&data, 4).unwrap_err().to_string();
        assert!(error.contains("3 shards, and not 4"), "{error}");
        assert!(error.contains("reshard"), "{error}");
    }

    #[test]
    fn a_directory_of_version_0_1_is_refused() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("streams")).unwrap();
        let error = take(place.path(), 0).unwrap_err().to_string();
        assert!(error.contains("reshard"), "{error}");
        assert!(!place.path().join("shards").exists());
    }

    #[test]
    fn a_file_of_another_shard_or_directory_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop((take(one.path(), 2).unwrap(), take(other.path(), 2).unwrap()));
        let at = |place: &tempfile::TempDir, number| file(&place.path().join("shards"), number);
        for wrong in [at(&one, 0), at(&other, 1)] {
            fs::copy(wrong, at(&one, 1)).unwrap();
            let directory = take(one.path(), 0).unwrap();
            directory.open(0).unwrap();
            let error = directory.open(1).unwrap_err().to_string();
            assert!(error.contains("1.sqlite: it is shard "), "{error}");
        }
        fs::write(at(&one, 1), "not a database").unwrap();
        assert!(take(one.path(), 0).unwrap().open(1).is_err());
    }
}
