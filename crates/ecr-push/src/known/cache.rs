//! What this host remembers of the blobs it confirmed: one small file a layer, in a private folder.
//!
//! A file for each layer and not one for all, because then nothing is lost when several pushes write at once: each replaces one
//! file as a whole, and of two that write the same one the later wins. A file that cannot be understood counts as none.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Origin, Pair, Reuse, codec_of};
use crate::image::{Descriptor, DiffId, Digest};

/// The form of the files. Others are not read.
const VERSION: u32 = 1;

/// No entry is larger.
const LARGEST: u64 = 64 << 10;

/// How the names of files begin that are being written.
const TEMPORARY: &str = ".ecr-push-";

/// So many layers are remembered, and as many tags; the rest of a file system is not ours. At some 400 bytes, on blocks of 4 KiB, that is
/// 160 MB at most.
const MOST_ENTRIES: usize = 20_000;

/// Of these many are left when there are too many.
const LEFT_ENTRIES: usize = 15_000;

/// Blobs of one layer: by other settings, by others.
const MOST_BLOBS: usize = 8;

/// Repositories in which a blob was seen, and as many whose images vouch for it.
const MOST_PLACES: usize = 16;

/// The cache of one user on one host.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

/// A pair that the cache holds, and where its blob was confirmed: `HOST/REPOSITORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The pair.
    pub pair: Pair,
    /// Where it was seen last comes first.
    pub places: Vec<String>,
    /// The repositories whose images vouch for it, where it is not this host's own. None for what older versions wrote.
    pub origins: Vec<String>,
}

