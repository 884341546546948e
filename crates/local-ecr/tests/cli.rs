//! The binary.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_local-ecr")).arg("serve").args(arguments).output().unwrap()
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
    refused(
        &["--policy", "/nonexistent.json"],
        "cannot read the policy /nonexistent.json: No such file or directory (os error 2)",
    );
}

#[test]
fn a_bad_repository_name_is_named() {
    let output = run(&["--create-repository", "Bad"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("local-ecr: cannot create the repository 'Bad': "));
}

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
