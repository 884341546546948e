//! Where the image goes: an ECR repository with its API beside the registry, or any OCI repository.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use http::StatusCode;
use tokio::sync::OnceCell;
use url::{Host, Url};

use super::plan::{Identity, TagState};
use crate::aws::{
    self, AwsSettings, EcrApi, RegistryHost, RepositoryFacts, Target, denial_error, is_aws_host, registry_host,
    tag_is_immutable,
};
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::http::Http;
use crate::image::{AccountId, Digest, Region, RepositoryName, Tag};
use crate::registry::{Auth, BlobStatus, DockerConfig, FetchToken, FetchedToken, Repository};
use crate::retry::RetryBudget;

/// Digests asked for in one call (ecr-facts 2.4).
const ASK_AT_ONCE: usize = 100;

/// How many `HEAD` requests go on at a time where there is no call that asks for many blobs.
const HEADS: usize = 16;

/// Where the user wants the image.
#[derive(Clone, Debug)]
pub enum DestinationSpec {
    /// A repository of Amazon ECR.
    Ecr {
        /// Its name.
        repository: RepositoryName,
        /// The account that owns it, if not the caller's.
        registry_id: Option<AccountId>,
        /// The host the user wrote, which then decides account, region and kind of endpoint.
        host: Option<RegistryHost>,
    },
    /// A repository of any OCI registry.
    Registry {
        /// `HOST[:PORT]`.
        host: String,
        /// Its name.
        repository: String,
        /// Speak http, though the host is not this machine (`--plain-http`).
        plain_http: bool,
    },
}

/// An open destination. Clones share everything.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) repository: Repository,
    /// `HOST[:PORT]/NAME`.
    pub(super) uri: String,
    pub(super) ecr: Option<Arc<Ecr>>,
    events: Events,
    /// No way to ask for blobs is left: everything is sent.
    blind: Arc<AtomicBool>,
    /// Another repository than the one that is pushed to, which nobody needs to be asked about.
    is_sibling: bool,
    /// What was asked for in advance. Asked again after a broken upload, which looks past this.
    asked: Arc<Mutex<HashMap<Digest, Presence>>>,
}

/// What the registry said of a blob: that it lacks it, or has it, and how large it is if it told.
type Presence = Option<Option<u64>>;

/// What only ECR has.
pub(super) struct Ecr {
    pub(super) api: EcrApi,
    /// Not known where a stand-in's `proxyEndpoint` does not name it.
    pub(super) account: Option<AccountId>,
    pub(super) region: Region,
    name: RepositoryName,
    registry_id: Option<AccountId>,
    /// The call that asks for many blobs at once does not work here.
    no_batch: AtomicBool,
    facts: OnceCell<Option<RepositoryFacts>>,
}

impl Destination {
    /// Resolves credentials and region, fetches the first token.
    pub(super) async fn open(
        spec: &DestinationSpec,
        http: &Http,
        aws: &AwsSettings,
        docker: &DockerConfig,
        events: &Events,
    ) -> Result<Self> {
        match spec {
            DestinationSpec::Ecr { repository, registry_id, host } => {
                Self::open_ecr(repository, registry_id.as_ref(), host.as_ref(), http, aws, events).await
            }
            DestinationSpec::Registry { host, repository, plain_http } => {
                Self::open_registry(host, repository, *plain_http, http, docker, events).await
            }
        }
    }

