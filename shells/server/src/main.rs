//! `durable-streams`: the server for one machine.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stderr,
    reason = "the user who starts the server sees why it cannot start"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use machine::router::Settings;
use object_store::ObjectStore;
use server::object_stores::{self, Directory, S3};
use server::{Bounds, Config, Native, Server, Tcp};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tracing_subscriber::EnvFilter;

/// Returns memory to the system after a burst.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that use a directory of the cold tier at the same time.
const COLD_THREADS: usize = 16;
/// Open files beside those of streams and connections.
const DESCRIPTORS_SPARE: u64 = 64;

/// A server for the Durable Streams protocol on one machine: append-only streams over plain HTTP,
/// each in a SQLite file of its own.
///
/// Without arguments it serves http://127.0.0.1:4437/v1/stream/<stream-id> from ./data. An append
/// is answered once it is on disk. /health tells whether the server is well, /metrics what it does,
/// in the format of Prometheus: whoever reaches the port can read both, without a token.
#[derive(Parser)]
#[command(
    name = "durable-streams",
    version,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Serve streams until SIGINT or SIGTERM; the same as no command at all
    Serve(Box<Serve>),
}

#[derive(Args)]
struct Serve {
    /// Where to listen
    #[arg(
        long,
        env = "LISTEN",
        default_value = "127.0.0.1:4437",
        value_name = "ADDRESS:PORT"
    )]
    listen: SocketAddr,
    /// The directory that holds everything; made when it is not there. One server at a time
    #[arg(long, env = "DATA", default_value = "data", value_name = "DIRECTORY")]
    data: PathBuf,
    /// What to log: error, warn, info, debug or trace, also for single modules
    /// (server=debug,hyper=warn)
    #[arg(long, env = "LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How to log
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(flatten, next_help_heading = "Cold storage")]
    cold: Cold,
    #[command(flatten, next_help_heading = "Protocol")]
    public: Public,
    #[command(
        flatten,
        next_help_heading = "Bounds, beyond which requests are answered 503 with Retry-After"
    )]
    bounds: BoundsGiven,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// The settings of cold storage.
#[derive(Args)]
struct Cold {
    /// Where the sealed segments of streams are moved to: a directory, a bucket of anything that
    /// speaks S3, or none, by which all stays in the streams' own files [default: the directory
    /// `cold` in --data]
    ///
    /// Keys are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and the like.
    /// While it does not answer, appends and reads of what is not there yet go on; what is there is
    /// answered 503 until it does again. Never point two servers at one directory of streams; two
    /// may share a bucket
    #[arg(long, env = "COLD", value_name = "DIRECTORY|s3://BUCKET/PREFIX|none")]
    cold: Option<String>,
    /// The URL of the S3 service, for all but Amazon's: https://ACCOUNT.r2.cloudflarestorage.com,
    /// http://127.0.0.1:9000
    #[arg(long, env = "AWS_ENDPOINT", value_name = "URL")]
    s3_endpoint: Option<String>,
    /// The region of the bucket; `auto` for R2
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    s3_region: Option<String>,
}

