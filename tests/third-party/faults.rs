//! Faults on the way to docker-registry behind nginx, given by `local-ecr fault-proxy`, which opens TLS and counts. Whether an image
//! arrived is for skopeo and the registry to say; the proxy only says what was sent.

use crate::command::{Cmd, Outcome, Server, wait_for};
use crate::image::HEAVY;
use crate::push::{push, reported, sibling};
use crate::stack::{API, HOST, Stack, TOKEN};
use crate::verify::pull_from;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo", "curl"];
/// Those of the two large layers of [`HEAVY`]; its third and its config are smaller.
const LARGE: &str = "PUT /blobs/uploads/ min-length=9000000";

/// A docker-registry with an nginx of its own, which a test may kill or lock. It is empty.
struct Registry {
    stack: &'static Stack,
    nginx: u16,
    port: u16,
    _servers: [Server; 2],
}

impl Registry {
    fn start(stack: &'static Stack) -> Self {
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
    fn kill(&self) {
        let script = r#"kill -KILL "$(cat "$1")""#;
        let file = self.stack.space.path(&format!("registry-{}.pid", self.port));
        self.stack.space.command("sh").args(["-c", script, "sh"]).arg(file).run().ok();
    }

    fn start_again(&mut self) {
        self._servers[1] = Self::serve(self.stack, self.port);
        self.stack.space.wait_for_ports(&[self.port]);
    }

    /// Changes the password, as if the token had been revoked.
    fn lock(&self) {
        let made = self.stack.space.command("htpasswd").args(["-Bbn", "-C", "4", "AWS", "another"]).run().ok();
        self.stack.space.write(&format!("htpasswd-{}", self.port), made.stdout);
    }

    /// Whether there is an image under the tag, as the registry itself says.
    fn has_tag(&self, repository: &str) -> bool {
        let url = format!("http://127.0.0.1:{}/v2/{repository}/tags/list", self.port);
        std::fs::copy(self.stack.space.path("htpasswd"), self.stack.space.path(&format!("htpasswd-{}", self.port)))
            .expect("a copy");
        let listed = self.stack.space.command("curl").args(["-s", "-u", TOKEN, &url]).run().ok().json();
        listed["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "v1"))
    }
}

/// A proxy on the way to a registry.
struct Way {
    stack: &'static Stack,
    port: u16,
    _server: Server,
}

/// What the proxy saw.
struct Seen(Value);

impl Way {
    /// `rate` is in bytes a second, for all uploads together.
    fn start(registry: &Registry, rules: &[&str], rate: Option<u64>) -> Self {
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

    fn file(&self, name: &str) -> PathBuf {
        self.stack.space.path(&format!("way-{}.{name}", self.port))
    }

    fn push(&self, repository: &str) -> Cmd {
        let archive = format!("docker-archive:{}", self.stack.image(HEAVY).archive.display());
        push(self.stack, &archive, repository, &["v1"])
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_CA_BUNDLE", self.file("crt"))
    }

    /// What it saw up to about now.
    fn now(&self) -> Seen {
        Seen(serde_json::from_slice(&std::fs::read(self.file("json")).expect("a record")).expect("JSON"))
    }

    /// What it saw in all, once nothing comes any more.
    fn seen(&self) -> Seen {
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
    fn hits(&self) -> u64 {
        self.0["hits"].as_u64().expect("a number")
    }

    /// Bytes of blobs that were sent.
    fn sent(&self) -> u64 {
        let requests = self.0["requests"].as_array().expect("requests").iter();
        let uploads = requests.filter(|it| it["path"].as_str().is_some_and(|path| path.contains("/blobs/uploads/")));
        uploads.map(|it| it["body_bytes"].as_u64().expect("a number")).sum()
    }
}

/// Pushes through a proxy with these rules, which the push has to survive, and gives the bytes sent beyond those of the image.
#[track_caller]
fn survives(stack: &'static Stack, repository: &str, rules: &[&str], limit: Duration) -> u64 {
    let source = stack.image(HEAVY);
    stack.create_repository(repository);
    let registry = Registry::start(stack);
    let way = Way::start(&registry, rules, None);
    let outcome = way.push(repository).args(["--output", "json"]).limit(limit).run();
    assert!(way.seen().hits() > 0, "no fault came\n{outcome}");
    arrived(&registry, &way, repository, outcome.within(limit), source)
}

/// Checks an image that has to be in the registry. Gives the bytes sent beyond those of the image.
#[track_caller]
fn arrived(registry: &Registry, way: &Way, repository: &str, outcome: Outcome, source: &crate::image::Saved) -> u64 {
    let told = outcome.to_string();
    let digest = reported(outcome, repository, &["v1"]);
    let name = format!("127.0.0.1:{}/{repository}:v1", registry.port);
    let pulled = pull_from(registry.stack, &name, &["--src-tls-verify=false", "--src-creds", TOKEN]);
    assert_eq!(pulled.digest, digest, "{told}");
    source.image.assert_same(&pulled.image);
    let size = |descriptor: &Value| descriptor["size"].as_u64().expect("a size");
    let layers = pulled.manifest["layers"].as_array().expect("layers").iter();
    let clean: u64 = size(&pulled.manifest["config"]) + layers.map(size).sum::<u64>();
    let sent = way.seen().sent();
    assert!(sent >= clean, "{sent} of {clean} bytes went through the proxy\n{told}");
    sent - clean
}

#[test]
fn a_reset_in_the_second_upload_costs_what_was_sent_of_it() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let rule = format!("{LARGE} skip=1 times=1 reset=7340032");
    assert_eq!(survives(stack, "faults/exact", &[&rule], Duration::from_secs(120)), 7_340_032);
}

#[test]
fn answers_that_pass_are_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let limit = Duration::from_secs(120);
    for (name, rule) in [
        ("early-503", "PUT /blobs/uploads/ times=3 early=503"),
        ("503", "PUT /blobs/uploads/ times=3 answer=503"),
        ("503-for-a-while", "GET|HEAD|POST|PUT /v2/ lasting=3s early=503"),
        ("429", "PUT /blobs/uploads/ times=3 early=429 code=TOOMANYREQUESTS"),
        ("429-retry-after", "PUT /blobs/uploads/ times=3 early=429 code=TOOMANYREQUESTS retry-after=2"),
        ("manifest-500", "PUT /manifests/ times=1 answer=500"),
        ("416", "PUT /blobs/uploads/ min-length=9000000 times=1 early=416 code=BLOB_UPLOAD_INVALID"),
        ("short-answer", "POST /blobs/uploads/ times=1 truncate=0"),
        ("stale-session", "PUT /blobs/uploads/ times=1 early=404 code=BLOB_UPLOAD_UNKNOWN"),
    ] {
        let again = survives(stack, &format!("faults/{name}"), &[rule], limit);
        // Answers that come after the body cost that body: the largest three are the whole image.
        let most = if rule.contains(" answer=503") { 30 << 20 } else { 0 };
        // What was under way when an early answer came.
        assert!(again <= most + (4 << 20), "{name}: {again} bytes were sent again");
    }
}

#[test]
fn a_lost_answer_costs_no_more_than_its_layer() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let rule = format!("{LARGE} times=1 lose-answer");
    let again = survives(stack, "faults/lost", &[&rule], Duration::from_secs(120));
    assert!(again <= 13 << 20, "{again} bytes were sent again");
}

#[test]
fn connections_that_break_are_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    for (name, rule, most) in [
        ("light", "connection reset-at-random=16000000 seed=3", 3.0),
        ("heavy", "connection reset-at-random=8000000 seed=5", 5.0),
        ("window", "connection reset=5000000 lasting=4s", 3.0),
        ("garbage", "connection skip=1 times=3 garbage", 0.5),
        ("handshake", "connection skip=1 times=3 close=300", 0.5),
    ] {
        let again = survives(stack, &format!("faults/{name}"), &[rule], Duration::from_secs(200));
        assert!((again as f64) < most * f64::from(25 << 20), "{name}: {again} bytes were sent again");
    }
}

