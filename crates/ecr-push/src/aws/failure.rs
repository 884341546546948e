//! From an SDK error to ours.
//!
//! The service's code decides, then the status (ecr-facts 2.1: statuses of the JSON API are unreliable). Proxies, gateways and
//! moto answer with XML or HTML where AWS sends JSON; the code is then read from the raw body.

use std::error::Error as StdError;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::denial::{self, Target};
use crate::child::harmless;
use crate::error::{Error, Retry, Side, cut};
use crate::http::{Last, Unanswered};
use crate::retry::says_throttled;
use crate::text;
use crate::text::{Setting, Text};

/// The longest wait that a service is granted. The budget would end before a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How much of a page's title is shown, in bytes.
const TITLE: usize = 80;

/// Who answers with a web page, and what to look at.
fn page_hint() -> Text {
    text![
        "a proxy, gateway or login page answered in the place of AWS: check HTTPS_PROXY and NO_PROXY, whether this network wants a login, \
         and the address, where one is given (",
        Setting::EndpointUrl,
        ", AWS_ENDPOINT_URL)"
    ]
}

/// What the service said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) request_id: Option<String>,
    /// The wait that it asks for.
    retry_after: Option<Duration>,
    /// It is a web page, with this title. No service of AWS answers so.
    page: Option<String>,
}

impl Answer {
    /// The SDK's reading first, the raw body where that is empty.
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Self {
        let meta = error.as_service_error().map(ProvideErrorMetadata::meta);
        let Some(raw) = error.raw_response() else {
            return Self::default();
        };
        let body = String::from_utf8_lossy(raw.body().bytes().unwrap_or_default());
        let header = |name: &str| raw.headers().get(name).map(str::to_owned);
        let known = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            code: known(meta.and_then(|meta| meta.code())).or_else(|| code_in_body(&body)),
            message: known(meta.and_then(|meta| meta.message())).or_else(|| message_in_body(&body)),
            status: Some(raw.status().as_u16()),
            request_id: header("x-amzn-requestid")
                .or_else(|| header("x-amz-request-id"))
                .or_else(|| element(&body, "RequestId")),
            retry_after: header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
            page: page(&body),
        }
    }

    /// What is left of an answer that the SDK passes on in text only.
    fn heard(status: u16, body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        Self {
            code: code_in_body(&body),
            message: message_in_body(&body),
            status: Some(status),
            request_id: element(&body, "RequestId"),
            retry_after: None,
            page: page(&body),
        }
    }

    /// Whether to try again: the code decides, then the status.
    fn retry(&self) -> Retry {
        let code = self.code.as_deref().unwrap_or_default();
        let status = self.status.unwrap_or_default();
        match verdict(code, status, self.message.as_deref().unwrap_or_default()) {
            // It may be gone in a moment, with whoever put it there.
            Retry::Never if self.page.is_some() && (200..300).contains(&status) => Retry::Brief,
            retry => retry,
        }
    }

    /// What `who` said, in few words. `None` if nothing.
    fn said(&self, who: &str) -> Option<String> {
        let status = self.status?;
        match (&self.message, &self.page, &self.code) {
            (Some(text), ..) => Some(text.clone()),
            (None, Some(title), _) if title.is_empty() => Some(format!("{who} answered {status} with a web page")),
            (None, Some(title), _) => Some(format!("{who} answered {status} with a web page titled \"{title}\"")),
            (None, None, Some(code)) => Some(code.clone()),
            (None, None, None) => None,
        }
    }

    fn add_to(self, mut error: Error) -> Error {
        if let Some(code) = self.code {
            error = error.with_code(code);
        }
        if let Some(status) = self.status {
            error = error.with_status(status);
        }
        if let Some(id) = self.request_id {
            error = error.with_request_id(id);
        }
        if let Some(wait) = self.retry_after {
            error = error.with_retry_after(wait.min(LONGEST_WAIT));
        }
        if self.page.is_some() {
            error = error.with_hint(page_hint());
        }
        error
    }
}

/// Where the call went and with what, for the sentence.
pub(super) struct Call<'a> {
    /// Such as `ecr:GetAuthorizationToken`.
    pub(super) operation: &'a str,
    /// The service's host, or its name.
    pub(super) service: String,
    /// The description of the credentials.
    pub(super) credentials: &'a str,
    pub(super) target: Target,
}

