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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_its_limit_and_one_half_is_random() {
        let limits = Limits {
            retry_base_ms: 1_000,
            retry_ms_max: 10_000,
            ..Limits::DEFAULT
        };
        let doubled = [1_000, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000];
        let cases = (0..).zip(doubled).chain([(u64::MAX, 10_000)]);
        for (failures, longest) in cases {
            let pauses = (0..500).map(|chance| backoff(failures, chance, &limits));
            let (least, most) = pauses.fold((u64::MAX, 0), |(least, most), pause| {
                (least.min(pause), most.max(pause))
            });
            let half = longest / 2;
            assert!(
                (half..half + half / 8).contains(&least),
                "{failures}: {least}"
            );
            assert!(
                (longest - half / 8..longest).contains(&most),
                "{failures}: {most}"
            );
        }
    }

    #[test]
    fn an_instance_draws_each_pause_anew() {
        let pauses: Vec<_> = (10..20)
            .map(|failures| backoff(failures, 7, &Limits::DEFAULT))
            .collect();
        let longest = Limits::DEFAULT.retry_ms_max;
        assert!(
            pauses.iter().all(|pause| *pause >= longest / 2),
            "{pauses:?}"
        );
        let mut different = pauses.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 5, "{pauses:?}");
    }
}
