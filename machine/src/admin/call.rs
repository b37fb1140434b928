//! What the admin API asks of the object of a stream.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::Refusal;
use crate::outbox::Task;
use crate::wire::internal_headers;
use crate::wire::request::safe_integer;
use crate::words::{self, Words};

/// A request to the object of a stream, beside those of the protocol. None of them counts as use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCall {
    /// The properties of the stream, and its state.
    Detail,
    /// Its sealed segments.
    Segments {
        /// The page begins behind this number.
        after: Option<u64>,
        /// The greatest number of entries.
        limit: u64,
    },
    /// Its producers, in the order of their ids.
    Producers {
        /// The page begins behind this id.
        after: Option<String>,
        /// The greatest number of entries.
        limit: u64,
    },
    /// The tasks of its outbox.
    Outbox {
        /// The page begins behind this queue and id.
        after: Option<(String, u64)>,
        /// The greatest number of entries.
        limit: u64,
    },
    /// What was appended in each of the last minutes.
    Throughput {
        /// How many minutes, the present one included.
        minutes: u64,
    },
    /// The live readers at the tail.
    Subscribers,
    /// The session of the stream: its properties, and a page of what it has subscribed to.
    Session {
        /// The page begins behind this stream.
        after: Option<String>,
        /// The greatest number of streams.
        limit: u64,
    },
    /// Ends the open segment now.
    Seal,
}

/// The value of the header for an action that is a request of the protocol.
pub(super) const ACTION: &str = "action";

impl AdminCall {
    /// Returns whether the call changes nothing.
    #[must_use]
    pub const fn only_reads(&self) -> bool {
        !matches!(self, Self::Seal)
    }

    /// Returns the value of [`internal_headers::ADMIN_CALL`].
    pub(super) fn to_header(&self) -> String {
        let words = match self {
            Self::Detail => Words::new("detail"),
            Self::Segments { after, limit } => Words::new("segments").word(limit).optional(*after),
            Self::Producers { after, limit } => {
                let words = Words::new("producers").word(limit);
                with_text(words, after.as_deref())
            }
            Self::Outbox { after, limit } => {
                let words = Words::new("outbox").word(limit);
                match after {
                    None => words,
                    Some((queue, id)) => with_text(words.word(id), Some(queue)),
                }
            }
            Self::Throughput { minutes } => Words::new("throughput").word(minutes),
            Self::Subscribers => Words::new("subscribers"),
            Self::Session { after, limit } => {
                let words = Words::new("session").word(limit);
                with_text(words, after.as_deref())
            }
            Self::Seal => Words::new("seal"),
        };
        words.finish()
    }

    /// Reads what [`Self::to_header`] writes.
    pub(crate) fn from_header(text: &str) -> Result<Self, Refusal> {
        Self::read(words::Reader::new(text)).ok_or(Refusal::MalformedHeader {
            header: internal_headers::ADMIN_CALL,
            rule: "is not a call of this version",
        })
    }

    fn read(mut words: words::Reader<'_>) -> Option<Self> {
        Some(match words.word()? {
            "detail" => Self::Detail,
            "segments" => Self::Segments {
                limit: words.parse()?,
                after: words.optional()?,
            },
            "producers" => Self::Producers {
                limit: words.parse()?,
                after: text(&mut words)?,
            },
            "outbox" => Self::Outbox {
                limit: words.parse()?,
                after: match words.parse() {
                    None => None,
                    Some(id) => Some((text(&mut words)??, id)),
                },
            },
            "throughput" => Self::Throughput {
                minutes: words.parse()?,
            },
            "subscribers" => Self::Subscribers,
            "session" => Self::Session {
                limit: words.parse()?,
                after: text(&mut words)?,
            },
            "seal" => Self::Seal,
            _ => return None,
        })
    }
}

/// Adds a text of any characters, which can be empty.
pub(super) fn with_text(words: Words, text: Option<&str>) -> Words {
    match text {
        None => words,
        Some(text) => words.word(format_args!(
            "={}",
            utf8_percent_encode(text, NON_ALPHANUMERIC)
        )),
    }
}

/// Reads what [`with_text`] has added; `None` if it is malformed.
pub(super) fn text(words: &mut words::Reader<'_>) -> Option<Option<String>> {
    let Some(word) = words.word() else {
        return Some(None);
    };
    let text = percent_decode_str(word.strip_prefix('=')?).decode_utf8();
    Some(Some(text.ok()?.into_owned()))
}

/// Returns the cursor behind a task.
pub(crate) fn cursor_of(queue: &str, id: u64) -> String {
    format!("{id}/{queue}")
}

/// Reads what [`cursor_of`] writes.
pub(super) fn task_of(cursor: &str) -> Result<(String, u64), Refusal> {
    let parts = cursor.split_once('/');
    let parts = parts.and_then(|(id, queue)| Some((queue.to_owned(), safe_integer(id)?)));
    let parts = parts.filter(|(_, id)| *id <= Task::LAST_ID);
    parts.ok_or_else(|| Refusal::BadParameter {
        name: "cursor".to_owned(),
        rule: "must be the nextCursor of a page of this list".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_as_it_was_written() {
        let texts = ["", "a b", "-", "=", "ä/%\n", "x".repeat(300).as_str()].map(str::to_owned);
        let mut calls = vec![
            AdminCall::Detail,
            AdminCall::Subscribers,
            AdminCall::Seal,
            AdminCall::Throughput { minutes: 60 },
        ];
        for limit in [1, 100] {
            calls
                .extend([None, Some(0), Some(7)].map(|after| AdminCall::Segments { after, limit }));
            calls.push(AdminCall::Producers { after: None, limit });
            calls.push(AdminCall::Session { after: None, limit });
            calls.push(AdminCall::Outbox { after: None, limit });
            for text in &texts {
                let after = Some(text.clone());
                calls.push(AdminCall::Producers { after, limit });
                let after = Some(text.clone());
                calls.push(AdminCall::Session { after, limit });
                let after = Some((text.clone(), 3));
                calls.push(AdminCall::Outbox { after, limit });
            }
        }
        for call in calls {
            let header = call.to_header();
            assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert_eq!(AdminCall::from_header(&header), Ok(call), "{header}");
        }
        for malformed in [
            "",
            "action",
            "segments",
            "segments x -",
            "outbox 1 2",
            "producers 1 x",
            "session",
            "session 1 x",
        ] {
            assert!(AdminCall::from_header(malformed).is_err(), "{malformed}");
        }
    }
}
