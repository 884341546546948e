//! What a tar holds: of a file, where each entry lies; of a stream, what passed.
//!
//! Nothing is ever unpacked to disk under a name from the archive, so a path cannot lead anywhere; names that try are
//! refused all the same, since no engine writes them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::legacy_names::LegacyNames;
use super::{Content, DOCUMENT_LIMIT, LayerRef, LayerSink, source_error};
use crate::error::{Error, Result};
use crate::image::{DiffId, Digest};

/// A bound against archives made to exhaust memory.
const MAX_ENTRIES: usize = 200_000;

/// How much is read behind the end of a tar that comes as a stream.
const MAX_TAIL: u64 = 64 << 20;

/// The longest name of an entry, and of what a link leads to: what Linux takes for a path (PATH_MAX).
const MAX_PATH: usize = 4096;

/// How many bytes of names are kept in memory.
const MAX_NAMES: usize = 64 << 20;

/// How many bytes of documents of one stream are kept in memory.
const MAX_DOCUMENTS: u64 = 64 << 20;

/// How often a symlink may lead to another one.
const MAX_LINKS: usize = 16;

/// How layers in a stream are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// As `docker push` does: uncompressed layers are compressed, the manifest is ours.
    Docker,
    /// As an OCI layout: every blob goes up as it is.
    Oci,
}

/// An entry's bytes.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    /// They can be read again.
    Content(Content),
    /// A layer that went to the sink as it passed.
    Passed {
        /// Under which name it was delivered.
        layer: LayerRef,
        /// Its diff id, if that was found out.
        diff_id: Option<DiffId>,
        /// Its size in the archive.
        size: u64,
    },
}

impl Stored {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Content(content) => content.len(),
            Self::Passed { size, .. } => *size,
        }
    }
}

/// The entries of a tar by normal path.
#[derive(Debug, Default)]
pub(super) struct Entries {
    files: HashMap<String, Stored>,
    links: HashMap<String, String>,
    /// Bytes of names and of what links lead to.
    names: usize,
    /// How many entries were met, of whatever name.
    admitted: usize,
}

impl Entries {
    /// Reads the headers of a tar file; bytes stay where they are.
    pub(super) fn of_file(file: File, name: &str) -> Result<Self> {
        let length = file.metadata().map_err(|error| unreadable(name, error))?.len();
        let file = Arc::new(file);
        let reader = io::BufReader::with_capacity(64 * 1024, FileReader { file: Arc::clone(&file), position: 0 });
        let leash = Leash::default();
        let mut archive = tar::Archive::new(Leashed { inner: reader, leash: leash.clone() });
        let mut entries = Self::default();
        leash.headers();
        for entry in archive.entries_with_seek().map_err(|error| unreadable(name, error))? {
            let entry = entry.map_err(|error| damaged(name, &error))?;
            leash.headers();
            let (offset, len) = (entry.raw_file_position(), entry.size());
            let Some(path) = entries.admit(&entry, name)? else { continue };
            if offset.checked_add(len).is_none_or(|end| end > length) {
                return Err(truncated(name, &path));
            }
            let content = Content::File { file: Arc::clone(&file), offset, len };
            entries.files.insert(path, Stored::Content(content));
        }
        Ok(entries)
    }

    /// Reads a tar stream to its end, or until `wanted` has come. Documents are kept, layers go to `sink` as they pass.
    pub(super) fn of_stream(
        stream: impl Read,
        name: &str,
        mode: Mode,
        mut wanted: Option<&mut Wanted>,
        sink: &mut dyn LayerSink,
    ) -> Result<Self> {
        let leash = Leash::default();
        let reader = BufReader::with_capacity(256 * 1024, stream);
        let mut archive = tar::Archive::new(Leashed { inner: reader, leash: leash.clone() });
        let mut entries = Self::default();
        let mut documents = 0;
        let all = archive.entries().map_err(|error| unreadable(name, error))?;
        leash.headers();
        for entry in all {
            let mut entry = entry.map_err(|error| damaged(name, &error))?;
            let size = entry.size();
            let path = entries.admit(&entry, name)?;
            leash.content();
            let Some(path) = path else {
                io::copy(&mut entry, &mut io::sink()).map_err(|error| unreadable(name, error))?;
                leash.headers();
                continue;
            };
            let mut content = Exact { inner: &mut entry, left: size, failure: None };
            let promised = wanted.as_deref().and_then(|wanted| entries.promised(&path, wanted));
            let result = take(&path, size, promised, &mut content, mode, sink);
            if let Some(failure) = content.failure {
                return Err(if failure.kind() == io::ErrorKind::UnexpectedEof {
                    truncated(name, &path).with_source(failure)
                } else {
                    unreadable(name, failure)
                });
            }
            let stored = result?;
            // What is left of the entry is read here, so that only headers are read for the next one.
            io::copy(&mut entry, &mut io::sink()).map_err(|error| unreadable(name, error))?;
            leash.headers();
            let Some(stored) = stored else { continue };
            if let Stored::Content(document) = &stored {
                documents += document.len();
            }
            if documents > MAX_DOCUMENTS {
                return Err(source_error(
                    "read archive",
                    format!("{name} has over 64 MiB of documents; it is no image archive"),
                ));
            }
            let is_all = wanted.as_deref_mut().is_some_and(|wanted| wanted.note(&path, &stored));
            entries.files.insert(path, stored);
            if is_all {
                return Ok(entries);
            }
        }
        leash.content();
        // The last bytes of the stream must be read, or a broken end stays unseen; but some never end.
        io::copy(&mut archive.into_inner().take(MAX_TAIL), &mut io::sink()).map_err(|error| unreadable(name, error))?;
        Ok(entries)
    }

