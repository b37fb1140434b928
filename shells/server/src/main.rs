//! `durable-streams`: the server for one machine.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    reason = "the user who starts the server sees why it cannot start"
)]

mod arguments;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use arguments::{Arguments, Request};
use object_store::ObjectStore;
use server::object_stores::{self, DirectoryStore, S3};
use server::{Bounds, Config, Native, Server, Tcp, directory, reshard};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tracing_subscriber::EnvFilter;

/// Returns memory to the system after a burst.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a program that SIGINT has ended (128 + 2).
const INTERRUPTED: i32 = 130;
/// Threads that use a directory of the cold tier at the same time.
const COLD_THREADS: usize = 16;
/// SQLite opens a database, its log, and the index of the log.
const DESCRIPTORS_PER_READER: usize = 3;
/// Open files beside those of clients and reads.
const DESCRIPTORS_SPARE: u64 = 256;

/// Settings of the Worker that protect the admin API. Here they would protect nothing, so the
/// server refuses them.
const ONLY_ON_CLOUDFLARE: [&str; 2] = ["ACCESS_TEAM", "ACCESS_AUD"];

/// Opens the cold tier that the operator has named.
fn cold_store(arguments: &Arguments, threads: &Handle) -> Result<Option<Arc<dyn ObjectStore>>> {
    let directory = |path: &Path| -> Result<Option<Arc<dyn ObjectStore>>> {
        let directory = DirectoryStore::take(path, threads.clone()).with_context(|| {
            format!(
                "the directory {} cannot be used for cold storage",
                path.display()
            )
        })?;
        Ok(Some(Arc::new(directory)))
    };
    let Some(cold) = arguments.cold.as_deref() else {
        return directory(&arguments.data.join("cold"));
    };
    if cold == "none" {
        return Ok(None);
    }
    let Some(place) = cold.strip_prefix("s3://") else {
        ensure!(
            !cold.contains("://"),
            "COLD must be a directory, s3://BUCKET/PREFIX or none, not {cold:?}"
        );
        return directory(Path::new(cold));
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    ensure!(
        !bucket.is_empty(),
        "COLD must name a bucket after s3://, not {cold:?}"
    );
    let place = S3 {
        bucket,
        prefix: prefix.trim_end_matches('/'),
        endpoint: arguments.s3_endpoint.as_deref(),
        region: arguments.s3_region.as_deref(),
    };
    let bucket = object_stores::s3(place)
        .with_context(|| format!("{cold} cannot be used for cold storage"))?;
    Ok(Some(bucket))
}

fn main() -> ExitCode {
    let result = Request::parse().map_err(anyhow::Error::from);
    let done = result.and_then(|request| match request {
        Request::Serve(arguments) => run(*arguments),
        Request::Reshard { data, shards } => change_shards(&data, shards),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Carries out `reshard`, and tells what was done.
fn change_shards(data: &Path, shards: usize) -> Result<()> {
    keep_private(data);
    let done = reshard::reshard(data, shards, Native::wall_time())
        .with_context(|| format!("the data directory {} was not changed", data.display()))?;
    let reshard::Resharded {
        streams,
        shards,
        damaged,
        left_out,
    } = done;
    eprintln!("{streams} streams are in {shards} shards now");
    if damaged > 0 {
        eprintln!("{damaged} rows are damaged; reads of their streams are answered 500");
    }
    if left_out > 0 {
        eprintln!("{left_out} files of deleted streams, which had only tasks left, were dropped");
    }
    Ok(())
}

fn run(arguments: Arguments) -> Result<()> {
    for name in ONLY_ON_CLOUDFLARE {
        let is_absent = std::env::var_os(name).is_none_or(|value| value.is_empty());
        ensure!(
            is_absent,
            "{name} must be empty: tokens of Cloudflare Access are checked by the Worker alone. Set \
             ADMIN_TOKEN to protect the admin API of this server"
        );
    }
    let filter = EnvFilter::try_new(&arguments.log)
        .with_context(|| format!("LOG must be a filter for logs, not {:?}", arguments.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.log_as_json {
        log.json().init();
    } else {
        log.init();
    }
    let (data, bounds) = (&arguments.data, &arguments.bounds);
    raise_descriptor_limit(bounds);
    keep_private(data);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(bounds.storage_threads)
        .build()?;
    let cold_threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(COLD_THREADS)
        .thread_name("cold")
        .build()?;
    let config = Config {
        data: data.clone(),
        settings: arguments.settings.clone(),
        bounds: bounds.clone(),
        date: true,
    };
    let grace = bounds.shutdown_timeout;
    runtime.block_on(async {
        directory::create(data)
            .with_context(|| format!("the data directory {} cannot be created", data.display()))?;
        let cold = cold_store(&arguments, cold_threads.handle())?;
        let server = Server::open(config, Arc::new(Native::current()), cold)
            .with_context(|| format!("the data directory {} cannot be used", data.display()))?;
        let listener = TcpListener::bind(arguments.listen)
            .await
            .with_context(|| format!("cannot listen on {}", arguments.listen))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, data = %data.display(), "serving http://{address}/v1/stream/<stream-id>");
        server.serve(Tcp(listener), asked_to_end()?).await;
        anyhow::Ok(())
    })?;
    runtime.shutdown_timeout(grace);
    // Work on these threads has an unknown outcome.
    cold_threads.shutdown_background();
    Ok(())
}

/// Resolves on the first SIGINT or SIGTERM. The second ends the process at once.
fn asked_to_end() -> Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut asked = async move || {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        drop(tokio::signal::ctrl_c().await);
    };
    Ok(async move {
        asked().await;
        tokio::spawn(async move {
            asked().await;
            std::process::exit(INTERRUPTED);
        });
    })
}

/// Makes new directories 0700 and new files 0600, because only the user who runs the server may
/// read the streams.
fn keep_private(data: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;

        use nix::sys::stat::{Mode, umask};

        const OTHERS: u32 = 0o077;

        umask(Mode::S_IRWXG | Mode::S_IRWXO);
        // The mode of an existing directory stays, because the operator may want others to read it.
        let mode = fs::metadata(data).map_or(0, |data| data.permissions().mode());
        if mode & OTHERS != 0 {
            let mode = format!("{:o}", mode & 0o777);
            tracing::warn!(data = %data.display(), mode, "other users can read the data directory");
        }
    }
}

/// Raises the limit of open files, because the default of most systems is too low for the
/// connections.
fn raise_descriptor_limit(bounds: &Bounds) {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};

        let files = DESCRIPTORS_PER_READER * bounds.storage_threads;
        let connections = bounds.connections_max + bounds.connections_refused_max;
        let sockets = connections + bounds.webhooks_max;
        let wanted = (files + sockets) as u64 + DESCRIPTORS_SPARE;
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return;
        };
        let raised = wanted.min(hard);
        if soft < raised && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_err() {
            tracing::warn!(soft, "the limit of open files could not be raised");
        }
        if raised < wanted {
            tracing::warn!(
                allowed = raised,
                wanted,
                "the limit of open files is lower than connections can need"
            );
        }
    }
}
