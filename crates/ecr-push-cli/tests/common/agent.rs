//! An Azure Pipelines agent, as far as a task sees one: what it puts into the environment, and how it reads the log.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use local_ecr::Config;

use super::desk::{Desk, Proxy, Reply};
use super::engine::{IMAGE, RecordedEngine};
use super::{KEY, Program, Run, SECRET, Stand};

/// The id of the service connection of every test.
pub const CONNECTION: &str = "0f6c2d1e-3b4a-4c5d-8e9f-a1b2c3d4e5f6";
/// The job's token, in the agent's own connection.
pub const JOB_TOKEN: &str = "eyJ0eXAi-the-job-token-of-this-run";

/// The names of the inputs and their defaults, as the agent gives them. The first fourteen are upstream's.
pub const INPUTS: [(&str, &str); 21] = [
    ("awsCredentials", ""),
    ("regionName", ""),
    ("imageSource", "imagename"),
    ("sourceImageName", ""),
    ("sourceImageTag", "latest"),
    ("sourceImageId", ""),
    ("repositoryName", ""),
    ("pushTag", "latest"),
    ("autoCreateRepository", "false"),
    ("forceDockerNamingConventions", "false"),
    ("removeDockerImage", "false"),
    ("outputVariable", ""),
    ("logRequest", "false"),
    ("logResponse", "false"),
    ("platform", ""),
    ("attestations", "keep"),
    ("compression", ""),
    ("reuse", "registry"),
    ("reuseFrom", ""),
    ("mountFrom", ""),
    ("cacheFolder", ""),
];

/// The agent's rule for names.
fn converted(name: &str) -> String {
    name.replace(['.', ' '], "_").to_uppercase()
}

impl Stand {
    /// The agent's folder for temporary files.
    pub fn temp(&self) -> PathBuf {
        self.folder.path().join("temp")
    }

    /// The task as an agent starts it, to push the image `two:1` of `engine` into team/app as v1. No credentials and no
    /// region yet.
    pub fn bare_task(&self, engine: &RecordedEngine) -> Program {
        let home = self.folder.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::create_dir_all(self.temp()).unwrap();
        let own = serde_json::json!({ "parameters": { "AccessToken": JOB_TOKEN }, "scheme": "OAuth" });
        let mut program = Program::new("azure-task")
            .env("HOME", home)
            .env("PATH", "/usr/bin:/bin")
            .env("DOCKER_HOST", engine.host())
            .env("AWS_ENDPOINT_URL", self.server.endpoint_url())
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://127.0.0.1:{}", super::closed_port()))
            .env("AGENT_TEMPDIRECTORY", self.temp())
            .env("ENDPOINT_AUTH_SYSTEMVSSCONNECTION", own.to_string())
            .env("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN", JOB_TOKEN)
            .envs(&[
                ("TF_BUILD", "True"),
                ("AGENT_VERSION", "4.260.0"),
                ("AGENT_OS", "Linux"),
                ("AGENT_JOBSTATUS", "Succeeded"),
                ("agent.jobstatus", "Succeeded"),
                ("SYSTEM_HOSTTYPE", "build"),
                ("SYSTEM_TASKINSTANCENAME", "EcrPush"),
                ("SYSTEM_CULTURE", "en-US"),
                ("VSTS_PUBLIC_VARIABLES", r#"["agent.version","system.hosttype"]"#),
                ("VSTS_SECRET_VARIABLES", "[]"),
                ("ENDPOINT_URL_SYSTEMVSSCONNECTION", "https://dev.azure.com/org/"),
                ("ENDPOINT_AUTH_SCHEME_SYSTEMVSSCONNECTION", "OAuth"),
            ]);
        for (name, default) in INPUTS {
            program = program.input(name, default);
        }
        program
            .input("sourceImageName", "two")
            .input("sourceImageTag", "1")
            .input("repositoryName", super::APP)
            .input("pushTag", "v1")
    }

    /// The same with keys of the build's host, and a region.
    pub fn task(&self, engine: &RecordedEngine) -> Program {
        self.bare_task(engine)
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .input("regionName", "us-east-1")
    }

    /// The same with the image asked for by its ID.
    pub fn task_by_id(&self, engine: &RecordedEngine) -> Program {
        self.task(engine).input("imageSource", "imageid").input("sourceImageId", IMAGE)
    }
}

impl Program {
    /// An input of the task.
    pub fn input(self, name: &str, value: &str) -> Self {
        self.env(&format!("INPUT_{}", converted(name)), value)
    }

