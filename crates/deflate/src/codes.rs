//! The codes of a block: how their lengths are written, and the bits of tokens.

use super::bits::BitWriter;
use super::huffman::{MAX_BITS, code_lengths, code_words};
use super::token::{
    Counts, DIST_SYMBOLS, END_OF_BLOCK, FIRST_PARTS, LENGTH, LENGTH_SYMBOL, LITLEN_SYMBOLS, MIN_MATCH, SECOND,
    SECOND_PARTS, Token, distance_extra_bits, length_extra_bits,
};

/// Symbols of the code that codes the code lengths (RFC 1951 section 3.2.7).
const PRE_SYMBOLS: usize = 19;
/// The longest word of that code.
const PRE_MAX_BITS: usize = 7;
/// The order in which that code's lengths are written.
const PRE_ORDER: [usize; PRE_SYMBOLS] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Extra bits of that code's symbols.
const fn pre_extra_bits(symbol: usize) -> u32 {
    match symbol {
        16 => 2,
        17 => 3,
        18 => 7,
        _ => 0,
    }
}

/// The two codes of a block.
pub struct Codes {
    pub litlen_lengths: [u8; LITLEN_SYMBOLS],
    pub litlen_words: [u16; LITLEN_SYMBOLS],
    dist_lengths: [u8; DIST_SYMBOLS],
    dist_words: [u16; DIST_SYMBOLS],
}

impl Codes {
    fn with_lengths(litlen_lengths: [u8; LITLEN_SYMBOLS], dist_lengths: [u8; DIST_SYMBOLS]) -> Self {
        let (mut litlen_words, mut dist_words) = ([0; LITLEN_SYMBOLS], [0; DIST_SYMBOLS]);
        code_words(&litlen_lengths, &mut litlen_words);
        code_words(&dist_lengths, &mut dist_words);
        Self { litlen_lengths, litlen_words, dist_lengths, dist_words }
    }

    /// RFC 1951 section 3.2.6. Two symbols of the literal and length code are never used, but have words.
    pub fn fixed() -> Self {
        let mut lengths = [8; LITLEN_SYMBOLS + 2];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        let mut words = [0; LITLEN_SYMBOLS + 2];
        code_words(&lengths, &mut words);
        let mut this = Self::with_lengths([0; LITLEN_SYMBOLS], [5; DIST_SYMBOLS]);
        this.litlen_lengths.copy_from_slice(&lengths[..LITLEN_SYMBOLS]);
        this.litlen_words.copy_from_slice(&words[..LITLEN_SYMBOLS]);
        this
    }

    /// The bits of all symbols, without their extra bits.
    pub fn bits(&self, counts: &Counts) -> u64 {
        let sum = |counts: &[u32], lengths: &[u8]| -> u32 {
            counts.iter().zip(lengths).map(|(count, &length)| count * u32::from(length)).sum()
        };
        u64::from(sum(&counts.litlen, &self.litlen_lengths)) + u64::from(sum(&counts.dist, &self.dist_lengths))
    }
}

/// Codes made for a block, and how their lengths are written (RFC 1951 section 3.2.7).
pub struct DynamicCodes {
    pub codes: Codes,
    /// Lengths of the literal and length code that are written.
    litlen_used: usize,
    /// Lengths of the distance code that are written.
    dist_used: usize,
    /// Symbols and the values of their extra bits.
    items: [(u8, u8); LITLEN_SYMBOLS + DIST_SYMBOLS],
    items_used: usize,
    pre_lengths: [u8; PRE_SYMBOLS],
    pre_counts: [u32; PRE_SYMBOLS],
    /// Lengths of the code for code lengths that are written.
    pre_used: usize,
}

impl DynamicCodes {
    pub fn new(counts: &Counts) -> Self {
        let (mut litlen, mut dist) = ([0; LITLEN_SYMBOLS], [0; DIST_SYMBOLS]);
        code_lengths(&counts.litlen, MAX_BITS, &mut litlen);
        code_lengths(&counts.dist, MAX_BITS, &mut dist);
        let used =
            |lengths: &[u8], least: usize| lengths.iter().rposition(|&n| n > 0).map_or(least, |n| least.max(n + 1));
        let (litlen_used, dist_used) = (used(&litlen, END_OF_BLOCK + 1), used(&dist, 1));

        // The lengths of both codes are written as one sequence.
        let mut all = [0; LITLEN_SYMBOLS + DIST_SYMBOLS];
        all[..litlen_used].copy_from_slice(&litlen[..litlen_used]);
        all[litlen_used..litlen_used + dist_used].copy_from_slice(&dist[..dist_used]);
        let mut this = Self {
            codes: Codes::with_lengths(litlen, dist),
            litlen_used,
            dist_used,
            items: [(0, 0); LITLEN_SYMBOLS + DIST_SYMBOLS],
            items_used: 0,
            pre_lengths: [0; PRE_SYMBOLS],
            pre_counts: [0; PRE_SYMBOLS],
            pre_used: 4,
        };
        for run in all[..litlen_used + dist_used].chunk_by(|a, b| a == b) {
            this.add_run(run[0], run.len());
        }
        code_lengths(&this.pre_counts, PRE_MAX_BITS, &mut this.pre_lengths);
        this.pre_used = PRE_ORDER.iter().rposition(|&n| this.pre_lengths[n] > 0).map_or(4, |n| (n + 1).max(4));
        this
    }

