//! gRPC over HTTP/2, the client's side of it (grpc/doc/PROTOCOL-HTTP2.md): length-prefixed messages, then the status in
//! trailers.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, Response, StatusCode, header};
use tokio::time::timeout;

use super::failure::Failure;
use super::proto::Malformed;
use crate::error::Result;

/// containerd sends no larger message unless it is told to (`defaults.DefaultMaxSendMsgSize`); a piece of a blob has
/// 1 MiB.
const LARGEST_MESSAGE: usize = 16 << 20;
/// A byte that says whether the message is compressed, then its length.
const PREFIX: usize = 5;

/// The request `message` as it goes on the wire.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // Requests are names and digests.
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The answers to one call. Dropped before its end, it breaks the call off.
#[derive(Debug)]
pub(super) struct Answers {
    body: RecvStream,
    received: Messages,
    ended: bool,
    failure: Failure,
    idle: Duration,
}

impl Answers {
    pub fn new(response: Response<RecvStream>, failure: Failure, idle: Duration) -> Result<Self> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(failure.foreign(&format!("it answered with the HTTP status {}", head.status)));
        }
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/grpc") {
            return Err(failure.foreign(&format!("it answered with the content type `{kind}`")));
        }
        // An answer that is only a status has it in the headers.
        let ended = head.headers.contains_key(STATUS);
        if ended {
            check(&head.headers, &failure)?;
        }
        Ok(Self { body, received: Messages::default(), ended, failure, idle })
    }

    /// What to say of a message that makes no sense.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The next message; none once containerd said that the call succeeded.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(message) = self.received.next().map_err(|error| self.failure.malformed(error))? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match timeout(self.idle, self.body.data()).await {
                Err(_) => return Err(self.failure.late(self.idle)),
                Ok(Some(data)) => self.take(&data.map_err(|error| self.failure.broken(error))?)?,
                Ok(None) => self.finish().await?,
            }
        }
    }

    fn take(&mut self, data: &[u8]) -> Result<()> {
        self.received.push(data);
        // Only now may containerd send as much again.
        self.body.flow_control().release_capacity(data.len()).map_err(|error| self.failure.broken(error))
    }

    async fn finish(&mut self) -> Result<()> {
        let trailers = self.body.trailers().await.map_err(|error| self.failure.broken(error))?;
        check(&trailers.unwrap_or_default(), &self.failure)?;
        if !self.received.is_empty() {
            return Err(self.failure.nonsense("it ends within a message"));
        }
        self.ended = true;
        Ok(())
    }
}

/// Cuts the bytes of a body into messages.
#[derive(Debug, Default)]
struct Messages(BytesMut);

impl Messages {
    fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self) -> std::result::Result<Option<Bytes>, Malformed> {
        let Some((prefix, _)) = self.0.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [compressed, len @ ..] = *prefix;
        if compressed != 0 {
            // We named no compression in `grpc-accept-encoding`.
            return Err(Malformed("it is compressed, which was not asked for"));
        }
        let len = u32::from_be_bytes(len) as usize;
        if len > LARGEST_MESSAGE {
            return Err(Malformed("a message has more than 16 MiB"));
        }
        if self.0.len() < PREFIX + len {
            self.0.reserve(PREFIX + len - self.0.len());
            return Ok(None);
        }
        self.0.advance(PREFIX);
        Ok(Some(self.0.split_to(len).freeze()))
    }
}

const STATUS: &str = "grpc-status";

/// Fails unless the call succeeded.
fn check(trailers: &HeaderMap, failure: &Failure) -> Result<()> {
    let Some(status) = trailers.get(STATUS) else {
        return Err(failure.nonsense("it ends without a status"));
    };
    match status.to_str().ok().and_then(|status| status.parse().ok()) {
        Some(0) => Ok(()),
        Some(code) => {
            let message = trailers.get("grpc-message").map(|text| percent_decoded(text.as_bytes()));
            Err(failure.status(code, message.as_deref().unwrap_or("no reason given")))
        }
        None => Err(failure.nonsense("its status is not a number")),
    }
}

/// `grpc-message` is percent-encoded. What is no valid encoding stays as it is, as the protocol wants it.
fn percent_decoded(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, tail @ ..] = rest {
        let escaped = tail.first_chunk::<2>().filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|[high, low]| Some(hex(*high)? << 4 | hex(*low)?));
        decoded.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    // It goes to a terminal.
    String::from_utf8_lossy(&decoded).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_wherever_the_pieces_end() {
        let wire = [frame(b"one"), frame(b""), frame(b"three")].concat();
        for size in 1..=wire.len() {
            let mut messages = Messages::default();
            let mut found = Vec::new();
            for piece in wire.chunks(size) {
                messages.push(piece);
                while let Some(message) = messages.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [&b"one"[..], b"", b"three"]);
            assert!(messages.is_empty());
        }
    }

    #[test]
    fn hostile_prefixes_are_refused() {
        for (prefix, why) in [
            ([1, 0, 0, 0, 1], "it is compressed, which was not asked for"),
            ([0, 0xff, 0xff, 0xff, 0xff], "a message has more than 16 MiB"),
            ([0, 1, 0, 0, 1], "a message has more than 16 MiB"),
        ] {
            let mut messages = Messages::default();
            messages.push(&prefix);
            assert_eq!(messages.next(), Err(Malformed(why)));
        }
    }

    #[test]
    fn reasons_are_decoded() {
        for (encoded, text) in [
            ("plain", "plain"),
            ("image \"x\": not found", "image \"x\": not found"),
            ("100%25 %C3%A9", "100% é"),
            ("%", "%"),
            ("%2", "%2"),
            ("%zz%41", "%zzA"),
            ("%+1", "%+1"),
            ("a%0Ab%1B[31m", "a b [31m"),
            ("%ff", "\u{fffd}"),
        ] {
            assert_eq!(percent_decoded(encoded.as_bytes()), text);
        }
    }
}
