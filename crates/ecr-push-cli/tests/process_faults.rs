//! What happens around a push: somebody deletes the repository, the clock is wrong, neighbours push at the same time.
#![cfg(unix)]

mod common;
#[path = "../../ecr-push/tests/common/layout.rs"]
mod layout;
#[path = "../../ecr-push/tests/common/reliability.rs"]
mod reliability;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use common::{APP, Stand, two, wait_for};
use local_ecr::{Config, Fault, FaultAction, Key};

const LIMIT: Duration = Duration::from_secs(20);

/// How long an upload stands still for something to happen meanwhile.
const MEANWHILE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_deleted_meanwhile_is_named_and_not_made_again() {
    for words in ["", "--create-repository"] {
        let stand = Stand::new().await;
        let pause = FaultAction::Pause { after: 0, time: MEANWHILE };
        stand.server.add_fault(Fault::new(pause).operation("CompleteLayerUpload").times(1));
        let running = stand.push(words).start();
        wait_for("an upload", LIMIT, || !stand.asked("CompleteLayerUpload").is_empty()).await;
        stand.server.delete_repository(APP).unwrap();
        let run = running.finish().await;
        let sentence = run.failed(1);
        assert!(sentence.contains("the repository `team/app` does not exist"), "{}", run.stderr);
        // Whoever deleted it did not ask for a new one, with other settings.
        assert!(stand.server.repository(APP).is_none(), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_corrected_or_named() {
    for ahead in [-900, -240, 240, 900] {
        let stand = Stand::strict(Config { clock_ahead: ahead, ..Config::default() }).await;
        let run = stand.push("-v").run().await.succeeded();
        let asked = stand.asked("GetAuthorizationToken");
        let refused = asked.iter().filter(|request| request.status != Some(200)).count();
        assert_eq!(refused, usize::from(i64::abs(ahead) > 300), "{ahead}: {}", run.stderr);
    }
    // Where the service's own time cannot be seen, nothing can be corrected.
    let stand = Stand::strict(Config { clock_ahead: 900, ..Config::default() }).await;
    stand.server.add_fault(Fault::new(FaultAction::header("date", Some("never"))));
    let run = stand.push("").run().await;
    assert_eq!(
        run.failed(1),
        "error: AWS refuses the signature because of its time: the clock of this machine is wrong",
        "{}",
        run.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_that_push_overlapping_images_do_not_harm_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "| pushers at once | all right | bytes of all images | bytes sent | sent more than once |\n|---:|---|---:|---:|---:|\n".to_owned();
    for pushers in 2..=8_usize {
        let stand = Stand::new().await;
        // Each image has the layers of the one before, and one more.
        let mut images = Vec::new();
        for number in 0..pushers {
            let sizes: Vec<usize> = (0..=number).map(|layer| 100_000 + 10_000 * layer).collect();
            let path = folder.path().join(format!("{pushers}-{number}"));
            images.push(layout::write_layout_of(&path, "shared", &sizes));
        }
        let temp = folder.path().join("temp");
        std::fs::create_dir_all(&temp).unwrap();
        let start = |number: usize| {
            let words = format!("push oci:{} -r {APP} -t v{number} -t same --output json", images[number].display());
            stand.program(&words).arg("--wait-visible").arg("1s").arg("--temp-dir").arg(&temp).start()
        };
        let running: Vec<_> = (0..pushers).map(start).collect();
        let wanted: BTreeMap<String, String> =
            (0..pushers).map(|number| (format!("v{number}"), root(&images[number]))).collect();
        let (mut ended_well, mut overtaken) = (Vec::new(), Vec::new());
        for (number, running) in running.into_iter().enumerate() {
            let run = running.finish().await;
            match run.status {
                0 => {
                    let digest = run.json()["digest"].as_str().unwrap().to_owned();
                    assert_eq!(digest, wanted[&format!("v{number}")]);
                    ended_well.push(digest);
                }
                _ => overtaken.push(run.failed(1).to_owned()),
            }
        }
        let mut tags = stand.server.repository(APP).unwrap().tags;
        let same = tags.remove("same").unwrap();
        // The one that put the shared tag last has ended well. Of the others, those that saw it moved say so, and nothing else went wrong.
        assert!(ended_well.contains(&same), "{same}: {ended_well:?} {overtaken:?}");
        assert!(
            overtaken.iter().all(|error| error.contains("the tag `same`") && error.contains(&same)),
            "{overtaken:?}"
        );
        assert_eq!(tags, wanted, "{pushers} pushers");
        for image in &images {
            let repository = stand.server.repository(APP).unwrap();
            let has = |name: &str| repository.blobs.contains(name) || repository.manifests.contains_key(name);
            assert!(blobs(image).iter().all(|name| has(&format!("sha256:{name}"))), "{pushers} pushers");
        }
        let (all, sent, twice) = bytes(&stand, &images);
        writeln!(
            text,
            "| {pushers} | {pushers} of {pushers} | {:.0} kB | {:.0} kB | {:.0} kB |",
            all / 1e3,
            sent / 1e3,
            twice / 1e3
        )
        .unwrap();
    }
    reliability::write("concurrent", &text);
}

/// The digest that a layout's index names.
fn root(layout: &std::path::Path) -> String {
    let index = std::fs::read(layout.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// The names of a layout's blobs.
fn blobs(layout: &std::path::Path) -> Vec<String> {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap()).collect()
}

/// Bytes of the images, bytes sent, and bytes of blobs that were sent more than once.
fn bytes(stand: &Stand, images: &[std::path::PathBuf]) -> (f64, f64, f64) {
    let size = |path: &std::path::Path| -> u64 {
        let blobs = std::fs::read_dir(path.join("blobs/sha256")).unwrap();
        blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).sum()
    };
    let all: u64 = images.iter().map(|image| size(image)).sum();
    let mut by_digest: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for request in stand.asked("CompleteLayerUpload") {
        let digest = request.path.split_once("digest=").unwrap().1.to_owned();
        by_digest.entry(digest).or_default().push(request.body_bytes);
    }
    let sent: u64 = by_digest.values().flatten().sum();
    let once: u64 = by_digest.values().filter_map(|sizes| sizes.iter().max()).sum();
    (all as f64, sent as f64, (sent - once) as f64)
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_rotate_in_the_middle_are_asked_for_again() {
    let stand = Stand::strict(Config::default()).await;
    // A process that gives keys for a few seconds, as they are at that moment.
    let process = |key: &str, secret: &str| {
        let text = format!(
            "#!/bin/sh\nuntil=$(date -u -d '+9 seconds' +%Y-%m-%dT%H:%M:%SZ)\necho '{{\"Version\":1,\"AccessKeyId\":\"{key}\",\
             \"SecretAccessKey\":\"{secret}\",\"Expiration\":\"'\"$until\"'\"}}'\n"
        );
        stand.file("keys", text)
    };
    let keys = process(common::KEY, common::SECRET);
    let config = format!("[profile rotating]\nregion = us-east-1\ncredential_process = /bin/sh {}\n", keys.display());
    let config = stand.file("aws-config", config);
    let pause = FaultAction::Pause { after: 0, time: MEANWHILE };
    stand.server.add_fault(Fault::new(pause).operation("CompleteLayerUpload").times(1));
    let running = stand
        .bare(&format!("push {} -r {APP} -t v1 --profile rotating", two()))
        .env("AWS_CONFIG_FILE", &config)
        .env("PATH", "/usr/bin:/bin")
        .start();
    wait_for("an upload", LIMIT, || !stand.asked("CompleteLayerUpload").is_empty()).await;
    let new = Key {
        access_key_id: "AKIAROTATED0000EXAMP".into(),
        secret_access_key: "another-secret".into(),
        user: "rotated".into(),
    };
    process(&new.access_key_id, &new.secret_access_key);
    stand.server.add_fault(Fault::new(FaultAction::RotateKeys(vec![new])).times(1));
    stand.server.expire_tokens();
    running.finish().await.succeeded();
    let asked = stand.asked("GetAuthorizationToken");
    let last = asked.last().unwrap().principal.clone().unwrap_or_default();
    assert!(asked.len() > 1 && last.ends_with("rotated"), "{last}");
    assert!(stand.tag("v1").is_some());
}
