//! The tokens of callbacks and claims (protocol 7.3 and 12.9).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use core::fmt::Write as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use crate::Millis;

/// What a token says. The names of its members are those of a JSON Web Token.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    /// The generation of the wake.
    epoch: u64,
    /// Seconds since the Unix epoch.
    exp: u64,
    /// Differs between tokens of different wakes.
    jti: String,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TokenError {
    /// It is not a token of this subscription.
    #[error("the token is not one of this subscription")]
    Invalid,
    /// It was a token of this subscription, and is not valid any more.
    #[error("the token has expired")]
    Expired,
}

const MILLIS_PER_SECOND: u64 = 1_000;
/// The length of the reference's ids.
const WAKE_ID_BYTES: usize = 12;

/// Returns the id of the wake with this number. Nobody can guess it without the secret.
pub(crate) fn wake_id(secret: &[u8; 32], generation: u64) -> String {
    // No payload of a token has a slash, so no id is part of a token's code.
    let code = mac(secret, format!("wake/{generation}").as_bytes())
        .finalize()
        .into_bytes();
    let mut id = "w_".to_owned();
    for byte in &code[..WAKE_ID_BYTES] {
        write!(id, "{byte:02x}").expect("a string takes everything");
    }
    id
}

/// Returns a token for a wake of a subscription: the claims as JSON, a dot, and the code of what
/// precedes it, both as base64url. It expires up to a second before `expires_at`, because it counts
/// whole seconds.
pub(crate) fn issue(
    secret: &[u8; 32],
    subscription: &str,
    generation: u64,
    expires_at: Millis,
    wake_id: &str,
) -> String {
    let claims = Claims {
        sub: subject(subscription),
        epoch: generation,
        exp: expires_at.0 / MILLIS_PER_SECOND,
        jti: wake_id.to_owned(),
    };
    let claims = serde_json::to_vec(&claims).expect("claims are JSON");
    let payload = BASE64_URL_SAFE_NO_PAD.encode(claims);
    let code = mac(secret, payload.as_bytes()).finalize().into_bytes();
    format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(code))
}

/// Returns the generation that a token of the subscription is for.
///
/// # Errors
/// Fails when the token is not one of this subscription, or has expired.
pub(crate) fn verify(
    secret: &[u8; 32],
    text: &str,
    subscription: &str,
    now: Millis,
) -> Result<u64, TokenError> {
    let claims = authentic(secret, text).filter(|claims| claims.sub == subject(subscription));
    let claims = claims.ok_or(TokenError::Invalid)?;
    if now.0 / MILLIS_PER_SECOND < claims.exp {
        Ok(claims.epoch)
    } else {
        Err(TokenError::Expired)
    }
}

/// Returns the claims if their code is right. Nothing is decoded before that is known.
fn authentic(secret: &[u8; 32], text: &str) -> Option<Claims> {
    let (payload, code) = text.split_once('.')?;
    let code = BASE64_URL_SAFE_NO_PAD.decode(code).ok()?;
    // The comparison takes the same time wherever the codes differ.
    mac(secret, payload.as_bytes()).verify_slice(&code).ok()?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&claims).ok()
}

fn mac(secret: &[u8; 32], text: &[u8]) -> Hmac<Sha256> {
    let key = Hmac::<Sha256>::new_from_slice(secret);
    key.expect("a key can have any length").chain_update(text)
}

