//! Archives and layouts that are made to exhaust memory, time or disk: each gets one sentence, soon.

mod common;

use std::path::{Path, PathBuf};

use common::Keeper;
use ecr_push::error::Error;
use ecr_push::image::{Digest, MediaType};
use ecr_push::source::{Image, Selection, SourceSpec, open_file};
use ecr_push::{Result, image::Manifest};
use tempfile::TempDir;

fn read(transport: &str, path: &Path) -> Result<Image> {
    let spec: SourceSpec = format!("{transport}:{}", path.display()).parse()?;
    open_file(&spec, &Selection::default())?.read(&mut Keeper::default()).map(|chosen| chosen.image)
}

/// The refusal, which is a sentence and no document.
#[track_caller]
fn refused(transport: &str, path: &Path, sentence: &str) -> Error {
    let error = read(transport, path).expect_err(sentence);
    assert!(error.message().contains(sentence) && error.message().len() < 5000, "{error}");
    error
}

/// A tar, as a file and compressed.
fn tars(folder: &TempDir, entries: &[(tar::Header, &str, Vec<u8>)]) -> [PathBuf; 2] {
    let mut tar = tar::Builder::new(Vec::new());
    for (header, path, content) in entries {
        let mut header = header.clone();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let paths = ["a.tar", "a.tar.gz"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], &bytes).unwrap();
    let mut packed =
        flate2::write::GzEncoder::new(std::fs::File::create(&paths[1]).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut bytes.as_slice(), &mut packed).unwrap();
    packed.finish().unwrap();
    paths
}

fn file() -> tar::Header {
    tar::Header::new_gnu()
}

#[test]
fn a_manifest_json_of_many_images_is_one_short_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let entry = r#"{"Config":"","Layers":[]}"#;
    let many = format!("[{}]", vec![entry; 300_000].join(","));
    for path in tars(&folder, &[(file(), "manifest.json", many.into_bytes())]) {
        refused("docker-archive", &path, "holds 300000 images");
    }
    let more = format!("[{}]", vec![entry; 1_000_000].join(","));
    for path in tars(&folder, &[(file(), "manifest.json", more.into_bytes())]) {
        refused("docker-archive", &path, "more than the 8388608 allowed for a document");
    }
}

#[test]
fn json_that_is_nested_deep_is_no_document() {
    let folder = tempfile::tempdir().unwrap();
    let deep = |bracket: &str| bracket.repeat(100_000).into_bytes();
    for bracket in ["[", "{\"a\":"] {
        for path in tars(&folder, &[(file(), "manifest.json", deep(bracket)), (file(), "index.json", deep(bracket))]) {
            refused("docker-archive", &path, "its manifest.json cannot be understood");
            refused("oci-archive", &path, "is not an index");
        }
    }
}

#[test]
fn names_are_bounded_one_by_one_and_together() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(4097);
    for path in tars(&folder, &[(file(), &long, Vec::new())]) {
        refused("docker-archive", &path, "a name of over 4096 bytes");
    }
    let names: Vec<String> = (0..17_000).map(|number| format!("{number}{}", "x".repeat(4080))).collect();
    let entries: Vec<_> = names.iter().map(|name| (file(), name.as_str(), Vec::new())).collect();
    for path in tars(&folder, &entries) {
        refused("docker-archive", &path, "over 64 MiB of names");
    }
}

#[test]
fn entries_of_one_name_are_counted_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let entries: Vec<_> = (0..200_001).map(|_| (file(), "same", Vec::new())).collect();
    for path in tars(&folder, &entries) {
        refused("docker-archive", &path, "more than 200000 entries");
    }
}

#[test]
fn many_entries_without_content_are_no_large_header() {
    let folder = tempfile::tempdir().unwrap();
    let mut directory = file();
    directory.set_entry_type(tar::EntryType::Directory);
    let names: Vec<String> = (0..10_000).map(|number| format!("{number}/")).collect();
    let entries: Vec<_> = names.iter().map(|name| (directory.clone(), name.as_str(), Vec::new())).collect();
    for path in tars(&folder, &entries) {
        refused("docker-archive", &path, "it has no entries");
    }
}

#[cfg(unix)]
#[test]
fn zeros_without_end_are_no_archive() {
    refused("docker-archive", Path::new("/dev/zero"), "it has no entries");
}

#[test]
fn a_sparse_file_of_endless_zeros_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.tar");
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_path("zeros").unwrap();
    let whole = "00777777777777777777777";
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize.copy_from_slice(&whole.as_bytes()[whole.len() - 12..]);
    gnu.sparse[0].offset.copy_from_slice(&whole.as_bytes()[whole.len() - 12..]);
    gnu.sparse[0].numbytes.copy_from_slice(b"00000000000\0");
    header.set_size(0);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(2048, 0);
    std::fs::write(&path, &bytes).unwrap();
    refused("docker-archive", &path, "has a sparse file");
    let packed = folder.path().join("sparse.tar.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut bytes.as_slice(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    refused("docker-archive", &packed, "has a sparse file");
}

