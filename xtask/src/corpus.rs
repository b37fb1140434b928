//! `corpus`: the committed inputs of the fuzz targets, packed into one archive for each.
//!
//! The same inputs always give the same archive: entries are sorted, and have no times or owners.
//! So an archive changes in git only when its inputs do.

use crate::project::Project;
use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

const ARCHIVES: &str = "fuzz/corpus";
const UNPACKED: &str = "target/corpus";
/// How much of an input's digest is its name.
const NAME_BYTES: usize = 20;
/// The byte of the gzip header that says "unknown system".
const NO_SYSTEM: u8 = 255;

/// The inputs of a target, by the names of their files.
type Inputs = BTreeMap<String, Vec<u8>>;

/// Returns the path of the archive with the committed inputs of a target.
pub(crate) fn archive(project: &Project, target: &str) -> PathBuf {
    project.path(ARCHIVES).join(format!("{target}.tar.gz"))
}

/// Unpacks the committed inputs of a target, and returns the directory that now holds them and
/// nothing else.
pub(crate) fn unpack(project: &Project, target: &str) -> Result<PathBuf> {
    let inputs = read(&archive(project, target))?;
    let directory = project.path(UNPACKED).join(target);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    for (name, input) in inputs {
        fs::write(directory.join(name), input)?;
    }
    Ok(directory)
}

/// Makes the files of a directory the committed inputs of a target. Returns how many they are, and
/// their bytes.
pub(crate) fn pack(project: &Project, target: &str, directory: &Path) -> Result<(usize, usize)> {
    let mut inputs = Inputs::new();
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| anyhow::anyhow!("{} is no text", name.display()))?;
        inputs.insert(name, fs::read(entry.path())?);
    }
    write(&archive(project, target), &inputs)
}

/// Adds files to the committed inputs of a target, each under its digest. Returns how many inputs
/// there are then, and their bytes.
pub(crate) fn add(project: &Project, target: &str, files: &[PathBuf]) -> Result<(usize, usize)> {
    let archive = archive(project, target);
    let mut inputs = read(&archive)?;
    for file in files {
        let input = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        // Skip an input that is there under another name.
        if !inputs.values().any(|known| *known == input) {
            inputs.insert(digest(&input), input);
        }
    }
    write(&archive, &inputs)
}

fn digest(input: &[u8]) -> String {
    let digest = Sha256::digest(input);
    let bytes = digest.iter().take(NAME_BYTES);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn read(archive: &Path) -> Result<Inputs> {
    let bytes = fs::read(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    unpacked(&bytes).with_context(|| format!("cannot unpack {}", archive.display()))
}

fn write(archive: &Path, inputs: &Inputs) -> Result<(usize, usize)> {
    ensure!(!inputs.is_empty(), "a corpus has inputs");
    fs::write(archive, packed(inputs)?)?;
    Ok((inputs.len(), inputs.values().map(Vec::len).sum()))
}

fn unpacked(archive: &[u8]) -> Result<Inputs> {
    let mut inputs = Inputs::new();
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        // No entry may lead out of the directory into which it is unpacked.
        let is_plain = name.file_name() == Some(name.as_os_str());
        let name = name
            .to_str()
            .filter(|_| is_plain)
            .context("an entry has a path")?;
        let mut input = Vec::new();
        entry.read_to_end(&mut input)?;
        inputs.insert(name.to_owned(), input);
    }
    Ok(inputs)
}

fn packed(inputs: &Inputs) -> Result<Vec<u8>> {
    let gzip = GzBuilder::new().mtime(0).operating_system(NO_SYSTEM);
    let mut archive = tar::Builder::new(gzip.write(Vec::new(), Compression::best()));
    for (name, input) in inputs {
        let mut header = tar::Header::new_ustar();
        header.set_path(name)?;
        header.set_size(u64::try_from(input.len())?);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        archive.append(&header, input.as_slice())?;
    }
    let mut gzip = archive.into_inner()?;
    gzip.flush()?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_archive_is_packed_again_byte_by_byte() {
        let project = Project::locate().unwrap();
        let mut count = 0;
        for entry in fs::read_dir(project.path(ARCHIVES)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let inputs = unpacked(&bytes).unwrap();
            assert!(!inputs.is_empty());
            assert!(packed(&inputs).unwrap() == bytes, "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "there are corpora");
    }

    #[test]
    fn an_archive_depends_on_names_and_contents_alone() {
        let directory = tempfile::tempdir().unwrap();
        let inputs = Inputs::from(
            [("b", "2"), ("a", "1")]
                .map(|(name, input)| (name.to_owned(), input.as_bytes().to_vec())),
        );
        let archive = directory.path().join("x.tar.gz");
        assert_eq!(write(&archive, &inputs).unwrap(), (2, 2));
        let before = fs::read(&archive).unwrap();
        assert_eq!(read(&archive).unwrap(), inputs);
        write(&archive, &read(&archive).unwrap()).unwrap();
        assert_eq!(fs::read(&archive).unwrap(), before);
        assert!(write(&archive, &Inputs::new()).is_err());
    }

    #[test]
    fn an_entry_that_leads_elsewhere_is_refused() {
        for name in ["a/b", "x/../y"] {
            let inputs = Inputs::from([(name.to_owned(), Vec::new())]);
            let archive = packed(&inputs);
            assert!(
                archive.is_err() || unpacked(&archive.unwrap()).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn an_input_is_named_by_its_content() {
        assert_eq!(digest(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4");
    }
}
