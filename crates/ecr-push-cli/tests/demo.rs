//! `ecr-push demo`, as the README has it.
#![cfg_attr(not(unix), allow(dead_code, unused_imports, reason = "some tests need signals and a shell"))]

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Program, Running, http, recorded, wait_for};

fn demo(words: &str, home: &tempfile::TempDir) -> Program {
    Program::new(&format!("demo {words}"))
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .limit(Duration::from_secs(120))
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// What stands on standard output after `name`.
fn value<'a>(stdout: &'a str, name: &str) -> &'a str {
    stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {stdout}")).trim()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_needs_nothing_and_shows_reference_digest_seconds_and_no_uploads() {
    let home = home();
    let run = demo("", &home).run().await.succeeded();
    let reference = value(&run.stdout, "Pushed  ");
    assert!(reference.starts_with("127.0.0.1:") && reference.ends_with("/demo:v1"), "{reference}");
    let digest = value(&run.stdout, "Digest");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert!(value(&run.stdout, "Seconds").parse::<f64>().is_ok());
    assert!(value(&run.stdout, "Read back").contains("3 blobs"), "{}", run.stdout);
    assert!(value(&run.stdout, "Pushed again in").contains(": 0 uploads, 0 B sent"), "{}", run.stdout);
    assert!(run.stdout.contains("`ecr-push demo --keep`"), "{}", run.stdout);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_pushes_the_image_that_is_named() {
    let archive = recorded("docker-28.5-containerd/export-multi.tar");
    let run = demo(&format!("oci-archive:{}", archive.display()), &home()).run().await.succeeded();
    assert_eq!(value(&run.stdout, "Digest"), "sha256:fec5987712c22cd6fe92a9795604d0d771824059212d818f6d1cc37642823328");
    assert!(run.stdout.contains("0 uploads"), "{}", run.stdout);
    let run = demo("docker-archive:/nonexistent.tar", &home()).run().await;
    assert_eq!(run.status, 1);
    run.says(&["error: ", "/nonexistent.tar"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_user_has_set_for_aws_does_not_matter() {
    let small = format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display());
    for (name, value) in [
        ("AWS_PROFILE", "nobody"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_CA_BUNDLE", "/nonexistent/ca.pem"),
        ("HTTP_PROXY", "http://127.0.0.1:1"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
    ] {
        let run = demo(&small, &home()).env(name, value).run().await;
        assert_eq!(run.status, 0, "{name}={value}: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_settings_of_the_user_do_not_matter() {
    let small = format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display());
    for (name, value) in [
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
        ("AWS_ENDPOINT_URL", "nonsense"),
        ("AWS_ENDPOINT_URL_ECR", "http://ecr.amazonaws.com"),
    ] {
        let run = demo(&small, &home()).env(name, value).run().await;
        assert_eq!(run.status, 0, "{name}={value}: {}", run.stderr);
    }
}

/// Starts `demo --keep` and waits until it serves.
async fn keep(home: &tempfile::TempDir) -> Running {
    let small = format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display());
    let running = demo(&format!("{small} --keep"), home).start();
    wait_for("the commands", Duration::from_secs(60), || running.stdout.text().contains("aws ecr describe-images"))
        .await;
    running
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn keep_goes_on_serving_and_its_password_works() {
    let home = home();
    let running = keep(&home).await;
    let stdout = running.stdout.text();
    let login = stdout.lines().find(|line| line.contains("docker login")).unwrap();
    let words: Vec<&str> = login.split_whitespace().collect();
    let ["echo", password, "|", "docker", "login", "--username", "AWS", "--password-stdin", host] = words[..] else {
        panic!("{login}")
    };
    assert!(stdout.contains(&format!("docker pull {host}/demo:v1")), "{stdout}");
    let basic = format!("Basic {}", STANDARD.encode(format!("AWS:{password}")));
    let ask = |path: &str, basic: &str| http("GET", &format!("http://{host}{path}"), &[("Authorization", basic)]).0;
    assert_eq!(ask("/v2/", &basic), 200);
    assert_eq!(ask("/v2/", "Basic QVdTOm5vbmU="), 401);
    assert_eq!(ask("/v2/demo/manifests/v1", &basic), 200);
    // The other two need the password and keys as well: no login is left behind for them.
    let skopeo = stdout.lines().find(|line| line.contains("skopeo inspect")).unwrap();
    assert!(skopeo.contains(&format!("--creds AWS:{password} docker://{host}/demo:v1")), "{skopeo}");
    let aws = stdout.lines().find(|line| line.contains("aws ecr describe-images")).unwrap();
    assert!(aws.contains("AWS_ACCESS_KEY_ID=") && aws.contains("AWS_SECRET_ACCESS_KEY="), "{aws}");
    assert!(aws.contains("--region us-east-1") && aws.contains(&format!("--endpoint-url http://{host}")), "{aws}");
    let sent = std::time::Instant::now();
    running.signal("INT");
    let run = running.finish().await;
    assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
    assert!(matches!(run.status, 0 | 130), "{}: {}", run.status, run.stderr);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn keep_is_silent_while_it_serves() {
    let home = home();
    let running = keep(&home).await;
    tokio::time::sleep(Duration::from_secs(17)).await;
    let said = running.stderr.text();
    running.signal("TERM");
    running.finish().await;
    assert!(!said.lines().any(|line| line.starts_with("... ")), "{said}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_panic() {
    let home = home();
    let small = format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display());
    let output = std::process::Command::new("sh")
        .args(["-c", "\"$0\" demo \"$1\" | true", env!("CARGO_BIN_EXE_ecr-push"), &small])
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
}
