//! When a push ends well, every tag points at its image: tags that neighbours move meanwhile, that the registry shows late, or that hold
//! the image in another packing and cannot move.

mod common;
#[path = "common/planted.rs"]
mod planted;
#[path = "common/stand.rs"]
mod stand;

use std::time::{Duration, Instant};

use common::recorded;
use ecr_push::compress::Compression;
use ecr_push::events::BlobAction;
use ecr_push::image::Manifest;
use ecr_push::push::{PushReport, PushRequest, verify};
use local_ecr::{Answer, Config, Fault, FaultAction, Mutability, Policy};
use planted::*;
use stand::{APP, Stand, push_with_log};

const ZSTD: Option<Compression> = Some(Compression::Zstd(3));

async fn with(mutability: Mutability) -> Stand {
    let stand = Stand::bare(Config::default()).await;
    stand.server.create_repository(APP, mutability).unwrap();
    stand
}

/// A repository with our image under `live`, and another one under `other`.
async fn with_a_neighbour() -> (Stand, String) {
    let stand = Stand::new().await;
    let ours = pushed(under(&stand, &two(), "live")).await.digest.to_string();
    let other = stand.layout("other", &[700]);
    pushed(under(&stand, &other, "other")).await;
    stand.server.clear_requests();
    (stand, ours)
}

fn moved() -> FaultAction {
    FaultAction::MoveTag { tag: "live".into(), to: "other".into() }
}

