//! The client against a containerd that is honest, wrong, or none at all.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::connection::Limits;
use super::fake::{Answer, Call, End, Fake, image, nested};
use super::grpc::frame;
use super::messages;
use super::proto::Writer;
use super::{Blob, Containerd, ContainerdSettings};
use crate::error::{Error, Retry};
use crate::image::Digest;

const SHORT: Limits =
    Limits { connect: Duration::from_millis(500), call: Duration::from_millis(500), idle: Duration::from_millis(500) };

fn at(socket: &Path) -> ContainerdSettings {
    ContainerdSettings { address: Some(format!("unix://{}", socket.display())), ..ContainerdSettings::default() }
}

async fn connect(fake: &Fake) -> Result<Containerd, Error> {
    Containerd::connect_within(&at(&fake.socket()), SHORT).await
}

async fn refusal(fake: &Fake) -> Error {
    connect(fake).await.unwrap_err()
}

fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

fn info(digest: &str, size: u64) -> Vec<u8> {
    nested(1, &Writer::default().text(1, digest).size(2, size).finish())
}

fn data(bytes: &[u8]) -> Vec<u8> {
    nested(2, bytes)
}

/// Four images, one of them under two names.
fn store(call: &Call) -> Option<Answer> {
    let images = [
        ("docker.io/library/app:v1", digest('a')),
        ("docker.io/library/app:v2", digest('b')),
        ("ghcr.io/team/Odd_Name", format!("sha256:b{}", "0".repeat(63))),
        ("registry.k8s.io/pause:3.9", digest('c')),
        (&format!("sha256:{}", "d".repeat(64)), digest('c')),
    ];
    match (call.method.as_str(), call.namespace.as_str()) {
        ("Images/Get", "k8s.io") => {
            let found = images.iter().find(|(name, _)| call.message == messages::request(name));
            Some(found.map_or_else(Answer::not_found, |(name, digest)| Answer::messages([image(name, digest)])))
        }
        ("Images/Get", _) => Some(Answer::not_found()),
        ("Images/List", "k8s.io") => {
            Some(Answer::messages([images.iter().flat_map(|(name, digest)| image(name, digest)).collect()]))
        }
        ("Images/List", _) => Some(Answer::messages([Vec::new()])),
        ("Namespaces/List", _) => {
            let names = ["default", "k8s.io"].map(|name| nested(1, &messages::request(name)));
            Some(Answer::messages([names.concat()]))
        }
        _ => None,
    }
}

async fn connect_in(fake: &Fake, namespace: &str) -> Containerd {
    let settings = ContainerdSettings { namespace: Some(namespace.to_owned()), ..at(&fake.socket()) };
    Containerd::connect_within(&settings, SHORT).await.unwrap()
}

#[tokio::test]
async fn images_are_found_as_users_name_them() {
    let fake = Fake::start(store);
    let containerd = connect_in(&fake, "k8s.io").await;
    let description = format!("containerd 1.2.3 at unix://{}, namespace k8s.io", fake.socket().display());
    assert_eq!(containerd.describe(), description);
    for (asked, name, letter) in [
        ("app:v1", "docker.io/library/app:v1", 'a'),
        ("docker.io/app:v1", "docker.io/library/app:v1", 'a'),
        ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", 'c'),
        (&format!("app@{}", digest('b')), "docker.io/library/app:v2", 'b'),
        (&format!("app:v1@{}", digest('a')), "docker.io/library/app:v1", 'a'),
        (&digest('a'), "docker.io/library/app:v1", 'a'),
        (&"a".repeat(12), "docker.io/library/app:v1", 'a'),
        ("sha256:bb", "docker.io/library/app:v2", 'b'),
        // The config's digest, as crictl shows it, whole and short.
        (&digest('d'), &digest('d'), 'c'),
        ("dddd", &digest('d'), 'c'),
        ("cc", "registry.k8s.io/pause:3.9", 'c'),
    ] {
        let image = containerd.image(asked).await.unwrap();
        assert_eq!((image.name.as_str(), image.digest.to_string()), (name, digest(letter)), "{asked}");
        assert_eq!((image.media_type.as_str(), image.size), ("application/vnd.oci.image.manifest.v1+json", 7));
    }
    assert_eq!(containerd.image("ghcr.io/team/Odd_Name").await.unwrap().name, "ghcr.io/team/Odd_Name");
    assert!(fake.calls().iter().all(|call| call.namespace == "k8s.io"));
}

