//! `writers`: many appends to one stream of tiny segments. Clients read from each offset that an
//! append was answered.

use std::process::ExitCode;

use anyhow::Result;
use sim::choices::Choices;
use sim::coverage::{Fault, Watermark};
use sim::layer::{Seeds, clock, show_failure};
use sim::run::{self, Inner, Options};
use sim::settings::Settings;

pub(crate) fn writers(writers: u64, appends: u64, seeds: Seeds) -> Result<ExitCode> {
    for seed in seeds.first..seeds.end {
        let start = clock();
        let run = |traced| {
            let mut choices = Choices::from_seed(seed);
            let settings = Settings::writers(&mut choices, writers, appends);
            let options = Options {
                traced,
                ..Options::default()
            };
            run::within::<Inner>(&mut choices, settings, options)
        };
        let outcome = run(false);
        let of = |faults: &[Fault]| {
            faults
                .iter()
                .map(|fault| outcome.coverage.tally(*fault).fired)
                .sum::<u64>()
        };
        let fired = of(Fault::ALL);
        println!(
            "seed {seed}: {} appends of {writers} writers answered, each offset read from; {} segments, {fired} faults ({} of R2), {} events ({:.1} s)",
            outcome.answers_read,
            outcome.coverage.height(Watermark::Segments),
            of(&[Fault::Put, Fault::Get, Fault::Collect]),
            outcome.events,
            start.elapsed().as_secs_f64(),
        );
        if outcome.failure.is_some() {
            show_failure::<Inner>(&run(true));
            return Ok(ExitCode::FAILURE);
        }
        anyhow::ensure!(
            outcome.answers_read >= writers * appends,
            "fewer answers than appends"
        );
    }
    Ok(ExitCode::SUCCESS)
}
