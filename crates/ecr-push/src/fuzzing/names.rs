//! What people write: names, references, digests, hosts.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use super::check_error;
use crate::aws::{RegistryHost, is_aws_host, registry_host};
use crate::error::{Error, Result};
use crate::http::ConnectTo;
use crate::image::{AccountId, Digest, Platform, Region, RepositoryName, Tag};
use crate::known::Reuse;
use crate::source::SourceSpec;

/// Reads the input as every kind of name there is.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // No name is longer, and no operating system takes longer words.
    if text.len() > 8192 {
        return;
    }
    round_trip::<SourceSpec>(text);
    round_trip::<Platform>(text);
    round_trip::<ConnectTo>(text);
    if let Some(digest) = round_trip::<Digest>(text) {
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::from_hex(&digest.hex()).ok(), Some(digest));
    }
    if let Some(name) = round_trip::<RepositoryName>(text) {
        assert_eq!(name.as_str(), text);
        safe_in_a_path(name.as_str());
    }
    if let Some(tag) = round_trip::<Tag>(text) {
        assert_eq!(tag.as_str(), text);
        assert!(!text.contains('/'));
        safe_in_a_path(tag.as_str());
    }
    if let Some(account) = round_trip::<AccountId>(text) {
        assert_eq!(account.as_str(), text);
    }
    if let Some(region) = round_trip::<Region>(text) {
        safe_in_a_host(region.as_str());
    }
    if let Err(error) = text.parse::<Reuse>() {
        check_error(&error);
    }
    host(text);
    crate::engine::fuzz::names(text);
    #[cfg(feature = "containerd")]
    crate::containerd::fuzz::names(text);
}

/// What was read, written and read again is the same.
fn round_trip<T>(text: &str) -> Option<T>
where
    T: FromStr<Err = Error> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let again: Result<T> = value.to_string().parse();
            assert_eq!(again.ok().as_ref(), Some(&value), "{text:?} is written as {value}");
            Some(value)
        }
        Err(error) => {
            check_error(&error);
            None
        }
    }
}

/// Nothing in it can lead to another place of a URL.
fn safe_in_a_path(text: &str) {
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)), "{text:?}");
    assert!(!text.starts_with('/') && text.split('/').all(|part| part != "." && part != ".."), "{text:?}");
}

/// Nothing in it can lead to another host.
fn safe_in_a_host(text: &str) {
    assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{text:?}");
    assert!(!text.starts_with('-') && !text.ends_with('-'), "{text:?}");
}

/// A host that gets a token.
fn host(text: &str) {
    let Some(host) = RegistryHost::parse(text) else { return };
    assert!(is_aws_host(text), "{text:?} is Amazon's");
    assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'), "{text:?}");
    safe_in_a_host(host.region.as_str());
    if let Ok(written) = registry_host(&host.account, &host.region, host.fips, host.dual_stack) {
        assert_eq!(RegistryHost::parse(&written).as_ref(), Some(&host), "{text:?} is written as {written}");
    }
}