    /// Adds `n` times the length `length`.
    fn add_run(&mut self, length: u8, mut n: usize) {
        if length == 0 {
            while n >= 11 {
                let some = n.min(138);
                self.add(18, some - 11);
                n -= some;
            }
            if n >= 3 {
                self.add(17, n - 3);
                n = 0;
            }
        } else if n >= 4 {
            self.add(length, 0);
            n -= 1;
            while n >= 3 {
                let some = n.min(6);
                self.add(16, some - 3);
                n -= some;
            }
        }
        for _ in 0..n {
            self.add(length, 0);
        }
    }

    fn add(&mut self, symbol: u8, extra: usize) {
        self.items[self.items_used] = (symbol, extra as u8);
        self.items_used += 1;
        self.pre_counts[usize::from(symbol)] += 1;
    }

    pub fn header_bits(&self) -> u64 {
        let items = self.pre_counts.iter().zip(self.pre_lengths).enumerate();
        let items: u32 =
            items.map(|(symbol, (count, length))| count * (u32::from(length) + pre_extra_bits(symbol))).sum();
        5 + 5 + 4 + 3 * self.pre_used as u64 + u64::from(items)
    }

    pub fn write_header(&self, bits: &mut BitWriter<'_>) {
        bits.put(self.litlen_used as u32 - 257, 5);
        bits.put(self.dist_used as u32 - 1, 5);
        bits.put(self.pre_used as u32 - 4, 4);
        for &symbol in &PRE_ORDER[..self.pre_used] {
            bits.put(self.pre_lengths[symbol].into(), 3);
        }
        let mut words = [0; PRE_SYMBOLS];
        code_words(&self.pre_lengths, &mut words);
        for &(symbol, extra) in &self.items[..self.items_used] {
            let symbol = usize::from(symbol);
            bits.put(words[symbol].into(), self.pre_lengths[symbol].into());
            bits.put(extra.into(), pre_extra_bits(symbol));
        }
    }
}

/// For each part of a token its bits, see [`Tables::write`].
pub struct Tables {
    /// The word with a length's extra bits above eight bits for how many they are.
    first: [u32; FIRST_PARTS],
    /// The word above two bytes: how many bits it has, and how many with the extra bits of a distance.
    second: [u32; SECOND_PARTS],
}

impl Tables {
    pub fn new() -> Self {
        Self { first: [0; FIRST_PARTS], second: [0; SECOND_PARTS] }
    }

    pub fn fill(&mut self, codes: &Codes) {
        let word = |symbol: usize| (u32::from(codes.litlen_words[symbol]), u32::from(codes.litlen_lengths[symbol]));
        for byte in 0..256 {
            let (bits, n) = word(byte);
            self.first[byte] = bits << 8 | n;
            self.second[SECOND + byte] = bits << 16 | n << 8 | n;
        }
        let mut before = None;
        let mut rest = 0;
        for (length, &symbol) in LENGTH_SYMBOL.iter().enumerate().skip(MIN_MATCH) {
            // The extra bits number the lengths that share a symbol.
            rest = if before == Some(symbol) { rest + 1 } else { 0 };
            before = Some(symbol);
            let symbol = usize::from(symbol);
            let (bits, n) = word(END_OF_BLOCK + 1 + symbol);
            self.first[LENGTH + length] = ((bits | rest << n) << 8) | (n + length_extra_bits(symbol));
        }
        for symbol in 0..DIST_SYMBOLS {
            let (bits, n) = (u32::from(codes.dist_words[symbol]), u32::from(codes.dist_lengths[symbol]));
            self.second[symbol] = bits << 16 | n << 8 | (n + distance_extra_bits(symbol));
        }
    }

    pub fn write(&self, tokens: &[Token], total: usize, bits: &mut BitWriter<'_>) {
        // At most 15 + 5 and 15 + 13 bits.
        let items = tokens.iter().map(|token| {
            let first = self.first[token.first()];
            let second = self.second[token.second()];
            let distance = u64::from(second >> 16) | token.distance_extra() << (second >> 8 & 0xff);
            (u64::from(first >> 8) | distance << (first & 0xff), (first & 0xff) + (second & 0xff))
        });
        bits.put_all(total, items);
    }
}
