//! A registry that a test may kill or lock, and a proxy on the way to it that counts what is sent and makes the faults.

use crate::command::{Cmd, Outcome, Server, wait_for};
use crate::image::{HEAVY, Saved};
use crate::push::{push, reported, sibling};
use crate::stack::{API, HOST, Stack, TOKEN};
use crate::verify::{Pulled, pull_from};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// A docker-registry with an nginx of its own, which a test may kill or lock. It is empty.
pub struct Registry {
    stack: &'static Stack,
    nginx: u16,
    port: u16,
    _servers: [Server; 2],
}

impl Registry {
    /// Starts both.
    pub fn start(stack: &'static Stack) -> Self {
        let (nginx, port) = (stack.free_port(), stack.free_port());
        let folder = stack.space.folder().display().to_string();
        let config = include_str!("faults.conf").replace("@folder@", &folder).replace("@nginx@", &nginx.to_string());
        let config = config.replace("@registry@", &port.to_string()).replace("@host@", HOST).replace("@api@", API);
        stack.space.write(&format!("faults-{nginx}.conf"), config);
        std::fs::copy(stack.space.path("htpasswd"), stack.space.path(&format!("htpasswd-{port}"))).expect("a copy");
        let config = serde_json::json!({
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": format!("{folder}/registry-{port}")}},
            "http": {"addr": format!("127.0.0.1:{port}"), "secret": "not a secret"},
            "auth": {"htpasswd": {"realm": "ecr", "path": format!("{folder}/htpasswd-{port}")}},
        });
        stack.space.write(&format!("registry-{port}.yml"), config.to_string());
        let words = ["-c", &format!("{folder}/faults-{nginx}.conf"), "-e", &format!("{folder}/faults-{nginx}.err")];
        let front = stack.space.command("nginx").args(words).serve(&stack.space.path(&format!("faults-{nginx}.log")));
        let registry = Self { stack, nginx, port, _servers: [front, Self::serve(stack, port)] };
        stack.space.wait_for_ports(&[nginx, port]);
        registry
    }

    fn serve(stack: &Stack, port: u16) -> Server {
        let script = r#"echo $$ >"$1.pid"; exec docker-registry serve "$1.yml""#;
        let file = stack.space.path(&format!("registry-{port}"));
        let command = stack.space.command("sh").args(["-c", script, "sh"]).arg(&file);
        command.serve(&stack.space.path(&format!("registry-{port}.log")))
    }

    /// Ends it as a crash does.
    pub fn kill(&self) {
        let script = r#"kill -KILL "$(cat "$1")""#;
        let file = self.stack.space.path(&format!("registry-{}.pid", self.port));
        self.stack.space.command("sh").args(["-c", script, "sh"]).arg(file).run().ok();
    }

    /// Starts the registry once more, with all that it has stored.
    pub fn start_again(&mut self) {
        self._servers[1] = Self::serve(self.stack, self.port);
        self.stack.space.wait_for_ports(&[self.port]);
    }

    /// Changes the password, as if the token had been revoked.
    pub fn lock(&self) {
        let made = self.stack.space.command("htpasswd").args(["-Bbn", "-C", "4", "AWS", "another"]).run().ok();
        self.stack.space.write(&format!("htpasswd-{}", self.port), made.stdout);
    }

    /// Whether there is an image under `v1`, as the registry itself says.
    pub fn has_tag(&self, repository: &str) -> bool {
        let url = format!("http://127.0.0.1:{}/v2/{repository}/tags/list", self.port);
        std::fs::copy(self.stack.space.path("htpasswd"), self.stack.space.path(&format!("htpasswd-{}", self.port)))
            .expect("a copy");
        let listed = self.stack.space.command("curl").args(["-s", "-u", TOKEN, &url]).run().ok().json();
        listed["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "v1"))
    }

    /// The blobs that it has of a repository, by what is on its disk.
    pub fn blobs(&self, repository: &str) -> BTreeSet<String> {
        let folder = format!("registry-{}/docker/registry/v2/repositories/{repository}/_layers/sha256", self.port);
        let entries = std::fs::read_dir(self.stack.space.path(&folder)).into_iter().flatten().flatten();
        entries.map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy())).collect()
    }

    /// Brings back what is under `v1`.
    #[track_caller]
    pub fn pull(&self, repository: &str) -> Pulled {
        self.pull_tag(repository, "v1")
    }

    /// Brings back what is under a tag.
    #[track_caller]
    pub fn pull_tag(&self, repository: &str, tag: &str) -> Pulled {
        let name = format!("127.0.0.1:{}/{repository}:{tag}", self.port);
        pull_from(self.stack, &name, &["--src-tls-verify=false", "--src-creds", TOKEN])
    }

    /// Moves a tag, as somebody else would.
    pub fn move_tag(&self, repository: &str, tag: &str, to: &str) {
        let name = |tag: &str| format!("docker://127.0.0.1:{}/{repository}:{tag}", self.port);
        let words = ["copy", "-q", "--src-tls-verify=false", "--src-creds", TOKEN, "--dest-tls-verify=false"];
        let names = [name(to), name(tag)];
        let words = [&words[..], &["--dest-creds", TOKEN, &names[0], &names[1]]].concat();
        self.stack.skopeo(&words).ok();
    }
}

