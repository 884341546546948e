//! What is said of a push that cannot succeed: which side is wrong, and what may be behind a refusal that does not say so.

mod common;
#[path = "common/stand.rs"]
mod stand;

use std::time::Duration;

use ecr_push::events::{Event, Events};
use ecr_push::push::push;
use local_ecr::{Answer, Fault, FaultAction};
use stand::{Stand, push_with_log};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_repository_is_a_quota_under_whatever_code() {
    let text = "The repository with name 'team/app' in registry with id '123456789012' already has the maximum allowed number of images \
                which is '100000'";
    for (status, code) in [(403, Some("DENIED")), (405, Some("UNSUPPORTED")), (400, Some("TAG_LIMIT")), (400, None)] {
        let stand = Stand::new().await;
        let request = stand.request(&stand.layout("image", &[1000]));
        let answer = Answer { code: code.map(str::to_owned), message: text.to_owned(), ..Answer::status(status) };
        stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("PutImage"));
        let error = push_with_log(request).await.0.unwrap_err();
        assert!(error.message().starts_with("a quota of Amazon ECR is reached: "), "{status}: {}", error.message());
        assert!(error.message().contains("'100000'"), "{}", error.message());
        let [hint] = error.hints() else { panic!("{:?}", error.hints()) };
        assert!(hint.contains("`Images per repository` is 100,000") && hint.contains("lifecycle policy"), "{hint}");
        // With 403 a new token was tried once; it is not tried again otherwise.
        assert_eq!(stand.asked("PutImage").len(), if status == 403 { 2 } else { 1 }, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_forbidden_without_a_reason_has_three_causes() {
    let denied = Answer::error(403, "DENIED", "requested access to the resource is denied");
    for answer in [denied, Answer::status(403)] {
        let stand = Stand::new().await;
        let request = stand.request(&stand.layout("image", &[1000]));
        stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("PutImage"));
        let error = push_with_log(request).await.0.unwrap_err();
        assert_eq!(error.status(), Some(403));
        let hint = &error.hints()[0];
        for cause in ["ecr:PutImage is not allowed", "`Images per repository`", "`attestations: drop`"] {
            assert!(hint.contains(cause), "{hint}");
        }
        assert!(error.hints()[1].contains("\"Statement\""), "{:?}", error.hints());
    }
    // Where the service says which right is missing, nothing is guessed.
    let stand = Stand::new().await;
    let text = "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ecr:PutImage on resource: \
                arn:aws:ecr:us-east-1:123456789012:repository/team/app";
    let answer = Answer::error(403, "DENIED", text);
    stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("PutImage"));
    let error = push_with_log(stand.request(&stand.layout("image", &[1000]))).await.0.unwrap_err();
    assert!(!error.hints().iter().any(|hint| hint.contains("three things")), "{:?}", error.hints());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_cut_at_its_start_may_mean_is_said_at_the_end() {
    let has_hint = |error: &ecr_push::Error| {
        error.hints().iter().filter(|hint| hint.contains("ecr:InitiateLayerUpload is not allowed")).count() == 1
    };
    let close = || Fault::new(FaultAction::Close).method("POST").path("/blobs/uploads/");
    let down = || Fault::new(FaultAction::Answer(Answer::status(503))).method("POST").path("/blobs/uploads/");
    for (budget, faults) in [
        (4, vec![close()]),
        // Once, and then something else.
        (2, vec![close().times(4), down()]),
        (0, vec![close()]),
    ] {
        let stand = Stand::new().await;
        let mut request = stand.request(&stand.layout("image", &[1000]));
        request.retry_budget = Duration::from_secs(budget);
        faults.into_iter().for_each(|fault| stand.server.add_fault(fault));
        let (result, log) = push_with_log(request).await;
        let error = result.unwrap_err();
        assert!(has_hint(&error), "{budget}: {error:?} {log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_that_the_registry_disputes_is_traced_to_a_side() {
    let text = "None of the provided layer digests match the calculated layer digest";
    for code in ["BLOB_UPLOAD_INVALID", "DIGEST_INVALID"] {
        let stand = Stand::new().await;
        let image = stand.layout("image", &[50_000]);
        let request = stand.request(&image);
        let wrong = Answer::error(400, code, text);
        stand
            .server
            .add_fault(Fault::new(FaultAction::Answer(wrong)).method("PUT").path("/blobs/uploads/").min_length(50_000));
        let error = push_with_log(request).await.0.unwrap_err();
        let layer = layer_of(&stand, 50_000);
        let named = format!("the blob sha256:{} of {image} arrives with another digest ({text})", layer.1);
        assert_eq!(error.message(), format!("{named}; it was read again and has not changed"));
        assert!(error.hints()[0].contains("something on the way changes the bytes"), "{:?}", error.hints());
        assert_eq!((error.status(), error.code()), (Some(400), Some(code)));
    }
}

/// The file of the one layer of this size, and the hexadecimal digits of its digest.
fn layer_of(stand: &Stand, size: u64) -> (std::path::PathBuf, String) {
    let blobs = stand.folder.path().join("image/blobs/sha256");
    let layer = std::fs::read_dir(&blobs).unwrap().flatten().find(|e| e.metadata().unwrap().len() == size).unwrap();
    (layer.path(), layer.file_name().into_string().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_during_the_push_is_distinguished_from_one_that_was_damaged_before() {
    let spoil = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[25_000] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    for during in [true, false] {
        let stand = Stand::new().await;
        let image = stand.layout("image", &[50_000]);
        let (path, digest) = layer_of(&stand, 50_000);
        if !during {
            spoil(&path);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let slow = Fault::new(FaultAction::Delay(Duration::from_millis(600))).method("POST").path("/blobs/uploads/");
        stand.server.add_fault(slow);
        let push = push_with_log(stand.request(&image));
        let change = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if during {
                spoil(&path);
            }
        };
        let ((result, _), ()) = tokio::join!(push, change);
        let error = result.unwrap_err();
        let said = error.message();
        assert!(said.contains(&format!("sha256:{digest} of {image}")), "{said}");
        let expected =
            if during { "was changed since the push began" } else { "and have not changed since the push began" };
        assert!(said.contains(expected), "{said}");
        assert_eq!(stand.tag("v1"), None);
    }
}

/// A gzipped archive says what it holds at its end only, so that nothing of the first reading could be compared but the image itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_opened_again_has_to_be_the_same_image() {
    let stand = Stand::new().await;
    let file = stand.folder.path().join("image.tar.gz");
    std::fs::copy(common::recorded("docker-20.10-overlay2/save-two.tar.gz"), &file).unwrap();
    let other = std::fs::read(common::recorded("podman-4.3/export-repeat.tar")).unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &other).unwrap();
    let packed = packed.finish().unwrap();
    stand.server.add_fault(Fault::new(FaultAction::ForgetBlobs(9)).operation("PutImage").times(1));
    let events = Events::new({
        let file = file.clone();
        move |event| {
            if matches!(event, Event::Phase(phase) if phase == "publishing") {
                std::fs::write(&file, &packed).unwrap();
            }
        }
    });
    let error = push(stand.request(&format!("docker-archive:{}", file.display())), events).await.unwrap_err();
    assert!(error.message().contains("is not the one that was named"), "{error:?}");
    assert_eq!(stand.tag("v1"), None);
}
