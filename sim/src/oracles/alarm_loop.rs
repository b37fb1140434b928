//! Alarms that change nothing do not follow one another without end.

use std::collections::BTreeMap;

use crate::ids::ObjectId;
use crate::model::Mismatch;

/// An alarm that finds nothing to do and sets itself again is early at most, or by a clock that is
/// ahead.
const IDLE_MAX: u64 = 1_000;

/// An alarm that has come and is set again for the same time, or an earlier one, comes again at
/// once. A few in a row are an instance's that cannot know: it has just begun.
const STALE_MAX: u64 = 8;

/// What a turn has done, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct AlarmTurn {
    /// An alarm has neither noted a use nor ended the stream, nor asked for anything.
    pub is_idle: bool,
    /// For when the alarm was set that the instance took to have come.
    pub came: u64,
    pub now: u64,
    /// For when the turn sets it again.
    pub set: Option<u64>,
}

/// How many such alarms an object has had in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streak {
    pub idle: u64,
    /// Of the last idle ones, those that were set again for a time that has passed.
    pub stale: u64,
}

#[derive(Debug, Default)]
pub struct AlarmLoop {
    streaks: BTreeMap<ObjectId, Streak>,
}

impl AlarmLoop {
    /// Takes a turn of an object, and tells how many alarms in a row it had.
    ///
    /// # Errors
    /// When there were too many.
    pub fn after_turn(
        &mut self,
        object: ObjectId,
        turn: AlarmTurn,
    ) -> (Streak, Result<(), Mismatch>) {
        let AlarmTurn { came, now, set, .. } = turn;
        let is_stale = turn.is_idle && set.is_some_and(|at| at <= now && at <= came);
        let streak = self.streaks.entry(object).or_default();
        streak.idle = if turn.is_idle { streak.idle + 1 } else { 0 };
        streak.stale = if is_stale { streak.stale + 1 } else { 0 };
        let mismatch = |expected, actual| Err(Mismatch { expected, actual });
        let verdict = if streak.idle > IDLE_MAX {
            let expected = format!("{IDLE_MAX} alarms in a row that change nothing at most");
            mismatch(expected, "another one".to_owned())
        } else if streak.stale > STALE_MAX {
            let expected = format!("an alarm set later than {came}, which has come, by {now}");
            mismatch(expected, format!("{set:?}"))
        } else {
            Ok(())
        };
        (*streak, verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Id as _;

    #[test]
    fn a_loop_is_noticed_and_a_pause_forgives_it() {
        let object = ObjectId::new(0);
        let stale = AlarmTurn {
            is_idle: true,
            came: 10,
            now: 20,
            set: Some(10),
        };
        let useful = AlarmTurn {
            is_idle: false,
            ..stale
        };
        let mut alarms = AlarmLoop::default();
        for _ in 0..STALE_MAX {
            assert_eq!(alarms.after_turn(object, stale).1, Ok(()));
        }
        assert_eq!(alarms.after_turn(object, useful).1, Ok(()));
        for _ in 0..STALE_MAX {
            assert_eq!(alarms.after_turn(object, stale).1, Ok(()));
        }
        assert!(alarms.after_turn(object, stale).1.is_err());
    }
}
