use std::collections::VecDeque;

use ed25519_dalek::{Signature, VerifyingKey};
use proptest::prelude::*;

use super::*;

fn hexadecimal<const COUNT: usize>(text: &str) -> [u8; COUNT] {
    let mut bytes = [0; COUNT];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
    }
    bytes
}

/// RFC 8032, 7.1, tests 1 to 3.
#[test]
fn signatures_are_those_of_the_standard() {
    for (seed, public, message, signature) in [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            &b""[..],
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac\
                 c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            &b"\x72"[..],
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e\
                 458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            &b"\xaf\x82"[..],
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290\
                 ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let pair = KeyPair::from_seed(hexadecimal(seed));
        assert_eq!(pair.key.verifying_key().as_bytes(), &hexadecimal(public));
        assert_eq!(
            pair.key.sign(message).to_bytes(),
            hexadecimal::<64>(signature)
        );
    }
}

/// Checks a signature as a receiver does, with the keys that it has.
fn verifies(jwks: &str, header: &str, body: &[u8]) -> bool {
    let jwks: serde_json::Value = serde_json::from_str(jwks).unwrap();
    let part = |name: &str| {
        let parts = header.split(',');
        let mut parts = parts.filter_map(|part| part.split_once('='));
        parts.find(|(key, _)| *key == name).unwrap().1.to_owned()
    };
    let keys = jwks["keys"].as_array().unwrap();
    let Some(key) = keys.iter().find(|key| key["kid"] == part("kid")) else {
        return false;
    };
    assert!(key.get("d").is_none());
    let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let public: [u8; 32] = decoded(key["x"].as_str().unwrap()).try_into().unwrap();
    let signature: [u8; 64] = decoded(&part("ed25519")).try_into().unwrap();
    let mut message = format!("{}.", part("t")).into_bytes();
    message.extend_from_slice(body);
    let key = VerifyingKey::from_bytes(&public).unwrap();
    key.verify_strict(&message, &Signature::from_bytes(&signature))
        .is_ok()
}

#[test]
fn a_signature_covers_its_time_and_its_body() {
    let mut ring = KeyRing::default();
    assert!(ring.advance(Millis(5), &mut || [7; 32], &Limits::DEFAULT));
    let header = ring.signing_key(Millis(5)).sign(1_700_000_000, b"{}");
    let jwks = ring.jwks();
    assert!(verifies(&jwks, &header, b"{}"));
    assert!(!verifies(&jwks, &header, b"{} "));
    assert!(!verifies(&jwks, &header.replace("t=17", "t=18"), b"{}"));
    let secret = BASE64_URL_SAFE_NO_PAD.encode([7; 32]);
    assert!(!jwks.contains(&secret) && !format!("{ring:?}").contains('7'));
}

#[test]
fn through_a_year_every_signature_verifies_with_the_keys_that_caches_have() {
    let limits = Limits::DEFAULT;
    let (age, window) = (
        limits.jwks_max_age_s * 1_000,
        limits.webhook_replay_window_ms,
    );
    let mut drawn = 0_u64;
    let mut seed = || {
        drawn += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&drawn.to_le_bytes());
        seed
    };
    let mut ring = KeyRing::default();
    // The sets that caches may still serve, and the signatures that receivers may still check.
    let mut served: VecDeque<(u64, String)> = VecDeque::new();
    let mut signed: VecDeque<(u64, String)> = VecDeque::new();
    // What a subscription was given last.
    let mut leased: Option<(KeyPair, Millis)> = None;
    let mut now = 1_000_000;
    let mut pauses = [1_000, 40_000, 250_000, 3_600_000, 40 * 86_400_000, 100_000]
        .iter()
        .cycle();
    let mut rotations = 0;
    while now < 1_000_000 + 366 * 86_400_000 {
        rotations += u64::from(ring.advance(Millis(now), &mut seed, &limits));
        served.push_back((now, ring.jwks()));
        served.retain(|(at, _)| now <= at + age);
        if leased
            .as_ref()
            .is_none_or(|(_, until)| Millis(now) > *until)
        {
            let until = ring.signs_until(Millis(now), &limits);
            leased = Some((ring.signing_key(Millis(now)), until));
        }
        let (key, _) = leased.as_ref().unwrap();
        signed.push_back((now, key.sign(now / 1_000, b"x")));
        signed.retain(|(at, _)| now <= at + window);
        for (at, jwks) in &served {
            for (_, header) in &signed {
                assert!(verifies(jwks, header, b"x"), "served at {at}, now {now}");
            }
        }
        assert!(ring.keys.len() <= 3);
        now += pauses.next().unwrap();
    }
    assert!(rotations > 5);
}

