//! The reading half of a transfer: layers come in from the source, are compressed where needed, and go on to the uploads.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::destination::Destination;
use super::spool::{self, Spool, Spooled};
use super::verdicts::Verdicts;
use crate::compress::{Codec, Compressor, Decoder};
use crate::error::{Error, Result, Side};
use crate::events::{Event, Events};
use crate::image::{DiffId, Digest, Hasher, MediaType};
use crate::retry::RetryBudget;
use crate::source::{Content, Held, Image, LayerSink, StoredLayer};

/// Tells the progress of reading at most so often.
const TELL_EVERY: u64 = 4 << 20;

/// How long a source may wait for what is known of its layers. An engine's export cannot be taken back once it is asked for: the
/// engine writes the whole image to its disk first.
const LEARNING: Duration = Duration::from_secs(1);

/// A blob on its way to the registry.
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) content: Content,
    /// The layer it holds and its media type, where this host has made or unpacked it.
    pub(super) layer: Option<(DiffId, &'static str)>,
    /// Its bytes in the spool, and its place among those in flight: given back when the blob is done.
    pub(super) held: Option<Arc<spool::Held>>,
    pub(super) _slot: Option<OwnedSemaphorePermit>,
}

impl Blob {
    /// A blob that lies where it can be read at any time.
    pub(super) fn stored(digest: Digest, content: Content) -> Self {
        Self { digest, content, layer: None, held: None, _slot: None }
    }

    /// The same bytes once more. They stay where they are until both are gone.
    fn again(&self) -> Self {
        let Self { digest, content, layer, held, .. } = self;
        Self { digest: *digest, content: content.clone(), layer: *layer, held: held.clone(), _slot: None }
    }
}

/// What is kept of a source that cannot be read again, until everything is published: the registry may lose a blob that it has
/// confirmed. It costs no more space than there was, because such a source is held back until its end.
#[derive(Default)]
pub(super) struct Kept(Mutex<Vec<Blob>>);

impl Kept {
    pub(super) fn keep(&self, blob: &Blob) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(blob.again());
    }

    /// Those of these digests that are kept.
    pub(super) fn of(&self, digests: &[Digest]) -> Vec<Blob> {
        let kept = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.iter().filter(|blob| digests.contains(&blob.digest)).map(Blob::again).collect()
    }
}

/// Asked before anything is sent, once it is known what would be pushed. Answers whether anything has to be.
pub(super) type Gate = Box<dyn Fn(&Image) -> BoxFuture<'static, Result<bool>> + Send>;

/// The sink that sources deliver to.
pub(super) struct Intake {
    pub(super) work: Work,
    pub(super) readers: usize,
    pub(super) gate: Gate,
    pub(super) destination: Destination,
    pub(super) retry: RetryBudget,
    pub(super) sizes: HashMap<Digest, u64>,
    /// The layers in blobs that came as they are, and the blobs' media types.
    pub(super) unpacked: HashMap<Digest, (DiffId, &'static str)>,
    pub(super) holding: Option<Vec<Blob>>,
}

/// What those who read layers share.
pub(super) struct Work {
    pub(super) compressor: Compressor,
    pub(super) media_type: &'static str,
    pub(super) verdicts: Verdicts,
    pub(super) spool: Spool,
    pub(super) runtime: Handle,
    /// One permit for each layer in the spool.
    pub(super) slots: Arc<Semaphore>,
    pub(super) uploads: mpsc::UnboundedSender<Blob>,
    /// Where blobs are kept, if the source cannot be read again.
    pub(super) kept: Option<Arc<Kept>>,
    /// Set when the push is over: reading on would be wasted.
    pub(super) stop: Arc<AtomicBool>,
    pub(super) events: Events,
    pub(super) count: AtomicUsize,
}

impl Work {
    fn slot(&self) -> Result<OwnedSemaphorePermit> {
        let slots = Arc::clone(&self.slots);
        self.runtime.block_on(slots.acquire_owned()).map_err(|_| stopped())
    }

    fn send(&self, blob: Blob) {
        if let Some(kept) = &self.kept {
            kept.keep(&blob);
        }
        // The uploads are gone only when they failed; `stop` then ends the reading.
        let _ = self.uploads.send(blob);
    }

    fn watched<'a>(&'a self, content: &'a mut dyn Read, number: usize, layer: Option<DiffId>) -> Watched<'a> {
        Watched { inner: content, work: self, number, layer, untold: 0 }
    }

    fn start(&self, size: u64) -> usize {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.events.emit(Event::LayerStarted { number, size });
        number
    }

    fn finish(&self, number: usize, digest: Digest, size: u64) {
        self.events.emit(Event::LayerFinished { number, digest, size });
    }

    /// What went wrong: the disk, the user's stop, or the source (which then knows more).
    fn reason(&self, writer: &mut spool::Writer, name: &str, size: u64, error: io::Error) -> Error {
        if let Some(failure) = writer.failure(size) {
            return failure;
        }
        if self.stop.load(Ordering::Relaxed) {
            return stopped();
        }
        unreadable(name, error)
    }

