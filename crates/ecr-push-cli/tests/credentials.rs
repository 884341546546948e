//! Where credentials and region come from, as only a process with an environment shows it. The server knows every key
//! and verifies every signature.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;

use common::{ACCOUNT, KEY, SECRET, Stand, push_words};
use local_ecr::{Config, Imds, Sts};

const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";

async fn stand() -> Stand {
    Stand::strict(Config { imds: Some(Imds::default()), ..Config::default() }).await
}

/// The push without key and region; instance metadata is the server's.
fn bare(stand: &Stand) -> common::Program {
    stand.bare(&push_words("")).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap())
}

fn keys() -> String {
    format!("aws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
}

fn user() -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/tester")
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_set_everything_comes_from_instance_metadata() {
    let stand = stand().await;
    let run = bare(&stand).run().await.succeeded();
    run.says(&["region us-east-1 (instance metadata), credentials from instance metadata"]);
    assert_eq!(
        stand.principal(),
        format!("arn:aws:sts::{ACCOUNT}:assumed-role/local-ecr-instance/i-0123456789abcdef0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_the_environment_win_over_everything_found() {
    let stand = stand().await;
    stand.file(".aws/credentials", "[default]\naws_access_key_id = AKIAWRONG\naws_secret_access_key = wrong\n");
    let run = bare(&stand).envs(&[("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)]).run().await;
    run.succeeded().says(&["credentials from environment (key …MPLE)"]);
    assert_eq!(stand.principal(), user());
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_files_give_keys_and_region() {
    let stand = stand().await;
    stand.file(".aws/credentials", format!("[default]\n{}", keys()));
    stand.file(".aws/config", "[default]\nregion = US_EAST_1\n");
    let run = bare(&stand).run().await.succeeded();
    run.says(&["region us-east-1 (the profile), credentials from profile files"]);
    assert_eq!(stand.principal(), user());
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_files_may_be_elsewhere_and_the_profile_named() {
    let stand = stand().await;
    let credentials = stand.file("elsewhere/credentials", format!("[ci]\n{}", keys()));
    let config = stand.file("elsewhere/config", "[profile ci]\nregion = us-east-1\n");
    let files = |program: common::Program| {
        program.env("AWS_SHARED_CREDENTIALS_FILE", &credentials).env("AWS_CONFIG_FILE", &config)
    };
    files(bare(&stand)).env("AWS_PROFILE", "ci").run().await.succeeded();
    assert_eq!(stand.principal(), user());
    stand.server.clear_requests();
    // The flag is a choice: keys in the environment do not count then.
    let wrong = [("AWS_ACCESS_KEY_ID", "AKIAWRONG"), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let run = files(bare(&stand)).envs(&wrong).arg("--profile=ci").run().await.succeeded();
    run.says(&["credentials from profile `ci`"]);
    assert_eq!(stand.principal(), user());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_may_take_on_a_role() {
    let stand = stand().await;
    stand.file(".aws/credentials", format!("[base]\n{}", keys()));
    let config = format!("[profile ci]\nregion = us-east-1\nrole_arn = {ROLE}\nsource_profile = base\n");
    stand.file(".aws/config", config);
    bare(&stand).arg("--profile=ci").run().await.succeeded();
    let principal = stand.principal();
    assert!(principal.starts_with(&format!("arn:aws:sts::{ACCOUNT}:assumed-role/pusher/")), "{principal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_may_name_a_process() {
    let stand = stand().await;
    let answer = serde_json::json!({ "Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET });
    let file = stand.file("answer.json", answer.to_string());
    let show = if cfg!(windows) { "type" } else { "/bin/cat" };
    let config = format!("[default]\nregion = us-east-1\ncredential_process = {show} {}\n", file.display());
    stand.file(".aws/config", config);
    bare(&stand).run().await.succeeded();
    assert_eq!(stand.principal(), user());
}

/// Names of this machine that no name server is asked for, and one that this machine's file of hosts has, if there is one.
fn names_of_this_machine() -> Vec<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().filter(|line| line.starts_with("127."));
    let mut names = lines.flat_map(|line| line.split_whitespace().skip(1)).filter(|name| !name.contains("localhost"));
    ["127.0.0.1", "localhost", "creds.localhost"].into_iter().chain(names.next()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_endpoint_gives_keys_and_is_not_asked_through_a_proxy() {
    for name in names_of_this_machine() {
        let stand = stand().await;
        // Debian gives the machine's own name an address that is not 127.0.0.1.
        let listener = TcpListener::bind((name.as_str(), 0)).or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{name}:{}/secret?t=geheim", listener.local_addr().unwrap().port());
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                head.push(byte[0]);
            }
            let body = serde_json::json!({
                "AccessKeyId": KEY, "SecretAccessKey": SECRET, "Token": "", "Expiration": "2037-01-01T00:00:00Z"
            })
            .to_string();
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        });
        let variables = [
            ("AWS_REGION", "us-east-1"),
            ("HTTP_PROXY", "http://127.0.0.1:1"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-password-of-the-container"),
        ];
        let run = bare(&stand).envs(&variables).arg("-v").run().await.succeeded();
        run.says(&["credentials from container (key …MPLE)"]);
        run.hides(&["the-password-of-the-container", "geheim", "/secret"]);
        assert_eq!(stand.principal(), user(), "{name}");
        assert!(serving.join().unwrap().contains("authorization: the-password-of-the-container"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_identity_token_is_exchanged() {
    let stand = stand().await;
    let token = stand.file("token", "the-web-identity-token");
    let run = bare(&stand)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
        .env("AWS_ROLE_ARN", ROLE)
        .env("AWS_ROLE_SESSION_NAME", "job-7")
        .arg("-v")
        .run()
        .await
        .succeeded();
    run.says(&["credentials from web identity"]);
    run.hides(&["the-web-identity-token"]);
    assert_eq!(stand.principal(), format!("arn:aws:sts::{ACCOUNT}:assumed-role/pusher/job-7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_taken_on_with_its_external_id() {
    let sts = Sts { external_id: Some("the-external-id".into()), ..Sts::default() };
    let stand = Stand::strict(Config { sts, ..Config::default() }).await;
    let words = format!("--role-arn {ROLE} --role-session-name job-7 --role-duration-seconds 900");
    let run = stand.push(&words).arg("--external-id=the-external-id").run().await.succeeded();
    run.says(&[&format!("credentials from role {ROLE} (assumed with environment (key …MPLE))")]);
    assert_eq!(stand.principal(), format!("arn:aws:sts::{ACCOUNT}:assumed-role/pusher/job-7"));
    let run = stand.push(&words).run().await;
    assert!(run.failed(1).contains(ROLE));
    run.says(&["external id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_understood_as_people_write_them() {
    // The signature holds the region, and the server verifies it.
    for (written, region) in [("us_west_2", "us-west-2"), ("US-EAST-1", "us-east-1"), ("xx-new-1", "xx-new-1")] {
        let stand = Stand::strict(Config { region: region.into(), ..Config::default() }).await;
        for program in [
            stand.push(&format!("--region {written}")).env("AWS_REGION", "eu-west-1"),
            stand.push("").env("AWS_REGION", written).env("AWS_DEFAULT_REGION", "eu-west-1"),
            stand.push("").without("AWS_REGION").env("AWS_DEFAULT_REGION", written),
        ] {
            let run = program.arg("--output=json").run().await.succeeded();
            assert_eq!(run.json()["region"], region);
            run.says(&[&format!("region {region} (")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_region_alone_may_come_from_instance_metadata() {
    let config = Config { region: "eu-west-1".into(), imds: Some(Imds::default()), ..Config::default() };
    let stand = Stand::strict(config).await;
    let run = stand
        .push("")
        .without("AWS_REGION")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap())
        .run()
        .await
        .succeeded();
    run.says(&["region eu-west-1 (instance metadata), credentials from environment"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sdk_makes_of_its_own_variables_is_no_fault_of_the_program() {
    let stand = stand().await;
    for (name, value) in [
        ("AWS_RETRY_MODE", "legacy"),
        ("AWS_RETRY_MODE", ""),
        ("AWS_MAX_ATTEMPTS", ""),
        ("AWS_MAX_ATTEMPTS", "0"),
        ("AWS_MAX_ATTEMPTS", "ten"),
        ("AWS_DEFAULTS_MODE", "what"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "what"),
        ("AWS_USE_FIPS_ENDPOINT", "what"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "what"),
        ("AWS_SDK_UA_APP_ID", "what ever"),
    ] {
        let run = bare(&stand).env(name, value).run().await;
        assert!(run.status == 0 || run.status == 1, "{name}={value}: {}", run.stderr);
    }
    stand.file(".aws/config", "[default]\nretry_mode = legacy\nmax_attempts = 0\n");
    bare(&stand).run().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_meant_to_give_credentials_and_does_not_ends_the_search() {
    let role = "role_arn = arn:aws:iam::123456789012:role/pusher\n";
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Case<'_>; 8] = [
        ("", &[("AWS_ACCESS_KEY_ID", KEY)], "environment", "AWS_SECRET_ACCESS_KEY is not"),
        ("", &[("AWS_SECRET_ACCESS_KEY", SECRET)], "environment", "AWS_ACCESS_KEY_ID is not"),
        ("", &[("AWS_PROFILE", "nope")], "profile files", "no profile `nope`"),
        ("[profile ci]\n", &[("AWS_PROFILE", "nope")], "profile files", "no profile `nope`"),
        (&format!("[default]\n{role}source_profile = nope\n"), &[], "profile files", "nope"),
        (&format!("[default]\n{role}source_profile = default\n"), &[], "profile files", "role_arn"),
        ("[default]\naws_access_key_id = AKIAHALF\n", &[], "profile files", "aws_secret_access_key"),
        ("", &[("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere")], "web identity", "AWS_ROLE_ARN is not"),
    ];
    for (config, variables, source, why) in cases {
        let stand = stand().await;
        stand.file(".aws/config", config);
        let run = bare(&stand).envs(variables).run().await;
        let sentence = run.failed(1);
        let says = sentence.contains(&format!("credentials from {source}")) && sentence.contains("cannot be used");
        assert!(says, "{variables:?}: {sentence}");
        assert!(sentence.contains(why), "{config} {variables:?}: {sentence}");
        assert!(stand.asked("GetAuthorizationToken").is_empty(), "the rights of the machine were used");
    }
    let stand = stand().await;
    // A profile for other ends, and a role that other programs read, are no promise of credentials.
    stand.file(".aws/config", "[profile ci]\nregion = us-east-1\n");
    bare(&stand).envs(&[("AWS_PROFILE", "ci"), ("AWS_ROLE_ARN", ROLE)]).run().await.succeeded();
    bare(&stand).envs(&[("SECRET_ACCESS_KEY", "another"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "")]).run().await.succeeded();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_in_the_place_of_a_file_with_credentials_is_refused() {
    let stand = stand().await;
    // It would be empty at the second look, and the rights of the machine would be used.
    let pipe = stand.folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"] {
        let run = bare(&stand).env(name, &pipe).run().await;
        assert!(run.failed(2).contains("is a pipe, and is read more than once"), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_used_is_named_by_file_line_and_section() {
    let stand = stand().await;
    let file = stand.folder.path().join(".aws/config").display().to_string();
    let sso = "sso_account_id = 123456789012\nsso_role_name = r\n";
    let session = "sso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n";
    // The file, where the fault is, what it is, and what to do.
    for (config, place, what, remedy) in [
        (
            "[default]\nx = y\n[profile ci]\nfoo\n",
            "line 4, section [profile ci]: ",
            "Expected an '=' sign",
            "correct that line",
        ),
        ("[profile ci\n", "line 1", "must end with ']'", "correct that line"),
        (
            &format!("# x\n[profile ci]\nregion = us-east-1\nrole_arn = {ROLE}\n"),
            "line 4, section [profile ci]",
            "`source_profile` or `credential_source`",
            "correct the profile",
        ),
        (
            &format!("[profile ci]\nrole_arn = {ROLE}\nsource_profile = nope\n"),
            "line 2, section [profile ci]",
            "nope",
            "correct it",
        ),
        ("[profile ci]\naws_access_key_id = A\n", "line 2, section [profile ci]", "aws_secret_access_key", "correct"),
        ("[profile ci]\ncredential_process = false\n", "line 2, section [profile ci]", "exit", "correct the profile"),
        (
            &format!("[profile ci]\nsso_session = s\n{sso}"),
            "line 2, section [profile ci]",
            "sso-session named `s`",
            "correct the profile",
        ),
        (
            &format!("[profile ci]\nsso_session = s\n{sso}[sso-session s]\n{session}"),
            "line 2, section [profile ci]",
            "SSO token",
            "log in: aws sso login --profile ci",
        ),
        (
            &format!("[profile ci]\nrole_arn = {ROLE}\nsource_profile = base\n[profile base]\n{session}{sso}"),
            "line 2, section [profile ci]",
            "cannot be used",
            "log in: aws sso login --profile base",
        ),
    ] {
        stand.file(".aws/config", config);
        let run = bare(&stand).arg("--profile=ci").arg("--region=us-east-1").run().await;
        let sentence = run.failed(1);
        assert!(sentence.contains(&format!("{file}, {place}")), "{config}: {sentence}");
        assert!(sentence.contains(what), "{config}: {sentence}");
        assert!(run.stderr.contains(&format!("  hint: {remedy}")), "{config}: {}", run.stderr);
        assert!(stand.asked("GetAuthorizationToken").is_empty(), "the rights of the machine were used");
    }
    // A token that is not there, by the profile and by the environment.
    let token = stand.folder.path().join("no-token").display().to_string();
    stand.file(".aws/config", format!("[profile ci]\nrole_arn = {ROLE}\nweb_identity_token_file = {token}\n"));
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()), ("AWS_ROLE_ARN", ROLE)];
    for program in [bare(&stand).arg("--profile=ci"), bare(&stand).envs(&variables)] {
        let run = program.arg("--region=us-east-1").run().await;
        let says = format!("the identity token's file {token} cannot be read: No such file");
        assert!(run.failed(1).contains(&says), "{}", run.stderr);
        run.says(&["  hint: have the job or the pod write its token there"]);
    }
}
