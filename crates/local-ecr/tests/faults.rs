//! Scripted faults and the record of requests.

mod common;

use std::time::{Duration, Instant};

use common::*;
use local_ecr::{Answer, Config, ConnectionAction, ConnectionFault, Fault, FaultAction, Key, Tls};

#[tokio::test]
async fn a_fault_hits_the_requests_it_is_meant_for() {
    let ecr = ecr().await;
    let fault = Fault::new(FaultAction::Answer(Answer::status(500)));
    ecr.add_fault(fault.method("GET").path("/v2/*/tags/list").skip(1).times(1));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(ecr.v2("GET", "team/app/tags/list").send().await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [200, 500, 200]);
}

#[tokio::test]
async fn an_operation_is_hit_through_either_door() {
    let ecr = ecr().await;
    ecr.add_fault(
        Fault::new(FaultAction::Answer(Answer::error(429, "TOOMANYREQUESTS", "Rate exceeded")))
            .operation("InitiateLayerUpload"),
    );
    let response = ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap();
    assert_eq!(error_of(response).await, error(429, "TOOMANYREQUESTS", "Rate exceeded"));
    let input = serde_json::json!({ "repositoryName": REPOSITORY });
    assert_eq!(ecr.refused("InitiateLayerUpload", input).await.0, "TOOMANYREQUESTS");
}

#[tokio::test]
async fn a_scripted_answer_may_have_headers() {
    let ecr = ecr().await;
    ecr.add_fault(Fault::new(FaultAction::Answer(Answer::status(503).header("Retry-After", "7"))));
    let response = ecr.v2("GET", "").send().await.unwrap();
    assert_eq!(header(&response, "retry-after").unwrap(), "7");
    ecr.clear_faults();
    assert_eq!(ecr.v2("GET", "").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_closed_connection_has_no_answer() {
    let ecr = ecr().await;
    ecr.add_fault(Fault::new(FaultAction::Close).method("POST"));
    assert!(ecr.v2("POST", "team/app/blobs/uploads/").send().await.is_err());
}

#[tokio::test]
async fn a_reset_comes_after_so_many_bytes() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.clear_requests();
    ecr.add_fault(Fault::new(FaultAction::Reset { after: 1000 }).method("PUT"));
    let commit = format!("{url}?digest={}", digest(b"x"));
    assert!(ecr.at("PUT", &commit).body(vec![0; 8 * MIB]).send().await.is_err());
    assert_eq!(ecr.requests()[0].body_bytes, 1000);
    assert_eq!(ecr.requests()[0].status, None);
}

#[tokio::test]
async fn an_early_answer_leaves_the_body_unread() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.clear_requests();
    ecr.add_fault(
        Fault::new(FaultAction::EarlyAnswer(Answer::error(413, "SIZE_INVALID", "too large"))).method("PATCH"),
    );
    let body = reqwest::Body::from(vec![0; 16]);
    let response = ecr.at("PATCH", &url).body(body).send().await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(header(&response, "connection").unwrap(), "close");
    assert_eq!(ecr.requests()[0].body_bytes, 0);
}

#[tokio::test]
async fn a_lost_answer_comes_after_the_commit() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.add_fault(Fault::new(FaultAction::LoseAnswer).method("PUT").times(1));
    let commit = format!("{url}?digest={}", digest(b"hello"));
    assert!(ecr.at("PUT", &commit).body("hello").send().await.is_err());
    assert!(ecr.snapshot().blobs.contains(&digest(b"hello")));
}

#[tokio::test]
async fn an_answer_can_be_slow() {
    let ecr = ecr().await;
    for action in [FaultAction::Delay(Duration::from_millis(150)), FaultAction::DelayAnswer(Duration::from_millis(150))]
    {
        ecr.add_fault(Fault::new(action).times(1));
        let started = Instant::now();
        assert_eq!(ecr.v2("GET", "").send().await.unwrap().status(), 200);
        assert!(started.elapsed() >= Duration::from_millis(150));
    }
}

