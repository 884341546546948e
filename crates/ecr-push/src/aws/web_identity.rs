//! A role taken on with the token of an identity provider, as CI systems have one: get a token, show it to STS.
//!
//! Unlike the SDK's own provider, which reads the token from a file: the token is asked for, its claims are logged, and a refusal says what
//! the role's trust policy would have to allow.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_types::SdkConfig;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{CONTENT_LENGTH, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::credentials::DEFAULT_SESSION;
use super::failure;
use super::settings::{IdentityToken, TokenMethod, TokenRequest, WebIdentity};
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::http::Http;
use crate::retry::RetryBudget;

const REQUEST: &str = "request identity token";
const EXCHANGE: &str = "sts:AssumeRoleWithWebIdentity";

/// A token has a few thousand characters.
const LARGEST_ANSWER: usize = 1 << 20;
/// How much of a text from elsewhere is shown.
const LONGEST_TEXT: usize = 300;
/// How long one request for a token may take.
const ONE_TRY: Duration = Duration::from_secs(20);
/// The longest wait that an identity provider is granted. The budget would end before a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Gives the role's credentials; each time with a new token, if tokens can be asked for.
pub(super) struct WebIdentityProvider {
    settings: WebIdentity,
    http: Http,
    sts: aws_sdk_sts::Client,
    retry: RetryBudget,
    events: Events,
    told: AtomicBool,
}

impl WebIdentityProvider {
    /// `sts` has neither credentials (the call is not signed) nor retries (they are made here).
    pub(super) fn new(
        settings: &WebIdentity,
        http: &Http,
        sts: &SdkConfig,
        retry: &RetryBudget,
        events: &Events,
    ) -> Self {
        Self {
            settings: settings.clone(),
            http: http.clone(),
            sts: aws_sdk_sts::Client::new(sts),
            retry: retry.clone(),
            events: events.clone(),
            told: AtomicBool::new(false),
        }
    }

    /// Token and exchange, each tried again within the budget. One token is enough for all tries of the exchange.
    pub(super) async fn obtain(&self) -> Result<Credentials> {
        let token = match &self.settings.token {
            IdentityToken::Text(token) => token.expose_secret().trim().into(),
            IdentityToken::Request(request) => self.retry.run(REQUEST, || self.request(request)).await?,
        };
        self.events.emit(Event::Secret(SecretString::clone(&token)));
        let claims = Claims::of(token.expose_secret());
        if !self.told.swap(true, Ordering::Relaxed) {
            self.events.notice(match &claims {
                Some(claims) => format!("identity token: {claims}"),
                None => "identity token: not a JWT, so its issuer, audience and subject cannot be told".to_owned(),
            });
        }
        self.retry.run(EXCHANGE, || self.exchange(&token, claims.as_ref())).await
    }

    async fn request(&self, request: &TokenRequest) -> Result<SecretString> {
        let unusable = |what: &str| Error::new(Side::Credentials, REQUEST, what);
        let url = Url::parse(&request.url).map_err(|_| unusable("the address for identity tokens is not a URL"))?;
        let mut builder = match request.method {
            TokenMethod::Get => self.http.client().get(url.clone()),
            TokenMethod::Post => self.http.client().post(url.clone()),
        };
        for (name, value) in &request.headers {
            let (name, value) =
                header(name, value).ok_or_else(|| unusable(&format!("the header {name} is damaged")))?;
            builder = builder.header(name, value);
        }
        builder = match (&request.body, request.method) {
            (Some(body), _) => builder.body(body.clone()),
            // The client leaves it out, and many a server refuses a POST without it (411).
            (None, TokenMethod::Post) => builder.header(CONTENT_LENGTH, 0),
            (None, TokenMethod::Get) => builder,
        };
        let started = Instant::now();
        let limit = self.http.first_try(&url, false).unwrap_or(ONE_TRY);
        let unanswered = |error: reqwest::Error| self.http.unanswered(Side::Credentials, REQUEST, &error, &url);
        let answer = builder.timeout(limit).send().await.map_err(unanswered)?;
        self.http.note_answer(&url);
        let status = answer.status();
        tracing::debug!(
            target: "ecr_push::aws",
            method = ?request.method,
            host = url.host_str(),
            operation = REQUEST,
            status = status.as_u16(),
            ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "call"
        );
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body = read(answer).await.map_err(unanswered)?;
        let mut json = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let host = url.host_str().unwrap_or("the identity provider");
        if status.is_success() {
            let token = match json.as_mut().and_then(|json| json.get_mut(&request.field)).map(serde_json::Value::take) {
                Some(serde_json::Value::String(token)) => Zeroizing::new(token),
                _ => Zeroizing::default(),
            };
            return match token.trim() {
                "" => Err(without_token(host, &request.field, status)),
                token => Ok(token.into()),
            };
        }
        let error = refused(host, status, json.as_ref(), &Secrets::of(request, &url));
        Err(match retry_after {
            Some(seconds) => error.with_retry_after(Duration::from_secs(seconds).min(LONGEST_WAIT)),
            None => error,
        })
    }

