//! a stand-in for the instance metadata service, version 2.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::auth::Principal;
use crate::config::{Imds, ImdsMode};
use crate::engine::Engine;
use crate::http::{Request, Response, ResponseExt, answer};
use crate::util::{iso8601, lock, random_hex};

const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// Where the service of an instance is, for clients that are led here from there.
pub(crate) const ADDRESSES: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// The service beside one server.
pub(crate) struct Metadata {
    engine: Arc<Engine>,
    config: Imds,
    tokens: Mutex<HashMap<String, Instant>>,
}

impl Metadata {
    pub fn new(engine: Arc<Engine>, config: Imds) -> Self {
        Self { engine, config, tokens: Mutex::default() }
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Serves a request. `Err` is a connection that ends without an answer.
    pub async fn serve(&self, request: Request) -> std::io::Result<Response> {
        match self.config.mode {
            ImdsMode::Disabled => return Ok(plain(403, "")),
            ImdsMode::Hang => {
                let mut shutdown = self.engine.shutdown.clone();
                let _ = shutdown.wait_for(|stop| *stop).await;
                return Err(std::io::Error::other("the server ends"));
            }
            ImdsMode::NoRole | ImdsMode::Normal => {}
        }
        if request.path == "/latest/api/token" {
            return Ok(self.token(&request));
        }
        let token = request.header("x-aws-ec2-metadata-token").unwrap_or_default();
        if lock(&self.tokens).get(token).is_none_or(|ends| *ends <= Instant::now()) {
            return Ok(plain(401, "Unauthorized"));
        }
        if request.method != "GET" {
            return Ok(plain(405, "Method Not Allowed"));
        }
        Ok(self.read(&request.path))
    }

    fn token(&self, request: &Request) -> Response {
        if request.method != "PUT" {
            return plain(405, "Method Not Allowed");
        }
        // A request that came through a proxy is not from this machine.
        if request.headers.contains_key("x-forwarded-for") {
            return plain(403, "Forbidden");
        }
        let Some(ttl @ 1..=21_600) = request.header(TTL_HEADER).and_then(|ttl| ttl.parse::<u64>().ok()) else {
            return plain(400, "Bad Request");
        };
        let token = random_hex(28);
        lock(&self.tokens).insert(token.clone(), Instant::now() + Duration::from_secs(ttl));
        plain(200, token).header(TTL_HEADER, ttl.to_string())
    }

    fn read(&self, path: &str) -> Response {
        let config = &self.engine.config;
        let role = Some(&self.config.role).filter(|_| self.config.mode == ImdsMode::Normal);
        match (path, role) {
            ("/latest/meta-data/placement/region", _) => plain(200, config.region.clone()),
            ("/latest/meta-data/placement/availability-zone", _) => plain(200, format!("{}a", config.region)),
            ("/latest/dynamic/instance-identity/document", _) => {
                let document = json!({
                    "accountId": config.account,
                    "availabilityZone": format!("{}a", config.region),
                    "instanceId": "i-0123456789abcdef0",
                    "region": config.region,
                    "version": "2017-09-30",
                });
                plain(200, document.to_string())
            }
            ("/latest/meta-data/iam/security-credentials" | ROLES, Some(role)) => plain(200, role.clone()),
            (path, Some(role)) if path.strip_prefix(ROLES) == Some(role) => self.credentials(role),
            _ => plain(404, "Not Found"),
        }
    }

    fn credentials(&self, role: &str) -> Response {
        let principal = Principal::role(&self.engine.config.account, role, "i-0123456789abcdef0");
        let session = self.engine.identities.session(principal, self.config.credentials_ttl);
        let document = json!({
            "Code": "Success",
            "LastUpdated": iso8601(SystemTime::now()),
            "Type": "AWS-HMAC",
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": iso8601(session.expires),
        });
        plain(200, document.to_string())
    }
}

fn plain(status: u16, body: impl Into<bytes::Bytes>) -> Response {
    answer(status, body).header("content-type", "text/plain")
}
