//! Pushes under exactly the permissions that are documented, with moto as the one who checks signatures and policies.

use crate::command::Outcome;
use crate::image::SMALL;
use crate::push::{ecr_push, to_repository};
use crate::stack::{Keys, Stack};
use crate::verify::pull_with_skopeo;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// What the page of the "Amazon ECR Push" task lists.
const TASK_PAGE: &[&str] = &[
    "ecr:BatchGetImage",
    "ecr:BatchCheckLayerAvailability",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
    "ecr:GetAuthorizationToken",
];

/// What a push to an existing repository needs.
const MINIMUM: &[&str] = &[
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:InitiateLayerUpload",
    "ecr:UploadLayerPart",
    "ecr:CompleteLayerUpload",
    "ecr:PutImage",
];

fn push_as(stack: &'static Stack, keys: &Keys, repository: &str, tag: &str) -> Outcome {
    let command = ecr_push(stack, keys).env("DOCKER_HOST", stack.engine().host());
    to_repository(command, SMALL, repository, &[tag]).run().hides(&keys.secret)
}

#[test]
fn the_documented_permissions_are_enough() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let source = stack.image(SMALL);
    // The last is less than ECR itself would let through: the API's answer is not needed where the registry's will do.
    let sets = [("task-page", TASK_PAGE), ("minimum", MINIMUM), ("token-only", &MINIMUM[..1])];
    for (name, actions) in sets {
        let keys = stack.user(&format!("permissions-{name}"), actions);
        let repository = format!("permissions/{name}");
        stack.create_repository(&repository);
        push_as(stack, &keys, &repository, "v1").ok();
        source.image.assert_same(&pull_with_skopeo(stack, &format!("{repository}:v1")).image);
        push_as(stack, &keys, &repository, "v2").ok();
        assert_eq!(stack.stored(&repository), source.image.distinct_layers() + 1);
    }
}

#[test]
fn a_missing_permission_is_named() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("permissions/none");
    let keys = stack.user("permissions-none", &["sts:GetCallerIdentity"]);
    let outcome = push_as(stack, &keys, "permissions/none", "v1").exit(1);
    outcome.within(Duration::from_secs(10)).says(&["ecr:GetAuthorizationToken"]);
    assert_eq!(stack.stored("permissions/none"), 0);
}

#[test]
fn a_wrong_secret_is_one_sentence() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("permissions/wrong");
    let keys = Keys { secret: "wJalrXUtnFEMIK7MDENGbPxRfiCYWRONGSECRET0".into(), ..stack.admin.clone() };
    let outcome = push_as(stack, &keys, "permissions/wrong", "v1").exit(1);
    outcome.within(Duration::from_secs(10)).says(&["secret"]);
    let keys = Keys { id: "AKIAUNKNOWNUNKNOWN00".into(), ..keys };
    let outcome = push_as(stack, &keys, "permissions/wrong", "v1").exit(1);
    outcome.within(Duration::from_secs(10)).says(&["access key"]);
    assert_eq!(stack.stored("permissions/wrong"), 0);
}
