//! The Worker's router: finds the stream's object for a request.

use std::cell::RefCell;

use js_sys::{Array, Date, Object, Reflect, Uint8Array};
use machine::admin::{
    self, AdminRoute, Assertion, Caller, Counts, FoundKey, Listed, Proof, Service,
    SubscriptionListing, TeamKeys, ToObject,
};
use machine::outbox::{self, Statement};
use machine::router::name::REGISTRY;
use machine::router::page::{self, Page};
use machine::router::{self, EdgeCache, Origins, Route, Settings, ToStream, target};
use machine::wire::internal_headers;
use machine::wire::session::{self, SessionRoute};
use machine::{Answer, CallOutcome, Millis, StorageError};
use wasm_bindgen::prelude::*;
use web_sys::{Headers, Request, RequestInit, Response};

use crate::effects::{self, object};
use crate::fanout::QueuedDelivery;
use crate::head::Head;
use crate::platform::{Namespace, entropy};
use crate::storage::Row;
use crate::{response, settings};

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** Where a request goes whose answer needs something from the entry. */
export type Routed =
  | { answer: Response; isAdmin?: undefined; page?: undefined }
  | { answer?: undefined; isAdmin?: undefined; page: Page }
  | {
      answer?: undefined;
      isAdmin?: undefined;
      page?: undefined;
      stub: { fetch(request: Request): Promise<Response> };
      request: Request;
      isTimed: boolean;
      cache?: string | null;
    }
  | { isAdmin: true; answer: Response; question?: undefined; asked?: undefined; page?: undefined }
  | {
      isAdmin: true;
      answer?: undefined;
      question?: undefined;
      asked: Promise<Response>;
      page?: undefined;
    }
  | { isAdmin: true; answer?: undefined; question: Question; page?: undefined };

/** A request that is routed again with its body, unless that is longer. */
export interface AwaitsBody {
  bodyBytesMax: number;
}

/** A request that is routed again once the signature of its token is checked. */
export interface Unproven {
  assertion: Assertion;
}

/** A token of Cloudflare Access whose signature the entry checks. */
export interface Assertion {
  url: string;
  timeMs: number;
  keyId: string;
  signed: string;
  signature: Uint8Array;
}

/** What the entry has found out about the signature. */
export type Proof = "valid" | "wrong" | "unknown" | "unavailable";

/** What the entry asks other services for the admin API. */
export type Question =
  | { kind: "list"; sql: string; values: (string | number)[] }
  | { kind: "subscriptions"; calls: Call[] }
  | { kind: "health"; object: string; url: string; sql: string; key: string }
  | { kind: "counts"; url: string; token: string; sql: string; timeMs: number; at: number };

/** A file of the admin page, and the answer if it does not exist. */
export interface Page {
  path: string;
  headers: Record<string, string>;
  missing: Response;
}
"#;

/// The command that builds the admin page.
const BUILD: &str = "cargo xtask build";

#[wasm_bindgen]
pub struct Router {
    env: JsValue,
    streams: Namespace,
    keys: RefCell<TeamKeys>,
}

#[wasm_bindgen]
impl Router {
    /// Creates the router from the Worker's bindings.
    ///
    /// # Errors
    /// When the streams' namespace is not bound.
    #[wasm_bindgen(constructor)]
    pub fn new(env: JsValue) -> Result<Self, JsValue> {
        let streams = Reflect::get(&env, &"STREAMS".into())?.unchecked_into();
        let keys = RefCell::default();
        Ok(Self { env, streams, keys })
    }

    /// Routes a request. Sends it to the stream's object if the object's answer is the client's.
    /// Otherwise `answer` is set in the result if the router answers itself, and `page` if the
    /// answer is a file of the admin page. If not, `stub` is the stream's object, and `request` is
    /// the request for it. `isTimed` says whether the response has a `Server-Timing` header.
    /// `cache` is the URL to look up in the cache at the edge, `null` if this request must not use
    /// the cache, or `undefined` if there is no cache. If `assertion` is set, the entry routes the
    /// request again with the proof.
    ///
    /// # Errors
    /// When the platform fails in making a response or a request.
    #[wasm_bindgen(unchecked_return_type = "Routed | AwaitsBody | Unproven | Promise<Response>")]
    pub fn route(&self, request: &Request, head: &str) -> Result<JsValue, JsValue> {
        self.routed(request, head, Proof::Unchecked)
    }

