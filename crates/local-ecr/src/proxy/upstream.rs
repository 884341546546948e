//! The way to the server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::invalid;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub host: String,
    pub port: u16,
    pub tls: bool,
    /// The name its certificate must have, if that is not the host.
    pub name: Option<String>,
}

impl Address {
    /// Reads a URL without a path.
    pub fn parse(url: &str) -> io::Result<Self> {
        let not_one = || invalid(format!("'{url}' is not http://HOST:PORT or https://HOST:PORT"));
        let uri: Uri = url.parse().map_err(|_| not_one())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(not_one()),
        };
        if !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/")) {
            return Err(not_one());
        }
        let authority = uri.authority().ok_or_else(not_one)?;
        Self::of(authority.as_str(), tls).ok_or_else(not_one)
    }

    /// Reads `HOST[:PORT]`.
    pub fn of(authority: &str, tls: bool) -> Option<Self> {
        let authority: hyper::http::uri::Authority = authority.parse().ok()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // No user, no password: the rest of an authority.
        let is_plain = !authority.as_str().contains('@') && !host.is_empty();
        is_plain.then_some(Self { host, port, tls, name: None })
    }

    /// Opens a connection, without TLS.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// Opens a connection with what is spoken there.
    pub async fn open(&self, connector: &TlsConnector) -> io::Result<Flushing<Stream>> {
        let tcp = self.connect().await?;
        let stream = match self.tls {
            false => Stream::Plain(tcp),
            true => {
                let name = self.name.as_ref().unwrap_or(&self.host).clone();
                let name = ServerName::try_from(name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(connector.connect(name, tcp).await?))
            }
        };
        Ok(Flushing { stream, flushes: watch::Sender::new(0) })
    }
}

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A stream that tells whenever all that was written to it has gone.
pub(crate) struct Flushing<S> {
    stream: S,
    flushes: watch::Sender<u64>,
}

impl<S> Flushing<S> {
    pub fn flushes(&self) -> watch::Receiver<u64> {
        self.flushes.subscribe()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flushing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.flushes.send_modify(|count| *count += 1);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_upstream_is_a_url_without_a_path() {
        let address = |url| Address::parse(url).map(|it| (it.host, it.port, it.tls)).ok();
        assert_eq!(address("http://127.0.0.1:5000"), Some(("127.0.0.1".into(), 5000, false)));
        assert_eq!(address("https://registry.example/"), Some(("registry.example".into(), 443, true)));
        assert_eq!(address("http://[::1]:80"), Some(("::1".into(), 80, false)));
        for bad in ["", "127.0.0.1:5000", "ftp://a", "http://a/b", "http://a?b", "http://u:p@a", "http://"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
