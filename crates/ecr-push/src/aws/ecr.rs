//! The ECR API, as far as a push needs it, and the one question to STS.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::identity::IdentityCache;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_smithy_runtime_api::client::identity::SharedIdentityCache;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_types::SdkConfig;
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use super::ambient::{Ambient, attempts, time_outs};
use super::credentials::{self, Chosen};
use super::denial::Target;
use super::failure::{self, Call};
use super::hosts;
use super::region::{self, RegionSource};
use super::settings::{AwsSettings, check_endpoint};
use super::web_identity::WebIdentityProvider;
use crate::error::{Error, Result, Retry, Side};
use crate::events::Events;
use crate::http::Http;
use crate::image::{AccountId, Region, RepositoryName};
use crate::retry::RetryBudget;

/// Who we are is nice to know, never worth waiting for.
const IDENTITY_LIMIT: Duration = Duration::from_secs(2);

/// A connection to ECR in one region with one set of credentials. Clones share both.
#[derive(Clone)]
pub struct EcrApi {
    client: Arc<Mutex<aws_sdk_ecr::Client>>,
    /// The service has accepted the credentials.
    accepted: Arc<AtomicBool>,
    sts: aws_sdk_sts::Client,
    region: Region,
    region_source: RegionSource,
    credentials: String,
    skipped: Vec<String>,
    endpoint: Option<String>,
    pub(super) events: Events,
    fips: bool,
    dual_stack: bool,
    /// See [`AwsSettings::creates_repository`].
    pub(crate) creates: bool,
}

/// Who the credentials belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The account.
    pub account: AccountId,
    /// The user or assumed role.
    pub arn: String,
}

impl EcrApi {
    /// Finds region and credentials. Speaks to nobody but the sources of these (files, metadata, an identity provider,
    /// STS), each within `retry`. `events` hears every secret that is received, now and later.
    pub async fn connect(http: &Http, settings: &AwsSettings, retry: &RetryBudget, events: &Events) -> Result<Self> {
        settings.check()?;
        let ambient = Ambient::read(http, settings).await?;
        let endpoints = Endpoints::find(settings, &ambient)?;
        let (region, region_source) = region::find(settings, &ambient).await?;
        tracing::debug!(%region, from = %region_source, "region");

        let shared = shared_config(&ambient, settings, &region);
        let mut chosen = match &settings.web_identity {
            Some(web_identity) => {
                let sts = unsigned(&shared, endpoints.sts.as_deref());
                let provider = WebIdentityProvider::new(web_identity, http, &sts, retry, events);
                credentials::assume_with_token(web_identity, provider, events).await?
            }
            None => {
                let sources = ambient.sources(settings, &region);
                credentials::choose(sources, settings, &ambient.profiles, retry, events).await?
            }
        };
        if let Some(role) = &settings.role {
            let sts = for_service(&shared, endpoints.sts.as_deref(), &chosen);
            chosen = credentials::assume(role, chosen, &sts, retry, events).await?;
        }
        tracing::debug!(source = chosen.description, "credentials");

        let ecr = for_service(&shared, endpoints.ecr.as_deref(), &chosen);
        let ecr = aws_sdk_ecr::config::Builder::from(&ecr).retry_classifier(ThrottleException);
        let sts = for_service(&shared, endpoints.sts.as_deref(), &chosen);
        Ok(Self {
            client: Arc::new(Mutex::new(aws_sdk_ecr::Client::from_conf(ecr.build()))),
            accepted: Arc::default(),
            sts: aws_sdk_sts::Client::new(&sts),
            region,
            region_source,
            credentials: chosen.description,
            skipped: chosen.skipped,
            endpoint: endpoints.ecr,
            events: events.clone(),
            fips: settings.fips,
            dual_stack: settings.dual_stack,
            creates: settings.creates_repository,
        })
    }

    pub(super) fn client(&self) -> aws_sdk_ecr::Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note_accepted(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// After credentials that were good are refused: whoever gave them is asked anew, for they may have been replaced. False if they
    /// never were good, so that nothing else is to be expected.
    pub(super) fn ask_for_credentials_again(&self, error: &Error) -> bool {
        let replaced = matches!(
            error.code(),
            Some("UnrecognizedClientException" | "InvalidClientTokenId" | "ExpiredTokenException" | "ExpiredToken")
        );
        if !replaced || !self.accepted.swap(false, Ordering::Relaxed) {
            return false;
        }
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = client.config().to_builder().identity_cache(identity_cache()).build();
        *client = aws_sdk_ecr::Client::from_conf(fresh);
        true
    }

    /// The region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Where the region came from.
    pub fn region_source(&self) -> &RegionSource {
        &self.region_source
    }

    /// Which credentials are used, without secrets: `environment (key …MPLE)`.
    pub fn credential_source(&self) -> String {
        self.credentials.clone()
    }

    /// The credential sources tried before, each with the reason it was skipped.
    pub fn skipped_sources(&self) -> &[String] {
        &self.skipped
    }

    /// The endpoint of the API, where it is not AWS's own.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_deref()
    }

    /// Is the API somewhere else than AWS has it? Then the registry address is `proxyEndpoint` verbatim.
    pub fn endpoint_overridden(&self) -> bool {
        self.endpoint.is_some()
    }

