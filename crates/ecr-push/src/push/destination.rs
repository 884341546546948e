//! Where the image goes: an ECR repository with its API beside the registry, or any OCI repository.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use tokio::sync::OnceCell;

use super::explain::{is_denied, is_lost};
use super::plan::{Identity, TagState};
use crate::aws::{EcrApi, RegistryHost, RepositoryFacts, tag_is_immutable};
use crate::error::{Result, Retry};
use crate::events::{Event, Events};
use crate::image::{AccountId, Digest, Region, RepositoryName, Tag};
use crate::registry::{
    BlobStatus, CHECK_BLOB, PUT_MANIFEST, READ_BLOB, READ_MANIFEST, Repository, SEND_BLOB, START_UPLOAD,
};
use crate::retry::RetryBudget;

/// Digests asked for in one call (ecr-facts 2.4).
const ASK_AT_ONCE: usize = 100;

/// How long a call about the repository is tried for: nothing has been read by then, or the push waits for a better sentence.
const API: Duration = Duration::from_secs(20);

/// How many `HEAD` requests go on at a time where there is no call that asks for many blobs.
const HEADS: usize = 16;

/// The action of ECR's that a request to the registry stands for (ecr-facts section 1).
pub(super) const ACTIONS: [(&str, &str); 6] = [
    (CHECK_BLOB, "BatchCheckLayerAvailability"),
    (START_UPLOAD, "InitiateLayerUpload"),
    (SEND_BLOB, "CompleteLayerUpload"),
    (PUT_MANIFEST, "PutImage"),
    (READ_MANIFEST, "BatchGetImage"),
    (READ_BLOB, "GetDownloadUrlForLayer"),
];

/// Where the user wants the image.
#[derive(Clone, Debug)]
pub enum DestinationSpec {
    /// A repository of Amazon ECR.
    Ecr {
        /// Its name.
        repository: RepositoryName,
        /// The account that owns it, if not the caller's.
        registry_id: Option<AccountId>,
        /// The host the user wrote, which then decides account, region and kind of endpoint.
        host: Option<RegistryHost>,
    },
    /// A repository of any OCI registry.
    Registry {
        /// `HOST[:PORT]`.
        host: String,
        /// Its name.
        repository: String,
        /// Speak http, though the host is not this machine (`--plain-http`).
        plain_http: bool,
    },
}

/// An open destination. Clones share everything.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) repository: Repository,
    /// `HOST[:PORT]/NAME`.
    pub(super) uri: String,
    pub(super) ecr: Option<Arc<Ecr>>,
    events: Events,
    /// No way to ask for blobs is left: everything is sent.
    blind: Arc<AtomicBool>,
    /// What the registry said of blobs turned out to be false: it is not asked any more, and everything is sent.
    distrusted: Arc<AtomicBool>,
    /// Another repository than the one that is pushed to, which nobody needs to be asked about.
    is_sibling: bool,
    /// What was answered, and what was sent since. After a broken upload is asked again, past this.
    asked: Arc<Mutex<HashMap<Digest, Presence>>>,
}

/// What the registry said of a blob: that it lacks it, or has it, and how large it is if it told.
type Presence = Option<Option<u64>>;

/// What only ECR has.
pub(super) struct Ecr {
    pub(super) api: EcrApi,
    /// Not known where a stand-in's `proxyEndpoint` does not name it.
    pub(super) account: Option<AccountId>,
    pub(super) region: Region,
    pub(super) name: RepositoryName,
    registry_id: Option<AccountId>,
    /// The call that asks for many blobs at once does not work here.
    no_batch: AtomicBool,
    retry: RetryBudget,
    facts: OnceCell<Option<RepositoryFacts>>,
}

impl Ecr {
    pub(super) fn new(
        api: EcrApi,
        account: Option<AccountId>,
        region: Region,
        name: RepositoryName,
        registry_id: Option<AccountId>,
        retry: RetryBudget,
    ) -> Self {
        let (no_batch, facts) = (AtomicBool::new(false), OnceCell::new());
        Self { api, account, region, name, registry_id, no_batch, retry, facts }
    }

