//! Wrong input that needs a real engine or a real archive: one sentence, nothing published.

use crate::command::{Outcome, wait_for};
use crate::engine::Engine;
use crate::image::{self, SMALL, TWINS};
use crate::push::{ecr_push, push, to_repository};
use crate::stack::Stack;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];
const SOON: Duration = Duration::from_secs(10);

/// Whether a manifest was sent.
fn published(stack: &Stack, repository: &str) -> bool {
    stack.requests(repository).iter().any(|request| request.method == "PUT" && request.uri.contains("/manifests/"))
}

/// Pushes a file to a repository of its own; the push has to be refused.
#[track_caller]
fn refused_file(stack: &'static Stack, image: &str, repository: &str) -> Outcome {
    stack.create_repository(repository);
    let outcome = to_repository(ecr_push(stack, &stack.admin), image, repository, &["v1"]).run().refused();
    assert!(!published(stack, repository), "{outcome}");
    outcome
}

#[test]
fn an_unknown_image_lists_near_names() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    push(stack, "smal:1", "bad/unknown", &["v1"]).run().refused().within(SOON).says(&["smal:1", SMALL]);
    push(stack, "small:nope", "bad/unknown", &["v1"]).run().refused().says(&["small:nope", SMALL]);
}

#[test]
fn an_ambiguous_id_is_refused() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let ids = TWINS.map(|name| stack.image(name).id.trim_start_matches("sha256:"));
    assert_eq!(ids[0][..8], ids[1][..8]);
    push(stack, &ids[0][..8], "bad/ambiguous", &["v1"]).run().refused().says(&["ambiguous", &ids[0][..8]]);
    stack.create_repository("bad/not-ambiguous");
    push(stack, &ids[0][..20], "bad/not-ambiguous", &["v1"]).run().ok();
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let host = format!("unix://{}", stack.space.path("nobody").display());
    let command = |host: &str| push(stack, SMALL, "bad/engine", &["v1"]).env("DOCKER_HOST", host);
    command(&host).run().refused().within(SOON).says(&[&host]);
    command("tcp://127.0.0.1:1").run().refused().within(SOON).says(&["127.0.0.1:1"]);
    // Every usual socket, and why not.
    command(&host).without("DOCKER_HOST").run().refused().within(SOON).says(&["docker.sock", "podman"]);
    // One that exists but refuses.
    let socket = stack.space.path("refuses");
    drop(UnixListener::bind(&socket).expect("a socket"));
    command(&format!("unix://{}", socket.display()))
        .run()
        .refused()
        .within(SOON)
        .says(&[&socket.display().to_string(), "refused"]);
}

#[test]
fn an_engine_killed_in_mid_export_publishes_nothing() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = Engine::docker(&stack.space, "victim");
    image::files(&stack.space, &engine, "victim:1", &[120 << 20]);
    stack.create_repository("bad/killed");
    let staged = engine.file("data/tmp");
    let command = push(stack, "victim:1", "bad/killed", &["v1"])
        .args(["--engine-store", "off"])
        .env("DOCKER_HOST", engine.host());
    let pushing = std::thread::spawn(move || command.run());
    wait_for("the export", Duration::from_secs(60), || {
        let export = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("docker-export");
        let begun = std::fs::read_dir(&staged).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(export)));
        (begun || pushing.is_finished()).then_some(())
    });
    engine.kill();
    let outcome = pushing.join().expect("an outcome").refused();
    assert!(!published(stack, "bad/killed"), "{outcome}");
}

#[test]
fn a_truncated_archive_is_refused() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let whole = std::fs::read(&stack.image(SMALL).archive).expect("the archive");
    for (number, length) in [whole.len() / 2, whole.len() * 9 / 10, 100, 0].into_iter().enumerate() {
        let file = stack.space.write(&format!("truncated{number}.tar"), &whole[..length]);
        refused_file(stack, &format!("docker-archive:{}", file.display()), &format!("bad/truncated{number}"));
    }
}

#[test]
fn a_foreign_archive_is_refused() {
    let Some(stack) = Stack::signed(&[PARTS, &["tar"]].concat()) else {
        return;
    };
    let tar = stack.space.path("foreign.tar");
    stack.space.command("tar").arg("-cf").arg(&tar).args(["-C", "/etc", "hosts"]).run().ok();
    let noise = stack.space.write("noise", image::noise(1 << 20, 3));
    for (number, file) in [tar.as_path(), &noise, Path::new("/nowhere")].into_iter().enumerate() {
        let path = file.display().to_string();
        refused_file(stack, &format!("docker-archive:{path}"), &format!("bad/foreign-docker{number}")).says(&[&path]);
        refused_file(stack, &format!("oci-archive:{path}"), &format!("bad/foreign-oci{number}")).says(&[&path]);
    }
    refused_file(stack, "oci:/etc", "bad/foreign-folder").says(&["/etc"]);
}

#[test]
fn a_changed_blob_in_a_layout_is_refused() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    let layout = stack.space.path("changed-layout");
    let to = format!("oci:{}:v1", layout.display());
    stack.skopeo(&["copy", "-q", &format!("docker-archive:{}", source.archive.display()), &to]).ok();
    let blobs =
        std::fs::read_dir(layout.join("blobs/sha256")).expect("blobs").map(|entry| entry.expect("a blob").path());
    let blob = blobs.max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len())).expect("a blob");
    let mut bytes = std::fs::read(&blob).expect("the blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&blob, bytes).expect("the blob");
    let digest = blob.file_name().expect("a digest").to_string_lossy().into_owned();
    refused_file(stack, &format!("oci:{}", layout.display()), "bad/changed").says(&[&digest[..12]]);
}
