//! What was asked of the server, so that tests can count it.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::util::{epoch, lock};

/// A request the server saw.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The HTTP method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The API operation it is or stands for; `STS` for all of STS; empty if it is none.
    pub operation: String,
    /// The status answered; `None` while there is no answer, or if the connection ended without one.
    pub status: Option<u16>,
    /// Bytes of the body the server read.
    pub body_bytes: u64,
    /// The ARN of the principal, once known.
    pub principal: Option<String>,
    /// When its head arrived.
    pub at: SystemTime,
    /// How long it took to answer.
    pub duration: Option<Duration>,
}

impl RecordedRequest {
    /// All of it as JSON: times in seconds, `at` since 1970.
    pub fn to_json(&self) -> Value {
        json!({
            "method": self.method,
            "path": self.path,
            "operation": self.operation,
            "status": self.status,
            "body_bytes": self.body_bytes,
            "principal": self.principal,
            "at": epoch(self.at),
            "duration": self.duration.map(|duration| duration.as_secs_f64()),
        })
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Entry {
    method: String,
    path: String,
    operation: String,
    status: AtomicU16,
    body_bytes: AtomicU64,
    principal: Mutex<Option<String>>,
    at: SystemTime,
    started: Instant,
    duration: Mutex<Option<Duration>>,
}

impl Entry {
    pub fn add_body_bytes(&self, bytes: u64) {
        self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
        *lock(&self.duration) = Some(self.started.elapsed());
    }

    pub fn is_from(&self, principal: &str) {
        *lock(&self.principal) = Some(principal.to_owned());
    }

    fn snapshot(&self) -> RecordedRequest {
        RecordedRequest {
            method: self.method.clone(),
            path: self.path.clone(),
            operation: self.operation.clone(),
            status: Some(self.status.load(Ordering::Relaxed)).filter(|&status| status != 0),
            body_bytes: self.body_bytes.load(Ordering::Relaxed),
            principal: lock(&self.principal).clone(),
            at: self.at,
            duration: *lock(&self.duration),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Recorder(Mutex<Vec<Arc<Entry>>>);

impl Recorder {
    pub fn begin(&self, method: &str, path: &str, operation: &str) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            method: method.to_owned(),
            path: path.to_owned(),
            operation: operation.to_owned(),
            status: AtomicU16::new(0),
            body_bytes: AtomicU64::new(0),
            principal: Mutex::new(None),
            at: SystemTime::now(),
            started: Instant::now(),
            duration: Mutex::new(None),
        });
        lock(&self.0).push(Arc::clone(&entry));
        entry
    }

    pub fn snapshot(&self) -> Vec<RecordedRequest> {
        lock(&self.0).iter().map(|entry| entry.snapshot()).collect()
    }

    pub fn clear(&self) {
        lock(&self.0).clear();
    }
}