    /// The layer at `path`, if the documents before it prove which one it is.
    fn promised(&self, path: &str, wanted: &Wanted) -> Option<DiffId> {
        let folder = path.strip_suffix("/layer.tar")?;
        match self.files.get(&format!("{folder}/json"))? {
            Stored::Content(Content::Memory(json)) => wanted.names.layer(folder, json),
            _ => None,
        }
    }

    /// Notes links; returns the path of a regular file.
    fn admit<R: Read>(&mut self, entry: &tar::Entry<'_, R>, name: &str) -> Result<Option<String>> {
        self.admitted += 1;
        if self.admitted > MAX_ENTRIES {
            return Err(source_error(
                "read archive",
                format!("{name} has more than {MAX_ENTRIES} entries; it is no image archive"),
            ));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            return Ok(None);
        }
        if kind.is_gnu_sparse() {
            // Its holes are read as zeros, of which a header can promise any number.
            return Err(source_error("read archive", format!("{name} has a sparse file; it is no image archive"))
                .with_hint("no engine writes such an archive: save the image again"));
        }
        let raw = entry.path_bytes();
        let target = entry.link_name_bytes();
        let target_len = target.as_ref().map_or(0, |target| target.len());
        if raw.len().max(target_len) > MAX_PATH {
            return Err(source_error(
                "read archive",
                format!("{name} has an entry with a name of over 4096 bytes; it is no image archive"),
            ));
        }
        self.names += raw.len() + target_len;
        if self.names > MAX_NAMES {
            return Err(source_error(
                "read archive",
                format!("{name} has over 64 MiB of names; it is no image archive"),
            ));
        }
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let Some(path) = normal(&raw) else {
            return Err(source_error(
                "read archive",
                format!("{name} has an entry that points outside of it: {raw:?}"),
            )
            .with_hint("no engine writes such an archive; do not load it anywhere"));
        };
        if kind.is_file() {
            // Of two entries with one name the later one counts.
            self.links.remove(&path);
            return Ok(Some(path));
        }
        if (kind.is_symlink() || kind.is_hard_link())
            && let Some(target) = target
        {
            let target = String::from_utf8_lossy(&target).into_owned();
            let base = if kind.is_hard_link() { "" } else { path.rsplit_once('/').map_or("", |(parent, _)| parent) };
            let target = format!("{base}/{target}");
            self.files.remove(&path);
            self.links.insert(path, target);
        }
        Ok(None)
    }

    /// The file at `path`, through links.
    pub(super) fn get(&self, path: &str, name: &str) -> Result<Option<&Stored>> {
        let mut current = normal(path).ok_or_else(|| outside(name, path))?;
        for _ in 0..MAX_LINKS {
            if let Some(stored) = self.files.get(&current) {
                return Ok(Some(stored));
            }
            let Some(target) = self.links.get(&current) else {
                return Ok(None);
            };
            current = resolve(target).ok_or_else(|| outside(name, &current))?;
        }
        Err(source_error("read archive", format!("the entry {path:?} of {name} is a loop of links")))
    }

    /// The bytes of a document.
    pub(super) fn document(&self, path: &str, name: &str) -> Result<Option<Bytes>> {
        match self.get(path, name)? {
            Some(Stored::Content(content)) => {
                let bytes = content.to_bytes(DOCUMENT_LIMIT).map_err(|error| {
                    source_error("read archive", format!("the entry {path:?} of {name} cannot be read: {error}"))
                })?;
                Ok(Some(bytes))
            }
            Some(Stored::Passed { .. }) => {
                Err(source_error("read archive", format!("the entry {path:?} of {name} is a layer, not a document")))
            }
            None => Ok(None),
        }
    }

