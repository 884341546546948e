//! A sink that hashes everything, and knows afterwards what an image may consist of.

use std::collections::HashMap;
use std::io::{self, Read};

use crate::compress::{Codec, Decoder};
use crate::error::{Error, Result, Side};
use crate::image::{DiffId, Digest};
use crate::source::{Content, Held, Image, LayerRef, LayerSink, StoredLayer};

/// More is not unpacked: an input of some KiB can be GiB of zeros.
const MOST: u64 = 8 << 20;

/// Keeps digests.
#[derive(Default)]
pub(crate) struct Sink {
    /// What the registry has already, so that a source need not deliver it.
    there: Vec<DiffId>,
    /// Blobs that were delivered, by the digest their bytes have.
    blobs: HashMap<Digest, u64>,
    /// Layers that were delivered uncompressed.
    layers: Vec<DiffId>,
    /// The layers in blobs that were unpacked.
    unpacked: HashMap<Digest, DiffId>,
    /// Blobs whose bytes are not what was said. The upload would find out, and send nothing.
    lies: Vec<Digest>,
    held: bool,
}

impl Sink {
    /// A sink of a registry that has these layers.
    pub(crate) fn with(there: Vec<DiffId>) -> Self {
        Self { there, ..Self::default() }
    }

    /// Digest and size of what is delivered.
    fn hash(&self, content: &mut dyn Read) -> Result<(Digest, u64)> {
        let mut bytes = Vec::new();
        let read = content.take(MOST).read_to_end(&mut bytes);
        read.map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 == MOST {
            return Err(failed("the fuzzer reads no more".into()));
        }
        Ok((Digest::of(&bytes), bytes.len() as u64))
    }

    /// What must hold of an image that was read.
    pub(crate) fn check(&self, image: &Image) {
        assert!(!self.held, "what was held back is released");
        match image {
            Image::Layers { diff_ids, layers, .. } => {
                assert_eq!(diff_ids.len(), layers.len());
                for (diff_id, layer) in diff_ids.iter().zip(layers) {
                    match layer {
                        LayerRef::Uncompressed(layer) => {
                            assert_eq!(layer, diff_id, "a layer is the one that its config names");
                            assert!(self.layers.contains(layer) || self.there.contains(layer), "{layer} was delivered");
                        }
                        LayerRef::Blob(digest) => {
                            assert_eq!(self.unpacked.get(digest), Some(diff_id), "{digest} was unpacked to {diff_id}");
                        }
                    }
                }
            }
            Image::Manifests { manifests, contents } => {
                assert!(!manifests.is_empty(), "there is a root");
                for manifest in manifests {
                    assert_eq!(manifest.digest, Digest::of(&manifest.bytes));
                    for blob in manifest.blobs() {
                        let size = self.blobs.get(&blob.digest);
                        assert!(
                            size == Some(&blob.size) || self.lies.contains(&blob.digest),
                            "{} of {} bytes was delivered: {size:?}",
                            blob.digest,
                            blob.size
                        );
                    }
                }
                assert!(contents.platforms.len() + contents.attestations <= manifests.len());
            }
        }
    }
}

fn failed(what: String) -> Error {
    Error::new(Side::Source, "read layer", what)
}

impl LayerSink for Sink {
    fn layer(&mut self, size: u64, promised: Option<DiffId>, content: &mut dyn Read) -> Result<DiffId> {
        if let Some(promised) = promised.filter(|promised| self.there.contains(promised)) {
            // As the intake does it: passed over, and believed.
            let read = io::copy(&mut content.take(MOST), &mut io::sink());
            return read.map(|_| promised).map_err(|error| failed(error.to_string()));
        }
        let (digest, actual) = self.hash(content)?;
        assert_eq!(actual, size, "what is delivered has the size that was said");
        let diff_id = DiffId(digest);
        self.layers.push(diff_id);
        Ok(diff_id)
    }

    fn layers(&mut self, layers: Vec<StoredLayer>) -> Result<()> {
        for layer in layers.into_iter().filter(|layer| !self.there.contains(&layer.diff_id)) {
            let mut content = (layer.open)().map_err(|error| failed(error.to_string()))?;
            // A graph driver knows the size of the files only.
            let actual = DiffId(self.hash(&mut content)?.0);
            if actual != layer.diff_id {
                return Err(failed(format!("its diff id is {actual}, not {}", layer.diff_id)));
            }
            self.layers.push(actual);
        }
        Ok(())
    }

    fn needed(&mut self, layers: &[DiffId]) -> Vec<DiffId> {
        layers.iter().filter(|layer| !self.there.contains(layer)).copied().collect()
    }

    fn config_there(&mut self, _: &Digest) -> Option<u64> {
        None
    }

    fn blob(
        &mut self,
        digest: Option<Digest>,
        size: u64,
        content: &mut dyn Read,
        want_diff_id: bool,
    ) -> Result<(Digest, Option<DiffId>)> {
        let mut bytes = Vec::new();
        content.take(MOST).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
        assert_eq!(bytes.len() as u64, size, "what is delivered has the size that was said");
        let actual = Digest::of(&bytes);
        if digest.is_some_and(|promised| promised != actual) {
            return Err(failed("wrong digest".into()));
        }
        let mut diff_id = None;
        if want_diff_id {
            let codec = if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) { Codec::Zstd } else { Codec::Gzip };
            let unpacked = Decoder::new(codec, bytes.as_slice()).and_then(|decoder| DiffId::of(decoder.take(MOST)));
            let found = unpacked.map_err(|error| failed(error.to_string()))?;
            self.unpacked.insert(actual, found);
            diff_id = Some(found);
        }
        self.blobs.insert(actual, size);
        Ok((actual, diff_id))
    }

    fn stored(&mut self, digest: Digest, content: Content) {
        let bytes = content.to_bytes(MOST).unwrap_or_default();
        if Digest::of(&bytes) == digest {
            self.blobs.insert(digest, content.len());
        } else {
            self.lies.push(digest);
        }
    }

    fn hold(&mut self) {
        self.held = true;
    }

    fn release(&mut self, image: &Image, needed: &dyn Fn(&Held) -> bool) -> Result<()> {
        let held = |digest: &Digest| Held { digest: *digest, diff_id: self.unpacked.get(digest).copied() };
        if let Image::Manifests { manifests, .. } = image {
            for blob in manifests.iter().flat_map(crate::image::Manifest::blobs) {
                assert!(needed(&held(&blob.digest)), "{} is needed", blob.digest);
            }
        }
        self.held = false;
        Ok(())
    }
}
