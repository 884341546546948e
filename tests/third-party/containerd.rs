//! Images of a real containerd: by the files of its content store, by its API, and not at all. docker-registry takes them.

use crate::command::{Cmd, Outcome, Server, wait_for};
use crate::image::{self, HEAVY, SMALL};
use crate::layers::fresh;
use crate::parts;
use crate::push::ecr_push;
use crate::stack::Stack;
use crate::verify::{hex_sha256, pull_from};
use crate::way::{Registry, Way};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo", "containerd", "ctr", "curl"];
const NAMESPACE: &str = "test";
/// `nobody`.
const OTHER_USER: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];

/// A containerd with a folder of its own.
struct Containerd {
    stack: &'static Stack,
    folder: PathBuf,
    metrics: u16,
}

impl Containerd {
    fn start(stack: &'static Stack, name: &str) -> Self {
        let containerd = Self { stack, folder: stack.space.path(name), metrics: stack.free_port() };
        let path = |file: &str| containerd.folder.join(file).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {:?}\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n[metrics]\naddress = \"127.0.0.1:{}\"\n",
            path("root"),
            path("state"),
            // What would look at the machine, or run something.
            ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"],
            path("socket"),
            path("ttrpc"),
            containerd.metrics,
        );
        let config = stack.space.write(&format!("{name}/config.toml"), config);
        stack.space.command("containerd").arg("-c").arg(config).serve(&containerd.folder.join("log"));
        wait_for("containerd", Duration::from_secs(60), || {
            (containerd.ctr(NAMESPACE, &["version"]).run().status == 0).then_some(())
        });
        containerd
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    fn ctr(&self, namespace: &str, words: &[&str]) -> Cmd {
        self.stack.space.command("ctr").arg("-a").arg(self.socket()).args(["-n", namespace]).args(words)
    }

    /// Imports an archive, with all that is in it.
    fn import(&self, namespace: &str, archive: &Path) {
        self.import_with(namespace, &["--all-platforms"], archive);
    }

    fn import_with(&self, namespace: &str, options: &[&str], archive: &Path) {
        self.ctr(namespace, &["images", "import", "--no-unpack"]).args(options).arg(archive).run().ok();
    }

    /// Imports an image that the stack's engine has built. skopeo compresses its layers on the way.
    fn import_built(&self, archive: &Path, name: &str) {
        let made = fresh(self.stack).join("made.tar");
        let (from, to) = (format!("docker-archive:{}", archive.display()), format!("oci-archive:{}", made.display()));
        self.stack.skopeo(&["copy", "-q", &from, &format!("{to}:{name}")]).ok();
        self.import(NAMESPACE, &made);
        fs::remove_file(made).expect("the archive");
    }

    /// The digest that containerd's image has.
    #[track_caller]
    fn target(&self, name: &str) -> String {
        let list = self.ctr(NAMESPACE, &["images", "ls", &format!("name=={name}")]).run().ok();
        let digest =
            list.lines().last().and_then(|line| line.split_whitespace().find(|word| word.starts_with("sha256:")));
        digest.unwrap_or_else(|| panic!("{name} is not there\n{list}")).to_owned()
    }

    /// A manifest, index or config.
    #[track_caller]
    fn document(&self, digest: &str) -> Value {
        self.ctr(NAMESPACE, &["content", "get", digest]).run().ok().json()
    }

    /// Where the bytes of a blob are.
    fn file(&self, digest: &str) -> PathBuf {
        self.folder.join("root/io.containerd.content.v1.content/blobs/sha256").join(&digest[7..])
    }

