//! The pages of CI systems that need no integration: the scripts in them, run as a shell with that system's variables.

use crate::command::{Cmd, Outcome};
use crate::pages::{self, JWT, ROLE, in_job, yaml};
use crate::stack::{HOST, Stack};
use crate::verify::pull_with_skopeo;
use serde_json::Value;
use std::path::PathBuf;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo", "npm:node24/bin/node", "npm:js-yaml"];

/// A job's folder with something to build.
struct Job {
    stack: &'static Stack,
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

impl Job {
    fn new(stack: &'static Stack, variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
        pages::put_image(&folder.path().join("workspace"));
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { stack, folder, variables }
    }

    fn workspace(&self) -> PathBuf {
        self.folder.path().join("workspace")
    }

    fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    fn command(&self, words: &[&str]) -> Cmd {
        let command = in_job(self.stack, &self.workspace(), words);
        self.variables.iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// Nothing that the job has left behind, and no argument, holds one of `secrets`.
    #[track_caller]
    fn hides(&self, secrets: &[&str]) {
        pages::hold_no_secret(self.folder.path(), secrets, &["meta/token"]);
    }

    /// The last step's line names what was pushed.
    #[track_caller]
    fn says(&self, outcome: &Outcome, repository: &str, tag: &str) -> String {
        let digest = pull_with_skopeo(self.stack, &format!("{repository}:{tag}")).digest;
        let line = format!("{HOST}/{repository}:{tag} has the digest {digest}");
        assert!(outcome.lines().contains(&line.as_str()), "{line}\n{outcome}");
        digest
    }
}

/// A text of a page with the repository of this test.
#[track_caller]
fn with_repository(text: &str, repository: &str) -> String {
    assert!(text.contains("team/app"), "{text}");
    text.replace("team/app", repository)
}

/// A page says that it did not run on its system.
#[track_caller]
fn is_honest(page: &str, says: &str) {
    let text = std::fs::read_to_string(pages::file(page)).expect("a page");
    assert!(text.contains("## What was tried") && text.contains(says), "{page}");
}

#[test]
fn jenkins() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    is_honest("jenkins/README.md", "None of this was run in Jenkins.");
    let blocks = pages::blocks("jenkins/README.md", "groovy");
    let pipeline = with_repository(&blocks[0], "snippets/jenkins");
    let scripts = quoted(&pipeline);
    assert_eq!(scripts.len(), 3, "{scripts:?}");
    assert!(pipeline.contains("AWS_REGION = 'us-east-1'"));
    let variables = [
        ("JENKINS_URL", "http://jenkins.example/"),
        ("BUILD_NUMBER", "41"),
        ("BUILD_TAG", "jenkins-app-41"),
        ("JOB_NAME", "app"),
        ("AWS_REGION", "us-east-1"),
    ];
    let mut job = Job::new(stack, &variables);
    job.command(&["sh", "-xe", "-c", &scripts[0]]).run().ok();
    // withCredentials sets both for its block alone.
    let push = job.command(&["sh", "-xe", "-c", &scripts[1]]);
    let push = push.env("AWS_ACCESS_KEY_ID", &stack.admin.id).env("AWS_SECRET_ACCESS_KEY", &stack.admin.secret);
    let outcome = push.run().ok().hides(&stack.admin.secret);
    assert!(!outcome.stderr.contains('\u{1b}'), "a log of lines\n{outcome}");
    let digest = pull_with_skopeo(stack, "snippets/jenkins:41").digest;
    assert_eq!(pull_with_skopeo(stack, "snippets/jenkins:latest").digest, digest);
    let properties = std::fs::read_to_string(job.workspace().join("ecr-push.properties")).expect("the file");
    let uri = properties.lines().find_map(|line| line.strip_prefix("uri=")).expect("the property `uri`").to_owned();
    assert_eq!(uri, format!("{HOST}/snippets/jenkins@{digest}"));
    job.set("IMAGE", &uri);
    assert_eq!(job.command(&["sh", "-xe", "-c", &scripts[2]]).run().ok().lines(), [format!("deploying {uri}")]);

