//! One push, from a plain request to a report.
//!
//! The destination is opened while the source is found; what is known of the image beforehand decides whether anything
//! need be read at all. Then one thread reads and compresses, tasks send, and the manifests and tags come last.

mod destination;
mod explain;
mod intake;
mod learn;
mod limits;
mod local;
mod memory;
mod mismatch;
mod mounts;
mod open;
mod plan;
mod publish;
mod request;
mod spool;
#[cfg(test)]
mod tests_hosts;
mod transfer;
mod uploads;
mod verdicts;
mod verify;
mod visible;
mod whole;

use std::sync::OnceLock;
use std::time::Instant;

pub use destination::DestinationSpec;
pub use local::{LocalImage, Removed};
pub use request::{PushReport, PushRequest, ReuseSettings};
pub use uploads::BlobReport;
pub use verify::{Verified, verify};

use crate::aws::{AwsSettings, is_quota};
use crate::compress::{Codec, Compression};
#[cfg(feature = "containerd")]
use crate::containerd::Containerd;
use crate::engine::Engine;
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::http::Http;
use crate::image::{Digest, Entry, Kind, Manifest, Tag};
use crate::known::{Remembered, Reuse, codec_of};
use crate::retry::RetryBudget;
#[cfg(feature = "containerd")]
use crate::source::ContainerdSource;
use crate::source::{Contents, DockerDaemon, Named, Preview, Source, SourceSpec, open_file};
use destination::Destination;
use memory::Memory;
use plan::{Existing, Identity, TagState};
use whole::whole;

/// How often layers are sent again that the registry confirmed and then turned out to lack. The second time its word is not taken any more.
pub(super) const RESENDS: usize = 2;

/// Pushes one image. Must be called within a multi-threaded tokio runtime.
///
/// # Errors
/// Whatever keeps the image from being pushed. Nothing is tagged before every blob is there; of several tags, those that
/// came before the one that was refused stay.
pub async fn push(request: PushRequest, events: Events) -> Result<PushReport> {
    let started = Instant::now();
    let spool = spool::Spool::new(&request.temp_dir)?;
    let http = Http::new(&request.http)?.with_budget(request.retry_budget);
    let retry = RetryBudget::new(request.retry_budget, events.clone());
    let source = open_source(&request, &events);
    let aws = AwsSettings { creates_repository: request.create_repository, ..request.aws.clone() };
    let destination = Destination::open(&request.destination, &http, &aws, &request.docker_config, &retry, &events);
    let ((source, local), destination) = tokio::try_join!(source, destination)?;

    let memory = Memory::open(&request.reuse, &destination.uri, &events);
    let mut push = Push { request, events, retry, destination, memory, spool, local, started, read: OnceLock::new() };
    match push.run(source).await {
        Ok(mut report) => {
            report.local = push.local.take().filter(|_| !report.dry_run);
            Ok(report)
        }
        Err(error) if is_denial(&error) => Err(push.with_identity(error).await),
        Err(error) => Err(error),
    }
}

async fn open_source(request: &PushRequest, events: &Events) -> Result<(Box<dyn Source>, Option<LocalImage>)> {
    #[cfg(feature = "containerd")]
    if let SourceSpec::Containerd(name) = &request.source {
        let containerd = Containerd::connect(&request.containerd).await?;
        let source = ContainerdSource::open(containerd, name, &request.selection).await?;
        events.notice(format!("source {}", source.describe()));
        events.emit(Event::Detail(format!("layers come from {}", source.door())));
        return Ok((Box::new(source), None));
    }
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
    let source = DockerDaemon::open(engine, name, request.selection.clone(), request.use_engine_store).await?;
    let image = source.image();
    events.notice(format!("source {} of {}, image {}", image.reference, source.engine().describe(), image.id));
    events.emit(Event::Detail(format!("layers come from {}", source.door())));
    let local = LocalImage::new(source.engine().clone(), image.clone());
    Ok((Box::new(source), Some(local)))
}

fn is_denial(error: &Error) -> bool {
    if is_quota(error.code(), error.status(), error.message()) {
        return false;
    }
    error.status() == Some(403) || error.code().is_some_and(|code| code.starts_with("AccessDenied") || code == "DENIED")
}

struct Push {
    request: PushRequest,
    events: Events,
    retry: RetryBudget,
    destination: Destination,
    memory: Memory,
    spool: spool::Spool,
    local: Option<LocalImage>,
    started: Instant,
    /// The image that was read, once one was: what is read again has to be the same.
    read: OnceLock<Named>,
}

