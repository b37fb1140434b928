//! Every decision of a run: what clients do, what breaks, and when. One type draws them all, so that a seed, a file and a
//! saved bug are the same thing, a *tape* of bytes.
//!
//! Two rules hold it together. 0 is always the simplest choice (no fault, no delay, nothing more), so that a tape which
//! ends early ends the run early. And nobody asks whether the tape has ended.

use arbitrary::Unstructured;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Where decisions come from.
#[derive(Debug)]
enum Source<'a> {
    Seed(Box<ChaCha8Rng>),
    Tape(Unstructured<'a>),
    /// The same, for a run that outlives whoever reads the tape.
    OwnTape {
        tape: Vec<u8>,
        at: usize,
    },
    Enumeration {
        path: Vec<Draw>,
        at: usize,
    },
}

/// One decision: `value` of 0 to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub max: u64,
    pub value: u64,
}

impl Draw {
    /// Adds it to a tape, in as many bytes as its greatest value takes.
    pub(crate) fn write(self, tape: &mut Vec<u8>) {
        let width = 8 - self.max.leading_zeros() as usize / 8;
        tape.extend_from_slice(&self.value.to_be_bytes()[8 - width..]);
    }
}

/// Draws decisions and records them.
#[derive(Debug)]
pub struct Choices<'a> {
    source: Source<'a>,
    tape: Vec<u8>,
    count: u64,
    log: Option<Vec<Draw>>,
}

impl<'a> Choices<'a> {
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self::new(Source::Seed(Box::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    #[must_use]
    pub fn from_tape(tape: &'a [u8]) -> Self {
        Self::new(Source::Tape(Unstructured::new(tape)))
    }

    /// The same run as [`Self::from_tape`].
    #[must_use]
    pub fn from_own_tape(tape: Vec<u8>) -> Self {
        Self::new(Source::OwnTape { tape, at: 0 })
    }

    /// Follows a path of an enumeration; see [`Enumeration`].
    fn from_path(path: Vec<Draw>) -> Self {
        Self::new(Source::Enumeration { path, at: 0 })
    }

    const fn new(source: Source<'a>) -> Self {
        Self {
            source,
            tape: Vec::new(),
            count: 0,
            log: None,
        }
    }

    /// The same enumerated run once more, from its beginning.
    #[must_use]
    pub fn again(&self) -> Self {
        match &self.source {
            Source::Enumeration { path, .. } => Self::from_path(path.clone()),
            Source::Seed(_) | Source::Tape(_) | Source::OwnTape { .. } => Self::from_path(Vec::new()),
        }
    }

    /// Keeps each draw, to be compared with another run's.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.log = Some(Vec::new());
        self
    }

    /// A number of 0 to `max`.
    pub fn upto(&mut self, max: u64) -> u64 {
        if max == 0 {
            return 0;
        }
        let value = match &mut self.source {
            Source::Seed(generator) => {
                let random = generator.next_u64();
                if max == u64::MAX {
                    random
                } else {
                    random % (max + 1)
                }
            }
            // An empty tape gives zeros, and there is no other error.
            Source::Tape(unstructured) => unstructured.int_in_range(0..=max).unwrap_or(0),
            Source::OwnTape { tape, at } => {
                let mut rest = Unstructured::new(&tape[*at..]);
                let value = rest.int_in_range(0..=max).unwrap_or(0);
                *at = tape.len() - rest.len();
                value
            }
            Source::Enumeration { path, at } => {
                if *at == path.len() {
                    path.push(Draw { max, value: 0 });
                }
                *at += 1;
                path[*at - 1].value
            }
        };
        let draw = Draw { max, value };
        draw.write(&mut self.tape);
        self.count += 1;
        if let Some(log) = &mut self.log {
            log.push(draw);
        }
        value
    }

    /// A number of `least` to `most`; `least` is the simplest.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.upto(most.saturating_sub(least))
    }

