//! An engine that cannot be had is named by what named it: the flag, or the variable.

mod common;

use common::{APP, Run, Stand, closed_port};

/// The folder of a context in docker's configuration: the SHA-256 of its name.
fn context(stand: &Stand, name: &str, meta: &str) {
    let digest = ecr_push::image::Digest::of(name.as_bytes()).to_string();
    let folder = digest.strip_prefix("sha256:").unwrap();
    stand.file(&format!(".docker/contexts/meta/{folder}/meta.json"), meta);
}

#[track_caller]
fn names(case: &str, run: &Run, by: &str, others: &[&str]) {
    assert!(run.status == 1 || run.status == 2, "{case}: {}", run.stderr);
    let error = run.stderr.split_once("error: ").map_or("", |(_, error)| error);
    assert!(error.lines().next().unwrap_or_default().contains(by), "{case}: `{by}` is missing in:\n{}", run.stderr);
    for other in others {
        assert!(!error.contains(other), "{case}: `{other}` is in:\n{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_flag_that_was_given_or_the_variable() {
    let stand = Stand::new().await;
    context(&stand, "damaged", "{");
    context(&stand, "empty", r#"{"Name":"empty","Endpoints":{}}"#);
    context(&stand, "bad", r#"{"Name":"bad","Endpoints":{"docker":{"Host":"ftp://h"}}}"#);
    let gone = format!(r#"{{"Name":"gone","Endpoints":{{"docker":{{"Host":"tcp://127.0.0.1:{}"}}}}}}"#, closed_port());
    context(&stand, "gone", &gone);
    let away = format!("tcp://127.0.0.1:{}", closed_port());
    let (host, context) = (("--docker-host", "DOCKER_HOST"), ("--docker-context", "DOCKER_CONTEXT"));
    for ((flag, variable), value) in [
        (host, away.as_str()),
        (host, "unix:///nonexistent/docker.sock"),
        (host, "/var/run/docker.sock"),
        (host, "ftp://h"),
        (host, "tcp://h/path"),
        (host, "ssh://-x@h"),
        (context, "unknown"),
        (context, "damaged"),
        (context, "empty"),
        (context, "bad"),
        (context, "gone"),
    ] {
        let program = || stand.program(&format!("push app --repository {APP}"));
        let run = program().arg(flag).arg(value).run().await;
        names(&format!("{flag} {value}"), &run, flag, &["DOCKER_HOST", "DOCKER_CONTEXT"]);
        let run = program().env(variable, value).run().await;
        names(&format!("{variable}={value}"), &run, variable, &["--docker-host", "--docker-context"]);
        // The flag wins, and is named.
        let run = program().arg(flag).arg(value).env("DOCKER_HOST", "tcp://127.0.0.1:1").run().await;
        names(&format!("{flag} {value} over DOCKER_HOST"), &run, flag, &["DOCKER_HOST", "DOCKER_CONTEXT"]);
        // Without a home there are no contexts.
        if flag == context.0 {
            let run = program().without("HOME").arg(flag).arg(value).run().await;
            names(&format!("{flag} {value} without a home"), &run, flag, &["DOCKER_HOST", "DOCKER_CONTEXT"]);
        }
    }
}
