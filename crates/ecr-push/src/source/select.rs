//! Which manifests of a layout are pushed: the reference, the platform, the attestations.

use std::cell::Cell;
use std::collections::HashSet;

use bytes::Bytes;

use super::named::{list, no_platform};
use super::pick::{are_one, names_of, pick, with_config};
use super::reference::{Reference, is_equivalent};
use super::{Chosen, Content, Contents, Image, Named, source_error};
use crate::error::{Error, Result};
use crate::image::{Config, Descriptor, Digest, Entry, Kind, Manifest, MediaType, Platform, reindex};
use crate::text;
use crate::text::Setting;
use crate::text::count;

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;

/// How many manifests and configs are read for one image: each platform has four, with its attestation, and there are some twenty of those.
pub(crate) const MAX_DOCUMENTS: usize = 2000;

/// How many bytes they may have together.
const MAX_BYTES: u64 = 64 << 20;

/// What to do with BuildKit's attestations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attestations {
    /// They are pushed with the index.
    #[default]
    Keep,
    /// They are left out: a new index is written, or the single image that is left is pushed.
    Drop,
    /// They are left out, and so is the index: one image is pushed, as AWS Lambda takes it. Several images are refused.
    SingleImage,
}

/// Which part of an image index is wanted.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only the image for this platform.
    pub platform: Option<Platform>,
    /// What to do with attestations.
    pub attestations: Attestations,
}

impl Selection {
    /// True if everything the source holds is pushed.
    pub fn is_everything(&self) -> bool {
        self.platform.is_none() && self.attestations == Attestations::Keep
    }
}

/// The blobs of a layout, by digest.
pub(super) trait Blobs {
    /// What messages call it.
    fn name(&self) -> &str;
    /// The size of a blob, if it is there.
    fn size(&self, digest: &Digest) -> Result<Option<u64>>;
    /// The checked bytes of a small blob.
    fn document(&self, digest: &Digest) -> Result<Bytes>;
    /// The bytes of a blob, if they can still be read.
    fn content(&self, digest: &Digest) -> Result<Option<Content>>;
}

/// What goes up, and which blobs it needs.
#[derive(Debug)]
pub(super) struct Selected {
    /// Children before the index that names them; the last is the root.
    pub(super) manifests: Vec<Manifest>,
    /// Every blob once.
    pub(super) blobs: Vec<Descriptor>,
    pub(super) contents: Contents,
    /// What was asked for.
    pub(super) named: Named,
}

impl Selected {
    /// The image, once its blobs were delivered.
    pub(super) fn chosen(self) -> Chosen {
        Chosen { named: self.named, image: Image::Manifests { manifests: self.manifests, contents: self.contents } }
    }
}

/// Picks the entry of an `index.json` that `reference` names, then what `selection` wants of it.
pub(super) fn select(
    blobs: &dyn Blobs,
    index_json: Bytes,
    reference: Option<&str>,
    selection: &Selection,
) -> Result<Selected> {
    let entries = entries_of(blobs, index_json)?;
    let entry = pick(blobs, &entries, reference)?;
    let by_config = match reference.map(Reference::parse) {
        Some(Reference::Digest(digest)) if digest != entry.descriptor.digest => Some(digest),
        _ => None,
    };
    of_entry(blobs, entry, by_config.as_ref(), selection)
}

/// An image of `manifest.json`: what identifies it beside its place in the list.
pub(super) struct Saved<'a> {
    pub(super) config: Digest,
    /// The digests of its layers as they are stored, base first, where their paths name them.
    pub(super) layers: Option<Vec<Digest>>,
    pub(super) names: &'a [String],
    /// True if the user named the config, and so wants this image and no other of its index.
    pub(super) by_config: bool,
}