/// A proxy on the way to a registry.
pub struct Way {
    stack: &'static Stack,
    port: u16,
    _server: Server,
}

/// What the proxy saw.
pub struct Seen(Value);

impl Way {
    /// `rate` is in bytes a second, for all uploads together.
    pub fn start(registry: &Registry, rules: &[&str], rate: Option<u64>) -> Self {
        let (stack, port) = (registry.stack, registry.stack.free_port());
        let upstream = format!("https://127.0.0.1:{}", registry.nginx);
        let file = |name: &str| stack.space.path(&format!("way-{port}.{name}")).display().to_string();
        let trusted = stack.space.path("ca.crt").display().to_string();
        let command = stack.space.command(sibling("local-ecr")).args(["fault-proxy", "--connect", "--open-tls"]);
        let command = command.args(["--listen", &format!("127.0.0.1:{port}"), "--upstream", &upstream]);
        let command = command.args(["--upstream-ca", &trusted, "--ca-out", &file("crt"), "--record", &file("json")]);
        let command = rules.iter().fold(command, |command, rule| command.args(["--rule", rule]));
        let command = rate.iter().fold(command, |command, rate| command.args(["--rate", &rate.to_string()]));
        let server = command.serve(&stack.space.path(&format!("way-{port}.log")));
        let way = Self { stack, port, _server: server };
        wait_for("the proxy's record", Duration::from_secs(30), || way.file("json").exists().then_some(()));
        way
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn file(&self, name: &str) -> PathBuf {
        self.stack.space.path(&format!("way-{}.{name}", self.port))
    }

    /// A push of [`HEAVY`]'s archive as `v1`.
    pub fn push(&self, repository: &str) -> Cmd {
        self.push_image(&format!("docker-archive:{}", self.stack.image(HEAVY).archive.display()), repository)
    }

    /// A push of an image as `v1`.
    pub fn push_image(&self, image: &str, repository: &str) -> Cmd {
        self.push_tags(image, repository, &["v1"])
    }

    /// A push of an image under these tags.
    pub fn push_tags(&self, image: &str, repository: &str, tags: &[&str]) -> Cmd {
        push(self.stack, image, repository, tags)
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_CA_BUNDLE", self.file("crt"))
    }

    /// What it saw up to about now.
    pub fn now(&self) -> Seen {
        Seen(serde_json::from_slice(&std::fs::read(self.file("json")).expect("a record")).expect("JSON"))
    }

    /// What it saw in all, once nothing comes any more.
    pub fn seen(&self) -> Seen {
        let (mut last, mut quiet) = (self.now().0, 0);
        wait_for("a quiet record", Duration::from_secs(60), || {
            let now = self.now().0;
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            (quiet > 60).then_some(())
        });
        Seen(last)
    }
}

impl Seen {
    pub fn hits(&self) -> u64 {
        self.0["hits"].as_u64().expect("a number")
    }

    /// Bytes of blobs that were sent.
    pub fn sent(&self) -> u64 {
        let requests = self.0["requests"].as_array().expect("requests").iter();
        let uploads = requests.filter(|it| it["path"].as_str().is_some_and(|path| path.contains("/blobs/uploads/")));
        uploads.map(|it| it["body_bytes"].as_u64().expect("a number")).sum()
    }
}

/// The blobs of an image, with their bytes.
pub fn blobs_of(pulled: &Pulled) -> BTreeMap<String, u64> {
    let layers = pulled.manifest["layers"].as_array().expect("layers").iter();
    let blobs = layers.chain([&pulled.manifest["config"]]);
    let digest = |blob: &Value| blob["digest"].as_str().expect("a digest").to_owned();
    blobs.map(|blob| (digest(blob), blob["size"].as_u64().expect("a size"))).collect()
}

/// Checks an image that has to be in the registry. Gives the bytes sent beyond those of the image.
#[track_caller]
pub fn arrived(registry: &Registry, way: &Way, repository: &str, outcome: Outcome, source: &Saved) -> u64 {
    let told = outcome.to_string();
    let digest = reported(outcome, repository, &["v1"]);
    let pulled = registry.pull(repository);
    assert_eq!(pulled.digest, digest, "{told}");
    source.image.assert_same(&pulled.image);
    let clean: u64 = blobs_of(&pulled).values().sum();
    let sent = way.seen().sent();
    assert!(sent >= clean, "{sent} of {clean} bytes went through the proxy\n{told}");
    sent - clean
}
