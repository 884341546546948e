//! The one HTTP client: AWS API, registry and instance metadata all go through it.
//!
//! One client means one place for CA files, proxy, `--connect-to` and time-outs, so that a corporate proxy which works
//! for the token also works for the blobs. It reads no environment: the request feeds it.

mod call_log;
mod certificates;
mod connect_to;
mod contact;
mod error;
mod proxy;
mod resolver;
mod smithy;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::error::{Error, Result, Side};
use crate::host::{self, Place};
use crate::text;
use crate::text::Setting;
use contact::Contacts;

pub use connect_to::ConnectTo;
pub use error::transport_error;
pub use proxy::ProxySettings;

pub(crate) use smithy::{Heard, Last, Names, Unanswered};

/// Name resolution, TCP and TLS together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer than any pause of ours, shorter than the idle limit of common NAT gateways (350 s on AWS).
const TCP_KEEPALIVE: Duration = Duration::from_secs(45);

/// A connection ends by itself if the other end acknowledges nothing for so long, or takes nothing. reqwest's own half minute is too short
/// for a slow proxy that has taken megabytes and has to pass them on first. Other systems have limits of their own, which no program sets
/// in this way.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// What [`Http::admit`] says of such a place.
pub(crate) const LINK: &str = "an address of this machine's own link, such as that of instance metadata";

/// What the client needs to know; filled by the command line.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// PEM files whose certificates are trusted besides the system's roots (`--ca-bundle`, `AWS_CA_BUNDLE`).
    pub ca_files: Vec<PathBuf>,
    /// Proxies and the hosts that go around them.
    pub proxy: ProxySettings,
    /// Hosts that are reached at another address.
    pub connect_to: Vec<ConnectTo>,
    /// The `User-Agent` of registry requests; `ecr-push/VERSION` if unset. The AWS SDK sends its own.
    pub user_agent: Option<String>,
}

/// The client. Clones share connections.
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
    contacts: Arc<Contacts>,
}

struct Shared {
    recipe: Recipe,
    /// For every URL. Made when it is first needed: reading the system's certificates takes longer than a repeated push.
    client: OnceLock<Result<reqwest::Client>>,
    /// For `http:` URLs. It trusts no certificate, and where there is a proxy, which may want TLS, it is not used.
    plain: reqwest::Client,
    /// Clients with another connect time-out, which reqwest sets per client only; instance metadata needs a short one.
    by_connect_timeout: Mutex<HashMap<Duration, reqwest::Client>>,
    /// Names of which it is known whether they lead to this machine. Held during the look: others wait for its outcome.
    looked_up: tokio::sync::Mutex<HashSet<String>>,
}

/// Everything checked and read once, from which a client is built.
struct Recipe {
    certificates: Vec<reqwest::Certificate>,
    proxy: proxy::ProxyRules,
    proxied: bool,
    connect_to: Vec<ConnectTo>,
    hosts: resolver::Hosts,
    user_agent: String,
}

impl Http {
    /// Reads the CA files and checks the settings. A bad proxy URL, an unreadable or empty CA file, or a
    /// `--connect-to` that cannot be honoured is refused.
    pub fn new(settings: &HttpSettings) -> Result<Self> {
        let default_agent = concat!("ecr-push/", env!("CARGO_PKG_VERSION")).to_owned();
        let hosts = resolver::Hosts::default();
        let recipe = Recipe {
            certificates: certificates::read(&settings.ca_files)?,
            proxied: settings.proxy.http.is_some() || settings.proxy.https.is_some(),
            proxy: proxy::ProxyRules::new(&settings.proxy, &settings.connect_to, &hosts)?,
            connect_to: connect_to::checked(&settings.connect_to)?,
            hosts,
            user_agent: settings.user_agent.clone().unwrap_or(default_agent),
        };
        let plain = recipe.build_without_certificates(CONNECT_TIMEOUT)?;
        let client = OnceLock::new();
        if !recipe.certificates.is_empty() {
            // A certificate that cannot be used is found now, before anything is done.
            client.get_or_init(|| recipe.build(CONNECT_TIMEOUT)).as_ref().map_err(Clone::clone)?;
        }
        let looked_up = tokio::sync::Mutex::default();
        let shared = Shared { recipe, client, plain, by_connect_timeout: Mutex::default(), looked_up };
        Ok(Self { shared: Arc::new(shared), contacts: Arc::new(Contacts::new(Duration::MAX)) })
    }

    /// The same client for a push that may go on trying for `budget`: a host that has never answered is not tried for longer.
    #[must_use]
    pub fn with_budget(self, budget: Duration) -> Self {
        Self { contacts: Arc::new(Contacts::new(budget)), ..self }
    }

    /// How long the next request to the host of `url` may take, while that host has never answered. `at_once` gives it all the time that
    /// is left for a first contact.
    pub(crate) fn first_try(&self, url: &url::Url, at_once: bool) -> Option<Duration> {
        self.contacts.time_for(url, at_once)
    }

    /// Notes that the host of `url` has answered.
    pub(crate) fn note_answer(&self, url: &url::Url) {
        self.contacts.note_answer(url);
    }

    /// One clear sentence for a request that got no whole answer. What is known of the host decides whether it is tried again.
    pub(crate) fn unanswered(&self, side: Side, operation: &str, error: &reqwest::Error, url: &url::Url) -> Error {
        self.contacts.judged(transport_error(side, operation, error, url), error.is_connect(), url)
    }

