//! Fuzz targets as property tests: each is run over its whole corpus, and over mutations of it that are the same in every run. Included by
//! the tests of the crates, which libFuzzer does not know.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many mutations of a corpus are tried.
const MUTATIONS: u64 = 2000;

/// Slow machines try fewer.
const LONGEST: Duration = Duration::from_secs(2);

/// What mutations put in: what means something to one of the readers.
const WORDS: [&[u8]; 24] = [
    b"\x1e",
    b"\n",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"/",
    b"..",
    b"~a",
    b"^a",
    b"%a",
    b"null",
    b"-1",
    b"0",
    b"18446744073709551615",
    b"sha256:",
    b"\xff",
    b"\0\0\0\0\0\0\0\0",
    b"##vso[",
    b"=",
    b"@",
];

/// The corpus of a target, by name.
pub fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let list = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = list.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// Runs `target` over its corpus and mutations of that.
pub fn run(name: &str, target: fn(&[u8])) {
    let corpus = corpus(name);
    assert!(corpus.len() > 3, "{name} has a corpus");
    target(b"");
    for (path, bytes) in &corpus {
        tried(target, bytes, &path.display().to_string());
    }
    let end = Instant::now() + LONGEST;
    // Another sequence for each target; the seed is the name.
    let mut random = Random(name.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into())));
    for number in 0..MUTATIONS {
        if Instant::now() > end {
            break;
        }
        let (path, bytes) = &corpus[random.below(corpus.len())];
        let (_, other) = &corpus[random.below(corpus.len())];
        let mutated = random.mutated(bytes, other);
        tried(target, &mutated, &format!("mutation {number}, of {}", path.display()));
    }
}

/// Runs `target` once, and says what it was given if it panics.
fn tried(target: fn(&[u8]), bytes: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        let folder = std::env::temp_dir().join("ecr-push-finding");
        let written = fs::write(&folder, bytes);
        eprintln!("{what} ({} bytes) is a finding; it lies in {}: {written:?}", bytes.len(), folder.display());
        resume_unwind(panic);
    }
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn mutated(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + 1 + self.below(24)).min(bytes.len());
            match self.below(8) {
                0 if at < bytes.len() => bytes[at] = self.next() as u8,
                1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at),
                4 => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    drop(bytes.splice(to..to, piece));
                }
                5 => {
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(256)).min(other.len());
                    drop(bytes.splice(at..end, other[from..to].iter().copied()));
                }
                _ => {
                    let word = WORDS[self.below(WORDS.len())];
                    let end = if self.next() & 1 == 0 { at } else { end };
                    drop(bytes.splice(at..end, word.iter().copied()));
                }
            }
        }
        bytes
    }
}

/// Where a corpus begins: `seed` lies in it under this name. With `ECR_PUSH_WRITE_SEEDS` set, it is put there.
pub fn seed(target: &str, name: &str, seed: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let path = folder.join(format!("seed-{name}"));
    if std::env::var_os("ECR_PUSH_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, seed).unwrap();
    }
    let there = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run fuzz/seeds", path.display()));
    assert!(there == seed, "{} is another; run fuzz/seeds", path.display());
}
