//! Accepts connections, bounds them, serves them, and ends them.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use object_store::ObjectStore;
use tokio::io::{AsyncRead, AsyncWrite, Interest, Join, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};

use crate::alarms;
use crate::clients::Clients;
use crate::cold::{self, EffectJob};
use crate::config::{Bounds, Config};
use crate::directory::DataDirectory;
use crate::framing::Length;
use crate::http::{GaveWayError, Service};
use crate::idle;
use crate::metrics::Counted;
use crate::platform::Platform;
use crate::socket::{Answering, NextBody, Socket};
use crate::storage::Storage;
use crate::streams::Streams;

/// The pause after a failed accept. Most likely there were no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Listener: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Accepts the next connection.
    ///
    /// # Errors
    /// When none can be accepted at the moment.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Io>>> + Send;
}

/// An accepted connection.
pub struct Accepted<Io> {
    pub io: Io,
    /// The local address of the connection.
    pub local: SocketAddr,
    /// The remote address, which may use a share of the bounds.
    pub peer: IpAddr,
    pub watch: Arc<dyn Watch>,
}

type Coming<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Events of a connection that are seen without reading or writing. A network that cannot report an
/// event never resolves its future.
pub trait Watch: Send + Sync {
    /// Resolves when the client has reset the connection.
    fn reset(&self) -> Coming<'_> {
        Box::pin(std::future::pending())
    }

    /// Resolves when the client has closed its sending side. It waits for the answer, or it is
    /// gone.
    fn half_closed(&self) -> Coming<'_> {
        Box::pin(std::future::pending())
    }
}

/// A connection that reports no events.
#[derive(Clone, Copy, Debug)]
pub struct Unseen;

impl Watch for Unseen {}

impl Watch for OwnedReadHalf {
    fn reset(&self) -> Coming<'_> {
        Box::pin(async {
            // If the system does not report it, a write will.
            if self.ready(Interest::ERROR).await.is_err() {
                std::future::pending().await
            }
        })
    }

    fn half_closed(&self) -> Coming<'_> {
        Box::pin(async {
            let stream: &TcpStream = self.as_ref();
            // Bytes of the next request stay in the socket.
            if stream.peek(&mut [0]).await.ok() != Some(0) {
                std::future::pending().await
            }
        })
    }
}

/// Connections over TCP.
#[derive(Debug)]
pub struct Tcp(pub TcpListener);

impl Listener for Tcp {
    type Io = Join<Incoming, OwnedWriteHalf>;

    async fn accept(&mut self) -> io::Result<Accepted<Self::Io>> {
        let (stream, peer) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        let (read, write) = stream.into_split();
        let read = Arc::new(read);
        Ok(Accepted {
            io: tokio::io::join(Incoming(Arc::clone(&read)), write),
            local,
            peer: peer.ip(),
            watch: read,
        })
    }
}

/// The body of a client's request.
#[derive(Debug)]
pub struct Incoming(Arc<OwnedReadHalf>);

