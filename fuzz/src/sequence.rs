//! A whole simulated run: the bytes are its tape, which `cargo sim replay` takes as well.

use sim::choices::Choices;
use sim::run::{self, Inner, Options};
use sim::storage;

/// Runs the tape on ordered maps.
///
/// # Panics
///
/// When an oracle of the simulator fails.
pub fn sequence(tape: &[u8]) {
    run(tape, storage::Kind::Map);
}

/// Runs the tape on SQLite, which also tests the SQL text.
///
/// # Panics
///
/// When an oracle of the simulator fails, or the run differs from that on ordered maps.
pub fn sequence_on_sqlite(tape: &[u8]) {
    let (sqlite, map) = (
        run(tape, storage::Kind::Sqlite),
        run(tape, storage::Kind::Map),
    );
    assert!(
        sqlite == map,
        "oracle storages: expected hash {map:016x}, actual {sqlite:016x}"
    );
}

/// Returns the hash of everything that happened.
fn run(tape: &[u8], storage: storage::Kind) -> u64 {
    let options = Options {
        storage,
        ..Options::default()
    };
    let outcome = run::tape::<Inner>(tape, options);
    if let Some(failure) = outcome.failure {
        panic!(
            "oracle {}: expected {}, actual {}, at event {}",
            failure.oracle, failure.expected, failure.actual, failure.event
        );
    }
    outcome.hash
}

/// Changes a tape of `size` bytes into one of at most `size_max`. Returns its new length.
///
/// libFuzzer lengthens inputs by a few bytes at a time, and a tape that ends early ends its run
/// early. One in four therefore continues like the run of a seed, from a random position. libFuzzer
/// changes the rest.
pub fn change_tape(
    tape: &mut [u8],
    size: usize,
    size_max: usize,
    seed: u32,
    usual: impl FnOnce(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut choices = Choices::from_seed(u64::from(seed));
    if choices.upto(3) > 0 {
        return usual(tape, size, size_max);
    }
    let kept = choices.upto(size as u64) as usize;
    let length = choices.between(kept as u64, size_max as u64) as usize;
    for byte in &mut tape[kept..length] {
        *byte = choices.upto(255) as u8;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_tape_goes_on_at_random() {
        let mut longest = 0;
        for seed in 0..100 {
            let mut tape = [7; 64];
            let length = change_tape(&mut tape, 4, 64, seed, |_, size, _| size);
            assert!(length <= 64);
            longest = longest.max(length);
        }
        assert!(longest > 32);
    }
}
