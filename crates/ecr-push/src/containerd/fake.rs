//! A containerd for tests: an HTTP/2 server on a socket that answers what a test tells it to.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

use super::grpc::frame;
use super::proto::{Value, Writer, fields};
use crate::image::{Digest, MediaType};

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// The last two parts of the path: `Images/Get`.
    pub method: String,
    pub namespace: String,
    pub message: Bytes,
}

/// What is answered, in the order of the fields.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// Raw bytes of the body, each in a frame of HTTP/2 of its own.
    pub body: Vec<Bytes>,
    pub end: End,
}

#[derive(Clone, Debug)]
pub(crate) enum End {
    /// `grpc-status` and `grpc-message`.
    Trailers(&'static str, String),
    /// The body ends without trailers.
    Nothing,
    Reset,
    /// Nothing more comes.
    Hang,
}

impl Answer {
    /// Success with these messages.
    pub fn messages(messages: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self::raw(messages.into_iter().map(|message| frame(&message)), End::Trailers("0", String::new()))
    }

    pub fn raw(body: impl IntoIterator<Item = Bytes>, end: End) -> Self {
        Self { status: 200, content_type: "application/grpc", body: body.into_iter().collect(), end }
    }

    pub fn status(code: &'static str, message: &str) -> Self {
        Self::raw([], End::Trailers(code, message.to_owned()))
    }

    pub fn not_found() -> Self {
        Self::status("5", "it is not there: not found")
    }
}

/// Puts `message` into field `number` of another one.
pub(super) fn nested(number: u64, message: &[u8]) -> Vec<u8> {
    let len = Writer::default().size(1, message.len() as u64).finish();
    let len = if message.is_empty() { &[0][..] } else { &len[1..] };
    [&[(number << 3 | 2) as u8], len, message].concat()
}

/// An `Image` within field 1 of an answer.
pub(super) fn image(name: &str, digest: &str) -> Vec<u8> {
    let target = Writer::default().text(1, "application/vnd.oci.image.manifest.v1+json").text(2, digest).size(3, 7);
    nested(1, &[Writer::default().text(1, name).finish(), nested(3, &target.finish())].concat())
}

/// A containerd that has one image, of the blobs that lie below `folder`; their files can be read if `in_files`.
pub(crate) fn content_store(name: &'static str, root: &Digest, folder: TempDir, in_files: bool) -> Fake {
    let root = *root;
    Fake::start(move |call| {
        let path = folder.path().join("blobs/sha256");
        let read = |digest: &str| std::fs::read(path.join(digest.strip_prefix("sha256:")?)).ok();
        let request: Vec<Value> = fields(call.message.clone()).map(|field| field.unwrap().1).collect();
        let text = match request.first() {
            Some(Value::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            _ => String::new(),
        };
        let number = |at: usize| match request.get(at) {
            Some(Value::Varint(number)) => *number as usize,
            _ => 0,
        };
        let index = || {
            let size = read(&root.to_string()).unwrap().len() as u64;
            let target = Writer::default().text(1, MediaType::OCI_INDEX).text(2, &root.to_string()).size(3, size);
            nested(1, &[Writer::default().text(1, name).finish(), nested(3, &target.finish())].concat())
        };
        Some(match call.method.as_str() {
            "Images/Get" if text == name => Answer::messages([index()]),
            "Images/List" => Answer::messages([index()]),
            "Namespaces/List" => Answer::messages([nested(1, &Writer::default().text(1, "default").finish())]),
            "Introspection/Plugins" if in_files => {
                let store = folder.path().to_string_lossy();
                let export = nested(5, &Writer::default().text(1, "root").text(2, &store).finish());
                Answer::messages([nested(1, &export)])
            }
            "Content/Info" if let Some(bytes) = read(&text) => {
                let info = Writer::default().text(1, &text).size(2, bytes.len() as u64).finish();
                Answer::messages([nested(1, &info)])
            }
            "Content/Read" if let Some(bytes) = read(&text) => {
                // Offset 0 is not written.
                let (offset, len) = if request.len() == 3 { (number(1), number(2)) } else { (0, number(1)) };
                Answer::messages([nested(2, &bytes[offset..offset + len])])
            }
            "Images/Get" | "Content/Info" | "Content/Read" => Answer::not_found(),
            _ => return None,
        })
    })
}

pub(crate) struct Fake {
    folder: TempDir,
    calls: Arc<Mutex<Vec<Call>>>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    _tasks: JoinSet<()>,
}

impl Fake {
    /// Answers `Version` and what `answer` answers; everything else is unimplemented.
    pub fn start(answer: impl Fn(&Call) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let (calls, connections) = (Arc::new(Mutex::default()), Arc::new(Mutex::new(Vec::new())));
        let (answer, log, open) = (Arc::new(answer), Arc::clone(&calls), Arc::clone(&connections));
        Self::listen(calls, connections, move |stream| {
            let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
            let task = tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve(request, respond, Arc::clone(&answer), Arc::clone(&log)));
                }
            });
            open.lock().unwrap().push(task.abort_handle());
        })
    }

    /// Writes `bytes` to whoever connects, and closes or not.
    pub fn stranger(bytes: &'static [u8], close: bool) -> Self {
        Self::listen(Arc::default(), Arc::default(), move |mut stream| {
            tokio::spawn(async move {
                let _ = stream.write_all(bytes).await;
                if !close {
                    std::future::pending::<()>().await;
                }
            });
        })
    }

    fn listen(
        calls: Arc<Mutex<Vec<Call>>>,
        connections: Arc<Mutex<Vec<AbortHandle>>>,
        serve: impl Fn(UnixStream) + Send + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("containerd.sock")).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream);
            }
        });
        Self { folder, calls, connections, _tasks: tasks }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// What was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// Breaks all connections, as a restart does.
    pub fn cut(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }
}

async fn serve(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    answer: Arc<impl Fn(&Call) -> Option<Answer>>,
    log: Arc<Mutex<Vec<Call>>>,
) {
    let (head, mut body) = request.into_parts();
    assert_eq!(head.uri.authority().map(http::uri::Authority::as_str), Some("localhost"));
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["content-type"], "application/grpc");
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        message.extend_from_slice(&data.unwrap());
    }
    assert_eq!(message[..5], [&[0][..], &(message.len() as u32 - 5).to_be_bytes()].concat());
    let call = Call {
        method: head.uri.path().rsplit('.').next().unwrap().to_owned(),
        namespace: head.headers["containerd-namespace"].to_str().unwrap().to_owned(),
        message: message.split_off(5).into(),
    };
    log.lock().unwrap().push(call.clone());
    let version = || (call.method == "Version/Version").then(|| Writer::default().text(1, "1.2.3").finish());
    let answer = answer(&call)
        .or_else(|| version().map(|version| Answer::messages([version])))
        .unwrap_or_else(|| Answer::status("12", "unknown service"));

    let response = Response::builder().status(answer.status).header("content-type", answer.content_type);
    let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
    for bytes in answer.body {
        stream.send_data(bytes, false).unwrap();
    }
    match answer.end {
        End::Trailers(code, message) => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(code));
            trailers.insert("grpc-message", message.parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
        End::Nothing => stream.send_data(Bytes::new(), true).unwrap(),
        End::Reset => stream.send_reset(Reason::INTERNAL_ERROR),
        End::Hang => std::future::pending().await,
    }
}
