//! One stream's Durable Object. A request becomes one input, one turn is one transaction, and the
//! answers follow it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use js_sys::{Array, Date, Uint8Array};
use machine::wire::internal_headers;
use machine::wire::request::{self, AwaitsBody, Parsed, RequestHead};
use machine::{
    Answer, Arrival, Body, BodyWriter, Broadcast, Call, CallId, CallOutcome, Class, Context,
    Effect, EffectId, Input, Limits, Millis, Object, Subscriber,
};
use wasm_bindgen::prelude::*;
use web_sys::Response;

use crate::effects::{self, PutJob};
use crate::head::Head;
use crate::incoming::{Incoming, Room};
use crate::pages::Pages;
use crate::platform::{
    Asked, ObjectContext, Socket, WebSocketPair, entropy, instance_seed, log_error,
};
use crate::storage::Storage;
use crate::waiting::Waiting;
use crate::{response, settings};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** An answer that the entry gives when the code in here cannot. */
export interface Prepared {
  status: number;
  headers: [string, string][];
  body: string;
}

/** What a call asks of the entry. */
export interface Asked {
  /** Asks to report the end of a commit of appends with `commitsEnded`. */
  commit(): void;
  /** Asks to write data points once the turn is durable, if it has written anything. */
  points(points: string, waits: boolean): void;
  /** Asks to run an effect once the turn is durable. */
  effect(effect: Effect): void;
}

/** How bodies are read. */
export interface BodyLimits {
  /** The largest announced body that the platform collects. */
  wholeBytesMax: number;
  /** How many bytes of an unwanted body are read and discarded. */
  drainBytesMax: number;
  /** The silence after which the rest of an unwanted body is no longer waited for. */
  drainSilenceMs: number;
}
"#;

/// Closes the connection of a subscriber when its stream has ended (RFC 6455, 7.4.1).
const NORMAL_CLOSURE: u16 = 1_000;

#[wasm_bindgen]
pub struct StreamObject {
    env: JsValue,
    pub(crate) storage: Storage,
    /// Loaded by the first event that needs it. A failed turn drops it.
    pub(crate) machine: RefCell<Option<Object>>,
    calls: Cell<u64>,
    /// Whether there may be subscribers. Those of an earlier instance stay connected.
    has_subscribers: Cell<bool>,
    asked: Asked,
    /// The requests whose whole bodies the entry reads.
    awaited: RefCell<Vec<Awaited>>,
    waiting: Waiting,
    #[cfg(feature = "test-routes")]
    pub(crate) test: crate::test_routes::State,
}

#[wasm_bindgen]
impl StreamObject {
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(
        context: JsValue,
        env: JsValue,
        #[wasm_bindgen(unchecked_param_type = "Asked")] asked: JsValue,
    ) -> Self {
        Self {
            env,
            storage: Storage::new(context.unchecked_into::<ObjectContext>()),
            machine: RefCell::default(),
            calls: Cell::default(),
            has_subscribers: Cell::new(true),
            asked: asked.unchecked_into(),
            awaited: RefCell::default(),
            waiting: Waiting::default(),
            #[cfg(feature = "test-routes")]
            test: crate::test_routes::State::default(),
        }
    }

    /// Keeps the head of a request that needs its body, under a number that no other request of
    /// the object has. Returns whether it needs one. All other requests are answered by their head
    /// alone.
    #[wasm_bindgen(js_name = awaitBody)]
    #[must_use]
    pub fn await_body(&self, number: u32, head: String) -> bool {
        let Ok(settings) = settings(&self.env) else {
            return false;
        };
        let parsed =
            Head::new(&head).read(&settings, |head| request::parse(head, &settings.limits));
        let Ok(Parsed::AwaitsBody(awaits)) = parsed else {
            return false;
        };
        let awaited = Awaited {
            number,
            room: Room::of_head(head.len() as u64),
            head,
            awaits,
        };
        self.awaited.borrow_mut().push(awaited);
        true
    }

    /// Forgets a request whose body does not arrive.
    #[wasm_bindgen(js_name = forgetAwaited)]
    pub fn forget_awaited(&self, number: u32) {
        self.take_awaited(number);
    }

    /// Returns what receives the body of a request, if its head announces a request that needs one.
    #[must_use]
    pub fn receive(&self, head: &str) -> Option<Incoming> {
        let settings = settings(&self.env).ok()?;
        Head::new(head).read(&settings, |head| {
            match request::parse(head, &settings.limits) {
                Ok(Parsed::AwaitsBody(awaits)) => {
                    let announced = request::announced_bytes(head);
                    Some(Incoming::new(awaits, announced, Rc::clone(&settings)))
                }
                Ok(Parsed::Whole(_)) | Err(_) => None,
            }
        })
    }

