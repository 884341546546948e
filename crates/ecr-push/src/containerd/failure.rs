//! What went wrong between us and containerd, in the user's words.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::messages::Method;
use super::proto::Malformed;
use crate::error::{Error, Result, Retry, Side};

/// The code of an error whose message says that something is not there.
pub(super) const NOT_FOUND: &str = "NotFound";

/// The names of gRPC's status codes, in order (grpc.io, "Status Codes").
const CODES: [&str; 17] = [
    "OK",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    NOT_FOUND,
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// Says in every sentence where containerd is and what was asked of it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub origin: String,
    pub operation: &'static str,
}

impl Failure {
    pub fn new(origin: &str, method: &Method) -> Self {
        Self { origin: origin.to_owned(), operation: method.operation }
    }

    /// Waits for `answer`, and no longer than `limit`.
    pub async fn within<T>(&self, limit: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
        timeout(limit, answer).await.unwrap_or_else(|_| Err(self.late(limit)))
    }

    /// Nothing came for `limit`.
    pub fn late(&self, limit: Duration) -> Error {
        self.error(format!("containerd at {} did not answer within {} s", self.origin, limit.as_secs()))
            .with_retry(Retry::Backoff)
            .with_hint("is containerd busy or hung, and is it containerd that listens there?")
    }

    /// The socket cannot be opened.
    pub fn unreachable(&self, error: io::Error) -> Error {
        let (why, hint) = match error.kind() {
            io::ErrorKind::PermissionDenied => (
                "this user may not use the socket (permission denied)".to_owned(),
                "run as root, or as a user who may use the socket",
            ),
            io::ErrorKind::NotFound => {
                ("there is no such socket".to_owned(), "start containerd, or correct the address")
            }
            io::ErrorKind::ConnectionRefused => ("nothing listens there".to_owned(), "start containerd"),
            _ => (error.to_string(), "check that the address is right and containerd runs"),
        };
        let retry = if error.kind() == io::ErrorKind::WouldBlock { Retry::Backoff } else { Retry::Never };
        self.error(format!("containerd at {} cannot be reached: {why}", self.origin))
            .with_retry(retry)
            .with_hint(hint)
            .with_source(error)
    }

    /// HTTP/2 failed: the connection or the stream ended, or it was no HTTP/2.
    pub fn broken(&self, error: h2::Error) -> Error {
        // h2 ends a connection by itself when a frame cannot be one, which is what another protocol looks like.
        if error.is_go_away() && error.is_library() {
            return self.foreign(&error.to_string()).with_source(error);
        }
        let message = if error.is_io() {
            format!("the connection to containerd at {} broke: {error}", self.origin)
        } else {
            format!("containerd at {} broke the call off: {error}", self.origin)
        };
        self.error(message)
            .with_retry(Retry::Backoff)
            .with_hint("was containerd stopped, and is it containerd that listens there?")
            .with_source(error)
    }

    /// What listens there is not containerd.
    pub fn foreign(&self, what: &str) -> Error {
        self.error(format!("what listens at {} does not speak gRPC: {what}", self.origin))
            .with_hint("name the socket of containerd; that of docker or of another engine is not one")
    }

    /// The answer makes no sense.
    pub fn nonsense(&self, what: &str) -> Error {
        self.error(format!("the answer of containerd at {} cannot be understood: {what}", self.origin))
    }

    /// The answer is no message.
    pub fn malformed(&self, error: Malformed) -> Error {
        self.nonsense(error.0).with_source(error)
    }

    /// containerd's own refusal. The error's code is the name of the gRPC code.
    pub fn status(&self, code: usize, message: &str) -> Error {
        let name = CODES.get(code).copied().unwrap_or("an unknown code");
        let error = self.error(format!("containerd at {} answered {name}: {message}", self.origin)).with_code(name);
        match name {
            "Unavailable" | "DeadlineExceeded" => error.with_retry(Retry::Backoff),
            "Unimplemented" => error.with_hint("is it containerd that listens there?"),
            _ => error,
        }
    }

    fn error(&self, message: String) -> Error {
        Error::new(Side::Source, self.operation, message)
    }
}
