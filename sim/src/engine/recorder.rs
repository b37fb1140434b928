//! What is kept of a run: its digest, its coverage, its first failure, and its trace.

use core::fmt::Display;

use crate::digest::Digest;
use crate::oracles::Oracle;
use crate::trace::{Line, Mark};

/// The first violation that an oracle found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub oracle: Oracle,
    pub expected: String,
    pub actual: String,
    /// Number of the event that showed it.
    pub event: u64,
}

/// Records a run. `C` is its coverage.
#[derive(Debug)]
pub struct Recorder<C> {
    pub digest: Digest,
    pub coverage: C,
    pub failure: Option<Failure>,
    pub trace: Option<Vec<Line>>,
}

impl<C> Recorder<C> {
    pub(crate) fn new(coverage: C, traced: bool) -> Self {
        Self {
            digest: Digest::default(),
            coverage,
            failure: None,
            trace: traced.then(Vec::new),
        }
    }

    /// Adds a line to the trace, if one is kept.
    pub(crate) fn note(
        &mut self,
        simulated_ms: u64,
        event: u64,
        mark: Mark,
        who: impl Display,
        what: impl FnOnce() -> String,
    ) {
        if let Some(trace) = &mut self.trace {
            trace.push(Line {
                simulated_ms,
                event,
                lane: who.to_string(),
                text: what(),
                mark,
            });
        }
    }

    /// Records a failure, unless there is one already.
    pub(crate) fn fail(&mut self, simulated_ms: u64, failure: Failure) {
        if self.failure.is_none() {
            let (oracle, event) = (failure.oracle, failure.event);
            let Failure {
                expected, actual, ..
            } = &failure;
            self.note(simulated_ms, event, Mark::Failure, "!!", || {
                format!("{oracle}: expected {expected}, but {actual}")
            });
            self.failure = Some(failure);
        }
    }
}
