//! The settings of a run, drawn at its start: limits, faults and their chances, delays, and what
//! clients prefer. Each fault and each operation is off in about half of all runs, because some
//! bugs show only where nothing else happens.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use machine::Limits;

use crate::choices::Choices;
use crate::coverage::{FAULTS, Fault};
use crate::model::Bounds;
use crate::oracles::Oracle;
use crate::workload::{KINDS, Kind};

/// The beginning of every run, in milliseconds since 1970: in January 2027.
pub const BEGINNING: u64 = 1_800_000_000_000;

/// Chances in percent, 0 for never.
#[derive(Clone, Default)]
pub struct Faults {
    chances: [u64; FAULTS],
}

impl Faults {
    #[must_use]
    pub const fn chance(&self, fault: Fault) -> u64 {
        self.chances[fault as usize]
    }

    /// Returns chances for one kind of fault only.
    #[must_use]
    pub fn only(fault: Fault, chance: u64) -> Self {
        let mut faults = Self::default();
        faults.chances[fault as usize] = chance;
        faults
    }
}

impl Debug for Faults {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let on = Fault::ALL
            .iter()
            .map(|fault| (fault.text(), self.chance(*fault)));
        formatter
            .debug_map()
            .entries(on.filter(|(_, chance)| *chance > 0))
            .finish()
    }
}

/// The longest delays, in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    pub network: u64,
    pub commit: u64,
    pub stall: u64,
    pub think: u64,
    pub body: u64,
    pub alarm_late: u64,
    pub alarm_early: u64,
    /// The greatest difference of an instance's clock, in either direction.
    pub skew: u64,
    /// The time of a put, or of an answer from the cold tier.
    pub cold_tier: u64,
    /// The time after which something that was given up may still take effect.
    pub late: u64,
    /// The time that a client takes for a page of an answer.
    pub page: u64,
}

/// The settings of one run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Arc<Limits>,
    pub faults: Faults,
    pub delays: Delays,
    /// Whether all decisions are enumerated, so that each must have few values.
    pub enumerated: bool,
    /// Whether clients only append to one stream that never ends, and read in the end from each
    /// offset that an append was answered.
    pub writers: bool,
    /// Whether the output gate holds anything back. A test turns it off to show that the oracles
    /// notice.
    pub gated: bool,
    /// The only oracle that counts. A test sets it to show that this oracle notices.
    pub only: Option<Oracle>,
    pub names: u64,
    pub clients: u64,
    pub operations: u64,
    pub retries: u64,
    pub producers: u64,
    /// The weight of each kind of operation.
    pub weights: [u64; KINDS],
    /// The length of a storm, in which faults happen. Between storms they do not. 0 is one storm
    /// without end.
    pub storm_ms: u64,
    pub calm_ms: u64,
    /// The time from the beginning in which the cold tier takes nothing.
    pub outage_ms: u64,
    /// The chance that an operator looks at an object after one of its turns.
    pub operator_percent: u64,
    /// The percentage of creations with a TTL.
    pub ttl_percent: u64,
    pub body_bytes: u64,
    /// Whether a plain read is answered with all pages up to the tail, as in private cache mode.
    pub whole_reads: bool,
    pub caches: Caches,
}

/// The caches in front of clients.
#[derive(Clone, Debug, Default)]
pub struct Caches {
    /// The percentage of clients behind a cache.
    pub percent: u64,
    /// The percentage of those that share one.
    pub shared_percent: u64,
    /// Whether caches serve stale answers while they refresh them, where they may.
    pub serves_stale: bool,
}

impl Caches {
    fn draw(choices: &mut Choices<'_>) -> Self {
        Self {
            percent: choices.one_of(&[0, 100, 0, 50]),
            shared_percent: choices.one_of(&[0, 100, 50]),
            serves_stale: choices.upto(1) == 1,
        }
    }
}

