//! The reading half of a transfer: layers come in from the source, are compressed where needed, and go on to the uploads.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::spool::{self, Spool, Spooled};
use crate::compress::Compressor;
use crate::error::{Error, Result, Side};
use crate::events::{Event, Events};
use crate::image::{Descriptor, DiffId, Digest, Hasher, MediaType};
use crate::source::{Content, Held, Image, LayerSink};

/// Tells the progress of reading at most so often.
const TELL_EVERY: u64 = 4 << 20;

/// A blob on its way to the registry.
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) content: Content,
    /// Its diff id, where it is known.
    pub(super) diff_id: Option<DiffId>,
    /// Its bytes in the spool, and its place among those in flight: given back when the blob is done.
    pub(super) _held: Option<spool::Held>,
    pub(super) _slot: Option<OwnedSemaphorePermit>,
}

/// Asked before anything is sent, once it is known what would be pushed.
pub(super) type Gate = Box<dyn Fn(&Image) -> BoxFuture<'static, Result<()>> + Send>;

/// The sink that sources deliver to.
pub(super) struct Intake {
    pub(super) compressor: Compressor,
    pub(super) spool: Spool,
    pub(super) runtime: Handle,
    /// One permit for each layer in the spool.
    pub(super) slots: Arc<Semaphore>,
    pub(super) uploads: mpsc::UnboundedSender<Blob>,
    /// Set when an upload has failed for good: reading on would be wasted.
    pub(super) stop: Arc<AtomicBool>,
    pub(super) events: Events,
    pub(super) gate: Gate,
    pub(super) compressed: HashMap<DiffId, Descriptor>,
    pub(super) sizes: HashMap<Digest, u64>,
    pub(super) holding: Option<Vec<Blob>>,
    pub(super) count: usize,
}

impl Intake {
    /// A place in the spool. While everything is held back there is no bound: nothing would ever leave.
    fn slot(&self) -> Result<Option<OwnedSemaphorePermit>> {
        if self.holding.is_some() {
            return Ok(None);
        }
        let slots = Arc::clone(&self.slots);
        self.runtime.block_on(slots.acquire_owned()).map(Some).map_err(|_| stopped())
    }

    fn pass_on(&mut self, spooled: Spooled, slot: Option<OwnedSemaphorePermit>, diff_id: Option<DiffId>) {
        let Spooled { digest, content, held } = spooled;
        let blob = Blob { digest, content, diff_id, _held: Some(held), _slot: slot };
        match &mut self.holding {
            Some(held) => held.push(blob),
            None => self.send(blob),
        }
    }

    fn send(&self, blob: Blob) {
        // The uploads are gone only when they failed; `stop` then ends the reading.
        let _ = self.uploads.send(blob);
    }

    fn watched<'a>(&self, content: &'a mut dyn Read, number: usize) -> Watched<'a> {
        Watched { inner: content, stop: Arc::clone(&self.stop), events: self.events.clone(), number, untold: 0 }
    }

    fn start(&mut self, size: u64) -> usize {
        self.count += 1;
        self.events.emit(Event::LayerStarted { number: self.count, size });
        self.count
    }

    fn finish(&self, number: usize, digest: Digest, size: u64) {
        self.events.emit(Event::LayerFinished { number, digest, size });
    }

    /// What went wrong: the disk, the user's stop, or the source (which then knows more).
    fn reason(&self, writer: &mut spool::Writer, size: u64, error: io::Error) -> Error {
        if let Some(failure) = writer.failure(size) {
            return failure;
        }
        if self.stop.load(Ordering::Relaxed) {
            return stopped();
        }
        Error::new(Side::Source, "read layer", format!("a layer cannot be read: {error}")).with_source(error)
    }
}

fn stopped() -> Error {
    Error::new(Side::Local, "read layer", "reading was stopped")
}

/// Room for what gzip may add to bytes that cannot be compressed: 5 bytes for each 64 KiB, and header and trailer.
fn worst_case(size: u64) -> u64 {
    size + size / 8192 + 1024
}

