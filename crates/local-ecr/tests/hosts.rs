//! The hosts that a server answers for: a page whose name leads to this machine must not reach it.

mod common;

use common::*;
use local_ecr::{Config, Imds, Tls};

/// The status of `GET /v2/` under these headers; 401 is an answer, of the registry.
async fn status(ecr: &Ecr, headers: &[(&str, &str)]) -> u16 {
    ask(ecr, "GET", "/v2/", headers).await.0
}

async fn ask(ecr: &Ecr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    raw(ecr.address(), method, path, headers).await
}

/// A request with no header but these.
async fn raw(to: std::net::SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn the_names_of_this_machine_and_of_ecr_are_its_own() {
    let ecr = ecr().await;
    let port = ecr.address().port();
    for host in [
        &format!("127.0.0.1:{port}"),
        &format!("localhost:{port}"),
        &format!("LocalHost.:{port}"),
        &format!("[::1]:{port}"),
        // A forwarder, such as ssh's, listens on a port of its own and leaves the header as it is.
        "localhost:1",
        "127.0.0.1",
        "127.9.9.9",
        "registry.localhost",
        "0.0.0.0:1",
        "[::ffff:127.0.0.1]",
        // Nobody but Amazon can let these lead anywhere.
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.DKR.ecr.us-east-1.amazonaws.com.:443",
        "123456789012.dkr-ecr.us-east-1.on.aws",
        "api.ecr.us-east-1.amazonaws.com",
    ] {
        assert_eq!(status(&ecr, &[("Host", host)]).await, 401, "{host}");
    }
}

#[tokio::test]
async fn every_other_host_is_refused_with_what_to_do() {
    let ecr = ecr().await;
    let port = ecr.address().port();
    let rebound = format!("evil.example:{port}");
    for host in [
        rebound.as_str(),
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "notlocalhost",
        "192.0.2.7",
        "[2001:db8::1]:80",
        "999999999999.dkr.ecr.us-east-1.amazonaws.com",
        "user@localhost",
        "localhost:port",
        "",
    ] {
        assert_eq!(status(&ecr, &[("Host", host)]).await, 421, "{host}");
    }
    assert_eq!(status(&ecr, &[]).await, 421, "no Host at all");
    let two = [("Host", "localhost"), ("Host", "evil.example")];
    assert!([400, 421].contains(&status(&ecr, &two).await), "one of two");
    let whole = ask(&ecr, "GET", "http://evil.example/v2/", &[("Host", "localhost")]).await.0;
    assert_eq!(whole, 421, "the URL names another host than the header");

    let (_, body) = ask(&ecr, "GET", "/v2/", &[("Host", &rebound)]).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let message = text(&body["errors"][0]["message"]);
    assert!(message.contains(&rebound) && message.contains(&format!("127.0.0.1:{port}")), "{message}");
    assert!(message.contains(&format!("--public-host {rebound}")), "{message}");
    let target = ("X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken");
    let (status, body) = ask(&ecr, "POST", "/", &[("Host", &rebound), target, ("Content-Length", "0")]).await;
    assert_eq!(status, 421);
    assert!(body.contains("\"__type\":\"MisdirectedRequest\""), "{body}");
}

#[tokio::test]
async fn a_refused_host_changes_and_learns_nothing() {
    use local_ecr::{Answer, Fault, FaultAction};
    let ecr = ecr().await;
    ecr.add_fault(Fault::new(FaultAction::Answer(Answer::status(503))).times(1));
    let password = format!("Basic {}", ecr.token);
    let headers = [("Host", "evil.example"), ("Authorization", password.as_str()), ("Content-Length", "0")];
    assert_eq!(ask(&ecr, "POST", "/v2/team/app/blobs/uploads/", &headers).await.0, 421);
    assert_eq!(ecr.hits(), 0, "no fault was spent on it");
    let seen = ecr.requests();
    assert_eq!(seen.iter().map(|request| request.status).collect::<Vec<_>>(), [Some(421)], "it is on record");
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused() {
    let ecr = ecr().await;
    let host = format!("localhost:{}", ecr.address().port());
    for origin in [
        "http://evil.example",
        "null",
        "http://localhost:3000",
        &format!("http://127.0.0.1:{}", ecr.address().port()),
        "http://localhost",
        "nonsense",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let headers = [("Host", host.as_str()), ("Origin", origin), ("Content-Length", "0")];
            let (status, body) = ask(&ecr, method, "/v2/", &headers).await;
            assert_eq!(status, 403, "{method} {origin}");
            assert!(body.contains(origin), "{body}");
        }
    }
    let own = format!("http://{host}");
    assert_eq!(status(&ecr, &[("Host", &host), ("Origin", &own)]).await, 401);
    assert_eq!(status(&ecr, &[("Host", "localhost:80"), ("Origin", "http://localhost")]).await, 401);
}

#[tokio::test]
async fn metadata_answers_for_its_own_hosts_too() {
    let ecr = start(Config { imds: Some(Imds::default()), ..Config::default() }).await;
    let endpoint = ecr.imds_endpoint().unwrap();
    let address = endpoint.trim_start_matches("http://").parse().unwrap();
    let path = "/latest/meta-data/placement/region";
    for (host, wanted) in [("127.0.0.1", 401), ("169.254.169.254", 401), ("localhost:1", 401), ("evil.example", 421)] {
        assert_eq!(raw(address, "GET", path, &[("Host", host)]).await.0, wanted, "{host}");
    }
    let origin = [("Host", "127.0.0.1"), ("Origin", "http://evil.example")];
    assert_eq!(raw(address, "GET", path, &origin).await.0, 403);
}

#[tokio::test]
async fn the_real_names_are_served_over_tls_whatever_the_port() {
    let mut ecr = start(Config { tls: Some(Tls::default()), ..Config::default() }).await;
    let host = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
    let ca = reqwest::Certificate::from_pem(ecr.ca_pem().unwrap().as_bytes()).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only([ca]).no_proxy();
    ecr.http = builder.resolve(host, ecr.address()).build().unwrap();
    let url = format!("https://{host}:{}/v2/", ecr.address().port());
    assert_eq!(ecr.bare("GET", &url).send().await.unwrap().status(), 401);
    // As clients have it that were led here from port 443.
    assert_eq!(ecr.bare("GET", &url).header("host", host).send().await.unwrap().status(), 401);
    assert_eq!(ecr.bare("GET", &url).header("host", "evil.example").send().await.unwrap().status(), 421);
}

/// What the answers of a server name when `host` is asked: the registry, an upload, and where a blob is.
async fn named(ecr: &Ecr, host: &str) -> [String; 4] {
    let (date, authorization) = unsigned("alice", "us-east-1", "ecr");
    let api = |operation: &str, input: serde_json::Value| {
        let request = ecr.bare("POST", "/").header("host", host).header("x-amz-date", &date);
        let target = format!("AmazonEC2ContainerRegistry_V20150921.{operation}");
        request.header("authorization", &authorization).header("x-amz-target", target).body(input.to_string()).send()
    };
    let token = json_of(api("GetAuthorizationToken", serde_json::json!({})).await.unwrap()).await;
    let described = json_of(api("DescribeRepositories", serde_json::json!({})).await.unwrap()).await;
    let upload = ecr.v2("POST", &format!("{REPOSITORY}/blobs/uploads/")).header("host", host).send().await.unwrap();
    let blob = ecr.v2("GET", &format!("{REPOSITORY}/blobs/{}", digest(b"layer v1"))).header("host", host);
    let blob = blob.send().await.unwrap();
    [
        text(&token["authorizationData"][0]["proxyEndpoint"]),
        text(&described["repositories"][0]["repositoryUri"]),
        location(&upload).split("/v2/").next().unwrap().to_owned(),
        location(&blob),
    ]
}

#[tokio::test]
async fn answers_name_the_host_that_was_asked_for() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    for (host, blobs) in [
        // As when this port is forwarded from another one.
        ("127.0.0.1:7001", "http://localhost:7001/"),
        ("localhost:7001", "http://127.0.0.1:7001/"),
        ("[::1]:7001", "http://localhost:7001/"),
        ("registry.localhost:7001", "http://registry.localhost:7001/"),
    ] {
        let [registry, repository, upload, blob] = named(&ecr, host).await;
        assert_eq!(registry, format!("http://{host}"));
        assert_eq!(repository, format!("{host}/{REPOSITORY}"));
        assert_eq!(upload, format!("http://{host}"));
        assert!(blob.starts_with(blobs), "{blob}");
    }
}

