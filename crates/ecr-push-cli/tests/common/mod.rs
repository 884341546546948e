//! A local ECR, and the program run against it with an environment that holds nothing but what a test names.
#![allow(dead_code, reason = "each test file uses a part")]

#[cfg(unix)]
pub mod agent;
#[cfg(unix)]
pub mod desk;
#[cfg(unix)]
pub mod engine;
#[cfg(unix)]
pub mod keys;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use local_ecr::{Answer, Config, Fault, FaultAction, Key, LocalEcr, Mutability, RecordedRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;

/// The repository of every test.
pub const APP: &str = "team/app";
/// The account of every test.
pub const ACCOUNT: &str = "123456789012";
/// The key every program is given, and its secret.
pub const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI+K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A local ECR with the repository [`APP`], and a folder that is the program's home.
pub struct Stand {
    pub server: LocalEcr,
    pub folder: tempfile::TempDir,
}

impl Stand {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    /// A server that knows [`KEY`], lets no other key in, and verifies signatures.
    pub async fn strict(mut config: Config) -> Self {
        config.keys.push(Key {
            access_key_id: KEY.to_owned(),
            secret_access_key: SECRET.to_owned(),
            user: "tester".to_owned(),
        });
        Self::with(config).await
    }

    pub async fn with(config: Config) -> Self {
        let server = LocalEcr::start(config).await.unwrap();
        server.create_repository(APP, Mutability::mutable()).unwrap();
        Self { server, folder: tempfile::tempdir().unwrap() }
    }

    /// The program with these words, a home, a key, a region, and the server as its AWS.
    pub fn program(&self, words: &str) -> Program {
        self.bare(words)
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
    }

    /// The same without key and region. Instance metadata is at a port where nothing listens.
    pub fn bare(&self, words: &str) -> Program {
        Program::new(words)
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("AWS_ENDPOINT_URL", self.server.endpoint_url())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://127.0.0.1:{}", closed_port()))
    }

    /// `push IMAGE --repository team/app -t v1` and these words, of the image with two layers.
    pub fn push(&self, words: &str) -> Program {
        self.program(&push_words(words))
    }

    /// `HOST:PORT/team/app`.
    pub fn uri(&self) -> String {
        format!("{}/{APP}", self.server.registry_host())
    }

    /// The manifest digest under a tag.
    pub fn tag(&self, tag: &str) -> Option<String> {
        self.server.repository(APP)?.tags.get(tag).cloned()
    }

    /// What was asked, by API operation.
    pub fn asked(&self, operation: &str) -> Vec<RecordedRequest> {
        self.server.requests().into_iter().filter(|request| request.operation == operation).collect()
    }

    /// Who asked for the registry's password.
    pub fn principal(&self) -> String {
        self.asked("GetAuthorizationToken")[0].principal.clone().unwrap_or_default()
    }

    /// Writes a file below the folder.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }
}

/// Has every call of this operation answered so.
pub fn answer(stand: &Stand, operation: &str, answer: Answer, times: usize) {
    stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation(operation).times(times));
}

/// What `GetAuthorizationToken` answers with these members.
pub fn authorization(data: &serde_json::Value) -> Answer {
    Answer { message: serde_json::json!({ "authorizationData": data }).to_string(), ..Answer::status(200) }
}

/// Has this token, in Base64, given as that of the registry at `endpoint`.
pub fn give_token(stand: &Stand, token: &str, endpoint: &str) {
    let data = serde_json::json!([{
        "authorizationToken": token, "expiresAt": 4_102_444_800_u64, "proxyEndpoint": endpoint
    }]);
    answer(stand, "GetAuthorizationToken", authorization(&data), usize::MAX);
}

/// The words of a push of [`two`] into [`APP`] as `v1`.
pub fn push_words(words: &str) -> String {
    format!("push {} --repository {APP} -t v1 {words}", two())
}

/// A recorded file.
pub fn recorded(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ecr-push/tests/fixtures/engines").join(path)
}

/// The image with two layers, uncompressed.
pub fn two() -> String {
    format!("docker-archive:{}", recorded("docker-20.10-overlay2/export-two.tar").display())
}

/// The index of two platforms with one attestation.
pub fn multi() -> String {
    format!("oci-archive:{}", recorded("docker-28.5-containerd/export-multi.tar").display())
}

/// A port where nothing listens.
pub fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks over plain HTTP. Answers the status and the body.
pub fn http(method: &str, url: &str, headers: &[(&str, &str)]) -> (u16, String) {
    http_with_body(method, url, headers, "")
}

/// The same with a body.
pub fn http_with_body(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut head =
        format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    write!(stream, "{head}\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The program, not started yet.
#[must_use]
pub struct Program {
    words: Vec<OsString>,
    environment: BTreeMap<String, OsString>,
    stdin: Stdio,
    folder: Option<PathBuf>,
    limit: Duration,
    /// Words of `ulimit`.
    ulimit: Option<&'static str>,
}

impl Program {
    /// Words are separated by white space.
    pub fn new(words: &str) -> Self {
        Self {
            words: words.split_whitespace().map(OsString::from).collect(),
            environment: BTreeMap::new(),
            stdin: Stdio::null(),
            folder: None,
            limit: Duration::from_secs(40),
            ulimit: None,
        }
    }

    /// Starts it by a shell that sets this limit first.
    #[cfg(unix)]
    pub fn ulimit(mut self, words: &'static str) -> Self {
        self.ulimit = Some(words);
        self
    }

    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    /// Runs it in this folder.
    pub fn within(self, folder: &Path) -> Self {
        Self { folder: Some(folder.to_owned()), ..self }
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    pub fn envs(self, variables: &[(&str, &str)]) -> Self {
        variables.iter().fold(self, |program, (name, value)| program.env(name, value))
    }

    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdin = stdin;
        self
    }

    /// How long it may run before the test fails.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    pub fn start(self) -> Running {
        let program = env!("CARGO_BIN_EXE_ecr-push");
        let mut command = match self.ulimit {
            Some(words) => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", &format!("ulimit {words} && exec \"$0\" \"$@\""), program]);
                shell
            }
            None => Command::new(program),
        };
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command
            .args(&self.words)
            .env_clear()
            // Without it Windows has no network.
            .envs(std::env::var_os("SystemRoot").filter(|_| cfg!(windows)).map(|root| ("SystemRoot", root)))
            .envs(&self.environment)
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // Held open: waiting for a child closes what the child still has of it.
        let stdin = child.stdin.take();
        let stdout = Output::of(child.stdout.take().unwrap());
        let stderr = Output::of(child.stderr.take().unwrap());
        Running { child, stdin, stdout, stderr, started: Instant::now(), limit: self.limit, words: self.words }
    }

    pub async fn run(self) -> Run {
        self.start().finish().await
    }
}

