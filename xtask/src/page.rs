//! The build of the admin page, which both shells serve.

use crate::project::{Project, run};
use crate::setup;
use anyhow::{Context as _, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;
use walkdir::WalkDir;

/// The limit on what a browser loads, compressed.
const GZIP_BYTES_MAX: u64 = 150_000;
const OUTPUT: &str = "admin/dist";
const SOURCES: [&str; 4] = [
    "admin/build.mjs",
    "admin/index.html",
    "admin/src",
    "package-lock.json",
];

/// Builds the page if its sources have changed. Prints its size, and fails if it is too large.
pub(crate) fn build(project: &Project) -> Result<()> {
    fs::create_dir_all(project.path("target"))?;
    // Both shells can be built at once.
    let lock = File::create(project.path("target/admin-page.lock"))?;
    lock.lock()?;
    let newest = newest_source(project)?;
    let output = project.path(OUTPUT);
    let index = output.join("index.html");
    let built = fs::metadata(&index).and_then(|metadata| metadata.modified());
    if built.ok() != Some(newest) {
        setup::node_packages(project)?;
        run(project.command("node").arg("admin/build.mjs").arg(&output))?;
        // A source that changes during the build is then newer.
        File::options()
            .write(true)
            .open(&index)?
            .set_modified(newest)?;
    }
    let bytes = gzip_bytes(&output)?;
    println!("admin page: {bytes} bytes compressed, {GZIP_BYTES_MAX} allowed");
    ensure!(bytes < GZIP_BYTES_MAX, "the admin page is too large");
    Ok(())
}

/// Builds a page with a link to the report of a simulation.
pub(crate) fn build_linked(project: &Project, output: &Path, report: &str) -> Result<()> {
    run(project
        .command("node")
        .arg("admin/build.mjs")
        .arg(output)
        .env("SIMULATION_REPORT", report))
}

fn newest_source(project: &Project) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for source in SOURCES {
        for entry in WalkDir::new(project.path(source)) {
            newest = newest.max(entry?.metadata()?.modified()?);
        }
    }
    Ok(newest)
}

fn gzip_bytes(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in WalkDir::new(directory) {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        let content = fs::read(entry.path())
            .with_context(|| format!("cannot read {}", entry.path().display()))?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&content)?;
        total += encoder.finish()?.len() as u64;
    }
    Ok(total)
}
