//! The images that are pushed, built from real files by a real engine.

use crate::engine::Engine;
use crate::space::Space;
use crate::verify::{Image, hex_sha256};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};

/// An image in an engine's store.
pub struct Saved {
    /// Its name and tag.
    pub name: String,
    /// Its ID, with `sha256:`.
    pub id: String,
    /// What `docker save` made of it.
    pub archive: PathBuf,
    /// What is in it, read from that archive.
    pub image: Image,
}

/// The name of the image of ten layers and 400 MB.
pub const BIG: &str = "big:1";
/// The name of an image of three layers with every kind of file.
pub const SMALL: &str = "small:1";
/// The name of an image with an empty layer and the same layer twice, as other builders make them.
pub const ODD: &str = "odd:1";
/// The name of an image of three layers that do not compress: 12, 9 and 3 MiB.
pub const HEAVY: &str = "heavy:1";
/// Two images whose first two layers are the same, and whose third differs.
pub const SHARED: [&str; 2] = ["shared-a:1", "shared-b:1"];
/// Two images whose IDs begin with the same eight digits.
pub const TWINS: [&str; 2] = ["twin-a:1", "twin-b:1"];

/// Builds one of the images above, or for any other name a small image of its own.
pub fn build(space: &Space, engine: &Engine, name: &str) {
    match name {
        BIG => files(space, engine, name, &[40 << 20; 10]),
        HEAVY => noisy(space, engine, name, &[12 << 20, 9 << 20, 3 << 20]),
        SMALL => small(space, engine),
        ODD => odd(space, engine),
        _ if SHARED.contains(&name) => shared(space, engine),
        _ if TWINS.contains(&name) => twins(space, engine),
        _ => on_top(space, engine, "scratch", name, name.as_bytes()),
    }
}

/// Saves an image of an engine and reads what is in it.
pub fn save(space: &Space, engine: &Engine, name: &str) -> Saved {
    let id = engine.run(&["image", "inspect", "--format", "{{.Id}}", name]);
    let archive = space.path(&format!("{}.tar", name.replace([':', '/'], "-")));
    engine.run(&["save", "-o", &archive.display().to_string(), name]);
    let image = Image::of_docker_archive(&archive).expect("what docker saved");
    Saved { name: name.to_owned(), id, archive, image }
}

/// `docker build` with a context that `fill` writes.
pub fn docker_build(
    space: &Space,
    engine: &Engine,
    name: &str,
    dockerfile: &str,
    fill: impl FnOnce(&mut tar::Builder<File>),
) {
    let context = space.path(&format!("{}.context", name.replace([':', '/'], "-")));
    let mut tar = tar::Builder::new(File::create(&context).expect("a context"));
    put(&mut tar, "Dockerfile", 0o644, dockerfile.as_bytes());
    fill(&mut tar);
    tar.into_inner().expect("a whole context");
    engine.try_docker(&["build", "-q", "-t", name, "-"]).stdin(&context).run().ok();
    let _ = std::fs::remove_file(context);
}

/// An image `name` that adds one small file to `base`.
pub fn on_top(space: &Space, engine: &Engine, base: &str, name: &str, content: &[u8]) {
    docker_build(space, engine, name, &format!("FROM {base}\nCOPY file /added\n"), |tar| {
        put(tar, "file", 0o644, content)
    });
}

/// An image with one layer of real files for each of `sizes`, in bytes.
pub fn files(space: &Space, engine: &Engine, name: &str, sizes: &[u64]) {
    let copy: String = (0..sizes.len()).map(|layer| format!("COPY layer{layer} /layer{layer}/\n")).collect();
    docker_build(space, engine, name, &format!("FROM scratch\n{copy}ENV PURPOSE=test\n"), |tar| {
        let mut chosen = real_files(sizes.iter().sum()).into_iter();
        for (layer, size) in sizes.iter().enumerate() {
            let mut left = i64::try_from(*size).expect("a size");
            while left > 0 {
                // On a machine with few files: noise, which is the harder case anyway.
                let Some((path, size)) = chosen.next() else {
                    put(tar, &format!("layer{layer}/noise"), 0o600, &noise(left.unsigned_abs(), layer as u64));
                    break;
                };
                let inside = format!("layer{layer}/{}", path.strip_prefix("/").expect("an absolute path").display());
                tar.append_path_with_name(&path, inside).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                left -= i64::try_from(size).expect("a size");
            }
        }
    });
}

/// Real files of about `bytes` in total, always the same on one machine.
fn real_files(bytes: u64) -> Vec<(PathBuf, u64)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, u64)>, left: &mut u64) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Ok(metadata) = path.symlink_metadata() else {
                continue;
            };
            // Interpreters write into `__pycache__` whenever they like.
            if metadata.is_dir() && !path.ends_with("__pycache__") {
                walk(&path, found, left);
            } else if metadata.is_file() && (1..16 << 20).contains(&metadata.len()) && File::open(&path).is_ok() {
                *left = left.saturating_sub(metadata.len());
                found.push((path, metadata.len()));
            }
            if *left == 0 {
                return;
            }
        }
    }
    let (mut found, mut left) = (Vec::new(), bytes);
    for folder in ["/usr/lib", "/usr/share", "/usr/bin"] {
        if left > 0 {
            walk(Path::new(folder), &mut found, &mut left);
        }
    }
    found
}

