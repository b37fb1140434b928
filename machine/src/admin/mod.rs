//! The admin API (`docs/admin-api.md`): who may use it, what its requests mean, and its answers.
//!
//! A shell asks [`route`] before the router of streams. Most requests go to the object of a stream,
//! as a request of the protocol or as an [`AdminCall`], or to that of a subscription or a session.
//! The others are answered by the shell with what it knows of all streams, or with what the
//! directory answers.

mod access;
mod analytics;
mod assertion;
mod call;
mod health;
pub(crate) mod json;
mod listing;
mod parameters;
mod subscriptions;
mod team_keys;
mod traffic;

use access::Admission;
pub use access::{Caller, Proof};
pub use analytics::{Analytics, Counts};
pub use assertion::{Access, Assertion};
pub use call::AdminCall;
pub(crate) use call::cursor_of;
pub use health::{PROBE_KEY, PROBE_STATEMENT, SEE_LOG, Service, health, is_available};
pub(crate) use listing::expiry_columns;
pub use listing::{Listed, Listing};
pub use subscriptions::{SubscriptionInquiry, SubscriptionListing};
pub use team_keys::{FoundKey, TeamKeys};
pub use traffic::Traffic;

use crate::outbox;
use crate::router::{self, Settings, name};
use crate::storage::activity::MINUTES_MAX;
use crate::wire::request::{self, RequestHead};
use crate::wire::session::{self, SessionCall, session_stream};
use crate::wire::{control, header, internal_headers};
use crate::{Answer, Refusal};
use parameters::Parameters;

/// The beginning of the paths.
const PREFIX: &str = "/admin/api";

/// The last minutes that the counts of the system are about.
const SYSTEM_MINUTES: u64 = 5;

/// The longest time that Analytics Engine is asked about: a day.
const ANALYTICS_MINUTES_MAX: u64 = 1_440;

/// The decision on a request of the admin API. No answer to it has CORS headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRoute {
    /// Send it to the object of this stream, subscription or session. The object's answer is the
    /// client's.
    Stream(ToObject),
    /// Respond with this.
    Answered(Answer),
    /// Check the signature of this token with [`TeamKeys`], and route the request again with the
    /// [`Proof`].
    Verify(Assertion),
    /// Respond with a page of the list of streams or of sessions.
    List(Listing),
    /// Ask [`SubscriptionListing::questions`], and respond with [`SubscriptionListing::answer`].
    ListSubscriptions(SubscriptionListing),
    /// Respond with [`Traffic::hot`].
    Hot {
        /// The last minutes that count.
        minutes: u64,
        /// The greatest number of streams.
        limit: u64,
    },
    /// Respond with [`Traffic::system`].
    System,
    /// Ask [`Analytics`], and respond with [`Counts::answer`].
    Counts(Counts),
    /// Respond with [`health`].
    Health,
}

/// How to send a request to the object that it is about: with another method and target, without a
/// query, and with other headers where [`Self::replaced`] says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToObject {
    /// The canonical name, which also names the object.
    pub name: String,
    /// The method of the request to the object.
    pub method: &'static str,
    closes: bool,
    /// The internal header that has the call.
    call_header: &'static str,
    /// Its value.
    call: String,
}

impl ToObject {
    /// Returns the target of the request to the object.
    #[must_use]
    pub fn target(&self) -> String {
        outbox::target(&self.name)
    }

    /// Returns whether the request to the object has the body of the client.
    #[must_use]
    pub fn has_body(&self) -> bool {
        matches!(self.method, "PUT" | "POST")
    }

    /// Returns what stands in place of a header of the client: a value, or nothing. `None` keeps
    /// the client's header.
    #[must_use]
    pub fn replaced(&self, name: &str) -> Option<Option<&str>> {
        if name.eq_ignore_ascii_case(self.call_header) {
            return Some(Some(&self.call));
        }
        if self.closes && name.eq_ignore_ascii_case(header::STREAM_CLOSED) {
            return Some(Some("true"));
        }
        let mut internal = internal_headers::ALL.into_iter();
        let is_internal = internal.any(|each| each.eq_ignore_ascii_case(name));
        is_internal.then_some(None)
    }

