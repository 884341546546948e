//! Compression of layers on all cores.
//!
//! The input is cut into blocks by its offset and each block is compressed on its own, so blocks may be compressed anywhere
//! in any order and joined. Hence the output depends on the input, the setting and the encoder's version: not on the number
//! of threads, on how the reads fell, or on the machine. A layer's digest must not.

mod codec;
mod pool;

use std::fmt;
use std::str::FromStr;

pub use codec::{Bounded, Decoder, MOST_UNPACKED};
pub use pool::Compressor;

use crate::error::{Error, Result};

/// How a blob is compressed, as far as anyone who stores or unpacks it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// Not at all.
    None,
}

/// How layers are compressed: a codec, and how hard it tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// gzip by this program's own encoder: within 5 % of the size that `docker push` stores.
    #[default]
    Gzip,
    /// gzip by this program's own encoder, as fast as it can: within 12 % of that size.
    GzipFast,
    /// gzip by zlib-rs at level 1 to 9: what other programs' levels are like.
    GzipLevel(u32),
    /// zstd at level 1 to 19.
    Zstd(i32),
    /// Layers go up as they are.
    None,
}

/// What `zstd` without a level means, here and to zstd itself: faster than gzip, and smaller than what `docker push` stores.
const ZSTD_DEFAULT: i32 = 3;

impl Compression {
    /// The codec.
    pub fn codec(self) -> Codec {
        match self {
            Self::Gzip | Self::GzipFast | Self::GzipLevel(_) => Codec::Gzip,
            Self::Zstd(_) => Codec::Zstd,
            Self::None => Codec::None,
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (codec, level) = match text.split_once(':') {
            Some((codec, level)) => (codec, Some(level)),
            None => (text, None),
        };
        let number = |most: i32| {
            let level = level.unwrap_or_default();
            let known =
                level.parse().ok().filter(|number: &i32| (1..=most).contains(number) && number.to_string() == level);
            known.ok_or_else(|| {
                let also = if codec == "gzip" { ", and is not `fast`" } else { "" };
                refused(text, &format!("the level `{level}` is not within 1 to {most}{also}"))
            })
        };
        match (codec, level) {
            ("gzip", None) => Ok(Self::Gzip),
            ("gzip", Some("fast")) => Ok(Self::GzipFast),
            ("gzip", Some(_)) => Ok(Self::GzipLevel(number(9)?.unsigned_abs())),
            ("zstd", None) => Ok(Self::Zstd(ZSTD_DEFAULT)),
            ("zstd", Some(_)) => Ok(Self::Zstd(number(19)?)),
            ("none", None) => Ok(Self::None),
            ("none", Some(_)) => Err(refused(text, "`none` has no level")),
            _ => Err(refused(text, "there are `gzip`, `zstd` and `none`")),
        }
    }
}

fn refused(text: &str, why: &str) -> Error {
    Error::refused("parse compression", format!("`{text}` is no compression: {why}"))
        .with_hint("write gzip, gzip:fast, gzip:1 to gzip:9, zstd, zstd:1 to zstd:19, or none")
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gzip => f.write_str("gzip"),
            Self::GzipFast => f.write_str("gzip:fast"),
            Self::GzipLevel(level) => write!(f, "gzip:{level}"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        for text in ["gzip", "gzip:fast", "gzip:1", "gzip:9", "zstd:1", "zstd:19", "none"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse::<Compression>().unwrap(), Compression::Zstd(ZSTD_DEFAULT));
    }

    #[test]
    fn unknown_settings_are_refused_and_the_known_ones_named() {
        for text in [
            "",
            "gzip:",
            "gzip:0",
            "gzip:10",
            "gzip:-1",
            "gzip:+3",
            "gzip:03",
            "gzip:slow",
            "zstd:0",
            "zstd:20",
            "zstd:fast",
            "none:1",
            "lz4",
            "GZIP",
        ] {
            let error = text.parse::<Compression>().unwrap_err();
            assert!(error.is_refused() && error.hints()[0].contains("gzip:fast"), "{text}: {error}");
        }
    }
}
