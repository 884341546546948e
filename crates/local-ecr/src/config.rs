//! What a server is told at its start.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::notice::Notices;
use crate::policy::Policy;

/// How a [`LocalEcr`](crate::LocalEcr) behaves. The default is a quiet account in `us-east-1` that lets everyone in.
#[derive(Clone, Debug)]
pub struct Config {
    /// The twelve digits of the account.
    pub account: String,
    /// The region whose registry this is.
    pub region: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `HOST[:PORT]` that clients know the server by, if that is neither a name of this machine nor the address it listens on.
    /// Redirects, `proxyEndpoint` and `repositoryUri` name it; without it they name the host that was asked for.
    pub public_host: Option<String>,
    /// Where images are kept. A folder belongs to one server at a time.
    pub storage: Storage,
    /// How long an upload session lives that nothing is asked of.
    pub upload_ttl: Duration,
    /// How long a registry password works.
    pub token_ttl: Duration,
    /// By how many seconds the server's clock is ahead of this machine's, or behind it: a machine whose clock is wrong sees it so.
    pub clock_ahead: i64,
    /// Access keys with their secrets. While empty, every key is let in and no signature is verified.
    pub keys: Vec<Key>,
    /// What principals may do, by principal name; `*` speaks for all. A principal no entry speaks for may do all.
    pub policies: Vec<(String, Policy)>,
    /// What a push to a missing repository meets.
    pub missing_repository: MissingRepository,
    /// The account setting `BLOB_MOUNTING`.
    pub mounting: bool,
    /// Whether `PUT` of a manifest answers with `Docker-Content-Digest`.
    pub manifest_digest_header: bool,
    /// Quotas, lowered by tests that want to reach them.
    pub limits: Limits,
    /// Requests a second, by API operation. Empty: no limit.
    pub rates: HashMap<String, Rate>,
    /// HTTPS under the real host names instead of plain HTTP.
    pub tls: Option<Tls>,
    /// An instance metadata service on a port of its own.
    pub imds: Option<Imds>,
    /// How STS on the same port behaves.
    pub sts: Sts,
    /// Faults that are there from the first request.
    pub faults: Vec<crate::Fault>,
    /// Who gets to know of damaged repositories and internal errors.
    pub notices: Notices,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            account: "123456789012".into(),
            region: "us-east-1".into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            public_host: None,
            storage: Storage::Memory,
            upload_ttl: Duration::from_secs(6 * 60 * 60),
            token_ttl: Duration::from_secs(12 * 60 * 60),
            clock_ahead: 0,
            keys: Vec::new(),
            policies: Vec::new(),
            missing_repository: MissingRepository::NameUnknown,
            mounting: false,
            manifest_digest_header: true,
            limits: Limits::default(),
            rates: HashMap::new(),
            tls: None,
            imds: None,
            sts: Sts::default(),
            faults: Vec::new(),
            notices: Notices::default(),
        }
    }
}

/// Where images are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// One OCI layout for each repository below this directory, found again after a restart.
    Directory(PathBuf),
    /// In this process, gone with it.
    Memory,
}

/// An access key the server knows.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    /// The access key id.
    pub access_key_id: String,
    /// The secret that signatures are verified with.
    pub secret_access_key: String,
    /// The user the key belongs to: `arn:aws:iam::ACCOUNT:user/NAME`.
    pub user: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("access_key_id", &self.access_key_id)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What a push to a missing repository meets. ECR shows all three (ecr-facts 4.3, 2.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingRepository {
    /// The connection is cut without an answer.
    Close,
    /// The repository is made, as a `CREATE_ON_PUSH` template would.
    Create,
    /// 404 `NAME_UNKNOWN`.
    #[default]
    NameUnknown,
}

/// Quotas of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer.
    pub layer_bytes: u64,
    /// Parts of one layer.
    pub layer_parts: usize,
    /// Layers of one image.
    pub layers_per_image: usize,
    /// Bytes of one manifest.
    pub manifest_bytes: usize,
    /// Bytes of one part.
    pub max_part_bytes: u64,
    /// Bytes of every part but the last.
    pub min_part_bytes: u64,
    /// The `partSize` that `InitiateLayerUpload` answers.
    pub part_size: u64,
    /// Repositories of the account.
    pub repositories: usize,
    /// Tags of one image.
    pub tags_per_image: usize,
    /// Open upload sessions of the account.
    pub upload_sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 52_000 << 20,
            layer_parts: 4_200,
            layers_per_image: 500,
            manifest_bytes: 4_194_304,
            max_part_bytes: 20_971_520,
            min_part_bytes: 5_242_880,
            part_size: 10_485_760,
            repositories: 100_000,
            tags_per_image: 1_000,
            upload_sessions: 10_000,
        }
    }
}

impl Limits {
    /// The published request rates of a private registry (ecr-facts section 3), for [`Config::rates`].
    pub fn published_rates() -> HashMap<String, Rate> {
        [
            ("GetAuthorizationToken", 500.0),
            ("BatchCheckLayerAvailability", 1_000.0),
            ("InitiateLayerUpload", 100.0),
            ("UploadLayerPart", 500.0),
            ("CompleteLayerUpload", 100.0),
            ("PutImage", 10.0),
            ("BatchGetImage", 2_000.0),
            ("GetDownloadUrlForLayer", 3_000.0),
        ]
        .into_iter()
        .map(|(operation, per_second)| (operation.to_owned(), Rate { per_second, burst: per_second }))
        .collect()
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests a second, sustained.
    pub per_second: f64,
    /// Requests at once.
    pub burst: f64,
}

/// HTTPS under the names of the real hosts, with a certificate made at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Where the PEM of the certificate authority is written.
    pub ca_out: Option<PathBuf>,
}

/// An instance metadata service, version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imds {
    /// The role of the instance.
    pub role: String,
    /// How the service behaves.
    pub mode: ImdsMode,
    /// How long the credentials it hands out live.
    pub credentials_ttl: Duration,
}

impl Default for Imds {
    fn default() -> Self {
        Self {
            role: "local-ecr-instance".into(),
            mode: ImdsMode::Normal,
            credentials_ttl: Duration::from_secs(6 * 60 * 60),
        }
    }
}

/// How the instance metadata service behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImdsMode {
    /// 403 to everything: the instance has it switched off.
    Disabled,
    /// No answer ever: a hop limit of one, seen from a container.
    Hang,
    /// The instance has no role: 404.
    NoRole,
    /// Version 2 only, with a role.
    #[default]
    Normal,
}

/// How STS behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sts {
    /// Refuses `AssumeRole` and `AssumeRoleWithWebIdentity` with this code and text.
    pub refuse: Option<(String, String)>,
    /// The external id a role must be assumed with.
    pub external_id: Option<String>,
    /// How long the credentials of a role live; `None`: as long as was asked for, or an hour.
    pub credentials_ttl: Option<Duration>,
}
