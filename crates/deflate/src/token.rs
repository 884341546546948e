//! What match finding hands to Huffman coding: literals and matches in words of 32 bits, counted as they are made.
//!
//! A token has two parts, so that coding it needs no branch. The first is a literal or a length, the second a distance,
//! a second literal or nothing:
//!
//! | bits     | holds                                                                                 |
//! |----------|---------------------------------------------------------------------------------------|
//! | 0 to 9   | a literal, or [`LENGTH`] and the length of a match                                    |
//! | 10 to 18 | the symbol of a distance, [`NOTHING`], or [`SECOND`] and a second literal             |
//! | 19 to 31 | the extra bits of the distance                                                        |

/// Literals and lengths: 256 bytes, the end of a block, 29 lengths (RFC 1951 section 3.2.5).
pub const LITLEN_SYMBOLS: usize = 286;
/// Distances (RFC 1951 section 3.2.5).
pub const DIST_SYMBOLS: usize = 30;
/// The symbol that ends a block.
pub const END_OF_BLOCK: usize = 256;

pub const MIN_MATCH: usize = 3;
pub const MAX_MATCH: usize = 258;
pub const WINDOW: usize = 32 * 1024;

/// A match of `n` bytes is `LENGTH + n` in the first part of a token.
pub const LENGTH: usize = 256;
/// Second part of a token that is a single literal.
pub const NOTHING: usize = 31;
/// A second literal `b` is `SECOND + b` in the second part of a token.
pub const SECOND: usize = 32;

/// Values of the first part of a token, of which not all are in use.
pub const FIRST_PARTS: usize = 1 << 10;
/// Values of the second part of a token, of which not all are in use.
pub const SECOND_PARTS: usize = 1 << 9;

#[derive(Clone, Copy, Default)]
pub struct Token(u32);

impl Token {
    #[inline]
    fn literal(byte: u8) -> Self {
        Self(u32::from(byte) | (NOTHING as u32) << 10)
    }

    #[inline]
    fn pair(first: u8, second: u8) -> Self {
        Self(u32::from(first) | (SECOND as u32 + u32::from(second)) << 10)
    }

    /// `length` is within 3 to 258 and `distance` within 1 to 32768.
    #[inline]
    fn matched(length: usize, distance: u32) -> Self {
        // From 4 on there are two symbols for each power of two, told apart by the bit below the highest; the bits
        // below that one are the extra bits. Shifting by none makes the rule hold for 0 to 3 as well.
        let distance = distance - 1;
        let extra = (distance | 2).ilog2() - 1;
        let symbol = 2 * extra + (distance >> extra);
        let rest = distance & ((1 << extra) - 1);
        Self((LENGTH + length) as u32 | symbol << 10 | rest << 19)
    }

    #[inline]
    pub fn first(self) -> usize {
        (self.0 & 0x3ff) as usize
    }

    #[inline]
    pub fn second(self) -> usize {
        (self.0 >> 10 & 0x1ff) as usize
    }

    #[inline]
    pub fn distance_extra(self) -> u64 {
        u64::from(self.0 >> 19)
    }
}

/// How often each symbol occurs.
#[derive(Clone)]
pub struct Counts {
    pub litlen: [u32; LITLEN_SYMBOLS],
    pub dist: [u32; DIST_SYMBOLS],
}

impl Counts {
    pub const NONE: Self = Self { litlen: [0; LITLEN_SYMBOLS], dist: [0; DIST_SYMBOLS] };

    pub fn add(&mut self, other: &Self) {
        self.litlen.iter_mut().zip(&other.litlen).for_each(|(sum, n)| *sum += n);
        self.dist.iter_mut().zip(&other.dist).for_each(|(sum, n)| *sum += n);
    }
}

/// For each length of a match its symbol less 257 (RFC 1951 section 3.2.5).
pub const LENGTH_SYMBOL: [u8; MAX_MATCH + 1] = {
    let mut table = [0; MAX_MATCH + 1];
    let mut length = MIN_MATCH;
    while length < MAX_MATCH {
        // As with distances, only with four symbols for each power of two.
        let n = (length - MIN_MATCH) as u32;
        let extra = (n | 4).ilog2() - 2;
        table[length] = (4 * extra + (n >> extra)) as u8;
        length += 1;
    }
    // The greatest length has a symbol of its own, without extra bits.
    table[MAX_MATCH] = 28;
    table
};

/// Extra bits of the length symbol 257 + `symbol`.
pub const fn length_extra_bits(symbol: usize) -> u32 {
    if symbol < 8 || symbol == 28 { 0 } else { symbol as u32 / 4 - 1 }
}

/// Extra bits of a distance symbol.
pub const fn distance_extra_bits(symbol: usize) -> u32 {
    if symbol < 4 { 0 } else { symbol as u32 / 2 - 1 }
}

/// Room for tokens in a piece.
const ROOM: usize = 9 * 1024;
/// What a match finder may add between two looks at [`Filler::is_full`].
const SLACK: usize = 256;
/// The most tokens that a piece can be asked to have.
pub const MAX_PIECE: usize = ROOM - SLACK;

/// Lengths to 258, rounded up to a power of two so that a mask keeps an index within.
const LENGTH_COUNTS: usize = 512;
/// Likewise for the symbols of distances.
const DISTANCE_COUNTS: usize = 32;

/// Some consecutive tokens: the smallest unit that block splitting sees.
pub struct Piece {
    tokens: [Token; ROOM],
    len: usize,
    literals: [u32; 256],
    lengths: [u32; LENGTH_COUNTS],
    distances: [u32; DISTANCE_COUNTS],
}

impl Piece {
    pub const EMPTY: Self = Self {
        tokens: [Token(0); ROOM],
        len: 0,
        literals: [0; 256],
        lengths: [0; LENGTH_COUNTS],
        distances: [0; DISTANCE_COUNTS],
    };

