//! The judges are judged first: with other clients in the place of `ecr-push`, the stack has to take what is right and refuse what
//! is wrong, and the comparison has to find a difference.

use crate::command::wait_for;
use crate::image::{ODD, SMALL};
use crate::proxy::Proxy;
use crate::space::Space;
use crate::stack::{API, HOST, Keys, Stack};
use crate::verify::{pull_with_docker, pull_with_skopeo, read_dir_layout};
use crate::{image, parts};
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// Tags an image for the registry and pushes it with the Docker CLI.
fn docker_push(stack: &'static Stack, image: &str, reference: &str) -> crate::command::Outcome {
    let name = format!("{HOST}/{reference}");
    stack.engine().run(&["tag", image, &name]);
    let outcome = stack.engine().try_docker(&["push", &name]).run();
    stack.engine().run(&["rmi", &name]);
    outcome
}

#[test]
fn docker_push_comes_back_unchanged() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    docker_push(stack, SMALL, "harness/docker:v1").ok();
    source.image.assert_same(&pull_with_skopeo(stack, "harness/docker:v1").image);
    source.image.assert_same(&pull_with_docker(stack, "harness/docker:v1"));
    // One for each layer and one for the config; dockerd mounts those that it has pushed to another repository.
    let blobs = source.image.distinct_layers() + 1;
    assert_eq!(stack.stored("harness/docker"), blobs);
    docker_push(stack, SMALL, "harness/docker:v2").ok();
    assert_eq!(stack.stored("harness/docker"), blobs);
}

#[test]
fn skopeo_copy_comes_back_unchanged() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(ODD);
    let from = format!("docker-archive:{}", source.archive.display());
    stack.skopeo(&["copy", &from, &format!("docker://{HOST}/harness/skopeo:v1")]).ok();
    source.image.assert_same(&pull_with_skopeo(stack, "harness/skopeo:v1").image);
}

#[test]
fn small_image_holds_every_kind_of_file() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let image = &stack.image(SMALL).image;
    assert_eq!(image.layers.len(), 3);
    let kinds = &image.layers[1].entries;
    assert_eq!(kinds["kinds/setuid"].mode & 0o7777, 0o4755);
    assert_eq!(image.layers[2].entries["noise/noise"].owner, (1000, 1001));
    assert!(kinds.values().any(|entry| entry.kind == b'1'), "a hard link");
    assert_eq!(kinds["kinds/soft"].link.as_deref(), Some(&b"../files/nowhere"[..]));
    assert!(kinds.contains_key("kinds/größe 測試") && kinds.keys().any(|path| path.len() > 300));
    assert!(image.layers[2].entries["noise/empty"].size == 0);
}

#[test]
fn odd_image_has_an_empty_and_a_repeated_layer() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let image = &stack.image(ODD).image;
    assert_eq!((image.layers.len(), image.distinct_layers()), (5, 3));
    assert!(image.layers[1].entries.is_empty());
    assert_eq!(image.layers[0], image.layers[3]);
}

#[test]
fn a_missing_repository_is_refused_by_the_guard() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let sentence = "The repository with name 'harness/guarded' does not exist in the registry with id '123456789012'";
    docker_push(stack, SMALL, "harness/guarded:v1").exit(1).says(&[sentence]);
    let from = format!("docker-archive:{}", source.archive.display());
    let to = format!("docker://{HOST}/harness/guarded:v1");
    stack.skopeo(&["copy", &from, &to]).exit(1).says(&["harness/guarded"]);
    stack.create_repository("harness/guarded");
    stack.skopeo(&["copy", &from, &to]).ok();
    source.image.assert_same(&pull_with_skopeo(stack, "harness/guarded:v1").image);
}

#[test]
fn a_wrong_password_is_refused_by_the_registry() {
    for stack in [Stack::signed(PARTS), Stack::guarded(PARTS)].into_iter().flatten() {
        let to = format!("docker://{HOST}/harness/password:v1");
        let from = format!("docker-archive:{}", stack.image(SMALL).archive.display());
        stack.skopeo(&["copy", "--dest-creds", "AWS:wrong", &from, &to]).exit(1).says(&["unauthorized"]);
    }
}

