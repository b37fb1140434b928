//! The keys that sign webhooks: Ed25519 (RFC 8032), published as a JSON Web Key Set (protocol 6.5
//! and 12.10).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Limits, Millis};

const MILLIS_PER_SECOND: u64 = 1_000;

/// The private key that the operator has given, as its seed.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSeed([u8; 32]);

impl SigningSeed {
    /// Reads 32 bytes in base64url without padding.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.try_into().ok().map(Self)
    }
}

impl core::fmt::Debug for SigningSeed {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SigningSeed")
    }
}

/// A private key, with the id of its public one.
#[derive(Clone, Debug)]
pub(crate) struct KeyPair {
    key: SigningKey,
    kid: String,
}

impl KeyPair {
    /// Returns the key that this seed determines.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        let key = SigningKey::from_bytes(&seed);
        let x = BASE64_URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        // The thumbprint of the key (RFC 7638), whose members are in this order.
        let thumbprint = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let digest = Sha256::digest(thumbprint.as_bytes());
        let kid = format!("ds_{}", BASE64_URL_SAFE_NO_PAD.encode(digest));
        Self { key, kid }
    }

    /// Returns the id of the public key.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// Returns the seed, which is the private key.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Returns the value of `Webhook-Signature` for a body that is sent at this time, in seconds
    /// since the Unix epoch.
    pub(crate) fn sign(&self, seconds: u64, body: &[u8]) -> String {
        let mut message = format!("{seconds}.").into_bytes();
        message.extend_from_slice(body);
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.key.sign(&message).to_bytes());
        format!("t={seconds},kid={},ed25519={signature}", self.kid)
    }

    fn jwk(&self) -> Jwk {
        Jwk {
            kty: "OKP",
            crv: "Ed25519",
            kid: self.kid.clone(),
            r#use: "sig",
            alg: "EdDSA",
            x: BASE64_URL_SAFE_NO_PAD.encode(self.key.verifying_key().as_bytes()),
        }
    }
}

/// A public key. It never has the member `d`, which is the private one.
#[derive(Serialize)]
struct Jwk {
    kty: &'static str,
    crv: &'static str,
    kid: String,
    r#use: &'static str,
    alg: &'static str,
    x: String,
}

#[derive(Serialize)]
struct JwkSet {
    keys: Vec<Jwk>,
}

/// A key, and when it signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredKey {
    seed: [u8; 32],
    /// The time from which it signs.
    signs_from: Millis,
    /// The time until which it signs.
    signs_until: Millis,
    /// Whether the operator has given it. Then it signs until the operator gives another one.
    #[serde(default)]
    is_given: bool,
}

impl core::fmt::Debug for StoredKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            signs_from,
            signs_until,
            ..
        } = self;
        write!(formatter, "StoredKey({}..={})", signs_from.0, signs_until.0)
    }
}

/// All keys whose public part is published, in the order in which they sign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRing {
    pub(crate) keys: Vec<StoredKey>,
}

/// Returns how long a cache can have the public keys without a new one.
const fn cached_ms(limits: &Limits) -> u64 {
    limits
        .jwks_max_age_s
        .saturating_mul(MILLIS_PER_SECOND)
        .saturating_add(limits.clock_skew_ms_max)
}

impl KeyRing {
    /// Rotates the keys. Returns whether that changed them.
    ///
    /// A new key is published for the lifetime of a cache before it signs. An old one stays
    /// published until its last signature is outside the replay window, and for the lifetime of a
    /// cache more. A key that the operator gives follows at once, whatever signs until then.
    pub(crate) fn advance(
        &mut self,
        now: Millis,
        seed: &mut dyn FnMut() -> [u8; 32],
        limits: &Limits,
    ) -> bool {
        let lead = cached_ms(limits);
        let kept = limits.webhook_replay_window_ms.saturating_add(lead);
        let before = self.keys.len();
        let given = limits.signing_key.as_ref();
        let needs_next = self.keys.last().is_none_or(|last| match given {
            Some(given) => !last.is_given || last.seed != given.0,
            // The last key signs on until its successor has been published for long enough.
            None => last.is_given || last.signs_until <= now.plus(lead),
        });
        if needs_next {
            let signs_from = match self.keys.last_mut() {
                None => now,
                Some(last) => {
                    let earliest = now.plus(lead).max(last.signs_from);
                    last.signs_until = if last.is_given {
                        earliest
                    } else {
                        // Subscriptions may hold it for so long.
                        last.signs_until.max(earliest)
                    };
                    given.map_or(last.signs_until, |_| earliest)
                }
            };
            self.keys.push(match given {
                Some(given) => StoredKey {
                    seed: given.0,
                    signs_from,
                    signs_until: Millis(u64::MAX),
                    is_given: true,
                },
                None => StoredKey {
                    seed: seed(),
                    signs_from,
                    // Shorter periods would publish ever more keys.
                    signs_until: signs_from.plus(limits.signing_key_ms.max(kept)),
                    is_given: false,
                },
            });
        }
        self.keys.retain(|key| now <= key.signs_until.plus(kept));
        needs_next || self.keys.len() != before
    }

    /// Returns the key that signs at this time, and its successor.
    fn current(&self, now: Millis) -> (&StoredKey, Option<&StoredKey>) {
        let current = self.keys.iter().rposition(|key| key.signs_from <= now);
        // The clock of an instance may be behind the one that has made the first key.
        let at = current.unwrap_or(0);
        let key = self.keys.get(at);
        let key = key.expect("a ring that has advanced has a key");
        (key, self.keys.get(at + 1))
    }

    /// Returns the key that signs at this time.
    pub(crate) fn signing_key(&self, now: Millis) -> KeyPair {
        let (key, _) = self.current(now);
        KeyPair::from_seed(key.seed)
    }

    /// Returns until when a subscription may sign with that key without asking again.
    pub(crate) fn signs_until(&self, now: Millis, limits: &Limits) -> Millis {
        let (key, next) = self.current(now);
        let until = next.map_or(key.signs_until, |next| next.signs_from.min(key.signs_until));
        if key.is_given {
            // The operator may give another one, which signs so long after that.
            until.min(now.plus(cached_ms(limits)))
        } else {
            until
        }
    }

    /// Returns the public keys as JSON.
    pub(crate) fn jwks(&self) -> String {
        assert!(!self.keys.is_empty(), "a ring that has advanced has a key");
        // The operator may give a key again before it has left the ring.
        let mut seeds = BTreeSet::new();
        let keys = self.keys.iter().filter(|key| seeds.insert(key.seed));
        let keys = keys.map(|key| KeyPair::from_seed(key.seed).jwk()).collect();
        serde_json::to_string(&JwkSet { keys }).expect("texts always become JSON")
    }
}

#[cfg(test)]
mod tests;
