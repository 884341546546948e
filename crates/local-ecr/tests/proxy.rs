//! The fault proxy: what passes, and what exactly does not.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use local_ecr::{Answer, Config, ConnectionAction, ConnectionFault, Fault, FaultAction, FaultProxy, ProxyConfig, Tls};
use reqwest::{Client, RequestBuilder, StatusCode};

/// A server and a proxy that stands in for it.
struct Stand {
    ecr: Ecr,
    proxy: FaultProxy,
}

async fn stand() -> Stand {
    let ecr = ecr().await;
    let proxy = FaultProxy::start(ProxyConfig::to(&ecr.endpoint_url())).await.unwrap();
    Stand { ecr, proxy }
}

impl Stand {
    fn v2(&self, method: &str, path: &str) -> RequestBuilder {
        self.ecr.at(method, &format!("{}/v2/{path}", self.proxy.url()))
    }

    async fn session(&self) -> String {
        let response = self.v2("POST", &format!("{REPOSITORY}/blobs/uploads/")).send().await.unwrap();
        assert_eq!(response.status(), 202);
        location(&response)
    }

    fn put(&self, url: &str, bytes: &[u8]) -> RequestBuilder {
        self.ecr.at("PUT", &format!("{url}?digest={}", digest(bytes))).body(bytes.to_vec())
    }

