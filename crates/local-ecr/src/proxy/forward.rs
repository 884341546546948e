//! One request on its way to the server, and its answer on the way back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::upstream::Address;
use super::{Proxy, Way};
use crate::http::{Body, Request, RequestBody, Response, answer, full};
use crate::notice::Notice;
use crate::socket::Ending;

/// What belongs to one connection and not to the message. `Expect` is among them: reading the body answers it.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// How long what was already taken from the client may need to leave, once a fault has ended its body.
const FLUSH: Duration = Duration::from_secs(10);

impl Proxy {
    /// Serves a request. `Err` is a connection that ends without an answer.
    pub async fn serve(self: &Arc<Self>, way: &Way, ending: &Ending, mut request: Request) -> io::Result<Response> {
        if let Some(link) = &self.link {
            request.body.share(Arc::clone(link));
        }
        let address = match way {
            Way::To(address) => address.clone(),
            Way::Named if request.upgrade.is_some() => return self.tunnel(ending, request).await,
            Way::Named | Way::Upstream => match request.authority.as_deref().and_then(|it| Address::of(it, false)) {
                Some(named) => self.upstream.clone().unwrap_or(named),
                None => return Ok(answer(400, "this is a proxy: a request needs a whole URL\n")),
            },
        };
        self.forward(&address, ending, request).await
    }

    async fn forward(&self, address: &Address, ending: &Ending, request: Request) -> io::Result<Response> {
        let stream = match address.open(&self.connector).await {
            Ok(stream) => stream,
            Err(error) => {
                let server = format!("{}:{}", address.host, address.port);
                self.notices.report(&Notice::Unreachable { server, cause: error.to_string() });
                ending.reset.store(true, Ordering::Release);
                return Err(error);
            }
        };
        let flushes = stream.flushes();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It goes on for as long as the answer does, or a body that nobody waits for any more.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection upstream ended: {error}");
            }
        });
        let is_head = request.method == "HEAD";
        let response = sender.send_request(outgoing(request, flushes, ending)?).await.map_err(io::Error::other)?;
        let (mut head, body) = response.into_parts();
        without_connection(&mut head.headers);
        let body = if is_head { full("") } else { body.map_err(io::Error::other).boxed_unsync() };
        Ok(Response::from_parts(head, body))
    }
}

fn outgoing(request: Request, flushes: watch::Receiver<u64>, ending: &Ending) -> io::Result<hyper::Request<Body>> {
    let Request { method, path, query, authority, headers, body, .. } = request;
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let has_body = headers.contains_key(hyper::header::CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    let body = if has_body { outgoing_body(body, flushes, ending.clone()) } else { full("") };
    let mut outgoing = hyper::Request::builder().method(method).uri(uri).body(body).map_err(io::Error::other)?;
    *outgoing.headers_mut() = headers;
    without_connection(outgoing.headers_mut());
    if let (Some(authority), false) = (authority, outgoing.headers().contains_key(HOST)) {
        outgoing.headers_mut().insert(HOST, authority.parse().map_err(io::Error::other)?);
    }
    Ok(outgoing)
}

/// The body as the server gets it. Where a fault ends it, all that was read of it goes out first: "after so many bytes"
/// must be true at the other end.
fn outgoing_body(body: RequestBody, flushes: watch::Receiver<u64>, ending: Ending) -> Body {
    let unread = Unread { body, ending, ended: false };
    let frames = stream::try_unfold((unread, flushes), |(mut unread, mut flushes)| async move {
        match unread.body.chunk().await {
            Ok(Some(chunk)) => Ok(Some((Frame::data(chunk), (unread, flushes)))),
            Ok(None) => {
                unread.end();
                Ok::<Option<(Frame<Bytes>, _)>, io::Error>(None)
            }
            Err(error) => {
                unread.end();
                flushes.mark_unchanged();
                let _ = tokio::time::timeout(FLUSH, flushes.changed()).await;
                Err(error)
            }
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A body that may be dropped before its end: by a server that answered early and closed.
struct Unread {
    body: RequestBody,
    ending: Ending,
    ended: bool,
}

impl Unread {
    fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if !self.ended {
            self.ending.linger.store(true, Ordering::Release);
        }
    }
}

fn without_connection(headers: &mut HeaderMap) {
    OF_THE_CONNECTION.iter().for_each(|name| {
        headers.remove(name);
    });
}
