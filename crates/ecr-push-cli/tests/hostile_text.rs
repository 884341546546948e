//! Text from outside gives no commands: to a terminal, to a CI system, or to who reads a log line by line. Names, messages of registries and
//! of engines, and what an image's author writes, in the log, in JSON, and in the files.
#![cfg(unix)]

mod common;

use common::desk::{Desk, Reply};
use common::engine::{Quirks, RecordedEngine};
use common::{APP, Program, Run, Stand, two};
use local_ecr::{Answer, Fault, FaultAction};

/// Commands of every CI system at the start of a line and in it, escapes of terminals with seven bits and with eight, a bell, letters that turn
/// text around or are not seen, every kind of line break.
const HOSTILE: &str = "x\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{9d}0;t\u{9c}\u{202e}gpj.exe\u{2066}\u{200b}\u{feff}\u{2028}\u{2029}\u{85}\r\n\
    ##vso[task.setvariable variable=x]y\n##VSO[task.complete result=Succeeded;]\n##[error]z ##[add-mask]e\n::set-output name=a::b\n\
    ::warning::w\n  ::add-mask::e\n+++ group\n^^^ +++\n--- x\nsection_start:1:x\r\u{1b}[0K\nerror: invented\nwarning: invented\u{0}";

const MARKS: [(&str, &str); 5] = [
    ("GITHUB_ACTIONS", "true"),
    ("TF_BUILD", "True"),
    ("GITLAB_CI", "true"),
    ("BUILDKITE", "true"),
    ("NO_SYSTEM", "1"),
];

/// No more than this is in one line.
const LONGEST: usize = 8000;

fn is_plain(c: char) -> bool {
    let hidden = ['\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}', '\u{feff}'..='\u{feff}'];
    !c.is_control() && !hidden.iter().any(|range| range.contains(&c))
}

#[track_caller]
fn tame(case: &str, mark: &str, text: &str) {
    for line in text.lines() {
        let mut rest = line;
        if mark == "GITLAB_CI" && line.starts_with("\u{1b}[0Ksection_") {
            // A section of ours.
            rest = line.rsplit_once("\r\u{1b}[0K").unwrap_or_default().1;
        }
        assert!(rest.chars().all(is_plain), "{case}, {mark}: {line:?}");
        assert!(line.len() < LONGEST, "{case}, {mark}: a line of {} bytes", line.len());
        assert!(!line.starts_with("error: invented") && !line.starts_with("warning: invented"), "{case}: {line}");
        let start = line.trim_start();
        match mark {
            "TF_BUILD" => {
                let ours =
                    ["##vso[task.issue ", "##vso[task.debug]", "##vso[task.setprogress ", "##[group]", "##[endgroup]"];
                let behind = ours.iter().find_map(|ours| line.strip_prefix(ours)).unwrap_or(line).to_lowercase();
                assert!(!behind.contains("##vso") && !behind.contains("##["), "{case}: {line}");
            }
            "GITHUB_ACTIONS" => {
                let ours = [
                    "::error title=ecr-push::",
                    "::warning title=ecr-push::",
                    "::debug::",
                    "::group::",
                    "::endgroup::",
                ];
                assert!(!start.starts_with("::") || ours.iter().any(|ours| line.starts_with(ours)), "{case}: {line}");
                assert!(!line.contains("##["), "{case}: {line}");
            }
            "BUILDKITE" => {
                let groups = ["+++", "~~~"].iter().any(|mark| line.starts_with(mark));
                assert!(!groups && (line == "^^^ +++" || !line.starts_with("^^^")), "{case}: {line}");
                assert!(!line.starts_with("---") || line.starts_with("--- Pushing image '"), "{case}: {line}");
            }
            _ => {}
        }
    }
}

