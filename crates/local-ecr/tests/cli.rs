//! The binary.
#![cfg_attr(not(unix), allow(dead_code, unused_imports, reason = "some tests send signals"))]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_local-ecr")).arg("serve").args(arguments).output().unwrap()
}

/// What the system says of a file that is not there.
fn not_there() -> String {
    std::io::Error::from_raw_os_error(2).to_string()
}

fn refused(arguments: &[&str], sentence: &str) {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("local-ecr: {sentence}\n"));
}

#[test]
fn another_address_than_loopback_has_to_be_allowed() {
    refused(&["--listen", "0.0.0.0:0"], "0.0.0.0 is not a loopback address; --allow-remote allows it");
}

#[test]
fn an_account_has_twelve_digits() {
    refused(&["--account", "42"], "the account '42' is not twelve digits");
}

#[test]
fn a_policy_that_is_not_there_is_named() {
    let sentence = format!("cannot read the policy /nonexistent.json: {}", not_there());
    refused(&["--policy", "/nonexistent.json"], &sentence);
}

#[test]
fn a_bad_repository_name_is_named() {
    let output = run(&["--create-repository", "Bad"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("local-ecr: cannot create the repository 'Bad': "));
}

#[cfg(unix)]
#[test]
fn the_endpoint_is_told_and_a_signal_ends_it() {
    for signal in ["-INT", "-TERM"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_local-ecr"))
            .args(["serve", "--create-repository", "team/app"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("http://127.0.0.1:"), "{line}");
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(child.wait().unwrap().success());
    }
}

fn proxy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_local-ecr")).arg("fault-proxy").args(arguments).output().unwrap()
}

#[test]
fn a_wrong_word_of_a_rule_or_a_proxy_is_named() {
    for (arguments, sentence) in [
        (["--upstream", "http://127.0.0.1:1", "--rule", "PUT reset=1MB"], "reset=1MB is not a whole number"),
        (
            ["--upstream", "http://127.0.0.1:1", "--rule", "PUT expire-tokens"],
            "a proxy cannot do ExpireTokens: it keeps no state",
        ),
        (
            ["--upstream", "127.0.0.1:1", "--rule", "close"],
            "'127.0.0.1:1' is not http://HOST:PORT or https://HOST:PORT",
        ),
        (["--connect", "--open-tls", "--upstream-ca", "/none.pem"], &format!("cannot read /none.pem: {}", not_there())),
        (["--connect", "--listen=0.0.0.0:0", "--rule", "close"], "0.0.0.0 is not a loopback address"),
    ] {
        let output = proxy(&arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(sentence), "{said}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(proxy(&[]).status.code(), Some(2));
}

/// Starts the command and reads the line it prints.
fn started(arguments: &[&str]) -> (std::process::Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_local-ecr"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().to_owned())
}

fn status_of(address: &str) -> String {
    let host = address.trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(stream, "GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[cfg(unix)]
#[test]
fn rules_and_the_record_work_in_both_commands() {
    let folder = tempfile::tempdir().unwrap();
    let record = |name: &str| folder.path().join(name).display().to_string();
    let (mut server, endpoint) =
        started(&["serve", "--record", &record("server"), "--rule", "GET /v2/ skip=1 times=1 answer=500"]);
    let rules = ["--rule", "GET /v2/ times=1 answer=503", "--record", &record("proxy")];
    let (mut proxy, url) = started(&[&["fault-proxy", "--upstream", endpoint.as_str()], &rules[..]].concat());
    let statuses: Vec<_> = (0..4).map(|_| status_of(&url)).collect();
    assert_eq!(statuses, ["503", "401", "500", "401"]);
    for (child, name, seen) in
        [(&mut proxy, "proxy", vec![503, 401, 500, 401]), (&mut server, "server", vec![401, 500, 401])]
    {
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(child.wait().unwrap().success());
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(record(name)).unwrap()).unwrap();
        let statuses: Vec<_> =
            written["requests"].as_array().unwrap().iter().map(|it| it["status"].as_u64().unwrap()).collect();
        assert_eq!((statuses, &written["hits"]), (seen, &serde_json::json!(1)));
    }
}
