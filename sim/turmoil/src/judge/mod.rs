//! Holds answers against the reference model. The commits give the order of versions.
//!
//! Each turn that became durable must be one that a client has asked for, exactly once, and gives
//! the next version of its stream. An answer must be allowed in a version between the one that was
//! durable when it was asked for and the last one.

mod answers;
mod forks;
mod readers;
mod turns;

use std::collections::BTreeMap;
use std::rc::Rc;

use sim::model::{Bounds, Incarnation, Inheritance, Model, State};
use sim::oracles::OffsetLaw;
use sim::request::Request;

pub(crate) use forks::{keep, pins_at_rest};
pub(crate) use readers::{Progress, Reading};

use forks::ForkLimits;

use crate::settings::Settings;

/// A request without an answer may still take effect for this long.
const LINGERS_MS: u64 = 60_000;

/// A request that was sent.
#[derive(Debug)]
struct Attempt {
    name: usize,
    request: Rc<Request>,
    sent_at: u64,
    /// The durable version of its stream at that time.
    from: usize,
    /// The name that it forks, and the durable version of that at the same time.
    source: Option<(usize, usize)>,
    /// Whether all of it was sent.
    whole: bool,
    over_at: Option<u64>,
    /// Whether a turn has carried it out.
    applied: bool,
}

/// The cause of a version.
#[derive(Debug, Default)]
struct Cause {
    now: u64,
    /// Whether a stream has ended, and whether it was hidden then.
    dropped: bool,
    hidden: bool,
    sealed: Option<(u64, u64)>,
    /// What the fork that it has created has of its source.
    inherits: Option<Rc<Inheritance>>,
    changes: bool,
    /// Whether an answer has shown it.
    shown: bool,
}

#[derive(Debug)]
struct Version {
    /// When it became durable.
    at: u64,
    state: State,
    cause: Cause,
}

#[derive(Debug)]
struct Name {
    model: Model,
    /// The first version is a name without a stream.
    versions: Vec<Version>,
    /// When the storage last told the server of a damaged row.
    damaged_at: Option<u64>,
}

/// An observation that is counted as a situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notable {
    CreatedAgain,
    DeletedUnderReader,
    ExpiredAlone,
    ExpiredAfterCrash,
    Forked {
        /// Whether its source is a fork.
        deep: bool,
        /// Whether it has a part of an append.
        inside: bool,
    },
    DeletedHidden,
    ExpiredHidden,
    Freed,
    /// A pin was released whose fork was never created.
    Abandoned,
    /// A page or events have shown a part of an incarnation.
    Shown {
        name: usize,
        incarnation: u64,
        from: u64,
        to: u64,
        live: bool,
    },
}

/// Judges answers against the reference model.
#[derive(Debug)]
pub(crate) struct Judge {
    names: Vec<Name>,
    attempts: Vec<Attempt>,
    law: OffsetLaw,
    forks: ForkLimits,
    /// The name and the number of each incarnation, by the one that the server has given it.
    machines: BTreeMap<u64, (usize, u64)>,
    /// How many live reads are under way, by name.
    pub(crate) readers: Vec<u64>,
    pub(crate) notable: Vec<Notable>,
}

/// Returns the name of a stream.
pub(crate) fn stream(name: usize) -> String {
    format!("name-{name}")
}

impl Judge {
    pub(crate) fn new(settings: &Settings) -> Self {
        let limits = &settings.workload.limits;
        let bounds = Bounds {
            body_bytes: limits.append_bytes_max,
            page_bytes: limits.chunk_bytes_max,
            folded_bytes: if limits.turn_calls_max > 1 {
                limits.fold_bytes_max
            } else {
                0
            },
            page_step: limits.index_step(),
            page_ends_max: limits.index_entries_max,
            page_max_age_s: limits.page_max_age_s,
            page_stale_s: limits.page_stale_s,
            long_poll_max_age_s: limits.long_poll_max_age_s,
            judges_cache_control: true,
            whole_reads: settings.workload.whole_reads,
            slack_divisor: limits.touch_slack_divisor,
            skew_ms: 0,
            cursor_epoch_ms: limits.cursor_epoch_ms,
            cursor_interval_ms: limits.cursor_interval_ms,
        };
        let names = (0..settings.names()).map(|_| Name {
            model: Model::new(bounds.clone()),
            versions: vec![Version {
                at: 0,
                state: State::default(),
                cause: Cause::default(),
            }],
            damaged_at: None,
        });
        let names: Vec<_> = names.collect();
        Self {
            readers: vec![0; names.len()],
            names,
            attempts: Vec::new(),
            law: OffsetLaw::default(),
            forks: ForkLimits::new(limits),
            machines: BTreeMap::new(),
            notable: Vec::new(),
        }
    }

    pub(crate) fn incarnation(&self, name: usize) -> Option<&Incarnation> {
        self.names[name].model.state.incarnation.as_ref()
    }

    pub(crate) fn state(&self, name: usize) -> &State {
        &self.names[name].model.state
    }

    pub(crate) fn has_ended(&self, name: usize, now: u64) -> bool {
        let model = &self.names[name].model;
        let ends = self
            .incarnation(name)
            .and_then(|incarnation| incarnation.ends(&model.bounds));
        ends.is_some_and(|(least, _)| least <= now)
    }

    /// Returns by when an unused stream must be gone.
    pub(crate) fn latest_end(&self, name: usize) -> Option<u64> {
        let model = &self.names[name].model;
        let incarnation = self.incarnation(name)?;
        let (_, most) = incarnation.ends(&model.bounds)?;
        Some(most.saturating_add(incarnation.ttl_ms().unwrap_or(0) / model.bounds.slack_divisor))
    }

    pub(crate) fn names(&self) -> usize {
        self.names.len()
    }

    /// Returns the name and the request of an attempt.
    fn asked(&self, attempt: usize) -> (usize, Rc<Request>) {
        let Attempt { name, request, .. } = &self.attempts[attempt];
        (*name, Rc::clone(request))
    }

    /// Notes that a client sends a request.
    pub(crate) fn sent(&mut self, name: usize, request: &Rc<Request>, now: u64) -> usize {
        let source = self.source_of(request);
        self.attempts.push(Attempt {
            name,
            source,
            request: Rc::clone(request),
            sent_at: now,
            from: self.names[name].versions.len() - 1,
            whole: true,
            over_at: None,
            applied: false,
        });
        self.attempts.len() - 1
    }

    /// Notes that a request was cut before its end.
    pub(crate) fn cut(&mut self, attempt: usize) {
        self.attempts[attempt].whole = false;
    }

    /// Notes that the client no longer waits for an answer.
    pub(crate) fn over(&mut self, attempt: usize, now: u64) {
        self.attempts[attempt].over_at.get_or_insert(now);
    }
}
