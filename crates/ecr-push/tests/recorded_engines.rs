//! Recorded engines, asked again through the API: their own answers, byte for byte, on a socket.
#![cfg(unix)]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use common::{Keeper, json, recorded};
use ecr_push::Result;
use ecr_push::engine::{Engine, EngineSettings};
use ecr_push::image::Manifest;
use ecr_push::source::{DockerDaemon, Image, LayerRef, Preview, Selection, Source};

/// Answers as the recorded `engine` did for the image `name`, until the test's process ends.
fn serve(socket: &Path, engine: &'static str, name: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    let folder = socket.parent().unwrap().to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || answer(stream, &folder, engine, name));
        }
    });
}

fn answer(mut stream: UnixStream, folder: &Path, engine: &str, name: &str) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let path = head.split(' ').nth(1)?;
        let file = match path.split('?').next()? {
            path if path.ends_with("/version") => "version.json".to_owned(),
            path if path.ends_with("/info") => "info.json".to_owned(),
            path if path.ends_with("/images/json") => "list.json".to_owned(),
            path if path.ends_with("/json") => format!("inspect-{name}.json"),
            path if path.ends_with("/get") => format!("export-{name}.tar"),
            _ => String::new(),
        };
        // A socket's folder may hold what differs from the record.
        let own = std::fs::read(folder.join(&file));
        let body = own.or_else(|_| std::fs::read(recorded(&format!("{engine}/{file}")))).unwrap_or_default();
        let (status, kind) = match file.rsplit_once('.') {
            Some((_, "json")) => ("200 OK", "application/json"),
            Some(_) => ("200 OK", "application/x-tar"),
            None => ("404 Not Found", "text/plain"),
        };
        // Exports come in chunks and without a length, as engines send them.
        write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
        for chunk in body.chunks(3000) {
            write!(stream, "{:x}\r\n", chunk.len()).ok()?;
            stream.write_all(chunk).ok()?;
            stream.write_all(b"\r\n").ok()?;
        }
        stream.write_all(b"0\r\n\r\n").ok()?;
    }
}

async fn pull(engine: &'static str, name: &'static str, selection: Selection) -> Result<(Preview, Image, Keeper)> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    serve(&socket, engine, name);
    let settings = EngineSettings { host: Some(format!("unix://{}", socket.display())), ..EngineSettings::default() };
    let engine = Engine::connect(&settings).await?;
    let source = Box::new(DockerDaemon::open(engine, &format!("{name}:1"), selection, true).await?);
    let preview = source.preview();
    let read = tokio::task::spawn_blocking(move || {
        let mut keeper = Keeper::default();
        source.read(&mut keeper).map(|image| (image, keeper))
    });
    let (image, keeper) = read.await.unwrap()?;
    Ok((preview, image, keeper))
}

