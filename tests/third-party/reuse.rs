//! What docker-registry has is not sent again, nor read: known from its images, from this host's cache, mounted from its repositories.

use crate::command::Outcome;
use crate::engine::Engine;
use crate::layers::{
    bring_back, copy_to, done, fresh, in_engine, layered, pull_with_containerd, pull_with_podman, skopeo, told,
};
use crate::push::reported;
use crate::stack::{HOST, Request, Stack};
use crate::verify::{hex_sha256, pull_with_docker};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// The uploads since `before`: what opened one, and what was taken.
fn uploads(stack: &Stack, repository: &str, before: usize) -> Vec<Request> {
    let requests = stack.requests(repository).into_iter().skip(before);
    requests.filter(|request| request.uri.contains("/blobs/uploads/") && request.method != "GET").collect()
}

/// The diff ids of those layers for which `action` was taken, in order.
fn diff_ids(outcome: &Outcome, action: &str) -> Vec<String> {
    let mut ids: Vec<String> =
        done(outcome, action).iter().map(|layer| layer["diff_id"].as_str().expect("a digest").to_owned()).collect();
    ids.sort();
    ids
}

fn sorted(ids: &[String]) -> Vec<String> {
    let mut ids = ids.to_vec();
    ids.sort();
    ids
}

#[test]
fn a_fresh_host_sends_no_layer_that_latest_has() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = stack.engine();
    layered(stack, engine, "reuse:1", &["reuse base", "reuse middle", "reuse top"]);
    layered(stack, engine, "reuse:2", &["reuse base", "reuse middle", "reuse changed top"]);
    layered(stack, engine, "reuse:3", &["reuse base", "reuse middle", "reuse top again"]);
    let one = in_engine(engine, "reuse:1");
    assert_eq!(one.len(), 3);
    stack.create_repository("reuse/latest");
    // By another codec than the default, to see that it is not done again.
    let words = ["--compression", "gzip:9"];
    told(stack, engine, "reuse:1", "reuse/latest", "latest").args(words).run().ok();
    let first = bring_back(stack, "reuse/latest:latest", &[]);

    for store in ["auto", "off"] {
        let tag = format!("same-{store}");
        let before = stack.requests("reuse/latest").len();
        let outcome = told(stack, engine, "reuse:1", "reuse/latest", &tag).args(["--engine-store", store]).run().ok();
        assert_eq!(diff_ids(&outcome, "skipped"), sorted(&one), "{outcome}");
        assert!(done(&outcome, "skipped").iter().all(|layer| layer["reused_from"] == "latest"), "{outcome}");
        assert_eq!(outcome.json()["bytes_sent"], 0);
        assert_eq!(reported(outcome, "reuse/latest", &[&tag]), first.digest);
        let sent = uploads(stack, "reuse/latest", before);
        assert!(sent.is_empty(), "{sent:?}");

        // For the second round a third image: the registry has the top of the second by then.
        let (repository, tag) = ("reuse/latest", format!("changed-{store}"));
        let name = if store == "auto" { "reuse:2" } else { "reuse:3" };
        let before = stack.requests(repository).len();
        let ids = in_engine(engine, name);
        let outcome = told(stack, engine, name, repository, &tag).args(["--engine-store", store]).run().ok();
        assert_eq!(diff_ids(&outcome, "skipped"), sorted(&ids[..2]), "{outcome}");
        assert_eq!(diff_ids(&outcome, "sent"), ids[2..], "{outcome}");
        let digest = reported(outcome, repository, &[&tag]);
        let taken = uploads(stack, repository, before).iter().filter(|request| request.status == 201).count();
        assert_eq!(taken, 2, "the top and the config");
        let stored = bring_back(stack, &format!("{repository}:{tag}"), &[]);
        assert_eq!(stored.digest, digest);
        stored.assert_holds(&ids);
        assert_eq!(stored.blobs()[..2], first.blobs()[..2], "as it was compressed the first time");
    }
}

