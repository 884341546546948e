//! The transfer: one thread reads, some compress, tasks ask and send; then the manifest is made and everything is published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::destination::Destination;
use super::intake::{Blob, Intake, Kept, Work};
use super::learn::{Learn, Wish};
use super::limits;
use super::mounts::Mounts;
use super::plan::{self, Existing, Identity, TagState};
use super::publish;
use super::uploads::{Known, Origins, Uploads};
use super::verdicts::Verdicts;
use super::whole::whole;
use super::{BlobReport, Push, PushReport, RESENDS};
use crate::compress::{Codec, Compressor};
use crate::error::{Error, Result, Retry, Side};
use crate::events::{BlobAction, Event};
use crate::image::{Descriptor, DiffId, Digest, Manifest, MediaType, Tag, image_manifest};
use crate::retry::RetryBudget;
use crate::source::{Chosen, ConfigBlob, Content, Contents, Image, LayerRef, Named, Preview, Source};

/// Layers that are read at a time where the source allows it. More than that many readers only wait for the compressing threads.
const READERS: usize = 4;

impl Push {
    /// Reads what the registry lacks, sends it, and puts manifests and tags.
    pub(super) async fn transfer(
        &self,
        source: Box<dyn Source>,
        preview: Preview,
        states: &[TagState],
        tags: &[Tag],
    ) -> Result<PushReport> {
        let present = self.destination.present_of(&preview.blobs, &self.retry).await?;
        let unknown = preview.diff_ids.iter().filter(|layer| self.memory.find(layer).is_empty()).count();
        let _opening = self.open_connections(preview.blobs.len().saturating_sub(present.len()) + unknown);
        // The search is a matter of speed: it tries nothing again, and uses up nothing of the push's budget.
        let once = RetryBudget::new(Duration::ZERO, self.events.clone());
        let mounts = Mounts::new(&self.destination, &self.request.reuse.mount_from, &once, &self.events);
        let verdicts = Verdicts::new(&preview.diff_ids);
        let known = Known { mounts: mounts.clone(), memory: self.memory.clone(), verdicts: verdicts.clone() };
        let _learning = AbortOnDropHandle::new(tokio::spawn(
            self.learn(&preview, known.clone(), once)
                .run(states.iter().map(|state| (state.tag.clone(), state.found.clone())).collect()),
        ));
        let uploads = Uploads::new(
            self.destination.clone(),
            self.retry.clone(),
            self.events.clone(),
            self.request.jobs,
            self.request.dry_run,
            known,
            Origins {
                source: self.request.source.to_string(),
                began: SystemTime::now().checked_sub(self.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH),
            },
        );
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = mpsc::unbounded_channel();
        let slots = Arc::new(Semaphore::new(uploads.lanes() + 1));
        let kept = (!self.request.source.can_be_read_again()).then(Arc::<Kept>::default);
        let mut intake = self.intake(sender, Arc::clone(&stop), Arc::clone(&slots), &verdicts, states)?;
        intake.work.kept = kept.clone();
        self.events.emit(Event::Phase("waiting for the source".to_owned()));
        let promised = Named::of(&preview, self.request.selection.platform.as_ref());
        let mut reading = tokio::task::spawn_blocking(move || {
            let Chosen { named, image } = source.read(&mut intake)?;
            named.check(&image)?;
            promised.check(&image)?;
            // Dropping the sender tells the uploads that nothing more comes.
            Ok::<_, Error>((image, std::mem::take(&mut intake.unpacked)))
        });
        // Whoever drops the push ends its parts too.
        let _guard = StopOnDrop(Arc::clone(&stop), Arc::clone(&slots));
        let mut sending = AbortOnDropHandle::new(tokio::spawn(uploads.clone().run(receiver)));
        let ((image, unpacked), mut blobs) = tokio::select! {
            read = &mut reading => match flatten(read) {
                Ok(read) => (read, flatten(sending.await)?),
                Err(error) => return Err(error),
            },
            sent = &mut sending => match flatten(sent) {
                Ok(blobs) => (flatten(reading.await)?, blobs),
                Err(error) => return Err(error),
            },
        };
        // Also where nothing was promised, as of a stream that was opened again.
        self.read.get_or_init(|| Named::of_image(&image)).check(&image)?;
        if self.destination.ecr.is_some() {
            limits::check_image(&image)?;
        }
        blobs.extend(verdicts.reports());
        let identity = self.identity_of(&image);
        plan::refuse_moves(&identity, states, &self.destination.uri)?;
        // The image may be there under one of the tags, packed by another program: then it stays as it is.
        if let Some((there, needed)) = there(&self.destination, &identity, states, &self.retry).await? {
            self.warn_if_fixed(&there);
            let manifest = there.manifest;
            let mut report = self.report(manifest.digest, tags, contents_of(image), blobs);
            report.turn_into(manifest.digest, &needed);
            let identity = Identity { root: Some(manifest.digest), ..identity };
            let sent = Sent { uploads: &uploads, kept: kept.as_deref() };
            return self.publish_transfer(std::slice::from_ref(manifest), &identity, states, report, sent).await;
        }
        let made = Made { unpacked, verdicts: &verdicts, kept: kept.as_deref() };
        let (manifests, contents, identity) = self.assemble(image, &made, &uploads, &mut blobs).await?;
        mounts.tell().await;
        // As the manifests name them, whichever was done first.
        let order: Vec<Digest> = manifests.iter().flat_map(Manifest::blobs).map(|blob| blob.digest).collect();
        blobs.sort_by_key(|report| order.iter().position(|digest| *digest == report.digest));
        let root = manifests.last().map(|root| root.digest).unwrap_or_else(|| Digest::of(b""));
        plan::refuse_moves(&identity, states, &self.destination.uri)?;
        let report = self.report(root, tags, contents, blobs);
        let sent = Sent { uploads: &uploads, kept: kept.as_deref() };
        self.publish_transfer(&manifests, &identity, states, report, sent).await
    }

