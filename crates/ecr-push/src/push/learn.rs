//! Finds blobs that hold the image's layers already: in this host's cache, in images of the repository, in other repositories.
//!
//! All of it is a matter of speed. It runs beside the first work, asks each question once and for a short time, and whatever cannot
//! be asked, read or believed is a detail in the log.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{StreamExt, iter};

use super::destination::Destination;
use super::uploads::Known;
use super::verdicts::{Reused, Verdicts};
use crate::compress::{Codec, Decoder};
use crate::error::{Error, Result, Side};
use crate::events::{BlobAction, Event, Events};
use crate::image::{DiffId, Digest, Kind, Manifest, Platform, Tag};
use crate::known::{Origin, Pair, Reuse, codec_of, pairs_of};
use crate::registry::Found;
use crate::retry::RetryBudget;

/// How long a manifest may take, and a config, which ECR hands out from S3.
const MANIFEST: Duration = Duration::from_secs(3);
const CONFIG: Duration = Duration::from_secs(1);

/// The largest config that is read.
const LARGEST_CONFIG: usize = 8 << 20;

/// How many of the newest images are read.
const NEWEST: usize = 3;

/// Images that are read at a time.
const AT_ONCE: usize = 16;

/// How long a blob may take that is read to see what is in it.
const VERIFY: Duration = Duration::from_secs(600);

/// What is wanted.
pub(super) struct Wish {
    pub(super) reuse: Reuse,
    /// Tags whose images are read besides the target's own and `latest`.
    pub(super) from: Vec<Tag>,
    /// The codec that the user asked for; without it, any will do.
    pub(super) codec: Option<Codec>,
    pub(super) platform: Option<Platform>,
}

/// One search for blobs.
pub(super) struct Learn {
    pub(super) wish: Wish,
    pub(super) destination: Destination,
    pub(super) known: Known,
    pub(super) retry: RetryBudget,
    pub(super) events: Events,
    pub(super) dry_run: bool,
    /// Pairs that turned out to be false.
    pub(super) refused: Mutex<HashSet<(DiffId, Digest)>>,
}

/// Blobs that are said to hold layers, the better ones first, and the repositories that are said to have them.
#[derive(Default)]
struct Candidates(HashMap<DiffId, Vec<(Pair, Vec<String>)>>);

impl Candidates {
    fn add(&mut self, pair: Pair, places: Vec<String>) {
        let list = self.0.entry(pair.diff_id).or_default();
        match list.iter_mut().find(|(known, _)| known.blob.digest == pair.blob.digest) {
            Some((_, known)) => known.extend(places),
            None => list.push((pair, places)),
        }
    }

    fn digests(&self) -> Vec<Digest> {
        self.0.values().flatten().map(|(pair, _)| pair.blob.digest).collect::<HashSet<_>>().into_iter().collect()
    }
}

/// An image to learn from: where it is, what people call it, and its manifest if that was read already.
struct Teacher {
    repository: Destination,
    name: String,
    found: Option<Found>,
    reference: String,
}

impl Learn {
    /// Finds what there is, and settles the verdicts. `read` are tags that were read already.
    pub(super) async fn run(self, read: Vec<(Tag, Option<Found>)>) {
        // However this ends: others wait for it.
        let _settle = Settle(self.known.verdicts.clone());
        if self.wish.reuse != Reuse::Off && !self.known.verdicts.open().is_empty() {
            // What fails here has been said, and the layers stay needed.
            self.search(read).await;
        }
    }

    async fn search(&self, read: Vec<(Tag, Option<Found>)>) {
        let mut candidates = self.remembered();
        self.take(&candidates).await;
        if matches!(self.wish.reuse, Reuse::Registry | Reuse::Verify) && !self.known.verdicts.open().is_empty() {
            let taught = self.ask_images(read).await;
            for (pair, places) in taught {
                candidates.add(pair, places);
            }
            self.take(&candidates).await;
        }
        if !self.dry_run && !self.known.verdicts.open().is_empty() {
            self.mount(&candidates).await;
        }
    }

