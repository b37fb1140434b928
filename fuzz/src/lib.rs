//! Fuzz targets. Each is a plain function of bytes that panics when an oracle fails. libFuzzer
//! (`src/bin`) drives it, and an ordinary test replays the inputs that libFuzzer kept (`corpus`,
//! packed by `cargo xtask corpus`).
#![forbid(unsafe_code)]

mod effects;
mod event_stream;
mod forks;
mod grammar;
mod json;
mod name;
mod object;
mod offset;
mod request;
mod row;
mod segment;
mod sequence;
mod sse;
mod subscription;
mod token;

pub use forks::forks;
pub use json::json;
pub use name::name;
pub use offset::offset;
pub use request::request;
pub use row::row;
pub use segment::segment;
pub use sequence::{change_tape, sequence, sequence_on_sqlite};
pub use sse::sse;
pub use subscription::subscription;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::path::Path;

    use flate2::read::GzDecoder;
    use tar::Archive;

    type Target = fn(&[u8]);

    fn replay(name: &str, target: Target) {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name)
            .with_extension("tar.gz");
        let mut count = 0;
        let mut inputs = Archive::new(GzDecoder::new(File::open(archive).unwrap()));
        for input in inputs.entries().unwrap() {
            let mut bytes = Vec::new();
            input.unwrap().read_to_end(&mut bytes).unwrap();
            target(&bytes);
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }

    /// Names both storages of a run.
    #[test]
    fn sequence() {
        replay("sequence", crate::sequence_on_sqlite);
    }

    #[test]
    fn forks() {
        replay("forks", crate::forks);
    }

    #[test]
    fn request() {
        replay("request", crate::request);
    }

    #[test]
    fn subscription() {
        replay("subscription", crate::subscription);
    }

    #[test]
    fn json() {
        replay("json", crate::json);
    }

    #[test]
    fn offset() {
        replay("offset", crate::offset);
    }

    #[test]
    fn sse() {
        replay("sse", crate::sse);
    }

    #[test]
    fn row() {
        replay("row", crate::row);
    }

    #[test]
    fn segment() {
        replay("segment", crate::segment);
    }

    #[test]
    fn name() {
        replay("name", crate::name);
    }
}
