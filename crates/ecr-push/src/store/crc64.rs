//! CRC-64 with the polynomial of ISO 3309, x⁶⁴ + x⁴ + x³ + x + 1: the sum that tar-split keeps of each file.
//!
//! That polynomial has so few terms that no table is needed: modulo it, x⁶⁴ is x⁴ + x³ + x + 1, and as squaring is linear
//! over GF(2), x⁵¹² (three squarings on) is x³² + x²⁴ + x⁸ + 1. So to move a sum on by 64 bytes takes a few shifts, which
//! eight sums side by side do at once in vector registers.
//!
//! Bits are reflected: the least significant one is the highest power of x, and multiplying by x shifts to the right.

/// Bytes that are folded at once.
const BLOCK: usize = 64;

/// The sum of the bytes that have passed.
#[derive(Clone, Copy, Default)]
pub(super) struct Crc64(u64);

impl Crc64 {
    /// The sum, as Go's `hash/crc64` gives it.
    pub(super) fn value(self) -> u64 {
        self.0
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut sum = !self.0;
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        if let Some((first, blocks)) = blocks.split_first() {
            let mut sums = words(first);
            sums[0] ^= sum;
            for block in blocks {
                let block = words(block);
                for (sum, word) in sums.iter_mut().zip(block) {
                    *sum = times_x512(*sum) ^ word;
                }
            }
            sum = sums.into_iter().fold(0, |sum, word| times_x64(sum ^ word));
        }
        let (words, rest) = rest.as_chunks();
        for word in words {
            sum = times_x64(sum ^ u64::from_le_bytes(*word));
        }
        for byte in rest {
            sum ^= u64::from(*byte);
            // The eight bits that are shifted out stand for x⁶⁴ to x⁷¹.
            sum = (sum >> 8) ^ reduced(sum << 56);
        }
        self.0 = !sum;
    }
}

fn words(block: &[u8; BLOCK]) -> [u64; BLOCK / 8] {
    let (words, _) = block.as_chunks();
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}

/// x⁶⁴ times `high`, as long as its lowest four bits are clear.
fn reduced(high: u64) -> u64 {
    // x⁴ + x³ + x + 1 is (x + 1)(x³ + 1).
    let once = high ^ (high >> 1);
    once ^ (once >> 3)
}

/// x⁶⁴ times `sum`.
fn times_x64(sum: u64) -> u64 {
    let over = (sum << 63) ^ (sum << 61) ^ (sum << 60);
    reduced(sum) ^ reduced(over)
}

/// x⁵¹² times `sum`.
fn times_x512(sum: u64) -> u64 {
    let over = (sum << 56) ^ (sum << 40) ^ (sum << 32);
    let once = sum ^ (sum >> 8);
    once ^ (once >> 24) ^ reduced(over)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the definition has it.
    fn slow(bytes: &[u8]) -> u64 {
        let step = |sum: u64| (sum >> 1) ^ if sum & 1 == 1 { 0xd800_0000_0000_0000 } else { 0 };
        !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u64::from(*byte), |sum, _| step(sum)))
    }

    fn sum(parts: &[&[u8]]) -> u64 {
        let mut sum = Crc64::default();
        parts.iter().for_each(|part| sum.update(part));
        sum.value()
    }

    #[test]
    fn sums_are_those_of_go() {
        // From the catalogue of parametrised CRC algorithms: CRC-64/GO-ISO.
        assert_eq!(sum(&[b"123456789"]), 0xb909_56c7_75a4_1001);
        assert_eq!(sum(&[]), 0);
    }

    #[test]
    fn the_fast_way_is_the_slow_way_for_every_length_and_cut() {
        let mut state = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1000)
        .collect();
        for length in (0..300).chain([999, 1000]) {
            let bytes = &bytes[..length];
            assert_eq!(sum(&[bytes]), slow(bytes), "{length}");
            let (a, b) = bytes.split_at(length * 2 / 3);
            assert_eq!(sum(&[a, b]), slow(bytes), "{length}");
        }
    }
}
