//! The contents of `/metrics`, in the text format of Prometheus.

use std::time::Duration;

use machine::{Event, EventKind};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    request_seconds: Histogram,
    commit_seconds: Histogram,
    commit_jobs: Histogram,
    pub(crate) failed_turns: Counter,
    pub(crate) refused: Family<Refused, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) healthy: Gauge,
    pub(crate) readers: Gauge,
    pub(crate) loaded_streams: Gauge,
    events: Family<OfKind, Counter>,
    appended_messages: Counter,
    appended_bytes: Counter,
    pub(crate) cold_puts: Counter,
    pub(crate) cold_put_failures: Counter,
    pub(crate) cold_put_bytes: Counter,
    pub(crate) cold_collected: Counter,
    pub(crate) page_cache_hits: Counter,
    pub(crate) cold_fetches: Counter,
    pub(crate) cold_fetched_bytes: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    event: &'static str,
}

/// The bound that a request exceeded when it was answered 503.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Refused {
    pub(crate) bound: Bound,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Bound {
    Connections,
    Readers,
    Queue,
    Bodies,
    Pages,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("durable_streams");
        // From 0.1 ms to 13 s, and from 1 request to 1,024.
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let metrics = Self {
            requests: Family::default(),
            request_seconds: seconds(),
            commit_seconds: seconds(),
            commit_jobs: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            failed_turns: Counter::default(),
            refused: Family::default(),
            connections: Gauge::default(),
            healthy: Gauge::default(),
            readers: Gauge::default(),
            loaded_streams: Gauge::default(),
            events: Family::default(),
            appended_messages: Counter::default(),
            appended_bytes: Counter::default(),
            cold_puts: Counter::default(),
            cold_put_failures: Counter::default(),
            cold_put_bytes: Counter::default(),
            cold_collected: Counter::default(),
            page_cache_hits: Counter::default(),
            cold_fetches: Counter::default(),
            cold_fetched_bytes: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register(
            "request_seconds",
            "Time to an answer, live reads aside",
            metrics.request_seconds.clone(),
        );
        registry.register(
            "commit_seconds",
            "Time to make the writes of a commit durable",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "commit_jobs",
            "Requests and other events that shared a commit",
            metrics.commit_jobs.clone(),
        );
        registry.register(
            "failed_turns",
            "Requests and other events that failed and were rolled back",
            metrics.failed_turns.clone(),
        );
        registry.register(
            "refused",
            "Requests refused because a bound was reached",
            metrics.refused.clone(),
        );
        registry.register(
            "connections",
            "Connections that are open",
            metrics.connections.clone(),
        );
        registry.register(
            "healthy",
            "1 while /health answers 200, and otherwise 0",
            metrics.healthy.clone(),
        );
        registry.register("readers", "Live readers", metrics.readers.clone());
        registry.register(
            "loaded_streams",
            "Streams whose state is in memory",
            metrics.loaded_streams.clone(),
        );
        registry.register(
            "events",
            "Requests that streams have handled, and what happens to them by itself",
            metrics.events.clone(),
        );
        // A rate needs a first value.
        for kind in EventKind::ALL {
            drop(metrics.events.get_or_create(&OfKind { event: kind.name() }));
        }
        for (name, help, counter) in [
            (
                "appended_messages",
                "Messages of JSON streams, and appends of all others",
                &metrics.appended_messages,
            ),
            (
                "appended_bytes",
                "Bytes of these messages, without their framing",
                &metrics.appended_bytes,
            ),
            (
                "cold_puts",
                "Segments stored in the cold tier",
                &metrics.cold_puts,
            ),
            (
                "cold_put_failures",
                "Puts of segments that are not known to have succeeded",
                &metrics.cold_put_failures,
            ),
            (
                "cold_put_bytes",
                "Bytes of the segments stored",
                &metrics.cold_put_bytes,
            ),
            (
                "cold_collected",
                "Objects deleted from the cold tier, or found to be gone",
                &metrics.cold_collected,
            ),
            (
                "page_cache_hits",
                "Pages that were answered from memory",
                &metrics.page_cache_hits,
            ),
            (
                "cold_fetches",
                "Ranges of objects asked of the cold tier for pages",
                &metrics.cold_fetches,
            ),
            (
                "cold_fetched_bytes",
                "Bytes that the cold tier has sent for pages",
                &metrics.cold_fetched_bytes,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        Self {
            registry,
            ..metrics
        }
    }

    pub(crate) fn answered(&self, method: &str, status: u16, took: Option<Duration>) {
        const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"];
        // A client may send any word as the method.
        let known = METHODS.into_iter().find(|each| *each == method);
        let method = known.unwrap_or("other");
        self.requests
            .get_or_create(&Request { method, status })
            .inc();
        if let Some(took) = took {
            self.request_seconds.observe(took.as_secs_f64());
        }
    }

    /// Counts the events of a turn.
    pub(crate) fn count(&self, events: &[Event]) {
        for event in events {
            let kind = OfKind {
                event: event.kind.name(),
            };
            let counter = self.events.get_or_create(&kind);
            counter.inc_by(event.calls.max(1));
            if matches!(event.kind, EventKind::Append | EventKind::Create) {
                self.appended_messages.inc_by(event.messages);
                self.appended_bytes.inc_by(event.bytes);
            }
        }
    }

    pub(crate) fn committed(&self, took: Duration, jobs: usize) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_jobs.observe(jobs as f64);
    }

    pub(crate) fn refuse(&self, bound: Bound) {
        self.refused.get_or_create(&Refused { bound }).inc();
    }

    /// Writes all metrics.
    ///
    /// # Errors
    /// Never, when writing to a text.
    pub(crate) fn text(&self, format: Format) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Plain => plain(&text),
        })
    }
}

