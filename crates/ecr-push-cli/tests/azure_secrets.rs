//! No secret of any kind is in what the task writes, in what its children get, or in a file that it leaves, whether it
//! succeeds or fails.
#![cfg(unix)]

mod common;

use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::agent::{Aws, JOB_TOKEN, Job, ROLE, identity_token, token_desk};
use common::desk::{Desk, Reply};
use common::engine::{Quirks, RecordedEngine};
use common::{KEY, Program, SECRET, Stand, closed_port, files, percent_encoded};
use local_ecr::{Answer, Config, Fault, FaultAction, Imds, Key, Sts};

/// Every secret that a run below is given; each has a form of its own.
const CONNECTION_SECRET: &str = "connection/secret+key=0123456789abcdefgh";
const CONNECTION_SESSION: &str = "connection-session-token//0123456789==";
const VARIABLES_SECRET: &str = "variables/secret+key=0123456789abcdefghi";
const VARIABLES_SESSION: &str = "variables-session-token//0123456789==";
const HOST_SESSION: &str = "host-session-token//0123456789==";
const MAPPED_TOKEN: &str = "mapped-job-token-0123456789";
const PROXY_PASSWORD: &str = "pr%xy:p@ss/w#rd 0123";
const CONTAINER_TOKEN: &str = "password-of-the-container-endpoint";
const OTHER_SECRET: &str = "value-of-a-secret-variable-of-somebody-else";

fn all_secrets() -> Vec<String> {
    let given = [
        SECRET,
        CONNECTION_SECRET,
        CONNECTION_SESSION,
        VARIABLES_SECRET,
        VARIABLES_SESSION,
        HOST_SESSION,
        JOB_TOKEN,
        MAPPED_TOKEN,
        PROXY_PASSWORD,
        CONTAINER_TOKEN,
        OTHER_SECRET,
    ];
    let mut all: Vec<String> = given.map(str::to_owned).into();
    all.extend(identity_token().split('.').skip(1).map(str::to_owned));
    // In the forms that they are sent in.
    all.push(percent_encoded(PROXY_PASSWORD));
    all.extend(given.iter().map(|text| BASE64_STANDARD.encode(text)));
    all.push(BASE64_STANDARD.encode(format!("builder:{PROXY_PASSWORD}")));
    // How the registry's tokens and passwords start.
    all.extend(["QVdTOmJH", "bG9jYWwtZWNy"].map(str::to_owned));
    all
}

#[track_caller]
fn hides(case: &str, text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "{case}: `{secret}` is in:\n{text}");
    }
}

/// Runs the task with everything that makes it talk, and looks for every secret in all that it wrote. Answers the job.
async fn run(case: &str, stand: &Stand, task: Program) -> Job {
    let talkative = task
        .input("logRequest", "true")
        .input("logResponse", "true")
        .input("outputVariable", "pushed")
        .variable("System.Debug", "true")
        .env("SECRET_OTHER", OTHER_SECRET)
        .env("RUST_LOG", "trace");
    let before = files(stand.folder.path());
    let running = talkative.start();
    // One that goes on trying is ended: what it says does not change any more.
    let started = std::time::Instant::now();
    while running.is_alive() && started.elapsed() < std::time::Duration::from_secs(30) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if running.stdout.text().contains("trying again in ") {
            running.signal("INT");
            break;
        }
    }
    let job = Job::read(running.finish().await);
    let mut secrets = all_secrets();
    // What was received on the way (keys, tokens, passwords) was hidden, so it is known here.
    secrets.extend(job.hidden().into_iter().map(str::to_owned));
    hides(case, &job.without_masks(), &secrets);
    hides(case, &job.run.stderr, &secrets);
    for (path, bytes) in files(stand.folder.path()) {
        if before.get(&path) != Some(&bytes) {
            hides(&format!("{case}: {}", path.display()), &String::from_utf8_lossy(&bytes), &secrets);
        }
    }
    job
}

