//! An image in the registry that names the layers of ours and has other blobs. `--reuse registry` takes its word, as it says; what
//! comes of that is up to whoever pulls.
//!
//! | Who                                      | What they do                                                       |
//! |------------------------------------------|--------------------------------------------------------------------|
//! | `docker pull` (20.10)                    | refuses: layers from manifest don't match image configuration      |
//! | containerd (1.6, `ctr images pull`)      | refuses: wrong diff id calculated on extraction                    |
//! | `docker load` of skopeo's docker-archive | refuses: invalid diffID for layer 0: expected "...", got "..."     |
//! | skopeo to docker-daemon                  | says it did; the engine has refused                                |
//! | `podman pull` (4.3)                      | accepts: our image's ID, the other one's files                     |
//! | skopeo to containers-storage             | accepts, as podman does                                            |
//! | skopeo to dir, oci and docker-archive    | accepts: copies blobs and compares only their digests              |

use crate::engine::Engine;
use crate::layers::{
    bring_back, copy_to, done, fresh, in_engine, layered, pull_with_containerd, pull_with_podman, skopeo, told,
};
use crate::push::reported;
use crate::stack::{HOST, Stack};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::OnceLock;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];
const TRUE: &str = "lies-true:1";
const REPOSITORY: &str = "lies/app";

/// The image that lies was believed.
struct Lie {
    /// The layers of the image that is pushed.
    ours: Vec<String>,
    /// The digest of what was pushed because the lie was believed.
    manifest: String,
    /// A cache that has heard the lie.
    cache: PathBuf,
}

