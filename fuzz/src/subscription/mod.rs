//! Subscriptions, and everything that they talk to: streams, the directory, the keys, receivers of
//! webhooks and workers.
//!
//! The input is a tape of choices: first the settings, then operations (`operations.rs`). Requests
//! go through the router and the parser to objects, as in the target `request`. Calls between
//! objects wait until an operation carries them out, in one of several ways.

mod fanout_queue;
mod glob;
mod judge;
mod operations;
mod operator;
mod receiver;
mod server;
mod sessions;
mod tape;

use std::sync::Arc;

use machine::router::{Origins, Settings};
use machine::{Limits, Millis, SigningSeed};

use server::Server;
use tape::Tape;

const BEGINNING: Millis = Millis(1_800_000_000_000);
pub(super) const AUTH_TOKEN: &str = "secret";
const PUBLIC_URLS: [Option<&str>; 4] = [
    None,
    Some("https://streams.example"),
    Some("http://localhost:4437"),
    Some("https://93.184.216.34:8443/base"),
];

/// Values of limits, each beginning with the usual one.
const NUMBERS: [(&str, &[u64]); 28] = [
    ("subscription_links_max", &[10_000, 10_000, 10_000, 3, 1]),
    ("stream_links_max", &[10_000, 10_000, 10_000, 2, 1]),
    ("link_calls_max", &[50, 1, 2]),
    ("directory_page_max", &[500, 1, 2]),
    ("asks_max", &[100, 1, 2]),
    ("ask_time_ms", &[5_000, 500, 20_000]),
    ("lease_ms_default", &[30_000, 1_000]),
    ("token_ms", &[3_600_000, 2_000, 60_000]),
    ("pattern_bytes_max", &[1_024, 1_024, 12]),
    ("pattern_double_stars_max", &[4, 2]),
    ("webhook_streams_max", &[100, 1, 0]),
    ("webhook_url_bytes_max", &[2_048, 2_048, 30]),
    ("webhook_time_ms", &[30_000, 1_000]),
    ("outbox_queues_max", &[32, 2, 1]),
    ("outbox_tasks_max", &[32, 2, 1]),
    ("description_bytes_max", &[4_096, 4]),
    ("signing_key_ms", &[2_592_000_000, 3_600_000, 60_000]),
    ("link_check_ms", &[60_000, 1_000]),
    ("reply_timeout_ms", &[30_000, 2_000]),
    ("subscription_bytes_max", &[1 << 20, 1 << 20, 160]),
    ("name_bytes_max", &[1_024, 1_024, 24]),
    ("segment_messages_max", &[100_000, 2, 3]),
    ("session_ttl_seconds", &[86_400, 5, 60]),
    ("session_streams_max", &[1_000, 1, 2]),
    ("stream_sessions_max", &[10_000, 1, 2]),
    ("deliveries_max", &[50, 1]),
    ("delivery_appends_max", &[200, 1, 2]),
    ("envelope_bytes_max", &[256 << 10, 10]),
];

/// Carries out the operations, lets everything come to rest, and judges it all the while.
///
/// # Panics
/// When an answer, a row or a webhook breaks a rule, or the objects do not come to rest.
pub fn subscription(input: &[u8]) {
    let mut tape = Tape::new(input);
    let mut server = Server::new(settings(&mut tape), BEGINNING);
    while !tape.is_empty() {
        server.operate(&mut tape);
    }
    server.look_around(false);
    server.check_envelopes();
    server.settle();
}

fn settings(tape: &mut Tape<'_>) -> Settings {
    let bits = tape.byte();
    let mut limits = Limits {
        subscriptions: true,
        metrics: true,
        webhook_loopback: bits & 1 == 0,
        cold: bits & 6 == 6,
        ..Limits::DEFAULT
    };
    let is_usual = bits & 8 == 0;
    let mut settings = Settings {
        auth_token: (bits & 16 > 0).then(|| AUTH_TOKEN.into()),
        public_url: PUBLIC_URLS[usize::from(bits >> 6)].map(str::to_owned),
        ..Settings::default()
    };
    if bits & 32 > 0 {
        let origins = vec!["https://app.example".to_owned()];
        settings.cors_origins = Origins::Listed(origins);
    }
    if !is_usual {
        for (field, values) in NUMBERS {
            (Limits::row(field).set)(&mut limits, tape.pick(values));
        }
        // Drawn with another limit, so that the committed inputs keep their meaning.
        if limits.deliveries_max == 1 {
            limits.fanout_queue = true;
            limits.fanout_queue_threshold = 0;
            limits.fanout_messages_max = 2;
            limits.fanout_attempts_max = 2;
            limits.fanout_calls_max = 2;
        }
        if tape.seldom(80) {
            let seed = tape.pick(&["A", "B"]).repeat(42) + "A";
            limits.signing_key = SigningSeed::parse(&seed);
        }
    }
    settings.limits = Arc::new(limits);
    settings
}