/// Bytes that do not compress, always the same for one seed.
pub fn noise(bytes: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

/// An image of layers that do not compress, in bytes each.
pub fn noisy(space: &Space, engine: &Engine, name: &str, sizes: &[u64]) {
    let copy: String = (0..sizes.len()).map(|layer| format!("COPY noise{layer} /noise{layer}\n")).collect();
    docker_build(space, engine, name, &format!("FROM scratch\n{copy}"), |tar| {
        for (layer, size) in sizes.iter().enumerate() {
            put(tar, &format!("noise{layer}"), 0o644, &noise(*size, 11 + layer as u64));
        }
    });
}

/// Appends a file.
pub fn put(tar: &mut tar::Builder<impl std::io::Write>, path: &str, mode: u32, content: &[u8]) {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    tar.append_data(&mut header, path, content).expect("a file in a tar");
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn small(space: &Space, engine: &Engine) {
    let dockerfile = "FROM scratch\nCOPY files /files/\nADD kinds.tar /\nLABEL a=b\nCOPY --chown=1000:1001 noise /noise/\nCMD [\"/files/program\"]\n";
    docker_build(space, engine, SMALL, dockerfile, |tar| {
        for (path, _) in real_files(300 << 10) {
            tar.append_path_with_name(&path, format!("files/{}", path.strip_prefix("/").expect("absolute").display()))
                .expect("a file");
        }
        put(tar, "noise/noise", 0o644, &noise(2 << 20, 7));
        put(tar, "noise/empty", 0o400, b"");
        put(tar, "kinds.tar", 0o644, &every_kind());
    });
}

/// A tar with every kind of entry that a layer may hold without the rights of a device driver.
fn every_kind() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header(tar::EntryType::Directory, 0o1777, 0), "kinds/", std::io::empty()).expect("a folder");
    put(&mut tar, "kinds/setuid", 0o4755, b"#!/bin/true\n");
    put(&mut tar, "kinds/größe 測試", 0o644, b"a name that is not ASCII\n");
    put(&mut tar, &format!("kinds/{}/{}", "long".repeat(40), "name".repeat(40)), 0o644, b"a path of 320 bytes\n");
    tar.append_link(&mut header(tar::EntryType::Link, 0o4755, 0), "kinds/hard", "kinds/setuid").expect("a hard link");
    tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), "kinds/soft", "../files/nowhere").expect("a link");
    tar.append_data(&mut header(tar::EntryType::Fifo, 0o600, 0), "kinds/fifo", std::io::empty()).expect("a pipe");
    tar.into_inner().expect("a whole tar")
}

fn shared(space: &Space, engine: &Engine) {
    // One after the other: the second image finds the first two steps of the first in the build cache.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    files(space, engine, "shared-base:1", &[1 << 20, 9 << 20]);
    for name in SHARED {
        on_top(space, engine, "shared-base:1", name, name.as_bytes());
    }
}

/// Loads images that a builder of other habits could have made. `docker build` itself never keeps an empty layer.
fn load(space: &Space, engine: &Engine, file: &str, images: &[(&str, Vec<u8>)], layers: &[Vec<u8>]) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut manifest = Vec::new();
    for (number, (name, config)) in images.iter().enumerate() {
        put(&mut tar, &format!("config{number}.json"), 0o644, config);
        let paths: Vec<String> = (0..layers.len()).map(|layer| format!("{layer}/layer.tar")).collect();
        manifest.push(json!({"Config": format!("config{number}.json"), "RepoTags": [name], "Layers": paths}));
    }
    for (number, layer) in layers.iter().enumerate() {
        put(&mut tar, &format!("{number}/layer.tar"), 0o644, layer);
    }
    put(&mut tar, "manifest.json", 0o644, json!(manifest).to_string().as_bytes());
    let archive = space.write(file, tar.into_inner().expect("a whole tar"));
    engine.run(&["load", "-i", &archive.display().to_string()]);
}

/// An image's config with these layers.
fn config(layers: &[Vec<u8>], label: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hex_sha256(layer))).collect();
    let step = |number: usize| json!({"created": "2026-01-01T00:00:00Z", "created_by": format!("step {number}")});
    let history: Vec<_> = (0..layers.len()).map(step).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {"Labels": {"label": label}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    })
    .to_string()
    .into_bytes()
}

/// A layer with one file, or none.
fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    files.iter().for_each(|(path, content)| put(&mut tar, path, 0o644, content));
    tar.into_inner().expect("a whole tar")
}

fn odd(space: &Space, engine: &Engine) {
    let (one, two, empty) = (layer(&[("file", &noise(100 << 10, 1))]), layer(&[("file", b"two\n")]), layer(&[]));
    let layers = [one.clone(), empty.clone(), two, one, empty];
    load(space, engine, "odd.load", &[(ODD, config(&layers, "odd"))], &layers);
}

fn twins(space: &Space, engine: &Engine) {
    static DONE: std::sync::Once = std::sync::Once::new();
    DONE.call_once(|| {
        let layers = [layer(&[("file", b"twins\n")])];
        let mut seen = std::collections::HashMap::new();
        let (first, second) = (0..)
            .find_map(|number: u32| {
                let begins = hex_sha256(&config(&layers, &number.to_string()))[..8].to_owned();
                seen.insert(begins, number).map(|before| (before, number))
            })
            .expect("among all numbers are two");
        let configs = [first, second].map(|number| config(&layers, &number.to_string()));
        let [first, second] = configs;
        load(space, engine, "twins.load", &[(TWINS[0], first), (TWINS[1], second)], &layers);
    });
}
