//! The API against a small server: what is sent, what is understood.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;

use super::test_server::{Seen, Server, serve};
use super::*;
use crate::Error;
use crate::error::{Retry, Side};
use crate::events::{Event, Events};
use crate::http::{Http, HttpSettings};
use crate::image::{Digest, RepositoryName};
use crate::retry::RetryBudget;

fn settings(server: &Server) -> AwsSettings {
    AwsSettings {
        region: Some("us-east-1".parse().unwrap()),
        endpoint_url: Some(server.url.clone()),
        endpoint_url_sts: Some(server.url.clone()),
        explicit_keys: Some(Keys {
            origin: "test keys".into(),
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "geheim".into(),
            session_token: None,
        }),
        ..AwsSettings::default()
    }
}

async fn api(server: &Server) -> EcrApi {
    let http = Http::new(&HttpSettings::default()).unwrap();
    EcrApi::connect(&http, &settings(server), &budget(), &Events::none()).await.unwrap()
}

fn budget() -> RetryBudget {
    RetryBudget::new(std::time::Duration::from_secs(1), Events::none())
}

fn json(status: u16, body: &str) -> (u16, String, String) {
    (status, "content-type: application/x-amz-json-1.1\r\nx-amzn-requestid: req-1\r\n".into(), body.into())
}

fn repository() -> RepositoryName {
    "team/app".parse().unwrap()
}

async fn token_error(status: u16, body: &'static str) -> (Error, Vec<Seen>) {
    let server = serve(move |_| json(status, body)).await;
    let error = api(&server).await.token(None).await.unwrap_err();
    (error, server.seen())
}

#[tokio::test]
async fn a_token_is_read_with_its_registry_and_a_past_expiry_is_ignored() {
    let secret = STANDARD.encode("AWS:pass:word");
    let body = format!(
        r#"{{"authorizationData":[{{"authorizationToken":"{secret}","expiresAt":1420070400.0,
            "proxyEndpoint":"https://123456789012.dkr.ecr.us-east-1.amazonaws.com"}}]}}"#
    );
    let server = serve(move |_| json(200, &body)).await;
    let api = api(&server).await;
    assert!(api.endpoint_overridden());
    assert_eq!(api.credential_source(), "test keys (key …MPLE)");
    let token = api.token(Some(&"123456789012".parse().unwrap())).await.unwrap();
    assert_eq!(token.secret.expose_secret(), secret);
    assert_eq!(token.expires_at, None);
    assert_eq!(token.account.unwrap().as_str(), "123456789012");
    let seen = &server.seen()[0];
    assert_eq!(seen.header("x-amz-target"), "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken");
    assert!(seen.header("authorization").contains("/us-east-1/ecr/aws4_request"));
    assert!(seen.body.contains("123456789012"));
}

#[tokio::test]
async fn a_stand_in_without_an_account_in_its_address_is_accepted() {
    let secret = STANDARD.encode("AWS:x");
    let body = format!(
        r#"{{"authorizationData":[{{"authorizationToken":"{secret}","expiresAt":4102444800,"proxyEndpoint":"http://127.0.0.1:5000"}}]}}"#
    );
    let server = serve(move |_| json(200, &body)).await;
    let token = api(&server).await.token(None).await.unwrap();
    assert_eq!((token.account, token.expires_at.is_some()), (None, true));
    assert!(!format!("{:?}", token.secret).contains(&secret));
}