#[test]
fn the_image_under_a_tag_that_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = stack.engine();
    layered(stack, engine, "reuse-from:1", &["from base", "from top"]);
    let ids = in_engine(engine, "reuse-from:1");
    stack.create_repository("reuse/from");
    told(stack, engine, "reuse-from:1", "reuse/from", "first").args(["--compression", "gzip:fast"]).run().ok();
    let first = bring_back(stack, "reuse/from:first", &[]);
    let push = |tag| told(stack, engine, "reuse-from:1", "reuse/from", tag);
    let outcome = push("named").args(["--reuse-from", "first"]).run().ok();
    assert!(done(&outcome, "skipped").iter().all(|layer| layer["reused_from"] == "first"), "{outcome}");
    assert_eq!(diff_ids(&outcome, "skipped"), sorted(&ids), "{outcome}");
    assert_eq!(reported(outcome, "reuse/from", &["named"]), first.digest);
    // Downloaded and checked.
    let outcome = push("verified").args(["--reuse-from", "first", "--reuse", "verify"]).run().ok();
    assert_eq!(diff_ids(&outcome, "skipped"), sorted(&ids), "{outcome}");
    assert_eq!(reported(outcome, "reuse/from", &["verified"]), first.digest);
    // A codec that was asked for is what comes out.
    let words = ["--reuse-from", "first", "--compression", "none"];
    let outcome = push("plain").args(words).run().ok();
    reported(outcome, "reuse/from", &["plain"]);
    let plain = bring_back(stack, "reuse/from:plain", &[]);
    plain.assert_holds(&ids);
    assert_eq!(plain.blobs(), ids);
}

