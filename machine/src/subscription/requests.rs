//! What clients ask of a subscription (protocol 6.2 to 6.4, 7.1 to 7.3).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::glob::Glob;
use super::wake::offset_text;
use super::{
    Asked, Config, Delivery, Head, LinkingAnswer, LinkingCall, Retry, Round, Secret, Stage,
    Subscription, token, webhook_url,
};
use crate::control::{Step, control_request, json_answer, link_request};
use crate::router::name;
use crate::rows::Incarnation;
use crate::storage::StorageError;
use crate::wire::control::{
    Action, DIRECTORY_SHARDS, DirectoryCall, SubscriptionCall, directory_object, directory_shard,
};
use crate::{Answer, CallId, Limits, Millis, Offset, Refusal};

const NOT_FOUND: Refusal = Refusal::SubscriptionNotFound;
const NO_URL: Refusal = Refusal::InvalidRequest("webhook.url is required");
const NOT_LINKED: Refusal = Refusal::InvalidOffset("an ack names a stream that is not linked");
/// Each wake would make the next one.
const FOLLOWS_ITSELF: Refusal =
    Refusal::InvalidRequest("a subscription cannot follow its own wake_stream");
const NO_WAKE_STREAM: Refusal = Refusal::InvalidRequest("wake_stream is required");

/// The body of a creation (protocol 6.2).
#[derive(Deserialize)]
struct CreateBody {
    r#type: String,
    pattern: Option<String>,
    streams: Option<Vec<String>>,
    webhook: Option<WebhookBody>,
    wake_stream: Option<String>,
    lease_ttl_ms: Option<u64>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct WebhookBody {
    url: String,
}

#[derive(Deserialize)]
struct StreamsBody {
    streams: Vec<String>,
}

/// The body of a callback, an ack or a release.
#[derive(Deserialize)]
struct WakeBody {
    wake_id: String,
    generation: u64,
    #[serde(default)]
    acks: Option<Vec<Ack>>,
    #[serde(default)]
    done: Option<bool>,
}

#[derive(Deserialize)]
struct Ack {
    #[serde(alias = "path")]
    stream: String,
    offset: String,
}

#[derive(Deserialize)]
struct ClaimBody {
    worker: String,
}

#[derive(Serialize)]
struct Acknowledged {
    ok: bool,
    next_wake: bool,
}

#[derive(Serialize)]
struct Claimed<'a> {
    wake_id: &'a str,
    generation: u64,
    token: String,
    streams: Vec<super::wake::OfferedStream<'a>>,
    lease_ttl_ms: u64,
}

/// A subscription as clients see it (protocol 6.3).
#[derive(Serialize)]
pub(super) struct Description<'a> {
    id: &'a str,
    subscription_id: &'a str,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a str>,
    streams: Vec<DescribedStream<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<DescribedWebhook<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wake_stream: Option<&'a str>,
    lease_ttl_ms: u64,
    created_at: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
}

#[derive(Serialize)]
struct DescribedStream<'a> {
    path: &'a str,
    link_type: &'static str,
    acked_offset: String,
}

#[derive(Serialize)]
struct DescribedWebhook<'a> {
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signing: Option<Signing>,
}

#[derive(Serialize)]
struct Signing {
    alg: &'static str,
    kid: String,
    jwks_url: String,
}

/// How a request goes on.
enum Outcome {
    Answer(Answer),
    /// Once these streams have said their tails.
    Asks(BTreeSet<String>),
}

/// Why a request ends early.
enum ActError {
    Refused(Refusal),
    StorageError(StorageError),
}

impl From<Refusal> for ActError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StorageError> for ActError {
    fn from(unreadable: StorageError) -> Self {
        Self::StorageError(unreadable)
    }
}

fn invalid(reason: &'static str) -> Refusal {
    Refusal::InvalidRequest(reason)
}