    /// Routes a request again whose token of Cloudflare Access the entry has checked.
    ///
    /// # Errors
    /// When the platform fails in making a response or a request.
    #[wasm_bindgen(
        js_name = routeProven,
        unchecked_return_type = "Routed | AwaitsBody | Promise<Response>"
    )]
    pub fn route_proven(
        &self,
        request: &Request,
        head: &str,
        #[wasm_bindgen(unchecked_param_type = "Proof")] proof: &str,
    ) -> Result<JsValue, JsValue> {
        let proof = Proof::from_name(proof).expect("the entry knows the names");
        self.routed(request, head, proof)
    }

    /// Routes a request about sessions again, with its body unless it is too large.
    ///
    /// # Errors
    /// When the platform fails in making a response or a request.
    #[wasm_bindgen(
        js_name = routeWithBody,
        unchecked_return_type = "Routed | Promise<Response>"
    )]
    pub fn route_with_body(&self, head: &str, body: Option<Vec<u8>>) -> Result<JsValue, JsValue> {
        let settings = settings(&self.env)?;
        let route = session_route(&Head::new(head), body.as_deref(), &settings);
        self.session(match route.expect("the router has asked for the body") {
            SessionRoute::AwaitsBody(bound) => {
                SessionRoute::Answered(Answer::refusal(&bound.too_large()))
            }
            route @ (SessionRoute::Answered(_) | SessionRoute::Object { .. }) => route,
        })
    }

    /// Decides about the key of a token of Cloudflare Access. `is_held` says whether the entry has
    /// it among the keys that it fetched last.
    ///
    /// # Errors
    /// When the settings are bad.
    #[wasm_bindgen(
        js_name = findKey,
        unchecked_return_type = "'known' | 'fetch' | 'unknown' | 'unavailable'"
    )]
    pub fn find_key(&self, is_held: bool, may_fetch: bool) -> Result<JsValue, JsValue> {
        let limits = &settings(&self.env)?.limits;
        let mut keys = self.keys.borrow_mut();
        let found = match keys.find(now(), is_held, may_fetch, limits) {
            FoundKey::Known => "known",
            FoundKey::Fetch => "fetch",
            FoundKey::Unknown => "unknown",
            FoundKey::Unavailable => "unavailable",
        };
        Ok(found.into())
    }

    /// Notes that the entry has fetched the keys of the team.
    #[wasm_bindgen(js_name = fetchedKeys)]
    pub fn fetched_keys(&self) {
        self.keys.borrow_mut().fetched(now());
    }

    /// Answers with a page of the list of streams from the rows of the admin index, or without any
    /// if the index does not answer.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn listed(&self, head: &str, rows: Option<Array>) -> Result<Response, JsValue> {
        let settings = settings(&self.env)?;
        let Some(AdminRoute::List(listing)) =
            admin_route(&Head::new(head), Caller::Admitted, &settings)
        else {
            unreachable!("the router has asked for the rows of a list");
        };
        let names = rows.map(|rows| {
            let rows = rows.iter().map(|row| Array::from(&row));
            let names = rows.map(|row| Listed::from_index(&Row(&row)));
            names.collect::<Result<_, StorageError>>()
        });
        response::plain(&match names {
            Some(Ok(names)) => listing.answer(now(), names),
            Some(Err(damaged)) => Answer::internal(&damaged.to_string()),
            None => Answer::unavailable(&settings.limits),
        })
    }

    /// Answers with a page of the list of subscriptions. Each of `answers` is a list of the status
    /// and the body that a shard has answered with, in the order of the questions, or undefined.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    #[wasm_bindgen(js_name = listedSubscriptions)]
    pub fn listed_subscriptions(
        &self,
        head: &str,
        #[wasm_bindgen(unchecked_param_type = "([number, Uint8Array] | undefined)[]")]
        answers: &Array,
    ) -> Result<Response, JsValue> {
        let settings = settings(&self.env)?;
        let Some(AdminRoute::ListSubscriptions(listing)) =
            admin_route(&Head::new(head), Caller::Admitted, &settings)
        else {
            unreachable!("the router has asked for a list of subscriptions");
        };
        let outcomes = answers.iter().map(|answer| {
            if answer.is_undefined() {
                return CallOutcome::Failed;
            }
            let answer = Array::from(&answer);
            let status = answer.get(0).as_f64().expect("an answer has a status") as u16;
            let body = Uint8Array::from(answer.get(1)).to_vec().into();
            CallOutcome::Answered { status, body }
        });
        let outcomes: Vec<_> = outcomes.collect();
        response::plain(&listing.answer(&outcomes, &settings.limits))
    }

    /// Answers with the result that Analytics Engine gave for the time `at`, if there is one.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn counted(&self, head: &str, at: f64, text: Option<String>) -> Result<Response, JsValue> {
        let settings = settings(&self.env)?;
        let Some(AdminRoute::Counts(counts)) =
            admin_route(&Head::new(head), Caller::Admitted, &settings)
        else {
            unreachable!("the router has asked for counts");
        };
        let answer = text.and_then(|text| counts.answer(Millis(at as u64), &text));
        response::plain(&answer.unwrap_or_else(|| Answer::unavailable(&settings.limits)))
    }

    /// Answers which services are available. Each of `services` is a list: its name, how long it
    /// took to answer in milliseconds, whether it has answered, and the status of its answer, if it
    /// has one.
    ///
    /// # Errors
    /// When the platform fails in making a response.
    pub fn health(&self, services: &Array) -> Result<Response, JsValue> {
        let services = services.iter().map(|service| {
            let service = Array::from(&service);
            let name = service.get(0).as_string();
            let known = SERVICES
                .into_iter()
                .find(|known| Some(*known) == name.as_deref());
            let latency_ms = service.get(1).as_f64();
            let has_answered = service.get(2).is_truthy();
            let status = service.get(3).as_f64().map(|status| status as u16);
            let is_available = has_answered && status.is_none_or(admin::is_available);
            Service {
                name: known.expect("the entry asks known services only"),
                latency_ms: latency_ms.expect("the entry has measured it") as u64,
                error: (!is_available).then(|| admin::SEE_LOG.to_owned()),
            }
        });
        let services: Vec<_> = services.collect();
        response::plain(&admin::health(now(), &services))
    }

    /// Returns whether the cache at the edge may keep a response with this status and this
    /// `Cache-Control`.
    #[wasm_bindgen(js_name = mayKeep)]
    #[must_use]
    pub fn may_keep(&self, status: u16, cache_control: &str) -> bool {
        router::may_keep(status, cache_control)
    }

    /// Takes a message of the fan-out queue, which the queue has brought this many times.
    ///
    /// # Errors
    /// When the settings are bad.
    pub fn delivery(&self, body: String, attempts: u32) -> Result<QueuedDelivery, JsValue> {
        let settings = settings(&self.env)?;
        Ok(QueuedDelivery::new(settings, body, attempts.into()))
    }

    /// Returns the CORS headers of every response, as pairs of name and value.
    #[wasm_bindgen(js_name = crossOrigin, unchecked_return_type = "[string, string][]")]
    #[must_use]
    pub fn cross_origin(&self, method: &str, origin: Option<String>) -> Vec<JsValue> {
        let open = Origins::default();
        let settings = settings(&self.env);
        let origins = settings
            .as_ref()
            .map_or(&open, |settings| &settings.cors_origins);
        let headers = origins.headers(method, origin.as_deref());
        let pair = |(name, value): (&str, _)| {
            let value: std::borrow::Cow<'_, str> = value;
            Array::of2(&name.into(), &value.as_ref().into()).into()
        };
        headers.map(pair).collect()
    }
}

