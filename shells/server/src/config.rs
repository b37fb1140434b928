//! The operator's settings of this shell. The settings of both shells belong to the machine.

use std::path::PathBuf;
use std::time::Duration;

use machine::limits_table;
use machine::router::{SettingError, Settings, settings};
use machine::table::{Scope, Setting, TextDefault, Value};

#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    pub settings: Settings,
    pub bounds: Bounds,
    /// Whether answers have a `Date`, as those of a server with a clock should (RFC 9110, 6.6.1). A
    /// simulation has no clock.
    pub date: bool,
}

const MILLION: u64 = 1_000_000;
const TEBIBYTE: u64 = 1 << 40;
const DAY_MS: u64 = 86_400_000;

limits_table! {
    /// Bounds of one process. A request that exceeds one is answered 503. They change no other
    /// answer.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Bounds;

    /// Most connections at the same time. Beyond it, the one that has waited longest for a request
    /// is closed. If all have a request, further ones are answered 503, except for `/health` and
    /// `/metrics`.
    connections_max: usize = 10_000, Count, (1, MILLION), "CONNECTIONS_MAX";
    /// The share of connections and of live readers that one client address may have. An IPv6
    /// network of 64 bits counts as one address. Use 100 behind a proxy.
    address_share_percent: usize = 75, Percent, (1, 100), "ADDRESS_SHARE_PERCENT";
    /// Most live readers (SSE responses and long-polls) at the same time.
    readers_max: usize = 8_000, Count, (1, MILLION), "READERS_MAX";
    /// Memory for request bodies over all requests. Only bytes that have arrived count. Beyond it,
    /// the newest large body is refused, of the address that holds most.
    bodies_bytes_max: usize = 256 << 20, Bytes, (1, TEBIBYTE), "BODIES_BYTES_MAX";
    /// Memory for answers that clients have not taken yet. Beyond it, a client that has taken
    /// nothing for a second is cut off, first of the address that holds most. While every client
    /// takes bytes, a new answer is refused with 503 before it begins. One that has begun waits,
    /// and may exceed this bound.
    pages_bytes_max: usize = 128 << 20, Bytes, (1, TEBIBYTE), "PAGES_BYTES_MAX";
    /// Memory for pages that were read lately. Another read of such a page needs none of its rows.
    /// With 0, no page is kept.
    page_cache_bytes_max: usize = 32 << 20, Bytes, (0, TEBIBYTE), "PAGE_CACHE_BYTES_MAX";
    /// How long a connection may be idle between two requests. Keep it above the value of a proxy
    /// in front of the server.
    idle_timeout: Duration = Duration::from_secs(75), Milliseconds, (1, DAY_MS), "IDLE_TIMEOUT_MS";
    /// Most requests that wait for one stream.
    queue_max: usize = 4_096, Count, (1, MILLION), "QUEUE_MAX";
    /// Files that share the streams. Each has one commit at a time. With 0, a new directory gets
    /// one for each processor, and any other keeps its number. A directory with another number is
    /// refused, until `durable-streams reshard` has changed it.
    shards: usize = 0, Count, (0, 256), "SHARDS";
    /// Most streams whose state is in memory at the same time. Beyond it, the state of the least
    /// recently used stream is dropped, and read again when it is next used.
    loaded_streams_max: usize = 10_000, Count, (1, MILLION), "LOADED_STREAMS_MAX";
    /// Time without a request after which the state of a stream leaves memory. It may stay up to
    /// twice as long. The pages of a shard that SQLite keeps in memory leave it in the same way.
    stream_idle: Duration = Duration::from_secs(10), Milliseconds, (1, DAY_MS), "STREAM_IDLE_MS";
    /// Threads that use the storage. One runs the writes of each shard, and the others run reads.
    storage_threads: usize = 64, Count, (1, 1_024), "STORAGE_THREADS";
    /// Most webhooks that are under way at the same time. The others wait for a place, which counts
    /// as waiting for the receiver.
    webhooks_max: usize = 1_000, Count, (1, MILLION);
    /// Most webhooks to one host that are under way at the same time, so that a slow host delays no
    /// other.
    webhooks_of_host_max: usize = 100, Count, (1, MILLION);
    /// Most names of receivers that are looked up at the same time. Each takes a thread.
    webhook_lookups_max: usize = 16, Count, (1, 1_024);
    /// Connections beyond `CONNECTIONS_MAX` that are kept open to be answered 503. `/health` and
    /// `/metrics` answer them as usual.
    connections_refused_max: usize = 256, Count, (1, MILLION);
    /// When there is no room for bodies, those of at least this size are refused first.
    large_body_bytes: usize = 64 << 10, Bytes, (0, TEBIBYTE);
    /// On one machine, the rest of a refused body is read if it has at most this size. Otherwise
    /// the connection is closed.
    drain_bytes_max: u64 = 64 << 10, Bytes, (0, TEBIBYTE);
    /// When there is no room for answers, one whose client has taken nothing for this time is cut
    /// off.
    page_grace: Duration = Duration::from_secs(1), Milliseconds, (0, DAY_MS);
    /// Further pages that are made at the same time, of answers that have begun. This bounds by how
    /// much they can exceed the memory for answers.
    pages_made_max: usize = 16, Count, (1, 1_024);
    /// Memory for segments that are being stored, over all streams. The others wait. A single
    /// segment may be larger.
    puts_bytes_max: usize = 64 << 20, Bytes, (1, TEBIBYTE);
    /// A larger segment is put in parts, because it can be far larger than what one put should hold
    /// in memory.
    put_whole_bytes_max: u64 = 16 << 20, Bytes, (1, TEBIBYTE);
    /// All parts but the last have this size, and S3 takes none below 5 MiB. While one is on its
    /// way, the next is filled.
    put_part_bytes: usize = 8 << 20, Bytes, (5 << 20, 1 << 30);
    /// Largest head of a request.
    head_bytes_max: usize = 64 << 10, Bytes, (8 << 10, 1 << 20);
    /// Most header fields of a request.
    headers_max: usize = 100, Count, (1, 1_000);
    /// Most requests that share one commit.
    batch_jobs_max: usize = 1_024, Count, (1, MILLION);
    /// Size of the requests and the answers of one commit at which no more are added.
    batch_bytes_max: usize = 16 << 20, Bytes, (1, TEBIBYTE);
    /// The streams whose messages are counted in each of the last 60 minutes, for the admin API.
    /// When a minute has more, the server forgets the quieter half of them.
    traffic_streams_max: usize = 2_000, Count, (2, MILLION);
    /// Page cache of SQLite for each connection to a shard.
    cache_kib: u32 = 8_192, Kibibytes, (1, MILLION);
    /// Connections for reads that each shard keeps open while nobody uses them.
    readers_kept_max: usize = 4, Count, (0, 1_024);
    /// Time for the head of a request to arrive once it has begun.
    head_timeout: Duration = Duration::from_secs(30), Milliseconds, (1, DAY_MS);
    /// Time for the next part of a body to arrive.
    body_timeout: Duration = Duration::from_secs(30), Milliseconds, (1, DAY_MS);
    /// Time for the whole body to arrive.
    body_deadline: Duration = Duration::from_secs(300), Milliseconds, (1, DAY_MS);
    /// Rate at which a body has to arrive after `body_timeout`.
    body_rate_min: u64 = 1_024, BytesPerSecond, (1, TEBIBYTE);
    /// Time for a client to take anything that is written to it.
    write_timeout: Duration = Duration::from_secs(60), Milliseconds, (1, DAY_MS);
    /// Time for a client to close a connection that the server has finished with.
    linger_timeout: Duration = Duration::from_secs(30), Milliseconds, (1, DAY_MS);
    /// Longest silence of such a client.
    linger_silence: Duration = Duration::from_secs(5), Milliseconds, (1, DAY_MS);
    /// Free bytes on the disk below which the server counts as failing.
    disk_free_min: u64 = 32 << 20, Bytes, (0, TEBIBYTE);
    /// How long a shard's failed commit is remembered, if no other commit of the shard follows.
    failure_memory: Duration = Duration::from_secs(30), Milliseconds, (0, DAY_MS);
    /// Time for the cold tier to send the next part of a page.
    fetch_timeout: Duration = Duration::from_secs(30), Milliseconds, (1, DAY_MS);
    /// Time for requests to be answered after the server was asked to end.
    shutdown_timeout: Duration = Duration::from_secs(10), Milliseconds, (0, DAY_MS);
    /// The pause before an alarm whose turn failed fires again. It doubles with each failure of the
    /// stream, up to the greatest pause.
    alarm_retry: Duration = Duration::from_secs(5), Milliseconds, (1, DAY_MS);
    /// The greatest pause before an alarm fires again.
    alarm_retry_max: Duration = Duration::from_secs(300), Milliseconds, (1, DAY_MS);
    /// Most alarms whose turns are under way at the same time.
    alarms_max: usize = 256, Count, (1, MILLION);
    /// The pause before a shard that cannot be opened is tried again. It doubles with each failure,
    /// up to the greatest pause.
    reopen_pause: Duration = Duration::from_millis(100), Milliseconds, (1, DAY_MS);
    /// The greatest pause before a shard is tried again.
    reopen_pause_max: Duration = Duration::from_secs(5), Milliseconds, (1, DAY_MS);
}

