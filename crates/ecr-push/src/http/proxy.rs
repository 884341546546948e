//! Which requests go through a proxy: HTTP_PROXY, HTTPS_PROXY and NO_PROXY by value.
//!
//! The rules are those of curl and Go: loopback never, an entry of NO_PROXY covers the domain and what is below it,
//! CIDR blocks, `*`, an optional port. Instance and task metadata, and whatever else is link-local, never goes through a proxy, whatever
//! NO_PROXY says: the answer would be the proxy's own identity (ecr-facts 7.1).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use regex_lite::{Regex, RegexBuilder};
use reqwest::Url;

use super::ConnectTo;
use super::resolver::Hosts;
use crate::error::{Error, Result};
use crate::host::Place;

/// Values as the environment has them; empty is the same as unset.
#[derive(Clone, Default)]
pub struct ProxySettings {
    /// `HTTP_PROXY`: for plain HTTP.
    pub http: Option<String>,
    /// `HTTPS_PROXY`: for HTTPS.
    pub https: Option<String>,
    /// `NO_PROXY`: hosts that are reached directly.
    pub no_proxy: Option<String>,
    /// Regular expressions, as the Azure Pipelines agent has them: what a request's URL matches, ignoring case, is
    /// reached directly. The URL ends with its host and port (`https://HOST/`), because a connection serves many paths.
    /// Those that cannot be read are left out; see [`ProxySettings::unreadable`].
    pub bypass: Vec<String>,
}

impl ProxySettings {
    /// Those of [`ProxySettings::bypass`] that are no regular expressions here: .NET, for which they are written, knows
    /// some forms that Rust does not (look-around, back-references).
    pub fn unreadable(&self) -> Vec<String> {
        self.bypass.iter().filter(|pattern| expression(pattern).is_none()).cloned().collect()
    }
}

fn expression(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).case_insensitive(true).build().ok()
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.as_deref().map(without_user);
        f.debug_struct("ProxySettings")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("no_proxy", &self.no_proxy)
            .field("bypass", &self.bypass)
            .finish()
    }
}

/// The settings, parsed.
#[derive(Clone)]
pub(super) struct ProxyRules {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Entry>,
    bypass: Vec<Regex>,
    connect_to: Vec<ConnectTo>,
    hosts: Hosts,
}

impl ProxyRules {
    pub(super) fn new(settings: &ProxySettings, connect_to: &[ConnectTo], hosts: &Hosts) -> Result<Self> {
        Ok(Self {
            http: proxy_url("HTTP_PROXY", settings.http.as_deref())?,
            https: proxy_url("HTTPS_PROXY", settings.https.as_deref())?,
            direct: entries(settings.no_proxy.as_deref().unwrap_or_default()),
            bypass: settings.bypass.iter().filter_map(|pattern| expression(pattern)).collect(),
            connect_to: connect_to.to_vec(),
            hosts: hosts.clone(),
        })
    }

    pub(super) fn into_reqwest(self) -> reqwest::Proxy {
        reqwest::Proxy::custom(move |url| self.proxy_for(url).cloned())
    }

    pub(super) fn proxy_for(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let host = url.host_str()?.trim_matches(['[', ']']);
        let port = url.port_or_known_default()?;
        // A proxy would ask its own machine, and its own link.
        let direct = Place::of_host(host) != Place::Elsewhere
            || self.hosts.is_direct(host)
            || self.connect_to.iter().any(|rule| rule.matches_host(host))
            || self.direct.iter().any(|entry| entry.matches(host, port))
            || self.bypass.iter().any(|pattern| pattern.is_match(url.as_str()));
        (!direct).then_some(proxy)
    }
}

impl fmt::Debug for ProxyRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<Url>| url.as_ref().map(|url| without_user(url.as_str()));
        f.debug_struct("ProxyRules")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("direct", &self.direct)
            .finish()
    }
}

