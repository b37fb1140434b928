//! Content types (protocol 9).

use super::Format;

/// The content type of a stream that was created without one (protocol 5.1).
pub const DEFAULT: &str = "application/octet-stream";

/// Returns the media type without parameters in lower case, which is used for comparison.
#[must_use]
pub fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .expect("a split has at least one part")
        .trim()
        .to_ascii_lowercase()
}

/// Returns whether two content types name the same media type.
#[must_use]
pub fn matches(one: &str, other: &str) -> bool {
    essence(one) == essence(other)
}

/// Returns whether the text has the form `type/subtype`, with optional parameters.
#[must_use]
pub fn is_well_formed(content_type: &str) -> bool {
    let token = |text: &str| !text.is_empty() && text.bytes().all(is_token);
    essence(content_type)
        .split_once('/')
        .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
        && content_type
            .bytes()
            .all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Returns the format in which a stream of this type is read.
#[must_use]
pub fn format(content_type: &str) -> Format {
    let essence = essence(content_type);
    if essence == "application/json" {
        Format::Json
    } else if essence.starts_with("text/") {
        Format::Text
    } else {
        Format::Binary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        assert!(matches("Text/Plain; charset=utf-8", "text/plain"));
        assert!(!matches("text/plain", "text/html"));
        assert_eq!(format("APPLICATION/JSON; charset=utf-8"), Format::Json);
        assert_eq!(format("application/problem+json"), Format::Binary);
    }

    #[test]
    fn a_type_needs_a_subtype() {
        for text in [
            "",
            "text",
            "text/",
            "/plain",
            "te xt/plain",
            "text/plain; a=\u{7f}",
        ] {
            assert!(!is_well_formed(text), "{text:?}");
        }
        assert!(is_well_formed(
            "application/vnd.api+json; charset=\"utf-8\""
        ));
    }
}
