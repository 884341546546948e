//! The threads that compress, and the memory they share.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use super::codec::Encoder;
use super::{Codec, Compression};
use crate::error::{Error, Result, Side};

/// The memory of one block, used again and again.
#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

struct Job {
    index: u64,
    buffers: Lease,
    done: Sender<Block>,
}

struct Block {
    index: u64,
    buffers: Lease,
    outcome: io::Result<()>,
    crc: crc32fast::Hasher,
}

/// A pool of compressing threads, shared by all who read layers. Dropping it ends them.
pub struct Compressor {
    codec: Codec,
    jobs: Option<SyncSender<Job>>,
    memory: Arc<Memory>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Compressor {
    /// Starts `threads` (at least one) compressing threads, for `readers` layers at a time.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(compression: Compression, threads: usize, readers: usize) -> Result<Self> {
        let threads = if compression == Compression::None { 0 } else { threads.max(1) };
        let (jobs, queue) = sync_channel::<Job>(threads.max(1));
        let queue = Arc::new(Mutex::new(queue));
        let spawn = |number| {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("compress-{number}")).spawn(move || work(&queue, compression))
        };
        let workers = (0..threads).map(spawn).collect::<io::Result<Vec<_>>>().map_err(|error| {
            Error::new(Side::Local, "start compression", "the system refused to start a thread").with_source(error)
        })?;
        // One block for each thread, one that each reader fills, and two that wait to be taken or written.
        let memory = Memory::new(threads + readers.max(1) + 2, compression.codec().block());
        Ok(Self { codec: compression.codec(), jobs: Some(jobs), memory, threads: workers })
    }

    /// Compresses all of `input` into `output`. `seen` is shown each piece of the input, in order. May be called by as many
    /// threads at a time as there are readers; all of them together never have more blocks in memory than were promised.
    ///
    /// # Errors
    /// Those of `input` and `output`.
    pub fn compress(
        &self,
        input: &mut dyn Read,
        output: &mut dyn Write,
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        if self.codec == Codec::None {
            return self.copy(input, output, seen);
        }
        let jobs = self.jobs.as_ref().ok_or_else(|| io::Error::other("the compressor has ended"))?;
        let (done, finished) = channel();
        let mut join = Join { output, next: 0, waiting: BTreeMap::new(), crc: crc32fast::Hasher::new() };
        join.output.write_all(self.codec.head())?;

        let mut sent = 0;
        let mut bytes: u64 = 0;
        loop {
            while let Ok(block) = finished.try_recv() {
                join.take(block)?;
            }
            let mut buffers = match Memory::try_get(&self.memory) {
                Some(buffers) => buffers,
                // What others hold comes back sooner or later; what is held here comes back only if it is taken.
                None if sent == join.next => Memory::get(&self.memory),
                None => {
                    join.wait(&finished)?;
                    continue;
                }
            };
            buffers.input.clear();
            input.take(self.codec.block() as u64).read_to_end(&mut buffers.input)?;
            if buffers.input.is_empty() {
                break;
            }
            seen(&buffers.input);
            bytes += buffers.input.len() as u64;
            let last = buffers.input.len() < self.codec.block();
            let job = Job { index: sent, buffers, done: done.clone() };
            jobs.send(job).map_err(|_| io::Error::other("a compressing thread has ended"))?;
            sent += 1;
            if last {
                break;
            }
        }
        while join.next < sent {
            join.wait(&finished)?;
        }
        let crc = std::mem::take(&mut join.crc).finalize();
        join.output.write_all(&self.codec.end(bytes, crc))
    }

    fn copy(&self, input: &mut dyn Read, output: &mut dyn Write, seen: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    seen(&buffer[..n]);
                    output.write_all(&buffer[..n])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // It ends when the queue does, whatever happened before.
            let _ = thread.join();
        }
    }
}

/// A bounded number of blocks, made as they are first needed.
struct Memory {
    free: Mutex<Free>,
    returned: Condvar,
    block: usize,
}

struct Free {
    buffers: Vec<Buffers>,
    unmade: usize,
}

/// A block that goes back when it is dropped, wherever that happens.
struct Lease {
    buffers: Buffers,
    memory: Arc<Memory>,
}

impl Memory {
    fn new(count: usize, block: usize) -> Arc<Self> {
        let free = Mutex::new(Free { buffers: Vec::new(), unmade: count });
        Arc::new(Self { free, returned: Condvar::new(), block })
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn try_get(this: &Arc<Self>) -> Option<Lease> {
        let buffers = this.take(&mut this.lock())?;
        Some(Lease { buffers, memory: Arc::clone(this) })
    }

    /// Waits for a block that somebody else gives back.
    fn get(this: &Arc<Self>) -> Lease {
        let mut free = this.lock();
        loop {
            match this.take(&mut free) {
                Some(buffers) => return Lease { buffers, memory: Arc::clone(this) },
                None => free = this.returned.wait(free).unwrap_or_else(|poisoned| poisoned.into_inner()),
            }
        }
    }

    fn take(&self, free: &mut Free) -> Option<Buffers> {
        if let Some(buffers) = free.buffers.pop() {
            return Some(buffers);
        }
        free.unmade = free.unmade.checked_sub(1)?;
        // Room for what a block that cannot be compressed grows by: five bytes for each 16 KiB at worst.
        let output = Vec::with_capacity(self.block + self.block / 1024 + 64);
        Some(Buffers { input: Vec::with_capacity(self.block + 64), output })
    }
}

impl Deref for Lease {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        &self.buffers
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Buffers {
        &mut self.buffers
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.lock().buffers.push(std::mem::take(&mut self.buffers));
        self.memory.returned.notify_one();
    }
}

/// Puts finished blocks back into order.
struct Join<'a> {
    output: &'a mut dyn Write,
    next: u64,
    waiting: BTreeMap<u64, Block>,
    crc: crc32fast::Hasher,
}

