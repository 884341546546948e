//! The Docker Engine API client: finds the engine the docker CLI would use, resolves an image, exports it.
//!
//! The calls go through bollard over a transport of our own (`transport`), for what bollard 0.21 lacks: the API version
//! in the path (it negotiates one but never sends it), TLS without verification and without a client certificate, ssh
//! under the user's own host key rules, and a time-out on the connection alone.

mod client;
mod context;
mod endpoint;
mod export;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod name;
mod ssh;
mod tls;
mod transport;

#[cfg(all(test, unix))]
pub(crate) mod fake;
#[cfg(all(test, unix))]
mod tests;

use std::path::PathBuf;

pub use client::Engine;
pub use export::Export;

use crate::child::Variables;
use crate::image::{DiffId, Digest, Platform};

/// What the docker CLI would read from its environment.
#[derive(Clone, Debug, Default)]
pub struct EngineSettings {
    /// `DOCKER_HOST`, or the flag for it. It wins over every context, so a caller whose flag names a context clears it.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`, or the flag for it.
    pub context: Option<String>,
    /// What named `host`, for errors, such as the flag; `DOCKER_HOST` if unset.
    pub host_from: Option<&'static str>,
    /// What named `context`, for errors, such as the flag; `DOCKER_CONTEXT` if unset.
    pub context_from: Option<&'static str>,
    /// `DOCKER_TLS` is set to anything: TLS without verification, unless `tls_verify` is set too.
    pub tls: bool,
    /// `DOCKER_TLS_VERIFY` is set to anything, `0` included, as the docker CLI has it.
    pub tls_verify: bool,
    /// `DOCKER_CERT_PATH`: the folder of `ca.pem`, `cert.pem` and `key.pem`; without it, `config_dir`.
    pub cert_path: Option<PathBuf>,
    /// `DOCKER_API_VERSION`; without it, the version is negotiated.
    pub api_version: Option<String>,
    /// `DOCKER_CONFIG` or `~/.docker`: `config.json` with the current context, and `contexts/`.
    pub config_dir: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// Takes the place of the usual sockets.
    pub candidates: Option<Vec<PathBuf>>,
    /// The environment, of which ssh receives what it needs.
    pub variables: Variables,
}

/// Where an engine on this host keeps its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalStore {
    /// The engine's root folder, `/var/lib/docker` most often.
    pub root: PathBuf,
    /// The name of its storage driver or snapshotter.
    pub driver: String,
}

/// An image as the engine knows it, resolved once: a neighbour may move the name afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineImage {
    /// The engine's ID, `sha256:...`: the config's digest on classic stores, the manifest's (or index's) on the
    /// containerd store.
    pub id: String,
    /// What the user asked for, with the default tag.
    pub reference: String,
    /// True if the user asked by ID.
    pub by_id: bool,
    /// The config's digest, where the ID is one.
    pub config_digest: Option<Digest>,
    /// The digest of the manifest or index, where the ID is one (containerd store).
    pub root_digest: Option<Digest>,
    /// The layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// The engine's idea of the size in bytes; not the size of the export.
    pub size: u64,
    /// Every name with a tag that the image has in the engine.
    pub names: Vec<String>,
    /// What it was built for.
    pub platform: Option<Platform>,
}

/// At most five of `names` that who wrote `asked` may have meant.
#[cfg(feature = "containerd")]
pub(crate) fn near_names(asked: &str, names: &[String]) -> Vec<String> {
    name::Name::parse(asked).map(|asked| name::near(&asked, names)).unwrap_or_default()
}

/// Checks that `name` can be an image's name or ID, without asking any engine.
///
/// # Errors
/// If it is outside of the grammar; the error has the corrected name where there is one.
pub fn check_name(name: &str) -> crate::Result<()> {
    name::Name::parse(name).map(|_| ())
}
