//! Requests and answers as the handlers see them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

use crate::recorder::Entry;
use crate::util::lock;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Response = hyper::Response<Body>;

/// A request whose body has not been read yet.
pub(crate) struct Request {
    pub method: Method,
    /// As sent, before any decoding.
    pub path: String,
    pub query: String,
    /// `HOST[:PORT]` as a request to a proxy names it.
    pub authority: Option<String>,
    pub headers: HeaderMap,
    /// What becomes of the connection after a CONNECT.
    pub upgrade: Option<OnUpgrade>,
    pub body: RequestBody,
    pub entry: Arc<Entry>,
}

impl Request {
    pub fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A body that counts what is read of it, and stops or slows down where a fault says.
pub(crate) struct RequestBody {
    incoming: Incoming,
    entry: Arc<Entry>,
    stop: Option<Stop>,
    left: u64,
    /// Bytes a second.
    pace: Option<u64>,
    /// What all bodies together have.
    link: Option<Arc<Link>>,
    /// What has arrived and must still wait, and how long.
    waiting: Bytes,
    wait: Duration,
    shutdown: watch::Receiver<bool>,
}

/// What happens once a body was read as far as a fault allows.
pub(crate) enum Stop {
    /// Nothing for so long; then the rest.
    Pause(Duration),
    /// The connection is reset.
    Reset(Arc<AtomicBool>),
    /// Nothing more happens, and this says so.
    Stall(Arc<AtomicBool>),
}

impl RequestBody {
    pub fn new(incoming: Incoming, entry: Arc<Entry>, shutdown: watch::Receiver<bool>) -> Self {
        let (waiting, wait) = (Bytes::new(), Duration::ZERO);
        Self { incoming, entry, stop: None, left: u64::MAX, pace: None, link: None, waiting, wait, shutdown }
    }

    /// When the server ends.
    pub fn shutdown(&self) -> watch::Receiver<bool> {
        self.shutdown.clone()
    }

    pub fn stop_after(&mut self, bytes: u64, stop: Stop) {
        self.left = bytes;
        self.stop = Some(stop);
    }

    pub fn slow_down_to(&mut self, bytes_per_second: u64) {
        self.pace = Some(bytes_per_second.max(1));
    }

    pub fn share(&mut self, link: Arc<Link>) {
        self.link = Some(link);
    }

    /// The next piece, `None` at the end.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            self.stopped().await?;
        }
        if !self.wait.is_zero() {
            tokio::time::sleep(std::mem::take(&mut self.wait)).await;
        }
        if self.waiting.is_empty() {
            match self.arrived().await? {
                Some(data) => self.waiting = data,
                None => return Ok(None),
            }
        }
        let mut most = usize::try_from(self.left).unwrap_or(usize::MAX);
        if let Some(pace) = self.pace {
            most = most.min(usize::try_from(pace.div_ceil(DRIPS)).unwrap_or(usize::MAX));
        }
        if self.link.is_some() {
            most = most.min(LINK_PIECE);
        }
        let data = self.waiting.split_to(most.min(self.waiting.len()));
        if let Some(link) = &self.link {
            link.pass(data.len()).await;
        }
        if let Some(pace) = self.pace {
            self.wait = time_for(data.len(), pace);
        }
        if self.stop.is_some() {
            self.left -= data.len() as u64;
        }
        self.entry.add_body_bytes(data.len() as u64);
        Ok(Some(data))
    }

    async fn arrived(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(frame) = self.incoming.frame().await else {
                return Ok(None);
            };
            match frame.map_err(io::Error::other)?.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => continue,
            }
        }
    }

    /// The whole body, or `None` if it is longer than the limit; the rest is then left unread.
    pub async fn collect(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > limit {
                return Ok(None);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(Some(all.freeze()))
    }

    /// Reads past about so many bytes, of which a client may have sent more by then.
    pub async fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let mut read = 0;
        while read < bytes
            && let Some(chunk) = self.chunk().await?
        {
            read += chunk.len() as u64;
        }
        Ok(())
    }

    /// Reads to the end, so that the client can read the answer: closing with bytes unread resets the connection.
    pub async fn drain(&mut self) -> io::Result<()> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    /// Does what the fault says, for a request that may have no body at all. After a pause all is well again.
    pub async fn stopped(&mut self) -> io::Result<()> {
        match &self.stop {
            Some(Stop::Pause(time)) => {
                tokio::time::sleep(*time).await;
                self.stop = None;
                self.left = u64::MAX;
                return Ok(());
            }
            Some(Stop::Reset(reset)) => reset.store(true, Ordering::Release),
            Some(Stop::Stall(stalled)) => {
                stalled.store(true, Ordering::Release);
                // Ends with the server: a task that waits for ever would outlive it.
                let _ = self.shutdown.wait_for(|stop| *stop).await;
            }
            None => {}
        }
        Err(io::Error::other("stopped by a fault"))
    }
}

