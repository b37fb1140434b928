//! The keys of the objects, and the division of what is left of former attempts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::outbox::Garbage;
use crate::rows::Incarnation;

/// Each part of a key can be a file or directory name, which has at most 255 bytes. The stream's
/// name may be longer; it can be cut because the incarnation makes the key unique.
const NAME_BYTES_IN_KEY: usize = 180;

/// Returns the prefix of the keys of an incarnation's objects:
/// `<name in base64url>/<incarnation>/`.
#[must_use]
pub fn key_prefix(name: &str, incarnation: Incarnation) -> String {
    let name = name.as_bytes();
    let name = URL_SAFE_NO_PAD.encode(&name[..name.len().min(NAME_BYTES_IN_KEY)]);
    format!("{name}/{incarnation}/")
}

/// Returns the key of one attempt to store a segment.
#[must_use]
pub fn key(prefix: &str, segment: u64, attempt: u64) -> String {
    format!("{prefix}{segment:016}-{attempt}")
}
impl Garbage {
    /// Returns the keys of the first objects, at most `most`, and the remaining range.
    pub(crate) fn split(&self, most: u64) -> (Vec<String>, Option<Self>) {
        assert!(
            self.segments.start() == self.segments.end()
                || self.attempts.start() == self.attempts.end(),
            "the objects are attempts of one segment, or one attempt of each segment"
        );
        let pairs = self
            .segments
            .clone()
            .flat_map(|segment| self.attempts.clone().map(move |attempt| (segment, attempt)));
        let taken = usize::try_from(most).unwrap_or(usize::MAX);
        let keys = pairs
            .clone()
            .take(taken)
            .map(|(segment, attempt)| key(&self.prefix, segment, attempt))
            .collect();
        // One of the two ranges has a single element, so the remainder is again a pair of ranges.
        let mut pairs = pairs;
        let rest = pairs.nth(taken).map(|(segment, attempt)| Self {
            prefix: self.prefix.clone(),
            segments: segment..=*self.segments.end(),
            attempts: attempt..=*self.attempts.end(),
        });
        (keys, rest)
    }
}
