//! The layer between the network and the HTTP library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_io_timeout::TimeoutStream;

use crate::config::Bounds;
use crate::framing::{Framing, Length};

/// The length of the body of the request whose head was read last.
pub(crate) type NextBody = Arc<Mutex<Option<Length>>>;

/// A count of holders: the two ends of the connection, and each request until its answer is taken.
pub(crate) type Answering = Arc<()>;

/// The beginning of the header that every answer of the service has, in lower case.
const CACHE_CONTROL: &[u8] = b"\ncache-control:";
/// Bytes that are read from a finished connection at once, and thrown away.
const THROWN_AWAY_BYTES: usize = 4_096;

/// How many holders an [`Answering`] has while no request is under way.
const ENDS: usize = 2;

/// A connection that bounds the time for a head to arrive and for a write to be taken, and that is
/// closed so that the client can read the last answer.
pub(crate) struct Socket<Io> {
    io: Pin<Box<TimeoutStream<Io>>>,
    framing: Framing,
    next_body: NextBody,
    /// Bytes after a head. Whether they are a body is not known yet.
    behind: BytesMut,
    head_timeout: Duration,
    head_late: Option<Pin<Box<Sleep>>>,
    linger_timeout: Duration,
    linger_silence: Duration,
    lingering: Option<Lingering>,
    answering: Answering,
    /// Whether the next write begins an answer: everything was written, and no request was under
    /// way.
    is_between_answers: bool,
    /// What replaces an answer of the library, as far as it is not written yet.
    replaced: BytesMut,
}

/// After the server has closed its sending side, it discards what the client still sends. If it
/// closed the connection at once, the system would send a reset, and the client would lose what it
/// has not read (RFC 9112, 9.6).
struct Lingering {
    over: Pin<Box<Sleep>>,
    silent: Pin<Box<Sleep>>,
}

impl<Io: AsyncRead + AsyncWrite> Socket<Io> {
    pub(crate) fn new(io: Io, next_body: NextBody, answering: Answering, bounds: &Bounds) -> Self {
        let mut io = TimeoutStream::new(io);
        // A client that reads nothing must not keep its connection for ever.
        io.set_write_timeout(Some(bounds.write_timeout));
        Self {
            io: Box::pin(io),
            framing: Framing::default(),
            next_body,
            behind: BytesMut::new(),
            head_timeout: bounds.head_timeout,
            head_late: None,
            linger_timeout: bounds.linger_timeout,
            linger_silence: bounds.linger_silence,
            lingering: None,
            answering,
            is_between_answers: true,
            replaced: BytesMut::new(),
        }
    }

    /// Returns whether the library has made this answer by itself, because it refused the head.
    /// Every answer of the service has a `Cache-Control`. Such an answer comes in one piece, and no
    /// body can be mistaken for it.
    fn is_the_librarys(&self, bytes: &[u8]) -> bool {
        self.is_between_answers
            && Arc::strong_count(&self.answering) == ENDS
            && bytes.starts_with(b"HTTP/1.1 4")
            && bytes.ends_with(b"\r\n\r\n")
            && !bytes
                .to_ascii_lowercase()
                .windows(CACHE_CONTROL.len())
                .any(|name| name == CACHE_CONTROL)
    }

    fn poll_replaced(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.replaced.is_empty() {
            let written = ready!(self.io.as_mut().poll_write(context, &self.replaced))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.replaced.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns the same answer with a `Cache-Control` after its status line.
fn never_stored(answer: &[u8]) -> BytesMut {
    let line_end = answer.iter().position(|byte| *byte == b'\n');
    let (line, rest) = answer.split_at(line_end.map_or(0, |at| at + 1));
    let parts = [line, b"cache-control: no-store\r\n", rest];
    BytesMut::from(parts.concat().as_slice())
}

impl<Io: AsyncRead + AsyncWrite> AsyncRead for Socket<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.framing.awaits_length()
            && let Some(length) = this.next_body.lock().take()
        {
            this.framing.body_follows(length);
        }
        let before = buffer.filled().len();
        let is_behind = !this.behind.is_empty();
        if is_behind {
            let count = this.behind.len().min(buffer.remaining());
            buffer.put_slice(&this.behind[..count]);
        } else if this.io.as_mut().poll_read(context, buffer)?.is_pending() {
            if this.framing.is_in_head() {
                let late = this
                    .head_late
                    .get_or_insert_with(|| Box::pin(sleep(this.head_timeout)));
                ready!(late.as_mut().poll(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        let read = &mut buffer.filled_mut()[before..];
        let passed = if this.framing.awaits_length() {
            // The head was refused. The library reads what follows only to discard it.
            read.len()
        } else {
            this.framing.follow(read)
        };
        if is_behind {
            this.behind.advance(passed);
        } else {
            this.behind.extend_from_slice(&read[passed..]);
        }
        buffer.set_filled(before + passed);
        if !this.framing.is_in_head() {
            this.head_late = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite> AsyncWrite for Socket<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_replaced(context))?;
        if self.is_the_librarys(bytes) {
            self.is_between_answers = false;
            self.replaced = never_stored(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(self.io.as_mut().poll_write(context, bytes));
        self.is_between_answers = false;
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = parts.iter().find(|part| !part.is_empty());
        if let Some(first) = first.filter(|first| self.is_the_librarys(first)) {
            return self.poll_write(context, first);
        }
        ready!(self.poll_replaced(context))?;
        let written = ready!(self.io.as_mut().poll_write_vectored(context, parts));
        self.is_between_answers = false;
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_replaced(context))?;
        ready!(self.io.as_mut().poll_flush(context))?;
        self.is_between_answers = Arc::strong_count(&self.answering) == ENDS;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_replaced(context))?;
        let lingering = match &mut this.lingering {
            Some(lingering) => lingering,
            none => {
                ready!(this.io.as_mut().poll_shutdown(context))?;
                none.insert(Lingering {
                    over: Box::pin(sleep(this.linger_timeout)),
                    silent: Box::pin(sleep(this.linger_silence)),
                })
            }
        };
        let mut thrown_away = [0; THROWN_AWAY_BYTES];
        loop {
            if lingering.over.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match this.io.as_mut().poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let silent_at = Instant::now() + this.linger_silence;
                    lingering.silent.as_mut().reset(silent_at);
                }
                // The client has closed the connection, or it broke.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.silent.as_mut().poll(context).map(Ok),
            }
        }
    }
}
