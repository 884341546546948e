//! The last step: manifests by digest, children before their index, then the tags, `latest` last.

use std::time::Duration;

use super::destination::Destination;
use super::plan::{Identity, TagState, moved};
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::image::{Digest, Manifest, Tag};
use crate::retry::RetryBudget;

/// How often a manifest is put again when the registry does not see its blobs yet (ecr-facts 4.6), or not whole.
const LAG_TRIES: usize = 3;

/// Puts `manifests` (the last one is the root) and the tags. Answers the digest that each tag has: another one than the
/// root's where an immutable tag turned out to hold the same image in another packing.
pub(super) async fn publish(
    destination: &Destination,
    manifests: &[Manifest],
    identity: &Identity,
    tags: &[TagState],
    retry: &RetryBudget,
    events: &Events,
) -> Result<Vec<(Tag, Digest)>> {
    let Some((root, children)) = manifests.split_last() else {
        return Err(Error::new(Side::Source, "publish", "the source gave no manifest"));
    };
    for child in children {
        put(destination, &child.digest.to_string(), child, retry).await.map_err(|error| destination.explain(error))?;
        events.emit(Event::Published { digest: child.digest, tag: None, existed: false });
    }
    let mut digests: Vec<(Tag, Digest)> = tags.iter().map(|state| (state.tag.clone(), root.digest)).collect();
    for (state, (_, digest)) in tags.iter().zip(&mut digests) {
        let tag = state.tag.to_string();
        let published = |existed| Event::Published { digest: root.digest, tag: Some(tag.clone()), existed };
        if state.found.as_ref().is_some_and(|found| found.digest == root.digest) {
            events.emit(published(true));
            continue;
        }
        let error = match put(destination, &tag, root, retry).await {
            Ok(()) => {
                events.emit(published(false));
                continue;
            }
            Err(error) => error,
        };
        if !is_immutable_refusal(&error) {
            return Err(destination.explain(error));
        }
        // Somebody was faster, or the tag could not be read beforehand. The same image is success.
        let there = retry.run("read tag", || destination.repository.manifest(&tag)).await.ok().flatten();
        match there {
            Some(found) if identity.is(&found) => {
                *digest = found.digest;
                events.emit(Event::Published { digest: found.digest, tag: Some(tag.clone()), existed: true });
            }
            Some(found) => return Err(moved(&state.tag, &found, identity, &destination.uri)),
            None => {
                return Err(
                    error.with_hint("the tag cannot be read with these credentials, so the images cannot be compared")
                );
            }
        }
    }
    Ok(digests)
}

/// `TAG_INVALID` of the registry; the API's two names for it, as gateways pass them on (ecr-facts 4.6).
fn is_immutable_refusal(error: &Error) -> bool {
    matches!(error.code(), Some("TAG_INVALID" | "ImageTagAlreadyExistsException" | "ImageAlreadyExistsException"))
}

async fn put(destination: &Destination, reference: &str, manifest: &Manifest, retry: &RetryBudget) -> Result<()> {
    let mut left = LAG_TRIES;
    loop {
        let result = retry.run("put manifest", || destination.repository.put_manifest(reference, manifest)).await;
        let Err(error) = result else { return Ok(()) };
        // The last one: the digest is right, so the registry has read what a neighbour is just writing of the same manifest, as
        // docker-registry does on a file system.
        let unseen = matches!(
            error.code(),
            Some(
                "BLOB_UNKNOWN"
                    | "MANIFEST_BLOB_UNKNOWN"
                    | "BLOB_UPLOAD_UNKNOWN"
                    | "MANIFEST_UNKNOWN"
                    | "DIGEST_INVALID"
            )
        );
        if !unseen || left == 0 || error.retry() != Retry::Never {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(200 << (LAG_TRIES - left))).await;
        left -= 1;
    }
}
