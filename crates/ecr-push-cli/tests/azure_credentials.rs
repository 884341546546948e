//! Which credentials the task uses, and what it says of them. The server knows every key and verifies every signature. Each
//! test is named after its statement in docs/azure-pipelines.md: `k` is kept, `f` is mended.
#![cfg(unix)]

mod common;

use std::time::Duration;

use common::agent::{CONNECTION, Job, ROLE, identity_token, token_desk};
use common::desk::Desk;
use common::engine::RecordedEngine;
use common::keys::{
    CONNECTION_KEY, KEYS, VARIABLES_KEY, asked_of_sts, assumers, hosts, keys_and, session, stand, stand_with, user,
    variables, with_regional_sts,
};
use common::{KEY, Program, SECRET, Stand};
use local_ecr::{Config, Fault, FaultAction, Imds, Sts};

#[tokio::test(flavor = "multi_thread")]
async fn k12_the_order_of_the_sources() {
    let engine = RecordedEngine::start();
    let desk = token_desk().await;
    type Change<'a> = Box<dyn Fn(Program) -> Program + 'a>;
    let role = ("assumeRoleArn", ROLE);
    let cases: [(&str, Change<'_>, String, Vec<String>); 6] = [
        // A role and no keys: taken on with the host's credentials, though task variables are there.
        ("a", Box::new(|t| variables(t).connection(&[role])), session("aws-vsts-tools"), vec![user("tester")]),
        ("b", Box::new(|t| variables(t).oidc(&desk, &[])), session("aws-vsts-tools"), vec![ROLE.into()]),
        ("c", Box::new(|t| variables(t).connection(&KEYS)), user("connection"), vec![]),
        (
            "c with a role",
            Box::new(|t| variables(t).connection(&keys_and(&[role]))),
            session("aws-vsts-tools"),
            vec![user("connection")],
        ),
        ("d", Box::new(variables), user("variables"), vec![]),
        ("e", Box::new(|t| t), user("tester"), vec![]),
    ];
    for (case, change, principal, assumed_by) in cases {
        let stand = stand().await;
        let job = change(stand.task(&engine)).job().await.succeeded();
        assert_eq!(stand.principal(), principal, "{case}:\n{}", job.run.stdout);
        assert_eq!(assumers(&stand), assumed_by, "{case}");
    }
    assert_eq!(desk.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn k13_the_log_starts_with_the_credentials_and_names_the_connection_once() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let job = stand.task(&engine).connection(&KEYS).job().await.succeeded();
    let named = format!("...configuring AWS credentials from service endpoint '{CONNECTION}'");
    assert_eq!(job.texts()[..2], ["Configuring credentials for task", &named]);
    assert_eq!(job.texts().iter().filter(|text| text.contains("service endpoint")).count(), 1);
    // Before it there are only masks.
    let first = job.line_of("Configuring credentials for task");
    assert!(job.run.stdout.lines().take(first).all(|line| line.starts_with("##vso[task.setsecret]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn k14_half_a_key_pair_is_refused() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let role = ("assumeRoleArn", ROLE);
    for fields in [vec![KEYS[0]], vec![KEYS[1]], vec![KEYS[0], role], vec![KEYS[1], role, ("useOIDC", "true")]] {
        let job = stand.task(&engine).connection(&fields).job().await;
        let expected = "Need to define or omit both \"Access Key ID\" and \"Secret Access Key\", not just one.";
        assert!(job.failed().starts_with(expected), "{}", job.run.stdout);
        assert!(!job.without_masks().contains(CONNECTION_KEY.1));
    }
    assert!(stand.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_the_role_of_the_host_is_taken_on_in_the_region_with_external_id_and_duration() {
    let engine = RecordedEngine::start();
    let sts = Sts { external_id: Some("the external id".into()), ..Sts::default() };
    let config = Config { region: "eu-west-1".into(), sts, ..Config::default() };
    let stand = stand_with(config).await;
    let fields = [("assumeRoleArn", ROLE), ("externalId", "the external id"), ("useOIDC", "")];
    let task = || stand.task(&engine).input("regionName", "eu-west-1");
    let (job, asked) = asked_of_sts(&stand, task().connection(&fields)).await;
    job.succeeded().says(&["the service connection has a role and no keys: the credentials of the build's host"]);
    let [call] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(call.operation(), "AssumeRole");
    assert_eq!(call.region(), Some("eu-west-1"));
    assert_eq!(call.field("RoleArn").as_deref(), Some(ROLE));
    assert_eq!(call.field("RoleSessionName").as_deref(), Some("aws-vsts-tools"));
    assert_eq!(call.field("DurationSeconds").as_deref(), Some("900"));
    assert_eq!(stand.principal(), session("aws-vsts-tools"));
    // The name of the session and the duration are the author's, if given.
    let named: Vec<_> = fields.into_iter().chain([("roleSessionName", "release-7")]).collect();
    let task = task().connection(&named).variable("aws.rolecredential.maxduration", "3600");
    let (job, asked) = asked_of_sts(&stand, task).await;
    job.succeeded();
    assert_eq!(asked[0].field("RoleSessionName").as_deref(), Some("release-7"));
    assert_eq!(asked[0].field("DurationSeconds").as_deref(), Some("3600"));
    // A role that refuses stops the task.
    stand.server.clear_requests();
    let job = stand.task(&engine).input("regionName", "eu-west-1").connection(&[fields[0]]).job().await;
    assert!(job.failed().contains(ROLE), "{}", job.run.stdout);
    assert!(stand.asked("GetAuthorizationToken").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_the_global_endpoint_of_sts_is_never_asked_for_the_role_of_the_host() {
    assert_eq!(hosts(&[("assumeRoleArn", ROLE)], |task| task).await, with_regional_sts());
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_the_global_endpoint_of_sts_is_never_asked_for_the_role_of_keys() {
    let fields = [("username", KEY), ("password", SECRET), ("assumeRoleArn", ROLE)];
    assert_eq!(hosts(&fields, |task| task).await, with_regional_sts());
}

#[tokio::test(flavor = "multi_thread")]
async fn k22_keys_and_a_role_take_the_role_on_with_the_keys() {
    let engine = RecordedEngine::start();
    let sts = Sts { external_id: Some("the external id".into()), ..Sts::default() };
    let stand = stand_with(Config { region: "eu-west-1".into(), sts, ..Config::default() }).await;
    let fields = keys_and(&[("assumeRoleArn", ROLE), ("externalId", "the external id")]);
    let task = stand.task(&engine).input("regionName", "eu-west-1").connection(&fields);
    let (job, asked) = asked_of_sts(&stand, task).await;
    job.succeeded();
    let [call] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((call.operation().as_str(), call.region()), ("AssumeRole", Some("eu-west-1")));
    assert_eq!(call.field("RoleSessionName").as_deref(), Some("aws-vsts-tools"));
    assert_eq!(call.field("DurationSeconds").as_deref(), Some("900"));
    assert_eq!(assumers(&stand), [user("connection")]);
    assert_eq!(stand.principal(), session("aws-vsts-tools"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k22_the_roles_credentials_are_renewed_when_they_end() {
    let engine = RecordedEngine::start();
    let sts = Sts { credentials_ttl: Some(Duration::from_secs(2)), ..Sts::default() };
    let stand = stand_with(Config { sts, ..Config::default() }).await;
    let wait = FaultAction::DelayAnswer(Duration::from_millis(2500));
    stand.server.add_fault(Fault::new(wait).operation("GetAuthorizationToken").times(1));
    let task = stand.task(&engine).connection(&keys_and(&[("assumeRoleArn", ROLE)]));
    let job = task.job().await.succeeded();
    let renewed = stand.asked("STS").len();
    assert!(renewed > 1, "{}", job.run.stdout);
    // Each set is hidden: key, secret key and token, besides what the connection has.
    let keys = job.hidden().into_iter().filter(|text| text.starts_with("ASIA")).count();
    assert_eq!(keys, renewed, "{:?}", job.hidden());
}

#[tokio::test(flavor = "multi_thread")]
async fn k23_keys_without_a_role_are_used_as_they_are() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    stand.task(&engine).connection(&KEYS).job().await.succeeded();
    assert_eq!(stand.principal(), user("connection"));
    assert!(stand.asked("STS").is_empty());
    // With a session token, which this server takes as it comes.
    let stand = Stand::new().await;
    let desk = Desk::before(stand.server.address()).await;
    let task = stand.task(&engine).connection(&keys_and(&[("sessionToken", "the-session-token-of-the-connection")]));
    let job = task.env("AWS_ENDPOINT_URL_ECR", desk.url()).job().await.succeeded();
    let call = &desk.of("GetAuthorizationToken")[0];
    assert_eq!(call.header("x-amz-security-token"), Some("the-session-token-of-the-connection"));
    assert!(job.hidden().contains(&"the-session-token-of-the-connection"));
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_a_named_connection_that_is_missing_stops_at_once() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let job = variables(stand.task(&engine)).input("awsCredentials", CONNECTION).job().await;
    let error = job.failed();
    assert!(error.starts_with(&format!("the job has no service connection '{CONNECTION}'")), "{error}");
    assert!(error.contains("allowed for this pipeline"), "{error}");
    assert!(stand.server.requests().is_empty() && engine.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_connection_without_keys_and_role_means_the_hosts_credentials_and_says_so() {
    let engine = RecordedEngine::start();
    for fields in [vec![], vec![("username", ""), ("password", ""), ("assumeRoleArn", " ")]] {
        let stand = stand().await;
        let job = variables(stand.task(&engine)).connection(&fields).job().await.succeeded();
        job.says(&["the service connection has neither keys nor a role: the credentials of the build's host are used"]);
        assert_eq!(stand.principal(), user("tester"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k26_task_variables_secret_or_plain() {
    let engine = RecordedEngine::start();
    for (id_is_secret, secret_is_secret) in [(false, true), (true, true), (false, false), (true, false)] {
        let stand = stand().await;
        let set = |task: Program, is_secret: bool, name: &str, value: &str| match is_secret {
            true => task.secret_variable(name, value),
            false => task.variable(name, value),
        };
        let task = set(stand.task(&engine), id_is_secret, "AWS.AccessKeyID", VARIABLES_KEY.0);
        let task = set(task, secret_is_secret, "AWS.SecretAccessKey", VARIABLES_KEY.1);
        let job = task.job().await.succeeded();
        job.says(&["...configuring AWS credentials from task variables"]);
        assert_eq!(stand.principal(), user("variables"));
        assert!(!job.without_masks().contains(VARIABLES_KEY.1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k26_task_variables_may_name_a_role() {
    let engine = RecordedEngine::start();
    let sts = Sts { external_id: Some("the external id".into()), ..Sts::default() };
    let stand = stand_with(Config { sts, ..Config::default() }).await;
    let task = variables(stand.task(&engine))
        .variable("AWS.AssumeRoleArn", ROLE)
        .variable("AWS.ExternalId", "the external id")
        .variable("AWS.RoleSessionName", "release-7");
    task.job().await.succeeded();
    assert_eq!(assumers(&stand), [user("variables")]);
    assert_eq!(stand.principal(), session("release-7"));
    // The session's name has the same default as elsewhere.
    stand.server.clear_requests();
    let task = variables(stand.task(&engine)).variable("AWS.AssumeRoleArn", ROLE);
    task.secret_variable("AWS.ExternalId", "the external id")
        .env("VSTS_SECRET_VARIABLES", "[]")
        .job()
        .await
        .succeeded();
    assert_eq!(stand.principal(), session("aws-vsts-tools"));
    // Without keys the role is left out.
    let stand = stand_with(Config::default()).await;
    let job = stand.task(&engine).variable("AWS.AssumeRoleArn", ROLE).job().await;
    job.warned(&["AWS.AssumeRoleArn is left out"]);
    assert_eq!(stand.principal(), user("tester"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k26_the_session_token_of_task_variables_is_sent() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let desk = Desk::before(stand.server.address()).await;
    let task = variables(stand.task(&engine)).env("SECRET_AWS_SESSIONTOKEN", "the-session-token-of-the-variables");
    task.env("AWS_ENDPOINT_URL_ECR", desk.url()).job().await.succeeded();
    let call = &desk.of("GetAuthorizationToken")[0];
    assert_eq!(call.header("x-amz-security-token"), Some("the-session-token-of-the-variables"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k26_an_access_key_without_its_secret_key_is_refused() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    for task in [
        stand.task(&engine).variable("AWS.AccessKeyID", VARIABLES_KEY.0),
        stand.task(&engine).secret_variable("AWS.AccessKeyID", VARIABLES_KEY.0).variable("AWS.SecretAccessKey", ""),
    ] {
        let job = task.job().await;
        let expected = "AWS access key ID present in task variables but secret key value is missing; cannot configure \
                        task credentials.";
        assert!(job.failed().starts_with(expected), "{}", job.run.stdout);
    }
    // Upstream took the other half alone for nothing, and went on with another's keys.
    let job = stand.task(&engine).secret_variable("AWS.SecretAccessKey", VARIABLES_KEY.1).job().await;
    assert!(job.failed().contains("access key ID is missing"), "{}", job.run.stdout);
    // What no variable stands for is no key.
    let macros = stand.task(&engine).secret_variable("AWS.AccessKeyID", "$(Key)");
    let job = macros.secret_variable("AWS.SecretAccessKey", "$(Secret)").job().await;
    assert!(job.failed().contains("AWS.AccessKeyID holds the name of a variable"), "{}", job.run.stdout);
    assert!(stand.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k27_the_connection_wins_over_variables_and_variables_win_over_the_environment() {
    let engine = RecordedEngine::start();
    let from_all = |stand: &Stand| variables(stand.task(&engine)).connection(&KEYS);
    let with_connection = stand().await;
    from_all(&with_connection).job().await.succeeded();
    assert_eq!(with_connection.principal(), user("connection"));
    let without = stand().await;
    from_all(&without).input("awsCredentials", "").job().await.succeeded();
    assert_eq!(without.principal(), user("variables"));
    // What was chosen is not replaced by the next if it does not work.
    let stand = stand().await;
    let wrong =
        keys_and(&[]).into_iter().map(|(name, value)| (name, if name == "password" { "wrong-key" } else { value }));
    let job = variables(stand.task(&engine)).connection(&wrong.collect::<Vec<_>>()).job().await;
    job.failed();
    let asked = stand.server.requests();
    assert!(!asked.is_empty() && asked.iter().all(|request| request.principal.is_none()), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn k28_without_any_the_hosts_credentials_are_tried_which_is_said() {
    let engine = RecordedEngine::start();
    let host_is_tried = "the credentials of the build's host are tried";
    // The environment.
    let stand_of_environment = stand().await;
    stand_of_environment.task(&engine).job().await.succeeded().says(&[host_is_tried, "credentials from environment"]);
    // Shared files, a process, a token file, instance metadata.
    let stand = stand_with(Config { imds: Some(Imds::default()), ..Config::default() }).await;
    let host = || {
        stand.server.clear_requests();
        stand.bare_task(&engine).input("regionName", "us-east-1")
    };
    stand
        .file("home/.aws/credentials", format!("[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n"));
    host().job().await.succeeded().says(&[host_is_tried, "credentials from profile files"]);
    assert_eq!(stand.principal(), user("tester"));
    let answer = serde_json::json!({ "Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET }).to_string();
    let file = stand.file("answer.json", answer);
    stand.file("home/.aws/credentials", "");
    stand.file("home/.aws/config", format!("[default]\ncredential_process = /bin/cat {}\n", file.display()));
    host().job().await.succeeded();
    assert_eq!(stand.principal(), user("tester"));
    stand.file("home/.aws/config", "");
    let file = stand.file("token", identity_token());
    let task = host().env("AWS_WEB_IDENTITY_TOKEN_FILE", file).env("AWS_ROLE_ARN", ROLE);
    task.env("AWS_ROLE_SESSION_NAME", "host").job().await.succeeded();
    assert_eq!(stand.principal(), session("host"));
    let task = host().env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap());
    task.job().await.succeeded().says(&[host_is_tried, "credentials from instance metadata"]);
    assert!(stand.principal().contains("local-ecr-instance"));
    // Nothing at all: what a pipeline would set comes first, then each place is named.
    let job = host().job().await;
    let error = job.failed();
    let first =
        "hint: name a service connection of type AWS in `awsCredentials`, or set the variables AWS.AccessKeyID and";
    assert!(error.starts_with("no AWS credentials were found") && error.contains(first), "{error}");
    job.says(&["note: skipped instance metadata", first, "hint: set AWS_ACCESS_KEY_ID"]);
    // Who chose a connection is not advised to choose one.
    let job = host().connection(&[("assumeRoleArn", ROLE)]).job().await;
    assert!(!job.failed().contains("in `awsCredentials`"), "{}", job.run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn k29_the_duration_is_an_integer_from_900_to_43200() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let fields = keys_and(&[("assumeRoleArn", ROLE)]);
    for (text, seconds) in [
        ("900", "900"),
        ("3600", "3600"),
        ("3600s", "3600"),
        (" 1800 ", "1800"),
        ("43200", "43200"),
        ("1000.9", "1000"),
        ("", "900"),
    ] {
        let task = stand.task(&engine).connection(&fields).variable("aws.rolecredential.maxduration", text);
        let (job, asked) = asked_of_sts(&stand, task).await;
        job.succeeded();
        assert_eq!(asked[0].field("DurationSeconds").as_deref(), Some(seconds), "`{text}`");
    }
    for text in ["899", "43201", "0", "-900", "abc", "s3600", "99999999999999999999"] {
        let task = stand.task(&engine).connection(&fields).variable("aws.rolecredential.maxduration", text);
        let (job, asked) = asked_of_sts(&stand, task).await;
        job.warned(&[&format!("Invalid credential duration '{text}', minimum is 900, max 43200")]);
        assert_eq!(asked[0].field("DurationSeconds").as_deref(), Some("900"), "`{text}`");
    }
}

/// What AWS gave: an access key, a secret key and a session token, by their forms on this server.
#[track_caller]
fn hides_temporary_credentials(job: &Job) {
    let hidden = job.hidden();
    let has = |form: &dyn Fn(&str) -> bool| hidden.iter().any(|text| form(text));
    let is_hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(has(&|text| text.starts_with("ASIA")), "{hidden:?}");
    assert!(has(&|text| is_hex(text, 40)), "{hidden:?}");
    assert!(has(&|text| is_hex(text, 128)), "{hidden:?}");
    // Before anything else is said of them.
    let masked = job.line_of("##vso[task.setsecret]ASIA");
    assert!(masked < job.line_of(", credentials from "), "{}", job.run.stdout);
    for text in hidden {
        assert!(!job.without_masks().contains(text), "`{text}` is shown:\n{}", job.without_masks());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f30_temporary_credentials_are_hidden_before_anything_is_said_of_them() {
    let engine = RecordedEngine::start();
    let desk = token_desk().await;
    let stand = stand_with(Config { imds: Some(Imds::default()), ..Config::default() }).await;
    let debug =
        |task: Program| task.variable("System.Debug", "true").input("logRequest", "true").input("logResponse", "true");
    for task in [
        stand.task(&engine).connection(&[("assumeRoleArn", ROLE)]),
        stand.task(&engine).connection(&keys_and(&[("assumeRoleArn", ROLE)])),
        stand.task(&engine).oidc(&desk, &[]),
        variables(stand.task(&engine)).variable("AWS.AssumeRoleArn", ROLE),
        // Instance metadata gives temporary ones too.
        stand
            .bare_task(&engine)
            .input("regionName", "us-east-1")
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap()),
    ] {
        hides_temporary_credentials(&debug(task).job().await.succeeded());
    }
}