impl Remembered {
    /// Whether the pair counts for a push that takes the claims `reuse` allows, and reads or names `repositories`
    /// (`HOST/REPOSITORY`). Of the claims of others only those made in one of these do: an image in any other repository has no say.
    pub fn counts(&self, reuse: Reuse, repositories: &[String]) -> bool {
        match (&self.pair.origin, reuse) {
            (_, Reuse::Off) => false,
            (Origin::Cache { own: true }, _) => true,
            (_, Reuse::Own) => false,
            _ => self.origins.iter().any(|origin| repositories.contains(origin)),
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    version: u32,
    diff_id: DiffId,
    blobs: Vec<Blob>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Blob {
    digest: Digest,
    size: u64,
    media_type: String,
    own: bool,
    places: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    origins: Vec<String>,
}

#[derive(Deserialize, Serialize)]
struct TagEntry {
    version: u32,
    reference: String,
    manifest: Digest,
}

impl Cache {
    /// The cache in `directory`, which is made if it is missing. Whoever can write there is believed, so a folder that others own
    /// or may write to is not used.
    ///
    /// # Errors
    /// If there can be no cache.
    pub fn open(directory: &Path) -> io::Result<Self> {
        make_private(directory)?;
        // What was looked at is what is used, whatever becomes of a link on the way.
        let cache = Self { directory: fs::canonicalize(directory)?.join("v1") };
        for folder in [&cache.directory, &cache.directory.join("tags")] {
            make_private(folder)?;
        }
        Ok(cache)
    }

    /// The blobs that are said to hold the layer, those made here first.
    pub fn find(&self, diff_id: &DiffId) -> Vec<Remembered> {
        let Some(entry) = self.read::<Entry>(&self.path(diff_id)).filter(|entry| entry.diff_id == *diff_id) else {
            return Vec::new();
        };
        if entry.version != VERSION {
            return Vec::new();
        }
        let known = entry.blobs.into_iter().filter(|blob| blob.size > 0 && codec_of(&blob.media_type).is_some());
        let mut found: Vec<Remembered> = known
            .map(|blob| Remembered {
                pair: Pair {
                    diff_id: *diff_id,
                    blob: Descriptor { media_type: blob.media_type, digest: blob.digest, size: blob.size },
                    origin: Origin::Cache { own: blob.own },
                },
                places: blob.places,
                origins: blob.origins,
            })
            .collect();
        found.sort_by_key(|found| found.pair.origin != Origin::Cache { own: true });
        found
    }

    /// Remembers that the blob of `pair` is in the repository `place`, and whose claim the pair is. A cache that cannot be written loses
    /// time, not images, so nothing is answered.
    pub fn remember(&self, pair: &Pair, place: &str) {
        let own = pair.origin == Origin::Cache { own: true };
        let path = self.path(&pair.diff_id);
        let known = self.read::<Entry>(&path).filter(|entry| entry.version == VERSION && entry.diff_id == pair.diff_id);
        let mut blobs = known.map(|entry| entry.blobs).unwrap_or_default();
        let at = blobs.iter().position(|blob| blob.digest == pair.blob.digest);
        let old = at.map(|at| blobs.remove(at));
        let mut places = vec![place.to_owned()];
        places.extend(old.iter().flat_map(|old| &old.places).filter(|old| *old != place).cloned());
        places.truncate(MOST_PLACES);
        let vouching = match &pair.origin {
            Origin::Image { repository, .. } => Some(repository.clone()),
            Origin::Cache { .. } => None,
        };
        let is_same = |old: &&Blob| old.size == pair.blob.size && old.media_type == pair.blob.media_type;
        let known = old.iter().filter(is_same).flat_map(|old| &old.origins);
        let known = known.filter(|known| vouching.as_ref() != Some(known)).cloned();
        let origins: Vec<String> = vouching.clone().into_iter().chain(known).take(MOST_PLACES).collect();
        let digest = pair.blob.digest;
        // What this host knows of its own blob is not changed by what others say of it.
        let blob = match old.filter(|old| old.own && !own) {
            Some(known) => Blob { places, ..known },
            // The entry that it was read from is gone. Without anybody who vouches for it, it would count nowhere.
            None if !own && origins.is_empty() => return,
            None => {
                let origins = if own { Vec::new() } else { origins };
                let (size, media_type) = (pair.blob.size, pair.blob.media_type.clone());
                Blob { digest, size, media_type, own, places, origins }
            }
        };
        blobs.insert(0, blob);
        blobs.truncate(MOST_BLOBS);
        self.write(&path, &Entry { version: VERSION, diff_id: pair.diff_id, blobs });
    }

    /// The manifest that this host last put under `reference` (`HOST/REPOSITORY:TAG`).
    pub fn tag(&self, reference: &str) -> Option<Digest> {
        let entry = self.read::<TagEntry>(&self.tag_path(reference))?;
        (entry.version == VERSION && entry.reference == reference).then_some(entry.manifest)
    }

    /// Remembers what was put under `reference`.
    pub fn remember_tag(&self, reference: &str, manifest: Digest) {
        let entry = TagEntry { version: VERSION, reference: reference.to_owned(), manifest };
        self.write(&self.tag_path(reference), &entry);
    }

    /// Forgets what was not used for longest, if there is too much. For the end of a push.
    pub fn prune(&self) {
        for folder in [&self.directory, &self.directory.join("tags")] {
            prune(folder, MOST_ENTRIES, LEFT_ENTRIES);
        }
    }

    fn path(&self, diff_id: &DiffId) -> PathBuf {
        self.directory.join(format!("{}.json", diff_id.0.hex()))
    }

    fn tag_path(&self, reference: &str) -> PathBuf {
        self.directory.join("tags").join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    fn read<T: for<'a> Deserialize<'a>>(&self, path: &Path) -> Option<T> {
        // A pipe, which somebody may have put there, would be waited for.
        if !fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        fs::File::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, path: &Path, entry: &impl Serialize) {
        let replace = || -> io::Result<()> {
            // Mode 0600, and a name of its own.
            let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.directory)?;
            file.write_all(&serde_json::to_vec(entry)?)?;
            file.persist(path)?;
            Ok(())
        };
        if let Err(error) = replace() {
            tracing::debug!(%error, path = %path.display(), "the cache cannot be written");
        }
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    private(folder).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
}

fn private(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    let metadata = fs::metadata(folder)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("it is not a directory"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        // Whoever owns a file that this process makes is this process's user.
        let ours = tempfile::tempfile_in(folder)?.metadata()?.uid();
        if metadata.uid() != ours {
            return Err(io::Error::other("it belongs to another user"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("others may write to it"));
        }
    }
    Ok(())
}

fn prune(folder: &Path, most: usize, left: usize) {
    let Ok(list) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, PathBuf)> = list
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let name = name.to_str()?;
            // Nothing is removed but what was written here.
            let is_entry = name.strip_suffix(".json").is_some_and(|hex| Digest::from_hex(hex).is_ok());
            if !is_entry && !name.starts_with(TEMPORARY) {
                return None;
            }
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((metadata.modified().ok()?, entry.path()))
        })
        .collect();
    if files.len() <= most {
        return;
    }
    files.sort();
    for (_, path) in &files[..files.len() - left] {
        // A neighbour may have been faster.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::MediaType;

    fn pair(layer: &str, blob: &str) -> Pair {
        Pair {
            diff_id: DiffId(Digest::of(layer.as_bytes())),
            blob: Descriptor {
                media_type: MediaType::DOCKER_LAYER.into(),
                digest: Digest::of(blob.as_bytes()),
                size: blob.len() as u64,
            },
            origin: Origin::Cache { own: true },
        }
    }

    /// The same as an image in `repository` claims it.
    fn claimed(pair: &Pair, repository: &str) -> Pair {
        let origin = Origin::Image { repository: repository.into(), name: "v1".into() };
        Pair { origin, ..pair.clone() }
    }

    fn open() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        (folder, cache)
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_the_place_of_an_entry_is_not_waited_for() {
        let (_folder, cache) = open();
        let pair = pair("a", "A");
        let made = std::process::Command::new("mkfifo").arg(cache.path(&pair.diff_id)).status().unwrap();
        assert!(made.success());
        assert!(cache.read::<serde_json::Value>(&cache.path(&pair.diff_id)).is_none());
    }

    #[test]
    fn what_was_confirmed_is_remembered_own_blobs_first() {
        let (_folder, cache) = open();
        let (theirs, ours) = (pair("a", "A"), pair("a", "AA"));
        cache.remember(&claimed(&theirs, "host/app"), "host/app");
        cache.remember(&ours, "host/app");
        cache.remember(&claimed(&theirs, "host/app"), "host/other");
        let found = cache.find(&theirs.diff_id);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].pair.blob.digest, &found[0].pair.origin),
            (ours.blob.digest, &Origin::Cache { own: true })
        );
        assert_eq!(found[1].places, ["host/other", "host/app"]);
        // Ours stays ours, whoever confirms it.
        cache.remember(&claimed(&ours, "host/app"), "host/app");
        assert_eq!(cache.find(&ours.diff_id)[0].pair.origin, Origin::Cache { own: true });
        assert!(cache.find(&pair("b", "B").diff_id).is_empty());
    }

