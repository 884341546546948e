//! How long each part of a push takes on its own, without any other: hashing, compressing, putting layers together from an engine's
//! store, planning.
//!
//!     cargo bench -p ecr-push --bench parts -- [OPTION...] [FILE...]
//!
//! Each FILE is one input; Cargo runs this in crates/ecr-push, so paths are best absolute. Without any, the input is a tar of about
//! 200 MB of files below /usr, in an order that a fixed seed gives: the same on one machine, not on two.
//!
//!     --only A,B            of sha256, planning, store and the compressions (gzip, gzip:fast, zstd:2, ...); without it all
//!     --threads A,B         that compress (default: 1,2)
//!     --rounds N            passes over the input (default: 3)
//!     --stored              hash what each compression has made, too
//!     --lines               no Markdown: part, threads, bytes in, bytes out, wall s, CPU s, separated by tabs
//!     --store ROOT --driver NAME --diff-ids A,B
//!                           a Docker engine's DockerRootDir and Driver, and an image's layers, base first
//!
//! Wall and CPU are the least of all passes. CPU is that of the whole process, all threads, in steps of 10 ms; it is read from
//! /proc, and `-` where there is none. With one thread that compresses, the main thread fills its blocks, so that two cores are used
//! a little: `taskset -c 0` shows what one core can do.

use std::fs;
use std::hint::black_box;
#[cfg(unix)]
use std::io::Read;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ecr_push::compress::{Compression, Compressor};
use ecr_push::image::{DiffId, Digest, Hasher, Manifest, MediaType, Platform};
use ecr_push::known::{Cache, Origin, Pair, pairs_of};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const COMPRESSIONS: [&str; 8] = ["gzip", "gzip:fast", "gzip:1", "gzip:3", "gzip:6", "zstd:1", "zstd:2", "zstd:3"];
/// Bytes in a piece, where a part does not say itself how much it takes at a time.
const PIECE: usize = 256 << 10;
const MADE: usize = 200_000_000;
/// Layers of the image that is planned for.
const LAYERS: usize = 100;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut table = Table { lines: options.lines, rows: Vec::new() };
    let compressions = options.compressions()?;
    if options.wants("sha256") || !compressions.is_empty() {
        let inputs = match options.files.as_slice() {
            [] => vec![made()?],
            files => files.iter().map(|path| read(path)).collect::<Outcome<_>>()?,
        };
        let bytes: usize = inputs.iter().map(Vec::len).sum();
        eprintln!("{} inputs, {:.1} MB, {} rounds", inputs.len(), bytes as f64 / 1e6, options.rounds);
        if options.wants("sha256") {
            table.hashing("sha256", options.rounds, &inputs);
        }
        for compression in compressions {
            for threads in &options.threads {
                table.compressing(&options, compression, *threads, &inputs)?;
            }
        }
    }
    if options.wants("store") {
        #[cfg(unix)]
        table.store(&options)?;
        #[cfg(not(unix))]
        eprintln!("no store: there is none on this system");
    }
    table.print();
    if options.wants("planning") && !options.lines {
        planning()?;
    }
    Ok(())
}

struct Options {
    files: Vec<PathBuf>,
    only: Option<Vec<String>>,
    threads: Vec<usize>,
    rounds: usize,
    stored: bool,
    lines: bool,
    store: Option<PathBuf>,
    driver: String,
    diff_ids: Vec<DiffId>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            files: Vec::new(),
            only: None,
            threads: vec![1, 2],
            rounds: 3,
            stored: false,
            lines: false,
            store: None,
            driver: "overlay2".into(),
            diff_ids: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                // Cargo says so to every bench.
                "--bench" => {}
                "--only" => options.only = Some(value()?.split(',').map(str::to_owned).collect()),
                "--threads" => options.threads = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
                "--stored" => options.stored = true,
                "--lines" => options.lines = true,
                "--store" => options.store = Some(value()?.into()),
                "--driver" => options.driver = value()?,
                "--diff-ids" => {
                    let ids = value()?;
                    options.diff_ids = ids.split(',').map(|id| id.parse().map(DiffId)).collect::<Result<_, _>>()?;
                }
                option if option.starts_with('-') => return Err(format!("there is no option {option}").into()),
                file => options.files.push(file.into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|word| word == part))
    }

    /// Those that are asked for, which may be others than those that are measured without being asked for.
    fn compressions(&self) -> Outcome<Vec<Compression>> {
        let all = || COMPRESSIONS.map(str::to_owned).to_vec();
        let words = self.only.clone().unwrap_or_else(all).into_iter();
        let words = words.filter(|word| !["sha256", "planning", "store"].contains(&word.as_str()));
        Ok(words.map(|word| word.parse()).collect::<Result<_, _>>()?)
    }
}

/// What one pass took, or the least of several.
struct Time {
    wall: Duration,
    cpu: Option<Duration>,
}

