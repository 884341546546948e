//! Choosing the credentials: the first source that has any, the role taken on with them, and the account of it for people.
//!
//! The order and the rules are the SDK's: a source that has nothing is skipped, a source that fails stops the search, so
//! that a broken profile never turns into the rights of the machine. Later renewals stay with the source once chosen.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::sts::AssumeRoleProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_types::SdkConfig;

use super::failure::{self, reason};
use super::profiles::ProfileFacts;
use super::settings::{AwsSettings, RoleSettings, WebIdentity, check_key, last_four};
use super::web_identity::WebIdentityProvider;
use crate::error::{Error, Result, Retry, Side};
use crate::events::{Event, Events};
use crate::http::{Heard, Last};
use crate::retry::RetryBudget;
use crate::text;
use crate::text::Setting;

const OPERATION: &str = "find credentials";
const MEND_FILE: &str = "correct that line: none of the profiles can be read until then";
const MEND_TOKEN: &str = "have the job or the pod write its token there, or correct the path";

/// For one try of the first credentials, and each renewal: a process or an identity provider may take its time.
pub(super) const CREDENTIALS_LIMIT: Duration = Duration::from_secs(65);
pub(super) const CONTAINER: &str = "container";
pub(super) const INSTANCE_METADATA: &str = "instance metadata";
pub(super) const DEFAULT_SESSION: &str = "ecr-push";

const BAD_CONTAINER: &str = "the credentials from container cannot be used: the address in \
     AWS_CONTAINER_CREDENTIALS_FULL_URI or AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, or the token beside it, is not one that may be used";
const CONTAINER_RULE: &str = "the address is https, or http to this machine or to the container service's own; the token \
     (AWS_CONTAINER_AUTHORIZATION_TOKEN, or the file in AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE) is one line";

/// One place credentials may come from.
pub(super) struct Source {
    known: Known,
    provider: SharedCredentialsProvider,
    /// Why it gives none although it was meant to.
    broken: Option<String>,
}

/// What is known of a source, for its errors.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    /// What its last request came to.
    heard: Heard,
    facts: ProfileFacts,
}

impl Source {
    pub(super) fn new(name: &str, provider: SharedCredentialsProvider) -> Self {
        let known = Known { name: name.to_owned(), heard: Heard::default(), facts: ProfileFacts::default() };
        Self { known, provider, broken: None }
    }

    /// The same, whose requests are kept in `heard`.
    pub(super) fn heard(mut self, heard: &Heard) -> Self {
        self.known.heard = heard.clone();
        self
    }

    /// The same, which is not skipped if it is `broken`.
    pub(super) fn meant(self, broken: Option<String>) -> Self {
        Self { broken, ..self }
    }

    /// The same, of which more is known.
    pub(super) fn with_facts(mut self, facts: ProfileFacts) -> Self {
        self.known.facts = facts;
        self
    }
}

impl Known {
    /// Its name, and where it is written.
    fn shown(&self) -> String {
        match &self.facts.place {
            Some(place) => format!("{} ({place})", self.name),
            None => self.name.clone(),
        }
    }

    /// The error of credentials that it has and cannot give. `last` is what its last request came to.
    fn failure(&self, error: &CredentialsError, last: Option<Last>) -> Error {
        if let Some(own) = failure::own(error) {
            return own;
        }
        // The SDK's own words have the whole address, which is a secret.
        if self.name == CONTAINER && matches!(error, CredentialsError::InvalidConfiguration(_)) {
            return Error::new(Side::Credentials, OPERATION, BAD_CONTAINER).with_hint(CONTAINER_RULE);
        }
        let is_unanswered = matches!(last, Some(Last::Unanswered(_)));
        // Its address and its token are secrets, and an agent may repeat them in any form.
        let last = match last {
            Some(Last::Refused { status, .. }) if self.name == CONTAINER => {
                Some(Last::Refused { status, body: Vec::new() })
            }
            last => last,
        };
        let built = failure::credentials_failure(OPERATION, &self.shown(), error, last);
        // The service has said what it is, or nobody could ask it.
        if is_unanswered || built.status().is_some() || built.retry() != Retry::Never {
            return built;
        }
        let lost = |path: &PathBuf| match std::fs::metadata(path) {
            Ok(_) => None,
            Err(error) => Some(format!("the identity token's file {} cannot be read: {error}", path.display())),
        };
        let why = self.facts.unreadable.clone().or_else(|| self.facts.token_file.as_ref().and_then(lost));
        match (why, &self.facts.sso_login) {
            (Some(why), _) => {
                // The place of the profile is not that of the fault.
                let text = format!("the credentials from {} cannot be used: {why}", self.name);
                let hint = if self.facts.unreadable.is_some() { MEND_FILE } else { MEND_TOKEN };
                Error::new(Side::Credentials, OPERATION, text).with_hint(hint)
            }
            (None, Some(profile)) => built.with_hint(format!("log in: aws sso login --profile {profile}")),
            (None, None) if self.facts.place.is_some() => built.with_hint("correct the profile, or choose another one"),
            (None, None) => built,
        }
    }
}