    /// Returns the names of all headers that [`Self::replaced`] knows.
    pub fn replaced_names(&self) -> impl Iterator<Item = &'static str> {
        let closed = self.closes.then_some(header::STREAM_CLOSED);
        internal_headers::ALL.into_iter().chain(closed)
    }
}

/// Routes a request by its head; `None` if its path is not one of the admin API.
#[must_use]
pub fn route(head: RequestHead<'_>, caller: Caller, settings: &Settings) -> Option<AdminRoute> {
    let path = router::path(head.target).strip_prefix(PREFIX)?;
    if !path.is_empty() && !path.starts_with('/') {
        return None;
    }
    Some(
        decide(head, path, caller, settings)
            .unwrap_or_else(|refusal| AdminRoute::Answered(router::refused(head.method, &refusal))),
    )
}

fn decide(
    head: RequestHead<'_>,
    path: &str,
    caller: Caller,
    settings: &Settings,
) -> Result<AdminRoute, Refusal> {
    // First of all, because a refusal must not reveal anything about streams.
    match access::admit(head, caller, settings)? {
        Admission::Admitted => {}
        Admission::Verify(assertion) => return Ok(AdminRoute::Verify(assertion)),
        Admission::Unavailable => {
            let answer = Answer::unavailable(&settings.limits);
            return Ok(AdminRoute::Answered(answer));
        }
    }
    if head.target.contains('#') {
        return Err(Refusal::Malformed("the request target has a fragment"));
    }
    if let Some(rest) = path.strip_prefix("/streams/") {
        return of_stream(head, rest, settings);
    }
    if path == "/subscriptions" || path.starts_with("/subscriptions/") {
        return of_subscriptions(head, path, settings);
    }
    if path == "/sessions" || path.starts_with("/sessions/") {
        return of_sessions(head, path, caller, settings);
    }
    if let Some(rest) = path.strip_prefix("/metrics/streams/") {
        return metrics_of_stream(head, rest, caller, settings);
    }
    match path {
        "/streams" => {
            allow(head, "GET")?;
            let listing = Listing::of_streams(Parameters::read(head.target)?)?;
            list(listing, caller, settings)
        }
        "/metrics/hot" => {
            allow(head, "GET")?;
            let mut parameters = Parameters::read(head.target)?;
            let minutes = parameters.number("minutes", 1..=MINUTES_MAX)?.unwrap_or(5);
            let limit = parameters.limit(10, 100)?;
            parameters.finish()?;
            if is_platform(caller) {
                return ask(Counts::Hot { minutes, limit }, settings);
            }
            Ok(AdminRoute::Hot { minutes, limit })
        }
        "/metrics/system" => {
            allow(head, "GET")?;
            Parameters::read(head.target)?.finish()?;
            if is_platform(caller) {
                return ask(Counts::System, settings);
            }
            Ok(AdminRoute::System)
        }
        "/health" => {
            allow(head, "GET")?;
            Parameters::read(head.target)?.finish()?;
            Ok(AdminRoute::Health)
        }
        _ => Err(Refusal::PathNotFound),
    }
}

const fn is_platform(caller: Caller) -> bool {
    matches!(caller, Caller::Platform { .. } | Caller::Admitted)
}

fn list(listing: Listing, caller: Caller, settings: &Settings) -> Result<AdminRoute, Refusal> {
    if is_platform(caller) && !settings.limits.index {
        return Err(Refusal::NotConfigured(
            "lists of streams and of sessions need the binding ADMIN_INDEX",
        ));
    }
    Ok(AdminRoute::List(listing))
}

/// Routes a question to Analytics Engine, because no part of the platform sees all streams.
fn ask(counts: Counts, settings: &Settings) -> Result<AdminRoute, Refusal> {
    match settings.analytics {
        Some(_) => Ok(AdminRoute::Counts(counts)),
        None => Err(Refusal::NotConfigured(
            "counts of all streams need CF_ACCOUNT_ID and METRICS_API_TOKEN; ask for the throughput of one",
        )),
    }
}

/// What the last word of a path asks of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Detail,
    Segments,
    Producers,
    Outbox,
    Create,
    Append,
    Close,
    Delete,
    Seal,
}

impl Word {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "detail" => Self::Detail,
            "segments" => Self::Segments,
            "producers" => Self::Producers,
            "outbox" => Self::Outbox,
            "create" => Self::Create,
            "append" => Self::Append,
            "close" => Self::Close,
            "delete" => Self::Delete,
            "seal" => Self::Seal,
            _ => return None,
        })
    }
}

