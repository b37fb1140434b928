//! Sessions: clients that subscribe them to streams, and what arrives.

use std::collections::BTreeMap;

use bytes::Bytes;
use machine::router::{name, target};
use machine::wire::request::RequestHead;
use machine::wire::session::{self, SessionRoute};
use machine::{CallId, Input, Offset};
use serde_json::{Value, json};

use super::AUTH_TOKEN;
use super::operations::{STREAMS, choose};
use super::server::{Server, body_of};
use super::tape::Tape;
use crate::request::stream::check_common;
use crate::request::wire::Request;

const FROM: [Option<&str>; 8] = [
    None,
    Some("-1"),
    Some("now"),
    Some("0000000000000000_0000000000000001"),
    Some("0000000000000000_0000000000000002"),
    Some("0000000000000001_0000000000000001"),
    Some("9999999999999999_0000000000000000"),
    Some("x"),
];
const RAW_BODIES: [&str; 6] = [
    "",
    "{",
    "[]",
    "{\"sessionId\":1,\"streamId\":\"a\"}",
    "{\"sessionId\":\"\",\"streamId\":\"\"}",
    "null",
];
const RAW_PATHS: [&str; 8] = [
    "/v1/sessions",
    "/v1/sessions/",
    "/v1/sessions/x",
    "/v1/sessions/x/y",
    "/v1/subscriptions",
    "/v1/subscriptions/x",
    "/v1/subscriptions/00000000-0000-4000-8000-000000000000",
    "/v1/sessions#a",
];
const RAW_METHODS: [&str; 6] = ["POST", "GET", "DELETE", "OPTIONS", "PUT", "HEAD"];

impl Server {
    /// Sends a request about a session.
    pub(super) fn use_session(&mut self, tape: &mut Tape<'_>) {
        let sessions: Vec<_> = self
            .names()
            .into_iter()
            .filter(|object| name::is_session(object))
            .collect();
        let session = match sessions.len() {
            0 => "00000000-0000-4000-8000-000000000000".to_owned(),
            count => {
                let (_, id) = sessions[tape.below(count)]
                    .split_once('/')
                    .expect("the name of a session has a prefix");
                id.to_owned()
            }
        };
        match tape.below(16) {
            0 | 1 => self.ask_session("POST", "/v1/sessions", None, tape),
            2..=7 => {
                let stream = choose(tape, &STREAMS, 7);
                let from = FROM[tape.below(16) % FROM.len()];
                let body = json!({"sessionId": session, "streamId": stream, "from": from});
                self.ask_session("POST", "/v1/subscriptions", Some(body.to_string()), tape);
            }
            8 | 9 => {
                let stream = choose(tape, &STREAMS, 7);
                let body = json!({"sessionId": session, "streamId": stream});
                self.ask_session("DELETE", "/v1/subscriptions", Some(body.to_string()), tape);
            }
            10 => self.ask_session("GET", &format!("/v1/subscriptions/{session}"), None, tape),
            11 => self.ask_session("GET", &format!("/v1/sessions/{session}"), None, tape),
            12 => self.ask_session("DELETE", &format!("/v1/sessions/{session}"), None, tape),
            13 => {
                let body = tape.pick(&RAW_BODIES).to_owned();
                let method = tape.pick(&["POST", "DELETE"]);
                self.ask_session(method, "/v1/subscriptions", Some(body), tape);
            }
            14 => {
                let method = tape.pick(&["GET", "POST", "DELETE", "PUT", "HEAD"]);
                let path = format!("subscriptions/{session}?offset=-1");
                self.send(method, &path, tape, Vec::new(), b"[1]".to_vec());
            }
            _ => {
                let (method, path) = (tape.pick(&RAW_METHODS), tape.pick(&RAW_PATHS));
                let body = RAW_BODIES[4].to_owned();
                self.ask_session(method, path, Some(body), tape);
            }
        }
    }

