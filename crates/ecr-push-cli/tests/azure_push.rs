//! The push itself, and what a pipeline sees of it. Each test is named after its statement in docs/azure-pipelines.md: `k` is
//! kept, `f` is mended.
#![cfg(unix)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::agent::{CONNECTION, JOB_TOKEN, Job};
use common::desk::Desk;
use common::engine::{IMAGE, Quirks, RecordedEngine};
use common::{KEY, SECRET, Stand, answer, give_token};
use local_ecr::Answer;

/// A program called `docker`, which leaves a trace if it is run.
fn fake_docker(folder: &Path) -> std::path::PathBuf {
    let program = folder.join("bin/docker");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    std::fs::write(&program, format!("#!/bin/sh\necho \"$@\" >> {}/docker-ran\n", folder.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn k43_no_docker_program_is_needed_and_none_is_run() {
    const MISSING: &str = "Cannot find docker command line executable";
    let stand = Stand::new().await;
    let engine = RecordedEngine::start();
    let docker = fake_docker(stand.folder.path());
    for path in [docker.parent().unwrap().to_str().unwrap(), "", "/nonexistent"] {
        let job = stand.task(&engine).env("PATH", path).input("removeDockerImage", "false").job().await.succeeded();
        assert!(!job.run.stdout.contains(MISSING));
    }
    assert!(!stand.folder.path().join("docker-ran").exists());
    // What is missing is the engine, which is told as such, and after credentials and region.
    let job = stand.task(&engine).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").job().await;
    assert!(job.failed().contains("/nonexistent/docker.sock"), "{}", job.run.stdout);
    assert!(!job.run.stdout.contains(MISSING));
}

#[tokio::test(flavor = "multi_thread")]
async fn k44_forced_names_are_upstreams() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    for (name, forced) in [
        ("RepoName", "reponame"),
        ("my-repo.name_01", "my-repo.name_01"),
        ("m!y@r #e$p%o^n&a*m(e)", "myreponame"),
        ("ÄpfelSafe", "pfelsafe"),
    ] {
        let task = stand.task(&engine).input("repositoryName", name).input("autoCreateRepository", "true");
        let job =
            task.input("forceDockerNamingConventions", "true").input("outputVariable", "x").job().await.succeeded();
        assert!(stand.server.repositories().contains(&forced.to_owned()), "{name}: {:?}", stand.server.repositories());
        assert_eq!(job.variables()[0].2, format!("{}/{forced}:v1", stand.server.registry_host()));
    }
    // Without the switch the name is taken as it is.
    let names = stand.server.repositories();
    let job = stand.task(&engine).input("repositoryName", "RepoName").input("autoCreateRepository", "true").job().await;
    assert!(job.failed().contains("reponame"), "{}", job.run.stdout);
    assert_eq!(stand.server.repositories(), names);
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_a_slash_that_the_rule_deletes_is_warned_of() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let task = || {
        let task = stand.task(&engine).input("repositoryName", "Team/My_App").input("autoCreateRepository", "true");
        task.input("forceDockerNamingConventions", "true")
    };
    let job = task().job().await;
    let job = job.warned(&["deletes `/`: `Team/My_App` becomes `teammy_app`, another repository than `team/my_app`"]);
    assert!(stand.server.repositories().contains(&"teammy_app".to_owned()));
    assert!(!stand.server.repositories().contains(&"team/my_app".to_owned()));
    assert!(job.line_of("type=warning;]") < job.line_of("Pushing image"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k46_the_image_is_named_before_it_is_pushed() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).job().await.succeeded();
    assert_eq!(job.texts().iter().filter(|text| **text == "Pushing image 'two:1'").count(), 1);
    let job = stand.task_by_id(&engine).job().await.succeeded();
    let title = format!("Pushing image with ID '{IMAGE}'");
    assert_eq!(job.texts().iter().filter(|text| **text == title).count(), 1);
    assert!(!job.run.stdout.contains("Pushing image 'two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k53_token_repository_push_variable_and_then_the_local_names() {
    for remove in ["false", "true"] {
        let engine = RecordedEngine::start();
        let stand = Stand::new().await;
        let task = stand.task(&engine).input("repositoryName", "new/app").input("autoCreateRepository", "true");
        let job = task.input("outputVariable", "x").input("removeDockerImage", remove).job().await.succeeded();
        let asked = stand.server.requests();
        let first = |operation: &str| asked.iter().position(|request| request.operation == operation).unwrap();
        let order = ["GetAuthorizationToken", "CreateRepository", "InitiateLayerUpload", "PutImage"].map(first);
        assert!(order.is_sorted(), "{order:?}");
        let afterwards = if remove == "true" { "removed two:1" } else { "the engine's image is also called" };
        let lines = ["pushing to ", "created the repository", "tag v1 ", "##[endgroup]", "variable=x;", afterwards];
        let order = lines.map(|text| job.line_of(text));
        assert!(order.is_sorted(), "{order:?}\n{}", job.run.stdout);
    }
    // What comes after the push is not done without it.
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    answer(&stand, "PutImage", Answer::error(400, "ImageTagAlreadyExistsException", "it is there"), usize::MAX);
    let job = stand.task(&engine).input("outputVariable", "x").input("removeDockerImage", "true").job().await;
    job.failed();
    assert!(job.variables().is_empty() && job.commands("task.uploadsummary").is_empty());
    assert!(engine.changes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k54_the_image_gets_the_name_it_was_pushed_under() {
    let stand = Stand::new().await;
    let engine = RecordedEngine::start();
    stand.task(&engine).job().await.succeeded();
    let reference = format!("{}:v1", stand.uri());
    let mut names = vec![reference, "two:1".to_owned()];
    names.sort();
    assert_eq!(engine.names(), names);
    let tagged = format!("POST /images/{IMAGE}/tag?repo={}&tag=v1", stand.uri());
    assert_eq!(engine.changes(), std::slice::from_ref(&tagged));
    let engine = RecordedEngine::start();
    stand.task_by_id(&engine).job().await.succeeded();
    assert_eq!(engine.changes(), [tagged]);
    // Without a tag it is `latest`, as docker has it.
    let engine = RecordedEngine::start();
    stand.task(&engine).input("pushTag", "").job().await.succeeded();
    assert!(engine.names().contains(&format!("{}:latest", stand.uri())), "{:?}", engine.names());
}

#[tokio::test(flavor = "multi_thread")]
async fn k54_a_name_that_the_engine_refuses_is_an_issue_and_no_failure() {
    let stand = Stand::new().await;
    let engine = RecordedEngine::with(Quirks { refuse_tag: Some("no more names today".into()), ..Quirks::default() });
    let job = stand.task(&engine).input("outputVariable", "x").job().await;
    assert_eq!(job.completed(), ("SucceededWithIssues", ""));
    job.has_warnings(&["no more names today"]);
    assert_eq!(job.variables()[0].2, format!("{}:v1", stand.uri()));
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn f54_a_repository_name_with_a_registrys_host_is_refused_with_the_right_one() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let host = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
    for force in ["false", "true"] {
        for (name, right) in [
            (format!("{host}/team/app"), Some("team/app")),
            ("public.ecr.aws/alias/app".to_owned(), Some("alias/app")),
            (format!("https://{host}/team/app"), None),
            (format!("{host}:443/team/app"), Some("team/app")),
        ] {
            if force == "true" && right.is_none() {
                continue;
            }
            let task = stand.task(&engine).input("repositoryName", &name).input("autoCreateRepository", "true");
            let job = task.input("forceDockerNamingConventions", force).job().await;
            let error = job.failed();
            if let Some(right) = right {
                assert!(error.contains("which the task adds by itself"), "{error}");
                assert!(error.contains(&format!("write `repositoryName: {right}`")), "{error}");
            }
        }
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_no_login_is_left_behind() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let docker = fake_docker(stand.folder.path());
    let config = stand.file("home/.docker/config.json", r#"{"auths":{}}"#);
    stand.task(&engine).env("PATH", docker.parent().unwrap()).job().await.succeeded();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), r#"{"auths":{}}"#);
    assert_eq!(std::fs::read_dir(config.parent().unwrap()).unwrap().count(), 1);
    assert!(!stand.folder.path().join("docker-ran").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_password_and_token_are_hidden_and_the_word_aws_never_is() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let registry = Desk::before(stand.server.address()).await;
    let token = stand.server.authorization_token("tester");
    give_token(&stand, &token, &registry.url());
    let job = stand.task(&engine).job().await.succeeded();
    let plain = String::from_utf8(BASE64_STANDARD.decode(&token).unwrap()).unwrap();
    let password = plain.split_once(':').unwrap().1;
    assert!(job.hidden().contains(&token.as_str()) && job.hidden().contains(&password), "{:?}", job.hidden());
    assert!(job.hidden().iter().all(|text| text.len() > 5 && !"AWS:".contains(text)), "{:?}", job.hidden());
    // Hidden before it can have been said.
    assert!(job.line_of(&format!("##vso[task.setsecret]{token}")) < job.line_of("pushing to "));
    assert!(!job.without_masks().contains(&token) && !job.without_masks().contains(password));
}

#[tokio::test(flavor = "multi_thread")]
async fn k57_the_push_is_shown_and_a_push_that_fails_fails_the_task() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).job().await.succeeded();
    let sent = job.texts().iter().filter(|text| text.starts_with("sha256:") && text.ends_with("  sent")).count();
    assert_eq!(sent, 3, "two layers and the config:\n{}", job.run.stdout);
    job.says(&["tag v1", "pushed", "digest sha256:"]);
    assert!(job.commands("task.setprogress").len() > 1);
    // The registry's refusal is in the log and in the result.
    let stand = Stand::new().await;
    let refusal = Answer::error(400, "ImageTagAlreadyExistsException", "the tag v1 is fixed here");
    answer(&stand, "PutImage", refusal, usize::MAX);
    let job = stand.task(&engine).job().await;
    let error = job.failed();
    assert!(error.contains("v1"), "{error}");
    assert!(job.without_masks().contains("the tag v1 is fixed here"), "{}", job.run.stdout);
    assert!(!job.run.stdout.contains("failed with exit code"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k58_programs_that_the_task_starts_get_none_of_its_variables() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let dump = stand.folder.path().join("environment");
    let answer = serde_json::json!({ "Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET }).to_string();
    let answer = stand.file("answer.json", answer);
    let script = stand
        .file("process", format!("#!/bin/sh\ncat /proc/$$/environ > {}\ncat {}\n", dump.display(), answer.display()));
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    stand.file("home/.aws/config", format!("[default]\ncredential_process = {}\n", script.display()));
    let task = stand.bare_task(&engine).connection(&[("sessionToken", "unused-session-token")]);
    let task = task.input("regionName", "us-east-1").secret_variable("My.Secret-One", "the-value-of-my-secret");
    let task = task.envs(&[
        ("SYSTEM_ACCESSTOKEN", "the-mapped-job-token"),
        ("SECUREFILE_TICKET_1f2e", "the-ticket-of-a-secure-file"),
        ("SECUREFILE_NAME_1f2e", "file.txt"),
        ("VSTS_TASKVARIABLE_X", "the-value-of-a-task-variable"),
        ("COMMAND_CORRELATION_ID", "the-correlation-id"),
        ("MY_OWN", "stays"),
    ]);
    task.job().await.succeeded();
    let environment = std::fs::read_to_string(&dump).expect("the process ran");
    let names: Vec<&str> =
        environment.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect();
    let own =
        ["INPUT_", "ENDPOINT_", "SECRET_", "SECUREFILE_", "VSTS_", "SYSTEM_ACCESSTOKEN", "COMMAND_CORRELATION_ID"];
    let left: Vec<_> = names.iter().filter(|name| own.iter().any(|start| name.starts_with(start))).collect();
    assert!(left.is_empty(), "{left:?}");
    for secret in [JOB_TOKEN, CONNECTION, "the-value-of", "the-mapped", "the-ticket", "unused-session-token"] {
        assert!(!environment.contains(secret), "{secret}");
    }
    // The user's own are there.
    assert!(
        ["MY_OWN", "HOME", "PATH", "TF_BUILD", "AGENT_TEMPDIRECTORY"].iter().all(|name| names.contains(name)),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn k59_the_variable_is_set_after_the_push_and_before_the_removal() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let task = stand.task(&engine).input("outputVariable", "PushedImage").input("removeDockerImage", "true");
    let job = task.job().await.succeeded();
    let expected =
        format!("##vso[task.setvariable variable=PushedImage;isOutput=false;issecret=false;]{}:v1", stand.uri());
    let at = job.run.stdout.lines().position(|line| line == expected).expect("the variable, to the letter");
    assert!(job.line_of("tag v1 ") < at && at < job.line_of("removed two:1"));
    // Digest, URI and tags are variables of their own, outputs of the step.
    let digest = stand.tag("v1").unwrap();
    let uri = format!("{}@{digest}", stand.uri());
    assert_eq!(
        job.variables()[1..],
        [("digest", "true", digest.as_str()), ("uri", "true", uri.as_str()), ("tags", "true", "v1")]
    );
    // Nobody asked for one: only those.
    let engine = RecordedEngine::start();
    let job = stand.task(&engine).job().await.succeeded();
    assert_eq!(job.variables().iter().map(|(name, ..)| *name).collect::<Vec<_>>(), ["digest", "uri", "tags"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn k59_a_step_without_a_name_sets_plain_variables() {
    // The agent fails a step without a name that sets an output, and makes an output of what task.json declares as one.
    let task = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations/azure-pipelines/EcrPush/task.json");
    let task: serde_json::Value = serde_json::from_slice(&std::fs::read(task).unwrap()).unwrap();
    let declared: Vec<&str> =
        task["outputVariables"].as_array().unwrap().iter().map(|output| output["name"].as_str().unwrap()).collect();
    let stand = Stand::new().await;
    for name in [None, Some("")] {
        let engine = RecordedEngine::start();
        let task = stand.task(&engine).input("outputVariable", "pushed").without("SYSTEM_TASKINSTANCENAME");
        let task = name.into_iter().fold(task, |task, name| task.env("SYSTEM_TASKINSTANCENAME", name));
        let job = task.job().await.succeeded();
        let variables = job.variables();
        assert!(variables.iter().all(|(_, is_output, _)| *is_output == "false"), "{variables:?}");
        assert!(variables.iter().all(|(name, ..)| !declared.contains(name)), "{variables:?}");
        let digest = stand.tag("v1").unwrap();
        let uri = format!("{}@{digest}", stand.uri());
        let expected = [
            ("ECR_PUSH_DIGEST", "false", digest.as_str()),
            ("ECR_PUSH_URI", "false", &uri),
            ("ECR_PUSH_TAGS", "false", "v1"),
        ];
        assert_eq!(variables[1..], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k59_a_variable_with_the_name_of_an_output_is_refused_before_the_push() {
    let (stand, engine) = (Stand::new().await, RecordedEngine::start());
    for name in ["digest", "Uri", "TAGS"] {
        let job = stand.task(&engine).input("outputVariable", name).job().await;
        assert!(job.failed().contains("which is an output of this task"), "{}", job.run.stdout);
    }
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f60_the_source_and_the_pushed_names_are_removed() {
    let stand = Stand::new().await;
    for pushed in [true, false] {
        let engine = RecordedEngine::start();
        if pushed {
            engine.name(&format!("{}:v1", stand.uri()));
        }
        let job = stand.task(&engine).input("removeDockerImage", "true").job().await.succeeded();
        job.says(&["removed two:1 from the engine"]);
        assert_eq!(engine.names(), Vec::<String>::new());
        let changes = engine.changes();
        assert!(changes.iter().all(|change| change.starts_with("DELETE ")), "{changes:?}");
        assert_eq!(changes.last().unwrap().split('?').next(), Some("DELETE /images/two:1"));
        assert!(
            changes.iter().all(|change| !change.contains("force=true") && !change.contains("force=1")),
            "{changes:?}"
        );
    }
    // By its ID, with one name left: the engine lets it go.
    let engine = RecordedEngine::start();
    engine.name(&format!("{}:v1", stand.uri()));
    stand.task_by_id(&engine).input("removeDockerImage", "true").job().await.succeeded();
    assert_eq!(engine.names(), Vec::<String>::new());
    // Other names of the image are not touched.
    let engine = RecordedEngine::start();
    engine.name("mine:1");
    stand.task(&engine).input("removeDockerImage", "true").job().await.succeeded();
    assert_eq!(engine.names(), ["mine:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f60_a_removal_that_fails_never_fails_a_finished_push() {
    let stand = Stand::new().await;
    let engine = RecordedEngine::start();
    engine.name("mine:1");
    engine.name("mine:2");
    let names = engine.names();
    let task = stand.task_by_id(&engine).input("removeDockerImage", "true").input("outputVariable", "x");
    let job = task.job().await;
    assert_eq!(job.completed(), ("SucceededWithIssues", ""), "{}", job.run.stdout);
    job.has_warnings(&["is referenced in multiple repositories"]);
    assert_eq!(job.variables()[0].2, format!("{}:v1", stand.uri()));
    assert_eq!(engine.names(), names);
    assert_eq!(job.commands("task.uploadsummary").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn k60_a_container_that_holds_the_image_is_no_issue_and_the_source_name_goes() {
    let stand = Stand::new().await;
    let pushed = format!("{}:v1", stand.uri());
    let in_use = || RecordedEngine::with(Quirks { in_use: true, ..Quirks::default() });
    // As upstream leaves it: the image keeps the name that it was pushed under.
    for has_pushed_name in [false, true] {
        let engine = in_use();
        if has_pushed_name {
            engine.name(&pushed);
        }
        let job = stand.task(&engine).input("removeDockerImage", "true").job().await.succeeded();
        assert_eq!(engine.names(), std::slice::from_ref(&pushed));
        let stays = format!("the image stays in the engine as {pushed}: ");
        job.says(&["removed two:1 from the engine", &stays]);
        assert!(job.texts().iter().any(|text| text.contains("container 0a1b2c3d4e5f is using")), "{}", job.run.stdout);
        assert!(!job.run.stdout.contains(&format!("removed {pushed}")), "{}", job.run.stdout);
    }
    // By its ID there is no name to take away.
    let engine = in_use();
    let job = stand.task_by_id(&engine).input("removeDockerImage", "true").job().await.succeeded();
    job.says(&["the image stays in the engine as two:1: "]);
    assert_eq!(engine.names(), ["two:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn k60_no_pushed_name_is_left_on_an_older_image() {
    let stand = Stand::new().await;
    let pushed = format!("{}:v1", stand.uri());
    for remove in ["true", "false"] {
        for by_id in [false, true] {
            let older = vec![pushed.clone(), "older:1".to_owned()];
            let engine = RecordedEngine::with(Quirks { older, ..Quirks::default() });
            let task = if by_id { stand.task_by_id(&engine) } else { stand.task(&engine) };
            task.input("removeDockerImage", remove).job().await.succeeded();
            assert_eq!(engine.older_names(), ["older:1"], "remove {remove}, by ID {by_id}");
            let expected = if remove == "true" { vec![] } else { vec![pushed.clone(), "two:1".to_owned()] };
            assert_eq!(engine.names(), expected, "remove {remove}, by ID {by_id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k61_success_is_the_last_line() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).job().await.succeeded();
    assert_eq!(job.run.status, 0);
    assert_eq!(job.run.stdout.lines().last(), Some("##vso[task.complete result=Succeeded;]"));
    // The same image again is success too, and nothing is sent.
    let job = stand.task(&engine).job().await.succeeded();
    job.says(&["already there"]);
    assert!(job.texts().iter().all(|text| !text.ends_with("  sent")));
}

#[tokio::test(flavor = "multi_thread")]
async fn k62_a_failure_is_an_issue_and_the_result_with_the_same_text() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).input("sourceImageName", "nobody").job().await;
    let text = job.failed();
    assert!(text.contains("nobody:1"), "{text}");
    let lines: Vec<&str> = job.run.stdout.lines().collect();
    let written = lines.last().unwrap().strip_prefix("##vso[task.complete result=Failed;]").unwrap();
    let issue = lines[lines.len() - 2].strip_prefix("##vso[task.issue type=error;source=TaskInternal;]").unwrap();
    assert_eq!(issue, written);
    assert_eq!(job.run.status, 0);
    assert!(job.variables().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k63_a_call_is_tried_three_times_more() {
    let engine = RecordedEngine::start();
    let out_of_order = || Answer::error(500, "ServerException", "out of order");
    let run = async |failures: usize| {
        let stand = Stand::new().await;
        answer(&stand, "GetAuthorizationToken", out_of_order(), failures);
        let job = stand.task(&engine).job().await;
        (job, stand.asked("GetAuthorizationToken").len())
    };
    let ((passing, tries), (lasting, all)): ((Job, usize), (Job, usize)) = tokio::join!(run(3), run(5));
    passing.succeeded();
    assert_eq!(tries, 4);
    // The old task gave up after four; this one has a budget of time.
    lasting.succeeded();
    assert_eq!(all, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_is_there_when_its_line_is_read() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let job = stand.task(&engine).job().await.succeeded();
    let [(properties, path)] = job.commands("task.uploadsummary")[..] else { panic!("one summary") };
    assert!(properties.is_empty());
    let path = Path::new(path);
    assert!(path.is_absolute() && path.starts_with(stand.temp()), "{}", path.display());
    let text = std::fs::read_to_string(path).unwrap();
    for part in ["### ", "`two:1`", &format!("`{}:v1`", stand.uri()), &stand.tag("v1").unwrap(), "linux/amd64"] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    // Nothing else is left.
    assert_eq!(std::fs::read_dir(stand.temp()).unwrap().count(), 1);
    assert!(job.line_of("task.uploadsummary") > job.line_of("task.setvariable"));
    // Only in the agent's own folder: another, in a container, is not there for the agent, which fails the step then.
    let elsewhere = stand.folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let job = stand.task(&engine).env("TMPDIR", &elsewhere).job().await.succeeded();
    assert!(Path::new(job.commands("task.uploadsummary")[0].1).starts_with(stand.temp()));
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    let job = stand.task(&engine).without("AGENT_TEMPDIRECTORY").env("TMPDIR", &elsewhere).job().await.succeeded();
    assert!(job.commands("task.uploadsummary").is_empty());
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}
