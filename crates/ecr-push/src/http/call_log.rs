//! The log of the calls to AWS: one line for each try, and at `trace` what was sent and answered, without secrets.
//!
//! Bodies are never logged: those of STS and of the metadata services hold credentials, that of ECR a token.

use std::fmt;
use std::time::Instant;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tracing::Level;

/// The targets, by which a log shows them or not.
const CALL: &str = "ecr_push::aws";
const REQUEST: &str = "ecr_push::aws::request";
const RESPONSE: &str = "ecr_push::aws::response";

/// Parts of the names of headers whose values are not shown.
const SENSITIVE: [&str; 7] = ["authorization", "cookie", "credential", "password", "secret", "signature", "token"];

/// One try, from its start.
pub(super) struct Call {
    method: String,
    host: String,
    operation: String,
    started: Instant,
}

impl Call {
    /// Begins with the request, which is logged. `None` if nobody listens.
    pub(super) fn begin(request: &reqwest::Request) -> Option<Self> {
        if !tracing::enabled!(target: CALL, Level::DEBUG) {
            return None;
        }
        let call = Self {
            method: request.method().to_string(),
            host: super::error::shown_host(request.url()),
            operation: operation(request),
            started: Instant::now(),
        };
        tracing::trace!(
            target: REQUEST,
            method = call.method,
            host = call.host,
            path = shown_path(request),
            headers = %Shown(request.headers()),
            "request"
        );
        Some(call)
    }

    /// Ends with the head of the answer.
    pub(super) fn answered(&self, status: u16, headers: &HeaderMap) {
        let id = ["x-amzn-requestid", "x-amz-request-id"].iter().find_map(|name| headers.get(*name)?.to_str().ok());
        tracing::debug!(
            target: CALL,
            method = self.method,
            host = self.host,
            operation = self.operation,
            status,
            request_id = id.unwrap_or("none"),
            ms = self.milliseconds(),
            "call"
        );
        tracing::trace!(target: RESPONSE, host = self.host, status, headers = %Shown(headers), "response");
    }

    /// Ends without an answer.
    pub(super) fn failed(&self, why: &str) {
        tracing::debug!(
            target: CALL,
            method = self.method,
            host = self.host,
            operation = self.operation,
            ms = self.milliseconds(),
            why,
            "call failed"
        );
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// `X-Amz-Target` of the JSON services, `Action` of STS, else the path, where that is no secret.
fn operation(request: &reqwest::Request) -> String {
    if let Some(target) = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()) {
        return target.to_owned();
    }
    let form = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(form);
    match pairs.find(|(name, _)| name == "Action") {
        Some((_, action)) => action.into_owned(),
        None => shown_path(request).to_owned(),
    }
}

/// Paths that AWS's services have. Any other was given to this machine alone: the address of a container's credentials is a secret, for
/// who knows it may have them.
const PUBLIC: [&str; 4] = ["/", "/federation/credentials", "/token", "/v1/credentials"];

fn shown_path(request: &reqwest::Request) -> &str {
    match request.url().path() {
        // Instance metadata.
        path if path.starts_with("/latest/") => path,
        path if PUBLIC.contains(&path) => path,
        _ => "/***",
    }
}

/// Headers with the values of the sensitive ones left out.
struct Shown<'a>(&'a HeaderMap);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{name}: {}", shown(name, value))?;
        }
        Ok(())
    }
}

fn shown<'a>(name: &HeaderName, value: &'a HeaderValue) -> &'a str {
    if value.is_sensitive() || SENSITIVE.iter().any(|part| name.as_str().contains(part)) {
        return "***";
    }
    value.to_str().unwrap_or("(not text)")
}
