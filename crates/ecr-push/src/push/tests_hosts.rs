//! Every place that asks where a host is × every spelling of a host: one predicate, one answer.

use std::net::SocketAddr;

use url::Url;

use super::open::{check_named, checked_base_with};
use crate::aws::{AwsSettings, IdentityToken, RoleSettings, TokenMethod, TokenRequest, WebIdentity};
use crate::events::Events;
use crate::host::{Place, resolve};
use crate::http::{Http, HttpSettings, ProxySettings};
use crate::registry::{Auth, Pace, Repository, check_redirect, token_server};
use crate::retry::Overlap;

/// A host as it may stand in an address, and where it is.
const SPELLINGS: &[(Place, &[&str])] = &[
    (
        Place::ThisMachine,
        &[
            "localhost",
            "LocalHost",
            "localhost.",
            "registry.localhost",
            "a.b.localhost.",
            "%6cocalhost",
            "127.0.0.1",
            "127.0.0.9",
            "127.255.255.254",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "１２７.0.0.1",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
        ],
    ),
    (
        Place::Link,
        &[
            "169.254.169.254",
            "169.254.169.254.",
            "169.254.170.2",
            "169.254.170.23",
            "169.254.0.1",
            "2852039166",
            "0xa9fea9fe",
            "0xA9.0xFE.0xA9.0xFE",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "１６９.254.169.254",
            "168.63.129.16",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "[fd00:0ec2:0:0:0:0:0:0023]",
            "[fd20:ce::254]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:aa02]",
            "[::169.254.169.254]",
            "[::ffff:0:169.254.170.2]",
            "[64:ff9b::169.254.169.254]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[64:ff9b:1:a9fe:a9:fe00::]",
            "[2002:a9fe:a9fe::1]",
        ],
    ),
    (
        Place::Elsewhere,
        &[
            "registry.example",
            "notlocalhost",
            "localhost.example",
            "localhost.localdomain",
            "127.0.0.1.example",
            "169.254.169.254.example",
            "128.0.0.1",
            "126.255.255.255",
            "10.0.0.1",
            "169.253.1.1",
            "169.255.1.1",
            "168.63.129.17",
            "[2001:db8::1]",
            "[fe00::1]",
            "[fec0::1]",
            "[fd00:ec2::1]",
            "[::ffff:10.0.0.1]",
            // A gateway's loopback is not ours.
            "[64:ff9b::127.0.0.1]",
            "[::127.0.0.1]",
            "[2002:7f00:1::1]",
        ],
    ),
];

/// A place in the program, and whether it lets a host through that is there.
struct Asks {
    who: &'static str,
    allows: fn(Place) -> bool,
    lets: fn(&Http, &str) -> bool,
}

fn url(scheme: &str, host: &str) -> Url {
    format!("{scheme}://{host}:5000/a").parse().unwrap()
}

const HTTPS: &str = "https://registry.example/";
const HTTP: &str = "http://registry.example/";

fn redirected(http: &Http, from: &str, to: Url) -> bool {
    check_redirect(http, &from.parse().unwrap(), &to).is_ok()
}

fn gives_tokens(http: &Http, realm: Url) -> bool {
    token_server(http, &[("realm".to_owned(), realm.to_string())]).is_ok()
}

fn gives_identity(url: &Url) -> bool {
    let role = RoleSettings { arn: "arn:aws:iam::123456789012:role/push".into(), ..RoleSettings::default() };
    let token = IdentityToken::Request(TokenRequest {
        method: TokenMethod::Get,
        url: url.to_string(),
        headers: Vec::new(),
        body: None,
        field: "value".into(),
    });
    let web_identity = Some(WebIdentity { origin: "a test".into(), role, token });
    AwsSettings { web_identity, ..AwsSettings::default() }.check().is_ok()
}

fn takes_bytes(http: &Http, location: &Url) -> bool {
    let (auth, pace) = (Auth::asked(None, &Events::none()), Pace::new(&[], &Overlap::default()));
    let repository = Repository::new(http.clone(), HTTPS.parse().unwrap(), "app", auth, pace, &Events::none());
    let answer = http::Response::builder().status(202).header("location", location.as_str()).body("").unwrap();
    repository.session(&answer.into()).is_ok()
}

