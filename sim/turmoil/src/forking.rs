//! What clients do with forks: they create them, repeat their creations, and delete sources and
//! forks. All draws come from a tape of their own.

use std::ops::Range;

use sim::choices::Choices;
use sim::model::{Content, FORK_OFFSET, FORK_SUB_OFFSET, FORKED_FROM, Incarnation, ROOT};
use sim::request::Request;

use crate::judge::{Judge, stream};
use crate::settings::Settings;

/// The offset of the beginning of every stream, and one beyond every tail.
const START: &str = "0000000000000000_0000000000000000";
const BEYOND: &str = "9999999999999999_9999999999999999";

/// Draws a request about forks, and the name that it is sent to. `created` has the last creation of
/// a fork of each name.
pub(crate) fn next(
    choices: &mut Choices<'_>,
    settings: &Settings,
    judge: &Judge,
    created: &[Option<Request>],
    operation: u64,
) -> (usize, Request) {
    let all = 0..judge.names();
    let exists = |name: &usize| judge.incarnation(*name).is_some();
    match choices.weighted(&[14, 3, 4, 4]) {
        0 => create(choices, settings, judge, operation),
        1 => {
            let name = one_of(choices, all, exists);
            (name, Request::new("DELETE"))
        }
        2 => {
            let is_fork = |name: &usize| {
                let incarnation = judge.incarnation(*name);
                incarnation.is_some_and(|it| it.fork.is_some())
            };
            let name = one_of(choices, all, is_fork);
            let mut request = Request::new("GET");
            request.query.push(("offset", "-1".to_owned()));
            if choices.upto(1) == 1 {
                request.query.push(("live", "sse".to_owned()));
            }
            (name, request)
        }
        _ => {
            let name = one_of(choices, all, |name| created[*name].is_some());
            match &created[name] {
                Some(request) => (name, request.clone()),
                None => create(choices, settings, judge, operation),
            }
        }
    }
}

fn create(
    choices: &mut Choices<'_>,
    settings: &Settings,
    judge: &Judge,
    operation: u64,
) -> (usize, Request) {
    let forks = usize::try_from(settings.workload.names).unwrap_or(0);
    let exists = |name: &usize| judge.incarnation(*name).is_some();
    let name = one_of(choices, forks..judge.names(), |name| !exists(name));
    let source = one_of(choices, 0..judge.names(), |other| {
        exists(other) && *other != name
    });
    let mut request = Request::new("PUT");
    let mut push = |name, value: String| request.headers.push((name, value));
    push(FORKED_FROM, format!("{ROOT}{}", stream(source)));
    let incarnation = judge.incarnation(source);
    let content_type = incarnation.map_or("text/plain", |it| it.content_type.as_str());
    match choices.weighted(&[10, 6, 1]) {
        0 => {}
        1 => push("Content-Type", content_type.to_owned()),
        _ => push("Content-Type", "application/x-other".to_owned()),
    }
    let is_malformed = choices.percent(4);
    if let Some(offset) = offset(choices, incarnation) {
        push(FORK_OFFSET, offset);
        if choices.percent(50) && !is_malformed {
            push(FORK_SUB_OFFSET, choices.magnitude(6).to_string());
        }
    }
    if is_malformed {
        push(
            FORK_SUB_OFFSET,
            choices.one_of(&["01", "-1", "1.5"]).to_owned(),
        );
    }
    if choices.percent(settings.workload.ttl_percent / 2) {
        push("Stream-TTL", choices.one_of(&[3_600, 5, 1]).to_string());
    }
    if choices.percent(5) {
        push("Stream-Closed", "true".to_owned());
    }
    if choices.percent(30) {
        let is_json = incarnation.is_some_and(|it| matches!(*it.content, Content::Messages(_)));
        let body = match (is_json, choices.percent(10)) {
            (true, false) => format!("[\"#{operation};\"]"),
            (true, true) => "{\"cut".to_owned(),
            (false, _) => format!("#{operation};"),
        };
        request.body = body.into();
    }
    (name, request)
}

/// Draws where a fork leaves its source. Without an offset it does so at the tail.
fn offset(choices: &mut Choices<'_>, incarnation: Option<&Incarnation>) -> Option<String> {
    let any_place = |choices: &mut Choices<'_>| {
        let incarnation = incarnation?;
        let place = choices.upto(incarnation.content.len());
        Some(incarnation.segments.spell(place, choices.upto(3) < 3))
    };
    match choices.weighted(&[8, 10, 2, 1]) {
        0 => None,
        1 => any_place(choices),
        2 => Some(START.to_owned()),
        _ => Some(BEYOND.to_owned()),
    }
}

/// Draws one of the names, most often one for which the condition holds.
fn one_of(choices: &mut Choices<'_>, names: Range<usize>, holds: impl Fn(&usize) -> bool) -> usize {
    let mut fitting: Vec<_> = names.clone().filter(holds).collect();
    if fitting.is_empty() || choices.percent(8) {
        fitting = names.collect();
    }
    choices.one_of(&fitting)
}

/// Draws a fork for an operation that any stream could have; `None` if there is no fork, or the
/// operation is not one on forks.
pub(crate) fn fork(choices: &mut Choices<'_>, settings: &Settings, judge: &Judge) -> Option<usize> {
    let forks = usize::try_from(settings.workload.names).unwrap_or(0);
    let exists = |name: &usize| judge.incarnation(*name).is_some();
    let forks: Vec<_> = (forks..judge.names()).filter(exists).collect();
    if forks.is_empty() || !choices.percent(50) {
        return None;
    }
    Some(choices.one_of(&forks))
}
