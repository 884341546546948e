//! Who is calling: signatures at the API door, passwords at the registry door.

mod sigv4;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use crate::config::{Config, Key};
use crate::error::{Refusal, Result};
use crate::http::Request;
use crate::util::{iso8601, lock, random_hex, shifted};
use sigv4::Credential;

/// Who a request is from.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    pub arn: String,
    /// The user or role, as policies name it.
    pub name: String,
    /// The unique id STS tells.
    pub id: String,
}

impl Principal {
    fn user(account: &str, name: &str) -> Self {
        Self { arn: format!("arn:aws:iam::{account}:user/{name}"), name: name.to_owned(), id: "AIDALOCALECR".into() }
    }

    pub fn role(account: &str, role: &str, session: &str) -> Self {
        Self {
            arn: format!("arn:aws:sts::{account}:assumed-role/{role}/{session}"),
            name: role.to_owned(),
            id: format!("AROALOCALECR:{session}"),
        }
    }
}

/// Temporary credentials.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: String,
    pub expires: SystemTime,
}

/// Why a registry password was not taken.
pub(crate) enum BadToken {
    Expired,
    OtherRegion,
    Unknown,
}

struct Known {
    secret: String,
    principal: Principal,
    session: Option<(String, SystemTime)>,
}

struct Token {
    principal: Principal,
    expires: SystemTime,
}

/// Seconds by which the time of a signature may differ.
const SKEW: i64 = 300;

/// `20260131T123456Z`, as signatures have it.
fn compact(time: SystemTime) -> String {
    iso8601(time).replace(['-', ':'], "")
}

/// The keys and passwords the server knows.
pub(crate) struct Identities {
    account: String,
    region: String,
    clock_ahead: i64,
    /// With keys configured, no other key is let in.
    strict: AtomicBool,
    keys: Mutex<HashMap<String, Known>>,
    tokens: Mutex<HashMap<String, Token>>,
}

impl Identities {
    pub fn new(config: &Config) -> Self {
        let identities = Self {
            account: config.account.clone(),
            region: config.region.clone(),
            clock_ahead: config.clock_ahead,
            strict: AtomicBool::new(false),
            keys: Mutex::default(),
            tokens: Mutex::default(),
        };
        identities.set_keys(&config.keys);
        identities
    }

    /// Replaces the keys of users; those of roles, which were handed out, stay.
    pub fn set_keys(&self, keys: &[Key]) {
        let mut known = lock(&self.keys);
        known.retain(|_, known| known.session.is_some());
        known.extend(keys.iter().map(|key| {
            let principal = Principal::user(&self.account, &key.user);
            (key.access_key_id.clone(), Known { secret: key.secret_access_key.clone(), principal, session: None })
        }));
        self.strict.store(!keys.is_empty(), Ordering::Relaxed);
    }

    pub fn user(&self, name: &str) -> Principal {
        Principal::user(&self.account, name)
    }

    /// a signature is good for five minutes, in both directions.
    fn check_time(&self, signed: &str) -> Result<()> {
        let now = shifted(SystemTime::now(), self.clock_ahead);
        let (shown, first, last) = (compact(now), compact(shifted(now, -SKEW)), compact(shifted(now, SKEW)));
        let refuse = |text| Err(Refusal::new("InvalidSignatureException", text));
        // Times written so are in the order of their letters.
        if signed < first.as_str() {
            return refuse(format!("Signature expired: {signed} is now earlier than {first} ({shown} - 5 min.)"));
        }
        if signed > last.as_str() {
            return refuse(format!(
                "Signature not yet current: {signed} is still later than {last} ({shown} + 5 min.)"
            ));
        }
        Ok(())
    }

