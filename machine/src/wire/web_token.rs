//! JSON web tokens (RFC 7519), in the compact form with three parts.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json;
use super::request::safe_integer;
use crate::Millis;

const MILLIS_PER_SECOND: u64 = 1_000;

/// A token as it was sent. Nothing of it is proven.
pub(crate) struct WebToken<'a> {
    pub(crate) header: Claims,
    pub(crate) claims: Claims,
    /// The text that is signed.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

/// The JSON in a part of a token. What is no object has no members.
pub(crate) struct Claims(String);

impl<'a> WebToken<'a> {
    /// Returns the parts of a token; `None` if the text does not have three parts that can be
    /// decoded.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        Some(Self {
            header: Claims::read(header)?,
            claims: Claims::read(claims)?,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Returns whether the token is signed with this algorithm, and has no extension that its
    /// reader must understand (RFC 7515, section 4.1.11).
    pub(crate) fn is_signed_with(&self, algorithm: &str) -> bool {
        self.header.text("alg").as_deref() == Some(algorithm)
            && self.header.member("crit").is_none()
    }

    /// Checks the times between which the token is valid. The clock of its issuer may differ by
    /// `skew_ms`.
    ///
    /// # Errors
    /// Fails with what holds for the token, as the rest of a sentence.
    pub(crate) fn check_times(&self, now: Millis, skew_ms: u64) -> Result<(), &'static str> {
        let expires_at = self.claims.member("exp").as_deref().and_then(time);
        let expires_at = expires_at.ok_or("has no valid end")?;
        if expires_at.plus(skew_ms) <= now {
            return Err("has expired");
        }
        if let Some(from) = self.claims.member("nbf") {
            time(&from)
                .filter(|from| *from <= now.plus(skew_ms))
                .ok_or("is not valid yet")?;
        }
        Ok(())
    }
}

impl Claims {
    fn read(part: &str) -> Option<Self> {
        let json = URL_SAFE_NO_PAD.decode(part).ok()?;
        String::from_utf8(json).ok().map(Self)
    }

    /// Returns a member as JSON.
    pub(crate) fn member(&self, name: &str) -> Option<String> {
        json::member(&self.0, name)
    }

    /// Returns a member that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        json::text(&self.member(name)?)
    }

    /// Returns the elements of a member as JSON. A member that is no array counts as one element.
    pub(crate) fn elements(&self, name: &str) -> Option<Vec<String>> {
        let member = self.member(name)?;
        Some(json::elements(&member).unwrap_or_else(|| vec![member]))
    }
}

/// Reads whole seconds since 1970.
fn time(seconds: &str) -> Option<Millis> {
    let seconds = safe_integer(seconds)?;
    Some(Millis(seconds.saturating_mul(MILLIS_PER_SECOND)))
}
