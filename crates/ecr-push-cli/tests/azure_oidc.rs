//! How the task exchanges an identity token of the pipeline for credentials. Each test is named after its statement in
//! docs/azure-pipelines.md: `k` is kept, `f` is mended.
#![cfg(unix)]

mod common;

use std::time::Duration;

use common::Program;
use common::agent::{CONNECTION, JOB_TOKEN, ROLE, identity_token, token_desk};
use common::desk::{Desk, Reply};
use common::engine::RecordedEngine;
use common::keys::{asked_of_sts, assumers, hosts, keys_and, session, stand, stand_with, user, with_regional_sts};
use local_ecr::{Config, Sts};

#[tokio::test(flavor = "multi_thread")]
async fn k16_oidc_is_exchanged_in_the_region() {
    let desk = token_desk().await;
    assert_eq!(hosts(&[], |task| task.oidc(&desk, &[])).await, with_regional_sts());
}

#[tokio::test(flavor = "multi_thread")]
async fn k16_oidc_asks_for_the_role_with_the_token_and_nothing_else() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let desk = token_desk().await;
    let (job, asked) = asked_of_sts(&stand, stand.task(&engine).oidc(&desk, &[])).await;
    job.succeeded();
    let [call] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(call.operation(), "AssumeRoleWithWebIdentity");
    assert_eq!(call.header("authorization"), None);
    assert_eq!(call.field("WebIdentityToken"), Some(identity_token()));
    assert_eq!(call.field("RoleArn").as_deref(), Some(ROLE));
    assert_eq!(call.field("RoleSessionName").as_deref(), Some("aws-vsts-tools"));
    assert_eq!(call.field("DurationSeconds").as_deref(), Some("900"));
    assert_eq!(call.field("ExternalId"), None);
    assert_eq!(stand.principal(), session("aws-vsts-tools"));
    // Session name and duration are the author's; an external ID has no place here, which is said.
    let task = stand.task(&engine).oidc(&desk, &[("roleSessionName", "release-7"), ("externalId", "x")]);
    let (job, asked) = asked_of_sts(&stand, task.variable("aws.rolecredential.maxduration", "7200")).await;
    job.warned(&["the external ID is left out"]);
    assert_eq!(asked[0].field("RoleSessionName").as_deref(), Some("release-7"));
    assert_eq!(asked[0].field("DurationSeconds").as_deref(), Some("7200"));
    assert_eq!(asked[0].field("ExternalId"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn k16_the_token_is_asked_for_as_azure_devops_documents_it() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let desk = token_desk().await;
    stand.task(&engine).oidc(&desk, &[]).job().await.succeeded();
    let [call] = &desk.asked()[..] else { panic!("one request") };
    let path = format!("/org/oidctoken?api-version=7.1&serviceConnectionId={CONNECTION}");
    assert_eq!((call.method.as_str(), call.path.as_str(), call.body.as_str()), ("POST", path.as_str(), "{}"));
    assert_eq!(call.header("authorization"), Some(format!("Bearer {JOB_TOKEN}").as_str()));
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(call.header("x-tfs-fedauthredirect"), Some("Suppress"));
    // An older server does not name the address; it is composed.
    let desk = token_desk().await;
    let task = stand.task(&engine).oidc(&desk, &[]).without("SYSTEM_OIDCREQUESTURI");
    let task = task.env("SYSTEM_COLLECTIONURI", format!("{}/org/", desk.url())).envs(&[
        ("SYSTEM_TEAMPROJECTID", "project-id"),
        ("SYSTEM_HOSTTYPE", "build"),
        ("SYSTEM_PLANID", "plan-id"),
        ("SYSTEM_JOBID", "job-id"),
    ]);
    task.job().await.succeeded();
    let path = "/org/project-id/_apis/distributedtask/hubs/build/plans/plan-id/jobs/job-id/oidctoken";
    let path = format!("{path}?api-version=7.1&serviceConnectionId={CONNECTION}");
    assert_eq!(desk.asked()[0].path, path);
}

#[tokio::test(flavor = "multi_thread")]
async fn k17_only_the_word_true_asks_for_oidc() {
    let engine = RecordedEngine::start();
    for word in ["false", "True", "1", ""] {
        let stand = stand().await;
        let desk = token_desk().await;
        let fields = [("assumeRoleArn", ROLE), ("useOIDC", word)];
        let task = stand.task(&engine).env("SYSTEM_OIDCREQUESTURI", desk.url());
        task.connection(&fields).job().await.succeeded();
        assert_eq!(assumers(&stand), [user("tester")], "`{word}`");
        assert!(desk.asked().is_empty(), "`{word}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_oidc_beside_keys_uses_the_keys_and_says_so() {
    let engine = RecordedEngine::start();
    let desk = token_desk().await;
    for (role, principal) in [(None, user("connection")), (Some(ROLE), session("aws-vsts-tools"))] {
        let stand = stand().await;
        let mut fields = keys_and(&[("useOIDC", "true")]);
        fields.extend(role.map(|role| ("assumeRoleArn", role)));
        let task = stand.task(&engine).env("SYSTEM_OIDCREQUESTURI", desk.url());
        let job = task.connection(&fields).job().await;
        job.warned(&["asks for OIDC and has keys: the keys are used"]);
        assert_eq!(stand.principal(), principal);
    }
    assert!(desk.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_an_oidc_error_stops_at_once_with_its_cause() {
    let engine = RecordedEngine::start();
    // Azure DevOps refuses: asked once, and nobody else is.
    let refusal = r#"{"typeKey":"UnauthorizedRequestException","message":"TF400813: not authorized"}"#;
    for (status, body) in [(401, ""), (403, refusal), (404, ""), (400, refusal)] {
        let stand = stand().await;
        let desk = Desk::start(move |_, _| Reply::Say(status, body.to_owned())).await;
        let job = stand.task(&engine).oidc(&desk, &[]).job().await;
        let error = job.failed();
        assert!(error.contains("identity token") && error.contains(&status.to_string()), "{error}");
        assert_eq!(error.contains("TF400813"), !body.is_empty(), "{error}");
        assert!(!error.contains("empty"), "{error}");
        assert_eq!(desk.asked().len(), 1, "{status}");
        assert!(stand.server.requests().is_empty(), "{status}");
        assert!(engine.changes().is_empty());
    }
    // A page to sign in on, an answer without a token, and one that is no JSON.
    let redirect = Desk::start(|_, _| Reply::Head(302, "Location: https://login.example/\r\n")).await;
    let empty = Desk::start(|_, _| Reply::Say(200, r#"{"oidcToken":""}"#.into())).await;
    let page = Desk::start(|_, _| Reply::Say(203, "<html>Sign in</html>".into())).await;
    for (desk, cause) in [(redirect, "was not accepted"), (empty, "no `oidcToken`"), (page, "203")] {
        let stand = stand().await;
        let job = stand.task(&engine).oidc(&desk, &[]).job().await;
        assert!(job.failed().contains(cause), "{}", job.run.stdout);
        assert!(stand.server.requests().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_role_that_refuses_the_token_stops_with_what_its_policy_would_need() {
    let engine = RecordedEngine::start();
    let refuse = ("AccessDenied".to_owned(), "Not authorized to perform sts:AssumeRoleWithWebIdentity".to_owned());
    let sts = Sts { refuse: Some(refuse), ..Sts::default() };
    let stand = stand_with(Config { sts, ..Config::default() }).await;
    let desk = token_desk().await;
    let job = stand.task(&engine).oidc(&desk, &[]).job().await;
    let error = job.failed();
    assert!(error.contains(ROLE) && error.contains("Not authorized to perform"), "{error}");
    job.says(&["code AccessDenied"]);
    let claims = ["https://vstoken.dev.azure.com/0c1d-org", "api://AzureADTokenExchange", "sc://org/project/aws-prod"];
    let hint = job.texts().into_iter().find(|text| text.contains("trust policy must allow")).unwrap();
    assert!(claims.iter().all(|claim| hint.contains(claim)), "{hint}");
    assert_eq!(stand.asked("STS").len(), 1);
    assert!(stand.asked("GetAuthorizationToken").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_an_outage_of_the_token_service_is_waited_for_in_seconds() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let token = serde_json::json!({ "oidcToken": identity_token() }).to_string();
    let desk = Desk::start(move |_, before| match before {
        0 | 1 => Reply::Say(503, String::new()),
        _ => Reply::Say(200, token.clone()),
    })
    .await;
    let job = stand.task(&engine).oidc(&desk, &[]).job().await.succeeded();
    assert_eq!(desk.asked().len(), 3);
    // As for every other service: a quarter of a second at least, and twice that, with jitter. What is said again in the same moment is
    // counted.
    let waits = job.texts().into_iter().filter(|text| text.contains("request identity token failed")).count();
    assert!((1..=2).contains(&waits), "{}", job.run.stdout);
    job.says(&["with 503; trying again in 0."]);
    assert!((Duration::from_millis(750)..Duration::from_secs(10)).contains(&job.run.took), "{:?}", job.run.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn k20_issuer_audience_and_subject_are_shown_and_the_token_never_is() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let desk = token_desk().await;
    let task = stand.task(&engine).oidc(&desk, &[]).input("logRequest", "true").input("logResponse", "true");
    let job = task.variable("System.Debug", "true").job().await.succeeded();
    let claims = "identity token: issuer https://vstoken.dev.azure.com/0c1d-org, audience api://AzureADTokenExchange, \
                  subject sc://org/project/aws-prod";
    assert_eq!(job.texts().iter().filter(|text| **text == claims).count(), 1, "{}", job.run.stdout);
    assert!(job.line_of(&format!("##vso[task.setsecret]{}", identity_token())) < job.line_of(claims));
    let token = identity_token();
    assert!(token.split('.').all(|part| !job.without_masks().contains(part)), "{}", job.without_masks());
    assert!(!job.without_masks().contains(JOB_TOKEN));
}

fn without_job_token(task: Program) -> Program {
    task.without("ENDPOINT_AUTH_SYSTEMVSSCONNECTION").without("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN")
}

#[tokio::test(flavor = "multi_thread")]
async fn k21_oidc_without_the_jobs_token_asks_to_allow_it() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let desk = token_desk().await;
    let job = without_job_token(stand.task(&engine).oidc(&desk, &[])).job().await;
    let error = job.failed();
    assert!(error.contains("System.AccessToken"), "{error}");
    assert!(error.contains("Allow scripts to access the OAuth token"), "{error}");
    assert!(desk.asked().is_empty() && stand.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_the_token_of_the_agents_own_connection_serves_too() {
    let engine = RecordedEngine::start();
    let stand = stand().await;
    let document = r#"{"parameters":{"AccessToken":"token-in-the-document"},"scheme":"OAuth"}"#;
    let places = [
        ("SECRET_SYSTEM_ACCESSTOKEN", "token-of-the-secret-variable", "token-of-the-secret-variable"),
        ("SYSTEM_ACCESSTOKEN", "token-that-was-mapped", "token-that-was-mapped"),
        ("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN", "token-as-parameter", "token-as-parameter"),
        ("ENDPOINT_AUTH_SYSTEMVSSCONNECTION", document, "token-in-the-document"),
    ];
    for at in 0..places.len() {
        let desk = token_desk().await;
        let task = without_job_token(stand.task(&engine).oidc(&desk, &[]));
        let task = places[at..].iter().fold(task, |task, (name, value, _)| task.env(name, value));
        let job = task.job().await.succeeded();
        assert_eq!(desk.asked()[0].header("authorization"), Some(format!("Bearer {}", places[at].2).as_str()));
        assert!(!job.without_masks().contains(places[at].2));
    }
}
