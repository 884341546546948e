//! Faults on the way to docker-registry behind nginx, given by `local-ecr fault-proxy`, which opens TLS and counts. Whether an image
//! arrived is for skopeo and the registry to say; the proxy only says what was sent.

use crate::command::wait_for;
use crate::image::HEAVY;
use crate::stack::{Stack, TOKEN};
use crate::way::{Registry, Way, arrived};
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo", "curl"];
/// Those of the two large layers of [`HEAVY`]; its third and its config are smaller.
const LARGE: &str = "PUT /blobs/uploads/ min-length=9000000";

/// Pushes through a proxy with these rules, which the push has to survive, and gives the bytes sent beyond those of the image.
#[track_caller]
fn survives(stack: &'static Stack, repository: &str, rules: &[&str], limit: Duration) -> u64 {
    let source = stack.image(HEAVY);
    stack.create_repository(repository);
    let registry = Registry::start(stack);
    let way = Way::start(&registry, rules, None);
    let outcome = way.push(repository).args(["--output", "json"]).limit(limit).run();
    assert!(way.seen().hits() > 0, "no fault came\n{outcome}");
    arrived(&registry, &way, repository, outcome.within(limit), source)
}

#[test]
fn a_reset_in_the_second_upload_costs_what_was_sent_of_it() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let rule = format!("{LARGE} skip=1 times=1 reset=7340032");
    assert_eq!(survives(stack, "faults/exact", &[&rule], Duration::from_secs(120)), 7_340_032);
}

#[test]
fn answers_that_pass_are_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let limit = Duration::from_secs(120);
    for (name, rule) in [
        ("early-503", "PUT /blobs/uploads/ times=3 early=503"),
        ("503", "PUT /blobs/uploads/ times=3 answer=503"),
        ("503-for-a-while", "GET|HEAD|POST|PUT /v2/ lasting=3s early=503"),
        ("429", "PUT /blobs/uploads/ times=3 early=429 code=TOOMANYREQUESTS"),
        ("429-retry-after", "PUT /blobs/uploads/ times=3 early=429 code=TOOMANYREQUESTS retry-after=2"),
        ("manifest-500", "PUT /manifests/ times=1 answer=500"),
        ("416", "PUT /blobs/uploads/ min-length=9000000 times=1 early=416 code=BLOB_UPLOAD_INVALID"),
        ("short-answer", "POST /blobs/uploads/ times=1 truncate=0"),
        ("stale-session", "PUT /blobs/uploads/ times=1 early=404 code=BLOB_UPLOAD_UNKNOWN"),
    ] {
        let again = survives(stack, &format!("faults/{name}"), &[rule], limit);
        // Answers that come after the body cost that body: the largest three are the whole image.
        let most = if rule.contains(" answer=503") { 30 << 20 } else { 0 };
        // What was under way when an early answer came.
        assert!(again <= most + (4 << 20), "{name}: {again} bytes were sent again");
    }
}

#[test]
fn a_lost_answer_costs_no_more_than_its_layer() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let rule = format!("{LARGE} times=1 lose-answer");
    let again = survives(stack, "faults/lost", &[&rule], Duration::from_secs(120));
    assert!(again <= 13 << 20, "{again} bytes were sent again");
}

#[test]
fn connections_that_break_are_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    // With these two seeds, none of the first eight connections can carry the largest layer: which of them does is chance, and a
    // push opens about five.
    for (name, rule, most) in [
        ("light", "connection reset-at-random=16000000 seed=2274", 3.0),
        ("heavy", "connection reset-at-random=8000000 seed=15731", 5.0),
        ("window", "connection reset=5000000 lasting=4s", 3.0),
        ("garbage", "connection skip=1 times=3 garbage", 0.5),
        ("handshake", "connection skip=1 times=3 close=300", 0.5),
    ] {
        let again = survives(stack, &format!("faults/{name}"), &[rule], Duration::from_secs(200));
        assert!((again as f64) < most * f64::from(25 << 20), "{name}: {again} bytes were sent again");
    }
}

#[test]
fn a_stall_that_heals_is_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let again = survives(stack, "faults/heals", &["connection stall=3000000 lasting=15s"], Duration::from_secs(120));
    // It is shorter than what is taken for a dead link.
    assert!(again <= 1 << 20, "{again} bytes were sent again");
}

#[test]
fn a_registry_that_is_killed_and_comes_back_is_survived() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(HEAVY);
    stack.create_repository("faults/killed");
    let mut registry = Registry::start(stack);
    let way = Way::start(&registry, &[], Some(6 << 20));
    let push = way.push("faults/killed").args(["--output", "json"]).limit(Duration::from_secs(180));
    let outcome = std::thread::scope(|scope| {
        let pushing = scope.spawn(move || push.run());
        wait_for("half of the image", Duration::from_secs(120), || (way.now().sent() > 12 << 20).then_some(()));
        registry.kill();
        std::thread::sleep(Duration::from_secs(3));
        registry.start_again();
        pushing.join().expect("the push")
    });
    let again = arrived(&registry, &way, "faults/killed", outcome, source);
    assert!(again <= 25 << 20, "{again} bytes were sent again");
}

#[test]
fn a_password_revoked_on_the_way_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(HEAVY);
    stack.create_repository("faults/revoked");
    let registry = Registry::start(stack);
    let way = Way::start(&registry, &[], Some(6 << 20));
    let push = way.push("faults/revoked").limit(Duration::from_secs(180));
    let outcome = std::thread::scope(|scope| {
        let pushing = scope.spawn(move || push.run());
        wait_for("half of the image", Duration::from_secs(120), || (way.now().sent() > 12 << 20).then_some(()));
        registry.lock();
        pushing.join().expect("the push")
    });
    let (_, password) = TOKEN.split_once(':').expect("a colon");
    let words = ["no longer accepts a token of these credentials", "revoked", "renew or replace the credentials"];
    outcome.refused().says(&words).hides(password).within(Duration::from_secs(120));
    assert!(!registry.has_tag("faults/revoked"));
}

#[test]
fn a_dead_link_ends_within_the_budget_and_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(HEAVY);
    stack.create_repository("faults/dead");
    let registry = Registry::start(stack);
    let way = Way::start(&registry, &["connection stall=3000000"], None);
    let outcome = way.push("faults/dead").args(["--retry-budget", "10s"]).limit(Duration::from_secs(200)).run();
    // The stall is noticed after 30 s, and the last try may begin just within the budget.
    outcome.refused().says(&["stalled: no byte moved for 3", "--retry-budget"]).within(Duration::from_secs(110));
    assert!(way.seen().hits() > 0);
    assert!(!registry.has_tag("faults/dead"));
}
