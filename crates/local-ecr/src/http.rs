//! Requests and answers as the handlers see them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

use crate::recorder::Entry;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(crate) type Response = hyper::Response<Body>;

/// A request whose body has not been read yet.
pub(crate) struct Request {
    pub method: Method,
    /// As sent, before any decoding.
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: RequestBody,
    pub entry: Arc<Entry>,
}

impl Request {
    pub fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A body that counts what is read of it and stops where a fault says.
pub(crate) struct RequestBody {
    incoming: Incoming,
    entry: Arc<Entry>,
    stop: Option<Stop>,
    left: u64,
    shutdown: watch::Receiver<bool>,
}

/// What happens once a body was read as far as a fault allows.
pub(crate) enum Stop {
    /// The connection is reset.
    Reset(Arc<AtomicBool>),
    /// Nothing more happens.
    Stall,
}

impl RequestBody {
    pub fn new(incoming: Incoming, entry: Arc<Entry>, shutdown: watch::Receiver<bool>) -> Self {
        Self { incoming, entry, stop: None, left: u64::MAX, shutdown }
    }

    pub fn stop_after(&mut self, bytes: u64, stop: Stop) {
        self.left = bytes;
        self.stop = Some(stop);
    }

    /// The next piece, `None` at the end.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Err(self.stopped().await);
        }
        loop {
            let Some(frame) = self.incoming.frame().await else {
                return Ok(None);
            };
            let Ok(mut data) = frame.map_err(io::Error::other)?.into_data() else {
                continue;
            };
            if data.is_empty() {
                continue;
            }
            if data.len() as u64 > self.left {
                data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            }
            if self.stop.is_some() {
                self.left -= data.len() as u64;
            }
            self.entry.add_body_bytes(data.len() as u64);
            return Ok(Some(data));
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

    /// Reads to the end, so that the client can read the answer: closing with bytes unread resets the connection.
    pub async fn drain(&mut self) -> io::Result<()> {
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    /// Does what the fault says for a request that may have no body at all.
    pub async fn stopped(&mut self) -> io::Error {
        match &self.stop {
            Some(Stop::Reset(reset)) => reset.store(true, Ordering::Release),
            Some(Stop::Stall) => {
                // Ends with the server: a task that waits for ever would outlive it.
                let _ = self.shutdown.wait_for(|stop| *stop).await;
            }
            None => {}
        }
        io::Error::other("stopped by a fault")
    }
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

pub(crate) trait ResponseExt: Sized {
    /// Sets a header; a value that HTTP does not allow is left out.
    fn header(self, name: &str, value: impl AsRef<str>) -> Self;
}

impl ResponseExt for Response {
    fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.as_ref())) {
            self.headers_mut().insert(name, value);
        }
        self
    }
}
