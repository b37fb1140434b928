//! The totals of many runs, and their report.

use std::process::ExitCode;
use std::time::Duration;

use super::{Layer, LayerCoverage, LayerOutcome};
use crate::coverage::{Breakable as _, Listed as _};

/// A stream that ends in the year 9999 makes a run wait for it. No run counts as longer than a day.
const SIMULATED_MS_MAX: u64 = 86_400_000;

/// The totals of many runs.
pub(super) struct Totals<L: Layer> {
    pub(super) runs: u64,
    events: u64,
    operations: u64,
    simulated_ms: u64,
    coverage: LayerCoverage<L>,
}

impl<L: Layer> Default for Totals<L> {
    fn default() -> Self {
        Self {
            runs: 0,
            events: 0,
            operations: 0,
            simulated_ms: 0,
            coverage: LayerCoverage::<L>::default(),
        }
    }
}

impl<L: Layer> Totals<L> {
    pub(super) fn add(&mut self, outcome: &LayerOutcome<L>) {
        self.runs += 1;
        self.events += outcome.events;
        self.operations += outcome.operations;
        self.simulated_ms += outcome.simulated_ms.min(SIMULATED_MS_MAX);
        self.coverage.add(&outcome.coverage);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.events += other.events;
        self.operations += other.operations;
        self.simulated_ms += other.simulated_ms;
        self.coverage.add(&other.coverage);
    }

    /// Spells the totals as a line for another process.
    pub(super) fn spell(&self) -> String {
        let numbers = [self.runs, self.events, self.operations, self.simulated_ms];
        let numbers = numbers.into_iter().chain(self.coverage.numbers());
        let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
        numbers.join(" ")
    }

    /// Reads what another process has spelled; `None` for any other line.
    pub(super) fn read(line: &str) -> Option<Self> {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let mut numbers = numbers.ok()?.into_iter();
        Some(Self {
            runs: numbers.next()?,
            events: numbers.next()?,
            operations: numbers.next()?,
            simulated_ms: numbers.next()?,
            coverage: LayerCoverage::<L>::from_numbers(numbers)?,
        })
    }

    /// Returns the totals in one line.
    pub(super) fn line(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        format!(
            "{} runs ({:.0}/s), {:.2} M events ({:.2} M/s), {:.0} operations a run, \
             {:.2} simulated hours",
            self.runs,
            self.runs as f64 / seconds,
            self.events as f64 / 1e6,
            self.events as f64 / 1e6 / seconds,
            self.operations as f64 / self.runs.max(1) as f64,
            self.simulated_ms as f64 / 3_600_000.0,
        )
    }

    /// Prints what the runs came across. Fails when many runs missed a situation, or when a fault
    /// never made a difference.
    pub(super) fn report(&self) -> ExitCode {
        println!("\nsituations");
        for situation in L::Situation::ALL {
            let count = self.coverage.count(*situation);
            println!("{count:>12}  {}", situation.text());
        }
        println!("faults{:>34} {:>9} {:>9}", "runs", "fired", "changed");
        for fault in L::Fault::ALL {
            let tally = self.coverage.tally(*fault);
            println!(
                "{:>12}  {:<18} {:>6} {:>9} {:>9}  {}",
                "",
                fault.text(),
                tally.runs,
                tally.fired,
                tally.changed,
                fault.change()
            );
        }
        if !L::Watermark::ALL.is_empty() {
            println!("watermarks");
        }
        for watermark in L::Watermark::ALL {
            let height = self.coverage.height(*watermark);
            println!("{height:>12}  {}", watermark.text());
        }
        let is_enough = self.runs >= L::RUNS_FOR_ALL_SITUATIONS;
        let missed: Vec<_> = self.coverage.missed().map(|it| it.text()).collect();
        if is_enough && !missed.is_empty() {
            println!("\nnever came across: {}", missed.join("; "));
            return ExitCode::FAILURE;
        }
        let inert: Vec<_> = self.coverage.inert().map(|it| it.text()).collect();
        if is_enough && !inert.is_empty() {
            println!("\nfaults that changed nothing: {}", inert.join("; "));
            return ExitCode::FAILURE;
        }
        println!("\n{} runs without a failure", self.runs);
        ExitCode::SUCCESS
    }
}
