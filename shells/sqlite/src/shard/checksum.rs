//! The checksum of a hot row. Its upper half covers everything but the frames, so that a row's
//! metadata can be checked without reading them. Its lower half covers the frames, and the upper
//! half covers the lower. The stream's number is part of it, so that a row of another stream is
//! noticed.

use crc32fast::Hasher;

/// Everything of a hot row but its frames.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) stream: u64,
    pub(super) segment: u64,
    pub(super) key: u64,
    pub(super) units: u64,
    pub(super) bytes_before: u64,
    pub(super) bytes: u64,
    pub(super) at: u64,
    pub(super) ends: Option<&'a [u8]>,
}

impl Place<'_> {
    /// Returns the checksum of a row with these frames.
    pub(super) fn checksum(&self, frames: &[u8]) -> u64 {
        self.with(crc32fast::hash(frames))
    }

    /// Returns whether the row's metadata is what was written.
    pub(super) fn matches(&self, checksum: u64) -> bool {
        self.with(lower(checksum)) == checksum
    }

    fn with(&self, frames: u32) -> u64 {
        let mut hasher = Hasher::new();
        let numbers = [
            self.stream,
            self.segment,
            self.key,
            self.units,
            self.bytes_before,
            self.bytes,
            self.at,
            u64::from(self.ends.is_some()),
            u64::from(frames),
        ];
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.ends.unwrap_or_default());
        u64::from(hasher.finalize()) << 32 | u64::from(frames)
    }
}

/// Returns whether these are the frames that a checksum was made for.
pub(super) fn frames_match(checksum: u64, frames: &[u8]) -> bool {
    crc32fast::hash(frames) == lower(checksum)
}

fn lower(checksum: u64) -> u32 {
    u32::try_from(checksum & u64::from(u32::MAX)).expect("32 bits are left")
}
