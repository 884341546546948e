//! What the AWS SDK finds in its surroundings: environment, profile files, container and instance metadata.
//!
//! The only file of the library that lets anything read the environment. It builds the SDK's own providers, so that every
//! variable and profile key means what it means elsewhere (ecr-facts 7.1), on our HTTP client.

use std::path::PathBuf;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::{
    ProfileFileCredentialsProvider, ProfileFileLoadError, ProfileFileRegionProvider, ProfileSet,
};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_types::SdkConfig;
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::service_config::ServiceConfigKey;
use secrecy::ExposeSecret;

use super::credentials::{CONTAINER, INSTANCE_METADATA, Source};
use super::profiles::{ProfileFacts, ProfileFiles, gives_credentials};
use super::settings::AwsSettings;
use crate::error::{Error, Result};
use crate::http::{Heard, Http, Names};
use crate::image::Region;

/// The whole look at the instance metadata for the region.
const METADATA_REGION_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Ambient {
    http: Http,
    config: ProviderConfig,
    /// The SDK's clock, sleep and general settings, to build clients from.
    pub(super) sdk: SdkConfig,
    metadata: imds::Client,
    metadata_heard: Heard,
    metadata_disabled: bool,
    /// The region in the profile, as written.
    pub(super) profile_region: Option<String>,
    /// The profiles there are, for the hint about an unknown one.
    pub(super) profiles: Vec<String>,
    /// What is wrong with the profile that is used, if it was meant to give credentials.
    broken_profile: Option<String>,
    /// What is known of that profile.
    profile_facts: ProfileFacts,
    /// The profile's or the environment's own idea of the ECR endpoint.
    pub(super) endpoint_ecr: Option<String>,
    /// The same of STS.
    pub(super) endpoint_sts: Option<String>,
}

impl Ambient {
    /// Reads profile files and endpoint settings; no network.
    pub(super) async fn read(http: &Http, settings: &AwsSettings) -> Result<Self> {
        check_files()?;
        let config = ProviderConfig::without_region()
            .with_http_client(http.smithy())
            .with_behavior_version(Some(BehaviorVersion::latest()))
            .with_retry_config(attempts())
            .with_timeout_config(time_outs())
            .with_use_fips(Some(settings.fips))
            .with_use_dual_stack(Some(settings.dual_stack));

        let mut region = ProfileFileRegionProvider::builder().configure(&config);
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http.smithy())
            // Given, or the loader would read it from the environment, and panic at what it does not understand.
            .retry_config(RetryConfig::standard())
            // Both are found by us; without these lines the loader would look for them now.
            .region(aws_types::region::Region::from_static("us-east-1"))
            .no_credentials();
        if let Some(profile) = &settings.profile {
            region = region.profile_name(profile);
            loader = loader.profile_name(profile);
        }
        let sdk = loader.load().await;
        let endpoint = |service| {
            let key = ServiceConfigKey::builder()
                .service_id(service)
                .env("AWS_ENDPOINT_URL")
                .profile("endpoint_url")
                .build()
                .ok()?;
            sdk.service_config()?.load_config(key)
        };
        let files = aws_config::profile::load(&Fs::real(), &Env::real(), &Default::default(), None).await;
        let broken_profile = broken_profile(&files, settings.profile.as_deref());
        let texts = ProfileFiles::read(profile_files());
        let used = settings.profile.clone().or_else(named_profile).unwrap_or_else(|| "default".to_owned());
        let unreadable = files.as_ref().map_err(|error| super::failure::reason(error));
        let profile_facts = texts.facts(&used, unreadable.as_ref().map(|set| *set).map_err(String::as_str));
        let mut profiles: Vec<String> =
            files.map(|set| set.profiles().map(str::to_owned).collect()).unwrap_or_default();
        profiles.sort();

