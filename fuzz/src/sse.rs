//! Event streams (protocol 5.8): a parser of the standard reads the machine's framing.

use base64::Engine as _;
use machine::live_reader::{LiveHead, LiveReader, MessageHead};
use machine::rows::{HotTable, RowKey};
use machine::wire::{Format, sse};
use machine::{CorruptionError, HotPart, Millis, Offset, Part, Plan, Shape, Span};
use serde_json::json;
use sim::choices::Choices;

use crate::event_stream;
use crate::segment::begin_of_append;

const RECORDS_MAX: u64 = 4;
const RECORD_BYTES_MAX: u64 = 64;

/// Makes an event stream of drawn records, and reads it as a browser would.
///
/// # Panics
/// When the browser sees anything but the records.
pub fn sse(input: &[u8]) {
    hostile_frames(input);
    hostile_message(input);
    let mut choices = Choices::from_tape(input);
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    loop {
        let format = choices.one_of(&[Format::Text, Format::Json, Format::Binary]);
        let records: Vec<Vec<u8>> = (0..choices.upto(RECORDS_MAX))
            .map(|_| record(&mut choices))
            .collect();
        stream.extend(page(&mut choices, format, &records, &mut expected));
        let (next, cursor) = (
            Offset::new(choices.upto(255), choices.magnitude(1 << 50)),
            choices.magnitude(1 << 50),
        );
        let (up_to_date, closed) = (choices.upto(1) == 1, choices.upto(1) == 1);
        stream.extend(sse::control_event(next, cursor, up_to_date, closed));
        expected.push(control(next, cursor, up_to_date, closed));
        if choices.upto(1) == 1 {
            stream.extend_from_slice(sse::HEARTBEAT);
        }
        if choices.upto(1) == 0 {
            break;
        }
    }
    let seen = event_stream::events(&stream);
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    for (seen, expected) in seen.iter().zip(&expected) {
        match expected {
            Expected::Data(data) => {
                assert_eq!(
                    (seen.name.as_str(), seen.data.as_str()),
                    ("data", data.as_str())
                );
            }
            Expected::Control(control) => {
                assert_eq!(seen.name, "control");
                assert_eq!(seen.last_event_id, control["streamNextOffset"]);
                assert_eq!(
                    &serde_json::from_str::<serde_json::Value>(&seen.data).ok(),
                    &Some(control.clone())
                );
            }
        }
    }
}

enum Expected {
    Data(String),
    Control(serde_json::Value),
}

fn record(choices: &mut Choices<'_>) -> Vec<u8> {
    let length = choices.magnitude(RECORD_BYTES_MAX);
    (0..length)
        .map(|_| u8::try_from(choices.upto(255)).unwrap_or(0))
        .collect()
}

/// Builds an event of a range of the records, with what comes before it in its record, or of some
/// messages of a JSON stream.
fn page(
    choices: &mut Choices<'_>,
    format: Format,
    records: &[Vec<u8>],
    expected: &mut Vec<Expected>,
) -> Vec<u8> {
    let units = if format == Format::Json {
        records.len()
    } else {
        records.iter().map(Vec::len).sum()
    };
    let skip = choices.upto(units as u64);
    let count = choices.upto(units as u64 - skip);
    let (begin, end) = (skip as usize, (skip + count) as usize);
    let payload = if format == Format::Json {
        [&b"["[..], &records[begin..end].join(&b','), b"]"].concat()
    } else {
        let begin = if begin < end {
            begin_of_append(records, begin)
        } else {
            end
        };
        records.concat()[begin..end].to_vec()
    };
    let data = match format {
        Format::Json => event_stream::as_seen(&payload),
        Format::Text => event_stream::text(records.concat(), end - payload.len(), end),
        Format::Binary => base64::engine::general_purpose::STANDARD.encode(&payload),
    };
    // Without content there is no event.
    if !data.is_empty() && (begin < end || format == Format::Text) {
        expected.push(Expected::Data(data));
    }
    let frames: Vec<u8> = records.iter().flat_map(|record| framed(record)).collect();
    rendered(format, Shape::Event, skip, count, &frames).expect("the frames are whole")
}

/// Returns the outcome of a row with these frames.
fn rendered(
    format: Format,
    shape: Shape,
    skip: u64,
    count: u64,
    frames: &[u8],
) -> Result<Vec<u8>, CorruptionError> {
    let span = Span {
        table: HotTable::of(0),
        from: RowKey::at(0),
        to: RowKey::LAST,
    };
    let plan = Plan {
        head: None,
        parts: vec![Part::Hot(HotPart {
            spans: vec![span],
            skip,
            count,
            lead: Vec::new(),
        })],
        format,
        shape,
        continues: false,
        rest: None,
        is_last: true,
    };
    let mut out = Vec::new();
    let mut rendering = plan.begin(|_| Ok::<_, CorruptionError>(frames.to_vec()))?;
    assert_eq!(
        rendering.advance(&mut out)?,
        None,
        "nothing is in the cold tier"
    );
    Ok(out)
}

fn framed(record: &[u8]) -> Vec<u8> {
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), record].concat()
}

fn control(next: Offset, cursor: u64, up_to_date: bool, closed: bool) -> Expected {
    let mut control = json!({ "streamNextOffset": next.to_string() });
    if closed {
        control["streamClosed"] = true.into();
    } else {
        control["streamCursor"] = cursor.to_string().into();
    }
    if up_to_date || closed {
        control["upToDate"] = true.into();
    }
    Expected::Control(control)
}

/// Reads any bytes as a message over a connection, or refuses them.
fn hostile_message(bytes: &[u8]) {
    let length = bytes
        .first_chunk()
        .map(|length| u32::from_le_bytes(*length) as usize);
    if let Some((_, body)) = MessageHead::decode(bytes) {
        assert_eq!(
            length.map(|length| length + body.len() + 4),
            Some(bytes.len())
        );
    }
    if let Some(head) = LiveHead::from_header(&String::from_utf8_lossy(bytes)) {
        let _ = LiveReader::new(Millis(0), &head);
    }
}

/// Checks that bytes are read as frames exactly when there are enough of them. What follows does
/// not count.
fn hostile_frames(bytes: &[u8]) {
    let (mut messages, mut payload_bytes) = (0, 0);
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((payload, after)) = after.split_at_checked(length) else {
            payload_bytes += after.len() as u64;
            break;
        };
        messages += 1;
        payload_bytes += payload.len() as u64;
        rest = after;
    }
    for format in [Format::Json, Format::Text, Format::Binary] {
        let units = if format == Format::Json {
            messages
        } else {
            payload_bytes
        };
        for shape in [Shape::Body, Shape::Event] {
            for count in [0, 1, units, units + 1, u64::MAX] {
                let rendered = rendered(format, shape, 0, count, bytes);
                assert_eq!(
                    rendered.is_ok(),
                    count <= units,
                    "{format:?} {shape:?} {count}"
                );
            }
        }
    }
}
