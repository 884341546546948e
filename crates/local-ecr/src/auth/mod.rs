//! Who is calling: signatures at the API door, passwords at the registry door.

mod sigv4;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use crate::clock::Clock;
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

/// What a signature is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Ecr,
    Sts,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Ecr => "ecr",
            Self::Sts => "sts",
        }
    }

    /// minutes by which the time of a signature may differ.
    fn skew(self) -> i64 {
        match self {
            Self::Ecr => 5,
            Self::Sts => 15,
        }
    }
}

/// `20260131T123456Z`, as signatures have it.
fn compact(time: SystemTime) -> String {
    iso8601(time).replace(['-', ':'], "")
}

/// The keys and passwords the server knows.
pub(crate) struct Identities {
    account: String,
    region: String,
    clock: Arc<Clock>,
    /// With keys configured, no other key is let in.
    strict: AtomicBool,
    keys: Mutex<HashMap<String, Known>>,
    tokens: Mutex<HashMap<String, Token>>,
}

impl Identities {
    pub fn new(config: &Config, clock: Arc<Clock>) -> Self {
        let identities = Self {
            account: config.account.clone(),
            region: config.region.clone(),
            clock,
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

    /// a signature is good for some minutes, in both directions.
    fn check_time(&self, signed: &str, service: Service) -> Result<()> {
        let (now, minutes) = (self.clock.now(), service.skew());
        let (shown, first, last) =
            (compact(now), compact(shifted(now, -60 * minutes)), compact(shifted(now, 60 * minutes)));
        // Times written so are in the order of their letters.
        if signed < first.as_str() {
            return Err(invalid_signature(format!(
                "Signature expired: {signed} is now earlier than {first} ({shown} - {minutes} min.)"
            )));
        }
        if signed > last.as_str() {
            return Err(invalid_signature(format!(
                "Signature not yet current: {signed} is still later than {last} ({shown} + {minutes} min.)"
            )));
        }
        Ok(())
    }

    /// a signature is for one region, one service and one day. It is checked of every key: what is wrong with it needs
    /// no secret to be seen.
    fn check_scope(&self, credential: &Credential, request: &Request, service: Service) -> Result<()> {
        let region = credential.region;
        // STS has one more endpoint, without a region in its name.
        let is_valid = region == self.region || service == Service::Sts && region == GLOBAL_STS_REGION;
        if !is_valid {
            return Err(invalid_signature(format!("Credential should be scoped to a valid region, not '{region}'. ")));
        }
        if credential.service != service.name() {
            return Err(invalid_signature(format!(
                "Credential should be scoped to correct service: '{}'. ",
                service.name()
            )));
        }
        let incomplete = |text: String| Refusal::new("IncompleteSignatureException", text);
        let signed = request.header("x-amz-date").ok_or_else(|| {
            incomplete(
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.".to_owned(),
            )
        })?;
        if !is_compact(signed) {
            return Err(incomplete(format!("Date must be in ISO-8601 'basic format'. Got '{signed}'.")));
        }
        let day = &signed[..8];
        if credential.date != day {
            return Err(invalid_signature(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != \
                 '{day}', from '{signed}'.",
                credential.date
            )));
        }
        self.check_time(signed, service)
    }

    /// the principal of a signed request.
    pub fn signer(&self, request: &Request, body: &[u8], service: Service) -> Result<Principal> {
        let authorization = request
            .header("authorization")
            .ok_or_else(|| Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token"))?;
        let credential = Credential::parse(authorization).ok_or_else(|| {
            Refusal::new("IncompleteSignatureException", "The Authorization header is not a Signature Version 4")
        })?;
        let keys = lock(&self.keys);
        let Some(known) = keys.get(credential.access_key_id) else {
            return match self.strict.load(Ordering::Relaxed) {
                false => {
                    self.check_scope(&credential, request, service)?;
                    Ok(Principal::user(&self.account, credential.access_key_id))
                }
                true => Err(invalid_token()),
            };
        };
        if let Some((token, expires)) = &known.session {
            if request.header("x-amz-security-token") != Some(token) {
                return Err(invalid_token());
            }
            if *expires <= self.clock.now() {
                return Err(Refusal::new(
                    "ExpiredTokenException",
                    "The security token included in the request is expired",
                ));
            }
        }
        self.check_scope(&credential, request, service)?;
        let Request { method, path, query, headers, .. } = request;
        if !credential.verifies(&known.secret, method.as_str(), path, query, headers, body) {
            return Err(invalid_signature(
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
            expires: self.clock.now() + ttl,
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
        let expires = self.clock.now() + ttl;
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
        if token.expires <= self.clock.now() {
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

/// The region that requests to `sts.amazonaws.com` are signed for.
const GLOBAL_STS_REGION: &str = "us-east-1";

fn is_compact(time: &str) -> bool {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    time.len() == 16 && time.bytes().enumerate().all(is_right)
}

fn invalid_signature(text: impl Into<String>) -> Refusal {
    Refusal::new("InvalidSignatureException", text)
}

fn invalid_token() -> Refusal {
    Refusal::new("UnrecognizedClientException", "The security token included in the request is invalid.")
}
