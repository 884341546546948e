//! `--connect-to HOST:PORT:ADDR:PORT`, as curl has it: the name stays for TLS and `Host`, the TCP connection goes elsewhere.
//!
//! Built as a name resolver (`resolver`), the one way that reqwest has without giving up its connection pool. A resolver sees the host
//! but not the port, and a port written in the URL wins over the one it answers. Hence the limits, checked or documented:
//! one rule per host; the port can be changed only for URLs without one (443 or 80, which is what a registry behind a
//! VPC endpoint or a test network has); a URL whose host is an IP address is left alone. A host with a rule is reached
//! directly, never through a proxy.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::text;
use crate::text::Setting;

const OPERATION: &str = "parse connection rule";

/// One rule. Empty `host` and `port` match any, empty `to_host` and `to_port` keep what the URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectTo {
    /// The host in the URL, lower case, without brackets.
    pub host: Option<String>,
    /// The port in the URL.
    pub port: Option<u16>,
    /// The name or address to connect to, without brackets.
    pub to_host: Option<String>,
    /// The port to connect to.
    pub to_port: Option<u16>,
}

impl ConnectTo {
    /// Does the rule concern this host?
    pub fn matches_host(&self, host: &str) -> bool {
        self.host.as_deref().is_none_or(|own| own.eq_ignore_ascii_case(host))
    }
}

impl FromStr for ConnectTo {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.contains('@') {
            // What is before it may be a password.
            return Err(Error::refused(
                OPERATION,
                text![Setting::ConnectTo, " takes addresses only, no user or password"],
            ));
        }
        let refuse = |what: &str| {
            let message = text![Setting::ConnectTo.with(text), format!(" cannot be understood: {what}")];
            Error::refused(OPERATION, message)
                .with_hint("write HOST:PORT:ADDRESS:PORT, with IPv6 addresses in brackets")
        };
        let fields = split(text).ok_or_else(|| refuse("four parts separated by `:` are expected"))?;
        let [host, port, to_host, to_port] = fields;
        let name = |part: &str| {
            let bare = part.strip_prefix('[').and_then(|part| part.strip_suffix(']')).unwrap_or(part);
            if bare.contains(['[', ']']) || bare.contains(|c: char| c.is_control() || c.is_whitespace()) {
                return Err(refuse(&format!("`{}` is not a host", part.escape_debug())));
            }
            Ok((!bare.is_empty()).then(|| bare.to_ascii_lowercase()))
        };
        let number = |part: &str| match part {
            "" => Ok(None),
            digits => digits
                .parse::<u16>()
                .ok()
                .filter(|port| *port != 0)
                .map(Some)
                .ok_or_else(|| refuse(&format!("`{part}` is not a port"))),
        };
        Ok(Self { host: name(host)?, port: number(port)?, to_host: name(to_host)?, to_port: number(to_port)? })
    }
}

impl fmt::Display for ConnectTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = |name: &Option<String>| match name.as_deref() {
            Some(name) if name.contains(':') => format!("[{name}]"),
            Some(name) => name.to_owned(),
            None => String::new(),
        };
        let port = |port: &Option<u16>| port.map(|port| port.to_string()).unwrap_or_default();
        write!(f, "{}:{}:{}:{}", host(&self.host), port(&self.port), host(&self.to_host), port(&self.to_port))
    }
}

/// Splits at colons outside brackets; exactly four parts.
fn split(text: &str) -> Option<[&str; 4]> {
    let mut inside = false;
    let parts: Vec<&str> = text
        .split(|c| {
            match c {
                '[' => inside = true,
                ']' => inside = false,
                _ => {}
            }
            c == ':' && !inside
        })
        .collect();
    parts.try_into().ok()
}

/// Refuses what a resolver cannot do; see the module documentation.
pub(super) fn checked(rules: &[ConnectTo]) -> Result<Vec<ConnectTo>> {
    for (index, rule) in rules.iter().enumerate() {
        let twice = rules[..index].iter().any(|earlier| earlier.host == rule.host);
        if twice {
            return Err(Error::refused(
                OPERATION,
                text![Setting::ConnectTo.with(rule), ": there is already a rule for this host"],
            ));
        }
        let default_port = matches!(rule.port, None | Some(80 | 443));
        if !default_port && rule.to_port.is_some_and(|to| Some(to) != rule.port) {
            return Err(Error::refused(
                OPERATION,
                text![Setting::ConnectTo.with(rule), ": the port can be changed only for URLs on port 443 or 80"],
            ));
        }
    }
    Ok(rules.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_parts_are_read_as_curl_reads_them() {
        for (text, host, port, to_host, to_port) in [
            ("a.example:443:127.0.0.1:8443", Some("a.example"), Some(443), Some("127.0.0.1"), Some(8443)),
            ("::127.0.0.1:8443", None, None, Some("127.0.0.1"), Some(8443)),
            ("[::1]:443:[fd00::2]:8443", Some("::1"), Some(443), Some("fd00::2"), Some(8443)),
            ("A.Example:443::8443", Some("a.example"), Some(443), None, Some(8443)),
            ("a:443:b.example:", Some("a"), Some(443), Some("b.example"), None),
        ] {
            let rule: ConnectTo = text.parse().unwrap();
            assert_eq!(rule.host.as_deref(), host, "{text}");
            assert_eq!(rule.port, port, "{text}");
            assert_eq!(rule.to_host.as_deref(), to_host, "{text}");
            assert_eq!(rule.to_port, to_port, "{text}");
            assert_eq!(rule.to_string(), text.to_ascii_lowercase());
        }
        for bad in ["", "a:443", "a:443:b:x", "a:0:b:1", "a:443:b:99999", "a:1:b:2:3"] {
            assert!(bad.parse::<ConnectTo>().unwrap_err().is_refused(), "{bad}");
        }
    }

    #[test]
    fn a_rule_that_could_not_be_honoured_is_refused() {
        let rules = |texts: &[&str]| -> Vec<ConnectTo> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert!(checked(&rules(&["a:5000:b:6000"])).is_err());
        assert!(checked(&rules(&["a:443:b:1", "a:80:b:2"])).is_err());
        assert!(checked(&rules(&["a:5000:b:5000", "c:443:b:1", "::b:1"])).is_ok());
    }
}
