//! What the user asked of AWS. Filled by the command line, which alone reads flags and our share of the environment.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use secrecy::SecretString;

use super::hosts::is_aws_host;
use super::region;
use crate::error::{Error, Result};
use crate::image::Region;

/// The settings. Everything may be left out.
#[derive(Clone, Debug, Default)]
pub struct AwsSettings {
    /// `--region`.
    pub region: Option<Region>,
    /// The region in an ECR host the user gave.
    pub region_from_host: Option<Region>,
    /// Values of `AWS_REGION` and `AWS_DEFAULT_REGION` with their names, in this order; unset ones left out.
    pub environment_regions: Vec<(&'static str, String)>,
    /// `--profile`. Only this profile is used then. `AWS_PROFILE` is read by the SDK's chain.
    pub profile: Option<String>,
    /// `--role-arn` and its companions: a role taken on with whatever the chain gives.
    pub role: Option<RoleSettings>,
    /// `--endpoint-url`: the ECR API.
    pub endpoint_url: Option<String>,
    /// `AWS_ENDPOINT_URL_ECR`, else `AWS_ENDPOINT_URL`.
    pub endpoint_url_ecr: Option<String>,
    /// `AWS_ENDPOINT_URL_STS`, else `AWS_ENDPOINT_URL`.
    pub endpoint_url_sts: Option<String>,
    /// `--fips` or `AWS_USE_FIPS_ENDPOINT`.
    pub fips: bool,
    /// `--dualstack` or `AWS_USE_DUALSTACK_ENDPOINT`.
    pub dual_stack: bool,
    /// Keys given outright (task variables, a service connection). Only these are used then.
    pub explicit_keys: Option<Keys>,
    /// The instance metadata service, if not where the SDK looks for it (tests).
    pub metadata_endpoint: Option<String>,
}

/// A role to take on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleSettings {
    /// `--role-arn`.
    pub arn: String,
    /// `--role-session-name`; `ecr-push` if unset.
    pub session_name: Option<String>,
    /// `--external-id`.
    pub external_id: Option<String>,
    /// `--role-duration-seconds`, 900 to 43200; the service's default (one hour) if unset.
    pub duration: Option<Duration>,
}

/// An access key.
#[derive(Clone)]
pub struct Keys {
    /// Where they come from, for people: `the service connection "prod"`.
    pub origin: String,
    /// The key id.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: SecretString,
    /// The session token of temporary keys.
    pub session_token: Option<SecretString>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("origin", &self.origin)
            .field("access_key_id", &last_four(&self.access_key_id))
            .finish_non_exhaustive()
    }
}

/// A key id for people: enough to tell two keys apart.
pub(super) fn last_four(key_id: &str) -> String {
    let tail: Vec<char> = key_id.chars().rev().take(4).collect();
    format!("…{}", tail.into_iter().rev().collect::<String>())
}

impl AwsSettings {
    /// Refuses what contradicts itself. Called by `EcrApi::connect`; a caller may call it before any other work.
    pub fn check(&self) -> Result<()> {
        region::from_settings(self)?;
        let endpoints = [&self.endpoint_url, &self.endpoint_url_ecr, &self.endpoint_url_sts];
        // An empty variable is an unset one.
        let given: Vec<&String> = endpoints.into_iter().flatten().filter(|url| !url.is_empty()).collect();
        for url in &given {
            check_endpoint(url)?;
        }
        self.check_override(!given.is_empty())?;
        if let Some(role) = &self.role {
            role.check()?;
        }
        if self.explicit_keys.is_some() && self.profile.is_some() {
            return Err(Error::refused(
                "choose credentials",
                "keys and a profile are both given, and only one can be used",
            ));
        }
        Ok(())
    }
}

impl AwsSettings {
    /// The SDK's rule set refuses the combination too, later and in other words (ecr-facts 5.2).
    pub(super) fn check_override(&self, endpoint_given: bool) -> Result<()> {
        if !endpoint_given || !(self.fips || self.dual_stack) {
            return Ok(());
        }
        Err(Error::refused(
            "choose the endpoint",
            "a custom endpoint cannot be combined with FIPS or dual-stack",
        )
        .with_hint(
            "leave out --endpoint-url (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_ECR, AWS_ENDPOINT_URL_STS, endpoint_url in the \
             profile), or --fips and --dualstack (AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT)",
        ))
    }
}

