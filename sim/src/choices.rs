//! Every decision of a run: what clients do, what breaks, and when. A seed, a file and a saved bug
//! are the same thing, a *tape* of bytes.
//!
//! 0 is always the simplest choice, such as no fault, no delay or no further operation. A tape that
//! ends early therefore ends the run early. No code asks whether the tape has ended.
//!
//! A run draws from several tapes. A decision in the middle of a tape changes the meaning of
//! everything behind it. A new decision therefore comes from a later tape, [`Choices::added`],
//! [`Choices::third`] and so on. Older tapes and corpora read 0 there and stay valid.

use arbitrary::Unstructured;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// The source of decisions.
#[derive(Debug)]
enum Source<'a> {
    Seed(Box<ChaCha8Rng>),
    Tape(Unstructured<'a>),
    /// A tape that the run owns.
    OwnTape {
        tape: Vec<u8>,
        at: usize,
    },
    Enumeration {
        path: Vec<Draw>,
        at: usize,
    },
}

/// One decision: a value from 0 to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    pub max: u64,
    pub value: u64,
    /// The number of its tape, less than `TAPES`.
    pub tape: u8,
}

impl Draw {
    /// Adds it to a tape, in as many bytes as `max` needs.
    fn write(self, tape: &mut Vec<u8>) {
        let width = 8 - self.max.leading_zeros() as usize / 8;
        tape.extend_from_slice(&self.value.to_be_bytes()[8 - width..]);
    }
}

/// Returns a file that repeats these decisions.
pub(crate) fn tape_of(draws: &[Draw]) -> Vec<u8> {
    let mut tapes = [const { Vec::new() }; TAPES as usize];
    for draw in draws {
        draw.write(&mut tapes[usize::from(draw.tape)]);
    }
    let tapes = tapes.into_iter().rev();
    tapes.fold(Vec::new(), |later, tape| joined(tape, &later))
}

/// The end of a file with a second tape. Before it are that tape and its length in four bytes.
const ADDED_MARK: [u8; 4] = *b"+two";

/// Joins both tapes into one file. A second tape of zeros is left out.
fn joined(mut tape: Vec<u8>, added: &[u8]) -> Vec<u8> {
    if added.iter().any(|byte| *byte != 0) {
        let length = u32::try_from(added.len()).expect("a tape is shorter than 4 GiB");
        tape.extend_from_slice(added);
        tape.extend_from_slice(&length.to_be_bytes());
        tape.extend_from_slice(&ADDED_MARK);
    }
    tape
}

/// Splits a file into its tapes.
fn split(file: &[u8]) -> (&[u8], &[u8]) {
    let parts = file
        .strip_suffix(&ADDED_MARK)
        .and_then(<[u8]>::split_last_chunk)
        .and_then(|(tapes, length)| {
            let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
            tapes.split_at_checked(tapes.len().checked_sub(length)?)
        });
    parts.unwrap_or((file, &[]))
}

/// Draws decisions and records them.
#[derive(Debug)]
pub struct Choices<'a> {
    source: Source<'a>,
    tape: Vec<u8>,
    count: u64,
    log: Option<Vec<Draw>>,
    /// The number of its tape, from 0.
    number: u8,
    /// The next tape, unless this is the last.
    added: Option<Box<Self>>,
}

/// How many tapes there are.
const TAPES: u8 = 6;