impl Bounds {
    /// Reads the bounds that have a variable. An empty variable counts as absent.
    ///
    /// # Errors
    /// Fails when a variable has a value outside of its range.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let mut bounds = Self::DEFAULT;
        settings::read_numbers(&mut bounds, Self::TABLE, variable)?;
        Ok(bounds)
    }

    /// Checks all bounds.
    ///
    /// # Panics
    /// When a bound is outside of its range.
    pub(crate) fn check(&self) {
        for row in Self::TABLE {
            row.check(self);
        }
    }
}

fn text(
    name: &'static str,
    shape: &'static str,
    default: TextDefault,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        scope: Scope::Server,
        value: Value::Text { shape, default },
        help: help.to_owned(),
    }
}

/// Returns the settings of this shell: where it listens, what it logs, and where data is kept.
#[must_use]
pub fn places() -> Vec<Setting> {
    vec![
        text(
            "LISTEN",
            "ADDRESS:PORT",
            TextDefault::Is("127.0.0.1:4437"),
            "The address to listen on.",
        ),
        text(
            "DATA",
            "DIRECTORY",
            TextDefault::Is("data"),
            "The directory that holds everything. It is created if it does not exist. Only one \
             server at a time can use it.",
        ),
        text(
            "LOG",
            "FILTER",
            TextDefault::Is("info"),
            "What to log: error, warn, info, debug or trace. Modules can have levels of their own, \
             such as `server=debug,hyper=warn`.",
        ),
        Setting {
            name: "LOG_FORMAT",
            scope: Scope::Server,
            value: Value::Choice {
                options: &["text", "json"],
                default: "text",
            },
            help: "How to log.".to_owned(),
        },
    ]
}

