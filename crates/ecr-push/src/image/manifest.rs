//! Manifests, indexes and configs: the parsed view next to the bytes that are forwarded untouched.

use bytes::Bytes;
use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Serialize;

use super::{DiffId, Digest, Platform};
use crate::error::{Error, Result, Side};

/// The media types a registry and this program deal in.
pub struct MediaType;

impl MediaType {
    /// Docker's image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// OCI's image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's gzip layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's uncompressed layer.
    pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// OCI's image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI's uncompressed layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI's gzip layer.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI's zstd layer.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

    /// All manifest types, as an `Accept` header: asked by tag, ECR converts to a type the caller accepts, so all are
    /// named (ecr-facts 2.5).
    pub const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
        application/vnd.oci.image.index.v1+json";

    /// True for an index or manifest list.
    pub fn is_index(media_type: &str) -> bool {
        media_type == Self::OCI_INDEX || media_type == Self::DOCKER_LIST
    }

    /// True for an image manifest.
    pub fn is_manifest(media_type: &str) -> bool {
        media_type == Self::OCI_MANIFEST || media_type == Self::DOCKER_MANIFEST
    }
}

/// True for a layer that a registry need not hold (ecr-facts 4.6).
pub fn is_foreign_layer(media_type: &str) -> bool {
    media_type.contains("foreign.diff") || media_type.contains("nondistributable")
}

/// What a manifest says of a blob or of another manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Descriptor {
    fn from_oci(descriptor: &oci_spec::image::Descriptor) -> Result<Self> {
        let digest = descriptor.digest().to_string();
        let digest = digest.parse().map_err(|error| {
            Error::new(
                Side::Source,
                "read manifest",
                format!("a manifest names the blob `{digest}`, which has no sha256 digest"),
            )
            .with_source(error)
        })?;
        Ok(Self { media_type: descriptor.media_type().to_string(), digest, size: descriptor.size() })
    }
}

/// What a manifest is made of.
#[derive(Clone, Debug)]
pub enum Kind {
    /// An image (or an artifact in the form of one).
    Image {
        /// The config blob.
        config: Descriptor,
        /// The layers, base first.
        layers: Vec<Descriptor>,
    },
    /// An index.
    Index {
        /// Its entries, in order.
        entries: Vec<Entry>,
    },
}

/// One entry of an index.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it points at.
    pub descriptor: Descriptor,
    /// The platform it is for, if the index says so.
    pub platform: Option<Platform>,
    /// True for a BuildKit attestation: a manifest that describes another one and runs nowhere.
    pub is_attestation: bool,
    /// The reference name annotation (OCI layouts): a tag or a name.
    pub reference: Option<String>,
    /// Full names, as containerd notes them.
    pub names: Vec<String>,
}

/// A manifest or index: its exact bytes and what they say.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The bytes, as they are sent.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// What it holds.
    pub kind: Kind,
}

impl Manifest {
    /// Reads a manifest or index. `media_type` is what the descriptor that led here says; the document's own `mediaType`
    /// must not contradict it.
    ///
    /// # Errors
    /// If it is not JSON, not a manifest this program knows, or contradicts its descriptor.
    pub fn parse(bytes: Bytes, media_type: Option<&str>) -> Result<Self> {
        let digest = Digest::of(&bytes);
        let refuse =
            |what: String| Error::new(Side::Source, "read manifest", format!("the manifest {} {what}", digest.short()));
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            schema_version: u32,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(&bytes)
            .map_err(|error| refuse("is not a JSON manifest".into()).with_source(error))?;
        if probe.schema_version != 2 {
            return Err(refuse(format!("has schema version {}; only 2 can be pushed", probe.schema_version)));
        }
        let named = media_type.filter(|t| MediaType::is_index(t) || MediaType::is_manifest(t));
        let media_type = match (probe.media_type, named) {
            (Some(own), Some(named)) if own != named => {
                return Err(refuse(format!("says it is `{own}`, but is listed as `{named}`")));
            }
            (Some(own), _) => own,
            (None, Some(named)) => named.to_owned(),
            (None, None) if probe.manifests.is_some() => MediaType::OCI_INDEX.to_owned(),
            (None, None) => MediaType::OCI_MANIFEST.to_owned(),
        };
        let kind = if MediaType::is_index(&media_type) {
            let index: ImageIndex = serde_json::from_slice(&bytes)
                .map_err(|error| refuse("is not a valid index".into()).with_source(error))?;
            Kind::Index { entries: index.manifests().iter().map(entry).collect::<Result<_>>()? }
        } else if MediaType::is_manifest(&media_type) {
            let manifest: ImageManifest = serde_json::from_slice(&bytes)
                .map_err(|error| refuse("is not a valid image manifest".into()).with_source(error))?;
            Kind::Image {
                config: Descriptor::from_oci(manifest.config())?,
                layers: manifest.layers().iter().map(Descriptor::from_oci).collect::<Result<_>>()?,
            }
        } else {
            return Err(refuse(format!("has the media type `{media_type}`, which cannot be pushed")));
        };
        Ok(Self { bytes, digest, media_type, kind })
    }