    async fn open_ecr(
        name: &RepositoryName,
        registry_id: Option<&AccountId>,
        host: Option<&RegistryHost>,
        http: &Http,
        aws: &AwsSettings,
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
        let api = EcrApi::connect(http, &aws, events).await?;
        events.notice(format!(
            "region {} ({}), credentials from {}",
            api.region(),
            api.region_source(),
            api.credential_source()
        ));
        for skipped in api.skipped_sources() {
            events.emit(Event::Detail(format!("credentials not from {skipped}")));
        }
        let token = api.token(registry_id.as_ref()).await?;
        let account = registry_id.clone().or_else(|| token.account.clone());
        let region = api.region().clone();
        let base = if api.endpoint_overridden() {
            token.proxy_endpoint.clone()
        } else {
            let account = account.as_ref().ok_or_else(|| {
                let text =
                    format!("the account cannot be told from the address `{}` that ECR gave", token.proxy_endpoint);
                Error::new(Side::Destination, "find registry", text).with_hint("name the account with `--registry-id`")
            })?;
            format!("https://{}", registry_host(account, &region, aws.fips, aws.dual_stack)?)
        };
        let base = checked_base(&base)?;
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
        Ok(Self {
            repository: Repository::new(http.clone(), base, name.as_str(), Auth::token(fetch)),
            uri,
            ecr: Some(Arc::new(Ecr {
                api,
                account,
                region,
                name: name.clone(),
                registry_id,
                no_batch: AtomicBool::new(false),
                facts: OnceCell::new(),
            })),
            events: events.clone(),
            blind: Arc::default(),
            is_sibling: false,
            asked: Arc::default(),
        })
    }

    async fn open_registry(
        host: &str,
        repository: &str,
        plain_http: bool,
        http: &Http,
        docker: &DockerConfig,
        events: &Events,
    ) -> Result<Self> {
        let refuse = |what: &str| Error::refused("open registry", format!("`{host}` {what}"));
        // Docker Hub has one name, its registry another, and docker keeps its login under a third.
        let is_hub = matches!(host, "docker.io" | "index.docker.io");
        let (host, shown) = if is_hub { ("registry-1.docker.io", "docker.io") } else { (host, host) };
        let official = if is_hub && !repository.contains('/') { "library/" } else { "" };
        let repository = &format!("{official}{repository}");
        let url = |scheme: &str| Url::parse(&format!("{scheme}://{host}/")).map_err(|_| refuse("is not a host name"));
        let secure = url("https")?;
        let base = if plain_http {
            url("http")?
        } else if is_loopback(&secure) && speaks_plain_http(http, &url("http")?).await {
            // A registry on this machine seldom has a certificate.
            url("http")?
        } else {
            secure
        };
        let base = checked_base_with(base, plain_http)?;
        let login = docker.login(if is_hub { "index.docker.io" } else { shown }).await?;
        let uri = format!("{shown}/{repository}");
        events.notice(format!(
            "pushing to {uri} ({})",
            if login.is_some() { "login from docker's config" } else { "no login" }
        ));
        Ok(Self {
            repository: Repository::new(http.clone(), base, repository, Auth::asked(login)),
            uri,
            ecr: None,
            events: events.clone(),
            blind: Arc::default(),
            is_sibling: false,
            asked: Arc::default(),
        })
    }

    /// The repository `name` of the same registry, with the same credentials.
    pub(super) fn sibling(&self, name: &RepositoryName) -> Self {
        let ecr = self.ecr.as_ref().map(|ecr| {
            Arc::new(Ecr {
                api: ecr.api.clone(),
                account: ecr.account.clone(),
                region: ecr.region.clone(),
                name: name.clone(),
                registry_id: ecr.registry_id.clone(),
                no_batch: AtomicBool::new(false),
                facts: OnceCell::new(),
            })
        });
        let host = self.uri.split('/').next().unwrap_or_default();
        Self {
            repository: self.repository.sibling(name.as_str()),
            uri: format!("{host}/{name}"),
            ecr,
            events: self.events.clone(),
            blind: Arc::default(),
            is_sibling: true,
            asked: Arc::default(),
        }
    }

