//! Whether an image that the registry has is whole there.

use std::collections::HashSet;

use super::destination::Destination;
use crate::error::Result;
use crate::image::{Descriptor, Digest, Kind, Manifest};
use crate::retry::RetryBudget;
use crate::source::MAX_DOCUMENTS;

/// The blobs of an image or index that the registry has, if it has all of them: a manifest alone proves nothing where
/// blobs can be deleted.
pub(super) async fn whole(
    destination: &Destination,
    root: &Manifest,
    retry: &RetryBudget,
) -> Result<Option<Vec<Descriptor>>> {
    let Some(blobs) = blobs_of(destination, root, retry).await? else { return Ok(None) };
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let present = destination.present_of(&digests, retry).await?;
    Ok(digests.iter().all(|digest| present.contains_key(digest)).then_some(blobs))
}

/// Every blob of an image or index that the registry has. `None` if a child is not there, or there are more than any source may have.
pub(super) async fn blobs_of(
    destination: &Destination,
    root: &Manifest,
    retry: &RetryBudget,
) -> Result<Option<Vec<Descriptor>>> {
    let mut open = vec![root.clone()];
    let mut seen = HashSet::from([root.digest]);
    let mut blobs: Vec<Descriptor> = Vec::new();
    while let Some(manifest) = open.pop() {
        for blob in manifest.blobs() {
            if !blobs.iter().any(|known| known.digest == blob.digest) {
                blobs.push(blob.clone());
            }
        }
        let Kind::Index { entries } = &manifest.kind else { continue };
        for entry in entries {
            // Indexes may name each other's children again and again.
            if !seen.insert(entry.descriptor.digest) {
                continue;
            }
            if seen.len() > MAX_DOCUMENTS {
                return Ok(None);
            }
            let reference = entry.descriptor.digest.to_string();
            let found = retry.run("read manifest", || destination.repository.manifest(&reference)).await?;
            let child = found.filter(|found| found.digest == entry.descriptor.digest).and_then(|found| found.manifest);
            let Some(child) = child else { return Ok(None) };
            open.push(child);
        }
    }
    Ok(Some(blobs))
}
