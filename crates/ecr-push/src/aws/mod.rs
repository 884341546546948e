//! Amazon's side: hosts, region, credentials, the ECR API, and what its refusals mean.
//!
//! The AWS SDK signs, retries and finds credentials; no type of it leaves this folder. `ambient` is the one place in the
//! library that reads the environment: it lets the SDK's credential chain read what it always reads.

mod ambient;
mod credentials;
mod denial;
mod ecr;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hosts;
mod images;
mod layers;
mod profiles;
mod quotas;
mod region;
mod repository;
mod settings;
mod token;
mod web_identity;

pub use denial::{Denial, DenialReason, PolicyKind, Target, denial_error, parse_denial};
pub use ecr::{EcrApi, Identity};
pub use hosts::{Partition, RegistryHost, api_host, is_aws_host, registry_host};
pub use layers::LayerAvailability;
pub use quotas::{PUBLIC_REGISTRY, RATES, Rate, is_quota, quota_hint, throttle_hint};
pub use region::RegionSource;
pub use repository::{Created, Mutability, RepositoryFacts, tag_is_immutable};
pub use settings::{AwsSettings, IdentityToken, Keys, RoleSettings, TokenMethod, TokenRequest, WebIdentity};
pub use token::Token;

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests_api;
#[cfg(test)]
mod tests_chain;
#[cfg(test)]
mod tests_web_identity;
