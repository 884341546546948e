//! Images in a tar: `docker save` in all its forms, and OCI layouts.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;

use super::layout::{deliver, preview_of};
use super::named::no_platform;
use super::pick::ambiguous;
use super::reference::{Reference, named};
use super::select::{Blobs, Saved, Selected, Selection, select, select_saved};
use super::tar_index::{Entries, Mode, Sniffed, Stored, sniff, wrong_digest};
use super::{
    Chosen, ConfigBlob, Content, Contents, Image, LayerRef, LayerSink, Named, Preview, Source, StoredLayer,
    source_error,
};
use crate::compress::{Bounded, MOST_UNPACKED};
use crate::error::{Error, Result};
use crate::image::{Config, DiffId, Digest};
use crate::text::count;

/// An image in a tar.
pub(super) struct Archive {
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) reference: Option<String>,
    pub(super) selection: Selection,
    pub(super) input: Input,
}

/// Where the tar comes from.
pub(super) enum Input {
    /// A file whose layers can be read at any time.
    File { entries: Entries, found: Box<Found> },
    /// A stream that passes once.
    Stream {
        reader: Box<dyn Read + Send>,
        /// True if every layer in it is needed, so that sending may start before its end.
        all_needed: bool,
    },
}

/// Which image of an archive is pushed.
pub(super) enum Found {
    /// The manifest will be ours.
    Docker(DockerImage),
    /// Manifests that exist.
    Stored(Selected),
}

/// An entry of `manifest.json`, resolved.
pub(super) struct DockerImage {
    config: Bytes,
    parsed: Config,
    layers: Vec<String>,
    named: Named,
}

impl Archive {
    /// Opens a tar file; `-` is standard input.
    pub(super) fn open(path: &Path, mode: Mode, reference: Option<&str>, selection: &Selection) -> Result<Self> {
        let transport = if mode == Mode::Oci { "oci-archive" } else { "docker-archive" };
        let mut archive = Self {
            name: format!("{transport}:{}", path.display()),
            mode,
            reference: reference.map(str::to_owned),
            selection: selection.clone(),
            input: Input::Stream { reader: Box::new(io::empty()), all_needed: false },
        };
        if path.as_os_str() == "-" {
            archive.name = format!("{transport} on standard input");
            archive.input = Input::Stream { reader: plain(Box::new(io::stdin()), &archive.name)?, all_needed: false };
            return Ok(archive);
        }
        let refuse = |what: String| source_error("open archive", format!("{} {what}", archive.name));
        // Windows opens no directory as a file, and says no more than that access is denied.
        if path.is_dir() {
            return Err(refuse("is a directory".into()).with_hint("for an OCI layout in a directory write `oci:DIR`"));
        }
        let mut file = File::open(path).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::NotFound => "does not exist".to_owned(),
                _ => format!("cannot be opened: {error}"),
            };
            refuse(what).with_source(error)
        })?;
        let unreadable = |error: io::Error| refuse(format!("cannot be read: {error}")).with_source(error);
        let is_file = file.metadata().map_err(unreadable)?.is_file();
        let head = if is_file { head_of_file(&mut file).map_err(unreadable)? } else { Vec::new() };
        refuse_packed(&head, &archive.name)?;
        if !is_file || head.starts_with(&GZIP) {
            archive.input = Input::Stream { reader: plain(Box::new(file), &archive.name)?, all_needed: false };
            return Ok(archive);
        }
        if head.is_empty() {
            return Err(refuse("is empty".into()));
        }
        let entries = Entries::of_file(file, &archive.name)?;
        let found = find(&entries, &archive.name, mode, reference, selection)?;
        archive.input = Input::File { entries, found: Box::new(found) };
        Ok(archive)
    }
}

impl Source for Archive {
    fn preview(&self) -> Preview {
        match &self.input {
            Input::File { found, .. } => match &**found {
                Found::Docker(image) => image.preview(),
                Found::Stored(selected) => preview_of(selected),
            },
            Input::Stream { .. } => Preview::default(),
        }
    }

    fn read(self: Box<Self>, sink: &mut dyn LayerSink) -> Result<Chosen> {
        let name = self.name;
        match self.input {
            Input::File { entries, found } => found.deliver(&entries, &name, sink),
            Input::Stream { reader, all_needed } => {
                if !all_needed {
                    sink.hold();
                }
                let entries = Entries::of_stream(reader, &name, self.mode, None, sink)?;
                let found = find(&entries, &name, self.mode, self.reference.as_deref(), &self.selection)?;
                let chosen = found.deliver(&entries, &name, sink)?;
                let image = &chosen.image;
                if !all_needed {
                    sink.release(image, &|held| needs(image, held.digest, held.diff_id))?;
                }
                Ok(chosen)
            }
        }
    }
}

