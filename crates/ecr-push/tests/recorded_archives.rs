//! Archives that real engines wrote, read back: what comes out is what an independent reader of the recording found.

mod common;

use std::io::Read;
use std::path::Path;

use common::{Keeper, json, recorded};
use ecr_push::Result;
use ecr_push::image::{Digest, Manifest};
use ecr_push::source::{Attestations, Image, LayerRef, Selection, SourceSpec, open_file};
use serde_json::Value;

const ENGINES: [&str; 5] =
    ["docker-20.10-overlay2", "docker-26.1-containerd", "docker-28.5-containerd", "docker-28.5-overlay2", "podman-4.3"];

fn read(spec: &str, selection: &Selection) -> Result<(Image, Keeper)> {
    let spec: SourceSpec = spec.parse()?;
    let mut keeper = Keeper::default();
    let chosen = open_file(&spec, selection)?.read(&mut keeper)?;
    chosen.named.check(&chosen.image)?;
    Ok((chosen.image, keeper))
}

fn docker_archive(path: &Path) -> Result<(Image, Keeper)> {
    read(&format!("docker-archive:{}", path.display()), &Selection::default())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Compares with `manifest.json` as the recording script read it.
fn assert_docker(image: &Image, keeper: &Keeper, expected: &Value) {
    let Image::Layers { config, layers, .. } = image else { panic!("layers, not {image:?}") };
    assert_eq!(config.digest().to_string(), text(&expected["config"]));
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| match layer {
            LayerRef::Uncompressed(diff_id) => diff_id.to_string(),
            LayerRef::Blob(digest) => panic!("{digest} is uncompressed"),
        })
        .collect();
    let expected: Vec<&str> = expected["diff_ids"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(diff_ids, expected);
    for diff_id in diff_ids {
        assert!(keeper.delivered.contains_key(&diff_id.parse().unwrap()), "{diff_id} was delivered");
    }
}

/// Compares with `index.json` as the recording script read it.
fn assert_manifests(image: &Image, keeper: &Keeper, root: &str) -> Vec<Manifest> {
    let Image::Manifests { manifests, .. } = image else { panic!("manifests, not {image:?}") };
    assert_eq!(manifests.last().unwrap().digest.to_string(), root);
    for blob in manifests.iter().flat_map(Manifest::blobs) {
        assert_eq!(keeper.delivered.get(&blob.digest), Some(&blob.size), "{} was delivered", blob.digest);
    }
    manifests.clone()
}

#[test]
fn saved_images_of_every_engine() {
    let mut seen = 0;
    for engine in ENGINES {
        for name in ["two", "repeat", "empty", "two-by-id"] {
            let path = recorded(&format!("{engine}/export-{name}.tar"));
            let expected = json(&format!("{engine}/expected-{name}.json"));
            let (image, keeper) = docker_archive(&path).unwrap();
            let compressed = expected["docker"][0]["layers"][0]["gzip"] == true;
            if compressed {
                assert_manifests(&image, &keeper, text(&expected["oci"][0]["digest"]));
            } else {
                assert_docker(&image, &keeper, &expected["docker"][0]);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 20);
}

#[test]
fn a_repeated_layer_is_delivered_once() {
    let (image, keeper) = docker_archive(&recorded("docker-20.10-overlay2/export-repeat.tar")).unwrap();
    let Image::Layers { layers, .. } = image else { panic!() };
    assert_eq!((layers.len(), keeper.uncompressed), (2, 1));
}

#[test]
fn one_of_several_images_is_chosen_by_name_or_number() {
    for engine in ["docker-20.10-overlay2", "docker-28.5-overlay2", "podman-4.3"] {
        let path = recorded(&format!("{engine}/save-both.tar"));
        let expected = json(&format!("{engine}/expected-save-both.json"));
        let error = docker_archive(&path).unwrap_err();
        assert!(
            error.message().contains("holds 2 images") && error.message().contains("repeat:1"),
            "{}",
            error.message()
        );
        for (number, image) in expected["docker"].as_array().unwrap().iter().enumerate() {
            let tag = text(&image["tags"][0]);
            for reference in [tag.to_owned(), format!("@{number}"), text(&image["config"]).to_owned()] {
                let spec = format!("docker-archive:{}:{reference}", path.display());
                let (read, keeper) = read(&spec, &Selection::default()).unwrap();
                assert_docker(&read, &keeper, image);
            }
        }
        let error = read(&format!("docker-archive:{}:nope:1", path.display()), &Selection::default()).unwrap_err();
        assert!(error.message().contains("has no image `nope:1`"), "{}", error.message());
    }
}

#[test]
fn a_compressed_archive_is_read_as_a_stream() {
    let path = recorded("docker-20.10-overlay2/save-two.tar.gz");
    let (image, keeper) = docker_archive(&path).unwrap();
    assert_docker(&image, &keeper, &json("docker-20.10-overlay2/expected-save-two-gz.json")["docker"][0]);
}

#[test]
fn layers_of_other_images_in_a_stream_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let packed = directory.path().join("both.tar.gz");
    pack(&recorded("docker-20.10-overlay2/save-both.tar"), &packed);
    let expected = json("docker-20.10-overlay2/expected-save-both.json");
    for image in expected["docker"].as_array().unwrap() {
        let spec = format!("docker-archive:{}:{}", packed.display(), text(&image["tags"][0]));
        let (read, keeper) = read(&spec, &Selection::default()).unwrap();
        assert_docker(&read, &keeper, image);
        assert!(keeper.dropped > 0, "the other image's layers are not sent");
    }
}

fn pack(from: &Path, to: &Path) {
    let mut encoder = flate2::write::GzEncoder::new(std::fs::File::create(to).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut std::fs::File::open(from).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn oci_archives_and_layouts_of_others() {
    for (archive, expected) in [
        ("podman-4.3/save-two-oci.tar", "podman-4.3/expected-save-two-oci.json"),
        ("skopeo-1.9/oci-archive.tar", "skopeo-1.9/expected-oci-archive.json"),
        ("docker-28.5-containerd/export-multi.tar", "docker-28.5-containerd/expected-multi.json"),
        ("docker-26.1-containerd/export-multi.tar", "docker-26.1-containerd/expected-multi.json"),
    ] {
        let root = text(&json(expected)["oci"][0]["digest"]).to_owned();
        let (image, keeper) =
            read(&format!("oci-archive:{}", recorded(archive).display()), &Selection::default()).unwrap();
        assert_manifests(&image, &keeper, &root);
        // The same bytes as a directory.
        let directory = tempfile::tempdir().unwrap();
        unpack(&recorded(archive), directory.path());
        let (image, keeper) = read(&format!("oci:{}", directory.path().display()), &Selection::default()).unwrap();
        assert_manifests(&image, &keeper, &root);
    }
}

fn unpack(archive: &Path, to: &Path) {
    tar::Archive::new(std::fs::File::open(archive).unwrap()).unpack(to).unwrap();
}

fn multi(engine: &str) -> String {
    format!("oci-archive:{}", recorded(&format!("{engine}/export-multi.tar")).display())
}

#[test]
fn an_index_is_delivered_whole_and_children_come_first() {
    for engine in ["docker-26.1-containerd", "docker-28.5-containerd"] {
        let (image, _) = read(&multi(engine), &Selection::default()).unwrap();
        let Image::Manifests { manifests, contents } = image else { panic!() };
        assert_eq!(manifests.len(), 4);
        assert!(contents.is_index && !contents.digest_changed);
        let platforms: Vec<String> = contents.platforms.iter().map(ToString::to_string).collect();
        assert_eq!((platforms, contents.attestations), (vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()], 1));
    }
}

#[test]
fn a_platform_picks_one_image() {
    for (wish, name) in [("linux/amd64", "multi-amd64"), ("linux/arm64/v8", "multi-arm64")] {
        let selection = Selection { platform: Some(wish.parse().unwrap()), ..Selection::default() };
        let (image, keeper) = read(&multi("docker-28.5-containerd"), &selection).unwrap();
        // What the engine itself exports for that platform.
        let expected = json(&format!("docker-28.5-containerd/expected-{name}.json"));
        let manifests = assert_manifests(&image, &keeper, text(&expected["oci"][0]["digest"]));
        assert_eq!(manifests.len(), 1);
        assert_eq!(keeper.delivered.len(), 2, "config and layer of that platform alone");
    }
    let selection = Selection { platform: Some("windows/amd64".parse().unwrap()), ..Selection::default() };
    let error = read(&multi("docker-28.5-containerd"), &selection).unwrap_err();
    assert!(
        error.message().contains("no image for windows/amd64 (present: linux/amd64, linux/arm64)"),
        "{}",
        error.message()
    );
}

#[test]
fn dropping_attestations_writes_a_new_index() {
    let selection = Selection { attestations: Attestations::Drop, ..Selection::default() };
    let (image, _) = read(&multi("docker-28.5-containerd"), &selection).unwrap();
    let Image::Manifests { manifests, contents } = image else { panic!() };
    assert_eq!((manifests.len(), contents.attestations), (3, 0));
    assert!(contents.is_index && contents.digest_changed);
}

/// The archive as a layout, whose index is left with one image and its attestation.
fn attested(archive: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(std::fs::File::open(archive).unwrap()).unpack(folder.path()).unwrap();
    let parse = |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let blob = |digest: &str| folder.path().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let top = folder.path().join("index.json");
    let mut layout = parse(&top);
    let mut index = parse(&blob(text(&layout["manifests"][0]["digest"])));
    let entries = index["manifests"].as_array_mut().unwrap();
    entries.retain(|entry| entry["platform"]["architecture"] != "arm64");
    assert_eq!(entries.len(), 2, "{entries:?}");
    let bytes = index.to_string().into_bytes();
    let digest = Digest::of(&bytes).to_string();
    std::fs::write(blob(&digest), &bytes).unwrap();
    layout["manifests"][0]["digest"] = digest.into();
    layout["manifests"][0]["size"] = bytes.len().into();
    std::fs::write(top, layout.to_string()).unwrap();
    folder
}

#[test]
fn a_single_image_comes_without_index_and_attestations_and_several_are_refused() {
    let single = Selection { attestations: Attestations::SingleImage, ..Selection::default() };
    let archive = multi("docker-28.5-containerd");
    let error = read(&archive, &single).unwrap_err();
    assert!(
        error.message().ends_with("holds 2 images (linux/amd64, linux/arm64), and a single one is wanted"),
        "{error}"
    );
    assert_eq!(error.hints(), ["name its platform: `platform: linux/amd64`"]);
    let selection = Selection { platform: Some("linux/arm64".parse().unwrap()), ..single.clone() };
    let (image, _) = read(&archive, &selection).unwrap();
    let Image::Manifests { manifests, contents } = image else { panic!() };
    assert_eq!((manifests.len(), contents.is_index, contents.attestations), (1, false, 0));
    // The index of one image and its attestation, as BuildKit makes it by default.
    let folder = attested(&recorded("docker-28.5-containerd/export-multi.tar"));
    let (image, _) = read(&format!("oci:{}", folder.path().display()), &single).unwrap();
    let Image::Manifests { manifests, contents } = image else { panic!() };
    assert_eq!((manifests.len(), contents.is_index, contents.attestations), (1, false, 0));
}

#[test]
fn platforms_without_content_are_refused_and_those_present_are_listed() {
    for engine in ["docker-26.1-containerd", "docker-28.5-containerd"] {
        for name in ["partial", "broken"] {
            let path = recorded(&format!("{engine}/export-{name}.tar"));
            for spec in [format!("oci-archive:{}", path.display()), format!("docker-archive:{}", path.display())] {
                let error = read(&spec, &Selection::default()).unwrap_err();
                assert!(error.message().contains("linux/arm64"), "{engine} {name}: {}", error.message());
                assert!(error.message().contains("(present: linux/amd64)"), "{engine} {name}: {}", error.message());
                assert!(error.hints()[0].contains("`platform: linux/amd64`"));
                let selection = Selection { platform: Some("linux/amd64".parse().unwrap()), ..Selection::default() };
                let (image, keeper) = read(&spec, &selection).unwrap();
                let Image::Manifests { manifests, .. } = &image else { panic!() };
                assert_manifests(&image, &keeper, &manifests[0].digest.to_string());
            }
        }
    }
}

#[test]
fn an_archive_that_was_cut_is_never_a_short_image() {
    let directory = tempfile::tempdir().unwrap();
    let cut = directory.path().join("cut.tar");
    for path in [
        "docker-20.10-overlay2/export-two.tar",
        "docker-28.5-containerd/export-two.tar",
        "podman-4.3/export-repeat.tar",
    ] {
        let whole = std::fs::read(recorded(path)).unwrap();
        let content = format!("{:?}", docker_archive(&recorded(path)).unwrap().0);
        let mut refused = 0;
        for end in (0..whole.len()).step_by(256) {
            std::fs::write(&cut, &whole[..end]).unwrap();
            let packed = directory.path().join("cut.tar.gz");
            pack(&cut, &packed);
            for archive in [&cut, &packed] {
                match docker_archive(archive) {
                    Err(_) => refused += 1,
                    // Only the end marker, or an entry that no image needs, may be missing.
                    Ok((image, _)) => assert_eq!(format!("{image:?}"), content, "{path} cut at {end}"),
                }
            }
        }
        assert!(refused > 20, "{path}: {refused}");
    }
}

#[test]
fn damaged_blobs_are_found() {
    let directory = tempfile::tempdir().unwrap();
    unpack(&recorded("skopeo-1.9/oci-archive.tar"), directory.path());
    let spec = format!("oci:{}", directory.path().display());
    let (image, _) = read(&spec, &Selection::default()).unwrap();
    let Image::Manifests { manifests, .. } = image else { panic!() };
    let blob = |digest: &Digest| directory.path().join("blobs/sha256").join(digest.hex());

    // A manifest of other bytes than its name says.
    let manifest = &manifests[0];
    let mut bytes = manifest.bytes.to_vec();
    bytes.push(b'\n');
    std::fs::write(blob(&manifest.digest), &bytes).unwrap();
    let error = read(&spec, &Selection::default()).unwrap_err();
    assert!(error.message().contains("is damaged: its bytes have the digest"), "{}", error.message());
    std::fs::write(blob(&manifest.digest), &manifest.bytes).unwrap();

    // A blob of another size than the manifest says, and none at all.
    let layer = manifest.blobs().nth(1).unwrap();
    let whole = std::fs::read(blob(&layer.digest)).unwrap();
    std::fs::write(blob(&layer.digest), &whole[1..]).unwrap();
    let error = read(&spec, &Selection::default()).unwrap_err();
    assert!(
        error.message().contains(&format!("has {} bytes, but it has {}", layer.size, layer.size - 1)),
        "{}",
        error.message()
    );
    std::fs::remove_file(blob(&layer.digest)).unwrap();
    let error = read(&spec, &Selection::default()).unwrap_err();
    assert!(error.message().contains("lacks the content"), "{}", error.message());
    std::fs::write(blob(&layer.digest), &whole).unwrap();
    std::fs::remove_file(blob(&manifest.config_digest().unwrap())).unwrap();
    assert!(read(&spec, &Selection::default()).is_err(), "the config is missing");
}

#[test]
fn an_index_with_more_blobs_than_files_may_be_open_is_delivered() {
    let directory = tempfile::tempdir().unwrap();
    unpack(&recorded("skopeo-1.9/oci-archive.tar"), directory.path());
    let (image, _) = read(&format!("oci:{}", directory.path().display()), &Selection::default()).unwrap();
    let Image::Manifests { manifests, .. } = image else { panic!() };
    let layer = manifests[0].blobs().nth(1).unwrap();
    let content = ecr_push::source::Content::Path {
        path: directory.path().join("blobs/sha256").join(layer.digest.hex()).into(),
        len: layer.size,
    };
    assert_eq!(Digest::of(&content.to_bytes(1 << 20).unwrap()), layer.digest);
}

#[test]
fn headers_that_want_all_memory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("long.tar");
    // A long name of 6 GB, sparse: it costs the writer nothing.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_path("././@LongLink").unwrap();
    header.set_size(6 << 30);
    header.set_cksum();
    let mut file = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, header.as_bytes()).unwrap();
    file.set_len(6 << 30).unwrap();
    let error = docker_archive(&path).unwrap_err();
    assert!(error.message().contains("is not a complete tar archive"), "{}", error.message());
    let mut input = Vec::new();
    std::fs::File::open(&path).unwrap().take(64 << 20).read_to_end(&mut input).unwrap();
    let packed = directory.path().join("long.tar.gz");
    let cut = directory.path().join("cut");
    std::fs::write(&cut, input).unwrap();
    pack(&cut, &packed);
    assert!(docker_archive(&packed).is_err());
}

#[test]
fn a_stream_of_documents_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("many.tar");
    let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
    for number in 0..20 {
        let mut header = tar::Header::new_ustar();
        header.set_size(8 << 20);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{number}.txt"), std::io::repeat(b'x').take(8 << 20)).unwrap();
    }
    builder.finish().unwrap();
    let packed = directory.path().join("many.tar.gz");
    pack(&path, &packed);
    let error = docker_archive(&packed).unwrap_err();
    assert!(error.message().contains("64 MiB of documents"), "{}", error.message());
}

