//! What is to be done with each layer: found out while the work goes on.
//!
//! A layer starts *open*. It becomes *reused* when a blob that holds it turns out to be in the registry, and *needed* when none is known
//! in the end. Reading and compressing go on meanwhile, because asking must not delay the first work; what was compressed for nothing is
//! dropped. Only a layer that is needed in the end is *made*: its blob is sent.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::uploads::BlobReport;
use crate::events::BlobAction;
use crate::image::{Descriptor, DiffId};
use crate::known::Origin;
use crate::source::StoredLayer;

/// A blob of the registry that takes the place of a layer.
#[derive(Clone, Debug)]
pub(super) struct Reused {
    pub(super) blob: Descriptor,
    pub(super) origin: Origin,
    /// Whether it was there, or came from another repository.
    pub(super) action: BlobAction,
}

#[derive(Clone, Debug)]
enum Verdict {
    Open,
    Needed,
    Reused(Reused),
    Made(Descriptor),
}

/// The verdicts of one image. Clones share them.
#[derive(Clone)]
pub(super) struct Verdicts(Arc<Inner>);

struct Inner {
    layers: Mutex<HashMap<DiffId, Verdict>>,
    /// True when nothing more will be found out.
    settled: watch::Sender<bool>,
    settling: Condvar,
}