    /// True if there is nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty() && self.links.is_empty()
    }
}

/// What somebody wants of a stream who knows the image already: then its end need not be waited for.
pub(super) struct Wanted {
    layers: HashSet<DiffId>,
    /// Where the config can be: the archives of different engines differ.
    config: [String; 2],
    has_config: bool,
    names: LegacyNames,
}

impl Wanted {
    /// `needed`, of the layers `all`, and the config.
    pub(super) fn new(all: &[DiffId], needed: Vec<DiffId>, config: &Digest) -> Self {
        let config = [format!("{}.json", config.hex()), format!("blobs/sha256/{}", config.hex())];
        Self { layers: needed.into_iter().collect(), config, has_config: false, names: LegacyNames::new(all) }
    }

    /// True if everything has come by now.
    fn note(&mut self, path: &str, stored: &Stored) -> bool {
        if let Stored::Passed { diff_id: Some(diff_id), .. } = stored {
            self.layers.remove(diff_id);
        }
        self.has_config |= self.config.iter().any(|config| config == path);
        self.is_all()
    }

    /// True if everything has come.
    pub(super) fn is_all(&self) -> bool {
        self.has_config && self.layers.is_empty()
    }

    /// The config's place among `entries`.
    pub(super) fn config(&self, entries: &Entries, name: &str) -> Result<Option<Bytes>> {
        let [first, second] = &self.config;
        Ok(entries.document(first, name)?.or(entries.document(second, name)?))
    }
}

/// Keeps or delivers one entry of a stream. `None` for entries that no image needs.
fn take(
    path: &str,
    size: u64,
    promised: Option<DiffId>,
    content: &mut dyn Read,
    mode: Mode,
    sink: &mut dyn LayerSink,
) -> Result<Option<Stored>> {
    let mut head = vec![0; usize::try_from(size.min(512)).unwrap_or(512)];
    if content.read_exact(&mut head).is_err() {
        // The caller finds the reason in `content`.
        return Ok(None);
    }
    let digest = path
        .strip_prefix("blobs/sha256/")
        .map(Digest::from_hex)
        .transpose()
        .map_err(|_| source_error("read archive", format!("the blob {path:?} is not named by a sha256 digest")))?;
    let kind = sniff(&head, path);
    let mut whole = io::Cursor::new(head).chain(content);
    if kind == Sniffed::Other && size <= DOCUMENT_LIMIT {
        let mut bytes = Vec::with_capacity(size as usize);
        if whole.read_to_end(&mut bytes).is_err() {
            return Ok(None);
        }
        return Ok(Some(Stored::Content(Content::Memory(bytes.into()))));
    }
    if matches!(path, "manifest.json" | "index.json") {
        return Err(source_error(
            "read archive",
            format!("the entry {path:?} has {size} bytes, more than the {DOCUMENT_LIMIT} allowed for a document"),
        ));
    }
    let (layer, diff_id) = match (mode, kind) {
        (Mode::Docker, Sniffed::Tar) => {
            let promised = promised.or(digest.map(DiffId)).or_else(|| named_by_diff_id(path));
            let diff_id = sink.layer(size, promised, &mut whole)?;
            if digest.is_some_and(|digest| digest != diff_id.0) {
                return Err(wrong_digest(path, diff_id.0));
            }
            (LayerRef::Uncompressed(diff_id), Some(diff_id))
        }
        (Mode::Docker, Sniffed::Compressed) => {
            let (digest, diff_id) = sink.blob(digest, size, &mut whole, true)?;
            (LayerRef::Blob(digest), diff_id)
        }
        (Mode::Oci, _) if digest.is_some() => {
            let (digest, _) = sink.blob(digest, size, &mut whole, false)?;
            (LayerRef::Blob(digest), None)
        }
        _ => return Ok(None),
    };
    Ok(Some(Stored::Passed { layer, diff_id, size }))
}

/// Podman names a layer by its diff id. Docker before version 25 has another 64 hex digits there, in a folder's name.
fn named_by_diff_id(path: &str) -> Option<DiffId> {
    path.strip_suffix(".tar").and_then(|hex| Digest::from_hex(hex).ok()).map(DiffId)
}

/// The sentence for a blob that is not what its name says.
pub(super) fn wrong_digest(path: &str, actual: Digest) -> Error {
    source_error("read archive", format!("the blob {path:?} is damaged: its bytes have the digest {actual}"))
        .with_hint("save or copy the image again")
}

/// What the first bytes of an entry look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    /// An uncompressed tar.
    Tar,
    /// gzip or zstd.
    Compressed,
    /// Neither.
    Other,
}

