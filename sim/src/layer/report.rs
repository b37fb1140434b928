//! `report`: writes one page that replays a run in a browser, with the simulator in wasm inside.
//!
//! The page needs no server and reaches no network: its Content-Security-Policy forbids both. It
//! shows that its own hash of the run equals the one that was computed here.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::wasm::{stripped, wasm_module};
use super::{Layer, Subject};
use crate::oracles::Oracle;
use crate::report::{Shown, World, replay};
use crate::run::Options;

const PAGE: &str = include_str!("../../report/page.html");
const STYLE: &str = include_str!("../../report/page.css");
/// The modules of the page, each behind those that it imports.
const MODULES: [&str; 6] = [
    include_str!("../../report/dom.mjs"),
    include_str!("../../report/simulator.mjs"),
    include_str!("../../report/difference.mjs"),
    include_str!("../../report/timeline.mjs"),
    include_str!("../../report/events.mjs"),
    include_str!("../../report/page.mjs"),
];

/// What the page knows about its run.
#[derive(Serialize)]
struct Run<'a> {
    name: &'a str,
    /// The arguments of `cargo sim` that select the world.
    flag: &'static str,
    world: u32,
    tape: String,
    /// The hash that this process computed.
    hash: String,
    /// The last event that the hash covers. A run that panics in wasm leaves no hash, so that the
    /// hash before the panic is compared.
    until: u64,
    events: u64,
    failure: Option<Shown>,
}

/// Writes the page of a seed or tape.
///
/// # Errors
/// When no page can replay this layer, the simulator does not build, or a file cannot be read or
/// written.
pub fn report<L: Layer>(what: &Subject, output: &Path) -> Result<ExitCode> {
    let outcome = what.run::<L>(Options::default())?;
    let name = match what {
        Subject::Seed(seed) => format!("seed {seed}"),
        Subject::Tape(path) => path.display().to_string(),
    };
    println!("{}", write_page::<L>(&name, &outcome.tape, output)?);
    Ok(ExitCode::SUCCESS)
}

/// Writes the page of a tape, and returns a line about it.
pub(super) fn write_page<L: Layer>(name: &str, tape: &[u8], output: &Path) -> Result<String> {
    let Some(world) = L::PAGE else {
        bail!("a page cannot replay the outer layer");
    };
    let module = std::fs::read(wasm_module()?).context("cannot read the simulator in wasm")?;
    let run = Run::of::<L>(name, world, tape);
    let page = page(&run, &stripped(&module)?)?;
    if let Some(directory) = output.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(output, &page).with_context(|| format!("cannot write {}", output.display()))?;
    let verdict = match &run.failure {
        None => "holds".to_owned(),
        Some(failure) => format!("fails at event {} ({})", failure.event, failure.oracle),
    };
    Ok(format!(
        "{}: {name} {verdict}, {} events, hash {}, {} KB",
        output.display(),
        run.events,
        run.hash,
        page.len().div_ceil(1000)
    ))
}

impl<'a> Run<'a> {
    fn of<L: Layer>(name: &'a str, world: World, tape: &[u8]) -> Self {
        let whole = replay(world, tape, u64::MAX);
        let panic = whole
            .failure
            .as_ref()
            .filter(|failure| failure.oracle == Oracle::Panic.name());
        let (until, hash) = match panic {
            None => (whole.events, whole.hash),
            Some(failure) => {
                let until = failure.event.saturating_sub(1);
                (until, replay(world, tape, until).hash)
            }
        };
        Self {
            name,
            flag: L::FLAG,
            world: world.number(),
            tape: STANDARD.encode(tape),
            hash,
            until,
            events: whole.events,
            failure: whole.failure,
        }
    }
}

/// Returns the page.
fn page(run: &Run<'_>, module: &[u8]) -> Result<String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(module)?;
    let module = STANDARD.encode(encoder.finish()?);
    // Nothing in a text of the run may end the element that holds it.
    let run = serde_json::to_string(run)?.replace('<', "\\u003c");
    let script = script();
    let parts = [
        ("{{script-hash}}", source_hash(&script)),
        ("{{style-hash}}", source_hash(STYLE)),
        ("{{style}}", STYLE.to_owned()),
        ("{{run}}", run),
        ("{{simulator}}", module),
        ("{{script}}", script),
    ];
    let mut page = String::new();
    let mut rest = PAGE;
    for (marker, content) in parts {
        let (before, after) = rest
            .split_once(marker)
            .with_context(|| format!("the page has no {marker}"))?;
        page.push_str(before);
        page.push_str(&content);
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

/// Joins the modules into one script, because a page without a server cannot load modules.
fn script() -> String {
    let mut script = String::new();
    for line in MODULES.iter().flat_map(|module| module.lines()) {
        if line.starts_with("import ") {
            continue;
        }
        script.push_str(line.strip_prefix("export ").unwrap_or(line));
        script.push('\n');
    }
    script
}

/// Returns how a Content-Security-Policy names a script or a style.
fn source_hash(content: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(content)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Inner, seed};

    #[test]
    fn no_text_of_a_run_ends_the_element_that_holds_it() {
        let tape = seed::<Inner>(1, Options::default()).tape;
        let run = Run::of::<Inner>("</script><script>alert(1)</script>", World::Stream, &tape);
        let page = page(&run, b"module").unwrap();
        assert!(!page.contains("<script>alert"));
        assert!(page.contains("\\u003c/script>\\u003cscript>alert(1)"));
    }

    #[test]
    fn the_script_is_free_of_what_only_modules_may_have() {
        let script = script();
        assert!(!script.lines().any(|line| line.starts_with("import ")));
        assert!(!script.lines().any(|line| line.starts_with("export ")));
        assert!(!script.contains("</script"));
    }
}
