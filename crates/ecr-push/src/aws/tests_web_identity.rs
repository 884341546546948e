//! A role taken on with an identity token, against a small server that is identity provider and STS in one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use aws_types::SdkConfig;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;

use super::test_server::{Seen, Server, serve};
use super::web_identity::WebIdentityProvider;
use super::*;
use crate::Error;
use crate::error::{Retry, Side};
use crate::events::{Event, Events};
use crate::http::{Http, HttpSettings};
use crate::retry::RetryBudget;

const ROLE: &str = "arn:aws:iam::123456789012:role/push";
const JOB_TOKEN: &str = "job-token-geheim";
const CLAIMS: &str = r#"{"iss":"https://token.example","aud":"sts.amazonaws.com","sub":"repo:team/app"}"#;
const TOLD: &str = "issuer https://token.example, audience sts.amazonaws.com, subject repo:team/app";

type Answer = (u16, String, String);

fn jwt(claims: &str) -> String {
    format!("{}.{}.signature-geheim", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#), URL_SAFE_NO_PAD.encode(claims))
}

fn token_answer() -> Answer {
    (200, "content-type: application/json\r\n".into(), format!(r#"{{"count":1,"value":"{}"}}"#, jwt(CLAIMS)))
}

fn credentials(expiration: &str) -> Answer {
    let body = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <Credentials><AccessKeyId>ASIAWEB56789</AccessKeyId><SecretAccessKey>key-geheim</SecretAccessKey>\
         <SessionToken>session-geheim</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    );
    (200, "content-type: text/xml\r\n".into(), body)
}

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>r9</RequestId></ErrorResponse>"
    );
    (status, "content-type: text/xml\r\n".into(), body)
}

fn is_sts(seen: &Seen) -> bool {
    seen.body.contains("Action=AssumeRoleWithWebIdentity")
}

fn request(server: &Server) -> TokenRequest {
    TokenRequest {
        method: TokenMethod::Get,
        url: format!("{}/token?job=query-geheim&audience=sts.amazonaws.com", server.url),
        headers: vec![("Authorization".into(), format!("Bearer {JOB_TOKEN}").into())],
        body: None,
        field: "value".into(),
    }
}

fn identity(token: IdentityToken) -> WebIdentity {
    WebIdentity {
        origin: "the test's identity provider".into(),
        role: RoleSettings { arn: ROLE.into(), ..RoleSettings::default() },
        token,
    }
}

fn settings(server: &Server, web_identity: WebIdentity) -> AwsSettings {
    AwsSettings {
        region: Some("us-east-1".parse().unwrap()),
        endpoint_url: Some(server.url.clone()),
        endpoint_url_sts: Some(server.url.clone()),
        web_identity: Some(web_identity),
        ..AwsSettings::default()
    }
}

/// Keeps what it hears.
fn listener() -> (Events, Arc<Mutex<Vec<Event>>>) {
    let heard: Arc<Mutex<Vec<Event>>> = Arc::default();
    let kept = Arc::clone(&heard);
    (Events::new(move |event| kept.lock().unwrap().push(event)), heard)
}

fn secrets(heard: &Mutex<Vec<Event>>) -> Vec<String> {
    let heard = heard.lock().unwrap();
    let secret = |event: &Event| match event {
        Event::Secret(secret) => Some(secret.expose_secret().to_owned()),
        _ => None,
    };
    heard.iter().filter_map(secret).collect()
}

fn notices(heard: &Mutex<Vec<Event>>) -> Vec<String> {
    let heard = heard.lock().unwrap();
    let notice = |event: &Event| match event {
        Event::Notice(text) => Some(text.to_string()),
        _ => None,
    };
    heard.iter().filter_map(notice).collect()
}

fn retries(heard: &Mutex<Vec<Event>>) -> usize {
    heard.lock().unwrap().iter().filter(|event| matches!(event, Event::Retrying { .. })).count()
}

async fn connect(server: &Server, web_identity: WebIdentity, events: &Events) -> crate::Result<EcrApi> {
    let http = Http::new(&HttpSettings::default()).unwrap();
    let budget = RetryBudget::new(Duration::from_secs(1), events.clone());
    EcrApi::connect(&http, &settings(server, web_identity), &budget, events).await
}

