//! The bytes of one blob: from the content store's own file where we may read it, else through the API.

use std::path::PathBuf;

use bytes::Bytes;

use super::client::Containerd;
use super::grpc::Answers;
use super::messages;
use crate::error::{Error, Result, Side};
use crate::image::Digest;
use crate::text::count;

/// A blob in a namespace of a containerd.
#[derive(Clone, Debug)]
pub struct Blob {
    containerd: Containerd,
    digest: Digest,
    size: u64,
}

impl Blob {
    pub(super) fn new(containerd: Containerd, digest: Digest, size: u64) -> Self {
        Self { containerd, digest, size }
    }

    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file in containerd's content store, if this process may read it. It blocks for a moment.
    ///
    /// Reading it is many times cheaper than the API. It is no other authority: that the namespace has the blob was said
    /// by containerd, and whoever sends the bytes checks them against the digest. containerd may name a path of another
    /// mount namespace (its socket is often put into a container), hence the look at the size.
    pub fn path(&self) -> Option<PathBuf> {
        let path = self.containerd.store()?.join("blobs/sha256").join(self.digest.hex());
        let metadata = std::fs::File::open(&path).ok()?.metadata().ok()?;
        (metadata.is_file() && metadata.len() == self.size).then_some(path)
    }

    /// Reads into `buffer` from `offset` on, as much as there is. Returns how many bytes that is.
    ///
    /// # Errors
    /// If containerd cannot be asked, has the blob no more, or sends less than it said.
    pub async fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let end = self.size.min(offset.saturating_add(buffer.len() as u64));
        let mut stream = self.open(offset, end).await?;
        let mut filled = 0;
        while let Some(bytes) = stream.next().await? {
            // The stream ends at `end`, so everything fits.
            buffer[filled..filled + bytes.len()].copy_from_slice(&bytes);
            filled += bytes.len();
        }
        Ok(filled)
    }

    /// The bytes from `offset` on, as they come. A slow reader slows containerd down; at most a few MiB lie in memory.
    ///
    /// # Errors
    /// If containerd cannot be asked, or has the blob no more.
    pub async fn stream(&self, offset: u64) -> Result<BlobStream> {
        self.open(offset, self.size).await
    }

    /// All bytes, for documents that are read whole: their digest is checked.
    ///
    /// # Errors
    /// If there are more than `limit`, if they are damaged, or if containerd cannot be asked.
    pub async fn document(&self, limit: u64) -> Result<Bytes> {
        if self.size > limit {
            return Err(self.error(format!("has {} bytes, more than the {limit} allowed for a document", self.size)));
        }
        let mut bytes = Vec::new();
        let mut stream = self.stream(0).await?;
        while let Some(chunk) = stream.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let actual = Digest::of(&bytes);
        if actual != self.digest {
            return Err(self
                .error(format!("is damaged: its bytes have the digest {actual}"))
                .with_hint("remove the image there and pull it again"));
        }
        Ok(bytes.into())
    }

    async fn open(&self, offset: u64, end: u64) -> Result<BlobStream> {
        let answers = match end.checked_sub(offset) {
            Some(len) if len > 0 => Some(self.containerd.read(&self.digest, offset, len).await?),
            _ => None,
        };
        Ok(BlobStream { blob: self.clone(), answers, position: offset, end })
    }

    fn error(&self, what: String) -> Error {
        let message = format!("the blob {} of {} {what}", self.digest, self.containerd.describe());
        Error::new(Side::Source, messages::READ.operation, message)
    }
}

/// Bytes of a blob as they come. Dropped before its end, it stops containerd.
#[derive(Debug)]
pub struct BlobStream {
    blob: Blob,
    /// None where there is nothing to read.
    answers: Option<Answers>,
    position: u64,
    end: u64,
}

impl BlobStream {
    /// The next bytes, at most a few MiB; none after the last. An early end is an error, never a short read.
    ///
    /// # Errors
    /// If no byte comes for a minute, or the connection breaks, or containerd sends other bytes than it said.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(answers) = &mut self.answers else { return Ok(None) };
        loop {
            let Some(message) = answers.next().await? else {
                if self.position < self.end {
                    let missing = self.end - self.position;
                    return Err(self.blob.error(format!("ended {} before its end", count(missing, "byte", "bytes"))));
                }
                return Ok(None);
            };
            let bytes = messages::chunk(message).map_err(|error| answers.failure().malformed(error))?;
            if bytes.is_empty() {
                continue;
            }
            self.position += bytes.len() as u64;
            if self.position > self.end {
                return Err(self.blob.error("has more bytes than were asked for".to_owned()));
            }
            return Ok(Some(bytes));
        }
    }
}
