//! What is to be done, decided by pure functions: from what the image is and what the registry has.

use std::time::Instant;

use crate::compress::Codec;
use crate::error::{Error, Result, Side};
use crate::image::{DiffId, Digest, Kind, Manifest, Tag};
use crate::known::{Origin, Reuse, codec_of, pair_up};
use crate::registry::Found;
use crate::source::Image;

/// What identifies the image that is to be pushed, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    /// The digest of the manifest or index.
    pub(super) root: Option<Digest>,
    /// The config's digest, where the manifest is ours to make.
    pub(super) config: Option<Digest>,
    /// The layers that the config lists. A manifest for the same config is the same image only if its blobs can be these.
    pub(super) layers: Vec<DiffId>,
    /// The codec that the user asked for. An image that is packed otherwise is the same one, but not what is wanted.
    pub(super) codec: Option<Codec>,
}

impl Identity {
    /// True if what the registry has is the same image: the same manifest, or, where the manifest is ours to make, one
    /// for the same config.
    pub(super) fn is(&self, found: &Found) -> bool {
        if self.root == Some(found.digest) {
            return true;
        }
        self.has_config_of(found) && self.contradiction(found).is_none()
    }

    /// True if all layers of what the registry has are packed as the user asked for.
    pub(super) fn is_packed(&self, found: &Found) -> bool {
        match (self.codec, found.manifest.as_ref().map(|manifest| &manifest.kind)) {
            (Some(codec), Some(Kind::Image { layers, .. })) => {
                self.root == Some(found.digest) || layers.iter().all(|layer| codec_of(&layer.media_type) == Some(codec))
            }
            _ => true,
        }
    }

    fn has_config_of(&self, found: &Found) -> bool {
        self.config.is_some() && self.config == found.manifest.as_ref().and_then(Manifest::config_digest)
    }

    /// Why a manifest for the same config cannot be the same image.
    fn contradiction(&self, found: &Found) -> Option<String> {
        match &found.manifest.as_ref()?.kind {
            Kind::Image { layers, .. } => pair_up(&self.layers, layers, &Origin::Cache { own: false }).err(),
            Kind::Index { .. } => None,
        }
    }

    fn is_known(&self) -> bool {
        self.root.is_some() || self.config.is_some()
    }
}

/// What identifies an image that was read. A config does only where `reuse` takes the word of others for the layers that go with it.
pub(super) fn identity_of(image: &Image, reuse: Reuse, codec: Option<Codec>) -> Identity {
    match image {
        Image::Layers { config, diff_ids, .. } => Identity {
            root: None,
            config: Some(config.digest()).filter(|_| reuse == Reuse::Registry),
            layers: diff_ids.clone(),
            codec,
        },
        Image::Manifests { manifests, .. } => {
            Identity { root: manifests.last().map(|root| root.digest), codec, ..Identity::default() }
        }
    }
}

/// A tag and what it points at.
#[derive(Clone, Debug)]
pub(super) struct TagState {
    pub(super) tag: Tag,
    pub(super) found: Option<Found>,
    /// When it was asked for; `None` if it was not. What was read a while ago may not be so any more.
    pub(super) read_at: Option<Instant>,
    /// True if the registry is known to refuse that this tag moves. Not asked where there is no need for it to move.
    pub(super) immutable: bool,
}

/// Refuses a push that would move an immutable tag, before anything is sent.
pub(super) fn refuse_moves(identity: &Identity, states: &[TagState], repository: &str) -> Result<()> {
    if !identity.is_known() {
        return Ok(());
    }
    for state in states.iter().filter(|state| state.immutable) {
        if let Some(found) = &state.found
            && !identity.is(found)
        {
            return Err(moved(&state.tag, found, identity, repository));
        }
    }
    Ok(())
}

/// The sentence for an immutable tag that points at another image.
pub(super) fn moved(tag: &Tag, found: &Found, identity: &Identity, repository: &str) -> Error {
    let theirs = found.manifest.as_ref().and_then(Manifest::config_digest);
    let (kind, there, ours) = match (identity.config, theirs) {
        (Some(ours), Some(there)) => ("config", there.to_string(), ours.to_string()),
        _ => (
            "manifest",
            found.digest.to_string(),
            identity.root.map_or_else(|| "another image".into(), |d| d.to_string()),
        ),
    };
    let contradiction = if identity.has_config_of(found) { identity.contradiction(found) } else { None };
    let what = match contradiction {
        Some(why) => format!("an image of the same config {ours} that cannot be right: {why}"),
        None => format!("another image: {kind} {there} is there, {ours} would be pushed"),
    };
    Error::new(Side::Destination, "check tag", format!("the tag `{tag}` of {repository} is immutable and holds {what}"))
        .with_code("ImageTagAlreadyExistsException")
        .with_hint("push under a new tag, or allow this tag to move in the repository's tag mutability settings")
}

/// An image in the registry that is the one to be pushed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Existing<'a> {
    pub(super) manifest: &'a Manifest,
    /// The immutable tag that holds it in another packing than the user asked for. There it has to stay, so all tags get that one: a
    /// push has one digest.
    pub(super) fixed: Option<&'a Tag>,
}