#[tokio::test]
async fn an_unknown_image_is_explained() {
    let fake = Fake::start(store);
    let containerd = connect_in(&fake, "k8s.io").await;
    let error = containerd.image("app").await.unwrap_err();
    assert_eq!(error.to_string(), format!("there is no image `app` ({})", containerd.describe()));
    assert_eq!(error.code(), Some("NotFound"));
    assert_eq!(error.hints(), ["did you mean app:v1, app:v2?"]);
    assert_eq!(error.notes(), ["namespaces there: default, k8s.io"]);

    let error = containerd.image("b").await.unwrap_err();
    assert_eq!(error.to_string(), "the short digest `b` is ambiguous: 2 images match");
    assert_eq!(error.notes().len(), 2);
    assert!(containerd.image(&format!("app@{}", digest('e'))).await.is_err());

    let other = connect_in(&fake, "default").await;
    let error = other.image("app:v1").await.unwrap_err();
    let elsewhere = "the namespace k8s.io has it: add `containerd_namespace: k8s.io`";
    assert_eq!(error.hints(), [elsewhere]);
    assert_eq!(error.notes(), ["this namespace has no image"]);
    let error = connect_in(&fake, "prod").await.image("web").await.unwrap_err();
    let nowhere = "there is no namespace prod; namespaces there: default, k8s.io";
    assert_eq!(error.notes(), [nowhere, "this namespace has no image"]);
}

#[tokio::test]
async fn an_image_without_a_usable_digest_is_refused() {
    let fake = Fake::start(|call| (call.method == "Images/Get").then(|| Answer::messages([image("app", "sha512:00")])));
    let error = connect(&fake).await.unwrap().image("app").await.unwrap_err();
    assert!(error.to_string().starts_with("the image `app` of containerd 1.2.3 at unix://"), "{error}");
    assert!(error.to_string().ends_with("has no sha256 digest"), "{error}");
}

/// A blob of ten bytes, `0123456789`, of which `Content/Read` answers `answer`.
async fn blob(fake: &Fake) -> Blob {
    connect(fake).await.unwrap().blob(&Digest::of(b"0123456789")).await.unwrap().unwrap()
}

