//! Questions to the SQL API of Analytics Engine about the data points of [`crate::event`], and the
//! answers of the admin API that follow from its results. The service keeps only a sample. Each row
//! of it stands for `_sample_interval` rows, and each of those for `double5` events.

use super::json::Object;
use super::{SYSTEM_MINUTES, ratio};
use crate::event::{self, SCHEMA};
use crate::rows::Minutes;
use crate::wire::json;
use crate::wire::request::safe_integer;
use crate::{Answer, Millis};

/// The dataset of `wrangler.toml`.
const DATASET: &str = "durable_streams_metrics";
const MILLIS_PER_MINUTE: u64 = 60_000;
const SECONDS_PER_MINUTE: u64 = 60;

/// How to ask the service.
#[derive(Clone, PartialEq, Eq)]
pub struct Analytics {
    /// The id of the account.
    pub account: String,
    /// A token that may read its analytics.
    pub token: String,
}

impl core::fmt::Debug for Analytics {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "the account {}", self.account)
    }
}

impl Analytics {
    /// Returns the URL to which the text of a question is posted, with the token.
    #[must_use]
    pub fn url(&self) -> String {
        format!(
            "https://api.cloudflare.com/client/v4/accounts/{}/analytics_engine/sql",
            self.account
        )
    }
}

/// A question about what was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The streams with most messages.
    Hot {
        /// The last minutes that count.
        minutes: u64,
        /// The greatest number of streams.
        limit: u64,
    },
    /// All streams together.
    System,
    /// One stream, minute by minute.
    Throughput {
        /// Its canonical name.
        name: String,
        /// The last minutes that count.
        minutes: u64,
    },
}

impl Counts {
    /// Returns the text of the question.
    #[must_use]
    pub fn sql(&self, now: Millis) -> String {
        let since = self.first_minute(now) * SECONDS_PER_MINUTE;
        let (key, also, end) = match self {
            Self::Hot { limit, .. } => (
                "blob3 AS key, ",
                String::new(),
                format!(" GROUP BY key ORDER BY messages DESC LIMIT {limit}"),
            ),
            Self::System => ("", String::new(), String::new()),
            Self::Throughput { name, .. } => (
                "intDiv(toUInt32(timestamp), 60) AS key, ",
                format!(" AND index1 = '{}'", event::index(name)),
                " GROUP BY key ORDER BY key".to_owned(),
            ),
        };
        format!(
            "SELECT {key}SUM(_sample_interval * double5 * double2) AS messages, \
             SUM(_sample_interval * double5 * double3) AS bytes FROM {DATASET} \
             WHERE blob1 = '{SCHEMA}' AND blob2 IN ('append', 'create') \
             AND timestamp >= toDateTime({since}){also}{end} FORMAT JSON"
        )
    }

    const fn minutes(&self) -> u64 {
        match self {
            Self::Hot { minutes, .. } | Self::Throughput { minutes, .. } => *minutes,
            Self::System => SYSTEM_MINUTES,
        }
    }

    /// Returns the first minute that counts, from 1970.
    fn first_minute(&self, now: Millis) -> u64 {
        (Minutes::of(now) + 1).saturating_sub(self.minutes())
    }

    /// Returns the answer of the admin API; `None` if the service has not answered what was asked.
    /// `now` is the time for which it was asked.
    #[must_use]
    pub fn answer(&self, now: Millis, answer: &str) -> Option<Answer> {
        let rows = json::elements(&json::member(answer, "data")?)?;
        let rows = rows.iter().map(|row| Row::read(row));
        let rows = rows.collect::<Option<Vec<_>>>()?;
        let object = match self {
            Self::Hot { minutes, .. } => {
                let streams = rows.iter().map(|row| {
                    Object::new()
                        .text("streamId", &row.key)
                        .number("messageCount", row.messages)
                        .number("byteCount", row.bytes)
                });
                Object::new()
                    .array("streams", streams)
                    .number("periodMinutes", *minutes)
                    .number_or_null("since", None)
            }
            Self::System => {
                let (messages, bytes) =
                    rows.first().map_or((0, 0), |row| (row.messages, row.bytes));
                Object::new()
                    .number("messagesLast5Min", messages)
                    .number("bytesLast5Min", bytes)
                    .json(
                        "messagesPerSecond",
                        &ratio(messages, SYSTEM_MINUTES * SECONDS_PER_MINUTE),
                    )
                    .number_or_null("activeSubscribers", None)
                    .number_or_null("since", None)
            }
            Self::Throughput { name, minutes } => {
                let first = self.first_minute(now);
                let of = |minute: u64| {
                    let key = minute.to_string();
                    let row = rows.iter().find(|row| row.key == key);
                    row.map_or((0, 0), |row| (row.messages, row.bytes))
                };
                let mut total = 0;
                let buckets: Vec<_> = (first..=Minutes::of(now))
                    .map(|minute| {
                        let (messages, bytes) = of(minute);
                        total += messages;
                        Object::new()
                            .number("timestamp", minute * MILLIS_PER_MINUTE)
                            .number("messages", messages)
                            .number("bytes", bytes)
                    })
                    .collect();
                Object::new()
                    .text("streamId", name)
                    .array("buckets", buckets)
                    .json("avgMessagesPerMinute", &ratio(total, *minutes))
                    .number("periodMinutes", 1)
            }
        };
        Some(object.answer())
    }
}

