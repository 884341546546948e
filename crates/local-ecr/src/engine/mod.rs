//! The one engine behind both doors: every rule that does not belong to the wire form is here.

mod images;
mod rates;
mod uploads;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::auth::{Identities, Principal};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Refusal, Result};
use crate::faults::Script;
use crate::hosts;
use crate::policy::Verdict;
use crate::recorder::Recorder;
use crate::rules;
use crate::store::{Blob, Contents, Repository, Settings, Store};
use crate::tls;
use crate::util::{lock, random_hex};
pub(crate) use images::{NewImage, find_image};
use rates::Rates;
use uploads::Uploads;
pub(crate) use uploads::{ContentRange, Upload, WriteError};

/// How long an address of the stand-in for S3 works.
const PRESIGNED_TTL: Duration = Duration::from_secs(60 * 60);

/// Everything the requests of one server share.
pub(crate) struct Engine {
    pub config: Config,
    pub address: SocketAddr,
    pub store: Store,
    pub identities: Identities,
    pub script: Mutex<Script>,
    pub recorder: Recorder,
    pub shutdown: watch::Receiver<bool>,
    pub clock: Arc<Clock>,
    uploads: Uploads,
    rates: Rates,
    presigned: Mutex<HashMap<String, Presigned>>,
}

/// What an address of the stand-in for S3 leads to.
#[derive(Clone)]
pub(crate) struct Presigned {
    pub blob: Blob,
    /// Whether the address names another host than the one the client came to.
    pub is_elsewhere: bool,
    since: SystemTime,
}

impl Engine {
    pub async fn new(config: Config, address: SocketAddr, shutdown: watch::Receiver<bool>) -> std::io::Result<Self> {
        let clock = Arc::new(Clock::new(config.clock_ahead));
        let mut script = Script::default();
        config.faults.iter().cloned().for_each(|fault| script.add(fault));
        Ok(Self {
            store: Store::open(&config.storage, config.notices.clone()).await?,
            identities: Identities::new(&config, Arc::clone(&clock)),
            clock,
            rates: Rates::new(config.rates.clone()),
            script: Mutex::new(script),
            recorder: Recorder::default(),
            uploads: Uploads::default(),
            presigned: Mutex::default(),
            shutdown,
            address,
            config,
        })
    }