impl Found {
    /// Delivers what did not pass already.
    pub(super) fn deliver(self, entries: &Entries, name: &str, sink: &mut dyn LayerSink) -> Result<Chosen> {
        match self {
            Self::Docker(image) => image.deliver(entries, name, sink),
            Self::Stored(selected) => deliver(&View { entries, name }, selected, sink),
        }
    }
}

/// True if the image has this layer.
fn needs(image: &Image, digest: Digest, diff_id: Option<DiffId>) -> bool {
    match image {
        Image::Layers { layers, .. } => layers.iter().any(|layer| {
            *layer == LayerRef::Blob(digest) || diff_id.is_some_and(|diff_id| *layer == LayerRef::Uncompressed(diff_id))
        }),
        Image::Manifests { manifests, .. } => {
            manifests.iter().any(|manifest| manifest.blobs().any(|blob| blob.digest == digest))
        }
    }
}

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The beginnings of files that are packed in a way that is not read, and what unpacks them to standard output.
const PACKED: [(&[u8], &str, &str); 5] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd", "zstd -dc"),
    (&[0xfd, b'7', b'z', b'X'], "compressed with xz", "xz -dc"),
    (b"BZh", "compressed with bzip2", "bzip2 -dc"),
    (&[0x04, 0x22, 0x4d, 0x18], "compressed with lz4", "lz4 -dc"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
];

fn refuse_packed(head: &[u8], name: &str) -> Result<()> {
    let Some((_, how, unpack)) = PACKED.iter().find(|(begin, ..)| head.starts_with(begin)) else { return Ok(()) };
    Err(source_error("open archive", format!("{name} is {how}, which is not read"))
        .with_hint(format!("unpack it first: `{unpack} FILE | ecr-push push docker-archive:- ...`")))
}

/// The first four bytes of a file that is read from its start afterwards. On Windows even a read at an offset moves where the next one
/// begins, so it is put back and not left to the system.
fn head_of_file(file: &mut File) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    file.by_ref().take(4).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(head)
}

/// Unpacks a gzip stream; an uncompressed one stays as it is.
fn plain(mut reader: Box<dyn Read + Send>, name: &str) -> Result<Box<dyn Read + Send>> {
    let mut head = Vec::new();
    reader
        .by_ref()
        .take(4)
        .read_to_end(&mut head)
        .map_err(|error| source_error("open archive", format!("{name} cannot be read: {error}")).with_source(error))?;
    if head.is_empty() {
        return Err(source_error("open archive", format!("{name} is empty")));
    }
    refuse_packed(&head, name)?;
    let gzip = head.starts_with(&GZIP);
    let whole = io::Cursor::new(head).chain(reader);
    if gzip {
        // Some tools write several members; all of them are the stream.
        let unpacked = flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(256 * 1024, whole));
        return Ok(Box::new(Bounded::new(unpacked, MOST_UNPACKED)));
    }
    Ok(Box::new(whole))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Finds the image in an archive whose entries are known.
pub(super) fn find(
    entries: &Entries,
    name: &str,
    mode: Mode,
    reference: Option<&str>,
    selection: &Selection,
) -> Result<Found> {
    let foreign = |what: &str| {
        source_error("read archive", format!("{name} is no image archive: {what}"))
            .with_hint("`docker save`, `podman save` and `skopeo copy` write archives that can be pushed")
    };
    if entries.is_empty() {
        return Err(foreign("it has no entries"));
    }
    let index = entries.document("index.json", name)?;
    if mode == Mode::Oci {
        let index = index.ok_or_else(|| {
            let error = foreign("it has no index.json");
            let docker = entries.document("manifest.json", name).is_ok_and(|found| found.is_some());
            if docker { error.with_hint("it has a manifest.json: write `docker-archive:FILE`") } else { error }
        })?;
        return Ok(Found::Stored(select(&View { entries, name }, index, reference, selection)?));
    }
    let Some(saved) = entries.document("manifest.json", name)? else {
        let error = foreign("it has no manifest.json");
        return Err(if index.is_some() {
            error.with_hint("it has an index.json: write `oci-archive:FILE`")
        } else {
            error
        });
    };
    let saved: Vec<SavedImage> = serde_json::from_slice(&saved)
        .map_err(|error| foreign("its manifest.json cannot be understood").with_source(error))?;
    let chosen = choose(entries, &saved, name, reference)?;
    let by_config = match reference.map(Reference::parse) {
        Some(Reference::Digest(digest)) => Some(digest),
        _ => None,
    };
    // Said once: what is read later may be another file by then.
    let config = match by_config {
        Some(digest) => digest,
        None => config_of(entries, name, chosen)?.0,
    };
    // An archive of a containerd store holds the manifests as they are in the registry. They are pushed as such, if they
    // name compressed layers; an archive of a classic store has an index.json too, but of uncompressed layers.
    if let Some(index) = index
        && has_compressed_layer(entries, name, chosen)?
    {
        let names = chosen.repo_tags.as_deref().unwrap_or_default();
        let saved = Saved { config, layers: chosen.blobs(), names, by_config: by_config.is_some() };
        if let Some(selected) = select_saved(&View { entries, name }, index, &saved, selection)? {
            return Ok(Found::Stored(selected));
        }
    }
    let named = Named { root: None, config: Some(config), platform: selection.platform.clone() };
    Ok(Found::Docker(docker_image(entries, name, chosen, named)?))
}

