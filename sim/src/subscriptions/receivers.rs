//! Receivers of webhooks: they do what they should, or anything else.

use std::collections::BTreeMap;

use machine::{CallOutcome, EffectId, Offset, Webhook};
use serde::Deserialize;

use super::coverage::{Fault, Situation};
use super::judge::Departed;
use super::model::{Life, Offered, Wake};
use super::request::{Action, Kind, Request, Work};
use super::world::{Event, Place, World};

/// How many wakes are remembered, for requests that come too late.
const WAKES_MAX: usize = 20;

/// All receivers.
#[derive(Debug, Default)]
pub(super) struct Receivers {
    /// The attempts whose outcome their instance still waits for.
    pub(super) attempts: BTreeMap<(Place, EffectId), Attempt>,
    /// Wakes of receivers and workers, the last ones.
    pub(super) wakes: Vec<Wake>,
}

/// An attempt to deliver a wake.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) wake: Wake,
    time_ms: u64,
    /// When it counts as lost.
    pub(super) lost_at: u64,
}

/// The body of a webhook, or of the answer to a claim.
#[derive(Deserialize)]
pub(super) struct WakeBody {
    wake_id: String,
    generation: u64,
    #[serde(alias = "callback_token")]
    token: String,
    streams: Vec<StreamBody>,
}

#[derive(Deserialize)]
struct StreamBody {
    path: String,
    acked_offset: String,
    tail_offset: String,
    has_pending: bool,
}

impl WakeBody {
    /// Returns the wake, of this subscription as it was in the turn.
    pub(super) fn wake(self, of: Life, departed: &Departed) -> Option<Wake> {
        let streams = self.streams.into_iter().map(|stream| {
            Some(Offered {
                incarnation: departed.streams.get(&stream.path).copied(),
                acked: match stream.acked_offset.as_str() {
                    "-1" => None,
                    offset => Some(offset.parse().ok()?),
                },
                tail: stream.tail_offset.parse().ok()?,
                is_pending: stream.has_pending,
                path: stream.path,
            })
        });
        Some(Wake {
            of,
            id: self.wake_id,
            generation: self.generation,
            token: self.token,
            streams: streams.collect::<Option<_>>()?,
            lease_ms: departed.lease_ms,
        })
    }
}

impl Wake {
    /// Returns the streams with something to process, up to their tails.
    fn tails(&self) -> Vec<(String, String)> {
        let pending = self.streams.iter().filter(|stream| stream.is_pending);
        let tails = pending.map(|stream| (stream.path.clone(), stream.tail.to_string()));
        tails.collect()
    }

    /// Returns a request for this wake.
    fn work(&self, action: Action, acks: Vec<(String, String)>, done: bool) -> Request {
        let work = Work {
            action,
            token: Some(self.token.clone()),
            wake: self.id.clone(),
            generation: self.generation,
            acks,
            done,
        };
        Request {
            name: self.of.0.clone(),
            kind: Kind::Work(work),
        }
    }
}

impl World<'_, '_> {
    /// Sends a webhook.
    pub(super) fn leaves(
        &mut self,
        at: &Place,
        effect: EffectId,
        webhook: Webhook,
        departed: &Departed,
    ) {
        let body: Option<WakeBody> = serde_json::from_str(&webhook.body).ok();
        let of = departed.of.clone();
        let wake = of.and_then(|of| body?.wake(of, departed));
        let Some(wake) = wake else {
            let oracle = crate::oracles::Oracle::Contract;
            return self.fail(oracle, "the body of a webhook", webhook.body);
        };
        let (skew, limits) = (self.settings.skew_ms, &self.settings.limits);
        let findings = self
            .checkers
            .webhook(&webhook, &wake, departed, skew, limits);
        for finding in findings {
            self.judged(Err(finding));
        }
        if self.checkers.schedule.attempts(&wake.id) > 1 {
            self.cover(Situation::WokenAgain);
        }
        self.note(&at.name, || {
            format!("webhook to {}: {}", webhook.url, webhook.body)
        });
        let attempt = Attempt {
            wake,
            time_ms: webhook.time_ms,
            lost_at: departed.at + webhook.time_ms + self.settings.limits.webhook_grace_ms,
        };
        self.receivers
            .attempts
            .insert((at.clone(), effect), attempt);
        let delay = self.network_delay();
        let (at, webhook) = (at.clone(), Box::new(webhook));
        let event = Event::Webhook {
            at,
            effect,
            webhook,
        };
        self.schedule(delay, event);
    }

