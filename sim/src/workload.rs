//! What clients do. The draws depend on the present state: most requests are legal, many collide or
//! are out of order, and a few are malformed. Names, producers and offsets come from small pools.

use bytes::Bytes;

use crate::choices::Choices;
use crate::model::{Content, Incarnation};
use crate::request::{Request, Response};
use crate::segments::spell;
use crate::settings::Settings;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Append,
    Produce,
    Read,
    ReadAgain,
    LongPoll,
    Follow,
    Head,
    Create,
    Close,
    Delete,
    Malformed,
    Wait,
}

/// How many kinds there are.
pub const KINDS: usize = 12;

impl Kind {
    pub const ALL: [Self; KINDS] = [
        Self::Append,
        Self::Produce,
        Self::Read,
        Self::ReadAgain,
        Self::LongPoll,
        Self::Follow,
        Self::Head,
        Self::Create,
        Self::Close,
        Self::Delete,
        Self::Malformed,
        Self::Wait,
    ];

    /// Returns its weight unless a run draws another.
    #[must_use]
    pub const fn usual_weight(self) -> u64 {
        match self {
            Self::Append | Self::Produce => 24,
            Self::Read => 12,
            Self::LongPoll | Self::Follow => 8,
            Self::ReadAgain | Self::Head | Self::Malformed => 4,
            Self::Create | Self::Wait => 3,
            Self::Close | Self::Delete => 1,
        }
    }
}

/// The knowledge that a client has from its answers.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// The last offsets that it has received.
    pub offsets: Vec<String>,
    /// The entity tag of the last read, and the offset of that read.
    pub tag: Option<(String, String)>,
    /// The last entity tag that it has received.
    pub state: Option<String>,
    pub cursor: Option<String>,
}

impl Knowledge {
    pub fn learn_offset(&mut self, offset: &str) {
        if self.offsets.len() == 6 {
            self.offsets.remove(0);
        }
        self.offsets.push(offset.to_owned());
    }

    /// Learns from an answer.
    pub fn learn(&mut self, request: &Request, response: &Response) {
        if let Some(offset) = response.header("Stream-Next-Offset") {
            self.learn_offset(offset);
        }
        if let Some(cursor) = response.header("Stream-Cursor") {
            self.cursor = Some(cursor.to_owned());
        }
        if let Some(tag) = response.header("ETag") {
            self.state = Some(tag.to_owned());
        }
        if let (Some(tag), Some(offset), None) = (
            response.header("ETag"),
            request.parameter("offset"),
            request.parameter("live"),
        ) {
            self.tag = Some((offset.to_owned(), tag.to_owned()));
        }
    }
}

/// The producer's headers of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    pub id: String,
    pub epoch: u64,
    pub seq: u64,
}

/// The next action of a client.
#[derive(Clone, Debug)]
pub enum Action {
    Send {
        request: Request,
        /// A marker in the body, by which it can be found again.
        marker: Option<String>,
        claim: Option<Claim>,
    },
    Wait(u64),
}

impl Action {
    const fn send(request: Request) -> Self {
        Self::Send {
            request,
            marker: None,
            claim: None,
        }
    }
}

/// What the generator of actions knows of the world.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub incarnation: Option<&'a Incarnation>,
    /// Whether the stream may have expired although it still exists.
    pub has_ended: bool,
    pub knowledge: &'a Knowledge,
    /// Unique in the run.
    pub operation: u64,
    pub now: u64,
}

/// Draws the next action of a client.
pub fn next(choices: &mut Choices<'_>, context: Context<'_>) -> Action {
    if context.settings.enumerated {
        return enumerated_action(choices, &context);
    }
    if context.settings.writers {
        return write(&context);
    }
    let mut weights = context.settings.weights;
    if context.incarnation.is_none() {
        // Little else can be done.
        weights[Kind::Create as usize] += weights.iter().sum::<u64>();
    }
    if context.has_ended {
        // The time between the end of a stream and its removal is short.
        weights[Kind::Create as usize] += weights.iter().sum::<u64>() / 2;
    }
    let context = &context;
    let mut next = unconditional(choices, context, &weights);
    if let Action::Send { request, .. } = &mut next {
        add_conditions(choices.added(), context, request);
    }
    next
}

