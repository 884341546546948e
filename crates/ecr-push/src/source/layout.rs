//! An OCI layout in a directory (OCI image-layout specification).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::select::{Blobs, Selected, Selection, select};
use super::{Chosen, Content, DOCUMENT_LIMIT, LayerSink, Preview, Source, source_error};
use crate::error::Result;
use crate::image::Digest;

/// An image in an OCI layout directory.
pub(super) struct OciLayout {
    directory: Directory,
    selected: Selected,
}

impl OciLayout {
    /// Reads index and manifests of the layout.
    pub(super) fn open(path: &Path, reference: Option<&str>, selection: &Selection) -> Result<Self> {
        let directory = Directory { path: path.to_owned(), name: format!("oci:{}", path.display()) };
        let refuse = |what: &str| source_error("open layout", format!("{} {what}", directory.name));
        if !path.is_dir() {
            let what = if path.exists() { "is not a directory" } else { "does not exist" };
            return Err(refuse(what).with_hint("for a tar of a layout write `oci-archive:FILE`"));
        }
        let index = match directory.read("index.json") {
            Ok(index) => index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refuse("is not an OCI layout: it has no index.json"));
            }
            Err(error) => return Err(refuse(&format!("cannot be read: index.json: {error}")).with_source(error)),
        };
        let selected = select(&directory, index, reference, selection)?;
        Ok(Self { directory, selected })
    }
}

impl Source for OciLayout {
    fn preview(&self) -> Preview {
        preview_of(&self.selected)
    }

    fn read(self: Box<Self>, sink: &mut dyn LayerSink) -> Result<Chosen> {
        deliver(&self.directory, self.selected, sink)
    }
}

/// What is known of selected manifests.
pub(super) fn preview_of(selected: &Selected) -> Preview {
    Preview {
        config_digest: None,
        root_digest: selected.manifests.last().map(|root| root.digest),
        manifests: selected.manifests.clone(),
        blobs: selected.blobs.iter().map(|blob| blob.digest).collect(),
        layers: Some(selected.blobs.iter().filter(|blob| !is_config(selected, &blob.digest)).count()),
        contents: selected.contents.clone(),
        ..Preview::default()
    }
}

fn is_config(selected: &Selected, digest: &Digest) -> bool {
    selected.manifests.iter().any(|manifest| manifest.config_digest() == Some(*digest))
}

/// Hands the selected blobs that can be read again to the sink.
pub(super) fn deliver(blobs: &dyn Blobs, selected: Selected, sink: &mut dyn LayerSink) -> Result<Chosen> {
    for blob in &selected.blobs {
        if let Some(content) = blobs.content(&blob.digest)? {
            sink.stored(blob.digest, content);
        }
    }
    Ok(selected.chosen())
}

/// A directory with `blobs/sha256/` in it: a layout's, or a content store's.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) name: String,
}

impl Directory {
    fn read(&self, file: &str) -> io::Result<Bytes> {
        let path = self.path.join(file);
        let metadata = path.metadata()?;
        // A pipe in the place of a file would block for ever.
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
        }
        if metadata.len() > DOCUMENT_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has {} bytes", metadata.len())));
        }
        std::fs::read(path).map(Bytes::from)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join("sha256").join(digest.hex())
    }
}

impl Blobs for Directory {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.blob_path(digest).metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Err(source_error("read layout", format!("the blob {digest} of {} is not a file", self.name))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(source_error("read layout", format!("the blob {digest} of {} cannot be read: {error}", self.name))
                    .with_source(error))
            }
        }
    }

    fn document(&self, digest: &Digest) -> Result<Bytes> {
        let fail = |what: String| source_error("read layout", format!("the blob {digest} of {} {what}", self.name));
        let bytes = self.read(&format!("blobs/sha256/{}", digest.hex())).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                fail("is missing".into())
            } else {
                fail(format!("cannot be read: {error}"))
            }
        })?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(
                fail(format!("is damaged: its bytes have the digest {actual}")).with_hint("copy the image again")
            );
        }
        Ok(bytes)
    }

    fn content(&self, digest: &Digest) -> Result<Option<Content>> {
        let Some(len) = self.size(digest)? else { return Ok(None) };
        Ok(Some(Content::Path { path: Arc::new(self.blob_path(digest)), len }))
    }
}