/// RFC 8037, A.2 and A.3.
#[test]
fn a_key_is_named_by_its_thumbprint() {
    let seed = hexadecimal("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let pair = KeyPair::from_seed(seed);
    let kid = "ds_kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    assert_eq!((pair.kid(), pair.seed()), (kid, &seed));
    assert_eq!(
        serde_json::to_value(pair.jwk()).unwrap(),
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "alg": "EdDSA", "x": x,
        })
    );
}

const NOW: Millis = Millis(1_800_000_000_000);
const DAY_MS: u64 = 86_400_000;
/// The lifetime of a cache and the skew of clocks.
const LEAD_MS: u64 = 305_000;

/// A ring whose seeds are numbers.
#[derive(Default)]
struct Rotation {
    ring: KeyRing,
    seeds: u64,
    was_given: bool,
}

impl Rotation {
    fn advance(&mut self, now: Millis, limits: &Limits) -> bool {
        let mut seed = || {
            self.seeds += 1;
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&self.seeds.to_le_bytes());
            seed
        };
        self.was_given |= limits.signing_key.is_some();
        let before = self.ring.clone();
        let has_changed = self.ring.advance(now, &mut seed, limits);
        assert_eq!(has_changed, before != self.ring);
        let mut none = || unreachable!("one step is enough");
        assert!(!self.ring.advance(now, &mut none, limits));
        for pair in self.ring.keys.windows(2) {
            // A key that was given may have ended the signatures of the first one before.
            assert!(self.was_given || pair[0].signs_until == pair[1].signs_from);
            assert!(pair[0].signs_until >= pair[1].signs_from);
        }
        has_changed
    }

    /// Returns the numbers of the public keys.
    fn published(&self) -> Vec<u64> {
        self.ring.keys.iter().map(|key| number(&key.seed)).collect()
    }

    fn signer(&self, now: Millis) -> u64 {
        number(self.ring.signing_key(now).seed())
    }
}

fn number(seed: &[u8; 32]) -> u64 {
    u64::from_le_bytes(seed[..8].try_into().unwrap())
}

#[test]
fn keys_follow_each_other_to_the_millisecond() {
    let limits = Limits::DEFAULT;
    let mut rotation = Rotation::default();
    assert!(rotation.advance(NOW, &limits));
    let end = NOW.plus(30 * DAY_MS);
    assert_eq!(
        (
            rotation.signer(NOW),
            rotation.ring.signs_until(NOW, &limits)
        ),
        (1, end)
    );

    assert!(!rotation.advance(Millis(end.0 - LEAD_MS - 1), &limits));
    assert!(rotation.advance(Millis(end.0 - LEAD_MS), &limits));
    assert_eq!(rotation.published(), [1, 2]);
    let before = Millis(end.0 - 1);
    assert_eq!(
        (
            rotation.signer(before),
            rotation.ring.signs_until(before, &limits)
        ),
        (1, end)
    );
    let next = end.plus(30 * DAY_MS);
    assert_eq!(
        (
            rotation.signer(end),
            rotation.ring.signs_until(end, &limits)
        ),
        (2, next)
    );

    let kept = end.plus(300_000 + LEAD_MS);
    assert!(!rotation.advance(kept, &limits));
    assert!(rotation.advance(kept.plus(1), &limits));
    assert_eq!(rotation.published(), [2]);
}