#[tokio::test]
async fn the_token_and_its_password_are_told_before_anything_is_done_with_them() {
    let secret = STANDARD.encode("AWS:pass:word");
    for (endpoint, ok) in [(r#","proxyEndpoint":"http://127.0.0.1:5000""#, true), ("", false)] {
        let body = format!(r#"{{"authorizationData":[{{"authorizationToken":"{secret}"{endpoint}}}]}}"#);
        let server = serve(move |_| json(200, &body)).await;
        let (events, heard) = secrets();
        let http = Http::new(&HttpSettings::default()).unwrap();
        let api = EcrApi::connect(&http, &settings(&server), &budget(), &events).await.unwrap();
        assert!(heard.lock().unwrap().is_empty(), "the caller knows the keys it gave");
        for _ in 0..2 {
            assert_eq!(api.token(None).await.is_ok(), ok);
        }
        let each = [secret.as_str(), "pass:word"];
        assert_eq!(*heard.lock().unwrap(), [each, each].concat());
    }
}

/// Keeps the secrets that are told.
fn secrets() -> (Events, Arc<Mutex<Vec<String>>>) {
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&heard);
    let events = Events::new(move |event| {
        if let Event::Secret(secret) = event {
            kept.lock().unwrap().push(secret.expose_secret().to_owned());
        }
    });
    (events, heard)
}

#[tokio::test]
async fn a_damaged_answer_says_which_part_is_missing() {
    let basic = STANDARD.encode("AWS:x");
    for (data, operation, message) in [
        (String::new(), "read authorization token", "holds no token"),
        (r#"{"proxyEndpoint":"http://127.0.0.1:1"}"#.to_owned(), "read authorization token", "holds no token"),
        (
            r#"{"authorizationToken":"eA==","proxyEndpoint":"http://127.0.0.1:1"}"#.to_owned(),
            "read authorization token",
            "not a user and a password",
        ),
        (format!(r#"{{"authorizationToken":"{basic}"}}"#), "read registry endpoint", "names no registry endpoint"),
        (
            format!(r#"{{"authorizationToken":"{basic}","proxyEndpoint":""}}"#),
            "read registry endpoint",
            "names no registry endpoint",
        ),
    ] {
        let body = format!(r#"{{"authorizationData":[{data}]}}"#);
        let server = serve(move |_| json(200, &body)).await;
        let error = api(&server).await.token(None).await.unwrap_err();
        assert_eq!(error.operation(), operation, "{data}");
        assert!(error.message().starts_with("the answer of ecr:GetAuthorizationToken "), "{error}");
        assert!(error.message().ends_with(message), "{error}");
        assert!(!format!("{error:?}").contains(&basic));
    }
}

#[tokio::test]
async fn refusals_of_the_key_name_the_source() {
    for (status, body, expected) in [
        (
            400,
            r#"{"__type":"UnrecognizedClientException","message":"x"}"#,
            "AWS does not know the access key from test keys (key …MPLE)",
        ),
        (400, r#"{"__type":"InvalidSignatureException","message":"x"}"#, "the secret access key from test keys"),
        // moto's form (standins.md 1).
        (
            403,
            "<ErrorResponse><Errors><Error><Code>SignatureDoesNotMatch</Code><Message>x</Message></Error></Errors></ErrorResponse>",
            "the secret access key from test keys",
        ),
        (400, r#"{"__type":"ExpiredTokenException","message":"x"}"#, "the session of the credentials from test keys"),
    ] {
        let (error, seen) = token_error(status, body).await;
        assert!(error.message().starts_with(expected), "{error}");
        assert_eq!((error.side(), error.status(), seen.len()), (Side::Credentials, Some(status), 1));
        assert_eq!(error.request_id(), Some("req-1"));
    }
}

#[tokio::test]
async fn a_denial_names_the_action_in_json_and_xml() {
    let sentence = "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ecr:GetAuthorizationToken on resource: * because no identity-based policy allows the ecr:GetAuthorizationToken action";
    for (status, body) in [
        (400, format!(r#"{{"__type":"AccessDeniedException","Message":"{sentence}"}}"#)),
        (
            403,
            format!(
                "<Response><Errors><Error><Code>AccessDenied</Code><Message>{sentence}</Message></Error></Errors></Response>"
            ),
        ),
    ] {
        let server = serve(move |_| json(status, &body)).await;
        let error = api(&server).await.token(None).await.unwrap_err();
        assert!(
            error.message().contains("may not do ecr:GetAuthorizationToken on *: no identity-based policy"),
            "{error}"
        );
        assert!(error.hints()[1].contains("ecr:PutImage"));
        assert_eq!(error.side(), Side::Destination);
    }
}

#[tokio::test]
async fn a_login_page_is_named_as_one_whatever_its_status() {
    let page = "<!doctype html><html><head><title>Sign in to Guest WiFi</title></head></html>";
    for (status, retry) in [(200, Retry::Brief), (403, Retry::Never), (302, Retry::Never), (503, Retry::Backoff)] {
        let server = serve(move |_| (status, "content-type: text/html\r\n".into(), page.into())).await;
        let host = server.url.trim_start_matches("http://").to_owned();
        let error = api(&server).await.token(None).await.unwrap_err();
        let said = format!("{host} answered {status} with a web page titled \"Sign in to Guest WiFi\"");
        assert_eq!(error.message(), format!("{said} to ecr:GetAuthorizationToken"));
        assert_eq!((error.status(), error.retry(), error.hints().len()), (Some(status), retry, 1), "{error:?}");
        assert!(error.hints()[0].contains("login page"), "{:?}", error.hints());

        // The same of STS, for a role.
        let mut settings = settings(&server);
        settings.role =
            Some(RoleSettings { arn: "arn:aws:iam::123456789012:role/x".into(), ..RoleSettings::default() });
        let http = Http::new(&HttpSettings::default()).unwrap();
        let none = RetryBudget::new(std::time::Duration::ZERO, Events::none());
        let error = EcrApi::connect(&http, &settings, &none, &Events::none()).await.unwrap_err();
        assert!(error.message().ends_with(&said.replace(&host, "STS")), "{error}");
        assert!(error.hints()[0].contains("login page"), "{:?}", error.hints());
    }
}

#[tokio::test]
async fn throttling_is_told_for_the_budget_to_wait() {
    let (error, seen) = token_error(400, r#"{"__type":"ThrottleException","message":"Rate exceeded"}"#).await;
    assert_eq!(error.retry(), Retry::Throttled);
    assert_eq!(seen.len(), 2, "the SDK's own second try");
}

#[tokio::test]
async fn layers_are_asked_for_a_hundred_at_a_time_and_not_retried() {
    let digests: Vec<Digest> = (0..150u8).map(|n| Digest::of(&[n])).collect();
    let (there, archived, failed) = (digests[0], digests[1], digests[2]);
    let server = serve(move |_| {
        json(
            200,
            &format!(
                r#"{{"layers":[{{"layerDigest":"{there}","layerAvailability":"AVAILABLE","layerSize":7}},
                 {{"layerDigest":"{archived}","layerAvailability":"ARCHIVED"}}],
                "failures":[{{"layerDigest":"{failed}","failureCode":"MissingLayerDigest","failureReason":"x"}}]}}"#
            ),
        )
    })
    .await;
    let found = api(&server).await.layer_availability(None, &repository(), &digests).await.unwrap();
    assert_eq!(found.available, [(there, Some(7))].into());
    assert_eq!(found.unavailable, [archived].into());
    assert_eq!(found.unknown.len(), 148);
    let counts: Vec<usize> = server.seen().iter().map(|seen| seen.body.matches("sha256:").count()).collect();
    assert_eq!(counts, [100, 50]);

    let broken = serve(|_| (500, String::new(), "<html>".into())).await;
    let error = api(&broken).await.layer_availability(None, &repository(), &digests).await.unwrap_err();
    assert_eq!((error.status(), error.retry(), broken.seen().len()), (Some(500), Retry::Backoff, 1));
}

#[tokio::test]
async fn creating_a_repository_that_exists_is_success() {
    let server = serve(|seen| match seen.header("x-amz-target").rsplit('.').next().unwrap() {
        "CreateRepository" => json(400, r#"{"__type":"RepositoryAlreadyExistsException","message":"x"}"#),
        _ => json(400, r#"{"__type":"RepositoryNotFoundException","message":"x"}"#),
    })
    .await;
    let api = api(&server).await;
    assert!(api.create_repository(None, &repository()).await.unwrap().existed);
    assert_eq!(api.describe_repository(None, &repository()).await.unwrap(), None);
}

#[tokio::test]
async fn the_rules_for_tags_are_read() {
    let server = serve(|_| {
        json(
            200,
            r#"{"repositories":[{"repositoryUri":"h/team/app","imageTagMutability":"IMMUTABLE_WITH_EXCLUSION",
            "imageTagMutabilityExclusionFilters":[{"filterType":"WILDCARD","filter":"dev-*"}]}]}"#,
        )
    })
    .await;
    let facts = api(&server).await.describe_repository(None, &repository()).await.unwrap().unwrap();
    assert_eq!(facts.uri, "h/team/app");
    assert!(tag_is_immutable(&facts, &"v1".parse().unwrap()));
    assert!(!tag_is_immutable(&facts, &"dev-1".parse().unwrap()));
}

#[tokio::test]
async fn who_we_are_is_asked_of_sts_and_never_waits_long() {
    let server = serve(|_| {
        (200, "content-type: text/xml\r\n".into(), "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/ci</Arn><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>".into())
    })
    .await;
    let identity = api(&server).await.caller_identity().await.unwrap();
    assert_eq!(identity.arn, "arn:aws:iam::123456789012:user/ci");

    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = settings(&server);
    settings.endpoint_url_sts = Some(format!("http://{}", deaf.local_addr().unwrap()));
    let http = Http::new(&HttpSettings::default()).unwrap();
    let api = EcrApi::connect(&http, &settings, &budget(), &Events::none()).await.unwrap();
    let started = std::time::Instant::now();
    assert!(api.caller_identity().await.is_err());
    assert!(started.elapsed().as_millis() < 2500);
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_told_by_its_host() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let server = serve(|_| json(200, "{}")).await;
    let mut settings = settings(&server);
    settings.endpoint_url = Some(format!("http://{address}"));
    let http = Http::new(&HttpSettings::default()).unwrap();
    let api = EcrApi::connect(&http, &settings, &budget(), &Events::none()).await.unwrap();
    let error = api.token(None).await.unwrap_err();
    assert_eq!(error.message(), format!("{address} refused the connection"));
}

#[tokio::test]
async fn a_role_is_taken_on_and_its_refusal_never_falls_through() {
    let server = serve(|seen| {
        if seen.body.contains("ExternalId=right") {
            return (200, "content-type: text/xml\r\n".into(), "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE1234</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2100-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/push/x</Arn><AssumedRoleId>A:x</AssumedRoleId></AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>".into());
        }
        (403, "content-type: text/xml\r\n".into(), "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>User: x is not authorized to perform: sts:AssumeRole on resource: y</Message></Error><RequestId>r9</RequestId></ErrorResponse>".into())
    })
    .await;
    let http = Http::new(&HttpSettings::default()).unwrap();
    let mut settings = settings(&server);
    let mut role = RoleSettings {
        arn: "arn:aws:iam::123456789012:role/push".into(),
        external_id: Some("right".into()),
        duration: Some(std::time::Duration::from_secs(900)),
        ..RoleSettings::default()
    };
    settings.role = Some(role.clone());
    let (events, heard) = secrets();
    let api = EcrApi::connect(&http, &settings, &budget(), &events).await.unwrap();
    assert_eq!(*heard.lock().unwrap(), ["ASIAROLE1234", "s", "t"]);
    assert_eq!(
        api.credential_source(),
        "role arn:aws:iam::123456789012:role/push (assumed with test keys (key …MPLE))"
    );
    let asked = &server.seen()[0];
    assert!(asked.line().starts_with("POST / "));
    assert!(asked.body.contains("RoleSessionName=ecr-push") && asked.body.contains("DurationSeconds=900"));
    // The first credentials are used, not fetched twice; the call is signed with the role's key.
    api.caller_identity().await.ok();
    assert!(server.seen()[1].header("authorization").contains("ASIAROLE1234"));

    role.external_id = None;
    settings.role = Some(role);
    let error = EcrApi::connect(&http, &settings, &budget(), &Events::none()).await.unwrap_err();
    assert_eq!((error.side(), error.code(), error.request_id()), (Side::Credentials, Some("AccessDenied"), Some("r9")));
    assert!(error.message().starts_with("the role arn:aws:iam::123456789012:role/push cannot be assumed"), "{error}");
    assert!(error.hints()[0].contains("trust policy"));
}