fn unconditional(
    choices: &mut Choices<'_>,
    context: &Context<'_>,
    weights: &[u64; KINDS],
) -> Action {
    match Kind::ALL[choices.weighted(weights)] {
        Kind::Append => append(choices, context, false),
        Kind::Produce => append(choices, context, true),
        Kind::Read => Action::send(read(choices, context, None)),
        Kind::ReadAgain => Action::send(read_again(choices, context)),
        Kind::LongPoll => Action::send(read(choices, context, Some("long-poll"))),
        Kind::Follow => Action::send(read(choices, context, Some("sse"))),
        Kind::Head => Action::send(Request::new("HEAD")),
        Kind::Create => create(choices, context),
        Kind::Close => close(choices, context),
        Kind::Delete => Action::send(Request::new("DELETE")),
        Kind::Malformed => Action::send(malformed(choices, context)),
        Kind::Wait => {
            let ttl = context
                .incarnation
                .and_then(Incarnation::ttl_ms)
                .unwrap_or(0)
                .min(100_000);
            Action::Wait(choices.one_of(&[ttl, ttl / 2, ttl * 2, 100]) + choices.magnitude(10_000))
        }
    }
}

/// Draws one of the few actions of an enumerated run.
fn enumerated_action(choices: &mut Choices<'_>, context: &Context<'_>) -> Action {
    let text = ("Content-Type", "text/plain".to_owned());
    let marker = format!("#{};", context.operation);
    let post = |headers, body: String| Request {
        method: "POST",
        headers,
        body: body.into(),
        ..Request::default()
    };
    let next = context
        .incarnation
        .and_then(|incarnation| incarnation.producers().get("p0"))
        .map_or(0, |(_, seq)| seq + 1);
    match choices.upto(8) {
        0 => Action::send(Request {
            method: "PUT",
            headers: vec![text],
            ..Request::default()
        }),
        1 => Action::Send {
            request: post(vec![text], format!("ab{marker}")),
            marker: Some(marker),
            claim: None,
        },
        choice @ 2..=4 => {
            let claim = Claim {
                id: "p0".to_owned(),
                epoch: 0,
                seq: if choice == 2 { next } else { 0 },
            };
            let mut request = post(vec![text], marker.clone());
            stamp(&mut request, &claim);
            if choice == 4 {
                request.headers.push(("Stream-Closed", "true".to_owned()));
            }
            Action::Send {
                request,
                marker: Some(marker),
                claim: Some(claim),
            }
        }
        5 => Action::send(Request {
            method: "GET",
            query: vec![("offset", "-1".to_owned())],
            ..Request::default()
        }),
        6 => Action::send(Request::new("DELETE")),
        7 => {
            let ttl = ("Stream-TTL", "1".to_owned());
            Action::send(Request {
                method: "PUT",
                headers: vec![text, ttl],
                ..Request::default()
            })
        }
        _ => Action::Wait(1_000),
    }
}

/// Returns an append to the stream once it exists, and its creation before.
fn write(context: &Context<'_>) -> Action {
    let json = vec![("Content-Type", "application/json".to_owned())];
    if context.incarnation.is_none() {
        return Action::send(Request {
            method: "PUT",
            headers: json,
            ..Request::default()
        });
    }
    let marker = format!("#{};", context.operation);
    let request = Request {
        method: "POST",
        headers: json,
        body: format!("\"{marker}\"").into(),
        ..Request::default()
    };
    Action::Send {
        request,
        marker: Some(marker),
        claim: None,
    }
}

