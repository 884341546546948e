//! Pushes of one small image, and images that others put into the registry.

#![allow(dead_code, reason = "each test file uses a part")]

use ecr_push::image::{Digest, MediaType, Tag};
use ecr_push::known::Reuse;
use ecr_push::push::{BlobReport, DestinationSpec, PushReport, PushRequest, ReuseSettings};

use super::common::recorded;
use super::stand::{APP, Stand, push_with_log};

/// An image of two layers as an engine wrote it, uncompressed.
pub fn two() -> String {
    format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display())
}

pub fn tags(names: &[&str]) -> Vec<Tag> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub fn under(stand: &Stand, image: &str, tag: &str) -> PushRequest {
    PushRequest { tags: tags(&[tag]), ..stand.request(image) }
}

pub fn reusing(policy: Reuse, request: PushRequest) -> PushRequest {
    PushRequest { reuse: ReuseSettings { policy, ..request.reuse.clone() }, ..request }
}

pub fn cached(stand: &Stand, request: PushRequest) -> PushRequest {
    let cache_dir = Some(stand.folder.path().join("cache"));
    PushRequest { reuse: ReuseSettings { cache_dir, ..request.reuse.clone() }, ..request }
}

pub fn into(repository: &str, request: PushRequest) -> PushRequest {
    let destination = DestinationSpec::Ecr { repository: repository.parse().unwrap(), registry_id: None, host: None };
    PushRequest { destination, ..request }
}

pub async fn pushed(request: PushRequest) -> PushReport {
    let (report, log) = push_with_log(request).await;
    report.unwrap_or_else(|error| panic!("{error}\n{log:?}"))
}

pub fn layers(report: &PushReport) -> Vec<&BlobReport> {
    report.blobs.iter().filter(|blob| blob.diff_id.is_some()).collect()
}

pub fn reused(report: &PushReport) -> Vec<String> {
    layers(report).iter().filter_map(|blob| blob.reused_from.as_ref().map(ToString::to_string)).collect()
}

/// An image whose config has these diff ids, and whose manifest these blobs, put into `repository` as it is.
pub async fn plant(
    stand: &Stand,
    repository: &str,
    tag: &str,
    diff_ids: &[String],
    blobs: &[Blob<'_>],
    platform: &str,
) {
    planted(stand, repository, tag, diff_ids, blobs, platform).await;
}

/// A media type and bytes.
pub type Blob<'a> = (&'a str, Vec<u8>);

/// The same; answers what was pushed, and the size of its manifest.
pub async fn planted(
    stand: &Stand,
    repository: &str,
    tag: &str,
    diff_ids: &[String],
    blobs: &[Blob<'_>],
    platform: &str,
) -> (PushReport, usize) {
    let config = serde_json::json!({
        "os": "linux", "architecture": platform, "rootfs": { "type": "layers", "diff_ids": diff_ids }, "comment": tag,
    })
    .to_string();
    let (folder, size) = layout_of(config.as_bytes(), blobs);
    let request = under(stand, &format!("oci:{}", folder.path().display()), tag);
    (pushed(into(repository, request)).await, size)
}

/// An image of this very config.
pub async fn plant_config(stand: &Stand, tag: &str, config: &[u8], blobs: &[Blob<'_>]) {
    let (folder, _) = layout_of(config, blobs);
    pushed(under(stand, &format!("oci:{}", folder.path().display()), tag)).await;
}

/// A layout of one image, and the size of its manifest.
pub fn layout_of(config: &[u8], blobs: &[Blob<'_>]) -> (tempfile::TempDir, usize) {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("blobs/sha256");
    std::fs::create_dir_all(&store).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(store.join(digest.hex()), bytes).unwrap();
        digest.to_string()
    };
    let layers: Vec<_> = blobs
        .iter()
        .map(|(media_type, bytes)| serde_json::json!({ "mediaType": media_type, "digest": put(bytes), "size": bytes.len() }))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": { "mediaType": MediaType::OCI_CONFIG, "digest": put(config), "size": config.len() },
        "layers": layers,
    })
    .to_string();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": MediaType::OCI_MANIFEST, "digest": put(manifest.as_bytes()), "size": manifest.len() } ] });
    std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    (folder, manifest.len())
}

/// The layers of [`two`], uncompressed.
pub fn raw_layers() -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(std::fs::File::open(recorded("docker-20.10-overlay2/export-two.tar")).unwrap());
    let mut files = std::collections::HashMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        files.insert(path, bytes);
    }
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let paths = manifest[0]["Layers"].as_array().unwrap();
    paths.iter().map(|path| &files[path.as_str().unwrap()]).map(|b| (Digest::of(b).to_string(), b.clone())).collect()
}

pub fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

pub const GZIP: &str = MediaType::OCI_LAYER_GZIP;

/// The config of [`two`], byte for byte.
pub fn config_of_two() -> Vec<u8> {
    let mut archive = tar::Archive::new(std::fs::File::open(recorded("docker-20.10-overlay2/export-two.tar")).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        if path.ends_with(".json") && path.len() == 69 {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            return bytes;
        }
    }
    panic!("no config");
}

pub async fn manifest(stand: &Stand, tag: &str) -> String {
    let http = ecr_push::http::Http::new(&ecr_push::http::HttpSettings::default()).unwrap();
    let url = format!("{}/v2/{APP}/manifests/{tag}", stand.server.endpoint_url().trim_end_matches('/'));
    let login = format!("Basic {}", stand.server.authorization_token("test"));
    let answer = http.client().get(url).header("authorization", login).header("accept", MediaType::ACCEPT).send();
    answer.await.unwrap().text().await.unwrap()
}
