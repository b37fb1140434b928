//! What the server gets from the machine that it runs on, beside its files and its network: time,
//! entropy, and threads. A simulation brings its own, by which a run can be repeated.

use std::fmt::Debug;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use machine::Millis;
use tokio::runtime::Handle;

/// One piece of work that may block.
pub type Work = Box<dyn FnOnce() + Send>;

pub trait Platform: Debug + Send + Sync + 'static {
    /// Wall time.
    fn now(&self) -> Millis;

    /// 64 random bits.
    ///
    /// # Errors
    /// When there are none to be had.
    fn random(&self) -> io::Result<u64>;

    /// Does a piece of work where it may block, soon. Pieces are begun in the order in which they
    /// are given.
    fn work(&self, work: Work);
}

/// The system's clock and entropy, and the blocking threads of a tokio runtime.
#[derive(Clone, Debug)]
pub struct Native {
    runtime: Handle,
}

impl Native {
    /// On the runtime in which it is called.
    ///
    /// # Panics
    /// When it is called in none.
    #[must_use]
    pub fn current() -> Self {
        Self {
            runtime: Handle::current(),
        }
    }
}

impl Platform for Native {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the machine's time comes from"
    )]
    fn now(&self) -> Millis {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn random(&self) -> io::Result<u64> {
        getrandom::u64().map_err(io::Error::from)
    }

    fn work(&self, work: Work) {
        // Whoever waits for it has a channel to it.
        drop(self.runtime.spawn_blocking(work));
    }
}
