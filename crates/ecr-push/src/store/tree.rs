//! Files by the names that a tar gives them, within one directory.
//!
//! Names come from images, and so do the symlinks in the directory: both may try to lead out of it. No symlink is followed,
//! below the directory or as the file itself. Each part of a path is looked at before it is used, instead of having the
//! kernel refuse symlinks while it opens (`openat2`): a layer that is in the store never changes, so that nothing can come
//! between the two; and a device must not even be opened, since that alone makes some of them act.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A directory with the files of a layer.
pub(super) struct Tree {
    root: PathBuf,
    /// The directory below `root` that was looked at last: tars go through a tree in order, so most files are in it.
    checked: Vec<u8>,
    /// The path in use; kept for its memory.
    path: PathBuf,
}

impl Tree {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, checked: Vec::new(), path: PathBuf::new() }
    }

    /// Opens the file `name`, which should have `size` bytes.
    pub(super) fn open(&mut self, name: &[u8], size: u64) -> io::Result<File> {
        let name = clean(name).ok_or_else(|| invalid("has a name that leads out of the layer"))?;
        if let Some(end) = name.iter().rposition(|byte| *byte == b'/') {
            self.check_directory(&name[..end])?;
        }
        self.go_to(&name);
        let (file, metadata) = open_regular(&self.path)?;
        if metadata.len() != size {
            return Err(invalid(&format!("has {} bytes in the store, and {size} in the layer", metadata.len())));
        }
        Ok(file)
    }

    /// Refuses `directory` unless it and those it is in are directories.
    fn check_directory(&mut self, directory: &[u8]) -> io::Result<()> {
        let ends = directory.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends.chain([directory.len()]) {
            if is_within(&self.checked, &directory[..end]) {
                continue;
            }
            self.go_to(&directory[..end]);
            if !fs::symlink_metadata(&self.path)?.is_dir() {
                return Err(invalid("is below something that is no directory"));
            }
        }
        self.checked.clear();
        self.checked.extend_from_slice(directory);
        Ok(())
    }

    fn go_to(&mut self, name: &[u8]) {
        self.path.clear();
        self.path.push(&self.root);
        self.path.push(OsStr::from_bytes(name));
    }
}

/// Whether `path` is `directory`, or below it.
fn is_within(path: &[u8], directory: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// `name` as a relative path without `.` and `..`, as dockerd resolves it: by the text alone. `None` if it leads out of
/// where it is relative to, or nowhere.
fn clean(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    let parts = || name.split(|byte| *byte == b'/');
    if parts().all(|part| !matches!(part, b"" | b"." | b"..")) {
        return Some(Cow::Borrowed(name));
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in parts() {
        match part {
            b"" | b"." => {}
            b".." => {
                kept.pop()?;
            }
            _ => kept.push(part),
        }
    }
    (!kept.is_empty()).then(|| Cow::Owned(kept.join(&b'/')))
}

/// Opens a file, if it is one: neither a symlink, nor what would block or act when it is opened.
pub(super) fn open_regular(path: &Path) -> io::Result<(File, Metadata)> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(invalid("is no regular file"));
    }
    Ok((File::open(path)?, metadata))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_resolved_by_their_text() {
        let cases: [(&str, Option<&str>); 12] = [
            ("a/b", Some("a/b")),
            ("./a", Some("a")),
            ("/a//b/", Some("a/b")),
            ("a/../b", Some("b")),
            ("a/./b", Some("a/b")),
            ("...", Some("...")),
            ("a/..b", Some("a/..b")),
            ("..", None),
            ("a/../../b", None),
            ("/../b", None),
            ("", None),
            ("./", None),
        ];
        for (name, expected) in cases {
            assert_eq!(clean(name.as_bytes()).as_deref(), expected.map(str::as_bytes), "{name}");
        }
    }

    #[test]
    fn a_directory_is_within_itself_and_not_within_its_namesakes() {
        assert!(is_within(b"usr/lib", b"usr"));
        assert!(is_within(b"usr", b"usr"));
        assert!(!is_within(b"usrlib", b"usr"));
        assert!(!is_within(b"usr", b"usr/lib"));
        assert!(!is_within(b"", b"usr"));
    }
}