    fn identity_of(&self, image: &Image) -> Identity {
        plan::identity_of(image, self.request.reuse.policy, self.codec())
    }

    /// The end of a transfer.
    async fn publish_transfer(
        &self,
        manifests: &[Manifest],
        identity: &Identity,
        states: &[TagState],
        mut report: PushReport,
        sent: Sent<'_>,
    ) -> Result<PushReport> {
        if self.request.dry_run {
            return Ok(report);
        }
        self.events.emit(Event::Phase("publishing".to_owned()));
        self.publish_or_mend(manifests, identity, states, &mut report, sent).await?;
        if report.blobs.iter().any(|blob| blob.action == BlobAction::Sent) {
            self.memory.prune();
        }
        self.finish(&mut report);
        Ok(report)
    }

    /// Publishes. What the registry has lost meanwhile is sent once more from what is `kept`; where nothing is, the caller reads the
    /// source again.
    async fn publish_or_mend(
        &self,
        manifests: &[Manifest],
        identity: &Identity,
        states: &[TagState],
        report: &mut PushReport,
        sent: Sent<'_>,
    ) -> Result<()> {
        let needed: Vec<Digest> = manifests.iter().flat_map(Manifest::blobs).map(|blob| blob.digest).collect();
        for round in 0..RESENDS {
            let (error, blobs) = match (self.publish(manifests, identity, states, report).await, sent.kept) {
                (Err(error), Some(kept)) if error.retry() == Retry::Resend => (error, kept.of(&needed)),
                (result, _) => return result,
            };
            self.events.warning(format!("{error}; it is looked for and sent again"));
            self.destination.forget(round > 0);
            for blob in blobs {
                sent.uploads.one(blob).await?;
            }
        }
        self.publish(manifests, identity, states, report).await.map_err(publish::lost_again)
    }

    /// Connections for the uploads to come, where nothing else opens them: ECR is asked for layers at another host.
    fn open_connections(&self, uploads: usize) -> Option<AbortOnDropHandle<()>> {
        if self.destination.ecr.is_none() || self.request.dry_run || uploads < 2 {
            return None;
        }
        let (repository, count) = (self.destination.repository.clone(), uploads.min(self.request.jobs));
        Some(AbortOnDropHandle::new(tokio::spawn(async move { repository.open_connections(count).await })))
    }

    fn learn(&self, preview: &Preview, known: Known, retry: RetryBudget) -> Learn {
        let reuse = &self.request.reuse;
        let codec = self.codec();
        Learn {
            wish: Wish { reuse: reuse.policy, from: reuse.from.clone(), codec, platform: preview.platform.clone() },
            destination: self.destination.clone(),
            known,
            retry,
            events: self.events.clone(),
            dry_run: self.request.dry_run,
            refused: Mutex::default(),
        }
    }

    fn intake(
        &self,
        uploads: mpsc::UnboundedSender<Blob>,
        stop: Arc<AtomicBool>,
        slots: Arc<Semaphore>,
        verdicts: &Verdicts,
        states: &[TagState],
    ) -> Result<Intake> {
        let (states, destination, retry) = (states.to_vec(), self.destination.clone(), self.retry.clone());
        let codec = self.codec();
        let compression = self.request.compression.unwrap_or_default();
        let readers = self.request.threads.clamp(1, READERS);
        let policy = self.request.reuse.policy;
        let is_ecr = self.destination.ecr.is_some();
        Ok(Intake {
            work: Work {
                compressor: Compressor::new(compression, self.request.threads, readers)?,
                media_type: media_type(compression.codec()),
                verdicts: verdicts.clone(),
                spool: self.spool.clone(),
                runtime: Handle::current(),
                slots,
                uploads,
                kept: None,
                stop,
                events: self.events.clone(),
                count: AtomicUsize::new(0),
            },
            readers,
            gate: Box::new(move |image| {
                let identity = plan::identity_of(image, policy, codec);
                let limits = if is_ecr { limits::check_image(image) } else { Ok(()) };
                let refused = limits.and_then(|()| plan::refuse_moves(&identity, &states, &destination.uri));
                let (states, destination, retry) = (states.clone(), destination.clone(), retry.clone());
                async move {
                    refused?;
                    Ok(there(&destination, &identity, &states, &retry).await?.is_none())
                }
                .boxed()
            }),
            destination: self.destination.clone(),
            retry: self.retry.clone(),
            sizes: HashMap::new(),
            unpacked: HashMap::new(),
            holding: None,
        })
    }

