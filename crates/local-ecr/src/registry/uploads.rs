//! Upload sessions.

use super::blobs::check_digest;
use super::{Door, Failure, Outcome};
use crate::engine::{ContentRange, Upload, WriteError};
use crate::error::Refusal;
use crate::http::{Request, Response, ResponseExt, answer};
use crate::store::Repository;
use crate::util::query_value;

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Cut => Self::Cut,
            WriteError::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

impl Door<'_> {
    pub(super) async fn start_upload(&self, name: &str, request: &mut Request) -> Outcome {
        let repository = self.on_pushed_repository(name)?;
        // A body with `?digest=` is not heeded: nothing shows that ECR takes uploads in one POST (ecr-facts 4.3).
        request.body.drain().await?;
        if let Some(mounted) = self.mount(&repository, request)? {
            return Ok(mounted);
        }
        let upload = self.engine.start_upload(&repository)?;
        Ok(self.session(request, &upload, 202, 0))
    }

    pub(super) async fn patch_upload(&self, name: &str, id: &str, request: &mut Request) -> Outcome {
        let repository = self.on_repository(name)?;
        let upload = self.engine.upload(&repository.name, id)?;
        let end = self.receive(&upload, request).await?;
        // 201, not the 202 of the specification.
        Ok(self.session(request, &upload, 201, end))
    }

    pub(super) async fn commit_upload(&self, name: &str, id: &str, request: &mut Request) -> Outcome {
        let repository = self.on_repository(name)?;
        let upload = self.engine.upload(&repository.name, id)?;
        //
        let Some(digest) = query_value(&request.query, "digest") else {
            return Err(Refusal::parameter("layerDigests", "Member must not be null").into());
        };
        check_digest(&digest)?;
        // bytes in the commit are parts too, and need the right to send parts (ecr-facts section 1).
        if request.header("content-length") != Some("0") {
            self.engine.enter(&self.principal, "UploadLayerPart", Some(name))?;
        }
        self.receive(&upload, request).await?;
        match self.engine.complete_upload(&repository, &upload, std::slice::from_ref(&digest)).await {
            Ok(_) => {}
            // at this door a blob that came meanwhile is no error.
            Err(refusal) if refusal.name == "LayerAlreadyExistsException" => {}
            Err(refusal) => return Err(refusal.into()),
        }
        Ok(self.stored(request, &repository, &digest))
    }

    async fn receive(&self, upload: &Upload, request: &mut Request) -> Result<u64, Failure> {
        let range = match request.header("content-range") {
            None => None,
            Some(text) => Some(ContentRange::parse(text).ok_or_else(|| {
                Refusal::new("InvalidLayerPartException", format!("The Content-Range '{text}' is not valid"))
            })?),
        };
        let content_length = request.header("content-length").and_then(|length| length.parse().ok());
        Ok(self.engine.stream_into(upload, range, content_length, &mut request.body).await?)
    }

    fn session(&self, request: &Request, upload: &Upload, status: u16, range_end: u64) -> Response {
        let location = self.url(request, &format!("{}/blobs/uploads/{}", upload.repository, upload.id));
        answer(status, "")
            .header("location", location)
            .header("docker-upload-uuid", &upload.id)
            .header("range", format!("0-{range_end}"))
    }

    fn stored(&self, request: &Request, repository: &Repository, digest: &str) -> Response {
        answer(201, "")
            .header("location", self.url(request, &format!("{}/blobs/{digest}", repository.name)))
            .header("docker-content-digest", digest)
    }

    /// a mount, where all its conditions hold; in every other case `None`, and the request opens a session.
    fn mount(&self, repository: &Repository, request: &Request) -> Result<Option<Response>, Failure> {
        let (mount, from) = (query_value(&request.query, "mount"), query_value(&request.query, "from"));
        let (Some(digest), Some(from), true) = (mount, from, self.engine.config.mounting) else {
            return Ok(None);
        };
        let may_read = self.engine.authorize(&self.principal, "GetDownloadUrlForLayer", Some(&from)).is_ok();
        let Some(source) = self.engine.store.find(&from).filter(|_| may_read) else {
            return Ok(None);
        };
        if source.name == repository.name {
            return Ok(repository.blob(&digest).map(|_| self.stored(request, repository, &digest)));
        }
        // One lock after the other: two mounts in opposite directions must not wait for each other.
        let encryption = repository.contents().settings.encryption.clone();
        let blob = {
            let contents = source.contents();
            let mountable = contents.settings.encryption == encryption && contents.is_referenced(&digest);
            contents.blobs.get(&digest).filter(|_| mountable).cloned()
        };
        let Some(blob) = blob else { return Ok(None) };
        let mut contents = self.engine.changeable(repository)?;
        repository.share_blob(&mut contents, &digest, &blob).map_err(Refusal::server)?;
        Ok(Some(self.stored(request, repository, &digest)))
    }
}