#[tokio::test]
async fn a_client_that_is_led_to_the_same_host_may_keep_its_password() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    for (host, wanted) in [("registry.localhost", 200), ("localhost", 400)] {
        let [.., blob] = named(&ecr, host).await;
        let path = blob.splitn(4, '/').nth(3).unwrap();
        let response = ecr.at("GET", &format!("{}/{path}", ecr.endpoint_url())).send().await.unwrap();
        assert_eq!(response.status(), wanted, "{host}");
    }
}

#[tokio::test]
async fn a_public_host_is_named_whatever_was_asked() {
    let public = "Registry.example:8443";
    let ecr = start(Config { public_host: Some(public.into()), ..Config::default() }).await;
    ecr.push_image("v1").await;
    assert_eq!(ecr.registry_host(), public);
    for host in [public, "registry.example", "127.0.0.1"] {
        let [registry, repository, upload, blob] = named(&ecr, host).await;
        assert_eq!(registry, format!("http://{public}"), "{host}");
        assert_eq!(repository, format!("{public}/{REPOSITORY}"), "{host}");
        assert_eq!(upload, format!("http://{public}"), "{host}");
        assert!(blob.starts_with(&format!("http://{public}/_s3/")), "{host}: {blob}");
    }
    assert_eq!(status(&ecr, &[("Host", "other.example")]).await, 421);
    for wrong in ["", "http://a", "a/b", "a:b", "u@a"] {
        let config = Config { public_host: Some(wrong.into()), ..Config::default() };
        let error = local_ecr::LocalEcr::start(config).await.unwrap_err().to_string();
        assert_eq!(error, format!("the public host '{wrong}' is not HOST or HOST:PORT"));
    }
}

#[tokio::test]
async fn the_certificate_has_the_public_name() {
    let config =
        Config { public_host: Some("registry.example".into()), tls: Some(Tls::default()), ..Config::default() };
    let mut ecr = start(config).await;
    let ca = reqwest::Certificate::from_pem(ecr.ca_pem().unwrap().as_bytes()).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only([ca]).no_proxy();
    ecr.http = builder.resolve("registry.example", ecr.address()).build().unwrap();
    let url = format!("https://registry.example:{}/v2/", ecr.address().port());
    assert_eq!(ecr.bare("GET", &url).send().await.unwrap().status(), 401);
}
