//! Many pushes in one process: nothing grows. Alone in its file, because it measures the process it runs in.
#![cfg(target_os = "linux")]

#[path = "common/reliability.rs"]
mod reliability;
#[path = "common/stand.rs"]
mod stand;

use std::path::Path;

use stand::{Stand, push_with_log};

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    memory: u64,
    descriptors: usize,
    threads: u64,
    temp_files: usize,
}

fn sample(temp: &Path) -> Sample {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let temp_files = std::fs::read_dir(temp).unwrap().count();
    Sample { memory: number("VmRSS:") << 10, descriptors, threads: number("Threads:"), temp_files }
}

fn median(samples: &[Sample], of: impl Fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pushes_in_one_process_hold_no_more_than_a_few() {
    let pushes = reliability::count(40, 500);
    let temp = tempfile::tempdir().unwrap();
    let mut samples = Vec::new();
    for number in 0..pushes {
        let stand = Stand::new().await;
        let mut request = stand.request(&stand.layout("image", &[200_000, 50_000]));
        if number % 2 == 1 {
            let saved = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/engines/podman-4.3/save-two.tar");
            request.source = format!("docker-archive:{saved}").parse().unwrap();
        }
        request.temp_dir = temp.path().to_owned();
        push_with_log(request).await.0.unwrap();
        stand.server.shutdown().await;
        samples.push(sample(temp.path()));
    }
    // The first quarter fills caches, pools and the allocator.
    let (early, late) = (&samples[pushes / 4..pushes / 2], &samples[pushes * 3 / 4..]);
    let (before, after) = (median(early, |sample| sample.memory), median(late, |sample| sample.memory));
    let descriptors = |samples: &[Sample]| median(samples, |sample| sample.descriptors as u64);
    let threads = |samples: &[Sample]| median(samples, |sample| sample.threads);
    let text = format!(
        "| {pushes} pushes in one process | second quarter | last quarter |\n|---|---:|---:|\n| memory (median RSS) | {:.1} MB | {:.1} MB |\n\
         | descriptors | {} | {} |\n| threads | {} | {} |\n| files in the temporary folder | 0 | 0 |\n",
        before as f64 / 1e6,
        after as f64 / 1e6,
        descriptors(early),
        descriptors(late),
        threads(early),
        threads(late),
    );
    // Before anything is judged: the figures are needed most where the test fails.
    reliability::write("endurance", &text);
    assert!(samples.iter().all(|sample| sample.temp_files == 0), "temporary files are left");
    // 8 MiB: what an allocator may differ by. Over the 250 pushes between the medians of the long run that is 33 kB a push.
    assert!(after < before + (8 << 20), "{text}");
    assert!(descriptors(late) <= descriptors(early) + 4, "{text}");
    assert!(threads(late) <= threads(early) + 4, "{text}");
}
