//! The extensions as `integrations/azure-pipelines/build` makes them: built by `tfx-cli` where there is no network, listed, unpacked.

use crate::agent::{NODES, Step};
use crate::command::{Cmd, Outcome};
use crate::image::SMALL;
use crate::space::Space;
use crate::stack::{HOST, Stack};
use crate::verify::pull_with_skopeo;
use crate::{parts, push};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const PARTS: &[&str] =
    &["npm:tfx-cli", "npm:azure-pipelines-task-lib", "npm:node10", "npm:node20", "npm:node24", "npm:node26", "python3"];

/// The first bytes of programs for the platforms that are not built here: as much as the build looks at.
pub fn header(platform: &str) -> Vec<u8> {
    let mut bytes = vec![0; 128];
    match platform {
        "linux-x64" | "linux-arm64" => {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[18] = if platform == "linux-x64" { 0x3e } else { 0xb7 };
            // One segment, which is loaded: its header has 56 bytes, and lies behind this one.
            (bytes[32], bytes[54], bytes[56], bytes[64]) = (64, 56, 1, 1);
        }
        "darwin-x64" | "darwin-arm64" => {
            bytes[..4].copy_from_slice(&0xfeed_facf_u32.to_le_bytes());
            bytes[4..8]
                .copy_from_slice(&if platform == "darwin-x64" { 0x0100_0007_u32 } else { 0x0100_000c }.to_le_bytes());
        }
        "win32-x64" => {
            bytes[..2].copy_from_slice(b"MZ");
            bytes[60] = 64;
            bytes[64..70].copy_from_slice(b"PE\0\0\x64\x86");
        }
        _ => unreachable!(),
    }
    bytes
}

pub fn build(space: &Space, script: impl AsRef<Path>) -> Cmd {
    space.command(parts::npm("node20/bin/node")).arg(script.as_ref()).arg("--tfx").arg(tfx())
}

fn tfx() -> PathBuf {
    parts::npm("tfx-cli/_build/tfx-cli.js")
}

/// The extensions with this machine's program, built once and unpacked, by the name of the VSIX.
fn extensions() -> Option<&'static (Space, BTreeMap<String, PathBuf>)> {
    static BUILT: OnceLock<(Space, BTreeMap<String, PathBuf>)> = OnceLock::new();
    if !parts::space(PARTS) {
        return None;
    }
    Some(BUILT.get_or_init(|| {
        let space = Space::new("vsix");
        // All that dist/build has put there.
        std::fs::create_dir_all(space.path("bin")).expect("a folder");
        let from = push::shipped();
        space.command("cp").arg("-r").arg(from.parent().expect("a folder")).arg(space.path("bin")).run().ok();
        let script = parts::repository().join("integrations/azure-pipelines/build");
        let run = build(&space, script).arg("--bin").arg(space.path("bin")).arg("--out").arg(space.path("out"));
        run.args(["--publisher", "someone"]).run().ok();
        let mut unpacked = BTreeMap::new();
        for file in std::fs::read_dir(space.path("out")).expect("results").flatten() {
            let name = file.file_name().into_string().expect("a name");
            let folder = space.path(&format!("unpacked/{name}"));
            std::fs::create_dir_all(&folder).expect("a folder");
            space.command("python3").args(["-m", "zipfile", "-e"]).arg(file.path()).arg(&folder).run().ok();
            unpacked.insert(name, folder);
        }
        (space, unpacked)
    }))
}

