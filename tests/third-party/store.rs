//! An engine's store that cannot be used: the engine is asked instead, the image is right, and the log says why. Nothing is ever written
//! there.
//!
//! Most damage is done in a mount namespace that only `ecr-push` is in: an engine whose own store is damaged cannot export either.

use crate::command::{Cmd, Outcome};
use crate::engine::Engine;
use crate::image;
use crate::layers::{bring_back, fresh, in_engine, layered, told};
use crate::push::reported;
use crate::stack::Stack;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};

const PARTS: &[&str] = &["dockerd", "docker", "skopeo", "mount", "gzip"];
const RESCUED: &str = "the engine is asked for the image instead";
/// All images here are of one layer with this file.
const FILE: &str = "added";

/// An engine of its own: what others build would change its store meanwhile.
fn engine(stack: &'static Stack) -> MutexGuard<'static, Engine> {
    static ENGINE: OnceLock<Mutex<Engine>> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| Mutex::new(Engine::docker(&stack.space, "store")));
    engine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Where the parts of an image's only layer are.
struct Layer {
    diff_id: String,
    /// What is known of it.
    known: PathBuf,
    /// Its files.
    files: PathBuf,
}

impl Layer {
    /// Builds an image of one layer.
    fn of(stack: &Stack, engine: &Engine, name: &str) -> Self {
        image::on_top(&stack.space, engine, "scratch", name, name.as_bytes());
        let [diff_id] = <[String; 1]>::try_from(in_engine(engine, name)).expect("one layer");
        let driver = engine.run(&["info", "--format", "{{.Driver}}"]);
        // The first layer's chain id is its diff id.
        let known = engine.file(&format!("data/image/{driver}/layerdb/sha256/{}", &diff_id[7..]));
        let cache_id = fs::read_to_string(known.join("cache-id")).expect("a cache id");
        let files = match driver.as_str() {
            "vfs" => engine.file(&format!("data/vfs/dir/{cache_id}")),
            _ => engine.file(&format!("data/{driver}/{cache_id}/diff")),
        };
        assert!(files.join(FILE).is_file() && known.join("tar-split.json.gz").is_file());
        Self { diff_id, known, files }
    }
}

/// Runs a push that sees `instead` where `path` is. Neither the engine nor anybody else does.
fn seeing(command: Cmd, path: &Path, instead: &Path) -> Cmd {
    let script = r#"mount --bind "$1" "$2" && shift 2 && exec "$@""#;
    let words = ["unshare", "--mount", "--", "sh", "-c", script, "sh"].map(String::from);
    let words = [&words[..], &[instead.display().to_string(), path.display().to_string()]].concat();
    command.through(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Checks that a push has brought the image through the export, and that its log has `words`.
#[track_caller]
fn rescued(stack: &Stack, outcome: Outcome, layer: &Layer, repository: &str, tag: &str, words: &[&str]) {
    let outcome = outcome.ok().says(words);
    let digest = reported(outcome, repository, &[tag]);
    let stored = bring_back(stack, &format!("{repository}:{tag}"), &[]);
    assert_eq!(stored.digest, digest);
    stored.assert_holds(std::slice::from_ref(&layer.diff_id));
}

/// The whole store, with what a write would change.
fn listing(engine: &Engine) -> BTreeMap<PathBuf, (u32, u64, i64, i64, i64, i64)> {
    let mut found = BTreeMap::new();
    let driver = engine.run(&["info", "--format", "{{.Driver}}"]);
    let mut folders = vec![engine.file("data/image"), engine.file("data").join(driver)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let data = path.symlink_metadata().expect("what is known of it");
            if data.is_dir() {
                folders.push(path.clone());
            }
            let times = (data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec());
            found.insert(path, (data.mode(), data.size(), times.0, times.1, times.2, times.3));
        }
    }
    found
}

#[test]
fn nothing_is_written_in_the_store() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = engine(stack);
    let layer = Layer::of(stack, &engine, "store-unchanged:1");
    stack.create_repository("store/unchanged");
    let before = listing(&engine);
    assert!(before.contains_key(&layer.files.join(FILE)) && before.contains_key(&layer.known.join("diff")));
    for options in [&["--compression", "none"][..], &["--reuse", "off"], &["--threads", "1"], &["--dry-run"]] {
        let tag = &options.concat()[2..];
        let outcome = told(stack, &engine, "store-unchanged:1", "store/unchanged", tag).args(options).run().ok();
        outcome.says(&["layers come from the", "store at"]);
    }
    let after = listing(&engine);
    let changed = before.iter().filter(|&(path, data)| after.get(path) != Some(data)).map(|(path, _)| path);
    let changed: Vec<_> = changed.chain(after.keys().filter(|path| !before.contains_key(*path))).collect();
    assert!(changed.is_empty(), "{changed:?}");
    Layer::of(stack, &engine, "store-more:1");
    assert_ne!(listing(&engine), after, "a build is noticed");
    bring_back(stack, "store/unchanged:reuseoff", &[]).assert_holds(&[layer.diff_id]);
}

#[test]
fn what_is_damaged_in_the_store_comes_from_the_export() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = engine(stack);
    stack.create_repository("store/damaged");
    let neighbour = Layer::of(stack, &engine, "store-neighbour:1");
    let split = "tar-split.json.gz";
    // A name; what is replaced in the layer or in what is known of it; by what; and what the log says.
    type Damage = fn(&Layer, &Layer, &Path);
    let cases: &[(&str, &str, Damage, &[&str])] = &[
        (
            "changed-file",
            "files/added",
            |layer, _, instead| {
                let content = fs::read_to_string(layer.files.join(FILE)).expect("the file");
                fs::write(instead, content.replace('c', "C")).expect("a file");
            },
            &[RESCUED, "`added`", "is not as it was"],
        ),
        (
            "longer-file",
            "files/added",
            |_, _, instead| fs::write(instead, [b'x'; 1000]).expect("a file"),
            &[RESCUED, "`added`", "has 1000 bytes in the store"],
        ),
        ("no-file", "files", |_, _, instead| fs::create_dir(instead).expect("a folder"), &[RESCUED, "`added`"]),
        (
            "symlink",
            "files",
            |_, neighbour, instead| {
                fs::create_dir(instead).expect("a folder");
                symlink(neighbour.files.join(FILE), instead.join(FILE)).expect("a link");
            },
            &[RESCUED, "`added`", "no regular file"],
        ),
        (
            "half-a-tar-split",
            "known/tar-split.json.gz",
            |layer, _, instead| {
                let whole = fs::read(layer.known.join("tar-split.json.gz")).expect("the file");
                fs::write(instead, &whole[..whole.len() / 2]).expect("a file");
            },
            &[RESCUED, split],
        ),
        (
            "no-gzip",
            "known/tar-split.json.gz",
            |_, _, instead| fs::write(instead, "{}\n").expect("a file"),
            &[RESCUED, split],
        ),
        (
            "empty-tar-split",
            "known/tar-split.json.gz",
            |_, _, instead| fs::write(instead, "").expect("a file"),
            &[RESCUED],
        ),
        (
            "tar-split-of-another",
            "known/tar-split.json.gz",
            |_, neighbour, instead| {
                fs::copy(neighbour.known.join("tar-split.json.gz"), instead).expect("a copy");
            },
            &[RESCUED],
        ),
        (
            "layer-of-another",
            "known",
            |layer, neighbour, instead| {
                fs::create_dir(instead).expect("a folder");
                for file in ["diff", "size", "cache-id", "tar-split.json.gz"] {
                    let of = if file == "diff" { layer } else { neighbour };
                    fs::copy(of.known.join(file), instead.join(file)).expect("a copy");
                }
            },
            &[RESCUED],
        ),
        (
            "wrong-diff",
            "known/diff",
            |_, neighbour, instead| fs::write(instead, &neighbour.diff_id).expect("a file"),
            &["layers come from the engine's export (", "does not name the layer"],
        ),
        (
            "cache-id-that-leads-out",
            "known/cache-id",
            |_, _, instead| fs::write(instead, "../../../../etc").expect("a file"),
            &["layers come from the engine's export (", "cache-id does not have 64 hex digits"],
        ),
        (
            "pipe",
            "known/cache-id",
            |layer, _, instead| {
                // Whoever opens it waits for ever.
                let made = std::process::Command::new("mkfifo").arg(instead).status();
                assert!(made.is_ok_and(|status| status.success()) && layer.known.is_dir());
            },
            &["layers come from the engine's export (", "no regular file"],
        ),
    ];
    for (tag, part, damage, words) in cases {
        let name = format!("store-{tag}:1");
        let layer = Layer::of(stack, &engine, &name);
        let (place, file) = part.split_once('/').unwrap_or((part, ""));
        let path = if place == "files" { &layer.files } else { &layer.known };
        let path = if file.is_empty() { path.clone() } else { path.join(file) };
        let instead = fresh(stack).join("instead");
        damage(&layer, &neighbour, &instead);
        let push = told(stack, &engine, &name, "store/damaged", tag).args(["--reuse", "off"]);
        rescued(stack, seeing(push, &path, &instead).run(), &layer, "store/damaged", tag, words);
    }
}

