//! When webhooks leave, and where to.

use std::collections::{BTreeMap, BTreeSet};

use machine::{Limits, Webhook};

use super::{Departed, Finding, violation};
use crate::oracles::Oracle;
use crate::subscriptions::model::{Life, Wake};
use crate::subscriptions::workload::is_good;

/// Holds that two attempts of a subscription are as far apart as the number of failures asks for,
/// unless one has succeeded between them, and that a wake that was taken is not delivered again.
#[derive(Debug, Default)]
pub(in crate::subscriptions) struct Schedule {
    last: BTreeMap<Life, Attempted>,
    taken: BTreeSet<String>,
    attempts: BTreeMap<String, u64>,
}

#[derive(Clone, Debug)]
struct Attempted {
    at: u64,
    /// How often in a row an attempt had failed before.
    failures: u64,
}

impl Schedule {
    /// Returns how many attempts there were to deliver a wake.
    pub(in crate::subscriptions) fn attempts(&self, wake: &str) -> u64 {
        self.attempts.get(wake).copied().unwrap_or(0)
    }

    pub(super) fn committed(&mut self, departed: &Departed) {
        if departed.succeeds
            && let Some(of) = &departed.of
        {
            self.last.remove(of);
        }
        self.taken.extend(departed.delivered.iter().cloned());
    }

    /// Judges an attempt that begins.
    pub(super) fn leaves(
        &mut self,
        wake: &Wake,
        departed: &Departed,
        skew_ms: u64,
        limits: &Limits,
    ) -> Finding {
        if self.taken.contains(&wake.id) {
            let actual = "another attempt";
            return violation(
                Oracle::RetrySchedule,
                format!("{} is taken", wake.id),
                actual,
            );
        }
        *self.attempts.entry(wake.id.clone()).or_default() += 1;
        let (at, failures) = (departed.at, departed.failures);
        let last = self
            .last
            .insert(wake.of.clone(), Attempted { at, failures });
        let Some(last) = last else {
            return Ok(());
        };
        let doubled = limits.webhook_retry_base_ms << last.failures.min(20);
        // A fifth of it may be left to chance.
        let pause = doubled.min(limits.webhook_retry_ms_max) * 4 / 5;
        let earliest = (last.at + pause).saturating_sub(2 * skew_ms);
        if at >= earliest {
            return Ok(());
        }
        let expected = format!("a pause of {pause} ms after {last:?}");
        violation(
            Oracle::RetrySchedule,
            expected,
            format!("an attempt at {at}"),
        )
    }
}

/// Holds that no webhook leaves for a URL that is refused.
pub(super) fn url(webhook: &Webhook, limits: &Limits) -> Finding {
    if is_good(&webhook.url, limits.webhook_loopback) {
        return Ok(());
    }
    let expected = "a URL that webhooks may go to";
    violation(Oracle::WebhookUrls, expected, webhook.url.clone())
}