impl Settings {
    /// Returns what the reference model must know.
    #[must_use]
    pub fn model_bounds(&self) -> Bounds {
        let limits = &self.limits;
        let folds = limits.commits_in_flight_max != NO_APPEND_WAITS;
        Bounds {
            body_bytes: limits.append_bytes_max,
            page_bytes: limits.chunk_bytes_max,
            folded_bytes: if folds { limits.fold_bytes_max } else { 0 },
            page_step: limits.index_step(),
            page_ends_max: limits.index_entries_max,
            whole_reads: self.whole_reads,
            slack_divisor: limits.touch_slack_divisor,
            skew_ms: self.delays.skew * 2,
            cursor_epoch_ms: limits.cursor_epoch_ms,
            cursor_interval_ms: limits.cursor_interval_ms,
            page_max_age_s: limits.page_max_age_s,
            page_stale_s: limits.page_stale_s,
            long_poll_max_age_s: limits.long_poll_max_age_s,
            judges_cache_control: self.caches.percent == 0,
        }
    }

    #[must_use]
    pub fn draw(choices: &mut Choices<'_>) -> Self {
        let operations = choices.upto(120);
        let clients = 1 + choices.upto(4);
        let mut faults = Faults::default();
        let few = choices.percent(25);
        for chance in &mut faults.chances {
            if choices.upto(if few { 7 } else { 1 }) == 1 {
                *chance = choices.one_of(&[1, 2, 5, 10, 20, 50, 90]);
            }
        }
        let mut weights = [0; KINDS];
        for (kind, weight) in weights.iter_mut().enumerate() {
            let usual = Kind::ALL[kind].usual_weight();
            *weight = match choices.upto(3) {
                0 | 1 => usual,
                2 => 0,
                _ => usual * choices.between(1, 6),
            };
        }
        weights[Kind::Create as usize] = weights[Kind::Create as usize].max(1);
        let delays = Delays {
            network: choices.magnitude(200),
            commit: choices.magnitude(200),
            stall: choices.magnitude(20_000),
            think: choices.magnitude(8_000),
            body: choices.magnitude(5_000),
            alarm_late: choices.magnitude(30_000),
            alarm_early: choices.magnitude(2_000),
            skew: if choices.upto(1) == 1 {
                choices.magnitude(3_000)
            } else {
                0
            },
            cold_tier: choices.magnitude(10_000),
            late: choices.magnitude(60_000),
            page: choices.added().magnitude(2_000),
        };
        let storms = choices.upto(2) == 1;
        let mut limits = limits(choices);
        // With a clock behind, an instance would set an alarm that fires at once, in a loop.
        limits.alarm_delay_ms_min = limits.alarm_delay_ms_min.max(delays.skew / 10);
        limits.clock_skew_ms_max = delays.skew;
        draw_tiers(choices, &delays, &mut limits);
        // No run should need thousands of pages to read.
        let body_bytes = (1 + choices.magnitude(400)).min(limits.chunk_bytes_max * 20);
        let whole_reads = choices.added().upto(1) == 1;
        if whole_reads {
            // Many reads have all pages.
            limits.chunk_bytes_max = limits.chunk_bytes_max.max(body_bytes / 2);
        }
        let caches = Caches::draw(choices.third());
        draw_outbox(choices.third(), &mut limits);
        draw_commits(choices.fourth(), &mut limits);
        Self {
            limits: Arc::new(limits),
            faults,
            delays,
            enumerated: false,
            writers: false,
            gated: true,
            only: None,
            names: 1 + choices.upto(5) / 4,
            clients,
            operations,
            retries: choices.upto(4),
            producers: 1 + choices.upto(2),
            weights,
            storm_ms: if storms {
                1 + choices.magnitude(20_000)
            } else {
                0
            },
            calm_ms: if storms {
                1 + choices.magnitude(20_000)
            } else {
                0
            },
            operator_percent: choices.fifth().one_of(&[0, 0, 5, 30]),
            outage_ms: if choices.added().upto(3) == 3 {
                choices.added().magnitude(600_000)
            } else {
                0
            },
            ttl_percent: choices.one_of(&[30, 0, 80]),
            body_bytes,
            whole_reads,
            caches,
        }
    }

