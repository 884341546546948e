//! The stand-ins for STS and for instance metadata, and HTTPS under the real names.

mod common;

use std::time::Duration;

use common::*;
use local_ecr::{Config, Imds, ImdsMode, Sts, Tls};

const ROLE: &str = "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fdeploy&RoleSessionName=ci";

async fn sts(ecr: &Ecr, form: &str) -> (u16, String) {
    let (date, authorization) = unsigned("alice", "us-east-1", "sts");
    let response = ecr
        .bare("POST", "/")
        .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
        .header("x-amz-date", date)
        .header("authorization", authorization)
        .body(format!("{form}&Version=2011-06-15"))
        .send()
        .await
        .unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_caller_learns_who_it_is() {
    let (status, xml) = sts(&ecr().await, "Action=GetCallerIdentity").await;
    assert_eq!(status, 200);
    assert!(xml.contains("<Arn>arn:aws:iam::123456789012:user/alice</Arn>"), "{xml}");
    assert!(xml.contains("<Account>123456789012</Account>"));
}

#[tokio::test]
async fn a_role_is_assumed() {
    let (status, xml) = sts(&ecr().await, &format!("Action=AssumeRole&{ROLE}")).await;
    assert_eq!(status, 200);
    assert!(xml.contains("<Arn>arn:aws:sts::123456789012:assumed-role/deploy/ci</Arn>"), "{xml}");
    assert!(xml.contains("<AccessKeyId>ASIA"));
}

#[tokio::test]
async fn a_role_is_assumed_with_a_web_identity() {
    let ecr = ecr().await;
    let form = format!("Action=AssumeRoleWithWebIdentity&{ROLE}&WebIdentityToken=jwt");
    let (status, xml) = sts(&ecr, &form).await;
    assert_eq!(status, 200);
    assert!(xml.contains("<SessionToken>"), "{xml}");
    let form = format!("Action=AssumeRoleWithWebIdentity&{ROLE}");
    assert!(sts(&ecr, &form).await.1.contains("<Code>InvalidIdentityToken</Code>"));
}

#[tokio::test]
async fn a_role_may_want_an_external_id() {
    let wanted = Sts { external_id: Some("42".into()), ..Sts::default() };
    let ecr = start(Config { sts: wanted, ..Config::default() }).await;
    let (status, xml) = sts(&ecr, &format!("Action=AssumeRole&{ROLE}")).await;
    assert_eq!(status, 403);
    assert!(xml.contains("<Code>AccessDenied</Code>") && xml.contains("sts:AssumeRole"), "{xml}");
    assert_eq!(sts(&ecr, &format!("Action=AssumeRole&{ROLE}&ExternalId=42")).await.0, 200);
}

#[tokio::test]
async fn sts_can_refuse() {
    let refuse = Some(("ExpiredToken".to_owned(), "The security token included in the request is expired".to_owned()));
    let ecr = start(Config { sts: Sts { refuse, ..Sts::default() }, ..Config::default() }).await;
    let (status, xml) = sts(&ecr, &format!("Action=AssumeRole&{ROLE}")).await;
    assert_eq!(status, 403);
    assert!(xml.contains("<Code>ExpiredToken</Code>"));
}

#[tokio::test]
async fn credentials_of_a_role_can_be_short_lived() {
    let short = Sts { credentials_ttl: Some(Duration::ZERO), ..Sts::default() };
    let mut ecr = start(Config { sts: short, ..Config::default() }).await;
    let (_, xml) = sts(&ecr, &format!("Action=AssumeRole&{ROLE}")).await;
    let member = |name: &str| {
        let (_, rest) = xml.split_once(&format!("<{name}>")).unwrap();
        rest.split_once('<').unwrap().0.to_owned()
    };
    ecr.key = member("AccessKeyId");
    let session_token = member("SessionToken");
    // Without its session token it is not even that.
    assert_eq!(ecr.refused("GetAuthorizationToken", serde_json::json!({})).await.0, "UnrecognizedClientException");
    let (date, authorization) = unsigned(&ecr.key, "us-east-1", "ecr");
    let response = ecr
        .bare("POST", "/")
        .header("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
        .header("x-amz-date", date)
        .header("authorization", authorization)
        .header("x-amz-security-token", session_token)
        .send()
        .await
        .unwrap();
    assert_eq!(json_of(response).await["__type"], "ExpiredTokenException");
}

async fn with_imds(mode: ImdsMode) -> (Ecr, String) {
    let imds = Some(Imds { mode, ..Imds::default() });
    let ecr = start(Config { imds, ..Config::default() }).await;
    let endpoint = ecr.imds_endpoint().unwrap();
    (ecr, endpoint)
}

async fn read(ecr: &Ecr, endpoint: &str, path: &str) -> (u16, String) {
    let put = ecr.bare("PUT", &format!("{endpoint}/latest/api/token"));
    let token = put.header("x-aws-ec2-metadata-token-ttl-seconds", "60").send().await.unwrap().text().await.unwrap();
    let get = ecr.bare("GET", &format!("{endpoint}/latest/{path}")).header("x-aws-ec2-metadata-token", token);
    let response = get.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn metadata_needs_a_token() {
    let (ecr, endpoint) = with_imds(ImdsMode::Normal).await;
    let url = format!("{endpoint}/latest/meta-data/placement/region");
    assert_eq!(ecr.bare("GET", &url).send().await.unwrap().status(), 401);
    let put = ecr.bare("PUT", &format!("{endpoint}/latest/api/token"));
    assert_eq!(put.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn metadata_tells_region_role_and_identity() {
    let (ecr, endpoint) = with_imds(ImdsMode::Normal).await;
    assert_eq!(read(&ecr, &endpoint, "meta-data/placement/region").await, (200, "us-east-1".into()));
    let roles = "meta-data/iam/security-credentials/";
    let (_, role) = read(&ecr, &endpoint, roles).await;
    let (status, credentials) = read(&ecr, &endpoint, &format!("{roles}{role}")).await;
    assert_eq!(status, 200);
    let credentials: serde_json::Value = serde_json::from_str(&credentials).unwrap();
    assert_eq!(credentials["Code"], "Success");
    let (_, document) = read(&ecr, &endpoint, "dynamic/instance-identity/document").await;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["accountId"], "123456789012");
}

#[tokio::test]
async fn an_instance_may_have_no_role() {
    let (ecr, endpoint) = with_imds(ImdsMode::NoRole).await;
    assert_eq!(read(&ecr, &endpoint, "meta-data/iam/security-credentials/").await.0, 404);
}

#[tokio::test]
async fn metadata_may_be_disabled() {
    let (ecr, endpoint) = with_imds(ImdsMode::Disabled).await;
    let put = ecr.bare("PUT", &format!("{endpoint}/latest/api/token"));
    assert_eq!(put.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn metadata_may_hang() {
    let (ecr, endpoint) = with_imds(ImdsMode::Hang).await;
    let put = ecr.bare("PUT", &format!("{endpoint}/latest/api/token")).send();
    assert!(tokio::time::timeout(Duration::from_millis(200), put).await.is_err());
}

#[tokio::test]
async fn https_speaks_under_the_real_names() {
    let directory = tempfile::tempdir().unwrap();
    let ca_out = directory.path().join("ca.pem");
    let tls = Some(Tls { ca_out: Some(ca_out.clone()) });
    let mut ecr = start(Config { tls, ..Config::default() }).await;
    let host = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
    let bucket = "prod-us-east-1-starport-layer-bucket.s3.us-east-1.amazonaws.com";
    let ca = reqwest::Certificate::from_pem(&std::fs::read(ca_out).unwrap()).unwrap();
    ecr.http = reqwest::Client::builder()
        .tls_certs_only([ca])
        .no_proxy()
        .resolve(host, ecr.address())
        .resolve(bucket, ecr.address())
        .build()
        .unwrap();
    let answer = ecr.call("DescribeRepositories", serde_json::json!({})).await;
    let host = format!("{host}:{}", ecr.address().port());
    assert_eq!(text(&answer["repositories"][0]["repositoryUri"]), format!("{host}/team/app"));
    ecr.push_image("v1").await;
    let url = format!("https://{host}/v2/team/app/blobs/{}", digest(b"layer v1"));
    // Follows to the other host, and leaves the password behind.
    assert_eq!(ecr.at("GET", &url).send().await.unwrap().text().await.unwrap(), "layer v1");
}
