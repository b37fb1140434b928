//! `explore`: all runs of a very small world.

use std::process::ExitCode;

use anyhow::Result;
use sim::choices::Enumeration;
use sim::forks::{self, Forks};
use sim::layer::{clock, show_failure};
use sim::run::{self, Inner, Options};
use sim::settings::Settings;

pub(crate) fn explore(operations: u64) -> Result<ExitCode> {
    let start = clock();
    let mut enumeration = Enumeration::default();
    let mut runs = 0_u64;
    let mut events = 0;
    while let Some(mut choices) = enumeration.begin() {
        let outcome = run::within::<Inner>(
            &mut choices,
            Settings::small(operations),
            Options::default(),
        );
        runs += 1;
        events += outcome.events;
        if outcome.failure.is_some() {
            let mut again = choices.again();
            let traced = Options {
                traced: true,
                ..Options::default()
            };
            show_failure::<Inner>(&run::within::<Inner>(
                &mut again,
                Settings::small(operations),
                traced,
            ));
            println!("\nfailed in run {runs} of {operations} operations");
            return Ok(ExitCode::FAILURE);
        }
        enumeration.finish(choices);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("all {runs} runs of {operations} operations hold ({events} events, {seconds:.1} s)");
    Ok(ExitCode::SUCCESS)
}

/// All runs of two names and one fork.
pub(crate) fn forks(operations: u64) -> Result<ExitCode> {
    let start = clock();
    let mut enumeration = Enumeration::default();
    let (mut runs, mut events, mut made) = (0_u64, 0, 0);
    while let Some(mut choices) = enumeration.begin() {
        let settings = forks::Settings::enumerated(operations);
        let outcome = run::within::<Forks>(&mut choices, settings, Options::default());
        runs += 1;
        events += outcome.events;
        made += u64::from(outcome.coverage.count(forks::Situation::Forked) > 0);
        if outcome.failure.is_some() {
            let mut again = choices.again();
            let traced = Options {
                traced: true,
                ..Options::default()
            };
            let settings = forks::Settings::enumerated(operations);
            show_failure::<Forks>(&run::within::<Forks>(&mut again, settings, traced));
            println!("\nfailed in run {runs} of {operations} operations");
            return Ok(ExitCode::FAILURE);
        }
        enumeration.finish(choices);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "all {runs} runs of {operations} operations hold; {made} of them make a fork ({events} \
         events, {seconds:.1} s)"
    );
    Ok(ExitCode::SUCCESS)
}
