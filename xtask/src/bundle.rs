//! `build`: makes the two files that the runtime loads from the crate and its JavaScript entry.

use crate::project::{Project, run};
use crate::setup;
use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use walkdir::WalkDir;

const MODULE: &str = "index.js";
const WASM: &str = "index_bg.wasm";

/// Features of the shells that are never deployed.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Feature {
    /// Requests can ask for a panic, a reset and the counters of an object
    TestRoutes,
}

impl Feature {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TestRoutes => "test-routes",
        }
    }
}

/// A way to build the Worker.
struct Variant {
    feature: Option<Feature>,
    /// The directory that worker-build fills. wrangler.toml reaches that of a deployment only, so
    /// that no other variant can be deployed.
    generated: PathBuf,
    bundle: PathBuf,
}

impl Variant {
    fn new(project: &Project, feature: Option<Feature>) -> Self {
        let (generated, bundle) = match feature {
            None => ("shells/worker/build", "target/worker"),
            Some(Feature::TestRoutes) => ("target/worker-test-build", "target/worker-test"),
        };
        Self {
            feature,
            generated: project.path(generated),
            bundle: project.path(bundle),
        }
    }
}

/// When the newest file of each kind was changed.
struct Sources {
    of_crate: SystemTime,
    of_entry: SystemTime,
}

/// What worker-build enables, too. Encodings beyond these may be unknown to the platform.
const WASM_FEATURES: [&str; 7] = [
    "mutable-globals",
    "sign-ext",
    "nontrapping-float-to-int",
    "bulk-memory",
    "multivalue",
    "reference-types",
    "exception-handling",
];

pub(crate) fn build(project: &Project, feature: Option<Feature>) -> Result<()> {
    let variant = Variant::new(project, feature);
    // Two builds can run at once: one from the command line, and one that wrangler starts when a
    // file changes.
    fs::create_dir_all(project.path("target"))?;
    let lock = File::create(variant.bundle.with_extension("lock"))?;
    lock.lock()?;

    let sources = Sources::find(project)?;
    if !has_outputs_since(&variant.generated, sources.of_crate) {
        compile(project, &variant)?;
        mark_outputs(&variant.generated, sources.of_crate)?;
    }
    let newest = sources.of_crate.max(sources.of_entry);
    if !has_outputs_since(&variant.bundle, newest) {
        assemble(project, &variant)?;
        mark_outputs(&variant.bundle, newest)?;
    }
    report(&variant)
}

/// Returns the compressed size of the deployed bundle, to which a Worker's size limit applies.
pub(crate) fn deployed_gzip_bytes(project: &Project) -> Result<u64> {
    gzip_bytes(&Variant::new(project, None).bundle)
}

fn compile(project: &Project, variant: &Variant) -> Result<()> {
    let tools = setup::build_tools(project)?;
    setup::node_packages(project)?;
    let mut command = project.outside_cargo(&tools.worker_build);
    command
        .current_dir(project.path("shells/worker"))
        // Without these three, worker-build downloads its own programs.
        .env("WASM_BINDGEN_BIN", &tools.wasm_bindgen)
        .env("ESBUILD_BIN", project.npm_program("esbuild"))
        .env("WASM_OPT_BIN", project.npm_program("wasm-opt"))
        .args(["--release", "--out-dir"])
        .arg(&variant.generated);
    if let Some(feature) = variant.feature {
        command.args(["--features", feature.name()]);
    }
    run(&mut command)?;
    declare(project, &tools.wasm_bindgen, variant)
}

/// Writes the declarations that the JavaScript code is checked against, because worker-build drops
/// them.
fn declare(project: &Project, wasm_bindgen: &Path, variant: &Variant) -> Result<()> {
    let directory = project.path("target/worker-declarations");
    let wasm = format!(
        "target/{}/release/durable_streams_worker.wasm",
        setup::WASM_TARGET
    );
    run(project
        .command(wasm_bindgen)
        .args(["--target", "bundler", "--out-dir"])
        .arg(&directory)
        .arg(wasm))?;
    let declarations = directory.join("durable_streams_worker.d.ts");
    fs::copy(declarations, variant.generated.join("index.d.ts"))?;
    Ok(())
}

fn assemble(project: &Project, variant: &Variant) -> Result<()> {
    setup::node_packages(project)?;
    // It is made beside its place and moved there whole, so that a server which starts meanwhile
    // finds the old bundle or the new one.
    let fresh = variant.bundle.with_extension("new");
    remove_directory(&fresh)?;
    fs::create_dir_all(&fresh)?;
    run(project
        .command("node")
        .arg("xtask/bundle.mjs")
        .arg(project.path("shells/worker/js/entry.mjs"))
        .arg(&variant.generated)
        .arg(fresh.join(MODULE)))?;
    // worker-build keeps the names of the functions, which make the bundle larger. A panic names
    // its file and line without them.
    run(project
        .command(project.npm_program("wasm-opt"))
        .args(WASM_FEATURES.map(|feature| format!("--enable-{feature}")))
        .arg("--strip-debug")
        .arg(variant.generated.join(WASM))
        .arg("--output")
        .arg(fresh.join(WASM)))?;
    remove_directory(&variant.bundle)?;
    fs::rename(&fresh, &variant.bundle)?;
    Ok(())
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn report(variant: &Variant) -> Result<()> {
    let wasm = fs::metadata(variant.bundle.join(WASM))?.len();
    println!(
        "{}: wasm {} KB, compressed with {MODULE} {} KB",
        variant
            .bundle
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
        wasm.div_ceil(1000),
        gzip_bytes(&variant.bundle)?.div_ceil(1000),
    );
    Ok(())
}

fn gzip_bytes(bundle: &Path) -> Result<u64> {
    let mut total = 0;
    for file in [MODULE, WASM] {
        let path = bundle.join(file);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&content)?;
        total += encoder.finish()?.len() as u64;
    }
    Ok(total)
}

impl Sources {
    fn find(project: &Project) -> Result<Self> {
        let mut sources = Self {
            of_crate: SystemTime::UNIX_EPOCH,
            of_entry: SystemTime::UNIX_EPOCH,
        };
        for source in [
            "Cargo.toml",
            "Cargo.lock",
            "package-lock.json",
            "rust-toolchain.toml",
            ".cargo/config.toml",
            "machine",
            "shells/worker",
            "xtask/bundle.mjs",
            "xtask/src/bundle.rs",
        ] {
            let entries = WalkDir::new(project.path(source))
                .into_iter()
                .filter_entry(|entry| !(entry.depth() == 1 && entry.file_name() == "build"));
            for entry in entries {
                let entry = entry?;
                // A directory changes when a file in it is deleted. The topmost one also changes
                // when a build writes into it.
                if entry.depth() == 0 && entry.file_type().is_dir() {
                    continue;
                }
                let changed = entry.metadata()?.modified()?;
                let kind = if entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "mjs")
                {
                    &mut sources.of_entry
                } else {
                    &mut sources.of_crate
                };
                *kind = changed.max(*kind);
            }
        }
        Ok(sources)
    }
}

fn has_outputs_since(directory: &Path, time: SystemTime) -> bool {
    [MODULE, WASM].iter().all(|file| {
        let modified = fs::metadata(directory.join(file)).and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified >= time)
    })
}

/// Gives the outputs the time of the sources that they were made from. A source that changes during
/// a build is then newer.
fn mark_outputs(directory: &Path, time: SystemTime) -> io::Result<()> {
    for file in [MODULE, WASM] {
        File::options()
            .write(true)
            .open(directory.join(file))?
            .set_modified(time)?;
    }
    Ok(())
}
