//! Our own stand-in, judged by programs of others: the AWS CLI drives its API; docker and skopeo use its registry.

use crate::command::{Cmd, Outcome, wait_for};
use crate::image::{BIG, ODD, SMALL};
use crate::push::{program, push, sibling};
use crate::stack::Stack;
use crate::verify::{Image, Pulled, docker_pull_from, pull_from};
use base64::Engine as _;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// A running `local-ecr`.
struct LocalEcr {
    stack: &'static Stack,
    port: u16,
    /// Where its standard error goes.
    said: PathBuf,
    /// The line it printed: where its API is.
    endpoint: String,
}

impl LocalEcr {
    /// Starts it with some repositories.
    fn start(stack: &'static Stack, repositories: &[&str]) -> Self {
        Self::listening(stack, "127.0.0.1", repositories)
    }

    /// The same on other addresses than loopback.
    fn listening(stack: &'static Stack, address: &str, repositories: &[&str]) -> Self {
        let port = stack.free_port();
        let log = stack.space.path(&format!("local-ecr-{port}.log"));
        let listen = format!("{address}:{port}");
        let command =
            stack.space.command(sibling("local-ecr")).args(["serve", "--allow-remote", "--listen", listen.as_str()]);
        let command = repositories.iter().fold(command, |command, name| command.args(["--create-repository", name]));
        let mut child = command.serve(&log);
        let endpoint = wait_for("local-ecr's endpoint", Duration::from_secs(30), || {
            assert!(!child.has_ended(), "local-ecr ended: {}", read(&log.with_extension("err")));
            read(&log).split_once('\n').map(|(line, _)| line.to_owned())
        });
        assert_eq!(endpoint.trim_end_matches('/'), format!("http://127.0.0.1:{port}"));
        Self { stack, port, said: log.with_extension("err"), endpoint }
    }

    /// Runs the AWS CLI against it.
    fn aws(&self, words: &[&str]) -> Outcome {
        self.stack.aws(&self.stack.admin, &[&["--endpoint-url", self.endpoint.as_str()], words].concat())
    }

    /// The password for the registry, from the AWS CLI.
    fn password(&self) -> String {
        self.aws(&["ecr", "get-login-password"]).ok().stdout.trim().to_owned()
    }

    /// A folder with Docker's configuration, logged in.
    fn login(&self) -> PathBuf {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("AWS:{}", self.password()));
        let config = json!({"auths": {format!("127.0.0.1:{}", self.port): {"auth": auth}}}).to_string();
        let file = self.stack.space.write(&format!("docker-{}/config.json", self.port), config);
        file.parent().expect("a folder").to_owned()
    }

    /// An image's full name here.
    fn name(&self, reference: &str) -> String {
        format!("127.0.0.1:{}/{reference}", self.port)
    }

    /// `ecr-push push` to it.
    fn push(&self, image: &str, repository: &str, tags: &[&str]) -> Cmd {
        push(self.stack, image, repository, tags).env("AWS_ENDPOINT_URL", &self.endpoint)
    }

    /// Brings an image back with skopeo.
    #[track_caller]
    fn pull(&self, reference: &str) -> Pulled {
        let password = format!("AWS:{}", self.password());
        pull_from(self.stack, &self.name(reference), &["--src-tls-verify=false", "--src-creds", &password])
    }

    /// Brings an image back with `docker pull`.
    #[track_caller]
    fn docker_pull(&self, reference: &str) -> Image {
        docker_pull_from(self.stack, &self.name(reference), &self.login())
    }

    /// Pushes with the Docker CLI.
    fn docker_push(&self, image: &str, reference: &str) -> Outcome {
        let (engine, name) = (self.stack.engine(), self.name(reference));
        engine.run(&["tag", image, &name]);
        let outcome = engine.try_docker(&["push", &name]).env("DOCKER_CONFIG", self.login()).run();
        engine.run(&["rmi", &name]);
        outcome
    }
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn ecr_push_into_local_ecr() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let local = LocalEcr::start(stack, &["app"]);
    for image in [SMALL, ODD, BIG] {
        let (source, tag) = (stack.image(image), image.replace(':', "-"));
        let outcome = local.push(image, "app", &[&tag]).run().ok();
        assert_eq!(outcome.lines(), [local.name(&format!("app:{tag}"))], "{outcome}");
        source.image.assert_same(&local.pull(&format!("app:{tag}")).image);
        source.image.assert_same(&local.docker_pull(&format!("app:{tag}")));
    }
    let id = &stack.image(SMALL).id;
    let archive = format!("docker-archive:{}", stack.image(SMALL).archive.display());
    let digest = local.pull("app:small-1").digest;
    for (image, tag) in [(id.as_str(), "by-id"), (&id[7..19], "by-short-id"), (&archive, "archive")] {
        let printed = local.push(image, "app", &[tag]).args(["--output", "json"]).run().ok().json();
        assert_eq!(printed["digest"], digest.as_str());
    }
    local.push(SMALL, "missing", &["v1"]).run().exit(1).says(&["missing", "--create-repository"]);
    local.push(SMALL, "created", &["v1"]).arg("--create-repository").run().ok();
}

