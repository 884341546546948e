//! An image is the same through every door: the engine's own store, its export, and what it saved. `odd_images.py` makes the images.

use crate::command::Cmd;
use crate::engine::Engine;
use crate::image::{ODD, SMALL, noise};
use crate::layers::{
    bring_back, fresh, in_engine, of_docker_archive, pull_with_containerd, pull_with_podman, skopeo, told,
};
use crate::parts;
use crate::push::reported;
use crate::stack::{HOST, Stack};
use crate::verify::hex_sha256;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

const PARTS: &[&str] = &["dockerd", "docker", "runc", "skopeo", "python3", "tar", "ldd", "find"];

/// Layers whose files the store holds under other names than their tar does: it leads nowhere, and the export is taken.
const ONLY_EXPORTED: &[&str] = &["through-a-symlink"];

/// Has the stack's engine load or build one image.
fn make(stack: &'static Stack, file: &Path, name: &str) {
    let engine = stack.engine();
    if file.extension().is_some_and(|ending| ending == "load") {
        engine.run(&["load", "-q", "-i", &file.display().to_string()]);
        return;
    }
    // Its steps run in control groups on the machine itself, whose folders dockerd leaves behind.
    let group = format!("ecr-push-doors-{}", std::process::id());
    let build = ["build", "-q", "--network=none", "--cgroup-parent", &format!("/{group}"), "-t", name, "-"];
    let outcome = engine.try_docker(&build).stdin(file).run();
    let ours = format!("*/{group}*");
    let words = ["/sys/fs/cgroup", "-depth", "-type", "d", "-path", &ours, "-exec", "rmdir", "{}", ";"];
    let _ = std::process::Command::new("find").args(words).env_clear().env("PATH", parts::path()).output();
    outcome.ok();
}

/// Pushes one image through every door and compares.
fn check(stack: &'static Stack, file: &Path) {
    let tag = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let name = format!("odd/{tag}:1");
    make(stack, file, &name);
    let engine = stack.engine();
    let archive = stack.space.path(&format!("odd-{tag}.tar"));
    engine.run(&["save", "-o", &archive.display().to_string(), &name]);
    let diff_ids = of_docker_archive(&archive);
    assert_eq!(in_engine(engine, &name), diff_ids, "{name}: docker save has the layers that the engine names");

    let through = |door: &str, image: &str, options: &[&str]| {
        let repository = format!("doors/{door}");
        let outcome = told(stack, engine, image, &repository, tag).args(["--reuse", "off"]).args(options).run().ok();
        let text = outcome.stderr.clone();
        (reported(outcome, &repository, &[tag]), text)
    };
    let (digest, log) = through("store", &name, &["--engine-store", "auto"]);
    let driver = engine.run(&["info", "--format", "{{.Driver}}"]);
    let door = format!("layers come from the {driver} store at {}", engine.file("data").display());
    assert!(log.contains(&door), "{name}: no {door:?} in\n{log}");
    let is_rescued = log.contains("the engine is asked for the image instead");
    assert_eq!(is_rescued, ONLY_EXPORTED.contains(&tag), "{name}:\n{log}");
    let (exported, log) = through("export", &name, &["--engine-store", "off"]);
    assert!(log.contains("layers come from the engine's export"), "{name}:\n{log}");
    let (saved, _) = through("archive", &format!("docker-archive:{}", archive.display()), &[]);
    assert_eq!((&exported, &saved), (&digest, &digest), "{name}: export and archive, and the store");

    let stored = bring_back(stack, &format!("doors/store:{tag}"), &[]);
    assert_eq!(stored.digest, digest, "{name}");
    assert_eq!(stored.config_digest, engine.run(&["image", "inspect", "--format", "{{.Id}}", &name]));
    stored.assert_holds(&diff_ids);
    std::fs::remove_file(archive).expect("the archive");
}

#[test]
fn every_door_leads_to_the_same_image() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let folder = fresh(stack);
    let script = parts::repository().join("tests/third-party/odd_images.py");
    stack.space.command("python3").arg(script).arg(&folder).run().ok();
    let entries = std::fs::read_dir(&folder).expect("images").map(|entry| entry.expect("an image").path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    assert_eq!(files.len(), 29);
    for door in ["store", "export", "archive"] {
        stack.create_repository(&format!("doors/{door}"));
    }
    let files = Mutex::new(files);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let next = files.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
                    let Some(file) = next else { break };
                    check(stack, &file);
                    std::fs::remove_file(file).expect("the image");
                }
            });
        }
    });
}

