//! How receivers come to the public keys.

use machine::Webhook;

use super::coverage::Situation;
use super::request::{Kind, Request};
use super::world::{Event, World};

const MILLIS_PER_SECOND: u64 = 1_000;
/// How often a receiver verifies a signature again at the end of the replay window.
const AGAIN_PERCENT: u64 = 30;

impl World<'_, '_> {
    /// Verifies the signature of a webhook, with the keys of this moment and perhaps with later
    /// ones.
    pub(super) fn verify(&mut self, webhook: &Webhook) {
        let limits = &self.settings.limits;
        // Two clocks can differ by this much, and times in signatures are whole seconds.
        let slack = 2 * self.settings.skew_ms + MILLIS_PER_SECOND;
        let window = limits.webhook_replay_window_ms;
        let age = (limits.jwks_max_age_s * MILLIS_PER_SECOND).saturating_sub(2 * slack);
        let arrived = self
            .checkers
            .signatures
            .arrived(webhook, self.now, (window, age));
        let signed = match arrived {
            Ok((signed, is_rotated)) => {
                if is_rotated {
                    self.cover(Situation::KeyRotated);
                    if self.settings.limits.signing_key.is_some() {
                        self.cover(Situation::KeyGiven);
                    }
                }
                signed
            }
            Err(violation) => return self.judged(Err(violation)),
        };
        self.verify_again(signed);
        if self.choices.percent(AGAIN_PERCENT) {
            self.cover(Situation::SignatureLater);
            self.schedule(window.saturating_sub(2 * slack), Event::Verify { signed });
        }
    }

    /// Asks for the public keys, to verify a signature with them.
    pub(super) fn verify_again(&mut self, signed: u64) {
        let (name, kind) = (signed.to_string(), Kind::PublicKeys);
        self.send(Request { name, kind });
    }

    pub(super) fn public_keys(&mut self, request: &Request, text: &str) {
        let signed = request.name.parse().ok();
        let finding = self.checkers.signatures.served(signed, self.now, text);
        self.judged(finding);
    }
}
