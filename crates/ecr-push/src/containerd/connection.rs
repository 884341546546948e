//! One HTTP/2 connection over a unix socket that all calls share.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, HeaderValue, Request, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::failure::Failure;
use super::grpc::{self, Answers};
use super::messages::Method;
use super::proto::Malformed;
use crate::error::{Result, Retry};

/// How much of one call's answer may lie unread: what a stream costs when its reader is slow.
const STREAM_WINDOW: u32 = 1 << 20;
/// The same for all calls together. Far more than one stream's: a few readers that wait for the network would
/// otherwise use it up, and no other call would get an answer until they go on.
const CONNECTION_WINDOW: u32 = 64 << 20;
const LARGEST_HEADERS: u32 = 64 << 10;

/// What tests make shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// To open the socket.
    pub connect: Duration,
    /// For a whole call with one answer.
    pub call: Duration,
    /// Between two pieces of a stream.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), call: Duration::from_secs(30), idle: Duration::from_secs(60) }
    }
}

/// The way to one containerd.
pub(super) struct Connection {
    path: PathBuf,
    origin: String,
    limits: Limits,
    requests: Mutex<Option<SendRequest<Bytes>>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Connection {
    /// Nothing is opened yet.
    pub fn new(path: PathBuf, limits: Limits) -> Self {
        let origin = format!("unix://{}", path.display());
        Self { path, origin, limits, requests: Mutex::new(None) }
    }

    /// Its address, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A call that has one answer.
    pub async fn call<T>(
        &self,
        method: &Method,
        namespace: &str,
        request: Vec<u8>,
        decode: impl FnOnce(Bytes) -> std::result::Result<T, Malformed>,
    ) -> Result<T> {
        let failure = Failure::new(&self.origin, method);
        let exchange = async {
            let mut answers = self.stream(method, namespace, request).await?;
            let Some(answer) = answers.next().await? else {
                return Err(failure.nonsense("it is empty"));
            };
            // The status comes after the answer, and may say that it failed all the same.
            if answers.next().await?.is_some() {
                return Err(failure.nonsense("there are two answers to one question"));
            }
            decode(answer).map_err(|error| failure.malformed(error))
        };
        failure.within(self.limits.call, exchange).await
    }

    /// A call whose answers come one after another.
    pub async fn stream(&self, method: &Method, namespace: &str, message: Vec<u8>) -> Result<Answers> {
        let failure = Failure::new(&self.origin, method);
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = format!("http://localhost{}", method.path)
            .parse()
            .map_err(|error: http::uri::InvalidUri| failure.nonsense(&error.to_string()))?;
        *request.headers_mut() = headers(namespace).map_err(|error| failure.nonsense(&error.to_string()))?;
        let exchange = async {
            let mut requests = self.requests(&failure).await?;
            let (response, mut body) = requests.send_request(request, false).map_err(|error| failure.broken(error))?;
            body.send_data(grpc::frame(&message), true).map_err(|error| failure.broken(error))?;
            response.await.map_err(|error| failure.broken(error))
        };
        let response = failure.within(self.limits.idle, exchange).await?;
        Answers::new(response, failure, self.limits.idle)
    }

    /// The connection there is, or a new one if it ended: containerd may be restarted under a long push.
    async fn requests(&self, failure: &Failure) -> Result<SendRequest<Bytes>> {
        let mut slot = self.requests.lock().await;
        if let Some(requests) = slot.clone()
            && let Ok(requests) = requests.ready().await
        {
            return Ok(requests);
        }
        let requests = failure.within(self.limits.connect, self.open(failure)).await.map_err(|error| {
            // It was there before, so it is on its way back.
            if slot.is_some() { error.with_retry(Retry::Backoff) } else { error }
        })?;
        *slot = Some(requests.clone());
        requests.ready().await.map_err(|error| failure.broken(error))
    }

    async fn open(&self, failure: &Failure) -> Result<SendRequest<Bytes>> {
        let socket = open_socket(&self.path).await.map_err(|error| failure.unreachable(error))?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(LARGEST_HEADERS)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(|error| failure.broken(error))?;
        // It ends with the last call and handle. What goes wrong on it comes out of the calls.
        tokio::spawn(connection);
        Ok(requests)
    }
}

fn headers(namespace: &str) -> std::result::Result<HeaderMap, header::InvalidHeaderValue> {
    Ok(HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        // gRPC over HTTP/2 wants it, to find proxies that would drop the trailers.
        (header::TE, HeaderValue::from_static("trailers")),
        (header::USER_AGENT, HeaderValue::from_static(concat!("ecr-push/", env!("CARGO_PKG_VERSION")))),
        (header::HeaderName::from_static("containerd-namespace"), HeaderValue::from_str(namespace)?),
    ]))
}

#[cfg(unix)]
async fn open_socket(path: &Path) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    tokio::net::UnixStream::connect(path).await
}

#[cfg(not(unix))]
async fn open_socket(_path: &Path) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
    Err::<tokio::io::DuplexStream, _>(io::Error::new(
        io::ErrorKind::Unsupported,
        "unix sockets are not available on this system",
    ))
}
