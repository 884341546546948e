//! `github-action`: a runner's environment in, its files and commands out.

mod common;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::{APP, Program, Run, Stand, two};
use local_ecr::{Config, Sts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";
/// `{"iss":"https://token.actions.githubusercontent.com","sub":"repo:o/r:ref:refs/heads/main","aud":"sts.amazonaws.com"}`
const JWT: &str = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL3Rva2VuLmFjdGlvbnMuZ2l0aHVidXNlcmNvbnRlbnQuY29tIiwic3ViIjoicmVwbzpvL3I6cmVmOnJlZnMvaGVhZHMvbWFpbiIsImF1ZCI6InN0cy5hbWF6b25hd3MuY29tIn0.c2lnbmF0dXJl";
const REQUEST_TOKEN: &str = "runner-request-token-1234";

fn action(stand: &Stand) -> Program {
    let program = stand.bare("github-action").env("GITHUB_ACTIONS", "true").env("INPUT_IMAGE", two());
    let files = ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"];
    let program = files.iter().fold(program, |program, name| program.env(name, path(stand, name)));
    program.env("INPUT_REPOSITORY", APP).env("INPUT_AWS-REGION", "us-east-1").env("INPUT_TAGS", "v1\nv2, v3")
}

fn with_keys(program: Program) -> Program {
    program.env("AWS_ACCESS_KEY_ID", common::KEY).env("AWS_SECRET_ACCESS_KEY", common::SECRET)
}

fn path(stand: &Stand, name: &str) -> PathBuf {
    stand.folder.path().join(name)
}

/// The outputs as the runner reads them.
fn outputs(stand: &Stand) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path(stand, "GITHUB_OUTPUT")).unwrap_or_default();
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let (name, delimiter) = line.split_once("<<").expect("a value between two lines");
        let value: Vec<&str> = lines.by_ref().take_while(|line| *line != delimiter).collect();
        found.push((name.to_owned(), value.join("\n")));
    }
    found
}

/// The runner's token endpoint. Keeps the heads of the requests.
async fn token_endpoint(status: &'static str, body: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/token?version=2", listener.local_addr().unwrap());
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let kept = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let read = stream.read(&mut head).await.unwrap_or(0);
            kept.lock().unwrap().push(String::from_utf8_lossy(&head[..read]).into_owned());
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked)
}

fn oidc(program: Program, address: &str) -> Program {
    program
        .env("INPUT_ROLE-TO-ASSUME", ROLE)
        .env("INPUT_ROLE-DURATION-SECONDS", "900")
        .env("ACTIONS_ID_TOKEN_REQUEST_URL", address)
        .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN)
}

