//! What each kind of program that ecr-push starts receives of its environment: what its list in docs/usage.md names, and nothing else.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{APP, KEY, Program, SECRET, Stand, closed_port, two};

/// What a job may have, by who may see it. The values are of no use to anybody.
const EVERY: [&str; 8] = ["HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"];
const DESKTOP: [&str; 2] = ["DBUS_SESSION_BUS_ADDRESS", "DISPLAY"];
const SSH: [&str; 3] = ["KRB5CCNAME", "SSH_ASKPASS", "SSH_AUTH_SOCK"];
const NETWORK: [&str; 3] = ["DOCKER_CONFIG", "HTTPS_PROXY", "NO_PROXY"];
const PASS: [&str; 2] = ["GNUPGHOME", "PASSWORD_STORE_DIR"];
const AWS: [&str; 8] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
];
const GOOGLE: [&str; 2] = ["CLOUDSDK_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS"];
const AZURE: [&str; 1] = ["AZURE_CLIENT_SECRET"];
const GITHUB: [&str; 2] = ["GH_TOKEN", "GITHUB_TOKEN"];
/// The job's own tokens: nobody's.
const JOB: [&str; 6] = [
    "ACTIONS_RUNTIME_TOKEN",
    "CI_JOB_TOKEN",
    "CI_REGISTRY_PASSWORD",
    "DOCKER_AUTH_CONFIG",
    "SYSTEM_ACCESSTOKEN",
    "BUILDKITE_AGENT_ACCESS_TOKEN",
];
/// Identity tokens, and what only the job's author knows.
const OTHER: [&str; 5] =
    ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "CIRCLE_OIDC_TOKEN", "DATABASE_PASSWORD", "SECRET_ACCESS_KEY", "VAULT_TOKEN"];

fn planted(stand: &Stand, program: Program) -> Program {
    let all = [&DESKTOP[..], &SSH, &PASS, &AWS, &GOOGLE, &AZURE, &GITHUB, &JOB, &OTHER].concat();
    let program = all.iter().fold(program, |program, name| program.env(name, format!("value-of-{name}")));
    let folder = stand.folder.path();
    let bin = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    let program = EVERY.iter().fold(program, |program, name| program.env(name, folder));
    let program = program.env("LANG", "C.UTF-8").env("LC_ALL", "C.UTF-8").env("LOGNAME", "ci").env("PATH", bin);
    let program =
        program.env("HTTPS_PROXY", "http://127.0.0.1:1").env("NO_PROXY", "example").env("AWS_REGION", "us-east-1");
    let program = program.env("DOCKER_CONFIG", folder.join(".docker")).env("AWS_PROFILE", "default");
    program.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET)
}

/// A program that writes down its environment, and then answers.
fn witness(stand: &Stand, name: &str, answer: &str) -> PathBuf {
    let seen = stand.folder.path().join(format!("seen-by-{name}"));
    let path =
        stand.file(&format!("bin/{name}"), format!("#!/bin/sh\ncat /proc/$$/environ > {}\n{answer}\n", seen.display()));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    seen
}

/// The names of the variables that it received.
fn received(seen: &Path) -> BTreeSet<String> {
    let text =
        std::fs::read(seen).unwrap_or_else(|_| panic!("{} was not written: the program did not run", seen.display()));
    let text = String::from_utf8(text).unwrap();
    text.split_terminator('\0').map(|variable| variable.split('=').next().unwrap().to_owned()).collect()
}

fn names(lists: &[&[&str]]) -> BTreeSet<String> {
    lists.concat().into_iter().map(str::to_owned).collect()
}