/// The SDK's error as ours.
pub(super) fn map<E>(call: &Call<'_>, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    if error.raw_response().is_some() {
        return answered(call, Answer::of(error));
    }
    if matches!(error, SdkError::TimeoutError(_)) {
        return Error::new(
            Side::Destination,
            call.operation,
            format!("{} got no answer from {} in time", call.operation, call.service),
        )
        .with_retry(Retry::Backoff);
    }
    unanswered(call, error)
}

fn answered(call: &Call<'_>, answer: Answer) -> Error {
    let code = answer.code.clone().unwrap_or_default();
    let text = answer.message.clone().unwrap_or_default();
    if let Some(error) = denial::credential_error(call.operation, &code, &text, call.credentials) {
        return answer.add_to(error);
    }
    if is_denial(&code, answer.status) && !text.is_empty() {
        return answer.add_to(denial::denial_error(call.operation, &text, &call.target));
    }
    let status = answer.status.unwrap_or_default();
    let retry = answer.retry();
    let message = match (code.is_empty(), text.is_empty(), &answer.page) {
        (_, false, _) => format!("{} failed: {text}", call.operation),
        (_, true, Some(_)) => {
            let said = answer.said(&call.service).unwrap_or_default();
            format!("{said} to {}", call.operation)
        }
        (false, true, None) => format!("{} failed with {code}", call.operation),
        (true, true, None) => format!("{} failed with HTTP status {status} and no reason", call.operation),
    };
    let mut error = Error::new(Side::Destination, call.operation, message).with_retry(retry);
    if code.is_empty() && status == 403 && answer.page.is_none() {
        error = error.with_hint("AWS always says why: a proxy or firewall may have answered in its place");
    }
    answer.add_to(error)
}

fn is_denial(code: &str, status: Option<u16>) -> bool {
    match code {
        "" => status == Some(403),
        code => code.starts_with("AccessDenied") || code == "UnauthorizedOperation",
    }
}

fn verdict(code: &str, status: u16, text: &str) -> Retry {
    if is_throttling(code) || status == 429 || (code.is_empty() && says_throttled(text)) {
        return Retry::Throttled;
    }
    let passing = matches!(
        code,
        "ServerException"
            | "ServiceUnavailable"
            | "InternalFailure"
            | "InternalServerError"
            | "RequestTimeout"
            // STS could not reach the identity provider: a 400 that its documentation says to try again.
            | "IDPCommunicationError"
    );
    if passing || status >= 500 || (code.is_empty() && status == 408) {
        return Retry::Backoff;
    }
    Retry::Never
}

/// The SDK's list and `ThrottleException`, which the ECR user guide names (ecr-facts 2.1, 7.3).
pub(super) fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ThrottleException"
            | "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "SlowDown"
    )
}

fn unanswered(call: &Call<'_>, error: &(dyn StdError + 'static)) -> Error {
    if let Some(found) = find::<CredentialsError>(error) {
        return credentials_failure(call.operation, call.credentials, found, None);
    }
    if let Some(Unanswered(own)) = find(error) {
        return own.clone().stamped(Side::Destination, call.operation);
    }
    Error::new(Side::Destination, call.operation, format!("{} failed: {}", call.operation, reason(error)))
}

/// A source of credentials that has some but fails to give them. `last` is what its last request came to.
pub(super) fn credentials_failure(
    operation: &str,
    source: &str,
    error: &CredentialsError,
    last: Option<Last>,
) -> Error {
    if let Some(own) = own(error) {
        return own;
    }
    let sentence = |text: &str| format!("the credentials from {source} cannot be used: {text}");
    let heard = match (find::<Unanswered>(error), last) {
        (Some(Unanswered(own)), _) => return in_context(own, operation, sentence),
        (None, Some(Last::Unanswered(own))) => return in_context(&own, operation, sentence),
        (None, Some(Last::Refused { status, body })) => Answer::heard(status, &body),
        (None, None) => Answer::default(),
    };
    let answer = sts_answer(error).unwrap_or(heard);
    let code = answer.code.clone().unwrap_or_default();
    let text = answer.said("its service").unwrap_or_else(|| without_output(&reason(error)));
    // The SDK's own building site says nothing to its user.
    let text = text.trim_start_matches("ProfileFile provider could not be built: ").to_owned();
    if let Some(error) = denial::credential_error(operation, &code, &text, source) {
        return answer.add_to(error);
    }
    let retry = match error {
        CredentialsError::ProviderTimedOut(_) => Retry::Backoff,
        _ => answer.retry(),
    };
    answer.add_to(Error::new(Side::Credentials, operation, sentence(&text)).with_retry(retry))
}