    /// A pipeline variable.
    pub fn variable(self, name: &str, value: &str) -> Self {
        self.env(&converted(name), value)
    }

    /// A secret pipeline variable.
    pub fn secret_variable(self, name: &str, value: &str) -> Self {
        let names = serde_json::json!([name]).to_string();
        self.env("VSTS_SECRET_VARIABLES", names).env(&format!("SECRET_{}", converted(name)), value)
    }

    /// The input `awsCredentials`, and the service connection behind it in all the agent's forms.
    pub fn connection(self, fields: &[(&str, &str)]) -> Self {
        let parameters: serde_json::Map<String, serde_json::Value> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let document = serde_json::json!({ "parameters": parameters, "scheme": "UsernamePassword" });
        let program = self
            .input("awsCredentials", CONNECTION)
            .env(&format!("ENDPOINT_URL_{CONNECTION}"), "https://aws.amazon.com/")
            .env(&format!("ENDPOINT_AUTH_{CONNECTION}"), document.to_string())
            .env(&format!("ENDPOINT_AUTH_SCHEME_{CONNECTION}"), "UsernamePassword")
            .env(&format!("ENDPOINT_DATA_{CONNECTION}"), "{}");
        fields.iter().fold(program, |program, (name, value)| {
            program.env(&format!("ENDPOINT_AUTH_PARAMETER_{CONNECTION}_{}", converted(name)), value)
        })
    }

    /// Runs the task, and reads its log as the agent does.
    pub async fn job(self) -> Job {
        Job::read(self.run().await)
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `##vso[name property=value;]data`, decoded.
    Command { name: String, properties: Vec<(String, String)>, data: String },
    /// `##[group]title`
    Group(String),
    /// `##[endgroup]`
    GroupEnd,
    /// Anything else.
    Text(String),
}

/// What the agent made of a run.
#[derive(Debug)]
pub struct Job {
    pub lines: Vec<Line>,
    pub run: Run,
}

impl Job {
    /// Reads the log, more strictly than the agent: a command starts its line, every property ends in `;`, and nothing that
    /// looks like a command is anything else.
    #[track_caller]
    pub fn read(run: Run) -> Self {
        assert_eq!(run.status, 0, "the task's machinery never fails:\n{}{}", run.stdout, run.stderr);
        assert_eq!(run.stderr, "", "there is one stream:\n{}", run.stdout);
        assert!(!run.stdout.contains('\r'), "a carriage return: {:?}", run.stdout);
        assert!(run.stdout.ends_with('\n'), "a line is not ended: {:?}", run.stdout);
        assert!(!run.stdout.contains("panicked"), "{}", run.stdout);
        let lines: Vec<Line> = run.stdout.lines().map(line).collect();
        let job = Self { lines, run };
        assert_eq!(job.commands("task.complete").len(), 1, "one result:\n{}", job.run.stdout);
        assert!(
            matches!(job.lines.last(), Some(Line::Command { name, .. }) if name == "task.complete"),
            "the result comes last:\n{}",
            job.run.stdout
        );
        let mut progress = 0;
        for (properties, _) in job.commands("task.setprogress") {
            let value: i32 = properties[0].1.parse().unwrap();
            assert!(properties[0].0 == "value" && value > progress && value <= 100, "{properties:?}");
            progress = value;
        }
        let mut open = false;
        for line in &job.lines {
            match line {
                Line::Group(_) | Line::GroupEnd => {
                    assert_ne!(open, matches!(line, Line::Group(_)), "groups nest:\n{}", job.run.stdout);
                    open = !open;
                }
                _ => {}
            }
        }
        assert!(!open, "a group is left open:\n{}", job.run.stdout);
        job
    }

    /// Asserts that it succeeded, without a warning or an error.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.completed(), ("Succeeded", ""), "{}", self.run.stdout);
        assert!(self.commands("task.issue").is_empty(), "{}", self.run.stdout);
        self
    }

    /// Asserts that it succeeded with exactly these warnings: each a piece of one.
    #[track_caller]
    pub fn warned(self, warnings: &[&str]) -> Self {
        assert_eq!(self.completed().0, "Succeeded", "{}", self.run.stdout);
        self.has_warnings(warnings);
        self
    }

