//! What happens during a push, told to one listener. The engine knows nothing of terminals or CI systems.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::image::Digest;
use crate::text::Text;

/// Something worth telling.
#[derive(Clone, Debug)]
pub enum Event {
    /// A text that must not be seen from now on: a log that can mask it does so. It is told before anything that might
    /// hold it, and again for each renewal. Never empty, and never the registry's user name.
    Secret(SecretString),
    /// A fact the log should have: the engine used, where the region came from.
    Notice(Text),
    /// Something the user should look at, though the push goes on.
    Warning(Text),
    /// More than most want to know.
    Detail(String),
    /// What is being waited for, for the heartbeat.
    Phase(String),
    /// The image is about to be transferred and has this many layers; each of them ends with an [`Event::BlobDone`], and
    /// so does each config. Told at most once, and not at all where the number is known only at the end.
    Layers {
        /// How many different layers.
        count: usize,
    },
    /// A layer is being read and compressed; `size` is its uncompressed size, if known.
    LayerStarted {
        /// Counts the layers as they are read, from 1.
        number: usize,
        /// Bytes to read.
        size: u64,
    },
    /// Bytes of a layer were read.
    LayerRead {
        /// Which layer.
        number: usize,
        /// How many more bytes.
        bytes: u64,
    },
    /// A layer was read to its end.
    LayerFinished {
        /// Which layer.
        number: usize,
        /// Its digest as it would be sent.
        digest: Digest,
        /// Its size as it would be sent.
        size: u64,
    },
    /// The upload of a blob starts.
    UploadStarted {
        /// Which blob.
        digest: Digest,
        /// Its size.
        size: u64,
    },
    /// Bytes of a blob went out. Counted back by [`Event::UploadRestarted`] when they must go out again.
    Uploaded {
        /// Which blob.
        digest: Digest,
        /// How many more bytes.
        bytes: u64,
    },
    /// An upload failed and starts from its first byte.
    UploadRestarted {
        /// Which blob.
        digest: Digest,
    },
    /// A blob needs nothing more.
    BlobDone {
        /// Which blob.
        digest: Digest,
        /// Its size.
        size: u64,
        /// What was done.
        action: BlobAction,
    },
    /// An operation failed and will be tried again.
    Retrying {
        /// Which operation.
        what: String,
        /// Why it failed.
        why: Text,
        /// How long the wait is.
        wait: Duration,
    },
    /// The registry is being asked to put a tag. Until [`Event::Published`], nobody knows whether it has.
    Publishing {
        /// The tag.
        tag: String,
    },
    /// A manifest or tag is in the registry.
    Published {
        /// Digest of the manifest.
        digest: Digest,
        /// The tag, if this was one.
        tag: Option<String>,
        /// True if it was there before.
        existed: bool,
    },
}

/// What was done for a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobAction {
    /// The registry has it.
    Skipped,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was sent.
    Sent,
    /// It would be sent (`--dry-run`).
    WouldSend,
}

/// The listener. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Tells `listener`. It is called from many threads and must not block for long.
    pub fn new(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Tells nobody.
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Tells the listener.
    pub fn emit(&self, event: Event) {
        (self.0)(event);
    }

    /// Tells a [`Event::Notice`].
    pub fn notice(&self, text: impl Into<Text>) {
        self.emit(Event::Notice(text.into()));
    }

    /// Tells a [`Event::Warning`].
    pub fn warning(&self, text: impl Into<Text>) {
        self.emit(Event::Warning(text.into()));
    }
}