/// The outcome of the search.
#[derive(Debug)]
pub(super) struct Chosen {
    /// For people, without secrets: `environment (key …MPLE)`.
    pub(super) description: String,
    /// Each source skipped, with its reason.
    pub(super) skipped: Vec<String>,
    pub(super) provider: SharedCredentialsProvider,
}

/// The first source that has credentials. What may pass is tried again within the budget.
pub(super) async fn choose(
    sources: Vec<Source>,
    settings: &AwsSettings,
    known_profiles: &[String],
    retry: &RetryBudget,
    events: &Events,
) -> Result<Chosen> {
    let mut skipped = Vec::new();
    for source in sources {
        let provider = source.provider.clone();
        let provider = match settings.explicit_keys {
            // The caller had them first.
            Some(_) => provider,
            None => Announced::over(provider, events, Some(source.known.clone())),
        };
        let given = retry.run_unhurried(OPERATION, || ask(&source.known, &provider)).await;
        let given = match given {
            Ok(given) => given,
            Err(error) if source.known.name == INSTANCE_METADATA => {
                skipped.push(format!("{}: {error}", source.known.name));
                continue;
            }
            Err(error) => return Err(with_skipped(error, &skipped)),
        };
        match given {
            Ok(first) => {
                check_key(&source.known.name, first.access_key_id(), first.session_token())?;
                return Ok(Chosen {
                    description: describe(&source.known.name, &first),
                    skipped,
                    provider: SharedCredentialsProvider::new(First::new(first, provider)),
                });
            }
            Err(ref error @ CredentialsError::CredentialsNotLoaded(_)) if source.broken.is_some() => {
                let mut why = source.broken.clone().unwrap_or_default();
                if std::error::Error::source(error).is_some() {
                    why = format!("{why} ({})", reason(error));
                }
                let text = format!("the credentials from {} cannot be used: {why}", source.known.shown());
                let hint = "correct it or remove it: the next source would have other rights";
                return Err(with_skipped(Error::new(Side::Credentials, OPERATION, text).with_hint(hint), &skipped));
            }
            Err(error) => {
                let reason = why_skipped(&source.known.name, &error);
                tracing::debug!(source = source.known.name, reason, "no credentials");
                skipped.push(format!("{}: {reason}", source.known.name));
            }
        }
    }
    Err(none_found(settings, &skipped, known_profiles))
}

/// Asks a source once. The inner error is that of a source that has none, and may be skipped.
async fn ask(known: &Known, provider: &SharedCredentialsProvider) -> Result<provider::Result> {
    let Ok(given) = tokio::time::timeout(CREDENTIALS_LIMIT, provider.provide_credentials()).await else {
        let text =
            format!("the credentials from {} did not come within {} s", known.shown(), CREDENTIALS_LIMIT.as_secs());
        return Err(Error::new(Side::Credentials, OPERATION, text));
    };
    let Err(error) = given else { return Ok(given) };
    if !is_skipped(&known.name, &error) {
        return Err(known.failure(&error, None));
    }
    // A metadata service that is there and busy. It is not worth the whole budget: what answers may be none.
    let last = known.heard.take();
    let busy = matches!(last, Some(Last::Refused { status: 429 | 500.., .. }));
    match busy {
        true => Err(known.failure(&error, last).with_retry(Retry::Brief)),
        false => Ok(Err(error)),
    }
}

/// Takes on the role with the chosen credentials. Once, at once: a role that cannot be had must not be found out later.
pub(super) async fn assume(
    role: &RoleSettings,
    base: Chosen,
    sts: &SdkConfig,
    retry: &RetryBudget,
    events: &Events,
) -> Result<Chosen> {
    let session = role.session_name.as_deref().unwrap_or(DEFAULT_SESSION);
    let mut builder = AssumeRoleProvider::builder(&role.arn).session_name(session).configure(sts);
    if let Some(id) = &role.external_id {
        builder = builder.external_id(id);
    }
    if let Some(duration) = role.duration {
        builder = builder.session_length(duration);
    }
    let provider = SharedCredentialsProvider::new(builder.build_from_provider(base.provider).await);
    let provider = Announced::over(provider, events, None);
    let first = retry
        .run("assume role", || async {
            let given = provider.provide_credentials().await;
            given.map_err(|error| failure::role_failure(&role.arn, &base.description, &error))
        })
        .await?;
    Ok(Chosen {
        description: format!("role {} (assumed with {})", role.arn, base.description),
        skipped: base.skipped,
        provider: SharedCredentialsProvider::new(First::new(first, provider)),
    })
}

