//! Layouts and archives that contradict themselves, or fit a name in more than one way.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::{Chosen, Selection, Source, SourceSpec, open_file};
use crate::error::Result;
use crate::fuzzing::sink::Sink;
use crate::image::Digest;

pub(super) fn recorded(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines").join(path)
}

pub(super) fn digest(value: &Value) -> Digest {
    value.as_str().unwrap_or_else(|| panic!("{value} is a digest")).parse().unwrap()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn entries(archive: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let read = |entry: io::Result<tar::Entry<'_, std::fs::File>>| {
        let (mut entry, mut bytes) = (entry.unwrap(), Vec::new());
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
    };
    archive.entries().unwrap().map(read).collect()
}

/// Reads the image as a push does it, the check of what was named included.
pub(super) fn read(source: Box<dyn Source>) -> Result<Chosen> {
    let mut sink = Sink::default();
    let chosen = source.read(&mut sink)?;
    chosen.named.check(&chosen.image)?;
    sink.check(&chosen.image);
    Ok(chosen)
}

/// `app` is `localhost/app` to Podman and `docker.io/library/app` to Docker. Who has both has to say which.
#[test]
fn two_images_of_one_short_name_are_refused_and_each_whole_name_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["docker.io/library/app:latest", "localhost/app:latest"];
    let archive = folder.path().join("both.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    let mut configs = Vec::new();
    for (path, mut bytes) in entries(&recorded("podman-4.3/save-both.tar")) {
        if path == "manifest.json" {
            let mut saved: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
            for (image, name) in saved.iter_mut().zip(names) {
                image["RepoTags"] = json!([name]);
                configs.push(image["Config"].as_str().unwrap().strip_suffix(".json").unwrap().to_owned());
            }
            bytes = serde_json::to_vec(&saved).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    let choose = |name: &str| {
        let spec: SourceSpec = format!("docker-archive:{}:{name}", archive.display()).parse().unwrap();
        open_file(&spec, &Selection::default()).map(|source| source.preview().config_digest.unwrap().hex())
    };
    for name in ["app", "app:latest"] {
        let error = choose(name).unwrap_err();
        assert!(names.iter().all(|name| error.message().contains(name)), "{name}: {error}");
    }
    for (name, config) in [
        ("docker.io/library/app", &configs[0]),
        ("docker.io/app", &configs[0]),
        ("library/app", &configs[0]),
        ("localhost/app", &configs[1]),
        ("localhost/app:latest", &configs[1]),
        ("@1", &configs[1]),
    ] {
        assert_eq!(choose(name).unwrap(), *config, "{name}");
    }
}

/// A layout made by hand: blobs, and the entries of its index.
struct Layout(tempfile::TempDir);

impl Layout {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        Self(folder)
    }

    fn blob(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(self.0.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"digest": digest.to_string(), "size": bytes.len()})
    }

    /// An image for a platform, and the descriptor of its manifest. `mark` makes it another one.
    fn image(&self, platform: &str, mark: &str) -> Value {
        let parts: Vec<&str> = platform.split('/').collect();
        let mut config = json!({"mark": mark, "rootfs": {"type": "layers", "diff_ids": []}});
        if let [os, architecture, rest @ ..] = parts.as_slice() {
            (config["os"], config["architecture"]) = (json!(os), json!(architecture));
            if let [variant] = rest {
                config["variant"] = json!(variant);
            }
        }
        let mut config = self.blob(config.to_string().as_bytes());
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []});
        let mut descriptor = self.blob(manifest.to_string().as_bytes());
        descriptor["mediaType"] = json!(kind);
        descriptor
    }

    fn listed(&self, mut descriptor: Value, platform: &str) -> Value {
        let parts: Vec<&str> = platform.split('/').collect();
        descriptor["platform"] = json!({"os": parts[0], "architecture": parts[1]});
        if let Some(variant) = parts.get(2) {
            descriptor["platform"]["variant"] = json!(variant);
        }
        descriptor
    }

    /// An index of the entries, as the one image of the layout.
    fn index(&self, entries: &[Value]) {
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries});
        let mut root = self.blob(index.to_string().as_bytes());
        root["mediaType"] = json!(kind);
        self.roots(&[root]);
    }

    fn roots(&self, entries: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": entries});
        std::fs::write(self.0.path().join("index.json"), index.to_string()).unwrap();
    }

    fn read(&self, reference: &str, platform: Option<&str>) -> Result<Digest> {
        let spec: SourceSpec = format!("oci:{}{reference}", self.0.path().display()).parse()?;
        let platform = platform.map(|platform| platform.parse().unwrap());
        let chosen = read(open_file(&spec, &Selection { platform, ..Selection::default() })?)?;
        Ok(chosen.image.root_digest().unwrap())
    }
}

#[test]
fn of_several_variants_the_one_that_was_named_is_chosen() {
    for (wanted, there, expected) in [
        ("linux/arm64/v8", &["linux/arm64/v9", "linux/arm64/v8"][..], Some(1)),
        ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"], Some(2)),
        ("linux/arm", &["linux/arm/v6", "linux/arm/v7", "linux/arm/v5"], Some(1)),
        ("linux/arm/7", &["linux/arm/v6", "linux/arm/v7"], Some(1)),
        ("linux/amd64", &["linux/amd64/v3", "linux/amd64/v2"], None),
        ("windows/amd64", &["windows/amd64", "windows/amd64"], None),
    ] {
        let layout = Layout::new();
        let number = |(at, platform): (usize, &&str)| layout.listed(layout.image(platform, &at.to_string()), platform);
        let entries: Vec<Value> = there.iter().enumerate().map(number).collect();
        layout.index(&entries);
        let read = layout.read("", Some(wanted));
        match expected {
            Some(at) => assert_eq!(read.unwrap(), digest(&entries[at]["digest"]), "{wanted} of {there:?}"),
            None => {
                let error = read.unwrap_err();
                assert!(error.message().contains("several images") && error.message().contains(there[0]), "{error}");
            }
        }
    }
}

