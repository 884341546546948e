//! The registry side: blobs, upload sessions, manifests (OCI distribution specification), and where ECR departs from it.

mod auth;
mod body;
mod docker_config;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod link;
mod pace;
mod read;
mod upload;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use url::Url;

pub use auth::{Auth, FetchToken, FetchedToken};
pub use body::Progress;
pub use docker_config::DockerConfig;
pub(crate) use docker_config::is_docker_hub;
use link::Link;
pub use pace::Pace;
pub(crate) use read::READ_BLOB;
pub use upload::Mount;
pub(crate) use upload::{DAMAGED, SEND_BLOB, START_UPLOAD};
#[cfg(test)]
pub(crate) use {auth::token_server, read::check_redirect};

use crate::error::{Error, Result, Retry, Side};
use crate::events::Events;
use crate::http::Http;
use crate::image::{Digest, Manifest, MediaType};

/// What requests are for, as errors name it and as [`Pace`] tells them apart.
pub(crate) const CHECK_BLOB: &str = "check blob";
pub(crate) const READ_MANIFEST: &str = "read manifest";
pub(crate) const PUT_MANIFEST: &str = "put manifest";

/// How long the answer to a question may take, or to the wish to send something.
const ASKED: Duration = Duration::from_secs(30);

/// How long an answer may take that the registry has to work for: it checks a manifest before it takes it.
const ANSWER: Duration = Duration::from_secs(60);

/// After so long without an answer it is said who is waited for.
const LATE: Duration = Duration::from_secs(30);

/// A blob on its way of which no byte moves for so long is given up. A link that comes back within it is not: TCP's own back-off needs
/// up to 26 s after an outage of 15 s.
const STALLED: Duration = Duration::from_secs(30);

/// The largest manifest that is read from a registry (ecr-facts 3).
const MANIFEST_LIMIT: usize = 4 << 20;

/// A repository of a registry.
#[derive(Clone)]
pub struct Repository {
    http: Http,
    base: Url,
    name: String,
    auth: Auth,
    pace: Pace,
    /// A manifest was sent, and no answer came: the registry may have it.
    lost: Arc<AtomicBool>,
    link: Arc<Link>,
    events: Events,
}

/// A manifest that a registry holds.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its digest, computed from the bytes.
    pub digest: Digest,
    /// The manifest, if it is one that this program knows.
    pub manifest: Option<Manifest>,
}

/// What a registry says of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobStatus {
    /// It is there, and has this size, if the registry says so.
    Present(Option<u64>),
    /// It is not.
    Absent,
    /// The right to ask is missing, or the registry does not answer this question (ECR Public, ecr-facts 4.7).
    Unaskable,
}

impl Repository {
    /// The repository `name` at `base` (`https://HOST[:PORT]/`), asked no faster than `pace` allows.
    pub fn new(http: Http, base: Url, name: impl Into<String>, auth: Auth, pace: Pace, events: &Events) -> Self {
        Self {
            http,
            base,
            name: name.into(),
            auth,
            pace,
            lost: Arc::default(),
            link: Arc::default(),
            events: events.clone(),
        }
    }

    fn host(&self) -> &str {
        self.base.host_str().unwrap_or("the registry")
    }