/// Returns the settings of the cold tier in this shell.
#[must_use]
pub fn cold() -> Vec<Setting> {
    vec![
        text(
            "COLD",
            "DIRECTORY|s3://BUCKET/PREFIX|none",
            TextDefault::Absent("the directory `cold` in DATA"),
            "Where sealed segments are moved to: a directory, a bucket of an S3 service, or `none`. \
             With `none` everything stays in the shards. Keys of an S3 service are \
             read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. While the \
             cold tier does not answer, reads of what it holds are answered 503, and everything \
             else goes on. Two servers may share a bucket, but never a directory.",
        ),
        text(
            "AWS_ENDPOINT",
            "URL",
            TextDefault::Absent("that of Amazon S3"),
            "The URL of the S3 service, such as https://ACCOUNT.r2.cloudflarestorage.com or \
             http://127.0.0.1:9000.",
        ),
        text(
            "AWS_REGION",
            "REGION",
            TextDefault::Absent("us-east-1"),
            "The region of the bucket. It is `auto` for R2.",
        ),
    ]
}

/// Returns the bounds as operators see them.
#[must_use]
pub fn bounds() -> Vec<Setting> {
    let rows = Bounds::TABLE.iter();
    rows.map(|row| row.setting(&Bounds::DEFAULT, Scope::Server))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_is_read_from_its_variable_within_its_range() {
        Bounds::DEFAULT.check();
        for row in Bounds::TABLE {
            let Some(name) = row.variable else { continue };
            let read = |value: String| {
                Bounds::read(&|each| (each == name).then(|| value.clone()))
                    .map(|bounds| (row.get)(&bounds))
                    .map_err(|bad| bad.to_string())
            };
            for value in [row.least, row.greatest] {
                assert_eq!(read(value.to_string()), Ok(value), "{name}");
            }
            assert_eq!(read(String::new()), Ok((row.get)(&Bounds::DEFAULT)));
            let (least, greatest) = (row.least, row.greatest);
            let rule = format!("{name} must be a whole number from {least} to {greatest}");
            let below = least.checked_sub(1).map(|below| below.to_string());
            let beyond = [(greatest + 1).to_string(), "1s".to_owned()];
            for value in below.into_iter().chain(beyond) {
                assert_eq!(read(value.clone()), Err(format!("{rule}, not {value:?}")));
            }
        }
    }

    #[test]
    #[should_panic(expected = "headers_max is 0, which is not from 1 to 1000")]
    fn a_bound_outside_of_its_range_is_a_panic() {
        let headers_max = 0;
        Bounds {
            headers_max,
            ..Bounds::DEFAULT
        }
        .check();
    }

    #[test]
    fn every_help_text_is_whole_sentences() {
        for setting in [places(), cold(), bounds()].concat() {
            let help = &setting.help;
            assert!(help.ends_with('.') && !help.contains("  "), "{help}");
        }
    }
}