#[test]
fn after_a_long_sleep_the_old_key_signs_until_caches_have_the_new_one() {
    let limits = Limits::DEFAULT;
    let mut rotation = Rotation::default();
    rotation.advance(NOW, &limits);
    let later = NOW.plus(400 * DAY_MS);
    assert!(rotation.advance(later, &limits));
    let turn = later.plus(LEAD_MS);
    assert_eq!(
        (
            rotation.signer(later),
            rotation.ring.signs_until(later, &limits)
        ),
        (1, turn)
    );
    assert_eq!(rotation.signer(turn), 2);

    // It slept with the next key published. That one has signed nothing, but may at once.
    let end = rotation.ring.signs_until(turn, &limits);
    rotation.advance(Millis(end.0 - 1), &limits);
    let later = end.plus(400 * DAY_MS);
    rotation.advance(later, &limits);
    assert_eq!(
        (rotation.published(), rotation.signer(later)),
        (vec![3, 4], 3)
    );
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let mut rotation = Rotation::default();
    rotation.advance(NOW, &Limits::DEFAULT);
    assert!(!rotation.advance(Millis(0), &Limits::DEFAULT));
    assert_eq!(rotation.signer(Millis(0)), 1);
}

const GIVEN: u64 = u64::from_le_bytes([0xA0; 8]);
const OTHER: u64 = u64::from_le_bytes([0xB0; 8]);

fn giving(number: Option<u64>) -> Limits {
    let seed = number.map(|number| {
        let [byte, ..] = number.to_le_bytes();
        SigningSeed([byte; 32])
    });
    Limits {
        signing_key: seed,
        ..Limits::DEFAULT
    }
}

#[test]
fn a_given_key_signs_from_the_beginning_and_for_ever() {
    let limits = giving(Some(GIVEN));
    let mut rotation = Rotation::default();
    assert!(rotation.advance(NOW, &limits));
    for now in [NOW, NOW.plus(30 * DAY_MS), NOW.plus(4_000 * DAY_MS)] {
        assert!(!rotation.advance(now, &limits));
        assert_eq!(
            (rotation.published(), rotation.signer(now)),
            (vec![GIVEN], GIVEN)
        );
        // So soon a subscription learns of another one.
        let until = rotation.ring.signs_until(now, &limits);
        assert_eq!(until, now.plus(LEAD_MS));
    }
    assert_eq!(rotation.seeds, 0);
}

#[test]
fn another_given_key_signs_once_caches_have_it() {
    let mut rotation = Rotation::default();
    rotation.advance(NOW, &giving(Some(GIVEN)));
    let change = NOW.plus(DAY_MS);
    let limits = giving(Some(OTHER));
    assert!(rotation.advance(change, &limits));
    let turn = change.plus(LEAD_MS);
    for (now, signer) in [(change, GIVEN), (Millis(turn.0 - 1), GIVEN), (turn, OTHER)] {
        assert!(!rotation.advance(now, &limits));
        assert_eq!(rotation.signer(now), signer);
        assert_eq!(rotation.published(), [GIVEN, OTHER]);
    }
    assert_eq!(rotation.ring.signs_until(change, &limits), turn);
    let kept = turn.plus(300_000 + LEAD_MS);
    assert!(!rotation.advance(kept, &limits));
    assert!(rotation.advance(kept.plus(1), &limits));
    assert_eq!(rotation.published(), [OTHER]);

    // One that is given again while it is still published is published once.
    rotation.advance(kept.plus(1), &giving(Some(GIVEN)));
    rotation.advance(kept.plus(2), &limits);
    assert_eq!(rotation.published(), [OTHER, GIVEN, OTHER]);
    assert_eq!(rotation.ring.jwks().matches("kid").count(), 2);
}

