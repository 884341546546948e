//! the hosts that a server answers for.
//!
//! A page in a browser may be under a name whose owner lets it lead to this machine, and would then read and push here as if
//! it were of this server (DNS rebinding). The name gives it away: it stands in `Host`. Names that lead here whoever asks,
//! and addresses, cannot be made to lead anywhere else. Ports are not compared: whoever forwards a port leaves the header as
//! it is, and a page of another port of this machine gives itself away by its `Origin`.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;

use crate::config::Config;
use crate::tls;

/// `HOST[:PORT]`, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// In lower case, without the dot that may end it, an IPv6 address without brackets.
    pub name: String,
    pub port: Option<u16>,
}

impl Host {
    pub fn parse(text: &str) -> Option<Self> {
        let authority: Authority = text.parse().ok()?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name).to_owned();
        let port = match authority.as_str().get(authority.host().len()..)? {
            "" | ":" => None,
            port => Some(port.strip_prefix(':')?.parse().ok()?),
        };
        (!name.is_empty()).then_some(Self { name, port })
    }

    fn address(&self) -> Option<IpAddr> {
        self.name.parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    fn is_local_name(&self) -> bool {
        self.name == "localhost" || self.name.ends_with(".localhost")
    }
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    Host(String),
    Origin(String),
}

/// Checks what a request says it is to, and by which page it was made. `addresses` are those of this end of the connection.
pub(crate) fn check(head: &Parts, config: &Config, more: &[&str], addresses: &[IpAddr]) -> Result<(), Foreign> {
    let names = tls::host_names(config);
    let is_own = |host: &Host| match host.address() {
        // "All addresses" is this machine for whoever asks there.
        Some(address) if address.is_loopback() || address.is_unspecified() => true,
        Some(address) if addresses.iter().any(|own| own.to_canonical() == address) => true,
        _ => host.is_local_name() || names.contains(&host.name) || more.contains(&host.name.as_str()),
    };
    // Both, since either may be what a client goes by.
    let named = head.uri.authority().map(|authority| authority.to_string());
    let mut hosts = Vec::new();
    for text in texts(&head.headers, HOST.as_str()).into_iter().chain(named) {
        match Host::parse(&text).filter(is_own) {
            Some(host) => hosts.push(host),
            None => return Err(Foreign::Host(text)),
        }
    }
    if hosts.is_empty() {
        return Err(Foreign::Host(String::new()));
    }
    let is_same = |host: &Host, origin: &Host| host.name == origin.name && host.port == origin.port;
    for text in texts(&head.headers, ORIGIN.as_str()) {
        let origin = origin(&text);
        if !origin.is_some_and(|origin| hosts.iter().any(|host| is_same(&without_default(host), &origin))) {
            return Err(Foreign::Origin(text));
        }
    }
    Ok(())
}

/// All values of a header; what is no text is foreign to everybody.
fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned()).collect()
}

fn origin(text: &str) -> Option<Host> {
    let authority = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    Some(without_default(&Host::parse(authority)?))
}

/// Without a port that need not be said. Who opens TLS before this server is not known here, so both are left out.
fn without_default(host: &Host) -> Host {
    Host { name: host.name.clone(), port: host.port.filter(|port| ![80, 443].contains(port)) }
}

/// Another name of this machine than the one asked for, and whether there is one.
pub(crate) fn elsewhere(asked: &str) -> (String, bool) {
    let Some(host) = Host::parse(asked) else {
        return (asked.to_owned(), false);
    };
    let other = match host.name.as_str() {
        "localhost" => "127.0.0.1",
        "127.0.0.1" | "::1" => "localhost",
        _ => return (asked.to_owned(), false),
    };
    (host.port.map_or_else(|| other.to_owned(), |port| format!("{other}:{port}")), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_has_one_spelling() {
        let host = |name: &str, port| Some(Host { name: name.into(), port });
        assert_eq!(Host::parse("LocalHost.:5000"), host("localhost", Some(5000)));
        assert_eq!(Host::parse("[::1]:80"), host("::1", Some(80)));
        assert_eq!(Host::parse("[::1]"), host("::1", None));
        assert_eq!(Host::parse("a:"), host("a", None));
        for bad in ["", ":80", "a:b", "a:99999", "u@a", "u:p@a:1", "a/b", ".", "a b"] {
            assert_eq!(Host::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_redirect_goes_by_another_name_where_there_is_one() {
        assert_eq!(elsewhere("localhost:5000"), ("127.0.0.1:5000".into(), true));
        assert_eq!(elsewhere("127.0.0.1:5000"), ("localhost:5000".into(), true));
        assert_eq!(elsewhere("[::1]"), ("localhost".into(), true));
        for alone in ["build-host:5000", "192.0.2.7:5000", "127.0.0.2:5000"] {
            assert_eq!(elsewhere(alone), (alone.into(), false));
        }
    }
}
