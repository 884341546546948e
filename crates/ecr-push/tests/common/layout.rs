//! An image of random layers. Where it lies is what makes it random: the same place, the same image.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use ecr_push::image::Digest;

/// Writes an image of random layers.
pub fn write_layout(path: &Path, sizes: &[usize]) -> PathBuf {
    write_layout_of(path, &path.display().to_string(), sizes)
}

/// The same with a seed of its own: layers of one seed and the same sizes before them are the same.
pub fn write_layout_of(path: &Path, seed: &str, sizes: &[usize]) -> PathBuf {
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest.to_string()
    };
    let mut state = seed.bytes().fold(88_172_645_463_325_252_u64, |s, b| s.rotate_left(7) ^ u64::from(b));
    let mut layer = |size: usize| -> Vec<u8> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            state.to_le_bytes()
        };
        (0..size.div_ceil(8)).flat_map(|_| next(&mut state)).take(size).collect()
    };
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    for size in sizes {
        let digest = put(&layer(*size));
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size
        }));
        diff_ids.push(digest);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids }
    })
    .to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config.as_bytes()), "size": config.len()
        },
        "layers": layers,
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(manifest.as_bytes()), "size": manifest.len()
        }],
    });
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    path.to_owned()
}
