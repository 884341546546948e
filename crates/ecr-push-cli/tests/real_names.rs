//! Pushes under the names ECR really has, over TLS: the server is reached by `--connect-to` and trusted by its own CA.

mod common;

use common::{ACCOUNT, APP, Program, Stand, push_words};
use local_ecr::{Config, Tls};

async fn stand(region: &str) -> Stand {
    Stand::strict(Config { region: region.into(), tls: Some(Tls::default()), ..Config::default() }).await
}

/// The push with no endpoint set: host names come from account and region, and lead to the server.
fn push(stand: &Stand, words: &str) -> Program {
    let to = format!("--connect-to=::127.0.0.1:{}", stand.server.address().port());
    stand.program(&push_words(words)).without("AWS_ENDPOINT_URL").arg(to)
}

fn ca(stand: &Stand) -> std::path::PathBuf {
    stand.file("ca.pem", stand.server.ca_pem().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn account_and_host_come_from_the_token_and_the_region() {
    let stand = stand("us-east-1").await;
    let run = push(&stand, "-o json").arg("--ca-bundle").arg(ca(&stand)).run().await.succeeded();
    let object = run.json();
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    assert_eq!(object["image"], format!("{host}/{APP}:v1"));
    assert_eq!(object["registry_id"], ACCOUNT);
    run.says(&[&format!("pushing to {host}/{APP} (account {ACCOUNT})")]);
    assert_eq!(object["digest"], stand.tag("v1").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn dual_stack_endpoints_have_their_own_names() {
    let stand = stand("us-east-1").await;
    let run = push(&stand, "--dualstack").env("AWS_CA_BUNDLE", ca(&stand)).run().await.succeeded();
    assert_eq!(run.stdout, format!("{ACCOUNT}.dkr-ecr.us-east-1.on.aws/{APP}:v1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_has_its_own_names() {
    let stand = stand("cn-north-1").await;
    let run = push(&stand, "--region cn-north-1").env("AWS_CA_BUNDLE", ca(&stand)).run().await.succeeded();
    assert_eq!(run.stdout, format!("{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/{APP}:v1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_given_with_to_is_ecr_in_every_respect() {
    let stand = stand("us-east-1").await;
    let reference = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/{APP}");
    let to = format!("--connect-to=::127.0.0.1:{}", stand.server.address().port());
    let run = stand
        .program(&format!("push {} --to {reference} -t v1", common::two()))
        .without("AWS_ENDPOINT_URL")
        .without("AWS_REGION")
        .env("SSL_CERT_FILE", ca(&stand))
        .arg(to)
        .run()
        .await
        .succeeded();
    assert_eq!(run.stdout, format!("{reference}:v1\n"));
    run.says(&["region us-east-1 (the registry host)"]);
    assert_eq!(stand.asked("GetAuthorizationToken").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_nobody_known_is_refused_and_the_flag_is_named() {
    let stand = stand("us-east-1").await;
    let run = push(&stand, "-v --retry-budget 1s").run().await;
    run.failed(1);
    run.says(&["certificate", "--ca-bundle"]);
    run.hides(&[common::SECRET]);
    assert!(stand.server.requests().is_empty(), "nothing was sent");
}