/// Sometimes makes a write depend on the state of the stream, or an event stream resume.
fn add_conditions(choices: &mut Choices<'_>, context: &Context<'_>, request: &mut Request) {
    if request.parameter("live") == Some("sse") && choices.percent(30) {
        let known = &context.knowledge.offsets;
        let id = match choices.weighted(&[8, 4, 4, 1, 1]) {
            0 => known.last().cloned(),
            1 => known.first().cloned(),
            2 => context
                .incarnation
                .map(|incarnation| incarnation.segments.spell(incarnation.content.len(), true)),
            3 => Some(spell((0, 4_999_999_999_999_999))),
            _ => None,
        };
        request
            .headers
            .push(("Last-Event-ID", id.unwrap_or_else(|| "x".to_owned())));
    }
    if !matches!(request.method, "PUT" | "POST" | "DELETE") || !choices.percent(20) {
        return;
    }
    if request.method == "POST" && choices.upto(2) < 2 {
        let tail = context
            .incarnation
            .map_or(0, |incarnation| incarnation.content.len());
        let spelled = |earlier| match context.incarnation {
            Some(incarnation) => incarnation.segments.spell(tail, earlier),
            None => spell((0, 0)),
        };
        let known = context.knowledge.offsets.last();
        let offset = match choices.weighted(&[6, 4, 4, 4, 1, 1]) {
            0 if known.is_some() => known.cloned().unwrap_or_default(),
            0 | 1 => spelled(false),
            2 => spelled(true),
            3 => context
                .knowledge
                .offsets
                .first()
                .cloned()
                .unwrap_or_default(),
            4 => "-1".to_owned(),
            _ => "now".to_owned(),
        };
        request.headers.push(("Stream-Expected-Offset", offset));
    }
    let list = |choices: &mut Choices<'_>| {
        let tag = context
            .knowledge
            .state
            .clone()
            .unwrap_or_else(|| "*".to_owned());
        match choices.weighted(&[6, 2, 2, 1, 1]) {
            0 => tag,
            1 => format!("\"x\", {tag}"),
            2 => "*".to_owned(),
            3 => format!("W/{tag}"),
            _ => "\"x\"".to_owned(),
        }
    };
    match choices.upto(3) {
        0 | 1 => {}
        2 => request.headers.push(("If-Match", list(choices))),
        _ => request.headers.push(("If-None-Match", list(choices))),
    }
}

fn create(choices: &mut Choices<'_>, context: &Context<'_>) -> Action {
    let mut request = Request::new("PUT");
    let types = [
        "application/json",
        "text/plain",
        "application/octet-stream",
        "text/plain; charset=utf-8",
        "Application/JSON",
        "",
    ];
    let content_type = match context.incarnation {
        // Most creations of an existing stream should be confirmed.
        Some(incarnation) if choices.upto(2) > 0 => incarnation.content_type.clone(),
        _ => choices.one_of(&types).to_owned(),
    };
    let json = content_type.to_lowercase().starts_with("application/json");
    if !content_type.is_empty() {
        request.headers.push(("Content-Type", content_type));
    }
    if choices.percent(context.settings.ttl_percent) {
        if choices.upto(3) < 3 {
            let ttl = choices.one_of(&[1, 2, 5, 30, 3_600, 0, 9_007_199_254_740_991_u64]);
            request.headers.push(("Stream-TTL", ttl.to_string()));
        } else {
            let at =
                (context.now + choices.magnitude(60_000)).saturating_sub(choices.magnitude(2_000));
            let text = if choices.upto(9) == 9 {
                "9999-12-31T23:59:59.999Z".to_owned()
            } else {
                timestamp(at)
            };
            request.headers.push(("Stream-Expires-At", text));
        }
    }
    if choices.percent(5) {
        request.headers.push((
            "Stream-Closed",
            choices.one_of(&["true", "TRUE", "yes"]).to_owned(),
        ));
    }
    let mut marker = None;
    if choices.percent(40) {
        let content = if json {
            Content::Messages(Vec::new())
        } else {
            Content::Run {
                text: true,
                bytes: Vec::new(),
                ends: Vec::new(),
            }
        };
        let (body, marked) = body(choices, context, &content);
        request.body = body;
        marker = marked;
        if json && choices.percent(15) {
            request.body = Bytes::from_static(b"{\"cut");
            marker = None;
        }
    }
    let mut claim = None;
    if choices.percent(8) {
        let drawn = drawn_claim(choices, context);
        stamp(&mut request, &drawn);
        claim = Some(drawn);
    }
    Action::Send {
        request,
        marker,
        claim,
    }
}

