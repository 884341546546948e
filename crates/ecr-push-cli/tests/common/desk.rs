//! Servers between the program and the local ECR: one that writes down every request as it was sent, and a proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it was sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: String,
}

impl Asked {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, v)| v.trim())
    }

    /// A field of a form in the body.
    pub fn field(&self, name: &str) -> Option<String> {
        let found = self.body.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
        Some(found.replace("%3A", ":").replace("%2F", "/").replace('+', " "))
    }

    /// The operation of the ECR API, or the action of STS.
    pub fn operation(&self) -> String {
        let target =
            self.header("x-amz-target").and_then(|target| target.split_once('.')).map(|(_, name)| name.to_owned());
        target.or_else(|| self.field("Action")).unwrap_or_default()
    }

    /// The region that the request was signed for.
    pub fn region(&self) -> Option<&str> {
        self.header("authorization")?.split_once("Credential=")?.1.split('/').nth(2)
    }
}

/// What to do with a request.
pub enum Reply {
    /// Status and body.
    Say(u16, String),
    /// Status 200 and this body with more headers.
    Head(u16, &'static str),
    /// Have it answered there.
    Pass(SocketAddr),
    /// Never answer.
    Silence,
}

/// A server of one request for each connection.
pub struct Desk {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Desk {
    /// `reply` gets each request and how many there were before it.
    pub async fn start(reply: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let kept = Arc::clone(&asked);
        let reply = Arc::new(reply);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&kept), Arc::clone(&reply)));
            }
        });
        Self { address, asked, task }
    }

    /// One that passes all to `address`.
    pub async fn before(address: SocketAddr) -> Self {
        Self::start(move |_, _| Reply::Pass(address)).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The requests for one operation.
    pub fn of(&self, operation: &str) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.operation() == operation).collect()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn head_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn serve(
    mut stream: TcpStream,
    kept: Arc<Mutex<Vec<Asked>>>,
    reply: Arc<impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static>,
) -> Option<()> {
    let head = head_of(&mut stream).await?;
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut asked = Asked { method, path, head: head.clone(), body: String::new() };
    let mut body = Vec::new();
    match asked.header("content-length").map(|length| length.parse().unwrap()) {
        Some(length) => {
            body = vec![0; length];
            stream.read_exact(&mut body).await.ok()?;
        }
        None if asked.header("transfer-encoding").is_some() => {
            while !body.ends_with(b"\r\n0\r\n\r\n") && body != b"0\r\n\r\n" {
                body.push(stream.read_u8().await.ok()?);
            }
        }
        None => {}
    }
    asked.body = String::from_utf8_lossy(&body).into_owned();
    let before = {
        let mut kept = kept.lock().unwrap();
        kept.push(asked.clone());
        kept.len() - 1
    };
    let answer = match reply(&asked, before) {
        Reply::Say(status, text) => {
            let length = text.len();
            format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
            )
            .into_bytes()
        }
        Reply::Head(status, headers) => {
            format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
        }
        Reply::Pass(address) => {
            let mut server = TcpStream::connect(address).await.ok()?;
            let (first, rest) = head.split_once("\r\n")?;
            server.write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes()).await.ok()?;
            server.write_all(&body).await.ok()?;
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await.ok()?;
            answer
        }
        Reply::Silence => std::future::pending().await,
    };
    stream.write_all(&answer).await.ok()?;
    stream.shutdown().await.ok()
}

/// A proxy that leads every name to one server, and writes down who was asked for.
pub struct Proxy {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let head = head_of(&mut stream).await?;
                    kept.lock().unwrap().push(head.clone());
                    let mut server = TcpStream::connect(server).await.ok()?;
                    match head.starts_with("CONNECT ") {
                        true => stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?,
                        // Plain HTTP: the server takes the whole URL too.
                        false => server.write_all(head.as_bytes()).await.ok()?,
                    }
                    tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok()
                });
            }
        });
        Self { address, heads, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `HOST:PORT` for `AGENT_PROXYURL` with a user in it.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The hosts that were asked for, each once, sorted. None: it was not used.
    pub fn hosts(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let hosts = heads.iter().map(|head| {
            let target = head.split(' ').nth(1).unwrap();
            let target = target.strip_prefix("http://").map_or(target, |rest| rest.split('/').next().unwrap());
            target.trim_end_matches(":443").to_owned()
        });
        let mut hosts: Vec<String> = hosts.collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }

    /// The users and passwords it was shown, each once.
    pub fn logins(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let mut logins: Vec<String> = heads
            .iter()
            .filter_map(|head| {
                let line = head.lines().find(|line| line.to_lowercase().starts_with("proxy-authorization: basic "))?;
                Some(String::from_utf8(BASE64_STANDARD.decode(line.rsplit(' ').next()?).unwrap()).unwrap())
            })
            .collect();
        logins.dedup();
        logins
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}