fn proxy_url(variable: &str, value: Option<&str>) -> Result<Option<Url>> {
    let Some(value) = value.map(str::trim).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let refuse = |why: String| {
        Error::refused("read the proxy settings", format!("the proxy in {variable} (`{}`) {why}", without_user(value)))
            .with_hint("write http://HOST:PORT; a user and password, if the proxy wants them, go before the host, with an @ behind")
    };
    let text = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let url = Url::parse(&text).map_err(|error| refuse(format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse(format!("uses the scheme `{}`, which is not supported", url.scheme())));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("names no host".to_owned()));
    }
    Ok(Some(url))
}

/// A URL for people: what stands before the last `@` of the authority is left out.
fn without_user(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(s, r)| (s, r));
    let authority_end = rest.find('/').unwrap_or(rest.len());
    // A password may hold an unescaped `/`, so look for `@` in all of it if the authority has none.
    let start = rest[..authority_end].rfind('@').or_else(|| rest.rfind('@')).map_or(0, |at| at + 1);
    match scheme {
        "" => rest[start..].to_owned(),
        scheme => format!("{scheme}://{}", &rest[start..]),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Any,
    /// The domain and everything below it.
    Domain(String),
    Block {
        address: IpAddr,
        bits: u32,
    },
}

impl Entry {
    fn matches(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        match &self.what {
            What::Any => true,
            What::Domain(domain) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(domain.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
            }
            What::Block { address, bits } => {
                host.parse::<IpAddr>().is_ok_and(|host| in_block(host.to_canonical(), *address, *bits))
            }
        }
    }
}

/// Entries are separated by commas, as everywhere, or by blanks, as curl allows.
fn entries(list: &str) -> Vec<Entry> {
    list.split([',', ' ', '\t', '\n']).map(str::trim).filter(|entry| !entry.is_empty()).map(parse_entry).collect()
}

fn parse_entry(text: &str) -> Entry {
    if let Some((address, bits)) = text.split_once('/')
        && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse())
    {
        let what = What::Block { address, bits };
        return Entry { what, port: None };
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Entry { what: one_address(address.into()), port: None };
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (text, None),
    };
    let host = host.trim_matches(['[', ']']);
    let what = match host.parse::<IpAddr>() {
        Ok(address) => one_address(address),
        Err(_) if host == "*" => What::Any,
        Err(_) => {
            let domain = host.strip_prefix('*').unwrap_or(host);
            What::Domain(domain.trim_matches('.').to_ascii_lowercase())
        }
    };
    Entry { what, port }
}

fn one_address(address: IpAddr) -> What {
    What::Block { address, bits: 128 }
}