    /// The manifests that go up, after everything else they need was sent.
    async fn assemble(
        &self,
        image: Image,
        made: &Made<'_>,
        uploads: &Uploads,
        blobs: &mut Vec<BlobReport>,
    ) -> Result<(Vec<Manifest>, Contents, Identity)> {
        let identity = self.identity_of(&image);
        let (config, layers, platform) = match image {
            Image::Manifests { manifests, contents } => {
                confirm(manifests.iter().flat_map(Manifest::blobs), blobs)?;
                return Ok((manifests, contents, identity));
            }
            Image::Layers { config, layers, platform, .. } => (config, layers, platform),
        };
        let digest = config.digest();
        let sent = match config {
            ConfigBlob::Bytes(bytes) => {
                let blob = Blob::stored(digest, Content::Memory(bytes));
                made.kept.iter().for_each(|kept| kept.keep(&blob));
                uploads.one(blob).await?
            }
            ConfigBlob::There { size, .. } => {
                let action = BlobAction::Skipped;
                self.events.emit(Event::BlobDone { digest, size, action });
                BlobReport { digest, diff_id: None, size, action, reused_from: None }
            }
        };
        let descriptor = Descriptor { media_type: MediaType::DOCKER_CONFIG.to_owned(), digest, size: sent.size };
        blobs.push(sent);
        let layers = layers.iter().map(|layer| made.descriptor(layer, blobs)).collect::<Result<Vec<_>>>()?;
        let manifest = image_manifest(&descriptor, &layers)?;
        confirm(manifest.blobs(), blobs)?;
        let identity = Identity { root: Some(manifest.digest), ..identity };
        Ok((vec![manifest], Contents { platforms: vec![platform], ..Contents::default() }, identity))
    }
}

/// The image in the registry that already is the one to be pushed, if it is whole; and its blobs.
async fn there<'a>(
    destination: &Destination,
    identity: &Identity,
    states: &'a [TagState],
    retry: &RetryBudget,
) -> Result<Option<(Existing<'a>, Vec<Descriptor>)>> {
    let Some(there) = plan::existing(identity, states) else { return Ok(None) };
    Ok(whole(destination, there.manifest, retry).await?.map(|blobs| (there, blobs)))
}

/// What an image that was read holds.
fn contents_of(image: Image) -> Contents {
    match image {
        Image::Manifests { contents, .. } => contents,
        Image::Layers { platform, .. } => Contents { platforms: vec![platform], ..Contents::default() },
    }
}

/// Who sends, and what can be sent again.
#[derive(Clone, Copy)]
struct Sent<'a> {
    uploads: &'a Uploads,
    kept: Option<&'a Kept>,
}

/// What became of the layers.
struct Made<'a> {
    unpacked: HashMap<Digest, (DiffId, &'static str)>,
    verdicts: &'a Verdicts,
    kept: Option<&'a Kept>,
}

impl Made<'_> {
    fn descriptor(&self, layer: &LayerRef, blobs: &[BlobReport]) -> Result<Descriptor> {
        let found = match layer {
            LayerRef::Uncompressed(diff_id) => self.verdicts.blob(diff_id),
            LayerRef::Blob(digest) => {
                let known = self.unpacked.get(digest);
                let sent = blobs.iter().find(|blob| blob.digest == *digest).map(|blob| Descriptor {
                    media_type: known.map_or(MediaType::DOCKER_LAYER, |(_, media_type)| media_type).to_owned(),
                    digest: *digest,
                    size: blob.size,
                });
                // It was not sent if another blob took the layer's place.
                sent.or_else(|| self.verdicts.blob(&known?.0))
            }
        };
        found.ok_or_else(|| {
            Error::new(Side::Local, "make manifest", "a layer that was read is not among those that were sent")
        })
    }
}

/// What a layer is called that is compressed here. gzip has a name in both worlds, the others only in OCI's.
fn media_type(codec: Codec) -> &'static str {
    match codec {
        Codec::Gzip => MediaType::DOCKER_LAYER,
        Codec::Zstd => MediaType::OCI_LAYER_ZSTD,
        Codec::None => MediaType::OCI_LAYER,
    }
}

/// Nothing is published before every blob it names was confirmed.
fn confirm<'a>(needed: impl Iterator<Item = &'a Descriptor>, blobs: &[BlobReport]) -> Result<()> {
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
