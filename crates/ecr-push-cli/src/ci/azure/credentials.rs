//! Which credentials the task works with: service connection, task variables, or what the AWS SDKs look for.

use std::time::Duration;

use ecr_push::aws::{AwsSettings, IdentityToken, Keys, RoleSettings, TokenMethod, TokenRequest, WebIdentity};
use ecr_push::{Error, Result};
use secrecy::SecretString;

use super::agent::{Agent, Connection};
use crate::report::Reporter;

/// The name of a role's session where nobody gave one: upstream's, which trust policies may ask for.
const SESSION: &str = "aws-vsts-tools";
/// Upstream's default for keys and for OIDC, in seconds.
const DURATION: u64 = 900;

/// Chooses them in this order. What the author chose never falls through to the next.
///
/// # Errors
/// If what was chosen is missing or incomplete.
pub fn choose(agent: &Agent<'_>, connection: Option<&str>, aws: &mut AwsSettings, reporter: &Reporter) -> Result<()> {
    let duration = duration(agent, reporter);
    if let Some(id) = connection {
        reporter.notice(format!("...configuring AWS credentials from service endpoint '{id}'"));
        let connection = agent.connection(id)?.ok_or_else(|| unknown_connection(id))?;
        return from_connection(agent, &connection, duration, aws, reporter);
    }
    let variable = |name: &str| agent.variable(name);
    let role = variable("AWS.AssumeRoleArn").map(|arn| RoleSettings {
        arn,
        session_name: Some(variable("AWS.RoleSessionName").unwrap_or_else(|| SESSION.to_owned())),
        external_id: variable("AWS.ExternalId"),
        duration: Some(duration),
    });
    for name in ["AWS.AccessKeyID", "AWS.SecretAccessKey", "AWS.SessionToken", "AWS.AssumeRoleArn"] {
        if variable(name).is_some_and(|value| value.contains("$(")) {
            let message = format!("the variable {name} holds the name of a variable that the job does not have");
            return Err(
                Error::refused("choose credentials", message).with_hint("set that variable, or correct its name")
            );
        }
    }
    let Some(key_id) = variable("AWS.AccessKeyID") else {
        if variable("AWS.SecretAccessKey").is_some() {
            let message = "AWS secret access key present in task variables but access key ID is missing; cannot configure \
                           task credentials.";
            return Err(Error::refused("choose credentials", message).with_hint("set the variable AWS.AccessKeyID too"));
        }
        if role.is_some() {
            reporter.warning("AWS.AssumeRoleArn is left out: it needs AWS.AccessKeyID and AWS.SecretAccessKey");
        }
        reporter.notice(
            "...no service connection and no keys in task variables: the credentials of the build's host are tried",
        );
        return Ok(());
    };
    let Some(secret) = variable("AWS.SecretAccessKey") else {
        return Err(Error::refused(
            "choose credentials",
            "AWS access key ID present in task variables but secret key value is missing; cannot configure task \
             credentials.",
        )
        .with_hint("set the secret variable AWS.SecretAccessKey too"));
    };
    reporter.notice("...configuring AWS credentials from task variables");
    aws.explicit_keys = Some(Keys {
        origin: "the task variables".to_owned(),
        access_key_id: key_id,
        secret_access_key: secret.into(),
        session_token: variable("AWS.SessionToken").map(Into::into),
    });
    aws.role = role;
    Ok(())
}

fn unknown_connection(id: &str) -> Error {
    Error::refused("choose credentials", format!("the job has no service connection '{id}'")).with_hint(
        "the connection of `awsCredentials` must be of type AWS, exist in this project, and be allowed for this pipeline; \
         builds of forks get none",
    )
}

fn from_connection(
    agent: &Agent<'_>,
    connection: &Connection,
    duration: Duration,
    aws: &mut AwsSettings,
    reporter: &Reporter,
) -> Result<()> {
    let keys = connection.keys()?;
    let role = connection.role().map(|role| RoleSettings {
        session_name: role.session_name.or_else(|| Some(SESSION.to_owned())),
        duration: Some(duration),
        ..role
    });
    let has_keys = keys.is_some();
    aws.explicit_keys = keys;
    match role {
        Some(role) if connection.wants_oidc() && !has_keys => {
            aws.web_identity = Some(oidc(agent, connection, role, reporter)?);
        }
        None if connection.wants_oidc() && !has_keys => {
            let message = format!("the service connection '{}' asks for OIDC and names no role", connection.id);
            return Err(Error::refused("choose credentials", message).with_hint("give it the ARN of a role to take on"));
        }
        role => {
            if connection.wants_oidc() {
                reporter.warning(format!(
                    "the service connection '{}' asks for OIDC and has keys: the keys are used",
                    connection.id
                ));
            }
            if !has_keys {
                let what = if role.is_some() { "a role and no keys" } else { "neither keys nor a role" };
                reporter.notice(format!(
                    "...the service connection has {what}: the credentials of the build's host are used"
                ));
            }
            aws.role = role;
        }
    }
    Ok(())
}

/// The job's identity token, which speaks for the service connection.
fn oidc(agent: &Agent<'_>, connection: &Connection, role: RoleSettings, reporter: &Reporter) -> Result<WebIdentity> {
    if role.external_id.is_some() {
        reporter.warning("the external ID is left out: a role that is taken on by OIDC has none");
    }
    let Some(token) = agent.access_token() else {
        return Err(Error::refused(
            "request identity token",
            "the job's access token (System.AccessToken) is missing, which OIDC needs",
        )
        .with_hint("enable \"Allow scripts to access the OAuth token\" for the job, or map `SYSTEM_ACCESSTOKEN: $(System.AccessToken)`"));
    };
    let Some(url) = agent.token_url(&connection.id) else {
        return Err(Error::refused(
            "request identity token",
            "the agent does not say where identity tokens are given (System.OidcRequestUri)",
        )
        .with_hint("OIDC needs Azure DevOps Services, or a server that knows it"));
    };
    let authorization = SecretString::from(format!("Bearer {token}"));
    let headers = [
        ("Authorization", authorization),
        ("Content-Type", "application/json".to_owned().into()),
        // Or a token that has expired would be answered with a page to sign in on.
        ("X-TFS-FedAuthRedirect", "Suppress".to_owned().into()),
    ];
    Ok(WebIdentity {
        origin: format!("the service connection '{}'", connection.id),
        role: RoleSettings { external_id: None, ..role },
        token: IdentityToken::Request(TokenRequest {
            method: TokenMethod::Post,
            url,
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: Some("{}".to_owned()),
            field: "oidcToken".to_owned(),
        }),
    })
}

/// How long a role's session lasts. JavaScript's `parseInt`, as upstream reads it: digits up to the first other letter.
fn duration(agent: &Agent<'_>, reporter: &Reporter) -> Duration {
    let Some(text) = agent.variable("aws.rolecredential.maxduration") else { return Duration::from_secs(DURATION) };
    let digits: String = text.strip_prefix('+').unwrap_or(&text).chars().take_while(char::is_ascii_digit).collect();
    let seconds = digits.parse::<u64>().ok().filter(|seconds| (900..=43_200).contains(seconds));
    if seconds.is_none() {
        reporter.warning(format!("Invalid credential duration '{text}', minimum is 900, max 43200"));
    }
    Duration::from_secs(seconds.unwrap_or(DURATION))
}