    /// Lets the receiver handle a webhook.
    pub(super) fn received(&mut self, at: &Place, effect: EffectId, webhook: &Webhook) {
        let attempt = self.receivers.attempts.get(&(at.clone(), effect));
        let Some(Attempt { wake, time_ms, .. }) = attempt.cloned() else {
            // The object has died, and the request with it.
            return;
        };
        if self.misbehaves(Fault::Receiver) {
            return self.mishandle(at, effect, webhook, &wake, time_ms);
        }
        let wake = self.read_on(wake);
        self.take(&wake);
        self.cover(Situation::Woken);
        self.verify(webhook);
        let pause = self.choices.upto(wake.lease_ms / 8);
        let (soon, later) = (self.network_delay(), self.network_delay() + pause);
        let done = wake.work(Action::Callback, wake.tails(), true);
        match self.choices.upto(5) {
            0 => self.reply(at, effect, later, Some((200, "{\"done\":true}"))),
            1 => {
                self.reply(at, effect, soon, Some((200, "{}")));
                self.schedule(soon + later, Event::Send(Box::new(done)));
            }
            2 => {
                // The receiver calls back before it answers, and its answer says it again.
                self.schedule(soon, Event::Send(Box::new(done)));
                self.reply(at, effect, later + 100, Some((200, "{\"done\":true}")));
                self.cover(Situation::DoneTwice);
            }
            3 => {
                self.reply(at, effect, soon, Some((204, "")));
                let mut part = wake.tails();
                part.truncate(1);
                let part = wake.work(Action::Callback, part, false);
                self.schedule(soon, Event::Send(Box::new(part)));
                self.schedule(soon + later + 50, Event::Send(Box::new(done)));
            }
            4 => {
                // The receiver has read further than it was told, and says so before it answers.
                let further = wake.work(Action::Callback, self.tails_now(&wake), false);
                self.schedule(soon, Event::Send(Box::new(further)));
                self.reply(at, effect, later + 100, Some((200, "{\"done\":true}")));
            }
            _ => {
                self.reply(at, effect, soon, Some((202, "received")));
                self.schedule(later, Event::Send(Box::new(done)));
            }
        }
    }

    /// Returns the tails of the streams of a wake as they are now.
    fn tails_now(&self, wake: &Wake) -> Vec<(String, String)> {
        let pending = wake.streams.iter().filter(|stream| stream.is_pending);
        let tails = pending.filter_map(|stream| {
            let tail = self.model.tail(&stream.path, stream.incarnation?)?;
            Some((stream.path.clone(), tail.to_string()))
        });
        tails.collect()
    }

    /// Notes that a receiver or a worker has a wake.
    pub(super) fn take(&mut self, wake: &Wake) {
        let finding = self.checkers.begin.offered(&self.model, wake);
        self.judged(finding);
        self.model.offered(wake);
        self.receivers.wakes.push(wake.clone());
        if self.receivers.wakes.len() > WAKES_MAX {
            self.receivers.wakes.remove(0);
        }
    }

    /// Lets the holder of a wake read some streams up to where they are now, and not only to the
    /// tails that it was told.
    pub(super) fn read_on(&mut self, mut wake: Wake) -> Wake {
        if !self.choices.fifth().percent(20) {
            return wake;
        }
        for offered in wake.streams.iter_mut().filter(|it| it.is_pending) {
            let Some(((_, incarnation), stream)) = self.model.present(&offered.path) else {
                continue;
            };
            let last = stream.appends.iter().map(|append| append.end).max();
            let has_more = last > Some(offered.tail) && offered.incarnation == Some(incarnation);
            if let Some(last) = last.filter(|_| has_more) {
                offered.tail = last;
            }
        }
        wake
    }

