//! `browser`: opens the pages of this project in Chromium.

use crate::planted_faults::Simulator;
use crate::project::{Project, run};
use crate::setup;
use crate::suite::{Shell, Suite};
use anyhow::{Context as _, Result, ensure};
use std::ffi::OsStr;
use std::fs;
use std::process::ExitCode;

/// Where the pages under test are written.
const PAGES: &str = "target/browser";
/// The planted fault whose page is tested. Clients, objects, the cold tier and faults take part.
const PLANTED: &str = "036-same-key-twice";
/// Seeds without a failure.
const SEED: &str = "7";
const SEED_OF_FORKS: &str = "7";

/// Runs the tests. Then makes the images of the documentation if `images` is set.
pub(crate) fn browser(project: &Project, images: bool) -> Result<ExitCode> {
    let mut suite = Suite::new(project, "browser", Shell::Worker)?;
    setup::chromium(project)?;
    setup::wasm_target(project)?;
    let pages = project.path(PAGES);
    fs::create_dir_all(&pages)?;
    write_pages(project)?;
    suite.environment("BROWSER_PAGES", &pages.display().to_string());
    let tested = suite.run()?;
    if images {
        run(project
            .command("node")
            .arg("tests/browser/images.mjs")
            .arg(&pages))?;
    }
    Ok(tested)
}

/// Writes the report of each run as a page, and beside it what the native simulator prints of it.
fn write_pages(project: &Project) -> Result<()> {
    let clean = Simulator::clean(project)?;
    write_page(project, &clean, "clean", &[SEED.as_ref()])?;
    let forks = [SEED_OF_FORKS.as_ref(), "--forks".as_ref()];
    write_page(project, &clean, "forks", &forks)?;
    let (planted, tape) = Simulator::planted(project, PLANTED)?;
    write_found_page(project, &planted)?;
    write_page(project, &planted, "planted", &[tape.as_os_str()])
}

/// Lets the simulator with the planted fault find a seed that fails, as a run of many seeds does.
fn write_found_page(project: &Project, planted: &Simulator) -> Result<()> {
    let pages = project.path(PAGES);
    let found = tempfile::tempdir_in(&pages)?;
    let run = planted
        .command(project)
        .args(["run", "--seeds", "0..20000", "--jobs", "1", "--report"])
        .arg(found.path())
        .output()?;
    fs::write(pages.join("found.txt"), &run.stdout)?;
    ensure!(!run.status.success(), "no seed fails with {PLANTED}");
    let entries = fs::read_dir(found.path())?;
    let files = entries.collect::<Result<Vec<_>, _>>()?;
    let mut files = files.iter().map(fs::DirEntry::path);
    let page = files.find(|path| path.extension() == Some("html".as_ref()));
    let page = page.with_context(|| {
        let printed = String::from_utf8_lossy(&run.stdout);
        format!("the seed that fails has no page: {printed}")
    })?;
    fs::rename(page, pages.join("found.html"))?;
    Ok(())
}

fn write_page(
    project: &Project,
    simulator: &Simulator,
    name: &str,
    subject: &[&OsStr],
) -> Result<()> {
    let page = project.path(PAGES).join(name);
    let file = |extension| page.with_extension(extension);
    let replay = simulator
        .command(project)
        .arg("replay")
        .args(subject)
        .output();
    let replay = replay.context("cannot start the simulator")?;
    fs::write(file("txt"), replay.stdout)?;
    let report = simulator
        .command(project)
        .arg("report")
        .args(subject)
        .arg("--output")
        .arg(file("html"))
        .output()?;
    ensure!(
        report.status.success(),
        "there is no report of {name}: {}",
        String::from_utf8_lossy(&report.stderr)
    );
    print!("{}", String::from_utf8_lossy(&report.stdout));
    Ok(())
}