#[test]
fn what_is_no_image_is_refused_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("empty"), b"").unwrap();
    std::fs::write(path("text"), b"hello, this is not a tar archive").unwrap();
    std::fs::write(path("zstd"), [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0]).unwrap();
    std::fs::write(path("zeros"), vec![0; 10240]).unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    for (spec, sentence) in [
        ("docker-archive:missing", "does not exist"),
        ("docker-archive:empty", "is empty"),
        ("docker-archive:text", "is not a complete tar archive"),
        ("docker-archive:zstd", "compressed with zstd"),
        ("docker-archive:zeros", "it has no entries"),
        ("docker-archive:directory", "is a directory"),
        ("oci:missing", "does not exist"),
        ("oci:directory", "it has no index.json"),
        ("oci:text", "is not a directory"),
        ("oci-archive:missing", "does not exist"),
    ] {
        let (transport, name) = spec.split_once(':').unwrap();
        let error = read(&format!("{transport}:{}", path(name).display()), &Selection::default()).unwrap_err();
        assert!(error.message().contains(sentence), "{spec}: {}", error.message());
    }
    let archive = recorded("skopeo-1.9/oci-archive.tar");
    let error = docker_archive(&archive).unwrap_err();
    assert!(error.hints().iter().any(|hint| hint.contains("oci-archive:")), "{:?}", error.hints());
    let archive = recorded("docker-20.10-overlay2/export-two.tar");
    let error = read(&format!("oci-archive:{}", archive.display()), &Selection::default()).unwrap_err();
    assert!(error.hints().iter().any(|hint| hint.contains("docker-archive:")), "{:?}", error.hints());
}
