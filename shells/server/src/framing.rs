//! Finds where the heads of requests begin and end on a connection.
//!
//! The HTTP library takes a line feed without a carriage return for the end of a line. Others do
//! not, and where two servers disagree on that, requests can be smuggled (RFC 9112, 2.2). So each
//! such line feed in a head becomes a zero byte, which no head may have, and the library refuses
//! it. So does a `#` in a request line: a fragment is never sent (RFC 9112, 3.2), and the library
//! would drop it silently.

/// The length of the body after a head, as the HTTP library reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(u64),
    Chunked,
}

/// Tracks the bytes of a connection.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    state: State,
    line: Line,
    is_request_line: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    BeforeHead,
    Head,
    /// The head has ended. The length of the body is not known yet.
    AfterHead,
    Body(u64),
    ChunkSize {
        size: u64,
        has_ended: bool,
    },
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The head is refused, and with it everything after it.
    Refused,
}

/// What is known of the present line.
#[derive(Clone, Copy, Debug)]
struct Line {
    is_empty: bool,
    ends_with_return: bool,
}

impl Default for Line {
    fn default() -> Self {
        Self::NEW
    }
}

impl Line {
    const NEW: Self = Self {
        is_empty: true,
        ends_with_return: false,
    };

    const fn push(&mut self, byte: u8) {
        if self.ends_with_return || byte != b'\r' {
            self.is_empty = false;
        }
        self.ends_with_return = byte == b'\r';
    }
}

impl Framing {
    /// Returns whether a head has begun and has not ended.
    pub(crate) const fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Returns whether the length of the body is needed before more can be read.
    pub(crate) const fn awaits_length(&self) -> bool {
        matches!(self.state, State::AfterHead)
    }

    pub(crate) fn body_follows(&mut self, length: Length) {
        self.state = match length {
            Length::Known(0) => State::BeforeHead,
            Length::Known(length) => State::Body(length),
            Length::Chunked => State::ChunkSize {
                size: 0,
                has_ended: false,
            },
        };
        self.line = Line::NEW;
    }

