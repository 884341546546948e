//! The Azure task as an agent runs it, on a real engine and a real registry: its whole log against logs that are kept in `golden/`.
//!
//! Each line of a kept log begins with what it stands for: the number of a statement about upstream (docs/azure-pipelines.md), or
//! `own` for what upstream did not have. Lines that begin with `~` come in any order among themselves: source and destination are
//! opened at the same time. What differs from run to run stands in braces. Lines of the debug log are left out.
//!
//! With a folder in `ECR_PUSH_LOGS` each log is also written there as it is: the Marketplace's screenshots are drawn from them
//! (`integrations/azure-pipelines/draw-screenshots`).

use crate::agent::{self, Run, Step};
use crate::parts;
use crate::push;
use crate::stack::{HOST, Stack, TOKEN};
use crate::verify::pull_with_skopeo;
use base64::Engine as _;
use std::path::PathBuf;

const CONNECTION: &str = "3b5f0d9e-98a7-4e5e-8c4a-5d3f0a5a9a01";
const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";

fn stack() -> Option<&'static Stack> {
    let parts: Vec<&str> = ["dockerd", "docker", "skopeo", "python3"].iter().chain(agent::PARTS).copied().collect();
    Stack::guarded(&parts)
}

/// The task's folder with the program that Cargo has just built, as a VSIX leaves it: without the run bit.
fn task(stack: &Stack, name: &str) -> PathBuf {
    let folder = stack.space.path(&format!("golden-{name}"));
    let program = folder.join("bin/linux-x64/ecr-push");
    std::fs::create_dir_all(program.parent().expect("a folder")).expect("a folder");
    let from = parts::repository().join("integrations/azure-pipelines/EcrPush");
    for file in ["task.json", "index.js"] {
        std::fs::copy(from.join(file), folder.join(file)).expect("a file of the task");
    }
    std::fs::copy(push::program(), &program).expect("the program");
    let mode: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&program, mode).expect("the run bit goes");
    folder
}

fn step<'a>(stack: &'static Stack, name: &str, repository: &str) -> Step<'a> {
    Step::new(&stack.space, &task(stack, name), "node20")
        .input("awsCredentials", CONNECTION)
        .input("regionName", "us-east-1")
        .input("repositoryName", repository)
        .input("pushTag", "1.4")
        .variable("Agent.CAInfo", &stack.space.path("ca.crt").display().to_string())
        .env("DOCKER_HOST", &stack.engine().host())
        .env("HOME", &stack.space.path("golden-home").display().to_string())
}

/// The log with what differs from run to run in braces.
fn settled(run: &Run, known: &[(&str, &str)]) -> Vec<String> {
    let lines = run.stdout.lines().filter(|line| !line.starts_with("##vso[task.debug]"));
    let settle = |line: &str| {
        let mut line = line.to_owned();
        for (value, name) in known {
            line = line.replace(value, &format!("{{{name}}}"));
        }
        // The engine's product and version.
        if let (Some(start), Some(end)) = (line.find(" of Docker "), line.find(" at {engine}")) {
            line.replace_range(start + 4..end, "{product}");
        }
        let words: Vec<&str> = line.split(' ').collect();
        let is_size = |at: usize| words.get(at + 1).is_some_and(|unit| ["B", "kB"].contains(unit)) && words[at] != "0";
        let words = words.iter().enumerate().filter(|(_, word)| !word.is_empty());
        let words: Vec<String> =
            words.map(|(at, word)| if is_size(at) { "{size}".to_owned() } else { settled_word(word) }).collect();
        // Units depend on the size, and blanks on its digits.
        words.join(" ").replace("{size} kB", "{size}").replace("{size} B", "{size}")
    };
    lines.map(settle).collect()
}

/// Digests, times, sizes and temporary keys are not those of the last run.
fn settled_word(word: &str) -> String {
    let bare = word.trim_matches([',', ')']);
    let named = |name: &str| word.replace(bare, &format!("{{{name}}}"));
    if let Some(at) = word.find("sha256:") {
        let end = word[at + 7..].find(|c: char| !c.is_ascii_hexdigit()).map_or(word.len(), |end| at + 7 + end);
        return format!("{}{{digest}}{}", &word[..at], &word[end..]);
    }
    if let Some((before, _)) = word.split_once("/ecr-push-").filter(|_| word.ends_with(".md")) {
        let (command, _) = before.split_once(']').unwrap_or(("", ""));
        return format!("{command}]{{summary}}");
    }
    if word.starts_with('…') {
        return named("key");
    }
    if bare.parse::<f64>().is_ok() && bare.contains('.') && bare != "1.4" {
        return named("number");
    }
    word.to_owned()
}

