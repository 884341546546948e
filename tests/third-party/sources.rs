//! Every place an image can be in, pushed into the stack whose API checks signatures, and brought back.

use crate::command::Cmd;
use crate::engine::Engine;
use crate::image::{BIG, ODD, SMALL, Saved};
use crate::push::{ecr_push, push, reported, to_repository};
use crate::stack::{HOST, Stack};
use crate::verify::{SCHEMA2, pull_with_docker, pull_with_skopeo};
use std::path::Path;
use std::sync::OnceLock;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// Runs a push with JSON output, checks what it reports, brings the image back with skopeo and compares everything with the source.
/// Gives the digest.
#[track_caller]
fn arrives(stack: &'static Stack, command: Cmd, source: &Saved, repository: &str, tag: &str) -> String {
    let digest = reported(command.args(["--output", "json"]).run(), repository, &[tag]);
    let pulled = pull_with_skopeo(stack, &format!("{repository}:{tag}"));
    assert_eq!(pulled.digest, digest, "the digest reported is the digest stored");
    source.image.assert_same(&pulled.image);
    digest
}

/// A push of a file, without any engine.
fn push_file(stack: &'static Stack, image: &str, repository: &str) -> Cmd {
    stack.create_repository(repository);
    let nowhere = format!("unix://{}", stack.space.path("no-engine").display());
    to_repository(ecr_push(stack, &stack.admin).env("DOCKER_HOST", nowhere), image, repository, &["v1"])
}

/// Podman with both images loaded.
fn podman(stack: &'static Stack) -> &'static Engine {
    static PODMAN: OnceLock<Engine> = OnceLock::new();
    PODMAN.get_or_init(|| {
        let engine = Engine::podman(&stack.space, "podman");
        for name in [SMALL, BIG] {
            engine.podman_command(&["load", "-q", "-i"]).arg(&stack.image(name).archive).run().ok();
        }
        engine
    })
}

/// Copies an image's archive with skopeo.
fn copied(stack: &'static Stack, name: &str, to: &str, file: &str) -> String {
    let to = format!("{to}:{}", stack.space.path(file).display());
    let tagged = format!("{to}:v1");
    stack.skopeo(&["copy", "-q", &format!("docker-archive:{}", stack.image(name).archive.display()), &tagged]).ok();
    to
}

#[test]
fn big_image_by_each_of_its_names() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(BIG);
    assert_eq!(source.image.distinct_layers(), 10);
    stack.create_repository("sources/big");
    let (name, _) = BIG.split_once(':').expect("a tag");
    stack.engine().run(&["tag", BIG, &format!("{name}:latest")]);
    let digest = arrives(stack, push(stack, name, "sources/big", &["by-name"]), source, "sources/big", "by-name");
    assert_eq!(stack.stored("sources/big"), 11, "ten layers and the config");
    source.image.assert_same(&pull_with_docker(stack, "sources/big:by-name"));
    let id = source.id.trim_start_matches("sha256:");
    for (image, tag) in [(BIG, "by-tag"), (id, "by-id"), (&source.id, "by-full-id"), (&id[..12], "by-short-id")] {
        let outcome = push(stack, image, "sources/big", &[tag]).args(["--output", "json"]).run();
        assert_eq!(reported(outcome, "sources/big", &[tag]), digest);
        assert_eq!(digest_of(stack, &format!("docker://{HOST}/sources/big:{tag}")), digest);
    }
    assert_eq!(stack.stored("sources/big"), 11);
}

#[test]
fn small_image_by_each_of_its_names() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let id = source.id.trim_start_matches("sha256:");
    let names = [SMALL, &source.id, id, &id[..12], "docker-daemon:small:1"];
    let digests: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(number, image)| {
            // Each in its own repository: every name has to lead to the layers, too.
            let repository = format!("sources/small{number}");
            stack.create_repository(&repository);
            arrives(stack, push(stack, image, &repository, &["v1"]), source, &repository, "v1")
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    source.image.assert_same(&pull_with_docker(stack, "sources/small0:v1"));
}

#[test]
fn the_manifest_is_what_docker_push_makes() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    stack.create_repository("sources/manifest");
    push(stack, SMALL, "sources/manifest", &["v1"]).run().ok();
    let manifest = pull_with_skopeo(stack, "sources/manifest:v1").manifest;
    assert_eq!(manifest["mediaType"], SCHEMA2);
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
    for layer in manifest["layers"].as_array().expect("layers") {
        assert_eq!(layer["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
    }
    assert_eq!(manifest["config"]["digest"], source.id);
}

#[test]
fn results_are_one_line_for_each_tag() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("sources/lines");
    let outcome = push(stack, SMALL, "sources/lines", &["1.2.3", "latest", "1.2"]).run().ok();
    let mut lines = outcome.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["1.2", "1.2.3", "latest"].map(|tag| format!("{HOST}/sources/lines:{tag}")), "{outcome}");
    // In the order given, but the tag that moves last.
    let requests = stack.requests("sources/lines");
    let put = requests.iter().filter(|request| request.method == "PUT" && request.uri.contains("/manifests/"));
    let tags: Vec<&str> = put.filter_map(|request| request.uri.rsplit('/').next()).collect();
    assert_eq!(tags, ["1.2.3", "1.2", "latest"]);
    let outcome = push(stack, SMALL, "sources/lines", &[]).run().ok();
    assert_eq!(outcome.lines(), [format!("{HOST}/sources/lines:latest")], "{outcome}");
}

