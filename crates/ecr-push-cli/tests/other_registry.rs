//! Registries that are not ECR, with docker's own logins.

mod common;

use common::{APP, Stand, two};
use local_ecr::{Answer, Fault, FaultAction};

/// A push to the server's registry door, with no AWS in sight.
fn push(stand: &Stand, words: &str) -> common::Program {
    common::Program::new(&format!("push {} --to {} -t v1 {words}", two(), stand.uri()))
        .env("HOME", stand.folder.path())
        .env("TMPDIR", stand.folder.path())
}

/// A config as docker writes it, with a login for the server, below `directory`.
fn log_in(stand: &Stand, directory: &str) -> (std::path::PathBuf, String) {
    let auth = stand.server.authorization_token("ci");
    let host = stand.server.registry_host();
    let text = format!(
        "{{\n\t\"auths\": {{\n\t\t\"{host}\": {{ \"auth\": \"{auth}\" }}\n\t}},\n\t\"currentContext\": \"default\", \"unknown\": 1\n}}"
    );
    (stand.file(&format!("{directory}/config.json"), &text), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_of_dockers_is_used_and_its_file_is_not_touched() {
    let stand = Stand::new().await;
    let (file, text) = log_in(&stand, ".docker");
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    let run = push(&stand, "-v -o json").run().await.succeeded();
    assert_eq!(run.json()["image"], format!("{}:v1", stand.uri()));
    assert_eq!(run.json()["digest"], stand.tag("v1").unwrap());
    assert!(run.json()["registry_id"].is_null() && run.json()["region"].is_null());
    run.hides(&[&stand.server.authorization_token("ci")[..12], "bG9jYWwtZWNy"]);
    assert!(stand.asked("GetAuthorizationToken").is_empty(), "no AWS is asked");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "byte for byte");
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing beside it");
    let run = push(&stand, "").run().await.succeeded();
    assert_eq!(run.stdout, format!("{}:v1\n", stand.uri()));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_config_names_the_folder() {
    let stand = Stand::new().await;
    let (file, _) = log_in(&stand, "elsewhere");
    push(&stand, "").env("DOCKER_CONFIG", file.parent().unwrap()).run().await.succeeded();
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_login_one_sentence_says_how_to_get_one() {
    let stand = Stand::new().await;
    let run = push(&stand, "-v").run().await;
    run.failed(1);
    run.says(&["status 401", &format!("docker login {}", stand.server.registry_host())]);
    assert_eq!(stand.tag("v1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_without_a_login_is_told_to_log_in_and_not_that_one_was_revoked() {
    let stand = Stand::new().await;
    for method in ["HEAD", "GET"] {
        let answer = FaultAction::Answer(Answer::error(404, "NAME_UNKNOWN", "there is nothing yet"));
        stand.server.add_fault(Fault::new(answer).method(method).path("/v2/"));
    }
    let run = push(&stand, "").run().await;
    run.failed(1);
    run.says(&["status 401", "log in first: docker login"]);
    assert!(!run.stderr.contains("no longer accepts"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_not_taken_is_said_and_not_shown() {
    let stand = Stand::new().await;
    let host = stand.server.registry_host();
    // `ci:registry-geheim`
    let text = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"Y2k6cmVnaXN0cnktZ2VoZWlt\"}}}}}}");
    stand.file(".docker/config.json", text);
    let run = push(&stand, "-v").run().await;
    run.failed(1);
    run.hides(&["registry-geheim", "Y2k6cmVnaXN0cnktZ2VoZWlt"]);
    run.says(&["status 401", "the registry refuses the login that docker's configuration has for it"]);
    stand.file(".docker/config.json", "{");
    let run = push(&stand, "").run().await;
    assert!(run.failed(1).contains("is not a docker config"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_only_writes_is_pushed_to() {
    let stand = Stand::new().await;
    log_in(&stand, ".docker");
    let denied = FaultAction::Answer(Answer::status(403));
    stand.server.add_fault(Fault::new(denied).method("HEAD"));
    let run = push(&stand, "").run().await.succeeded();
    assert!(stand.tag("v1").is_some());
    assert_eq!(run.stderr.matches("warning: ").count(), 1, "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_gone_is_named() {
    let stand = Stand::new().await;
    let host = format!("127.0.0.1:{}", common::closed_port());
    let words = format!("push {} --to {host}/{APP} --retry-budget 1s", two());
    let run = common::Program::new(&words).env("HOME", stand.folder.path()).run().await;
    assert!(run.failed(1).contains(&host), "{}", run.stderr);
}