impl<'a> Choices<'a> {
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let generator = ChaCha8Rng::seed_from_u64(seed);
        Self::chained(|number| {
            // Each tape is a stream of the generator.
            let mut generator = generator.clone();
            generator.set_stream(u64::from(number));
            Source::Seed(Box::new(generator))
        })
    }

    #[must_use]
    pub fn from_tape(file: &'a [u8]) -> Self {
        let mut rest = file;
        Self::chained(|number| {
            let (tape, added) = if number + 1 < TAPES {
                split(rest)
            } else {
                (rest, &[][..])
            };
            rest = added;
            Source::Tape(Unstructured::new(tape))
        })
    }

    /// Makes the same run as [`Self::from_tape`] from a tape that it owns.
    #[must_use]
    pub fn from_own_tape(file: Vec<u8>) -> Self {
        let mut rest = file.as_slice();
        Self::chained(|number| {
            let (tape, added) = if number + 1 < TAPES {
                split(rest)
            } else {
                (rest, &[][..])
            };
            rest = added;
            Source::OwnTape {
                tape: tape.to_vec(),
                at: 0,
            }
        })
    }

    /// Follows a path of an enumeration ([`Enumeration`]). All decisions of the other tapes are the
    /// simplest.
    fn from_path(path: Vec<Draw>) -> Self {
        let mut path = Some(path);
        Self::chained(|_| match path.take() {
            Some(path) => Source::Enumeration { path, at: 0 },
            None => Source::OwnTape {
                tape: Vec::new(),
                at: 0,
            },
        })
    }

    /// Chains tapes, whose sources are given in order.
    fn chained(mut source: impl FnMut(u8) -> Source<'a>) -> Self {
        let tapes: Vec<_> = (0..TAPES)
            .map(|number| Self {
                source: source(number),
                tape: Vec::new(),
                count: 0,
                log: None,
                number,
                added: None,
            })
            .collect();
        let chained = tapes.into_iter().rev().reduce(|later, tape| Self {
            added: Some(Box::new(later)),
            ..tape
        });
        chained.expect("there is a first tape")
    }

    /// Returns the second tape, for decisions that older tapes do not have. Their simplest value
    /// must be the old behaviour.
    ///
    /// # Panics
    ///
    /// When called on the last tape.
    pub fn added(&mut self) -> &mut Self {
        self.added
            .as_deref_mut()
            .expect("the last tape has no further tape beside it")
    }

    /// Returns the third tape, for decisions that files with two tapes do not have.
    ///
    /// # Panics
    ///
    /// When called on one of the last two tapes.
    pub fn third(&mut self) -> &mut Self {
        self.added().added()
    }

    /// Returns the fourth tape, for decisions that files with three tapes do not have.
    ///
    /// # Panics
    ///
    /// When called on one of the last three tapes.
    pub fn fourth(&mut self) -> &mut Self {
        self.third().added()
    }

    /// Returns the fifth tape, for decisions that files with four tapes do not have.
    ///
    /// # Panics
    ///
    /// When called on any tape but the first two.
    pub fn fifth(&mut self) -> &mut Self {
        self.fourth().added()
    }

    /// Returns the sixth tape, for decisions that files with five tapes do not have.
    ///
    /// # Panics
    ///
    /// When called on any tape but the first.
    pub fn sixth(&mut self) -> &mut Self {
        self.fifth().added()
    }

    /// Returns the same enumerated run from its beginning.
    #[must_use]
    pub fn again(&self) -> Self {
        match &self.source {
            Source::Enumeration { path, .. } => Self::from_path(path.clone()),
            Source::Seed(_) | Source::Tape(_) | Source::OwnTape { .. } => {
                Self::from_path(Vec::new())
            }
        }
    }

    /// Keeps each draw, so that it can be compared with another run's.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.log = Some(Vec::new());
        self.added().log = Some(Vec::new());
        self.third().log = Some(Vec::new());
        self.fourth().log = Some(Vec::new());
        self.fifth().log = Some(Vec::new());
        self.sixth().log = Some(Vec::new());
        self
    }

    /// Draws a number from 0 to `max`.
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
            // An empty tape gives zeros; there is no other error.
            Source::Tape(unstructured) => unstructured.int_in_range(0..=max).unwrap_or(0),
            Source::OwnTape { tape, at } => {
                let mut rest = Unstructured::new(&tape[*at..]);
                let value = rest.int_in_range(0..=max).unwrap_or(0);
                *at = tape.len() - rest.len();
                value
            }
            Source::Enumeration { path, at } => {
                if *at == path.len() {
                    path.push(Draw {
                        max,
                        value: 0,
                        tape: 0,
                    });
                }
                *at += 1;
                path[*at - 1].value
            }
        };
        let draw = Draw {
            max,
            value,
            tape: self.number,
        };
        draw.write(&mut self.tape);
        self.count += 1;
        if let Some(log) = &mut self.log {
            log.push(draw);
        }
        value
    }

    /// Draws a number from `least` to `most`. `least` is the simplest.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.upto(most.saturating_sub(least))
    }

    /// Draws `true` in `percent` of a hundred cases. `false` is the simplest.
    pub fn percent(&mut self, chance: u64) -> bool {
        chance > 0 && self.upto(99) >= 100 - chance.min(100)
    }

    /// Draws one of the given values. The first is the simplest.
    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        let index = self.upto(of.len() as u64 - 1);
        of[usize::try_from(index).unwrap_or(0)]
    }

    /// Draws an index into the weights, in proportion to them. The first with a weight is the
    /// simplest.
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

    /// Draws a number up to `most` that is small in most cases. The order of magnitude is drawn
    /// first.
    pub fn magnitude(&mut self, most: u64) -> u64 {
        let bits = 64 - most.leading_zeros();
        let bits = self.upto(u64::from(bits));
        if bits == 0 {
            0
        } else {
            self.between(1 << (bits - 1), most.min(u64::MAX >> (64 - bits)))
        }
    }

    /// Draws a number at a limit or beside it.
    pub fn boundary(&mut self, limit: u64) -> u64 {
        self.one_of(&[
            limit,
            limit.saturating_sub(1),
            limit.saturating_add(1),
            0,
            1,
        ])
    }

    /// Returns everything drawn so far as a file that gives the same run again.
    #[must_use]
    pub fn tape(&self) -> Vec<u8> {
        let added = self.added.as_ref().map(|added| added.tape());
        joined(self.tape.clone(), &added.unwrap_or_default())
    }

    /// Returns how many decisions were drawn.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count + self.added.as_ref().map_or(0, |added| added.count())
    }

    /// Returns the draws that [`Self::logged`] keeps, tape by tape.
    #[must_use]
    pub fn log(&self) -> Vec<Draw> {
        let own = self.log.iter().flatten().copied();
        let added = self.added.iter().flat_map(|added| added.log());
        own.chain(added).collect()
    }
}

