//! The GitLab component: the pipeline on its page as it stands, run by gitlab-ci-local.

use crate::command::{Cmd, Outcome};
use crate::pages::{self, JWT, ROLE, in_job};
use crate::parts;
use crate::stack::{HOST, Stack};
use crate::verify::pull_with_skopeo;
use serde_json::Value;
use std::path::Path;

const PARTS: &[&str] =
    &["dockerd", "docker", "skopeo", "git", "rsync", "npm:node24/bin/node", "npm:js-yaml", "npm:gitlab-ci-local"];

/// The pipeline on the page, with other values of inputs.
fn pipeline(inputs: &[(&str, &str)]) -> String {
    let mut page = pages::blocks("gitlab/README.md", "yaml").remove(0);
    for (name, value) in inputs {
        let line = page.lines().find(|line| line.trim_start().starts_with(&format!("{name}: "))).expect("the input");
        page = page.replace(line, &format!("      {name}: {value}"));
    }
    page
}

/// `git` and what uses it, with the component's project in the place of `gitlab.example`.
fn with_git(command: Cmd, projects: &Path) -> Cmd {
    let base = format!("url.file://{}/OWNER/ecr-push.git.insteadOf", projects.display());
    let settings = [
        (base.as_str(), "https://gitlab.example/OWNER/ecr-push.git"),
        ("user.name", "t"),
        ("user.email", "t@example.com"),
        ("init.defaultBranch", "main"),
        ("uploadpack.allowFilter", "true"),
        ("advice.detachedHead", "false"),
    ];
    let command = command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    settings.iter().enumerate().fold(command, |command, (number, (key, value))| {
        command.env(&format!("GIT_CONFIG_KEY_{number}"), key).env(&format!("GIT_CONFIG_VALUE_{number}"), value)
    })
}

/// A repository with everything in the folder, and a tag.
fn commit(stack: &'static Stack, folder: &Path, projects: &Path, remote: &str) {
    let script = "git init -q && git remote add origin \"$0\" && git add -A && git commit -q -m start && git tag 0.1.0";
    with_git(in_job(stack, folder, &["bash", "-c", script, remote]), projects).run().ok();
}

/// Runs a pipeline in a project of its own.
fn run(stack: &'static Stack, folder: &Path, pipeline: &str, variables: &[(&str, &str)]) -> Outcome {
    let projects = folder.join("projects");
    let component = projects.join("OWNER/ecr-push.git");
    std::fs::create_dir_all(component.join("templates")).expect("a folder");
    let template = pages::file("gitlab/templates/ecr-push.yml");
    std::fs::copy(template, component.join("templates/ecr-push.yml")).expect("a copy");
    commit(stack, &component, &projects, "https://gitlab.example/OWNER/ecr-push.git");

    let project = folder.join("project");
    pages::put_image(&project);
    let put = |name: &str, content: &[u8]| std::fs::write(project.join(name), content).expect("a file");
    put(".gitlab-ci.yml", pipeline.as_bytes());
    put(".gitignore", b".gitlab-ci-local\n");
    commit(stack, &project, &projects, "https://gitlab.example/team/app.git");
    let node = parts::npm("node24/bin/node");
    let command = in_job(stack, &project, &[&node.to_string_lossy()]).arg(parts::npm("gitlab-ci-local/dist/index.js"));
    // Isolated jobs share nothing but artifacts.
    let command = command.args(["--force-shell-executor", "--shell-isolation", "--timestamps=false"]);
    let command = variables
        .iter()
        .fold(command, |command, (name, value)| command.args(["--variable", &format!("{name}={value}")]));
    with_git(command, &projects).run()
}

#[test]
fn the_pipeline_of_the_page_pushes_and_a_later_job_reads_the_variables() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    let page = pipeline(&[("repository", "gitlab/component")]);
    // gitlab-ci-local gives no ID tokens.
    let outcome = run(stack, folder.path(), &page, &[("ECR_PUSH_ID_TOKEN", JWT)]).ok();
    let digest = pull_with_skopeo(stack, "gitlab/component:latest").digest;
    let lines = outcome.lines();
    let told = lines.iter().find(|line| line.contains("has the digest sha256:")).expect("the job `release`");
    let tag = told.split("gitlab/component:").nth(1).and_then(|rest| rest.split(' ').next()).expect("a tag");
    assert!(told.contains(&format!("{HOST}/gitlab/component:{tag} has the digest {digest}")), "{outcome}");
    assert_eq!(pull_with_skopeo(stack, &format!("gitlab/component:{tag}")).digest, digest);
    // The section's marks are read as such, and the token is seen by nobody.
    assert!(outcome.stderr.contains("ecr_push took") && !outcome.stderr.contains("section_start"), "{outcome}");
    assert!(outcome.stderr.contains("subject repo:o/r:ref:refs/heads/main"), "{outcome}");
    outcome.hides(JWT);
    let arguments = std::fs::read_to_string(folder.path().join("bin/arguments")).expect("the arguments");
    assert!(arguments.contains("ECR_PUSH_ID_TOKEN") && !arguments.contains(JWT), "{arguments}");
}

#[test]
fn without_a_role_the_jobs_variables_have_the_keys() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    let page = pipeline(&[("repository", "gitlab/keys"), ("role-arn", "''"), ("tags", "v1")]);
    let keys = [("AWS_ACCESS_KEY_ID", stack.admin.id.as_str()), ("AWS_SECRET_ACCESS_KEY", &stack.admin.secret)];
    let outcome = run(stack, folder.path(), &page, &keys).ok().hides(&stack.admin.secret);
    let digest = pull_with_skopeo(stack, "gitlab/keys:v1").digest;
    assert!(outcome.stdout.contains(&format!("{HOST}/gitlab/keys:v1 has the digest {digest}")), "{outcome}");
}

