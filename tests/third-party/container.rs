//! The container image of `ecr-push`, built by dockerd without a network and run by it.

use crate::archive::DockerArchive;
use crate::command::{Cmd, Outcome};
use crate::image::{ODD, SMALL};
use crate::parts::{self, repository};
use crate::push::{reported, shipped};
use crate::stack::Stack;
use crate::verify::{Image, pull_with_skopeo};
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

const PARTS: &[&str] = &["dockerd", "docker", "runc", "skopeo", "update-ca-certificates"];
/// What the image is called in the stack's engine.
const NAME: &str = "container/ecr-push:1";

/// The control group that the containers of this process are in, to find it again.
fn group() -> String {
    format!("ecr-push-tests-{}", std::process::id())
}

/// The script that builds the image, as users run it.
fn script(stack: &'static Stack) -> Cmd {
    stack.space.command(repository().join("integrations/container/build")).arg("--program").arg(shipped())
}

/// The stack whose engine has the image.
fn built() -> Option<&'static Stack> {
    static BUILT: OnceLock<()> = OnceLock::new();
    let stack = Stack::signed(PARTS)?;
    BUILT.get_or_init(|| {
        let engine = stack.engine();
        script(stack).arg(NAME).env("DOCKER_HOST", engine.host()).env("DOCKER_BUILDKIT", "0").run().ok();
    });
    Some(stack)
}

/// `docker run` of the image with an administrator's keys, the options given, and what is to be done by the program in it.
fn container(stack: &'static Stack, options: &[&str], words: &[&str]) -> Cmd {
    let keys = ["--env", "AWS_ACCESS_KEY_ID", "--env", "AWS_SECRET_ACCESS_KEY"];
    container_without_keys(stack, &[&keys[..], options].concat(), words)
        .env("AWS_ACCESS_KEY_ID", &stack.admin.id)
        .env("AWS_SECRET_ACCESS_KEY", &stack.admin.secret)
}

fn container_without_keys(stack: &'static Stack, options: &[&str], words: &[&str]) -> Cmd {
    // The stack's network is loopback; an engine without a bridge has nothing else to offer.
    let group = format!("/{}", group());
    let run = ["run", "--network", "host", "--cgroup-parent", &group];
    stack.engine().try_docker(&[&run, options, &[NAME], words].concat())
}

/// Runs a container, or some. The engine leaves the folders of its control groups behind, on the machine itself.
fn run(command: Cmd) -> Outcome {
    // One after the other: the folder must not vanish while a container is about to be put into it.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let outcome = command.run();
    let ours = format!("*/{}*", group());
    let words = ["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &ours, "-exec", "rmdir", "{}", ";"];
    let _ = std::process::Command::new("find").args(words).env_clear().env("PATH", parts::path()).output();
    outcome
}

/// The options that mount a file or folder for reading.
fn mount(from: &Path, to: &str) -> [String; 2] {
    ["--volume".into(), format!("{}:{to}:ro", from.display())]
}

/// Sets a file's mode.
fn allow(file: &Path, mode: u32) {
    std::fs::set_permissions(file, Permissions::from_mode(mode)).expect("another mode");
}

/// A copy of a file that every user may read.
fn readable(file: &Path, copy: &Path) -> PathBuf {
    std::fs::copy(file, copy).expect("a copy");
    allow(copy, 0o644);
    copy.to_owned()
}

/// The options that make the program trust the stack.
fn trusting(stack: &Stack) -> Vec<String> {
    let mut options = mount(&stack.space.path("ca.crt"), "/ca.crt").to_vec();
    options.extend(["--env", "AWS_CA_BUNDLE=/ca.crt"].map(String::from));
    options
}

fn words<'a>(lists: &[&'a [String]]) -> Vec<&'a str> {
    lists.iter().copied().flatten().map(String::as_str).collect()
}

