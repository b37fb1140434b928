//! Wakes (protocol 7): when one begins and ends, its lease, and how its webhook is delivered.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Delivery, Head, Subscription, Wake, signing, token, webhook_url};
use crate::control::{Step, answered, call_of, control_request, to_json};
use crate::outbox::{Queue, Request, TaskKind};
use crate::router::STREAM_PREFIX;
use crate::rows::Incarnation;
use crate::storage::StorageError;
use crate::wire::control::{KEYS, LinkCall, SigningKeyAnswer, is_directory, subscription_object};
use crate::wire::cursor::splitmix64;
use crate::wire::header;
use crate::{CallOutcome, Effect, EffectId, Limits, Millis, Offset, Webhook};

const APPLICATION_JSON: &str = "application/json";
const WEBHOOK_SIGNATURE: &str = "Webhook-Signature";
const MILLIS_PER_SECOND: u64 = 1_000;
/// Begins the ids of the producers of wake events.
const EVENT_PRODUCERS: &str = "__ds/wakes/";

/// A delivery that is under way.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    effect: EffectId,
    wake: String,
    pub(super) since: Millis,
    time_ms: u64,
    /// The tails in the notification of the receiver, and the streams that they belong to.
    tails: Vec<(String, Option<Incarnation>, Offset)>,
    /// Whether the receiver has called back before its answer.
    is_taken: bool,
}

impl Attempt {
    /// Returns when the attempt counts as failed without an answer.
    pub(super) const fn lost_at(&self, limits: &Limits) -> Millis {
        self.since.plus(self.time_ms).plus(limits.webhook_grace_ms)
    }
}

/// A stream in the body of a webhook and in the answer to a claim.
#[derive(Serialize)]
pub(super) struct OfferedStream<'a> {
    path: &'a str,
    link_type: &'static str,
    acked_offset: String,
    tail_offset: String,
    has_pending: bool,
}

#[derive(Serialize)]
struct WebhookBody<'a> {
    subscription_id: &'a str,
    wake_id: &'a str,
    generation: u64,
    streams: Vec<OfferedStream<'a>>,
    callback_url: String,
    callback_token: String,
}

#[derive(Serialize)]
struct WakeEvent<'a> {
    r#type: &'static str,
    subscription_id: &'a str,
    stream: &'a str,
    generation: u64,
    ts: Millis,
}

/// What a receiver can answer.
#[derive(Deserialize)]
struct Received {
    #[serde(default)]
    done: Option<bool>,
}

/// Returns an offset as the protocol writes it.
pub(super) fn offset_text(offset: Option<Offset>) -> String {
    offset.map_or_else(|| "-1".to_owned(), |offset| offset.to_string())
}

impl Head {
    pub(super) fn webhook(&self) -> Option<&str> {
        match &self.config.delivery {
            Delivery::Webhook { url } => Some(url),
            Delivery::PullWake { .. } => None,
        }
    }

    pub(super) fn wake_stream(&self) -> Option<&str> {
        match &self.config.delivery {
            Delivery::Webhook { .. } => None,
            Delivery::PullWake { wake_stream } => Some(wake_stream),
        }
    }

    /// Returns the URL of a resource of the subscription.
    fn url(&self, resource: &str) -> String {
        let base = self.base.as_deref();
        let base = base.expect("a webhook has a base for its callback URL");
        format!("{base}{STREAM_PREFIX}{resource}")
    }

    pub(super) fn public_keys_url(&self) -> String {
        self.url("__ds/jwks.json")
    }

    /// Returns a token of the present wake.
    pub(super) fn token(&self, now: Millis, wake: &str, limits: &Limits) -> String {
        let expires_at = now.plus(limits.token_ms.max(self.config.lease_ttl_ms));
        token::issue(&self.secret.0, &self.id, self.generation, expires_at, wake)
    }

    fn event_producer(&self, generation: u64) -> String {
        format!("{EVENT_PRODUCERS}{}/{generation}", self.incarnation)
    }

    fn wake_id(&self) -> String {
        token::wake_id(&self.secret.0, self.generation)
    }
}

/// Returns the pause before the next attempt: it doubles with each failure, and is up to a fifth
/// longer or shorter, so that receivers are not called all at once.
fn pause(failures: u64, seed: u64, limits: &Limits) -> u64 {
    let doublings = failures.saturating_sub(1).min(crate::limits::DOUBLINGS_MAX);
    let pause = limits.webhook_retry_base_ms.saturating_mul(1 << doublings);
    let pause = pause.min(limits.webhook_retry_ms_max);
    let share = splitmix64(seed ^ splitmix64(failures)) % 401;
    pause.saturating_mul(800 + share) / MILLIS_PER_SECOND
}

