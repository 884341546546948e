//! The place of the Azure Pipelines agent: gives a task the environment that an agent gives it, and has it run by the test runner of
//! Microsoft's task library, which reads the task's logging commands with Microsoft's parser.
//!
//! The runner knows the command `task.issue` only, not its other name `task.logissue`; [`Run::issues`] knows both.

use crate::command::{Cmd, Outcome};
use crate::parts;
use crate::space::Space;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a task needs of the npm packages, for [`parts::present`].
pub const PARTS: &[&str] = &["npm:azure-pipelines-task-lib", "npm:node10", "npm:node20", "npm:node24", "npm:node26"];

/// The oldest Node.js that an agent runs the task with, the two that most run it with, and the newest there is.
pub const NODES: &[&str] = &["node10", "node20", "node24", "node26"];

/// A step of a pipeline: a task with its inputs, to be run once.
pub struct Step<'a> {
    space: &'a Space,
    script: PathBuf,
    node: &'static str,
    environment: BTreeMap<String, String>,
    public: Vec<String>,
    secret: Vec<String>,
}

/// What a task did.
#[derive(Debug)]
pub struct Run {
    /// What the test runner thinks: nothing said that the task failed.
    pub succeeded: bool,
    /// The logging commands on standard output, in order.
    pub commands: Vec<LoggingCommand>,
    pub stdout: String,
    pub stderr: String,
    /// The exit code of the task's process; `None` when a signal ended it.
    pub status: Option<i64>,
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// A line `##vso[name property=value;]data`, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggingCommand {
    pub name: String,
    pub properties: BTreeMap<String, String>,
    pub data: String,
}

impl<'a> Step<'a> {
    /// A step of the task in `folder`, in the environment that every task has. All inputs have their defaults. The task runs with the
    /// Node.js of the npm package `node`.
    pub fn new(space: &'a Space, folder: &Path, node: &'static str) -> Self {
        let temporary = space.path("agent/_temp");
        let work = space.path("agent/1/s");
        for folder in [&temporary, &work] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let mut step = Self {
            space,
            script: folder.join("index.js"),
            node,
            environment: BTreeMap::new(),
            public: Vec::new(),
            secret: Vec::new(),
        };
        let task = std::fs::read_to_string(folder.join("task.json")).expect("task.json");
        let task: Value = serde_json::from_str(&task).expect("task.json is JSON");
        for input in task["inputs"].as_array().expect("inputs") {
            let default = match &input["defaultValue"] {
                Value::Bool(value) => value.to_string(),
                value => value.as_str().unwrap_or_default().to_owned(),
            };
            step = step.input(input["name"].as_str().expect("a name"), &default);
        }
        step = step
            .variable("Agent.TempDirectory", &temporary.display().to_string())
            .variable("System.DefaultWorkingDirectory", &work.display().to_string())
            .variable("Agent.OS", "Linux")
            .variable("Agent.OSArchitecture", "X64")
            .variable("Agent.Version", "4.260.0")
            .variable("System.HostType", "build")
            .variable("System.TaskInstanceName", "EcrPush")
            .variable("System.CollectionUri", "https://dev.azure.com/example/")
            .variable("System.TeamProjectId", "00000000-0000-0000-0000-0000000000aa")
            .variable("System.PlanId", "00000000-0000-0000-0000-0000000000bb")
            .variable("System.JobId", "00000000-0000-0000-0000-0000000000cc");
        // An agent also sets this name as it is, dot included.
        step.env("TF_BUILD", "True").env("agent.jobstatus", "Succeeded").env("AGENT_JOBSTATUS", "Succeeded")
    }

    /// Sets an input of the task.
    pub fn input(self, name: &str, value: &str) -> Self {
        self.env(&format!("INPUT_{}", variable_name(name)), value)
    }

