//! Where images come from. Each source describes its image and delivers the layers in the order its medium has them.

mod archive;
#[cfg(feature = "containerd")]
mod containerd;
mod daemon;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layout;
mod legacy_names;
mod named;
mod pick;
mod reference;
mod select;
mod spec;
mod tar_index;
#[cfg(test)]
mod tests_pick;
#[cfg(all(test, unix, feature = "containerd"))]
mod tests_selection;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(feature = "containerd")]
pub use containerd::ContainerdSource;
pub use daemon::DockerDaemon;
pub use named::Named;
pub(crate) use select::MAX_DOCUMENTS;
pub use select::{Attestations, Selection};
pub use spec::SourceSpec;

use crate::error::{Error, Result, Side};
use crate::image::{DiffId, Digest, Manifest, Platform};
use crate::text::Text;

/// What is known of an image before any layer is read.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    /// The config's digest, where the manifest will be made by us.
    pub config_digest: Option<Digest>,
    /// The digest of the manifest or index that will be pushed byte for byte.
    pub root_digest: Option<Digest>,
    /// The manifests that will be pushed byte for byte, where they are known already.
    pub manifests: Vec<Manifest>,
    /// The blobs it consists of, where they are known by digest already.
    pub blobs: Vec<Digest>,
    /// Its layers, base first, where the manifest will be made by us and they are known already.
    pub diff_ids: Vec<DiffId>,
    /// What it runs on, where `diff_ids` is known.
    pub platform: Option<Platform>,
    /// How many different layers there are.
    pub layers: Option<usize>,
    /// What is in it, as far as that is known.
    pub contents: Contents,
}

/// A place that holds the image to be pushed.
pub trait Source: Send {
    /// What is known before any layer is read.
    fn preview(&self) -> Preview;

    /// The same image by a way that is slower and more certain, if this one is not the last.
    fn slower(&self) -> Option<Box<dyn Source>> {
        None
    }

    /// Delivers every layer the image needs to `sink`, then says what the image is. Blocks; called on a thread of its own.
    ///
    /// # Errors
    /// If the image is incomplete, damaged or not there, or if the sink wants no more.
    fn read(self: Box<Self>, sink: &mut dyn LayerSink) -> Result<Chosen>;
}

/// Takes layers from a source. The source calls it from one thread.
pub trait LayerSink {
    /// Takes an uncompressed layer tar of `size` bytes as it passes. Returns its diff id. One that is said to be `promised` is only
    /// passed over if it is not needed, and must be that layer otherwise.
    fn layer(&mut self, size: u64, promised: Option<DiffId>, content: &mut dyn Read) -> Result<DiffId>;

    /// Takes uncompressed layers that can be read at any time, on several threads. Those that are not needed are not read.
    fn layers(&mut self, layers: Vec<StoredLayer>) -> Result<()>;

    /// Those of `layers` that have to be delivered, each once. Waits until that is known.
    fn needed(&mut self, layers: &[DiffId]) -> Vec<DiffId>;

    /// The size of the config `digest` if the registry has it, so that it need not be delivered.
    fn config_there(&mut self, digest: &Digest) -> Option<u64>;

    /// Takes a blob that goes up unchanged, as it passes. Fails if it does not have `digest`, where that is known.
    /// Returns its digest, and its diff id if `want_diff_id` (it is unpacked for that).
    fn blob(
        &mut self,
        digest: Option<Digest>,
        size: u64,
        content: &mut dyn Read,
        want_diff_id: bool,
    ) -> Result<(Digest, Option<DiffId>)>;

    /// Takes a blob that goes up unchanged and can be read again at any time.
    fn stored(&mut self, digest: Digest, content: Content);

    /// From now on nothing is sent: which layers are needed is known only at the end of the stream.
    fn hold(&mut self);

    /// Ends [`LayerSink::hold`]: what `needed` names is sent, the rest is dropped. Fails if `image` may not be pushed.
    fn release(&mut self, image: &Image, needed: &dyn Fn(&Held) -> bool) -> Result<()>;
}

/// An uncompressed layer that can be read at any time, by any thread.
pub struct StoredLayer {
    /// What it must be.
    pub diff_id: DiffId,
    /// About how many bytes it has: large ones are read first.
    pub size: u64,
    /// What messages call it.
    pub name: String,
    /// Opens it.
    pub open: OpenLayer,
}

/// Opens a layer at its first byte.
pub type OpenLayer = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A layer in the hands of a holding sink.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its digest as it would be sent.
    pub digest: Digest,
    /// Its diff id, if it was taken uncompressed or unpacked.
    pub diff_id: Option<DiffId>,
}

/// What a source chose, and what it was asked for. [`Named::check`] compares the two before anything is published.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// What the reference, the engine and the selection name.
    pub named: Named,
    /// What came of it.
    pub image: Image,
}

/// The image that is to be pushed.
#[derive(Clone, Debug)]
pub enum Image {
    /// An image of layers; the manifest is ours to make.
    Layers {
        /// The config.
        config: ConfigBlob,
        /// The layers that the config lists, base first.
        diff_ids: Vec<DiffId>,
        /// How they were delivered, in the same order.
        layers: Vec<LayerRef>,
        /// What it runs on.
        platform: Platform,
    },
    /// Manifests that exist: they go up byte for byte, children before the index that names them; the last one is the
    /// root that gets the tags.
    Manifests {
        /// The manifests in the order in which they are put.
        manifests: Vec<Manifest>,
        /// What is in it, for people.
        contents: Contents,
    },
}

