//! The CI systems: which one this is, and how its log is written.
//!
//! A CI system reads commands out of a program's output. So every line that leaves goes through its [`System`]: ours are
//! dressed for it, and text from outside is made harmless for it.

pub mod azure;
mod buildkite;
pub mod github;
mod gitlab;
mod values;

use crate::environment::Environment;

/// A system whose log has a form of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// A terminal, a file, or a system that shows lines as they are (Jenkins, CircleCI).
    Plain,
    /// Azure Pipelines.
    Azure,
    /// GitHub Actions.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// Buildkite.
    Buildkite,
}

/// What marks each system, in the order they are looked for: self-hosted systems run inside one another at times.
const MARKS: [(&str, System); 6] = [
    ("GITHUB_ACTIONS", System::GitHub),
    ("TF_BUILD", System::Azure),
    ("GITLAB_CI", System::GitLab),
    ("BUILDKITE", System::Buildkite),
    ("CIRCLECI", System::Plain),
    ("JENKINS_URL", System::Plain),
];

impl System {
    /// The system that this process runs in, and whether it is one at all: jobs have no use for bars.
    pub fn detect(environment: &Environment) -> Option<Self> {
        // Whatever the value: gitlab-ci-local, which reads the log as GitLab does, says `GITLAB_CI=false`.
        MARKS.iter().find(|(mark, _)| environment.text(mark).is_some()).map(|(_, system)| *system)
    }

    /// A line of text in which nothing is taken for a command.
    pub fn text(self, text: &str) -> String {
        let text = printable(text);
        match self {
            Self::Plain | Self::GitLab => text,
            Self::Azure => azure::commands::harmless(&text),
            Self::GitHub => github::commands::harmless(&text),
            Self::Buildkite => buildkite::harmless(&text),
        }
    }

    /// A warning.
    pub fn warning(self, text: &str) -> String {
        match self {
            Self::Azure => azure::commands::issue("warning", &self.text(text)),
            Self::GitHub => github::commands::annotation("warning", &self.text(text)),
            _ => format!("warning: {}", self.text(text)),
        }
    }

    /// What makes an error stand out, besides its lines: its sentence and what to do about it.
    pub fn error(self, text: &str) -> Option<String> {
        match self {
            Self::Azure => Some(azure::commands::issue("error", &self.text(text))),
            Self::GitHub => Some(github::commands::annotation("error", &self.text(text))),
            _ => None,
        }
    }

    /// The command that hides `secret` in everything that follows, where there is one.
    pub fn secret(self, secret: &str) -> Option<String> {
        let secret = worth_hiding(secret)?;
        match self {
            Self::Azure => Some(azure::commands::command("task.setsecret", &[], secret)),
            Self::GitHub => Some(github::commands::command("add-mask", &[], secret)),
            _ => None,
        }
    }

    /// The start of a part of the log that can be folded, where there are such parts.
    pub fn section(self, title: &str) -> Option<String> {
        let title = self.text(title);
        match self {
            Self::Plain => None,
            Self::Azure => Some(format!("##[group]{title}")),
            Self::GitHub => Some(format!("::group::{title}")),
            Self::GitLab => Some(gitlab::start(&title)),
            Self::Buildkite => Some(format!("--- {title}")),
        }
    }

    /// The end of that part.
    pub fn section_end(self) -> Option<String> {
        match self {
            Self::Plain | Self::Buildkite => None,
            Self::Azure => Some("##[endgroup]".to_owned()),
            Self::GitHub => Some("::endgroup::".to_owned()),
            Self::GitLab => Some(gitlab::end()),
        }
    }

    /// What unfolds the part in which something failed.
    pub fn unfold(self) -> Option<String> {
        (self == Self::Buildkite).then(|| "^^^ +++".to_owned())
    }

    /// How far the job is, in percent.
    pub fn progress(self, percent: usize, what: &str) -> Option<String> {
        let value = percent.to_string();
        (self == Self::Azure)
            .then(|| azure::commands::command("task.setprogress", &[("value", &value)], &self.text(what)))
    }

    /// A line that is shown only when the job is debugged, where the system can do that.
    pub fn debug(self, text: &str) -> Option<String> {
        match self {
            Self::Azure => Some(azure::commands::command("task.debug", &[], &self.text(text))),
            Self::GitHub => Some(github::commands::command("debug", &[], &self.text(text))),
            _ => None,
        }
    }
}

const SHORTEST_SECRET: usize = 6;

/// `secret`, if it is one. Hiding a short text hides ordinary words with it, such as the registry's user name.
pub fn worth_hiding(secret: &str) -> Option<&str> {
    let secret = secret.trim();
    (secret.chars().count() >= SHORTEST_SECRET).then_some(secret)
}

/// Text that stays on its line, cannot paint over the log, and is read in the order in which it is written.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_plain(c) { c } else { ' ' }).collect()
}

/// False for control characters, and for those that are not seen and turn text around, hide in it, or break its line (Unicode's
/// bidirectional controls, zero-width letters, line and paragraph separators, tags).
pub fn is_plain(c: char) -> bool {
    let is_hidden = matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !is_hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_is_known_by_its_mark_and_github_comes_first() {
        let of = |variables: &[(&str, &str)]| System::detect(&Environment::of(variables));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("TF_BUILD", "True")]), Some(System::Azure));
        assert_eq!(of(&[("GITLAB_CI", "true")]), Some(System::GitLab));
        assert_eq!(of(&[("BUILDKITE", "true")]), Some(System::Buildkite));
        assert_eq!(of(&[("CIRCLECI", "true")]), Some(System::Plain));
        assert_eq!(of(&[("JENKINS_URL", "http://jenkins.example/")]), Some(System::Plain));
        assert_eq!(of(&[("TF_BUILD", "True"), ("GITHUB_ACTIONS", "true")]), Some(System::GitHub));
        assert_eq!(of(&[("GITLAB_CI", "false")]), Some(System::GitLab));
    }

    #[test]
    fn text_from_outside_is_never_a_command() {
        for (system, hostile) in [
            (System::Azure, "x##vso[task.setvariable variable=a]b"),
            (System::Azure, "x##VSO[task.complete result=Succeeded;]"),
            (System::Azure, "##[error]x"),
            (System::GitHub, "::set-output name=a::b"),
            (System::GitHub, "  ::add-mask::e"),
            (System::GitHub, "x ##[add-mask]e"),
            (System::Buildkite, "+++ x"),
            (System::Buildkite, "^^^ +++"),
        ] {
            let text = system.text(hostile);
            assert!(!text.to_lowercase().contains("##vso") && !text.contains("##["), "{text}");
            assert!(!text.trim_start().starts_with("::"), "{text}");
            assert!(!["---", "+++", "~~~", "^^^"].iter().any(|mark| text.starts_with(mark)), "{text}");
        }
        for system in [System::Plain, System::Azure, System::GitHub, System::GitLab, System::Buildkite] {
            assert_eq!(system.text("a\r\n\u{1b}[0Kb\u{85}c").chars().filter(|c| c.is_control()).count(), 0);
            assert_eq!(system.text("a\u{202e}b\u{2066}\u{200b}\u{2028}\u{feff}"), "a b    ");
            assert_eq!(system.text("pushed v1 - größe 画像"), "pushed v1 - größe 画像");
        }
    }

    #[test]
    fn short_texts_are_never_hidden() {
        for system in [System::Azure, System::GitHub] {
            assert_eq!(system.secret("AWS"), None);
            assert_eq!(system.secret(""), None);
            assert!(system.secret("wJalrXUtnFEMI").is_some());
        }
    }
}
