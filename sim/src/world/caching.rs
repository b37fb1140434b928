//! HTTP caches between clients and the edge.

use std::rc::Rc;

use super::client::Received;
use super::{Event, World};
use crate::coverage::Situation;
use crate::http_cache::{Done, HttpCache, Lookup, Scope, Stored};
use crate::ids::{CacheId, CallId, ClientId, Table};
use crate::oracles::{CachedRead, Oracle, Position};
use crate::request::{Request, Response};

/// Who asked for a stored answer, and the state of the stream when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Provenance {
    position: Position,
    client: ClientId,
}

/// All caches of the world.
pub(super) type Caches = Table<CacheId, HttpCache<Provenance>>;

/// How a call's answer reaches its client.
#[derive(Clone, Debug, Default)]
pub(super) enum Way {
    /// No cache is between them.
    #[default]
    Direct,
    /// A cache has forwarded the request.
    Forwarded {
        cache: CacheId,
        asked_at: u64,
        revalidates: Option<Box<Stored<Provenance>>>,
        /// Whether the client has its answer already.
        in_background: bool,
    },
    /// A cache has answered.
    Answered { asked_at: u64 },
}

impl World<'_, '_> {
    /// Puts caches in front of clients, as the settings say.
    pub(super) fn place_caches(&mut self) {
        let settings = &self.engine.settings.caches;
        let (cached, shared, serves_stale) = (
            settings.percent,
            settings.shared_percent,
            settings.serves_stale,
        );
        let mut common = None;
        for client in self.clients.ids() {
            let choices = self.engine.choices.third();
            if !choices.percent(cached) {
                continue;
            }
            let is_shared = choices.percent(shared);
            let cache = match common.filter(|_| is_shared) {
                Some(cache) => cache,
                None => {
                    let scope = if is_shared {
                        Scope::Shared
                    } else {
                        Scope::Private
                    };
                    self.caches.push(HttpCache::new(scope, serves_stale))
                }
            };
            if is_shared {
                common = Some(cache);
            }
            self.clients[client].cache = Some(cache);
        }
    }

    fn cached_url(&self, call: CallId) -> String {
        let call = &self.calls[call];
        call.request.url(&self.objects[call.object].url)
    }

    /// Lets a client's cache handle its request. Returns whether the cache has answered it.
    pub(super) fn ask_cache(&mut self, call: CallId, client: ClientId) -> bool {
        let Some(cache) = self.clients[client].cache else {
            return false;
        };
        let now = self.engine.now();
        let url = self.cached_url(call);
        let request = Rc::clone(&self.calls[call].request);
        let forwarded = |revalidates, in_background| Way::Forwarded {
            cache,
            asked_at: now,
            revalidates,
            in_background,
        };
        match self.caches[cache].look_up(now, &url, &request) {
            Lookup::Forward => {
                self.calls[call].way = forwarded(None, false);
                false
            }
            Lookup::Revalidate { tag, stored } => {
                self.engine
                    .note("cache", || format!("c{call} is sent on with {tag}"));
                self.calls[call].request = conditional(&request, tag);
                self.calls[call].way = forwarded(Some(stored), false);
                false
            }
            Lookup::Answer {
                response,
                provenance,
                asked_at,
                is_stale,
            } => {
                self.engine.cover(Situation::CacheHit);
                if request.parameter("live").is_some() {
                    self.engine.cover(Situation::CacheHitLongPoll);
                }
                if provenance.client != client {
                    self.engine.cover(Situation::CacheHitOther);
                }
                if provenance.position.incarnation() != self.calls[call].floor.incarnation() {
                    self.engine.cover(Situation::CacheHitFormer);
                }
                self.engine.note("cache", || {
                    format!("answers c{call} by itself, stale {is_stale}")
                });
                self.calls[call].way = Way::Answered { asked_at };
                if is_stale {
                    self.engine.cover(Situation::CacheStale);
                    self.ask_again(call, forwarded(None, true));
                }
                let delay = self.engine.network_delay();
                let received = Received {
                    response,
                    position: provenance.position,
                    connection: None,
                    fetching: None,
                    sealed: None,
                };
                self.engine.schedule(delay, Event::Reply { call, received });
                true
            }
        }
    }

