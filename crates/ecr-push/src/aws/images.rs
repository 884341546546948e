//! What else is in the repository, and whether blobs may be mounted.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_sdk_ecr::types::{DescribeImagesFilter, TagStatus};

use super::ecr::EcrApi;
use super::failure;
use crate::error::{Error, Result, Side};
use crate::image::{AccountId, Digest, MediaType, RepositoryName};

/// The default page of DescribeImages (ecr-facts 2.1).
const ONE_PAGE: i32 = 100;

/// The name of the setting that allows mounts (ecr-facts 2.7).
const BLOB_MOUNTING: &str = "BLOB_MOUNTING";

impl EcrApi {
    /// The digests of the newest `count` tagged images, newest first; none where one page does not hold the repository: the order of
    /// pages says nothing of age, so all of them would have to be read. Asked once, and for no longer than `limit`.
    ///
    /// # Errors
    /// If it cannot be asked: `ecr:DescribeImages` is not needed for a push.
    pub async fn newest_images(
        &self,
        registry_id: Option<&AccountId>,
        repository: &RepositoryName,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Digest>> {
        const OPERATION: &str = "ecr:DescribeImages";
        let asked = self
            .client()
            .describe_images()
            .set_registry_id(registry_id.map(ToString::to_string))
            .repository_name(repository.as_str())
            .filter(DescribeImagesFilter::builder().tag_status(TagStatus::Tagged).build())
            .max_results(ONE_PAGE)
            .customize()
            .config_override(aws_sdk_ecr::Config::builder().retry_config(RetryConfig::disabled()))
            .send();
        let answer = within(limit, OPERATION, asked)
            .await?
            .map_err(|error| failure::map(&self.call(OPERATION, registry_id, Some(repository)), &error))?;
        if answer.next_token().is_some() {
            return Ok(Vec::new());
        }
        let is_image = |media_type: &str| MediaType::is_manifest(media_type) || MediaType::is_index(media_type);
        let mut images: Vec<_> = answer
            .image_details()
            .iter()
            .filter(|image| image.image_manifest_media_type().is_none_or(is_image))
            .filter_map(|image| {
                let digest: Digest = image.image_digest()?.parse().ok()?;
                Some((image.image_pushed_at().map(|at| (at.secs(), at.subsec_nanos())), digest))
            })
            .collect();
        images.sort_by(|left, right| right.cmp(left));
        Ok(images.into_iter().take(count).map(|(_, digest)| digest).collect())
    }

    /// True if the account allows blobs to be mounted from one repository to another.
    ///
    /// # Errors
    /// If it cannot be asked: `ecr:GetAccountSetting` is not needed for a push.
    pub async fn mounts_blobs(&self, limit: Duration) -> Result<bool> {
        const OPERATION: &str = "ecr:GetAccountSetting";
        let asked = self
            .client()
            .get_account_setting()
            .name(BLOB_MOUNTING)
            .customize()
            .config_override(aws_sdk_ecr::Config::builder().retry_config(RetryConfig::disabled()))
            .send();
        let answer = within(limit, OPERATION, asked)
            .await?
            .map_err(|error| failure::map(&self.call(OPERATION, None, None), &error))?;
        Ok(answer.value().is_some_and(|value| value.eq_ignore_ascii_case("ENABLED")))
    }
}

async fn within<T>(limit: Duration, operation: &str, asked: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(limit, asked)
        .await
        .map_err(|_| Error::new(Side::Destination, operation, format!("no answer came within {} s", limit.as_secs())))
}
