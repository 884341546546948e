//! An ECR that contains no code of ours: moto for the API, docker-registry for images, nginx in front of both.

use crate::certificates;
use crate::command::{Cmd, Outcome, wait_for};
use crate::engine::Engine;
use crate::image::{self, Saved};
use crate::parts;
use crate::space::Space;
use base64::Engine as _;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// The registry's host name.
pub const HOST: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
/// The user and password that moto's `GetAuthorizationToken` gives out.
pub const TOKEN: &str = "AWS:123456789012-auth-token";
/// The API's host name.
pub const API: &str = "api.ecr.us-east-1.amazonaws.com";
const STS: &str = "sts.us-east-1.amazonaws.com";
/// moto itself, for the services that have no host name here.
const MOTO: &str = "http://127.0.0.1:5555";

/// An access key.
#[derive(Clone, Debug)]
pub struct Keys {
    pub id: String,
    pub secret: String,
}

/// One request to the registry or the API, from nginx's log.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub uri: String,
    pub status: u64,
    /// Bytes of the request, its head included.
    pub length: u64,
}

/// The running set-up.
pub struct Stack {
    pub space: Space,
    /// Keys that may do everything.
    pub admin: Keys,
    engine: OnceLock<Engine>,
    puller: OnceLock<Mutex<Engine>>,
    saved: Mutex<HashMap<String, &'static OnceLock<Saved>>>,
    port: AtomicU16,
}

type Cell = OnceLock<Result<Stack, String>>;