/// A request that nobody answered, in the sentence of the one who made it.
fn in_context(unanswered: &Error, operation: &str, sentence: impl Fn(&str) -> String) -> Error {
    unanswered.clone().stamped(Side::Credentials, operation).reworded(sentence(unanswered.message()))
}

/// The SDK's words without the whole standard error of a credential process, of which the last line is kept: a script may print anything.
fn without_output(words: &str) -> String {
    let Some((what, said)) = words.split_once("Stderr: ") else { return words.to_owned() };
    match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("{what}It said: {}", harmless(line)),
        None => format!("{what}It said nothing"),
    }
}

/// Our own error, where it has passed through the SDK.
pub(super) fn own(error: &CredentialsError) -> Option<Error> {
    find::<Error>(error).cloned()
}

/// A role that could not be taken on. Nothing else is tried in its place.
pub(super) fn role_failure(role: &str, base: &str, error: &CredentialsError) -> Error {
    const OPERATION: &str = "sts:AssumeRole";
    if let Some(own) = find::<Error>(error) {
        return own.clone();
    }
    let sentence = |text: &str| format!("the role {role} cannot be assumed with {base}: {text}");
    if let Some(Unanswered(own)) = find(error) {
        return in_context(own, OPERATION, sentence);
    }
    let answer = sts_answer(error).unwrap_or_default();
    let code = answer.code.clone().unwrap_or_default();
    let text = answer.said("STS").unwrap_or_else(|| reason(error));
    if let Some(error) = denial::credential_error(OPERATION, &code, &text, base) {
        return answer.add_to(error);
    }
    let mut built = Error::new(Side::Credentials, OPERATION, sentence(&text)).with_retry(answer.retry());
    if code.starts_with("AccessDenied") {
        built = built.with_hint(
            "both sides must allow it: the caller's policy needs sts:AssumeRole on the role, and the role's trust policy \
             must name the caller (and its external id, if it asks for one)",
        );
    }
    if text.contains("role chaining") {
        built = built
            .with_hint(text!["a role assumed with a role lasts one hour at most: ", Setting::RoleDuration.with(3600)]);
    }
    answer.add_to(built)
}

/// A role that STS did not give for an identity token. `shown` makes STS's own words fit to be shown.
pub(super) fn web_identity_failure(
    operation: &str,
    role: &str,
    origin: &str,
    error: &SdkError<AssumeRoleWithWebIdentityError, HttpResponse>,
    shown: impl Fn(&str) -> String,
) -> Error {
    if error.raw_response().is_none() {
        if let Some(Unanswered(own)) = find(error) {
            return own.clone().stamped(Side::Credentials, operation);
        }
        let retry = if matches!(error, SdkError::TimeoutError(_)) { Retry::Backoff } else { Retry::Never };
        let message = format!("STS could not be asked for the role {role}: {}", reason(error));
        return Error::new(Side::Credentials, operation, message).with_retry(retry);
    }
    let answer = Answer::of(error);
    let code = answer.code.clone().unwrap_or_default();
    let status = answer.status.unwrap_or_default();
    let text = answer.said("STS").map_or_else(|| format!("STS answered {status}"), |text| shown(&text));
    let retry = if status == 408 { Retry::Backoff } else { answer.retry() };
    let message = format!("the role {role} cannot be assumed with the token of {origin}: {text}");
    let mut built = Error::new(Side::Credentials, operation, message).with_retry(retry);
    if (300..400).contains(&status) {
        built = built
            .with_hint("STS never redirects: a proxy or gateway answered in its place, and the token was not accepted");
    }
    if code == "InvalidIdentityToken" {
        built = built.with_hint(
            "the role's account must have an identity provider (IAM, OpenID Connect) for the token's issuer, with the \
             token's audience",
        );
    }
    answer.add_to(built)
}

