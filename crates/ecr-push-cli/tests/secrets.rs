//! No secret is in what the program writes, in what its children get, or in a file that it leaves, whatever way it came in and however
//! the push ends. What the task of Azure Pipelines does with secrets is in `azure_secrets.rs`.
#![cfg(unix)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use common::desk::{Asked, Desk, Reply};
use common::{APP, KEY, Program, Run, SECRET, Stand, closed_port, files, percent_encoded, push_words, two};
use local_ecr::{Answer, Config, Fault, FaultAction, Imds, Key, Sts};

/// Every secret that a run below is given; each has a form of its own.
const SESSION: &str = "session-token/of+the=host//0123456789==";
const WRONG_SECRET: &str = "wrong/secret+key=0123456789abcdefghijklm";
const PROXY_PASSWORD: &str = "pr%xy:p@ss/w#rd 0123";
const LOGIN_PASSWORD: &str = "login-pass:word/0123456789";
const IDENTITY: &str = "identity.token-of/docker+0123456789";
const BEARER: &str = "short.bearer_token~0123";
const CONTAINER_TOKEN: &str = "password-of-the-container-endpoint";
/// The address of a container's credentials, as some services have it: who knows it may have them.
const CONTAINER_PATH: &str = "container-path-0f3a9b7c5d1e";
const CONTAINER_QUERY: &str = "container+query/0123456789ab";
const REQUEST_TOKEN: &str = "runner-request-token-0123456789";
const USER_PASSWORD: &str = "user-info-in-an-address";
const SIGNATURE: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const STATE: &str = "state-of-an-upload-0123456789";
/// Issuer, audience and subject are told; the rest is not.
const JWT: &str =
    "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwic3ViIjoieCIsImF1ZCI6InkifQ.c2lnbmF0dXJlLW9m";
const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";

/// All of them, in every form in which they may be written.
fn planted(stand: &Stand) -> Vec<String> {
    let given = [
        SECRET,
        SESSION,
        WRONG_SECRET,
        PROXY_PASSWORD,
        LOGIN_PASSWORD,
        IDENTITY,
        BEARER,
        CONTAINER_TOKEN,
        CONTAINER_PATH,
        CONTAINER_QUERY,
        REQUEST_TOKEN,
        USER_PASSWORD,
        SIGNATURE,
        STATE,
        JWT,
    ];
    let pairs = [format!("builder:{PROXY_PASSWORD}"), format!("ci:{LOGIN_PASSWORD}")];
    // What the stand-in gives out: the token, and how the password in it starts.
    let tokens = [stand.server.authorization_token("tester"), "bG9jYWwtZWNy".to_owned(), "QVdTOmJH".to_owned()];
    let texts: Vec<String> = given.map(str::to_owned).into_iter().chain(pairs).collect();
    let mut all: Vec<String> = JWT.split('.').skip(1).map(str::to_owned).chain(tokens).collect();
    for text in &texts {
        all.push(text.clone());
        all.push(BASE64_STANDARD_NO_PAD.encode(text));
        all.push(BASE64_URL_SAFE_NO_PAD.encode(text));
        all.push(url::form_urlencoded::byte_serialize(text.as_bytes()).collect());
        all.push(percent_encoded(text));
        all.push(percent_encoded(text).to_lowercase());
        all.push(text.bytes().map(|byte| format!("{byte:02x}")).collect());
        all.push(text.bytes().map(|byte| format!("{byte:02X}")).collect());
        all.push(serde_json::to_string(text).unwrap().trim_matches('"').to_owned());
    }
    all
}

#[track_caller]
fn hides(case: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{case}: `{secret}` is in:\n{text}");
    }
}

/// Runs the program with everything that makes it talk, and looks for every secret in all that it wrote.
async fn run(case: &str, stand: &Stand, program: Program) -> Run {
    let secrets = planted(stand);
    let before = files(stand.folder.path());
    let program = program.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").env("AWS_LOG", "trace");
    let run = program.run().await;
    assert!(!run.stderr.contains("panicked") && !run.stderr.contains("fault of ecr-push"), "{case}: {}", run.stderr);
    // The one line that must have it: the runner hides what stands there.
    let shown = run.stdout.lines().filter(|line| !line.starts_with("::add-mask::")).collect::<Vec<_>>().join("\n");
    hides(case, &shown, &secrets);
    hides(case, &run.stderr, &secrets);
    for (path, bytes) in files(stand.folder.path()) {
        if before.get(&path) != Some(&bytes) {
            hides(&format!("{case}: {}", path.display()), &String::from_utf8_lossy(&bytes), &secrets);
        }
    }
    run
}

