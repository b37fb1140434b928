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
/// in that time, is given more. Prints how many seeds and milliseconds that took, the size of the
/// tape, and the size of the known tape.
///
/// The known tape must fail as well. If there is no known tape, the hunt shrinks the tape that it
/// has found, and writes it as the known one.
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
        if known.exists() {
            let again = Subject::Tape(known.to_owned()).run::<L>(options)?;
            let still = again.failure.is_some_and(|found| found.oracle == oracle);
            ensure!(still, "the known tape does not fail any more");
        } else {
            std::fs::write(known, shrunk::<L>(&outcome.tape, oracle, options).tape)?;
        }
        println!(
            "{} {} {} {}",
            seed + 1,
            caught.as_millis(),
            outcome.tape.len(),
            std::fs::metadata(known)?.len(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}
