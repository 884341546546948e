//! What a release holds, put together from stand-ins for programs as the jobs of the release workflow do it.

use crate::parts;
use crate::space::Space;
use crate::vsix::{build, header};
use crate::workflow::{release, steps};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const PLATFORMS: [&str; 5] = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "win32-x64"];

fn suffix(platform: &str) -> &str {
    if platform == "win32-x64" { ".exe" } else { "" }
}

/// Runs `dist/release`, and gives what it says: nothing, or a sentence.
pub fn run(words: &[&str], folder: &Path) -> Result<(), String> {
    let mut command = Command::new("python3");
    command.arg(parts::repository().join("dist/release")).args(words).current_dir(folder).env("PATH", parts::path());
    let output = command.output().expect("python3 starts");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    if said.is_empty() { Ok(()) } else { Err(said) }
}

#[track_caller]
fn refused(words: &[&str], folder: &Path, says: &str) {
    let said = run(words, folder).expect_err("it is refused");
    assert!(said.starts_with("dist/release: ") && said.contains(says) && said.lines().count() == 1, "{said}");
}

/// What the builds of all platforms leave, in `folder/bin`, and what the jobs make of it, in `folder/release`.
pub fn built(folder: &Path, program: impl Fn(&str) -> Vec<u8>) {
    for platform in PLATFORMS {
        let bin = folder.join("bin").join(platform);
        std::fs::create_dir_all(&bin).expect("a folder");
        let name = format!("ecr-push{}", suffix(platform));
        std::fs::write(bin.join(&name), program(platform)).expect("a file");
        std::fs::write(bin.join(format!("{name}.cdx.json")), format!("{{\"for\": \"{platform}\"}}")).expect("a file");
        std::fs::write(bin.join("THIRD-PARTY-NOTICES.txt"), "the same for all").expect("a file");
        run(&["platform", platform, "release", "--bin", "bin"], folder).expect("it is put together");
    }
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn listed(folder: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files.map(|entry| entry.file_name().into_string().expect("a name")).collect()
}

#[test]
fn archive_holds_the_program_and_the_licences() {
    if !parts::programs(&["python3", "tar"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    built(folder.path(), header);
    let output = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).current_dir(folder.path()).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let inside = format!("ecr-push-{}-linux-x64", version());
    let list = output(&["tar", "--list", "--verbose", "--file", &format!("release/{inside}.tar.gz")]);
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", words[0], words[words.len() - 1].trim_start_matches(&inside))
    };
    let entries: Vec<String> = list.lines().map(entry).collect();
    let files = ["/ecr-push.cdx.json", "/THIRD-PARTY-NOTICES.txt", "/LICENSE", "/README.md"];
    let expected = [vec!["-rwxr-xr-x /ecr-push".to_owned()], files.map(|file| format!("-rw-r--r-- {file}")).to_vec()];
    assert_eq!(entries, expected.concat());
    let unpacked =
        |name: &str| output(&["tar", "-xOf", &format!("release/{inside}.tar.gz"), &format!("{inside}/{name}")]);
    let licence = std::fs::read_to_string(parts::repository().join("LICENSE")).expect("the licence");
    assert_eq!((unpacked("LICENSE"), unpacked("THIRD-PARTY-NOTICES.txt")), (licence, "the same for all".to_owned()));
    let zip = output(&["python3", "-m", "zipfile", "-l", &format!("release/ecr-push-{}-win32-x64.zip", version())]);
    for name in ["ecr-push.exe ", "ecr-push.exe.cdx.json ", "LICENSE ", "README.md ", "THIRD-PARTY-NOTICES.txt "] {
        assert!(zip.contains(&format!("ecr-push-{}-win32-x64/{name}", version())), "{name}: {zip}");
    }
    // The same files make the same archives.
    let again = tempfile::tempdir().expect("a folder");
    built(again.path(), header);
    for name in listed(&folder.path().join("release")) {
        let read = |folder: &Path| std::fs::read(folder.join("release").join(&name)).expect("a file");
        assert!(read(folder.path()) == read(again.path()), "{name}");
    }
}

#[test]
fn release_of_other_files_is_refused() {
    if !parts::programs(&["python3"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    refused(&["platform", "linux-x64", "release", "--bin", "bin"], folder.path(), "bin/linux-x64/ecr-push is missing");
    refused(&["platform", "linux-x86", "release"], folder.path(), "linux-x86 is not one of linux-x64, ");
    built(folder.path(), header);
    for needed in ["ecr-push", "ecr-push.cdx.json", "THIRD-PARTY-NOTICES.txt"] {
        let file = at("bin/linux-x64").join(needed);
        std::fs::rename(&file, at("aside")).expect("a move");
        refused(&["platform", "linux-x64", "release", "--bin", "bin"], folder.path(), &format!("{needed} is missing"));
        std::fs::rename(at("aside"), &file).expect("a move");
    }
    // What happens to a file between the jobs, and what is said of it in both jobs that come after.
    let archive = format!("release/ecr-push-{}-darwin-x64.tar.gz", version());
    let sums = std::fs::read_to_string(at("release/SHA256SUMS-win32-x64")).expect("the checksums");
    let faults: [(&str, Option<&str>, &str); 7] = [
        ("release/ecr-push-linux-x64", Some("changed"), "ecr-push-linux-x64 is not what was built"),
        ("release/ecr-push-win32-x64.exe.cdx.json", Some("{}"), "cdx.json is not what was built"),
        (&archive, None, "darwin-x64.tar.gz is missing"),
        ("release/SHA256SUMS-linux-arm64", None, "dist/release platform linux-arm64 makes it"),
        ("release/SHA256SUMS-linux-arm64", Some(&sums), "SHA256SUMS-linux-arm64 does not list "),
        ("release/SHA256SUMS-darwin-x64", Some("no checksum"), "SHA256SUMS-darwin-x64 does not list "),
        ("release/ecr-push-linux-x86", Some("more"), "holds ecr-push-linux-x86, which no build has made"),
    ];
    for (file, becomes, says) in faults {
        let before = std::fs::read(at(file)).ok();
        match becomes {
            Some(text) => std::fs::write(at(file), text).expect("a file"),
            None => std::fs::remove_file(at(file)).expect("a file"),
        }
        refused(&["programs", "release", "laid-out"], folder.path(), says);
        refused(&["whole", "release"], folder.path(), says);
        match before {
            Some(bytes) => std::fs::write(at(file), bytes).expect("a file"),
            None => std::fs::remove_file(at(file)).expect("a file"),
        }
    }
    assert!(!at("laid-out").exists() && !at("release/SHA256SUMS").exists());
    refused(&["whole", "release"], folder.path(), "holds 0 extensions, not 3");
    // Two commits.
    std::fs::write(at("bin/win32-x64/THIRD-PARTY-NOTICES.txt"), "of another commit").expect("a file");
    run(&["platform", "win32-x64", "release", "--bin", "bin"], folder.path()).expect("it is put together");
    refused(&["programs", "release", "laid-out"], folder.path(), "they were not built from one commit");
}

/// From the programs to the release, with the workflow's own last step. `gh` is a script.
#[test]
fn what_is_attached_is_what_was_built() {
    let needs = ["python3", "npm:tfx-cli", "npm:node20", "npm:node24", "npm:js-yaml", "sha256sum"];
    if !parts::space(&needs) {
        return;
    }
    let space = Space::new("release");
    let folder = space.folder();
    built(folder, header);
    run(&["programs", "release", "laid-out"], folder).expect("the programs are right");
    let script = parts::repository().join("integrations/azure-pipelines/build");
    let extensions = build(&space, script).arg("--bin").arg(space.path("laid-out")).arg("--out");
    extensions.arg(space.path("release")).run().ok();
    run(&["whole", "release"], folder).expect("it is whole");
    let mut expected: BTreeSet<String> = PLATFORMS
        .iter()
        .flat_map(|platform| {
            let archive = if suffix(platform).is_empty() { "tar.gz" } else { "zip" };
            let program = format!("ecr-push-{platform}{}", suffix(platform));
            [format!("{program}.cdx.json"), program, format!("ecr-push-{}-{platform}.{archive}", version())]
        })
        .collect();
    for name in ["ecr-push", "ecr-push-aws-connection", "ecr-push-legacy-name"] {
        expected.insert(format!("ecr-push.{name}-1.0.0.vsix"));
    }
    expected.extend(["SHA256SUMS", "THIRD-PARTY-NOTICES.txt"].map(str::to_owned));
    assert_eq!(listed(&space.path("release")), expected);

    let (_, script) = steps(&space, "attach").pop().expect("a last step");
    let sum = |file: &str| {
        let outcome = space.command("sha256sum").arg(space.path(file)).run().ok();
        outcome.stdout.split(' ').next().expect("a checksum").to_owned()
    };
    let sums = sum("release/SHA256SUMS");
    let gh = space.write("bin/gh", "#!/bin/sh\nprintf '%s\\n' \"$@\" >\"$CALLED\"\n");
    std::fs::set_permissions(&gh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("the right to run");
    let attach = |sums: &str| {
        let mut path = space.path("bin").into_os_string();
        path.push(":");
        path.push(parts::path());
        let words = ["-c", "cd \"$0\" && exec bash -e -c \"$1\""];
        let command = space.command("bash").args(words).arg(folder).arg(&script).env("PATH", path);
        command.env("TAG", "v1.2.3").env("SUMS", sums).env("CALLED", space.path("called")).run()
    };
    attach(&sums).ok();
    let called = std::fs::read_to_string(space.path("called")).expect("gh was called");
    let (words, files) = called.split_once("--\n").expect("files");
    assert!(words.starts_with("release\ncreate\nv1.2.3\n--draft\n--verify-tag\n"), "{called}");
    assert_eq!(files.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
    // What is in no list is not attached.
    space.write("release/more", "more");
    attach(&sums).ok();
    assert_eq!(std::fs::read_to_string(space.path("called")).expect("gh was called"), called);
    std::fs::remove_file(space.path("called")).expect("a file");
    // A file, then also its line, are changed between the jobs.
    space.write("release/ecr-push-linux-x64", "changed");
    attach(&sums).exit(1);
    let changed = std::fs::read_to_string(space.path("release/SHA256SUMS")).expect("the checksums");
    let line = |line: &str| match line.split_once("  ") {
        Some((_, "ecr-push-linux-x64")) => format!("{}  ecr-push-linux-x64\n", sum("release/ecr-push-linux-x64")),
        _ => format!("{line}\n"),
    };
    space.write("release/SHA256SUMS", changed.lines().map(line).collect::<String>());
    attach(&sums).exit(1);
    attach(&sum("release/SHA256SUMS")).ok();
    assert!(release().is_file());
}
