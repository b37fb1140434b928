//! Every number that could be tuned, in one place. The simulator draws them; the shells read the
//! public ones from their configuration (see [`crate::router::settings`]).

/// Sizes in bytes, times in milliseconds, unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body of one append or of a PUT's initial content.
    pub append_bytes_max: u64,
    /// Bytes of request bodies that an isolate of the Worker holds at once. What would go beyond is
    /// asked to come back; one body alone is always taken.
    pub bodies_bytes_max: u64,
    /// Bytes of a refused body that are read and thrown away, so that the client gets to read the
    /// answer.
    pub drain_bytes_max: u64,
    /// Silence after which such a body is taken for one that never comes.
    pub drain_silence_ms: u64,
    /// Largest page of a read, framed. A page holds whole messages or appends, and may be larger by
    /// one of them.
    pub chunk_bytes_max: u64,
    /// Longest wait of a long-poll.
    pub long_poll_timeout_ms: u64,
    /// Age at which an SSE response is ended, so that clients collapse anew (protocol 5.8).
    pub sse_max_age_ms: u64,
    /// Silence after which an SSE response carries a comment, so that nobody cuts it for being
    /// idle.
    pub sse_heartbeat_ms: u64,
    /// Bytes that the reader's side holds for a client that does not read, before it lets go of its
    /// line.
    pub reader_held_bytes_max: u64,
    /// Largest payload pushed over a line; a larger append is announced without its bytes and read
    /// as a page.
    pub frame_bytes_max: u64,
    /// Longest pause before a reader's side dials again after its line was cut.
    pub redial_ms_max: u64,
    /// Whether there is a cold tier. Without one no segment is ever sealed.
    pub cold: bool,
    /// Whether streams announce themselves to the registry.
    pub registry: bool,
    /// Over how many streams the registry's events are spread, by the names of the streams that
    /// they tell of.
    pub registry_shards: u64,
    /// Whether streams list themselves and their segments in the admin index.
    pub index: bool,
    /// Size, framed, at which a segment is sealed.
    pub segment_bytes_max: u64,
    /// Number of messages (appends, where the content is bytes) at which a segment is sealed.
    pub segment_messages_max: u64,
    /// Age of its first message at which a segment is sealed, so that a stream that has fallen
    /// quiet is moved, too.
    pub segment_age_ms_max: u64,
    /// Distance of the entries of a segment's sparse index, and length of the blocks that have a
    /// checksum each. Pages end at these entries, so that they are the same whether a segment is
    /// hot or cold. Never more than `chunk_bytes_max` counts.
    pub index_step_bytes: u64,
    /// Most entries of a sparse index, and most checksums: a segment too large for that many steps
    /// gets an index of longer ones. So the index stays below the 2 MB that the platform stores in
    /// one value.
    pub index_entries_max: u64,
    /// Most segments that one page takes from.
    pub page_parts_max: u64,
    /// A put that has not been answered after this may have succeeded or not, and another is tried.
    /// Large segments and further attempts get more; see [`Self::put_time_ms`].
    pub put_timeout_ms: u64,
    /// Slowest transfer to the cold tier, in bytes per second, that a put is given the time for.
    pub put_bytes_per_s_min: u64,
    /// How often the time of a put is doubled, once with each further attempt.
    pub put_doublings_max: u64,
    /// The same for deletions in the cold tier, and for messages to the registry and the index.
    pub reply_timeout_ms: u64,
    /// Pause before what failed once is tried again; doubled with each further failure, and spread
    /// by chance.
    pub retry_base_ms: u64,
    /// Longest such pause.
    pub retry_ms_max: u64,
    /// How long objects that nothing refers to any more are kept: longer than any put may still be
    /// on its way, and than any answer is still being sent.
    pub collect_grace_ms: u64,
    /// Most objects that are deleted at once.
    pub collect_keys_max: u64,
    /// Largest row written, below the 2 MB that the platform stores in one value.
    pub row_bytes_max: u64,
    /// Longest stream name in its canonical, percent-encoded form.
    pub name_bytes_max: u64,
    /// Longest `Producer-Id`.
    pub producer_id_bytes_max: u64,
    /// A producer that has not appended for this long is forgotten when a segment is sealed
    /// (protocol 5.2.1).
    pub producer_max_idle_ms: u64,
    /// Most producers that are forgotten when a segment is sealed; twice as many as the segment
    /// had, if that is more.
    pub producers_forgotten_max: u64,
    /// Longest `Stream-Seq`.
    pub stream_seq_bytes_max: u64,
    /// Longest `Content-Type`.
    pub content_type_bytes_max: u64,
    /// A read within TTL / this of the last stored use writes nothing. Larger means more writes and
    /// less delay of an expiry.
    pub touch_slack_divisor: u64,
    /// An alarm this long overdue is taken as lost and set again.
    pub alarm_grace_ms: u64,
    /// How far the clock that alarms go by may be ahead of the object's.
    pub clock_skew_ms_max: u64,
    /// The alarm is never set beyond this, in milliseconds since the Unix epoch: the last date that
    /// JavaScript has.
    pub alarm_at_max_ms: u64,
    /// The alarm is never set nearer than this.
    pub alarm_delay_ms_min: u64,
    /// Length of a cursor interval (protocol 10.1).
    pub cursor_interval_ms: u64,
    /// Where the counting of cursor intervals begins, in milliseconds since the Unix epoch
    /// (protocol 10.1).
    pub cursor_epoch_ms: u64,
    /// Most intervals that a cursor is moved ahead of a client that is already at or beyond the
    /// present one.
    pub cursor_jitter_intervals: u64,
    /// `max-age` of a page that can never change, in seconds.
    pub page_max_age_s: u64,
    /// `stale-while-revalidate` of such a page, in seconds.
    pub page_stale_s: u64,
    /// `max-age` of a long-poll answer in shared cache mode, in seconds.
    pub long_poll_max_age_s: u64,
    /// `Access-Control-Max-Age` of a preflight answer, in seconds.
    pub preflight_max_age_s: u64,
    /// `Retry-After` of an answer that asks the client to come back, in seconds.
    pub retry_after_s: u64,
}