#[tokio::test(flavor = "multi_thread")]
async fn classic_stores_give_config_and_uncompressed_layers() {
    for engine in ["docker-20.10-overlay2", "docker-28.5-overlay2", "podman-4.3"] {
        for name in ["two", "repeat", "empty"] {
            let expected = &json(&format!("{engine}/expected-{name}.json"))["docker"][0];
            let (preview, image, keeper) = pull(engine, name, Selection::default()).await.unwrap();
            let Image::Layers { config, layers, .. } = image else { panic!("{engine} {name}") };
            assert_eq!(expected["config"], config.digest().to_string());
            assert_eq!(preview.config_digest, Some(config.digest()), "known before the export: {engine} {name}");
            let diff_ids: Vec<String> = layers
                .iter()
                .map(|layer| match layer {
                    LayerRef::Uncompressed(diff_id) => diff_id.to_string(),
                    LayerRef::Blob(digest) => digest.to_string(),
                })
                .collect();
            assert_eq!(expected["diff_ids"], serde_json::json!(diff_ids), "{engine} {name}");
            assert!(diff_ids.iter().all(|id| keeper.delivered.contains_key(&id.parse().unwrap())));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_stores_give_their_manifests_byte_for_byte() {
    for engine in ["docker-26.1-containerd", "docker-28.5-containerd"] {
        for name in ["two", "repeat", "multi"] {
            let expected = &json(&format!("{engine}/expected-{name}.json"))["oci"][0]["digest"];
            let (preview, image, keeper) = pull(engine, name, Selection::default()).await.unwrap();
            let Image::Manifests { manifests, .. } = image else { panic!("{engine} {name}") };
            let root = manifests.last().unwrap().digest;
            assert_eq!(*expected, root.to_string());
            assert_eq!(preview.root_digest, Some(root), "known before the export: {engine} {name}");
            for blob in manifests.iter().flat_map(Manifest::blobs) {
                assert_eq!(keeper.delivered.get(&blob.digest), Some(&blob.size), "{engine} {name} {}", blob.digest);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_the_engine_lacks_is_refused_and_one_it_has_is_pushed() {
    for engine in ["docker-26.1-containerd", "docker-28.5-containerd"] {
        let error = pull(engine, "partial", Selection::default()).await.unwrap_err();
        assert!(error.message().contains("lacks the content of linux/arm64"), "{}", error.message());
        assert!(error.hints()[0].contains("--platform linux/amd64"), "{:?}", error.hints());
        let selection = Selection { platform: Some("linux/amd64".parse().unwrap()), ..Selection::default() };
        let (preview, image, _) = pull(engine, "partial", selection).await.unwrap();
        assert_eq!(preview.root_digest, None, "another manifest than the engine's index is pushed");
        let Image::Manifests { contents, .. } = image else { panic!() };
        assert!(!contents.is_index);
    }
}

/// An engine with the containerd store whose root folder is on this host: the blobs of its export lie where its containerd keeps them.
fn with_content_store(folder: &Path, engine: &'static str, name: &'static str) -> std::path::PathBuf {
    let root = folder.join("root");
    let content = root.join("containerd/daemon/io.containerd.content.v1.content");
    let export = std::fs::File::open(recorded(&format!("{engine}/export-{name}.tar"))).unwrap();
    tar::Archive::new(export).unpack(&content).unwrap();
    let mut info = json(&format!("{engine}/info.json"));
    info["DockerRootDir"] = root.display().to_string().into();
    std::fs::write(folder.join("info.json"), info.to_string()).unwrap();
    serve(&folder.join("s"), engine, name);
    content.join("blobs/sha256")
}

async fn open_at(folder: &Path, name: &str) -> Result<Box<DockerDaemon>> {
    let host = Some(format!("unix://{}", folder.join("s").display()));
    let engine = Engine::connect(&EngineSettings { host, ..EngineSettings::default() }).await?;
    Ok(Box::new(DockerDaemon::open(engine, &format!("{name}:1"), Selection::default(), true).await?))
}

fn read_all(source: Box<dyn Source>) -> Result<(Image, Keeper)> {
    let mut keeper = Keeper::default();
    source.read(&mut keeper).map(|image| (image, keeper))
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_a_containerd_store_on_this_host_are_read_from_its_files() {
    for engine in ["docker-26.1-containerd", "docker-28.5-containerd"] {
        for name in ["two", "multi"] {
            let folder = tempfile::tempdir().unwrap();
            let blobs = with_content_store(folder.path(), engine, name);
            let source = open_at(folder.path(), name).await.unwrap();
            assert!(
                source.door().starts_with("the containerd content store at "),
                "{engine} {name}: {}",
                source.door()
            );
            let preview = source.preview();
            assert!(!preview.blobs.is_empty(), "known before anything is read");
            let slower = source.slower().unwrap();
            let (stored, kept) = tokio::task::spawn_blocking(move || read_all(source)).await.unwrap().unwrap();
            let (exported, also) = tokio::task::spawn_blocking(move || read_all(slower)).await.unwrap().unwrap();
            let digests = |image: &Image| match image {
                Image::Manifests { manifests, .. } => {
                    manifests.iter().map(|manifest| manifest.digest).collect::<Vec<_>>()
                }
                Image::Layers { .. } => panic!("manifests"),
            };
            assert_eq!(digests(&stored), digests(&exported), "{engine} {name}: the same by both ways");
            assert!(kept.delivered.keys().all(|digest| also.delivered.contains_key(digest)));
            // A manifest that is missing or damaged closes the door before anything is read.
            let Image::Manifests { manifests, .. } = stored else { panic!("manifests") };
            let root = blobs.join(manifests.last().unwrap().digest.hex());
            std::fs::remove_file(&root).unwrap();
            let source = open_at(folder.path(), name).await.unwrap();
            assert!(source.door().starts_with("the engine's export ("), "{}", source.door());
            std::fs::write(&root, "{}").unwrap();
            assert!(open_at(folder.path(), name).await.unwrap().door().starts_with("the engine's export ("));
        }
    }
}