/// A layer stays as the registry has it, so an image can come to have two codecs. Its manifest is OCI's then, which has names for all.
#[test]
fn layers_of_two_codecs_make_one_image() {
    let Some(stack) = Stack::signed(&[PARTS, &["podman", "ctr"]].concat()) else {
        return;
    };
    let engine = stack.engine();
    layered(stack, engine, "reuse-mixed:1", &["mixed bottom"]);
    layered(stack, engine, "reuse-mixed:2", &["mixed bottom", "mixed top"]);
    let ids = in_engine(engine, "reuse-mixed:2");
    let podman = Engine::podman(&stack.space, "podman-mixed");
    for (codec, ending) in [("none", ""), ("zstd", "+zstd")] {
        let repository = format!("reuse/{codec}-and-gzip");
        stack.create_repository(&repository);
        told(stack, engine, "reuse-mixed:1", &repository, codec).args(["--compression", codec]).run().ok();
        let outcome = told(stack, engine, "reuse-mixed:2", &repository, "v1").args(["--reuse-from", codec]).run().ok();
        assert_eq!(diff_ids(&outcome, "skipped"), ids[..1], "{outcome}");
        let digest = reported(outcome, &repository, &["v1"]);

        let reference = format!("{repository}:v1");
        let stored = bring_back(stack, &reference, &[]);
        assert_eq!(stored.digest, digest);
        assert_eq!(stored.manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(stored.manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
        let layers = stored.manifest["layers"].as_array().expect("layers").iter();
        let types: Vec<&str> = layers.filter_map(|layer| layer["mediaType"].as_str()).collect();
        let layer = "application/vnd.oci.image.layer.v1.tar";
        assert_eq!(types, [format!("{layer}{ending}"), format!("{layer}+gzip")]);
        bring_back(stack, &reference, &["--dest-decompress"]).assert_holds(&ids);

        pull_with_podman(stack, &podman, &reference).ok();
        pull_with_containerd(stack, &stack.puller(), &reference).ok();
        if codec == "none" {
            assert_eq!(pull_with_docker(stack, &reference).diff_ids(), ids);
        }
    }
}

/// Whatever cannot be learned from is passed over.
#[test]
fn odd_images_under_latest_are_no_reason_to_fail() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = stack.engine();
    layered(stack, engine, "odd-teacher:1", &["odd teacher bottom", "odd teacher top"]);
    let ids = in_engine(engine, "odd-teacher:1");
    stack.create_repository("reuse/model");
    told(stack, engine, "odd-teacher:1", "reuse/model", "v1").run().ok();
    let model = fresh(stack);
    copy_to(stack, "reuse/model:v1", &model, &[]);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(model.join("manifest.json")).expect("a manifest")).expect("JSON");
    let blob = |content: &[u8]| {
        let hex = hex_sha256(content);
        std::fs::write(model.join(&hex), content).expect("a blob");
        json!({"mediaType": manifest["config"]["mediaType"], "digest": format!("sha256:{hex}"), "size": content.len()})
    };
    let true_config = std::fs::read(model.join(&manifest["config"]["digest"].as_str().expect("a digest")[7..]));
    let true_config: Value = serde_json::from_slice(&true_config.expect("the config")).expect("JSON");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = true_config.clone();
        change(&mut config);
        blob(config.to_string().as_bytes())
    };
    let layers = &manifest["layers"];
    let cases = [
        ("no-json", blob(b"no JSON"), layers.clone()),
        ("empty-config", blob(b"{}"), layers.clone()),
        ("one-layer-too-few", manifest["config"].clone(), json!([layers[0]])),
        ("one-blob-twice", manifest["config"].clone(), json!([layers[0], layers[0]])),
        ("other-platform", with(&|config| config["architecture"] = json!("s390x")), layers.clone()),
        ("bad-diff-ids", with(&|config| config["rootfs"]["diff_ids"] = json!(["sha256:1", 2])), layers.clone()),
        ("no-layers", with(&|config| config["rootfs"]["diff_ids"] = json!([])), json!([])),
    ];
    for (name, config, layers) in cases {
        let repository = format!("reuse/odd-{name}");
        stack.create_repository(&repository);
        let mut odd = manifest.clone();
        (odd["config"], odd["layers"]) = (config, layers);
        std::fs::write(model.join("manifest.json"), odd.to_string()).expect("a manifest");
        let to = format!("docker://{HOST}/{repository}:latest");
        skopeo(stack, &["copy", "-q", &format!("dir:{}", model.display()), &to]).ok();
        let words = ["--reuse-from", "not-there", "--mount-from", "reuse/not-there"];
        let outcome = told(stack, engine, "odd-teacher:1", &repository, "v1").args(words).run().ok();
        let reused = done(&outcome, "skipped").iter().filter(|layer| layer["reused_from"].is_string()).count();
        assert_eq!(reused, 0, "{name}\n{outcome}");
        reported(outcome, &repository, &["v1"]);
        bring_back(stack, &format!("{repository}:v1"), &[]).assert_holds(&ids);
    }

    // A cache that somebody has damaged.
    stack.create_repository("reuse/damaged-cache");
    let cache = fresh(stack);
    let push =
        |tag: &str| told(stack, engine, "odd-teacher:1", "reuse/damaged-cache", tag).arg("--cache-dir").arg(&cache);
    push("v1").run().ok();
    for (number, content) in ["", "{}", "[1]", "\0\0\0", r#"{"version":1,"diff_id":"x","blobs":[]}"#].iter().enumerate()
    {
        assert!(whole(&cache) > 0);
        for path in files(&cache) {
            std::fs::write(path, content).expect("a file");
        }
        let tag = format!("damaged{number}");
        reported(push(&tag).run(), "reuse/damaged-cache", &[&tag]);
        bring_back(stack, &format!("reuse/damaged-cache:{tag}"), &[]).assert_holds(&ids);
        // It is mended by the push.
        files(&cache).iter().filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text == *content)).for_each(
            |path| {
                std::fs::remove_file(path).expect("a file of no use");
            },
        );
    }
}

