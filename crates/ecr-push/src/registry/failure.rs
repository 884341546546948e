//! What a registry's refusal means.

use std::time::{Duration, SystemTime};

use http::{StatusCode, header};
use reqwest::Response;
use serde::Deserialize;

use super::retry_for;
use crate::error::{Error, Retry, Side, cut};
use crate::retry::says_throttled;
use crate::text;
use crate::text::Setting;
use crate::text::count;

/// How much of an error's body is read.
const BODY_LIMIT: usize = 64 * 1024;

/// How much of one is shown that has no known form, in bytes.
const SHOWN: usize = 200;

/// How long it is waited for. What has come by then will do: the status decides.
const BODY_TIME: Duration = Duration::from_secs(5);

/// Longer than any word that a sentence has behind `Basic` or `Bearer`.
const SHORTEST_TOKEN: usize = 20;

#[derive(Deserialize)]
struct Body {
    errors: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    code: String,
    #[serde(default)]
    message: String,
}

/// Turns an answer that is not a success into an error. Codes and statuses decide; the sentence is shown.
pub(super) async fn refusal(operation: &str, repository: &str, mut response: Response) -> Error {
    let status = response.status();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let request_id =
        header("x-amzn-requestid").or_else(|| header("x-amz-request-id")).or_else(|| header("x-request-id"));
    let retry_after = header(header::RETRY_AFTER.as_str()).and_then(|text| wait(&text, SystemTime::now()));
    let host = response.url().host_str().unwrap_or("the registry").to_owned();
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > BODY_LIMIT {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_TIME, read).await;
    let first = serde_json::from_slice::<Body>(&bytes).ok().and_then(|body| body.errors.into_iter().next());
    let throttled = match &first {
        Some(item) => says_throttled(&item.message),
        None => std::str::from_utf8(&bytes).is_ok_and(says_throttled),
    };
    let mut error = match first {
        Some(item) => {
            let code = one_line(&item.code);
            let text = one_line(&item.message);
            let said = [text, code.clone()].into_iter().find(|text| !text.is_empty());
            let text = said.unwrap_or_else(|| bare(operation, &host, status, b""));
            Error::new(Side::Destination, operation, text).with_code(code)
        }
        None => Error::new(Side::Destination, operation, bare(operation, &host, status, &bytes)),
    };
    error = error.with_status(status.as_u16()).with_retry(retry_for(status));
    if throttled {
        error = error.with_retry(Retry::Throttled);
    }
    if let Some(wait) = retry_after {
        // A registry that asks for an hour is not obeyed; the budget would end first.
        error = error.with_retry_after(wait.min(Duration::from_secs(60)));
    }
    if let Some(id) = request_id {
        error = error.with_request_id(id);
    }
    explain(error, repository)
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110 section 10.2.3). None if it is neither, or in the past.
fn wait(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

/// The sentence for an answer without an error in the registry's form: an empty one, or a page of some proxy.
fn bare(operation: &str, host: &str, status: StatusCode, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = one_line(text.trim());
    if text.is_empty() {
        return format!("{host} answered {status} to `{operation}` without a reason");
    }
    match cut(&text, SHOWN) {
        "" => format!(
            "{host} answered {status} to `{operation}` with {} not shown",
            count(text.len(), "byte that is", "bytes that are")
        ),
        shown => format!("{host} answered {status} to `{operation}`: {shown}"),
    }
}

/// The text on one line. Servers and proxies that say back what they were sent say back the token too, which goes.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut after_scheme = false;
    let words = plain.split_whitespace().map(|word| {
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && !"+/=._~-".contains(c)).unwrap_or(word.len());
        let is_token = after_scheme && end >= SHORTEST_TOKEN;
        after_scheme = is_scheme(word);
        if is_token { format!("***{}", &word[end..]) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn is_scheme(word: &str) -> bool {
    let ends = |scheme: &str| {
        let tail = word.len().checked_sub(scheme.len()).and_then(|at| word.get(at..));
        tail.is_some_and(|tail| tail.eq_ignore_ascii_case(scheme))
    };
    ends("Basic") || ends("Bearer")
}

/// Adds what is known about a code.
fn explain(error: Error, repository: &str) -> Error {
    let code = error.code().unwrap_or_default().to_owned();
    match (code.as_str(), error.status()) {
        ("NAME_UNKNOWN", _) => error.with_hint(text![
            format!("create the repository `{repository}` first, or push with "),
            Setting::CreateRepository,
            "; if it exists, check account and region",
        ]),
        // 405 from ECR means that a parameter is not liked, usually the manifest (ecr-facts 4.2).
        ("UNSUPPORTED", Some(405)) => {
            error.with_hint("correct what the text above names: Amazon ECR refuses this manifest or name").with_retry(Retry::Never)
        }
        ("TOOMANYREQUESTS", _) => error.with_retry(Retry::Throttled),
        (_, Some(413)) => error.with_hint(
            "a proxy before the registry allows no body of this size (in nginx: `client_max_body_size 0`)",
        ),
        (_, Some(300..=399)) => error.with_hint(
            "a registry sends nobody who pushes elsewhere: a proxy, gateway or login page answered, or the address is an old one",
        ),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_code_is_one_line_too_and_nothing_is_no_reason() {
        for (body, said) in [
            (r#"{"errors":[{"code":"TOO\r\nMANY"}]}"#, "TOO MANY"),
            (
                r#"{"errors":[{"code":" ","message":"\n"}]}"#,
                "no.url.provided.local answered 429 Too Many Requests to `check blob` without a reason",
            ),
        ] {
            let answer = http::Response::builder().status(429).body(body).unwrap();
            let error = refusal("check blob", "app", answer.into()).await;
            assert_eq!(error.message(), said);
        }
    }

    #[tokio::test]
    async fn throttling_is_known_by_its_sentence_whatever_the_status() {
        let item = |code: &str, text: &str| format!(r#"{{"errors":[{{"code":"{code}","message":"{text}"}}]}}"#);
        for (status, body, retry) in [
            (400, item("DENIED", "Rate exceeded"), Retry::Throttled),
            (403, item("UNKNOWN", "Rate exceeded."), Retry::Throttled),
            (400, "Rate exceeded\n".to_owned(), Retry::Throttled),
            (503, item("TOOMANYREQUESTS", "slow down"), Retry::Throttled),
            (400, item("DENIED", "no"), Retry::Never),
            (503, String::new(), Retry::Backoff),
        ] {
            let answer = http::Response::builder().status(status).body(body.clone()).unwrap();
            assert_eq!(refusal("check blob", "app", answer.into()).await.retry(), retry, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn half_a_word_is_not_shown() {
        let secret = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY";
        for (body, shown) in [
            (format!("{} {secret}", "x".repeat(180)), true),
            (format!("{}{secret}", "x".repeat(180)), false),
            (format!("no {} http://user:{secret}@host/", "x ".repeat(90)), true),
        ] {
            let answer = http::Response::builder().status(400).body(body).unwrap();
            let error = refusal("check blob", "app", answer.into()).await;
            assert!(!error.message().contains(&secret[..4]), "{error}");
            assert_eq!(error.message().contains("xx") || error.message().contains("x x"), shown, "{error}");
        }
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(wait(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        for none in ["Sun, 06 Nov 1994 08:00:00 GMT", "soon", "-1", "", "1.5", "99999999999999999999"] {
            assert_eq!(wait(none, now), None, "{none}");
        }
    }

    #[test]
    fn an_answer_without_a_reason_still_says_who_answered_what() {
        let text = bare("check blob", "host", StatusCode::FORBIDDEN, b"");
        assert_eq!(text, "host answered 403 Forbidden to `check blob` without a reason");
        let echo =
            br#"{"seen":"authorization: basic QVdTOmVpbi1wYXNzd29ydC1mdWVyLWFsbGU=","hint":"Basic authentication"}"#;
        let text = bare("check blob", "host", StatusCode::FORBIDDEN, echo);
        assert!(!text.contains("QVdT") && text.ends_with("Basic authentication\"}"), "{text}");
        let page = bare("put manifest", "host", StatusCode::BAD_GATEWAY, b"<html>\r\n<b>\x1b[31mproxy</b>");
        assert_eq!(page, "host answered 502 Bad Gateway to `put manifest`: <html> <b> [31mproxy</b>");
    }
}
