//! Creations, appends and closes, and the producers' headers.

use bytes::Bytes;

use super::body::body;
use super::{Action, Claim, Context, timestamp};
use crate::choices::Choices;
use crate::model::{Content, Incarnation};
use crate::request::Request;

pub(super) fn create(choices: &mut Choices<'_>, context: &Context<'_>) -> Action {
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

pub(super) fn append(
    choices: &mut Choices<'_>,
    context: &Context<'_>,
    by_producer: bool,
) -> Action {
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

pub(super) fn close(choices: &mut Choices<'_>, context: &Context<'_>) -> Action {
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

pub(super) fn stamp(request: &mut Request, claim: &Claim) {
    request.headers.push(("Producer-Id", claim.id.clone()));
    request
        .headers
        .push(("Producer-Epoch", claim.epoch.to_string()));
    request
        .headers
        .push(("Producer-Seq", claim.seq.to_string()));
}