/// The program while it runs. It is killed when this is dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    pub stdout: Output,
    pub stderr: Output,
    started: Instant,
    limit: Duration,
    words: Vec<OsString>,
}

impl Running {
    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id().expect("the program runs")
    }

    /// False once it has ended.
    pub fn is_alive(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // Behind the name, which is in parentheses; Z is one that nobody has waited for.
        status.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Writes to its standard input.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("a pipe").write_all(bytes).await.unwrap();
    }

    /// Ends its standard input.
    pub fn end_of_input(&mut self) {
        self.stdin = None;
    }

    /// True once the program handles SIGINT and SIGTERM itself. Other systems do not tell.
    pub fn catches_signals(&self) -> bool {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap_or_default()))
        else {
            return true;
        };
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        let mask = u64::from_str_radix(mask.trim(), 16).unwrap_or_default();
        [2, 15].iter().all(|signal| mask & (1 << (signal - 1)) != 0)
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> Run {
        let left = self.limit.saturating_sub(self.started.elapsed());
        let Ok(status) = tokio::time::timeout(left, self.child.wait()).await else {
            panic!("{:?} did not end within {:?}; it said:\n{}", self.words, self.limit, self.stderr.text());
        };
        let took = self.started.elapsed();
        let (stdout, stderr) = (self.stdout.all().await, self.stderr.all().await);
        Run { status: status.unwrap().code().unwrap_or(-1), stdout, stderr, took }
    }
}

/// What the program says, while it says it.
pub struct Output {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn of(mut pipe: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let kept = Arc::clone(&bytes);
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
                kept.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        Self { bytes, reader }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).expect("UTF-8")
    }

    async fn all(self) -> String {
        tokio::time::timeout(Duration::from_secs(5), self.reader).await.expect("the pipe ends").unwrap();
        String::from_utf8(Arc::try_unwrap(self.bytes).unwrap().into_inner().unwrap()).expect("UTF-8")
    }
}

/// Waits until something is so.
pub async fn wait_for(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    /// Asserts that it succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.status, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that it failed with this status, printed no result, and said why in one sentence. Answers the sentence.
    #[track_caller]
    pub fn failed(&self, status: i32) -> &str {
        assert_eq!(self.status, status, "{}", self.stderr);
        assert_eq!(self.stdout, "", "a failure has no result");
        let mut sentences = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let sentence = sentences.next().unwrap_or_else(|| panic!("no sentence:\n{}", self.stderr));
        assert_eq!(sentences.next(), None, "one sentence:\n{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        sentence
    }

    /// Asserts that each of `texts` is somewhere on standard error.
    #[track_caller]
    pub fn says(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is missing in:\n{}", self.stderr);
        }
    }

    /// Asserts that none of `texts` is in any output.
    #[track_caller]
    pub fn hides(&self, secrets: &[&str]) {
        for secret in secrets {
            assert!(!self.stdout.contains(secret), "`{secret}` is shown in:\n{}", self.stdout);
            assert!(!self.stderr.contains(secret), "`{secret}` is shown in:\n{}", self.stderr);
        }
    }

    /// The JSON object on standard output.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "one object on one line:\n{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// The layout of the recorded index with one of its two platforms taken out: one platform and one attestation.
pub fn one_platform_with_attestation(folder: &Path) -> String {
    let path = folder.join("one-platform");
    let archive = std::fs::File::open(recorded("docker-28.5-containerd/export-multi.tar")).unwrap();
    tar::Archive::new(archive).unpack(&path).unwrap();
    let blob = |digest: &str| path.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let read = |path: &Path| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut top = read(&path.join("index.json"));
    let mut index = read(&blob(top["manifests"][0]["digest"].as_str().unwrap()));
    index["manifests"].as_array_mut().unwrap().retain(|entry| entry["platform"]["architecture"] != "arm64");
    let bytes = index.to_string();
    let digest = ecr_push::image::Digest::of(bytes.as_bytes()).to_string();
    std::fs::write(blob(&digest), &bytes).unwrap();
    top["manifests"][0]["digest"] = digest.into();
    top["manifests"][0]["size"] = bytes.len().into();
    std::fs::write(path.join("index.json"), top.to_string()).unwrap();
    format!("oci:{}", path.display())
}

/// Percent-encoding, as a URL has it.
pub fn percent_encoded(text: &str) -> String {
    let letter = |b: u8| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(letter).collect()
}

/// Files with their contents, below a folder.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => open.push(path),
                path => drop(found.insert(path.clone(), std::fs::read(&path).unwrap_or_default())),
            }
        }
    }
    found
}
