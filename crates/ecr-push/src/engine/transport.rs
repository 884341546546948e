//! One HTTP/1.1 connection per call to the engine, over whatever stream leads there.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bollard::BollardRequest;
use bollard::errors::Error as BollardError;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::endpoint::{Address, Endpoint};
use super::ssh::{Complaint, SshStream};
use super::tls;
use crate::child::Variables;
use crate::error::Result;
use crate::host;

/// How long ssh is given to say why it ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The largest answer but an export: a list of all images of a host with ten thousand has some 15 MiB.
const LARGEST_ANSWER: u64 = 64 << 20;

/// The way to one engine.
pub(super) struct Transport {
    endpoint: Endpoint,
    tls: Option<Arc<ClientConfig>>,
    connect_timeout: Duration,
    ssh_program: String,
    /// What ssh receives of the environment.
    variables: Variables,
    /// `/v1.41`, once it is known. bollard leaves it out of every path.
    version_prefix: OnceLock<String>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

struct Dialled {
    stream: Box<dyn Stream>,
    complaint: Option<Complaint>,
}

impl Transport {
    /// Nothing is connected yet; TLS files are read.
    pub fn new(
        endpoint: Endpoint,
        connect_timeout: Duration,
        ssh_program: &str,
        variables: &Variables,
    ) -> Result<Self> {
        let tls = match &endpoint.address {
            Address::Tcp { tls: Some(files), .. } => Some(files.config()?),
            _ => None,
        };
        Ok(Self {
            endpoint,
            tls,
            connect_timeout,
            ssh_program: ssh_program.to_owned(),
            variables: variables.clone(),
            version_prefix: OnceLock::new(),
        })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// From now on every call names this API version.
    pub fn set_version(&self, version: &str) {
        // Set once, by the negotiation.
        let _ = self.version_prefix.set(format!("/v{version}"));
    }

    /// Opens a connection and sends one request. It ends with the response's body.
    pub async fn send(
        self: Arc<Self>,
        mut request: BollardRequest,
    ) -> std::result::Result<Response<Incoming>, BollardError> {
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
        let prefix = self.version_prefix.get().map_or("", String::as_str);
        *request.uri_mut() = format!("{prefix}{path}").parse::<Uri>()?;
        let host = HeaderValue::from_str(&self.host_header()).map_err(http::Error::from)?;
        request.headers_mut().insert(HOST, host);

        // An export is taken as it comes, and never kept; any other answer is kept whole.
        let most = if path.ends_with("/get") { u64::MAX } else { LARGEST_ANSWER };
        let Dialled { stream, complaint } = self.dial().await?;
        let stream = Bounded { inner: stream, left: most };
        let answer = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            // What goes wrong on the connection comes out of the response or its body.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        match (answer.await, complaint) {
            (Ok(response), _) => Ok(response),
            (Err(error), None) => Err(error.into()),
            (Err(error), Some(complaint)) => {
                tokio::time::sleep(LAST_WORDS).await;
                Err(match complaint.last_line() {
                    Some(line) => io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        format!("ssh: {}", line.trim_start_matches("ssh: ")),
                    )
                    .into(),
                    None => error.into(),
                })
            }
        }
    }

    async fn dial(&self) -> io::Result<Dialled> {
        match timeout(self.connect_timeout, self.open()).await {
            Ok(dialled) => dialled,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {} s", self.connect_timeout.as_secs()),
            )),
        }
    }

    async fn open(&self) -> io::Result<Dialled> {
        let mut complaint = None;
        let stream: Box<dyn Stream> = match &self.endpoint.address {
            Address::Pipe(path) => open_pipe(path).await?,
            Address::Ssh(target) => {
                let seconds = self.connect_timeout.as_secs().max(1);
                let (stream, said) = SshStream::start(&self.ssh_program, &self.variables, target, seconds)?;
                complaint = Some(said);
                Box::new(stream)
            }
            Address::Tcp { host, port, .. } => {
                let addresses = host::resolve(&host.to_string(), *port).await?;
                let stream = tokio::net::TcpStream::connect(addresses.as_slice()).await?;
                stream.set_nodelay(true)?;
                match &self.tls {
                    None => Box::new(stream),
                    Some(config) => {
                        let connector = TlsConnector::from(config.clone());
                        Box::new(connector.connect(tls::server_name(host)?, stream).await?)
                    }
                }
            }
            Address::Unix(path) => open_unix(path).await?,
        };
        Ok(Dialled { stream, complaint })
    }

    fn host_header(&self) -> String {
        match &self.endpoint.address {
            Address::Tcp { host, port, .. } => format!("{host}:{port}"),
            _ => "docker".to_owned(),
        }
    }
}

/// A connection on which no more than `left` bytes come in.
struct Bounded {
    inner: Box<dyn Stream>,
    left: u64,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let read = buf.filled().len().saturating_sub(before) as u64;
        self.left = self.left.checked_sub(read).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "its answer has over 64 MiB, which no description of images has")
        })?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(unix)]
async fn open_unix(path: &std::path::Path) -> io::Result<Box<dyn Stream>> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn open_unix(_path: &std::path::Path) -> io::Result<Box<dyn Stream>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "unix sockets are not available on this system"))
}

#[cfg(windows)]
async fn open_pipe(path: &std::path::Path) -> io::Result<Box<dyn Stream>> {
    use tokio::net::windows::named_pipe::ClientOptions;
    // All instances of the pipe are taken: another is made in a moment. The caller's time-out ends the wait.
    const ERROR_PIPE_BUSY: i32 = 231;
    loop {
        match ClientOptions::new().open(path) {
            Ok(pipe) => return Ok(Box::new(pipe)),
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(not(windows))]
async fn open_pipe(_path: &std::path::Path) -> io::Result<Box<dyn Stream>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "named pipes exist on Windows only"))
}
