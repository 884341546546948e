//! An engine of a few canned answers on a unix socket or a TCP port, for the errors real engines will not give on demand.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

use super::EngineSettings;
use super::client::{Engine, Limits};

/// `/version` and `/info` as dockerd 20.10.24 gives them, cut to what varies.
pub const DOCKER_VERSION: &str = r#"{"Platform":{"Name":""},"Components":[{"Name":"Engine","Version":"20.10.24+dfsg1",
    "Details":{"ApiVersion":"1.41","MinAPIVersion":"1.12"}}],"Version":"20.10.24+dfsg1","ApiVersion":"1.41"}"#;
pub const DOCKER_INFO: &str = r#"{"Driver":"overlay2","DriverStatus":[["Backing Filesystem","extfs"]],"CgroupDriver":"none-yet","Isolation":"new"}"#;
/// The same of dockerd 28 with the containerd store.
pub const CONTAINERD_INFO: &str =
    r#"{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#;

/// A canned answer.
#[derive(Clone)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub delay: Duration,
    /// How long the connection stays open behind it.
    pub silence: Duration,
}

impl Answer {
    pub fn json(status: u16, body: &str) -> Self {
        let length = body.len();
        Self::raw(format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// A chunked body; without `whole`, the connection closes before the last chunk.
    pub fn chunked(body: &[u8], whole: bool) -> Self {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(if whole { b"\r\n0\r\n\r\n" } else { b"\r\n" });
        Self::raw(bytes)
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), delay: Duration::ZERO, silence: Duration::ZERO }
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn then_silent(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }
}

/// The running engine; it ends with this value.
pub struct Fake {
    pub folder: tempfile::TempDir,
    pub asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Fake {
    /// Answers what `routes` lists by path, and `/version` and `/info` unless they are listed; else 404.
    pub fn start(routes: &[(&str, Answer)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("d.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let defaults = [("/version", DOCKER_VERSION), ("/v1.41/info", DOCKER_INFO)];
        let defaults = defaults.map(|(path, body)| (path.to_owned(), Answer::json(200, body)));
        let routes = routes.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone()));
        let routes: Arc<Vec<_>> = Arc::new(routes.chain(defaults).collect());
        let task = tokio::spawn({
            let asked = asked.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, routes.clone(), asked.clone()));
                }
            }
        });
        Self { folder, asked, task }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("d.sock")
    }

    pub async fn engine(&self) -> Engine {
        connect(&at(&self.socket())).await.unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Settings that name one socket.
pub fn at(socket: &Path) -> EngineSettings {
    EngineSettings { host: Some(format!("unix://{}", socket.display())), ..EngineSettings::default() }
}

/// Connects with limits that a test can wait for.
pub async fn connect(settings: &EngineSettings) -> crate::Result<Engine> {
    let limits = Limits {
        connect: Duration::from_secs(2),
        call: Duration::from_millis(400),
        silence: Duration::from_millis(200),
        pause: Duration::from_secs(2),
        ..Limits::default()
    };
    Engine::connect_within(settings, limits).await
}

/// Reads one request and answers it.
pub async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Arc<Vec<(String, Answer)>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap().to_owned();
    // What changes something is kept whole.
    let kept = if head.starts_with("GET ") { path.clone() } else { head.lines().next().unwrap().to_owned() };
    asked.lock().unwrap().push(kept);
    let missing = Answer::json(404, r#"{"message":"no such thing"}"#);
    let answer = routes.iter().find(|(known, _)| *known == path).map_or(&missing, |(_, answer)| answer);
    tokio::time::sleep(answer.delay).await;
    let _ = stream.write_all(&answer.bytes).await;
    tokio::time::sleep(answer.silence).await;
    let _ = stream.shutdown().await;
}
