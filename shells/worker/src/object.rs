//! One stream's Durable Object: a request becomes one input, one turn is one transaction, and then come the answers.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use js_sys::{Date, Uint8Array};
use machine::wire::answer::Body;
use machine::wire::request::{self, Head, Parsed};
use machine::{Answer, Call, CallId, Class, End, Gated, Input, Limits, Live, Millis, Refusal, Stream, Turn};
use wasm_bindgen::prelude::*;
use web_sys::{Request, Response};

use crate::platform::{ObjectContext, Socket, WebSocketPair, log_error, nonce};
use crate::storage::Storage;
use crate::{response, settings};

/// Tells the reader's side that nothing will follow.
const FINISHED: u16 = 4_000;

#[wasm_bindgen]
pub struct StreamObject {
    env: JsValue,
    pub(crate) storage: Storage,
    /// Woken by the first event that needs it, and dropped when a turn fails.
    stream: RefCell<Option<Stream>>,
    calls: Cell<u64>,
    /// Whether there may be lines: those of a former instance last.
    has_lines: Cell<bool>,
    #[cfg(feature = "test-routes")]
    pub(crate) test: crate::test_routes::State,
}

#[wasm_bindgen]
impl StreamObject {
    #[wasm_bindgen(constructor)]
    #[must_use]
    pub fn new(context: JsValue, env: JsValue) -> Self {
        Self {
            env,
            storage: Storage::new(context.unchecked_into::<ObjectContext>()),
            stream: RefCell::default(),
            calls: Cell::default(),
            has_lines: Cell::new(true),
            #[cfg(feature = "test-routes")]
            test: crate::test_routes::State::default(),
        }
    }

    /// The largest body that is worth reading, in bytes.
    #[wasm_bindgen(js_name = bodyBytesMax)]
    #[must_use]
    pub fn body_bytes_max(&self) -> f64 {
        settings(&self.env, |settings| {
            settings
                .as_ref()
                .map_or(0, |settings| settings.limits.append_bytes_max)
        }) as f64
    }

    /// A request on the stream's URL, as the router passed it on, with its body: `null` when it has none, `undefined` when it
    /// is larger than what is worth reading.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn fetch(&self, request: &Request, body: &JsValue) -> Result<Response, JsValue> {
        #[cfg(feature = "test-routes")]
        if let Some(response) = self.test_route(request)? {
            return Ok(response);
        }
        let settings = match settings(&self.env, Clone::clone) {
            Ok(settings) => settings,
            Err(bad) => return response::plain(&Answer::internal(&bad)),
        };
        let limits = &settings.limits;
        let (method, url, headers) = (request.method(), request.url(), request.headers());
        let header = |name: &str| headers.get(name).ok().flatten();
        let head = Head {
            method: &method,
            url: &url,
            header: &header,
        };
        let began = (settings.debug_timing || request::asks_for_timing(head)).then(Date::now);
        let response = match call(head, body, limits) {
            Ok(call) => {
                let id = CallId(self.calls.replace(self.calls.get() + 1));
                match self.turn(Input::Call { id, call }, limits) {
                    Ok(Some(response)) => response,
                    Ok(None) | Err(_) => response::plain(&Answer::unavailable(limits))?,
                }
            }
            Err(refusal) => response::plain(&Answer::refusal(&refusal))?,
        };
        if let Some(began) = began {
            response
                .headers()
                .append("Server-Timing", &format!("object;dur={}", Date::now() - began))?;
        }
        Ok(response)
    }

    /// What the entry answers with when the code in here cannot: body and headers, as JSON.
    #[must_use]
    pub fn unavailable() -> String {
        let answer = Answer::unavailable(&Limits::DEFAULT);
        let headers = answer
            .headers()
            .map(|(name, value)| format!("[{name:?},{value:?}]"))
            .collect::<Vec<_>>()
            .join(",");
        let body = match &answer.body {
            Body::Bytes(body) => String::from_utf8_lossy(body).into_owned(),
            Body::Empty | Body::Plan(_) => String::new(),
        };
        format!("{{\"body\":{body:?},\"headers\":[{headers}]}}")
    }

    /// The alarm has come due.
    ///
    /// # Errors
    /// When the turn failed, so that the platform tries again.
    pub fn alarm(&self) -> Result<(), JsValue> {
        self.event(Input::Alarm)
    }

    /// A reader has let go of its line, or was cut off.
    ///
    /// # Errors
    /// When the turn failed.
    #[wasm_bindgen(js_name = webSocketClose)]
    pub fn web_socket_close(&self, line: &JsValue) -> Result<(), JsValue> {
        match self.storage.incarnation(line)? {
            Some(incarnation) => self.event(Input::Gone { incarnation }),
            None => Ok(()),
        }
    }
}