impl RoleSettings {
    fn check(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::refused("check the role", message));
        let parts: Vec<&str> = self.arn.splitn(6, ':').collect();
        let is_role = matches!(parts[..], ["arn", _, "iam", _, account, resource]
            if account.len() == 12 && resource.starts_with("role/"));
        if !is_role {
            return refuse(format!(
                "`{}` is not the ARN of a role: something like `arn:aws:iam::123456789012:role/NAME` is expected",
                self.arn
            ));
        }
        // STS: 2 to 64 of [\w+=,.@-].
        let well_named = |name: &String| {
            (2..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
        };
        if let Some(name) = self.session_name.as_ref().filter(|name| !well_named(name)) {
            return refuse(format!(
                "the role session name `{name}` is not allowed: 2 to 64 letters, digits and `_+=,.@-`"
            ));
        }
        let limits = 900..=43_200;
        if let Some(duration) = self.duration.filter(|d| !limits.contains(&d.as_secs())) {
            return refuse(format!(
                "a role session of {} seconds is not possible: 900 to 43200 are",
                duration.as_secs()
            ));
        }
        Ok(())
    }
}

/// An endpoint must be a URL, and plain HTTP never goes to a name of Amazon's.
pub(super) fn check_endpoint(text: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::refused("read the endpoint URL", format!("the endpoint URL `{text}` {why}")));
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => return refuse("is not an http:// or https:// URL"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::refused(
            "read the endpoint URL",
            "the endpoint URL holds a user or password, which the API does not take",
        ));
    }
    if url.scheme() == "http" && is_aws_host(url.host_str().unwrap_or_default()) {
        return refuse("would send credentials to Amazon without TLS: write https://");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(arn: &str) -> RoleSettings {
        RoleSettings { arn: arn.into(), ..RoleSettings::default() }
    }

    fn with_role(role: RoleSettings) -> AwsSettings {
        AwsSettings { role: Some(role), ..AwsSettings::default() }
    }

    #[test]
    fn endpoints_are_checked() {
        for bad in ["localhost:5000", "ftp://x", "http://api.ecr.us-east-1.amazonaws.com", "https://u:geheim@x"] {
            let settings = AwsSettings { endpoint_url: Some(bad.into()), ..AwsSettings::default() };
            let error = settings.check().unwrap_err();
            assert!(error.is_refused() && !error.message().contains("geheim"));
        }
        for good in ["http://127.0.0.1:5000", "https://vpce-1.api.ecr.us-east-1.vpce.amazonaws.com"] {
            assert!(check_endpoint(good).is_ok());
        }
        let both =
            AwsSettings { endpoint_url_ecr: Some("http://127.0.0.1:1".into()), fips: true, ..AwsSettings::default() };
        assert!(both.check().unwrap_err().is_refused());
    }

    #[test]
    fn roles_are_checked() {
        assert!(with_role(role("arn:aws-cn:iam::123456789012:role/a/b")).check().is_ok());
        let mut bad = vec![role("role/x"), role("arn:aws:iam::1:role/x"), role("arn:aws:iam::123456789012:user/x")];
        let good = role("arn:aws:iam::123456789012:role/x");
        bad.push(RoleSettings { duration: Some(Duration::from_secs(899)), ..good.clone() });
        bad.push(RoleSettings { session_name: Some("a b".into()), ..good.clone() });
        for role in bad {
            assert!(with_role(role.clone()).check().unwrap_err().is_refused(), "{role:?}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let keys = Keys {
            origin: "test".into(),
            access_key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_access_key: "geheim".into(),
            session_token: None,
        };
        let shown = format!("{keys:?}");
        assert!(shown.contains("…MPLE") && !shown.contains("AKIA") && !shown.contains("geheim"));
    }
}
