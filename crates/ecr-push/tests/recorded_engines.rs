//! Recorded engines, asked again through the API: their own answers, byte for byte, on a socket.
#![cfg(unix)]

mod common;
#[path = "common/recorded.rs"]
mod recorded;
#[path = "common/stand.rs"]
mod stand;

use std::path::Path;

use common::{Keeper, json};
use ecr_push::Result;
use ecr_push::engine::{Engine, EngineSettings};
use ecr_push::image::Manifest;
use ecr_push::source::{DockerDaemon, Image, LayerRef, Preview, Selection, Source};
use recorded::{serve, with_content_store};
use stand::{Stand, push_with_log};

async fn pull(engine: &'static str, name: &'static str, selection: Selection) -> Result<(Preview, Image, Keeper)> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    serve(&socket, engine, name);
    let settings = EngineSettings { host: Some(format!("unix://{}", socket.display())), ..EngineSettings::default() };
    let engine = Engine::connect(&settings).await?;
    let source = Box::new(DockerDaemon::open(engine, &format!("{name}:1"), selection, true).await?);
    let preview = source.preview();
    let read = tokio::task::spawn_blocking(move || read_all(source));
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
        assert!(error.hints()[0].contains("`platform: linux/amd64`"), "{:?}", error.hints());
        let selection = Selection { platform: Some("linux/amd64".parse().unwrap()), ..Selection::default() };
        let (preview, image, _) = pull(engine, "partial", selection).await.unwrap();
        assert_eq!(preview.root_digest, None, "another manifest than the engine's index is pushed");
        let Image::Manifests { contents, .. } = image else { panic!() };
        assert!(!contents.is_index);
    }
}

async fn open_at(folder: &Path, name: &str) -> Result<Box<DockerDaemon>> {
    let host = Some(format!("unix://{}", folder.join("s").display()));
    let engine = Engine::connect(&EngineSettings { host, ..EngineSettings::default() }).await?;
    Ok(Box::new(DockerDaemon::open(engine, &format!("{name}:1"), Selection::default(), true).await?))
}

fn read_all(source: Box<dyn Source>) -> Result<(Image, Keeper)> {
    let mut keeper = Keeper::default();
    let chosen = source.read(&mut keeper)?;
    chosen.named.check(&chosen.image)?;
    Ok((chosen.image, keeper))
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

/// Also where nothing would have to be read, because the registry has config and layers already.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_platform_is_neither_pushed_nor_found_to_be_there() {
    for engine in ["docker-20.10-overlay2", "docker-28.5-overlay2", "podman-4.3"] {
        let stand = Stand::new().await;
        let socket = stand.folder.path().join("s");
        serve(&socket, engine, "two");
        let request = |tag: &str, platform: Option<&str>| {
            let mut request = stand.request("two:1");
            request.tags = vec![tag.parse().unwrap()];
            request.engine.host = Some(format!("unix://{}", socket.display()));
            request.selection.platform = platform.map(|platform| platform.parse().unwrap());
            request
        };
        for _ in 0..2 {
            stand.server.clear_requests();
            let error = push_with_log(request("arm", Some("linux/arm64"))).await.0.unwrap_err();
            assert!(error.message().contains("linux/arm64 (present: linux/amd64)"), "{engine}: {error}");
            assert!(stand.asked("InitiateLayerUpload").is_empty() && stand.asked("PutImage").is_empty(), "{engine}");
            assert_eq!(stand.tag("arm"), None, "{engine}");
            // Then the same with everything there.
            push_with_log(request("v1", Some("linux/amd64"))).await.0.unwrap();
        }
        let repeated = push_with_log(request("v1", Some("linux/amd64"))).await.0.unwrap();
        assert!(repeated.existed, "{engine}: the right platform is found to be there");
    }
}

/// The last check before anything is published: an engine that exports another image than the one it resolved the name to.
#[tokio::test(flavor = "multi_thread")]
async fn another_image_than_the_one_that_was_named_is_not_published() {
    for (engine, other, platform) in [
        ("docker-20.10-overlay2", "repeat", None),
        ("podman-4.3", "repeat", None),
        ("docker-28.5-containerd", "multi", None),
        ("docker-28.5-containerd", "multi", Some("linux/amd64")),
    ] {
        let stand = Stand::new().await;
        let socket = stand.folder.path().join("s");
        // A file in the socket's folder takes the place of the recorded one.
        let export = common::recorded(&format!("{engine}/export-{other}.tar"));
        std::fs::copy(export, stand.folder.path().join("export-two.tar")).unwrap();
        serve(&socket, engine, "two");
        let mut request = stand.request("two:1");
        request.engine.host = Some(format!("unix://{}", socket.display()));
        request.selection.platform = platform.map(|platform| platform.parse().unwrap());
        let error = push_with_log(request).await.0.unwrap_err();
        assert!(stand.asked("PutImage").is_empty() && stand.tag("v1").is_none(), "{engine} {platform:?}: {error}");
        let is_said =
            ["not the one that was named", "has no image"].iter().any(|words| error.message().contains(words));
        assert!(is_said, "{engine} {platform:?}: {error}");
    }
}
