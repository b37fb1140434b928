//! What a process has appended to all of its streams in the last minutes, in memory. Only a shell
//! whose process has all streams uses it.

use std::collections::BTreeMap;

use super::json::Object;
use super::{SYSTEM_MINUTES, ratio};
use crate::rows::Minutes;
use crate::storage::activity::MINUTES_MAX;
use crate::{Answer, Appended, Millis};

/// Counts what a process has appended to its streams in the last minutes.
#[derive(Debug)]
pub struct Traffic {
    since: Millis,
    /// How many streams of a minute stay when there are twice as many.
    streams_kept: usize,
    minutes: BTreeMap<u64, Minute>,
}

#[derive(Debug, Default)]
struct Minute {
    all: Appended,
    streams: BTreeMap<String, Appended>,
}

impl Traffic {
    /// Begins to count, with at most this many streams in each minute.
    #[must_use]
    pub const fn new(now: Millis, streams_max: usize) -> Self {
        Self {
            since: now,
            streams_kept: streams_max / 2,
            minutes: BTreeMap::new(),
        }
    }

    /// Counts what a turn has appended to a stream.
    pub fn record(&mut self, now: Millis, stream: &str, appended: Appended) {
        if appended == Appended::default() {
            return;
        }
        let number = Minutes::of(now);
        let minute = self.minutes.entry(number).or_default();
        minute.all += appended;
        match minute.streams.get_mut(stream) {
            Some(before) => *before += appended,
            None => {
                minute.streams.insert(stream.to_owned(), appended);
                minute.forget_quiet(self.streams_kept);
            }
        }
        while self.minutes.len() as u64 > MINUTES_MAX {
            self.minutes.pop_first();
        }
    }

    fn last(&self, now: Millis, minutes: u64) -> impl Iterator<Item = &Minute> {
        let present = Minutes::of(now);
        let first = (present + 1).saturating_sub(minutes);
        self.minutes
            .range(first..=present)
            .map(|(_, minute)| minute)
    }

    /// Answers which streams have had most messages.
    #[must_use]
    pub fn hot(&self, now: Millis, minutes: u64, limit: u64) -> Answer {
        let mut sums: BTreeMap<&str, Appended> = BTreeMap::new();
        for minute in self.last(now, minutes) {
            for (name, appended) in &minute.streams {
                *sums.entry(name).or_default() += *appended;
            }
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|(name, sums)| (u64::MAX - sums.messages, *name));
        let hottest = sums.into_iter().zip(0..limit);
        let streams = hottest.map(|((name, sums), _)| {
            Object::new()
                .text("streamId", name)
                .number("messageCount", sums.messages)
                .number("byteCount", sums.bytes)
        });
        Object::new()
            .array("streams", streams)
            .number("periodMinutes", minutes)
            .number("since", self.since.0)
            .answer()
    }

    /// Answers how much was appended to all streams. `subscribers` is the number of live readers.
    #[must_use]
    pub fn system(&self, now: Millis, subscribers: u64) -> Answer {
        let mut sums = Appended::default();
        self.last(now, SYSTEM_MINUTES)
            .for_each(|minute| sums += minute.all);
        Object::new()
            .number("messagesLast5Min", sums.messages)
            .number("bytesLast5Min", sums.bytes)
            .json(
                "messagesPerSecond",
                &ratio(sums.messages, SYSTEM_MINUTES * 60),
            )
            .number("activeSubscribers", subscribers)
            .number("since", self.since.0)
            .answer()
    }
}

impl Minute {
    fn forget_quiet(&mut self, kept: usize) {
        if self.streams.len() <= 2 * kept {
            return;
        }
        let mut counts: Vec<_> = self.streams.values().map(|sums| sums.messages).collect();
        counts.sort_unstable();
        let least = counts[counts.len() - kept.max(1)];
        self.streams.retain(|_, sums| sums.messages > least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    const MINUTE: u64 = 60_000;
    const STREAMS_MAX: usize = 200;

    fn text(answer: Answer) -> String {
        match answer.body {
            Body::Bytes(bytes) => String::from_utf8(bytes).expect("the answer is a text"),
            Body::Empty | Body::Plan(_) => panic!("the answer is a text"),
        }
    }

    fn of(messages: u64) -> Appended {
        Appended {
            messages,
            bytes: 10 * messages,
        }
    }

    #[test]
    fn the_hottest_streams_come_first_and_old_minutes_do_not_count() {
        let mut traffic = Traffic::new(Millis(5), STREAMS_MAX);
        traffic.record(Millis(0), "old", of(100));
        traffic.record(Millis(9 * MINUTE), "a", of(2));
        traffic.record(Millis(10 * MINUTE), "b", of(1));
        traffic.record(Millis(10 * MINUTE + 1), "a", of(3));
        traffic.record(Millis(10 * MINUTE + 1), "c", of(5));
        traffic.record(Millis(10 * MINUTE + 1), "none", of(0));
        let now = Millis(11 * MINUTE - 1);
        assert_eq!(
            text(traffic.hot(now, 2, 2)),
            r#"{"streams":[{"streamId":"a","messageCount":5,"byteCount":50},{"streamId":"c","messageCount":5,"byteCount":50}],"periodMinutes":2,"since":5}"#
        );
        assert_eq!(
            text(traffic.hot(now, 1, 1)),
            r#"{"streams":[{"streamId":"c","messageCount":5,"byteCount":50}],"periodMinutes":1,"since":5}"#
        );
        assert_eq!(
            text(traffic.system(now, 7)),
            r#"{"messagesLast5Min":11,"bytesLast5Min":110,"messagesPerSecond":0.036,"activeSubscribers":7,"since":5}"#
        );
        assert!(text(traffic.hot(now, 60, 1)).contains("old"));
    }

    #[test]
    fn many_quiet_streams_do_not_push_out_a_hot_one() {
        let mut traffic = Traffic::new(Millis(0), STREAMS_MAX);
        for number in 0..5 * STREAMS_MAX {
            traffic.record(Millis(0), &format!("quiet-{number}"), of(1));
            traffic.record(Millis(0), "hot", of(2));
        }
        let streams = traffic.minutes[&0].streams.len();
        assert!(streams <= STREAMS_MAX, "{streams}");
        assert!(text(traffic.hot(Millis(0), 1, 1)).contains(r#""hot","messageCount":2000"#));
        assert_eq!(traffic.minutes[&0].all, of(15 * STREAMS_MAX as u64));
        for minute in 0..2 * MINUTES_MAX {
            traffic.record(Millis(minute * MINUTE), "hot", of(1));
        }
        assert_eq!(traffic.minutes.len() as u64, MINUTES_MAX);
    }
}
