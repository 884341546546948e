//! One layer, and its tar.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use super::crc64::Crc64;
use super::tar_split::{Entries, Entry};
use super::tree::Tree;
use crate::image::DiffId;

/// A layer in the store.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(super) diff_id: DiffId,
    pub(super) size_hint: u64,
    /// The tar without the content of files.
    pub(super) tar_split: PathBuf,
    /// The directory with the files.
    pub(super) files: PathBuf,
}

impl Layer {
    /// The digest that its tar has.
    pub fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// About how many bytes it has.
    pub fn size_hint(&self) -> u64 {
        self.size_hint
    }

    /// Its tar, byte for byte as the engine once took it in. Only the sums of single files are checked on the way: the
    /// caller has to make sure that the whole has the diff id.
    ///
    /// # Errors
    /// If the layer cannot be read. Reading fails if the store is damaged, or the layer is removed meanwhile.
    pub fn open(&self) -> io::Result<LayerReader> {
        let (entries, tree) = (self.entries()?, Tree::new(self.files.clone()));
        let next = Next::Segment { at: 0 };
        Ok(LayerReader { layer: self.clone(), entries, tree, segment: Vec::new(), next })
    }

    /// Fails if the layer cannot be read at all.
    pub(super) fn check(&self) -> io::Result<()> {
        self.entries()?;
        let wrong = |kind, how: String| self.named(io::Error::new(kind, format!("{} {how}", self.files.display())));
        let metadata = fs::symlink_metadata(&self.files)
            .map_err(|error| wrong(error.kind(), format!("cannot be read: {error}")))?;
        if !metadata.is_dir() {
            return Err(wrong(io::ErrorKind::InvalidData, "is no directory".into()));
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Entries> {
        Entries::open(&self.tar_split).map_err(|error| {
            self.named(io::Error::new(error.kind(), format!("{} cannot be read: {error}", self.tar_split.display())))
        })
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("layer {}: {error}", self.diff_id))
    }
}

/// Reads a layer's tar.
pub struct LayerReader {
    layer: Layer,
    entries: Entries,
    tree: Tree,
    segment: Vec<u8>,
    next: Next,
}

/// What the next byte is of.
enum Next {
    Segment { at: usize },
    File(OpenFile),
    End,
    Failed,
}

struct OpenFile {
    name: Vec<u8>,
    file: File,
    left: u64,
    sum: Crc64,
    expected: u64,
}

impl LayerReader {
    /// Reads from what is next, and goes on to what follows when that ends. 0 at the end of the tar.
    fn read_next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.next {
                Next::Segment { at } if *at < self.segment.len() => {
                    let rest = &self.segment[*at..];
                    let n = rest.len().min(buffer.len());
                    buffer[..n].copy_from_slice(&rest[..n]);
                    *at += n;
                    return Ok(n);
                }
                Next::File(file) if file.left > 0 => {
                    return file.read(buffer).map_err(|error| of_file(&file.name, error));
                }
                Next::End => return Ok(0),
                Next::Failed => return Err(damaged("reading has failed before")),
                Next::Segment { .. } | Next::File(_) => self.advance()?,
            }
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        self.next = match self.entries.next(&mut self.segment)? {
            None => Next::End,
            Some(Entry::Segment) => Next::Segment { at: 0 },
            Some(Entry::File(content)) if content.size == 0 => Next::Segment { at: self.segment.len() },
            Some(Entry::File(content)) => {
                let file =
                    self.tree.open(&content.name, content.size).map_err(|error| of_file(&content.name, error))?;
                let (left, expected) = (content.size, content.crc64);
                Next::File(OpenFile { name: content.name.into_owned(), file, left, sum: Crc64::default(), expected })
            }
        };
        Ok(())
    }
}

impl OpenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.file.read(&mut buffer[..limit])?;
        if n == 0 {
            return Err(damaged("ends early"));
        }
        self.sum.update(&buffer[..n]);
        self.left -= n as u64;
        if self.left == 0 && self.sum.value() != self.expected {
            return Err(damaged("is not as it was when the layer was made"));
        }
        Ok(n)
    }
}

impl Read for LayerReader {
    /// Fills `buffer`, unless the tar ends: most entries are short, and callers like to have much at once.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_next(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.next = Next::Failed;
                    return Err(self.layer.named(error));
                }
            }
        }
        Ok(filled)
    }
}

fn of_file(name: &[u8], error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", name.escape_ascii()))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
