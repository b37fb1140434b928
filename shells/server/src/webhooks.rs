//! Sends webhooks (protocol 7.1). The machine decides when, where to, and what follows.

use machine::{CallOutcome, Limits, Webhook};

use crate::config::Bounds;

/// What sends webhooks. Without the feature `webhooks` none can be reached.
#[derive(Debug)]
pub(crate) struct Webhooks {
    #[cfg(feature = "webhooks")]
    client: reqwest::Client,
    #[cfg(feature = "webhooks")]
    places: places::Places,
}

#[cfg(not(feature = "webhooks"))]
impl Webhooks {
    pub(crate) const fn new(_limits: &Limits, _bounds: &Bounds) -> Self {
        Self {}
    }

    #[expect(clippy::unused_async, reason = "with the feature it waits")]
    pub(crate) async fn send(&self, _webhook: Webhook) -> CallOutcome {
        tracing::warn!("this build sends no webhooks");
        CallOutcome::Failed
    }
}

#[cfg(feature = "webhooks")]
impl Webhooks {
    pub(crate) fn new(limits: &Limits, bounds: &Bounds) -> Self {
        // Fails if there is one already, which is this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let resolver = resolver::Checked::new(limits.clone(), bounds.webhook_lookups_max);
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(std::sync::Arc::new(resolver))
            .build();
        Self {
            client: client.expect("a client without certificates of its own can be built"),
            places: places::Places::new(bounds.webhooks_max, bounds.webhooks_of_host_max),
        }
    }

    /// Sends a webhook, and reads the answer as far as it matters.
    pub(crate) async fn send(&self, webhook: Webhook) -> CallOutcome {
        let time = std::time::Duration::from_millis(webhook.time_ms);
        let url = reqwest::Url::parse(&webhook.url);
        let url = url.expect("the machine has checked the URL");
        // The rest of the URL can contain secrets, which do not belong in a log.
        let receiver = url.origin().ascii_serialization();
        match tokio::time::timeout(time, self.try_send(url, webhook)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                let error = error.without_url();
                tracing::warn!(receiver, %error, "a receiver did not answer");
                CallOutcome::Failed
            }
            Err(_) => {
                tracing::warn!(receiver, "a receiver did not answer in time");
                CallOutcome::Failed
            }
        }
    }

    async fn try_send(
        &self,
        url: reqwest::Url,
        webhook: Webhook,
    ) -> Result<CallOutcome, reqwest::Error> {
        let host = url.host_str().expect("the machine has checked the URL");
        let _place = self.places.take(host).await;
        let mut request = self.client.post(url);
        for (name, value) in webhook.headers {
            request = request.header(name, value);
        }
        let mut response = request.body(webhook.body).send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await? {
            body.extend_from_slice(&piece);
            if body.len() as u64 > webhook.answer_bytes_max {
                body.clear();
                break;
            }
        }
        let body = body.into();
        Ok(CallOutcome::Answered { status, body })
    }
}

/// Bounds the webhooks that are under way, because each holds a socket.
#[cfg(feature = "webhooks")]
mod places {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError, Weak};

    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    #[derive(Debug)]
    pub(super) struct Places {
        all: Arc<Semaphore>,
        of_host_max: usize,
        /// The places of each host that has webhooks under way, so that a slow host cannot take
        /// all places.
        hosts: Mutex<BTreeMap<String, Weak<Semaphore>>>,
    }

    /// The place of a webhook. Dropping it frees the place.
    #[derive(Debug)]
    pub(super) struct Place {
        _of_host: OwnedSemaphorePermit,
        _of_all: OwnedSemaphorePermit,
    }

    const OPEN: &str = "nobody closes the semaphore";

    impl Places {
        pub(super) fn new(all_max: usize, of_host_max: usize) -> Self {
            Self {
                all: Arc::new(Semaphore::new(all_max)),
                of_host_max,
                hosts: Mutex::default(),
            }
        }

        /// Waits for a place.
        pub(super) async fn take(&self, host: &str) -> Place {
            let of_host = self.host(host).acquire_owned().await.expect(OPEN);
            let of_all = Arc::clone(&self.all).acquire_owned().await.expect(OPEN);
            Place {
                _of_host: of_host,
                _of_all: of_all,
            }
        }

        fn host(&self, host: &str) -> Arc<Semaphore> {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = hosts.get(host).and_then(Weak::upgrade) {
                return known;
            }
            hosts.retain(|_, places| places.strong_count() > 0);
            let places = Arc::new(Semaphore::new(self.of_host_max));
            hosts.insert(host.to_owned(), Arc::downgrade(&places));
            places
        }
    }
}

