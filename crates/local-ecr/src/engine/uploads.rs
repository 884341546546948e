//! Upload sessions: consecutive bytes, parts, and the commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;

use super::Engine;
use crate::error::{Refusal, Result};
use crate::http::RequestBody;
use crate::store::{Repository, Spool};
use crate::util::{lock, random_uuid};

/// The proxy behind the registry door cuts a stream into parts of this size (ecr-facts 4.4).
const STREAM_PART: u64 = 10_485_760;

#[derive(Default)]
pub(super) struct Uploads(Mutex<HashMap<String, Arc<Upload>>>);

/// A session. Its own lock is held while a body flows into it; no other session waits for that.
pub(crate) struct Upload {
    pub id: String,
    pub repository: String,
    /// When it was last asked for, by the server's clock.
    used: Mutex<SystemTime>,
    /// `None` once it is done.
    session: tokio::sync::Mutex<Option<Session>>,
}

struct Session {
    spool: Spool,
    /// Sizes of the parts, to be judged at the commit.
    parts: Vec<u64>,
    /// Where the first `PATCH` ended: what the `Range` header says from then on.
    first_patch: Option<u64>,
}

/// The `first-last` of a `Content-Range`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContentRange {
    pub first: u64,
    pub last: u64,
}

impl ContentRange {
    /// Reads `0-99`, `bytes=0-99` and `bytes 0-99/*`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start_matches("bytes").trim_start_matches(['=', ' ']);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        let range = Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? };
        (range.first <= range.last && range.last < u64::MAX).then_some(range)
    }

    fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Why bytes were not taken.
pub(crate) enum WriteError {
    /// The client went away, or a fault cut the connection.
    Cut,
    Refused(Refusal),
}

fn cut(_: std::io::Error) -> WriteError {
    WriteError::Cut
}

impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Engine {
    pub fn start_upload(&self, repository: &Repository) -> Result<Arc<Upload>> {
        let session = Session { spool: self.store.spool(), parts: Vec::new(), first_patch: None };
        let upload = Arc::new(Upload {
            id: random_uuid(),
            repository: repository.name.clone(),
            used: Mutex::new(self.clock.now()),
            session: tokio::sync::Mutex::new(Some(session)),
        });
        // Held until the session can be found, so that it ends with its repository.
        let _contents = self.changeable(repository)?;
        let mut uploads = lock(&self.uploads.0);
        if uploads.len() >= self.config.limits.upload_sessions {
            self.make_room(&mut uploads);
        }
        uploads.insert(upload.id.clone(), Arc::clone(&upload));
        Ok(upload)
    }

    /// a session of this repository.
    pub fn upload(&self, repository: &str, id: &str) -> Result<Arc<Upload>> {
        let mut uploads = lock(&self.uploads.0);
        if uploads.get(id).is_some_and(|upload| self.is_over(upload)) {
            uploads.remove(id);
        }
        let found = uploads.get(id).filter(|upload| upload.repository == repository).cloned();
        found
            .inspect(|upload| self.touch(upload))
            .ok_or_else(|| Refusal::no_upload(id, repository, &self.config.account))
    }

    /// Ends the sessions whose time is over.
    pub fn end_old_uploads(&self) {
        lock(&self.uploads.0).retain(|_, upload| !self.is_over(upload));
    }

    /// a session that nothing was asked of for so long is over. One that bytes flow into is in use.
    fn is_over(&self, upload: &Upload) -> bool {
        self.clock.has_passed(*lock(&upload.used), self.config.upload_ttl) && upload.session.try_lock().is_ok()
    }

    fn touch(&self, upload: &Upload) {
        *lock(&upload.used) = self.clock.now();
    }

    /// with too many sessions, the one that has waited the longest makes room. Its client, if there still is one, begins
    /// another.
    fn make_room(&self, uploads: &mut HashMap<String, Arc<Upload>>) {
        uploads.retain(|_, upload| !self.is_over(upload));
        while uploads.len() >= self.config.limits.upload_sessions {
            let waiting = uploads.values().filter(|upload| upload.session.try_lock().is_ok());
            let Some(id) = waiting.min_by_key(|upload| *lock(&upload.used)).map(|upload| upload.id.clone()) else {
                return;
            };
            uploads.remove(&id);
        }
    }

    /// Ends a session as if its time were over, or without an id all sessions of the repository.
    pub fn end_uploads(&self, repository: &str, id: Option<&str>) {
        lock(&self.uploads.0)
            .retain(|_, upload| upload.repository != repository || id.is_some_and(|id| upload.id != id));
    }

    /// A body of the registry door. Returns where the stale `Range` header ends.
    pub async fn stream_into(
        &self,
        upload: &Upload,
        range: Option<ContentRange>,
        content_length: Option<u64>,
        body: &mut RequestBody,
    ) -> std::result::Result<u64, WriteError> {
        let mut guard = upload.session.lock().await;
        let session = guard.as_mut().ok_or_else(|| self.finished(upload))?;
        let before = session.spool.size();
        // a body without a range starts at zero, whatever the session holds.
        let first = range.map_or(0, |range| range.first);
        // An empty body sends no byte, so it cannot start at a wrong one.
        if first != before && (range.is_some() || content_length != Some(0)) {
            let Some(chunk) = body.chunk().await.map_err(cut)? else {
                return Ok(session.range_end());
            };
            drop(chunk);
            body.drain().await.map_err(cut)?;
            return Err(wrong_first_byte(first, before).into());
        }
        let wrong_length = |length: u64| range.is_some_and(|range| range.length() != length);
        if content_length.is_some_and(wrong_length) {
            body.drain().await.map_err(cut)?;
            return Err(self.wrong_length().into());
        }
        let outcome = self.receive(session, body).await;
        self.touch(upload);
        let written = session.spool.flush().await.map_err(Refusal::server);
        // what arrived before a cut stays, in parts as they were stored.
        let received = session.spool.size() - before;
        session.add_parts(received, range.is_some());
        outcome?;
        written?;
        if wrong_length(received) {
            return Err(self.wrong_length().into());
        }
        if range.is_some() && session.parts.len() > self.config.limits.layer_parts {
            return Err(self.too_many_parts().into());
        }
        // right after the first PATCH, stuck from then on.
        if session.first_patch.is_none() && received > 0 {
            session.first_patch = Some(session.spool.size());
        }
        Ok(session.range_end())
    }

    async fn receive(&self, session: &mut Session, body: &mut RequestBody) -> std::result::Result<(), WriteError> {
        while let Some(chunk) = body.chunk().await.map_err(cut)? {
            //
            if session.spool.size() + chunk.len() as u64 > self.config.limits.layer_bytes {
                body.drain().await.map_err(cut)?;
                return Err(Refusal::new(
                    "LimitExceededException",
                    format!("The layer is larger than the limit of {} bytes", self.config.limits.layer_bytes),
                )
                .into());
            }
            session.spool.write(chunk).await.map_err(Refusal::server)?;
        }
        Ok(())
    }

    /// a part of the API door. Returns the last byte received.
    pub async fn upload_part(&self, upload: &Upload, range: ContentRange, blob: Vec<u8>) -> Result<u64> {
        let mut guard = upload.session.lock().await;
        let session = guard.as_mut().ok_or_else(|| self.finished(upload))?;
        let size = session.spool.size();
        let limits = &self.config.limits;
        let invalid = |message: String| {
            Refusal::new("InvalidLayerPartException", message)
                .with("registryId", self.config.account.clone())
                .with("repositoryName", upload.repository.clone())
                .with("uploadId", upload.id.clone())
                // Nothing received yet has no last byte; botocore's model wants a number of at least zero.
                .with("lastValidByteReceived", size.saturating_sub(1))
        };
        if range.first != size {
            return Err(invalid(wrong_first_byte(range.first, size).message));
        }
        if range.length() != blob.len() as u64 {
            return Err(invalid(format!(
                "Layer part has {} bytes, but its first and last byte say {}",
                blob.len(),
                range.length()
            )));
        }
        if range.length() > limits.max_part_bytes {
            return Err(invalid(format!("Layer part is larger than {} bytes", limits.max_part_bytes)));
        }
        if session.parts.len() >= limits.layer_parts {
            return Err(self.too_many_parts());
        }
        if range.last >= limits.layer_bytes {
            return Err(Refusal::new(
                "LimitExceededException",
                format!("The layer is larger than the limit of {} bytes", limits.layer_bytes),
            ));
        }
        session.parts.push(range.length());
        session.spool.write(Bytes::from(blob)).await.map_err(Refusal::server)?;
        session.spool.flush().await.map_err(Refusal::server)?;
        Ok(range.last)
    }

    /// The commit, at both doors. A session whose digest was wrong stays open, as no source says it ends.
    pub async fn complete_upload(
        &self,
        repository: &Repository,
        upload: &Upload,
        digests: &[String],
    ) -> Result<String> {
        let mut guard = upload.session.lock().await;
        let session = guard.as_mut().ok_or_else(|| self.finished(upload))?;
        // there is no empty blob.
        if session.spool.size() == 0 {
            return Err(Refusal::new(
                "EmptyUploadException",
                format!(
                    "The upload with id '{}' in the repository with name '{}' in registry with id '{}' cannot be \
                     completed because it does not have any parts",
                    upload.id, repository.name, self.config.account
                ),
            ));
        }
        // judged here, not when the part came.
        if let [parts @ .., _] = session.parts.as_slice()
            && parts.iter().any(|&size| size < self.config.limits.min_part_bytes)
        {
            return Err(Refusal::new(
                "LayerPartTooSmallException",
                "All layer parts except the last part should be at least 5MB",
            ));
        }
        let digest = session.spool.digest().await.map_err(Refusal::server)?;
        //
        if !digests.contains(&digest) {
            return Err(Refusal::new(
                "InvalidLayerException",
                "None of the provided layer digests match the calculated layer digest",
            ));
        }
        // It may have been ended meanwhile.
        lock(&self.uploads.0).remove(&upload.id).ok_or_else(|| self.finished(upload))?;
        let spool = guard.take().map(|session| session.spool);
        let mut contents = self.changeable(repository)?;
        //
        if contents.blobs.contains_key(&digest) {
            return Err(Refusal::new(
                "LayerAlreadyExistsException",
                format!(
                    "Layer with digest '{digest}' already exists in the repository with name '{}' in registry with id \
                     '{}'",
                    repository.name, self.config.account
                ),
            ));
        }
        if let Some(spool) = spool {
            repository.add_blob(&mut contents, &digest, spool).map_err(Refusal::server)?;
        }
        Ok(digest)
    }

    fn finished(&self, upload: &Upload) -> Refusal {
        Refusal::no_upload(&upload.id, &upload.repository, &self.config.account)
    }

    fn too_many_parts(&self) -> Refusal {
        Refusal::new(
            "LimitExceededException",
            format!("A layer cannot have more than {} parts", self.config.limits.layer_parts),
        )
    }

    ///
    fn wrong_length(&self) -> Refusal {
        Refusal::new("InvalidLayerPartException", "The size of the layer part is not that of its Content-Range")
    }
}

impl Session {
    fn range_end(&self) -> u64 {
        self.first_patch.unwrap_or(0).saturating_sub(1)
    }

    /// A chunk with a range is one part, however large; a stream is cut.
    fn add_parts(&mut self, bytes: u64, is_chunk: bool) {
        if is_chunk {
            self.parts.extend((bytes > 0).then_some(bytes));
            return;
        }
        self.parts.extend((0..bytes / STREAM_PART).map(|_| STREAM_PART));
        self.parts.extend(Some(bytes % STREAM_PART).filter(|&tail| tail > 0));
    }
}

///
fn wrong_first_byte(got: u64, wanted: u64) -> Refusal {
    Refusal::new("InvalidLayerPartException", format!("First byte of the layer part is {got} instead of {wanted}"))
}