#[test]
fn sizes_that_no_archive_has_are_a_cut_archive() {
    let folder = tempfile::tempdir().unwrap();
    for size in [u64::MAX, u64::MAX - 511, u64::MAX - 1024, 1 << 63, 1 << 40] {
        for name in ["manifest.json", "layer.tar"] {
            let mut header = file();
            header.set_path(name).unwrap();
            header.set_mode(0o644);
            header.set_size(size);
            header.set_cksum();
            let mut bytes = header.as_bytes().to_vec();
            bytes.resize(4096, b' ');
            let path = folder.path().join("huge.tar");
            std::fs::write(&path, &bytes).unwrap();
            assert!(read("docker-archive", &path).is_err(), "{size} {name}");
            let packed = folder.path().join("huge.tar.gz");
            let mut encoder =
                flate2::write::GzEncoder::new(std::fs::File::create(&packed).unwrap(), flate2::Compression::fast());
            std::io::copy(&mut bytes.as_slice(), &mut encoder).unwrap();
            encoder.finish().unwrap();
            assert!(read("docker-archive", &packed).is_err(), "{size} {name}, packed");
        }
    }
}

/// A layout, of which documents are put in one by one.
struct Layout(TempDir);

impl Layout {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        Self(folder)
    }

    /// Puts a document in, and gives the descriptor of it.
    fn put(&self, media_type: &str, document: &str) -> String {
        let digest = Digest::of(document.as_bytes());
        std::fs::write(self.0.path().join("blobs/sha256").join(digest.hex()), document).unwrap();
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#, document.len())
    }

    fn image(&self, note: &str) -> String {
        let config = self.put("application/vnd.oci.empty.v1+json", "{}");
        let document = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[],"annotations":{{"note":"{note}"}}}}"#,
            MediaType::OCI_MANIFEST
        );
        self.put(MediaType::OCI_MANIFEST, &document)
    }

    fn index(&self, entries: &[String]) -> String {
        self.put(MediaType::OCI_INDEX, &index(entries))
    }

    /// Makes `root` what the layout holds.
    fn root(&self, root: String) -> &Path {
        std::fs::write(self.0.path().join("index.json"), index(&[root])).unwrap();
        self.0.path()
    }
}

fn index(entries: &[String]) -> String {
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, MediaType::OCI_INDEX, entries.join(","))
}

#[test]
fn indexes_are_nested_five_deep_at_most() {
    let layout = Layout::new();
    let mut inner = layout.image("x");
    for _ in 0..4 {
        inner = layout.index(&[inner]);
    }
    assert!(read("oci", layout.root(inner.clone())).is_ok());
    for _ in 0..2 {
        inner = layout.index(&[inner]);
    }
    refused("oci", layout.root(inner), "nested too deep");
}

#[test]
fn an_index_of_too_many_images_is_refused() {
    let layout = Layout::new();
    let images: Vec<String> = (0..2100).map(|number| layout.image(&number.to_string())).collect();
    let error = refused("oci", layout.root(layout.index(&images)), "leads to over 2000 manifests and configs");
    assert!(error.hints()[0].contains("one by one"));
    let large = "x".repeat(7 << 20);
    let images: Vec<String> = (0..10).map(|number| layout.image(&format!("{number}{large}"))).collect();
    refused("oci", layout.root(layout.index(&images)), "or to over 64 MiB of them");
}

/// Else each would be read and kept anew: some MiB of index would become as many GiB.
#[test]
fn a_manifest_that_an_index_names_often_is_read_once() {
    let layout = Layout::new();
    let large = layout.image(&"x".repeat(1 << 20));
    let attestation =
        large.replace("\"size\":", r#""annotations":{"vnd.docker.reference.type":"attestation-manifest"},"size":"#);
    for entry in [&large, &attestation] {
        let Image::Manifests { manifests, contents } =
            read("oci", layout.root(layout.index(&vec![entry.clone(); 20_000]))).unwrap()
        else {
            panic!("manifests")
        };
        assert_eq!(manifests.len(), 2);
        assert_eq!(contents.attestations, usize::from(entry == &attestation));
    }
}

#[test]
fn an_image_of_many_layers_is_read_in_time() {
    let layout = Layout::new();
    let config = layout.put("application/vnd.oci.empty.v1+json", "{}");
    let layers: Vec<String> = (0..4000).map(|number| layout.put(MediaType::OCI_LAYER, &number.to_string())).collect();
    let document = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{}]}}"#,
        MediaType::OCI_MANIFEST,
        layers.join(",")
    );
    assert_eq!(Manifest::parse(document.clone().into(), None).unwrap().blobs().count(), 4001);
    let root = layout.put(MediaType::OCI_MANIFEST, &document);
    assert!(read("oci", layout.root(root)).is_ok());
}
