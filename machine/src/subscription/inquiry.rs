//! What operators ask of a subscription through the admin API.

use core::ops::Bound;

use super::wake::offset_text;
use super::{Head, Link, Stage, Subscription};
use crate::admin::SubscriptionInquiry;
use crate::admin::json::{Object, quoted};
use crate::control::Step;
use crate::outbox::{Outbox, Queue};
use crate::storage::{Storage, StorageError};
use crate::{Answer, CallId, Millis, Refusal};

/// What is known of the next delivery.
#[derive(Default)]
struct Delivery {
    /// Since when an attempt is under way.
    began_at: Option<Millis>,
    /// When the next one begins, if none is under way.
    next_at: Option<Millis>,
}

impl Head {
    /// Returns what the subscription does, in one word.
    fn state(&self) -> &'static str {
        match (&self.stage, &self.wake) {
            (Stage::Creating { .. }, _) => "creating",
            (Stage::Deleted { .. }, _) => unreachable!("only what is there is described"),
            (Stage::Ready, None) => "idle",
            (Stage::Ready, Some(wake)) if wake.is_delivered || wake.holder.is_some() => "live",
            (Stage::Ready, Some(_)) => "waking",
        }
    }

    /// Returns the queue of the wake events, if workers learn of wakes from a stream.
    fn wake_events(&self) -> Option<Queue> {
        self.wake_stream()
            .map(|stream| Queue::Call(stream.to_owned()))
    }
}

impl Subscription {
    /// Handles a request of the admin API that changes something.
    pub(crate) fn inquired(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        inquiry: &SubscriptionInquiry,
    ) -> Result<(), StorageError> {
        assert!(!inquiry.only_reads(), "`inspect` handles it");
        if self.live().is_none() {
            step.refuse(id, &Refusal::SubscriptionNotFound);
            return Ok(());
        }
        let has_waited = self.retry_now(step)?;
        let answer = Object::new().flag("retried", has_waited).answer();
        step.answer(id, answer);
        Ok(())
    }

    /// Makes the next attempt to deliver due, whatever the pause after the last failure. Returns
    /// whether a delivery has waited for one.
    fn retry_now(&mut self, step: &mut Step<'_>) -> Result<bool, StorageError> {
        let head = self.live().expect("the subscription is there");
        if let Some(events) = head.wake_events() {
            return step.hasten(&events);
        }
        let is_due = head.wake.as_ref().is_some_and(|wake| !wake.is_delivered);
        if !is_due || self.attempt.is_some() {
            return Ok(false);
        }
        let head = self.live_mut().expect("the subscription is there");
        head.retry.next_attempt_at = None;
        // The pause before the next call for the key must not hold it up either.
        self.key.retry_at = Millis(0);
        Ok(true)
    }

    /// Answers an operator from the rows and the state. Begins and ends nothing, even if something
    /// is overdue.
    pub(crate) fn inspect(
        &self,
        now: Millis,
        outbox: &Outbox,
        rows: &dyn Storage,
        inquiry: &SubscriptionInquiry,
    ) -> Result<Answer, StorageError> {
        let SubscriptionInquiry::Detail { after, limit } = inquiry else {
            unreachable!("it changes something");
        };
        let Some(head) = self.live() else {
            return Ok(Answer::refusal(&Refusal::SubscriptionNotFound));
        };
        let Delivery { began_at, next_at } = self.delivery(head, outbox, rows)?;
        let wake = head.wake.as_ref();
        let leased_until = wake.and_then(|wake| wake.leased_until);
        let holder = wake.and_then(|wake| wake.holder.as_deref());
        let pending = self.links.values().filter(|link| link.is_pending());
        let object = Object::new()
            .text("subscriptionId", &head.name)
            .text("incarnation", &head.incarnation.to_string())
            .text("type", head.kind())
            .text_or_null("pattern", head.config.pattern.as_deref())
            .text_or_null("webhookUrl", head.webhook())
            .text_or_null("wakeStream", head.wake_stream())
            .text_or_null("description", head.config.description.as_deref())
            .number("createdAt", head.created_at.0)
            .number("leaseTtlMs", head.config.lease_ttl_ms)
            .text("status", head.status())
            .text("state", head.state())
            .number("generation", head.generation)
            .text_or_null("worker", holder)
            .number_or_null("leaseEndsAt", leased_until.map(|at| at.0))
            .number("failures", head.retry.failures)
            .text_or_null("lastError", head.retry.error.as_deref())
            .number_or_null("attemptBeganAt", began_at.map(|at| at.0))
            .number_or_null("nextAttemptAt", next_at.map(|at| at.max(now).0))
            .flag("outboxEmpty", outbox.is_empty())
            .number("streamCount", self.links.len() as u64)
            .number("pendingCount", pending.count() as u64);
        Ok(self.with_streams(object, after.as_deref(), *limit).answer())
    }

    fn delivery(
        &self,
        head: &Head,
        outbox: &Outbox,
        rows: &dyn Storage,
    ) -> Result<Delivery, StorageError> {
        let Some(events) = head.wake_events() else {
            return Ok(Delivery {
                began_at: self.attempt.as_ref().map(|attempt| attempt.since),
                next_at: self.attempts_at(),
            });
        };
        let next = outbox.next(&events, rows)?;
        Ok(next.map_or_else(Delivery::default, |next| Delivery {
            began_at: next.begun_at,
            next_at: next.begun_at.is_none().then_some(next.starts_at),
        }))
    }

    /// Adds a page of the streams.
    fn with_streams(&self, object: Object, after: Option<&str>, limit: u64) -> Object {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = self.links.range::<str, _>((from, Bound::Unbounded));
        let limit = usize::try_from(limit).expect("the router has bounded it");
        let page: Vec<_> = behind.by_ref().take(limit).collect();
        let has_more = behind.next().is_some();
        let next = page.last().filter(|_| has_more);
        let next = next.map(|(stream, _)| quoted(stream));
        let streams = page.iter().map(|(stream, link)| described(stream, link));
        let object = object.array("streams", streams);
        let object = match next {
            Some(next) => object.json("nextCursor", &next),
            None => object,
        };
        object.flag("hasMore", has_more)
    }
}

fn described(stream: &str, link: &Link) -> Object {
    let tail = link.tail.map(|tail| tail.to_string());
    Object::new()
        .text("streamId", stream)
        .text("linkType", link.kind())
        .text("ackedOffset", &offset_text(link.acked))
        .text_or_null("tailOffset", tail.as_deref())
        .flag("pending", link.is_pending())
        .flag("linking", link.is_linking)
}
