//! Images for several platforms, as real engines exported them, pushed into the stack and read back by skopeo.

use crate::command::{Cmd, Outcome};
use crate::push::{ecr_push, reported, to_repository};
use crate::stack::{HOST, Stack};
use std::path::PathBuf;

/// A recorded export of an engine with the containerd store.
fn recorded(name: &str) -> String {
    let engines = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ecr-push/tests/fixtures/engines");
    format!("oci-archive:{}", engines.join(format!("docker-28.5-containerd/export-{name}.tar")).display())
}

fn push(stack: &'static Stack, image: &str, repository: &str) -> Cmd {
    stack.create_repository(repository);
    to_repository(ecr_push(stack, &stack.admin), &recorded(image), repository, &["v1"]).args(["--output", "json"])
}

/// The manifest under the tag, byte for byte.
fn raw(stack: &Stack, repository: &str) -> Outcome {
    stack.skopeo(&["inspect", "--raw", &format!("docker://{HOST}/{repository}:v1")]).ok()
}

#[test]
fn an_index_arrives_whole_with_every_platform_and_attestation() {
    let Some(stack) = Stack::signed(&["skopeo"]) else {
        return;
    };
    let outcome = push(stack, "multi", "indexes/whole").run().ok().says(&["index", "linux/arm64", "1 attestation"]);
    let digest = reported(outcome, "indexes/whole", &["v1"]);
    let index: serde_json::Value = serde_json::from_str(&raw(stack, "indexes/whole").stdout).expect("an index");
    let children = index["manifests"].as_array().expect("manifests");
    assert_eq!(children.len(), 3);
    // skopeo follows every child, and checks every digest on the way.
    let copy = stack.space.path("index-copy");
    let from = format!("docker://{HOST}/indexes/whole@{digest}");
    stack.skopeo(&["copy", "-q", "--all", "--preserve-digests", &from, &format!("dir:{}", copy.display())]).ok();
}

#[test]
fn one_platform_is_picked() {
    let Some(stack) = Stack::signed(&["skopeo"]) else {
        return;
    };
    push(stack, "multi", "indexes/platform").args(["--platform", "linux/arm64"]).run().ok();
    let config = format!("docker://{HOST}/indexes/platform:v1");
    let config = stack.skopeo(&["inspect", "--config", "--override-arch", "arm64", &config]).ok();
    assert_eq!(config.json()["architecture"], "arm64");
}

#[test]
fn attestations_are_dropped_on_request() {
    let Some(stack) = Stack::signed(&["skopeo"]) else {
        return;
    };
    push(stack, "multi", "indexes/dropped").args(["--attestations", "drop"]).run().ok().says(&["digest", "new"]);
    let index: serde_json::Value = serde_json::from_str(&raw(stack, "indexes/dropped").stdout).expect("an index");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
}

#[test]
fn platforms_without_content_are_listed() {
    let Some(stack) = Stack::signed(&["skopeo"]) else {
        return;
    };
    let words = ["linux/arm64", "present: linux/amd64", "--platform linux/amd64"];
    push(stack, "partial", "indexes/partial").run().refused().says(&words);
}
