//! The client against engines that answer badly, and the choice of an engine.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::EngineSettings;
use super::client::{Engine, Limits};
use super::fake::{Answer, CONTAINERD_INFO, DOCKER_VERSION, Fake, at, connect, serve};
use crate::image::Digest;

const ID: &str = "sha256:8fb58681cae6bc865039548e97ca1f046c9dfe42df7783efdf346c753cae319e";
const LAYER: &str = "sha256:88e43c0aa2eaec707ea12ef895398ec25ed8eb2b146ec86d28e8e1578f53a319";

/// What podman 4.3.1 answers, cut: `GraphDriver.Data` is null there, an empty map is what bollard expects.
fn inspect_answer() -> Answer {
    Answer::json(
        200,
        &format!(
            r#"{{"Id":"{ID}","RepoTags":["localhost/big:latest","team/app:1"],"RepoDigests":[],"Parent":"",
            "Created":"2026-11-23T19:06:58.072952222Z","Architecture":"amd64","Os":"linux","Size":3106625,
            "GraphDriver":{{"Data":null,"Name":"vfs"}},"RootFS":{{"Type":"layers","Layers":["{LAYER}"]}},
            "Metadata":{{"LastTagTime":"0001-01-01T00:00:00Z"}}}}"#
        ),
    )
}

fn list_answer(images: &[(&str, &str)]) -> Answer {
    let images: Vec<String> = images
        .iter()
        .map(|(id, name)| {
            format!(
                r#"{{"Id":"{id}","ParentId":"","RepoTags":["{name}"],"RepoDigests":[],"Created":1,"Size":1,
                "SharedSize":0,"Labels":null,"Containers":0}}"#
            )
        })
        .collect();
    Answer::json(200, &format!("[{}]", images.join(",")))
}

fn tar() -> Vec<u8> {
    [vec![7; 2048], vec![0; 1024]].concat()
}

fn write_context(config_dir: &Path, name: &str, host: &str) {
    let folder = config_dir.join("contexts/meta").join(Digest::of(name.as_bytes()).hex());
    fs::create_dir_all(&folder).unwrap();
    let meta = format!(
        r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
    );
    fs::write(folder.join("meta.json"), meta).unwrap();
}

#[tokio::test]
async fn an_image_is_resolved_and_described() {
    let fake = Fake::start(&[
        ("/v1.41/images/big:latest/json", inspect_answer()),
        ("/v1.41/images/8fb5/json", inspect_answer()),
    ]);
    let engine = fake.engine().await;
    assert_eq!(engine.describe(), format!("Docker 20.10.24+dfsg1 (overlay2) at unix://{}", fake.socket().display()));
    let image = engine.inspect("big").await.unwrap();
    assert_eq!((image.id.as_str(), image.reference.as_str()), (ID, "big:latest"));
    assert_eq!(image.config_digest.unwrap().to_string(), ID);
    assert_eq!(image.root_digest, None);
    assert_eq!(image.diff_ids[0].to_string(), LAYER);
    assert_eq!(image.size, 3_106_625);
    assert_eq!(image.names, ["localhost/big:latest", "team/app:1"]);
    assert_eq!(image.platform.unwrap().to_string(), "linux/amd64");

    assert!(!image.by_id);

    for id in ["8fb5", "sha256:8fb5"] {
        let image = engine.inspect(id).await.unwrap();
        assert_eq!((image.reference.as_str(), image.by_id), (id, true));
    }
}