#[tokio::test]
async fn a_stalled_upload_never_ends() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.add_fault(Fault::new(FaultAction::Stall { after: 10 }).method("PATCH"));
    let patch = ecr.at("PATCH", &url).body(vec![0; 100]).send();
    assert!(tokio::time::timeout(Duration::from_millis(300), patch).await.is_err());
    // And does not keep the server from ending.
    tokio::time::timeout(Duration::from_secs(5), ecr.server.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_pause_heals() {
    let ecr = ecr().await;
    let time = Duration::from_millis(150);
    for after in [0, 10] {
        let url = ecr.session().await;
        ecr.clear_requests();
        ecr.add_fault(Fault::new(FaultAction::Pause { after, time }).method("PATCH").times(1));
        let started = Instant::now();
        assert_eq!(ecr.at("PATCH", &url).body(vec![0; 100]).send().await.unwrap().status(), 201);
        assert!(started.elapsed() >= time);
        assert_eq!(ecr.requests()[0].body_bytes, 100);
    }
}

#[tokio::test]
async fn a_dripping_body_makes_the_sender_wait() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.clear_requests();
    ecr.add_fault(Fault::new(FaultAction::Drip { per_second: 100_000 }).method("PUT"));
    let body = vec![7; 30_000];
    let commit = format!("{url}?digest={}", digest(&body));
    let started = Instant::now();
    assert_eq!(ecr.at("PUT", &commit).body(body.clone()).send().await.unwrap().status(), 201);
    assert!(started.elapsed() >= Duration::from_millis(250));
    assert_eq!(ecr.requests()[0].body_bytes, 30_000);
    assert!(ecr.snapshot().blobs.contains(&digest(&body)));
}

#[tokio::test]
async fn a_dripping_upload_is_not_taken_into_memory() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    ecr.clear_requests();
    ecr.add_fault(Fault::new(FaultAction::Drip { per_second: 1000 }).method("PATCH"));
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&taken);
    let pieces = futures_util::stream::iter((0..1024).map(move |_| {
        counter.fetch_add(64 << 10, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, std::io::Error>(vec![0_u8; 64 << 10])
    }));
    let patch = ecr.at("PATCH", &url).body(reqwest::Body::wrap_stream(pieces)).send();
    assert!(tokio::time::timeout(Duration::from_millis(500), patch).await.is_err());
    // What the sender got rid of is in the buffers of the kernel and hyper; all of it would be 64 MiB.
    assert!(taken.load(std::sync::atomic::Ordering::Relaxed) < 32 * MIB, "{taken:?}");
    assert!(ecr.requests()[0].body_bytes <= 1000);
}

#[tokio::test]
async fn an_answer_can_drip() {
    let ecr = ecr().await;
    let image = ecr.push_image("v1").await;
    let whole = ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap().bytes().await.unwrap();
    ecr.add_fault(Fault::new(FaultAction::DripAnswer { per_second: 2000 }).path("/manifests/"));
    let started = Instant::now();
    let response = ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap();
    assert_eq!(response.content_length(), Some(whole.len() as u64));
    let dripped = response.bytes().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(150));
    assert_eq!(digest(&dripped), image);
}

#[tokio::test]
async fn an_answer_can_end_early() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    ecr.add_fault(Fault::new(FaultAction::Truncate { after: 40 }).path("/manifests/"));
    let mut response = ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap();
    assert!(response.content_length().unwrap() > 300);
    let mut read = 0;
    let error = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) => panic!("the body ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(read, 40, "{error}");
}

#[tokio::test]
async fn an_answer_without_a_body_can_end_early_too() {
    let ecr = ecr().await;
    ecr.add_fault(Fault::new(FaultAction::Truncate { after: 40 }).method("POST"));
    let response = ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.content_length()), (202, Some(1)));
    assert!(response.bytes().await.is_err());
}

#[tokio::test]
async fn headers_can_be_wrong_new_or_absent() {
    let ecr = ecr().await;
    let wrong = digest(b"something else");
    let headers = [("Docker-Content-Digest", Some(wrong.as_str())), ("X-New", Some("1")), ("Location", None)];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).to_vec();
    let url = ecr.session().await;
    ecr.add_fault(Fault::new(FaultAction::Headers(headers)).method("PUT"));
    let commit = format!("{url}?digest={}", digest(b"hello"));
    let response = ecr.at("PUT", &commit).body("hello").send().await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(header(&response, "docker-content-digest"), Some(wrong));
    assert_eq!(header(&response, "x-new").as_deref(), Some("1"));
    assert_eq!(header(&response, "location"), None);
    assert_eq!(response.content_length(), Some(0));
}

#[tokio::test]
async fn a_content_length_can_be_a_lie() {
    let ecr = ecr().await;
    ecr.push_image("v1").await;
    let lie = |length: &str| {
        ecr.add_fault(Fault::new(FaultAction::header("Content-Length", Some(length))).path("/manifests/").times(1));
        ecr.v2("GET", "team/app/manifests/v1").send()
    };
    let short = lie("10").await.unwrap();
    assert_eq!(short.bytes().await.unwrap().len(), 10);
    let long = lie("100000").await.unwrap();
    assert_eq!(long.content_length(), Some(100_000));
    assert!(long.bytes().await.is_err());
}

