//! Pushes against a local ECR that misbehaves on purpose. Each test is one thing that can go wrong.

mod common;
#[path = "common/stand.rs"]
mod stand;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ecr_push::text::Setting;
use local_ecr::{Answer, Config, Fault, FaultAction, Rate};
use stand::{APP, Stand, push_with_log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const MIB: usize = 1 << 20;

/// Pushes `sizes` while `faults` are in force; the image must be there in the end.
async fn survives(sizes: &[usize], faults: Vec<Fault>) -> (Stand, Vec<String>) {
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", sizes));
    faults.into_iter().for_each(|fault| stand.server.add_fault(fault));
    let (report, log) = push_with_log(request).await;
    let report = report.unwrap_or_else(|error| panic!("{error:?}\n{log:?}"));
    assert_eq!(stand.tag("v1"), Some(report.digest.to_string()));
    (stand, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn server_errors_pass() {
    for status in [408, 500, 502, 503, 504] {
        let fault = |method: &str, path: &str| {
            Fault::new(FaultAction::Answer(Answer::status(status))).method(method).path(path).times(1)
        };
        let faults =
            vec![fault("POST", "/blobs/uploads/"), fault("PUT", "/blobs/uploads/"), fault("PUT", "/manifests/")];
        let (_, log) = survives(&[100_000, 200_000], faults).await;
        assert_eq!(log.iter().filter(|line| line.starts_with("retry ")).count(), 3, "{status}: {log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_passes_and_its_wait_is_obeyed() {
    let slow_down = Answer::error(429, "TOOMANYREQUESTS", "Rate exceeded").header("Retry-After", "1");
    let started = Instant::now();
    let fault = Fault::new(FaultAction::Answer(slow_down)).method("PUT").times(2);
    let (_, log) = survives(&[100_000; 3], vec![fault]).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(log.iter().any(|line| line.contains("Rate exceeded")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_upload_starts_anew_in_a_new_session() {
    let fault = Fault::new(FaultAction::Reset { after: MIB as u64 }).method("PUT").path("/blobs/uploads/").times(2);
    let (stand, _) = survives(&[9 * MIB, 3 * MIB], vec![fault]).await;
    let mut sessions: Vec<String> = stand
        .server
        .requests()
        .into_iter()
        .filter(|request| request.method == "PUT" && request.path.contains("/blobs/uploads/"))
        .map(|request| request.path.split('?').next().unwrap_or_default().to_owned())
        .collect();
    let uploads = sessions.len();
    // The config's upload meets the fault too, but ends before it: one or both of the layers are sent twice.
    assert!((4..=5).contains(&uploads), "{uploads}");
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), uploads, "no session was used twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_was_closed_is_replayed_without_a_word() {
    for path in ["/manifests/", "/blobs/uploads/"] {
        // The first request to the registry opens the connection; a later one finds it closed.
        let fault = Fault::new(FaultAction::Close).path(path).times(1);
        let (_, log) = survives(&[1000], vec![fault]).await;
        let retries = log.iter().filter(|line| line.starts_with("retry ")).count();
        assert_eq!(retries, 0, "{path}: {log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_sends_nothing_again() {
    let fault = Fault::new(FaultAction::LoseAnswer).method("PUT").path("/blobs/uploads/").times(2);
    let (stand, _) = survives(&[2 * MIB, MIB], vec![fault]).await;
    assert!(stand.body_bytes() < 3 * MIB as u64 + 10_000, "{} bytes", stand.body_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_manifest_is_no_failure() {
    survives(&[1000], vec![Fault::new(FaultAction::LoseAnswer).method("PUT").path("/manifests/").times(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_somebody_else_accepted_is_not_taken_for_pushed() {
    // A login page says yes to everything.
    for status in [200, 201, 202] {
        let stand = Stand::new().await;
        let request = stand.request(&stand.layout("image", &[1000]));
        stand
            .server
            .add_fault(Fault::new(FaultAction::Answer(Answer::status(status))).method("PUT").path("/manifests/"));
        let (report, log) = push_with_log(request).await;
        let error = report.err().unwrap_or_else(|| panic!("{log:?}"));
        assert!(error.message().contains("accepted the manifest at v1, and does not have it"), "{error}");
        assert_eq!(stand.tag("v1"), None);
    }
    // A registry that only does not say what it stored is asked, and has it.
    let silent = FaultAction::header("docker-content-digest", None);
    survives(&[1000], vec![Fault::new(silent).method("PUT")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_answer_was_lost_may_be_there() {
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.retry_budget = Duration::from_secs(2);
    stand.server.add_fault(Fault::new(FaultAction::LoseAnswer).operation("PutImage").times(1));
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(503))).operation("PutImage"));
    let error = push_with_log(request).await.0.unwrap_err();
    assert!(error.notes().iter().any(|note| note.starts_with("the tag `v1` may point at the image")), "{error:?}");
    assert!(stand.tag("v1").is_some());
    // Nothing was lost here.
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", &[1000]));
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(200))).operation("PutImage"));
    let error = push_with_log(request).await.0.unwrap_err();
    assert!(!error.notes().iter().any(|note| note.contains("may point at")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_api_that_break_off_pass() {
    let fault = Fault::new(FaultAction::Truncate { after: 20 }).operation("GetAuthorizationToken").times(5);
    let (_, log) = survives(&[1000], vec![fault]).await;
    assert!(log.iter().any(|line| line.starts_with("retry get token")), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_loses_everything_again_is_named_with_a_remedy() {
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", &[1000, 2000]));
    stand.server.add_fault(Fault::new(FaultAction::ForgetBlobs(9)).operation("PutImage"));
    let (report, log) = push_with_log(request).await;
    let error = report.unwrap_err();
    assert!(error.hints().iter().any(|hint| hint.contains("is lost again")), "{error:?} {log:?}");
    assert_eq!(stand.tag("v1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_somebody_else_says_yes_to_is_not_taken_for_done() {
    for status in [200, 202] {
        let answer = FaultAction::Answer(Answer { message: "<html>Sign in</html>".into(), ..Answer::status(status) });
        let stand = Stand::new().await;
        let request = stand.request(&stand.layout("image", &[MIB]));
        stand.server.add_fault(Fault::new(answer).method("PUT").path("/blobs/uploads/").times(1));
        let (report, log) = push_with_log(request).await;
        assert_eq!(report.unwrap().retries, 1, "{log:?}");
        assert!(log.iter().any(|line| line.contains("accepted sha256:")), "{log:?}");
        assert!(!log.iter().any(|line| line.contains("has lost")), "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_is_noticed_and_sent_again() {
    // Twice: the config's upload meets the fault too, and ends before it.
    let fault = Fault::new(FaultAction::Stall { after: MIB as u64 }).method("PUT").path("/blobs/uploads/").times(2);
    let started = Instant::now();
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[64 * MIB]));
    request.retry_budget = Duration::from_secs(120);
    stand.server.add_fault(fault);
    let (report, log) = push_with_log(request).await;
    report.unwrap();
    assert!((30..60).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(log.iter().any(|line| line.contains("stalled: no byte moved for 30 s")), "{log:?}");
}

/// A line to `server` that takes in 20 kB/s of each connection, and keeps little of what it has not passed on. Answers its address.
async fn slow_line(server: SocketAddr) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(64).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut client_in, mut client_out) = client.into_split();
            let (mut server_in, mut server_out) = TcpStream::connect(server).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut server_in, &mut client_out).await });
            tokio::spawn(async move {
                let mut taken = [0; 2000];
                while let Ok(n @ 1..) = client_in.read(&mut taken).await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    server_out.write_all(&taken[..n]).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_line_is_not_taken_for_a_dead_one() {
    // The system takes both layers whole; the line needs more than a minute for either.
    let stand = Stand::new().await;
    let line = slow_line(stand.server.address()).await;
    let data = serde_json::json!({ "authorizationData": [{
        "authorizationToken": stand.server.authorization_token("tester"), "expiresAt": 4_102_444_800_u64,
        "proxyEndpoint": format!("http://{line}"),
    }] });
    let answer = Answer { message: data.to_string(), ..Answer::status(200) };
    stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("GetAuthorizationToken"));
    let started = Instant::now();
    let (report, log) = push_with_log(stand.request(&stand.layout("image", &[MIB + MIB / 4, MIB + MIB / 4]))).await;
    assert_eq!(report.unwrap().retries, 0, "{log:?}");
    assert!(!log.iter().any(|line| line.contains("has not confirmed")), "{log:?}");
    assert!(started.elapsed() > Duration::from_secs(60), "it was not slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_ended_is_read_and_reported() {
    let text = "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ecr:UploadLayerPart on resource: \
                arn:aws:ecr:us-east-1:123456789012:repository/team/app because no identity-based policy allows the \
                ecr:UploadLayerPart action";
    let stand = Stand::new().await;
    let answer = FaultAction::EarlyAnswer(Answer::error(403, "DENIED", text));
    stand.server.add_fault(Fault::new(answer).method("PUT").path("/blobs/uploads/"));
    let (result, _) = push_with_log(stand.request(&stand.layout("image", &[40 * MIB]))).await;
    let error = result.unwrap_err();
    assert_eq!(error.status(), Some(403), "{error:?}");
    assert!(error.message().contains("ecr:UploadLayerPart"), "{}", error.message());
    assert_eq!(stand.tag("v1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_is_renewed_once() {
    for skip in [0, 1, 2, 4] {
        let fault = Fault::new(FaultAction::ExpireTokens).path("/v2/").skip(skip).times(1);
        let (stand, _) = survives(&[100_000, 200_000], vec![fault]).await;
        assert_eq!(stand.asked("GetAuthorizationToken").len(), 2, "after {skip} requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_does_not_keep_a_later_token_from_being_renewed() {
    let stand = Stand::new().await;
    // Tags cannot be read: a 403 that a new token does not cure. Later that token expires in the middle of the push.
    let denied = Answer::error(403, "DENIED", "not authorized");
    stand.server.add_fault(Fault::new(FaultAction::Answer(denied)).method("GET").path("/manifests/"));
    stand
        .server
        .add_fault(Fault::new(FaultAction::ExpireTokens).method("POST").path("/blobs/uploads/").skip(1).times(1));
    let (report, log) = push_with_log(stand.request(&stand.layout("image", &[1000, 2000, 3000]))).await;
    report.unwrap_or_else(|error| panic!("{error:?} {log:?}"));
    assert!(stand.asked("GetAuthorizationToken").len() <= 4, "{}", stand.asked("GetAuthorizationToken").len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_not_answered_costs_an_upload_and_nothing_else() {
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", &[1000]));
    stand.server.add_fault(
        Fault::new(FaultAction::Answer(Answer::status(500))).method("POST").operation("BatchCheckLayerAvailability"),
    );
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(405))).method("HEAD"));
    push_with_log(request).await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_never_works_is_reported_and_not_looped_on() {
    let stand = Stand::new().await;
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(401))).path("/v2/"));
    let (result, _) = push_with_log(stand.request(&stand.layout("image", &[1000]))).await;
    assert_eq!(result.unwrap_err().status(), Some(401));
    assert!(stand.asked("GetAuthorizationToken").len() <= 4, "{}", stand.asked("GetAuthorizationToken").len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stays_down_ends_with_the_budget() {
    let stand = Stand::new().await;
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(503))).method("PUT"));
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.retry_budget = Duration::from_secs(2);
    let started = Instant::now();
    let (result, log) = push_with_log(request).await;
    let error = result.unwrap_err();
    assert_eq!(error.status(), Some(503));
    assert!(error.hints().iter().any(|hint| hint.names(Setting::RetryBudget)), "{:?}", error.hints());
    assert!(started.elapsed() < Duration::from_secs(10) && log.len() > 2);
    assert_eq!(stand.tag("v1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_batch_call_that_fails_is_replaced_by_heads() {
    for answer in [Answer::status(500), Answer::error(403, "AccessDeniedException", "not authorized")] {
        let stand = Stand::new().await;
        let request = stand.request(&stand.layout("image", &[1000, 2000]));
        // The API alone: a HEAD stands for the same operation.
        let fault = Fault::new(FaultAction::Answer(answer)).method("POST").operation("BatchCheckLayerAvailability");
        stand.server.add_fault(fault);
        push_with_log(request).await.0.unwrap();
        let heads = stand.server.requests().into_iter().filter(|r| r.method == "HEAD" && r.path.contains("/blobs/"));
        assert_eq!(heads.count(), 3);
        let calls = stand.asked("BatchCheckLayerAvailability").into_iter().filter(|r| r.method == "POST").count();
        assert!(calls <= 2, "the SDK does not try again: {calls}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_among_the_failures_is_asked_for_alone() {
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", &[1000]));
    let body =
        r#"{"layers":[],"failures":[{"layerDigest":"x","failureCode":"InvalidLayerDigest","failureReason":"no"}]}"#;
    let answer = Answer { status: 200, code: None, message: body.into(), headers: Vec::new() };
    stand
        .server
        .add_fault(Fault::new(FaultAction::Answer(answer)).method("POST").operation("BatchCheckLayerAvailability"));
    push_with_log(request).await.0.unwrap();
    let heads = stand.server.requests().into_iter().filter(|r| r.method == "HEAD" && r.path.contains("/blobs/"));
    assert_eq!(heads.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_may_ask_everything_is_sent_and_said_once() {
    let stand = Stand::new().await;
    let image = stand.layout("image", &[1000, 2000, 3000]);
    let denied = Answer::error(403, "AccessDeniedException", "not authorized");
    stand.server.add_fault(Fault::new(FaultAction::Answer(denied)).operation("BatchCheckLayerAvailability"));
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(403))).method("HEAD"));
    let (report, log) = push_with_log(stand.request(&image)).await;
    report.unwrap();
    let warnings: Vec<_> = log.iter().filter(|line| line.contains("ecr:BatchCheckLayerAvailability")).collect();
    assert_eq!(warnings.iter().filter(|line| line.starts_with("warning")).count(), 1, "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_nowhere_but_to_the_registry() {
    for (location, sentence) in [
        (Some("https://evil.example/v2/x/blobs/uploads/1"), "another place"),
        (Some("http://127.0.0.1:1/v2/x"), "another place"),
        (None, "without saying where"),
    ] {
        let stand = Stand::new().await;
        let fault =
            Fault::new(FaultAction::Location(location.map(str::to_owned))).method("POST").path("/blobs/uploads/");
        stand.server.add_fault(fault);
        let (result, _) = push_with_log(stand.request(&stand.layout("image", &[1000]))).await;
        let error = result.unwrap_err();
        assert!(error.message().contains(sentence), "{}", error.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_at_its_start_is_explained() {
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.retry_budget = Duration::from_secs(3);
    stand.server.add_fault(Fault::new(FaultAction::Close).method("POST").path("/blobs/uploads/"));
    let error = push_with_log(request).await.0.unwrap_err();
    assert!(error.message().contains("closed the connection"), "{}", error.message());
    assert_eq!(stand.asked("DescribeRepositories").len(), 2, "once a blob: config and layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_is_never_published() {
    let stand = Stand::new().await;
    let image = stand.layout("image", &[300_000]);
    let blobs = stand.folder.path().join("image/blobs/sha256");
    let layer = std::fs::read_dir(&blobs).unwrap().flatten().find(|e| e.metadata().unwrap().len() == 300_000).unwrap();
    let mut bytes = std::fs::read(layer.path()).unwrap();
    bytes[150_000] ^= 1;
    std::fs::write(layer.path(), bytes).unwrap();
    let (result, _) = push_with_log(stand.request(&image)).await;
    let error = result.unwrap_err();
    assert!(error.message().contains("is damaged: its bytes have the digest"), "{}", error.message());
    assert_eq!(stand.tag("v1"), None);
    assert!(stand.server.repository(APP).unwrap().blobs.len() <= 1, "at most the config");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_gone_is_named() {
    let stand = Stand::bare(Config::default()).await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.retry_budget = Duration::from_secs(1);
    request.aws.endpoint_url = Some("http://127.0.0.1:1".into());
    let (result, _) = push_with_log(request).await;
    let error = result.unwrap_err();
    assert!(error.message().contains("127.0.0.1:1"), "{}", error.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_the_registry_reads_while_a_neighbour_writes_it_is_put_again() {
    let half = Answer::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
    let fault = |times| Fault::new(FaultAction::Answer(half.clone())).method("PUT").path("/manifests/").times(times);
    survives(&[1000], vec![fault(2)]).await;
    // A registry that goes on saying so is believed.
    let stand = Stand::new().await;
    stand.server.add_fault(fault(100));
    let (result, _) = push_with_log(stand.request(&stand.layout("image", &[1000]))).await;
    assert_eq!(result.unwrap_err().code(), Some("DIGEST_INVALID"));
    assert_eq!(stand.tag("v1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_put_no_faster_than_the_service_takes_them() {
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.tags = (0..14).map(|n| format!("v{n}").parse().unwrap()).collect();
    let (report, log) = push_with_log(request).await;
    let report = report.unwrap_or_else(|error| panic!("{error:?} {log:?}"));
    // Ten at once, and each of the four others a tenth of a second after the one before.
    assert!(report.waited >= Duration::from_millis(200), "{:?}", report.waited);
    assert_eq!(stand.asked("PutImage").len(), 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_is_throttled_is_slowed_down_and_the_wait_is_told() {
    let mut config = Config::default();
    config.rates.insert("InitiateLayerUpload".into(), Rate { burst: 2.0, per_second: 10.0 });
    let stand = Stand::bare(config).await;
    stand.server.create_repository(APP, local_ecr::Mutability::mutable()).unwrap();
    let (report, log) = push_with_log(stand.request(&stand.layout("image", &[1000; 24]))).await;
    let report = report.unwrap_or_else(|error| panic!("{error:?} {log:?}"));
    assert!(report.retries > 0 && report.waited > Duration::from_millis(200), "{report:?}");
    let asked = stand.asked("InitiateLayerUpload");
    let refused = asked.iter().filter(|request| request.status == Some(429)).count();
    assert!(refused < 48, "{refused} of {} were refused", asked.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_never_enough_is_named_with_its_number() {
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.retry_budget = Duration::from_secs(1);
    let slow_down = Answer::error(429, "TOOMANYREQUESTS", "Rate exceeded");
    stand.server.add_fault(Fault::new(FaultAction::Answer(slow_down)).operation("PutImage"));
    let error = push_with_log(request).await.0.unwrap_err();
    assert!(
        error.hints().iter().any(|hint| hint.contains("takes 10 PutImage requests a second")),
        "{:?}",
        error.hints()
    );
    assert_eq!(stand.tag("v1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_named_as_such_with_its_number_and_not_tried_again() {
    let mut config = Config::default();
    config.limits.tags_per_image = 1;
    let stand = Stand::bare(config).await;
    stand.server.create_repository(APP, local_ecr::Mutability::mutable()).unwrap();
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.tags.push("v2".parse().unwrap());
    let error = push_with_log(request).await.0.unwrap_err();
    assert!(error.message().starts_with("a quota of Amazon ECR is reached: "), "{}", error.message());
    assert!(error.hints()[0].contains("`Tags per image` is 1,000"), "{:?}", error.hints());
    assert_eq!(stand.asked("PutImage").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_is_down_for_a_while_is_waited_for() {
    let down = Fault::new(FaultAction::Answer(Answer::status(503))).operation("GetAuthorizationToken").times(5);
    let (stand, log) = survives(&[1000], vec![down]).await;
    assert!(log.iter().any(|line| line.starts_with("retry get token: ")), "{log:?}");
    assert_eq!(stand.asked("GetAuthorizationToken").len(), 6);
}

/// Blobs are asked for one by one.
fn without_batch() -> Fault {
    Fault::new(FaultAction::Answer(Answer::status(500))).method("POST").operation("BatchCheckLayerAvailability")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_refused_is_asked_again_by_get_for_the_reason() {
    // Throttling in disguise passes.
    let throttled = Answer::error(400, "DENIED", "Rate exceeded");
    let faults = vec![
        without_batch(),
        Fault::new(FaultAction::Answer(Answer::status(400))).method("HEAD").path("/blobs/").times(2),
        Fault::new(FaultAction::Answer(throttled)).method("GET").path("/blobs/").times(2),
    ];
    let (stand, log) = survives(&[1000], faults).await;
    assert!(log.iter().any(|line| line.starts_with("retry check blob: Rate exceeded")), "{log:?}");
    let gets = stand.server.requests().into_iter().filter(|r| r.method == "GET" && r.path.contains("/blobs/"));
    assert_eq!(gets.count(), 2, "once for each");

    // What is no throttling is a refusal, with its reason.
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", &[1000]));
    stand.server.add_fault(without_batch());
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(400))).method("HEAD").path("/blobs/"));
    let reason = Answer::error(400, "NAME_INVALID", "the gateway does not like this name");
    stand.server.add_fault(Fault::new(FaultAction::Answer(reason)).method("GET").path("/blobs/"));
    let error = push_with_log(request).await.0.unwrap_err();
    assert_eq!((&**error.message(), error.code()), ("the gateway does not like this name", Some("NAME_INVALID")));

    // Who may read has the answer by it.
    let stand = Stand::new().await;
    let request = stand.request(&stand.layout("image", &[1000]));
    stand.server.add_fault(without_batch());
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(400))).method("HEAD").path("/blobs/"));
    push_with_log(request).await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_answer_that_is_lost_on_the_way_is_asked_for_again_within_the_first_contact() {
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    // The first try gets five of the eight seconds.
    request.retry_budget = Duration::from_secs(8);
    let stall = FaultAction::Pause { after: 0, time: Duration::from_secs(15) };
    stand.server.add_fault(Fault::new(stall).operation("GetAuthorizationToken").times(1));
    let started = Instant::now();
    let (report, log) = push_with_log(request).await;
    assert_eq!(report.unwrap().retries, 1, "{log:?}");
    assert!((5..10).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}
