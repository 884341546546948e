//! The sending half of a transfer: asks what the registry lacks, and sends it, several blobs at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::destination::Destination;
use super::intake::Blob;
use super::memory::Memory;
use super::mismatch;
use super::mounts::Mounts;
use super::verdicts::Verdicts;
use crate::error::{Error, Result, Retry, Side};
use crate::events::{BlobAction, Event, Events};
use crate::image::{Descriptor, DiffId, Digest};
use crate::known::{Origin, Pair};
use crate::registry::{Progress, START_UPLOAD};
use crate::retry::RetryBudget;

/// Blobs below this size are small: their cost is the round trip, so more of them go at a time.
const SMALL: u64 = 8 << 20;

/// How many small uploads there are for each large one.
const SMALL_FOR_LARGE: usize = 4;

/// ECR may close the connection at the start of an upload instead of naming a missing repository (ecr-facts 4.3). After
/// so many the API is asked for the cause.
const CUT_BEFORE_ASKING: usize = 2;

/// How long that may take once the push has failed already, and a better sentence is all that it can bring.
const LAST_QUESTION: Duration = Duration::from_secs(5);

/// Digests asked for in one call (ecr-facts 2.4).
const ASK_AT_ONCE: usize = 100;

/// What was done for a blob.
#[derive(Clone, Debug)]
pub struct BlobReport {
    /// Its digest.
    pub digest: Digest,
    /// Its diff id, where it is known.
    pub diff_id: Option<DiffId>,
    /// Its size in bytes.
    pub size: u64,
    /// What was done.
    pub action: BlobAction,
    /// Whose word was taken that this blob holds the layer, where it was neither made nor read.
    pub reused_from: Option<Origin>,
}

/// What is known of blobs, and becomes known. Clones share it.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) mounts: Mounts,
    pub(super) memory: Memory,
    pub(super) verdicts: Verdicts,
}

/// Where the blobs come from.
#[derive(Clone)]
pub(super) struct Origins {
    /// The source, as the user named it.
    pub(super) source: String,
    /// When the push began.
    pub(super) began: SystemTime,
}

/// Sends blobs to one destination.
#[derive(Clone)]
pub(super) struct Uploads {
    destination: Destination,
    retry: RetryBudget,
    events: Events,
    dry_run: bool,
    known: Known,
    origins: Origins,
    small: Arc<Lanes>,
    large: Arc<Lanes>,
}

/// Uploads of one kind that may go on at a time. Each reset or 429 closes one lane, down to the last.
struct Lanes {
    permits: Semaphore,
    open: AtomicUsize,
}

impl Lanes {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(count), open: AtomicUsize::new(count) })
    }

    /// True if a lane was closed.
    fn close_one(&self) -> bool {
        let fewer = |open: usize| (open > 1).then(|| open - 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok()
    }
}

enum Done {
    Asked(Vec<(bool, Blob)>),
    Blob(BlobReport),
}

impl Uploads {
    pub(super) fn new(
        destination: Destination,
        retry: RetryBudget,
        events: Events,
        jobs: usize,
        dry_run: bool,
        known: Known,
        origins: Origins,
    ) -> Self {
        let jobs = jobs.max(1);
        let (small, large) = (Lanes::new(jobs * SMALL_FOR_LARGE), Lanes::new(jobs));
        Self { destination, retry, events, dry_run, known, origins, small, large }
    }

    /// How many uploads, large and small, may go on at a time.
    pub(super) fn lanes(&self) -> usize {
        self.small.open.load(Ordering::Relaxed) + self.large.open.load(Ordering::Relaxed)
    }

