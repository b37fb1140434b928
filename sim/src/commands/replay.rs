//! `replay` and `shrink`: one run, again and smaller.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sim::choices::Choices;
use sim::oracles::Oracle;
use sim::run::{self, Options, Outcome};
use sim::{shrink, storage};

use super::clock;
use super::watch::Watch;
use crate::Subject;

/// How many of the last events are told of a failure.
const EVENTS_TOLD: usize = 40;
const TRIES_MAX: u64 = 30_000;
const SHRINKING_MAX: Duration = Duration::from_secs(15);

pub(crate) fn outcome(what: &Subject, options: Options) -> Result<Outcome> {
    Ok(match what {
        Subject::Seed(seed) => run::seed(*seed, options),
        Subject::Tape(path) => {
            let tape =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            run::tape(&tape, options)
        }
    })
}

pub(crate) fn replay(
    what: &Subject,
    trace: bool,
    until: Option<u64>,
    state: bool,
    storage: storage::Kind,
) -> Result<ExitCode> {
    let until = until.unwrap_or(u64::MAX);
    let watch = Watch::over(1);
    watch.begins(0, &what.to_string());
    let outcome = outcome(
        what,
        Options {
            storage,
            traced: true,
            until,
        },
    )?;
    watch.ends(0);
    if state {
        println!("{}\n", outcome.settings);
    }
    if trace {
        outcome.trace.iter().for_each(|line| println!("{line}"));
    }
    if state {
        println!("\n{}", outcome.state);
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
        tell_failure(&outcome);
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What went wrong, and what came before it.
pub(crate) fn tell_failure(outcome: &Outcome) {
    let Some(failure) = &outcome.failure else {
        return;
    };
    let skipped = outcome.trace.len().saturating_sub(EVENTS_TOLD);
    outcome
        .trace
        .iter()
        .skip(skipped)
        .for_each(|line| println!("{line}"));
    println!("\noracle    {}", failure.oracle);
    println!("expected  {}", failure.expected);
    println!("actual    {}", failure.actual);
    println!("at event  {}", failure.event);
}

pub(crate) fn shrink(what: &Subject, output: &Path, storage: storage::Kind) -> Result<ExitCode> {
    let options = Options {
        storage,
        ..Options::default()
    };
    let first = outcome(what, options)?;
    let Some(failure) = first.failure else {
        bail!("it does not fail")
    };
    let start = clock();
    let shrunk = shrunk(&first.tape, failure.oracle, options);
    std::fs::write(output, &shrunk.tape)
        .with_context(|| format!("cannot write {}", output.display()))?;
    let last = run::tape(
        &shrunk.tape,
        Options {
            traced: true,
            ..options
        },
    );
    tell_failure(&last);
    println!(
        "\n{} -> {} bytes, {} -> {} operations, {} tries in {:.1} s\nto see it again: cargo sim replay {} --trace",
        first.tape.len(),
        shrunk.tape.len(),
        first.operations,
        last.operations,
        shrunk.tries,
        start.elapsed().as_secs_f64(),
        output.display(),
    );
    Ok(ExitCode::SUCCESS)
}

/// The smallest tape found for which this oracle fails.
pub(crate) fn shrunk(tape: &[u8], oracle: Oracle, options: Options) -> shrink::Shrunk {
    let start = clock();
    shrink::shrink(tape, TRIES_MAX, |tape| {
        if start.elapsed() > SHRINKING_MAX {
            return None;
        }
        let mut choices = Choices::from_tape(tape).logged();
        let failure = run::choices(&mut choices, options).failure?;
        (failure.oracle == oracle).then(|| choices.log())
    })
}
