//! Makes a failing tape small: removes what the failure does not need, and lowers the rest.
//!
//! It works on the decisions that each run has really drawn, so that a tape holds nothing unused.
//! Where no decision can be removed, it removes bytes, which changes the meaning of those behind
//! and is sometimes a shorter way.

use crate::choices::{Draw, tape_of};

/// The result of shrinking.
#[derive(Clone, Debug)]
pub struct Shrunk {
    pub tape: Vec<u8>,
    /// How many times a tape was run.
    pub tries: u64,
}

/// Returns the smallest tape found that still fails, within this number of tries. `fails` returns
/// the decisions that a failing run has drawn up to its failure.
pub fn shrink(
    tape: &[u8],
    tries_max: u64,
    fails: impl FnMut(&[u8]) -> Option<Vec<Draw>>,
) -> Shrunk {
    let mut search = Search {
        best: Vec::new(),
        tape: tape.to_vec(),
        tries: 0,
        tries_max,
        fails,
    };
    if search.begin() {
        loop {
            let before = search.tape.clone();
            search.shorten();
            search.take_out();
            search.zero();
            search.lower();
            search.take_out_bytes();
            if search.tape == before || search.tries >= tries_max {
                break;
            }
        }
    }
    Shrunk {
        tape: search.tape,
        tries: search.tries,
    }
}

struct Search<F> {
    best: Vec<Draw>,
    /// Returns the tape of the best decisions.
    tape: Vec<u8>,
    tries: u64,
    tries_max: u64,
    fails: F,
}

/// Removes trailing zeros. They have no effect, because a tape that has ended gives the simplest
/// decisions.
fn trimmed(mut draws: Vec<Draw>) -> Vec<Draw> {
    while draws.last().is_some_and(|draw| draw.value == 0) {
        draws.pop();
    }
    draws
}

impl<F: FnMut(&[u8]) -> Option<Vec<Draw>>> Search<F> {
    /// Runs the tape unchanged.
    fn begin(&mut self) -> bool {
        if self.tries >= self.tries_max {
            return false;
        }
        self.tries += 1;
        let Some(draws) = (self.fails)(&self.tape) else {
            return false;
        };
        self.best = trimmed(draws);
        self.tape = tape_of(&self.best);
        true
    }

    /// Takes other decisions for the best if they fail as well and are shorter, or as long and
    /// lower.
    fn attempt(&mut self, candidate: Vec<Draw>) -> bool {
        self.attempt_tape(&tape_of(&trimmed(candidate)))
    }

    fn attempt_tape(&mut self, tape: &[u8]) -> bool {
        let is_less = |one: &[u8], other: &[u8]| (one.len(), one) < (other.len(), other);
        if self.tries >= self.tries_max || !is_less(tape, &self.tape) {
            return false;
        }
        self.tries += 1;
        let Some(draws) = (self.fails)(tape) else {
            return false;
        };
        let draws = trimmed(draws);
        let tape = tape_of(&draws);
        let smaller = is_less(&tape, &self.tape);
        if smaller {
            (self.best, self.tape) = (draws, tape);
        }
        smaller
    }

    /// Ends the tape as early as possible.
    fn shorten(&mut self) {
        let mut cut = self.best.len().div_ceil(2);
        while cut > 0 {
            let kept = self.best.len().saturating_sub(cut);
            if !self.attempt(self.best[..kept].to_vec()) {
                cut /= 2;
            }
        }
    }

    /// Removes decisions, many at once and then fewer.
    fn take_out(&mut self) {
        let mut size = self.best.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < self.best.len() {
                let end = (start + size).min(self.best.len());
                let without = [&self.best[..start], &self.best[end..]].concat();
                if !self.attempt(without) {
                    start = end;
                }
            }
            size /= 2;
        }
    }

    /// Removes bytes, many at once and then fewer.
    fn take_out_bytes(&mut self) {
        let mut size = self.tape.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < self.tape.len() {
                let end = (start + size).min(self.tape.len());
                let without = [&self.tape[..start], &self.tape[end..]].concat();
                if !self.attempt_tape(&without) {
                    start = end;
                }
            }
            size /= 2;
        }
    }

    /// Makes decisions the simplest, many at once and then fewer.
    fn zero(&mut self) {
        let mut size = self.best.len().div_ceil(2).min(64);
        while size > 0 {
            let mut start = 0;
            while start < self.best.len() {
                let end = (start + size).min(self.best.len());
                let mut zeroed = self.best.clone();
                zeroed[start..end]
                    .iter_mut()
                    .for_each(|draw| draw.value = 0);
                self.attempt(zeroed);
                start = end;
            }
            size /= 2;
        }
    }

    /// Lowers one decision after the other.
    fn lower(&mut self) {
        let mut at = 0;
        while at < self.best.len() {
            let value = self.best[at].value;
            let lowered = [0, value / 2, value.saturating_sub(1)]
                .into_iter()
                .any(|lower| {
                    let mut candidate = self.best.clone();
                    candidate[at].value = lower;
                    lower < value && self.attempt(candidate)
                });
            // What can be lowered once can often be lowered again.
            if !lowered {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::Choices;

    #[test]
    fn what_is_not_needed_goes() {
        let tape: Vec<u8> = (0..200).collect();
        let shrunk = shrink(&tape, 100_000, |tape| {
            let mut choices = Choices::from_tape(tape).logged();
            let large = (0..200).filter(|_| choices.upto(255) >= 100).count();
            (large >= 2).then(|| choices.log())
        });
        assert_eq!(shrunk.tape, [100, 100]);
    }

    #[test]
    fn a_wide_decision_is_lowered_as_one_number() {
        let shrunk = shrink(&[1, 0xff, 0xff, 7], 100_000, |tape| {
            let mut choices = Choices::from_tape(tape).logged();
            let (_, wide) = (choices.upto(1), choices.upto(0xffff));
            (wide > 0x0100).then(|| choices.log())
        });
        assert_eq!(shrunk.tape, [0, 0x01, 0x01]);
    }

    #[test]
    fn tries_are_bounded() {
        let fails = |tape: &[u8]| {
            let mut choices = Choices::from_tape(tape).logged();
            let sum: u64 = (0..1_000).map(|_| choices.upto(1)).sum();
            (sum > 500).then(|| choices.log())
        };
        assert_eq!(shrink(&[1; 1_000], 10, fails).tries, 10);
    }
}