fn push_to_registry(stand: &Stand, words: &str) -> Program {
    planted(stand, Program::new(&format!("push {} --to {} -t v1 --retry-budget 1s {words}", two(), stand.uri())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_helper_gets_what_its_list_names() {
    let kinds: [(&str, &[&[&str]]); 10] = [
        ("osxkeychain", &[&EVERY, &DESKTOP]),
        ("secretservice", &[&EVERY, &DESKTOP]),
        ("pass", &[&EVERY, &DESKTOP, &PASS]),
        ("desktop", &[&EVERY, &DESKTOP, &NETWORK]),
        ("ecr-login", &[&EVERY, &DESKTOP, &NETWORK, &AWS]),
        ("gcloud", &[&EVERY, &DESKTOP, &NETWORK, &GOOGLE]),
        ("gcr", &[&EVERY, &DESKTOP, &NETWORK, &GOOGLE]),
        ("acr-env", &[&EVERY, &DESKTOP, &NETWORK, &AZURE]),
        ("ghcr-login", &[&EVERY, &DESKTOP, &NETWORK, &GITHUB]),
        ("of-somebody-else", &[&EVERY, &DESKTOP, &NETWORK]),
    ];
    for (name, expected) in kinds {
        let stand = Stand::new().await;
        let seen = witness(&stand, &format!("docker-credential-{name}"), r#"echo '{"Username":"ci","Secret":"x"}'"#);
        stand.file(".docker/config.json", serde_json::json!({ "credsStore": name }).to_string());
        push_to_registry(&stand, "").run().await.failed(1);
        assert_eq!(received(&seen), names(expected), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_gets_what_its_list_names() {
    let stand = Stand::new().await;
    let seen = witness(&stand, "ssh", "exit 255");
    let program = Program::new(&format!("push app --repository {APP} --docker-host ssh://user@host"));
    let program = planted(&stand, program).env("AWS_ENDPOINT_URL", stand.server.endpoint_url());
    program.run().await.failed(1);
    assert_eq!(received(&seen), names(&[&EVERY, &DESKTOP, &SSH]));
}

/// The AWS SDK starts it, with the environment of the process. The job's own tokens are gone from that.
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_gets_no_token_of_the_job() {
    let stand = Stand::strict(local_ecr::Config::default()).await;
    let answer = serde_json::json!({ "Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET });
    let seen = witness(&stand, "process", &format!("echo '{answer}'"));
    stand.file(".aws/config", "[profile ci]\nregion = us-east-1\ncredential_process = process\n");
    let program = Program::new(&common::push_words("--profile ci"));
    let program = planted(&stand, program).env("AWS_ENDPOINT_URL", stand.server.endpoint_url()).without("AWS_PROFILE");
    program.run().await.succeeded();
    let received = received(&seen);
    let taken: Vec<&str> = JOB.iter().chain(&GITHUB).copied().filter(|name| received.contains(*name)).collect();
    assert!(taken.is_empty(), "{taken:?}");
    for name in AWS.iter().chain(&OTHER).filter(|name| **name != "AWS_PROFILE") {
        assert!(received.contains(*name), "{name} is what such a process may work with");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_with_pass_env_is_received_by_every_kind() {
    let stand = Stand::strict(local_ecr::Config::default()).await;
    let asked = ["VAULT_TOKEN", "CI_JOB_TOKEN"];
    let seen = witness(&stand, "docker-credential-other", r#"echo '{"Username":"ci","Secret":"x"}'"#);
    stand.file(".docker/config.json", serde_json::json!({ "credsStore": "other" }).to_string());
    push_to_registry(&stand, "--pass-env VAULT_TOKEN --pass-env CI_JOB_TOKEN").run().await.failed(1);
    assert_eq!(received(&seen), names(&[&EVERY, &DESKTOP, &NETWORK, &asked]));

    let answer = serde_json::json!({ "Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET });
    let seen = witness(&stand, "process", &format!("echo '{answer}'"));
    stand.file(".aws/config", "[profile ci]\nregion = us-east-1\ncredential_process = process\n");
    let program = Program::new(&common::push_words("--profile ci --pass-env CI_JOB_TOKEN"));
    let program = planted(&stand, program).env("AWS_ENDPOINT_URL", stand.server.endpoint_url()).without("AWS_PROFILE");
    program.run().await.succeeded();
    assert!(received(&seen).contains("CI_JOB_TOKEN") && !received(&seen).contains("GITHUB_TOKEN"));
}

/// What a helper was asked for, one line a time.
fn asked(stand: &Stand) -> Vec<String> {
    let text = std::fs::read_to_string(stand.folder.path().join("asked")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// docker's own key for Docker Hub.
const DOCKERS: &str = "https://index.docker.io/v1/";

async fn asks_docker_hub(host: &str, config: &serde_json::Value) {
    let stand = Stand::new().await;
    let note = stand.folder.path().join("asked").display().to_string();
    let absent = "{ echo credentials not found in native keychain; exit 1; }";
    let login = r#"{"Username":"ci","Secret":"x"}"#;
    let script =
        format!(r#"read asked; echo "$asked" >> {note}; [ "$asked" = {DOCKERS} ] || {absent}; echo '{login}'"#);
    witness(&stand, "docker-credential-test", &script);
    stand.file(".docker/config.json", config.to_string());
    // Docker Hub is not asked from here.
    let away = format!("registry-1.docker.io:443:127.0.0.1:{}", closed_port());
    let words = format!("push {} --to {host}/someone/app -t v1 --retry-budget 1s --connect-to {away}", two());
    let run = planted(&stand, Program::new(&words)).run().await;
    run.failed(1);
    run.says(&["pushing to docker.io/someone/app (login from docker's config)"]);
    assert_eq!(asked(&stand), [DOCKERS], "{host} {config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_for_docker_hub_are_asked_for_under_dockers_own_key() {
    let mut tasks = tokio::task::JoinSet::new();
    for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        for config in [
            serde_json::json!({ "credsStore": "test" }),
            serde_json::json!({ "credHelpers": { DOCKERS: "test" } }),
            serde_json::json!({ "credHelpers": { "docker.io": "test" }, "credsStore": "absent" }),
            serde_json::json!({ "credHelpers": { "index.docker.io": "test" } }),
            serde_json::json!({ "credHelpers": { "registry-1.docker.io": "test" } }),
        ] {
            tasks.spawn(async move { asks_docker_hub(host, &config).await });
        }
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_helper_says_is_shown_in_one_harmless_line() {
    for (answer, says) in [
        ("echo 'pass not initialized: exit status 1'; exit 1", "pass not initialized: exit status 1"),
        ("echo 'the keychain is locked' >&2; exit 3", "the keychain is locked"),
        ("printf 'one\\033[31m red\\n::error::two\\r\\n'; exit 1", "one"),
        ("exit 7", "exit status: 7"),
    ] {
        let stand = Stand::new().await;
        witness(&stand, "docker-credential-test", answer);
        stand.file(".docker/config.json", serde_json::json!({ "credsStore": "test" }).to_string());
        let run = push_to_registry(&stand, "").run().await;
        let sentence = run.failed(1);
        assert!(sentence.contains("docker-credential-test") && sentence.contains(says), "{answer}: {sentence}");
        assert!(!run.stderr.contains('\u{1b}') && !run.stderr.contains("\n::error::"), "{}", run.stderr);
    }
    // It finds no login, and says why to whoever asks.
    let stand = Stand::new().await;
    witness(
        &stand,
        "docker-credential-test",
        "echo 'no session: log in first' >&2; echo credentials not found in native keychain; exit 1",
    );
    stand.file(".docker/config.json", serde_json::json!({ "credsStore": "test" }).to_string());
    let run = push_to_registry(&stand, "-v").run().await;
    run.failed(1);
    run.says(&["no session: log in first"]);
}