    /// Tracks `bytes` up to the end of the next head, and returns how many it took. The caller
    /// passes the rest again after `body_follows`.
    pub(crate) fn follow(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::AfterHead => return at,
                State::Refused => return bytes.len(),
                State::Body(left) | State::Chunk(left) => {
                    let here = (bytes.len() - at) as u64;
                    let passed = here.min(*left);
                    *left -= passed;
                    at += usize::try_from(passed).unwrap_or(usize::MAX);
                    match self.state {
                        State::Body(0) => self.state = State::BeforeHead,
                        State::Chunk(0) => self.state = State::ChunkEnd,
                        State::BeforeHead
                        | State::Head
                        | State::AfterHead
                        | State::Body(_)
                        | State::ChunkSize { .. }
                        | State::Chunk(_)
                        | State::ChunkEnd
                        | State::Trailers
                        | State::Refused => {}
                    }
                    self.line = Line::NEW;
                }
                State::ChunkEnd => {
                    if bytes[at] == b'\n' {
                        self.state = State::ChunkSize {
                            size: 0,
                            has_ended: false,
                        };
                    }
                    at += 1;
                }
                State::ChunkSize { size, has_ended } => {
                    match char::from(bytes[at]).to_digit(16) {
                        _ if bytes[at] == b'\n' => {
                            self.state = match *size {
                                0 => State::Trailers,
                                size => State::Chunk(size),
                            };
                            self.line = Line::NEW;
                        }
                        Some(digit) if !*has_ended => {
                            *size = size.saturating_mul(16).saturating_add(u64::from(digit));
                        }
                        _ => *has_ended = true,
                    }
                    at += 1;
                }
                State::BeforeHead | State::Head | State::Trailers => {
                    self.in_line(&mut bytes[at]);
                    at += 1;
                }
            }
        }
        at
    }

    fn in_line(&mut self, byte: &mut u8) {
        if *byte != b'\n' {
            self.line.push(*byte);
            if self.state == State::BeforeHead {
                self.line.is_empty &= *byte == b'\r';
                if !self.line.is_empty {
                    self.state = State::Head;
                    self.is_request_line = true;
                }
            }
            if *byte == b'#' && self.is_request_line {
                *byte = 0;
                self.state = State::Refused;
            }
            return;
        }
        if !self.line.ends_with_return {
            *byte = 0;
            self.state = State::Refused;
            return;
        }
        let was_empty = self.line.is_empty;
        self.line = Line::NEW;
        self.is_request_line = false;
        if was_empty {
            // Empty lines before a head are skipped (RFC 9112, 2.2).
            self.state = if self.state == State::Head {
                State::AfterHead
            } else {
                State::BeforeHead
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Framing, Length};

    /// Returns what the HTTP library receives when the bytes arrive in pieces of one size.
    fn seen(bytes: &[u8], bodies: &[Length], size: usize) -> Vec<u8> {
        let mut framing = Framing::default();
        let mut bodies = bodies.iter();
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            let mut piece = piece.to_vec();
            let mut at = 0;
            while at < piece.len() {
                if framing.awaits_length() {
                    framing.body_follows(*bodies.next().expect("a head ended too early"));
                }
                let passed = framing.follow(&mut piece[at..]);
                assert!(passed > 0 || framing.awaits_length());
                at += passed;
            }
            seen.extend(piece);
        }
        seen
    }

    #[test]
    fn heads_with_whole_line_endings_pass_unchanged_before_any_body() {
        let cases: [(&[u8], &[Length]); 6] = [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n", &[Length::Known(0)]),
            (b"POST / HTTP/1.1\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", &[Length::Known(3)]),
            (
                b"POST / HTTP/1.1\r\n\r\n3\r\n\n\n\n\r\n00\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                &[Length::Chunked],
            ),
            (
                b"POST / HTTP/1.1\r\n\r\nA;b=1\r\n\n\n\n\n\n\n\n\n\n\n\r\n0;c\r\nD: e\r\n\r\nGET / HTTP/1.1\r\n\r\n",
                &[Length::Chunked],
            ),
            (b"GET / HTTP/1.1\r\na: \r b\r\n\r\n", &[]),
        ];
        for (bytes, bodies) in cases {
            for size in [1, 2, 3, 7, 1_000] {
                assert_eq!(seen(bytes, bodies, size), bytes, "{size}");
            }
        }
    }

    #[test]
    fn a_request_line_has_no_fragment() {
        let heads: [(&[u8], &[Length]); 3] = [
            (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", &[]),
            (b"\r\nGET /a?b=c# HTTP/1.1\r\n\r\n", &[]),
            (
                b"POST / HTTP/1.1\r\n\r\nabcGET http://x/# HTTP/1.1\r\n\r\n",
                &[Length::Known(3)],
            ),
        ];
        for (bytes, bodies) in heads {
            let hash = bytes.iter().position(|byte| *byte == b'#');
            for size in [1, 2, 3, 7, 1_000] {
                let seen = seen(bytes, bodies, size);
                assert_eq!(hash.map(|at| seen[at]), Some(0), "{size}");
            }
        }
        let elsewhere = b"POST / HTTP/1.1\r\na: #\r\n\r\n#";
        assert_eq!(seen(elsewhere, &[Length::Known(1)], 3), elsewhere);
    }

    #[test]
    fn a_line_feed_alone_is_never_the_end_of_a_line() {
        let heads: [(&[u8], &[Length]); 7] = [
            (b"GET / HTTP/1.1\nHost: x\r\n\r\n", &[]),
            (b"GET / HTTP/1.1\r\nHost: x\n\r\n", &[]),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\n", &[]),
            (b"\nGET / HTTP/1.1\r\n\r\n", &[]),
            (
                b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\n\n",
                &[Length::Known(0)],
            ),
            (
                b"POST / HTTP/1.1\r\n\r\nabcGET / HTTP/1.1\n\n",
                &[Length::Known(3)],
            ),
            (
                b"POST / HTTP/1.1\r\n\r\n1\r\na\r\n0\r\nb: c\n\r\n",
                &[Length::Chunked],
            ),
        ];
        for (bytes, bodies) in heads {
            let bare = (0..bytes.len())
                .find(|&at| bytes[at] == b'\n' && (at == 0 || bytes[at - 1] != b'\r'));
            for size in [1, 2, 3, 7, 1_000] {
                let seen = seen(bytes, bodies, size);
                assert_eq!(bare.map(|at| seen[at]), Some(0), "{size}");
            }
        }
    }
}
