//! Opening a destination: which host, which credentials, which scheme.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use http::StatusCode;
use url::Url;

use super::destination::{ACTIONS, Destination, DestinationSpec, Ecr};
use crate::aws::{AwsSettings, EcrApi, PUBLIC_REGISTRY, RATES, Rate, RegistryHost, is_aws_host, registry_host};
use crate::error::{Error, Result, Side};
use crate::events::{Event, Events};
use crate::host::Place;
use crate::http::Http;
use crate::image::{AccountId, RepositoryName};
use crate::registry::{self, Auth, DockerConfig, FetchToken, FetchedToken, Pace, Repository};
use crate::retry::RetryBudget;
use crate::text;
use crate::text::Setting;

impl Destination {
    /// Resolves credentials and region, fetches the first token.
    pub(super) async fn open(
        spec: &DestinationSpec,
        http: &Http,
        aws: &AwsSettings,
        docker: &DockerConfig,
        retry: &RetryBudget,
        events: &Events,
    ) -> Result<Self> {
        match spec {
            DestinationSpec::Ecr { repository, registry_id, host } => {
                Self::open_ecr(repository, registry_id.as_ref(), host.as_ref(), http, aws, retry, events).await
            }
            DestinationSpec::Registry { host, repository, plain_http } => {
                Self::open_registry(host, repository, *plain_http, http, docker, retry, events).await
            }
        }
    }

    async fn open_ecr(
        name: &RepositoryName,
        registry_id: Option<&AccountId>,
        host: Option<&RegistryHost>,
        http: &Http,
        aws: &AwsSettings,
        retry: &RetryBudget,
        events: &Events,
    ) -> Result<Self> {
        let registry_id = host.map(|host| &host.account).or(registry_id).cloned();
        let mut aws = aws.clone();
        if let Some(host) = host {
            aws.region_from_host = Some(host.region.clone());
            aws.fips |= host.fips;
            aws.dual_stack |= host.dual_stack;
        }
        check_endpoint_kind(&aws)?;
        let api = EcrApi::connect(http, &aws, retry, events).await?;
        events.notice(text![
            format!("region {} (", api.region()),
            api.region_source(),
            format!("), credentials from {}", api.credential_source()),
        ]);
        for skipped in api.skipped_sources() {
            events.emit(Event::Detail(format!("credentials not from {skipped}")));
        }
        let token = retry.run("get token", || api.token(registry_id.as_ref())).await?;
        let account = registry_id.clone().or_else(|| token.account.clone());
        let region = api.region().clone();
        let base = if api.endpoint_overridden() {
            token.proxy_endpoint.clone()
        } else {
            let account = account.as_ref().ok_or_else(|| {
                let text =
                    format!("the account cannot be told from the address `{}` that ECR gave", token.proxy_endpoint);
                Error::new(Side::Destination, "find registry", text)
                    .with_hint(text!["name the account with ", Setting::RegistryId])
            })?;
            format!("https://{}", registry_host(account, &region, aws.fips, aws.dual_stack)?)
        };
        let base = checked_base(&base)?;
        if let Some(endpoint) = api.endpoint() {
            check_named(http, endpoint, &base)?;
        }
        let first = tokio::sync::Mutex::new(Some(token));
        let first = Arc::new(first);
        let fetch: FetchToken = {
            let (api, registry_id) = (api.clone(), registry_id.clone());
            Arc::new(move || {
                let (api, registry_id, first) = (api.clone(), registry_id.clone(), Arc::clone(&first));
                async move {
                    let token = match first.lock().await.take() {
                        Some(token) => token,
                        None => api.token(registry_id.as_ref()).await?,
                    };
                    let lifetime = token.expires_at.and_then(|at| at.duration_since(SystemTime::now()).ok());
                    Ok(FetchedToken { basic: token.secret, lifetime })
                }
                .boxed()
            })
        };
        let uri = format!("{}/{name}", host_and_port(&base));
        events.notice(match &account {
            Some(account) => format!("pushing to {uri} (account {account})"),
            None => format!("pushing to {uri}"),
        });
        let pace = Pace::new(&pace_of(|rate| rate.private), retry.waits());
        let repository = Repository::new(http.clone(), base, name.as_str(), Auth::token(fetch), pace, events);
        let ecr = Ecr::new(api, account, region, name.clone(), registry_id, retry.clone());
        Ok(Self::new(repository, uri, Some(ecr), events))
    }