/// Takes on the role with an identity token. Once, at once, and nothing else is tried.
pub(super) async fn assume_with_token(
    web_identity: &WebIdentity,
    provider: WebIdentityProvider,
    events: &Events,
) -> Result<Chosen> {
    let first = provider.obtain().await?;
    announce(&first, events);
    let provider = Announced::over(SharedCredentialsProvider::new(provider), events, None);
    Ok(Chosen {
        description: format!("role {} (assumed with a token of {})", web_identity.role.arn, web_identity.origin),
        skipped: Vec::new(),
        provider: SharedCredentialsProvider::new(First::new(first, provider)),
    })
}

fn describe(source: &str, credentials: &Credentials) -> String {
    format!("{source} (key {})", last_four(credentials.access_key_id()))
}

/// Nobody configures the instance metadata, and nothing comes after it: whatever it says, there are no credentials. Many
/// sandboxes and clouds answer on its address with a 403 of their own.
fn is_skipped(source: &str, error: &CredentialsError) -> bool {
    matches!(error, CredentialsError::CredentialsNotLoaded(_)) || source == INSTANCE_METADATA
}

/// The SDK's own words are too short for some of the sources.
fn why_skipped(source: &str, error: &CredentialsError) -> String {
    let bare = std::error::Error::source(error).is_none();
    match source {
        "profile files" if bare => {
            "no credentials in ~/.aws/config and ~/.aws/credentials (profile `default`, or AWS_PROFILE)".to_owned()
        }
        profile if bare => format!("{profile} holds none"),
        "environment" => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set".to_owned(),
        CONTAINER => {
            "neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor AWS_CONTAINER_CREDENTIALS_FULL_URI is set".to_owned()
        }
        INSTANCE_METADATA => {
            format!("{} (not on EC2, no role on the instance, or hop limit 1 in a container)", reason(error))
        }
        _ => reason(error),
    }
}

fn with_skipped(error: Error, skipped: &[String]) -> Error {
    skipped.iter().fold(error, |error, line| error.with_note(format!("skipped {line}")))
}

fn none_found(settings: &AwsSettings, skipped: &[String], known_profiles: &[String]) -> Error {
    let Some(profile) = &settings.profile else {
        let error = Error::new(Side::Credentials, OPERATION, "no AWS credentials were found").with_hint(text![
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile with ",
            Setting::Profile
        ]);
        return with_skipped(error, skipped);
    };
    let known = known_profiles.iter().any(|name| name == profile);
    if known {
        return Error::new(Side::Credentials, OPERATION, format!("the profile `{profile}` gives no credentials"))
            .with_hint(text!["give the profile credentials, or choose another one with ", Setting::Profile])
            .with_note(skipped.join("; "));
    }
    let list = match known_profiles {
        [] => "there are no profiles in the AWS configuration files".to_owned(),
        names => format!("the profiles here are: {}", names.join(", ")),
    };
    Error::new(Side::Credentials, OPERATION, format!("there is no profile `{profile}`"))
        .with_hint(text!["choose one that there is with ", Setting::Profile])
        .with_note(list)
}

/// Tells each set of temporary credentials before anybody uses it, renewals included. Lasting keys are not told: whoever
/// keeps them knows them.
///
/// A failure of one of the SDK's own sources is turned into ours here, where it is known what the service answered: a renewal in the middle
/// of a push is tried again by the same rule as the first credentials.
#[derive(Debug)]
struct Announced {
    source: SharedCredentialsProvider,
    events: Events,
    /// What is known of the source.
    known: Option<Known>,
}

impl Announced {
    fn over(source: SharedCredentialsProvider, events: &Events, known: Option<Known>) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Self { source, events: events.clone(), known })
    }

    fn explained(&self, error: CredentialsError) -> CredentialsError {
        match &self.known {
            Some(known) if !is_skipped(&known.name, &error) => {
                CredentialsError::provider_error(known.failure(&error, known.heard.take()))
            }
            _ => error,
        }
    }
}

impl ProvideCredentials for Announced {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let given = self.source.provide_credentials().await;
            let credentials = given.map_err(|error| self.explained(error))?;
            announce(&credentials, &self.events);
            Ok(credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.source.fallback_on_interrupt()
    }
}

