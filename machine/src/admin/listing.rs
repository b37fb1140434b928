//! The lists of streams and of sessions: which names a page asks for, and its answer. A page reads
//! a bounded range of names in order, so its work does not grow with the number of streams.

use super::json::{Object, quoted};
use super::parameters::Parameters;
use crate::outbox::Statement;
use crate::router::name;
use crate::rows::{Expiry, StreamRow};
use crate::sql::Columns;
use crate::{Answer, Millis, Refusal, StorageError};

/// A page of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The least name of the page.
    pub from: String,
    /// Is greater than every name of the page.
    pub before: String,
    limit: u64,
    kind: Kind,
}

/// What a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// All streams but the server's own.
    Streams,
    /// Sessions alone, by their ids.
    Sessions,
}

/// A name that the page has come across, with what the list says of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    name: String,
    /// `None` if the stream is no more.
    stream: Option<ListedStream>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ListedStream {
    content_type: String,
    closed: bool,
    created_at: Millis,
    expires_at: Option<Millis>,
    ttl_seconds: Option<u64>,
    /// The source of a fork.
    forked_from: Option<String>,
}

/// Less than every character of a name.
const LEAST: char = '!';

/// Greater than every character of a name.
const GREATEST: char = '\u{7f}';

const FROM_INDEX: &str = "SELECT path, deleted_at, content_type, closed, created_at, expires_at, ttl_seconds, forked_from \
     FROM streams WHERE path >= ? AND path < ? ORDER BY path LIMIT ?";

impl Listing {
    /// Reads the parameters of the list of streams.
    pub(super) fn of_streams(mut parameters: Parameters) -> Result<Self, Refusal> {
        let limit = parameters.limit(100, 1_000)?;
        let after = parameters.text("cursor")?;
        let prefix = parameters.text("prefix")?.unwrap_or_default();
        parameters.finish()?;
        if !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::BadParameter {
                name: "prefix".to_owned(),
                rule: "must be the beginning of a stream id in its canonical spelling".to_owned(),
            });
        }
        Ok(Self::below(&prefix, after, limit, Kind::Streams))
    }

    /// Reads the parameters of the list of sessions. Its cursor is what the name of the last stream
    /// has behind the prefix.
    pub(super) fn of_sessions(mut parameters: Parameters) -> Result<Self, Refusal> {
        let limit = parameters.limit(100, 1_000)?;
        let after = parameters.text("cursor")?;
        parameters.finish()?;
        let prefix = name::SESSION_PREFIX;
        let after = after.map(|after| format!("{prefix}{after}"));
        Ok(Self::below(prefix, after, limit, Kind::Sessions))
    }

    fn below(prefix: &str, after: Option<String>, limit: u64, kind: Kind) -> Self {
        let mut before = prefix.to_owned();
        match before.pop() {
            Some(last) => {
                let last = u8::try_from(last).expect("the prefix is ASCII");
                before.push(char::from(last + 1));
            }
            None => before.push(GREATEST),
        }
        let behind = after.map(|mut after| {
            after.push(LEAST);
            after
        });
        let prefix = prefix.to_owned();
        Self {
            from: behind.map_or_else(|| prefix.clone(), |behind| behind.max(prefix.clone())),
            before,
            limit,
            kind,
        }
    }

    /// Returns how many names to read: one more than the page has, which shows that there is more.
    #[must_use]
    pub const fn names_read(&self) -> u64 {
        self.limit + 1
    }

    /// Returns the question to the admin index. [`Listed::from_index`] reads its rows.
    #[must_use]
    pub fn statement(&self) -> Statement {
        Statement {
            sql: FROM_INDEX,
            values: vec![
                self.from.clone().into(),
                self.before.clone().into(),
                self.names_read().into(),
            ],
        }
    }

    /// Returns the page of these names, which can come from several places. Each place has given
    /// its first [`Self::names_read`] names, or all if it has fewer.
    #[must_use]
    pub fn answer(&self, now: Millis, mut names: Vec<Listed>) -> Answer {
        names.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let limit = usize::try_from(self.limit).expect("a page has few names");
        let has_more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| has_more);
        let next = next.map(|last| quoted(self.kind.cursor(&last.name)));
        let entries = names.iter().filter_map(|Listed { name, stream }| {
            let stream = stream.as_ref()?;
            let has_passed = stream.expires_at.is_some_and(|at| at <= now);
            let entry = (!has_passed).then_some(stream)?;
            self.kind.entry(name, entry)
        });
        let object = Object::new().array(self.kind.member(), entries);
        let object = match next {
            Some(next) => object.json("nextCursor", &next),
            None => object,
        };
        object.flag("hasMore", has_more).answer()
    }
}

