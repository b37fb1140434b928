//! Server-sent events (protocol 5.8).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::Offset;

/// A comment, so that proxies do not close an idle connection.
pub const HEARTBEAT: &[u8] = b": heartbeat\n\n";

/// Returns an event with a text payload. Each line ending starts a new `data:` line. Parsers drop
/// one space after the colon, so a line that begins with a space gets another.
#[must_use]
pub fn text_event(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut event = begin(name, payload.len());
    let mut rest = payload;
    loop {
        let end = rest
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'))
            .unwrap_or(rest.len());
        push_line(&mut event, &rest[..end]);
        match rest.get(end) {
            None => break,
            Some(b'\r') if rest.get(end + 1) == Some(&b'\n') => rest = &rest[end + 2..],
            Some(_) => rest = &rest[end + 1..],
        }
    }
    event.push(b'\n');
    event
}

/// Returns an event with a binary payload in base64 (RFC 4648, section 4).
#[must_use]
pub fn binary_event(name: &str, payload: &[u8]) -> Vec<u8> {
    let mut event = begin(name, payload.len() * 4 / 3);
    push_line(&mut event, STANDARD.encode(payload).as_bytes());
    event.push(b'\n');
    event
}

/// Room for the names of an event's fields.
const FIELDS_BYTES: usize = 64;

fn begin(name: &str, payload_bytes: usize) -> Vec<u8> {
    let mut event = Vec::with_capacity(payload_bytes + FIELDS_BYTES);
    event.extend_from_slice(b"event: ");
    event.extend_from_slice(name.as_bytes());
    event.push(b'\n');
    event
}

fn push_line(event: &mut Vec<u8>, line: &[u8]) {
    event.extend_from_slice(if line.first() == Some(&b' ') {
        b"data: "
    } else {
        b"data:"
    });
    event.extend_from_slice(line);
    event.push(b'\n');
}

/// The fields of a `control` event, in the protocol's order and spelling.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Control {
    stream_next_offset: Offset,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_cursor: Option<String>,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    up_to_date: bool,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    stream_closed: bool,
}

/// Returns the `id` line, which a browser sends when it reconnects (WHATWG HTML, 9.2.6). It belongs
/// to the event whose other fields come next.
#[must_use]
pub fn id_line(next: Offset) -> Vec<u8> {
    format!("id: {next}\n").into_bytes()
}

/// Returns the `control` event that follows every `data` event. A closed stream has no cursor.
#[must_use]
pub fn control_event(next: Offset, cursor: u64, up_to_date: bool, closed: bool) -> Vec<u8> {
    let control = Control {
        stream_next_offset: next,
        stream_cursor: (!closed).then(|| cursor.to_string()),
        up_to_date: up_to_date || closed,
        stream_closed: closed,
    };
    let json = serde_json::to_vec(&control).expect("a control event always serializes");
    [id_line(next), text_event("control", &json)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an event's data as a standard parser reads it.
    fn data(event: &[u8]) -> String {
        let text = String::from_utf8_lossy(event);
        let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
        lines
            .map(|line| line.strip_prefix(' ').unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn text_survives_the_trip_but_for_the_kind_of_line_ending() {
        for text in [
            "Hello",
            " world",
            "",
            "\n",
            "a\n\n b",
            "  two",
            "event: x\n: y\ndata: z",
            "\u{2028}",
        ] {
            assert_eq!(data(&text_event("data", text.as_bytes())), text, "{text:?}");
        }
        assert_eq!(data(&text_event("data", b"a\r\nb\rc\r")), "a\nb\nc\n");
    }

    #[test]
    fn control_has_the_protocols_fields() {
        let at = Offset::new(1, 2);
        let open = "id: 0000000000000001_0000000000000002\nevent: control\ndata:{\"streamNextOffset\":\"0000000000000001_0000000000000002\",\"streamCursor\":\"7\",\"upToDate\":true}\n\n";
        assert_eq!(control_event(at, 7, true, false), open.as_bytes());
        let closed = "id: 0000000000000001_0000000000000002\nevent: control\ndata:{\"streamNextOffset\":\"0000000000000001_0000000000000002\",\"upToDate\":true,\"streamClosed\":true}\n\n";
        assert_eq!(control_event(at, 7, false, true), closed.as_bytes());
    }
}