/// Runs it in each system.
async fn runs(case: &str, program: impl Fn() -> Program) -> Vec<Run> {
    let mut runs = Vec::new();
    for mark in MARKS {
        for words in [&["-v"][..], &[]] {
            let program = words.iter().fold(program().envs(&[mark]), |program, word| program.arg(word));
            let run = program.run().await;
            tame(case, mark.0, &run.stderr);
            tame(case, mark.0, &run.stdout);
            assert!(!run.stderr.contains("panicked"), "{case}: {}", run.stderr);
            runs.push(run);
        }
    }
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn what_registry_and_api_say_is_text() {
    let long = format!("{HOSTILE} {}", "y".repeat(200_000));
    for (operation, must_fail) in
        [("GetAuthorizationToken", true), ("InitiateLayerUpload", true), ("PutImage", true), ("BatchGetImage", false)]
    {
        for text in [HOSTILE, &long] {
            for answer in [
                Answer::error(403, "DENIED", text),
                Answer::error(400, text, text),
                // A page of somebody on the way.
                Answer { message: text.to_owned(), ..Answer::status(403) },
                Answer::error(400, "X", text).header("x-amzn-requestid", "##vso[task.complete]::warning::x"),
            ] {
                let stand = Stand::new().await;
                stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation(operation));
                let mark = MARKS[text.len() % 2];
                let run = stand.push("-v --retry-budget 1s").envs(&[mark]).run().await;
                assert!(!must_fail || run.status == 1, "{operation}: {}", run.stderr);
                tame(operation, mark.0, &run.stderr);
                let run = stand.push("-v --retry-budget 1s").run().await;
                tame(operation, "", &run.stderr);
            }
        }
    }
    let stand = Stand::new().await;
    stand
        .server
        .add_fault(Fault::new(FaultAction::Answer(Answer::error(403, "DENIED", HOSTILE))).method("POST").path("/v2/"));
    for run in runs("a registry", || stand.push("--retry-budget 1s")).await {
        assert_eq!(run.status, 1, "{}", run.stderr);
        assert!(run.stderr.contains("gpj.exe"), "the text itself is shown: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_engine_says_is_text() {
    let stand = Stand::new().await;
    let refusing = RecordedEngine::with(Quirks { refuse_inspect: Some(HOSTILE.into()), ..Quirks::default() });
    let push = |engine: &RecordedEngine, words: &str| {
        stand.program(&format!("push two:1 --repository {APP} -t v1 {words}")).env("DOCKER_HOST", engine.host())
    };
    for run in runs("an engine that refuses", || push(&refusing, "")).await {
        assert_eq!(run.status, 1, "{}", run.stderr);
    }
    let untagged = RecordedEngine::with(Quirks { refuse_tag: Some(HOSTILE.into()), ..Quirks::default() });
    for run in runs("an engine that gives no name", || push(&untagged, "--tag-local")).await {
        assert_eq!(run.status, 0, "{}", run.stderr);
    }
    let engine = Desk::start(|_, _| Reply::Say(500, serde_json::json!({ "message": HOSTILE }).to_string())).await;
    let host = engine.url().replace("http://", "tcp://");
    let asked = || stand.program(&format!("push two:1 --repository {APP} -t v1")).env("DOCKER_HOST", &host);
    for run in runs("an engine that fails", asked).await {
        assert_eq!(run.status, 1, "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_s_author_writes_is_text_also_in_results() {
    let stand = Stand::new().await;
    let engine = RecordedEngine::with(Quirks { authors_text: Some(HOSTILE.into()), ..Quirks::default() });
    let file = |name: &str| stand.folder.path().join(name);
    let push = |words: &str| {
        let names = ["r.json", "r.env", "r.properties"].map(|name| format!("--output-file={}", file(name).display()));
        let program =
            stand.program(&format!("push two:1 --repository {APP} -t v1 {words}")).env("DOCKER_HOST", engine.host());
        names.iter().fold(program, |program, name| program.arg(name))
    };
    for words in ["", "-o json"] {
        for run in runs("an author", || push(words)).await {
            assert_eq!(run.status, 0, "{}", run.stderr);
            if !words.is_empty() {
                assert!(run.json()["platforms"][0].as_str().unwrap().chars().all(|c| c.is_ascii_graphic()));
            }
            // JSON goes to a log as often as to a program.
            assert!(!run.stdout.contains("##"), "{}", run.stdout);
        }
    }
    for name in ["r.json", "r.env", "r.properties"] {
        let text = std::fs::read_to_string(file(name)).unwrap();
        tame(name, "TF_BUILD", &text);
        tame(name, "GITHUB_ACTIONS", &text);
        assert!(text.lines().count() <= 6, "{text}");
    }
    let action = stand.bare("github-action").env("GITHUB_ACTIONS", "true").env("DOCKER_HOST", engine.host());
    let action = action.env("AWS_ACCESS_KEY_ID", common::KEY).env("AWS_SECRET_ACCESS_KEY", common::SECRET);
    let action =
        ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"].iter().fold(action, |action, name| action.env(name, file(name)));
    let action = action.env("INPUT_IMAGE", "two:1").env("INPUT_REPOSITORY", APP).env("INPUT_AWS-REGION", "us-east-1");
    let run = action.env("INPUT_TAGS", "v1").run().await.succeeded();
    let log = run.stdout.lines().filter(|line| !line.starts_with("::add-mask::")).collect::<Vec<_>>().join("\n");
    tame("the action", "GITHUB_ACTIONS", &log);
    for name in ["GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"] {
        tame(name, "GITHUB_ACTIONS", &std::fs::read_to_string(file(name)).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_is_text() {
    let stand = Stand::new().await;
    // A process cannot be given a zero byte.
    let hostile = &HOSTILE.replace('\0', "");
    let push = || stand.program("push");
    let full = || push().arg(two()).arg("--repository").arg(APP);
    for run in runs("an image", || push().arg("--repository").arg(APP).arg(hostile)).await {
        assert_eq!(run.status, 2, "{}", run.stderr);
    }
    for flag in [
        "--tag",
        "--region",
        "--to",
        "--jobs",
        "--reuse",
        "--output",
        "--ca-bundle",
        "--connect-to",
        "--platform",
        "--temp-dir",
        hostile,
    ] {
        for run in runs(flag, || full().arg(flag).arg(hostile)).await {
            assert_eq!(run.status, 2, "{flag}: {}", run.stderr);
        }
    }
    for run in
        runs("a file", || stand.program(&format!("push --repository {APP}")).arg(format!("docker-archive:/{hostile}")))
            .await
    {
        assert!(run.status == 1 || run.status == 2, "{}", run.stderr);
    }
}
