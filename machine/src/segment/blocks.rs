//! The checksums of the blocks of a body.

use crate::plan;

/// Computes the checksums of consecutive blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    block: u64,
    filled: u64,
    hasher: crc32fast::Hasher,
    checksums: Vec<u32>,
}

impl Blocks {
    pub(super) fn new(block: u64) -> Self {
        assert!(block > 0, "a block has at least one byte");
        Self {
            block,
            filled: 0,
            hasher: crc32fast::Hasher::new(),
            checksums: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = plan::at_most(self.block - self.filled, bytes.len());
            let (now, later) = bytes.split_at(room);
            self.hasher.update(now);
            self.filled += now.len() as u64;
            if self.filled == self.block {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        let hasher = core::mem::replace(&mut self.hasher, crc32fast::Hasher::new());
        self.checksums.push(hasher.finalize());
        self.filled = 0;
    }

    pub(super) fn finish(&mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.close();
        }
        core::mem::take(&mut self.checksums)
    }
}
