//! The settings of a run, drawn at its start.

use std::sync::Arc;
use std::time::Duration;

use machine::Limits;
use server::Bounds;
use sim::choices::Choices;
use sim::settings::Faults as NoFaults;
use sim::workload::{KINDS, Kind};

use crate::coverage::{FAULTS, Fault};

/// The greatest number of hosts, the server included.
pub(crate) const HOSTS_MAX: u64 = 6;
/// The faults of the cold tier.
const TIER_FAULTS: [Fault; 5] = [
    Fault::Put,
    Fault::Get,
    Fault::Collect,
    Fault::Throttle,
    Fault::Trickle,
];
/// The greatest number of requests to the cold tier for one page, one after the other.
pub(crate) const TIER_STEPS: u64 = 32;
/// The greatest number of delayed turns before a read: those of clients that do not wait for their
/// answers, and of their copies.
pub(crate) const WORK_STEPS: u64 = 16;
/// Time for the network, and for work that waits.
const SLACK_MS: u64 = 2_000;

/// The settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The settings of the workload, as in the inner layer.
    pub(crate) workload: sim::settings::Settings,
    pub(crate) bounds: Bounds,
    pub(crate) shards: usize,
    /// Chances in percent, 0 for never. How often disturbances happen is drawn from this, too.
    pub(crate) chances: [u64; FAULTS],
    /// The parameter of the network's latencies.
    pub(crate) network_seed: u64,
    pub(crate) latency_ms_min: u64,
    pub(crate) latency_ms_max: u64,
    /// Segments of a connection that may be on their way.
    pub(crate) tcp_capacity: u64,
    /// The longest time for a piece of storage work.
    pub(crate) work_ms_max: u64,
    /// The longest time for the cold tier without a fault, and the longest delay with one.
    pub(crate) tier_ms: u64,
    pub(crate) late_ms: u64,
    /// The longest pause of a client.
    pub(crate) think_ms_max: u64,
    /// The time after which a client gives up.
    pub(crate) patience_ms: u64,
    /// The longest time between two disturbances.
    pub(crate) nemesis_ms_max: u64,
    /// The percentage of requests on the connection of the one before.
    pub(crate) reuse_percent: u64,
    /// How many names there are for forks beside those of the workload.
    pub(crate) forks: u64,
    /// The percentage of operations on forks and their sources.
    pub(crate) fork_percent: u64,
    /// Whether everything is deleted in the end.
    pub(crate) clears: bool,
    /// Most further appends that are sent at the same time as one.
    pub(crate) crowd_max: u64,
}

impl Settings {
    pub(crate) const fn chance(&self, fault: Fault) -> u64 {
        self.chances[fault as usize]
    }

    /// Returns how many names clients use.
    pub(crate) const fn names(&self) -> u64 {
        self.workload.names + self.forks
    }

