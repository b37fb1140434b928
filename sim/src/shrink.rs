//! Makes a failing tape small: takes out what the failure does not need, and lowers what is left.

/// What came of shrinking.
#[derive(Clone, Debug)]
pub struct Shrunk {
    pub tape: Vec<u8>,
    /// How often the tape was run.
    pub tries: u64,
}

/// The smallest tape found for which `fails` still holds, within so many tries.
pub fn shrink(tape: &[u8], tries_max: u64, mut fails: impl FnMut(&[u8]) -> bool) -> Shrunk {
    let mut best = tape.to_vec();
    let mut tries = 0;
    let mut attempt = |candidate: Vec<u8>, best: &mut Vec<u8>, tries: &mut u64| {
        if *tries >= tries_max {
            return false;
        }
        *tries += 1;
        let holds = fails(&candidate);
        if holds {
            *best = candidate;
        }
        holds
    };
    loop {
        let before = best.clone();
        // Zeros at the end are what a tape that has ended gives, but for a number that is cut.
        let end = best
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        if end < best.len() {
            attempt(best[..end].to_vec(), &mut best, &mut tries);
        }
        let mut size = best.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < best.len() {
                let end = (start + size).min(best.len());
                let without = [&best[..start], &best[end..]].concat();
                if !attempt(without, &mut best, &mut tries) {
                    start = end;
                }
            }
            size /= 2;
        }
        let mut size = best.len().div_ceil(2).min(32);
        while size > 0 {
            let mut start = 0;
            while start < best.len() {
                let end = (start + size).min(best.len());
                if best[start..end].iter().any(|byte| *byte != 0) {
                    let mut zeroed = best.clone();
                    zeroed[start..end].fill(0);
                    attempt(zeroed, &mut best, &mut tries);
                }
                start = end;
            }
            size /= 2;
        }
        for at in 0..best.len() {
            let byte = best.get(at).copied().unwrap_or(0);
            for lower in [byte / 2, byte.saturating_sub(1)] {
                if lower < byte && at < best.len() {
                    let mut lowered = best.clone();
                    lowered[at] = lower;
                    if attempt(lowered, &mut best, &mut tries) {
                        break;
                    }
                }
            }
        }
        if best == before || tries >= tries_max {
            return Shrunk { tape: best, tries };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_goes() {
        let tape: Vec<u8> = (0..200).collect();
        let shrunk = shrink(&tape, 100_000, |tape| {
            tape.iter().filter(|byte| **byte >= 100).count() >= 2
        });
        assert_eq!(shrunk.tape, [100, 100]);
    }

    #[test]
    fn tries_are_bounded() {
        let tape = vec![1; 1_000];
        assert_eq!(shrink(&tape, 10, |_| false).tries, 10);
    }
}