#[test]
fn layers_beside_the_damage_are_sent_once() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = engine(stack);
    stack.create_repository("store/beside");
    layered(stack, &engine, "store-beside:1", &["beside bottom", "beside middle", "beside top"]);
    let diff_ids = in_engine(&engine, "store-beside:1");
    let driver = engine.run(&["info", "--format", "{{.Driver}}"]);
    let known = engine.file(&format!("data/image/{driver}/layerdb/sha256/{}", &diff_ids[0][7..]));
    let cache_id = fs::read_to_string(known.join("cache-id")).expect("a cache id");
    let inside = if driver == "vfs" { format!("vfs/dir/{cache_id}") } else { format!("{driver}/{cache_id}/diff") };
    let text = engine.file("data").join(inside).join("layer0/text");
    let instead = fresh(stack).join("instead");
    fs::write(&instead, "beside BOTTOM").expect("a file");
    // The damage is at the very end of a layer, when others may be on their way or there.
    let push = told(stack, &engine, "store-beside:1", "store/beside", "v1").args(["--threads", "1"]);
    let outcome = seeing(push, &text, &instead).run().ok().says(&[RESCUED, "`layer0/text`"]);
    let json = outcome.json();
    let mut named: Vec<&str> =
        json["layers"].as_array().expect("layers").iter().filter_map(|layer| layer["diff_id"].as_str()).collect();
    named.sort_unstable();
    let mut expected: Vec<&str> = diff_ids.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(named, expected, "{outcome}");
    reported(outcome, "store/beside", &["v1"]);
    assert_eq!(stack.stored("store/beside"), 4, "three layers and a config");
    bring_back(stack, "store/beside:v1", &[]).assert_holds(&diff_ids);
}