fn append(choices: &mut Choices<'_>, context: &Context<'_>, by_producer: bool) -> Action {
    let mut request = Request::new("POST");
    let nothing = Content::Run {
        text: true,
        bytes: Vec::new(),
        ends: Vec::new(),
    };
    let content = context
        .incarnation
        .map_or(&nothing, |incarnation| &*incarnation.content);
    let (body, marker) = body(choices, context, content);
    request.body = body;
    let content_type = context.incarnation.map_or("text/plain", |incarnation| {
        incarnation.content_type.as_str()
    });
    let content_type = if choices.percent(3) {
        "application/x-other"
    } else {
        content_type
    };
    request
        .headers
        .push(("Content-Type", content_type.to_owned()));
    let mut claim = None;
    if by_producer {
        let drawn = drawn_claim(choices, context);
        stamp(&mut request, &drawn);
        claim = Some(drawn);
    }
    if choices.percent(10) {
        let last = context
            .incarnation
            .and_then(Incarnation::stream_seq)
            .unwrap_or_default();
        let higher = format!("{last}{}", choices.one_of(&["1", "0", "a"]));
        let other = choices.one_of(&["10", "2", "b"]).to_owned();
        request.headers.push((
            "Stream-Seq",
            if choices.upto(3) < 3 { higher } else { other },
        ));
    }
    if choices.percent(2) {
        request.headers.push(("Stream-Closed", "true".to_owned()));
    }
    Action::Send {
        request,
        marker,
        claim,
    }
}

fn close(choices: &mut Choices<'_>, context: &Context<'_>) -> Action {
    if choices.upto(2) == 2 {
        let Action::Send {
            mut request,
            marker,
            claim,
        } = append(choices, context, true)
        else {
            return Action::Wait(0);
        };
        request.headers.retain(|(name, _)| *name != "Stream-Closed");
        request.headers.push(("Stream-Closed", "true".to_owned()));
        return Action::Send {
            request,
            marker,
            claim,
        };
    }
    let mut request = Request::new("POST");
    request.headers.push(("Stream-Closed", "true".to_owned()));
    if choices.percent(30) {
        stamp(&mut request, &drawn_claim(choices, context));
    }
    if choices.percent(20) {
        request
            .headers
            .push(("Content-Type", "no type at all".to_owned()));
    }
    Action::send(request)
}

fn drawn_claim(choices: &mut Choices<'_>, context: &Context<'_>) -> Claim {
    let id = format!("p{}", choices.upto(context.settings.producers - 1));
    let (epoch, seq) = match context
        .incarnation
        .and_then(|incarnation| incarnation.producers().get(&id))
    {
        None => match choices.weighted(&[20, 1, 1]) {
            0 => (0, 0),
            1 => (choices.magnitude(5), choices.magnitude(3)),
            _ => (9_007_199_254_740_991, 0),
        },
        Some(&(epoch, seq)) => match choices.weighted(&[40, 8, 4, 4, 4, 2, 1]) {
            0 => (epoch, seq + 1),
            1 => (epoch, seq.saturating_sub(choices.magnitude(2))),
            2 => (epoch, seq + 2 + choices.magnitude(3)),
            3 => (epoch + 1, 0),
            4 => (
                epoch.saturating_sub(1 + choices.magnitude(2)),
                choices.magnitude(4),
            ),
            5 => (epoch + 1, 1 + choices.magnitude(3)),
            _ => (9_007_199_254_740_991, 0),
        },
    };
    Claim { id, epoch, seq }
}

fn stamp(request: &mut Request, claim: &Claim) {
    request.headers.push(("Producer-Id", claim.id.clone()));
    request
        .headers
        .push(("Producer-Epoch", claim.epoch.to_string()));
    request
        .headers
        .push(("Producer-Seq", claim.seq.to_string()));
}

fn read(choices: &mut Choices<'_>, context: &Context<'_>, live: Option<&str>) -> Request {
    let mut request = Request::new("GET");
    if let Some(offset) = drawn_offset(choices, context, live.is_some()) {
        request.query.push(("offset", offset));
    }
    if let Some(live) = live {
        request.query.push(("live", live.to_owned()));
        let cursor = match choices.upto(5) {
            0..=2 => context.knowledge.cursor.clone(),
            3 => None,
            _ => Some(choices.magnitude(1 << 40).to_string()),
        };
        if let Some(cursor) = cursor {
            request.query.push(("cursor", cursor));
        }
    }
    request
}

