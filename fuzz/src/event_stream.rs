//! A parser of event streams, from the standard alone (WHATWG HTML, 9.2.5 and 9.2.6). It shares
//! nothing with the machine.

use sim::model::Content;

/// An event that an `EventSource` would dispatch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    /// The id from which a client resumes.
    pub(crate) last_event_id: String,
}

/// Returns the events of a whole response. An event without an empty line after it does not count.
pub(crate) fn events(stream: &[u8]) -> Vec<Event> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut events = Vec::new();
    let (mut name, mut data, mut id) = (String::new(), String::new(), String::new());
    for line in finished_lines(text) {
        if line.is_empty() {
            if let Some(data) = data.strip_suffix('\n') {
                let name = if name.is_empty() { "message" } else { &name };
                events.push(Event {
                    name: name.to_owned(),
                    data: data.to_owned(),
                    last_event_id: id.clone(),
                });
            }
            name.clear();
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "id" if !value.contains('\0') => value.clone_into(&mut id),
            "data" => {
                data.push_str(value);
                data.push('\n');
            }
            // A comment, a field that changes no event, or an unknown field.
            _ => {}
        }
    }
    events
}

/// Returns the lines that end with CRLF, LF or CR.
fn finished_lines(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = text.find(['\n', '\r'])?;
        let (line, rest) = text.split_at(end);
        text = rest.strip_prefix("\r\n").unwrap_or_else(|| &rest[1..]);
        Some(line)
    })
}

/// Returns the text that an event shows of a range, by the reference. The text ends where the range
/// ends.
pub(crate) fn text(of: Vec<u8>, from: usize, to: usize) -> String {
    let content = Content::Run {
        text: true,
        bytes: of,
        ends: Vec::new(),
    };
    let text = content.text(from as u64, to as u64, true);
    text.expect("the range is within the text")
}

/// Returns text as a client sees it after an event: decoded by the standard, with each line ending
/// an LF.
pub(crate) fn as_seen(text: &[u8]) -> String {
    String::from_utf8_lossy(text)
        .replace("\r\n", "\n")
        .replace('\r', "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.to_owned(),
            data: data.to_owned(),
            last_event_id: String::new(),
        }
    }

    #[test]
    fn the_examples_of_the_standard() {
        let stream = "data: YHOO\ndata: +2\ndata: 10\n\n";
        assert_eq!(
            events(stream.as_bytes()),
            [event("message", "YHOO\n+2\n10")]
        );
        let stream = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
        let first = Event {
            last_event_id: "1".to_owned(),
            ..event("message", "first event")
        };
        let expected = [first, event("message", "second event")];
        assert_eq!(events(stream.as_bytes()), expected);
        let stream = "data\n\ndata\ndata\n\ndata:";
        assert_eq!(
            events(stream.as_bytes()),
            [event("message", ""), event("message", "\n")]
        );
        assert_eq!(events(b"data:test\n\ndata: test\n\n").len(), 2);
    }

    #[test]
    fn every_line_ending_ends_a_line() {
        let stream = "\u{feff}event: a\rdata: 1\r\ndata: 2\n\r\ndata: 3\r\r";
        assert_eq!(
            events(stream.as_bytes()),
            [event("a", "1\n2"), event("message", "3")]
        );
    }
}
