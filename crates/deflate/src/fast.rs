//! The match finder of [`Level::Fast`](super::Level::Fast).

use super::matches::{TAIL, UNSET, distance, extend, hash, is_in_window, load, unpromising};
use super::token::{Filler, MAX_MATCH};

const TABLE_BITS: u32 = 14;

/// Bytes that are hashed. Matches of four bytes are taken as well if they turn up, but looking for them would push better
/// ones out of the table.
const HASHED: u32 = 5;

/// Takes the last occurrence that the table knows, whatever its length.
pub struct Fast {
    table: Box<[u16; 1 << TABLE_BITS]>,
    /// Where the last match ended.
    anchor: u32,
}

impl Fast {
    pub fn new() -> Self {
        Self { table: Box::new([UNSET; 1 << TABLE_BITS]), anchor: 0 }
    }

    /// Forgets everything, before another input.
    pub fn reset(&mut self) {
        self.table.fill(UNSET);
        self.anchor = 0;
    }

    /// Fills a piece with tokens for the bytes from `at` on. Returns where they end.
    pub fn fill(&mut self, input: &[u8], at: usize, mut piece: Filler<'_>) -> usize {
        let end = input.len().saturating_sub(TAIL) as u32;
        let mut at = at as u32;
        while at < end {
            if piece.is_full() {
                piece.finish();
                return at as usize;
            }
            // Two positions at a time and no branch between them: the processor foretells badly at which of them a match
            // begins, and a wrong guess costs more than looking at both.
            let words = [load(input, at), load(input, at + 1)];
            let slots = words.map(|word| hash(word, HASHED, TABLE_BITS));
            let distances = [distance(at, self.table[slots[0]]), distance(at + 1, self.table[slots[1]])];
            self.table[slots[0]] = at as u16;
            self.table[slots[1]] = (at + 1) as u16;
            let is_match = |i: usize| {
                let old = load(input, (at + i as u32).wrapping_sub(distances[i]));
                (old as u32 == words[i] as u32) & is_in_window(distances[i])
            };
            let (now, next) = (is_match(0), is_match(1));
            let [first, second, ..] = words[0].to_le_bytes();
            if !(now | next) {
                piece.pair(first, second);
                at += 2;
                let skipped = unpromising(self.anchor, at, end);
                if skipped > 0 {
                    piece.literals(&input[at as usize..(at + skipped) as usize]);
                    at += skipped;
                }
                continue;
            }
            piece.literal_if(!now, first);
            let distance = distances[usize::from(!now)];
            at += u32::from(!now);

            let most = (input.len() - at as usize).min(MAX_MATCH);
            let length = extend(input, at, distance, 4, most);
            piece.matched(length, distance);
            at += length as u32;
            // The bytes before the end of a match are the likeliest to be found at its next occurrence.
            for inside in at - 4..at {
                self.table[hash(load(input, inside), HASHED, TABLE_BITS)] = inside as u16;
            }
            self.anchor = at;
        }
        // The rest, in which no match begins.
        piece.literals(&input[at as usize..]);
        piece.finish();
        input.len()
    }
}