impl Cold {
    fn store(&self, data: &Path, threads: &Handle) -> Result<Option<Arc<dyn ObjectStore>>> {
        // An empty variable counts as absent.
        let given = |value: &'_ Option<String>| {
            value
                .as_deref()
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let directory = |path: &Path| -> Result<Option<Arc<dyn ObjectStore>>> {
            let directory = Directory::take(path, threads.clone()).with_context(|| {
                format!(
                    "the directory {} cannot be used for cold storage",
                    path.display()
                )
            })?;
            Ok(Some(Arc::new(directory)))
        };
        let cold = given(&self.cold);
        let Some(cold) = cold.as_deref() else {
            return directory(&data.join("cold"));
        };
        if cold == "none" {
            return Ok(None);
        }
        let Some(place) = cold.strip_prefix("s3://") else {
            ensure!(
                !cold.contains("://"),
                "cold storage is a directory, s3://BUCKET/PREFIX or none, not {cold}"
            );
            return directory(Path::new(cold));
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        ensure!(
            !bucket.is_empty(),
            "cold storage in s3:// needs the name of a bucket"
        );
        let (endpoint, region) = (given(&self.s3_endpoint), given(&self.s3_region));
        let place = S3 {
            bucket,
            prefix: prefix.trim_end_matches('/'),
            endpoint: endpoint.as_deref(),
            region: region.as_deref(),
        };
        let bucket = object_stores::s3(place)
            .with_context(|| format!("{cold} cannot be used for cold storage"))?;
        Ok(Some(bucket))
    }
}

/// The public settings, as text: the machine reads them, and says what is wrong with one.
#[derive(Args)]
struct Public {
    /// Ask for `Authorization: Bearer <token>` on every stream request; better given by the
    /// environment, which other users do not see
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    auth_token: Option<String>,
    /// Largest body of a PUT or POST, in bytes (16777216)
    #[arg(long, env = "MAX_APPEND_BYTES", value_name = "BYTES")]
    max_append_bytes: Option<String>,
    /// Largest page of a read, in bytes (1048576)
    #[arg(long, env = "MAX_CHUNK_BYTES", value_name = "BYTES")]
    max_chunk_bytes: Option<String>,
    /// Longest wait of a long-poll, in milliseconds (20000)
    #[arg(long, env = "LONG_POLL_TIMEOUT_MS", value_name = "MS")]
    long_poll_timeout_ms: Option<String>,
    /// Age at which an SSE response is ended, in milliseconds (60000)
    #[arg(long, env = "SSE_MAX_AGE_MS", value_name = "MS")]
    sse_max_age_ms: Option<String>,
    /// Silence after which an SSE response carries a comment, in milliseconds (15000)
    #[arg(long, env = "SSE_HEARTBEAT_MS", value_name = "MS")]
    sse_heartbeat_ms: Option<String>,
    /// Size at which a segment is sealed and moved to cold storage, in bytes (8388608)
    #[arg(long, env = "SEGMENT_MAX_BYTES", value_name = "BYTES")]
    segment_max_bytes: Option<String>,
    /// Number of messages at which a segment is sealed (100000)
    #[arg(long, env = "SEGMENT_MAX_MESSAGES", value_name = "COUNT")]
    segment_max_messages: Option<String>,
    /// Age at which a segment is sealed, in milliseconds (86400000)
    #[arg(long, env = "SEGMENT_MAX_AGE_MS", value_name = "MS")]
    segment_max_age_ms: Option<String>,
    /// Distance of the places at which a page may end, which have an entry in a segment's index, in
    /// bytes (65536)
    #[arg(long, env = "INDEX_STEP_BYTES", value_name = "BYTES")]
    index_step_bytes: Option<String>,
    /// Time without an append after which sealing a segment forgets a producer, in milliseconds
    /// (604800000)
    #[arg(long, env = "PRODUCER_MAX_IDLE_MS", value_name = "MS")]
    producer_max_idle_ms: Option<String>,
    /// Number of streams that the registry is spread over, by the names of the streams it tells of
    /// (1)
    #[arg(long, env = "REGISTRY_SHARDS", value_name = "COUNT")]
    registry_shards: Option<String>,
    /// Time after which a put to cold storage counts as failed, in milliseconds (60000)
    #[arg(long, env = "PUT_TIMEOUT_MS", value_name = "MS")]
    put_timeout_ms: Option<String>,
    /// The same for deletions in cold storage and messages to the registry, in milliseconds (30000)
    #[arg(long, env = "REPLY_TIMEOUT_MS", value_name = "MS")]
    reply_timeout_ms: Option<String>,
    /// Pause before what has failed is tried again, in milliseconds; it doubles with each failure
    /// (2000)
    #[arg(long, env = "RETRY_MIN_MS", value_name = "MS")]
    retry_min_ms: Option<String>,
    /// Longest such pause, in milliseconds (600000)
    #[arg(long, env = "RETRY_MAX_MS", value_name = "MS")]
    retry_max_ms: Option<String>,
    /// How long objects that nothing needs any more stay in cold storage, in milliseconds (3600000)
    #[arg(long, env = "COLLECT_GRACE_MS", value_name = "MS")]
    collect_grace_ms: Option<String>,
    /// Whether shared caches may keep pages that can no longer change: private or shared (private)
    #[arg(long, env = "CACHE_MODE", value_name = "MODE")]
    cache_mode: Option<String>,
    /// 1 for Server-Timing on every answer (0)
    #[arg(long, env = "DEBUG_TIMING", value_name = "0|1")]
    debug_timing: Option<String>,
    /// Where clients reach the server when it is behind a proxy: where the Location of a new stream
    /// begins (what the request says)
    #[arg(long, env = "PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Origins whose web pages may use the server, with commas between them, or * for all (*)
    #[arg(long, env = "CORS_ORIGINS", value_name = "ORIGINS")]
    cors_origins: Option<String>,
}

impl Public {
    fn settings(&self) -> Result<Settings> {
        let variable = |name: &str| {
            let given = match name {
                "AUTH_TOKEN" => &self.auth_token,
                "MAX_APPEND_BYTES" => &self.max_append_bytes,
                "MAX_CHUNK_BYTES" => &self.max_chunk_bytes,
                "LONG_POLL_TIMEOUT_MS" => &self.long_poll_timeout_ms,
                "SSE_MAX_AGE_MS" => &self.sse_max_age_ms,
                "SSE_HEARTBEAT_MS" => &self.sse_heartbeat_ms,
                "SEGMENT_MAX_BYTES" => &self.segment_max_bytes,
                "SEGMENT_MAX_MESSAGES" => &self.segment_max_messages,
                "SEGMENT_MAX_AGE_MS" => &self.segment_max_age_ms,
                "INDEX_STEP_BYTES" => &self.index_step_bytes,
                "PRODUCER_MAX_IDLE_MS" => &self.producer_max_idle_ms,
                "REGISTRY_SHARDS" => &self.registry_shards,
                "PUT_TIMEOUT_MS" => &self.put_timeout_ms,
                "REPLY_TIMEOUT_MS" => &self.reply_timeout_ms,
                "RETRY_MIN_MS" => &self.retry_min_ms,
                "RETRY_MAX_MS" => &self.retry_max_ms,
                "COLLECT_GRACE_MS" => &self.collect_grace_ms,
                "CACHE_MODE" => &self.cache_mode,
                "DEBUG_TIMING" => &self.debug_timing,
                "PUBLIC_URL" => &self.public_url,
                "CORS_ORIGINS" => &self.cors_origins,
                _ => &None,
            };
            given.clone()
        };
        Ok(Settings::read(&variable)?)
    }
}

#[derive(Args)]
struct BoundsGiven {
    /// Connections at the same time
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = Bounds::default().connections_max, value_name = "COUNT")]
    connections_max: usize,
    /// How much of the connections and of the live readers one client address may have, in percent.
    /// IPv6 addresses count as one for each network of 64 bits. 100 behind a proxy
    #[arg(long, env = "ADDRESS_SHARE_PERCENT", default_value_t = Bounds::default().address_share_percent, value_name = "PERCENT")]
    address_share_percent: usize,
    /// Broadcast readers at the same time
    #[arg(long, env = "READERS_MAX", default_value_t = Bounds::default().readers_max, value_name = "COUNT")]
    readers_max: usize,
    /// Bodies held in memory, in bytes, over all requests
    #[arg(long, env = "BODIES_BYTES_MAX", default_value_t = Bounds::default().bodies_bytes_max, value_name = "BYTES")]
    bodies_bytes_max: usize,
    /// Answers held in memory until clients take them, in bytes
    #[arg(long, env = "PAGES_BYTES_MAX", default_value_t = Bounds::default().pages_bytes_max, value_name = "BYTES")]
    pages_bytes_max: usize,
    /// How long a connection may be idle between two requests, in milliseconds; keep it above what
    /// a proxy in front keeps
    #[arg(long, env = "IDLE_TIMEOUT_MS", default_value_t = Bounds::default().idle_timeout.as_millis() as u64, value_name = "MS")]
    idle_timeout_ms: u64,
    /// Requests waiting for one stream
    #[arg(long, env = "QUEUE_MAX", default_value_t = Bounds::default().queue_max, value_name = "COUNT")]
    queue_max: usize,
    /// Streams whose files are open at the same time; beyond, the least recently used are closed
    #[arg(long, env = "OPEN_STREAMS_MAX", default_value_t = Bounds::default().open_streams_max, value_name = "COUNT")]
    open_streams_max: usize,
    /// Threads that use the storage: as many streams can commit at the same time
    #[arg(long, env = "STORAGE_THREADS", default_value_t = Bounds::default().storage_threads, value_name = "COUNT")]
    storage_threads: usize,
}

