//! What a refusal means and what to do about it: the missing action, the kind of policy, a statement to paste.
//!
//! The sentences are AWS's (ecr-facts 9.2). They only enrich: whether something was refused is told by code or status.

use std::fmt;

use serde::Serialize;

use super::hosts::Partition;
use crate::error::{Error, Retry, Side};
use crate::image::{AccountId, Region, RepositoryName};

/// The actions of a push on the repository (ecr-facts 9.1, design section 6), with BatchGetImage, which AWS's own
/// policy has and which makes pushes faster.
const PUSH_ACTIONS: [&str; 6] = [
    "ecr:BatchCheckLayerAvailability",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
    "ecr:BatchGetImage",
];

/// Needed by a push that creates the repository.
const CREATE_ACTION: &str = "ecr:CreateRepository";

/// Can be allowed on `*` only.
const TOKEN_ACTION: &str = "ecr:GetAuthorizationToken";

/// What was asked for, to build ARNs from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The region of the registry.
    pub region: Region,
    /// The account of the registry, if known.
    pub account: Option<AccountId>,
    /// The repository, if the call is about one.
    pub repository: Option<RepositoryName>,
    /// The push creates the repository if it is missing: suggested policies allow that too.
    pub creates: bool,
}

impl Target {
    /// The ARN of the repository; `*` stands for what is not known.
    pub fn arn(&self) -> String {
        let account = self.account.as_ref().map_or("*", AccountId::as_str);
        let repository = self.repository.as_ref().map_or("*", RepositoryName::as_str);
        format!("arn:{}:ecr:{}:{account}:repository/{repository}", Partition::of(&self.region).name, self.region)
    }

    /// A policy document with all that a push needs, ready to paste.
    pub fn push_policy(&self, more: Option<&str>) -> String {
        policy(&self.arn(), self.creates, more)
    }
}

/// Structs and not `json!`, which would sort the keys: IAM's own order reads better.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Policy<'a> {
    version: &'a str,
    statement: [Statement<'a>; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement<'a> {
    effect: &'a str,
    action: Vec<&'a str>,
    resource: &'a str,
}

fn policy(arn: &str, creates: bool, more: Option<&str>) -> String {
    let create = creates.then_some(CREATE_ACTION);
    let is_more =
        |action: &&str| action.starts_with("ecr:") && *action != TOKEN_ACTION && !PUSH_ACTIONS.contains(action);
    let extra = create.into_iter().chain(more.filter(is_more).filter(|action| create != Some(*action)));
    let allow = |action, resource| Statement { effect: "Allow", action, resource };
    let document = Policy {
        version: "2012-10-17",
        statement: [allow(vec![TOKEN_ACTION], "*"), allow(PUSH_ACTIONS.into_iter().chain(extra).collect(), arn)],
    };
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// A refusal, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who was refused, if told.
    pub principal: Option<String>,
    /// The action to add, such as `ecr:PutImage`.
    pub action: String,
    /// On what.
    pub resource: String,
    /// Why.
    pub reason: DenialReason,
}

/// Why a right is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenialReason {
    /// A policy of this kind forbids it.
    ExplicitDeny(PolicyKind),
    /// No policy of this kind allows it.
    NotAllowed(PolicyKind),
    /// Not told.
    Unknown,
}

/// The kinds of policy IAM tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Attached to the user or role.
    Identity,
    /// The repository's own policy.
    Resource,
    /// Given when the session was made.
    Session,
    /// The user's or role's boundary.
    PermissionsBoundary,
    /// The organization's service control policy.
    ServiceControl,
    /// The organization's resource control policy.
    ResourceControl,
    /// The policy of the VPC endpoint the call went through.
    VpcEndpoint,
}

/// IAM's words, in lower case.
const KINDS: [(&str, PolicyKind); 8] = [
    ("identity-based policy", PolicyKind::Identity),
    ("resource-based policy", PolicyKind::Resource),
    ("session policy", PolicyKind::Session),
    ("permissions boundary", PolicyKind::PermissionsBoundary),
    ("service control policy", PolicyKind::ServiceControl),
    ("resource control policy", PolicyKind::ResourceControl),
    ("vpc endpoint policy", PolicyKind::VpcEndpoint),
    ("vpc endpoint", PolicyKind::VpcEndpoint),
];

impl PolicyKind {
    fn article(self) -> &'static str {
        if self == Self::Identity { "an" } else { "a" }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity-based policy",
            Self::Resource => "repository policy",
            Self::Session => "session policy",
            Self::PermissionsBoundary => "permissions boundary",
            Self::ServiceControl => "service control policy",
            Self::ResourceControl => "resource control policy",
            Self::VpcEndpoint => "VPC endpoint policy",
        })
    }
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExplicitDeny(kind) => write!(f, "an explicit deny in {} {kind}", kind.article()),
            Self::NotAllowed(kind) => write!(f, "no {kind} allows it"),
            Self::Unknown => f.write_str("the service does not say which policy"),
        }
    }
}

