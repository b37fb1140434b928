//! Patterns of stream names (protocol 6.2).

use core::fmt::Write as _;
use core::str::Split;

use crate::Limits;
use crate::router::name;

/// A pattern of stream names: `*` stands for one segment, `**` for any number of them. Only a whole
/// segment can be a wildcard, so `a*` is a name like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    segments: Vec<PatternSegment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PatternSegment {
    /// This segment, in canonical spelling.
    Literal(String),
    /// A segment of nothing but stars, because `%2A` in a pattern is a star that is no wildcard. A
    /// name can spell it plain or encoded.
    Stars(&'static str),
    /// `*`
    One,
    /// `**`
    Any,
}

const STAR: &str = "*";
const DOUBLE_STAR: &str = "**";
const ENCODED_STAR: &str = "%2A";

impl Glob {
    /// Parses a pattern. Segments without content are dropped.
    ///
    /// # Errors
    /// Fails with a reason when the pattern matches nothing that could be a stream, or is beyond
    /// the limits.
    pub(crate) fn parse(pattern: &str, limits: &Limits) -> Result<Self, &'static str> {
        if Self::ascii(pattern).len() as u64 > limits.pattern_bytes_max {
            return Err("the pattern is too long");
        }
        let segments = contents(pattern).map(|segment| PatternSegment::parse(segment, limits));
        let segments = segments.collect::<Result<Vec<_>, _>>()?;
        if segments.is_empty() {
            return Err("the pattern is empty");
        }
        let anys = segments
            .iter()
            .filter(|segment| **segment == PatternSegment::Any);
        if anys.count() as u64 > limits.pattern_double_stars_max {
            return Err("the pattern has too many **");
        }
        Ok(Self { segments })
    }

    /// Returns a spelling of the same pattern that has nothing but printable ASCII.
    pub(crate) fn ascii(pattern: &str) -> String {
        let mut text = String::with_capacity(pattern.len());
        for byte in pattern.bytes() {
            if byte.is_ascii_graphic() {
                text.push(char::from(byte));
            } else {
                write!(text, "%{byte:02X}").expect("a string takes everything");
            }
        }
        text
    }

    /// Returns whether the pattern matches a stream with this canonical name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut rest = contents(name);
        let mut at = 0;
        // Where to go on if the last `**` stands for one more segment. No earlier one needs to be
        // tried again, so the time is that of pattern times name at most.
        let mut again: Option<(usize, Contents<'_>)> = None;
        loop {
            let wanted = self.segments.get(at);
            if wanted == Some(&PatternSegment::Any) {
                at += 1;
                again = Some((at, rest.clone()));
                continue;
            }
            match (wanted, rest.next()) {
                (None, None) => return true,
                // Any other choice for a `**` would leave even fewer segments.
                (Some(_), None) => return false,
                (Some(segment), Some(given)) if segment.takes(given) => at += 1,
                (_, Some(_)) => {
                    let Some((after, from)) = &mut again else {
                        return false;
                    };
                    let skipped = from.next();
                    assert!(
                        skipped.is_some(),
                        "it is not beyond the segment that did not match"
                    );
                    at = *after;
                    rest = from.clone();
                }
            }
        }
    }

    /// Returns the first segment of all names that match, in canonical spelling, if all have the
    /// same.
    pub(crate) fn first_literal(&self) -> Option<&str> {
        match self.segments.first()? {
            PatternSegment::Literal(segment) => Some(segment),
            PatternSegment::Stars(_) | PatternSegment::One | PatternSegment::Any => None,
        }
    }
}

/// Returns what a canonical name has in the place of [`Glob::first_literal`].
pub(crate) fn first_segment(name: &str) -> &str {
    contents(name).next().unwrap_or_default()
}

