//! Anything that speaks S3.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore, Result, RetryConfig};

/// Where S3 is, as far as the variables `AWS_*` do not say it.
#[derive(Clone, Copy, Debug, Default)]
pub struct S3<'a> {
    pub bucket: &'a str,
    /// The prefix of all keys.
    pub prefix: &'a str,
    /// The service's URL, if the service is not Amazon's.
    pub endpoint: Option<&'a str>,
    pub region: Option<&'a str>,
}

/// Opens a bucket. Keys and other secrets are read from the variables `AWS_*`.
///
/// # Errors
/// When a setting is missing or invalid.
pub fn s3(place: S3<'_>) -> Result<Arc<dyn ObjectStore>> {
    // An error means that this process already has a provider, which serves as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(place.bucket)
        // The machine decides when to try again, and when to give up a put. A page may be read as
        // slowly as its client likes.
        .with_retry(RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        })
        .with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), "1 day");
    if let Some(endpoint) = place.endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_allow_http(endpoint.starts_with("http://"));
    }
    if let Some(region) = place.region {
        builder = builder.with_region(region);
    }
    let bucket = builder.build()?;
    Ok(if place.prefix.is_empty() {
        Arc::new(bucket)
    } else {
        Arc::new(PrefixStore::new(bucket, Path::parse(place.prefix)?))
    })
}
