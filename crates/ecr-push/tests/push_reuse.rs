//! Layers that the registry has already: which blobs take their place, whose word is taken for it, and what happens when nobody can be
//! asked, believed or reached.

mod common;
#[path = "common/planted.rs"]
mod planted;
#[path = "common/stand.rs"]
mod stand;

use std::time::{Duration, Instant};

use common::recorded;
use ecr_push::compress::Compression;
use ecr_push::events::BlobAction;
use ecr_push::image::{Digest, MediaType};
use ecr_push::known::Reuse;
use ecr_push::push::{PushReport, PushRequest, verify};
use local_ecr::{Config, Fault, FaultAction, Mutability, Policy};
use planted::*;
use stand::{APP, Stand, push_with_log};

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_host_takes_the_layers_of_an_image_that_is_there() {
    for (at, named) in [("latest", vec![]), ("base", tags(&["base"])), ("old", vec![])] {
        let stand = Stand::new().await;
        let first =
            pushed(PushRequest { compression: Some(Compression::GzipLevel(9)), ..under(&stand, &two(), at) }).await;
        stand.server.clear_requests();
        let mut request = under(&stand, &two(), "v2");
        request.reuse.from = named;
        let second = pushed(request.clone()).await;
        // The newest images are found without a tag's help.
        let origin = if at == "old" { first.digest.short() } else { at.to_owned() };
        assert_eq!(reused(&second), [origin.clone(), origin], "{at}");
        assert_eq!(second.digest, first.digest, "the same blobs make the same manifest");
        assert!(stand.asked("InitiateLayerUpload").is_empty());
        assert_eq!(verify(&request, &second).await.unwrap().blobs, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_new_is_sent() {
    let stand = Stand::new().await;
    let raw = raw_layers();
    plant(&stand, APP, "latest", &[raw[0].0.clone()], &[(GZIP, gzip(&raw[0].1, 9))], "amd64").await;
    stand.server.clear_requests();
    let request = under(&stand, &two(), "v1");
    let report = pushed(request.clone()).await;
    assert_eq!(reused(&report), ["latest"]);
    assert_eq!(stand.asked("InitiateLayerUpload").len(), 2, "one layer and the config");
    assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
    // A blob of OCI's kind makes the manifest one.
    let manifest = stand.server.repository(APP).unwrap();
    assert_eq!(manifest.tags["v1"], report.digest.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explicit_codec_is_kept() {
    let stand = Stand::new().await;
    let zstd = Some(Compression::Zstd(3));
    let first = pushed(PushRequest { compression: zstd, ..under(&stand, &two(), "latest") }).await;
    let asked = |compression| PushRequest { compression, ..under(&stand, &two(), "v2") };
    assert_eq!(reused(&pushed(asked(Some(Compression::Gzip))).await).len(), 0, "gzip was asked for");
    assert_eq!(reused(&pushed(asked(zstd)).await).len(), 2);
    let stand = Stand::new().await;
    pushed(PushRequest { compression: zstd, ..under(&stand, &two(), "latest") }).await;
    let any = pushed(PushRequest { compression: None, ..under(&stand, &two(), "v3") }).await;
    assert_eq!((reused(&any).len(), any.digest), (2, first.digest), "a reused blob keeps its media type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_host_asks_once_and_puts_the_tag() {
    let stand = Stand::new().await;
    let request = |tag: &str| cached(&stand, under(&stand, &two(), tag));
    let first = pushed(request("v1")).await;
    let operations = || -> Vec<String> { stand.server.requests().into_iter().map(|r| r.operation).collect() };
    stand.server.clear_requests();
    let second = pushed(request("v2")).await;
    assert_eq!(second.digest, first.digest);
    assert_eq!(reused(&second), ["this host", "this host"]);
    // The last one sees the tag: ECR shows it late.
    let put = ["GetAuthorizationToken", "BatchCheckLayerAvailability", "PutImage", "BatchGetImage"];
    assert_eq!(operations(), put);
    for tag in ["v1", "v2"] {
        stand.server.clear_requests();
        assert!(pushed(request(tag)).await.existed);
        assert_eq!(operations(), ["GetAuthorizationToken", "BatchGetImage"], "a repeat");
    }
    let layout = stand.layout("layout", &[1000, 2000]);
    let request = |tag: &str| cached(&stand, under(&stand, &layout, tag));
    pushed(request("v1")).await;
    stand.server.clear_requests();
    pushed(request("v3")).await;
    assert_eq!(operations(), put, "from a layout");
    // Whoever takes the answer to the put for it is asked nothing more than before.
    stand.server.clear_requests();
    pushed(PushRequest { wait_visible: None, ..request("v4") }).await;
    assert_eq!(operations(), put[..3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_used_costs_time_and_nothing_else() {
    let stand = Stand::new().await;
    let cache = stand.folder.path().join("cache");
    let request = |tag: &str| cached(&stand, under(&stand, &two(), tag));
    let first = pushed(request("v1")).await;
    let entries = || std::fs::read_dir(cache.join("v1")).unwrap().flatten().map(|e| e.path()).filter(|p| p.is_file());
    // Corrupt; of another version; blobs that are nowhere; sizes that are not the registry's.
    type Spoil = fn(&str) -> String;
    let spoil: [(&str, Spoil); 4] = [
        ("v2", |text| text[..text.len() / 2].to_owned()),
        ("v3", |text| text.replace("\"version\":1", "\"version\":99")),
        ("v4", |text| {
            let mut entry: serde_json::Value = serde_json::from_str(text).unwrap();
            entry["blobs"][0]["digest"] = Digest::of(b"nowhere").to_string().into();
            entry.to_string()
        }),
        ("v5", |text| {
            let mut entry: serde_json::Value = serde_json::from_str(text).unwrap();
            entry["blobs"][0]["size"] = 7.into();
            entry.to_string()
        }),
    ];
    for (tag, spoil) in spoil {
        for path in entries() {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, spoil(&text)).unwrap();
        }
        let report = pushed(reusing(Reuse::Own, request(tag))).await;
        assert_eq!(reused(&report).len(), 0, "{tag}");
        assert_eq!(report.digest, first.digest);
        assert!(
            entries().all(|path| std::fs::read_to_string(path).unwrap().contains("\"version\":1")),
            "it is written again"
        );
    }
    // A file where the folder should be.
    let mut request = request("v6");
    request.reuse.cache_dir = Some(recorded("docker-20.10-overlay2/export-two.tar"));
    let (report, log) = push_with_log(request).await;
    assert_eq!(report.unwrap().digest, first.digest);
    assert_eq!(log.iter().filter(|line| line.starts_with("no cache is used")).count(), 1, "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_word_is_taken_is_the_users_choice() {
    let stand = Stand::new().await;
    let raw = raw_layers();
    // An image whose manifest has other blobs in the place of two's layers.
    let lie = [(GZIP, gzip(b"not the first layer", 6)), (GZIP, gzip(b"not the second layer", 6))];
    let diff_ids = [raw[0].0.clone(), raw[1].0.clone()];
    plant(&stand, APP, "latest", &diff_ids, &lie, "amd64").await;
    let request = |policy, tag: &str| reusing(policy, cached(&stand, under(&stand, &two(), tag)));
    // The registry can only say that the blobs are there.
    let believed = pushed(request(Reuse::Registry, "believed")).await;
    assert_eq!(reused(&believed), ["latest", "latest"]);
    let mut digests = Vec::new();
    for (policy, tag) in [(Reuse::Off, "off"), (Reuse::Verify, "verify"), (Reuse::Own, "own")] {
        let (report, log) = push_with_log(request(policy, tag)).await;
        let report = report.unwrap();
        let warned = log.iter().filter(|line| line.contains("it holds sha256:")).count();
        assert_eq!(warned > 0, policy == Reuse::Verify, "{tag}: {log:?}");
        assert!(layers(&report).iter().all(|layer| !lie.iter().any(|(_, blob)| Digest::of(blob) == layer.digest)));
        digests.push(report.digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0] && *digest != believed.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_checked_is_reused() {
    let stand = Stand::new().await;
    pushed(PushRequest { compression: Some(Compression::Zstd(5)), ..under(&stand, &two(), "latest") }).await;
    stand.server.clear_requests();
    let report = pushed(reusing(Reuse::Verify, under(&stand, &two(), "v2"))).await;
    assert_eq!(reused(&report), ["latest", "latest"]);
    assert!(stand.asked("InitiateLayerUpload").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_fit_teaches_nothing() {
    let raw = raw_layers();
    let good = gzip(&raw[0].1, 9);
    let ids = [raw[0].0.clone(), raw[1].0.clone()];
    let other = Digest::of(b"x").to_string();
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let one = |media_type: &'static str| vec![(media_type, good.clone())];
    type Blobs<'a> = Vec<(&'a str, Vec<u8>)>;
    let cases: [(&str, Vec<String>, Blobs<'_>, &str); 5] = [
        ("counts", ids.to_vec(), one(GZIP), "amd64"),
        ("platform", vec![ids[0].clone()], one(GZIP), "arm64"),
        ("two blobs", vec![ids[0].clone(); 2], vec![(GZIP, good.clone()), (GZIP, gzip(&raw[0].1, 1))], "amd64"),
        ("two layers", vec![ids[0].clone(), other], vec![(GZIP, good.clone()); 2], "amd64"),
        ("type", vec![ids[0].clone()], one("application/x-tar"), "amd64"),
    ];
    for (what, diff_ids, blobs, platform) in cases {
        let stand = Stand::new().await;
        plant(&stand, APP, "latest", &diff_ids, &blobs, platform).await;
        let (report, log) = push_with_log(under(&stand, &two(), "v1")).await;
        assert_eq!(reused(&report.unwrap()).len(), 0, "{what}");
        assert!(log.iter().any(|line| line.starts_with("nothing is reused from latest: ")), "{what}: {log:?}");
    }
    // A foreign layer is not pushed at all, so its manifest cannot be planted here; known::tests has it.
    assert!(ecr_push::known::codec_of(foreign).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_teaches_by_its_image_for_our_platform() {
    let stand = Stand::new().await;
    let raw = raw_layers();
    let diff_ids = [raw[0].0.clone(), raw[1].0.clone()];
    let blobs = [(GZIP, gzip(&raw[0].1, 9)), (GZIP, gzip(&raw[1].1, 9))];
    let other = [(GZIP, gzip(b"another platform", 9))];
    let ours = planted(&stand, APP, "ours", &diff_ids, &blobs, "amd64").await;
    let theirs = planted(&stand, APP, "theirs", &[Digest::of(b"another platform").to_string()], &other, "arm64").await;
    let entry = |report: &PushReport, size: usize, architecture: &str| {
        serde_json::json!({ "mediaType": MediaType::OCI_MANIFEST, "digest": report.digest, "size": size,
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [
        entry(&theirs.0, theirs.1, "arm64"), entry(&ours.0, ours.1, "amd64") ] });
    let http = ecr_push::http::Http::new(&ecr_push::http::HttpSettings::default()).unwrap();
    let url = format!("{}/v2/{APP}/manifests/latest", stand.server.endpoint_url().trim_end_matches('/'));
    let login = format!("Basic {}", stand.server.authorization_token("test"));
    let put = http.client().put(url).header("authorization", login).header("content-type", MediaType::OCI_INDEX);
    assert!(put.body(index.to_string()).send().await.unwrap().status().is_success());
    assert_eq!(reused(&pushed(under(&stand, &two(), "v1")).await), ["latest", "latest"]);
}

/// The tag that is pushed to holds the same config over blobs that cannot be its layers.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_contradicts_itself_is_not_the_same_image() {
    let raw = raw_layers();
    let blob = (GZIP, gzip(&raw[0].1, 9));
    let cases = [
        ("counts", vec![blob.clone()]),
        ("two layers in one blob", vec![blob.clone(), blob.clone()]),
        ("type", vec![blob.clone(), ("application/x-tar", gzip(&raw[1].1, 9))]),
    ];
    for (what, blobs) in cases {
        for immutable in [false, true] {
            let stand = Stand::bare(Config::default()).await;
            let mutability = if immutable { Mutability::immutable() } else { Mutability::mutable() };
            stand.server.create_repository(APP, mutability).unwrap();
            plant_config(&stand, "v1", &config_of_two(), &blobs).await;
            let request = PushRequest { tags: tags(&["v1"]), ..stand.request(&two()) };
            let result = push_with_log(request.clone()).await.0;
            if immutable {
                let error = result.unwrap_err();
                assert!(error.message().contains("that cannot be right"), "{what}: {error}");
                continue;
            }
            let report = result.unwrap();
            assert!(!report.existed, "{what}");
            assert_eq!(layers(&report).len(), 2, "{what}");
            assert_eq!(verify(&request, &report).await.unwrap().blobs, 3, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_asked_is_gone_without() {
    let all = ["BatchGetImage", "GetDownloadUrlForLayer", "DescribeImages"];
    for missing in all {
        let mut actions = vec![
            "BatchCheckLayerAvailability",
            "InitiateLayerUpload",
            "UploadLayerPart",
            "CompleteLayerUpload",
            "PutImage",
        ];
        actions.extend(all.iter().filter(|action| **action != missing));
        let actions: Vec<String> = actions.iter().map(|action| format!("ecr:{action}")).collect();
        let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*" },
            { "Effect": "Allow", "Action": actions, "Resource": "*" },
        ]});
        let policies = vec![("*".to_owned(), Policy::parse(&policy.to_string()).unwrap())];
        let stand = Stand::bare(Config { policies, ..Config::default() }).await;
        stand.server.create_repository(APP, Mutability::mutable()).unwrap();
        let tag = if missing == "DescribeImages" { "old" } else { "latest" };
        let first = pushed(under(&stand, &two(), tag)).await;
        let (report, log) = push_with_log(under(&stand, &two(), "v2")).await;
        assert_eq!(report.unwrap().digest, first.digest, "{missing}");
        assert!(log.iter().any(|line| line.contains("be read") || line.contains("be asked")), "{missing}: {log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_does_not_come_is_not_waited_for() {
    let stand = Stand::new().await;
    let first = pushed(under(&stand, &two(), "latest")).await;
    let config = first.blobs.iter().find(|blob| blob.diff_id.is_none()).unwrap().digest;
    let slow = FaultAction::Delay(Duration::from_secs(30));
    stand.server.add_fault(Fault::new(slow).method("GET").path(&config.to_string()));
    let started = Instant::now();
    let (report, log) = push_with_log(under(&stand, &two(), "v2")).await;
    assert_eq!(report.unwrap().digest, first.digest, "compressed again");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(log.iter().all(|line| !line.starts_with("warning")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_from_a_repository_that_is_named() {
    let stand = Stand::bare(Config { mounting: true, ..Config::default() }).await;
    for name in [APP, "team/base"] {
        stand.server.create_repository(name, Mutability::mutable()).unwrap();
    }
    // From uncompressed layers, by what the other repository's image says; and from a layout, by digest.
    let layout = stand.layout("layout", &[1000, 2000]);
    for (image, tag) in [(two(), "latest"), (layout, "v1")] {
        pushed(into("team/base", under(&stand, &image, tag))).await;
        stand.server.clear_requests();
        let mut request = under(&stand, &image, tag);
        request.reuse.mount_from = vec!["team/base".parse().unwrap()];
        let report = pushed(request.clone()).await;
        let mounted = report.blobs.iter().filter(|blob| blob.action == BlobAction::Mounted).count();
        assert!(mounted >= 2, "{tag}: {:?}", report.blobs);
        assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
        let uploads = stand.server.requests().into_iter().filter(|r| r.operation == "CompleteLayerUpload").count();
        assert!(uploads <= 1, "at most the config was sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_mounted_from_where_this_host_has_put_them() {
    let stand = Stand::bare(Config { mounting: true, ..Config::default() }).await;
    for name in [APP, "team/base"] {
        stand.server.create_repository(name, Mutability::mutable()).unwrap();
    }
    let request = cached(&stand, under(&stand, &two(), "v1"));
    pushed(into("team/base", request.clone())).await;
    let report = pushed(request).await;
    assert_eq!(report.blobs.iter().filter(|blob| blob.action == BlobAction::Mounted).count(), 2);
    assert_eq!(reused(&report), ["this host", "this host"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_mount_is_an_upload_and_what_it_cost_is_said_once() {
    let stand = Stand::new().await;
    stand.server.create_repository("team/base", Mutability::mutable()).unwrap();
    let mut request = under(&stand, &two(), "latest");
    pushed(into("team/base", request.clone())).await;
    stand.server.clear_requests();
    request.reuse.mount_from = vec!["team/base".parse().unwrap()];
    let (report, log) = push_with_log(request.clone()).await;
    let report = report.unwrap();
    assert_eq!(report.blobs.iter().filter(|blob| blob.action == BlobAction::Sent).count(), 3, "compressed after all");
    assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
    let told: Vec<_> = log.iter().filter(|line| line.contains("put-account-setting")).collect();
    assert!(told.len() == 1 && told[0].contains(" bytes need not have been sent"), "{log:?}");
    // Two mounts and the config's session: the sessions that the mounts opened were used.
    assert_eq!(stand.asked("InitiateLayerUpload").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_compression_arrives_in_one_kind_of_manifest() {
    for compression in ["gzip", "gzip:fast", "gzip:9", "zstd", "zstd:9", "none"] {
        let stand = Stand::new().await;
        let mut request = under(&stand, &two(), "v1");
        request.compression = Some(compression.parse().unwrap());
        let report = pushed(request.clone()).await;
        assert_eq!(verify(&request, &report).await.unwrap().blobs, 3, "{compression}");
        let manifest = manifest(&stand, "v1").await;
        let is_docker = manifest.contains("vnd.docker");
        assert_eq!(is_docker, compression.starts_with("gzip"), "{compression}: {manifest}");
        assert_ne!(is_docker, manifest.contains("vnd.oci"), "never both kinds: {manifest}");
        assert_eq!(manifest.matches("tar+zstd").count(), if compression.starts_with("zstd") { 2 } else { 0 });
    }
}

/// An archive whose layers are compressed, as kaniko, crane and Bazel write it: none of the recorded engines does.
fn compressed_archive(stand: &Stand) -> String {
    let raw = raw_layers();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": raw.iter().map(|(diff_id, _)| diff_id).collect::<Vec<_>>() },
    })
    .to_string();
    let path = stand.folder.path().join("compressed.tar");
    let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).unwrap();
    };
    let layers: Vec<String> = (0..raw.len()).map(|number| format!("{number}.tar.gz")).collect();
    put("config.json", config.as_bytes());
    layers.iter().zip(&raw).for_each(|(name, (_, bytes))| put(name, &gzip(bytes, 1)));
    let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": ["app:1"], "Layers": layers }]);
    put("manifest.json", manifest.to_string().as_bytes());
    archive.finish().unwrap();
    format!("docker-archive:{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_layers_give_way_to_blobs_that_are_there() {
    let stand = Stand::new().await;
    let archive = compressed_archive(&stand);
    let latest =
        pushed(PushRequest { compression: Some(Compression::GzipLevel(9)), ..under(&stand, &two(), "latest") }).await;
    let request = under(&stand, &archive, "v1");
    let report = pushed(request.clone()).await;
    assert_eq!(reused(&report), ["latest", "latest"]);
    let blobs = |report: &PushReport| {
        layers(report).iter().map(|layer| layer.digest).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(blobs(&report), blobs(&latest));
    assert_eq!(verify(&request, &report).await.unwrap().blobs, 3);
    // Without a word to take, they go up as they are.
    let own = pushed(reusing(Reuse::Off, under(&stand, &archive, "v2"))).await;
    assert!(layers(&own).iter().all(|layer| !blobs(&latest).contains(&layer.digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_host_does_not_promise_what_the_registry_refuses() {
    let stand = Stand::bare(Config::default()).await;
    let except = Mutability::immutable_except(&["dev-*"]);
    stand.server.create_repository(APP, except).unwrap();
    let other = stand.layout("other", &[500]);
    pushed(under(&stand, &other, "v1")).await;
    let request = |tag: &str| cached(&stand, under(&stand, &two(), tag));
    pushed(request("dev-1")).await;
    // A dry run, another codec, several tags: the tags are read first.
    let dry = PushRequest { dry_run: true, ..request("v1") };
    let zstd = PushRequest { compression: Some(Compression::Zstd(1)), ..request("v1") };
    let several = PushRequest { tags: tags(&["dev-2", "v1"]), ..request("v1") };
    for (what, request) in [("dry run", dry), ("codec", zstd), ("several tags", several), ("plain", request("v1"))] {
        stand.server.clear_requests();
        let error = push_with_log(request).await.0.unwrap_err();
        assert!(error.message().contains("immutable"), "{what}: {error}");
        assert!(stand.asked("InitiateLayerUpload").is_empty(), "{what}");
        assert_eq!(stand.tag("dev-2"), None, "{what}: nothing is put before all may move");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_mounted_from_holds_nothing_up() {
    let stand = Stand::new().await;
    stand.server.create_repository("team/base", Mutability::mutable()).unwrap();
    let stall = FaultAction::Delay(Duration::from_secs(60));
    stand.server.add_fault(Fault::new(stall).path("/team/base/"));
    let mut request = under(&stand, &two(), "v1");
    request.reuse.mount_from = vec!["team/base".parse().unwrap(), "team/none".parse().unwrap()];
    let started = Instant::now();
    let (report, log) = push_with_log(request).await;
    report.unwrap();
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert!(log.iter().all(|line| !line.starts_with("warning") && !line.starts_with("retry")), "{log:?}");
}