impl Limits {
    /// What production runs with unless configured otherwise.
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
        redial_ms_max: 1_000,
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
    /// Whether an isolate that holds `held` bytes of other bodies takes `bytes` of this one.
    #[must_use]
    pub const fn takes_body(&self, held: u64, bytes: u64) -> bool {
        held == 0 || held.saturating_add(bytes) <= self.bodies_bytes_max
    }

    /// Largest body that the registry takes: any event that a stream tells it of itself, however
    /// small an append is kept.
    #[must_use]
    pub fn registry_bytes_max(&self) -> u64 {
        // The name twice and the content type, where any byte may take two, and the rest of the
        // event.
        let event = 2 * (2 * self.name_bytes_max + self.content_type_bytes_max) + 256;
        self.append_bytes_max.max(event)
    }

    /// How long an attempt to put a segment of so many bytes may take, counted from 1: longer for a
    /// large one, and doubled with each further attempt, so that a slow cold tier is not asked for
    /// ever for what it is about to finish. Half of `collect_grace_ms` at most, because after the
    /// grace an object that a late put leaves behind is not collected any more.
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

    /// The distance of index entries that is in force.
    #[must_use]
    pub const fn index_step(&self) -> u64 {
        let step = if self.index_step_bytes < self.chunk_bytes_max {
            self.index_step_bytes
        } else {
            self.chunk_bytes_max
        };
        if step == 0 { 1 } else { step }
    }

    /// The distance of the entries in the index of a segment with so many framed bytes: as many
    /// steps as it takes.
    #[must_use]
    pub(crate) fn index_block(&self, bytes: u64) -> u64 {
        let step = self.index_step();
        step * bytes
            .div_ceil(step)
            .div_ceil(self.index_entries_max.max(1))
            .max(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The largest integer that survives a trip through JavaScript; the protocol's bound for producer
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
