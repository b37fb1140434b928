//! Connections: accepted, bounded, served, and brought to an end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use object_store::ObjectStore;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_io_timeout::TimeoutStream;

use crate::alarms;
use crate::cold::{self, Errand};
use crate::config::Config;
use crate::files::Files;
use crate::http::Service;
use crate::metrics::Counted;
use crate::platform::Platform;
use crate::storage::Storage;
use crate::streams::Streams;

/// How long nothing is accepted after that has failed, for want of descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Listener: Send + 'static {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection, and the address that it came to.
    ///
    /// # Errors
    /// When there is none to be had at the moment.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Io, SocketAddr)>> + Send;
}

/// Connections over TCP.
#[derive(Debug)]
pub struct Tcp(pub TcpListener);

impl Listener for Tcp {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, _) = self.0.accept().await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok((stream, local))
    }
}

/// The server: everything but where its connections come from.
#[derive(Debug)]
pub struct Server {
    config: Config,
    streams: Arc<Streams>,
    errands: UnboundedReceiver<Errand>,
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
        let (streams, errands) = Streams::new(&config, platform, storage, cold);
        Self {
            config,
            streams: Arc::new(streams),
            errands,
        }
    }

    /// Serves until `end` comes, and then until everything under way is answered or the time for that is over.
    pub async fn serve(self, mut listener: impl Listener, end: impl Future<Output = ()>) {
        let Self {
            config,
            streams,
            errands,
        } = self;
        let bounds = &config.bounds;
        let (ending, is_ending) = watch::channel(false);
        let service = Arc::new(Service::new(Arc::clone(&streams), is_ending.clone()));
        let errands = tokio::spawn(cold::run(Arc::clone(&streams), errands, is_ending.clone()));
        let alarms = tokio::spawn(alarms::run(Arc::clone(&streams), is_ending));
        let graceful = GracefulShutdown::new();
        let served = Arc::new(Semaphore::new(bounds.connections_max));
        let refused = Arc::new(Semaphore::new(bounds.connections_refused_max));
        let mut end = pin!(end);
        loop {
            let accepting = async {
                let permit = match Arc::clone(&served).try_acquire_owned() {
                    Ok(permit) => Ok(permit),
                    // Tells some that there is no room, and lets the others wait.
                    Err(_) => Err(Arc::clone(&refused).acquire_owned().await),
                };
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = &mut end => break,
                accepted = accepting => accepted,
            };
            let (io, local) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let is_refused = permit.is_err();
            let service = Arc::clone(&service);
            let counted = Counted::new(&streams.metrics.connections);
            let connection = connection(&config, io, move |request| {
                let service = Arc::clone(&service);
                async move {
                    if is_refused {
                        return Ok(service.refuse_connection(&request));
                    }
                    service.answer(request, local).await
                }
            });
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // That a client leaves is no matter.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke off");
                }
                drop((permit, counted));
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
        if errands.await.is_err() {
            tracing::error!("the errands have failed");
        }
        let (told, closed) = oneshot::channel();
        let platform = Arc::clone(&streams.platform);
        platform.work(Box::new(move || {
            streams.close();
            // Whoever waits for it is still there.
            let _ = told.send(());
        }));
        if closed.await.is_err() {
            tracing::error!("the streams' files could not be closed");
        }
    }
}

/// One connection, bounded in what it may take and how long.
fn connection<I, S, F, B, E>(
    config: &Config,
    io: I,
    service: S,
) -> impl GracefulConnection<Error = hyper::Error> + Send + use<I, S, F, B, E>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Fn(hyper::Request<hyper::body::Incoming>) -> F + Send + 'static,
    F: Future<Output = Result<hyper::Response<B>, E>> + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let bounds = &config.bounds;
    let mut io = TimeoutStream::new(io);
    // A client that takes nothing of what it is sent does not hold its connection for ever.
    io.set_write_timeout(Some(bounds.write_timeout));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(bounds.head_bytes_max)
        .max_headers(bounds.headers_max)
        .auto_date_header(config.date)
        .serve_connection(TokioIo::new(Box::pin(io)), service_fn(service))
}
