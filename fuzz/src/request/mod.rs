//! Requests as they come over the wire: hostile heads and bodies, through the router and the parser
//! to streams.
//!
//! The input is text with a record separator (0x1E) between its records. The first record has the
//! operator's variables, one `NAME=value` in each line, and settings that no operator can make
//! ([`SWITCHES`], [`NUMBERS`]). Each other record is a request without its version: `METHOD /path`,
//! header lines, an empty line, and the body.
//!
//! Some records are commands. `SLEEP 5000` ends all instances and lets 5,000 milliseconds pass.
//! `WAIT 5000` only lets them pass. `FAIL 3` lets the storage fail after three reads in the next
//! turn. `DONE 1`, or another [`Outcome`], is the outcome of the second effect under way, and
//! `ANSWERED 404` that of the first message.

mod server;
pub(crate) mod stream;
pub(crate) mod wire;

use std::sync::Arc;

use machine::router::Settings;
use machine::{Limits, Millis};

use server::Server;
use wire::Request;

const RECORD_SEPARATOR: u8 = 0x1e;
const BEGINNING: Millis = Millis(1_800_000_000_000);
/// Reading back costs a turn for each page.
const PAGES_MAX: usize = 1_000;
/// After this many rounds everything is stored and reported, unless it fails for ever.
const ROUNDS_MAX: usize = 50;
/// The greatest number of alarms of one object in one pause.
const ALARMS_MAX: usize = 10;

type Switch = fn(&mut Limits) -> &mut bool;

/// On if the variable is `1`.
const SWITCHES: [(&str, Switch); 3] = [
    ("COLD", |limits| &mut limits.cold),
    ("REGISTRY", |limits| &mut limits.registry),
    ("INDEX", |limits| &mut limits.index),
];

/// Fields of the limits that no operator sets. A value outside of the range is the nearest one.
const NUMBERS: [(&str, &str); 10] = [
    ("PAGE_PARTS_MAX", "page_parts_max"),
    ("ROW_BYTES_MAX", "row_bytes_max"),
    ("COLLECT_KEYS_MAX", "collect_keys_max"),
    ("FRAME_BYTES_MAX", "frame_bytes_max"),
    ("FORK_TIME_MS", "fork_time_ms"),
    ("FORKS_MAX", "forks_max"),
    ("FORK_DEPTH_MAX", "fork_depth_max"),
    ("FORK_SEGMENTS_MAX", "fork_segments_max"),
    ("MANIFEST_BYTES_MAX", "manifest_bytes_max"),
    ("APPENDS_READ_MAX", "appends_read_max"),
];
/// Smaller rows would make too many of one message.
const ROW_BYTES_MIN: u64 = 16;

/// Sends the requests to the streams that they name.
///
/// # Panics
/// When an answer breaks a rule of all answers, a call changes when it is printed and parsed again,
/// a refusal stores something, or a stream loses content.
pub fn request(input: &[u8]) {
    let mut records = input.split(|byte| *byte == RECORD_SEPARATOR);
    let variables = latin(records.next().unwrap_or_default());
    let variable = |name: &str| {
        let mut lines = variables.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(each, _)| *each == name)
            .map(|(_, value)| value.to_owned())
    };
    let Ok(mut settings) = Settings::read(&variable) else {
        return;
    };
    // The target `subscription` has servers with them.
    let limits = Arc::make_mut(&mut settings.limits);
    limits.subscriptions = false;
    limits.metrics = true;
    for (name, switch) in SWITCHES {
        *switch(limits) |= variable(name).as_deref() == Some("1");
    }
    for (name, field) in NUMBERS {
        if let Some(value) = variable(name).and_then(|value| value.parse::<u64>().ok()) {
            let row = Limits::row(field);
            (row.set)(limits, value.clamp(row.least, row.greatest));
        }
    }
    let row_bytes_max = &mut limits.row_bytes_max;
    *row_bytes_max = (*row_bytes_max).max(ROW_BYTES_MIN);
    let mut server = Server::new(settings, BEGINNING);
    for record in records {
        if !server.direct(record)
            && let Some(request) = Request::read(record)
        {
            server.take(&request);
        }
    }
    server.read_all();
    let is_quiet = server.settle();
    if is_quiet {
        server.check_answered();
    }
    server.read_all();
    if is_quiet {
        server.check_leftovers();
    }
}

/// Returns bytes as JavaScript sees header values and URLs: as characters of Latin-1.
pub(crate) fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    /// Whether a page ends exactly at an entry of the index depends on one byte, which random
    /// inputs seldom meet.
    #[test]
    fn pages_of_any_size_stay_as_they_are_when_their_content_is_moved() {
        let appends =
            "\x1ePOST /v1/stream/a\nContent-Type: application/json\n\n[\"abcd\",\"ef\"]".repeat(6);
        for chunk in 1..=70 {
            for step in [1, 10, 18, 25] {
                let records = format!(
                    "COLD=1\nSEGMENT_MAX_MESSAGES=10\nMAX_CHUNK_BYTES={chunk}\nINDEX_STEP_BYTES={step}\
                     \x1ePUT /v1/stream/a\nContent-Type: application/json\n\n{appends}"
                );
                super::request(records.as_bytes());
            }
        }
    }
}