    /// How often a blob was read through the API.
    fn reads(&self) -> u64 {
        let page = format!("http://127.0.0.1:{}/v1/metrics", self.metrics);
        let page = self.stack.space.command("curl").args(["-sf", &page]).run().ok();
        let is_read = |line: &&&str| line.starts_with("grpc_server_started_total{grpc_method=\"Read\"");
        let line = *page.lines().iter().find(is_read).expect("a count");
        line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    /// A push to the plain registry.
    fn push(&self, image: &str, place: &str) -> Cmd {
        self.push_from(NAMESPACE, image, place)
    }

    fn push_from(&self, namespace: &str, image: &str, place: &str) -> Cmd {
        let command = push(self.stack, image, place).args(["--containerd-namespace", namespace]);
        command.arg("--containerd-address").arg(self.socket())
    }

    /// A push as another user, who has a home folder and may use the socket if `may` is true.
    fn push_as_another(&self, image: &str, place: &str, may: bool) -> Cmd {
        self.as_another(self.push(image, place), may)
    }

    fn as_another(&self, command: Cmd, may: bool) -> Cmd {
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        open(self.stack.space.folder(), 0o711);
        open(&self.folder, 0o711);
        open(&self.folder.join("root"), 0o700);
        open(&self.socket(), if may { 0o666 } else { 0o660 });
        let home = fresh(self.stack);
        open(&home, 0o777);
        command.env("HOME", &home).env("TMPDIR", &home).through(OTHER_USER)
    }
}

/// The port of a registry without login and TLS.
fn registry(stack: &'static Stack) -> u16 {
    static PORT: OnceLock<u16> = OnceLock::new();
    *PORT.get_or_init(|| {
        let (space, port) = (&stack.space, stack.free_port());
        let config = json!({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": space.path("plain-registry")}},
            "http": {"addr": format!("127.0.0.1:{port}"), "secret": "not a secret"},
        });
        let config = space.write("plain-registry.yml", config.to_string());
        space.command("docker-registry").arg("serve").arg(config).serve(&space.path("plain-registry.log"));
        space.wait_for_ports(&[port]);
        port
    })
}

/// A push to that registry, of an image of whatever containerd is found.
fn push(stack: &'static Stack, image: &str, place: &str) -> Cmd {
    let (repository, tag) = place.split_once(':').expect("a tag");
    let image = format!("containerd:{image}");
    let command = ecr_push(stack, &stack.admin).limit(Duration::from_secs(120));
    command.args(["push", &image, "--to", &reference(stack, repository), "--tag", tag, "--output", "json"])
}

/// Where skopeo finds what was pushed.
fn reference(stack: &'static Stack, place: &str) -> String {
    format!("127.0.0.1:{}/{place}", registry(stack))
}

/// Checks that nothing is under the tag.
#[track_caller]
fn assert_absent(stack: &'static Stack, place: &str) {
    let from = format!("docker://{}", reference(stack, place));
    let outcome = stack.skopeo(&["inspect", "--raw", "--tls-verify=false", &from]);
    assert!(outcome.status != 0 && outcome.stderr.contains("unknown"), "{place} is in the registry\n{outcome}");
}

/// Brings everything back that is under a tag. Checks the digest of each file, gives that of the root, and counts the files.
#[track_caller]
fn bring_back_all(stack: &'static Stack, place: &str) -> (String, usize) {
    let folder = fresh(stack);
    let (from, to) = (format!("docker://{}", reference(stack, place)), format!("dir:{}", folder.display()));
    stack.skopeo(&["copy", "-q", "--all", "--src-tls-verify=false", &from, &to]).ok();
    let (mut root, mut count) = (None, 0);
    for entry in fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("a file").path();
        let digest = hex_sha256(&fs::read(&path).expect("a file"));
        match path.file_name().and_then(|name| name.to_str()).expect("a name") {
            "version" => continue,
            "manifest.json" => root = Some(format!("sha256:{digest}")),
            name => assert_eq!(name.trim_end_matches(".manifest.json"), digest, "{place}"),
        }
        count += 1;
    }
    (root.expect("a manifest"), count)
}

/// The digest that a push reports.
#[track_caller]
fn reported(outcome: Outcome) -> String {
    let outcome = outcome.ok();
    outcome.json()["digest"].as_str().unwrap_or_else(|| panic!("no digest\n{outcome}")).to_owned()
}

/// A push that could not be: one error, without anything tried again, and soon.
#[track_caller]
fn fails(outcome: Outcome, status: i32, words: &[&str]) -> Outcome {
    let outcome = outcome.exit(status).refused().within(Duration::from_secs(20)).says(words);
    let errors: Vec<_> = outcome.stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert_eq!(errors.len(), 1, "{outcome}");
    assert!(!outcome.stderr.contains("trying again"), "{outcome}");
    outcome
}

/// A recorded archive of an engine with containerd's store.
fn recorded(name: &str) -> PathBuf {
    let folder = parts::repository().join("crates/ecr-push/tests/fixtures/engines/docker-28.5-containerd");
    folder.join(format!("export-{name}.tar"))
}

