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

use crate::faults::ConnectionAction;

/// A TCP stream that ends with RST instead of FIN once its flag is set, and that a fault may break after so many bytes.
pub(crate) struct Socket {
    tcp: TcpStream,
    reset: Arc<AtomicBool>,
    limit: Option<Limit>,
}

struct Limit {
    /// Bytes that may still be read.
    left: u64,
    end: End,
}

enum End {
    Asleep(Pin<Box<Sleep>>),
    Close,
    Pause(Duration),
    Reset,
    Stall,
}

impl Socket {
    pub fn new(tcp: TcpStream, reset: Arc<AtomicBool>, fault: Option<ConnectionAction>) -> Self {
        // Small answers must not wait for the acknowledgement of earlier ones.
        let _ = tcp.set_nodelay(true);
        let limit = match fault {
            None | Some(ConnectionAction::Garbage) => None,
            Some(ConnectionAction::Close { after }) => Some(Limit { left: after, end: End::Close }),
            Some(ConnectionAction::Pause { after, time }) => Some(Limit { left: after, end: End::Pause(time) }),
            Some(ConnectionAction::Reset { after }) => Some(Limit { left: after, end: End::Reset }),
            Some(ConnectionAction::Stall { after }) => Some(Limit { left: after, end: End::Stall }),
        };
        Self { tcp, reset, limit }
    }

    /// Ready as long as bytes may pass.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(limit) = self.limit.as_mut().filter(|limit| limit.left == 0) else {
            return Poll::Ready(Ok(()));
        };
        if let End::Pause(time) = limit.end {
            limit.end = End::Asleep(Box::pin(tokio::time::sleep(time)));
        }
        match &mut limit.end {
            End::Asleep(sleep) => {
                ready!(sleep.as_mut().poll(cx));
                self.limit = None;
                Poll::Ready(Ok(()))
            }
            End::Close => Poll::Ready(Err(io::Error::other("closed by a fault"))),
            End::Reset => {
                self.reset.store(true, Ordering::Release);
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            // Nobody wakes it: it ends with the server.
            End::Pause(_) | End::Stall => Poll::Pending,
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            let _ = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        let Socket { tcp, limit, .. } = &mut *self;
        let Some(limit) = limit else {
            return Pin::new(tcp).poll_read(cx, buf);
        };
        let most = buf.remaining().min(usize::try_from(limit.left).unwrap_or(usize::MAX));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(tcp).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        limit.left -= read as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // FIN first would tell the client of an orderly end.
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}
