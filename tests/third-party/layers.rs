//! Layers by their digests alone: of tars that no reader of tars need understand, in blobs of any codec.

use crate::archive::{DockerArchive, hex};
use crate::command::{Cmd, Outcome};
use crate::image::docker_build;
use crate::push::{ecr_push, to_repository};
use crate::stack::{HOST, Stack, TOKEN};
use crate::verify::hex_sha256;
use crate::{engine::Engine, image::put};
use flate2::bufread::GzDecoder;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// An image as a registry has it.
pub struct Stored {
    /// The digest of its manifest.
    pub digest: String,
    pub manifest: Value,
    /// The digest of its config.
    pub config_digest: String,
    pub config: Value,
    /// The digests of its layers, unpacked.
    pub unpacked: Vec<String>,
}

impl Stored {
    /// The digests of its blobs, bottom first.
    pub fn blobs(&self) -> Vec<&str> {
        let layers = self.manifest["layers"].as_array().expect("layers");
        layers.iter().map(|layer| layer["digest"].as_str().expect("a digest")).collect()
    }

    /// # Panics
    /// When it is not an image of just these layers, or its config names others.
    #[track_caller]
    pub fn assert_holds(&self, diff_ids: &[String]) {
        assert_eq!(self.unpacked, diff_ids, "the layers");
        assert_eq!(named(&self.config), diff_ids, "what the config names");
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex_sha256(bytes))
}

fn named(config: &Value) -> Vec<String> {
    let diff_ids = config["rootfs"]["diff_ids"].as_array().expect("diff ids");
    diff_ids.iter().map(|id| id.as_str().expect("a digest").to_owned()).collect()
}

