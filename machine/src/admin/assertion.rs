//! What Cloudflare Access asserts of a request that it has let through: a JSON web token (RFC 7519)
//! that the keys of the operator's team have signed.

use crate::wire::json;
use crate::wire::request::RequestHead;
use crate::wire::web_token::WebToken;
use crate::{Limits, Millis, Refusal};

const HEADER: &str = "Cf-Access-Jwt-Assertion";
const COOKIE: &str = "CF_Authorization";

/// The application of Cloudflare Access that protects the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The name of the team, before `.cloudflareaccess.com`.
    pub team: String,
    /// The audience tag of the application.
    pub audience: String,
}

/// A token whose claims hold, if its signature does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// Names the key that has signed it.
    pub key_id: String,
    /// The text that is signed, with RSASSA-PKCS1-v1_5 and SHA-256.
    pub signed: String,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Access {
    fn issuer(&self) -> String {
        format!("https://{}.cloudflareaccess.com", self.team)
    }

    /// Returns the URL of the team's keys; see [`super::TeamKeys`].
    #[must_use]
    pub fn keys_url(&self) -> String {
        format!("{}/cdn-cgi/access/certs", self.issuer())
    }
}

/// Returns the token of a request, if it has one.
pub(super) fn token(head: RequestHead<'_>) -> Option<String> {
    (head.header)(HEADER).or_else(|| {
        let cookies = (head.header)("Cookie")?;
        let mut pairs = cookies.split(';').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| name.trim() == COOKIE)?;
        Some(value.trim().to_owned())
    })
}

