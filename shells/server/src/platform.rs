//! Time, entropy and threads of the machine that the server runs on. A simulation replaces them, so
//! that a run can be repeated.

use std::fmt::Debug;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use machine::Millis;
use tokio::runtime::Handle;

/// A closure that may block.
pub type Work = Box<dyn FnOnce() + Send>;

pub trait Platform: Debug + Send + Sync + 'static {
    /// Returns the wall time.
    fn now(&self) -> Millis;

    /// Returns 64 random bits.
    ///
    /// # Errors
    /// When the system has none.
    fn random(&self) -> io::Result<u64>;

    /// Returns random bytes that nobody can guess.
    ///
    /// # Panics
    /// When the system has none.
    fn entropy(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for eight in bytes.chunks_exact_mut(8) {
            let random = self.random().expect("the system has random bytes");
            eight.copy_from_slice(&random.to_le_bytes());
        }
        bytes
    }

    /// Runs a closure soon, on a thread that may block. Closures start in the order in which they
    /// were given.
    fn work(&self, work: Work);
}

/// The system's clock and entropy, and the blocking threads of a tokio runtime.
#[derive(Clone, Debug)]
pub struct Native {
    runtime: Handle,
}

impl Native {
    /// Uses the present runtime.
    ///
    /// # Panics
    /// When it is called outside a runtime.
    #[must_use]
    pub fn current() -> Self {
        Self {
            runtime: Handle::current(),
        }
    }
}

impl Native {
    /// Returns the time of the system's clock.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the machine's time comes from"
    )]
    pub fn wall_time() -> Millis {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Platform for Native {
    fn now(&self) -> Millis {
        Self::wall_time()
    }

    fn random(&self) -> io::Result<u64> {
        getrandom::u64().map_err(io::Error::from)
    }

    fn work(&self, work: Work) {
        // The caller gets the result over a channel.
        drop(self.runtime.spawn_blocking(work));
    }
}