    /// What the repository is like, or that it is not there.
    pub(super) async fn describe(&self) -> Result<Option<RepositoryFacts>> {
        self.retry
            .at_most(API)
            .run("describe repository", || self.api.describe_repository(self.registry_id.as_ref(), &self.name))
            .await
    }
}

impl Destination {
    pub(super) fn new(repository: Repository, uri: String, ecr: Option<Ecr>, events: &Events) -> Self {
        Self {
            repository,
            uri,
            ecr: ecr.map(Arc::new),
            events: events.clone(),
            blind: Arc::default(),
            distrusted: Arc::default(),
            is_sibling: false,
            asked: Arc::default(),
        }
    }

    /// The repository `name` of the same registry, with the same credentials.
    pub(super) fn sibling(&self, name: &RepositoryName) -> Self {
        let ecr = self.ecr.as_ref().map(|ecr| {
            let (account, registry_id) = (ecr.account.clone(), ecr.registry_id.clone());
            Ecr::new(ecr.api.clone(), account, ecr.region.clone(), name.clone(), registry_id, ecr.retry.clone())
        });
        let host = self.uri.split('/').next().unwrap_or_default();
        let sibling = Self::new(self.repository.sibling(name.as_str()), format!("{host}/{name}"), ecr, &self.events);
        Self { is_sibling: true, ..sibling }
    }

    /// Sees to it that the repository is there, before anything is read: creates it if asked to. The question is one for blobs, so
    /// those of `probe` are known afterwards: all, if they are no more than fit into one call.
    ///
    /// # Errors
    /// If it is missing and may not or cannot be created.
    pub(super) async fn ensure_repository(&self, probe: &[Digest], create: bool, dry_run: bool) -> Result<()> {
        let Some(ecr) = &self.ecr else { return Ok(()) };
        let probe = &probe[..probe.len().min(ASK_AT_ONCE)];
        let error = match ecr.api.layer_availability(ecr.registry_id.as_ref(), &ecr.name, probe).await {
            Ok(answer) => {
                self.note(answer.available.into_iter().map(|(digest, size)| (digest, Some(size))));
                self.note(answer.unavailable.into_iter().map(|digest| (digest, None)));
                return Ok(());
            }
            Err(error) if error.code() == Some("RepositoryNotFoundException") => error,
            Err(error) if is_lost(&error) => return Err(error),
            Err(error) => {
                ecr.no_batch.store(true, Ordering::Relaxed);
                self.events.emit(Event::Detail(format!("asking for many layers at once does not work here: {error}")));
                if !create {
                    return Ok(());
                }
                // Existence is asked in the way that is left; who may not ask may still be able to create. An outage is no
                // reason to create anything.
                match ecr.describe().await {
                    Ok(Some(_)) => return Ok(()),
                    Ok(None) => error,
                    Err(unasked) if is_denied(&unasked) => error,
                    Err(unasked) => return Err(unasked),
                }
            }
        };
        if create && dry_run {
            self.events.notice(format!("the repository {} does not exist and would be created", self.uri));
            return Ok(());
        }
        if create {
            let created = ecr
                .retry
                .at_most(API)
                .run("create repository", || ecr.api.create_repository(ecr.registry_id.as_ref(), &ecr.name))
                .await;
            return match created {
                Ok(created) if created.existed => Ok(()),
                Ok(_) => {
                    self.events.notice(format!("created the repository {}", self.uri));
                    Ok(())
                }
                // With no right to create, an existing repository is all that is needed.
                Err(denied) if error.code() != Some("RepositoryNotFoundException") && is_denied(&denied) => {
                    self.events.emit(Event::Detail(format!("the repository could not be created: {denied}")));
                    Ok(())
                }
                Err(error) => Err(self.explain(error)),
            };
        }
        if dry_run {
            return Err(self.missing_repository(error));
        }
        // A creation template may create it at the first upload (ecr-facts 2.8): one try decides.
        match self.repository.start_upload().await {
            Ok(_) => Ok(()),
            Err(refused) => {
                self.events.emit(Event::Detail(format!("a first upload was refused: {refused}")));
                Err(self.missing_repository(error))
            }
        }
    }

