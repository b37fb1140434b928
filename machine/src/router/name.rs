//! Stream names: the part of a URL after the prefix, in canonical spelling.

use percent_encoding::percent_decode_str;

use crate::{Limits, Refusal};

/// The stream of creations and deletions. Only the server writes to it. It is the first of the
/// registry's shards.
pub const REGISTRY: &str = "__registry__";

/// Returns whether only the server may write to the stream of this name. True for all shards, even
/// those beyond the current number of shards, and for all other names with the registry's prefix.
#[must_use]
pub fn is_registry(name: &str) -> bool {
    let rest = name.strip_prefix(REGISTRY);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The beginning of the names of sessions' streams.
pub(crate) const SESSION_PREFIX: &str = "subscriptions/";

/// Returns whether this is the name of a session's stream, which only the server writes to: the
/// prefix, and a UUID of version 4 in lower case.
#[must_use]
pub fn is_session(name: &str) -> bool {
    let Some(id) = name.strip_prefix(SESSION_PREFIX) else {
        return false;
    };
    id.len() == 36
        && id.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b'),
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// Returns whether streams of this name are the server's own. They are listed nowhere.
#[must_use]
pub(crate) fn is_internal(name: &str) -> bool {
    is_registry(name) || is_session(name)
}

/// Returns the number of the registry shard for the stream of this canonical name. Each stream
/// stores its number, so a change of this function does not move existing streams.
#[must_use]
pub(crate) fn registry_shard(name: &str, limits: &Limits) -> u64 {
    u64::from(crc32fast::hash(name.as_bytes())) % limits.registry_shards
}

/// Returns the name of a registry shard.
#[must_use]
pub fn of_registry_shard(shard: u64) -> String {
    if shard == 0 {
        REGISTRY.to_owned()
    } else {
        format!("{REGISTRY}/{shard}")
    }
}

/// The first segment of the protocol's control paths (protocol 6).
pub const CONTROL_PREFIX: &str = "__ds";

const MALFORMED: Refusal = Refusal::Malformed("the stream name is not valid percent-encoded UTF-8");

/// Returns the canonical spelling of a name (RFC 3986, 6.2.2): only the necessary characters are
/// percent-encoded, in upper case. A slash and an encoded slash stay different, so different names
/// stay different.
///
/// # Errors
/// Fails when the name cannot be decoded, has dot segments, or is too long in this spelling.
pub fn canonical(id: &str, limits: &Limits) -> Result<String, Refusal> {
    let mut name = String::with_capacity(id.len());
    let mut bytes = id.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || {
                    bytes
                        .next()
                        .and_then(|digit| char::from(digit).to_digit(16))
                };
                let (high, low) = (digit(), digit());
                let decoded = high
                    .zip(low)
                    .map(|(high, low)| {
                        u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte")
                    })
                    .ok_or(MALFORMED)?;
                if !is_unreserved(decoded) {
                    push_encoded(&mut name, decoded);
                    continue;
                }
                decoded
            }
            byte => byte,
        };
        if is_unreserved(byte) || is_plain_in_path(byte) {
            name.push(char::from(byte));
        } else {
            push_encoded(&mut name, byte);
        }
    }
    percent_decode_str(&name)
        .decode_utf8()
        .map_err(|_| MALFORMED)?;
    // A client that resolves the URL by the standard (RFC 3986, 5.2.4) would request another
    // stream.
    if name.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Refusal::Malformed(
            "the stream name has a segment of nothing but dots",
        ));
    }
    let max = limits.name_bytes_max;
    if name.len() as u64 > max {
        Err(Refusal::NameTooLong { max })
    } else {
        Ok(name)
    }
}

fn push_encoded(name: &mut String, byte: u8) {
    name.push_str(&format!("%{byte:02X}"));
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Returns whether a path may contain the character unencoded. Encoded, it has another meaning.
const fn is_plain_in_path(byte: u8) -> bool {
    matches!(
        byte,
        b'/' | b'!'
            | b'$'
            | b'&'
            | b'\''
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b':'
            | b'@'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> Result<String, Refusal> {
        canonical(id, &Limits::DEFAULT)
    }

    #[test]
    fn equal_names_are_spelled_alike_and_others_are_not() {
        assert_eq!(name("a%7Eb%7e~").as_deref(), Ok("a~b~~"));
        assert_eq!(name("a%2fb").as_deref(), Ok("a%2Fb"));
        assert_eq!(name("a/b").as_deref(), Ok("a/b"));
        assert_eq!(name("ü").as_deref(), Ok("%C3%BC"));
        assert_eq!(name("%c3%bc x").as_deref(), Ok("%C3%BC%20x"));
        assert_eq!(name("a%3Ab:c").as_deref(), Ok("a%3Ab:c"));
        // RFC 3986, 2.2: an encoded delimiter differs from the plain one.
        assert_eq!(name("a(b)").as_deref(), Ok("a(b)"));
        assert_eq!(name("a%28b%29").as_deref(), Ok("a%28b%29"));
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for id in ["%", "%4", "%zz", "a%C3", "%FF"] {
            assert_eq!(name(id), Err(MALFORMED), "{id}");
        }
    }

    #[test]
    fn dot_segments_are_refused() {
        for id in [".", "..", "a/../b", "a/%2e%2E", "./a", "a/%2e"] {
            assert!(name(id).is_err(), "{id}");
        }
        assert_eq!(name("...").as_deref(), Ok("..."));
        assert_eq!(name("a.b/.c").as_deref(), Ok("a.b/.c"));
    }

    /// This runs natively. The simulator's `meta` compares whole runs with wasm32.
    #[test]
    fn the_shard_of_a_name_never_changes() {
        let of = |name: &str, registry_shards: u64| {
            let limits = Limits {
                registry_shards,
                ..Limits::DEFAULT
            };
            registry_shard(name, &limits)
        };
        assert_eq!((of("123456789", 1), of("123456789", 256)), (0, 0x26));
        assert_eq!([of("a", 3), of("b", 3), of("%C3%BC", 3)], [0, 2, 1]);
        let mut counts = [0_u64; 7];
        for number in 0..7_000 {
            counts[usize::try_from(of(&format!("chat/{number}"), 7)).unwrap_or(7)] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn every_shard_and_what_is_below_the_registry_is_the_servers() {
        for shard in [0, 1, 2, 255, 1_000] {
            assert!(is_registry(&of_registry_shard(shard)), "{shard}");
        }
        assert_eq!(of_registry_shard(0), "__registry__");
        assert_eq!(of_registry_shard(2), "__registry__/2");
        for name in ["__registry__/", "__registry__/a", "__registry__/1/2"] {
            assert!(is_registry(name), "{name}");
        }
        for name in [
            "__registry__1",
            "__registry__%2F1",
            "a/__registry__",
            "__registry_",
        ] {
            assert!(!is_registry(name), "{name}");
        }
    }

    #[test]
    fn length_is_bounded() {
        let max = Limits::DEFAULT.name_bytes_max;
        let longest = "n".repeat(usize::try_from(max).unwrap());
        assert!(name(&longest).is_ok());
        assert_eq!(name(&(longest + "n")), Err(Refusal::NameTooLong { max }));
    }
}