    async fn exchange(&self, token: &SecretString, claims: Option<&Claims>) -> Result<Credentials> {
        let role = &self.settings.role;
        let call = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(&role.arn)
            .role_session_name(role.session_name.as_deref().unwrap_or(DEFAULT_SESSION))
            // The API takes seconds; the settings' check keeps them to twelve hours.
            .set_duration_seconds(role.duration.and_then(|duration| duration.as_secs().try_into().ok()))
            .web_identity_token(token.expose_secret());
        let answer = call.send().await.map_err(|error| {
            let error = failure::web_identity_failure(EXCHANGE, &role.arn, &self.settings.origin, &error, |text| {
                printable(&text.replace(token.expose_secret(), "***"))
            });
            // Only a refusal by STS itself, which always has a code, is about what the token says.
            let is_refusal = error.retry() == Retry::Never && error.code().is_some();
            match (is_refusal, claims) {
                (false, _) => error,
                (true, Some(claims)) => error.with_hint(format!("the role's trust policy must allow {claims}")),
                (true, None) => error.with_hint("the identity token is not a JWT: is it the right one?"),
            }
        })?;
        let given = answer.credentials().ok_or_else(|| {
            Error::new(Side::Credentials, EXCHANGE, format!("the answer of {EXCHANGE} holds no credentials"))
        })?;
        Ok(Credentials::new(
            given.access_key_id(),
            given.secret_access_key(),
            Some(given.session_token().to_owned()),
            SystemTime::try_from(*given.expiration()).ok(),
            "identity token",
        ))
    }
}

impl fmt::Debug for WebIdentityProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebIdentityProvider").field("origin", &self.settings.origin).finish_non_exhaustive()
    }
}

impl ProvideCredentials for WebIdentityProvider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        // `failure` takes our own error out of the SDK's again.
        future::ProvideCredentials::new(async { self.obtain().await.map_err(CredentialsError::provider_error) })
    }
}

/// A header whose value no log of the client shows.
pub(super) fn header(name: &str, value: &SecretString) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.expose_secret()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

async fn read(mut answer: Response) -> reqwest::Result<Zeroizing<Vec<u8>>> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            break;
        }
    }
    Ok(body)
}

fn without_token(host: &str, field: &str, status: StatusCode) -> Error {
    let error = Error::new(
        Side::Credentials,
        REQUEST,
        format!("{host} answered {} without an identity token: its answer has no `{field}`", status.as_u16()),
    )
    .with_status(status.as_u16());
    match status {
        // Azure DevOps sends its sign-in page so.
        StatusCode::NON_AUTHORITATIVE_INFORMATION => {
            error.with_hint("this is how a sign-in page is sent: the token was not accepted")
        }
        _ => error,
    }
}

fn refused(host: &str, status: StatusCode, json: Option<&serde_json::Value>, secrets: &Secrets) -> Error {
    let number = status.as_u16();
    if status.is_redirection() {
        return Error::new(
            Side::Credentials,
            REQUEST,
            format!("{host} answered the request for an identity token with a redirect ({number}): the token was not accepted"),
        )
        .with_status(number)
        .with_hint(JOB_TOKEN);
    }
    let text = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| json?.get(key)?.as_str()).filter(|text| !text.is_empty())?;
        Some(printable(&secrets.hidden(found)))
    };
    let code = text(&["typeKey", "code", "error", "__type"]);
    let reason = text(&["message", "Message", "error_description"]);
    let mut sentence = format!("{host} refused the request for an identity token with {number}");
    for part in [&code, &reason].into_iter().flatten() {
        sentence = format!("{sentence}: {part}");
    }
    let retry = match number {
        429 => Retry::Throttled,
        408 | 500.. => Retry::Backoff,
        _ => Retry::Never,
    };
    let mut error = Error::new(Side::Credentials, REQUEST, sentence).with_status(number).with_retry(retry);
    if let Some(code) = code {
        error = error.with_code(code);
    }
    match number {
        401 | 403 => error.with_hint(JOB_TOKEN),
        _ => error,
    }
}

const JOB_TOKEN: &str =
    "the job's own token may have expired, or the job may not be allowed to ask for identity tokens";

/// What was sent and must not come back in a sentence.
struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// Shorter ones would blank ordinary words.
    const SHORTEST: usize = 8;

    fn of(request: &TokenRequest, url: &Url) -> Self {
        let headers = request.headers.iter().map(|(_, value)| value.expose_secret());
        // `Bearer TOKEN` may come back as TOKEN.
        let words = headers.flat_map(|value| std::iter::once(value).chain(value.split_whitespace().last()));
        let query = url.query().map(str::to_owned).into_iter();
        let values = url.query_pairs().map(|(_, value)| value.into_owned());
        let all = words.map(str::to_owned).chain(query).chain(values);
        Self(all.filter(|text| text.len() >= Self::SHORTEST).map(Zeroizing::new).collect())
    }

    fn hidden(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// What a token says of itself, for people. It is not checked here: STS does that.
#[derive(Debug, PartialEq, Eq)]
struct Claims {
    issuer: String,
    audience: String,
    subject: String,
}

#[derive(Deserialize)]
struct Payload {
    iss: Option<String>,
    aud: Option<Audience>,
    sub: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    fn of(token: &str) -> Option<Self> {
        let payload = token.split('.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
        let Payload { iss, aud, sub } = serde_json::from_slice(&payload).ok()?;
        let shown = |text: Option<String>| text.map_or_else(|| "(none)".to_owned(), |text| printable(&text));
        let audience = aud.map(|aud| match aud {
            Audience::One(one) => one,
            Audience::Many(many) => many.join(" and "),
        });
        Some(Self { issuer: shown(iss), audience: shown(audience), subject: shown(sub) })
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "issuer {}, audience {}, subject {}", self.issuer, self.audience, self.subject)
    }
}

/// What a token says of itself, in words.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn claims(token: &str) -> Option<String> {
    Claims::of(token).map(|claims| claims.to_string())
}

/// A text from elsewhere, in one short line: it must not be able to look like lines of ours.
fn printable(text: &str) -> String {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric() { c } else { '?' };
    let mut shown: String = text.trim().chars().map(plain).take(LONGEST_TEXT).collect();
    if text.trim().chars().nth(LONGEST_TEXT).is_some() {
        shown.push('…');
    }
    shown
}