        let metadata_heard = Heard::default();
        let mut metadata = imds::Client::builder()
            .configure(&config.clone().with_http_client(http.smithy_heard(&metadata_heard)))
            .max_attempts(2)
            .connect_timeout(Duration::from_secs(1))
            .read_timeout(Duration::from_secs(1));
        if let Some(endpoint) = &settings.metadata_endpoint {
            metadata = metadata.endpoint(endpoint).map_err(|error| {
                Error::refused(
                    "find the instance metadata",
                    format!("the metadata endpoint `{endpoint}` is not a URL: {error}"),
                )
            })?;
        }
        Ok(Self {
            http: http.clone(),
            metadata: metadata.build(),
            metadata_heard,
            metadata_disabled: Env::real()
                .get("AWS_EC2_METADATA_DISABLED")
                .is_ok_and(|value| value.eq_ignore_ascii_case("true")),
            profile_region: region.build().region().await.map(|region| region.as_ref().to_owned()),
            profiles,
            broken_profile,
            profile_facts,
            endpoint_ecr: endpoint("ECR"),
            endpoint_sts: endpoint("STS"),
            config,
            sdk,
        })
    }

    /// The region of this machine, or why it is not known.
    pub(super) async fn metadata_region(&self) -> std::result::Result<String, String> {
        if self.metadata_disabled {
            return Err("switched off by AWS_EC2_METADATA_DISABLED".to_owned());
        }
        let asked = self.metadata.get("/latest/meta-data/placement/region");
        match tokio::time::timeout(METADATA_REGION_LIMIT, asked).await {
            Ok(Ok(region)) => Ok(region.as_ref().trim().to_owned()),
            Ok(Err(error)) => Err(super::failure::reason(&error)),
            Err(_) => Err("no answer within 1 s: not on EC2, or hop limit 1 in a container".to_owned()),
        }
    }

    /// The credential sources in the order they are tried. One that the user named stands alone.
    pub(super) fn sources(&self, settings: &AwsSettings, region: &Region) -> Vec<Source> {
        let region = aws_types::region::Region::new(region.to_string());
        let config = self.config.clone().with_region(Some(region));
        // Each on a client of its own, which keeps what the source is answered.
        let listening = || {
            let heard = Heard::default();
            (config.clone().with_http_client(self.http.smithy_heard(&heard)), heard)
        };
        if let Some(keys) = &settings.explicit_keys {
            let token = keys.session_token.as_ref();
            let fixed = Credentials::new(
                &keys.access_key_id,
                keys.secret_access_key.expose_secret(),
                token.map(|token| token.expose_secret().to_owned()),
                None,
                "explicit keys",
            );
            return vec![Source::new(&keys.origin, SharedCredentialsProvider::new(fixed))];
        }
        let (for_profile, heard) = listening();
        let profile = ProfileFileCredentialsProvider::builder().configure(&for_profile);
        if let Some(name) = &settings.profile {
            let provider = SharedCredentialsProvider::new(profile.profile_name(name).build());
            let source = Source::new(&format!("profile `{name}`"), provider).heard(&heard);
            return vec![source.meant(self.broken_profile.clone()).with_facts(self.profile_facts.clone())];
        }
        let mut sources = vec![
            Source::new("environment", SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()))
                .meant(half_a_pair()),
            Source::new("profile files", SharedCredentialsProvider::new(profile.build()))
                .meant(self.broken_profile.clone())
                .with_facts(self.profile_facts.clone())
                .heard(&heard),
        ];
        // The SDK would look for a file of no name.
        if Env::real().get(TOKEN_FILE).is_err() || is_set(TOKEN_FILE) {
            let (config, heard) = listening();
            let provider = WebIdentityTokenCredentialsProvider::builder().configure(&config).build();
            let token_file = Env::real().get(TOKEN_FILE).ok().map(PathBuf::from);
            let facts = ProfileFacts { token_file, ..ProfileFacts::default() };
            let source = Source::new("web identity", SharedCredentialsProvider::new(provider)).heard(&heard);
            sources.push(source.meant(half_an_identity()).with_facts(facts));
        }
        let (for_container, heard) = listening();
        let container = EcsCredentialsProvider::builder().configure(&for_container).dns(Names).build();
        sources.push(Source::new(CONTAINER, SharedCredentialsProvider::new(container)).heard(&heard));
        let instance = ImdsCredentialsProvider::builder().configure(&config).imds_client(self.metadata.clone());
        let instance = SharedCredentialsProvider::new(instance.build());
        sources.push(Source::new(INSTANCE_METADATA, instance).heard(&self.metadata_heard));
        sources
    }
}

