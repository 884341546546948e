//! `ecr-push github-action`: the step of the composite action in `integrations/github-action`.
//!
//! The action gives its inputs as `INPUT_` variables, the runner the files that outputs and the summary go to, and the
//! address where the job's identity token is given.

pub mod commands;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;

use std::time::Duration;

use ecr_push::aws::{AwsSettings, IdentityToken, RoleSettings, TokenMethod, TokenRequest, WebIdentity};
use ecr_push::error::Side;
use ecr_push::push::PushReport;
use ecr_push::{Error, Result, Setting};
use secrecy::SecretString;

use super::System;
use super::values::{self, Names};
use crate::args::PushArgs;
use crate::environment::Environment;
use crate::platform::Stops;
use crate::report::{self, Name, Reporter};
use crate::request::{self, Request};
use crate::run::{self, End, until_stopped};
use crate::{PUSHED, SECRETS, UNFINISHED, status};

/// What the action calls a setting.
fn name(setting: Setting) -> Name {
    match setting {
        Setting::CaBundle => Name::Variable("AWS_CA_BUNDLE"),
        Setting::Attestations => Name::Input("attestations"),
        Setting::CacheDir => Name::Input("cache-dir"),
        Setting::Compression => Name::Input("compression"),
        Setting::ContainerdAddress => Name::Variable("CONTAINERD_ADDRESS"),
        Setting::ContainerdNamespace => Name::Variable("CONTAINERD_NAMESPACE"),
        Setting::CreateRepository => Name::Switch("create-repository"),
        Setting::DockerContext => Name::Variable("DOCKER_CONTEXT"),
        Setting::DockerHost => Name::Variable("DOCKER_HOST"),
        Setting::DualStack => Name::Variable("AWS_USE_DUALSTACK_ENDPOINT"),
        Setting::EndpointUrl => Name::Variable("AWS_ENDPOINT_URL"),
        Setting::ExternalId => Name::Input("role-external-id"),
        Setting::Fips => Name::Variable("AWS_USE_FIPS_ENDPOINT"),
        Setting::MountFrom => Name::Input("mount-from"),
        Setting::Platform => Name::Input("platform"),
        Setting::Profile => Name::Variable("AWS_PROFILE"),
        Setting::Region => Name::Input("aws-region"),
        Setting::Repository => Name::Input("repository"),
        Setting::Reuse => Name::Input("reuse"),
        Setting::ReuseFrom => Name::Input("reuse-from"),
        Setting::RoleArn => Name::Input("role-to-assume"),
        Setting::RoleDuration => Name::Input("role-duration-seconds"),
        Setting::RoleSessionName => Name::Input("role-session-name"),
        Setting::Tag => Name::Input("tags"),
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

/// The inputs that this action has for flags of the same meaning.
const OWN: Names = Names {
    platform: "platform",
    attestations: "attestations",
    compression: "compression",
    reuse: "reuse",
    reuse_from: "reuse-from",
    mount_from: "mount-from",
    cache: "cache-dir",
};

/// Whom the identity token is for: what the AWS provider of GitHub's identities is set up with.
const AUDIENCE: &str = "sts.amazonaws.com";

/// Runs the action. Answers the exit status.
pub async fn action(environment: &Environment) -> u8 {
    let mut stops = Stops::listen();
    let reporter = Reporter::of_task(System::GitHub, name);
    let runner = Runner(environment);
    environment.secrets(&SECRETS).iter().for_each(|secret| reporter.secret(secret));
    environment.secrets(&[TOKEN]).iter().for_each(|secret| reporter.secret(secret));
    run::trace(&reporter, "");
    let work = async {
        let image = runner.required("image")?;
        let request = runner.request(&image, &reporter)?;
        reporter.section(&format!("Pushing image '{image}'"));
        request.notices.iter().for_each(|notice| reporter.notice(notice));
        let report = run::push(request.push, &reporter).await?;
        Ok((report, image))
    };
    match until_stopped(&mut stops, work).await {
        End::Done(Ok((report, image))) => match runner.tell(&report, &image) {
            Ok(()) => PUSHED,
            Err(error) => {
                reporter.failed(&error);
                UNFINISHED
            }
        },
        End::Done(Err(error)) => {
            let error = runner.explain(error);
            reporter.failed(&error);
            status(&error)
        }
        End::Stopped(stop) => {
            reporter.stopped();
            stop.status()
        }
    }
}

const ADDRESS: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// The runner's side of the environment.
struct Runner<'a>(&'a Environment);

impl Runner<'_> {
    /// An input. Hyphens stay in its name; a shell on the way may have lost such a variable, so `_` will do for them.
    fn input(&self, name: &str) -> Option<String> {
        let name = name.to_uppercase();
        self.0.first(&[&format!("INPUT_{name}"), &format!("INPUT_{}", name.replace('-', "_"))])
    }

    fn required(&self, name: &str) -> Result<String> {
        self.input(name).ok_or_else(|| {
            Error::refused("read the inputs", format!("Input required and not supplied: {name}"))
                .with_hint(format!("give the action a value for `{name}`"))
        })
    }

    /// The words that YAML 1.2 has for them, and no others, as the runner's own library reads them.
    fn truth(&self, name: &str) -> Result<bool> {
        match self.input(name).as_deref() {
            Some("true" | "True" | "TRUE") => Ok(true),
            None | Some("false" | "False" | "FALSE") => Ok(false),
            Some(other) => Err(Error::refused("read the inputs", format!("`{name}` is `{other}`, not true or false"))),
        }
    }

    /// The same request as flags make.
    fn request(&self, image: &str, reporter: &Reporter) -> Result<Request> {
        let mut args = PushArgs::of(&["image", "--repository", "given below"])
            .map_err(|error| Error::refused("read the inputs", error.to_string()))?;
        args.image = image.to_owned();
        args.destination.repository = Some(self.required("repository")?);
        args.destination.create_repository = self.truth("create-repository")?;
        args.tags = values::tags("tags", &self.input("tags").unwrap_or_default())?;
        values::fill(&mut args, &OWN, |name| self.input(name))?;
        args.aws.region = self.input("aws-region");
        let mut request = request::request(&args, self.0)?;
        // Who the credentials belong to is worth a call when somebody is looking for a fault.
        request.push.show_identity = self.0.text("RUNNER_DEBUG").is_some_and(|value| value == "1");
        self.has_keys()?;
        if let Some(role) = self.role(reporter)? {
            self.take_on(role, &mut request.push.aws)?;
        }
        Ok(request)
    }

    fn role(&self, reporter: &Reporter) -> Result<Option<RoleSettings>> {
        let seconds = self.input("role-duration-seconds").map(|text| {
            let seconds = text.parse().ok().filter(|seconds| (900..=43_200).contains(seconds));
            seconds.map(Duration::from_secs).ok_or_else(|| {
                Error::refused(
                    "read the inputs",
                    format!("`role-duration-seconds` is `{text}`: 900 to 43200 are possible"),
                )
            })
        });
        let duration = seconds.transpose()?;
        let Some(arn) = self.input("role-to-assume") else {
            let alone = ["role-duration-seconds", "role-session-name", "role-external-id"];
            for name in alone.into_iter().filter(|name| self.input(name).is_some()) {
                reporter.warning(format!("`{name}` is left out: it needs `role-to-assume`"));
            }
            return Ok(None);
        };
        Ok(Some(RoleSettings {
            arn,
            session_name: Some(self.input("role-session-name").unwrap_or_else(|| "GitHubActions".to_owned())),
            external_id: self.input("role-external-id"),
            duration,
        }))
    }

    /// True if the job has keys of its own, which then take on the role.
    ///
    /// # Errors
    /// If there is half a pair.
    fn has_keys(&self) -> Result<bool> {
        let pair = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        match pair.map(|name| self.0.text(name).is_some()) {
            [true, true] => Ok(true),
            [false, false] => Ok(false),
            [has_id, _] => {
                let (set, unset) = if has_id { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
                Err(Error::refused("choose credentials", format!("{set} is set and {unset} is not"))
                    .with_hint("set both, or neither"))
            }
        }
    }

    /// Where the job's identity token is given, if the workflow lets it have one.
    fn token_request(&self) -> Option<TokenRequest> {
        let (url, token) = (self.0.text(ADDRESS)?, self.0.text(TOKEN)?);
        let joint = if url.contains('?') { '&' } else { '?' };
        Some(TokenRequest {
            method: TokenMethod::Get,
            url: format!("{url}{joint}audience={AUDIENCE}"),
            headers: vec![("Authorization".to_owned(), SecretString::from(format!("Bearer {token}")))],
            body: None,
            field: "value".to_owned(),
        })
    }

    /// How the role is taken on: with the job's keys, else with its identity token, else with what the AWS SDKs find.
    fn take_on(&self, role: RoleSettings, aws: &mut AwsSettings) -> Result<()> {
        let has_own = self.has_keys()? || self.0.text("AWS_WEB_IDENTITY_TOKEN_FILE").is_some();
        match self.token_request().filter(|_| !has_own) {
            Some(request) => {
                let origin = "GitHub's identity provider".to_owned();
                aws.web_identity = Some(WebIdentity { origin, role, token: IdentityToken::Request(request) });
            }
            None => aws.role = Some(role),
        }
        aws.check()
    }

    /// The most common mistake with roles leaves no trace but the lack of credentials.
    fn explain(&self, error: Error) -> Error {
        let asked = self.input("role-to-assume").is_some() && self.token_request().is_none();
        if !asked || error.side() != Side::Credentials || error.code().is_some() {
            return error;
        }
        error.with_first_hint(
            "the workflow does not let this job have an identity token for the role: give it `permissions: id-token: write`",
        )
    }

    /// Hands the result on: outputs for later steps, a table for the page of the run. Where there are no such files, this is
    /// no runner, and nobody waits for them.
    fn tell(&self, report: &PushReport, image: &str) -> Result<()> {
        let failed = |what: &str, error: std::io::Error| {
            let message = format!("the image was pushed, but the {what} cannot be written: {error}");
            Error::new(Side::Local, "write the result", message).with_source(error)
        };
        if let Some(path) = self.0.path("GITHUB_OUTPUT") {
            let object = report::json(report);
            let wanted = ["image", "digest", "uri", "registry", "tags"];
            let values = report::values(report);
            let mut outputs: Vec<(&str, &str)> = values
                .iter()
                .filter(|(name, _)| wanted.contains(name))
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            outputs.push(("json", &object));
            files::add_values(&path, &outputs).map_err(|error| failed("outputs", error))?;
        }
        if let Some(path) = self.0.path("GITHUB_STEP_SUMMARY") {
            let text = report::markdown(report, image);
            files::add(&path, &text).map_err(|error| failed("summary", error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";

    fn request(variables: &[(&str, &str)]) -> Result<Request> {
        let mut all = vec![("INPUT_REPOSITORY", "team/app")];
        all.extend(variables);
        let environment = Environment::of(&all);
        Runner(&environment).request("app:1", &Reporter::of_task(System::GitHub, name))
    }

    #[test]
    fn every_input_that_a_sentence_names_is_one_of_the_action() {
        let action = concat!(env!("CARGO_MANIFEST_DIR"), "/../../integrations/github-action/action.yml");
        let action = std::fs::read_to_string(action).unwrap();
        let inputs = action.split("\noutputs:").next().unwrap();
        for setting in Setting::ALL {
            if let Name::Input(input) | Name::Switch(input) = name(*setting) {
                assert!(inputs.contains(&format!("\n  {input}:\n")), "{input}");
            }
        }
    }

    #[test]
    fn inputs_are_read_with_hyphens_and_without() {
        for names in [["INPUT_AWS-REGION", "INPUT_CREATE-REPOSITORY"], ["INPUT_AWS_REGION", "INPUT_CREATE_REPOSITORY"]]
        {
            let push = request(&[(names[0], "eu-west-1"), (names[1], "True"), ("INPUT_TAGS", "a\nb, c")]).unwrap().push;
            assert_eq!(push.aws.region.unwrap().as_str(), "eu-west-1");
            assert!(push.create_repository);
            assert_eq!(push.tags.len(), 3);
        }
        assert!(request(&[("INPUT_CREATE-REPOSITORY", "yes")]).unwrap_err().is_refused());
    }

    #[test]
    fn a_role_is_taken_on_with_the_jobs_token_unless_there_are_keys() {
        let oidc = [("INPUT_ROLE-TO-ASSUME", ROLE), (ADDRESS, "https://token.example/?a=b"), (TOKEN, "t")];
        let identity = request(&oidc).unwrap().push.aws.web_identity.unwrap();
        let IdentityToken::Request(token) = identity.token else { panic!() };
        assert_eq!(token.url, "https://token.example/?a=b&audience=sts.amazonaws.com");
        assert_eq!(identity.role.session_name.as_deref(), Some("GitHubActions"));
        let keys = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s")];
        let aws = request(&[oidc[0], oidc[1], oidc[2], keys[0], keys[1]]).unwrap().push.aws;
        assert!(aws.web_identity.is_none() && aws.role.is_some());
        for half in keys {
            let error = request(&[oidc[0], oidc[1], oidc[2], half]).unwrap_err();
            assert!(error.is_refused() && error.message().contains("AWS_"), "{error}");
        }
        let aws = request(&oidc[..1]).unwrap().push.aws;
        assert!(aws.web_identity.is_none() && aws.role.is_some());
    }

    #[test]
    fn a_wrong_duration_is_refused() {
        for seconds in ["899", "43201", "1h", "-1"] {
            let error = request(&[("INPUT_ROLE-TO-ASSUME", ROLE), ("INPUT_ROLE-DURATION-SECONDS", seconds)]);
            assert!(error.unwrap_err().is_refused(), "{seconds}");
        }
    }
}