    /// The name, without the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn url(&self, rest: &str) -> Result<Url> {
        self.base.join(&format!("/v2/{}/{rest}", self.name)).map_err(|error| {
            Error::new(Side::Destination, "build URL", format!("`{rest}` does not fit into a URL")).with_source(error)
        })
    }

    /// Opens `count` connections that later requests will find open: with a round trip of 20 ms, TCP and TLS take 60 ms. What goes wrong
    /// here is heard of later.
    pub async fn open_connections(&self, count: usize) {
        let Ok(url) = self.base.join("/v2/") else { return };
        let open = || self.send("open connection", |client| client.request(Method::GET, url.clone()).timeout(ANSWER));
        futures_util::future::join_all((0..count).map(|_| open())).await;
    }

    /// Asks for one blob (`HEAD`).
    ///
    /// # Errors
    /// If the registry cannot be asked, or answers with something else than yes, no and "that is not asked here".
    pub async fn blob(&self, digest: &Digest) -> Result<BlobStatus> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let operation = CHECK_BLOB;
        let response = self.send(operation, |client| client.request(Method::HEAD, url.clone()).timeout(ASKED)).await?;
        match response.status() {
            status if status.is_success() => {
                // Not `content_length`, which is what is left of the body: nothing, here.
                let size = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
                Ok(BlobStatus::Present(size.and_then(|text| text.parse().ok())))
            }
            StatusCode::NOT_FOUND => Ok(BlobStatus::Absent),
            StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Ok(BlobStatus::Unaskable)
            }
            status if retry_for(status) == Retry::Never => self.blob_with_reason(digest, response).await,
            _ => Err(self.refusal(operation, response).await),
        }
    }

    /// Asks again for a blob of which a `HEAD` was `refused`: that answer has no body to say why, and that of a `GET` has. Once, and nothing of
    /// the blob is read.
    async fn blob_with_reason(&self, digest: &Digest, refused: Response) -> Result<BlobStatus> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let asked = self.send(CHECK_BLOB, |client| client.request(Method::GET, url.clone()).timeout(ASKED)).await;
        let Ok(response) = asked else { return Err(self.refusal(CHECK_BLOB, refused).await) };
        match response.status() {
            status if status.is_success() => Ok(BlobStatus::Present(response.content_length())),
            // To where the bytes are (ecr-facts 4.5).
            StatusCode::FOUND | StatusCode::TEMPORARY_REDIRECT => Ok(BlobStatus::Present(None)),
            StatusCode::NOT_FOUND => Ok(BlobStatus::Absent),
            // To read is another right than to ask: the first answer stands.
            StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Err(self.refusal(CHECK_BLOB, refused).await)
            }
            _ => Err(self.refusal(CHECK_BLOB, response).await),
        }
    }

    /// The error for an answer that is no success. What turns out to be throttling slows the action down as a 429 does.
    async fn refusal(&self, operation: &'static str, response: Response) -> Error {
        let status = response.status();
        let error = failure::refusal(operation, &self.name, response).await;
        if error.retry() == Retry::Throttled && status != StatusCode::TOO_MANY_REQUESTS {
            self.pace.answered(operation, true);
        }
        error
    }

    /// The repository `name` of the same registry, with the same login.
    pub fn sibling(&self, name: impl Into<String>) -> Self {
        Self { name: name.into(), auth: self.auth.for_sibling(), ..self.clone() }
    }

    /// True if the registry has accepted the login at some time during this push.
    pub fn was_let_in(&self) -> bool {
        self.auth.was_accepted()
    }

    /// From now on a 403 to the reading of a manifest is a missing right, and no reason for a new token: this one was just accepted.
    pub fn need_no_token_to_read(&self) {
        self.auth.judge(READ_MANIFEST, StatusCode::FORBIDDEN);
    }

    /// True if there is a login.
    pub fn has_login(&self) -> bool {
        self.auth.has_login()
    }

    /// The manifest under a tag or digest, if there is one.
    ///
    /// # Errors
    /// If the registry refuses (status 403 when `ecr:BatchGetImage` is missing) or cannot be asked.
    pub async fn manifest(&self, reference: &str) -> Result<Option<Found>> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let operation = READ_MANIFEST;
        let request = |client: &reqwest::Client| {
            client.request(Method::GET, url.clone()).header(header::ACCEPT, MediaType::ACCEPT).timeout(ASKED)
        };
        let response = self.send(operation, request).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.refusal(operation, response).await);
        }
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let read = whole(response, MANIFEST_LIMIT).await;
        let bytes = read.map_err(|error| self.unanswered(operation, &error))?;
        let Some(bytes) = bytes else {
            return Err(Error::new(Side::Destination, operation, format!("the manifest at {reference} is over 4 MiB")));
        };
        let digest = Digest::of(&bytes);
        Ok(Some(Found { digest, manifest: Manifest::parse(bytes, media_type.as_deref()).ok() }))
    }

    /// Puts a manifest under a tag or its digest. Answers nothing: a registry that stored something else under our name
    /// is an error.
    ///
    /// # Errors
    /// If the registry refuses or cannot be asked.
    pub async fn put_manifest(&self, reference: &str, manifest: &Manifest) -> Result<()> {
        let url = self.url(&format!("manifests/{reference}"))?;
        let operation = PUT_MANIFEST;
        let request = |client: &reqwest::Client| {
            client
                .request(Method::PUT, url.clone())
                .header(header::CONTENT_TYPE, &manifest.media_type)
                .body(manifest.bytes.clone())
                .timeout(ANSWER)
        };
        let response = self.send(operation, request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(operation, response).await);
        }
        let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        // The header is missing at times (ecr-facts 4.6); if it is there, it must be ours.
        match told {
            Some(told) if told != manifest.digest.to_string() => {
                Err(stored_wrong(operation, reference, told, &manifest.digest))
            }
            Some(_) => Ok(()),
            None => self.confirm(reference, manifest).await,
        }
    }

    /// True if a manifest was sent since the last time this was asked, and no answer came to it: the registry may have taken it.
    pub fn lost_an_answer(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Asks for a manifest that the registry took without saying what it stored: it may have been somebody else who answered.
    async fn confirm(&self, reference: &str, manifest: &Manifest) -> Result<()> {
        match self.manifest(&manifest.digest.to_string()).await {
            Ok(Some(found)) if found.digest == manifest.digest => Ok(()),
            Ok(_) => {
                let text = format!("{} accepted the manifest at {reference}, and does not have it", self.host());
                Err(Error::new(Side::Destination, PUT_MANIFEST, text)
                    .with_retry(Retry::Brief)
                    .with_hint("a proxy, gateway or login page may have answered in the place of the registry"))
            }
            // Who may not read can push without.
            Err(error) if matches!(error.status(), Some(401 | 403 | 405)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The answer. When it is late, that is said once.
    async fn awaited(&self, operation: &str, request: RequestBuilder) -> reqwest::Result<Response> {
        let mut sent = std::pin::pin!(request.send());
        if let Ok(answer) = tokio::time::timeout(LATE, sent.as_mut()).await {
            return answer;
        }
        self.events.notice(format!("{} has not answered to `{operation}` for {} s", self.host(), LATE.as_secs()));
        sent.await
    }

    /// `with` is true if a credential went along.
    fn note_answer(&self, operation: &'static str, response: &Response, with: bool) {
        let status = response.status();
        if let Some(peer) = response.remote_addr() {
            self.link.note_peer(peer);
        }
        self.http.note_answer(&self.base);
        self.pace.answered(operation, status == StatusCode::TOO_MANY_REQUESTS);
        // Any other status may come from somebody on the way who never looked at it.
        if with && (status.is_success() || status == StatusCode::NOT_FOUND) {
            self.auth.note_accepted();
        }
    }

    /// A request that got no answer.
    fn unanswered(&self, operation: &str, error: &reqwest::Error) -> Error {
        self.http.unanswered(Side::Destination, operation, error, &self.base)
    }

    /// Sends a request with authentication. A kept connection that was closed before any answer is replayed once; a
    /// credential that is not accepted is renewed once.
    async fn send(
        &self,
        operation: &'static str,
        build: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response> {
        let mut renewed = false;
        let mut replayed = false;
        loop {
            self.pace.turn(operation).await;
            let credential = self.auth.credential().await?;
            let generation = credential.as_ref().map_or(0, |credential| credential.generation);
            let with = credential.is_some();
            let mut request = build(self.http.client_for(&self.base));
            if let Some(credential) = credential {
                request = request.header(header::AUTHORIZATION, credential.header);
            }
            let is_manifest = operation == PUT_MANIFEST;
            // A manifest has to be taken in before it is answered.
            if let Some(limit) = self.http.first_try(&self.base, is_manifest) {
                request = request.timeout(limit);
            }
            // Lost until an answer comes, should nobody wait for it any more.
            let lost = self.lost.fetch_or(is_manifest, Ordering::Relaxed);
            let answer = self.awaited(operation, request).await;
            if is_manifest && answer.as_ref().err().is_none_or(reqwest::Error::is_connect) {
                self.lost.store(lost, Ordering::Relaxed);
            }
            let response = match answer {
                Ok(response) => response,
                Err(error) if !replayed && closed_before_answer(&error) => {
                    replayed = true;
                    continue;
                }
                Err(error) => return Err(self.unanswered(operation, &error)),
            };
            self.note_answer(operation, &response, with);
            if renewed {
                self.auth.judge(operation, response.status());
            }
            let refused = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if !refused || renewed {
                return Ok(response);
            }
            let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
            let challenges: Vec<String> =
                challenges.iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
            if !self.auth.renew(&self.http, &self.name, operation, generation, response.status(), &challenges).await? {
                return Ok(response);
            }
            renewed = true;
        }
    }
}

/// The registry says that it holds something else than was sent. An answer of somebody else, such as a proxy's old one, may pass.
fn stored_wrong(operation: &str, what: &str, told: &str, sent: &Digest) -> Error {
    let text = format!("the registry stored {what} as {told}, but {sent} was sent");
    Error::new(Side::Destination, operation, text).with_retry(Retry::Brief).with_hint(
        "something on the way changes what is sent or answered: try without the proxy, or ask who runs the registry",
    )
}

/// The body of an answer, unless it has over `most` bytes.
async fn whole(mut response: Response, most: usize) -> reqwest::Result<Option<Bytes>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.into()))
}

/// True if a kept connection was closed by the far side before it answered: the request was most likely never read.
fn closed_before_answer(error: &reqwest::Error) -> bool {
    if error.is_timeout() || error.is_connect() {
        return false;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<hyper::Error>() {
            return inner.is_incomplete_message() || inner.is_closed() || inner.is_canceled();
        }
        cause = inner.source();
    }
    false
}

/// The verdict on an answer by its status (ecr-facts 4.2, section 12).
fn retry_for(status: StatusCode) -> Retry {
    match status.as_u16() {
        429 => Retry::Throttled,
        401 => Retry::NewToken,
        408 | 499 | 500 | 502 | 503 | 504 | 522 => Retry::Backoff,
        _ => Retry::Never,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http::HttpSettings;
    use crate::retry::Overlap;
    use crate::source::Content;

    #[tokio::test]
    async fn a_refusal_that_does_not_end_is_one_by_its_status() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base: Url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 1000\r\n\r\nbusy").await.unwrap();
            // The rest never comes, and the connection stays.
            std::future::pending::<()>().await;
        });
        let http = Http::new(&HttpSettings::default()).unwrap();
        let pace = Pace::new(&[], &Overlap::default());
        let auth = Auth::asked(None, &Events::none());
        let repository = Repository::new(http, base.clone(), "team/app", auth, pace, &Events::none());
        let session = base.join("/v2/team/app/blobs/uploads/1").unwrap();
        let content = Content::Memory(Bytes::from_static(b"blob"));
        let upload = repository.upload(Digest::of(b"blob"), &content, false, Some(session), Arc::new(|_| {}));
        let answer = tokio::time::timeout(Duration::from_secs(60), upload).await;
        let error = answer.expect("it ends").unwrap_err();
        assert_eq!((error.status(), error.retry()), (Some(503), Retry::Backoff));
        assert!(error.message().contains("busy"), "{error}");
    }

    #[tokio::test]
    async fn a_name_that_was_resolved_before_is_waited_for() {
        let http = Http::new(&HttpSettings::default()).unwrap();
        let base: Url = "http://registry.invalid/".parse().unwrap();
        let pace = Pace::new(&[], &Overlap::default());
        let repository =
            Repository::new(http, base, "team/app", Auth::asked(None, &Events::none()), pace, &Events::none());
        let verdict = || async { repository.start_upload().await.unwrap_err().retry() };
        assert_eq!(verdict().await, Retry::Brief, "most likely a wrong name");
        repository.note_answer(CHECK_BLOB, &http::Response::new("").into(), false);
        assert_eq!(verdict().await, Retry::Backoff, "an outage");
    }
}
