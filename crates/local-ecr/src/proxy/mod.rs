//! A proxy between a client and a server that passes everything on unchanged, but for the faults it is told.

mod carry;
mod forward;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::faults::{ConnectionFault, Fault, Script};
use crate::http::Link;
use crate::notice::Notices;
use crate::recorder::{RecordedRequest, Recorder};
use crate::rule::Rule;
use crate::server::{self, Service};
use crate::tls::{self, Authority};
use crate::util::lock;
use upstream::Address;

/// How a [`FaultProxy`] works. The default is a CONNECT proxy that leaves TLS closed.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `http://HOST:PORT` or `https://HOST:PORT`: where everything goes. Needed unless `connect` is set; with it, this is
    /// where every tunnel leads, whatever its name.
    pub upstream: Option<String>,
    /// Speak as an HTTP proxy does (CONNECT, and requests with a whole URL), instead of standing in for the upstream.
    pub connect: bool,
    /// Open TLS with certificates of an authority made at the start, so that requests inside meet faults and are recorded.
    /// Otherwise TLS is passed on as it is, and only faults of connections and of CONNECT itself are possible.
    pub open_tls: bool,
    /// The PEM of the authorities to trust upstream, where TLS is opened.
    pub upstream_ca: Option<String>,
    /// Bytes a second that all request bodies together get: a slow link. Tunnels that stay closed are not slowed down.
    pub rate: Option<u64>,
    /// Who gets to know that the upstream cannot be reached.
    pub notices: Notices,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            upstream: None,
            connect: true,
            open_tls: false,
            upstream_ca: None,
            rate: None,
            notices: Notices::default(),
        }
    }
}

