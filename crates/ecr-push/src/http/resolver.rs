//! Names to addresses: `--connect-to`, `localhost`, and hosts that a service has named.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::ConnectTo;
use crate::host::{Place, resolve};

/// What is known of hosts before their names are resolved. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Named by the user.
    chosen: HashSet<String>,
    /// Named by a service, and not by the user: their names must not lead to this machine's own link.
    foreign: HashSet<String>,
    /// Reached without a proxy.
    direct: HashSet<String>,
}

impl Hosts {
    pub(super) fn note_chosen(&self, host: &str) {
        self.with(|known| known.chosen.insert(host.to_ascii_lowercase()));
    }

    pub(super) fn note_foreign(&self, host: &str) {
        self.with(|known| known.foreign.insert(host.to_ascii_lowercase()));
    }

    pub(super) fn note_direct(&self, host: &str) {
        self.with(|known| known.direct.insert(host.to_ascii_lowercase()));
    }

    /// True if the user named it.
    pub(super) fn is_chosen(&self, host: &str) -> bool {
        self.with(|known| known.chosen.contains(&host.to_ascii_lowercase()))
    }

    /// True if it is to be reached without a proxy.
    pub(super) fn is_direct(&self, host: &str) -> bool {
        self.with(|known| known.direct.contains(&host.to_ascii_lowercase()))
    }

    /// Refuses what a foreign host's name leads to, if that is the link.
    fn check(&self, host: &str, addresses: &[SocketAddr]) -> Result<(), LeadsToLink> {
        let host = host.to_ascii_lowercase();
        let is_foreign = self.with(|known| known.foreign.contains(&host) && !known.chosen.contains(&host));
        let mut link = addresses.iter().filter(|address| Place::of_address(address.ip()) == Place::Link);
        match link.next() {
            Some(address) if is_foreign => Err(LeadsToLink(address.ip())),
            _ => Ok(()),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A name that a service gave, and that leads where no service may send us.
#[derive(Debug)]
pub(super) struct LeadsToLink(IpAddr);

impl fmt::Display for LeadsToLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its name leads to {}, {}", self.0, super::LINK)
    }
}

impl std::error::Error for LeadsToLink {}

/// Answers names that have a rule, asks the system for the others.
pub(super) struct Resolver {
    rules: Arc<[ConnectTo]>,
    hosts: Hosts,
}

impl Resolver {
    pub(super) fn new(rules: &[ConnectTo], hosts: &Hosts) -> Self {
        Self { rules: rules.into(), hosts: hosts.clone() }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (rules, hosts) = (Arc::clone(&self.rules), self.hosts.clone());
        Box::pin(async move {
            let asked = name.as_str();
            // A rule that names the host goes before one for any host.
            let rule = rules.iter().filter(|rule| rule.matches_host(asked)).max_by_key(|rule| rule.host.is_some());
            let target = rule.and_then(|rule| rule.to_host.as_deref());
            // Port 0 means "the URL's own" to the connector.
            let port = rule.and_then(|rule| rule.to_port).unwrap_or(0);
            let addresses = resolve(target.unwrap_or(asked), port).await?;
            // Where the user says what the name leads to, that is meant.
            if target.is_none() {
                hosts.check(asked, &addresses)?;
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All spellings of addresses are in `push/tests_hosts.rs`.
    #[test]
    fn a_name_that_a_service_gave_must_not_lead_to_the_link_and_the_users_own_may() {
        let hosts = Hosts::default();
        ["named.example", "both.example"].iter().for_each(|host| hosts.note_foreign(host));
        ["Both.example", "typed.example"].iter().for_each(|host| hosts.note_chosen(host));
        for address in [
            "169.254.169.254",
            "169.254.170.23",
            "fd00:ec2::254",
            "fe80::1",
            "::ffff:169.254.170.2",
            "64:ff9b::a9fe:a9fe",
        ] {
            // One among many is enough: the connection may go to any.
            let addresses = ["192.0.2.1", address].map(|ip| SocketAddr::new(ip.parse().unwrap(), 0));
            let error = hosts.check("Named.example", &addresses).unwrap_err();
            assert!(error.to_string().contains("such as that of instance metadata"), "{error}");
            for host in ["both.example", "typed.example", "other.example"] {
                assert!(hosts.check(host, &addresses).is_ok(), "{host} {address}");
            }
        }
        let elsewhere = ["192.0.2.1", "10.0.0.1", "127.0.0.1"].map(|ip| SocketAddr::new(ip.parse().unwrap(), 0));
        assert!(hosts.check("named.example", &elsewhere).is_ok());
    }
}
