//! The last step: manifests by digest, children before their index, then the tags, `latest` last.

use std::time::Duration;

use super::destination::Destination;
use super::plan::{Identity, TagState, moved};
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::image::{Digest, Manifest, Tag};
use crate::retry::RetryBudget;

/// How often a manifest is put again while the registry says that it has all blobs but does not see them (ecr-facts 4.6), or not whole.
const LAG_TRIES: usize = 3;

/// How often the manifests an index names are put again when the registry does not see them.
const CHILD_TRIES: usize = 2;

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
    put_children(destination, children, retry).await?;
    for child in children {
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
        events.emit(Event::Publishing { tag: tag.clone() });
        destination.repository.lost_an_answer();
        let mut put_root = put(destination, &tag, root, retry).await;
        for _ in 0..CHILD_TRIES {
            // Every blob is there: it is a child that is gone.
            if children.is_empty() || !put_root.as_ref().is_err_and(is_unseen) {
                break;
            }
            put_children(destination, children, retry).await?;
            put_root = put(destination, &tag, root, retry).await;
        }
        let Err(error) = put_root else {
            events.emit(published(false));
            continue;
        };
        if !is_immutable_refusal(&error) {
            let error = match destination.repository.lost_an_answer() {
                true => error.with_hint(format!("the tag `{tag}` may point at the image already: an answer was lost")),
                false => error,
            };
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

async fn put_children(destination: &Destination, children: &[Manifest], retry: &RetryBudget) -> Result<()> {
    for child in children {
        put(destination, &child.digest.to_string(), child, retry).await.map_err(|error| destination.explain(error))?;
    }
    Ok(())
}

/// The codes for that.
const UNSEEN: [&str; 5] =
    ["BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN", "MANIFEST_UNKNOWN", "DIGEST_INVALID"];

/// The refusal after everything was sent again as often as makes sense.
pub(super) fn lost_again(error: Error) -> Error {
    if error.retry() != Retry::Resend && !is_unseen(&error) {
        return error;
    }
    error.with_hint(
        "what the registry lacks was sent again, and is lost again: look at its storage, and at who deletes from the repository",
    )
}

/// True if the registry says that something is missing which the manifest names. The last one: the digest is right, so the registry has
/// read what a neighbour is just writing of the same manifest, as docker-registry does on a file system.
fn is_unseen(error: &Error) -> bool {
    error.retry() != Retry::Resend && error.code().is_some_and(|code| UNSEEN.contains(&code))
}

/// Puts a manifest. If the registry does not see a blob that it names, it is asked for each of them anew: those that are gone must be sent
/// again ([`Retry::Resend`]), and while none is, it only lags behind.
async fn put(destination: &Destination, reference: &str, manifest: &Manifest, retry: &RetryBudget) -> Result<()> {
    let mut left = LAG_TRIES;
    loop {
        let result = retry.run("put manifest", || destination.repository.put_manifest(reference, manifest)).await;
        let Err(error) = result else { return Ok(()) };
        if !is_unseen(&error) {
            return Err(error);
        }
        let blobs: Vec<Digest> = manifest.blobs().map(|blob| blob.digest).collect();
        let gone = destination.gone(&blobs, retry).await?;
        if let Some(first) = gone.first() {
            let others = match gone.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let text =
                format!("the registry has lost {first}{others} since it was confirmed, and refuses the manifest");
            return Err(error.reworded(text).with_retry(Retry::Resend));
        }
        if left == 0 {
            return Err(error.with_hint(
                "the registry misses something that the manifest names, and has each of it when it is asked: push again; if it stays \
                 so, its storage is damaged",
            ));
        }
        let _waiting = retry.waits().hold();
        tokio::time::sleep(Duration::from_millis(200 << (LAG_TRIES - left))).await;
        left -= 1;
    }
}
