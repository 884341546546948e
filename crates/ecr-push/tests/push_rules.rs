//! Pushes against a local ECR that keeps ECR's rules: what is sent, what is skipped, what is refused and how it is said.

mod common;
#[path = "common/stand.rs"]
mod stand;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::recorded;
use ecr_push::aws::{IdentityToken, RoleSettings, WebIdentity};
use ecr_push::compress::Compression;
use ecr_push::events::{BlobAction, Event, Events};
use ecr_push::image::{Digest, Tag};
use ecr_push::known::Reuse;
use ecr_push::push::{PushRequest, ReuseSettings, push, verify};
use ecr_push::source::{Attestations, Selection};
use ecr_push::text::Setting;
use local_ecr::{Config, MissingRepository, Mutability, Policy, Sts};
use stand::{APP, Stand, push_with_log};

fn tags(names: &[&str]) -> Vec<Tag> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn two(stand: &Stand) -> PushRequest {
    stand.request(&format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_and_a_repeat_sends_nothing() {
    let stand = Stand::new().await;
    let first = push_with_log(two(&stand)).await.0.unwrap();
    assert_eq!(first.blobs.iter().filter(|blob| blob.action == BlobAction::Sent).count(), 3);
    assert_eq!(verify(&two(&stand), &first).await.unwrap().blobs, 3);
    stand.server.clear_requests();
    let second = push_with_log(two(&stand)).await.0.unwrap();
    assert_eq!((second.digest, second.existed), (first.digest, true));
    assert!(stand.asked("InitiateLayerUpload").is_empty() && stand.asked("PutImage").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_layers_is_told_once_before_the_first_of_them() {
    let stand = Stand::new().await;
    for (image, expected) in [(two(&stand).source.to_string(), 2), (stand.layout("three", &[1000, 2000, 3000]), 3)] {
        let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
        let kept = Arc::clone(&heard);
        let events = Events::new(move |event| kept.lock().unwrap().push(event));
        let report = push(stand.request(&image), events).await.unwrap();
        assert!(report.local.is_none(), "an archive has no engine");
        let heard = heard.lock().unwrap();
        let told: Vec<usize> = heard
            .iter()
            .filter_map(|event| match event {
                Event::Layers { count } => Some(*count),
                _ => None,
            })
            .collect();
        assert_eq!(told, [expected], "{image}");
        let done = heard.iter().filter(|event| matches!(event, Event::BlobDone { .. })).count();
        assert_eq!(done, expected + 1, "{image}: the layers and the config");
        let position = |wanted: fn(&Event) -> bool| heard.iter().position(wanted);
        let first = position(|event| matches!(event, Event::BlobDone { .. } | Event::LayerStarted { .. }));
        assert!(position(|event| matches!(event, Event::Layers { .. })) < first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_all_that_a_push_needs() {
    let server = |refuse: Option<(&str, &str)>| {
        let refuse = refuse.map(|(code, message)| (code.to_owned(), message.to_owned()));
        Stand::bare(Config { sts: Sts { refuse, ..Sts::default() }, ..Config::default() })
    };
    let request = |stand: &Stand| {
        let mut request = two(stand);
        request.create_repository = true;
        request.aws.explicit_keys = None;
        request.aws.web_identity = Some(WebIdentity {
            origin: "the test's identity provider".into(),
            role: RoleSettings { arn: "arn:aws:iam::123456789012:role/ci".into(), ..RoleSettings::default() },
            // Issuer `i`, audience `a`, subject `s`.
            token: IdentityToken::Text("x.eyJpc3MiOiJpIiwiYXVkIjoiYSIsInN1YiI6InMifQ.geheim".into()),
        });
        request
    };
    let stand = server(None).await;
    let (report, log) = push_with_log(request(&stand)).await;
    assert_eq!(stand.tag("v1"), Some(report.unwrap().digest.to_string()));
    assert_eq!(stand.asked("STS").len(), 1);
    assert!(log.contains(&"identity token: issuer i, audience a, subject s".to_owned()), "{log:?}");
    assert!(log.iter().all(|line| !line.contains("geheim")), "{log:?}");

    let stand = server(Some(("AccessDenied", "Not authorized"))).await;
    let error = push_with_log(request(&stand)).await.0.unwrap_err();
    assert_eq!((error.operation(), error.code()), ("sts:AssumeRoleWithWebIdentity", Some("AccessDenied")));
    assert!(error.hints().concat().contains("issuer i, audience a, subject s"), "{:?}", error.hints());
    assert_eq!(stand.server.requests().len(), 1, "nothing is tried in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_tag_sends_no_blob() {
    let stand = Stand::new().await;
    let first = push_with_log(two(&stand)).await.0.unwrap();
    stand.server.clear_requests();
    let mut request = two(&stand);
    request.tags = tags(&["v2"]);
    let second = push_with_log(request).await.0.unwrap();
    assert_eq!(second.digest, first.digest);
    assert!(stand.asked("InitiateLayerUpload").is_empty());
    assert_eq!(stand.tag("v2"), stand.tag("v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_put_in_order_and_latest_last() {
    let stand = Stand::new().await;
    let mut request = two(&stand);
    request.tags = tags(&["latest", "v1", "v1.2"]);
    let report = push_with_log(request).await.0.unwrap();
    let put: Vec<String> =
        stand.asked("PutImage").iter().map(|r| r.path.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(put, ["v1", "v1.2", "latest"]);
    assert!(report.references().next().unwrap().ends_with(":latest"), "the first given is the reference");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tag_it_is_latest_and_the_log_says_so() {
    let stand = Stand::new().await;
    let mut request = two(&stand);
    request.tags.clear();
    let (report, log) = push_with_log(request).await;
    assert_eq!(report.unwrap().tags, tags(&["latest"]));
    assert!(log.iter().any(|line| line.contains("`latest`")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_sends_nothing() {
    let stand = Stand::new().await;
    let mut request = two(&stand);
    request.dry_run = true;
    let report = push_with_log(request).await.0.unwrap();
    assert!(report.blobs.iter().all(|blob| blob.action == BlobAction::WouldSend));
    assert!(stand.asked("InitiateLayerUpload").is_empty() && stand.asked("PutImage").is_empty());
    let real = push_with_log(two(&stand)).await.0.unwrap();
    assert_eq!(real.digest, report.digest, "the plan names the digest that a push then has");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_creates_nothing() {
    for missing in [MissingRepository::NameUnknown, MissingRepository::Create] {
        let stand = Stand::bare(Config { missing_repository: missing, ..Config::default() }).await;
        let request = PushRequest { dry_run: true, create_repository: true, ..two(&stand) };
        let (report, log) = push_with_log(request).await;
        assert!(report.unwrap().blobs.iter().all(|blob| blob.action == BlobAction::WouldSend));
        assert!(log.iter().any(|line| line.contains("would be created")), "{log:?}");
        assert!(push_with_log(PushRequest { dry_run: true, ..two(&stand) }).await.0.is_err());
        assert!(stand.server.repositories().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_come_before_their_index() {
    let stand = Stand::new().await;
    let archive = recorded("docker-28.5-containerd/export-multi.tar");
    let report = push_with_log(stand.request(&format!("oci-archive:{}", archive.display()))).await.0.unwrap();
    let put: Vec<String> =
        stand.asked("PutImage").iter().map(|r| r.path.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(put.len(), 4);
    assert_eq!(put[3], "v1");
    let expected = common::json("docker-28.5-containerd/expected-multi.json");
    assert_eq!(expected["oci"][0]["digest"], report.digest.to_string());
    assert_eq!((report.contents.platforms.len(), report.contents.attestations), (2, 1));
    let mut request = stand.request(&format!("oci-archive:{}", archive.display()));
    request.selection = Selection { attestations: Attestations::Drop, ..Selection::default() };
    let dropped = push_with_log(request).await.0.unwrap();
    assert!(dropped.contents.digest_changed && dropped.digest != report.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_there_is_not_read_again() {
    let stand = Stand::new().await;
    let archive = format!("oci-archive:{}", recorded("docker-28.5-containerd/export-multi.tar").display());
    let first = push_with_log(stand.request(&archive)).await.0.unwrap();
    stand.server.clear_requests();
    let second = push_with_log(PushRequest { tags: tags(&["v1", "v2"]), ..stand.request(&archive) }).await.0.unwrap();
    assert!(second.existed && second.digest == first.digest && second.contents.attestations == 1);
    assert!(stand.asked("InitiateLayerUpload").is_empty());
    assert_eq!(stand.asked("PutImage").len(), 1, "the new tag alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_layers_are_asked_for_in_one_call() {
    let stand = Stand::new().await;
    let sizes: Vec<usize> = (0..150).map(|i| 100 + i).collect();
    let report = push_with_log(stand.request(&stand.layout("image", &sizes))).await.0.unwrap();
    assert_eq!(report.blobs.len(), 151);
    let reported: Vec<u64> = report.blobs.iter().skip(1).map(|blob| blob.size).collect();
    assert_eq!(
        reported,
        sizes.iter().map(|size| *size as u64).collect::<Vec<_>>(),
        "the config, then the layers, base first"
    );
    // The first finds the repository too.
    assert_eq!(stand.asked("BatchCheckLayerAvailability").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_repository_is_one_sentence_without_retries() {
    for missing in [MissingRepository::NameUnknown, MissingRepository::Close] {
        let stand = Stand::bare(Config { missing_repository: missing, ..Config::default() }).await;
        let mut request = two(&stand);
        request.retry_budget = Duration::from_secs(2);
        let started = Instant::now();
        let (result, _) = push_with_log(request).await;
        let error = result.unwrap_err();
        assert!(error.message().contains("the repository `team/app` does not exist"), "{}", error.message());
        assert!(error.hints()[0].names(Setting::CreateRepository));
        assert!(started.elapsed() < Duration::from_secs(5), "{missing:?}: {:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_template_may_create_the_repository() {
    let stand = Stand::bare(Config { missing_repository: MissingRepository::Create, ..Config::default() }).await;
    push_with_log(two(&stand)).await.0.unwrap();
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_created_if_asked_and_two_pushes_may_do_so_at_once() {
    let stand = Stand::bare(Config::default()).await;
    let request = |tag: &str| PushRequest { create_repository: true, tags: tags(&[tag]), ..two(&stand) };
    let (one, other) = tokio::join!(push_with_log(request("a")), push_with_log(request("b")));
    assert_eq!(one.0.unwrap().digest, other.0.unwrap().digest);
    assert!(stand.tag("a").is_some() && stand.tag("b").is_some());
    stand.server.clear_requests();
    push_with_log(request("c")).await.0.unwrap();
    assert!(stand.asked("CreateRepository").is_empty(), "existence is asked first");
}

async fn immutable(mutability: Mutability) -> Stand {
    let stand = Stand::bare(Config::default()).await;
    stand.server.create_repository(APP, mutability).unwrap();
    stand
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_image_under_an_immutable_tag_is_success() {
    let stand = immutable(Mutability::immutable()).await;
    let first = push_with_log(two(&stand)).await.0.unwrap();
    assert_eq!(push_with_log(two(&stand)).await.0.unwrap().digest, first.digest);
    // Compressed by others at another level: another manifest, the same config.
    let mut request = two(&stand);
    request.compression = Some(Compression::GzipLevel(9));
    assert_eq!(push_with_log(request).await.0.unwrap().digest, first.digest, "the digest there is reported");
    // A layout is the same image only if its manifest is the same.
    let layout = stand.layout("image", &[500]);
    let mut request = stand.request(&layout);
    request.tags = tags(&["v2"]);
    let stored = push_with_log(request.clone()).await.0.unwrap();
    assert_eq!(push_with_log(request).await.0.unwrap().digest, stored.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_reported_is_that_of_the_first_tag() {
    let stand = immutable(Mutability::immutable()).await;
    // Otherwise the second one would take the layers of the first.
    let reuse = |stand: &Stand| ReuseSettings { policy: Reuse::Off, ..two(stand).reuse };
    let packed = |tag: &str, level| PushRequest {
        tags: tags(&[tag]),
        compression: Some(Compression::GzipLevel(level)),
        reuse: reuse(&stand),
        ..two(&stand)
    };
    let nine = push_with_log(packed("nine", 9)).await.0.unwrap().digest;
    // A push recognises the image by the tags it is asked for, so this is another packing under another tag.
    let one = push_with_log(packed("one", 1)).await.0.unwrap().digest;
    assert_ne!(nine, one);
    for (first, second, expected) in [("nine", "one", nine), ("one", "nine", one)] {
        let request = PushRequest { tags: tags(&[first, second]), ..two(&stand) };
        let (report, log) = push_with_log(request).await;
        assert_eq!(report.unwrap().digest, expected, "{first} {second}: {log:?}");
        assert_eq!(log.iter().filter(|line| line.contains("another packing")).count(), 1, "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lost_a_layer_is_mended() {
    // A registry that lets blobs be deleted, which local-ecr's directory stands for here.
    let folder = tempfile::tempdir().unwrap();
    let storage = local_ecr::Storage::Directory(folder.path().to_owned());
    let stand = Stand::bare(Config { storage: storage.clone(), ..Config::default() }).await;
    stand.server.create_repository(APP, Mutability::mutable()).unwrap();
    let mut request = two(&stand);
    request.compression = Some(Compression::GzipLevel(9));
    let other = push_with_log(request).await.0.unwrap();
    let layer = other.blobs.iter().find(|blob| blob.diff_id.is_some()).unwrap().digest;
    let Stand { server, .. } = stand;
    server.shutdown().await;
    std::fs::remove_file(folder.path().join("team+app/blobs/sha256").join(layer.hex())).unwrap();

    let stand = Stand::bare(Config { storage, ..Config::default() }).await;
    let mended = push_with_log(two(&stand)).await.0.unwrap();
    assert_ne!(mended.digest, other.digest, "the manifest that lacks a layer is not pointed at again");
    assert_eq!(stand.tag("v1"), Some(mended.digest.to_string()));
    verify(&two(&stand), &mended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_image_under_an_immutable_tag_stops_before_any_upload() {
    let stand = immutable(Mutability::immutable()).await;
    push_with_log(two(&stand)).await.0.unwrap();
    stand.server.clear_requests();
    for file in ["docker-20.10-overlay2/export-repeat.tar", "podman-4.3/save-two-oci.tar"] {
        let transport = if file.contains("oci") { "oci-archive" } else { "docker-archive" };
        let (result, _) = push_with_log(stand.request(&format!("{transport}:{}", recorded(file).display()))).await;
        let error = result.unwrap_err();
        assert!(
            error.message().contains("immutable") && error.message().matches("sha256:").count() == 2,
            "{}",
            error.message()
        );
        assert!(stand.asked("InitiateLayerUpload").is_empty(), "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusions_from_immutability_are_honoured() {
    let stand = immutable(Mutability::immutable_except(&["dev-*"])).await;
    let layouts = [stand.layout("a", &[500]), stand.layout("b", &[600])];
    for tag in ["dev-1", "v1"] {
        let results = [0, 1].map(|i| PushRequest { tags: tags(&[tag]), ..stand.request(&layouts[i]) });
        let [first, second] = results;
        push_with_log(first).await.0.unwrap();
        assert_eq!(push_with_log(second).await.0.is_ok(), tag == "dev-1", "{tag}");
    }
}

/// A server that lets everyone do only what `actions` list (and get a token).
async fn allowed(actions: &[&str]) -> Stand {
    let actions: Vec<String> = actions.iter().map(|action| format!("ecr:{action}")).collect();
    let document = serde_json::json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*" },
        { "Effect": "Allow", "Action": actions, "Resource": "arn:aws:ecr:us-east-1:123456789012:repository/team/*" },
    ]});
    let policy = Policy::parse(&document.to_string()).unwrap();
    let stand = Stand::bare(Config { policies: vec![("*".into(), policy)], ..Config::default() }).await;
    stand.server.create_repository(APP, Mutability::mutable()).unwrap();
    stand
}

const MINIMUM: [&str; 5] =
    ["BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage"];

#[tokio::test(flavor = "multi_thread")]
async fn five_permissions_on_the_repository_are_enough() {
    let stand = allowed(&MINIMUM).await;
    push_with_log(two(&stand)).await.0.unwrap();
    // Again, and with creation asked for: nobody may describe or create here, and nobody needs to.
    let again = PushRequest { create_repository: true, ..two(&stand) };
    push_with_log(again).await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_tasks_permissions_are_enough() {
    let mut actions = MINIMUM.to_vec();
    actions.extend(["BatchGetImage", "GetDownloadUrlForLayer"]);
    push_with_log(two(&allowed(&actions).await)).await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_named_with_a_policy_to_paste() {
    for missing in ["InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage"] {
        let actions: Vec<&str> = MINIMUM.into_iter().filter(|action| *action != missing).collect();
        let stand = allowed(&actions).await;
        let error = push_with_log(two(&stand)).await.0.unwrap_err();
        assert!(error.message().contains(&format!("ecr:{missing}")), "{missing}: {}", error.message());
        let hints = error.hints().join("\n");
        assert!(hints.contains("\"Statement\"") && hints.contains("repository/team/app"), "{missing}: {hints}");
        let notes = error.notes().join("\n");
        assert!(notes.contains("user/"), "who was refused: {notes}");
        assert_eq!(stand.tag("v1"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_ask_an_existing_repository_is_pushed_to() {
    let actions: Vec<&str> = MINIMUM.into_iter().filter(|action| *action != "BatchCheckLayerAvailability").collect();
    let stand = allowed(&actions).await;
    let (report, log) = push_with_log(PushRequest { create_repository: true, ..two(&stand) }).await;
    report.unwrap();
    assert_eq!(log.iter().filter(|line| line.starts_with("warning")).count(), 1, "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_tag_that_cannot_be_read_beforehand_is_still_explained() {
    let stand = allowed(&MINIMUM).await;
    stand.server.create_repository("team/fixed", Mutability::immutable()).unwrap();
    let mut request = two(&stand);
    request.destination = ecr_push::push::DestinationSpec::Ecr {
        repository: "team/fixed".parse().unwrap(),
        registry_id: None,
        host: None,
    };
    push_with_log(request.clone()).await.0.unwrap();
    let error = push_with_log(request).await.0.unwrap_err();
    assert_eq!(error.code(), Some("TAG_INVALID"));
    assert!(error.notes().iter().any(|note| note.contains("cannot be read")), "{:?}", error.notes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_blob_is_refused_before_it_is_sent() {
    let stand = Stand::new().await;
    let error = push_with_log(stand.request(&stand.layout("image", &[0]))).await.0.unwrap_err();
    assert!(error.message().contains("is empty"), "{}", error.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_does_not_depend_on_threads() {
    let mut digests: Vec<Digest> = Vec::new();
    for threads in [1, 2, 7] {
        let stand = Stand::new().await;
        digests.push(push_with_log(PushRequest { threads, ..two(&stand) }).await.0.unwrap().digest);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_more_layers_than_ecr_takes_is_refused_before_anything_is_sent() {
    let stand = Stand::new().await;
    let (result, _) = push_with_log(stand.request(&stand.layout("image", &[64; 501]))).await;
    let error = result.unwrap_err();
    assert_eq!(error.message(), "the image has 501 layers, and Amazon ECR takes 500 at most");
    assert!(error.hints()[0].contains("multi-stage build"), "{:?}", error.hints());
    assert!(stand.asked("InitiateLayerUpload").is_empty() && stand.asked("PutImage").is_empty());
    let (report, log) = push_with_log(stand.request(&stand.layout("small", &[64; 500]))).await;
    report.unwrap_or_else(|error| panic!("{error:?} {log:?}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_an_archive_with_too_many_layers_is_refused_too() {
    // The recorded archive, with its config and list of layers made longer.
    let stand = Stand::new().await;
    let saved = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/engines/podman-4.3/save-two.tar");
    let path = stand.folder.path().join("long.tar");
    let mut long = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for entry in tar::Archive::new(std::fs::File::open(saved).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut name = entry.path().unwrap().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        let longer = |value: &mut serde_json::Value| {
            let list = value.as_array_mut().unwrap();
            let last = list.last().unwrap().clone();
            list.resize(501, last);
        };
        if let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&bytes) {
            if value["rootfs"].is_object() {
                longer(&mut value["rootfs"]["diff_ids"]);
                // Its own name is its digest.
                name = "config.json".into();
            } else if value[0]["Layers"].is_array() {
                longer(&mut value[0]["Layers"]);
                value[0]["Config"] = "config.json".into();
            }
            bytes = value.to_string().into_bytes();
        }
        let mut header = entry.header().clone();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        long.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    long.finish().unwrap();
    let (result, log) = push_with_log(stand.request(&format!("docker-archive:{}", path.display()))).await;
    let error = result.unwrap_err();
    assert_eq!(error.message(), "the image has 501 layers, and Amazon ECR takes 500 at most", "{log:?}");
    assert!(stand.asked("InitiateLayerUpload").is_empty() && stand.asked("PutImage").is_empty());
}
