//! The content of a stream.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::faults::essence;

/// The content of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Messages(Vec<Bytes>),
    Run {
        text: bool,
        bytes: Vec<u8>,
        /// Where each append ends.
        ends: Vec<u64>,
    },
}

impl Content {
    /// Returns the same content up to a position.
    #[must_use]
    pub fn prefix(&self, to: u64) -> Self {
        let length = usize::try_from(to).unwrap_or(usize::MAX);
        match self {
            Self::Messages(messages) => {
                Self::Messages(messages.iter().take(length).cloned().collect())
            }
            Self::Run { text, bytes, ends } => {
                let whole = ends.iter().copied().filter(|end| *end < to);
                Self::Run {
                    text: *text,
                    bytes: bytes.iter().take(length).copied().collect(),
                    ends: whole.chain(Some(to).filter(|to| *to > 0)).collect(),
                }
            }
        }
    }

    /// Returns the number of messages or bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Messages(messages) => messages.len() as u64,
            Self::Run { bytes, .. } => bytes.len() as u64,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns where an answer to a read from `position` begins. No append is cut.
    #[must_use]
    pub fn begin(&self, position: u64) -> u64 {
        match self {
            Self::Messages(_) => position,
            Self::Run { ends, .. } => {
                let before = ends.partition_point(|end| *end <= position);
                before.checked_sub(1).map_or(0, |before| ends[before])
            }
        }
    }

    /// Returns whether an answer may end at a position.
    #[must_use]
    pub fn is_end(&self, position: u64) -> bool {
        position == 0 || position <= self.len() && self.begin(position) == position
    }

    /// Returns the text that an event stream shows of a range, with each line ending a line feed.
    ///
    /// A character is shown with its last byte. Bytes that cannot become a character are shown as
    /// soon as that is known. `None` if the content is not text, or the range is not within it.
    #[must_use]
    pub fn text(&self, from: u64, to: u64, closed: bool) -> Option<String> {
        let Self::Run {
            text: true, bytes, ..
        } = self
        else {
            return None;
        };
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        // Begins at a boundary of characters and line endings, some bytes before the range.
        let mut base = from.saturating_sub(8);
        while base + 4 < from && matches!(bytes[base], 0x80..0xc0 | b'\n') {
            base += 1;
        }
        let seen = |to: usize, closed: bool| {
            let bytes = bytes.get(base..to)?;
            let mut seen = String::new();
            let mut chunks = bytes.utf8_chunks().peekable();
            while let Some(chunk) = chunks.next() {
                seen.push_str(chunk.valid());
                let invalid = chunk.invalid();
                let unfinished =
                    core::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
                let waits = unfinished && !closed && chunks.peek().is_none();
                if !invalid.is_empty() && !waits {
                    seen.push('\u{fffd}');
                }
            }
            Some(seen.replace("\r\n", "\n").replace('\r', "\n"))
        };
        let before = seen(from, false)?;
        Some(seen(to, closed)?.strip_prefix(&before)?.to_owned())
    }

    /// Returns the body of a page; `None` if the range is not within the content.
    #[must_use]
    pub fn page(&self, from: u64, to: u64) -> Option<Vec<u8>> {
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        match self {
            Self::Messages(messages) => {
                let mut page = b"[".to_vec();
                page.extend(messages.get(from..to)?.join(&b","[..]));
                page.push(b']');
                Some(page)
            }
            Self::Run { bytes, .. } => bytes.get(from..to).map(<[u8]>::to_vec),
        }
    }
}

pub(super) fn empty(content_type: &str) -> Content {
    match essence(content_type).as_str() {
        "application/json" => Content::Messages(Vec::new()),
        other => Content::Run {
            text: other.starts_with("text/"),
            bytes: Vec::new(),
            ends: Vec::new(),
        },
    }
}

/// Appends a body. Returns the number of units added; `None` if the body is not of this type.
pub(super) fn extend(content: &mut Content, body: &Bytes) -> Option<u64> {
    match content {
        Content::Run { bytes, ends, .. } => {
            bytes.extend_from_slice(body);
            ends.push(bytes.len() as u64);
            Some(body.len() as u64)
        }
        Content::Messages(messages) => {
            let whole: &RawValue = serde_json::from_slice(body).ok()?;
            if !whole.get().starts_with('[') {
                messages.push(body.slice_ref(whole.get().as_bytes()));
                return Some(1);
            }
            let elements: Vec<&RawValue> = serde_json::from_str(whole.get()).ok()?;
            messages.extend(
                elements
                    .iter()
                    .map(|element| body.slice_ref(element.get().as_bytes())),
            );
            Some(elements.len() as u64)
        }
    }
}