#[test]
fn a_layer_of_another_repository_is_mounted() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = stack.engine();
    layered(stack, engine, "mount:1", &["mount base", "mount top"]);
    layered(stack, engine, "mount:2", &["mount base", "mount changed top"]);
    let [one, two] = ["mount:1", "mount:2"].map(|name| in_engine(engine, name));
    for repository in ["mount/base", "mount/app", "mount/other", "mount/exact"] {
        stack.create_repository(repository);
    }
    told(stack, engine, "mount:1", "mount/base", "latest").run().ok();
    let base = bring_back(stack, "mount/base:latest", &[]);

    // A fresh host that is told where to look.
    let outcome = told(stack, engine, "mount:2", "mount/app", "v1").args(["--mount-from", "mount/base"]).run().ok();
    assert_eq!(diff_ids(&outcome, "mounted"), one[..1], "{outcome}");
    assert_eq!(done(&outcome, "mounted")[0]["reused_from"], "mount/base:latest", "{outcome}");
    assert_eq!(diff_ids(&outcome, "sent"), two[1..], "{outcome}");
    assert!(outcome.json()["bytes_mounted"].as_u64().is_some_and(|bytes| bytes > 300 << 10), "{outcome}");
    let digest = reported(outcome, "mount/app", &["v1"]);
    let stored = bring_back(stack, "mount/app:v1", &[]);
    assert_eq!((&stored.digest, stored.blobs()[0]), (&digest, base.blobs()[0]));
    stored.assert_holds(&two);
    let mounts = uploads(stack, "mount/app", 0);
    let mounts = mounts.iter().filter(|request| request.uri.contains("mount=") && request.status == 201).count();
    assert_eq!(mounts, 1);

    // A host that knows of the layers only what an image says does not mount them without a word.
    let cache = fresh(stack);
    told(stack, engine, "mount:1", "mount/base", "again").arg("--cache-dir").arg(&cache).run().ok();
    stack.create_repository("mount/unnamed");
    let outcome = told(stack, engine, "mount:1", "mount/unnamed", "v1").arg("--cache-dir").arg(&cache).run().ok();
    assert_eq!(diff_ids(&outcome, "sent"), sorted(&one), "{outcome}");
    // One that has made them itself, and remembers where it sent them, needs no name.
    let outcome = told(stack, engine, "mount:1", "mount/other", "v1").arg("--cache-dir").arg(&cache).run().ok();
    assert_eq!(diff_ids(&outcome, "mounted"), sorted(&one), "{outcome}");
    reported(outcome, "mount/other", &["v1"]);
    bring_back(stack, "mount/other:v1", &[]).assert_holds(&one);

    // Without reuse, what was compressed here is mounted by its own digest: nobody's word is needed for that.
    let words = ["--mount-from", "mount/base", "--reuse", "off"];
    let outcome = told(stack, engine, "mount:1", "mount/exact", "v1").args(words).run().ok();
    assert_eq!(diff_ids(&outcome, "mounted"), sorted(&one), "{outcome}");
    assert!(done(&outcome, "mounted").iter().all(|layer| layer["reused_from"].is_null()), "{outcome}");
    bring_back(stack, "mount/exact:v1", &[]).assert_holds(&one);
    let words = [&words[..], &["--compression", "gzip:9"]].concat();
    let outcome = told(stack, engine, "mount:1", "mount/exact", "v2").args(words).run().ok();
    assert!(done(&outcome, "mounted").is_empty(), "{outcome}");
    bring_back(stack, "mount/exact:v2", &[]).assert_holds(&one);
}

/// All files of a cache.
fn files(cache: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![cache.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files
}

/// Checks that every file of a cache is JSON of its own, and that no half-written one is left. Gives how many there are.
#[track_caller]
fn whole(cache: &Path) -> usize {
    let files = files(cache);
    for path in &files {
        let text = std::fs::read_to_string(path).expect("a file");
        assert!(
            serde_json::from_str::<Value>(&text).is_ok_and(|value| value.is_object()),
            "{}: {text}",
            path.display()
        );
    }
    files.len()
}

#[test]
fn four_pushes_share_one_cache() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = stack.engine();
    stack.create_repository("reuse/shared");
    let images: Vec<(String, [String; 4])> = (0..4)
        .map(|number| {
            let layer = |layer: u32| format!("shared {}", if layer < 3 { layer } else { 10 + number });
            (format!("reuse-shared:{number}"), [0, 1, 2, 3].map(layer))
        })
        .collect();
    for (name, texts) in &images {
        layered(stack, engine, name, &texts.each_ref().map(String::as_str));
    }
    let cache = fresh(stack);
    for round in 0..3 {
        std::thread::scope(|scope| {
            for (number, (name, _)) in images.iter().enumerate() {
                let cache = &cache;
                scope.spawn(move || {
                    let tag = format!("v{round}-{number}");
                    let outcome =
                        told(stack, engine, name, "reuse/shared", &tag).arg("--cache-dir").arg(cache).run().ok();
                    if round > 0 {
                        assert!(done(&outcome, "sent").is_empty(), "{outcome}");
                    }
                    let digest = reported(outcome, "reuse/shared", &[&tag]);
                    let stored = bring_back(stack, &format!("reuse/shared:{tag}"), &[]);
                    assert_eq!(stored.digest, digest);
                    stored.assert_holds(&in_engine(engine, name));
                });
            }
        });
        // A file for each layer, and some for tags.
        assert!(whole(&cache) >= 3 + 4);
    }
}
