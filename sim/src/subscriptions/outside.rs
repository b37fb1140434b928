//! What effects do outside of their object: answers, calls and webhooks, and how they go wrong.

use machine::{Answer, Body, Call, CallOutcome, Effect, EffectId, Input, outbox};

use super::coverage::{Fault, Situation};
use super::judge::Departed;
use super::model::{Appended, Life};
use super::request::{Action, Asked, Kind, Request, id_of, parse};
use super::view::View;
use super::world::{Caller, Event, Pending, Place, World, of_call};
use crate::oracles::Oracle;
use crate::trace::Mark;

/// Returns the text of a body.
pub(super) fn text_of(answer: &Answer) -> String {
    match &answer.body {
        Body::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Body::Empty | Body::Plan(_) => String::new(),
    }
}

/// Returns the code of a refusal.
pub(super) fn code_of(text: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    body["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

impl World<'_, '_> {
    pub(super) fn carry_out(&mut self, at: &Place, effect: Effect, departed: &Departed) {
        match effect {
            Effect::Answer { call, answer } => self.answered(call.0, answer, departed),
            Effect::Call {
                effect,
                to,
                request,
            } => self.call(at, effect, &to, &request),
            Effect::Webhook { effect, webhook } => self.leaves(at, effect, webhook, departed),
            Effect::Enqueue { effect, messages } if self.settings.limits.fanout_queue => {
                self.enqueue(at, effect, messages);
            }
            Effect::Attach { .. }
            | Effect::Enqueue { .. }
            | Effect::Index { .. }
            | Effect::Put(_)
            | Effect::Collect { .. } => {
                self.fail(Oracle::Contract, "no such effect", "one");
            }
        }
    }

    /// Hands an answer to whoever waits for it.
    fn answered(&mut self, call: u64, answer: Answer, departed: &Departed) {
        let Some(pending) = self.calls.remove(&call) else {
            return;
        };
        match pending.caller {
            Caller::Client {
                request, asked, at, ..
            } => {
                let text = text_of(&answer);
                let ends = Mark::Ends(of_call(call));
                self.note_as(ends, "client", || {
                    format!("c{call}: {} {text}", answer.status)
                });
                let finding = self.checkers.secrets.in_answer(&request, &text);
                self.judged(finding);
                self.client_answered(*request, (asked, at), &answer, &text, departed);
            }
            Caller::Object {
                place,
                effect,
                is_answered,
            } => {
                let text = text_of(&answer);
                self.checkers.secrets.told(&text);
                if let Some(event) = self.workers.events.get(&(place.clone(), effect)).cloned()
                    && matches!(answer.status, 200..=299)
                {
                    self.event_written(event, answer.status);
                }
                if !is_answered {
                    return;
                }
                let outcome = CallOutcome::Answered {
                    status: answer.status,
                    body: text.into_bytes().into(),
                };
                let mut delay = self.network_delay();
                if self.fault(Fault::Call) {
                    delay += self.late();
                }
                self.call_ended(delay, place, effect, outcome);
            }
            Caller::Consumer { run, is_answered } => {
                if is_answered {
                    let outcome = CallOutcome::Answered {
                        status: answer.status,
                        body: text_of(&answer).into_bytes().into(),
                    };
                    let delay = self.network_delay();
                    self.schedule(delay, Event::Consumed { run, outcome });
                }
            }
        }
    }

    fn client_answered(
        &mut self,
        request: Request,
        (asked, at): (u64, u64),
        answer: &Answer,
        text: &str,
        departed: &Departed,
    ) {
        let is_good = matches!(answer.status, 200..=299);
        let life = departed.of.clone();
        match &request.kind {
            Kind::CreateStream { content, .. } if answer.status == 201 && content.messages > 0 => {
                self.append_answered(&request.name, (asked, at), answer);
            }
            Kind::Append { then_claim, .. } if is_good => {
                self.append_answered(&request.name, (asked, at), answer);
                if let Some(id) = then_claim {
                    self.cover(Situation::ClaimAtOnce);
                    self.claim(id, 0);
                }
            }
            Kind::Subscribe(config) => self.subscribe_answered(config, (life, asked), answer, text),
            Kind::Unsubscribe if is_good => self.cover(Situation::Deleted),
            Kind::AddStreams(streams) if is_good => {
                self.cover(Situation::StreamAdded);
                if let Some(life) = life {
                    self.model.named(&life, streams, (asked, self.events));
                }
            }
            Kind::RemoveStream(_) => {
                self.model.ended(&request, self.events);
                if is_good {
                    self.cover(Situation::StreamRemoved);
                }
            }
            Kind::Claim { worker } => self.claim_answered(&request, worker, asked, text, departed),
            Kind::Work(work) if is_good => {
                let situation = match work.action {
                    Action::Release => Situation::Released,
                    Action::Callback if work.done => Situation::DoneByCallback,
                    Action::Callback | Action::Ack => Situation::Acked,
                };
                self.cover(situation);
                if text.contains("\"next_wake\":true") {
                    self.cover(Situation::NextWake);
                }
            }
            Kind::Work(work) => match code_of(text).as_str() {
                "FENCED" => self.cover(Situation::Fenced),
                "TOKEN_INVALID" => self.cover(Situation::TokenRefused),
                "INVALID_OFFSET" => self.ack_refused(work, asked, text),
                "unavailable" => self.cover(Situation::AckUnanswered),
                _ => {}
            },
            Kind::PublicKeys => self.public_keys(&request, text),
            Kind::Session(kind) => {
                self.session_answered(&request.name, kind, answer, text, at);
            }
            Kind::CreateStream { .. }
            | Kind::Append { .. }
            | Kind::Close
            | Kind::DeleteStream
            | Kind::Unsubscribe
            | Kind::AddStreams(_)
            | Kind::Describe => {}
        }
    }

    fn append_answered(&mut self, name: &str, (asked, at): (u64, u64), answer: &Answer) {
        let end = answer
            .header("Stream-Next-Offset")
            .and_then(|end| end.parse().ok());
        let Some(end) = end else {
            let actual = "an answer without one";
            return self.fail(Oracle::Model, "the offset behind an append", actual);
        };
        let answered = self.events;
        let Some(incarnation) = self.model.present.get(name).copied() else {
            return self.fail(Oracle::Model, "a durable append", "no stream");
        };
        let stream = self.model.streams.get_mut(&(name.to_owned(), incarnation));
        stream
            .expect("what is present is known")
            .appends
            .push(Appended {
                asked,
                answered,
                end,
                at,
            });
    }

    fn subscribe_answered(
        &mut self,
        config: &Asked,
        (life, asked): (Option<Life>, u64),
        answer: &Answer,
        text: &str,
    ) {
        match (answer.status, life) {
            (200 | 201, Some(life)) => {
                let is_new = answer.status == 201;
                self.cover(if is_new {
                    Situation::Created
                } else {
                    Situation::Confirmed
                });
                let now = self.events;
                if let Some(follower) = self.model.followers.get_mut(&life) {
                    follower.since.get_or_insert(now);
                    // A second PUT says nothing of streams that were removed meanwhile.
                    if is_new {
                        self.model.named(&life, &config.streams, (asked, now));
                    }
                }
            }
            (400, _) if code_of(text) == "WEBHOOK_URL_REJECTED" => {
                self.cover(Situation::RefusedUrl);
            }
            (409, _) => self.cover(Situation::OtherConfiguration),
            (429, _) => self.cover(Situation::DirectoryFull),
            _ => {}
        }
    }

    pub(super) fn call_ended(
        &mut self,
        delay: u64,
        at: Place,
        effect: EffectId,
        outcome: CallOutcome,
    ) {
        let input = Input::CallFinished { effect, outcome };
        self.schedule(delay, Event::Ended { at, input });
    }

    fn call(&mut self, at: &Place, effect: EffectId, to: &str, request: &outbox::Request) {
        let Some(input) = self.read_call(to, request) else {
            return;
        };
        if let Some(id) = id_of(&at.name)
            && request.body.contains("\"type\":\"wake\"")
        {
            let events = &mut self.workers.events;
            events.insert((at.clone(), effect), id.to_owned());
        }
        let caller = |is_answered| Caller::Object {
            place: at.clone(),
            effect,
            is_answered,
        };
        if self.send_call(to, &input, &caller) {
            let delay = self.network_delay();
            self.call_ended(delay, at.clone(), effect, CallOutcome::Failed);
        }
    }

    pub(super) fn read_call(&mut self, to: &str, request: &outbox::Request) -> Option<Call> {
        let target = outbox::target(to);
        let (method, headers, limits) = (&request.method, &request.headers, &self.settings.limits);
        let body = request.body.clone();
        let input = parse(method, outbox::ORIGIN, &target, headers, body, limits);
        if input.is_none() {
            let actual = format!("{request:?}");
            self.fail(Oracle::Contract, "a call of an object", actual);
        }
        input
    }

    /// Sends a call, or several copies of it. `caller` returns who waits for the answer, and gets
    /// whether that arrives. Returns true if the call fails for its caller.
    pub(super) fn send_call(
        &mut self,
        to: &str,
        input: &Call,
        caller: &dyn Fn(bool) -> Caller,
    ) -> bool {
        let (mut copies, mut is_late, mut is_answered, mut fails) = (1, false, true, false);
        if self.fault(Fault::Call) {
            match self.choices.upto(4) {
                0 => (copies, fails) = (0, true),
                1 => (is_answered, fails) = (false, true),
                2 => copies = 2,
                3 => (is_late, is_answered, fails) = (true, false, true),
                _ => (copies, is_late) = (2, true),
            }
        }
        if self.fault(Fault::Silence) {
            (is_answered, fails) = (false, false);
            copies = self.choices.upto(1);
        }
        for copy in 0..copies {
            let mut delay = self.network_delay();
            if is_late && (copies == 1 || copy > 0) {
                delay += self.late();
            }
            self.next_call += 1;
            let call = self.next_call;
            let caller = caller(is_answered);
            let holder = None;
            self.calls.insert(call, Pending { caller, holder });
            let (to, input) = (to.to_owned(), input.clone());
            self.schedule(delay, Event::Arrive { call, to, input });
        }
        fails
    }

    /// Returns what the durable rows of a subscription say.
    pub(super) fn durable_view(&self, object: &str) -> View {
        let object = self.objects.get(object);
        object
            .map(|object| View::of(&object.disk))
            .unwrap_or_default()
    }
}
