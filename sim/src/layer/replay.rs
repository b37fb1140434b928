//! `replay` and `shrink`: run one seed or tape again, and make it smaller.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::watch::{Watch, show_hang};
use super::{Layer, LayerOutcome, Source, Subject, clock};
use crate::oracles::Oracle;
use crate::run::Options;
use crate::shrink::{self, Shrunk};

/// Runs a seed or tape again and prints what happens.
///
/// # Errors
/// When the tape cannot be read.
pub fn replay<L: Layer>(
    what: &Subject,
    trace: bool,
    state: bool,
    options: Options,
) -> Result<ExitCode> {
    let watch = Watch::new(show_hang::<L>);
    watch.begins(&what.to_string());
    let outcome = what.run::<L>(Options {
        traced: true,
        ..options
    })?;
    watch.ends();
    if state {
        println!("{}\n", outcome.settings);
    }
    if trace {
        outcome.trace.iter().for_each(|line| println!("{line}"));
    }
    if state {
        println!();
        outcome
            .state
            .iter()
            .for_each(|section| println!("{section}"));
    }
    println!(
        "hash {:016x}, {} draws, {} bytes of tape, {} events, {} operations, {} simulated ms",
        outcome.hash,
        outcome.draws,
        outcome.tape.len(),
        outcome.events,
        outcome.operations,
        outcome.simulated_ms,
    );
    if outcome.failure.is_some() {
        show_failure::<L>(&outcome);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a failure, and the events before it.
pub fn show_failure<L: Layer>(outcome: &LayerOutcome<L>) {
    let Some(failure) = &outcome.failure else {
        return;
    };
    let skipped = outcome.trace.len().saturating_sub(L::EVENTS_SHOWN);
    let last = outcome.trace.iter().skip(skipped);
    last.for_each(|line| println!("{line}"));
    println!("\noracle    {}", failure.oracle);
    println!("expected  {}", failure.expected);
    println!("actual    {}", failure.actual);
    println!("at event  {}", failure.event);
}

/// Makes a failing seed or tape small, and writes the smaller tape.
///
/// # Errors
/// When it does not fail, or a file cannot be read or written.
pub fn shrink<L: Layer>(what: &Subject, output: &Path, options: Options) -> Result<ExitCode> {
    let first = what.run::<L>(options)?;
    let Some(failure) = first.failure else {
        bail!("the run does not fail")
    };
    let start = clock();
    let shrunk = shrunk::<L>(&first.tape, failure.oracle, options);
    std::fs::write(output, &shrunk.tape)
        .with_context(|| format!("cannot write {}", output.display()))?;
    let traced = Options {
        traced: true,
        ..options
    };
    let last = L::run(Source::Tape(&shrunk.tape), traced);
    show_failure::<L>(&last);
    println!(
        "\n{} -> {} bytes, {} -> {} operations, {} tries in {:.1} s",
        first.tape.len(),
        shrunk.tape.len(),
        first.operations,
        last.operations,
        shrunk.tries,
        start.elapsed().as_secs_f64(),
    );
    let (output, flag) = (output.display(), L::FLAG);
    println!("to see it again: cargo sim replay {output}{flag} --trace");
    if L::PAGE.is_some() {
        println!("in a browser:    cargo sim report {output}{flag} -o report.html");
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the smallest tape found for which this oracle fails.
pub(super) fn shrunk<L: Layer>(tape: &[u8], oracle: Oracle, options: Options) -> Shrunk {
    let start = clock();
    let options = Options {
        logged: true,
        ..options
    };
    shrink::shrink(tape, L::SHRINK_TRIES_MAX, |tape| {
        if start.elapsed() > L::SHRINK_TIME_MAX {
            return None;
        }
        let outcome = L::run(Source::Tape(tape), options);
        let failure = outcome.failure?;
        (failure.oracle == oracle).then_some(outcome.log)
    })
}