impl BoundsGiven {
    fn bounds(&self) -> Bounds {
        Bounds {
            connections_max: self.connections_max,
            readers_max: self.readers_max,
            address_share_percent: self.address_share_percent.clamp(1, 100),
            bodies_bytes_max: self.bodies_bytes_max,
            pages_bytes_max: self.pages_bytes_max,
            idle_timeout: Duration::from_millis(self.idle_timeout_ms),
            queue_max: self.queue_max,
            // A stream that is running always needs its file.
            open_streams_max: self.open_streams_max.max(1),
            storage_threads: self.storage_threads.max(1),
            ..Bounds::default()
        }
    }
}

fn main() -> ExitCode {
    let Arguments { command, serve } = Arguments::parse();
    let serve = match command {
        Some(Command::Serve(serve)) => *serve,
        None => serve,
    };
    match run(&serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(serve: &Serve) -> Result<()> {
    let settings = serve.public.settings()?;
    let bounds = serve.bounds.bounds();
    let filter = EnvFilter::try_new(&serve.log).context("the log filter cannot be read")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match serve.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    raise_descriptor_limit(&bounds);
    keep_private(&serve.data);
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
        data: serve.data.clone(),
        settings,
        bounds,
        date: true,
    };
    let grace = config.bounds.shutdown_timeout;
    runtime.block_on(async {
        fs::create_dir_all(&serve.data)
            .with_context(|| format!("the data directory {} cannot be made", serve.data.display()))?;
        let cold = serve.cold.store(&serve.data, cold_threads.handle())?;
        let server = Server::open(config, Arc::new(Native::current()), cold)
            .with_context(|| format!("the data directory {} cannot be used", serve.data.display()))?;
        let listener = TcpListener::bind(serve.listen)
            .await
            .with_context(|| format!("cannot listen on {}", serve.listen))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, data = %serve.data.display(), "serving http://{address}/v1/stream/<stream-id>");
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
            std::process::exit(130);
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
            tracing::warn!(data = %data.display(), mode, "other users may look into the data directory");
        }
    }
}

/// Raises the limit of open files, because the default of most systems is too low for the
/// connections and files.
fn raise_descriptor_limit(bounds: &Bounds) {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};

        let files = 2 * (bounds.open_streams_max + bounds.storage_threads);
        let connections = bounds.connections_max + bounds.connections_refused_max;
        let wanted = (files + connections) as u64 + DESCRIPTORS_SPARE;
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return;
        };
        let raised = wanted.min(hard);
        if soft < raised && setrlimit(Resource::RLIMIT_NOFILE, raised, hard).is_err() {
            tracing::warn!(soft, "the number of open files could not be raised");
        }
        if raised < wanted {
            tracing::warn!(
                allowed = raised,
                wanted,
                "fewer files may be open than connections and streams could need"
            );
        }
    }
}
