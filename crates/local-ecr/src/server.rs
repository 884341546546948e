//! Listening, connections, and the way of a request through faults and doors.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, DATE};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::engine::Engine;
use crate::faults::{Answer, ConnectionAction, ConnectionHit, Script};
use crate::hosts::{self, Foreign};
use crate::http::{Cause, Request, RequestBody, Response, ResponseExt, answer};
use crate::imds::{self, Metadata};
use crate::notice::{Notice, Notices};
#[cfg(feature = "proxy")]
use crate::proxy::{Proxy, Way};
use crate::recorder::Recorder;
use crate::registry::Target;
use crate::socket::{Ending, Socket};
use crate::suffer::{early, suffer};
use crate::util::lock;
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

    fn notices(&self) -> &Notices {
        match self {
            Self::Ecr(engine) => &engine.config.notices,
            Self::Metadata(metadata) => &metadata.engine().config.notices,
            #[cfg(feature = "proxy")]
            Self::Proxy(proxy, _) => &proxy.notices,
        }
    }

    /// `Err` is the refusal of a request that is to another host, or was made by a page of another.
    fn check_host(&self, head: &Parts, arrived_at: Option<IpAddr>) -> Result<(), Answer> {
        let (engine, more): (_, &[&str]) = match self {
            Self::Ecr(engine) => (engine, &[]),
            Self::Metadata(metadata) => (metadata.engine(), &imds::ADDRESSES),
            // The server behind it does that.
            #[cfg(feature = "proxy")]
            Self::Proxy(..) => return Ok(()),
        };
        let addresses: Vec<_> = arrived_at.into_iter().chain([engine.address.ip()]).collect();
        hosts::check(head, &engine.config, more, &addresses).map_err(|foreign| match foreign {
            Foreign::Host(host) => {
                let own = engine.registry_host(None);
                let host: String = host.chars().take(SHOWN).collect();
                let sentence = match host.as_str() {
                    "" => format!("a request needs the header Host: ask {own}"),
                    host => format!(
                        "local-ecr does not answer for the host '{host}': ask {own}, or start it with --public-host {host}"
                    ),
                };
                Answer::error(421, "MisdirectedRequest", &sentence)
            }
            Foreign::Origin(origin) => {
                let origin: String = origin.chars().take(SHOWN).collect();
                let sentence =
                    format!("local-ecr does not answer pages of '{origin}': ask it from a program, not from a browser");
                Answer::error(403, "ForbiddenOrigin", &sentence)
            }
        })
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

/// How many characters of a header are shown to whoever sent it.
const SHOWN: usize = 255;

/// Accepts connections until the task is dropped; its connections end with it.
pub(crate) async fn listen(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: Service,
    shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut is_accepting = true;
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => {
                is_accepting = true;
                tcp
            }
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                if std::mem::take(&mut is_accepting) {
                    service.notices().report(&Notice::NotAccepting { cause: error.to_string() });
                }
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
    let arrived_at = tcp.local_addr().ok().map(|address| address.ip());
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
        None => converse(socket, arrived_at, ending, service, shutdown).await,
        Some(acceptor) => match acceptor.accept(socket).await {
            Ok(stream) => converse(stream, arrived_at, ending, service, shutdown).await,
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

/// Serves the requests of one connection, which came to this address.
pub(crate) async fn converse<S>(
    stream: S,
    arrived_at: Option<IpAddr>,
    ending: Ending,
    service: Service,
    shutdown: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serve = service_fn(|request| {
        // In a task of its own: hyper drops the future of a request whose client went away, but a commit must go
        // on, and what an upload received must be kept.
        let task = tokio::spawn(handle(service.clone(), request, arrived_at, ending.clone(), shutdown.clone()));
        let notices = service.notices().clone();
        async move {
            task.await.unwrap_or_else(|panic| {
                notices.internal("a request", &panic);
                Err(io::Error::other(panic))
            })
        }
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
    arrived_at: Option<IpAddr>,
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
    // Before a fault can be spent on it.
    let foreign = service.check_host(&head, arrived_at).err();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let fault = match &foreign {
        None => lock(service.script()).meet(method, &path_and_query, &operation, length),
        Some(_) => None,
    };
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
    let mut response = match (foreign, fault) {
        (Some(refusal), _) => early(&refusal, &request, &ending),
        (None, None) => serve(request).await?,
        (None, Some(fault)) => suffer(fault, &service, request, &ending, serve).await?,
    };
    if is_head && !response.status().is_success() {
        *response.body_mut() = crate::http::full("");
    }
    entry.answered(response.status().as_u16());
    Ok(response)
}

/// What a request is or stands for.
fn operation(head: &Parts, path_and_query: &str) -> String {
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
    let mut operation = format!("{} {}", request.method, request.path);
    if let Some(target) = request.header("x-amz-target") {
        operation.push_str(&format!(" ({})", api::operation(target)));
    }
    let response = route(service, engine, request).await?;
    if response.status().is_server_error() {
        let cause = response.extensions().get::<Cause>().map_or("not known", |cause| cause.0.as_str());
        engine.config.notices.internal(operation, cause);
    }
    if !engine.clock.is_shifted() {
        return Ok(response);
    }
    Ok(response.header(DATE.as_str(), httpdate::fmt_http_date(engine.clock.now())))
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
