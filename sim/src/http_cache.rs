//! An HTTP cache, written from RFC 9111 and RFC 5861. It knows nothing of streams. Only headers
//! decide what it keeps, and for how long.
//!
//! Times are milliseconds. `W` is what the simulator remembers of an answer.

use std::collections::BTreeMap;

use crate::request::{Request, Response};

/// Who shares a cache (RFC 9111, 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One client, as the cache of a browser does.
    Private,
    /// Several clients, as a CDN does.
    Shared,
}

/// The directives of a `Cache-Control` that this cache obeys.
#[derive(Debug, Default)]
struct Directives {
    no_store: bool,
    no_cache: bool,
    private: bool,
    public: bool,
    must_revalidate: bool,
    max_age: Option<u64>,
    s_maxage: Option<u64>,
    stale_while_revalidate: Option<u64>,
}

impl Directives {
    fn read(text: Option<&str>) -> Self {
        let mut read = Self::default();
        for directive in text.unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            let (name, value) = directive.split_once('=').unwrap_or((&directive, ""));
            // A time that cannot be read has passed (RFC 9111, 4.2.1).
            let seconds = || Some(value.trim_matches('"').parse().unwrap_or(0));
            match name {
                "no-store" => read.no_store = true,
                "no-cache" => read.no_cache = true,
                "private" => read.private = true,
                "public" => read.public = true,
                "must-revalidate" | "proxy-revalidate" => read.must_revalidate = true,
                "max-age" => read.max_age = seconds(),
                "s-maxage" => read.s_maxage = seconds(),
                "stale-while-revalidate" => read.stale_while_revalidate = seconds(),
                _ => {}
            }
        }
        read
    }

    /// Returns how long an answer is fresh (RFC 9111, 4.2.1). Without a header that says so, it is
    /// not fresh at all.
    fn lifetime_ms(&self, scope: Scope) -> u64 {
        let shared = self.s_maxage.filter(|_| scope == Scope::Shared);
        shared.or(self.max_age).unwrap_or(0).saturating_mul(1_000)
    }
}

/// A stored answer.
#[derive(Clone, Debug)]
pub struct Stored<W> {
    response: Response,
    /// The request's values of the headers that `Vary` names.
    vary: Vec<(String, Option<String>)>,
    asked_at: u64,
    received_at: u64,
    provenance: W,
}

impl<W> Stored<W> {
    /// Returns how old it is (RFC 9111, 4.2.3). The time in transit counts.
    fn age_ms(&self, now: u64) -> u64 {
        let announced = self
            .response
            .header("Age")
            .and_then(|age| age.parse::<u64>().ok());
        let delay = self.received_at.saturating_sub(self.asked_at);
        let initial = announced
            .unwrap_or(0)
            .saturating_mul(1_000)
            .saturating_add(delay);
        initial.saturating_add(now.saturating_sub(self.received_at))
    }

    fn matches(&self, request: &Request) -> bool {
        self.vary
            .iter()
            .all(|(name, value)| request.header(name) == value.as_deref())
    }

    /// Returns the answer that a client gets now.
    fn aged(&self, now: u64) -> Response {
        let mut response = self.response.clone();
        response
            .headers
            .retain(|(name, _)| !name.eq_ignore_ascii_case("Age"));
        let seconds = self.age_ms(now) / 1_000;
        response.headers.push(("Age".into(), seconds.to_string()));
        response
    }
}

/// The decision of a cache on a request.
#[derive(Debug)]
pub enum Lookup<W> {
    /// It forwards the request.
    Forward,
    /// It answers. When the answer is stale, it also refreshes it in the background.
    Answer {
        response: Response,
        provenance: W,
        /// When the stored answer was asked for, or last found unchanged.
        asked_at: u64,
        is_stale: bool,
    },
    /// It forwards the request with this entity tag, to learn whether the stored answer is
    /// unchanged.
    Revalidate { tag: String, stored: Box<Stored<W>> },
}

/// The effect of an answer on a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Stored,
    /// The stored answer was unchanged.
    Freshened,
    /// The stored answer was outdated.
    Replaced,
    /// The answer may not be stored.
    Refused,
    /// A write was answered, so the cache has removed the answers that the write can have changed.
    Invalidated,
    /// The answer is not of a kind that is stored.
    Passed,
}

/// An HTTP cache.
#[derive(Debug)]
pub struct HttpCache<W> {
    pub scope: Scope,
    /// Whether it serves stale answers as `stale-while-revalidate` permits (RFC 5861, 3).
    serves_stale: bool,
    stored: BTreeMap<String, Stored<W>>,
}

