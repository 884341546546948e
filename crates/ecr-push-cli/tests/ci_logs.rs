//! The log of `push` is shaped for the CI system it runs in, and text from outside gives no commands to it.

mod common;

use common::{APP, Stand, one_platform_with_attestation, push_words};
use local_ecr::{Answer, Fault, FaultAction};

/// The mark of each system with a log of its own.
const MARKS: [(&str, &str); 4] =
    [("GITHUB_ACTIONS", "true"), ("TF_BUILD", "True"), ("GITLAB_CI", "true"), ("BUILDKITE", "true")];

#[tokio::test(flavor = "multi_thread")]
async fn standard_output_has_the_result_alone_in_every_system() {
    let stand = Stand::new().await;
    for mark in MARKS {
        let run = stand.push("").envs(&[mark]).run().await.succeeded();
        assert_eq!(run.stdout, format!("{}:v1\n", stand.uri()), "{mark:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_folds_where_the_system_can_fold() {
    let stand = Stand::new().await;
    let image = common::two();
    for (mark, first, last) in [
        (MARKS[0], format!("::group::Pushing image '{image}'"), Some("::endgroup::")),
        (MARKS[1], format!("##[group]Pushing image '{image}'"), Some("##[endgroup]")),
        (MARKS[3], format!("--- Pushing image '{image}'"), None),
    ] {
        let run = stand.push("").envs(&[mark]).run().await.succeeded();
        let lines: Vec<&str> = run.stderr.lines().filter(|line| !line.contains("debug")).collect();
        assert_eq!(lines[0], first, "{mark:?}");
        if let Some(last) = last {
            let end = lines.iter().position(|line| *line == last).unwrap();
            assert!(lines[end + 1].starts_with("already there:") || lines[end + 1].starts_with("pushed"), "{lines:?}");
        }
    }
    let run = stand.push("").envs(&[MARKS[2]]).run().await.succeeded();
    let first = run.stderr.lines().next().unwrap();
    assert!(first.starts_with("\u{1b}[0Ksection_start:") && first.contains(":ecr_push\r\u{1b}[0KPushing"), "{first:?}");
    assert!(run.stderr.contains("\u{1b}[0Ksection_end:"), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_warnings_are_annotations_where_there_are_some() {
    let stand = Stand::new().await;
    let missing = format!("push {} --repository team/nope -t v1", common::two());
    let warned = format!("push {} -r {APP} -t w", one_platform_with_attestation(stand.folder.path()));
    for (mark, error, warning) in [
        (MARKS[0], "::error title=ecr-push::the repository `team/nope`", "::warning title=ecr-push::an index of one"),
        (
            MARKS[1],
            "##vso[task.issue type=error;source=TaskInternal;]the rep",
            "##vso[task.issue type=warning;]an index",
        ),
        (MARKS[2], "error: the repository `team/nope`", "warning: an index of one"),
        (MARKS[3], "error: the repository `team/nope`", "warning: an index of one"),
    ] {
        let run = stand.program(&missing).envs(&[mark]).run().await;
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
        assert!(run.stderr.lines().any(|line| line.starts_with(error)), "{mark:?}\n{}", run.stderr);
        assert!(run.stderr.contains("--create-repository"), "on a command line flags keep their names");
        // Buildkite folds the group; this opens it again.
        assert_eq!(run.stderr.contains("^^^ +++\n"), mark.0 == "BUILDKITE");
        let run = stand.program(&warned).envs(&[mark]).run().await.succeeded();
        assert!(run.stderr.lines().any(|line| line.starts_with(warning)), "{mark:?}\n{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_can_be_named_and_left_out() {
    let stand = Stand::new().await;
    let plain = stand.push("--ci none").envs(&[MARKS[0]]).run().await.succeeded();
    assert!(!plain.stderr.contains("::"), "{}", plain.stderr);
    let named = stand.push("--ci azure").run().await.succeeded();
    assert!(named.stderr.contains("##[group]"), "{}", named.stderr);
    for system in ["circleci", "jenkins"] {
        let run = stand.push(&format!("--ci {system}")).run().await.succeeded();
        assert!(!run.stderr.contains("::") && !run.stderr.contains("##"), "{}", run.stderr);
    }
    stand.push("--ci nowhere").run().await.says(&["invalid value 'nowhere'", "buildkite"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_give_commands() {
    let stand = Stand::new().await;
    for name in ["##vso[task.setvariable variable=x]y", "##VSO[task.complete result=Succeeded;]", "##[add-mask]e"] {
        for mark in MARKS {
            let run = stand.program("push --repository team/app").arg(name).envs(&[mark]).run().await;
            assert_eq!(run.status, 2, "{}", run.stderr);
            for line in run.stderr.lines() {
                // The command of ours is at the start, and nothing is one behind it.
                let behind = line.strip_prefix("##vso[task.").unwrap_or(line).to_lowercase();
                assert!(!behind.contains("##vso") || mark.0 != "TF_BUILD", "{line}");
                assert!(!line.contains("##[add-mask]") || mark.0 == "GITLAB_CI" || mark.0 == "BUILDKITE", "{line}");
            }
        }
    }
    let run = stand.program("push --repository team/app").arg("::add-mask::e").envs(&[MARKS[0]]).run().await;
    assert!(run.stderr.lines().all(|line| !line.trim_start().starts_with("::add-mask")), "{}", run.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_to_a_log_that_may_be_a_file() {
    let stand = Stand::strict(Default::default()).await;
    for mark in MARKS {
        let run = stand.program(&push_words("")).envs(&[mark]).run().await.succeeded();
        // What every token of ECR starts with, and every password of the local one.
        run.hides(&[common::SECRET, "QVdTO", "bG9jYWwtZWNy"]);
        assert!(!run.stderr.contains("add-mask") && !run.stderr.contains("setsecret"), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_line_gives_no_commands_and_is_an_annotation() {
    let stand = Stand::new().await;
    let words = [
        ("GITHUB_ACTIONS", "::add-mask::latest", "::error title=ecr-push::"),
        ("TF_BUILD", "##vso[task.setvariable variable=x]y", "##vso[task.issue type=error;"),
        ("BUILDKITE", "+++ x", "error: "),
        ("GITLAB_CI", "x", "error: "),
    ];
    for (mark, hostile, annotation) in words {
        for flag in ["--jobs", "--output", "--retry-budget", ""] {
            let program = stand.program("push app --repository team/app").env(mark, "true");
            let program = if flag.is_empty() { program } else { program.arg(flag) };
            let run = program.arg(format!("1\n{hostile}")).run().await;
            assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{}", run.stderr);
            assert!(run.stderr.lines().any(|line| line.starts_with(annotation)), "{mark}: {}", run.stderr);
            let first = hostile.split(' ').next().unwrap();
            let injected = |line: &str| line.starts_with(first) || line.contains("##vso[task.setvariable");
            assert!(mark == "GITLAB_CI" || !run.stderr.lines().any(injected), "{mark}: {}", run.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_is_quiet_in_every_system() {
    let stand = Stand::new().await;
    for mark in MARKS {
        let run = stand.push("--quiet").envs(&[mark]).run().await.succeeded();
        assert_eq!(run.stderr, "", "{mark:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_says_back_is_neither_endless_nor_secret() {
    let token = "temporary-session-token//0123456789==";
    for mark in [("AWS_UNUSED", "1"), MARKS[0], MARKS[1]] {
        let stand = Stand::new().await;
        let text = format!("refused {} and {token} {}", common::SECRET, "xxx ".repeat(25_000));
        let answer = Answer::error(400, "InvalidParameterException", &text);
        stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation("GetAuthorizationToken"));
        let run = stand.push("").env("AWS_SESSION_TOKEN", token).envs(&[mark]).run().await;
        assert_eq!(run.status, 1, "{}", run.stderr);
        run.hides(&[common::SECRET, token]);
        assert!(run.stderr.contains("refused *** and *** xxx") && run.stderr.len() < 20_000, "{}", run.stderr);
    }
}
