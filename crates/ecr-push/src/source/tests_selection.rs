//! Every source and every way to say which image is meant: the right image comes, or a refusal that says what is there.
//!
//! The images are what real engines wrote (`tests/fixtures/engines`), and what to expect was computed by another reader. A source that
//! is added gets a row here, and a way to ask a column: no `match` over the columns has a `_`, so that none is forgotten.

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::tests_pick::{digest, entries, gzip, read, recorded};
use super::{Attestations, Chosen, ContainerdSource, DockerDaemon, Selection, Source, SourceSpec, open_file};
use crate::containerd::fake::{Fake, content_store};
use crate::containerd::{Containerd, ContainerdSettings};
use crate::engine::{Engine, EngineSettings};
use crate::error::Result;
use crate::image::{Config, DiffId, Digest};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Platform,
    OtherPlatform,
    MissingPlatform,
    NoAttestations,
    SingleImage,
    Name,
    OtherSpelling,
    ManifestDigest,
    ConfigDigest,
    ConfigForOtherPlatform,
    First,
    Second,
    Tenth,
    UnknownName,
}

impl Asked {
    const ALL: [(Self, &str); 15] = [
        (Self::Nothing, "nothing"),
        (Self::Platform, "its platform"),
        (Self::OtherPlatform, "another platform"),
        (Self::MissingPlatform, "a platform nobody has"),
        (Self::NoAttestations, "no attestations"),
        (Self::SingleImage, "a single image"),
        (Self::Name, "name and tag"),
        (Self::OtherSpelling, "another spelling"),
        (Self::ManifestDigest, "manifest digest"),
        (Self::ConfigDigest, "config digest"),
        (Self::ConfigForOtherPlatform, "config digest, another platform"),
        (Self::First, "`@0`"),
        (Self::Second, "`@1`"),
        (Self::Tenth, "`@9`"),
        (Self::UnknownName, "an unknown name"),
    ];

    fn selection(self) -> Selection {
        let platform = match self {
            Self::Platform => Some("linux/amd64"),
            Self::OtherPlatform | Self::ConfigForOtherPlatform => Some("linux/arm64"),
            Self::MissingPlatform => Some("linux/s390x"),
            Self::Nothing | Self::NoAttestations | Self::SingleImage => None,
            Self::Name | Self::OtherSpelling | Self::ManifestDigest | Self::ConfigDigest => None,
            Self::First | Self::Second | Self::Tenth | Self::UnknownName => None,
        };
        let attestations = match self {
            Self::NoAttestations => Attestations::Drop,
            Self::SingleImage => Attestations::SingleImage,
            _ => Attestations::Keep,
        };
        Selection { platform: platform.map(|platform| platform.parse().unwrap()), attestations }
    }
}

/// What has to come.
#[derive(Debug)]
enum Expected {
    /// An image of this config, with a manifest of ours.
    Config(Digest),
    /// This manifest or index, byte for byte.
    Root(Digest),
    /// The index of both platforms without its attestation.
    WithoutAttestation,
    /// A refusal whose sentence and hints have all of these words.
    Refused(Vec<String>),
}

fn refused<const N: usize>(words: [&str; N]) -> Expected {
    Expected::Refused(words.iter().map(|word| (*word).to_owned()).collect())
}

fn document(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(recorded(path)).unwrap()).unwrap()
}

/// Where an image comes from.
enum Place {
    /// An engine on a socket.
    Engine { folder: tempfile::TempDir, use_store: bool },
    /// A containerd.
    Containerd(Fake),
    /// Files: two images in one, and an index of two platforms. Where there is one image alone, it is both.
    Files { transport: &'static str, both: PathBuf, multi: PathBuf, piped: bool },
}

struct Row {
    name: &'static str,
    place: Place,
    expected: Box<dyn Fn(Asked) -> Expected>,
    /// What is written for a way of asking.
    words: Box<dyn Fn(Asked) -> String>,
}

/// Answers as the recorded engine does, for whatever image is asked for by a name, an ID or a digest that it has.
fn serve(folder: &Path, engine: &'static str, root: Option<&Path>) {
    let listener = UnixListener::bind(folder.join("s")).unwrap();
    let mut info = document(&format!("{engine}/info.json"));
    if let Some(root) = root {
        info["DockerRootDir"] = root.display().to_string().into();
    }
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let info = info.clone();
            std::thread::spawn(move || while answer(&stream, engine, &info).is_some() {});
        }
    });
}

