//! Through a CONNECT proxy whose certificates are its own.

use crate::image::SMALL;
use crate::parts;
use crate::push::{push, reported};
use crate::stack::{API, HOST, Stack};
use crate::verify::pull_with_skopeo;
use std::collections::BTreeSet;

/// A CONNECT proxy. Behind it, every server shows a certificate of the proxy's own authority, `proxy-ca.crt`; so whoever trusts
/// only that authority can reach nothing past the proxy.
pub struct Proxy {
    stack: &'static Stack,
    port: u16,
    user: Option<&'static str>,
}

impl Proxy {
    /// Starts a proxy; `user` is `NAME:PASSWORD`.
    pub fn start(stack: &'static Stack, user: Option<&'static str>) -> Self {
        let proxy = Self { stack, port: stack.free_port(), user };
        let script = parts::repository().join("tests/third-party/connect_proxy.py").canonicalize().expect("the script");
        let command = stack.space.command("python3").arg(script).arg(proxy.port.to_string()).arg(proxy.file());
        command.args(user).serve(&proxy.file().with_extension("out"));
        stack.space.wait_for_ports(&[proxy.port]);
        proxy
    }

    fn file(&self) -> std::path::PathBuf {
        self.stack.space.path(&format!("proxy-{}.log", self.port))
    }

    /// Its URL, with user and password.
    pub fn address(&self) -> String {
        let user = self.user.map(|user| format!("{}@", user.replace(' ', "%20"))).unwrap_or_default();
        format!("http://{user}127.0.0.1:{}", self.port)
    }

    /// Its URL alone.
    pub fn address_without_password(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The status and `HOST:PORT` of each request so far.
    pub fn log(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.file()).expect("the proxy's log");
        log.lines().filter_map(|line| line.split_once(' ')).map(|(status, host)| (status.into(), host.into())).collect()
    }
}

fn hosts(proxy: &Proxy, status: &str) -> BTreeSet<String> {
    proxy.log().into_iter().filter(|(found, _)| found == status).map(|(_, host)| host).collect()
}

#[test]
fn api_and_blobs_go_through_the_proxy() {
    let Some(stack) = Stack::guarded(&["python3", "dockerd", "docker", "skopeo"]) else {
        return;
    };
    let source = stack.image(SMALL);
    for (number, (variable, user)) in
        [("HTTPS_PROXY", None), ("https_proxy", Some("user:pass word"))].into_iter().enumerate()
    {
        let repository = format!("proxy/through{number}");
        stack.create_repository(&repository);
        let proxy = Proxy::start(stack, user);
        let command = push(stack, SMALL, &repository, &["v1"]).args(["--output", "json"]);
        let command = command.env(variable, proxy.address()).env("AWS_CA_BUNDLE", stack.space.path("proxy-ca.crt"));
        reported(command.run().hides("pass word").hides("pass%20word"), &repository, &["v1"]);
        assert_eq!(hosts(&proxy, "200"), BTreeSet::from([format!("{HOST}:443"), format!("{API}:443")]));
        source.image.assert_same(&pull_with_skopeo(stack, &format!("{repository}:v1")).image);
    }
}

#[test]
fn no_proxy_is_respected() {
    let Some(stack) = Stack::guarded(&["python3", "dockerd", "docker", "skopeo"]) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("proxy/not");
    let proxy = Proxy::start(stack, None);
    let through = |tag: &str, exceptions: &str, authority: &str| {
        let command = push(stack, SMALL, "proxy/not", &[tag]).env("HTTPS_PROXY", proxy.address());
        command.env("NO_PROXY", exceptions).env("AWS_CA_BUNDLE", stack.space.path(authority)).run()
    };
    through("v1", ".amazonaws.com", "ca.crt").ok();
    assert_eq!(proxy.log(), []);
    // The API past the proxy, images through it.
    let both = [
        std::fs::read(stack.space.path("ca.crt")).expect("one"),
        std::fs::read(stack.space.path("proxy-ca.crt")).expect("two"),
    ];
    stack.space.write("both-ca.crt", both.concat());
    through("v2", &format!("localhost,{API}"), "both-ca.crt").ok();
    assert_eq!(hosts(&proxy, "200"), BTreeSet::from([format!("{HOST}:443")]));
}

#[test]
fn a_proxy_that_wants_a_password_is_named() {
    let Some(stack) = Stack::guarded(&["python3", "dockerd", "docker"]) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("proxy/password");
    let proxy = Proxy::start(stack, Some("user:password"));
    let command = push(stack, SMALL, "proxy/password", &["v1"]).env("HTTPS_PROXY", proxy.address_without_password());
    let command = command.env("AWS_CA_BUNDLE", stack.space.path("proxy-ca.crt"));
    command.run().exit(1).says(&["proxy", "password"]);
    assert!(hosts(&proxy, "200").is_empty());
}
