//! Segments in the cold tier: a stored object can be read in parts of any size, and damage is
//! reported.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use machine::rows::{Expiry, HotTable, RowKey};
use machine::segment::{self, Decoded, Entry, Index, Put};
use machine::wire::request::{Append, Create, Preconditions};
use machine::wire::{Format, content_type};
use machine::{
    BodyWriter, Call, CallId, ColdPart, CorruptionError, Input, Limits, Millis, Part, Plan, Shape,
    Span,
};
use sim::choices::Choices;

use crate::effects::{EffectJob, Outcome};
use crate::event_stream;
use crate::grammar;
use crate::object::Object;

const NOW: Millis = Millis(1_800_000_000_000);
const LATER: Millis = Millis(1_800_000_100_000);
const APPENDS_MAX: u64 = 12;
const MESSAGES_MAX: u64 = 4;
const MESSAGE_BYTES_MAX: u64 = 60;
/// How many parts are read of each segment, and in how many ways each is damaged.
const TRIES: u64 = 6;
/// A checksum of 32 bits finds every change that is not longer.
const BURST_BYTES_MAX: u64 = 4;
const FIXED_HEAD_BYTES: usize = 28;
const TRAILER_BYTES: usize = 12;

/// Appends drawn content to a stream whose segments are small, and reads every object that is put.
///
/// # Panics
/// When an object holds anything but what was appended, its index anything but what the rows say, a
/// part anything but the units that were asked for, or damage goes unnoticed.
pub fn segment(input: &[u8]) {
    let _ = (segment::decode(input), Index::decode(input));
    let mut choices = Choices::from_tape(input);
    let limits = Limits {
        cold: true,
        segment_messages_max: choices.between(1, 8),
        segment_bytes_max: choices.one_of(&[Limits::DEFAULT.segment_bytes_max, 1, 40, 200]),
        segment_age_ms_max: 1,
        // No put is tried again.
        put_timeout_ms: Limits::row("put_timeout_ms").greatest,
        index_step_bytes: choices.one_of(&[Limits::DEFAULT.index_step_bytes, 1, 1, 7, 16, 50]),
        row_bytes_max: choices.one_of(&[Limits::DEFAULT.row_bytes_max, 16, 30, 100]),
        ..Limits::DEFAULT
    };
    let content_type =
        choices.one_of(&["application/json", "text/plain", "application/octet-stream"]);
    let format = content_type::format(content_type);
    let mut object = Object::new(Arc::new(limits));
    call(
        &mut object,
        Call::Create(Create {
            content_type: content_type.to_owned(),
            expiry: Expiry::Never,
            closed: false,
            producer: None,
            body: Bytes::new(),
            location: String::new(),
            name: "a".to_owned(),
            fork: None,
            preconditions: Preconditions::default(),
        }),
    );
    let mut appended = VecDeque::new();
    for _ in 0..=choices.upto(APPENDS_MAX) {
        let body = body(&mut choices, format);
        if format == Format::Json {
            let messages = grammar::messages(&body).expect("it is drawn as JSON");
            appended.extend(messages.into_iter().map(<[u8]>::to_vec));
        } else {
            appended.extend(body.iter().map(|byte| vec![*byte]));
        }
        call(
            &mut object,
            Call::Append(Append {
                content_type: Some(content_type.to_owned()),
                producer: None,
                stream_seq: None,
                expected_offset: None,
                preconditions: Preconditions::default(),
                close: choices.percent(10),
                body: body.into(),
            }),
        );
        if object
            .store
            .rows
            .head()
            .is_none_or(|head| head.closed.is_some())
        {
            break;
        }
        if choices.upto(1) == 1 {
            store(&mut choices, &mut object, format, &mut appended);
        }
    }
    // The open segment has reached its age by now.
    for _ in 0..2 {
        let aged = object.step(LATER, Input::Alarm).expect("a map can be read");
        assert!(aged.after_commit.is_empty());
        while store(&mut choices, &mut object, format, &mut appended) {}
    }
    assert!(appended.is_empty(), "everything is in the cold tier");
}

fn call(object: &mut Object, call: Call) {
    let input = Input::Call {
        id: CallId(0),
        call,
    };
    let turn = object.step(NOW, input).expect("a map can be read");
    assert_eq!(turn.after_commit.len(), 1);
}

fn body(choices: &mut Choices<'_>, format: Format) -> Vec<u8> {
    let run = |choices: &mut Choices<'_>| {
        let length = choices.magnitude(MESSAGE_BYTES_MAX);
        let byte = u8::try_from(choices.upto(255)).unwrap_or(0);
        let counts =
            (0..length).map(move |index| byte.wrapping_add(u8::try_from(index).unwrap_or(0)));
        counts.collect::<Vec<_>>()
    };
    match format {
        Format::Json => {
            let messages: Vec<_> = (0..=choices.upto(MESSAGES_MAX - 1))
                .map(|_| serde_json::json!(run(choices)).to_string())
                .collect();
            format!("[{}]", messages.join(",")).into_bytes()
        }
        Format::Text | Format::Binary => {
            let mut bytes = run(choices);
            bytes.push(b'.');
            bytes
        }
    }
}