    /// Takes blobs until the other end of `blobs` is dropped and all are done.
    pub(super) async fn run(self, mut blobs: mpsc::UnboundedReceiver<Blob>) -> Result<Vec<BlobReport>> {
        let mut tasks: JoinSet<Result<Done>> = JoinSet::new();
        let mut seen = HashSet::new();
        let mut reports = Vec::new();
        let mut open = true;
        while open || !tasks.is_empty() {
            let mut batch = Vec::new();
            tokio::select! {
                count = blobs.recv_many(&mut batch, ASK_AT_ONCE), if open => {
                    open = count > 0;
                    batch.retain(|blob: &Blob| seen.insert(blob.digest));
                    if !batch.is_empty() {
                        let this = self.clone();
                        tasks.spawn(async move { this.ask(batch).await });
                    }
                }
                Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                    match done.map_err(|error| Error::new(Side::Local, "send blobs", "a task ended early").with_source(error))?? {
                        Done::Blob(report) => reports.push(report),
                        Done::Asked(answers) => {
                            for (present, blob) in answers {
                                if present || self.dry_run {
                                    reports.push(self.finish(&blob, if present { BlobAction::Skipped } else { BlobAction::WouldSend }));
                                    continue;
                                }
                                let this = self.clone();
                                tasks.spawn(async move { this.send(blob).await.map(Done::Blob) });
                            }
                        }
                    }
                }
            }
        }
        Ok(reports)
    }

    /// Sends one blob outside of the stream, if the registry lacks it.
    pub(super) async fn one(&self, blob: Blob) -> Result<BlobReport> {
        if self.destination.present_of(&[blob.digest], &self.retry).await?.contains_key(&blob.digest) {
            return Ok(self.finish(&blob, BlobAction::Skipped));
        }
        if self.dry_run {
            return Ok(self.finish(&blob, BlobAction::WouldSend));
        }
        self.send(blob).await
    }

    async fn ask(&self, mut batch: Vec<Blob>) -> Result<Done> {
        let mut needed = Vec::new();
        for blob in batch.drain(..) {
            if self.is_needed(&blob).await {
                needed.push(blob);
            }
        }
        let batch = needed;
        let digests: Vec<Digest> = batch.iter().map(|blob| blob.digest).collect();
        let present = self.destination.present_of(&digests, &self.retry).await?;
        let absent: Vec<Digest> = digests.into_iter().filter(|digest| !present.contains_key(digest)).collect();
        if !self.dry_run {
            self.known.mounts.look_for(&absent).await;
        }
        Ok(Done::Asked(batch.into_iter().map(|blob| (present.contains_key(&blob.digest), blob)).collect()))
    }

    /// False for the blob of a layer for which the registry turned out to have one.
    async fn is_needed(&self, blob: &Blob) -> bool {
        let Some((diff_id, media_type)) = blob.layer else { return true };
        let descriptor =
            Descriptor { media_type: media_type.to_owned(), digest: blob.digest, size: blob.content.len() };
        self.known.verdicts.made(diff_id, descriptor).await
    }

    fn finish(&self, blob: &Blob, action: BlobAction) -> BlobReport {
        let (digest, size) = (blob.digest, blob.content.len());
        self.events.emit(Event::BlobDone { digest, size, action });
        if action != BlobAction::WouldSend {
            self.destination.note_there(digest, size);
        }
        if action != BlobAction::WouldSend
            && let Some((diff_id, media_type)) = blob.layer
        {
            let blob = Descriptor { media_type: media_type.to_owned(), digest, size };
            self.known.memory.remember(&Pair { diff_id, blob, origin: Origin::Cache { own: true } });
        }
        BlobReport { digest, diff_id: blob.layer.map(|(diff_id, _)| diff_id), size, action, reused_from: None }
    }

    async fn send(&self, blob: Blob) -> Result<BlobReport> {
        let digest = blob.digest;
        if blob.content.is_empty() && self.destination.ecr.is_some() {
            return Err(Error::new(
                Side::Destination,
                "send blob",
                format!("the blob {digest} is empty, and Amazon ECR stores no empty blobs"),
            ));
        }
        let lanes = if blob.content.len() < SMALL { &self.small } else { &self.large };
        let permit = lanes.permits.acquire().await;
        let permit = permit.map_err(|_| Error::new(Side::Local, "send blob", "the uploads have ended"))?;
        if self.known.mounts.mount(&digest, blob.content.len()).await {
            return Ok(self.finish(&blob, BlobAction::Mounted));
        }
        self.events.emit(Event::UploadStarted { digest, size: blob.content.len() });
        let tried = AtomicBool::new(false);
        let renewed = AtomicBool::new(false);
        let closed = AtomicBool::new(false);
        let cut = AtomicUsize::new(0);
        let what = format!("send {}", digest.short());
        let sent = self
            .retry
            .run_unhurried(&what, || async {
                loop {
                    // An answer may have been lost, or another push may have been faster: ask before sending again.
                    if tried.swap(true, Ordering::Relaxed) {
                        self.events.emit(Event::UploadRestarted { digest });
                        match self.destination.present(&digest, &self.retry).await {
                            Ok(true) => return Ok(()),
                            // Nobody answers: to send it all without having asked would be in vain, or once too often.
                            Err(error) if matches!(error.retry(), Retry::Backoff | Retry::Throttled | Retry::Brief) => {
                                return Err(error);
                            }
                            Ok(false) | Err(_) => {}
                        }
                    }
                    // A mount that was refused has left an open session behind.
                    let session = self.known.mounts.session();
                    let is_left_over = session.is_some();
                    let repository = &self.destination.repository;
                    // What lies in the spool was hashed as it was written there.
                    let hashed = blob.held.is_some();
                    let sent = repository.upload(digest, &blob.content, hashed, session, self.progress(digest)).await;
                    let Err(error) = sent else { return Ok(()) };
                    match error.retry() {
                        // It may be worth nothing any more: the next one is taken, or one of our own. The list ends.
                        _ if is_left_over && error.status().is_some() => {}
                        Retry::NewToken if !renewed.swap(true, Ordering::Relaxed) => {}
                        Retry::Backoff | Retry::Brief | Retry::Throttled => {
                            // A 429, or no answer at all: a reset, a stall. Fewer at a time then.
                            let too_much = error.retry() == Retry::Throttled || error.status().is_none();
                            if too_much && !closed.load(Ordering::Relaxed) && lanes.close_one() {
                                closed.store(true, Ordering::Relaxed);
                            }
                            let at_start = error.operation() == START_UPLOAD && error.status().is_none();
                            if at_start
                                && cut.fetch_add(1, Ordering::Relaxed) + 1 == CUT_BEFORE_ASKING
                                && self.destination.is_missing().await
                            {
                                return Err(self.destination.missing_repository(error));
                            }
                            return Err(error);
                        }
                        _ => {
                            if renewed.load(Ordering::Relaxed) {
                                repository.judge(&error);
                            }
                            return Err(error);
                        }
                    }
                }
            })
            .await;
        if let Err(error) = sent {
            return Err(self.failed(error, &blob, cut.into_inner()).await);
        }
        if closed.load(Ordering::Relaxed) {
            permit.forget();
        }
        Ok(self.finish(&blob, BlobAction::Sent))
    }

    /// The last failure of an upload, with what is known from all its tries: `cut` of them were cut off at their start.
    async fn failed(&self, error: Error, blob: &Blob, cut: usize) -> Error {
        let is_open = error.retry() != Retry::Never;
        let error = self.destination.explain(error);
        if cut == 0 || !is_open {
            return mismatch::explained(error, blob, &self.origins.source, self.origins.began).await;
        }
        let asked = cut >= CUT_BEFORE_ASKING;
        let missing = tokio::time::timeout(LAST_QUESTION, self.destination.is_missing());
        match !asked && missing.await.unwrap_or(false) {
            true => self.destination.missing_repository(error),
            false => self.destination.explain_cut(error),
        }
    }

    fn progress(&self, digest: Digest) -> Progress {
        let events = self.events.clone();
        Arc::new(move |bytes| events.emit(Event::Uploaded { digest, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_close_one_by_one_but_for_the_last() {
        let lanes = Lanes::new(3);
        assert!(lanes.close_one() && lanes.close_one());
        assert!(!lanes.close_one());
    }
}
