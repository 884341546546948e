//! The upload of a blob: one POST that opens a session, one streamed PUT with everything.
//!
//! Two requests, whatever the size. The PUT has a Content-Length and never a Content-Range, which ECR would take for a
//! part (ecr-facts 4.4). A session is used once: what ECR keeps of a broken one cannot be told, and going on in it ends
//! in 416, so whoever tries again opens a new one.

use std::time::Duration;

use http::{Method, StatusCode, header};
use reqwest::Response;
use url::Url;

use super::body::{Broken, Watch, body};
use super::link::Line;
use super::{ASKED, BlobStatus, Progress, Repository, STALLED, stored_wrong};
use crate::error::{Error, Result, Retry, Side};
use crate::image::Digest;
use crate::source::Content;

/// The operation that opens a session, as errors name it.
pub(crate) const START_UPLOAD: &str = "start upload";

/// The operation that sends the bytes and has them committed.
pub(crate) const SEND_BLOB: &str = "send blob";

/// The code of bytes that were found not to have their digest before they were sent to their end.
pub(crate) const DAMAGED: &str = "damaged";

/// How long a registry may take to check and store a blob after the connection took its last byte: half a minute, and a second for each
/// 10 MB. A proxy may take the whole blob before it passes any of it on: for that a second for each MB, but no more than ten minutes. The
/// system holds back up to 4 MB of what it has taken, which a slow line at 64 kB/s needs another minute for.
fn commit_time(size: u64) -> Duration {
    let (stored, passed_on) = (size / 10_000_000, (size / 1_000_000).min(600));
    STALLED + Duration::from_secs(stored.max(passed_on) + size.min(4 << 20) / 64_000)
}

/// An upload of which nothing has moved for so long is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// So much longer an upload may stand still while others move. A connection whose other end is gone ends earlier, by the system's own limit
/// for bytes without an acknowledgement.
const PASSED_OVER: Duration = Duration::from_secs(270);

/// How much longer an upload is waited for that may stand still for `limit`, and of which nothing has moved for `own`. `None` if it is dead.
fn patience(limit: Duration, own: Duration, line: Line) -> Option<Duration> {
    let idle = line.idle.map_or(own, |line| line.min(own));
    let by_line = (limit + line.unseen.min(PASSED_OVER)).checked_sub(idle)?;
    let by_itself = (limit + PASSED_OVER).checked_sub(own)?;
    Some(by_line.min(by_itself)).filter(|rest| !rest.is_zero())
}

/// What came of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mount {
    /// The repository has the blob now.
    Done,
    /// It was not mounted. This is where its bytes may be sent, or those of another blob.
    Session(Url),
}

impl Repository {
    /// Opens an upload session. Answers where the bytes go.
    ///
    /// # Errors
    /// If the registry refuses (a missing repository, a missing right) or cannot be asked.
    pub async fn start_upload(&self) -> Result<Url> {
        let response = self.post_upload(self.url("blobs/uploads/")?).await?;
        self.session(&response)
    }

    /// Asks the registry to take the blob from its repository `from`. A registry that does not has opened a session all the same
    /// (distribution specification, mounting a blob; ecr-facts 4.3).
    ///
    /// # Errors
    /// If the registry refuses even that or cannot be asked.
    pub async fn mount(&self, digest: &Digest, from: &str) -> Result<Mount> {
        let mut url = self.url("blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        let response = self.post_upload(url).await?;
        match response.status() {
            StatusCode::CREATED => {
                match response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok()) {
                    Some(said) if said != digest.to_string() => {
                        Err(stored_wrong(START_UPLOAD, "a mounted blob", said, digest))
                    }
                    _ => Ok(Mount::Done),
                }
            }
            _ => self.session(&response).map(Mount::Session),
        }
    }