#[tokio::test]
async fn blobs_can_vanish_before_the_manifest() {
    let ecr = ecr().await;
    let manifest = ecr.image("v1").await.to_string();
    // The config is the larger one of the two.
    let largest = digest(br#"{"salt":"v1"}"#);
    ecr.add_fault(Fault::new(FaultAction::ForgetBlobs(1)).operation("PutImage").times(1));
    let (status, code, _) = error_of(ecr.put_manifest("v1", OCI_MANIFEST, manifest.clone()).await).await;
    assert_eq!((status, code.as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    assert!(!ecr.snapshot().blobs.contains(&largest));
    assert!(ecr.snapshot().blobs.contains(&digest(b"layer v1")));
    ecr.push_blob(br#"{"salt":"v1"}"#).await;
    assert_eq!(ecr.put_manifest("v1", OCI_MANIFEST, manifest).await.status(), 201);
}

#[tokio::test]
async fn a_session_can_end_before_its_time() {
    let ecr = ecr().await;
    let (first, second) = (ecr.session().await, ecr.session().await);
    ecr.add_fault(Fault::new(FaultAction::EndSessions).method("PATCH").times(1));
    let (status, code, _) = error_of(ecr.at("PATCH", &first).body("hello").send().await.unwrap()).await;
    assert_eq!((status, code.as_str()), (404, "BLOB_UPLOAD_UNKNOWN"));
    assert_eq!(ecr.at("PATCH", &second).body("hello").send().await.unwrap().status(), 201);
    // A request that names no session ends all of them.
    ecr.add_fault(Fault::new(FaultAction::EndSessions).method("POST").times(1));
    let third = ecr.session().await;
    assert_eq!(ecr.at("PATCH", &second).body("hello").send().await.unwrap().status(), 404);
    assert_eq!(ecr.at("PATCH", &third).body("hello").send().await.unwrap().status(), 201);
}

#[tokio::test]
async fn keys_can_rotate_in_the_middle_of_a_push() {
    let ecr = ecr().await;
    assert_eq!(ecr.api("DescribeRepositories", serde_json::json!({})).await.0, 200);
    let key = Key {
        access_key_id: "AKIANEW".into(),
        secret_access_key: "not a secret of anyone".into(),
        user: "alice".into(),
    };
    ecr.add_fault(Fault::new(FaultAction::RotateKeys(vec![key])).operation("InitiateLayerUpload").times(1));
    ecr.push_blob(b"hello").await;
    let refusal = ecr.refused("DescribeRepositories", serde_json::json!({})).await;
    assert_eq!(refusal.0, "UnrecognizedClientException");
    ecr.set_keys(&[]);
    assert_eq!(ecr.api("DescribeRepositories", serde_json::json!({})).await.0, 200);
}

#[tokio::test]
async fn a_third_of_an_upload_is_a_third_of_its_length() {
    let ecr = ecr().await;
    for (third, bytes) in [(1, 1_000_000), (2, 2_000_000)] {
        let url = ecr.session().await;
        ecr.clear_requests();
        // A short upload is none of those it counts.
        let fault = Fault::new(FaultAction::Reset { after: 0 }).method("PATCH").min_length(1_000_000).skip(1).times(1);
        ecr.add_fault(fault.from_part(third, 3));
        assert_eq!(ecr.at("PATCH", &url).body("short").send().await.unwrap().status(), 201);
        let url = ecr.session().await;
        assert_eq!(ecr.at("PATCH", &url).body(vec![0; 3_000_000]).send().await.unwrap().status(), 201);
        let url = ecr.session().await;
        assert!(ecr.at("PATCH", &url).body(vec![0; 3_000_000]).send().await.is_err());
        let seen: Vec<_> = ecr.requests().iter().filter(|it| it.method == "PATCH").map(|it| it.body_bytes).collect();
        assert_eq!(seen, [5, 3_000_000, bytes]);
    }
}

#[tokio::test]
async fn connections_can_fail_before_anything_is_asked() {
    let ecr = ecr().await;
    for action in [
        ConnectionAction::Close { after: 0 },
        ConnectionAction::Close { after: 1 },
        ConnectionAction::Garbage,
        ConnectionAction::Reset { after: 0 },
        ConnectionAction::Reset { after: 20 },
    ] {
        ecr.clear_requests();
        ecr.add_connection_fault(ConnectionFault::new(action).times(1));
        let hits = ecr.hits();
        // A client of its own: a connection that is there already was accepted before.
        let failed = client().get(format!("{}/v2/", ecr.endpoint_url())).send().await;
        assert!(failed.is_err(), "{action:?}");
        assert!(ecr.requests().is_empty(), "{action:?}");
        assert_eq!(ecr.hits(), hits + 1, "{action:?}");
        assert!(client().get(format!("{}/v2/", ecr.endpoint_url())).send().await.is_ok());
    }
}

#[tokio::test]
async fn a_handshake_can_fail_and_the_next_one_succeed() {
    let ecr = start(Config { tls: Some(Tls::default()), ..Config::default() }).await;
    let ca = reqwest::Certificate::from_pem(ecr.ca_pem().unwrap().as_bytes()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let url = format!("{}/v2/", ecr.endpoint_url());
    for action in
        [ConnectionAction::Close { after: 1 }, ConnectionAction::Garbage, ConnectionAction::Reset { after: 100 }]
    {
        ecr.add_connection_fault(ConnectionFault::new(action).times(2));
    }
    for _ in 0..6 {
        assert!(http.get(&url).send().await.unwrap_err().is_connect());
    }
    assert_eq!(http.get(&url).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_connection_can_break_after_so_many_bytes() {
    let ecr = ecr().await;
    let url = ecr.session().await;
    let time = Duration::from_millis(200);
    let patch = || {
        let request = client().patch(&url).header("authorization", format!("Basic {}", ecr.token));
        request.body(vec![0; 4 * MIB]).send()
    };
    ecr.clear_requests();
    ecr.add_connection_fault(ConnectionFault::new(ConnectionAction::Reset { after: MIB as u64 }).times(1));
    assert!(patch().await.is_err());
    // The head of the request is among those bytes. What had arrived may still be on its way to the upload.
    let read = || ecr.requests()[0].body_bytes;
    for _ in 0..100 {
        if read() < MIB as u64 - 2000 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!((MIB as u64 - 2000..MIB as u64).contains(&read()), "{}", read());

    ecr.add_connection_fault(ConnectionFault::new(ConnectionAction::Stall { after: 10 }).times(1));
    assert!(tokio::time::timeout(time, patch()).await.is_err());
    ecr.clear_faults();

    let url = ecr.session().await;
    let stall = ConnectionFault::new(ConnectionAction::Stall { after: MIB as u64 });
    ecr.add_connection_fault(stall.lasting(time));
    let started = Instant::now();
    let request = || client().patch(&url).header("authorization", format!("Basic {}", ecr.token));
    assert_eq!(request().body(vec![0; 4 * MIB]).send().await.unwrap().status(), 201);
    assert!(started.elapsed() >= time);
    // Healed for all connections, those that have just begun too.
    let started = Instant::now();
    let next = request().header("content-range", format!("{}-{}", 4 * MIB, 8 * MIB - 1));
    assert_eq!(next.body(vec![0; 4 * MIB]).send().await.unwrap().status(), 201);
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn resets_can_be_drawn_at_random_and_be_the_same_again() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let ecr = ecr().await;
        ecr.add_connection_fault(ConnectionFault::new(ConnectionAction::ResetAtRandom { mean: 100_000, seed }));
        let mut fates = Vec::new();
        for _ in 0..12 {
            let request = client().put(format!("{}/v2/team/app/manifests/x", ecr.endpoint_url()));
            fates.push(request.body(vec![0; 100_000]).send().await.is_ok());
        }
        assert_eq!(ecr.hits(), fates.iter().filter(|&&survived| !survived).count());
        runs.push(fates);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs.concat().contains(&true) && runs.concat().contains(&false), "{runs:?}");
}

#[tokio::test]
async fn a_fault_can_begin_later_and_last_for_a_while() {
    let ecr = ecr().await;
    let (later, lasting) = (Duration::from_millis(300), Duration::from_millis(600));
    let fault = Fault::new(FaultAction::Answer(Answer::status(503))).method("GET|HEAD");
    ecr.add_fault(fault.later(later).lasting(lasting));
    let mut statuses = Vec::new();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        statuses.push(ecr.v2("GET", "").send().await.unwrap().status().as_u16());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    statuses.dedup();
    assert_eq!(statuses, [200, 503, 200]);
}

#[tokio::test]
async fn tokens_can_expire_in_the_middle_of_a_push() {
    let ecr = ecr().await;
    ecr.add_fault(Fault::new(FaultAction::ExpireTokens).skip(2).times(1));
    let url = ecr.session().await;
    assert_eq!(ecr.at("PATCH", &url).body("hello").send().await.unwrap().status(), 201);
    let commit = format!("{url}?digest={}", digest(b"hello"));
    assert_eq!(ecr.at("PUT", &commit).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_location_can_be_wrong_or_absent() {
    let ecr = ecr().await;
    for location in [None, Some("http://elsewhere.example/".to_owned())] {
        ecr.add_fault(Fault::new(FaultAction::Location(location.clone())).method("POST").times(1));
        let response = ecr.v2("POST", "team/app/blobs/uploads/").send().await.unwrap();
        assert_eq!((response.status().as_u16(), header(&response, "location")), (202, location));
    }
}

#[tokio::test]
async fn a_head_can_be_denied_without_a_word() {
    let ecr = ecr().await;
    ecr.add_fault(Fault::new(FaultAction::Answer(Answer::error(403, "DENIED", "no"))).method("HEAD"));
    let response = ecr.v2("HEAD", "team/app/manifests/v1").send().await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(response.bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn every_request_is_recorded() {
    let ecr = ecr().await;
    ecr.push_blob(b"hello").await;
    let seen = ecr.requests();
    let operations: Vec<_> = seen.iter().map(|request| request.operation.as_str()).collect();
    assert_eq!(operations, ["InitiateLayerUpload", "CompleteLayerUpload"]);
    assert_eq!((seen[1].method.as_str(), seen[1].status, seen[1].body_bytes), ("PUT", Some(201), 5));
    assert_eq!(seen[1].principal.as_deref(), Some("arn:aws:iam::123456789012:user/alice"));
    assert!(seen[1].path.contains("?digest=sha256:"));
    ecr.clear_requests();
    assert!(ecr.requests().is_empty());
}

#[tokio::test]
async fn a_tag_can_be_shown_late() {
    let ecr = ecr().await;
    let manifest = ecr.image("v1").await.to_string();
    let ecr = &ecr;
    let read = |tag: &'static str| async move {
        let response = ecr.v2("GET", &format!("team/app/manifests/{tag}")).send().await.unwrap();
        (response.status().as_u16(), header(&response, "docker-content-digest"))
    };
    ecr.add_fault(Fault::new(FaultAction::HideTag(Duration::from_millis(300))).method("PUT").path("/manifests/"));
    assert_eq!(ecr.put_manifest("new", OCI_MANIFEST, manifest.clone()).await.status(), 201);
    assert_eq!(read("new").await.0, 404);
    let by_digest = ecr.v2("GET", &format!("team/app/manifests/{}", digest(manifest.as_bytes()))).send().await.unwrap();
    assert_eq!(by_digest.status(), 200, "the image is there");
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(read("new").await, (200, Some(digest(manifest.as_bytes()))));
    // A tag that moves shows the image it had.
    let other = ecr.image("v2").await.to_string();
    let moved = ecr.put_manifest("new", OCI_MANIFEST, other.clone()).await;
    assert_eq!((moved.status().as_u16(), read("new").await.1), (201, Some(digest(manifest.as_bytes()))));
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert_eq!(read("new").await.1, Some(digest(other.as_bytes())));
}

#[tokio::test]
async fn a_neighbour_can_move_a_tag() {
    let ecr = ecr().await;
    for tag in ["v1", "v2"] {
        let manifest = ecr.image(tag).await.to_string();
        assert_eq!(ecr.put_manifest(tag, OCI_MANIFEST, manifest).await.status(), 201);
    }
    let move_tag = |to: &str| FaultAction::MoveTag { tag: "v1".into(), to: to.into() };
    let before = ecr.snapshot().tags;
    ecr.add_fault(Fault::new(move_tag("v2")).method("POST").times(1));
    ecr.session().await;
    assert_eq!(ecr.snapshot().tags["v1"], before["v2"]);
    ecr.add_fault(Fault::new(move_tag(&before["v1"])).method("GET").path("/manifests/v1").times(1));
    let response = ecr.v2("GET", "team/app/manifests/v1").send().await.unwrap();
    assert_eq!(header(&response, "docker-content-digest").as_ref(), Some(&before["v1"]));
    // An image that is not there is no place to move to.
    ecr.add_fault(Fault::new(move_tag("v3")).times(1));
    ecr.session().await;
    assert_eq!(ecr.snapshot().tags, before);
}