impl<W: Clone> HttpCache<W> {
    #[must_use]
    pub const fn new(scope: Scope, serves_stale: bool) -> Self {
        Self {
            scope,
            serves_stale,
            stored: BTreeMap::new(),
        }
    }

    /// Looks for an answer to a request (RFC 9111, 4).
    #[must_use]
    pub fn look_up(&self, now: u64, url: &str, request: &Request) -> Lookup<W> {
        let wants = Directives::read(request.header("Cache-Control"));
        // The stream compares the client's own tags.
        let is_conditional = ["If-None-Match", "If-Match", "If-Modified-Since", "Range"]
            .iter()
            .any(|name| request.header(name).is_some());
        if request.method != "GET" || is_conditional || wants.no_store {
            return Lookup::Forward;
        }
        let Some(stored) = self
            .stored
            .get(url)
            .filter(|stored| stored.matches(request))
        else {
            return Lookup::Forward;
        };
        let says = Directives::read(stored.response.header("Cache-Control"));
        let (age, lifetime) = (stored.age_ms(now), says.lifetime_ms(self.scope));
        let stale_ms = says
            .stale_while_revalidate
            .unwrap_or(0)
            .saturating_mul(1_000);
        let is_fresh = age < lifetime;
        let may_be_stale = self.serves_stale
            && !says.must_revalidate
            && says.s_maxage.is_none()
            && age < lifetime.saturating_add(stale_ms);
        if !says.no_cache && !wants.no_cache && (is_fresh || may_be_stale) {
            return Lookup::Answer {
                response: stored.aged(now),
                provenance: stored.provenance.clone(),
                asked_at: stored.asked_at,
                is_stale: !is_fresh,
            };
        }
        match stored.response.header("ETag") {
            Some(tag) => Lookup::Revalidate {
                tag: tag.to_owned(),
                stored: Box::new(stored.clone()),
            },
            None => Lookup::Forward,
        }
    }

    /// Accepts the answer to a request that it has forwarded. Returns the client's answer.
    pub fn receive(
        &mut self,
        (asked_at, now): (u64, u64),
        url: &str,
        request: &Request,
        revalidated: Option<Stored<W>>,
        response: Response,
        provenance: W,
    ) -> (Done, Response) {
        if request.method != "GET" {
            let is_safe = request.method == "HEAD";
            // Only answers with exactly this URL (RFC 9111, 4.4).
            let invalidates = !is_safe && (200..400).contains(&response.status);
            if invalidates && self.stored.remove(url).is_some() {
                return (Done::Invalidated, response);
            }
            return (Done::Passed, response);
        }
        if response.status == 304 {
            let Some(mut stored) = revalidated else {
                return (Done::Passed, response);
            };
            // Headers of the new answer replace the stored ones (RFC 9111, 3.2).
            for (name, value) in response.headers {
                let headers = &mut stored.response.headers;
                headers.retain(|(each, _)| !each.eq_ignore_ascii_case(&name));
                stored.response.headers.push((name, value));
            }
            (stored.asked_at, stored.received_at, stored.provenance) = (asked_at, now, provenance);
            let given = stored.response.clone();
            if self.may_store(request, &given) {
                self.stored.insert(url.to_owned(), stored);
            } else {
                self.stored.remove(url);
            }
            return (Done::Freshened, given);
        }
        if response.status >= 500 {
            return (Done::Passed, response);
        }
        if !self.may_store(request, &response) {
            self.stored.remove(url);
            return (Done::Refused, response);
        }
        let vary = response.header("Vary").unwrap_or_default().split(',');
        let vary = vary.map(str::trim).filter(|name| !name.is_empty());
        let vary = vary.map(|name| (name.to_owned(), request.header(name).map(str::to_owned)));
        let stored = Stored {
            response: response.clone(),
            vary: vary.collect(),
            asked_at,
            received_at: now,
            provenance,
        };
        let before = self.stored.insert(url.to_owned(), stored);
        let done = if before.is_some() {
            Done::Replaced
        } else {
            Done::Stored
        };
        (done, response)
    }

