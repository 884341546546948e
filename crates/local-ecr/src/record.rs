//! The record of requests as a file.

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use local_ecr::RecordedRequest;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// How old the file may be while the server runs.
const INTERVAL: Duration = Duration::from_millis(200);

/// What is written.
#[derive(PartialEq, Eq)]
pub struct Record(Value);

impl Record {
    pub fn new(hits: usize, requests: &[RecordedRequest]) -> Self {
        let requests: Vec<Value> = requests.iter().map(RecordedRequest::to_json).collect();
        Self(json!({ "hits": hits, "requests": requests }))
    }
}

/// Waits for the end, and keeps the file up to date until then and once more after it. The error is one sentence.
pub async fn keep(path: Option<&Path>, stop: impl Future<Output = ()>, now: impl Fn() -> Record) -> Result<(), String> {
    let Some(path) = path else {
        stop.await;
        return Ok(());
    };
    let mut stop = std::pin::pin!(stop);
    let mut last = None;
    let mut done = false;
    loop {
        let record = now();
        if last.as_ref() != Some(&record) {
            write(path, &record).map_err(|error| format!("cannot write the record {}: {error}", path.display()))?;
            last = Some(record);
        }
        if done {
            return Ok(());
        }
        tokio::select! {
            () = &mut stop => done = true,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// A reader sees the old or the new one, never half of it.
fn write(path: &Path, record: &Record) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(record.0.to_string().as_bytes())?;
    file.persist(path)?;
    Ok(())
}
