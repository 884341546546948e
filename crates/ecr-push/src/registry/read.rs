//! Reading back: blobs as they come from the registry, each hashed on the way.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use url::Url;

use super::{ANSWER, Repository, STALLED};
use crate::error::{Error, Result, Retry, Side};
use crate::http::{Http, transport_error};
use crate::image::{Digest, Hasher};

/// What errors call it.
pub(crate) const READ_BLOB: &str = "read blob";

/// How long reading one blob may take.
const LONG: Duration = Duration::from_secs(3600);

/// A registry may send readers to another host, and not just anywhere: not from https to http, where anybody on the way could see what
/// is read, and not to this machine's own link, where metadata services answer this machine alone.
pub(crate) fn check_redirect(http: &Http, from: &Url, target: &Url) -> Result<()> {
    let is_safe = match target.scheme() {
        "https" => true,
        "http" => from.scheme() == "http",
        _ => false,
    };
    let Err(why) = (if is_safe { http.admit(target) } else { Err("a place without TLS") }) else { return Ok(()) };
    Err(Error::new(
        Side::Destination,
        READ_BLOB,
        format!("the registry sends readers of a blob to {why}, which is refused"),
    ))
}

impl Repository {
    /// Reads a blob and checks that its bytes have its digest. Answers its size.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or has other bytes.
    pub async fn verify_blob(&self, digest: &Digest) -> Result<u64> {
        self.read_blob(digest, LONG, &mut |_| Ok(())).await
    }

    /// A small blob, checked.
    ///
    /// # Errors
    /// If it is not there, cannot be read within `limit` of time, has over `most` bytes, or other bytes.
    pub async fn small_blob(&self, digest: &Digest, most: usize, limit: Duration) -> Result<Bytes> {
        let mut bytes = Vec::new();
        let mut take = |chunk: &Bytes| {
            if bytes.len() + chunk.len() > most {
                return Err(Error::new(Side::Destination, READ_BLOB, format!("{digest} has over {most} bytes")));
            }
            bytes.extend_from_slice(chunk);
            Ok(())
        };
        let read = self.read_blob(digest, limit, &mut take);
        tokio::time::timeout(limit, read).await.map_err(|_| {
            let text = format!("{digest} could not be read within {} s", limit.as_secs());
            Error::new(Side::Destination, READ_BLOB, text)
        })??;
        Ok(bytes.into())
    }

    /// Reads a blob, shows each piece of it to `take`, and checks that the whole has its digest. Answers its size.
    ///
    /// # Errors
    /// If it is not there, cannot be read, has other bytes, or is not wanted any more.
    pub(crate) async fn read_blob(
        &self,
        digest: &Digest,
        limit: Duration,
        take: &mut (dyn FnMut(&Bytes) -> Result<()> + Send),
    ) -> Result<u64> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let silent = |seconds: Duration| {
            let text = format!("nothing of {digest} came for {} s", seconds.as_secs());
            Error::new(Side::Destination, READ_BLOB, text).with_retry(Retry::Backoff)
        };
        let request = |client: &reqwest::Client| client.request(Method::GET, url.clone()).timeout(limit);
        let answer = tokio::time::timeout(ANSWER, self.send(READ_BLOB, request)).await;
        let mut response = answer.map_err(|_| silent(ANSWER))??;
        if matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::FOUND) {
            // ECR sends readers to S3, which refuses a second credential: ours stays here (ecr-facts 4.5).
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = location.and_then(|location| url.join(location).ok()).ok_or_else(|| {
                Error::new(
                    Side::Destination,
                    READ_BLOB,
                    "the registry sends readers of a blob to a place that is no URL",
                )
            })?;
            check_redirect(&self.http, &url, &target)?;
            let request = self.http.client_for(&target).get(target.clone()).timeout(limit).send();
            let sent = tokio::time::timeout(ANSWER, request).await.map_err(|_| silent(ANSWER))?;
            response = sent.map_err(|error| transport_error(Side::Destination, READ_BLOB, &error, &target))?;
        }
        if !response.status().is_success() {
            return Err(self.refusal(READ_BLOB, response).await);
        }
        let mut hasher = Hasher::default();
        loop {
            let chunk = tokio::time::timeout(STALLED, response.chunk()).await.map_err(|_| silent(STALLED))?;
            let chunk = chunk.map_err(|error| transport_error(Side::Destination, READ_BLOB, &error, &self.base))?;
            let Some(chunk) = chunk else { break };
            hasher.update(&chunk);
            take(&chunk)?;
        }
        let (actual, size) = hasher.finish();
        if actual != *digest {
            let text = format!("the registry gives other bytes for {digest}: they have the digest {actual}");
            return Err(Error::new(Side::Destination, READ_BLOB, text));
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_not_sent_just_anywhere() {
        let http = Http::new(&crate::http::HttpSettings::default()).unwrap();
        let check = |from: &str, to: &str| check_redirect(&http, &from.parse().unwrap(), &to.parse().unwrap()).is_ok();
        assert!(check("https://registry.example/", "https://bucket.example/a?X-Amz-Signature=b"));
        assert!(check("http://127.0.0.1:5000/", "http://localhost:9000/"));
        for bad in [
            "http://bucket.example/",
            "https://169.254.169.254/",
            "http://[fd00:ec2::254]/",
            "file:///etc/passwd",
            "ftp://h/",
        ] {
            assert!(!check("https://registry.example/", bad), "{bad}");
        }
        assert!(!check("http://registry.example/", "http://169.254.169.254/latest/meta-data/"));
    }
}
