//! The file `tar-split.json.gz`: a tar without the content of its files, in order.
//!
//! Lines of JSON, each an entry (`tar/storage/entry.go` of vbatts/tar-split): a segment is bytes of the tar as they are, a
//! file names one whose content comes next. Every tar entry has a file there, but one without content has no size.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use super::tree::open_regular;

/// How long a line may be. Segments are headers and padding: dockerd cuts padding every MiB, but did not always.
const LINE_LIMIT: u64 = 16 << 20;

/// The most that is read of one file, unpacked. It is read line by line, so this only ends what would never end.
const MOST: u64 = 1 << 40;

const BUFFER: usize = 64 << 10;

/// What comes next in the tar.
pub(super) enum Entry<'a> {
    /// Bytes that are in the segment buffer.
    Segment,
    /// The content of a file.
    File(Content<'a>),
}

/// The content of a file.
pub(super) struct Content<'a> {
    /// Its name as in the tar's header: it may lead anywhere.
    pub(super) name: Cow<'a, [u8]>,
    /// How long it is. Whatever is no file, or is a hard link, has no content: it is not to be looked for.
    pub(super) size: u64,
    /// Its sum, if it has content.
    pub(super) crc64: u64,
}

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// A line. Go writes base64 into JSON without escapes, so that it can be borrowed.
#[derive(Deserialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    /// The name, if it is not UTF-8.
    name_raw: Option<&'a str>,
    #[serde(default)]
    size: u64,
    payload: Option<&'a str>,
}

/// The entries of a `tar-split.json.gz`, read as they are asked for.
pub(super) struct Entries {
    lines: BufReader<MultiGzDecoder<BufReader<File>>>,
    line: Vec<u8>,
    left: u64,
}

impl Entries {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let compressed = BufReader::with_capacity(BUFFER, open_regular(path)?.0);
        Ok(Self {
            lines: BufReader::with_capacity(BUFFER, MultiGzDecoder::new(compressed)),
            line: Vec::new(),
            left: MOST,
        })
    }

    /// The next entry. The bytes of a segment replace those in `segment`.
    pub(super) fn next(&mut self, segment: &mut Vec<u8>) -> io::Result<Option<Entry<'_>>> {
        self.line.clear();
        let mut limited = self.lines.by_ref().take(LINE_LIMIT);
        let read = limited
            .read_until(b'\n', &mut self.line)
            .map_err(|error| io::Error::new(error.kind(), format!("tar-split.json.gz cannot be read: {error}")))?;
        if read == 0 {
            return Ok(None);
        }
        self.left =
            self.left.checked_sub(read as u64).ok_or_else(|| damaged("has over 1 TiB, which no layer needs"))?;
        if self.line.last() != Some(&b'\n') {
            let long = self.line.len() as u64 == LINE_LIMIT;
            return Err(damaged(if long { "has a line of over 16 MiB" } else { "ends within a line" }));
        }
        let line: Line =
            serde_json::from_slice(&self.line).map_err(|error| damaged(&format!("has a bad line: {error}")))?;
        let payload = line.payload.unwrap_or_default();
        match line.r#type {
            SEGMENT => {
                decode(payload, segment)?;
                Ok(Some(Entry::Segment))
            }
            FILE => {
                let crc64 = if line.size == 0 { 0 } else { sum(payload)? };
                Ok(Some(Entry::File(Content { name: name(line.name, line.name_raw)?, size: line.size, crc64 })))
            }
            other => Err(damaged(&format!("has an entry of the unknown type {other}"))),
        }
    }
}

fn name<'a>(text: Cow<'a, str>, raw: Option<&str>) -> io::Result<Cow<'a, [u8]>> {
    if let Some(raw) = raw.filter(|raw| !raw.is_empty()) {
        let mut name = Vec::new();
        decode(raw, &mut name)?;
        return Ok(Cow::Owned(name));
    }
    Ok(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    })
}

fn sum(payload: &str) -> io::Result<u64> {
    let mut sum = Vec::new();
    decode(payload, &mut sum)?;
    let sum = sum.try_into().map_err(|_| damaged("has a file without a CRC-64"))?;
    Ok(u64::from_be_bytes(sum))
}

fn decode(base64: &str, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    STANDARD.decode_vec(base64, bytes).map_err(|error| damaged(&format!("has bad base64: {error}")))
}

fn damaged(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar-split.json.gz {how}"))
}
