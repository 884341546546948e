//! A push that is killed can simply be run again. It is killed at seeded moments, ten of them, or two hundred with `ECR_PUSH_LONG=1`.
#![cfg(unix)]

mod common;
#[path = "../../ecr-push/tests/common/layout.rs"]
mod layout;
#[path = "../../ecr-push/tests/common/reliability.rs"]
mod reliability;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{APP, Program, Stand, two};
use ecr_push::image::Digest;
use local_ecr::{Fault, FaultAction};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The status of what a signal has ended.
const KILLED: i32 = -1;

/// Kills at a time.
const AT_ONCE: usize = 4;

/// What a push is like that nobody kills.
struct Clean {
    digest: String,
    bytes: u64,
    took: Duration,
    requests: usize,
}

/// One image, pushed with or without a memory of the first run.
struct Case {
    name: &'static str,
    image: String,
    clean: Clean,
    has_cache: bool,
}

/// What came of one kill.
struct Outcome {
    /// False if it had just ended by itself.
    was_killed: bool,
    phase: &'static str,
    confirmed: u64,
    sent_again: u64,
}

fn program(stand: &Stand, image: &str, temp: &Path, has_cache: bool) -> Program {
    let words = format!("push {image} -r {APP} -t v1 --output json");
    let program = stand.program(&words).arg("--temp-dir").arg(temp);
    // The cache is in the home folder.
    if has_cache { program } else { program.arg("--reuse").arg("off") }
}

/// A registry that takes its time over each upload, so that there is something to kill.
async fn slow() -> Stand {
    let stand = Stand::new().await;
    stand.server.add_fault(Fault::new(FaultAction::Drip { per_second: 2_000_000 }).method("PUT").min_length(10_000));
    stand.server.add_fault(Fault::new(FaultAction::Delay(Duration::from_millis(15))));
    stand
}

async fn clean(image: &str, has_cache: bool) -> Clean {
    let (stand, temp) = (slow().await, tempfile::tempdir().unwrap());
    let run = program(&stand, image, temp.path(), has_cache).run().await.succeeded();
    Clean {
        digest: run.json()["digest"].as_str().unwrap().to_owned(),
        bytes: uploads(&stand).values().sum(),
        took: run.took,
        requests: stand.server.requests().len(),
    }
}

/// Bytes received by digest.
fn uploads(stand: &Stand) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    for request in stand.asked("CompleteLayerUpload") {
        let (_, digest) = request.path.split_once("digest=").unwrap();
        let digest = digest.replace("%3A", ":");
        *bytes.entry(digest).or_default() += request.body_bytes;
    }
    bytes
}

/// What the registry has, each blob by its digest.
fn confirmed(stand: &Stand) -> BTreeSet<String> {
    stand.server.repository(APP).map(|repository| repository.blobs).unwrap_or_default()
}

/// How far a push had come, by what it had asked for.
fn phase(stand: &Stand) -> &'static str {
    let requests = stand.server.requests();
    let has = |operation: &str| requests.iter().any(|request| request.operation == operation);
    if stand.tag("v1").is_some() {
        "after the tag"
    } else if has("PutImage") {
        "manifest"
    } else if requests.iter().any(|request| request.operation == "CompleteLayerUpload" && request.status == Some(201)) {
        "some blobs confirmed"
    } else if has("CompleteLayerUpload") {
        "first bytes"
    } else if has("InitiateLayerUpload") || has("BatchCheckLayerAvailability") {
        "check"
    } else if has("GetAuthorizationToken") {
        "token"
    } else {
        "before any request"
    }
}

/// A number from a seed (splitmix64).
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Everything that the manifest names is in the registry.
fn check_whole(stand: &Stand, digest: &str, seed: u64) {
    let repository = stand.server.repository(APP).unwrap();
    let bytes = &repository.manifests[digest];
    assert_eq!(Digest::of(bytes).to_string(), digest, "seed {seed}");
    let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    for blob in layers.iter().chain([&manifest["config"]]) {
        let blob = blob["digest"].as_str().unwrap();
        assert!(repository.blobs.contains(blob), "seed {seed}: {blob} is not there");
    }
}