    /// Sees to it that the repository is there, before anything is read: creates it if asked to. The question is one for blobs, so
    /// those of `probe` are known afterwards: all, if they are no more than fit into one call.
    ///
    /// # Errors
    /// If it is missing and may not or cannot be created.
    pub(super) async fn ensure_repository(&self, probe: &[Digest], create: bool, dry_run: bool) -> Result<()> {
        let Some(ecr) = &self.ecr else { return Ok(()) };
        let probe = &probe[..probe.len().min(ASK_AT_ONCE)];
        let error = match ecr.api.layer_availability(ecr.registry_id.as_ref(), &ecr.name, probe).await {
            Ok(answer) => {
                self.note(answer.available.into_iter().map(|(digest, size)| (digest, Some(size))));
                self.note(answer.unavailable.into_iter().map(|digest| (digest, None)));
                return Ok(());
            }
            Err(error) if error.code() == Some("RepositoryNotFoundException") => error,
            Err(error) if is_lost(&error) => return Err(error),
            Err(error) => {
                ecr.no_batch.store(true, Ordering::Relaxed);
                self.events.emit(Event::Detail(format!("asking for many layers at once does not work here: {error}")));
                if !create {
                    return Ok(());
                }
                // Existence is asked in the way that is left; who may not ask may still be able to create. An outage is no
                // reason to create anything.
                match ecr.api.describe_repository(ecr.registry_id.as_ref(), &ecr.name).await {
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => error,
                    Err(unasked) if is_denied(&unasked) => error,
                    Err(unasked) => return Err(unasked),
                }
            }
        };
        if create && dry_run {
            self.events.notice(format!("the repository {} does not exist and would be created", self.uri));
            return Ok(());
        }
        if create {
            return match ecr.api.create_repository(ecr.registry_id.as_ref(), &ecr.name).await {
                Ok(created) if created.existed => Ok(()),
                Ok(_) => {
                    self.events.notice(format!("created the repository {}", self.uri));
                    Ok(())
                }
                // With no right to create, an existing repository is all that is needed.
                Err(denied) if error.code() != Some("RepositoryNotFoundException") && is_denied(&denied) => {
                    self.events.emit(Event::Detail(format!("the repository could not be created: {denied}")));
                    Ok(())
                }
                Err(error) => Err(self.explain(error)),
            };
        }
        if dry_run {
            return Err(self.missing_repository(error));
        }
        // A creation template may create it at the first upload (ecr-facts 2.8): one try decides.
        match self.repository.start_upload().await {
            Ok(_) => Ok(()),
            Err(refused) => {
                self.events.emit(Event::Detail(format!("a first upload was refused: {refused}")));
                Err(self.missing_repository(error))
            }
        }
    }

    /// What is behind an upload that the registry cut off at its start.
    pub(super) async fn explain_cut(&self, error: Error) -> Error {
        let Some(ecr) = &self.ecr else { return error };
        match ecr.api.describe_repository(ecr.registry_id.as_ref(), &ecr.name).await {
            Ok(None) => self.missing_repository(error),
            _ => error.with_hint(
                "Amazon ECR also closes the connection so when the repository is missing or ecr:InitiateLayerUpload is not allowed",
            ),
        }
    }

