//! `meta`: checks that a seed gives the same run in every process, storage and architecture.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use sim::layer::{Seeds, clock, repeats, wasm_module};
use sim::run::{self, Inner, Options};
use sim::storage;

pub(crate) fn meta(seeds: Seeds) -> Result<ExitCode> {
    step(seeds, "from their tapes", repeats::<Inner>)?;
    step(seeds, "in two processes", processes)?;
    step(seeds, "in ordered maps and in SQLite", storages)?;
    step(seeds, "native and in wasm", wasm)?;
    Ok(ExitCode::SUCCESS)
}

fn step(seeds: Seeds, name: &'static str, compare: impl Fn(Seeds) -> Result<()>) -> Result<()> {
    let Seeds { first, end } = seeds;
    let start = clock();
    compare(seeds).context(name)?;
    println!(
        "seeds {first}..{end} are the same {name} ({:.1} s)",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn processes(seeds: Seeds) -> Result<()> {
    let hashes = || -> Result<String> {
        let program = std::env::current_exe()?;
        let output = Command::new(program)
            .args(["hashes", &format!("{}..{}", seeds.first, seeds.end)])
            .output()?;
        ensure!(output.status.success(), "the other process failed");
        Ok(String::from_utf8(output.stdout)?)
    };
    let (one, other) = (hashes()?, hashes()?);
    if let Some((one, other)) = one
        .lines()
        .zip(other.lines())
        .find(|(one, other)| one != other)
    {
        bail!("{one} and then {other}");
    }
    ensure!(
        one.lines().count() == other.lines().count(),
        "one process ended early"
    );
    Ok(())
}

fn storages(seeds: Seeds) -> Result<()> {
    for seed in seeds.first..seeds.end {
        let map = run::seed::<Inner>(seed, Options::default());
        let sqlite = run::seed::<Inner>(
            seed,
            Options {
                storage: storage::Kind::Sqlite,
                ..Options::default()
            },
        );
        ensure!(
            map.hash == sqlite.hash,
            "seed {seed}: {:016x} and then {:016x}",
            map.hash,
            sqlite.hash
        );
        ensure!(
            sqlite.failure.is_none(),
            "seed {seed}: {:?}",
            sqlite.failure
        );
    }
    Ok(())
}

/// Runs in Node, and prints one hash of all.
const SCRIPT: &str = "
const { readFileSync } = require('node:fs');
const [path, first, count] = process.argv.slice(1);
WebAssembly.instantiate(readFileSync(path), {}).then(({ instance }) => {
  const hash = instance.exports.combined_hash(BigInt(first), BigInt(count));
  console.log(BigInt.asUintN(64, hash).toString(16).padStart(16, '0'));
});
";

fn wasm(seeds: Seeds) -> Result<()> {
    let native = run::combined_hash(seeds.first, seeds.end - seeds.first);
    let module = wasm_module()?;
    let (first, count) = (
        seeds.first.to_string(),
        (seeds.end - seeds.first).to_string(),
    );
    let output = Command::new("node")
        .args(["-e", SCRIPT])
        .arg(module)
        .args([first, count])
        .output()
        .context("cannot run node")?;
    ensure!(
        output.status.success(),
        "node failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let wasm = String::from_utf8(output.stdout)?;
    let native = format!("{native:016x}");
    ensure!(wasm.trim() == native, "native {native}, in wasm {wasm}");
    Ok(())
}

pub(crate) fn hashes(seeds: Seeds) -> Result<ExitCode> {
    for seed in seeds.first..seeds.end {
        let outcome = run::seed::<Inner>(seed, Options::default());
        println!("{seed} {:016x} {}", outcome.hash, outcome.draws);
    }
    Ok(ExitCode::SUCCESS)
}
