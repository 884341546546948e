//! Hostile input, see the library's `fuzzing`: here it is what a CI system gives in the environment.

#[cfg(test)]
#[path = "../../../fuzz/drive.rs"]
mod drive;

use ecr_push::Error;

use crate::ci::{System, azure, github};
use crate::environment::Environment;
use crate::report::{Reporter, sentence};

/// Reads the input as the environment of a task. The first byte chooses the system; then come variables, `NAME=VALUE`, separated by the
/// byte 0x1e.
pub fn agent(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let variables: Vec<(&str, &str)> =
        text.split('\u{1e}').filter_map(|variable| variable.split_once('=')).take(100).collect();
    let environment = Environment::of(&variables);
    match first & 1 {
        0 => azure::fuzz::task(&environment),
        _ => github::fuzz::action(&environment),
    }
}

/// What must hold of every refusal: it comes before any call, shows no secret, and holds no command.
pub fn check_refusal(error: &Error, secrets: &[String], system: System, reporter: &Reporter) {
    assert!(error.is_refused(), "{error:?}");
    let shown = system.text(&reporter.said(sentence(error)));
    assert!(!shown.contains(char::is_control), "one line: {shown:?}");
    for secret in secrets.iter().filter_map(|secret| crate::ci::worth_hiding(secret)) {
        assert!(!shown.contains(secret), "{shown:?} shows {secret:?}");
    }
    let lower = shown.to_lowercase();
    // GitHub's runner knows the second of Azure's forms, and one of its own.
    let holds_command = match system {
        System::GitHub => lower.contains("##[") || lower.trim_start().starts_with("::"),
        _ => lower.contains("##vso[") || lower.contains("##["),
    };
    assert!(!holds_command, "{shown:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_environment_of_a_task_makes_it_panic_or_show_a_secret() {
        drive::run("agent", agent);
    }

    /// What an Azure Pipelines agent sets for every task.
    const AZURE: [&str; 8] = [
        "INPUT_REPOSITORYNAME=team/app",
        "INPUT_IMAGESOURCE=imagename",
        "INPUT_SOURCEIMAGENAME=app",
        "INPUT_SOURCEIMAGETAG=v1",
        "INPUT_PUSHTAG=v1,\nlatest",
        "INPUT_REGIONNAME=us-east-1",
        "INPUT_OUTPUTVARIABLE=pushed;]",
        "SYSTEM_DEBUG=true",
    ];
    const CONNECTION: [&str; 4] = [
        "INPUT_AWSCREDENTIALS=0A1B-2c",
        "ENDPOINT_URL_0a1b-2c=https://aws.amazon.com/",
        "ENDPOINT_AUTH_SCHEME_0a1b-2c=UsernamePassword",
        "ENDPOINT_AUTH_0a1b-2c={\"parameters\":{\"username\":\"AKIAIOSFODNN7EXAMPLE\",\"password\":\"wJalrXUtnFEMI/K7MDENG\",\"assumeRoleArn\":\"arn:aws:iam::123456789012:role/pusher\"},\"scheme\":\"UsernamePassword\"}",
    ];
    const OIDC: [&str; 8] = [
        "INPUT_AWSCREDENTIALS=0a1b",
        "ENDPOINT_AUTH_0a1b={\"parameters\":{\"useOIDC\":\"true\"}}",
        "ENDPOINT_AUTH_PARAMETER_0a1b_ASSUMEROLEARN=arn:aws:iam::123456789012:role/pusher",
        "ENDPOINT_AUTH_SYSTEMVSSCONNECTION={\"parameters\":{\"AccessToken\":\"the-jobs-token\"},\"scheme\":\"OAuth\"}",
        "SYSTEM_COLLECTIONURI=https://dev.azure.com/org/",
        "SYSTEM_TEAMPROJECTID=p",
        "SYSTEM_HOSTTYPE=build",
        "AWS_ROLECREDENTIAL_MAXDURATION=3600",
    ];
    const NETWORK: [&str; 9] = [
        "AGENT_PROXYURL=http://proxy.example:3128",
        "AGENT_PROXYUSERNAME=user",
        "SECRET_AGENT_PROXYPASSWORD=p@ss:/w#rd%",
        "AGENT_PROXYBYPASSLIST=[\"\\\\.corp\\\\.example\",\"(?=x)\"]",
        "AGENT_CAINFO=/ca.pem",
        "AGENT_SKIPCERTVALIDATION=True",
        "AWS_ACCESSKEYID=AKIAIOSFODNN7EXAMPLE",
        "SECRET_AWS_SECRETACCESSKEY=wJalrXUtnFEMI/K7MDENG",
        "AWS_REGION=eu-west-1",
    ];
    const GITHUB: [&str; 10] = [
        "INPUT_IMAGE=app:v1",
        "INPUT_REPOSITORY=team/app",
        "INPUT_TAGS=v1\nlatest",
        "INPUT_AWS-REGION=us-east-1",
        "INPUT_CREATE-REPOSITORY=true",
        "INPUT_PLATFORM=linux/amd64",
        "INPUT_ROLE-TO-ASSUME=arn:aws:iam::123456789012:role/pusher",
        "INPUT_ROLE-DURATION-SECONDS=900",
        "ACTIONS_ID_TOKEN_REQUEST_URL=https://token.example/?a=b",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN=the-token-of-the-job",
    ];

    #[test]
    fn seeds_of_environments() {
        let joined = |choice: u8, sets: &[&[&str]]| {
            let text = sets.concat().join("\u{1e}");
            [&[choice], text.as_bytes()].concat()
        };
        drive::seed("agent", "azure", &joined(0, &[&AZURE]));
        drive::seed(
            "agent",
            "azure-id",
            &joined(0, &[&AZURE[..1], &["INPUT_IMAGESOURCE=imageid", "INPUT_SOURCEIMAGEID=cafe"]]),
        );
        drive::seed("agent", "azure-connection", &joined(0, &[&AZURE, &CONNECTION]));
        drive::seed("agent", "azure-oidc", &joined(0, &[&AZURE, &OIDC, &["SYSTEM_PLANID=n", "SYSTEM_JOBID=j"]]));
        drive::seed("agent", "azure-network", &joined(0, &[&AZURE, &NETWORK]));
        drive::seed(
            "agent",
            "azure-macro",
            &joined(0, &[&["INPUT_PUSHTAG=$(Build.BuildId)##vso[task.complete]"], &AZURE[..4]]),
        );
        drive::seed("agent", "github", &joined(1, &[&GITHUB]));
        drive::seed(
            "agent",
            "github-keys",
            &joined(
                1,
                &[
                    &GITHUB[..3],
                    &[
                        "AWS_ACCESS_KEY_ID=AKIA",
                        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI",
                        "AWS_SESSION_TOKEN=a-session-token",
                    ],
                ],
            ),
        );
    }
}