    pub(crate) fn draw(choices: &mut Choices<'_>) -> Self {
        let operations = choices.upto(80);
        let clients = 1 + choices.upto(HOSTS_MAX - 2);
        let mut chances = [0; FAULTS];
        let few = choices.percent(25);
        for chance in &mut chances[..Fault::RowFlips as usize] {
            if choices.upto(if few { 7 } else { 1 }) == 1 {
                *chance = choices.one_of(&[5, 2, 10, 20, 50]);
            }
        }
        // More work can join only work that waits.
        if chances[Fault::WorkDelayed as usize] > 0 {
            chances[Fault::WorkDelayed as usize] = choices.one_of(&[100, 60, 30]);
        }
        // A run has few of these.
        for fault in TIER_FAULTS {
            if chances[fault as usize] > 0 {
                chances[fault as usize] = choices.one_of(&[20, 5, 50]);
            }
        }
        // The last one is younger than the others, and comes from a later tape.
        chances[Fault::RowFlips as usize] = choices.fourth().one_of(&[0, 0, 10, 50]);
        let mut weights = [0; KINDS];
        for (kind, weight) in weights.iter_mut().enumerate() {
            // Rare in the long runs of the inner layer, but these runs are short.
            let usual = match Kind::ALL[kind] {
                Kind::Close | Kind::Delete => 3,
                Kind::LongPoll => 12,
                Kind::Create
                | Kind::Append
                | Kind::Produce
                | Kind::Read
                | Kind::ReadAgain
                | Kind::Follow
                | Kind::Head
                | Kind::Malformed
                | Kind::Wait => Kind::ALL[kind].usual_weight(),
            };
            *weight = match choices.upto(3) {
                0 | 1 => usual,
                2 => 0,
                _ => usual * choices.between(1, 6),
            };
        }
        weights[Kind::Create as usize] = weights[Kind::Create as usize].max(1);
        let patience_ms = 1_500 + choices.magnitude(8_000);
        let (tier_ms, late_ms) = (choices.magnitude(400), choices.magnitude(10_000));
        let mut limits = limits(choices);
        draw_tier(choices, &mut limits, tier_ms);
        let forks = choices.fifth().one_of(&[0, 0, 2, 4, 1]);
        if forks > 0 {
            draw_forks(choices.fifth(), &mut limits);
        }
        // Longer than a put is on its way, and longer than a client waits for a page of many parts.
        limits.collect_grace_ms = patience_ms
            + limits.long_poll_timeout_ms
            + limits.put_timeout_ms
            + if forks > 0 { limits.fork_time_ms } else { 0 }
            + late_ms
            + tier_ms * TIER_STEPS
            + SLACK_MS;
        let body_bytes = (1 + choices.magnitude(2_000)).min(limits.chunk_bytes_max * 8);
        let workload = sim::settings::Settings {
            limits: Arc::new(limits),
            faults: NoFaults::default(),
            delays: sim::settings::Delays::default(),
            enumerated: false,
            caches: sim::settings::Caches::default(),
            gated: true,
            only: None,
            names: choices.one_of(&[1, 1, 2, 3]),
            clients,
            operations,
            retries: choices.upto(4),
            producers: 1 + choices.upto(2),
            weights,
            writers: false,
            storm_ms: 0,
            calm_ms: 0,
            ttl_percent: choices.one_of(&[0, 30, 80]),
            body_bytes,
            operator_percent: 0,
            outage_ms: 0,
            whole_reads: choices.added().upto(1) == 1,
        };
        let latency_ms_min = choices.magnitude(30);
        Self {
            workload,
            bounds: bounds(choices, tier_ms),
            shards: choices.third().one_of(&[1, 2]),
            chances,
            network_seed: choices.upto(u64::MAX),
            latency_ms_min,
            latency_ms_max: latency_ms_min + choices.magnitude(200),
            tcp_capacity: choices.one_of(&[64, 256]),
            work_ms_max: 20 + choices.magnitude(400),
            tier_ms,
            late_ms,
            think_ms_max: choices.magnitude(500),
            patience_ms,
            nemesis_ms_max: 300 + choices.magnitude(8_000),
            reuse_percent: choices.one_of(&[80, 0, 100]),
            forks,
            fork_percent: choices.fifth().one_of(&[25, 10, 50]),
            clears: choices.fifth().upto(1) == 1,
            crowd_max: choices.fourth().one_of(&[0, 8, 3]),
        }
    }
}

/// Draws the limits as in the inner layer, except for long times, because these runs are short and
/// busy.
fn limits(choices: &mut Choices<'_>) -> Limits {
    let inner = sim::settings::limits(choices);
    // Sometimes long enough to notice a reader that gets nothing.
    let sse_max_age_ms = match choices.upto(2) {
        0 => 200 + choices.magnitude(15_000),
        _ => 4_000 + choices.upto(12_000),
    };
    let mut limits = Limits {
        append_bytes_max: choices.one_of(&[1 << 16, 4_000, 256]),
        chunk_bytes_max: inner.chunk_bytes_max.max(32),
        row_bytes_max: inner.row_bytes_max.max(16),
        long_poll_timeout_ms: match choices.upto(2) {
            0 => 50 + inner.long_poll_timeout_ms / 4,
            _ => 2_000 + choices.upto(5_000),
        },
        sse_max_age_ms,
        sse_heartbeat_ms: (200 + choices.magnitude(3_000)).max(sse_max_age_ms / 20),
        // Never 0: a reader that finds the queue full would reconnect without end in one instant.
        reconnect_base_ms: 10 + inner.reconnect_base_ms / 2,
        alarm_grace_ms: inner.alarm_grace_ms.min(2_000),
        alarm_delay_ms_min: inner.alarm_delay_ms_min.min(1_000),
        clock_skew_ms_max: 0,
        // The server always has a registry.
        registry: true,
        registry_shards: choices.added().one_of(&[1, 2]),
        // With 1 byte, a reader loses its attachment when two messages arrive at once. Readers of
        // this layer are rarely slow enough for more.
        reader_held_bytes_max: if inner.reader_held_bytes_max < 1_000 {
            1
        } else {
            inner.reader_held_bytes_max
        },
        reply_timeout_ms: 200 + choices.magnitude(2_000),
        retry_base_ms: 50 + choices.magnitude(500),
        retry_ms_max: 1_000,
        index: false,
        ..inner
    };
    draw_turns(choices.fourth(), &mut limits);
    limits
}