/// Kills one push, and runs it again.
async fn kill(case: &Case, seed: u64) -> Outcome {
    let (stand, temp) = (slow().await, tempfile::tempdir().unwrap());
    let running = program(&stand, &case.image, temp.path(), case.has_cache).start();
    let started = Instant::now();
    // Half of them at a time, half of them at a request.
    let at = case.clean.took.mul_f64((random(seed) % 1000) as f64 / 1000.0);
    let request = 1 + random(seed) as usize % case.clean.requests;
    let is_time = |stand: &Stand| match seed % 2 {
        0 => started.elapsed() >= at,
        _ => stand.server.requests().len() >= request,
    };
    while !is_time(&stand) && running.is_alive() && started.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.signal("KILL");
    let first = running.finish().await;
    assert!(first.status == KILLED || first.status == 0, "seed {seed}: {}", first.stderr);
    let phase = phase(&stand);
    let before = confirmed(&stand);
    if let Some(digest) = stand.tag("v1") {
        assert_eq!(digest, case.clean.digest, "seed {seed}: the tag of a killed push");
        check_whole(&stand, &digest, seed);
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "seed {seed}: temporary files are left");

    let received: u64 = uploads(&stand).values().sum();
    stand.server.clear_requests();
    let again = program(&stand, &case.image, temp.path(), case.has_cache).run().await;
    assert_eq!(again.status, 0, "seed {seed}, {}, {phase}: {}", case.name, again.stderr);
    let json = again.json();
    assert_eq!(json["digest"], case.clean.digest.as_str(), "seed {seed}");
    assert_eq!(stand.tag("v1").as_deref(), Some(case.clean.digest.as_str()), "seed {seed}");
    let sent = uploads(&stand);
    for digest in sent.keys() {
        assert!(
            !before.contains(digest),
            "seed {seed}, {}, {phase}: {digest} was confirmed and is sent again",
            case.name
        );
    }
    check_whole(&stand, &case.clean.digest, seed);
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "seed {seed}: temporary files are left");
    let sent: u64 = sent.values().sum();
    Outcome {
        was_killed: first.status == KILLED,
        phase,
        confirmed: case.clean.bytes - sent,
        sent_again: (received + sent).saturating_sub(case.clean.bytes),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_push_is_run_again_and_sends_only_what_was_not_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let layout = layout::write_layout(&folder.path().join("image"), &[600_000, 400_000, 200_000, 100_000, 50_000]);
    let layout = format!("oci:{}", layout.display());
    let mut cases = Vec::new();
    for (name, image, has_cache) in [
        ("OCI layout", layout.clone(), true),
        ("docker save (layers are compressed)", two(), true),
        ("OCI layout, no cache", layout, false),
        ("docker save, no cache", two(), false),
    ] {
        cases.push(Arc::new(Case { name, clean: clean(&image, has_cache).await, image, has_cache }));
    }
    let kills = reliability::count(10, 200) as u64;
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for seed in 0..kills {
        // Each case with moments of both kinds.
        let case = Arc::clone(&cases[(seed / 2) as usize % cases.len()]);
        let permits = Arc::clone(&permits);
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            (case.name, kill(&case, seed).await)
        });
    }
    let outcomes = tasks.join_all().await;
    let met = outcomes.iter().filter(|(_, outcome)| outcome.was_killed).count();
    assert!(met * 4 >= outcomes.len() * 3, "only {met} of {kills} kills met the running program");
    let mut text = format!(
        "{kills} kills at seeded moments, of which {met} met the running program (the others came just after its end): **{kills} times the \
         second run gave the right image**, no tag was wrong, no temporary file was left, no confirmed blob was sent again.\n\n| phase of the kill | kills | confirmed by then | sent twice |\n|---|---:|---:|---:|\n"
    );
    for phase in
        ["before any request", "token", "check", "first bytes", "some blobs confirmed", "manifest", "after the tag"]
    {
        let of_phase: Vec<&Outcome> =
            outcomes.iter().map(|(_, outcome)| outcome).filter(|outcome| outcome.phase == phase).collect();
        let total =
            |count: fn(&Outcome) -> u64| of_phase.iter().map(|outcome| count(outcome)).sum::<u64>() as f64 / 1e3;
        let (confirmed, again) = (total(|outcome| outcome.confirmed), total(|outcome| outcome.sent_again));
        writeln!(text, "| {phase} | {} | {confirmed:.0} kB | {again:.0} kB |", of_phase.len()).unwrap();
    }
    let phases: BTreeSet<&str> = outcomes.iter().map(|(_, outcome)| outcome.phase).collect();
    assert!(phases.len() >= 3, "the moments are not spread: {phases:?}");
    reliability::write("kills", &text);
}
