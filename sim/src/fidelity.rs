//! Tiny programs on the simulated platform. `tests/fidelity` runs the same programs on the real
//! one. Everything that a program can show here is found by enumeration. What it shows on the real
//! platform must be among that.
//!
//! A step means the same as in `tests/fidelity/object.mjs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::choices::{Choices, Enumeration};
use crate::engine::Engine;
use crate::ids::{CallId, ConnectionId, Id, ObjectId, Table};
use crate::platform::{self, Due, Object, Outgoing, Remains};
use crate::settings::{Faults, Settings};

/// A step of an object. Steps are taken in order.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    /// Puts a row into a table. Makes the table if it does not exist.
    Insert(String, u64),
    Drop(String),
    /// Logs the rows of a table.
    Rows(String),
    /// Takes all steps in one transaction. If one throws, none of them counts and the error is
    /// logged.
    Transaction(Vec<Self>),
    DeleteAll,
    /// Keeps a number in memory.
    Remember(u64),
    /// Logs what is in memory.
    Recall,
    /// Sets the alarm to this many milliseconds from now.
    Alarm(i64),
    NoAlarm,
    /// Logs whether an alarm is set.
    GetAlarm,
    /// Waits for this many milliseconds.
    Pause(u64),
    /// Waits until everything written is durable.
    Sync,
    Throw,
    Abort,
    /// Takes these steps only the first time.
    Once(Vec<Self>),
    /// Sends a piece of the answer's body.
    Chunk(String),
    /// Keeps a text with the connection.
    Attach(String),
    /// Sends a message over every connection.
    Send(String),
    /// Logs what is kept with each connection.
    Lines,
}

/// A step from outside. Steps are taken in order.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Act {
    /// Calls a handler and waits for its answer.
    Call(String),
    /// Calls a handler without waiting.
    Start(String),
    /// Waits for all answers.
    Finish,
    /// Waits for this many milliseconds.
    Wait(u64),
    /// Waits until a message or a body contains this text.
    Hear(String),
    /// Ends the process and starts it again.
    Kill,
    /// Leaves the object alone until it sleeps.
    Sleep,
    /// Opens a connection.
    Connect,
    /// Closes all connections.
    Disconnect,
    /// Sends a message over all connections.
    Say(String),
}

/// The handlers of an object, and a script of what is done to it.
#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    pub name: String,
    handlers: BTreeMap<String, Vec<Step>>,
    script: Vec<Act>,
}

/// What a run shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Seen {
    /// How each call ended, and what came of its body.
    calls: Vec<String>,
    /// What came over each connection.
    lines: Vec<Vec<String>>,
    /// What the object has logged since its process began.
    log: Vec<String>,
}

/// Returns everything that a program can show.
///
/// # Errors
///
/// When it cannot be run to its end.
pub fn everything_seen(program: &Program) -> Result<BTreeSet<Seen>, String> {
    let mut enumeration = Enumeration::default();
    let mut seen = BTreeSet::new();
    while let Some(mut choices) = enumeration.begin() {
        seen.insert(Play::new(program, &mut choices).run()?);
        enumeration.finish(choices);
    }
    Ok(seen)
}

/// The storage of an object: tables with their rows.
#[derive(Clone, Debug, Default)]
struct Tables(BTreeMap<String, Vec<u64>>);

#[derive(Clone, Debug)]
enum Write {
    Insert(String, u64),
    Drop(String),
    DeleteAll,
}

impl Tables {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Insert(table, row) => self.0.entry(table.clone()).or_default().push(*row),
            Write::Drop(table) => {
                self.0.remove(table);
            }
            Write::DeleteAll => self.0.clear(),
        }
    }
}

impl platform::Storage for Tables {
    type Write = Write;
    type Disk = Self;

    fn persist(disk: &mut Self, writes: &[Write]) -> Result<(), String> {
        writes.iter().for_each(|write| disk.apply(write));
        Ok(())
    }

    fn restore(&mut self, disk: &Self) -> Result<(), String> {
        self.clone_from(disk);
        Ok(())
    }
}

/// The memory of an instance.
#[derive(Clone, Debug, Default)]
struct Memory(Option<u64>);

