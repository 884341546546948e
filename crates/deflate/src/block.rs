//! Blocks: where one ends, in which of the three formats it is written (RFC 1951 section 3.2.3), and its bits.

use std::ops::Range;

use super::bits::BitWriter;
use super::codes::{Codes, DynamicCodes, Tables};
use super::token::{Counts, END_OF_BLOCK, MAX_PIECE, Piece, Token, distance_extra_bits, length_extra_bits};

/// A block takes no further pieces beyond this many tokens, so that they are still in the cache when they are written.
const BLOCK_TOKENS: usize = 32 * 1024;

/// The most bytes of a stored block (RFC 1951 section 3.2.4).
const STORED_MAX: usize = 65_535;

/// Bits of a stored block's header, with the most that alignment takes.
const STORED_HEADER_BITS: u64 = 3 + 7 + 32;

/// What a further block costs in its header, in bits: the least gain that makes a block end.
const SPLIT_BITS: u64 = 1200;

/// Memory for the block that is being collected.
pub struct Block {
    tokens: Vec<Token>,
    counts: Counts,
    /// Of the piece that is being added.
    piece_counts: Counts,
    fixed: Codes,
    tables: Box<Tables>,
}

impl Block {
    pub fn new() -> Self {
        Self {
            tokens: Vec::with_capacity(BLOCK_TOKENS + MAX_PIECE),
            counts: Counts::NONE,
            piece_counts: Counts::NONE,
            fixed: Codes::fixed(),
            tables: Box::new(Tables::new()),
        }
    }
}

/// Turns the pieces of one input into blocks.
pub struct BlockWriter<'a> {
    block: &'a mut Block,
    input: &'a [u8],
    bits: BitWriter<'a>,
    /// Bytes that will be written as stored blocks. Kept back, so that such blocks are as large as they can be.
    stored: Range<usize>,
    /// End of the bytes that `block` stands for; they begin where `stored` ends.
    end: usize,
    /// Estimated bits of the block's symbols.
    estimate: u64,
}

impl<'a> BlockWriter<'a> {
    pub fn new(block: &'a mut Block, input: &'a [u8], output: &'a mut Vec<u8>) -> Self {
        block.tokens.clear();
        block.counts = Counts::NONE;
        Self { block, input, bits: BitWriter::new(output), stored: 0..0, end: 0, estimate: 0 }
    }

    /// Adds the piece that ends with byte `end` of the input.
    pub fn push(&mut self, piece: &Piece, end: usize) {
        let block = &mut *self.block;
        piece.count(&mut block.piece_counts);
        let alone = estimate(&block.piece_counts);
        if block.tokens.is_empty() {
            std::mem::swap(&mut block.counts, &mut block.piece_counts);
            self.estimate = alone;
        } else {
            let mut both = block.counts.clone();
            both.add(&block.piece_counts);
            let together = estimate(&both);
            if together > self.estimate + alone + SPLIT_BITS || block.tokens.len() + piece.tokens().len() > BLOCK_TOKENS
            {
                self.end_block();
                std::mem::swap(&mut self.block.counts, &mut self.block.piece_counts);
                self.estimate = alone;
            } else {
                block.counts = both;
                self.estimate = together;
            }
        }
        self.block.tokens.extend_from_slice(piece.tokens());
        self.end = end;
    }

    /// Writes what is left, and an empty stored block to end with a full byte.
    pub fn finish(mut self) {
        if !self.block.tokens.is_empty() {
            self.end_block();
        }
        self.flush_stored();
        self.stored_block(&[]);
    }

    /// Writes the block in the shortest of the three formats.
    fn end_block(&mut self) {
        let block = &mut *self.block;
        block.counts.litlen[END_OF_BLOCK] = 1;
        let codes = DynamicCodes::new(&block.counts);
        let extra = extra_bits(&block.counts);
        let dynamic = codes.header_bits() + codes.codes.bits(&block.counts) + extra;
        let fixed = block.fixed.bits(&block.counts) + extra;
        let coded = 3 + dynamic.min(fixed);

        // If stored bytes wait then these can join them; if not, a header is due. The sum cannot grow by more than the
        // headers of full stored blocks, as each coded block saves the header that it makes the next stored one need.
        let bytes = 8 * (self.end - self.stored.end) as u64;
        let store = if self.stored.is_empty() {
            coded > bytes && coded > STORED_HEADER_BITS
        } else {
            coded + STORED_HEADER_BITS > bytes
        };
        if store {
            self.stored.end = self.end;
        } else {
            self.flush_stored();
            let block = &mut *self.block;
            let codes = if fixed <= dynamic {
                self.bits.put(0b01 << 1, 3);
                &block.fixed
            } else {
                self.bits.put(0b10 << 1, 3);
                codes.write_header(&mut self.bits);
                &codes.codes
            };
            block.tables.fill(codes);
            block.tables.write(&block.tokens, coded as usize, &mut self.bits);
            self.bits.put(codes.litlen_words[END_OF_BLOCK].into(), codes.litlen_lengths[END_OF_BLOCK].into());
            self.stored = self.end..self.end;
        }
        self.block.tokens.clear();
    }

    /// Writes the bytes that wait.
    fn flush_stored(&mut self) {
        let stored = std::mem::replace(&mut self.stored, 0..0);
        self.stored = stored.end..stored.end;
        for bytes in self.input[stored].chunks(STORED_MAX) {
            self.stored_block(bytes);
        }
    }

    fn stored_block(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u16;
        self.bits.put(0, 3);
        self.bits.align();
        self.bits.put_bytes(&len.to_le_bytes());
        self.bits.put_bytes(&(!len).to_le_bytes());
        self.bits.put_bytes(bytes);
    }
}

/// Estimated bits of the symbols, without their extra bits: their entropy.
fn estimate(counts: &Counts) -> u64 {
    // Whole numbers only, so that every machine decides alike. In units of 1/64 bit.
    let entropy = |counts: &[u32]| {
        let total: u32 = counts.iter().sum();
        u64::from(weigh(total) - counts.iter().map(|&count| weigh(count)).sum::<u32>().min(weigh(total)))
    };
    (entropy(&counts.litlen) + entropy(&counts.dist)) / 64
}

/// `count` times its binary logarithm, in units of 1/64. `count` is at most 2^20.
#[inline]
fn weigh(count: u32) -> u32 {
    // The exponent and fraction of a float are a logarithm already, with straight lines between the powers of two; a
    // parabola bends them to within 0.01. The conversion is exact, the rest is whole numbers in units of 2^-15, and all of
    // it can be done on many counts at once.
    let bits = (count as f32).to_bits();
    let fraction = (bits & 0x7f_ffff) >> 8;
    let bend = (((fraction * (32_768 - fraction)) >> 15) * 11_272) >> 15;
    let straight = bits.wrapping_sub(127 << 23) >> 8;
    count.wrapping_mul((straight + bend) >> 9)
}

/// The extra bits of all lengths and distances.
fn extra_bits(counts: &Counts) -> u64 {
    let lengths = counts.litlen[END_OF_BLOCK + 1..].iter().enumerate();
    let lengths: u32 = lengths.map(|(symbol, count)| count * length_extra_bits(symbol)).sum();
    let distances = counts.dist.iter().enumerate();
    let distances: u32 = distances.map(|(symbol, count)| count * distance_extra_bits(symbol)).sum();
    u64::from(lengths) + u64::from(distances)
}
