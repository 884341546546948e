//! What this host remembers across pushes, as one push uses it.

use std::sync::Arc;

use super::ReuseSettings;
use crate::events::{Event, Events};
use crate::image::{DiffId, Digest, Tag};
use crate::known::{Cache, Origin, Pair, Remembered, Reuse};

/// The cache and the place that is pushed to. Without a cache nothing is remembered, and nothing fails.
#[derive(Clone)]
pub(super) struct Memory {
    cache: Option<Arc<Cache>>,
    /// Whose claims count.
    policy: Reuse,
    /// The repositories that this push reads or names, as `HOST/REPOSITORY`: the target, and those of `--mount-from`.
    named: Arc<Vec<String>>,
    /// `HOST/REPOSITORY`.
    place: String,
}

impl Memory {
    /// The cache in `directory`. One that cannot be used is a detail: a push does without.
    pub(super) fn open(reuse: &ReuseSettings, place: &str, events: &Events) -> Self {
        let policy = reuse.policy;
        let host = place.split_once('/').map_or("", |(host, _)| host);
        let siblings = reuse.mount_from.iter().map(|name| format!("{host}/{name}"));
        let named: Arc<Vec<String>> = Arc::new(std::iter::once(place.to_owned()).chain(siblings).collect());
        let directory = reuse.cache_dir.as_deref().filter(|_| policy != Reuse::Off);
        let cache = directory.and_then(|directory| {
            Cache::open(directory)
                .map_err(|error| events.emit(Event::Detail(format!("no cache is used: {error}"))))
                .ok()
        });
        Self { cache: cache.map(Arc::new), policy, named, place: place.to_owned() }
    }

    /// What is said to hold the layer, as far as it counts for this push. Only what is this host's own has places that it may be
    /// mounted from: the content of such a blob is known here, wherever it lies.
    pub(super) fn find(&self, layer: &DiffId) -> Vec<Remembered> {
        let mut found = self.cache.as_ref().map(|cache| cache.find(layer)).unwrap_or_default();
        found.retain(|found| found.counts(self.policy, &self.named));
        for others in found.iter_mut().filter(|found| found.pair.origin != Origin::Cache { own: true }) {
            others.places.clear();
        }
        found
    }

    /// Remembers that the repository has the blob. Its origin says whose claim the pair is.
    pub(super) fn remember(&self, pair: &Pair) {
        if let Some(cache) = &self.cache {
            cache.remember(pair, &self.place);
        }
    }

    /// True if this host has put every one of `tags`.
    pub(super) fn has_put(&self, tags: &[Tag]) -> bool {
        let cache = self.cache.as_ref();
        cache.is_some_and(|cache| tags.iter().all(|tag| cache.tag(&self.reference(tag)).is_some()))
    }

    /// True if this host has put the manifest, under whatever tag.
    pub(super) fn has_pushed(&self, manifest: &Digest) -> bool {
        self.cache.as_ref().is_some_and(|cache| cache.tag(&self.by_digest(manifest)).is_some())
    }

    /// True if this host has put `manifest` under every one of `tags`, and so confirmed what it needs.
    pub(super) fn put(&self, tags: &[Tag], manifest: &Digest) -> bool {
        let cache = self.cache.as_ref();
        cache.is_some_and(|cache| tags.iter().all(|tag| cache.tag(&self.reference(tag)) == Some(*manifest)))
    }

    /// Remembers what a tag points at.
    pub(super) fn remember_tag(&self, tag: &Tag, manifest: Digest) {
        if let Some(cache) = &self.cache {
            cache.remember_tag(&self.reference(tag), manifest);
            cache.remember_tag(&self.by_digest(&manifest), manifest);
        }
    }

    /// For the end of a push.
    pub(super) fn prune(&self) {
        if let Some(cache) = &self.cache {
            cache.prune();
        }
    }

    /// The other repositories of the same registry among `places`.
    pub(super) fn siblings(&self, places: &[String]) -> Vec<String> {
        let Some((host, own)) = self.place.split_once('/') else { return Vec::new() };
        let same = |place: &String| {
            let (other, name) = place.split_once('/')?;
            (other == host && name != own).then(|| name.to_owned())
        };
        places.iter().filter_map(same).collect()
    }

    fn by_digest(&self, manifest: &Digest) -> String {
        format!("{}@{manifest}", self.place)
    }

    fn reference(&self, tag: &Tag) -> String {
        format!("{}:{tag}", self.place)
    }
}
