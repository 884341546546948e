//! One gzip member made of fixed blocks.
//!
//! The input is cut every [`BLOCK`] bytes, by its offset. Each block goes through a fresh encoder without a dictionary and
//! ends with a sync flush, so blocks may be compressed anywhere in any order and joined. The member is closed by an
//! empty final block, so that the end needs no look ahead. Hence the output depends on input, level and encoder version:
//! not on the number of threads, on how the reads fell, or on the machine. A layer's digest must not.
//!
//! Not taken: several gzip members (tools for lazy pulling read only the first), a dictionary carried over from the
//! block before (wins 0.1 %, and zlib-rs then gives bytes that depend on what the encoder did earlier).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::error::{Error, Result, Side};

/// Bytes of input in a block.
const BLOCK: usize = 1 << 20;

/// Header of the member: deflate, no flags, no time, unknown operating system (RFC 1952 section 2.3).
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An empty final block with fixed codes (RFC 1951 section 3.2.6).
const FINAL_BLOCK: [u8; 2] = [0x03, 0x00];

/// A gzip level, 1 (fast) to 9 (small).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u32);

impl Level {
    /// The level `level`.
    ///
    /// # Errors
    /// If it is not within 1 to 9.
    pub fn new(level: u32) -> Result<Self> {
        if (1..=9).contains(&level) {
            return Ok(Self(level));
        }
        Err(Error::refused("parse compression level", format!("the compression level {level} is not within 1 to 9")))
    }
}

impl Default for Level {
    /// 3: about Docker's size (4 % more) at three times the speed of a core at level 6.
    fn default() -> Self {
        Self(3)
    }
}

/// The memory of one block, used again and again.
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Buffers {
    /// Room for a block, and for one that cannot be compressed: five bytes are added to each 16 KiB at worst.
    fn new() -> Self {
        Self { input: Vec::with_capacity(BLOCK + 64), output: Vec::with_capacity(BLOCK + BLOCK / 1024 + 64) }
    }
}

struct Job {
    index: u64,
    buffers: Buffers,
    done: Sender<Block>,
}

struct Block {
    index: u64,
    buffers: Buffers,
    outcome: io::Result<()>,
    crc: crc32fast::Hasher,
}

/// A pool of compressing threads. Dropping it ends them.
pub struct Compressor {
    jobs: Option<SyncSender<Job>>,
    /// Memory of earlier layers, for the next one.
    spare: Mutex<Vec<Buffers>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Compressor {
    /// Starts `threads` (at least one) compressing threads.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(threads: usize, level: Level) -> Result<Self> {
        let threads = threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let spawn = |number| {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("gzip-{number}")).spawn(move || work(&queue, level))
        };
        let threads = (0..threads).map(spawn).collect::<io::Result<Vec<_>>>().map_err(|error| {
            Error::new(Side::Local, "start compression", "the system refused to start a thread").with_source(error)
        })?;
        Ok(Self { jobs: Some(jobs), spare: Mutex::default(), threads })
    }

    /// Compresses all of `input` into `output` as one gzip member. `seen` is shown each piece of the input, in order.
    /// There are never more blocks in memory than threads and two, each with its output.
    ///
    /// # Errors
    /// Those of `input` and `output`.
    pub fn compress(
        &self,
        input: &mut dyn Read,
        output: &mut dyn Write,
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(|| io::Error::other("the compressor has ended"))?;
        let (done, finished) = channel();
        let window = self.threads.len() as u64 + 2;
        let spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        let mut join = Join { output, next: 0, waiting: BTreeMap::new(), crc: crc32fast::Hasher::new(), spare };
        join.output.write_all(&HEADER)?;

        let mut sent = 0;
        let mut bytes: u64 = 0;
        loop {
            if sent - join.next >= window {
                join.take(&finished)?;
                continue;
            }
            let mut buffers = join.spare.pop().unwrap_or_else(Buffers::new);
            buffers.input.clear();
            input.take(BLOCK as u64).read_to_end(&mut buffers.input)?;
            if buffers.input.is_empty() {
                break;
            }
            seen(&buffers.input);
            bytes += buffers.input.len() as u64;
            let last = buffers.input.len() < BLOCK;
            let job = Job { index: sent, buffers, done: done.clone() };
            jobs.send(job).map_err(|_| io::Error::other("a compressing thread has ended"))?;
            sent += 1;
            if last {
                break;
            }
        }
        while join.next < sent {
            join.take(&finished)?;
        }
        join.output.write_all(&FINAL_BLOCK)?;
        join.output.write_all(&join.crc.finalize().to_le_bytes())?;
        *self.spare.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = join.spare;
        // The trailer holds the length modulo 2^32 (RFC 1952 section 2.3.1).
        join.output.write_all(&(bytes as u32).to_le_bytes())
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has already made its layer fail.
            let _ = thread.join();
        }
    }
}

