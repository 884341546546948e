//! Manifests, tags and referrers.

use serde_json::json;

use super::{Door, Outcome, error};
use crate::engine::{NewImage, find_image};
use crate::error::Refusal;
use crate::http::{Request, Response, ResponseExt, answer, json as json_answer};
use crate::manifest::{OCI_INDEX, convert, is_sha256};
use crate::rules::is_tag;
use crate::store::{Contents, sha256};
use crate::util::{percent_encode, query_value};

/// A tag or a digest.
enum Reference<'a> {
    Digest(&'a str),
    Tag(&'a str),
}

impl<'a> Reference<'a> {
    ///
    fn parse(text: &'a str) -> Result<Self, Box<Response>> {
        match text {
            digest if is_sha256(digest) => Ok(Self::Digest(digest)),
            tag if is_tag(tag) => Ok(Self::Tag(tag)),
            _ => Err(Box::new(error(400, "TAG_INVALID", "The image tag or digest is not valid"))),
        }
    }

    fn digest(&self) -> Option<&'a str> {
        match self {
            Self::Digest(digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }

    fn tag(&self) -> Option<&'a str> {
        match self {
            Self::Tag(tag) => Some(tag),
            Self::Digest(_) => None,
        }
    }
}

impl Door<'_> {
    pub(super) fn read_manifest(&self, name: &str, reference: &str, request: &Request) -> Outcome {
        let repository = self.on_repository(name)?;
        let reference = Reference::parse(reference).map_err(super::Failure::Answered)?;
        let contents = repository.contents();
        let (digest, image) = find_image(&contents, reference.digest(), reference.tag())
            .ok()
            //
            .filter(|(_, image)| !image.archived)
            .ok_or_else(|| Refusal::new("ImageNotFoundException", "Requested image not found"))?;
        let media_type = &image.manifest.media_type;
        let accepted: Vec<String> = request
            .headers
            .get_all("accept")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|one| one.split(';').next().unwrap_or_default().trim().to_owned())
            .collect();
        let takes_it = accepted.is_empty() || accepted.iter().any(|one| one == media_type || one.ends_with("/*"));
        let converted = match (reference, takes_it) {
            (Reference::Tag(_), false) => convert(&image.bytes, media_type, &accepted),
            _ => None,
        };
        let show = |bytes: bytes::Bytes, media_type: &str, digest: &str| {
            answer(200, "")
                .header("content-type", media_type)
                .header("content-length", bytes.len().to_string())
                .header("docker-content-digest", digest)
                .with_body(bytes, request.method == "HEAD")
        };
        Ok(match converted {
            //
            Some((bytes, media_type)) => {
                let digest = sha256(&bytes);
                show(bytes.into(), media_type, &digest)
            }
            None => show(image.bytes.clone(), media_type, digest),
        })
    }

    pub(super) async fn put_manifest(&self, name: &str, reference: &str, request: &mut Request) -> Outcome {
        let repository = self.on_repository(name)?;
        let reference = match Reference::parse(reference) {
            Ok(reference) => reference,
            Err(refused) => {
                request.body.drain().await?;
                return Ok(*refused);
            }
        };
        // One byte more than allowed is enough to know.
        let limit = self.engine.config.limits.manifest_bytes;
        let Some(bytes) = request.body.collect(limit).await? else {
            return Err(Refusal::parameter(
                "ImageManifest",
                format_args!("Member must have length less than or equal to {limit}"),
            )
            .into());
        };
        let media_type = request.header("content-type").map(|value| value.split(';').next().unwrap_or(value).trim());
        let new = NewImage { bytes, media_type, tag: reference.tag(), digest: reference.digest() };
        // at this door the same image under the same tag is no error.
        let put = self.engine.put_image(&repository, new)?;
        // no Location.
        let mut response = answer(201, "");
        if self.engine.config.manifest_digest_header {
            response = response.header("docker-content-digest", &put.digest);
        }
        if let Some(subject) = &put.image.manifest.subject {
            response = response.header("oci-subject", subject);
        }
        Ok(response)
    }

    pub(super) fn delete_manifest(&self, name: &str, reference: &str) -> Outcome {
        let repository = self.on_repository(name)?;
        let reference = Reference::parse(reference).map_err(super::Failure::Answered)?;
        let delete = |contents: &mut Contents| self.engine.delete_image(contents, reference.digest(), reference.tag());
        match self.engine.delete_images(&repository, delete)? {
            Ok(_) => {}
            Err(("ImageNotFound", reason)) => {
                return Err(Refusal::new("ImageNotFoundException", reason).into());
            }
            Err((_, reason)) => return Ok(error(405, "UNSUPPORTED", reason)),
        }
        Ok(answer(202, ""))
    }

    pub(super) fn list_tags(&self, name: &str, request: &Request) -> Outcome {
        let repository = self.on_repository(name)?;
        let size = match query_value(&request.query, "n").map(|n| n.parse::<usize>()) {
            None => 1000,
            //
            Some(Ok(n)) if n > 1000 => {
                let reason = "Member must have value less than or equal to 1000";
                return Err(Refusal::parameter("maxResults", reason).into());
            }
            Some(Ok(n)) if n > 0 => n,
            Some(_) => {
                let reason = "Member must have value greater than or equal to 1";
                return Err(Refusal::parameter("maxResults", reason).into());
            }
        };
        let last = query_value(&request.query, "last").unwrap_or_default();
        let contents = repository.contents();
        let mut tags: Vec<&String> = contents.tags.keys().filter(|tag| **tag > last).take(size + 1).collect();
        let more = tags.len() > size;
        tags.truncate(size);
        let response = json_answer(200, "application/json", &json!({ "name": repository.name, "tags": tags }));
        Ok(match tags.last().filter(|_| more) {
            Some(last) => {
                let next = format!("/v2/{}/tags/list?n={size}&last={}", repository.name, percent_encode(last));
                response.header("link", format!("<{next}>; rel=\"next\""))
            }
            None => response,
        })
    }

    ///
    pub(super) fn list_referrers(&self, name: &str, digest: &str, request: &Request) -> Outcome {
        let repository = self.on_repository(name)?;
        super::blobs::check_digest(digest)?;
        let wanted = query_value(&request.query, "artifactType");
        let contents = repository.contents();
        let manifests: Vec<_> = contents
            .images
            .iter()
            .filter(|(_, image)| image.manifest.subject.as_deref() == Some(digest) && !image.archived)
            .filter(|(_, image)| wanted.is_none() || wanted.as_deref() == image.manifest.effective_artifact_type())
            .map(|(digest, image)| {
                let mut descriptor = json!({
                    "mediaType": image.manifest.media_type,
                    "digest": digest,
                    "size": image.bytes.len(),
                });
                if let Some(artifact_type) = image.manifest.effective_artifact_type() {
                    descriptor["artifactType"] = artifact_type.into();
                }
                if let Some(annotations) = &image.manifest.annotations {
                    descriptor["annotations"] = annotations.clone();
                }
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        let response = json_answer(200, OCI_INDEX, &index);
        Ok(if wanted.is_some() { response.header("oci-filters-applied", "artifactType") } else { response })
    }
}

trait WithBody {
    fn with_body(self, bytes: bytes::Bytes, is_head: bool) -> Self;
}

impl WithBody for Response {
    fn with_body(mut self, bytes: bytes::Bytes, is_head: bool) -> Self {
        if !is_head {
            *self.body_mut() = crate::http::full(bytes);
        }
        self
    }
}