/// The image or index of an `index.json` that has the image `saved` of the `manifest.json` beside it, whose order is another one. Of several,
/// the one that has one of its names. `None` if there is none, or it cannot be said which.
pub(super) fn select_saved(
    blobs: &dyn Blobs,
    index_json: Bytes,
    saved: &Saved<'_>,
    selection: &Selection,
) -> Result<Option<Selected>> {
    let entries = entries_of(blobs, index_json)?;
    let mut found = with_config(blobs, &entries, &saved.config, saved.layers.as_deref())?;
    if !are_one(&found) {
        found.retain(|entry| names_of(entry).iter().any(|name| saved.names.iter().any(|own| is_equivalent(own, name))));
    }
    let Some(entry) = found.first().filter(|_| are_one(&found)) else { return Ok(None) };
    let mut selected = of_entry(blobs, entry, saved.by_config.then_some(&saved.config), selection)?;
    // With a platform, another image of the same index may be wanted.
    if selection.platform.is_none() {
        selected.named.config = Some(saved.config);
    }
    Ok(Some(selected))
}

/// What `selection` wants of an entry; of an index only the image of the config `by_config`, where that was named.
fn of_entry(blobs: &dyn Blobs, entry: &Entry, by_config: Option<&Digest>, selection: &Selection) -> Result<Selected> {
    let root = load(blobs, &entry.descriptor)?;
    let Some(config) = by_config else { return from_root(blobs, root, entry.platform.clone(), selection) };
    let walk = Walk::new(blobs);
    let Some(image) = walk.with_config(root, config, None, 0)? else {
        return Err(source_error("read layout", format!("{} has no image of the config {config}", blobs.name())));
    };
    let platform = walk.platform_of(&image);
    let mut selected =
        from_root(blobs, image, None, selection).map_err(|error| match (&selection.platform, platform) {
            (Some(wanted), Some(own)) if !wanted.accepts(&own) => {
                let text =
                    format!("the image of the config {config} in {} is for {own}, not for {wanted}", blobs.name());
                source_error("choose platform", text).with_hint(text![
                    "leave out ",
                    Setting::Platform,
                    ", or name the image for that platform"
                ])
            }
            _ => error,
        })?;
    selected.named.config = Some(*config);
    Ok(selected)
}

fn entries_of(blobs: &dyn Blobs, index_json: Bytes) -> Result<Vec<Entry>> {
    let no_index = || {
        source_error("read layout", format!("the index.json of {} is not an index", blobs.name()))
            .with_hint("save or copy the image again")
    };
    let index = Manifest::parse(index_json, Some(MediaType::OCI_INDEX));
    match index.map_err(|error| no_index().with_source(error))?.kind {
        Kind::Index { entries } => Ok(entries),
        Kind::Image { .. } => Err(no_index()),
    }
}

/// What `selection` wants of the image or index `root`.
pub(super) fn from_root(
    blobs: &dyn Blobs,
    root: Manifest,
    platform: Option<Platform>,
    selection: &Selection,
) -> Result<Selected> {
    let original = root.digest;
    let mut walk = Walk::new(blobs);
    let (root, platform) = match &selection.platform {
        Some(wanted) => walk.for_platform(root, platform, wanted)?,
        None => (root, platform),
    };
    let picked = root.digest;
    let root = match selection.attestations {
        Attestations::Keep => root,
        Attestations::Drop => {
            walk.drops_attestations = true;
            walk.without_attestations(root)?
        }
        Attestations::SingleImage => walk.single_image(root)?,
    };
    let is_index = matches!(root.kind, Kind::Index { .. });
    walk.contents.is_index = is_index;
    walk.contents.digest_changed = root.digest != picked;
    // The platform beside a descriptor speaks of that manifest only.
    let platform = platform.filter(|_| root.digest == picked);
    walk.add(root, platform, 0)?;
    if !walk.missing.is_empty() {
        return Err(walk.incomplete());
    }
    let named = Named {
        root: selection.is_everything().then_some(original),
        config: None,
        platform: selection.platform.clone(),
    };
    Ok(Selected { manifests: walk.manifests, blobs: walk.needed, contents: walk.contents, named })
}