fn reading(answer: Answer) -> Fake {
    Fake::start(move |call| match call.method.as_str() {
        "Content/Info" => Some(Answer::messages([info(&Digest::of(b"0123456789").to_string(), 10)])),
        "Content/Read" => Some(answer.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn blobs_are_read() {
    let fake = reading(Answer::messages([data(b"0123"), data(b""), data(b"456789")]));
    let blob = blob(&fake).await;
    assert_eq!((blob.size(), blob.path()), (10, None));
    assert_eq!(blob.document(10).await.unwrap(), "0123456789");
    assert!(blob.document(9).await.unwrap_err().to_string().ends_with("more than the 9 allowed for a document"));
    let mut stream = blob.stream(0).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(Bytes::from("0123")));
    assert_eq!(stream.next().await.unwrap(), Some(Bytes::from("456789")));
    assert_eq!(stream.next().await.unwrap(), None);
    assert_eq!(stream.next().await.unwrap(), None);

    let fake = reading(Answer::messages([data(b"789")]));
    let blob = self::blob(&fake).await;
    let mut buffer = [0; 8];
    assert_eq!(blob.read_at(&mut buffer, 7).await.unwrap(), 3);
    assert_eq!(&buffer[..3], b"789");
    let asked = fake.calls().pop().unwrap();
    assert_eq!(asked.message, messages::read_request(&blob.digest().to_string(), 7, 3));
    let calls = fake.calls().len();
    assert_eq!(blob.read_at(&mut buffer, 10).await.unwrap(), 0);
    assert_eq!(blob.read_at(&mut buffer, u64::MAX).await.unwrap(), 0);
    assert_eq!(blob.read_at(&mut [], 0).await.unwrap(), 0);
    assert_eq!(fake.calls().len(), calls, "what is empty is not asked for");
}

#[tokio::test]
async fn wrong_bytes_are_an_error() {
    let cut = frame(&data(b"0123456789"));
    for (answer, why) in [
        (Answer::messages([data(b"0123")]), "ended 6 bytes before its end"),
        (Answer::messages([data(b"0123456789"), data(b"x")]), "has more bytes than were asked for"),
        (Answer::messages([data(b"0123456788")]), "is damaged: its bytes have the digest"),
        (Answer::messages([b"\x12\xff\xff\xff\xff\x0f".to_vec()]), "a field is longer than its message"),
        (Answer::raw([cut.clone()], End::Nothing), "it ends without a status"),
        (Answer::raw([cut.slice(..7)], End::Trailers("0", String::new())), "it ends within a message"),
        (Answer::raw([cut.clone()], End::Trailers("x", String::new())), "its status is not a number"),
        (Answer::raw([cut.clone()], End::Trailers("99", String::new())), "answered an unknown code"),
        (Answer::raw([cut.clone()], End::Trailers("15", "disk%20gone".to_owned())), "answered DataLoss: disk gone"),
        (Answer::raw([Bytes::from_static(&[0, 255, 255, 255, 255])], End::Hang), "a message has more than 16 MiB"),
        (Answer::raw([Bytes::from_static(&[1, 0, 0, 0, 0])], End::Hang), "it is compressed"),
        (Answer::raw([cut.slice(..7)], End::Reset), "broke the call off: stream error received"),
        (Answer::raw([cut.slice(..7)], End::Hang), "did not answer within 0 s"),
        (Answer::raw([], End::Hang), "did not answer within 0 s"),
    ] {
        let fake = reading(answer);
        let error = blob(&fake).await.document(100).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}, not {why}");
        assert_eq!(error.operation(), "read blob");
    }
}

#[tokio::test]
async fn an_absent_blob_is_no_error_but_a_failure_is() {
    let fake = Fake::start(|call| (call.method == "Content/Info").then(Answer::not_found));
    assert!(connect(&fake).await.unwrap().blob(&Digest::of(b"")).await.unwrap().is_none());
    for (answer, why) in [
        (Answer::status("7", "no"), "answered PermissionDenied: no"),
        (Answer::messages([info(&digest('a'), 1)]), "and tells of `sha256:aaaa"),
        (Answer::messages([]), "cannot be understood: it is empty"),
        (Answer::messages([Vec::new(), Vec::new()]), "two answers to one question"),
        (Answer::messages([vec![0x08, 1]]), "a field that should hold bytes holds a number"),
    ] {
        let fake = Fake::start(move |call| (call.method == "Content/Info").then(|| answer.clone()));
        let error = connect(&fake).await.unwrap().blob(&Digest::of(b"")).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}, not {why}");
    }
}

#[tokio::test]
async fn a_readable_store_is_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let root = folder.path().to_string_lossy().into_owned();
    let fake = Fake::start(move |call| match call.method.as_str() {
        "Content/Info" => Some(Answer::messages([info(&Digest::of(b"0123456789").to_string(), 10)])),
        "Introspection/Plugins" => {
            let export = nested(5, &Writer::default().text(1, "root").text(2, &root).finish());
            Some(Answer::messages([nested(1, &export)]))
        }
        _ => None,
    });
    let blob = blob(&fake).await;
    assert_eq!(blob.path(), None);
    let file = blobs.join(blob.digest().hex());
    std::fs::write(&file, "other").unwrap();
    assert_eq!(blob.path(), None, "a file of another size is another store's");
    std::fs::write(&file, "0123456789").unwrap();
    assert_eq!(blob.path(), Some(file));
}