fn announce(credentials: &Credentials, events: &Events) {
    let Some(session_token) = credentials.session_token() else { return };
    for secret in [credentials.access_key_id(), credentials.secret_access_key(), session_token] {
        if !secret.is_empty() {
            events.emit(Event::Secret(secret.into()));
        }
    }
}

/// Gives the credentials already at hand first, then asks the source again. Saves the second of two calls to STS, and
/// leaves renewal to the SDK's cache.
struct First {
    first: Mutex<Option<Credentials>>,
    then: SharedCredentialsProvider,
}

impl First {
    fn new(first: Credentials, then: SharedCredentialsProvider) -> Self {
        Self { first: Mutex::new(Some(first)), then }
    }
}

impl fmt::Debug for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("First")
    }
}

impl ProvideCredentials for First {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let ready = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ready {
            Some(credentials) => future::ProvideCredentials::ready(Ok(credentials)),
            None => self.then.provide_credentials(),
        }
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.then.fallback_on_interrupt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Debug)]
    struct Fake(fn() -> provider::Result, Arc<AtomicU32>);

    impl ProvideCredentials for Fake {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.1.fetch_add(1, Ordering::SeqCst);
            future::ProvideCredentials::ready((self.0)())
        }
    }

    fn source(name: &str, calls: &Arc<AtomicU32>, answer: fn() -> provider::Result) -> Source {
        Source::new(name, SharedCredentialsProvider::new(Fake(answer, Arc::clone(calls))))
    }

    fn budget() -> RetryBudget {
        RetryBudget::new(Duration::from_secs(1), Events::none())
    }

    fn nothing() -> provider::Result {
        Err(CredentialsError::not_loaded("nothing here"))
    }

    fn broken() -> provider::Result {
        Err(CredentialsError::invalid_configuration("the file is damaged"))
    }

    fn keys() -> provider::Result {
        Ok(Credentials::new("AKIAIOSFODNN7EXAMPLE", "geheim", None, None, "test"))
    }

    #[tokio::test]
    async fn the_first_source_that_has_credentials_wins_and_is_asked_again_for_renewal() {
        let calls = Arc::default();
        let settings = AwsSettings::default();
        let sources = vec![source("profile files", &calls, nothing), source("web identity", &calls, keys)];
        let chosen = choose(sources, &settings, &[], &budget(), &Events::none()).await.unwrap();
        assert_eq!(chosen.description, "web identity (key …MPLE)");
        assert_eq!(chosen.skipped, ["profile files: nothing here"]);
        assert!(!format!("{chosen:?}").contains("geheim"));
        for expected in [2, 3] {
            chosen.provider.provide_credentials().await.unwrap();
            assert_eq!(calls.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test]
    async fn a_source_that_fails_stops_the_search() {
        let (calls, unused) = (Arc::default(), Arc::default());
        let sources = vec![
            source("environment", &calls, nothing),
            source("profile files", &calls, broken),
            source("instance metadata", &unused, keys),
        ];
        let error = choose(sources, &AwsSettings::default(), &[], &budget(), &Events::none()).await.unwrap_err();
        assert_eq!(error.side(), Side::Credentials);
        assert!(error.message().contains("profile files"), "{error}");
        assert!(error.message().contains("the file is damaged"), "{error}");
        assert!(error.notes()[0].contains("AWS_ACCESS_KEY_ID"));
        assert_eq!(unused.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn without_credentials_each_source_is_listed_with_its_reason() {
        let calls = Arc::default();
        let sources = ["environment", "profile files", "web identity", "container", "instance metadata"]
            .map(|name| source(name, &calls, nothing));
        let error = choose(sources.into(), &AwsSettings::default(), &[], &budget(), &Events::none()).await.unwrap_err();
        assert_eq!((error.hints().len(), error.notes().len()), (1, 5));
        assert!(error.notes()[4].starts_with("skipped instance metadata: nothing here"));
    }

    #[tokio::test]
    async fn an_unknown_profile_is_told_with_those_there_are() {
        let settings = AwsSettings { profile: Some("prod".into()), ..AwsSettings::default() };
        let calls = Arc::default();
        let sources = || vec![source("profile `prod`", &calls, nothing)];
        let error = choose(sources(), &settings, &["default".into(), "production".into()], &budget(), &Events::none())
            .await
            .unwrap_err();
        assert_eq!(error.message(), "there is no profile `prod`");
        assert_eq!(error.notes(), ["the profiles here are: default, production"]);
        let error = choose(sources(), &settings, &["prod".into()], &budget(), &Events::none()).await.unwrap_err();
        assert!(error.message().contains("gives no credentials"));
    }
}
