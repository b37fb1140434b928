//! Pauses before retries.

use crate::Limits;
use crate::limits::DOUBLINGS_MAX;
use crate::wire::cursor::splitmix64;

/// Returns the pause in milliseconds before the next retry, after this many failures in a row. It
/// doubles with each failure, up to a limit, and one half of it is random.
pub(crate) fn backoff(failures: u64, chance: u64, limits: &Limits) -> u64 {
    let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
    let longest = limits
        .retry_base_ms
        .saturating_mul(1 << doublings)
        .min(limits.retry_ms_max);
    let pause = longest / 2 + splitmix64(chance ^ splitmix64(failures)) % longest.div_ceil(2);
    assert!(
        pause <= limits.retry_ms_max,
        "a pause is at most the longest one"
    );
    pause
}