fn drawn_offset(choices: &mut Choices<'_>, context: &Context<'_>, live: bool) -> Option<String> {
    let known = &context.knowledge.offsets;
    let tail = context
        .incarnation
        .map_or(0, |incarnation| incarnation.content.len());
    Some(match choices.weighted(&[8, 4, 3, 3, 1]) {
        0 if !known.is_empty() => {
            let back = choices.magnitude(known.len() as u64 - 1);
            known[known.len() - 1 - usize::try_from(back).unwrap_or(0)].clone()
        }
        0 | 1 => "-1".to_owned(),
        2 => "now".to_owned(),
        // A made-up offset: within the stream, at its tail, or just beyond.
        3 => {
            let position = if choices.upto(1) == 0 {
                choices.upto(tail)
            } else {
                choices.boundary(tail)
            };
            let earlier = choices.upto(1) == 1;
            match context.incarnation {
                Some(incarnation) => incarnation.segments.spell(position, earlier),
                None => spell((0, position)),
            }
        }
        _ if live || choices.upto(1) == 1 => {
            spell((choices.upto(2), choices.upto(2) * 4_999_999_999_999_999))
        }
        _ => return None,
    })
}

fn read_again(choices: &mut Choices<'_>, context: &Context<'_>) -> Request {
    let Some((offset, tag)) = &context.knowledge.tag else {
        return read(choices, context, None);
    };
    let mut request = Request::new("GET");
    request.query.push(("offset", offset.clone()));
    let list = match choices.upto(4) {
        0 | 1 => tag.clone(),
        2 => format!("\"x\", W/{tag}"),
        3 => "\"x\"".to_owned(),
        _ => "*".to_owned(),
    };
    request.headers.push(("If-None-Match", list));
    request
}

fn malformed(choices: &mut Choices<'_>, context: &Context<'_>) -> Request {
    let mut request = Request::new("GET");
    match choices.upto(12) {
        0 => request.query.push(("offset", "0_0".to_owned())),
        1 => request.query.push(("live", "sse".to_owned())),
        2 => request
            .query
            .extend([("offset", "-1".to_owned()), ("live", "ws".to_owned())]),
        3 => request
            .query
            .extend([("offset", "-1".to_owned()), ("offset", "now".to_owned())]),
        4 => request
            .query
            .extend([("offset", "-1".to_owned()), ("cursor", "x".to_owned())]),
        5 => request.query.push(("offset", String::new())),
        choice => {
            let body = Bytes::from_static(b"[1");
            let content_type = (
                "Content-Type",
                context
                    .incarnation
                    .map_or("application/json", |incarnation| &incarnation.content_type)
                    .to_owned(),
            );
            request = match choice {
                6 => Request {
                    method: "PUT",
                    headers: vec![("Stream-TTL", "01".to_owned())],
                    ..request
                },
                7 => Request {
                    method: "PUT",
                    headers: vec![
                        ("Stream-TTL", "9".to_owned()),
                        ("Stream-Expires-At", timestamp(context.now + 9_000)),
                    ],
                    ..request
                },
                8 => Request {
                    method: "PUT",
                    headers: vec![("Content-Type", "application/json".to_owned())],
                    body,
                    ..request
                },
                9 => Request {
                    method: "POST",
                    headers: vec![content_type],
                    ..request
                },
                10 => Request {
                    method: "POST",
                    headers: vec![content_type, ("Producer-Id", "p0".to_owned())],
                    body,
                    ..request
                },
                11 => Request {
                    method: "POST",
                    body,
                    ..request
                },
                _ => Request {
                    method: "POST",
                    headers: vec![content_type],
                    body,
                    ..request
                },
            };
        }
    }
    request
}