impl Join<'_> {
    fn wait(&mut self, finished: &Receiver<Block>) -> io::Result<()> {
        self.take(finished.recv().map_err(|_| io::Error::other("a compressing thread has ended"))?)
    }

    /// Takes one block, and writes all that are now in order.
    fn take(&mut self, block: Block) -> io::Result<()> {
        self.waiting.insert(block.index, block);
        while let Some(block) = self.waiting.remove(&self.next) {
            block.outcome?;
            self.output.write_all(&block.buffers.output)?;
            self.crc.combine(&block.crc);
            self.next += 1;
        }
        Ok(())
    }
}

fn work(queue: &Mutex<Receiver<Job>>, compression: Compression) {
    let mut encoder = Encoder::new(compression);
    loop {
        let Ok(mut job) = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).recv() else {
            return;
        };
        let mut crc = crc32fast::Hasher::new();
        let Buffers { input, output } = &mut *job.buffers;
        if compression.codec() == Codec::Gzip {
            crc.update(input);
        }
        output.clear();
        // Whoever waits for the block would wait for ever if this thread ended here.
        let outcome = catch_unwind(AssertUnwindSafe(|| match &mut encoder {
            Ok(encoder) => encoder.block(input, output),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }));
        let outcome = outcome.unwrap_or_else(|_| {
            encoder = Encoder::new(compression);
            Err(io::Error::other("the compressor has failed"))
        });
        // Nobody waits any more if reading or writing failed; the next job may be another layer's.
        let _ = job.done.send(Block { index: job.index, buffers: job.buffers, outcome, crc });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::Decoder;
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

    /// gzip's block; a zstd block is two of them.
    const BLOCK: usize = 1 << 20;

    const ALL: [Compression; 5] =
        [Compression::Gzip, Compression::GzipFast, Compression::GzipLevel(6), Compression::Zstd(2), Compression::None];

    fn compress(compression: Compression, threads: usize, data: &[u8], seed: u64) -> Vec<u8> {
        let compressor = Compressor::new(compression, threads, 1).unwrap();
        let mut output = Vec::new();
        let mut seen = Vec::new();
        let mut input = Ragged { data, state: seed };
        compressor.compress(&mut input, &mut output, &mut |piece| seen.extend_from_slice(piece)).unwrap();
        assert!(seen == data);
        output
    }

    fn plain(compression: Compression, packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        Decoder::new(compression.codec(), packed).unwrap().read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn output_depends_on_the_input_alone() {
        let data = sample(5 * BLOCK + 12_345);
        for compression in ALL {
            let digests: Vec<_> = [(1, 1), (1, 2), (2, 3), (3, 4), (7, 5)]
                .into_iter()
                .map(|(threads, seed)| Digest::of(&compress(compression, threads, &data, seed)))
                .collect();
            assert!(digests.iter().all(|digest| *digest == digests[0]), "{compression}: {digests:?}");
        }
    }

    #[test]
    fn output_does_not_depend_on_what_was_compressed_before() {
        let (first, second) = (sample(3 * BLOCK + 5), vec![7; 2 * BLOCK]);
        for compression in ALL {
            let compressor = Compressor::new(compression, 1, 1).unwrap();
            let pack = |data: &[u8]| {
                let mut output = Vec::new();
                compressor.compress(&mut &data[..], &mut output, &mut |_| {}).unwrap();
                Digest::of(&output)
            };
            let fresh = (pack(&first), Digest::of(&compress(compression, 1, &second, 1)));
            for _ in 0..3 {
                assert_eq!((pack(&second), pack(&first)), (fresh.1, fresh.0), "{compression}");
                pack(&first[..BLOCK / 2]);
            }
        }
    }

    #[test]
    fn layers_compressed_at_the_same_time_come_out_as_if_alone() {
        let compressor = Compressor::new(Compression::Gzip, 2, 4).unwrap();
        let data: Vec<Vec<u8>> = (0..4).map(|i| sample(4 * BLOCK + i * 1000)).collect();
        thread::scope(|scope| {
            for data in &data {
                scope.spawn(|| {
                    let mut output = Vec::new();
                    compressor.compress(&mut &data[..], &mut output, &mut |_| {}).unwrap();
                    assert!(output == compress(Compression::Gzip, 1, data, 3));
                });
            }
        });
    }

    #[test]
    fn one_stream_gives_the_input_back() {
        for compression in ALL {
            for len in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK] {
                let data = sample(len);
                let packed = compress(compression, 2, &data, 9);
                assert!(plain(compression, &packed) == data, "{compression}: {len} bytes");
            }
        }
    }

    #[test]
    fn gzip_is_one_member() {
        for compression in [Compression::Gzip, Compression::GzipFast, Compression::GzipLevel(1)] {
            let packed = compress(compression, 2, &sample(3 * BLOCK), 9);
            let mut decoder = flate2::bufread::GzDecoder::new(&packed[..]);
            io::copy(&mut decoder, &mut io::sink()).unwrap();
            assert!(decoder.into_inner().is_empty(), "nothing comes after it");
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
        let compressor = Compressor::new(Compression::Gzip, 2, 1).unwrap();
        let mut input = sample(2 * BLOCK);
        // Often enough that memory which did not come back would be missed.
        for _ in 0..20 {
            let mut broken = (&input[..]).chain(Broken);
            let error = compressor.compress(&mut broken, &mut Vec::new(), &mut |_| {}).unwrap_err();
            assert_eq!(error.to_string(), "cut");
        }
        input.truncate(10);
        compressor.compress(&mut &input[..], &mut Vec::new(), &mut |_| {}).unwrap();
    }
}