fn answer(mut stream: &UnixStream, engine: &str, info: &Value) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.split('?').next()?.replace("%3A", ":");
    let file = |file: &str| std::fs::read(recorded(&format!("{engine}/{file}"))).unwrap();
    let image = |path: &str, end| path.split_once("/images/")?.1.strip_suffix(end).and_then(|name| meant(engine, name));
    let body = match path.as_str() {
        path if path.ends_with("/version") => Some(file("version.json")),
        path if path.ends_with("/info") => Some(info.to_string().into_bytes()),
        path if path.ends_with("/images/json") => Some(file("list.json")),
        path if path.ends_with("/json") => image(path, "/json").map(|name| file(&format!("inspect-{name}.json"))),
        path => image(path, "/get").map(|name| file(&format!("export-{name}.tar"))),
    };
    let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_else(|| json!({"message": format!("no such image: {path}")}).to_string().into_bytes());
    write!(stream, "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len())
        .ok()?;
    stream.write_all(&body).ok()
}

/// The recorded image that an engine means by `name`.
fn meant(engine: &str, name: &str) -> Option<&'static str> {
    let familiar = |name: &str| name.replace("docker.io/library/", "").replace("localhost/", "");
    ["two", "multi"].into_iter().find(|image| {
        let path = format!("{engine}/inspect-{image}.json");
        if !recorded(&path).exists() {
            return false;
        }
        let inspect = document(&path);
        let names = ["RepoTags", "RepoDigests"].map(|field| inspect[field].as_array().cloned().unwrap_or_default());
        inspect["Id"] == name || names.concat().iter().any(|own| familiar(own.as_str().unwrap()) == familiar(name))
    })
}

/// An engine, and below `root` the layers of `two:1` as overlay2 has them, or the blobs of `multi:1` as containerd does.
fn engine(engine: &'static str, use_store: bool) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    if engine.ends_with("-containerd") {
        let content = root.join("containerd/daemon/io.containerd.content.v1.content");
        let export = std::fs::File::open(recorded(&format!("{engine}/export-multi.tar"))).unwrap();
        tar::Archive::new(export).unpack(content).unwrap();
    } else {
        overlay2(&root, engine);
    }
    serve(folder.path(), engine, Some(&root));
    Place::Engine { folder, use_store }
}

fn overlay2(root: &Path, engine: &str) {
    let files = entries(&recorded(&format!("{engine}/export-two.tar")));
    let file = |name: &str| &files.iter().find(|(path, _)| path == name).unwrap_or_else(|| panic!("{name}")).1;
    let manifest: Value = serde_json::from_slice(file("manifest.json")).unwrap();
    let config = file(manifest[0]["Config"].as_str().unwrap());
    let images = root.join("image/overlay2/imagedb/content/sha256");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::write(images.join(Digest::of(config).hex()), config).unwrap();
    let diff_ids = Config::parse(config).unwrap().diff_ids;
    let paths = manifest[0]["Layers"].as_array().unwrap();
    for ((diff_id, chain), path) in diff_ids.iter().zip(DiffId::chain_ids(&diff_ids)).zip(paths) {
        let layer = root.join("image/overlay2/layerdb/sha256").join(chain.hex());
        let cache_id = diff_id.0.hex();
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::create_dir_all(root.join("overlay2").join(&cache_id).join("diff")).unwrap();
        std::fs::write(layer.join("diff"), diff_id.to_string()).unwrap();
        std::fs::write(layer.join("cache-id"), cache_id).unwrap();
        // The whole tar as one segment that is no file's content.
        let segment = json!({"type": 2, "payload": STANDARD.encode(file(path.as_str().unwrap())), "position": 0});
        std::fs::write(layer.join("tar-split.json.gz"), gzip(format!("{segment}\n").as_bytes())).unwrap();
    }
}

