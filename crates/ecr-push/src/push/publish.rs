//! The last step: manifests by digest, children before their index, then the tags, `latest` last.

use std::time::{Duration, Instant};

use super::destination::Destination;
use super::plan::{Identity, TagState, moved};
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::image::{Digest, Manifest, Tag};
use crate::registry::Found;
use crate::retry::RetryBudget;

/// What was read so long ago may not be so any more.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// How often a manifest is put again while the registry says that it has all blobs but does not see them (ecr-facts 4.6), or not whole.
const LAG_TRIES: usize = 3;

/// How often the manifests an index names are put again when the registry does not see them.
const CHILD_TRIES: usize = 2;

/// What it takes to put an image and its tags.
pub(super) struct Publish<'a> {
    pub(super) destination: &'a Destination,
    /// The last one is the root, which the tags will point at.
    pub(super) manifests: &'a [Manifest],
    pub(super) identity: &'a Identity,
    /// How long to wait until tags can be read back. None: not at all.
    pub(super) wait: Option<Duration>,
    pub(super) retry: &'a RetryBudget,
    pub(super) events: &'a Events,
}

/// A tag, and what it points at as far as this push knows.
#[derive(Clone, Debug)]
pub(super) struct Point {
    pub(super) tag: Tag,
    /// The root, or where an immutable tag holds the same image in another packing, that.
    pub(super) found: Found,
    /// When it was last read to be so, or asked for.
    pub(super) seen: Option<Instant>,
    /// True if this push has put it.
    pub(super) is_put: bool,
}

impl Publish<'_> {
    /// Puts the manifests and the tags. Answers what each tag points at when this ends.
    pub(super) async fn run(&self, tags: &[TagState]) -> Result<Vec<Point>> {
        let Some((root, children)) = self.manifests.split_last() else {
            return Err(Error::new(Side::Source, "publish", "the source gave no manifest"));
        };
        put_children(self.destination, children, self.retry).await?;
        for child in children {
            self.events.emit(Event::Published { digest: child.digest, tag: None, existed: false });
        }
        let mut points = Vec::new();
        for state in tags {
            let point = match self.already(root, state).await {
                Some(point) => {
                    self.published(&point, true);
                    point
                }
                None => self.put_tag(&state.tag).await?,
            };
            points.push(point);
        }
        self.confirm(&mut points).await?;
        Ok(points)
    }

    fn published(&self, point: &Point, existed: bool) {
        let (digest, tag) = (point.found.digest, Some(point.tag.to_string()));
        self.events.emit(Event::Published { digest, tag, existed });
    }

    /// The tag, if it points at the image already, or at another packing of it and cannot move. What was read a while ago is read again.
    async fn already(&self, root: &Manifest, state: &TagState) -> Option<Point> {
        let is_there = |found: &&Found| found.digest == root.digest || state.immutable && self.identity.is(found);
        let found = state.found.as_ref().filter(is_there)?;
        let (found, seen) = match state.read_at.filter(|at| at.elapsed() < FRESH) {
            Some(at) => (found.clone(), at),
            None => {
                let at = Instant::now();
                let read = || self.destination.repository.manifest(state.tag.as_str());
                // If it cannot be read any more, it is put.
                let again = self.retry.run("read tag", read).await.ok().flatten();
                (again.filter(|again| is_there(&again))?, at)
            }
        };
        Some(Point { tag: state.tag.clone(), found, seen: Some(seen), is_put: false })
    }

    /// Puts one tag.
    pub(super) async fn put_tag(&self, tag: &Tag) -> Result<Point> {
        let Some((root, children)) = self.manifests.split_last() else {
            return Err(Error::new(Side::Source, "publish", "the source gave no manifest"));
        };
        let (destination, retry, name) = (self.destination, self.retry, tag.as_str());
        self.events.emit(Event::Publishing { tag: name.to_owned() });
        destination.repository.lost_an_answer();
        let mut put_root = put(destination, name, root, retry).await;
        for _ in 0..CHILD_TRIES {
            // Every blob is there: it is a child that is gone.
            if children.is_empty() || !put_root.as_ref().is_err_and(is_unseen) {
                break;
            }
            put_children(destination, children, retry).await?;
            put_root = put(destination, name, root, retry).await;
        }
        let Err(error) = put_root else {
            let found = Found { digest: root.digest, manifest: Some(root.clone()) };
            let point = Point { tag: tag.clone(), found, seen: None, is_put: true };
            self.published(&point, false);
            return Ok(point);
        };
        if !is_immutable_refusal(&error) {
            let error = match destination.repository.lost_an_answer() {
                true => error.with_note(format!("the tag `{tag}` may point at the image already: an answer was lost")),
                false => error,
            };
            return Err(destination.explain(error));
        }
        // Somebody was faster, or the tag could not be read beforehand. The same image is success.
        let at = Instant::now();
        match retry.run("read tag", || destination.repository.manifest(name)).await.ok().flatten() {
            Some(found) if self.identity.is(&found) => {
                let point = Point { tag: tag.clone(), found, seen: Some(at), is_put: false };
                self.published(&point, true);
                Ok(point)
            }
            Some(found) => Err(moved(tag, &found, self.identity, &destination.uri)),
            None => Err(error
                .with_hint("push under a new tag, or allow ecr:BatchGetImage")
                .with_note("the tag cannot be read with these credentials, so the images cannot be compared")),
        }
    }
}

/// The refusal where an immutable tag holds the same image in another packing, and that is not whole: nothing that could be sent repairs it.
pub(super) fn broken(tag: &Tag, manifest: &Manifest, repository: &str) -> Error {
    let text = format!(
        "the immutable tag `{tag}` of {repository} holds the same image in another packing, {}, of which the registry lacks a part",
        manifest.digest
    );
    Error::new(Side::Destination, "check tag", text).with_hint("push under a new tag, or delete this one")
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