    async fn post_upload(&self, url: Url) -> Result<Response> {
        let request = |client: &reqwest::Client| {
            // Some registries insist on the length (ecr-facts 4.3).
            client.request(Method::POST, url.clone()).header(header::CONTENT_LENGTH, "0").timeout(ASKED)
        };
        let response = self.send(START_UPLOAD, request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(START_UPLOAD, response).await);
        }
        Ok(response)
    }

    /// Where the bytes of a session go.
    pub(crate) fn session(&self, response: &Response) -> Result<Url> {
        let url = self.url("blobs/uploads/")?;
        let operation = START_UPLOAD;
        let refuse = |what: String| {
            let hint = "the registry, or a proxy before it, does not know its own address: whoever runs it has to set that \
                        (host, port, scheme)";
            Err(Error::new(Side::Destination, operation, what).with_hint(hint))
        };
        let Some(location) = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()) else {
            return refuse(format!(
                "the registry answered {} without saying where to send the bytes",
                response.status()
            ));
        };
        let Ok(target) = url.join(location) else {
            return refuse("the registry named an upload location that is no URL".to_owned());
        };
        // The credential goes along with the bytes, so they go nowhere else.
        if target.origin() != self.base.origin() {
            return refuse(format!(
                "the registry wants the bytes at another place ({}), which is not allowed",
                target.origin().ascii_serialization()
            ));
        }
        // The client would make a second credential of it.
        if !target.username().is_empty() || target.password().is_some() {
            return refuse("the registry named an upload location with a user in it, which is not allowed".to_owned());
        }
        Ok(target)
    }

    /// Sends a blob: opens a session if none is given, streams the bytes, has them committed. Not repeated here. Bytes that are `hashed`
    /// have their digest from this process, and are not hashed again.
    ///
    /// # Errors
    /// If the registry refuses, the connection breaks or stalls, or the bytes are not what was promised.
    pub async fn upload(
        &self,
        digest: Digest,
        content: &Content,
        hashed: bool,
        session: Option<Url>,
        progress: Progress,
    ) -> Result<()> {
        let mut target = match session {
            Some(session) => session,
            None => self.start_upload().await?,
        };
        target.query_pairs_mut().append_pair("digest", &digest.to_string());
        let operation = SEND_BLOB;
        self.pace.turn(operation).await;
        let credential = self.auth.credential().await?;
        let expected = if hashed { None } else { Some(digest) };
        let (watch, stream) = body(content.clone(), expected, progress);
        self.link.note_upload(&watch);
        let mut request = self
            .http
            .client_for(&target)
            .request(Method::PUT, target.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, content.len())
            .body(reqwest::Body::wrap_stream(stream));
        let with = credential.is_some();
        let generation = credential.as_ref().map_or(0, |credential| credential.generation);
        if let Some(credential) = credential {
            request = request.header(header::AUTHORIZATION, credential.header);
        }
        let answer = tokio::select! {
            answer = request.send() => answer,
            waited = self.stalled(digest, &watch, content.len()) => return Err(self.stall(digest, &watch, waited)),
        };
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                return Err(match watch.broken() {
                    Some(broken) => broken_content(digest, broken, hashed),
                    None => self.unanswered(operation, &error),
                });
            }
        };
        let status = response.status();
        self.note_answer(operation, &response, with);
        if status.is_success() {
            let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
            return match told {
                Some(told) if told != digest.to_string() => Err(stored_wrong(operation, "a blob", told, &digest)),
                // ECR has compared the digest before it says so (ecr-facts 4.4).
                None if status != StatusCode::CREATED => self.confirm_blob(digest).await,
                _ => Ok(()),
            };
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
            let challenges: Vec<String> =
                challenges.iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
            if self.auth.renew(&self.http, &self.name, operation, generation, status, &challenges).await? {
                // A new token is at hand: once more, in a new session.
                return Err(self.refusal(operation, response).await.with_retry(Retry::NewToken));
            }
        }
        let error = self.refusal(operation, response).await;
        // 404 and 416 speak of the session, not of the blob: a new one will do. The bytes were right when they were sent; what came out
        // wrong at the other end may come out right the next time.
        Err(match (status.as_u16(), error.code()) {
            (404, Some("BLOB_UPLOAD_UNKNOWN")) | (416, _) => error.with_retry(Retry::Backoff),
            (400, Some("DIGEST_INVALID" | "BLOB_UPLOAD_INVALID" | "SIZE_INVALID")) => error.with_retry(Retry::Brief),
            _ => error,
        })
    }

    /// Asks for a blob of which it was neither said that it was created nor what it is: it may have been somebody else who answered.
    async fn confirm_blob(&self, digest: Digest) -> Result<()> {
        if self.blob(&digest).await? != BlobStatus::Absent {
            return Ok(());
        }
        let text = format!("{} accepted {}, and does not have it", self.host(), digest.short());
        Err(Error::new(Side::Destination, SEND_BLOB, text)
            .with_retry(Retry::Brief)
            .with_hint("a proxy, gateway or login page may have answered in the place of the registry"))
    }

    /// Notes what came of an upload with a token that is new because the one before was refused: where that did not help, it will not
    /// help the next upload either.
    pub fn judge(&self, error: &Error) {
        if error.operation() == SEND_BLOB
            && let Some(status) = error.status().and_then(|status| StatusCode::from_u16(status).ok())
        {
            self.auth.judge(SEND_BLOB, status);
        }
    }

    /// Waits until an upload is dead; answers for how long nothing moved. A commit that takes long is said before it is given up.
    async fn stalled(&self, digest: Digest, watch: &Watch, size: u64) -> Duration {
        let mut said = false;
        loop {
            let limit = if watch.ended() { commit_time(size) } else { STALLED };
            let own = watch.idle();
            // What the system holds back may still be on its way, or wait while the other uploads have the line.
            let line = if own < LOOK { Line::default() } else { self.link.look() };
            let Some(rest) = patience(limit, own, line) else { return own };
            let idle = line.idle.map_or(own, |line| line.min(own));
            // Before that the line may still be at what the system holds back.
            if idle >= STALLED + line.unseen && !std::mem::replace(&mut said, true) {
                let (host, limit) = (self.host(), (idle + rest).as_secs());
                let (digest, idle) = (digest.short(), idle.as_secs());
                self.events.notice(format!(
                    "{host} has not confirmed {digest} within {idle} s of its last byte; it is waited for up to {limit} s"
                ));
            }
            tokio::time::sleep(rest.min(Duration::from_secs(1))).await;
        }
    }

    fn stall(&self, digest: Digest, watch: &Watch, waited: Duration) -> Error {
        let host = self.host();
        let message = if watch.ended() {
            format!("{host} has not confirmed {} within {} s of its last byte", digest.short(), waited.as_secs())
        } else {
            format!(
                "the upload of {} to {host} stalled: no byte moved for {} s after the first {}",
                digest.short(),
                waited.as_secs(),
                watch.sent()
            )
        };
        Error::new(Side::Destination, SEND_BLOB, message).with_code("stalled").with_retry(Retry::Backoff)
    }
}

