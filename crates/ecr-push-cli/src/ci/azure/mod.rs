//! `ecr-push azure-task`: the task of Azure Pipelines.
//!
//! The agent gives inputs, service connection and variables in the environment, and reads the result out of standard
//! output. What a pipeline sees of Amazon's "Amazon ECR Push" task stays as it is; what was wrong with it is mended
//! (docs/azure-pipelines.md says which is which).

mod agent;
pub mod commands;
mod credentials;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod inputs;

use ecr_push::aws::{RegistryHost, is_aws_host};
use ecr_push::push::{PushReport, PushRequest};
use ecr_push::source::SourceSpec;
use ecr_push::{Error, Result, Setting, Text};

use super::{System, values};
use crate::args::{AzureTaskArgs, PushArgs};
use crate::environment::Environment;
use crate::platform::Stops;
use crate::report::{self, Name, Reporter};
use crate::request;
use crate::run::{self, Afterwards, End, until_stopped};
use agent::Agent;
use inputs::{Image, Inputs, forced};

/// The agent takes any other status for a failure of the task's machinery, and says so in the log.
const ENDED: u8 = 0;

/// What the task calls a setting.
fn name(setting: Setting) -> Name {
    match setting {
        Setting::CaBundle => Name::Variable("AWS_CA_BUNDLE"),
        Setting::Attestations => Name::Input("attestations"),
        Setting::CacheDir => Name::Input("cacheFolder"),
        Setting::Compression => Name::Input("compression"),
        Setting::ContainerdAddress => Name::Variable("CONTAINERD_ADDRESS"),
        Setting::ContainerdNamespace => Name::Variable("CONTAINERD_NAMESPACE"),
        Setting::CreateRepository => Name::Switch("autoCreateRepository"),
        Setting::DockerContext => Name::Variable("DOCKER_CONTEXT"),
        Setting::DockerHost => Name::Variable("DOCKER_HOST"),
        Setting::DualStack => Name::Variable("AWS_USE_DUALSTACK_ENDPOINT"),
        Setting::EndpointUrl => Name::Variable("AWS_ENDPOINT_URL"),
        Setting::ExternalId => Name::Phrase("the service connection's external ID"),
        Setting::Fips => Name::Variable("AWS_USE_FIPS_ENDPOINT"),
        Setting::MountFrom => Name::Input("mountFrom"),
        Setting::Platform => Name::Input("platform"),
        Setting::Profile => Name::Variable("AWS_PROFILE"),
        Setting::Region => Name::Input("regionName"),
        Setting::Repository => Name::Input("repositoryName"),
        Setting::Reuse => Name::Input("reuse"),
        Setting::ReuseFrom => Name::Input("reuseFrom"),
        Setting::RoleArn => Name::Phrase("the service connection's role"),
        Setting::RoleDuration => Name::Phrase("the variable aws.rolecredential.maxduration"),
        Setting::RoleSessionName => Name::Phrase("the service connection's role session name"),
        Setting::Tag => Name::Input("pushTag"),
        Setting::TempDir => Name::Variable("TMPDIR"),
        Setting::ConnectTo
        | Setting::DryRun
        | Setting::EngineStore
        | Setting::Jobs
        | Setting::OutputFile
        | Setting::PlainHttp
        | Setting::RegistryId
        | Setting::RetryBudget
        | Setting::TagLocal
        | Setting::Threads
        | Setting::To
        | Setting::WaitVisible
        | Setting::WebIdentityTokenEnv => Name::Elsewhere,
    }
}

/// Runs the task. Answers the exit status.
pub async fn task(args: &AzureTaskArgs, environment: &Environment) -> u8 {
    let mut stops = Stops::listen().with_parent_pipe(args.parent_pipe);
    let reporter = Reporter::of_task(System::Azure, name);
    let agent = Agent(environment);
    // Before anything else can be logged. A connection that is wrong is told later.
    let connection = agent.input("awsCredentials").and_then(|id| agent.connection(&id).ok().flatten());
    agent.secrets(connection.as_ref()).iter().for_each(|secret| reporter.secret(secret));
    let complete = |result: &str, text: Text| {
        let text = System::Azure.text(&reporter.said(text));
        reporter.command(&commands::command("task.complete", &[("result", result)], &text));
        ENDED
    };
    match until_stopped(&mut stops, push(&agent, &reporter)).await {
        End::Done(Ok(true)) => complete("Succeeded", Text::default()),
        End::Done(Ok(false)) => complete("SucceededWithIssues", Text::default()),
        End::Done(Err(error)) => {
            let error = with_the_tasks_own(in_upstreams_words(error), &agent);
            reporter.failed(&error);
            complete("Failed", report::sentence(&error))
        }
        End::Stopped(_) => {
            let text = reporter.stopped();
            complete("Failed", text.into())
        }
    }
}