impl Kind {
    const fn member(self) -> &'static str {
        match self {
            Self::Streams => "streams",
            Self::Sessions => "sessions",
        }
    }

    /// Returns the cursor behind a name.
    fn cursor(self, name: &str) -> &str {
        match self {
            Self::Streams => name,
            Self::Sessions => {
                let rest = name.strip_prefix(name::SESSION_PREFIX);
                rest.expect("the page asks for names with the prefix")
            }
        }
    }

    /// Returns the entry of a stream; `None` if it does not belong into the list.
    fn entry(self, name: &str, stream: &ListedStream) -> Option<Object> {
        match self {
            Self::Streams => (!name::is_internal(name)).then(|| stream.object(name)),
            Self::Sessions => {
                name::is_session(name).then(|| stream.object_of_session(self.cursor(name)))
            }
        }
    }
}

impl ListedStream {
    fn object(&self, name: &str) -> Object {
        Object::new()
            .text("streamId", name)
            .text("contentType", &self.content_type)
            .flag("closed", self.closed)
            .number("createdAt", self.created_at.0)
            .number_or_null("expiresAt", self.expires_at.map(|at| at.0))
            .number_or_null("ttlSeconds", self.ttl_seconds)
            .text_or_null("forkedFrom", self.forked_from.as_deref())
    }

    fn object_of_session(&self, id: &str) -> Object {
        Object::new()
            .text("sessionId", id)
            .number("createdAt", self.created_at.0)
            .number_or_null("expiresAt", self.expires_at.map(|at| at.0))
            .number_or_null("ttlSeconds", self.ttl_seconds)
    }
}

impl Listed {
    /// Returns the name, which orders the list.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the entry of a name with the row of its stream, if there is one.
    #[must_use]
    pub fn of_rows(name: String, row: Option<&StreamRow>) -> Self {
        let row = row.filter(|row| row.lineage.deleted_at.is_none());
        let stream = row.map(|row| {
            let (expires_at, ttl_seconds) = expiry_columns(&row.expiry);
            let fork = row.lineage.fork.as_ref();
            ListedStream {
                content_type: row.content_type.clone(),
                closed: row.closed.is_some(),
                created_at: row.created_at,
                expires_at,
                ttl_seconds,
                forked_from: fork.map(|fork| fork.source.clone()),
            }
        });
        Self { name, stream }
    }

    /// Reads a row of the admin index.
    ///
    /// # Errors
    /// When the row is not as the machine writes it.
    pub fn from_index(row: &dyn Columns) -> Result<Self, StorageError> {
        let missing = || StorageError("a row of the index lacks a value".to_owned());
        let name = row.text(0)?.ok_or_else(missing)?;
        if row.integer(1)?.is_some() {
            return Ok(Self { name, stream: None });
        }
        let stream = ListedStream {
            content_type: row.text(2)?.ok_or_else(missing)?,
            closed: row.integer(3)?.ok_or_else(missing)? != 0,
            created_at: Millis(row.integer(4)?.ok_or_else(missing)?),
            expires_at: row.integer(5)?.map(Millis),
            ttl_seconds: row.integer(6)?,
            // The index has an empty text for a stream that is no fork.
            forked_from: Some(row.text(7)?.ok_or_else(missing)?).filter(|it| !it.is_empty()),
        };
        let stream = Some(stream);
        Ok(Self { name, stream })
    }
}