/// What was `hashed` by this process lies in a temporary file of its own.
fn broken_content(digest: Digest, broken: Broken, hashed: bool) -> Error {
    match broken {
        Broken::Unreadable(error) => {
            let side = if hashed { Side::Local } else { Side::Source };
            Error::new(side, "read blob", format!("the blob {digest} cannot be read: {error}")).with_source(error)
        }
        Broken::WrongDigest(actual) => Error::new(
            Side::Source,
            "read blob",
            format!("the blob {digest} is damaged: its bytes have the digest {actual}"),
        )
        .with_code(DAMAGED)
        .with_hint("save or copy the image again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_blob_has_more_time_to_be_confirmed_and_no_end_of_it() {
        let seconds =
            [0, 1_000_000, 100_000_000, 5_000_000_000, 50_000_000_000].map(|size| commit_time(size).as_secs());
        assert_eq!(seconds, [30, 46, 195, 695, 5095]);
    }

    #[test]
    fn a_slow_line_is_waited_for_whether_or_not_it_is_seen_and_a_dead_one_is_not_for_ever() {
        let seconds = Duration::from_secs;
        let line = |idle: Option<u64>, unseen: u64| Line { idle: idle.map(seconds), unseen: seconds(unseen) };
        for (own, line, rest) in [
            (29, line(None, 0), Some(1)),
            (30, line(None, 0), None),
            // Acknowledged bytes are seen.
            (100, line(Some(2), 0), Some(28)),
            (299, line(Some(0), 0), Some(1)),
            (300, line(Some(0), 0), None),
            // They are not: as long as a slow line needs, and while other uploads move.
            (30, line(Some(30), 40), Some(40)),
            (69, line(Some(69), 40), Some(1)),
            (70, line(Some(70), 40), None),
            (70, line(Some(1), 40), Some(69)),
            (299, line(Some(299), 10_000), Some(1)),
            (300, line(Some(1), 10_000), None),
        ] {
            assert_eq!(patience(seconds(30), seconds(own), line), rest.map(seconds), "{own} {line:?}");
        }
    }
}
