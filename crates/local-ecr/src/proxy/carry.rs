//! Connections to a server, in a tunnel or not: looked into, opened, or passed on as they are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, rustls};

use super::upstream::Address;
use super::{Proxy, Way};
use crate::http::{Request, Response, answer};
use crate::recorder::Entry;
use crate::server::{Service, converse};
use crate::socket::Ending;
use crate::util::lock;

/// The first byte of every TLS connection: the type of a handshake record.
const TLS_HANDSHAKE: u8 = 22;
/// How much of a closed tunnel is on its way at once, in each direction.
const PIECE: usize = 16 << 10;

impl Proxy {
    /// Opens a tunnel.
    pub(super) async fn tunnel(self: &Arc<Self>, ending: &Ending, request: Request) -> io::Result<Response> {
        let authority = request.authority.unwrap_or_default();
        let Some(named) = Address::of(&authority, true) else {
            return Ok(answer(400, format!("'{authority}' is not HOST:PORT\n")));
        };
        let address = match &self.upstream {
            Some(upstream) => Address { name: Some(named.host), ..upstream.clone() },
            None => named,
        };
        // Whether it is there is asked before anyone speaks to it; a tunnel that is opened connects for each request.
        if let Err(error) = address.connect().await {
            return Ok(answer(502, format!("cannot reach {authority}: {error}\n")));
        }
        let Some(upgrade) = request.upgrade else { return Ok(answer(400, "no tunnel\n")) };
        let (proxy, ending, entry) = (Arc::clone(self), ending.clone(), request.entry);
        let shutdown = request.body.shutdown();
        tokio::spawn(async move {
            let Ok(stream) = upgrade.await else { return };
            let to = Some((address, entry));
            // Ends with the server: nobody else holds it.
            let mut end = shutdown.clone();
            tokio::select! {
                () = proxy.carry(TokioIo::new(stream), to, ending, shutdown) => {}
                _ = end.wait_for(|stop| *stop) => {}
            }
        });
        Ok(answer(200, ""))
    }

    /// Serves a connection to the given server, or to the upstream.
    pub fn carry<'a, S>(
        self: &'a Arc<Self>,
        stream: S,
        to: Option<(Address, Arc<Entry>)>,
        ending: Ending,
        shutdown: watch::Receiver<bool>,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // Boxed: a tunnel is a connection in a connection, and its future would have to hold itself.
        Box::pin(async move {
            if let Err(error) = self.look_into(stream, to, ending, shutdown).await {
                tracing::debug!("a connection ended: {error}");
            }
        })
    }

    async fn look_into<S>(
        self: &Arc<Self>,
        mut stream: S,
        to: Option<(Address, Arc<Entry>)>,
        ending: Ending,
        shutdown: watch::Receiver<bool>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (address, entry) = match to {
            Some((address, entry)) => (address, Some(entry)),
            None => match &self.upstream {
                Some(upstream) => (upstream.clone(), None),
                None => return Err(io::Error::other("there is no upstream")),
            },
        };
        let mut first = [0];
        if stream.read(&mut first).await? == 0 {
            return Ok(());
        }
        let is_tls = first[0] == TLS_HANDSHAKE;
        let stream = Begun { first: Some(first[0]), stream };
        let service = |tls, name: Option<String>| {
            let name = name.or_else(|| address.name.clone());
            Service::Proxy(Arc::clone(self), Way::To(Address { tls, name, ..address.clone() }))
        };
        match (is_tls, &self.authority) {
            // What the client speaks in a tunnel is what the server speaks; a stand-in may have TLS on one side only.
            (false, _) => {
                let tls = entry.is_none() && address.tls;
                converse(stream, None, ending, service(tls, None), shutdown).await;
                Ok(())
            }
            (true, Some(_)) => {
                let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
                let name = start.client_hello().server_name().map(str::to_owned);
                let acceptor = self.acceptor(name.as_ref().unwrap_or(&address.host))?;
                let stream = start.into_stream(Arc::clone(acceptor.config())).await?;
                let tls = entry.is_some() || address.tls;
                converse(stream, None, ending, service(tls, name), shutdown).await;
                Ok(())
            }
            (true, None) => {
                let entry = entry.unwrap_or_else(|| {
                    self.recorder.begin("CONNECT", &format!("{}:{}", address.host, address.port), "")
                });
                let upstream = address.connect().await.inspect_err(|_| ending.reset.store(true, Ordering::Release))?;
                let (from_client, to_client) = tokio::io::split(stream);
                let (from_server, to_server) = tokio::io::split(upstream);
                let outcome = tokio::try_join!(
                    pass(from_client, to_server, |bytes| entry.add_body_bytes(bytes)),
                    pass(from_server, to_client, |_| {}),
                );
                if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset) {
                    ending.reset.store(true, Ordering::Release);
                }
                outcome.map(|_| ())
            }
        }
    }

    /// The server side of TLS under a name.
    fn acceptor(&self, name: &str) -> io::Result<TlsAcceptor> {
        let authority = self.authority.as_ref().ok_or_else(|| io::Error::other("TLS stays closed"))?;
        let mut acceptors = lock(&self.acceptors);
        if let Some(acceptor) = acceptors.get(name) {
            return Ok(acceptor.clone());
        }
        let acceptor = authority.acceptor(vec![name.to_owned()])?;
        acceptors.insert(name.to_owned(), acceptor.clone());
        Ok(acceptor)
    }
}

/// Passes bytes on until the sender ends, then ends too.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut count: impl FnMut(u64),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
        to.flush().await?;
        count(read as u64);
    }
}

/// A stream whose first byte was read to see what it is.
struct Begun<S> {
    first: Option<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
