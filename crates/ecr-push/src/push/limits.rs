//! What Amazon ECR does not take, refused before a byte is sent (ecr-facts section 3).

use crate::aws::quota_hint;
use crate::error::{Error, Result, Side};
use crate::image::{Descriptor, Kind, Manifest};
use crate::source::{Image, Preview};

/// Layers of one image. AWS does not publish it; 500 is what its refusals have shown (ecr-facts 4.6).
const LAYERS: usize = 500;

/// Bytes of one layer.
const LAYER_BYTES: u64 = 52_000 << 20;

/// Bytes of one manifest.
const MANIFEST_BYTES: usize = 4 << 20;

/// Refuses an image that ECR would refuse, as far as it is known before it is read.
pub(super) fn check_preview(preview: &Preview) -> Result<()> {
    check_count(preview.diff_ids.len())?;
    preview.manifests.iter().try_for_each(check_manifest)
}

/// The same for an image that was read, of which a stream said nothing before.
pub(super) fn check_image(image: &Image) -> Result<()> {
    match image {
        Image::Layers { diff_ids, .. } => check_count(diff_ids.len()),
        Image::Manifests { manifests, .. } => manifests.iter().try_for_each(check_manifest),
    }
}

fn check_manifest(manifest: &Manifest) -> Result<()> {
    if manifest.bytes.len() > MANIFEST_BYTES {
        let text = format!(
            "the manifest {} has {} bytes, and Amazon ECR takes {MANIFEST_BYTES} at most",
            manifest.digest,
            manifest.bytes.len()
        );
        return Err(refused(text).with_hint("leave out annotations or platforms; the limit is fixed"));
    }
    let Kind::Image { layers, .. } = &manifest.kind else { return Ok(()) };
    check_count(layers.len())?;
    layers.iter().try_for_each(check_layer)
}

fn check_layer(layer: &Descriptor) -> Result<()> {
    if layer.size <= LAYER_BYTES {
        return Ok(());
    }
    let text =
        format!("the layer {} has {} bytes, and Amazon ECR takes {LAYER_BYTES} at most", layer.digest, layer.size);
    Err(refused(text).with_hint(quota_hint("layer size")))
}

fn check_count(layers: usize) -> Result<()> {
    if layers <= LAYERS {
        return Ok(());
    }
    let text = format!("the image has {layers} layers, and Amazon ECR takes {LAYERS} at most");
    Err(refused(text).with_hint(quota_hint("layers per image")))
}

fn refused(text: String) -> Error {
    // Not the source's: another way to the same image would not help.
    Error::new(Side::Destination, "check limits", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{DiffId, Digest};

    fn manifest(layers: usize, size: u64) -> Manifest {
        let digest = Digest::of(b"layer");
        let layer = format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":{size}}}"#
        );
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":1}},"layers":[{}]}}"#,
            vec![layer; layers].join(",")
        );
        Manifest::parse(text.into(), None).unwrap()
    }

    fn verdict(preview: Preview) -> String {
        check_preview(&preview).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_ecr_does_not_take_is_refused_with_the_number() {
        let layers = |count| Preview { diff_ids: vec![DiffId(Digest::of(b"x")); count], ..Preview::default() };
        assert_eq!(verdict(layers(500)), "");
        assert_eq!(verdict(layers(501)), "the image has 501 layers, and Amazon ECR takes 500 at most");
        let stored = |manifest| Preview { manifests: vec![manifest], ..Preview::default() };
        assert_eq!(verdict(stored(manifest(500, 1))), "");
        assert!(verdict(stored(manifest(501, 1))).contains("501 layers"));
        assert_eq!(verdict(stored(manifest(1, 52_000 << 20))), "");
        assert!(verdict(stored(manifest(1, (52_000 << 20) + 1))).contains("54525952001 bytes"));
        let mut long = manifest(1, 1);
        long.bytes = vec![b' '; MANIFEST_BYTES + 1].into();
        assert!(verdict(stored(long)).contains("4194305 bytes, and Amazon ECR takes 4194304"));
    }
}
