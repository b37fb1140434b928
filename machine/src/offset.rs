//! Offsets (protocol 8): `<segment>_<position>`, two decimals of 16 digits each. Tokens sort in the
//! order of their positions.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place in a stream. The position counts messages in JSON streams and bytes in others, and
/// restarts at 0 in each segment.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct Offset {
    /// The number of the segment, from 0.
    pub segment: u64,
    /// Units (messages or bytes) of that segment before the offset.
    pub position: u64,
}

const DIGITS: usize = 16;

impl Offset {
    /// The beginning of every stream.
    pub const START: Self = Self {
        segment: 0,
        position: 0,
    };

    /// Creates the offset after `position` units of a segment.
    #[must_use]
    pub const fn new(segment: u64, position: u64) -> Self {
        Self { segment, position }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016}_{:016}", self.segment, self.position)
    }
}

/// The text is not a valid offset of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an offset is two decimals of 16 digits with an underscore between them")]
pub struct OffsetError;

impl FromStr for Offset {
    type Err = OffsetError;

    fn from_str(text: &str) -> Result<Self, OffsetError> {
        let (segment, position) = text.split_once('_').ok_or(OffsetError)?;
        Ok(Self {
            segment: decimal(segment)?,
            position: decimal(position)?,
        })
    }
}

fn decimal(digits: &str) -> Result<u64, OffsetError> {
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(OffsetError);
    }
    digits.parse().map_err(|_| OffsetError)
}

impl From<Offset> for String {
    fn from(offset: Offset) -> Self {
        offset.to_string()
    }
}

impl TryFrom<String> for Offset {
    type Error = OffsetError;

    fn try_from(text: String) -> Result<Self, OffsetError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_order_is_position_order() {
        let mut offsets = [
            Offset::new(1, 0),
            Offset::new(0, 9),
            Offset::new(0, 10),
            Offset::new(10, 3),
        ];
        offsets.sort_by_key(ToString::to_string);
        assert!(offsets.is_sorted());
    }

    #[test]
    fn only_the_servers_own_spelling_is_an_offset() {
        for text in [
            "",
            "_",
            "0_0",
            "-1",
            "now",
            "0000000000000000_000000000000000x",
            "+000000000000000_0000000000000000",
        ] {
            assert_eq!(text.parse::<Offset>(), Err(OffsetError), "{text:?}");
        }
        let end = "9999999999999999_9999999999999999";
        assert_eq!(
            end.parse::<Offset>()
                .map(|offset| offset.to_string())
                .as_deref(),
            Ok(end)
        );
    }
}
