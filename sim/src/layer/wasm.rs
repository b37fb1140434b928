//! The simulator in wasm: how it is built, and how it becomes small.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::root;

const TARGET: &str = "wasm32-unknown-unknown";

/// Makes a command of cargo in the workspace.
#[must_use]
pub fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut cargo = Command::new(cargo);
    cargo.current_dir(root());
    cargo
}

/// Builds the simulator for wasm, and returns the path of the module.
///
/// # Errors
/// When it does not build.
pub fn wasm_module() -> Result<PathBuf> {
    let arguments = [
        "rustc",
        "--quiet",
        "--package",
        "sim",
        "--lib",
        "--crate-type",
        "cdylib",
        "--profile",
        "sim",
        "--target",
        TARGET,
    ];
    let built = cargo().args(arguments).status();
    let built = built.context("cannot run cargo")?;
    ensure!(built.success(), "the wasm build failed");
    let directory =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(directory.join(TARGET).join("sim/sim.wasm"))
}

/// The magic number and the version of a module.
const HEADER_BYTES: usize = 8;
/// The id of sections that do not change what a module does, such as the names of its functions.
const CUSTOM: u8 = 0;

/// Returns a module without its custom sections.
///
/// # Errors
/// When it is not a module.
pub(super) fn stripped(module: &[u8]) -> Result<Vec<u8>> {
    ensure!(module.starts_with(b"\0asm"), "this is no wasm module");
    let header = module.get(..HEADER_BYTES).context("a module ends early")?;
    let mut kept = header.to_vec();
    let mut rest = &module[HEADER_BYTES..];
    while let [id, after @ ..] = rest {
        let (length, width) = leb128(after).context("a section has no length")?;
        let end = 1 + width + length;
        let section = rest.get(..end).context("a section ends early")?;
        if *id != CUSTOM {
            kept.extend_from_slice(section);
        }
        rest = &rest[end..];
    }
    Ok(kept)
}

/// Reads an unsigned number. Returns it and the number of its bytes.
fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_custom_sections_are_removed() {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        let header = module.clone();
        // A custom section of 130 bytes, whose length takes two bytes, and a section of types.
        module.extend([CUSTOM, 0x82, 0x01]);
        module.extend([7; 130]);
        module.extend([1, 1, 0]);
        let kept = [&header[..], &[1, 1, 0]].concat();
        assert_eq!(stripped(&module).unwrap(), kept);
        assert!(stripped(&module[..20]).is_err());
        assert!(stripped(b"text").is_err());
    }
}
