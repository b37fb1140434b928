//! The health of the services that a shell uses: what it asks of them, and what the answers mean.

use super::json::Object;
use crate::{Answer, Millis};

/// The reason why a service is not available, if the log of the shell has the true one.
pub const SEE_LOG: &str = "it does not answer; the log has the reason";

/// The key that a shell looks up to learn whether the cold tier answers. No object has this key.
pub const PROBE_KEY: &str = "admin-probe";

/// The statement that the admin index executes to show that it answers.
pub const PROBE_STATEMENT: &str = "SELECT path FROM streams LIMIT 1";

/// Returns whether an object is available that has answered a request with this status.
#[must_use]
pub const fn is_available(status: u16) -> bool {
    status < 500
}

/// What a shell has found out about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in the answer.
    pub name: &'static str,
    /// How long it took to answer, or to fail.
    pub latency_ms: u64,
    /// Why it is not available, if it is not.
    pub error: Option<String>,
}

/// Answers which services are available.
#[must_use]
pub fn health(now: Millis, services: &[Service]) -> Answer {
    let available = services.iter().filter(|it| it.error.is_none()).count();
    let status = if available == services.len() {
        "healthy"
    } else if available == 0 {
        "unhealthy"
    } else {
        "degraded"
    };
    let all = services.iter().fold(Object::new(), |all, service| {
        let about = Object::new()
            .flag("available", service.error.is_none())
            .number("latencyMs", service.latency_ms)
            .text_or_null("error", service.error.as_deref());
        all.json(service.name, &about.finish())
    });
    Object::new()
        .text("status", status)
        .number("timestamp", now.0)
        .json("services", &all.finish())
        .answer()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Body;

    #[test]
    fn an_object_that_fails_is_not_available() {
        assert!([200, 404, 410].into_iter().all(is_available));
        assert!(![500, 503].into_iter().any(is_available));
    }

    #[test]
    fn the_status_is_that_of_all_services_together() {
        let service = |name, error: Option<&str>| Service {
            name,
            latency_ms: 3,
            error: error.map(str::to_owned),
        };
        let (good, bad) = (service("d1", None), service("r2", Some("no \"answer\"")));
        for (services, status) in [
            (vec![], "healthy"),
            (vec![good.clone()], "healthy"),
            (vec![good, bad.clone()], "degraded"),
            (vec![bad], "unhealthy"),
        ] {
            let Body::Bytes(body) = health(Millis(7), &services).body else {
                panic!("the answer is a text");
            };
            let body: serde_json::Value = serde_json::from_slice(&body).expect("it is JSON");
            assert_eq!(body["status"], status);
            assert_eq!(body["timestamp"], 7);
            for service in services {
                let about = &body["services"][service.name];
                assert_eq!(about["available"], service.error.is_none());
                assert_eq!(about["latencyMs"], 3);
                assert_eq!(about["error"].as_str(), service.error.as_deref());
            }
        }
    }
}
