//! The image that was asked for, and the one check that it is this one which is published.

use super::{Image, Preview, source_error};
use crate::error::{Error, Result};
use crate::image::{Digest, Manifest, Platform};
use crate::text;
use crate::text::Setting;

/// What is known of the image that was asked for: by its reference, by the engine that resolved a name, by the platform.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The digest of the manifest or index that goes up byte for byte.
    pub root: Option<Digest>,
    /// The digest of the config of the image, or of one of the images in the index.
    pub config: Option<Digest>,
    /// The platform of the one image that goes up.
    pub platform: Option<Platform>,
}

impl Named {
    /// What a preview promises, for `platform` alone if that was asked for.
    pub fn of(preview: &Preview, platform: Option<&Platform>) -> Self {
        Self { root: preview.root_digest, config: preview.config_digest, platform: platform.cloned() }
    }

    /// What identifies an image that was read.
    pub fn of_image(image: &Image) -> Self {
        Self { root: image.root_digest(), config: image.config_digests().next(), platform: None }
    }

    /// Refuses `image` if it is another one. Every image that is read comes through here before it is published, whichever source it has and
    /// whichever way to the layers. Where the registry has the image already, nothing is read: then it is looked for by the same digests.
    ///
    /// # Errors
    /// If root, config or platform differ.
    pub fn check(&self, image: &Image) -> Result<()> {
        if let Some(root) = self.root
            && image.root_digest() != Some(root)
        {
            return Err(other("manifest", root, image.root_digest()));
        }
        if let Some(config) = self.config
            && !image.config_digests().any(|digest| digest == config)
        {
            return Err(other("config", config, image.config_digests().next()));
        }
        let Some(wanted) = &self.platform else { return Ok(()) };
        let (is_index, platforms) = match image {
            Image::Layers { platform, .. } => (false, std::slice::from_ref(platform)),
            Image::Manifests { contents, .. } => (contents.is_index, contents.platforms.as_slice()),
        };
        if is_index || platforms.is_empty() || !platforms.iter().all(|platform| wanted.accepts(platform)) {
            return Err(no_platform("the image", wanted, platforms));
        }
        Ok(())
    }
}

impl Image {
    /// The digest of the manifest or index that exists already.
    pub fn root_digest(&self) -> Option<Digest> {
        match self {
            Self::Layers { .. } => None,
            Self::Manifests { manifests, .. } => manifests.last().map(|root| root.digest),
        }
    }

    /// The configs in it: one for each platform.
    pub fn config_digests(&self) -> impl Iterator<Item = Digest> {
        let (own, manifests) = match self {
            Self::Layers { config, .. } => (Some(config.digest()), [].as_slice()),
            Self::Manifests { manifests, .. } => (None, manifests.as_slice()),
        };
        own.into_iter().chain(manifests.iter().filter_map(Manifest::config_digest))
    }
}

fn other(what: &str, named: Digest, read: Option<Digest>) -> Error {
    let read = read.map_or_else(|| "none".to_owned(), |read| read.to_string());
    source_error(
        "check image",
        format!("the image that was read is not the one that was named: its {what} is {read}, not {named}"),
    )
    .with_hint("the source changed meanwhile, or contradicts itself: push again; if it stays so, build or save the image again")
}

/// The refusal of a platform that is not there.
pub(super) fn no_platform(name: &str, wanted: &Platform, present: &[Platform]) -> Error {
    let message = format!("{name} has no image for {wanted} (present: {})", list(present));
    source_error("choose platform", message).with_hint(text![
        "choose one that is there with ",
        Setting::Platform,
        format!(", or build the image for {wanted}")
    ])
}

/// Platforms for people.
pub(super) fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".to_owned();
    }
    platforms.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Descriptor, MediaType, image_manifest};
    use crate::source::{ConfigBlob, Contents};

    fn layers(config: &'static [u8], platform: &str) -> Image {
        let config = ConfigBlob::Bytes(config.into());
        Image::Layers { config, diff_ids: vec![], layers: vec![], platform: platform.parse().unwrap() }
    }

    fn manifests(config: &[u8], platforms: &[&str], is_index: bool) -> Image {
        let config =
            Descriptor { media_type: MediaType::DOCKER_CONFIG.to_owned(), digest: Digest::of(config), size: 1 };
        let platforms = platforms.iter().map(|platform| platform.parse().unwrap()).collect();
        let contents = Contents { platforms, is_index, ..Contents::default() };
        Image::Manifests { manifests: vec![image_manifest(&config, &[]).unwrap()], contents }
    }

    #[test]
    fn another_image_than_the_one_that_was_named_is_refused() {
        let arm = Some("linux/arm64".parse().unwrap());
        let by_config = |config: &[u8]| Named { config: Some(Digest::of(config)), ..Named::default() };
        let by_platform = Named { platform: arm.clone(), ..Named::default() };
        let root = manifests(b"a", &["linux/arm64"], false).root_digest();
        let by_root = Named { root, config: None, platform: arm };
        for (named, image, is_it) in [
            (Named::default(), layers(b"a", "linux/amd64"), true),
            (by_config(b"a"), layers(b"a", "linux/amd64"), true),
            (by_config(b"b"), layers(b"a", "linux/amd64"), false),
            (by_config(b"a"), manifests(b"a", &[], false), true),
            (by_config(b"b"), manifests(b"a", &[], false), false),
            (by_platform.clone(), layers(b"a", "linux/arm64"), true),
            (by_platform.clone(), layers(b"a", "linux/amd64"), false),
            (by_platform.clone(), manifests(b"a", &["linux/arm64"], false), true),
            (by_platform.clone(), manifests(b"a", &["linux/amd64"], false), false),
            (by_platform.clone(), manifests(b"a", &["linux/arm64"], true), false),
            (by_platform, manifests(b"a", &[], false), false),
            (by_root.clone(), manifests(b"a", &["linux/arm64"], false), true),
            (by_root.clone(), manifests(b"b", &["linux/arm64"], false), false),
            (by_root, layers(b"a", "linux/arm64"), false),
        ] {
            assert_eq!(named.check(&image).is_ok(), is_it, "{named:?} {image:?}");
        }
    }
}
