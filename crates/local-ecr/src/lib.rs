//! A local Amazon ECR for tests and demos.
//!
//! One loopback port serves both doors of ECR: the JSON API and the registry under `/v2/`, with ECR's rules, statuses,
//! codes and texts. `docs/rules.md` says for each rule where it comes from. STS is on the same port, instance metadata
//! on one of its own. Faults can be scripted and every request is recorded, so that it doubles as a test double.
//!
//! ```
//! # async fn example() -> std::io::Result<()> {
//! use local_ecr::{Answer, Config, Fault, FaultAction, LocalEcr, Mutability};
//!
//! let server = LocalEcr::start(Config::default()).await?;
//! server.create_repository("team/app", Mutability::immutable())?;
//! server.add_fault(Fault::new(FaultAction::Answer(Answer::status(500))).method("PATCH").times(1));
//! // ... push to server.endpoint_url() ...
//! assert!(server.repository("team/app").is_some_and(|repository| repository.tags.is_empty()));
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(not(feature = "proxy"), allow(dead_code, unused_variables, reason = "the proxy has a share in much"))]
#![warn(missing_docs)]

mod api;
mod auth;
mod clock;
mod config;
mod engine;
mod error;
mod faults;
mod hosts;
mod http;
mod imds;
mod manifest;
mod notice;
mod policy;
#[cfg(feature = "proxy")]
mod proxy;
mod recorder;
mod registry;
mod rule;
mod rules;
mod s3;
mod server;
mod socket;
mod store;
mod sts;
mod suffer;
mod tls;
mod util;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use config::{Config, Imds, ImdsMode, Key, Limits, MissingRepository, Rate, Storage, Sts, Tls};
pub use faults::{Answer, ConnectionAction, ConnectionFault, Fault, FaultAction};
pub use notice::{Notice, Notices};
pub use policy::Policy;
#[cfg(feature = "proxy")]
pub use proxy::{FaultProxy, ProxyConfig};
pub use recorder::RecordedRequest;
pub use rule::Rule;
pub use rules::Mutability;

use engine::Engine;
use server::Service;
use store::{Contents, Settings};
use util::lock;