    /// Answers a request with its whole body, which is empty if it has none.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    #[wasm_bindgen(unchecked_return_type = "Response | Pages | Promise<Response>")]
    pub fn fetch(&self, head: &str, body: Vec<u8>) -> Result<JsValue, JsValue> {
        self.answer(head, |head, limits| {
            let refused = |refusal| Answer::refusal(&refusal);
            match request::parse(head, limits).map_err(refused)? {
                Parsed::Whole(call) => Ok((call, Room::default())),
                Parsed::AwaitsBody(awaits) => with_body(awaits, body, limits),
            }
        })
    }

    /// Answers a request that has awaited its body. Returns `undefined` if the head of the request
    /// is not here, because an instance of this code had it that has panicked since.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    #[wasm_bindgen(
        js_name = fetchAwaited,
        unchecked_return_type = "Response | Promise<Response> | undefined"
    )]
    pub fn fetch_awaited(&self, number: u32, body: Vec<u8>) -> Result<JsValue, JsValue> {
        match self.take_awaited(number) {
            Some(Awaited {
                head, awaits, room, ..
            }) => {
                drop(room);
                self.answer(&head, |_, limits| with_body(awaits, body, limits))
            }
            None => Ok(JsValue::UNDEFINED),
        }
    }

    /// Answers a request with the body that was received in pieces.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    #[wasm_bindgen(js_name = fetchWithBody, unchecked_return_type = "Response | Pages | Promise<Response>")]
    pub fn fetch_with_body(&self, head: &str, body: &mut Incoming) -> Result<JsValue, JsValue> {
        self.answer(head, |_, _| body.call())
    }

    /// Gets the next page of a response. Returns whether there is one, because the stream may have
    /// ended.
    ///
    /// # Errors
    /// When the settings are bad.
    #[wasm_bindgen(js_name = readOn)]
    pub fn read_on(&self, pages: &mut Pages) -> Result<bool, JsValue> {
        let Some(rest) = pages.rest() else {
            return Ok(false);
        };
        let settings = settings(&self.env)?;
        let id = CallId(self.calls.replace(self.calls.get() + 1));
        let responded = self.turn(Input::Continue { id, rest }, &settings.limits);
        let Ok(Some(Responded::InPieces(_, rendering))) = responded else {
            return Ok(false);
        };
        pages.turn_to(*rendering);
        Ok(true)
    }

    /// Notes that this many commits of appends are durable. Runs the appends that have waited for
    /// them. Returns false if the commits are unknown, because an instance of this code began them
    /// that has panicked since. The requests that waited for them are lost with it.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    #[wasm_bindgen(js_name = commitsEnded)]
    pub fn commits_ended(&self, commits: u32) -> Result<bool, JsValue> {
        if !self.waiting.commits_ended(commits) {
            return Ok(false);
        }
        let settings = settings(&self.env)?;
        let limits = &settings.limits;
        while let Some(input) = self.waiting.next(limits) {
            let ids: Vec<_> = input.calls().collect();
            if self.turn(input, limits).is_err() {
                for id in ids {
                    let unavailable = |_| response::plain(&Answer::unavailable(limits));
                    self.waiting.answer(id, unavailable)?;
                }
            }
        }
        Ok(true)
    }

    /// Prepares the put of a segment from its rows. Returns the length of its object.
    ///
    /// # Errors
    /// When the rows no longer exist.
    #[wasm_bindgen(js_name = beginPut)]
    pub fn begin_put(&self, put: &PutJob) -> Result<f64, JsValue> {
        put.begin(&self.storage)
    }

    /// Returns the next piece of a segment's object.
    ///
    /// # Errors
    /// When the rows no longer exist.
    #[wasm_bindgen(js_name = nextPiece)]
    pub fn next_piece(&self, put: &PutJob) -> Result<Option<Uint8Array>, JsValue> {
        put.piece(&self.storage)
    }

    /// Handles the end of a put, which says whether the object is known to be stored.
    ///
    /// # Errors
    /// When the turn failed.
    pub fn stored(&self, put: &PutJob, known: bool) -> Result<(), JsValue> {
        let receipt = put.receipt().filter(|_| known);
        self.event(Input::PutFinished {
            id: put.put.id,
            receipt,
        })
    }

    /// Handles the end of a deletion, which says whether all objects are known to be deleted.
    ///
    /// # Errors
    /// When the turn failed.
    pub fn collected(&self, effect: f64, done: bool) -> Result<(), JsValue> {
        let effect = EffectId(effect as u64);
        self.event(Input::CollectFinished { effect, done })
    }

    /// Handles the end of a call: the status of the answer, or `None` without one, and its body.
    ///
    /// # Errors
    /// When the turn failed.
    pub fn replied(&self, effect: f64, status: Option<u16>, body: Vec<u8>) -> Result<(), JsValue> {
        let effect = EffectId(effect as u64);
        let body = Bytes::from(body);
        let answered = |status| CallOutcome::Answered { status, body };
        let outcome = status.map_or(CallOutcome::Failed, answered);
        self.event(Input::CallFinished { effect, outcome })
    }

    /// Handles the end of a change of the admin index, which says whether all statements are known
    /// to be executed.
    ///
    /// # Errors
    /// When the turn failed.
    pub fn indexed(&self, effect: f64, done: bool) -> Result<(), JsValue> {
        let effect = EffectId(effect as u64);
        self.event(Input::IndexFinished { effect, done })
    }

    /// Handles the end of a batch of messages for the fan-out queue, which says whether the queue
    /// is known to have them.
    ///
    /// # Errors
    /// When the turn failed.
    pub fn enqueued(&self, effect: f64, done: bool) -> Result<(), JsValue> {
        let effect = EffectId(effect as u64);
        self.event(Input::EnqueueFinished { effect, done })
    }

    /// Returns the answer that the entry gives when the Rust code cannot.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(unchecked_return_type = "Prepared")]
    pub fn unavailable() -> Result<JsValue, JsValue> {
        let answer = Answer::unavailable(&Limits::DEFAULT);
        let Body::Bytes(body) = &answer.body else {
            unreachable!("the answer gives its reason in its body");
        };
        let headers = answer
            .headers()
            .map(|(name, value)| Array::of2(&name.into(), &value.into()));
        effects::object(&[
            ("status", answer.status.into()),
            ("headers", headers.collect::<Array>().into()),
            ("body", String::from_utf8_lossy(body).as_ref().into()),
        ])
    }

    /// Returns the response when no page can be sent, because it is damaged or the cold tier does
    /// not answer.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    #[wasm_bindgen(js_name = pageFailure)]
    pub fn page_failure(&self, damaged: Option<String>) -> Result<Response, JsValue> {
        let answer = match (damaged, settings(&self.env)) {
            (Some(damaged), _) => Answer::internal(&damaged),
            (None, Ok(settings)) => Answer::unavailable(&settings.limits),
            (None, Err(bad)) => Answer::internal(&bad),
        };
        response::with_cors(response::plain(&answer)?)
    }

    /// Returns the limits by which the entry reads bodies.
    ///
    /// # Errors
    /// When the platform fails in making an object.
    #[wasm_bindgen(js_name = bodyLimits, unchecked_return_type = "BodyLimits")]
    pub fn body_limits() -> Result<JsValue, JsValue> {
        let limits = &Limits::DEFAULT;
        let limits = [
            ("wholeBytesMax", limits.whole_body_bytes_max),
            ("drainBytesMax", limits.drain_bytes_max),
            ("drainSilenceMs", limits.drain_silence_ms),
        ];
        effects::object(&limits.map(|(name, limit)| (name, (limit as f64).into())))
    }

    /// Handles the alarm.
    ///
    /// # Errors
    /// When the turn failed, so that the platform tries again.
    pub fn alarm(&self) -> Result<(), JsValue> {
        self.event(Input::Alarm)
    }

    /// Handles the end of a subscriber's connection.
    ///
    /// # Errors
    /// When the turn failed.
    #[wasm_bindgen(js_name = webSocketClose)]
    pub fn web_socket_close(&self, subscriber: &JsValue) -> Result<(), JsValue> {
        match self.storage.incarnation(subscriber)? {
            Some(incarnation) => self.event(Input::SubscriberLeft { incarnation }),
            None => Ok(()),
        }
    }
}

