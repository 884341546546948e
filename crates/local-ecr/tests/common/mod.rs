//! A tiny client for both doors.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::time::{Duration, SystemTime};

use local_ecr::{Config, LocalEcr, Mutability, RepositorySnapshot};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const REPOSITORY: &str = "team/app";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MIB: usize = 1 << 20;

pub struct Ecr {
    pub server: LocalEcr,
    pub http: Client,
    pub token: String,
    pub key: String,
}

impl std::ops::Deref for Ecr {
    type Target = LocalEcr;
    fn deref(&self) -> &LocalEcr {
        &self.server
    }
}

/// A server with one repository, whose tags may be moved.
pub async fn ecr() -> Ecr {
    start(Config::default()).await
}

pub async fn start(config: Config) -> Ecr {
    let server = LocalEcr::start(config).await.unwrap();
    if server.repository(REPOSITORY).is_none() {
        server.create_repository(REPOSITORY, Mutability::mutable()).unwrap();
    }
    let token = server.authorization_token("alice");
    Ecr { server, http: client(), token, key: "alice".into() }
}

pub fn client() -> Client {
    // Redirects are what some tests are about.
    Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Ecr {
    /// A request to the registry with the password.
    pub fn v2(&self, method: &str, path: &str) -> RequestBuilder {
        self.bare(method, &format!("/v2/{path}")).header("authorization", format!("Basic {}", self.token))
    }

    pub fn bare(&self, method: &str, path: &str) -> RequestBuilder {
        let url = match path.starts_with("http") {
            true => path.to_owned(),
            false => format!("{}{path}", self.endpoint_url()),
        };
        self.http.request(Method::from_bytes(method.as_bytes()).unwrap(), url)
    }

    pub async fn api(&self, operation: &str, input: Value) -> (u16, Value) {
        let (date, authorization) = unsigned(&self.key, "us-east-1", "ecr");
        let response = self
            .bare("POST", "/")
            .header("x-amz-target", format!("AmazonEC2ContainerRegistry_V20150921.{operation}"))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-date", date)
            .header("authorization", authorization)
            .body(input.to_string())
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), json_of(response).await)
    }

    /// The answer of a call that has to work.
    pub async fn call(&self, operation: &str, input: Value) -> Value {
        let (status, answer) = self.api(operation, input).await;
        assert_eq!(status, 200, "{operation}: {answer}");
        answer
    }

    /// The exception and message of a call that must not work.
    pub async fn refused(&self, operation: &str, input: Value) -> (String, String) {
        let (status, answer) = self.api(operation, input).await;
        assert_ne!(status, 200, "{operation} worked");
        (text(&answer["__type"]), text(&answer["message"]))
    }

    /// Opens a session and returns its address.
    pub async fn session(&self) -> String {
        let response = self.v2("POST", &format!("{REPOSITORY}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(response.status(), 202);
        location(&response)
    }

    /// A request to an address that the server gave.
    pub fn at(&self, method: &str, url: &str) -> RequestBuilder {
        self.bare(method, url).header("authorization", format!("Basic {}", self.token))
    }

    pub async fn push_blob(&self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        // Whatever host the session is on: it is this server.
        let session = self.session().await;
        let path = session.splitn(4, '/').nth(3).unwrap();
        let url = format!("{}/{path}?digest={digest}", self.endpoint_url());
        let response = self.at("PUT", &url).body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(response.status(), 201);
        digest
    }

    /// A manifest of one config and one layer, both pushed.
    pub async fn image(&self, salt: &str) -> Value {
        let config = format!("{{\"salt\":\"{salt}\"}}");
        let layer = format!("layer {salt}");
        self.push_blob(config.as_bytes()).await;
        self.push_blob(layer.as_bytes()).await;
        manifest(config.as_bytes(), layer.as_bytes())
    }

    pub async fn put_manifest(&self, reference: &str, media_type: &str, bytes: impl Into<Vec<u8>>) -> Response {
        self.v2("PUT", &format!("{REPOSITORY}/manifests/{reference}"))
            .header("content-type", media_type)
            .body(bytes.into())
            .send()
            .await
            .unwrap()
    }

    /// Pushes an image under a tag and returns its digest.
    pub async fn push_image(&self, tag: &str) -> String {
        let manifest = self.image(tag).await.to_string();
        let response = self.put_manifest(tag, OCI_MANIFEST, manifest.clone()).await;
        assert_eq!(response.status(), 201);
        digest(manifest.as_bytes())
    }

    pub fn snapshot(&self) -> RepositorySnapshot {
        self.repository(REPOSITORY).unwrap()
    }
}

/// `20260131T123456Z`, so many seconds from now.
pub fn amz_date(ahead: i64) -> String {
    let by = Duration::from_secs(ahead.unsigned_abs());
    let now = SystemTime::now();
    let shown = httpdate::fmt_http_date(if ahead < 0 { now - by } else { now + by });
    // `Sat, 31 Jan 2026 12:34:56 GMT`
    let words: Vec<_> = shown.split(' ').collect();
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == words[2]).unwrap() + 1;
    format!("{}{month:02}{}T{}Z", words[3], words[1], words[4].replace(':', ""))
}

/// The headers `X-Amz-Date` and `Authorization` of now, with a signature that nobody made.
pub fn unsigned(key: &str, region: &str, service: &str) -> (String, String) {
    let date = amz_date(0);
    let scope = format!("{key}/{}/{region}/{service}/aws4_request", &date[..8]);
    let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00");
    (date, authorization)
}

pub fn manifest(config: &[u8], layer: &[u8]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(layer), "size": layer.len() }],
    })
}

pub fn location(response: &Response) -> String {
    header(response, "location").expect("a Location")
}

pub fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
}

pub async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Status, code and message of an error of the registry.
pub async fn error_of(response: Response) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body = json_of(response).await;
    (status, text(&body["errors"][0]["code"]), text(&body["errors"][0]["message"]))
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn error(status: u16, code: &str, message: &str) -> (u16, String, String) {
    (status, code.to_owned(), message.to_owned())
}
