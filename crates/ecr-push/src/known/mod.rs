//! The known-blob index: which blob holds which layer, so that nothing is compressed that a registry has already.
//!
//! A layer's diff id says nothing of the blob it becomes. But an image in a registry pairs its config's diff ids with its
//! manifest's blobs, one to one, and a host remembers what it sent. A pair is somebody's claim: of whoever could push to the
//! repository it was read from, or write to the cache. The registry confirms that the blob is there and how large it is, not what
//! is in it; only [`Reuse::Verify`] looks inside. A claim that is not this host's own counts only for a push that reads or names the
//! repository it was made in ([`Remembered::counts`]): whoever may push to one repository must not decide what is in another.

mod cache;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

pub use cache::{Cache, Remembered};

use crate::compress::Codec;
use crate::error::{Error, Result};
use crate::image::{Config, Descriptor, DiffId, Digest, Kind, Manifest, MediaType, Platform};
use crate::text::count;

/// Whose word is taken for what a blob holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reuse {
    /// That of images in the registry and of this host's cache.
    #[default]
    Registry,
    /// Only that of this host, for blobs it made itself.
    Own,
    /// Nobody's: each blob is downloaded, unpacked and hashed before it is reused.
    Verify,
    /// Nobody's, and nothing is reused.
    Off,
}

impl FromStr for Reuse {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "registry" => Self::Registry,
            "own" => Self::Own,
            "verify" => Self::Verify,
            "off" => Self::Off,
            _ => return Err(Error::refused("parse reuse", format!("`{text}` is none of registry, own, verify, off"))),
        })
    }
}

/// A layer and the blob that is said to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The layer.
    pub diff_id: DiffId,
    /// The blob, with the media type it has where it was found.
    pub blob: Descriptor,
    /// Whose word it is.
    pub origin: Origin,
}

/// Whose word a pair is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This host's cache; `own` if the blob was made here.
    Cache {
        /// It was compressed on this host.
        own: bool,
    },
    /// An image in a registry.
    Image {
        /// Where it is: `HOST/REPOSITORY`.
        repository: String,
        /// As people would name it: `v1`, or `other/repository:v1`.
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cache { own: true } => f.write_str("this host"),
            Self::Cache { own: false } => f.write_str("this host's cache"),
            Self::Image { name, .. } => f.write_str(name),
        }
    }
}

/// The codec of a layer's media type (OCI image-spec media-types, distribution manifest v2 schema 2). None for types that are not
/// known, and for foreign layers.
pub fn codec_of(media_type: &str) -> Option<Codec> {
    Some(match media_type {
        MediaType::DOCKER_LAYER | MediaType::OCI_LAYER_GZIP => Codec::Gzip,
        MediaType::OCI_LAYER_ZSTD => Codec::Zstd,
        MediaType::DOCKER_LAYER_TAR | MediaType::OCI_LAYER => Codec::None,
        _ => return None,
    })
}

/// The pairs that an image vouches for.
///
/// # Errors
/// In words, if the image cannot be believed or does not fit: it is for another platform, config and manifest have other numbers of
/// layers, one layer has two blobs or one blob two layers, or a layer's media type is foreign or not known.
pub fn pairs_of(
    manifest: &Manifest,
    config: &[u8],
    platform: Option<&Platform>,
    origin: &Origin,
) -> std::result::Result<Vec<Pair>, String> {
    let Kind::Image { config: descriptor, layers } = &manifest.kind else { return Err("it is an index".into()) };
    if Digest::of(config) != descriptor.digest {
        return Err("its config has another digest than its manifest says".into());
    }
    let config = Config::parse(config).map_err(|error| error.to_string())?;
    if let Some(platform) = platform
        && (platform.os != config.platform.os || platform.architecture != config.platform.architecture)
    {
        return Err(format!("it is for {}, not for {platform}", config.platform));
    }
    pair_up(&config.diff_ids, layers, origin)
}

