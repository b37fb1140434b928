//! The commands: many seeds, one again, one made small, and whether a seed is one run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sim::choices::Choices;
use sim::oracles::Oracle;
use sim::shrink::{self, Shrunk};

use crate::coverage::{Coverage, Fault, Situation};
use crate::run::{self, Options, Outcome};
use crate::{Seeds, Subject};

/// So many runs come across every situation.
const RUNS_FOR_ALL_SITUATIONS: u64 = 200;
/// How many of the last events are told of a failure.
const EVENTS_TOLD: usize = 60;
const TRIES_MAX: u64 = 5_000;
const SHRINKING_MAX: Duration = Duration::from_secs(20);

#[expect(
    clippy::disallowed_methods,
    reason = "how long it takes is no part of a run"
)]
fn clock() -> Instant {
    Instant::now()
}

/// The directory of the workspace.
fn root() -> &'static Path {
    let layer = Path::new(env!("CARGO_MANIFEST_DIR"));
    layer.ancestors().nth(2).unwrap_or(layer)
}

fn outcome(what: &Subject, options: Options) -> Result<Outcome> {
    Ok(match what {
        Subject::Seed(seed) => run::run(Choices::from_seed(*seed), options),
        Subject::Tape(path) => {
            let tape =
                std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            run::run(Choices::from_own_tape(tape), options)
        }
    })
}

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
        self.simulated_ms += outcome.simulated_ms;
        self.coverage.add(&outcome.coverage);
    }

    /// As a line for another process.
    fn spell(&self) -> String {
        let numbers = [self.runs, self.events, self.operations, self.simulated_ms];
        let numbers = numbers.into_iter().chain(self.coverage.numbers());
        let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
        numbers.join(" ")
    }

    fn read(line: &str) -> Option<Self> {
        let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
        let mut numbers = numbers.ok()?.into_iter();
        Some(Self {
            runs: numbers.next()?,
            events: numbers.next()?,
            operations: numbers.next()?,
            simulated_ms: numbers.next()?,
            coverage: Coverage::from_numbers(numbers)?,
        })
    }

    fn sum(children: &[(Child, Self)]) -> Self {
        let mut sum = Self::default();
        for (_, totals) in children {
            sum.runs += totals.runs;
            sum.events += totals.events;
            sum.operations += totals.operations;
            sum.simulated_ms += totals.simulated_ms;
            sum.coverage.add(&totals.coverage);
        }
        sum
    }

    fn line(&self, elapsed: Duration) -> String {
        format!(
            "{} runs ({:.1}/s), {} operations, {} events, {:.2} simulated hours",
            self.runs,
            self.runs as f64 / elapsed.as_secs_f64(),
            self.operations,
            self.events,
            self.simulated_ms as f64 / 3_600_000.0,
        )
    }
}

/// How often a worker tells how far it is.
const WORKER_TELLS: Duration = Duration::from_millis(500);

/// Runs every so many seeds, and tells what comes of them: the process of one job.
pub(crate) fn work(seeds: Seeds, step: u64) -> Result<ExitCode> {
    let mut totals = Totals::default();
    let mut told = clock();
    let mut seed = seeds.first;
    while seed < seeds.end {
        let outcome = run::run(Choices::from_seed(seed), Options::default());
        totals.add(&outcome);
        if outcome.failure.is_some() {
            println!("failed {seed}");
            break;
        }
        if told.elapsed() > WORKER_TELLS {
            told = clock();
            println!("{}", totals.spell());
        }
        seed = seed.saturating_add(step);
    }
    println!("{}", totals.spell());
    Ok(ExitCode::SUCCESS)
}

/// The jobs are processes, for a run is repeatable only where no other is under way.
pub(crate) fn run(seeds: Seeds, jobs: Option<usize>) -> Result<ExitCode> {
    let jobs = jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    println!("seeds {}..{}, {jobs} jobs", seeds.first, seeds.end);
    let start = clock();
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut children = Vec::new();
    let mut outputs = Vec::new();
    for first in (seeds.first..seeds.end).take(jobs) {
        let mut child = std::process::Command::new(&program)
            .args(["work", &format!("{first}..{}", seeds.end)])
            .arg(jobs.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start this program again")?;
        outputs.push(child.stdout.take().context("a child has no output")?);
        children.push((child, Totals::default()));
    }
    let failed = std::thread::scope(|scope| {
        let (told, reports) = mpsc::channel();
        for (job, output) in outputs.into_iter().enumerate() {
            let told = told.clone();
            scope.spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                lines
                    .take_while(|line| told.send((job, line.clone())).is_ok())
                    .for_each(drop);
            });
        }
        drop(told);
        let failed = listen(&reports, &mut children, start);
        if !matches!(failed, Ok(None)) {
            for (child, _) in &mut children {
                child.kill()?;
            }
        }
        failed
    })?;
    for (child, _) in &mut children {
        let status = child.wait()?;
        ensure!(
            failed.is_some() || status.success(),
            "a worker has failed: {status}"
        );
    }
    let totals = Totals::sum(&children);
    println!("{}", totals.line(start.elapsed()));
    if let Some(seed) = failed {
        let traced = Options {
            traced: true,
            ..Options::default()
        };
        let outcome = outcome(&Subject::Seed(seed), traced)?;
        let path = findings()?.join(format!("turmoil-{seed}.tape"));
        std::fs::write(&path, &outcome.tape)?;
        println!("\nseed {seed} fails; its tape is {}\n", path.display());
        tell_failure(&outcome);
        println!("\nto see it again: cargo sim replay {seed} --turmoil --trace");
        return Ok(ExitCode::FAILURE);
    }
    Ok(tell_totals(&totals))
}

