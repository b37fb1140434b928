//! Calls of objects by other objects, and changes of the admin index. Messages and answers are
//! lost, late, duplicated or reordered.

use std::rc::Rc;

use bytes::Bytes;
use machine::outbox::{self, Statement};
use machine::wire::header;
use machine::{CallOutcome, EffectId, Input};

use super::World;
use super::client::Received;
use crate::coverage::{Fault, Situation};
use crate::ids::{CallId, Id as _, ObjectId, RpcId};
use crate::oracles::Oracle;
use crate::request::Request;
use crate::trace::{Mark, Span};

/// The lane of messages in a trace.
const LANE: &str = "message";

fn span(rpc: RpcId) -> Span {
    Span::new("message", rpc.number() as u64)
}

/// An event of a message.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The index executes it.
    Execute { rpc: RpcId },
    /// The sender learns the outcome, or that it is unknown.
    Finished { rpc: RpcId, status: Option<u16> },
}

/// A message on its way.
#[derive(Debug)]
pub(super) struct Rpc {
    at: ObjectId,
    instance: u64,
    effect: EffectId,
    /// What the index executes; `None` for a call of an object.
    statements: Option<Rc<Vec<Statement>>>,
    /// Whether its answer arrives.
    is_answered: bool,
    executed: bool,
    finished: bool,
}

/// What an object sends.
pub(super) enum Message {
    Call {
        to: String,
        request: outbox::Request,
    },
    Index(Vec<Statement>),
}

/// Returns the same request as a client's.
fn as_client(request: outbox::Request) -> Request {
    let known = |name: &str, names: &[&'static str]| {
        let found = names.iter().find(|each| **each == name);
        *found.unwrap_or_else(|| panic!("objects do not send {name}"))
    };
    let names = [
        header::CONTENT_TYPE,
        header::PRODUCER_ID,
        header::PRODUCER_EPOCH,
        header::PRODUCER_SEQ,
    ];
    let headers = request.headers.into_iter();
    Request {
        method: known(&request.method, &["PUT", "POST"]),
        query: Vec::new(),
        headers: headers
            .map(|(name, value)| (known(&name, &names), value))
            .collect(),
        body: request.body.into(),
    }
}

/// What happens to a message.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// How many times it arrives.
    copies: u64,
    is_late: bool,
    is_answered: bool,
    /// Whether the sender learns at once that it failed.
    fails: bool,
}

