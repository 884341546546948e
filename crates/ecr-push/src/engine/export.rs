//! The engine's export, with every kind of early end turned into an error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::text::count;
use bytes::{Buf, Bytes};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncRead, ReadBuf};

/// A tar ends with two blocks of zeros.
const TRAILER: usize = 1024;
/// How much of the end is kept: the trailer, or the engine's error text after it gave up.
const TAIL: usize = 4096;

/// The bytes of an image's export, as a tar. It ends well only after the tar's own end marker: the connection's own end is not trusted: dockerd that fails half-way writes a JSON error
/// *into* the tar and ends the chunked body properly, and a body without length or chunks may end anywhere.
pub struct Export {
    body: BoxStream<'static, io::Result<Bytes>>,
    chunk: Bytes,
    tail: Vec<u8>,
    total: u64,
    ended: bool,
}

impl Export {
    pub(super) fn new(body: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self { body: body.boxed(), chunk: Bytes::new(), tail: Vec::with_capacity(2 * TAIL), total: 0, ended: false }
    }

    fn keep_tail(&mut self) {
        self.total += self.chunk.len() as u64;
        let news = &self.chunk[self.chunk.len().saturating_sub(TAIL)..];
        let surplus = (self.tail.len() + news.len()).saturating_sub(TAIL);
        self.tail.drain(..surplus.min(self.tail.len()));
        self.tail.extend_from_slice(news);
    }

    fn check_end(&self) -> io::Result<()> {
        let trailer = self.tail.len().checked_sub(TRAILER).map(|start| &self.tail[start..]);
        if trailer.is_some_and(|trailer| trailer.iter().all(|byte| *byte == 0)) {
            return Ok(());
        }
        Err(match self.engine_error() {
            Some(message) => io::Error::other(format!(
                "the engine gave up the export after {}: {message}",
                count(self.total, "byte", "bytes")
            )),
            None => early_end(self.total, "the tar has no end marker"),
        })
    }

    fn engine_error(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Failure {
            error: String,
        }
        (0..self.tail.len())
            .filter(|at| self.tail[*at] == b'{')
            .find_map(|at| serde_json::from_slice::<Failure>(self.tail[at..].trim_ascii()).ok())
            .map(|failure| failure.error)
    }
}

impl AsyncRead for Export {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() && !self.ended {
            match ready!(self.body.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => {
                    self.chunk = chunk;
                    self.keep_tail();
                }
                Some(Err(error)) => {
                    return Poll::Ready(Err(early_end(self.total, &error.to_string())));
                }
                None => {
                    self.check_end()?;
                    self.ended = true;
                }
            }
        }
        let count = self.chunk.len().min(buf.remaining());
        buf.put_slice(&self.chunk[..count]);
        self.chunk.advance(count);
        Poll::Ready(Ok(()))
    }
}

fn early_end(total: u64, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the engine's export ended early, after {}: {why}", count(total, "byte", "bytes")),
    )
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn read(chunks: Vec<io::Result<Bytes>>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Export::new(stream::iter(chunks)).read_to_end(&mut out).await?;
        Ok(out)
    }

    #[tokio::test]
    async fn a_whole_tar_passes_however_it_is_cut() {
        let tar: Vec<u8> = [vec![7; 5000], vec![0; TRAILER]].concat();
        for size in [1, 511, 1024, 3000, 10_000] {
            let chunks = tar.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
            assert_eq!(read(chunks.collect()).await.unwrap(), tar);
        }
    }

    #[tokio::test]
    async fn an_early_end_is_an_error() {
        for chunks in [
            vec![],
            vec![Ok(Bytes::from_static(b"short"))],
            vec![Ok(Bytes::from(vec![7; 4096]))],
            vec![Ok(Bytes::from(vec![0; 4096])), Err(io::Error::other("reset"))],
        ] {
            let error = read(chunks).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn the_engines_own_error_in_the_stream_is_told() {
        let failure =
            "{\"errorDetail\":{\"message\":\"no space left on device\"},\"error\":\"no space left on device\"}\r\n";
        let error = read(vec![Ok(Bytes::from(vec![7; 9000])), Ok(Bytes::from(failure))]).await.unwrap_err();
        assert_eq!(error.to_string(), "the engine gave up the export after 9089 bytes: no space left on device");
    }
}
