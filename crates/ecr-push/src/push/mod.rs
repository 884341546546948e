//! One push, from a plain request to a report.
//!
//! The destination is opened while the source is found; what is known of the image beforehand decides whether anything
//! need be read at all. Then one thread reads and compresses, tasks send, and the manifests and tags come last.

mod destination;
mod intake;
mod local;
mod plan;
mod publish;
mod spool;
mod uploads;
mod verify;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub use destination::DestinationSpec;
pub use local::LocalImage;
pub use uploads::BlobReport;
pub use verify::{Verified, verify};

use crate::aws::AwsSettings;
use crate::compress::{Compressor, Level};
use crate::engine::{Engine, EngineSettings};
use crate::error::{Error, Result, Side};
use crate::events::{BlobAction, Event, Events};
use crate::http::{Http, HttpSettings};
use crate::image::{Descriptor, Digest, Entry, Kind, Manifest, MediaType, Tag, docker_manifest};
use crate::registry::DockerConfig;
use crate::retry::RetryBudget;
use crate::source::{
    Content, Contents, DockerDaemon, Image, LayerRef, Preview, Selection, Source, SourceSpec, open_file,
};
use destination::Destination;
use intake::{Blob, Intake};
use plan::{Identity, TagState};
use uploads::Uploads;

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
    /// The gzip level.
    pub level: Level,
    /// Where compressed layers wait to be sent.
    pub temp_dir: PathBuf,
    /// How long the push may go on trying.
    pub retry_budget: Duration,
    /// Say what would be done, send nothing.
    pub dry_run: bool,
    /// Ask STS who the credentials belong to.
    pub show_identity: bool,
    /// The container engine.
    pub engine: EngineSettings,
    /// CA files, proxy, `--connect-to`.
    pub http: HttpSettings,
    /// Credentials, region, endpoints.
    pub aws: AwsSettings,
    /// Where docker keeps its logins.
    pub docker_config: DockerConfig,
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
    /// How long it took.
    pub elapsed: Duration,
    /// How often something was tried again.
    pub retries: u64,
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

    /// Bytes of the blobs for which `action` was taken.
    pub fn bytes(&self, action: BlobAction) -> u64 {
        self.blobs.iter().filter(|blob| blob.action == action).map(|blob| blob.size).sum()
    }
}

/// Pushes one image. Must be called within a multi-threaded tokio runtime.
///
/// # Errors
/// Whatever keeps the image from being pushed. Nothing is tagged before every blob is there; of several tags, those that
/// came before the one that was refused stay.
pub async fn push(request: PushRequest, events: Events) -> Result<PushReport> {
    let started = Instant::now();
    let spool = spool::Spool::new(&request.temp_dir)?;
    let http = Http::new(&request.http)?;
    let retry = RetryBudget::new(request.retry_budget, events.clone());
    let source = open_source(&request, &events);
    let destination = Destination::open(&request.destination, &http, &request.aws, &request.docker_config, &events);
    let ((source, local), destination) = tokio::try_join!(source, destination)?;

    let mut push = Push { request, events, retry, destination, spool, started };
    match push.run(source).await {
        Ok(mut report) => {
            report.local = local.filter(|_| !report.dry_run);
            Ok(report)
        }
        Err(error) if is_denial(&error) => Err(push.with_identity(error).await),
        Err(error) => Err(error),
    }
}

async fn open_source(request: &PushRequest, events: &Events) -> Result<(Box<dyn Source>, Option<LocalImage>)> {
    let SourceSpec::Daemon(name) = &request.source else {
        let (spec, selection) = (request.source.clone(), request.selection.clone());
        events.notice(format!("source {spec}"));
        let opened = tokio::task::spawn_blocking(move || open_file(&spec, &selection)).await;
        let source = opened.map_err(|error| {
            Error::new(Side::Source, "open source", "reading the source ended early").with_source(error)
        })?;
        return Ok((source?, None));
    };
    let engine = Engine::connect(&request.engine).await?;
    let source = DockerDaemon::open(engine, name, request.selection.clone()).await?;
    let image = source.image();
    events.notice(format!("source {} of {}, image {}", image.reference, source.engine().describe(), image.id));
    let local = LocalImage::new(source.engine().clone(), image.clone());
    Ok((Box::new(source), Some(local)))
}

fn is_denial(error: &Error) -> bool {
    error.status() == Some(403) || error.code().is_some_and(|code| code.starts_with("AccessDenied") || code == "DENIED")
}