    /// Returns whether an answer may be stored (RFC 9111, 3).
    fn may_store(&self, request: &Request, response: &Response) -> bool {
        let wants = Directives::read(request.header("Cache-Control"));
        let says = Directives::read(response.header("Cache-Control"));
        let is_shared = self.scope == Scope::Shared;
        let needs_public = is_shared && request.header("Authorization").is_some();
        let is_forbidden = wants.no_store
            || says.no_store
            || is_shared && says.private
            || needs_public && !says.public
            || response.header("Vary") == Some("*");
        let may_be_guessed = matches!(
            response.status,
            200 | 203 | 204 | 404 | 405 | 410 | 414 | 501
        );
        let is_final = response.status != 206 && response.status >= 200;
        let says_so = says.public
            || says.max_age.is_some()
            || (is_shared && says.s_maxage.is_some())
            || (!is_shared && says.private);
        !is_forbidden && is_final && (says_so || may_be_guessed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(cache_control: &str) -> Response {
        Response {
            status: 200,
            headers: vec![
                ("Cache-Control".into(), cache_control.to_owned()),
                ("ETag".into(), "\"1\"".to_owned()),
            ],
            body: b"body".as_slice().into(),
        }
    }

    fn filled(scope: Scope, serves_stale: bool, cache_control: &str) -> HttpCache<()> {
        let mut cache = HttpCache::new(scope, serves_stale);
        let request = Request::new("GET");
        let _ = cache.receive(
            (1_000, 3_000),
            "u",
            &request,
            None,
            answer(cache_control),
            (),
        );
        cache
    }

    fn kind(cache: &HttpCache<()>, now: u64) -> &'static str {
        match cache.look_up(now, "u", &Request::new("GET")) {
            Lookup::Forward => "forward",
            Lookup::Answer {
                is_stale: false, ..
            } => "fresh",
            Lookup::Answer { is_stale: true, .. } => "stale",
            Lookup::Revalidate { .. } => "revalidate",
        }
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says() {
        for (scope, serves_stale, says, at, expected) in [
            (Scope::Shared, false, "public, max-age=60", 60_999, "fresh"),
            (
                Scope::Shared,
                false,
                "public, max-age=60",
                61_000,
                "revalidate",
            ),
            (
                Scope::Shared,
                false,
                "private, max-age=60",
                4_000,
                "forward",
            ),
            (Scope::Private, false, "private, max-age=60", 4_000, "fresh"),
            (
                Scope::Private,
                false,
                "private, no-cache",
                4_000,
                "revalidate",
            ),
            (Scope::Private, false, "no-store", 4_000, "forward"),
            (
                Scope::Private,
                false,
                "no-cache, no-store, no-transform",
                4_000,
                "forward",
            ),
            (
                Scope::Shared,
                false,
                "max-age=9, s-maxage=60",
                60_999,
                "fresh",
            ),
            (
                Scope::Private,
                false,
                "max-age=9, s-maxage=60",
                60_999,
                "revalidate",
            ),
            (
                Scope::Shared,
                true,
                "max-age=60, stale-while-revalidate=300",
                360_999,
                "stale",
            ),
            (
                Scope::Shared,
                true,
                "max-age=60, stale-while-revalidate=300",
                361_000,
                "revalidate",
            ),
            (
                Scope::Shared,
                false,
                "max-age=60, stale-while-revalidate=300",
                62_000,
                "revalidate",
            ),
            (Scope::Shared, true, "max-age=60", 62_000, "revalidate"),
            (Scope::Shared, false, "max-age=x", 4_000, "revalidate"),
            (Scope::Shared, false, "", 4_000, "revalidate"),
        ] {
            assert_eq!(
                kind(&filled(scope, serves_stale, says), at),
                expected,
                "{says} at {at}"
            );
        }
    }

    #[test]
    fn an_unchanged_answer_takes_the_new_headers() {
        let mut cache = filled(Scope::Private, false, "private, no-cache");
        let request = Request::new("GET");
        let Lookup::Revalidate { tag, stored } = cache.look_up(9_000, "u", &request) else {
            panic!("the answer must be revalidated");
        };
        assert_eq!(tag, "\"1\"");
        let unchanged = Response {
            status: 304,
            headers: vec![("cache-control".into(), "max-age=5".to_owned())],
            ..Response::default()
        };
        let (done, given) =
            cache.receive((9_000, 9_500), "u", &request, Some(*stored), unchanged, ());
        assert_eq!(
            (done, given.status, &given.body[..]),
            (Done::Freshened, 200, &b"body"[..])
        );
        assert_eq!(given.header("Cache-Control"), Some("max-age=5"));
        assert_eq!(
            (kind(&cache, 13_999), kind(&cache, 14_000)),
            ("fresh", "revalidate")
        );
    }

    #[test]
    fn a_write_forgets_what_has_its_url() {
        let mut cache = filled(Scope::Private, false, "max-age=60");
        let post = Request::new("POST");
        let _ = cache.receive(
            (4_000, 4_000),
            "other",
            &post,
            None,
            Response::default(),
            (),
        );
        assert_eq!(kind(&cache, 4_000), "fresh");
        let done = Response {
            status: 204,
            ..Response::default()
        };
        let _ = cache.receive((4_000, 4_000), "u", &post, None, done, ());
        assert_eq!(kind(&cache, 4_000), "forward");
    }
}
