//! What went wrong between us and the engine, in the user's words.

use std::future::Future;
use std::io;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use tokio::time::timeout;

use crate::error::{Error, Result, Retry, Side};

/// Waits for a call, and no longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    operation: &str,
    origin: &str,
    call: impl Future<Output = std::result::Result<T, BollardError>>,
) -> Result<T> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| failed(operation, origin, error)),
        Err(_) => {
            let message = format!("the engine at {origin} did not answer within {} s", limit.as_secs());
            Err(Error::new(Side::Source, operation, message)
                .with_retry(Retry::Backoff)
                .with_hint("is the engine busy or hung?"))
        }
    }
}

/// The failure of a call to the engine at `origin`.
pub(super) fn failed(operation: &str, origin: &str, error: BollardError) -> Error {
    let new = |message: String| Error::new(Side::Source, operation, message);
    let other_engine = "name another engine by its address or by a docker context";
    match error {
        BollardError::DockerResponseServerError { status_code, message } => {
            let tls = message.contains("HTTP request to an HTTPS server");
            let error = new(format!("the engine at {origin} answered {status_code}: {}", message.trim()));
            let error = error.with_status(status_code);
            if tls {
                error.with_hint("this engine speaks TLS: set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH")
            } else {
                error
            }
        }
        BollardError::IOError { err } => {
            let hint = match err.kind() {
                io::ErrorKind::PermissionDenied => {
                    "add your user to the engine's group (`docker`) and log in again, or run as a user who may use it"
                }
                io::ErrorKind::ConnectionRefused => "nothing listens there: start the engine",
                io::ErrorKind::NotFound => "start the engine, or correct the address",
                io::ErrorKind::TimedOut => "check the address, and that a firewall lets it through",
                io::ErrorKind::InvalidData => {
                    "TLS failed: ca.pem in DOCKER_CERT_PATH (or in the context) must be what signed the engine's certificate"
                }
                _ if err.to_string().contains("command not found") => {
                    "`docker system dial-stdio` must be runnable over ssh on that machine"
                }
                _ => "check that the address is right and the engine runs",
            };
            let retry = match err.kind() {
                io::ErrorKind::TimedOut => Retry::Backoff,
                _ => Retry::Never,
            };
            new(format!("the engine at {origin} cannot be reached: {err}"))
                .with_retry(retry)
                .with_hint(hint)
                .with_hint(other_engine)
                .with_source(err)
        }
        error @ (BollardError::JsonDataError { .. } | BollardError::JsonSerdeError { .. }) => {
            new(format!("the answer of the engine at {origin} cannot be understood: {error}")).with_source(error)
        }
        error => {
            let text = chain(&error);
            let client_certificate = text.contains("CertificateRequired");
            let error = new(format!("the engine at {origin} gave no answer: {text}")).with_source(error);
            if client_certificate {
                error.with_hint("put the client's cert.pem and key.pem into DOCKER_CERT_PATH")
            } else {
                error.with_hint("is it an engine that listens there, and does it want TLS (DOCKER_TLS_VERIFY)?")
            }
        }
    }
}

/// An error with its causes; hyper keeps the reason in the cause.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