    #[test]
    fn others_change_nothing_of_what_is_known_of_an_own_blob() {
        let (_folder, cache) = open();
        let ours = pair("a", "A");
        cache.remember(&ours, "host/app");
        let mut theirs = claimed(&ours, "host/other");
        theirs.blob.media_type = MediaType::OCI_LAYER_ZSTD.into();
        theirs.blob.size = 7;
        cache.remember(&theirs, "host/other");
        let found = cache.find(&ours.diff_id);
        assert_eq!((&found[0].pair.blob, found.len()), (&ours.blob, 1));
        assert_eq!(found[0].places, ["host/other", "host/app"]);
    }

    #[test]
    fn the_claim_of_others_counts_only_where_it_was_made() {
        let (_folder, cache) = open();
        let named = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pair = pair("a", "A");
        let counts = |policy, names: &[&str]| {
            let found = cache.find(&pair.diff_id);
            assert_eq!(found.len(), 1);
            found[0].counts(policy, &named(names))
        };
        cache.remember(&claimed(&pair, "host/pull"), "host/app");
        assert!(counts(Reuse::Registry, &["host/app", "host/pull"]) && counts(Reuse::Verify, &["host/pull"]));
        for names in [&["host/app"][..], &["other/pull"], &["host/pull/x"], &[]] {
            assert!(!counts(Reuse::Registry, names) && !counts(Reuse::Verify, names), "{names:?}");
        }
        assert!(!counts(Reuse::Own, &["host/pull"]) && !counts(Reuse::Off, &["host/pull"]));
        // What is read from the cache and confirmed somewhere stays the claim that it was.
        let read = cache.find(&pair.diff_id).remove(0).pair;
        assert_eq!(read.origin, Origin::Cache { own: false });
        cache.remember(&read, "host/other");
        assert!(!counts(Reuse::Registry, &["host/other"]) && counts(Reuse::Registry, &["host/pull"]));
        cache.remember(&claimed(&pair, "host/other"), "host/other");
        assert!(counts(Reuse::Registry, &["host/other"]) && counts(Reuse::Registry, &["host/pull"]));
        // One who says something else of the blob says it alone.
        let mut zstd = claimed(&pair, "host/third");
        zstd.blob.media_type = MediaType::OCI_LAYER_ZSTD.into();
        cache.remember(&zstd, "host/third");
        assert!(!counts(Reuse::Registry, &["host/other", "host/pull"]) && counts(Reuse::Registry, &["host/third"]));
        // Our own counts everywhere.
        cache.remember(&pair, "host/app");
        assert!(counts(Reuse::Registry, &[]) && counts(Reuse::Own, &[]) && !counts(Reuse::Off, &[]));
    }

    #[test]
    fn a_claim_without_anybody_who_makes_it_is_not_remembered_and_an_old_one_counts_nowhere() {
        let (_folder, cache) = open();
        let pair = Pair { origin: Origin::Cache { own: false }, ..pair("a", "A") };
        cache.remember(&pair, "host/app");
        assert!(cache.find(&pair.diff_id).is_empty());
        // As it was written before origins were.
        let entry = serde_json::json!({ "version": 1, "diff_id": pair.diff_id, "blobs": [{ "digest": pair.blob.digest, "size": 1,
            "media_type": pair.blob.media_type, "own": false, "places": ["host/app"] }] });
        fs::write(cache.path(&pair.diff_id), entry.to_string()).unwrap();
        let found = cache.find(&pair.diff_id);
        assert!(found.len() == 1 && !found[0].counts(Reuse::Registry, &["host/app".to_owned()]));
    }

