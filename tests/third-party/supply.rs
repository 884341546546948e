//! What the program is made of: by its own list, and by the rules for it.

use crate::parts;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn dependencies(words: &[&str]) -> (bool, String) {
    let mut command = Command::new("python3");
    command.arg(parts::repository().join("dist/dependencies")).args(words).env("PATH", parts::path());
    let output = command.output().expect("python3 starts");
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The packages that Cargo says are linked into the program.
fn tree() -> BTreeSet<String> {
    let mut command = Command::new("cargo");
    command.current_dir(parts::repository()).args(["tree", "--locked", "-p", "ecr-push-cli", "--prefix", "none"]);
    command.args(["-e", "normal,no-proc-macro", "--target", "x86_64-unknown-linux-gnu", "--format", "{p}"]);
    let output = command.output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words = |line: &str| {
        let mut words = line.split_whitespace();
        Some(format!("{}@{}", words.next()?, words.next()?.trim_start_matches('v')))
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(words).collect()
}

#[test]
fn licences_bans_and_sources_are_as_they_should_be() {
    if !parts::programs(&["python3"]) {
        return;
    }
    let (is_right, said) = dependencies(&["check"]);
    assert!(is_right, "{said}");
    if parts::find("cargo-deny").is_some() {
        let mut command = Command::new("cargo-deny");
        command.env("PATH", parts::path()).current_dir(parts::repository());
        let output = command.args(["--workspace", "check", "bans", "licenses", "sources"]).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_bill_of_materials_names_what_is_linked_and_nothing_else() {
    if !parts::programs(&["python3"]) {
        return;
    }
    let (is_right, text) = dependencies(&["sbom", "x86_64-unknown-linux-gnu"]);
    assert!(is_right, "{text}");
    let bill: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let list = |name: &str| bill[name].as_array().cloned().unwrap_or_default();
    let named = |entry: &Value| entry["bom-ref"].as_str().unwrap_or_default().to_owned();
    let mut components: BTreeSet<String> = list("components").iter().map(named).collect();
    components.insert(named(&bill["metadata"]["component"]));
    assert_eq!(components, tree());
    let lock = std::fs::read_to_string(parts::repository().join("Cargo.lock")).expect("Cargo.lock");
    for component in list("components") {
        let Some(hash) = component["hashes"][0]["content"].as_str() else {
            assert!(component["purl"].is_null(), "only our own have no checksum: {component}");
            continue;
        };
        assert!(lock.contains(hash) && component["licenses"][0]["expression"].is_string(), "{component}");
    }
    let refs: BTreeSet<String> =
        list("dependencies").iter().map(|entry| entry["ref"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(refs, components, "each has its dependencies");
}

/// The compiler is found under another name; another compiler is not taken for it.
#[test]
fn the_pinned_compiler_is_found_under_any_name() {
    if !parts::programs(&["rustup"]) {
        return;
    }
    let script = parts::repository().join("dist/toolchain");
    let toolchain = |home: Option<&Path>, words: &[&str]| {
        let mut command = Command::new(&script);
        command.args(words).env("PATH", parts::path()).env_remove("RUSTUP_TOOLCHAIN");
        if let Some(home) = home {
            command.env("RUSTUP_HOME", home);
        }
        let output = command.output().expect("it starts");
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
    };
    let (_, pinned) = toolchain(None, &["--version"]);
    let workspace = std::fs::read_to_string(parts::repository().join("Cargo.toml")).expect("Cargo.toml");
    let minor = pinned.rsplit_once('.').expect("a version of three numbers").0;
    assert!(
        workspace.contains(&format!("rust-version = \"{minor}\"")),
        "{pinned} is not the rust-version of Cargo.toml"
    );
    let (is_found, name) = toolchain(None, &[]);
    assert!(is_found, "{name}");
    let root = Command::new("rustup").args(["run", &name, "rustc", "--print", "sysroot"]).output().expect("it starts");
    let root = String::from_utf8_lossy(&root.stdout).trim().to_owned();
    let home = tempfile::tempdir().expect("a folder");
    let toolchains = home.path().join("toolchains");
    std::fs::create_dir_all(&toolchains).expect("a folder");
    std::fs::write(home.path().join("settings.toml"), "version = \"12\"\n").expect("a file");
    std::os::unix::fs::symlink(root, toolchains.join("another")).expect("a link");
    assert_eq!(toolchain(Some(home.path()), &[]), (true, "another".to_owned()));
    std::fs::remove_file(toolchains.join("another")).expect("the link");
    let (is_found, said) = toolchain(Some(home.path()), &[]);
    assert!(!is_found && said.contains(&format!("rustup toolchain install {pinned}")), "{said}");
}

/// The fuzz targets are a workspace of their own, which is not built here: that takes minutes. What they are built with must be what the
/// program is built with, or they do not build at all.
#[test]
fn the_fuzz_targets_are_built_with_what_the_program_is_built_with() {
    let metadata = |manifest: &str| -> Value {
        let mut command = Command::new("cargo");
        command.current_dir(parts::repository()).args(["metadata", "--format-version", "1", "--no-deps", "--locked"]);
        let output = command.args(["--manifest-path", manifest]).output().expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let needed = |metadata: &Value, package: &str| -> BTreeSet<(String, String)> {
        let packages = metadata["packages"].as_array().expect("packages");
        let package = packages.iter().find(|entry| entry["name"] == package).expect("the package");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        let normal = dependencies.filter(|entry| entry["kind"].is_null() && entry["path"].is_null());
        normal.map(|entry| (text(&entry["name"]), text(&entry["req"]))).collect()
    };
    let program = needed(&metadata("Cargo.toml"), "ecr-push-cli");
    let mut fuzzed = needed(&metadata("fuzz/Cargo.toml"), "ecr-push-fuzz");
    assert!(program.len() > 10, "{program:?}");
    fuzzed.retain(|(name, _)| name != "libfuzzer-sys");
    assert_eq!(fuzzed, program, "fuzz/Cargo.toml against crates/ecr-push-cli/Cargo.toml");
    let locked = |file: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(parts::repository().join(file)).expect("a lock file");
        let checksums = text.lines().filter(|line| line.starts_with("checksum"));
        checksums.map(str::to_owned).collect()
    };
    let more: Vec<String> = locked("fuzz/Cargo.lock").difference(&locked("Cargo.lock")).cloned().collect();
    // libfuzzer-sys, and arbitrary, which it needs.
    assert_eq!(more.len(), 2, "fuzz/Cargo.lock has other versions than Cargo.lock: {more:?}");
}