#[test]
fn signatures_and_permissions_are_checked() {
    let Some(stack) = Stack::signed(&[]) else {
        return;
    };
    let describe = ["ecr", "describe-repositories"];
    stack.aws(&stack.admin, &describe).ok();
    stack.aws(&stack.admin, &["sts", "get-caller-identity"]).ok();
    let wrong = Keys { secret: "wrong".into(), ..stack.admin.clone() };
    assert_ne!(stack.aws(&wrong, &describe).status, 0);
    stack.aws(&wrong, &["sts", "get-caller-identity"]).says(&["SignatureDoesNotMatch"]);
    let unknown = Keys { id: "AKIAUNKNOWNUNKNOWN00".into(), ..stack.admin.clone() };
    assert_ne!(stack.aws(&unknown, &describe).status, 0);
    let limited = stack.user("harness-limited", &["ecr:GetAuthorizationToken"]);
    stack.aws(&limited, &["ecr", "get-authorization-token"]).ok();
    assert_ne!(stack.aws(&limited, &describe).status, 0);
    assert_ne!(stack.aws(&limited, &["ecr", "create-repository", "--repository-name", "harness/limited"]).status, 0);
}

#[test]
fn the_api_checks_for_layers() {
    let Some(stack) = Stack::guarded(&[]) else {
        return;
    };
    stack.create_repository("harness/layers");
    let digest = format!("sha256:{}", "0".repeat(64));
    let words =
        ["ecr", "batch-check-layer-availability", "--repository-name", "harness/layers", "--layer-digests", &digest];
    // Needs moto 5.2.5.
    let answer = stack.aws(&stack.admin, &words).ok().json();
    assert_eq!(answer["failures"][0]["failureCode"], "MissingLayerDigest", "{answer}");
}

#[test]
fn a_changed_image_is_found_out() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let (space, engine) = (&stack.space, stack.engine());
    let source = stack.image(SMALL);
    image::on_top(space, engine, SMALL, "harness/tampered:1", b"one file more");
    docker_push(stack, "harness/tampered:1", "harness/tampered:v1").ok();
    let pulled = pull_with_skopeo(stack, "harness/tampered:v1");
    assert!(!source.image.differences(&pulled.image).is_empty());
    let mut changed = source.image.clone();
    changed.layers[1].entries.get_mut("kinds/setuid").expect("the file").mode = 0o755;
    assert_eq!(source.image.differences(&changed).len(), 1);

    // One bit, in the last layer.
    let folder = tempfile::tempdir_in(space.folder()).expect("a folder");
    let to = format!("dir:{}", folder.path().display());
    stack.skopeo(&["copy", "-q", &format!("docker://{HOST}/harness/tampered:v1"), &to]).ok();
    assert!(read_dir_layout(folder.path()).is_ok());
    let digest = pulled.manifest["layers"][2]["digest"].as_str().expect("a digest");
    let blob = folder.path().join(digest.trim_start_matches("sha256:"));
    let mut bytes = std::fs::read(&blob).expect("the blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).expect("the blob");
    assert!(read_dir_layout(folder.path()).is_err_and(|error| error.contains("has the content of")));
}

#[test]
fn the_proxy_leads_to_another_certificate() {
    let Some(stack) = Stack::guarded(&["python3"]) else {
        return;
    };
    let proxy = Proxy::start(stack, Some("user:pass word"));
    let through = |address: String| {
        let words = ["ecr", "describe-registry"];
        let command = stack.with_keys(stack.space.command("aws"), &stack.admin).env("AWS_DEFAULT_REGION", "us-east-1");
        command.env("HTTPS_PROXY", address).env("AWS_MAX_ATTEMPTS", "1").args(words)
    };
    assert_ne!(through(proxy.address()).run().status, 0, "the stack's own authority must not do");
    let trusting = |command: crate::command::Cmd| command.env("AWS_CA_BUNDLE", stack.space.path("proxy-ca.crt"));
    trusting(through(proxy.address())).run().ok();
    assert_ne!(trusting(through(proxy.address_without_password())).run().status, 0);
    assert_ne!(trusting(through(proxy.address())).env("NO_PROXY", ".amazonaws.com").run().status, 0);
    let api = format!("{API}:443");
    assert_eq!(proxy.log(), [("200".into(), api.clone()), ("200".into(), api.clone()), ("407".into(), api)]);
}

#[test]
fn a_space_ends_with_everything_in_it() {
    if !parts::present(&[]) {
        return;
    }
    let space = Space::new("ends");
    let folder = space.folder().to_owned();
    let mut inside = space.command("sleep").arg("1000").serve(&space.path("log"));
    assert!(!inside.has_ended());
    drop(space);
    wait_for("the end of what ran inside", Duration::from_secs(5), || inside.has_ended().then_some(()));
    assert!(!folder.exists());
}