#[tokio::test]
async fn strangers_are_told_from_containerd() {
    let not_grpc = "does not speak gRPC: ";
    for (fake, why) in [
        (Fake::stranger(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", true), not_grpc),
        (Fake::stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n", false), not_grpc),
        (Fake::stranger(b"SSH-2.0-OpenSSH_9.2\r\n", false), not_grpc),
        (Fake::stranger(b"", true), "the connection to containerd at"),
        (Fake::stranger(b"\0", true), "the connection to containerd at"),
        (Fake::stranger(b"", false), "did not answer within 0 s"),
        (Fake::stranger(b"\0\0", false), "did not answer within 0 s"),
    ] {
        let error = refusal(&fake).await;
        assert!(error.to_string().contains(why), "{error}, not {why}");
        assert_eq!(error.operation(), "reach containerd");
        assert!(!error.hints().is_empty());
    }
    let page = Answer { content_type: "text/html", ..Answer::messages([]) };
    for (answer, why) in [
        (page.clone(), "it answered with the content type `text/html`"),
        (Answer { status: 404, ..page }, "it answered with the HTTP status 404 Not Found"),
        (Answer::status("12", "unknown service"), "answered Unimplemented: unknown service"),
        (Answer::status("16", "who are you"), "answered Unauthenticated: who are you"),
    ] {
        let error = refusal(&Fake::start(move |_| Some(answer.clone()))).await;
        assert!(error.to_string().contains(why), "{error}, not {why}");
    }
}

#[tokio::test]
async fn a_restart_is_survived() {
    let fake = Fake::start(|call| (call.method == "Content/Info").then(Answer::not_found));
    let containerd = connect(&fake).await.unwrap();
    for _ in 0..3 {
        fake.cut();
        let mut tries = 0;
        while let Err(error) = containerd.blob(&Digest::of(b"")).await {
            assert_eq!(error.retry(), Retry::Backoff, "{error}");
            tries += 1;
            assert!(tries < 2, "{error}");
        }
    }
    let socket = fake.socket();
    fake.cut();
    drop(fake);
    let error = async {
        loop {
            match containerd.blob(&Digest::of(b"")).await {
                Err(error) if error.to_string().contains("cannot be reached") => return error,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(5), error).await.unwrap();
    let message = format!("containerd at unix://{} cannot be reached: there is no such socket", socket.display());
    assert_eq!(error.to_string(), message);
    assert_eq!(error.retry(), Retry::Backoff, "it was there before");
}

#[tokio::test]
async fn the_first_socket_that_exists_is_taken() {
    let fake = Fake::start(|_| None);
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let settings = |candidates| ContainerdSettings { candidates: Some(candidates), ..ContainerdSettings::default() };
    let containerd = Containerd::connect(&settings(vec![absent.clone(), fake.socket()])).await.unwrap();
    assert!(containerd.describe().ends_with("containerd.sock, namespace default"));
    let error = Containerd::connect(&settings(vec![absent.clone()])).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no containerd was found; there is no socket at {}", absent.display()));

    std::fs::write(&absent, "").unwrap();
    let error = Containerd::connect(&settings(vec![absent, fake.socket()])).await.unwrap_err();
    assert!(error.to_string().ends_with("cannot be reached: nothing listens there"), "{error}");
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused() {
    for (address, namespace) in [("tcp://host:1", ""), ("npipe:////./pipe/x", ""), ("run.sock", ""), ("/x", "a b")] {
        let settings = ContainerdSettings {
            address: Some(address.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ContainerdSettings::default()
        };
        assert!(Containerd::connect(&settings).await.unwrap_err().is_refused(), "{address}");
    }
    let fake = Fake::start(|_| None);
    assert!(connect(&fake).await.unwrap().image("a b").await.unwrap_err().is_refused());
}