#[test]
fn repeated_and_empty_layers() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(ODD);
    for (number, file) in [None, Some(source.archive.display())].into_iter().enumerate() {
        let repository = format!("sources/odd{number}");
        let command = match file {
            None => {
                stack.create_repository(&repository);
                push(stack, ODD, &repository, &["v1"])
            }
            Some(file) => push_file(stack, &format!("docker-archive:{file}"), &repository),
        };
        arrives(stack, command, source, &repository, "v1");
        assert_eq!(stack.stored(&repository), 4, "three different layers and the config");
        source.image.assert_same(&pull_with_docker(stack, &format!("{repository}:v1")));
    }
}

#[test]
fn podman_socket() {
    let Some(stack) = Stack::signed(&[PARTS, &["podman"]].concat()) else {
        return;
    };
    let engine = podman(stack);
    for (number, name) in [SMALL, BIG].into_iter().enumerate() {
        let repository = format!("sources/podman{number}");
        stack.create_repository(&repository);
        let command = push(stack, name, &repository, &["v1"]).env("DOCKER_HOST", engine.host());
        arrives(stack, command, stack.image(name), &repository, "v1");
    }
}

#[test]
fn docker_archive() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(BIG);
    let command = push_file(stack, &format!("docker-archive:{}", source.archive.display()), "sources/archive");
    arrives(stack, command, source, "sources/archive", "v1");
    source.image.assert_same(&pull_with_docker(stack, "sources/archive:v1"));
}

#[test]
fn docker_archive_with_a_reference() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let (small, odd) = (stack.image(SMALL), stack.image(ODD));
    let file = stack.space.path("two.tar").display().to_string();
    stack.engine().run(&["save", "-o", &file, SMALL, ODD]);
    for (source, repository) in [(small, "sources/two-a"), (odd, "sources/two-b")] {
        let command = push_file(stack, &format!("docker-archive:{file}:{}", source.name), repository);
        arrives(stack, command, source, repository, "v1");
    }
    push_file(stack, &format!("docker-archive:{file}"), "sources/two-c").run().refused().says(&[SMALL, ODD]);
}

#[test]
fn docker_archive_compressed_and_from_standard_input() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let packed = format!("{}.gz", source.archive.display());
    let script = r#"gzip -c "$1" >"$2""#;
    stack.space.command("sh").args(["-c", script, "sh"]).arg(&source.archive).arg(&packed).run().ok();
    let command = push_file(stack, &format!("docker-archive:{packed}"), "sources/gz");
    let digest = arrives(stack, command, source, "sources/gz", "v1");
    for (number, file) in [Path::new(&packed), &source.archive].into_iter().enumerate() {
        let repository = format!("sources/stdin{number}");
        let command = push_file(stack, "docker-archive:-", &repository).stdin(file);
        assert_eq!(arrives(stack, command, source, &repository, "v1"), digest);
    }
}

#[test]
fn podman_save() {
    let Some(stack) = Stack::signed(&[PARTS, &["podman"]].concat()) else {
        return;
    };
    for format in ["docker-archive", "oci-archive"] {
        let file = stack.space.path(&format!("podman-{format}.tar")).display().to_string();
        podman(stack).podman_command(&["save", "-q", "--format", format, "-o", &file, SMALL]).run().ok();
        let repository = format!("sources/podman-{format}");
        let digest = reported(
            push_file(stack, &format!("{format}:{file}"), &repository).args(["--output", "json"]).run(),
            &repository,
            &["v1"],
        );
        let pulled = pull_with_skopeo(stack, &format!("{repository}:v1"));
        assert_eq!(pulled.digest, digest);
        assert_eq!(pulled.image.layers, stack.image(SMALL).image.layers);
    }
}

/// Pushes what skopeo made of an image. The layers have to be the source's, and the manifest goes byte for byte: skopeo writes
/// another config than dockerd's, so the manifest's digest is the one to compare.
#[track_caller]
fn arrives_as_it_is(stack: &'static Stack, image: &str, source: &Saved, repository: &str, digest: &str) {
    let command = push_file(stack, image, repository).args(["--output", "json"]);
    assert_eq!(reported(command.run(), repository, &["v1"]), digest);
    let pulled = pull_with_skopeo(stack, &format!("{repository}:v1"));
    assert_eq!(pulled.digest, digest);
    assert_eq!(pulled.image.layers, source.image.layers);
}

/// The digest of an image's manifest, as skopeo sees it.
fn digest_of(stack: &Stack, image: &str) -> String {
    let outcome = stack.skopeo(&["inspect", "--format", "{{.Digest}}", image]).ok();
    outcome.stdout.trim().to_owned()
}

#[test]
fn oci_layout() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(BIG);
    let layout = copied(stack, BIG, "oci", "big-layout");
    arrives_as_it_is(stack, &layout, source, "sources/oci", &digest_of(stack, &layout));
    let pulled = pull_with_docker(stack, "sources/oci:v1");
    assert_eq!(pulled.layers, source.image.layers);
}

#[test]
fn oci_layout_with_a_reference_and_oci_archive() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let layout = copied(stack, SMALL, "oci", "small-layout");
    let expected = digest_of(stack, &layout);
    arrives_as_it_is(stack, &format!("{layout}:v1"), source, "sources/oci-ref", &expected);
    let archive = copied(stack, SMALL, "oci-archive", "small-oci.tar");
    let expected = digest_of(stack, &archive);
    arrives_as_it_is(stack, &archive, source, "sources/oci-archive", &expected);
    let nothing = push_file(stack, &format!("{layout}:v2"), "sources/oci-none");
    nothing.run().refused().says(&["v2", "v1"]);
}