fn pushing<'a>(image: &'a str, repository: &'a str) -> Vec<&'a str> {
    vec!["push", image, "--repository", repository, "--region", "us-east-1", "--tag", "v1", "--output", "json"]
}

#[test]
fn image_holds_the_program_certificates_and_nothing_else() {
    let Some(stack) = built() else {
        return;
    };
    let archive = stack.space.path("container.tar");
    stack.engine().run(&["save", "-o", &archive.display().to_string(), NAME]);
    let image = Image::of_docker_archive(&archive).expect("what docker saved");

    let config = &image.config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/ecr-push"]));
    assert_eq!(config["WorkingDir"], "/work");
    let environment: Vec<&str> =
        config["Env"].as_array().expect("variables").iter().filter_map(|line| line.as_str()).collect();
    assert!(environment.contains(&"HOME=/home"), "{environment:?}");
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    let entries = &image.layers[0].entries;
    assert!(image.layers[1..].iter().all(|layer| layer.entries.is_empty()), "files in a second layer");
    let modes: Vec<(&str, u32)> =
        entries.iter().map(|(path, entry)| (path.trim_end_matches('/'), entry.mode & 0o7777)).collect();
    assert_eq!(
        modes,
        [
            ("ecr-push", 0o755),
            ("etc", 0o755),
            ("etc/ssl", 0o755),
            ("etc/ssl/certs", 0o755),
            ("etc/ssl/certs/ca-certificates.crt", 0o644),
            ("home", 0o755),
            ("tmp", 0o1777),
            ("usr", 0o755),
            ("usr/share", 0o755),
            ("usr/share/doc", 0o755),
            ("usr/share/doc/ecr-push", 0o755),
            ("usr/share/doc/ecr-push/LICENSE", 0o644),
            ("usr/share/doc/ecr-push/THIRD-PARTY-NOTICES.txt", 0o644),
            ("work", 0o755),
        ]
    );
    assert!(entries.values().all(|entry| entry.owner == (0, 0)), "{entries:?}");
    let size: u64 = entries.values().map(|entry| entry.size).sum();
    assert!(size < 16_000_000, "{size} bytes are not small");

    // Mozilla's authorities, and none that only this machine trusts.
    let layers = DockerArchive::open(&archive).expect("the archive");
    let manifest: serde_json::Value =
        serde_json::from_slice(&layers.read("manifest.json").expect("a manifest")).expect("JSON");
    let layer = layers.stream(manifest[0]["Layers"][0].as_str().expect("a layer")).expect("the layer");
    let mut tar = tar::Archive::new(layer);
    let mut bundle = String::new();
    tar.entries()
        .expect("entries")
        .map(|entry| entry.expect("an entry"))
        .find(|entry| entry.path().expect("a path").ends_with("ca-certificates.crt"))
        .expect("the certificates")
        .read_to_string(&mut bundle)
        .expect("text");
    let known: Vec<String> = std::fs::read_dir("/usr/share/ca-certificates/mozilla")
        .expect("Debian's package ca-certificates")
        .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("a certificate"))
        .collect();
    assert!(known.len() > 100 && known.iter().all(|certificate| bundle.contains(certificate.trim())));
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), known.len());
}

#[test]
fn shipped_program_is_small_and_says_nothing_of_where_it_was_built() {
    if !parts::present(&[]) {
        return;
    }
    let program = std::fs::read(shipped()).expect("the program");
    // An Azure Pipelines extension has to stay under 25 MiB with the programs of five platforms. `tfx` packs it with JSZip, which is zlib at
    // its usual level; our own deflate library takes 3 % more for the same.
    let packed = std::process::Command::new("gzip").args(["-6", "-c"]).arg(shipped()).output().expect("gzip starts");
    let packed = packed.stdout.len();
    assert!(packed > 1 << 20, "gzip gave {packed} bytes");
    assert!(packed < (25 << 20) / 5, "{packed} bytes compressed, {} as it is", program.len());
    // Panic messages and the C code's assertions hold paths, of here and of the crates' sources.
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let here = repository().canonicalize().expect("this folder").display().to_string();
    for place in [cargo, here] {
        assert!(!program.windows(place.len()).any(|window| window == place.as_bytes()), "{place} is in it");
    }
}