/// A request whose body is on its way.
struct Awaited {
    number: u32,
    head: String,
    awaits: AwaitsBody,
    room: Room,
}

/// Returns the call of a request whose whole body is there, and the room of that body.
fn with_body(awaits: AwaitsBody, body: Vec<u8>, limits: &Limits) -> Result<(Call, Room), Answer> {
    let room = Room::take(body.len() as u64, limits);
    let room = room.ok_or_else(|| Answer::unavailable(limits))?;
    let call = awaits.with_body(Bytes::from(body));
    Ok((call.map_err(|refusal| Answer::refusal(&refusal))?, room))
}

impl StreamObject {
    fn take_awaited(&self, number: u32) -> Option<Awaited> {
        let mut all = self.awaited.borrow_mut();
        let at = all.iter().position(|awaited| awaited.number == number)?;
        Some(all.swap_remove(at))
    }

    fn answer(
        &self,
        head: &str,
        call: impl FnOnce(RequestHead<'_>, &Limits) -> Result<(Call, Room), Answer>,
    ) -> Result<JsValue, JsValue> {
        let head = Head::new(head);
        #[cfg(feature = "test-routes")]
        if let Some(response) = self.test_route(&head)? {
            return Ok(response.into());
        }
        let settings = match settings(&self.env) {
            Ok(settings) => settings,
            Err(bad) => return response::plain(&Answer::internal(&bad)).map(JsValue::from),
        };
        let limits = &settings.limits;
        let (began, call) = head.read(&settings, |head| {
            let began = (head.header)(internal_headers::TIMING).map(|_| Date::now());
            (began, call(head, limits))
        });
        let response = match call {
            Ok((call, room)) => {
                let id = CallId(self.calls.replace(self.calls.get() + 1));
                let arrival = self.waiting.queue.borrow_mut().arrive(id, call, limits);
                let done = match arrival {
                    Arrival::Runs(input) => self.turn(input, limits),
                    Arrival::Waits => return Ok(self.waiting.append(id, began, room).into()),
                    Arrival::Refused => Ok(Some(Responded::Whole(response::plain(
                        &Answer::unavailable(limits),
                    )?))),
                };
                match done {
                    Ok(Some(Responded::Whole(response))) => response,
                    Ok(Some(Responded::InPieces(answer, rendering))) => {
                        return Ok(Pages::new(answer, *rendering).into());
                    }
                    // A later turn answers the call.
                    Ok(None) => return Ok(self.waiting.hold(id, began, room).into()),
                    Err(_) => response::plain(&Answer::unavailable(limits))?,
                }
            }
            Err(answer) => response::plain(&answer)?,
        };
        let response = timed(response, began)?;
        match head.method {
            "POST" => Ok(response.into()),
            _ => response::with_cors(response).map(JsValue::from),
        }
    }

    fn event(&self, input: Input) -> Result<(), JsValue> {
        let settings = settings(&self.env)?;
        self.turn(input, &settings.limits).map(|_| ())
    }

    /// Runs one turn, from the input to the response, if there is one. Nothing else runs in
    /// between. When the turn fails, nothing of it is stored, nothing is sent to clients, and the
    /// stream is loaded again.
    fn turn(&self, input: Input, limits: &Arc<Limits>) -> Result<Option<Responded>, JsValue> {
        let done = self.try_turn(input, limits);
        if let Err(error) = &done {
            self.machine.replace(None);
            log_error("a turn failed", error);
            // Only the instance that is gone knew what these calls wait for.
            self.waiting
                .fail_held(|| response::plain(&Answer::unavailable(limits)))?;
        }
        done
    }

    fn try_turn(&self, input: Input, limits: &Arc<Limits>) -> Result<Option<Responded>, JsValue> {
        #[cfg(feature = "test-routes")]
        let before = self.storage.counts.get();
        let now = Millis(Date::now() as u64);
        let storage = &self.storage;
        let mut object = match self.machine.take() {
            Some(object) => object,
            None => {
                if let Some(write) = Object::upgrade(now, storage).map_err(described)? {
                    storage.upgrade(&write)?;
                }
                Object::load(now, storage, limits, instance_seed()?).map_err(described)?
            }
        };
        let context = Context {
            now,
            storage,
            subscribers: &|incarnation| storage.attached(incarnation),
            entropy: &entropy,
        };
        let has_appends = input.has_appends();
        let mut turn = object.step(&context, input).map_err(described)?;
        storage.apply(&turn, || self.before_commit())?;
        if has_appends {
            self.waiting.queue.borrow_mut().turn_ended(&mut turn);
            if !turn.writes.is_empty() {
                self.asked.commit();
            }
        }
        if let Some(broadcast) = &turn.broadcast {
            self.broadcast(broadcast)?;
        }
        if !turn.events.events.is_empty() {
            self.asked
                .points(&turn.events.points(), !turn.writes.is_empty());
        }
        #[cfg(feature = "test-routes")]
        self.test.note_calls(&turn.after_commit);
        let mut response = None;
        for effect in turn.after_commit {
            match effect {
                Effect::Answer { call, answer } => {
                    let plain = |began| timed(response::plain(&answer)?, began);
                    if !self.waiting.answer(call, plain)? {
                        response = Some(self.respond(answer)?);
                    }
                }
                Effect::Attach { subscriber, .. } => {
                    response = Some(Responded::Whole(self.attach(&subscriber)?))
                }
                Effect::Put(put) => self.asked.effect(&effects::put(put)?),
                Effect::Collect { effect, keys } => {
                    self.asked.effect(&effects::collect(effect, &keys)?);
                }
                Effect::Call {
                    effect,
                    to,
                    request,
                } => self.asked.effect(&effects::call(effect, &to, &request)?),
                Effect::Webhook { effect, webhook } => {
                    self.asked.effect(&effects::webhook(effect, &webhook)?);
                }
                Effect::Enqueue { effect, messages } => {
                    self.asked.effect(&effects::enqueue(effect, &messages)?);
                }
                Effect::Index { effect, statements } => {
                    self.asked.effect(&effects::index(effect, &statements)?);
                }
            }
        }
        self.machine.replace(Some(object));
        #[cfg(feature = "test-routes")]
        self.test.note_turn(before, self.storage.counts.get());
        Ok(response)
    }

    fn respond(&self, answer: Answer) -> Result<Responded, JsValue> {
        let Body::Plan(plan) = &answer.body else {
            return response::plain(&answer).map(Responded::Whole);
        };
        let mut rendering = plan.begin(|span| self.storage.frames(span))?;
        if !plan.is_whole() || plan.continues {
            return Ok(Responded::InPieces(answer, Box::new(rendering)));
        }
        let mut body = Vec::new();
        rendering.advance(&mut body).map_err(described)?;
        response::response(&answer, Some(&body)).map(Responded::Whole)
    }

    fn attach(&self, subscriber: &Subscriber) -> Result<Response, JsValue> {
        let pair = WebSocketPair::new()?;
        self.has_subscribers.set(true);
        self.storage
            .keep_subscriber(&pair.end(1), subscriber.class, subscriber.incarnation)?;
        response::upgrade(&subscriber.answer, &pair.end(0))
    }

    /// Sends the broadcast of a turn. It follows the turn's writes, so the output gate holds it
    /// until they are durable.
    fn broadcast(&self, broadcast: &Broadcast) -> Result<(), JsValue> {
        // Asking the platform for its WebSockets wakes those that hibernate. So ask only if there
        // may be some.
        if !self.has_subscribers.get() {
            return Ok(());
        }
        let mut has_subscribers = false;
        for class in [Class::Sse, Class::LongPoll] {
            let subscribers = self.storage.subscribers(class, broadcast.incarnation)?;
            if subscribers.length() == 0 {
                continue;
            }
            has_subscribers = true;
            let message = broadcast.message(class).map_err(described)?;
            let message = Uint8Array::from(message.as_slice());
            for subscriber in subscribers.iter() {
                let subscriber: Socket = subscriber.unchecked_into();
                // Sending fails if the connection has closed meanwhile, which does no harm.
                let sent = subscriber.send(&message);
                if sent.is_ok() && broadcast.end.is_some() {
                    drop(subscriber.close(NORMAL_CLOSURE, "finished"));
                }
            }
        }
        self.has_subscribers.set(has_subscribers);
        Ok(())
    }

    #[cfg(not(feature = "test-routes"))]
    #[expect(
        clippy::unused_self,
        reason = "does something only where the tests ask for it"
    )]
    fn before_commit(&self) {}
}

/// The answer to a request.
enum Responded {
    Whole(Response),
    /// A body that needs cold parts or further pages, for which the entry waits.
    InPieces(Answer, Box<BodyWriter>),
}

/// Adds how long the request took in the object, if its client wants to know.
fn timed(response: Response, began: Option<f64>) -> Result<Response, JsValue> {
    if let Some(began) = began {
        // Whole milliseconds; and the code that prints fractions is large.
        let took = format!("object;dur={}", (Date::now() - began) as u64);
        response.headers().append("Server-Timing", &took)?;
    }
    Ok(response)
}

fn described(error: impl core::fmt::Display) -> JsValue {
    error.to_string().into()
}