/// What STS said, if that is the cause.
fn sts_answer(error: &CredentialsError) -> Option<Answer> {
    if let Some(found) = find::<SdkError<AssumeRoleError, HttpResponse>>(error) {
        return Some(Answer::of(found));
    }
    find::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>(error).map(Answer::of)
}

fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    chain(error).find_map(|cause| cause.downcast_ref::<T>())
}

/// The cause in few words: a connection's own sentence, else the innermost text.
pub(super) fn reason(error: &(dyn StdError + 'static)) -> String {
    if let Some(Unanswered(own)) = find(error) {
        return own.message().to_string();
    }
    chain(error).last().unwrap_or(error).to_string()
}

/// `{"__type":"namespace#Name"}`, `{"code":…}` or `<Code>Name</Code>`.
pub(super) fn code_in_body(body: &str) -> Option<String> {
    let code = match serde_json::from_str::<serde_json::Value>(body) {
        Ok(json) => text_of(&json, &["__type", "code", "Code"]),
        Err(_) => element(body, "Code"),
    }?;
    let name = code.rsplit('#').next().unwrap_or(&code);
    Some(name.split(':').next().unwrap_or(name).to_owned())
}

fn message_in_body(body: &str) -> Option<String> {
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(json) => text_of(&json, &["message", "Message", "errorMessage"]),
        Err(_) => element(body, "Message"),
    }
}

fn text_of(json: &serde_json::Value, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| json.get(key)?.as_str()).map(str::to_owned)
}

/// The title of a web page, which may have none. `None` for anything else.
fn page(body: &str) -> Option<String> {
    let start = body.trim_start();
    let start = start[..start.floor_char_boundary(64)].to_ascii_lowercase();
    if !start.starts_with("<!doctype html") && !start.starts_with("<html") {
        return None;
    }
    let lower = body.to_ascii_lowercase();
    let title = lower.find("<title>").and_then(|at| body.get(at + "<title>".len()..)?.split('<').next());
    let plain: String = title.unwrap_or_default().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(cut(&plain.split_whitespace().collect::<Vec<_>>().join(" "), TITLE).replace('"', "'"))
}

/// The text of the first such element. Enough for AWS's flat error documents; no reason for an XML parser.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    Some(plain.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_in_json_and_xml() {
        for (body, code, message) in [
            (
                r#"{"__type":"com.amazon#AccessDeniedException","Message":"no"}"#,
                Some("AccessDeniedException"),
                Some("no"),
            ),
            (r#"{"__type":"ServerException","message":"x"}"#, Some("ServerException"), Some("x")),
            (
                "<?xml version=\"1.0\"?>\n<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>a &amp; b</Message></Error></ErrorResponse>",
                Some("SignatureDoesNotMatch"),
                Some("a & b"),
            ),
            ("<html>502</html>", None, None),
            ("", None, None),
        ] {
            assert_eq!(code_in_body(body).as_deref(), code, "{body}");
            assert_eq!(message_in_body(body).as_deref(), message, "{body}");
        }
    }

    #[test]
    fn the_code_decides_before_the_status() {
        assert_eq!(verdict("ThrottlingException", 400, ""), Retry::Throttled);
        assert_eq!(verdict("ThrottleException", 400, ""), Retry::Throttled);
        assert_eq!(verdict("", 429, ""), Retry::Throttled);
        assert_eq!(verdict("", 400, "Rate exceeded"), Retry::Throttled);
        assert_eq!(verdict("ServerException", 400, ""), Retry::Backoff);
        assert_eq!(verdict("", 502, ""), Retry::Backoff);
        assert_eq!(verdict("RepositoryNotFoundException", 400, ""), Retry::Never);
        assert_eq!(verdict("ValidationError", 400, "Rate exceeded"), Retry::Never);
    }

    #[test]
    fn a_web_page_is_known_by_its_start_and_named_by_its_title() {
        for (body, title) in [
            ("<!DOCTYPE html>\n<html><head><TITLE> Sign\n in \"here\" </TITLE>", Some("Sign in 'here'")),
            ("  <html><body>no title</body></html>", Some("")),
            ("<html", Some("")),
            ("<?xml version=\"1.0\"?><Error><title>x</title></Error>", None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(page(body).as_deref(), title, "{body}");
        }
    }
}
