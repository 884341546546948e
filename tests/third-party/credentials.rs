//! Where credentials and the region come from, in the set-up that takes any key.

use crate::command::Cmd;
use crate::image::SMALL;
use crate::push::{ecr_push, to_repository};
use crate::stack::Stack;
use crate::verify::pull_with_skopeo;
use std::time::Duration;

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// moto stands in for the metadata of an EC2 instance, too.
const METADATA: &str = "http://127.0.0.1:1338";

/// `ecr-push` without keys in its environment.
fn without_keys(stack: &'static Stack) -> Cmd {
    let command = ecr_push(stack, &stack.admin).env("DOCKER_HOST", stack.engine().host());
    command.without("AWS_ACCESS_KEY_ID").without("AWS_SECRET_ACCESS_KEY")
}

/// The push has to succeed, and the image to arrive.
#[track_caller]
fn arrives(stack: &'static Stack, command: Cmd, repository: &str) {
    command.run().ok();
    stack.image(SMALL).image.assert_same(&pull_with_skopeo(stack, &format!("{repository}:v1")).image);
}

#[test]
fn instance_metadata() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("credentials/instance");
    // The AWS CLI accepts these metadata.
    let variable = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    let aws = stack.space.command("aws").args(["sts", "get-caller-identity", "--region", "us-east-1"]);
    aws.env(variable, METADATA).env("AWS_CA_BUNDLE", stack.space.path("ca.crt")).run().ok();
    let command = to_repository(without_keys(stack).env(variable, METADATA), SMALL, "credentials/instance", &["v1"]);
    arrives(stack, command, "credentials/instance");
}

#[test]
fn a_profile_gives_keys_and_region() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("credentials/profile");
    let config = "[profile pushers]\nregion = us-east-1\n";
    let keys =
        format!("[pushers]\naws_access_key_id = {}\naws_secret_access_key = {}\n", stack.admin.id, stack.admin.secret);
    stack.space.write("profile-home/.aws/config", config);
    stack.space.write("profile-home/.aws/credentials", keys);
    let command = without_keys(stack).env("HOME", stack.space.path("profile-home"));
    let words = ["push", SMALL, "--repository", "credentials/profile", "--tag", "v1", "--profile"];
    // A profile that is named and missing never falls through.
    let missing = without_keys(stack).env("HOME", stack.space.path("profile-home")).args(words).arg("nobody");
    missing
        .env("AWS_ACCESS_KEY_ID", &stack.admin.id)
        .env("AWS_SECRET_ACCESS_KEY", &stack.admin.secret)
        .run()
        .refused()
        .says(&["nobody"]);
    arrives(stack, command.args(words).arg("pushers"), "credentials/profile");
}

#[test]
fn a_role_is_assumed() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("credentials/role");
    let command = ecr_push(stack, &stack.admin).env("DOCKER_HOST", stack.engine().host());
    let command = to_repository(command, SMALL, "credentials/role", &["v1"]);
    let role = ["--role-arn", "arn:aws:iam::123456789012:role/pusher", "--role-session-name", "test"];
    arrives(stack, command.args(role), "credentials/role");
}

#[test]
fn a_region_in_any_spelling() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("credentials/region");
    let push = |region: &str| {
        let command = ecr_push(stack, &stack.admin).env("DOCKER_HOST", stack.engine().host());
        command.args(["push", SMALL, "--repository", "credentials/region", "--tag", "v1", "--region", region])
    };
    arrives(stack, push("US-EAST-1"), "credentials/region");
    arrives(stack, push("us_east_1"), "credentials/region");
    // A region that this program has never heard of is asked all the same; nobody answers here.
    push("xx-new-1").limit(Duration::from_secs(60)).run().exit(1).says(&["xx-new-1"]);
}

#[test]
fn no_credentials_and_no_region() {
    let Some(stack) = Stack::guarded(PARTS) else {
        return;
    };
    stack.image(SMALL);
    let command = to_repository(without_keys(stack), SMALL, "credentials/nobody", &["v1"]);
    command.run().refused().within(Duration::from_secs(5)).says(&["credentials"]);
    let command = ecr_push(stack, &stack.admin).env("DOCKER_HOST", stack.engine().host());
    let command = command.args(["push", SMALL, "--repository", "credentials/nowhere", "--tag", "v1"]);
    command.run().refused().within(Duration::from_secs(5)).says(&["--region"]);
}
