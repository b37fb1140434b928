//! What clients do. The draws depend on the present state: most requests are legal, many collide or
//! are out of order, and a few are malformed. Names, producers and offsets come from small pools.

mod body;
mod conditions;
mod malformed;
mod reads;
mod time;
mod writes;

use crate::choices::Choices;
use crate::model::Incarnation;
use crate::request::{Request, Response};
use crate::settings::Settings;

pub use time::timestamp;

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
        conditions::add(choices.added(), context, request);
    }
    next
}

fn unconditional(
    choices: &mut Choices<'_>,
    context: &Context<'_>,
    weights: &[u64; KINDS],
) -> Action {
    match Kind::ALL[choices.weighted(weights)] {
        Kind::Append => writes::append(choices, context, false),
        Kind::Produce => writes::append(choices, context, true),
        Kind::Read => Action::send(reads::read(choices, context, None)),
        Kind::ReadAgain => Action::send(reads::read_again(choices, context)),
        Kind::LongPoll => Action::send(reads::read(choices, context, Some("long-poll"))),
        Kind::Follow => Action::send(reads::read(choices, context, Some("sse"))),
        Kind::Head => Action::send(Request::new("HEAD")),
        Kind::Create => writes::create(choices, context),
        Kind::Close => writes::close(choices, context),
        Kind::Delete => Action::send(Request::new("DELETE")),
        Kind::Malformed => Action::send(malformed::malformed(choices, context)),
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
            writes::stamp(&mut request, &claim);
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
