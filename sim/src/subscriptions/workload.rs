//! What clients do.

use std::sync::Arc;

use machine::SigningSeed;

use super::coverage::{Fault, Situation};
use super::model::Floors;
use super::request::{Action, Asked, Content, Delivery, Format, Kind, Request, object_of};
use super::world::{Event, World};

const STREAMS: [&str; 5] = ["a/1", "a/b/2", "b/1", "a/2", "c"];
const SUBSCRIPTIONS: [&str; 3] = ["s1", "s2", "s3"];
const WAKE_STREAMS: [&str; 2] = ["wake/one", "wake/two"];
const PATTERNS: [&str; 6] = ["a/**", "a/*", "b/*", "*/1", "a/b/2", "**/2"];
/// Only webhooks follow everything. Two pull-wake subscriptions would wake each other for ever.
const EVERYTHING: &str = "**";
const GOOD_URLS: [&str; 3] = [
    "https://receiver.example/hook",
    "https://other.example:8443/a/b?c=d",
    "http://127.0.0.1:9000/hook",
];
const BAD_URLS: [&str; 6] = [
    "http://10.0.0.1/hook",
    "http://receiver.example/hook",
    "https://169.254.169.254/latest",
    "https://[::1]/hook",
    "https://user@receiver.example/hook",
    "https://streams.example/v1/stream/a",
];
const LEASES_MS: [u64; 5] = [30_000, 1_000, 2_000, 120_000, 600_000];
const SIGNING_SEEDS: [&str; 2] = [
    "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",
    "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI",
];
const SETTLES_AFTER_MS: u64 = 1_000;
const RETRIES_MAX: u64 = 1_700;
const LEASE_ENDS_MS: u64 = 4_000_000;
const PAUSES_MS: [u64; 7] = [100, 1_100, 6_000, 70_000, 400_000, 4_000_000, 100_000_000];

/// Returns whether webhooks may go to a URL, as this world knows its URLs.
pub(super) fn is_good(url: &str, loopback: bool) -> bool {
    let is_local = url.contains("//127.0.0.1") || url.contains("//[::1]");
    if is_local {
        loopback
    } else {
        GOOD_URLS.contains(&url)
    }
}

impl World<'_, '_> {
    /// Sends the next request.
    pub(super) fn client(&mut self) {
        if self.left == 0 {
            // Faults end here, because only the application can repair what they have left broken.
            self.is_calm = true;
            // Until then all requests have taken effect.
            let pause = self.settings.late_ms + SETTLES_AFTER_MS;
            return self.schedule(pause, Event::Settle);
        }
        self.left -= 1;
        if !self.session_operation() {
            self.operate();
        }
        let gap = self.choices.upto(self.settings.gap_ms);
        let pause = core::mem::take(&mut self.pause_ms);
        self.schedule(gap + pause, Event::Client);
    }