/// Takes what the workers tell, up to the seed that fails.
fn listen(
    reports: &mpsc::Receiver<(usize, String)>,
    workers: &mut [(Child, Totals)],
    start: Instant,
) -> Result<Option<u64>> {
    let mut shown = start;
    for (job, line) in reports {
        if let Some(seed) = line.strip_prefix("failed ") {
            return Ok(Some(seed.parse()?));
        }
        workers[job].1 = Totals::read(&line).context("a worker has told something else")?;
        if shown.elapsed() > Duration::from_secs(10) {
            shown = clock();
            let (seconds, totals) = (start.elapsed().as_secs(), Totals::sum(workers));
            println!("{seconds:>4} s  {}", totals.line(start.elapsed()));
        }
    }
    Ok(None)
}

fn tell_totals(totals: &Totals) -> ExitCode {
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
            "{:>12}  {:<18} {:>6} {:>9} {:>9}  {}",
            "",
            fault.text(),
            tally.runs,
            tally.fired,
            tally.changed,
            fault.change()
        );
    }
    let missed: Vec<_> = totals.coverage.missed().map(Situation::text).collect();
    if totals.runs >= RUNS_FOR_ALL_SITUATIONS && !missed.is_empty() {
        println!("\nnever came across: {}", missed.join("; "));
        return ExitCode::FAILURE;
    }
    let inert: Vec<_> = totals.coverage.inert().map(Fault::text).collect();
    if totals.runs >= RUNS_FOR_ALL_SITUATIONS && !inert.is_empty() {
        println!("\nfaults that changed nothing: {}", inert.join("; "));
        return ExitCode::FAILURE;
    }
    println!("\n{} runs without a failure", totals.runs);
    ExitCode::SUCCESS
}

