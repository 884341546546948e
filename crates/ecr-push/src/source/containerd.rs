//! An image of containerd, as nerdctl, ctr and Kubernetes keep them: its manifests and blobs as they are.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::layout::{deliver, preview_of};
use super::select::{Blobs, Selected, from_root};
use super::{Chosen, Content, DOCUMENT_LIMIT, LayerSink, Preview, ReadAt, Selection, Source, source_error};
use crate::containerd::{Blob, Containerd};
use crate::error::Result;
use crate::image::{Digest, Manifest};

/// An image of containerd.
pub struct ContainerdSource {
    store: Store,
    selected: Selected,
    door: &'static str,
}

impl ContainerdSource {
    /// Finds `name` in containerd's namespace. Must be called within a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// If there is no such image, or it is incomplete, or containerd cannot be asked.
    pub async fn open(containerd: Containerd, name: &str, selection: &Selection) -> Result<Self> {
        let image = containerd.image(name).await?;
        let described = format!("{} of {}", image.name, containerd.describe());
        let store = Store { containerd, name: described, runtime: Handle::current() };
        // What is asked of a layout is asked by blocking calls, on a thread of their own: a `block_on` within the task that the runtime is
        // blocked on would swallow wake-ups that are meant for that one.
        let selection = selection.clone();
        let opened = tokio::task::spawn_blocking(move || {
            // The blobs lie beside the manifest; each is looked for again when it is read.
            let door = match store.blob(&image.digest)?.and_then(|blob| blob.path()) {
                Some(_) => "containerd's files",
                None => "containerd's API (its files cannot be read here)",
            };
            let root = Manifest::parse(store.document(&image.digest)?, Some(&image.media_type))?;
            let selected = from_root(&store, root, None, &selection)?;
            Ok(Self { store, selected, door })
        });
        opened.await.map_err(|error| source_error("read image", "reading the image ended early").with_source(error))?
    }

    /// How the log calls it.
    pub fn describe(&self) -> &str {
        &self.store.name
    }

    /// Where the layers come from, and if that is not the fast way, why.
    pub fn door(&self) -> &'static str {
        self.door
    }
}

impl Source for ContainerdSource {
    fn preview(&self) -> Preview {
        preview_of(&self.selected)
    }

    fn read(self: Box<Self>, sink: &mut dyn LayerSink) -> Result<Chosen> {
        deliver(&self.store, self.selected, sink)
    }
}

struct Store {
    containerd: Containerd,
    name: String,
    runtime: Handle,
}

impl Store {
    fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        self.runtime.block_on(self.containerd.blob(digest))
    }
}

impl Blobs for Store {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.blob(digest)?.map(|blob| blob.size()))
    }

    fn document(&self, digest: &Digest) -> Result<Bytes> {
        let blob = self.blob(digest)?.ok_or_else(|| {
            source_error("read image", format!("{} lacks the blob {digest}", self.name))
                .with_hint("pull the image again; some nodes drop the blobs of layers once these are unpacked")
        })?;
        self.runtime.block_on(blob.document(DOCUMENT_LIMIT))
    }

    fn content(&self, digest: &Digest) -> Result<Option<Content>> {
        let Some(blob) = self.blob(digest)? else { return Ok(None) };
        let len = blob.size();
        // Its file, if that may be read, is many times as fast as the API.
        Ok(Some(match blob.path() {
            Some(path) => Content::Path { path: Arc::new(path), len },
            None => Content::Remote { reader: Arc::new(Remote { blob, runtime: self.runtime.clone() }), len },
        }))
    }
}

/// A blob that is read through the API.
struct Remote {
    blob: Blob,
    runtime: Handle,
}

impl ReadAt for Remote {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.runtime.block_on(self.blob.read_at(buffer, offset)).map_err(io::Error::other)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(self.blob.digest()).finish()
    }
}
