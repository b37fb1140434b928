//! `durable-streams reshard`: gives a data directory another number of shards, or imports one of
//! version 0.1, which has a file for each stream.
//!
//! The new files are made in `shards.new` and synced. Then `shards` becomes `shards.old`,
//! `shards.new` becomes `shards`, and what is old is removed. After a crash the next attempt begins
//! again from the old files, unless the new ones are in their place already.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use machine::{Millis, Storage as _};
use rusqlite::{Connection, OpenFlags};
use sha2::{Digest as _, Sha256};
use sqlite::{Database, OpenError, Shard};

use crate::directory::{self, ALARMS, NEW_SHARDS, OLD_SHARDS, SHARDS, STREAMS, sync_directory};
use crate::storage::shard_of;

const CACHE_KIB: u32 = 65_536;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resharded {
    /// How many streams there are.
    pub streams: u64,
    pub shards: usize,
    /// Damaged rows, which are damaged in the new files, too.
    pub damaged: u64,
    /// Files of version 0.1 that were left out, because nothing names their stream. They hold only
    /// tasks of a stream that was deleted.
    pub left_out: u64,
}

/// Gives a directory `count` shards; with 0, one for each processor. No server may use it.
///
/// # Errors
/// When the directory cannot be read or written. Nothing has changed then.
pub fn reshard(data: &Path, count: usize, now: Millis) -> io::Result<Resharded> {
    if !data.try_exists()? {
        return Err(directory::refused("there is no such directory"));
    }
    let _lock = directory::lock(data)?;
    let count = directory::new_count(count);
    let [shards, old, new] = [SHARDS, OLD_SHARDS, NEW_SHARDS].map(|name| data.join(name));
    if old.try_exists()? && !shards.try_exists()? {
        // A crash came between the two renames.
        fs::rename(&old, &shards)?;
        sync_directory(data)?;
    }
    remove(&new)?;
    remove(&old)?;
    let is_sharded = shards.try_exists()?;
    if !is_sharded && !data.join(STREAMS).try_exists()? {
        return Err(directory::refused("it has no streams"));
    }
    let made = Target::make(&new, count).and_then(|mut target| {
        if is_sharded {
            target.copy_shards(&shards, now)?;
        } else {
            target.import(data, now)?;
        }
        target.finish()
    });
    let done = made.inspect_err(|_| drop(remove(&new)))?;
    if is_sharded {
        fs::rename(&shards, &old)?;
    }
    fs::rename(&new, &shards)?;
    sync_directory(data)?;
    remove(&old)?;
    remove(&data.join(STREAMS))?;
    for suffix in ["", "-wal", "-shm"] {
        let index = data.join(format!("{ALARMS}{suffix}"));
        if index.try_exists()? {
            fs::remove_file(index)?;
        }
    }
    sync_directory(data)?;
    Ok(done)
}

/// The new shards.
struct Target {
    folder: PathBuf,
    shards: Vec<Shard>,
    done: Resharded,
}

impl Target {
    fn make(folder: &Path, count: usize) -> io::Result<Self> {
        let shards = directory::make_files(folder, count, CACHE_KIB)?;
        for shard in &shards {
            shard.without_syncs().map_err(io::Error::other)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            shards,
            done: Resharded {
                shards: count,
                ..Resharded::default()
            },
        })
    }

    fn shard(&self, name: &str) -> &Shard {
        &self.shards[shard_of(name, self.shards.len())]
    }

    fn copy_shards(&mut self, shards: &Path, now: Millis) -> io::Result<()> {
        let first = directory::file(shards, 0);
        let identity = Shard::identity(&first).map_err(|error| in_file(&first, &error))?;
        for number in 0..identity.count {
            let identity = sqlite::Identity {
                number,
                ..identity.clone()
            };
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            let path = directory::file(shards, number);
            let failed = |error: OpenError| in_file(&path, &error);
            let from = Shard::open(&path, &identity, CACHE_KIB).map_err(failed)?;
            for name in from.names().map_err(failed)? {
                let copied = self
                    .shard(&name)
                    .copy_from(&from, &name, now)
                    .map_err(failed)?;
                self.done.streams += 1;
                self.done.damaged += copied.damaged;
            }
            from.close().map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn import(&mut self, data: &Path, now: Millis) -> io::Result<()> {
        let alarms = alarms(data).map_err(|error| in_file(&data.join(ALARMS), &error))?;
        let digests: BTreeMap<String, &String> =
            alarms.keys().map(|name| (digest(name), name)).collect();
        for folder in entries(&data.join(STREAMS))? {
            for path in entries(&folder)? {
                if path
                    .extension()
                    .is_none_or(|extension| extension != "sqlite")
                {
                    continue;
                }
                let failed = |error: OpenError| in_file(&path, &error);
                let file = path.file_stem().unwrap_or_default().to_string_lossy();
                let of_file = file.rsplit('.').next().unwrap_or_default();
                let database = open(&path).map_err(failed)?;
                let layout = database
                    .layout()
                    .map_err(|error| unreadable(&path, error.0))?;
                if layout.is_empty() {
                    continue;
                }
                let head = layout.stream.map(|_| database.name()).transpose();
                let head = head.map_err(failed)?.flatten();
                let known = digests.get(of_file).map(|name| (*name).clone());
                let Some(name) = head.or(known) else {
                    tracing::warn!(file = %path.display(), "nothing names the stream of this file");
                    self.done.left_out += 1;
                    continue;
                };
                if digest(&name) != of_file {
                    let reason = format!("it is the file of another stream, {name:?}");
                    return Err(unreadable(&path, reason));
                }
                let alarm = alarms.get(&name).copied();
                let imported = self.shard(&name).import(&database, &name, alarm, now);
                imported.map_err(failed)?;
                self.done.streams += 1;
            }
        }
        Ok(())
    }

    /// Makes the new files durable.
    fn finish(self) -> io::Result<Resharded> {
        for shard in self.shards {
            shard.close().map_err(io::Error::other)?;
        }
        for path in entries(&self.folder)? {
            File::open(path)?.sync_all()?;
        }
        sync_directory(&self.folder)?;
        Ok(self.done)
    }
}

/// Reads the index of alarms, if it is there.
fn alarms(data: &Path) -> Result<BTreeMap<String, Millis>, OpenError> {
    let path = data.join(ALARMS);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let index = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mut statement = index.prepare("SELECT name, at FROM alarms")?;
    let rows = statement.query_map([], |row| {
        let at: i64 = row.get(1)?;
        Ok((row.get(0)?, Millis(at.unsigned_abs())))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Ok(Database::new(Connection::open_with_flags(path, flags)?))
}

/// Returns what version 0.1 put into the name of a stream's file.
fn digest(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn in_file(path: &Path, error: &OpenError) -> io::Error {
    unreadable(path, error.to_string())
}

fn unreadable(path: &Path, reason: impl std::fmt::Display) -> io::Error {
    directory::refused(&format!("{}: {reason}", path.display()))
}