impl Assertion {
    /// Reads a token, and checks everything but its signature (RFC 7519, section 7.2).
    pub(super) fn read(
        token: &str,
        access: &Access,
        now: Millis,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        if token.len() as u64 > limits.access_token_bytes_max {
            return Err(Refusal::AccessDenied("is too long"));
        }
        let token = WebToken::read(token);
        let token = token.ok_or(Refusal::AccessDenied("is not a JSON web token"))?;
        if !token.is_signed_with("RS256") {
            return Err(Refusal::AccessDenied("is not signed with plain RS256"));
        }
        let key_id = token.header.text("kid");
        let key_id = key_id.ok_or(Refusal::AccessDenied("names no key"))?;
        if token.claims.text("iss") != Some(access.issuer()) {
            return Err(Refusal::AccessDenied("is of another team"));
        }
        let audiences = token.claims.elements("aud").unwrap_or_default();
        let is_meant = audiences
            .iter()
            .any(|audience| json::text(audience).as_ref() == Some(&access.audience));
        if !is_meant {
            return Err(Refusal::AccessDenied("is for another application"));
        }
        let times = token.check_times(now, limits.access_skew_ms_max);
        times.map_err(Refusal::AccessDenied)?;
        Ok(Self {
            key_id,
            signed: token.signed.to_owned(),
            signature: token.signature,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::admin) const NOW: Millis = Millis(1_800_000_000_000);

    pub(in crate::admin) fn access() -> Access {
        Access {
            team: "example".to_owned(),
            audience: "tag".to_owned(),
        }
    }

    pub(in crate::admin) fn claims() -> Value {
        json!({
            "iss": "https://example.cloudflareaccess.com",
            "aud": ["other", "tag"],
            "exp": 1_800_000_100,
            "nbf": 1_799_999_900,
            "email": "operator@example.com",
        })
    }

    pub(in crate::admin) fn token_of(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.AQID", part(header), part(claims))
    }

    pub(in crate::admin) fn header() -> Value {
        json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" })
    }

    fn read(token: &str) -> Result<Assertion, String> {
        Assertion::read(token, &access(), NOW, &Limits::DEFAULT).map_err(|why| why.to_string())
    }

    /// Returns the reason for which a token with changed members is refused.
    fn refused(of_header: bool, name: &str, value: Option<Value>) -> Option<String> {
        let (mut header, mut claims) = (header(), claims());
        let changed = if of_header { &mut header } else { &mut claims };
        let changed = changed.as_object_mut().expect("it is an object");
        match value {
            Some(value) => changed.insert(name.to_owned(), value),
            None => changed.remove(name),
        };
        read(&token_of(&header, &claims)).err()
    }

    #[test]
    fn a_token_whose_claims_hold_is_split_for_its_signature() {
        let token = token_of(&header(), &claims());
        let (signed, _) = token.rsplit_once('.').expect("a token has parts");
        let expected = Assertion {
            key_id: "k1".to_owned(),
            signed: signed.to_owned(),
            signature: vec![1, 2, 3],
        };
        assert_eq!(read(&token), Ok(expected));
        assert_eq!(
            access().keys_url(),
            "https://example.cloudflareaccess.com/cdn-cgi/access/certs"
        );
    }

    #[test]
    fn every_claim_that_does_not_hold_is_refused() {
        let (team, application) = ("is of another team", "is for another application");
        let (end, yet) = ("has no valid end", "is not valid yet");
        let algorithm = "is not signed with plain RS256";
        for (of_header, name, value, reason) in [
            (true, "alg", Some(json!("none")), algorithm),
            (true, "alg", Some(json!("HS256")), algorithm),
            (true, "alg", Some(json!("RS512")), algorithm),
            (true, "alg", Some(json!(["RS256"])), algorithm),
            (true, "alg", None, algorithm),
            (true, "crit", Some(json!(["b64"])), algorithm),
            (true, "kid", None, "names no key"),
            (true, "kid", Some(json!(1)), "names no key"),
            (false, "iss", None, team),
            (
                false,
                "iss",
                Some(json!("https://other.cloudflareaccess.com")),
                team,
            ),
            (
                false,
                "iss",
                Some(json!("https://example.cloudflareaccess.com/")),
                team,
            ),
            (false, "aud", None, application),
            (false, "aud", Some(json!("ta")), application),
            (false, "aud", Some(json!([])), application),
            (false, "aud", Some(json!([["tag"]])), application),
            (false, "aud", Some(json!({ "tag": "tag" })), application),
            (false, "exp", None, end),
            (false, "exp", Some(json!("1800000100")), end),
            (false, "exp", Some(json!(-1)), end),
            (false, "exp", Some(json!(1_799_999_940)), "has expired"),
            (false, "exp", Some(json!(0)), "has expired"),
            (false, "nbf", Some(json!(1_800_000_061)), yet),
            (false, "nbf", Some(json!("soon")), yet),
            (false, "nbf", Some(json!(u64::MAX)), yet),
        ] {
            assert_eq!(
                refused(of_header, name, value.clone()),
                Some(format!("the token of Cloudflare Access {reason}")),
                "{name}: {value:?}"
            );
        }
        for (name, value) in [
            ("aud", Some(json!("tag"))),
            ("nbf", None),
            ("nbf", Some(json!(1_800_000_060))),
            ("exp", Some(json!(1_799_999_941))),
            ("exp", Some(json!((1_u64 << 53) - 1))),
        ] {
            assert_eq!(
                refused(false, name, value.clone()),
                None,
                "{name}: {value:?}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let whole = token_of(&header(), &claims());
        let parts: Vec<_> = whole.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            panic!("a token has three parts");
        };
        let other = "the token of Cloudflare Access is of another team";
        for json in ["[]", "{}", "{", "", "{}x"] {
            let claims = URL_SAFE_NO_PAD.encode(json);
            let token = format!("{header}.{claims}.{signature}");
            assert_eq!(read(&token), Err(other.to_owned()), "{json}");
        }
        for token in [
            String::new(),
            ".".to_owned(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}.{signature}.{signature}"),
            format!("{header}.{claims}.{signature}="),
            format!("{header}.{claims}.a+b/"),
            format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode([0xff])),
            format!("{whole}, {whole}"),
        ] {
            let reason = "the token of Cloudflare Access is not a JSON web token";
            assert_eq!(read(&token), Err(reason.to_owned()), "{token}");
        }
        let long = "x".repeat(Limits::DEFAULT.access_token_bytes_max as usize + 1);
        let reason = "the token of Cloudflare Access is too long";
        assert_eq!(read(&long), Err(reason.to_owned()));
    }

    #[test]
    fn the_token_is_in_a_header_or_in_a_cookie() {
        for (headers, expected) in [
            (&[("Cf-Access-Jwt-Assertion", "a")][..], Some("a")),
            (&[("Cookie", "CF_Authorization=b")], Some("b")),
            (&[("Cookie", "x=1; CF_Authorization=b ;y=2")], Some("b")),
            (&[("Cookie", "CF_Authorization=")], Some("")),
            (
                &[("Cookie", "xCF_Authorization=b; CF_Authorizationx=c")],
                None,
            ),
            (&[("Cookie", "cf_authorization=b")], None),
            (
                &[
                    ("Cookie", "CF_Authorization=b"),
                    ("Cf-Access-Jwt-Assertion", "a"),
                ],
                Some("a"),
            ),
            (&[], None),
        ] {
            let header = |name: &str| {
                let found = headers.iter().find(|(each, _)| *each == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let head = RequestHead {
                method: "GET",
                origin: "http://h",
                target: "/admin/api",
                header: &header,
            };
            assert_eq!(token(head).as_deref(), expected, "{headers:?}");
        }
    }
}