#[test]
fn an_image_arrives_as_containerd_has_it() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-small");
    let source = stack.image(SMALL);
    containerd.import_built(&source.archive, "docker.io/library/small:1");
    let target = containerd.target("docker.io/library/small:1");
    let before = containerd.reads();
    let outcome =
        containerd.push("small:1", "small:v1").args(["-v"]).run().says(&["layers come from containerd's files"]);
    assert_eq!(reported(outcome), target);
    assert!(containerd.reads() - before <= 2, "the manifest, and perhaps the config: layers are read as files");
    let pulled = pull_from(stack, &reference(stack, "small:v1"), &["--src-tls-verify=false"]);
    assert_eq!(pulled.digest, target);
    assert_eq!(pulled.image.layers, source.image.layers);

    let hex = &target[7..];
    let by_digest = format!("small@{target}");
    for (number, name) in ["docker.io/library/small:1", &target, hex, &hex[..12], &by_digest].into_iter().enumerate() {
        let place = format!("small{number}:v1");
        assert_eq!(reported(containerd.push(name, &place).run()), target, "{name}");
        assert_eq!(bring_back_all(stack, &place).0, target, "{name}");
    }
    let address = format!("unix://{}", containerd.socket().display());
    let by_variables = push(stack, "small:1", "by-variables:v1").env("CONTAINERD_ADDRESS", address);
    assert_eq!(reported(by_variables.env("CONTAINERD_NAMESPACE", NAMESPACE).run()), target);
}

#[test]
fn an_index_arrives_whole_or_one_platform_of_it() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-multi");
    containerd.import(NAMESPACE, &recorded("multi"));
    let target = containerd.target("docker.io/library/multi:1");
    assert_eq!(reported(containerd.push("multi:1", "multi:whole").run()), target);
    // Three manifests with a config and a layer each, and the index. The attestation shares no blob.
    assert_eq!(bring_back_all(stack, "multi:whole"), (target.clone(), 10));

    let index = containerd.document(&target);
    for (platform, architecture, tag) in [("linux/amd64", "amd64", "amd"), ("linux/arm64", "arm64", "arm")] {
        let entries = index["manifests"].as_array().expect("manifests");
        let child = entries.iter().find(|entry| entry["platform"]["architecture"] == architecture).expect("a child");
        let place = format!("platform-{tag}:v1");
        let digest = reported(containerd.push("multi:1", &place).args(["--platform", platform]).run());
        assert_eq!(digest, child["digest"]);
        assert_eq!(bring_back_all(stack, &place), (digest, 3));
    }
    let none = containerd.push("multi:1", "platform-none:v1").args(["--platform", "windows/amd64"]);
    fails(none.run(), 1, &["windows/amd64", "linux/amd64", "linux/arm64"]);

    // Another namespace may not use what only this one has, although the bytes are in the same folder.
    containerd.import_with("partial", &["--platform", "linux/amd64"], &recorded("partial"));
    let partial = |words: &[&str]| containerd.push_from("partial", "partial:1", "partial:v1").args(words).run();
    fails(partial(&[]), 1, &["partial:1", "namespace partial", "linux/arm64"]);
    assert_absent(stack, "partial:v1");
    reported(partial(&["--platform", "linux/amd64"]));
    assert_eq!(bring_back_all(stack, "partial:v1").1, 3);
}

#[test]
fn wrong_names_and_namespaces_get_help() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-names");
    for name in ["multi", "two", "repeat"] {
        containerd.import(NAMESPACE, &recorded(name));
    }
    containerd.import("k8s.io", &recorded("empty"));
    let push = |image: &str| containerd.push(image, "names:v1");
    fails(push("mutli:1").run(), 1, &["there is no image `mutli:1`", "did you mean multi:1"]);
    fails(push("two:2").run(), 1, &["there is no image `two:2`", "two:1"]);
    fails(push("postgres").run(), 1, &["there is no image `postgres`", "3 images", "k8s.io", NAMESPACE]);
    fails(push("empty:1").run(), 1, &["the namespace k8s.io has it: add `--containerd-namespace k8s.io`"]);
    fails(push("sha256:0000").run(), 1, &["there is no image `sha256:0000`"]);
    let elsewhere = |namespace: &str| containerd.push_from(namespace, "postgres", "names:v1").run();
    fails(elsewhere("nope"), 1, &["there is no namespace nope; namespaces there:", "k8s.io", NAMESPACE]);
    assert!(!containerd.ctr("default", &["namespaces", "ls", "-q"]).run().ok().stdout.contains("nope"));
    // Refused before any call.
    fails(elsewhere("a/b"), 2, &["`a/b` is not a containerd namespace"]);
    fails(push("").run(), 2, &["`containerd:` names no image"]);
    fails(push("a b").run(), 2, &["space"]);
}