/// The pairs of these layers, base first, and these blobs.
///
/// # Errors
/// In words, if they do not go together: see [`pairs_of`].
pub fn pair_up(diff_ids: &[DiffId], layers: &[Descriptor], origin: &Origin) -> std::result::Result<Vec<Pair>, String> {
    if diff_ids.len() != layers.len() {
        let listed = count(diff_ids.len(), "layer", "layers");
        return Err(format!("its config lists {listed}, and its manifest {}", layers.len()));
    }
    let mut blobs: HashMap<DiffId, Digest> = HashMap::new();
    let mut held: HashMap<Digest, DiffId> = HashMap::new();
    let mut pairs = Vec::new();
    for (diff_id, blob) in diff_ids.iter().zip(layers) {
        if codec_of(&blob.media_type).is_none() {
            return Err(format!("it has a layer of the type `{}`", blob.media_type));
        }
        if blobs.insert(*diff_id, blob.digest).is_some_and(|other| other != blob.digest) {
            return Err(format!("it has two blobs for the layer {diff_id}"));
        }
        if held.insert(blob.digest, *diff_id).is_some_and(|other| other != *diff_id) {
            return Err(format!("it has two layers in the blob {}", blob.digest));
        }
        pairs.push(Pair { diff_id: *diff_id, blob: blob.clone(), origin: origin.clone() });
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn config(diff_ids: &[&str], architecture: &str) -> Bytes {
        let diff_ids: Vec<String> = diff_ids.iter().map(|text| Digest::of(text.as_bytes()).to_string()).collect();
        serde_json::json!({ "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": diff_ids } })
            .to_string()
            .into()
    }

    fn manifest(config: &[u8], layers: &[(&str, &str)]) -> Manifest {
        let layers: Vec<_> = layers
            .iter()
            .map(|(media_type, text)| {
                serde_json::json!({ "mediaType": media_type, "digest": Digest::of(text.as_bytes()), "size": text.len() })
            })
            .collect();
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config), "size": config.len() },
            "layers": layers,
        });
        Manifest::parse(document.to_string().into(), None).unwrap()
    }

    const GZIP: &str = MediaType::OCI_LAYER_GZIP;

    #[test]
    fn an_image_pairs_its_layers_with_its_blobs() {
        let config = config(&["a", "b", "a"], "amd64");
        let manifest = manifest(&config, &[(GZIP, "A"), (MediaType::OCI_LAYER_ZSTD, "B"), (GZIP, "A")]);
        let origin = Origin::Image { repository: "host/app".into(), name: "v1".into() };
        let pairs = pairs_of(&manifest, &config, Some(&Platform::new("linux", "amd64", None)), &origin).unwrap();
        assert_eq!(pairs.len(), 3);
        assert_eq!(pairs[1].diff_id, DiffId(Digest::of(b"b")));
        assert_eq!((pairs[1].blob.digest, pairs[1].blob.size), (Digest::of(b"B"), 1));
        assert_eq!(codec_of(&pairs[1].blob.media_type), Some(Codec::Zstd));
    }

    #[test]
    fn images_that_cannot_be_believed_vouch_for_nothing() {
        let two = config(&["a", "b"], "amd64");
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (config, layers, why) in [
            (&two, vec![(GZIP, "A")], "lists 2 layers, and its manifest 1"),
            (&two, vec![(GZIP, "A"), (foreign, "B")], "of the type"),
            (&two, vec![(GZIP, "A"), ("text/plain", "B")], "of the type"),
            (&two, vec![(GZIP, "A"), (GZIP, "A")], "two layers in the blob"),
            (&config(&["a", "a"], "amd64"), vec![(GZIP, "A"), (GZIP, "B")], "two blobs for the layer"),
            (&config(&["a"], "arm64"), vec![(GZIP, "A")], "is for linux/arm64"),
        ] {
            let platform = Platform::new("linux", "amd64", None);
            let manifest = manifest(config, &layers);
            let error = pairs_of(&manifest, config, Some(&platform), &Origin::Cache { own: true }).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let manifest = manifest(&two, &[(GZIP, "A"), (GZIP, "B")]);
        let other = config(&["a", "c"], "amd64");
        assert!(
            pairs_of(&manifest, &other, None, &Origin::Cache { own: true }).unwrap_err().contains("another digest")
        );
    }
}
