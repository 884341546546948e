//! Archives and layouts that nobody made with good intent: see [`crate::fuzzing`].

use std::fs;
use std::io;
use std::path::{Component, Path};

use tempfile::TempDir;

use super::archive::{Archive, Input};
use super::layout::OciLayout;
use super::tar_index::{Entries, Mode, Wanted};
use super::{Attestations, Image, Preview, Selection, Source};
use crate::error::Result;
use crate::fuzzing::check_error;
use crate::fuzzing::recipe::{self, Document};
use crate::fuzzing::sink::Sink;
use crate::image::{DiffId, Digest, Platform};

thread_local! {
    /// A folder of this thread's own, for what can only be read from a file.
    static FOLDER: TempDir = TempDir::new().expect("there is a folder for temporary files");
}

/// What the first byte of an input chooses.
struct Choice {
    mode: Mode,
    gzipped: bool,
    is_recipe: bool,
    selection: Selection,
    reference: Option<&'static str>,
    as_export: bool,
}

impl Choice {
    fn of(byte: u8) -> Self {
        let bit = |at: u8| byte >> at & 1 == 1;
        Self {
            mode: if bit(0) { Mode::Oci } else { Mode::Docker },
            gzipped: bit(1),
            is_recipe: bit(2),
            selection: Selection {
                platform: bit(3).then(|| Platform::new("linux", "amd64", None)),
                attestations: if bit(4) { Attestations::Drop } else { Attestations::Keep },
            },
            reference: [None, Some("@1"), Some("two:1"), None][usize::from(byte >> 5 & 3)],
            as_export: bit(7),
        }
    }
}

/// Reads archives. The first byte chooses how (see `Choice`), the rest is a tar, plain or compressed, or a recipe for one.
pub fn archive(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let choice = Choice::of(*first);
    let documents = if choice.is_recipe { recipe::documents(rest) } else { Vec::new() };
    let made = recipe::tar(&documents);
    let tar = if choice.is_recipe { &made } else { rest };
    if choice.as_export {
        return export(tar, choice.mode, &documents);
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("archive");
        let written = if choice.gzipped { fs::write(&path, recipe::gzip(tar)) } else { fs::write(&path, tar) };
        written.expect("the temporary file can be written");
        match Archive::open(&path, choice.mode, choice.reference, &choice.selection) {
            Ok(archive) => drop(read(archive)),
            Err(error) => check_error(&error),
        }
    });
    // The same as a stream: what both ways can read is the same image.
    if !choice.gzipped {
        let input = Input::Stream { reader: Box::new(io::Cursor::new(tar.to_vec())), all_needed: tar.len() % 2 == 0 };
        let reference = choice.reference.map(str::to_owned);
        let (mode, selection) = (choice.mode, choice.selection);
        drop(read(Archive { name: "a stream".into(), mode, reference, selection, input }));
    }
}

/// Reads layouts. The first byte chooses how, the rest is a recipe.
pub fn layout(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let choice = Choice::of(*first);
    FOLDER.with(|folder| {
        let path = folder.path().join("layout");
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(path.join("blobs/sha256")).expect("the temporary folder can be written");
        recipe::documents(rest).iter().for_each(|document| write(&path, document));
        match OciLayout::open(&path, choice.reference, &choice.selection) {
            Ok(layout) => drop(read(layout)),
            Err(error) => check_error(&error),
        }
    });
}

/// Puts a document into the layout; those that would lie outside of it are left out.
fn write(layout: &Path, document: &Document) {
    let path = Path::new(&document.path);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_inside || path.components().count() > 4 || document.path.contains('\0') {
        return;
    }
    let path = layout.join(path);
    // Not a name that a file system takes, or a folder in its place: the layout lacks it.
    drop(path.parent().map(fs::create_dir_all));
    drop(match &document.link {
        #[cfg(unix)]
        Some((target, false)) => std::os::unix::fs::symlink(target, path),
        _ => fs::write(path, &document.bytes),
    });
}

fn read(source: impl Source) -> Result<Image> {
    let preview = source.preview();
    let mut sink = Sink::default();
    let read = Box::new(source).read(&mut sink);
    let read = read.and_then(|chosen| chosen.named.check(&chosen.image).map(|()| chosen.image));
    match &read {
        Ok(image) => {
            sink.check(image);
            check_preview(&preview, image);
        }
        Err(error) => check_error(error),
    }
    read
}

/// What was said beforehand holds of what was read.
fn check_preview(preview: &Preview, image: &Image) {
    match image {
        Image::Layers { config, diff_ids, .. } => {
            assert!(preview.config_digest.is_none_or(|digest| digest == config.digest()));
            assert!(preview.diff_ids.is_empty() || preview.diff_ids == *diff_ids);
            assert_eq!(preview.root_digest, None);
        }
        Image::Manifests { manifests, .. } => {
            let root = manifests.last().map(|root| root.digest);
            assert!(preview.root_digest.is_none() || preview.root_digest == root);
            let blobs = || manifests.iter().flat_map(crate::image::Manifest::blobs);
            assert!(preview.blobs.iter().all(|digest| blobs().any(|blob| blob.digest == *digest)));
        }
    }
}

/// An engine's export, of which the image is known beforehand: the last document is its config, the others may be layers, and the first
/// is not needed.
fn export(tar: &[u8], mode: Mode, documents: &[Document]) {
    let mut known: Vec<Digest> = documents.iter().map(|document| Digest::of(&document.bytes)).collect();
    let config = known.pop().unwrap_or_else(|| Digest::of(tar));
    let layers: Vec<DiffId> = known.into_iter().map(DiffId).collect();
    let there: Vec<DiffId> = layers.iter().take(1).copied().collect();
    let mut sink = Sink::with(there);
    let mut wanted = Wanted::new(&layers, layers.iter().skip(1).copied().collect(), &config);
    match Entries::of_stream(tar, "the export", mode, Some(&mut wanted), &mut sink) {
        Ok(entries) => {
            let found = wanted.config(&entries, "the export");
            assert!(!wanted.is_all() || found.is_err() || found.is_ok_and(|found| found.is_some()));
        }
        Err(error) => check_error(&error),
    }
}