    /// Asserts that there are exactly these warnings.
    #[track_caller]
    pub fn has_warnings(&self, warnings: &[&str]) {
        let told = self.issues("warning");
        assert_eq!(told.len(), warnings.len(), "{told:#?}");
        for (told, warning) in told.iter().zip(warnings) {
            assert!(told.contains(warning), "`{warning}` is missing in `{told}`");
        }
    }

    /// Asserts that it failed with one error, which is also the result's text. Answers it.
    #[track_caller]
    pub fn failed(&self) -> &str {
        let (result, text) = self.completed();
        assert_eq!(result, "Failed", "{}", self.run.stdout);
        assert_eq!(self.issues("error"), [text], "{}", self.run.stdout);
        let at = self.lines.len() - 2;
        let issue = self.run.stdout.lines().nth(at).unwrap();
        assert!(issue.starts_with("##vso[task.issue type=error;source=TaskInternal;]"), "{issue}");
        text
    }

    /// The result and its text.
    pub fn completed(&self) -> (&str, &str) {
        let (properties, data) = self.commands("task.complete")[0];
        assert_eq!(properties.len(), 1, "{properties:?}");
        assert_eq!(properties[0].0, "result");
        (&properties[0].1, data)
    }

    /// Properties and data of each command of this name.
    #[allow(clippy::type_complexity, reason = "a list of pairs")]
    pub fn commands(&self, wanted: &str) -> Vec<(&[(String, String)], &str)> {
        let found = self.lines.iter().filter_map(|line| match line {
            Line::Command { name, properties, data } if name == wanted => Some((properties.as_slice(), data.as_str())),
            _ => None,
        });
        found.collect()
    }

    /// The texts of the issues of one kind.
    pub fn issues(&self, kind: &str) -> Vec<&str> {
        let of_kind = |properties: &[(String, String)]| properties[0] == ("type".to_owned(), kind.to_owned());
        let issues = self.commands("task.issue").into_iter().filter(|(properties, _)| of_kind(properties));
        issues.map(|(_, data)| data).collect()
    }

    /// What is hidden from now on.
    pub fn hidden(&self) -> Vec<&str> {
        self.commands("task.setsecret").into_iter().map(|(_, data)| data).collect()
    }

    /// The variables that are set, each with its `isOutput`, in their order.
    pub fn variables(&self) -> Vec<(&str, &str, &str)> {
        let property = |properties: &'_ [(String, String)], name: &str| -> usize {
            properties.iter().position(|(key, _)| key == name).unwrap_or_else(|| panic!("no {name}: {properties:?}"))
        };
        let variables = self.commands("task.setvariable").into_iter().map(|(properties, data)| {
            assert_eq!(properties[property(properties, "issecret")].1, "false");
            let name = properties[property(properties, "variable")].1.as_str();
            (name, properties[property(properties, "isOutput")].1.as_str(), data)
        });
        variables.collect()
    }