    /// Empties the piece, to be filled with about `limit` tokens, at most [`MAX_PIECE`].
    pub fn refill(&mut self, limit: usize) -> Filler<'_> {
        self.literals.fill(0);
        self.lengths.fill(0);
        self.distances.fill(0);
        Filler { len: 0, limit, single: false, last: 0, piece: self }
    }

    pub fn tokens(&self) -> &[Token] {
        &self.tokens[..self.len]
    }

    /// Writes how often each symbol occurs among the tokens to `counts`; the end of a block is not among them.
    pub fn count(&self, counts: &mut Counts) {
        let (literals, lengths) = counts.litlen.split_at_mut(END_OF_BLOCK);
        literals.copy_from_slice(&self.literals);
        lengths.fill(0);
        for (count, symbol) in self.lengths.iter().zip(LENGTH_SYMBOL).skip(MIN_MATCH) {
            lengths[1 + usize::from(symbol)] += count;
        }
        counts.dist.copy_from_slice(&self.distances[..DIST_SYMBOLS]);
    }
}

/// Adds tokens to a piece. What changes with each token can stay in registers.
pub struct Filler<'a> {
    piece: &'a mut Piece,
    len: usize,
    limit: usize,
    /// Whether the last token is a single literal that another may join, to become a pair.
    single: bool,
    /// That literal.
    last: u8,
}

impl Filler<'_> {
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len >= self.limit
    }

    /// Adds a literal, to the one before if that is still single.
    #[inline]
    pub fn literal(&mut self, byte: u8) {
        let token = if self.single { Token::pair(self.last, byte) } else { Token::literal(byte) };
        let at = self.len - usize::from(self.single);
        self.piece.tokens[at] = token;
        self.len = at + 1;
        self.single = !self.single;
        self.last = byte;
        self.count_literal(byte, true);
    }

    /// Adds two literals.
    #[inline]
    pub fn pair(&mut self, first: u8, second: u8) {
        self.push(Token::pair(first, second), true);
        self.count_literal(first, true);
        self.count_literal(second, true);
    }

    /// Adds a literal if there is one, without a branch. No other joins it.
    #[inline]
    pub fn literal_if(&mut self, is_there: bool, byte: u8) {
        self.push(Token::literal(byte), is_there);
        self.count_literal(byte, is_there);
    }

    /// Adds literals.
    #[inline]
    pub fn literals(&mut self, bytes: &[u8]) {
        let (pairs, rest) = bytes.as_chunks();
        for &[first, second] in pairs {
            self.pair(first, second);
        }
        for &byte in rest {
            self.literal_if(true, byte);
        }
    }

    /// Adds a match. `length` is within 3 to 258 and `distance` within 1 to 32768.
    #[inline]
    pub fn matched(&mut self, length: usize, distance: u32) {
        let token = Token::matched(length, distance);
        self.push(token, true);
        self.piece.lengths[length & (LENGTH_COUNTS - 1)] += 1;
        self.piece.distances[token.second() & (DISTANCE_COUNTS - 1)] += 1;
    }

    /// Must be the last.
    #[inline]
    pub fn finish(self) {
        self.piece.len = self.len;
    }

    #[inline]
    fn push(&mut self, token: Token, is_there: bool) {
        self.piece.tokens[self.len] = token;
        self.len += usize::from(is_there);
        self.single = false;
    }

    #[inline]
    fn count_literal(&mut self, byte: u8, is_there: bool) {
        self.piece.literals[usize::from(byte)] += u32::from(is_there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_rfc() {
        // The table of RFC 1951 section 3.2.5: the first distance of each symbol follows the last of the one before.
        let mut distance = 1;
        for symbol in 0..DIST_SYMBOLS {
            for extra in 0..1 << distance_extra_bits(symbol) {
                let token = Token::matched(3, distance);
                assert_eq!((token.second(), token.distance_extra()), (symbol, extra), "distance {distance}");
                distance += 1;
            }
        }
        assert_eq!(distance, WINDOW as u32 + 1);
    }

    #[test]
    fn lengths_are_those_of_the_rfc() {
        let mut length = MIN_MATCH;
        for symbol in 0..28 {
            for _ in 0..1 << length_extra_bits(symbol) {
                // The last of symbol 284 would be 258, which has one of its own.
                let expected = if length == MAX_MATCH { 28 } else { symbol };
                assert_eq!(usize::from(LENGTH_SYMBOL[length]), expected, "length {length}");
                assert_eq!(Token::matched(length, 1).first(), LENGTH + length);
                length += 1;
            }
        }
        assert_eq!(length, MAX_MATCH + 1);
    }

    #[test]
    fn literals_join_in_pairs() {
        let mut piece = Box::new(Piece::EMPTY);
        let mut filler = piece.refill(MAX_PIECE);
        for byte in [1, 2, 3] {
            filler.literal(byte);
        }
        filler.matched(4, 1);
        filler.literal(4);
        filler.literals(&[5, 6, 7]);
        filler.literal(8);
        filler.finish();
        let parts: Vec<_> = piece.tokens().iter().map(|token| (token.first(), token.second())).collect();
        let expected = [(1, SECOND + 2), (3, NOTHING), (LENGTH + 4, 0), (4, NOTHING), (5, SECOND + 6), (7, NOTHING)];
        assert_eq!(parts[..6], expected);
        assert_eq!(parts[6..], [(8, NOTHING)]);
        let mut counts = Counts::NONE;
        piece.count(&mut counts);
        assert!((1..=8).all(|byte| counts.litlen[byte] == 1));
        assert_eq!((counts.litlen[258], counts.dist[0]), (1, 1));
    }
}
