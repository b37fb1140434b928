//! `meta`: checks that a seed gives the same run in every process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use sim::layer::{Layer as _, Seeds, Source, clock, repeats};
use sim::run::Options;

use crate::run::Outer;

/// Runs each of these seeds again from its tape, and all of them in two processes that log
/// everything. Compares the logs line by line.
pub(crate) fn meta(seeds: Seeds) -> Result<ExitCode> {
    let start = clock();
    repeats::<Outer>(seeds)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let range = seeds.to_string();
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

/// The simulated time, in place of the clock of this machine.
struct Simulated;

impl tracing_subscriber::fmt::time::FormatTime for Simulated {
    fn format_time(
        &self,
        writer: &mut tracing_subscriber::fmt::format::Writer<'_>,
    ) -> std::fmt::Result {
        // Outside of a host, turmoil would read the clock of this machine.
        let elapsed = tokio::runtime::Handle::try_current().ok();
        match elapsed.and_then(|_| turmoil::sim_elapsed()) {
            Some(elapsed) => write!(writer, "{:>8}", elapsed.as_millis()),
            None => write!(writer, "{:>8}", "-"),
        }
    }
}

/// Logs everything that happens in these seeds.
pub(crate) fn log(seeds: Seeds) -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_timer(Simulated)
        .with_ansi(false)
        .with_writer(std::io::stdout)
        .init();
    for seed in seeds.first..seeds.end {
        let outcome = Outer::run(Source::Seed(seed), Options::default());
        println!(
            "seed {seed}: {:016x} {} {:?}",
            outcome.hash, outcome.draws, outcome.failure
        );
    }
    std::io::stdout().flush()?;
    Ok(ExitCode::SUCCESS)
}
