//! Repositories in a directory: an OCI layout each, that other tools can read.
//!
//! `DIR/team+app/` is the repository `team/app`; `+` cannot be in a name, and with `/` a repository `app/blobs` would
//! lie inside the layout of `app`. What OCI has no place for is in `local-ecr.json` beside `index.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::blob::{Blob, sha256};
use super::{Contents, Image, Repository, Settings};
use crate::manifest::{Manifest, is_sha256};
use crate::rules::{Mutability, check_name};
use crate::util::{epoch, from_epoch};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

pub(super) fn directory(root: &Path, name: &str) -> PathBuf {
    root.join(name.replace('/', "+"))
}

pub(super) fn blob_path(directory: &Path, digest: &str) -> PathBuf {
    directory.join("blobs").join("sha256").join(digest.trim_start_matches("sha256:"))
}

/// The files that make a directory a repository.
const OF_A_LAYOUT: [&str; 3] = ["index.json", "local-ecr.json", "oci-layout"];

/// Makes the empty layout of a new repository.
pub(super) fn create(directory: &Path, contents: &Contents) -> io::Result<()> {
    // A damaged one that was left out: its images may still be saved.
    if let Some(file) = OF_A_LAYOUT.iter().map(|name| directory.join(name)).find(|file| file.exists()) {
        let sentence = format!("{} is there already and would be overwritten", file.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, sentence));
    }
    fs::create_dir_all(directory.join("blobs").join("sha256"))?;
    write(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    save(directory, contents)
}

/// Writes a file so that a reader sees the old or the new one, never half of it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Writes the index and the settings.
pub(super) fn save(directory: &Path, contents: &Contents) -> io::Result<()> {
    let mut manifests = Vec::new();
    for (digest, image) in &contents.images {
        let descriptor = json!({ "mediaType": image.manifest.media_type, "digest": digest, "size": image.bytes.len() });
        let tags: Vec<_> = contents.tags_of(digest).collect();
        for tag in &tags {
            let mut tagged = descriptor.clone();
            tagged["annotations"] = json!({ REF_NAME: tag });
            manifests.push(tagged);
        }
        if tags.is_empty() {
            manifests.push(descriptor);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": crate::manifest::OCI_INDEX,
        "manifests": manifests,
    });
    write(&directory.join("index.json"), index.to_string().as_bytes())?;
    let settings = &contents.settings;
    let pushed: BTreeMap<_, _> =
        contents.images.iter().map(|(digest, image)| (digest, epoch(image.pushed_at))).collect();
    let archived: Vec<_> =
        contents.images.iter().filter(|(_, image)| image.archived).map(|(digest, _)| digest).collect();
    let extra = json!({
        "createdAt": epoch(settings.created_at),
        "imageTagMutability": settings.mutability.mode(),
        "imageTagMutabilityExclusionFilters": settings.mutability.filters(),
        "imageScanningConfiguration": settings.scanning,
        "encryptionConfiguration": settings.encryption,
        "tags": settings.tags,
        "pushedAt": pushed,
        "archived": archived,
    });
    write(&directory.join("local-ecr.json"), extra.to_string().as_bytes())
}

/// What lies in a directory.
#[derive(Default)]
pub(super) struct Found {
    pub repositories: BTreeMap<String, Arc<Repository>>,
    /// Name, place, and what is wrong.
    pub damaged: Vec<(String, PathBuf, String)>,
}

/// Finds the repositories of an earlier run. Directories that are no repository are left alone, and so are repositories that
/// cannot be read.
pub(super) fn load_all(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().replace('+', "/");
        let path = entry.path();
        if check_name(&name).is_err() || !OF_A_LAYOUT.iter().any(|file| path.join(file).exists()) {
            continue;
        }
        match load(&path) {
            Ok(contents) => {
                found.repositories.insert(name.clone(), Arc::new(Repository::new(name, Some(path), contents)));
            }
            Err(error) => found.damaged.push((name, path, error.to_string())),
        }
    }
    found.damaged.sort();
    Ok(found)
}

