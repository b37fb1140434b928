//! Puts the files of the admin page into the program, if `cargo xtask build` has built them. The
//! server itself must not need Node.js.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> Result<(), Box<dyn Error>> {
    let source = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../admin");
    let built = source.join("dist");
    println!("cargo::rerun-if-changed=build.rs");
    // A path that does not exist would count as changed each time. The copies of this crate in
    // which faults are planted have no page.
    if let Some(watched) = [&built, &source].into_iter().find(|path| path.exists()) {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    let output = PathBuf::from(env::var("OUT_DIR")?);
    let mut entries = Vec::new();
    for directory in ["", "assets/"] {
        for (name, path) in files(&built.join(directory))? {
            // The page can be built again while the server is compiled.
            let copy = output.join(&name);
            fs::copy(path, &copy)?;
            entries.push(format!(
                "({:?}, include_bytes!({copy:?}).as_slice())",
                format!("{directory}{name}"),
            ));
        }
    }
    let table = format!(
        "/// The files of the page, by their paths.\nstatic FILES: &[(&str, &[u8])] = &[{}];\n",
        entries.join(", ")
    );
    fs::write(output.join("page.rs"), table)?;
    Ok(())
}

/// Returns the files of a directory, in the order of their names. A missing directory has no files.
fn files(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}
