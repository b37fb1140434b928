//! Built libraries that clones of the project share.
//!
//! Most of the first build in a clone is libraries from registries. Once all tests have passed, the
//! libraries are kept in the cache of the user. `.ci/run` puts them into a clone that has built
//! nothing yet, if the clone has the same [`INPUTS`]. Cargo decides as always which of them it can
//! use. Members of the workspace are left out, because cargo finds out whether they have changed by
//! the times of their files, which mean nothing in another clone.
//!
//! What compilers write is linked, because they never change a file in place. Build scripts, and
//! cargo when it notes their results, may do so. So that is copied.

use crate::project::{Project, output};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// The files that say which libraries are built, and how. `.ci/run` has the same list.
const INPUTS: [&str; 4] = [
    ".cargo/config.toml",
    "Cargo.lock",
    "Cargo.toml",
    "rust-toolchain.toml",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

/// Keeps the libraries that this clone has built, in place of those of an earlier run. Returns how
/// many there are.
///
/// # Errors
/// When the cache cannot be written, or is on another file system than this clone.
pub(crate) fn keep(project: &Project) -> Result<usize> {
    let members = members(project)?;
    let cache = project.cache();
    fs::create_dir_all(&cache)?;
    let fresh = tempfile::tempdir_in(&cache)?;
    let mut inputs = Vec::new();
    for input in INPUTS {
        inputs.append(&mut fs::read(project.path(input))?);
    }
    fs::write(fresh.path().join("inputs"), inputs)?;
    let target = project.path("target");
    let mut count = 0;
    for build in builds(&target)? {
        let kept = Kept::of(fresh.path(), build.strip_prefix(&target)?);
        count += keep_libraries(&build, &kept, &members)?;
    }
    let kept = cache.join("libraries");
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::rename(fresh.keep(), kept)?;
    Ok(count)
}

/// Returns the names of the packages of the workspace.
fn members(project: &Project) -> Result<BTreeSet<String>> {
    let mut metadata = project.cargo();
    metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata = output(&mut metadata).context("cargo does not describe the workspace")?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    Ok(metadata.packages.into_iter().map(|it| it.name).collect())
}

/// Returns the directories that cargo has built into: one for each profile, and for each target
/// that was named.
fn builds(target: &Path) -> io::Result<Vec<PathBuf>> {
    let mut builds = Vec::new();
    let directories = WalkDir::new(target).min_depth(1).max_depth(2);
    for entry in directories.into_iter().filter_entry(|entry| {
        // Those of planted faults have the same libraries.
        entry.file_type().is_dir() && entry.file_name() != "planted-faults"
    }) {
        let directory = entry?.into_path();
        if directory.join(".fingerprint").exists() {
            builds.push(directory);
        }
    }
    Ok(builds)
}

/// Where the libraries of one build are kept.
struct Kept {
    linked: PathBuf,
    copied: PathBuf,
}

impl Kept {
    fn of(cache: &Path, build: &Path) -> Self {
        Self {
            linked: cache.join("linked").join(build),
            copied: cache.join("copied").join(build),
        }
    }
}

/// Keeps what was built of each library. Returns the number of libraries; one that was built in two
/// ways counts twice.
fn keep_libraries(build: &Path, kept: &Kept, members: &BTreeSet<String>) -> io::Result<usize> {
    let mut hashes = BTreeSet::new();
    for entry in fs::read_dir(build.join(".fingerprint"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some((package, hash)) = name.rsplit_once('-') else {
            continue;
        };
        if members.contains(package) {
            continue;
        }
        hashes.insert(hash.to_owned());
        for part in [".fingerprint", "build"] {
            let from = build.join(part).join(&name);
            if from.exists() {
                copy_directory(&from, &kept.copied.join(part).join(&name))?;
            }
        }
    }
    fs::create_dir_all(kept.linked.join("deps"))?;
    for entry in fs::read_dir(build.join("deps"))? {
        let entry = entry?;
        let name = entry.file_name();
        let stem = Path::new(&name).file_stem().unwrap_or(&name);
        let hash = stem.to_str().and_then(|stem| stem.rsplit_once('-'));
        if hash.is_some_and(|(_, hash)| hashes.contains(hash)) {
            fs::hard_link(entry.path(), kept.linked.join("deps").join(name))?;
        }
    }
    Ok(hashes.len())
}

/// Copies all files of a directory with their times.
fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let relative = entry.path().strip_prefix(from).expect("it is inside");
        let to = to.join(relative);
        if entry.file_type().is_dir() {
            fs::create_dir_all(to)?;
        } else {
            fs::copy(entry.path(), &to)?;
            let changed = entry.metadata()?.modified()?;
            File::options()
                .write(true)
                .open(to)?
                .set_modified(changed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_kept_without_members_of_the_workspace() -> Result<()> {
        let clone = tempfile::tempdir()?;
        let build = clone.path().join("debug");
        let files = [
            ".fingerprint/serde-0a/lib-serde",
            ".fingerprint/serde-json-0b/lib-serde-json",
            ".fingerprint/sim-0c/lib-sim",
            ".fingerprint/sim-turmoil-0d/lib-sim-turmoil",
            "build/serde-0a/out/private.rs",
            "build/sim-0c/output",
            "deps/libserde-0a.rlib",
            "deps/serde-0a.d",
            "deps/libserde_json-0b.rmeta",
            "deps/libsim-0c.rlib",
            "deps/sim_turmoil-0d",
            "deps/of_no_known_package-0e.rlib",
            "incremental/sim-0c/state",
            "xtask",
        ];
        for file in files {
            let file = build.join(file);
            fs::create_dir_all(file.parent().context("it has a parent")?)?;
            fs::write(file, "")?;
        }
        let cache = tempfile::tempdir()?;
        let kept = Kept::of(cache.path(), Path::new("debug"));
        let members = ["sim", "sim-turmoil"].map(str::to_owned).into();
        assert_eq!(builds(clone.path())?, [build.as_path()]);
        assert_eq!(keep_libraries(&build, &kept, &members)?, 2);
        let mut found = Vec::new();
        for entry in WalkDir::new(cache.path()).sort_by_file_name() {
            let path = entry?.into_path();
            if path.is_file() {
                let file = path.strip_prefix(cache.path())?;
                found.push(file.display().to_string());
                let of = build.join(file.iter().skip(2).collect::<PathBuf>());
                let modified = |file: &Path| fs::metadata(file)?.modified();
                assert_eq!(modified(&path)?, modified(&of)?);
            }
        }
        assert_eq!(
            found,
            [
                "copied/debug/.fingerprint/serde-0a/lib-serde",
                "copied/debug/.fingerprint/serde-json-0b/lib-serde-json",
                "copied/debug/build/serde-0a/out/private.rs",
                "linked/debug/deps/libserde-0a.rlib",
                "linked/debug/deps/libserde_json-0b.rmeta",
                "linked/debug/deps/serde-0a.d",
            ]
        );
        Ok(())
    }
}
