//! What clients can hold against the server, from their answers alone and the order in which they came.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::model::{Content, Mismatch, State};
use crate::request::excerpt;
use crate::segments::{Segments, token};

/// A state of a name, as far as an answer tells it. Later states are greater: lives follow one another with nothing in
/// between, a stream grows, and is closed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Odd while a life lasts, even before and after.
    rank: u64,
    pub position: u64,
    pub closed: bool,
}

impl Place {
    /// The whole state.
    #[must_use]
    pub fn of(state: &State) -> Self {
        match &state.life {
            None => Self {
                rank: state.last_life * 2,
                ..Self::default()
            },
            Some(life) => Self {
                rank: life.id * 2 - 1,
                position: life.content.len(),
                closed: life.closed,
            },
        }
    }

    /// The same, as far as an answer goes that tells less.
    #[must_use]
    pub fn known_to(self, position: u64, closed: bool) -> Self {
        if self.life().is_none() {
            self
        } else {
            Self {
                position,
                closed,
                ..self
            }
        }
    }

    /// The life that it is a state of.
    #[must_use]
    pub const fn life(self) -> Option<u64> {
        if self.rank % 2 == 1 {
            Some(self.rank / 2 + 1)
        } else {
            None
        }
    }
}

/// The first observation of each unit of a life fixes it (protocol 4: immutable by position).
#[derive(Debug, Default)]
pub struct OffsetLaw {
    units: BTreeMap<(usize, u64), Vec<Option<u64>>>,
}

impl OffsetLaw {
    /// Takes content that a client was shown at a position.
    ///
    /// # Errors
    /// When other content was shown there before.
    pub fn observe(&mut self, object: usize, life: u64, from: u64, units: &[u64]) -> Result<(), Mismatch> {
        let seen = self.units.entry((object, life)).or_default();
        let from = usize::try_from(from).unwrap_or(0);
        if seen.len() < from + units.len() {
            seen.resize(from + units.len(), None);
        }
        for (index, unit) in units.iter().enumerate() {
            match seen[from + index].replace(*unit) {
                Some(before) if before != *unit => {
                    return Err(Mismatch {
                        expected: format!("{before:x} at {} of life {life}, as before", from + index),
                        actual: format!("{unit:x}"),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What each unit of a body is known by.
#[must_use]
pub fn units(content: &Content, body: &[u8]) -> Option<Vec<u64>> {
    Some(match content {
        Content::Run { .. } => body.iter().map(|byte| u64::from(*byte)).collect(),
        Content::Messages(_) => {
            let messages: Vec<&RawValue> = if body.trim_ascii_start().starts_with(b"[") {
                serde_json::from_slice(body).ok()?
            } else {
                vec![serde_json::from_slice(body).ok()?]
            };
            let hash = |message: &&RawValue| {
                let mut digest = crate::digest::Digest::default();
                digest.bytes(message.get().as_bytes());
                digest.value()
            };
            messages.iter().map(hash).collect()
        }
    })
}

/// A client that reads an event stream.
#[derive(Debug)]
pub struct Follower {
    /// Where it is; `None` until the first control event, when it began at the tail.
    pub position: Option<u64>,
    pub cursor: Option<u64>,
    pub life: u64,
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
    pub const fn new(position: Option<u64>, life: u64, base64: bool) -> Self {
        Self {
            position,
            cursor: None,
            life,
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
    /// When they are not what the protocol says of an event stream (5.8), or not the stream's content.
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
        // A client that is cut off after an event asks for what follows it by its id.
        let told = fields["streamNextOffset"].as_str().unwrap_or_default();
        if self.id != told.as_bytes() || (self.data.is_some() && self.data_id != told.as_bytes()) {
            return Err(Mismatch {
                expected: format!("the id {told} with the data and with this event"),
                actual: format!("{} and {}", excerpt(&self.data_id), excerpt(&self.id)),
            });
        }
        let next = token(told);
        let next = next.and_then(|token| segments.told(token));
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
            // A reader that begins at the tail is shown nothing of what is there.
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
            let excerpt =
                |bytes: Option<Vec<u8>>| bytes.map_or_else(|| "nothing".to_owned(), |bytes| excerpt(&bytes));
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

    #[test]
    fn a_unit_once_seen_stays() {
        let mut law = OffsetLaw::default();
        assert_eq!(law.observe(0, 1, 3, &[7, 8]), Ok(()));
        assert_eq!(law.observe(0, 1, 0, &[1, 1, 1, 7]), Ok(()));
        assert_eq!(law.observe(0, 2, 4, &[9]), Ok(()));
        assert!(law.observe(0, 1, 4, &[9]).is_err());
    }
}
