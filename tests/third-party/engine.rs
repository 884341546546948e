//! Container engines: dockerd and podman, each with its own store.

use crate::command::{Cmd, wait_for};
use crate::space::Space;
use std::path::PathBuf;
use std::time::Duration;

/// A running engine.
pub struct Engine {
    space: &'static Space,
    /// The name of its folder in the space's folder.
    name: String,
}

impl Engine {
    /// Starts dockerd. It trusts the space's authority, and keeps its data in the space's folder.
    pub fn docker(space: &'static Space, name: &str) -> Self {
        let engine = Self { space, name: name.to_owned() };
        let socket = engine.socket().display().to_string();
        let file = |file: &str| engine.file(file).display().to_string();
        std::fs::create_dir_all(file("")).expect("a folder");
        let words = [
            "--data-root",
            &file("data"),
            "--exec-root",
            &file("run"),
            "--pidfile",
            &file("pid"),
            "-H",
            &format!("unix://{socket}"),
        ];
        let network = ["--iptables=false", "--ip6tables=false", "--bridge=none"];
        space.command("dockerd").args(words).args(network).serve(&engine.file("log"));
        wait_for("dockerd", Duration::from_secs(60), || {
            (engine.try_docker(&["version"]).run().status == 0).then_some(())
        });
        engine
    }

    /// Starts podman's imitation of the Docker Engine API.
    pub fn podman(space: &'static Space, name: &str) -> Self {
        let engine = Self { space, name: name.to_owned() };
        std::fs::create_dir_all(engine.file("")).expect("a folder");
        let socket = format!("unix://{}", engine.socket().display());
        engine.podman_command(&["system", "service", "--time=0", &socket]).serve(&engine.file("log"));
        wait_for("podman", Duration::from_secs(60), || engine.socket().exists().then_some(()));
        engine
    }

    /// Runs podman on this engine's store.
    pub fn podman_command(&self, words: &[&str]) -> Cmd {
        let file = |file: &str| self.file(file).display().to_string();
        let command = self.space.command("podman").args([
            "--root",
            &file("data"),
            "--runroot",
            &file("run"),
            "--storage-driver",
            "overlay",
        ]);
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=file"]).args(words)
    }

    /// Where its socket is.
    pub fn socket(&self) -> PathBuf {
        self.file("socket")
    }

    /// The value of `DOCKER_HOST` that leads to it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A file in this engine's folder.
    pub fn file(&self, file: &str) -> PathBuf {
        self.space.path(&self.name).join(file)
    }

    /// The Docker CLI, logged in to the registry, on this engine.
    pub fn try_docker(&self, words: &[&str]) -> Cmd {
        let command =
            self.space.command("docker").env("DOCKER_CONFIG", self.space.path("docker")).env("DOCKER_BUILDKIT", "0");
        command.env("DOCKER_HOST", self.host()).args(words)
    }

    /// Runs the Docker CLI and gives its standard output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        self.try_docker(words).run().ok().stdout.trim().to_owned()
    }

    /// Ends dockerd as a crash does.
    pub fn kill(&self) {
        let script = r#"kill -KILL "$(cat "$1")""#;
        self.space.command("sh").args(["-c", script, "sh"]).arg(self.file("pid")).run().ok();
    }
}
