//! What a push prints: results on standard output, everything else on standard error.

mod common;

use common::{ACCOUNT, APP, Stand, multi, one_platform_with_attestation, push_words, two};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn standard_output_is_one_reference_a_tag_in_the_order_given() {
    let stand = Stand::new().await;
    let words = format!("push {} --repository {APP} -t latest -t v1 --tag v1.2", two());
    let run = stand.program(&words).run().await.succeeded();
    let uri = stand.uri();
    assert_eq!(run.stdout, format!("{uri}:latest\n{uri}:v1\n{uri}:v1.2\n"));
    assert!(["latest", "v1", "v1.2"].iter().all(|tag| stand.tag(tag).is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tag_the_result_and_the_log_say_latest() {
    let stand = Stand::new().await;
    let run = stand.program(&format!("push {} -r {APP}", two())).run().await.succeeded();
    assert_eq!(run.stdout, format!("{}:latest\n", stand.uri()));
    run.says(&["`latest`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_lines_sum_up() {
    let stand = Stand::new().await;
    let run = stand.push("-t v2").run().await.succeeded();
    let uri = stand.uri();
    let lines: Vec<&str> = run.stderr.lines().collect();
    let [what, digest, cost] = lines[lines.len() - 3..] else { panic!() };
    assert_eq!(what, format!("pushed an image for linux/amd64 as {uri}:v1, {uri}:v2"));
    assert_eq!(digest, format!("digest {}", stand.tag("v1").unwrap()));
    assert!(cost.starts_with("sent ") && cost.contains(" in 3 blobs, saved 0 B in 0; "), "{cost}");
    assert!(cost.contains(" s, 0 retries, ") && cost.ends_with(" of temporary files at most"), "{cost}");
    run.says(&["region us-east-1 (AWS_REGION), credentials from environment (key …MPLE)"]);
    run.says(&[&format!("pushing to {uri}")]);
    let again = stand.push("").run().await.succeeded();
    again.says(&["already there: an image for linux/amd64 as "]);
    assert_eq!(again.stdout, format!("{uri}:v1\n"), "a repeat has the same result");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_object_with_everything() {
    let stand = Stand::new().await;
    let run = stand.push(&format!("-t v2 --output json --registry-id {ACCOUNT}")).run().await.succeeded();
    let (object, uri, digest) = (run.json(), stand.uri(), stand.tag("v1").unwrap());
    let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "image",
        "digest",
        "uri",
        "tags",
        "registry_id",
        "region",
        "kind",
        "platforms",
        "attestations",
        "existed",
        "dry_run",
        "layers",
        "bytes_sent",
        "bytes_skipped",
        "bytes_mounted",
        "seconds",
        "seconds_waited",
        "retries",
        "peak_temp_bytes",
    ];
    expected.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    for (key, value) in [
        ("image", json!(format!("{uri}:v1"))),
        ("digest", json!(digest)),
        ("uri", json!(format!("{uri}@{digest}"))),
        ("tags", json!(["v1", "v2"])),
        ("registry_id", json!(ACCOUNT)),
        ("region", json!("us-east-1")),
        ("kind", json!("image")),
        ("platforms", json!(["linux/amd64"])),
        ("attestations", json!(0)),
        ("existed", json!(false)),
        ("dry_run", json!(false)),
        ("bytes_skipped", json!(0)),
        ("retries", json!(0)),
    ] {
        assert_eq!(object[key], value, "{key}");
    }
    assert_layers(&stand, &object, "sent");
    let sizes: u64 = object["layers"].as_array().unwrap().iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
    assert_eq!(object["bytes_sent"], sizes);
    let seconds = object["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds <= run.took.as_secs_f64(), "{seconds}");
    assert!((1..sizes).contains(&object["peak_temp_bytes"].as_u64().unwrap()), "the config needs no file");

    let again = stand.push("--output json").run().await.succeeded().json();
    assert_eq!((&again["existed"], &again["digest"]), (&json!(true), &json!(digest)));
    assert_eq!((&again["bytes_sent"], &again["peak_temp_bytes"]), (&json!(0), &json!(0)));
}

/// Each blob of the repository once, with what was done.
fn assert_layers(stand: &Stand, object: &Value, action: &str) {
    let layers = object["layers"].as_array().unwrap();
    let mut digests: Vec<&str> = layers.iter().map(|layer| layer["digest"].as_str().unwrap()).collect();
    digests.sort_unstable();
    let blobs = stand.server.repository(APP).unwrap().blobs;
    assert_eq!(digests, blobs.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(layers.iter().all(|layer| layer["action"] == action), "{layers:?}");
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["diff_id"]).filter(|id| !id.is_null()).collect();
    let expected = std::fs::read(common::recorded("docker-20.10-overlay2/expected-two.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let expected = expected["docker"][0]["diff_ids"].as_array().unwrap();
    assert_eq!(diff_ids.len(), expected.len());
    assert!(expected.iter().all(|diff_id| diff_ids.contains(&diff_id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_tells_what_another_image_left_to_send() {
    let stand = Stand::new().await;
    stand.push("").run().await.succeeded();
    // Without the tag the image is not known to be there, but its blobs are.
    let words = push_words("-o json").replace("-t v1", "-t other");
    let object = stand.program(&words).run().await.succeeded().json();
    assert_eq!(object["bytes_sent"], 0);
    assert!(object["bytes_skipped"].as_u64().unwrap() > 0);
    assert_layers(&stand, &object, "skipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_prints_the_result_and_nothing_else() {
    let stand = Stand::new().await;
    let run = stand.push("--quiet").run().await.succeeded();
    assert_eq!((run.stdout, run.stderr), (format!("{}:v1\n", stand.uri()), String::new()));
    let run = stand.push("-q -o json").run().await.succeeded();
    assert_eq!((&run.json()["existed"], run.stderr.as_str()), (&json!(true), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_still_says_why_it_failed() {
    let stand = Stand::new().await;
    let run = stand.program(&push_words("-q").replace(APP, "team/none")).run().await;
    assert!(run.failed(1).contains("the repository `team/none` does not exist"));
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn verbose_names_the_caller_and_only_then_is_sts_asked() {
    let stand = Stand::strict(local_ecr::Config::default()).await;
    stand.push("").run().await.succeeded();
    assert!(stand.asked("STS").is_empty());
    let run = stand.push("--verbose").run().await.succeeded();
    run.says(&["arn:aws:iam::123456789012:user/tester"]);
    assert_eq!(stand.asked("STS").len(), 1);
    assert_eq!(run.stdout, format!("{}:v1\n", stand.uri()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_the_plan_and_sends_nothing() {
    let stand = Stand::new().await;
    let run = stand.push("--dry-run -o json").run().await.succeeded();
    run.says(&["would push an image for linux/amd64 as ", "would send "]);
    assert_eq!(run.stderr.matches("would be sent").count(), 3, "{}", run.stderr);
    let object = run.json();
    assert_eq!((&object["dry_run"], &object["bytes_sent"]), (&json!(true), &json!(0)));
    assert!(object["layers"].as_array().unwrap().iter().all(|layer| layer["action"] == "would-send"));
    assert!(stand.server.repository(APP).unwrap().blobs.is_empty() && stand.tag("v1").is_none());
    stand.push("").run().await.succeeded();
    assert_eq!(object["digest"], stand.tag("v1").unwrap(), "the plan names the digest that a push then has");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_summed_up_with_platforms_and_attestations() {
    let stand = Stand::new().await;
    let words = format!("push {} -r {APP} -t v1 -o json", multi());
    let run = stand.program(&words).run().await.succeeded();
    run.says(&["pushed an index for linux/amd64, linux/arm64 with 1 attestation as "]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
    let object = run.json();
    assert_eq!((&object["kind"], &object["attestations"]), (&json!("index"), &json!(1)));
    assert_eq!(object["platforms"], json!(["linux/amd64", "linux/arm64"]));

    let run = stand.program(&words).arg("--attestations=drop").run().await.succeeded();
    run.says(&[
        "pushed an index for linux/amd64, linux/arm64 without attestations as ",
        "(a new digest: the source's index has others)",
    ]);
    assert_ne!(run.json()["digest"], object["digest"]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);

    let run = stand.program(&words).arg("--platform=linux/arm64").run().await.succeeded();
    run.says(&["pushed an image for linux/arm64 as "]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_platform_with_attestations_is_warned_of_for_lambda() {
    let stand = Stand::new().await;
    let layout = one_platform_with_attestation(stand.folder.path());
    let words = format!("push {layout} -r {APP} -t v1");
    let run = stand.program(&words).arg("-q").run().await.succeeded();
    let warnings: Vec<&str> = run.stderr.lines().collect();
    let [warning] = warnings[..] else { panic!("one line: {}", run.stderr) };
    assert!(warning.starts_with("warning: ") && warning.contains("Lambda"), "{warning}");
    assert!(warning.contains("`--attestations drop`"), "how to avoid it: {warning}");
    // Where one image is left it is pushed alone, and there is nothing to warn of.
    let run = stand.program(&words).arg("--attestations=drop").run().await.succeeded();
    run.says(&["pushed an image for linux/amd64 as ", "a new digest"]);
    assert!(!run.stderr.contains("warning"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ecr_host_in_the_repository_is_stripped_with_a_notice() {
    let stand = Stand::new().await;
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    let words = push_words("").replace(APP, &format!("{host}/{APP}"));
    let run = stand.program(&words).env("AWS_REGION", "eu-west-1").run().await.succeeded();
    run.says(&["in the repository gives account and region", "region us-east-1 (the registry host)"]);
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_created_if_asked_and_the_log_says_so() {
    let stand = Stand::new().await;
    let words = push_words("--create-repository").replace(APP, "team/new");
    stand.program(&words).run().await.succeeded().says(&["created the repository "]);
    assert!(stand.server.repository("team/new").unwrap().tags.contains_key("v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_read_from_standard_input() {
    let stand = Stand::new().await;
    let file = std::fs::File::open(common::recorded("docker-20.10-overlay2/export-two.tar")).unwrap();
    let words = format!("push docker-archive:- -r {APP} -t v1");
    stand.program(&words).stdin(file.into()).run().await.succeeded();
    let piped = stand.tag("v1");
    stand.push("").run().await.succeeded();
    assert_eq!(stand.tag("v1"), piped);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_result_has_a_reader_or_none() {
    let stand = Stand::new().await;
    let mut child = std::process::Command::new("sh")
        .args(["-c", &format!("exec \"$0\" {} | true", push_words("")), env!("CARGO_BIN_EXE_ecr-push")])
        .envs([("AWS_ACCESS_KEY_ID", common::KEY), ("AWS_SECRET_ACCESS_KEY", common::SECRET)])
        .env("AWS_ENDPOINT_URL", stand.server.endpoint_url())
        .env("AWS_REGION", "us-east-1")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut stderr).unwrap();
    child.wait().unwrap();
    assert!(stand.tag("v1").is_some(), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_version_are_results() {
    for words in ["--version", "--help", "push --help", "demo --help"] {
        let run = common::Program::new(words).run().await.succeeded();
        assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{words}");
    }
    let run = common::Program::new("").run().await;
    assert_eq!((run.status, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("Usage: ecr-push"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn a_result_that_cannot_be_written_is_said() {
    let stand = Stand::new().await;
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ecr-push"))
        .args(push_words("-q").split_whitespace())
        .env_clear()
        .envs([("AWS_ACCESS_KEY_ID", common::KEY), ("AWS_SECRET_ACCESS_KEY", common::SECRET)])
        .env("AWS_ENDPOINT_URL", stand.server.endpoint_url())
        .env("AWS_REGION", "us-east-1")
        .stdout(full)
        .output()
        .unwrap();
    assert!(stand.tag("v1").is_some());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.is_empty() && output.status.code() != Some(0), "{:?}: {stderr}", output.status);
}