#[test]
fn an_index_that_contradicts_the_config_is_refused_for_that_platform() {
    let layout = Layout::new();
    layout.index(&[layout.listed(layout.image("linux/amd64", "lies"), "linux/arm64")]);
    for platform in ["linux/arm64", "linux/amd64"] {
        let error = layout.read("", Some(platform)).unwrap_err();
        assert!(error.message().contains("is for linux/arm64, and its config says linux/amd64"), "{error}");
    }
    assert!(layout.read("", None).is_ok(), "the whole index is what was named");
    // A config that says nothing is not taken for linux/amd64.
    let layout = Layout::new();
    layout.roots(&[layout.image("", "silent")]);
    let error = layout.read("", Some("linux/amd64")).unwrap_err();
    assert!(error.message().contains("present: none"), "{error}");
}

#[test]
fn whole_names_come_before_tags_and_a_digest_in_a_name_is_compared() {
    let layout = Layout::new();
    let named = |mark: &str, name: &str, tag: &str| {
        let mut image = layout.image("linux/amd64", mark);
        image["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
        image
    };
    let images = [
        named("a", "docker.io/library/app:latest", "latest"),
        named("b", "docker.io/library/other:app", "app"),
        named("c", &format!("docker.io/library/app@{}", Digest::of(b"another")), ""),
    ];
    layout.roots(&images);
    let is = |at: usize| digest(&images[at]["digest"]);
    assert_eq!(layout.read(":docker.io/library/app", None).unwrap(), is(0));
    assert_eq!(layout.read(":other:app", None).unwrap(), is(1));
    assert_eq!(layout.read(":latest", None).unwrap(), is(0));
    let error = layout.read(":app", None).unwrap_err();
    assert!(error.message().contains("fits several images"), "{error}");
    let pinned = format!(":docker.io/library/app@{}", Digest::of(b"another"));
    assert!(layout.read(&pinned, None).unwrap_err().message().contains("has no image"));
}

#[test]
fn a_config_names_one_image_of_an_index() {
    let layout = Layout::new();
    let images = [layout.image("linux/amd64", "a"), layout.image("linux/arm64", "b")];
    layout.index(&[layout.listed(images[0].clone(), "linux/amd64"), layout.listed(images[1].clone(), "linux/arm64")]);
    let manifest =
        std::fs::read(layout.0.path().join("blobs/sha256").join(digest(&images[1]["digest"]).hex())).unwrap();
    let config = serde_json::from_slice::<Value>(&manifest).unwrap()["config"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(layout.read(&format!(":{config}"), None).unwrap(), digest(&images[1]["digest"]));
    assert_eq!(layout.read(&format!(":{config}"), Some("linux/arm64")).unwrap(), digest(&images[1]["digest"]));
    let error = layout.read(&format!(":{config}"), Some("linux/amd64")).unwrap_err();
    assert!(error.message().contains("is for linux/arm64, not for linux/amd64"), "{error}");
}

/// `manifest.json` and `index.json` of one archive contradict each other: the layers of the first are what was listed to the user.
#[test]
fn a_manifest_of_other_layers_is_not_taken_for_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("evil.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    let evil = gzip(b"evil");
    let mut put = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    let mut saved = Value::Null;
    for (path, mut bytes) in entries(&recorded("docker-28.5-containerd/export-two.tar")) {
        if path == "manifest.json" {
            saved = serde_json::from_slice(&bytes).unwrap();
        }
        if path == "index.json" {
            let mut index: Value = serde_json::from_slice(&bytes).unwrap();
            let root = digest(&index["manifests"][0]["digest"]);
            let stored = entries(&recorded("docker-28.5-containerd/export-two.tar"));
            let (_, manifest) = stored.iter().find(|(path, _)| path.ends_with(&root.hex())).unwrap();
            let mut manifest: Value = serde_json::from_slice(manifest).unwrap();
            manifest["layers"][0]["digest"] = json!(Digest::of(&evil).to_string());
            manifest["layers"][0]["size"] = json!(evil.len());
            let manifest = manifest.to_string().into_bytes();
            index["manifests"][0]["digest"] = json!(Digest::of(&manifest).to_string());
            index["manifests"][0]["size"] = json!(manifest.len());
            put(&format!("blobs/sha256/{}", Digest::of(&manifest).hex()), &manifest);
            bytes = index.to_string().into_bytes();
        }
        if !path.ends_with('/') {
            put(&path, &bytes);
        }
    }
    put(&format!("blobs/sha256/{}", Digest::of(&evil).hex()), &evil);
    builder.finish().unwrap();
    let layers: Vec<String> = saved[0]["Layers"].as_array().unwrap().iter().map(|path| path.to_string()).collect();
    let spec: SourceSpec = format!("docker-archive:{}", archive.display()).parse().unwrap();
    let chosen = read(open_file(&spec, &Selection::default()).unwrap()).unwrap();
    let super::Image::Layers { layers: read, .. } = &chosen.image else { panic!("a manifest of ours: {chosen:?}") };
    for layer in read {
        let super::LayerRef::Blob(digest) = layer else { panic!("as it is stored") };
        assert!(layers.iter().any(|path| path.contains(&digest.hex())), "{digest} is none of {layers:?}");
    }
}