    fn asked(&self) -> MutexGuard<'_, HashMap<Digest, Presence>> {
        self.asked.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn note(&self, answers: impl Iterator<Item = (Digest, Presence)>) {
        self.asked().extend(answers);
    }

    /// Those of `digests` that the registry has, with their sizes where it tells them. What was answered once is not asked again.
    pub(super) async fn present_of(
        &self,
        digests: &[Digest],
        retry: &RetryBudget,
    ) -> Result<HashMap<Digest, Option<u64>>> {
        let unasked: Vec<Digest> = {
            let asked = self.asked();
            digests.iter().filter(|digest| !asked.contains_key(digest)).copied().collect()
        };
        for some in unasked.chunks(ASK_AT_ONCE) {
            self.ask(some, retry).await?;
        }
        let asked = self.asked();
        Ok(digests.iter().filter_map(|digest| Some((*digest, (*asked.get(digest)?)?))).collect())
    }

    /// Those of `digests` that the registry does not have now, whatever it said before. None where it cannot be asked.
    pub(super) async fn gone(&self, digests: &[Digest], retry: &RetryBudget) -> Result<Vec<Digest>> {
        if self.is_silent() {
            return Ok(Vec::new());
        }
        {
            let mut asked = self.asked();
            asked.retain(|digest, _| !digests.contains(digest));
        }
        let present = self.present_of(digests, retry).await?;
        if self.is_silent() {
            return Ok(Vec::new());
        }
        Ok(digests.iter().filter(|digest| !present.contains_key(digest)).copied().collect())
    }

    /// The sizes of those of `digests` that the registry has now, whatever it said before; of all of them without a size where it
    /// cannot be asked.
    pub(super) async fn sizes_now(
        &self,
        digests: &[Digest],
        retry: &RetryBudget,
    ) -> Result<HashMap<Digest, Option<u64>>> {
        self.asked().retain(|digest, _| !digests.contains(digest));
        let present = self.present_of(digests, retry).await?;
        match self.is_silent() {
            true => Ok(digests.iter().map(|digest| (*digest, None)).collect()),
            false => Ok(present),
        }
    }

    fn is_silent(&self) -> bool {
        self.blind.load(Ordering::Relaxed) || self.distrusted.load(Ordering::Relaxed)
    }

    /// Forgets what the registry said of blobs. One whose word turned out to be `false_twice` is not asked again: everything is sent.
    pub(super) fn forget(&self, false_twice: bool) {
        self.asked().clear();
        self.distrusted.store(false_twice, Ordering::Relaxed);
    }

    async fn ask(&self, digests: &[Digest], retry: &RetryBudget) -> Result<()> {
        if self.distrusted.load(Ordering::Relaxed) {
            self.note(digests.iter().map(|digest| (*digest, None)));
            return Ok(());
        }
        let mut open: Vec<Digest> = digests.to_vec();
        if let Some(ecr) = &self.ecr
            && !ecr.no_batch.load(Ordering::Relaxed)
        {
            match ecr.api.layer_availability(ecr.registry_id.as_ref(), &ecr.name, digests).await {
                Ok(answer) => {
                    self.note(answer.available.into_iter().map(|(digest, size)| (digest, Some(size))));
                    self.note(answer.unavailable.into_iter().map(|digest| (digest, None)));
                    open = answer.unknown.into_iter().collect();
                }
                Err(error) => {
                    // A refusal lasts; anything else may pass, and the next batch asks again.
                    if error.retry() == Retry::Never {
                        ecr.no_batch.store(true, Ordering::Relaxed);
                    }
                    self.events.emit(Event::Detail(format!(
                        "asking for many layers at once failed, asking one by one: {error}"
                    )));
                }
            }
        }
        let heads: Vec<_> = iter(open)
            .map(|digest| async move { Result::Ok((digest, self.head(&digest, retry).await?)) })
            .buffer_unordered(HEADS)
            .try_collect()
            .await?;
        self.note(heads.into_iter());
        Ok(())
    }