    /// Sets a variable of the pipeline.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.public.push(name.to_owned());
        self.env(&variable_name(name), value)
    }

    /// Sets a secret variable of the pipeline.
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secret.push(name.to_owned());
        self.env(&format!("SECRET_{}", variable_name(name)), value)
    }

    /// Adds a service connection with these authorization parameters, as the agent does for one that an input names.
    pub fn connection(mut self, id: &str, parameters: &[(&str, &str)]) -> Self {
        let authorization = serde_json::json!({
            "parameters": parameters.iter().copied().collect::<BTreeMap<_, _>>(),
            "scheme": "UsernamePassword",
        });
        for (name, value) in parameters {
            self = self.env(&format!("ENDPOINT_AUTH_PARAMETER_{id}_{}", variable_name(name)), value);
        }
        self.env(&format!("ENDPOINT_URL_{id}"), "https://aws.amazon.com/")
            .env(&format!("ENDPOINT_AUTH_SCHEME_{id}"), "UsernamePassword")
            .env(&format!("ENDPOINT_AUTH_{id}"), &authorization.to_string())
            .env(&format!("ENDPOINT_DATA_{id}"), "{}")
    }

    /// Gives the job's access token the way every Node.js task gets it.
    pub fn job_token(self, token: &str) -> Self {
        let authorization = serde_json::json!({ "parameters": { "AccessToken": token }, "scheme": "OAuth" });
        self.env("ENDPOINT_URL_SYSTEMVSSCONNECTION", "https://dev.azure.com/example/")
            .env("ENDPOINT_AUTH_SCHEME_SYSTEMVSSCONNECTION", "OAuth")
            .env("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN", token)
            .env("ENDPOINT_AUTH_SYSTEMVSSCONNECTION", &authorization.to_string())
    }

    /// Sets an environment variable under exactly this name.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes an environment variable away.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// The environment of the step.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let names = |names: &[String]| Value::from(names.to_vec()).to_string();
        let mut environment = self.environment.clone();
        environment.insert("VSTS_PUBLIC_VARIABLES".to_owned(), names(&self.public));
        environment.insert("VSTS_SECRET_VARIABLES".to_owned(), names(&self.secret));
        environment
    }

    /// Any program, in the environment of the step.
    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        let environment = self.environment();
        environment.iter().fold(self.space.command(program), |command, (name, value)| command.env(name, value))
    }

    /// The words that start the task: Node.js and the script.
    pub fn words(&self) -> [PathBuf; 2] {
        [parts::npm(self.node).join("bin/node"), self.script.clone()]
    }

    /// Runs the step.
    ///
    /// # Panics
    /// When the test runner itself fails.
    #[track_caller]
    pub fn run(&self) -> Run {
        let driver = parts::repository().join("tests/third-party/mock_runner.cjs");
        let runner =
            self.program(parts::npm("node20/bin/node")).arg(driver).arg(parts::npm("azure-pipelines-task-lib"));
        Run::read(&runner.args(self.words()).run().ok())
    }
}

impl Run {
    #[track_caller]
    fn read(outcome: &Outcome) -> Self {
        let value = outcome.json();
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let texts = |value: &Value| value.as_array().expect("an array").iter().map(text).collect();
        let command = |value: &Value| LoggingCommand {
            name: text(&value["name"]),
            properties: value["properties"]
                .as_object()
                .expect("properties")
                .iter()
                .map(|(name, value)| (name.to_lowercase(), text(value)))
                .collect(),
            data: text(&value["data"]),
        };
        Self {
            succeeded: value["succeeded"].as_bool().expect("a verdict"),
            commands: value["commands"].as_array().expect("commands").iter().map(command).collect(),
            stdout: text(&value["stdout"]),
            stderr: text(&value["stderr"]),
            status: value["status"].as_i64(),
            errors: texts(&value["errorIssues"]),
            warnings: texts(&value["warningIssues"]),
        }
    }

    /// The logging commands of this name.
    pub fn named(&self, name: &str) -> Vec<&LoggingCommand> {
        self.commands.iter().filter(|command| command.name == name).collect()
    }

    /// The messages of the issues of a type: `error` or `warning`.
    pub fn issues(&self, kind: &str) -> Vec<&str> {
        let here = |command: &&LoggingCommand| {
            ["task.issue", "task.logissue"].contains(&command.name.as_str())
                && command.properties.get("type").is_some_and(|value| value == kind)
        };
        self.commands.iter().filter(here).map(|command| command.data.as_str()).collect()
    }

    /// The errors and the warnings that the test runner has counted.
    pub fn counted(&self) -> (&[String], &[String]) {
        (&self.errors, &self.warnings)
    }

    /// The last value a variable of the pipeline was set to.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let sets = |command: &&LoggingCommand| {
            command.name == "task.setvariable" && command.properties.get("variable").is_some_and(|it| it == name)
        };
        self.commands.iter().rev().find(sets).map(|command| command.data.as_str())
    }

    /// The result that an agent makes of all `task.complete`: the worst of them. `Succeeded` if there is none.
    pub fn result(&self) -> &str {
        const RESULTS: [&str; 3] = ["Succeeded", "SucceededWithIssues", "Failed"];
        let rank = |result: &str| RESULTS.iter().position(|known| *known == result);
        let results = self.named("task.complete").into_iter().map(|command| {
            let result = command.properties.get("result").map_or("", String::as_str);
            rank(result).unwrap_or_else(|| panic!("the agent refuses the result {result:?}\n{self}"))
        });
        RESULTS[results.max().unwrap_or(0)]
    }

    /// Neither output may hold `secret`, except where it is registered as a secret.
    #[track_caller]
    pub fn hides(&self, secret: &str) {
        for line in self.stdout.lines().chain(self.stderr.lines()) {
            assert!(line.starts_with("##vso[task.setsecret]") || !line.contains(secret), "a secret is shown\n{self}");
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit code {:?}, succeeded: {}", self.status, self.succeeded)?;
        write!(f, "--- standard output\n{}\n--- standard error\n{}\n---", self.stdout, self.stderr)
    }
}

/// The agent's rule for names in the environment.
fn variable_name(name: &str) -> String {
    name.replace(['.', ' '], "_").to_uppercase()
}