impl PatternSegment {
    fn parse(segment: &str, limits: &Limits) -> Result<Self, &'static str> {
        match segment {
            STAR => return Ok(Self::One),
            DOUBLE_STAR => return Ok(Self::Any),
            _ => {}
        }
        let segment = name::canonical(segment, limits)
            .map_err(|_| "the pattern has a segment that no name of a stream has")?;
        Ok(match plain_stars(&segment).as_str() {
            STAR => Self::Stars(STAR),
            DOUBLE_STAR => Self::Stars(DOUBLE_STAR),
            _ => Self::Literal(segment),
        })
    }

    fn takes(&self, segment: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == segment,
            Self::Stars(stars) => plain_stars(segment) == *stars,
            Self::One => true,
            Self::Any => unreachable!("it takes more than a segment"),
        }
    }
}

fn plain_stars(segment: &str) -> String {
    segment.replace(ENCODED_STAR, STAR)
}

/// The segments of a name or a pattern that are not empty.
#[derive(Clone)]
struct Contents<'a>(Split<'a, char>);

fn contents(text: &str) -> Contents<'_> {
    Contents(text.split('/'))
}

impl<'a> Iterator for Contents<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.by_ref().find(|segment| !segment.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(pattern: &str) -> Glob {
        Glob::parse(pattern, &Limits::DEFAULT).unwrap()
    }

    /// Asserts which of some names a pattern matches.
    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let glob = glob(pattern);
        for name in matching {
            assert!(glob.matches(name), "{pattern} {name}");
        }
        for name in others {
            assert!(!glob.matches(name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_star_is_one_segment() {
        check(
            "events/*",
            &["events/a", "events/*"],
            &["events", "events/a/b", "other/a"],
        );
        check("*", &["a"], &["a/b", ""]);
        check("*/b/*", &["a/b/c", "b/b/b"], &["a/c/c", "a/b"]);
    }

    #[test]
    fn two_stars_are_any_number_of_segments() {
        check("**", &["", "a", "a/b", "a/b/c", "__registry__"], &[]);
        check("a/**", &["a", "a/b", "a/b/c"], &["b", "b/a", "ab"]);
        check("**/z", &["z", "a/z", "z/z", "a/b/z"], &["a", "z/a"]);
        check("a/**/z", &["a/z", "a/b/z", "a/z/z/z"], &["a", "z", "a/z/b"]);
        check("a/**/*", &["a/b", "a/b/c"], &["a"]);
        check("**/a/**/b", &["a/b", "x/a/b/a/y/b"], &["b/a", "a/b/c"]);
    }

    #[test]
    fn only_a_whole_segment_is_a_wildcard() {
        check("a*", &["a*"], &["a", "ab", "a%2A"]);
        check("a**/b", &["a**/b"], &["a/b", "ax/b"]);
        check("***", &["***"], &["a", "a/b/c"]);
        check("events/a.b", &["events/a.b"], &["events/axb"]);
        check(
            "docs/*/.index",
            &["docs/x/.index"],
            &["docs/x/_index", "docs/.index"],
        );
        check("[ab]/?", &["%5Bab%5D/%3F"], &["a/b"]);
    }

    #[test]
    fn an_encoded_star_is_no_wildcard() {
        check("%2A", &["*", "%2A"], &["a", "**"]);
        check("%2a/x", &["*/x", "%2A/x"], &["a/x"]);
        check("%2A*", &["**", "%2A%2A", "*%2A"], &["a", "a/b", "*"]);
    }

    #[test]
    fn literals_are_spelled_like_names() {
        check("ü/*", &["%C3%BC/a"], &["u/a"]);
        check("%c3%bc/%7e", &["%C3%BC/~"], &[]);
        check("a%2fb", &["a%2Fb"], &["a/b"]);
        check("a b", &["a%20b"], &["a+b"]);
    }

    #[test]
    fn slashes_beyond_need_no_segment() {
        for pattern in ["/a/*", "a/*/", "//a///*//"] {
            assert_eq!(glob(pattern), glob("a/*"));
        }
        check("a/*", &["a//b", "/a/b", "a/b/"], &["a//"]);
    }

    #[test]
    fn what_no_stream_can_match_is_refused() {
        for pattern in [
            "", "/", "///", "a/./b", "..", "a/%2E%2e", "%", "a/%zz", "%FF",
        ] {
            assert!(
                Glob::parse(pattern, &Limits::DEFAULT).is_err(),
                "{pattern:?}"
            );
        }
    }

    #[test]
    fn length_and_double_stars_are_bounded() {
        let limits = Limits::DEFAULT;
        let longest = "a/".repeat(512);
        assert!(Glob::parse(&longest, &limits).is_ok());
        assert_eq!(
            Glob::parse(&(longest + "a"), &limits),
            Err("the pattern is too long")
        );
        // Each letter has two bytes, which take three characters each.
        assert!(Glob::parse(&"ü/".repeat(146), &limits).is_ok());
        assert_eq!(
            Glob::parse(&"ü/".repeat(147), &limits),
            Err("the pattern is too long")
        );
        assert!(Glob::parse("**/a/**/b/**/c/**", &limits).is_ok());
        assert_eq!(
            Glob::parse("**/a/**/b/**/**/**", &limits),
            Err("the pattern has too many **")
        );
        let none = Limits {
            pattern_double_stars_max: 0,
            ..limits
        };
        assert!(Glob::parse("*/a", &none).is_ok() && Glob::parse("**", &none).is_err());
    }

    #[test]
    fn the_first_segment_is_known_if_it_is_no_wildcard() {
        let first = |pattern: &str| glob(pattern).first_literal().map(str::to_owned);
        assert_eq!(first("/ü/**").as_deref(), Some("%C3%BC"));
        assert_eq!(first("a*/b").as_deref(), Some("a*"));
        for pattern in ["*/a", "**", "**/a", "%2A/a"] {
            assert_eq!(first(pattern), None, "{pattern}");
        }
        assert_eq!(
            [
                first_segment("a/b"),
                first_segment("//a"),
                first_segment("")
            ],
            ["a", "a", ""]
        );
    }

    #[test]
    fn the_worst_pattern_takes_no_time() {
        let glob = glob(&format!("**/{0}b/**/{0}b/**/{0}b/**/{0}b", "a/".repeat(60)));
        assert!(!glob.matches(&"a/".repeat(512)));
    }

    /// Matches as the protocol describes it, in exponential time.
    fn is_match(pattern: &[&str], name: &[&str]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((&"**", after)) => {
                (0..=name.len()).any(|skipped| is_match(after, &name[skipped..]))
            }
            Some((&first, after)) => name.split_first().is_some_and(|(given, rest)| {
                (first == "*" || first == *given) && is_match(after, rest)
            }),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_the_protocol_says(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..9),
            name in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..9),
        ) {
            let limits = Limits { pattern_double_stars_max: 9, ..Limits::DEFAULT };
            let glob = Glob::parse(&pattern.join("/"), &limits).unwrap();
            prop_assert_eq!(glob.matches(&name.join("/")), is_match(&pattern, &name));
        }

        #[test]
        fn the_first_segment_selects_all_names_that_match(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "%2A", "*", "**"]), 1..4),
            name in prop::collection::vec(prop::sample::select(vec!["a", "*", "%2A", ""]), 1..4),
        ) {
            let glob = Glob::parse(&pattern.join("/"), &Limits::DEFAULT).unwrap();
            let name = name.join("/");
            if let Some(first) = glob.first_literal().filter(|_| glob.matches(&name)) {
                prop_assert_eq!(first, first_segment(&name));
            }
        }

        #[test]
        fn the_spelling_in_ascii_is_the_same_pattern(pattern in "\\PC{0,40}|[a*%2A/ü\n]{0,20}") {
            let ascii = Glob::ascii(&pattern);
            prop_assert!(ascii.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(&Glob::ascii(&ascii), &ascii);
            let limits = Limits::DEFAULT;
            prop_assert_eq!(Glob::parse(&ascii, &limits), Glob::parse(&pattern, &limits));
        }

        /// A literal pattern matches the stream of the same name, however it is spelled.
        #[test]
        fn a_name_matches_itself(name in "[a-z%/ü~ ]{1,20}") {
            let limits = Limits::DEFAULT;
            if let (Ok(glob), Ok(canonical)) =
                (Glob::parse(&name, &limits), name::canonical(&name, &limits))
            {
                prop_assert!(glob.matches(&canonical));
            }
        }
    }
}
