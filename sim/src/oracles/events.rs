//! Event streams: they show the content in order, and their control events are true.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::{Content, Mismatch};
use crate::request::excerpt;
use crate::segments::{Segments, token};

/// A client that reads an event stream.
#[derive(Debug)]
pub struct Follower {
    /// Its position; `None` until the first control event if it began at the tail.
    pub position: Option<u64>,
    pub cursor: Option<u64>,
    pub incarnation: u64,
    pub finished: bool,
    base64: bool,
    data: Option<Vec<u8>>,
    /// The `id` of the data, and of the last event.
    data_id: Vec<u8>,
    id: Vec<u8>,
    buffer: Vec<u8>,
}

/// A batch of data together with the control event that follows it.
#[derive(Debug)]
pub struct Delivery {
    pub from: u64,
    pub next: u64,
    pub up_to_date: bool,
    pub closed: bool,
}

impl Follower {
    #[must_use]
    pub const fn new(position: Option<u64>, incarnation: u64, base64: bool) -> Self {
        Self {
            position,
            cursor: None,
            incarnation,
            finished: false,
            base64,
            data: None,
            data_id: Vec::new(),
            id: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Takes bytes of the response.
    ///
    /// # Errors
    ///
    /// When they break the rules of event streams (protocol 5.8), or are not the content.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        content: &Content,
        segments: &Segments,
    ) -> Result<Vec<Delivery>, Mismatch> {
        self.buffer.extend_from_slice(bytes);
        let mut deliveries = Vec::new();
        while let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            if let Some(delivery) = self.event(&event, content, segments)? {
                deliveries.push(delivery);
            }
        }
        Ok(deliveries)
    }

    fn event(
        &mut self,
        event: &[u8],
        content: &Content,
        segments: &Segments,
    ) -> Result<Option<Delivery>, Mismatch> {
        let mismatch = |expected: &str| Mismatch {
            expected: expected.to_owned(),
            actual: excerpt(event),
        };
        if self.finished {
            return Err(mismatch("nothing after the end of the stream"));
        }
        let mut name: &[u8] = b"message";
        let mut lines: Vec<&[u8]> = Vec::new();
        let mut id: &[u8] = b"";
        for line in event.split(|byte| *byte == b'\n') {
            let value = |field: &[u8]| {
                line.strip_prefix(field)
                    .map(|value| value.strip_prefix(b" ").unwrap_or(value))
            };
            if let Some(value) = value(b"event:") {
                name = value;
            } else if let Some(value) = value(b"id:") {
                id = value;
            } else if let Some(value) = value(b"data:") {
                lines.push(value);
            } else if !(line.is_empty() || line.starts_with(b":")) {
                return Err(mismatch("fields of the standard only"));
            }
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let payload = lines.join(&b"\n"[..]);
        self.id = id.to_vec();
        match name {
            b"data" if self.data.is_none() => {
                self.data = Some(payload);
                self.data_id = id.to_vec();
                Ok(None)
            }
            b"control" => self.control(&payload, content, segments).map(Some),
            _ => Err(mismatch("data and control events, in turn")),
        }
    }

    fn control(
        &mut self,
        payload: &[u8],
        content: &Content,
        segments: &Segments,
    ) -> Result<Delivery, Mismatch> {
        let mismatch = |expected: String| Mismatch {
            expected,
            actual: excerpt(payload),
        };
        let fields: serde_json::Value =
            serde_json::from_slice(payload).map_err(|_| mismatch("a JSON object".to_owned()))?;
        // A client that is cut off after an event resumes from that event's id.
        let next_offset = fields["streamNextOffset"].as_str().unwrap_or_default();
        if self.id != next_offset.as_bytes()
            || (self.data.is_some() && self.data_id != next_offset.as_bytes())
        {
            return Err(Mismatch {
                expected: format!("the id {next_offset} with the data and with this event"),
                actual: format!("{} and {}", excerpt(&self.data_id), excerpt(&self.id)),
            });
        }
        let next = token(next_offset);
        let next = next.and_then(|token| segments.position_sent(token));
        let next = next.ok_or_else(|| mismatch("streamNextOffset".to_owned()))?;
        let closed = fields["streamClosed"].as_bool().unwrap_or(false);
        let up_to_date = fields["upToDate"].as_bool().unwrap_or(false);
        match fields["streamCursor"].as_str().map(str::parse::<u64>) {
            Some(Ok(cursor)) => {
                if self.cursor.is_some_and(|before| cursor < before) {
                    return Err(mismatch(format!("a cursor of {:?} or more", self.cursor)));
                }
                self.cursor = Some(cursor);
            }
            None if closed => {}
            _ => return Err(mismatch("streamCursor, a number".to_owned())),
        }
        let from = self.position.unwrap_or(next);
        let page = content
            .page(from, next)
            .ok_or_else(|| mismatch(format!("an offset within {}", content.len())))?;
        let expected = match content.text(from, next, closed) {
            // A reader that begins at the tail sees nothing of what is there.
            Some(_) if self.position.is_none() => None,
            Some(text) => Some(text.into_bytes()).filter(|text| !text.is_empty()),
            None => Some(page).filter(|_| next != from),
        };
        let shown = match self.data.take() {
            Some(data) if self.base64 => {
                let compact: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'\n').collect();
                let bytes = STANDARD
                    .decode(compact)
                    .map_err(|_| mismatch("base64".to_owned()))?;
                Some(bytes)
            }
            Some(data) => Some(String::from_utf8_lossy(&data).into_owned().into_bytes()),
            None => None,
        };
        if shown != expected {
            let excerpt = |bytes: Option<Vec<u8>>| {
                bytes.map_or_else(|| "nothing".to_owned(), |bytes| excerpt(&bytes))
            };
            return Err(Mismatch {
                expected: format!("{} from {from} to {next}", excerpt(expected)),
                actual: excerpt(shown),
            });
        }
        self.position = Some(next);
        self.finished = closed;
        Ok(Delivery {
            from,
            next,
            up_to_date,
            closed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str) -> Content {
        Content::Run {
            text: true,
            bytes: of.as_bytes().to_vec(),
            ends: vec![of.len() as u64],
        }
    }

    fn control(next: u64) -> String {
        format!(
            "id: {0:016}_{next:016}\nevent: control\ndata:{{\"streamNextOffset\":\"{0:016}_{next:016}\",\"streamCursor\":\"1\"}}\n\n",
            0
        )
    }

    #[test]
    fn a_follower_notices_what_is_not_the_content() {
        for (data, next, holds) in [
            ("data:a\ndata:b", 3, true),
            ("data:a\ndata:c", 3, false),
            ("data:a", 3, false),
        ] {
            let mut follower = Follower::new(Some(0), 1, false);
            let bytes = format!(
                "id: {:016}_{next:016}\nevent: data\n{data}\n\n{}",
                0,
                control(next)
            );
            assert_eq!(
                follower
                    .receive(bytes.as_bytes(), &text("a\nb"), &Segments::default())
                    .is_ok(),
                holds,
                "{data}"
            );
        }
        let mut follower = Follower::new(Some(0), 1, false);
        let segments = Segments::default();
        assert!(
            follower
                .receive(control(1).as_bytes(), &text("abc"), &segments)
                .is_err()
        );
    }
}
