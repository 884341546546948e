//! Manifests: what ECR reads in them, and what it refuses.

use serde_json::Value;

use crate::config::Limits;
use crate::error::{Refusal, Result};

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What the store needs to know of a manifest; the bytes stay as they were pushed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    pub media_type: String,
    pub config_media_type: Option<String>,
    /// The config and the layers that have to be in the repository.
    pub blobs: Vec<String>,
    /// The bytes of the config and of all layers.
    pub size: u64,
    /// The manifests an index names.
    pub children: Vec<String>,
    pub subject: Option<String>,
    pub artifact_type: Option<String>,
    pub annotations: Option<Value>,
}

impl Manifest {
    /// reads a manifest as `PutImage` would.
    pub fn parse(bytes: &[u8], said_media_type: Option<&str>, limits: &Limits) -> Result<Self> {
        if bytes.len() > limits.manifest_bytes {
            return Err(Refusal::parameter(
                "ImageManifest",
                format_args!("Member must have length less than or equal to {}", limits.manifest_bytes),
            ));
        }
        Self::read(bytes, said_media_type, limits.layers_per_image)
    }

    /// Reads a manifest that was accepted before.
    pub fn read(bytes: &[u8], said_media_type: Option<&str>, max_layers: usize) -> Result<Self> {
        let json: Value = serde_json::from_slice(bytes).map_err(|_| invalid())?;
        let json = json.as_object().ok_or_else(invalid)?;
        let said = said_media_type.filter(|said| is_known(said));
        let media_type = match (json.get("mediaType"), said) {
            (Some(inside), said) => {
                let inside = inside.as_str().filter(|inside| is_known(inside)).ok_or_else(invalid)?;
                // A header that says something else contradicts the manifest, whether ECR knows that type or not.
                match (said_media_type, said) {
                    (Some(outside), _) if outside != inside && outside != "application/octet-stream" => {
                        return Err(invalid());
                    }
                    _ => inside,
                }
            }
            (None, Some(said)) => said,
            (None, None) => return Err(invalid()),
        };
        if json.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err(invalid());
        }
        let artifact_type = text(json.get("artifactType"))?;
        let mut manifest = Self {
            media_type: media_type.to_owned(),
            config_media_type: None,
            blobs: Vec::new(),
            size: 0,
            children: Vec::new(),
            subject: json.get("subject").map(|subject| Descriptor::read(subject).map(|it| it.digest)).transpose()?,
            artifact_type,
            annotations: json.get("annotations").cloned(),
        };
        if matches!(media_type, DOCKER_LIST | OCI_INDEX) {
            for child in json.get("manifests").and_then(Value::as_array).ok_or_else(invalid)? {
                manifest.children.push(Descriptor::read(child)?.digest);
            }
            return Ok(manifest);
        }
        let config = Descriptor::read(json.get("config").ok_or_else(invalid)?)?;
        let layers = json.get("layers").and_then(Value::as_array).ok_or_else(invalid)?;
        if layers.len() > max_layers {
            return Err(Refusal::parameter("ImageManifest", "Limit on number of layers per image exceeded"));
        }
        manifest.size = config.size;
        manifest.blobs.push(config.digest);
        manifest.config_media_type = Some(config.media_type);
        for layer in layers {
            let layer = Descriptor::read(layer)?;
            manifest.size = manifest.size.saturating_add(layer.size);
            // a client leaves foreign layers out, so they are not asked for.
            if !is_foreign(&layer.media_type) {
                manifest.blobs.push(layer.digest);
            }
        }
        Ok(manifest)
    }

    /// The artifact type that referrers are listed with.
    pub fn effective_artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref().or(self.config_media_type.as_deref())
    }
}

struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn read(value: &Value) -> Result<Self> {
        text(value.get("artifactType"))?;
        Ok(Self {
            media_type: text(value.get("mediaType"))?.ok_or_else(invalid)?,
            digest: value
                .get("digest")
                .and_then(Value::as_str)
                .filter(|digest| is_sha256(digest))
                .ok_or_else(invalid)?
                .to_owned(),
            size: value.get("size").and_then(Value::as_u64).ok_or_else(invalid)?,
        })
    }
}

/// a type with a parameter, although RFC 6838 has them, is refused.
fn text(value: Option<&Value>) -> Result<Option<String>> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) if !text.contains(';') => Ok(Some(text.clone())),
        Some(_) => Err(invalid()),
    }
}

fn invalid() -> Refusal {
    Refusal::parameter("ImageManifest", "Invalid JSON syntax")
}

fn is_known(media_type: &str) -> bool {
    [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].contains(&media_type)
}

fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".foreign.") || media_type.contains(".nondistributable.")
}

pub(crate) fn is_sha256(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// the manifest as the other of Docker's and OCI's types, if the caller takes only that one.
pub(crate) fn convert(bytes: &[u8], media_type: &str, accepted: &[String]) -> Option<(Vec<u8>, &'static str)> {
    const PAIRS: [(&str, &str); 5] = [
        (DOCKER_MANIFEST, OCI_MANIFEST),
        (DOCKER_LIST, OCI_INDEX),
        ("application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"),
    ];
    let other = |media_type: &str| {
        PAIRS.iter().find_map(|&(docker, oci)| match media_type {
            _ if media_type == docker => Some(oci),
            _ if media_type == oci => Some(docker),
            _ => None,
        })
    };
    // The children of an index would need other digests, so only images are converted.
    let target = other(media_type).filter(|_| matches!(media_type, DOCKER_MANIFEST | OCI_MANIFEST))?;
    if !accepted.iter().any(|one| one == target) {
        return None;
    }
    let mut json: Value = serde_json::from_slice(bytes).ok()?;
    json["mediaType"] = target.into();
    let mut descriptors = vec![json.get_mut("config")?.take()];
    descriptors.append(json.get_mut("layers")?.as_array_mut()?);
    for descriptor in &mut descriptors {
        descriptor["mediaType"] = other(descriptor.get("mediaType")?.as_str()?)?.into();
    }
    json["config"] = descriptors.remove(0);
    json["layers"] = descriptors.into();
    Some((json.to_string().into_bytes(), target))
}