#[test]
fn another_folder_in_the_place_of_the_engines_root() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = engine(stack);
    stack.create_repository("store/root");
    // With the same driver: an empty folder, an engine that has other images, and what is no store at all.
    let other = stack.engine();
    stack.image(image::SMALL);
    let empty = fresh(stack);
    for (tag, root) in [("empty", &empty), ("other", &other.file("data")), ("etc", &PathBuf::from("/etc"))] {
        let name = format!("store-root-{tag}:1");
        let layer = Layer::of(stack, &engine, &name);
        let push = told(stack, &engine, &name, "store/root", tag).args(["--reuse", "off"]);
        let words = ["layers come from the engine's export (", "cannot be read: No such file"];
        rescued(stack, seeing(push, &engine.file("data"), root).run(), &layer, "store/root", tag, &words);
    }
    // The other engine has another image of the same name. It is the one that was asked that counts.
    let layer = Layer::of(stack, &engine, "store-namesake:1");
    image::on_top(&stack.space, other, "scratch", "store-namesake:1", b"another");
    let push = told(stack, &engine, "store-namesake:1", "store/root", "namesake").args(["--reuse", "off"]);
    let words = ["layers come from the engine's export ("];
    rescued(
        stack,
        seeing(push, &engine.file("data"), &other.file("data")).run(),
        &layer,
        "store/root",
        "namesake",
        &words,
    );
}

#[test]
fn a_user_who_may_use_the_socket_only() {
    let Some(stack) = Stack::signed(&[PARTS, &["setpriv"]].concat()) else {
        return;
    };
    let engine = engine(stack);
    let layer = Layer::of(stack, &engine, "store-user:1");
    stack.create_repository("store/user");
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("another mode");
    open(stack.space.folder(), 0o711);
    open(&engine.socket(), 0o666);
    let home = fresh(stack);
    open(&home, 0o777);
    let push = told(stack, &engine, "store-user:1", "store/user", "v1").args(["--reuse", "off"]);
    let push = push.env("HOME", &home).env("XDG_CACHE_HOME", &home).env("TMPDIR", &home);
    let push = push.through(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    let words = ["layers come from the engine's export (", "Permission denied"];
    rescued(stack, push.run(), &layer, "store/user", "v1", &words);
}

#[test]
fn a_store_that_is_damaged_for_the_engine_too_pushes_no_wrong_image() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let engine = engine(stack);
    stack.create_repository("store/broken");
    // The engine read this file at its start, and looks no more.
    let layer = Layer::of(stack, &engine, "store-broken-diff:1");
    let neighbour = Layer::of(stack, &engine, "store-broken-neighbour:1");
    fs::write(layer.known.join("diff"), &neighbour.diff_id).expect("the file");
    let push = told(stack, &engine, "store-broken-diff:1", "store/broken", "diff").args(["--reuse", "off"]);
    rescued(stack, push.run(), &layer, "store/broken", "diff", &["does not name the layer"]);
    fs::write(layer.known.join("diff"), &layer.diff_id).expect("the file");

    type Damage = fn(&Layer);
    let cases: [(&str, Damage); 3] = [
        ("changed", |layer| {
            let file = layer.files.join(FILE);
            let content = fs::read_to_string(&file).expect("the file");
            fs::write(&file, content.replace('c', "C")).expect("the file");
        }),
        ("removed", |layer| fs::remove_file(layer.files.join(FILE)).expect("the file")),
        ("tar-split", |layer| fs::write(layer.known.join("tar-split.json.gz"), "damaged").expect("the file")),
    ];
    for (tag, damage) in cases {
        let name = format!("store-broken-{tag}:1");
        damage(&Layer::of(stack, &engine, &name));
        let saved = engine.try_docker(&["save", "-o", "/dev/null", &name]).run();
        assert_ne!(saved.status, 0, "docker save");
        let push = told(stack, &engine, &name, "store/broken", tag).args(["--reuse", "off"]);
        push.run().exit(1).refused().says(&[RESCUED, "export image"]);
        let reference = format!("docker://{}/store/broken:{tag}", crate::stack::HOST);
        assert_ne!(stack.skopeo(&["inspect", "--raw", &reference]).status, 0, "{tag} is in the registry");
        // The next test needs an engine whose images are whole.
        engine.run(&["rmi", &name]);
    }
}