const PLACES: &[Asks] = &[
    Asks {
        who: "HTTP_PROXY is used",
        allows: |place| place == Place::Elsewhere,
        lets: |http, host| http.is_proxied(&url("http", host)),
    },
    Asks {
        who: "HTTPS_PROXY is used",
        allows: |place| place == Place::Elsewhere,
        lets: |http, host| http.is_proxied(&url("https", host)),
    },
    Asks {
        who: "a registry is spoken to in plain http, unasked",
        allows: |place| place == Place::ThisMachine,
        lets: |_, host| checked_base_with(url("http", host), false).is_ok(),
    },
    Asks {
        who: "a token server gets a login in plain http",
        allows: |place| place == Place::ThisMachine,
        lets: |http, host| gives_tokens(http, url("http", host)),
    },
    Asks {
        who: "a token server gets a login",
        allows: |place| place != Place::Link,
        lets: |http, host| gives_tokens(http, url("https", host)),
    },
    Asks {
        who: "a token server gets a login over another protocol",
        allows: |_| false,
        lets: |http, host| gives_tokens(http, url("ftp", host)),
    },
    Asks {
        who: "a reader of a blob is sent on",
        allows: |place| place != Place::Link,
        lets: |http, host| redirected(http, HTTPS, url("https", host)),
    },
    Asks {
        who: "a reader of a blob is sent on, in plain http as before",
        allows: |place| place != Place::Link,
        lets: |http, host| redirected(http, HTTP, url("http", host)),
    },
    Asks {
        who: "a reader of a blob is sent on from https to http",
        allows: |_| false,
        lets: |http, host| redirected(http, HTTPS, url("http", host)),
    },
    Asks {
        who: "an identity token is asked for in plain http",
        allows: |place| place == Place::ThisMachine,
        lets: |_, host| gives_identity(&url("http", host)),
    },
    Asks {
        who: "the API of another endpoint names the registry",
        allows: |place| place != Place::Link,
        lets: |http, host| check_named(http, "https://api.example/", &url("https", host)).is_ok(),
    },
    Asks {
        who: "an upload goes to another place than the registry",
        allows: |_| false,
        lets: |http, host| takes_bytes(http, &url("https", host)),
    },
];

fn http() -> Http {
    let proxy = Some("http://proxy.example:3128".to_owned());
    let proxy = ProxySettings { http: proxy.clone(), https: proxy, ..ProxySettings::default() };
    Http::new(&HttpSettings { proxy, ..HttpSettings::default() }).unwrap()
}

#[tokio::test]
async fn every_place_gives_the_same_answer_to_every_spelling() {
    let mut wrong = Vec::new();
    for (place, hosts) in SPELLINGS {
        for host in *hosts {
            if Place::of_host(host) != *place {
                wrong.push(format!("{host} is {:?}", Place::of_host(host)));
            }
            let parsed = url("https", host).host_str().unwrap().to_owned();
            if Place::of_host(&parsed) != *place {
                wrong.push(format!("{host}, parsed as {parsed}, is {:?}", Place::of_host(&parsed)));
            }
            for Asks { who, allows, lets } in PLACES {
                // A client each: what one host taught it is not known to the next.
                let http = http();
                if lets(&http, host) != allows(*place) {
                    wrong.push(format!("{who}: {host} ({place:?}) should be {}", allows(*place)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The resolver of the HTTP client and of engines leads where the name says.
#[tokio::test]
async fn addresses_and_localhost_are_resolved_to_where_they_are() {
    for (place, hosts) in SPELLINGS {
        let known =
            |host: &&&str| *place == Place::ThisMachine || host.starts_with(|c: char| "[0123456789".contains(c));
        for host in hosts.iter().filter(known).filter(|host| !host.ends_with(".example")) {
            let addresses: Vec<SocketAddr> = resolve(host, 1).await.unwrap();
            assert!(!addresses.is_empty(), "{host}");
            for address in addresses {
                assert_eq!(Place::of_address(address.ip()), *place, "{host}");
            }
        }
    }
}

/// A host that the user named may be wherever it is.
#[test]
fn what_the_user_named_is_not_refused_when_a_service_names_it_again() {
    let (http, host) = (http(), "169.254.7.7");
    assert!(http.admit(&url("https", host)).is_err());
    http.note_chosen(&url("https", host));
    assert!(http.admit(&url("https", host)).is_ok());
    assert!(check_named(&http, "http://169.254.8.8:5000", &url("http", "169.254.8.8")).is_ok());
}