impl Stack {
    /// moto checks signatures and permissions; a repository need not exist to take an image.
    /// `None` when one of `parts` is missing: the test has been reported as skipped.
    pub fn signed(parts: &[&str]) -> Option<&'static Self> {
        static CELL: Cell = OnceLock::new();
        Self::get(&CELL, parts, true)
    }

    /// A repository that was not created is refused as ECR refuses it; signatures are not checked.
    /// `None` when one of `parts` is missing: the test has been reported as skipped.
    pub fn guarded(parts: &[&str]) -> Option<&'static Self> {
        static CELL: Cell = OnceLock::new();
        Self::get(&CELL, parts, false)
    }

    /// Starts the set-up once. When that fails, every test fails with the reason of the first.
    fn get(cell: &'static Cell, parts: &[&str], signed: bool) -> Option<&'static Self> {
        if !parts::present(parts) {
            return None;
        }
        let stack = cell.get_or_init(|| {
            std::panic::catch_unwind(AssertUnwindSafe(|| Self::start(signed))).map_err(|panic| {
                match panic.downcast::<String>() {
                    Ok(text) => *text,
                    Err(_) => "no reason given".to_owned(),
                }
            })
        });
        Some(stack.as_ref().unwrap_or_else(|reason| panic!("the stack did not start: {reason}")))
    }

    fn start(signed: bool) -> Self {
        let space = Space::new(if signed { "signed" } else { "guarded" });
        let folder = space.folder().display().to_string();
        space.write("etc/hosts", format!("127.0.0.1 localhost {HOST} {API} {STS}\n"));
        for (prefix, name) in [("", "Test authority"), ("proxy-", "Proxy authority")] {
            let made = certificates::issue(name, &[HOST, API, STS]);
            space.write(&format!("{prefix}ca.crt"), &made.authority);
            space.write(&format!("{prefix}server.crt"), &made.server);
            space.write(&format!("{prefix}server.key"), &made.key);
        }
        // Where dockerd, podman and skopeo look.
        let authority = std::fs::read(space.path("ca.crt")).expect("the authority just written");
        space.write(&format!("etc/docker/certs.d/{HOST}/ca.crt"), authority);
        let auth = base64::engine::general_purpose::STANDARD.encode(TOKEN);
        space.write("docker/config.json", json!({"auths": {HOST: {"auth": auth}}}).to_string());

        let (user, password) = TOKEN.split_once(':').expect("a colon");
        let htpasswd = space.command("htpasswd").args(["-Bbn", "-C", "4", user, password]).run().ok().stdout;
        space.write("htpasswd", htpasswd);
        space.write(
            "registry.yml",
            json!({
                "version": 0.1,
                "log": {"level": "info"},
                "storage": {"filesystem": {"rootdirectory": format!("{folder}/registry")}, "delete": {"enabled": true}},
                "http": {"addr": "127.0.0.1:5000", "secret": "not a secret"},
                "auth": {"htpasswd": {"realm": "ecr", "path": format!("{folder}/htpasswd")}},
            })
            .to_string(),
        );
        // The password is asked for before the repository is looked up, as ECR does it.
        let guard = format!(
            "auth_basic ecr; auth_basic_user_file {folder}/htpasswd; auth_request /_repository; error_page 403 = @name_unknown;"
        );
        let nginx = include_str!("nginx.conf").replace("@guard@", if signed { "" } else { &guard });
        space.write("nginx.conf", nginx.replace("@folder@", &folder).replace("@host@", HOST));

        let mut moto = space.command("moto_server").args(["-H", "127.0.0.1", "-p", "5555"]);
        if signed {
            // The three calls that make the administrator below; every later one is checked.
            moto = moto.env("INITIAL_NO_AUTH_ACTION_COUNT", "3");
        }
        moto.serve(&space.path("moto.log"));
        space
            .command("docker-registry")
            .args(["serve", &format!("{folder}/registry.yml")])
            .serve(&space.path("registry.log"));
        let nginx =
            ["-c", &format!("{folder}/nginx.conf"), "-e", &format!("{folder}/nginx-error.log")].map(String::from);
        space.command("nginx").args(nginx).serve(&space.path("nginx.log"));
        space.wait_for_ports(&[443, 1338, 5000, 5555, 8443]);

        let nobody =
            Keys { id: "AKIAIOSFODNN7EXAMPLE".into(), secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into() };
        let mut stack = Self {
            space,
            admin: nobody,
            engine: OnceLock::new(),
            puller: OnceLock::new(),
            saved: Mutex::default(),
            port: AtomicU16::new(6000),
        };
        if signed {
            stack.admin = stack.user("admin", &["*"]);
        }
        stack
    }

    /// Makes an IAM user who may do `actions`, on every resource, and nothing else.
    pub fn user(&self, name: &str, actions: &[&str]) -> Keys {
        let iam = |words: &[&str]| self.aws(&self.admin, &[&["iam", "--endpoint-url", MOTO], words].concat()).ok();
        let policy =
            json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]});
        iam(&["create-user", "--user-name", name]);
        let policy = policy.to_string();
        let put = ["put-user-policy", "--user-name", name, "--policy-name", "push", "--policy-document", &policy];
        let made = iam(&["create-access-key", "--user-name", name]).json();
        iam(&put);
        let field = |field: &str| made["AccessKey"][field].as_str().expect("a key").to_owned();
        Keys { id: field("AccessKeyId"), secret: field("SecretAccessKey") }
    }

    /// Runs the AWS CLI, which prints JSON.
    pub fn aws(&self, keys: &Keys, words: &[&str]) -> Outcome {
        self.with_keys(self.space.command("aws"), keys).env("AWS_DEFAULT_REGION", "us-east-1").args(words).run()
    }

    /// Gives a program an access key and the authority of this stack.
    pub fn with_keys(&self, command: Cmd, keys: &Keys) -> Cmd {
        command
            .env("AWS_ACCESS_KEY_ID", &keys.id)
            .env("AWS_SECRET_ACCESS_KEY", &keys.secret)
            .env("AWS_CA_BUNDLE", self.space.path("ca.crt"))
    }

    /// Creates a repository.
    pub fn create_repository(&self, name: &str) {
        self.aws(&self.admin, &["ecr", "create-repository", "--repository-name", name]).ok();
    }

    /// The names of all repositories.
    pub fn repositories(&self) -> Vec<String> {
        let answer = self.aws(&self.admin, &["ecr", "describe-repositories"]).ok().json();
        let name = |repository: &Value| repository["repositoryName"].as_str().expect("a name").to_owned();
        answer["repositories"].as_array().expect("a list").iter().map(name).collect()
    }

    /// The engine that images are built in.
    pub fn engine(&'static self) -> &'static Engine {
        self.engine.get_or_init(|| Engine::docker(&self.space, "engine"))
    }

    /// An engine that holds no image: each test that pulls into it removes what it pulled.
    pub fn puller(&'static self) -> MutexGuard<'static, Engine> {
        let puller = self.puller.get_or_init(|| Mutex::new(Engine::docker(&self.space, "puller")));
        puller.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// One of [`image::build`]'s images, built in [`Stack::engine`] at its first use, with the archive `docker save` makes of it.
    pub fn image(&'static self, name: &str) -> &'static Saved {
        let cell = {
            let mut saved = self.saved.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // As long-lived as the stack itself, which lives in a static.
            *saved.entry(name.to_owned()).or_insert_with(|| Box::leak(Box::default()))
        };
        cell.get_or_init(|| {
            image::build(&self.space, self.engine(), name);
            image::save(&self.space, self.engine(), name)
        })
    }

    /// A loopback port that nothing in this space uses.
    pub fn free_port(&self) -> u16 {
        self.port.fetch_add(1, Ordering::Relaxed)
    }

    /// Runs skopeo, logged in to the registry.
    pub fn skopeo(&self, words: &[&str]) -> Outcome {
        let file = self.space.path("docker/config.json");
        self.space.command("skopeo").args(["--insecure-policy"]).args(words).env("REGISTRY_AUTH_FILE", file).run()
    }

    /// The requests made so far to a repository's part of the registry.
    pub fn requests(&self, repository: &str) -> Vec<Request> {
        let wanted = format!("/v2/{repository}/");
        let read = || -> Vec<Request> {
            let log = std::fs::read_to_string(self.space.path("requests.log")).expect("nginx's log");
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let number = |value: &Value| value.as_u64().expect("a number");
            lines
                .map(|line| Request {
                    method: text(&line["method"]),
                    uri: text(&line["uri"]),
                    status: number(&line["status"]),
                    length: number(&line["length"]),
                })
                .filter(|request| request.uri.starts_with(&wanted))
                .collect()
        };
        // nginx writes a line just after the client has its answer.
        let (mut before, mut quiet) = (read(), 0);
        wait_for("a quiet log", Duration::from_secs(30), || {
            let now = read();
            quiet = if now.len() == before.len() { quiet + 1 } else { 0 };
            before = now;
            (quiet > 15).then_some(())
        });
        before
    }

    /// How many blobs a repository got: uploaded, or mounted from another repository.
    pub fn stored(&self, repository: &str) -> usize {
        let stored = |request: &&Request| request.uri.contains("/blobs/uploads/") && request.status == 201;
        self.requests(repository).iter().filter(stored).count()
    }
}
