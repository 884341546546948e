//! Which layer it is that passes in an export of Docker before version 25.
//!
//! Those exports name a layer by the ID that images had before version 1.10. It is the digest of a document which holds the layer's
//! chain ID, and the rest of that document lies in the export before the layer (moby, `image/v1.CreateID`, `image/tarexport`). So a name
//! can be proved to belong to a layer, and a layer that is not needed can be passed over as it comes.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use crate::image::{DiffId, Digest};

/// The layers of an image with their chain IDs (OCI image specification, config).
pub(super) struct LegacyNames(Vec<(DiffId, Digest)>);

impl LegacyNames {
    pub(super) fn new(diff_ids: &[DiffId]) -> Self {
        Self(diff_ids.iter().copied().zip(DiffId::chain_ids(diff_ids)).collect())
    }

    /// The layer whose folder is called `name` and has this `json` in it.
    pub(super) fn layer(&self, name: &str, json: &[u8]) -> Option<DiffId> {
        let name = Digest::from_hex(name).ok()?;
        let mut document: BTreeMap<&str, Box<RawValue>> = serde_json::from_slice(json).ok()?;
        document.remove("id");
        if let Some(parent) = document.get("parent") {
            let hex: String = serde_json::from_str(parent.get()).ok()?;
            document.insert("parent", to_raw_value(&format!("sha256:{hex}")).ok()?);
        }
        // The engine adds the operating system to what it saves of the lower layers, after it has computed their IDs.
        let system = document.remove("os");
        self.0.iter().find_map(|(diff_id, chain)| {
            document.insert("layer_id", to_raw_value(chain).ok()?);
            let is_it = |document: &BTreeMap<&str, Box<RawValue>>| {
                serde_json::to_vec(document).is_ok_and(|bytes| Digest::of(&bytes) == name)
            };
            if is_it(&document) {
                return Some(*diff_id);
            }
            let mut with_system = document.clone();
            with_system.insert("os", system.clone()?);
            is_it(&with_system).then_some(*diff_id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Config;
    use std::io::Read;

    /// The documents of a recorded export, by name.
    fn documents(file: &str) -> BTreeMap<String, Vec<u8>> {
        let path = format!("{}/tests/fixtures/engines/docker-20.10-overlay2/{file}", env!("CARGO_MANIFEST_DIR"));
        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        let read = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().to_string_lossy().into_owned(), bytes)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn every_layer_of_a_recorded_export_is_known_by_its_name() {
        for file in ["export-two.tar", "export-repeat.tar"] {
            let documents = documents(file);
            let manifest: serde_json::Value = serde_json::from_slice(&documents["manifest.json"]).unwrap();
            let config = Config::parse(&documents[manifest[0]["Config"].as_str().unwrap()]).unwrap();
            let names = LegacyNames::new(&config.diff_ids);
            for (path, diff_id) in manifest[0]["Layers"].as_array().unwrap().iter().zip(&config.diff_ids) {
                let folder = path.as_str().unwrap().strip_suffix("/layer.tar").unwrap();
                let json = &documents[&format!("{folder}/json")];
                assert_eq!(names.layer(folder, json), Some(*diff_id), "{file}: {folder}");
                let other = format!("{}{}", if folder.starts_with('0') { '1' } else { '0' }, &folder[1..]);
                assert_eq!(names.layer(&other, json), None, "the name proves it");
                assert_eq!(names.layer(folder, b"{}"), None);
                assert_eq!(names.layer(folder, b"no json"), None);
            }
        }
    }
}
