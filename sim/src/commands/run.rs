//! `run`: many seeds, on all cores, up to the first that fails.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use sim::coverage::{Coverage, Fault, Situation, Watermark};
use sim::run::{self, Options, Outcome};
use sim::storage;

use super::watch::Watch;
use super::{clock, commit_number, findings, replay};
use crate::{Seeds, Subject};

/// So many runs come across every situation.
const RUNS_FOR_ALL_SITUATIONS: u64 = 30_000;

#[derive(Default)]
struct Totals {
    runs: u64,
    events: u64,
    operations: u64,
    simulated_ms: u64,
    coverage: Coverage,
}

impl Totals {
    fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.events += outcome.events;
        self.operations += outcome.operations;
        // A stream that ends in the year 9999 makes for a long wait in which nothing happens.
        self.simulated_ms += outcome.simulated_ms.min(86_400_000);
        self.coverage.add(&outcome.coverage);
    }

    fn line(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        format!(
            "{} runs ({:.0}/s), {:.2} M events ({:.2} M/s), {:.0} operations a run, {:.0} simulated hours",
            self.runs,
            self.runs as f64 / seconds,
            self.events as f64 / 1e6,
            self.events as f64 / 1e6 / seconds,
            self.operations as f64 / self.runs.max(1) as f64,
            self.simulated_ms as f64 / 3_600_000.0,
        )
    }
}

pub(crate) fn run(
    seeds: Option<Seeds>,
    minutes: Option<f64>,
    jobs: Option<usize>,
    storage: storage::Kind,
) -> Result<ExitCode> {
    let base = seeds.map_or_else(commit_number, |seeds| seeds.first);
    let end = seeds.map_or(u64::MAX, |seeds| seeds.end);
    let minutes = minutes.or_else(|| seeds.is_none().then_some(1.0));
    let limit = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("seeds from {base}, {jobs} jobs, {storage:?}");
    let start = clock();
    let next = AtomicU64::new(base);
    let stopped = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let failed = Mutex::new(None::<u64>);
    let watch = Watch::over(jobs);
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (next, stopped, totals, failed, watch) =
                (&next, &stopped, &totals, &failed, &watch);
            scope.spawn(move || {
                let mut mine = Totals::default();
                let mut told = clock();
                while !stopped.load(Ordering::Relaxed)
                    && limit.is_none_or(|limit| start.elapsed() < limit)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    watch.begins(job, &seed.to_string());
                    let outcome = run::seed(
                        seed,
                        Options {
                            storage,
                            ..Options::default()
                        },
                    );
                    watch.ends(job);
                    mine.add(&outcome);
                    if outcome.failure.is_some() {
                        stopped.store(true, Ordering::Relaxed);
                        if let Ok(mut failed) = failed.lock() {
                            *failed = Some(failed.map_or(seed, |other: u64| other.min(seed)));
                        }
                    }
                    if told.elapsed() > Duration::from_secs(5) {
                        told = clock();
                        merge(totals, &mut mine, (job == 0).then(|| start.elapsed()));
                    }
                }
                merge(totals, &mut mine, None);
            });
        }
    });
    let totals = totals.into_inner().unwrap_or_default();
    println!("{}", totals.line(start.elapsed()));
    if let Some(seed) = failed.into_inner().unwrap_or_default() {
        let outcome = replay::outcome(
            &Subject::Seed(seed),
            Options {
                storage,
                traced: true,
                until: u64::MAX,
            },
        )?;
        let path = findings()?.join(format!("seed-{seed}.tape"));
        std::fs::write(&path, &outcome.tape)?;
        println!("\nseed {seed} fails; its tape is {}\n", path.display());
        replay::tell_failure(&outcome);
        println!("\nto see it again: cargo sim replay {seed} --trace");
        return Ok(ExitCode::FAILURE);
    }
    println!("\nsituations");
    for situation in Situation::ALL {
        println!(
            "{:>12}  {}",
            totals.coverage.count(*situation),
            situation.text()
        );
    }
    println!("faults{:>34} {:>9} {:>9}", "runs", "fired", "changed");
    for fault in Fault::ALL {
        let tally = totals.coverage.tally(*fault);
        println!(
            "{:>12}  {:<16} {:>8} {:>9} {:>9}  {}",
            "",
            fault.text(),
            tally.runs,
            tally.fired,
            tally.changed,
            fault.change()
        );
    }
    println!("watermarks");
    for watermark in Watermark::ALL {
        println!(
            "{:>12}  {}",
            totals.coverage.height(*watermark),
            watermark.text()
        );
    }
    let missed: Vec<_> = totals.coverage.missed().map(Situation::text).collect();
    if totals.runs >= RUNS_FOR_ALL_SITUATIONS && !missed.is_empty() {
        println!("\nnever came across: {}", missed.join("; "));
        return Ok(ExitCode::FAILURE);
    }
    let inert: Vec<_> = totals.coverage.inert().map(Fault::text).collect();
    if totals.runs >= RUNS_FOR_ALL_SITUATIONS && !inert.is_empty() {
        println!("\nfaults that changed nothing: {}", inert.join("; "));
        return Ok(ExitCode::FAILURE);
    }
    println!("\n{} runs without a failure", totals.runs);
    Ok(ExitCode::SUCCESS)
}

fn merge(totals: &Mutex<Totals>, mine: &mut Totals, elapsed: Option<Duration>) {
    let Ok(mut totals) = totals.lock() else {
        return;
    };
    totals.runs += mine.runs;
    totals.events += mine.events;
    totals.operations += mine.operations;
    totals.simulated_ms += mine.simulated_ms;
    totals.coverage.add(&mine.coverage);
    *mine = Totals::default();
    if let Some(elapsed) = elapsed {
        println!("{:>4} s  {}", elapsed.as_secs(), totals.line(elapsed));
    }
}
