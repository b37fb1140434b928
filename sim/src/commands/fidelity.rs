//! `fidelity`: the results of tiny programs on a simulated object. A test compares them with the
//! results on a real one.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use sim::fidelity::{Program, everything_seen};

pub(crate) fn fidelity(programs: &Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(programs)
        .with_context(|| format!("cannot read {}", programs.display()))?;
    let programs: Vec<Program> = serde_json::from_str(&text)?;
    let mut seen = BTreeMap::new();
    for program in &programs {
        let everything =
            everything_seen(program).map_err(|reason| anyhow!("{}: {reason}", program.name))?;
        seen.insert(&program.name, everything);
    }
    println!("{}", serde_json::to_string_pretty(&seen)?);
    Ok(ExitCode::SUCCESS)
}