fn reads(stand: &Stand, tag: &str) -> usize {
    let is_read = |path: &str| path.ends_with(&format!("/manifests/{tag}"));
    stand.server.requests().iter().filter(|request| request.method == "GET" && is_read(&request.path)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_a_neighbour_moves_meanwhile_is_put_again() {
    // The tag is there at the start. Then something takes its time, and the neighbour pushes.
    let slow =
        |operation: &str| Fault::new(FaultAction::Delay(Duration::from_millis(2200))).operation(operation).times(1);
    for steps in [
        vec![slow("BatchCheckLayerAvailability"), Fault::new(moved()).path("/manifests/new").method("PUT").times(1)],
        // After it was looked at the second time, while the other tag is put.
        vec![Fault::new(moved()).path("/manifests/new").method("PUT").times(1), slow("PutImage").skip(1)],
    ] {
        let (stand, ours) = with_a_neighbour().await;
        steps.into_iter().for_each(|fault| stand.server.add_fault(fault));
        // `new` comes first, and `last` after `live`.
        let request = PushRequest { tags: tags(&["new", "live", "last"]), ..stand.request(&two()) };
        let (report, log) = push_with_log(request).await;
        assert_eq!(report.unwrap().digest.to_string(), ours);
        assert!(stand.server.hits() >= 2);
        for tag in ["new", "live", "last"] {
            assert_eq!(stand.tag(tag).as_ref(), Some(&ours), "{tag}: {log:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_just_read_is_not_read_again() {
    let (stand, _) = with_a_neighbour().await;
    let report = pushed(PushRequest { tags: tags(&["live", "new"]), ..stand.request(&two()) }).await;
    assert!(report.existed);
    assert_eq!((reads(&stand, "live"), reads(&stand, "new")), (1, 2), "one that is put is read back");
    assert_eq!(stand.asked("PutImage").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_moved_after_it_was_put_is_an_error() {
    let (stand, _) = with_a_neighbour().await;
    let neighbours = stand.tag("other").unwrap();
    // Before the tag is read back.
    stand.server.add_fault(Fault::new(moved()).path("/manifests/live").method("GET").skip(1).times(1));
    let wait_visible = Some(Duration::from_millis(300));
    let changed = PushRequest { compression: ZSTD, tags: tags(&["live"]), wait_visible, ..stand.request(&two()) };
    let (result, _) = push_with_log(changed.clone()).await;
    let error = result.unwrap_err();
    assert!(error.message().contains("the tag `live`") && error.message().contains(&neighbours), "{error}");
    assert!(!error.hints().is_empty());
    assert_eq!(stand.tag("live"), Some(neighbours), "the one who came last is right, and nobody fights");
    // And the cache of a host does not say that it has put the tag.
    pushed(changed).await;
}

/// Two pushes put one tag at the same time. The answer to the first is held up, so that both have put it before that one reads it back.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushers_of_one_tag_the_one_that_came_last_ends_well() {
    let stand = Stand::new().await;
    let images = [stand.layout("one", &[400]), stand.layout("two", &[500])];
    for round in ["live-1", "live-2"] {
        let late = Fault::new(FaultAction::DelayAnswer(Duration::from_secs(3)));
        stand.server.add_fault(late.method("PUT").path(&format!("/manifests/{round}")).times(1));
        let push = |image: &String| {
            let wait_visible = Some(Duration::from_millis(200));
            push_with_log(PushRequest { wait_visible, tags: tags(&[round]), ..stand.request(image) })
        };
        let ((first, _), (second, _)) = tokio::join!(push(&images[0]), push(&images[1]));
        let live = stand.tag(round).unwrap();
        let (well, ill): (Vec<_>, Vec<_>) = [first, second].into_iter().partition(Result::is_ok);
        let digests: Vec<String> = well.into_iter().flatten().map(|report| report.digest.to_string()).collect();
        assert_eq!(digests, std::slice::from_ref(&live), "{round}");
        let error = ill.into_iter().find_map(Result::err).unwrap();
        assert!(error.message().contains(&live), "{round}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_shown_late_is_waited_for() {
    let stand = Stand::new().await;
    let hide = |time| Fault::new(FaultAction::HideTag(time)).method("PUT").path("/manifests/");
    stand.server.add_fault(hide(Duration::from_millis(600)));
    let started = Instant::now();
    let (report, log) = push_with_log(under(&stand, &two(), "v1")).await;
    let report = report.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(600));
    assert_eq!(log.iter().filter(|line| line.contains("does not show the tag `v1`")).count(), 1, "{log:?}");
    assert!(
        report.waited >= Duration::from_millis(300) && report.waited < Duration::from_secs(3),
        "{:?}",
        report.waited
    );
    // A tag that moves shows the image it had.
    let other = pushed(PushRequest { compression: ZSTD, ..under(&stand, &two(), "v1") }).await;
    assert_ne!(other.digest, report.digest);
    // Whoever does not want to wait does not.
    stand.server.clear_requests();
    pushed(PushRequest { wait_visible: None, ..under(&stand, &two(), "v2") }).await;
    assert_eq!(reads(&stand, "v2"), 1, "before it was put");
    // And one that does not come is not waited for without end.
    stand.server.clear_faults();
    stand.server.add_fault(hide(Duration::from_secs(60)));
    let wait_visible = Some(Duration::from_millis(400));
    let (result, _) = push_with_log(PushRequest { wait_visible, ..under(&stand, &two(), "v3") }).await;
    let error = result.unwrap_err();
    assert!(error.message().contains("`v3`") && error.message().contains("does not show it after 0.4 s"), "{error}");
    assert!(error.hints().iter().any(|hint| hint.contains("`wait_visible`")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_is_not_made_to_wait() {
    let actions =
        ["BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage"];
    let actions = actions.map(|action| format!("ecr:{action}"));
    let policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*" },
        { "Effect": "Allow", "Action": actions, "Resource": "*" },
    ]});
    let policies = vec![("*".to_owned(), Policy::parse(&policy.to_string()).unwrap())];
    let stand = Stand::bare(Config { policies, ..Config::default() }).await;
    stand.server.create_repository(APP, Mutability::mutable()).unwrap();
    let request = |tag: &str| cached(&stand, under(&stand, &two(), tag));
    let started = Instant::now();
    pushed(request("v1")).await;
    // A warm push does not ask for the tag beforehand, so this is its first refusal. It is no reason for another token.
    stand.server.clear_requests();
    pushed(request("v2")).await;
    let asked: Vec<String> = stand.server.requests().into_iter().map(|request| request.operation).collect();
    assert_eq!(asked, ["GetAuthorizationToken", "BatchCheckLayerAvailability", "PutImage", "BatchGetImage"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_fails_when_the_tag_is_read_back_has_it_all_the_same() {
    let stand = Stand::new().await;
    let first = pushed(under(&stand, &two(), "v1")).await;
    // Once is waited for; for good is said.
    let failing = || Fault::new(FaultAction::Answer(Answer::status(503))).method("GET").path("/manifests/v2").skip(1);
    for (times, warnings) in [(1, 0), (usize::MAX, 1)] {
        stand.server.clear_faults();
        stand.server.add_fault(failing().times(times));
        let wait_visible = Some(Duration::from_millis(500));
        let request = PushRequest { wait_visible, tags: tags(&["v2"]), ..stand.request(&two()) };
        let (report, log) = push_with_log(request).await;
        assert_eq!(report.unwrap().digest, first.digest);
        assert_eq!(
            log.iter().filter(|line| line.starts_with("warning: the tag `v2` could not")).count(),
            warnings,
            "{log:?}"
        );
        // The next round has a tag to put, too.
        let delete = format!("{}/v2/{APP}/manifests/v2", stand.server.endpoint_url().trim_end_matches('/'));
        let http = ecr_push::http::Http::new(&ecr_push::http::HttpSettings::default()).unwrap();
        let login = format!("Basic {}", stand.server.authorization_token("test"));
        assert!(
            http.client().delete(delete).header("authorization", login).send().await.unwrap().status().is_success()
        );
    }
}

/// The blobs that the report lists are those of the manifest whose digest it names.
fn assert_lists_its_manifest(stand: &Stand, report: &PushReport) {
    let repository = stand.server.repository(APP).unwrap();
    let digest = report.digest.to_string();
    let bytes = bytes::Bytes::copy_from_slice(&repository.manifests[&digest]);
    let manifest = Manifest::parse(bytes, Some(&repository.media_types[&digest])).unwrap();
    let named: Vec<_> = manifest.blobs().map(|blob| (blob.digest, blob.size)).collect();
    let listed: Vec<_> = report.blobs.iter().map(|blob| (blob.digest, blob.size)).collect();
    assert_eq!(listed, named);
    assert_eq!(stand.tag(report.tags[0].as_str()), Some(digest));
}

/// The recorded image in a gzipped archive: of that nothing is known before it was read.
fn gzipped(stand: &Stand) -> String {
    let path = stand.folder.path().join("two.tar.gz");
    std::fs::write(&path, gzip(&std::fs::read(recorded("docker-20.10-overlay2/export-two.tar")).unwrap(), 6)).unwrap();
    format!("docker-archive:{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_packing_under_an_immutable_tag_is_found_before_anything_is_sent() {
    let stand = with(Mutability::immutable()).await;
    let first = pushed(under(&stand, &two(), "v1")).await;
    for image in [two(), gzipped(&stand)] {
        for (number, names) in [&["v1"][..], &["v1", "new"], &["new", "v1"]].into_iter().enumerate() {
            let names: Vec<String> =
                names.iter().map(|tag| tag.replace("new", &format!("n{number}{}", image.len()))).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            stand.server.clear_requests();
            let request = PushRequest { compression: ZSTD, tags: tags(&names), ..stand.request(&image) };
            let (report, log) = push_with_log(request.clone()).await;
            let report = report.unwrap();
            assert_eq!(report.digest, first.digest, "{names:?}");
            assert!(stand.asked("InitiateLayerUpload").is_empty(), "{names:?}");
            assert_eq!(log.iter().filter(|line| line.contains("another packing")).count(), 1, "{names:?}: {log:?}");
            assert_lists_its_manifest(&stand, &report);
            assert_eq!(report.bytes(BlobAction::Sent), 0);
            verify(&request, &report).await.unwrap();
            let dry = PushRequest { dry_run: true, ..request };
            assert_eq!(pushed(dry).await.bytes(BlobAction::WouldSend), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_packing_under_a_tag_that_moves_gives_way() {
    let stand = Stand::new().await;
    let first = pushed(under(&stand, &two(), "v1")).await;
    let (report, log) = push_with_log(PushRequest { compression: ZSTD, ..under(&stand, &two(), "v1") }).await;
    let report = report.unwrap();
    assert_ne!(report.digest, first.digest);
    assert!(log.iter().all(|line| !line.contains("another packing")), "{log:?}");
    assert_lists_its_manifest(&stand, &report);
}

/// Whoever may not look at the repository's settings learns it when the tag is put.
#[tokio::test(flavor = "multi_thread")]
async fn another_packing_that_is_found_late_is_said_and_listed() {
    for names in [&["v1"][..], &["v1", "new"], &["new", "v1"]] {
        let stand = with(Mutability::immutable()).await;
        let first = pushed(under(&stand, &two(), "v1")).await;
        let denied = Answer::error(400, "AccessDeniedException", "not allowed");
        stand.server.add_fault(Fault::new(FaultAction::Answer(denied)).operation("DescribeRepositories"));
        let request = PushRequest { compression: ZSTD, tags: tags(names), ..stand.request(&two()) };
        let (report, log) = push_with_log(request).await;
        let report = report.unwrap();
        assert_eq!(log.iter().filter(|line| line.contains("another packing")).count(), 1, "{names:?}: {log:?}");
        assert_eq!(stand.tag("v1"), Some(first.digest.to_string()));
        assert_lists_its_manifest(&stand, &report);
        assert_eq!(report.digest == first.digest, names[0] == "v1");
        assert!(report.bytes(BlobAction::Sent) > 0, "what was sent for nothing is not hidden");
        assert_eq!(report.unused.is_empty(), names[0] != "v1");
    }
}
