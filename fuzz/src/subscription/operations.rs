//! What clients, receivers, workers and the platform do, as the tape says.

use bytes::Bytes;
use machine::Offset;
use serde_json::{Value, json};

use super::AUTH_TOKEN;
use super::judge::Wake;
use super::server::{Receipt, Server};
use super::tape::Tape;
use crate::effects::Outcome;
use crate::request::latin;
use crate::request::wire::Request;

/// The first ones are drawn most.
const IDS: [&str; 14] = [
    "s",
    "t",
    "u",
    "%73",
    "x%2Fy",
    "a.b",
    "%F0%9F%92%A9",
    "*",
    "%zz",
    "..",
    "s%20",
    "",
    "%E2%82",
    "a%22b",
];
/// As in URLs. The first ones are drawn most.
pub(super) const STREAMS: [&str; 22] = [
    "a",
    "a/b",
    "w",
    "e/x",
    "a/b/c",
    "%C3%BC/x",
    "a%2Fb",
    "*",
    "a//b",
    "/a/",
    "b",
    "e/y",
    "w2",
    "%61/%62",
    "__registry__",
    "__registry__/1",
    "__ds/x",
    "%5F_ds/x",
    "%zz",
    "..",
    "",
    "%2A%2A",
];
const PATTERNS: [&str; 24] = [
    "**",
    "*",
    "a/*",
    "a/**",
    "**/c",
    "*/b",
    "e/*",
    "ü/*",
    "**/a/**/b/**",
    "%2A",
    "a*",
    "a%2fb",
    "//a//b/",
    "**/**",
    "%2a%2A",
    "*/*/*",
    "",
    "/",
    "%zz",
    "..",
    "**/**/**/**/**",
    "__ds/**",
    "__registry__/**",
    "ü ü/\n/**",
];
const URLS: [&str; 51] = [
    "https://hooks.example/x",
    "http://127.0.0.1:9/h",
    "http://localhost:4437/x",
    "https://localhost/",
    "https://8.8.8.8/",
    "https://[2606:4700::1111]/?q=%20",
    "http://[::1]:9/h",
    "http://10.0.0.1/hook",
    "https://10.0.0.1/",
    "https://[::1]/",
    "https://0x7f.1/",
    "https://user@h.example/",
    "https://h.example:0/",
    "https://h.example:65536/",
    "https://h.example:8443",
    "https://h.local/",
    "https://h/",
    "https://streams.example/x",
    "https://h.example/#f",
    "ftp://h.example/",
    "https://h.example/%zz",
    "https://h.example/a b",
    "https://169.254.169.254/",
    "https://100.64.0.1",
    "https://[fe80::1]/",
    "https://-a.example/",
    "https://h.example.:443/?q",
    "https://[::ffff:10.0.0.1]/",
    "https://192.0.2.1",
    "https://198.18.0.1/",
    "https://168.63.129.16/",
    "https://192.88.99.1",
    "https://203.0.113.9",
    "https://224.0.0.1",
    "https://172.16.0.1",
    "https://192.168.0.1",
    "https://[2001:db8::1]",
    "https://[2002::1]",
    "https://[3fff::1]",
    "https://93.184.216.34:8443/base",
    "https://[::1",
    "https://[::1]x/",
    "https://[::1]:x/",
    "http://127.0.0.1:80/",
    "http://h.example/",
    "https:///x",
    "https://h.example:+1/",
    "https://1.2.3/",
    "https://host/x",
    "https://[g::]/",
    "https://192.0.0.9/",
];
const ORIGINS: [&str; 4] = [
    "https://host",
    "http://localhost:4437",
    "http://127.0.0.1",
    "http://[::1]:80",
];
const TIMES_MS: [u64; 12] = [
    1_000,
    500,
    1_500,
    5_000,
    31_000,
    61_000,
    1,
    0,
    601_000,
    3_601_000,
    86_400_000,
    31 * 86_400_000,
];
const STATUSES: [u16; 10] = [200, 200, 200, 204, 202, 301, 404, 500, 503, 199];
const RECEIPTS: [&str; 9] = [
    r#"{"done":true}"#,
    "",
    r#"{"done":false}"#,
    r#"{"done":true,"x":[1]}"#,
    r#"{"done":"yes"}"#,
    "null",
    "[]",
    r#"{"done":true"#,
    "true",
];
const TYPES: [&str; 4] = [
    "application/json",
    "text/plain",
    "application/octet-stream",
    "?",
];
const RAW_METHODS: [&str; 9] = [
    "PUT", "GET", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "put", "Q",
];
const RAW_PATHS: [&str; 20] = [
    "__ds/subscriptions/s",
    "__ds/subscriptions/s/streams",
    "__ds/subscriptions/s/streams/",
    "__ds/subscriptions/s/streams/a",
    "__ds/subscriptions/s/callback",
    "__ds/subscriptions/s/claim",
    "__ds/subscriptions/s/ack",
    "__ds/subscriptions/s/release",
    "__ds/subscriptions/s/other",
    "__ds/subscriptions/s/ack/x",
    "__ds/subscriptions",
    "__ds/subscriptions/",
    "__ds/jwks.json",
    "__ds/jwks.json/x",
    "__ds/keys",
    "__ds/directory/1",
    "__ds/directory/x",
    "__ds",
    "%5F_ds/jwks.json?x=1",
    "a?offset=-1",
];

