//! What the tests of sources share: the recorded engines, and a sink that keeps what it is given.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use ecr_push::Result;
use ecr_push::error::{Error, Side};
use ecr_push::image::{DiffId, Digest};
use ecr_push::source::{Content, Held, Image, LayerSink, StoredLayer};

/// A recorded file.
pub fn recorded(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines").join(path)
}

/// A recorded JSON answer or expectation.
pub fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(recorded(path)).unwrap()).unwrap()
}

/// Keeps digests, and counts.
#[derive(Debug, Default)]
pub struct Keeper {
    /// What would be sent: digest (of the tar, for layers to be compressed) and size.
    pub delivered: BTreeMap<Digest, u64>,
    /// How many layers came uncompressed.
    pub uncompressed: usize,
    /// What is held back.
    pub held: Option<Vec<(Held, u64)>>,
    /// How often something was dropped.
    pub dropped: usize,
}

impl Keeper {
    fn keep(&mut self, held: Held, size: u64) {
        match &mut self.held {
            Some(list) => list.push((held, size)),
            None => {
                self.delivered.insert(held.digest, size);
            }
        }
    }
}

fn read(content: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).map_err(|error| Error::new(Side::Source, "read", error.to_string()))?;
    Ok(bytes)
}

impl LayerSink for Keeper {
    fn layer(&mut self, size: u64, _: Option<DiffId>, content: &mut dyn Read) -> Result<DiffId> {
        let bytes = read(content)?;
        assert_eq!(bytes.len() as u64, size, "a layer has the size that was promised");
        let digest = Digest::of(&bytes);
        self.uncompressed += 1;
        self.keep(Held { digest, diff_id: Some(DiffId(digest)) }, size);
        Ok(DiffId(digest))
    }

    fn layers(&mut self, layers: Vec<StoredLayer>) -> Result<()> {
        for layer in layers {
            let mut content = (layer.open)().map_err(|error| Error::new(Side::Source, "open", error.to_string()))?;
            let diff_id = self.layer(layer.size, None, &mut content)?;
            if diff_id != layer.diff_id {
                return Err(Error::new(Side::Source, "check layer", "its diff id is another"));
            }
        }
        Ok(())
    }

    fn needed(&mut self, layers: &[DiffId]) -> Vec<DiffId> {
        layers.to_vec()
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
        let bytes = read(content)?;
        assert_eq!(bytes.len() as u64, size);
        let actual = Digest::of(&bytes);
        if digest.is_some_and(|promised| promised != actual) {
            return Err(Error::new(Side::Source, "check blob", "wrong digest"));
        }
        let diff_id = if want_diff_id { Some(DiffId(Digest::of(&gunzip(&bytes)?))) } else { None };
        self.keep(Held { digest: actual, diff_id }, size);
        Ok((actual, diff_id))
    }

    fn stored(&mut self, digest: Digest, content: Content) {
        self.delivered.insert(digest, content.len());
    }

    fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    fn release(&mut self, _: &Image, needed: &dyn Fn(&Held) -> bool) -> Result<()> {
        for (held, size) in self.held.take().into_iter().flatten() {
            if needed(&held) {
                self.delivered.insert(held.digest, size);
            } else {
                self.dropped += 1;
            }
        }
        Ok(())
    }
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>> {
    read(&mut flate2::read::MultiGzDecoder::new(bytes))
}