/// Puts finished blocks back into order.
struct Join<'a> {
    output: &'a mut dyn Write,
    next: u64,
    waiting: BTreeMap<u64, Block>,
    crc: crc32fast::Hasher,
    spare: Vec<Buffers>,
}

impl Join<'_> {
    /// Waits for one block and writes all that are now in order.
    fn take(&mut self, finished: &Receiver<Block>) -> io::Result<()> {
        let block = finished.recv().map_err(|_| io::Error::other("a compressing thread has ended"))?;
        self.waiting.insert(block.index, block);
        while let Some(block) = self.waiting.remove(&self.next) {
            block.outcome?;
            self.output.write_all(&block.buffers.output)?;
            self.crc.combine(&block.crc);
            self.spare.push(block.buffers);
            self.next += 1;
        }
        Ok(())
    }
}

fn work(queue: &Mutex<Receiver<Job>>, level: Level) {
    loop {
        let Ok(mut job) = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv() else {
            return;
        };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&job.buffers.input);
        let outcome = deflate(&mut job.buffers, level);
        // Nobody waits any more if writing failed; the next job may be another layer's.
        let _ = job.done.send(Block { index: job.index, buffers: job.buffers, outcome, crc });
    }
}

/// One block through a fresh encoder, ended by a sync flush.
fn deflate(buffers: &mut Buffers, level: Level) -> io::Result<()> {
    let Buffers { input, output } = buffers;
    let mut encoder = flate2::Compress::new(flate2::Compression::new(level.0), false);
    output.clear();
    loop {
        let rest = &input[encoder.total_in() as usize..];
        encoder.compress_vec(rest, output, flate2::FlushCompress::Sync).map_err(io::Error::other)?;
        // Room left means that everything, the flush too, has been written.
        if encoder.total_in() as usize == input.len() && output.len() < output.capacity() {
            return Ok(());
        }
        output.reserve(64 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    /// Hands out pieces of uneven size, as a socket does.
    struct Ragged<'a> {
        data: &'a [u8],
        state: u64,
    }

    impl Read for Ragged<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let n = ((self.state >> 33) as usize % 70_000 + 1).min(buffer.len()).min(self.data.len());
            buffer[..n].copy_from_slice(&self.data[..n]);
            self.data = &self.data[n..];
            Ok(n)
        }
    }

    fn sample(len: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u8
        };
        (0..len).map(|i| if i % 3 == 0 { next() } else { (i / 997) as u8 }).collect()
    }

    fn compress(threads: usize, data: &[u8], seed: u64) -> Vec<u8> {
        let compressor = Compressor::new(threads, Level::default()).unwrap();
        let mut output = Vec::new();
        let mut seen = Vec::new();
        let mut input = Ragged { data, state: seed };
        compressor.compress(&mut input, &mut output, &mut |piece| seen.extend_from_slice(piece)).unwrap();
        assert!(seen == data);
        output
    }

    #[test]
    fn output_depends_on_the_input_alone() {
        let data = sample(5 * BLOCK + 12_345);
        let digests: Vec<_> = [(1, 1), (1, 2), (2, 3), (3, 4), (7, 5)]
            .into_iter()
            .map(|(threads, seed)| Digest::of(&compress(threads, &data, seed)))
            .collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }

    #[test]
    fn one_member_gives_the_input_back() {
        for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let data = sample(len);
            let packed = compress(2, &data, 9);
            let mut plain = Vec::new();
            let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
            decoder.read_to_end(&mut plain).unwrap();
            assert!(plain == data, "{len} bytes");
            assert!(decoder.into_inner().is_empty(), "one member, nothing after it");
        }
    }

    #[test]
    fn a_failing_reader_is_reported_and_the_pool_goes_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("cut"))
            }
        }
        let compressor = Compressor::new(2, Level::default()).unwrap();
        let mut input = sample(2 * BLOCK);
        let mut broken = (&input[..]).chain(Broken);
        let error = compressor.compress(&mut broken, &mut Vec::new(), &mut |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "cut");
        input.truncate(10);
        compressor.compress(&mut &input[..], &mut Vec::new(), &mut |_| {}).unwrap();
    }

    #[test]
    fn levels_outside_one_to_nine_are_refused() {
        assert!(Level::new(0).is_err());
        assert!(Level::new(10).is_err());
        assert!(Level::new(9).is_ok());
    }
}