/// Returns the fixed end and the TTL of a stream.
pub(crate) const fn expiry_columns(expiry: &Expiry) -> (Option<Millis>, Option<u64>) {
    match expiry {
        Expiry::Never => (None, None),
        Expiry::Sliding { seconds } => (None, Some(*seconds)),
        Expiry::At { at, .. } => (Some(*at), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    fn listing(query: &str) -> Result<Listing, Refusal> {
        Listing::of_streams(Parameters::read(&format!("/admin/api/streams?{query}"))?)
    }

    fn sessions(query: &str) -> Result<Listing, Refusal> {
        Listing::of_sessions(Parameters::read(&format!("/admin/api/sessions?{query}"))?)
    }

    fn text_of(answer: Answer) -> String {
        match answer.body {
            Body::Bytes(bytes) => String::from_utf8(bytes).expect("the page is a text"),
            Body::Empty | Body::Plan(_) => panic!("the page is a text"),
        }
    }

    #[test]
    fn a_prefix_is_a_range_of_names() {
        let names = [
            "a", "a!", "a%25b", "a/b", "a_", "a_b", "ab", "axb", "b", "~", "~~",
        ];
        for (query, expected) in [
            ("", names.to_vec()),
            ("prefix=a_", vec!["a_", "a_b"]),
            ("prefix=a%25", vec!["a%25b"]),
            ("prefix=a%2525", vec!["a%25b"]),
            ("prefix=a/", vec!["a/b"]),
            ("prefix=a%2F", vec!["a/b"]),
            ("prefix=%7E", vec!["~", "~~"]),
            ("prefix=c", vec![]),
            ("cursor=a_", vec!["a_b", "ab", "axb", "b", "~", "~~"]),
            ("cursor=a&prefix=a_", vec!["a_", "a_b"]),
            ("cursor=a_&prefix=a_", vec!["a_b"]),
            ("cursor=a_b&prefix=a_", vec![]),
            ("cursor=%7E%7E", vec![]),
        ] {
            let listing = listing(query).expect("the query is well-formed");
            let found = names.iter().copied();
            let found: Vec<_> = found
                .filter(|name| *name >= listing.from.as_str() && *name < listing.before.as_str())
                .collect();
            assert_eq!(found, expected, "{query}");
        }
    }

    #[test]
    fn bad_parameters_are_refused_with_a_reason() {
        for (query, reason) in [
            ("limit=0", "limit must be a whole number from 1 to 1000"),
            ("limit=1001", "limit must be a whole number from 1 to 1000"),
            ("limit=", "limit must be a whole number from 1 to 1000"),
            ("limit=1e2", "limit must be a whole number from 1 to 1000"),
            ("limit=1&limit=1", "limit is there more than once"),
            ("pre=a", "pre is not a parameter of this route"),
            ("prefix=%", "the query is not valid percent-encoded UTF-8"),
            ("prefix=%C3", "the query is not valid percent-encoded UTF-8"),
            (
                "prefix=%C3%A4",
                "prefix must be the beginning of a stream id in its canonical spelling",
            ),
            (
                "prefix=a%20",
                "prefix must be the beginning of a stream id in its canonical spelling",
            ),
        ] {
            let refusal = listing(query).expect_err(query);
            assert_eq!(refusal.to_string(), reason, "{query}");
            assert_eq!(refusal.status_and_code().0, 400, "{query}");
        }
    }

    #[test]
    fn a_page_leaves_out_what_is_no_more_and_goes_on_behind_it() {
        let listed = |name: &str, expires_at: Option<u64>| Listed {
            name: name.to_owned(),
            stream: Some(ListedStream {
                content_type: "text/plain".to_owned(),
                closed: true,
                created_at: Millis(1),
                expires_at: expires_at.map(Millis),
                ttl_seconds: None,
                forked_from: Some("s\"".to_owned()),
            }),
        };
        let ended = Listed {
            name: "c".to_owned(),
            stream: None,
        };
        // As from two shards.
        let names = vec![
            listed("a", Some(10)),
            listed("d", None),
            listed("__registry__", None),
            listed("b", Some(11)),
            ended,
        ];
        let page = |limit: u64| {
            let listing = listing(&format!("limit={limit}")).expect("the query is well-formed");
            text_of(listing.answer(Millis(10), names.clone()))
        };
        let entry = |name: &str, at: &str| {
            format!(
                r#"{{"streamId":"{name}","contentType":"text/plain","closed":true,"createdAt":1,"expiresAt":{at},"ttlSeconds":null,"forkedFrom":"s\""}}"#
            )
        };
        let (b, d) = (entry("b", "11"), entry("d", "null"));
        assert_eq!(
            page(4),
            format!(r#"{{"streams":[{b}],"nextCursor":"c","hasMore":true}}"#)
        );
        assert_eq!(
            page(5),
            format!(r#"{{"streams":[{b},{d}],"hasMore":false}}"#)
        );
        assert_eq!(page(2), r#"{"streams":[],"nextCursor":"a","hasMore":true}"#);
    }
    #[test]
    fn sessions_have_a_list_of_their_own() {
        let ids = [
            "00000000-0000-4000-8000-000000000000",
            "7fffffff-ffff-4fff-bfff-ffffffffffff",
            "ffffffff-ffff-4fff-bfff-ffffffffffff",
        ];
        let session = |id: &str| format!("{}{id}", name::SESSION_PREFIX);
        // A client can create the stream between the first two.
        let mut names = ids.map(session).to_vec();
        names.push("subscriptions/5".to_owned());
        names.push("subscriptions".to_owned());
        names.push("subscriptionz".to_owned());
        let listed = |listing: &Listing| {
            let inside =
                |name: &&String| **name >= listing.from && name.as_str() < listing.before.as_str();
            let found = names.iter().filter(inside).map(|name| Listed {
                name: name.clone(),
                stream: Some(ListedStream {
                    content_type: "application/json".to_owned(),
                    closed: false,
                    created_at: Millis(1),
                    expires_at: None,
                    ttl_seconds: Some(60),
                    forked_from: None,
                }),
            });
            text_of(listing.answer(Millis(10), found.collect()))
        };
        let page = |query: &str| listed(&sessions(query).expect("the query is well-formed"));
        let entry = |id: &str| {
            format!(r#"{{"sessionId":"{id}","createdAt":1,"expiresAt":null,"ttlSeconds":60}}"#)
        };
        let all = ids.map(entry);
        assert_eq!(
            page(""),
            format!(r#"{{"sessions":[{}],"hasMore":false}}"#, all.join(","))
        );
        assert_eq!(
            page("limit=2"),
            format!(
                r#"{{"sessions":[{}],"nextCursor":"5","hasMore":true}}"#,
                all[0]
            )
        );
        let rest = format!(r#"{{"sessions":[{}],"hasMore":false}}"#, all[1..].join(","));
        assert_eq!(page("cursor=5"), rest);
        assert_eq!(page(&format!("cursor={}", ids[0])), rest);
        assert_eq!(page("cursor=~"), r#"{"sessions":[],"hasMore":false}"#);
        for refused in ["prefix=a", "limit=0", "limit=1001"] {
            let refusal = sessions(refused).expect_err(refused);
            assert_eq!(refusal.status_and_code().0, 400, "{refused}");
        }
        let streams = listed(&listing("").expect("the query is well-formed"));
        for (name, is_there) in [
            ("subscriptions", true),
            ("subscriptions/5", true),
            ("subscriptionz", true),
            (names[0].as_str(), false),
        ] {
            let has_it = streams.contains(&format!(r#""streamId":"{name}""#));
            assert_eq!(has_it, is_there, "{name}");
        }
    }
}