/// Source and destination are opened at the same time, and neither may miss what the other waits for.
#[test]
fn no_push_waits_for_nothing() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-often");
    containerd.import(NAMESPACE, &recorded("multi"));
    let target = containerd.target("docker.io/library/multi:1");
    for _ in 0..40 {
        let outcome = containerd.push("multi:1", "often:v1").arg("--dry-run").run().within(Duration::from_secs(4));
        assert_eq!(reported(outcome), target);
    }
}

/// The matrix of faults has no containerd; these are the faults that make a layer be read a second time.
#[test]
fn faults_on_the_way_are_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-faults");
    containerd.import_built(&stack.image(HEAVY).archive, "docker.io/library/heavy:1");
    let target = containerd.target("docker.io/library/heavy:1");
    let registry = Registry::start(stack);
    for (number, rule) in [
        "PUT /blobs/uploads/ min-length=9000000 times=2 reset=3000000",
        "PUT /blobs/uploads/ min-length=9000000 times=1 lose-answer",
        "PUT /blobs/uploads/ times=3 answer=503",
        "PUT /manifests/ times=1 answer=500",
    ]
    .into_iter()
    .enumerate()
    {
        for by_api in [false, true] {
            let repository = format!("containerd/faults-{number}-{}", if by_api { "api" } else { "files" });
            stack.create_repository(&repository);
            let way = Way::start(&registry, &[rule], None);
            let command = way.push_image("containerd:heavy:1", &repository).args(["--output", "json", "-v"]);
            let command = command.args(["--containerd-namespace", NAMESPACE, "--containerd-address"]);
            let command = command.arg(containerd.socket()).limit(Duration::from_secs(120));
            let command = if by_api { containerd.as_another(command, true) } else { command };
            let outcome = command.run();
            let from_files = outcome.stderr.contains("layers come from containerd's files");
            assert_eq!(from_files, !by_api, "{outcome}");
            assert!(way.seen().hits() > 0, "no fault came\n{outcome}");
            assert_eq!(reported(outcome), target, "{rule}");
            assert_eq!(registry.pull(&repository).digest, target, "{rule}");
        }
    }
}

/// Something that listens on a unix socket in the stack's space, and does with each caller what `action` says.
fn listener(stack: &'static Stack, name: &str, action: &str) -> (PathBuf, Server) {
    let path = stack.space.path(name);
    let script = format!(
        "import socket, sys\nserver = socket.socket(socket.AF_UNIX)\nserver.bind(sys.argv[1])\nserver.listen()\nkept = []\n\
         while True:\n    caller, _ = server.accept()\n    {action}\n"
    );
    let server = stack
        .space
        .command("python3")
        .args(["-c", &script])
        .arg(&path)
        .serve(&stack.space.path(&format!("{name}.log")));
    wait_for("a socket", Duration::from_secs(20), || path.exists().then_some(()));
    (path, server)
}

#[test]
fn a_socket_that_leads_to_no_containerd() {
    let Some(stack) = Stack::signed(&[PARTS, &["setpriv", "python3"]].concat()) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-sockets");
    containerd.import(NAMESPACE, &recorded("two"));
    let at = |address: &str| push(stack, "two:1", "sockets:v1").args(["--containerd-address", address]).run();
    let path = |path: &Path| path.display().to_string();
    let missing = path(&stack.space.path("no-such-socket"));
    fails(at(&missing), 1, &[&missing, "there is no such socket", "start containerd"]);
    let file = path(&stack.space.write("no-socket", "text"));
    fails(at(&file), 1, &[&file, "nothing listens there"]);
    let docker = path(&stack.engine().socket());
    // It answers 400 and hangs up, and which of both is seen first is chance.
    for address in [format!("unix://{docker}"), docker] {
        fails(at(&address), 1, &[&address, "containerd"]);
    }
    for (name, action) in [
        (
            "garbage",
            "caller.sendall(b'SSH-2.0-OpenSSH_9.2p1 Debian-2 and more that is no frame\\r\\n' * 9); kept.append(caller)",
        ),
        ("closing", "caller.close()"),
    ] {
        let (socket, _server) = listener(stack, name, action);
        let outcome = at(&path(&socket)).exit(1).refused().within(Duration::from_secs(60));
        outcome.says(&[&path(&socket), "containerd"]);
    }
    // Half a minute, which is what a call may take.
    let (silent, _server) = listener(stack, "silent", "kept.append(caller)");
    let outcome = at(&path(&silent)).exit(1).refused().within(Duration::from_secs(60));
    outcome.says(&[&path(&silent), "did not answer within 30 s"]);

    for address in ["relative/socket", "tcp://127.0.0.1:1234", "unix://relative"] {
        fails(at(address), 2, &[address, "is not an address of containerd"]);
    }
    let outcome = containerd.push_as_another("two:1", "sockets:v1", false).run();
    fails(outcome, 1, &[&path(&containerd.socket()), "permission denied", "run as root"]);
    assert_absent(stack, "sockets:v1");
}

