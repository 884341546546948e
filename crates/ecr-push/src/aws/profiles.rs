//! Where a profile stands in the AWS files, and how it gives credentials: for errors that name file, line and section.
//!
//! The SDK reads the files and has no lines to give. This looks at them again, and only when something failed or was named.

use std::path::{Path, PathBuf};

use aws_config::profile::ProfileSet;

/// What a profile has that is meant to give credentials.
const GIVES_CREDENTIALS: [&str; 9] = [
    "aws_access_key_id",
    "aws_secret_access_key",
    "credential_process",
    "credential_source",
    "role_arn",
    "source_profile",
    "sso_account_id",
    "sso_session",
    "web_identity_token_file",
];

/// How many profiles may name one another as their source before it is taken for a circle.
const LONGEST_CHAIN: usize = 8;

/// What is known of a profile beside its credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct ProfileFacts {
    /// `FILE, line N, section [NAME]`.
    pub(super) place: Option<String>,
    /// Why the files cannot be used at all, with the place.
    pub(super) unreadable: Option<String>,
    /// The identity token's file that it or its source names.
    pub(super) token_file: Option<PathBuf>,
    /// The profile to log in with, if IAM Identity Center gives the credentials.
    pub(super) sso_login: Option<String>,
}

/// The text of the profile files.
#[derive(Debug, Default)]
pub(super) struct ProfileFiles(Vec<(PathBuf, String)>);

impl ProfileFiles {
    /// Reads them. One that cannot be read is left out: the SDK says why.
    pub(super) fn read(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let read = |path: PathBuf| std::fs::read_to_string(&path).ok().map(|text| (path, text));
        Self(paths.into_iter().filter_map(read).collect())
    }

    /// What is known of the profile `name`. `set` is what the SDK read, or why it could not.
    pub(super) fn facts(&self, name: &str, set: Result<&ProfileSet, &str>) -> ProfileFacts {
        let mut facts = ProfileFacts { place: self.place(name), ..ProfileFacts::default() };
        let set = match set {
            Ok(set) => set,
            Err(reason) => return ProfileFacts { unreadable: Some(self.explained(reason)), ..facts },
        };
        let mut next = Some(name);
        for _ in 0..LONGEST_CHAIN {
            let Some(profile) = next.and_then(|name| set.get_profile(name)) else { break };
            if let Some(path) = profile.get("web_identity_token_file") {
                facts.token_file = Some(path.into());
            }
            let has_session = match profile.get("sso_session") {
                Some(session) => self.has_section(&format!("sso-session {session}")),
                None => profile.get("sso_start_url").is_some(),
            };
            if has_session {
                facts.sso_login = Some(profile.name().to_owned());
            }
            // One that names itself has its keys beside the role.
            next = profile.get("source_profile").filter(|source| *source != profile.name());
        }
        facts
    }

    /// Where the profile says how it gives credentials, or begins.
    fn place(&self, name: &str) -> Option<String> {
        let headers = [format!("profile {name}"), name.to_owned()];
        let mut begin = None;
        for (path, text) in &self.0 {
            let mut inside = None;
            for (number, line) in (1..).zip(text.lines()) {
                if let Some(section) = section(line) {
                    inside = headers.iter().find(|header| **header == section);
                    if let Some(header) = inside {
                        begin.get_or_insert_with(|| place(path, number, Some(header)));
                    }
                    continue;
                }
                let key = line.split('=').next().unwrap_or_default().trim().to_lowercase();
                let is_indented = line.starts_with(char::is_whitespace);
                if inside.is_some() && !is_indented && GIVES_CREDENTIALS.contains(&key.as_str()) {
                    return Some(place(path, number, inside));
                }
            }
        }
        begin
    }

    fn has_section(&self, name: &str) -> bool {
        self.0.iter().any(|(_, text)| text.lines().filter_map(section).any(|section| section == name))
    }

    /// The SDK's sentence about a line that it cannot read, with the section. Another sentence stays as it is.
    fn explained(&self, reason: &str) -> String {
        let parts = || {
            let (at, what) = reason.strip_prefix("error parsing ")?.split_once(":\n")?;
            let (path, number) = at.rsplit_once(" on line ")?;
            Some((path, number.parse::<usize>().ok()?, what.trim()))
        };
        let Some((path, number, what)) = parts() else { return reason.to_owned() };
        let is_it = |known: &Path| known.ends_with(path.trim_start_matches("~/"));
        let text = self.0.iter().find(|(known, _)| is_it(known)).map_or("", |(_, text)| text);
        let section = text.lines().take(number).filter_map(section).last();
        format!("{}: {what}", place(Path::new(path), number, section.as_ref()))
    }
}

/// The first key by which the profile is meant to give credentials.
pub(super) fn gives_credentials(profile: &aws_config::profile::Profile) -> Option<&'static str> {
    GIVES_CREDENTIALS.into_iter().find(|key| profile.get(key).is_some())
}

fn place(path: &Path, line: usize, section: Option<&String>) -> String {
    let section = section.map(|section| format!(", section [{section}]")).unwrap_or_default();
    format!("{}, line {line}{section}", path.display())
}

/// The name in a line that begins a section, with single blanks.
fn section(line: &str) -> Option<String> {
    let inner = line.strip_prefix('[')?.split(']').next()?;
    Some(inner.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> ProfileFiles {
        ProfileFiles(vec![("/home/me/.aws/config".into(), text.to_owned())])
    }

    #[test]
    fn a_profile_is_found_where_it_speaks_of_credentials() {
        let text = "# x\n[default]\nregion=a\n\n[profile  ci]\ns3 =\n  role_arn = no\nROLE_ARN = x\n[ci2]\n";
        let place = |name: &str| files(text).place(name);
        assert_eq!(place("ci").unwrap(), "/home/me/.aws/config, line 8, section [profile ci]");
        assert_eq!(place("default").unwrap(), "/home/me/.aws/config, line 2, section [default]");
        assert_eq!(place("ci2").unwrap(), "/home/me/.aws/config, line 9, section [ci2]");
        assert_eq!(place("nope"), None);
    }

    #[test]
    fn a_line_that_cannot_be_read_gets_its_section() {
        let files = files("[default]\nregion=a\n[profile ci]\nfoo\n");
        let expected = "section [profile ci]: Expected an '=' sign";
        for path in ["~/.aws/config", "/home/me/.aws/config"] {
            let said = files.explained(&format!("error parsing {path} on line 4:\n  Expected an '=' sign"));
            assert_eq!(said, format!("{path}, line 4, {expected}"));
        }
        for other in ["error parsing", "no such file", "error parsing x on line y:\n  z"] {
            assert_eq!(files.explained(other), other);
        }
    }
}