impl Subscription {
    /// Begins a wake if the subscription is idle and something is pending.
    pub(super) fn wake_if_pending(&mut self, step: &mut Step<'_>) -> Result<bool, StorageError> {
        let wake = self.live().and_then(|head| head.wake.as_ref());
        if wake.is_some_and(|wake| wake.leased_until.is_none()) && !self.is_pending() {
            // Its streams are gone. Workers must hear of what comes next.
            self.end_wake(step)?;
        }
        let is_idle = self.live().is_some_and(|head| head.wake.is_none());
        let cause = self.links.iter().find(|(_, link)| link.is_pending());
        let Some((stream, _)) = cause.filter(|_| is_idle) else {
            return Ok(false);
        };
        let stream = stream.clone();
        let now = step.now;
        let head = self.live_mut().expect("the subscription is there");
        head.generation += 1;
        let leased_until = now.plus(head.config.lease_ttl_ms);
        head.wake = Some(Wake {
            id: head.wake_id(),
            holder: None,
            leased_until: head.webhook().map(|_| leased_until),
            is_delivered: false,
        });
        if let Some(wake_stream) = head.wake_stream() {
            let event = to_json(&WakeEvent {
                r#type: "wake",
                subscription_id: &head.id,
                stream: &stream,
                generation: head.generation,
                ts: now,
            });
            let header = |name: &str, value: String| (name.to_owned(), value);
            let request = Request {
                method: "POST".to_owned(),
                headers: vec![
                    header(header::CONTENT_TYPE, APPLICATION_JSON.to_owned()),
                    // One for each event: the stream may be created anew, and the sequence of a
                    // producer must begin at 0 there.
                    header(header::PRODUCER_ID, head.event_producer(head.generation)),
                    header(header::PRODUCER_EPOCH, "0".to_owned()),
                    header(header::PRODUCER_SEQ, "0".to_owned()),
                ],
                body: event,
            };
            let to = wake_stream.to_owned();
            if let Some(event) = self.event.take() {
                // An event that is still to be written announces a wake that has ended.
                step.remove_task(&Queue::Call(to.clone()), event)?;
            }
            self.event = Some(step.task(to, request)?);
        }
        Ok(true)
    }

    /// Ends the wake that is in flight.
    pub(super) fn end_wake(&mut self, step: &mut Step<'_>) -> Result<(), StorageError> {
        let head = self.live_mut().expect("the subscription is there");
        let ended = head.wake.take();
        assert!(ended.is_some(), "a wake that ends was in flight");
        self.ask_held(step)
    }

    pub(super) fn end_overdue_lease(&mut self, step: &mut Step<'_>) -> Result<(), StorageError> {
        let wake = self.live().and_then(|head| head.wake.as_ref());
        let ends_at = wake.and_then(|wake| wake.leased_until);
        if ends_at.is_some_and(|ends_at| ends_at <= step.now) {
            self.end_wake(step)?;
        }
        Ok(())
    }

    /// Returns when the next attempt to deliver begins, if there is one to come.
    pub(super) fn attempts_at(&self) -> Option<Millis> {
        let head = self.live()?;
        let is_due = head.wake.as_ref().is_some_and(|wake| !wake.is_delivered);
        if head.webhook().is_none() || self.attempt.is_some() || self.key.call.is_some() {
            return None;
        }
        let key_at = if self.key.known.is_none() {
            self.key.retry_at
        } else {
            Millis(0)
        };
        if head.stage != super::Stage::Ready {
            return self.key.known.is_none().then_some(key_at);
        }
        let next = head.retry.next_attempt_at.unwrap_or_default();
        is_due.then(|| next.max(key_at))
    }

    /// Asks for the key that signs, if this instance does not have it.
    pub(super) fn fetch_key(&mut self, step: &mut Step<'_>) {
        let now = step.now;
        let is_needed = self.live().is_some_and(|head| head.webhook().is_some());
        let is_known = self
            .key
            .known
            .as_ref()
            .is_some_and(|(_, until)| now <= *until);
        if !is_needed || is_known || self.key.call.is_some() || now < self.key.retry_at {
            return;
        }
        self.key.known = None;
        let effect = step.call(KEYS.to_owned(), control_request(&"signing-key"));
        self.key.call = Some((effect, now));
    }

    /// Gives up a call for the key that was not answered in time.
    pub(super) fn end_overdue_key(&mut self, step: &Step<'_>) {
        let since = self.key.call.map(|(_, since)| since);
        if since.is_some_and(|since| since.plus(step.limits.reply_timeout_ms) <= step.now) {
            self.key_failed(step);
        }
    }

