//! Scripted faults and the record of requests.

mod common;

use std::time::{Duration, Instant};

use common::*;
use local_ecr::{Answer, Fault, FaultAction};

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
