//! What the program is made of: by its own list, and by the rules for it.

use crate::parts;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
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
    let of_compilers = ["aws-lc", "glibc", "libgcc", "libzstd", "rust-std"].map(str::to_owned);
    assert_eq!(components, tree().into_iter().chain(of_compilers.clone()).collect());
    let lock = std::fs::read_to_string(parts::repository().join("Cargo.lock")).expect("Cargo.lock");
    for component in list("components") {
        if of_compilers.contains(&named(&component)) {
            // This machine builds for this target, so it knows the versions too.
            assert!(component["version"].is_string() && component["purl"].is_string(), "{component}");
            assert!(component["licenses"][0]["expression"].is_string(), "{component}");
            continue;
        }
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

/// The targets of what is shipped.
const TARGETS: &[&str] = &[
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
];

/// The notices: the numbers of the texts that each package or library has, by name and version, and the texts by number.
fn read_notices(text: &str) -> (BTreeMap<String, Vec<usize>>, BTreeMap<usize, &str>) {
    let (list, rest) = text.split_once("\n\nTexts\n").expect("two parts");
    let (_, list) = list.split_once("Packages and libraries\n\n").expect("a list");
    let entry = |line: &str| {
        let numbers = line.rsplit(" | ").next()?.split(' ').map(|number| number.parse().expect("a number")).collect();
        Some((line.split(" | ").next()?.to_owned(), numbers))
    };
    let entries = list.lines().filter(|line| !line.starts_with(' ')).filter_map(entry).collect();
    let rule = format!("\n{}\n[", "-".repeat(100));
    let numbered =
        |part| str::split_once(part, "]\n\n").map(|(number, text)| (number.parse().expect("a number"), text));
    (entries, rest.split(rule.as_str()).filter_map(numbered).collect())
}

#[test]
fn notices_hold_a_text_for_everything_in_the_bills_of_materials() {
    if !parts::programs(&["python3"]) {
        return;
    }
    let (is_right, text) = dependencies(&["notices"]);
    assert!(is_right, "{text}");
    let (entries, texts) = read_notices(&text);
    let used: BTreeSet<usize> = entries.values().flatten().copied().collect();
    assert_eq!(used, texts.keys().copied().collect(), "each text is of something, and each number has a text");
    assert!(texts.values().all(|text| text.trim().len() > 15), "no text is empty");
    let mut listed = BTreeSet::new();
    for target in TARGETS {
        let (is_right, bill) = dependencies(&["sbom", target]);
        assert!(is_right, "{bill}");
        let bill: Value = serde_json::from_str(&bill).expect("JSON");
        for component in bill["components"].as_array().expect("components") {
            let name = component["name"].as_str().expect("a name");
            if component["purl"].is_null() {
                // Our own crates, which LICENSE is for.
                assert!(name == "local-ecr" || name.starts_with("ecr-push"), "{component}");
                continue;
            }
            let version = component["version"].as_str().filter(|_| !["glibc", "libgcc"].contains(&name));
            let named = [name, version.unwrap_or_default()].join(" ").trim_end().to_owned();
            assert!(entries.get(&named).is_some_and(|numbers| !numbers.is_empty()), "{target}: {named} has no notice");
            listed.insert(named);
        }
    }
    assert_eq!(listed, entries.keys().cloned().collect(), "the notices list what is in a program, and nothing else");
    // What each of these has to be found in, whatever the generator thinks of it.
    for (name, says) in [
        ("aws-lc", "Copyright (c) 1998-2011 The OpenSSL Project"),
        ("aws-lc", "the fiat-crypto authors"),
        ("base64-simd", "Copyright (c) 2021 Nugine"),
        ("glibc", "GNU LESSER GENERAL PUBLIC LICENSE"),
        ("libgcc", "GCC RUNTIME LIBRARY EXCEPTION"),
        ("rust-std", "The Rust Project Developers"),
        ("rust-std", "hashbrown"),
        ("libzstd", "Meta Platforms"),
    ] {
        let entry = entries.iter().find(|(entry, _)| entry.split(' ').next() == Some(name));
        let numbers = entry.unwrap_or_else(|| panic!("{name} is not listed")).1;
        assert!(numbers.iter().any(|number| texts[number].contains(says)), "{name} does not say {says:?}");
    }
}

/// A package whose text is missing, or of another licence, ends the build, and so does a table that is out of date.
#[test]
fn notices_are_refused_where_a_text_is_missing() {
    if !parts::programs(&["python3"]) {
        return;
    }
    let script = "import runpy, sys; folder, change = sys.argv[1:]; sys.path.insert(0, folder); sys.dont_write_bytecode = True; \
                  import notices; exec(change); sys.argv = ['dependencies', 'notices']; \
                  runpy.run_path(folder + '/dependencies', run_name='__main__')";
    // Each pair is of a change and of what is said about it. All pairs of a list are tried at once, which takes seconds.
    let one = [
        ("del notices.WITHOUT_TEXT['vsimd']", "vsimd 0.8.0: no text of the licence `MIT`, it has none"),
        ("notices.WITHOUT_TEXT['bytes'] = '../LICENSE'", "bytes now brings LICENSE"),
        ("notices.WITHOUT_TEXT['gone'] = '../LICENSE'", "gone is not in any program"),
        ("notices.NOT_LINKED['zstd-sys'] = ['zstd/GONE']", "zstd-sys no longer has zstd/GONE"),
        ("del notices.MARKS['Zlib']", "no text of the licence `Zlib`"),
    ];
    let another = [
        ("notices.WITHOUT_TEXT['vsimd'] = '../LICENSE'", "no text of the licence `MIT`, its texts are of Apache-2.0"),
        ("del notices.C_LIBRARIES['zstd-sys']", "dist/dependencies: zstd-sys"),
        ("notices.C_LIBRARIES['bytes'] = ()", "does not say which C libraries it holds"),
    ];
    for faults in [&one[..], &another] {
        let changes: Vec<&str> = faults.iter().map(|(change, _)| *change).collect();
        let mut command = Command::new("python3");
        command.env("PATH", parts::path()).args(["-c", script]).arg(parts::repository().join("dist"));
        let output = command.arg(changes.join("\n")).output().expect("python3 starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        for (change, says) in faults {
            assert!(said.contains(says), "{change}: {said}");
        }
        // Cargo, which waits for its neighbours, indents what it says.
        let mut lines = said.lines().filter(|line| !line.is_empty() && !line.starts_with(' '));
        assert!(lines.all(|line| line.starts_with("dist/dependencies: ")), "{said}");
    }
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
