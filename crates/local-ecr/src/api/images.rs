//! Images through the API.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Call, check_digest, with_next};
use crate::engine::{NewImage, find_image};
use crate::error::{Refusal, Result};
use crate::manifest::convert;
use crate::rules::is_tag;
use crate::store::{Contents, Image, Repository, sha256};
use crate::util::epoch;

impl Call<'_> {
    pub(super) fn put_image(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let tag = self.input["imageTag"].as_str();
        // the API's own grammar for tags is wider, but such an image could not be pulled.
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(Refusal::parameter(
                "imageTag",
                "must satisfy regular expression '[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}'",
            ));
        }
        let digest = self.input["imageDigest"].as_str();
        digest.map_or(Ok(()), |digest| check_digest("imageDigest", digest))?;
        let new = NewImage {
            bytes: Bytes::copy_from_slice(self.string("imageManifest")?.as_bytes()),
            media_type: self.input["imageManifestMediaType"].as_str(),
            tag,
            digest,
        };
        let put = self.engine.put_image(&repository, new)?;
        //
        if put.unchanged {
            return Err(Refusal::new(
                "ImageAlreadyExistsException",
                format!(
                    "Image with digest '{}' and tag '{}' already exists in the repository with name '{}' in registry \
                     with id '{}'",
                    put.digest,
                    tag.unwrap_or("null"),
                    repository.name,
                    self.engine.config.account
                ),
            ));
        }
        Ok(json!({ "image": self.show(&repository, &put.digest, tag, &put.image) }))
    }

    /// what is not found is a failure in an answer that is 200.
    pub(super) fn batch_get_image(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let ids = self.list("imageIds", 100)?;
        let accepted: Vec<String> = self.input["acceptedMediaTypes"]
            .as_array()
            .map(|types| types.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let contents = repository.contents();
        let (mut images, mut failures) = (Vec::new(), Vec::new());
        for id in ids {
            let (digest, tag) = (id["imageDigest"].as_str(), id["imageTag"].as_str());
            match find_image(&contents, digest, tag) {
                Err(failure) => failures.push(show_failure(id, failure)),
                //
                Ok((_, image)) if image.archived => {
                    failures.push(show_failure(id, ("ImageInaccessible", "The image is archived")));
                }
                Ok((found, image)) => {
                    let refused = !accepted.is_empty() && !accepted.contains(&image.manifest.media_type);
                    let mut shown = self.show(&repository, found, tag, image);
                    //
                    if let Some((bytes, media_type)) = (refused && digest.is_none())
                        .then(|| convert(&image.bytes, &image.manifest.media_type, &accepted))
                        .flatten()
                    {
                        shown["imageId"]["imageDigest"] = sha256(&bytes).into();
                        shown["imageManifest"] = String::from_utf8_lossy(&bytes).into();
                        shown["imageManifestMediaType"] = media_type.into();
                    }
                    images.push(shown);
                }
            }
        }
        Ok(json!({ "images": images, "failures": failures }))
    }

    pub(super) fn batch_delete_image(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let ids = self.list("imageIds", 100)?;
        let (mut deleted, mut failures) = (Vec::new(), Vec::new());
        self.engine.delete_images(&repository, |contents| {
            for id in ids {
                let (digest, tag) = (id["imageDigest"].as_str(), id["imageTag"].as_str());
                match self.engine.delete_image(contents, digest, tag) {
                    Err(failure) => failures.push(show_failure(id, failure)),
                    Ok((digest, tags)) if tags.is_empty() => deleted.push(json!({ "imageDigest": digest })),
                    Ok((digest, tags)) => {
                        deleted.extend(tags.iter().map(|tag| json!({ "imageDigest": digest, "imageTag": tag })));
                    }
                }
            }
        })?;
        Ok(json!({ "imageIds": deleted, "failures": failures }))
    }

    pub(super) fn describe_images(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let contents = repository.contents();
        if self.input["imageIds"].is_null() {
            let wanted_status = self.input["filter"]["imageStatus"].as_str().unwrap_or("ACTIVE");
            let tagged = self.tag_status();
            let shown: Vec<_> = contents
                .images
                .iter()
                .filter(|(digest, image)| {
                    (wanted_status == "ANY" || wanted_status == status(image))
                        && tagged.is_none_or(|tagged| contents.tags_of(digest).next().is_some() == tagged)
                })
                .map(|(digest, image)| self.describe_image(&repository, &contents, digest, image))
                .collect();
            let (page, next) = self.page(shown)?;
            return Ok(with_next(json!({ "imageDetails": page }), next));
        }
        let mut details = Vec::new();
        for id in self.list("imageIds", 100)? {
            let (digest, tag) = (id["imageDigest"].as_str(), id["imageTag"].as_str());
            let (found, image) = find_image(&contents, digest, tag).map_err(|_| {
                let shown = json!({ "imageDigest": digest, "imageTag": tag });
                Refusal::new(
                    "ImageNotFoundException",
                    format!(
                        "The image with imageId {shown} does not exist within the repository with name '{}' in the \
                         registry with id '{}'",
                        repository.name, self.engine.config.account
                    ),
                )
            })?;
            details.push(self.describe_image(&repository, &contents, found, image));
        }
        Ok(json!({ "imageDetails": details }))
    }

    pub(super) fn list_images(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let tagged = self.tag_status();
        let contents = repository.contents();
        let mut ids = Vec::new();
        for digest in contents.images.iter().filter(|(_, image)| !image.archived).map(|(digest, _)| digest) {
            let mut tags = contents.tags_of(digest).peekable();
            if tags.peek().is_none() && tagged != Some(true) {
                ids.push(json!({ "imageDigest": digest }));
            }
            if tagged != Some(false) {
                ids.extend(tags.map(|tag| json!({ "imageDigest": digest, "imageTag": tag })));
            }
        }
        let (page, next) = self.page(ids)?;
        Ok(with_next(json!({ "imageIds": page }), next))
    }

    /// Whether the filter asks for tagged images or for untagged ones.
    fn tag_status(&self) -> Option<bool> {
        match self.input["filter"]["tagStatus"].as_str() {
            Some("TAGGED") => Some(true),
            Some("UNTAGGED") => Some(false),
            _ => None,
        }
    }

    fn show(&self, repository: &Repository, digest: &str, tag: Option<&str>, image: &Image) -> Value {
        let mut id = json!({ "imageDigest": digest });
        if let Some(tag) = tag {
            id["imageTag"] = tag.into();
        }
        json!({
            "registryId": self.engine.config.account,
            "repositoryName": repository.name,
            "imageId": id,
            "imageManifest": String::from_utf8_lossy(&image.bytes),
            "imageManifestMediaType": image.manifest.media_type,
        })
    }

    fn describe_image(&self, repository: &Repository, contents: &Contents, digest: &str, image: &Image) -> Value {
        let manifest = &image.manifest;
        // The size of an index is that of its largest child.
        let children = manifest.children.iter().filter_map(|child| contents.images.get(child));
        let size = children.map(|child| child.manifest.size).max().unwrap_or(manifest.size);
        let mut described = json!({
            "registryId": self.engine.config.account,
            "repositoryName": repository.name,
            "imageDigest": digest,
            "imageSizeInBytes": size,
            "imagePushedAt": epoch(image.pushed_at),
            "imageManifestMediaType": manifest.media_type,
            "imageStatus": status(image),
        });
        let tags: Vec<_> = contents.tags_of(digest).collect();
        if !tags.is_empty() {
            described["imageTags"] = json!(tags);
        }
        if let Some(artifact_type) = manifest.effective_artifact_type() {
            described["artifactMediaType"] = artifact_type.into();
        }
        if let Some(subject) = &manifest.subject {
            described["subjectManifestDigest"] = subject.clone().into();
        }
        described
    }
}

fn status(image: &Image) -> &'static str {
    if image.archived { "ARCHIVED" } else { "ACTIVE" }
}

fn show_failure(id: &Value, (code, reason): (&str, &str)) -> Value {
    json!({ "imageId": id, "failureCode": code, "failureReason": reason })
}