#[test]
fn a_stall_that_heals_is_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let again = survives(stack, "faults/heals", &["connection stall=3000000 lasting=15s"], Duration::from_secs(120));
    assert!(again <= 25 << 20, "{again} bytes were sent again");
}

#[test]
fn a_registry_that_is_killed_and_comes_back_is_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(HEAVY);
    stack.create_repository("faults/killed");
    let mut registry = Registry::start(stack);
    let way = Way::start(&registry, &[], Some(6 << 20));
    let push = way.push("faults/killed").args(["--output", "json"]).limit(Duration::from_secs(180));
    let outcome = std::thread::scope(|scope| {
        let pushing = scope.spawn(move || push.run());
        wait_for("half of the image", Duration::from_secs(120), || (way.now().sent() > 12 << 20).then_some(()));
        registry.kill();
        std::thread::sleep(Duration::from_secs(3));
        registry.start_again();
        pushing.join().expect("the push")
    });
    let again = arrived(&registry, &way, "faults/killed", outcome, source);
    assert!(again <= 25 << 20, "{again} bytes were sent again");
}

#[test]
fn a_password_revoked_on_the_way_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(HEAVY);
    stack.create_repository("faults/revoked");
    let registry = Registry::start(stack);
    let way = Way::start(&registry, &[], Some(6 << 20));
    let push = way.push("faults/revoked").limit(Duration::from_secs(180));
    let outcome = std::thread::scope(|scope| {
        let pushing = scope.spawn(move || push.run());
        wait_for("half of the image", Duration::from_secs(120), || (way.now().sent() > 12 << 20).then_some(()));
        registry.lock();
        pushing.join().expect("the push")
    });
    let (_, password) = TOKEN.split_once(':').expect("a colon");
    let words = ["no longer accepts a token of these credentials", "revoked", "renew or replace the credentials"];
    outcome.refused().says(&words).hides(password).within(Duration::from_secs(120));
    assert!(!registry.has_tag("faults/revoked"));
}

#[test]
fn a_dead_link_ends_within_the_budget_and_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(HEAVY);
    stack.create_repository("faults/dead");
    let registry = Registry::start(stack);
    let way = Way::start(&registry, &["connection stall=3000000"], None);
    let outcome = way.push("faults/dead").args(["--retry-budget", "10s"]).limit(Duration::from_secs(200)).run();
    // The stall is noticed after 30 s, and the last try may begin just within the budget.
    outcome.refused().says(&["stalled: no byte moved for 3", "--retry-budget"]).within(Duration::from_secs(150));
    assert!(way.seen().hits() > 0);
    assert!(!registry.has_tag("faults/dead"));
}