    /// What the cache says of the open layers.
    fn remembered(&self) -> Candidates {
        let mut candidates = Candidates::default();
        for layer in self.known.verdicts.open() {
            for remembered in self.known.memory.find(&layer) {
                let places = self.known.memory.siblings(&remembered.places);
                candidates.add(remembered.pair, places);
            }
        }
        candidates
    }

    fn is_wanted(&self, pair: &Pair) -> bool {
        let codec = codec_of(&pair.blob.media_type);
        let is_refused = self.refused().contains(&(pair.diff_id, pair.blob.digest));
        !is_refused && self.wish.codec.is_none_or(|wanted| codec == Some(wanted))
    }

    /// Takes those candidates that the repository has.
    async fn take(&self, candidates: &Candidates) {
        let digests = candidates.digests();
        let asked = tokio::time::timeout(MANIFEST, self.destination.present_of(&digests, &self.retry));
        let present = match asked.await {
            Ok(Ok(present)) => present,
            Ok(Err(error)) => return self.detail(format!("known layers cannot be asked for: {error}")),
            Err(_) => return self.detail("the question for known layers was not answered in time".to_owned()),
        };
        for layer in self.known.verdicts.open() {
            for (pair, _) in candidates.0.get(&layer).into_iter().flatten().filter(|(pair, _)| self.is_wanted(pair)) {
                let Some(size) = present.get(&pair.blob.digest) else { continue };
                if !self.is_of_size(pair, *size) || !self.is_true(pair).await {
                    continue;
                }
                self.accept(pair, BlobAction::Skipped);
                break;
            }
        }
    }

    fn accept(&self, pair: &Pair, action: BlobAction) {
        let reused = Reused { blob: pair.blob.clone(), origin: pair.origin.clone(), action };
        if !self.known.verdicts.reuse(&pair.diff_id, reused) {
            return;
        }
        self.destination.note_there(pair.blob.digest, pair.blob.size);
        let (layer, blob) = (pair.diff_id.0.short(), pair.blob.digest.short());
        self.detail(format!("the layer {layer} is in the blob {blob}, says {}", pair.origin));
        self.events.emit(Event::BlobDone { digest: pair.blob.digest, size: pair.blob.size, action });
        self.known.memory.remember(pair);
    }

    /// Mounts those candidates that another repository of the registry has.
    async fn mount(&self, candidates: &Candidates) {
        self.known.mounts.look_for(&candidates.digests()).await;
        let mut tries = Vec::new();
        for layer in self.known.verdicts.open() {
            // One try a layer: each refusal costs a round trip.
            let wanted = candidates.0.get(&layer).into_iter().flatten().filter(|(pair, _)| self.is_wanted(pair));
            let mut wanted = wanted.filter(|(pair, places)| {
                places.iter().for_each(|place| self.known.mounts.note(pair.blob.digest, place));
                self.known.mounts.has_place(&pair.blob.digest)
            });
            tries.extend(wanted.next().map(|(pair, _)| pair));
        }
        let mounted =
            join_all(tries.iter().map(|pair| self.known.mounts.mount(&pair.blob.digest, pair.blob.size))).await;
        let mounted: Vec<&Pair> =
            tries.into_iter().zip(mounted).filter(|(_, mounted)| *mounted).map(|(pair, _)| pair).collect();
        if mounted.is_empty() {
            return;
        }
        let digests: Vec<Digest> = mounted.iter().map(|pair| pair.blob.digest).collect();
        let asked = tokio::time::timeout(MANIFEST, self.destination.sizes_now(&digests, &self.retry));
        let sizes = match asked.await {
            Ok(Ok(sizes)) => sizes,
            Ok(Err(error)) => {
                return self.detail(format!("what was mounted is not used, its size is not known: {error}"));
            }
            Err(_) => {
                return self.detail("what was mounted is not used: the question for its size was late".to_owned());
            }
        };
        for pair in mounted {
            let Some(size) = sizes.get(&pair.blob.digest) else { continue };
            if self.is_of_size(pair, *size) && self.is_true(pair).await {
                self.accept(pair, BlobAction::Mounted);
            }
        }
    }