/// The same archive with the entries of its `index.json` the other way round, as another run of the engine may write them; without
/// names, as where images were saved by their IDs.
fn reversed(archive: &Path, to: PathBuf, with_names: bool) -> PathBuf {
    let mut builder = tar::Builder::new(std::fs::File::create(&to).unwrap());
    for (path, mut bytes) in entries(archive) {
        if path == "index.json" {
            let mut index: Value = serde_json::from_slice(&bytes).unwrap();
            let manifests = index["manifests"].as_array_mut().unwrap();
            manifests.reverse();
            for manifest in manifests.iter_mut().filter(|_| !with_names) {
                manifest.as_object_mut().unwrap().remove("annotations");
            }
            bytes = index.to_string().into_bytes();
        }
        if path == "manifest.json" && !with_names {
            let mut saved: Value = serde_json::from_slice(&bytes).unwrap();
            saved.as_array_mut().unwrap().iter_mut().for_each(|image| image["RepoTags"] = Value::Null);
            bytes = saved.to_string().into_bytes();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path.trim_end_matches('/'), bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    to
}

/// A pipe through which `archive` comes once, as through standard input.
fn piped(archive: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (archive, end) = (archive.to_owned(), pipe.clone());
    std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(end)?;
        io::copy(&mut std::fs::File::open(archive)?, &mut pipe)
    });
    (folder, pipe)
}

/// What an engine has: the classic ones and Podman one image for a name, containerd's store an index.
fn of_engine(name: &'static str, engine: &'static str, use_store: bool) -> Row {
    let is_containerd = engine.ends_with("-containerd");
    let image = if is_containerd { "multi" } else { "two" };
    let inspect = document(&format!("{engine}/inspect-{image}.json"));
    let by_digest = inspect["RepoDigests"][0].as_str().unwrap_or("two@sha256:").to_owned();
    let words = move |asked: Asked| match asked {
        Asked::OtherSpelling if engine.starts_with("podman") => "localhost/two:1".to_owned(),
        Asked::OtherSpelling => format!("docker.io/library/{image}:1"),
        Asked::ManifestDigest if by_digest.len() < 70 => format!("two@{}", Digest::of(b"nowhere")),
        Asked::ManifestDigest => by_digest.clone(),
        Asked::ConfigDigest | Asked::ConfigForOtherPlatform if is_containerd => {
            digest(&expected("multi-amd64")["oci"][0]["config"]).to_string()
        }
        Asked::ConfigDigest | Asked::ConfigForOtherPlatform => inspect["Id"].as_str().unwrap().to_owned(),
        Asked::First => "@0".to_owned(),
        Asked::Second => "@1".to_owned(),
        Asked::Tenth => "@9".to_owned(),
        Asked::UnknownName => "nope:1".to_owned(),
        Asked::Nothing | Asked::Platform | Asked::OtherPlatform | Asked::MissingPlatform => format!("{image}:1"),
        Asked::NoAttestations | Asked::SingleImage | Asked::Name => format!("{image}:1"),
    };
    let has_digest = engine.starts_with("podman");
    let two =
        move || Expected::Config(digest(&document(&format!("{engine}/expected-two.json"))["docker"][0]["config"]));
    let expects = move |asked: Asked| match asked {
        Asked::First | Asked::Second | Asked::Tenth => refused(["is not a digest"]),
        Asked::UnknownName => refused(["nope:1"]),
        _ if is_containerd => of_index(asked),
        Asked::OtherPlatform | Asked::ConfigForOtherPlatform => refused(["linux/arm64", "present: linux/amd64"]),
        Asked::MissingPlatform => refused(["linux/s390x", "present: linux/amd64"]),
        Asked::ManifestDigest if !has_digest => refused(["has no image"]),
        Asked::Nothing | Asked::Platform | Asked::NoAttestations | Asked::SingleImage => two(),
        Asked::Name | Asked::OtherSpelling | Asked::ManifestDigest | Asked::ConfigDigest => two(),
    };
    let place = self::engine(engine, use_store);
    Row { name, place, expected: Box::new(expects), words: Box::new(words) }
}

/// What the recorded index of two platforms gives, the same on both engines that have it.
fn of_index(asked: Asked) -> Expected {
    let root = |name: &str| Expected::Root(digest(&expected(name)["oci"][0]["digest"]));
    match asked {
        Asked::Platform => root("multi-amd64"),
        Asked::OtherPlatform => root("multi-arm64"),
        Asked::MissingPlatform => refused(["linux/s390x", "present: linux/amd64, linux/arm64"]),
        Asked::NoAttestations => Expected::WithoutAttestation,
        Asked::SingleImage => refused(["holds 2 images (linux/amd64, linux/arm64)"]),
        // Only the digest of the index is a name to it.
        Asked::ConfigDigest | Asked::ConfigForOtherPlatform => refused(["no image"]),
        Asked::Nothing | Asked::Name | Asked::OtherSpelling | Asked::ManifestDigest => root("multi"),
        Asked::First | Asked::Second | Asked::Tenth | Asked::UnknownName => unreachable!("{asked:?} is the row's own"),
    }
}