/// Does it several times and gives the least wall and the least CPU time.
fn least(rounds: usize, mut pass: impl FnMut() -> Outcome<()>) -> Outcome<Time> {
    let mut least = Time { wall: Duration::MAX, cpu: None };
    for _ in 0..rounds {
        let (start, before) = (Instant::now(), cpu());
        pass()?;
        let (wall, after) = (start.elapsed(), cpu());
        let used = after.zip(before).map(|(after, before)| after.saturating_sub(before));
        least.wall = least.wall.min(wall);
        least.cpu = [least.cpu, used].into_iter().flatten().min();
    }
    Ok(least)
}

/// User and system time of this process with all threads it has had (proc(5), `/proc/pid/stat`). Its unit is a hundredth of a second
/// on all that Rust runs on.
fn cpu() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis(10 * ticks.sum::<Option<u64>>()?))
}

struct Row {
    part: String,
    threads: usize,
    input: usize,
    output: Option<usize>,
    time: Time,
}

struct Table {
    lines: bool,
    rows: Vec<Row>,
}

impl Table {
    fn add(&mut self, part: impl Into<String>, threads: usize, input: usize, output: Option<usize>, time: Time) {
        self.rows.push(Row { part: part.into(), threads, input, output, time });
    }

    fn hashing(&mut self, part: &str, rounds: usize, inputs: &[Vec<u8>]) {
        let pass = || {
            for input in inputs {
                black_box(digest_of(input));
            }
            Ok(())
        };
        let bytes = inputs.iter().map(Vec::len).sum();
        if let Ok(time) = least(rounds, pass) {
            self.add(part, 1, bytes, None, time);
        }
    }

    fn compressing(
        &mut self,
        options: &Options,
        compression: Compression,
        threads: usize,
        inputs: &[Vec<u8>],
    ) -> Outcome<()> {
        let compressor = Compressor::new(compression, threads, 1)?;
        let mut written = Counter(0);
        let time = least(options.rounds, || {
            written.0 = 0;
            for input in inputs {
                compressor.compress(&mut &input[..], &mut written, &mut |_| {})?;
            }
            Ok(())
        })?;
        self.add(compression.to_string(), threads, inputs.iter().map(Vec::len).sum(), Some(written.0), time);
        // The same bytes for any number of threads.
        if options.stored && options.threads.first() == Some(&threads) {
            let pack = |input: &Vec<u8>| -> Outcome<Vec<u8>> {
                let mut packed = Vec::new();
                compressor.compress(&mut &input[..], &mut packed, &mut |_| {})?;
                Ok(packed)
            };
            let stored = inputs.iter().map(pack).collect::<Outcome<Vec<_>>>()?;
            self.hashing(&format!("sha256 of {compression}"), options.rounds, &stored);
        }
        Ok(())
    }

    #[cfg(unix)]
    fn store(&mut self, options: &Options) -> Outcome<()> {
        let (Some(root), false) = (&options.store, options.diff_ids.is_empty()) else {
            eprintln!("no store: --store ROOT --driver NAME --diff-ids A,B name one, and an image in it");
            return Ok(());
        };
        let layers = ecr_push::store::GraphStore::open(root, &options.driver)?.layers(&options.diff_ids)?;
        let mut bytes = 0;
        for layer in &layers {
            let mut hasher = Hasher::default();
            bytes += each_piece(layer.open()?, |piece| hasher.update(piece))?;
            if hasher.finish().0 != layer.diff_id().0 {
                return Err(format!("the layer {} does not come out as it was", layer.diff_id()).into());
            }
        }
        let time = least(options.rounds, || {
            for layer in &layers {
                each_piece(layer.open()?, |piece| {
                    black_box(piece);
                })?;
            }
            Ok(())
        })?;
        self.add(format!("tar out of {}", options.driver), 1, bytes, None, time);
        Ok(())
    }

    fn print(&self) {
        if !self.lines && !self.rows.is_empty() {
            println!("| part | threads | wall s | CPU s | MB/s of input | output / input |");
            println!("| --- | ---: | ---: | ---: | ---: | ---: |");
        }
        for Row { part, threads, input, output, time } in &self.rows {
            let (wall, cpu) = (time.wall.as_secs_f64(), time.cpu.map(|cpu| cpu.as_secs_f64()));
            if self.lines {
                let (output, cpu) = (output.unwrap_or(0), cpu.unwrap_or(0.0));
                println!("{part}\t{threads}\t{input}\t{output}\t{wall:.6}\t{cpu:.2}");
                continue;
            }
            let rate = *input as f64 / 1e6 / wall;
            let ratio = output.map(|output| format!("{:.4}", output as f64 / *input as f64)).unwrap_or_default();
            let cpu = cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.2}"));
            println!("| {part} | {threads} | {wall:.3} | {cpu} | {rate:.0} | {ratio} |");
        }
    }
}

