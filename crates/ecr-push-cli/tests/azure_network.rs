//! Region, proxy, certificates and the log of calls of the task. Each test is named after its statement in
//! docs/azure-pipelines.md: `k` is kept, `f` is mended.
#![cfg(unix)]

mod common;

use std::time::Duration;

use common::agent::{Aws, HOSTS};
use common::desk::Proxy;
use common::engine::RecordedEngine;
use common::{KEY, Program, SECRET, Stand, closed_port};
use local_ecr::{Config, Imds, ImdsMode};

/// A server in this region, whose signatures hold it, with instance metadata.
async fn stand_in(region: &str) -> Stand {
    Stand::strict(Config { region: region.into(), imds: Some(Imds::default()), ..Config::default() }).await
}

fn with_metadata(stand: &Stand, task: Program) -> Program {
    task.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn k31_the_region_is_the_inputs_then_the_variables_then_the_environments_then_the_hosts() {
    let engine = RecordedEngine::start();
    let stand = stand_in("eu-west-1").await;
    let task = || with_metadata(&stand, stand.task(&engine)).input("regionName", "");
    // The input is written in any case; its blanks do not count.
    let everything_else = |task: Program| task.env("AWS_REGION", "us-west-2").env("AWS_DEFAULT_REGION", "us-west-1");
    let job = everything_else(task()).input("regionName", " EU-West-1 ").job().await.succeeded();
    job.says(&["region eu-west-1 (`regionName`)"]);
    // A secret variable is another than the environment's.
    let job = everything_else(task()).secret_variable("AWS.Region", "eu-west-1").job().await.succeeded();
    job.says(&["region eu-west-1 (the task variable AWS.Region)"]);
    task().env("AWS_REGION", "eu-west-1").env("AWS_DEFAULT_REGION", "us-west-1").job().await.succeeded();
    let job = task().job().await.succeeded();
    job.says(&["region eu-west-1 (instance metadata)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_instance_metadata_that_hangs_is_not_waited_for_long() {
    let engine = RecordedEngine::start();
    let hang = Imds { mode: ImdsMode::Hang, ..Imds::default() };
    let stand = Stand::with(Config { imds: Some(hang), ..Config::default() }).await;
    let job = with_metadata(&stand, stand.task(&engine)).input("regionName", "").job().await;
    assert!(job.failed().contains("Missing region in config"), "{}", job.run.stdout);
    assert!(job.run.took < Duration::from_secs(10), "{:?}", job.run.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn k32_the_environments_aws_region_is_the_task_variable() {
    let engine = RecordedEngine::start();
    let stand = stand_in("eu-west-1").await;
    // The agent gives the variable AWS.Region as AWS_REGION, so the two cannot be told apart.
    let job = stand.task(&engine).input("regionName", "").variable("AWS.Region", "eu-west-1").job().await.succeeded();
    job.says(&["region eu-west-1 (the task variable AWS.Region)"]);
    let job = stand.task(&engine).input("regionName", "").env("AWS_REGION", "eu-west-1").job().await.succeeded();
    job.says(&["region eu-west-1 (the task variable AWS.Region)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f33_the_default_region_and_the_profiles_are_taken_after_those() {
    let engine = RecordedEngine::start();
    let stand = stand_in("eu-west-1").await;
    let task = || with_metadata(&stand, stand.task(&engine)).input("regionName", "");
    stand.file("home/.aws/config", "[default]\nregion = us-west-2\n");
    let job = task().env("AWS_DEFAULT_REGION", "eu-west-1").job().await.succeeded();
    job.says(&["region eu-west-1 (AWS_DEFAULT_REGION)"]);
    let job = task().env("AWS_DEFAULT_REGION", "us-west-1").variable("AWS.Region", "eu-west-1").job().await.succeeded();
    job.says(&["region eu-west-1 (the task variable AWS.Region)"]);
    // The profile comes before instance metadata, which would say the region of the server.
    let stand = stand_in("us-west-2").await;
    stand.file("home/.aws/config", "[default]\nregion = us-west-2\n");
    stand.task(&engine).input("regionName", "").job().await.succeeded().says(&["region us-west-2 (the profile)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn k34_no_region_is_a_failure_in_upstreams_words() {
    let engine = RecordedEngine::start();
    let stand = stand_in("us-east-1").await;
    let job = stand.task(&engine).input("regionName", "").job().await;
    let error = job.failed();
    assert!(error.starts_with("Missing region in config"), "{error}");
    assert!(error.contains("regionName") && !error.contains("--region"), "{error}");
    assert!(stand.server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn k35_a_region_that_no_list_has_is_used() {
    let engine = RecordedEngine::start();
    let stand = stand_in("xx-new-1").await;
    stand.task(&engine).input("regionName", "xx-new-1").job().await.succeeded().says(&["region xx-new-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn k36_the_agents_proxy_wins_then_https_proxy_then_http_proxy() {
    let engine = RecordedEngine::start();
    for first in 0..3 {
        let aws = Aws::start().await;
        let others = [Proxy::before(aws.stand.server.address()).await, Proxy::before(aws.stand.server.address()).await];
        let proxies = [&aws.proxy, &others[0], &others[1]];
        let names = ["AGENT_PROXYURL", "HTTPS_PROXY", "HTTP_PROXY"];
        let task = names
            .iter()
            .zip(proxies)
            .skip(first)
            .fold(aws.direct_task(&engine), |task, (name, proxy)| task.env(name, proxy.url()));
        // In lower case they were never read: what is there in upper case is not replaced by them.
        let elsewhere = format!("http://127.0.0.1:{}", closed_port());
        let task = if first == 0 { task } else { task.env("https_proxy", &elsewhere).env("http_proxy", &elsewhere) };
        task.job().await.succeeded();
        let used: Vec<bool> = proxies.iter().map(|proxy| !proxy.hosts().is_empty()).collect();
        assert_eq!(used.iter().position(|used| *used), Some(first), "{used:?}");
        assert_eq!(used.iter().filter(|used| **used).count(), 1, "{used:?}");
    }
}

/// The task against an address that is no loopback address to a proxy, and reaches this machine all the same.
fn beside_a_proxy(stand: &Stand, engine: &RecordedEngine) -> Program {
    stand.task(engine).env("AWS_ENDPOINT_URL", format!("http://0.0.0.0:{}", stand.server.address().port()))
}

#[tokio::test(flavor = "multi_thread")]
async fn f37_the_agents_bypass_list_and_no_proxy_count() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let proxied =
        |proxy: &Proxy, expected: bool| assert_eq!(!proxy.hosts().is_empty(), expected, "{:?}", proxy.hosts());
    for (list, expected) in [
        ("", true),
        ("[]", true),
        (r#"["other\\.example"]"#, true),
        (r#"["other\\.example","^HTTP://0\\.0\\.0\\.0"]"#, false),
        (r#"["0\\.0\\.0\\.0"]"#, false),
        (r#"[".*"]"#, false),
    ] {
        let proxy = Proxy::before(stand.server.address()).await;
        let task = beside_a_proxy(&stand, &engine).variable("Agent.ProxyUrl", &proxy.url());
        task.variable("Agent.ProxyBypassList", list).job().await.succeeded();
        proxied(&proxy, expected);
    }
    for (list, expected) in [("other.example", true), ("other.example,0.0.0.0", false), ("*", false)] {
        for name in ["AGENT_PROXYURL", "HTTP_PROXY"] {
            let proxy = Proxy::before(stand.server.address()).await;
            let task = beside_a_proxy(&stand, &engine).env(name, proxy.url()).env("NO_PROXY", list);
            task.job().await.succeeded();
            proxied(&proxy, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f37_a_bypass_list_that_is_not_understood_is_told_and_the_rest_counts() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let proxy = Proxy::before(stand.server.address()).await;
    let task = || beside_a_proxy(&stand, &engine).variable("Agent.ProxyUrl", &proxy.url());
    let job =
        task().variable("Agent.ProxyBypassList", r#"["(?=x)##vso[task.complete result=Failed;]","0\\.0\\.0\\.0"]"#);
    job.job().await.warned(&["proxy bypass pattern `(?=x)"]);
    assert!(proxy.hosts().is_empty());
    task().variable("Agent.ProxyBypassList", "a, b").job().await.warned(&["list of hosts without a proxy"]);
    assert!(!proxy.hosts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f38_the_proxys_user_and_password_may_hold_any_letter() {
    let engine = RecordedEngine::start();
    let aws = Aws::start().await;
    let (user, password) = (r"CORP\build@er", "p@ss:/w#rd?%41+ü é");
    let task = aws.task(&engine).variable("Agent.ProxyUsername", user).secret_variable("Agent.ProxyPassword", password);
    let job = task.variable("System.Debug", "true").job().await.succeeded();
    assert_eq!(aws.proxy.logins(), [format!("{user}:{password}")]);
    assert!(job.hidden().contains(&password));
    assert!(!job.without_masks().contains("p@ss") && !job.without_masks().contains("p%40ss"));
    // A proxy that is not there: the sentence names it without its password.
    let task = aws.direct_task(&engine).variable("Agent.ProxyUrl", &format!("http://127.0.0.1:{}", closed_port()));
    let task = task.variable("Agent.ProxyUsername", user).secret_variable("Agent.ProxyPassword", password);
    let job = task.job().await;
    job.failed();
    assert!(!job.without_masks().contains("p@ss") && !job.without_masks().contains("p%40ss"), "{}", job.run.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn k39_all_calls_and_all_layers_go_through_the_proxy() {
    let engine = RecordedEngine::start();
    let aws = Aws::start().await;
    let job = aws.task(&engine).input("outputVariable", "pushed").job().await.succeeded();
    assert_eq!(aws.proxy.hosts(), HOSTS);
    assert!(aws.stand.tag("v1").is_some());
    assert_eq!(job.variables()[0].2, format!("{}/team/app:v1", HOSTS[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_certificate_authority_counts_and_checks_are_never_skipped() {
    let engine = RecordedEngine::start();
    let aws = Aws::start().await;
    let task = aws.task(&engine).without("AGENT_CAINFO").variable("Agent.SkipCertValidation", "True");
    let job = task.job().await;
    assert!(job.failed().starts_with("Failed to obtain authorization token to log in to ECR, error: "));
    job.has_warnings(&["the agent was configured to skip the check of certificates; they are checked all the same"]);
    assert!(aws.stand.server.requests().is_empty());
    aws.task(&engine).variable("Agent.SkipCertValidation", "false").job().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn k41_the_request_id_of_each_call_is_in_the_debug_log() {
    let engine = RecordedEngine::start();
    let stand = stand_in("us-east-1").await;
    let task = stand.task(&engine).input("repositoryName", "new/app").input("autoCreateRepository", "true");
    let job = task.job().await.succeeded();
    let debug = job.debug();
    for operation in ["GetAuthorizationToken", "BatchCheckLayerAvailability", "CreateRepository"] {
        let calls = stand.asked(operation).len();
        let of_it = |line: &&&str| line.contains(operation) && line.contains("request_id=\"");
        let told: Vec<_> = debug.iter().filter(of_it).collect();
        assert!(calls > 0);
        assert_eq!(
            told.len(),
            stand.asked(operation).iter().filter(|call| call.method == "POST" && call.path == "/").count()
        );
        for line in told {
            let id = line.split_once("request_id=\"").unwrap().1.split('"').next().unwrap();
            assert_eq!(id.len(), 36, "{line}");
        }
    }
    // A failure has it where people read.
    let fault = local_ecr::FaultAction::Answer(
        local_ecr::Answer::error(400, "AccessDeniedException", "no")
            .header("x-amzn-requestid", "the-id-of-this-request"),
    );
    stand.server.add_fault(local_ecr::Fault::new(fault).operation("GetAuthorizationToken"));
    let job = stand.task(&engine).job().await;
    job.failed();
    job.says(&["request id the-id-of-this-request"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_switches_for_requests_and_answers_keep_secrets_out() {
    let engine = RecordedEngine::start();
    let stand = Stand::new().await;
    let task = || stand.task(&engine).env("AWS_SESSION_TOKEN", "the-session-token-of-the-host");
    let silent = task().job().await.succeeded();
    assert!(!silent.debug().iter().any(|line| line.contains("headers=")));
    let requests = task().input("logRequest", "true").job().await.succeeded();
    let line = |job: &common::agent::Job, what: &str| {
        job.debug().into_iter().find(|line| line.contains(what) && line.contains("headers=")).map(str::to_owned)
    };
    let request = line(&requests, "TRACE request").expect("a request");
    for text in ["path=\"/\"", "GetAuthorizationToken", "authorization: ***", "x-amz-security-token: ***"] {
        assert!(request.contains(text), "{request}");
    }
    assert_eq!(line(&requests, "TRACE response"), None);
    let answers = task().input("logResponse", "true").job().await.succeeded();
    assert!(line(&answers, "TRACE response").expect("an answer").contains("status=200"));
    assert_eq!(line(&answers, "TRACE request"), None);
    for job in [requests, answers] {
        for secret in [KEY, SECRET, "the-session-token-of-the-host", "AWS4-HMAC"] {
            assert!(!job.without_masks().contains(secret), "{secret}");
        }
    }
}