fn expected(name: &str) -> Value {
    document(&format!("docker-28.5-containerd/expected-{name}.json"))
}

fn containerd(name: &'static str, in_files: bool) -> Row {
    let blobs = tempfile::tempdir().unwrap();
    let export = std::fs::File::open(recorded("docker-28.5-containerd/export-multi.tar")).unwrap();
    tar::Archive::new(export).unpack(blobs.path()).unwrap();
    let index = digest(&expected("multi")["oci"][0]["digest"]);
    let config = digest(&expected("multi-amd64")["oci"][0]["config"]);
    let whole = "docker.io/library/multi:1";
    let words = move |asked: Asked| match asked {
        Asked::OtherSpelling => "multi:1".to_owned(),
        Asked::ManifestDigest => index.to_string(),
        Asked::ConfigDigest | Asked::ConfigForOtherPlatform => config.to_string(),
        Asked::First => "@0".to_owned(),
        Asked::Second => "@1".to_owned(),
        Asked::Tenth => "@9".to_owned(),
        Asked::UnknownName => "nope:1".to_owned(),
        Asked::Nothing | Asked::Platform | Asked::OtherPlatform | Asked::MissingPlatform => whole.to_owned(),
        Asked::NoAttestations | Asked::SingleImage | Asked::Name => whole.to_owned(),
    };
    let expects = |asked: Asked| match asked {
        Asked::First | Asked::Second | Asked::Tenth | Asked::UnknownName => refused(["there is no image"]),
        _ => of_index(asked),
    };
    let fake = content_store("docker.io/library/multi:1", &index, blobs, in_files);
    Row { name, place: Place::Containerd(fake), expected: Box::new(expects), words: Box::new(words) }
}

