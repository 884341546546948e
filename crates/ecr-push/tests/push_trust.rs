//! What an image in one repository can do to another one: an attacker's script. Whoever may push to the repository of pull requests
//! plants an image there that names the layers of ours and has other blobs; nothing of it may get into a repository that the push does
//! not read or name.

mod common;
#[path = "common/planted.rs"]
mod planted;
#[path = "common/stand.rs"]
mod stand;

use ecr_push::compress::Compression;
use ecr_push::events::BlobAction;
use ecr_push::image::{Digest, MediaType, RepositoryName};
use ecr_push::known::Reuse;
use ecr_push::push::{PushReport, PushRequest, ReuseSettings, verify};
use local_ecr::{Config, Mutability};
use planted::*;
use stand::{APP, Stand, push_with_log};

/// Where anybody may push to.
const PULL: &str = "team/pull";

/// The blobs of the image that lies.
fn lie() -> [Blob<'static>; 2] {
    [(GZIP, gzip(b"not the first layer", 6)), (GZIP, gzip(b"not the second layer", 6))]
}

/// A registry that mounts, with the lie under `latest` of [`PULL`].
async fn attacked() -> Stand {
    let stand = Stand::bare(Config { mounting: true, ..Config::default() }).await;
    for name in [APP, PULL, "team/third"] {
        stand.server.create_repository(name, Mutability::mutable()).unwrap();
    }
    let raw = raw_layers();
    plant(&stand, PULL, "latest", &[raw[0].0.clone(), raw[1].0.clone()], &lie(), "amd64").await;
    stand
}

fn is_lied_to(report: &PushReport) -> bool {
    layers(report).iter().any(|layer| lie().iter().any(|(_, blob)| Digest::of(blob) == layer.digest))
}

fn mounting_from(names: &[&str], request: PushRequest) -> PushRequest {
    let mount_from: Vec<RepositoryName> = names.iter().map(|name| name.parse().unwrap()).collect();
    PushRequest { reuse: ReuseSettings { mount_from, ..request.reuse.clone() }, ..request }
}

fn mounts(stand: &Stand) -> usize {
    stand.asked("InitiateLayerUpload").iter().filter(|request| request.path.contains("mount=")).count()
}

/// The files that the cache has for layers.
fn entries(stand: &Stand) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(stand.folder.path().join("cache/v1")).unwrap();
    files.flatten().map(|file| file.path()).filter(|path| path.is_file()).collect()
}

/// A pull request's pipeline pushed on this host, and believed what its own repository says.
async fn after_a_pull_request(stand: &Stand) -> PushRequest {
    let request = cached(stand, under(stand, &two(), "v1"));
    let report = pushed(into(PULL, request.clone())).await;
    assert!(is_lied_to(&report), "within a repository everybody who may push to it is believed");
    assert!(entries(stand).iter().all(|file| std::fs::read_to_string(file).unwrap().contains("\"own\":false")));
    stand.server.clear_requests();
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_repository_claims_is_not_mounted() {
    for policy in [Reuse::Registry, Reuse::Own, Reuse::Verify, Reuse::Off] {
        let stand = attacked().await;
        let request = reusing(policy, after_a_pull_request(&stand).await);
        let report = pushed(request.clone()).await;
        assert!(!is_lied_to(&report), "{policy:?}: {:?}", report.blobs);
        assert_eq!(mounts(&stand), 0, "{policy:?}");
        assert!(stand.server.repository(APP).unwrap().blobs.len() == 3, "{policy:?}: nothing else came along");
        assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
    }
}

/// The blobs that the attacker names are in the target: those of an older image of ours, say.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_repository_claims_of_blobs_that_are_there_is_not_believed() {
    let stand = attacked().await;
    let request = after_a_pull_request(&stand).await;
    let others = [Digest::of(b"not the first layer"), Digest::of(b"not the second layer")].map(|id| id.to_string());
    plant(&stand, APP, "old", &others, &lie(), "amd64").await;
    // One tag, and everything seems known: that is the shortest way. Then the longer ones.
    for names in [&["v1"][..], &["v2", "v3"]] {
        let report = pushed(PushRequest { tags: tags(names), ..request.clone() }).await;
        assert!(!is_lied_to(&report), "{:?}", report.blobs);
        assert!(reused(&report).iter().all(|origin| origin == "this host"), "{:?}", reused(&report));
    }
    let verified = pushed(reusing(Reuse::Verify, PushRequest { tags: tags(&["v4"]), ..request })).await;
    assert!(!is_lied_to(&verified));
}

