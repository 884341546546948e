//! Which entry of an `index.json` is meant.

use super::reference::{Reference, is_equivalent, is_exact};
use super::select::{Blobs, Walk};
use super::source_error;
use crate::error::{Error, Result};
use crate::image::{Digest, Entry};

/// The entry that `reference` means; without one, the only image there is.
///
/// # Errors
/// If there is none, or are several.
pub(super) fn pick<'a>(blobs: &dyn Blobs, entries: &'a [Entry], reference: Option<&str>) -> Result<&'a Entry> {
    let names = || labels(&entries.iter().collect::<Vec<_>>(), entries);
    let Some(reference) = reference else {
        return match entries {
            [entry] => Ok(entry),
            // One image under several names.
            [first, rest @ ..] if rest.iter().all(|entry| entry.descriptor == first.descriptor) => Ok(first),
            [] => Err(source_error("read layout", format!("{} holds no image", blobs.name()))),
            _ => Err(source_error(
                "read layout",
                format!("{} holds {} images: {}", blobs.name(), entries.len(), names()),
            )
            .with_hint("add `:REFERENCE` to say which one")),
        };
    };
    let is_named = |entry: &&Entry, name: &str| names_of(entry).contains(&name);
    let found = match Reference::parse(reference) {
        Reference::Number(number) => entries.get(number).into_iter().collect(),
        Reference::Digest(digest) => {
            let found: Vec<_> = entries.iter().filter(|entry| entry.descriptor.digest == digest).collect();
            if found.is_empty() { with_config(blobs, entries, &digest, None)? } else { found }
        }
        Reference::Pinned(name, digest) => {
            entries.iter().filter(|entry| is_named(entry, name) && entry.descriptor.digest == digest).collect()
        }
        Reference::Name(name) => {
            // A whole name comes before the annotation beside it, which is a tag alone where there is a whole name.
            let whole = |entry: &&Entry| match entry.names.as_slice() {
                [] => entry.reference.as_deref() == Some(name),
                names => names.iter().any(|other| is_exact(name, other)),
            };
            let exact: Vec<_> = entries.iter().filter(whole).collect();
            let similar =
                |entry: &&Entry| is_named(entry, name) || entry.names.iter().any(|other| is_equivalent(name, other));
            if exact.is_empty() { entries.iter().filter(similar).collect() } else { exact }
        }
    };
    match found.as_slice() {
        [] => Err(source_error(
            "read layout",
            format!("{} has no image `{reference}` (present: {})", blobs.name(), names()),
        )),
        [first, ..] if are_one(&found) => Ok(first),
        several => Err(ambiguous(blobs.name(), reference, &labels(several, entries))),
    }
}

/// The entries that lead to an image of this config, and of these layers where they are given.
pub(super) fn with_config<'a>(
    blobs: &dyn Blobs,
    entries: &'a [Entry],
    config: &Digest,
    layers: Option<&[Digest]>,
) -> Result<Vec<&'a Entry>> {
    let walk = Walk::new(blobs);
    let mut found = Vec::new();
    for entry in entries.iter().filter(|entry| !entry.is_attestation) {
        if blobs.size(&entry.descriptor.digest)?.is_some()
            && walk.with_config(walk.load(&entry.descriptor)?, config, layers, 0)?.is_some()
        {
            found.push(entry);
        }
    }
    Ok(found)
}

/// True if all of them are one image, under whatever names.
pub(super) fn are_one(entries: &[&Entry]) -> bool {
    entries.iter().all(|entry| entry.descriptor == entries[0].descriptor)
}

/// The names that an entry has: a whole one, as containerd notes it, and a name or a tag.
pub(super) fn names_of(entry: &Entry) -> Vec<&str> {
    entry.names.iter().chain(&entry.reference).map(String::as_str).collect()
}

/// How each of `some` is chosen.
fn labels(some: &[&Entry], all: &[Entry]) -> String {
    let label = |entry: &&Entry| {
        let number = all.iter().position(|other| std::ptr::eq(other, *entry)).unwrap_or_default();
        match names_of(entry).first() {
            Some(name) => format!("{name} (@{number})"),
            None => format!("@{number}"),
        }
    };
    some.iter().map(label).collect::<Vec<_>>().join(", ")
}

/// The refusal of a reference that several images have.
pub(super) fn ambiguous(name: &str, reference: &str, present: &str) -> Error {
    source_error("choose image", format!("`{reference}` fits several images of {name}: {present}"))
        .with_hint("write the whole name of one of them, or its number, such as `:@0`")
}
