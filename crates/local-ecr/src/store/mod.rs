//! Repositories and what is in them.

mod blob;
mod layout;
mod lock;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::config::Storage;
use crate::manifest::Manifest;
use crate::notice::{Notice, Notices};
use crate::rules::Mutability;
use crate::util::{self, random_uuid};
pub(crate) use blob::{Blob, Spool, sha256};
use layout::Found;
use lock::FolderLock;

/// All repositories. Its lock is held to look one up, never while bytes flow.
pub(crate) struct Store {
    root: Option<PathBuf>,
    repositories: Mutex<BTreeMap<String, Arc<Repository>>>,
    damaged: Vec<String>,
    notices: Notices,
    /// Until the last request that may write has ended.
    _lock: Option<FolderLock>,
}

/// Repositories that are being deleted have such names. They are no repository any more, whatever is left of them.
const DELETED: &str = ".deleted-";

impl Store {
    pub async fn open(storage: &Storage, notices: Notices) -> io::Result<Self> {
        let mut store = Self { root: None, repositories: Mutex::default(), damaged: Vec::new(), notices, _lock: None };
        let Storage::Directory(root) = storage else {
            return Ok(store);
        };
        // First of all: what lies there may be another server's.
        store._lock = Some(FolderLock::take(root).await?);
        store.root = Some(root.clone());
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("the folder {} cannot be used: {error}", root.display()))
        };
        store.clear_leftovers().map_err(explain)?;
        let Found { repositories, damaged } = layout::load_all(root).map_err(explain)?;
        *util::lock(&store.repositories) = repositories;
        for (name, folder, cause) in damaged {
            store.damaged.push(name.clone());
            store.notices.report(&Notice::DamagedRepository { name, folder, cause });
        }
        Ok(store)
    }

    /// Removes what an earlier run left behind that is of no use: uploads, which do not survive a restart, and what it had
    /// not finished deleting.
    fn clear_leftovers(&self) -> io::Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(DELETED) {
                self.remove(&entry.path());
            }
        }
        if let Some(spool) = self.spool_directory() {
            let _ = std::fs::remove_dir_all(&spool);
            std::fs::create_dir_all(&spool)?;
        }
        Ok(())
    }

    fn remove(&self, directory: &Path) {
        if let Err(error) = std::fs::remove_dir_all(directory) {
            let work = format!("the removal of {}", directory.display());
            self.notices.internal(work, error);
        }
    }

    /// The repositories that were left out at the start.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// Beside the repositories, so that a finished blob only changes its name.
    fn spool_directory(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(".uploads"))
    }

    pub fn spool(&self) -> Spool {
        Spool::new(self.spool_directory())
    }

    pub fn find(&self, name: &str) -> Option<Arc<Repository>> {
        util::lock(&self.repositories).get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Repository>> {
        util::lock(&self.repositories).values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        util::lock(&self.repositories).len()
    }

    /// Makes a repository; `None` if there is one of that name.
    pub fn create(&self, name: &str, settings: Settings) -> io::Result<Option<Arc<Repository>>> {
        let mut repositories = util::lock(&self.repositories);
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

    /// Deletes a repository if `may` allows it. Nothing can come into it between that question and its end.
    pub fn delete<E>(
        &self,
        repository: &Repository,
        may: impl FnOnce(&Contents) -> std::result::Result<(), E>,
    ) -> std::result::Result<io::Result<()>, E> {
        let mut repositories = util::lock(&self.repositories);
        let mut contents = repository.contents();
        may(&contents)?;
        let mut trash = None;
        if let (Some(root), Some(directory)) = (&self.root, &repository.directory) {
            let path = root.join(format!("{DELETED}{}", random_uuid()));
            // All at once: a removal that fails half-way would leave a damaged repository.
            if let Err(error) = std::fs::rename(directory, &path) {
                return Ok(Err(error));
            }
            trash = Some(path);
        }
        contents.is_gone = true;
        repositories.remove(&repository.name);
        drop((contents, repositories));
        if let Some(path) = trash {
            self.remove(&path);
        }
        Ok(Ok(()))
    }
}

/// One repository.
pub(crate) struct Repository {
    pub name: String,
    directory: Option<PathBuf>,
    contents: Mutex<Contents>,
}

pub(crate) struct Contents {
    /// It was deleted. A request that found it before has come too late.
    pub is_gone: bool,
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
    fn new(settings: Settings) -> Self {
        let (images, tags, blobs, late) = Default::default();
        Self { is_gone: false, settings, images, tags, blobs, late }
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
        util::lock(&self.contents)
    }

    pub fn blob(&self, digest: &str) -> Option<Blob> {
        self.contents().blobs.get(digest).cloned()
    }

    /// Keeps a finished upload. The caller holds the lock.
    pub fn add_blob(&self, contents: &mut Contents, digest: &str, spool: Spool) -> io::Result<()> {
        contents.blobs.insert(digest.to_owned(), spool.finish(self.blob_path(digest))?);
        Ok(())
    }

    /// Keeps a blob of another repository. The caller holds the lock.
    pub fn share_blob(&self, contents: &mut Contents, digest: &str, blob: &Blob) -> io::Result<()> {
        contents.blobs.insert(digest.to_owned(), blob.share(self.blob_path(digest))?);
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
            let _ = self.change(&mut contents, |contents| contents.tags.insert(tag.to_owned(), digest));
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

    /// Changes images, tags and settings, here and in the directory, or neither: what was refused must not be there when it
    /// is asked for again, or it would be acknowledged without having been written. The caller holds the lock.
    pub fn change<T>(&self, contents: &mut Contents, change: impl FnOnce(&mut Contents) -> T) -> io::Result<T> {
        let Some(directory) = &self.directory else {
            return Ok(change(contents));
        };
        let before = (contents.images.clone(), contents.tags.clone(), contents.settings.clone());
        let changed = change(contents);
        if let Err(error) = layout::save(directory, contents) {
            (contents.images, contents.tags, contents.settings) = before;
            return Err(error);
        }
        Ok(changed)
    }

    fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| layout::blob_path(directory, digest))
    }
}