    /// Lets a cache refresh in the background an answer that it has served.
    fn ask_again(&mut self, answered: CallId, way: Way) {
        let call = &self.calls[answered];
        // Only an edge connects, and only while its client waits.
        if call.request.parameter("live").is_some() {
            return;
        }
        let (object, operation, request) =
            (call.object, call.operation(), Rc::clone(&call.request));
        let call = self.call(object, operation, None, &request);
        self.calls[call].way = way;
        self.engine
            .note("cache", || format!("c{call} asks again for c{answered}"));
        self.send(call);
    }

    /// Returns whether only a cache waits for this call.
    pub(super) fn is_in_background(&self, call: CallId) -> bool {
        matches!(
            self.calls[call].way,
            Way::Forwarded {
                in_background: true,
                ..
            }
        )
    }

    /// Passes an answer through the cache of its client. Returns what the client gets.
    pub(super) fn pass_cache(&mut self, call: CallId, received: Received) -> Option<Received> {
        let Way::Forwarded {
            cache,
            asked_at,
            revalidates,
            in_background,
        } = self.calls[call].way.clone()
        else {
            return Some(received);
        };
        let url = self.cached_url(call);
        let request = Rc::clone(&self.calls[call].request);
        let provenance = Provenance {
            position: received.position,
            client: self.operations[self.calls[call].operation()].client,
        };
        let now = self.engine.now();
        let it = &mut self.caches[cache];
        let scope = it.scope;
        let revalidates = revalidates.map(|stored| *stored);
        let is_revalidation = revalidates.is_some();
        let (done, response) = it.receive(
            (asked_at, now),
            &url,
            &request,
            revalidates,
            received.response,
            provenance,
        );
        self.engine.note("cache", || format!("c{call}: {done:?}"));
        match done {
            Done::Stored | Done::Replaced => {
                self.engine.cover(Situation::CacheStored);
                if done == Done::Replaced && (is_revalidation || in_background) {
                    self.engine.cover(Situation::CacheReplaced);
                }
                self.check_shared(scope, &request, &response);
            }
            Done::Freshened => {
                self.engine.cover(Situation::CacheRevalidated);
                self.check_shared(scope, &request, &response);
            }
            Done::Refused => self.engine.cover(Situation::CacheRefused),
            Done::Invalidated => self.engine.cover(Situation::CacheInvalidated),
            Done::Passed => {}
        }
        let received = Received {
            response,
            ..received
        };
        if done == Done::Freshened {
            self.check_cached(call, &received, asked_at);
        }
        (!in_background).then_some(received)
    }

    /// Judges that a shared cache stores no private answer.
    fn check_shared(&mut self, scope: Scope, request: &Request, response: &Response) {
        if scope == Scope::Shared && self.engine.settings.whole_reads && response.status < 300 {
            let expected = format!("no shared cache to keep {}", request.line());
            self.engine
                .fail(Oracle::PrivateAnswers, expected, response.line());
        }
    }

    /// Judges an answer that a cache gave by itself. Returns whether it is one.
    pub(super) fn observe_cached(&mut self, call: CallId, received: &Received) -> bool {
        let Way::Answered { asked_at } = self.calls[call].way else {
            return false;
        };
        self.check_cached(call, received, asked_at);
        true
    }

    fn check_cached(&mut self, call: CallId, received: &Received, asked_at: u64) {
        let call = &self.calls[call];
        let Received {
            response, position, ..
        } = received;
        let (Some(incarnation), 200) = (position.incarnation(), response.status) else {
            return;
        };
        let Some(next) = self.next_position(call.object, incarnation, response) else {
            return;
        };
        let read = CachedRead {
            response,
            position: *position,
            floor: call.floor,
            age_ms: self.engine.now().saturating_sub(asked_at),
            is_live: call.request.parameter("live").is_some(),
            content: self.models[call.object].content(incarnation),
            next,
        };
        let verdict = read.check();
        self.engine.check(Oracle::CachedReads, verdict);
    }
}

/// Returns the same request with `If-None-Match`.
fn conditional(request: &Request, tag: String) -> Rc<Request> {
    let mut request = request.clone();
    request.headers.push(("If-None-Match", tag));
    Rc::new(request)
}
