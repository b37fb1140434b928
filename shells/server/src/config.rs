//! The operator's settings of this shell. The public settings belong to the machine.

use std::path::PathBuf;
use std::time::Duration;

use machine::router::Settings;

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

/// Bounds of one process. A request that exceeds one is answered 503. They change no other answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections served at the same time.
    pub connections_max: usize,
    /// Connections beyond that which are kept open to be answered 503. `/health` and `/metrics`
    /// answer them as usual.
    pub connections_refused_max: usize,
    /// The share of connections and live readers that one client address may have, in percent.
    pub address_share_percent: usize,
    /// Live readers (SSE responses and long-polls) at the same time.
    pub readers_max: usize,
    /// Streams whose files are open at the same time. The least recently used is closed first. Each
    /// takes two descriptors.
    pub open_streams_max: usize,
    /// Threads that use the storage. As many streams can commit at the same time.
    pub storage_threads: usize,
    /// Requests that may wait for one stream.
    pub queue_max: usize,
    /// Memory for request bodies over all requests, in bytes. Only bytes that have arrived count.
    pub bodies_bytes_max: usize,
    /// When there is no room for bodies, those of at least this many bytes are refused first.
    pub large_body_bytes: usize,
    /// The rest of a refused body is read if it has at most this many bytes. Otherwise the
    /// connection is closed.
    pub drain_bytes_max: u64,
    /// Memory for answers that clients have not taken yet, in bytes. An answer that has begun may
    /// exceed it.
    pub pages_bytes_max: usize,
    /// When there is no room for answers, one whose client has taken nothing for this time is cut
    /// off.
    pub page_grace: Duration,
    /// Further pages of answers that have begun which are made at the same time. It bounds by how
    /// much they can exceed the memory for answers.
    pub pages_made_max: usize,
    /// Memory for segments that are being stored, in bytes, over all streams. The others wait. A
    /// single segment may be larger.
    pub puts_bytes_max: usize,
    /// A segment of more bytes is put in parts, because it can be far larger than what one put
    /// should hold in memory.
    pub put_whole_bytes_max: u64,
    /// All parts but the last have this size, and S3 takes none below 5 MiB. While one is on its
    /// way, the next is filled.
    pub put_part_bytes: usize,
    /// The head of a request, in bytes.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Requests that share one commit.
    pub batch_jobs_max: usize,
    /// Bytes that the requests and the answers of one commit may take before no more are added.
    pub batch_bytes_max: usize,
    /// A page cache for each open stream, in KiB.
    pub cache_kib: u32,
    /// Time for the next request on a connection to begin.
    pub idle_timeout: Duration,
    /// Time for the head of a request to arrive once it has begun.
    pub head_timeout: Duration,
    /// Time for the next part of a body to arrive.
    pub body_timeout: Duration,
    /// Time for the whole body to arrive.
    pub body_deadline: Duration,
    /// Bytes per second at which a body has to arrive after `body_timeout`.
    pub body_rate_min: u64,
    /// Time for a client to take anything that is written to it.
    pub write_timeout: Duration,
    /// Time for a client to close a connection that the server has finished with, and the longest
    /// silence in that time.
    pub linger_timeout: Duration,
    pub linger_silence: Duration,
    /// Free bytes on the disk below which the server counts as failing.
    pub disk_free_min: u64,
    /// How long a stream's failed commit is remembered, if no other commit of the stream follows.
    pub failure_memory: Duration,
    /// Time for the cold tier to send the next part of a page.
    pub fetch_timeout: Duration,
    /// Time for requests to be answered after the server was asked to end.
    pub shutdown_timeout: Duration,
    /// The pause before an alarm whose turn failed fires again.
    pub alarm_retry: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connections_refused_max: 256,
            address_share_percent: 75,
            readers_max: 8_000,
            open_streams_max: 512,
            storage_threads: 64,
            queue_max: 4_096,
            bodies_bytes_max: 256 << 20,
            large_body_bytes: 64 << 10,
            drain_bytes_max: 64 << 10,
            pages_bytes_max: 128 << 20,
            page_grace: Duration::from_secs(1),
            pages_made_max: 16,
            puts_bytes_max: 64 << 20,
            put_whole_bytes_max: 16 << 20,
            put_part_bytes: 8 << 20,
            head_bytes_max: 64 << 10,
            headers_max: 100,
            batch_jobs_max: 1_024,
            batch_bytes_max: 16 << 20,
            cache_kib: 1_024,
            idle_timeout: Duration::from_secs(75),
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            body_deadline: Duration::from_secs(300),
            body_rate_min: 1_024,
            write_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(30),
            linger_silence: Duration::from_secs(5),
            disk_free_min: 32 << 20,
            failure_memory: Duration::from_secs(30),
            fetch_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            alarm_retry: Duration::from_secs(5),
        }
    }
}
