//! Answers that no engine gives, and names for one: see [`crate::fuzzing`].

use std::cell::RefCell;
use std::io;
use std::path::Path;

use bollard::errors::Error as BollardError;
use bollard::models::{ImageInspect, ImageSummary, SystemVersion};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use futures_util::stream;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use super::EngineSettings;
use super::client::{Engine, Info, Limits, negotiated};
use super::endpoint::{self, Endpoint};
use super::export::Export;
use super::name::{self, Name};
use crate::error::{Error, Side};
use crate::fuzzing::{check_error, parts};

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
    static DOCKER: RefCell<Option<Docker>> = const { RefCell::new(None) };
}

/// Reads the parts of the input as the engine's answers: version, info, the description of an image, the list of images; then what the
/// user asked for, and the end of an export. Only what makes sense as JSON gets further.
pub fn engine_answer(data: &[u8]) {
    let mut parts = parts(data);
    let mut part = || parts.next().unwrap_or_default();
    let (version, info, inspect, list, asked, tar) = (part(), part(), part(), part(), part(), part());
    let version: SystemVersion = serde_json::from_slice(version).unwrap_or_default();
    let info: Info = serde_json::from_slice(info).unwrap_or_default();
    let engine = engine(&version, &info);
    let asked = std::str::from_utf8(asked).unwrap_or("app");
    let name = match Name::parse(asked) {
        Ok(name) => name,
        Err(error) => return check_error(&error),
    };
    if let Ok(found) = serde_json::from_slice::<ImageInspect>(inspect) {
        match engine.image(asked, &name, found) {
            Ok(image) => {
                let digest = image.config_digest.or(image.root_digest).expect("an ID is one of the two");
                assert_eq!(image.id, digest.to_string());
                assert_ne!(image.config_digest.is_some(), image.root_digest.is_some());
                assert_eq!(image.root_digest.is_some(), engine.has_containerd_store());
                assert!(!image.by_id || name.id().is_some());
                assert!(Name::parse(&image.id).is_ok(), "the engine is asked for the ID");
            }
            Err(error) => check_error(&error),
        }
    }
    if let Ok(images) = serde_json::from_slice::<Vec<ImageSummary>>(list) {
        let unknown = Error::new(Side::Source, "inspect image", "there is none").with_status(404);
        match engine.explain(asked, &name, &images, unknown) {
            Ok(id) => assert!(id.strip_prefix("sha256:").unwrap_or(&id).starts_with(name.id().unwrap_or("none"))),
            Err(error) => {
                assert!(error.hints().len() <= 10);
                check_error(&error);
            }
        }
    }
    export(tar);
}

/// An engine that gave these answers, and gives no more.
fn engine(version: &SystemVersion, info: &Info) -> Engine {
    let docker = DOCKER.with(|docker| {
        let made = || {
            let silent = |_: BollardRequest| async {
                Err(BollardError::IOError { err: io::Error::other("there is no engine") })
            };
            let url = Some("http://docker");
            Docker::connect_with_custom_transport(silent, url, 1, API_DEFAULT_VERSION).expect("nothing is connected")
        };
        docker.borrow_mut().get_or_insert_with(made).clone()
    });
    let number = negotiated(version);
    let (major, minor) = number.split_once('.').expect("two numbers");
    let numbers: (usize, usize) = (major.parse().expect("a number"), minor.parse().expect("a number"));
    assert!(numbers <= (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version));
    let endpoint = Endpoint::local(Path::new("/run/docker.sock"));
    let engine = Engine::described(docker, "a test".into(), &endpoint, Limits::default(), version, info);
    assert!(!engine.describe().is_empty());
    if let Some(store) = engine.local_store() {
        assert!(store.root.is_absolute());
        assert!(!store.driver.contains(['/', '.']) && !store.driver.is_empty(), "{:?}", store.driver);
    }
    engine
}

/// The end of an export, cut into pieces of different sizes.
fn export(tar: &[u8]) {
    let read = |piece: usize| {
        let pieces: Vec<io::Result<Bytes>> =
            tar.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut bytes = Vec::new();
        let result =
            RUNTIME.with(|runtime| runtime.block_on(Export::new(stream::iter(pieces)).read_to_end(&mut bytes)));
        (result.is_ok(), bytes)
    };
    let (whole, bytes) = read(tar.len());
    assert_eq!(bytes, tar);
    assert_eq!(whole, tar.len() >= 1024 && tar.ends_with(&[0; 1024]), "only a tar's own end is one");
    assert_eq!(read(701), (whole, bytes), "it does not matter how it is cut");
}

/// Reads `text` as an image's name and as an engine's address.
pub(crate) fn names(text: &str) {
    match Name::parse(text) {
        Ok(parsed) => check_name(text, &parsed),
        Err(error) => {
            assert!(error.is_refused());
            check_error(&error);
        }
    }
    let settings = EngineSettings { host: Some(text.to_owned()), ..EngineSettings::default() };
    if let Err(error) = endpoint::chosen(&settings) {
        assert!(error.is_refused());
        check_error(&error);
    }
}

fn check_name(text: &str, parsed: &Name) {
    let request = parsed.request();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@[]".contains(&b);
    assert!(request.bytes().all(plain), "{text:?} goes into a path as {request}");
    assert!(request.split('/').all(|part| !matches!(part, "" | "." | "..")), "{text:?} goes into a path as {request}");
    let again = Name::parse(&request).expect("what is asked for is a name");
    assert_eq!(again.request(), request, "{text:?}");
    if !parsed.is_certainly_id() {
        assert!(parsed.is(&parsed.with_tag()));
        let again = Name::parse(&parsed.with_tag()).expect("the whole name is a name");
        assert_eq!(again.with_tag(), parsed.with_tag(), "{text:?}");
    }
    let names = ["localhost/team/app:2", "web:1", "docker.io/library/nginx:1", text].map(str::to_owned);
    let near = name::near(parsed, &names);
    assert!(near.len() <= 5 && near.iter().all(|near| names.iter().any(|name| name.ends_with(near.as_str()))));
}
