//! Reading back: blobs as they come from the registry, each hashed on the way.

use std::time::Duration;

use http::{Method, StatusCode, header};

use super::{Repository, failure};
use crate::error::{Error, Result, Side};
use crate::http::transport_error;
use crate::image::{Digest, Hasher};

/// How long reading one blob may take.
const LONG: Duration = Duration::from_secs(3600);

impl Repository {
    /// Reads a blob and checks that its bytes have its digest. Answers its size.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or has other bytes.
    pub async fn verify_blob(&self, digest: &Digest) -> Result<u64> {
        let operation = "read blob";
        let url = self.url(&format!("blobs/{digest}"))?;
        let mut response =
            self.send(operation, |client| client.request(Method::GET, url.clone()).timeout(LONG)).await?;
        if matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::FOUND) {
            // ECR sends readers to S3, which refuses a second credential: ours stays here (ecr-facts 4.5).
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = location.and_then(|location| url.join(location).ok()).ok_or_else(|| {
                Error::new(
                    Side::Destination,
                    operation,
                    "the registry sends readers of a blob to a place that is no URL",
                )
            })?;
            let sent = self.http.client().get(target.clone()).timeout(LONG).send().await;
            response = sent.map_err(|error| transport_error(Side::Destination, operation, &error, &target))?;
        }
        if !response.status().is_success() {
            return Err(failure::refusal(operation, &self.name, response).await);
        }
        let mut hasher = Hasher::default();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| transport_error(Side::Destination, operation, &error, &self.base))?
        {
            hasher.update(&chunk);
        }
        let (actual, size) = hasher.finish();
        if actual != *digest {
            let text = format!("the registry gives other bytes for {digest}: they have the digest {actual}");
            return Err(Error::new(Side::Destination, operation, text));
        }
        Ok(size)
    }
}
