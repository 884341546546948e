//! Progress where there is no terminal: lines that a log can keep.

mod common;

use std::time::Duration;

use common::{APP, Run, Stand, multi};
use local_ecr::{Fault, FaultAction};

/// Asserts that a log file shows what the program said as it said it.
#[track_caller]
fn is_plain(run: &Run) {
    for text in [&run.stdout, &run.stderr] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    }
}

/// The lines that tell what was done with a blob.
fn blob_lines<'a>(run: &'a Run, done: &str) -> Vec<&'a str> {
    run.stderr.lines().filter(|line| line.starts_with("sha256:") && line.ends_with(done)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_one_line_a_layer_and_no_control_characters() {
    let stand = Stand::new().await;
    for progress in ["auto", "lines", "bars"] {
        let tag = format!("push {} -r {APP} -t {progress} --progress {progress}", multi());
        let run = stand.program(&tag).run().await.succeeded();
        is_plain(&run);
        let done = if progress == "auto" { "  sent" } else { "  already there" };
        let lines = blob_lines(&run, done);
        let mut names: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), lines.len()), (6, 6), "{progress}:\n{}", run.stderr);
        let blobs = stand.server.repository(APP).unwrap().blobs;
        assert!(names.iter().all(|name| blobs.iter().any(|blob| blob.starts_with(name))), "{names:?}");
        run.says(&[&format!("tag {progress}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_are_not_forced_into_a_log() {
    let stand = Stand::new().await;
    for (name, value) in [("CLICOLOR_FORCE", "1"), ("FORCE_COLOR", "1"), ("TERM", "xterm-256color")] {
        is_plain(&stand.push("-v").env(name, value).run().await.succeeded());
        let failed = stand.push("--temp-dir /nonexistent").env(name, value).run().await;
        is_plain(&failed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_told_and_the_blob_is_still_one_line() {
    let stand = Stand::new().await;
    let fault = Fault::new(FaultAction::Answer(local_ecr::Answer::status(503)));
    stand.server.add_fault(fault.method("PUT").path("/blobs/uploads/").times(2));
    let run = stand.push("-o json").run().await.succeeded();
    is_plain(&run);
    assert_eq!(blob_lines(&run, "  sent").len(), 3, "{}", run.stderr);
    assert_eq!(run.stderr.matches("trying again in").count(), 2, "{}", run.stderr);
    assert_eq!(run.json()["retries"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_of_life_comes_when_nothing_else_is_said_for_fifteen_seconds() {
    let stand = Stand::new().await;
    stand.server.add_fault(Fault::new(FaultAction::Delay(Duration::from_secs(17))).method("PUT").path("/manifests/"));
    // Quiet is quiet. Another tag, which the other push has not put there.
    let quiet = stand.program(&format!("push {} -r {APP} -t quiet -q", common::two())).start();
    let run = stand.push("").run().await.succeeded();
    is_plain(&run);
    let beats: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("... ")).collect();
    assert!(matches!(beats[..], [beat] if beat.len() > 12 && beat.ends_with(" s)")), "{}", run.stderr);
    assert_eq!(quiet.finish().await.succeeded().stderr, "");
}

/// The same on a terminal, which only `script` of util-linux gives a test.
#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn on_a_terminal_the_lines_are_the_same_and_standard_output_stays_clean() {
    let stand = Stand::new().await;
    let result = stand.folder.path().join("result");
    let words = format!("push {} -r {APP} -t v1", common::two());
    let line = format!("exec {} {words} > {}", env!("CARGO_BIN_EXE_ecr-push"), result.display());
    let output = std::process::Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", stand.folder.path())
        .env("SHELL", "/bin/sh")
        .env("TERM", "xterm")
        .env("AWS_ACCESS_KEY_ID", common::KEY)
        .env("AWS_SECRET_ACCESS_KEY", common::SECRET)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL", stand.server.endpoint_url())
        .stdin(std::process::Stdio::null())
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: there is no `script`");
        return;
    };
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}");
    assert_eq!(std::fs::read_to_string(&result).unwrap(), format!("{}:v1\n", stand.uri()));
    assert!(shown.contains("pushed an image for linux/amd64 as "), "{shown}");
    assert_eq!(shown.matches("B  sent").count(), 3, "{shown}");
}