    /// False if the registry says that the blob has another size than the pair does.
    fn is_of_size(&self, pair: &Pair, size: Option<u64>) -> bool {
        let fits = size.is_none_or(|size| size == pair.blob.size);
        if !fits {
            let digest = pair.blob.digest;
            self.detail(format!("{digest} is not reused: its size is not the one that {} says", pair.origin));
        }
        fits
    }

    /// The pairs that images in the registry vouch for: under the target's tags, `latest`, the tags that were named, the newest ones;
    /// and in the repositories that may be mounted from.
    async fn ask_images(&self, read: Vec<(Tag, Option<Found>)>) -> Vec<(Pair, Vec<String>)> {
        let mut teachers: Vec<Teacher> = Vec::new();
        let mut unread: Vec<String> = Vec::new();
        let named = self.wish.from.iter().map(ToString::to_string).chain(["latest".to_owned()]);
        for tag in named {
            if !unread.contains(&tag) && !read.iter().any(|(known, _)| known.as_str() == tag) {
                unread.push(tag);
            }
        }
        let tags: Vec<String> = read.iter().map(|(tag, _)| tag.to_string()).chain(unread.iter().cloned()).collect();
        for (tag, found) in read {
            if let Some(found) = found {
                let (repository, name) = (self.destination.clone(), tag.to_string());
                teachers.push(Teacher { repository, reference: name.clone(), name, found: Some(found) });
            }
        }
        let teacher = |repository: &Destination, prefix: &str, tag: &String| Teacher {
            repository: repository.clone(),
            name: format!("{prefix}{tag}"),
            found: None,
            reference: tag.clone(),
        };
        teachers.extend(unread.iter().map(|tag| teacher(&self.destination, "", tag)));
        for sibling in self.known.mounts.siblings() {
            let prefix = format!("{}:", sibling.repository.name());
            teachers.extend(tags.iter().map(|tag| teacher(sibling, &prefix, tag)));
        }
        let (tagged, newest) = tokio::join!(
            iter(teachers).map(|teacher| self.learn_from(teacher)).buffered(AT_ONCE).collect::<Vec<_>>(),
            async { self.destination.newest(NEWEST, MANIFEST).await }
        );
        let mut pairs: Vec<_> = tagged.into_iter().flatten().collect();
        let newest = newest.unwrap_or_else(|error| {
            self.detail(format!("the newest images cannot be asked for: {error}"));
            Vec::new()
        });
        // Only if the tags do not say everything already: these are the least likely to.
        let taught: HashSet<DiffId> = pairs.iter().map(|(pair, _)| pair.diff_id).collect();
        if self.known.verdicts.open().iter().any(|layer| !taught.contains(layer)) {
            let teachers = newest.iter().map(|digest| Teacher {
                repository: self.destination.clone(),
                name: digest.short(),
                found: None,
                reference: digest.to_string(),
            });
            pairs.extend(join_all(teachers.map(|teacher| self.learn_from(teacher))).await.into_iter().flatten());
        }
        pairs
    }

    /// The pairs of one image.
    async fn learn_from(&self, teacher: Teacher) -> Vec<(Pair, Vec<String>)> {
        let name = teacher.name.clone();
        match self.pairs(teacher).await {
            Ok(pairs) => pairs,
            Err(why) => {
                self.detail(format!("nothing is reused from {name}: {why}"));
                Vec::new()
            }
        }
    }

    async fn pairs(&self, teacher: Teacher) -> std::result::Result<Vec<(Pair, Vec<String>)>, String> {
        let Teacher { repository, name, found, reference } = teacher;
        let found = match found {
            Some(found) => Some(found),
            None => manifest(&repository, &reference).await?,
        };
        let Some(manifest) = found.and_then(|found| found.manifest) else { return Ok(Vec::new()) };
        let manifest = self.image_of(&repository, manifest).await?;
        let Some(config) = manifest.config_digest() else { return Err("it is an index of indexes".into()) };
        let config = repository.repository.small_blob(&config, LARGEST_CONFIG, CONFIG).await;
        let config = config.map_err(|error| format!("its config cannot be read: {error}"))?;
        let origin = Origin::Image { repository: repository.uri.clone(), name };
        let pairs = pairs_of(&manifest, &config, self.wish.platform.as_ref(), &origin)?;
        // A repository that may be mounted from says so itself.
        let elsewhere = repository.uri != self.destination.uri;
        let places = if elsewhere { vec![repository.repository.name().to_owned()] } else { Vec::new() };
        Ok(pairs.into_iter().map(|pair| (pair, places.clone())).collect())
    }