    async fn open_registry(
        host: &str,
        repository: &str,
        plain_http: bool,
        http: &Http,
        docker: &DockerConfig,
        retry: &RetryBudget,
        events: &Events,
    ) -> Result<Self> {
        let refuse = |what: &str| Error::refused("open registry", format!("`{host}` {what}"));
        // Docker Hub has one name, its registry another, and docker keeps its login under a third.
        let is_hub = registry::is_docker_hub(host);
        let (host, shown) = if is_hub { ("registry-1.docker.io", "docker.io") } else { (host, host) };
        let official = if is_hub && !repository.contains('/') { "library/" } else { "" };
        let repository = &format!("{official}{repository}");
        let url = |scheme: &str| Url::parse(&format!("{scheme}://{host}/")).map_err(|_| refuse("is not a host name"));
        let secure = url("https")?;
        http.note_chosen(&secure);
        let base = if plain_http {
            url("http")?
        } else if Place::of_url(&secure) == Place::ThisMachine && speaks_plain_http(http, &url("http")?).await {
            // A registry on this machine seldom has a certificate.
            url("http")?
        } else {
            secure
        };
        let base = checked_base_with(base, plain_http)?;
        let login = docker.login(shown).await?;
        let uri = format!("{shown}/{repository}");
        events.notice(format!(
            "pushing to {uri} ({})",
            if login.is_some() { "login from docker's config" } else { "no login" }
        ));
        let published = if shown == PUBLIC_REGISTRY { pace_of(|rate| rate.public) } else { Vec::new() };
        let pace = Pace::new(&published, retry.waits());
        let repository = Repository::new(http.clone(), base, repository, Auth::asked(login, events), pace, events);
        Ok(Self::new(repository, uri, None, events))
    }
}

/// The rates of ECR's actions for the requests that stand for them (ecr-facts section 1).
fn pace_of(choose: impl Fn(&Rate) -> f64) -> Vec<(&'static str, f64)> {
    ACTIONS
        .iter()
        .filter_map(|(operation, action)| {
            RATES.iter().find(|rate| rate.action == *action).map(|rate| (*operation, choose(rate)))
        })
        .collect()
}

/// Refuses FIPS or dual-stack where the partition has no such registry, as far as the region is known without asking.
fn check_endpoint_kind(aws: &AwsSettings) -> Result<()> {
    let region = aws.region.clone().or_else(|| aws.region_from_host.clone());
    let region = region.or_else(|| aws.environment_regions.first().and_then(|(_, value)| value.parse().ok()));
    if let Some(region) = region {
        // Any account will do: it does not decide.
        registry_host(&"000000000000".parse()?, &region, aws.fips, aws.dual_stack)?;
    }
    Ok(())
}

fn checked_base(text: &str) -> Result<Url> {
    let base = Url::parse(text).map_err(|_| {
        Error::new(Side::Destination, "find registry", format!("the registry address `{text}` is not a URL"))
    })?;
    // An endpoint override that names http is the user's own word for it.
    checked_base_with(base, true)
}

/// The registry that an endpoint of the user's names, which gets the token. It may be where the endpoint is, or anywhere but on this
/// machine's own link.
pub(super) fn check_named(http: &Http, endpoint: &str, registry: &Url) -> Result<()> {
    if let Ok(endpoint) = Url::parse(endpoint) {
        http.note_chosen(&endpoint);
    }
    http.admit(registry).map_err(|what| {
        let text =
            format!("the API gives the registry's address as {}, {what}: it is not asked", host_and_port(registry));
        Error::new(Side::Destination, "find registry", text)
    })
}

/// Plain http goes unasked only to this machine, and never to AWS.
pub(super) fn checked_base_with(base: Url, plain_http: bool) -> Result<Url> {
    let host = base.host_str().unwrap_or_default().to_owned();
    if base.scheme() == "https" || base.scheme() == "http" && Place::of_url(&base) == Place::ThisMachine {
        return Ok(base);
    }
    if base.scheme() != "http" {
        return Err(Error::refused("open registry", format!("`{base}` is neither https nor http")));
    }
    if is_aws_host(&host) {
        return Err(Error::refused("open registry", format!("plain http is never spoken to {host}, an AWS host")));
    }
    if !plain_http {
        return Err(Error::refused("open registry", format!("{host} would be reached without TLS")).with_hint(text![
            "add ",
            Setting::PlainHttp,
            " if this is meant"
        ]));
    }
    Ok(base)
}

/// How long a registry on this machine may take to show that it speaks plain HTTP.
const PROBE: Duration = Duration::from_secs(5);

/// True if `base` answers in plain HTTP. A server of TLS answers 400 to that, or with bytes that are no HTTP. Nothing secret is sent. Asked
/// this way round because a TLS handshake costs more than everything else that a repeated push does.
async fn speaks_plain_http(http: &Http, base: &Url) -> bool {
    let request = http.client_for(base).get(base.join("/v2/").unwrap_or_else(|_| base.clone()));
    // A part of what the first contact may take in all.
    let limit = http.first_try(base, false).map_or(PROBE, |first| PROBE.min(first / 2));
    match request.timeout(limit).send().await {
        Ok(response) => response.status() != StatusCode::BAD_REQUEST && !response.status().is_redirection(),
        // Nobody there, or nobody who answers. With a port the error is the same either way, and shorter without TLS.
        Err(error) => (error.is_connect() || error.is_timeout()) && base.port().is_some(),
    }
}

/// `HOST[:PORT]` of a URL.
fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
