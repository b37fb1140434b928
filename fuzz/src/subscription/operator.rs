//! An operator who looks at subscriptions through the admin API, and retries deliveries.

use std::collections::BTreeSet;

use bytes::Bytes;
use machine::admin::{self, AdminRoute, Caller, SubscriptionListing, ToObject};
use machine::router::name;
use machine::wire::request::RequestHead;
use machine::{AlarmChange, Answer, CallId, CallOutcome, Effect, Input, outbox};
use serde_json::Value;

use super::judge::{SUBSCRIPTIONS, Seen, check_detail};
use super::server::{Server, body_of};
use crate::request::wire::Request;

/// Streams on a page, so that most details have several.
const PAGE_STREAMS: usize = 2;

impl Server {
    /// Looks at all subscriptions, and at the list of them. Nothing changes by that. `is_quiet`
    /// says whether the directory must know what there is.
    pub(super) fn look_around(&self, is_quiet: bool) {
        let mut live = BTreeSet::new();
        for name in self.names() {
            let Some(id) = name.strip_prefix(SUBSCRIPTIONS) else {
                continue;
            };
            let Some(seen) = self.seen(&name).filter(Seen::is_live) else {
                let missing = self.ask("GET", &format!("/subscriptions/{id}"));
                assert_eq!(missing.status, 404, "{name} is gone");
                continue;
            };
            live.insert(id.to_owned());
            let mut streams = Vec::new();
            let mut query = format!("?limit={PAGE_STREAMS}");
            loop {
                let answer = self.ask("GET", &format!("/subscriptions/{id}{query}"));
                assert_eq!(answer.status, 200, "{name} is there");
                self.assert_no_secret(&body_of(&answer));
                let page = json(&answer);
                check_detail(&page, id, &seen);
                let told = page["streams"].as_array().expect("there are streams");
                assert!(told.len() <= PAGE_STREAMS);
                streams.extend(told.iter().cloned());
                let Some(next) = page["nextCursor"].as_str() else {
                    break;
                };
                query = format!("?limit={PAGE_STREAMS}&cursor={}", encoded(next));
            }
            seen.check_streams(&streams);
        }
        self.look_at_sessions();
        let listed = self.listed();
        assert!(
            !is_quiet || live.is_subset(&listed),
            "the list has what there is: {listed:?} and {live:?}"
        );
    }

    /// Looks at all sessions.
    fn look_at_sessions(&self) {
        for object in self.names() {
            let Some((_, id)) = object.split_once('/').filter(|_| name::is_session(&object)) else {
                continue;
            };
            let mut found = Vec::new();
            let mut query = format!("?limit={PAGE_STREAMS}");
            loop {
                let answer = self.ask("GET", &format!("/sessions/{id}{query}"));
                if answer.status != 200 {
                    assert!(matches!(answer.status, 404 | 410), "{object}: {answer:?}");
                    break;
                }
                let page = json(&answer);
                assert_eq!(page["sessionId"], *id);
                let streams = page["subscribedStreams"].as_array().expect("a list");
                found.extend(streams.iter().map(|stream| stream["streamId"].to_string()));
                let Some(next) = page["nextCursor"].as_str() else {
                    assert_eq!(page["subscriptionCount"], found.len());
                    break;
                };
                query = format!("?limit={PAGE_STREAMS}&cursor={}", encoded(next));
            }
            assert!(found.is_sorted_by(|one, other| one < other), "{found:?}");
        }
    }

    /// Returns the ids of all pages of the list.
    fn listed(&self) -> BTreeSet<String> {
        let mut found: Vec<String> = Vec::new();
        let mut query = "?limit=3".to_owned();
        loop {
            let Some(AdminRoute::ListSubscriptions(listing)) =
                self.route("GET", &format!("/subscriptions{query}"))
            else {
                panic!("{query} is a page of the list");
            };
            let page = json(&self.page(&listing));
            let entries = page["subscriptions"].as_array().expect("it is a list");
            let ids = entries.iter().map(|entry| entry["subscriptionId"].as_str());
            found.extend(ids.map(|id| id.expect("an entry has an id").to_owned()));
            let Some(next) = page["nextCursor"].as_str() else {
                break;
            };
            query = format!("?limit=3&cursor={}", encoded(next));
        }
        assert!(
            found.is_sorted_by(|one, other| one < other),
            "the list is in order, and has each subscription once: {found:?}"
        );
        found.into_iter().collect()
    }

    fn page(&self, listing: &SubscriptionListing) -> Answer {
        let outcomes = listing.questions().map(|(to, question)| {
            let request = Request {
                method: question.method,
                url: outbox::url(&to),
                headers: question.headers,
                body: Bytes::new(),
            };
            let answer = self.look(&to, &request);
            CallOutcome::Answered {
                status: answer.status,
                body: body_of(&answer).into(),
            }
        });
        listing.answer(&outcomes.collect::<Vec<_>>(), &self.settings.limits)
    }

    /// Makes the next attempt of a subscription due.
    pub(super) fn retry(&mut self, number: usize) {
        let names = self.names();
        let ids = names
            .iter()
            .filter_map(|name| name.strip_prefix(SUBSCRIPTIONS));
        let ids: Vec<_> = ids.collect();
        let Some(id) = number.checked_rem(ids.len()).map(|at| ids[at]) else {
            return;
        };
        let route = self.route("POST", &format!("/subscriptions/{id}/retry"));
        let Some(AdminRoute::Stream(to)) = route else {
            panic!("{id} can be retried");
        };
        let request = request_to(&to);
        self.hand_over_from_router(to.name, request);
    }

    /// Asks something about a subscription, of an instance that nobody hears of afterwards.
    fn ask(&self, method: &str, path: &str) -> Answer {
        match self.route(method, path) {
            Some(AdminRoute::Stream(to)) => self.look(&to.name, &request_to(&to)),
            other => panic!("{path} goes to a subscription, and not to {other:?}"),
        }
    }

    fn look(&self, name: &str, request: &Request) -> Answer {
        let call = request.parse(&self.settings.limits);
        let call = call.expect("the router sends valid requests");
        let input = Input::Call {
            id: CallId(0),
            call,
        };
        assert!(input.only_reads(), "{input:?} changes something");
        let turn = self.glance(name, input);
        assert!(turn.writes.is_empty(), "looking writes nothing");
        assert_eq!(turn.alarm, AlarmChange::Keep, "looking moves no alarm");
        let [Effect::Answer { answer, .. }] = turn.after_commit.as_slice() else {
            panic!("looking begins nothing: {:?}", turn.after_commit);
        };
        answer.clone()
    }

    fn route(&self, method: &str, path: &str) -> Option<AdminRoute> {
        let header = |_: &str| None;
        let target = format!("/admin/api{path}");
        let head = RequestHead {
            method,
            origin: "https://host",
            target: &target,
            header: &header,
        };
        admin::route(head, Caller::Admitted, &self.settings)
    }
}

fn request_to(to: &ToObject) -> Request {
    let headers = to.replaced_names().filter_map(|name| {
        let value = to.replaced(name)??;
        Some((name.to_owned(), value.to_owned()))
    });
    Request {
        method: to.method.to_owned(),
        url: format!("https://host{}", to.target()),
        headers: headers.collect(),
        body: Bytes::new(),
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&body_of(answer)).expect("the answer is JSON")
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
