//! What goes into a push, and what comes out of it.

use std::path::PathBuf;
use std::time::Duration;

use super::{BlobReport, DestinationSpec, LocalImage};
use crate::aws::AwsSettings;
use crate::compress::Compression;
#[cfg(feature = "containerd")]
use crate::containerd::ContainerdSettings;
use crate::engine::EngineSettings;
use crate::events::BlobAction;
use crate::http::HttpSettings;
use crate::image::{Descriptor, Digest, RepositoryName, Tag};
use crate::known::Reuse;
use crate::registry::DockerConfig;
use crate::source::{Contents, Selection, SourceSpec};

/// Everything one push needs to know. Filled by the command line.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// Where the image is.
    pub source: SourceSpec,
    /// Which part of an index is wanted.
    pub selection: Selection,
    /// Where it goes.
    pub destination: DestinationSpec,
    /// The tags; the first one is "the" reference. None means `latest`.
    pub tags: Vec<Tag>,
    /// Create the repository if it is missing.
    pub create_repository: bool,
    /// Large uploads at a time.
    pub jobs: usize,
    /// Threads that compress.
    pub threads: usize,
    /// How layers are compressed that must be. None means the default, and that a blob of another codec may take its place.
    pub compression: Option<Compression>,
    /// What is taken for known.
    pub reuse: ReuseSettings,
    /// Where compressed layers wait to be sent.
    pub temp_dir: PathBuf,
    /// How long the push may go on trying.
    pub retry_budget: Duration,
    /// How long to wait, after the tags were put, until each of them can be read back. None: not at all.
    pub wait_visible: Option<Duration>,
    /// Say what would be done, send nothing.
    pub dry_run: bool,
    /// Ask STS who the credentials belong to.
    pub show_identity: bool,
    /// The container engine.
    pub engine: EngineSettings,
    /// Read an engine's layers from its own store, where that is on this host and can be read.
    pub use_engine_store: bool,
    /// The containerd.
    #[cfg(feature = "containerd")]
    pub containerd: ContainerdSettings,
    /// CA files, proxy, `--connect-to`.
    pub http: HttpSettings,
    /// Credentials, region, endpoints.
    pub aws: AwsSettings,
    /// Where docker keeps its logins.
    pub docker_config: DockerConfig,
}

/// Which blobs may take the place of layers, and where they are looked for.
#[derive(Clone, Debug, Default)]
pub struct ReuseSettings {
    /// Whose word is taken.
    pub policy: Reuse,
    /// Tags of the repository whose images are looked at besides the target's own and `latest`.
    pub from: Vec<Tag>,
    /// Repositories of the same registry that blobs are mounted from.
    pub mount_from: Vec<RepositoryName>,
    /// Where this host remembers what it pushed. None: it does not.
    pub cache_dir: Option<PathBuf>,
}

/// What came of a push.
#[derive(Clone, Debug)]
pub struct PushReport {
    /// `HOST/NAME`.
    pub repository: String,
    /// The digest of the manifest or index that the tags point at.
    pub digest: Digest,
    /// The tags, in the order given; the first one is "the" reference.
    pub tags: Vec<Tag>,
    /// The account that owns the repository (ECR).
    pub registry_id: Option<String>,
    /// Its region (ECR).
    pub region: Option<String>,
    /// What was pushed.
    pub contents: Contents,
    /// True if the registry had the image already, so that nothing was read.
    pub existed: bool,
    /// True if nothing was sent on purpose.
    pub dry_run: bool,
    /// What was done for each blob.
    pub blobs: Vec<BlobReport>,
    /// Blobs that were sent and that the image does not name: an immutable tag turned out to hold it in another packing.
    pub unused: Vec<BlobReport>,
    /// How long it took.
    pub elapsed: Duration,
    /// How often something was tried again.
    pub retries: u64,
    /// The time in which something waited: for another try, or for its turn at a service that takes only so many requests a second.
    pub waited: Duration,
    /// The most bytes in temporary files at one time.
    pub peak_temp_bytes: u64,
    /// The image in the engine it came from. None for other sources, and in a dry run.
    pub local: Option<LocalImage>,
}

impl PushReport {
    /// `HOST/NAME@DIGEST`.
    pub fn uri(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }

    /// One `HOST/NAME:TAG` a tag, in the order given.
    pub fn references(&self) -> impl Iterator<Item = String> {
        self.tags.iter().map(|tag| format!("{}:{tag}", self.repository))
    }

    /// Bytes of the blobs for which `action` was taken, used or not.
    pub fn bytes(&self, action: BlobAction) -> u64 {
        self.with(action).map(|blob| blob.size).sum()
    }

    /// How many blobs `action` was taken for, used or not.
    pub fn count(&self, action: BlobAction) -> usize {
        self.with(action).count()
    }

    fn with(&self, action: BlobAction) -> impl Iterator<Item = &BlobReport> {
        self.blobs.iter().chain(&self.unused).filter(move |blob| blob.action == action)
    }

    /// Makes this the report of `manifest`, whose blobs the registry had: what was done for others of another packing was for nothing.
    pub(super) fn turn_into(&mut self, manifest: Digest, blobs: &[Descriptor]) {
        let mut done = std::mem::take(&mut self.blobs);
        let listed = blobs.iter().map(|blob| match done.iter().position(|done| done.digest == blob.digest) {
            Some(at) => done.swap_remove(at),
            None => BlobReport {
                digest: blob.digest,
                diff_id: None,
                size: blob.size,
                action: BlobAction::Skipped,
                reused_from: None,
            },
        });
        self.blobs = listed.collect();
        let moved = done.into_iter().filter(|blob| matches!(blob.action, BlobAction::Sent | BlobAction::Mounted));
        self.unused.extend(moved);
        self.digest = manifest;
    }
}
