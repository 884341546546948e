//! Images by recipe. Bytes that were changed at random have another digest than the one they are named by, and would be refused at the
//! first door. So an input may be a list of documents that name each other by letter, and the digests are put in when it is read.
//!
//! Documents are separated by the byte 0x1e. The first line of each says where it is:
//!
//! * `PATH`, `tar PATH`, `gz PATH`, `gz tar PATH`: the rest is its content, or that of the one file of a tar that is its content, and
//!   is compressed if asked for.
//! * `PATH -> TARGET`, `PATH => TARGET`: a symbolic, a hard link.
//!
//! In paths and contents `~a` is the digest (64 hex digits) of the first document, `^a` its size, `%a` the digest that it had before it
//! was compressed; `~b` those of the second, and so on. `~@` in a path is the document's own. A letter whose document comes later stays
//! as it is.

use std::io::Write;

use super::parts;
use crate::image::Digest;

/// As many as there are letters.
const MOST: usize = 26;

/// A recipe with larger content than this is cut: mutations repeat themselves.
const LONGEST: usize = 256 << 10;

/// One entry of an archive or layout.
pub(crate) struct Document {
    pub path: String,
    /// Where it leads, and whether by a hard link.
    pub link: Option<(String, bool)>,
    pub bytes: Vec<u8>,
}

/// The documents of a recipe.
pub(crate) fn documents(recipe: &[u8]) -> Vec<Document> {
    let mut marks: Vec<(String, String, String)> = Vec::new();
    let mut documents = Vec::new();
    for part in parts(recipe).take(MOST) {
        let end = part.iter().position(|byte| *byte == b'\n').unwrap_or(part.len());
        let head = String::from_utf8_lossy(&part[..end]).into_owned();
        let body = replaced(part.get(end + 1..).unwrap_or_default(), &marks, None);
        let (gzipped, head) = head.strip_prefix("gz ").map_or((false, head.as_str()), |rest| (true, rest));
        let (packed, head) = head.strip_prefix("tar ").map_or((false, head), |rest| (true, rest));
        let plain = if packed { tar_of(&[("f", b'0', "", &body)]) } else { body };
        let before = Digest::of(&plain).hex();
        let bytes = if gzipped { gzip(&plain) } else { plain };
        let mark = (Digest::of(&bytes).hex(), bytes.len().to_string(), before);
        let text = |text: &str| String::from_utf8_lossy(&replaced(text.as_bytes(), &marks, Some(&mark.0))).into_owned();
        let link = |joint: &str, hard: bool| {
            let (path, target) = head.split_once(joint)?;
            Some((text(path), Some((text(target), hard))))
        };
        let (path, link) = link(" -> ", false).or_else(|| link(" => ", true)).unwrap_or_else(|| (text(head), None));
        documents.push(Document { path, link, bytes });
        marks.push(mark);
    }
    documents
}

/// The text with digests and sizes in the place of marks.
fn replaced(text: &[u8], marks: &[(String, String, String)], own: Option<&str>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let letter = text.get(at + 1).copied().unwrap_or_default();
        let known = marks.get(usize::from(letter.wrapping_sub(b'a')));
        let put = match (byte, known, own) {
            (b'~', _, Some(own)) if letter == b'@' => Some(own),
            (b'~', Some((digest, _, _)), _) => Some(digest.as_str()),
            (b'^', Some((_, size, _)), _) => Some(size.as_str()),
            (b'%', Some((_, _, before)), _) => Some(before.as_str()),
            _ => None,
        };
        match put {
            Some(put) if out.len() < LONGEST => {
                out.extend_from_slice(put.as_bytes());
                at += 2;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory takes everything")
}

/// The recipe as a tar.
pub(crate) fn tar(documents: &[Document]) -> Vec<u8> {
    let entries = documents.iter().map(|document| match &document.link {
        None => (document.path.as_str(), b'0', "", document.bytes.as_slice()),
        Some((target, false)) => (document.path.as_str(), b'2', target.as_str(), [].as_slice()),
        Some((target, true)) => (document.path.as_str(), b'1', target.as_str(), [].as_slice()),
    });
    tar_of(&entries.collect::<Vec<_>>())
}

/// A tar of `(path, type, link target, content)` (POSIX.1-1988, ustar). Names that are too long are cut: GNU's and pax' ways to write
/// them are for inputs that are a tar themselves.
fn tar_of(entries: &[(&str, u8, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, kind, target, content) in entries {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, most: usize, text: &[u8]| {
            let text = &text[..text.len().min(most)];
            header[at..at + text.len()].copy_from_slice(text);
        };
        put(0, 100, path.as_bytes());
        put(100, 8, b"0000644\0");
        put(124, 12, format!("{:011o}\0", content.len()).as_bytes());
        put(136, 12, b"00000000000\0");
        put(148, 8, b"        ");
        put(156, 1, &[*kind]);
        put(157, 100, target.as_bytes());
        put(257, 8, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// The recipe that makes these documents: every digest and size of one in a later one becomes a mark. For seeds from real images. A
/// compressed document becomes a small layer in its place.
#[cfg(test)]
pub(crate) fn write(documents: &[(String, Vec<u8>)]) -> Vec<u8> {
    use std::io::Read;
    let mut recipe = Vec::new();
    let mut marks: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (at, (head, bytes)) in documents.iter().enumerate().take(MOST) {
        let letter = char::from(b'a' + at as u8);
        let own = Digest::of(bytes).hex();
        let head = replace(head.as_bytes(), own.as_bytes(), b"~@");
        let marked = |text: &[u8]| marks.iter().fold(text.to_vec(), |text, (from, to)| replace(&text, from, to));
        let (head, mut text) = (marked(&head), marked(bytes));
        let mut head = head;
        let mut plain = Vec::new();
        if flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).is_ok() {
            head = [b"gz tar ", head.as_slice()].concat();
            text = format!("layer {letter}").into_bytes();
            marks.push((Digest::of(&plain).hex().into_bytes(), format!("%{letter}").into_bytes()));
        }
        if at > 0 {
            recipe.push(super::SEPARATOR);
        }
        recipe.extend_from_slice(&head);
        recipe.push(b'\n');
        recipe.extend_from_slice(&text);
        marks.push((own.into_bytes(), format!("~{letter}").into_bytes()));
        marks.push((format!("\"size\":{}", bytes.len()).into_bytes(), format!("\"size\":^{letter}").into_bytes()));
    }
    recipe
}

#[cfg(test)]
fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}