fn of_stream(
    head: RequestHead<'_>,
    rest: &str,
    settings: &Settings,
) -> Result<AdminRoute, Refusal> {
    let with_word = rest.rsplit_once('/').filter(|(id, _)| !id.is_empty());
    let (id, word) = with_word
        .and_then(|(id, word)| Some((id, Word::read(word)?)))
        .unwrap_or((rest, Word::Detail));
    let action = match word {
        Word::Detail | Word::Segments | Word::Producers | Word::Outbox => {
            allow(head, "GET")?;
            None
        }
        Word::Create => Some("PUT"),
        Word::Append | Word::Close => Some("POST"),
        Word::Delete => Some("DELETE"),
        Word::Seal => Some(request::INTERNAL_METHOD),
    };
    if action.is_some() {
        allow(head, "POST")?;
    }
    let name = stream_name(id, settings)?;
    let mut parameters = Parameters::read(head.target)?;
    let call = match word {
        Word::Detail => Some(AdminCall::Detail),
        Word::Segments => Some(AdminCall::Segments {
            after: parameters.number("after", 0..=crate::limits::SAFE_INTEGER_MAX)?,
            limit: parameters.limit(50, 100)?,
        }),
        Word::Producers => Some(AdminCall::Producers {
            after: parameters.text("cursor")?,
            limit: parameters.limit(50, 100)?,
        }),
        Word::Outbox => Some(AdminCall::Outbox {
            after: parameters
                .text("cursor")?
                .map(|text| call::task_of(&text))
                .transpose()?,
            limit: parameters.limit(50, 100)?,
        }),
        Word::Seal => Some(AdminCall::Seal),
        Word::Create | Word::Append | Word::Close | Word::Delete => None,
    };
    parameters.finish()?;
    let Some(method) = action else {
        let call = call.expect("every word that is no action is a call");
        return Ok(to_object(name, call));
    };
    if name::is_internal(&name) {
        return Err(router::written_by_server(&name));
    }
    let to_object = ToObject {
        name,
        method,
        closes: word == Word::Close,
        call_header: internal_headers::ADMIN_CALL,
        call: call.map_or_else(|| call::ACTION.to_owned(), |call| call.to_header()),
    };
    let target = to_object.target();
    let head = RequestHead {
        method,
        target: &target,
        ..head
    };
    request::check_codings(head)?;
    request::refuse_announced(head, &settings.limits)?;
    Ok(AdminRoute::Stream(to_object))
}

/// Decides about the list of subscriptions, and about one of them. Its id is one segment of the
/// path, as in the protocol.
fn of_subscriptions(
    head: RequestHead<'_>,
    path: &str,
    settings: &Settings,
) -> Result<AdminRoute, Refusal> {
    if !settings.limits.subscriptions {
        return Err(Refusal::NotSupported("subscriptions"));
    }
    let segments: Vec<_> = path.split('/').skip(2).collect();
    let (id, method, inquiry) = match segments[..] {
        [] => {
            allow(head, "GET")?;
            let listing = SubscriptionListing::read(Parameters::read(head.target)?)?;
            return Ok(AdminRoute::ListSubscriptions(listing));
        }
        [id] => {
            allow(head, "GET")?;
            let mut parameters = Parameters::read(head.target)?;
            let limit = parameters.limit(100, 1_000)?;
            let after = parameters.text("cursor")?;
            parameters.finish()?;
            let inquiry = SubscriptionInquiry::Detail { after, limit };
            (id, request::INTERNAL_METHOD, Some(inquiry))
        }
        [id, "retry"] => {
            let inquiry = SubscriptionInquiry::Retry;
            (id, request::INTERNAL_METHOD, Some(inquiry))
        }
        [id, "delete"] => (id, "DELETE", None),
        _ => return Err(Refusal::PathNotFound),
    };
    if id.is_empty() {
        return Err(Refusal::PathNotFound);
    }
    if segments.len() > 1 {
        allow(head, "POST")?;
        Parameters::read(head.target)?.finish()?;
        request::check_codings(head)?;
        request::refuse_announced(head, &settings.limits)?;
    }
    let id = name::canonical(id, &settings.limits)?;
    let call = inquiry.map_or_else(|| call::ACTION.to_owned(), |inquiry| inquiry.to_header());
    Ok(AdminRoute::Stream(ToObject {
        name: control::subscription_object(&id),
        method,
        closes: false,
        call_header: internal_headers::ADMIN_CALL,
        call,
    }))
}

