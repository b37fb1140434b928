//! Signatures of webhooks (protocol 6.5).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use machine::Webhook;
use serde::Deserialize;

use super::{Finding, violation};
use crate::oracles::Oracle;

const HEADER: &str = "Webhook-Signature";
const MILLIS_PER_SECOND: u64 = 1_000;

/// Holds that the signature of a webhook verifies with the public keys that a receiver gets when
/// the webhook arrives, with those that it has fetched within their `max-age`, and with those of
/// the end of the replay window.
#[derive(Debug, Default)]
pub(in crate::subscriptions) struct Signatures {
    signed: Vec<Signed>,
    /// When the public keys were served last, and which.
    served: Option<(u64, String)>,
    last_key: Option<String>,
}

#[derive(Clone, Debug)]
struct Signed {
    key: String,
    message: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    kty: String,
    crv: String,
    alg: String,
    x: String,
}

impl Signatures {
    /// Notes a webhook that has arrived. Returns its number, and whether another key than before
    /// has signed it.
    ///
    /// # Errors
    /// When the signature has another form, another time, or does not verify with keys that a
    /// receiver may still have.
    pub(in crate::subscriptions) fn arrived(
        &mut self,
        webhook: &Webhook,
        now: u64,
        (window_ms, keys_age_ms): (u64, u64),
    ) -> Result<(u64, bool), crate::oracles::Violation> {
        let mut headers = webhook.headers.iter();
        let header = headers.find(|(name, _)| *name == HEADER);
        let text = header.map(|(_, value)| value.as_str()).unwrap_or_default();
        let Some((time, signed)) = parse(text, webhook.body.as_bytes()) else {
            violation(Oracle::Signatures, "a time, a key and a signature", text)?;
            unreachable!("a violation is an error");
        };
        if (time * MILLIS_PER_SECOND).abs_diff(now) > window_ms {
            violation(Oracle::Signatures, format!("a time near {now}"), text)?;
        }
        if let Some((served, keys)) = &self.served
            && served + keys_age_ms >= now
        {
            signed.check(keys)?;
        }
        let is_other = self.last_key.replace(signed.key.clone());
        let is_rotated = is_other.is_some_and(|before| before != signed.key);
        self.signed.push(signed);
        Ok((self.signed.len() as u64 - 1, is_rotated))
    }

    /// Judges a signature by the public keys of the moment.
    pub(in crate::subscriptions) fn served(
        &mut self,
        signed: Option<u64>,
        now: u64,
        keys: &str,
    ) -> Finding {
        self.served = Some((now, keys.to_owned()));
        let at = signed.and_then(|signed| usize::try_from(signed).ok());
        let signed = at.and_then(|at| self.signed.get(at));
        signed.map_or(Ok(()), |signed| signed.check(keys))
    }
}

fn parse(text: &str, body: &[u8]) -> Option<(u64, Signed)> {
    let mut parts = text.split(',');
    let time = parts.next()?.strip_prefix("t=")?;
    let key = parts.next()?.strip_prefix("kid=")?.to_owned();
    let signature = parts.next()?.strip_prefix("ed25519=")?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?;
    let message = [time.as_bytes(), b".", body].concat();
    let signed = Signed {
        key,
        message,
        signature,
    };
    parts
        .next()
        .is_none()
        .then_some((time.parse().ok()?, signed))
}

impl Signed {
    fn check(&self, keys: &str) -> Finding {
        let set: Option<KeySet> = serde_json::from_str(keys).ok();
        let all = set.map(|set| set.keys).unwrap_or_default();
        let key = all.iter().find(|key| key.kid == self.key);
        let is_it = |key: &&Key| key.kty == "OKP" && key.crv == "Ed25519" && key.alg == "EdDSA";
        if key.filter(is_it).is_some_and(|key| self.verifies(&key.x)) {
            return Ok(());
        }
        let expected = format!("the key {} among the public ones", self.key);
        violation(Oracle::Signatures, expected, keys)
    }

    fn verifies(&self, public: &str) -> bool {
        let public = BASE64_URL_SAFE_NO_PAD.decode(public).ok();
        let public = public.and_then(|public| public.try_into().ok());
        let key = public.and_then(|public| VerifyingKey::from_bytes(&public).ok());
        let signature = Signature::from_slice(&self.signature).ok();
        key.zip(signature)
            .is_some_and(|(key, signature)| key.verify_strict(&self.message, &signature).is_ok())
    }
}