#[track_caller]
fn failed(run: &Run) {
    assert!(run.status == 1 || run.status == 2, "{}{}", run.stdout, run.stderr);
}

/// Says back what it was sent, in every form in which services say something.
fn said_back(asked: &Asked) -> String {
    let said = format!(
        "you sent {} and {} to {}, and the session is /v2/x/blobs/uploads/1?_state={STATE} or https://bucket.example/x?X-Amz-Signature={SIGNATURE}",
        asked.head.replace(['\r', '\n', '"', '\\'], " "),
        asked.body.replace(['"', '\\'], " "),
        asked.path
    );
    let errors = [serde_json::json!({ "code": "DENIED", "message": said })];
    serde_json::json!({ "message": said, "__type": "AccessDeniedException", "errors": errors, "code": "X" }).to_string()
}

async fn echo(status: u16) -> Desk {
    Desk::start(move |asked, _| Reply::Say(status, said_back(asked))).await
}

/// Where a container's credentials are, at this server.
fn address_of(server: &str) -> String {
    format!("{server}/{CONTAINER_PATH}?token={CONTAINER_QUERY}")
}

async fn stand() -> Stand {
    let key = Key { access_key_id: "ASIAGIVEN".into(), secret_access_key: SECRET.into(), user: "given".into() };
    Stand::strict(Config { imds: Some(Imds::default()), keys: vec![key], ..Config::default() }).await
}

/// The program with these words and keys, as talkative as it can be.
fn push(stand: &Stand, words: &str) -> Program {
    stand.push(&format!("-v {words}")).env("AWS_SESSION_TOKEN", SESSION)
}

