//! Fuzz targets. Each is a plain function of bytes that panics when an oracle is hurt, so that
//! libFuzzer (`src/bin`) can drive it, and an ordinary test replays what libFuzzer found worth
//! keeping (`corpus`).
#![forbid(unsafe_code)]

mod effects;
mod event_stream;
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

pub use json::json;
pub use name::name;
pub use offset::offset;
pub use request::request;
pub use row::row;
pub use segment::segment;
pub use sequence::{change_tape, sequence, sequence_on_sqlite};
pub use sse::sse;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    type Target = fn(&[u8]);

    fn replay(name: &str, target: Target) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let mut count = 0;
        for entry in fs::read_dir(&corpus).unwrap() {
            target(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }

    /// On both storages.
    #[test]
    fn sequence() {
        replay("sequence", crate::sequence_on_sqlite);
    }

    #[test]
    fn request() {
        replay("request", crate::request);
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