/// Asserts that these were hidden before anything else was written.
#[track_caller]
fn hidden_first(job: &Job, secrets: &[&str]) {
    let masks = job.run.stdout.lines().take_while(|line| line.starts_with("##vso[task.setsecret]")).count();
    let first = &job.hidden()[..masks];
    for secret in secrets {
        assert!(first.contains(secret), "`{secret}` is not among {first:?}");
    }
}

const CONNECTION: [(&str, &str); 3] =
    [("username", "AKIACONNECTIONEXAMPLE"), ("password", CONNECTION_SECRET), ("sessionToken", CONNECTION_SESSION)];

/// A server that knows all these keys.
async fn stand() -> Stand {
    let keys = [
        ("AKIACONNECTIONEXAMPLE", CONNECTION_SECRET),
        ("AKIAVARIABLESEXAMPLE", VARIABLES_SECRET),
        ("ASIACONTAINER", VARIABLES_SECRET),
        ("ASIAPROCESS", VARIABLES_SECRET),
    ];
    let key = |(id, secret): (&str, &str)| Key {
        access_key_id: id.to_owned(),
        secret_access_key: secret.to_owned(),
        user: "somebody".to_owned(),
    };
    let config = Config { imds: Some(Imds::default()), keys: keys.map(key).into(), ..Config::default() };
    Stand::strict(config).await
}

fn variables(task: Program) -> Program {
    task.secret_variable("AWS.AccessKeyID", "AKIAVARIABLESEXAMPLE")
        .secret_variable("AWS.SecretAccessKey", VARIABLES_SECRET)
        .secret_variable("AWS.SessionToken", VARIABLES_SESSION)
}

