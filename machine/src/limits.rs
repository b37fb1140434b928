//! All tunable numbers. The simulator draws them at random. The shells read those that have a
//! variable from their configuration (see [`crate::router::settings`]).

use crate::limits_table;
use crate::live_reader::RECONNECT_DOUBLINGS_MAX;
use crate::plan::FRAME_OVERHEAD;
use crate::subscription::signing::SigningSeed;
use crate::table::Row;

const MILLIS_PER_SECOND: u64 = 1_000;
const DAY_MS: u64 = 86_400_000;
const YEAR_MS: u64 = 365 * DAY_MS;
/// A year. HTTP caches treat a longer age like this one.
const HTTP_AGE_MAX_S: u64 = 31_536_000;
/// The last date in JavaScript, in milliseconds since the Unix epoch.
const LAST_DATE_MS: u64 = 8_640_000_000_000_000;
/// After this many doublings, one millisecond is 49 days.
pub(crate) const DOUBLINGS_MAX: u64 = 32;
/// More than any shell accepts as the head of a request.
const TEXT_BYTES_MAX: u64 = 64 << 10;

limits_table! {
    /// Limits of the machine.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Limits;

    /// Largest body of a PUT or POST. A larger one is answered 413.
    append_bytes_max: u64 = 16 << 20, Bytes, (1, 100 << 20), "MAX_APPEND_BYTES";
    /// Largest page of a read, and the most that a read of any length holds in memory at a time.
    /// A page holds whole messages (whole appends, where the content is bytes), at least one, and
    /// ends at an entry of the index. So it can be larger by one of them.
    chunk_bytes_max: u64 = 1 << 20, Bytes, (1, 16 << 20), "MAX_CHUNK_BYTES";
    /// Longest wait of a long-poll.
    long_poll_timeout_ms: u64 = 20_000, Milliseconds, (1, 300_000), "LONG_POLL_TIMEOUT_MS";
    /// Age at which an SSE response ends, so that reconnecting clients can be collapsed again
    /// (protocol 5.8).
    sse_max_age_ms: u64 = 60_000, Milliseconds, (100, 3_600_000), "SSE_MAX_AGE_MS";
    /// Silence after which an SSE response sends a comment, so that proxies do not close it as
    /// idle.
    sse_heartbeat_ms: u64 = 15_000, Milliseconds, (100, 3_600_000), "SSE_HEARTBEAT_MS";
    /// Size at which a segment is sealed and moved to the cold tier.
    segment_bytes_max: u64 = 8 << 20, Bytes, (1, 1 << 30), "SEGMENT_MAX_BYTES";
    /// Number of messages (appends, where the content is bytes) at which a segment is sealed.
    segment_messages_max: u64 = 100_000, Count, (1, 1_000_000_000), "SEGMENT_MAX_MESSAGES";
    /// Age of its first message at which a segment is sealed. So segments of inactive streams move
    /// to the cold tier, too.
    segment_age_ms_max: u64 = DAY_MS, Milliseconds, (1, YEAR_MS), "SEGMENT_MAX_AGE_MS";
    /// Distance between entries of a segment's index, and length of a block with its own checksum.
    /// A read from the middle of a segment fetches at most this much too much. Pages end at these
    /// entries in both tiers. At most the size of a page is used.
    index_step_bytes: u64 = 64 << 10, Bytes, (1, 16 << 20), "INDEX_STEP_BYTES";
    /// Idle time after which a producer is forgotten when the next segment is sealed (protocol
    /// 5.2.1). It must then begin at `Producer-Seq: 0` again.
    producer_max_idle_ms: u64 = 7 * DAY_MS, Milliseconds, (1, 10 * YEAR_MS), "PRODUCER_MAX_IDLE_MS";
    /// Number of streams that share the registry's events: `__registry__`, `__registry__/1` and so
    /// on. The name of a stream selects the one that holds its events.
    registry_shards: u64 = 1, Count, (1, 256), "REGISTRY_SHARDS";
    /// Time limit of a put to the cold tier. After it the outcome is unknown and another attempt
    /// starts. A large segment gets more time (4 s for each MiB), and each further attempt twice as
    /// much, up to half of `COLLECT_GRACE_MS`.
    put_timeout_ms: u64 = 60_000, Milliseconds, (1, DAY_MS), "PUT_TIMEOUT_MS";
    /// Time limit of deletions in the cold tier, and of requests to the registry, to the index, to
    /// Cloudflare Access and to Analytics Engine.
    reply_timeout_ms: u64 = 30_000, Milliseconds, (1, DAY_MS), "REPLY_TIMEOUT_MS";
    /// Longest pause before the first retry of a task, a put or a call. It doubles with each
    /// further failure. Each pause is between half of that and all of it, at random.
    retry_base_ms: u64 = 2_000, Milliseconds, (1, DAY_MS), "RETRY_MIN_MS";
    /// Longest pause before any retry. At least `RETRY_MIN_MS`.
    retry_ms_max: u64 = 600_000, Milliseconds, (1, DAY_MS), "RETRY_MAX_MS";
    /// How long unreferenced objects stay in the cold tier. It must be longer than any put can be
    /// under way, and longer than any answer can take to send.
    collect_grace_ms: u64 = 3_600_000, Milliseconds, (1, YEAR_MS), "COLLECT_GRACE_MS";
    /// Bytes of request bodies that a Worker isolate holds at the same time. A request that would
    /// exceed this is refused with `Retry-After`. A single body is always accepted.
    bodies_bytes_max: u64 = 40 << 20, Bytes, (1, 100 << 20);
    /// Bytes of a refused body that a Worker reads and discards, so that the client can read the
    /// answer.
    drain_bytes_max: u64 = 64 << 20, Bytes, (0, 1 << 30);
    /// Silence after which a Worker no longer waits for the rest of a refused body.
    drain_silence_ms: u64 = 100, Milliseconds, (1, 60_000);
    /// The largest announced body that a Worker lets the platform collect. A larger one is received
    /// in pieces.
    whole_body_bytes_max: u64 = 16 << 10, Bytes, (0, 1 << 20);
    /// Bytes that the reader's side buffers for a client that does not read, before it disconnects
    /// from the stream.
    reader_held_bytes_max: u64 = 256 << 10, Bytes, (1, 16 << 20);
    /// Largest payload that is sent to live readers. A larger append is announced without its
    /// bytes, and each reader fetches it as a page.
    frame_bytes_max: u64 = 256 << 10, Bytes, (0, 512 << 10);
    /// Bound of the random pause before a live reader reconnects after its connection to the stream
    /// broke. It doubles with each failed attempt, up to 16 times this value.
    reconnect_base_ms: u64 = 1_000, Milliseconds, (0, DAY_MS);
    /// Most entries, and most checksums, of a segment's index. A segment that would need more gets
    /// a longer step. This keeps the index below 2 MB, the platform's limit for one value.
    index_entries_max: u64 = 50_000, Count, (1, 50_000);
    /// Most segments that contribute to one page.
    page_parts_max: u64 = 16, Count, (1, 1_000);
    /// Slowest transfer to the cold tier for which the time limit of a put is long enough.
    put_bytes_per_s_min: u64 = 256 << 10, BytesPerSecond, (1, u64::MAX);
    /// How many times the time limit of a put can double. It doubles with each further attempt.
    put_doublings_max: u64 = 6, Count, (0, DOUBLINGS_MAX);
    /// Most objects deleted by one request. R2 and S3 accept 1,000.
    collect_keys_max: u64 = 1_000, Count, (1, 1_000);
    /// Most queues of the outbox that an instance holds in memory. It works on all of them at the
    /// same time.
    outbox_queues_max: u64 = 32, Count, (1, 10_000);
    /// Most tasks of one queue of the outbox that an instance holds in memory.
    outbox_tasks_max: u64 = 32, Count, (1, 10_000);
    /// Commits of appends that may be in flight before further appends wait. The next commit takes
    /// those that wait together.
    commits_in_flight_max: u64 = 1, Count, (1, 1_000_000_000), "COMMITS_IN_FLIGHT";
    /// One in this many events becomes a data point of `METRICS`, at random. Questions weigh it
    /// accordingly.
    metrics_sample: u64 = 1, Count, (1, 1_000_000), "METRICS_SAMPLE";
    /// Memory for the appends of one stream that wait for a commit. Beyond it, an append is refused
    /// with `Retry-After`.
    waiting_bytes_max: u64 = 16 << 20, Bytes, (1, 1 << 30);
    /// Most appends that one turn takes.
    turn_calls_max: u64 = 256, Count, (1, 100_000);
    /// Most bytes that the appends of one turn have together. A single append may be larger.
    turn_bytes_max: u64 = 4 << 20, Bytes, (1, 1 << 30);
    /// Largest row that appends of one turn share. A smaller value makes pages and the index of a
    /// segment finer.
    fold_bytes_max: u64 = 16 << 10, Bytes, (0, 1_500_000);
    /// Largest row. The platform allows 2 MB for one value. A row needs room for the length of a
    /// message and for some of it.
    row_bytes_max: u64 = 1_500_000, Bytes, (FRAME_OVERHEAD + 1, 2_000_000);
    /// Longest stream name in its canonical, percent-encoded form.
    name_bytes_max: u64 = 1_024, Bytes, (1, TEXT_BYTES_MAX);
    /// Longest `Producer-Id`.
    producer_id_bytes_max: u64 = 1_024, Bytes, (1, TEXT_BYTES_MAX);
    /// Most producers forgotten when a segment is sealed, or twice the number of producers in the
    /// segment if that is more.
    producers_forgotten_max: u64 = 1_000, Count, (1, 1_000_000);
    /// Longest `Stream-Seq`.
    stream_seq_bytes_max: u64 = 1_024, Bytes, (1, TEXT_BYTES_MAX);
    /// Longest `Content-Type`.
    content_type_bytes_max: u64 = 256, Bytes, (1, TEXT_BYTES_MAX);
    /// How long the creation of a fork may take. After that, what it has pinned is released.
    fork_time_ms: u64 = 20_000, Milliseconds, (1, DAY_MS);
    /// Forks of one stream. A further one is refused with 429.
    forks_max: u64 = 10_000, Count, (1, 1_000_000);
    /// How many forks may follow each other in a chain. A longer chain is refused with 409.
    fork_depth_max: u64 = 100, Count, (1, 1_000_000);
    /// Segments that a fork may inherit. A longer source is refused with 409.
    fork_segments_max: u64 = 10_000, Count, (1, 1_000_000);
    /// Size of a row with the segments that a fork inherits. A read decodes one such row. A row
    /// with a single segment may be larger.
    manifest_bytes_max: u64 = 256 << 10, Bytes, (1, 1_500_000);
    /// Rows that are read at once to find where appends end.
    appends_read_max: u64 = 1_000, Count, (1, 100_000);
    /// A read stores a new last use only when the stored one is older than TTL / this. A larger
    /// value means more writes and less delay of an expiry.
    touch_slack_divisor: u64 = 8, Count, (1, 1_000_000);
    /// An alarm this long overdue is considered lost and is set again.
    alarm_grace_ms: u64 = 60_000, Milliseconds, (0, DAY_MS);
    /// How far the clock of the platform's alarms may be ahead of the object's clock.
    clock_skew_ms_max: u64 = 5_000, Milliseconds, (0, DAY_MS);
    /// Latest time of an alarm, since the Unix epoch: the last date in JavaScript.
    alarm_at_max_ms: u64 = LAST_DATE_MS, Milliseconds, (0, LAST_DATE_MS);
    /// Shortest delay of an alarm.
    alarm_delay_ms_min: u64 = 1_000, Milliseconds, (0, DAY_MS);
    /// Length of a cursor interval (protocol 10.1).
    cursor_interval_ms: u64 = 20_000, Milliseconds, (1, u64::MAX);
    /// Start of the first cursor interval, since the Unix epoch (protocol 10.1): 9 October 2024,
    /// 00:00 UTC.
    cursor_epoch_ms: u64 = 1_728_432_000_000, Milliseconds, (0, LAST_DATE_MS);
    /// Most intervals that a cursor moves ahead of a client's cursor that is at or after the
    /// current interval.
    cursor_jitter_intervals: u64 = 180, Count, (1, 1_000_000);
    /// `max-age` of a page that can never change.
    page_max_age_s: u64 = 60, Seconds, (0, HTTP_AGE_MAX_S);
    /// `stale-while-revalidate` of a page that can never change.
    page_stale_s: u64 = 300, Seconds, (0, HTTP_AGE_MAX_S);
    /// `max-age` of a long-poll answer in shared cache mode.
    long_poll_max_age_s: u64 = 20, Seconds, (0, HTTP_AGE_MAX_S);
    /// `Access-Control-Max-Age` of a preflight answer.
    preflight_max_age_s: u64 = 86_400, Seconds, (0, HTTP_AGE_MAX_S);
    /// `Retry-After` of an answer that asks the client to retry.
    retry_after_s: u64 = 1, Seconds, (1, 3_600);
    /// Longest pattern of a subscription. Characters other than printable ASCII count as their
    /// percent-encoded form.
    pattern_bytes_max: u64 = 1_024, Bytes, (1, TEXT_BYTES_MAX);
    /// How often a pattern of a subscription may have `**`.
    pattern_double_stars_max: u64 = 4, Count, (0, 1_000);
    /// Longest URL of a webhook.
    webhook_url_bytes_max: u64 = 2_048, Bytes, (1, TEXT_BYTES_MAX);
    /// How far the times of a receiver and of a webhook's signature may differ (protocol 6.5). A
    /// public key stays published for this long after its last signature.
    webhook_replay_window_ms: u64 = 300_000, Milliseconds, (0, DAY_MS);
    /// `max-age` of the public keys. A key is published this long before it signs.
    jwks_max_age_s: u64 = 300, Seconds, (0, 86_400);
    /// How long a key signs webhooks before the next one does.
    signing_key_ms: u64 = 30 * DAY_MS, Milliseconds, (1, 10 * YEAR_MS);

    /// Largest body of a request to a subscription.
    subscription_bytes_max: u64 = 1 << 20, Bytes, (1, 16 << 20);
    /// Most streams of one subscription.
    subscription_links_max: u64 = 10_000, Count, (1, 1_000_000), "SUBSCRIPTION_STREAMS_MAX";
    /// Most subscriptions of one stream.
    stream_links_max: u64 = 10_000, Count, (1, 1_000_000), "STREAM_SUBSCRIPTIONS_MAX";
    /// Longest description of a subscription.
    description_bytes_max: u64 = 4 << 10, Bytes, (0, 64 << 10);
    /// Lease of a subscription that names none (protocol 6.2).
    lease_ms_default: u64 = 30_000, Milliseconds, (1, DAY_MS);
    /// Longest name of a worker.
    worker_bytes_max: u64 = 1 << 10, Bytes, (1, 1 << 20);
    /// Most bytes of the names of streams in the creation of a subscription, all together. They
    /// are in one row with everything else that was asked for.
    subscription_names_bytes_max: u64 = 512 << 10, Bytes, (1, 1 << 20);
    /// Shortest lease that a subscription may name.
    lease_ms_min: u64 = 1_000, Milliseconds, (1, DAY_MS);
    /// Longest lease that a subscription may name.
    lease_ms_max: u64 = 600_000, Milliseconds, (1, DAY_MS);
    /// How long a token of a wake is valid, and how long a deleted subscription is remembered.
    token_ms: u64 = 3_600_000, Milliseconds, (1, YEAR_MS);
    /// Longest wait for the answer to a webhook. A shorter lease shortens it.
    webhook_time_ms: u64 = 30_000, Milliseconds, (1, DAY_MS), "WEBHOOK_TIMEOUT_MS";
    /// Time after `webhook_time_ms` at which a webhook counts as lost if the shell has not reported
    /// its end.
    webhook_grace_ms: u64 = 5_000, Milliseconds, (1, DAY_MS);
    /// Largest answer to a webhook that is read.
    webhook_answer_bytes_max: u64 = 64 << 10, Bytes, (0, 1 << 20);
    /// Pause before the first retry of a webhook. It doubles with each further failure. Each pause
    /// is up to a fifth longer or shorter.
    webhook_retry_base_ms: u64 = 1_000, Milliseconds, (1, DAY_MS);
    /// What the pause before a retry of a webhook grows to. The pause itself is up to a fifth
    /// longer or shorter.
    webhook_retry_ms_max: u64 = 60_000, Milliseconds, (1, DAY_MS);
    /// Most streams without pending events in the body of a webhook.
    webhook_streams_max: u64 = 100, Count, (0, 1_000_000);
    /// Most streams that are asked for their tails before a request of a worker is answered.
    asks_max: u64 = 100, Count, (1, 10_000);
    /// Longest wait for the tails that a request of a worker needs.
    ask_time_ms: u64 = 5_000, Milliseconds, (1, DAY_MS);
    /// Most subscriptions in one object of the directory. A stream that is created gets all whose
    /// patterns match it in one answer.
    directory_subscriptions_max: u64 = 10_000, Count, (1, 1_000_000);
    /// Most streams in one page of the directory.
    directory_page_max: u64 = 500, Count, (1, 10_000);
    /// Most calls of subscriptions that a stream has in flight.
    link_calls_max: u64 = 50, Count, (1, 10_000);
    /// Time after which a stream checks that its subscriptions know of an append, in case that it
    /// was interrupted.
    link_check_ms: u64 = 60_000, Milliseconds, (1, DAY_MS);
    /// Time to live of a session. Each use begins it anew.
    session_ttl_seconds: u64 = 86_400, Seconds, (1, 315_360_000), "SESSION_TTL_SECONDS";
    /// Largest body of a request about sessions.
    session_request_bytes_max: u64 = 16 << 10, Bytes, (1, 1 << 20);
    /// Most streams that a session can subscribe to.
    session_streams_max: u64 = 1_000, Count, (1, 100_000), "SESSION_STREAMS_MAX";
    /// How long an expired session is answered 410, and not 404.
    session_tombstone_ms: u64 = 3_600_000, Milliseconds, (0, YEAR_MS);
    /// Most sessions that can subscribe to a stream.
    stream_sessions_max: u64 = 10_000, Count, (1, 1_000_000), "STREAM_SESSIONS_MAX";
    /// Most sessions that a stream delivers to at the same time.
    deliveries_max: u64 = 50, Count, (1, 10_000);
    /// Most calls of sessions, or batches for the fan-out queue, that begin in one step. So an
    /// append begins few, and their ends begin more, up to `deliveries_max`.
    deliveries_per_step_max: u64 = 2, Count, (1, 10_000);
    /// Most sessions that a stream calls itself. If it has more, it notifies them through the
    /// fan-out queue, if there is one.
    fanout_queue_threshold: u64 = 200, Count, (0, 1_000_000), "FANOUT_QUEUE_THRESHOLD";
    /// Most messages that a stream sends to the fan-out queue at once.
    fanout_messages_max: u64 = 100, Count, (1, 100);
    /// Most bytes of the messages that a stream sends to the fan-out queue at once, roughly.
    fanout_bytes_max: u64 = 240_000, Bytes, (1, 256_000);
    /// Most batches that a stream has on their way to the fan-out queue.
    fanout_batches_max: u64 = 5, Count, (1, 1_000);
    /// Most attempts of the fan-out queue to deliver to a session. Then the stream calls the
    /// session.
    fanout_attempts_max: u64 = 5, Count, (1, 100);
    /// Most calls of the fan-out queue in one attempt, because a session takes one page at a time.
    /// Then the stream calls the session.
    fanout_calls_max: u64 = 10, Count, (1, 1_000);
    /// Most appends that a session takes at once from one stream.
    delivery_appends_max: u64 = 200, Count, (1, 10_000);
    /// Largest append that reaches a session with its content, about. A larger one arrives without
    /// it.
    envelope_bytes_max: u64 = 256 << 10, Bytes, (1, 1 << 20);
    /// Longest token that permits requests for streams.
    stream_token_bytes_max: u64 = 16 << 10, Bytes, (1, TEXT_BYTES_MAX);
    /// How far the clock of the issuer of such a token may be from that of the server.
    stream_token_skew_ms_max: u64 = 60_000, Milliseconds, (0, DAY_MS);
    /// Most patterns of streams in such a token.
    stream_token_patterns_max: u64 = 100, Count, (0, 10_000);
    /// Longest token of Cloudflare Access.
    access_token_bytes_max: u64 = 16 << 10, Bytes, (1, TEXT_BYTES_MAX);
    /// How far the clock of Cloudflare Access may be from that of the Worker.
    access_skew_ms_max: u64 = 60_000, Milliseconds, (0, DAY_MS);
    /// How long the keys of a team of Cloudflare Access count.
    access_keys_age_ms_max: u64 = 3_600_000, Milliseconds, (1, DAY_MS);
    /// How often an isolate of the Worker may ask for these keys in `access_fetch_period_ms`.
    access_fetches_max: u64 = 20, Count, (1, 1_000);
    /// Period in which an isolate fetches these keys at most `access_fetches_max` times.
    access_fetch_period_ms: u64 = 60_000, Milliseconds, (1, DAY_MS);

    beside {
        /// Whether there is a cold tier. Without one, segments are never sealed.
        cold: bool = false;
        /// Whether streams send events to the registry.
        registry: bool = false;
        /// Whether streams list themselves and their segments in the admin index.
        index: bool = false;
        /// Whether streams list themselves in the directory, so that patterns find them.
        subscriptions: bool = false;
        /// Whether there is a fan-out queue.
        fanout_queue: bool = false;
        /// Whether webhooks may go to this machine, also without TLS. For tests and development.
        webhook_loopback: bool = false;
        /// The operator's key that signs webhooks. Without one, the server rotates keys of its own.
        signing_key: Option<SigningSeed> = None;
        /// Whether turns contain their events.
        metrics: bool = false;
    }
}

