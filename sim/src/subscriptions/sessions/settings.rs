//! The settings of a run with sessions.

use machine::Limits;

use crate::choices::Choices;

/// What a run is like. Drawn at its beginning: sessions on the second tape, their queue on the
/// third.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether clients have sessions.
    pub are_there: bool,
    /// How many requests in a hundred are about them.
    pub percent: u64,
}

impl Settings {
    pub(in crate::subscriptions) fn draw(all: &mut Choices<'_>, limits: &mut Limits) -> Self {
        let usual = Limits::DEFAULT;
        let choices = all.added();
        let are_there = choices.percent(60);
        if !are_there {
            let percent = 0;
            return Self { are_there, percent };
        }
        limits.session_ttl_seconds = choices.one_of(&[usual.session_ttl_seconds, 7_200, 20, 3]);
        limits.session_tombstone_ms = choices.one_of(&[usual.session_tombstone_ms, 0, 5_000]);
        limits.session_streams_max = choices.one_of(&[usual.session_streams_max, 2, 1]);
        limits.stream_sessions_max = choices.one_of(&[usual.stream_sessions_max, 2, 1]);
        limits.deliveries_max = choices.one_of(&[usual.deliveries_max, 1, 2]);
        limits.delivery_appends_max = choices.one_of(&[usual.delivery_appends_max, 1, 2, 3]);
        limits.envelope_bytes_max = choices.one_of(&[usual.envelope_bytes_max, 10, 30]);
        let percent = choices.one_of(&[80, 60, 95]);
        draw_third(all.third(), limits);
        Self { are_there, percent }
    }
}

fn draw_third(choices: &mut Choices<'_>, limits: &mut Limits) {
    let usual = Limits::DEFAULT;
    limits.fanout_queue = choices.percent(50);
    if limits.fanout_queue {
        draw_queue(choices, limits);
    }
    limits.deliveries_per_step_max = choices.one_of(&[usual.deliveries_per_step_max, 1, 50]);
}

fn draw_queue(choices: &mut Choices<'_>, limits: &mut Limits) {
    let usual = Limits::DEFAULT;
    limits.fanout_queue_threshold = choices.one_of(&[0, 1, 2]);
    limits.fanout_messages_max = choices.one_of(&[usual.fanout_messages_max, 1, 2]);
    limits.fanout_bytes_max = choices.one_of(&[usual.fanout_bytes_max, 100, 500]);
    limits.fanout_batches_max = choices.one_of(&[usual.fanout_batches_max, 1, 2]);
    limits.fanout_attempts_max = choices.one_of(&[usual.fanout_attempts_max, 1, 2]);
    limits.fanout_calls_max = choices.one_of(&[usual.fanout_calls_max, 1, 2]);
}

impl super::super::Settings {
    /// Returns how long it takes at most until everything that was lost has been done again.
    pub(in crate::subscriptions) fn rest_ms(&self) -> u64 {
        let limits = &self.limits;
        let check = limits.link_check_ms.max(limits.reply_timeout_ms);
        let retry = limits.retry_ms_max + limits.alarm_delay_ms_min + limits.alarm_grace_ms;
        4 * (check + retry + self.late_ms + self.skew_ms)
    }
}
