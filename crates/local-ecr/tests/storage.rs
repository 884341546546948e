//! Images in a directory.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::*;
use local_ecr::{Config, LocalEcr, Mutability, Notice, Notices, Storage};
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
async fn a_second_server_in_the_same_folder_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = start(in_directory(&directory)).await;
    let url = first.session().await;
    assert_eq!(first.at("PATCH", &url).body("hello").send().await.unwrap().status(), 201);
    let error = LocalEcr::start(in_directory(&directory)).await.unwrap_err();
    let folder = directory.path().display();
    assert_eq!(error.to_string(), format!("the folder {folder} is in use by another local-ecr"));
    // By another way to the same folder too.
    let again = Config { storage: Storage::Directory(directory.path().join(".uploads/..")), ..Config::default() };
    assert!(LocalEcr::start(again).await.is_err());
    // What the first one had is untouched, uploads included, and it goes on.
    let commit = format!("{url}?digest={}", digest(b"hello"));
    assert_eq!(first.at("PUT", &commit).send().await.unwrap().status(), 201);
    first.push_image("v1").await;
    first.server.shutdown().await;
    let second = start(in_directory(&directory)).await;
    assert!(second.snapshot().tags.contains_key("v1"));
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

/// The notices of a server.
fn noted() -> (Notices, Arc<Mutex<Vec<Notice>>>) {
    let seen = Arc::<Mutex<Vec<Notice>>>::default();
    let kept = Arc::clone(&seen);
    (Notices::new(move |notice| kept.lock().unwrap().push(notice.clone())), seen)
}

#[tokio::test]
async fn a_damaged_repository_is_named_and_left_out() {
    type Damage = fn(&Path, &str);
    let damages: [(&str, Damage, &str); 8] = [
        ("index cut short", |layout, _| std::fs::write(layout.join("index.json"), "{").unwrap(), "index.json: "),
        ("index of nothing", |layout, _| std::fs::write(layout.join("index.json"), "{}").unwrap(), "index.json: "),
        ("no index", |layout, _| std::fs::remove_file(layout.join("index.json")).unwrap(), "index.json: "),
        ("no mark", |layout, _| std::fs::remove_file(layout.join("oci-layout")).unwrap(), "oci-layout: "),
        ("settings", |layout, _| std::fs::write(layout.join("local-ecr.json"), [0xff]).unwrap(), "local-ecr.json: "),
        ("no blobs", |layout, _| std::fs::remove_dir_all(layout.join("blobs")).unwrap(), "sha256"),
        (
            "other bytes",
            |layout, hex| std::fs::write(layout.join("blobs/sha256").join(hex), "{}").unwrap(),
            "other bytes",
        ),
        (
            "no manifest",
            |layout, hex| std::fs::remove_file(layout.join("blobs/sha256").join(hex)).unwrap(),
            "not there",
        ),
    ];
    for (name, damage, wanted) in damages {
        let directory = tempfile::tempdir().unwrap();
        let first = start(in_directory(&directory)).await;
        first.create_repository("whole", Mutability::mutable()).unwrap();
        let image = first.push_image("v1").await;
        first.server.shutdown().await;
        let layout = directory.path().join("team+app");
        damage(&layout, &image[7..]);
        let before = files(&layout);

        let (notices, seen) = noted();
        let server = LocalEcr::start(Config { notices, ..in_directory(&directory) }).await.unwrap();
        assert_eq!(server.repositories(), ["whole"], "{name}");
        assert_eq!(server.damaged_repositories(), [REPOSITORY], "{name}");
        let seen = seen.lock().unwrap().clone();
        let [Notice::DamagedRepository { name: damaged, folder, cause }] = &seen[..] else {
            panic!("{name}: {seen:?}")
        };
        assert_eq!((damaged.as_str(), folder), (REPOSITORY, &layout), "{name}");
        assert!(cause.contains(wanted), "{name}: {cause}");
        let sentence = seen[0].to_string();
        assert!(sentence.contains(REPOSITORY) && sentence.contains(&layout.display().to_string()), "{sentence}");
        // What is left of it is not overwritten, and others are served as ever.
        let error = server.create_repository(REPOSITORY, Mutability::mutable()).unwrap_err().to_string();
        assert!(error.contains("would be overwritten"), "{name}: {error}");
        server.create_repository("other", Mutability::mutable()).unwrap();
        assert_eq!(files(&layout), before, "{name}");
    }
}