/// The media types of an image's layers, each once.
fn media_types(manifest: &Value) -> Vec<&str> {
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let mut types: Vec<&str> = layers.filter_map(|layer| layer["mediaType"].as_str()).collect();
    types.dedup();
    types
}

#[test]
fn every_codec_is_unpacked_by_skopeo() {
    let Some(stack) = Stack::signed(&["dockerd", "docker", "skopeo"]) else {
        return;
    };
    const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    const NONE: &str = "application/vnd.oci.image.layer.v1.tar";
    let codecs =
        [("gzip", GZIP), ("gzip:fast", GZIP), ("gzip:9", GZIP), ("zstd", ZSTD), ("zstd:19", ZSTD), ("none", NONE)];
    for image in [SMALL, ODD] {
        let source = stack.image(image);
        let diff_ids = of_docker_archive(&source.archive);
        let repository = format!("doors/codec-{}", &image[..3]);
        stack.create_repository(&repository);
        for (codec, media_type) in codecs {
            let tag = codec.replace(':', "-");
            let push = |image: &str| -> Cmd {
                let words = ["--reuse", "off", "--compression", codec];
                told(stack, stack.engine(), image, &repository, &tag).args(words)
            };
            let digest = reported(push(image).run(), &repository, &[&tag]);
            let reference = format!("{repository}:{tag}");
            let stored = bring_back(stack, &reference, &[]);
            assert_eq!(stored.digest, digest);
            assert_eq!(stored.config_digest, source.id, "{codec}");
            assert_eq!(media_types(&stored.manifest), [media_type], "{codec}");
            if media_type == NONE {
                assert_eq!(stored.blobs(), diff_ids);
            }
            bring_back(stack, &reference, &["--dest-decompress"]).assert_holds(&diff_ids);
            // As a file, where blobs are what they are called.
            let layout = fresh(stack);
            let to = format!("oci:{}:v1", layout.display());
            skopeo(stack, &["copy", "-q", &format!("docker://{HOST}/{reference}"), &to]).ok();
            // The same through another door.
            let archive = format!("docker-archive:{}", source.archive.display());
            assert_eq!(reported(push(&archive).run(), &repository, &[&tag]), digest, "{codec}");
        }
    }
}

/// Docker unpacks zstd from version 23 on; all others here have done so for long.
#[test]
fn docker_podman_and_containerd_unpack_what_they_can() {
    let Some(stack) = Stack::signed(&["dockerd", "docker", "skopeo", "podman", "ctr"]) else {
        return;
    };
    let source = stack.image(SMALL);
    let diff_ids = of_docker_archive(&source.archive);
    stack.create_repository("doors/pulled");
    let podman = Engine::podman(&stack.space, "podman-doors");
    let saved = fresh(stack).join("saved.tar");
    let save = saved.display().to_string();
    let noise = hex_sha256(&noise(2 << 20, 7));
    for codec in ["gzip", "zstd", "none"] {
        let words = ["--reuse", "off", "--compression", codec];
        told(stack, stack.engine(), SMALL, "doors/pulled", codec).args(words).run().ok();
        let reference = format!("{HOST}/doors/pulled:{codec}");
        let puller = stack.puller();
        let pulled = puller.try_docker(&["pull", "-q", &reference]).run();
        if codec == "zstd" && puller.run(&["version", "--format", "{{.Server.Version}}"]).starts_with("20.") {
            pulled.exit(1).says(&["failed to register layer", "invalid tar header"]);
        } else {
            pulled.ok();
            puller.run(&["save", "-o", &save, &reference]);
            puller.run(&["rmi", "-f", &reference]);
            assert_eq!(of_docker_archive(&saved), diff_ids, "docker, {codec}");
            std::fs::remove_file(&saved).expect("what was saved");
        }
        assert_eq!(puller.run(&["images", "-aq"]), "", "the next test needs an engine without images");

        pull_with_podman(stack, &podman, &format!("doors/pulled:{codec}")).ok();
        let root = podman.podman_command(&["image", "mount", &reference]).run().ok();
        let sum = stack.space.command("sha256sum").arg(format!("{}/noise/noise", root.stdout.trim())).run().ok();
        assert!(sum.stdout.starts_with(&noise), "podman, {codec}");
        podman.podman_command(&["image", "unmount", &reference]).run().ok();
        podman.podman_command(&["rmi", "-a", "-f"]).run().ok();

        // It compares diff ids itself: see lies.rs.
        pull_with_containerd(stack, &puller, &format!("doors/pulled:{codec}")).ok();
    }
}