/// Returns what a request gets if its path is one of the admin page's.
fn page(head: &Head<'_>) -> Result<Option<JsValue>, JsValue> {
    let (_, target) = target::split(head.url);
    let file = match page::page(head.method, target) {
        None => return Ok(None),
        Some(Page::Answered(answer)) => {
            return object(&[("answer", response::plain(&answer)?.into())]).map(Some);
        }
        Some(Page::File(file)) => file,
    };
    let headers = file.headers().map(|(name, value)| (name, value.into()));
    let missing = response::plain(&file.missing(head.method, BUILD))?;
    let page = object(&[
        ("path", file.path.into()),
        ("headers", object(&headers)?),
        ("missing", missing.into()),
    ])?;
    object(&[("page", page)]).map(Some)
}

impl Router {
    fn routed(&self, request: &Request, head: &str, proof: Proof) -> Result<JsValue, JsValue> {
        let caller = Caller::Platform { now: now(), proof };
        let head = Head::new(head);
        let settings = settings(&self.env);
        let split = target::checked(head.url, head.header("Host"));
        // Most requests are for streams, and need none of the other routers.
        if !matches!(split, Ok((_, target)) if target.starts_with(router::STREAM_PREFIX)) {
            if let Some(routed) = page(&head)? {
                return Ok(routed);
            }
            if let Ok(settings) = &settings
                && let Some(route) = admin_route(&head, caller, settings)
            {
                return self.admin(request, &head, route, settings);
            }
            if let Ok(settings) = &settings
                && let Some(route) = session_route(&head, None, settings)
            {
                return self.session(route);
            }
        }
        let route = match &settings {
            Ok(settings) => match split {
                Ok(split) => {
                    head.read_at(split, settings, |head| router::route(head, now(), settings))
                }
                Err(refusal) => Route::Answered(router::refused(head.method, &refusal)),
            },
            Err(bad) => Route::Answered(Answer::internal(bad)),
        };
        let routed = Object::new();
        let set = |name: &str, value: JsValue| Reflect::set(&routed, &name.into(), &value);
        match route {
            Route::Answered(answer) => {
                set("answer", response::plain(&answer)?.into())?;
            }
            Route::Stream(to_stream) => {
                let changed = changed_request(request, &head, &to_stream)?;
                let request = changed.as_ref().unwrap_or(request);
                // A stub that has failed stays broken, so each request gets a new one.
                let stub = self.streams.by_name(&to_stream.name)?;
                if to_stream.is_direct() {
                    return stub.fetch(request).map(JsValue::from);
                }
                set("request", request.into())?;
                set("stub", stub.into())?;
                set("isTimed", to_stream.timing.into())?;
                match to_stream.edge_cache {
                    EdgeCache::Unused => {}
                    EdgeCache::Bypassed => {
                        set("cache", JsValue::NULL)?;
                    }
                    EdgeCache::Asked(url) => {
                        set("cache", url.into())?;
                    }
                }
            }
        }
        Ok(routed.into())
    }

