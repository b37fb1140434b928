//! The index of alarms. It is kept beside the streams' own files, so that no stream has to be
//! opened to find its alarm.
//!
//! An alarm is made durable before the commit that sets it, and removed after the commit that
//! removes it. A crash in between leaves an extra alarm, which finds nothing due. It never loses
//! one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use machine::Millis;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::watch;

use crate::files::configure;
use crate::streams::Streams;

/// How many due alarms are fired together, so that many cannot fill the memory.
const DUE_MAX: u32 = 256;
/// Page cache of the index, in KiB.
const CACHE_KIB: u32 = 2_048;
/// The longest pause between two looks at the index, because the clock may be set forward.
const LOOK: Duration = Duration::from_secs(60);

/// The index, in a file.
#[derive(Debug)]
pub(crate) struct Index(Mutex<Connection>);

impl Index {
    pub(crate) fn open(data: &Path) -> rusqlite::Result<Self> {
        let index = Connection::open(data.join("alarms.sqlite"))?;
        configure(&index, CACHE_KIB)?;
        index.execute_batch(
            "CREATE TABLE IF NOT EXISTS alarms (name TEXT NOT NULL PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS alarms_at ON alarms (at)",
        )?;
        Ok(Self(Mutex::new(index)))
    }

    /// Commits the open transaction. It is durable when this returns.
    pub(crate) fn set(&self, name: &str, at: Millis) -> rusqlite::Result<()> {
        self.0
            .lock()
            .prepare_cached(
                "INSERT INTO alarms VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET at = excluded.at",
            )?
            .execute((name, i64::try_from(at.0).unwrap_or(i64::MAX)))?;
        Ok(())
    }

    pub(crate) fn remove(&self, name: &str) -> rusqlite::Result<()> {
        self.0
            .lock()
            .prepare_cached("DELETE FROM alarms WHERE name = ?")?
            .execute([name])?;
        Ok(())
    }

    /// Streams whose alarm is due, and the time of the earliest of all alarms.
    pub(crate) fn due(&self, now: Millis) -> rusqlite::Result<(Vec<String>, Option<Millis>)> {
        let index = self.0.lock();
        let now = i64::try_from(now.0).unwrap_or(i64::MAX);
        let names = index
            .prepare_cached("SELECT name FROM alarms WHERE at <= ? ORDER BY at LIMIT ?")?
            .query_map((now, DUE_MAX), |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()?;
        let next = index
            .prepare_cached("SELECT at FROM alarms ORDER BY at LIMIT 1")?
            .query_row([], |row| row.get::<_, i64>(0))
            .optional()?;
        Ok((names, next.map(|at| Millis(at.unsigned_abs()))))
    }
}

/// Sets a stream's alarm durably, and wakes [`run`].
pub(crate) fn set(streams: &Streams, name: &str, at: Millis) -> io::Result<()> {
    streams.storage.set_alarm(name, at)?;
    streams.alarms_changed.notify_one();
    Ok(())
}

/// Fires alarms as they come due, until the server ends.
pub(crate) async fn run(streams: Arc<Streams>, mut ending: watch::Receiver<bool>) {
    while !*ending.borrow() {
        let pause = match fire(&streams).await {
            Ok(pause) => pause,
            Err(error) => {
                tracing::error!(%error, "the index of alarms could not be read");
                streams.bounds.alarm_retry
            }
        };
        tokio::select! {
            biased;
            _ = ending.changed() => {}
            () = streams.alarms_changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Fires due alarms. Returns how long to wait before the next look.
async fn fire(streams: &Arc<Streams>) -> anyhow::Result<Duration> {
    let now = streams.platform.now();
    let (due, next) = streams
        .ask_storage(move |streams| streams.storage.due(now))
        .await?;
    if due.is_empty() {
        let pause = next.map_or(LOOK, |at| Duration::from_millis(at.0.saturating_sub(now.0)));
        return Ok(pause.min(LOOK));
    }
    let mut replies = Vec::with_capacity(due.len());
    for name in due {
        replies.push((streams.alarm(&name), name));
    }
    for (reply, name) in replies {
        let done = match reply {
            Ok(reply) => reply.await.is_ok(),
            Err(_) => false,
        };
        if !done {
            let retry = u64::try_from(streams.bounds.alarm_retry.as_millis()).unwrap_or(u64::MAX);
            let at = streams.platform.now().plus(retry);
            streams
                .ask_storage(move |streams| set(streams, &name, at))
                .await?;
        }
    }
    Ok(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_come_due_in_order_and_survive() {
        let directory = tempfile::tempdir().unwrap();
        let alarms = Index::open(directory.path()).unwrap();
        for (name, at) in [("b", 20), ("a", 30), ("c", 10), ("a", 5)] {
            alarms.set(name, Millis(at)).unwrap();
        }
        alarms.remove("c").unwrap();
        drop(alarms);
        let alarms = Index::open(directory.path()).unwrap();
        assert_eq!(alarms.due(Millis(4)).unwrap(), (vec![], Some(Millis(5))));
        assert_eq!(
            alarms.due(Millis(20)).unwrap(),
            (vec!["a".to_owned(), "b".to_owned()], Some(Millis(5)))
        );
    }
}