#[cfg(feature = "webhooks")]
mod resolver {
    use std::io;
    use std::net::ToSocketAddrs as _;
    use std::sync::Arc;

    use machine::Limits;
    use reqwest::dns::{Addrs, Name, Resolve, Resolving};
    use tokio::sync::{Semaphore, oneshot};

    /// Resolves names to public addresses only. The client connects to the addresses that it gets
    /// from here, so that no second answer of a name server can lead elsewhere.
    pub(super) struct Checked {
        limits: Limits,
        /// The lookups that may be under way at the same time.
        lookups: Arc<Semaphore>,
    }

    impl Checked {
        pub(super) fn new(limits: Limits, lookups_max: usize) -> Self {
            let lookups = Arc::new(Semaphore::new(lookups_max));
            Self { limits, lookups }
        }
    }

    impl Resolve for Checked {
        fn resolve(&self, name: Name) -> Resolving {
            let limits = self.limits.clone();
            let lookups = Arc::clone(&self.lookups);
            Box::pin(async move {
                let place = lookups.acquire_owned().await?;
                let (found, lookup) = oneshot::channel();
                // A lookup cannot be cut short, and a name server can keep it waiting for long. On
                // the runtime's threads it would hold up commits and reads.
                std::thread::Builder::new()
                    .name("lookup".to_owned())
                    .spawn(move || {
                        let addresses = (name.as_str(), 0).to_socket_addrs();
                        drop(place);
                        drop(found.send(addresses.map(Iterator::collect::<Vec<_>>)));
                    })?;
                let addresses = lookup.await??;
                let refused = addresses
                    .iter()
                    .find(|address| !machine::may_connect(address.ip(), &limits));
                if let Some(address) = refused {
                    let refused = format!("{} is not a public address", address.ip());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused).into());
                }
                let addresses: Addrs = Box::new(addresses.into_iter());
                Ok(addresses)
            })
        }
    }
}

#[cfg(all(test, feature = "webhooks"))]
mod tests {
    use std::time::Duration;

    use machine::{CallOutcome, Limits, Webhook};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::Webhooks;
    use crate::config::Bounds;

    fn webhook(url: String, time_ms: u64) -> Webhook {
        Webhook {
            url,
            headers: Vec::new(),
            body: "{}".to_owned(),
            time_ms,
            answer_bytes_max: 1_000,
        }
    }

    #[tokio::test]
    async fn a_host_that_does_not_answer_keeps_few_places_and_delays_no_other() {
        let limits = Limits {
            webhook_loopback: true,
            ..Limits::DEFAULT
        };
        let bounds = Bounds {
            webhooks_max: 2,
            webhooks_of_host_max: 1,
            webhook_lookups_max: 1,
            ..Bounds::DEFAULT
        };
        let webhooks = Webhooks::new(&limits, &bounds);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let silent = async {
            let mut held = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                held.push(socket);
                assert_eq!(held.len(), 1, "the host has one place");
            }
        };
        let answering = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let answering_port = answering.local_addr().unwrap().port();
        let answers = async {
            let (mut socket, _) = answering.accept().await.unwrap();
            let mut head = [0; 4];
            socket.read_exact(&mut head).await.unwrap();
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            socket.write_all(answer).await.unwrap();
            std::future::pending::<()>().await;
        };
        let sends = async {
            let slow = |time_ms| {
                let url = format!("http://127.0.0.1:{port}/");
                webhooks.send(webhook(url, time_ms))
            };
            let quick = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let url = format!("http://localhost:{answering_port}/");
                tokio::time::timeout(
                    Duration::from_millis(3_000),
                    webhooks.send(webhook(url, 60_000)),
                )
                .await
            };
            let (first, second, third) = tokio::join!(slow(4_000), slow(1_000), quick);
            assert_eq!([first, second], [CallOutcome::Failed, CallOutcome::Failed]);
            let answered = CallOutcome::Answered {
                status: 204,
                body: Vec::new().into(),
            };
            assert_eq!(third, Ok(answered), "another host is answered meanwhile");
        };
        tokio::select! {
            () = silent => unreachable!("the listener stays open"),
            () = answers => unreachable!("the socket stays open"),
            () = sends => {}
        }
    }
}