/// An image's config.
#[derive(Clone, Debug)]
pub enum ConfigBlob {
    /// Byte for byte.
    Bytes(Bytes),
    /// It was not read, because the registry has it.
    There {
        /// Its digest.
        digest: Digest,
        /// How many bytes it has.
        size: u64,
    },
}

impl ConfigBlob {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Bytes(bytes) => Digest::of(bytes),
            Self::There { digest, .. } => *digest,
        }
    }
}

/// Names a delivered layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerRef {
    /// It was delivered uncompressed.
    Uncompressed(DiffId),
    /// It was delivered as a blob that is sent unchanged.
    Blob(Digest),
}

/// What an image or index holds, for the summary and its warnings.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// True if the root is an index.
    pub is_index: bool,
    /// The platforms, attestations left out.
    pub platforms: Vec<Platform>,
    /// How many attestation manifests go along.
    pub attestations: usize,
    /// True if attestations were dropped, so that the digest is another one than the source's.
    pub digest_changed: bool,
}

/// Bytes that can be read as often as a transfer needs.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Memory(Bytes),
    /// A whole file that is opened when it is read: a layout may have more blobs than a process may open files.
    Path {
        /// The file.
        path: Arc<PathBuf>,
        /// How many bytes it has.
        len: u64,
    },
    /// A part of a file.
    File {
        /// The file. It may be unlinked.
        file: Arc<File>,
        /// Where the bytes start.
        offset: u64,
        /// How many there are.
        len: u64,
    },
    /// Somewhere that answers questions for bytes.
    Remote {
        /// Who answers.
        reader: Arc<dyn ReadAt>,
        /// How many bytes there are.
        len: u64,
    },
}

/// Bytes that are asked for by their place.
pub trait ReadAt: std::fmt::Debug + Send + Sync {
    /// Reads into `buffer` from `offset` on, as much as there is. Blocks.
    ///
    /// # Errors
    /// If the bytes cannot be had.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Content {
    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } | Self::Path { len, .. } | Self::Remote { len, .. } => *len,
        }
    }

    /// The same bytes, with the file open.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&self) -> io::Result<Self> {
        match self {
            Self::Path { path, len } => Ok(Self::File { file: Arc::new(File::open(&**path)?), offset: 0, len: *len }),
            other => Ok(other.clone()),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads into `buffer` from `offset` on, as much as there is.
    ///
    /// # Errors
    /// Those of the file; also if it has become shorter.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.len().saturating_sub(offset);
        let want = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        match self {
            Self::Memory(bytes) => {
                // `want` is at most what is left after `offset`, so the range exists.
                let start = offset as usize;
                buffer[..want].copy_from_slice(bytes.get(start..start + want).unwrap_or_default());
                Ok(want)
            }
            Self::File { file, offset: base, .. } => {
                let n = read_file_at(file, &mut buffer[..want], base + offset)?;
                if n == 0 && want > 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
                }
                Ok(n)
            }
            Self::Path { .. } => self.open()?.read_at(buffer, offset),
            Self::Remote { reader, .. } => match reader.read_at(&mut buffer[..want], offset)? {
                0 if want > 0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has become shorter")),
                n => Ok(n),
            },
        }
    }

    /// A reader over all bytes.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self) -> io::Result<impl Read + Send + 'static> {
        Ok(ContentReader { content: self.open()?, position: 0 })
    }

    /// All bytes, for documents that are read whole.
    ///
    /// # Errors
    /// If there are more than `limit`, or the file cannot be read.
    pub fn to_bytes(&self, limit: u64) -> io::Result<Bytes> {
        if self.len() > limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has {} bytes, more than the {limit} allowed for a document", self.len()),
            ));
        }
        if let Self::Memory(bytes) = self {
            return Ok(bytes.clone());
        }
        let mut bytes = Vec::new();
        self.reader()?.read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }
}

struct ContentReader {
    content: Content,
    position: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read_at(buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// Reads at an offset. On Windows this also moves where the next plain read begins: a file that is read so is read so by everybody.
#[cfg(unix)]
fn read_file_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_file_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// The largest manifest, index or config that is read: a manifest may have 4 MiB (ecr-facts 3), a config some more.
pub(crate) const DOCUMENT_LIMIT: u64 = 8 << 20;

/// A failure of the source.
pub(crate) fn source_error(operation: &str, message: impl Into<Text>) -> Error {
    Error::new(Side::Source, operation, message)
}

/// Opens a source that is a file or directory. An engine's image is opened by [`DockerDaemon::open`].
///
/// # Errors
/// If it is not there, or holds no image, or not the one asked for.
pub fn open_file(spec: &SourceSpec, selection: &Selection) -> Result<Box<dyn Source>> {
    Ok(match spec {
        SourceSpec::DockerArchive { path, reference } => {
            Box::new(archive::Archive::open(path, tar_index::Mode::Docker, reference.as_deref(), selection)?)
        }
        SourceSpec::OciArchive { path, reference } => {
            Box::new(archive::Archive::open(path, tar_index::Mode::Oci, reference.as_deref(), selection)?)
        }
        SourceSpec::OciLayout { path, reference } => {
            Box::new(layout::OciLayout::open(path, reference.as_deref(), selection)?)
        }
        SourceSpec::Daemon(name) | SourceSpec::Containerd(name) => {
            return Err(Error::new(Side::Source, "open source", format!("`{name}` is an engine's image, not a file")));
        }
    })
}