/// Tells layers from documents by their first 512 bytes (fewer if there are fewer).
pub(super) fn sniff(head: &[u8], path: &str) -> Sniffed {
    let empty_tar = head.len() == 512 && head.iter().all(|byte| *byte == 0);
    if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Sniffed::Compressed
    } else if head.get(257..262) == Some(b"ustar") || empty_tar || path.ends_with(".tar") {
        Sniffed::Tar
    } else {
        Sniffed::Other
    }
}

/// A path without `.`, double and leading slashes; `None` if it leads upwards or is absolute.
fn normal(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A link's target, which may lead upwards within the archive.
fn resolve(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn outside(name: &str, path: &str) -> Error {
    source_error("read archive", format!("the entry {path:?} of {name} leads outside of the archive"))
}

fn truncated(name: &str, path: &str) -> Error {
    source_error(
        "read archive",
        format!("{name} ends in the middle of {path:?}: it was not written or copied to its end"),
    )
    .with_hint("save or copy the image again")
}

fn damaged(name: &str, error: &io::Error) -> Error {
    let copy = io::Error::new(error.kind(), error.to_string());
    source_error("read archive", format!("{name} is not a complete tar archive"))
        .with_source(copy)
        .with_hint("save or copy the image again")
}

fn unreadable(name: &str, error: io::Error) -> Error {
    let damaged =
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    let unreadable = source_error("read archive", format!("{name} cannot be read: {error}")).with_source(error);
    if damaged { unreadable.with_hint("save or copy the image again") } else { unreadable }
}

/// A reader that gives exactly the promised bytes, or an error it remembers: whoever reads through it (a compressor, a
/// hasher) reports only that reading failed.
struct Exact<'a, R> {
    inner: &'a mut R,
    left: u64,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Exact<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let error = match self.inner.read(buffer) {
            Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
            Ok(n) => {
                self.left -= n as u64;
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let copy = io::Error::new(error.kind(), error.to_string());
        self.failure = Some(error);
        Err(copy)
    }
}

/// How much may be read between two entries: headers, and the long names that some of them carry.
const MAX_HEADERS: u64 = 4 << 20;

/// Bounds what the tar reader takes in at its own will: it reads extension headers whole, and their size is what the
/// archive says.
#[derive(Clone, Default)]
struct Leash(std::rc::Rc<std::cell::Cell<Option<u64>>>);

impl Leash {
    fn headers(&self) {
        self.0.set(Some(MAX_HEADERS));
    }

    fn content(&self) {
        self.0.set(None);
    }
}

struct Leashed<R> {
    inner: R,
    leash: Leash,
}

impl<R: Read> Read for Leashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Some(left) = self.leash.0.get() {
            let left = left.checked_sub(n as u64);
            let left =
                left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a header is larger than 4 MiB"))?;
            self.leash.0.set(Some(left));
        }
        Ok(n)
    }
}

impl<R: io::Seek> io::Seek for Leashed<R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

struct FileReader {
    file: Arc<File>,
    position: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = super::read_file_at(&self.file, buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl io::Seek for FileReader {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(position) => Some(position),
            io::SeekFrom::Current(by) => self.position.checked_add_signed(by),
            io::SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_into_normal_form_and_escapes_are_refused() {
        assert_eq!(normal("./a//b/./c").as_deref(), Some("a/b/c"));
        assert_eq!(normal("../a"), None);
        assert_eq!(normal("a/../b"), None);
        assert_eq!(normal("/etc/passwd"), None);
        assert_eq!(resolve("abc/../def/layer.tar").as_deref(), Some("def/layer.tar"));
        assert_eq!(resolve("../x"), None);
    }

    #[test]
    fn link_loops_end() {
        let mut entries = Entries::default();
        entries.links.insert("a".into(), "/b".into());
        entries.links.insert("b".into(), "/a".into());
        let error = entries.get("a", "x.tar").unwrap_err();
        assert!(error.message().contains("loop of links"), "{}", error.message());
    }

    #[test]
    fn layers_are_told_from_documents() {
        let mut tar = [0; 512];
        assert_eq!(sniff(&tar, "x"), Sniffed::Tar, "an empty tar is zeros");
        tar[0] = b'{';
        assert_eq!(sniff(&tar, "x"), Sniffed::Other);
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(sniff(&tar, "x"), Sniffed::Tar, "a layer whose first file is called {{");
        assert_eq!(sniff(&[0x1f, 0x8b, 8], "x"), Sniffed::Compressed);
        assert_eq!(sniff(b"{}", "blobs/sha256/x"), Sniffed::Other);
    }
}
