//! Manifests, indexes and configs.

use bytes::Bytes;

use super::{check_error, parts};
use crate::image::{Config, Digest, Kind, Manifest, MediaType, image_manifest, is_foreign_layer, reindex};
use crate::known::{Origin, pairs_of};

/// What a descriptor may have said of the document.
const LISTED: [Option<&str>; 8] = [
    None,
    Some(MediaType::DOCKER_MANIFEST),
    Some(MediaType::DOCKER_LIST),
    Some(MediaType::OCI_MANIFEST),
    Some(MediaType::OCI_INDEX),
    Some("application/json"),
    Some(""),
    None,
];

/// Reads manifests and configs. The first byte chooses what the document is listed as; then come a manifest or index, and a config.
pub fn manifest(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let mut documents = parts(rest);
    let bytes = Bytes::copy_from_slice(documents.next().unwrap_or_default());
    let config = documents.next().unwrap_or_default();
    let parsed = Manifest::parse(bytes.clone(), LISTED[usize::from(first & 7)]);
    match &parsed {
        Ok(manifest) => check(manifest, &bytes),
        Err(error) => check_error(error),
    }
    match Config::parse(config) {
        Ok(read) => {
            let again = Config::parse(config).expect("what was read once is read again");
            assert_eq!((again.diff_ids, again.platform), (read.diff_ids, read.platform));
        }
        Err(error) => check_error(&error),
    }
    let Ok(manifest) = parsed else { return };
    let origin = Origin::Cache { own: false };
    if let Ok(pairs) = pairs_of(&manifest, config, None, &origin) {
        assert_eq!(manifest.config_digest(), Some(Digest::of(config)), "only a manifest's own config vouches");
        let Kind::Image { layers, .. } = &manifest.kind else { panic!("an index vouches for nothing") };
        assert!(pairs.iter().zip(layers).all(|(pair, layer)| pair.blob == *layer) && pairs.len() == layers.len());
    }
}

fn check(manifest: &Manifest, bytes: &Bytes) {
    assert_eq!(manifest.bytes, bytes, "bytes are forwarded untouched");
    assert_eq!(manifest.digest, Digest::of(bytes));
    let is_index = MediaType::is_index(&manifest.media_type);
    assert!(is_index || MediaType::is_manifest(&manifest.media_type));
    let again = Manifest::parse(bytes.clone(), Some(&manifest.media_type)).expect("it is what it says it is");
    assert_eq!((again.digest, &again.media_type), (manifest.digest, &manifest.media_type));
    match &manifest.kind {
        Kind::Index { entries } => {
            assert!(is_index && manifest.config_digest().is_none() && manifest.blobs().next().is_none());
            let kept = entries.iter().filter(|entry| !entry.is_attestation);
            match reindex(manifest, |entry| !entry.is_attestation) {
                Ok(less) => {
                    let Kind::Index { entries: left } = &less.kind else { panic!("an index stays one") };
                    let digests = |entry: &crate::image::Entry| entry.descriptor.clone();
                    assert!(left.iter().map(digests).eq(kept.map(digests)), "the right entries are left");
                    assert_eq!(less.media_type, manifest.media_type);
                }
                Err(error) => check_error(&error),
            }
        }
        Kind::Image { config, layers } => {
            assert!(!is_index);
            let needed = manifest.blobs().count();
            assert_eq!(needed, 1 + layers.iter().filter(|layer| !is_foreign_layer(&layer.media_type)).count());
            match image_manifest(config, layers) {
                Ok(ours) => {
                    let Kind::Image { config: our_config, layers: our_layers } = &ours.kind else {
                        panic!("what is made is an image")
                    };
                    assert_eq!(our_config.digest, config.digest);
                    assert!(our_layers.iter().zip(layers).all(|(our, layer)| our.digest == layer.digest));
                    assert_eq!(our_layers.len(), layers.len());
                }
                Err(error) => check_error(&error),
            }
        }
    }
}