/// The whole task. True if there was nothing to complain of.
async fn push(agent: &Agent<'_>, reporter: &Reporter) -> Result<bool> {
    if agent.is_debugging() {
        inputs::shown(agent).iter().for_each(|input| reporter.detail(input));
    }
    let inputs = Inputs::read(agent)?;
    let logged =
        [(inputs.log_request, "ecr_push::aws::request=trace"), (inputs.log_response, "ecr_push::aws::response=trace")];
    let logged: Vec<&str> = logged.iter().filter(|(wanted, _)| *wanted).map(|(_, target)| *target).collect();
    run::trace(reporter, &logged.join(","));
    reporter.notice("Configuring credentials for task");
    let mut request = request(agent, &inputs, reporter)?;
    let (source, title) = match &inputs.image {
        Image::Name(name) => (name, format!("Pushing image '{name}'")),
        Image::Id(id) => (id, format!("Pushing image with ID '{id}'")),
    };
    request.source = SourceSpec::Daemon(source.clone());
    let has_tag = !request.tags.is_empty();
    reporter.section(&title);
    let report = run::push(request, reporter).await?;

    let first = report.references().next().filter(|_| has_tag);
    // A tag that was left empty on purpose is left out, though `latest` is pushed.
    let reference = first.unwrap_or_else(|| report.repository.clone());
    set_variables(agent, inputs.output_variable.as_deref(), &reference, &report, reporter);
    let afterwards = if inputs.remove_image { Afterwards::Remove } else { Afterwards::Tag };
    let failed = afterwards.run(&report, reporter).await;
    failed.iter().for_each(|error| reporter.warning(report::sentence(error)));
    show_summary(agent, &report, source, reporter);
    Ok(failed.is_empty())
}

/// The same request as flags make, from the agent's environment.
fn request(agent: &Agent<'_>, inputs: &Inputs, reporter: &Reporter) -> Result<PushRequest> {
    let image = match &inputs.image {
        Image::Name(text) | Image::Id(text) => text,
    };
    let words = ["image", "--repository", "given below"];
    let mut args = PushArgs::of(&words).map_err(|error| Error::refused("read the inputs", error.to_string()))?;
    let (repository, tag) = repository(inputs)?;
    args.destination.repository = Some(repository);
    args.tags = inputs.tags.iter().cloned().chain(tag).collect();
    args.destination.create_repository = inputs.create_repository;
    values::fill(&mut args, &inputs::OWN, |name| agent.input(name))?;
    let aws_region = agent.variable("AWS.Region");
    args.aws.region.clone_from(&inputs.region);
    let mut request = request::request(&args, agent.0)?.push;
    ecr_push::engine::check_name(image)?;
    if let Some(region) = aws_region {
        request.aws.environment_regions.insert(0, ("the task variable AWS.Region", region));
    }
    agent.add_network(&mut request.http)?.iter().for_each(|warning| reporter.warning(warning));
    credentials::choose(agent, inputs.connection.as_deref(), &mut request.aws, reporter)?;
    request.aws.check()?;
    warn_of_naming(inputs, reporter);
    // Who the credentials belong to is worth a call when somebody is looking for a fault.
    request.show_identity = agent.is_debugging();
    Ok(request)
}

/// The repository's name, after the rule that the author may have asked for, and the tag behind it: upstream writes `pushTag` behind the
/// name, so that an empty one leaves the name's own.
fn repository(inputs: &Inputs) -> Result<(String, Option<String>)> {
    let name = &inputs.repository;
    let name = name.split_once("://").map_or(name.as_str(), |(_, bare)| bare);
    let host = |first: &str| first.strip_suffix(":443").unwrap_or(first).to_owned();
    if let Some((first, rest)) = name.split_once('/')
        && (RegistryHost::parse(&host(first)).is_some() || is_aws_host(&host(first)))
    {
        let message = format!("`repositoryName` holds the registry's host `{first}`, which the task adds by itself");
        return Err(
            Error::refused("parse repository name", message).with_hint(format!("write `repositoryName: {rest}`"))
        );
    }
    if inputs.force_naming {
        return Ok((forced(&inputs.repository), None));
    }
    let name = &inputs.repository;
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let refuse = |what: &str, hint: String| {
        let message = format!("`repositoryName` is `{name}`, which {what}");
        Err(Error::refused("parse repository name", message).with_hint(hint))
    };
    if let Some(at) = name[last..].find('@') {
        let bare = &name[..last + at];
        return refuse("holds a digest, and that comes of the push", format!("write `repositoryName: {bare}`"));
    }
    let Some((bare, tag)) = name[last..].split_once(':') else { return Ok((name.clone(), None)) };
    let bare = &name[..last + bare.len()];
    if tag.is_empty() {
        return refuse("ends in a colon", format!("write `repositoryName: {bare}`"));
    }
    if !inputs.tags.is_empty() {
        return refuse(
            "holds a tag, and `pushTag` is not empty",
            format!("write `repositoryName: {bare}` and `pushTag: {tag}`"),
        );
    }
    Ok((bare.to_owned(), Some(tag.to_owned())))
}