/// With a budget that a test can wait for.
fn provider(server: &Server, web_identity: &WebIdentity, budget: Duration, events: &Events) -> WebIdentityProvider {
    let http = Http::new(&HttpSettings::default()).unwrap().with_budget(budget);
    let sts = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http.smithy())
        .region(aws_types::region::Region::from_static("us-east-1"))
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .endpoint_url(&server.url)
        .build();
    WebIdentityProvider::new(web_identity, &http, &sts, &RetryBudget::new(budget, events.clone()), events)
}

/// No text of an error, nor its `Debug`, has any of the secrets.
fn assert_silent(error: &Error) {
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("geheim") && !shown.contains(&jwt(CLAIMS)), "{shown}");
}

#[tokio::test]
async fn a_token_is_asked_for_told_and_exchanged_without_a_signature() {
    let server = serve(|seen| if is_sts(seen) { credentials("2100-01-01T00:00:00Z") } else { token_answer() }).await;
    let mut web_identity = identity(IdentityToken::Request(request(&server)));
    web_identity.role.duration = Some(Duration::from_secs(900));
    let (events, heard) = listener();
    let api = connect(&server, web_identity, &events).await.unwrap();
    assert_eq!(api.credential_source(), format!("role {ROLE} (assumed with a token of the test's identity provider)"));
    let seen = server.seen();
    assert!(seen[0].line().starts_with("GET /token?job=query-geheim&audience=sts.amazonaws.com "), "{:?}", seen[0]);
    assert_eq!(seen[0].header("authorization"), format!("Bearer {JOB_TOKEN}"));
    assert_eq!(seen[1].header("authorization"), "");
    for part in [&format!("WebIdentityToken={}", jwt(CLAIMS)), "RoleSessionName=ecr-push", "DurationSeconds=900"] {
        assert!(seen[1].body.contains(part), "{}", seen[1].body);
    }
    assert_eq!(secrets(&heard), [&jwt(CLAIMS), "ASIAWEB56789", "key-geheim", "session-geheim"]);
    // The secret is told before the sentence about it.
    assert!(matches!(heard.lock().unwrap()[0], Event::Secret(_)));
    assert_eq!(notices(&heard), [format!("identity token: {TOLD}")]);
    // What was got first is used, and not asked for twice.
    api.caller_identity().await.ok();
    assert!(server.seen()[2].header("authorization").contains("ASIAWEB56789"));
    assert_eq!(secrets(&heard).len(), 4);
    assert!(!format!("{:?}", heard.lock().unwrap()).contains("geheim"));
}