#[test]
fn the_same_files_make_the_same_bytes() {
    let Some(stack) = built() else {
        return;
    };
    let context = |name: &str, umask: &str| {
        let file = stack.space.path(name);
        let words = ["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask];
        let script = repository().join("integrations/container/build");
        let command = stack.space.command("sh").args(words).arg(script);
        command.arg("--program").arg(shipped()).arg("--context").arg(&file).run().ok();
        std::fs::read(file).expect("a context")
    };
    assert!(context("context-a.tar", "022") == context("context-b.tar", "077"));
}

#[test]
fn script_refuses_what_would_not_run() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let build = || stack.space.command(repository().join("integrations/container/build"));
    let dynamic = parts::find("bash").expect("bash");
    build().arg("--program").arg(dynamic).run().exit(2).says(&["dynamic linker"]);
    // What readelf cannot read is not taken for static.
    let text = stack.space.write("script", "#!/bin/sh\n");
    build().arg("--program").arg(text).run().exit(2).says(&["is no program for Linux"]);
    build().args(["--program", "/no/such/program"]).run().exit(2).says(&["/no/such/program"]);
    build().arg("--program").run().exit(2).says(&["needs a file"]);
    build().arg("--unknown").run().exit(2).says(&["--unknown"]);
    let bundle = stack.space.write("no-certificate.pem", "nothing");
    script(stack).arg("--ca-bundle").arg(bundle).run().exit(2).says(&["no certificate"]);
}

#[test]
fn archive_from_a_locked_down_container() {
    let Some(stack) = built() else {
        return;
    };
    let source = stack.image(SMALL);
    stack.create_repository("container/archive");
    let folder = stack.space.path("container-work");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(&source.archive, folder.join("app.tar")).expect("a copy");
    let locked = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
    let options = [mount(&folder, "/work").to_vec(), trusting(stack), locked.map(String::from).to_vec()].concat();
    let push = || run(container(stack, &words(&[&options]), &pushing("docker-archive:app.tar", "container/archive")));
    // As `docker save -o` writes it, for its owner alone.
    push().refused().says(&["app.tar", "permission denied"]);
    allow(&folder.join("app.tar"), 0o644);
    let outcome = push();
    let digest = reported(outcome.hides(&stack.admin.secret), "container/archive", &["v1"]);
    let pulled = pull_with_skopeo(stack, "container/archive:v1");
    assert_eq!(pulled.digest, digest);
    source.image.assert_same(&pulled.image);
}

#[test]
fn archive_on_standard_input() {
    let Some(stack) = built() else {
        return;
    };
    let source = stack.image(ODD);
    stack.create_repository("container/stdin");
    let options = [trusting(stack), vec!["--interactive".into()]].concat();
    let command = container(stack, &words(&[&options]), &pushing("docker-archive:-", "container/stdin"));
    reported(run(command.stdin(&source.archive)), "container/stdin", &["v1"]);
    source.image.assert_same(&pull_with_skopeo(stack, "container/stdin:v1").image);
}

#[test]
fn image_of_the_engine_through_its_socket() {
    let Some(stack) = built() else {
        return;
    };
    let source = stack.image(SMALL);
    stack.create_repository("container/socket");
    let socket = stack.engine().socket();
    let group = std::fs::metadata(&socket).expect("the socket").gid().to_string();
    let socket = ["--volume".into(), format!("{}:/var/run/docker.sock", socket.display())];
    let options = [trusting(stack), socket.to_vec()].concat();
    let words = words(&[&options]);
    // dockerd's socket is closed to a user who is not in its group.
    let outcome = run(container(stack, &words, &pushing(SMALL, "container/socket")));
    outcome.refused().says(&["permission denied", "/var/run/docker.sock"]);
    let in_group = [&words[..], &["--group-add", &group]].concat();
    let outcome = run(container(stack, &in_group, &pushing(SMALL, "container/socket")));
    let digest = reported(outcome, "container/socket", &["v1"]);
    let pulled = pull_with_skopeo(stack, "container/socket:v1");
    assert_eq!(pulled.digest, digest);
    source.image.assert_same(&pulled.image);
}