    fn session(&self, route: SessionRoute) -> Result<JsValue, JsValue> {
        match route {
            SessionRoute::Answered(answer) => {
                object(&[("answer", response::plain(&answer)?.into())])
            }
            SessionRoute::AwaitsBody(bound) => {
                object(&[("bodyBytesMax", (bound.bytes_max as f64).into())])
            }
            SessionRoute::Object { to, call } => {
                let call = session::session_request(&call);
                let headers = Headers::new()?;
                for (name, value) in &call.headers {
                    headers.set(name, value)?;
                }
                let init = RequestInit::new();
                init.set_method(&call.method);
                init.set_headers(&headers);
                let request = Request::new_with_str_and_init(&outbox::url(&to), &init)?;
                let stub = self.streams.by_name(&to)?;
                object(&[
                    ("request", request.into()),
                    ("stub", stub.into()),
                    ("isTimed", false.into()),
                ])
            }
        }
    }

    fn admin(
        &self,
        request: &Request,
        head: &Head<'_>,
        route: AdminRoute,
        settings: &Settings,
    ) -> Result<JsValue, JsValue> {
        let (name, value) = match route {
            AdminRoute::Answered(answer) => ("answer", response::plain(&answer)?.into()),
            AdminRoute::Stream(to_object) => {
                let stub = self.streams.by_name(&to_object.name)?;
                let asked = stub.fetch(&request_to(request, head, &to_object)?)?;
                ("asked", asked.into())
            }
            AdminRoute::Verify(assertion) => ("assertion", self.assertion(&assertion, settings)?),
            AdminRoute::List(listing) => ("question", list(&listing.statement())?),
            AdminRoute::ListSubscriptions(listing) => ("question", subscriptions(&listing)?),
            AdminRoute::Health => ("question", health()?),
            AdminRoute::Counts(counts) => ("question", self.counts(&counts, settings)?),
            AdminRoute::Hot { .. } | AdminRoute::System => {
                unreachable!("on a platform the machine asks Analytics Engine")
            }
        };
        object(&[("isAdmin", true.into()), (name, value)])
    }

    fn counts(&self, counts: &Counts, settings: &Settings) -> Result<JsValue, JsValue> {
        let analytics = settings.analytics.as_ref();
        let analytics = analytics.expect("a question is asked only with an account");
        let (now, url) = (now(), self.url_of_test("TEST_ANALYTICS_URL"));
        object(&[
            ("kind", "counts".into()),
            ("url", url.unwrap_or_else(|| analytics.url()).into()),
            ("token", analytics.token.as_str().into()),
            ("sql", counts.sql(now).into()),
            ("timeMs", (settings.limits.reply_timeout_ms as f64).into()),
            ("at", (now.0 as f64).into()),
        ])
    }