    /// True in so many of a hundred cases; false is the simplest.
    pub fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.upto(99) >= 100 - chance.min(100)
    }

    /// One of the given; the first is the simplest.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        let index = self.upto(of.len() as u64 - 1);
        of[usize::try_from(index).unwrap_or(0)]
    }

    /// An index into the weights, in proportion to them; the first with a weight is the simplest.
    pub fn weighted(&mut self, weights: &[u64]) -> usize {
        let total: u64 = weights.iter().sum();
        let mut drawn = self.upto(total.saturating_sub(1));
        for (index, weight) in weights.iter().enumerate() {
            if drawn < *weight {
                return index;
            }
            drawn -= weight;
        }
        0
    }

    /// Mostly small, now and then as large as `most`; the order of magnitude is drawn first.
    pub fn magnitude(&mut self, most: u64) -> u64 {
        let bits = 64 - most.leading_zeros();
        let bits = self.upto(u64::from(bits));
        if bits == 0 {
            0
        } else {
            self.between(1 << (bits - 1), most.min(u64::MAX >> (64 - bits)))
        }
    }

    /// At a limit or just beside it.
    pub fn boundary(&mut self, limit: u64) -> u64 {
        self.one_of(&[limit, limit.saturating_sub(1), limit.saturating_add(1), 0, 1])
    }

    /// Everything drawn so far: a tape that gives the same run again.
    #[must_use]
    pub fn tape(&self) -> &[u8] {
        &self.tape
    }

    /// How many decisions were drawn.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The draws kept by [`Self::logged`].
    #[must_use]
    pub fn log(&self) -> &[Draw] {
        self.log.as_deref().unwrap_or_default()
    }
}

/// All runs there are, one after the other: each path is the last one with its last decision that can be raised, raised.
#[derive(Debug, Default)]
pub struct Enumeration {
    path: Option<Vec<Draw>>,
}

impl Enumeration {
    /// The choices of the next run; `None` when there is no further one.
    pub fn begin(&mut self) -> Option<Choices<'static>> {
        let path = match self.path.take() {
            None => Vec::new(),
            Some(mut path) => {
                while path.last().is_some_and(|draw| draw.value == draw.max) {
                    path.pop();
                }
                path.last_mut()?.value += 1;
                path
            }
        };
        Some(Choices::from_path(path))
    }

    /// Takes the run's choices back.
    pub fn finish(&mut self, choices: Choices<'_>) {
        if let Source::Enumeration { path, .. } = choices.source {
            self.path = Some(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tape_repeats_the_seed_that_recorded_it() {
        let maxima = [1, 2, 99, 255, 256, 65_535, 65_536, 1 << 40, u64::MAX];
        let mut seeded = Choices::from_seed(7);
        let drawn: Vec<_> = maxima
            .iter()
            .cycle()
            .take(900)
            .map(|max| seeded.upto(*max))
            .collect();
        let tape = seeded.tape().to_vec();
        let mut taped = Choices::from_tape(&tape);
        let again: Vec<_> = maxima
            .iter()
            .cycle()
            .take(900)
            .map(|max| taped.upto(*max))
            .collect();
        assert_eq!(drawn, again);
        assert_eq!(taped.tape(), tape);
        let mut owned = Choices::from_own_tape(tape.clone());
        let again: Vec<_> = maxima
            .iter()
            .cycle()
            .take(950)
            .map(|max| owned.upto(*max))
            .collect();
        assert_eq!(again[..900], drawn);
        assert_eq!(again[900..], [0; 50]);
        assert_eq!(owned.tape()[..tape.len()], tape);
    }

    #[test]
    fn an_empty_tape_gives_the_simplest_of_everything() {
        let mut choices = Choices::from_tape(&[]);
        assert!(!choices.percent(99));
        assert_eq!(choices.one_of(&["first", "second"]), "first");
        assert_eq!(choices.weighted(&[0, 3, 5]), 1);
        assert_eq!(choices.between(4, 9), 4);
        assert_eq!(choices.magnitude(1_000), 0);
    }

    #[test]
    fn an_enumeration_visits_each_path_once() {
        let mut enumeration = Enumeration::default();
        let mut seen = Vec::new();
        while let Some(mut choices) = enumeration.begin() {
            let first = choices.upto(2);
            let second = if first == 1 { choices.upto(1) } else { 0 };
            seen.push((first, second));
            enumeration.finish(choices);
        }
        assert_eq!(seen, [(0, 0), (1, 0), (1, 1), (2, 0)]);
    }
}
