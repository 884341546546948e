//! Images in a directory.

mod common;

use common::*;
use local_ecr::{Config, Mutability, Storage};
use serde_json::{Value, json};

fn in_directory(directory: &tempfile::TempDir) -> Config {
    Config { storage: Storage::Directory(directory.path().to_owned()), ..Config::default() }
}

#[tokio::test]
async fn images_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let first = start(in_directory(&directory)).await;
    first.create_repository("fixed", Mutability::immutable_except(&["dev-*"])).unwrap();
    first.push_image("v1").await;
    let before = first.snapshot();
    first.server.shutdown().await;
    let second = start(in_directory(&directory)).await;
    assert_eq!(second.snapshot(), before);
    let found = second.call("DescribeRepositories", json!({ "repositoryNames": ["fixed"] })).await;
    assert_eq!(found["repositories"][0]["imageTagMutability"], "IMMUTABLE_WITH_EXCLUSION");
    let path = format!("team/app/blobs/{}", digest(b"layer v1"));
    let url = location(&second.v2("GET", &path).send().await.unwrap());
    assert_eq!(second.bare("GET", &url).send().await.unwrap().text().await.unwrap(), "layer v1");
}

#[tokio::test]
async fn a_repository_is_an_oci_layout() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = start(in_directory(&directory)).await;
    let digest = ecr.push_image("v1").await;
    let layout = directory.path().join("team+app");
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(layout.join(name)).unwrap()).unwrap() };
    assert_eq!(read("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }));
    let descriptor = read("index.json")["manifests"][0].clone();
    assert_eq!(text(&descriptor["digest"]), digest);
    assert_eq!(descriptor["annotations"]["org.opencontainers.image.ref.name"], "v1");
    let manifest = std::fs::read(layout.join("blobs/sha256").join(&digest[7..])).unwrap();
    assert_eq!(common::digest(&manifest), digest);
}

#[tokio::test]
async fn what_an_upload_left_behind_goes_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let spool = directory.path().join(".uploads");
    std::fs::create_dir_all(&spool).unwrap();
    std::fs::write(spool.join("left"), "over").unwrap();
    let _ecr = start(in_directory(&directory)).await;
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
}

#[tokio::test]
async fn a_broken_layout_is_named_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    drop(start(in_directory(&directory)).await);
    std::fs::write(directory.path().join("team+app/index.json"), "{").unwrap();
    let error = local_ecr::LocalEcr::start(in_directory(&directory)).await.unwrap_err().to_string();
    assert!(error.contains("team+app cannot be read"), "{error}");
}

#[tokio::test]
async fn a_mounted_blob_is_a_file_of_both() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = start(Config { mounting: true, ..in_directory(&directory) }).await;
    ecr.create_repository("other", Mutability::mutable()).unwrap();
    ecr.push_image("v1").await;
    let layer = digest(b"layer v1");
    let path = format!("other/blobs/uploads/?mount={layer}&from={REPOSITORY}");
    assert_eq!(ecr.v2("POST", &path).send().await.unwrap().status(), 201);
    let file = directory.path().join("other/blobs/sha256").join(&layer[7..]);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "layer v1");
}

#[tokio::test]
async fn a_deleted_repository_leaves_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = start(in_directory(&directory)).await;
    ecr.call("DeleteRepository", json!({ "repositoryName": REPOSITORY })).await;
    assert!(!directory.path().join("team+app").exists());
}
