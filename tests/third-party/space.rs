//! A space: a network, mount and process namespace with its own `/etc`, `/run` and a folder for its data.

use crate::command::Cmd;
use crate::parts;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Waits for the end of the space and removes its folder. Its standard input is a pipe that the test process holds; when
/// that process is gone, however it ended, `cat` ends, and as process 1 takes everything in its namespace along.
const OUTSIDE: &str = r#"
unshare --net --mount --pid --fork --kill-child -- sh -c "$2" sh "$1"
rm -rf -- "$1"
"#;

/// Runs as process 1. The process number is read before the new `/proc` hides it.
const INSIDE: &str = r#"
set -e
read -r pid rest </proc/self/stat
mount -t proc proc /proc
ip link set lo up
mkdir "$1/home" "$1/tmp"
cp -a /etc "$1/etc"
rm -rf "$1/etc/docker" "$1/etc/resolv.conf" "$1/etc/hosts"
mkdir "$1/etc/docker"
echo 'nameserver 127.0.0.1' >"$1/etc/resolv.conf"
echo '127.0.0.1 localhost' >"$1/etc/hosts"
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /run
# skopeo remembers there which blobs are where.
mkdir -p /var/lib/containers
mount -t tmpfs tmpfs /var/lib/containers
echo "$pid"
exec cat >/dev/null
"#;

/// A set of namespaces with everything that runs in them. Dropping it ends them and removes its folder.
pub struct Space {
    folder: PathBuf,
    process: u32,
    stdin: Option<ChildStdin>,
    holder: Child,
}

impl Space {
    /// A new, empty space whose network is a loopback interface and nothing else.
    pub fn new(name: &str) -> Self {
        // On disk, not in memory, and short: a socket's path has at most 107 bytes.
        let parent = std::env::var_os("ECR_PUSH_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        let folder = tempfile::Builder::new()
            .prefix(&format!("ecr-push-{name}-"))
            .tempdir_in(parent)
            .expect("a temporary folder");
        let folder = folder.keep();
        let mut holder = Command::new("sh")
            .args(["-c", OUTSIDE, "sh"])
            .arg(&folder)
            .arg(INSIDE)
            .env_clear()
            .env("PATH", parts::path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // An interrupt at the terminal must not keep it from cleaning up.
            .process_group(0)
            .spawn()
            .expect("a shell");
        let stdin = holder.stdin.take();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line of the space");
        let process =
            line.trim().parse().unwrap_or_else(|_| panic!("the namespaces could not be made (see standard error)"));
        Self { folder, process, stdin, holder }
    }

    /// Where this space keeps its data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file's path in this space's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a file in this space's folder and makes the folders above it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// A program that runs in this space. Its environment is `PATH`, `HOME` and `TMPDIR` only.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        // `-r`: in a chroot, entering a mount namespace alone would lead out of it.
        let enter = ["nsenter", "-t", &self.process.to_string(), "-r", "-n", "-m", "-p", "--"].map(Into::into).to_vec();
        Cmd::new(enter, program)
            .env("PATH", parts::path())
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
    }

    /// Waits until something listens on each of these loopback ports.
    ///
    /// # Panics
    /// When one stays closed, with what the servers of this space have logged.
    #[track_caller]
    pub fn wait_for_ports(&self, ports: &[u16]) {
        let script =
            "for port; do echo $port; until (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.05; done; done";
        let command = self.command("bash").args(["-c", script, "bash"]).args(ports.iter().map(u16::to_string));
        let outcome = command.limit(std::time::Duration::from_secs(60)).run();
        assert!(outcome.status == 0, "port {} stays closed\n{}", outcome.lines().last().unwrap_or(&"?"), self.logs());
    }

    /// The last lines of every log in this space's folder.
    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "log" || ending == "err") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                text += &format!("--- {}\n{}\n", path.display(), lines[lines.len().saturating_sub(10)..].join("\n"));
            }
        }
        text
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.holder.wait();
    }
}
