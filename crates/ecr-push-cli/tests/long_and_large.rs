//! Many runs on one host, and one image that is larger than memory. The whole of it with `ECR_PUSH_LONG=1`.
#![cfg(target_os = "linux")]

mod common;
#[path = "../../ecr-push/tests/common/layout.rs"]
mod layout;
#[path = "../../ecr-push/tests/common/reliability.rs"]
mod reliability;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{APP, Running, Stand, two};
use ecr_push::image::{Digest, Hasher};
use local_ecr::{Config, Storage};

/// The most memory that a push of a layout may take, whatever its size.
const MOST_MEMORY: u64 = 128 << 20;

/// The highest resident memory of a process so far.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// Runs to the end, and watches the memory.
async fn watched(running: Running) -> (common::Run, u64) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let pid = running.id();
    let watch = tokio::spawn(async move {
        let mut most = 0;
        loop {
            most = most.max(peak(pid).unwrap_or_default());
            if stopped.try_recv().is_ok() {
                return most;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let run = running.finish().await;
    let _ = stop.send(());
    (run, watch.await.unwrap())
}

/// Processes whose home is this folder: those that the program has started, and itself.
fn of_home(home: &Path) -> usize {
    let home = format!("HOME={}", home.display());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("environ")));
    let environments = processes.filter_map(|environ| std::fs::read(environ).ok());
    environments.filter(|text| text.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())).count()
}

fn files_below(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_leave_nothing_behind_and_take_no_more_than_the_first() {
    let runs = reliability::count(20, 200);
    let stand = Stand::new().await;
    let temp = tempfile::tempdir().unwrap();
    let layout = layout::write_layout(&stand.folder.path().join("image"), &[300_000, 100_000]);
    let images = [format!("oci:{}", layout.display()), two()];
    let mut peaks = Vec::new();
    let mut remembered = Vec::new();
    for number in 0..runs {
        let words = format!("push {} -r {APP} -t v{}", images[number % 2], number % 4);
        let running = stand.program(&words).arg("--temp-dir").arg(temp.path()).start();
        let (run, peak) = watched(running).await;
        run.succeeded();
        peaks.push(peak);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "run {number}: temporary files are left");
        assert_eq!(of_home(stand.folder.path()), 0, "run {number}: a process is left");
        remembered.push(files_below(&stand.folder.path().join(".cache")));
    }
    let most = |peaks: &[u64]| peaks.iter().copied().max().unwrap_or_default();
    let (early, late) = (most(&peaks[..runs / 2]), most(&peaks[runs / 2..]));
    let cache = (remembered[runs / 2], remembered[runs - 1]);
    reliability::write(
        "runs",
        &format!(
            "| {runs} runs on one host | first half | second half |\n|---|---:|---:|\n| most memory of a run | {:.1} MB | {:.1} MB |\n\
             | files of the cache at the end | {} | {} |\n| files in the temporary folder, processes left | 0 | 0 |\n",
            early as f64 / 1e6,
            late as f64 / 1e6,
            cache.0,
            cache.1
        ),
    );
    assert!(late < early + (16 << 20), "{early} and {late} bytes of memory");
    assert_eq!(cache.0, cache.1, "the cache grows though the images are the same");
    assert!(cache.1 > 0, "the cache is looked for at the wrong place");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_larger_than_memory_takes_little_of_it() {
    // In the target folder: /tmp may be memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // One layer is beyond what 32 bits count.
    let mega = if reliability::is_long() { 40 } else { 1 };
    let sizes = [112 * mega, 80 * mega, 48 * mega, 16 * mega].map(|size| (size as u64) << 20);
    let total: u64 = sizes.iter().sum();
    let layout = write_large(folder.path(), &sizes);
    let storage = Storage::Directory(folder.path().join("registry"));
    let stand = Stand::with(Config { storage, ..Config::default() }).await;
    let words = format!("push oci:{} -r {APP} -t v1 --output json", layout.display());
    let started = Instant::now();
    let (run, peak) = watched(stand.program(&words).limit(Duration::from_secs(1800)).start()).await;
    let run = run.succeeded();
    let json = run.json();
    assert!(json["bytes_sent"].as_u64().unwrap() > total);
    assert_eq!(json["peak_temp_bytes"], 0, "the blobs are sent from where they lie");
    assert_eq!(json["digest"].as_str(), stand.tag("v1").as_deref());
    assert!(peak > 0 && peak < MOST_MEMORY, "{peak} bytes of memory");
    reliability::write(
        "large",
        &format!(
            "An OCI layout of {:.2} GB, with a layer of {:.2} GB: {:.0} MB of memory at most, no temporary file, {:.0} s.\n",
            total as f64 / 1e9,
            sizes[0] as f64 / 1e9,
            peak as f64 / 1e6,
            started.elapsed().as_secs_f64()
        ),
    );
}

/// A layout with layers that are cheap to make and all different: a block of random bytes, each time with its number in it.
fn write_large(folder: &Path, sizes: &[u64]) -> PathBuf {
    let path = layout::write_layout(&folder.join("image"), &[1 << 20]);
    let blobs = path.join("blobs/sha256");
    let read = |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut index = read(path.join("index.json"));
    let named = |value: &serde_json::Value| blobs.join(value["digest"].as_str().unwrap().trim_start_matches("sha256:"));
    let mut manifest = read(named(&index["manifests"][0]));
    let mut config = read(named(&manifest["config"]));
    let block = std::fs::read(named(&manifest["layers"][0])).unwrap();
    let mut layers = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        let unnamed = folder.join("layer");
        let mut file = BufWriter::new(File::create(&unnamed).unwrap());
        let mut hasher = Hasher::default();
        let mut block = block.clone();
        for count in 0..size / block.len() as u64 {
            block[..8].copy_from_slice(&(count * 16 + number as u64).to_le_bytes());
            hasher.update(&block);
            file.write_all(&block).unwrap();
        }
        file.into_inner().unwrap();
        let (digest, size) = hasher.finish();
        std::fs::rename(&unnamed, blobs.join(digest.hex())).unwrap();
        layers.push((digest, size));
    }
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let put = |value: &serde_json::Value| {
        let bytes = value.to_string();
        let digest = Digest::of(bytes.as_bytes());
        std::fs::write(blobs.join(digest.hex()), &bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let digests: Vec<String> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
    config["rootfs"]["diff_ids"] = digests.into();
    let described = layers.iter().map(
        |(digest, size)| serde_json::json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size }),
    );
    manifest["layers"] = described.collect();
    let (digest, size) = put(&config);
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = put(&manifest);
    index["manifests"][0]["digest"] = digest.into();
    index["manifests"][0]["size"] = size.into();
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
    path
}
