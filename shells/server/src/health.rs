//! Whether the server can store what clients send.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Config;

#[derive(Debug)]
pub(crate) struct Health {
    data: PathBuf,
    disk_free_min: u64,
    failure_memory: Duration,
    /// Shards whose last commit failed, and the time of it.
    failed: Mutex<BTreeMap<usize, Instant>>,
}

impl Health {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            data: config.data.clone(),
            disk_free_min: config.bounds.disk_free_min,
            failure_memory: config.bounds.failure_memory,
            failed: Mutex::default(),
        }
    }

    pub(crate) fn failed(&self, shard: usize) {
        self.failed.lock().insert(shard, Instant::now());
    }

    pub(crate) fn committed(&self, shard: usize) {
        self.failed.lock().remove(&shard);
    }

    /// Returns what is wrong, if anything. A failure is forgotten after a while, because a server
    /// that gets no more requests could never show that it has recovered.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        if self.is_disk_full() {
            return Some("the disk is full");
        }
        let mut failed = self.failed.lock();
        failed.retain(|_, at| at.elapsed() < self.failure_memory);
        (!failed.is_empty()).then_some("commits fail")
    }

    #[cfg(unix)]
    fn is_disk_full(&self) -> bool {
        let disk = nix::sys::statvfs::statvfs(&self.data);
        // A disk that does not answer is not known to be full.
        disk.is_ok_and(|disk| {
            #[allow(
                clippy::useless_conversion,
                reason = "the widths differ between systems"
            )]
            let free = u64::from(disk.blocks_available()) * u64::from(disk.fragment_size());
            free < self.disk_free_min
        })
    }

    #[cfg(not(unix))]
    const fn is_disk_full(&self) -> bool {
        false
    }
}
