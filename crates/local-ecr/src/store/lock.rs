//! One server for each folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long a server that is ending may still hold its folder: its last requests go on until they are done.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Keeps other servers out of a folder for as long as it lives. What one server has acknowledged another one does not know,
/// and would overwrite.
#[derive(Debug)]
pub(crate) struct FolderLock(#[expect(dead_code, reason = "closing the file ends the lock")] File);

impl FolderLock {
    /// Makes the folder if it is not there, and takes it. [`io::ErrorKind::ResourceBusy`] if another server has it.
    pub async fn take(folder: &Path) -> io::Result<Self> {
        let explain = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("the folder {} {what}: {error}", folder.display()))
        };
        std::fs::create_dir_all(folder).map_err(|error| explain("cannot be made", error))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(".lock"))
            .map_err(|error| explain("cannot be locked", error))?;
        for _ in 0..TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
                Err(TryLockError::Error(error)) => return Err(explain("cannot be locked", error)),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("the folder {} is in use by another local-ecr", folder.display()),
        ))
    }
}