/// The paths of all files under a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder").flatten() {
            match entry.file_type().expect("a type").is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path().strip_prefix(folder).expect("inside").display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn three_extensions_are_built_without_a_network() {
    let Some((_, unpacked)) = extensions() else {
        return;
    };
    let names: Vec<&str> = unpacked.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "someone.ecr-push-1.0.0.vsix",
            "someone.ecr-push-aws-connection-1.0.0.vsix",
            "someone.ecr-push-legacy-name-1.0.0.vsix",
        ]
    );
    let rest = [
        "LICENSE",
        "[Content_Types].xml",
        "extension.vsixmanifest",
        "extension.vsomanifest",
        "icon.png",
        "overview.md",
    ];
    let task = [
        "EcrPush/LICENSE",
        "EcrPush/THIRD-PARTY-NOTICES.txt",
        "EcrPush/bin/linux-x64/ecr-push",
        "EcrPush/icon.png",
        "EcrPush/index.js",
        "EcrPush/task.json",
    ];
    let images = ["images/failure.png", "images/log.png"];
    for (name, folder) in unpacked {
        let (task, images) = if name.contains("connection") { (&[][..], &[][..]) } else { (&task[..], &images[..]) };
        let mut expected = [task, &rest[..], images].concat();
        expected.sort_unstable();
        assert_eq!(files(folder), expected, "{name}");
        let overview = std::fs::read_to_string(folder.join("overview.md")).expect("a page");
        assert!(overview.to_lowercase().contains("never install"), "{name}");
        assert!(!overview.contains("{{"), "{name}");
        if !task.is_empty() {
            assert!(overview.contains("- Linux, x64\n"), "{name}: {overview}");
            assert!(
                !overview.contains("- Linux, arm64") && !overview.contains("- Windows"),
                "a page that claims too much"
            );
            // As every agent gets it.
            let inside = std::fs::read(folder.join(task[2])).expect("a program");
            assert!(inside == std::fs::read(push::shipped()).expect("a program"), "{name} holds another program");
            let notices = std::fs::read_to_string(folder.join(task[1])).expect("the notices");
            assert!(notices.contains("GNU LESSER GENERAL PUBLIC LICENSE"), "{name}: {} bytes", notices.len());
        }
    }
}

#[test]
fn task_of_the_vsix_runs_on_every_node() {
    let Some((space, unpacked)) = extensions() else {
        return;
    };
    for (name, folder) in unpacked.iter().filter(|(name, _)| !name.contains("connection")) {
        for node in NODES {
            let run = Step::new(space, &folder.join("EcrPush"), node).input("sourceImageName", "app").run();
            assert_eq!((run.status, run.result()), (Some(0), "Failed"), "{name} on {node}: {run}");
            assert!(run.issues("error")[0].contains("Input required: repositoryName"), "{name} on {node}: {run}");
        }
    }
}

/// What an organisation installs, doing what it is installed for: a connection's keys, an image of a real engine, a real registry.
#[test]
fn task_of_the_vsix_pushes_an_image() {
    let Some((_, unpacked)) = extensions() else {
        return;
    };
    let Some(stack) = Stack::signed(&["dockerd", "docker", "skopeo"]) else {
        return;
    };
    let source = stack.image(SMALL);
    let connection = "3b5f0d9e-98a7-4e5e-8c4a-5d3f0a5a9a01";
    for (number, (name, folder)) in unpacked.iter().filter(|(name, _)| !name.contains("connection")).enumerate() {
        let repository = format!("vsix/app{number}");
        let step = Step::new(&stack.space, &folder.join("EcrPush"), "node20")
            .connection(connection, &[("username", &stack.admin.id), ("password", &stack.admin.secret)])
            .input("awsCredentials", connection)
            .input("regionName", "us-east-1")
            .input("sourceImageName", SMALL.split(':').next().expect("a name"))
            .input("sourceImageTag", SMALL.split(':').nth(1).unwrap_or("latest"))
            .input("repositoryName", &repository)
            .input("pushTag", "1.4")
            .input("autoCreateRepository", "True")
            .input("outputVariable", "pushed")
            .variable("Agent.CAInfo", &stack.space.path("ca.crt").display().to_string())
            .env("DOCKER_HOST", &stack.engine().host());
        let run = step.run();
        assert_eq!((run.status, run.result(), run.succeeded), (Some(0), "Succeeded", true), "{name}: {run}");
        assert_eq!(run.variable("pushed"), Some(&*format!("{HOST}/{repository}:1.4")), "{run}");
        assert_eq!((run.issues("error"), run.issues("warning")), (vec![], vec![]), "{run}");
        for secret in [&stack.admin.secret, "123456789012-auth-token"] {
            run.hides(secret);
        }
        let pulled = pull_with_skopeo(stack, &format!("{repository}:1.4"));
        source.image.assert_same(&pulled.image);
        assert_eq!(run.variable("digest"), Some(&*pulled.digest), "{run}");
    }
}