    job.hides(&[&stack.admin.secret]);

    // The other way to the result.
    let other = with_repository(&blocks[1], "snippets/jenkins").replace("app:1 ", "app:41 ");
    let script = other.split_once("script: '").and_then(|(_, rest)| rest.split_once('\'')).expect("a script").0;
    let push = job.command(&["sh", "-xe", "-c", script]);
    let push = push.env("AWS_ACCESS_KEY_ID", &stack.admin.id).env("AWS_SECRET_ACCESS_KEY", &stack.admin.secret);
    assert_eq!(push.run().ok().stdout.trim(), format!("{HOST}/snippets/jenkins:1"));
}

/// The scripts of the `sh` steps of a pipeline, with Groovy's escapes undone.
fn quoted(pipeline: &str) -> Vec<String> {
    let mut rest = pipeline;
    let mut found = Vec::new();
    while let Some(at) = rest.find("sh '") {
        let text = &rest[at + 3..];
        let mark = if text.starts_with("'''") { "'''" } else { "'" };
        let (script, after) = text[mark.len()..].split_once(mark).expect("the end of a script");
        // A backslash before a line's end joins lines in Groovy as it does in the shell.
        found.push(script.replace("\\\n", ""));
        rest = after;
    }
    found
}

#[test]
fn circleci() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    is_honest("circleci/README.md", "None of this was run on CircleCI.");
    let page = &pages::blocks("circleci/README.md", "yaml")[0];
    let config = yaml(stack, &with_repository(page, "snippets/circleci"));
    let push = &config["jobs"]["push"];
    let sha = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567";
    let mut job = Job::new(
        stack,
        &[
            ("CI", "true"),
            ("CIRCLECI", "true"),
            ("CIRCLE_SHA1", sha),
            ("CIRCLE_BUILD_NUM", "17"),
            ("CIRCLE_OIDC_TOKEN_V2", JWT),
            ("ECR_PUSH_ROLE", ROLE),
        ],
    );
    let bash_env = job.folder.path().join("bash_env").display().to_string();
    std::fs::write(&bash_env, "export BEFORE=1\n").expect("a file");
    job.set("BASH_ENV", &bash_env);
    for (name, value) in push["environment"].as_object().expect("variables") {
        job.set(name, value.as_str().expect("a text"));
    }
    let steps: Vec<&str> = commands(&push["steps"]);
    let mut last = None;
    for command in &steps {
        last = Some(job.command(&["bash", "-eo", "pipefail", "-c", command]).run().ok().hides(JWT));
    }
    job.says(&last.expect("steps"), "snippets/circleci", sha);
    job.hides(&[JWT]);
    let kept = std::fs::read_to_string(bash_env).expect("the file");
    assert!(kept.starts_with("export BEFORE=1\n") && kept.lines().all(|line| line.starts_with("export ")), "{kept}");
    // A push that fails ends its step.
    job.set("ECR_PUSH_ROLE", "no role");
    job.command(&["bash", "-eo", "pipefail", "-c", steps[1]]).run().exit(2);
}

/// The commands of CircleCI's `run` steps.
#[track_caller]
fn commands(steps: &Value) -> Vec<&str> {
    let steps = steps.as_array().expect("steps").iter();
    let found: Vec<&str> = steps.filter_map(|step| step["run"]["command"].as_str()).collect();
    assert_eq!(found.len(), 3);
    found
}

/// In the place of Buildkite's own program: meta-data in files, and a token.
const BUILDKITE_AGENT: &str = r#"#!/bin/bash
set -eu
echo "$*" >>"$META/calls"
case $1-$2 in
  oidc-request-token) cat "$META/token" ;;
  meta-data-set) [ -n "$4" ] && printf %s "$4" >"$META/$3" ;;
  meta-data-get) cat "$META/$3" ;;
  annotate-*) cat >"$META/annotation" ;;
  *) exit 1 ;;
