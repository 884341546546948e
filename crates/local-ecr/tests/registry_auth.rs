//! Who may come through the registry door.

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use common::*;
use local_ecr::{Config, Policy};

#[tokio::test]
async fn without_authorization_there_is_a_basic_challenge() {
    let ecr = ecr().await;
    let response = ecr.bare("GET", "/v2/").send().await.unwrap();
    assert_eq!(response.status(), 401);
    let challenge = format!("Basic realm=\"{}/\",service=\"ecr.amazonaws.com\"", ecr.endpoint_url());
    assert_eq!(header(&response, "www-authenticate"), Some(challenge));
    assert_eq!(header(&response, "docker-distribution-api-version").unwrap(), "registry/2.0");
    assert_eq!(response.text().await.unwrap(), "Not Authorized\n");
}

#[tokio::test]
async fn the_password_of_the_api_opens_the_registry() {
    let ecr = ecr().await;
    let answer = ecr.call("GetAuthorizationToken", serde_json::json!({})).await;
    let data = &answer["authorizationData"][0];
    assert_eq!(text(&data["proxyEndpoint"]), ecr.endpoint_url());
    let decoded = BASE64_STANDARD.decode(text(&data["authorizationToken"])).unwrap();
    assert!(decoded.starts_with(b"AWS:"));
    let response = ecr.bare("GET", "/v2/");
    let response = response.header("authorization", format!("Basic {}", text(&data["authorizationToken"])));
    assert_eq!(response.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn another_user_than_aws_is_not_let_in() {
    let ecr = ecr().await;
    let password = String::from_utf8(BASE64_STANDARD.decode(&ecr.token).unwrap()).unwrap().replace("AWS:", "bob:");
    let response = ecr.bare("GET", "/v2/").basic_auth("x", Some("y")).send().await.unwrap();
    assert_eq!(response.status(), 401);
    let basic = format!("Basic {}", BASE64_STANDARD.encode(password));
    assert_eq!(ecr.bare("GET", "/v2/").header("authorization", basic).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_bearer_gets_the_basic_challenge() {
    let ecr = ecr().await;
    let response = ecr.bare("GET", "/v2/").bearer_auth("abc").send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(header(&response, "www-authenticate").unwrap().starts_with("Basic "));
}

#[tokio::test]
async fn an_expired_token_is_denied_with_its_sentence() {
    let ecr = ecr().await;
    ecr.expire_tokens();
    let answer = error_of(ecr.v2("GET", "team/app/tags/list").send().await.unwrap()).await;
    let sentence = "Your authorization token has expired. Reauthenticate and try again.";
    assert_eq!(answer, error(403, "DENIED", sentence));
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let ecr = start(Config { token_ttl: Duration::ZERO, ..Config::default() }).await;
    assert_eq!(ecr.v2("GET", "").send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_token_of_another_server_is_refused() {
    let (mut one, other) = (ecr().await, ecr().await);
    one.token = other.token.clone();
    assert_eq!(one.v2("GET", "").send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_token_of_another_region_is_denied() {
    let mut here = ecr().await;
    let there = start(Config { region: "eu-west-1".into(), ..Config::default() }).await;
    here.token = there.token.clone();
    assert_eq!(error_of(here.v2("GET", "").send().await.unwrap()).await.0, 403);
}

fn without_put() -> Config {
    let policy = Policy::parse(
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ecr:Batch*","ecr:GetAuthorizationToken"],"Resource":"*"}]}"#,
    );
    // A version is part of every document.
    Config { policies: vec![("alice".into(), policy.unwrap())], ..Config::default() }
}

#[tokio::test]
async fn a_missing_right_is_named_at_the_registry() {
    let ecr = start(without_put()).await;
    let answer = error_of(ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap()).await;
    let sentence = "User: arn:aws:iam::123456789012:user/alice is not authorized to perform: ecr:InitiateLayerUpload on \
                    resource: arn:aws:ecr:us-east-1:123456789012:repository/team/app because no identity-based policy \
                    allows the ecr:InitiateLayerUpload action";
    assert_eq!(answer, error(403, "DENIED", sentence));
}

#[tokio::test]
async fn a_missing_right_is_named_at_the_api() {
    let ecr = start(without_put()).await;
    let input = serde_json::json!({ "repositoryName": REPOSITORY });
    let (name, message) = ecr.refused("InitiateLayerUpload", input).await;
    assert_eq!(name, "AccessDeniedException");
    assert!(message.contains("not authorized to perform: ecr:InitiateLayerUpload on resource"));
}

#[tokio::test]
async fn a_denied_head_says_nothing() {
    let policy = Policy::parse(r#"{"Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#).unwrap();
    let ecr = start(Config { policies: vec![("*".into(), policy)], ..Config::default() }).await;
    let path = format!("{REPOSITORY}/blobs/{}", digest(b"x"));
    let response = ecr.v2("HEAD", &path).send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(response.bytes().await.unwrap().len(), 0);
    let message = error_of(ecr.v2("GET", &path).send().await.unwrap()).await.2;
    assert!(message.ends_with("with an explicit deny in an identity-based policy"), "{message}");
}

#[tokio::test]
async fn a_principal_no_policy_speaks_for_may_do_all() {
    let mut ecr = start(without_put()).await;
    ecr.token = ecr.authorization_token("bob");
    assert_eq!(ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap().status(), 202);
}