impl Limits {
    /// Pairs of limits of which the first is never more than the second.
    const AT_MOST: [(&str, &str); 1] = [("retry_base_ms", "retry_ms_max")];

    /// Checks all limits.
    ///
    /// # Panics
    /// When a limit is outside of its range, or more than another that bounds it. Settings that do
    /// so are refused before (see [`crate::router::settings`]).
    pub fn check(&self) {
        for row in Self::TABLE {
            row.check(self);
        }
        if let Some((less, more)) = self.disorder() {
            panic!("{} is more than {}", less.field, more.field);
        }
    }

    /// Returns two limits of which the first is more than the second, but may not be.
    pub(crate) fn disorder(&self) -> Option<(&'static Row<Self>, &'static Row<Self>)> {
        let mut pairs = Self::AT_MOST.iter();
        pairs.find_map(|(less, more)| {
            let (less, more) = (Self::row(less), Self::row(more));
            ((less.get)(self) > (more.get)(self)).then_some((less, more))
        })
    }

    /// Returns the row of a field.
    ///
    /// # Panics
    /// When there is no such field.
    #[must_use]
    pub fn row(field: &str) -> &'static Row<Self> {
        let row = Self::TABLE.iter().find(|row| row.field == field);
        row.expect("every limit has a row")
    }

    /// Returns whether an isolate that holds `held` bytes of other bodies accepts `bytes` of this
    /// one.
    #[must_use]
    pub const fn takes_body(&self, held: u64, bytes: u64) -> bool {
        held == 0 || held.saturating_add(bytes) <= self.bodies_bytes_max
    }

    /// Returns the bound of the pause between attempts to reconnect when many have failed: 16 times
    /// `reconnect_base_ms`.
    #[must_use]
    pub const fn reconnect_ms_max(&self) -> u64 {
        self.reconnect_base_ms << RECONNECT_DOUBLINGS_MAX
    }

    /// Returns the largest body that the registry accepts. It fits every event that a stream can
    /// send, even if `append_bytes_max` is small.
    #[must_use]
    pub fn registry_bytes_max(&self) -> u64 {
        /// What an event has beside names and content type: keys, numbers and punctuation.
        const REST_BYTES: u64 = 256;
        /// JSON writes at most this many bytes for one byte of a name or a content type.
        const ESCAPE_FACTOR: u64 = 2;

        // An event contains the name twice.
        let texts = 2 * self.name_bytes_max + self.content_type_bytes_max;
        let event = ESCAPE_FACTOR * texts + REST_BYTES;
        self.append_bytes_max.max(event)
    }

    /// Returns the time limit of an attempt (counted from 1) to put a segment of `bytes`. A large
    /// segment gets more time. The limit doubles with each further attempt, so that a slow cold
    /// tier is not interrupted forever just before it finishes. The result is at most half of
    /// `collect_grace_ms` (or `put_timeout_ms`, if that is more), because an object that a put
    /// leaves behind after the grace period is never collected.
    #[must_use]
    pub fn put_time_ms(&self, bytes: u64, attempt: u64) -> u64 {
        let transfer = bytes.saturating_mul(MILLIS_PER_SECOND) / self.put_bytes_per_s_min;
        let doublings = attempt.saturating_sub(1).min(self.put_doublings_max);
        let time = self
            .put_timeout_ms
            .saturating_add(transfer)
            .saturating_mul(1 << doublings);
        time.min((self.collect_grace_ms / 2).max(self.put_timeout_ms))
    }

    /// Returns the effective distance of index entries.
    #[must_use]
    pub const fn index_step(&self) -> u64 {
        if self.index_step_bytes < self.chunk_bytes_max {
            self.index_step_bytes
        } else {
            self.chunk_bytes_max
        }
    }

    /// Returns the distance of entries in the index of a segment with this many framed bytes: the
    /// smallest multiple of the step that satisfies `index_entries_max`.
    #[must_use]
    pub(crate) fn index_block(&self, bytes: u64) -> u64 {
        let step = self.index_step();
        let entries_max = self.index_entries_max;
        let block = step * bytes.div_ceil(step).div_ceil(entries_max).max(1);
        assert!(
            bytes.div_ceil(block) <= entries_max,
            "an index has at most the allowed number of entries"
        );
        block
    }
}