    #[test]
    fn tags_are_remembered() {
        let (_folder, cache) = open();
        cache.remember_tag("host/app:v1", Digest::of(b"m"));
        assert_eq!(cache.tag("host/app:v1"), Some(Digest::of(b"m")));
        assert_eq!(cache.tag("host/app:v2"), None);
    }

    #[test]
    fn what_cannot_be_understood_counts_as_nothing_and_is_replaced() {
        let (_folder, cache) = open();
        let good = pair("a", "A");
        let path = cache.path(&good.diff_id);
        let entry = |version: u32, diff_id: &DiffId, media_type: &str, size: u64| {
            serde_json::json!({ "version": version, "diff_id": diff_id, "blobs": [
                { "digest": good.blob.digest, "size": size, "media_type": media_type, "own": true, "places": [] } ] })
            .to_string()
        };
        let gzip = MediaType::DOCKER_LAYER;
        for text in [
            String::new(),
            "{".into(),
            "[]".into(),
            "\0\0\0".into(),
            entry(2, &good.diff_id, gzip, 1),
            entry(1, &pair("b", "B").diff_id, gzip, 1),
            entry(1, &good.diff_id, "application/x-unknown", 1),
            entry(1, &good.diff_id, gzip, 0),
            " ".repeat(LARGEST as usize) + &entry(1, &good.diff_id, gzip, 1),
        ] {
            fs::write(&path, &text).unwrap();
            assert!(cache.find(&good.diff_id).is_empty(), "{}", &text[..text.len().min(100)]);
            cache.remember(&good, "host/app");
            assert_eq!(cache.find(&good.diff_id).len(), 1);
        }
        assert_eq!(cache.find(&good.diff_id)[0].places, ["host/app"]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let (_folder, cache) = open();
        for number in 0..40 {
            cache.remember(&pair("a", &"x".repeat(number + 1)), "host/app");
            cache.remember(&pair("b", "B"), &format!("host/app{number}"));
            cache.remember(&pair(&format!("layer {number}"), "B"), "host/app");
            cache.remember(&claimed(&pair("c", "C"), &format!("host/app{number}")), "host/app");
        }
        assert_eq!(cache.find(&pair("c", "").diff_id)[0].origins.len(), MOST_PLACES);
        fs::remove_file(cache.path(&pair("c", "").diff_id)).unwrap();
        assert_eq!(cache.find(&pair("a", "").diff_id).len(), MOST_BLOBS);
        assert_eq!(cache.find(&pair("b", "").diff_id)[0].places.len(), MOST_PLACES);
        // What others keep there is neither counted nor removed.
        for number in 0..40 {
            fs::write(cache.directory.join(format!("{number}.json")), "").unwrap();
        }
        prune(&cache.directory, 30, 20);
        assert!((0..40).all(|number| cache.directory.join(format!("{number}.json")).is_file()));
        for number in 0..40 {
            fs::remove_file(cache.directory.join(format!("{number}.json"))).unwrap();
        }
        assert_eq!(fs::read_dir(&cache.directory).unwrap().flatten().filter(|e| e.path().is_file()).count(), 20);
    }

    #[test]
    fn parallel_runs_lose_nothing() {
        let (_folder, cache) = open();
        std::thread::scope(|scope| {
            for run in 0..4 {
                let cache = &cache;
                scope.spawn(move || {
                    for number in 0..50 {
                        cache.remember(&pair(&format!("{run} {number}"), "B"), "host/app");
                        cache.remember(&pair("shared", "B"), "host/app");
                        // A reader never sees half a file.
                        assert_eq!(cache.find(&pair("shared", "B").diff_id).len(), 1);
                    }
                });
            }
        });
        let all = (0..4).flat_map(|run| (0..50).map(move |number| format!("{run} {number}")));
        assert!(all.into_iter().all(|layer| cache.find(&pair(&layer, "B").diff_id).len() == 1));
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_private_and_one_that_others_may_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, cache) = open();
        cache.remember(&pair("a", "A"), "host/app");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("cache")), 0o700);
        assert_eq!(mode(&cache.path(&pair("a", "A").diff_id)), 0o600);
        fs::set_permissions(folder.path().join("cache"), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Cache::open(&folder.path().join("cache")).unwrap_err();
        assert!(error.to_string().contains("cache: others may write"), "{error}");
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(Cache::open(&folder.path().join("file")).is_err());
    }
}
