//! The body of an upload: read ahead, hashed, counted, watched.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, unfold};
use tokio::sync::mpsc;

use crate::image::{Digest, Hasher};
use crate::source::Content;

/// Bytes handed to the connection at a time.
const CHUNK: usize = 128 * 1024;

/// Chunks read ahead of the connection.
const AHEAD: usize = 3;

/// Told how many more bytes went out.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// What the sender sees of a body under way.
pub(super) struct Watch {
    started: Instant,
    /// Milliseconds from `started` to the last byte that moved.
    moved: AtomicU64,
    sent: AtomicU64,
    ended: AtomicBool,
    /// Why the body broke off, if the fault is on this side.
    broken: std::sync::Mutex<Option<Broken>>,
}

/// Why a body broke off.
#[derive(Debug)]
pub(super) enum Broken {
    /// The bytes could not be read.
    Unreadable(io::Error),
    /// They are not the bytes that were promised.
    WrongDigest(Digest),
}

impl Watch {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            moved: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            broken: std::sync::Mutex::default(),
        })
    }

    /// One of whose bytes the connection took so many in `took`, the last of them just now.
    #[cfg(test)]
    pub(super) fn having_sent(bytes: u64, took: Duration) -> Arc<Self> {
        let watch = Self::new();
        watch.sent.store(bytes, Ordering::Relaxed);
        watch.moved.store(took.as_millis() as u64, Ordering::Relaxed);
        watch
    }

    /// How fast the bytes beyond the first `held` went out, in bytes a second.
    pub(super) fn speed_beyond(&self, held: u64) -> u64 {
        let milliseconds = self.moved.load(Ordering::Relaxed).max(1);
        self.sent().saturating_sub(held).saturating_mul(1000) / milliseconds
    }

    fn note(&self) {
        self.moved.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long no byte has moved.
    pub(super) fn idle(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(moved)
    }

    /// True if the connection took every byte.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Bytes the connection took.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn broken(&self) -> Option<Broken> {
        self.broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }

    fn set_broken(&self, broken: Broken) {
        *self.broken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(broken);
    }
}

/// The bytes of `content` as a stream for the connection. Unless their digest is known to be right (`expected` is none), they are hashed
/// on the way, and the last chunk is withheld if the whole does not have it, so that a damaged file never becomes a finished upload. Must
/// be called within a runtime.
pub(super) fn body(
    content: Content,
    expected: Option<Digest>,
    progress: Progress,
) -> (Arc<Watch>, impl Stream<Item = io::Result<Bytes>> + Send + 'static) {
    let watch = Watch::new();
    let (sender, receiver) = mpsc::channel(AHEAD);
    let reader_watch = Arc::clone(&watch);
    let len = content.len();
    tokio::task::spawn_blocking(move || read_ahead(&content, expected, &reader_watch, &sender));
    let stream_watch = Arc::clone(&watch);
    let stream = unfold(receiver, move |mut receiver| {
        let watch = Arc::clone(&stream_watch);
        let progress = Arc::clone(&progress);
        async move {
            let Some(chunk) = receiver.recv().await else {
                watch.ended.store(true, Ordering::Relaxed);
                watch.note();
                return None;
            };
            let chunk: io::Result<Bytes> = chunk;
            if let Ok(bytes) = &chunk {
                watch.note();
                let before = watch.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                // The connection knows the length and does not ask for more after the last byte.
                if before + bytes.len() as u64 >= len {
                    watch.ended.store(true, Ordering::Relaxed);
                }
                progress(bytes.len() as u64);
            }
            Some((chunk, receiver))
        }
    });
    (watch, stream)
}

fn read_ahead(content: &Content, expected: Option<Digest>, watch: &Watch, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let refuse = |error: io::Error| {
        let copy = io::Error::new(error.kind(), error.to_string());
        watch.set_broken(Broken::Unreadable(error));
        // The receiver is gone if the request ended early.
        let _ = sender.blocking_send(Err(copy));
    };
    let content = match content.open() {
        Ok(content) => content,
        Err(error) => return refuse(error),
    };
    let mut hasher = Hasher::default();
    let mut position = 0;
    while position < content.len() {
        let mut chunk = BytesMut::zeroed(CHUNK);
        let n = match content.read_at(&mut chunk, position) {
            Ok(n) => n,
            Err(error) => return refuse(error),
        };
        chunk.truncate(n);
        position += n as u64;
        if let Some(expected) = expected {
            hasher.update(&chunk);
            if position == content.len() {
                let (actual, _) = hasher.clone().finish();
                if actual != expected {
                    watch.set_broken(Broken::WrongDigest(actual));
                    let _ = sender.blocking_send(Err(io::Error::other("the bytes do not have the promised digest")));
                    return;
                }
            }
        }
        if sender.blocking_send(Ok(chunk.freeze())).is_err() {
            return;
        }
    }
}
