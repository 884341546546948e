//! Which layers are there: `BatchCheckLayerAvailability` (ecr-facts 2.4).

use std::collections::{HashMap, HashSet};

use aws_config::retry::RetryConfig;
use aws_sdk_ecr::types::LayerAvailability as Availability;

use super::ecr::EcrApi;
use super::failure;
use crate::error::Result;
use crate::image::{AccountId, Digest, RepositoryName};

const OPERATION: &str = "ecr:BatchCheckLayerAvailability";

/// The limit of the API.
const AT_ONCE: usize = 100;

/// What the registry says about layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerAvailability {
    /// There: no upload is needed. With its size, if the answer has it.
    pub available: HashMap<Digest, Option<u64>>,
    /// Not there, or only in archived images: must be sent.
    pub unavailable: HashSet<Digest>,
    /// Named under `failures` or not at all: ask with a HEAD.
    pub unknown: HashSet<Digest>,
}

impl EcrApi {
    /// Asks for all digests, 100 a call. Not retried: the caller falls back to a HEAD per layer.
    pub async fn layer_availability(
        &self,
        registry_id: Option<&AccountId>,
        repository: &RepositoryName,
        digests: &[Digest],
    ) -> Result<LayerAvailability> {
        let mut found = LayerAvailability::default();
        for some in digests.chunks(AT_ONCE) {
            let no_retries = aws_sdk_ecr::Config::builder().retry_config(RetryConfig::disabled());
            let answer = self
                .client()
                .batch_check_layer_availability()
                .set_registry_id(registry_id.map(ToString::to_string))
                .repository_name(repository.as_str())
                .set_layer_digests(Some(some.iter().map(ToString::to_string).collect()))
                .customize()
                .config_override(no_retries)
                .send()
                .await
                .map_err(|error| failure::map(&self.call(OPERATION, registry_id, Some(repository)), &error))?;
            for layer in answer.layers() {
                let Some(digest) = layer.layer_digest().and_then(|text| text.parse().ok()) else {
                    continue;
                };
                match layer.layer_availability() {
                    Some(Availability::Available) => {
                        let size = layer.layer_size().and_then(|size| size.try_into().ok());
                        found.available.insert(digest, size);
                    }
                    Some(Availability::Unavailable | Availability::Archived) => {
                        found.unavailable.insert(digest);
                    }
                    _ => {}
                }
            }
        }
        // Only what was asked counts, and what was not answered must be asked otherwise.
        let asked: HashSet<Digest> = digests.iter().copied().collect();
        found.available.retain(|digest, _| asked.contains(digest));
        found.unavailable.retain(|digest| asked.contains(digest));
        found.unknown = asked
            .into_iter()
            .filter(|digest| !found.available.contains_key(digest) && !found.unavailable.contains(digest))
            .collect();
        Ok(found)
    }
}