#[test]
fn files_of_another_user() {
    let Some(stack) = built() else {
        return;
    };
    let source = stack.image(ODD);
    stack.create_repository("container/user");
    let keys =
        format!("[pipeline]\naws_access_key_id = {}\naws_secret_access_key = {}\n", stack.admin.id, stack.admin.secret);
    let file = stack.space.write("container-aws/credentials", keys);
    std::os::unix::fs::chown(&file, Some(4321), Some(4321)).expect("another owner");
    allow(&file, 0o600);
    let folder = mount(file.parent().expect("a folder"), "/home/.aws");
    let archive = readable(&source.archive, &stack.space.path("container-user.tar"));
    let archive = mount(&archive, "/work/app.tar");
    let profile = ["--env", "AWS_PROFILE=pipeline"].map(String::from);
    let options = [&trusting(stack)[..], &folder, &archive, &profile].concat();
    let words = words(&[&options]);
    let push = pushing("docker-archive:app.tar", "container/user");
    run(container_without_keys(stack, &words, &push)).refused();
    let as_owner = [&words[..], &["--user", "4321:4321"]].concat();
    reported(run(container_without_keys(stack, &as_owner, &push)), "container/user", &["v1"]);
}

#[test]
fn certificates_in_the_image_are_the_ones_that_count() {
    let Some(stack) = built() else {
        return;
    };
    stack.create_repository("container/trust");
    let archive = readable(&stack.image(ODD).archive, &stack.space.path("container-trust.tar"));
    let archive = mount(&archive, "/work/app.tar");
    let push = pushing("docker-archive:app.tar", "container/trust");
    // Mozilla does not know the stack's authority.
    run(container(stack, &words(&[&archive]), &push)).refused().says(&["a CA that is not trusted here"]);
    // In the place of the image's certificates, with no variable that names it.
    let authority = mount(&stack.space.path("ca.crt"), "/etc/ssl/certs/ca-certificates.crt");
    reported(run(container(stack, &words(&[&archive, &authority]), &push)), "container/trust", &["v1"]);
}

#[test]
fn demo_in_a_container() {
    let Some(stack) = built() else {
        return;
    };
    let version = run(container_without_keys(stack, &[], &["--version"])).ok();
    assert_eq!(version.stdout.trim(), concat!("ecr-push ", env!("CARGO_PKG_VERSION")));
    let demo = run(container_without_keys(stack, &["--read-only", "--tmpfs", "/tmp"], &["demo"])).ok();
    assert!(demo.stdout.contains("every digest is right"), "{demo}");
}

#[test]
fn stop_ends_a_push() {
    let Some(stack) = built() else {
        return;
    };
    // It waits for an archive that never comes. As process 1: what such a process does not ask for, it does not get.
    let script = r#"
        id=$("$@")
        until docker logs "$id" 2>&1 | grep -q credentials; do sleep 0.1; done
        docker stop --time 30 "$id" >/dev/null
        docker wait "$id"
        docker logs "$id" >&2
        docker rm "$id" >/dev/null"#;
    let mut options = trusting(stack);
    options.extend(["--detach", "--interactive"].map(String::from));
    let command = container(stack, &words(&[&options]), &pushing("docker-archive:-", "container/stop"));
    let outcome = run(command.through(&["bash", "-c", script, "bash"])).ok();
    assert_eq!(outcome.stdout.trim(), "143", "{outcome}");
    outcome.within(std::time::Duration::from_secs(25));
}