/// The digest of all that can be read.
fn digest_of(mut content: impl Read) -> std::io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match content.read(&mut buffer)? {
            0 => return Ok(format!("sha256:{}", hex(hash.finalize()))),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// The digests of the layers in what `docker save` wrote.
#[track_caller]
pub fn of_docker_archive(path: &Path) -> Vec<String> {
    let archive = DockerArchive::open(path).expect("an archive");
    let manifest: Value = serde_json::from_slice(&archive.read("manifest.json").expect("a manifest")).expect("JSON");
    let layers = manifest[0]["Layers"].as_array().expect("layers").iter().filter_map(Value::as_str);
    layers.map(|layer| digest_of(archive.stream(layer).expect("a layer")).expect("a layer")).collect()
}

/// Copies an image from a registry into a folder with skopeo, and gives what is in it. With `--dest-decompress` among the options it is
/// skopeo that unpacks; else blobs stay as they are, and those of gzip are unpacked here.
#[track_caller]
pub fn bring_back(stack: &Stack, reference: &str, options: &[&str]) -> Stored {
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    copy_to(stack, reference, folder.path(), options);
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("a file of skopeo's");
    let bytes = read("manifest.json");
    let manifest: Value = serde_json::from_slice(&bytes).expect("a manifest");
    let blob = |descriptor: &Value| folder.path().join(&descriptor["digest"].as_str().expect("a digest")[7..]);
    let config = std::fs::read(blob(&manifest["config"])).expect("a config");
    let unpacked = manifest["layers"].as_array().expect("layers").iter().map(|layer| {
        let mut file = BufReader::new(std::fs::File::open(blob(layer)).expect("a blob"));
        let is_gzip = file.fill_buf().expect("a blob").starts_with(&[0x1f, 0x8b]);
        if is_gzip { digest_of(GzDecoder::new(file)) } else { digest_of(file) }.expect("a blob that can be unpacked")
    });
    let unpacked = unpacked.collect();
    let (digest, config_digest) = (digest(&bytes), digest(&config));
    let config = serde_json::from_slice(&config).expect("a config");
    Stored { digest, manifest, config_digest, config, unpacked }
}

/// Copies an image from the registry into a folder with skopeo.
#[track_caller]
pub fn copy_to(stack: &Stack, reference: &str, folder: &Path, options: &[&str]) {
    let (from, to) = (format!("docker://{HOST}/{reference}"), format!("dir:{}", folder.display()));
    skopeo(stack, &[&["copy", "-q"], options, &[&from, &to]].concat()).ok();
}

/// Runs skopeo so that it learns nothing.
pub fn skopeo(stack: &Stack, words: &[&str]) -> Outcome {
    let login = stack.space.path("docker/config.json");
    let command = stack.space.command("skopeo").arg("--insecure-policy").args(words).env("REGISTRY_AUTH_FILE", login);
    forgetful(command).run()
}

/// skopeo and podman remember which blobs hold the same layer, and later send one for another: of another codec, say, that a test
/// of ours has pushed. So this one remembers in a file system of its own.
fn forgetful(command: Cmd) -> Cmd {
    let script = r#"mount -t tmpfs tmpfs /var/lib/containers && exec "$@""#;
    command.through(&["unshare", "--mount", "--", "sh", "-c", script, "sh"])
}

/// A folder that nothing has used.
pub fn fresh(stack: &Stack) -> PathBuf {
    tempfile::tempdir_in(stack.space.folder()).expect("a folder").keep()
}

/// A push whose log says all and whose result is JSON, from an engine, with a cache of its own unless `--cache-dir` names another.
pub fn told(stack: &'static Stack, engine: &Engine, image: &str, repository: &str, tag: &str) -> Cmd {
    let command = to_repository(ecr_push(stack, &stack.admin), image, repository, &[tag]);
    let command = command.env("DOCKER_HOST", engine.host()).env("XDG_CACHE_HOME", fresh(stack));
    command.args(["-v", "--output", "json"])
}

/// Has the containerd of a dockerd pull an image, and unpack it with an eye on its diff ids. It keeps nothing.
pub fn pull_with_containerd(stack: &Stack, engine: &Engine, reference: &str) -> Outcome {
    let address = engine.file("run/containerd/containerd.sock").display().to_string();
    let reference = format!("{HOST}/{reference}");
    let images = |words: &[&str]| {
        let command = stack.space.command("ctr").args(["-a", &address, "-n", "tests", "images"]);
        command.args(words).arg(&reference).run()
    };
    let authority = stack.space.path("ca.crt").display().to_string();
    let outcome = images(&["pull", "--user", TOKEN, "--tlscacert", &authority]);
    images(&["rm", "--sync"]).ok();
    outcome
}

/// Has podman pull an image from the registry.
pub fn pull_with_podman(stack: &Stack, podman: &Engine, reference: &str) -> Outcome {
    let login = stack.space.path("docker/config.json").display().to_string();
    let words = ["pull", "-q", "--authfile", &login, &format!("{HOST}/{reference}")];
    forgetful(podman.podman_command(&words)).run()
}

/// The layers of a push's result, by what was done with each.
#[track_caller]
pub fn done(outcome: &Outcome, action: &str) -> Vec<Value> {
    let json = outcome.json();
    let layers = json["layers"].as_array().expect("layers").iter();
    layers.filter(|layer| layer["action"] == action && layer["diff_id"].is_string()).cloned().collect()
}

/// Builds an image of one layer for each text: a file of noise, and one with the text.
pub fn layered(stack: &Stack, engine: &Engine, name: &str, texts: &[&str]) {
    let copies: String = (0..texts.len()).map(|layer| format!("COPY layer{layer} /layer{layer}/\n")).collect();
    docker_build(&stack.space, engine, name, &format!("FROM scratch\n{copies}LABEL name={name}\n"), |tar| {
        for (layer, text) in texts.iter().enumerate() {
            let seed = text.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
            put(tar, &format!("layer{layer}/noise"), 0o644, &crate::image::noise(300 << 10, seed));
            put(tar, &format!("layer{layer}/text"), 0o644, text.as_bytes());
        }
    });
}

/// The diff ids that the engine names.
#[track_caller]
pub fn in_engine(engine: &Engine, image: &str) -> Vec<String> {
    let ids = engine.run(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", image]);
    serde_json::from_str(&ids).expect("a list")
}
