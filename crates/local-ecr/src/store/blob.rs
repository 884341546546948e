//! Blobs: written once while they are hashed, then read in ranges.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempPath};

use crate::http::Body;
use crate::util::hex;

/// How much is gathered before it goes to a blocking thread: enough to make the hop cheap, little enough that many
/// uploads at once stay small.
const BATCH: usize = 1 << 20;

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Bytes on their way to become a blob.
pub(crate) struct Spool {
    /// Away while a blocking thread works on it; away for ever if that failed.
    writer: Option<Writer>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    size: u64,
}

struct Writer {
    hasher: Sha256,
    sink: Sink,
}

/// A file is open while bytes are written to it and no longer: a session may wait for hours, and file descriptors are few.
enum Sink {
    File(TempPath),
    Memory(Vec<Bytes>),
    /// A file in this directory, once there is a byte to write.
    Unmade(PathBuf),
}

impl Sink {
    fn write(&mut self, pending: Vec<Bytes>) -> io::Result<()> {
        match self {
            Self::Memory(memory) => memory.extend(pending),
            Self::File(path) => {
                let mut file = OpenOptions::new().append(true).open(path)?;
                pending.iter().try_for_each(|bytes| file.write_all(bytes))?;
            }
            Self::Unmade(directory) => {
                let mut file = NamedTempFile::new_in(directory)?;
                pending.iter().try_for_each(|bytes| file.write_all(bytes))?;
                *self = Self::File(file.into_temp_path());
            }
        }
        Ok(())
    }
}

impl Spool {
    /// A spool in a file below this directory, or in memory.
    pub fn new(directory: Option<PathBuf>) -> Self {
        let sink = directory.map_or_else(|| Sink::Memory(Vec::new()), Sink::Unmade);
        let writer = Some(Writer { hasher: Sha256::new(), sink });
        Self { writer, pending: Vec::new(), pending_bytes: 0, size: 0 }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.size += bytes.len() as u64;
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        if self.pending_bytes < BATCH { Ok(()) } else { self.flush().await }
    }

    /// Writes what was gathered, so that a session that waits holds no memory for it.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut writer = self.writer.take().ok_or_else(|| io::Error::other("an earlier write failed"))?;
        let work = move || -> io::Result<Writer> {
            for bytes in &pending {
                writer.hasher.update(bytes);
            }
            writer.sink.write(pending)?;
            Ok(writer)
        };
        self.writer = Some(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??);
        Ok(())
    }

    /// The digest of what was written so far.
    pub async fn digest(&mut self) -> io::Result<String> {
        self.flush().await?;
        let writer = self.writer.as_ref().ok_or_else(|| io::Error::other("an earlier write failed"))?;
        Ok(format!("sha256:{}", hex(&writer.hasher.clone().finalize())))
    }

    /// Makes a blob of it, in a directory's case under its final name. [`Spool::digest`] has to come first.
    pub fn finish(self, path: Option<PathBuf>) -> io::Result<Blob> {
        let writer = self.writer.ok_or_else(|| io::Error::other("an earlier write failed"))?;
        let content = match (writer.sink, path) {
            (Sink::File(file), Some(path)) => {
                file.persist(&path).map_err(|error| error.error)?;
                Content::File(path.into())
            }
            (Sink::Memory(bytes), _) => Content::Memory(bytes.into()),
            (Sink::File(_), None) => return Err(io::Error::other("a file has no place in memory")),
            (Sink::Unmade(_), _) => return Err(io::Error::other("nothing was written")),
        };
        Ok(Blob { size: self.size, content })
    }
}

/// A blob in a repository.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub size: u64,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    File(Arc<Path>),
    Memory(Arc<[Bytes]>),
}

impl Blob {
    pub fn in_file(path: PathBuf, size: u64) -> Self {
        Self { size, content: Content::File(path.into()) }
    }

    /// The same blob under another repository's roof; in a directory both layouts must be whole, so the file gets a
    /// second name.
    pub fn share(&self, path: Option<PathBuf>) -> io::Result<Self> {
        let (Content::File(source), Some(path)) = (&self.content, path) else {
            return Ok(self.clone());
        };
        if !path.exists() && std::fs::hard_link(source, &path).is_err() {
            // A file system without hard links.
            std::fs::copy(source, &path)?;
        }
        Ok(Self::in_file(path, self.size))
    }

    /// The bytes of a range, read as they are sent.
    pub fn body(&self, range: Range<u64>) -> io::Result<Body> {
        let left = range.end.saturating_sub(range.start);
        match &self.content {
            Content::Memory(chunks) => {
                let mut skip = range.start;
                let mut left = left;
                let mut pieces = Vec::new();
                for chunk in chunks.iter() {
                    let length = chunk.len() as u64;
                    let from = skip.min(length);
                    let take = left.min(length - from);
                    skip -= from;
                    left -= take;
                    if take > 0 {
                        // Both are at most the length of a chunk in memory.
                        pieces.push(chunk.slice(from as usize..(from + take) as usize));
                    }
                }
                let frames = stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
                Ok(StreamBody::new(frames).boxed_unsync())
            }
            Content::File(path) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(range.start))?;
                let frames = stream::try_unfold((file, left), |(mut file, left)| async move {
                    if left == 0 {
                        return Ok(None);
                    }
                    let read = move || -> io::Result<(File, Vec<u8>)> {
                        let mut piece = vec![0; usize::try_from(left).unwrap_or(BATCH).min(BATCH)];
                        file.read_exact(&mut piece)?;
                        Ok((file, piece))
                    };
                    let (file, piece) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
                    let left = left - piece.len() as u64;
                    Ok(Some((Frame::data(Bytes::from(piece)), (file, left))))
                });
                Ok(StreamBody::new(frames).boxed_unsync())
            }
        }
    }
}
