//! Blobs that another repository of the same registry has: they are mounted, and their bytes stay where they are.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use url::Url;

use super::destination::Destination;
use crate::error::{Error, Side};
use crate::events::{Event, Events};
use crate::image::{Digest, RepositoryName};
use crate::registry::Mount;
use crate::retry::RetryBudget;

/// How long a session that a refused mount has opened is taken to be alive. How long ECR keeps one is not known (ecr-facts 13).
const SESSION: Duration = Duration::from_secs(60);

/// How long a repository may take to say what it has.
const ANSWER: Duration = Duration::from_secs(3);

/// The account setting is asked for only to word a hint.
const SETTING: Duration = Duration::from_secs(2);

/// Where blobs can be mounted from. Clones share everything.
#[derive(Clone)]
pub(super) struct Mounts {
    destination: Destination,
    retry: RetryBudget,
    events: Events,
    /// Repositories that the user named.
    siblings: Arc<Vec<Destination>>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Which repository has a blob.
    places: HashMap<Digest, String>,
    /// What was tried once is not tried again.
    tried: HashSet<Digest>,
    /// Repositories that could not be asked. They are not asked again.
    silent: HashSet<String>,
    /// Sessions that refused mounts have opened.
    sessions: Vec<(Instant, Url)>,
    refused: u64,
}

impl Mounts {
    pub(super) fn new(
        destination: &Destination,
        from: &[RepositoryName],
        retry: &RetryBudget,
        events: &Events,
    ) -> Self {
        Self {
            destination: destination.clone(),
            retry: retry.clone(),
            events: events.clone(),
            siblings: Arc::new(from.iter().map(|name| destination.sibling(name)).collect()),
            state: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The repositories that the user named.
    pub(super) fn siblings(&self) -> &[Destination] {
        &self.siblings
    }

    /// Notes that the repository `name` has the blob.
    pub(super) fn note(&self, digest: Digest, name: &str) {
        let mut state = self.lock();
        if !state.tried.contains(&digest) {
            state.places.entry(digest).or_insert_with(|| name.to_owned());
        }
    }

    /// True if some repository is said to have the blob.
    pub(super) fn has_place(&self, digest: &Digest) -> bool {
        self.lock().places.contains_key(digest)
    }

    /// Asks the named repositories which of `digests` they have. One that cannot be asked has none.
    pub(super) async fn look_for(&self, digests: &[Digest]) {
        if digests.is_empty() || self.siblings.is_empty() {
            return;
        }
        let silent = self.lock().silent.clone();
        let siblings: Vec<&Destination> =
            self.siblings.iter().filter(|sibling| !silent.contains(sibling.repository.name())).collect();
        let asked = siblings.iter().map(|sibling| async {
            let asked = tokio::time::timeout(ANSWER, sibling.present_of(digests, &self.retry));
            asked.await.unwrap_or_else(|_| {
                Err(Error::new(
                    Side::Destination,
                    "check blobs",
                    format!("no answer came within {} s", ANSWER.as_secs()),
                ))
            })
        });
        for (sibling, answer) in siblings.iter().zip(join_all(asked).await) {
            let name = sibling.repository.name();
            match answer {
                Ok(present) => present.keys().for_each(|digest| self.note(*digest, name)),
                Err(error) => {
                    self.events.emit(Event::Detail(format!("nothing can be mounted from {name}: {error}")));
                    self.lock().silent.insert(name.to_owned());
                }
            }
        }
    }

    /// True if the blob could be mounted. Where it could not, the open session is kept for an upload.
    pub(super) async fn mount(&self, digest: &Digest, size: u64) -> bool {
        let from = {
            let mut state = self.lock();
            let Some(from) = state.places.remove(digest) else { return false };
            state.tried.insert(*digest);
            from
        };
        match self.destination.repository.mount(digest, &from).await {
            Ok(Mount::Done) => true,
            Ok(Mount::Session(session)) => {
                self.events.emit(Event::Detail(format!("{} was not mounted from {from}", digest.short())));
                let mut state = self.lock();
                state.sessions.push((Instant::now(), session));
                state.refused += size;
                false
            }
            Err(error) => {
                self.events.emit(Event::Detail(format!("{} cannot be mounted from {from}: {error}", digest.short())));
                false
            }
        }
    }

    /// A session that a refused mount has left behind.
    pub(super) fn session(&self) -> Option<Url> {
        let mut state = self.lock();
        state.sessions.retain(|(opened, _)| opened.elapsed() < SESSION);
        state.sessions.pop().map(|(_, session)| session)
    }

    /// Says once what refused mounts have cost, and what would help.
    pub(super) async fn tell(&self) {
        let refused = self.lock().refused;
        let Some(ecr) = self.destination.ecr.as_ref().filter(|_| refused > 0) else { return };
        let bytes = words(refused);
        let how = format!("aws ecr put-account-setting --name BLOB_MOUNTING --value ENABLED --region {}", ecr.region);
        self.events.notice(match ecr.api.mounts_blobs(SETTING).await {
            Ok(false) => format!(
                "blob mounting is off in this account and region; with it {bytes} need not have been sent: {how}"
            ),
            Ok(true) => format!(
                "{bytes} were not mounted though blob mounting is on: both repositories need the same encryption, and the \
                 other one an image that uses the layer"
            ),
            Err(_) => {
                format!("{bytes} were not mounted; if blob mounting is off in this account and region: {how}")
            }
        });
    }
}

/// Bytes as people write them.
fn words(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        _ => format!("{:.2} MB", bytes as f64 / 1e6),
    }
}