    fn key_failed(&mut self, step: &Step<'_>) {
        self.key.call = None;
        self.key.failures += 1;
        let pause = crate::backoff::backoff(self.key.failures, step.instance_seed, step.limits);
        self.key.retry_at = step.now.plus(pause);
    }

    pub(super) fn key_finished(
        &mut self,
        step: &Step<'_>,
        effect: EffectId,
        outcome: &CallOutcome,
    ) -> bool {
        if self.key.call.is_none_or(|(call, _)| call != effect) {
            return false;
        }
        let key = answered(outcome).and_then(|SigningKeyAnswer { seed, until }| {
            let seed = BASE64_URL_SAFE_NO_PAD.decode(seed).ok()?;
            Some((signing::KeyPair::from_seed(seed.try_into().ok()?), until))
        });
        match key {
            Some(key) => {
                let kid = key.0.kid();
                let is_known = |head: &Head| head.kid.as_deref() == Some(kid);
                if !self.live().is_none_or(is_known) {
                    let kid = kid.to_owned();
                    self.live_mut().expect("the subscription is there").kid = Some(kid);
                }
                self.key = super::SigningKey {
                    known: Some(key),
                    ..super::SigningKey::default()
                };
            }
            None => self.key_failed(step),
        }
        true
    }

    /// Begins a delivery if one is due.
    pub(super) fn deliver(&mut self, step: &mut Step<'_>) {
        let now = step.now;
        if let Some(attempt) = &self.attempt
            && attempt.lost_at(step.limits) <= now
        {
            let is_taken = attempt.is_taken;
            self.attempt = None;
            if !is_taken {
                self.delivery_failed(step, "the receiver did not answer in time");
            }
        }
        let Some(at) = self.attempts_at() else {
            return;
        };
        self.fetch_key(step);
        if at > now || self.key.known.is_none() {
            return;
        }
        let head = self.live().expect("the subscription is there");
        let url = head
            .webhook()
            .expect("only a webhook is delivered")
            .to_owned();
        let own = head.base.as_deref().and_then(webhook_url::host_of);
        if let Err(refused) = webhook_url::check(&url, own, step.limits) {
            self.delivery_failed(step, &refused.to_string());
            return;
        }
        let head = self.live().expect("the subscription is there");
        let wake = head.wake.as_ref().expect("a delivery belongs to a wake");
        let streams = self.offered_streams(step.limits);
        let body = to_json(&WebhookBody {
            subscription_id: &head.id,
            wake_id: &wake.id,
            generation: head.generation,
            streams,
            callback_url: head.url(&format!("{}/callback", subscription_object(&head.name))),
            callback_token: head.token(now, &wake.id, step.limits),
        });
        let tails = self.links.iter();
        let tails =
            tails.filter_map(|(stream, link)| Some((stream.clone(), link.incarnation, link.tail?)));
        let (key, _) = self.key.known.as_ref().expect("the key was found");
        let signature = key.sign(now.0 / MILLIS_PER_SECOND, body.as_bytes());
        let time_ms = step.limits.webhook_time_ms.min(head.config.lease_ttl_ms);
        let effect = step.outbox.next_effect();
        let attempt = Attempt {
            effect,
            wake: wake.id.clone(),
            since: now,
            time_ms,
            tails: tails.collect(),
            is_taken: false,
        };
        step.turn.after_commit.push(Effect::Webhook {
            effect,
            webhook: Webhook {
                url,
                headers: vec![
                    (header::CONTENT_TYPE, APPLICATION_JSON.to_owned()),
                    (WEBHOOK_SIGNATURE, signature),
                ],
                body,
                time_ms,
                answer_bytes_max: step.limits.webhook_answer_bytes_max,
            },
        });
        self.attempt = Some(attempt);
        // If this instance does not see the answer, the next one waits as after a failure.
        let head = self.live_mut().expect("the subscription is there");
        let failures = head.retry.failures + 1;
        let pause = pause(failures, step.instance_seed, step.limits);
        head.retry.next_attempt_at = Some(now.plus(pause));
    }

    fn delivery_failed(&mut self, step: &Step<'_>, error: &str) {
        let Some(head) = self.live_mut() else {
            return;
        };
        head.retry.failures += 1;
        let pause = pause(head.retry.failures, step.instance_seed, step.limits);
        head.retry.next_attempt_at = Some(step.now.plus(pause));
        head.retry.error = Some(error.to_owned());
    }

    /// Notes that the receiver of the present wake has called back. It can do so before it answers
    /// the delivery.
    pub(super) fn taken_by_callback(&mut self) {
        let head = self.live_mut().expect("the request was admitted");
        head.retry = super::Retry::default();
        let wake = head.wake.as_mut().expect("the request was admitted");
        wake.is_delivered = true;
        let wake = wake.id.clone();
        if let Some(attempt) = &mut self.attempt {
            attempt.is_taken |= attempt.wake == wake;
        }
    }

