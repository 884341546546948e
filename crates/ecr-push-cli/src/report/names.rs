//! What the users of each front end call a setting, and how it is written in a sentence.

use ecr_push::Setting;
use ecr_push::text::{Named, Text};

/// The names of a front end. It answers for every setting, so that the compiler finds the one that has no name.
pub type Names = fn(Setting) -> Name;

/// What a setting is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// A flag of this command line, written `--region`.
    Flag(&'static str),
    /// An input of a task or an action, written in YAML.
    Input(&'static str),
    /// An input that is switched on, written as an input with `true`.
    Switch(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// What has no name that could be typed, such as a field of a service connection.
    Phrase(&'static str),
    /// The front end cannot set it, the command line can.
    Elsewhere,
}

/// The names of the command line: its flags.
pub fn flags(setting: Setting) -> Name {
    Name::Flag(flag(setting))
}

/// `text` with these names.
pub fn written(text: &Text, names: Names) -> String {
    text.written(|named| name(named, names(named.setting)))
}

fn name(named: &Named, name: Name) -> String {
    let value = named.value.as_deref();
    let with = |sign: &str, word: &str| match value {
        Some(value) => format!("`{word}{sign}{value}`"),
        None => format!("`{word}`"),
    };
    match name {
        Name::Flag(flag) => with(" ", flag),
        Name::Input(input) => with(": ", input),
        Name::Switch(input) => format!("`{input}: {}`", value.unwrap_or("true")),
        Name::Variable(variable) => with("=", variable),
        Name::Phrase(phrase) => match value {
            Some(value) => format!("{phrase} `{value}`"),
            None => phrase.to_owned(),
        },
        Name::Elsewhere => format!("the command line's {}", with(" ", flag(named.setting))),
    }
}

fn flag(setting: Setting) -> &'static str {
    match setting {
        Setting::Attestations => "--attestations",
        Setting::CaBundle => "--ca-bundle",
        Setting::CacheDir => "--cache-dir",
        Setting::Compression => "--compression",
        Setting::ConnectTo => "--connect-to",
        Setting::ContainerdAddress => "--containerd-address",
        Setting::ContainerdNamespace => "--containerd-namespace",
        Setting::CreateRepository => "--create-repository",
        Setting::DockerContext => "--docker-context",
        Setting::DockerHost => "--docker-host",
        Setting::DryRun => "--dry-run",
        Setting::DualStack => "--dualstack",
        Setting::EndpointUrl => "--endpoint-url",
        Setting::EngineStore => "--engine-store",
        Setting::ExternalId => "--external-id",
        Setting::Fips => "--fips",
        Setting::Jobs => "--jobs",
        Setting::MountFrom => "--mount-from",
        Setting::OutputFile => "--output-file",
        Setting::PlainHttp => "--plain-http",
        Setting::Platform => "--platform",
        Setting::Profile => "--profile",
        Setting::Region => "--region",
        Setting::RegistryId => "--registry-id",
        Setting::Repository => "--repository",
        Setting::RetryBudget => "--retry-budget",
        Setting::Reuse => "--reuse",
        Setting::ReuseFrom => "--reuse-from",
        Setting::RoleArn => "--role-arn",
        Setting::RoleDuration => "--role-duration-seconds",
        Setting::RoleSessionName => "--role-session-name",
        Setting::Tag => "--tag",
        Setting::TagLocal => "--tag-local",
        Setting::TempDir => "--temp-dir",
        Setting::Threads => "--threads",
        Setting::To => "--to",
        Setting::WaitVisible => "--wait-visible",
        Setting::WebIdentityTokenEnv => "--web-identity-token-env",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use ecr_push::text;

    #[test]
    fn every_setting_is_a_flag_of_the_command_line_and_no_two_are_the_same() {
        let command = crate::args::Cli::command();
        let push = command.find_subcommand("push").unwrap();
        let mut flags: Vec<&str> = Setting::ALL.iter().map(|setting| flag(*setting)).collect();
        for flag in &flags {
            let long = flag.strip_prefix("--").unwrap();
            assert!(push.get_arguments().any(|argument| argument.get_long() == Some(long)), "{flag}");
        }
        flags.dedup();
        assert_eq!(flags.len(), Setting::ALL.len());
    }

    #[test]
    fn a_name_is_quoted_in_one_way_whoever_it_belongs_to() {
        let plain = text![Setting::Region];
        let valued = text![Setting::Region.with("x")];
        for (names, alone, with_value) in [
            ((|_| Name::Flag("--a")) as Names, "`--a`", "`--a x`"),
            (|_| Name::Input("a"), "`a`", "`a: x`"),
            (|_| Name::Switch("a"), "`a: true`", "`a: x`"),
            (|_| Name::Variable("A"), "`A`", "`A=x`"),
            (|_| Name::Phrase("the connection's a"), "the connection's a", "the connection's a `x`"),
            (|_| Name::Elsewhere, "the command line's `--region`", "the command line's `--region x`"),
        ] {
            assert_eq!(written(&plain, names), alone);
            assert_eq!(written(&valued, names), with_value);
        }
    }

    #[test]
    fn what_looks_like_a_flag_in_a_sentence_stays() {
        let text = text!["`--tag` of `aws ecr x --region y`, then ", Setting::Tag];
        assert_eq!(written(&text, |_| Name::Input("pushTag")), "`--tag` of `aws ecr x --region y`, then `pushTag`");
    }
}