/// Waits until the program asks an engine that never answers, then ends the script as an agent does. Says how long that took, and
/// whether the program is still there.
const CANCEL: &str = r#"
set -m
port=$1; signal=$2; shift 2
coproc engine { exec python3 -c "
import socket, sys, time
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('listening', flush=True)
client, _ = server.accept()
print('asked', flush=True)
time.sleep(60)
" "$port"; }
read -r line <&"${engine[0]}"
"$@" </dev/null &
task=$!
read -r line <&"${engine[0]}"
read -r program <"/proc/$task/task/$task/children" || true
start=${EPOCHREALTIME/./}
kill -s "$signal" "$task"
wait "$task"
echo "status $?"
# Nobody in these namespaces collects what an orphan leaves.
while [ -e "/proc/$program" ] && ! grep -q '^State:.*zombie' "/proc/$program/status"; do sleep 0.02; done
echo "milliseconds $(( (${EPOCHREALTIME/./} - start) / 1000 ))"
kill "$engine_PID"
"#;

#[test]
fn cancelled_task_leaves_nothing_running() {
    let Some((space, unpacked)) = extensions() else {
        return;
    };
    let folder = unpacked.iter().find(|(name, _)| name.contains("ecr-push-1")).expect("the task").1.join("EcrPush");
    let mut port = 7100;
    for node in NODES {
        for (signal, status) in [("INT", "status 0"), ("TERM", "status 0"), ("KILL", "status 137")] {
            port += 1;
            let step = Step::new(space, &folder, node)
                .input("sourceImageName", "app")
                .input("repositoryName", "team/app")
                .input("regionName", "us-east-1")
                .secret("AWS.AccessKeyID", "AKIAIOSFODNN7EXAMPLE")
                .secret("AWS.SecretAccessKey", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
                // Nothing listens there, and it is tried again and again.
                .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
                .env("DOCKER_HOST", &format!("tcp://127.0.0.1:{port}"));
            let words = ["-c", CANCEL, "bash", &port.to_string(), signal].map(String::from);
            let outcome = step.program("bash").args(words).args(step.words());
            let outcome = outcome.limit(std::time::Duration::from_secs(30)).run();
            let lines = outcome.lines();
            assert!(lines.contains(&status), "{node}, {signal}: {outcome}");
            let took = lines.last().and_then(|line| line.strip_prefix("milliseconds ")?.parse::<u64>().ok());
            // The agent gives 7.5 s to SIGINT, and 2.5 s to SIGTERM.
            assert!(took.is_some_and(|took| took < 2500), "{node}, {signal}: {outcome}");
            if signal != "KILL" {
                assert!(outcome.stdout.contains("##vso[task.complete result=Failed;]"), "{node}, {signal}: {outcome}");
            }
        }
    }
}

#[test]
fn page_names_the_platforms_that_are_inside() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("vsix");
    for platform in ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "win32-x64"] {
        let suffix = if platform == "win32-x64" { ".exe" } else { "" };
        space.write(&format!("bin/{platform}/ecr-push{suffix}"), header(platform));
        space.write(&format!("bin/{platform}/ecr-push{suffix}.cdx.json"), "{}");
        space.write(&format!("bin/{platform}/THIRD-PARTY-NOTICES.txt"), "the same for all");
    }
    let script = parts::repository().join("integrations/azure-pipelines/build");
    let out = space.path("out");
    let built = build(&space, script).arg("--bin").arg(space.path("bin")).arg("--out").arg(&out).run().ok();
    assert_eq!(built.lines()[0], "programs: linux-x64, linux-arm64, darwin-x64, darwin-arm64, win32-x64");
    let vsix = out.join("ecr-push.ecr-push-1.0.0.vsix");
    let unpack = space.command("python3").args(["-m", "zipfile", "-e"]).arg(vsix).arg(space.path("unpacked"));
    unpack.run().ok();
    let page = std::fs::read_to_string(space.path("unpacked/overview.md")).expect("a page");
    let expected = "- Linux, x64\n- Linux, arm64: built, never run by the tests\n- macOS, x64: built, never run by the tests\n\
                    - macOS, arm64: built, never run by the tests\n- Windows, x64: built, never run by the tests\n";
    assert!(page.contains(expected), "{page}");
    let programs = files(&space.path("unpacked/EcrPush/bin"));
    assert_eq!(programs.len(), 5, "{programs:?}");
    space.write("bin/darwin-x64/THIRD-PARTY-NOTICES.txt", "of another commit");
    let script = parts::repository().join("integrations/azure-pipelines/build");
    let built = build(&space, script).arg("--bin").arg(space.path("bin")).arg("--out").arg(&out).run().exit(1);
    built.says(&["darwin-x64/THIRD-PARTY-NOTICES.txt is not the same as", "not built from one commit"]);
}

