//! Running a program inside a space, with a bounded time and an environment that holds nothing but what is named.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program to run. See [`crate::space::Space::command`].
pub struct Cmd {
    enter: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Option<PathBuf>,
    limit: Duration,
}

/// A program that runs until its space ends.
pub struct Server(Child);

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// The command line.
    pub command: String,
    /// The exit status; -1 when a signal ended it, as when its time was up.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Cmd {
    /// `enter` is put before the program, and has to make it run in the right namespaces.
    pub fn new(enter: Vec<OsString>, program: impl AsRef<OsStr>) -> Self {
        Self {
            enter,
            arguments: vec![program.as_ref().to_owned()],
            environment: Vec::new(),
            stdin: None,
            limit: Duration::from_secs(240),
        }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Starts the program by way of another, such as `taskset`.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.arguments.splice(0..0, words.iter().map(OsString::from));
        self
    }

    /// Sets an environment variable. Setting one again replaces it.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self = self.without(name);
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Takes an environment variable away.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// Reads standard input from a file.
    pub fn stdin(mut self, file: impl AsRef<Path>) -> Self {
        self.stdin = Some(file.as_ref().to_owned());
        self
    }

    /// How long the program may run.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn prepare(&self, limit: Option<Duration>) -> Command {
        let mut words = self.enter.clone();
        if let Some(limit) = limit {
            // Inside the namespaces, so that the program itself is ended and not only the one that entered them.
            words.extend(["timeout".into(), "--signal=KILL".into(), limit.as_secs_f64().to_string().into()]);
        }
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        match &self.stdin {
            Some(file) => command.stdin(File::open(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))),
            None => command.stdin(Stdio::null()),
        };
        command
    }

    /// Runs the program to its end.
    pub fn run(self) -> Outcome {
        let start = Instant::now();
        let output =
            self.prepare(Some(self.limit)).output().unwrap_or_else(|error| panic!("{:?}: {error}", self.arguments));
        Outcome {
            command: self.arguments.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "),
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Starts a server that ends with its space. Standard output goes to `log`, standard error to `log` with `.err` as its ending.
    pub fn serve(self, log: &Path) -> Server {
        let create = |path: &Path| File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut command = self.prepare(None);
        command.stdout(create(log)).stderr(create(&log.with_extension("err")));
        match command.spawn() {
            Ok(child) => Server(child),
            Err(error) => panic!("{:?}: {error}", self.arguments),
        }
    }
}

impl Server {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child of ours").is_some()
    }
}

impl Outcome {
    /// The outcome of a program that has to succeed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{self}");
        self
    }

    /// The outcome of a program that has to end with `status`.
    #[track_caller]
    pub fn exit(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Standard error has to hold each of `words`, in any case.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.to_lowercase().contains(&word.to_lowercase()),
                "standard error does not say {word:?}\n{self}"
            );
        }
        self
    }

    /// The outcome of a push that has to be refused, with a short explanation instead of a program's insides.
    #[track_caller]
    pub fn refused(self) -> Self {
        assert!(self.status == 1 || self.status == 2, "{self}");
        assert!(!self.stderr.contains("panicked at") && self.stderr.lines().count() <= 25, "not one sentence\n{self}");
        assert_eq!(self.stdout, "", "results of a push that failed\n{self}");
        self
    }

    /// Neither output may hold `secret`.
    #[track_caller]
    pub fn hides(self, secret: &str) -> Self {
        assert!(!self.stderr.contains(secret) && !self.stdout.contains(secret), "a secret is shown\n{self}");
        self
    }

    /// The program has to be done within `limit`.
    #[track_caller]
    pub fn within(self, limit: Duration) -> Self {
        assert!(self.took < limit, "took longer than {limit:?}\n{self}");
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is not JSON: {error}\n{self}"))
    }

    /// The lines of standard output.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}\nexit status {} after {:.1?}", self.command, self.status, self.took)?;
        write!(f, "--- standard output\n{}\n--- standard error\n{}\n---", self.stdout, self.stderr)
    }
}

/// Asks `done` again and again until it gives a value.
///
/// # Panics
/// When `limit` is over.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