impl platform::Program for Memory {
    type Storage = Tables;
    type Snapshot = ();
    type Attachment = String;
    type Answer = &'static str;
    type Message = String;
    /// It has no effects.
    type Effect = std::convert::Infallible;
}

#[derive(Debug)]
enum Event {
    Platform(platform::Event),
    /// A handler that waits can continue.
    Resume {
        handling: usize,
    },
    /// The script can continue.
    Script,
}

impl From<platform::Event> for Event {
    fn from(event: platform::Event) -> Self {
        Self::Platform(event)
    }
}

/// A call from outside.
#[derive(Debug, Default)]
struct Call {
    outcome: Option<&'static str>,
    /// Whether the beginning of its answer has arrived. Pieces of the body wait for it.
    begun: bool,
    waiting: Vec<String>,
    heard: Vec<String>,
}

impl Call {
    fn seen(&self) -> String {
        let outcome = self.outcome.unwrap_or("unanswered");
        format!("{outcome} {}", self.heard.concat())
            .trim()
            .to_owned()
    }
}

/// Why a handler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Call(CallId),
    Alarm,
    Line(ConnectionId),
    /// A connection that is opened by a call whose answer is not recorded.
    Connect(ConnectionId),
}

/// A handler that is running.
#[derive(Debug)]
struct Handling<'p> {
    name: &'p str,
    cause: Cause,
    /// The epoch of the object at its beginning.
    epoch: u64,
    /// The steps that are left, each with its place in the program.
    steps: VecDeque<(usize, &'p Step)>,
    streams: bool,
    waits_for_storage: bool,
}

/// The effects of a turn.
#[derive(Default)]
struct Turn {
    writes: Vec<Write>,
    alarm: Option<Option<u64>>,
    messages: Vec<(ConnectionId, String)>,
}

/// How a turn ended.
enum End {
    Waits,
    Done,
    Thrown,
    Aborted,
}

/// One run of a program.
struct Play<'p, 'w, 't> {
    program: &'p Program,
    engine: Engine<'w, 't, Event>,
    object: Object<Memory>,
    handlings: Vec<Handling<'p>>,
    calls: Table<CallId, Call>,
    lines: Table<ConnectionId, Vec<String>>,
    log: Vec<String>,
    taken: BTreeSet<(&'p str, usize)>,
}

impl<'p, 'w, 't> Play<'p, 'w, 't> {
    fn new(program: &'p Program, choices: &'w mut Choices<'t>) -> Self {
        let settings = Settings {
            faults: Faults::default(),
            ..Settings::small(0)
        };
        Self {
            program,
            engine: Engine::new(choices, settings, false),
            object: Object::new(ObjectId::new(0), Tables::default()),
            handlings: Vec::new(),
            calls: Table::default(),
            lines: Table::default(),
            log: Vec::new(),
            taken: BTreeSet::new(),
        }
    }

    fn run(mut self) -> Result<Seen, String> {
        for act in &self.program.script {
            self.act(act)?;
        }
        Ok(Seen {
            calls: self.calls.iter().map(Call::seen).collect(),
            lines: self.lines.iter().cloned().collect(),
            log: self.log,
        })
    }

    fn act(&mut self, act: &'p Act) -> Result<(), String> {
        match act {
            Act::Call(handler) => {
                let call = self.call(handler)?;
                self.until(|play| play.calls[call].outcome.is_some())?;
            }
            Act::Start(handler) => {
                self.call(handler)?;
            }
            Act::Finish => {
                self.until(|play| play.calls.iter().all(|call| call.outcome.is_some()))?
            }
            Act::Wait(ms) => {
                self.engine.schedule(*ms, Event::Script);
                while !matches!(self.happen()?, Event::Script) {}
            }
            Act::Hear(text) => self.until(|play| {
                let heard = play.calls.iter().map(|call| &call.heard).chain(&play.lines);
                heard.flatten().any(|heard| heard == text)
            })?,
            Act::Kill => {
                self.die()?;
                self.log.clear();
                self.taken.clear();
            }
            Act::Sleep => {
                if !self.object.is_idle() {
                    return Err("the object is too busy to sleep".to_owned());
                }
                self.object.instance = None;
            }
            Act::Connect => {
                let line = self.lines.push(Vec::new());
                self.object.connections.push((line, "nothing".to_owned()));
                self.handle("connect", Cause::Connect(line))?;
                self.until(|play| play.object.pending().is_none())?;
            }
            Act::Disconnect => {
                for (line, _) in self.object.connections.clone() {
                    self.log.push("line is closed".to_owned());
                    if self.program.handlers.contains_key("close") {
                        self.handle("close", Cause::Line(line))?;
                    }
                    self.object.connections.retain(|(each, _)| *each != line);
                }
            }
            Act::Say(text) => {
                for (line, _) in self.object.connections.clone() {
                    self.log.push(format!("line says {text}"));
                    self.handle("message", Cause::Line(line))?;
                }
            }
        }
        Ok(())
    }

