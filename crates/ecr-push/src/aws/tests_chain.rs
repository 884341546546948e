//! The credential chain with real variables and files. The SDK reads the environment of its process, so each case runs in a
//! process of its own: this test binary again, with a cleared environment.

use std::process::Command;
use std::time::{Duration, Instant};

use super::test_server::serve;
use super::*;
use crate::events::Events;
use crate::http::{Http, HttpSettings};
use crate::retry::RetryBudget;

const JSON_KEYS: &str = r#"{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"ASIACONT1234","SecretAccessKey":"s","Token":"t","Expiration":"2100-01-01T00:00:00Z"}"#;

/// Not a test of its own: what the child does. `--region` and `--profile` come as variables that the SDK does not know.
#[tokio::test]
#[ignore = "run by the other tests in a process of its own"]
async fn child() {
    let given = |name: &str| std::env::var(name).ok();
    let settings = AwsSettings {
        region: given("TEST_REGION").map(|region| region.parse().unwrap()),
        profile: given("TEST_PROFILE"),
        ..AwsSettings::default()
    };
    let http = Http::new(&HttpSettings::default()).unwrap();
    let budget = RetryBudget::new(Duration::from_secs(1), Events::none());
    match EcrApi::connect(&http, &settings, &budget, &Events::none()).await {
        Ok(api) => println!(
            "RESULT {} in {} from {} override={}",
            api.credential_source(),
            api.region(),
            api.region_source(),
            api.endpoint_overridden()
        ),
        Err(error) => println!(
            "RESULT {error} | {}",
            error.notes().iter().chain(error.hints()).map(|text| &**text).collect::<Vec<_>>().join(" | ")
        ),
    }
}

async fn run(variables: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "aws::tests_chain::child", "--ignored", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        // Nothing of ours may look at these.
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .envs(variables.iter().copied());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.split_once("RESULT "));
    found.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).1.to_owned()
}

const NO_METADATA: (&str, &str) = ("AWS_EC2_METADATA_DISABLED", "true");
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIAENV12345"), ("AWS_SECRET_ACCESS_KEY", "s")];

#[tokio::test]
async fn keys_in_the_environment_go_first() {
    let result = run(&[KEYS[0], KEYS[1], ("TEST_REGION", "us_west_2"), NO_METADATA]).await;
    assert_eq!(result, "environment (key …2345) in us-west-2 from `region` override=false");
}

#[tokio::test]
async fn without_any_source_each_is_listed_and_it_is_quick() {
    let started = Instant::now();
    let result = run(&[("TEST_REGION", "us-east-1"), NO_METADATA]).await;
    for expected in [
        "no AWS credentials were found",
        "skipped environment: ",
        "skipped profile files: ",
        "skipped web identity: ",
        "skipped container: ",
        "skipped instance metadata: ",
    ] {
        assert!(result.contains(expected), "{result}");
    }
    let result = run(&[NO_METADATA]).await;
    assert!(
        result.starts_with("no AWS region is known | ") && result.ends_with("| name it with `region`, or AWS_REGION"),
        "{result}"
    );
    assert!(result.contains("switched off by AWS_EC2_METADATA_DISABLED"), "{result}");
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn a_deaf_metadata_service_costs_little() {
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    for region in [None, Some(("TEST_REGION", "us-east-1"))] {
        let mut variables = vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint.as_str())];
        variables.extend(region);
        let started = Instant::now();
        let result = run(&variables).await;
        assert!(result.contains("hop limit 1"), "{result}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?} {result}", started.elapsed());
    }
}

#[tokio::test]
async fn an_instance_gives_region_and_credentials_by_version_2_only() {
    let server = serve(|seen| {
        let none = String::new;
        if seen.line().starts_with("PUT /latest/api/token ") {
            return (200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n".into(), "the-token".into());
        }
        if seen.header("x-aws-ec2-metadata-token") != "the-token" {
            return (401, none(), none());
        }
        let path = seen.line().split(' ').nth(1).unwrap();
        match path {
            "/latest/meta-data/placement/region" => (200, none(), "eu-west-1".into()),
            "/latest/meta-data/iam/security-credentials/" => (200, none(), "push-role".into()),
            "/latest/meta-data/iam/security-credentials/push-role" => (200, none(), JSON_KEYS.into()),
            _ => (404, none(), none()),
        }
    })
    .await;
    let result = run(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url)]).await;
    assert_eq!(result, "instance metadata (key …1234) in eu-west-1 from instance metadata override=false");
}