    /// The image for our platform, if `manifest` is an index.
    async fn image_of(&self, repository: &Destination, root: Manifest) -> std::result::Result<Manifest, String> {
        let Kind::Index { entries } = &root.kind else { return Ok(root) };
        let wanted = self.wish.platform.as_ref();
        let fits = |platform: &Platform| {
            wanted.is_none_or(|wanted| wanted.os == platform.os && wanted.architecture == platform.architecture)
        };
        let entry = entries.iter().find(|entry| entry.platform.as_ref().is_some_and(fits));
        let Some(entry) = entry else { return Err("its index has no image for this platform".into()) };
        let digest = entry.descriptor.digest;
        let found = manifest(repository, &digest.to_string()).await?.filter(|found| found.digest == digest);
        found.and_then(|found| found.manifest).ok_or_else(|| format!("it names the image {digest}, which is not there"))
    }

    fn refused(&self) -> MutexGuard<'_, HashSet<(DiffId, Digest)>> {
        self.refused.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// False for a pair whose blob was looked into, if that is wanted, and holds something else. It is not looked into again.
    async fn is_true(&self, pair: &Pair) -> bool {
        if self.wish.reuse != Reuse::Verify {
            return true;
        }
        let Err(error) = self.verify(pair).await else { return true };
        self.events.warning(format!("{} is not reused: {error}", pair.blob.digest));
        self.refused().insert((pair.diff_id, pair.blob.digest));
        false
    }

    /// Reads the blob and looks what is in it.
    async fn verify(&self, pair: &Pair) -> Result<()> {
        let fail = |text: String| Error::new(Side::Destination, "verify layer", text);
        let codec = codec_of(&pair.blob.media_type).ok_or_else(|| fail("its media type is not known".into()))?;
        let (sender, receiver) = sync_channel::<Bytes>(8);
        let unpacking = tokio::task::spawn_blocking(move || unpack(codec, receiver));
        // The unpacking is slower than many networks: this thread of the runtime waits for it.
        let mut take = |chunk: &Bytes| {
            let sent = tokio::task::block_in_place(|| sender.send(chunk.clone()));
            sent.map_err(|_| fail("it cannot be unpacked".into()))
        };
        let read = self.destination.repository.read_blob(&pair.blob.digest, VERIFY, &mut take).await;
        drop(sender);
        let unpacked = unpacking.await.map_err(|error| fail("reading it ended early".into()).with_source(error))?;
        // If unpacking failed, reading has ended because of it.
        let actual = unpacked.map_err(|error| fail(format!("it cannot be unpacked: {error}")).with_source(error))?;
        let size = read?;
        if size != pair.blob.size {
            return Err(fail(format!("{} says that it has {} bytes, but it has {size}", pair.origin, pair.blob.size)));
        }
        if actual != pair.diff_id {
            let text = format!("{} says that it holds the layer {}, but it holds {actual}", pair.origin, pair.diff_id);
            return Err(fail(text));
        }
        Ok(())
    }

    fn detail(&self, text: String) {
        self.events.emit(Event::Detail(text));
    }
}

struct Settle(Verdicts);

impl Drop for Settle {
    fn drop(&mut self) {
        self.0.settle();
    }
}

async fn manifest(repository: &Destination, reference: &str) -> std::result::Result<Option<Found>, String> {
    match tokio::time::timeout(MANIFEST, repository.repository.manifest(reference)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("its manifest cannot be read: {error}")),
        Err(_) => Err(format!("its manifest did not come within {} s", MANIFEST.as_secs())),
    }
}

fn unpack(codec: Codec, chunks: Receiver<Bytes>) -> io::Result<DiffId> {
    DiffId::of(Decoder::new(codec, Chunks { chunks, rest: Bytes::new() })?)
}

struct Chunks {
    chunks: Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.chunks.recv() {
                Ok(chunk) => self.rest = chunk,
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}