#[tokio::test]
async fn with_the_containerd_store_the_id_is_the_manifests() {
    let version = DOCKER_VERSION.replace(r#""ApiVersion":"1.41"}"#, r#""ApiVersion":"1.99"}"#);
    let fake = Fake::start(&[
        ("/version", Answer::json(200, &version)),
        ("/v1.53/info", Answer::json(200, CONTAINERD_INFO)),
        ("/v1.53/images/big:latest/json", inspect_answer()),
    ]);
    let engine = fake.engine().await;
    assert!(engine.has_containerd_store());
    let image = engine.inspect("big").await.unwrap();
    assert_eq!(image.config_digest, None);
    assert_eq!(image.root_digest.unwrap().to_string(), ID);
}

#[tokio::test]
async fn an_unknown_image_comes_with_near_names() {
    let list = list_answer(&[(ID, "localhost/big:latest"), (LAYER, "team/web:1")]);
    let fake = Fake::start(&[("/v1.41/images/json", list)]);
    let engine = fake.engine().await;
    let error = engine.inspect("bigg").await.unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert_eq!(error.hints(), ["did you mean big:latest?"]);
    let error = engine.inspect("postgres:15").await.unwrap_err();
    assert_eq!(error.notes(), ["the engine has 2 named images, none of a name like this"]);
}

#[tokio::test]
async fn an_ambiguous_short_id_lists_its_images() {
    let other = ID.replace("sha256:8fb58", "sha256:8fb59");
    let list = list_answer(&[(ID, "big:latest"), (&other, "app:1"), (LAYER, "web:1")]);
    let fake = Fake::start(&[("/v1.41/images/json", list)]);
    let error = fake.engine().await.inspect("8fb5").await.unwrap_err();
    assert_eq!(error.to_string(), "the short ID `8fb5` is ambiguous: 2 images match");
    assert_eq!(error.notes(), [format!("{ID} (big:latest)"), format!("{other} (app:1)")]);
}

#[tokio::test]
async fn a_repository_that_looks_like_the_id_is_not_the_id() {
    let fake = Fake::start(&[("/v1.41/images/cafe/json", inspect_answer())]);
    let engine = fake.engine().await;
    assert_eq!(engine.inspect("cafe").await.unwrap().reference, "cafe:latest");
    assert!(engine.inspect("sha256:cafe").await.is_err());
}

#[tokio::test]
async fn a_name_outside_the_grammar_is_refused_before_any_call() {
    let fake = Fake::start(&[]);
    let engine = fake.engine().await;
    let before = fake.asked.lock().unwrap().len();
    for name in ["Big", "../info", "a b", "x?y", "x#y", "x/json/../../info"] {
        assert!(engine.inspect(name).await.unwrap_err().is_refused(), "{name}");
        assert!(engine.export(name).await.is_err());
    }
    assert_eq!(fake.asked.lock().unwrap().len(), before);
}

#[tokio::test]
async fn an_image_gets_a_name_by_its_id() {
    let path = format!("/v1.41/images/{ID}/tag");
    let fake = Fake::start(&[(&path, Answer::raw("HTTP/1.1 201 X\r\nContent-Length: 0\r\n\r\n"))]);
    let engine = fake.engine().await;
    engine.tag(ID, "host.example:5000/team/app", "v1").await.unwrap();
    let asked = fake.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked, format!("POST {path}?repo=host.example%3A5000%2Fteam%2Fapp&tag=v1 HTTP/1.1"));
    let error = engine.tag("sha256:12", "app", "v1").await.unwrap_err();
    assert_eq!((error.operation(), error.status()), ("tag image", Some(404)));
}