impl LayerSink for Intake {
    fn layer(&mut self, size: u64, content: &mut dyn Read) -> Result<DiffId> {
        let slot = self.slot()?;
        let number = self.start(size);
        let mut hasher = Hasher::default();
        let mut writer = BufWriter::with_capacity(256 * 1024, self.spool.create()?);
        let mut watched = self.watched(content, number);
        let result = self
            .compressor
            .compress(&mut watched, &mut writer, &mut |piece| hasher.update(piece))
            .and_then(|()| writer.flush());
        let (mut writer, _) = writer.into_parts();
        if let Err(error) = result {
            return Err(self.reason(&mut writer, worst_case(size), error));
        }
        let (diff_id, _) = hasher.finish();
        let diff_id = DiffId(diff_id);
        let spooled = writer.finish();
        let size = spooled.content.len();
        let descriptor = Descriptor { media_type: MediaType::DOCKER_LAYER.to_owned(), digest: spooled.digest, size };
        self.finish(number, spooled.digest, size);
        // The same layer twice in one image is sent once.
        if self.compressed.insert(diff_id, descriptor).is_none() {
            self.pass_on(spooled, slot, Some(diff_id));
        }
        Ok(diff_id)
    }

    fn blob(
        &mut self,
        digest: Option<Digest>,
        size: u64,
        content: &mut dyn Read,
        want_diff_id: bool,
    ) -> Result<(Digest, Option<DiffId>)> {
        let slot = self.slot()?;
        let number = self.start(size);
        let mut writer = BufWriter::with_capacity(256 * 1024, self.spool.create()?);
        let mut watched = self.watched(content, number);
        let result = io::copy(&mut watched, &mut writer).and_then(|_| writer.flush());
        let (mut writer, _) = writer.into_parts();
        if let Err(error) = result {
            return Err(self.reason(&mut writer, size, error));
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
        let diff_id = if want_diff_id { Some(unpacked(&spooled.content)?) } else { None };
        self.finish(number, actual, size);
        if self.sizes.insert(actual, size).is_none() {
            self.pass_on(spooled, slot, diff_id);
        }
        Ok((actual, diff_id))
    }

    fn stored(&mut self, digest: Digest, content: Content) {
        if self.sizes.insert(digest, content.len()).is_none() {
            self.send(Blob { digest, content, diff_id: None, _held: None, _slot: None });
        }
    }

    fn hold(&mut self) {
        self.holding = Some(Vec::new());
    }

    fn release(&mut self, image: &Image, needed: &dyn Fn(&Held) -> bool) -> Result<()> {
        self.runtime.block_on((self.gate)(image))?;
        for blob in self.holding.take().into_iter().flatten() {
            if needed(&Held { digest: blob.digest, diff_id: blob.diff_id }) {
                self.send(blob);
            }
        }
        Ok(())
    }
}

/// The diff id of a compressed layer.
fn unpacked(content: &Content) -> Result<DiffId> {
    let mut hasher = Hasher::default();
    let reader = content.reader().map_err(|error| {
        Error::new(Side::Local, "check layer", format!("a temporary file cannot be read: {error}")).with_source(error)
    })?;
    let mut decoder = flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(256 * 1024, reader));
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => return Ok(DiffId(hasher.finish().0)),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) => {
                return Err(Error::new(
                    Side::Source,
                    "check layer",
                    format!("a compressed layer cannot be unpacked: {error}"),
                )
                .with_source(error)
                .with_hint("only gzip layers can be checked against the config of a `docker save` archive"));
            }
        }
    }
}

/// Counts what is read, and ends it when the push is over.
struct Watched<'a> {
    inner: &'a mut dyn Read,
    stop: Arc<AtomicBool>,
    events: Events,
    number: usize,
    untold: u64,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("reading was stopped"));
        }
        let n = self.inner.read(buffer)?;
        self.untold += n as u64;
        if self.untold >= TELL_EVERY || n == 0 {
            self.events.emit(Event::LayerRead { number: self.number, bytes: self.untold });
            self.untold = 0;
        }
        Ok(n)
    }
}
