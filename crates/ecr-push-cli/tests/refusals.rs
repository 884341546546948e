//! Wrong command lines: exit status 2, one sentence, and nobody was asked anything.

mod common;

use common::{ACCOUNT, APP, Program, Run, Stand, push_words};

/// Runs `words` and asserts that they are refused before any network call.
async fn refused(stand: &Stand, words: &str, variables: &[(&str, &str)]) -> Run {
    let run = stand.program(words).envs(variables).run().await;
    run.failed(2);
    assert!(run.stderr.starts_with("error: "), "`{words}`: nothing comes before the sentence:\n{}", run.stderr);
    let asked = stand.server.requests();
    assert!(asked.is_empty(), "`{words}` asked {asked:?}");
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_are_refused_before_any_network_call() {
    let stand = Stand::new().await;
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    let role = "--role-arn arn:aws:iam::123456789012:role/x";
    let damaged = stand.file("damaged.pem", "no certificate").display().to_string();
    // Words after the image, and what the refusal says.
    for (words, says) in [
        // Destination.
        ("", "--repository"),
        ("-r Team/App", "did you mean `team/app`?"),
        ("-r team//app/", "did you mean `team/app`?"),
        ("-r a", "2 to 256 characters"),
        ("-r app:v1", "write the repository as `app` and the tag as `--tag v1`"),
        ("-r app@sha256:0", "is a reference, not a repository"),
        ("-r app -t a+b", "did you mean `a-b`?"),
        ("-r app -t -v1", "error: "),
        ("-r app --tag=.x", "did you mean `x`?"),
        ("-r app --to localhost:5000/app", "cannot be used with"),
        ("-r app --registry-id 12", "twelve digits"),
        (&format!("-r {host}/app --region eu-west-1"), "`--region eu-west-1` contradicts the host"),
        (&format!("-r {host}/app --registry-id 999999999999"), "`--registry-id 999999999999` contradicts the host"),
        (&format!("--to {host}/app --region eu-west-1"), "`--region eu-west-1` contradicts the host"),
        (&format!("--to {host}/App"), "did you mean `app`?"),
        (&format!("--to {host}"), "is not HOST[:PORT]/REPOSITORY"),
        ("--to registry.example/app:v1", "the tag as `--tag v1`"),
        ("--to https://registry.example/app", "write `--to registry.example/app`"),
        ("--to http://registry.example/app", "`--plain-http`"),
        ("--to registry.example/App", "is not allowed"),
        ("--to a_b|c/app", "is not a host name"),
        // Image.
        ("-r app --platform linux", "`linux/amd64`"),
        ("-r app --platform linux/a/b/c", "is not a platform"),
        ("-r app --attestations maybe", "possible values: keep, drop"),
        // Network.
        ("-r app --pass-env TOKEN=value", "`--pass-env` is not a variable's name"),
        ("-r app --pass-env=", "`--pass-env` is not a variable's name"),
        ("-r app --pass-env *", "`--pass-env` is not a variable's name"),
        // AWS.
        ("-r app --region useast1", "`useast1` is not a region code"),
        ("-r app --role-arn arn:aws:iam::1:role/x", "is not the ARN of a role"),
        ("-r app --external-id x", "--role-arn"),
        (&format!("-r app {role} --role-duration-seconds 899"), "900 to 43200"),
        (&format!("-r app {role} --role-duration-seconds 43201"), "900 to 43200"),
        (&format!("-r app {role} --role-session-name a/b"), "the role session name `a/b` is not allowed"),
        ("-r app --fips", "a custom endpoint cannot be combined with FIPS or dual-stack"),
        ("-r app --dualstack", "a custom endpoint cannot be combined with FIPS or dual-stack"),
        ("-r app --endpoint-url localhost:5000", "is not an http:// or https:// URL"),
        ("-r app --endpoint-url http://api.ecr.us-east-1.amazonaws.com", "without TLS"),
        ("-r app --endpoint-url https://u:geheim@ecr.example", "holds a user or password"),
        // Network.
        ("-r app --ca-bundle /nonexistent/ca.pem", "/nonexistent/ca.pem"),
        (&format!("-r app --ca-bundle {damaged}"), "damaged.pem"),
        ("-r app --connect-to a:443", "a:443"),
        ("-r app --connect-to a:443:b:x", "a:443:b:x"),
        ("-r app --connect-to u:secret@a:443:b:443", "takes addresses only"),
        ("-r app --connect-to a:5000:b:6000", "error: "),
        ("-r app --retry-budget soon", "90, 90s, 5m or 1h"),
        ("-r app --wait-visible never", "90, 90s, 5m or 1h; or off"),
        // Engine, transfer, output.
        ("-r app --docker-host unix:///x --docker-context y", "cannot be used with"),
        ("-r app --jobs 0", "1..=64"),
        ("-r app --jobs 65", "1..=64"),
        ("-r app --threads 0", "1..=256"),
        ("-r app --compression gzip:0", "not within 1 to 9"),
        ("-r app --compression lz4", "gzip:fast"),
        ("-r app --compression zstd:20", "not within 1 to 19"),
        ("-r app --reuse always", "registry, own, verify, off"),
        ("-r app --reuse-from a:b", "`--reuse-from`: "),
        ("-r app --mount-from UPPER", "`--mount-from`: "),
        ("-r app --mount-from base:latest", "leave out the tag"),
        ("-r app --mount-from 123456789012.dkr.ecr.us-east-1.amazonaws.com/base", "leave out the host"),
        ("-r app --output yaml", "possible values: text, json"),
        ("-r app --progress dots", "possible values: auto, bars, lines"),
        ("-r app --quiet --verbose", "cannot be used with"),
        ("-r app --frobnicate", "--frobnicate"),
        ("-r app another", "another"),
    ] {
        let words = format!("push {} {words}", common::two());
        let run = refused(&stand, &words, &[]).await;
        assert!(run.stderr.contains(says), "`{words}` should say `{says}`:\n{}", run.stderr);
        run.hides(&["geheim"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_images_are_refused_before_any_network_call() {
    let stand = Stand::new().await;
    for (image, says) in [
        ("containerd:", "names no image"),
        ("docker://host/app", "the source `docker:` is not supported"),
        ("docker-archive:", "names no file"),
        ("oci:dir:", "ends in a colon without a reference"),
        ("docker-daemon:", "names no image"),
    ] {
        let run = refused(&stand, &format!("push {image} -r {APP} -t v1"), &[]).await;
        assert!(run.stderr.contains(says), "`{image}` should say `{says}`:\n{}", run.stderr);
    }
    let run = stand.program(&format!("push -r {APP}")).arg("").run().await;
    assert!(run.failed(2).contains("no image is named"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_variables_are_refused_before_any_network_call_and_named() {
    let stand = Stand::new().await;
    let far = [("AWS_ENDPOINT_URL", "")];
    for (name, value, says) in [
        ("AWS_REGION", "useast1", "AWS_REGION"),
        ("AWS_ENDPOINT_URL_ECR", "nonsense", "`nonsense`"),
        ("AWS_ENDPOINT_URL_STS", "http://sts.amazonaws.com", "without TLS"),
        ("AWS_USE_FIPS_ENDPOINT", "true", "AWS_USE_FIPS_ENDPOINT"),
        ("AWS_USE_DUALSTACK_ENDPOINT", "TRUE", "AWS_USE_DUALSTACK_ENDPOINT"),
        ("AWS_CA_BUNDLE", "/nonexistent/ca.pem", "/nonexistent/ca.pem"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem", "/nonexistent/ca.pem"),
        ("HTTPS_PROXY", "socks5://user:geheim@proxy", "HTTPS_PROXY"),
        ("http_proxy", "http://", "HTTP_PROXY"),
    ] {
        let run = refused(&stand, &push_words(""), &[(name, value)]).await;
        assert!(run.stderr.contains(says), "{name} should say `{says}`:\n{}", run.stderr);
        run.hides(&["geheim"]);
    }
    // With FIPS and no endpoint of one's own there is nothing to refuse: another word decides.
    let run = stand.push("--fips --region useast1").envs(&far).run().await;
    assert!(run.failed(2).contains("useast1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_engine_address_is_refused_before_any_network_call() {
    let stand = Stand::new().await;
    for (value, says) in [
        ("/var/run/docker.sock", "did you mean `unix:///var/run/docker.sock`?"),
        ("fd://3", "`fd://3`"),
        ("ssh://-oProxyCommand=x", "is not an engine address"),
    ] {
        let words = format!("push app -r {APP} -t v1");
        let run = refused(&stand, &words, &[("DOCKER_HOST", value)]).await;
        assert!(run.stderr.contains(says), "`{value}` should say `{says}`:\n{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blank_variables_are_as_good_as_unset() {
    let stand = Stand::new().await;
    let blank = [
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_ECR",
        "AWS_ENDPOINT_URL_STS",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_CA_BUNDLE",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "NO_PROXY",
        "DOCKER_HOST",
        "DOCKER_CONFIG",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
    ];
    let program = blank.iter().fold(stand.push(""), |program, name| program.env(name, ""));
    program.run().await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_directory_that_is_none_stops_before_any_network_call() {
    let stand = Stand::new().await;
    let run = stand.push("--temp-dir /nonexistent").run().await;
    assert!(stand.server.requests().is_empty());
    run.says(&["/nonexistent", "`--temp-dir`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_temporary_directory_that_is_none_is_refused() {
    let stand = Stand::new().await;
    refused(&stand, &push_words("--temp-dir /nonexistent"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_repository_is_refused() {
    let stand = Stand::new().await;
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    refused(&stand, &push_words("").replace(APP, &host), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheme_before_the_repository_is_refused_with_the_right_word() {
    let stand = Stand::new().await;
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    let run = refused(&stand, &push_words("").replace(APP, &format!("https://{host}/{APP}")), &[]).await;
    run.says(&[&format!("`{host}/{APP}`")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_engine_flag_does_not_hide_the_variable() {
    let stand = Stand::new().await;
    for flag in ["--docker-host=", "--docker-context="] {
        let words = format!("push app -r {APP} -t v1 {flag}");
        let run = stand.program(&words).env("DOCKER_HOST", "unix:///nonexistent/docker.sock").run().await;
        assert_ne!(run.status, 0);
        assert!(run.status == 2 || run.stderr.contains("unix:///nonexistent/docker.sock"), "{flag}: {}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slips_of_the_pen_are_refused_with_what_to_type() {
    let stand = Stand::new().await;
    for file in ["app.tar", "team.TGZ", "app"] {
        stand.file(file, "");
    }
    stand.file("layout/index.json", "{}");
    let host = format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com");
    // Words divided by `|`, what is wrong, and what to type.
    for (words, wrong, right) in [
        // Files in the place of an image.
        ("./app.tar|-r|app", "`./app.tar` is a file", "`docker-archive:./app.tar`"),
        ("app.tar|-r|app", "`app.tar` is a file", "`docker-archive:app.tar`"),
        ("team.TGZ|-r|app", "`team.TGZ` is a file", "`docker-archive:team.TGZ`"),
        ("./app|-r|app", "`./app` is a file", "`docker-archive:./app`"),
        ("./layout|-r|app", "`./layout` is a folder", "`oci:./layout`"),
        ("./none.tar|-r|app", "`./none.tar` looks like a file, and there is none", "`docker-archive:FILE`"),
        ("-|-r|app", "`-` names no image", "`docker-archive:-`"),
        ("~/app.tar|-r|app", "a `~` that the shell has left", "`docker-archive:$HOME/app.tar`"),
        ("docker-archive:~/app.tar|-r|app", "a `~` that the shell has left", "`docker-archive:$HOME/app.tar`"),
        ("oci:~/app|-r|app", "a `~` that the shell has left", "`oci:$HOME/app`"),
        // Line ends of Windows.
        ("app:1\r|-r|app", "the image `app:1` ends in a carriage return", "`dos2unix FILE`"),
        ("app|-r|app\r", "`--repository` `app` ends in a carriage return", "`dos2unix FILE`"),
        ("app|-r|app|-t|v1\r", "`--tag` `v1` ends in a carriage return", "`dos2unix FILE`"),
        ("app|--to|host/app\r", "`--to` `host/app` ends in a carriage return", "`dos2unix FILE`"),
        // The destination.
        ("app|-r|app|-t|repo:1", "`repo:1` is a reference, not a tag", "`--repository repo` and `--tag 1`"),
        ("app|-r|app|-t|localhost:5/repo:1", "is a reference", "`--repository localhost:5/repo` and `--tag 1`"),
        ("app|-r|app|--registry-id|1234-5678-9012", "is not an AWS account id", "did you mean `123456789012`?"),
        ("app|-r|HOST/HOST/app", "a registry's host twice", "`HOST/app`"),
        ("app|--to|HOST/HOST/app", "a registry's host twice", "`HOST/app`"),
        ("app|HOST/app:1", "`HOST/app:1` is one word too many", "`--to HOST/app` `--tag 1`"),
        ("app|localhost:5000/app", "`localhost:5000/app` is one word too many", "`--to localhost:5000/app`"),
        ("app|team/app:1|-t|1", "`team/app:1` is one word too many", "`--repository team/app` `--tag 1`"),
        // Dashes of a word processor.
        ("app|\u{2013}r|app", "`\u{2013}r` begins with a dash that no flag has (U+2013)", "`-r`"),
        ("\u{2013}\u{2013}region|app", "begins with a dash that no flag has (U+2013)", "`--region`"),
        ("app|-r|app|\u{2014}tag=1", "begins with a dash that no flag has (U+2014)", "`--tag=1`"),
        ("app|-r|app|\u{2212}\u{2212}dry-run", "begins with a dash that no flag has (U+2212)", "`--dry-run`"),
    ] {
        let [words, wrong, right] = [words, wrong, right].map(|text| text.replace("HOST", &host));
        let program = words.split('|').fold(stand.program("push").within(stand.folder.path()), Program::arg);
        let run = program.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").run().await;
        assert!(run.failed(2).contains(&wrong), "`{words}` should say `{wrong}`:\n{}", run.stderr);
        assert!(run.stderr.contains("  hint: ") && run.stderr.contains(&right), "`{words}`: {right}:\n{}", run.stderr);
        assert!(stand.server.requests().is_empty(), "`{words}`");
    }
    // A program that is called as its image is, and an image that is called as an archive is.
    for words in [format!("push app -r {APP}"), format!("push docker-daemon:app.tar -r {APP}")] {
        let program = stand.program(&words).within(stand.folder.path());
        let run = program.env("DOCKER_HOST", "unix:///nonexistent/docker.sock").run().await;
        assert!(run.failed(1).contains("unix:///nonexistent/docker.sock"), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_packed_in_a_way_that_is_not_read_says_how_to_unpack_it() {
    let stand = Stand::new().await;
    for (name, head, hint) in [
        ("a.tar.xz", &b"\xfd7zXZ\x00\x00\x04"[..], "`xz -dc FILE | ecr-push push docker-archive:- ...`"),
        ("a.tar.bz2", b"BZh91AY&SY", "`bzip2 -dc FILE | ecr-push push docker-archive:- ...`"),
        ("a.zip", b"PK\x03\x04\x14\x00", "`unzip -p FILE | ecr-push push docker-archive:- ...`"),
        ("a.tar.lz4", b"\x04\x22\x4d\x18\x64", "`lz4 -dc FILE | ecr-push push docker-archive:- ...`"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd\x04", "`zstd -dc FILE | ecr-push push docker-archive:- ...`"),
    ] {
        let path = stand.file(name, [head, &[0; 2000]].concat());
        for transport in ["docker-archive", "oci-archive"] {
            let image = format!("{transport}:{}", path.display());
            let run = stand.program(&format!("push {image} -r {APP} -t v1")).run().await;
            assert!(run.failed(1).contains("which is not read"), "{}", run.stderr);
            run.says(&[name, hint]);
            let stdin = std::fs::File::open(&path).unwrap();
            let program = stand.program(&format!("push {transport}:- -r {APP} -t v1")).stdin(stdin.into());
            program.run().await.says(&["which is not read", hint]);
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_not_waited_for_to_type_an_archive() {
    let stand = Stand::new().await;
    let command = format!("{} push docker-archive:- -r {APP} -t v1", env!("CARGO_BIN_EXE_ecr-push"));
    // util-linux' program gives it a terminal.
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env_clear().env("HOME", stand.folder.path());
    script.env("PATH", "/usr/bin:/bin").env("AWS_ENDPOINT_URL", stand.server.endpoint_url());
    let Ok(output) = script.stdin(std::process::Stdio::null()).output() else {
        eprintln!("skipped: this machine has no `script`");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("from standard input, which is a terminal") && said.contains("docker save"), "{said}");
    assert!(stand.server.requests().is_empty());
}
