//! Entity tags (protocol 10.1).

use crate::Offset;
use crate::rows::Incarnation;

/// Where the content of an entity tag ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Before the tail.
    Page,
    /// At the tail of an open stream.
    Tail,
    /// At the end of a closed stream.
    Closed,
}

impl Reach {
    pub(crate) const fn tail(is_closed: bool) -> Self {
        if is_closed { Self::Closed } else { Self::Tail }
    }
}

/// Returns the tag of the content between two offsets of one incarnation.
///
/// The tag of a page changes when the page no longer reaches the tail. Otherwise a 304 would keep
/// the `Stream-Up-To-Date` that a cache has stored with the page (RFC 9111, 3.2), and the client
/// would stop there.
pub(crate) fn entity_tag(
    incarnation: Incarnation,
    start: Offset,
    end: Offset,
    reach: Reach,
) -> String {
    assert!(start <= end, "a page ends at or after its beginning");
    let reach = match reach {
        Reach::Page => ":p",
        Reach::Tail => "",
        Reach::Closed => ":c",
    };
    format!("\"{incarnation}:{start}:{end}{reach}\"")
}

/// The state of a stream, parsed from an entity tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State<'a> {
    /// Unparsed.
    pub(crate) incarnation: &'a str,
    pub(crate) end: Offset,
    pub(crate) closed: bool,
}

/// Parses the tags of a list. Skips tags that this server cannot have made, and weak ones unless
/// `weak` asks for weak comparison (RFC 9110, 8.8.3.2).
pub(crate) fn states(list: &str, weak: bool) -> impl Iterator<Item = State<'_>> {
    list.split(',').map(str::trim).filter_map(move |tag| {
        state(if weak {
            tag.strip_prefix("W/").unwrap_or(tag)
        } else {
            tag
        })
    })
}

/// Parses the output of [`entity_tag`]. A tag of a page before the tail has no state.
fn state(tag: &str) -> Option<State<'_>> {
    let mut parts = tag.strip_prefix('"')?.strip_suffix('"')?.split(':');
    let incarnation = parts.next()?;
    parts.next()?.parse::<Offset>().ok()?;
    let end = parts.next()?.parse().ok()?;
    let closed = match parts.next() {
        None => false,
        Some("c") => true,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(State {
        incarnation,
        end,
        closed,
    })
}

/// Returns whether an `If-None-Match` list contains this tag. Weak tags match (RFC 9110, 13.1.2),
/// and `*` matches every tag.
pub(crate) fn is_named_by(tag: &str, if_none_match: &str) -> bool {
    // Our tags contain no comma, so it is safe to split the list at commas.
    if_none_match
        .split(',')
        .map(str::trim)
        .any(|each| each == "*" || each.strip_prefix("W/").unwrap_or(each) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        for closed in [false, true] {
            let tag = entity_tag(
                Incarnation(7),
                Offset::START,
                Offset::new(1, 5),
                Reach::tail(closed),
            );
            let written = State {
                incarnation: "0000000000000007",
                end: Offset::new(1, 5),
                closed,
            };
            let list = format!("\"x\", \"a,b\",{tag}");
            assert_eq!(states(&list, false).collect::<Vec<_>>(), [written]);
            let weak = format!("W/{tag}");
            assert_eq!(states(&weak, true).collect::<Vec<_>>(), [written]);
            let trimmed = tag.trim_matches('"');
            for foreign in [
                &weak,
                trimmed,
                &format!("\"{trimmed}:c:c\""),
                "\"",
                "\"\"",
                "",
            ] {
                assert_eq!(states(foreign, false).count(), 0, "{foreign}");
            }
        }
    }

    #[test]
    fn lists_weak_tags_and_the_star_match() {
        let tag = entity_tag(
            Incarnation(1),
            Offset::START,
            Offset::new(0, 5),
            Reach::Tail,
        );
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
            entity_tag(
                Incarnation(1),
                Offset::START,
                Offset::new(0, 5),
                Reach::Closed
            )
        );
    }
    #[test]
    fn a_page_that_more_follows_names_no_state() {
        let page = entity_tag(
            Incarnation(1),
            Offset::START,
            Offset::new(0, 5),
            Reach::Page,
        );
        let tail = entity_tag(
            Incarnation(1),
            Offset::START,
            Offset::new(0, 5),
            Reach::Tail,
        );
        assert!(!is_named_by(&page, &tail));
        assert_eq!(states(&page, true).count(), 0);
    }
}