#[tokio::test]
async fn a_metadata_service_that_is_busy_for_a_moment_is_asked_again() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let server = serve(move |seen| {
        let none = String::new;
        let busy = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 3;
        match seen.line().split(' ').nth(1).unwrap() {
            _ if busy => (503, none(), none()),
            "/latest/api/token" => (200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n".into(), "the-token".into()),
            "/latest/meta-data/iam/security-credentials/" => (200, none(), "push-role".into()),
            "/latest/meta-data/iam/security-credentials/push-role" => (200, none(), JSON_KEYS.into()),
            _ => (404, none(), none()),
        }
    })
    .await;
    let result = run(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url), ("TEST_REGION", "us-east-1")]).await;
    assert!(result.starts_with("instance metadata (key …1234)"), "{result}");
}

#[tokio::test]
async fn a_container_gives_credentials() {
    let server = serve(|seen| match seen.header("authorization") {
        "pod-token" => (200, String::new(), JSON_KEYS.into()),
        _ => (403, String::new(), String::new()),
    })
    .await;
    let url = format!("{}/creds", server.url);
    let uri = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str());
    let region = ("TEST_REGION", "us-east-1");
    let result = run(&[uri, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token"), region, NO_METADATA]).await;
    assert!(result.starts_with("container (key …1234)"), "{result}");
    // One that is there but refuses stops the search.
    let result = run(&[uri, region]).await;
    assert!(result.starts_with("the credentials from container cannot be used"), "{result}");
}

#[tokio::test]
async fn a_web_identity_is_exchanged_at_sts() {
    let server = serve(|seen| {
        assert!(seen.body.contains("Action=AssumeRoleWithWebIdentity") && seen.body.contains("WebIdentityToken=jwt"));
        match seen.body.contains("role%2Fgood") {
            true => (200, "content-type: text/xml\r\n".into(), "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAWEB56789</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>".into()),
            false => (403, "content-type: text/xml\r\n".into(), "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>".into()),
        }
    })
    .await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "jwt").unwrap();
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().unwrap());
    let sts = ("AWS_ENDPOINT_URL_STS", server.url.as_str());
    let region = ("TEST_REGION", "us-east-1");
    let result = run(&[file, ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/good"), sts, region, NO_METADATA]).await;
    assert_eq!(result, "web identity (key …6789) in us-east-1 from `region` override=false");
    let result = run(&[file, ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/bad"), sts, region, NO_METADATA]).await;
    assert!(
        result.starts_with("the credentials from web identity cannot be used: Not authorized to perform sts:"),
        "{result}"
    );
}

#[tokio::test]
async fn a_profile_gives_keys_region_endpoint_and_stands_alone_when_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Closed: on Windows a file that is open for writing is read by nobody else.
    let answer = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let keys = r#"{"Version":1,"AccessKeyId":"ASIAPROC0002","SecretAccessKey":"s","SessionToken":"t"}"#;
    std::fs::write(&answer, keys).unwrap();
    let process = format!("{} {}", if cfg!(windows) { "type" } else { "cat" }, answer.display());
    let text = "[profile keys]\naws_access_key_id=AKIAPROF0001\naws_secret_access_key=s\nregion=ap-south-1\nendpoint_url=http://127.0.0.1:9\n\
                [profile process]\ncredential_process=PROCESS\nregion=us-east-1\n\
                [profile empty]\nregion=us-east-1\n\
                [profile broken]\ncredential_process=false\nregion=us-east-1\n";
    std::fs::write(file.path(), text.replace("PROCESS", &process)).unwrap();
    let config = ("AWS_CONFIG_FILE", file.path().to_str().unwrap());
    for (profile, expected) in [
        ("keys", "profile `keys` (key …0001) in ap-south-1 from the profile override=true"),
        ("process", "profile `process` (key …0002) in us-east-1 from the profile override=false"),
        ("empty", "the profile `empty` gives no credentials | "),
        ("broken", "the credentials from profile `broken` ("),
    ] {
        // Keys in the environment do not save a named profile that fails.
        let result = run(&[config, KEYS[0], KEYS[1], ("TEST_PROFILE", profile), NO_METADATA]).await;
        assert!(result.starts_with(expected), "{profile}: {result}");
    }
    let result = run(&[config, ("TEST_PROFILE", "prod"), ("TEST_REGION", "us-east-1"), NO_METADATA]).await;
    assert_eq!(
        result,
        "there is no profile `prod` | the profiles here are: broken, empty, keys, process | choose one that there is with `profile`"
    );
    let result = run(&[config, ("AWS_PROFILE", "keys"), NO_METADATA]).await;
    assert_eq!(result, "profile files (key …0001) in ap-south-1 from the profile override=true");
}