/// What is in files.
struct Files {
    engine: &'static str,
    transport: &'static str,
    /// The name that the archive has for `two:1`, and another spelling of it.
    names: [&'static str; 2],
    /// True if there is no `repeat:1`, and no index of two platforms.
    is_single: bool,
    /// True if `index.json` has its entries the other way round.
    is_reversed: bool,
    /// True if neither image has a name.
    is_nameless: bool,
    piped: bool,
}

impl Files {
    fn row(self, name: &'static str, both: PathBuf, multi: Option<PathBuf>) -> Row {
        let Self { engine, transport, names, is_single, is_reversed, is_nameless, piped } = self;
        let is_docker = transport == "docker-archive";
        // What `expected-` files say of both images, in the order of the list that counts.
        let both_expected = match engine {
            "skopeo-1.9" => document("skopeo-1.9/expected-oci-archive.json"),
            "podman-4.3" if !is_docker => document("podman-4.3/expected-save-two-oci.json"),
            _ => document(&format!("{engine}/expected-save-both.json")),
        };
        let mut oci: Vec<Value> = both_expected["oci"].as_array().cloned().unwrap_or_default();
        let docker = both_expected["docker"].as_array().cloned().unwrap_or_default();
        // Whose layers are compressed go up by the manifest that the store has.
        let is_compressed = |image: &Value| image["layers"][0]["gzip"] == true;
        let image = |list: &Value, oci: &[Value]| match is_docker {
            false => Expected::Root(digest(&list["digest"])),
            true if is_compressed(list) => {
                Expected::Root(digest(&oci.iter().find(|entry| entry["config"] == list["config"]).unwrap()["digest"]))
            }
            true => Expected::Config(digest(&list["config"])),
        };
        let two_config =
            if is_docker { &docker } else { &oci }.iter().find(|image| is_two(image, &names)).unwrap()["config"]
                .clone();
        let two_root = oci.iter().find(|image| image["config"] == two_config).map(|image| image["digest"].clone());
        if is_reversed && !is_docker {
            oci.reverse();
        }
        let has_index = multi.is_some();
        let listed: Vec<Expected> =
            if is_docker { &docker } else { &oci }.iter().map(|list| image(list, &oci)).collect();
        let two =
            if is_docker { &docker } else { &oci }.iter().position(|image| image["config"] == two_config).unwrap();
        let all: Vec<String> = match (is_single, is_nameless) {
            (true, _) => vec![names[0].to_owned()],
            (false, true) => vec!["@0".to_owned(), "@1".to_owned()],
            (false, false) => vec!["two:1".to_owned(), "repeat:1".to_owned()],
        };
        let again = |expected: &Expected| match expected {
            Expected::Config(digest) => Expected::Config(*digest),
            Expected::Root(digest) => Expected::Root(*digest),
            _ => unreachable!("an image"),
        };
        let expects = move |asked: Asked| match asked {
            Asked::Nothing if !is_single => Expected::Refused(all.clone()),
            Asked::Platform | Asked::OtherPlatform | Asked::MissingPlatform if has_index => of_index(asked),
            Asked::NoAttestations | Asked::SingleImage if has_index => of_index(asked),
            Asked::OtherPlatform => refused(["linux/arm64", "present: linux/amd64"]),
            Asked::MissingPlatform => refused(["linux/s390x", "present: linux/amd64"]),
            Asked::ConfigForOtherPlatform => refused(["linux/arm64", "linux/amd64"]),
            Asked::Tenth | Asked::UnknownName => Expected::Refused(all.clone()),
            Asked::Name | Asked::OtherSpelling if is_nameless => Expected::Refused(all.clone()),
            // `manifest.json` knows configs only.
            Asked::ManifestDigest if is_docker => Expected::Refused(all.clone()),
            // A tag or a name in an annotation is free text.
            Asked::OtherSpelling if is_single && !is_docker => Expected::Refused(all.clone()),
            Asked::First => again(&listed[0]),
            Asked::Second => listed.get(1).map_or_else(|| Expected::Refused(all.clone()), again),
            Asked::Nothing | Asked::Platform | Asked::NoAttestations | Asked::SingleImage => again(&listed[two]),
            Asked::Name | Asked::OtherSpelling | Asked::ManifestDigest | Asked::ConfigDigest => again(&listed[two]),
        };
        let words = move |asked: Asked| match asked {
            Asked::Nothing => String::new(),
            Asked::Platform | Asked::OtherPlatform | Asked::MissingPlatform if has_index => String::new(),
            Asked::NoAttestations | Asked::SingleImage if has_index => String::new(),
            Asked::OtherSpelling => format!(":{}", names[1]),
            Asked::ManifestDigest => {
                format!(":{}", two_root.as_ref().map_or_else(|| Digest::of(b"nowhere"), digest))
            }
            Asked::ConfigDigest | Asked::ConfigForOtherPlatform => format!(":{}", digest(&two_config)),
            Asked::First => ":@0".to_owned(),
            Asked::Second => ":@1".to_owned(),
            Asked::Tenth => ":@9".to_owned(),
            Asked::UnknownName => ":nope:1".to_owned(),
            Asked::Platform | Asked::OtherPlatform | Asked::MissingPlatform => format!(":{}", names[0]),
            Asked::NoAttestations | Asked::SingleImage | Asked::Name => format!(":{}", names[0]),
        };
        let place = Place::Files { transport, multi: multi.unwrap_or_else(|| both.clone()), both, piped };
        Row { name, place, expected: Box::new(expects), words: Box::new(words) }
    }
}

fn is_two(image: &Value, names: &[&str]) -> bool {
    let tags = image["tags"].as_array().cloned().unwrap_or_default();
    let annotations = image["annotations"].as_object().cloned().unwrap_or_default();
    tags.iter().chain(annotations.values()).any(|name| name.as_str().is_some_and(|name| names.contains(&name)))
}

fn files(folder: &Path) -> Vec<Row> {
    let put = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.join(name), bytes).unwrap();
        folder.join(name)
    };
    let gzipped = |path: &Path, name: &str| put(name, gzip(&std::fs::read(path).unwrap()));
    let unpacked = |path: &Path, name: &str| {
        tar::Archive::new(std::fs::File::open(path).unwrap()).unpack(folder.join(name)).unwrap();
        folder.join(name)
    };
    let hub = ["two:1", "docker.io/library/two:1"];
    let both = |engine: &str| recorded(&format!("{engine}/save-both.tar"));
    let multi = |engine: &str| Some(recorded(&format!("{engine}/export-multi.tar")));
    let new = "docker-28.5-containerd";
    let docker = |engine| Files {
        engine,
        transport: "docker-archive",
        names: hub,
        is_single: false,
        is_reversed: false,
        is_nameless: false,
        piped: false,
    };
    // Names in an index are whole ones.
    let oci =
        |engine| Files { transport: "oci-archive", names: ["docker.io/library/two:1", "two:1"], ..docker(engine) };
    let single = |engine, names| Files { is_single: true, names, ..oci(engine) };
    let turned = reversed(&both(new), folder.join("turned.tar"), true);
    let nameless = reversed(&both(new), folder.join("nameless.tar"), false);
    let packed_multi = gzipped(&multi(new).unwrap(), "multi.tar.gz");
    vec![
        docker("docker-20.10-overlay2").row("docker-archive of 20.10", both("docker-20.10-overlay2"), None),
        docker("docker-20.10-overlay2").row(
            "the same, gzipped",
            gzipped(&both("docker-20.10-overlay2"), "20.10.tar.gz"),
            None,
        ),
        Files { piped: true, ..docker("docker-20.10-overlay2") }.row(
            "the same, piped",
            both("docker-20.10-overlay2"),
            None,
        ),
        docker("docker-28.5-overlay2").row("docker-archive of 28.5, classic", both("docker-28.5-overlay2"), None),
        docker("docker-26.1-containerd").row(
            "docker-archive of 26.1, containerd",
            both("docker-26.1-containerd"),
            multi("docker-26.1-containerd"),
        ),
        docker(new).row("docker-archive of 28.5, containerd", both(new), multi(new)),
        Files { is_reversed: true, ..docker(new) }.row(
            "the same, index.json in another order",
            turned.clone(),
            multi(new),
        ),
        Files { is_reversed: true, is_nameless: true, ..docker(new) }.row(
            "the same, saved by ID",
            nameless.clone(),
            multi(new),
        ),
        docker(new).row("the same, gzipped", gzipped(&turned, "turned.tar.gz"), Some(packed_multi.clone())),
        Files { piped: true, ..docker(new) }.row("the same, piped", turned.clone(), multi(new)),
        Files { names: ["localhost/two:1", "two:1"], ..docker("podman-4.3") }.row(
            "docker-archive of Podman",
            both("podman-4.3"),
            None,
        ),
        oci(new).row("oci-archive of 28.5, containerd", both(new), multi(new)),
        Files { is_reversed: true, ..oci(new) }.row("the same, in another order", turned.clone(), multi(new)),
        Files { is_reversed: true, is_nameless: true, ..oci(new) }.row("the same, without names", nameless, multi(new)),
        oci(new).row("the same, gzipped", gzipped(&both(new), "oci.tar.gz"), Some(packed_multi)),
        Files { piped: true, ..oci(new) }.row("the same, piped", both(new), multi(new)),
        single("podman-4.3", ["localhost/two:1", "two:1"]).row(
            "oci-archive of Podman",
            recorded("podman-4.3/save-two-oci.tar"),
            None,
        ),
        single("skopeo-1.9", ["two:1", "docker.io/library/two:1"]).row(
            "oci-archive of skopeo",
            recorded("skopeo-1.9/oci-archive.tar"),
            None,
        ),
        Files { transport: "oci", ..oci(new) }.row(
            "oci layout of 28.5, containerd",
            unpacked(&both(new), "both"),
            Some(unpacked(&multi(new).unwrap(), "multi")),
        ),
    ]
}