#[test]
fn a_push_that_fails_ends_the_pipeline() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    let page = pipeline(&[("repository", "gitlab/missing"), ("create-repository", "false")]);
    let outcome = run(stack, folder.path(), &page, &[("ECR_PUSH_ID_TOKEN", JWT)]).exit(1);
    assert!(outcome.stderr.contains("--create-repository"), "{outcome}");
    assert!(!outcome.stdout.contains("has the digest"), "the job `release` ran\n{outcome}");
}

/// The component's job, as YAML.
fn component(stack: &'static Stack) -> Value {
    let text = std::fs::read_to_string(pages::file("gitlab/templates/ecr-push.yml")).expect("the component");
    pages::yaml(stack, &text)
}

#[test]
fn the_page_knows_every_input_and_none_is_part_of_the_script() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let documents = component(stack);
    let page = std::fs::read_to_string(pages::file("gitlab/README.md")).expect("the page");
    let inputs = documents[0]["spec"]["inputs"].as_object().expect("inputs");
    let used = documents[1].to_string();
    for (name, input) in inputs {
        let default = match &input["default"] {
            Value::String(text) if text.is_empty() => String::new(),
            Value::Null => "required".to_owned(),
            Value::Bool(value) => format!("`{value}`"),
            value => format!("`{}`", value.as_str().expect("a text")),
        };
        let line = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).expect("a line of the table");
        assert!(line.contains(&default), "{line}");
        assert!(used.contains(&format!("$[[ inputs.{name} ]]")), "{name}");
    }
    let job = documents[1].as_object().and_then(|jobs| jobs.values().next()).expect("a job");
    assert!(!job["script"].to_string().contains("$[["), "{job}");
    assert_eq!(job["id_tokens"]["ECR_PUSH_ID_TOKEN"]["aud"], "$[[ inputs.audience ]]");
    assert_eq!(job["artifacts"]["reports"]["dotenv"], "ecr-push.env");
}

#[test]
fn values_stay_words_in_every_shell() {
    let Some(stack) = Stack::guarded(&[PARTS, &["dash"]].concat()) else {
        return;
    };
    let documents = component(stack);
    let job = documents[1].as_object().and_then(|jobs| jobs.values().next()).expect("a job");
    let script = job["script"][0].as_str().expect("a script");
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    let project = folder.path().join("project");
    // With a file that `*` would find.
    pages::put_image(&project);
    let names: Vec<&str> = job["variables"]
        .as_object()
        .expect("variables")
        .keys()
        .map(|name| name.strip_prefix("ECR_PUSH_INPUT_").expect("an input's variable"))
        .collect();
    // In the place of ecr-push, what shows its words.
    pages::put_program(&folder.path().join("bin/ecr-push"), "#!/bin/sh\nprintf '[%s]\\n' \"$@\"\nexit 3\n");
    for shell in ["dash", "bash"] {
        let run = |values: &[(&str, &str)]| {
            let mut command = in_job(stack, &project, &[shell, "-e", "-c", script]);
            for name in &names {
                let value = values.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value);
                command = command.env(&format!("ECR_PUSH_INPUT_{name}"), value);
            }
            command.run()
        };
        // Status and words of the program are the script's.
        let words = |values: &[(&str, &str)]| run(values).exit(3).stdout;
        let plain = words(&[("IMAGE", "app"), ("REPOSITORY", "team/app"), ("TAGS", "*, b,c"), ("CREATE", "false")]);
        let expected = [
            "push",
            "--repository",
            "team/app",
            "--output-file",
            "ecr-push.env",
            "--tag",
            "*",
            "--tag",
            "b",
            "--tag",
            "c",
            "--",
            "app",
        ];
        assert_eq!(plain.lines().map(|line| line[1..line.len() - 1].to_owned()).collect::<Vec<_>>(), expected);
        let hostile = "-x '$(touch trap)' `touch trap` \" ; touch trap";
        let all = words(&[
            ("IMAGE", hostile),
            ("REPOSITORY", hostile),
            ("REGION", hostile),
            ("ROLE", ROLE),
            ("SESSION", hostile),
            ("CREATE", "true"),
            ("PLATFORM", hostile),
            ("ATTESTATIONS", hostile),
            ("COMPRESSION", hostile),
            ("REUSE", hostile),
            ("CACHE_DIR", hostile),
            ("REUSE_FROM", "*, $(touch trap)"),
            ("MOUNT_FROM", "team/base,team/*"),
        ]);
        assert_eq!(all.matches(&format!("[{hostile}]\n")).count(), 9, "{all}");
        let lists = "[--reuse-from]\n[*]\n[--reuse-from]\n[$(touch]\n[--reuse-from]\n[trap)]\n[--mount-from]\n[team/base]\n\
                     [--mount-from]\n[team/*]\n";
        assert!(all.contains(lists), "{all}");
        // Separators alone are no tag, and `latest` is not what was meant.
        for tags in [",", " , ,"] {
            let refused = run(&[("IMAGE", "app"), ("REPOSITORY", "team/app"), ("TAGS", tags)]).exit(2);
            assert!(refused.stdout.is_empty() && refused.stderr.contains("holds separators and no tag"), "{refused}");
        }
        assert!(all.contains("[--web-identity-token-env]\n[ECR_PUSH_ID_TOKEN]\n[--create-repository]\n"), "{all}");
        assert!(!project.join("trap").exists());
    }
}