/// Returns a time as ISO 8601 writes it, with milliseconds.
fn iso_8601(at: Millis) -> String {
    let seconds = i64::try_from(at.0 / 1_000).expect("a time in milliseconds has few seconds");
    let time = time::OffsetDateTime::from_unix_timestamp(seconds);
    let time = time.expect("the clock is before the year 10000");
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    let rest = at.0 % 1_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:03}Z")
}

fn json<T: for<'a> Deserialize<'a>>(body: &[u8], reason: &'static str) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|_| invalid(reason))
}

/// Returns the canonical name of a path below the root of streams.
fn stream_name(path: &str, limits: &Limits) -> Result<String, Refusal> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Err(invalid("the path of a stream is empty"));
    }
    let name = name::canonical(path, limits)
        .map_err(|_| invalid("the path of a stream is not that of a stream"))?;
    if name.split('/').next() == Some(name::CONTROL_PREFIX) {
        return Err(invalid("paths below __ds are no streams"));
    }
    Ok(name)
}

impl CreateBody {
    fn config(self, limits: &Limits) -> Result<Config, Refusal> {
        let pattern = self.pattern.filter(|pattern| !pattern.is_empty());
        if let Some(pattern) = &pattern {
            Glob::parse(pattern, limits).map_err(invalid)?;
        }
        let streams = self.streams.unwrap_or_default();
        if streams.len() as u64 > limits.subscription_links_max {
            return Err(invalid("streams has too many entries"));
        }
        let streams: Result<BTreeSet<_>, _> = streams
            .iter()
            .map(|stream| stream_name(stream, limits))
            .collect();
        let streams: Vec<_> = streams?.into_iter().collect();
        let names_bytes: u64 = streams.iter().map(|name| name.len() as u64).sum();
        if names_bytes > limits.subscription_names_bytes_max {
            return Err(invalid("the names of streams are too long together"));
        }
        if pattern.is_none() && streams.is_empty() {
            return Err(invalid("pattern or streams is required"));
        }
        let lease_ttl_ms = self.lease_ttl_ms.unwrap_or(limits.lease_ms_default);
        if !(limits.lease_ms_min..=limits.lease_ms_max).contains(&lease_ttl_ms) {
            return Err(invalid("lease_ttl_ms is not from 1000 to 600000"));
        }
        let is_long = |text: &String| text.len() as u64 > limits.description_bytes_max;
        if self.description.as_ref().is_some_and(is_long) {
            return Err(invalid("description is too long"));
        }
        let delivery = match self.r#type.as_str() {
            "webhook" => {
                let webhook = self.webhook.ok_or(NO_URL)?;
                Delivery::Webhook { url: webhook.url }
            }
            "pull-wake" => {
                let stream = self.wake_stream.ok_or(NO_WAKE_STREAM)?;
                let wake_stream = stream_name(&stream, limits)?;
                if name::is_internal(&wake_stream) {
                    return Err(invalid("wake_stream is written by the server alone"));
                }
                if streams.contains(&wake_stream) {
                    return Err(FOLLOWS_ITSELF);
                }
                Delivery::PullWake { wake_stream }
            }
            _ => return Err(invalid("type is neither webhook nor pull-wake")),
        };
        Ok(Config {
            delivery,
            pattern,
            streams,
            lease_ttl_ms,
            description: self.description,
        })
    }
}

impl Head {
    pub(super) fn glob(&self, limits: &Limits) -> Option<Glob> {
        let pattern = self.canonical_pattern()?;
        let glob = Glob::parse(&pattern, limits);
        Some(glob.expect("the pattern was checked at creation"))
    }

    /// Returns the pattern with characters beyond ASCII encoded.
    pub(super) fn canonical_pattern(&self) -> Option<String> {
        self.config.pattern.as_deref().map(Glob::ascii)
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.config.delivery {
            Delivery::Webhook { .. } => "webhook",
            Delivery::PullWake { .. } => "pull-wake",
        }
    }

