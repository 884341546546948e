//! What makes a stream of a codec out of blocks: its head, each block, its end.

use std::io::{self, Read};

use ecr_push_deflate as deflate;

use super::{Codec, Compression};

/// Header of a gzip member: deflate, no flags, no time, unknown operating system (RFC 1952 section 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An empty final block with fixed codes (RFC 1951 section 3.2.6): the member's end needs no look ahead.
const FINAL_BLOCK: [u8; 2] = [0x03, 0x00];

/// Compresses blocks, one after the other. Each thread has one.
pub(super) enum Encoder {
    Own(Box<deflate::Encoder>),
    /// A fresh encoder for each block, without a dictionary: zlib-rs gives bytes that depend on what an encoder did earlier if it
    /// is given one.
    Zlib(flate2::Compression),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

impl Encoder {
    /// An encoder for `compression`, which must not be [`Compression::None`].
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip | Compression::None => {
                Self::Own(Box::new(deflate::Encoder::new(deflate::Level::Default)))
            }
            Compression::GzipFast => Self::Own(Box::new(deflate::Encoder::new(deflate::Level::Fast))),
            Compression::GzipLevel(level) => Self::Zlib(flate2::Compression::new(level)),
            Compression::Zstd(level) => Self::Zstd(Box::new(zstd::bulk::Compressor::new(level)?)),
        })
    }

    /// Appends one block to `output`.
    pub(super) fn block(&mut self, input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Own(encoder) => {
                encoder.compress(input, output);
                Ok(())
            }
            Self::Zlib(level) => zlib(*level, input, output),
            // Frames stand one after the other (RFC 8878 section 3).
            Self::Zstd(compressor) => {
                output.reserve(zstd::zstd_safe::compress_bound(input.len()));
                compressor.compress_to_buffer(input, output).map(|_| ())
            }
        }
    }
}

/// One block through a fresh encoder, ended by a sync flush: whole bytes, and not the member's end.
fn zlib(level: flate2::Compression, input: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::Compress::new(level, false);
    loop {
        let rest = &input[encoder.total_in() as usize..];
        encoder.compress_vec(rest, output, flate2::FlushCompress::Sync).map_err(io::Error::other)?;
        // Room left means that everything, the flush too, has been written.
        if encoder.total_in() as usize == input.len() && output.len() < output.capacity() {
            return Ok(());
        }
        output.reserve(64 * 1024);
    }
}

impl Codec {
    /// What comes before the first block.
    pub(super) fn head(self) -> &'static [u8] {
        match self {
            Self::Gzip => &GZIP_HEADER,
            Self::Zstd | Self::None => &[],
        }
    }

    /// What comes after the last block of an input of `len` bytes with the checksum `crc`.
    pub(super) fn end(self, len: u64, crc: u32) -> Vec<u8> {
        match self {
            // The trailer holds the length modulo 2^32 (RFC 1952 section 2.3.1).
            Self::Gzip => [&FINAL_BLOCK[..], &crc.to_le_bytes(), &(len as u32).to_le_bytes()].concat(),
            // Nothing at all would be no zstd stream: an empty frame of one empty raw block, with its size given as 0.
            Self::Zstd if len == 0 => vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00],
            Self::Zstd | Self::None => Vec::new(),
        }
    }

    /// Bytes of input in a block. Larger blocks pay with zstd, which looks back further than gzip's 32 KiB.
    pub(super) fn block(self) -> usize {
        match self {
            Self::Gzip | Self::None => 1 << 20,
            Self::Zstd => 2 << 20,
        }
    }
}

/// The most that is unpacked of one stream. Nothing of it stays in memory, so this only ends what would never end: some MiB can be TiB of
/// zeros. The largest layer that ECR takes has 52 GB, compressed.
pub const MOST_UNPACKED: u64 = 1 << 40;

/// Ends with an error where a stream becomes larger than `most`.
pub struct Bounded<R> {
    inner: R,
    most: u64,
    left: u64,
}

impl<R: Read> Bounded<R> {
    /// A reader of at most `most` bytes; [`MOST_UNPACKED`] is for everything but tests.
    pub fn new(inner: R, most: u64) -> Self {
        Self { inner, most, left: most }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            let text = format!("it is larger than {} bytes when unpacked, which no image is", self.most);
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
        Ok(n)
    }
}

/// Unpacks a stream of any codec. Several gzip members or zstd frames are one stream.
pub enum Decoder<R: Read> {
    /// gzip.
    Gzip(Box<Bounded<flate2::read::MultiGzDecoder<R>>>),
    /// zstd.
    Zstd(Box<Bounded<zstd::stream::read::Decoder<'static, io::BufReader<R>>>>),
    /// Not compressed.
    None(R),
}

impl<R: Read> Decoder<R> {
    /// A decoder of `codec` over `reader`.
    ///
    /// # Errors
    /// If memory for it cannot be had.
    pub fn new(codec: Codec, reader: R) -> io::Result<Self> {
        Self::with_bound(codec, reader, MOST_UNPACKED)
    }

    fn with_bound(codec: Codec, reader: R, most: u64) -> io::Result<Self> {
        Ok(match codec {
            Codec::Gzip => Self::Gzip(Box::new(Bounded::new(flate2::read::MultiGzDecoder::new(reader), most))),
            Codec::Zstd => Self::Zstd(Box::new(Bounded::new(zstd::stream::read::Decoder::new(reader)?, most))),
            Codec::None => Self::None(reader),
        })
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::None(reader) => reader.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_unpacks_to_more_than_any_image_is_ended() {
        let zeros = vec![0; 1 << 20];
        for (codec, compression) in [(Codec::Gzip, Compression::Gzip), (Codec::Zstd, Compression::Zstd(3))] {
            let mut packed = codec.head().to_vec();
            Encoder::new(compression).unwrap().block(&zeros, &mut packed).unwrap();
            packed.extend_from_slice(&codec.end(1 << 20, crc32fast::hash(&zeros)));
            let read = |most| {
                let mut bytes = Vec::new();
                Decoder::with_bound(codec, packed.as_slice(), most).unwrap().read_to_end(&mut bytes).map(|_| bytes)
            };
            assert_eq!(read(1 << 20).unwrap(), zeros, "exactly as much as is allowed");
            let error = read((1 << 20) - 1).unwrap_err();
            assert_eq!(error.to_string(), "it is larger than 1048575 bytes when unpacked, which no image is");
        }
    }
}