/// Takes AWS's sentence apart; `None` if it is not one.
pub fn parse_denial(text: &str) -> Option<Denial> {
    let (before, rest) = text.split_once("is not authorized to perform: ")?;
    let action = rest.split_whitespace().next()?.trim_end_matches([',', '.']);
    let resource =
        rest.split_once("on resource: ").and_then(|(_, after)| after.split_whitespace().next()).unwrap_or("*");
    let principal = before.split_once("User: ").map(|(_, name)| name.trim().to_owned()).filter(|name| !name.is_empty());
    Some(Denial {
        principal,
        action: action.to_owned(),
        resource: resource.trim_end_matches([',', '.']).to_owned(),
        reason: parse_reason(rest),
    })
}

fn parse_reason(text: &str) -> DenialReason {
    let text = text.to_lowercase();
    let (build, words): (fn(PolicyKind) -> DenialReason, &str) =
        if let Some((_, words)) = text.split_once("explicit deny in a") {
            (DenialReason::ExplicitDeny, words)
        } else if let Some((_, words)) = text.split_once("because no ") {
            (DenialReason::NotAllowed, words)
        } else {
            return DenialReason::Unknown;
        };
    KINDS
        .iter()
        .filter_map(|(name, kind)| words.find(name).map(|at| (at, *kind)))
        .min_by_key(|(at, _)| *at)
        .map_or(DenialReason::Unknown, |(_, kind)| build(kind))
}

/// The error for a refusal. `text` is the service's sentence, from the API or the registry.
pub fn denial_error(operation: &str, text: &str, target: &Target) -> Error {
    let Some(denial) = parse_denial(text) else {
        return Error::new(Side::Destination, operation, format!("{operation} was refused: {text}"))
            .with_hint(format!("a push needs this policy:\n{}", target.push_policy(None)));
    };
    let who = denial.principal.as_deref().unwrap_or("the caller");
    let message = format!("{who} may not do {} on {}: {}", denial.action, denial.resource, denial.reason);
    let error = Error::new(Side::Destination, operation, message).with_hint(advice(&denial));
    if matches!(denial.reason, DenialReason::ExplicitDeny(_)) {
        return error;
    }
    // The service's own ARN has the account, which we may not know yet.
    let named = denial.resource.contains(":repository/");
    let arn = if named { denial.resource } else { target.arn() };
    error.with_hint(format!("a push needs this policy:\n{}", policy(&arn, target.creates, Some(&denial.action))))
}

fn advice(denial: &Denial) -> String {
    let action = &denial.action;
    match denial.reason {
        DenialReason::ExplicitDeny(kind) => {
            format!("the deny in the {kind} must be removed or narrowed: no allow outweighs it")
        }
        DenialReason::NotAllowed(PolicyKind::Resource) => format!(
            "add {action} to the policy of the repository: from another account both it and the caller's own policy must allow it"
        ),
        DenialReason::NotAllowed(PolicyKind::VpcEndpoint) => {
            format!("add {action} to the policy of the VPC endpoint this machine uses for ECR")
        }
        DenialReason::NotAllowed(PolicyKind::Identity) | DenialReason::Unknown => {
            format!("add {action} to a policy of the user or role")
        }
        DenialReason::NotAllowed(kind) => {
            format!("add {action} to the {kind}: it limits what other policies give")
        }
    }
}