#[tokio::test]
async fn a_name_is_removed_never_by_force_and_may_be_gone() {
    let refused = r#"{"message":"conflict: unable to delete 8fb58681cae6 (must be forced)"}"#;
    let fake = Fake::start(&[
        ("/v1.41/images/host.example:5000/team/app:v1", Answer::json(200, r#"[{"Untagged":"x"},{"Deleted":"y"}]"#)),
        // Longer than other calls may take: the engine deletes layers meanwhile.
        ("/v1.41/images/slow:latest", Answer::json(200, "[]").after(Duration::from_millis(600))),
        (&format!("/v1.41/images/{ID}"), Answer::json(409, refused)),
    ]);
    let engine = fake.engine().await;
    assert!(engine.remove("host.example:5000/team/app:v1").await.unwrap());
    let asked = fake.asked.lock().unwrap().pop().unwrap();
    assert!(asked.starts_with("DELETE /v1.41/images/host.example:5000/team/app:v1"), "{asked}");
    assert!(!asked.contains("force=true"), "{asked}");
    assert!(engine.remove("slow").await.unwrap());
    assert!(!engine.remove("gone:v1").await.unwrap());
    let error = engine.remove(ID).await.unwrap_err();
    assert_eq!((error.operation(), error.status()), ("remove image", Some(409)));
    assert!(error.message().contains("unable to delete 8fb58681cae6"), "{error}");
    assert!(engine.remove("../x").await.unwrap_err().is_refused());
}

#[tokio::test]
async fn a_slow_answer_is_an_error_but_an_export_may_take_its_time() {
    let slow = Duration::from_millis(1500);
    let fake = Fake::start(&[
        ("/v1.41/images/big:latest/json", inspect_answer().after(slow)),
        (&format!("/v1.41/images/{ID}/get"), Answer::chunked(&tar(), true).after(slow)),
    ]);
    let engine = fake.engine().await;
    let error = engine.inspect("big").await.unwrap_err();
    assert!(error.to_string().contains("did not answer within"), "{error}");
    let mut bytes = Vec::new();
    engine.export(ID).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, tar());
}

#[tokio::test]
async fn an_engine_that_hangs_in_an_export_is_given_up() {
    let late = Duration::from_secs(60);
    let export = Answer::chunked(&tar(), true).after(late);
    let fake = Fake::start(&[
        (&format!("/v1.41/images/{ID}/get"), export),
        ("/_ping", Answer::json(200, "OK").after(late)),
        ("/v1.41/_ping", Answer::json(200, "OK").after(late)),
    ]);
    let engine = fake.engine().await;
    let error = tokio::time::timeout(Duration::from_secs(30), engine.export(ID)).await.unwrap().err().unwrap();
    assert_eq!((error.operation(), error.side()), ("export image", crate::error::Side::Source));
    assert!(error.message().contains("did not answer within"), "{error}");
    let asked = fake.asked.lock().unwrap();
    assert_eq!(asked.iter().filter(|path| path.ends_with("/_ping")).count(), 2, "{asked:?}");
}

#[tokio::test]
async fn an_engine_that_stops_in_an_export_is_given_up_though_it_answers() {
    let begun = Answer::chunked(&tar()[..2048], false).then_silent(Duration::from_secs(60));
    let pong = Answer::json(200, "OK");
    let path = format!("/v1.41/images/{ID}/get");
    let fake = Fake::start(&[(&path, begun), ("/_ping", pong.clone()), ("/v1.41/_ping", pong)]);
    let mut export = fake.engine().await.export(ID).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), export.read_to_end(&mut bytes)).await.unwrap();
    let error = read.unwrap_err().to_string();
    assert!(error.contains("has sent nothing of the export for 2 s"), "{error}");
    assert_eq!(bytes.len(), 2048);
    assert!(fake.asked.lock().unwrap().iter().filter(|path| path.ends_with("/_ping")).count() > 2);
}

#[tokio::test]
async fn an_export_that_ends_early_is_an_error() {
    let close = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec(), vec![7; 2048]].concat();
    for answer in [Answer::chunked(&tar(), false), Answer::chunked(&tar()[..2048], true), Answer::raw(close)] {
        let fake = Fake::start(&[(&format!("/v1.41/images/{ID}/get"), answer)]);
        let mut export = fake.engine().await.export(ID).await.unwrap();
        let error = export.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn a_dropped_export_ends_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(folder.path().join("d.sock")).unwrap();
    let (told, ended) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        for (path, body) in [("/version", DOCKER_VERSION), ("/v1.41/info", "{}")] {
            let routes = Arc::new(vec![(path.to_owned(), Answer::json(200, body))]);
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, routes, Arc::default()).await;
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![7; 1 << 16]].concat();
        while stream.write_all(&endless).await.is_ok() {}
        told.send(()).unwrap();
    });
    let engine = connect(&at(&folder.path().join("d.sock"))).await.unwrap();
    let mut export = engine.export(ID).await.unwrap();
    export.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    drop(export);
    tokio::time::timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_export_carries_the_engines_words() {
    let full = r#"{"message":"write /var/lib/docker/tmp/x/layer.tar: no space left on device"}"#;
    let fake = Fake::start(&[(&format!("/v1.41/images/{ID}/get"), Answer::json(500, full))]);
    let error = fake.engine().await.export(ID).await.err().unwrap();
    assert_eq!(error.status(), Some(500));
    assert!(error.to_string().ends_with("layer.tar: no space left on device"), "{error}");
}

#[tokio::test]
async fn the_first_socket_that_exists_is_the_engine_even_if_it_refuses() {
    let fake = Fake::start(&[]);
    let stale = fake.folder.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let mut settings = EngineSettings {
        candidates: Some(vec!["/nonexistent/d.sock".into(), fake.socket()]),
        ..EngineSettings::default()
    };
    assert!(connect(&settings).await.is_ok());

    settings.candidates = Some(vec!["/nonexistent/d.sock".into(), stale.clone(), fake.socket()]);
    let error = connect(&settings).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains(stale.to_str().unwrap()) && message.contains("refused"), "{message}");
    assert!(error.hints()[0].contains("start the engine"));

    let dangling = fake.folder.path().join("dangling.sock");
    std::os::unix::fs::symlink("/gone/d.sock", &dangling).unwrap();
    settings.candidates = Some(vec!["/nonexistent/d.sock".into(), dangling]);
    let message = connect(&settings).await.unwrap_err().to_string();
    assert!(message.contains("/nonexistent/d.sock: does not exist"), "{message}");
    assert!(message.contains("a link to /gone/d.sock, which does not exist"), "{message}");
}