    pub(super) fn attempt_finished(
        &mut self,
        step: &mut Step<'_>,
        effect: EffectId,
        outcome: &CallOutcome,
    ) -> Result<bool, StorageError> {
        let is_it = |attempt: &mut Attempt| attempt.effect == effect;
        let Some(attempt) = self.attempt.take_if(is_it) else {
            return Ok(false);
        };
        let body = match outcome {
            CallOutcome::Answered {
                status: 200..=299,
                body,
            } => body,
            // The receiver has the wake, although its answer says otherwise or was lost.
            _ if attempt.is_taken => return Ok(true),
            CallOutcome::Answered { status, .. } => {
                self.delivery_failed(step, &format!("the receiver answered {status}"));
                return Ok(true);
            }
            CallOutcome::Failed => {
                self.delivery_failed(step, "the receiver could not be reached");
                return Ok(true);
            }
        };
        let Some(head) = self.live_mut() else {
            return Ok(true);
        };
        head.retry = super::Retry::default();
        // The lease of that wake may have ended meanwhile, or a callback has ended it.
        let is_current = |wake: &&mut Wake| wake.id == attempt.wake;
        let Some(wake) = head.wake.as_mut().filter(is_current) else {
            return Ok(true);
        };
        wake.is_delivered = true;
        let received: Option<Received> = serde_json::from_slice(body).ok();
        if received.is_some_and(|received| received.done == Some(true)) {
            for (stream, incarnation, tail) in attempt.tails {
                let is_behind = |link: &super::Link| {
                    link.incarnation == incarnation
                        && link.tail >= Some(tail)
                        && link.acked < Some(tail)
                };
                if self.links.get(&stream).is_some_and(is_behind) {
                    let link = self.link_mut(&stream).expect("the link was found");
                    link.acked = Some(tail);
                }
            }
            self.end_wake(step)?;
        }
        Ok(true)
    }

    /// Returns whether a task that has failed is not tried again: a wake event of a subscription
    /// that was deleted since, or of a wake that has ended. The event of a later wake follows.
    pub(crate) fn is_needless(&self, task: &TaskKind) -> bool {
        let TaskKind::Call { to, request, .. } = task else {
            return false;
        };
        let is_event = !is_directory(to) && call_of::<LinkCall>(request).is_none();
        let mut headers = request.headers.iter();
        let producer = headers.find(|(name, _)| name == header::PRODUCER_ID);
        let last = self.live().map(|head| head.event_producer(head.generation));
        let is_last = last
            .zip(producer)
            .is_some_and(|(last, (_, id))| *id == last);
        is_event && !is_last
    }

    /// Notes that the wake event could not be written.
    pub(crate) fn task_failed(&mut self, step: &Step<'_>, effect: EffectId, outcome: &CallOutcome) {
        let to = step.outbox.receiver(effect);
        let wake_stream = self.live().and_then(Head::wake_stream);
        if to.is_none() || to != wake_stream {
            return;
        }
        let error = match outcome {
            CallOutcome::Answered { status, .. } => format!("the wake stream answered {status}"),
            CallOutcome::Failed => "the wake stream did not answer".to_owned(),
        };
        let head = self.live_mut().expect("the subscription is there");
        head.retry.failures += 1;
        head.retry.error = Some(error);
    }

    /// Notes that a wake event is in the wake stream. `is_last` says whether no later one follows.
    pub(super) fn wake_event_written(&mut self, is_last: bool) {
        if is_last {
            self.event = None;
        }
        let has_failed = |head: &Head| head.retry != super::Retry::default();
        if self.live().is_some_and(has_failed) {
            let head = self.live_mut().expect("the subscription is there");
            head.retry = super::Retry::default();
        }
    }

    /// Returns the streams as receivers and workers see them: all with pending events, and others
    /// up to a bound.
    pub(super) fn offered_streams(&self, limits: &Limits) -> Vec<OfferedStream<'_>> {
        let mut room = limits.webhook_streams_max;
        let states = self.links.iter().filter(|(_, link)| {
            let has_room = room > 0;
            room -= u64::from(has_room && !link.is_pending());
            link.is_pending() || has_room
        });
        states
            .map(|(stream, link)| OfferedStream {
                path: stream,
                link_type: link.kind(),
                acked_offset: offset_text(link.acked),
                tail_offset: offset_text(link.tail.or(Some(Offset::START))),
                has_pending: link.is_pending(),
            })
            .collect()
    }
}
