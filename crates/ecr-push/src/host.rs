//! Where a host is: on this machine, on its own link (where instance metadata is), or elsewhere. The only file that says so.
//!
//! Two questions are asked of it, and they are answered with opposite care. *Is it this machine?* grants something: plain http, no proxy.
//! So only what the system itself connects to this machine counts. *Is it the link?* refuses something, so every form counts in which an
//! IPv4 address may be hidden in one of IPv6, whether or not a gateway here would take it out again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use url::{Host, Url};

/// Where a host is, as far as its name or address says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Loopback: nobody on the network sees what is sent there.
    ThisMachine,
    /// Link-local addresses, and those of metadata services: who answers there answers this machine alone, and gives out its identity.
    Link,
    /// Anywhere else, as far as is known: a name may lead anywhere.
    Elsewhere,
}

/// Metadata and credential services at addresses that are not link-local: EC2 and EKS Pod Identity by IPv6, Azure's platform, Google
/// Compute Engine by IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

impl Place {
    /// The place of an address.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        // `::ffff:127.0.0.1` is connected to as 127.0.0.1.
        let address = address.to_canonical();
        if address.is_loopback() {
            return Self::ThisMachine;
        }
        let is_link = |address: IpAddr| METADATA.contains(&address) || is_link_local(address);
        let hidden = match address {
            IpAddr::V6(address) => embedded(address),
            IpAddr::V4(_) => Vec::new(),
        };
        match is_link(address) || hidden.into_iter().any(|address| is_link(address.into())) {
            true => Self::Link,
            false => Self::Elsewhere,
        }
    }

    /// The place of a host in any spelling that a URL allows, with or without brackets.
    pub(crate) fn of_host(host: &str) -> Self {
        match read(host) {
            Some(Host::Domain(name)) if is_localhost(&name) => Self::ThisMachine,
            Some(Host::Ipv4(address)) => Self::of_address(address.into()),
            Some(Host::Ipv6(address)) => Self::of_address(address.into()),
            _ => Self::Elsewhere,
        }
    }

    /// The place of a URL's host.
    pub(crate) fn of_url(url: &Url) -> Self {
        url.host_str().map_or(Self::Elsewhere, Self::of_host)
    }
}

/// The addresses of `host`, which is a name or an address, with `port`. `localhost` and what is below it is this machine, whatever a name
/// server says (RFC 6761 section 6.3), and where there is neither a name server nor a file of hosts.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match read(host) {
        Some(Host::Domain(name)) if is_localhost(&name) => {
            // An address that this machine does not have would be the one in the error, and say nothing.
            let sixth = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
            let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            Ok(addresses.into_iter().take(1 + usize::from(sixth)).map(|ip| SocketAddr::new(ip, port)).collect())
        }
        Some(Host::Ipv4(address)) => Ok(vec![SocketAddr::new(address.into(), port)]),
        Some(Host::Ipv6(address)) => Ok(vec![SocketAddr::new(address.into(), port)]),
        _ => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
    }
}

/// A host as a URL parser reads it: decimal, octal and hexadecimal numbers, fewer than four parts, a dot at the end, letters of other
/// alphabets. `None` if it is none.
fn read(host: &str) -> Option<Host<String>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // A zone (`fe80::1%eth0`) has no place in a URL, and does not matter here.
    let address = if bare.contains(':') { bare.split('%').next().unwrap_or(bare) } else { bare };
    match address.parse::<Ipv6Addr>() {
        Ok(address) => Some(Host::Ipv6(address)),
        Err(_) => Host::parse(bare).ok(),
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let head = name.len().checked_sub("localhost".len()).and_then(|at| name.split_at_checked(at));
    head.is_some_and(|(head, tail)| tail.eq_ignore_ascii_case("localhost") && (head.is_empty() || head.ends_with('.')))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The IPv4 addresses that one of IPv6 may stand for.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bytes = address.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = at([12, 13, 14, 15]);
    match address.segments() {
        // Compatible (RFC 4291 section 2.5.5.1), translated (RFC 2765), NAT64's own prefix (RFC 6052).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        // A network's own NAT64 (RFC 8215), in the forms of RFC 6052 section 2.2 that fit.
        [0x64, 0xff9b, 1, ..] => vec![last, at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12])],
        // 6to4 (RFC 3056).
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_and_what_is_below_it_is_this_machine_without_asking_anybody() {
        for name in ["localhost", "LOCALHOST.", "registry.localhost", "a.b.Localhost."] {
            let addresses = resolve(name, 5000).await.unwrap();
            assert_eq!(addresses[0], "127.0.0.1:5000".parse().unwrap(), "{name}");
            assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{name}");
        }
        for (spelled, address) in [("0x7f.1", "127.0.0.1:1"), ("[::1]", "[::1]:1"), ("192.0.2.7", "192.0.2.7:1")] {
            assert_eq!(resolve(spelled, 1).await.unwrap(), [address.parse().unwrap()], "{spelled}");
        }
        for name in ["nolocalhost.invalid", "localhost.invalid", ".invalid"] {
            assert!(resolve(name, 1).await.is_err(), "{name}");
        }
    }
}