/// The error for credentials the service does not accept; `None` for any other code. One sentence that names the source.
pub(super) fn credential_error(operation: &str, code: &str, text: &str, source: &str) -> Option<Error> {
    let (message, hint, retry) = match code {
        "InvalidSignatureException" | "SignatureDoesNotMatch"
            if text.contains("expired") || text.contains("not yet current") =>
        {
            (
                "AWS refuses the signature because of its time: the clock of this machine is wrong".to_owned(),
                "set the clock (NTP)".to_owned(),
                Retry::Never,
            )
        }
        "RequestExpired" | "RequestTimeTooSkewed" => (
            "AWS refuses the request because of its time: the clock of this machine is wrong".to_owned(),
            "set the clock (NTP)".to_owned(),
            Retry::Never,
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignature" => (
            format!("the secret access key from {source} does not belong to its key id"),
            "copy both again; look for a cut end, a blank or a quote in AWS_SECRET_ACCESS_KEY".to_owned(),
            Retry::Never,
        ),
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidAccessKeyId" => (
            format!("AWS does not know the access key from {source}"),
            "the key may be deleted, disabled, of another partition, or temporary without its AWS_SESSION_TOKEN"
                .to_owned(),
            Retry::Never,
        ),
        "ExpiredTokenException" | "ExpiredToken" => (
            format!("the session of the credentials from {source} has expired"),
            "get new credentials; for long builds use a longer session or a source that renews itself".to_owned(),
            Retry::Never,
        ),
        "MissingAuthenticationToken" | "MissingAuthenticationTokenException" => (
            format!("the credentials from {source} did not reach AWS"),
            "a proxy may remove the Authorization header".to_owned(),
            Retry::Never,
        ),
        _ => return None,
    };
    Some(Error::new(Side::Credentials, operation, message).with_hint(hint).with_retry(retry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:ecr:us-east-1:123456789012:repository/team/app";

    fn target() -> Target {
        Target {
            region: "us-east-1".parse().unwrap(),
            account: Some("123456789012".parse().unwrap()),
            repository: Some("team/app".parse().unwrap()),
            creates: false,
        }
    }

    fn sentence(end: &str) -> String {
        format!(
            "User: arn:aws:iam::123456789012:user/ci is not authorized to perform: ecr:PutImage on resource: {ARN}{end}"
        )
    }

    #[test]
    fn each_reason_is_understood() {
        use DenialReason::{ExplicitDeny, NotAllowed, Unknown};
        for (end, reason) in [
            ("", Unknown),
            (" because no identity-based policy allows the ecr:PutImage action", NotAllowed(PolicyKind::Identity)),
            (" because no resource-based policy allows the ecr:PutImage action", NotAllowed(PolicyKind::Resource)),
            (" because no session policy allows the ecr:PutImage action", NotAllowed(PolicyKind::Session)),
            (
                " because no permissions boundary allows the ecr:PutImage action",
                NotAllowed(PolicyKind::PermissionsBoundary),
            ),
            (
                " because no service control policy allows the ecr:PutImage action",
                NotAllowed(PolicyKind::ServiceControl),
            ),
            (" because no VPC endpoint policy allows the ecr:PutImage action", NotAllowed(PolicyKind::VpcEndpoint)),
            (" with an explicit deny in an identity-based policy", ExplicitDeny(PolicyKind::Identity)),
            (" with an explicit deny in a resource-based policy", ExplicitDeny(PolicyKind::Resource)),
            (" with an explicit deny in a service control policy", ExplicitDeny(PolicyKind::ServiceControl)),
            (" with an explicit deny in a VPC endpoint policy", ExplicitDeny(PolicyKind::VpcEndpoint)),
        ] {
            let denial = parse_denial(&sentence(end)).unwrap();
            assert_eq!(denial.action, "ecr:PutImage");
            assert_eq!(denial.resource, ARN);
            assert_eq!(denial.principal.as_deref(), Some("arn:aws:iam::123456789012:user/ci"));
            assert_eq!(denial.reason, reason, "{end}");
        }
        assert_eq!(parse_denial("no basic auth credentials"), None);
    }

    #[test]
    fn the_error_names_what_is_missing_and_shows_a_policy() {
        let text = sentence(" because no identity-based policy allows the ecr:PutImage action");
        let error = denial_error("ecr:PutImage", &text, &target());
        assert_eq!(
            error.message(),
            format!(
                "arn:aws:iam::123456789012:user/ci may not do ecr:PutImage on {ARN}: no identity-based policy allows it"
            )
        );
        let policy = error.hints()[1].split_once('\n').unwrap().1;
        let policy: serde_json::Value = serde_json::from_str(policy).unwrap();
        assert_eq!(policy["Statement"][0]["Resource"], "*");
        assert_eq!(policy["Statement"][1]["Resource"], ARN);
        assert_eq!(policy["Statement"][1]["Action"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn another_missing_action_joins_the_policy_and_a_deny_shows_none() {
        assert!(target().push_policy(Some("ecr:CreateRepository")).contains("ecr:CreateRepository"));
        assert!(!target().push_policy(None).contains("ecr:CreateRepository"));
        for more in [None, Some("ecr:CreateRepository"), Some("ecr:PutImage")] {
            let policy = Target { creates: true, ..target() }.push_policy(more);
            assert_eq!(policy.matches("ecr:CreateRepository").count(), 1, "{policy}");
        }
        let error = denial_error("x", &sentence(" with an explicit deny in a service control policy"), &target());
        assert_eq!(error.hints().len(), 1);
        let china = Target { region: "cn-north-1".parse().unwrap(), account: None, repository: None, creates: false };
        assert_eq!(china.arn(), "arn:aws-cn:ecr:cn-north-1:*:repository/*");
    }

    #[test]
    fn bad_credentials_are_one_sentence_with_their_source() {
        let source = "environment (key …MPLE)";
        for (code, expected) in [
            ("SignatureDoesNotMatch", "does not belong to its key id"),
            ("InvalidSignatureException", "does not belong to its key id"),
            ("UnrecognizedClientException", "does not know the access key"),
            ("InvalidClientTokenId", "does not know the access key"),
            ("ExpiredTokenException", "has expired"),
        ] {
            let error = credential_error("x", code, "", source).unwrap();
            assert!(error.message().contains(expected) && error.message().contains(source), "{error}");
            assert_eq!((error.side(), error.hints().len()), (Side::Credentials, 1));
        }
        let clock =
            credential_error("x", "InvalidSignatureException", "Signature expired: 2026 is now earlier", source);
        assert!(clock.unwrap().message().contains("clock"));
        assert!(credential_error("x", "ServerException", "", source).is_none());
    }
}