impl Server {
    /// Carries out the next operation of the tape.
    pub(super) fn operate(&mut self, tape: &mut Tape<'_>) {
        match tape.below(40) {
            0..=3 => self.put_stream(tape),
            4..=9 => self.append(tape),
            10 => self.delete_stream(tape),
            11 => self.read_stream(tape),
            12..=15 => self.create(tape),
            16 => self.describe_or_delete(tape),
            17 => self.add_streams(tape),
            18 => self.remove_stream(tape),
            19..=23 => self.work(tape),
            24 | 25 => self.claim(tape),
            26 => {
                if tape.seldom(200) {
                    self.use_session(tape);
                } else {
                    self.send("GET", "__ds/jwks.json", tape, Vec::new(), Vec::new());
                }
            }
            27 => self.send_raw(tape),
            28 => self.parse_internal(tape),
            29 => {
                let number = usize::from(tape.byte());
                let (_, outcome) = tape.pick(&Outcome::ALL);
                let is_twice = tape.seldom(40);
                self.run_job(number, outcome, is_twice);
            }
            30 => self.carry_out_calls(),
            31 | 32 => {
                let number = usize::from(tape.byte());
                let receipt = match tape.below(16) {
                    14 => Receipt::Fails,
                    15 => Receipt::Vanishes,
                    _ => Receipt::Answers(tape.pick(&STATUSES), receipt(tape)),
                };
                self.receive(number, receipt);
            }
            33..=35 => self.wait(tape.pick(&TIMES_MS)),
            36 => {
                let number = usize::from(tape.byte());
                let is_told = tape.seldom(128);
                self.sleep(number, is_told);
            }
            37 => self.reads_left = Some(tape.below(12) as u64),
            38 => {
                let number = usize::from(tape.byte());
                if number < 128 {
                    self.deliver_stray(number);
                } else {
                    self.refuse_call(number, tape.pick(&[404, 500, 503, 409]));
                }
            }
            _ => self.is_eager = !self.is_eager,
        }
    }

    /// Sends a request to a path below the prefix of streams.
    pub(super) fn send(
        &mut self,
        method: &str,
        path: &str,
        tape: &mut Tape<'_>,
        mut headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) {
        let kind = tape.byte();
        let origin = ORIGINS[usize::from(kind & 3)];
        let has_own = headers.iter().any(|(name, _)| name == "Authorization");
        if self.settings.auth_token.is_some() && !has_own && kind < 250 {
            headers.push(header("Authorization", &format!("Bearer {AUTH_TOKEN}")));
        }
        match kind {
            248 => headers.push(header("Origin", "https://evil.example")),
            249 => headers.push(header("Origin", "https://app.example")),
            250 => headers.push(header("Content-Encoding", "gzip")),
            251 => headers.push(header("Content-Length", "99999999")),
            252 => headers.push(header("X-Debug-Timing", "1")),
            253 => headers.push(header("X-Control-Call", "{}")),
            254 => headers.push(header("Transfer-Encoding", "gzip")),
            _ => {}
        }
        // Anything else never reaches the server.
        let is_sent = path.bytes().all(|byte| byte.is_ascii_graphic());
        if is_sent {
            self.take(Request {
                method: method.to_owned(),
                url: format!("{origin}/v1/stream/{path}"),
                headers,
                body: Bytes::from(body),
            });
        }
    }

