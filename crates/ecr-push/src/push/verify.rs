//! After a push: reads everything back and checks every digest.

use std::collections::HashSet;

use super::destination::Destination;
use super::{PushReport, PushRequest};
use crate::error::{Error, Result, Side};
use crate::events::Events;
use crate::http::Http;
use crate::image::{Digest, Kind};
use crate::retry::RetryBudget;
use crate::text::count;

/// What was read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Manifests and indexes.
    pub manifests: usize,
    /// Config and layer blobs.
    pub blobs: usize,
    /// Bytes of the blobs.
    pub bytes: u64,
}

/// Reads back what `report` says was pushed for `request`: each tag, each manifest, each blob.
///
/// # Errors
/// If anything is missing or has another digest.
pub async fn verify(request: &PushRequest, report: &PushReport) -> Result<Verified> {
    let http = Http::new(&request.http)?.with_budget(request.retry_budget);
    let none = Events::none();
    let retry = RetryBudget::new(request.retry_budget, none.clone());
    let destination =
        Destination::open(&request.destination, &http, &request.aws, &request.docker_config, &retry, &none).await?;
    let repository = &destination.repository;
    let lost = |what: String| Error::new(Side::Destination, "verify", what);
    for tag in &report.tags {
        let found =
            repository.manifest(tag.as_str()).await?.ok_or_else(|| lost(format!("the tag `{tag}` is not there")))?;
        if found.digest != report.digest {
            return Err(lost(format!("the tag `{tag}` points at {}, not at {}", found.digest, report.digest)));
        }
    }
    let mut verified = Verified::default();
    let mut open = vec![report.digest];
    let mut seen: HashSet<Digest> = HashSet::new();
    while let Some(digest) = open.pop() {
        if !seen.insert(digest) {
            continue;
        }
        let found = repository.manifest(&digest.to_string()).await?;
        let manifest = found.and_then(|found| found.manifest).filter(|manifest| manifest.digest == digest);
        let manifest = manifest.ok_or_else(|| lost(format!("the manifest {digest} is not there")))?;
        verified.manifests += 1;
        if let Kind::Index { entries } = &manifest.kind {
            open.extend(entries.iter().map(|entry| entry.descriptor.digest));
        }
        for blob in manifest.blobs() {
            if !seen.insert(blob.digest) {
                continue;
            }
            let size = repository.verify_blob(&blob.digest).await?;
            if size != blob.size {
                return Err(lost(format!(
                    "{} has {}, and the manifest says {}",
                    blob.digest,
                    count(size, "byte", "bytes"),
                    blob.size
                )));
            }
            verified.blobs += 1;
            verified.bytes += size;
        }
    }
    Ok(verified)
}
