//! Temporary files are private and gone afterwards, whatever the folder is like and however the process ends; and nothing is written
//! anywhere else, whatever names an archive has in it.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{APP, Stand, recorded, two, wait_for};
use local_ecr::{Fault, FaultAction};

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// What is below a folder: names, kinds, modes, and contents or targets.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let contents = if metadata.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else if metadata.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(path, (metadata.mode(), contents));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_have_no_name_and_one_owner_and_go_with_a_killed_process() {
    let (stand, temp) = (Stand::new().await, tempfile::tempdir().unwrap());
    // A folder that everybody may write to, as a bad `TMPDIR` is.
    std::fs::set_permissions(temp.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    stand.server.add_fault(Fault::new(FaultAction::Stall { after: 0 }).method("PUT"));
    let running = stand.push("--reuse off").arg("--temp-dir").arg(temp.path()).start();
    let server = &stand.server;
    wait_for("an upload", Duration::from_secs(20), || {
        server.requests().iter().any(|request| request.operation == "CompleteLayerUpload")
    })
    .await;
    let folder = std::fs::canonicalize(temp.path()).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", running.id())).unwrap().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if !target.starts_with(&folder) {
            continue;
        }
        seen += 1;
        assert!(target.to_string_lossy().ends_with(" (deleted)"), "{} has a name", target.display());
        let metadata = std::fs::metadata(entry.path()).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 0), "{}", target.display());
    }
    assert!(seen > 0, "no temporary file is open");
    assert_eq!(entries(temp.path()), 0);
    running.signal("KILL");
    running.finish().await;
    assert_eq!(entries(temp.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_is_refused_and_one_behind_a_link_is_used() {
    let (stand, base) = (Stand::new().await, tempfile::tempdir().unwrap());
    let path = |name: &str| base.path().join(name);
    std::fs::create_dir(path("real")).unwrap();
    std::fs::write(path("file"), "x").unwrap();
    symlink(path("real"), path("link")).unwrap();
    symlink(path("nothing"), path("dangling")).unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    symlink(path("file"), path("to-file")).unwrap();
    let before = snapshot(base.path());
    // Not even root may write to /proc.
    let unwritable = PathBuf::from("/proc/self");
    for bad in [
        path("missing"),
        path("file"),
        path("dangling"),
        path("loop"),
        path("to-file"),
        path("real/../file/x"),
        unwritable,
    ] {
        for flag in [true, false] {
            let program = stand.push("");
            let program = if flag { program.arg("--temp-dir").arg(&bad) } else { program.env("TMPDIR", &bad) };
            let run = program.run().await;
            assert!(run.failed(2).contains(&bad.display().to_string()), "{}", run.stderr);
            run.says(&["--temp-dir"]);
        }
    }
    for good in ["link", "real", "link/../real"] {
        stand
            .push("--reuse off")
            .env("TMPDIR", path(good))
            .arg("-t")
            .arg(good.replace('/', "-"))
            .run()
            .await
            .succeeded();
    }
    assert_eq!(snapshot(base.path()), before, "nothing is left, and nothing else is touched");
}

/// Archives of docker's with entries that a careless program would write, or read, elsewhere; and whether an image is in them all the same.
fn hostile_archive(folder: &Path) -> Vec<(PathBuf, bool)> {
    let good = std::fs::read(recorded("docker-20.10-overlay2/export-two.tar")).unwrap();
    let outside = folder.parent().unwrap().join("outside");
    std::fs::write(&outside, "outside").unwrap();
    let absolute = outside.display().to_string();
    let mut made = Vec::new();
    let entry = |name: &str, kind: tar::EntryType, target: Option<&str>| {
        let mut header = tar::Header::new_ustar();
        // The library would refuse such names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o6777);
        let body: &[u8] = if kind == tar::EntryType::Regular { b"evil" } else { b"" };
        header.set_size(body.len() as u64);
        if let Some(target) = target {
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let above = "../../../outside";
    let mut hostile = Vec::new();
    for name in ["../../x", "../outside", above, "a/../../x", "/x", &absolute, "./..//../x", "..", "/"] {
        hostile.push(entry(name, tar::EntryType::Regular, None));
    }
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
        for target in [above, &absolute, "/etc/passwd", "."] {
            hostile.push(entry("link", kind, Some(target)));
            hostile.push(entry("link/x", tar::EntryType::Regular, None));
        }
    }
    for kind in [tar::EntryType::Fifo, tar::EntryType::Char, tar::EntryType::Directory] {
        hostile.push(entry("../special", kind, None));
    }
    // Before the good ones, and behind them.
    let end = good.len() - good.iter().rev().take_while(|byte| **byte == 0).count();
    let (body, zeros) = good.split_at(end.next_multiple_of(512));
    for (number, hostile) in hostile.iter().enumerate() {
        let path = folder.join(format!("{number}.tar"));
        let parts = if number % 2 == 0 { [hostile, body, zeros] } else { [body, hostile, zeros] };
        std::fs::write(&path, parts.concat()).unwrap();
        made.push((path, true));
    }
    let path = folder.join("all.tar");
    std::fs::write(&path, [&hostile.concat(), &good[..]].concat()).unwrap();
    made.push((path, true));
    // In the place of what the archive needs.
    for target in [above, &absolute, "/etc/passwd"] {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
            let path = folder.join(format!("manifest-{}.tar", made.len()));
            std::fs::write(&path, [entry("manifest.json", kind, Some(target)), vec![0; 1024]].concat()).unwrap();
            made.push((path, false));
        }
        let manifest =
            serde_json::json!([{ "Config": target, "RepoTags": ["x:1"], "Layers": [target, above] }]).to_string();
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(manifest.len() as u64);
        builder.append_data(&mut header, "manifest.json", manifest.as_bytes()).unwrap();
        let path = folder.join(format!("names-{}.tar", made.len()));
        std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
        made.push((path, false));
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_an_archive_lead_nowhere() {
    let (stand, base) = (Stand::new().await, tempfile::tempdir().unwrap());
    let folder = base.path().join("a/b");
    let temp = base.path().join("a/b/temp");
    std::fs::create_dir_all(&temp).unwrap();
    let archives = hostile_archive(&folder);
    let before = snapshot(base.path());
    let mut pushed = 0;
    for (number, (archive, has_image)) in archives.iter().enumerate() {
        for form in [format!("docker-archive:{}", archive.display()), "docker-archive:-".to_owned()] {
            let words = format!("push {form} --repository {APP} -t v{number} --reuse off -v");
            let program = stand.program(&words).env("TMPDIR", &temp);
            let stdin = std::fs::File::open(archive).unwrap();
            let run = program.stdin(stdin.into()).run().await;
            // What no engine writes may be refused, or left aside.
            if *has_image && run.status == 0 {
                pushed += 1;
            } else if *has_image {
                let says = ["points outside", "is a link", "neither a file nor a folder"];
                assert!(says.iter().any(|says| run.failed(1).contains(says)), "{}", run.stderr);
            } else {
                run.failed(1);
            }
            run.hides(&["outside\n", "root:"]);
            assert_eq!(snapshot(base.path()), before, "{form} of {}", archive.display());
        }
    }
    assert!(pushed > 0 && pushed < archives.len() * 2, "{pushed} of {}", archives.len() * 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_in_a_layout_lead_to_no_file_that_is_sent() {
    let (stand, base) = (Stand::new().await, tempfile::tempdir().unwrap());
    let layout = base.path().join("layout");
    let archive = std::fs::File::open(recorded("docker-28.5-containerd/export-multi.tar")).unwrap();
    tar::Archive::new(archive).unpack(&layout).unwrap();
    std::fs::write(base.path().join("outside"), "outside of the layout").unwrap();
    let blobs = layout.join("blobs/sha256");
    let mut largest: Vec<(u64, PathBuf)> = std::fs::read_dir(&blobs)
        .unwrap()
        .flatten()
        .map(|entry| (entry.metadata().unwrap().len(), entry.path()))
        .collect();
    largest.sort();
    let (_, blob) = largest.pop().unwrap();
    std::fs::remove_file(&blob).unwrap();
    symlink("../../../outside", &blob).unwrap();
    let run = stand.program(&format!("push oci:{} --repository {APP} -t v1", layout.display())).run().await;
    run.failed(1);
    assert_eq!(stand.tag("v1"), None);
    let sent = stand.server.repository(APP).unwrap().blobs;
    let name = blob.file_name().unwrap().to_str().unwrap();
    assert!(!sent.iter().any(|digest| digest.ends_with(name)), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_writes_to_its_temporary_folder_its_cache_and_the_files_asked_for() {
    let stand = Stand::new().await;
    let base = tempfile::tempdir().unwrap();
    for name in ["home", "temp", "cache", "out"] {
        std::fs::create_dir(base.path().join(name)).unwrap();
    }
    let path = |name: &str| base.path().join(name);
    let program = stand.program(&format!("push {} --repository {APP} -t v1", two())).env("HOME", path("home"));
    let program = program.env("TMPDIR", path("temp")).env("XDG_CACHE_HOME", path("cache"));
    program.arg("--output-file").arg(path("out/result.json")).run().await.succeeded();
    let found = snapshot(base.path());
    let files: Vec<&PathBuf> =
        found.iter().filter(|(_, (mode, _))| mode & 0o170_000 != 0o040_000).map(|(path, _)| path).collect();
    let below = |name: &str| files.iter().filter(|file| file.starts_with(path(name))).count();
    assert_eq!((below("home"), below("temp"), below("out")), (0, 0, 1), "{files:?}");
    assert_eq!(below("cache") + 1, files.len(), "{files:?}");
    for (path, (mode, _)) in found.iter().filter(|(file, _)| file.starts_with(path("cache/ecr-push"))) {
        assert_eq!(mode & 0o077, 0, "{} is not private", path.display());
    }
}