/// The largest integer that JavaScript represents exactly; the protocol's bound for producer
/// numbers (5.2.1).
pub(crate) const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::rows::RowKey;

    #[test]
    #[should_panic(expected = "touch_slack_divisor is 0, which is not from 1 to 1000000")]
    fn a_limit_outside_of_its_range_is_a_panic() {
        Limits {
            touch_slack_divisor: 0,
            ..Limits::DEFAULT
        }
        .check();
    }

    #[test]
    #[should_panic(expected = "retry_base_ms is more than retry_ms_max")]
    fn a_limit_beyond_the_one_that_bounds_it_is_a_panic() {
        Limits {
            retry_base_ms: 7,
            retry_ms_max: 6,
            ..Limits::DEFAULT
        }
        .check();
    }

    #[test]
    fn every_range_admits_the_default_and_every_row_has_its_own_field() {
        Limits::DEFAULT.check();
        for row in Limits::TABLE {
            let mut limits = Limits::DEFAULT;
            let other = if (row.get)(&limits) == row.least {
                row.greatest
            } else {
                row.least
            };
            (row.set)(&mut limits, other);
            for each in Limits::TABLE {
                let changed = (each.get)(&limits) != (each.get)(&Limits::DEFAULT);
                assert_eq!(
                    changed,
                    each.field == row.field,
                    "{} {}",
                    row.field,
                    each.field
                );
            }
            assert!(!row.admits(row.greatest.wrapping_add(1)) || row.greatest == u64::MAX);
        }
    }

    #[test]
    fn bounds_are_the_numbers_that_their_names_say() {
        assert_eq!(YEAR_MS, 365 * 24 * 60 * 60 * MILLIS_PER_SECOND);
        assert_eq!(YEAR_MS, HTTP_AGE_MAX_S * MILLIS_PER_SECOND);
        assert_eq!(TEXT_BYTES_MAX, 65_536);
        assert_eq!(SAFE_INTEGER_MAX, 9_007_199_254_740_991);
    }

    #[test]
    fn a_key_has_room_for_the_largest_message_and_the_fullest_segment() {
        let greatest = |field| Limits::row(field).greatest;
        let parts_max = RowKey::last_at(0).stored() + 1;
        let message = greatest("append_bytes_max") + FRAME_OVERHEAD;
        assert!(message.div_ceil(Limits::DEFAULT.row_bytes_max) <= parts_max);
        let units = greatest("segment_bytes_max") + greatest("append_bytes_max");
        assert!(RowKey::at(units) < RowKey::LAST);
    }

    #[test]
    fn the_time_of_a_put_grows_with_size_and_attempts_up_to_half_of_the_grace() {
        let limits = Limits::DEFAULT;
        let minutes = |bytes, attempt| limits.put_time_ms(bytes, attempt) / 60_000;
        assert_eq!(minutes(0, 1), 1);
        assert_eq!([1, 2, 3].map(|attempt| minutes(0, attempt)), [1, 2, 4]);
        // 15 MiB take one minute at 256 KiB per second.
        assert_eq!(minutes(15 << 20, 1), 2);
        assert_eq!(minutes(400 << 20, 1), 27);
        assert_eq!(minutes(400 << 20, 2), 30);
        assert_eq!(minutes(u64::MAX, u64::MAX), 30);
    }

    #[test]
    fn an_isolate_takes_bodies_up_to_its_bound_and_any_body_alone() {
        let limits = Limits {
            bodies_bytes_max: 40,
            ..Limits::DEFAULT
        };
        assert!(limits.takes_body(0, 100));
        assert!(limits.takes_body(16, 24));
        assert!(!limits.takes_body(16, 25));
        assert!(!limits.takes_body(1, u64::MAX));
    }
}