/// Compares with the log that is kept.
#[track_caller]
fn matches(name: &str, run: &Run, known: &[(&str, &str)]) {
    let path = parts::repository().join("tests/third-party/golden").join(name);
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if let Some(folder) = std::env::var_os("ECR_PUSH_LOGS") {
        std::fs::write(std::path::Path::new(&folder).join(name), &run.stdout).expect("the log");
    }
    let found = settled(run, known);
    let mut kept: Vec<(&str, &str)> = kept
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(" | ").unwrap_or_else(|| panic!("{name}: no statement in {line:?}")))
        .collect();
    for (statement, _) in &kept {
        let number = statement.trim().trim_start_matches('~');
        let is_statement = ["K", "F", "N"].iter().any(|kind| {
            number
                .split('/')
                .all(|one| one.strip_prefix(kind).is_some_and(|one| one.parse::<u8>().is_ok_and(|one| one <= 65)))
        });
        assert!(is_statement || number == "own", "{name}: `{statement}` is no statement");
    }
    // Within a run of `~` the order is that of the log found, if the lines are the same.
    let mut at = 0;
    while at < kept.len() {
        let end = at + kept[at..].iter().take_while(|(statement, _)| statement.starts_with('~')).count();
        if end > at && found.len() >= end {
            kept[at..end].sort_by_key(|(_, line)| found[at..end].iter().position(|other| other == line));
        }
        at = end.max(at + 1);
    }
    let kept: Vec<&str> = kept.into_iter().map(|(_, line)| line).collect();
    assert!(kept == found, "{name} is another log now:\n{}\n--- kept\n{}", found.join("\n"), kept.join("\n"));
    assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{run}");
    assert!(!run.stdout.contains('\r'), "{run}");
}

/// What differs from stack to stack, and the secrets.
fn known<'a>(stack: &'a Stack, engine: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut known = more.to_vec();
    known.extend([
        (stack.admin.id.as_str(), "access key"),
        (stack.admin.secret.as_str(), "secret key"),
        ("MTIzNDU2Nzg5MDEyLWF1dGgtdG9rZW4=", "token"),
        (TOKEN.split_once(':').expect("a user").1, "password"),
        (engine, "engine"),
        (CONNECTION, "connection"),
        (HOST, "host"),
    ]);
    known
}

