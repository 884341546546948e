//! Running `ecr-push` and checking what it prints.

use crate::command::{Cmd, Outcome};
use crate::parts;
use crate::stack::{HOST, Keys, Stack};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The program under test: the one Cargo has just built, or another build of it, such as a static one.
pub fn program() -> PathBuf {
    match std::env::var_os("ECR_PUSH_TEST_PROGRAM") {
        Some(program) => program.into(),
        None => env!("CARGO_BIN_EXE_ecr-push").into(),
    }
}

/// A program of this workspace that Cargo puts beside `ecr-push`.
#[track_caller]
pub fn sibling(name: &str) -> PathBuf {
    let sibling = Path::new(env!("CARGO_BIN_EXE_ecr-push")).with_file_name(name);
    assert!(
        sibling.is_file(),
        "{} is missing: `cargo build --workspace` makes it, and ./test calls that",
        sibling.display()
    );
    sibling
}

/// The static build of the program, as it is shipped.
#[track_caller]
pub fn shipped() -> PathBuf {
    let platform = if cfg!(target_arch = "aarch64") { "linux-arm64" } else { "linux-x64" };
    let shipped = parts::repository().join("target/dist-bin").join(platform).join("ecr-push");
    assert!(shipped.is_file(), "{} is missing: dist/build makes it, and ./test calls that", shipped.display());
    shipped
}

/// `ecr-push` with keys, the stack's authority, and a home folder that no other run has used.
pub fn ecr_push(stack: &Stack, keys: &Keys) -> Cmd {
    static HOMES: AtomicU32 = AtomicU32::new(0);
    let home = stack.space.path(&format!("homes/{}", HOMES.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&home).expect("a home folder");
    stack.with_keys(stack.space.command(program()), keys).env("HOME", home)
}

/// `ecr-push push IMAGE` to a repository, with the stack's engine and an administrator's keys.
pub fn push(stack: &'static Stack, image: &str, repository: &str, tags: &[&str]) -> Cmd {
    to_repository(ecr_push(stack, &stack.admin).env("DOCKER_HOST", stack.engine().host()), image, repository, tags)
}

/// The words of a push, for a command that has none yet.
pub fn to_repository(command: Cmd, image: &str, repository: &str, tags: &[&str]) -> Cmd {
    let command = command.args(["push", image, "--repository", repository, "--region", "us-east-1"]);
    tags.iter().fold(command, |command, tag| command.args(["--tag", tag]))
}

/// Checks a successful push with `--output json`, and gives the digest it reports.
#[track_caller]
pub fn reported(outcome: Outcome, repository: &str, tags: &[&str]) -> String {
    let outcome = outcome.ok();
    let json = outcome.json();
    assert_eq!(json["registry_id"], "123456789012", "{outcome}");
    assert_eq!(json["region"], "us-east-1", "{outcome}");
    let printed: Vec<&str> = json["tags"].as_array().expect("tags").iter().filter_map(|tag| tag.as_str()).collect();
    assert_eq!(printed, tags, "{outcome}");
    assert!(json["uri"].as_str().is_some_and(|uri| uri.starts_with(&format!("{HOST}/{repository}"))), "{outcome}");
    assert!(json["layers"].is_array(), "{outcome}");
    let digest = json["digest"].as_str().unwrap_or_default().to_owned();
    assert!(digest.len() == 71 && digest.starts_with("sha256:"), "{outcome}");
    digest
}