/// True if a variable has a value. An empty one counts as none, as everywhere.
fn is_set(name: &str) -> bool {
    Env::real().get(name).is_ok_and(|value| !value.trim().is_empty())
}

/// Half of a key pair in the environment: the other half is lost, and what comes next is not what was meant.
fn half_a_pair() -> Option<String> {
    let (id, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    // The SDK also takes the secret key from a variable of a shorter name, which may be another program's.
    if is_set(id) && !is_set(secret) && !is_set("SECRET_ACCESS_KEY") {
        return Some(format!("{id} is set, and {secret} is not"));
    }
    (is_set(secret) && !is_set(id)).then(|| format!("{secret} is set, and {id} is not"))
}

/// A token without the role that it is for. A role alone means nothing yet: other programs read that variable too.
fn half_an_identity() -> Option<String> {
    let role = "AWS_ROLE_ARN";
    (is_set(TOKEN_FILE) && !is_set(role)).then(|| format!("{TOKEN_FILE} is set, and {role} is not"))
}

const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";

/// Refuses a pipe in the place of a file: it is read more than once, and would be empty, or waited for without end.
fn check_files() -> Result<()> {
    for name in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", TOKEN_FILE] {
        let Ok(path) = Env::real().get(name) else { continue };
        let kind = std::fs::metadata(&path).map(|metadata| metadata.file_type());
        #[cfg(unix)]
        if kind.is_ok_and(|kind| std::os::unix::fs::FileTypeExt::is_fifo(&kind)) {
            return Err(Error::refused(
                "find credentials",
                format!("{name} ({path}) is a pipe, and is read more than once"),
            )
            .with_hint("write it to a file that only you may read"));
        }
        #[cfg(not(unix))]
        drop(kind);
    }
    Ok(())
}

/// The profile that the environment names.
fn named_profile() -> Option<String> {
    Env::real().get("AWS_PROFILE").ok().filter(|name| !name.trim().is_empty())
}

/// Where the profile files are.
fn profile_files() -> [PathBuf; 2] {
    let home = Env::real().get("HOME").or_else(|_| Env::real().get("USERPROFILE")).unwrap_or_default();
    [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")].map(|(variable, file)| {
        match Env::real().get(variable) {
            Ok(path) if !path.trim().is_empty() => path.into(),
            _ => PathBuf::from(&home).join(".aws").join(file),
        }
    })
}

/// What is wrong with the profile that `flag` or the environment names, or the default one.
fn broken_profile(files: &std::result::Result<ProfileSet, ProfileFileLoadError>, flag: Option<&str>) -> Option<String> {
    let set = match files {
        Ok(set) => set,
        Err(error) => return Some(super::failure::reason(error)),
    };
    let named = if flag.is_some() { None } else { named_profile() };
    match (set.get_profile(flag.or(named.as_deref()).unwrap_or("default")), named) {
        (Some(profile), _) => {
            let key = gives_credentials(profile)?;
            Some(format!("the profile `{}` has {key}, and gives no credentials", profile.name()))
        }
        (None, Some(named)) => Some(format!("there is no profile `{named}`, which AWS_PROFILE names")),
        (None, None) => None,
    }
}

/// One more, at once: that is how the SDK learns that the clock of this machine is wrong. What lasts longer is tried again by the caller,
/// within the budget that the push has for everything.
const ATTEMPTS: u32 = 2;
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often the SDK tries by itself.
pub(super) fn attempts() -> RetryConfig {
    RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(LONGEST_WAIT)
}

/// For calls with small bodies: none may hang. The last limit is for all attempts together.
pub(super) fn time_outs() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(crate::http::CONNECT_TIMEOUT)
        .read_timeout(Duration::from_secs(15))
        .operation_timeout(Duration::from_secs(60))
        .build()
}
