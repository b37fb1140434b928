//! A server without a network, a clock and threads.

#![allow(dead_code, reason = "not every test uses everything")]

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use machine::Millis;
use machine::router::Settings;
use object_store::ObjectStore;
use server::{Accepted, Bounds, Config, Listener, Platform, Server, Unseen, Work};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Returns the names of the streams that have rows.
pub(crate) fn streams(data: &Path) -> Vec<String> {
    let files = std::fs::read_dir(data.join("shards")).unwrap();
    let mut names = Vec::new();
    for file in files {
        let connection = rusqlite::Connection::open(file.unwrap().path()).unwrap();
        let mut statement = connection.prepare("SELECT name FROM streams").unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        names.extend(rows.unwrap().map(Result::unwrap));
    }
    names.sort();
    names
}

/// A listener that takes connections from a queue.
struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<Accepted<DuplexStream>> {
        let local = SocketAddr::from(([127, 0, 0, 1], 4437));
        match self.0.recv().await {
            Some(io) => Ok(Accepted {
                io,
                local,
                peer: local.ip(),
                watch: Arc::new(Unseen),
            }),
            None => std::future::pending().await,
        }
    }
}

/// A platform with the runtime's paused clock, a counter instead of entropy, and one thread.
#[derive(Debug)]
struct PausedPlatform {
    begun: Instant,
    drawn: AtomicU64,
}

impl Platform for PausedPlatform {
    fn now(&self) -> Millis {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap();
        Millis(1_800_000_000_000 + passed)
    }

    fn random(&self) -> io::Result<u64> {
        Ok(self
            .drawn
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }

    fn work(&self, work: Work) {
        tokio::spawn(async move { work() });
    }
}

pub(crate) fn config(data: &Path, settings: Settings) -> Config {
    Config {
        data: data.to_owned(),
        settings,
        bounds: Bounds::default(),
        date: false,
    }
}

fn platform() -> Arc<PausedPlatform> {
    Arc::new(PausedPlatform {
        begun: Instant::now(),
        drawn: AtomicU64::new(1),
    })
}

/// Opens a server that is not used.
pub(crate) fn open(config: Config) -> io::Result<Server> {
    Server::open(config, platform(), None)
}

/// A server that runs.
pub(crate) struct Running {
    connections: mpsc::UnboundedSender<DuplexStream>,
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(
        data: &Path,
        settings: Settings,
        cold: Option<Arc<dyn ObjectStore>>,
    ) -> Self {
        let server = Server::open(config(data, settings), platform(), cold).unwrap();
        let (connections, pipes) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(Pipes(pipes), async {
            drop(ended.await);
        }));
        Self {
            connections,
            end,
            serving,
        }
    }

    /// Sends a request, and returns everything that is answered until the connection is closed.
    pub(crate) async fn exchange(&self, request: &str) -> String {
        let (mut ours, theirs) = duplex(1 << 16);
        self.connections.send(theirs).unwrap();
        ours.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) async fn stop(self) {
        self.end.send(()).unwrap();
        self.serving.await.unwrap();
    }
}