impl SavedImage {
    /// The digests of its layers, where all paths name them.
    fn blobs(&self) -> Option<Vec<Digest>> {
        self.layers.iter().map(|path| Digest::from_hex(path.strip_prefix("blobs/sha256/")?).ok()).collect()
    }
}

/// The one entry of `manifest.json` that `reference` means. Its order is that of the numbers.
fn choose<'a>(
    entries: &Entries,
    saved: &'a [SavedImage],
    name: &str,
    reference: Option<&str>,
) -> Result<&'a SavedImage> {
    let label = |number: usize| match saved[number].repo_tags.iter().flatten().next() {
        Some(tag) => format!("{tag} (@{number})"),
        None => format!("@{number}"),
    };
    let labels = |numbers: &[usize]| numbers.iter().map(|number| label(*number)).collect::<Vec<_>>().join(", ");
    let all: Vec<usize> = (0..saved.len()).collect();
    let fail = |what: String| source_error("read archive", format!("{name} {what}: {}", labels(&all)));
    let Some(reference) = reference else {
        return match saved {
            [image] => Ok(image),
            [] => Err(source_error("read archive", format!("{name} holds no image"))),
            _ => Err(fail(format!("holds {} images", saved.len())).with_hint("add `:REFERENCE` to say which one")),
        };
    };
    let found: Vec<usize> = match Reference::parse(reference) {
        Reference::Number(number) => {
            return saved.get(number).ok_or_else(|| fail(format!("has no image number {number}; present")));
        }
        Reference::Digest(digest) => {
            let mut found = Vec::new();
            for (number, image) in saved.iter().enumerate() {
                if config_of(entries, name, image)?.0 == digest {
                    found.push(number);
                }
            }
            found
        }
        // It has tags, and digests of configs alone.
        Reference::Pinned(..) => Vec::new(),
        Reference::Name(reference) => {
            let tags = |image: &'a SavedImage| image.repo_tags.iter().flatten().map(String::as_str).collect();
            named(reference, saved.iter().enumerate().map(|(number, image)| (number, tags(image))))
        }
    };
    let is_same = |number: &usize| {
        let (first, other) = (&saved[found[0]], &saved[*number]);
        first.config == other.config && first.layers == other.layers
    };
    match found.first() {
        None => Err(fail(format!("has no image `{reference}`; present"))),
        Some(first) if found.iter().all(is_same) => Ok(&saved[*first]),
        Some(_) => Err(ambiguous(name, reference, &labels(&found))),
    }
}

/// The config of an image in `manifest.json`, and its digest, which its path may name.
fn config_of(entries: &Entries, name: &str, image: &SavedImage) -> Result<(Digest, Bytes)> {
    let config = entries.document(&image.config, name)?.ok_or_else(|| {
        source_error("read archive", format!("{name} lacks the config {:?} that its manifest.json names", image.config))
    })?;
    let actual = Digest::of(&config);
    let file = image.config.rsplit('/').next().unwrap_or_default();
    match Digest::from_hex(file.strip_suffix(".json").unwrap_or(file)) {
        Ok(named) if named != actual => Err(wrong_digest(&image.config, actual)),
        _ => Ok((actual, config)),
    }
}