    #[expect(clippy::too_many_lines, reason = "it is one table")]
    fn operate(&mut self) {
        match self
            .choices
            .weighted(&[16, 5, 8, 4, 3, 1, 3, 3, 3, 2, 2, 3, 5, 1, 2, 3, 1, 1, 2])
        {
            0 => self.append(None),
            1 => {
                let name = self.stream();
                self.create_stream(name);
            }
            2 => {
                let id = self.id();
                self.subscribe(id);
            }
            3 => {
                let id = self.id();
                self.append(Some(id));
            }
            4 => {
                let name = self.stream();
                let kind = Kind::DeleteStream;
                self.send(Request { name, kind });
            }
            5 => {
                let name = self.stream();
                let kind = Kind::Close;
                self.send(Request { name, kind });
            }
            6 => self.unsubscribe(),
            7 => {
                let (name, stream) = (self.id(), self.stream());
                let kind = Kind::AddStreams(vec![stream]);
                self.send(Request { name, kind });
            }
            8 => {
                let (name, stream) = (self.id(), self.stream());
                let kind = Kind::RemoveStream(stream);
                self.send(Request { name, kind });
            }
            9 => {
                let name = self.id();
                let kind = Kind::Describe;
                self.send(Request { name, kind });
            }
            10 => {
                let id = self.id();
                let worker = self.choices.upto(1);
                self.claim(&id, worker);
            }
            11 => {
                if let Some(wake) = self.some_wake()
                    && self.misbehaves(Fault::Worker)
                {
                    let action = [Action::Callback, Action::Ack, Action::Release];
                    let action = self.choices.one_of(&action);
                    self.misuse(&wake, action);
                }
            }
            12 => {
                let pause = self.choices.one_of(&PAUSES_MS);
                // A task that cannot be done is tried every few seconds.
                let mut longest = self.settings.limits.retry_ms_max * RETRIES_MAX;
                if !self.settings.limits.webhook_loopback {
                    // A wake with a refused URL is retried as well, each time when its lease ends.
                    longest = longest.min(LEASE_ENDS_MS);
                }
                self.pause_ms = pause.min(longest);
            }
            13 => {
                if self.fault(Fault::Crash) {
                    let names: Vec<_> = self.objects.keys().cloned().collect();
                    if let Some(last) = names.len().checked_sub(1) {
                        let at = self.choices.upto(last as u64);
                        let name = names[usize::try_from(at).unwrap_or(0)].clone();
                        self.schedule(0, Event::Crash { name });
                    }
                }
            }
            14 => {
                // A subscription is deleted and created again, perhaps before its creation is
                // answered.
                let name = self.id();
                let former = self.asked.get(&name).cloned();
                let kind = Kind::Unsubscribe;
                self.send(Request {
                    name: name.clone(),
                    kind,
                });
                if let Some(former) = former {
                    let kind = Kind::Subscribe(former);
                    self.send(Request { name, kind });
                }
            }
            15 => {
                let name = self.stream();
                let kind = Kind::DeleteStream;
                self.send(Request {
                    name: name.clone(),
                    kind,
                });
                self.create_stream(name);
            }
            16 => {
                let name = WAKE_STREAMS[usize::from(self.choices.percent(50))].to_owned();
                self.cover(Situation::WakeStreamGone);
                self.workers.has_lost_stream = true;
                let kind = if self.choices.percent(20) {
                    Kind::Close
                } else {
                    Kind::DeleteStream
                };
                self.send(Request { name, kind });
            }
            17 => self.restart_with_other_settings(),
            _ => {
                for _ in 0..3 {
                    self.append(None);
                }
            }
        }
    }

    fn stream(&mut self) -> String {
        self.choices.one_of(&STREAMS).to_owned()
    }

    fn id(&mut self) -> String {
        self.choices.one_of(&SUBSCRIPTIONS).to_owned()
    }

    fn append(&mut self, then_claim: Option<String>) {
        let name = self.stream();
        if !self.model.present.contains_key(&name) {
            return self.create_stream(name);
        }
        let messages = self.choices.between(1, 3);
        let content = self.content(&name, messages);
        let kind = Kind::Append {
            content,
            then_claim,
        };
        self.send(Request { name, kind });
    }

    fn create_stream(&mut self, name: String) {
        let messages = self.choices.upto(2);
        let kind = Kind::CreateStream {
            content: self.new_content(Format::Json, messages),
            closed: self.choices.percent(3),
            ttl_s: self
                .choices
                .one_of(&[None, None, None, None, None, None, Some(3), Some(100)]),
        };
        self.send(Request { name, kind });
    }

    /// Returns what the next append to a stream has.
    pub(super) fn content(&mut self, name: &str, messages: u64) -> Content {
        let rows = self.objects.get(name).map(|object| &object.disk);
        let head = rows.and_then(|rows| rows.head());
        let format = head.map_or(Format::Json, |head| Format::of(&head.content_type));
        self.new_content(format, messages)
    }

    /// Returns content that differs from all before.
    pub(super) fn new_content(&mut self, format: Format, messages: u64) -> Content {
        let number = self.contents;
        self.contents += messages;
        Content {
            format,
            messages,
            number,
        }
    }

    fn subscribe(&mut self, id: String) {
        let former = self.asked.get(&id).cloned();
        let asked = match (former, self.choices.upto(9)) {
            (Some(former), 0..=2) => former,
            _ => self.configuration(),
        };
        if let Delivery::PullWake(name) = &asked.delivery
            && !self.model.present.contains_key(name)
            && !self.choices.percent(10)
        {
            let (name, kind) = (name.clone(), wake_stream());
            self.send(Request { name, kind });
        }
        self.asked.insert(id.clone(), asked.clone());
        let kind = Kind::Subscribe(asked);
        self.send(Request { name: id, kind });
    }

    fn configuration(&mut self) -> Asked {
        let is_pull = self.choices.percent(50);
        let delivery = if is_pull {
            Delivery::PullWake(self.choices.one_of(&WAKE_STREAMS).to_owned())
        } else if self.choices.percent(5) {
            Delivery::Webhook(self.choices.one_of(&BAD_URLS).to_owned())
        } else {
            Delivery::Webhook(self.choices.one_of(&GOOD_URLS).to_owned())
        };
        let pattern = if self.choices.percent(25) {
            None
        } else if !is_pull && self.choices.percent(15) {
            Some(EVERYTHING.to_owned())
        } else {
            Some(self.choices.one_of(&PATTERNS).to_owned())
        };
        let least = u64::from(pattern.is_none());
        let count = self.choices.between(least, 2);
        let streams = (0..count).map(|_| self.stream()).collect();
        Asked {
            delivery,
            pattern,
            streams,
            lease_ms: self.choices.one_of(&LEASES_MS),
        }
    }

