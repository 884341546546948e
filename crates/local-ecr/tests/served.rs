//! The program as whoever runs it sees it: what it prints, and what becomes of a folder.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::*;
use serde_json::json;

/// `local-ecr serve`, stopped when it is dropped.
struct Served {
    child: Child,
    endpoint: String,
    stderr: Arc<Mutex<String>>,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        Self::with(Command::new(env!("CARGO_BIN_EXE_local-ecr")).arg("serve").args(arguments))
    }

    /// With no more than so many file descriptors.
    fn with_few_files(files: u32, arguments: &[&str]) -> Self {
        let script = format!("ulimit -n {files}; exec \"$0\" serve \"$@\"");
        Self::with(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_local-ecr")]).args(arguments))
    }

    fn with(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stderr.take().unwrap();
        let stderr = Arc::<Mutex<String>>::default();
        let kept = Arc::clone(&stderr);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut bytes) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        let mut endpoint = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut endpoint).unwrap();
        let served = Self { child, endpoint: endpoint.trim().to_owned(), stderr };
        assert!(!served.endpoint.is_empty(), "{}", served.said());
        served
    }

    fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until it has said this.
    fn wait_for(&self, words: &str) -> String {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let said = self.said();
            if said.contains(words) {
                return said;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{words:?} is not in {:?}", self.said());
    }

    /// The answer of the API.
    async fn api(&self, operation: &str, input: serde_json::Value) -> (u16, serde_json::Value) {
        self.api_in("us-east-1", operation, input).await
    }

    async fn api_in(&self, region: &str, operation: &str, input: serde_json::Value) -> (u16, serde_json::Value) {
        let (date, authorization) = unsigned("local", region, "ecr");
        let response = client()
            .post(&self.endpoint)
            .header("x-amz-target", format!("AmazonEC2ContainerRegistry_V20150921.{operation}"))
            .header("x-amz-date", date)
            .header("authorization", authorization)
            .body(input.to_string())
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), json_of(response).await)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    (folder, path)
}

#[tokio::test]
async fn abandoned_sessions_do_not_use_up_the_files() {
    let (_folder, data) = folder();
    let served = Served::with_few_files(64, &["--data", &data, "--create-repository", "team/app"]);
    let http = client();
    let (_, token) = served.api("GetAuthorizationToken", json!({})).await;
    let password = format!("Basic {}", text(&token["authorizationData"][0]["authorizationToken"]));
    for _ in 0..200 {
        let url = format!("{}/v2/team/app/blobs/uploads/", served.endpoint);
        let session = http.post(url).header("authorization", &password).send().await.unwrap();
        assert_eq!(session.status(), 202, "{}", served.said());
        let sent = http.patch(location(&session)).header("authorization", &password).body("abandoned").send();
        assert_eq!(sent.await.unwrap().status(), 201, "{}", served.said());
    }
    let answer = tokio::time::timeout(Duration::from_secs(5), served.api("DescribeRepositories", json!({})));
    assert_eq!(answer.await.expect("an answer").0, 200);
}

#[tokio::test]
async fn too_many_connections_are_a_line_and_pass() {
    let served = Served::with_few_files(32, &[]);
    let address = served.endpoint.trim_start_matches("http://");
    let connections: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    served.wait_for("local-ecr: cannot accept connections for now: ");
    drop(connections);
    let answer = tokio::time::timeout(Duration::from_secs(10), served.api("DescribeRepositories", json!({})));
    assert_eq!(answer.await.expect("an answer").0, 200);
    let lines = served.said().lines().filter(|line| line.contains("cannot accept")).count();
    assert!((1..10).contains(&lines), "{}", served.said());
}

#[test]
fn a_second_server_is_refused_in_one_sentence() {
    let (_folder, data) = folder();
    let served = Served::start(&["--data", &data]);
    let second = Command::new(env!("CARGO_BIN_EXE_local-ecr")).args(["serve", "--data", &data]).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(said, format!("local-ecr: the folder {data} is in use by another local-ecr\n"));
    assert!(second.stdout.is_empty());
    // However the first one ends, the folder is free.
    drop(served);
    drop(Served::start(&["--data", &data]));
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let (folder, _) = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_local-ecr")).args(["serve", "--data"]).arg(&file).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with(&format!("local-ecr: the folder {} cannot be made: ", file.display())), "{said}");
}

#[tokio::test]
async fn a_damaged_repository_is_a_line_and_the_others_are_served() {
    let (folder, data) = folder();
    let arguments = ["--data", data.as_str(), "--create-repository", "team/app", "whole"];
    drop(Served::start(&arguments));
    std::fs::write(folder.path().join("team+app/index.json"), "{").unwrap();
    // The same command as before: the repository is there, so it is not to be made.
    let served = Served::start(&arguments);
    let said = served.wait_for("left out");
    assert!(said.starts_with("local-ecr: the repository 'team/app' is left out: "), "{said}");
    assert!(said.contains("team+app cannot be read: index.json: "), "{said}");
    let (status, answer) = served.api("DescribeRepositories", json!({})).await;
    assert_eq!((status, text(&answer["repositories"][0]["repositoryName"]).as_str()), (200, "whole"));
}

