//! Environments that no runner gives: see [`crate::fuzzing`].

use super::{Runner, System, TOKEN, name};
use crate::environment::Environment;
use crate::fuzzing::check_refusal;
use crate::report::Reporter;

/// The action up to its first call.
pub fn action(environment: &Environment) {
    let runner = Runner(environment);
    let reporter = Reporter::silent(System::GitHub, name);
    let names = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", TOKEN];
    let secrets: Vec<String> = names.iter().filter_map(|name| environment.text(name)).collect();
    secrets.iter().for_each(|secret| reporter.secret(secret));
    let made = runner.required("image").and_then(|image| runner.request(&image, &reporter));
    match made {
        Ok(request) => {
            let aws = request.push.aws;
            assert!(aws.web_identity.is_none() || aws.role.is_none(), "a role is taken on in one way");
        }
        Err(error) => check_refusal(&error, &secrets, System::GitHub, &reporter),
    }
}
