//! Reads, live or not.

use super::Context;
use crate::choices::Choices;
use crate::request::Request;
use crate::segments::spell;

pub(super) fn read(
    choices: &mut Choices<'_>,
    context: &Context<'_>,
    live: Option<&str>,
) -> Request {
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

pub(super) fn read_again(choices: &mut Choices<'_>, context: &Context<'_>) -> Request {
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