/// A cache that was written before it was noted who claims a pair.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_cache_has_no_say_but_for_what_is_this_hosts_own() {
    let stand = attacked().await;
    let request = after_a_pull_request(&stand).await;
    for file in entries(&stand) {
        let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let blob = entry["blobs"][0].as_object_mut().unwrap();
        assert!(blob.remove("origins").is_some());
        // Older versions took the repository that was pushed to for a place, whoever claimed the pair.
        let host = blob["places"][0].as_str().unwrap().split_once('/').unwrap().0.to_owned();
        blob["places"].as_array_mut().unwrap().push(format!("{host}/{APP}").into());
        std::fs::write(&file, entry.to_string()).unwrap();
    }
    let report = pushed(request.clone()).await;
    assert!(!is_lied_to(&report) && mounts(&stand) == 0);
    // What was made for that is this host's own, and mounted without being named.
    let third = pushed(into("team/third", request)).await;
    assert_eq!(reused(&third), ["this host", "this host"]);
    assert!(layers(&third).iter().all(|layer| layer.action == BlobAction::Mounted) && !is_lied_to(&third));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_is_believed_for_that_push_alone() {
    let stand = attacked().await;
    let request = cached(&stand, under(&stand, &two(), "v1"));
    let named = pushed(mounting_from(&[PULL], request.clone())).await;
    assert!(is_lied_to(&named), "the user's own word");
    assert_eq!(reused(&named), ["team/pull:latest", "team/pull:latest"]);
    // The cache knows these pairs of the target now. Who claims them is the same as before.
    let third = pushed(into("team/third", request.clone())).await;
    assert!(!is_lied_to(&third), "{:?}", third.blobs);
    // Where it is named again, the cache does.
    let tag = |tag: &str| PushRequest { tags: tags(&[tag]), ..request.clone() };
    std::fs::remove_dir_all(stand.folder.path().join("cache")).unwrap();
    pushed(into(PULL, tag("again"))).await;
    let again = pushed(into("team/third", mounting_from(&[PULL], tag("v2")))).await;
    assert_eq!(reused(&again), ["this host's cache", "this host's cache"]);
    assert!(is_lied_to(&again));
}

/// Puts a manifest as it is, which no honest program would make.
async fn put_raw(stand: &Stand, repository: &str, tag: &str, manifest: String) {
    let http = ecr_push::http::Http::new(&ecr_push::http::HttpSettings::default()).unwrap();
    let url = format!("{}/v2/{repository}/manifests/{tag}", stand.server.endpoint_url().trim_end_matches('/'));
    let login = format!("Basic {}", stand.server.authorization_token("test"));
    let put = http.client().put(url).header("authorization", login).header("content-type", MediaType::OCI_MANIFEST);
    assert!(put.body(manifest).send().await.unwrap().status().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_blob_has_the_size_that_is_said_or_is_not_used() {
    let stand = attacked().await;
    let raw = raw_layers();
    let blobs = [(GZIP, gzip(&raw[0].1, 9)), (GZIP, gzip(&raw[1].1, 9))];
    let (good, _) = planted(&stand, "team/third", "good", &[raw[0].0.clone(), raw[1].0.clone()], &blobs, "amd64").await;
    let third = stand.server.repository("team/third").unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&third.manifests[&good.digest.to_string()]).unwrap();
    manifest["layers"][1]["size"] = 7.into();
    put_raw(&stand, "team/third", "latest", manifest.to_string()).await;
    let request = mounting_from(&["team/third"], under(&stand, &two(), "v1"));
    let (report, log) = push_with_log(request.clone()).await;
    let report = report.unwrap();
    assert_eq!(reused(&report), ["team/third:latest"], "the one whose size is true");
    assert!(log.iter().any(|line| line.contains("its size is not the one that team/third:latest says")), "{log:?}");
    assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
    // The same of this host's own cache, should it be damaged.
    let request = cached(&stand, under(&stand, &two(), "v1"));
    pushed(into("team/third", PushRequest { compression: Some(Compression::Zstd(1)), ..request.clone() })).await;
    for file in entries(&stand) {
        let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        entry["blobs"][0]["size"] = 7.into();
        std::fs::write(&file, entry.to_string()).unwrap();
    }
    let request = PushRequest { tags: tags(&["v2"]), compression: Some(Compression::Zstd(1)), ..request };
    let (report, log) = push_with_log(request.clone()).await;
    let report = report.unwrap();
    assert!(reused(&report).is_empty(), "{:?} {log:?}", report.blobs);
    assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
}