/// Returns one line for the trace.
fn summary(message: &Message) -> String {
    match message {
        Message::Call { to, request } => format!("{} {to} {}", request.method, request.body),
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
        if self.engine.fault(Fault::Message) {
            self.engine.changed(Fault::Message);
            match self.engine.choices.upto(6) {
                0 => (copies, fails) = (0, true),
                1 => (is_answered, fails) = (false, true),
                2 => copies = 2,
                3 => (is_late, is_answered, fails) = (true, false, true),
                4 => copies = 0,
                5 => is_answered = false,
                _ => (copies, is_late) = (2, true),
            }
            let situations = [
                (copies == 0 || !is_answered, Situation::MessageLost),
                (copies == 2, Situation::MessageTwice),
                (is_late, Situation::MessageLate),
            ];
            for (holds, situation) in situations {
                if holds {
                    self.engine.cover(situation);
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

    pub(super) fn begin_rpc(
        &mut self,
        at: ObjectId,
        instance: u64,
        effect: EffectId,
        message: Message,
    ) {
        let rpc = self.rpcs.next_id();
        let begins = Mark::Begins(span(rpc));
        self.engine.note_as(begins, LANE, || {
            format!("{rpc} of object {at}: {}", summary(&message))
        });
        let fate = self.fate();
        let (request, statements) = match message {
            Message::Call { to, request } => (Some((to, request)), None),
            Message::Index(statements) => (None, Some(Rc::new(statements))),
        };
        self.rpcs.push(Rpc {
            at,
            instance,
            effect,
            statements,
            is_answered: fate.is_answered,
            executed: false,
            finished: false,
        });
        let request =
            request.map(|(to, request)| (self.object_named(&to), Rc::new(as_client(request))));
        for copy in 0..fate.copies {
            let mut delay = self.engine.network_delay();
            // At least one of two copies arrives in time.
            if fate.is_late && (fate.copies == 1 || copy > 0) {
                delay += self.engine.choices.upto(self.engine.settings.delays.late);
            }
            match &request {
                None => self.engine.schedule(delay, Event::Execute { rpc }.into()),
                Some((to, request)) => {
                    let call = self.call(*to, None, None, request);
                    self.calls[call].rpc = Some(rpc);
                    self.engine.schedule(delay, super::Event::Arrive { call });
                }
            }
        }
        if fate.fails {
            let delay = self.engine.network_delay();
            let finished = Event::Finished { rpc, status: None };
            self.engine.schedule(delay, finished.into());
        }
    }

    pub(super) fn happen_to_rpc(&mut self, event: Event) {
        match event {
            Event::Execute { rpc } => self.execute(rpc),
            Event::Finished { rpc, status } => {
                self.finished(rpc, status.map(|status| (status, Bytes::new())));
            }
        }
    }

    /// Lets the index execute a message.
    fn execute(&mut self, rpc: RpcId) {
        let it = &mut self.rpcs[rpc];
        if core::mem::replace(&mut it.executed, true) {
            self.engine.cover(Situation::IndexRepeated);
        }
        let statements = it
            .statements
            .clone()
            .expect("the index gets its own messages");
        match self.index.execute(&statements) {
            Ok(changed) => {
                self.engine.recorder.digest.number(changed);
                if changed == 0 {
                    self.engine.cover(Situation::IndexLate);
                }
            }
            Err(reason) => {
                return self.engine.fail(
                    Oracle::Index,
                    "statements that mean one thing".to_owned(),
                    reason,
                );
            }
        }
        if self.rpcs[rpc].is_answered {
            let delay = self.engine.network_delay();
            let finished = Event::Finished {
                rpc,
                status: Some(200),
            };
            self.engine.schedule(delay, finished.into());
        }
    }

    /// Handles the registry's answer to a message.
    pub(super) fn message_answered(&mut self, rpc: RpcId, call: CallId, received: &Received) {
        let status = received.response.status;
        self.engine
            .note(LANE, || format!("{rpc} ← {}", received.response.line()));
        match (self.calls[call].request.method, status) {
            ("PUT", 201) => self.engine.cover(Situation::RegistryCreated),
            ("POST", 204) => self.engine.cover(Situation::RegistryRetried),
            _ => {}
        }
        if self.rpcs[rpc].is_answered {
            self.finished(rpc, Some((status, received.response.body.clone())));
        }
    }

    /// Handles that the registry does not answer.
    pub(super) fn message_lost(&mut self, rpc: RpcId) {
        self.finished(rpc, None);
    }

    fn finished(&mut self, rpc: RpcId, answer: Option<(u16, Bytes)>) {
        let it = &mut self.rpcs[rpc];
        let (at, effect) = (it.at, it.effect);
        let was_finished = core::mem::replace(&mut it.finished, true);
        if was_finished {
            return;
        }
        let (mark, is) = match answer {
            Some(_) => (Mark::Ends(span(rpc)), "is"),
            None => (Mark::Loses(span(rpc)), "is not"),
        };
        self.engine
            .note_as(mark, LANE, || format!("{rpc} {is} known to be done"));
        if self.objects[at].platform.present() != Some(it.instance) {
            return;
        }
        let input = match &it.statements {
            None => Input::CallFinished {
                effect,
                outcome: answer.map_or(CallOutcome::Failed, |(status, body)| {
                    CallOutcome::Answered { status, body }
                }),
            },
            Some(_) => Input::IndexFinished {
                effect,
                done: answer.is_some(),
            },
        };
        self.turn(at, input);
    }
}
