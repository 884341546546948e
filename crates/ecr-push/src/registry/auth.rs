//! Credentials for a registry: ECR's token, sent unasked and renewed at half its life; or what docker's config holds,
//! given when the registry asks (distribution specification, token authentication).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::docker_config::Login;
use super::failure;
use crate::error::{Error, Result, Side};
use crate::events::{Event, Events};
use crate::host::Place;
use crate::http::Http;

/// A token as it came from whoever gives tokens out.
pub struct FetchedToken {
    /// `user:password` in base64, as the Basic scheme has it.
    pub basic: SecretString,
    /// How long it is valid from now on, if that is known and lies in the future.
    pub lifetime: Option<Duration>,
}

const GET_TOKEN: &str = "get registry token";

/// The largest answer of a token server.
const LARGEST_ANSWER: usize = 1 << 20;

/// How long a token is used on after a renewal that failed.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Gets a new token.
pub type FetchToken = Arc<dyn Fn() -> BoxFuture<'static, Result<FetchedToken>> + Send + Sync>;

/// How requests to a registry are authenticated. Clones share one credential.
#[derive(Clone)]
pub struct Auth(Arc<Inner>);

struct Inner {
    method: Method,
    current: Mutex<Option<Current>>,
    /// Operations that met a 403 with a fresh credential: that is a missing right, and no other credential will help. Other
    /// operations may still meet an expired one.
    forbidden: std::sync::Mutex<HashSet<&'static str>>,
    /// A request was let in with it, so that a refusal later on means that it was taken back.
    accepted: AtomicBool,
}

impl Inner {
    fn new(method: Method, current: Option<Current>) -> Self {
        let (forbidden, accepted) = (std::sync::Mutex::default(), AtomicBool::new(false));
        Self { method, current: Mutex::new(current), forbidden, accepted }
    }
}

enum Method {
    Token(FetchToken),
    /// The events are told each secret before it is sent.
    Asked(Option<Login>, Events),
}

#[derive(Clone)]
struct Current {
    header: HeaderValue,
    generation: u64,
    fetched: Instant,
    /// When it is to be renewed.
    stale_after: Option<Duration>,
}

impl Current {
    fn is_stale(&self) -> bool {
        self.stale_after.is_some_and(|limit| self.fetched.elapsed() >= limit)
    }
}

/// What goes into the Authorization header.
pub(super) struct Credential {
    pub(super) header: HeaderValue,
    /// Counts the credentials, to tell an old one from the one in use.
    pub(super) generation: u64,
}

impl Auth {
    /// A token that is sent with every request and renewed by `fetch`.
    pub fn token(fetch: FetchToken) -> Self {
        Self::new(Method::Token(fetch))
    }

    /// A login that is given when the registry asks for one.
    pub fn asked(login: Option<Login>, events: &Events) -> Self {
        let told = match &login {
            Some(Login::Password { username, password }) => vec![password.clone(), pair(username, password)],
            Some(Login::IdentityToken(token)) => vec![token.clone()],
            None => Vec::new(),
        };
        told.into_iter().for_each(|secret| tell(events, secret));
        Self::new(Method::Asked(login, events.clone()))
    }

    /// Notes that the registry took the credential. What it gives to everybody is none that could be taken back.
    pub(super) fn note_accepted(&self) {
        self.0.accepted.fetch_or(self.has_login(), Ordering::Relaxed);
    }

    /// True if there is something to log in with.
    pub(super) fn has_login(&self) -> bool {
        !matches!(self.0.method, Method::Asked(None, _))
    }