/// Decides about the list of sessions, and about one of them.
fn of_sessions(
    head: RequestHead<'_>,
    path: &str,
    caller: Caller,
    settings: &Settings,
) -> Result<AdminRoute, Refusal> {
    let segments: Vec<_> = path.split('/').skip(2).collect();
    match segments[..] {
        [] => {
            allow(head, "GET")?;
            let listing = Listing::of_sessions(Parameters::read(head.target)?)?;
            list(listing, caller, settings)
        }
        [""] | ["", "delete"] => Err(Refusal::PathNotFound),
        [id] => {
            allow(head, "GET")?;
            let mut parameters = Parameters::read(head.target)?;
            let limit = parameters.limit(100, 1_000)?;
            let after = parameters.text("cursor")?;
            parameters.finish()?;
            let name = session_stream(id).ok_or(Refusal::SessionNotFound)?;
            Ok(to_object(name, AdminCall::Session { after, limit }))
        }
        [id, "delete"] => {
            allow(head, "POST")?;
            Parameters::read(head.target)?.finish()?;
            request::check_codings(head)?;
            request::refuse_announced(head, &settings.limits)?;
            let (call_header, call) = session::to_header(&SessionCall::Delete);
            Ok(AdminRoute::Stream(ToObject {
                name: session_stream(id).ok_or(Refusal::SessionNotFound)?,
                method: request::INTERNAL_METHOD,
                closes: false,
                call_header,
                call,
            }))
        }
        _ => Err(Refusal::PathNotFound),
    }
}

fn metrics_of_stream(
    head: RequestHead<'_>,
    rest: &str,
    caller: Caller,
    settings: &Settings,
) -> Result<AdminRoute, Refusal> {
    let (id, word) = rest.rsplit_once('/').ok_or(Refusal::PathNotFound)?;
    let is_known = matches!(word, "throughput" | "subscribers");
    if !is_known || id.is_empty() {
        return Err(Refusal::PathNotFound);
    }
    allow(head, "GET")?;
    let name = stream_name(id, settings)?;
    let mut parameters = Parameters::read(head.target)?;
    let call = if word == "throughput" {
        let has_more = is_platform(caller) && settings.analytics.is_some();
        let most = if has_more {
            ANALYTICS_MINUTES_MAX
        } else {
            MINUTES_MAX
        };
        let minutes = parameters.number("minutes", 1..=most)?;
        let minutes = minutes.unwrap_or(MINUTES_MAX);
        if minutes > MINUTES_MAX {
            parameters.finish()?;
            return ask(Counts::Throughput { name, minutes }, settings);
        }
        AdminCall::Throughput { minutes }
    } else {
        AdminCall::Subscribers
    };
    parameters.finish()?;
    Ok(to_object(name, call))
}

/// Returns a ratio with three decimals, as JSON. The code that prints fractions is large.
pub(crate) fn ratio(count: u64, period: u64) -> String {
    assert!(period > 0, "a period has a length");
    let thousandths = count % period * 1_000 / period;
    format!("{}.{thousandths:03}", count / period)
}

fn to_object(name: String, call: AdminCall) -> AdminRoute {
    AdminRoute::Stream(ToObject {
        name,
        method: request::INTERNAL_METHOD,
        closes: false,
        call_header: internal_headers::ADMIN_CALL,
        call: call.to_header(),
    })
}

fn allow(head: RequestHead<'_>, allow: &'static str) -> Result<(), Refusal> {
    if head.method == allow {
        Ok(())
    } else {
        Err(Refusal::MethodNotAllowed { allow })
    }
}

fn stream_name(id: &str, settings: &Settings) -> Result<String, Refusal> {
    if id.is_empty() {
        return Err(Refusal::PathNotFound);
    }
    let name = name::canonical(id, &settings.limits)?;
    if router::is_reserved(&name) {
        return Err(Refusal::Reserved);
    }
    Ok(name)
}

#[cfg(test)]
mod tests;
