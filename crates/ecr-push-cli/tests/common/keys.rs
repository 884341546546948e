//! Keys that belong to users of their own, so that it shows whose were used; and what STS was asked.

use local_ecr::{Config, Key};

use super::agent::{Aws, HOSTS, Job};
use super::desk::{Asked, Desk};
use super::engine::RecordedEngine;
use super::{ACCOUNT, Program, Stand};

/// The connection's key and the task variables' key; each belongs to a user of its own, as the host's does.
pub const CONNECTION_KEY: (&str, &str) = ("AKIACONNECTIONEXAMPLE", "the-secret-key-of-the-connection+/");
pub const VARIABLES_KEY: (&str, &str) = ("AKIAVARIABLESEXAMPLE0", "the-secret-key-of-the-variables+/=");

pub async fn stand_with(mut config: Config) -> Stand {
    for ((id, secret), user) in [(CONNECTION_KEY, "connection"), (VARIABLES_KEY, "variables")] {
        config.keys.push(Key { access_key_id: id.into(), secret_access_key: secret.into(), user: user.into() });
    }
    Stand::strict(config).await
}

pub async fn stand() -> Stand {
    stand_with(Config::default()).await
}

pub fn user(name: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{name}")
}

pub fn session(name: &str) -> String {
    format!("arn:aws:sts::{ACCOUNT}:assumed-role/pusher/{name}")
}

pub const KEYS: [(&str, &str); 2] = [("username", CONNECTION_KEY.0), ("password", CONNECTION_KEY.1)];

pub fn keys_and(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    KEYS.iter().chain(more).copied().collect()
}

pub fn variables(task: Program) -> Program {
    task.variable("AWS.AccessKeyID", VARIABLES_KEY.0).secret_variable("AWS.SecretAccessKey", VARIABLES_KEY.1)
}

/// Who asked STS for a role, in order; whoever showed a token is nobody.
pub fn assumers(stand: &Stand) -> Vec<String> {
    stand.asked("STS").into_iter().map(|request| request.principal.unwrap_or_default()).collect()
}

/// Runs the task with STS before a desk. Answers what was asked of STS.
pub async fn asked_of_sts(stand: &Stand, task: Program) -> (Job, Vec<Asked>) {
    let desk = Desk::before(stand.server.address()).await;
    let job = task.env("AWS_ENDPOINT_URL_STS", desk.url()).job().await;
    (job, desk.asked())
}

/// The hosts that are asked for, with this service connection, by the names that AWS has.
pub async fn hosts(fields: &[(&str, &str)], change: impl FnOnce(Program) -> Program) -> Vec<String> {
    let engine = RecordedEngine::start();
    let aws = Aws::start().await;
    change(aws.task(&engine).connection(fields)).job().await.succeeded();
    aws.proxy.hosts()
}

pub fn with_regional_sts() -> Vec<String> {
    HOSTS.iter().map(|host| (*host).to_owned()).chain(["sts.eu-west-1.amazonaws.com".to_owned()]).collect()
}