    /// True if it ever did.
    pub(super) fn was_accepted(&self) -> bool {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// For another repository of the same registry. A token of ECR's is good for all; one that was given out when asked is for one
    /// repository alone.
    pub(super) fn for_sibling(&self) -> Self {
        match &self.0.method {
            // What is refused there says nothing of what is allowed here, so only the token itself is shared.
            Method::Token(fetch) => {
                let current = self.0.current.try_lock().ok().and_then(|current| current.clone());
                Self(Arc::new(Inner::new(Method::Token(Arc::clone(fetch)), current)))
            }
            Method::Asked(login, events) => Self::new(Method::Asked(login.clone(), events.clone())),
        }
    }

    fn new(method: Method) -> Self {
        Self(Arc::new(Inner::new(method, None)))
    }

    pub(super) async fn credential(&self) -> Result<Option<Credential>> {
        let mut current = self.0.current.lock().await;
        let give = |current: &Current| Credential { header: current.header.clone(), generation: current.generation };
        match (&*current, &self.0.method) {
            (Some(known), _) if !known.is_stale() => return Ok(Some(give(known))),
            // A registry that asks is answered when it asks: its challenge says how.
            (_, Method::Asked(..)) => return Ok(None),
            _ => {}
        }
        let Method::Token(fetch) = &self.0.method else { return Ok(None) };
        match (fetch().await, &mut *current) {
            (Ok(token), known) => {
                let generation = known.as_ref().map_or(1, |known| known.generation + 1);
                let fresh = from_token(&token, generation)?;
                let credential = give(&fresh);
                *known = Some(fresh);
                Ok(Some(credential))
            }
            // Half its life is left: better an old token than none. The next try is not made with every request.
            (Err(_), Some(old)) => {
                old.stale_after = Some(old.fetched.elapsed() + RENEWAL_PAUSE);
                Ok(Some(give(old)))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// After `operation` was refused with credential `generation`: gets a new one. False if none would help.
    pub(super) async fn renew(
        &self,
        http: &Http,
        repository: &str,
        operation: &'static str,
        generation: u64,
        status: StatusCode,
        challenges: &[String],
    ) -> Result<bool> {
        if status == StatusCode::FORBIDDEN && self.forbidden().contains(operation) {
            return Ok(false);
        }
        let mut current = self.0.current.lock().await;
        // Somebody else has got a newer one meanwhile; one that is stale by now is not sent, and is no help.
        if current.as_ref().is_some_and(|current| current.generation > generation && !current.is_stale()) {
            return Ok(true);
        }
        let generation = current.as_ref().map_or(generation, |current| current.generation.max(generation));
        match &self.0.method {
            Method::Token(fetch) => {
                *current = Some(from_token(&fetch().await?, generation + 1)?);
                Ok(true)
            }
            Method::Asked(login, events) => {
                if status != StatusCode::UNAUTHORIZED {
                    return Ok(false);
                }
                let Some(fresh) = answer(http, repository, login.as_ref(), challenges, generation + 1, events).await?
                else {
                    return Ok(false);
                };
                *current = Some(fresh);
                Ok(true)
            }
        }
    }

    /// Notes what came of a request with a credential fresh from [`Auth::renew`].
    pub(super) fn judge(&self, operation: &'static str, status: StatusCode) {
        if status == StatusCode::FORBIDDEN {
            self.forbidden().insert(operation);
        }
    }

    fn forbidden(&self) -> std::sync::MutexGuard<'_, HashSet<&'static str>> {
        self.0.forbidden.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn from_token(token: &FetchedToken, generation: u64) -> Result<Current> {
    Ok(Current {
        header: header("Basic", &token.basic)?,
        generation,
        fetched: Instant::now(),
        stale_after: token.lifetime.map(|lifetime| lifetime / 2),
    })
}

pub(super) fn header(scheme: &str, secret: &SecretString) -> Result<HeaderValue> {
    let text = Zeroizing::new(format!("{scheme} {}", secret.expose_secret()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| {
        Error::new(Side::Destination, "authenticate", "the registry's token holds characters that no header may have")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What the Basic scheme makes of a user and a password.
fn pair(username: &str, password: &SecretString) -> SecretString {
    let text = Zeroizing::new(format!("{username}:{}", password.expose_secret()));
    STANDARD.encode(text.as_bytes()).into()
}

fn tell(events: &Events, secret: SecretString) {
    if !secret.expose_secret().is_empty() {
        events.emit(Event::Secret(secret));
    }
}

/// Answers a challenge. `None` if there is nothing to answer with.
async fn answer(
    http: &Http,
    repository: &str,
    login: Option<&Login>,
    challenges: &[String],
    generation: u64,
    events: &Events,
) -> Result<Option<Current>> {
    let current = |header, stale_after| Current { header, generation, fetched: Instant::now(), stale_after };
    if let Some(bearer) = challenges.iter().find_map(|challenge| parse(challenge, "Bearer")) {
        let (token, lifetime) = bearer_token(http, repository, login, &bearer).await?;
        tell(events, token.clone());
        return Ok(Some(current(header("Bearer", &token)?, Some(lifetime / 2))));
    }
    let basic = challenges.iter().any(|challenge| parse(challenge, "Basic").is_some());
    match login {
        Some(Login::Password { username, password }) if basic => {
            Ok(Some(current(header("Basic", &pair(username, password))?, None)))
        }
        _ => Ok(None),
    }
}

/// The parameters of a challenge of `scheme` (RFC 9110 section 11.6.1).
pub(super) fn parse(challenge: &str, scheme: &str) -> Option<Vec<(String, String)>> {
    let (name, rest) = challenge.trim().split_once(' ').unwrap_or((challenge.trim(), ""));
    if !name.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let mut parameters = Vec::new();
    let mut rest = rest.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.push((key.trim().trim_start_matches(',').trim().to_lowercase(), value.to_owned()));
        rest = next.trim_start_matches([',', ' ']);
    }
    Some(parameters)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
    expires_in: Option<u64>,
}

async fn bearer_token(
    http: &Http,
    repository: &str,
    login: Option<&Login>,
    challenge: &[(String, String)],
) -> Result<(SecretString, Duration)> {
    let operation = GET_TOKEN;
    let parameter = |name: &str| parameter(challenge, name);
    let realm = token_server(http, challenge)?;
    let own = format!("repository:{repository}:");
    // A mount also needs the right to pull from the other repository; the challenge names it.
    let asked = parameter("scope").unwrap_or_default().split(' ');
    let others = asked.filter(|scope| !scope.is_empty() && !scope.starts_with(&own)).map(str::to_owned);
    let scopes: Vec<String> = std::iter::once(format!("{own}pull,push")).chain(others).collect();
    let service = parameter("service").unwrap_or_default();
    let request = match login {
        Some(Login::IdentityToken(token)) => {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs([
                    ("grant_type", "refresh_token"),
                    ("client_id", "ecr-push"),
                    ("service", service),
                    ("scope", &scopes.join(" ")),
                    ("refresh_token", token.expose_secret()),
                ])
                .finish();
            let kind = "application/x-www-form-urlencoded";
            http.client().post(realm.clone()).header(http::header::CONTENT_TYPE, kind).body(form)
        }
        other => {
            let mut url = realm.clone();
            url.query_pairs_mut().append_pair("service", service);
            for scope in &scopes {
                url.query_pairs_mut().append_pair("scope", scope);
            }
            let request = http.client().get(url);
            match other {
                Some(Login::Password { username, password }) => {
                    request.basic_auth(username, Some(password.expose_secret()))
                }
                _ => request,
            }
        }
    };
    let limit = http.first_try(&realm, false).unwrap_or(super::ANSWER);
    let response = request.timeout(limit).send().await;
    let response = response.map_err(|error| http.unanswered(Side::Destination, operation, &error, &realm))?;
    http.note_answer(&realm);
    if !response.status().is_success() {
        return Err(failure::refusal(operation, repository, response).await);
    }
    let read = super::whole(response, LARGEST_ANSWER).await;
    let bytes = read.map_err(|error| http.unanswered(Side::Destination, operation, &error, &realm))?;
    let bytes =
        bytes.ok_or_else(|| refused("the token server's answer is over 1 MiB; a token has a few thousand letters"))?;
    token_of(&bytes)
}

fn refused(what: &str) -> Error {
    Error::new(Side::Destination, GET_TOKEN, what)
}

fn parameter<'a>(challenge: &'a [(String, String)], name: &str) -> Option<&'a str> {
    challenge.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Where a challenge says that tokens are given, if a login may go there.
pub(crate) fn token_server(http: &Http, challenge: &[(String, String)]) -> Result<Url> {
    let realm = realm(challenge)?;
    let refuse = |what| refused(&format!("the registry names a token server at {what}; the login is not sent to it"));
    http.admit(&realm).map_err(refuse)?;
    Ok(realm)
}

/// Where a challenge says that tokens are given, as far as the address itself shows.
pub(super) fn realm(challenge: &[(String, String)]) -> Result<Url> {
    let realm = parameter(challenge, "realm")
        .ok_or_else(|| refused("the registry asks for a token but does not say where to get one"))?;
    let realm = Url::parse(realm).map_err(|_| refused("the registry names a token server that is no URL"))?;
    let plain = realm.scheme() == "http" && Place::of_url(&realm) == Place::ThisMachine;
    if realm.scheme() != "https" && !plain {
        return Err(refused("the registry's token server does not use https; the login is not sent to it"));
    }
    Ok(realm)
}

/// The token in a token server's answer, and how long it lives.
pub(super) fn token_of(answer: &[u8]) -> Result<(SecretString, Duration)> {
    let answer: TokenAnswer =
        serde_json::from_slice(answer).map_err(|_| refused("the token server's answer cannot be understood"))?;
    let token =
        answer.token.or(answer.access_token).ok_or_else(|| refused("the token server's answer holds no token"))?;
    // A minute is what the specification says of an answer without a lifetime.
    Ok((token, Duration::from_secs(answer.expires_in.unwrap_or(60).max(60))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn challenges_are_read() {
        let text =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let parameters = parse(text, "Bearer").unwrap();
        assert_eq!(parameters[0], ("realm".into(), "https://auth.example/token".into()));
        assert_eq!(parameters[2], ("scope".into(), "repository:a/b:pull,push".into()));
        assert!(parse(text, "Basic").is_none());
        assert_eq!(parse("Basic realm=x", "basic").unwrap(), [("realm".into(), "x".into())]);
        assert!(parse("Basic", "Basic").unwrap().is_empty());
        assert!(parse("Bearer realm=\"unclosed", "Bearer").is_some());
    }

    /// Gives tokens of `lifetime`; after the first `good` ones it fails.
    fn tokens(lifetime: Option<Duration>, good: usize) -> (Auth, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let fetch: FetchToken = Arc::new(move || {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                if number < good {
                    Ok(FetchedToken { basic: format!("token{number}").into(), lifetime })
                } else {
                    Err(Error::new(Side::Destination, "get token", "the API is down"))
                }
            })
        });
        (Auth::token(fetch), asked)
    }

    async fn sent(auth: &Auth) -> String {
        auth.credential().await.unwrap().unwrap().header.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_token_is_renewed_at_half_its_life() {
        let (auth, asked) = tokens(Some(Duration::from_millis(400)), 9);
        assert_eq!((sent(&auth).await, sent(&auth).await), ("Basic token0".into(), "Basic token0".into()));
        tokio::time::sleep(Duration::from_millis(220)).await;
        assert_eq!(sent(&auth).await, "Basic token1");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_old_token_is_used_on_if_the_renewal_fails_and_that_is_not_tried_with_every_request() {
        let (auth, asked) = tokens(Some(Duration::from_millis(10)), 1);
        assert_eq!(sent(&auth).await, "Basic token0");
        tokio::time::sleep(Duration::from_millis(20)).await;
        for _ in 0..3 {
            assert_eq!(sent(&auth).await, "Basic token0");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_bearer_token_that_went_stale_is_replaced_when_the_registry_asks() {
        let login = Login::Password { username: "u".into(), password: "p".to_owned().into() };
        let auth = Auth::asked(Some(login), &Events::none());
        let challenge = [r#"Basic realm="x""#.to_owned()];
        let http = Http::new(&crate::http::HttpSettings::default()).unwrap();
        let renew =
            |generation| auth.renew(&http, "app", "check blob", generation, StatusCode::UNAUTHORIZED, &challenge);
        assert!(auth.credential().await.unwrap().is_none(), "nothing is sent unasked");
        assert!(renew(0).await.unwrap());
        assert_eq!(auth.credential().await.unwrap().unwrap().generation, 1);
        auth.0.current.lock().await.as_mut().unwrap().stale_after = Some(Duration::ZERO);
        assert!(auth.credential().await.unwrap().is_none(), "stale");
        assert!(renew(0).await.unwrap());
        assert_eq!(auth.credential().await.unwrap().unwrap().generation, 2, "a new one, not the stale one again");
    }

    #[tokio::test]
    async fn a_token_server_that_never_ends_is_not_heard_out() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let sent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let mut sent = stream.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n").await.unwrap();
            // Until nobody listens any more.
            while let Ok(more) = stream.write(&[b' '; 65536]).await {
                sent += more;
                assert!(sent < 64 << 20, "somebody reads it all");
            }
        });
        let http = Http::new(&crate::http::HttpSettings::default()).unwrap();
        let error = bearer_token(&http, "app", None, &[("realm".into(), realm)]).await.unwrap_err();
        assert!(error.message().contains("the token server's answer is over 1 MiB"), "{error}");
        sent.await.unwrap();
    }

    #[tokio::test]
    async fn a_token_of_unknown_life_is_not_asked_for_again() {
        let (auth, asked) = tokens(None, 9);
        for _ in 0..3 {
            assert_eq!(sent(&auth).await, "Basic token0");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
