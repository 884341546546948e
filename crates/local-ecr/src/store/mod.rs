//! Repositories and what is in them.

mod blob;
mod layout;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::Storage;
use crate::manifest::Manifest;
use crate::rules::Mutability;
use crate::util::lock;
pub(crate) use blob::{Blob, Spool, sha256};

/// All repositories. Its lock is held to look one up, never while bytes flow.
pub(crate) struct Store {
    root: Option<PathBuf>,
    repositories: Mutex<BTreeMap<String, Arc<Repository>>>,
}

impl Store {
    pub fn open(storage: &Storage) -> io::Result<Self> {
        let Storage::Directory(root) = storage else {
            return Ok(Self { root: None, repositories: Mutex::default() });
        };
        let store = Self { root: Some(root.clone()), repositories: Mutex::default() };
        if let Some(spool) = store.spool_directory() {
            // Sessions do not survive a restart, so what they left is of no use.
            let _ = std::fs::remove_dir_all(&spool);
            std::fs::create_dir_all(&spool)?;
        }
        *lock(&store.repositories) = layout::load_all(root)?;
        Ok(store)
    }

    /// Beside the repositories, so that a finished blob only changes its name.
    fn spool_directory(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(".uploads"))
    }

    pub fn spool(&self) -> io::Result<Spool> {
        Spool::new(self.spool_directory().as_deref())
    }

    pub fn find(&self, name: &str) -> Option<Arc<Repository>> {
        lock(&self.repositories).get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Repository>> {
        lock(&self.repositories).values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        lock(&self.repositories).len()
    }

    /// Makes a repository; `None` if there is one of that name.
    pub fn create(&self, name: &str, settings: Settings) -> io::Result<Option<Arc<Repository>>> {
        let mut repositories = lock(&self.repositories);
        if repositories.contains_key(name) {
            return Ok(None);
        }
        let directory = self.root.as_ref().map(|root| layout::directory(root, name));
        let contents = Contents::new(settings);
        if let Some(directory) = &directory {
            layout::create(directory, &contents)?;
        }
        let repository = Arc::new(Repository::new(name.to_owned(), directory, contents));
        repositories.insert(name.to_owned(), Arc::clone(&repository));
        Ok(Some(repository))
    }

    pub fn delete(&self, name: &str) -> io::Result<()> {
        let removed = lock(&self.repositories).remove(name);
        match removed.and_then(|repository| repository.directory.clone()) {
            Some(directory) => std::fs::remove_dir_all(directory),
            None => Ok(()),
        }
    }
}

/// One repository.
pub(crate) struct Repository {
    pub name: String,
    directory: Option<PathBuf>,
    contents: Mutex<Contents>,
}

pub(crate) struct Contents {
    pub settings: Settings,
    pub images: BTreeMap<String, Image>,
    pub tags: BTreeMap<String, String>,
    pub blobs: HashMap<String, Blob>,
    /// Tags that a fault shows late. Not kept.
    pub late: HashMap<String, Late>,
}

/// A tag that reads for a while as it did before it was put.
pub(crate) struct Late {
    pub before: Option<String>,
    pub until: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub created_at: SystemTime,
    pub mutability: Mutability,
    pub scanning: Value,
    pub encryption: Value,
    pub tags: Value,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            created_at: SystemTime::now(),
            mutability: Mutability::mutable(),
            scanning: json!({ "scanOnPush": false }),
            encryption: json!({ "encryptionType": "AES256" }),
            tags: json!([]),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub bytes: Bytes,
    pub manifest: Manifest,
    pub pushed_at: SystemTime,
    pub archived: bool,
}

impl Contents {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Self {
        let (images, tags, blobs, late) = Default::default();
        Self { settings, images, tags, blobs, late }
    }

    /// The digest that readers of a tag find.
    pub fn tagged(&self, tag: &str) -> Option<&String> {
        match self.late.get(tag).filter(|late| late.until > Instant::now()) {
            Some(late) => late.before.as_ref(),
            None => self.tags.get(tag),
        }
    }

    pub fn tags_of(&self, digest: &str) -> impl Iterator<Item = &String> {
        self.tags.iter().filter(move |(_, tagged)| *tagged == digest).map(|(tag, _)| tag)
    }

    /// Whether a manifest of this repository names the blob.
    pub fn is_referenced(&self, blob: &str) -> bool {
        self.images.values().any(|image| image.manifest.blobs.iter().any(|named| named == blob))
    }

    /// Whether all manifests that name the blob are archived, and there are some.
    pub fn is_archived(&self, blob: &str) -> bool {
        let mut users =
            self.images.values().filter(|image| image.manifest.blobs.iter().any(|named| named == blob)).peekable();
        users.peek().is_some() && users.all(|image| image.archived)
    }
}

impl Repository {
    fn new(name: String, directory: Option<PathBuf>, contents: Contents) -> Self {
        Self { name, directory, contents: Mutex::new(contents) }
    }

    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        lock(&self.contents)
    }

    pub fn blob(&self, digest: &str) -> Option<Blob> {
        self.contents().blobs.get(digest).cloned()
    }

    /// Keeps a finished upload.
    pub fn add_blob(&self, digest: &str, spool: Spool) -> io::Result<()> {
        let blob = spool.finish(self.blob_path(digest))?;
        self.contents().blobs.insert(digest.to_owned(), blob);
        Ok(())
    }

    /// Keeps a blob of another repository.
    pub fn share_blob(&self, digest: &str, blob: &Blob) -> io::Result<()> {
        let blob = blob.share(self.blob_path(digest))?;
        self.contents().blobs.insert(digest.to_owned(), blob);
        Ok(())
    }

    /// Loses so many blobs, the largest first; those of one size in the order of their digests.
    pub fn forget_blobs(&self, count: usize) {
        let mut contents = self.contents();
        let mut blobs: Vec<_> = contents.blobs.iter().map(|(digest, blob)| (blob.size, digest.clone())).collect();
        blobs.sort_by(|(size, digest), (other_size, other)| other_size.cmp(size).then_with(|| digest.cmp(other)));
        for (_, digest) in blobs.into_iter().take(count) {
            contents.blobs.remove(&digest);
            let _ = self.blob_path(&digest).map(std::fs::remove_file);
        }
    }

    /// Moves a tag to the image that another tag, or a digest, names.
    pub fn move_tag(&self, tag: &str, to: &str) {
        let mut contents = self.contents();
        let digest = contents.tags.get(to).cloned().unwrap_or_else(|| to.to_owned());
        if contents.images.contains_key(&digest) {
            contents.tags.insert(tag.to_owned(), digest);
            let _ = self.save(&contents);
        }
    }

    /// Writes the bytes of a manifest; the caller holds the lock.
    pub fn write_manifest(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        self.blob_path(digest).map_or(Ok(()), |path| layout::write(&path, bytes))
    }

    /// Forgets the bytes of a manifest; the caller holds the lock.
    pub fn remove_manifest(&self, digest: &str) {
        // A file that stays is a blob nobody names.
        let _ = self.blob_path(digest).map(std::fs::remove_file);
    }

    /// Writes what changed, where there is a directory to write to.
    pub fn save(&self, contents: &Contents) -> io::Result<()> {
        self.directory.as_ref().map_or(Ok(()), |directory| layout::save(directory, contents))
    }

    fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| layout::blob_path(directory, digest))
    }
}
