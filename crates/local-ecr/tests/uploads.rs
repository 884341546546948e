//! Upload sessions at the registry door.

mod common;

use std::time::Duration;

use common::*;
use local_ecr::{Config, Fault, FaultAction, Limits, MissingRepository, Storage};
use serde_json::json;

#[tokio::test]
async fn a_session_is_an_absolute_address_on_the_same_host() {
    let ecr = ecr().await;
    let response = ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap();
    assert_eq!(response.status(), 202);
    let id = header(&response, "docker-upload-uuid").unwrap();
    assert_eq!(location(&response), format!("{}/v2/team/app/blobs/uploads/{id}", ecr.endpoint_url()));
    assert_eq!(header(&response, "range").unwrap(), "0-0");
}

#[tokio::test]
async fn a_blob_goes_up_in_one_put() {
    let ecr = ecr().await;
    let digest = ecr.push_blob(b"hello").await;
    let response = ecr.v2("HEAD", &format!("team/app/blobs/{digest}")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-length").unwrap(), "5");
    assert_eq!(header(&response, "docker-content-digest").unwrap(), digest);
    assert_eq!(header(&response, "content-type").unwrap(), "application/vnd.docker.container.image.v1+json");
}

#[tokio::test]
async fn a_blob_goes_up_in_one_patch_and_an_empty_put() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    assert_eq!(ecr.at("PATCH", &url).body("hello").send().await.unwrap().status(), 201);
    let commit = format!("{url}?digest={}", digest(b"hello"));
    assert_eq!(ecr.at("PUT", &commit).send().await.unwrap().status(), 201);
    assert!(ecr.snapshot().blobs.contains(&digest(b"hello")));
}

#[tokio::test]
async fn patch_answers_201_with_a_range_that_goes_stale() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    let chunk = |first: usize| {
        let range = format!("{first}-{}", first + 9);
        ecr.at("PATCH", &url).header("content-range", range).body(vec![1; 10]).send()
    };
    let first = chunk(0).await.unwrap();
    assert_eq!((first.status().as_u16(), location(&first)), (201, url.clone()));
    assert_eq!(header(&first, "range").unwrap(), "0-9");
    let second = chunk(10).await.unwrap();
    assert_eq!(second.status(), 201);
    assert_eq!(header(&second, "range").unwrap(), "0-9");
}

#[tokio::test]
async fn a_replay_from_zero_is_refused_with_both_offsets() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.at("PATCH", &url).body("hello").send().await.unwrap();
    let answer = error_of(ecr.at("PATCH", &url).body("hello").send().await.unwrap()).await;
    assert_eq!(answer, error(416, "BLOB_UPLOAD_INVALID", "First byte of the layer part is 0 instead of 5"));
}

#[tokio::test]
async fn a_gap_is_refused() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    let response = ecr.at("PATCH", &url).header("content-range", "7-9").body("abc").send().await.unwrap();
    let answer = error_of(response).await;
    assert_eq!(answer, error(416, "BLOB_UPLOAD_INVALID", "First byte of the layer part is 7 instead of 0"));
}

#[tokio::test]
async fn a_range_of_another_length_is_refused() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    let response = ecr.at("PATCH", &url).header("content-range", "0-9").body("abc").send().await.unwrap();
    assert_eq!(error_of(response).await.0, 416);
}

#[tokio::test]
async fn a_small_part_in_the_middle_is_refused_at_the_commit() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    for (range, body) in [("0-2", "abc"), ("3-5", "def")] {
        let response = ecr.at("PATCH", &url).header("content-range", range).body(body).send().await.unwrap();
        assert_eq!(response.status(), 201);
    }
    let commit = format!("{url}?digest={}", digest(b"abcdef"));
    let answer = error_of(ecr.at("PUT", &commit).send().await.unwrap()).await;
    let sentence = "All layer parts except the last part should be at least 5MB";
    assert_eq!(answer, error(400, "BLOB_UPLOAD_INVALID", sentence));
}