    fn unsubscribe(&mut self) {
        let name = self.id();
        let is_asked = |pending: &super::world::Pending| {
            matches!(&pending.caller, super::world::Caller::Client { request, .. }
                if request.name == name && matches!(request.kind, Kind::Subscribe(_)))
        };
        if self.calls.values().any(is_asked) {
            self.cover(Situation::DeletedDuringCreation);
        }
        let kind = Kind::Unsubscribe;
        self.send(Request { name, kind });
    }

    /// The operator forbids webhooks to this machine, or else gives another signing key or takes it
    /// back, and starts the server again.
    fn restart_with_other_settings(&mut self) {
        if self.is_calm {
            return;
        }
        let limits = Arc::make_mut(&mut self.settings.limits);
        if limits.webhook_loopback {
            limits.webhook_loopback = false;
        } else {
            let [first, second] = SIGNING_SEEDS.map(SigningSeed::parse);
            assert!(first.is_some() && second.is_some(), "the seeds are valid");
            limits.signing_key = if limits.signing_key.is_none() {
                first
            } else if limits.signing_key == first {
                second
            } else {
                None
            };
        }
        self.has_restarted = true;
        self.restart();
    }

    /// All objects end.
    pub(super) fn restart(&mut self) {
        let names: Vec<_> = self.objects.keys().cloned().collect();
        for name in names {
            self.crash(&name);
        }
    }

    /// Returns what a subscription that is asked for now must not be woken for: what was
    /// acknowledged before, in streams that the directory has, or that are named.
    pub(super) fn floors(&self, asked: &Asked) -> Floors {
        let mut floors = Floors::new();
        for name in self.model.present.keys() {
            let Some((life, stream)) = self.model.present(name) else {
                continue;
            };
            let rows = self.objects.get(name).map(|object| &object.disk);
            let head = rows.and_then(|rows| rows.head());
            let is_listed = head.is_some_and(|head| !head.unannounced.directory);
            let is_named = asked.streams.contains(name) && !asked.matches(name);
            if let Some(last) = stream.appends.iter().map(|append| append.end).max()
                && (is_listed || is_named)
            {
                floors.insert(life, last);
            }
        }
        floors
    }

    /// Puts right what only the application can put right, once faults are over.
    pub(super) fn settle(&mut self) {
        Arc::make_mut(&mut self.settings.limits).webhook_loopback = true;
        self.restart();
        if self.settings.sessions.are_there {
            self.schedule(self.settings.rest_ms(), Event::SessionsRest);
        }
        for name in WAKE_STREAMS {
            let rows = self.objects.get(name).map(|object| &object.disk);
            let head = rows.and_then(|rows| rows.head());
            if head.is_some_and(|head| head.closed.is_some()) {
                let (name, kind) = (name.to_owned(), Kind::DeleteStream);
                self.send(Request { name, kind });
            }
            // After the deletion.
            let (name, kind) = (name.to_owned(), wake_stream());
            let create = Request { name, kind };
            self.schedule(1_000, Event::Send(Box::new(create)));
        }
        // Workers read their wake streams again, and lost ones say nothing.
        for id in SUBSCRIPTIONS {
            let head = self.durable_view(&object_of(id)).head;
            let has_events = self.workers.heard.contains(id);
            if head.is_some() && (has_events || self.workers.has_lost_stream) {
                let kind = Kind::Claim {
                    worker: "worker 0".to_owned(),
                };
                let name = id.to_owned();
                self.schedule(2_000, Event::Send(Box::new(Request { name, kind })));
            }
        }
    }

    /// Deletes all that is there.
    pub(super) fn delete_all(&mut self) {
        for id in SUBSCRIPTIONS {
            let (name, kind) = (id.to_owned(), Kind::Unsubscribe);
            self.send(Request { name, kind });
        }
        for name in self.existing() {
            let kind = Kind::DeleteStream;
            self.send(Request { name, kind });
        }
    }
}

fn wake_stream() -> Kind {
    Kind::CreateStream {
        content: Content {
            format: Format::Json,
            messages: 0,
            number: 0,
        },
        closed: false,
        ttl_s: None,
    }
}
