//! Copies of the workspace in which something is changed.

use crate::project::Project;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Copies these members, and makes them a workspace of their own. Leaves equal files alone, so that
/// they are not built again.
pub(crate) fn copy(project: &Project, members: &[&str], to: &Path) -> Result<()> {
    for part in members.iter().copied().chain(["migrations"]) {
        copy_files(&project.path(part), &to.join(part))?;
    }
    let manifest = fs::read_to_string(project.path("Cargo.toml"))?;
    let members = |line: &str| {
        if line.starts_with("members = ") {
            format!("members = {members:?}")
        } else {
            line.to_owned()
        }
    };
    let others = |line: &&str| !line.starts_with("default-members = ");
    let manifest: Vec<_> = manifest.lines().filter(others).map(members).collect();
    fs::write(to.join("Cargo.toml"), manifest.join("\n"))?;
    fs::copy(project.path("Cargo.lock"), to.join("Cargo.lock"))?;
    Ok(())
}

/// Makes a directory the copy of another, except for corpora. Writes only the files that differ.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && !from.join(entry.file_name()).exists() {
            fs::remove_file(entry.path())?;
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() == "corpus" {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            let content = fs::read(entry.path())?;
            if fs::read(&target).ok().as_ref() != Some(&content) {
                fs::write(target, content)?;
            }
        }
    }
    Ok(())
}

/// Applies a patch to a workspace.
pub(crate) fn apply(patch: &str, workspace: &Path) -> Result<()> {
    git_apply(patch, workspace, &[])
}

/// Checks that a patch applies to a workspace. Changes nothing.
pub(crate) fn check(patch: &str, workspace: &Path) -> Result<()> {
    git_apply(patch, workspace, &["--check"])
}

fn git_apply(patch: &str, workspace: &Path, options: &[&str]) -> Result<()> {
    let mut git = Command::new("git")
        .arg("apply")
        .args(options)
        .arg("-")
        .current_dir(workspace)
        // The copy can be inside the project's own repository, which would ignore the patch.
        .env(
            "GIT_CEILING_DIRECTORIES",
            workspace.parent().unwrap_or(workspace),
        )
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run git")?;
    let mut input = git.stdin.take().context("git has no input")?;
    input.write_all(patch.as_bytes())?;
    drop(input);
    let applied = git.wait_with_output()?;
    let reason = String::from_utf8_lossy(&applied.stderr);
    ensure!(applied.status.success(), "{reason}");
    Ok(())
}
