//! What was appended, and in which minutes: sums that the admin API shows.

use std::collections::BTreeMap;

use super::rows::RowMeta;
use crate::Millis;
use crate::limits::SAFE_INTEGER_MAX;
use crate::plan::FRAME_OVERHEAD;
use crate::words::{self, Words};

/// The length of a minute.
pub(crate) const MILLIS_PER_MINUTE: u64 = 60_000;

/// The number of minutes that are counted apart, the present one included.
pub(crate) const MINUTES_MAX: u64 = 60;

/// What the sealed segments of a stream hold, and when it was appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// The sums of all sealed segments of the stream's own.
    pub sums: Sums,
    /// Their part of the last minutes with appends.
    pub minutes: Minutes,
}

/// Sums of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Messages, or appends where the content is bytes.
    pub messages: u64,
    /// Their framed bytes.
    pub framed: u64,
}

impl Sums {
    /// Returns the bytes of the messages, without their framing.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        let overhead = self.messages * FRAME_OVERHEAD;
        assert!(
            overhead <= self.framed,
            "a frame is longer than its overhead"
        );
        self.framed - overhead
    }

    pub(crate) const fn plus(self, more: Self) -> Self {
        Self {
            messages: self.messages + more.messages,
            framed: self.framed + more.framed,
        }
    }
}

/// What was appended in each minute, of the last minutes only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Minutes(BTreeMap<u64, Sums>);

impl Minutes {
    /// Returns the minute of a time, counted from 1970.
    #[must_use]
    pub const fn of(at: Millis) -> u64 {
        at.0 / MILLIS_PER_MINUTE
    }

    /// Returns the beginning of the earliest minute that counts at this time.
    #[must_use]
    pub const fn since(now: Millis) -> Millis {
        Millis((Self::of(now) + 1).saturating_sub(MINUTES_MAX) * MILLIS_PER_MINUTE)
    }

    /// Adds what was appended in a minute, and forgets the minutes that no longer count.
    pub(crate) fn add(&mut self, minute: u64, sums: Sums) {
        let before = self.0.entry(minute).or_default();
        *before = before.plus(sums);
        while self
            .0
            .first_key_value()
            .is_some_and(|(first, _)| first + MINUTES_MAX <= *self.last())
        {
            self.0.pop_first();
        }
    }

    fn last(&self) -> &u64 {
        let last = self.0.last_key_value();
        last.expect("a minute was added just now").0
    }

    pub(crate) fn add_all(&mut self, more: &Self) {
        more.0
            .iter()
            .for_each(|(minute, sums)| self.add(*minute, *sums));
    }

    /// Returns what was appended in a minute.
    #[must_use]
    pub fn at(&self, minute: u64) -> Sums {
        self.0.get(&minute).copied().unwrap_or_default()
    }
}

impl Activity {
    /// Returns the form in which it is stored.
    #[must_use]
    pub fn to_stored(&self) -> String {
        let words = Words::new(&self.sums.messages.to_string()).word(self.sums.framed);
        let minutes = self.minutes.0.iter();
        let words = minutes.fold(words, |words, (minute, sums)| {
            words.word(minute).word(sums.messages).word(sums.framed)
        });
        words.finish()
    }

    /// Reads what [`Self::to_stored`] returns; `None` if the text is malformed.
    #[must_use]
    pub fn from_stored(text: &str) -> Option<Self> {
        let mut words = words::Reader::new(text);
        let sums = |words: &mut words::Reader<'_>| {
            let (messages, framed): (u64, u64) = (words.parse()?, words.parse()?);
            let overhead = messages.checked_mul(FRAME_OVERHEAD)?;
            (overhead <= framed && framed <= SAFE_INTEGER_MAX).then_some(Sums { messages, framed })
        };
        let mut activity = Self {
            sums: sums(&mut words)?,
            minutes: Minutes::default(),
        };
        while let Some(minute) = words.word() {
            let minute = minute
                .parse()
                .ok()
                .filter(|minute| *minute <= SAFE_INTEGER_MAX)?;
            activity.minutes.add(minute, sums(&mut words)?);
        }
        Some(activity)
    }
}

/// The rows of one minute, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinuteOfRows {
    /// Minutes since 1970.
    pub minute: u64,
    /// Units (messages or bytes) that end in these rows.
    pub units: u64,
    /// Framed bytes in these rows.
    pub bytes: u64,
}

/// Sums up rows, for a storage that does not sum them up itself.
#[derive(Debug, Default)]
pub struct MinutesOfRows(BTreeMap<u64, (u64, u64)>);

impl MinutesOfRows {
    /// Adds a row.
    pub fn add(&mut self, row: &RowMeta) {
        let (units, bytes) = self.0.entry(Minutes::of(row.at)).or_default();
        *units += row.units;
        *bytes += row.bytes;
    }

    /// Returns the sums, in order.
    #[must_use]
    pub fn finish(self) -> Vec<MinuteOfRows> {
        let minutes = self.0.into_iter();
        let minutes = minutes.map(|(minute, (units, bytes))| MinuteOfRows {
            minute,
            units,
            bytes,
        });
        minutes.collect()
    }
}