/// Lines of standard output but those that register a secret, where it has to be.
fn shown(run: &Run) -> String {
    run.stdout.lines().filter(|line| !line.starts_with("::add-mask::")).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_for_the_image_and_its_layers_do_what_the_flags_do() {
    let stand = Stand::new().await;
    let image = common::one_platform_with_attestation(stand.folder.path());
    let task = || with_keys(action(&stand)).env("INPUT_IMAGE", &image).env("INPUT_TAGS", "v1");
    for (name, value) in [
        ("attestations", "all"),
        ("compression", "brotli"),
        ("reuse", "all"),
        ("platform", "linux"),
        ("reuse-from", "a b"),
        ("mount-from", "team/app:1"),
    ] {
        let run = task().env(&format!("INPUT_{}", name.to_uppercase()), value).run().await;
        assert_eq!(run.status, 2, "{name}: {}", run.stdout);
        let error = run.stdout.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains(&format!("`{value}`")) && error.contains(name) && !error.contains("--"), "{error}");
    }
    let run = task().env("INPUT_TAGS", " , ,").run().await;
    assert_eq!(run.status, 2);
    assert!(run.stdout.contains("error: `tags` holds separators and no tag"), "{}", run.stdout);
    assert!(stand.server.requests().is_empty());
    let cache = path(&stand, "layers");
    let pushed = |stand: &Stand| -> serde_json::Value {
        let repository = stand.server.repository(APP).unwrap();
        serde_json::from_slice(&repository.manifests[&repository.tags["v1"]]).unwrap()
    };
    let run = task().run().await.succeeded();
    assert!(run.stdout.contains("Push with `attestations: drop`"), "{}", run.stdout);
    assert_eq!(pushed(&stand)["manifests"].as_array().unwrap().len(), 2, "an index with an attestation");
    // An index and attestations are what AWS Lambda refuses.
    let lambda = task().env("INPUT_ATTESTATIONS", "lambda").env("INPUT_CACHE-DIR", &cache);
    lambda.env("INPUT_PLATFORM", "linux/amd64").env("INPUT_REUSE", "own").run().await.succeeded();
    assert!(pushed(&stand)["manifests"].is_null() && pushed(&stand)["layers"].is_array(), "{}", pushed(&stand));
    assert!(std::fs::read_dir(&cache).unwrap().count() > 0);
    let several = task().env("INPUT_ATTESTATIONS", "lambda").env("INPUT_IMAGE", common::multi()).run().await;
    assert_eq!(several.status, 1);
    assert!(several.stdout.contains("holds 2 images (linux/amd64, linux/arm64)"), "{}", several.stdout);
    assert!(several.stdout.contains("name its platform: `platform: linux/amd64`"), "{}", several.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_and_summary_are_in_the_runners_files_and_everything_else_is_on_one_stream() {
    let stand = Stand::new().await;
    let run = with_keys(action(&stand)).run().await.succeeded();
    assert_eq!(run.stderr, "");
    let digest = stand.tag("v1").unwrap();
    let uri = stand.uri();
    let found = outputs(&stand);
    let expected = [
        ("image", format!("{uri}:v1")),
        ("digest", digest.clone()),
        ("uri", format!("{uri}@{digest}")),
        ("registry", stand.server.registry_host()),
        ("tags", "v1,v2,v3".to_owned()),
    ];
    for (output, (name, value)) in found.iter().zip(expected) {
        assert_eq!(*output, (name.to_owned(), value));
    }
    assert_eq!(found[5].0, "json");
    let object: serde_json::Value = serde_json::from_str(&found[5].1).unwrap();
    assert_eq!(object["digest"], digest.as_str());
    assert_eq!(found.len(), 6);
    let summary = std::fs::read_to_string(path(&stand, "GITHUB_STEP_SUMMARY")).unwrap();
    assert!(summary.contains(&format!("| Digest | `{digest}` |")), "{summary}");
    assert!(run.stdout.contains("::group::Pushing image"), "{}", run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_is_taken_on_with_the_jobs_identity_token() {
    let stand = Stand::new().await;
    let (address, asked) = token_endpoint("200 OK", format!("{{\"count\":1,\"value\":\"{JWT}\"}}")).await;
    let run = oidc(action(&stand), &address).run().await.succeeded();
    let asked = asked.lock().unwrap().clone();
    assert!(asked[0].starts_with("GET /token?version=2&audience=sts.amazonaws.com HTTP/1.1\r\n"), "{asked:?}");
    assert!(asked[0].contains(&format!("Bearer {REQUEST_TOKEN}")), "{asked:?}");
    assert_eq!(stand.principal(), "arn:aws:sts::123456789012:assumed-role/pusher/GitHubActions");
    let told = shown(&run);
    assert!(told.contains("https://token.actions.githubusercontent.com") && told.contains("repo:o/r:ref"), "{told}");
    // The last two: what every token of ECR starts with, and every password of the local one.
    for secret in [JWT, REQUEST_TOKEN, "QVdTO", "bG9jYWwtZWNy"] {
        assert!(!told.contains(secret), "{told}");
    }
    // Hidden before anything else is said.
    let first = run.stdout.lines().position(|line| !line.starts_with("::add-mask::")).unwrap();
    let mask = run.stdout.lines().position(|line| line == format!("::add-mask::{REQUEST_TOKEN}")).unwrap();
    assert!(mask < first);
    assert!(run.stdout.contains(&format!("::add-mask::{JWT}\n")), "{}", run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_request_is_one_error_with_its_cause() {
    let stand = Stand::new().await;
    let (address, asked) = token_endpoint("403 Forbidden", "{\"message\":\"not allowed\"}".to_owned()).await;
    let run = oidc(action(&stand), &address).run().await;
    assert_eq!(run.status, 1, "{}", run.stdout);
    assert!(run.stdout.contains("::error title=ecr-push::") && run.stdout.contains("403"), "{}", run.stdout);
    assert!(!shown(&run).contains(REQUEST_TOKEN) && !run.stdout.contains("audience=sts"), "{}", run.stdout);
    assert_eq!(asked.lock().unwrap().len(), 1, "a refusal is not tried again");
    assert!(stand.server.requests().is_empty() && outputs(&stand).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_refuses_names_what_it_would_have_to_trust() {
    let sts = Sts { refuse: Some(("AccessDenied".into(), "Not authorized".into())), ..Sts::default() };
    let stand = Stand::with(Config { sts, ..Config::default() }).await;
    let (address, _) = token_endpoint("200 OK", format!("{{\"value\":\"{JWT}\"}}")).await;
    let run = oidc(action(&stand), &address).run().await;
    assert_eq!(run.status, 1, "{}", run.stdout);
    let told = shown(&run);
    for text in ["AccessDenied", "https://token.actions.githubusercontent.com", "sts.amazonaws.com", "repo:o/r:ref"] {
        assert!(told.contains(text), "{text}: {told}");
    }
    assert!(!told.contains(JWT));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_inputs_are_refused_by_their_name_in_the_action() {
    let stand = Stand::new().await;
    for (name, value, says) in [
        ("INPUT_IMAGE", "", "Input required and not supplied: image"),
        ("INPUT_REPOSITORY", "", "Input required and not supplied: repository"),
        ("INPUT_CREATE-REPOSITORY", "yes", "`create-repository` is `yes`"),
        ("INPUT_TAGS", "a+b", "did you mean `a-b`?"),
        ("INPUT_AWS-REGION", "useast", "useast"),
        ("INPUT_PLATFORM", "linux/", "linux/"),
    ] {
        let run = with_keys(action(&stand)).env(name, value).run().await;
        assert_eq!(run.status, 2, "{name}: {}", run.stdout);
        assert!(run.stdout.contains("::error title=ecr-push::") && run.stdout.contains(says), "{}", run.stdout);
    }
    for seconds in ["899", "43201", "an hour"] {
        let program = oidc(action(&stand), "https://127.0.0.1:1/").env("INPUT_ROLE-DURATION-SECONDS", seconds);
        assert_eq!(program.run().await.status, 2, "{seconds}");
        let alone = with_keys(action(&stand)).env("INPUT_ROLE-DURATION-SECONDS", seconds);
        assert_eq!(alone.run().await.status, 2, "{seconds}");
    }
    for half in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        let run = oidc(action(&stand), "https://127.0.0.1:1/").env(half, "half-of-a-pair").run().await;
        assert!(run.status == 2 && run.stdout.contains(&format!("{half} is set and ")), "{}", run.stdout);
    }
    assert!(stand.server.requests().is_empty());
    let run = with_keys(action(&stand)).env("INPUT_REPOSITORY", "team/nope").run().await;
    assert!(run.status == 1 && run.stdout.contains("`create-repository: true`"), "{}", run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_any_system_is_taken_from_a_variable() {
    let stand = Stand::new().await;
    let words = format!("push {} -r {APP} -t v1 --region us-east-1 --web-identity-token-env AWS_JWT", two());
    let run = stand.bare(&words).env("AWS_JWT", JWT).env("AWS_ROLE_ARN", ROLE).run().await.succeeded();
    assert_eq!(stand.principal(), "arn:aws:sts::123456789012:assumed-role/pusher/ecr-push");
    run.hides(&[JWT]);
    run.says(&["issuer", "repo:o/r:ref:refs/heads/main"]);
    let refused = Stand::new().await;
    let empty = refused.bare(&words).env("AWS_JWT", " ").env("AWS_ROLE_ARN", ROLE).run().await;
    assert!(empty.failed(2).contains("AWS_JWT"));
    let no_role = refused.bare(&words).env("AWS_JWT", JWT).run().await;
    no_role.failed(2);
    no_role.says(&["--role-arn"]);
    assert!(refused.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_the_right_to_an_identity_token_says_which_permission_is_missing() {
    let stand = Stand::new().await;
    let run = action(&stand).env("INPUT_ROLE-TO-ASSUME", ROLE).run().await;
    assert_eq!(run.status, 1, "{}", run.stdout);
    let annotation = run.stdout.lines().find(|line| line.starts_with("::error")).unwrap();
    assert!(annotation.contains("`permissions: id-token: write`"), "{annotation}");
    // With the keys of the job there is nothing to be said of it.
    let run = with_keys(action(&stand)).env("INPUT_ROLE-TO-ASSUME", ROLE).run().await.succeeded();
    assert!(!run.stdout.contains("id-token"), "{}", run.stdout);
    // What a role needs is told if there is none.
    let run = with_keys(action(&stand)).env("INPUT_ROLE-SESSION-NAME", "x-1").run().await.succeeded();
    assert!(run.stdout.contains("`role-session-name` is left out"), "{}", run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_place_of_its_variables_name_is_not_shown() {
    let stand = Stand::new().await;
    for name in [JWT, "", "1A", "A-B"] {
        let program = stand.bare(&format!("push {} -r {APP} --region us-east-1 --role-arn {ROLE}", two()));
        let run = program.arg("--web-identity-token-env").arg(name).run().await;
        run.failed(2);
        run.hides(&[JWT]);
    }
}