    fn assertion(&self, assertion: &Assertion, settings: &Settings) -> Result<JsValue, JsValue> {
        let access = settings.access.as_ref();
        let access = access.expect("a token of Access is read only with its settings");
        let url = self.url_of_test("TEST_ACCESS_KEYS_URL");
        let signature = Uint8Array::from(assertion.signature.as_slice());
        object(&[
            ("url", url.unwrap_or_else(|| access.keys_url()).into()),
            ("timeMs", (settings.limits.reply_timeout_ms as f64).into()),
            ("keyId", assertion.key_id.as_str().into()),
            ("signed", assertion.signed.as_str().into()),
            ("signature", signature.into()),
        ])
    }

    /// Returns the URL that a test has put in the place of a service on the internet.
    #[cfg(feature = "test-routes")]
    fn url_of_test(&self, variable: &str) -> Option<String> {
        Reflect::get(&self.env, &variable.into()).ok()?.as_string()
    }

    #[cfg(not(feature = "test-routes"))]
    #[expect(clippy::unused_self, reason = "reads variables only in tests")]
    const fn url_of_test(&self, _variable: &str) -> Option<String> {
        None
    }
}

/// The services that the entry asks whether they are available.
const SERVICES: [&str; 3] = ["registry", "d1", "r2"];

fn now() -> Millis {
    Millis(Date::now() as u64)
}

/// Routes a request of the admin API; `None` if it is not one.
fn admin_route(head: &Head<'_>, caller: Caller, settings: &Settings) -> Option<AdminRoute> {
    // The router of streams refuses a URL that cannot be trusted.
    let split = target::checked(head.url, head.header("Host")).ok()?;
    head.read_at(split, settings, |head| admin::route(head, caller, settings))
}

/// Routes a request about sessions; `None` if it is not one.
fn session_route(
    head: &Head<'_>,
    body: Option<&[u8]>,
    settings: &Settings,
) -> Option<SessionRoute> {
    // The router of streams refuses a URL that cannot be trusted.
    let split = target::checked(head.url, head.header("Host")).ok()?;
    head.read_at(split, settings, |head| {
        session::route(head, body, &entropy, now(), settings)
    })
}

/// Returns the questions to all services.
fn health() -> Result<JsValue, JsValue> {
    object(&[
        ("kind", "health".into()),
        ("object", REGISTRY.into()),
        ("url", outbox::url(REGISTRY).into()),
        ("sql", admin::PROBE_STATEMENT.into()),
        ("key", admin::PROBE_KEY.into()),
    ])
}

/// Returns the question to the admin index.
fn list(statement: &Statement) -> Result<JsValue, JsValue> {
    let (sql, values) = effects::statement(statement);
    object(&[("kind", "list".into()), ("sql", sql), ("values", values)])
}

/// Returns the questions to the directory of subscriptions.
fn subscriptions(listing: &SubscriptionListing) -> Result<JsValue, JsValue> {
    let calls = listing.questions();
    let calls = calls.map(|(to, request)| object(&effects::call_members(&to, &request)));
    let calls: Array = calls.collect::<Result<_, _>>()?;
    object(&[("kind", "subscriptions".into()), ("calls", calls.into())])
}

/// Returns the request of the admin API as one to the object of its stream.
fn request_to(
    request: &Request,
    head: &Head<'_>,
    to_object: &ToObject,
) -> Result<Request, JsValue> {
    let headers = Headers::new_with_headers(&request.headers())?;
    for name in to_object.replaced_names() {
        match to_object.replaced(name).flatten() {
            Some(value) => headers.set(name, value)?,
            None => headers.delete(name)?,
        }
    }
    let init = RequestInit::new();
    init.set_method(to_object.method);
    init.set_headers(&headers);
    if let Some(body) = request.body().filter(|_| to_object.has_body()) {
        init.set_body(&body);
    }
    let (origin, _) = target::split(head.url);
    let url = format!("{origin}{}", to_object.target());
    Request::new_with_str_and_init(&url, &init)
}

/// Returns the request for the object if it differs from the client's: with the internal headers
/// that the router sets, and without those of the client.
fn changed_request(
    request: &Request,
    head: &Head<'_>,
    to_stream: &ToStream,
) -> Result<Option<Request>, JsValue> {
    let mut changed = None;
    for name in internal_headers::ALL {
        let value = to_stream.internal_header(name);
        if value.is_none() && head.header(name).is_none() {
            continue;
        }
        let headers = match &mut changed {
            Some(changed) => changed,
            None => changed.insert(Headers::new_with_headers(&request.headers())?),
        };
        match value {
            Some(value) => headers.set(name, value)?,
            None => headers.delete(name)?,
        }
    }
    let Some(headers) = changed else {
        return Ok(None);
    };
    let init = RequestInit::new();
    init.set_headers(&headers);
    Request::new_with_request_and_init(request, &init).map(Some)
}