/// The format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Plain,
}

impl Format {
    /// Returns the format that an `Accept` header prefers. The default is the one that every
    /// scraper and every browser can read.
    pub(crate) fn asked_for(accept: &str) -> Self {
        let quality = |name: &str| {
            let ranges = accept.split(',').map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let is_it = parts
                    .next()
                    .is_some_and(|range| range.eq_ignore_ascii_case(name));
                let quality = parts.find_map(|part| part.strip_prefix("q="));
                let quality = quality.map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
                if is_it { quality } else { 0.0 }
            });
            ranges.fold(0.0, f32::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Plain
        }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Removes what only OpenMetrics has: the family names of counters, and the end mark.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len() + 1_024);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        let renames = is_counter(line)
            || (line.starts_with("# HELP ") && lines.peek().is_some_and(|next| is_counter(next)));
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF"), ..) => {}
            (Some(hash), Some(about), Some(name), Some(rest)) if renames => {
                plain.extend([hash, " ", about, " ", name, "_total ", rest, "\n"]);
            }
            _ => plain.extend([line, "\n"]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::{Bound, Format, Metrics};

    const PREFIX: &str = "durable_streams_";

    /// Returns the words of a text that are names of metrics.
    fn names(text: &str) -> BTreeSet<&str> {
        let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = text.split(|letter| !is_of_name(letter));
        words.filter(|word| word.starts_with(PREFIX)).collect()
    }

    #[test]
    fn rules_and_dashboard_name_only_metrics_that_exist() {
        let metrics = Metrics::new();
        // A family has no line before it has a value.
        metrics.answered("GET", 200, Some(Duration::ZERO));
        metrics.refuse(Bound::Queue);
        let text = metrics.text(Format::Plain).expect("a text takes more text");
        let known = names(&text);
        for (file, content) in [
            ("alerts.yaml", include_str!("../../../docs/alerts.yaml")),
            ("grafana.json", include_str!("../../../docs/grafana.json")),
        ] {
            let named = names(content);
            assert!(named.len() > 5, "{file} names {named:?}");
            let unknown: Vec<_> = named.difference(&known).collect();
            assert!(unknown.is_empty(), "{file} names {unknown:?}");
        }
        let shown = names(include_str!("../../../docs/grafana.json"));
        for figure in [
            "events_total",
            "appended_messages_total",
            "appended_bytes_total",
            "readers",
        ] {
            assert!(
                shown.contains(format!("{PREFIX}{figure}").as_str()),
                "{figure}"
            );
        }
    }

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        for (accept, format) in [
            ("", Format::Plain),
            ("*/*", Format::Plain),
            ("text/plain", Format::Plain),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Plain),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.2, text/plain;q=0.9",
                Format::Plain,
            ),
            ("application/openmetrics-text;q=0", Format::Plain),
        ] {
            assert_eq!(Format::asked_for(accept), format, "{accept}");
        }
    }
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