/// Where what is found is put.
fn findings() -> Result<PathBuf> {
    let directory = root().join("target/sim-findings");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

pub(crate) fn replay(
    what: &Subject,
    trace: bool,
    until: Option<u64>,
    state: bool,
) -> Result<ExitCode> {
    let outcome = outcome(
        what,
        Options {
            traced: true,
            until: until.unwrap_or(u64::MAX),
        },
    )?;
    if state {
        println!("{}\n", outcome.settings);
    }
    if trace {
        outcome.trace.iter().for_each(|line| println!("{line}"));
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
fn tell_failure(outcome: &Outcome) {
    let Some(failure) = &outcome.failure else {
        return;
    };
    let skipped = outcome.trace.len().saturating_sub(EVENTS_TOLD);
    let last = outcome.trace.iter().skip(skipped);
    last.for_each(|line| println!("{line}"));
    println!("\noracle    {}", failure.oracle);
    println!("expected  {}", failure.expected);
    println!("actual    {}", failure.actual);
    println!("at event  {}", failure.event);
}

pub(crate) fn shrink(what: &Subject, output: &Path) -> Result<ExitCode> {
    let first = outcome(what, Options::default())?;
    let Some(failure) = first.failure else {
        bail!("it does not fail")
    };
    let start = clock();
    let shrunk = shrunk(&first.tape, failure.oracle);
    std::fs::write(output, &shrunk.tape)
        .with_context(|| format!("cannot write {}", output.display()))?;
    let traced = Options {
        traced: true,
        ..Options::default()
    };
    let last = outcome(&Subject::Tape(output.to_owned()), traced)?;
    tell_failure(&last);
    println!(
        "\n{} -> {} bytes, {} -> {} operations, {} tries in {:.1} s\nto see it again: cargo sim replay {} --turmoil --trace",
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
fn shrunk(tape: &[u8], oracle: Oracle) -> Shrunk {
    let start = clock();
    shrink::shrink(tape, TRIES_MAX, |tape| {
        if start.elapsed() > SHRINKING_MAX {
            return None;
        }
        let outcome = run::run(Choices::from_own_tape(tape.to_vec()), Options::default());
        let failure = outcome.failure?;
        (failure.oracle == oracle).then_some(outcome.log)
    })
}

/// Run with a fault planted in the server: the known tape must fail, and so must some seed before
/// the time is up. Writes the tape where there was none.
pub(crate) fn hunt(oracle: Oracle, seconds: u64, known: &Path) -> Result<ExitCode> {
    let start = clock();
    let mut other = None;
    for seed in 0.. {
        if start.elapsed() > Duration::from_secs(seconds) {
            println!("{seed} seeds; the first failure of another oracle: {other:?}");
            break;
        }
        let outcome = run::run(Choices::from_seed(seed), Options::default());
        let Some(failure) = outcome.failure else {
            continue;
        };
        if failure.oracle != oracle {
            other.get_or_insert((seed, failure.oracle));
            continue;
        }
        let caught = start.elapsed();
        let shrunk = shrunk(&outcome.tape, oracle);
        let shrink_ms = (start.elapsed() - caught).as_millis();
        let size = shrunk.tape.len();
        if known.exists() {
            let failure = outcome_of(known)?.failure;
            ensure!(
                failure.is_some_and(|failure| failure.oracle == oracle),
                "the known tape does not fail any more"
            );
        } else {
            std::fs::write(known, shrunk.tape)?;
        }
        println!(
            "{:>8} {:>9} {:>8} {size:>8} {shrink_ms:>9}",
            seed + 1,
            caught.as_millis(),
            outcome.tape.len()
        );
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn outcome_of(tape: &Path) -> Result<Outcome> {
    outcome(&Subject::Tape(tape.to_owned()), Options::default())
}

/// Runs each of these seeds again from its tape, and all of them twice as processes that log
/// everything; compares hashes, and the logs line by line.
pub(crate) fn meta(seeds: Seeds) -> Result<ExitCode> {
    let start = clock();
    for seed in seeds.first..seeds.end {
        let first = run::run(Choices::from_seed(seed), Options::default());
        let again = run::run(
            Choices::from_own_tape(first.tape.clone()),
            Options::default(),
        );
        if (first.hash, first.draws) != (again.hash, again.draws) {
            println!(
                "seed {seed} and its tape differ: {:016x} after {} draws, {:016x} after {}",
                first.hash, first.draws, again.hash, again.draws
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    let program = std::env::current_exe().context("cannot find this program")?;
    let range = format!("{}..{}", seeds.first, seeds.end);
    let mut children = Vec::new();
    for _ in 0..2 {
        let mut child = std::process::Command::new(&program)
            .args(["log", &range])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start this program again")?;
        let lines = child.stdout.take().context("a child has no output")?;
        children.push((child, BufReader::with_capacity(1 << 16, lines).lines()));
    }
    let (mut lines, mut bytes) = (0_u64, 0_u64);
    let mut differs = None;
    while differs.is_none() {
        let mut each = children
            .iter_mut()
            .map(|(_, lines)| lines.next().transpose());
        let (one, other) = (
            each.next().transpose()?.flatten(),
            each.next().transpose()?.flatten(),
        );
        lines += 1;
        bytes += one.as_ref().map_or(0, |line| line.len() as u64);
        if one != other {
            differs = Some((one, other));
        } else if one.is_none() {
            break;
        }
    }
    for (child, _) in &mut children {
        if differs.is_some() {
            child.kill()?;
        }
        let status = child.wait()?;
        ensure!(
            differs.is_some() || status.success(),
            "a child has failed: {status}"
        );
    }
    if let Some((one, other)) = differs {
        let ended = || "the end".to_owned();
        println!(
            "line {lines} differs:\n{}\n{}",
            one.unwrap_or_else(ended),
            other.unwrap_or_else(ended)
        );
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "seeds {range} are the same from their tapes, and in two processes: {} lines, {:.1} MB of log ({:.1} s)",
        lines - 1,
        bytes as f64 / 1e6,
        start.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// Simulated time, and nothing of the machine's.
struct Simulated;

impl tracing_subscriber::fmt::time::FormatTime for Simulated {
    fn format_time(
        &self,
        writer: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        // Where no host is running, turmoil would ask the machine's clock.
        let elapsed = tokio::runtime::Handle::try_current().ok();
        match elapsed.and_then(|_| turmoil::sim_elapsed()) {
            Some(elapsed) => write!(writer, "{:>8}", elapsed.as_millis()),
            None => write!(writer, "{:>8}", "-"),
        }
    }
}

pub(crate) fn log(seeds: Seeds) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_timer(Simulated)
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .init();
    for seed in seeds.first..seeds.end {
        let outcome = run::run(Choices::from_seed(seed), Options::default());
        println!(
            "seed {seed}: {:016x} {} {:?}",
            outcome.hash, outcome.draws, outcome.failure
        );
    }
    std::io::stdout().flush()?;
    Ok(ExitCode::SUCCESS)
}