struct Push {
    request: PushRequest,
    events: Events,
    retry: RetryBudget,
    destination: Destination,
    spool: spool::Spool,
    started: Instant,
}

impl Push {
    async fn run(&mut self, source: Box<dyn Source>) -> Result<PushReport> {
        if self.request.show_identity
            && let Some(identity) = destination::identity(&self.destination).await
        {
            self.events.notice(format!("the credentials are those of {}", identity.arn));
        }
        let preview = source.preview();
        let probe = preview.config_digest.or(preview.root_digest).unwrap_or_else(|| Digest::of(b""));
        self.events.emit(Event::Phase(format!("checking {}", self.destination.uri)));
        self.destination.ensure_repository(probe, self.request.create_repository, self.request.dry_run).await?;

        let tags = self.tags();
        let states = self.destination.tags(&plan::order(&tags), &self.retry).await?;
        let identity = Identity { root: preview.root_digest, config: preview.config_digest };
        plan::refuse_moves(&identity, &states, &self.destination.uri)?;
        if let Some(report) = self.reuse(&identity, &preview, &states, &tags).await? {
            return Ok(report);
        }
        self.transfer(source, preview, states, tags).await
    }

    fn tags(&self) -> Vec<Tag> {
        let mut tags = Vec::new();
        for tag in &self.request.tags {
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        if tags.is_empty()
            && let Ok(latest) = "latest".parse()
        {
            self.events.notice("no tag was given: the tag is `latest`");
            tags.push(latest);
        }
        tags
    }

    /// Ends the push at once if the registry has the image already, whole.
    async fn reuse(
        &self,
        identity: &Identity,
        preview: &Preview,
        states: &[TagState],
        tags: &[Tag],
    ) -> Result<Option<PushReport>> {
        let Some(manifest) = plan::existing(identity, states) else { return Ok(None) };
        let Some(blobs) = self.is_whole(manifest).await? else { return Ok(None) };
        let contents = contents_of(manifest).unwrap_or_else(|| preview.contents.clone());
        self.events.notice(format!("the registry has this image already, as {}", manifest.digest));
        let skipped = |blob: &Descriptor| BlobReport {
            digest: blob.digest,
            diff_id: None,
            size: blob.size,
            action: BlobAction::Skipped,
        };
        let reports = blobs.iter().map(skipped).collect();
        let mut digest = manifest.digest;
        if !self.request.dry_run {
            let identity = Identity { root: Some(manifest.digest), config: identity.config };
            digest = self.publish(std::slice::from_ref(manifest), &identity, states, tags).await?.unwrap_or(digest);
        }
        let mut report = self.report(digest, tags, contents, reports);
        report.existed = true;
        Ok(Some(report))
    }

    /// The blobs of an image or index that the registry has, if it has all of them: a manifest alone proves nothing where
    /// blobs can be deleted.
    async fn is_whole(&self, root: &Manifest) -> Result<Option<Vec<Descriptor>>> {
        let Some(blobs) = self.blobs_of(root).await? else { return Ok(None) };
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let present = self.destination.present_of(&digests, &self.retry).await?;
        Ok(digests.iter().all(|digest| present.contains(digest)).then_some(blobs))
    }

    /// Puts manifests and tags. Answers the digest of the first tag given, which is "the" reference.
    async fn publish(
        &self,
        manifests: &[Manifest],
        identity: &Identity,
        states: &[TagState],
        tags: &[Tag],
    ) -> Result<Option<Digest>> {
        let digests =
            publish::publish(&self.destination, manifests, identity, states, &self.retry, &self.events).await?;
        let first =
            tags.first().and_then(|first| digests.iter().find(|(tag, _)| tag == first)).map(|(_, digest)| *digest);
        for (tag, digest) in digests.iter().filter(|(_, digest)| first.is_some_and(|first| first != *digest)) {
            self.events.warning(format!("the immutable tag `{tag}` holds the same image in another packing: {digest}"));
        }
        Ok(first)
    }

    /// Every blob of an image or index that the registry has. `None` if a child is not there.
    async fn blobs_of(&self, root: &Manifest) -> Result<Option<Vec<Descriptor>>> {
        let mut open = vec![root.clone()];
        let mut blobs: Vec<Descriptor> = Vec::new();
        while let Some(manifest) = open.pop() {
            for blob in manifest.blobs() {
                if !blobs.iter().any(|known| known.digest == blob.digest) {
                    blobs.push(blob.clone());
                }
            }
            let Kind::Index { entries } = &manifest.kind else { continue };
            for entry in entries {
                let reference = entry.descriptor.digest.to_string();
                let found =
                    self.retry.run("read manifest", || self.destination.repository.manifest(&reference)).await?;
                // By its digest, or an answer that names itself would be followed for ever.
                let child =
                    found.filter(|found| found.digest == entry.descriptor.digest).and_then(|found| found.manifest);
                let Some(child) = child else { return Ok(None) };
                open.push(child);
            }
        }
        Ok(Some(blobs))
    }

    async fn transfer(
        &self,
        source: Box<dyn Source>,
        preview: Preview,
        states: Vec<TagState>,
        tags: Vec<Tag>,
    ) -> Result<PushReport> {
        let mut uploads = Uploads::new(
            self.destination.clone(),
            self.retry.clone(),
            self.events.clone(),
            self.request.jobs,
            self.request.dry_run,
        );
        if let Some(count) = preview.layers {
            self.events.emit(Event::Layers { count });
        }
        uploads.ask_ahead(&preview.blobs).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(uploads.lanes() + 1));
        let intake = self.intake(sender, Arc::clone(&stop), Arc::clone(&slots), &states)?;
        self.events.emit(Event::Phase("waiting for the source".to_owned()));
        let mut reading = tokio::task::spawn_blocking(move || {
            let mut intake = intake;
            let image = source.read(&mut intake)?;
            // Dropping the sender tells the uploads that nothing more comes.
            Ok::<_, Error>((image, std::mem::take(&mut intake.compressed)))
        });
        // Whoever drops the push ends its parts too.
        let _guard = StopOnDrop(Arc::clone(&stop), Arc::clone(&slots));
        let mut sending = AbortOnDropHandle::new(tokio::spawn(uploads.clone().run(receiver)));
        let ((image, compressed), mut blobs) = tokio::select! {
            read = &mut reading => match flatten(read) {
                Ok(read) => (read, flatten(sending.await)?),
                Err(error) => return Err(error),
            },
            sent = &mut sending => match flatten(sent) {
                Ok(blobs) => (flatten(reading.await)?, blobs),
                Err(error) => return Err(error),
            },
        };
        let (manifests, contents, identity) = self.assemble(image, &compressed, &uploads, &mut blobs, &preview).await?;
        let root = manifests.last().map(|root| root.digest).unwrap_or_else(|| Digest::of(b""));
        plan::refuse_moves(&identity, &states, &self.destination.uri)?;
        let mut report = self.report(root, &tags, contents, blobs);
        // The image may be there under one of the tags, packed by another program: then it stays as it is.
        let there = if identity.config.is_some() { plan::existing(&identity, &states) } else { None };
        let there = match there {
            Some(manifest) if self.is_whole(manifest).await?.is_some() => Some(manifest),
            _ => None,
        };
        let manifests = there.map_or(manifests.as_slice(), std::slice::from_ref);
        report.digest = manifests.last().map_or(report.digest, |root| root.digest);
        if self.request.dry_run {
            return Ok(report);
        }
        self.events.emit(Event::Phase("publishing".to_owned()));
        report.digest = self.publish(manifests, &identity, &states, &tags).await?.unwrap_or(report.digest);
        report.elapsed = self.started.elapsed();
        report.retries = self.retry.retries();
        Ok(report)
    }