fn subject(subscription: &str) -> String {
    format!("subscription:{subscription}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: [u8; 32] = [7; 32];
    const NOW: Millis = Millis(1_800_000_000_000);
    const EXPIRES_AT: Millis = Millis(1_800_000_060_000);

    fn token() -> String {
        issue(&SECRET, "orders", 3, EXPIRES_AT, "w_1")
    }

    #[test]
    fn a_token_has_claims_and_code() {
        let token = token();
        let (payload, code) = token.split_once('.').unwrap();
        let claims = BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
        assert_eq!(
            String::from_utf8(claims).unwrap(),
            r#"{"sub":"subscription:orders","epoch":3,"exp":1800000060,"jti":"w_1"}"#
        );
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(code).unwrap().len(), 32);
    }

    /// RFC 4231, 4.2, with the key filled up to 32 bytes: zeros at the end of a key change nothing.
    #[test]
    fn the_code_is_that_of_the_standard() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let code = mac(&key, b"Hi There").finalize().into_bytes();
        let hex: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn a_token_is_good_until_it_expires() {
        let verify = |now| verify(&SECRET, &token(), "orders", Millis(now));
        assert_eq!(verify(0), Ok(3));
        assert_eq!(verify(NOW.0), Ok(3));
        assert_eq!(verify(EXPIRES_AT.0 - 1), Ok(3));
        assert_eq!(verify(EXPIRES_AT.0), Err(TokenError::Expired));
        assert_eq!(verify(u64::MAX), Err(TokenError::Expired));
        let half_a_second = issue(&SECRET, "orders", 3, EXPIRES_AT.plus(500), "w_1");
        assert_eq!(half_a_second, token());
    }

    #[test]
    fn a_token_is_that_of_one_subscription() {
        let other = verify(&SECRET, &token(), "order", NOW);
        assert_eq!(other, Err(TokenError::Invalid));
        // Of another subscription it does not matter whether it has expired.
        let other = verify(&SECRET, &token(), "order", EXPIRES_AT);
        assert_eq!(other, Err(TokenError::Invalid));
        assert_eq!(
            verify(&[8; 32], &token(), "orders", NOW),
            Err(TokenError::Invalid)
        );
    }

    #[test]
    fn any_change_of_a_token_is_noticed() {
        let token = token();
        for at in 0..token.len() {
            for other in ["A", "B", "z", "_", "."] {
                let mut changed = token.clone();
                changed.replace_range(at..=at, other);
                if changed != token {
                    let verdict = verify(&SECRET, &changed, "orders", NOW);
                    assert_eq!(verdict, Err(TokenError::Invalid), "{changed}");
                }
            }
            let verdict = verify(&SECRET, &token[..at], "orders", NOW);
            assert_eq!(verdict, Err(TokenError::Invalid));
        }
        for changed in [
            format!("{token}="),
            format!("{token}.x"),
            format!(" {token}"),
        ] {
            assert_eq!(
                verify(&SECRET, &changed, "orders", NOW),
                Err(TokenError::Invalid)
            );
        }
    }

    #[test]
    fn what_is_signed_but_says_nothing_is_no_token() {
        for claims in [
            "",
            "{}",
            "null",
            r#"{"sub":"subscription:orders","epoch":-1}"#,
        ] {
            let payload = BASE64_URL_SAFE_NO_PAD.encode(claims);
            let code = mac(&SECRET, payload.as_bytes()).finalize().into_bytes();
            let text = format!("{payload}.{}", BASE64_URL_SAFE_NO_PAD.encode(code));
            assert_eq!(
                verify(&SECRET, &text, "orders", NOW),
                Err(TokenError::Invalid),
                "{claims}"
            );
        }
    }

    #[test]
    fn wakes_have_ids_of_their_own() {
        let id = wake_id(&SECRET, 1);
        assert_eq!(id.len(), 2 + 24);
        assert!(id[2..].bytes().all(|byte| byte.is_ascii_hexdigit()) && id.starts_with("w_"));
        assert_eq!(id, wake_id(&SECRET, 1));
        assert_ne!(id, wake_id(&SECRET, 2));
        assert_ne!(id, wake_id(&[8; 32], 1));
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "\\PC{0,80}", dotted in "[A-Za-z0-9_=-]{0,60}\\.[A-Za-z0-9_-]{43}") {
            prop_assert_eq!(verify(&SECRET, &text, "orders", NOW), Err(TokenError::Invalid));
            prop_assert_eq!(verify(&SECRET, &dotted, "orders", NOW), Err(TokenError::Invalid));
        }

        #[test]
        fn what_is_issued_is_good(
            secret: [u8; 32], subscription in "\\PC{0,40}", generation: u64, time: u64, wait: u64,
        ) {
            let token = issue(&secret, &subscription, generation, Millis(time), "w_1");
            let verdict = verify(&secret, &token, &subscription, Millis(wait));
            let is_early = wait / 1_000 < time / 1_000;
            let expected = if is_early { Ok(generation) } else { Err(TokenError::Expired) };
            prop_assert_eq!(verdict, expected);
        }
    }
}
