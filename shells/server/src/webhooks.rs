//! Sends webhooks (protocol 7.1). The machine decides when, where to, and what follows.

use std::io;

use machine::{CallOutcome, Webhook};

/// What sends webhooks. Without the feature `webhooks` none can be reached.
#[derive(Debug)]
pub(crate) struct Webhooks {
    #[cfg(feature = "webhooks")]
    client: reqwest::Client,
}

#[cfg(not(feature = "webhooks"))]
impl Webhooks {
    pub(crate) fn new(_allows_loopback: bool) -> Self {
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
    pub(crate) fn new(allows_loopback: bool) -> Self {
        // Fails if there is one already, which is this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .dns_resolver(std::sync::Arc::new(resolver::Checked { allows_loopback }))
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

/// Whether a webhook may connect to an address.
#[cfg_attr(
    not(feature = "webhooks"),
    expect(dead_code, reason = "nothing resolves")
)]
fn check(address: std::net::IpAddr, allows_loopback: bool) -> io::Result<()> {
    if machine::is_public(address) || allows_loopback && address.is_loopback() {
        return Ok(());
    }
    let refused = format!("{address} is not a public address");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, refused))
}

#[cfg(feature = "webhooks")]
mod resolver {
    use reqwest::dns::{Addrs, Name, Resolve, Resolving};

    /// Resolves names to public addresses only. The client connects to the addresses that it gets
    /// from here, so that no second answer of a name server can lead elsewhere.
    pub(super) struct Checked {
        pub(super) allows_loopback: bool,
    }

    impl Resolve for Checked {
        fn resolve(&self, name: Name) -> Resolving {
            let allows_loopback = self.allows_loopback;
            Box::pin(async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
                let addresses: Vec<_> = found.collect();
                for address in &addresses {
                    super::check(address.ip(), allows_loopback)?;
                }
                let addresses: Addrs = Box::new(addresses.into_iter());
                Ok(addresses)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_connects_to_public_addresses_only() {
        for (address, allows_loopback, may) in [
            ("203.0.114.1", false, true),
            ("2606:4700::1111", false, true),
            ("127.0.0.1", false, false),
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("10.0.0.1", true, false),
            ("169.254.169.254", true, false),
            ("::ffff:10.0.0.1", true, false),
            ("fd00::1", true, false),
        ] {
            let address = address.parse().expect("it is an address");
            assert_eq!(check(address, allows_loopback).is_ok(), may, "{address}");
        }
    }
}