/// The names that the engine has for an image.
fn names(stack: &'static Stack, id: &str) -> Vec<String> {
    let told = stack.engine().try_docker(&["image", "inspect", "--format", "{{join .RepoTags \" \"}}", id]).run();
    told.stdout.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn by_name_into_a_new_repository() {
    let Some(stack) = stack() else { return };
    let source = stack.image("golden-name:1");
    let step = step(stack, "name", "golden/name")
        .connection(CONNECTION, &[("username", &stack.admin.id), ("password", &stack.admin.secret)])
        .input("sourceImageName", "golden-name")
        .input("sourceImageTag", "1")
        .input("autoCreateRepository", "true")
        .input("outputVariable", "pushed");
    let run = step.run();
    let token = base64::engine::general_purpose::STANDARD.encode(TOKEN);
    matches("azure-by-name.log", &run, &known(stack, &stack.engine().host(), &[(&token, "token")]));
    assert_eq!((run.result(), run.succeeded), ("Succeeded", true), "{run}");
    assert_eq!(run.variable("pushed"), Some(&*format!("{HOST}/golden/name:1.4")));
    let pulled = pull_with_skopeo(stack, "golden/name:1.4");
    source.image.assert_same(&pulled.image);
    assert_eq!(run.variable("digest"), Some(&*pulled.digest), "{run}");
    assert_eq!(names(stack, &source.id), [format!("{HOST}/golden/name:1.4"), "golden-name:1".to_owned()]);
    let summary = &run.named("task.uploadsummary")[0].data;
    assert!(std::fs::read_to_string(summary).expect("the summary").contains(&pulled.digest));
    for secret in [&stack.admin.secret, &token, TOKEN] {
        run.hides(secret);
    }
}

#[test]
fn by_id_with_a_role_and_removal() {
    let Some(stack) = stack() else { return };
    let source = stack.image("golden-id:1");
    stack.create_repository("golden/id");
    let connection = [
        ("username", stack.admin.id.as_str()),
        ("password", &stack.admin.secret),
        ("assumeRoleArn", ROLE),
        ("externalId", "partner"),
    ];
    let step = step(stack, "id", "golden/id")
        .connection(CONNECTION, &connection)
        .input("imageSource", "imageid")
        .input("sourceImageId", &source.id)
        .input("removeDockerImage", "true")
        .input("outputVariable", "pushed")
        .input("pushTag", "");
    let run = step.run();
    let token = base64::engine::general_purpose::STANDARD.encode(TOKEN);
    let keys: Vec<String> = run.named("task.setsecret").into_iter().map(|command| command.data.clone()).collect();
    // The role's keys come after the connection's: access key, secret key, session token.
    let role: Vec<(&str, &str)> =
        keys.iter().skip(2).take(3).map(String::as_str).zip(["role key", "role secret", "role session"]).collect();
    let more: Vec<(&str, &str)> = role.into_iter().chain([(token.as_str(), "token")]).collect();
    matches("azure-by-id.log", &run, &known(stack, &stack.engine().host(), &more));
    assert_eq!(run.result(), "Succeeded", "{run}");
    // A tag that was left empty on purpose: `latest` is pushed, and left out here.
    assert_eq!(run.variable("pushed"), Some(&*format!("{HOST}/golden/id")));
    source.image.assert_same(&pull_with_skopeo(stack, "golden/id:latest").image);
    assert_eq!(names(stack, &source.id), [""; 0], "the engine has let it go");
    for secret in keys {
        run.hides(&secret);
    }
}

/// Serves the job's identity token, as Azure DevOps does, until its space ends.
const TOKENS: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        print(self.path, self.headers["Authorization"], body.decode(), flush=True)
        answer = b'{"oidcToken":"' + sys.argv[2].encode() + b'"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

#[test]
fn with_an_identity_token() {
    let Some(stack) = stack() else { return };
    let source = stack.image("golden-oidc:1");
    stack.create_repository("golden/oidc");
    let claims = r#"{"iss":"https://vstoken.dev.azure.com/0a","sub":"sc://example/project/connection","aud":"api://AzureADTokenExchange"}"#;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let jwt = format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(claims), encode("signature"));
    let port = stack.free_port();
    let log = stack.space.path("tokens");
    stack.space.command("python3").args(["-c", TOKENS, &port.to_string(), &jwt]).serve(&log);
    stack.space.wait_for_ports(&[port]);
    let job = "the-jobs-own-access-token";
    let step = step(stack, "oidc", "golden/oidc")
        .connection(CONNECTION, &[("assumeRoleArn", ROLE), ("useOIDC", "true")])
        .job_token(job)
        .variable("System.OidcRequestUri", &format!("http://127.0.0.1:{port}/oidctoken"))
        .input("sourceImageName", "golden-oidc")
        .input("sourceImageTag", "1");
    let run = step.run();
    let asked = std::fs::read_to_string(&log).expect("the log");
    let expected = format!("/oidctoken?api-version=7.1&serviceConnectionId={CONNECTION} Bearer {job} {{}}\n");
    assert_eq!(asked, expected);
    let token = base64::engine::general_purpose::STANDARD.encode(TOKEN);
    let keys: Vec<String> = run.named("task.setsecret").into_iter().map(|command| command.data.clone()).collect();
    let role: Vec<(&str, &str)> =
        keys.iter().skip(2).take(3).map(String::as_str).zip(["role key", "role secret", "role session"]).collect();
    let more: Vec<(&str, &str)> =
        role.into_iter().chain([(token.as_str(), "token"), (&jwt, "identity token"), (job, "job token")]).collect();
    matches("azure-oidc.log", &run, &known(stack, &stack.engine().host(), &more));
    source.image.assert_same(&pull_with_skopeo(stack, "golden/oidc:1.4").image);
    for secret in keys {
        run.hides(&secret);
    }
}

#[test]
fn into_a_repository_that_is_missing() {
    let Some(stack) = stack() else { return };
    stack.image("golden-missing:1");
    let step = step(stack, "missing", "golden/missing")
        .connection(CONNECTION, &[("username", &stack.admin.id), ("password", &stack.admin.secret)])
        .input("sourceImageName", "golden-missing")
        .input("sourceImageTag", "1")
        .input("outputVariable", "pushed");
    let run = step.run();
    let token = base64::engine::general_purpose::STANDARD.encode(TOKEN);
    let id = run.stdout.split_once("request id ").map_or("no id", |(_, id)| id.split_whitespace().next().unwrap_or(""));
    matches("azure-missing.log", &run, &known(stack, &stack.engine().host(), &[(&token, "token"), (id, "request id")]));
    assert_eq!((run.result(), run.variable("pushed")), ("Failed", None), "{run}");
}
