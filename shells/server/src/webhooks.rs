//! Sends webhooks (protocol 7.1). The machine decides when, where to, and what follows.

use machine::{CallOutcome, Limits, Webhook};

/// What sends webhooks. Without the feature `webhooks` none can be reached.
#[derive(Debug)]
pub(crate) struct Webhooks {
    #[cfg(feature = "webhooks")]
    client: reqwest::Client,
}

#[cfg(not(feature = "webhooks"))]
impl Webhooks {
    pub(crate) const fn new(_limits: &Limits) -> Self {
        Self {}
    }

    #[expect(clippy::unused_async, reason = "with the feature it waits")]
    pub(crate) async fn send(&self, webhook: Webhook) -> CallOutcome {
        tracing::warn!(url = webhook.url, "this build sends no webhooks");
        CallOutcome::Failed
    }
}

#[cfg(feature = "webhooks")]
impl Webhooks {
    pub(crate) fn new(limits: &Limits) -> Self {
        // Fails if there is one already, which is this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(std::sync::Arc::new(resolver::Checked(limits.clone())))
            .build();
        Self {
            client: client.expect("a client without certificates of its own can be built"),
        }
    }

    /// Sends a webhook, and reads the answer as far as it matters.
    pub(crate) async fn send(&self, webhook: Webhook) -> CallOutcome {
        let url = webhook.url.clone();
        match self.try_send(webhook).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(url, %error, "a receiver did not answer");
                CallOutcome::Failed
            }
        }
    }

    async fn try_send(&self, webhook: Webhook) -> Result<CallOutcome, reqwest::Error> {
        let time = std::time::Duration::from_millis(webhook.time_ms);
        let mut request = self.client.post(webhook.url).timeout(time);
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

#[cfg(feature = "webhooks")]
mod resolver {
    use std::io;

    use machine::Limits;
    use reqwest::dns::{Addrs, Name, Resolve, Resolving};

    /// Resolves names to public addresses only. The client connects to the addresses that it gets
    /// from here, so that no second answer of a name server can lead elsewhere.
    pub(super) struct Checked(pub(super) Limits);

    impl Resolve for Checked {
        fn resolve(&self, name: Name) -> Resolving {
            let limits = self.0.clone();
            Box::pin(async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
                let addresses: Vec<_> = found.collect();
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
