//! Messages of objects to the registry's object and to the admin index: lost, late, in copies and
//! out of order, and their answers, too.

use std::rc::Rc;

use machine::message::{Message, Statement};
use machine::{EffectId, Input, SendOutcome};

use super::World;
use super::client::Received;
use crate::ids::{CallId, ObjectId, SendingId};
use crate::marks::{Fault, Mark};
use crate::oracles::Oracle;
use crate::request::Request;

/// What can happen to a message.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The index executes it.
    Execute { sending: SendingId },
    /// Its sender learns what came of it, or that nobody knows.
    Told {
        sending: SendingId,
        status: Option<u16>,
    },
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Sending {
    at: ObjectId,
    instance: u64,
    effect: EffectId,
    statements: Rc<Vec<Statement>>,
    /// Whether its answer gets back.
    is_answered: bool,
    executed: bool,
    told: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// How often it gets there.
    copies: u64,
    is_late: bool,
    is_answered: bool,
    /// Whether the sender is told at once that it failed.
    fails: bool,
}

/// One line for the trace.
fn line(message: &Message) -> String {
    match message {
        Message::Registry(request) => {
            let body = String::from_utf8_lossy(&request.body);
            format!("{} {} {body}", request.method, request.stream)
        }
        Message::Index(statements) => {
            let one = |statement: &Statement| {
                let verb: String = statement.sql.chars().take(20).collect();
                format!("{verb} {:?}", statement.values)
            };
            statements.iter().map(one).collect::<Vec<_>>().join("; ")
        }
    }
}

impl World<'_, '_> {
    fn fate(&mut self) -> Fate {
        let (mut copies, mut is_late, mut is_answered, mut fails) = (1, false, true, false);
        if self.course.fault(Fault::Message) {
            self.course.changed(Fault::Message);
            match self.course.choices.upto(6) {
                0 => (copies, fails) = (0, true),
                1 => (is_answered, fails) = (false, true),
                2 => copies = 2,
                3 => (is_late, is_answered, fails) = (true, false, true),
                4 => copies = 0,
                5 => is_answered = false,
                _ => (copies, is_late) = (2, true),
            }
            let marks = [
                (copies == 0 || !is_answered, Mark::MessageLost),
                (copies == 2, Mark::MessageTwice),
                (is_late, Mark::MessageLate),
            ];
            for (hit, mark) in marks {
                if hit {
                    self.course.hit(mark);
                }
            }
        }
        Fate {
            copies,
            is_late,
            is_answered,
            fails,
        }
    }

    pub(super) fn begin_sending(
        &mut self,
        at: ObjectId,
        instance: u64,
        effect: EffectId,
        message: Message,
    ) {
        self.course
            .note("message", || format!("of object {at}: {}", line(&message)));
        let fate = self.fate();
        let sending = self.sendings.next_id();
        let (request, statements) = match message {
            Message::Registry(request) => (Some(request), Vec::new()),
            Message::Index(statements) => (None, statements),
        };
        self.sendings.push(Sending {
            at,
            instance,
            effect,
            statements: Rc::new(statements),
            is_answered: fate.is_answered,
            executed: false,
            told: false,
        });
        let request = request.map(|request| {
            let to = self.object_named(&request.stream);
            let request = Request {
                method: request.method,
                query: Vec::new(),
                headers: request.headers,
                body: request.body.into(),
            };
            (to, Rc::new(request))
        });
        for copy in 0..fate.copies {
            let mut delay = self.course.network_delay();
            // Of two copies one is in time.
            if fate.is_late && (fate.copies == 1 || copy > 0) {
                delay += self.course.choices.upto(self.course.settings.delays.late);
            }
            match &request {
                None => self
                    .course
                    .schedule(delay, Event::Execute { sending }.into()),
                Some((to, request)) => {
                    let call = self.call(*to, None, None, request);
                    self.calls[call].sending = Some(sending);
                    self.course.schedule(delay, super::Event::Arrive { call });
                }
            }
        }
        if fate.fails {
            let delay = self.course.network_delay();
            let told = Event::Told {
                sending,
                status: None,
            };
            self.course.schedule(delay, told.into());
        }
    }

    pub(super) fn happen_to_sending(&mut self, event: Event) {
        match event {
            Event::Execute { sending } => self.execute(sending),
            Event::Told { sending, status } => self.told(sending, status),
        }
    }

    /// The index takes a message.
    fn execute(&mut self, sending: SendingId) {
        let it = &mut self.sendings[sending];
        if core::mem::replace(&mut it.executed, true) {
            self.course.hit(Mark::IndexRepeated);
        }
        let statements = Rc::clone(&it.statements);
        match self.index.execute(&statements) {
            Ok(changed) => {
                self.course.digest.number(changed);
                if changed == 0 {
                    self.course.hit(Mark::IndexLate);
                }
            }
            Err(reason) => {
                return self.course.fail(
                    Oracle::Index,
                    "statements that mean one thing".to_owned(),
                    reason,
                );
            }
        }
        if self.sendings[sending].is_answered {
            let delay = self.course.network_delay();
            let told = Event::Told {
                sending,
                status: Some(200),
            };
            self.course.schedule(delay, told.into());
        }
    }

    /// The registry has answered a message.
    pub(super) fn message_answered(
        &mut self,
        sending: SendingId,
        call: CallId,
        received: &Received,
    ) {
        let status = received.response.status;
        self.course.note("message", || {
            format!("{sending} ← {}", received.response.line())
        });
        match (self.calls[call].request.method, status) {
            ("PUT", 201) => self.course.hit(Mark::RegistryCreated),
            ("POST", 204) => self.course.hit(Mark::RegistryRetried),
            _ => {}
        }
        if self.sendings[sending].is_answered {
            self.told(sending, Some(status));
        }
    }

    /// The registry has not answered.
    pub(super) fn message_lost(&mut self, sending: SendingId) {
        self.told(sending, None);
    }

    fn told(&mut self, sending: SendingId, status: Option<u16>) {
        let it = &mut self.sendings[sending];
        let (at, effect) = (it.at, it.effect);
        if core::mem::replace(&mut it.told, true)
            || self.objects[at].platform.present() != Some(it.instance)
        {
            return;
        }
        let reply = status.map_or(SendOutcome::Failed, SendOutcome::Status);
        self.turn(at, Input::SendFinished { effect, reply }, None);
    }
}
