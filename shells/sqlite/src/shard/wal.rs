//! Looks at the log of a database before SQLite does (the format is that of
//! <https://sqlite.org/fileformat2.html#walformat>), and makes what it shows durable.
//!
//! SQLite reads a log up to the first frame whose checksum does not match, and drops all frames
//! after it without a word. That is right for the end of the log: a power cut leaves a part of the
//! last commit. But each commit is synced before the next one is written. So if a frame does not
//! match and two commits end at it or after it, the first of them was durable, and the disk has
//! changed it. The rest of the log must not be dropped then.
//!
//! Damage to the last commit, or to the frame that ends the last but one, looks like a power cut.
//! This check cannot notice it.
//!
//! After a sync has failed, the system shows a log that is not the one on the disk. SQLite would
//! move all of it into the file. A power cut before the empty log is on the disk brings the log
//! back as far as it was written. SQLite then puts its older pages over the newer ones of the file.
//! So the log is written once more before SQLite opens it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// How much of the log is written again at once.
const PART_BYTES: usize = 1 << 20;
/// The first word of a log. In the other byte order of checksums its last bit is set.
const MAGIC: u32 = 0x377f_0682;

/// The cumulative checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum {
    low: u32,
    high: u32,
    is_big_endian: bool,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks_exact(8) {
            let word = |at: usize| {
                let word = [pair[at], pair[at + 1], pair[at + 2], pair[at + 3]];
                if self.is_big_endian {
                    u32::from_be_bytes(word)
                } else {
                    u32::from_le_bytes(word)
                }
            };
            let (first, second) = (word(0), word(4));
            self.low = self.low.wrapping_add(first).wrapping_add(self.high);
            self.high = self.high.wrapping_add(second).wrapping_add(self.low);
        }
    }

    fn is(self, bytes: &[u8], at: usize) -> bool {
        self.low == number(bytes, at) && self.high == number(bytes, at + 4)
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    u32::from_be_bytes(word.expect("headers have a fixed length"))
}

/// Returns the path of the log of the database at `path`.
pub(super) fn of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    PathBuf::from(log)
}

/// Checks the log of the database at `path`, if there is one, and makes it durable as it is shown.
/// Nobody else writes to it.
///
/// # Errors
/// When a part of it that was durable has changed; nothing is written then. Or when it may not be
/// durable.
pub(super) fn settle(path: &Path) -> Result<(), OpenError> {
    let log = of(path);
    let failed = |error: io::Error| OpenError::NotThis(format!("{}: {error}", log.display()));
    match damaged_frame(path, &log) {
        Ok(None) => write_again(&log).map_err(failed),
        Ok(Some(frame)) => Err(OpenError::NotThis(format!(
            "its log {} is damaged at frame {frame}, and later commits follow; \
             restore it from a backup",
            log.display()
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Writes each part of a file to its own place, and syncs the file. A sync alone would skip what
/// the system takes for written.
fn write_again(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut part = vec![0; PART_BYTES];
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let length = file.read(&mut part)?;
        if length == 0 {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&part[..length])?;
        at += length as u64;
    }
    file.sync_all()
}

/// Returns the number of the first frame that does not match although two commits end at it or
/// after it. The header counts as frame 0.
fn damaged_frame(path: &Path, log: &Path) -> io::Result<Option<u64>> {
    let mut log = BufReader::with_capacity(1 << 16, File::open(log)?);
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut log, &mut header)? {
        return Ok(None);
    }
    let mut sum = Sum {
        low: 0,
        high: 0,
        is_big_endian: number(&header, 0) == MAGIC | 1,
    };
    sum.add(&header[..24]);
    let mut damaged = (!sum.is(&header, 24)).then_some(0);
    // Without a header that can be trusted, the frames say which log they are of.
    let mut salts = damaged.is_none().then(|| header[16..24].to_vec());
    let page_bytes = page_bytes(path)?;
    let (mut page, mut ends) = (vec![0; page_bytes], 0);
    let mut frame = [0; FRAME_HEADER_BYTES];
    for at in 1.. {
        if !fill(&mut log, &mut frame)? || !fill(&mut log, &mut page)? {
            break;
        }
        let salts = salts.get_or_insert_with(|| frame[8..16].to_vec());
        let is_of_log = frame[8..16] == **salts && number(&frame, 0) > 0;
        if damaged.is_none() {
            sum.add(&frame[..8]);
            sum.add(&page);
            damaged = (!is_of_log || !sum.is(&frame, 16)).then_some(at);
        }
        let is_end = number(&frame, 4) > 0;
        ends += u64::from(damaged.is_some() && is_of_log && is_end);
        if ends >= 2 {
            return Ok(damaged);
        }
    }
    Ok(None)
}

/// Fills a buffer. Returns whether there was enough to read.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// Reads the size of the database's pages.
fn page_bytes(path: &Path) -> io::Result<usize> {
    const SIZE_AT: usize = 16;
    let mut header = [0; SIZE_AT + 2];
    if !fill(&mut File::open(path)?, &mut header)? {
        return Ok(4_096);
    }
    Ok(
        match u16::from_be_bytes([header[SIZE_AT], header[SIZE_AT + 1]]) {
            1 => 1 << 16,
            bytes => usize::from(bytes.max(512)),
        },
    )
}