#[tokio::test]
async fn the_host_wins_over_the_context_over_the_current_context() {
    let [host, named, current, usual] = [(); 4].map(|()| Fake::start(&[]));
    let home = tempfile::tempdir().unwrap();
    let address = |fake: &Fake| format!("unix://{}", fake.socket().display());
    write_context(home.path(), "named", &address(&named));
    write_context(home.path(), "current", &address(&current));
    fs::write(home.path().join("config.json"), r#"{"auths":{},"currentContext":"current"}"#).unwrap();
    let mut settings = EngineSettings {
        host: Some(address(&host)),
        context: Some("named".to_owned()),
        config_dir: Some(home.path().to_owned()),
        candidates: Some(vec![usual.socket()]),
        ..EngineSettings::default()
    };
    let reached = async |settings: &EngineSettings| connect(settings).await.unwrap().describe().to_owned();
    assert!(reached(&settings).await.ends_with(&address(&host)));
    settings.host = None;
    assert!(reached(&settings).await.ends_with(&address(&named)));
    settings.context = None;
    assert!(reached(&settings).await.ends_with(&address(&current)));
    settings.context = Some("default".to_owned());
    assert!(reached(&settings).await.ends_with(&address(&usual)));

    settings.context = Some("nmaed".to_owned());
    let error = connect(&settings).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no docker context `nmaed` (named by DOCKER_CONTEXT)");
    assert_eq!(error.notes(), ["the contexts here are: default, current, named"]);
}

#[tokio::test]
async fn the_wished_api_version_is_used_or_refused() {
    let too_new = r#"{"message":"client version 1.99 is too new. Maximum supported API version is 1.41"}"#;
    let fake = Fake::start(&[("/v1.40/info", Answer::json(200, "{}")), ("/v1.99/info", Answer::json(400, too_new))]);
    let mut settings = at(&fake.socket());
    settings.api_version = Some("v1.40".to_owned());
    assert!(connect(&settings).await.is_ok());
    settings.api_version = Some("1.99".to_owned());
    let error = connect(&settings).await.unwrap_err();
    assert_eq!(error.status(), Some(400));
    assert_eq!(error.hints(), ["unset DOCKER_API_VERSION; this engine's newest is 1.41"]);
    settings.api_version = Some("latest".to_owned());
    assert!(connect(&settings).await.unwrap_err().is_refused());
}

#[tokio::test]
async fn an_answer_that_is_no_engines_is_an_error() {
    for answer in [
        Answer::raw("SSH-2.0-OpenSSH_9.2\r\n"),
        Answer::raw(""),
        Answer::json(200, "<html>"),
        Answer::json(403, r#"{"message":"authorization denied by plugin"}"#),
        Answer::json(400, "Client sent an HTTP request to an HTTPS server.\n"),
    ] {
        let fake = Fake::start(&[("/version", answer)]);
        let error = connect(&at(&fake.socket())).await.unwrap_err();
        assert!(error.to_string().contains("DOCKER_HOST"), "{error}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_heard_out() {
    let body = format!("[{}]", " ".repeat(65 << 20));
    let fake = Fake::start(&[("/v1.41/images/app:latest/json", Answer::json(200, &body))]);
    let engine = Engine::connect_within(&at(&fake.socket()), Limits::default()).await.unwrap();
    let error = engine.inspect("app").await.unwrap_err();
    assert!(error.message().contains("its answer has over 64 MiB"), "{error}");
}

#[tokio::test]
async fn ssh_says_why() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("ssh");
    fs::write(&program, "#!/bin/sh\necho banner >&2\necho \"me@far: Permission denied (publickey).\" >&2\nexit 255\n")
        .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = EngineSettings { host: Some("ssh://me@far".to_owned()), ..EngineSettings::default() };
    let limits = |program: &Path| Limits { ssh_program: program.to_string_lossy().into_owned(), ..Limits::default() };
    let error = Engine::connect_within(&settings, limits(&program)).await.unwrap_err();
    assert!(error.to_string().ends_with("ssh: me@far: Permission denied (publickey)."), "{error}");
    let error = Engine::connect_within(&settings, limits(&folder.path().join("none"))).await.unwrap_err();
    assert!(error.to_string().contains("cannot run the"), "{error}");
}
