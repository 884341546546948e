//! Files of the cache that somebody else wrote.

use std::fs;

use tempfile::TempDir;

use crate::image::{Descriptor, DiffId, Digest, MediaType};
use crate::known::{Cache, Origin, Pair, Reuse, codec_of};

/// The largest file that is read.
const LARGEST: usize = 64 << 10;

thread_local! {
    static CACHE: (TempDir, Cache) = {
        let folder = TempDir::new().expect("there is a folder for temporary files");
        let cache = Cache::open(folder.path()).expect("a new folder is private");
        (folder, cache)
    };
}

/// The layer that the file is said to be of. Seeds have it, too.
pub(super) fn layer() -> DiffId {
    DiffId(Digest::of(b"layer"))
}

/// The tag that the file is said to be of.
pub(super) const TAG: &str = "host/app:v1";

/// Reads the input as the entry of a layer and as that of a tag, then writes over it.
pub fn cache(data: &[u8]) {
    CACHE.with(|(folder, cache)| {
        let (layer, folder) = (layer(), folder.path().join("v1"));
        let path = folder.join(format!("{}.json", layer.0.hex()));
        fs::write(&path, data).expect("the temporary file can be written");
        let found = cache.find(&layer);
        for found in &found {
            assert_eq!(found.pair.diff_id, layer, "only what was asked for is answered");
            assert!(found.pair.blob.size > 0 && codec_of(&found.pair.blob.media_type).is_some());
            assert!(matches!(found.pair.origin, Origin::Cache { .. }));
            assert!(found.pair.origin == Origin::Cache { own: true } || !found.counts(Reuse::Own, &found.origins));
        }
        let is_own = |found: &crate::known::Remembered| found.pair.origin == Origin::Cache { own: true };
        assert!(found.is_sorted_by_key(|found| !is_own(found)), "own blobs come first");
        assert!(data.len() <= LARGEST || found.is_empty());

        let digest = Digest::of(b"blob");
        let blob = Descriptor { media_type: MediaType::DOCKER_LAYER.into(), digest, size: 4 };
        cache.remember(&Pair { diff_id: layer, blob, origin: Origin::Cache { own: true } }, "host/app");
        let after = cache.find(&layer);
        let ours = after.iter().find(|found| found.pair.blob.digest == digest).expect("it is remembered");
        assert!(is_own(ours) && ours.pair.blob.size == 4);
        assert_eq!(ours.places.first().map(String::as_str), Some("host/app"));
        assert!(after.len() <= 8 && ours.places.len() <= 16, "what is written is bounded");

        let path = folder.join("tags").join(format!("{}.json", Digest::of(TAG.as_bytes()).hex()));
        fs::write(path, data).expect("the temporary file can be written");
        let before = cache.tag(TAG);
        assert!(data.len() <= LARGEST || before.is_none());
        cache.remember_tag(TAG, digest);
        assert_eq!(cache.tag(TAG), Some(digest));
    });
}