    /// the principal of a signed request.
    pub fn signer(&self, request: &Request, body: &[u8]) -> Result<Principal> {
        let authorization = request
            .header("authorization")
            .ok_or_else(|| Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token"))?;
        let credential = Credential::parse(authorization).ok_or_else(|| {
            Refusal::new("IncompleteSignatureException", "The Authorization header is not a Signature Version 4")
        })?;
        let keys = lock(&self.keys);
        let Some(known) = keys.get(credential.access_key_id) else {
            return match self.strict.load(Ordering::Relaxed) {
                false => Ok(Principal::user(&self.account, credential.access_key_id)),
                true => Err(invalid_token()),
            };
        };
        if let Some((token, expires)) = &known.session {
            if request.header("x-amz-security-token") != Some(token) {
                return Err(invalid_token());
            }
            if *expires <= SystemTime::now() {
                return Err(Refusal::new(
                    "ExpiredTokenException",
                    "The security token included in the request is expired",
                ));
            }
        }
        // STS may be called in another region than the one the registry is in.
        if credential.service == "ecr" && credential.region != self.region {
            return Err(Refusal::new("InvalidSignatureException", "Credential should be scoped to a valid region."));
        }
        self.check_time(request.header("x-amz-date").unwrap_or_default())?;
        let Request { method, path, query, headers, .. } = request;
        if !credential.verifies(&known.secret, method.as_str(), path, query, headers, body) {
            return Err(Refusal::new(
                "InvalidSignatureException",
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
                 Access Key and signing method. Consult the service documentation for details.",
            ));
        }
        Ok(known.principal.clone())
    }

    /// Makes temporary credentials for a role.
    pub fn session(&self, principal: Principal, ttl: Duration) -> Session {
        let session = Session {
            access_key_id: format!("ASIA{}", random_hex(8).to_uppercase()),
            secret_access_key: random_hex(20),
            session_token: random_hex(64),
            expires: SystemTime::now() + ttl,
        };
        let known = Known {
            secret: session.secret_access_key.clone(),
            principal,
            session: Some((session.session_token.clone(), session.expires)),
        };
        lock(&self.keys).insert(session.access_key_id.clone(), known);
        session
    }

    /// a password, and when it ends. It names its region so that another region can say what is wrong.
    pub fn issue_token(&self, principal: Principal, ttl: Duration) -> (String, SystemTime) {
        let password = BASE64_URL_SAFE_NO_PAD.encode(format!("local-ecr:{}:{}", self.region, random_hex(96)));
        let expires = SystemTime::now() + ttl;
        lock(&self.tokens).insert(password.clone(), Token { principal, expires });
        (password, expires)
    }

    pub fn expire_tokens(&self) {
        for token in lock(&self.tokens).values_mut() {
            token.expires = SystemTime::UNIX_EPOCH;
        }
    }

    /// The principal of a `Basic` authorization.
    pub fn token_holder(&self, basic: &str) -> std::result::Result<Principal, BadToken> {
        let decoded = BASE64_STANDARD.decode(basic.trim()).map_err(|_| BadToken::Unknown)?;
        let text = String::from_utf8(decoded).map_err(|_| BadToken::Unknown)?;
        // the user is AWS; the password may hold colons.
        let password = text.split_once(':').filter(|(user, _)| *user == "AWS").ok_or(BadToken::Unknown)?.1;
        let tokens = lock(&self.tokens);
        let Some(token) = tokens.get(password) else {
            return Err(if self.is_of_other_region(password) { BadToken::OtherRegion } else { BadToken::Unknown });
        };
        if token.expires <= SystemTime::now() {
            return Err(BadToken::Expired);
        }
        Ok(token.principal.clone())
    }

    fn is_of_other_region(&self, password: &str) -> bool {
        let Some(text) = BASE64_URL_SAFE_NO_PAD.decode(password).ok().and_then(|text| String::from_utf8(text).ok())
        else {
            return false;
        };
        let mut parts = text.split(':');
        parts.next() == Some("local-ecr") && parts.next().is_some_and(|region| region != self.region)
    }
}

fn invalid_token() -> Refusal {
    Refusal::new("UnrecognizedClientException", "The security token included in the request is invalid.")
}