/// Enumerates all runs. The next path is the last one without the trailing draws that are at their
/// maximum, and with the draw before them raised by one.
#[derive(Debug, Default)]
pub struct Enumeration {
    path: Option<Vec<Draw>>,
}

impl Enumeration {
    /// Returns the choices of the next run, or `None` after the last.
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

    /// Takes back the choices of the run.
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
    fn the_second_tape_shifts_nothing_on_the_first() {
        let drawn = |mut choices: Choices<'_>, with_added: bool| {
            let mut drawn = (Vec::new(), Vec::new());
            for _ in 0..50 {
                drawn.0.push(choices.upto(999));
                if with_added {
                    drawn.1.push(choices.added().upto(999));
                }
            }
            (drawn, choices.tape())
        };
        let ((old, _), old_tape) = drawn(Choices::from_seed(3), false);
        let ((first, second), tape) = drawn(Choices::from_seed(3), true);
        assert_eq!(first, old);
        assert_ne!(first, second);
        assert!(tape.starts_with(&old_tape));

        let seeded = ((first, second), tape.clone());
        assert_eq!(drawn(Choices::from_tape(&tape), true), seeded);
        assert_eq!(drawn(Choices::from_own_tape(tape), true), seeded);
        let ((from_old, added), again) = drawn(Choices::from_tape(&old_tape), true);
        assert_eq!((from_old, again), (old, old_tape));
        assert!(added.iter().all(|value| *value == 0));
    }

    #[test]
    fn decisions_of_both_tapes_become_one_file() {
        let mut choices = Choices::from_seed(5).logged();
        for _ in 0..20 {
            choices.upto(300);
            choices.added().upto(7);
        }
        assert_eq!(tape_of(&choices.log()), choices.tape());
        assert_eq!(choices.count(), 40);
    }

    #[test]
    fn a_file_whose_second_tape_is_cut_off_is_one_tape() {
        for file in [&b"+two"[..], b"\0\0\0\x01+two", b"\0\0+two", b""] {
            assert_eq!(split(file), (file, &b""[..]));
        }
        assert_eq!(split(b"ab\0\0\0\x01+two"), (&b"a"[..], &b"b"[..]));
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
