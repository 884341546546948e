//! Reading layers and `docker save` archives. Written for the tests alone: nothing here comes from the code under test.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: u8,
    pub mode: u32,
    pub owner: (u64, u64),
    pub modified: u64,
    pub size: u64,
    pub link: Option<Vec<u8>>,
    /// Of its content.
    pub sha256: String,
}

/// What a layer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the whole uncompressed tar.
    pub diff_id: String,
    pub entries: BTreeMap<String, Entry>,
}

/// A digest in hexadecimal.
pub fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Reads an uncompressed layer to its end.
pub fn read_layer(tar: impl Read) -> std::io::Result<Layer> {
    let mut archive = tar::Archive::new(Hashing { inner: BufReader::with_capacity(1 << 18, tar), hash: Sha256::new() });
    let mut entries = BTreeMap::new();
    let mut buffer = vec![0; 1 << 18];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut hash = Sha256::new();
        loop {
            match entry.read(&mut buffer)? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        let header = entry.header();
        let value = Entry {
            kind: header.entry_type().as_byte(),
            mode: header.mode()?,
            owner: (header.uid()?, header.gid()?),
            modified: header.mtime()?,
            size: entry.size(),
            link: entry.link_name_bytes().map(|link| link.into_owned()),
            sha256: hex(hash.finalize()),
        };
        entries.insert(String::from_utf8_lossy(&entry.path_bytes()).into_owned(), value);
    }
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink())?;
    Ok(Layer { diff_id: format!("sha256:{}", hex(rest.hash.finalize())), entries })
}

/// The files of a `docker save` archive, by path.
pub struct DockerArchive {
    file: File,
    entries: BTreeMap<String, Place>,
}

enum Place {
    Bytes { start: u64, size: u64 },
    Link(String),
}

impl DockerArchive {
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let mut archive = tar::Archive::new(File::open(path)?);
        let mut entries = BTreeMap::new();
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            let place = match entry.link_name()? {
                // `../<id>/layer.tar`, from `<id>/layer.tar`.
                Some(link) => Place::Link(link.to_string_lossy().trim_start_matches("../").to_owned()),
                None => Place::Bytes { start: entry.raw_file_position(), size: entry.size() },
            };
            entries.insert(name, place);
        }
        Ok(Self { file: File::open(path)?, entries })
    }

    /// A file's content, as a stream.
    pub fn stream(&self, name: &str) -> std::io::Result<impl Read> {
        let mut name = name;
        for _ in 0..10 {
            match self.entries.get(name) {
                Some(Place::Link(target)) => name = target,
                Some(Place::Bytes { start, size }) => {
                    let mut file = self.file.try_clone()?;
                    file.seek(SeekFrom::Start(*start))?;
                    return Ok(file.take(*size));
                }
                None => break,
            }
        }
        Err(std::io::Error::other(format!("{name} is not in the archive")))
    }

    /// A file's content.
    pub fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.stream(name)?.read_to_end(&mut content)?;
        Ok(content)
    }
}
