//! Lengths and bits of Huffman codes (RFC 1951 section 3.2.2).

/// The most symbols that a code has.
const MAX_SYMBOLS: usize = 288;
/// The longest code word that deflate knows.
pub const MAX_BITS: usize = 15;

/// Bits that hold the symbol beside its count while sorting.
const SYMBOL_BITS: u32 = 9;

/// Writes the length of each symbol's code word to `lengths`: an optimal code, or close to one where it would need words
/// longer than `limit`. A symbol that never occurs gets 0.
///
/// At least two symbols get a word, even if fewer occur: a code of one word is incomplete, and some decoders refuse it
/// where RFC 1951 allows it (section 3.2.7). `counts` sums up to less than 2^23.
pub fn code_lengths(counts: &[u32], limit: usize, lengths: &mut [u8]) {
    lengths.fill(0);
    let mut sorted = [0_u32; MAX_SYMBOLS];
    let mut used = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        // Written always and kept if used: whether a symbol occurs is hard to foretell.
        sorted[used] = count << SYMBOL_BITS | symbol as u32;
        used += usize::from(count != 0);
    }
    if used < 2 {
        let only = if used == 1 { (sorted[0] & ((1 << SYMBOL_BITS) - 1)) as usize } else { 0 };
        lengths[only] = 1;
        lengths[usize::from(only == 0)] = 1;
        return;
    }
    let sorted = &mut sorted[..used];
    sorted.sort_unstable();

    let mut with_length = leaves_by_depth(sorted, limit);
    shorten(&mut with_length, limit);
    // The rarest symbols get the longest words.
    let mut symbols = sorted.iter().map(|entry| (entry & ((1 << SYMBOL_BITS) - 1)) as usize);
    for length in (1..=limit).rev() {
        for symbol in symbols.by_ref().take(with_length[length] as usize) {
            lengths[symbol] = length as u8;
        }
    }
}

/// How many leaves of the Huffman tree lie at each depth, those deeper than `limit` taken as lying there. `sorted` has at
/// least two entries, by ascending count.
fn leaves_by_depth(sorted: &[u32], limit: usize) -> [u32; MAX_BITS + 1] {
    let leaves = sorted.len();
    // Inner nodes come into being by ascending weight, so that they and the leaves are two queues: the two lightest nodes
    // are always at their heads. A node's parent is made after it.
    let mut weight = [u32::MAX; MAX_SYMBOLS];
    let mut parent = [0_u16; MAX_SYMBOLS];
    let mut leaf_parent = [0_u16; MAX_SYMBOLS];
    let (mut leaf, mut inner) = (0, 0);
    for made in 0..leaves - 1 {
        let mut sum = 0;
        for _ in 0..2 {
            let leaf_weight = sorted.get(leaf).map_or(u32::MAX, |entry| entry >> SYMBOL_BITS);
            if leaf_weight <= weight[inner] {
                sum += leaf_weight;
                leaf_parent[leaf] = made as u16;
                leaf += 1;
            } else {
                sum += weight[inner];
                parent[inner] = made as u16;
                inner += 1;
            }
        }
        weight[made] = sum;
    }

    // From the root, which is the last, down.
    let mut depth = [0_u16; MAX_SYMBOLS];
    for node in (0..leaves - 2).rev() {
        depth[node] = depth[usize::from(parent[node])] + 1;
    }
    let mut at_depth = [0; MAX_BITS + 1];
    for &parent in &leaf_parent[..leaves] {
        at_depth[usize::from(depth[usize::from(parent)] + 1).min(limit)] += 1;
    }
    at_depth
}

/// Makes a code of `with_length` words that are possible: leaves raised to the limit take more than there is.
fn shorten(with_length: &mut [u32; MAX_BITS + 1], limit: usize) {
    // A word of n bits takes 2^(limit - n) of the 2^limit words of `limit` bits.
    let taken: u32 = (1..=limit).map(|length| with_length[length] << (limit - length)).sum();
    for _ in 1 << limit..taken {
        // A leaf moves one down and takes one of the lowest as its sibling, whose place becomes free.
        let length = (1..limit).rev().find(|&length| with_length[length] > 0).unwrap_or(1);
        with_length[length] -= 1;
        with_length[length + 1] += 2;
        with_length[limit] -= 1;
    }
}

/// Writes the code word of each symbol to `words`, its first bit lowest, as deflate packs them (RFC 1951 section 3.1.1).
pub fn code_words(lengths: &[u8], words: &mut [u16]) {
    let mut with_length = [0_u16; MAX_BITS + 1];
    for &length in lengths {
        with_length[usize::from(length)] += 1;
    }
    with_length[0] = 0;
    let mut next = [0_u16; MAX_BITS + 1];
    for length in 1..=MAX_BITS {
        next[length] = (next[length - 1] + with_length[length - 1]) << 1;
    }
    for (word, &length) in words.iter_mut().zip(lengths) {
        let length = usize::from(length);
        *word = if length == 0 { 0 } else { next[length].reverse_bits() >> (16 - length) };
        next[length] = next[length].wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(counts: &[u32], limit: usize) -> Vec<u8> {
        let mut lengths = vec![0; counts.len()];
        code_lengths(counts, limit, &mut lengths);
        lengths
    }

    /// Every code is complete: its words take all there is.
    fn assert_complete(lengths: &[u8], limit: usize) {
        let taken: u64 = lengths.iter().filter(|&&n| n > 0).map(|&n| 1 << (limit - usize::from(n))).sum();
        assert_eq!(taken, 1 << limit, "{lengths:?}");
    }

    #[test]
    fn the_example_of_the_rfc_gives_its_words() {
        let lengths = [3, 3, 3, 3, 3, 2, 4, 4];
        let mut words = [0; 8];
        code_words(&lengths, &mut words);
        let plain = words.iter().zip(lengths).map(|(word, n)| word.reverse_bits() >> (16 - n)).collect::<Vec<_>>();
        assert_eq!(plain, [0b010, 0b011, 0b100, 0b101, 0b110, 0b00, 0b1110, 0b1111]);
    }

    #[test]
    fn frequent_symbols_get_short_words() {
        assert_eq!(lengths(&[1, 1, 2, 4, 8, 0], 15), [5, 5, 4, 3, 2, 0].map(|n: u8| n.saturating_sub(1)));
    }

    #[test]
    fn two_words_at_least() {
        assert_eq!(lengths(&[0, 0, 0], 15), [1, 1, 0]);
        assert_eq!(lengths(&[7, 0, 0], 15), [1, 1, 0]);
        assert_eq!(lengths(&[0, 0, 7], 15), [1, 0, 1]);
    }

    #[test]
    fn words_stay_within_the_limit() {
        // Fibonacci's numbers make the deepest tree.
        for used in 2..30 {
            let (mut a, mut b) = (1, 1);
            let counts: Vec<u32> = (0..used)
                .map(|_| {
                    (a, b) = (b, a + b);
                    a
                })
                .collect();
            for limit in [7, 15] {
                let lengths = lengths(&counts, limit);
                assert!(lengths.iter().all(|&n| (1..=limit).contains(&usize::from(n))));
                assert_complete(&lengths, limit);
            }
        }
    }

    #[test]
    fn all_symbols_alike_or_not() {
        for used in 2..=286_u32 {
            assert_complete(&lengths(&vec![1; used as usize], 15), 15);
            let uneven: Vec<u32> = (0..used).map(|n| n * n * 7919 % 10_007).collect();
            if uneven.iter().filter(|&&n| n > 0).count() > 1 {
                assert_complete(&lengths(&uneven, 15), 15);
            }
        }
    }
}
