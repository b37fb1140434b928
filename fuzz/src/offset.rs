//! Offsets (protocol 8): each has one spelling, and their order is that of positions.

use machine::Offset;
use machine::rows::Incarnation;

/// Reads the input as two texts and as two numbers.
///
/// # Panics
///
/// When a text that is not an offset is read as one, or an offset is printed or ordered
/// differently.
pub fn offset(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (one, other) = text.split_once('\n').unwrap_or((&text, ""));
    let offsets = [one, other].map(|text| {
        let offset = text.parse::<Offset>().ok();
        assert_eq!(offset.is_some(), is_spelled_as_offset(text), "{text:?}");
        if let Some(offset) = offset {
            assert_eq!(offset.to_string(), text);
        }
        let json = serde_json::to_string(text).expect("a text is JSON");
        assert_eq!(serde_json::from_str::<Offset>(&json).ok(), offset);
        if let Some(incarnation) = Incarnation::from_text(text) {
            assert_eq!(
                Incarnation::from_text(&incarnation.to_string()),
                Some(incarnation)
            );
        }
        offset
    });
    if let [Some(first), Some(second)] = offsets {
        assert_eq!(first.cmp(&second), one.cmp(other), "{one} {other}");
    }

    let number = |at: usize| {
        let bytes = input
            .get(at..at + 8)
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        bytes.map_or(0, u64::from_le_bytes) % 10_u64.pow(16)
    };
    let (first, second) = (
        Offset::new(number(0), number(8)),
        Offset::new(number(16), number(24)),
    );
    assert_eq!(first.to_string().parse(), Ok(first));
    assert_eq!(
        first.cmp(&second),
        first.to_string().cmp(&second.to_string())
    );
}

/// Returns whether a text is two decimals of 16 digits with an underscore between them.
fn is_spelled_as_offset(text: &str) -> bool {
    text.len() == 33
        && text.bytes().enumerate().all(|(at, byte)| match at {
            16 => byte == b'_',
            _ => byte.is_ascii_digit(),
        })
}