/// A running proxy. It ends with [`FaultProxy::shutdown`], or when it is dropped.
///
/// Bodies pass as streams in both directions, as slowly as the slower side takes them; `Host` stays as the client sent it;
/// nothing is ever sent twice; each request goes upstream over a connection of its own. When the upstream cannot be reached,
/// the client's connection is reset, or its CONNECT is answered with 502.
///
/// A name that cannot be resolved is a fault of the client's own resolver. What a proxy can give is the answer of a proxy
/// that cannot resolve it: `Fault::new(FaultAction::Answer(Answer::status(502))).method("CONNECT").times(2)`.
///
/// ```
/// # async fn example() -> std::io::Result<()> {
/// use local_ecr::{Config, Fault, FaultAction, FaultProxy, LocalEcr, ProxyConfig};
///
/// let server = LocalEcr::start(Config::default()).await?;
/// let proxy = FaultProxy::start(ProxyConfig::to(&server.endpoint_url())).await?;
/// // Reset after 7,340,032 bytes of the second upload.
/// let reset = Fault::new(FaultAction::Reset { after: 7_340_032 });
/// proxy.add_fault(reset.method("PUT").path("/blobs/uploads/").skip(1).times(1))?;
/// // ... push to proxy.url() ...
/// assert_eq!(proxy.requests().len(), server.requests().len());
/// # Ok(())
/// # }
/// ```
pub struct FaultProxy {
    proxy: Arc<Proxy>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ProxyConfig {
    /// Stands in for the server with this URL.
    pub fn to(upstream: &str) -> Self {
        Self { upstream: Some(upstream.to_owned()), connect: false, ..Self::default() }
    }
}

impl FaultProxy {
    /// Starts to listen. An upstream that is no URL, or a reverse proxy without one, is [`io::ErrorKind::InvalidInput`].
    pub async fn start(config: ProxyConfig) -> io::Result<Self> {
        let upstream = config.upstream.as_deref().map(Address::parse).transpose()?;
        if upstream.is_none() && !config.connect {
            return Err(invalid("a proxy that is no CONNECT proxy needs an upstream".to_owned()));
        }
        let authority = config.open_tls.then(Authority::new).transpose()?;
        let connector = tls::connector(config.upstream_ca.as_deref().unwrap_or_default())
            .map_err(|error| invalid(format!("the authority to trust upstream is not PEM: {error}")))?;
        let listener = server::bind(config.listen).await?;
        let proxy = Arc::new(Proxy {
            address: listener.local_addr()?,
            connect: config.connect,
            upstream,
            authority,
            connector,
            link: config.rate.map(|rate| Arc::new(Link::new(rate))),
            acceptors: Mutex::default(),
            notices: config.notices,
            script: Mutex::default(),
            recorder: Recorder::default(),
        });
        let (stop, shutdown) = watch::channel(false);
        let way = if config.connect { Way::Named } else { Way::Upstream };
        let service = Service::Proxy(Arc::clone(&proxy), way);
        let task = tokio::spawn(server::listen(listener, None, service, shutdown));
        Ok(Self { proxy, stop, task })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// What a client is told: the URL of the server it stands in for, or of the proxy to use.
    pub fn url(&self) -> String {
        let is_tls = self.proxy.upstream.as_ref().is_some_and(|upstream| upstream.tls) && !self.proxy.connect;
        format!("{}://{}", if is_tls { "https" } else { "http" }, self.proxy.address)
    }

    /// The PEM of the authority to trust, if TLS is opened.
    pub fn ca_pem(&self) -> Option<&str> {
        self.proxy.authority.as_ref().map(|authority| authority.pem.as_str())
    }

    /// Adds a fault to the script. [`io::ErrorKind::Unsupported`] is one of state, which a proxy does not keep.
    pub fn add_fault(&self, fault: Fault) -> io::Result<()> {
        if fault.action.is_of_state() {
            let sentence = format!("a proxy cannot do {:?}: it keeps no state", fault.action);
            return Err(io::Error::new(io::ErrorKind::Unsupported, sentence));
        }
        lock(&self.proxy.script).add(fault);
        Ok(())
    }

    /// Adds a fault of connections to the script.
    pub fn add_connection_fault(&self, fault: ConnectionFault) {
        lock(&self.proxy.script).add_to_connections(fault);
    }

    /// Adds a fault that was written as text; the errors are those of [`FaultProxy::add_fault`].
    pub fn add_rule(&self, rule: Rule) -> io::Result<()> {
        match rule {
            Rule::Connection(fault) => self.add_connection_fault(fault),
            Rule::Request(fault) => return self.add_fault(fault),
        }
        Ok(())
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        lock(&self.proxy.script).clear();
    }

    /// How many requests and connections a fault has hit. Ending the faults does not forget it.
    pub fn hits(&self) -> usize {
        lock(&self.proxy.script).hits()
    }

    /// What was asked so far, in the order of arrival. A tunnel whose TLS stays closed is one CONNECT, with the bytes that
    /// went up as its body; without CONNECT its path is the upstream's host and port.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.proxy.recorder.snapshot()
    }

    /// Forgets what was asked so far.
    pub fn clear_requests(&self) {
        self.proxy.recorder.clear();
    }

    /// Stops, and waits until nothing listens any more.
    pub async fn shutdown(mut self) {
        self.end();
        let _ = (&mut self.task).await;
    }

    fn end(&self) {
        self.stop.send_replace(true);
        self.task.abort();
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultProxy").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// Where the requests of a connection go.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Where each one says: they are to a CONNECT proxy.
    Named,
    /// To a server, at the other end of a tunnel.
    To(Address),
    /// To the one upstream. The connection has not been looked into yet.
    Upstream,
}

/// What the connections of one proxy share.
pub(crate) struct Proxy {
    address: SocketAddr,
    connect: bool,
    upstream: Option<Address>,
    authority: Option<Authority>,
    connector: TlsConnector,
    link: Option<Arc<Link>>,
    /// By the name the client asks for.
    acceptors: Mutex<HashMap<String, TlsAcceptor>>,
    pub notices: Notices,
    pub script: Mutex<Script>,
    pub recorder: Recorder,
}

fn invalid(sentence: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, sentence)
}