    /// Takes events until something holds.
    fn until(&mut self, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !holds(self) {
            self.happen()?;
        }
        Ok(())
    }

    /// Takes the next event.
    fn happen(&mut self) -> Result<Event, String> {
        let event = self
            .engine
            .take_next()
            .ok_or("what the script waits for never comes")?;
        match &event {
            Event::Script => {}
            Event::Resume { handling } => self.go_on(*handling)?,
            Event::Platform(platform::Event::Durable { epoch, number, .. }) => {
                if self.object.durable(&mut self.engine, *epoch, *number)? {
                    self.release();
                    self.resume_synced()?;
                }
            }
            Event::Platform(platform::Event::Alarm { token, again, .. }) => {
                match self.object.alarm_due(&mut self.engine, *token, *again) {
                    None => {}
                    Some(Due::Runs) => {
                        self.log.push("alarm comes".to_owned());
                        self.handle("alarm", Cause::Alarm)?;
                    }
                    Some(Due::Fails) => self.object.alarm_failed(&mut self.engine),
                }
            }
            Event::Platform(platform::Event::Crash { .. } | platform::Event::Idle { .. }) => {}
        }
        Ok(event)
    }

    fn call(&mut self, handler: &'p str) -> Result<CallId, String> {
        let call = self.calls.push(Call::default());
        self.object.begun.push(call);
        self.handle(handler, Cause::Call(call))?;
        Ok(call)
    }

    fn handle(&mut self, name: &'p str, cause: Cause) -> Result<(), String> {
        let steps = self
            .program
            .handlers
            .get(name)
            .ok_or("there is no such handler")?;
        self.handlings.push(Handling {
            name,
            cause,
            epoch: self.object.epoch,
            steps: steps.iter().enumerate().collect(),
            streams: steps.iter().any(|step| matches!(step, Step::Chunk(_))),
            waits_for_storage: false,
        });
        let handling = self.handlings.len() - 1;
        self.go_on(handling)?;
        let Handling { streams, cause, .. } = self.handlings[handling];
        if let (true, Cause::Call(call)) = (streams, cause) {
            // The answer begins at once; its body follows.
            self.object.hold(
                Outgoing::Answer {
                    call,
                    answer: "begun",
                },
                true,
            );
            self.release();
        }
        Ok(())
    }

    /// Runs a handler up to its next pause.
    fn go_on(&mut self, handling: usize) -> Result<(), String> {
        if self.handlings[handling].epoch != self.object.epoch {
            return Ok(());
        }
        if self.object.instance.is_none() {
            self.object.begin_instance(&mut self.engine);
            self.object.instance = Some(Memory::default());
        }
        let mut turn = Turn::default();
        let end = self.turn(handling, &mut turn);
        let Handling { cause, streams, .. } = self.handlings[handling];
        if matches!(end, End::Aborted) {
            return self.die();
        }
        let handled = cause == Cause::Alarm && matches!(end, End::Done);
        let ended = handled.then(|| self.object.alarm_ends()).flatten();
        let alarm = turn.alarm.or(ended);
        if !turn.writes.is_empty() || alarm.is_some() {
            self.object
                .commit(&mut self.engine, turn.writes, alarm, handled, ());
        }
        let now = self.engine.now();
        self.object.set_alarm(&mut self.engine, alarm, now);
        for (line, message) in turn.messages {
            self.object.hold(
                Outgoing::Message {
                    connection: line,
                    message,
                },
                true,
            );
        }
        match (end, cause) {
            (End::Thrown, Cause::Alarm) => self.object.alarm_failed(&mut self.engine),
            (End::Done, Cause::Call(call)) if !streams => {
                self.object.hold(
                    Outgoing::Answer {
                        call,
                        answer: "done",
                    },
                    true,
                );
            }
            (End::Thrown, Cause::Call(call)) => {
                self.object.hold(
                    Outgoing::Answer {
                        call,
                        answer: "failed",
                    },
                    true,
                );
            }
            _ => {}
        }
        self.release();
        Ok(())
    }