    fn put_stream(&mut self, tape: &mut Tape<'_>) {
        let path = choose(tape, &STREAMS, 7);
        let kind = tape.byte();
        let content_type = if kind & 3 > 0 {
            TYPES[0]
        } else {
            TYPES[usize::from(kind >> 6)]
        };
        let mut headers = vec![header("Content-Type", content_type)];
        match kind >> 3 & 15 {
            0 => headers.push(header("Stream-TTL", "5")),
            1 => headers.push(header("Stream-TTL", "3600")),
            2 => headers.push(header("Stream-Closed", "true")),
            3 => {
                headers.remove(0);
                let source = choose(tape, &STREAMS, 4);
                headers.push(header(
                    "Stream-Forked-From",
                    &format!("/v1/stream/{source}"),
                ));
            }
            _ => {}
        }
        let body = if kind & 4 > 0 {
            b"[1,2]".to_vec()
        } else {
            Vec::new()
        };
        self.send("PUT", &path, tape, headers, body);
    }

    fn append(&mut self, tape: &mut Tape<'_>) {
        let path = choose(tape, &STREAMS, 7);
        let kind = tape.byte();
        let content_type = if kind < 230 { TYPES[0] } else { TYPES[1] };
        let mut headers = vec![header("Content-Type", content_type)];
        if kind >= 245 {
            headers.push(header("Stream-Closed", "true"));
        }
        let body: &[u8] = match kind % 4 {
            0 => b"{\"x\":1}",
            1 => b"[1,2,3]",
            2 => b"\"abc\"",
            _ => b"",
        };
        self.send("POST", &path, tape, headers, body.to_vec());
    }

    fn delete_stream(&mut self, tape: &mut Tape<'_>) {
        let path = choose(tape, &STREAMS, 7);
        self.send("DELETE", &path, tape, Vec::new(), Vec::new());
    }

    fn read_stream(&mut self, tape: &mut Tape<'_>) {
        let path = choose(tape, &STREAMS, 7);
        let (method, query) = tape.pick(&[
            ("HEAD", ""),
            ("GET", "?offset=-1"),
            ("GET", "?offset=now&live=long-poll"),
        ]);
        self.send(
            method,
            &format!("{path}{query}"),
            tape,
            Vec::new(),
            Vec::new(),
        );
    }

    fn create(&mut self, tape: &mut Tape<'_>) {
        let id = id(tape);
        let kind = tape.byte();
        let mut body = json!({});
        if kind & 1 == 0 {
            body["type"] = "webhook".into();
            let url = match tape.byte() {
                byte @ 0..=159 => URLS[usize::from(byte) % 7].to_owned(),
                byte @ 160..=235 => URLS[usize::from(byte) % URLS.len()].to_owned(),
                236..=248 => format!("https://{}", tape.text()),
                249.. => tape.text(),
            };
            body["webhook"] = json!({ "url": url });
        } else {
            body["type"] = "pull-wake".into();
            body["wake_stream"] = match tape.byte() {
                0..=200 => "w".into(),
                byte => decoded(STREAMS[usize::from(byte) % STREAMS.len()]).into(),
            };
        }
        if kind & 2 == 0 {
            body["pattern"] = pattern(tape).into();
        }
        if kind & 6 > 0 {
            body["streams"] = streams(tape);
        }
        match kind >> 3 & 7 {
            0 | 1 => body["lease_ttl_ms"] = 1_000.into(),
            2 => body["lease_ttl_ms"] = tape.pick(&[600_000, 0, 999, 600_001]).into(),
            3 => body["description"] = tape.text().into(),
            _ => {}
        }
        let body = spoiled(tape, body);
        self.send("PUT", &subscription(&id, ""), tape, Vec::new(), body);
    }

    fn describe_or_delete(&mut self, tape: &mut Tape<'_>) {
        let id = id(tape);
        let method = tape.pick(&["GET", "DELETE", "GET", "DELETE", "HEAD"]);
        self.send(method, &subscription(&id, ""), tape, Vec::new(), Vec::new());
    }

    fn add_streams(&mut self, tape: &mut Tape<'_>) {
        let id = id(tape);
        let body = json!({ "streams": streams(tape) });
        let body = spoiled(tape, body);
        self.send(
            "POST",
            &subscription(&id, "/streams"),
            tape,
            Vec::new(),
            body,
        );
    }