impl AsyncRead for Incoming {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream: &TcpStream = (*self.0).as_ref();
        loop {
            ready!(stream.poll_read_ready(context))?;
            match stream.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// The server, without its listener.
#[derive(Debug)]
pub struct Server {
    config: Config,
    streams: Arc<Streams>,
    effect_jobs: UnboundedReceiver<EffectJob>,
}

impl Server {
    /// Opens the data directory. Sealed segments go to `cold`. Without it no segment is sealed.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(
        config: Config,
        platform: Arc<dyn Platform>,
        cold: Option<Arc<dyn ObjectStore>>,
    ) -> io::Result<Self> {
        let Bounds {
            shards, cache_kib, ..
        } = config.bounds;
        let directory = DataDirectory::take(&config.data, shards, cache_kib)?;
        let server = Self::over(config, platform, Arc::new(directory), cold);
        server.streams.open_shards()?;
        Ok(server)
    }

    /// Returns a server over any storage. No other server may use the storage.
    ///
    /// # Panics
    /// When a bound is outside of its range, which [`Bounds::read`](crate::Bounds::read) refuses.
    #[must_use]
    pub fn over(
        config: Config,
        platform: Arc<dyn Platform>,
        storage: Arc<dyn Storage>,
        cold: Option<Arc<dyn ObjectStore>>,
    ) -> Self {
        config.bounds.check();
        let (streams, effect_jobs) = Streams::new(&config, platform, storage, cold);
        Self {
            config,
            streams: Arc::new(streams),
            effect_jobs,
        }
    }

    /// Serves until `end` resolves. Then waits for requests under way, up to the shutdown timeout.
    pub async fn serve(self, mut listener: impl Listener, end: impl Future<Output = ()>) {
        let Self {
            config,
            streams,
            effect_jobs,
        } = self;
        let bounds = &config.bounds;
        let (ending, is_ending) = watch::channel(false);
        let clients = Arc::new(Clients::new(bounds));
        let service = Arc::new(Service::new(Arc::clone(&streams), is_ending.clone()));
        let effects = tokio::spawn(cold::run(
            Arc::clone(&streams),
            effect_jobs,
            is_ending.clone(),
        ));
        let alarms = tokio::spawn(alarms::run(Arc::clone(&streams), is_ending.clone()));
        let idle = tokio::spawn(idle::run(Arc::clone(&streams), is_ending));
        let graceful = GracefulShutdown::new();
        let mut end = pin!(end);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut end => break,
                accepted = listener.accept() => accepted,
            };
            let Accepted {
                io,
                local,
                peer,
                watch,
            } = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let client = clients.admit(peer, local, Arc::clone(&watch));
            let asked_to_end = Arc::clone(&client.end);
            let service = Arc::clone(&service);
            let counted = Counted::new(&streams.metrics.connections);
            let next_body = NextBody::default();
            let answering = Answering::default();
            let io = Socket::new(io, Arc::clone(&next_body), Arc::clone(&answering), bounds);
            let connection = connection(&config, io, move |request: Request<_>| {
                *next_body.lock() = Some(length(request.body()));
                let (service, client) = (Arc::clone(&service), Arc::clone(&client));
                let answering = Arc::clone(&answering);
                async move {
                    let answer = service.answer(request, &client).await?;
                    Ok::<_, GaveWayError>(answer.map(|body| {
                        body.map_err(move |error| {
                            // Kept until the body is dropped.
                            let _ = &answering;
                            error
                        })
                    }))
                }
            });
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                tokio::select! {
                    ended = connection => {
                        // A client that leaves does no harm.
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a connection broke");
                        }
                    }
                    () = asked_to_end.asked() => tracing::debug!("a connection was closed to make room for another"),
                    () = watch.reset() => tracing::debug!("a connection was reset"),
                }
                drop(counted);
            });
        }
        tracing::info!("stopping; requests under way are answered");
        drop(listener);
        ending.send_replace(true);
        if tokio::time::timeout(bounds.shutdown_timeout, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some connections did not end in time and were cut off");
        }
        if alarms.await.is_err() {
            tracing::error!("the task that fires alarms panicked");
        }
        if idle.await.is_err() {
            tracing::error!("the task that frees memory panicked");
        }
        if effects.await.is_err() {
            tracing::error!("the task that performs effects panicked");
        }
        let (reply_to, closed) = oneshot::channel();
        let platform = Arc::clone(&streams.platform);
        platform.work(Box::new(move || {
            streams.close_shards();
            // The receiver still waits.
            let _ = reply_to.send(());
        }));
        if closed.await.is_err() {
            tracing::error!("the shards could not be closed");
        }
    }
}

/// Returns the length of a request's body.
fn length(body: &hyper::body::Incoming) -> Length {
    body.size_hint()
        .exact()
        .map_or(Length::Chunked, Length::Known)
}

/// Builds the HTTP connection with its bounds.
fn connection<I, S, F, B, E>(
    config: &Config,
    io: Socket<I>,
    service: S,
) -> impl GracefulConnection<Error = hyper::Error> + Send + use<I, S, F, B, E>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Fn(Request<hyper::body::Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<hyper::Response<B>, E>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let bounds = &config.bounds;
    http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that has closed its sending side may still wait for the answer.
        .half_close(true)
        .header_read_timeout(bounds.idle_timeout.max(bounds.head_timeout))
        .max_buf_size(bounds.head_bytes_max)
        .max_header_size(bounds.head_bytes_max)
        .max_headers(bounds.headers_max)
        .auto_date_header(config.date)
        .serve_connection(TokioIo::new(io), service_fn(service))
}
