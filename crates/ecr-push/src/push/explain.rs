//! What a refusal of the destination means, and what to do about it.

use super::destination::{ACTIONS, Destination, Ecr};
use crate::aws::{self, Target, denial_error, is_quota, parse_denial, quota_hint, throttle_hint};
use crate::error::{Error, Retry, Side};
use crate::registry::PUT_MANIFEST;
use crate::text;
use crate::text::{Setting, Text};

/// Why Amazon ECR answers 403 to a manifest whose layers it has taken, where it does not say so (containers-roadmap#2159 for the quota).
fn manifest_refused() -> Text {
    text![
        "its layers were accepted, so that one of three things is wrong: ecr:PutImage is not allowed, by a policy of the caller, the \
         repository or the organization; or the repository holds as many images as its quota `Images per repository` allows (100,000 by \
         default: delete old images, best by a lifecycle policy); or the attestations in the index are refused (push with ",
        Setting::Attestations.with("drop"),
        ")"
    ]
}

impl Destination {
    /// True if the API says that the repository is not there: what may be behind an upload that the registry cut off at its start.
    pub(super) async fn is_missing(&self) -> bool {
        let Some(ecr) = &self.ecr else { return false };
        matches!(ecr.describe().await, Ok(None))
    }

    /// Adds what may be behind uploads that the registry cut off at their start, where that is not known better.
    pub(super) fn explain_cut(&self, error: Error) -> Error {
        if self.ecr.is_none() || error.retry() == Retry::Never {
            return error;
        }
        error.with_hint(
            "Amazon ECR also closes the connection so when the repository is missing or ecr:InitiateLayerUpload is not allowed",
        )
    }

    pub(super) fn missing_repository(&self, error: Error) -> Error {
        let Some(ecr) = &self.ecr else { return error };
        let account = ecr.account.as_ref().map(|account| format!(" of account {account}")).unwrap_or_default();
        let message =
            format!("the repository `{}` does not exist in the registry{account} in {}", ecr.name, ecr.region);
        let mut missing =
            Error::new(Side::Destination, "find repository", message).with_code("RepositoryNotFoundException");
        if let Some(id) = error.request_id() {
            missing = missing.with_request_id(id);
        }
        missing
            .with_hint(text!["push with ", Setting::CreateRepository, " to have it created"])
            .with_hint(format!(
                "or create it: aws ecr create-repository --repository-name {} --region {}",
                ecr.name, ecr.region
            ))
            .with_hint("if it exists, check the account and the region")
            .with_source(error)
    }

    /// Adds to a refusal what is missing, where the service says so.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.status() == Some(401) {
            return self.not_let_in(error);
        }
        let Some(ecr) = &self.ecr else { return error };
        if is_quota(error.code(), error.status(), error.message()) {
            let hint = quota_hint(error.message());
            let text = format!("a quota of Amazon ECR is reached: {}", error.message());
            return error.reworded(text).with_hints(vec![hint.into()]);
        }
        let action = ACTIONS.iter().find(|(operation, _)| *operation == error.operation()).map(|(_, action)| *action);
        if error.retry() == Retry::Throttled
            && let Some(hint) = action.and_then(throttle_hint)
        {
            return error.with_hint(hint);
        }
        match (error.status(), error.code()) {
            (Some(404), Some("NAME_UNKNOWN")) => self.missing_repository(error),
            (Some(403), Some("DENIED")) => {
                let mut explained = denial_error(error.operation(), error.message(), &self.target(ecr))
                    .with_status(403)
                    .with_code("DENIED");
                if error.operation() == PUT_MANIFEST && parse_denial(error.message()).is_none() {
                    explained = explained.with_first_hint(manifest_refused());
                }
                match error.request_id() {
                    Some(id) => explained.with_request_id(id),
                    None => explained,
                }
            }
            (Some(403), _) | (_, Some("AccessDeniedException" | "AccessDenied")) if error.hints().is_empty() => {
                let error = if error.operation() == PUT_MANIFEST { error.with_hint(manifest_refused()) } else { error };
                error.with_hint(format!("a push needs this policy:\n{}", self.target(ecr).push_policy(None)))
            }
            _ => error,
        }
    }

    /// A credential that is not accepted. Whether it ever was tells what to do.
    fn not_let_in(&self, error: Error) -> Error {
        let host = self.uri.split('/').next().unwrap_or_default();
        match (&self.ecr, self.repository.was_let_in()) {
            // It was said already.
            _ if !error.hints().is_empty() => error,
            (Some(_), true) => error
                .reworded(format!(
                    "{host} no longer accepts a token of these credentials, not even a new one: they were revoked, or lost their rights, \
                     during the push"
                ))
                .with_hint("renew or replace the credentials, then push again: what was confirmed is not sent again"),
            (Some(_), false) => {
                error.with_hint("the registry does not accept even a new token: check account and region")
            }
            (None, true) => error
                .reworded(format!(
                    "{host} no longer accepts the login that it accepted earlier in this push: it was revoked or has expired"
                ))
                .with_hint(format!(
                    "log in again (docker login {host}), then push again: what was confirmed is not sent again"
                )),
            (None, false) if self.repository.has_login() => error.with_hint(format!(
                "the registry refuses the login that docker's configuration has for it: log in again (docker login {host})"
            )),
            (None, false) => error.with_hint(format!("log in first: docker login {host}")),
        }
    }

    fn target(&self, ecr: &Ecr) -> Target {
        Target {
            region: ecr.region.clone(),
            account: ecr.account.clone(),
            repository: Some(ecr.name.clone()),
            creates: ecr.api.creates,
        }
    }
}

pub(super) fn is_denied(error: &Error) -> bool {
    error.status() == Some(403) || error.code().is_some_and(|code| code.starts_with("AccessDenied"))
}

/// True for failures that no other way of asking would get around: the credential itself is not accepted.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(
            "SignatureDoesNotMatch"
                | "InvalidSignatureException"
                | "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "ExpiredTokenException"
                | "ExpiredToken"
        )
    )
}

/// Who the credentials belong to, for `-v` and after a denial. Never fatal.
pub(super) async fn identity(destination: &Destination) -> Option<aws::Identity> {
    destination.ecr.as_ref()?.api.caller_identity().await.ok()
}