/// All files below a directory, and what is in them.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[tokio::test]
async fn what_could_not_be_written_is_refused_with_its_cause_and_not_acknowledged_later() {
    let directory = tempfile::tempdir().unwrap();
    let (notices, seen) = noted();
    let ecr = start(Config { notices, ..in_directory(&directory) }).await;
    let manifest = ecr.image("v1").await.to_string();
    // A directory where the file has to be: nobody may write that, not even root.
    let index = directory.path().join("team+app/index.json");
    std::fs::remove_file(&index).unwrap();
    std::fs::create_dir_all(index.join("in the way")).unwrap();
    for _ in 0..2 {
        let answer = error_of(ecr.put_manifest("v1", OCI_MANIFEST, manifest.clone()).await).await;
        assert_eq!((answer.0, answer.1.as_str()), (500, "UNKNOWN"));
        assert!(ecr.snapshot().tags.is_empty());
    }
    let (name, _) = ecr.refused("PutImage", json!({ "repositoryName": REPOSITORY, "imageManifest": manifest })).await;
    assert_eq!(name, "ServerException");
    let lines: Vec<_> = seen.lock().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("internal error at PUT /v2/team/app/manifests/v1: "), "{lines:?}");
    assert!(lines[2].starts_with("internal error at POST / (PutImage): "), "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("os error") || line.contains("directory")), "{lines:?}");
    // Once it can be written, it is.
    std::fs::remove_dir_all(&index).unwrap();
    assert_eq!(ecr.put_manifest("v1", OCI_MANIFEST, manifest).await.status(), 201);
    ecr.server.shutdown().await;
    assert!(start(in_directory(&directory)).await.snapshot().tags.contains_key("v1"));
}

#[tokio::test]
async fn a_blob_that_cannot_be_read_or_written_is_an_internal_error_with_a_cause() {
    let directory = tempfile::tempdir().unwrap();
    let (notices, seen) = noted();
    let ecr = start(Config { notices, ..in_directory(&directory) }).await;
    ecr.push_image("v1").await;
    let layer = digest(b"layer v1");
    let url = location(&ecr.v2("GET", &format!("team/app/blobs/{layer}")).send().await.unwrap());
    let file = directory.path().join("team+app/blobs/sha256").join(&layer[7..]);
    std::fs::write(&file, "short").unwrap();
    // The answer has begun when that is seen.
    let cut = async { ecr.bare("GET", &url).send().await?.bytes().await };
    assert!(cut.await.is_err());
    std::fs::remove_file(&file).unwrap();
    assert_eq!(ecr.bare("GET", &url).send().await.unwrap().status(), 500);
    std::fs::remove_dir_all(directory.path().join(".uploads")).unwrap();
    let session = ecr.session().await;
    assert_eq!(ecr.at("PATCH", &session).body("x").send().await.unwrap().status(), 500);
    let lines: Vec<_> = seen.lock().unwrap().iter().map(ToString::to_string).collect();
    let starts =
        ["internal error at GET /_s3/", "internal error at GET /_s3/", "internal error at PATCH /v2/team/app/"];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    assert!(lines.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{lines:?}");
}

#[tokio::test]
async fn what_was_not_deleted_to_the_end_goes_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let left = directory.path().join(".deleted-1");
    std::fs::create_dir_all(left.join("blobs")).unwrap();
    let _ecr = start(in_directory(&directory)).await;
    assert!(!left.exists());
}

#[tokio::test]
async fn a_deleted_image_is_gone_after_a_restart_too() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = start(in_directory(&directory)).await;
    ecr.push_image("v1").await;
    let kept = ecr.push_image("v2").await;
    let ids = json!({ "repositoryName": REPOSITORY, "imageIds": [{ "imageTag": "v1" }] });
    ecr.call("BatchDeleteImage", ids).await;
    ecr.server.shutdown().await;
    let second = start(in_directory(&directory)).await;
    assert_eq!(second.snapshot().manifests.into_keys().collect::<Vec<_>>(), [kept]);
}