fn with_role() -> Vec<(&'static str, &'static str)> {
    CONNECTION.into_iter().chain([("assumeRoleArn", ROLE)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_with_every_kind_of_credentials_show_no_secret() {
    let stand = stand().await;
    let engine = RecordedEngine::start();
    let desk = token_desk().await;
    let task =
        || stand.task(&engine).env("AWS_SESSION_TOKEN", HOST_SESSION).env("SECRET_SYSTEM_ACCESSTOKEN", MAPPED_TOKEN);

    let job = run("environment", &stand, task()).await.succeeded();
    hidden_first(&job, &[SECRET, HOST_SESSION, MAPPED_TOKEN]);
    let job = run("connection", &stand, task().connection(&CONNECTION)).await.succeeded();
    hidden_first(&job, &[CONNECTION_SECRET, CONNECTION_SESSION]);
    run("connection with a role", &stand, task().connection(&with_role())).await.succeeded();
    run("role of the host", &stand, task().connection(&[("assumeRoleArn", ROLE)])).await.succeeded();
    let job = run("OIDC", &stand, task().oidc(&desk, &[])).await.succeeded();
    assert!(job.hidden().contains(&identity_token().as_str()));
    let job = run("variables", &stand, variables(task())).await.succeeded();
    hidden_first(&job, &[VARIABLES_SECRET, VARIABLES_SESSION]);
    run("variables with a role", &stand, variables(task()).variable("AWS.AssumeRoleArn", ROLE)).await.succeeded();

    let bare = || stand.bare_task(&engine).input("regionName", "us-east-1");
    let metadata = bare().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap());
    run("instance metadata", &stand, metadata).await.succeeded();
    let keys = serde_json::json!({
        "AccessKeyId": "ASIACONTAINER", "SecretAccessKey": VARIABLES_SECRET, "Token": VARIABLES_SESSION,
        "Expiration": "2037-01-01T00:00:00Z"
    });
    let container = Desk::start(move |_, _| Reply::Say(200, keys.to_string())).await;
    let of_container = bare()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/credentials", container.url()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
    run("container", &stand, of_container).await.succeeded();
    let file = stand.file("token", identity_token());
    let web = bare().env("AWS_WEB_IDENTITY_TOKEN_FILE", file).env("AWS_ROLE_ARN", ROLE);
    run("web identity file", &stand, web).await.succeeded();
    let profile = format!(
        "[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\naws_session_token={HOST_SESSION}\n"
    );
    stand.file("home/.aws/credentials", profile);
    run("profile", &stand, bare()).await.succeeded();
    run("removal", &stand, task().input("removeDockerImage", "true")).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_the_task_starts_see_no_secret() {
    let stand = stand().await;
    let engine = RecordedEngine::start();
    let seen = stand.folder.path().join("seen");
    let answer = serde_json::json!({
        "Version": 1, "AccessKeyId": "ASIAPROCESS", "SecretAccessKey": VARIABLES_SECRET, "SessionToken": VARIABLES_SESSION,
        "Expiration": "2037-01-01T00:00:00Z"
    });
    let answer = stand.file("answer.json", answer.to_string());
    let script = format!(
        "#!/bin/sh\ncat /proc/$$/cmdline /proc/$PPID/cmdline /proc/$$/environ > {}\ncat {}\n",
        seen.display(),
        answer.display()
    );
    let script = stand.file("process", script);
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    stand.file("home/.aws/config", format!("[default]\ncredential_process = {}\n", script.display()));
    // A role of the host: its credentials come from the process, and the connection has secrets beside.
    let fields = [("assumeRoleArn", ROLE), ("sessionToken", CONNECTION_SESSION)];
    let task = stand.bare_task(&engine).input("regionName", "us-east-1").connection(&fields);
    let task = task
        .env("SECRET_SYSTEM_ACCESSTOKEN", MAPPED_TOKEN)
        .env("SYSTEM_ACCESSTOKEN", MAPPED_TOKEN)
        .env("SECRET_AGENT_PROXYPASSWORD", PROXY_PASSWORD);
    run("process", &stand, task).await.succeeded();
    let seen = String::from_utf8_lossy(&std::fs::read(&seen).expect("the process ran")).into_owned();
    assert!(seen.contains("/process") && seen.contains("HOME="), "{seen}");
    hides("a child", &seen, &all_secrets());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_through_a_proxy_with_a_password_shows_no_secret() {
    let engine = RecordedEngine::start();
    let aws = Aws::start().await;
    let login = |task: Program| {
        task.variable("Agent.ProxyUsername", "builder").secret_variable("Agent.ProxyPassword", PROXY_PASSWORD)
    };
    let job = run("agent's proxy", &aws.stand, login(aws.task(&engine))).await.succeeded();
    hidden_first(&job, &[PROXY_PASSWORD]);
    assert_eq!(aws.proxy.logins(), [format!("builder:{PROXY_PASSWORD}")]);
    // The environment's.
    let password = percent_encoded(PROXY_PASSWORD);
    let url = format!("http://builder:{password}@{}", aws.proxy.authority());
    run("HTTPS_PROXY", &aws.stand, aws.direct_task(&engine).env("HTTPS_PROXY", url)).await.succeeded();
    // Proxies that do not work, and addresses of proxies that are none.
    let away = format!("127.0.0.1:{}", closed_port());
    for url in [format!("http://{away}"), "not a url".to_owned(), "ftp://proxy:1".to_owned(), "proxy:3128".to_owned()] {
        let task = login(aws.direct_task(&engine)).variable("Agent.ProxyUrl", &url);
        assert_eq!(run(&format!("proxy {url}"), &aws.stand, task).await.completed().0, "Failed");
    }
    for url in [format!("http://builder:{password}@{away}"), format!("socks5://builder:{PROXY_PASSWORD}@h:1")] {
        let job = run("proxy that fails", &aws.stand, aws.direct_task(&engine).env("HTTPS_PROXY", url)).await;
        assert_eq!(job.completed().0, "Failed");
    }
    // One that refuses the login.
    let refusing = Desk::start(|_, _| Reply::Head(407, "Proxy-Authenticate: Basic\r\n")).await;
    let task = login(aws.direct_task(&engine)).variable("Agent.ProxyUrl", &refusing.url());
    run("proxy that refuses", &aws.stand, task).await.failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_every_kind_show_no_secret() {
    let engine = RecordedEngine::start();
    let stand = Stand::strict(Config { imds: Some(Imds::default()), ..Config::default() }).await;
    let task = || stand.task(&engine).env("SECRET_SYSTEM_ACCESSTOKEN", MAPPED_TOKEN);
    // Keys that nobody knows, a secret key that is wrong, half a pair, JSON that is none.
    run("unknown keys", &stand, task().connection(&CONNECTION)).await.failed();
    run("unknown keys with a role", &stand, task().connection(&with_role())).await.failed();
    run("unknown variables", &stand, variables(task())).await.failed();
    let wrong = [("username", KEY), ("password", CONNECTION_SECRET)];
    run("a wrong secret key", &stand, task().connection(&wrong)).await.failed();
    run("half a pair", &stand, task().connection(&CONNECTION[1..])).await.failed();
    let damaged = format!("{{\"parameters\":{{\"password\":\"{CONNECTION_SECRET}\"");
    let task_of = task().connection(&[]).env(&format!("ENDPOINT_AUTH_{}", common::agent::CONNECTION), damaged);
    run("damaged JSON", &stand, task_of).await.failed();
    run(
        "a key with a line break",
        &stand,
        task().connection(&[("username", "AK\nIA"), ("password", CONNECTION_SECRET)]),
    )
    .await
    .failed();
    // Services that say back what they were sent.
    let echo = echo().await;
    run("echo of the job's token", &stand, task().oidc(&echo, &[])).await.failed();
    let desk = token_desk().await;
    run("echo of the identity token", &stand, task().oidc(&desk, &[]).env("AWS_ENDPOINT_URL_STS", echo.url()))
        .await
        .failed();
    let refuse = Some(("InvalidIdentityToken".to_owned(), format!("bad token {}", identity_token())));
    let refusing = Stand::with(Config { sts: Sts { refuse, ..Sts::default() }, ..Config::default() }).await;
    run("STS names the token", &refusing, refusing.task(&engine).oidc(&desk, &[])).await.failed();
    // The engine, in its own words.
    let words = Quirks { refuse_inspect: Some("no".into()), ..Quirks::default() };
    run("the engine", &stand, stand.task(&RecordedEngine::with(words))).await.failed();
    // Cancelled.
    stand.server.add_fault(Fault::new(FaultAction::Stall { after: 0 }).method("PUT"));
    run("cancelled", &stand, task().connection(&[("assumeRoleArn", ROLE)]).arg("--parent-pipe")).await;
}

/// A service that says back what it was sent.
async fn echo() -> Desk {
    Desk::start(|asked, _| {
        let said = format!("you sent {} and {}", asked.head.replace(['\r', '\n', '"'], " "), asked.body);
        Reply::Say(
            403,
            serde_json::json!({ "typeKey": "X", "message": said, "__type": "AccessDeniedException" }).to_string(),
        )
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_back_its_password_is_not_relayed() {
    let engine = RecordedEngine::start();
    let stand = Stand::strict(Config::default()).await;
    let echo = echo().await;
    let token = stand.server.authorization_token("tester");
    let data = serde_json::json!({ "authorizationData": [{
        "authorizationToken": token, "expiresAt": 4_102_444_800_u64, "proxyEndpoint": echo.url()
    }] });
    let answer = Answer { message: data.to_string(), ..Answer::status(200) };
    stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("GetAuthorizationToken"));
    let job = run("echo of the registry's password", &stand, stand.task(&engine)).await;
    job.failed();
    assert!(job.hidden().contains(&token.as_str()));
}