#[tokio::test]
async fn a_token_may_be_posted_for_and_may_lie_in_another_field() {
    let server = serve(|seen| match is_sts(seen) {
        true => credentials("2100-01-01T00:00:00Z"),
        false => (200, String::new(), format!(r#"{{"oidcToken":"{}"}}"#, jwt(CLAIMS))),
    })
    .await;
    let headers = [("Content-Type", "application/json"), ("X-TFS-FedAuthRedirect", "Suppress")];
    for body in [None, Some("{}".to_owned())] {
        let request = TokenRequest {
            method: TokenMethod::Post,
            headers: headers.map(|(name, value)| (name.to_owned(), value.into())).to_vec(),
            body: body.clone(),
            field: "oidcToken".into(),
            ..request(&server)
        };
        connect(&server, identity(IdentityToken::Request(request)), &Events::none()).await.unwrap();
        let seen = &server.seen()[server.seen().len() - 2];
        assert!(seen.line().starts_with("POST /token?"), "{seen:?}");
        assert_eq!(seen.header("x-tfs-fedauthredirect"), "Suppress");
        assert_eq!(seen.header("content-length"), body.as_ref().map_or("0", |_| "2"));
        assert_eq!(seen.body, body.unwrap_or_default());
    }
}

#[tokio::test]
async fn each_new_session_has_a_new_token_and_is_told_again() {
    // Within the time in which the SDK's cache renews what it has.
    let server = serve(|seen| if is_sts(seen) { credentials("2000-01-01T00:00:00Z") } else { token_answer() }).await;
    let (events, heard) = listener();
    let api = connect(&server, identity(IdentityToken::Request(request(&server))), &events).await.unwrap();
    for _ in 0..2 {
        api.caller_identity().await.ok();
    }
    let seen = server.seen();
    let (asked, exchanged) =
        (seen.iter().filter(|seen| seen.line().starts_with("GET")).count(), seen.iter().filter(|s| is_sts(s)).count());
    assert!(asked > 1 && asked == exchanged, "{asked} {exchanged}");
    assert_eq!(secrets(&heard).len(), 4 * asked);
    assert_eq!(notices(&heard).len(), 1);
}

#[tokio::test]
async fn a_token_that_is_refused_stops_at_once_and_says_by_whom_and_why() {
    let html = "content-type: text/html\r\n";
    for (answer, expected, hint) in [
        (
            (302, "location: https://login.example/?t=geheim\r\n", ""),
            "with a redirect (302): the token was not accepted",
            "expired",
        ),
        (
            (203, html, "<html>sign in</html>"),
            "answered 203 without an identity token: its answer has no `value`",
            "the token was not accepted",
        ),
        ((200, "", r#"{"value":""}"#), "answered 200 without an identity token", ""),
        (
            (401, html, "<html>"),
            "refused the request for an identity token with 401",
            "the job's own token may have expired",
        ),
        (
            (
                403,
                "",
                r#"{"typeKey":"AccessDenied","message":"no\n##vso[x]for Bearer job-token-geheim, query-geheim"}"#,
            ),
            "with 403: AccessDenied: no?##vso[x]for ***, ***",
            "the job's own token",
        ),
        ((404, "", r#"{"message":"no such job"}"#), "with 404: no such job", ""),
    ] {
        let (status, headers, body) = answer;
        let server = serve(move |_| (status, headers.to_owned(), body.to_owned())).await;
        let error =
            connect(&server, identity(IdentityToken::Request(request(&server))), &Events::none()).await.unwrap_err();
        assert!(error.message().contains(expected), "{error}");
        assert!(error.message().starts_with("127.0.0.1 "), "{error}");
        assert!(error.hints().concat().contains(hint), "{:?}", error.hints());
        assert_eq!((error.side(), error.operation()), (Side::Credentials, "request identity token"));
        assert_eq!((error.status(), error.retry()), (Some(status), Retry::Never));
        assert_silent(&error);
        assert_eq!(server.seen().len(), 1, "neither tried again nor passed on");
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let failures = [(503, ""), (429, "retry-after: 0\r\n"), (408, "")];
    let (asked, exchanged) = (Mutex::new(0), Mutex::new(0));
    let server = serve(move |seen| {
        let mut count = if is_sts(seen) { exchanged.lock().unwrap() } else { asked.lock().unwrap() };
        *count += 1;
        match (is_sts(seen), *count) {
            (false, n @ 1..=3) => (failures[n - 1].0, failures[n - 1].1.to_owned(), String::new()),
            (false, _) => token_answer(),
            (true, 1) => refusal(500, "InternalFailure", "later"),
            (true, 2) => refusal(400, "IDPCommunicationError", "the issuer did not answer"),
            (true, _) => credentials("2100-01-01T00:00:00Z"),
        }
    })
    .await;
    let (events, heard) = listener();
    let web_identity = identity(IdentityToken::Request(request(&server)));
    provider(&server, &web_identity, Duration::from_secs(40), &events).obtain().await.unwrap();
    // One token is enough for all tries of the exchange.
    assert_eq!((server.seen().len(), retries(&heard)), (4 + 3, 3 + 2));
    // A service that asks for no wait at all is not asked at once.
    let waits = heard.lock().unwrap().iter().filter_map(wait_of).collect::<Vec<_>>();
    assert!(waits.iter().all(|wait| *wait >= Duration::from_millis(250)), "{waits:?}");
}

fn wait_of(event: &Event) -> Option<Duration> {
    match event {
        Event::Retrying { wait, .. } => Some(*wait),
        _ => None,
    }
}

#[tokio::test]
async fn the_budget_ends_tries_and_waits() {
    // It always fails, or never answers.
    let failing = serve(|_| (503, String::new(), String::new())).await;
    let deaf = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/", deaf.local_addr().unwrap());
    let host = silent.trim_start_matches("http://").trim_end_matches('/').to_owned();
    // A host that has never answered gets five seconds at least, for one try.
    for (url, expected, tries, limit) in [
        (format!("{}/", failing.url), "with 503".to_owned(), 2, Duration::from_secs(4)),
        (silent, format!("{host} did not answer in time"), 0, Duration::from_secs(7)),
    ] {
        let request = TokenRequest { url, ..request(&failing) };
        let started = Instant::now();
        let web_identity = identity(IdentityToken::Request(request));
        let (events, heard) = listener();
        let error = provider(&failing, &web_identity, Duration::from_secs(2), &events).obtain().await.unwrap_err();
        assert!(error.message().contains(&expected), "{error}");
        let mut said = error.hints().iter().chain(error.notes());
        assert!(said.any(|text| text.contains("`retry_budget`")), "{error:?}");
        assert!(started.elapsed() < limit, "{:?}", started.elapsed());
        assert!(retries(&heard) >= tries);
        assert_silent(&error);
    }
}

#[tokio::test]
async fn a_wait_that_no_clock_can_hold_ends_the_tries() {
    let server = serve(|_| (429, format!("retry-after: {}\r\n", u64::MAX), String::new())).await;
    let web_identity = identity(IdentityToken::Request(request(&server)));
    let (events, _) = listener();
    let started = Instant::now();
    let error = provider(&server, &web_identity, Duration::from_secs(1), &events).obtain().await.unwrap_err();
    assert!(error.hints().iter().any(|hint| hint.contains("`retry_budget`")), "{:?}", error.hints());
    assert!(started.elapsed() < Duration::from_secs(3) && server.seen().len() == 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_role_that_refuses_is_told_with_what_its_trust_policy_would_have_to_allow() {
    for (code, status, hint) in [
        ("AccessDenied", 403, ""),
        ("InvalidIdentityToken", 400, "identity provider (IAM, OpenID Connect)"),
        ("ExpiredTokenException", 400, ""),
    ] {
        let server = serve(move |seen| match is_sts(seen) {
            true => refusal(status, code, &format!("Not authorized with {}", jwt(CLAIMS))),
            false => token_answer(),
        })
        .await;
        let web_identity = identity(IdentityToken::Request(request(&server)));
        let error = connect(&server, web_identity, &Events::none()).await.unwrap_err();
        assert_eq!(
            error.message(),
            format!(
                "the role {ROLE} cannot be assumed with the token of the test's identity provider: Not authorized with ***"
            )
        );
        assert_eq!((error.side(), error.operation()), (Side::Credentials, "sts:AssumeRoleWithWebIdentity"));
        assert_eq!((error.code(), error.status(), error.request_id()), (Some(code), Some(status), Some("r9")));
        assert!(error.hints()[0].contains(hint), "{:?}", error.hints());
        assert_eq!(error.hints().last().unwrap(), &format!("the role's trust policy must allow {TOLD}"));
        assert_silent(&error);
        assert_eq!(server.seen().iter().filter(|seen| is_sts(seen)).count(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_from_sts_is_told_as_such() {
    for (status, headers, expected) in [
        (302, "location: https://login.example/?geheim\r\n", "STS answered 302 with a web page"),
        (403, "content-type: text/html\r\n", "STS answered 403 with a web page"),
    ] {
        let server = serve(move |_| (status, headers.to_owned(), "<html>".to_owned())).await;
        let error =
            connect(&server, identity(IdentityToken::Text(jwt(CLAIMS).into())), &Events::none()).await.unwrap_err();
        assert!(error.message().ends_with(expected), "{error}");
        assert_eq!((error.status(), error.retry(), server.seen().len()), (Some(status), Retry::Never, 1));
        let hints = error.hints().concat();
        assert!(!hints.contains("trust policy"), "{hints}");
        assert_eq!(status == 302, hints.contains("the token was not accepted"), "{hints}");
        assert_silent(&error);
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let mut far = serve(|_| token_answer()).await;
    far.url.clone_from(&url);
    let web_identity = identity(IdentityToken::Text(jwt(CLAIMS).into()));
    let budget = Duration::from_secs(1);
    let error = provider(&far, &web_identity, budget, &Events::none()).obtain().await.unwrap_err();
    assert_eq!(error.message(), format!("{} refused the connection", url.trim_start_matches("http://")));
    assert_eq!((error.side(), error.operation()), (Side::Credentials, "sts:AssumeRoleWithWebIdentity"));
}

#[tokio::test]
async fn a_given_token_is_used_as_it_is_even_if_it_is_no_jwt() {
    let server = serve(|_| refusal(400, "InvalidIdentityToken", "no")).await;
    let (events, heard) = listener();
    let error = connect(&server, identity(IdentityToken::Text(" opaque-geheim\n".into())), &events).await.unwrap_err();
    assert_eq!(secrets(&heard), ["opaque-geheim"]);
    assert!(
        server.seen()[0].body.contains("WebIdentityToken=opaque-geheim&")
            || server.seen()[0].body.ends_with("opaque-geheim")
    );
    assert!(notices(&heard)[0].contains("not a JWT"));
    assert!(error.hints().last().unwrap().contains("not a JWT"), "{:?}", error.hints());
    assert_silent(&error);
}

#[tokio::test]
async fn claims_are_shown_in_one_short_line() {
    let claims = format!(r#"{{"iss":"a\n##vso[task.complete]","aud":["x","y"],"sub":"{}"}}"#, "s".repeat(1000));
    let server = serve(|_| credentials("2100-01-01T00:00:00Z")).await;
    let (events, heard) = listener();
    connect(&server, identity(IdentityToken::Text(jwt(&claims).into())), &events).await.unwrap();
    let expected =
        format!("identity token: issuer a?##vso[task.complete], audience x and y, subject {}…", "s".repeat(300));
    assert_eq!(notices(&heard), [expected]);
}

#[tokio::test]
async fn a_failed_renewal_says_its_own_cause() {
    let first = Mutex::new(true);
    let server = serve(move |seen| {
        if is_sts(seen) {
            return credentials("2000-01-01T00:00:00Z");
        }
        if !seen.line().starts_with("GET /token?") {
            return (200, String::new(), "{}".into());
        }
        match std::mem::take(&mut *first.lock().unwrap()) {
            true => token_answer(),
            false => (401, String::new(), String::new()),
        }
    })
    .await;
    let api = connect(&server, identity(IdentityToken::Request(request(&server))), &Events::none()).await.unwrap();
    // The first call may use what connecting got; a later one must renew it.
    let mut error = api.token(None).await.unwrap_err();
    if error.status() != Some(401) {
        error = api.token(None).await.unwrap_err();
    }
    assert_eq!((error.side(), error.operation()), (Side::Credentials, "request identity token"), "{error:?}");
    assert!(error.hints()[0].contains("the job's own token"), "{:?}", error.hints());
    let asked = server.seen().iter().filter(|seen| seen.line().starts_with("GET /token?")).count();
    assert_eq!(asked, 2, "the SDK does not try a failed renewal again");
}

#[test]
fn settings_that_contradict_themselves_are_refused() {
    let good = |url: &str| TokenRequest {
        method: TokenMethod::Get,
        url: url.into(),
        headers: vec![("Authorization".into(), "Bearer geheim".into())],
        body: None,
        field: "value".into(),
    };
    let with = |web_identity: WebIdentity| AwsSettings { web_identity: Some(web_identity), ..AwsSettings::default() };
    for url in ["https://token.example/x?y=1", "http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/"] {
        with(identity(IdentityToken::Request(good(url)))).check().unwrap();
    }
    for url in [
        "http://token.example/",
        "ftp://127.0.0.1/",
        "token",
        "https://u:geheim@token.example/",
        "http://127.0.0.1.example/",
    ] {
        let error = with(identity(IdentityToken::Request(good(url)))).check().unwrap_err();
        assert!(error.is_refused(), "{url}");
        assert_silent(&error);
    }
    let damaged = TokenRequest { headers: vec![("X".into(), "geheim\nY: z".into())], ..good("https://token.example/") };
    let error = with(identity(IdentityToken::Request(damaged.clone()))).check().unwrap_err();
    assert!(error.is_refused() && error.message().contains("\"X\""), "{error}");
    assert_silent(&error);
    assert!(!format!("{damaged:?}").contains("geheim"));

    let text = || identity(IdentityToken::Text("jwt".into()));
    with(text()).check().unwrap();
    assert!(with(identity(IdentityToken::Text(" ".into()))).check().unwrap_err().is_refused());
    let mut external = text();
    external.role.external_id = Some("x".into());
    assert!(with(external).check().unwrap_err().message().contains("external id"));
    let mut damaged = text();
    damaged.role.duration = Some(Duration::from_secs(1));
    assert!(with(damaged).check().unwrap_err().is_refused());
    let profile = AwsSettings { profile: Some("p".into()), ..with(text()) };
    let keys = Keys {
        origin: "test".into(),
        access_key_id: "AKIA".into(),
        secret_access_key: "s".into(),
        session_token: None,
    };
    let both = AwsSettings { explicit_keys: Some(keys.clone()), ..with(text()) };
    assert_eq!(
        both.check().unwrap_err().message(),
        "keys and an identity token are both given, and only one can be used"
    );
    let all = AwsSettings { explicit_keys: Some(keys), ..profile.clone() };
    assert!(all.check().unwrap_err().message().contains("are all given"));
    assert!(profile.check().unwrap_err().is_refused());
}