    /// The host of the API, for people.
    pub fn api_host(&self) -> String {
        let given = self.endpoint.as_deref().and_then(|url| url.split("//").nth(1));
        match given {
            Some(host) => host.trim_end_matches('/').to_owned(),
            None => hosts::api_host(&self.region, self.fips, self.dual_stack),
        }
    }

    /// Who we are. Regional STS, two seconds; callers treat a failure as "not known".
    pub async fn caller_identity(&self) -> Result<Identity> {
        const OPERATION: &str = "sts:GetCallerIdentity";
        let failed = |text: &str| Error::new(Side::Credentials, OPERATION, text).with_retry(Retry::Never);
        let asked = self.sts.get_caller_identity().send();
        let answer = tokio::time::timeout(IDENTITY_LIMIT, asked)
            .await
            .map_err(|_| failed("STS did not answer within two seconds"))?
            .map_err(|error| failure::map(&self.call(OPERATION, None, None), &error))?;
        Ok(Identity {
            account: answer.account().unwrap_or_default().parse()?,
            arn: answer.arn().unwrap_or_default().to_owned(),
        })
    }

    pub(super) fn call<'a>(
        &'a self,
        operation: &'a str,
        account: Option<&AccountId>,
        repository: Option<&RepositoryName>,
    ) -> Call<'a> {
        Call {
            operation,
            service: match operation.starts_with("sts:") {
                true => "STS".to_owned(),
                false => self.api_host(),
            },
            credentials: &self.credentials,
            target: Target {
                region: self.region.clone(),
                account: account.cloned(),
                repository: repository.cloned(),
                creates: self.creates,
            },
        }
    }
}

impl fmt::Debug for EcrApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EcrApi")
            .field("region", &self.region)
            .field("credentials", &self.credentials)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Where the services are, if not where AWS has them.
struct Endpoints {
    ecr: Option<String>,
    sts: Option<String>,
}

impl Endpoints {
    /// Flag, environment, profile. A profile's are checked only here, the others again.
    fn find(settings: &AwsSettings, ambient: &Ambient) -> Result<Self> {
        let first = |places: &[&Option<String>]| {
            let mut urls = places.iter().filter_map(|place| place.as_deref());
            urls.find(|url| !url.is_empty()).map(str::to_owned)
        };
        let found = Self {
            ecr: first(&[&settings.endpoint_url, &settings.endpoint_url_ecr, &ambient.endpoint_ecr]),
            sts: first(&[&settings.endpoint_url_sts, &ambient.endpoint_sts]),
        };
        for url in [&found.ecr, &found.sts].into_iter().flatten() {
            check_endpoint(url)?;
        }
        settings.check_override(found.ecr.is_some() || found.sts.is_some())?;
        Ok(found)
    }
}

/// The common settings with one service's endpoint and the credentials.
fn for_service(shared: &SdkConfig, endpoint: Option<&str>, chosen: &Chosen) -> SdkConfig {
    let mut builder = shared.to_builder();
    builder.set_endpoint_url(endpoint.map(str::to_owned));
    builder.credentials_provider(chosen.provider.clone()).build()
}

/// For the one call that an identity token takes the place of credentials in. It is tried again by its caller, within a
/// budget that the SDK does not know.
fn unsigned(shared: &SdkConfig, endpoint: Option<&str>) -> SdkConfig {
    let mut builder = shared.to_builder().retry_config(RetryConfig::disabled());
    builder.set_endpoint_url(endpoint.map(str::to_owned));
    builder.build()
}

/// What ECR and STS clients have in common. Region, endpoint and credentials come from us alone.
fn shared_config(ambient: &Ambient, settings: &AwsSettings, region: &Region) -> SdkConfig {
    let mut limits = time_outs();
    if settings.web_identity.is_some() {
        // The SDK counts a renewal as a part of the call that waits for it.
        let whole = limits.operation_timeout().unwrap_or_default() + credentials::CREDENTIALS_LIMIT;
        limits = limits.to_builder().operation_timeout(whole).build();
    }
    ambient
        .sdk
        .to_builder()
        .service_config(Nothing)
        .region(aws_types::region::Region::new(region.to_string()))
        .use_fips(settings.fips)
        .use_dual_stack(settings.dual_stack)
        .retry_config(attempts())
        .timeout_config(limits)
        // Our own client has time limits, and says which host broke them.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Renews temporary credentials before they expire. A credential process or SSO may take its time.
        .identity_cache(identity_cache())
        .build()
}

fn identity_cache() -> SharedIdentityCache {
    IdentityCache::lazy().load_timeout(credentials::CREDENTIALS_LIMIT).build()
}

/// No look-up of endpoints behind our back: they are chosen in `connect`.
#[derive(Debug)]
struct Nothing;

impl LoadServiceConfig for Nothing {
    fn load_config(&self, _key: ServiceConfigKey<'_>) -> Option<String> {
        None
    }
}

/// The SDK's list of throttling codes lacks the name in ECR's user guide (ecr-facts 7.3).
#[derive(Debug)]
struct ThrottleException;

impl ClassifyRetry for ThrottleException {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let throttled = context.response().is_some_and(|response| {
            let body = response.body().bytes().unwrap_or_default();
            !response.status().is_success()
                && failure::code_in_body(&String::from_utf8_lossy(body)).is_some_and(|code| code == "ThrottleException")
        });
        match throttled {
            true => RetryAction::throttling_error(),
            false => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "ecr-push: ThrottleException"
    }
}
