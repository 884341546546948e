//! What the pages of `integrations/` tell users to write, taken out of them and run as it stands.

use crate::command::Cmd;
use crate::image::noise;
use crate::parts;
use crate::push::program;
use crate::stack::Stack;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A role that moto lets anybody take on.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";
/// `{"iss":"https://token.actions.githubusercontent.com","sub":"repo:o/r:ref:refs/heads/main","aud":"sts.amazonaws.com"}`
pub const JWT: &str = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL3Rva2VuLmFjdGlvbnMuZ2l0aHVidXNlcmNvbnRlbnQuY29tIiwic3ViIjoicmVwbzpvL3I6cmVmOnJlZnMvaGVhZHMvbWFpbiIsImF1ZCI6InN0cy5hbWF6b25hd3MuY29tIn0.c2lnbmF0dXJl";

/// A file of `integrations/`.
pub fn file(path: &str) -> PathBuf {
    parts::repository().join("integrations").join(path)
}

/// The code blocks of a language on a page.
#[track_caller]
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(file(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut found: Vec<String> = Vec::new();
    let mut inside = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(_), Some(_)) => inside = None,
            (Some(name), None) => {
                inside = Some(name == language);
                if name == language {
                    found.push(String::new());
                }
            }
            (None, Some(true)) => {
                let block = found.last_mut().expect("the block just opened");
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    assert!(!found.is_empty(), "no {language} on {page}");
    found
}

/// A program in a job's shell: with `ecr-push` and the stack's engine, as an image for the job or its machine would have them, and
/// without keys. It runs in `folder`; a program in the folder `bin` beside that is found first.
pub fn in_job(stack: &'static Stack, folder: &Path, words: &[&str]) -> Cmd {
    let bin = folder.with_file_name("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    let wrapper = bin.join("ecr-push");
    if !wrapper.exists() {
        // Keeps the arguments, which every user of a machine can see.
        let script = format!(
            "#!/bin/bash\nprintf '%s\\n' \"$@\" >>'{}'\nexec '{}' \"$@\"\n",
            bin.join("arguments").display(),
            program().display()
        );
        put_program(&wrapper, &script);
    }
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(parts::path());
    let enter = ["-c", "cd -- \"$0\" && exec \"$@\""];
    let command = stack.space.command("bash").args(enter).arg(folder).args(words).env("PATH", path);
    let command = command.env("AWS_CA_BUNDLE", stack.space.path("ca.crt")).env("DOCKER_BUILDKIT", "0");
    command.env("DOCKER_HOST", stack.engine().host()).env("HOME", folder)
}

/// A folder with what `docker build` takes. It is the same in every job: they share an engine, and names of images.
pub fn put_image(folder: &Path) {
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("Dockerfile"), "FROM scratch\nCOPY content /content\n").expect("a file");
    std::fs::write(folder.join("content"), noise(300_000, 7)).expect("a file");
}

/// Writes a script that can be run.
pub fn put_program(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, script).expect("a script");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("the right to run");
}

/// No file below `folder` holds one of `secrets`, but those that the test itself has written.
#[track_caller]
pub fn hold_no_secret(folder: &Path, secrets: &[&str], ours: &[&str]) {
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    let mut folders = vec![folder.to_owned()];
    let mut files = 0;
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder").map(|entry| entry.expect("an entry")) {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && !ours.iter().any(|name| entry.path() == folder.join(name)) {
                let content = std::fs::read(entry.path()).expect("a file");
                files += 1;
                for secret in secrets {
                    assert!(!holds(&content, secret), "{} holds {secret}", entry.path().display());
                }
            }
        }
    }
    assert!(files > 0);
}

/// A YAML text as JSON, by `js-yaml`. Several documents make a list.
pub fn yaml(stack: &'static Stack, text: &str) -> Value {
    let script = "const yaml = require(process.argv[1]); \
                  console.log(JSON.stringify(yaml.loadAll(require('fs').readFileSync(0, 'utf8'))))";
    let file = tempfile::NamedTempFile::new_in(stack.space.folder()).expect("a file");
    std::fs::write(file.path(), text).expect("a file");
    let command = stack.space.command(parts::npm("node24/bin/node")).args(["-e", script]).arg(parts::npm("js-yaml"));
    let mut documents = command.stdin(file.path()).run().ok().json();
    match documents.as_array_mut() {
        Some(list) if list.len() == 1 => list.remove(0),
        _ => documents,
    }
}
