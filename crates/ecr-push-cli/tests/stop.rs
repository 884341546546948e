//! A push that is stopped by a signal ends at once, with the shells' exit status, and says what it leaves.
#![cfg(unix)]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{APP, Program, Run, Stand, push_words, wait_for};
use local_ecr::{Config, Fault, FaultAction, Imds, ImdsMode};

const LIMIT: Duration = Duration::from_secs(20);

/// A second is promised; the machine that runs this may be busy with other tests.
const PROMPT: Duration = Duration::from_millis(2500);

/// Starts the program, waits until `so`, sends the signal, and asserts that the end comes at once.
async fn stopped(program: Program, signal: &str, status: i32, so: impl FnMut() -> bool) -> Run {
    let running = program.start();
    wait_for("the moment to stop", LIMIT, so).await;
    wait_for("the signal handlers", LIMIT, || running.catches_signals()).await;
    let sent = Instant::now();
    running.signal(signal);
    let run = running.finish().await;
    assert!(sent.elapsed() < PROMPT, "{:?}", sent.elapsed());
    assert_eq!((run.status, run.stdout.as_str()), (status, ""), "{}", run.stderr);
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_is_given_up_and_nothing_is_tagged() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let stand = Stand::new().await;
        let spool = tempfile::tempdir().unwrap();
        stand.server.add_fault(Fault::new(FaultAction::Stall { after: 0 }).method("PUT").path("/blobs/uploads/"));
        let program = stand.push("").arg("--temp-dir").arg(spool.path());
        let uploading = || !stand.asked("CompleteLayerUpload").is_empty();
        let run = stopped(program, signal, status, uploading).await;
        assert_eq!(run.stderr.lines().last(), Some("stopped: nothing was tagged"), "{}", run.stderr);
        assert_eq!(stand.tag("v1"), None);
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0, "temporary files are left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_were_pushed_already_are_named() {
    let stand = Stand::new().await;
    stand.server.add_fault(Fault::new(FaultAction::Stall { after: 0 }).method("PUT").path("/manifests/v2"));
    let publishing = || {
        let put = stand.asked("PutImage");
        put.iter().any(|request| request.path.ends_with("/v2"))
    };
    let run = stopped(stand.push("-t v2"), "TERM", 143, publishing).await;
    let left = "stopped: these tags were pushed already: v1; the tag v2 was under way, and may be there";
    assert_eq!(run.stderr.lines().last(), Some(left), "{}", run.stderr);
    assert!(stand.tag("v1").is_some() && stand.tag("v2").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_ends_is_no_hindrance() {
    let stand = Stand::new().await;
    let words = format!("push docker-archive:- -r {APP} -t v1");
    // The test holds the other end of the pipe and writes nothing.
    let asked = || !stand.asked("GetAuthorizationToken").is_empty();
    let run = stopped(stand.program(&words).stdin(Stdio::piped()), "INT", 130, asked).await;
    run.says(&["stopped: nothing was tagged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_never_answers_is_no_hindrance() {
    let stand = Stand::new().await;
    let socket = stand.folder.path().join("docker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let program =
        stand.program(&format!("push app -r {APP} -t v1")).env("DOCKER_HOST", format!("unix://{}", socket.display()));
    let mut connections = Vec::new();
    let run = stopped(program, "TERM", 143, || {
        connections.extend(listener.accept());
        !connections.is_empty()
    })
    .await;
    run.says(&["stopped: nothing was tagged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn instance_metadata_that_hangs_is_no_hindrance() {
    let hang = Imds { mode: ImdsMode::Hang, ..Imds::default() };
    let stand = Stand::with(Config { imds: Some(hang), ..Config::default() }).await;
    let program = stand
        .bare(&push_words("--region us-east-1"))
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap());
    let asked = || !stand.server.requests().is_empty();
    stopped(program, "INT", 130, asked).await.says(&["stopped: nothing was tagged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_handled_before_anything_is_done() {
    let stand = Stand::new().await;
    let socket = stand.folder.path().join("docker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let running = stand
        .program(&format!("push app -r {APP} -t v1"))
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .start();
    // The engine was reached: the push is on its way.
    let (_connection, _) = tokio::task::spawn_blocking(move || listener.accept()).await.unwrap().unwrap();
    assert!(running.catches_signals());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_answer_is_still_awaited_may_be_there() {
    let stand = Stand::new().await;
    let late = FaultAction::DelayAnswer(Duration::from_secs(20));
    stand.server.add_fault(Fault::new(late).operation("PutImage"));
    let run = stopped(stand.push(""), "TERM", 143, || stand.tag("v1").is_some()).await;
    run.says(&["stopped: nothing was tagged; the tag v1 was under way, and may be there"]);
}