/// A copy of the extensions' folder, to be broken, with the smallest program there is.
fn copy(space: &Space, name: &str) -> PathBuf {
    let folder = space.path(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let from = parts::repository().join("integrations");
    space.command("cp").arg("-r").arg(from).arg(folder.join("integrations")).run().ok();
    space.command("cp").arg(parts::repository().join("LICENSE")).arg(&folder).run().ok();
    space.write(&format!("{name}/bin/linux-x64/ecr-push"), header("linux-x64"));
    space.write(&format!("{name}/bin/linux-x64/THIRD-PARTY-NOTICES.txt"), "notices");
    folder
}

fn build_copy(space: &Space, folder: &Path) -> Outcome {
    let script = folder.join("integrations/azure-pipelines/build");
    build(space, script).arg("--bin").arg(folder.join("bin")).arg("--out").arg(folder.join("out")).run()
}

#[test]
fn broken_extension_is_not_built() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("vsix");
    let task = "EcrPush/task.json";
    let main = "main/vss-extension.json";
    // File, what is there, what is put in its place, what the build says.
    let faults = [
        (
            task,
            "\"friendlyName\": \"ECR Push\"",
            "\"friendlyName\": \"A name that has more than forty characters\"",
            "longer than 40",
        ),
        (task, "\"instanceNameFormat\": \"Push Image: \",", "", "instanceNameFormat is missing"),
        (task, "\"id\": \"9b9fe3ac-", "\"id\": \"9b9fe3ax-", "not a lower-case GUID"),
        (task, "\"name\": \"pushTag\"", "\"name\": \"push tag\"", "letters and digits"),
        (task, "\"name\": \"pushTag\"", "\"name\": \"sourceimagetag\"", "occurs twice"),
        (task, "\"type\": \"radio\"", "\"type\": \"dial\"", "unknown type dial"),
        (task, "imageSource = imageid", "imageSource = imageId", "imageId is no option of imageSource"),
        (task, "imageSource = imageid", "imagesource = imageid", "which is no input"),
        (task, "\"groupName\": \"output\"", "\"groupName\": \"outputs\"", "group outputs is not declared"),
        (task, "\"Major\": 1", "\"Major\": \"1\"", "Major is not a number"),
        (task, "\"Node20_1\"", "\"Node20\"", "handler Node20 is not one of"),
        (task, "\"target\": \"index.js\"", "\"target\": \"start.js\"", "start.js does not exist"),
        (task, "\"Node24\": {", "\"Node10\": { \"target\": \"index.js\" }, \"Node24\": {", "the newest first"),
        (task, "\"name\": \"uri\"", "\"name\": \"Digest\"", "outputs: digest occurs twice"),
        (task, "\"category\": \"Deploy\"", "\"category\": \"Release\"", "unknown category"),
        (task, "\"demands\": []", "\"demand\": []", "unknown key demand"),
        (task, "\"EditableOptions\": \"True\"", "\"EditableOptions\": \"true\"", "EditableOptions is True or False"),
        (
            task,
            "9b9fe3ac-4a87-42f5-9044-d248b92bf6b1",
            "467d1870-1a00-4755-b00d-9642129fe759",
            "task IDs are not unique",
        ),
        (task, "\"name\": \"EcrPush\"", "\"name\": \"ECRPushImage\"", "task names are"),
        (
            main,
            "\"properties\": { \"name\": \"EcrPush\" }",
            "\"properties\": { \"name\": \"Ecr\" }",
            "not among the files",
        ),
        (main, "\"name\": \"Container Image Push\"", "\"name\": \"ECR Push\"", "holds the brand ECR"),
        (main, "\"name\": \"Container Image Push\"", "\"name\": \"Push to Amazon\"", "holds the brand Amazon"),
        (main, "\"id\": \"ecr-push\",", "\"id\": \"ecr-push\", \"public\": true,", "public is set by the build"),
        (main, "\"id\": \"ecr-push\",", "\"id\": \"ecr-push\", \"publisher\": \"x\",", "publisher is set by the build"),
        (main, "images/log.png", "icon.png", "icon.png is not a PNG of 1366x768 pixels"),
        (main, "images/log.png", "images/none.png", "images/none.png is not a PNG"),
        (main, "\"default\": \"icon.png\"", "\"default\": \"EcrPush/icon.png\"", "the icon is not a PNG of 128"),
        (main, "\"id\": \"ecr-push\"", "\"id\": \"ecr-push-legacy-name\"", "two extensions have one ID"),
        (main, "\"targets\": [{ \"id\": \"Microsoft.VisualStudio.Services\" }],", "", "targets are missing"),
    ];
    for (number, (file, from, to, says)) in faults.into_iter().enumerate() {
        let folder = copy(&space, &format!("fault{number}"));
        let file = folder.join("integrations/azure-pipelines").join(file);
        let text = std::fs::read_to_string(&file).expect("a file");
        assert!(text.contains(from), "{from} is not in {}", file.display());
        std::fs::write(&file, text.replacen(from, to, 1)).expect("a file");
        let built = build_copy(&space, &folder).exit(1).says(&["error: ", says]);
        assert!(!built.stderr.contains("    at "), "not one sentence\n{built}");
    }
}