impl Verdicts {
    /// All of `layers` are open.
    pub(super) fn new(layers: &[DiffId]) -> Self {
        let layers = layers.iter().map(|layer| (*layer, Verdict::Open)).collect();
        let (settled, _) = watch::channel(false);
        Self(Arc::new(Inner { layers: Mutex::new(layers), settled, settling: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DiffId, Verdict>> {
        self.0.layers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn is_settled(&self) -> bool {
        *self.0.settled.borrow()
    }

    /// The layers for which nothing is known yet.
    pub(super) fn open(&self) -> Vec<DiffId> {
        let layers = self.lock();
        let open = layers.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Open | Verdict::Needed));
        open.map(|(layer, _)| *layer).collect()
    }

    /// Takes a blob for the layer. False if it is too late, because the layer was made meanwhile.
    pub(super) fn reuse(&self, layer: &DiffId, reused: Reused) -> bool {
        match self.lock().get_mut(layer) {
            Some(verdict @ (Verdict::Open | Verdict::Needed)) => {
                *verdict = Verdict::Reused(reused);
                true
            }
            _ => false,
        }
    }

    /// Notes that the layer was made, once it is certain that it had to be. False if it is not needed, or was made before.
    pub(super) async fn made(&self, layer: DiffId, blob: Descriptor) -> bool {
        // The sender lives as long as `self`.
        let _ = self.0.settled.subscribe().wait_for(|settled| *settled).await;
        let mut layers = self.lock();
        let verdict = layers.entry(layer).or_insert(Verdict::Needed);
        let is_needed = matches!(verdict, Verdict::Needed);
        if is_needed {
            *verdict = Verdict::Made(blob);
        }
        is_needed
    }

    /// The blob that the registry has for the layer.
    pub(super) fn reused(&self, layer: &DiffId) -> Option<Reused> {
        match self.lock().get(layer) {
            Some(Verdict::Reused(reused)) => Some(reused.clone()),
            _ => None,
        }
    }

    /// True if there is a blob for the layer, found or made.
    pub(super) fn is_done(&self, layer: &DiffId) -> bool {
        matches!(self.lock().get(layer), Some(Verdict::Reused(_) | Verdict::Made(_)))
    }

    /// The blob for the layer, found or made.
    pub(super) fn blob(&self, layer: &DiffId) -> Option<Descriptor> {
        match self.lock().get(layer) {
            Some(Verdict::Reused(reused)) => Some(reused.blob.clone()),
            Some(Verdict::Made(blob)) => Some(blob.clone()),
            _ => None,
        }
    }

    /// What was done for the layers that were neither made nor read.
    pub(super) fn reports(&self) -> Vec<BlobReport> {
        let layers = self.lock();
        let reused = layers.iter().filter_map(|(layer, verdict)| match verdict {
            Verdict::Reused(reused) => Some(BlobReport {
                digest: reused.blob.digest,
                diff_id: Some(*layer),
                size: reused.blob.size,
                action: reused.action,
                reused_from: Some(reused.origin.clone()),
            }),
            _ => None,
        });
        let mut reports: Vec<BlobReport> = reused.collect();
        reports.sort_by_key(|report| report.diff_id);
        reports
    }

    /// Nothing more will be found out: what is open is needed.
    pub(super) fn settle(&self) {
        let mut layers = self.lock();
        for verdict in layers.values_mut().filter(|verdict| matches!(verdict, Verdict::Open)) {
            *verdict = Verdict::Needed;
        }
        self.0.settled.send_replace(true);
        self.0.settling.notify_all();
    }

    /// Waits for [`Verdicts::settle`], though no longer than `limit`. Then answers those of `layers` that have no blob, each once.
    pub(super) fn needed(&self, layers: &[DiffId], limit: Duration) -> Vec<DiffId> {
        let waited = self.0.settling.wait_timeout_while(self.lock(), limit, |_| !self.is_settled());
        let (known, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut needed: Vec<DiffId> = Vec::new();
        for layer in layers {
            if matches!(known.get(layer), None | Some(Verdict::Needed | Verdict::Open)) && !needed.contains(layer) {
                needed.push(*layer);
            }
        }
        needed
    }

    /// Takes the next layer to read out of `waiting`, and drops those that have a blob already. A layer that is known to be needed
    /// goes first, the largest of them: the last one to end should be small. Of those that are open the last is taken, because
    /// images differ at their top.
    pub(super) fn next(&self, waiting: &mut Vec<StoredLayer>) -> Option<StoredLayer> {
        waiting.retain(|layer| !self.is_done(&layer.diff_id));
        let layers = self.lock();
        let is_needed = |layer: &StoredLayer| !matches!(layers.get(&layer.diff_id), Some(Verdict::Open));
        let largest =
            waiting.iter().enumerate().filter(|(_, layer)| is_needed(layer)).max_by_key(|(_, layer)| layer.size);
        let at = largest.map(|(at, _)| at).or_else(|| waiting.len().checked_sub(1))?;
        Some(waiting.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Digest, MediaType};

    fn layer(name: &str) -> DiffId {
        DiffId(Digest::of(name.as_bytes()))
    }

    fn blob(name: &str) -> Descriptor {
        Descriptor { media_type: MediaType::DOCKER_LAYER.into(), digest: Digest::of(name.as_bytes()), size: 1 }
    }

    fn reused(name: &str) -> Reused {
        Reused { blob: blob(name), origin: Origin::Cache { own: true }, action: BlobAction::Skipped }
    }

    fn stored(name: &str, size: u64) -> StoredLayer {
        StoredLayer {
            diff_id: layer(name),
            size,
            name: name.into(),
            open: Box::new(|| Err(std::io::Error::other("unread"))),
        }
    }

    #[tokio::test]
    async fn only_what_is_needed_in_the_end_is_made() {
        let verdicts = Verdicts::new(&[layer("a"), layer("b")]);
        let making = tokio::spawn({
            let verdicts = verdicts.clone();
            async move { (verdicts.made(layer("a"), blob("other")).await, verdicts.made(layer("b"), blob("B")).await) }
        });
        tokio::task::yield_now().await;
        assert!(verdicts.reuse(&layer("a"), reused("A")));
        verdicts.settle();
        assert_eq!(making.await.unwrap(), (false, true), "the work for a was for nothing");
        assert!(!verdicts.made(layer("b"), blob("B")).await, "the same layer twice is sent once");
        assert!(!verdicts.reuse(&layer("b"), reused("other")));
        assert_eq!(verdicts.blob(&layer("a")), Some(blob("A")));
        assert_eq!(verdicts.blob(&layer("b")), Some(blob("B")));
        assert!(verdicts.blob(&layer("c")).is_none() && !verdicts.reuse(&layer("c"), reused("C")));
    }

    #[test]
    fn what_is_open_in_the_end_is_needed() {
        let verdicts = Verdicts::new(&[layer("a"), layer("b")]);
        verdicts.reuse(&layer("a"), reused("A"));
        let waiting = verdicts.clone();
        let needed = std::thread::spawn(move || {
            waiting.needed(&[layer("a"), layer("b"), layer("b"), layer("c")], Duration::from_secs(60))
        });
        verdicts.settle();
        assert_eq!(needed.join().unwrap(), [layer("b"), layer("c")]);
    }

    #[test]
    fn open_layers_are_read_from_the_top_and_needed_ones_by_size() {
        let verdicts = Verdicts::new(&["a", "b", "c", "d"].map(layer));
        let mut waiting = vec![stored("a", 1), stored("b", 9), stored("c", 5), stored("d", 2)];
        assert_eq!(verdicts.next(&mut waiting).unwrap().name, "d");
        verdicts.reuse(&layer("c"), reused("C"));
        verdicts.settle();
        assert_eq!(verdicts.next(&mut waiting).unwrap().name, "b");
        assert_eq!(verdicts.next(&mut waiting).unwrap().name, "a");
        assert!(verdicts.next(&mut waiting).is_none());
    }
}