/// Reads a file, and names it if that fails.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| named(path, error))
}

fn named(path: &Path, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    let file = path.file_name().unwrap_or_default().display();
    io::Error::new(error.kind(), format!("{file}: {error}"))
}

fn read_json(path: &Path) -> io::Result<Value> {
    serde_json::from_slice(&read(path)?).map_err(|error| named(path, error))
}

fn load(directory: &Path) -> io::Result<Contents> {
    read_json(&directory.join("oci-layout"))?;
    let index = read_json(&directory.join("index.json"))?;
    // Absent if another tool made the layout.
    let extra = match read_json(&directory.join("local-ecr.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
        extra => extra?,
    };
    let mode = extra["imageTagMutability"].as_str().unwrap_or("MUTABLE");
    let mutability = Mutability::parse(mode, &extra["imageTagMutabilityExclusionFilters"])
        .map_err(|refusal| io::Error::other(refusal.message))?;
    let mut settings = Settings { mutability, ..Settings::default() };
    settings.created_at = extra["createdAt"].as_f64().map_or_else(SystemTime::now, from_epoch);
    if !extra.is_null() {
        settings.scanning = extra["imageScanningConfiguration"].clone();
        settings.encryption = extra["encryptionConfiguration"].clone();
        settings.tags = extra["tags"].clone();
    }
    let mut contents = Contents::new(settings);
    let listed = index["manifests"].as_array();
    for descriptor in listed.ok_or_else(|| io::Error::other("index.json: it has no list of manifests"))? {
        let digest = descriptor["digest"].as_str().filter(|digest| is_sha256(digest));
        let digest = digest.ok_or_else(|| io::Error::other("index.json names a manifest without a digest"))?;
        if let Some(tag) = descriptor["annotations"][REF_NAME].as_str() {
            contents.tags.insert(tag.to_owned(), digest.to_owned());
        }
        load_image(directory, digest, descriptor["mediaType"].as_str(), &extra, &mut contents)?;
        // Left out on its own, the image would be lost without a word.
        if !contents.images.contains_key(digest) {
            return Err(io::Error::other(format!("index.json names the manifest {digest}, which is not there")));
        }
    }
    let blobs = directory.join("blobs").join("sha256");
    for entry in fs::read_dir(&blobs).map_err(|error| named(&blobs, error))? {
        let entry = entry?;
        let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
        // Temporary files of a run that was killed have other names.
        if is_sha256(&digest) && !contents.images.contains_key(&digest) {
            contents.blobs.insert(digest, Blob::in_file(entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(contents)
}

/// Reads a manifest, and those below it: other tools name only the top one in the index.
fn load_image(
    directory: &Path,
    digest: &str,
    media_type: Option<&str>,
    extra: &Value,
    contents: &mut Contents,
) -> io::Result<()> {
    if contents.images.contains_key(digest) {
        return Ok(());
    }
    let bytes = match fs::read(blob_path(directory, digest)) {
        // A layout may hold one platform of many.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    if sha256(&bytes) != digest {
        return Err(io::Error::other(format!("the manifest {digest} has other bytes than its digest says")));
    }
    let manifest = Manifest::read(&bytes, media_type, usize::MAX)
        .map_err(|_| io::Error::other(format!("the manifest {digest} is of a kind ECR does not keep")))?;
    let children = manifest.children.clone();
    let image = Image {
        bytes: Bytes::from(bytes),
        manifest,
        pushed_at: extra["pushedAt"][digest].as_f64().map_or_else(SystemTime::now, from_epoch),
        archived: extra["archived"].as_array().is_some_and(|archived| archived.iter().any(|it| it == digest)),
    };
    contents.images.insert(digest.to_owned(), image);
    children.iter().try_for_each(|child| load_image(directory, child, None, extra, contents))
}
