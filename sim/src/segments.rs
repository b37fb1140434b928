//! Offsets as this server spells them, and the position of each in the whole stream. The end of one
//! segment is the beginning of the next.

use crate::request::Request;

/// The segment and the position in an offset.
pub type Token = (u64, u64);

/// The ends of the sealed segments, counted from the beginning of the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segments(Vec<u64>);

impl Segments {
    /// Returns how many are sealed, which is the number of the open one.
    #[must_use]
    pub const fn sealed(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the segments as they were when only the first `sealed` of them were sealed.
    #[must_use]
    pub fn up_to(&self, sealed: u64) -> Self {
        let ends = self.0.iter().zip(0..sealed);
        Self(ends.map(|(end, _)| *end).collect())
    }

    /// Returns where a segment begins; `None` if there is no such segment.
    #[must_use]
    pub fn start(&self, segment: u64) -> Option<u64> {
        match segment.checked_sub(1) {
            None => Some(0),
            Some(before) => self.end(before),
        }
    }

    /// Returns where a sealed segment ends.
    #[must_use]
    pub fn end(&self, segment: u64) -> Option<u64> {
        let at = usize::try_from(segment).ok()?;
        self.0.get(at).copied()
    }

    /// Fixes the end of the open segment. It never changes after that.
    pub fn seal(&mut self, end: u64) {
        self.0.push(end);
    }

    /// Returns the position of an offset that the server has sent; `None` if it should not have
    /// sent it. Of the two names at a seam it may send only that of the content before it, so that
    /// no seal changes an offset.
    #[must_use]
    pub fn position_sent(&self, (segment, position): Token) -> Option<u64> {
        if segment > 0 && position == 0 {
            return None;
        }
        let place = self.start(segment)?.checked_add(position)?;
        self.end(segment)
            .is_none_or(|end| place <= end)
            .then_some(place)
    }

    /// Returns the position of an offset at which a fork may begin, in a stream of this length;
    /// `None` if it names no place there. Either name of a seam is one.
    #[must_use]
    pub fn place(&self, (segment, position): Token, length: u64) -> Option<u64> {
        let place = self.start(segment)?.checked_add(position)?;
        let end = self.end(segment).unwrap_or(length);
        (place <= end.min(length)).then_some(place)
    }

    /// Returns the position that a client asks for with any offset.
    #[must_use]
    pub fn position_requested(&self, (segment, position): Token) -> u64 {
        let place = self
            .start(segment)
            .map(|start| start.saturating_add(position));
        place
            .unwrap_or(u64::MAX)
            .min(self.end(segment).unwrap_or(u64::MAX))
    }

    /// Returns where a read begins in a stream of this length; `None` means the tail.
    #[must_use]
    pub fn begin(&self, request: &Request, length: u64) -> Option<u64> {
        if let Some(place) = self.resumed(request, length) {
            return Some(place);
        }
        match request.parameter("offset") {
            None | Some("-1") => Some(0),
            Some("now") => None,
            Some(text) => token(text).map(|token| self.position_requested(token).min(length)),
        }
    }

    /// Returns the position of the last event that the client of an event stream has seen, if a
    /// stream of this length can have sent it (WHATWG HTML, 9.2.3).
    #[must_use]
    pub fn resumed(&self, request: &Request, length: u64) -> Option<u64> {
        if request.parameter("live") != Some("sse") {
            return None;
        }
        let seen = request.header("Last-Event-ID").and_then(token)?;
        self.place(seen, length)
    }

    /// Returns the offset of a position. At a seam there are two: the earlier, which the server
    /// sends, and the later, which it accepts.
    #[must_use]
    pub fn spell(&self, place: u64, earlier: bool) -> String {
        let segment = self
            .0
            .partition_point(|end| *end < place || (*end == place && !earlier));
        let start = segment.checked_sub(1).and_then(|before| self.0.get(before));
        spell((segment as u64, place - start.copied().unwrap_or(0)))
    }
}

/// Returns the text of an offset.
#[must_use]
pub fn spell((segment, position): Token) -> String {
    format!("{segment:016}_{position:016}")
}

/// Parses an offset; `None` for any other text.
#[must_use]
pub fn token(text: &str) -> Option<Token> {
    let bytes = text.as_bytes();
    let digits = |bytes: &[u8]| {
        bytes.iter().try_fold(0_u64, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + u64::from(digit - b'0'))
        })
    };
    if bytes.len() != 33 || bytes[16] != b'_' {
        return None;
    }
    Some((digits(&bytes[..16])?, digits(&bytes[17..])?))
}

/// The parts of an entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Names the stream's incarnation.
    pub incarnation: &'a str,
    pub start: Token,
    pub end: Token,
    pub closed: bool,
    /// Whether content follows the range that the tag names.
    pub is_page: bool,
}

/// Parses a strong entity tag; `None` for one that this server does not write.
#[must_use]
pub fn tag(text: &str) -> Option<Tag<'_>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let is_page = inner.ends_with(":p");
    let closed = inner.ends_with(":c");
    let inner = inner.trim_end_matches(":p").trim_end_matches(":c");
    let [incarnation, start, end] = *inner.split(':').collect::<Vec<_>>() else {
        return None;
    };
    Some(Tag {
        incarnation,
        start: token(start)?,
        end: token(end)?,
        closed,
        is_page,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seam_has_two_names_and_one_is_sent() {
        let mut segments = Segments::default();
        segments.seal(3);
        segments.seal(5);
        assert_eq!(segments.position_sent((0, 3)), Some(3));
        assert_eq!(segments.position_sent((1, 0)), None);
        assert_eq!(segments.position_requested((1, 0)), 3);
        assert_eq!(segments.position_sent((0, 4)), None);
        assert_eq!(segments.position_sent((2, 7)), Some(12));
        assert_eq!(segments.position_sent((3, 0)), None);
        assert_eq!(segments.position_requested((0, 9)), 3);
        assert_eq!(segments.position_requested((9, 0)), u64::MAX);
        for place in 0..9 {
            for earlier in [false, true] {
                let spelled = token(&segments.spell(place, earlier));
                assert_eq!(
                    spelled.map(|token| segments.position_requested(token)),
                    Some(place)
                );
            }
        }
        assert_eq!(segments.spell(3, true), spell((0, 3)));
        assert_eq!(segments.spell(3, false), spell((1, 0)));
    }
}