    /// The lines that people read: texts and titles of groups.
    pub fn texts(&self) -> Vec<&str> {
        let texts = self.lines.iter().filter_map(|line| match line {
            Line::Text(text) | Line::Group(text) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The texts of debug lines.
    pub fn debug(&self) -> Vec<&str> {
        self.commands("task.debug").into_iter().map(|(_, data)| data).collect()
    }

    /// Asserts that each of `texts` is in a line that people read, in this order.
    #[track_caller]
    pub fn says(&self, texts: &[&str]) {
        let mut from = 0;
        for text in texts {
            let found = self.texts().iter().skip(from).position(|line| line.contains(text));
            from += found
                .unwrap_or_else(|| panic!("`{text}` is missing (from text {from} on) in:\n{}", self.run.stdout))
                + 1;
        }
    }

    /// Where the first line is that contains `text`, as it was written.
    #[track_caller]
    pub fn line_of(&self, text: &str) -> usize {
        let mut lines = self.run.stdout.lines();
        lines.position(|line| line.contains(text)).unwrap_or_else(|| panic!("no `{text}` in:\n{}", self.run.stdout))
    }

    /// Everything that was written but the commands that hide a secret.
    pub fn without_masks(&self) -> String {
        let lines = self.run.stdout.lines().filter(|line| !line.starts_with("##vso[task.setsecret]"));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

#[track_caller]
fn line(text: &str) -> Line {
    let lower = text.to_lowercase();
    if let Some(command) = text.strip_prefix("##vso[") {
        assert_eq!(lower.matches("##vso[").count(), 1, "a command within a command: {text}");
        let (head, data) = command.split_once(']').unwrap_or_else(|| panic!("no end: {text}"));
        let (name, properties) = head.split_once(' ').unwrap_or((head, ""));
        assert_eq!(name.split('.').filter(|part| !part.is_empty()).count(), 2, "not area.event: {text}");
        assert!(properties.is_empty() || properties.ends_with(';'), "the last property is not ended: {text}");
        let properties = properties.split_terminator(';').map(|property| {
            let (key, value) = property.split_once('=').unwrap_or_else(|| panic!("no value: {text}"));
            assert!(!key.is_empty() && !value.is_empty() && !key.contains(' '), "{text}");
            (key.to_owned(), decoded(value))
        });
        return Line::Command { name: name.to_owned(), properties: properties.collect(), data: decoded(data) };
    }
    assert!(!lower.contains("##vso"), "a command that is none: {text}");
    if let Some(title) = text.strip_prefix("##[group]") {
        assert!(!title.contains("##["), "{text}");
        return Line::Group(title.to_owned());
    }
    if text == "##[endgroup]" {
        return Line::GroupEnd;
    }
    assert!(!text.contains("##["), "a formatting command that is none of ours: {text}");
    assert!(!text.chars().any(char::is_control), "a control character: {text:?}");
    Line::Text(text.to_owned())
}

/// Every percent sign is one of the five escapes.
#[track_caller]
fn decoded(text: &str) -> String {
    const ESCAPES: [(&str, char); 5] = [("AZP25", '%'), ("0D", '\r'), ("0A", '\n'), ("5D", ']'), ("3B", ';')];
    let mut parts = text.split('%');
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escape, letter) = ESCAPES
            .iter()
            .find(|(escape, _)| part.starts_with(escape))
            .unwrap_or_else(|| panic!("a bare percent sign: {text}"));
        result.push(*letter);
        result.push_str(&part[escape.len()..]);
    }
    result
}

/// An identity token of Azure DevOps for the service connection.
pub fn identity_token() -> String {
    let payload = serde_json::json!({
        "iss": "https://vstoken.dev.azure.com/0c1d-org", "aud": "api://AzureADTokenExchange", "sub": "sc://org/project/aws-prod"
    });
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(&payload.to_string()), part("the-signature-of-it"))
}

/// Azure DevOps, which gives identity tokens to jobs.
pub async fn token_desk() -> Desk {
    Desk::start(|_, _| Reply::Say(200, serde_json::json!({ "oidcToken": identity_token() }).to_string())).await
}

impl Program {
    /// A service connection that asks for OIDC, at this Azure DevOps.
    pub fn oidc(self, desk: &Desk, more: &[(&str, &str)]) -> Self {
        let fields: Vec<_> = [("assumeRoleArn", ROLE), ("useOIDC", "true")].iter().chain(more).copied().collect();
        self.connection(&fields).env("SYSTEM_OIDCREQUESTURI", format!("{}/org/oidctoken", desk.url()))
    }
}

/// The role of every test.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";

/// A server under the real names of AWS in eu-west-1, and the agent's proxy before it. Whoever is not led by the proxy does
/// not reach it.
pub struct Aws {
    pub stand: Stand,
    pub proxy: Proxy,
}

impl Aws {
    pub async fn start() -> Self {
        let tls = Some(local_ecr::Tls::default());
        let stand = Stand::strict(Config { region: "eu-west-1".into(), tls, ..Config::default() }).await;
        stand.file("ca.pem", stand.server.ca_pem().unwrap());
        let proxy = Proxy::before(stand.server.address()).await;
        Self { stand, proxy }
    }

    /// The task, whose agent trusts the server and knows no proxy yet.
    pub fn direct_task(&self, engine: &RecordedEngine) -> Program {
        let task = self.stand.task(engine).without("AWS_ENDPOINT_URL").input("regionName", "eu-west-1");
        task.variable("Agent.CAInfo", self.stand.folder.path().join("ca.pem").to_str().unwrap())
    }

    /// The task, whose agent has the proxy.
    pub fn task(&self, engine: &RecordedEngine) -> Program {
        self.direct_task(engine).variable("Agent.ProxyUrl", &self.proxy.url())
    }
}

/// The hosts of AWS in eu-west-1 that a push asks for: API and registry.
pub const HOSTS: [&str; 2] = ["123456789012.dkr.ecr.eu-west-1.amazonaws.com", "api.ecr.eu-west-1.amazonaws.com"];
