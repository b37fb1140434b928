//! Text in events (protocol 5.8). Each event is a separate text, but an append may end inside a
//! character, or between CR and LF.
//!
//! The rule: a character is sent with the append that holds its last byte. So the split at a given
//! offset is always the same, and every reader sees the same text, from any offset that it
//! continues from. Bytes that cannot become a character are sent unchanged with the append that
//! makes this certain: the next one, or the one that closes the stream. A CR is sent at once as a
//! line ending, and an LF that follows it is dropped.

/// The number of bytes before an offset that determine the split there: one less than the longest
/// character.
pub(crate) const LEAD_BYTES: u64 = 3;

/// Returns how many bytes at the end may be the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = &bytes[bytes.len().saturating_sub(LEAD_BYTES as usize)..];
    let begin = last
        .iter()
        .rposition(|byte| byte & 0b1100_0000 != 0b1000_0000);
    let tail = begin.map_or(&[][..], |begin| &last[begin..]);
    match core::str::from_utf8(tail) {
        Err(error) if error.valid_up_to() == 0 && error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}

/// Appends to the bytes before an answer, and keeps only the last [`LEAD_BYTES`].
pub(crate) fn keep_last(lead: &mut Vec<u8>, bytes: &[u8]) {
    let kept = usize::try_from(LEAD_BYTES).expect("three fits into a usize");
    lead.extend_from_slice(&bytes[bytes.len().saturating_sub(kept)..]);
    lead.drain(..lead.len().saturating_sub(kept));
}

/// Returns the text of an event for `bytes`, which follow `lead`. `is_last` is true when nothing
/// follows them.
pub(crate) fn shown(lead: &[u8], mut bytes: Vec<u8>, is_last: bool) -> Vec<u8> {
    if lead.last() == Some(&b'\r') && bytes.first() == Some(&b'\n') {
        bytes.remove(0);
    }
    let begun = &lead[lead.len() - unfinished(lead)..];
    bytes.splice(..0, begun.iter().copied());
    if !is_last {
        bytes.truncate(bytes.len() - unfinished(&bytes));
    }
    bytes
}

/// How the text of a stream ends, as far as it affects what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Unknown, because an earlier instance stored the bytes.
    Unknown,
    Whole,
    /// With a CR.
    Return,
    /// Inside a character.
    Unfinished,
}

impl Ending {
    /// Returns the ending after `bytes`, which must not be empty, given the ending before them.
    pub(crate) fn after(before: Self, bytes: &[u8]) -> Self {
        assert!(!bytes.is_empty(), "an append has at least one byte");
        let continues = bytes.iter().all(|byte| byte & 0b1100_0000 == 0b1000_0000);
        if continues && before != Self::Whole && before != Self::Return {
            // The bytes before these decide.
            Self::Unknown
        } else if unfinished(bytes) > 0 {
            Self::Unfinished
        } else if bytes.last() == Some(&b'\r') {
            Self::Return
        } else {
            Self::Whole
        }
    }

    /// Returns whether an append can be sent without the text before and after it, given the ending
    /// before it.
    pub(crate) fn divides(self, bytes: &[u8]) -> bool {
        let follows = match (self, bytes.first()) {
            (_, None) => matches!(self, Self::Whole | Self::Return),
            (Self::Whole, _) => true,
            (Self::Return, Some(first)) => *first != b'\n',
            (Self::Unknown | Self::Unfinished, _) => false,
        };
        follows && unfinished(bytes) == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns what a browser makes of events with these appends.
    fn seen(appends: &[Vec<u8>], is_closed: bool) -> String {
        let (mut lead, mut text) = (Vec::new(), String::new());
        for (index, append) in appends.iter().enumerate() {
            let is_last = is_closed && index + 1 == appends.len();
            let shown = shown(&lead, append.clone(), is_last);
            text += &String::from_utf8_lossy(&shown)
                .replace("\r\n", "\n")
                .replace('\r', "\n");
            keep_last(&mut lead, append);
        }
        text
    }

    proptest! {
        #[test]
        fn however_bytes_are_divided_the_text_is_the_same(
            pieces in prop::collection::vec(prop_oneof![
                Just("😀".as_bytes()), Just("€".as_bytes()), Just(b"a".as_slice()), Just(b"\r\n".as_slice()), Just(b"\r".as_slice()),
                Just(b"\n".as_slice()), Just(b"\xff".as_slice()), Just(b"\xf0\x9f".as_slice()), Just(b"\x98".as_slice()), Just(b"\xed\xa0".as_slice()),
            ], 0..8),
            cuts in prop::collection::vec(1usize..4, 0..20),
        ) {
            let whole = pieces.concat();
            let (mut appends, mut rest) = (Vec::new(), whole.as_slice());
            for cut in cuts {
                let (append, after) = rest.split_at(cut.min(rest.len()));
                appends.push(append.to_vec());
                rest = after;
            }
            appends.push(rest.to_vec());
            prop_assert_eq!(seen(&appends, true), seen(&[whole], true));
        }
    }

    #[test]
    fn a_character_is_shown_with_its_last_byte() {
        assert_eq!(shown(b"", b"a\xf0\x9f".to_vec(), false), b"a");
        assert_eq!(
            shown(b"a\xf0\x9f", b"\x98\x80".to_vec(), false),
            "😀".as_bytes()
        );
        assert_eq!(shown(b"a\xf0\x9f", b"b".to_vec(), false), b"\xf0\x9fb");
        assert_eq!(shown(b"a\xf0\x9f", Vec::new(), true), b"\xf0\x9f");
        assert_eq!(shown(b"a\r", b"\nb".to_vec(), false), b"b");
    }

    #[test]
    fn only_what_stands_by_itself_is_pushed() {
        let mut ending = Ending::Unknown;
        for (append, is_alone) in [
            (&b"a"[..], false),
            (b"b", true),
            (b"c\xf0\x9f", false),
            (b"\x98", false),
            (b"\x80", false),
            (b"d\r", false),
            (b"e\r", true),
            (b"\n", false),
            (b"\x80", true),
            (b"f", true),
        ] {
            assert_eq!(ending.divides(append), is_alone, "{append:?}");
            ending = Ending::after(ending, append);
        }
    }
}
