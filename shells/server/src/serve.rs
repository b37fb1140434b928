//! Connections: accepted, bounded, served, and brought to an end.

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
use crate::config::Config;
use crate::files::Files;
use crate::framing::Length;
use crate::http::{GaveWayError, Service};
use crate::metrics::Counted;
use crate::platform::Platform;
use crate::socket::{Answering, NextBody, Socket};
use crate::storage::Storage;
use crate::streams::Streams;

/// How long nothing is accepted after that has failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Listener: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    ///
    /// # Errors
    /// When there is none to be had at the moment.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Io>>> + Send;
}

/// A connection, and what is known of it.
pub struct Accepted<Io> {
    pub io: Io,
    /// The address that it came to.
    pub local: SocketAddr,
    /// The address that it came from, which may have a share of what there is.
    pub peer: IpAddr,
    pub watch: Arc<dyn Watch>,
}

type Coming<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What can be seen of a connection while nothing is read or written. What the network does not
/// tell never comes.
pub trait Watch: Send + Sync {
    /// Comes when the client has reset the connection.
    fn reset(&self) -> Coming<'_> {
        Box::pin(std::future::pending())
    }

    /// Comes when the client sends nothing more: it waits for the answer, or it is gone.
    fn half_closed(&self) -> Coming<'_> {
        Box::pin(std::future::pending())
    }
}

/// Nothing can be seen.
#[derive(Clone, Copy, Debug)]
pub struct Unseen;

impl Watch for Unseen {}

impl Watch for OwnedReadHalf {
    fn reset(&self) -> Coming<'_> {
        Box::pin(async {
            // If the system does not say, a write will.
            if self.ready(Interest::ERROR).await.is_err() {
                std::future::pending().await
            }
        })
    }

    fn half_closed(&self) -> Coming<'_> {
        Box::pin(async {
            let stream: &TcpStream = self.as_ref();
            // What has come of the next request, if anything, is left where it is.
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

/// What a client sends.
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

/// The server: everything but where its connections come from.
#[derive(Debug)]
pub struct Server {
    config: Config,
    streams: Arc<Streams>,
    effect_jobs: UnboundedReceiver<EffectJob>,
}

impl Server {
    /// Opens the data directory. Sealed segments go to `cold`; without it none is ever sealed.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(
        config: Config,
        platform: Arc<dyn Platform>,
        cold: Option<Arc<dyn ObjectStore>>,
    ) -> io::Result<Self> {
        let files = Files::take(&config.data, config.bounds.cache_kib)?;
        Ok(Self::over(config, platform, Arc::new(files), cold))
    }

    /// The same over any storage, which is this server's alone.
    #[must_use]
    pub fn over(
        config: Config,
        platform: Arc<dyn Platform>,
        storage: Arc<dyn Storage>,
        cold: Option<Arc<dyn ObjectStore>>,
    ) -> Self {
        let (streams, effect_jobs) = Streams::new(&config, platform, storage, cold);
        Self {
            config,
            streams: Arc::new(streams),
            effect_jobs,
        }
    }

    /// Serves until `end` comes, and then until everything under way is answered or the time for
    /// that is over.
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
        let alarms = tokio::spawn(alarms::run(Arc::clone(&streams), is_ending));
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
                            // Held until the body is dropped.
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
                            tracing::debug!(%error, "a connection broke off");
                        }
                    }
                    () = asked_to_end.asked() => tracing::debug!("a connection gave way to another"),
                    () = watch.reset() => tracing::debug!("a connection was reset"),
                }
                drop(counted);
            });
        }
        tracing::info!("ending");
        drop(listener);
        ending.send_replace(true);
        if tokio::time::timeout(bounds.shutdown_timeout, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("connections are left that have not ended in time");
        }
        if alarms.await.is_err() {
            tracing::error!("the alarms have failed");
        }
        if effects.await.is_err() {
            tracing::error!("the errands have failed");
        }
        let (reply_to, closed) = oneshot::channel();
        let platform = Arc::clone(&streams.platform);
        platform.work(Box::new(move || {
            streams.close();
            // Whoever waits for it is still there.
            let _ = reply_to.send(());
        }));
        if closed.await.is_err() {
            tracing::error!("the streams' files could not be closed");
        }
    }
}

/// How long the body of a request is.
fn length(body: &hyper::body::Incoming) -> Length {
    body.size_hint()
        .exact()
        .map_or(Length::Chunked, Length::Known)
}

/// One connection, bounded in what it may take and how long.
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
        // A client that has sent all that it has to say may still wait for the answer.
        .half_close(true)
        .header_read_timeout(bounds.idle_timeout.max(bounds.head_timeout))
        .max_buf_size(bounds.head_bytes_max)
        .max_header_size(bounds.head_bytes_max)
        .max_headers(bounds.headers_max)
        .auto_date_header(config.date)
        .serve_connection(TokioIo::new(io), service_fn(service))
}