    fn turn(&mut self, handling: usize, turn: &mut Turn) -> End {
        while let Some((index, step)) = self.handlings[handling].steps.pop_front() {
            match step {
                Step::Pause(ms) => {
                    self.engine.schedule(*ms, Event::Resume { handling });
                    return End::Waits;
                }
                Step::Sync => {
                    self.handlings[handling].waits_for_storage = true;
                    return End::Waits;
                }
                Step::Abort => return End::Aborted,
                Step::Once(steps) => {
                    if self.taken.insert((self.handlings[handling].name, index)) {
                        for step in steps.iter().enumerate().rev() {
                            self.handlings[handling].steps.push_front(step);
                        }
                    }
                }
                Step::Insert(..)
                | Step::Drop(_)
                | Step::Rows(_)
                | Step::Transaction(_)
                | Step::DeleteAll
                | Step::Remember(_)
                | Step::Recall
                | Step::Alarm(_)
                | Step::NoAlarm
                | Step::GetAlarm
                | Step::Throw
                | Step::Chunk(_)
                | Step::Attach(_)
                | Step::Send(_)
                | Step::Lines => {
                    if self.take(handling, step, turn).is_err() {
                        return End::Thrown;
                    }
                }
            }
        }
        End::Done
    }

    /// Takes a step that needs no wait.
    fn take(&mut self, handling: usize, step: &'p Step, turn: &mut Turn) -> Result<(), Thrown> {
        let cause = self.handlings[handling].cause;
        match step {
            Step::Insert(table, row) => self.write(turn, Write::Insert(table.clone(), *row)),
            Step::Drop(table) => self.write(turn, Write::Drop(table.clone())),
            Step::DeleteAll => {
                self.write(turn, Write::DeleteAll);
                turn.alarm = Some(None);
            }
            Step::Rows(table) => {
                let rows = self.object.storage.0.get(table);
                let rows = rows.map_or_else(|| "none".to_owned(), |rows| joined(rows.iter()));
                self.say(handling, &format!("rows {rows}"));
            }
            Step::Transaction(steps) => {
                let (tables, writes) = (self.object.storage.clone(), turn.writes.len());
                let taken = steps
                    .iter()
                    .try_for_each(|step| self.take(handling, step, turn));
                if taken.is_err() {
                    self.object.storage = tables;
                    turn.writes.truncate(writes);
                    self.say(handling, "rolled back");
                }
            }
            Step::Remember(number) => self.object.instance = Some(Memory(Some(*number))),
            Step::Recall => {
                let memory = self.object.instance.as_ref().and_then(|memory| memory.0);
                let memory = memory.map_or_else(|| "empty".to_owned(), |number| number.to_string());
                self.say(handling, &format!("memory {memory}"));
            }
            Step::Alarm(ms) => {
                turn.alarm = Some(Some(self.engine.now().saturating_add_signed(*ms)))
            }
            Step::NoAlarm => turn.alarm = Some(None),
            Step::GetAlarm => {
                let alarm = turn.alarm.unwrap_or_else(|| self.object.alarm.seen());
                let alarm = if alarm.is_some() { "set" } else { "none" };
                self.say(handling, &format!("alarm {alarm}"));
            }
            Step::Throw => return Err(Thrown),
            Step::Chunk(text) => {
                if let Cause::Call(call) = cause {
                    let call = &mut self.calls[call];
                    if call.begun {
                        call.heard.push(text.clone());
                    } else {
                        call.waiting.push(text.clone());
                    }
                }
            }
            Step::Attach(text) => {
                let mine = |line: &ConnectionId| match cause {
                    Cause::Connect(mine) | Cause::Line(mine) => mine == *line,
                    Cause::Call(_) | Cause::Alarm => false,
                };
                for (_, kept) in self
                    .object
                    .connections
                    .iter_mut()
                    .filter(|(line, _)| mine(line))
                {
                    kept.clone_from(text);
                }
            }
            Step::Send(text) => {
                let lines = self.object.connections.iter();
                turn.messages
                    .extend(lines.map(|(line, _)| (*line, text.clone())));
            }
            Step::Lines => {
                let kept = joined(self.object.connections.iter().map(|(_, kept)| kept));
                let kept = if kept.is_empty() { "none" } else { &kept };
                self.say(handling, &format!("lines {kept}"));
            }
            // These steps are handled elsewhere.
            Step::Pause(_) | Step::Sync | Step::Abort | Step::Once(_) => {}
        }
        Ok(())
    }