    /// The client itself. It has no total time-out, because uploads are long: callers set one per request.
    pub fn client(&self) -> &reqwest::Client {
        // Without files of certificates nothing is left that could fail; if it does, TLS fails with a sentence of its own.
        self.shared
            .client
            .get_or_init(|| self.shared.recipe.build(CONNECT_TIMEOUT))
            .as_ref()
            .unwrap_or(&self.shared.plain)
    }

    /// The client for `url`: the one above, unless its TLS cannot be needed.
    pub fn client_for(&self, url: &url::Url) -> &reqwest::Client {
        if url.scheme() == "http" && !self.shared.recipe.proxied { &self.shared.plain } else { self.client() }
    }

    /// Notes a host that the user named: it may be wherever its name leads.
    pub(crate) fn note_chosen(&self, url: &url::Url) {
        self.shared.recipe.hosts.note_chosen(url.host_str().unwrap_or_default());
    }

    /// Whether a request may go to `url`, which a service has named and not the user. If so, its name must not lead to this machine's own
    /// link when it is resolved, either. Where a proxy resolves it, nobody here sees what it leads to.
    ///
    /// # Errors
    /// What kind of place it is.
    pub(crate) fn admit(&self, url: &url::Url) -> std::result::Result<(), &'static str> {
        let host = url.host_str().unwrap_or_default();
        if Place::of_host(host) == Place::Link && !self.shared.recipe.hosts.is_chosen(host) {
            return Err(LINK);
        }
        self.shared.recipe.hosts.note_foreign(host);
        Ok(())
    }

    /// True if a request to `url` goes through a proxy.
    #[cfg(test)]
    pub(crate) fn is_proxied(&self, url: &url::Url) -> bool {
        self.shared.recipe.proxy.proxy_for(url).is_some()
    }

    /// Sees to it that a name which leads to this machine or its own link is not asked through a proxy in plain HTTP: credentials may go
    /// there, and come from there.
    async fn keep_from_proxy(&self, url: &url::Url) {
        let recipe = &self.shared.recipe;
        if url.scheme() != "http" || recipe.proxy.proxy_for(url).is_none() {
            return;
        }
        let host = url.host_str().unwrap_or_default();
        let mut looked_up = self.shared.looked_up.lock().await;
        if !looked_up.insert(host.to_owned()) {
            return;
        }
        let addresses = tokio::time::timeout(CONNECT_TIMEOUT, host::resolve(host, 0)).await;
        // A name that only the proxy knows is not one of this machine.
        let addresses = addresses.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_default();
        if addresses.iter().any(|address| Place::of_address(address.ip()) != Place::Elsewhere) {
            recipe.hosts.note_direct(host);
        }
    }

    /// The same client as the AWS SDK wants it.
    pub fn smithy(&self) -> SharedHttpClient {
        self.smithy_heard(&Heard::default())
    }

    /// The same, which keeps what the last request came to: the SDK's sources of credentials pass it on in text only.
    pub(crate) fn smithy_heard(&self, heard: &Heard) -> SharedHttpClient {
        SharedHttpClient::new(smithy::Adapter::new(self.clone(), heard.clone()))
    }

    fn with_connect_timeout(&self, timeout: Option<Duration>) -> Result<reqwest::Client> {
        let timeout = timeout.unwrap_or(CONNECT_TIMEOUT);
        if timeout == CONNECT_TIMEOUT {
            return Ok(self.client().clone());
        }
        let mut known = self.shared.by_connect_timeout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&timeout) {
            return Ok(client.clone());
        }
        let client = self.shared.recipe.build(timeout)?;
        known.insert(timeout, client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("proxy", &self.shared.recipe.proxy).finish_non_exhaustive()
    }
}

impl Recipe {
    fn builder(&self, connect_timeout: Duration) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            // reqwest replays requests on its own otherwise; our bodies and budgets are not its business.
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(&self.user_agent)
            .connect_timeout(connect_timeout)
            .tcp_keepalive(TCP_KEEPALIVE)
            // Turns off the client's own look at the environment.
            .no_proxy()
            .proxy(self.proxy.clone().into_reqwest())
            .dns_resolver(resolver::Resolver::new(&self.connect_to, &self.hosts));
        #[cfg(target_os = "linux")]
        let builder = builder.tcp_user_timeout(UNACKNOWLEDGED);
        builder
    }

    fn build(&self, connect_timeout: Duration) -> Result<reqwest::Client> {
        let merged = self.builder(connect_timeout).tls_certs_merge(self.certificates.iter().cloned()).build();
        match merged {
            Ok(client) => Ok(client),
            // A machine without any CA certificate (an empty chroot, a container FROM scratch) can still speak plain
            // HTTP to loopback. HTTPS then fails with an unknown issuer, which names `--ca-bundle`.
            Err(_) if self.certificates.is_empty() => self.build_without_certificates(connect_timeout),
            Err(error) => Err(build_error(&error)),
        }
    }

    fn build_without_certificates(&self, connect_timeout: Duration) -> Result<reqwest::Client> {
        self.builder(connect_timeout).tls_certs_only([]).build().map_err(|error| build_error(&error))
    }
}

fn build_error(error: &reqwest::Error) -> Error {
    Error::new(
        Side::Local,
        "set up the HTTP client",
        format!("the HTTP client cannot be set up: {}", error::innermost(error)),
    )
    .with_hint(text!["a CA file may hold a certificate that cannot be understood: check ", Setting::CaBundle])
}

#[cfg(test)]
mod tests;
