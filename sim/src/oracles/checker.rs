//! Checkers: oracles of the inner layer that look at objects after each turn, and at the whole
//! world when nothing is left to happen.

use machine::{Limits, Turn};

use super::{
    AlarmLoop, AlarmsArmed, Broadcasts, EntityTags, IndexListed, Memory, NoOrphans, OffsetLaw,
    Oracle, Pages, Position, Recency, RegistryComplete, RowsTile, SegmentsTile,
};
use crate::cold_tier::Objects;
use crate::coverage::Coverage;
use crate::ids::ObjectId;
use crate::model::{Mismatch, Model};
use crate::platform::Alarm;
use crate::storage::Store;

/// A violation that an oracle has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub oracle: Oracle,
    pub expected: String,
    pub actual: String,
}

/// The verdict of a checker.
pub type Finding = Result<(), Violation>;

/// Returns a finding.
///
/// # Errors
/// Always, so that a checker can return what this returns.
pub(super) fn violation(
    oracle: Oracle,
    expected: impl Into<String>,
    actual: impl Into<String>,
) -> Finding {
    Err(Violation {
        oracle,
        expected: expected.into(),
        actual: actual.into(),
    })
}

/// Turns the verdict of an oracle into a finding.
///
/// # Errors
/// When the verdict is one.
pub(super) fn finding(oracle: Oracle, verdict: Result<(), Mismatch>) -> Finding {
    verdict.map_err(|Mismatch { expected, actual }| Violation {
        oracle,
        expected,
        actual,
    })
}

/// An object under test, beside the reference model of its name.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub id: ObjectId,
    pub name: &'a str,
    pub store: &'a Store,
    pub alarm: &'a Alarm,
    /// How many producers the present instance remembers.
    pub producers_in_memory: u64,
    pub model: &'a Model,
}

/// A turn whose writes are applied and which the model has judged. Nothing of it has left yet.
#[derive(Clone, Copy, Debug)]
pub struct AfterTurn<'a> {
    pub subject: Subject<'a>,
    pub turn: &'a Turn,
    pub limits: &'a Limits,
    /// The objects of the cold tier.
    pub cold: &'a Objects,
    pub before: Position,
    pub after: Position,
    /// Whether the turn is an alarm's that has neither noted a use, nor ended the stream, nor begun
    /// an effect.
    pub is_idle_alarm: bool,
    /// Whether the outbox has loaded another queue because its turn came.
    pub rotates: bool,
    /// The time for which the instance believed the alarm to be set.
    pub alarm_believed: u64,
    /// The time of the world.
    pub now: u64,
}

/// The world when no event is left and no object has anything left to do.
#[derive(Clone, Debug)]
pub struct Quiescent<'a> {
    pub subjects: Vec<Subject<'a>>,
    /// The objects of the cold tier.
    pub cold: &'a Objects,
    /// The rows of the admin index: of its streams and of its segments.
    pub listed: (Vec<String>, Vec<String>),
    pub limits: &'a Limits,
}

/// An oracle that has a state.
pub trait Checker {
    /// Judges a turn.
    ///
    /// # Errors
    /// When the turn has done something wrong.
    fn after_turn(&mut self, _turn: &AfterTurn<'_>, _coverage: &mut Coverage) -> Finding {
        Ok(())
    }

    /// Judges the world in which nothing is left to happen.
    ///
    /// # Errors
    /// When something is left, or missing.
    fn at_quiescence(&mut self, _world: &Quiescent<'_>) -> Finding {
        Ok(())
    }
}

/// All oracles that have a state, apart from the objects and from the reference models.
#[derive(Debug, Default)]
pub struct Checkers {
    memory: Memory,
    alarm_loop: AlarmLoop,
    rows: RowsTile,
    segments: SegmentsTile,
    broadcasts: Broadcasts,
    orphans: NoOrphans,
    registry: RegistryComplete,
    index: IndexListed,
    pub alarms: AlarmsArmed,
    pub pages: Pages,
    pub entity_tags: EntityTags,
    pub offset_law: OffsetLaw,
    pub recency: Recency,
}

impl Checkers {
    fn all(&mut self) -> [&mut dyn Checker; 8] {
        [
            &mut self.memory,
            &mut self.alarm_loop,
            &mut self.rows,
            &mut self.segments,
            &mut self.broadcasts,
            &mut self.orphans,
            &mut self.registry,
            &mut self.index,
        ]
    }

    /// Lets every checker judge a turn.
    pub fn after_turn(&mut self, turn: &AfterTurn<'_>, coverage: &mut Coverage) -> Vec<Violation> {
        let findings = self
            .all()
            .map(|checker| checker.after_turn(turn, coverage).err());
        findings.into_iter().flatten().collect()
    }

    /// Lets every checker judge the world in which nothing is left to happen.
    pub fn at_quiescence(&mut self, world: &Quiescent<'_>) -> Vec<Violation> {
        let findings = self.all().map(|checker| checker.at_quiescence(world).err());
        findings.into_iter().flatten().collect()
    }
}