    fn remove_stream(&mut self, tape: &mut Tape<'_>) {
        let id = id(tape);
        let path = choose(tape, &STREAMS, 7);
        let path = if tape.seldom(64) {
            path.replace('/', "%2f")
        } else {
            path
        };
        let path = subscription(&id, &format!("/streams/{path}"));
        self.send("DELETE", &path, tape, Vec::new(), Vec::new());
    }

    /// A callback, an ack or a release, mostly of the last wake.
    fn work(&mut self, tape: &mut Tape<'_>) {
        let wakes = self.judge.wakes.len();
        let back = match tape.byte() {
            0..=180 => 0,
            byte => usize::from(byte),
        };
        let wake = wakes
            .checked_sub(1)
            .map(|last| &self.judge.wakes[last - back % wakes]);
        let wake = wake.cloned().unwrap_or_else(|| Wake {
            subscription: "s".to_owned(),
            id: "w_0".to_owned(),
            generation: 1,
            token: "e30.e30".to_owned(),
            is_webhook: false,
            streams: Vec::new(),
        });
        let kind = tape.byte();
        let action = match (wake.is_webhook, kind & 3) {
            (true, 0..=2) | (false, 3) => "/callback",
            (false, 0..=1) | (true, 3) => "/ack",
            (false, 2) | (true, _) | (false, _) => "/release",
        };
        let mut body = json!({ "wake_id": wake.id, "generation": wake.generation });
        if kind & 4 > 0 {
            body["done"] = true.into();
        }
        if kind & 8 > 0 {
            let acks = (0..=tape.below(3)).map(|_| ack(tape, &wake));
            body["acks"] = acks.collect();
        }
        let mut token = wake.token;
        let mut id = wake.subscription;
        match kind >> 4 {
            8 => body["generation"] = (wake.generation + 1).into(),
            9 => body["generation"] = wake.generation.saturating_sub(1).into(),
            10 => body["wake_id"] = "w_other".into(),
            11 => token.truncate(tape.below(256)),
            12 => token = tape.text(),
            13 => {
                let other = usize::from(tape.byte()) % wakes.max(1);
                let other = self.judge.wakes.get(other);
                token = other.map_or(token, |other| other.token.clone());
            }
            14 => id = IDS[tape.below(IDS.len())].to_owned(),
            15 => {
                let at = tape.below(256) % token.len().max(1);
                let changed = token.bytes().enumerate().map(|(place, byte)| {
                    let byte = if place == at { b'A' } else { byte };
                    char::from(byte)
                });
                token = changed.collect();
            }
            _ => {}
        }
        let body = spoiled(tape, body);
        let is_header = token.chars().all(|each| !each.is_control());
        let headers = match tape.byte() {
            250 => Vec::new(),
            251 => vec![header("Authorization", "Bearer")],
            252 => vec![header("Authorization", &format!("Basic {token}"))],
            _ if is_header => vec![header("Authorization", &format!("Bearer {token}"))],
            _ => Vec::new(),
        };
        self.send("POST", &subscription(&id, action), tape, headers, body);
    }

    fn claim(&mut self, tape: &mut Tape<'_>) {
        let id = id(tape);
        let worker = tape.pick(&["one", "one", "two", ""]);
        let body = spoiled(tape, json!({ "worker": worker }));
        self.send("POST", &subscription(&id, "/claim"), tape, Vec::new(), body);
    }

    fn send_raw(&mut self, tape: &mut Tape<'_>) {
        let method = tape.pick(&RAW_METHODS);
        let kind = tape.byte();
        let path = match kind {
            0..=199 => tape.pick(&RAW_PATHS).to_owned(),
            200..=227 => latin(tape.bytes()),
            228.. => format!("__ds/{}", latin(tape.bytes())),
        };
        let body = tape.bytes().to_vec();
        self.send(method, &path, tape, Vec::new(), body);
    }

