//! The server's platform and network: the simulated clock, drawn entropy, storage work on the
//! host's own runtime, and connections that may break off.

use std::cell::Cell;
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use machine::Millis;
use server::{Accepted, Listener, Platform, Unseen, Work};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use turmoil::net::{TcpListener, TcpStream};

use crate::coverage::Fault;
use crate::shared::{Shared, now};

/// The platform of one server.
pub(crate) struct Simulated {
    shared: Shared,
    works: mpsc::UnboundedSender<Work>,
}

impl Debug for Simulated {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Simulated").finish_non_exhaustive()
    }
}

impl Simulated {
    /// Runs on the runtime of the present host.
    pub(crate) fn new(shared: Shared) -> Self {
        let (works, mut queue) = mpsc::unbounded_channel::<Work>();
        let it = shared.clone();
        tokio::spawn(async move {
            while let Some(work) = queue.recv().await {
                let delay = {
                    let mut shared = it.lock();
                    if shared.fault(Fault::WorkDelayed) {
                        let most = shared.settings.work_ms_max;
                        shared.choices.between(most / 2, most)
                    } else {
                        0
                    }
                };
                if delay > 0 {
                    let waiting = queue.len();
                    tokio::time::sleep(Duration::from_millis(delay)).await;
                    if queue.len() > waiting {
                        it.lock().changed(Fault::WorkDelayed);
                    }
                }
                work();
            }
        });
        Self { shared, works }
    }
}

impl Platform for Simulated {
    fn now(&self) -> Millis {
        let now = now();
        self.shared.lock().asked_for_time(now);
        Millis(now)
    }

    /// Returns a random number. It never repeats one, even when the tape has ended, because a wait
    /// of random length would otherwise not be a wait.
    fn random(&self) -> io::Result<u64> {
        let mut shared = self.shared.lock();
        shared.randoms += 1;
        let odd = shared.randoms.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Ok(shared.choices.upto(u64::MAX) ^ odd)
    }

    fn work(&self, work: Work) {
        // When the host dies, the work is dropped.
        drop(self.works.send(work));
    }
}

/// Connections of the simulated network.
pub(crate) struct Accepting(pub(crate) TcpListener);

impl Listener for Accepting {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<Accepted<TcpStream>> {
        let (stream, peer) = self.0.accept().await?;
        let local = stream.local_addr()?;
        Ok(Accepted {
            io: stream,
            local,
            peer: peer.ip(),
            watch: Arc::new(Unseen),
        })
    }
}

/// What happens to a client's connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFault {
    /// How many more bytes pass before it breaks off, if it does.
    pub(crate) writes_left: Cell<Option<u64>>,
    pub(crate) reads_left: Cell<Option<u64>>,
    /// Whether either end was cut.
    pub(crate) cut_writing: Cell<bool>,
    pub(crate) cut_reading: Cell<bool>,
    pub(crate) written: Cell<u64>,
    pub(crate) read: Cell<u64>,
}

/// How many bytes a client reads at once.
const PIECE: usize = 4_096;

/// A client's end of a connection.
pub(crate) struct FaultyStream {
    stream: Option<TcpStream>,
    fault: Rc<ConnectionFault>,
}

impl FaultyStream {
    pub(crate) const fn new(stream: TcpStream, fault: Rc<ConnectionFault>) -> Self {
        Self {
            stream: Some(stream),
            fault,
        }
    }

    fn broken() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, "cut, as drawn")
    }
}

impl AsyncRead for FaultyStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let fault = Rc::clone(&self.fault);
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(Self::broken()));
        };
        let left = fault.reads_left.get();
        if left == Some(0) {
            fault.cut_reading.set(true);
            self.stream = None;
            return Poll::Ready(Err(Self::broken()));
        }
        let most = left.map_or(PIECE, |left| {
            usize::try_from(left).unwrap_or(PIECE).min(PIECE)
        });
        let mut bytes = [0; PIECE];
        let mut part = ReadBuf::new(&mut bytes[..most.min(buffer.remaining())]);
        let read = Pin::new(stream).poll_read(context, &mut part);
        let count = part.filled().len() as u64;
        buffer.put_slice(part.filled());
        fault.read.set(fault.read.get() + count);
        fault.reads_left.set(left.map(|left| left - count));
        read
    }
}

impl AsyncWrite for FaultyStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let fault = Rc::clone(&self.fault);
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(Self::broken()));
        };
        let left = fault.writes_left.get();
        if left == Some(0) && !bytes.is_empty() {
            fault.cut_writing.set(true);
            self.stream = None;
            return Poll::Ready(Err(Self::broken()));
        }
        let most = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let part = &bytes[..bytes.len().min(most)];
        let written = Pin::new(stream).poll_write(context, part);
        if let Poll::Ready(Ok(count)) = written {
            fault.written.set(fault.written.get() + count as u64);
            fault.writes_left.set(left.map(|left| left - count as u64));
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Some(stream) => Pin::new(stream).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}