async fn chosen(row: &Row, asked: Asked) -> Result<Chosen> {
    let (words, selection) = ((row.words)(asked), asked.selection());
    let source: Box<dyn Source> = match &row.place {
        Place::Engine { folder, use_store } => {
            let host = Some(format!("unix://{}", folder.path().join("s").display()));
            let engine = Engine::connect(&EngineSettings { host, ..EngineSettings::default() }).await?;
            let source = DockerDaemon::open(engine, &words, selection, *use_store).await?;
            let is_export = source.door().starts_with("the engine's export");
            // A store that lacks what is wanted is left, and the engine asked.
            let is_certain = !matches!(asked, Asked::MissingPlatform | Asked::SingleImage);
            assert!(is_export != *use_store || !is_certain, "{}: {}", row.name, source.door());
            Box::new(source)
        }
        Place::Containerd(fake) => {
            let address = Some(format!("unix://{}", fake.socket().display()));
            let settings = ContainerdSettings { address, ..ContainerdSettings::default() };
            Box::new(ContainerdSource::open(Containerd::connect(&settings).await?, &words, &selection).await?)
        }
        Place::Files { transport, both, multi, piped } => {
            let is_multi = words.is_empty() && asked != Asked::Nothing;
            let file = if is_multi { multi } else { both };
            let pipe = piped.then(|| self::piped(file));
            let path = pipe.as_ref().map_or(file, |(_, pipe)| pipe);
            let spec: SourceSpec = format!("{transport}:{}{words}", path.display()).parse()?;
            return tokio::task::spawn_blocking(move || {
                let read = open_file(&spec, &selection).and_then(read);
                drop(pipe);
                read
            })
            .await
            .unwrap();
        }
    };
    tokio::task::spawn_blocking(move || read(source)).await.unwrap()
}