    /// Lets the parser read what no object sends.
    fn parse_internal(&self, tape: &mut Tape<'_>) {
        let name = tape.pick(&["X-Link-Call", "X-Control-Call"]);
        let path = tape.pick(&[
            "a",
            "__ds/keys",
            "__ds/directory/3",
            "__ds/subscriptions/s",
            "__ds",
        ]);
        let call = latin(tape.bytes());
        let request = Request {
            method: "PATCH".to_owned(),
            url: format!("https://host/v1/stream/{path}"),
            headers: vec![header(name, &call)],
            body: Bytes::new(),
        };
        let _ = request.parse(&self.settings.limits);
    }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn subscription(id: &str, rest: &str) -> String {
    format!("__ds/subscriptions/{id}{rest}")
}

/// Returns one of the first `usual` texts, or seldom another one.
pub(super) fn choose(tape: &mut Tape<'_>, texts: &[&str], usual: usize) -> String {
    let byte = usize::from(tape.byte());
    let at = if byte < 216 {
        byte % usual
    } else {
        byte % texts.len()
    };
    texts[at].to_owned()
}

fn id(tape: &mut Tape<'_>) -> String {
    let id = choose(tape, &IDS, 2);
    if id.is_empty() { "l".repeat(1_000) } else { id }
}

/// Returns how a body names a stream.
fn decoded(path: &str) -> String {
    path.replace("%C3%BC", "ü")
}

fn pattern(tape: &mut Tape<'_>) -> String {
    match tape.byte() {
        byte @ 0..=167 => PATTERNS[usize::from(byte) % 8].to_owned(),
        byte @ 168..=239 => PATTERNS[usize::from(byte) % PATTERNS.len()].to_owned(),
        240.. => tape.text(),
    }
}

fn streams(tape: &mut Tape<'_>) -> Value {
    let count = tape.below(4);
    let streams = (0..count).map(|_| Value::from(decoded(&choose(tape, &STREAMS, 7))));
    streams.collect()
}

fn ack(tape: &mut Tape<'_>, wake: &Wake) -> Value {
    let number = usize::from(tape.byte());
    let known = number
        .checked_rem(wake.streams.len())
        .map(|at| wake.streams[at].clone());
    let (mut stream, tail) = known.unwrap_or_else(|| ("a".to_owned(), "-1".to_owned()));
    let kind = tape.byte();
    if kind >= 240 {
        stream = decoded(STREAMS[usize::from(kind) % STREAMS.len()]);
    }
    let tail_offset = tail.parse().unwrap_or(Offset::START);
    let offset = match kind % 16 {
        8 => Offset::START.to_string(),
        9 => Offset::new(tail_offset.segment, tail_offset.position + 1).to_string(),
        10 => Offset::new(tail_offset.segment, tail_offset.position.saturating_sub(1)).to_string(),
        11 => "-1".to_owned(),
        12 => tape.text(),
        13 => Offset::new(tail_offset.segment + 1, 0).to_string(),
        _ => tail,
    };
    let name = if kind & 1 == 0 { "stream" } else { "path" };
    json!({ name: stream, "offset": offset })
}

fn receipt(tape: &mut Tape<'_>) -> Vec<u8> {
    match tape.byte() {
        byte @ 0..=239 => RECEIPTS[usize::from(byte) % RECEIPTS.len()]
            .as_bytes()
            .to_vec(),
        240.. => tape.bytes().to_vec(),
    }
}

/// Returns the body as bytes, seldom with a mistake.
fn spoiled(tape: &mut Tape<'_>, mut body: Value) -> Vec<u8> {
    let kind = tape.byte();
    if kind < 232 {
        return body.to_string().into_bytes();
    }
    let members = body.as_object().map_or(0, serde_json::Map::len);
    let member = tape.below(members.max(1));
    let name = body
        .as_object()
        .and_then(|object| object.keys().nth(member).cloned());
    let (Some(object), Some(name)) = (body.as_object_mut(), name) else {
        return Vec::new();
    };
    match kind % 8 {
        0 => {
            let mut bytes = body.to_string().into_bytes();
            bytes.truncate(tape.below(256));
            bytes
        }
        1 => {
            object.remove(&name);
            body.to_string().into_bytes()
        }
        2 => tape.bytes().to_vec(),
        3 => {
            object.insert(name, tape.text().into());
            body.to_string().into_bytes()
        }
        4 => {
            object.insert("other".to_owned(), json!([null]));
            body.to_string().into_bytes()
        }
        5 => format!("[{body}]").into_bytes(),
        _ => {
            let values = [
                json!(null),
                json!(7),
                json!(true),
                json!([]),
                json!({}),
                json!(-1),
            ];
            object.insert(name, values[tape.below(values.len())].clone());
            body.to_string().into_bytes()
        }
    }
}