    fn write(&mut self, turn: &mut Turn, write: Write) {
        self.object.storage.apply(&write);
        turn.writes.push(write);
    }

    fn say(&mut self, handling: usize, text: &str) {
        let name = self.handlings[handling].name;
        self.log.push(format!("{name}: {text}"));
    }

    fn release(&mut self) {
        while let Some(outgoing) = self.object.released() {
            match outgoing {
                Outgoing::Answer {
                    call,
                    answer: "begun",
                } => {
                    let call = &mut self.calls[call];
                    call.begun = true;
                    call.heard.append(&mut call.waiting);
                }
                Outgoing::Answer { call, answer } => self.calls[call].outcome = Some(answer),
                Outgoing::Message {
                    connection,
                    message,
                } => self.lines[connection].push(message),
                Outgoing::Close { connection } => self.lines[connection].push("closed".to_owned()),
            }
        }
    }

    /// Wakes the handlers that wait for the storage when nothing is on its way.
    fn resume_synced(&mut self) -> Result<(), String> {
        if self.object.commits_pending() > 0 {
            return Ok(());
        }
        for handling in 0..self.handlings.len() {
            if core::mem::take(&mut self.handlings[handling].waits_for_storage) {
                self.go_on(handling)?;
            }
        }
        Ok(())
    }

    /// Ends the instance and everything that depends on it.
    fn die(&mut self) -> Result<(), String> {
        let remains: Remains<Memory> = self.object.crash(&mut self.engine)?;
        for call in &mut self.calls {
            call.outcome.get_or_insert("failed");
        }
        for (line, _) in core::mem::take(&mut self.object.connections) {
            self.lines[line].push("closed".to_owned());
        }
        self.object.settle_alarm(&mut self.engine, &remains);
        Ok(())
    }
}

struct Thrown;

fn joined<T: ToString>(each: impl Iterator<Item = T>) -> String {
    each.map(|each| each.to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(program: &str) -> BTreeSet<Seen> {
        let program: Program = serde_json::from_str(program).unwrap();
        everything_seen(&program).unwrap()
    }

    #[test]
    fn a_kill_keeps_any_first_part_of_what_is_on_its_way() {
        let seen = seen(
            r#"{"name": "", "handlers": {"write": [{"insert": ["t", 1]}, {"pause": 0}, {"insert": ["t", 2]}], "read": [{"rows": "t"}]},
                "script": [{"start": "write"}, {"wait": 0}, "kill", {"call": "read"}]}"#,
        );
        let logs: Vec<_> = seen.into_iter().flat_map(|seen| seen.log).collect();
        assert_eq!(logs, ["read: rows 1", "read: rows 1 2", "read: rows none"]);
    }

    #[test]
    fn a_sleeping_object_forgets_and_keeps_its_lines() {
        let seen = seen(
            r#"{"name": "", "handlers": {"connect": [{"remember": 1}, {"attach": "kept"}], "read": ["recall", "lines"]},
                "script": ["connect", "sleep", {"call": "read"}]}"#,
        );
        let logs: Vec<_> = seen.into_iter().map(|seen| seen.log).collect();
        assert_eq!(logs, [["read: memory empty", "read: lines kept"]]);
    }
}