#[test]
fn a_given_key_follows_made_ones_and_made_ones_follow_it() {
    let mut rotation = Rotation::default();
    rotation.advance(NOW, &giving(None));
    let end = rotation.ring.signs_until(NOW, &giving(None));
    let change = NOW.plus(DAY_MS);
    let limits = giving(Some(GIVEN));
    assert!(rotation.advance(change, &limits));
    let turn = change.plus(LEAD_MS);
    assert_eq!(rotation.ring.signs_until(change, &limits), turn);
    assert_eq!((rotation.signer(change), rotation.signer(turn)), (1, GIVEN));
    // A subscription may hold the former key until its end.
    let kept = end.plus(300_000 + LEAD_MS);
    rotation.advance(kept, &limits);
    assert_eq!(rotation.published(), [1, GIVEN]);
    assert!(rotation.advance(kept.plus(1), &limits));
    assert_eq!(rotation.published(), [GIVEN]);

    let limits = giving(None);
    let change = kept.plus(DAY_MS);
    assert!(rotation.advance(change, &limits));
    let turn = change.plus(LEAD_MS);
    assert_eq!((rotation.signer(change), rotation.signer(turn)), (GIVEN, 2));
    let end = turn.plus(30 * DAY_MS);
    assert_eq!(rotation.ring.signs_until(turn, &limits), end);
}

#[test]
fn a_ring_that_was_stored_before_keys_were_given_can_be_read() {
    let seed = [7; 32];
    let stored = serde_json::json!({
        "keys": [{ "seed": seed, "signs_from": 1, "signs_until": 2 }],
    });
    let ring: KeyRing = serde_json::from_value(stored).unwrap();
    assert!(!ring.keys[0].is_given);
}

#[test]
fn keys_are_few_with_any_limits() {
    for (jwks_max_age_s, clock_skew_ms_max) in [(0, 0), (0, 5_000), (300, 0), (300, 5_000)] {
        let limits = Limits {
            signing_key_ms: 1,
            jwks_max_age_s,
            clock_skew_ms_max,
            ..Limits::DEFAULT
        };
        let mut rotation = Rotation::default();
        for step in 0..5_000 {
            rotation.advance(NOW.plus(step * 1_000), &limits);
            assert!(rotation.ring.keys.len() <= 3, "{:?}", rotation.ring);
        }
        assert!(rotation.seeds > 5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Subscriptions hold keys by clocks that differ, the ring sleeps for any time, and the
    /// operator gives keys and takes them back.
    #[test]
    fn every_set_that_a_receiver_can_have_has_the_key_of_every_signature(
        period_ms in prop_oneof![Just(1), Just(30 * DAY_MS), 0..2 * DAY_MS],
        steps in prop::collection::vec(
            (
                prop_oneof![
                    8 => 0..180_000_u64,
                    4 => 240_000..720_000_u64,
                    2 => 0..DAY_MS,
                    1 => 0..90 * DAY_MS,
                ],
                0..=10_000_u64,
                prop_oneof![
                    12 => Just(None),
                    1 => prop::option::of(prop_oneof![Just(GIVEN), Just(OTHER)]).prop_map(Some),
                ],
            ),
            1..120,
        ),
    ) {
        let mut limits = Limits { signing_key_ms: period_ms.max(1), ..Limits::DEFAULT };
        let cached_ms = limits.jwks_max_age_s * 1_000;
        let mut rotation = Rotation::default();
        let mut held: Option<(u64, Millis)> = None;
        let (mut served, mut signed) = (Vec::new(), Vec::new());
        let mut now = NOW;
        for (pause, skew, change) in steps {
            now = now.plus(pause);
            if let Some(number) = change {
                limits.signing_key = giving(number).signing_key;
            }
            rotation.advance(now, &limits);
            let own_clock = Millis(now.0 + skew - limits.clock_skew_ms_max);
            if held.is_none_or(|(_, until)| own_clock > until) {
                held = Some((rotation.signer(now), rotation.ring.signs_until(now, &limits)));
            }
            let (key, _) = held.unwrap();
            served.push((now, rotation.published()));
            signed.push((now, key));
            served.retain(|(at, _)| now <= at.plus(cached_ms));
            signed.retain(|(at, _)| now <= at.plus(limits.webhook_replay_window_ms));
            for (at, published) in &served {
                for (_, key) in &signed {
                    prop_assert!(published.contains(key), "{key} {published:?} {at:?} {now:?}");
                }
            }
        }
    }
}
