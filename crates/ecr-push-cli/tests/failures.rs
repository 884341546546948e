//! Pushes that cannot succeed: exit status 1, one sentence that says why, nothing tagged, and no secret shown.

mod common;

#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::time::Duration;

use common::{APP, KEY, Run, SECRET, Stand, closed_port, http, push_words, recorded, two};
use local_ecr::{Answer, Config, Fault, FaultAction, Imds, ImdsMode, Sts};

const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";

/// How the registry's passwords start, and their form in a `Basic` header: both are the server's own.
const PASSWORDS: [&str; 2] = ["bG9jYWwtZWNy", "QVdTOm"];

/// What a failure must look like, whatever it is. Answers the sentence.
#[track_caller]
fn sentence<'a>(stand: &Stand, run: &'a Run) -> &'a str {
    run.hides(&[SECRET]);
    run.hides(&PASSWORDS);
    assert_eq!(stand.tag("v1"), None, "nothing is tagged");
    run.failed(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_are_none() {
    let stand = Stand::new().await;
    let whole = std::fs::read(recorded("docker-20.10-overlay2/export-two.tar")).unwrap();
    let short = stand.file("short.tar", &whole[..whole.len() / 2]).display().to_string();
    let foreign = stand.file("foreign.tar", vec![7; 4096]).display().to_string();
    let text = stand.file("Dockerfile", "FROM scratch\n").display().to_string();
    let empty = stand.file("empty.tar", "").display().to_string();
    let folder = stand.folder.path().display().to_string();
    for (image, names) in [
        ("docker-archive:/nonexistent.tar", "/nonexistent.tar"),
        ("oci:/nonexistent", "/nonexistent"),
        ("oci-archive:/nonexistent.tar", "/nonexistent.tar"),
        (&format!("docker-archive:{short}"), "short.tar"),
        (&format!("oci-archive:{short}"), "short.tar"),
        (&format!("docker-archive:{foreign}"), "foreign.tar"),
        (&format!("oci-archive:{foreign}"), "foreign.tar"),
        (&format!("docker-archive:{text}"), "Dockerfile"),
        (&format!("docker-archive:{empty}"), "empty.tar"),
        (&format!("docker-archive:{folder}"), folder.as_str()),
        (&format!("oci:{folder}"), "has no index.json"),
        (&format!("oci:{text}"), "is not a directory"),
        (&format!("{}:nobody:1", two()), "nobody:1"),
    ] {
        let run = stand.program(&format!("push {image} -r {APP} -t v1")).run().await;
        let said = sentence(&stand, &run);
        assert!(said.contains(names), "`{image}` should say `{names}`:\n{}", run.stderr);
        run.says(&["(source)"]);
    }
    // A stream cannot be looked at twice.
    let file = std::fs::File::open(&short).unwrap();
    let run = stand.program(&format!("push docker-archive:- -r {APP} -t v1")).stdin(file.into()).run().await;
    sentence(&stand, &run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_the_image_lacks() {
    let stand = Stand::new().await;
    let run = stand.program(&format!("push {} -r {APP} -t v1 --platform linux/s390x", common::multi())).run().await;
    sentence(&stand, &run);
    run.says(&["linux/s390x", "linux/amd64", "linux/arm64"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_repository_says_how_to_create_it() {
    let stand = Stand::new().await;
    let run = stand.program(&push_words("").replace(APP, "team/none")).run().await;
    assert!(sentence(&stand, &run).contains("the repository `team/none` does not exist"));
    run.says(&["--create-repository", "aws ecr create-repository --repository-name team/none --region us-east-1"]);
    assert!(run.took < Duration::from_secs(5), "{:?}", run.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_region_lists_every_place_looked_at_within_three_seconds() {
    let hang = Imds { mode: ImdsMode::Hang, ..Imds::default() };
    let stand = Stand::with(Config { imds: Some(hang), ..Config::default() }).await;
    let closed = format!("http://127.0.0.1:{}", closed_port());
    for (name, value) in [
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", closed.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &stand.server.imds_endpoint().unwrap()),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ] {
        let run = stand.push("").without("AWS_REGION").env(name, value).run().await;
        assert!(sentence(&stand, &run).contains("no AWS region is known"), "{}", run.stderr);
        run.says(&["--region", "registry host", "AWS_REGION", "AWS_DEFAULT_REGION", "profile", "instance metadata ("]);
        assert!(run.took < Duration::from_secs(3), "{name}={value}: {:?}", run.took);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credentials_list_every_source_with_its_reason_within_three_seconds() {
    for mode in [None, Some(ImdsMode::Hang), Some(ImdsMode::Disabled), Some(ImdsMode::NoRole)] {
        let imds = mode.map(|mode| Imds { mode, ..Imds::default() });
        let stand = Stand::with(Config { imds, ..Config::default() }).await;
        let mut program = stand.bare(&push_words("--region us-east-1"));
        if let Some(endpoint) = stand.server.imds_endpoint() {
            program = program.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint);
        }
        let run = program.run().await;
        assert!(sentence(&stand, &run).contains("no AWS credentials were found"), "{}", run.stderr);
        for source in ["environment", "profile files", "web identity", "container", "instance metadata"] {
            let line = format!("skipped {source}: ");
            let reason = run.stderr.lines().find_map(|text| text.split_once(&line)).map(|(_, reason)| reason);
            assert!(reason.is_some_and(|reason| reason.len() > 10), "{source}: {}", run.stderr);
        }
        assert!(run.took < Duration::from_secs(3), "{mode:?}: {:?}", run.took);
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_small_stack_of_the_main_thread_is_enough() {
    // Windows gives it 1 MiB. Region and credentials come from instance metadata, the longest way there is.
    let config = Config { imds: Some(Imds::default()), ..Config::default() };
    let stand = Stand::strict(config).await;
    for stack in ["-s 1024", "-s 256"] {
        let run = stand
            .bare(&push_words(""))
            .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", stand.server.imds_endpoint().unwrap())
            .ulimit(stack)
            .run()
            .await;
        assert_eq!(run.status, 0, "ulimit {stack}: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_region_nor_credentials_takes_three_seconds_too() {
    let hang = Imds { mode: ImdsMode::Hang, ..Imds::default() };
    let stand = Stand::with(Config { imds: Some(hang), ..Config::default() }).await;
    let endpoint = stand.server.imds_endpoint().unwrap();
    let run = stand.bare(&push_words("")).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint).run().await;
    sentence(&stand, &run);
    assert!(run.took < Duration::from_secs(3), "{:?}", run.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_named_and_not_shown() {
    let stand = Stand::strict(Config::default()).await;
    let run = stand.push("-v").env("AWS_SECRET_ACCESS_KEY", "wrong-secret-of-the-test").run().await;
    run.hides(&["wrong-secret-of-the-test", KEY]);
    assert!(sentence(&stand, &run).contains("…MPLE"), "which key: {}", run.stderr);
    run.says(&["InvalidSignatureException"]);
    let run = stand.push("-v").env("AWS_ACCESS_KEY_ID", "AKIANOBODYKNOWS").run().await;
    sentence(&stand, &run);
    run.says(&["UnrecognizedClientException", "…NOWS"]);
    run.hides(&["AKIANOBODYKNOWS"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_session_is_named_and_its_token_is_not_shown() {
    let over = Imds { credentials_ttl: Duration::ZERO, ..Imds::default() };
    let stand = Stand::strict(Config { imds: Some(over), ..Config::default() }).await;
    // A session of the server's own that has just ended.
    let imds = stand.server.imds_endpoint().unwrap();
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    let (_, token) = http("PUT", &format!("{imds}/latest/api/token"), &ttl);
    let path = "latest/meta-data/iam/security-credentials/local-ecr-instance";
    let (status, body) = http("GET", &format!("{imds}/{path}"), &[("X-aws-ec2-metadata-token", &token)]);
    assert_eq!(status, 200, "{body}");
    let session: serde_json::Value = serde_json::from_str(&body).unwrap();
    let text = |key: &str| session[key].as_str().unwrap().to_owned();
    let run = stand
        .push("-v")
        .env("AWS_ACCESS_KEY_ID", text("AccessKeyId"))
        .env("AWS_SECRET_ACCESS_KEY", text("SecretAccessKey"))
        .env("AWS_SESSION_TOKEN", text("Token"))
        .run()
        .await;
    assert!(sentence(&stand, &run).contains("expired"), "{}", run.stderr);
    run.says(&["ExpiredTokenException"]);
    run.hides(&[&text("SecretAccessKey"), &text("Token")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_refused_is_not_replaced_by_the_keys() {
    let text = "User: arn:aws:iam::123456789012:user/tester is not authorized to perform: sts:AssumeRole";
    let sts = Sts { refuse: Some(("AccessDenied".into(), text.into())), ..Sts::default() };
    let stand = Stand::strict(Config { sts, ..Config::default() }).await;
    let run = stand.push(&format!("-v --role-arn {ROLE} --external-id the-external-id")).run().await;
    assert!(sentence(&stand, &run).contains(ROLE), "{}", run.stderr);
    run.says(&["AccessDenied", "trust policy", "sts:AssumeRole"]);
    assert!(stand.asked("GetAuthorizationToken").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_named_never_falls_through() {
    let stand = Stand::new().await;
    stand.file(".aws/config", "[profile prod]\nregion = us-east-1\n");
    for (profile, says) in [("nobody", "there is no profile `nobody`"), ("prod", "gives no credentials")] {
        let run = stand.push(&format!("--profile {profile}")).run().await;
        assert!(sentence(&stand, &run).contains(says), "{}", run.stderr);
    }
    assert!(stand.server.requests().is_empty(), "though keys are set");
    // A source that is there and broken stops the search too.
    let run = stand
        .bare(&push_words("--region us-east-1"))
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token")
        .env("AWS_ROLE_ARN", ROLE)
        .run()
        .await;
    assert!(sentence(&stand, &run).contains("web identity"), "{}", run.stderr);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_not_there() {
    let stand = Stand::new().await;
    let words = format!("push app -r {APP} -t v1");
    let run = stand.program(&words).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").run().await;
    assert!(sentence(&stand, &run).contains("unix:///nonexistent/docker.sock"), "{}", run.stderr);
    // A socket that nobody listens on any more.
    let stale = stand.folder.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let run = stand.program(&words).env("DOCKER_HOST", format!("unix://{}", stale.display())).run().await;
    let said = sentence(&stand, &run);
    assert!(said.contains("stale.sock") && said.contains("refused"), "{}", run.stderr);
    // The flag wins over the variable, and a port is an address too.
    let port = closed_port();
    let run = stand
        .program(&format!("{words} --docker-host tcp://127.0.0.1:{port}"))
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock")
        .run()
        .await;
    assert!(sentence(&stand, &run).contains(&format!("tcp://127.0.0.1:{port}")), "{}", run.stderr);
    let run = stand.program(&format!("{words} --docker-context nobody")).run().await;
    assert_ne!(run.status, 0);
    run.says(&["nobody"]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn without_any_engine_every_socket_is_listed_and_one_that_refuses_ends_the_search() {
    if ["/var/run/docker.sock", "/run/podman/podman.sock"].iter().any(|path| std::path::Path::new(path).exists()) {
        eprintln!("skipped: this machine has an engine");
        return;
    }
    let stand = Stand::new().await;
    let words = format!("push app -r {APP} -t v1");
    let run = stand.program(&words).env("XDG_RUNTIME_DIR", stand.folder.path()).run().await;
    sentence(&stand, &run);
    for socket in ["/var/run/docker.sock", "podman/podman.sock", ".docker/run/docker.sock", ".colima/default"] {
        assert!(run.stderr.contains(socket), "{socket}: {}", run.stderr);
    }
    // The first socket found refuses; the next one, which would answer, is not tried.
    drop(UnixListener::bind(stand.folder.path().join("docker.sock")).unwrap());
    std::fs::create_dir_all(stand.folder.path().join(".docker/run")).unwrap();
    let next = UnixListener::bind(stand.folder.path().join(".docker/run/docker.sock")).unwrap();
    next.set_nonblocking(true).unwrap();
    let run = stand.program(&words).env("XDG_RUNTIME_DIR", stand.folder.path()).run().await;
    let said = sentence(&stand, &run);
    assert!(said.contains("refused") && said.contains("/docker.sock"), "{}", run.stderr);
    assert!(next.accept().is_err(), "the next socket was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_names_the_permission_and_shows_no_password() {
    let stand = Stand::new().await;
    let text = "User: arn:aws:iam::123456789012:user/tester is not authorized to perform: ecr:PutImage on resource: \
                arn:aws:ecr:us-east-1:123456789012:repository/team/app because no identity-based policy allows the \
                ecr:PutImage action";
    let answer = FaultAction::Answer(Answer::error(403, "DENIED", text));
    stand.server.add_fault(Fault::new(answer).method("PUT").path("/manifests/"));
    let run = stand.push("-v").run().await;
    assert!(sentence(&stand, &run).contains("ecr:PutImage"), "{}", run.stderr);
    run.says(&["status 403", "code DENIED", "\"Statement\"", "arn:aws:ecr:us-east-1:"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_not_there_is_named_without_its_password() {
    let stand = Stand::new().await;
    let port = closed_port();
    let run = stand
        .push("-v --endpoint-url https://ecr.registry.example --retry-budget 1s")
        .without("AWS_ENDPOINT_URL")
        .env("HTTPS_PROXY", format!("http://proxy-user:proxy-geheim@127.0.0.1:{port}"))
        .run()
        .await;
    run.hides(&["proxy-geheim", "cHJveHktdXNlcjpwcm94eS1nZWhlaW0="]);
    sentence(&stand, &run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stays_down_shows_no_password_however_often_it_is_tried() {
    let stand = Stand::new().await;
    stand.server.add_fault(Fault::new(FaultAction::Answer(Answer::status(503))).method("PUT"));
    let run = stand.push("-v --retry-budget 2s").run().await;
    sentence(&stand, &run);
    run.says(&["status 503", "trying again in"]);
    assert!(run.took < Duration::from_secs(10), "{:?}", run.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_characters_from_outside_stay_outside() {
    let stand = Stand::new().await;
    let answer = FaultAction::Answer(Answer::error(400, "X", "\u{1b}[2Jpainted\rover"));
    stand.server.add_fault(Fault::new(answer).method("PUT").path("/manifests/"));
    let run = stand.push("").run().await;
    sentence(&stand, &run);
    let control = run.stderr.chars().filter(|c| c.is_control() && *c != '\n').count();
    assert_eq!(control, 0, "{:?}", run.stderr);
}