#[test]
fn docker_and_skopeo_push_to_local_ecr() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let local = LocalEcr::start(stack, &["team/app"]);
    for (image, tag) in [(SMALL, "v1"), (ODD, "v2")] {
        let source = stack.image(image);
        local.docker_push(image, &format!("team/app:{tag}")).ok();
        source.image.assert_same(&local.pull(&format!("team/app:{tag}")).image);
        let (from, to) = (
            format!("docker-archive:{}", source.archive.display()),
            format!("docker://{}", local.name("team/app:copy")),
        );
        stack
            .skopeo(&[
                "copy",
                "-q",
                "--dest-tls-verify=false",
                "--dest-creds",
                &format!("AWS:{}", local.password()),
                &from,
                &to,
            ])
            .ok();
        source.image.assert_same(&local.docker_pull("team/app:copy"));
        let wrong = stack.skopeo(&["copy", "-q", "--dest-tls-verify=false", "--dest-creds", "AWS:wrong", &from, &to]);
        assert_ne!(wrong.status, 0);
    }
    local
        .docker_push(SMALL, "team/missing:v1")
        .exit(1)
        .says(&["The repository with name 'team/missing' does not exist"]);
}

#[test]
fn the_aws_cli_drives_local_ecr() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let local = LocalEcr::start(stack, &[]);
    let source = stack.image(SMALL);
    let create = ["ecr", "create-repository", "--repository-name", "cli/app"];
    let made = local.aws(&create).ok().json();
    assert_eq!(made["repository"]["repositoryUri"], local.name("cli/app"));
    local.aws(&create).says(&["RepositoryAlreadyExistsException"]);
    local.docker_push(SMALL, "cli/app:v1").ok();
    let digest = local.pull("cli/app:v1").digest;
    let images = local.aws(&["ecr", "describe-images", "--repository-name", "cli/app"]).ok().json();
    assert_eq!(images["imageDetails"][0]["imageDigest"], digest.as_str(), "{images}");
    assert_eq!(images["imageDetails"][0]["imageTags"], json!(["v1"]), "{images}");
    let got = local
        .aws(&["ecr", "batch-get-image", "--repository-name", "cli/app", "--image-ids", "imageTag=v1"])
        .ok()
        .json();
    let manifest: serde_json::Value =
        serde_json::from_str(got["images"][0]["imageManifest"].as_str().expect("a manifest")).expect("JSON");
    assert_eq!(manifest["config"]["digest"], source.id.as_str());
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let check = ["ecr", "batch-check-layer-availability", "--repository-name", "cli/app", "--layer-digests", layer];
    assert_eq!(local.aws(&check).ok().json()["layers"][0]["layerAvailability"], "AVAILABLE");
    let missing = ["ecr", "describe-repositories", "--repository-names", "cli/none"];
    local.aws(&missing).says(&["RepositoryNotFoundException"]);

    let fixed =
        ["ecr", "put-image-tag-mutability", "--repository-name", "cli/app", "--image-tag-mutability", "IMMUTABLE"];
    local.aws(&fixed).ok();
    stack.image(ODD);
    local.docker_push(ODD, "cli/app:v1").exit(1).says(&["immutable"]);
    local.docker_push(ODD, "cli/app:v2").ok();
    // The same image is success, another is not.
    local.push(SMALL, "cli/app", &["v1"]).run().ok();
    local.push(ODD, "cli/app", &["v1"]).run().exit(1).says(&["immutable", "v1"]);
}

/// The printed lines that are commands.
fn commands(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect()
}

/// Pastes lines into a shell that has no settings but a home of its own.
fn paste(stack: &'static Stack, home: &str, lines: &[String]) -> Outcome {
    let script = stack.space.write(&format!("{home}/pasted.sh"), lines.join("\n"));
    let home = script.parent().expect("a folder").to_owned();
    let shell = stack.space.command("sh").args(["-eux"]).arg(&script);
    shell.env("HOME", &home).env("DOCKER_HOST", stack.engine().host()).env("XDG_RUNTIME_DIR", home).run()
}

