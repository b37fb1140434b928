//! What holds of subscriptions: in their rows, their answers and their webhooks.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use machine::{Answer, Body, Limits, MemoryRows, Millis, Offset, Webhook, Write};
use serde_json::Value;

use super::receiver;
use crate::request::stream::check_common;
use crate::request::wire::Request;

pub(super) const SUBSCRIPTIONS: &str = "__ds/subscriptions/";
const WAKES_KEPT: usize = 12;
const STATUSES: [u16; 15] = [
    200, 201, 204, 400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 501, 503,
];

/// A subscription as its rows have it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) incarnation: String,
    pub(super) generation: u64,
    pub(super) deleted_at: Option<Millis>,
    pub(super) is_ready: bool,
    pub(super) pattern: Option<String>,
    pub(super) wake_stream: Option<String>,
    base: Option<String>,
    pub(super) wake: Option<SeenWake>,
    pub(super) links: BTreeMap<String, SeenLink>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenWake {
    id: String,
    holder: Option<String>,
    leased_until: Option<Millis>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenLink {
    pub(super) is_explicit: bool,
    pub(super) is_linking: bool,
    pub(super) incarnation: Option<String>,
    pub(super) acked: Option<Offset>,
    pub(super) tail: Option<Offset>,
}

impl SeenLink {
    pub(super) fn place(&self) -> Offset {
        self.acked.unwrap_or(Offset::START)
    }

    fn is_pending(&self) -> bool {
        self.tail.is_some_and(|tail| tail > self.place())
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn offset(value: &Value) -> Option<Offset> {
    let text = value.as_str()?;
    Some(text.parse().expect("a stored offset is valid"))
}

impl Seen {
    /// Reads the rows of an object. `None` if it is no subscription.
    pub(super) fn read(rows: &MemoryRows) -> Option<Self> {
        let (_, head) = rows.control().find(|(key, _)| *key == "head")?;
        let head: Value = serde_json::from_str(head).expect("a row is JSON");
        let head = head.get("subscription")?.get("subscription")?;
        let config = &head["config"];
        let wake = &head["wake"];
        let links = rows.control().filter_map(|(key, row)| {
            let stream = key.strip_prefix("link/")?;
            let row: Value = serde_json::from_str(row).expect("a row is JSON");
            let link = SeenLink {
                is_explicit: row["is_explicit"].as_bool()?,
                is_linking: row["is_linking"].as_bool()?,
                incarnation: text(&row["incarnation"]),
                acked: offset(&row["acked"]),
                tail: offset(&row["tail"]),
            };
            Some((stream.to_owned(), link))
        });
        Some(Self {
            id: text(&head["id"])?,
            incarnation: text(&head["incarnation"])?,
            generation: head["generation"].as_u64()?,
            deleted_at: head["stage"]["deleted"]["at"].as_u64().map(Millis),
            is_ready: head["stage"] == "ready",
            pattern: text(&config["pattern"]),
            wake_stream: text(&config["delivery"]["pull-wake"]["wake_stream"]),
            base: text(&head["base"]),
            wake: text(&wake["id"]).map(|id| SeenWake {
                id,
                holder: text(&wake["holder"]),
                leased_until: wake["leased_until"].as_u64().map(Millis),
            }),
            links: links.collect(),
        })
    }

    /// Checks the streams in all pages of the detail.
    pub(super) fn check_streams(&self, told: &[Value]) {
        assert_eq!(told.len(), self.links.len());
        for (told, (stream, link)) in told.iter().zip(&self.links) {
            let kind = if link.is_explicit { "explicit" } else { "glob" };
            let acked = link.acked.map(|acked| acked.to_string());
            let tail = link.tail.map(|tail| tail.to_string());
            assert_eq!(told["streamId"], **stream);
            assert_eq!(told["linkType"], kind);
            assert_eq!(told["ackedOffset"], acked.as_deref().unwrap_or("-1"));
            assert_eq!(told["tailOffset"].as_str(), tail.as_deref());
            assert_eq!(told["pending"], link.is_pending());
            assert_eq!(told["linking"], link.is_linking);
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.deleted_at.is_none()
    }
}

/// Checks what a turn has made of a subscription.
pub(super) fn check_change(
    now: Millis,
    before: Option<&Seen>,
    after: Option<&Seen>,
    limits: &Limits,
) {
    if let Some(after) = after {
        for (stream, link) in &after.links {
            let is_within = link.tail.is_none_or(|tail| link.place() <= tail);
            assert!(is_within, "a cursor of {stream} is beyond the tail");
        }
        assert!(after.is_live() || after.wake.is_none() && after.links.is_empty());
    }
    let Some(before) = before else { return };
    let Some(after) = after else {
        let deleted_at = before
            .deleted_at
            .expect("only a deleted subscription is forgotten");
        assert!(
            deleted_at.plus(limits.token_ms) <= now,
            "it is forgotten too early"
        );
        return;
    };
    let id = |seen: &Seen| seen.wake.as_ref().map(|wake| wake.id.clone());
    match (id(before), id(after)) {
        (_, None) => assert_eq!(before.generation, after.generation),
        (Some(former), Some(present)) if former == present => {
            assert_eq!(before.generation, after.generation, "a wake has one number");
        }
        (_, Some(_)) => assert!(
            before.generation < after.generation,
            "a new wake has a higher number"
        ),
    }
    if before.incarnation != after.incarnation {
        assert!(!before.is_live(), "a subscription is replaced");
        return;
    }
    for (stream, link) in &after.links {
        let Some(former) = before.links.get(stream) else {
            continue;
        };
        if link.incarnation == former.incarnation {
            assert!(former.acked <= link.acked, "a cursor of {stream} goes back");
            assert!(former.tail <= link.tail, "a tail of {stream} goes back");
        }
    }
}

/// A wake that receivers or workers have heard of.
#[derive(Clone, Debug)]
pub(super) struct Wake {
    /// The id of the subscription, as in the name of its object.
    pub(super) subscription: String,
    pub(super) id: String,
    pub(super) generation: u64,
    pub(super) token: String,
    pub(super) is_webhook: bool,
    /// Streams and their tails.
    pub(super) streams: Vec<(String, String)>,
}

/// What is known of all subscriptions together.
#[derive(Default)]
pub(super) struct Judge {
    /// The last ones.
    pub(super) wakes: Vec<Wake>,
    /// Wakes that were handed to a worker: incarnation and generation.
    claimed: BTreeSet<(String, u64)>,
}

/// A client's request that was answered, and what it was answered in.
pub(super) struct Answered<'a> {
    pub(super) now: Millis,
    pub(super) to: &'a str,
    pub(super) request: &'a Request,
    pub(super) answer: &'a Answer,
    pub(super) body: &'a [u8],
    /// The rows before the turn.
    pub(super) before: Option<&'a Seen>,
    /// The rows after it.
    pub(super) after: Option<&'a Seen>,
    /// What the turn has written.
    pub(super) writes: &'a [Write],
    /// What it would have written without the request, if it has handled nothing else.
    pub(super) upkeep: Option<&'a [Write]>,
    pub(super) has_public_url: bool,
}

impl Judge {
    /// Checks the answer to a client.
    pub(super) fn answered(&mut self, answered: &Answered<'_>) {
        let Answered {
            request,
            answer,
            body,
            ..
        } = *answered;
        let status = answer.status;
        check_common(request, answer, body, true);
        if !answered.to.starts_with("__ds/") {
            return;
        }
        assert!(STATUSES.contains(&status), "{status} to {request:?}");
        if status >= 400 {
            check_refusal(answered);
            return;
        }
        let Some(subscription) = answered.to.strip_prefix(SUBSCRIPTIONS) else {
            if !body.is_empty() {
                let keys: Value = serde_json::from_slice(body).expect("keys are JSON");
                let keys = keys["keys"].as_array().expect("keys are a list");
                assert!(!keys.is_empty() && keys.iter().all(|key| key["d"].is_null()));
            }
            return;
        };
        let path = request.url.split(['?', '#']).next().unwrap_or_default();
        let action = path.rsplit('/').next().unwrap_or_default();
        match (&*request.method, action) {
            ("POST", "callback" | "ack" | "release") => self.check_work(answered),
            ("POST", "claim") => self.check_claim(subscription, answered),
            ("PUT" | "GET", _) => {
                let after = answered.after.expect("what is described is there");
                check_description(body, after);
            }
            _ => assert_eq!(status, 204),
        }
    }

    /// Checks that a request of a receiver or worker was right to be answered well.
    fn check_work(&self, answered: &Answered<'_>) {
        let request = answered.request;
        let before = answered.before.expect("the subscription is there");
        let wake = before.wake.as_ref().expect("a wake is in flight");
        let body: Value = serde_json::from_slice(&request.body).expect("the body is JSON");
        assert_eq!(body["wake_id"], *wake.id, "the wake is stale");
        assert_eq!(
            body["generation"], before.generation,
            "the generation is stale"
        );
        assert!(
            wake.leased_until.is_some_and(|until| answered.now < until),
            "the lease has ended"
        );
        let bearer = request.header("Authorization").expect("there is a token");
        let token = bearer.split_once(' ').map_or("", |(_, token)| token.trim());
        let is_it = |known: &&Wake| known.token == token;
        if let Some(known) = self.wakes.iter().find(is_it) {
            assert_eq!((&known.id, known.generation), (&wake.id, before.generation));
        }
        check_token(token, before, &wake.id);
        if answered.answer.status == 200 {
            let answer: Value = serde_json::from_slice(answered.body).expect("it is JSON");
            let after = answered.after.expect("the subscription is there");
            let has_next = before.generation < after.generation && after.wake.is_some();
            assert_eq!(answer["ok"], true);
            assert_eq!(answer["next_wake"], has_next);
            assert_eq!(answer.as_object().map(serde_json::Map::len), Some(2));
        }
    }

    fn check_claim(&mut self, subscription: &str, answered: &Answered<'_>) {
        let before = answered.before.expect("the subscription is there");
        let after = answered.after.expect("the subscription is there");
        let claim: Value = serde_json::from_slice(answered.body).expect("a claim is JSON");
        let wake = after.wake.as_ref().expect("a claimed wake is in flight");
        assert_eq!(claim["wake_id"], *wake.id);
        assert_eq!(claim["generation"], after.generation);
        let until = wake.leased_until.expect("a claimed wake has a lease");
        assert!(answered.now < until && wake.holder.is_some());
        let is_busy = |wake: &SeenWake| {
            wake.holder.is_some() && wake.leased_until.is_some_and(|until| answered.now < until)
        };
        assert!(
            !before.wake.as_ref().is_some_and(is_busy),
            "it was claimed before"
        );
        let number = (after.incarnation.clone(), after.generation);
        assert!(self.claimed.insert(number), "two workers hold one wake");
        let token = claim["token"].as_str().expect("a claim has a token");
        check_token(token, after, &wake.id);
        self.note(subscription, &claim, token, false);
    }

    /// Checks a webhook that leaves. `base` is a URL of the server.
    pub(super) fn sent(
        &mut self,
        now: Millis,
        to: &str,
        webhook: &Webhook,
        seen: &Seen,
        limits: &Limits,
    ) {
        let url = &webhook.url;
        let base = seen
            .base
            .as_deref()
            .expect("receivers are told where to call back");
        let is_admitted = receiver::is_admitted(url, base, limits.webhook_loopback);
        assert!(is_admitted, "a webhook goes to {url}");
        assert!(webhook.time_ms <= limits.webhook_time_ms);
        assert!(seen.is_live() && seen.is_ready, "nobody wants this webhook");
        let body: Value = serde_json::from_str(&webhook.body).expect("a webhook is JSON");
        let wake = seen.wake.as_ref().expect("a webhook tells of a wake");
        assert_eq!(body["wake_id"], *wake.id);
        assert_eq!(body["generation"], seen.generation);
        assert_eq!(body["subscription_id"], *seen.id);
        let subscription = to
            .strip_prefix(SUBSCRIPTIONS)
            .expect("only they send webhooks");
        let callback = format!("{base}/v1/stream/{to}/callback");
        assert_eq!(body["callback_url"], callback);
        let token = body["callback_token"]
            .as_str()
            .expect("a webhook has a token");
        check_token(token, seen, &wake.id);
        let header = |name: &str| {
            let mut headers = webhook.headers.iter();
            headers
                .find(|(each, _)| *each == name)
                .map(|(_, value)| value.as_str())
        };
        assert_eq!(header("Content-Type"), Some("application/json"));
        let signature = header("Webhook-Signature").expect("a webhook is signed");
        let rest = signature.strip_prefix(&format!("t={},kid=ds_", now.0 / 1_000));
        let signed = rest.and_then(|rest| rest.split_once(",ed25519="));
        let (_, signed) = signed.expect("a signature has time, key and code");
        let signed = BASE64_URL_SAFE_NO_PAD
            .decode(signed)
            .expect("a signature is base64url");
        assert_eq!(signed.len(), 64);
        self.note(subscription, &body, token, true);
    }

    fn note(&mut self, subscription: &str, told: &Value, token: &str, is_webhook: bool) {
        let streams = told["streams"]
            .as_array()
            .expect("a wake has streams")
            .iter();
        let streams = streams.map(|state| {
            let member = |name: &str| state[name].as_str().expect("it is a text").to_owned();
            let (acked, tail) = (member("acked_offset"), member("tail_offset"));
            let is_pending = acked < tail && tail != Offset::START.to_string();
            assert_eq!(state["has_pending"], is_pending, "{state}");
            (member("path"), tail)
        });
        let wake = Wake {
            subscription: subscription.to_owned(),
            id: told["wake_id"]
                .as_str()
                .expect("a wake has an id")
                .to_owned(),
            generation: told["generation"].as_u64().expect("a wake has a number"),
            token: token.to_owned(),
            is_webhook,
            streams: streams.collect(),
        };
        if self.wakes.len() == WAKES_KEPT {
            self.wakes.remove(0);
        }
        self.wakes.push(wake);
    }
}

fn check_refusal(answered: &Answered<'_>) {
    let Answered {
        request, answer, ..
    } = *answered;
    if let Some(upkeep) = answered.upkeep {
        assert_eq!(answered.writes, upkeep, "{} to {request:?}", answer.status);
    }
    if answer.status == 503 {
        let Body::Bytes(error) = &answer.body else {
            panic!("503 has no reason")
        };
        let error: Value = serde_json::from_slice(error).expect("an error is JSON");
        let code = error["error"]["code"].as_str();
        assert!(
            code == Some("unavailable")
                || code == Some("not_configured") && !answered.has_public_url,
            "{error}"
        );
    }
}

fn check_description(body: &[u8], seen: &Seen) {
    let told: Value = serde_json::from_slice(body).expect("a subscription is JSON");
    assert_eq!(told["id"], *seen.id);
    assert_eq!(told["subscription_id"], *seen.id);
    assert!(told["webhook_secret"].is_null());
    let streams = told["streams"]
        .as_array()
        .expect("a subscription has streams");
    assert_eq!(streams.len(), seen.links.len());
    for (state, (stream, link)) in streams.iter().zip(&seen.links) {
        let acked = link
            .acked
            .map_or_else(|| "-1".to_owned(), |acked| acked.to_string());
        assert_eq!(state["path"], **stream);
        assert_eq!(state["acked_offset"], acked);
        let kind = if link.is_explicit { "explicit" } else { "glob" };
        assert_eq!(state["link_type"], kind);
    }
    assert!(matches!(told["status"].as_str(), Some("active" | "failed")));
}

/// Checks a detail of the admin API, except for its streams. `id` is the one in canonical spelling.
pub(super) fn check_detail(told: &Value, id: &str, seen: &Seen) {
    assert_eq!(told["subscriptionId"], id);
    assert_eq!(told["incarnation"], *seen.incarnation);
    assert_eq!(told["generation"], seen.generation);
    assert_eq!(told["pattern"].as_str(), seen.pattern.as_deref());
    assert_eq!(told["wakeStream"].as_str(), seen.wake_stream.as_deref());
    assert_eq!(told["webhookUrl"].is_null(), told["type"] != "webhook");
    assert_eq!(told["wakeStream"].is_null(), told["type"] != "pull-wake");
    let wake = seen.wake.as_ref();
    let holder = wake.and_then(|wake| wake.holder.as_deref());
    let leased_until = wake.and_then(|wake| wake.leased_until);
    assert_eq!(told["worker"].as_str(), holder);
    assert_eq!(told["leaseEndsAt"].as_u64(), leased_until.map(|at| at.0));
    let state = told["state"].as_str().expect("it has a state");
    let is_right = match (seen.is_ready, wake) {
        (false, _) => state == "creating",
        (true, None) => state == "idle",
        (true, Some(_)) if holder.is_some() => state == "live",
        (true, Some(_)) => matches!(state, "waking" | "live"),
    };
    assert!(is_right, "{state} is not the state of {seen:?}");
    let has_failed = told["failures"].as_u64() > Some(0);
    assert_eq!(told["status"] == "failed", has_failed);
    let is_under_way = !told["attemptBeganAt"].is_null();
    assert!(!is_under_way || told["nextAttemptAt"].is_null());
    let pending = seen.links.values().filter(|link| link.is_pending());
    assert_eq!(told["streamCount"], seen.links.len());
    assert_eq!(told["pendingCount"], pending.count());
}

/// Checks that a token says what it is for.
fn check_token(token: &str, seen: &Seen, wake: &str) {
    let (payload, _) = token.split_once('.').expect("a token has two parts");
    let payload = BASE64_URL_SAFE_NO_PAD
        .decode(payload)
        .expect("a token is base64url");
    let claims: Value = serde_json::from_slice(&payload).expect("claims are JSON");
    assert_eq!(claims["sub"], format!("subscription:{}", seen.id));
    assert_eq!(claims["epoch"], seen.generation);
    assert_eq!(claims["jti"], *wake);
}
