//! Private temporary files: unlinked from the start, counted, gone with the process.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result, Side};
use crate::image::{Digest, Hasher};
use crate::source::Content;
use crate::text;
use crate::text::Setting;

/// A place for temporary files.
#[derive(Clone)]
pub(super) struct Spool {
    directory: Arc<PathBuf>,
    usage: Arc<Usage>,
}

#[derive(Default)]
struct Usage {
    now: AtomicU64,
    peak: AtomicU64,
}

/// A file that is being written.
pub(super) struct Writer {
    file: File,
    hasher: Hasher,
    held: Held,
    directory: Arc<PathBuf>,
    failure: Option<io::Error>,
}

/// Bytes of the spool that are given back when this is dropped.
pub(super) struct Held {
    bytes: u64,
    usage: Arc<Usage>,
}

/// A file that was written to its end.
pub(super) struct Spooled {
    pub(super) digest: Digest,
    pub(super) content: Content,
    pub(super) held: Held,
}

impl Spool {
    /// A spool in `directory`.
    ///
    /// # Errors
    /// If it is not a directory that can be written to.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let spool = Self { directory: Arc::new(directory.to_owned()), usage: Arc::default() };
        match spool.create() {
            Ok(_) => Ok(spool),
            // Found before anything else was done: the user can mend it.
            Err(error) => Err(error.as_refused()),
        }
    }

    /// A new file. It has no name (or loses it at once) and mode 0600, so nobody else can open it and nothing stays
    /// behind, however the process ends. On Windows it keeps a name until it is closed; it is shared with nobody, and the system deletes it
    /// when its last handle goes.
    pub(super) fn create(&self) -> Result<Writer> {
        let made = tempfile::tempfile_in(&*self.directory).and_then(|file| {
            // Made without a name, it has the mode that every new file has.
            #[cfg(unix)]
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            Ok(file)
        });
        let file = made.map_err(|error| {
            let text = format!("no temporary file can be made in {}: {error}", self.directory.display());
            // EMFILE and ENFILE have no kind of their own.
            let hint = match error.raw_os_error() {
                Some(23 | 24) if cfg!(unix) => "allow more open files (`ulimit -n`)".into(),
                _ => text!["choose another directory with ", Setting::TempDir],
            };
            Error::new(Side::Local, "open temporary file", text).with_source(error).with_hint(hint)
        })?;
        Ok(Writer {
            file,
            hasher: Hasher::default(),
            held: Held { bytes: 0, usage: Arc::clone(&self.usage) },
            directory: Arc::clone(&self.directory),
            failure: None,
        })
    }

    /// The most bytes that were held at one time.
    pub(super) fn peak(&self) -> u64 {
        self.usage.peak.load(Ordering::Relaxed)
    }
}

impl Writer {
    /// Ends the file.
    pub(super) fn finish(self) -> Spooled {
        let (digest, len) = self.hasher.finish();
        Spooled { digest, content: Content::File { file: Arc::new(self.file), offset: 0, len }, held: self.held }
    }

    /// The error that writing failed with, if it did, in words. `need` is how many bytes the whole file may have.
    pub(super) fn failure(&mut self, need: u64) -> Option<Error> {
        let error = self.failure.take()?;
        let directory = self.directory.display();
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let text = if full {
            format!("the disk of {directory} is full: the next layer needs up to {need} bytes there")
        } else {
            format!("a temporary file in {directory} cannot be written: {error}")
        };
        Some(
            Error::new(Side::Local, "write temporary file", text)
                .with_source(error)
                .with_hint(text!["free some space, or choose another directory with ", Setting::TempDir]),
        )
    }
}

impl Write for Writer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self.file.write(buffer) {
            Ok(n) => {
                self.hasher.update(&buffer[..n]);
                self.held.add(n as u64);
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.failure = Some(error);
                Err(copy)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Held {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        let now = self.usage.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.usage.peak.fetch_max(now, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.usage.now.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_and_leave_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(directory.path()).unwrap();
        let mut writer = spool.create().unwrap();
        writer.write_all(b"hello").unwrap();
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names.len(), usize::from(cfg!(windows)));
        assert!(names.iter().all(|path| std::fs::File::open(path).is_err()), "another can open {names:?}");
        let spooled = writer.finish();
        assert_eq!(spooled.digest, Digest::of(b"hello"));
        assert_eq!(&spooled.content.to_bytes(100).unwrap()[..], b"hello");
        drop(spooled);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(spool.usage.now.load(Ordering::Relaxed), 0);
        assert_eq!(spool.peak(), 5);
    }

    #[test]
    fn a_directory_that_is_none_is_refused() {
        let error = Spool::new(Path::new("/nonexistent")).err().unwrap();
        assert!(error.message().contains("/nonexistent"), "{}", error.message());
    }
}
