//! Layers through the API.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::{Call, check_digest};
use crate::engine::ContentRange;
use crate::error::{Refusal, Result};
use crate::manifest::is_sha256;

const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

impl Call<'_> {
    pub(super) fn batch_check_layer_availability(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let digests = self.strings("layerDigests", 100)?;
        let contents = repository.contents();
        let (mut layers, mut failures) = (Vec::new(), Vec::new());
        for digest in digests {
            if !is_sha256(&digest) {
                failures.push(json!({
                    "layerDigest": digest,
                    "failureCode": "InvalidLayerDigest",
                    "failureReason": "Invalid layer digest",
                }));
                continue;
            }
            // what is absent is a layer that is unavailable, not a failure.
            layers.push(match contents.blobs.get(&digest) {
                None => json!({ "layerDigest": digest, "layerAvailability": "UNAVAILABLE" }),
                Some(blob) => json!({
                    "layerDigest": digest,
                    "layerAvailability": if contents.is_archived(&digest) { "ARCHIVED" } else { "AVAILABLE" },
                    "layerSize": blob.size,
                    "mediaType": LAYER_TYPE,
                }),
            });
        }
        Ok(json!({ "layers": layers, "failures": failures }))
    }

    pub(super) fn initiate_layer_upload(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let upload = self.engine.start_upload(&repository)?;
        //
        Ok(json!({ "uploadId": upload.id, "partSize": self.engine.config.limits.part_size }))
    }

    pub(super) async fn upload_layer_part(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let upload = self.engine.upload(&repository.name, self.string("uploadId")?)?;
        let (first, last) = (self.number("partFirstByte")?, self.number("partLastByte")?);
        if last < first || last == u64::MAX {
            return Err(Refusal::parameter("partLastByte", "Member must not be less than partFirstByte"));
        }
        let blob = BASE64_STANDARD
            .decode(self.string("layerPartBlob")?)
            .map_err(|_| Refusal::new("SerializationException", "layerPartBlob is not base64"))?;
        let last = self.engine.upload_part(&upload, ContentRange { first, last }, blob).await?;
        Ok(json!({
            "registryId": self.engine.config.account,
            "repositoryName": repository.name,
            "uploadId": upload.id,
            "lastByteReceived": last,
        }))
    }

    pub(super) async fn complete_layer_upload(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let upload = self.engine.upload(&repository.name, self.string("uploadId")?)?;
        let digests = self.strings("layerDigests", 100)?;
        let digest = self.engine.complete_upload(&repository, &upload, &digests).await?;
        Ok(json!({
            "registryId": self.engine.config.account,
            "repositoryName": repository.name,
            "uploadId": upload.id,
            "layerDigest": digest,
        }))
    }

    pub(super) fn download_url_for_layer(&self) -> Result<Value> {
        let repository = self.on_repository()?;
        let digest = self.string("layerDigest")?;
        check_digest("layerDigest", digest)?;
        if repository.blob(digest).is_none() {
            return Err(Refusal::new(
                "LayersNotFoundException",
                format!(
                    "The layer with digest '{digest}' does not exist in the repository with name '{}' in the registry \
                     with id '{}'",
                    repository.name, self.engine.config.account
                ),
            ));
        }
        let blob = self.engine.readable_blob(&repository, digest)?;
        Ok(json!({ "downloadUrl": self.engine.presign(blob, self.host), "layerDigest": digest }))
    }
}
