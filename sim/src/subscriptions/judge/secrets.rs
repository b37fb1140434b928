//! Secrets stay where they belong.

use std::collections::{BTreeMap, BTreeSet};

use machine::Webhook;
use serde::Deserialize;

use super::{Finding, violation};
use crate::oracles::Oracle;
use crate::subscriptions::model::Wake;
use crate::subscriptions::request::Request;

/// Holds that nothing outside contains a private key, and only what belongs to a subscription
/// contains its tokens.
#[derive(Debug, Default)]
pub(in crate::subscriptions) struct Secrets {
    seeds: BTreeSet<String>,
    /// The subscriptions of tokens.
    tokens: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct PrivateKey {
    seed: String,
}

impl Secrets {
    pub(super) fn grants(&mut self, token: &str, id: &str) {
        self.tokens.insert(token.to_owned(), id.to_owned());
    }

    /// Learns the private keys from what objects tell each other.
    pub(in crate::subscriptions) fn told(&mut self, text: &str) {
        if let Ok(key) = serde_json::from_str::<PrivateKey>(text) {
            self.seeds.insert(key.seed);
        }
    }

    pub(in crate::subscriptions) fn in_answer(&self, request: &Request, text: &str) -> Finding {
        self.judge(&request.name, text)
    }

    pub(super) fn in_webhook(&self, webhook: &Webhook, wake: &Wake) -> Finding {
        self.judge(&wake.of.0, &webhook.body)?;
        let mut headers = webhook.headers.iter();
        headers.try_for_each(|(_, value)| self.judge("", value))
    }

    fn judge(&self, id: &str, text: &str) -> Finding {
        let has_seed = self.seeds.iter().any(|seed| text.contains(seed));
        if has_seed || text.contains("\"d\":") {
            return violation(Oracle::Secrets, "no private key", text);
        }
        let mut others = self.tokens.iter().filter(|(_, owner)| *owner != id);
        if let Some((token, owner)) = others.find(|(token, _)| text.contains(*token)) {
            let expected = format!("no token of {owner} such as {token}");
            return violation(Oracle::Secrets, expected, text);
        }
        Ok(())
    }
}