/// Draws what appends of one turn share. The simplest is that each has a turn of its own.
fn draw_turns(choices: &mut Choices<'_>, limits: &mut Limits) {
    limits.turn_calls_max = choices.one_of(&[1, limits.turn_calls_max, 2, 3]);
    limits.turn_bytes_max = choices.one_of(&[limits.turn_bytes_max, 1, 1_100]);
    limits.fold_bytes_max = choices.one_of(&[limits.fold_bytes_max, 0, 16, 40, 100]);
}

/// Draws small segments, so that these short runs have many.
fn draw_tier(choices: &mut Choices<'_>, limits: &mut Limits, tier_ms: u64) {
    limits.cold = choices.upto(4) > 1;
    sim::settings::segments(choices, limits);
    if limits.segment_age_ms_max != Limits::DEFAULT.segment_age_ms_max {
        limits.segment_age_ms_max = limits.segment_age_ms_max.div_ceil(10);
    }
    limits.put_timeout_ms = 300 + tier_ms * 2 + choices.magnitude(4_000);
    sim::settings::put_times(choices, limits);
}

/// Draws few forks and short chains, so that these short runs come to their bounds.
fn draw_forks(choices: &mut Choices<'_>, limits: &mut Limits) {
    let usual = Limits::DEFAULT;
    // Forks need a cold tier.
    limits.cold = true;
    limits.fork_time_ms = choices.one_of(&[usual.fork_time_ms, usual.fork_time_ms, 5_000, 1_000]);
    limits.forks_max = choices.one_of(&[usual.forks_max, usual.forks_max, usual.forks_max, 2, 1]);
    limits.fork_depth_max = choices.one_of(&[
        usual.fork_depth_max,
        usual.fork_depth_max,
        usual.fork_depth_max,
        2,
        1,
    ]);
    limits.fork_segments_max = choices.one_of(&[
        usual.fork_segments_max,
        usual.fork_segments_max,
        usual.fork_segments_max,
        4,
        1,
    ]);
    limits.manifest_bytes_max = choices.one_of(&[usual.manifest_bytes_max, 1, 200]);
    limits.appends_read_max = choices.one_of(&[usual.appends_read_max, 1, 2]);
}

fn bounds(choices: &mut Choices<'_>, tier_ms: u64) -> Bounds {
    let usual = Bounds::default();
    let tight = |choices: &mut Choices<'_>| choices.upto(7) == 7;
    let mut bounds = Bounds {
        loaded_streams_max: choices.one_of(&[usual.loaded_streams_max, 1, 2]),
        batch_jobs_max: choices.one_of(&[usual.batch_jobs_max, usual.batch_jobs_max, 1, 2, 3]),
        batch_bytes_max: choices.one_of(&[usual.batch_bytes_max, usual.batch_bytes_max, 1, 500]),
        head_timeout: Duration::from_millis(2_000 + choices.magnitude(8_000)),
        body_timeout: Duration::from_millis(1_000 + choices.magnitude(5_000)),
        write_timeout: Duration::from_millis(1_000 + choices.magnitude(8_000)),
        fetch_timeout: Duration::from_millis(200 + tier_ms * 2 + choices.magnitude(3_000)),
        puts_bytes_max: choices.one_of(&[usual.puts_bytes_max, 1, 300]),
        shutdown_timeout: Duration::from_millis(choices.magnitude(3_000)),
        alarm_retry: Duration::from_millis(200 + choices.magnitude(2_000)),
        ..usual
    };
    bounds.idle_timeout = bounds.head_timeout;
    bounds.alarm_retry_max = bounds.alarm_retry * 4;
    bounds.reopen_pause_max = Duration::from_secs(1);
    if tight(choices) {
        bounds.readers_max = 1;
    }
    if tight(choices) {
        bounds.queue_max = 1;
    }
    if tight(choices) {
        bounds.bodies_bytes_max = 200;
    }
    if tight(choices) {
        bounds.connections_max = 2;
    }
    let kept = usual.page_cache_bytes_max;
    bounds.page_cache_bytes_max = choices.sixth().one_of(&[kept, kept, 0, 1_000]);
    let (idle, ms) = (usual.stream_idle, Duration::from_millis);
    bounds.stream_idle = choices.sixth().one_of(&[idle, idle, ms(1_000), ms(50)]);
    bounds
}