fn has_compressed_layer(entries: &Entries, name: &str, image: &SavedImage) -> Result<bool> {
    for path in &image.layers {
        match entries.get(path, name)? {
            Some(Stored::Content(content)) if head_of(content, path, name)? == Sniffed::Compressed => return Ok(true),
            Some(Stored::Passed { layer: LayerRef::Blob(_), .. }) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

fn head_of(content: &Content, path: &str, name: &str) -> Result<Sniffed> {
    let mut head = [0; 512];
    let n = content.read_at(&mut head, 0).map_err(|error| {
        source_error("read archive", format!("the entry {path:?} of {name} cannot be read: {error}")).with_source(error)
    })?;
    Ok(sniff(&head[..n], path))
}

fn docker_image(entries: &Entries, name: &str, image: &SavedImage, named: Named) -> Result<DockerImage> {
    let (_, config) = config_of(entries, name, image)?;
    let parsed = Config::parse(&config)?;
    if parsed.diff_ids.len() != image.layers.len() {
        return Err(source_error(
            "read archive",
            format!(
                "the manifest.json of {name} lists {}, but the config {}",
                count(image.layers.len(), "layer", "layers"),
                parsed.diff_ids.len()
            ),
        ));
    }
    if let Some(wanted) = &named.platform
        && !(parsed.names_platform && wanted.accepts(&parsed.platform))
    {
        let own = parsed.names_platform.then_some(&parsed.platform);
        return Err(no_platform(name, wanted, own.map(std::slice::from_ref).unwrap_or_default()));
    }
    for path in &image.layers {
        if entries.get(path, name)?.is_none() {
            return Err(source_error(
                "read archive",
                format!("{name} lacks the layer {path:?} that its manifest.json names"),
            ));
        }
    }
    Ok(DockerImage { config, parsed, layers: image.layers.clone(), named })
}

impl DockerImage {
    fn preview(&self) -> Preview {
        Preview {
            config_digest: Some(Digest::of(&self.config)),
            diff_ids: self.parsed.diff_ids.clone(),
            platform: Some(self.parsed.platform.clone()),
            layers: Some(self.parsed.diff_ids.iter().collect::<HashSet<_>>().len()),
            contents: Contents { platforms: vec![self.parsed.platform.clone()], ..Contents::default() },
            ..Preview::default()
        }
    }

    /// Delivers the layers that did not pass already, and checks each against the config's diff id.
    fn deliver(self, entries: &Entries, name: &str, sink: &mut dyn LayerSink) -> Result<Chosen> {
        let mut delivered: HashMap<DiffId, LayerRef> = HashMap::new();
        let mut layers = Vec::new();
        let mut uncompressed = Vec::new();
        for (path, expected) in self.layers.iter().zip(&self.parsed.diff_ids) {
            if let Some(layer) = delivered.get(expected) {
                layers.push(*layer);
                continue;
            }
            let stored = entries.get(path, name)?.ok_or_else(|| lacks(name, path))?;
            let (layer, actual) = match stored {
                Stored::Passed { layer, diff_id, .. } => (*layer, *diff_id),
                Stored::Content(content) if head_of(content, path, name)? == Sniffed::Compressed => {
                    let mut reader = content.reader().map_err(|error| unreadable(path, name, error))?;
                    let (digest, diff_id) = sink.blob(None, content.len(), &mut reader, true)?;
                    (LayerRef::Blob(digest), diff_id)
                }
                Stored::Content(content) => {
                    uncompressed.push(stored_layer(content, path, name, *expected));
                    (LayerRef::Uncompressed(*expected), Some(*expected))
                }
            };
            if actual != Some(*expected) {
                let actual = actual.map_or_else(|| "unknown".to_owned(), |actual| actual.to_string());
                return Err(source_error(
                    "check layer",
                    format!("the layer {path:?} of {name} is not the one its config names: its diff id is {actual}, not {expected}"),
                )
                .with_hint("save or copy the image again"));
            }
            delivered.insert(*expected, layer);
            layers.push(layer);
        }
        sink.layers(uncompressed)?;
        let Config { diff_ids, platform, .. } = self.parsed;
        let image = Image::Layers { config: ConfigBlob::Bytes(self.config), diff_ids, layers, platform };
        Ok(Chosen { named: self.named, image })
    }
}

fn stored_layer(content: &Content, path: &str, name: &str, diff_id: DiffId) -> StoredLayer {
    let name = format!("the layer {path:?} of {name}");
    let (size, content) = (content.len(), content.clone());
    StoredLayer { diff_id, size, name, open: Box::new(move || Ok(Box::new(content.reader()?))) }
}

fn unreadable(path: &str, name: &str, error: io::Error) -> Error {
    source_error("read archive", format!("the entry {path:?} of {name} cannot be read: {error}")).with_source(error)
}

fn lacks(name: &str, path: &str) -> Error {
    source_error("read archive", format!("{name} lacks the layer {path:?}"))
}

/// The blobs of a layout in a tar.
struct View<'a> {
    entries: &'a Entries,
    name: &'a str,
}

impl View<'_> {
    fn get(&self, digest: &Digest) -> Result<Option<&Stored>> {
        self.entries.get(&path_of(digest), self.name)
    }
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Blobs for View<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.get(digest)?.map(Stored::size))
    }

    fn document(&self, digest: &Digest) -> Result<Bytes> {
        let bytes = self
            .entries
            .document(&path_of(digest), self.name)?
            .ok_or_else(|| source_error("read archive", format!("{} lacks the blob {digest}", self.name)))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(wrong_digest(&path_of(digest), actual));
        }
        Ok(bytes)
    }

    fn content(&self, digest: &Digest) -> Result<Option<Content>> {
        Ok(match self.get(digest)? {
            Some(Stored::Content(content)) => Some(content.clone()),
            _ => None,
        })
    }
}
