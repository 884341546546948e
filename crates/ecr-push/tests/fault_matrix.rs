//! Every fault at every step for every source: what comes of it, and a table of that.
//!
//! `ECR_PUSH_LONG=1` has it all; otherwise each fault meets each step once, with one source after the other.
#![cfg(unix)]

mod common;
#[path = "matrix/faults.rs"]
mod faults;
#[path = "common/recorded.rs"]
mod recorded;
#[path = "common/reliability.rs"]
mod reliability;
#[path = "matrix/sources.rs"]
mod sources;
#[path = "common/stand.rs"]
mod stand;
#[path = "matrix/steps.rs"]
mod steps;
#[path = "matrix/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ecr_push::push::PushReport;
use ecr_push::{Error, Result};
use faults::{Expect, Row};
use sources::{Clean, Source};
use stand::{APP, Stand, push_with_log};
use steps::Step;
use table::Cell;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Pushes at a time. They mostly wait.
const AT_ONCE: usize = 12;

/// A push that takes longer than its budget and this hangs: the first answer may take a minute, and the last try half of one.
const LIMIT: Duration = Duration::from_secs(60 + 30 + 20);

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_step() {
    let long = reliability::is_long();
    let folder = tempfile::tempdir().unwrap();
    let sources = Arc::new(Source::all(folder.path()));
    let mut clean = Vec::new();
    for source in sources.iter() {
        clean.push(source.clean().await);
    }
    let (clean, rows) = (Arc::new(clean), Arc::new(Row::all()));
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut cells = JoinSet::new();
    let mut planned = 0;
    for row in 0..rows.len() {
        for (column, step) in Step::ALL.into_iter().enumerate() {
            for source in 0..sources.len() {
                let turn = (row + column) % sources.len() == source;
                if !long && (rows[row].slow || !turn) {
                    continue;
                }
                planned += 1;
                let (sources, clean, rows, permits) =
                    (Arc::clone(&sources), Arc::clone(&clean), Arc::clone(&rows), Arc::clone(&permits));
                cells.spawn(async move {
                    // A dead link costs nothing but time.
                    let _permit = if rows[row].slow { None } else { permits.acquire_owned().await.ok() };
                    let cell = push(&rows[row], step, &sources[source], &clean[source]).await;
                    ((row, column, source), cell)
                });
            }
        }
    }
    let cells: BTreeMap<(usize, usize, usize), Cell> = cells.join_all().await.into_iter().collect();
    let names = |source: usize| sources[source].name;
    let wrong: Vec<String> = cells
        .iter()
        .filter_map(|((row, column, source), cell)| {
            let wrong = cell.wrong.as_ref()?;
            Some(format!("{} / {} / {}: {wrong}", rows[*row].name, Step::ALL[*column].name(), names(*source)))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
    assert_eq!(cells.len(), planned, "a cell is empty");
    let sources: Vec<&str> = sources.iter().map(|source| source.name).collect();
    reliability::write("matrix", &table::of(&rows, &sources, &cells, long));
}

/// One push with one fault, judged.
async fn push(row: &Row, step: Step, source: &Source, clean: &Clean) -> Cell {
    let stand = source.stand(row.tls).await;
    let mut request = source.request(&stand);
    request.retry_budget = row.budget;
    stand.server.add_fault(step.fault((row.action)(step, clean), clean).times(row.times));
    let started = Instant::now();
    let pushed = tokio::time::timeout(row.budget + LIMIT, push_with_log(request)).await;
    let elapsed = started.elapsed();
    let resent = stand.body_bytes().saturating_sub(clean.bytes);
    let Ok((result, log)) = pushed else {
        return Cell { elapsed, resent, survived: false, wrong: Some("hangs".into()) };
    };
    let survived = result.is_ok();
    let wrong =
        judge(row, step, clean, &stand, &result, resent).err().map(|why| format!("{why}\n    {}", log.join("\n    ")));
    Cell { elapsed, resent, survived, wrong }
}

/// What is wrong with what came of it.
fn judge(
    row: &Row,
    step: Step,
    clean: &Clean,
    stand: &Stand,
    result: &Result<PushReport>,
    resent: u64,
) -> std::result::Result<(), String> {
    if stand.server.hits() == 0 {
        return Err("the fault did not come".into());
    }
    let tags = stand.server.repository(APP).map(|repository| repository.tags).unwrap_or_default();
    // Whatever came of it: a tag points at the right image, which is whole.
    for (tag, digest) in &tags {
        if *digest != clean.digest {
            return Err(format!("{tag} points at {digest}"));
        }
        if !(row.lost_unseen && step == Step::Tag && clean.manifests > 2) {
            is_whole(stand, digest)?;
        }
    }
    match ((row.expect)(step), result) {
        (Expect::Survives, Err(error)) => Err(shown(error)),
        (Expect::Survives, Ok(report)) => {
            if report.digest.to_string() != clean.digest {
                return Err(format!("reported {}", report.digest));
            }
            if tags.len() != 2 {
                return Err(format!("the tags are {:?}", tags.keys()));
            }
            let allowed = row.resends.saturating_mul(clean.largest);
            if resent > allowed {
                Err(format!("{resent} bytes were sent again, {allowed} are allowed"))
            } else {
                Ok(())
            }
        }
        (Expect::Refused(_), Ok(_)) => Err("it was pushed".into()),
        (Expect::Refused(words), Err(error)) => {
            let left = if step == Step::Tag { 1 } else { 0 };
            if tags.len() > left {
                return Err(format!("the tags are {:?}", tags.keys()));
            }
            if error.is_refused() {
                return Err(format!("exit status 2: {}", shown(error)));
            }
            let text = shown(error);
            if text.contains(words) { Ok(()) } else { Err(format!("it does not say `{words}`: {text}")) }
        }
    }
}

/// Everything that the manifest names is there.
fn is_whole(stand: &Stand, digest: &str) -> std::result::Result<(), String> {
    let repository = stand.server.repository(APP).ok_or("no repository")?;
    let mut open = vec![digest.to_owned()];
    while let Some(digest) = open.pop() {
        let bytes = repository.manifests.get(&digest).ok_or(format!("the manifest {digest} is not there"))?;
        let manifest: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let list = |name: &str| manifest[name].as_array().cloned().unwrap_or_default();
        let named = |entry: &serde_json::Value| entry["digest"].as_str().unwrap_or_default().to_owned();
        open.extend(list("manifests").iter().map(named));
        let config = manifest.get("config").map(named);
        for blob in list("layers").iter().map(named).chain(config) {
            if !repository.blobs.contains(&blob) {
                return Err(format!("the blob {blob} is not there"));
            }
        }
    }
    Ok(())
}

fn shown(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    format!("{error}{cause}; {}", [error.notes(), error.hints()].concat().join("; "))
}