#[tokio::test]
async fn large_chunks_with_the_last_in_the_put_are_taken() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    let bytes = vec![7_u8; 6 * MIB];
    let first = ecr.at("PATCH", &url).header("content-range", format!("0-{}", 6 * MIB - 1)).body(bytes.clone());
    assert_eq!(first.send().await.unwrap().status(), 201);
    let whole = [bytes.as_slice(), b"tail"].concat();
    let commit = ecr.at("PUT", &format!("{url}?digest={}", digest(&whole)));
    let commit = commit.header("content-range", format!("{}-{}", 6 * MIB, 6 * MIB + 3)).body("tail");
    assert_eq!(commit.send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_wrong_digest_is_refused() {
    let ecr = ecr().await;
    let url = format!("{}?digest={}", ecr.session().await, digest(b"other"));
    let answer = error_of(ecr.at("PUT", &url).body("hello").send().await.unwrap()).await;
    let sentence = "None of the provided layer digests match the calculated layer digest";
    assert_eq!(answer, error(400, "BLOB_UPLOAD_INVALID", sentence));
    assert!(ecr.snapshot().blobs.is_empty());
}

#[tokio::test]
async fn an_empty_blob_is_refused() {
    let ecr = ecr().await;
    let url = format!("{}?digest={}", ecr.session().await, digest(b""));
    let (status, code, message) = error_of(ecr.at("PUT", &url).send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (400, "BLOB_UPLOAD_INVALID"));
    assert!(message.ends_with("cannot be completed because it does not have any parts"), "{message}");
}

#[tokio::test]
async fn a_commit_needs_a_digest() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    assert_eq!(error_of(ecr.at("PUT", &url).body("hello").send().await.unwrap()).await.0, 405);
}