fn bare(stand: &Stand) -> Program {
    stand.bare(&push_words("-v")).env("AWS_REGION", "us-east-1")
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_succeed_show_no_secret() {
    let stand = stand().await;
    for words in
        ["", "-o json", "--dry-run -o json", "--progress bars", "--role-arn arn:aws:iam::123456789012:role/pusher"]
    {
        run(words, &stand, push(&stand, words).arg("-t").arg(format!("v{}", words.len()))).await.succeeded();
    }
    for system in ["azure", "github", "gitlab", "buildkite"] {
        run(system, &stand, push(&stand, "--ci").arg(system)).await.succeeded();
    }
    let out = |name: &str| format!("--output-file={}", stand.folder.path().join(name).display());
    let program =
        ["a.json", "b.env", "c.properties"].iter().fold(push(&stand, ""), |program, name| program.arg(out(name)));
    run("output files", &stand, program).await.succeeded();
    assert!(stand.folder.path().join("c.properties").exists());

    let profile =
        format!("[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\naws_session_token={SESSION}\n");
    stand.file(".aws/credentials", profile);
    run("profile", &stand, bare(&stand)).await.succeeded();
    let metadata = bare(&stand).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap());
    std::fs::remove_file(stand.folder.path().join(".aws/credentials")).unwrap();
    run("instance metadata", &stand, metadata).await.succeeded();
    let keys = serde_json::json!({
        "AccessKeyId": "ASIAGIVEN", "SecretAccessKey": SECRET, "Token": SESSION, "Expiration": "2037-01-01T00:00:00Z"
    });
    let container = Desk::start(move |_, _| Reply::Say(200, keys.to_string())).await;
    let of_container = bare(&stand)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", address_of(&container.url()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
    run("container", &stand, of_container).await.succeeded();
    let file = stand.file("token", JWT);
    let web = bare(&stand).env("AWS_WEB_IDENTITY_TOKEN_FILE", file).env("AWS_ROLE_ARN", ROLE);
    run("token in a file", &stand, web).await.succeeded();
    let web = bare(&stand).arg("--web-identity-token-env=TOKEN").env("TOKEN", JWT).env("AWS_ROLE_ARN", ROLE);
    run("token in a variable", &stand, web).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_show_no_secret() {
    let stand = stand().await;
    let wrong = push(&stand, "").env("AWS_SECRET_ACCESS_KEY", WRONG_SECRET);
    failed(&run("a wrong secret key", &stand, wrong).await);
    failed(&run("an unknown key", &stand, push(&stand, "").env("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")).await);
    failed(&run("half a pair", &stand, push(&stand, "").without("AWS_ACCESS_KEY_ID")).await);
    let pasted = push(&stand, "").env("AWS_SESSION_TOKEN", format!("{SESSION}\nx"));
    failed(&run("a token with a line break", &stand, pasted).await);
    let name = push(&stand, "").without("AWS_ACCESS_KEY_ID").arg(format!("--web-identity-token-env={JWT}"));
    failed(&run("a token in the place of its name", &stand, name).await);
    failed(
        &run("a damaged profile", &stand, {
            stand.file(".aws/credentials", format!("[default]\naws_access_key_id={KEY}\n  {SECRET}\n= {SESSION}\n"));
            bare(&stand)
        })
        .await,
    );
    std::fs::remove_file(stand.folder.path().join(".aws/credentials")).unwrap();
    let ca = stand.file("ca.pem", format!("-----BEGIN CERTIFICATE-----\n{SECRET}\n-----END CERTIFICATE-----\n"));
    failed(&run("a damaged CA file", &stand, push(&stand, "--ca-bundle").arg(ca)).await);

    // Services that say back what they were sent.
    for status in [400, 401, 403, 500] {
        let echo = echo(status).await;
        let program =
            |words: &str| push(&stand, &format!("--retry-budget 1s {words}")).env("AWS_ENDPOINT_URL", echo.url());
        failed(&run("the API says it back", &stand, program("")).await);
        failed(&run("STS says it back", &stand, program("--role-arn arn:aws:iam::123456789012:role/pusher")).await);
        assert!(echo.asked().iter().any(|asked| asked.head.contains(SESSION)), "nothing was sent");
    }
    let echo = echo(403).await;
    let bare = || bare(&stand).env("AWS_ENDPOINT_URL_STS", echo.url()).env("AWS_ROLE_ARN", ROLE);
    let variable = bare().arg("--web-identity-token-env=TOKEN").env("TOKEN", JWT);
    failed(&run("STS says the token back", &stand, variable).await);
    let file = stand.file("token", JWT);
    failed(&run("STS says the file back", &stand, bare().env("AWS_WEB_IDENTITY_TOKEN_FILE", file)).await);
    let away = format!("http://127.0.0.1:{}", closed_port());
    let named = "http://no-such-host.invalid".to_owned();
    for base in [echo.url(), away, named, "http://192.0.2.1".to_owned(), "no address".to_owned(), String::new()] {
        let container = bare()
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", address_of(&base))
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
        failed(&run(&format!("the container's endpoint {base}"), &stand, container).await);
    }
    let damaged = bare()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", address_of(&echo.url()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", format!("{CONTAINER_TOKEN}\nx"));
    failed(&run("the container's token has two lines", &stand, damaged).await);
    for relative in [format!("/{CONTAINER_PATH}?token={CONTAINER_QUERY}"), format!("no path {CONTAINER_PATH}")] {
        let container = bare().env("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", relative);
        failed(&run("the container's path", &stand, container).await);
    }
    let refuse = Some(("InvalidIdentityToken".to_owned(), format!("bad token {JWT}")));
    let refusing = Stand::with(Config { sts: Sts { refuse, ..Sts::default() }, ..Config::default() }).await;
    let web = refusing.bare(&push_words("-v")).env("AWS_REGION", "us-east-1").env("AWS_ROLE_ARN", ROLE);
    let web = web.arg("--web-identity-token-env=TOKEN").env("TOKEN", JWT);
    failed(&run("STS names the token", &refusing, web).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_back_its_password_is_not_relayed() {
    for status in [400, 401, 403, 429, 500] {
        let stand = stand().await;
        let echo = echo(status).await;
        let token = stand.server.authorization_token("tester");
        let data = serde_json::json!({ "authorizationData": [{
            "authorizationToken": token, "expiresAt": 4_102_444_800_u64, "proxyEndpoint": echo.url()
        }] });
        let answer = Answer { message: data.to_string(), ..Answer::status(200) };
        stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("GetAuthorizationToken"));
        failed(&run(&format!("status {status}"), &stand, push(&stand, "--retry-budget 1s")).await);
        assert!(echo.asked().iter().any(|asked| asked.head.contains(&token)), "the token was not sent");
    }
}

/// A push to a registry that is not ECR, with a config of docker's.
fn push_to(stand: &Stand, registry: &Desk, config: serde_json::Value) -> Program {
    stand.file(".docker/config.json", config.to_string());
    let host = registry.url().replace("http://", "");
    let words = format!("push {} --to {host}/{APP} -t v1 -v --retry-budget 1s", two());
    Program::new(&words).env("HOME", stand.folder.path()).env("TMPDIR", stand.folder.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_other_registries_are_not_shown() {
    let stand = stand().await;
    let auth = BASE64_STANDARD.encode(format!("ci:{LOGIN_PASSWORD}"));
    let login = |registry: &Desk, login: serde_json::Value| serde_json::json!({ "auths": { registry.url().replace("http://", ""): login } });
    let logins = [
        serde_json::json!({ "auth": auth }),
        serde_json::json!({ "username": "ci", "password": LOGIN_PASSWORD }),
        serde_json::json!({ "identitytoken": IDENTITY }),
    ];
    // Basic: asked for, and said back. The identity token is for a token server only.
    let challenge = |asked: &Asked, scheme: &'static str| match asked.header("authorization") {
        None => Reply::Head(401, scheme),
        Some(_) => Reply::Say(403, said_back(asked)),
    };
    let basic = Desk::start(move |asked, _| challenge(asked, "WWW-Authenticate: Basic realm=\"x\"\r\n")).await;
    for given in &logins[..2] {
        failed(&run("Basic", &stand, push_to(&stand, &basic, login(&basic, given.clone()))).await);
    }
    assert!(basic.asked().iter().any(|asked| asked.head.contains(&auth)), "the login was not sent");
    // A token server that says back the login, and one that gives a token which the registry says back.
    for gives in [false, true] {
        let tokens = Desk::start(move |asked, _| match gives {
            true => Reply::Say(200, serde_json::json!({ "token": BEARER, "expires_in": 300 }).to_string()),
            false => Reply::Say(403, said_back(asked)),
        })
        .await;
        let head = format!("WWW-Authenticate: Bearer realm=\"{}/token\",service=\"s\"\r\n", tokens.url());
        let head: &'static str = Box::leak(head.into_boxed_str());
        let registry = Desk::start(move |asked, _| challenge(asked, head)).await;
        for given in &logins {
            failed(&run("Bearer", &stand, push_to(&stand, &registry, login(&registry, given.clone()))).await);
        }
        let sent = tokens.asked();
        assert!(sent.iter().any(|asked| asked.body.contains("refresh_token=")), "the identity token was not sent");
        let sent = registry.asked();
        assert_eq!(gives, sent.iter().any(|asked| asked.head.contains(BEARER)), "the token goes to the registry");
    }
    // Files that are none, with the secret where it does not belong.
    let host = basic.url().replace("http://", "");
    for damaged in [
        serde_json::json!({ "auths": { &host: LOGIN_PASSWORD } }),
        serde_json::json!({ "auths": LOGIN_PASSWORD }),
        serde_json::json!({ "auths": { &host: { "auth": LOGIN_PASSWORD } } }),
        serde_json::json!({ "auths": { &host: { "auth": BASE64_STANDARD.encode(LOGIN_PASSWORD.replace(':', "-")) } } }),
    ] {
        failed(&run("a damaged config", &stand, push_to(&stand, &basic, damaged)).await);
    }
    // A helper that fails with its secret on both streams, and one that works.
    for (script, works) in [
        ("echo 'x LOGIN'; echo 'y LOGIN' >&2; exit 1", false),
        ("echo '{\"Username\":\"ci\",\"Secret\":\"LOGIN\"}'", true),
    ] {
        let script = format!("#!/bin/sh\n{}\n", script.replace("LOGIN", LOGIN_PASSWORD));
        let helper = stand.file("bin/docker-credential-test", script);
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = push_to(&stand, &basic, serde_json::json!({ "credsStore": "test" }));
        let path = format!("{}:/usr/bin:/bin", helper.parent().unwrap().display());
        let logins = || basic.asked().iter().filter(|asked| asked.header("authorization").is_some()).count();
        let before = logins();
        failed(&run("a helper", &stand, program.env("PATH", path)).await);
        assert_eq!(works, logins() > before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_in_addresses_are_not_shown() {
    let stand = stand().await;
    let password = percent_encoded(PROXY_PASSWORD);
    let away = format!("127.0.0.1:{}", closed_port());
    let refusing = Desk::start(|_, _| Reply::Head(407, "Proxy-Authenticate: Basic\r\n")).await;
    let echo = echo(502).await;
    let aside = |desk: &Desk| desk.url().replace("http://", "");
    let real = || push(&stand, "--retry-budget 1s").without("AWS_ENDPOINT_URL");
    for (case, proxy) in [
        ("a proxy that is gone", format!("http://builder:{password}@{away}")),
        ("a proxy that refuses", format!("http://builder:{password}@{}", aside(&refusing))),
        ("a proxy that says it back", format!("http://builder:{password}@{}", aside(&echo))),
        ("no proxy's address", format!("http://builder:{PROXY_PASSWORD}@h:1")),
        ("no proxy's scheme", format!("socks5://builder:{password}@h:1")),
        ("no proxy's scheme, not escaped", format!("ftp://builder:{PROXY_PASSWORD}@h:1")),
    ] {
        failed(&run(case, &stand, real().env("HTTPS_PROXY", &proxy).env("HTTP_PROXY", &proxy)).await);
        let words = format!("push {} --to registry.example/{APP} --plain-http -v --retry-budget 1s", two());
        let plain = Program::new(&words).env("HOME", stand.folder.path()).env("http_proxy", &proxy);
        failed(&run(&format!("{case}, plain HTTP"), &stand, plain).await);
    }
    let login = BASE64_STANDARD.encode(format!("builder:{PROXY_PASSWORD}"));
    assert!(echo.asked().iter().any(|asked| asked.head.contains(&login)), "the proxy's login was not sent");

    let endpoint = format!("http://user:{USER_PASSWORD}@{away}");
    failed(&run("an endpoint", &stand, push(&stand, "--retry-budget 1s").env("AWS_ENDPOINT_URL", &endpoint)).await);
    failed(
        &run("an endpoint of a flag", &stand, push(&stand, "--retry-budget 1s --endpoint-url").arg(&endpoint)).await,
    );
    for host in ["tcp", "http", "ssh", "nonsense"].map(|scheme| format!("{scheme}://user:{USER_PASSWORD}@{away}")) {
        let program = stand.program(&format!("push app --repository {APP} -v")).env("DOCKER_HOST", &host);
        failed(&run(&host, &stand, program.env("PATH", "/nowhere")).await);
    }
    let to = format!("user:{USER_PASSWORD}@{away}/{APP}");
    for words in [format!("--to {to}"), format!("--to https://{to}"), format!("--repository https://{to}")] {
        let program = stand.program(&format!("push {} -v {words}", two()));
        failed(&run(&words, &stand, program).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn github_s_action_shows_a_secret_only_to_have_it_hidden() {
    let stand = stand().await;
    let action = |stand: &Stand| {
        let program = stand.bare("github-action").env("GITHUB_ACTIONS", "true").env("RUNNER_DEBUG", "1");
        let program = ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"]
            .iter()
            .fold(program, |program, name| program.env(name, stand.folder.path().join(name)));
        program
            .env("INPUT_IMAGE", two())
            .env("INPUT_REPOSITORY", APP)
            .env("INPUT_AWS-REGION", "us-east-1")
            .env("INPUT_TAGS", "v1")
    };
    let keys = |program: Program| {
        let program = program.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        program.env("AWS_SESSION_TOKEN", SESSION)
    };
    let pushed = run("keys", &stand, keys(action(&stand))).await.succeeded();
    assert!(pushed.stdout.contains(&format!("::add-mask::{SESSION}\n")), "{}", pushed.stdout);
    let gives = Desk::start(|_, _| Reply::Say(200, serde_json::json!({ "value": JWT }).to_string())).await;
    let echo = echo(403).await;
    let oidc = |url: String| {
        let program =
            action(&stand).env("INPUT_ROLE-TO-ASSUME", ROLE).env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN);
        program.env("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{url}/token?version=2"))
    };
    run("a role", &stand, oidc(gives.url())).await.succeeded();
    failed(&run("the token's giver says it back", &stand, oidc(echo.url())).await);
    failed(&run("STS says it back", &stand, oidc(gives.url()).env("AWS_ENDPOINT_URL_STS", echo.url())).await);
    failed(&run("the API says it back", &stand, keys(action(&stand)).env("AWS_ENDPOINT_URL", echo.url())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_that_fails_is_heard_in_one_harmless_line() {
    let stand = stand().await;
    for (script, says) in [
        ("echo '+ token=SECRET' >&2; echo 'the vault is sealed' >&2; exit 3", "the vault is sealed"),
        ("echo 'no login with SECRET' >&2; exit 1", "no login with ***"),
        ("echo SECRET; echo SECRET >&2; exit 1", "***"),
        ("exit 1", "nothing"),
        ("echo '{\"Version\":1,\"SecretAccessKey\":\"SECRET\"}'", "AccessKeyId"),
        (
            "echo '{\"Version\":1,\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"SECRET\",\"Expiration\":\"SECRET\"}'",
            "credentials",
        ),
        ("echo SECRET", "credentials"),
    ] {
        let process = stand.file("process", format!("#!/bin/sh\n{}\n", script.replace("SECRET", WRONG_SECRET)));
        std::fs::set_permissions(&process, std::fs::Permissions::from_mode(0o755)).unwrap();
        stand.file(".aws/config", format!("[default]\ncredential_process = {}\n", process.display()));
        let failure = run(script, &stand, bare(&stand)).await;
        failed(&failure);
        let sentence = failure.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(sentence.contains(says), "{script}: {sentence}");
    }
}

/// A program that writes down what it was given, and then answers.
fn witness(stand: &Stand, name: &str, answer: &str) -> (PathBuf, PathBuf) {
    let seen = stand.folder.path().join(format!("seen-by-{name}"));
    let script = format!(
        "#!/bin/sh\ncat /proc/$$/cmdline /proc/$PPID/cmdline /proc/$$/environ > {}\n{answer}\n",
        seen.display()
    );
    let path = stand.file(&format!("bin/{name}"), script);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (path, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_started_get_no_secret_that_is_not_for_them() {
    let stand = stand().await;
    // ssh, beside keys of the job.
    let (ssh, seen) = witness(&stand, "ssh", "exit 255");
    let path = format!("{}:/usr/bin:/bin", ssh.parent().unwrap().display());
    let program = stand.program(&format!("push app --repository {APP} -v")).env("DOCKER_HOST", "ssh://user@host");
    let program = program.env("AWS_SESSION_TOKEN", SESSION).env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN);
    failed(&run("ssh", &stand, program.env("PATH", &path)).await);
    let text = String::from_utf8_lossy(&std::fs::read(&seen).expect("ssh ran")).into_owned();
    assert!(text.contains("HOME=") && text.contains("dial-stdio"), "{text}");
    // What else it does not get is in children.rs.
    assert!(!text.contains(KEY), "{text}");
    hides("ssh", &text, &planted(&stand));

    // A credential process of GitHub's action: nothing of what the runner gave to the action.
    let answer = serde_json::json!({
        "Version": 1, "AccessKeyId": "ASIAGIVEN", "SecretAccessKey": SECRET, "SessionToken": SESSION, "Expiration": "2037-01-01T00:00:00Z"
    });
    let answer = stand.file("answer.json", answer.to_string());
    let (process, seen) = witness(&stand, "process", &format!("cat {}", answer.display()));
    stand.file(".aws/config", format!("[default]\ncredential_process = {}\n", process.display()));
    let program = stand.bare("github-action").env("GITHUB_ACTIONS", "true").env("INPUT_IMAGE", two());
    let program = program.env("INPUT_REPOSITORY", APP).env("INPUT_AWS-REGION", "us-east-1").env("INPUT_TAGS", "v1");
    let program = program.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN).env("ACTIONS_RUNTIME_TOKEN", JWT);
    let program = program.env("PATH", "/usr/bin:/bin");
    run("process", &stand, program).await.succeeded();
    let text = String::from_utf8_lossy(&std::fs::read(&seen).expect("the process ran")).into_owned();
    assert!(text.contains("HOME=") && !text.contains("INPUT_"), "{text}");
    hides("process", &text, &planted(&stand));
}
