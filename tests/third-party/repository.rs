//! Repositories that are missing, that are created, and that may not be created.

use crate::image::SMALL;
use crate::push::{ecr_push, push, reported, to_repository};
use crate::stack::Stack;
use crate::verify::pull_with_skopeo;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

#[test]
fn a_missing_repository_is_one_sentence_at_once() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    let outcome = push(stack, SMALL, "repository/missing", &["v1"]).run().exit(1);
    outcome.within(Duration::from_secs(5)).says(&["repository/missing", "--create-repository"]);
    assert!(!stack.repositories().contains(&"repository/missing".to_owned()), "nothing is created unasked");
    assert_eq!(stack.stored("repository/missing"), 0);
}

#[test]
fn create_repository_creates_it_once() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    for tag in ["v1", "v2"] {
        let command =
            push(stack, SMALL, "repository/created", &[tag]).args(["--create-repository", "--output", "json"]);
        reported(command.run(), "repository/created", &[tag]);
        source.image.assert_same(&pull_with_skopeo(stack, &format!("repository/created:{tag}")).image);
    }
    assert!(stack.repositories().contains(&"repository/created".to_owned()));
}

#[test]
fn create_repository_is_signed() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    push(stack, SMALL, "repository/signed", &["v1"]).arg("--create-repository").run().ok();
    assert!(stack.repositories().contains(&"repository/signed".to_owned()));
}

/// The permissions of a push that may look whether the repository is there, but not create it.
const NO_CREATE: &[&str] = &[
    "ecr:GetAuthorizationToken",
    "ecr:DescribeRepositories",
    "ecr:BatchCheckLayerAvailability",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
];

#[test]
fn an_existing_repository_needs_no_right_to_create() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    stack.create_repository("repository/there");
    // With and without the right to look.
    let may_look = stack.user("repository-may-look", NO_CREATE);
    let blind: Vec<&str> = NO_CREATE.iter().copied().filter(|action| *action != "ecr:DescribeRepositories").collect();
    let blind = stack.user("repository-blind", &blind);
    for (keys, tag) in [(may_look, "v1"), (blind, "v2")] {
        let command = ecr_push(stack, &keys).env("DOCKER_HOST", stack.engine().host());
        to_repository(command, SMALL, "repository/there", &[tag]).arg("--create-repository").run().ok();
        source.image.assert_same(&pull_with_skopeo(stack, &format!("repository/there:{tag}")).image);
    }
}

#[test]
fn a_missing_repository_that_may_not_be_created_names_the_permission() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    let keys = stack.user("repository-no-create", NO_CREATE);
    let command = ecr_push(stack, &keys).env("DOCKER_HOST", stack.engine().host());
    let command = to_repository(command, SMALL, "repository/not-mine", &["v1"]).arg("--create-repository");
    command.run().exit(1).within(Duration::from_secs(10)).says(&["ecr:CreateRepository"]).hides(&keys.secret);
}

#[test]
fn names_outside_the_grammar_never_reach_the_network() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    push(stack, SMALL, "Repository/Upper", &["v1"]).run().exit(2).says(&["repository/upper"]);
    push(stack, SMALL, "repository/tag", &["not a tag"]).run().exit(2).says(&["not a tag"]);
    assert!(stack.requests("Repository/Upper").is_empty() && stack.requests("repository/tag").is_empty());
}
