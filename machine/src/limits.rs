//! All tunable numbers. The simulator draws them at random. The shells read the public ones from
//! their configuration (see [`crate::router::settings`]).

use crate::live_reader::RECONNECT_DOUBLINGS_MAX;

/// Limits of the machine. Sizes are in bytes and times in milliseconds unless the name says
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of one append or of a PUT's initial content.
    pub append_bytes_max: u64,
    /// Bytes of request bodies that a Worker isolate holds at the same time. A request that would
    /// exceed this is refused with `Retry-After`. A single body is always accepted.
    pub bodies_bytes_max: u64,
    /// Bytes of a refused body that are read and discarded, so that the client can read the answer.
    pub drain_bytes_max: u64,
    /// Silence after which the rest of a refused body is no longer awaited.
    pub drain_silence_ms: u64,
    /// Largest page of a read, framed. A page holds whole messages or appends, so it can exceed
    /// this by one of them.
    pub chunk_bytes_max: u64,
    /// Longest wait of a long-poll.
    pub long_poll_timeout_ms: u64,
    /// Age at which an SSE response ends, so that reconnecting clients can be collapsed again
    /// (protocol 5.8).
    pub sse_max_age_ms: u64,
    /// Silence after which an SSE response sends a comment, so that proxies do not close it as
    /// idle.
    pub sse_heartbeat_ms: u64,
    /// Bytes that the reader's side buffers for a client that does not read, before it disconnects
    /// from the stream.
    pub reader_held_bytes_max: u64,
    /// Largest payload that is sent to subscribers. A larger append is announced without its bytes,
    /// and each reader fetches it as a page.
    pub frame_bytes_max: u64,
    /// Bound of the random pause before a live reader reconnects after its connection to the stream
    /// broke. It doubles with each failed attempt, up to [`Self::reconnect_ms_max`].
    pub reconnect_base_ms: u64,
    /// Whether there is a cold tier. Without one, segments are never sealed.
    pub cold: bool,
    /// Whether streams send events to the registry.
    pub registry: bool,
    /// Number of streams that share the registry's events. The name of a stream selects the one
    /// that holds its events.
    pub registry_shards: u64,
    /// Whether streams list themselves and their segments in the admin index.
    pub index: bool,
    /// Size, framed, at which a segment is sealed.
    pub segment_bytes_max: u64,
    /// Number of messages (appends, where the content is bytes) at which a segment is sealed.
    pub segment_messages_max: u64,
    /// Age of its first message at which a segment is sealed, so that segments of inactive streams
    /// move to the cold tier, too.
    pub segment_age_ms_max: u64,
    /// Distance between entries of a segment's sparse index, and length of a block with its own
    /// checksum. Pages end at these entries, so that pages of hot and cold segments are the same.
    /// At most `chunk_bytes_max` is used.
    pub index_step_bytes: u64,
    /// Most entries, and most checksums, of a sparse index. A segment that would need more gets a
    /// longer step. This keeps the index below 2 MB, the platform's limit for one value.
    pub index_entries_max: u64,
    /// Most segments that contribute to one page.
    pub page_parts_max: u64,
    /// Time limit of a put to the cold tier. After it the outcome is unknown and another attempt
    /// starts. Large segments and further attempts get more time; see [`Self::put_time_ms`].
    pub put_timeout_ms: u64,
    /// Slowest transfer to the cold tier, in bytes per second, for which the time limit of a put is
    /// long enough.
    pub put_bytes_per_s_min: u64,
    /// How many times the time limit of a put can double. It doubles with each further attempt.
    pub put_doublings_max: u64,
    /// Time limit of deletions in the cold tier, and of requests to the registry and the index.
    pub reply_timeout_ms: u64,
    /// Pause before the first retry. It doubles with each further failure and is randomised.
    pub retry_base_ms: u64,
    /// Longest pause before a retry.
    pub retry_ms_max: u64,
    /// How long unreferenced objects are kept. Must be longer than any put can be under way, and
    /// longer than any answer can take to send.
    pub collect_grace_ms: u64,
    /// Most objects deleted by one request.
    pub collect_keys_max: u64,
    /// Largest row. The platform allows 2 MB per value.
    pub row_bytes_max: u64,
    /// Longest stream name in its canonical, percent-encoded form.
    pub name_bytes_max: u64,
    /// Longest `Producer-Id`.
    pub producer_id_bytes_max: u64,
    /// Idle time after which a producer can be forgotten. This happens when a segment is sealed
    /// (protocol 5.2.1).
    pub producer_max_idle_ms: u64,
    /// Most producers forgotten when a segment is sealed, or twice the number of producers in the
    /// segment if that is more.
    pub producers_forgotten_max: u64,
    /// Longest `Stream-Seq`.
    pub stream_seq_bytes_max: u64,
    /// Longest `Content-Type`.
    pub content_type_bytes_max: u64,
    /// A read stores a new last use only when the stored one is older than TTL / this. A larger
    /// value means more writes and less delay of an expiry.
    pub touch_slack_divisor: u64,
    /// An alarm this long overdue is considered lost and is set again.
    pub alarm_grace_ms: u64,
    /// How far the clock of the platform's alarms may be ahead of the object's clock.
    pub clock_skew_ms_max: u64,
    /// Latest time of an alarm, in milliseconds since the Unix epoch: the last date in JavaScript.
    pub alarm_at_max_ms: u64,
    /// Shortest delay of an alarm.
    pub alarm_delay_ms_min: u64,
    /// Length of a cursor interval (protocol 10.1).
    pub cursor_interval_ms: u64,
    /// Start of the first cursor interval, in milliseconds since the Unix epoch (protocol 10.1).
    pub cursor_epoch_ms: u64,
    /// Most intervals that a cursor moves ahead of a client's cursor that is at or after the
    /// current interval.
    pub cursor_jitter_intervals: u64,
    /// `max-age` of a page that can never change, in seconds.
    pub page_max_age_s: u64,
    /// `stale-while-revalidate` of such a page, in seconds.
    pub page_stale_s: u64,
    /// `max-age` of a long-poll answer in shared cache mode, in seconds.
    pub long_poll_max_age_s: u64,
    /// `Access-Control-Max-Age` of a preflight answer, in seconds.
    pub preflight_max_age_s: u64,
    /// `Retry-After` of an answer that asks the client to retry, in seconds.
    pub retry_after_s: u64,
}