/// Draws a body for this kind of stream, often with a marker by which it can be found again.
fn body(
    choices: &mut Choices<'_>,
    context: &Context<'_>,
    content: &Content,
) -> (Bytes, Option<String>) {
    let size = if choices.percent(4) {
        choices.boundary(
            context
                .settings
                .limits
                .append_bytes_max
                .min(context.settings.body_bytes * 10),
        )
    } else {
        1 + choices.magnitude(context.settings.body_bytes)
    };
    let mut filler = Filler(choices.upto(255));
    let marker = format!("#{};", context.operation);
    let marked = choices.upto(4) > 0;
    match content {
        Content::Messages(_) => {
            let count = choices.magnitude(6);
            let mut messages: Vec<String> = (0..count)
                .map(|_| filler.json(size / (count + 1)))
                .collect();
            if marked {
                messages.push(format!("{{\"m\":\"{marker}\"}}"));
            }
            let body = match choices.upto(7) {
                0 if messages.len() == 1 => messages.remove(0),
                1 => format!("[{}]", messages.join(" , ")),
                2 => format!(" \n[{}]\t", messages.join(",\n")),
                3 => format!("[[{}]]", messages.join(",")),
                4 => format!("{{\"a\":[{}]}}", messages.join(",")),
                _ => format!("[{}]", messages.join(",")),
            };
            (body.into(), Some(marker).filter(|_| marked))
        }
        Content::Run { text, .. } => {
            let mut body = if *text {
                filler.text(size)
            } else {
                filler.bytes(size)
            };
            // Parts of a character and of a line ending, which meet others at the seams of appends.
            if *text && choices.added().percent(30) {
                let ends: [&[u8]; 8] = [
                    b"",
                    b"\xf0",
                    b"\xf0\x9f",
                    b"\xf0\x9f\x98",
                    b"\xe2\x82",
                    b"\xc3",
                    b"\r",
                    b"\xff",
                ];
                let begins: [&[u8]; 8] = [
                    b"",
                    b"\x9f\x98\x80",
                    b"\x98\x80",
                    b"\x80",
                    b"\xac",
                    b"\xa9",
                    b"\n",
                    b"\x9f",
                ];
                let (begin, end) = (
                    choices.added().one_of(&begins),
                    choices.added().one_of(&ends),
                );
                if choices.added().percent(30) && !(begin.is_empty() && end.is_empty()) {
                    body.clear();
                }
                body.splice(..0, begin.iter().copied());
                body.extend_from_slice(end);
            }
            let fits = marked && body.len() > marker.len();
            if fits {
                let end = body.len() - marker.len();
                // Not inside a character.
                let end = (0..=end)
                    .rev()
                    .find(|at| body[*at] & 0xc0 != 0x80 || !*text)
                    .unwrap_or(0);
                body.truncate(end);
                body.extend_from_slice(marker.as_bytes());
            }
            (body.into(), Some(marker).filter(|_| fits))
        }
    }
}

/// Returns content that follows from one number, so that it costs one decision.
struct Filler(u64);

impl Filler {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self, size: u64) -> Vec<u8> {
        // No '#', because markers begin with it.
        (0..size)
            .map(|_| self.next(256) as u8)
            .map(|byte| if byte == b'#' { 0 } else { byte })
            .collect()
    }

    fn text(&mut self, size: u64) -> Vec<u8> {
        let pieces = [
            "a", " ", "\n", "b", "é", "€", "😀", "\r", "\r\n", "data:", "c", "  ",
        ];
        let mut text = Vec::new();
        while (text.len() as u64) < size {
            let piece = pieces[usize::try_from(self.next(pieces.len() as u64)).unwrap_or(0)];
            if text.len() + piece.len() > usize::try_from(size).unwrap_or(usize::MAX) {
                text.push(b'z');
            } else {
                text.extend_from_slice(piece.as_bytes());
            }
        }
        text
    }

    fn json(&mut self, size: u64) -> String {
        match self.next(8) {
            0 => "1.0".to_owned(),
            1 => "12345678901234567890".to_owned(),
            2 => "[1, [2]]".to_owned(),
            3 => "[]".to_owned(),
            4 => "{\"b\" : null,\"a\":[true]}".to_owned(),
            5 => "\"\\u0041 \\\" ,]\"".to_owned(),
            _ => format!("\"{}\"", "x".repeat(usize::try_from(size).unwrap_or(0))),
        }
    }
}

/// Spells a time since 1970 as RFC 3339 with milliseconds.
#[must_use]
pub fn timestamp(at: u64) -> String {
    let (days, rest) = (at / 86_400_000, at % 86_400_000);
    // The civil calendar, in eras of 400 years that begin on a first of March.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year_of_era + era * 400 + carry;
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model;

    #[test]
    fn times_are_read_as_they_are_written() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400_123), "2000-02-29T00:00:00.123Z");
        for at in (0..4_000_000_000_000).step_by(86_399_999_017) {
            assert_eq!(model::time(&timestamp(at)), Some(at));
        }
    }
}