/// What the Marketplace shows and checks, as it stands in the package.
#[test]
fn public_extension_names_its_publisher_and_leads_to_its_source() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("vsix");
    space.write("bin/linux-x64/ecr-push", header("linux-x64"));
    space.write("bin/linux-x64/THIRD-PARTY-NOTICES.txt", "notices");
    let script = parts::repository().join("integrations/azure-pipelines/build");
    let build = |words: &[&str], out: &str| {
        build(&space, &script).arg("--bin").arg(space.path("bin")).arg("--out").arg(space.path(out)).args(words).run()
    };
    let source = "https://source.example/someone/ecr-push";
    build(&["--public", "--publisher", "someone", "--repository", source], "public").ok();
    build(&[], "private").ok();
    let manifest = |vsix: &str| {
        let script = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).read('extension.vsixmanifest').decode())";
        space.command("python3").args(["-c", script]).arg(space.path(vsix)).run().ok().stdout
    };
    for name in ["ecr-push", "ecr-push-legacy-name", "ecr-push-aws-connection"] {
        let public = manifest(&format!("public/someone.{name}-1.0.0.vsix"));
        assert!(public.contains("Publisher=\"someone\""), "{public}");
        assert!(public.contains("<GalleryFlags>Public</GalleryFlags>"), "{public}");
        for (link, page) in [
            ("Getstarted", "/blob/HEAD/docs/azure-pipelines.md"),
            ("Support", "/issues"),
            ("License", "/blob/HEAD/LICENSE"),
            ("GitHub", ""),
        ] {
            let property = format!("Links.{link}\" Value=\"{source}{page}\"");
            assert!(public.contains(&property), "no {property} in {public}");
        }
        if !name.contains("connection") {
            let script = "import sys, zipfile; print(zipfile.ZipFile(sys.argv[1]).read('EcrPush/task.json').decode())";
            let vsix = space.path(&format!("public/someone.{name}-1.0.0.vsix"));
            let task = space.command("python3").args(["-c", script]).arg(vsix).run().ok().json();
            assert_eq!(task["helpUrl"], format!("{source}/blob/HEAD/docs/azure-pipelines.md"));
        }
        let shows = public.matches("Microsoft.VisualStudio.Services.Screenshots.").count();
        assert_eq!(shows, if name.contains("connection") { 0 } else { 2 }, "{public}");
        let private = manifest(&format!("private/ecr-push.{name}-1.0.0.vsix"));
        assert!(!private.contains("Public</GalleryFlags>") && !private.contains(source), "{private}");
    }
    for (words, says) in [
        (&["--public"][..], "--public needs --publisher and --repository"),
        (&["--public", "--publisher", "someone"], "--public needs"),
        (&["--repository", "http://source.example/a/b"], "is not the https address of a repository"),
        (&["--repository", "https://source.example/a/b\"x"], "is not the https address"),
    ] {
        build(words, "refused").exit(1).says(&["error: ", says]);
    }
}