impl Limits {
    /// The values used in production unless configured otherwise.
    pub const DEFAULT: Self = Self {
        append_bytes_max: 16 << 20,
        bodies_bytes_max: 40 << 20,
        drain_bytes_max: 64 << 20,
        drain_silence_ms: 100,
        chunk_bytes_max: 1 << 20,
        long_poll_timeout_ms: 20_000,
        sse_max_age_ms: 60_000,
        sse_heartbeat_ms: 15_000,
        reader_held_bytes_max: 256 << 10,
        frame_bytes_max: 256 << 10,
        reconnect_base_ms: 1_000,
        cold: false,
        registry: false,
        registry_shards: 1,
        index: false,
        segment_bytes_max: 8 << 20,
        segment_messages_max: 100_000,
        segment_age_ms_max: 86_400_000,
        index_step_bytes: 64 << 10,
        index_entries_max: 50_000,
        page_parts_max: 16,
        put_timeout_ms: 60_000,
        put_bytes_per_s_min: 256 << 10,
        put_doublings_max: 6,
        reply_timeout_ms: 30_000,
        retry_base_ms: 2_000,
        retry_ms_max: 600_000,
        collect_grace_ms: 3_600_000,
        collect_keys_max: 1_000,
        row_bytes_max: 1_500_000,
        name_bytes_max: 1_024,
        producer_id_bytes_max: 1_024,
        producer_max_idle_ms: 7 * 86_400_000,
        producers_forgotten_max: 1_000,
        stream_seq_bytes_max: 1_024,
        content_type_bytes_max: 256,
        touch_slack_divisor: 8,
        alarm_grace_ms: 60_000,
        clock_skew_ms_max: 5_000,
        alarm_at_max_ms: 8_640_000_000_000_000,
        alarm_delay_ms_min: 1_000,
        cursor_interval_ms: 20_000,
        // 9 October 2024, 00:00 UTC.
        cursor_epoch_ms: 1_728_432_000_000,
        cursor_jitter_intervals: 180,
        page_max_age_s: 60,
        page_stale_s: 300,
        long_poll_max_age_s: 20,
        preflight_max_age_s: 86_400,
        retry_after_s: 1,
    };
}

impl Limits {
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
        // The name twice, the content type, and the rest of the event. JSON escapes can double each
        // byte.
        let event = 2 * (2 * self.name_bytes_max + self.content_type_bytes_max) + 256;
        self.append_bytes_max.max(event)
    }

    /// Returns the time limit of an attempt (counted from 1) to put a segment of `bytes`. A large
    /// segment gets more time. The limit doubles with each further attempt, so that a slow cold
    /// tier is not interrupted forever just before it finishes. The result is at most half of
    /// `collect_grace_ms` (or `put_timeout_ms`, if that is more), because an object that a put
    /// leaves behind after the grace period is never collected.
    #[must_use]
    pub fn put_time_ms(&self, bytes: u64, attempt: u64) -> u64 {
        let transfer = bytes.saturating_mul(1_000) / self.put_bytes_per_s_min.max(1);
        let doublings = attempt
            .saturating_sub(1)
            .min(self.put_doublings_max)
            .min(32);
        let time = self
            .put_timeout_ms
            .saturating_add(transfer)
            .saturating_mul(1 << doublings);
        time.min((self.collect_grace_ms / 2).max(self.put_timeout_ms))
    }

    /// Returns the effective distance of index entries.
    #[must_use]
    pub const fn index_step(&self) -> u64 {
        let step = if self.index_step_bytes < self.chunk_bytes_max {
            self.index_step_bytes
        } else {
            self.chunk_bytes_max
        };
        if step == 0 { 1 } else { step }
    }

    /// Returns the distance of entries in the index of a segment with this many framed bytes: the
    /// smallest multiple of the step that satisfies `index_entries_max`.
    #[must_use]
    pub(crate) fn index_block(&self, bytes: u64) -> u64 {
        let step = self.index_step();
        let entries_max = self.index_entries_max.max(1);
        let block = step * bytes.div_ceil(step).div_ceil(entries_max).max(1);
        assert!(
            bytes.div_ceil(block) <= entries_max,
            "an index has at most the allowed number of entries"
        );
        block
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The largest integer that JavaScript represents exactly; the protocol's bound for producer
/// numbers (5.2.1).
pub const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;

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
