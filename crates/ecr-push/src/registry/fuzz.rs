//! Answers that no registry gives: see [`crate::fuzzing`].

use std::time::Duration;

use http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use reqwest::{Response, ResponseBuilderExt};
use secrecy::ExposeSecret;
use tokio::runtime::Runtime;
use url::Url;

use super::{Auth, Pace, Repository, auth, failure, retry_for};
use crate::events::Events;
use crate::fuzzing::{check_error, parts};
use crate::http::{Http, HttpSettings};
use crate::retry::Overlap;

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be made");
    static REPOSITORY: Repository = {
        let http = Http::new(&HttpSettings::default()).expect("the client can be made");
        let base = "https://registry.example/".parse().expect("a URL");
        let (pace, events) = (Pace::new(&[], &Overlap::default()), Events::none());
        Repository::new(http, base, "team/app", Auth::asked(None, &events), pace, &events)
    };
}

/// Reads the input as the answer of a registry: a status, the lines of a head, a body. A second body is that of a token server.
pub fn registry_answer(data: &[u8]) {
    let mut parts = parts(data);
    let mut part = || parts.next().unwrap_or_default();
    let (status, head, body, token) = (part(), part(), part(), part());
    let status = std::str::from_utf8(status).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = headers(head);
    let answer = || {
        let mut answer = http::Response::builder().status(status).url(url());
        answer.headers_mut().into_iter().for_each(|own| own.clone_from(&headers));
        Response::from(answer.body(body.to_vec()).expect("an answer of checked parts"))
    };
    REPOSITORY.with(|repository| match repository.session(&answer()) {
        Ok(place) => assert_eq!(place.origin(), repository.base.origin(), "the credential goes nowhere else"),
        Err(error) => check_error(&error),
    });
    RUNTIME.with(|runtime| runtime.block_on(refused(answer(), status)));
    RUNTIME.with(|runtime| {
        let read = runtime.block_on(super::whole(answer(), 1000)).expect("a body in memory can be read");
        assert_eq!(read.as_deref(), (body.len() <= 1000).then_some(body));
    });
    headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).for_each(challenged);
    match auth::token_of(token) {
        Ok((token, lifetime)) => {
            assert!(lifetime >= Duration::from_secs(60));
            match auth::header("Bearer", &token) {
                Ok(header) => {
                    assert!(header.is_sensitive() && header.as_bytes().ends_with(token.expose_secret().as_bytes()))
                }
                Err(error) => check_error(&error),
            }
        }
        Err(error) => check_error(&error),
    }
}

fn url() -> Url {
    "https://registry.example/v2/team/app/blobs/uploads/".parse().expect("a URL")
}

/// What HTTP lets through.
fn headers(head: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(50) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

async fn refused(answer: Response, status: StatusCode) {
    let error = failure::refusal("check blob", "team/app", answer).await;
    check_error(&error);
    assert_eq!(error.status(), Some(status.as_u16()));
    assert!(error.retry_after().is_none_or(|wait| wait <= Duration::from_secs(60)), "nobody waits for hours");
    assert!(!error.message().contains(char::is_control), "what a registry says is one line: {:?}", error.message());
    // A code may know better than the status, but not that a request will be liked after all.
    assert!(error.code().is_some() || error.retry() == retry_for(status));
}

fn challenged(challenge: &str) {
    let schemes = ["Bearer", "Basic"].map(|scheme| auth::parse(challenge, scheme));
    assert!(schemes.iter().filter(|found| found.is_some()).count() <= 1, "a challenge has one scheme: {challenge:?}");
    let [bearer, _] = schemes;
    let Some(parameters) = bearer else { return };
    assert!(parameters.iter().all(|(key, _)| *key == key.to_lowercase()));
    match auth::realm(&parameters) {
        Ok(realm) => {
            let loopback = match realm.host() {
                Some(url::Host::Domain(name)) => format!(".{}", name.trim_end_matches('.')).ends_with(".localhost"),
                Some(url::Host::Ipv4(address)) => address.octets()[0] == 127,
                Some(url::Host::Ipv6(address)) => {
                    address == std::net::Ipv6Addr::LOCALHOST
                        || matches!(address.to_ipv4_mapped(), Some(v4) if v4.octets()[0] == 127)
                }
                None => false,
            };
            assert!(realm.scheme() == "https" || loopback, "a login does not go to {realm}");
        }
        Err(error) => check_error(&error),
    }
}
