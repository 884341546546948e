//! The programs of others: where they are, and what happens when one is missing.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What every space is made of.
const SPACE: &[&str] = &["root", "unshare", "nsenter", "ip", "timeout", "bash"];

/// What every stack is made of, in a space.
const STACK: &[&str] = &["nginx", "docker-registry", "htpasswd", "moto_server", "aws"];

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The folder the `./test` script puts Python programs in.
fn installed() -> PathBuf {
    match std::env::var_os("ECR_PUSH_TEST_PARTS") {
        Some(folder) => folder.into(),
        None => repository().join("target/test-parts"),
    }
}

/// A program, script or folder of the npm packages of `npm/package.json`, such as `node20/bin/node`.
pub fn npm(path: &str) -> PathBuf {
    installed().join("node/node_modules").join(path)
}

/// The search path of every program that the tests start.
pub fn path() -> OsString {
    let mut folders = vec![installed().join("venv/bin")];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.extend(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    std::env::join_paths(folders).expect("a folder on PATH holds no colon")
}

/// Where a program is.
pub fn find(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Whether `part` is here. `root` stands for the right to make namespaces and to mount; `npm:NAME` for an npm package.
fn is_here(part: &str) -> bool {
    match part {
        "root" => std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
            status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
        }),
        package if package.starts_with("npm:") => npm(package.trim_start_matches("npm:")).exists(),
        program => find(program).is_some(),
    }
}

/// Whether the stack and all of `parts` are here. If not, says which are missing; the caller's test then ends.
///
/// # Panics
/// When a part is missing and `ECR_PUSH_REQUIRE_PARTS=1`.
pub fn present(parts: &[&str]) -> bool {
    programs(&[SPACE, STACK, parts].concat())
}

/// The same for a test that needs a space, and no stack.
///
/// # Panics
/// When a part is missing and `ECR_PUSH_REQUIRE_PARTS=1`.
pub fn space(parts: &[&str]) -> bool {
    programs(&[SPACE, parts].concat())
}

/// The same for a test that needs neither: whether all of `parts` are here.
///
/// # Panics
/// When a part is missing and `ECR_PUSH_REQUIRE_PARTS=1`.
pub fn programs(parts: &[&str]) -> bool {
    let missing: Vec<&str> = parts.iter().copied().filter(|part| !is_here(part)).collect();
    if missing.is_empty() {
        return true;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("SKIPPED {test}: {} not found\n", missing.join(", "));
    assert!(std::env::var("ECR_PUSH_REQUIRE_PARTS").as_deref() != Ok("1"), "{line}");
    // Not `eprint!`, which the test runner hides for a test that passes.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(log) = std::env::var_os("ECR_PUSH_SKIP_LOG") {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(log);
        let _ = log.and_then(|mut log| log.write_all(line.as_bytes()));
    }
    false
}
