//! What is kept of a run: its digest, its coverage, its first failure, and its trace.

use core::fmt::Display;

use crate::coverage::Coverage;
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

/// Records a run.
#[derive(Debug)]
pub struct Recorder {
    pub digest: Digest,
    pub coverage: Coverage,
    pub failure: Option<Failure>,
    pub trace: Option<Vec<Line>>,
}

impl Recorder {
    pub(super) fn new(coverage: Coverage, traced: bool) -> Self {
        Self {
            digest: Digest::default(),
            coverage,
            failure: None,
            trace: traced.then(Vec::new),
        }
    }

    /// Adds a line to the trace, if one is kept.
    pub(super) fn note(
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
}
