//! When the keys of a team of Cloudflare Access are fetched. The shell holds the keys themselves.

use crate::{Limits, Millis};

/// The state of the keys in memory. Any number of requests can fetch them at the same time.
#[derive(Debug, Default)]
pub struct TeamKeys {
    fetched_at: Option<Millis>,
    /// When the present period began, and how many fetches it has had.
    period: Option<(Millis, u64)>,
}

/// What to do about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundKey {
    /// Use the key that the shell has.
    Known,
    /// Fetch the keys, and find the key again.
    Fetch,
    /// The team has no such key.
    Unknown,
    /// The keys could not be fetched.
    Unavailable,
}

impl TeamKeys {
    /// Decides about a key. `is_held` says whether the shell has it among the keys that it fetched
    /// last, and `may_fetch` is false for a request that has fetched them already.
    pub fn find(
        &mut self,
        now: Millis,
        is_held: bool,
        may_fetch: bool,
        limits: &Limits,
    ) -> FoundKey {
        let is_fresh = self
            .fetched_at
            .is_some_and(|at| now.0.abs_diff(at.0) < limits.access_keys_age_ms_max);
        if is_fresh && is_held {
            FoundKey::Known
        } else if may_fetch && self.take_fetch(now, limits) {
            FoundKey::Fetch
        } else if is_fresh {
            FoundKey::Unknown
        } else {
            FoundKey::Unavailable
        }
    }

    /// Counts a fetch, unless the period has had as many as it may have. Otherwise anybody who
    /// sends tokens of unknown keys could make the shell send as many requests.
    fn take_fetch(&mut self, now: Millis, limits: &Limits) -> bool {
        let period = self
            .period
            .filter(|(began, _)| now.0.abs_diff(began.0) < limits.access_fetch_period_ms);
        let (began, fetches) = period.unwrap_or((now, 0));
        let is_allowed = fetches < limits.access_fetches_max;
        self.period = Some((began, fetches + u64::from(is_allowed)));
        is_allowed
    }

    /// Notes that the shell has fetched the keys.
    pub const fn fetched(&mut self, now: Millis) {
        self.fetched_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_asked_for_at_a_bounded_rate() {
        let limits = Limits {
            access_fetches_max: 2,
            ..Limits::DEFAULT
        };
        let (mut keys, period) = (TeamKeys::default(), limits.access_fetch_period_ms);
        let mut find = |now: u64, is_held, may_fetch| {
            let found = keys.find(Millis(now), is_held, may_fetch, &limits);
            if found == FoundKey::Fetch {
                keys.fetched(Millis(now));
            }
            found
        };
        assert_eq!(find(5, false, false), FoundKey::Unavailable);
        assert_eq!(find(5, false, true), FoundKey::Fetch);
        assert_eq!(find(5, false, false), FoundKey::Unknown);
        assert_eq!(find(6, false, true), FoundKey::Fetch);
        assert_eq!(find(7, false, true), FoundKey::Unknown);
        assert_eq!(find(7, true, true), FoundKey::Known);
        assert_eq!(find(4 + period, false, true), FoundKey::Unknown);
        assert_eq!(find(5 + period, false, true), FoundKey::Fetch);
        // A clock that was put back does not stop the fetches for longer.
        assert_eq!(find(0, false, true), FoundKey::Fetch);
    }

    #[test]
    fn keys_that_are_too_old_do_not_count() {
        let (mut keys, limits) = (TeamKeys::default(), Limits::DEFAULT);
        let age_max = limits.access_keys_age_ms_max;
        keys.fetched(Millis(0));
        for (now, may_fetch, expected) in [
            (age_max - 1, true, FoundKey::Known),
            (age_max, true, FoundKey::Fetch),
            (age_max, false, FoundKey::Unavailable),
        ] {
            assert_eq!(keys.find(Millis(now), true, may_fetch, &limits), expected);
        }
    }
}