/// How much of one body crosses a shared link before it is another's turn.
const LINK_PIECE: usize = 64 << 10;

/// A link that many bodies share.
#[derive(Debug)]
pub(crate) struct Link {
    per_second: u64,
    /// When the last byte will have crossed it.
    free: Mutex<Instant>,
}

impl Link {
    pub fn new(per_second: u64) -> Self {
        Self { per_second: per_second.max(1), free: Mutex::new(Instant::now()) }
    }

    async fn pass(&self, bytes: usize) {
        let crossed = {
            let mut free = lock(&self.free);
            *free = (*free).max(Instant::now()) + time_for(bytes, self.per_second);
            *free
        };
        tokio::time::sleep_until(crossed.into()).await;
    }
}

/// Into how many pieces a second of a slow body is cut.
const DRIPS: u64 = 20;

fn time_for(bytes: usize, per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second as f64)
}

/// The answer with its body sent so slowly.
pub(crate) fn drip(response: Response, per_second: u64) -> Response {
    let per_second = per_second.max(1);
    let piece = usize::try_from(per_second.div_ceil(DRIPS)).unwrap_or(usize::MAX);
    rewrite(response, |body| {
        stream::try_unfold((body, Bytes::new()), move |(mut body, mut waiting)| async move {
            if waiting.is_empty() {
                match next_data(&mut body).await? {
                    Some(data) => waiting = data,
                    None => return Ok(None),
                }
            }
            let data = waiting.split_to(piece.min(waiting.len()));
            tokio::time::sleep(time_for(data.len(), per_second)).await;
            Ok(Some((Frame::data(data), (body, waiting))))
        })
    })
}

/// The answer with a body that ends after so many bytes, short of its `Content-Length`.
pub(crate) fn truncate(mut response: Response, after: u64) -> Response {
    if response.body().size_hint().exact().is_some_and(|length| length <= after) {
        let promised = response.body().size_hint().lower() + 1;
        response.headers_mut().insert(CONTENT_LENGTH, promised.into());
    }
    rewrite(response, |body| {
        stream::try_unfold((body, after), |(mut body, left)| async move {
            let data = match left {
                0 => None,
                _ => next_data(&mut body).await?,
            };
            let Some(mut data) = data else {
                // What was sent so far has to leave before the connection does.
                tokio::time::sleep(FLUSH).await;
                return Err(io::Error::other("truncated by a fault"));
            };
            data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - data.len() as u64;
            Ok(Some((Frame::data(data), (body, left))))
        })
    })
}

/// The answer with other headers; with a `Content-Length` that need not be true.
pub(crate) fn replace_headers(mut response: Response, headers: &[(String, Option<String>)]) -> Response {
    // Before its length may become a lie.
    response = rewrite(response, |body| {
        stream::try_unfold(Some(body), |body| async move {
            let Some(mut body) = body else { return Ok(None) };
            match next_data(&mut body).await? {
                Some(data) => Ok(Some((Frame::data(data), Some(body)))),
                None => {
                    tokio::time::sleep(FLUSH).await;
                    Ok(None)
                }
            }
        })
    });
    for (name, value) in headers {
        if let Ok(name) = name.parse::<HeaderName>() {
            response.headers_mut().remove(name);
        }
        if let Some(value) = value {
            response = response.header(name, value);
        }
    }
    response
}

/// How long hyper gets to send what it holds, before a body makes it end the connection.
const FLUSH: Duration = Duration::from_millis(50);

async fn next_data(body: &mut Body) -> io::Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.into_data().ok().filter(|data| !data.is_empty()) {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Puts another stream in the place of a body. The `Content-Length` of the old one becomes a header: hyper, which would
/// hold it against the stream's own, then takes it as it is.
fn rewrite<S>(response: Response, stream: impl FnOnce(Body) -> S) -> Response
where
    S: futures_util::Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static,
{
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.entry(CONTENT_LENGTH).or_insert(length.into());
    }
    Response::from_parts(head, StreamBody::new(stream(body)).boxed_unsync())
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An answer without headers of its own. A status no HTTP knows, which only a script can ask for, becomes a 500.
pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

pub(crate) fn json(status: u16, content_type: &'static str, value: &Value) -> Response {
    let mut response = answer(status, value.to_string());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Why the service itself failed, beside an answer that does not say it.
#[derive(Clone, Debug)]
pub(crate) struct Cause(pub String);

pub(crate) trait ResponseExt: Sized {
    /// Notes why the service failed.
    fn caused_by(self, cause: impl std::fmt::Display) -> Self;
    /// Sets a header; a value that HTTP does not allow is left out.
    fn header(self, name: &str, value: impl AsRef<str>) -> Self;
}

impl ResponseExt for Response {
    fn caused_by(mut self, cause: impl std::fmt::Display) -> Self {
        self.extensions_mut().insert(Cause(cause.to_string()));
        self
    }

    fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.as_ref())) {
            self.headers_mut().insert(name, value);
        }
        self
    }
}
