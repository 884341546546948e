//! What the task makes of input that is wrong, of text that is hostile, and of a job that is cancelled.
#![cfg(unix)]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::agent::{CONNECTION, JOB_TOKEN, Job, Line, ROLE, token_desk};
use common::desk::{Desk, Reply};
use common::engine::{Quirks, RecordedEngine};
use common::{APP, Program, Stand, wait_for};
use local_ecr::{Answer, Config, Fault, FaultAction, Sts};

/// Text that would be a command of the agent if it were written as it is.
const HOSTILE: &str = "x##vso[task.setvariable variable=PATH]/evil\r\n##vso[task.complete result=Succeeded;]\n##[error]y\
                       \u{1b}[2K%0A##VSO[task.uploadfile]/etc/passwd";

/// Asserts that nothing was asked of anybody.
#[track_caller]
fn refused_before_any_call(stand: &Stand, engine: &RecordedEngine) {
    assert!(stand.server.requests().is_empty(), "{:?}", stand.server.requests());
    assert!(engine.asked().is_empty(), "{:?}", engine.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_named_but_missing() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    let job = stand.task(&engine).input("awsCredentials", CONNECTION).job().await;
    assert!(job.failed().contains(CONNECTION), "{}", job.run.stdout);
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_not_json_is_not_shown() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for document in
        ["{\"parameters\":{\"password\":\"half-a-secret", "[\"half-a-secret\"]", "{\"parameters\":\"half-a-secret\"}"]
    {
        let task = stand.task(&engine).connection(&[]).env(&format!("ENDPOINT_AUTH_{CONNECTION}"), document);
        let job = task.job().await;
        assert!(job.failed().contains("no JSON with parameters"), "{}", job.run.stdout);
        assert!(!job.run.stdout.contains("half-a-secret"));
    }
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_key_pair() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for half in [("username", "AKIAIOSFODNN7EXAMPLE"), ("password", "only-a-secret-key")] {
        let job = stand.task(&engine).connection(&[half]).job().await;
        assert!(job.failed().starts_with("Need to define or omit both"), "{}", job.run.stdout);
        assert!(job.failed().contains(CONNECTION), "{}", job.run.stdout);
    }
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn oidc_without_the_jobs_token_or_without_a_role() {
    let (stand, engine, desk) = (Stand::new().await, RecordedEngine::start(), token_desk().await);
    let own = ["ENDPOINT_AUTH_SYSTEMVSSCONNECTION", "ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN"];
    let task = own.iter().fold(stand.task(&engine).oidc(&desk, &[]), |task, name| task.without(name));
    let job = task.job().await;
    assert!(job.failed().contains("System.AccessToken"), "{}", job.run.stdout);
    let job =
        stand.task(&engine).connection(&[("useOIDC", "true")]).env("SYSTEM_OIDCREQUESTURI", desk.url()).job().await;
    assert!(job.failed().contains("asks for OIDC and names no role"), "{}", job.run.stdout);
    // The agent does not say where tokens are given.
    let job = stand.task(&engine).oidc(&desk, &[]).without("SYSTEM_OIDCREQUESTURI").job().await;
    assert!(job.failed().contains("System.OidcRequestUri"), "{}", job.run.stdout);
    assert!(desk.asked().is_empty());
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_refuses() {
    let engine = RecordedEngine::start();
    let text = "User: tester is not authorized to perform: sts:AssumeRole".to_owned();
    let sts = || Sts { refuse: Some(("AccessDenied".to_owned(), text.clone())), ..Sts::default() };
    let desk = token_desk().await;
    type Change<'a> = Box<dyn Fn(Program) -> Program + 'a>;
    let (id, secret, role) = (("username", common::KEY), ("password", common::SECRET), ("assumeRoleArn", ROLE));
    let ways: [Change<'_>; 4] = [
        Box::new(|task| task.connection(&[role])),
        Box::new(|task| task.connection(&[id, secret, role])),
        Box::new(|task| task.oidc(&desk, &[])),
        Box::new(|task| {
            let task = task.variable("AWS.AccessKeyID", common::KEY).variable("AWS.AssumeRoleArn", ROLE);
            task.secret_variable("AWS.SecretAccessKey", common::SECRET)
        }),
    ];
    for change in ways {
        let stand = Stand::strict(Config { sts: sts(), ..Config::default() }).await;
        let job = change(stand.task(&engine)).job().await;
        let error = job.failed();
        assert!(error.contains(ROLE) && error.contains(&text), "{error}");
        assert!(job.texts().iter().any(|line| line.contains("  hint: ")), "{}", job.run.stdout);
        assert_eq!(stand.asked("STS").len(), 1);
        assert!(stand.asked("GetAuthorizationToken").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_none() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for (field, value) in [("assumeRoleArn", "pusher"), ("roleSessionName", "has a blank"), ("roleSessionName", "x")] {
        let fields =
            if field == "assumeRoleArn" { vec![(field, value)] } else { vec![("assumeRoleArn", ROLE), (field, value)] };
        let job = stand.task(&engine).connection(&fields).job().await;
        assert!(job.failed().contains(&format!("`{value}`")), "{}", job.run.stdout);
    }
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_the_agent_did_not_know() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for name in [
        "awsCredentials",
        "regionName",
        "imageSource",
        "sourceImageName",
        "sourceImageTag",
        "repositoryName",
        "pushTag",
        "outputVariable",
    ] {
        let job = stand.task(&engine).input(name, "a-$(Build.Nothing)").job().await;
        let expected = format!("`{name}` holds $(Build.Nothing), and the job has no such variable");
        assert!(job.failed().starts_with(&expected), "{}", job.run.stdout);
    }
    let job = stand.task_by_id(&engine).input("sourceImageId", "$(id").job().await;
    assert!(job.failed().starts_with("`sourceImageId` holds $(id"), "{}", job.run.stdout);
    refused_before_any_call(&stand, &engine);
    // A variable of the tools around is none of ours.
    stand.task(&engine).variable("Some.Other", "$(x)").job().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_there_is_no_reason_to_name_one_that_the_task_cannot_read() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    let folder = stand.folder.path().to_str().unwrap().to_owned();
    let no_engine = |task: Program| task.env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let none_named =
        |task: Program| task.without("DOCKER_HOST").env("XDG_RUNTIME_DIR", &folder).env("PATH", "/nonexistent");
    let no_image = |task: Program| task.input("sourceImageName", "nobody");
    let mut sentences = Vec::new();
    for change in [&no_engine as &dyn Fn(Program) -> Program, &none_named, &no_image] {
        let job = change(stand.task(&engine)).job().await;
        if job.completed().0 != "Failed" {
            // This machine has an engine where engines are.
            continue;
        }
        sentences.push(job.failed().to_owned());
        let texts = job.texts().join("\n");
        for other in ["docker-archive:", "oci:", "oci-archive:", "containerd:"] {
            assert!(!texts.contains(other), "{other}: {texts}");
        }
    }
    assert!(sentences.len() > 1, "{sentences:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_source_that_is_unknown() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for word in ["retag", "name", "imagename2", "ImageName"] {
        let job = stand.task_by_id(&engine).input("imageSource", word).job().await;
        assert!(job.failed().contains(&format!("`{word}`")), "{}", job.run.stdout);
    }
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duration_outside_of_its_limits() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for text in ["899", "43201"] {
        let task = stand.task(&engine).connection(&[("assumeRoleArn", ROLE)]);
        let job = task.variable("aws.rolecredential.maxduration", text).job().await;
        job.warned(&[&format!("Invalid credential duration '{text}', minimum is 900, max 43200")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_name_in_upper_case() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    let task = |name: &str, force: &str| {
        let task = stand.task(&engine).input("repositoryName", name).input("autoCreateRepository", "true");
        task.input("forceDockerNamingConventions", force)
    };
    let job = task("Team/App", "false").job().await;
    assert!(job.failed().contains("team/app"), "{}", job.run.stdout);
    refused_before_any_call(&stand, &engine);
    task("TeamApp", "true").job().await.succeeded();
    task("Team/App", "true").job().await.warned(&["deletes `/`"]);
    assert_eq!(stand.server.repositories(), [APP, "teamapp"]);
    // A name of which nothing is left.
    for name in ["!!!", "Ä/Ö"] {
        let job = task(name, "true").job().await;
        job.failed();
    }
    assert_eq!(stand.server.repositories(), [APP, "teamapp"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_variable_with_odd_letters() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for name in ["my variable", "a;isOutput=true", "a]b", "100%", "a=b", "%AZP25", "größe]##[error]x"] {
        let job = stand.task(&engine).input("outputVariable", name).job().await;
        let (variable, output, value) = job.variables()[0];
        assert_eq!((variable, output), (name, "false"));
        assert_eq!(value, format!("{}:v1", stand.uri()));
        assert_eq!(job.variables().len(), 4);
        if name != "größe]##[error]x" {
            job.warned(&["a name that not every step can read"]);
        }
    }
    let engine = RecordedEngine::start();
    stand.server.clear_requests();
    for name in ["a\nb", "a\rb", "a\tb"] {
        let job = stand.task(&engine).input("outputVariable", name).job().await;
        assert!(job.failed().contains("control character"), "{}", job.run.stdout);
    }
    refused_before_any_call(&stand, &engine);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_none() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    let job = stand.task(&engine).input("pushTag", "v 1").job().await;
    assert!(job.failed().contains("`v 1`"), "{}", job.run.stdout);
    refused_before_any_call(&stand, &engine);
}

/// Asserts that the hostile text is in the log, and that it is nothing but text there. That no line but ours is a command was
/// seen when the log was read.
#[track_caller]
fn is_harmless(job: &Job) {
    let lower = job.run.stdout.to_lowercase();
    assert!(lower.contains("**vso["), "the text is not relayed at all:\n{}", job.run.stdout);
    gives_no_command(job);
}

/// Asserts that no line but ours is a command.
#[track_caller]
fn gives_no_command(job: &Job) {
    assert!(!job.run.stdout.contains('\u{1b}'), "{}", job.run.stdout);
    let known = [
        "task.setsecret",
        "task.debug",
        "task.issue",
        "task.complete",
        "task.setprogress",
        "task.setvariable",
        "task.uploadsummary",
    ];
    for line in &job.lines {
        let Line::Command { name, properties, .. } = line else { continue };
        assert!(known.contains(&name.as_str()), "{line:?}");
        assert!(!properties.iter().any(|(_, value)| value == "PATH"), "{line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_of_the_engine_is_text() {
    let stand = Stand::new().await;
    // System, architecture and labels of an image are what its author wrote.
    let engine = RecordedEngine::with(Quirks { authors_text: Some(HOSTILE.into()), ..Quirks::default() });
    let job = stand.task(&engine).input("outputVariable", "x").job().await;
    assert_eq!(job.variables()[0], ("x", "false", format!("{}:v1", stand.uri()).as_str()));
    // What is no letter of a platform's name is not shown at all.
    assert!(job.run.stdout.to_lowercase().contains("??vso?"), "{}", job.run.stdout);
    gives_no_command(&job);
    let summary = std::fs::read_to_string(job.commands("task.uploadsummary")[0].1).unwrap();
    assert!(summary.lines().filter(|line| line.starts_with("| ")).all(|line| line.ends_with(" |")), "{summary}");
    // Names of other images are told when one is not found.
    let more_names = vec![format!("nobody:{HOSTILE}"), "nobody2:1".to_owned()];
    let engine = RecordedEngine::with(Quirks { more_names, ..Quirks::default() });
    let job = stand.task(&engine).input("sourceImageName", "nobody").job().await;
    job.failed();
    is_harmless(&job);
    // Its own sentences.
    let engine = RecordedEngine::with(Quirks { refuse_inspect: Some(HOSTILE.into()), ..Quirks::default() });
    let job = stand.task(&engine).job().await;
    job.failed();
    is_harmless(&job);
    let engine = RecordedEngine::with(Quirks { refuse_tag: Some(HOSTILE.into()), ..Quirks::default() });
    let job = stand.task(&engine).job().await;
    assert_eq!(job.completed().0, "SucceededWithIssues");
    is_harmless(&job);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_of_a_service_is_text() {
    let engine = RecordedEngine::start();
    // ECR and the registry.
    for operation in ["GetAuthorizationToken", "BatchCheckLayerAvailability", "InitiateLayerUpload", "PutImage"] {
        let stand = Stand::new().await;
        let action = FaultAction::Answer(Answer::error(400, HOSTILE.split('\r').next().unwrap(), HOSTILE));
        stand.server.add_fault(Fault::new(action).operation(operation));
        let job =
            stand.task(&engine).input("repositoryName", "new/app").input("autoCreateRepository", "true").job().await;
        is_harmless(&job);
    }
    // STS.
    let sts = Sts { refuse: Some((HOSTILE.into(), HOSTILE.into())), ..Sts::default() };
    let stand = Stand::with(Config { sts, ..Config::default() }).await;
    let job = stand.task(&engine).connection(&[("assumeRoleArn", ROLE)]).job().await;
    job.failed();
    is_harmless(&job);
    // Azure DevOps, and what a token says of itself.
    let stand = Stand::new().await;
    let refusal = serde_json::json!({ "typeKey": HOSTILE, "message": HOSTILE }).to_string();
    let desk = Desk::start(move |_, _| Reply::Say(403, refusal.clone())).await;
    let job = stand.task(&engine).oidc(&desk, &[]).job().await;
    job.failed();
    is_harmless(&job);
    let claims = serde_json::json!({ "iss": HOSTILE, "aud": [HOSTILE, "b"], "sub": HOSTILE }).to_string();
    let claims = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, claims);
    let answer = serde_json::json!({ "oidcToken": format!("eyJhbGciOiJub25lIn0.{claims}.signature") }).to_string();
    let desk = Desk::start(move |_, _| Reply::Say(200, answer.clone())).await;
    is_harmless(&stand.task(&engine).oidc(&desk, &[]).job().await.succeeded());
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_inputs_are_text() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for name in [
        "awsCredentials",
        "regionName",
        "imageSource",
        "sourceImageName",
        "sourceImageTag",
        "repositoryName",
        "pushTag",
    ] {
        let job = stand.task(&engine).input(name, HOSTILE).job().await;
        job.failed();
        is_harmless(&job);
    }
    for (name, value) in [
        ("aws.rolecredential.maxduration", HOSTILE),
        ("AWS.Region", HOSTILE),
        ("Agent.ProxyBypassList", r#"["(?=##vso[task.complete result=Succeeded;])"]"#),
    ] {
        let task = stand.task(&engine).input("regionName", if name == "AWS.Region" { "" } else { "us-east-1" });
        let job = task.variable("Agent.ProxyUrl", "http://127.0.0.1:9").variable(name, value).job().await;
        is_harmless(&job);
    }
    let job = stand.task(&engine).connection(&[("assumeRoleArn", HOSTILE)]).job().await;
    job.failed();
    is_harmless(&job);
}

/// What is promised is a second or two; the machine that runs this may be busy with other tests.
const PROMPT: Duration = Duration::from_secs(3);

fn stalling_upload(stand: &Stand) {
    stand.server.add_fault(Fault::new(FaultAction::Stall { after: 0 }).method("PUT").path("/blobs/uploads/"));
}

async fn uploading(stand: &Stand) {
    wait_for("an upload", Duration::from_secs(20), || !stand.asked("CompleteLayerUpload").is_empty()).await;
}

#[track_caller]
fn was_cancelled(job: &Job, sent: Instant, stand: &Stand, engine: &RecordedEngine) {
    assert!(sent.elapsed() < PROMPT, "{:?}", sent.elapsed());
    assert_eq!(job.completed(), ("Failed", "stopped: nothing was tagged"), "{}", job.run.stdout);
    assert!(job.issues("error").is_empty(), "who cancels knows it:\n{}", job.run.stdout);
    assert!(job.variables().is_empty() && stand.tag("v1").is_none() && engine.changes().is_empty());
    assert_eq!(std::fs::read_dir(stand.temp()).unwrap().count(), 0, "temporary files are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_at_once_and_leaves_nothing() {
    for signal in ["INT", "TERM"] {
        let (stand, engine) = (Stand::new().await, RecordedEngine::start());
        stalling_upload(&stand);
        let running = stand.task(&engine).input("outputVariable", "x").start();
        uploading(&stand).await;
        let sent = Instant::now();
        running.signal(signal);
        was_cancelled(&Job::read(running.finish().await), sent, &stand, &engine);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_standard_input_cancels_only_under_parent_pipe() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    stalling_upload(&stand);
    let mut running = stand.task(&engine).arg("--parent-pipe").stdin(Stdio::piped()).start();
    uploading(&stand).await;
    // Bytes mean nothing; the end does.
    running.write(b"INPUT_PUSHTAG=evil\n").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!running.stdout.text().contains("task.complete"));
    let sent = Instant::now();
    running.end_of_input();
    was_cancelled(&Job::read(running.finish().await), sent, &stand, &engine);
    // The parent was gone from the start.
    let job = stand.task(&engine).arg("--parent-pipe").job().await;
    assert_eq!(job.completed().0, "Failed");
    // Without the flag it means nothing.
    let stand = Stand::new().await;
    let wait = FaultAction::Delay(Duration::from_millis(700));
    stand.server.add_fault(Fault::new(wait).method("PUT").path("/blobs/uploads/").times(1));
    let mut running = stand.task(&engine).stdin(Stdio::piped()).start();
    uploading(&stand).await;
    running.end_of_input();
    Job::read(running.finish().await).succeeded();
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_behind_its_push_names_the_tags() {
    let stand = Stand::new().await;
    let engine = RecordedEngine::with(Quirks { silent_tag: true, ..Quirks::default() });
    let running = stand.task(&engine).start();
    wait_for("the engine", Duration::from_secs(20), || !engine.changes().is_empty()).await;
    let sent = Instant::now();
    running.signal("INT");
    let job = Job::read(running.finish().await);
    assert!(sent.elapsed() < PROMPT, "{:?}", sent.elapsed());
    assert_eq!(job.completed(), ("Failed", "stopped: these tags were pushed already: v1"));
    assert!(stand.tag("v1").is_some());
    assert!(!job.without_masks().contains(JOB_TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_line_break_or_an_odd_letter() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    let secret = ("password", common::SECRET);
    for (fields, what) in [
        (vec![("username", "AKIA\nIOSFODNN7EXAMPLE"), secret], "access key ID"),
        (vec![("username", "AKIAÄ"), secret], "access key ID"),
        (vec![("username", common::KEY), secret, ("sessionToken", "half\r\nhalf-of-the-token")], "session token"),
    ] {
        let job = stand.task(&engine).connection(&fields).job().await;
        assert!(job.failed().starts_with(&format!("the {what} of the service connection '")), "{}", job.run.stdout);
        assert!(!job.without_masks().contains("half-of-the-token"));
    }
    let task = stand.task(&engine).variable("AWS.AccessKeyID", "AKIA IOSFODNN7EXAMPLE");
    let job = task.secret_variable("AWS.SecretAccessKey", common::SECRET).job().await;
    assert!(job.failed().starts_with("the access key ID of the task variables"), "{}", job.run.stdout);
    refused_before_any_call(&stand, &engine);
    // Blanks around it are no part of it.
    stand.task(&engine).connection(&[("username", " AKIAIOSFODNN7EXAMPLE\n"), secret]).job().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_host_with_a_line_break() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    let job = stand.task(&engine).env("AWS_ACCESS_KEY_ID", "AKIA\nIOSFODNN7EXAMPLE").job().await;
    assert!(job.failed().starts_with("the access key ID of environment"), "{}", job.run.stdout);
    assert!(stand.server.requests().is_empty());
}