    fn fault(&self, action: FaultAction) -> Fault {
        Fault::new(action).method("PUT").path("/blobs/uploads/")
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

#[tokio::test]
async fn without_faults_all_passes_unchanged() {
    let through = stand().await;
    let blob = noise(3 * MIB);
    let url = through.session().await;
    // The address that the server gave is the proxy's: it saw the host that the client asked for.
    assert!(url.starts_with(&through.proxy.url()), "{url}");
    let range = format!("0-{}", MIB - 1);
    let patch = through.ecr.at("PATCH", &url).header("content-range", range).body(blob[..MIB].to_vec());
    assert_eq!(patch.send().await.unwrap().status(), 201);
    let range = format!("{MIB}-{}", 3 * MIB - 1);
    let commit = format!("{url}?digest={}", digest(&blob));
    let commit = through.ecr.at("PUT", &commit).header("content-range", range).body(blob[MIB..].to_vec());
    let refused = error_of(commit.send().await.unwrap()).await;
    // A first part of 1 MiB is too small; that too is an answer to pass on.
    assert_eq!((refused.0, refused.1.as_str()), (400, "BLOB_UPLOAD_INVALID"));

    let url = through.session().await;
    assert_eq!(through.put(&url, &blob).send().await.unwrap().status(), 201);
    let head = through.v2("HEAD", &format!("{REPOSITORY}/blobs/{}", digest(&blob))).send().await.unwrap();
    assert_eq!(header(&head, "content-length").unwrap(), (3 * MIB).to_string());
    let missing = through.v2("HEAD", &format!("{REPOSITORY}/blobs/{}", digest(b"none"))).send().await.unwrap();
    assert_eq!(missing.status(), 404);
    let manifest = through.v2("GET", &format!("{REPOSITORY}/manifests/none")).send().await.unwrap();
    assert_eq!(error_of(manifest).await.1, "MANIFEST_UNKNOWN");

    let seen = through.proxy.requests();
    let direct = through.ecr.requests();
    let facts = |seen: &[local_ecr::RecordedRequest]| -> Vec<_> {
        let fact = |it: &local_ecr::RecordedRequest| {
            (it.method.clone(), it.path.clone(), it.operation.clone(), it.status, it.body_bytes)
        };
        seen.iter().map(fact).collect()
    };
    assert_eq!(facts(&seen), facts(&direct));
}

#[tokio::test]
async fn a_reset_of_the_second_upload_passes_exactly_so_many_bytes() {
    let through = stand().await;
    let reset = FaultAction::Reset { after: 7_340_032 };
    through.proxy.add_fault(through.fault(reset).skip(1).times(1)).unwrap();
    let blob = noise(12 * MIB);
    let mut outcomes = Vec::new();
    for size in [9 * MIB, 12 * MIB, 11 * MIB] {
        let url = through.session().await;
        outcomes.push(through.put(&url, &blob[..size]).send().await.map(|response| response.status()).ok());
    }
    assert_eq!(outcomes, [Some(StatusCode::CREATED), None, Some(StatusCode::CREATED)]);
    let sizes = |seen: Vec<local_ecr::RecordedRequest>| -> Vec<u64> {
        seen.iter().filter(|it| it.method == "PUT").map(|it| it.body_bytes).collect()
    };
    let exactly = [9 << 20, 7_340_032, 11 << 20];
    assert_eq!(sizes(through.proxy.requests()), exactly);
    // The server may still be reading what was sent before the cut.
    for _ in 0..100 {
        if sizes(through.ecr.requests()) != exactly {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert_eq!(sizes(through.ecr.requests()), exactly);
}

#[tokio::test]
async fn what_was_sent_before_a_reset_is_in_the_session() {
    let through = stand().await;
    let blob = noise(12 * MIB);
    let url = through.session().await;
    through.proxy.add_fault(Fault::new(FaultAction::Reset { after: 7_340_032 }).method("PATCH")).unwrap();
    assert!(through.ecr.at("PATCH", &url).body(blob.clone()).send().await.is_err());
    through.proxy.clear_faults();
    // The rest is taken only at the right byte.
    let rest = format!("7340032-{}", blob.len() - 1);
    let commit = format!("{url}?digest={}", digest(&blob));
    let commit = || through.ecr.at("PUT", &commit).header("content-range", &rest).body(blob[7_340_032..].to_vec());
    assert_eq!(commit().send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn answers_can_be_scripted_before_or_after_the_body() {
    let through = stand().await;
    for (action, bytes) in [
        (FaultAction::Answer(Answer::error(429, "TOOMANYREQUESTS", "slow down").header("Retry-After", "1")), 5),
        (FaultAction::EarlyAnswer(Answer::error(429, "TOOMANYREQUESTS", "slow down").header("Retry-After", "1")), 0),
    ] {
        let url = through.session().await;
        through.proxy.clear_requests();
        through.ecr.clear_requests();
        through.proxy.add_fault(through.fault(action).times(1)).unwrap();
        let response = through.put(&url, b"hello").send().await.unwrap();
        assert_eq!(header(&response, "retry-after").unwrap(), "1");
        assert_eq!(error_of(response).await, error(429, "TOOMANYREQUESTS", "slow down"));
        assert_eq!(through.proxy.requests()[0].body_bytes, bytes);
        // The server never heard of it.
        assert!(through.ecr.requests().is_empty());
    }
}

#[tokio::test]
async fn an_early_answer_of_the_server_comes_while_the_body_is_sent() {
    let through = stand().await;
    let early = FaultAction::EarlyAnswer(Answer::error(413, "SIZE_INVALID", "too large"));
    through.ecr.add_fault(Fault::new(early).method("PATCH"));
    let url = through.session().await;
    // A body that never ends.
    let piece = |_| async {
        Some((Ok::<_, std::io::Error>(vec![0_u8; 1000]), tokio::time::sleep(Duration::from_millis(1)).await))
    };
    let body = reqwest::Body::wrap_stream(futures_util::stream::unfold((), piece));
    let response = tokio::time::timeout(Duration::from_secs(20), through.ecr.at("PATCH", &url).body(body).send());
    assert_eq!(response.await.unwrap().unwrap().status(), 413);
}

#[tokio::test]
async fn a_lost_answer_is_lost_behind_the_server() {
    let through = stand().await;
    through.proxy.add_fault(through.fault(FaultAction::LoseAnswer).times(1)).unwrap();
    let url = through.session().await;
    assert!(through.put(&url, b"hello").send().await.is_err());
    assert!(through.ecr.snapshot().blobs.contains(&digest(b"hello")));
    assert_eq!(through.proxy.requests()[1].status, None);
    assert_eq!(through.ecr.requests()[1].status, Some(201));
}

#[tokio::test]
async fn requests_can_be_slow_stalled_or_cut() {
    let through = stand().await;
    let time = Duration::from_millis(200);
    for action in [
        FaultAction::Delay(time),
        FaultAction::DelayAnswer(time),
        FaultAction::Drip { per_second: 25_000 },
        FaultAction::Pause { after: 1, time },
        FaultAction::Pause { after: 0, time },
    ] {
        let name = format!("{action:?}");
        let blob = [name.as_bytes(), &noise(6000)].concat();
        let url = through.session().await;
        through.proxy.add_fault(through.fault(action).times(1)).unwrap();
        let started = Instant::now();
        assert_eq!(through.put(&url, &blob).send().await.unwrap().status(), 201, "{name}");
        assert!(started.elapsed() >= time, "{name}");
        assert!(through.ecr.snapshot().blobs.contains(&digest(&blob)), "{name}");
    }
    for action in [FaultAction::Close, FaultAction::Reset { after: 0 }, FaultAction::Reset { after: 2 }] {
        let url = through.session().await;
        through.proxy.add_fault(through.fault(action.clone()).times(1)).unwrap();
        assert!(through.put(&url, b"cut").send().await.is_err(), "{action:?}");
    }
    through.proxy.add_fault(through.fault(FaultAction::Stall { after: 2 })).unwrap();
    let url = through.session().await;
    assert!(tokio::time::timeout(time, through.put(&url, b"stalled").send()).await.is_err());
    // And does not keep the proxy from ending.
    tokio::time::timeout(Duration::from_secs(5), through.proxy.shutdown()).await.unwrap();
}

#[tokio::test]
async fn answers_can_be_cut_slow_or_wrong() {
    let through = stand().await;
    through.ecr.push_image("v1").await;
    let get = || through.v2("GET", &format!("{REPOSITORY}/manifests/v1")).send();
    let whole = get().await.unwrap().bytes().await.unwrap();
    let on_manifests = |action| through.proxy.add_fault(Fault::new(action).path("/manifests/").times(1)).unwrap();

    on_manifests(FaultAction::Truncate { after: 100 });
    let cut = get().await.unwrap();
    assert_eq!(cut.content_length(), Some(whole.len() as u64));
    assert!(cut.bytes().await.is_err());

    on_manifests(FaultAction::DripAnswer { per_second: 2000 });
    let started = Instant::now();
    assert_eq!(get().await.unwrap().bytes().await.unwrap(), whole);
    assert!(started.elapsed() >= Duration::from_millis(150));

    let wrong = digest(b"another");
    on_manifests(FaultAction::header("Docker-Content-Digest", Some(&wrong)));
    let response = get().await.unwrap();
    assert_eq!(header(&response, "docker-content-digest").unwrap(), wrong);
    assert_eq!(response.bytes().await.unwrap(), whole);

    on_manifests(FaultAction::header("Content-Length", Some("7")));
    assert_eq!(get().await.unwrap().bytes().await.unwrap(), whole[..7]);

    let stale = through.session().await;
    through.proxy.add_fault(Fault::new(FaultAction::Location(Some(stale.clone()))).method("POST").times(1)).unwrap();
    assert_eq!(through.session().await, stale);
}

#[tokio::test]
async fn faults_of_state_are_not_for_a_proxy() {
    let through = stand().await;
    let hidden = FaultAction::HideTag(Duration::from_secs(1));
    let moved = FaultAction::MoveTag { tag: "a".into(), to: "b".into() };
    for action in [FaultAction::ExpireTokens, FaultAction::EndSessions, FaultAction::ForgetBlobs(1), hidden, moved] {
        let refusal = through.proxy.add_fault(Fault::new(action)).unwrap_err();
        assert_eq!(refusal.kind(), std::io::ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn nothing_is_taken_into_memory() {
    let through = stand().await;
    through.ecr.add_fault(Fault::new(FaultAction::Stall { after: 1000 }).method("PATCH"));
    let url = through.session().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let pieces = futures_util::stream::iter((0..1024).map(move |_| {
        counter.fetch_add(64 << 10, Ordering::Relaxed);
        Ok::<_, std::io::Error>(vec![0_u8; 64 << 10])
    }));
    let patch = through.ecr.at("PATCH", &url).body(reqwest::Body::wrap_stream(pieces)).send();
    assert!(tokio::time::timeout(Duration::from_millis(700), patch).await.is_err());
    // What left the client is in the buffers of two connections; all of it would be 64 MiB.
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 32 * MIB, "{taken}");
    let seen = through.proxy.requests();
    assert!(seen[1].body_bytes < 32 << 20, "{}", seen[1].body_bytes);
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_reset() {
    let through = stand().await;
    let url = format!("{}/v2/", through.proxy.url());
    let Stand { ecr, proxy } = through;
    ecr.server.shutdown().await;
    assert!(client().get(&url).send().await.is_err());
    assert_eq!(proxy.requests()[0].status, None);
}

#[tokio::test]
async fn connections_fail_before_the_server_hears_of_them() {
    let through = stand().await;
    let url = format!("{}/v2/", through.proxy.url());
    for action in [
        ConnectionAction::Close { after: 0 },
        ConnectionAction::Garbage,
        ConnectionAction::Reset { after: 0 },
        ConnectionAction::Reset { after: 20 },
    ] {
        through.proxy.add_connection_fault(ConnectionFault::new(action).times(1));
        assert!(client().get(&url).send().await.is_err(), "{action:?}");
        assert_eq!(client().get(&url).send().await.unwrap().status(), 401);
    }
    assert_eq!(through.ecr.requests().len(), 4);
}

fn through_proxy(proxy: &FaultProxy, ca: Option<&str>) -> Client {
    let builder = Client::builder().proxy(reqwest::Proxy::all(proxy.url()).unwrap());
    let ca = ca.map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    builder.tls_certs_only(ca).build().unwrap()
}

#[tokio::test]
async fn plain_requests_with_a_whole_url_pass() {
    let ecr = ecr().await;
    let proxy = FaultProxy::start(ProxyConfig::default()).await.unwrap();
    let url = format!("{}/v2/", ecr.endpoint_url());
    let http = through_proxy(&proxy, None);
    assert_eq!(http.get(&url).send().await.unwrap().status(), 401);
    proxy.add_fault(Fault::new(FaultAction::Answer(Answer::status(503))).path("/v2/").times(1)).unwrap();
    assert_eq!(http.get(&url).send().await.unwrap().status(), 503);
    assert_eq!(ecr.requests().len(), 1);
    let seen: Vec<_> = proxy.requests().iter().map(|it| (it.method.clone(), it.path.clone(), it.status)).collect();
    assert_eq!(seen, [("GET".into(), "/v2/".into(), Some(401)), ("GET".into(), "/v2/".into(), Some(503))]);
    // Asked as if it were the server itself.
    assert_eq!(client().get(format!("{}/v2/", proxy.url())).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_tunnel_of_plain_http_is_looked_into() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ecr = ecr().await;
    let proxy = FaultProxy::start(ProxyConfig::default()).await.unwrap();
    let mut stream = tokio::net::TcpStream::connect(proxy.address()).await.unwrap();
    let host = ecr.registry_host();
    stream.write_all(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 4096];
    let read = stream.read(&mut head).await.unwrap();
    assert!(head[..read].starts_with(b"HTTP/1.1 200 "));
    stream
        .write_all(format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let seen: Vec<_> = proxy.requests().iter().map(|it| (it.method.clone(), it.path.clone(), it.status)).collect();
    assert_eq!(seen, [("CONNECT".into(), host, Some(200)), ("GET".into(), "/v2/".into(), Some(401))]);
}

/// A server under ECR's names with TLS, and a proxy in front.
async fn tls_stand(open_tls: bool, connect: bool) -> (Ecr, FaultProxy) {
    let ecr = start(Config { tls: Some(Tls::default()), ..Config::default() }).await;
    let config = ProxyConfig {
        connect,
        open_tls,
        upstream: Some(format!("https://{}", ecr.address())),
        upstream_ca: ecr.ca_pem().map(str::to_owned),
        ..ProxyConfig::default()
    };
    let proxy = FaultProxy::start(config).await.unwrap();
    (ecr, proxy)
}

/// The registry under its real name, which only the proxy can find.
const REAL: &str = "https://123456789012.dkr.ecr.us-east-1.amazonaws.com";

#[tokio::test]
async fn a_tunnel_that_is_opened_meets_faults_inside() {
    let (ecr, proxy) = tls_stand(true, true).await;
    let http = through_proxy(&proxy, proxy.ca_pem());
    let upload = || async {
        let basic = format!("Basic {}", ecr.token);
        let post = http.post(format!("{REAL}/v2/{REPOSITORY}/blobs/uploads/")).header("authorization", &basic);
        let url = location(&post.send().await.unwrap());
        assert!(url.starts_with(REAL), "{url}");
        let blob = noise(2 * MIB);
        let url = format!("{url}?digest={}", digest(&blob));
        http.put(url).header("authorization", &basic).body(blob).send().await
    };
    proxy.add_fault(Fault::new(FaultAction::Reset { after: 1_000_000 }).method("PUT").times(1)).unwrap();
    assert!(upload().await.is_err());
    assert_eq!(upload().await.unwrap().status(), 201);
    let sizes: Vec<_> = proxy.requests().iter().filter(|it| it.method == "PUT").map(|it| it.body_bytes).collect();
    assert_eq!(sizes, [1_000_000, 2 << 20]);
    assert!(proxy.requests().iter().any(|it| it.method == "CONNECT"));
    // The server's own authority is not the one that the client meets.
    let trusting_the_server = through_proxy(&proxy, ecr.ca_pem());
    assert!(trusting_the_server.get(REAL).send().await.is_err());
}

#[tokio::test]
async fn a_tunnel_that_stays_closed_is_cut_by_its_bytes() {
    let (ecr, proxy) = tls_stand(false, true).await;
    let request = || {
        let http = through_proxy(&proxy, ecr.ca_pem());
        http.put(format!("{REAL}/v2/{REPOSITORY}/manifests/x")).body(vec![0; MIB]).send()
    };
    assert_eq!(request().await.unwrap().status(), 401);
    proxy.add_connection_fault(ConnectionFault::new(ConnectionAction::Reset { after: 500_000 }).times(1));
    assert!(request().await.is_err());
    assert_eq!(request().await.unwrap().status(), 401);
    let seen = proxy.requests();
    let bytes: Vec<_> = seen.iter().map(|it| it.body_bytes).collect();
    assert!(seen.iter().all(|it| it.method == "CONNECT") && seen.len() == 3, "{seen:?}");
    assert!(bytes[0] > MIB as u64 && (400_000..500_000).contains(&bytes[1]) && bytes[2] > MIB as u64, "{bytes:?}");
}

#[tokio::test]
async fn a_stand_in_with_tls_opens_it_or_not() {
    for open_tls in [true, false] {
        let (ecr, proxy) = tls_stand(open_tls, false).await;
        assert!(proxy.url().starts_with("https://127.0.0.1:"));
        let ca = if open_tls { proxy.ca_pem() } else { ecr.ca_pem() };
        let ca = reqwest::Certificate::from_pem(ca.unwrap().as_bytes()).unwrap();
        // A client of its own each time: a connection that is there already met its fault when it was accepted.
        let get = || {
            let http = Client::builder().no_proxy().tls_certs_only([ca.clone()]).build().unwrap();
            http.get(format!("{}/v2/", proxy.url())).send()
        };
        assert_eq!(get().await.unwrap().status(), 401);
        assert_eq!(proxy.requests()[0].method, if open_tls { "GET" } else { "CONNECT" });
        proxy.add_connection_fault(ConnectionFault::new(ConnectionAction::Close { after: 1 }).times(1));
        assert!(get().await.unwrap_err().is_connect());
        assert_eq!(get().await.unwrap().status(), 401);
    }
}

#[tokio::test]
async fn a_name_that_no_proxy_can_resolve_is_a_502() {
    let (ecr, proxy) = tls_stand(true, true).await;
    let http = through_proxy(&proxy, proxy.ca_pem());
    let unresolved = FaultAction::Answer(Answer { message: "cannot resolve the host\n".into(), ..Answer::status(502) });
    proxy.add_fault(Fault::new(unresolved).method("CONNECT").path("dkr.ecr").times(2)).unwrap();
    for _ in 0..2 {
        assert!(http.get(format!("{REAL}/v2/")).send().await.unwrap_err().is_connect());
    }
    assert_eq!(http.get(format!("{REAL}/v2/")).send().await.unwrap().status(), 401);
    assert_eq!(ecr.requests().len(), 1);
    // And one that is true.
    let proxy = FaultProxy::start(ProxyConfig::default()).await.unwrap();
    let http = through_proxy(&proxy, None);
    assert!(http.get("https://127.0.0.1:1/").send().await.unwrap_err().is_connect());
    assert_eq!(proxy.requests()[0].status, Some(502));
}

#[tokio::test]
async fn a_proxy_without_an_upstream_or_with_a_wrong_one_is_refused() {
    for (config, sentence) in [
        (
            ProxyConfig { connect: false, ..ProxyConfig::default() },
            "a proxy that is no CONNECT proxy needs an upstream",
        ),
        (ProxyConfig::to("localhost"), "'localhost' is not http://HOST:PORT or https://HOST:PORT"),
    ] {
        let error = FaultProxy::start(config).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (std::io::ErrorKind::InvalidInput, sentence));
    }
}

#[tokio::test]
async fn many_requests_at_once_pass() {
    let through = Arc::new(stand().await);
    let tasks = (0..24).map(|number| {
        let through = Arc::clone(&through);
        tokio::spawn(async move {
            let blob = noise(100_000 + number);
            let url = through.session().await;
            through.put(&url, &blob).send().await.unwrap().status()
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap(), 201);
    }
    assert_eq!(through.ecr.snapshot().blobs.len(), 24);
}

#[tokio::test]
async fn a_slow_link_is_shared_by_all_bodies() {
    let ecr = ecr().await;
    let config = ProxyConfig { rate: Some(2_000_000), ..ProxyConfig::to(&ecr.endpoint_url()) };
    let proxy = FaultProxy::start(config).await.unwrap();
    let through = Stand { ecr, proxy };
    let urls = [through.session().await, through.session().await];
    let started = Instant::now();
    let blobs = [noise(500_000), noise(500_001)];
    let both = tokio::join!(through.put(&urls[0], &blobs[0]).send(), through.put(&urls[1], &blobs[1]).send());
    assert_eq!((both.0.unwrap().status(), both.1.unwrap().status()), (StatusCode::CREATED, StatusCode::CREATED));
    assert!(started.elapsed() >= Duration::from_millis(490));
}

#[tokio::test]
async fn a_dead_link_stays_dead_when_the_server_gives_up() {
    for on_the_connection in [true, false] {
        let through = stand().await;
        let url = through.session().await;
        let after = 2 << 20;
        match on_the_connection {
            true => through.proxy.add_connection_fault(ConnectionFault::new(ConnectionAction::Stall { after })),
            false => through.proxy.add_fault(Fault::new(FaultAction::Stall { after }).method("PATCH")).unwrap(),
        }
        let basic = format!("Basic {}", through.ecr.token);
        let patch = client().patch(&url).header("authorization", basic).body(noise(8 * MIB)).send();
        let mut patch = std::pin::pin!(tokio::time::timeout(Duration::from_secs(2), patch));
        let early = tokio::time::timeout(Duration::from_millis(700), patch.as_mut()).await;
        assert!(early.is_err() && through.proxy.hits() == 1, "{early:?}");
        // The server closes all its connections while the link is dead.
        let Stand { ecr, proxy } = through;
        ecr.server.shutdown().await;
        let outcome = patch.await;
        assert!(outcome.is_err(), "{on_the_connection}: {outcome:?}");
        proxy.shutdown().await;
    }
}
