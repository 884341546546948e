//! Listening, connections, and the way of a request through faults and doors.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, DATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::engine::Engine;
use crate::faults::ConnectionAction;
use crate::http::{Request, RequestBody, Response, ResponseExt, answer};
use crate::imds::Metadata;
use crate::registry::Target;
use crate::socket::Socket;
use crate::suffer::suffer;
use crate::util::{lock, shifted};
use crate::{api, registry, s3, sts};

/// How long a connection stays after an early answer. Closing at once, with bytes unread, would reset it, and the
/// reset could overtake the answer.
const LINGER: Duration = Duration::from_millis(250);

/// What one port serves.
#[derive(Clone)]
pub(crate) enum Service {
    Ecr(Arc<Engine>),
    Metadata(Arc<Metadata>),
}

/// How a connection ends, if a request decides it.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    pub reset: Arc<AtomicBool>,
    pub linger: Arc<AtomicBool>,
}

/// Accepts connections until the task is dropped; its connections end with it.
pub(crate) async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Service,
    shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(tcp, tls.clone(), service.clone(), shutdown.clone()));
    }
}

async fn connection(tcp: TcpStream, tls: Option<TlsAcceptor>, service: Service, shutdown: watch::Receiver<bool>) {
    let ending = Ending::default();
    let fault = match &service {
        Service::Ecr(engine) => lock(&engine.script).meet_connection(),
        Service::Metadata(_) => None,
    };
    if fault == Some(ConnectionAction::Garbage) {
        garbage(tcp).await;
        return;
    }
    let socket = Socket::new(tcp, Arc::clone(&ending.reset), fault);
    match tls {
        None => converse(socket, ending, service, shutdown).await,
        Some(acceptor) => match acceptor.accept(socket).await {
            Ok(stream) => converse(stream, ending, service, shutdown).await,
            Err(error) => tracing::debug!("no TLS handshake: {error}"),
        },
    }
}

/// Answers with what is neither TLS nor HTTP.
async fn garbage(mut tcp: TcpStream) {
    let mut first = [0; 4096];
    if tcp.read(&mut first).await.is_ok_and(|read| read > 0) {
        let _ = tcp.write_all(&[0xfe; 64]).await;
        let _ = tcp.shutdown().await;
        tokio::time::sleep(LINGER).await;
    }
}

async fn converse<S>(stream: S, ending: Ending, service: Service, shutdown: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serve = service_fn(|request| {
        // In a task of its own: hyper drops the future of a request whose client went away, but a commit must go
        // on, and what an upload received must be kept.
        let task = tokio::spawn(handle(service.clone(), request, ending.clone(), shutdown.clone()));
        async move { task.await.map_err(io::Error::other)? }
    });
    let mut connection =
        std::pin::pin!(http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), serve));
    if let Err(error) = connection.as_mut().await {
        tracing::debug!("a connection ended: {error}");
    }
    if ending.linger.load(Ordering::Acquire) {
        tokio::time::sleep(LINGER).await;
    }
}

async fn handle(
    service: Service,
    request: hyper::Request<Incoming>,
    ending: Ending,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Response> {
    let engine = match &service {
        Service::Ecr(engine) => Arc::clone(engine),
        Service::Metadata(metadata) => Arc::clone(metadata.engine()),
    };
    let (head, incoming) = request.into_parts();
    let path_and_query = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let operation = match &service {
        Service::Metadata(_) => String::new(),
        Service::Ecr(_) => operation(&head, &path_and_query),
    };
    let method = head.method.as_str();
    let entry = engine.recorder.begin(method, &path_and_query, &operation);
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let fault = lock(&engine.script).meet(method, &path_and_query, &operation, length);
    let request = Request {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: RequestBody::new(incoming, Arc::clone(&entry), shutdown),
        entry: Arc::clone(&entry),
    };
    let is_head = request.method == "HEAD";
    let serve = |request| serve(&service, &engine, request);
    let mut response = match fault {
        None => serve(request).await?,
        Some(fault) => suffer(fault, &engine, request, &ending, serve).await?,
    };
    if is_head && !response.status().is_success() {
        *response.body_mut() = crate::http::full("");
    }
    entry.answered(response.status().as_u16());
    Ok(response)
}

/// What a request is or stands for.
fn operation(head: &hyper::http::request::Parts, path_and_query: &str) -> String {
    if let Some(target) = head.headers.get("x-amz-target").and_then(|value| value.to_str().ok()) {
        return api::operation(target).to_owned();
    }
    match head.uri.path() {
        // Its action is in the body, which a fault may have to leave unread.
        "/" => "STS".to_owned(),
        _ => Target::parse(path_and_query.split('?').next().unwrap_or_default())
            .operation(head.method.as_str())
            .to_owned(),
    }
}

async fn serve(service: &Service, engine: &Engine, request: Request) -> io::Result<Response> {
    let response = route(service, engine, request).await?;
    if engine.config.clock_ahead == 0 {
        return Ok(response);
    }
    let now = shifted(SystemTime::now(), engine.config.clock_ahead);
    Ok(response.header(DATE.as_str(), httpdate::fmt_http_date(now)))
}

async fn route(service: &Service, engine: &Engine, request: Request) -> io::Result<Response> {
    if let Service::Metadata(metadata) = service {
        return metadata.serve(request).await;
    }
    let is_form =
        request.header("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    match request.path.as_str() {
        "/" if is_form || request.query.contains("Action=") => sts::serve(engine, request).await,
        "/" if request.method == "POST" => api::serve(engine, request).await,
        "/v2" => registry::serve(engine, request).await,
        path if path.starts_with("/v2/") => registry::serve(engine, request).await,
        path if path.starts_with(s3::PREFIX) => Ok(s3::serve(engine, &request)),
        _ => Ok(answer(404, "404 page not found\n")),
    }
}

/// Binds, so that the port is known before anything is served.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}