    fn missing_repository(&self, error: Error) -> Error {
        let Some(ecr) = &self.ecr else { return error };
        let account = ecr.account.as_ref().map(|account| format!(" of account {account}")).unwrap_or_default();
        let message =
            format!("the repository `{}` does not exist in the registry{account} in {}", ecr.name, ecr.region);
        let mut missing =
            Error::new(Side::Destination, "find repository", message).with_code("RepositoryNotFoundException");
        if let Some(id) = error.request_id() {
            missing = missing.with_request_id(id);
        }
        missing
            .with_hint("push with `--create-repository` to have it created")
            .with_hint(format!(
                "or create it: aws ecr create-repository --repository-name {} --region {}",
                ecr.name, ecr.region
            ))
            .with_hint("if it exists, check the account and the region")
            .with_source(error)
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Digest, Presence>> {
        self.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn note(&self, answers: impl Iterator<Item = (Digest, Presence)>) {
        self.asked().extend(answers);
    }

    /// Those of `digests` that the registry has, with their sizes where it tells them. What was answered once is not asked again.
    pub(super) async fn present_of(
        &self,
        digests: &[Digest],
        retry: &RetryBudget,
    ) -> Result<HashMap<Digest, Option<u64>>> {
        let unasked: Vec<Digest> = {
            let asked = self.asked();
            digests.iter().filter(|digest| !asked.contains_key(digest)).copied().collect()
        };
        for some in unasked.chunks(ASK_AT_ONCE) {
            self.ask(some, retry).await?;
        }
        let asked = self.asked();
        Ok(digests.iter().filter_map(|digest| Some((*digest, (*asked.get(digest)?)?))).collect())
    }

    async fn ask(&self, digests: &[Digest], retry: &RetryBudget) -> Result<()> {
        let mut open: Vec<Digest> = digests.to_vec();
        if let Some(ecr) = &self.ecr
            && !ecr.no_batch.load(Ordering::Relaxed)
        {
            match ecr.api.layer_availability(ecr.registry_id.as_ref(), &ecr.name, digests).await {
                Ok(answer) => {
                    self.note(answer.available.into_iter().map(|(digest, size)| (digest, Some(size))));
                    self.note(answer.unavailable.into_iter().map(|digest| (digest, None)));
                    open = answer.unknown.into_iter().collect();
                }
                Err(error) => {
                    // A refusal lasts; anything else may pass, and the next batch asks again.
                    if error.retry() == Retry::Never {
                        ecr.no_batch.store(true, Ordering::Relaxed);
                    }
                    self.events.emit(Event::Detail(format!(
                        "asking for many layers at once failed, asking one by one: {error}"
                    )));
                }
            }
        }
        let heads: Vec<_> = iter(open)
            .map(|digest| async move { Result::Ok((digest, self.head(&digest, retry).await?)) })
            .buffer_unordered(HEADS)
            .try_collect()
            .await?;
        self.note(heads.into_iter());
        Ok(())
    }

    /// The size of a blob, if the registry has it and tells.
    pub(super) async fn size_of(&self, digest: &Digest, retry: &RetryBudget) -> Option<u64> {
        match self.present_of(&[*digest], retry).await.ok()?.get(digest)? {
            Some(size) => Some(*size),
            None => self.head(digest, retry).await.ok()??,
        }
    }

    /// True if the registry has the blob now. False too if nobody lets us ask: it is sent then.
    pub(super) async fn present(&self, digest: &Digest, retry: &RetryBudget) -> Result<bool> {
        Ok(self.head(digest, retry).await?.is_some())
    }

    async fn head(&self, digest: &Digest, retry: &RetryBudget) -> Result<Presence> {
        if self.blind.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match retry.run("check blob", || self.repository.blob(digest)).await.map_err(|error| self.explain(error))? {
            BlobStatus::Present(size) => Ok(Some(size)),
            BlobStatus::Absent => Ok(None),
            BlobStatus::Unaskable => {
                if !self.blind.swap(true, Ordering::Relaxed) && !self.is_sibling {
                    let right = if self.ecr.is_some() { " (ecr:BatchCheckLayerAvailability)" } else { "" };
                    self.events.warning(format!(
                        "the registry does not let these credentials ask which layers it has{right}, so every layer is sent"
                    ));
                }
                Ok(None)
            }
        }
    }

    /// The digests of the newest images, where that can be told from one short answer.
    pub(super) async fn newest(&self, count: usize, limit: Duration) -> Result<Vec<Digest>> {
        let Some(ecr) = &self.ecr else { return Ok(Vec::new()) };
        ecr.api.newest_images(ecr.registry_id.as_ref(), &ecr.name, count, limit).await
    }

    /// What the tags point at, and whether those that do not point at the image `ours` may move. What may not be asked stays unknown.
    pub(super) async fn tags(&self, tags: &[Tag], ours: &Identity, retry: &RetryBudget) -> Result<Vec<TagState>> {
        let mut states = Vec::new();
        for tag in tags {
            let found = match retry.run("read tag", || self.repository.manifest(tag.as_str())).await {
                Ok(found) => found,
                // Who may not read one tag may read none.
                Err(error) if error.status() == Some(403) => {
                    self.events.emit(Event::Detail(format!("tags cannot be read beforehand: {error}")));
                    let unread = tags.iter().skip(states.len());
                    states.extend(unread.map(|tag| TagState { tag: tag.clone(), found: None, immutable: false }));
                    return Ok(states);
                }
                // A registry that answers so to a read may still take a push.
                Err(error) if error.retry() == Retry::Never && error.status() != Some(401) => {
                    self.events.emit(Event::Detail(format!("the tag `{tag}` cannot be read beforehand: {error}")));
                    None
                }
                Err(error) => return Err(self.explain(error)),
            };
            let moves = found.as_ref().is_some_and(|found| !ours.is(found));
            let immutable = moves && self.is_immutable(tag).await;
            states.push(TagState { tag: tag.clone(), found, immutable });
        }
        Ok(states)
    }

    /// True if the repository is known to refuse that `tag` moves. Whoever may not ask learns it when the tag is put.
    async fn is_immutable(&self, tag: &Tag) -> bool {
        let Some(ecr) = &self.ecr else { return false };
        let facts = ecr
            .facts
            .get_or_init(|| async {
                ecr.api.describe_repository(ecr.registry_id.as_ref(), &ecr.name).await.ok().flatten()
            })
            .await;
        facts.as_ref().is_some_and(|facts| tag_is_immutable(facts, tag))
    }

    /// Adds to a refusal what is missing, where the service says so.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.status() == Some(401) {
            return match &self.ecr {
                Some(_) => error.with_hint("the registry does not accept even a new token: check account and region"),
                None => error.with_hint(format!(
                    "log in first: docker login {}",
                    self.uri.split('/').next().unwrap_or_default()
                )),
            };
        }
        let Some(ecr) = &self.ecr else { return error };
        match (error.status(), error.code()) {
            (Some(404), Some("NAME_UNKNOWN")) => self.missing_repository(error),
            (Some(403), Some("DENIED")) => {
                let explained = denial_error(error.operation(), error.message(), &self.target(ecr))
                    .with_status(403)
                    .with_code("DENIED");
                match error.request_id() {
                    Some(id) => explained.with_request_id(id),
                    None => explained,
                }
            }
            (Some(403), _) | (_, Some("AccessDeniedException" | "AccessDenied")) if error.hints().is_empty() => {
                error.with_hint(format!("a push needs this policy:\n{}", self.target(ecr).push_policy(None)))
            }
            _ => error,
        }
    }

