//! Listening, connections, and the way of a request through faults and doors.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hyper::Method;
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
use crate::faults::{ConnectionAction, ConnectionHit, Script};
use crate::http::{Request, RequestBody, Response, ResponseExt, answer};
use crate::imds::Metadata;
#[cfg(feature = "proxy")]
use crate::proxy::{Proxy, Way};
use crate::recorder::Recorder;
use crate::registry::Target;
use crate::socket::{Ending, Socket};
use crate::suffer::suffer;
use crate::util::{lock, shifted};
use crate::{api, registry, s3, sts};

/// What one port, or one connection, serves.
#[derive(Clone)]
pub(crate) enum Service {
    Ecr(Arc<Engine>),
    Metadata(Arc<Metadata>),
    #[cfg(feature = "proxy")]
    Proxy(Arc<Proxy>, Way),
}

impl Service {
    pub fn script(&self) -> &Mutex<Script> {
        match self {
            Self::Ecr(engine) => &engine.script,
            Self::Metadata(metadata) => &metadata.engine().script,
            #[cfg(feature = "proxy")]
            Self::Proxy(proxy, _) => &proxy.script,
        }
    }

    fn recorder(&self) -> &Recorder {
        match self {
            Self::Ecr(engine) => &engine.recorder,
            Self::Metadata(metadata) => &metadata.engine().recorder,
            #[cfg(feature = "proxy")]
            Self::Proxy(proxy, _) => &proxy.recorder,
        }
    }

    /// What state faults change, if this is what keeps it.
    pub fn engine(&self) -> Option<&Engine> {
        match self {
            Self::Ecr(engine) => Some(engine),
            Self::Metadata(metadata) => Some(metadata.engine()),
            #[cfg(feature = "proxy")]
            Self::Proxy(..) => None,
        }
    }
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
    let mut hit = match &service {
        Service::Metadata(_) => None,
        service => lock(service.script()).meet_connection(),
    };
    let is_garbage = |hit: &mut ConnectionHit| hit.action == ConnectionAction::Garbage && hit.act().is_some();
    if hit.as_mut().is_some_and(is_garbage) {
        garbage(Socket::new(tcp, ending, hit)).await;
        return;
    }
    let socket = Socket::new(tcp, ending.clone(), hit);
    #[cfg(feature = "proxy")]
    if let Service::Proxy(proxy, Way::Upstream) = &service {
        proxy.carry(socket, None, ending, shutdown).await;
        return;
    }
    match tls {
        None => converse(socket, ending, service, shutdown).await,
        Some(acceptor) => match acceptor.accept(socket).await {
            Ok(stream) => converse(stream, ending, service, shutdown).await,
            Err(error) => tracing::debug!("no TLS handshake: {error}"),
        },
    }
}

/// Answers with what is neither TLS nor HTTP.
async fn garbage(mut socket: Socket) {
    let mut first = [0; 4096];
    if socket.read(&mut first).await.is_ok_and(|read| read > 0) {
        socket.linger();
        let _ = socket.write_all(&[0xfe; 64]).await;
        let _ = socket.shutdown().await;
    }
}

/// Serves the requests of one connection.
pub(crate) async fn converse<S>(stream: S, ending: Ending, service: Service, shutdown: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serve = service_fn(|request| {
        // In a task of its own: hyper drops the future of a request whose client went away, but a commit must go
        // on, and what an upload received must be kept.
        let task = tokio::spawn(handle(service.clone(), request, ending.clone(), shutdown.clone()));
        async move { task.await.map_err(io::Error::other)? }
    });
    // A client that thinks for long is no fault of its connection.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), serve)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!("a connection ended: {error}");
    }
}

async fn handle(
    service: Service,
    mut request: hyper::Request<Incoming>,
    ending: Ending,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Response> {
    let upgrade = (request.method() == Method::CONNECT).then(|| hyper::upgrade::on(&mut request));
    let (head, incoming) = request.into_parts();
    // CONNECT has an authority only.
    let path_and_query = match (head.uri.path_and_query(), head.uri.authority()) {
        (Some(path), _) => path.to_string(),
        (None, Some(authority)) => authority.to_string(),
        (None, None) => "/".to_owned(),
    };
    let operation = match &service {
        Service::Metadata(_) => String::new(),
        _ => operation(&head, &path_and_query),
    };
    let method = head.method.as_str();
    let entry = service.recorder().begin(method, &path_and_query, &operation);
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let fault = lock(service.script()).meet(method, &path_and_query, &operation, length);
    let request = Request {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        authority: head.uri.authority().map(ToString::to_string),
        headers: head.headers,
        upgrade,
        body: RequestBody::new(incoming, Arc::clone(&entry), shutdown),
        entry: Arc::clone(&entry),
    };
    let is_head = request.method == "HEAD";
    let serve = |request| serve(&service, &ending, request);
    let mut response = match fault {
        None => serve(request).await?,
        Some(fault) => suffer(fault, &service, request, &ending, serve).await?,
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

async fn serve(service: &Service, ending: &Ending, request: Request) -> io::Result<Response> {
    let engine = match service {
        Service::Ecr(engine) => engine,
        Service::Metadata(metadata) => metadata.engine(),
        // Its answers are another server's.
        #[cfg(feature = "proxy")]
        Service::Proxy(proxy, way) => return proxy.serve(way, ending, request).await,
    };
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