/// Counts what is written and keeps nothing.
struct Counter(usize);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    for piece in bytes.chunks(PIECE) {
        hasher.update(piece);
    }
    hasher.finish().0
}

/// Reads to the end. Gives how many bytes that were.
#[cfg(unix)]
fn each_piece(mut input: impl Read, mut seen: impl FnMut(&[u8])) -> io::Result<usize> {
    let (mut buffer, mut bytes) = (vec![0; PIECE], 0);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(bytes),
            count => {
                seen(&buffer[..count]);
                bytes += count;
            }
        }
    }
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// A tar of files of this machine.
fn made() -> Outcome<Vec<u8>> {
    let mut paths = Vec::new();
    for folder in ["/usr/bin", "/usr/lib", "/usr/share", "/usr/local"] {
        walk(Path::new(folder), &mut paths);
    }
    shuffle(&mut paths);
    let mut tar = tar::Builder::new(Vec::with_capacity(MADE + MADE / 8));
    for path in paths {
        // No single file makes up what is measured.
        let fits = |file: &fs::Metadata| (1..MADE as u64 / 8).contains(&file.len());
        let Some(content) = path.symlink_metadata().ok().filter(fits).and_then(|_| fs::read(&path).ok()) else {
            continue;
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path.strip_prefix("/")?, &content[..])?;
        if tar.get_ref().len() >= MADE {
            break;
        }
    }
    Ok(tar.into_inner()?)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type() {
            // Interpreters write into `__pycache__` whenever they like.
            Ok(kind) if kind.is_dir() && entry.file_name() != "__pycache__" => walk(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Always the same way for one number of things.
fn shuffle<T>(things: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..things.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        things.swap(last, (state % (last as u64 + 1)) as usize);
    }
}

/// Prints how long it takes to plan for an image.
fn planning() -> Outcome<()> {
    let diff_id = |number: usize| Digest::of(format!("layer {number}").as_bytes());
    let blob = |number: usize| Digest::of(format!("blob {number}").as_bytes());
    let diff_ids: Vec<String> = (0..LAYERS).map(|number| format!("\"{}\"", diff_id(number))).collect();
    let diff_ids = diff_ids.join(",");
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
    );
    let layer = |number| {
        format!(r#"{{"mediaType":"{}","size":{},"digest":"{}"}}"#, MediaType::DOCKER_LAYER, 1000 + number, blob(number))
    };
    let layers: Vec<String> = (0..LAYERS).map(layer).collect();
    let text = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","size":{},"digest":"{}"}},"layers":[{}]}}"#,
        MediaType::DOCKER_MANIFEST,
        MediaType::DOCKER_CONFIG,
        config.len(),
        Digest::of(config.as_bytes()),
        layers.join(",")
    ));
    let manifest = Manifest::parse(text.clone(), None)?;
    let (platform, origin) = (Platform::new("linux", "amd64", None), Origin::Cache { own: true });
    let pairs = pairs_of(&manifest, config.as_bytes(), Some(&platform), &origin)?;
    let folder = tempfile::tempdir()?;
    let cache = Cache::open(&folder.path().join("cache"))?;
    let remember = |cache: &Cache, pairs: &[Pair]| {
        pairs.iter().for_each(|pair| cache.remember(pair, "registry.example/app"));
    };

    println!("\n| planning for {LAYERS} layers | µs |\n| --- | ---: |");
    let show = |what: &str, rounds: usize, pass: &mut dyn FnMut() -> Outcome<()>| -> Outcome<()> {
        let micros = least(rounds, pass)?.wall.as_secs_f64() * 1e6;
        println!("| {what} | {micros:.0} |");
        Ok(())
    };
    show("Manifest::parse", 200, &mut || {
        black_box(Manifest::parse(text.clone(), None)?);
        Ok(())
    })?;
    show("known::pairs_of", 200, &mut || {
        black_box(pairs_of(&manifest, config.as_bytes(), Some(&platform), &origin)?);
        Ok(())
    })?;
    let mut number = 0;
    show("Cache::remember, new", 5, &mut || {
        number += 1;
        remember(&Cache::open(&folder.path().join(format!("new{number}")))?, &pairs);
        Ok(())
    })?;
    remember(&cache, &pairs);
    show("Cache::remember, known", 20, &mut || {
        remember(&cache, &pairs);
        Ok(())
    })?;
    show("Cache::find", 50, &mut || {
        let found = pairs.iter().filter(|pair| !cache.find(&pair.diff_id).is_empty()).count();
        if found == LAYERS { Ok(()) } else { Err(format!("the cache has only {found}").into()) }
    })?;
    let absent: Vec<DiffId> = (0..LAYERS).map(|number| DiffId(diff_id(LAYERS + number))).collect();
    show("Cache::find, unknown", 50, &mut || {
        absent.iter().for_each(|diff_id| {
            black_box(cache.find(diff_id));
        });
        Ok(())
    })?;
    Ok(())
}
