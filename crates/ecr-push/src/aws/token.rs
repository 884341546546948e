//! The registry token: `GetAuthorizationToken` (ecr-facts 2.2).

use std::time::{Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::ecr::EcrApi;
use super::failure;
use super::hosts::RegistryHost;
use crate::error::{Error, Result, Retry, Side};
use crate::events::Event;
use crate::image::AccountId;
use aws_sdk_ecr::operation::get_authorization_token::GetAuthorizationTokenOutput;

const OPERATION: &str = "ecr:GetAuthorizationToken";
/// Reading the answer: its token and its registry are two operations, because a caller may tell them apart.
const READ_TOKEN: &str = "read authorization token";
const READ_ENDPOINT: &str = "read registry endpoint";

/// A token for the registries of one region. Kept in memory only.
#[derive(Clone, Debug)]
pub struct Token {
    /// Base64 of `AWS:password`, as `Authorization: Basic` carries it.
    pub secret: SecretString,
    /// When it ends. `None` if the service names a time already past, as moto does (2015): trusting that would mean
    /// asking again for ever.
    pub expires_at: Option<SystemTime>,
    /// When it was asked for.
    pub fetched_at: Instant,
    /// The registry, as the service names it: always the plain IPv4 host, or the stand-in's own URL.
    pub proxy_endpoint: String,
    /// The registry's account: from `proxy_endpoint`, else the one asked for. A stand-in may name neither.
    pub account: Option<AccountId>,
}

impl EcrApi {
    /// A new token, of the caller's own registry or of another account's. Credentials that were replaced
    /// since the last one are asked for anew.
    pub async fn token(&self, registry_id: Option<&AccountId>) -> Result<Token> {
        let fetched_at = Instant::now();
        let answer = match self.ask_for_token(registry_id).await {
            Err(error) if self.ask_for_credentials_again(&error) => self.ask_for_token(registry_id).await?,
            answer => answer?,
        };
        self.note_accepted();
        let data = answer.authorization_data().first();
        let secret = data.and_then(|data| data.authorization_token());
        let endpoint = data.and_then(|data| data.proxy_endpoint());
        let Some(secret) = secret.filter(|secret| !secret.is_empty()) else {
            return Err(malformed(READ_TOKEN, "holds no token"));
        };
        self.events.emit(Event::Secret(secret.into()));
        let Some((secret, password)) = read(secret) else {
            return Err(malformed(READ_TOKEN, "holds a token that is not a user and a password"));
        };
        if !password.is_empty() {
            self.events.emit(Event::Secret(password.as_str().into()));
        }
        let Some(endpoint) = endpoint.filter(|endpoint| !endpoint.is_empty()) else {
            return Err(malformed(READ_ENDPOINT, "names no registry endpoint"));
        };
        let expires_at = data
            .and_then(|data| data.expires_at())
            .and_then(|at| SystemTime::try_from(*at).ok())
            .filter(|at| *at > SystemTime::now());
        Ok(Token {
            secret,
            expires_at,
            fetched_at,
            proxy_endpoint: endpoint.to_owned(),
            account: account_of(endpoint).or_else(|| registry_id.cloned()),
        })
    }

    async fn ask_for_token(&self, registry_id: Option<&AccountId>) -> Result<GetAuthorizationTokenOutput> {
        // Amazon calls `registryIds` deprecated, because one token serves all; it still chooses `proxyEndpoint`.
        #[allow(deprecated)]
        let request =
            self.client().get_authorization_token().set_registry_ids(registry_id.map(|id| vec![id.to_string()]));
        request.send().await.map_err(|error| failure::map(&self.call(OPERATION, registry_id, None), &error))
    }
}

fn malformed(operation: &str, what: &str) -> Error {
    Error::new(Side::Destination, operation, format!("the answer of {OPERATION} {what}")).with_retry(Retry::Brief)
}

/// The token as a header carries it, and the password in it. Some stand-ins end the text with a line break, which is no part
/// of the password.
pub(super) fn read(secret: &str) -> Option<(SecretString, Zeroizing<String>)> {
    let whole = Zeroizing::new(STANDARD.decode(secret.trim()).ok()?);
    let text = std::str::from_utf8(&whole).ok()?.trim();
    let (_, password) = text.split_once(':')?;
    Some((STANDARD.encode(text).into(), password.to_owned().into()))
}

pub(super) fn account_of(endpoint: &str) -> Option<AccountId> {
    let url = Url::parse(endpoint).ok()?;
    RegistryHost::parse(url.host_str()?).map(|host| host.account)
}