pub(super) struct Walk<'a> {
    blobs: &'a dyn Blobs,
    manifests: Vec<Manifest>,
    /// Their digests.
    added: HashSet<Digest>,
    needed: Vec<Descriptor>,
    /// Their digests.
    required: HashSet<Digest>,
    contents: Contents,
    /// What is not there, in words.
    missing: Vec<String>,
    /// True if attestations are left out, which is done in the root alone.
    drops_attestations: bool,
    /// How many documents have been read, and how many bytes.
    read: Cell<(usize, u64)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(blobs: &'a dyn Blobs) -> Self {
        Self {
            blobs,
            manifests: Vec::new(),
            added: HashSet::new(),
            needed: Vec::new(),
            required: HashSet::new(),
            contents: Contents::default(),
            missing: Vec::new(),
            drops_attestations: false,
            read: Cell::new((0, 0)),
        }
    }

    /// Adds a manifest after everything it names.
    fn add(&mut self, manifest: Manifest, platform: Option<Platform>, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(source_error(
                "read layout",
                format!("the indexes of {} are nested too deep", self.blobs.name()),
            ));
        }
        if !self.added.insert(manifest.digest) {
            return Ok(());
        }
        if let Kind::Index { entries } = &manifest.kind {
            for entry in entries {
                self.add_entry(entry, depth)?;
            }
            self.manifests.push(manifest);
            return Ok(());
        }
        let platform = match platform {
            Some(platform) => Some(platform),
            None => self.platform_of(&manifest),
        };
        let mut complete = true;
        for blob in manifest.blobs() {
            complete &= self.require(blob)?;
        }
        if complete {
            self.contents.platforms.extend(platform);
        } else {
            self.missing.push(platform.map_or_else(|| manifest.digest.short(), |platform| platform.to_string()));
        }
        self.manifests.push(manifest);
        Ok(())
    }

    fn add_entry(&mut self, entry: &Entry, depth: usize) -> Result<()> {
        let named = || match &entry.platform {
            Some(platform) => platform.to_string(),
            None if entry.is_attestation => "an attestation".to_owned(),
            None => entry.descriptor.digest.short(),
        };
        // An index may name the same manifest often: it is read once.
        if self.added.contains(&entry.descriptor.digest) {
            return Ok(());
        }
        if self.blobs.size(&entry.descriptor.digest)?.is_none() {
            self.missing.push(named());
            return Ok(());
        }
        let child = self.load(&entry.descriptor)?;
        if !entry.is_attestation {
            return self.add(child, entry.platform.clone(), depth + 1);
        }
        if self.drops_attestations {
            let text =
                format!("{} holds attestations in an index within an index, which are not left out", self.blobs.name());
            return Err(source_error("drop attestations", text).with_hint("push the inner index, or everything"));
        }
        self.added.insert(child.digest);
        self.contents.attestations += 1;
        for blob in child.blobs() {
            if !self.require(blob)? {
                self.missing.push(format!("the attestation {}", entry.descriptor.digest.short()));
            }
        }
        self.manifests.push(child);
        Ok(())
    }

    /// Notes that a blob is needed. False if it is not there.
    fn require(&mut self, blob: &Descriptor) -> Result<bool> {
        let Some(size) = self.blobs.size(&blob.digest)? else {
            return Ok(false);
        };
        if size != blob.size {
            return Err(source_error(
                "read layout",
                format!(
                    "a manifest in {} says that {} has {}, but it has {size}",
                    self.blobs.name(),
                    blob.digest,
                    count(blob.size, "byte", "bytes")
                ),
            ));
        }
        if self.required.insert(blob.digest) {
            self.needed.push(blob.clone());
        }
        Ok(true)
    }

    /// The platform an image's config names. Artifacts have none.
    fn platform_of(&self, manifest: &Manifest) -> Option<Platform> {
        let document = self.blobs.document(&manifest.config_digest()?).ok()?;
        self.count(&document).ok()?;
        Config::parse(&document).ok().filter(|config| config.names_platform).map(|config| config.platform)
    }

    /// The manifest a descriptor points at, checked and counted.
    pub(super) fn load(&self, descriptor: &Descriptor) -> Result<Manifest> {
        let manifest = load(self.blobs, descriptor)?;
        self.count(&manifest.bytes)?;
        Ok(manifest)
    }

    /// Ends what would take hours or all memory: an index of some MiB can name others without end.
    fn count(&self, document: &Bytes) -> Result<()> {
        let (documents, bytes) = self.read.get();
        let (documents, bytes) = (documents + 1, bytes + document.len() as u64);
        self.read.set((documents, bytes));
        if documents > MAX_DOCUMENTS || bytes > MAX_BYTES {
            let name = self.blobs.name();
            return Err(source_error(
                "read image",
                format!(
                    "an index in {name} leads to over {MAX_DOCUMENTS} manifests and configs, or to over 64 MiB of them"
                ),
            )
            .with_hint("no image has so many; push them one by one"));
        }
        Ok(())
    }

    /// The image for one platform, and what it is for.
    fn for_platform(
        &self,
        root: Manifest,
        platform: Option<Platform>,
        wanted: &Platform,
    ) -> Result<(Manifest, Option<Platform>)> {
        let Kind::Index { entries } = &root.kind else {
            let own = platform.or_else(|| self.platform_of(&root));
            return match own {
                Some(own) if wanted.accepts(&own) => Ok((root, Some(own))),
                own => Err(no_platform(self.blobs.name(), wanted, own.as_slice())),
            };
        };
        let mut there = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_attestation) {
            if self.blobs.size(&entry.descriptor.digest)?.is_none() {
                continue;
            }
            let child = self.load(&entry.descriptor)?;
            if matches!(child.kind, Kind::Index { .. }) {
                return Err(source_error(
                    "choose platform",
                    format!("{} holds an index within an index", self.blobs.name()),
                ));
            }
            if let Some(own) = self.platform_in(entry, &child, wanted)? {
                there.push((child, own));
            }
        }
        // One image may be listed more than once.
        there.dedup_by_key(|(child, _)| child.digest);
        match wanted.choose(&there) {
            Ok((child, own)) => Ok((child.clone(), Some(own.clone()))),
            Err(several) if !several.is_empty() => {
                let listed: Vec<_> = several.iter().map(|(_, own)| own.clone()).collect();
                let text = format!("{} has several images for {wanted}: {}", self.blobs.name(), list(&listed));
                Err(source_error("choose platform", text).with_hint("name the variant, or push the whole index"))
            }
            Err(_) => {
                let present: Vec<_> = there.into_iter().map(|(_, own)| own).collect();
                Err(no_platform(self.blobs.name(), wanted, &present))
            }
        }
    }

    /// What an index and the image's own config say that it is for. They may differ in the variant alone: whoever
    /// runs the image then reads one thing in one and another in the other.
    fn platform_in(&self, entry: &Entry, child: &Manifest, wanted: &Platform) -> Result<Option<Platform>> {
        let (listed, own) = (entry.platform.clone(), self.platform_of(child));
        match (&listed, &own) {
            (Some(listed), Some(own))
                if !listed.is_kind_of(own) && [listed, own].iter().any(|one| wanted.accepts(one)) =>
            {
                let digest = child.digest.short();
                let text = format!(
                    "the index in {} says that {digest} is for {listed}, and its config says {own}",
                    self.blobs.name()
                );
                Err(source_error("choose platform", text).with_hint("build the image again, or push the whole index"))
            }
            _ => Ok(listed.or(own)),
        }
    }

    /// The image of this config, and of these layers where they are given: `manifest`, or one below it. What is not there is no such image.
    pub(super) fn with_config(
        &self,
        manifest: Manifest,
        config: &Digest,
        layers: Option<&[Digest]>,
        depth: usize,
    ) -> Result<Option<Manifest>> {
        let entries = match &manifest.kind {
            Kind::Index { entries } => entries,
            Kind::Image { config: own, layers: stored } => {
                let is_it = own.digest == *config
                    && layers.is_none_or(|layers| stored.iter().map(|layer| &layer.digest).eq(layers));
                return Ok(is_it.then_some(manifest));
            }
        };
        for entry in entries.iter().filter(|entry| !entry.is_attestation) {
            if depth == MAX_DEPTH || self.blobs.size(&entry.descriptor.digest)?.is_none() {
                continue;
            }
            let child = self.load(&entry.descriptor)?;
            if let Some(found) = self.with_config(child, config, layers, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The index without attestations, or the single image that is left.
    fn without_attestations(&self, root: Manifest) -> Result<Manifest> {
        let Kind::Index { entries } = &root.kind else {
            return Ok(root);
        };
        let left: Vec<_> = entries.iter().filter(|entry| !entry.is_attestation).collect();
        match left.as_slice() {
            _ if left.len() == entries.len() => Ok(root),
            [] => {
                Err(source_error("drop attestations", format!("{} holds nothing but attestations", self.blobs.name())))
            }
            [single] if self.blobs.size(&single.descriptor.digest)?.is_some() => self.load(&single.descriptor),
            _ => reindex(&root, |entry| !entry.is_attestation),
        }
    }

    /// The one image that an index holds, without the index.
    fn single_image(&self, root: Manifest) -> Result<Manifest> {
        let mut root = root;
        // What is loaded is counted, so that an index within an index comes to an end.
        while let Kind::Index { entries } = &root.kind {
            let images: Vec<_> = entries.iter().filter(|entry| !entry.is_attestation).collect();
            root = match images.as_slice() {
                [] => return Err(source_error("choose image", format!("{} holds no image", self.blobs.name()))),
                [single] if self.blobs.size(&single.descriptor.digest)?.is_some() => self.load(&single.descriptor)?,
                [_] => return Ok(root),
                several => {
                    let platforms: Vec<_> = several.iter().filter_map(|entry| entry.platform.clone()).collect();
                    let text = format!(
                        "{} holds {} images ({}), and a single one is wanted",
                        self.blobs.name(),
                        several.len(),
                        list(&platforms)
                    );
                    let error = source_error("choose image", text);
                    return Err(match platforms.first() {
                        Some(platform) => {
                            error.with_hint(text!["name its platform: ", Setting::Platform.with(platform)])
                        }
                        None => error,
                    });
                }
            };
        }
        Ok(root)
    }

    fn incomplete(&self) -> Error {
        let present = match self.contents.platforms.as_slice() {
            [] => String::new(),
            platforms => format!(" (present: {})", list(platforms)),
        };
        let error = source_error(
            "read image",
            format!("{} lacks the content of {}{present}", self.blobs.name(), self.missing.join(", ")),
        );
        match self.contents.platforms.first() {
            Some(platform) => error.with_hint(text![
                "push one platform with ",
                Setting::Platform.with(platform),
                ", or pull the others first"
            ]),
            None => error.with_hint("pull or build the image again"),
        }
    }
}

/// The manifest a descriptor points at, checked.
fn load(blobs: &dyn Blobs, descriptor: &Descriptor) -> Result<Manifest> {
    let bytes = blobs.document(&descriptor.digest)?;
    if bytes.len() as u64 != descriptor.size {
        return Err(source_error(
            "read layout",
            format!(
                "{} says that {} has {}, but it has {}",
                blobs.name(),
                descriptor.digest,
                count(descriptor.size, "byte", "bytes"),
                bytes.len()
            ),
        ));
    }
    Manifest::parse(bytes, Some(&descriptor.media_type))
}
