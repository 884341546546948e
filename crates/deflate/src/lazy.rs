//! The match finder of [`Level::Default`](super::Level::Default).

use super::matches::{TAIL, UNSET, distance, extend, hash, is_in_window, load, shared, unpromising};
use super::token::{Filler, MAX_MATCH};

const SHORT_BITS: u32 = 15;
const LONG_BITS: u32 = 15;

/// A match that has this many bytes is taken without a look at the next byte. Up to here lengths are exact.
const GOOD: u32 = 16;

/// Takes the longer of the last occurrences of the same four and of the same eight bytes, unless a better match begins one
/// byte later. Two tables for two lengths find longer matches than two entries for one: the last occurrence of four
/// bytes is near and short, and where both exist the one of eight is nearly always the longest there is.
pub struct Lazy {
    short: Box<[u16; 1 << SHORT_BITS]>,
    long: Box<[u16; 1 << LONG_BITS]>,
    /// The match where the next piece begins, whose position is in the tables already.
    current: Match,
    /// Where the last match ended.
    anchor: u32,
}

#[derive(Clone, Copy)]
struct Match {
    /// At most [`GOOD`], where it may be longer. Below 4 it is none.
    length: u32,
    distance: u32,
}

impl Match {
    const NONE: Self = Self { length: 0, distance: 1 };

    fn exists(self) -> bool {
        self.length >= 4
    }

    /// What the match saves, in units of a quarter literal: each binary digit of its distance costs about one.
    #[inline]
    fn score(self) -> i32 {
        let score = 4 * self.length as i32 - (self.distance | 1).ilog2() as i32;
        if self.length < 4 { 0 } else { score }
    }
}

impl Lazy {
    pub fn new() -> Self {
        Self {
            short: Box::new([UNSET; 1 << SHORT_BITS]),
            long: Box::new([UNSET; 1 << LONG_BITS]),
            current: Match::NONE,
            anchor: 0,
        }
    }

    /// Forgets everything, and begins with `input`.
    pub fn reset(&mut self, input: &[u8]) {
        self.short.fill(UNSET);
        self.long.fill(UNSET);
        self.anchor = 0;
        self.current = self.find(input, 0);
    }

    /// Fills a piece with tokens for the bytes from `at` on. Returns where they end.
    pub fn fill(&mut self, input: &[u8], at: usize, mut piece: Filler<'_>) -> usize {
        let end = input.len().saturating_sub(TAIL) as u32;
        let mut at = at as u32;
        let mut current = self.current;
        while at < end {
            if piece.is_full() {
                self.current = current;
                piece.finish();
                return at as usize;
            }
            let mut inserted = at + 1;
            let mut is_literal = !current.exists();
            let mut next = Match::NONE;
            if current.length < GOOD {
                next = self.find(input, inserted);
                inserted += 1;
                // Better by more than the literal that has to go before it.
                is_literal |= next.score() > current.score() + 2;
            }
            if is_literal {
                piece.literal(input[at as usize]);
                at += 1;
                current = next;
                let skipped = unpromising(self.anchor, at, end);
                if skipped > 0 {
                    piece.literals(&input[at as usize..(at + skipped) as usize]);
                    at += skipped;
                    current = self.find(input, at);
                }
                continue;
            }
            let mut length = current.length as usize;
            if current.length == GOOD {
                let most = (input.len() - at as usize).min(MAX_MATCH);
                length = extend(input, at, current.distance, length, most);
            }
            piece.matched(length, current.distance);
            at += length as u32;
            for inside in inserted..at.min(end) {
                self.insert(load(input, inside), inside);
            }
            self.anchor = at;
            // At the end of the input this may be no true match, but then it is not used.
            current = self.find(input, at);
        }
        // The rest, in which no match begins.
        piece.literals(&input[at as usize..]);
        piece.finish();
        input.len()
    }

    /// Enters the position `at`, where `word` is, and returns the entries that were there before.
    #[inline(always)]
    fn insert(&mut self, word: u64, at: u32) -> (u16, u16) {
        let short = &mut self.short[hash(word, 4, SHORT_BITS)];
        let long = &mut self.long[hash(word, 8, LONG_BITS)];
        (std::mem::replace(short, at as u16), std::mem::replace(long, at as u16))
    }

    /// The best match at `at`, which becomes known to the tables.
    #[inline(always)]
    fn find(&mut self, input: &[u8], at: u32) -> Match {
        let word = load(input, at);
        let (short, long) = self.insert(word, at);
        let candidate = |entry| {
            let distance = distance(at, entry);
            let length = shared(word, load(input, at.wrapping_sub(distance)));
            Match { length: if is_in_window(distance) { length } else { 0 }, distance }
        };
        let (short, long) = (candidate(short), candidate(long));
        let mut best = if long.length > short.length { long } else { short };
        if best.length == 8 {
            best.length += shared(load(input, at + 8), load(input, at + 8 - best.distance));
        }
        best
    }
}