/// The call that a request makes.
fn call(head: Head<'_>, body: &JsValue, limits: &Limits) -> Result<Call, Refusal> {
    match request::parse(head, limits)? {
        Parsed::Whole(call) => Ok(call),
        Parsed::AwaitsBody(awaits) if body.is_undefined() => Err(awaits.too_large()),
        Parsed::AwaitsBody(awaits) if body.is_null() => awaits.with_body(Bytes::new()),
        Parsed::AwaitsBody(awaits) => awaits.with_body(Uint8Array::new(body).to_vec().into()),
    }
}

impl StreamObject {
    fn event(&self, input: Input) -> Result<(), JsValue> {
        let settings = settings(&self.env, Clone::clone)?;
        self.turn(input, &settings.limits).map(|_| ())
    }

    /// One turn, from the input to the response if it has one, without letting anything in between. When it fails nothing of
    /// it is stored, nobody is told anything, and the stream is woken anew.
    fn turn(&self, input: Input, limits: &Limits) -> Result<Option<Response>, JsValue> {
        let done = self.try_turn(input, limits);
        if let Err(error) = &done {
            self.stream.replace(None);
            log_error("a turn failed", error);
        }
        done
    }

    fn try_turn(&self, input: Input, limits: &Limits) -> Result<Option<Response>, JsValue> {
        #[cfg(feature = "test-routes")]
        let before = self.storage.counts.get();
        let now = Millis(Date::now() as u64);
        let storage = &self.storage;
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => Stream::wake(now, storage, limits, nonce()?).map_err(described)?,
        };
        let mut turn = Turn::default();
        stream.step(now, input, storage, &mut turn).map_err(described)?;
        storage.apply(&turn, || self.before_commit())?;
        if let Some(live) = &turn.live {
            self.broadcast(live)?;
        }
        let mut response = None;
        for gated in &turn.gated {
            response = Some(self.respond(gated)?);
        }
        self.stream.replace(Some(stream));
        #[cfg(feature = "test-routes")]
        self.test.note_turn(before, self.storage.counts.get());
        Ok(response)
    }

    fn respond(&self, gated: &Gated) -> Result<Response, JsValue> {
        match gated {
            Gated::Answer { answer, .. } => match &answer.body {
                Body::Plan(plan) => {
                    let frames = self.storage.frames(plan)?;
                    let body = plan.render(frames).map_err(described)?;
                    response::response(answer, Some(&body))
                }
                Body::Bytes(_) | Body::Empty => response::plain(answer),
            },
            Gated::Attach { line, .. } => {
                let pair = WebSocketPair::new()?;
                self.has_lines.set(true);
                self.storage
                    .keep_line(&pair.end(1), line.class, line.incarnation)?;
                response::upgrade(&line.answer, &pair.end(0))
            }
        }
    }

    /// Sent after the turn's writes, and so held by the output gate until they are durable.
    fn broadcast(&self, live: &Live) -> Result<(), JsValue> {
        // To ask for the lines wakes those that sleep.
        if !self.has_lines.get() {
            return Ok(());
        }
        let mut has_lines = false;
        for class in [Class::Sse, Class::LongPoll] {
            let lines = self.storage.lines(class, live.incarnation)?;
            if lines.length() == 0 {
                continue;
            }
            has_lines = true;
            let message = live.message(class).map_err(described)?;
            let message = Uint8Array::from(message.as_slice());
            for line in lines.iter() {
                let line: Socket = line.unchecked_into();
                // A line that was closed meanwhile cannot be sent to, and need not.
                let sent = line.send(&message);
                if sent.is_ok() && matches!(live.end, Some(End::Closed | End::Gone)) {
                    drop(line.close(FINISHED, "finished"));
                }
            }
        }
        self.has_lines.set(has_lines);
        Ok(())
    }

    #[cfg(not(feature = "test-routes"))]
    #[expect(
        clippy::unused_self,
        reason = "does something only where the tests ask for it"
    )]
    fn before_commit(&self) {}
}

fn described(error: impl core::fmt::Display) -> JsValue {
    error.to_string().into()
}