    /// Compresses one layer, which is said to be `expected` where that is known. `None` if a blob for it turned up meanwhile.
    fn compress(
        &self,
        name: &str,
        size: u64,
        expected: Option<DiffId>,
        content: &mut dyn Read,
    ) -> Result<Option<(DiffId, Spooled)>> {
        let number = self.start(size);
        let mut hasher = Hasher::default();
        let mut writer = BufWriter::with_capacity(256 * 1024, self.spool.create()?);
        let mut watched = self.watched(content, number, expected);
        let result = self
            .compressor
            .compress(&mut watched, &mut writer, &mut |piece| hasher.update(piece))
            .and_then(|()| writer.flush());
        let (mut writer, _) = writer.into_parts();
        if let Err(error) = result {
            if let Some(reused) = expected.and_then(|expected| self.verdicts.reused(&expected))
                && writer.failure(0).is_none()
            {
                self.finish(number, reused.blob.digest, reused.blob.size);
                return Ok(None);
            }
            return Err(self.reason(&mut writer, name, worst_case(size), error));
        }
        let spooled = writer.finish();
        self.finish(number, spooled.digest, spooled.content.len());
        Ok(Some((DiffId(hasher.finish().0), spooled)))
    }

    /// The blob that a layer became.
    fn made(&self, diff_id: DiffId, spooled: Spooled, slot: Option<OwnedSemaphorePermit>) -> Blob {
        let Spooled { digest, content, held } = spooled;
        Blob { digest, content, layer: Some((diff_id, self.media_type)), held: Some(Arc::new(held)), _slot: slot }
    }

    /// Reads one layer that can be read at any time.
    fn read(&self, layer: &StoredLayer) -> Result<()> {
        let slot = self.slot()?;
        // A blob for it may have turned up during the wait.
        if self.verdicts.is_done(&layer.diff_id) {
            return Ok(());
        }
        let mut content = (layer.open)().map_err(|error| unreadable(&layer.name, error))?;
        let made = self.compress(&layer.name, layer.size, Some(layer.diff_id), &mut content)?;
        let Some((diff_id, spooled)) = made else { return Ok(()) };
        if diff_id != layer.diff_id {
            let (name, expected) = (&layer.name, layer.diff_id);
            let text = format!("{name} is not the one its config names: its diff id is {diff_id}, not {expected}");
            return Err(Error::new(Side::Source, "check layer", text).with_hint("save or copy the image again"));
        }
        self.send(self.made(diff_id, spooled, Some(slot)));
        Ok(())
    }
}

impl Intake {
    /// A place in the spool. While everything is held back there is no bound: nothing would ever leave.
    fn slot(&self) -> Result<Option<OwnedSemaphorePermit>> {
        if self.holding.is_some() { Ok(None) } else { self.work.slot().map(Some) }
    }

    fn pass_on(&mut self, blob: Blob) {
        match &mut self.holding {
            Some(held) => held.push(blob),
            None => self.work.send(blob),
        }
    }
}

fn unreadable(name: &str, error: io::Error) -> Error {
    Error::new(Side::Source, "read layer", format!("{name} cannot be read: {error}")).with_source(error)
}

fn stopped() -> Error {
    Error::new(Side::Local, "read layer", "reading was stopped")
}

/// Room for what gzip may add to bytes that cannot be compressed: 5 bytes for each 64 KiB, and header and trailer. The size is what a
/// tar's header says, which may be anything.
fn worst_case(size: u64) -> u64 {
    size.saturating_add(size / 8192 + 1024)
}

impl LayerSink for Intake {
    fn layer(&mut self, size: u64, promised: Option<DiffId>, content: &mut dyn Read) -> Result<DiffId> {
        let pass = |content: &mut dyn Read, diff_id| {
            io::copy(content, &mut io::sink()).map(|_| diff_id).map_err(|error| unreadable("a layer", error))
        };
        if let Some(promised) = promised.filter(|promised| self.work.verdicts.is_done(promised)) {
            return pass(content, promised);
        }
        let slot = self.slot()?;
        let Some((diff_id, spooled)) = self.work.compress("a layer", size, promised, content)? else {
            return promised.map_or_else(|| Err(stopped()), |promised| pass(content, promised));
        };
        let blob = self.work.made(diff_id, spooled, slot);
        self.pass_on(blob);
        Ok(diff_id)
    }

    fn layers(&mut self, layers: Vec<StoredLayer>) -> Result<()> {
        let waiting = Mutex::new(layers);
        let work = &self.work;
        let next = || work.verdicts.next(&mut waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        // The first failure is the cause. It stops the others in the middle of their layers, and the whole reading with them.
        let cause: Mutex<Option<Error>> = Mutex::new(None);
        let fail = |error| {
            cause.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
            work.stop.store(true, Ordering::Relaxed);
            work.slots.close();
        };
        let read_on = || {
            while !work.stop.load(Ordering::Relaxed)
                && let Some(layer) = next()
            {
                if let Err(error) = work.read(&layer) {
                    fail(error);
                }
            }
        };
        let panicked = thread::scope(|scope| {
            let others: Vec<_> = (1..self.readers).map(|_| scope.spawn(read_on)).collect();
            read_on();
            others.into_iter().filter_map(|other| other.join().err()).count() > 0
        });
        match cause.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(error) => Err(error),
            None if panicked => Err(Error::new(Side::Local, "read layer", "a reading thread ended early")),
            None if work.stop.load(Ordering::Relaxed) => Err(stopped()),
            None => Ok(()),
        }
    }

