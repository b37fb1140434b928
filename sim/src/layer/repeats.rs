//! Checks that a seed repeats: its tape makes the same decisions and gives the same hash.

use anyhow::{Result, bail, ensure};

use super::{Layer, Seeds, Source};
use crate::run::Options;

/// Runs each seed again from its tape, and compares all decisions and the hash.
///
/// # Errors
/// With the first difference.
pub fn repeats<L: Layer>(seeds: Seeds) -> Result<()> {
    let options = Options {
        logged: true,
        ..Options::default()
    };
    for seed in seeds.first..seeds.end {
        let one = L::run(Source::Seed(seed), options);
        let other = L::run(Source::Tape(&one.tape), options);
        let mut pairs = one.log.iter().zip(&other.log).enumerate();
        if let Some((at, (first, second))) = pairs.find(|(_, (first, second))| first != second) {
            bail!("seed {seed}: draw {at} is {first:?} and then {second:?}");
        }
        if let Some(failure) = &one.failure {
            bail!("seed {seed}: {failure:?}");
        }
        ensure!(
            one.tape == other.tape,
            "seed {seed}: its tape gives another tape"
        );
        let (one, other) = ((one.draws, one.hash), (other.draws, other.hash));
        ensure!(
            one == other,
            "seed {seed}: {} draws and {:016x}, then {} and {:016x}",
            one.0,
            one.1,
            other.0,
            other.1
        );
    }
    Ok(())
}
