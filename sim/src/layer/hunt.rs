//! `hunt`: searches a patched simulator for its planted fault.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::replay::shrunk;
use super::{Layer, Source, Subject, clock};
use crate::oracles::Oracle;
use crate::run::Options;

/// How much longer than on an idle machine a hunt may take.
const SLOWER_MAX: u32 = 5;

/// Draws seeds until the oracle fails or the time is up. A loaded machine, which makes fewer runs
/// in that time, is given more. Prints how many seeds and milliseconds
/// that took, the size of the tape, its size when shrunk, and the milliseconds of shrinking.
///
/// The known tape must fail as well. If there is no known tape, the shrunk one is written.
///
/// # Errors
/// When the known tape no longer fails.
pub fn hunt<L: Layer>(
    oracle: Oracle,
    seconds: u64,
    known: &Path,
    options: Options,
) -> Result<ExitCode> {
    let start = clock();
    let time = Duration::from_secs(seconds);
    let mut other = None;
    for seed in 0.. {
        let is_enough = seed >= L::HUNTED_RUNS_MIN || start.elapsed() > time * SLOWER_MAX;
        if start.elapsed() > time && is_enough {
            println!("{seed} seeds; the first failure of another oracle: {other:?}");
            break;
        }
        let outcome = L::run(Source::Seed(seed), options);
        let Some(failure) = outcome.failure else {
            continue;
        };
        if failure.oracle != oracle {
            other.get_or_insert((seed, failure.oracle));
            continue;
        }
        let caught = start.elapsed();
        let shrunk = shrunk::<L>(&outcome.tape, oracle, options);
        let shrink_ms = (start.elapsed() - caught).as_millis();
        let shrunk_bytes = shrunk.tape.len();
        if known.exists() {
            let outcome = Subject::Tape(known.to_owned()).run::<L>(options)?;
            let still = outcome.failure.is_some_and(|found| found.oracle == oracle);
            ensure!(still, "the known tape does not fail any more");
        } else {
            std::fs::write(known, shrunk.tape)?;
        }
        println!(
            "{} {} {} {shrunk_bytes} {shrink_ms}",
            seed + 1,
            caught.as_millis(),
            outcome.tape.len(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