impl Push {
    async fn run(&mut self, source: Box<dyn Source>) -> Result<PushReport> {
        if self.request.show_identity
            && let Some(identity) = explain::identity(&self.destination).await
        {
            self.events.notice(format!("the credentials are those of {}", identity.arn));
        }
        let preview = source.preview();
        if self.destination.ecr.is_some() {
            limits::check_preview(&preview)?;
        }
        let tags = self.tags();
        self.events.emit(Event::Phase(format!("checking {}", self.destination.uri)));
        let states = self.look(&preview, &tags).await?;
        let identity = self.identity(&preview);
        plan::refuse_moves(&identity, &states, &self.destination.uri)?;
        match self.reuse(&identity, &preview, &states, &tags).await {
            Ok(Some(report)) => return Ok(report),
            Ok(None) => {}
            Err(error) if error.retry() == Retry::Resend => {
                self.events.warning(format!("{error}; it is sent again"));
                self.destination.forget(false);
            }
            Err(error) => return Err(error),
        }
        if let Some(count) = preview.layers {
            self.events.emit(Event::Layers { count });
        }
        let mut source = source;
        for round in 0..RESENDS {
            let lost = match self.send(source, preview.clone(), &states, &tags).await {
                Err(error) if error.retry() == Retry::Resend => error,
                result => return result,
            };
            let Some(again) = self.reopen(&preview).await else { return Err(lost) };
            self.events.warning(format!("{lost}; it is looked for and sent again"));
            self.destination.forget(round > 0);
            source = again;
        }
        self.send(source, preview, &states, &tags).await.map_err(publish::lost_again)
    }

    /// The transfer, by the fastest way to the layers and if need be by the slower one.
    async fn send(
        &self,
        source: Box<dyn Source>,
        preview: Preview,
        states: &[TagState],
        tags: &[Tag],
    ) -> Result<PushReport> {
        // A way that is fast because it goes around the engine may end where the engine's own does not.
        let slower = source.slower();
        match (self.transfer(source, preview, states, tags).await, slower) {
            (Err(error), Some(slower)) if error.side() == Side::Source => {
                self.events.notice(format!("the engine is asked for the image instead: {error}"));
                let preview = slower.preview();
                self.transfer(slower, preview, states, tags).await
            }
            (result, _) => result,
        }
    }

    /// The same image once more, if it can be read again and still is the same.
    async fn reopen(&self, preview: &Preview) -> Option<Box<dyn Source>> {
        if !self.request.source.can_be_read_again() {
            return None;
        }
        let mut request = self.request.clone();
        if let (SourceSpec::Daemon(_), Some(image)) = (&request.source, &self.local) {
            // By its ID: the name may mean another image by now.
            request.source = SourceSpec::Daemon(image.id().to_owned());
        }
        let (source, _) = open_source(&request, &Events::none()).await.ok()?;
        let again = source.preview();
        let is_same = |first: Option<Digest>, second: Option<Digest>| first.is_none() || first == second;
        let same = is_same(preview.root_digest, again.root_digest)
            && is_same(preview.config_digest, again.config_digest)
            && preview.diff_ids == again.diff_ids;
        same.then_some(source)
    }

    /// The questions that come before anything is read: is the repository there, what do the tags point at? No more than are needed.
    async fn look(&self, preview: &Preview, tags: &[Tag]) -> Result<Vec<TagState>> {
        let tags = plan::order(tags);
        let is_usable = |known: &Remembered| {
            // What is looked into first is not there yet.
            self.request.reuse.policy != Reuse::Verify
                && self.codec().is_none_or(|codec| codec_of(&known.pair.blob.media_type) == Some(codec))
        };
        let known: Vec<Option<Digest>> = preview
            .diff_ids
            .iter()
            .map(|layer| self.memory.find(layer).into_iter().find(is_usable).map(|known| known.pair.blob.digest))
            .collect();
        let has_pushed = preview.root_digest.is_some_and(|root| self.memory.has_pushed(&root));
        let is_complete = match preview.blobs.is_empty() {
            true => !known.is_empty() && known.iter().all(Option::is_some),
            false => has_pushed,
        };
        let mut probe: Vec<Digest> = preview.config_digest.into_iter().chain(preview.blobs.iter().copied()).collect();
        probe.extend(known.into_iter().flatten());
        if probe.is_empty() {
            probe.push(preview.root_digest.unwrap_or_else(|| Digest::of(b"")));
        }
        let (create, dry_run) = (self.request.create_repository, self.request.dry_run);
        let ensure = || self.destination.ensure_repository(&probe, create, dry_run);
        let identity = self.identity(preview);
        let read = || self.destination.tags(&tags, &identity, &self.retry);
        if self.memory.has_put(&tags) {
            // Most likely the same again: the tags say so, and that the repository is there.
            let states = read().await?;
            if plan::existing(&identity, &states).is_none() {
                ensure().await?;
            }
            return Ok(states);
        }
        // Of several tags, none may be put before it is known that all may move.
        if is_complete && tags.len() == 1 && !dry_run {
            ensure().await?;
            let present = self.destination.present_of(&probe, &self.retry).await?;
            if probe.iter().all(|digest| present.contains_key(digest)) {
                // Nothing will be sent, so that no tag's state could spare anything. The registry refuses what must not move.
                let unread = |tag| TagState { tag, found: None, read_at: None, immutable: false };
                return Ok(tags.into_iter().map(unread).collect());
            }
            return read().await;
        }
        let (ensured, states) = tokio::join!(ensure(), read());
        ensured?;
        states
    }

