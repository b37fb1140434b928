//! The keys that sign webhooks (protocol 6.5 and 12.10). One object keeps them.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{Changes, Step, json_answer};
use crate::subscription::signing::KeyRing;
use crate::wire::control::{ControlCall, SigningKeyAnswer};
use crate::{Answer, CallId};

pub(super) type Ring = KeyRing;

#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    ring: KeyRing,
    has_changed: bool,
}

impl Keys {
    pub(super) const fn recall(ring: Ring) -> Self {
        Self {
            ring,
            has_changed: false,
        }
    }

    pub(super) fn ring(&self) -> Option<&Ring> {
        (!self.ring.keys.is_empty()).then_some(&self.ring)
    }

    pub(super) fn changes(&mut self) -> Changes {
        Changes {
            head: core::mem::take(&mut self.has_changed),
            rows: Vec::new(),
        }
    }

    /// Rotates the keys if it is time, and answers.
    pub(super) fn call(&mut self, step: &mut Step<'_>, id: CallId, call: &ControlCall) {
        let entropy = step.entropy;
        self.has_changed |= self.ring.advance(step.now, &mut || entropy(), step.limits);
        let answer = match call {
            ControlCall::PublicKeys => {
                let age = format!("public, max-age={}", step.limits.jwks_max_age_s);
                Answer::public_keys(self.ring.jwks(), age)
            }
            ControlCall::SigningKey => {
                let key = self.ring.signing_key(step.now);
                json_answer(
                    200,
                    &SigningKeyAnswer {
                        seed: BASE64_URL_SAFE_NO_PAD.encode(key.seed()),
                        until: self.ring.signs_until(step.now, step.limits),
                    },
                )
            }
            ControlCall::Subscription(_)
            | ControlCall::Inquiry(_)
            | ControlCall::Notify(_)
            | ControlCall::Directory(_) => {
                unreachable!("the path of a call names the object")
            }
        };
        step.answer(id, answer);
    }
}
