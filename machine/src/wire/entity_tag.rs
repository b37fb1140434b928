//! Entity tags (protocol 10.1).

use crate::Offset;
use crate::rows::Incarnation;

/// Names the content between two offsets of one incarnation, and whether the stream was closed at the second.
pub(crate) fn entity_tag(incarnation: Incarnation, start: Offset, end: Offset, closed: bool) -> String {
    let closed = if closed { ":c" } else { "" };
    format!("\"{incarnation}:{start}:{end}{closed}\"")
}

/// Whether an `If-None-Match` list names this tag. Weak tags match (RFC 9110, 13.1.2), and `*` matches anything.
pub(crate) fn is_named_by(tag: &str, if_none_match: &str) -> bool {
    // Our tags contain no comma, so that a list can be split at each.
    if_none_match
        .split(',')
        .map(str::trim)
        .any(|each| each == "*" || each.strip_prefix("W/").unwrap_or(each) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_weak_tags_and_the_star_match() {
        let tag = entity_tag(Incarnation(1), Offset::START, Offset::new(0, 5), false);
        for list in [
            tag.clone(),
            format!("\"x\", W/{tag}"),
            "*".to_owned(),
            format!("{tag},\"y\""),
        ] {
            assert!(is_named_by(&tag, &list), "{list}");
        }
        for list in ["", "\"x\"", "W/\"y\", \"z\""] {
            assert!(!is_named_by(&tag, list), "{list}");
        }
        assert_ne!(
            tag,
            entity_tag(Incarnation(1), Offset::START, Offset::new(0, 5), true)
        );
    }
}
