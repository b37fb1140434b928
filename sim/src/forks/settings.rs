//! The settings of a run with forks.

use std::sync::Arc;

use machine::Limits;

use super::coverage::Fault;
use crate::choices::Choices;

/// What a run is like. Drawn at its beginning.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Arc<Limits>,
    /// How many names there are.
    pub names: u64,
    /// How many requests clients send.
    pub operations: u64,
    /// The chance of each fault, in percent, in the order of [`Fault::ALL`].
    pub chances: Vec<u64>,
    /// The longest time between two requests.
    pub gap_ms: u64,
    /// The longest time that a message takes as a rule.
    pub network_ms: u64,
    /// The longest delay of what is late. Less than [`Limits::collect_grace_ms`].
    pub late_ms: u64,
    /// The longest time of a commit.
    pub commit_ms: u64,
    /// Whether a stream's alarm is kept in its rows, so that a stream without rows has none.
    pub alarms_in_rows: bool,
    /// Whether the run is one of an enumeration: a crash is a decision at each commit, and at most
    /// one happens.
    pub is_enumerated: bool,
}

impl Settings {
    #[must_use]
    pub fn draw(choices: &mut Choices<'_>) -> Self {
        let usual = Limits::DEFAULT;
        let collect_grace_ms = choices.one_of(&[60_000, 5_000, 400]);
        let limits = Limits {
            cold: true,
            segment_messages_max: choices.one_of(&[3, 1, 2, 4, 100]),
            segment_bytes_max: choices.one_of(&[usual.segment_bytes_max, 40]),
            segment_age_ms_max: choices.one_of(&[usual.segment_age_ms_max, 3_000]),
            chunk_bytes_max: choices.one_of(&[usual.chunk_bytes_max, 30, 7]),
            index_step_bytes: choices.one_of(&[usual.index_step_bytes, 12, 1]),
            page_parts_max: choices.one_of(&[usual.page_parts_max, 1, 2]),
            fold_bytes_max: choices.one_of(&[usual.fold_bytes_max, 0, 20]),
            row_bytes_max: choices.one_of(&[usual.row_bytes_max, 64]),
            fork_time_ms: choices.one_of(&[usual.fork_time_ms, 2_000, 300]),
            forks_max: choices.one_of(&[usual.forks_max, 2, 1]),
            fork_depth_max: choices.one_of(&[usual.fork_depth_max, 3, 1]),
            fork_segments_max: choices.one_of(&[usual.fork_segments_max, 2]),
            turn_calls_max: choices.one_of(&[usual.turn_calls_max, 1, 2]),
            outbox_queues_max: choices.one_of(&[usual.outbox_queues_max, 1, 2]),
            outbox_tasks_max: choices.one_of(&[usual.outbox_tasks_max, 1, 2]),
            collect_keys_max: choices.one_of(&[usual.collect_keys_max, 1]),
            collect_grace_ms,
            put_timeout_ms: choices.one_of(&[collect_grace_ms / 2, collect_grace_ms / 4]),
            reply_timeout_ms: choices.one_of(&[usual.reply_timeout_ms, 1_000, 100]),
            retry_base_ms: choices.one_of(&[usual.retry_base_ms, 50]),
            retry_ms_max: choices.one_of(&[usual.retry_ms_max, 5_000]),
            touch_slack_divisor: choices.one_of(&[usual.touch_slack_divisor, 1]),
            alarm_delay_ms_min: choices.one_of(&[usual.alarm_delay_ms_min, 10]),
            clock_skew_ms_max: choices.one_of(&[usual.clock_skew_ms_max, 0]),
            alarm_grace_ms: choices.one_of(&[usual.alarm_grace_ms, 2_000]),
            ..usual
        };
        let has_faults = choices.percent(80);
        let mut chances: Vec<u64> = Fault::ALL
            .iter()
            .map(|fault| {
                // Tapes from before this fault do not have it.
                let choices = if matches!(fault, Fault::Read) {
                    choices.fourth()
                } else {
                    &mut *choices
                };
                if has_faults {
                    choices.one_of(&[0, 3, 10, 30])
                } else {
                    0
                }
            })
            .collect();
        let alarms_in_rows = choices.fourth().percent(50);
        if alarms_in_rows {
            // Such a shell is one process, which reports the end of every call.
            chances[Fault::Silence as usize] = 0;
        }
        let late_ms = choices
            .one_of(&[100, 1_000, 20_000])
            .min(collect_grace_ms / 2 - 1);
        Self {
            names: choices.between(2, 6),
            operations: choices.between(3, 40),
            chances,
            gap_ms: choices.one_of(&[0, 5, 50, 2_000]),
            network_ms: choices.one_of(&[0, 3, 20]),
            late_ms,
            commit_ms: choices.one_of(&[0, 2, 10]),
            alarms_in_rows,
            is_enumerated: false,
            limits: Arc::new(limits),
        }
    }

    /// The settings of an enumeration: two names, no delays, no faults but a crash.
    #[must_use]
    pub fn enumerated(operations: u64) -> Self {
        Self {
            limits: Arc::new(Limits {
                cold: true,
                segment_messages_max: 2,
                collect_grace_ms: 60_000,
                put_timeout_ms: 30_000,
                ..Limits::DEFAULT
            }),
            names: 2,
            operations,
            chances: vec![0; Fault::ALL.len()],
            gap_ms: 0,
            network_ms: 0,
            late_ms: 0,
            commit_ms: 0,
            alarms_in_rows: true,
            is_enumerated: true,
        }
    }

    #[must_use]
    pub fn chance(&self, fault: Fault) -> u64 {
        self.chances[fault as usize]
    }

    /// Returns whether anything breaks in this run.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.is_enumerated || self.chances.iter().any(|chance| *chance > 0)
    }
}