#[tokio::test]
async fn a_finished_session_is_unknown() {
    let ecr = ecr().await;
    let url = format!("{}?digest={}", ecr.session().await, digest(b"hello"));
    assert_eq!(ecr.at("PUT", &url).body("hello").send().await.unwrap().status(), 201);
    let (status, code, _) = error_of(ecr.at("PUT", &url).body("hello").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
}

#[tokio::test]
async fn a_session_belongs_to_its_repository() {
    let ecr = ecr().await;
    ecr.create_repository("other", local_ecr::Mutability::mutable()).unwrap();
    let url = ecr.session().await.replace("team/app", "other");
    assert_eq!(error_of(ecr.at("PATCH", &url).body("a").send().await.unwrap()).await.0, 404);
}

#[tokio::test]
async fn a_blob_that_came_meanwhile_is_no_error() {
    let ecr = ecr().await;
    ecr.push_blob(b"hello").await;
    ecr.push_blob(b"hello").await;
}

#[tokio::test]
async fn a_layer_over_the_limit_is_refused() {
    let limits = Limits { layer_bytes: 4, ..Limits::default() };
    let ecr = start(Config { limits, ..Config::default() }).await;
    let url = ecr.session().await;
    assert_eq!(error_of(ecr.at("PATCH", &url).body("hello").send().await.unwrap()).await.0, 405);
}

#[tokio::test]
async fn more_parts_than_the_limit_are_refused() {
    let limits = Limits { layer_parts: 1, ..Limits::default() };
    let ecr = start(Config { limits, ..Config::default() }).await;
    let url = ecr.session().await;
    let chunk = |range: &'static str| ecr.at("PATCH", &url).header("content-range", range).body("a").send();
    assert_eq!(chunk("0-0").await.unwrap().status(), 201);
    assert_eq!(error_of(chunk("1-1").await.unwrap()).await.0, 405);
}

#[tokio::test]
async fn sessions_can_be_neither_asked_nor_cancelled() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    assert_eq!(ecr.at("GET", &url).send().await.unwrap().status(), 404);
    assert_eq!(ecr.at("DELETE", &url).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_missing_repository_is_named() {
    let ecr = ecr().await;
    let answer = error_of(ecr.v2("POST", "nope/x/blobs/uploads/").send().await.unwrap()).await;
    let sentence = "The repository with name 'nope/x' does not exist in the registry with id '123456789012'";
    assert_eq!(answer, error(404, "NAME_UNKNOWN", sentence));
}

#[tokio::test]
async fn a_missing_repository_can_cut_the_connection() {
    let ecr = start(Config { missing_repository: MissingRepository::Close, ..Config::default() }).await;
    assert!(ecr.v2("POST", "nope/blobs/uploads/").send().await.is_err());
    assert_eq!(ecr.requests().last().unwrap().status, None);
}

#[tokio::test]
async fn a_missing_repository_can_be_made_by_the_push() {
    let ecr = start(Config { missing_repository: MissingRepository::Create, ..Config::default() }).await;
    assert_eq!(ecr.v2("POST", "fresh/blobs/uploads/").send().await.unwrap().status(), 202);
    assert!(ecr.repository("fresh").is_some());
}

#[tokio::test]
async fn a_name_outside_the_pattern_is_unsupported() {
    let ecr = ecr().await;
    let (status, code, message) = error_of(ecr.v2("POST", "Bad/blobs/uploads/").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (405, "UNSUPPORTED"));
    assert!(message.starts_with("Invalid parameter at 'repositoryName' failed to satisfy constraint: '"));
}

#[tokio::test]
async fn a_cut_upload_keeps_its_bytes() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.add_fault(Fault::new(FaultAction::Reset { after: MIB as u64 }).method("PATCH").times(1));
    assert!(ecr.at("PATCH", &url).body(vec![1; 3 * MIB]).send().await.is_err());
    let answer = error_of(ecr.at("PATCH", &url).body(vec![1; 3 * MIB]).send().await.unwrap()).await;
    assert_eq!(answer.2, format!("First byte of the layer part is 0 instead of {MIB}"));
    // Going on where it stopped leaves a small part in the middle.
    let range = format!("{MIB}-{}", 3 * MIB - 1);
    let commit = ecr.at("PUT", &format!("{url}?digest={}", digest(&vec![1; 3 * MIB]))).header("content-range", range);
    let answer = error_of(commit.body(vec![1; 2 * MIB]).send().await.unwrap()).await;
    assert_eq!(answer.2, "All layer parts except the last part should be at least 5MB");
}

async fn mounting(enabled: bool) -> (Ecr, String, String) {
    let ecr = start(Config { mounting: enabled, ..Config::default() }).await;
    ecr.create_repository("other", local_ecr::Mutability::mutable()).unwrap();
    ecr.push_image("v1").await;
    let layer = digest(b"layer v1");
    let path = format!("other/blobs/uploads/?mount={layer}&from={REPOSITORY}");
    (ecr, layer, path)
}

#[tokio::test]
async fn a_mount_works_when_it_is_enabled_and_the_layer_is_used() {
    let (ecr, layer, path) = mounting(true).await;
    let response = ecr.v2("POST", &path).send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert!(ecr.repository("other").unwrap().blobs.contains(&layer));
}

#[tokio::test]
async fn a_mount_that_is_not_enabled_opens_a_session() {
    let (ecr, _, path) = mounting(false).await;
    let response = ecr.v2("POST", &path).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert!(location(&response).contains("/blobs/uploads/"));
}

#[tokio::test]
async fn a_layer_no_image_uses_is_not_mounted() {
    let (ecr, _, _) = mounting(true).await;
    let loose = ecr.push_blob(b"loose").await;
    let path = format!("other/blobs/uploads/?mount={loose}&from={REPOSITORY}");
    assert_eq!(ecr.v2("POST", &path).send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn a_mount_needs_the_same_encryption() {
    let (ecr, layer, _) = mounting(true).await;
    let input = json!({ "repositoryName": "secret", "encryptionConfiguration": { "encryptionType": "KMS" } });
    ecr.call("CreateRepository", input).await;
    let path = format!("secret/blobs/uploads/?mount={layer}&from={REPOSITORY}");
    assert_eq!(ecr.v2("POST", &path).send().await.unwrap().status(), 202);
}

#[tokio::test]
async fn reading_redirects_to_where_authorization_is_an_error() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    let path = format!("team/app/blobs/{}", digest(b"layer v1"));
    let response = ecr.v2("GET", &path).send().await.unwrap();
    assert_eq!(response.status(), 307);
    let url = location(&response);
    assert!(url.starts_with("http://localhost:"), "{url}");
    assert_eq!(ecr.at("GET", &url).send().await.unwrap().status(), 400);
    assert_eq!(ecr.bare("GET", &url).send().await.unwrap().text().await.unwrap(), "layer v1");
    let part = ecr.bare("GET", &url).header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-range").unwrap(), "bytes 1-3/8");
    assert_eq!(part.text().await.unwrap(), "aye");
}

#[tokio::test]
async fn a_layer_no_image_uses_cannot_be_read() {
    let ecr = ecr().await;
    let loose = ecr.push_blob(b"loose").await;
    assert_eq!(ecr.v2("GET", &format!("team/app/blobs/{loose}")).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn many_large_blobs_go_up_at_once_into_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::Directory(directory.path().to_owned());
    let ecr = std::sync::Arc::new(start(Config { storage, ..Config::default() }).await);
    let uploads: Vec<_> = (0_u8..8)
        .map(|fill| {
            let ecr = std::sync::Arc::clone(&ecr);
            tokio::spawn(async move { ecr.push_blob(&vec![fill; 12 * MIB]).await })
        })
        .collect();
    for upload in uploads {
        let digest = upload.await.unwrap();
        let path = directory.path().join("team+app/blobs/sha256").join(digest.trim_start_matches("sha256:"));
        assert_eq!(path.metadata().unwrap().len(), 12 << 20);
    }
}

fn in_directory(directory: &tempfile::TempDir) -> Config {
    Config { storage: Storage::Directory(directory.path().to_owned()), ..Config::default() }
}

/// How many bytes lie in unfinished uploads.
fn spooled(directory: &tempfile::TempDir) -> u64 {
    let files = std::fs::read_dir(directory.path().join(".uploads")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

/// How many files below the directory this process has open.
#[cfg(target_os = "linux")]
fn open_files(directory: &tempfile::TempDir) -> usize {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let uploads = directory.path().join(".uploads");
    files
        .filter(|file| std::fs::read_link(file.as_ref().unwrap().path()).is_ok_and(|it| it.starts_with(&uploads)))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_session_that_waits_holds_no_open_file() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = start(in_directory(&directory)).await;
    let mut urls = Vec::new();
    for _ in 0..20 {
        let url = ecr.session().await;
        assert_eq!(ecr.at("PATCH", &url).body(vec![7; 2 * MIB + 1]).send().await.unwrap().status(), 201);
        urls.push(url);
    }
    assert_eq!(open_files(&directory), 0);
    // All of it is on disk, and goes on from there.
    assert_eq!(spooled(&directory), 20 * (2 * MIB as u64 + 1));
    let commit = format!("{}?digest={}", urls[0], digest(&vec![7; 2 * MIB + 1]));
    assert_eq!(ecr.at("PUT", &commit).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_session_ends_when_nothing_is_asked_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3_600);
    let limits = Limits { min_part_bytes: 1, ..Limits::default() };
    let ecr = start(Config { upload_ttl: hour, limits, ..in_directory(&directory) }).await;
    let (used, abandoned) = (ecr.session().await, ecr.session().await);
    assert_eq!(ecr.at("PATCH", &abandoned).body("lost").send().await.unwrap().status(), 201);
    for first in [0, 4] {
        ecr.advance_clock(hour / 2);
        let range = format!("{first}-{}", first + 3);
        let sent = ecr.at("PATCH", &used).header("content-range", range).body("more").send().await.unwrap();
        assert_eq!(sent.status(), 201);
    }
    assert_eq!(spooled(&directory), 8, "the other one's bytes are gone");
    let answer = error_of(ecr.at("PATCH", &abandoned).body("late").send().await.unwrap()).await;
    assert_eq!((answer.0, answer.1.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    let commit = format!("{used}?digest={}", digest(b"moremore"));
    assert_eq!(ecr.at("PUT", &commit).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_session_that_bytes_flow_into_does_not_end() {
    let ecr = std::sync::Arc::new(ecr().await);
    let url = ecr.session().await;
    let pause = FaultAction::Pause { after: 3, time: Duration::from_millis(400) };
    ecr.add_fault(Fault::new(pause).method("PATCH").times(1));
    let sending = tokio::spawn({
        let (ecr, url) = (std::sync::Arc::clone(&ecr), url.clone());
        async move { ecr.at("PATCH", &url).body("hello").send().await.unwrap().status() }
    });
    while ecr.requests().last().is_none_or(|request| request.body_bytes < 3) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ecr.advance_clock(Duration::from_secs(7 * 60 * 60));
    assert_eq!(sending.await.unwrap(), 201);
    let commit = format!("{url}?digest={}", digest(b"hello"));
    assert_eq!(ecr.at("PUT", &commit).send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn the_session_that_waited_longest_makes_room() {
    let limits = Limits { upload_sessions: 3, ..Limits::default() };
    let ecr = start(Config { limits, ..Config::default() }).await;
    let mut urls = Vec::new();
    for _ in 0..3 {
        urls.push(ecr.session().await);
        ecr.advance_clock(Duration::from_secs(1));
    }
    // The oldest one is in use again.
    assert_eq!(ecr.at("PATCH", &urls[0]).body("a").send().await.unwrap().status(), 201);
    urls.push(ecr.session().await);
    let mut statuses = Vec::new();
    for url in &urls {
        let response = ecr.at("PUT", &format!("{url}?digest={}", digest(b"a"))).body("").send().await.unwrap();
        statuses.push(response.status().as_u16());
    }
    // 400: there, and empty.
    assert_eq!(statuses, [201, 404, 400, 400]);
}

#[tokio::test]
async fn a_session_ends_with_its_repository() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = start(in_directory(&directory)).await;
    let url = ecr.session().await;
    assert_eq!(ecr.at("PATCH", &url).body("hello").send().await.unwrap().status(), 201);
    ecr.call("DeleteRepository", json!({ "repositoryName": REPOSITORY })).await;
    assert_eq!(spooled(&directory), 0);
    // Another one of the same name has no part in it.
    ecr.create_repository(REPOSITORY, local_ecr::Mutability::mutable()).unwrap();
    let commit = ecr.at("PUT", &format!("{url}?digest={}", digest(b"hello"))).send().await.unwrap();
    assert_eq!(error_of(commit).await.1, "BLOB_UPLOAD_UNKNOWN");
    assert!(ecr.snapshot().blobs.is_empty());
}

#[tokio::test]
async fn a_repository_that_goes_during_an_upload_keeps_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ecr = std::sync::Arc::new(start(in_directory(&directory)).await);
    let url = format!("{}?digest={}", ecr.session().await, digest(b"hello"));
    let pause = FaultAction::Pause { after: 3, time: Duration::from_millis(400) };
    ecr.add_fault(Fault::new(pause).method("PUT").times(1));
    let sending = tokio::spawn({
        let ecr = std::sync::Arc::clone(&ecr);
        async move { error_of(ecr.at("PUT", &url).body("hello").send().await.unwrap()).await }
    });
    while ecr.requests().last().is_none_or(|request| request.body_bytes < 3) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ecr.call("DeleteRepository", json!({ "repositoryName": REPOSITORY })).await;
    ecr.create_repository(REPOSITORY, local_ecr::Mutability::mutable()).unwrap();
    let (status, code, _) = sending.await.unwrap();
    assert_eq!((status, code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    assert!(ecr.snapshot().blobs.is_empty());
}