    fn ask_session(&mut self, method: &str, path: &str, body: Option<String>, tape: &mut Tape<'_>) {
        let kind = tape.byte();
        let mut headers = Vec::new();
        if kind < 250 {
            headers.push(("Authorization".to_owned(), format!("Bearer {AUTH_TOKEN}")));
        }
        let more = match kind {
            248 | 250 => Some(("Origin", "https://evil.example")),
            249 | 251 => Some(("Content-Encoding", "gzip")),
            _ => None,
        };
        headers.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let request = Request {
            method: method.to_owned(),
            url: format!("http://localhost:4437{path}"),
            headers,
            body: Bytes::from(body.unwrap_or_default()),
        };
        let entropy = self.next_entropy();
        let header = |name: &str| request.header(name);
        let (origin, target) = target::split(&request.url);
        let head = RequestHead {
            method,
            origin,
            target,
            header: &header,
        };
        let route = |body: Option<&[u8]>| {
            session::route(head, body, &|| entropy, self.now, &self.settings)
                .expect("the path is one of these")
        };
        let mut decided = route(None);
        if let SessionRoute::AwaitsBody(bound) = decided {
            decided = route(Some(&request.body));
            let is_large = request.body.len() as u64 > bound.bytes_max;
            let is_refused = matches!(&decided, SessionRoute::Answered(it) if it.status == 413);
            assert_eq!(is_large, is_refused, "a body is refused for its size only");
        }
        match decided {
            SessionRoute::AwaitsBody(_) => panic!("the body is there"),
            SessionRoute::Answered(answer) => {
                check_common(&request, &answer, &body_of(&answer), false);
            }
            SessionRoute::Object { to, call } => {
                assert!(name::is_session(&to), "{to} is a session");
                let sent = session::session_request(&call);
                let request = Request {
                    method: sent.method,
                    url: machine::outbox::url(&to),
                    headers: sent.headers,
                    body: Bytes::new(),
                };
                self.hand_over_from_router(to, request);
            }
        }
        if self.is_eager {
            self.carry_out_calls();
        }
    }

    /// Checks the envelopes of all sessions: those of a stream never move back, and each is as
    /// `docs/sessions.md` says.
    pub(super) fn check_envelopes(&self) {
        for session in self.names() {
            if !name::is_session(&session) {
                continue;
            }
            let mut last: BTreeMap<(String, u64), Offset> = BTreeMap::new();
            for envelope in self.envelopes(&session) {
                let stream = envelope["stream"].as_str().expect("a text").to_owned();
                let offset = envelope["offset"].as_str().expect("a text");
                let offset: Offset = offset.parse().expect("an offset");
                assert_eq!(envelope["type"], "data");
                let is_omitted = envelope["omitted"] == Value::Bool(true);
                assert_eq!(is_omitted, envelope["payload"].is_null(), "{envelope}");
                if let Some(messages) = envelope["messages"].as_u64() {
                    let payload = envelope["payload"].as_array().expect("an array");
                    assert_eq!(payload.len() as u64, messages);
                }
                // A stream that was created anew begins again.
                let ends = self.ends_of(&stream);
                let before = last.insert((stream, ends), offset);
                assert!(
                    ends > 0 || before.is_none_or(|before| before < offset),
                    "an envelope arrives twice, or late: {envelope}"
                );
            }
        }
    }

    fn envelopes(&self, session: &str) -> Vec<Value> {
        let request = Request {
            method: "GET".to_owned(),
            url: format!("{}?offset=-1", machine::outbox::url(session)),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        let call = request.parse(&self.settings.limits);
        let call = call.expect("the request is well-formed");
        let id = CallId(0);
        let (status, body) = self.glance_at_body(session, Input::Call { id, call });
        if status == 200 {
            serde_json::from_slice(&body).expect("the stream of a session is JSON")
        } else {
            Vec::new()
        }
    }
}
