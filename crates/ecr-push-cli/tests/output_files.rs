//! `--output-file`: the result for later steps and jobs.

mod common;

use std::time::Duration;

use common::{Stand, closed_port};
use local_ecr::{Fault, FaultAction};

#[tokio::test(flavor = "multi_thread")]
async fn each_form_has_the_same_values() {
    let stand = Stand::new().await;
    let at = |name: &str| stand.folder.path().join(name).display().to_string();
    let files = [at("r.json"), at("r.env"), at(".env"), at("r.properties")];
    let words: String = files.iter().map(|file| format!("--output-file {file} ")).collect();
    stand.push(&format!("-t v2 {words}")).run().await.succeeded();
    let read = |file: &str| std::fs::read_to_string(file).unwrap();
    let (uri, digest) = (stand.uri(), stand.tag("v1").unwrap());
    let object: serde_json::Value = serde_json::from_str(&read(&files[0])).unwrap();
    assert_eq!(object["digest"], digest.as_str());
    assert_eq!(object["tags"], serde_json::json!(["v1", "v2"]));
    let host = stand.server.registry_host();
    let expected = [
        ("image", format!("{uri}:v1")),
        ("digest", digest.clone()),
        ("uri", format!("{uri}@{digest}")),
        ("registry", host),
        ("repository", common::APP.to_owned()),
        ("tags", "v1,v2".to_owned()),
    ];
    let lines = |upper: bool| -> String {
        let name = |name: &str| if upper { format!("ECR_PUSH_{}", name.to_uppercase()) } else { name.to_owned() };
        expected.iter().map(|(key, value)| format!("{}={value}\n", name(key))).collect()
    };
    assert_eq!(read(&files[1]), lines(true));
    assert_eq!(read(&files[2]), lines(true));
    assert_eq!(read(&files[3]), lines(false));
    // GitLab takes no more than this (ci-contracts, section 9).
    assert!(lines(true).lines().count() <= 20 && lines(true).len() <= 5 * 1024);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn a_shell_can_source_the_file() {
    let stand = Stand::new().await;
    let file = stand.folder.path().join("r.env");
    stand.push("").arg("--output-file").arg(&file).run().await.succeeded();
    let script = format!("set -u; . '{}'; printf %s \"$ECR_PUSH_IMAGE $ECR_PUSH_TAGS\"", file.display());
    let output = std::process::Command::new("sh").args(["-c", &script]).env_clear().output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}:v1 v1", stand.uri()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ending_is_refused_before_anything_else() {
    let stand = Stand::new().await;
    let run = stand.push("--output-file result.yaml").run().await;
    assert!(run.failed(2).contains("result.yaml"));
    run.says(&[".json, .env or .properties"]);
    assert!(stand.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_is_refused_before_the_push() {
    let stand = Stand::new().await;
    let folder = stand.folder.path().join("folder.env");
    std::fs::create_dir(&folder).unwrap();
    for file in ["/nonexistent/r.json", &folder.display().to_string()] {
        let run = stand.push(&format!("--output-file {file}")).run().await;
        assert!(run.failed(2).contains(file), "{}", run.stderr);
        assert!(!run.stderr.contains(" at path "), "{}", run.stderr);
    }
    assert!(stand.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_after_the_push_is_told_and_the_push_stays() {
    let stand = Stand::new().await;
    let file = stand.folder.path().join("r.json");
    let stall = Fault::new(FaultAction::DelayAnswer(Duration::from_millis(700))).method("PUT").path("/manifests/v1");
    stand.server.add_fault(stall);
    let running = stand.push("").arg("--output-file").arg(&file).start();
    common::wait_for("the tag", Duration::from_secs(20), || !stand.asked("PutImage").is_empty()).await;
    std::fs::create_dir(&file).unwrap();
    let run = running.finish().await;
    assert_eq!((run.status, run.stdout.as_str()), (3, format!("{}:v1\n", stand.uri()).as_str()), "{}", run.stderr);
    run.says(&["error: the image was pushed, but `", "r.json` cannot be written: "]);
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_result_is_gone_when_a_push_has_none() {
    let stand = Stand::new().await;
    let file = stand.file("r.env", "old=1\n");
    let failed = stand.push("").arg("--output-file").arg(&file);
    let nowhere = format!("http://127.0.0.1:{}", closed_port());
    failed.arg("--retry-budget").arg("0").arg("--endpoint-url").arg(nowhere).run().await.failed(1);
    assert!(!file.exists());
    let file = stand.file("r.env", "old=1\n");
    stand.push("--dry-run").arg("--output-file").arg(&file).run().await.succeeded();
    assert!(!file.exists());
    // What is refused has no effect at all.
    let file = stand.file("r.env", "old=1\n");
    stand.push("-t not+a+tag").arg("--output-file").arg(&file).run().await.failed(2);
    assert!(file.exists());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(unix)]
async fn links_stay_links_and_pipes_stay_pipes() {
    let stand = Stand::new().await;
    let (target, link) = (stand.file("real.env", "old=1\n"), stand.folder.path().join("link.env"));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let pipe = stand.folder.path().join("pipe.env");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = {
        let pipe = pipe.clone();
        tokio::task::spawn_blocking(move || std::fs::read_to_string(pipe).unwrap())
    };
    stand.push("").arg("--output-file").arg(&pipe).run().await.succeeded();
    let read = tokio::time::timeout(Duration::from_secs(10), reader).await.expect("the pipe ends").unwrap();
    assert!(read.starts_with("ECR_PUSH_IMAGE="), "{read}");
    stand.push("").arg("--output-file").arg(&link).run().await.succeeded();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read_to_string(&target).unwrap().starts_with("ECR_PUSH_IMAGE="));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_json_only() {
    let stand = Stand::new().await;
    let at = |name: &str| stand.folder.path().join(name);
    let program = stand.push("--dry-run").arg("--output-file").arg(at("r.json")).arg("--output-file").arg(at("r.env"));
    program.run().await.succeeded();
    assert!(std::fs::read_to_string(at("r.json")).unwrap().contains("\"dry_run\":true"));
    assert!(!at("r.env").exists());
}