    /// The blobs it needs in the repository: config and layers, without foreign layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match &self.kind {
            Kind::Image { config, layers } => (Some(config), layers.as_slice()),
            Kind::Index { .. } => (None, [].as_slice()),
        };
        config.into_iter().chain(layers.iter().filter(|layer| !is_foreign_layer(&layer.media_type)))
    }

    /// The config's digest, if it is an image.
    pub fn config_digest(&self) -> Option<Digest> {
        match &self.kind {
            Kind::Image { config, .. } => Some(config.digest),
            Kind::Index { .. } => None,
        }
    }
}

fn entry(descriptor: &oci_spec::image::Descriptor) -> Result<Entry> {
    let platform = descriptor
        .platform()
        .as_ref()
        .map(|p| Platform::new(&p.os().to_string(), &p.architecture().to_string(), p.variant().as_deref()));
    let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|all| all.get(key)).cloned();
    Ok(Entry {
        descriptor: Descriptor::from_oci(descriptor)?,
        // BuildKit gives attestations the platform unknown/unknown.
        platform: platform.filter(|platform| platform.os != "unknown"),
        is_attestation: annotation("vnd.docker.reference.type").as_deref() == Some("attestation-manifest"),
        reference: annotation("org.opencontainers.image.ref.name"),
        names: annotation("io.containerd.image.name").into_iter().collect(),
    })
}

/// What a push needs to know of an image's config.
#[derive(Clone, Debug)]
pub struct Config {
    /// The layers' diff ids, base first.
    pub diff_ids: Vec<DiffId>,
    /// The platform the image is for; where nothing is said, what Docker takes it for.
    pub platform: Platform,
    /// True if the config says so itself.
    pub names_platform: bool,
}

impl Config {
    /// Reads an image config.
    ///
    /// # Errors
    /// If it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // No more than what is needed: tools differ in the rest, and registries do not look at it.
        #[derive(serde::Deserialize)]
        struct Document {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
            variant: Option<String>,
            rootfs: RootFs,
        }
        #[derive(serde::Deserialize)]
        struct RootFs {
            diff_ids: Option<Vec<String>>,
        }
        let digest = Digest::of(bytes);
        let fail = |what: &str| Error::new(Side::Source, "read config", format!("{} {what}", digest.short()));
        let config: Document =
            serde_json::from_slice(bytes).map_err(|error| fail("is not an image config").with_source(error))?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        let diff_ids = diff_ids.iter().map(|text| text.parse().map(DiffId)).collect::<Result<_>>();
        let diff_ids = diff_ids.map_err(|error| fail("lists a diff id that is none").with_source(error))?;
        let names_platform = !config.os.is_empty() && !config.architecture.is_empty();
        let os = if config.os.is_empty() { "linux" } else { &config.os };
        let architecture = if config.architecture.is_empty() { "amd64" } else { &config.architecture };
        let platform = Platform::new(os, architecture, config.variant.as_deref());
        Ok(Self { diff_ids, platform, names_platform })
    }
}

/// Makes a manifest for an image of these layers. Docker's kind, as `docker push` makes it (distribution, manifest v2 schema 2, three
/// spaces deep), if all layers have Docker's media types. OCI's kind if one has not, and then throughout: the two names of a format
/// are never mixed in one manifest.
pub fn image_manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<Manifest> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Blob<'a> {
        media_type: &'a str,
        size: u64,
        digest: Digest,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document<'a> {
        schema_version: u32,
        media_type: &'static str,
        config: Blob<'static>,
        layers: Vec<Blob<'a>>,
    }
    let is_docker = |layer: &Descriptor| {
        layer.media_type == MediaType::DOCKER_LAYER || layer.media_type == MediaType::DOCKER_LAYER_TAR
    };
    let (manifest_type, config_type) = match layers.iter().all(is_docker) {
        true => (MediaType::DOCKER_MANIFEST, MediaType::DOCKER_CONFIG),
        false => (MediaType::OCI_MANIFEST, MediaType::OCI_CONFIG),
    };
    fn blob<'a>(layer: &'a Descriptor, manifest_type: &str) -> Blob<'a> {
        let media_type = match layer.media_type.as_str() {
            MediaType::DOCKER_LAYER if manifest_type == MediaType::OCI_MANIFEST => MediaType::OCI_LAYER_GZIP,
            MediaType::DOCKER_LAYER_TAR if manifest_type == MediaType::OCI_MANIFEST => MediaType::OCI_LAYER,
            own => own,
        };
        Blob { media_type, size: layer.size, digest: layer.digest }
    }
    let document = Document {
        schema_version: 2,
        media_type: manifest_type,
        config: Blob { media_type: config_type, size: config.size, digest: config.digest },
        layers: layers.iter().map(|layer| blob(layer, manifest_type)).collect(),
    };
    Manifest::parse(to_json(&document)?, Some(manifest_type))
}