    /// The size of a blob, if the registry has it and tells.
    pub(super) async fn size_of(&self, digest: &Digest, retry: &RetryBudget) -> Option<u64> {
        match self.present_of(&[*digest], retry).await.ok()?.get(digest)? {
            Some(size) => Some(*size),
            None => self.head(digest, retry).await.ok()??,
        }
    }

    /// True if the registry has the blob now. False too if nobody lets us ask: it is sent then.
    pub(super) async fn present(&self, digest: &Digest, retry: &RetryBudget) -> Result<bool> {
        Ok(self.head(digest, retry).await?.is_some())
    }

    async fn head(&self, digest: &Digest, retry: &RetryBudget) -> Result<Presence> {
        if self.is_silent() {
            return Ok(None);
        }
        match retry.run("check blob", || self.repository.blob(digest)).await.map_err(|error| self.explain(error))? {
            BlobStatus::Present(size) => Ok(Some(size)),
            BlobStatus::Absent => Ok(None),
            BlobStatus::Unaskable => {
                if !self.blind.swap(true, Ordering::Relaxed) && !self.is_sibling {
                    let right = if self.ecr.is_some() { " (ecr:BatchCheckLayerAvailability)" } else { "" };
                    self.events.warning(format!(
                        "the registry does not let these credentials ask which layers it has{right}, so every layer is sent"
                    ));
                }
                Ok(None)
            }
        }
    }

    /// Notes that the registry has the blob now.
    pub(super) fn note_there(&self, digest: Digest, size: u64) {
        self.note(std::iter::once((digest, Some(Some(size)))));
    }

    /// The digests of the newest images, where that can be told from one short answer.
    pub(super) async fn newest(&self, count: usize, limit: Duration) -> Result<Vec<Digest>> {
        let Some(ecr) = &self.ecr else { return Ok(Vec::new()) };
        ecr.api.newest_images(ecr.registry_id.as_ref(), &ecr.name, count, limit).await
    }

    /// What the tags point at, and whether those that do not point at the image `ours` may move. What may not be asked stays unknown.
    pub(super) async fn tags(&self, tags: &[Tag], ours: &Identity, retry: &RetryBudget) -> Result<Vec<TagState>> {
        let read = |tag: &Tag| {
            let tag = tag.clone();
            async move {
                let at = Instant::now();
                (at, retry.run("read tag", || self.repository.manifest(tag.as_str())).await)
            }
        };
        let answers: Vec<_> = iter(tags).map(read).buffered(HEADS).collect().await;
        let mut states = Vec::new();
        let mut told = false;
        for (tag, (at, answer)) in tags.iter().zip(answers) {
            let found = match answer {
                Ok(found) => found,
                // Who may not read one tag may read none. A registry that answers otherwise may still take a push.
                Err(error) if error.retry() == Retry::Never && error.status() != Some(401) => {
                    if !std::mem::replace(&mut told, true) {
                        self.events.emit(Event::Detail(format!("the tag `{tag}` cannot be read beforehand: {error}")));
                    }
                    None
                }
                Err(error) if error.status() == Some(403) => None,
                Err(error) => return Err(self.explain(error)),
            };
            let moves = found.as_ref().is_some_and(|found| !ours.is(found) || !ours.is_packed(found));
            let immutable = moves && self.is_immutable(tag).await;
            states.push(TagState { tag: tag.clone(), found, read_at: Some(at), immutable });
        }
        Ok(states)
    }

    /// True if the repository is known to refuse that `tag` moves. Whoever may not ask learns it when the tag is put.
    async fn is_immutable(&self, tag: &Tag) -> bool {
        let Some(ecr) = &self.ecr else { return false };
        let facts = ecr
            .facts
            .get_or_init(|| async {
                // A hint that is worth one question.
                ecr.api.describe_repository(ecr.registry_id.as_ref(), &ecr.name).await.ok().flatten()
            })
            .await;
        facts.as_ref().is_some_and(|facts| tag_is_immutable(facts, tag))
    }
}