    /// Returns the smallest world, whose runs can be enumerated: one client with few actions, tiny
    /// rows, and an instance that may die after every turn.
    #[must_use]
    pub fn small(operations: u64) -> Self {
        Self {
            limits: Arc::new(Limits {
                row_bytes_max: 8,
                chunk_bytes_max: 4,
                commits_in_flight_max: NO_APPEND_WAITS,
                ..Limits::DEFAULT
            }),
            faults: Faults::only(Fault::Crash, 1),
            delays: Delays::default(),
            enumerated: true,
            writers: false,
            gated: true,
            only: None,
            names: 1,
            clients: 1,
            operations,
            retries: 1,
            producers: 1,
            weights: [0; KINDS],
            storm_ms: 0,
            calm_ms: 0,
            operator_percent: 0,
            outage_ms: 0,
            ttl_percent: 0,
            body_bytes: 0,
            whole_reads: false,
            caches: Caches::default(),
        }
    }

    /// Returns a world of writers that each append this often. A segment is sealed every few
    /// messages, and no append is given up.
    #[must_use]
    pub fn writers(choices: &mut Choices<'_>, writers: u64, appends: u64) -> Self {
        let drawn = Self::draw(choices);
        Self {
            limits: Arc::new(Limits {
                append_bytes_max: Limits::DEFAULT.append_bytes_max,
                chunk_bytes_max: 64,
                cold: true,
                segment_messages_max: 3,
                // A retry of a forgotten producer would be stored again.
                producer_max_idle_ms: Limits::DEFAULT.producer_max_idle_ms,
                segment_bytes_max: Limits::DEFAULT.segment_bytes_max,
                ..Limits::clone(&drawn.limits)
            }),
            writers: true,
            names: 1,
            clients: writers,
            // Each may be the one that creates the stream.
            operations: writers * (appends + 1),
            retries: u64::MAX,
            ..drawn
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.faults = Faults::default();
        self.outage_ms = 0;
        self.delays.stall = 0;
        self.delays.page = 0;
    }
}

/// Draws the cold tier, the registry and the index. Timeouts are long enough for an answer without
/// a fault. Garbage is kept for longer than anything can still need or make it, as the machine's
/// contract requires.
fn draw_tiers(choices: &mut Choices<'_>, delays: &Delays, limits: &mut Limits) {
    limits.cold = choices.upto(4) > 1;
    limits.registry = choices.upto(4) > 2;
    limits.index = choices.upto(4) > 2;
    if limits.registry {
        // The registry takes events of any size, which the reference does not know.
        limits.append_bytes_max = limits.append_bytes_max.max(2_000);
    }
    segments(choices, limits);
    let there_and_back = delays.network * 2 + delays.commit * 2 + delays.skew * 2;
    limits.put_timeout_ms = 200 + delays.cold_tier / 4 + choices.magnitude(30_000);
    put_times(choices, limits);
    producers(choices, limits);
    limits.reply_timeout_ms = 200 + there_and_back + choices.magnitude(30_000);
    limits.retry_base_ms = 1 + choices.magnitude(5_000);
    limits.retry_ms_max = limits.retry_base_ms.max(1_000 + choices.magnitude(60_000));
    let longest = delays.stall + delays.commit + delays.cold_tier + delays.late + there_and_back;
    limits.collect_grace_ms = longest + 1_000 + choices.magnitude(60_000);
}

/// Draws how the time of a put grows.
pub fn put_times(choices: &mut Choices<'_>, limits: &mut Limits) {
    let added = choices.added();
    limits.put_doublings_max = added.one_of(&[0, 1, 6]);
    limits.put_bytes_per_s_min = added.one_of(&[u64::MAX, 1 << 10, 10]);
}

/// Draws how much of the outbox is in memory.
fn draw_outbox(choices: &mut Choices<'_>, limits: &mut Limits) {
    limits.outbox_queues_max = choices.one_of(&[limits.outbox_queues_max, 1, 2, 3]);
    limits.outbox_tasks_max = choices.one_of(&[limits.outbox_tasks_max, 1, 2]);
}

/// Draws which appends wait for a commit, and what they share. The simplest is that none waits.
fn draw_commits(choices: &mut Choices<'_>, limits: &mut Limits) {
    limits.commits_in_flight_max = choices.one_of(&[NO_APPEND_WAITS, 1, 1, 2, 3]);
    limits.turn_calls_max = choices.one_of(&[limits.turn_calls_max, 1, 2, 3]);
    limits.turn_bytes_max = choices.one_of(&[limits.turn_bytes_max, 1, 1_100]);
    limits.waiting_bytes_max = choices.one_of(&[limits.waiting_bytes_max, 1, 600, 1_500]);
    limits.fold_bytes_max = choices.one_of(&[limits.fold_bytes_max, 0, 16, 40, 100]);
}

/// A number of commits in flight that no run reaches.
const NO_APPEND_WAITS: u64 = 1_000_000_000;

/// Draws when idle producers are forgotten.
fn producers(choices: &mut Choices<'_>, limits: &mut Limits) {
    let added = choices.added();
    if limits.registry {
        limits.registry_shards = added.one_of(&[1, 2, 3]);
        // An event that is repeated later than this would be stored twice.
        return;
    }
    limits.producer_max_idle_ms = added.one_of(&[limits.producer_max_idle_ms, 1, 1_000, 20_000]);
    limits.producers_forgotten_max = added.one_of(&[limits.producers_forgotten_max, 1, 2]);
}

/// Draws how much is sealed and read together.
pub fn segments(choices: &mut Choices<'_>, limits: &mut Limits) {
    let usual = Limits::DEFAULT;
    limits.segment_bytes_max = choices.one_of(&[usual.segment_bytes_max, 1, 20, 60, 200, 1_000]);
    limits.segment_messages_max = choices.one_of(&[usual.segment_messages_max, 1, 2, 3, 5, 20]);
    limits.segment_age_ms_max =
        choices.one_of(&[usual.segment_age_ms_max, 1, 1_000, 10_000, 60_000]);
    // Drawn together, because few entries matter only where there would be many.
    (limits.index_step_bytes, limits.index_entries_max) = choices.one_of(&[
        (usual.index_step_bytes, usual.index_entries_max),
        (1, usual.index_entries_max),
        (4, 3),
        (9, usual.index_entries_max),
        (16, usual.index_entries_max),
        (40, 1),
        (64, usual.index_entries_max),
    ]);
    limits.page_parts_max = choices.one_of(&[usual.page_parts_max, 1, 2, 3, 4]);
    limits.collect_keys_max = choices.one_of(&[usual.collect_keys_max, 1, 2, 3]);
}

/// Draws the limits of an object, which are often tiny.
pub fn limits(choices: &mut Choices<'_>) -> Limits {
    let usual = Limits::DEFAULT;
    // Sometimes long enough to notice a reader that gets nothing.
    let sse_max_age_ms = 100 + choices.magnitude(60_000) * choices.one_of(&[1, 1, 1, 20]);
    let row_bytes_max = choices.one_of(&[usual.row_bytes_max, 8, 9, 12, 16, 24, 40, 64]);
    Limits {
        append_bytes_max: choices.one_of(&[usual.append_bytes_max, 1 << 16, 256, 64, 16]),
        chunk_bytes_max: choices.one_of(&[usual.chunk_bytes_max, 1, 2, 7, 16, 32, 64, 200]),
        long_poll_timeout_ms: 1 + choices.magnitude(30_000),
        sse_max_age_ms,
        sse_heartbeat_ms: (100 + choices.magnitude(20_000)).max(sse_max_age_ms / 200),
        reader_held_bytes_max: choices.one_of(&[usual.reader_held_bytes_max, 1, 100, 500, 2_000]),
        frame_bytes_max: choices.one_of(&[usual.frame_bytes_max, 0, 8, 20, 60]),
        reconnect_base_ms: choices.magnitude(2_000),
        row_bytes_max,
        touch_slack_divisor: choices.one_of(&[usual.touch_slack_divisor, 1, 2, 3, 16, 1_000]),
        alarm_grace_ms: choices.one_of(&[usual.alarm_grace_ms, 0, 500, 5_000]),
        alarm_delay_ms_min: choices.one_of(&[usual.alarm_delay_ms_min, 0, 1, 200, 5_000]),
        cursor_interval_ms: choices.one_of(&[usual.cursor_interval_ms, 1, 50, 1_000]),
        cursor_epoch_ms: choices.one_of(&[usual.cursor_epoch_ms, 0, BEGINNING, BEGINNING * 2]),
        cursor_jitter_intervals: 1 + choices.magnitude(200),
        ..usual
    }
}
