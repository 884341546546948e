//! Signatures that are for another time, day, region or service.

mod common;

use std::time::Duration;

use common::*;
use local_ecr::{Config, Key};

const US: &str = "us-east-1";

/// A caller in the header, with what the signature says it is for.
struct Signed<'a> {
    key: &'a str,
    date: Option<String>,
    day: Option<&'a str>,
    region: &'a str,
    service: &'a str,
}

impl Default for Signed<'_> {
    fn default() -> Self {
        Self { key: "alice", date: Some(amz_date(0)), day: None, region: US, service: "ecr" }
    }
}

impl Signed<'_> {
    fn headers(&self) -> Vec<(&'static str, String)> {
        let now = amz_date(0);
        let date = self.date.as_deref().unwrap_or(&now);
        let day = self.day.unwrap_or_else(|| date.get(..8).unwrap_or("19700101"));
        let Self { key, region, service, .. } = self;
        let scope = format!("{key}/{day}/{region}/{service}/aws4_request");
        let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00");
        let date = self.date.clone().map(|date| ("x-amz-date", date));
        [("authorization", authorization)].into_iter().chain(date).collect()
    }

    /// The status, code and message that the API answers; without a code it was a success.
    async fn at_api(&self, ecr: &Ecr) -> (u16, String, String) {
        let request = ecr
            .bare("POST", "/")
            .header("x-amz-target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
            .body("{}");
        let request = self.headers().into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body = json_of(response).await;
        (status, text(&body["__type"]), text(&body["message"]))
    }

    /// The same at STS.
    async fn at_sts(&self, ecr: &Ecr) -> (u16, String, String) {
        let request = ecr
            .bare("POST", "/")
            .header("content-type", "application/x-www-form-urlencoded")
            .body("Action=GetCallerIdentity&Version=2011-06-15");
        let request = self.headers().into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body = response.text().await.unwrap();
        let member = |name: &str| {
            let rest = body.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
            rest.and_then(|rest| rest.split('<').next()).unwrap_or_default().replace("&apos;", "'")
        };
        (status, member("Code"), member("Message"))
    }
}

#[tokio::test]
async fn every_part_of_the_scope_is_checked_of_every_key() {
    let key = Key { access_key_id: "known".into(), secret_access_key: "secret".into(), user: "bob".into() };
    let open = ecr().await;
    let strict = start(Config { keys: vec![key], ..Config::default() }).await;
    let tomorrow = amz_date(24 * 60 * 60);
    for (ecr, key) in [(&open, "alice"), (&strict, "known")] {
        let signed = || Signed { key, ..Signed::default() };
        for (wrong, code, message) in [
            (
                Signed { region: "eu-west-1", ..signed() },
                "InvalidSignatureException",
                "Credential should be scoped to a valid region, not 'eu-west-1'. ".to_owned(),
            ),
            (
                Signed { service: "sts", ..signed() },
                "InvalidSignatureException",
                "Credential should be scoped to correct service: 'ecr'. ".to_owned(),
            ),
            (
                Signed { service: "ecr-public", ..signed() },
                "InvalidSignatureException",
                "Credential should be scoped to correct service: 'ecr'. ".to_owned(),
            ),
            (
                Signed { day: Some(&tomorrow[..8]), ..signed() },
                "InvalidSignatureException",
                format!(
                    "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != ",
                    &tomorrow[..8]
                ),
            ),
            (
                Signed { date: Some(amz_date(-310)), ..signed() },
                "InvalidSignatureException",
                "Signature expired: ".to_owned(),
            ),
            (
                Signed { date: Some(amz_date(310)), ..signed() },
                "InvalidSignatureException",
                "Signature not yet current: ".to_owned(),
            ),
            (
                Signed { date: None, ..signed() },
                "IncompleteSignatureException",
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.".to_owned(),
            ),
            (
                Signed { date: Some("2026-01-31T12:34:56Z".into()), ..signed() },
                "IncompleteSignatureException",
                "Date must be in ISO-8601 'basic format'.".to_owned(),
            ),
            (Signed { date: Some("€".repeat(16)), ..signed() }, "IncompleteSignatureException", "".to_owned()),
        ] {
            let (status, got, said) = wrong.at_api(ecr).await;
            assert_eq!((status, got.as_str()), (400, code), "{key}: {said}");
            assert!(said.starts_with(&message), "{key}: {said}");
        }
    }
    for ahead in [-290, 0, 290] {
        let (status, _, said) = Signed { date: Some(amz_date(ahead)), ..Signed::default() }.at_api(&open).await;
        assert_eq!(status, 200, "{ahead}: {said}");
    }
}

#[tokio::test]
async fn sts_has_codes_and_limits_of_its_own() {
    let ecr = start(Config { region: "eu-west-1".into(), ..Config::default() }).await;
    let signed = || Signed { region: "eu-west-1", service: "sts", ..Signed::default() };
    // The regional endpoint, and the global one.
    for region in ["eu-west-1", US] {
        for ahead in [-890, 890] {
            let (status, code, _) = Signed { region, date: Some(amz_date(ahead)), ..signed() }.at_sts(&ecr).await;
            assert_eq!((status, code.as_str()), (200, ""), "{region}");
        }
    }
    for (wrong, status, code, message) in [
        (
            Signed { region: "eu-west-2", ..signed() },
            403,
            "SignatureDoesNotMatch",
            "Credential should be scoped to a valid",
        ),
        (Signed { service: "ecr", ..signed() }, 403, "SignatureDoesNotMatch", "Credential should be scoped to correct"),
        (
            Signed { day: Some("20150830"), ..signed() },
            403,
            "SignatureDoesNotMatch",
            "Date in Credential scope does not",
        ),
        (Signed { date: Some(amz_date(-910)), ..signed() }, 403, "SignatureDoesNotMatch", "Signature expired: "),
        (Signed { date: Some(amz_date(910)), ..signed() }, 403, "SignatureDoesNotMatch", "Signature not yet current: "),
        (Signed { date: None, ..signed() }, 400, "IncompleteSignature", "Authorization header requires existence"),
    ] {
        let (got_status, got_code, said) = wrong.at_sts(&ecr).await;
        assert_eq!((got_status, got_code.as_str()), (status, code), "{said}");
        assert!(said.starts_with(message), "{said}");
    }
}

#[tokio::test]
async fn the_clock_of_the_server_decides() {
    let ecr = ecr().await;
    ecr.advance_clock(Duration::from_secs(3_600));
    let (status, code, said) = Signed::default().at_api(&ecr).await;
    assert_eq!((status, code.as_str()), (400, "InvalidSignatureException"), "{said}");
    assert!(said.ends_with("- 5 min.)"), "{said}");
    let ahead = Signed { date: Some(amz_date(3_600)), ..Signed::default() };
    assert_eq!(ahead.at_api(&ecr).await.0, 200);
    let date = ecr.bare("GET", "/v2/").send().await.unwrap();
    let shown = httpdate::parse_http_date(&header(&date, "date").unwrap()).unwrap();
    assert!(shown > std::time::SystemTime::now() + Duration::from_secs(3_500));
}
