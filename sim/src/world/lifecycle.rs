//! What the platform does to objects: commits, crashes, sleep, moves and alarms.

use machine::Input;

use super::object::INSTANCES_MAX;
use super::stale_instance::StaleInstance;
use super::{Event, World};
use crate::coverage::{Fault, Situation};
use crate::ids::ObjectId;
use crate::oracles::{Oracle, Position};
use crate::platform::{self, Due};

impl World<'_, '_> {
    /// Draws what happens to the instance after a turn.
    pub(super) fn inject_faults(&mut self, at: ObjectId) {
        if self.objects[at].platform.instances > INSTANCES_MAX {
            return;
        }
        let epoch = self.objects[at].platform.epoch;
        if self.engine.fault(Fault::Crash) {
            let longest = self.engine.settings.delays.commit * 2;
            let delay = self.engine.choices.upto(longest);
            let crash = platform::Event::Crash { object: at, epoch };
            self.engine.schedule(delay, crash.into());
        }
        for (fault, cut_connections) in [(Fault::Hibernate, false), (Fault::Evict, true)] {
            if self.engine.fault(fault) {
                let delay = self
                    .engine
                    .choices
                    .upto(self.engine.settings.delays.commit + self.engine.settings.delays.network);
                let idle = platform::Event::Idle {
                    object: at,
                    epoch,
                    cut_connections,
                };
                self.engine.schedule(delay, idle.into());
            }
        }
    }

    /// Handles an event of the platform.
    pub(super) fn happen_to_object(&mut self, event: platform::Event) {
        match event {
            platform::Event::Durable {
                object: at,
                epoch,
                number,
            } => match self.objects[at]
                .platform
                .durable(&mut self.engine, epoch, number)
            {
                Ok(true) => {
                    self.release(at);
                    self.commits_ended(at, number);
                }
                Ok(false) => {}
                Err(reason) => self.refused_by_storage(reason),
            },
            platform::Event::Crash { object: at, epoch } => self.crash(at, epoch),
            platform::Event::Idle {
                object: at,
                epoch,
                cut_connections,
            } => self.idle(at, epoch, cut_connections),
            platform::Event::Alarm {
                object: at,
                token,
                again,
            } => match self.objects[at]
                .platform
                .alarm_due(&mut self.engine, token, again)
            {
                None => {}
                Some(Due::Fails) => {
                    self.objects[at].forget(&mut self.models[at]);
                    self.objects[at].platform.alarm_failed(&mut self.engine);
                }
                Some(Due::Runs) => self.turn(at, Input::Alarm),
            },
        }
    }

    /// Tells the queue which commits have ended, and runs what waited for them.
    fn commits_ended(&mut self, at: ObjectId, number: u64) {
        let object = &mut self.objects[at];
        while object
            .append_commits
            .pop_front_if(|commit| *commit <= number)
            .is_some()
        {
            object.queue.commit_ended();
        }
        self.run_waiting(at);
    }

    pub(super) fn refused_by_storage(&mut self, reason: String) {
        self.engine.fail(
            Oracle::Storage,
            "writes that can be carried out".to_owned(),
            reason,
        );
    }

    fn crash(&mut self, at: ObjectId, epoch: u64) {
        let (platform, model) = (&mut self.objects[at].platform, &mut self.models[at]);
        if platform.epoch != epoch {
            return;
        }
        let state = model.state.clone();
        let mut remains = match platform.crash(&mut self.engine) {
            Ok(remains) => remains,
            Err(reason) => return self.refused_by_storage(reason),
        };
        let (present, back) = (
            Position::of(&state),
            Position::of(platform.durable_snapshot()),
        );
        if remains.lost_commits {
            if present.incarnation().is_some()
                && back < present
                && back.incarnation() != present.incarnation()
            {
                self.engine.cover(Situation::CrashLostCreation);
            }
            if present.incarnation().is_none() && back.incarnation().is_some() {
                self.engine.cover(Situation::CrashLostDeletion);
            }
        }
        if remains.lost_commits || !remains.begun.is_empty() || !platform.connections.is_empty() {
            self.engine.changed(Fault::Crash);
        }
        model.restart(platform.durable_snapshot().clone());
        self.objects[at].end_queue();
        for call in core::mem::take(&mut remains.begun) {
            if remains.goes_on && self.calls[call].awaits.is_some() {
                let stale_instance = StaleInstance {
                    stream: remains.instance.clone(),
                    state: state.clone(),
                    clock: remains.clock,
                };
                self.calls[call].stale_instance = Some(Box::new(stale_instance));
                self.engine.changed(Fault::StaleInstance);
                continue;
            }
            self.calls[call].awaits = None;
            let delay = self.engine.network_delay();
            self.engine.schedule(delay, Event::Lost { call });
        }
        self.cut_connections(at);
        self.objects[at]
            .platform
            .settle_alarm(&mut self.engine, &remains);
    }

    /// Drops an idle instance. It hibernates with its connections, or is moved without them.
    fn idle(&mut self, at: ObjectId, epoch: u64, cut_connections: bool) {
        let platform = &self.objects[at].platform;
        if platform.epoch != epoch || !platform.is_idle() {
            return;
        }
        self.engine.note(format_args!("object {at}"), || {
            if cut_connections {
                "is moved"
            } else {
                "hibernates"
            }
            .to_owned()
        });
        self.objects[at].forget(&mut self.models[at]);
        self.engine.changed(if cut_connections {
            Fault::Evict
        } else {
            Fault::Hibernate
        });
        if cut_connections {
            self.engine.cover(Situation::Evicted);
            self.objects[at].platform.epoch += 1;
            self.objects[at].end_queue();
            self.cut_connections(at);
        } else if !self.objects[at].platform.connections.is_empty() {
            self.engine.cover(Situation::Hibernated);
        }
    }
}
