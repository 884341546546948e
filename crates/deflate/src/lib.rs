//! Raw deflate (RFC 1951) for chunks that are compressed on their own and joined afterwards.
//!
//! Written for the layers of images, where compression takes more time than all else together: mostly programs,
//! libraries and source text, cut into chunks of 1 MiB. The work is divided thus:
//!
//! 1. A match finder (`fast`, `lazy`) turns some thousand tokens' worth of input into a `Piece`, which counts its
//!    symbols as they come.
//! 2. `block` joins pieces to a block as long as one code for all of them is shorter than two, and writes it in the
//!    shortest format. `huffman` makes the codes, `codes` the bits.
//!
//! The output depends on the input and the level alone: not on what the encoder did before, and not on the machine. All
//! decisions are made in whole numbers.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bits;
mod block;
mod codes;
mod fast;
mod huffman;
mod lazy;
mod matches;
#[cfg(test)]
mod tests;
mod token;

use block::{Block, BlockWriter};
use fast::Fast;
use lazy::Lazy;
use token::Piece;

/// How much work is spent on finding matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// About 11 % larger than zlib at level 6 over a container's files, at nearly five times the speed of zlib-rs there.
    Fast,
    /// About 3.5 % larger than zlib at level 6 over a container's files, at nearly three times the speed of zlib-rs there.
    Default,
}

impl Level {
    /// Every level, the fastest first.
    pub const ALL: [Self; 2] = [Self::Fast, Self::Default];

    /// Tokens in a piece: with fewer, blocks follow the input more closely, but more of them are made.
    const fn piece(self) -> usize {
        match self {
            Self::Fast => 8192,
            Self::Default => 2048,
        }
    }
}

/// The most bytes that are compressed at once, 1 MiB.
const CHUNK: usize = 1 << 20;

/// Memory for compression, about half a MiB.
pub struct Encoder {
    level: Level,
    finder: Finder,
    piece: Box<Piece>,
    block: Block,
}

enum Finder {
    Fast(Fast),
    Lazy(Lazy),
}

impl Encoder {
    /// Reserves all memory that is needed but that of the output.
    #[must_use]
    pub fn new(level: Level) -> Self {
        let finder = match level {
            Level::Fast => Finder::Fast(Fast::new()),
            Level::Default => Finder::Lazy(Lazy::new()),
        };
        Self { level, finder, piece: Box::new(Piece::EMPTY), block: Block::new() }
    }

    /// Appends `input` to `output` as deflate blocks of which none is final. They end with an empty stored block and thus
    /// with a full byte, so that others can follow. At worst each 64 KiB grow by five bytes, and the whole by 32.
    ///
    /// No match reaches from one MiB of the input into another.
    pub fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let mut rest = input;
        loop {
            let chunk = rest.split_off(..CHUNK.min(rest.len())).unwrap_or_default();
            self.compress_chunk(chunk, output);
            if rest.is_empty() {
                return;
            }
        }
    }

    fn compress_chunk(&mut self, input: &[u8], output: &mut Vec<u8>) {
        match &mut self.finder {
            Finder::Fast(fast) => fast.reset(),
            Finder::Lazy(lazy) => lazy.reset(input),
        }
        let mut blocks = BlockWriter::new(&mut self.block, input, output);
        let mut at = 0;
        while at < input.len() {
            let piece = self.piece.refill(self.level.piece());
            at = match &mut self.finder {
                Finder::Fast(fast) => fast.fill(input, at, piece),
                Finder::Lazy(lazy) => lazy.fill(input, at, piece),
            };
            blocks.push(&self.piece, at);
        }
        blocks.finish();
    }
}
