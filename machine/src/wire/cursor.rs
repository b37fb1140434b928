//! Cursors (protocol 10.1): the number of the current interval, or a larger one for a client that
//! already has it.

use crate::limits::SAFE_INTEGER_MAX;
use crate::{Limits, Millis};

/// Returns the number of the interval that contains `now`.
#[must_use]
pub(crate) const fn interval(now: Millis, limits: &Limits) -> u64 {
    now.0.saturating_sub(limits.cursor_epoch_ms) / limits.cursor_interval_ms
}

/// Returns the cursor of a live read: the current interval, or a number after the client's cursor
/// if that is not before the current interval.
///
/// The protocol requires a random step. This one depends only on the stream and the client's
/// cursor. So equal requests get equal cursors, which lets a cache collapse them, and different
/// streams still spread.
///
/// A cursor too large to have a successor did not come from this server, and is ignored.
#[must_use]
pub(crate) const fn next(now: Millis, client: Option<u64>, salt: u64, limits: &Limits) -> u64 {
    let client = match client {
        Some(client) if client > SAFE_INTEGER_MAX - limits.cursor_jitter_intervals => None,
        client => client,
    };
    let present = interval(now, limits);
    match client {
        Some(client) if client >= present => {
            client + 1 + splitmix64(salt ^ client) % limits.cursor_jitter_intervals
        }
        _ => present,
    }
}

/// Mixes 64 bits with the finalizer of SplitMix64.
pub(crate) const fn splitmix64(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_cursor_never_stands_still_and_never_goes_back() {
        let limits = Limits::DEFAULT;
        let now = Millis(limits.cursor_epoch_ms + 1_000 * limits.cursor_interval_ms);
        assert_eq!(next(now, None, 7, &limits), 1_000);
        assert_eq!(next(now, Some(999), 7, &limits), 1_000);
        for client in 1_000..1_500 {
            let cursor = next(now, Some(client), 7, &limits);
            assert!(
                cursor > client && cursor <= client + limits.cursor_jitter_intervals,
                "{client} {cursor}"
            );
            assert_eq!(cursor, next(now, Some(client), 7, &limits));
        }
        for client in SAFE_INTEGER_MAX - 500..=SAFE_INTEGER_MAX {
            let cursor = next(now, Some(client), 7, &limits);
            assert!(cursor == 1_000 || cursor > client && cursor <= SAFE_INTEGER_MAX);
        }
    }
    #[test]
    fn streams_and_cursors_spread_over_the_steps() {
        let limits = Limits::DEFAULT;
        let steps = limits.cursor_jitter_intervals;
        let step = |salt, client| next(Millis(0), Some(client), salt, &limits) - client;
        let is_spread = |taken: &mut dyn Iterator<Item = u64>| {
            let different: BTreeSet<_> = taken.collect();
            different.len() as u64 > steps / 2
        };
        for fixed in [0, 7, SAFE_INTEGER_MAX / 2] {
            let salts = [fixed, !fixed, splitmix64(fixed)];
            for salt in salts {
                assert!(is_spread(&mut (1..1_000).map(|client| step(salt, client))));
            }
            assert!(is_spread(&mut (1..1_000).map(|salt| step(salt, fixed))));
        }
    }

    #[test]
    fn splitmix64_is_the_one_that_is_published() {
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix64(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }
}