    /// What makes an image in the registry the same as ours. A config alone does only where the word of others is taken for the
    /// layers that go with it.
    fn identity(&self, preview: &Preview) -> Identity {
        Identity {
            root: preview.root_digest,
            config: preview.config_digest.filter(|_| self.request.reuse.policy == Reuse::Registry),
            layers: preview.diff_ids.clone(),
            codec: self.codec(),
        }
    }

    /// The codec that the user asked for.
    fn codec(&self) -> Option<Codec> {
        self.request.compression.map(Compression::codec)
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
        let by_tag = plan::existing(identity, states);
        let by_digest = if by_tag.is_none() { self.by_digest(preview).await? } else { None };
        let by_digest = by_digest.as_ref().map(|manifest| Existing { manifest, fixed: None });
        let Some(there) = by_tag.or(by_digest) else { return Ok(None) };
        let manifest = there.manifest;
        // What this host has put there itself was whole then, and registries keep what an image needs. Another's is looked at.
        let is_own = self.memory.put(tags, &manifest.digest);
        let blobs = match is_own {
            true => Some(manifest.blobs().cloned().collect()),
            false => whole(&self.destination, manifest, &self.retry).await?,
        };
        let Some(blobs) = blobs else { return Ok(None) };
        let contents = contents_of(manifest).unwrap_or_else(|| preview.contents.clone());
        self.events.notice(format!("the registry has this image already, as {}", manifest.digest));
        self.warn_if_fixed(&there);
        let mut report = self.report(manifest.digest, tags, contents, Vec::new());
        report.turn_into(manifest.digest, &blobs);
        report.existed = true;
        if !self.request.dry_run {
            let identity = Identity { root: Some(manifest.digest), ..identity.clone() };
            self.publish(std::slice::from_ref(manifest), &identity, states, &mut report).await?;
            self.finish(&mut report);
        }
        Ok(Some(report))
    }

    /// Says that the codec that was asked for is not what the tags hold.
    fn warn_if_fixed(&self, there: &Existing<'_>) {
        if let Some(tag) = there.fixed {
            self.events.warning(format!(
                "the immutable tag `{tag}` holds the same image in another packing: {}; it stays so, and nothing is packed anew",
                there.manifest.digest
            ));
        }
    }

    /// The manifest that an engine with the containerd store names, if the repository has it under whatever tag: that spares an export.
    async fn by_digest(&self, preview: &Preview) -> Result<Option<Manifest>> {
        let Some(root) = preview.root_digest.filter(|_| preview.blobs.is_empty()) else { return Ok(None) };
        let found = self.destination.repository.manifest(&root.to_string()).await;
        // Who may not read pushes without.
        Ok(found.ok().flatten().filter(|found| found.digest == root).and_then(|found| found.manifest))
    }

    /// Puts manifests and tags. The report becomes that of what the first tag holds, which is "the" reference.
    async fn publish(
        &self,
        manifests: &[Manifest],
        identity: &Identity,
        states: &[TagState],
        report: &mut PushReport,
    ) -> Result<()> {
        let Some(root) = manifests.last().map(|root| root.digest) else { return Ok(()) };
        let publish = publish::Publish {
            destination: &self.destination,
            manifests,
            identity,
            wait: self.request.wait_visible,
            retry: &self.retry,
            events: &self.events,
        };
        let points = publish.run(states).await?;
        for point in &points {
            // What an immutable tag holds in another packing is not what was confirmed here.
            if point.found.digest == root {
                self.memory.remember_tag(&point.tag, root);
                continue;
            }
            let (tag, digest) = (&point.tag, point.found.digest);
            self.events.warning(format!("the immutable tag `{tag}` holds the same image in another packing: {digest}"));
        }
        let first = report.tags.first().and_then(|first| points.iter().find(|point| point.tag == *first));
        if let Some(manifest) =
            first.and_then(|first| first.found.manifest.as_ref()).filter(|found| found.digest != root)
        {
            let blobs = whole(&self.destination, manifest, &self.retry).await?;
            let blobs = blobs.ok_or_else(|| publish::broken(&report.tags[0], manifest, &self.destination.uri))?;
            report.turn_into(manifest.digest, &blobs);
        }
        Ok(())
    }

    /// What is known only at the end.
    fn finish(&self, report: &mut PushReport) {
        report.elapsed = self.started.elapsed();
        report.retries = self.retry.retries();
        report.waited = self.retry.waits().total();
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
            unused: Vec::new(),
            elapsed: self.started.elapsed(),
            retries: self.retry.retries(),
            waited: self.retry.waits().total(),
            peak_temp_bytes: self.spool.peak(),
            local: None,
        }
    }

    async fn with_identity(&self, error: Error) -> Error {
        match explain::identity(&self.destination).await {
            Some(identity) => error.with_note(format!("the credentials are those of {}", identity.arn)),
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