    fn needed(&mut self, layers: &[DiffId]) -> Vec<DiffId> {
        self.work.verdicts.needed(layers, LEARNING)
    }

    fn config_there(&mut self, digest: &Digest) -> Option<u64> {
        self.work.runtime.block_on(self.destination.size_of(digest, &self.retry))
    }

    fn blob(
        &mut self,
        digest: Option<Digest>,
        size: u64,
        content: &mut dyn Read,
        want_diff_id: bool,
    ) -> Result<(Digest, Option<DiffId>)> {
        let slot = self.slot()?;
        let number = self.work.start(size);
        let mut writer = BufWriter::with_capacity(256 * 1024, self.work.spool.create()?);
        let mut watched = self.work.watched(content, number, None);
        let result = io::copy(&mut watched, &mut writer).and_then(|_| writer.flush());
        let (mut writer, _) = writer.into_parts();
        if let Err(error) = result {
            return Err(self.work.reason(&mut writer, "a layer", size, error));
        }
        let spooled = writer.finish();
        let actual = spooled.digest;
        if let Some(promised) = digest
            && promised != actual
        {
            return Err(Error::new(
                Side::Source,
                "check blob",
                format!("the blob {promised} is damaged: its bytes have the digest {actual}"),
            )
            .with_hint("save or copy the image again"));
        }
        let mut layer = None;
        if want_diff_id {
            let found = unpacked(&spooled.content)?;
            self.unpacked.insert(actual, found);
            layer = Some(found);
        }
        let diff_id = layer.map(|(diff_id, _)| diff_id);
        self.work.finish(number, actual, size);
        if self.sizes.insert(actual, size).is_none() {
            let Spooled { digest, content, held } = spooled;
            self.pass_on(Blob { digest, content, layer, held: Some(Arc::new(held)), _slot: slot });
        }
        Ok((actual, diff_id))
    }

    fn stored(&mut self, digest: Digest, content: Content) {
        if self.sizes.insert(digest, content.len()).is_none() {
            self.work.send(Blob::stored(digest, content));
        }
    }

    fn hold(&mut self) {
        self.holding = Some(Vec::new());
    }

    fn release(&mut self, image: &Image, needed: &dyn Fn(&Held) -> bool) -> Result<()> {
        let is_needed = self.work.runtime.block_on((self.gate)(image))?;
        for blob in self.holding.take().into_iter().flatten() {
            if is_needed && needed(&Held { digest: blob.digest, diff_id: blob.layer.map(|(diff_id, _)| diff_id) }) {
                self.work.send(blob);
            }
        }
        Ok(())
    }
}

/// The diff id of a compressed layer, and its media type.
fn unpacked(content: &Content) -> Result<(DiffId, &'static str)> {
    let unreadable = |error: io::Error| {
        Error::new(Side::Local, "check layer", format!("a temporary file cannot be read: {error}")).with_source(error)
    };
    let mut magic = [0; 4];
    let n = content.read_at(&mut magic, 0).map_err(unreadable)?;
    let is_zstd = magic[..n] == [0x28, 0xb5, 0x2f, 0xfd];
    let (codec, media_type) =
        if is_zstd { (Codec::Zstd, MediaType::OCI_LAYER_ZSTD) } else { (Codec::Gzip, MediaType::DOCKER_LAYER) };
    let reader = io::BufReader::with_capacity(256 * 1024, content.reader().map_err(unreadable)?);
    let diff_id = Decoder::new(codec, reader).and_then(DiffId::of).map_err(|error| {
        Error::new(Side::Source, "check layer", format!("a compressed layer cannot be unpacked: {error}"))
            .with_source(error)
            .with_hint("save or copy the image again; layers of other formats than gzip and zstd cannot be checked")
    })?;
    Ok((diff_id, media_type))
}

/// Counts what is read, and ends it when it is not wanted any more.
struct Watched<'a> {
    inner: &'a mut dyn Read,
    work: &'a Work,
    number: usize,
    layer: Option<DiffId>,
    untold: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.work.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("reading was stopped"));
        }
        let n = self.inner.read(buffer)?;
        self.untold += n as u64;
        if self.untold >= TELL_EVERY || n == 0 {
            self.work.events.emit(Event::LayerRead { number: self.number, bytes: self.untold });
            self.untold = 0;
            if self.layer.is_some_and(|layer| self.work.verdicts.reused(&layer).is_some()) {
                return Err(io::Error::other("the registry has this layer already"));
            }
        }
        Ok(n)
    }
}
