//! Two decoders give back what was encoded, the output depends on the input alone, and it never grows by much.

use std::io::Read;

use super::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A generator of reproducible noise (a linear congruential one, of which the upper bits are used).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// Words of a small vocabulary, by a skewed choice.
    fn text(&mut self, n: usize) -> Vec<u8> {
        let words: Vec<Vec<u8>> = (0..400)
            .map(|_| {
                let len = 1 + self.below(9);
                (0..len).map(|_| b'a' + (self.below(26) * self.below(26) / 26) as u8).collect()
            })
            .collect();
        let mut text = Vec::with_capacity(n + 16);
        while text.len() < n {
            let most = 1 + self.below(words.len());
            text.extend_from_slice(&words[self.below(most)]);
            text.push(if self.below(12) == 0 { b'\n' } else { b' ' });
        }
        text.truncate(n);
        text
    }

    /// One of many kinds of input.
    fn any(&mut self, n: usize) -> Vec<u8> {
        match self.below(8) {
            0 => self.bytes(n),
            1 => self.text(n),
            2 => vec![self.next() as u8; n],
            3 => {
                let period = 1 + self.below(300);
                let period = self.bytes(period);
                period.iter().copied().cycle().take(n).collect()
            }
            4 => {
                let symbols = 1 + self.below(16);
                (0..n).map(|_| self.below(symbols) as u8).collect()
            }
            5 => (0..n).map(|i| (i / 7) as u8 ^ (self.below(64) == 0) as u8).collect(),
            6 => {
                // Numbers that grow, as in tables of addresses.
                let mut value = self.next() as u32;
                let step = self.below(5000);
                let mut bytes = Vec::with_capacity(n + 4);
                while bytes.len() < n {
                    value = value.wrapping_add(self.below(step + 1) as u32);
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
                bytes.truncate(n);
                bytes
            }
            _ => {
                let mut bytes = Vec::with_capacity(n);
                while bytes.len() < n {
                    let len = (1 + self.below(1 + n / 3)).min(n - bytes.len());
                    let part = if self.below(2) == 0 { self.bytes(len) } else { self.text(len) };
                    bytes.extend_from_slice(&part);
                }
                bytes
            }
        }
    }
}

/// The most that an input of `n` bytes may become.
fn bound(n: usize) -> usize {
    n + 5 * n.div_ceil(64 * KIB) + 32
}

fn encode(encoder: &mut Encoder, input: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    encoder.compress(input, &mut output);
    output
}

/// Checks what one encoding of `input` promises.
fn check(encoder: &mut Encoder, input: &[u8]) -> Vec<u8> {
    let output = encode(encoder, input);
    assert!(output.ends_with(&[0, 0, 0xff, 0xff]), "ends with a sync flush");
    assert!(output.len() <= bound(input.len()), "{} bytes became {}", input.len(), output.len());

    let mut closed = output.clone();
    closed.extend_from_slice(&[3, 0]);
    let mut plain = Vec::new();
    let mut decoder = flate2::bufread::DeflateDecoder::new(&closed[..]);
    decoder.read_to_end(&mut plain).unwrap();
    assert!(plain == input, "zlib-rs gives {} bytes back", input.len());
    assert!(decoder.into_inner().is_empty(), "no block before the last is final");

    let plain = miniz_oxide::inflate::decompress_to_vec(&closed).unwrap();
    assert!(plain == input, "miniz_oxide gives {} bytes back", input.len());

    output
}

/// Checks `input` at each level.
fn check_all(input: &[u8]) {
    for level in Level::ALL {
        check(&mut Encoder::new(level), input);
    }
}

#[test]
fn edges_of_length() {
    let mut noise = Noise(1);
    let text = noise.text(MIB);
    let random = noise.bytes(MIB);
    let lengths = (0..=300).chain([4, 32, 64, 128].into_iter().flat_map(|n| n * KIB - 20..=n * KIB + 20)).chain([
        65_534,
        65_535,
        2 * 65_535,
        2 * 65_535 + 1,
        MIB - 2,
        MIB - 1,
        MIB,
    ]);
    for n in lengths {
        check_all(&text[..n]);
        check_all(&random[..n]);
    }
}

