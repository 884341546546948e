//! What the user asked of AWS. Filled by the command line, which alone reads flags and our share of the environment.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::hosts::is_aws_host;
use super::{region, web_identity};
use crate::error::{Error, Result};
use crate::host::Place;
use crate::image::Region;
use crate::text;
use crate::text::Setting;

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
    /// The caller creates the repository if it is missing. Suggested policies allow that then.
    pub creates_repository: bool,
    /// Keys given outright (task variables, a service connection). Only these are used then.
    pub explicit_keys: Option<Keys>,
    /// A role taken on with the token of an identity provider. Only this is used then.
    pub web_identity: Option<WebIdentity>,
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

/// A role taken on with an identity token (`sts:AssumeRoleWithWebIdentity`), as CI systems hand them out.
#[derive(Clone, Debug)]
pub struct WebIdentity {
    /// Whose token it is, for people: `GitHub's identity provider`.
    pub origin: String,
    /// The role. This call of STS knows no external id.
    pub role: RoleSettings,
    /// The token.
    pub token: IdentityToken,
}

/// An identity token (a JWT), or the way to one.
#[derive(Clone, Debug)]
pub enum IdentityToken {
    /// The token itself. It cannot be renewed: when the role's session ends, so does the push.
    Text(SecretString),
    /// A new token for each session of the role.
    Request(TokenRequest),
}

/// The request for an identity token, as the CI system documents it. It goes through the same client as everything else.
#[derive(Clone)]
pub struct TokenRequest {
    /// The method.
    pub method: TokenMethod,
    /// `https`, or `http` to this machine only.
    pub url: String,
    /// The headers with their values; the one that authorizes is among them.
    pub headers: Vec<(String, SecretString)>,
    /// The body, if there is one.
    pub body: Option<String>,
    /// The field of the JSON answer that holds the token.
    pub field: String,
}

/// How a token is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenMethod {
    /// `GET`.
    Get,
    /// `POST`.
    Post,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query and the body may hold what only the sender should know.
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        f.debug_struct("TokenRequest")
            .field("method", &self.method)
            .field("url", &url)
            .field("field", &self.field)
            .finish_non_exhaustive()
    }
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
        if let Some(keys) = &self.explicit_keys {
            let token = keys.session_token.as_ref().map(ExposeSecret::expose_secret);
            check_key(&keys.origin, &keys.access_key_id, token)?;
        }
        let alone = [
            (self.explicit_keys.is_some(), "keys"),
            (self.profile.is_some(), "a profile"),
            (self.web_identity.is_some(), "an identity token"),
        ];
        let given: Vec<&str> = alone.into_iter().filter_map(|(given, what)| given.then_some(what)).collect();
        if given.len() > 1 {
            let all = if given.len() == 2 { "both" } else { "all" };
            let message = format!("{} are {all} given, and only one can be used", given.join(" and "));
            return Err(Error::refused("choose credentials", message));
        }
        match &self.web_identity {
            Some(web_identity) => web_identity.check(),
            None => Ok(()),
        }
    }
}

impl AwsSettings {
    /// The SDK's rule set refuses the combination too, later and in other words (ecr-facts 5.2).
    pub(super) fn check_override(&self, endpoint_given: bool) -> Result<()> {
        if !endpoint_given || !(self.fips || self.dual_stack) {
            return Ok(());
        }
        Err(Error::refused("choose the endpoint", "a custom endpoint cannot be combined with FIPS or dual-stack")
            .with_hint(text!["leave out ", Setting::EndpointUrl, ", or ", Setting::Fips, " and ", Setting::DualStack])
            .with_note(
                "each may come from the environment too (AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_ECR, AWS_ENDPOINT_URL_STS, \
                 AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT), and the endpoint from the profile (endpoint_url)",
            ))
    }
}

impl WebIdentity {
    fn check(&self) -> Result<()> {
        self.role.check()?;
        if self.role.external_id.is_some() {
            return Err(Error::refused(
                "check the role",
                "a role is not taken on with an external id and an identity token: the call has no external id",
            )
            .with_hint("leave out the external id, or take the role on with keys"));
        }
        match &self.token {
            IdentityToken::Text(token) if token.expose_secret().trim().is_empty() => {
                Err(Error::refused("check the identity token", format!("the token of {} is empty", self.origin)))
            }
            IdentityToken::Text(_) => Ok(()),
            IdentityToken::Request(request) => request.check(),
        }
    }
}

impl TokenRequest {
    fn check(&self) -> Result<()> {
        let refuse = |why: &str| {
            Err(Error::refused("check the identity token", format!("the address for identity tokens {why}")))
        };
        let url = match Url::parse(&self.url) {
            Ok(url) if url.has_host() => url,
            _ => return refuse("is not a URL"),
        };
        let host = url.host_str().unwrap_or_default();
        let plain = url.scheme() == "http" && Place::of_url(&url) == Place::ThisMachine;
        if url.scheme() != "https" && !plain {
            return refuse(&format!("would be asked at {host} without TLS: https:// is expected"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("holds a user or password");
        }
        if let Some((name, _)) = self.headers.iter().find(|(name, value)| web_identity::header(name, value).is_none()) {
            return Err(Error::refused(
                "check the identity token",
                format!("the header {name:?} of the request for it holds what a header cannot"),
            ));
        }
        Ok(())
    }
}

/// Key and token go into headers as they are; where they cannot, the SDK panics. A line break within one comes from a careless
/// paste.
pub(super) fn check_key(origin: &str, id: &str, session_token: Option<&str>) -> Result<()> {
    let is_visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let what = match session_token {
        _ if !is_visible(id) => "access key ID",
        Some(token) if !is_visible(token) => "session token",
        _ => return Ok(()),
    };
    let message =
        format!("the {what} of {origin} holds what none has: a blank, a line break, or a letter beyond ASCII");
    Err(Error::refused("choose credentials", message).with_hint("copy it again, as one line"))
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
    fn keys_that_no_header_can_hold_are_refused() {
        assert!(check_key("x", "AKIAIOSFODNN7EXAMPLE", Some("IQoJb3JpZ2luX2VjE//+=")).is_ok());
        for (id, token) in [("AKIA\nX", None), ("AKIÄ", None), ("AK IA", Some("t")), ("AKIA", Some("geheim\r\nX"))] {
            let error = check_key("the environment", id, token).unwrap_err();
            assert!(error.is_refused() && error.message().contains("the environment"), "{error}");
            assert!(!error.message().contains("geheim"));
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