/// What is wrong with the answer, if anything is.
fn wrong(answer: &Result<Chosen>, expected: &Expected) -> Option<String> {
    let is_right = match (answer, expected) {
        (Ok(chosen), Expected::Config(config)) => {
            chosen.image.root_digest().is_none() && chosen.image.config_digests().eq([*config])
        }
        (Ok(chosen), Expected::Root(root)) => chosen.image.root_digest() == Some(*root),
        (Ok(chosen), Expected::WithoutAttestation) => match &chosen.image {
            super::Image::Manifests { manifests, contents } => {
                (manifests.len(), contents.attestations, contents.platforms.len()) == (3, 0, 2)
            }
            super::Image::Layers { .. } => false,
        },
        (Err(error), Expected::Refused(words)) => {
            let text = format!("{} {:?}", error.message(), error.hints());
            words.iter().all(|word| text.contains(word))
        }
        _ => false,
    };
    (!is_right).then(|| format!("{answer:?} instead of {expected:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_source_gives_the_image_that_was_asked_for_or_says_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = vec![
        of_engine("Docker 20.10, export", "docker-20.10-overlay2", false),
        of_engine("Docker 20.10, overlay2 files", "docker-20.10-overlay2", true),
        of_engine("Docker 28.5 classic, export", "docker-28.5-overlay2", false),
        of_engine("Docker 28.5 classic, overlay2 files", "docker-28.5-overlay2", true),
        of_engine("Docker 26.1 containerd, export", "docker-26.1-containerd", false),
        of_engine("Docker 26.1 containerd, its files", "docker-26.1-containerd", true),
        of_engine("Docker 28.5 containerd, export", "docker-28.5-containerd", false),
        of_engine("Docker 28.5 containerd, its files", "docker-28.5-containerd", true),
        of_engine("Podman 4.3, export", "podman-4.3", false),
        containerd("containerd, its API", false),
        containerd("containerd, its files", true),
    ];
    rows.extend(files(folder.path()));
    let mut faults = Vec::new();
    let mut table = "| source |".to_owned();
    Asked::ALL.iter().for_each(|(_, name)| write!(table, " {name} |").unwrap());
    write!(table, "\n|---|{}", "---|".repeat(Asked::ALL.len())).unwrap();
    let (mut images, mut refusals) = (0, 0);
    for row in &rows {
        write!(table, "\n| {} |", row.name).unwrap();
        for (asked, name) in Asked::ALL {
            let (answer, expected) = (chosen(row, asked).await, (row.expected)(asked));
            if let Some(wrong) = wrong(&answer, &expected) {
                faults.push(format!("{} / {name}: {wrong}", row.name));
            }
            match expected {
                Expected::Refused(_) => refusals += 1,
                _ => images += 1,
            }
            write!(table, " {} |", if matches!(expected, Expected::Refused(_)) { "refused" } else { "right" }).unwrap();
        }
    }
    assert!(faults.is_empty(), "{} cells are wrong:\n{}", faults.len(), faults.join("\n\n"));
    let cells = images + refusals;
    let head = format!(
        "{cells} cells ({} sources, {} ways to ask): {images} gave the right image, {refusals} were refused, none gave another image.\n\n",
        rows.len(),
        Asked::ALL.len()
    );
    // Beside the figures of the other tests, which `tests/reliability/write` puts into the page.
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("reliability");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::write(target.join("selection.md"), format!("{head}{table}\n")).unwrap();
}
