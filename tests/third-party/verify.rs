//! Bringing an image back and comparing it with its source.

use crate::archive::{DockerArchive, Layer, hex, read_layer};
use crate::stack::{HOST, Stack};
use flate2::bufread::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The media type of an image manifest as `docker push` makes it.
pub const SCHEMA2: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What an image is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    pub config_digest: String,
    pub config: Value,
    pub layers: Vec<Layer>,
}

/// An image that was brought back.
pub struct Pulled {
    /// The digest of its manifest.
    pub digest: String,
    pub manifest: Value,
    pub image: Image,
}

/// The SHA-256 of some bytes.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex_sha256(bytes))
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("{value} is not a text"))
}

fn list(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{value} is not a list"))
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl Image {
    fn checked(config: &[u8], layers: Vec<Layer>) -> Result<Self, String> {
        let config_digest = sha256(config);
        let config = parse(config)?;
        let stated = list(&config["rootfs"]["diff_ids"])?;
        let found: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        if stated.iter().map(|id| id.as_str().unwrap_or_default()).ne(found.iter().copied()) {
            return Err(format!("the config states the layers {stated:?}, found are {found:?}"));
        }
        Ok(Self { config_digest, config, layers })
    }

    /// Reads what `docker save` wrote.
    pub fn of_docker_archive(path: &Path) -> Result<Self, String> {
        let read = || -> std::io::Result<(Vec<u8>, Vec<Layer>)> {
            let archive = DockerArchive::open(path)?;
            let manifest = parse(&archive.read("manifest.json")?).map_err(std::io::Error::other)?;
            let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let layers = manifest[0]["Layers"].as_array().cloned().unwrap_or_default();
            let layers =
                layers.iter().map(|layer| read_layer(archive.stream(&name(layer))?)).collect::<Result<_, _>>()?;
            Ok((archive.read(&name(&manifest[0]["Config"]))?, layers))
        };
        let (config, layers) = read().map_err(|error| format!("{}: {error}", path.display()))?;
        Self::checked(&config, layers)
    }

    /// The diff IDs, bottom first.
    pub fn diff_ids(&self) -> Vec<&str> {
        self.layers.iter().map(|layer| layer.diff_id.as_str()).collect()
    }

    /// How many different layers there are.
    pub fn distinct_layers(&self) -> usize {
        self.diff_ids().into_iter().collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Everything in which `other` differs, one line each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.config_digest != other.config_digest {
            found.push(format!("config {} became {}", self.config_digest, other.config_digest));
        }
        if self.diff_ids() != other.diff_ids() {
            found.push(format!("layers {:?} became {:?}", self.diff_ids(), other.diff_ids()));
        }
        for (number, (one, two)) in self.layers.iter().zip(&other.layers).enumerate() {
            for (path, entry) in &one.entries {
                match two.entries.get(path) {
                    None => found.push(format!("layer {number}: {path} is gone")),
                    Some(now) if now != entry => {
                        found.push(format!("layer {number}: {path}: {entry:?} became {now:?}"))
                    }
                    Some(_) => {}
                }
            }
            let new = two.entries.keys().filter(|path| !one.entries.contains_key(*path));
            found.extend(new.map(|path| format!("layer {number}: {path} is new")));
        }
        found
    }

    /// # Panics
    /// When `other` differs.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        let differences = self.differences(other);
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    }
}

/// Reads a folder that skopeo's `dir:` wrote, whose blobs are those of the registry. Checks each digest and each stated size, and
/// that each layer is one gzip member.
pub fn read_dir_layout(folder: &Path) -> Result<Pulled, String> {
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(|error| format!("{name}: {error}"));
    let bytes = read("manifest.json")?;
    let manifest = parse(&bytes)?;
    let blob = |descriptor: &Value| -> Result<Vec<u8>, String> {
        let digest = text(&descriptor["digest"])?;
        let content = read(digest.trim_start_matches("sha256:"))?;
        if sha256(&content) != digest {
            return Err(format!("{digest} has the content of {}", sha256(&content)));
        }
        if descriptor["size"].as_u64() != Some(content.len() as u64) {
            return Err(format!("{digest} has {} bytes, not {}", content.len(), descriptor["size"]));
        }
        Ok(content)
    };
    let config = blob(&manifest["config"])?;
    let mut layers = Vec::new();
    for descriptor in list(&manifest["layers"])? {
        let content = blob(descriptor)?;
        let mut decoder = GzDecoder::new(&content[..]);
        layers.push(read_layer(&mut decoder).map_err(|error| format!("{}: {error}", descriptor["digest"]))?);
        if !decoder.into_inner().is_empty() {
            return Err(format!("{} is more than one gzip member", descriptor["digest"]));
        }
    }
    Ok(Pulled { digest: sha256(&bytes), manifest, image: Image::checked(&config, layers)? })
}

/// Brings an image back from the stack with skopeo. `reference` is `NAME:TAG` or `NAME@DIGEST`.
#[track_caller]
pub fn pull_with_skopeo(stack: &Stack, reference: &str) -> Pulled {
    pull_from(stack, &format!("{HOST}/{reference}"), &[])
}

/// Brings an image back from any registry with skopeo and some options of its `copy`.
#[track_caller]
pub fn pull_from(stack: &Stack, reference: &str, options: &[&str]) -> Pulled {
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    let (from, to) = (format!("docker://{reference}"), format!("dir:{}", folder.path().display()));
    stack.skopeo(&[&["copy", "-q"], options, &[&from, &to]].concat()).ok();
    read_dir_layout(folder.path()).unwrap_or_else(|error| panic!("{reference}: {error}"))
}

/// Brings an image back from the stack with `docker pull`, into an engine that does not have it.
#[track_caller]
pub fn pull_with_docker(stack: &'static Stack, reference: &str) -> Image {
    docker_pull_from(stack, &format!("{HOST}/{reference}"), &stack.space.path("docker"))
}

/// Brings an image back from any registry with `docker pull`; `config` is the folder of Docker's configuration.
#[track_caller]
pub fn docker_pull_from(stack: &'static Stack, name: &str, config: &Path) -> Image {
    let engine = stack.puller();
    engine.try_docker(&["pull", "-q", name]).env("DOCKER_CONFIG", config).run().ok();
    let archive = tempfile::NamedTempFile::new_in(stack.space.folder()).expect("a file");
    engine.run(&["save", "-o", &archive.path().display().to_string(), name]);
    engine.run(&["rmi", "-f", name]);
    assert_eq!(engine.run(&["images", "-aq"]), "", "the next test needs an engine without images");
    Image::of_docker_archive(archive.path()).expect("what docker saved")
}