/// Upstream's rule sends images elsewhere than its users may think.
fn warn_of_naming(inputs: &Inputs, reporter: &Reporter) {
    let name = &inputs.repository;
    if inputs.force_naming && name.contains('/') {
        reporter.warning(format!(
            "`forceDockerNamingConventions` deletes `/`: `{name}` becomes `{}`, another repository than `{}`",
            forced(name),
            name.to_lowercase()
        ));
    }
}

/// The variable that the author named, as upstream sets it, and three of our own as outputs of the step. A step without a name has no
/// outputs; it sets plain variables, under other names, since the agent makes an output of each that task.json declares.
fn set_variables(agent: &Agent<'_>, name: Option<&str>, reference: &str, report: &PushReport, reporter: &Reporter) {
    let set = |name: &str, is_output: &str, value: &str| {
        let properties = [("variable", name), ("isOutput", is_output), ("issecret", "false")];
        reporter.command(&commands::command("task.setvariable", &properties, value));
    };
    if let Some(name) = name {
        let odd = |c: char| !c.is_alphanumeric() && !"._-".contains(c);
        if name.contains(odd) {
            reporter.warning(format!("`outputVariable` is `{name}`, a name that not every step can read"));
        }
        set(name, "false", reference);
    }
    let tags: Vec<String> = report.tags.iter().map(ToString::to_string).collect();
    let values = [report.digest.to_string(), report.uri(), tags.join(",")];
    for (name, value) in inputs::OUTPUTS.iter().zip(&values) {
        if agent.names_the_step() {
            set(name, "true", value);
        } else {
            set(&format!("ECR_PUSH_{}", name.to_uppercase()), "false", value);
        }
    }
}

/// The page of the run gets a table. It is read after this program has ended, so the file stays, in the one folder that the
/// agent cleans and that it sees too when the job runs in a container. A file that it does not find would fail the step.
fn show_summary(agent: &Agent<'_>, report: &PushReport, source: &str, reporter: &Reporter) {
    let Some(folder) = agent.variable("Agent.TempDirectory") else {
        return reporter.detail("no summary: the agent names no folder for temporary files");
    };
    let mut builder = tempfile::Builder::new();
    // The agent may be another user than the task, in a container job.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let named = builder.prefix("ecr-push-").suffix(".md").tempfile_in(&folder);
    let written = named.and_then(|mut file| {
        std::io::Write::write_all(&mut file, report::markdown(report, source).as_bytes())?;
        Ok(file.into_temp_path().keep()?)
    });
    match written {
        Ok(path) => {
            let path = std::path::absolute(&path).unwrap_or(path);
            reporter.command(&commands::command("task.uploadsummary", &[], &path.display().to_string()));
        }
        // The page misses a table; the push misses nothing.
        Err(error) => reporter.detail(&format!("no summary: {error}")),
    }
}

/// The sentences that pipelines may look for in the log stand before ours.
fn in_upstreams_words(error: Error) -> Error {
    let before = match error.operation() {
        "find the region" => "Missing region in config: ",
        "ecr:GetAuthorizationToken" => "Failed to obtain authorization token to log in to ECR, error: ",
        "read authorization token" => "Failed to obtain auth token! ",
        "read registry endpoint" => "Failed to get endpoint of repository: ",
        "ecr:DescribeRepositories" | "ecr:BatchCheckLayerAvailability" => "Error testing for repository existence: ",
        _ => return error,
    };
    error.prefixed(before)
}

/// What this task has for a failure comes before what the library knows of, and nothing is advised that a task cannot do.
fn with_the_tasks_own(error: Error, agent: &Agent<'_>) -> Error {
    let is_set = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
    let chose = is_set(agent.input("awsCredentials")) || agent.variable("AWS.AccessKeyID").is_some();
    match error.operation() {
        "find credentials" if !chose => error.with_first_hint(
            "name a service connection of type AWS in `awsCredentials`, or set the variables AWS.AccessKeyID and \
             AWS.SecretAccessKey",
        ),
        "find engine" => error.with_hints(vec![
            "start an engine on the agent, or name it with DOCKER_HOST or a docker context: this task reads the image from one"
                .into(),
        ]),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecr_push::text;

    #[test]
    fn every_input_that_a_sentence_names_is_one_of_the_task() {
        for setting in Setting::ALL {
            if let Name::Input(input) | Name::Switch(input) = name(*setting) {
                assert!(inputs::INPUTS.iter().any(|(known, _)| *known == input), "{input}");
            }
        }
    }

    #[test]
    fn a_flag_that_the_task_has_no_input_for_is_quoted_once() {
        let budget = text![Setting::RetryBudget, " sets how long, and ", Setting::CreateRepository, " nothing"];
        let expected = "the command line's `--retry-budget` sets how long, and `autoCreateRepository: true` nothing";
        assert_eq!(Reporter::silent(System::Azure, name).said(budget), expected);
    }
}