/// IPv4 and IPv6 do not match each other, but for IPv4 in the form of IPv6; more bits than the address has means all of them.
fn in_block(host: IpAddr, address: IpAddr, bits: u32) -> bool {
    let address = if bits == 128 { address.to_canonical() } else { address };
    let (host, address, width) = match (host, address) {
        (IpAddr::V4(host), IpAddr::V4(address)) => (u128::from(host.to_bits()), u128::from(address.to_bits()), 32),
        (IpAddr::V6(host), IpAddr::V6(address)) => (host.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let ignored = width - bits.min(width);
    // A shift by the whole width would overflow; zero bits match everything.
    ignored == 128 || host >> ignored == address >> ignored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(no_proxy: &str) -> ProxyRules {
        let settings = ProxySettings {
            http: Some("plain.example:3128".into()),
            https: Some("http://user:p%40ss@secure.example:3129".into()),
            no_proxy: Some(no_proxy.into()),
            bypass: Vec::new(),
        };
        ProxyRules::new(&settings, &["mapped.example:443:127.0.0.1:1".parse().unwrap()], &Hosts::default()).unwrap()
    }

    fn proxied(no_proxy: &str, url: &str) -> bool {
        rules(no_proxy).proxy_for(&url.parse().unwrap()).is_some()
    }

    #[test]
    fn the_scheme_chooses_the_proxy() {
        let rules = rules("");
        let to = |url: &str| rules.proxy_for(&url.parse().unwrap()).unwrap().to_string();
        assert_eq!(to("http://a.example/"), "http://plain.example:3128/");
        assert_eq!(to("https://a.example/"), "http://user:p%40ss@secure.example:3129/");
    }

    /// Loopback and metadata in all their spellings are in `push/tests_hosts.rs`.
    #[test]
    fn mapped_hosts_and_those_known_to_lead_here_are_never_proxied() {
        assert!(!proxied("", "https://mapped.example/"));
        let rules = rules("");
        let url: Url = "http://metadata.example/".parse().unwrap();
        assert!(rules.proxy_for(&url).is_some());
        rules.hosts.note_direct("Metadata.example");
        assert!(rules.proxy_for(&url).is_none());
    }

    #[test]
    fn no_proxy_knows_suffixes_blocks_ports_and_the_star() {
        for (list, url, expected) in [
            ("example.com", "https://example.com/", false),
            ("example.com", "https://a.example.com/", false),
            (".example.com", "https://a.EXAMPLE.com/", false),
            ("*.example.com", "https://a.example.com/", false),
            ("example.com", "https://notexample.com/", true),
            ("a.example:8443", "https://a.example:8443/", false),
            ("a.example:8443", "https://a.example/", true),
            ("*", "https://anything.example/", false),
            ("x, 10.0.0.0/8", "https://10.2.3.4/", false),
            ("10.0.0.0/8", "https://11.2.3.4/", true),
            ("0.0.0.0/0", "https://11.2.3.4/", false),
            ("fd00::/8", "https://[fd12::1]/", false),
            ("::/0", "https://[2001:db8::1]/", false),
            ("[2001:db8::1]:443", "https://[2001:db8::1]/", false),
            ("2001:db8::1", "https://[2001:db8::1]:8/", false),
            ("192.0.2.1", "https://192.0.2.1/", false),
            ("192.0.2.1", "https://192.0.2.11/", true),
            ("192.0.2.1", "https://[::ffff:192.0.2.1]/", false),
            ("192.0.2.0/24", "https://[::ffff:c000:201]/", false),
            ("::ffff:192.0.2.1", "https://192.0.2.1/", false),
            ("", "https://example.com/", true),
        ] {
            assert_eq!(proxied(list, url), expected, "{list} {url}");
        }
    }

    #[test]
    fn the_bypass_list_is_tested_against_the_url_ignoring_case() {
        let settings = |patterns: &[&str]| ProxySettings {
            https: Some("http://proxy.example:3128".into()),
            bypass: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
            ..ProxySettings::default()
        };
        for (pattern, url, expected) in [
            (r"github\.com", "https://api.GitHub.com/", false),
            (r"^https://.*\.CORP\.example", "https://a.corp.example/", false),
            (r"^https://.*\.corp\.example", "https://a.corp.other/", true),
            // As a regular expression it also matches where a host list would not.
            ("example", "https://notexample.org/", false),
            (r"example\.org:8443", "https://example.org:8443/", false),
            (r"^http:", "https://example.org/", true),
            ("größe", "https://example.org/", true),
        ] {
            let rules = ProxyRules::new(&settings(&[pattern]), &[], &Hosts::default()).unwrap();
            assert_eq!(rules.proxy_for(&url.parse().unwrap()).is_some(), expected, "{pattern} {url}");
        }
        // One that cannot be read is told, and the others still work.
        let settings = settings(&["(?<!x)a", "[", "good"]);
        assert_eq!(settings.unreadable(), ["(?<!x)a", "["]);
        let rules = ProxyRules::new(&settings, &[], &Hosts::default()).unwrap();
        assert!(rules.proxy_for(&"https://good.example/".parse().unwrap()).is_none());
        assert!(rules.proxy_for(&"https://a.example/".parse().unwrap()).is_some());
    }

    #[test]
    fn a_bad_proxy_is_refused_without_its_password() {
        for bad in ["socks5://u:geheim@h:1", "http://u:geheim@", "http://u:geheim@h:port"] {
            let settings = ProxySettings { https: Some(bad.into()), ..ProxySettings::default() };
            let error = ProxyRules::new(&settings, &[], &Hosts::default()).unwrap_err();
            assert!(error.is_refused());
            assert!(!error.message().contains("geheim"), "{}", error.message());
            assert!(!format!("{settings:?}").contains("geheim"));
        }
        assert!(!format!("{:?}", rules("")).contains("p%40ss"));
    }
}