/// Carries out the put that the machine asks for, if there is one, and checks its object.
fn store(
    choices: &mut Choices<'_>,
    object: &mut Object,
    format: Format,
    appended: &mut VecDeque<Vec<u8>>,
) -> bool {
    let Some(job) = object.jobs.pop() else {
        return false;
    };
    let EffectJob::Put { put, .. } = &job else {
        panic!("nothing else is asked for")
    };
    let (bytes, _) = object.encode(put).expect("the rows are there");
    let decoded = segment::decode(&bytes).expect("what is encoded can be decoded");
    let expected = expected(&decoded, format, appended);
    assert_eq!(
        (
            decoded.path.as_str(),
            content_type::format(&decoded.content_type)
        ),
        ("a", format)
    );
    index_is_of_rows(object, put, &decoded.index);
    for _ in 0..choices.upto(TRIES) {
        part(choices, &decoded, format, &bytes, &expected);
        damage(choices, &decoded, &bytes);
        forge(choices, format, bytes.clone());
    }
    let report = job.carry_out(Outcome::Done, LATER, object);
    let report = report.expect("the stream waits for it");
    let turn = object.step(LATER, report).expect("a map can be read");
    assert!(turn.after_commit.is_empty());
    true
}

/// Removes the units of this segment from those that were appended.
fn expected(decoded: &Decoded, format: Format, appended: &mut VecDeque<Vec<u8>>) -> Vec<Vec<u8>> {
    let units = match format {
        Format::Json => decoded.records.len(),
        Format::Text | Format::Binary => decoded.records.iter().map(Vec::len).sum(),
    };
    let expected: Vec<_> = appended.drain(..units).collect();
    match format {
        Format::Json => assert_eq!(decoded.records, expected, "messages"),
        Format::Text | Format::Binary => {
            assert_eq!(decoded.records.concat(), expected.concat(), "bytes")
        }
    }
    expected
}

/// Checks that the index has the first row at or after each multiple of its step, and nothing else.
fn index_is_of_rows(object: &Object, put: &Put, index: &Index) {
    let step = object.limits.index_step();
    let rows = object.store.rows.table(HotTable::of(put.id.segment));
    let begins = |key: RowKey| key == RowKey::at(key.position());
    let mut entries: Vec<Entry> = Vec::new();
    let rows = rows.expect("the rows are there");
    let messages: Vec<_> = rows
        .filter(|row| begins(row.key))
        .map(|row| Entry {
            position: row.key.position(),
            bytes_before: row.bytes_before,
        })
        .collect();
    for message in &messages {
        let is_entry = |last: &Entry| message.bytes_before / step > last.bytes_before / step;
        if entries.last().is_none_or(is_entry) {
            entries.push(*message);
        }
    }
    for message in &messages {
        let behind = entries
            .iter()
            .find(|entry| entry.position > message.position);
        let floor = entries
            .iter()
            .rfind(|entry| entry.position <= message.position);
        assert_eq!(Some(index.floor(message.position)), floor.copied());
        assert_eq!(index.behind(message.position), behind.copied());
        assert_eq!(Some(index.within(message.bytes_before)), floor.copied());
    }
}

/// Checks that a part is exactly the units that were asked for, with what comes before them in
/// their append.
fn part(
    choices: &mut Choices<'_>,
    decoded: &Decoded,
    format: Format,
    object: &[u8],
    units: &[Vec<u8>],
) {
    let start = choices.upto(units.len() as u64 - 1);
    let end = choices.between(start + 1, units.len() as u64);
    let shape = choices.one_of(&[Shape::Body, Shape::Event]);
    let piece = choices.between(1, 40) as usize;
    let part = decoded.index.part(0, String::new(), start, end);
    let mut begin = start as usize;
    if format != Format::Json {
        begin = begin_of_append(&decoded.records, begin);
    }
    let taken = &units[begin..end as usize];
    let payload = if format == Format::Json {
        [&b"["[..], &taken.join(&b','), b"]"].concat()
    } else {
        taken.concat()
    };
    let rendered =
        rendered(part.clone(), format, shape, object, piece).expect("the object is whole");
    if shape == Shape::Body {
        assert_eq!(rendered, payload, "from {start} to {end}");
    } else if format == Format::Text {
        let floor = decoded.index.floor(start).position as usize;
        let known = units[floor..end as usize].concat();
        let text = event_stream::text(known, begin - floor, end as usize - floor);
        let events = event_stream::events(&rendered);
        let seen: Vec<_> = events.into_iter().map(|event| event.data).collect();
        assert_eq!(
            seen,
            Vec::from_iter(Some(text).filter(|text| !text.is_empty()))
        );
    } else if format == Format::Json {
        let events = event_stream::events(&rendered);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].data, event_stream::as_seen(&payload));
    }
    // One byte is different.
    let at = (part.offset + choices.upto(part.length - 1)) as usize;
    let mut damaged = object.to_vec();
    damaged[at] ^= u8::try_from(choices.between(1, 255)).unwrap_or(1);
    let report = self::rendered(part.clone(), format, shape, &damaged, piece);
    assert!(report.is_err(), "the byte {at} is another");
    // Something is missing, in the object or in the answer, or there is too much.
    let (begin, length) = (part.offset as usize, part.length as usize);
    let short = &object[..begin + length - 1];
    let report = self::rendered(part.clone(), format, shape, short, piece);
    assert!(report.is_err_and(|report| report.to_string().starts_with("segment 0")));
    let fetched = &object[begin..=begin + length];
    for came in [&fetched[..length - 1], fetched] {
        assert!(
            arrived(part.clone(), format, shape, came).is_err(),
            "another length"
        );
    }
}