/// The image in the registry that already is the one to be pushed, if one of the tags has it. One that is packed as the user asked for
/// comes first; one that is not counts only under a tag that cannot move.
pub(super) fn existing<'a>(identity: &Identity, states: &'a [TagState]) -> Option<Existing<'a>> {
    let same = || {
        let found = states.iter().filter_map(|state| Some((state, state.found.as_ref()?)));
        found.filter(|(_, found)| identity.is(found))
    };
    let packed = same().filter(|(_, found)| identity.is_packed(found)).find_map(|(_, found)| found.manifest.as_ref());
    if let Some(manifest) = packed {
        return Some(Existing { manifest, fixed: None });
    }
    let fixed = same().filter(|(state, _)| state.immutable);
    fixed
        .filter_map(|(state, found)| Some((&state.tag, found.manifest.as_ref()?)))
        .next()
        .map(|(tag, manifest)| Existing { manifest, fixed: Some(tag) })
}

/// The tags in the order in which they are put: as given, `latest` last, each once.
pub(super) fn order(tags: &[Tag]) -> Vec<Tag> {
    let mut ordered: Vec<Tag> = Vec::new();
    let (latest, others): (Vec<&Tag>, Vec<&Tag>) = tags.iter().partition(|tag| tag.as_str() == "latest");
    for tag in others.into_iter().chain(latest) {
        if !ordered.contains(tag) {
            ordered.push(tag.clone());
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Descriptor, MediaType, image_manifest};

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    fn found(config: &str) -> Found {
        packed(config, &[])
    }

    fn packed(config: &str, layers: &[&str]) -> Found {
        let config =
            Descriptor { media_type: MediaType::DOCKER_CONFIG.into(), digest: Digest::of(config.as_bytes()), size: 1 };
        let layer =
            |kind: &&str| Descriptor { media_type: (*kind).into(), digest: Digest::of(kind.as_bytes()), size: 1 };
        let manifest = image_manifest(&config, &layers.iter().map(layer).collect::<Vec<_>>()).unwrap();
        Found { digest: manifest.digest, manifest: Some(manifest) }
    }

    fn state(found: Option<Found>, immutable: bool) -> TagState {
        TagState { tag: tag("v1"), found, read_at: Some(Instant::now()), immutable }
    }

    #[test]
    fn latest_goes_last_and_nothing_goes_twice() {
        let tags: Vec<Tag> = ["latest", "v1", "v1", "v2", "latest"].map(tag).to_vec();
        assert_eq!(order(&tags), ["v1", "v2", "latest"].map(tag));
    }

    #[test]
    fn the_same_config_is_the_same_image_only_where_the_manifest_is_ours() {
        let there = found("a");
        let ours = Identity { config: Some(Digest::of(b"a")), ..Identity::default() };
        assert!(ours.is(&there));
        assert!(existing(&ours, &[state(Some(there.clone()), false)]).is_some());
        let other = Identity { root: Some(Digest::of(b"x")), ..Identity::default() };
        assert!(!other.is(&there));
        assert!(Identity { root: Some(there.digest), ..Identity::default() }.is(&there));
    }

    #[test]
    fn another_packing_counts_only_where_it_has_to_stay() {
        let (gzip, zstd) = (packed("a", &[MediaType::DOCKER_LAYER]), packed("a", &[MediaType::OCI_LAYER_ZSTD]));
        let layers = vec![DiffId(Digest::of(b"layer"))];
        let config = Some(Digest::of(b"a"));
        let ours = |codec| Identity { config, layers: layers.clone(), codec, ..Identity::default() };
        let chosen = |codec, states: &[TagState]| {
            existing(&ours(codec), states).map(|there| (there.manifest.digest, there.fixed.is_some()))
        };
        let there = |found: &Found, immutable| state(Some(found.clone()), immutable);
        assert_eq!(chosen(None, &[there(&gzip, false)]), Some((gzip.digest, false)));
        assert_eq!(chosen(Some(Codec::Zstd), &[there(&gzip, false)]), None);
        assert_eq!(chosen(Some(Codec::Zstd), &[there(&gzip, true)]), Some((gzip.digest, true)));
        assert_eq!(chosen(Some(Codec::Zstd), &[there(&gzip, true), there(&zstd, false)]), Some((zstd.digest, false)));
        assert_eq!(chosen(Some(Codec::Zstd), &[there(&found("b"), true), state(None, false)]), None);
    }

    #[test]
    fn an_immutable_tag_with_another_image_is_refused_and_both_are_shown() {
        let identity = Identity { config: Some(Digest::of(b"b")), ..Identity::default() };
        let there = found("a");
        let error = refuse_moves(&identity, &[state(Some(there.clone()), true)], "host/app").unwrap_err();
        assert!(error.message().contains(&Digest::of(b"a").to_string()), "{}", error.message());
        assert!(error.message().contains(&Digest::of(b"b").to_string()), "{}", error.message());
        assert!(refuse_moves(&identity, &[state(Some(there), false)], "host/app").is_ok());
        assert!(refuse_moves(&identity, &[state(None, true)], "host/app").is_ok());
        assert!(refuse_moves(&Identity::default(), &[state(Some(found("a")), true)], "host/app").is_ok());
    }
}
