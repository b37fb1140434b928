//! The settings of a run with subscriptions.

use std::sync::Arc;

use machine::Limits;

use super::coverage::Fault;
use super::sessions;
use crate::choices::Choices;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// What a run is like. Drawn at its beginning.
#[derive(Clone, Debug)]
pub struct Settings {
    pub limits: Arc<Limits>,
    /// How many requests clients send.
    pub operations: u64,
    /// The chance of each fault, in percent, in the order of [`Fault::ALL`].
    pub chances: Vec<u64>,
    /// The longest time between two requests.
    pub gap_ms: u64,
    /// The longest time that a message takes as a rule.
    pub network_ms: u64,
    /// The longest delay of what is late.
    pub late_ms: u64,
    /// The longest time of a commit.
    pub commit_ms: u64,
    /// How far the clock of an instance is ahead or behind at most.
    pub skew_ms: u64,
    /// Whether an object's alarm is kept in its rows, so that an object without rows has none.
    pub alarms_in_rows: bool,
    /// How often receivers and workers misbehave at most. Otherwise a day of misbehaviour would
    /// take a day of wakes.
    pub misbehaviours: u64,
    pub sessions: sessions::Settings,
}

impl Settings {
    #[must_use]
    pub fn draw(choices: &mut Choices<'_>) -> Self {
        let usual = Limits::DEFAULT;
        let skew_ms = choices.one_of(&[0, 20, 2_000]);
        let mut limits = Limits {
            subscriptions: true,
            webhook_loopback: choices.one_of(&[true, false]),
            turn_calls_max: choices.one_of(&[usual.turn_calls_max, 1, 2]),
            outbox_queues_max: choices.one_of(&[usual.outbox_queues_max, 1, 2]),
            outbox_tasks_max: choices.one_of(&[usual.outbox_tasks_max, 1, 2]),
            reply_timeout_ms: choices.one_of(&[usual.reply_timeout_ms, 1_000, 100]),
            retry_base_ms: choices.one_of(&[usual.retry_base_ms, 50]),
            retry_ms_max: choices.one_of(&[usual.retry_ms_max, 5_000]),
            touch_slack_divisor: choices.one_of(&[usual.touch_slack_divisor, 1]),
            // While a clock is behind, an alarm comes again after this pause.
            alarm_delay_ms_min: choices
                .one_of(&[usual.alarm_delay_ms_min, 10])
                .max(skew_ms / 4),
            alarm_grace_ms: choices.one_of(&[usual.alarm_grace_ms, 2_000]),
            directory_page_max: choices.one_of(&[usual.directory_page_max, 1, 2]),
            link_calls_max: choices.one_of(&[usual.link_calls_max, 1]),
            link_check_ms: choices.one_of(&[usual.link_check_ms, 3_000]),
            asks_max: choices.one_of(&[usual.asks_max, 1]),
            ask_time_ms: choices.one_of(&[usual.ask_time_ms, 500]),
            token_ms: choices.one_of(&[usual.token_ms, 5 * MINUTE_MS]),
            signing_key_ms: choices.one_of(&[usual.signing_key_ms, HOUR_MS, 10 * MINUTE_MS]),
            webhook_time_ms: choices.one_of(&[usual.webhook_time_ms, 1_500]),
            webhook_grace_ms: choices.one_of(&[usual.webhook_grace_ms, 500]),
            webhook_streams_max: choices.one_of(&[usual.webhook_streams_max, 0, 1]),
            ..usual
        };
        let has_faults = choices.percent(80);
        // Whether the queue breaks is decided on another tape.
        let usual_faults = Fault::ALL.iter().filter(|fault| **fault != Fault::Queue);
        let mut chances: Vec<u64> = usual_faults
            .map(|_| {
                if has_faults {
                    choices.one_of(&[0, 3, 10, 30])
                } else {
                    0
                }
            })
            .collect();
        if skew_ms == 0 {
            chances[Fault::Clock as usize] = 0;
        }
        let alarms_in_rows = choices.percent(50);
        if alarms_in_rows {
            // Such a shell is one process, which reports the end of every call.
            chances[Fault::Silence as usize] = 0;
        }
        let sessions = sessions::Settings::draw(choices, &mut limits);
        let queue_breaks = limits.fanout_queue && has_faults;
        chances.push(if queue_breaks {
            choices.third().one_of(&[0, 10, 30])
        } else {
            0
        });
        let max = usual.directory_subscriptions_max;
        limits.directory_subscriptions_max = choices.fifth().one_of(&[max, max, 1]);
        Self {
            sessions,
            operations: choices.between(3, 50),
            chances,
            gap_ms: choices.one_of(&[0, 5, 50, 2_000]),
            network_ms: choices.one_of(&[0, 3, 20]),
            late_ms: choices.one_of(&[100, 1_000, 20_000]),
            commit_ms: choices.one_of(&[0, 2, 10]),
            skew_ms,
            alarms_in_rows,
            misbehaviours: choices.one_of(&[20, 5, 60]),
            limits: Arc::new(limits),
        }
    }

    #[must_use]
    pub fn chance(&self, fault: Fault) -> u64 {
        self.chances[fault as usize]
    }

    /// Returns whether anything breaks in this run.
    #[must_use]
    pub fn has_faults(&self) -> bool {
        self.chances.iter().any(|chance| *chance > 0)
    }
}