/// Returns where the append begins that a byte belongs to.
pub(crate) fn begin_of_append(appends: &[Vec<u8>], byte: usize) -> usize {
    let mut begin = 0;
    for append in appends {
        if byte < begin + append.len() {
            break;
        }
        begin += append.len();
    }
    begin
}

/// Returns the outcome of a part when these bytes arrive for it.
fn arrived(
    part: ColdPart,
    format: Format,
    shape: Shape,
    bytes: &[u8],
) -> Result<(), CorruptionError> {
    let mut out = Vec::new();
    let mut rendering = cold(part, format, shape)?;
    rendering.advance(&mut out)?;
    rendering.push(bytes, &mut out)?;
    rendering.fetched()
}

fn cold(part: ColdPart, format: Format, shape: Shape) -> Result<BodyWriter, CorruptionError> {
    let plan = Plan {
        head: None,
        parts: vec![Part::Cold(part)],
        format,
        shape,
        continues: false,
        rest: None,
        is_last: true,
    };
    assert!(plan.is_cold());
    plan.begin(|_: Span| panic!("nothing is hot"))
}

/// Returns the bytes that a reader gets of a part.
fn rendered(
    part: ColdPart,
    format: Format,
    shape: Shape,
    object: &[u8],
    piece: usize,
) -> Result<Vec<u8>, CorruptionError> {
    let mut out = Vec::new();
    let mut rendering = cold(part, format, shape)?;
    while let Some(fetch) = rendering.advance(&mut out)? {
        let range = fetch.offset as usize..(fetch.offset.saturating_add(fetch.length)) as usize;
        let bytes = object.get(range).ok_or_else(|| rendering.missing())?;
        for bytes in bytes.chunks(piece) {
            rendering.push(bytes, &mut out)?;
        }
        rendering.fetched()?;
    }
    Ok(out)
}

/// Checks that an object with one change, or cut short, is reported as damaged.
fn damage(choices: &mut Choices<'_>, decoded: &Decoded, object: &[u8]) {
    let mut damaged = object.to_vec();
    let at = choices.upto(object.len() as u64 - 1) as usize;
    if choices.percent(30) {
        damaged.truncate(at);
    } else {
        let burst = choices.between(1, BURST_BYTES_MAX) as usize;
        for byte in damaged.iter_mut().skip(at).take(burst) {
            *byte = u8::try_from(choices.upto(255)).unwrap_or(0);
        }
    }
    match segment::decode(&damaged) {
        Ok(read) => assert_eq!(&read, decoded, "changed at {at}"),
        Err(report) => assert!(damaged != object && !report.to_string().is_empty()),
    }
}

/// Checks that no object with correct checksums causes a panic.
fn forge(choices: &mut Choices<'_>, format: Format, mut object: Vec<u8>) {
    for _ in 0..choices.upto(3) {
        // Most of an object is the body, but the ends matter most.
        let distance = choices.magnitude(object.len() as u64 - 1) as usize;
        let at = if choices.upto(1) == 0 {
            object.len() - 1 - distance
        } else {
            distance
        };
        object[at] = u8::try_from(choices.upto(255)).unwrap_or(0);
    }
    sign(&mut object);
    let Ok(decoded) = segment::decode(&object) else {
        return;
    };
    let units = match format {
        Format::Json => decoded.records.len(),
        Format::Text | Format::Binary => decoded.records.iter().map(Vec::len).sum(),
    };
    if units > 0 {
        let start = choices.upto(units as u64 - 1);
        let end = choices.between(start + 1, units as u64);
        let part = decoded.index.part(0, String::new(), start, end);
        let _ = rendered(part, format, Shape::Body, &object, 9);
    }
}

/// Corrects the checksums of head and index, where an object has them.
fn sign(object: &mut [u8]) {
    let number = |object: &[u8], at: usize| {
        let bytes = object.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let context = number(object, FIXED_HEAD_BYTES - 4).unwrap_or(0);
    let head = FIXED_HEAD_BYTES.saturating_add(context);
    if head < object.len().saturating_sub(4) {
        let check = crc32fast::hash(&object[..head]);
        object[head..head + 4].copy_from_slice(&check.to_le_bytes());
    }
    let trailer = object.len() - TRAILER_BYTES;
    let length = number(object, trailer).unwrap_or(0);
    if let Some(begin) = trailer.checked_sub(length) {
        let check = crc32fast::hash(&object[begin..trailer + 4]);
        object[trailer + 4..trailer + 8].copy_from_slice(&check.to_le_bytes());
    }
}
