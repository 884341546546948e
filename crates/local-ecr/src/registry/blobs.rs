//! Blobs: whether they are there, and where to read them.

use super::{Door, Failure, Outcome, error};
use crate::error::Refusal;
use crate::http::{Request, ResponseExt, answer};
use crate::manifest::is_sha256;

impl Door<'_> {
    pub(super) fn head_blob(&self, name: &str, digest: &str) -> Outcome {
        let repository = self.on_repository(name)?;
        check_digest(digest)?;
        let Some(blob) = repository.blob(digest) else {
            return Ok(error(404, "BLOB_UNKNOWN", "blob unknown to registry"));
        };
        // of this type, whatever it is.
        Ok(answer(200, "")
            .header("content-type", "application/vnd.docker.container.image.v1+json")
            .header("content-length", blob.size.to_string())
            .header("docker-content-digest", digest))
    }

    /// the bytes are on another host.
    pub(super) fn read_blob(&self, name: &str, digest: &str, request: &Request) -> Outcome {
        let repository = self.on_repository(name)?;
        check_digest(digest)?;
        let blob = self.engine.readable_blob(&repository, digest)?;
        Ok(answer(307, "").header("location", self.engine.presign(blob, request.header("host"))))
    }
}

pub(super) fn check_digest(digest: &str) -> Result<(), Failure> {
    match is_sha256(digest) {
        true => Ok(()),
        false => Err(Refusal::parameter("layerDigest", "must satisfy regular expression 'sha256:[0-9a-f]{64}'").into()),
    }
}