#[test]
fn clients_off_loopback_are_led_to_the_address_that_they_asked_for() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    // An address that nothing else has, and that leads nowhere from here.
    let address = "192.0.2.7";
    stack.space.command("ip").args(["address", "replace", &format!("{address}/32"), "dev", "lo"]).run().ok();
    let local = LocalEcr::listening(stack, "0.0.0.0", &["app"]);
    let (endpoint, host) = (format!("http://{address}:{}", local.port), format!("{address}:{}", local.port));
    let aws = |words: &[&str]| stack.aws(&stack.admin, &[&["--endpoint-url", endpoint.as_str()], words].concat());
    let token = aws(&["ecr", "get-authorization-token"]).ok().json();
    assert_eq!(token["authorizationData"][0]["proxyEndpoint"], endpoint.as_str());
    let described = aws(&["ecr", "describe-repositories"]).ok().json();
    assert_eq!(described["repositories"][0]["repositoryUri"], format!("{host}/app"));
    // There and back: uploads and blobs are where the client can reach them, and with its password still in hand.
    let source = stack.image(SMALL);
    let credentials = format!("AWS:{}", aws(&["ecr", "get-login-password"]).ok().stdout.trim());
    let (from, name) = (format!("docker-archive:{}", source.archive.display()), format!("{host}/app:v1"));
    let to = format!("docker://{name}");
    stack.skopeo(&["copy", "-q", "--dest-tls-verify=false", "--dest-creds", &credentials, &from, &to]).ok();
    let pulled = pull_from(stack, &name, &["--src-tls-verify=false", "--src-creds", &credentials]);
    source.image.assert_same(&pulled.image);
    // On this machine it is there as ever.
    local.aws(&["ecr", "describe-repositories"]).ok();
}

#[test]
fn what_local_ecr_prints_works_as_pasted() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    for (repositories, repository) in [(&["team/pasted"][..], "team/pasted"), (&[][..], "app")] {
        let local = LocalEcr::start(stack, repositories);
        wait_for("the commands", Duration::from_secs(10), || read(&local.said).contains("skopeo copy").then_some(()));
        let lines: Vec<_> = commands(&read(&local.said))
            .iter()
            .map(|line| {
                let line =
                    line.replace("docker-archive:IMAGE.tar", &format!("docker-archive:{}", source.archive.display()));
                // The test's skopeo has no policy of its own.
                line.replace("IMAGE", SMALL).replace("skopeo copy", "skopeo --insecure-policy copy")
            })
            .collect();
        assert!(lines.len() >= 6, "{lines:?}");
        let prepare = |line: &&String| !["docker ", "skopeo"].iter().any(|program| line.contains(program));
        let lines_of = |program: &str| -> Vec<String> {
            lines.iter().filter(|line| prepare(line) || line.contains(program)).cloned().collect()
        };
        // Each way to push on its own: what one has pushed must not hide that the other fails.
        let home = format!("pasted-{}", local.port);
        paste(stack, &home, &lines_of("docker ")).ok();
        let name = format!("{repository}:v1");
        source.image.assert_same(&local.pull(&name).image);
        stack.engine().run(&["rmi", &local.name(&name)]);
        let delete = ["ecr", "batch-delete-image", "--repository-name", repository, "--image-ids", "imageTag=v1"];
        local.aws(&delete).ok();
        let mut skopeo = lines_of("skopeo");
        skopeo.retain(|line| !line.contains("create-repository"));
        paste(stack, &home, &skopeo).ok();
        source.image.assert_same(&local.pull(&name).image);
    }
}

#[test]
fn what_the_demo_prints_works_as_pasted() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let log = stack.space.path("demo.log");
    let archive = format!("docker-archive:{}", source.archive.display());
    stack.space.command(program()).args(["demo", "--keep", &archive]).serve(&log);
    let text = wait_for("the demo's commands", Duration::from_secs(60), || {
        Some(read(&log)).filter(|text| text.contains("aws ecr describe-images"))
    });
    let lines = commands(&text);
    assert_eq!(lines.len(), 4, "{text}");
    // Each in a shell and a home of its own: docker's login must not be what makes the others work.
    let docker = paste(stack, "demo-docker", &lines[..2]).ok();
    let pulled = lines[1].strip_prefix("docker pull ").expect("a pull");
    assert!(docker.stdout.contains(pulled), "{docker}");
    stack.engine().run(&["rmi", pulled]);
    let digest = text.lines().find_map(|line| line.strip_prefix("Digest")).expect("a digest").trim().to_owned();
    for line in &lines[2..] {
        let name = line.split_whitespace().find(|word| ["skopeo", "aws"].contains(word)).expect("a program");
        let outcome = paste(stack, &format!("demo-{name}"), std::slice::from_ref(line)).ok();
        assert!(outcome.stdout.contains(&digest), "{outcome}");
    }
}

#[test]
fn the_demo_needs_nothing() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let demo = |words: &[&str]| {
        stack.space.command(program()).arg("demo").args(words).env("DOCKER_HOST", stack.engine().host()).run()
    };
    let alone = demo(&[]).ok();
    assert!(alone.stdout.contains("sha256:"), "{alone}");
    let real = demo(&[&source.name]).ok();
    assert!(real.stdout.contains("sha256:"), "{real}");
}
