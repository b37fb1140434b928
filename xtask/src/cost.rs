//! `cost`: the price of a stream on Cloudflare.

use crate::bundle;
use crate::project::Project;
use anyhow::Result;
use std::process::ExitCode;

/// What is done with the stream.
#[derive(clap::Args)]
pub(crate) struct Load {
    #[arg(long, default_value_t = 10.0)]
    appends_per_second: f64,
    /// The size of an append
    #[arg(long, default_value_t = 100)]
    bytes: u32,
    /// Writers that share the appends; each is a producer
    #[arg(long, default_value_t = 1)]
    writers: u32,
    /// SSE readers that are always connected
    #[arg(long, default_value_t = 0)]
    readers: u32,
    /// For how long appends are kept
    #[arg(long, default_value_t = 30)]
    days: u32,
}

pub(crate) fn cost(project: &Project, load: &Load) -> Result<ExitCode> {
    bundle::build(project, Some(bundle::Feature::TestRoutes))?;
    let mut command = project.command("node");
    command.arg("tests/performance/cost.mjs").args([
        format!("--appends-per-second={}", load.appends_per_second),
        format!("--bytes={}", load.bytes),
        format!("--writers={}", load.writers),
        format!("--readers={}", load.readers),
        format!("--days={}", load.days),
    ]);
    let status = command.status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