#[test]
fn runs_of_one_byte() {
    for n in [1, 2, 3, 4, 5, 257, 258, 259, 260, 516, 517, 518, 1000, 65_535, 65_536, 65_537, MIB] {
        check_all(&vec![0; n]);
    }
    let zeros = check(&mut Encoder::new(Level::Default), &vec![0; MIB]);
    assert!(zeros.len() < 2000, "{}", zeros.len());
}

#[test]
fn periods() {
    let mut noise = Noise(2);
    for period in 1..=300 {
        let pattern = noise.bytes(period);
        let input: Vec<u8> = pattern.iter().copied().cycle().take(9000 + period).collect();
        check_all(&input);
    }
}

#[test]
fn farthest_and_longest_matches() {
    let mut noise = Noise(3);
    for distance in [1, 2, 3, 4, 5, 8, 32_766, 32_767, 32_768, 32_769, 32_770, 65_535, 65_536, 65_537, 98_304] {
        for length in [3, 4, 5, 8, 257, 258, 259, 260, 516, 517, 600] {
            let mut input = noise.bytes(100_000);
            for at in 99_000..99_000 + length {
                input[at] = input[at - distance];
            }
            check_all(&input);
            // The match at the very end.
            check_all(&input[..99_000 + length]);
        }
    }
}

#[test]
fn everything_else_between_like_parts_is_noise() {
    let mut noise = Noise(4);
    let part = noise.text(300);
    for gap in [32_467, 32_468, 32_469, 40_000, 65_236] {
        let mut input = part.clone();
        input.extend(noise.bytes(gap));
        input.extend_from_slice(&part);
        check_all(&input);
    }
}

#[test]
fn random_and_compressible_in_turn() {
    let mut noise = Noise(5);
    for part in [100, 1000, 5000, 20_000, 70_000, 200_000] {
        let mut input = Vec::with_capacity(MIB + part);
        while input.len() < MIB {
            let bytes = if input.len() / part % 2 == 0 { noise.bytes(part) } else { noise.text(part) };
            input.extend(bytes);
        }
        input.truncate(MIB);
        check_all(&input);
    }
}

#[test]
fn small_inputs_of_many_kinds() {
    let mut noise = Noise(6);
    let mut encoders = Level::ALL.map(Encoder::new);
    for _ in 0..3000 {
        let most = [20, 300, 5000, 40_000][noise.below(4)];
        let n = noise.below(most);
        let input = noise.any(n);
        for encoder in &mut encoders {
            check(encoder, &input);
        }
    }
}

#[test]
fn large_inputs_of_many_kinds() {
    let mut noise = Noise(7);
    let mut encoders = Level::ALL.map(Encoder::new);
    for _ in 0..24 {
        let n = MIB - noise.below(300_000);
        let input = noise.any(n);
        for encoder in &mut encoders {
            check(encoder, &input);
        }
    }
}

#[test]
fn more_than_one_chunk_and_output_that_is_not_empty() {
    let input = Noise(8).text(2 * MIB + 77);
    check_all(&input);
    for level in Level::ALL {
        let mut encoder = Encoder::new(level);
        let alone = encode(&mut encoder, &input[..1000]);
        let mut behind = b"before".to_vec();
        encoder.compress(&input[..1000], &mut behind);
        assert!(behind.strip_prefix(b"before") == Some(&alone[..]));
    }
}

#[test]
fn output_depends_on_the_input_alone() {
    let mut noise = Noise(9);
    for level in Level::ALL {
        let mut used = Encoder::new(level);
        for _ in 0..150 {
            let most = [300, 5000, 100_000, MIB][noise.below(4)];
            let n = noise.below(most);
            let input = noise.any(n);
            let expected = encode(&mut Encoder::new(level), &input);
            assert!(encode(&mut used, &input) == expected);
            // The same again, which would match itself if anything were left.
            assert!(encode(&mut used, &input) == expected);
            let n = noise.below(most);
            encode(&mut used, &noise.any(n));
            assert!(encode(&mut used, &input) == expected);
        }
    }
}

#[test]
fn compressible_input_shrinks() {
    let text = Noise(10).text(MIB);
    let zlib = {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut encoder, &text).unwrap();
        encoder.finish().unwrap().len()
    };
    for level in Level::ALL {
        let ours = encode(&mut Encoder::new(level), &text).len();
        assert!(ours * 100 < zlib * 125, "{level:?}: {ours}, zlib-rs at 6: {zlib}");
    }
}
