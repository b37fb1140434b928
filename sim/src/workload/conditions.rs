//! Conditions on the state of the stream.

use super::Context;
use crate::choices::Choices;
use crate::request::Request;
use crate::segments::spell;

/// Sometimes makes a write depend on the state of the stream, or an event stream resume.
pub(super) fn add(choices: &mut Choices<'_>, context: &Context<'_>, request: &mut Request) {
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