    /// `HOST[:PORT]` of the registry as answers name it: the public name, with TLS the real one, or else the host that
    /// the client asked for, by which it can come again.
    pub fn registry_host(&self, asked: Option<&str>) -> String {
        match (&self.config.public_host, &self.config.tls, asked) {
            (Some(host), ..) => host.clone(),
            (None, Some(_), _) => self.with_port(tls::registry_host(&self.config)),
            (None, None, Some(asked)) => asked.to_owned(),
            (None, None, None) => self.reachable_address().to_string(),
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.config.tls.is_some() { "https" } else { "http" }
    }

    /// The address for a client on this machine: "all addresses" is nothing to connect to.
    pub fn reachable_address(&self) -> SocketAddr {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        address
    }

    fn with_port(&self, host: String) -> String {
        match self.address.port() {
            443 => host,
            port => format!("{host}:{port}"),
        }
    }

    pub fn repository_arn(&self, name: &str) -> String {
        format!("arn:aws:ecr:{}:{}:repository/{name}", self.config.region, self.config.account)
    }

    /// What comes first at both doors: the rate, then the right. Without a repository the action is on `*`.
    pub fn enter(&self, principal: &Principal, operation: &str, repository: Option<&str>) -> Result<()> {
        if !self.rates.take(operation) {
            return Err(Refusal::new("ThrottlingException", "Rate exceeded"));
        }
        self.authorize(principal, operation, repository)
    }

    /// the verdict of the policies that speak for the principal.
    pub fn authorize(&self, principal: &Principal, operation: &str, repository: Option<&str>) -> Result<()> {
        let resource = repository.map_or_else(|| "*".to_owned(), |name| self.repository_arn(name));
        let action = format!("ecr:{operation}");
        let verdicts: Vec<_> = self
            .config
            .policies
            .iter()
            .filter(|(name, _)| name == "*" || *name == principal.name)
            .map(|(_, policy)| policy.verdict(&action, &resource))
            .collect();
        let reason = if verdicts.contains(&Verdict::Denied) {
            "with an explicit deny in an identity-based policy".to_owned()
        } else if verdicts.is_empty() || verdicts.contains(&Verdict::Allowed) {
            return Ok(());
        } else {
            format!("because no identity-based policy allows the {action} action")
        };
        Err(Refusal::new(
            "AccessDeniedException",
            format!("User: {} is not authorized to perform: {action} on resource: {resource} {reason}", principal.arn),
        ))
    }

    /// a repository by its name.
    pub fn repository(&self, name: &str) -> Result<Arc<Repository>> {
        rules::check_name(name)?;
        self.store.find(name).ok_or_else(|| Refusal::no_repository(name, &self.config.account))
    }

    pub fn create_repository(&self, name: &str, settings: Settings) -> Result<Arc<Repository>> {
        rules::check_name(name)?;
        let account = &self.config.account;
        if self.store.len() >= self.config.limits.repositories {
            return Err(Refusal::new(
                "LimitExceededException",
                format!(
                    "The maximum number of repositories per registry has been reached in the registry with id \
                     '{account}'"
                ),
            ));
        }
        self.store.create(name, settings).map_err(Refusal::server)?.ok_or_else(|| {
            Refusal::new(
                "RepositoryAlreadyExistsException",
                format!("The repository with name '{name}' already exists in the registry with id '{account}'"),
            )
        })
    }

    /// What is in a repository, to be changed: in one that was deleted meanwhile nothing must be kept.
    pub fn changeable<'a>(&self, repository: &'a Repository) -> Result<MutexGuard<'a, Contents>> {
        let contents = repository.contents();
        match contents.is_gone {
            true => Err(Refusal::no_repository(&repository.name, &self.config.account)),
            false => Ok(contents),
        }
    }

    /// Deletes a repository with all upload sessions in it. R-56: with images only by force.
    pub fn delete_repository(&self, repository: &Repository, force: bool) -> Result<()> {
        let may = |contents: &Contents| match force || contents.images.is_empty() {
            _ if contents.is_gone => Err(Refusal::no_repository(&repository.name, &self.config.account)),
            true => Ok(()),
            false => Err(Refusal::new(
                "RepositoryNotEmptyException",
                format!(
                    "The repository with name '{}' in registry with id '{}' cannot be deleted because it still \
                     contains images",
                    repository.name, self.config.account
                ),
            )),
        };
        self.store.delete(repository, may)?.map_err(Refusal::server)?;
        self.end_uploads(&repository.name, None);
        Ok(())
    }

    /// a blob that may be read: ECR gives none that no image uses.
    pub fn readable_blob(&self, repository: &Repository, digest: &str) -> Result<Blob> {
        let contents = repository.contents();
        let readable = contents.blobs.get(digest).filter(|_| contents.is_referenced(digest));
        readable.cloned().ok_or_else(|| {
            Refusal::new(
                "LayerInaccessibleException",
                format!(
                    "The layer with digest '{digest}' in the repository with name '{}' in the registry with id '{}' \
                     is not associated with any image or does not exist",
                    repository.name, self.config.account
                ),
            )
        })
    }

    /// an address where the bytes are. Where this machine has two names, it is on another host than the one the client
    /// came to: then clients drop the `Authorization` header, as they have to before S3.
    pub fn presign(&self, blob: Blob, asked: Option<&str>) -> String {
        let (host, is_elsewhere) = match (&self.config.public_host, &self.config.tls) {
            (Some(host), _) => (host.clone(), false),
            (None, Some(_)) => (self.with_port(tls::bucket_host(&self.config)), true),
            (None, None) => hosts::elsewhere(&self.registry_host(asked)),
        };
        let id = random_hex(32);
        let mut presigned = lock(&self.presigned);
        presigned.retain(|_, it| !self.clock.has_passed(it.since, PRESIGNED_TTL));
        presigned.insert(id.clone(), Presigned { blob, is_elsewhere, since: self.clock.now() });
        format!("{}://{host}{}{id}?X-Amz-Expires=3600&X-Amz-Signature={id}", self.scheme(), crate::s3::PREFIX)
    }

    pub fn presigned(&self, id: &str) -> Option<Presigned> {
        lock(&self.presigned).get(id).filter(|it| !self.clock.has_passed(it.since, PRESIGNED_TTL)).cloned()
    }
}