/// Writes `index` again with only the entries for which `keep` holds. Everything else it says is kept; its bytes, and so
/// its digest, change.
pub fn reindex(index: &Manifest, keep: impl Fn(&Entry) -> bool) -> Result<Manifest> {
    let Kind::Index { entries } = &index.kind else {
        return Ok(index.clone());
    };
    let fail = |error: serde_json::Error| {
        Error::new(Side::Source, "write index", "the index could not be written again").with_source(error)
    };
    let mut document: serde_json::Value = serde_json::from_slice(&index.bytes).map_err(fail)?;
    if let Some(list) = document.get_mut("manifests").and_then(|list| list.as_array_mut()) {
        let mut kept = entries.iter().map(&keep);
        list.retain(|_| kept.next().unwrap_or(true));
    }
    Manifest::parse(to_json(&document)?, Some(&index.media_type))
}

fn to_json(document: &impl Serialize) -> Result<Bytes> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    document.serialize(&mut serializer).map_err(|error| {
        Error::new(Side::Local, "write manifest", "a manifest could not be written").with_source(error)
    })?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, text: &str) -> Descriptor {
        Descriptor { media_type: media_type.into(), digest: Digest::of(text.as_bytes()), size: text.len() as u64 }
    }

    #[test]
    fn the_manifest_we_make_is_docker_schema_2() {
        let config = descriptor(MediaType::DOCKER_CONFIG, "config");
        let layers = [descriptor(MediaType::DOCKER_LAYER, "layer")];
        let manifest = image_manifest(&config, &layers).unwrap();
        let expected = format!(
            "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{}\",\n   \"config\": {{\n      \"mediaType\": \"{}\",\n      \
             \"size\": 6,\n      \"digest\": \"{}\"\n   }},\n   \"layers\": [\n      {{\n         \"mediaType\": \"{}\",\n         \
             \"size\": 5,\n         \"digest\": \"{}\"\n      }}\n   ]\n}}",
            MediaType::DOCKER_MANIFEST,
            MediaType::DOCKER_CONFIG,
            config.digest,
            MediaType::DOCKER_LAYER,
            layers[0].digest
        );
        assert_eq!(std::str::from_utf8(&manifest.bytes).unwrap(), expected);
        assert_eq!(manifest.config_digest(), Some(config.digest));
    }

    #[test]
    fn one_layer_of_ocis_kind_makes_the_whole_manifest_so() {
        let config = descriptor(MediaType::DOCKER_CONFIG, "config");
        let layers = [MediaType::DOCKER_LAYER, MediaType::OCI_LAYER_ZSTD, MediaType::DOCKER_LAYER_TAR];
        let layers = layers.map(|media_type| descriptor(media_type, media_type));
        let manifest = image_manifest(&config, &layers).unwrap();
        assert_eq!(manifest.media_type, MediaType::OCI_MANIFEST);
        assert!(!std::str::from_utf8(&manifest.bytes).unwrap().contains("vnd.docker"));
        let Kind::Image { config, layers } = manifest.kind else { panic!("an image") };
        let types: Vec<_> = layers.iter().map(|layer| layer.media_type.as_str()).collect();
        assert_eq!(types, [MediaType::OCI_LAYER_GZIP, MediaType::OCI_LAYER_ZSTD, MediaType::OCI_LAYER]);
        assert_eq!(config.media_type, MediaType::OCI_CONFIG);
    }

    fn index(entries: &str) -> String {
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","x":1,"manifests":[{entries}]}}"#, MediaType::OCI_INDEX)
    }

    #[test]
    fn dropping_attestations_keeps_everything_else() {
        let image = format!(
            r#"{{"mediaType":"{}","digest":"{}","size":3,"platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}"#,
            MediaType::OCI_MANIFEST,
            Digest::of(b"a")
        );
        let attestation = format!(
            r#"{{"mediaType":"{}","digest":"{}","size":3,"platform":{{"os":"unknown","architecture":"unknown"}},"annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}}"#,
            MediaType::OCI_MANIFEST,
            Digest::of(b"b")
        );
        let parsed = Manifest::parse(index(&format!("{attestation},{image}")).into(), None).unwrap();
        let dropped = reindex(&parsed, |entry| !entry.is_attestation).unwrap();
        assert_ne!(dropped.digest, parsed.digest);
        let Kind::Index { entries } = &dropped.kind else { panic!("an index") };
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
        assert!(std::str::from_utf8(&dropped.bytes).unwrap().contains("\"x\": 1"));
    }

    #[test]
    fn manifests_that_are_none_are_refused() {
        for (text, sentence) in [
            ("", "is not a JSON manifest"),
            ("{}", "is not a JSON manifest"),
            (r#"{"schemaVersion":1}"#, "schema version 1"),
            (r#"{"schemaVersion":2,"mediaType":"text/plain"}"#, "cannot be pushed"),
            (r#"{"schemaVersion":2}"#, "is not a valid image manifest"),
        ] {
            let error = Manifest::parse(Bytes::from(text), None).unwrap_err();
            assert!(error.message().contains(sentence), "{text}: {}", error.message());
        }
        let contradicts = Manifest::parse(index("").into(), Some(MediaType::OCI_MANIFEST)).unwrap_err();
        assert!(contradicts.message().contains("is listed as"));
    }
}
