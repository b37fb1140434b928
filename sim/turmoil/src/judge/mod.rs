//! Holds what clients are told against the reference model. The order of things is that of the
//! commits: each turn that became durable must be one that a client has asked for, exactly once,
//! and gives the next version of its stream. An answer must be one that the model allows in a
//! version between the one that was durable when it was asked for and the last one.

mod answers;
mod readers;
mod turns;

use std::rc::Rc;

use sim::model::{Bounds, Incarnation, Model, State};
use sim::oracles::OffsetLaw;
use sim::request::Request;

pub(crate) use readers::{Progress, Reading};

use crate::settings::Settings;

/// A request whose answer does not come may still take effect after so long.
const LINGERS_MS: u64 = 60_000;

/// A request that was sent.
#[derive(Debug)]
struct Attempt {
    name: usize,
    request: Rc<Request>,
    sent_at: u64,
    /// The version of its stream that was durable then.
    from: usize,
    /// Whether all of it was sent.
    whole: bool,
    over_at: Option<u64>,
    /// Whether a turn was asked for by it.
    applied: bool,
}

/// What led to a version.
#[derive(Debug, Default)]
struct Cause {
    now: u64,
    dropped: bool,
    sealed: Option<(u64, u64)>,
    changes: bool,
    /// Whether somebody was told so.
    told: bool,
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
    /// The first is that there is nothing.
    versions: Vec<Version>,
}

/// Something that is counted as a situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notable {
    CreatedAgain,
    DeletedUnderReader,
    ExpiredAlone,
    ExpiredAfterCrash,
    /// A part of an incarnation has been shown, as a page or in events.
    Shown {
        name: usize,
        incarnation: u64,
        from: u64,
        to: u64,
        live: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Judge {
    names: Vec<Name>,
    attempts: Vec<Attempt>,
    law: OffsetLaw,
    /// Broadcast reads under way, by name.
    pub(crate) readers: Vec<u64>,
    pub(crate) notable: Vec<Notable>,
}

/// The name of a stream.
pub(crate) fn stream(name: usize) -> String {
    format!("name-{name}")
}

impl Judge {
    pub(crate) fn new(settings: &Settings) -> Self {
        let limits = &settings.workload.limits;
        let bounds = Bounds {
            body_bytes: limits.append_bytes_max,
            page_bytes: limits.chunk_bytes_max,
            page_step: limits.index_step(),
            page_ends_max: limits.index_entries_max,
            whole_reads: settings.workload.whole_reads,
            slack_divisor: limits.touch_slack_divisor,
            skew_ms: 0,
            cursor_epoch_ms: limits.cursor_epoch_ms,
            cursor_interval_ms: limits.cursor_interval_ms,
        };
        let names = (0..settings.workload.names).map(|_| Name {
            model: Model::new(bounds.clone()),
            versions: vec![Version {
                at: 0,
                state: State::default(),
                cause: Cause::default(),
            }],
        });
        let names: Vec<_> = names.collect();
        Self {
            readers: vec![0; names.len()],
            names,
            attempts: Vec::new(),
            law: OffsetLaw::default(),
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

    /// When a stream that nobody uses must be gone, at the latest.
    pub(crate) fn latest_end(&self, name: usize) -> Option<u64> {
        let model = &self.names[name].model;
        let incarnation = self.incarnation(name)?;
        let (_, most) = incarnation.ends(&model.bounds)?;
        Some(most.saturating_add(incarnation.ttl_ms().unwrap_or(0) / model.bounds.slack_divisor))
    }

    pub(crate) fn names(&self) -> usize {
        self.names.len()
    }

    /// A client sends a request.
    pub(crate) fn sent(&mut self, name: usize, request: &Rc<Request>, now: u64) -> usize {
        self.attempts.push(Attempt {
            name,
            request: Rc::clone(request),
            sent_at: now,
            from: self.names[name].versions.len() - 1,
            whole: true,
            over_at: None,
            applied: false,
        });
        self.attempts.len() - 1
    }

    /// It was cut before its end.
    pub(crate) fn cut(&mut self, attempt: usize) {
        self.attempts[attempt].whole = false;
    }

    /// Nobody waits for its answer any more.
    pub(crate) fn over(&mut self, attempt: usize, now: u64) {
        self.attempts[attempt].over_at.get_or_insert(now);
    }
}
