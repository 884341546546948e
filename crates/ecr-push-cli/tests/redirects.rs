//! Credentials go to one place. A registry that sends requests or bytes elsewhere, or somebody on the way who does, gets an error.
#![cfg(unix)]

mod common;

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::desk::{Asked, Desk, Reply};
use common::{APP, Program, Run, Stand, two};

/// What no answer and no log may show.
const MARK: &str = "X-Amz-Signature=0123456789abcdef";

/// A registry that answers `reply` to some requests, and lets the server answer the others. The server's own login is in docker's config.
async fn registry(stand: &Stand, reply: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> (Desk, Program) {
    let server = stand.server.address();
    let desk = Desk::start(move |asked, _| match asked.header("authorization") {
        // The challenge comes first.
        Some(_) => reply(asked).unwrap_or(Reply::Pass(server)),
        None => Reply::Pass(server),
    })
    .await;
    let host = desk.url().replace("http://", "");
    let auth = stand.server.authorization_token("ci");
    let config = serde_json::json!({ "auths": { &host: { "auth": auth } } });
    stand.file(".docker/config.json", config.to_string());
    let words = format!("push {} --to {host}/{APP} -t v1 -v --retry-budget 1s", two());
    (desk, Program::new(&words).env("HOME", stand.folder.path()).env("TMPDIR", stand.folder.path()))
}

fn with_location(status: u16, location: &str) -> Reply {
    // The test ends, and with it what is kept for it.
    Reply::Head(status, Box::leak(format!("Location: {location}\r\n").into_boxed_str()))
}

/// Another place, which writes down what it is asked.
async fn elsewhere() -> Desk {
    Desk::start(|_, _| Reply::Say(200, "{}".to_owned())).await
}

#[track_caller]
fn untouched(case: &str, elsewhere: &Desk, run: &Run, login: &str) {
    assert!(elsewhere.asked().is_empty(), "{case}: {:?}", elsewhere.asked());
    run.hides(&[login, "0123456789abcdef", &BASE64_STANDARD.encode(login)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_follows_a_redirect_with_or_without_its_credential() {
    let steps = [
        ("check blob", "HEAD", "/blobs/"),
        ("start upload", "POST", "/blobs/uploads/"),
        ("send blob", "PUT", "/blobs/uploads/"),
        ("read manifest", "GET", "/manifests/"),
        ("put manifest", "PUT", "/manifests/"),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for (step, method, path) in steps {
        tasks.spawn(async move {
            for status in [301, 302, 303, 307, 308] {
                let (stand, other) = (Stand::new().await, elsewhere().await);
                let target = Arc::new(format!("{}/v2/x?{MARK}", other.url()));
                let hits = Arc::new(std::sync::atomic::AtomicUsize::new(0));
                let (counter, location) = (Arc::clone(&hits), Arc::clone(&target));
                let (_desk, program) = registry(&stand, move |asked| {
                    let is_step = asked.method == method && asked.path.contains(path);
                    is_step.then(|| {
                        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        with_location(status, &location)
                    })
                })
                .await;
                let run = program.run().await;
                let case = format!("{step}, {status}");
                assert!(hits.load(std::sync::atomic::Ordering::Relaxed) > 0, "{case} was never asked: {}", run.stderr);
                // Questions may be left unanswered; what must be done is not done.
                let must = matches!(step, "start upload" | "send blob" | "put manifest");
                assert_eq!(run.status, i32::from(must || run.status != 0), "{case}: {}", run.stderr);
                if must {
                    assert_eq!(stand.tag("v1"), None, "{case}");
                }
                assert!(!run.stderr.contains("panicked"), "{case}: {}", run.stderr);
                untouched(&case, &other, &run, &stand.server.authorization_token("ci"));
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_to_the_registry_and_to_no_place_it_names() {
    let other = Arc::new(elsewhere().await);
    let host = other.url().replace("http://", "");
    let port = host.split(':').nth(1).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    // `SELF` is the registry itself.
    for (location, says) in [
        (format!("http://{host}/v2/x/blobs/uploads/1?{MARK}"), "the registry wants the bytes at another place"),
        (format!("//{host}/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("\\\\{host}\\upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("/\\{host}/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("http:\\\\{host}/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("http://SELF@{host}/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("http://localhost:{port}/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("http://127.0.0.1/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("https://SELF/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("ftp://SELF/upload?{MARK}"), "the registry wants the bytes at another place"),
        (format!("file:///etc/passwd?{MARK}"), "the registry wants the bytes at another place"),
        (format!("data:text/plain,{MARK}"), "the registry wants the bytes at another place"),
        (format!("javascript:{MARK}"), "the registry wants the bytes at another place"),
        (format!("http://user:{MARK}@SELF/upload"), "with a user in it"),
        (format!("http://user@SELF/upload?{MARK}"), "with a user in it"),
        (format!("http://[{MARK}"), "no URL"),
        (format!("http://:80/{MARK}"), "no URL"),
    ] {
        let other = Arc::clone(&other);
        tasks.spawn(async move {
            let stand = Stand::new().await;
            let named = location.clone();
            let (desk, program) = registry(&stand, move |asked| {
                let own = asked.header("host").unwrap_or_default();
                (asked.method == "POST").then(|| with_location(202, &named.replace("SELF", own)))
            })
            .await;
            let run = program.run().await;
            assert!(run.failed(1).contains(says), "{location}: {}", run.stderr);
            untouched(&location, &other, &run, &stand.server.authorization_token("ci"));
            assert!(!desk.asked().iter().any(|asked| asked.method == "PUT"), "{location}: {:?}", desk.asked());
            assert_eq!(stand.tag("v1"), None, "{location}");
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_cannot_add_a_header_or_a_request() {
    let stand = Stand::new().await;
    let (desk, program) = registry(&stand, |asked| {
        let location = "/v2/x/blobs/uploads/1%0d%0aX-Evil:%20yes%0d%0a%0d%0aPUT%20/evil?a=%0D%0AX-Evil:1\t b";
        (asked.method == "POST").then(|| with_location(202, location))
    })
    .await;
    program.run().await.failed(1);
    let puts: Vec<Asked> = desk.asked().into_iter().filter(|asked| asked.method == "PUT").collect();
    assert!(!puts.is_empty());
    for put in puts {
        assert!(put.path.starts_with("/v2/x/blobs/uploads/1%0d%0aX-Evil"), "{}", put.head);
        assert!(put.header("x-evil").is_none() && put.head.matches("HTTP/1.1").count() == 1, "{}", put.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_that_redirects_gets_the_login_once_and_nobody_else_does() {
    for status in [301, 302, 307, 308] {
        let (stand, other) = (Stand::new().await, elsewhere().await);
        let target = format!("{}/token?{MARK}", other.url());
        let tokens = Desk::start(move |_, _| with_location(status, &target)).await;
        let head = format!("WWW-Authenticate: Bearer realm=\"{}/token\",service=\"s\"\r\n", tokens.url());
        let head: &'static str = Box::leak(head.into_boxed_str());
        let registry = Desk::start(move |_, _| Reply::Head(401, head)).await;
        let host = registry.url().replace("http://", "");
        for login in [
            serde_json::json!({ "auth": "Y2k6cmVnaXN0cnktZ2VoZWlt" }),
            serde_json::json!({ "identitytoken": "registry-geheim" }),
        ] {
            stand.file(".docker/config.json", serde_json::json!({ "auths": { &host: login } }).to_string());
            let words = format!("push {} --to {host}/{APP} -t v1 -v --retry-budget 1s", two());
            let run = Program::new(&words).env("HOME", stand.folder.path()).run().await;
            run.failed(1);
            untouched("a token server", &other, &run, "registry-geheim");
            run.hides(&["Y2k6cmVnaXN0cnktZ2VoZWlt"]);
        }
        assert!(!tokens.asked().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_without_tls_gets_no_login() {
    let stand = Stand::new().await;
    for realm in ["http://tokens.example/token", "ftp://tokens.example/", "file:///etc/passwd", "tokens", ""] {
        let head = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n");
        let head: &'static str = Box::leak(head.into_boxed_str());
        let registry = Desk::start(move |_, _| Reply::Head(401, head)).await;
        let host = registry.url().replace("http://", "");
        let config = serde_json::json!({ "auths": { &host: { "auth": "Y2k6cmVnaXN0cnktZ2VoZWlt" } } });
        stand.file(".docker/config.json", config.to_string());
        let words = format!("push {} --to {host}/{APP} -t v1 -v --retry-budget 1s", two());
        let run = Program::new(&words).env("HOME", stand.folder.path()).run().await;
        let sentence = run.failed(1);
        assert!(sentence.contains("token server"), "{realm}: {sentence}");
    }
}

/// The AWS calls and the request for an identity token.
#[tokio::test(flavor = "multi_thread")]
async fn aws_and_the_identity_provider_are_not_followed_elsewhere() {
    for status in [301, 302, 307, 308] {
        let (stand, other) = (Stand::new().await, elsewhere().await);
        let target = format!("{}/x?{MARK}", other.url());
        let redirecting = Desk::start(move |_, _| with_location(status, &target)).await;
        let program = || stand.push("-v --retry-budget 1s").env("AWS_SESSION_TOKEN", "session-token-0123456789");
        let api = program().env("AWS_ENDPOINT_URL", redirecting.url()).run().await;
        api.failed(1);
        let role =
            program().env("AWS_ENDPOINT_URL_STS", redirecting.url()).arg("--role-arn=arn:aws:iam::123456789012:role/x");
        let role = role.run().await;
        role.failed(1);
        let action = stand.bare("github-action").env("GITHUB_ACTIONS", "true").env("INPUT_IMAGE", two());
        let action = action.env("INPUT_REPOSITORY", APP).env("INPUT_AWS-REGION", "us-east-1").env("INPUT_TAGS", "v1");
        let action = action.env("INPUT_ROLE-TO-ASSUME", "arn:aws:iam::123456789012:role/x");
        let action = action.env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{}/token", redirecting.url()));
        let action = action.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "request-token-0123456789").run().await;
        assert_eq!(action.status, 1, "{}", action.stdout);
        for run in [&api, &role, &action] {
            untouched(&format!("{status}"), &other, run, "0123456789abcdef");
        }
        assert!(redirecting.asked().len() >= 3);
    }
}
