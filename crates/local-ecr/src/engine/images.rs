//! Putting, finding and deleting images.

use std::time::SystemTime;

use bytes::Bytes;

use super::Engine;
use crate::error::{Refusal, Result};
use crate::manifest::Manifest;
use crate::store::{Contents, Image, Repository, sha256};

/// What `PutImage` is asked for.
pub(crate) struct NewImage<'a> {
    pub bytes: Bytes,
    pub media_type: Option<&'a str>,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

/// What became of it.
pub(crate) struct Put {
    pub digest: String,
    pub image: Image,
    /// The same image under the same tag was there before.
    pub unchanged: bool,
}

impl Engine {
    pub fn put_image(&self, repository: &Repository, new: NewImage<'_>) -> Result<Put> {
        let manifest = Manifest::parse(&new.bytes, new.media_type, &self.config.limits)?;
        let digest = sha256(&new.bytes);
        //
        if new.digest.is_some_and(|said| said != digest) {
            return Err(Refusal::new(
                "ImageDigestDoesNotMatchException",
                format!("The calculated digest '{digest}' of the image manifest does not match the provided digest"),
            ));
        }
        let mut contents = self.changeable(repository)?;
        self.check_references(repository, &contents, &manifest)?;
        let tagged = new.tag.and_then(|tag| contents.tags.get(tag).map(|digest| (tag, digest)));
        // refused even if the digest is the same.
        if let Some((tag, _)) = tagged.filter(|(tag, _)| contents.settings.mutability.fixes(tag)) {
            return Err(Refusal::new(
                "ImageTagAlreadyExistsException",
                format!(
                    "The image tag '{tag}' already exists in the '{}' repository and cannot be overwritten because \
                     the tag is immutable.",
                    repository.name
                ),
            ));
        }
        let existing = contents.images.get(&digest);
        let unchanged = match (new.tag, existing) {
            (_, None) => false,
            // pushing an archived image restores it.
            (_, Some(image)) if image.archived => false,
            (Some(_), Some(_)) => tagged.is_some_and(|(_, tagged)| *tagged == digest),
            (None, Some(_)) => true,
        };
        if let (true, Some(image)) = (unchanged, existing) {
            return Ok(Put { image: image.clone(), digest, unchanged });
        }
        //
        if new.tag.is_some() && contents.tags_of(&digest).count() >= self.config.limits.tags_per_image {
            return Err(Refusal::new(
                "LimitExceededException",
                format!(
                    "The maximum number of tags per image has been reached for the image with digest '{digest}' in \
                     the repository with name '{}' in the registry with id '{}'",
                    repository.name, self.config.account
                ),
            ));
        }
        // Another tag does not make an image younger.
        let pushed_at = existing.map_or_else(SystemTime::now, |image| image.pushed_at);
        let image = Image { bytes: new.bytes, manifest, pushed_at, archived: false };
        repository.write_manifest(&digest, &image.bytes).map_err(Refusal::server)?;
        let put = |contents: &mut Contents| {
            contents.images.insert(digest.clone(), image.clone());
            if let Some(tag) = new.tag {
                contents.tags.insert(tag.to_owned(), digest.clone());
            }
        };
        repository.change(&mut contents, put).map_err(Refusal::server)?;
        Ok(Put { digest, image, unchanged })
    }

    /// what a manifest names must be in this repository; another one does not count.
    fn check_references(&self, repository: &Repository, contents: &Contents, manifest: &Manifest) -> Result<()> {
        let missing = |named: &[String], there: &dyn Fn(&String) -> bool| {
            let mut missing: Vec<_> = named.iter().filter(|digest| !there(digest)).cloned().collect();
            missing.dedup();
            Some(missing.join(", ")).filter(|missing| !missing.is_empty())
        };
        let refusal = |name: &'static str, what: &str, digests: String| {
            Refusal::new(
                name,
                format!(
                    "{what} with digests '[{digests}]' required for pushing image into repository with name '{}' in \
                     the registry with id '{}' do not exist",
                    repository.name, self.config.account
                ),
            )
        };
        if let Some(digests) = missing(&manifest.blobs, &|digest| contents.blobs.contains_key(digest)) {
            return Err(refusal("LayersNotFoundException", "Layers", digests));
        }
        if let Some(digests) = missing(&manifest.children, &|digest| contents.images.contains_key(digest)) {
            return Err(refusal("ReferencedImagesNotFoundException", "Images", digests));
        }
        Ok(())
    }

    /// Deletes images, and then the files of those that are gone: were it the other way round, a fault in between would
    /// leave a directory that names what it has not.
    pub fn delete_images<T>(&self, repository: &Repository, delete: impl FnOnce(&mut Contents) -> T) -> Result<T> {
        let mut contents = self.changeable(repository)?;
        let before: Vec<_> = contents.images.keys().cloned().collect();
        let deleted = repository.change(&mut contents, delete).map_err(Refusal::server)?;
        let gone = before.iter().filter(|digest| !contents.images.contains_key(*digest));
        gone.for_each(|digest| repository.remove_manifest(digest));
        Ok(deleted)
    }

    /// deletes a tag, or an image with all its tags. `Err` is the failure code and its reason.
    pub fn delete_image(
        &self,
        contents: &mut Contents,
        digest: Option<&str>,
        tag: Option<&str>,
    ) -> std::result::Result<(String, Vec<String>), (&'static str, &'static str)> {
        let (found, _) = find_image(contents, digest, tag)?;
        let found = found.to_owned();
        let tags: Vec<String> = contents.tags_of(&found).cloned().collect();
        if let Some(tag) = tag.filter(|_| digest.is_none() && tags.len() > 1) {
            contents.tags.remove(tag);
            return Ok((found, vec![tag.to_owned()]));
        }
        if contents.images.values().any(|image| image.manifest.children.contains(&found)) {
            return Err(("ImageReferencedByManifestList", "Requested image referenced by manifest list"));
        }
        contents.tags.retain(|_, tagged| *tagged != found);
        contents.images.remove(&found);
        Ok((found, tags))
    }
}

/// An image by digest, tag or both. `Err` is the failure code of the API and its reason.
pub(crate) fn find_image<'a>(
    contents: &'a Contents,
    digest: Option<&str>,
    tag: Option<&str>,
) -> std::result::Result<(&'a str, &'a Image), (&'static str, &'static str)> {
    const NOT_FOUND: (&str, &str) = ("ImageNotFound", "Requested image not found");
    let tagged = tag.map(|tag| contents.tagged(tag).ok_or(NOT_FOUND)).transpose()?;
    let wanted = match (digest, tagged) {
        (Some(digest), Some(tagged)) if digest != tagged => {
            return Err(("ImageTagDoesNotMatchDigest", "The tag does not match the digest"));
        }
        (Some(digest), _) => digest,
        (None, Some(tagged)) => tagged,
        (None, None) => {
            return Err(("MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null"));
        }
    };
    contents.images.get_key_value(wanted).map(|(digest, image)| (digest.as_str(), image)).ok_or(NOT_FOUND)
}