/// A running server. It ends with [`LocalEcr::shutdown`], or when it is dropped.
pub struct LocalEcr {
    engine: Arc<Engine>,
    imds: Option<SocketAddr>,
    ca_pem: Option<String>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A repository as it was when asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositorySnapshot {
    /// The digest of the image under each tag.
    pub tags: BTreeMap<String, String>,
    /// The bytes of each manifest, by digest.
    pub manifests: BTreeMap<String, Vec<u8>>,
    /// The media type of each manifest, by digest.
    pub media_types: BTreeMap<String, String>,
    /// The digests of the blobs.
    pub blobs: BTreeSet<String>,
}

impl LocalEcr {
    /// Starts to listen. Requests are served by tasks of the current runtime.
    ///
    /// A folder that another server has is [`io::ErrorKind::ResourceBusy`]; a repository in it that cannot be read is left
    /// out, with a notice.
    pub async fn start(config: Config) -> io::Result<Self> {
        if let Some(host) = config.public_host.as_deref().filter(|host| hosts::Host::parse(host).is_none()) {
            let sentence = format!("the public host '{host}' is not HOST or HOST:PORT");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, sentence));
        }
        let listener = server::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let (stop, shutdown) = watch::channel(false);
        let identity = config.tls.as_ref().map(|_| tls::identity(&config)).transpose()?;
        let imds_config = config.imds.clone();
        let ca_out = config.tls.as_ref().and_then(|tls| tls.ca_out.clone());
        let engine = Arc::new(Engine::new(config, address, shutdown.clone()).await?);
        let (acceptor, ca_pem) = identity.map(|identity| (identity.acceptor, identity.ca_pem)).unzip();
        if let (Some(path), Some(pem)) = (ca_out, &ca_pem) {
            std::fs::write(&path, pem)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))?;
        }
        let mut server = Self { engine: Arc::clone(&engine), imds: None, ca_pem, stop, tasks: Vec::new() };
        if let Some(imds) = imds_config {
            let listener = server::bind(SocketAddr::new(address.ip(), 0)).await?;
            server.imds = Some(listener.local_addr()?);
            let metadata = Arc::new(imds::Metadata::new(Arc::clone(&engine), imds));
            let serving = server::listen(listener, None, Service::Metadata(metadata), shutdown.clone());
            server.tasks.push(tokio::spawn(serving));
        }
        server.tasks.push(tokio::spawn(end_old_uploads(Arc::clone(&engine))));
        server.tasks.push(tokio::spawn(server::listen(listener, acceptor, Service::Ecr(engine), shutdown)));
        Ok(server)
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.engine.address
    }

    /// `http://127.0.0.1:PORT`: the endpoint for `AWS_ENDPOINT_URL`, on this machine also with TLS.
    pub fn endpoint_url(&self) -> String {
        format!("{}://{}", self.engine.scheme(), self.engine.reachable_address())
    }

    /// `HOST:PORT` of the registry, as `repositoryUri` starts.
    pub fn registry_host(&self) -> String {
        self.engine.registry_host(None)
    }

    /// The real host names that it answers for, beside the names of this machine.
    pub fn host_names(&self) -> Vec<String> {
        let is_real = |name: &String| name != "localhost" && name.parse::<std::net::IpAddr>().is_err();
        tls::host_names(&self.engine.config).into_iter().filter(is_real).collect()
    }

    /// The endpoint for `AWS_EC2_METADATA_SERVICE_ENDPOINT`, if there is one.
    pub fn imds_endpoint(&self) -> Option<String> {
        self.imds.map(|address| format!("http://{address}"))
    }

    /// The PEM of the authority to trust, with TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Makes a repository.
    pub fn create_repository(&self, name: &str, mutability: Mutability) -> io::Result<()> {
        let settings = Settings { mutability, ..Settings::default() };
        let created = self.engine.create_repository(name, settings);
        created.map(|_| ()).map_err(|refusal| io::Error::other(refusal.cause.unwrap_or(refusal.message)))
    }

    /// Deletes a repository with everything in it.
    pub fn delete_repository(&self, name: &str) -> io::Result<()> {
        let found = self.engine.repository(name);
        let deleted = found.and_then(|repository| self.engine.delete_repository(&repository, true));
        deleted.map_err(|refusal| io::Error::other(refusal.cause.unwrap_or(refusal.message)))
    }

    /// What is in a repository; `None` if there is none of that name.
    pub fn repository(&self, name: &str) -> Option<RepositorySnapshot> {
        let repository = self.engine.store.find(name)?;
        let contents = repository.contents();
        let images = || contents.images.iter();
        Some(RepositorySnapshot {
            tags: contents.tags.clone(),
            manifests: images().map(|(digest, image)| (digest.clone(), image.bytes.to_vec())).collect(),
            media_types: images().map(|(digest, image)| (digest.clone(), image.manifest.media_type.clone())).collect(),
            blobs: contents.blobs.keys().cloned().collect(),
        })
    }

    /// The names of all repositories.
    pub fn repositories(&self) -> Vec<String> {
        self.engine.store.all().iter().map(|repository| repository.name.clone()).collect()
    }

    /// The names of the repositories that were left out at the start, because they cannot be read.
    pub fn damaged_repositories(&self) -> &[String] {
        self.engine.store.damaged()
    }

    /// Moves the server's clock on, by whole seconds: passwords, keys and upload sessions grow older by that, and signatures
    /// are judged by it.
    pub fn advance_clock(&self, by: Duration) {
        self.engine.clock.advance(by);
        self.engine.end_old_uploads();
    }

    /// Archives an image, as `UpdateImageStorageClass` does. `false` if there is no such image.
    pub fn archive_image(&self, repository: &str, digest: &str) -> bool {
        let Some(repository) = self.engine.store.find(repository) else {
            return false;
        };
        let mut contents = repository.contents();
        let archive =
            |contents: &mut Contents| contents.images.get_mut(digest).map(|image| image.archived = true).is_some();
        repository.change(&mut contents, archive).is_ok_and(|found| found)
    }

    /// A registry password for this user, as `base64("AWS:password")`: the value after `Basic `.
    pub fn authorization_token(&self, user: &str) -> String {
        let identities = &self.engine.identities;
        let (password, _) = identities.issue_token(identities.user(user), self.engine.config.token_ttl);
        BASE64_STANDARD.encode(format!("AWS:{password}"))
    }

    /// Adds a fault to the script.
    pub fn add_fault(&self, fault: Fault) {
        lock(&self.engine.script).add(fault);
    }

    /// Adds a fault of connections to the script.
    pub fn add_connection_fault(&self, fault: ConnectionFault) {
        lock(&self.engine.script).add_to_connections(fault);
    }

    /// Adds a fault that was written as text.
    pub fn add_rule(&self, rule: Rule) {
        match rule {
            Rule::Connection(fault) => self.add_connection_fault(fault),
            Rule::Request(fault) => self.add_fault(fault),
        }
    }

    /// Replaces the access keys of users, as [`FaultAction::RotateKeys`] does.
    pub fn set_keys(&self, keys: &[Key]) {
        self.engine.identities.set_keys(keys);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        lock(&self.engine.script).clear();
    }

    /// How many requests and connections faults have hit so far: a test of what survives a fault has to know that it came.
    pub fn hits(&self) -> usize {
        lock(&self.engine.script).hits()
    }

    /// What was asked so far, in the order of arrival.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.engine.recorder.snapshot()
    }

    /// Forgets what was asked so far.
    pub fn clear_requests(&self) {
        self.engine.recorder.clear();
    }

    /// Ends every registry password handed out so far.
    pub fn expire_tokens(&self) {
        self.engine.identities.expire_tokens();
    }

    /// Stops, and waits until nothing listens any more.
    pub async fn shutdown(mut self) {
        self.end();
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
    }

    fn end(&self) {
        self.stop.send_replace(true);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Ends upload sessions as their time comes, so that what nobody asks for again takes no room.
async fn end_old_uploads(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        engine.end_old_uploads();
    }
}

impl Drop for LocalEcr {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for LocalEcr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalEcr").field("address", &self.address()).finish_non_exhaustive()
    }
}
