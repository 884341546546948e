//! The server's end of a connection, which a fault may break.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::faults::{ConnectionAction, ConnectionHit};

/// How long a connection that is closed with bytes unread goes on reading them. Closing at once would reset it, and the
/// reset could overtake the answer.
const LINGER: Duration = Duration::from_secs(2);

/// How a connection ends, if a request decides it.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    /// With RST instead of FIN.
    pub reset: Arc<AtomicBool>,
    /// After the client had time to read an answer that it did not wait for.
    pub linger: Arc<AtomicBool>,
}

/// A TCP stream that ends as its [`Ending`] says, and that a fault may break after so many bytes.
pub(crate) struct Socket {
    /// Gone only while it is dropped.
    tcp: Option<TcpStream>,
    ending: Ending,
    limit: Option<Limit>,
    lingering: Option<Pin<Box<Sleep>>>,
}

struct Limit {
    /// Bytes that may still be read.
    left: u64,
    hit: ConnectionHit,
    /// Until a stall heals.
    asleep: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub fn new(tcp: TcpStream, ending: Ending, hit: Option<ConnectionHit>) -> Self {
        // Small answers must not wait for the acknowledgement of earlier ones.
        let _ = tcp.set_nodelay(true);
        let limit = hit.and_then(|hit| match hit.action {
            ConnectionAction::Close { after }
            | ConnectionAction::Reset { after }
            | ConnectionAction::Stall { after } => Some(Limit { left: after, hit, asleep: None }),
            ConnectionAction::Garbage | ConnectionAction::ResetAtRandom { .. } => None,
        });
        Self { tcp: Some(tcp), ending, limit, lingering: None }
    }

    /// Lets the client read the last answer before the connection ends.
    pub fn linger(&self) {
        self.ending.linger.store(true, Ordering::Release);
    }

    fn tcp(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.tcp.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ready as long as bytes may pass.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(limit) = self.limit.as_mut().filter(|limit| limit.left == 0) else {
            return Poll::Ready(Ok(()));
        };
        let asleep = match (&mut limit.asleep, limit.hit.act()) {
            (Some(asleep), _) => asleep,
            // It ended before this connection came so far.
            (None, None) => {
                self.limit = None;
                return Poll::Ready(Ok(()));
            }
            (None, Some(left)) => match limit.hit.action {
                ConnectionAction::Reset { .. } => {
                    self.ending.reset.store(true, Ordering::Release);
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                ConnectionAction::Stall { .. } => limit.asleep.insert(Box::pin(tokio::time::sleep(left))),
                _ => return Poll::Ready(Err(io::Error::other("closed by a fault"))),
            },
        };
        ready!(asleep.as_mut().poll(cx));
        self.limit = None;
        Poll::Ready(Ok(()))
    }

    /// Reads what still comes, until the client ends the connection or its time is up.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let asleep = self.lingering.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut bytes = [0; 16 << 10];
        loop {
            if asleep.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut unread = ReadBuf::new(&mut bytes);
            let Some(tcp) = &mut self.tcp else { return Poll::Ready(Ok(())) };
            match ready!(Pin::new(tcp).poll_read(cx, &mut unread)) {
                Ok(()) if !unread.filled().is_empty() => {}
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(tcp) = self.tcp.take() else { return };
        if let Some(limit) = &self.limit
            && limit.left == 0
            && matches!(limit.hit.action, ConnectionAction::Stall { .. })
        {
            limit.hit.bury(tcp);
        } else if self.ending.reset.load(Ordering::Acquire) {
            let _ = tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        let Some(left) = self.limit.as_ref().map(|limit| limit.left) else {
            return self.tcp()?.poll_read(cx, buf);
        };
        let most = buf.remaining().min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(self.tcp()?.poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        if let Some(limit) = &mut self.limit {
            limit.left -= read as u64;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        self.tcp()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // FIN first would tell the client of an orderly end.
        if self.ending.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if self.lingering.is_none() {
            ready!(self.tcp()?.poll_shutdown(cx))?;
        }
        match self.ending.linger.load(Ordering::Acquire) {
            true => self.poll_linger(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        self.tcp()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.as_ref().is_some_and(TcpStream::is_write_vectored)
    }
}