#[test]
fn content_that_cannot_be_read_comes_through_the_api() {
    let Some(stack) = Stack::signed(&[PARTS, &["setpriv", "mount"]].concat()) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-api");
    let source = stack.image(SMALL);
    containerd.import_built(&source.archive, "docker.io/library/small:1");
    let target = containerd.target("docker.io/library/small:1");
    // By a user who may use the socket only, and where the folder that containerd names is another: its socket in a container.
    let content = containerd.folder.join("root");
    let script = r#"mount -t tmpfs tmpfs "$1" && shift && exec "$@""#;
    let content = content.display().to_string();
    let elsewhere = ["unshare", "--mount", "--", "sh", "-c", script, "sh", &content];
    for (place, command) in [
        ("api-user:v1", containerd.push_as_another("small:1", "api-user:v1", true)),
        ("api-mount:v1", containerd.push("small:1", "api-mount:v1").through(&elsewhere)),
    ] {
        let before = containerd.reads();
        let outcome = command.args(["-v"]).run().says(&["layers come from containerd's API"]);
        assert_eq!(reported(outcome), target, "{place}");
        assert!(containerd.reads() - before >= 5, "{place}: manifest, config and three layers");
        let pulled = pull_from(stack, &reference(stack, place), &["--src-tls-verify=false"]);
        assert_eq!(pulled.digest, target);
        assert_eq!(pulled.image.layers, source.image.layers);
    }
}

#[test]
fn blobs_that_are_gone_or_damaged_are_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let containerd = Containerd::start(stack, "containerd-damage");
    /// Damages an image. Gives what has to be said then: at least which blob it is.
    type Damage = fn(&Containerd, &str) -> String;
    fn layer(containerd: &Containerd, root: &str) -> String {
        containerd.document(root)["layers"][0]["digest"].as_str().expect("a digest").to_owned()
    }
    fn rewrite(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file).expect("a blob");
        change(&mut bytes);
        fs::remove_file(file).expect("the blob");
        fs::write(file, bytes).expect("the blob");
    }
    let cases: [(&str, Damage); 6] = [
        ("layer-file", |containerd, root| {
            let layer = layer(containerd, root);
            fs::remove_file(containerd.file(&layer)).expect("the blob");
            layer
        }),
        ("config-file", |containerd, root| {
            let config = containerd.document(root)["config"]["digest"].as_str().expect("a digest").to_owned();
            fs::remove_file(containerd.file(&config)).expect("the blob");
            config
        }),
        ("manifest-file", |containerd, root| {
            fs::remove_file(containerd.file(root)).expect("the blob");
            root.to_owned()
        }),
        ("layer-cut", |containerd, root| {
            let layer = layer(containerd, root);
            rewrite(&containerd.file(&layer), |bytes| bytes.truncate(bytes.len() / 2));
            layer
        }),
        ("layer-changed", |containerd, root| {
            let layer = layer(containerd, root);
            rewrite(&containerd.file(&layer), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            });
            layer
        }),
        // As Kubernetes does it once a layer is unpacked.
        ("layer-removed", |containerd, root| {
            containerd.ctr(NAMESPACE, &["content", "rm", &layer(containerd, root)]).run().ok();
            "lacks the content of linux/amd64".to_owned()
        }),
    ];
    for (case, damage) in cases {
        let built = format!("containerd-{case}:1");
        image::on_top(&stack.space, stack.engine(), "scratch", &built, case.repeat(2000).as_bytes());
        let archive = stack.space.path(&format!("{case}.tar"));
        stack.engine().run(&["save", "-o", &archive.display().to_string(), &built]);
        let name = format!("docker.io/library/{built}");
        containerd.import_built(&archive, &name);
        let said = damage(&containerd, &containerd.target(&name));
        let place = format!("damage:{case}");
        fails(containerd.push(&built, &place).run(), 1, &[&said]);
        assert_absent(stack, &place);
    }
}
