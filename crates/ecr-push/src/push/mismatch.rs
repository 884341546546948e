//! Bytes that do not have the digest they were sent under: which layer, of which source, and which side is wrong. The source is read once
//! more, where it can be: so a file that somebody changed is known from bytes that are changed on their way.

use std::io;
use std::time::SystemTime;

use super::intake::Blob;
use crate::error::{Error, Side};
use crate::image::{Digest, Hasher};
use crate::registry::DAMAGED;
use crate::source::Content;
use crate::text;
use crate::text::{Setting, Text};

/// What a second look at the bytes says.
enum Again {
    /// They have the digest they should have.
    Right,
    Wrong(Digest),
    Unreadable(io::Error),
}

/// True for a refusal of bytes, by the registry or by this process, because of their digest.
fn is_mismatch(error: &Error) -> bool {
    match error.code() {
        Some(DAMAGED | "DIGEST_INVALID") => true,
        // The code stands for other faults of an upload too; only the sentence distinguishes them (ecr-facts 4.4).
        Some("BLOB_UPLOAD_INVALID") => error.status() == Some(400) && error.message().contains("digest"),
        _ => false,
    }
}

/// Says of a digest that does not fit which layer of `source` it is, and whether the source has changed since the push `began`.
pub(super) async fn explained(error: Error, blob: &Blob, source: &str, began: SystemTime) -> Error {
    if !is_mismatch(&error) {
        return error;
    }
    let (digest, content) = (blob.digest, blob.content.clone());
    let looked = tokio::task::spawn_blocking(move || (read(&content, digest), modified(&content))).await;
    let Ok((again, modified)) = looked else { return error };
    let what = match blob.layer {
        Some((diff_id, _)) => format!("the layer {diff_id} of {source}, packed as {digest}"),
        None => format!("the blob {digest} of {source}"),
    };
    // What this push has packed lies in a file of its own, which nobody else can open.
    let is_own = blob.held.is_some();
    let changed = !is_own && modified.is_some_and(|at| at > began);
    let here = error.code() == Some(DAMAGED);
    let (side, text, hint): (_, _, Text) = match again {
        Again::Right if here || changed => (
            Side::Source,
            format!("{what} was changed while it was read; it has the right bytes now"),
            "push again, while nothing else writes to the source".into(),
        ),
        Again::Right => (
            Side::Destination,
            format!("{what} arrives with another digest ({error}); it was read again and has not changed"),
            "something on the way changes the bytes, or the registry's storage: try without the proxy, or ask who runs the registry".into(),
        ),
        Again::Wrong(actual) if is_own => (
            Side::Local,
            format!("{what} is damaged in its temporary file: its bytes have the digest {actual}"),
            text!["look at this machine's disk and memory, or choose another folder with ", Setting::TempDir],
        ),
        Again::Wrong(actual) if changed => (
            Side::Source,
            format!("{what} was changed since the push began: its bytes have the digest {actual}"),
            "push again, while nothing else writes to the source".into(),
        ),
        Again::Wrong(actual) => (
            Side::Source,
            format!("{what} is damaged: its bytes have the digest {actual}, and have not changed since the push began"),
            "save or copy the image again".into(),
        ),
        Again::Unreadable(cause) => (
            Side::Source,
            format!("{what} does not have its digest ({error}), and cannot be read again: {cause}"),
            "push again, while nothing else writes to the source".into(),
        ),
    };
    let operation = error.operation().to_owned();
    let hints = std::iter::once(hint.clone()).chain(error.hints().iter().filter(|old| ***old != *hint).cloned());
    let hints = hints.collect();
    error.stamped(side, &operation).reworded(text).with_hints(hints)
}

fn read(content: &Content, expected: Digest) -> Again {
    let mut reader = match content.reader() {
        Ok(reader) => reader,
        Err(error) => return Again::Unreadable(error),
    };
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match io::Read::read(&mut reader, &mut buffer) {
            Ok(0) => break,
            Ok(n) => hasher.update(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Again::Unreadable(error),
        }
    }
    match hasher.finish().0 {
        actual if actual == expected => Again::Right,
        actual => Again::Wrong(actual),
    }
}

/// When the file was written to last, if it is one.
fn modified(content: &Content) -> Option<SystemTime> {
    let metadata = match content {
        Content::Path { path, .. } => std::fs::metadata(&**path),
        Content::File { file, .. } => file.metadata(),
        Content::Memory(_) | Content::Remote { .. } => return None,
    };
    metadata.ok()?.modified().ok()
}