struct Row {
    key: String,
    messages: u64,
    bytes: u64,
}

impl Row {
    fn read(row: &str) -> Option<Self> {
        let number = |name| whole(&json::member(row, name)?);
        let key = json::member(row, "key").unwrap_or_default();
        Some(Self {
            key: json::text(&key).unwrap_or(key),
            messages: number("messages")?,
            bytes: number("bytes")?,
        })
    }
}

/// Returns the whole part of a number, which can be a text: the service writes large integers as
/// such. A sum over no rows is `null`.
fn whole(json: &str) -> Option<u64> {
    if json == "null" {
        return Some(0);
    }
    let text = json::text(json).unwrap_or_else(|| json.to_owned());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let is_plain = fraction.bytes().all(|byte| byte.is_ascii_digit());
    safe_integer(whole).filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    const NOW: Millis = Millis(1_800_000_059_999);

    fn text(counts: &Counts, answer: &str) -> Option<String> {
        let Body::Bytes(body) = counts.answer(NOW, answer)?.body else {
            panic!("the answer is a text");
        };
        Some(String::from_utf8(body).expect("the answer is a text"))
    }

    #[test]
    fn questions_weigh_each_row_and_name_streams_by_their_index() {
        let sums = "SUM(_sample_interval * double5 * double2) AS messages, \
                    SUM(_sample_interval * double5 * double3) AS bytes";
        let from =
            "FROM durable_streams_metrics WHERE blob1 = '1' AND blob2 IN ('append', 'create')";
        let (minutes, limit) = (5, 10);
        assert_eq!(
            Counts::Hot { minutes, limit }.sql(NOW),
            format!(
                "SELECT blob3 AS key, {sums} {from} AND timestamp >= toDateTime(1799999760) \
                 GROUP BY key ORDER BY messages DESC LIMIT 10 FORMAT JSON"
            )
        );
        assert_eq!(
            Counts::System.sql(NOW),
            format!("SELECT {sums} {from} AND timestamp >= toDateTime(1799999760) FORMAT JSON")
        );
        let name = "a'b".to_owned();
        let sql = Counts::Throughput { name, minutes: 1 }.sql(NOW);
        let index = event::index("a'b");
        assert_eq!(
            sql,
            format!(
                "SELECT intDiv(toUInt32(timestamp), 60) AS key, {sums} {from} \
                 AND timestamp >= toDateTime(1800000000) AND index1 = '{index}' \
                 GROUP BY key ORDER BY key FORMAT JSON"
            )
        );
    }

    #[test]
    fn answers_have_the_members_of_the_admin_api() {
        let (minutes, limit) = (5, 10);
        let rows = r#"{"meta":[],"data":[{"key":"a","messages":60.5,"bytes":"3120"}],"rows":1}"#;
        assert_eq!(
            text(&Counts::Hot { minutes, limit }, rows).as_deref(),
            Some(
                r#"{"streams":[{"streamId":"a","messageCount":60,"byteCount":3120}],"periodMinutes":5,"since":null}"#
            )
        );
        let system = r#"{"data":[{"messages":60,"bytes":3120}]}"#;
        assert_eq!(
            text(&Counts::System, system).as_deref(),
            Some(
                r#"{"messagesLast5Min":60,"bytesLast5Min":3120,"messagesPerSecond":0.200,"activeSubscribers":null,"since":null}"#
            )
        );
        for empty in [
            r#"{"data":[]}"#,
            r#"{"data":[{"messages":null,"bytes":null}]}"#,
        ] {
            let answer = text(&Counts::System, empty).expect("it is an answer");
            assert!(answer.starts_with(r#"{"messagesLast5Min":0,"#), "{answer}");
        }
        let name = "s".to_owned();
        let buckets = r#"{"data":[{"key":30000000,"messages":"3","bytes":30}]}"#;
        assert_eq!(
            text(&Counts::Throughput { name, minutes: 2 }, buckets).as_deref(),
            Some(
                r#"{"streamId":"s","buckets":[{"timestamp":1799999940000,"messages":0,"bytes":0},{"timestamp":1800000000000,"messages":3,"bytes":30}],"avgMessagesPerMinute":1.500,"periodMinutes":1}"#
            )
        );
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        for broken in [
            "",
            "[]",
            r#"{"data":1}"#,
            r#"{"data":[1]}"#,
            r#"{"data":[{"messages":1}]}"#,
            r#"{"data":[{"messages":-1,"bytes":1}]}"#,
            r#"{"data":[{"messages":1e9,"bytes":1}]}"#,
            r#"{"data":[{"messages":"1.x","bytes":1}]}"#,
            r#"{"errors":[{"code":1}]}"#,
        ] {
            assert_eq!(text(&Counts::System, broken), None, "{broken}");
        }
    }
}
