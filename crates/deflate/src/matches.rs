//! What both match finders are made of.
//!
//! A finder remembers in tables of hashes where bytes occurred. Entries are the lower 16 bits of a position: small tables
//! stay in the cache, and the window is only 15 bits wide. An entry that is too old to be told apart from a later one
//! does no harm, since whatever place it gives is compared with the bytes before it is used.

use super::token::WINDOW;

/// Bytes at the end of the input where no match begins, so that finders read whole words without asking how many are left.
/// Within [`load`] a word beyond the end would be zero and thus look like a match.
pub const TAIL: usize = 32;

/// An entry that was never set. At positions to 32767 the distance that it gives is 0 or above 32768, hence refused. From
/// then on it gives a distance to the real position 32767. In no case does a distance within the window reach back
/// beyond the start of the input.
pub const UNSET: u16 = 32_767;

/// The eight bytes from `at` on, the first lowest, or zero if the input does not have them.
#[inline]
pub fn load(input: &[u8], at: u32) -> u64 {
    // Positions are 32 bits wide where they index: their sum with eight cannot overflow, and one comparison is enough.
    let at = at as usize;
    input.get(at..at + 8).map_or(0, |bytes| bytes.try_into().map_or(0, u64::from_le_bytes))
}

/// A hash of `bits` bits of the lowest `bytes` bytes of `word`.
#[inline]
pub fn hash(word: u64, bytes: u32, bits: u32) -> usize {
    // The golden ratio's fraction, as Knuth proposes: its product spreads neighbouring words evenly over the upper bits.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    ((word << (64 - 8 * bytes)).wrapping_mul(FACTOR) >> (64 - bits)) as usize
}

/// The distance from `at` back to where `entry` was made; of use only if [`is_in_window`].
#[inline]
pub fn distance(at: u32, entry: u16) -> u32 {
    u32::from((at as u16).wrapping_sub(entry))
}

#[inline]
pub fn is_in_window(distance: u32) -> bool {
    distance.wrapping_sub(1) < WINDOW as u32
}

/// How many bytes the words `a` and `b` share from the first on, 8 at most.
#[inline]
pub fn shared(a: u64, b: u64) -> u32 {
    (a ^ b).trailing_zeros() / 8
}

/// How long a match at `at` is that is known to have `known` bytes, and has `most` at most.
#[inline]
pub fn extend(input: &[u8], at: u32, distance: u32, known: usize, most: usize) -> usize {
    let at = at as usize;
    let old = at - distance as usize;
    let (new, old) = (&input[at + known..at + most], &input[old + known..old + most]);
    let (new_words, new_rest) = new.as_chunks::<8>();
    let (old_words, old_rest) = old.as_chunks::<8>();
    let mut length = known;
    for (a, b) in new_words.iter().zip(old_words) {
        let shared = shared(u64::from_le_bytes(*a), u64::from_le_bytes(*b));
        if shared < 8 {
            return length + shared as usize;
        }
        length += 8;
    }
    length + new_rest.iter().zip(old_rest).take_while(|(a, b)| a == b).count()
}

/// How many of the bytes from `at` on are taken as literals unseen, since no match was found from `anchor` to `at`: none
/// within 256 bytes, then one of 128, up to 64. Makes short work of what is compressed already.
#[inline]
pub fn unpromising(anchor: u32, at: u32, end: u32) -> u32 {
    if at - anchor < 256 {
        return 0;
    }
    // An even number keeps literals in pairs.
    (((at - anchor) / 128).min(64) & !1).min(end.saturating_sub(at))
}
