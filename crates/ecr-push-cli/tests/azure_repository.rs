//! How the task finds the registry and its repository: the token, the endpoint, what is missing and created. Each test is named after its
//! statement in docs/azure-pipelines.md: `k` is kept, `f` is mended.
#![cfg(unix)]

mod common;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::desk::{Desk, Reply};
use common::engine::RecordedEngine;
use common::{APP, Stand, answer, authorization, give_token};
use local_ecr::{Answer, Config, Fault, FaultAction, Policy};

#[tokio::test(flavor = "multi_thread")]
async fn k47_the_token_is_asked_for_without_registry_ids_and_the_first_answer_counts() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let desk = Desk::before(stand.server.address()).await;
    stand.task(&engine).env("AWS_ENDPOINT_URL_ECR", desk.url()).job().await.succeeded();
    let calls = desk.of("GetAuthorizationToken");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].body, "{}");
    // Two registries are answered: the second is at a port where nothing listens.
    let data = |endpoint: String| {
        let token = stand.server.authorization_token("tester");
        serde_json::json!({ "authorizationToken": token, "expiresAt": 4_102_444_800_u64, "proxyEndpoint": endpoint })
    };
    let own = data(format!("http://{}", stand.server.registry_host()));
    let other = data(format!("http://127.0.0.1:{}", common::closed_port()));
    answer(&stand, "GetAuthorizationToken", authorization(&serde_json::json!([own, other])), 1);
    stand.task(&engine).job().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn k47_a_token_that_is_not_given_is_told_in_upstreams_words() {
    let engine = RecordedEngine::start();
    let own = "QVdTOnB3";
    for (given, words) in [
        (
            Answer::error(400, "AccessDeniedException", "you may not"),
            "Failed to obtain authorization token to log in to ECR, error: ",
        ),
        (authorization(&serde_json::json!([])), "Failed to obtain auth token!"),
        (
            authorization(&serde_json::json!([{ "proxyEndpoint": "http://127.0.0.1:1" }])),
            "Failed to obtain auth token!",
        ),
        (authorization(&serde_json::json!([{ "authorizationToken": own }])), "Failed to get endpoint of repository"),
    ] {
        let stand = Stand::new().await;
        answer(&stand, "GetAuthorizationToken", given, usize::MAX);
        let job = stand.task(&engine).job().await;
        assert!(job.failed().starts_with(words), "{}", job.run.stdout);
        assert!(stand.tag("v1").is_none() && engine.changes().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn k48_the_registry_is_the_host_of_the_proxy_endpoint() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let registry = Desk::before(stand.server.address()).await;
    let token = stand.server.authorization_token("tester");
    give_token(&stand, &token, &registry.url());
    let job = stand.task(&engine).input("outputVariable", "x").job().await.succeeded();
    assert_eq!(job.variables()[0].2, format!("{}/{APP}:v1", registry.url().strip_prefix("http://").unwrap()));
    assert!(registry.asked().iter().any(|asked| asked.path.ends_with("/manifests/v1") && asked.method == "PUT"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k49_a_line_break_behind_the_token_is_no_part_of_the_password() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let token = String::from_utf8(BASE64_STANDARD.decode(stand.server.authorization_token("tester")).unwrap()).unwrap();
    give_token(&stand, &BASE64_STANDARD.encode(format!("{token}\n")), &stand.server.endpoint_url());
    let job = stand.task(&engine).job().await.succeeded();
    assert!(job.hidden().contains(&token.split_once(':').unwrap().1), "{:?}", job.hidden());
}

#[tokio::test(flavor = "multi_thread")]
async fn k49_the_token_is_a_user_and_a_password_which_may_hold_colons() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let registry = Desk::start(|_, _| Reply::Say(404, "{}".into())).await;
    give_token(&stand, &BASE64_STANDARD.encode("AWS:pass:word:of:the:registry"), &registry.url());
    let job = stand.task(&engine).job().await;
    job.failed();
    let sent = registry.asked().iter().find_map(|asked| asked.header("authorization").map(str::to_owned)).unwrap();
    let sent = BASE64_STANDARD.decode(sent.strip_prefix("Basic ").unwrap()).unwrap();
    assert_eq!(String::from_utf8(sent).unwrap(), "AWS:pass:word:of:the:registry");
    assert!(job.hidden().contains(&"pass:word:of:the:registry"), "{:?}", job.hidden());
}

#[tokio::test(flavor = "multi_thread")]
async fn k50_a_missing_repository_is_created_by_its_name_alone_and_an_existing_one_is_not() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let task = || stand.task(&engine).input("autoCreateRepository", "true");
    task().job().await.succeeded();
    assert!(stand.asked("CreateRepository").is_empty());
    let desk = Desk::before(stand.server.address()).await;
    let new = task().input("repositoryName", "new/app").env("AWS_ENDPOINT_URL_ECR", desk.url());
    let job = new.job().await.succeeded();
    let [created] = &desk.of("CreateRepository")[..] else { panic!("one call") };
    assert_eq!(created.body, r#"{"repositoryName":"new/app"}"#);
    job.says(&["created the repository"]);
    // It is done before a layer is sent.
    let asked = stand.server.requests();
    let first = |operation: &str| asked.iter().position(|request| request.operation == operation).unwrap();
    assert!(stand.tag("v1").is_some() && first("GetAuthorizationToken") < first("CreateRepository"));
}

#[tokio::test(flavor = "multi_thread")]
async fn k50_existence_that_cannot_be_told_is_an_error_in_upstreams_words() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let expired =
        || Answer::error(400, "ExpiredTokenException", "The security token included in the request is expired");
    answer(&stand, "BatchCheckLayerAvailability", expired(), usize::MAX);
    answer(&stand, "DescribeRepositories", expired(), usize::MAX);
    let task = stand.task(&engine).input("autoCreateRepository", "true").input("repositoryName", "new/app");
    let job = task.job().await;
    assert!(job.failed().starts_with("Error testing for repository existence: "), "{}", job.run.stdout);
    assert!(stand.asked("CreateRepository").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k50_an_outage_is_no_missing_repository() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let out_of_order = FaultAction::Answer(Answer::error(500, "ServerException", "out of order"));
    for operation in ["BatchCheckLayerAvailability", "DescribeRepositories"] {
        stand.server.add_fault(Fault::new(out_of_order.clone()).method("POST").operation(operation));
    }
    let task = stand.task(&engine).input("autoCreateRepository", "true").input("repositoryName", "new/app");
    let job = task.job().await;
    assert!(job.failed().starts_with("Error testing for repository existence: "), "{}", job.run.stdout);
    assert!(stand.asked("CreateRepository").is_empty(), "only a repository that is not there is created");
}

#[tokio::test(flavor = "multi_thread")]
async fn k50_the_suggested_policy_may_create_the_repository_where_the_task_is_to() {
    let engine = RecordedEngine::start();
    let refusal = |action: &str| {
        let text = format!(
            "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ecr:{action} on resource: \
             arn:aws:ecr:us-east-1:123456789012:repository/new/app because no identity-based policy allows it"
        );
        Answer::error(400, "AccessDeniedException", &text)
    };
    // At the first call, at the creation, and at the registry.
    for operation in ["GetAuthorizationToken", "CreateRepository", "PutImage"] {
        for create in ["true", "false"] {
            if operation == "CreateRepository" && create == "false" {
                continue;
            }
            let stand = Stand::new().await;
            answer(&stand, operation, refusal(operation), usize::MAX);
            let repository = if operation == "CreateRepository" { "new/app" } else { APP };
            let task = stand.task(&engine).input("repositoryName", repository);
            let job = task.input("autoCreateRepository", create).job().await;
            job.failed();
            let texts = job.texts().join("\n");
            let suggested = texts.matches("\"ecr:CreateRepository\"").count();
            assert_eq!(suggested, usize::from(create == "true"), "{operation}, {create}:\n{texts}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f51_a_repository_that_another_job_created_meanwhile_is_success() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    // It was not there when it was looked for; it is when it is created.
    let missing = Answer::error(400, "RepositoryNotFoundException", "The repository does not exist");
    answer(&stand, "BatchCheckLayerAvailability", missing, 1);
    stand.task(&engine).input("autoCreateRepository", "true").job().await.succeeded();
    assert_eq!(stand.asked("CreateRepository")[0].status, Some(400));
    assert!(stand.tag("v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn k52_without_the_switch_nothing_is_described_or_created_and_a_missing_repository_fails() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    stand.task(&engine).job().await.succeeded();
    assert!(stand.asked("DescribeRepositories").is_empty() && stand.asked("CreateRepository").is_empty());
    let job = stand.task(&engine).input("repositoryName", "new/app").input("outputVariable", "x").job().await;
    let error = job.failed();
    assert!(error.contains("`new/app` does not exist") && error.contains("autoCreateRepository: true"), "{error}");
    assert!(job.variables().is_empty());
    assert!(stand.asked("DescribeRepositories").is_empty() && stand.asked("CreateRepository").is_empty());
    // The right to describe is not needed, not even to move a tag.
    let deny = r#"{"Statement":[{"Effect":"Allow","Action":"ecr:*","Resource":"*"},
        {"Effect":"Deny","Action":"ecr:DescribeRepositories","Resource":"*"}]}"#;
    let policies = vec![("*".to_owned(), Policy::parse(deny).unwrap())];
    let stand = Stand::with(Config { policies, ..Config::default() }).await;
    for _ in 0..2 {
        stand.task(&engine).job().await.succeeded();
    }
}
