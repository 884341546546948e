//! Environments that no agent gives: see [`crate::fuzzing`].

use super::agent::Agent;
use super::commands;
use super::inputs::{Inputs, forced};
use super::{System, name, request};
use crate::environment::Environment;
use crate::fuzzing::check_refusal;
use crate::report::Reporter;

/// The task up to its first call.
pub fn task(environment: &Environment) {
    let agent = Agent(environment);
    let reporter = Reporter::silent(System::Azure, name);
    let connection = agent.input("awsCredentials").and_then(|id| agent.connection(&id).ok().flatten());
    let secrets = agent.secrets(connection.as_ref());
    secrets.iter().for_each(|secret| reporter.secret(secret));
    let inputs = match Inputs::read(&agent) {
        Ok(inputs) => inputs,
        Err(error) => return check_refusal(&error, &secrets, System::Azure, &reporter),
    };
    assert!(inputs.tags.iter().all(|tag| !tag.is_empty() && tag.trim() == tag && !tag.contains([',', '\n'])));
    let name = forced(&inputs.repository);
    assert_eq!(forced(&name), name, "a forced name is one already");
    if let Some(variable) = &inputs.output_variable {
        set(variable, &inputs.repository);
    }
    match request(&agent, &inputs, &reporter) {
        Ok(request) => {
            assert!(request.tags.len() <= inputs.tags.len());
            let web_identity = request.aws.web_identity.is_some();
            assert!(!web_identity || request.aws.explicit_keys.is_none(), "one kind of credentials is chosen");
        }
        Err(error) => check_refusal(&error, &secrets, System::Azure, &reporter),
    }
}

/// A command that sets a variable is one line, and means what it should.
fn set(name: &str, value: &str) {
    let line = commands::command("task.setvariable", &[("variable", name), ("isOutput", "false")], value);
    assert!(!line.contains(['\n', '\r']), "{line:?}");
    let (head, data) = line.split_once(']').expect("a command has an end");
    let read = |text: &str| {
        let text = text.replace("%3B", ";").replace("%5D", "]");
        text.replace("%0D", "\r").replace("%0A", "\n").replace("%AZP25", "%")
    };
    let names = head.strip_prefix("##vso[task.setvariable ").and_then(|head| head.split(';').next());
    if !name.is_empty() {
        assert_eq!(names.and_then(|own| own.strip_prefix("variable=")).map(read).as_deref(), Some(name));
    }
    assert_eq!(data.replace("%0D", "\r").replace("%0A", "\n").replace("%AZP25", "%"), value);
}
