//! `run`: runs many seeds on all cores, until one fails.
//!
//! Each job is a process, because a run of the outer layer is repeatable only where no other run is
//! under way.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::report::write_page;
use super::totals::Totals;
use super::watch::{Watch, show_hang};
use super::{Layer, Seeds, Source, Subject, clock, commit_number, findings, show_failure};
use crate::run::Options;
use crate::storage::Kind;

/// How often a worker reports its totals.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// How often the totals so far are printed.
const SHOW_EVERY: Duration = Duration::from_secs(5);
/// Begins the line in which a worker reports the seed that fails.
const FAILED: &str = "failed ";
/// Begins the line in which a worker reports the seed that does not end.
const HUNG: &str = "hung ";

/// Why the workers stop.
enum End {
    Done,
    Failed(u64),
    Hung,
}

/// Runs every `step`th of the seeds, and reports to the process that started this one.
///
/// # Errors
/// Never; all commands have one type.
pub fn work<L: Layer>(
    seeds: Seeds,
    step: u64,
    minutes: Option<f64>,
    storage: Kind,
) -> Result<ExitCode> {
    let start = clock();
    let limit = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let options = Options {
        storage,
        ..Options::default()
    };
    let watch = Watch::new(|seed| println!("{HUNG}{seed}"));
    let mut totals = Totals::<L>::default();
    let mut reported = clock();
    let mut seed = seeds.first;
    while seed < seeds.end && limit.is_none_or(|limit| start.elapsed() < limit) {
        watch.begins(&seed.to_string());
        let outcome = L::run(Source::Seed(seed), options);
        watch.ends();
        totals.add(&outcome);
        if outcome.failure.is_some() {
            println!("{}", totals.spell());
            println!("{FAILED}{seed}");
            return Ok(ExitCode::SUCCESS);
        }
        if reported.elapsed() > REPORT_EVERY {
            reported = clock();
            println!("{}", totals.spell());
        }
        seed = seed.saturating_add(step);
    }
    println!("{}", totals.spell());
    Ok(ExitCode::SUCCESS)
}

struct Worker<L: Layer> {
    child: Child,
    totals: Totals<L>,
}

/// Runs seeds until one fails, all are done or the time is up. Writes the page of the one that
/// fails into the directory `reports`, and its tape beside it.
///
/// # Errors
/// When a worker cannot be started or fails itself.
pub fn run<L: Layer>(
    seeds: Option<Seeds>,
    minutes: Option<f64>,
    jobs: Option<usize>,
    storage: Kind,
    reports: Option<&Path>,
) -> Result<ExitCode> {
    let minutes = minutes.or_else(|| seeds.is_none().then_some(1.0));
    let seeds = seeds.unwrap_or_else(|| Seeds {
        first: commit_number(),
        end: u64::MAX,
    });
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("seeds from {}, {jobs} jobs, {storage:?}", seeds.first);
    let start = clock();
    let mut workers = Vec::new();
    let mut outputs = Vec::new();
    for first in (seeds.first..seeds.end).take(jobs) {
        let seeds = Seeds { first, ..seeds };
        let (worker, output) = start_worker::<L>(seeds, jobs, minutes, storage)?;
        workers.push(worker);
        outputs.push(output);
    }
    let end = std::thread::scope(|scope| {
        let (sender, reports) = mpsc::channel();
        for (job, output) in outputs.into_iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send((job, line)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let end = listen(&reports, &mut workers, start);
        if !matches!(end, Ok(End::Done)) {
            for worker in &mut workers {
                worker.child.kill()?;
            }
        }
        end
    })?;
    let mut totals = Totals::<L>::default();
    for worker in &mut workers {
        let status = worker.child.wait()?;
        let is_well = !matches!(end, End::Done) || status.success();
        ensure!(is_well, "a worker has failed: {status}");
        totals.merge(&worker.totals);
    }
    println!("{}", totals.line(start.elapsed()));
    match end {
        End::Done => Ok(totals.report()),
        End::Failed(seed) => report_failure::<L>(seed, storage, reports),
        End::Hung => Ok(ExitCode::FAILURE),
    }
}

fn start_worker<L: Layer>(
    seeds: Seeds,
    jobs: usize,
    minutes: Option<f64>,
    storage: Kind,
) -> Result<(Worker<L>, ChildStdout)> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.args([L::WORK, &seeds.to_string(), &jobs.to_string()]);
    command.args(minutes.map(|minutes| format!("--minutes={minutes}")));
    command.args((storage == Kind::Sqlite).then_some("--storage=sqlite"));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.context("cannot start this program again")?;
    let output = child.stdout.take().context("a worker has no output")?;
    let worker = Worker {
        child,
        totals: Totals::default(),
    };
    Ok((worker, output))
}

/// Takes the reports of the workers up to the first seed that fails or does not end.
fn listen<L: Layer>(
    reports: &mpsc::Receiver<(usize, String)>,
    workers: &mut [Worker<L>],
    start: Instant,
) -> Result<End> {
    let mut shown = start;
    for (job, line) in reports {
        if let Some(seed) = line.strip_prefix(FAILED) {
            return Ok(End::Failed(seed.parse()?));
        }
        if let Some(seed) = line.strip_prefix(HUNG) {
            show_hang::<L>(seed);
            return Ok(End::Hung);
        }
        workers[job].totals = Totals::read(&line).context("a worker reports something else")?;
        if shown.elapsed() > SHOW_EVERY {
            shown = clock();
            let mut totals = Totals::<L>::default();
            workers
                .iter()
                .for_each(|worker| totals.merge(&worker.totals));
            let elapsed = start.elapsed();
            println!("{:>4} s  {}", elapsed.as_secs(), totals.line(elapsed));
        }
    }
    Ok(End::Done)
}

fn report_failure<L: Layer>(seed: u64, storage: Kind, reports: Option<&Path>) -> Result<ExitCode> {
    let options = Options {
        storage,
        traced: true,
        ..Options::default()
    };
    let outcome = Subject::Seed(seed).run::<L>(options)?;
    let name = format!("{}-{seed}", L::NAME);
    let directory = reports.map_or_else(findings, |reports| Ok(reports.to_owned()))?;
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join(format!("{name}.tape"));
    std::fs::write(&path, &outcome.tape)?;
    println!("\nseed {seed} fails; its tape is {}\n", path.display());
    show_failure::<L>(&outcome);
    let flag = L::FLAG;
    println!("\nto see it again: cargo sim replay {seed}{flag} --trace");
    // The page has no SQLite.
    if L::PAGE.is_some() && storage == Kind::Map {
        println!("in a browser:    cargo sim report {seed}{flag} -o report.html");
        if reports.is_some() {
            let page = directory.join(format!("{name}.html"));
            let written = write_page::<L>(&format!("seed {seed}"), &outcome.tape, &page);
            // The run has failed, whether there is a page or not.
            println!(
                "{}",
                written.unwrap_or_else(|error| format!("no page: {error:#}"))
            );
        }
    }
    Ok(ExitCode::FAILURE)
}