    /// Reports the answer to a webhook, or that there was none.
    fn reply(&mut self, at: &Place, effect: EffectId, delay: u64, answer: Option<(u16, &str)>) {
        if self.fault(Fault::Silence) {
            return;
        }
        let outcome = match answer {
            Some((status, body)) => CallOutcome::Answered {
                status,
                body: body.as_bytes().to_vec().into(),
            },
            None => CallOutcome::Failed,
        };
        self.call_ended(delay, at.clone(), effect, outcome);
    }

    fn mishandle(
        &mut self,
        at: &Place,
        effect: EffectId,
        webhook: &Webhook,
        wake: &Wake,
        time_ms: u64,
    ) {
        let soon = self.network_delay();
        match self.choices.upto(9) {
            0 => self.reply(at, effect, soon, Some((500, "no"))),
            1 => self.reply(at, effect, soon, None),
            2 => self.reply(at, effect, time_ms, None),
            3 => self.reply(at, effect, soon, Some((302, ""))),
            4 => {
                // The answer comes in time, but the object hears of it late.
                self.take(wake);
                self.verify(webhook);
                let late = time_ms + self.choices.upto(self.settings.limits.webhook_grace_ms);
                self.reply(at, effect, late, Some((200, "{\"done\":true}")));
            }
            5 => {
                self.take(wake);
                self.reply(at, effect, soon, Some((200, "{}")));
            }
            6 => {
                self.take(wake);
                self.reply(at, effect, soon, Some((200, "\u{0}{\"done\":")));
            }
            7 => {}
            _ => {
                self.take(wake);
                self.reply(at, effect, soon, Some((200, "null")));
                self.misuse(wake, Action::Callback);
            }
        }
    }

    /// Sends a request for a wake that must be refused, or that is unusual.
    pub(super) fn misuse(&mut self, wake: &Wake, action: Action) {
        let mut acks = wake.tails();
        let first = acks.first().cloned();
        let mut done = self.choices.percent(50);
        let other = self.some_wake().unwrap_or_else(|| wake.clone());
        let mut late = 0;
        let mut is_twice = false;
        let (mut token, mut generation, mut id) = (&wake.token, wake.generation, &wake.id);
        match self.choices.upto(9) {
            0 => (token, generation, id) = (&other.token, other.generation, &other.id),
            1 => token = &other.token,
            2 => generation += 1,
            3 => id = &other.id,
            4 => {
                let beyond = |(stream, _)| (stream, Offset::new(0, 1_000).to_string());
                acks = first.into_iter().map(beyond).collect();
            }
            5 => acks = vec![("a/unknown".to_owned(), Offset::START.to_string())],
            6 => {
                // One good ack, and one that no cursor can go to.
                let known = wake.streams.iter();
                let mut bad = known.map(|stream| (stream.path.clone(), "-1".to_owned()));
                let beyond = Offset::new(0, 1_000).to_string();
                let mut more = wake
                    .streams
                    .iter()
                    .map(|stream| (stream.path.clone(), beyond.clone()));
                let bad = if self.choices.percent(50) {
                    bad.next_back()
                } else {
                    more.next_back()
                };
                acks.extend(bad);
                self.cover(Situation::AckHalf);
            }
            7 => late = wake.lease_ms + self.choices.upto(1_000),
            8 => {
                (is_twice, done) = (true, true);
            }
            _ => {
                let behind = |(stream, _)| (stream, Offset::START.to_string());
                acks = first.into_iter().map(behind).collect();
                self.cover(Situation::AckedPart);
            }
        }
        let work = Work {
            action,
            token: Some(token.clone()),
            wake: id.clone(),
            generation,
            acks,
            done,
        };
        let request = Request {
            name: wake.of.0.clone(),
            kind: Kind::Work(work),
        };
        let delay = self.network_delay() + late;
        if is_twice {
            self.schedule(delay, Event::Send(Box::new(request.clone())));
        }
        self.schedule(delay, Event::Send(Box::new(request)));
    }

    /// Returns one of the wakes that somebody has or has had.
    pub(super) fn some_wake(&mut self) -> Option<Wake> {
        let last = self.receivers.wakes.len().checked_sub(1)?;
        let back = self.choices.upto(last as u64);
        let at = last - usize::try_from(back).unwrap_or(0);
        self.receivers.wakes.get(at).cloned()
    }
}