esac
"#;

#[test]
fn buildkite() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    is_honest("buildkite/README.md", "None of this was run on Buildkite.");
    let page = &pages::blocks("buildkite/README.md", "yaml")[0];
    // As `buildkite-agent pipeline upload` does; a single `$` would be its own.
    assert!(!page.replace("$$", "").contains('$'), "{page}");
    let pipeline = yaml(stack, &with_repository(page, "snippets/buildkite").replace("$$", "$"));
    let mut job = Job::new(
        stack,
        &[
            ("CI", "true"),
            ("BUILDKITE", "true"),
            ("BUILDKITE_BUILD_NUMBER", "23"),
            ("BUILDKITE_JOB_ID", "0190-4711"),
            ("ECR_PUSH_ROLE", ROLE),
        ],
    );
    pages::put_program(&job.folder.path().join("bin/buildkite-agent"), BUILDKITE_AGENT);
    let meta = job.folder.path().join("meta");
    std::fs::create_dir_all(&meta).expect("a folder");
    std::fs::write(meta.join("token"), JWT).expect("a file");
    job.set("META", &meta.display().to_string());
    for (name, value) in pipeline["env"].as_object().expect("variables") {
        job.set(name, value.as_str().expect("a text"));
    }
    let steps = pipeline["steps"].as_array().expect("steps");
    let script = |number: usize| steps[number]["command"].as_str().expect("a script");
    assert_eq!(steps.len(), 2);
    let pushed = job.command(&["bash", "-e", "-c", script(0)]).run().ok().hides(JWT);
    assert!(pushed.stderr.lines().any(|line| line.starts_with("--- ")), "a group\n{pushed}");
    let used = job.command(&["bash", "-e", "-c", script(1)]).run().ok();
    let digest = job.says(&used, "snippets/buildkite", "23");
    job.hides(&[JWT]);
    let read = |name: &str| std::fs::read_to_string(meta.join(name)).expect("a file");
    assert!(read("calls").starts_with("oidc request-token --audience sts.amazonaws.com\n"), "{}", read("calls"));
    assert_eq!(read("annotation"), format!("Pushed `{HOST}/snippets/buildkite:23`, digest `{digest}`\n"));
    assert!(!read("calls").contains(JWT));
    // No token: the step ends before the push.
    std::fs::remove_file(meta.join("token")).expect("the token");
    std::fs::remove_file(meta.join("image")).expect("the result");
    job.command(&["bash", "-e", "-c", script(0)]).run().exit(1);
    assert!(!meta.join("image").exists());
}

#[test]
fn plain_shell() {
    let Some(stack) = Stack::guarded(&[PARTS, &["dash"]].concat()) else {
        return;
    };
    let script = pages::blocks("shell/README.md", "sh").remove(0);
    for shell in ["dash", "bash"] {
        let repository = format!("snippets/{shell}");
        let keys = [("AWS_ACCESS_KEY_ID", stack.admin.id.as_str()), ("AWS_SECRET_ACCESS_KEY", &stack.admin.secret)];
        let job = Job::new(stack, &keys);
        let outcome = job.command(&[shell, "-c", &with_repository(&script, &repository)]).run().ok();
        let outcome = outcome.hides(&stack.admin.secret);
        let digest = job.says(&outcome, &repository, "1.4");
        job.hides(&[&stack.admin.secret]);
        assert_eq!(pull_with_skopeo(stack, &format!("{repository}:latest")).digest, digest);
        let lines = outcome.lines();
        assert!(lines.contains(&format!("pushed {HOST}/{repository}:1.4").as_str()), "{outcome}");
        let last = lines.last().expect("a line");
        assert!(last.starts_with("not pushed: error: ") && last.contains("team/no-such-repository"), "{outcome}");
        let log = std::fs::read_to_string(job.workspace().join("push.log")).expect("the log");
        assert_eq!(log.lines().filter(|line| line.starts_with("error:")).count(), 1, "{log}");
    }
}