    pub(super) fn status(&self) -> &'static str {
        if self.retry.failures > 0 {
            "failed"
        } else {
            "active"
        }
    }

    /// Returns the shards of the directory that know the subscription.
    fn shards(&self, limits: &Limits) -> BTreeSet<u64> {
        let own = directory_shard(&self.name);
        let patterns = self.glob(limits).map(|glob| match glob.first_literal() {
            Some(first) => {
                let shard = directory_shard(first);
                shard..=shard
            }
            None => 0..=DIRECTORY_SHARDS - 1,
        });
        // One shard lists the subscription even if it has no pattern.
        patterns.into_iter().flatten().chain([own]).collect()
    }
}

impl Subscription {
    /// Handles a client's request.
    pub(crate) fn call(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        call: SubscriptionCall,
    ) -> Result<(), StorageError> {
        self.act(step, id, call, Asked::default())
    }

    /// Handles a request, for which some streams may have been asked.
    pub(super) fn act(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        call: SubscriptionCall,
        asked: Asked,
    ) -> Result<(), StorageError> {
        if self.is_ready() {
            // The alarm for it may come later.
            self.end_overdue_lease(step)?;
        }
        let done = match &call.action {
            Action::Create => self.create(step, id, &call),
            Action::Describe => self.describe().map(Some).map_err(ActError::from),
            Action::Delete => self.delete(step).map(Some).map_err(ActError::from),
            Action::AddStreams => self.add_streams(step, id, &call),
            Action::RemoveStream(path) => self.remove_stream(step, path).map(Some),
            Action::Callback | Action::Claim | Action::Ack | Action::Release => {
                match self.work(step, &call, &asked) {
                    Ok(Outcome::Answer(answer)) => Ok(Some(answer)),
                    Ok(Outcome::Asks(streams)) => {
                        if call.action == Action::Claim {
                            self.ask_for_claim(step, (id, call), streams);
                        } else {
                            self.ask(step, (id, call), asked, streams);
                        }
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match done {
            Ok(Some(answer)) => step.answer(id, answer),
            Ok(None) => {}
            Err(ActError::Refused(refusal)) => step.refuse(id, &refusal),
            Err(ActError::StorageError(unreadable)) => return Err(unreadable),
        }
        Ok(())
    }

    fn create(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        call: &SubscriptionCall,
    ) -> Result<Option<Answer>, ActError> {
        let body: CreateBody = json(&call.body, "the body is not a subscription")?;
        let config = body.config(step.limits)?;
        if let Some(head) = self.live() {
            if head.config != config {
                return Err(Refusal::SubscriptionExists.into());
            }
            // `PUBLIC_URL` may have been set or changed since the creation.
            if call.base.is_some() && head.base != call.base {
                let head = self.live_mut().expect("the subscription is there");
                head.base.clone_from(&call.base);
            }
            if self.is_ready() {
                return Ok(Some(json_answer(200, &self.description())));
            }
            self.wait_for_links(step, id, LinkingAnswer::Described(200));
            return Ok(None);
        }
        if let Delivery::Webhook { url } = &config.delivery {
            let base = call.base.as_deref().ok_or(Refusal::NotConfigured(
                "webhooks need PUBLIC_URL, because the callback URL begins with it",
            ))?;
            webhook_url::check(url, webhook_url::host_of(base), step.limits)
                .map_err(|error| Refusal::WebhookUrl(error.to_string()))?;
        }
        let secret = (step.entropy)();
        let incarnation =
            u64::from_le_bytes(secret[..8].try_into().expect("eight bytes are eight bytes"));
        let streams = config.streams.clone();
        let mut head = Head {
            name: call.name.clone(),
            id: call.id.clone(),
            // Hashed, because the incarnation is no secret.
            incarnation: Incarnation(crate::wire::cursor::splitmix64(
                incarnation ^ step.instance_seed,
            )),
            config,
            base: call.base.clone(),
            created_at: step.now,
            predecessors: self.head.as_ref().map_or(0, |head| head.predecessors + 1),
            secret: Secret((step.entropy)()),
            generation: self.head.as_ref().map_or(0, |head| head.generation),
            stage: Stage::Ready,
            wake: None,
            retry: Retry::default(),
            kid: self.key.known.as_ref().map(|(key, _)| key.kid().to_owned()),
        };
        let shards = head.shards(step.limits);
        head.stage = Stage::Creating {
            shards: shards.clone(),
        };
        self.head = Some(head);
        self.changed.head = true;
        for stream in &streams {
            self.link(step, stream, false)?;
        }
        for shard in shards {
            let call = DirectoryCall::Add {
                subscription: self.interest(),
                after: None,
            };
            step.task(directory_object(shard), control_request(&call))?;
        }
        self.wait_for_links(step, id, LinkingAnswer::Described(201));
        Ok(None)
    }

    fn wait_for_links(&mut self, step: &Step<'_>, id: CallId, answer: LinkingAnswer) {
        let due_at = step.now.plus(step.limits.reply_timeout_ms);
        self.linking_calls.push(LinkingCall {
            id,
            answer,
            is_refused: false,
            due_at,
        });
    }

    fn describe(&self) -> Result<Answer, Refusal> {
        self.live().ok_or(NOT_FOUND)?;
        Ok(json_answer(200, &self.description()))
    }

    /// Describes a subscription that is there.
    pub(super) fn description(&self) -> Description<'_> {
        let head = self.live().expect("what is described is there");
        let streams = self.links.iter().map(|(stream, link)| DescribedStream {
            path: stream,
            link_type: link.kind(),
            acked_offset: offset_text(link.acked),
        });
        let webhook = head.webhook().map(|url| DescribedWebhook {
            url,
            signing: head.kid.as_ref().map(|kid| Signing {
                alg: "ed25519",
                kid: kid.clone(),
                jwks_url: head.public_keys_url(),
            }),
        });
        Description {
            id: &head.id,
            subscription_id: &head.id,
            r#type: head.kind(),
            pattern: head.config.pattern.as_deref(),
            streams: streams.collect(),
            webhook,
            wake_stream: head.wake_stream(),
            lease_ttl_ms: head.config.lease_ttl_ms,
            created_at: iso_8601(head.created_at),
            status: head.status(),
            description: head.config.description.as_deref(),
        }
    }

    pub(super) fn delete(&mut self, step: &mut Step<'_>) -> Result<Answer, StorageError> {
        let Some(head) = self.live() else {
            return Ok(Answer::uncached(204));
        };
        let shards = head.shards(step.limits);
        let call = DirectoryCall::Remove {
            subscription: head.name.clone(),
            incarnation: head.incarnation,
        };
        for shard in shards {
            step.task(directory_object(shard), control_request(&call))?;
        }
        let streams: Vec<_> = self.links.keys().cloned().collect();
        for stream in streams {
            self.unlink(step, &stream, false)?;
        }
        let head = self.live_mut().expect("the subscription is there");
        head.wake = None;
        head.stage = Stage::Deleted { at: step.now };
        self.attempt = None;
        self.asks.clear();
        self.event = None;
        let rounds = core::mem::take(&mut self.rounds);
        let asking = rounds.into_iter().flat_map(|round| round.calls);
        for (id, _) in asking.chain(core::mem::take(&mut self.next_claims)) {
            step.refuse(id, &NOT_FOUND);
        }
        Ok(Answer::uncached(204))
    }

    fn add_streams(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        call: &SubscriptionCall,
    ) -> Result<Option<Answer>, ActError> {
        let head = self.live().ok_or(NOT_FOUND)?;
        let wake_stream = head.wake_stream().map(str::to_owned);
        let body: StreamsBody = json(&call.body, "the body has no list of streams")?;
        let streams: Result<BTreeSet<_>, _> = body
            .streams
            .iter()
            .map(|stream| stream_name(stream, step.limits))
            .collect();
        let streams = streams?;
        if wake_stream.is_some_and(|wake_stream| streams.contains(&wake_stream)) {
            return Err(FOLLOWS_ITSELF.into());
        }
        let added = streams
            .iter()
            .filter(|stream| !self.links.contains_key(*stream));
        let links = self.links.len() as u64 + added.count() as u64;
        if links > step.limits.subscription_links_max {
            return Err(invalid("the subscription has too many streams").into());
        }
        for stream in &streams {
            self.link(step, stream, false)?;
        }
        if !self.is_linking() {
            return Ok(Some(Answer::uncached(204)));
        }
        self.wait_for_links(step, id, LinkingAnswer::Added(streams));
        Ok(None)
    }

    fn remove_stream(&mut self, step: &mut Step<'_>, path: &str) -> Result<Answer, ActError> {
        self.live().ok_or(NOT_FOUND)?;
        let limits = step.limits;
        // A slash of the path may be encoded, so that the path is one segment of the URL.
        let decoded = path.replace("%2F", "/").replace("%2f", "/");
        let names = [stream_name(path, limits)?, stream_name(&decoded, limits)?];
        let linked = names.iter().find(|name| self.links.contains_key(*name));
        let Some(stream) = linked else {
            return Ok(Answer::uncached(204));
        };
        let link = self.links.get(stream).expect("the link was found");
        let is_there = link.is_linking || link.is_asked || link.incarnation.is_some();
        let is_matched = self.matches(step, stream);
        if is_there && is_matched {
            let link = self.link_mut(stream).expect("the link was found");
            (link.is_explicit, link.is_by_pattern) = (false, true);
        } else {
            self.unlink(step, stream, is_matched)?;
        }
        Ok(Answer::uncached(204))
    }

    /// Asks streams for their tails before a request goes on.
    fn ask(
        &mut self,
        step: &mut Step<'_>,
        call: (CallId, SubscriptionCall),
        mut asked: Asked,
        streams: BTreeSet<String>,
    ) {
        let mut asks = BTreeSet::new();
        for stream in streams {
            self.note_question(&stream);
            let effect = step.call(stream.clone(), link_request(&self.ask_call()));
            self.asks.insert(effect, stream.clone());
            asks.insert(effect);
            asked.streams.insert(stream);
        }
        let due_at = step.now.plus(step.limits.ask_time_ms);
        self.rounds.push(Round {
            calls: vec![call],
            asks,
            asked,
            due_at,
            is_new: true,
        });
    }

    /// Asks streams for their tails before a claim goes on. Many claims share a round, because each
    /// may come from a worker that polls.
    fn ask_for_claim(
        &mut self,
        step: &mut Step<'_>,
        claim: (CallId, SubscriptionCall),
        streams: BTreeSet<String>,
    ) {
        match self.rounds.iter_mut().find(|round| round.is_of_claims()) {
            Some(round) if round.is_new => round.calls.push(claim),
            // The answers of that round may be older than the claim.
            Some(_) => self.next_claims.push(claim),
            None => self.ask(step, claim, Asked::default(), streams),
        }
    }

    /// Handles the requests of receivers and workers. They are checked in the order of the
    /// reference.
    fn work(
        &mut self,
        step: &mut Step<'_>,
        call: &SubscriptionCall,
        asked: &Asked,
    ) -> Result<Outcome, ActError> {
        match call.action {
            Action::Claim => self.claim(step, call, asked),
            Action::Release => {
                self.admit(step, call, false)?;
                self.end_wake(step)?;
                self.wake_if_pending(step)?;
                Ok(Outcome::Answer(Answer::uncached(204)))
            }
            Action::Callback => self.acknowledge(step, call, true, asked),
            Action::Ack => self.acknowledge(step, call, false, asked),
            Action::Create
            | Action::Describe
            | Action::Delete
            | Action::AddStreams
            | Action::RemoveStream(_) => unreachable!("these are handled by `act`"),
        }
    }

    /// Checks that a request belongs to the wake that is in flight (protocol 7.3).
    fn admit(
        &self,
        step: &Step<'_>,
        call: &SubscriptionCall,
        is_webhook: bool,
    ) -> Result<WakeBody, Refusal> {
        let text = call.token.as_deref().ok_or(Refusal::TokenInvalid)?;
        let body: WakeBody = json(&call.body, "the body names no wake_id and generation")?;
        let head = self.live().ok_or(NOT_FOUND)?;
        if head.webhook().is_some() != is_webhook {
            return Err(invalid("the subscription is of the other type"));
        }
        let token = token::verify(&head.secret.0, text, &head.id, step.now);
        let generation = token.map_err(|error| match error {
            token::TokenError::Invalid => Refusal::TokenInvalid,
            token::TokenError::Expired => Refusal::TokenExpired,
        })?;
        let wake = head.wake.as_ref().ok_or(Refusal::Fenced)?;
        let is_leased = wake.leased_until.is_some_and(|until| step.now < until);
        let is_current = generation == head.generation
            && body.generation == head.generation
            && body.wake_id == wake.id;
        if is_leased && is_current {
            Ok(body)
        } else {
            Err(Refusal::Fenced)
        }
    }

    fn acknowledge(
        &mut self,
        step: &mut Step<'_>,
        call: &SubscriptionCall,
        is_webhook: bool,
        asked: &Asked,
    ) -> Result<Outcome, ActError> {
        let body = self.admit(step, call, is_webhook)?;
        let is_done = body.done == Some(true);
        let acks = body.acks.unwrap_or_default();
        let parsed: Result<Vec<_>, _> = acks
            .iter()
            .map(|ack| self.parse_ack(ack, step.limits))
            .collect();
        let acks = parsed?;
        let asks = self.asks_before(&acks, is_done, asked, step.limits);
        if !asks.is_empty() {
            // The lease must not end while the streams are asked.
            self.extend_lease(step.now.plus(step.limits.ask_time_ms));
            return Ok(Outcome::Asks(asks));
        }
        for (stream, offset) in &acks {
            let link = self.links.get(stream).expect("the acks were parsed");
            if link.acked > Some(*offset) {
                return Err(Refusal::InvalidOffset("an ack is behind the cursor").into());
            }
            if link.tail.is_none_or(|tail| *offset > tail) {
                // Without the answer of the stream it is not known whether the ack is wrong.
                return if asked.has_failed {
                    Ok(Outcome::Answer(Answer::unavailable(step.limits)))
                } else {
                    Err(Refusal::InvalidOffset("an ack is beyond the tail").into())
                };
            }
        }
        for (stream, offset) in acks {
            let link = self.link_mut(&stream).expect("the acks were parsed");
            link.acked = link.acked.max(Some(offset));
        }
        self.extend_lease(step.now);
        if is_webhook {
            self.taken_by_callback();
        }
        let mut next_wake = false;
        if is_done {
            self.end_wake(step)?;
            next_wake = self.wake_if_pending(step)?;
        }
        let acknowledged = Acknowledged {
            ok: true,
            next_wake,
        };
        Ok(Outcome::Answer(json_answer(200, &acknowledged)))
    }

    /// Begins the lease of a wake anew, because its holder has called.
    fn extend_lease(&mut self, from: Millis) {
        let head = self.live_mut().expect("the request was admitted");
        let leased_until = from.plus(head.config.lease_ttl_ms);
        let wake = head.wake.as_mut().expect("the request was admitted");
        wake.leased_until = Some(leased_until);
    }

    fn parse_ack(&self, ack: &Ack, limits: &Limits) -> Result<(String, Offset), Refusal> {
        let name = stream_name(&ack.stream, limits).map_err(|_| NOT_LINKED)?;
        if !self.links.contains_key(&name) {
            return Err(NOT_LINKED);
        }
        let offset = ack.offset.parse();
        let offset = offset.map_err(|_| Refusal::InvalidOffset("an ack has no valid offset"))?;
        Ok((name, offset))
    }

    /// Returns the streams that must be asked next: those that are acknowledged beyond the known
    /// tail, and at the end of a wake those that hold. Many acks take several rounds.
    fn asks_before(
        &self,
        acks: &[(String, Offset)],
        is_done: bool,
        asked: &Asked,
        limits: &Limits,
    ) -> BTreeSet<String> {
        if asked.has_failed {
            return BTreeSet::new();
        }
        let is_beyond = |(stream, offset): &&(String, Offset)| {
            let link = self.links.get(stream).expect("the acks were parsed");
            link.tail.is_none_or(|tail| *offset > tail)
        };
        let beyond = acks.iter().filter(is_beyond).map(|(stream, _)| stream);
        let beyond = beyond.filter(|stream| !asked.streams.contains(*stream));
        let is_first = asked.streams.is_empty();
        let held = self
            .links
            .iter()
            .filter(|(_, link)| is_first && is_done && link.is_held);
        let held = held.map(|(stream, _)| stream).zip(0..limits.asks_max);
        let asks = beyond.zip(0..limits.asks_max).chain(held);
        asks.map(|(stream, _)| stream.clone()).collect()
    }

    fn claim(
        &mut self,
        step: &mut Step<'_>,
        call: &SubscriptionCall,
        asked: &Asked,
    ) -> Result<Outcome, ActError> {
        let body: ClaimBody = json(&call.body, "the body names no worker")?;
        if body.worker.is_empty() {
            return Err(invalid("the body names no worker").into());
        }
        if body.worker.len() as u64 > step.limits.worker_bytes_max {
            return Err(invalid("the name of the worker is too long").into());
        }
        let head = self.live().ok_or(NOT_FOUND)?;
        if head.webhook().is_some() {
            return Err(invalid("the subscription is of the other type").into());
        }
        if let Some(holder) = head.wake.as_ref().and_then(|wake| wake.holder.as_ref()) {
            return Err(Refusal::AlreadyClaimed {
                holder: holder.clone(),
                generation: head.generation,
            }
            .into());
        }
        if !self.is_ready() {
            return Ok(Outcome::Answer(Answer::unavailable(step.limits)));
        }
        if !self.is_pending() && asked.streams.is_empty() {
            let linked = self.links.keys().zip(0..step.limits.asks_max);
            let linked: BTreeSet<_> = linked.map(|(stream, _)| stream.clone()).collect();
            if !linked.is_empty() {
                return Ok(Outcome::Asks(linked));
            }
        }
        if !self.is_pending() && asked.has_failed {
            return Ok(Outcome::Answer(Answer::unavailable(step.limits)));
        }
        if !self.is_pending() {
            return Err(Refusal::NoPendingWork.into());
        }
        self.wake_if_pending(step)?;
        let head = self.live_mut().expect("the subscription is there");
        let leased_until = step.now.plus(head.config.lease_ttl_ms);
        let wake = head.wake.as_mut().expect("what is pending has a wake");
        wake.holder = Some(body.worker);
        wake.leased_until = Some(leased_until);
        let head = self.live().expect("the subscription is there");
        let wake = head.wake.as_ref().expect("what is pending has a wake");
        let claimed = Claimed {
            wake_id: &wake.id,
            generation: head.generation,
            token: head.token(step.now, &wake.id, step.limits),
            streams: self.offered_streams(step.limits),
            lease_ttl_ms: head.config.lease_ttl_ms,
        };
        Ok(Outcome::Answer(json_answer(200, &claimed)))
    }
}
