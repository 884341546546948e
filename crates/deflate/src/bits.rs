//! Bits to bytes, lowest bit first (RFC 1951 section 3.1.1).

/// Appends bits to a vector.
pub struct BitWriter<'a> {
    output: &'a mut Vec<u8>,
    /// Bits that are not yet a full byte, those above them are zero.
    bits: u64,
    /// How many there are, below 8.
    held: u32,
}

impl<'a> BitWriter<'a> {
    pub fn new(output: &'a mut Vec<u8>) -> Self {
        Self { output, bits: 0, held: 0 }
    }

    /// Appends the lowest `n` bits of `value`, whose other bits are zero. `n` is at most 32.
    pub fn put(&mut self, value: u32, n: u32) {
        self.bits |= u64::from(value) << self.held;
        self.held += n;
        while self.held >= 8 {
            self.output.push(self.bits as u8);
            self.bits >>= 8;
            self.held -= 8;
        }
    }

    /// Appends what `next` gives, values and their number of bits, which is at most 56. All together they have at most
    /// `total` bits.
    #[inline]
    pub fn put_all(&mut self, total: usize, items: impl Iterator<Item = (u64, u32)>) {
        let start = self.output.len();
        // Words of eight bytes are written whole, only their full bytes count.
        self.output.resize(start + total / 8 + 16, 0);
        let room = &mut self.output[start..];
        let (mut bits, mut held, mut at) = (self.bits, self.held, 0_u32);
        for (value, n) in items {
            bits |= value << held;
            held += n;
            if let Some(word) = room.get_mut(at as usize..at as usize + 8) {
                word.copy_from_slice(&bits.to_le_bytes());
            }
            at += held / 8;
            bits >>= held & !7;
            held &= 7;
        }
        self.output.truncate(start + at as usize);
        (self.bits, self.held) = (bits, held);
    }

    /// Fills the last byte up with zeros.
    pub fn align(&mut self) {
        if self.held > 0 {
            self.put(0, 8 - self.held);
        }
    }

    /// Appends bytes; only when aligned.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        debug_assert_eq!(self.held, 0);
        self.output.extend_from_slice(bytes);
    }
}