/// Puts the lie under `latest`, and pushes our image under `believed`.
fn lie(stack: &'static Stack) -> &'static Lie {
    static LIE: OnceLock<Lie> = OnceLock::new();
    LIE.get_or_init(|| {
        let engine = stack.engine();
        layered(stack, engine, TRUE, &["the base is right", "the top is right"]);
        layered(stack, engine, "lies-false:1", &["the base is wrong", "the top is wrong"]);
        let [ours, theirs] = [TRUE, "lies-false:1"].map(|name| in_engine(engine, name));
        assert!(ours.iter().all(|layer| !theirs.contains(layer)));
        let [a, b] = [(TRUE, "lies/true"), ("lies-false:1", REPOSITORY)].map(|(name, repository)| {
            stack.create_repository(repository);
            told(stack, engine, name, repository, "v1").run().ok();
            let folder = fresh(stack);
            copy_to(stack, &format!("{repository}:v1"), &folder, &[]);
            let manifest = std::fs::read(folder.join("manifest.json")).expect("a manifest");
            (folder, serde_json::from_slice::<Value>(&manifest).expect("a manifest"))
        });
        let ((right, truth), (wrong, mut lying)) = (a, b);
        let size = |manifest: &Value, layer: usize| manifest["layers"][layer]["size"].as_u64().expect("a size");
        for layer in 0..2 {
            // So near that no look at sizes would tell them apart.
            assert!(size(&truth, layer).abs_diff(size(&lying, layer)) < 100, "{truth} {lying}");
        }
        lying["config"] = truth["config"].clone();
        let config = &truth["config"]["digest"].as_str().expect("a digest")[7..];
        std::fs::copy(right.join(config), wrong.join(config)).expect("the config");
        std::fs::write(wrong.join("manifest.json"), lying.to_string()).expect("the manifest");
        let to = format!("docker://{HOST}/{REPOSITORY}:latest");
        skopeo(stack, &["copy", "-q", &format!("dir:{}", wrong.display()), &to]).ok();
        let cache = fresh(stack);
        let outcome = told(stack, engine, TRUE, REPOSITORY, "believed").arg("--cache-dir").arg(&cache).run().ok();
        let reused = done(&outcome, "skipped");
        assert_eq!(reused.len(), 2, "{outcome}");
        assert!(reused.iter().all(|layer| layer["reused_from"] == "latest"), "{outcome}");
        let manifest = reported(outcome, REPOSITORY, &["believed"]);
        let stored = bring_back(stack, &format!("{REPOSITORY}:believed"), &[]);
        assert_eq!(stored.digest, manifest);
        assert_eq!(stored.unpacked, theirs, "the blobs of the image under `latest`");
        assert_eq!(stored.config["rootfs"]["diff_ids"], json!(ours));
        Lie { ours, manifest, cache }
    })
}

#[test]
fn docker_and_containerd_find_a_lie_out_and_podman_does_not() {
    let Some(stack) = Stack::signed(&[PARTS, &["podman", "ctr"]].concat()) else {
        return;
    };
    lie(stack);
    let reference = format!("{HOST}/{REPOSITORY}:believed");
    let from = format!("docker://{reference}");
    let folder = fresh(stack).display().to_string();
    let puller = stack.puller();
    let podman = Engine::podman(&stack.space, "podman-lies");
    let copy = |to: &str| skopeo(stack, &["copy", "-q", &from, to]);

    puller
        .try_docker(&["pull", "-q", &reference])
        .run()
        .exit(1)
        .says(&["layers from manifest don't match image configuration"]);
    let outcome = pull_with_containerd(stack, &puller, &format!("{REPOSITORY}:believed"));
    outcome.exit(1).says(&["wrong diff id calculated on extraction"]);

    let id = pull_with_podman(stack, &podman, &format!("{REPOSITORY}:believed")).ok();
    assert_eq!(id.stdout.trim(), engine_id(stack), "under the name of ours");
    let root = podman.podman_command(&["image", "mount", &reference]).run().ok();
    let text = stack.space.command("cat").arg(format!("{}/layer1/text", root.stdout.trim())).run().ok();
    assert_eq!(text.stdout, "the top is wrong");
    podman.podman_command(&["image", "unmount", &reference]).run().ok();

    copy(&format!("dir:{folder}/dir")).ok();
    copy(&format!("oci:{folder}/oci:v1")).ok();
    copy(&format!("containers-storage:[overlay@{folder}/storage+{folder}/run]lies:1")).ok();
    let archive = format!("{folder}/docker-archive.tar");
    copy(&format!("docker-archive:{archive}:lies:1")).ok();
    puller.try_docker(&["load", "-i", &archive]).run().exit(1).says(&["invalid diffID for layer 0"]);
    // skopeo does not read what the engine answers.
    let daemon = ["copy", "-q", "--dest-daemon-host", &puller.host(), &from, "docker-daemon:lies-daemon:1"];
    skopeo(stack, &daemon).ok();
    assert_eq!(puller.run(&["images", "-aq"]), "");
}

/// The ID of the image that is pushed.
fn engine_id(stack: &'static Stack) -> String {
    stack.engine().run(&["image", "inspect", "--format", "{{.Id}}", TRUE]).trim_start_matches("sha256:").to_owned()
}

/// An attacker's script: the lie is in a repository that others may push to, this host has believed it there, and then pushes the same image
/// to another one with the same cache and no other word. docker-registry would mount whatever it is asked to.
#[test]
fn a_lie_stays_in_its_repository() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let (lie, engine) = (lie(stack), stack.engine());
    let cache = fresh(stack);
    let push = |repository: &str, tag: &str| told(stack, engine, TRUE, repository, tag).arg("--cache-dir").arg(&cache);
    assert_eq!(reported(push(REPOSITORY, "heard").run(), REPOSITORY, &["heard"]), lie.manifest);
    let production = "lies/production";
    stack.create_repository(production);
    let outcome = push(production, "v1").run().ok();
    assert!(done(&outcome, "mounted").is_empty() && done(&outcome, "skipped").is_empty(), "{outcome}");
    assert_ne!(reported(outcome, production, &["v1"]), lie.manifest);
    bring_back(stack, &format!("{production}:v1"), &[]).assert_holds(&lie.ours);
    let asked = stack.requests(production);
    assert!(asked.iter().all(|request| !request.uri.contains("mount=")), "{asked:?}");
    // What was made for that is this host's own, and mounted without a word.
    stack.create_repository("lies/other");
    let outcome = push("lies/other", "v1").run().ok();
    assert_eq!(done(&outcome, "mounted").len(), 2, "{outcome}");
    reported(outcome, "lies/other", &["v1"]);
    bring_back(stack, "lies/other:v1", &[]).assert_holds(&lie.ours);
    // A repository that is named is believed: that is the user's own word.
    stack.create_repository("lies/named");
    let words = ["--mount-from", REPOSITORY, "--cache-dir"];
    let outcome = told(stack, engine, TRUE, "lies/named", "v1").args(words).arg(fresh(stack)).run().ok();
    assert_eq!(reported(outcome, "lies/named", &["v1"]), lie.manifest);
}

#[test]
fn every_other_policy_pushes_the_right_image() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let lie = lie(stack);
    for policy in ["verify", "own", "off"] {
        // Even with the cache of the push that was lied to.
        for (number, cache) in [fresh(stack), lie.cache.clone()].into_iter().enumerate() {
            let tag = format!("{policy}{number}");
            let words = ["--reuse", policy, "--cache-dir"];
            let outcome = told(stack, stack.engine(), TRUE, REPOSITORY, &tag).args(words).arg(cache).run().ok();
            let outcome = if policy == "verify" { outcome.says(&["is not reused", "but it holds"]) } else { outcome };
            assert_ne!(reported(outcome, REPOSITORY, &[&tag]), lie.manifest);
            bring_back(stack, &format!("{REPOSITORY}:{tag}"), &[]).assert_holds(&lie.ours);
        }
    }
    // Under a tag that lies already.
    let push = || told(stack, stack.engine(), TRUE, REPOSITORY, "mended");
    assert_eq!(reported(push().run(), REPOSITORY, &["mended"]), lie.manifest);
    reported(push().args(["--reuse", "verify"]).run(), REPOSITORY, &["mended"]);
    bring_back(stack, &format!("{REPOSITORY}:mended"), &[]).assert_holds(&lie.ours);
}