#[tokio::test]
async fn an_internal_error_is_a_line_with_its_cause() {
    let (folder, data) = folder();
    let served = Served::start(&["--data", &data, "--create-repository", "team/app"]);
    let settings = folder.path().join("team+app/local-ecr.json");
    std::fs::remove_file(&settings).unwrap();
    std::fs::create_dir_all(settings.join("in the way")).unwrap();
    let input = json!({ "repositoryName": "team/app", "imageTagMutability": "IMMUTABLE" });
    let (status, answer) = served.api("PutImageTagMutability", input).await;
    assert_eq!((status, text(&answer["__type"]).as_str()), (500, "ServerException"));
    let said = served.wait_for("internal error");
    let line = said.lines().find(|line| line.contains("internal error")).unwrap();
    assert!(line.starts_with("local-ecr: internal error at POST / (PutImageTagMutability): "), "{line}");
    assert!(line.contains("(os error "), "{line}");
}

#[tokio::test]
async fn a_proxy_says_when_it_cannot_reach_the_server() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let upstream = format!("http://{closed}");
    let proxy =
        Served::with(Command::new(env!("CARGO_BIN_EXE_local-ecr")).args(["fault-proxy", "--upstream", &upstream]));
    assert!(client().get(format!("{}/v2/", proxy.endpoint)).send().await.is_err());
    proxy.wait_for(&format!("local-ecr: cannot reach {closed}: "));
}

/// The printed lines that are commands.
fn commands(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("  ")).collect()
}

/// What a shell has in its environment once it has run these lines.
fn exported(lines: &[&str]) -> String {
    let exports: Vec<_> = lines.iter().copied().filter(|line| line.starts_with("export ")).collect();
    let script = format!("{}\nenv", exports.join("\n"));
    let output = Command::new("sh").args(["-euc", &script]).env_clear().output().unwrap();
    assert!(output.status.success(), "{script}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_printed_commands_have_all_that_each_client_needs() {
    for (arguments, repository) in [
        (&["--region", "eu-west-1", "--create-repository", "team/app"][..], "team/app"),
        (&["--region", "eu-west-1"][..], "app"),
    ] {
        let served = Served::start(arguments);
        let said = served.wait_for("skopeo copy");
        let lines = commands(&said);
        let environment = exported(&lines);
        let endpoint = &served.endpoint;
        for wanted in [
            format!("AWS_ENDPOINT_URL={endpoint}"),
            "AWS_REGION=eu-west-1".into(),
            // Version 1 of the AWS CLI reads no other.
            "AWS_DEFAULT_REGION=eu-west-1".into(),
            "AWS_ACCESS_KEY_ID=local".into(),
            "AWS_SECRET_ACCESS_KEY=local".into(),
        ] {
            assert!(environment.lines().any(|line| line == wanted), "{wanted}: {environment}");
        }
        // The AWS CLI before 2.13 does not read AWS_ENDPOINT_URL.
        let calls = |line: &&&str| line.contains("aws ecr ");
        assert!(lines.iter().filter(calls).all(|line| line.contains(&format!("--endpoint-url {endpoint}"))), "{said}");
        let skopeo = lines.iter().find(|line| line.starts_with("skopeo ")).unwrap();
        assert!(skopeo.contains("--dest-tls-verify=false --dest-creds \"AWS:$(aws ecr get-login-password"), "{skopeo}");
        let name = format!("{}/{repository}:v1", endpoint.trim_start_matches("http://"));
        assert!(skopeo.ends_with(&format!("docker://{name}")), "{skopeo}");
        assert!(lines.contains(&format!("docker push {name}").as_str()), "{said}");
        if repository == "app" {
            assert!(lines.iter().any(|line| line.contains("create-repository --repository-name app ")), "{said}");
            served.api_in("eu-west-1", "CreateRepository", json!({ "repositoryName": "app" })).await;
        }
        let (status, answer) = served.api_in("eu-west-1", "GetAuthorizationToken", json!({})).await;
        assert_eq!((status, &answer["authorizationData"][0]["proxyEndpoint"]), (200, &json!(endpoint)));
    }
}

#[test]
fn a_public_host_stands_in_the_printed_commands() {
    let served = Served::start(&["--public-host", "registry.example:5000", "--create-repository", "app"]);
    let said = served.wait_for("skopeo copy");
    assert!(served.endpoint.starts_with("http://127.0.0.1:"), "the endpoint is for this machine");
    let lines = commands(&said);
    assert!(exported(&lines).contains("AWS_ENDPOINT_URL=http://registry.example:5000\n"), "{said}");
    assert!(lines.contains(&"docker push registry.example:5000/app:v1"), "{said}");
    assert!(!said.contains("127.0.0.1"), "{said}");
    let refused = Command::new(env!("CARGO_BIN_EXE_local-ecr")).args(["serve", "--public-host", "http://a"]).output();
    let refused = refused.unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(said, "local-ecr: the public host 'http://a' is not HOST or HOST:PORT\n");
}

#[test]
fn with_tls_the_commands_name_the_authority_and_the_names() {
    let (folder, _) = folder();
    let ca = folder.path().join("ca.pem").display().to_string();
    let served = Served::start(&["--tls", "--ca-out", &ca]);
    let said = served.wait_for("skopeo copy");
    let lines = commands(&said);
    assert!(exported(&lines).contains(&format!("AWS_CA_BUNDLE={ca}\n")), "{said}");
    let hosts = lines.iter().find(|line| line.contains("/etc/hosts")).unwrap();
    assert!(hosts.contains("127.0.0.1 123456789012.dkr.ecr.us-east-1.amazonaws.com "), "{hosts}");
    assert!(!hosts.contains("localhost"), "{hosts}");
    assert!(lines.iter().any(|line| line.starts_with("sudo install -D ") && line.contains(&ca)), "{said}");
}