    fn intake(
        &self,
        uploads: mpsc::UnboundedSender<Blob>,
        stop: Arc<AtomicBool>,
        slots: Arc<Semaphore>,
        states: &[TagState],
    ) -> Result<Intake> {
        let (states, repository) = (states.to_vec(), self.destination.uri.clone());
        Ok(Intake {
            compressor: Compressor::new(self.request.threads, self.request.level)?,
            spool: self.spool.clone(),
            runtime: Handle::current(),
            slots,
            uploads,
            stop,
            events: self.events.clone(),
            gate: Box::new(move |image| {
                let refused = plan::refuse_moves(&identity_of(image), &states, &repository);
                async move { refused }.boxed()
            }),
            compressed: HashMap::new(),
            sizes: HashMap::new(),
            holding: None,
            count: 0,
        })
    }

    /// The manifests that go up, after everything else they need was sent.
    async fn assemble(
        &self,
        image: Image,
        compressed: &HashMap<crate::image::DiffId, Descriptor>,
        uploads: &Uploads,
        blobs: &mut Vec<BlobReport>,
        preview: &Preview,
    ) -> Result<(Vec<Manifest>, Contents, Identity)> {
        let identity = identity_of(&image);
        let (config, layers, platform) = match image {
            Image::Manifests { manifests, contents } => {
                self.confirm(manifests.iter().flat_map(Manifest::blobs), blobs)?;
                return Ok((manifests, contents, identity));
            }
            Image::Layers { config, layers, platform } => (config, layers, platform),
        };
        let digest = Digest::of(&config);
        if preview.config_digest.is_some_and(|promised| promised != digest) {
            return Err(Error::new(Side::Source, "check config", "the source changed while it was read")
                .with_hint("push again"));
        }
        let descriptor =
            Descriptor { media_type: MediaType::DOCKER_CONFIG.to_owned(), digest, size: config.len() as u64 };
        let content = Content::Memory(config);
        blobs.push(uploads.one(Blob { digest, content, diff_id: None, _held: None, _slot: None }).await?);
        let lost =
            || Error::new(Side::Local, "make manifest", "a layer that was read is not among those that were sent");
        let layers = layers.iter().map(|layer| match layer {
            LayerRef::Uncompressed(diff_id) => compressed.get(diff_id).cloned().ok_or_else(lost),
            LayerRef::Blob(digest) => {
                let report = blobs.iter().find(|blob| blob.digest == *digest).ok_or_else(lost)?;
                Ok(Descriptor { media_type: MediaType::DOCKER_LAYER.to_owned(), digest: *digest, size: report.size })
            }
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let manifest = docker_manifest(&descriptor, &layers)?;
        self.confirm(manifest.blobs(), blobs)?;
        let identity = Identity { root: Some(manifest.digest), config: Some(digest) };
        Ok((vec![manifest], Contents { platforms: vec![platform], ..Contents::default() }, identity))
    }

    /// Nothing is published before every blob it names was confirmed.
    fn confirm<'a>(&self, needed: impl Iterator<Item = &'a Descriptor>, blobs: &[BlobReport]) -> Result<()> {
        for blob in needed {
            if !blobs.iter().any(|report| report.digest == blob.digest && report.size == blob.size) {
                return Err(Error::new(
                    Side::Source,
                    "confirm blobs",
                    format!(
                        "the manifest names {} with {} bytes, which the source did not deliver",
                        blob.digest, blob.size
                    ),
                ));
            }
        }
        Ok(())
    }

    fn report(&self, digest: Digest, tags: &[Tag], contents: Contents, blobs: Vec<BlobReport>) -> PushReport {
        let ecr = self.destination.ecr.as_ref();
        PushReport {
            repository: self.destination.uri.clone(),
            digest,
            tags: tags.to_vec(),
            registry_id: ecr.and_then(|ecr| ecr.account.as_ref()).map(ToString::to_string),
            region: ecr.map(|ecr| ecr.region.to_string()),
            contents,
            existed: false,
            dry_run: self.request.dry_run,
            blobs,
            elapsed: self.started.elapsed(),
            retries: self.retry.retries(),
            peak_temp_bytes: self.spool.peak(),
            local: None,
        }
    }

    async fn with_identity(&self, error: Error) -> Error {
        match destination::identity(&self.destination).await {
            Some(identity) => error.with_hint(format!("the credentials are those of {}", identity.arn)),
            None => error,
        }
    }
}

/// What an index in the registry holds. An image's manifest does not say what it is for.
fn contents_of(root: &Manifest) -> Option<Contents> {
    let Kind::Index { entries } = &root.kind else { return None };
    let (attestations, images): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|entry| entry.is_attestation);
    let platforms = images.iter().filter_map(|entry| entry.platform.clone()).collect();
    Some(Contents { is_index: true, platforms, attestations: attestations.len(), digest_changed: false })
}

fn identity_of(image: &Image) -> Identity {
    match image {
        Image::Layers { config, .. } => Identity { root: None, config: Some(Digest::of(config)) },
        Image::Manifests { manifests, .. } => Identity { root: manifests.last().map(|root| root.digest), config: None },
    }
}

/// Ends the reading thread: it may be in the middle of a layer, or wait for a place in the spool that nobody will free.
struct StopOnDrop(Arc<AtomicBool>, Arc<Semaphore>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.close();
    }
}

fn flatten<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|error| Error::new(Side::Local, "push", "a part of the push ended early").with_source(error))?
}