    fn target(&self, ecr: &Ecr) -> Target {
        Target { region: ecr.region.clone(), account: ecr.account.clone(), repository: Some(ecr.name.clone()) }
    }
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

fn is_denied(error: &Error) -> bool {
    error.status() == Some(403) || error.code().is_some_and(|code| code.starts_with("AccessDenied"))
}

/// True for failures that no other way of asking would get around: the credential itself is not accepted.
fn is_lost(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(
            "SignatureDoesNotMatch"
                | "InvalidSignatureException"
                | "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "ExpiredTokenException"
                | "ExpiredToken"
        )
    )
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn checked_base(text: &str) -> Result<Url> {
    let base = Url::parse(text).map_err(|_| {
        Error::new(Side::Destination, "find registry", format!("the registry address `{text}` is not a URL"))
    })?;
    // An endpoint override that names http is the user's own word for it.
    checked_base_with(base, true)
}

/// Plain http goes unasked only to this machine, and never to AWS.
fn checked_base_with(base: Url, plain_http: bool) -> Result<Url> {
    let host = base.host_str().unwrap_or_default().to_owned();
    if base.scheme() == "https" || is_loopback(&base) {
        return Ok(base);
    }
    if base.scheme() != "http" {
        return Err(Error::refused("open registry", format!("`{base}` is neither https nor http")));
    }
    if is_aws_host(&host) {
        return Err(Error::refused("open registry", format!("plain http is never spoken to {host}, an AWS host")));
    }
    if !plain_http {
        return Err(Error::refused("open registry", format!("{host} would be reached without TLS"))
            .with_hint("add `--plain-http` if this is meant"));
    }
    Ok(base)
}

/// True if `base` answers in plain HTTP. A server of TLS answers 400 to that, or with bytes that are no HTTP. Nothing secret is sent. Asked
/// this way round because a TLS handshake costs more than everything else that a repeated push does.
async fn speaks_plain_http(http: &Http, base: &Url) -> bool {
    let request = http.client_for(base).get(base.join("/v2/").unwrap_or_else(|_| base.clone()));
    match request.timeout(Duration::from_secs(5)).send().await {
        Ok(response) => response.status() != StatusCode::BAD_REQUEST,
        // Nobody there at all: the error is the same either way, and shorter without TLS.
        Err(error) => error.is_connect(),
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

/// Who the credentials belong to, for `-v` and after a denial. Never fatal.
pub(super) async fn identity(destination: &Destination) -> Option<aws::Identity> {
    destination.ecr.as_ref()?.api.caller_identity().await.ok()
}