#[test]
fn warning_of_tfx_is_an_error() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("vsix");
    let folder = copy(&space, "copy");
    // tfx warns about a page without a path, and packs.
    let manifest = folder.join("integrations/azure-pipelines/main/vss-extension.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let text = text.replacen("\"content\": {", "\"content\": { \"privacy\": {},", 1);
    std::fs::write(&manifest, text).expect("a manifest");
    build_copy(&space, &folder).exit(1).says(&["error: tfx refuses", "(status 0)", "warning: "]);
    // And one that fails.
    let tfx = space.write("tfx.js", "console.log('no luck'); process.exitCode = 3");
    let folder = copy(&space, "second");
    let script = folder.join("integrations/azure-pipelines/build");
    let run = space.command(parts::npm("node20/bin/node")).arg(script).arg("--tfx").arg(tfx);
    run.arg("--bin")
        .arg(folder.join("bin"))
        .arg("--out")
        .arg(folder.join("out"))
        .run()
        .exit(1)
        .says(&["(status 3)", "no luck"]);
}

/// An agent may have no C library, or an older one.
#[test]
fn program_that_needs_a_library_is_not_packed() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("vsix");
    let folder = copy(&space, "copy");
    let program = folder.join("bin/linux-x64/ecr-push");
    // A segment of 16 bytes behind the headers, which names a library, or nothing.
    let dynamic = |tag: u8| {
        let mut bytes = [header("linux-x64"), vec![0; 128]].concat();
        (bytes[56], bytes[120], bytes[128], bytes[152]) = (2, 2, 176, 32);
        bytes[176] = tag;
        bytes
    };
    let change = |at: usize, value: u8| {
        let mut bytes = header("linux-x64");
        bytes[at] = value;
        bytes
    };
    // A program of this machine is dynamic.
    let bash = std::fs::read(parts::find("bash").expect("bash")).expect("a program");
    let faults = [
        (bash, "asks for the dynamic linker /lib"),
        (dynamic(1), "asks for a shared library"),
        (change(64, 6), "holds nothing to load"),
        (change(56, 9), "ends too early"),
        (change(4, 1), "is no 64-bit little-endian program"),
    ];
    for (bytes, says) in faults {
        std::fs::write(&program, bytes).expect("a file");
        build_copy(&space, &folder).exit(1).says(&["linux-x64/ecr-push is not a static program: it ", says]);
        assert!(!folder.join("out").exists(), "{says}");
    }
    // As a static program that may lie anywhere has it: the end of the list, and nothing else.
    std::fs::write(&program, dynamic(0)).expect("a file");
    build_copy(&space, &folder).ok();
}

#[test]
fn wrong_programs_are_not_packed() {
    if !parts::space(PARTS) {
        return;
    }
    let space = Space::new("vsix");
    let folder = copy(&space, "copy");
    let program = folder.join("bin/linux-x64/ecr-push");
    std::fs::write(&program, header("linux-arm64")).expect("a file");
    build_copy(&space, &folder).exit(1).says(&["is a program for linux-arm64"]);
    std::fs::write(&program, "#!/bin/sh\n").expect("a file");
    build_copy(&space, &folder).exit(1).says(&["is a program for an unknown platform"]);
    std::fs::write(&program, header("linux-x64")).expect("a file");
    let notices = folder.join("bin/linux-x64/THIRD-PARTY-NOTICES.txt");
    std::fs::remove_file(&notices).expect("a file");
    build_copy(&space, &folder).exit(1).says(&["linux-x64 lacks THIRD-PARTY-NOTICES.txt"]);
    std::fs::write(&notices, "notices").expect("a file");
    let notes = space.write("copy/bin/linux-x64/notes.txt", "");
    build_copy(&space, &folder).exit(1).says(&["linux-x64 holds notes.txt, which dist/build does not make"]);
    std::fs::remove_file(notes).expect("a file");
    std::fs::rename(folder.join("bin/linux-x64"), folder.join("bin/linux-amd64")).expect("a folder");
    build_copy(&space, &folder).exit(1).says(&["linux-amd64 is not one of linux-x64"]);
    std::fs::remove_dir_all(folder.join("bin")).expect("a folder");
    build_copy(&space, &folder).exit(1).says(&["no programs in"]);
    // Noise cannot be compressed, so this is more than the Marketplace takes.
    let mut noise = header("linux-x64");
    let mut state = 1_u64;
    while noise.len() < 26 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    space.write("copy/bin/linux-x64/ecr-push", noise);
    space.write("copy/bin/linux-x64/THIRD-PARTY-NOTICES.txt", "notices");
    build_copy(&space, &folder).exit(1).says(&["bytes; the limit is 26214400"]);
}
