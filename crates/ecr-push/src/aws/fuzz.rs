//! Tokens that are none: see [`crate::fuzzing`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;

use super::token;
use super::web_identity;
use crate::fuzzing::parts;

/// Reads the first part of the input as ECR's authorization token, the second as the address of the registry that it is for, the third as
/// an identity token.
pub fn token(data: &[u8]) {
    let mut parts = parts(data).map(String::from_utf8_lossy);
    let mut part = || parts.next().unwrap_or_default();
    let (secret, endpoint, identity) = (part(), part(), part());
    let read = |text: &str| {
        let (basic, password) = token::read(text)?;
        Some((basic.expose_secret().to_owned(), password.to_string()))
    };
    if let Some((basic, password)) = read(&secret) {
        assert!(http::HeaderValue::from_str(&format!("Basic {basic}")).is_ok(), "it goes into a header");
        let pair = String::from_utf8(STANDARD.decode(&basic).expect("base64")).expect("text");
        let (user, after) = pair.split_once(':').expect("a user and a password");
        assert!(!user.contains(':') && after == password);
        assert_eq!(read(&basic), Some((basic, password)), "it is read as what it was");
    }
    if let Some(account) = token::account_of(&endpoint) {
        let url = url::Url::parse(&endpoint).expect("an address");
        let host = url.host_str().unwrap_or_default();
        assert!(host.starts_with(account.as_str()) && super::is_aws_host(host), "the account is that of {endpoint:?}");
    }
    if let Some(claims) = web_identity::claims(&identity) {
        assert!(!claims.contains(char::is_control), "what others wrote is shown in one line: {claims:?}");
        assert!(claims.chars().count() <= 3 * 301 + 100, "and no longer than that: {}", claims.len());
    }
}
