//! Matches names by patterns as the protocol describes it (6.2), in exponential time.

use machine::Limits;
use machine::router::name;

/// Returns whether a pattern that the server has accepted matches a canonical name.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<_> = segments(pattern).collect();
    let name: Vec<_> = segments(name).collect();
    is_match(&pattern, &name)
}

fn segments(text: &str) -> impl Iterator<Item = &str> {
    text.split('/').filter(|segment| !segment.is_empty())
}

fn is_match(pattern: &[&str], name: &[&str]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((&"**", after)) => (0..=name.len()).any(|skipped| is_match(after, &name[skipped..])),
        Some((&first, after)) => name
            .split_first()
            .is_some_and(|(given, rest)| is_same(first, given) && is_match(after, rest)),
    }
}

fn is_same(wanted: &str, given: &str) -> bool {
    if wanted == "*" {
        return true;
    }
    let literal = name::canonical(wanted, &Limits::DEFAULT);
    let literal = literal.expect("the server has accepted the pattern");
    let plain = |text: &str| text.replace("%2A", "*");
    let is_stars = matches!(plain(&literal).as_str(), "*" | "**");
    literal == given || is_stars && plain(&literal) == plain(given)
}
