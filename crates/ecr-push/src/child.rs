//! Programs that this one starts: ssh and docker's credential helpers. The only file that makes a command.
//!
//! A job's environment is full of secrets that are for somebody else. So no program inherits it: each kind receives the variables on its
//! list, which docs/usage.md repeats, and those that the user names. The AWS SDK starts a credential process by itself, with the
//! environment of this process; what that holds is up to the caller.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::Arc;

use tokio::process::Command;

use crate::error::cut;

/// Who the user is, where programs and files are, how text is written: every kind.
const EVERY: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LOCPATH",
    "TZ",
    "TERM",
    "TMPDIR",
    "TMP",
    "TEMP",
    "XDG_*",
    // A program may need them to start at all: its libraries, and the names of users that only the container knows.
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NSS_WRAPPER_PASSWD",
    "NSS_WRAPPER_GROUP",
    // Programs of Windows, under WSL too.
    "WSL_DISTRO_NAME",
    "WSL_INTEROP",
    "SystemRoot",
    "SystemDrive",
    "windir",
    "ComSpec",
    "PATHEXT",
    "OS",
    "PROCESSOR_ARCHITECTURE",
    "NUMBER_OF_PROCESSORS",
    "COMPUTERNAME",
    "USERNAME",
    "USERDOMAIN",
    "USERPROFILE",
    "HOMEDRIVE",
    "HOMEPATH",
    "APPDATA",
    "LOCALAPPDATA",
    "ProgramData",
    "ALLUSERSPROFILE",
    "ProgramFiles",
    "ProgramFiles(x86)",
    "ProgramW6432",
];

/// Where a question for a password or a keyring can be shown.
const DESKTOP: &[&str] = &["DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "GPG_TTY"];

/// ssh's agent, its questions, Kerberos.
const SSH: &[&str] = &[
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "SSH_ASKPASS",
    "SSH_ASKPASS_REQUIRE",
    "SSH_SK_HELPER",
    "SSH_SK_PROVIDER",
    "KRB5CCNAME",
    "KRB5_CONFIG",
];

/// For helpers that ask a service: proxies and certificates.
const NETWORK: &[&str] = &[
    "DOCKER_CONFIG",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
];

/// What helpers need that are made for one service or store, by their names behind `docker-credential-`.
const BY_HELPER: &[(&[&str], &[&str])] = &[
    (&["pass"], &["GNUPGHOME", "PASSWORD_STORE_*"]),
    (&["ecr-login"], &["AWS_*"]),
    (&["gcr", "gcloud"], &["GOOGLE_*", "CLOUDSDK_*"]),
    (&["acr-env", "acr-linux", "acr-darwin", "acr-win"], &["AZURE_*", "IDENTITY_*", "MSI_*"]),
    (&["ghcr-login", "gh"], &["GITHUB_TOKEN", "GITHUB_ACTOR", "GH_*"]),
    (&["env"], &["DOCKER_*", "GITHUB_TOKEN", "AWS_*"]),
];

/// Helpers that ask nobody but a store of this machine.
const LOCAL_HELPERS: &[&str] = &["osxkeychain", "wincred", "secretservice", "pass"];

/// What a program is started for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind<'a> {
    /// The way to an engine on another machine.
    Ssh,
    /// docker's credential helper of this name.
    Helper(&'a str),
}

impl Kind<'_> {
    fn lists(self) -> Vec<&'static [&'static str]> {
        let mut lists = vec![EVERY, DESKTOP];
        match self {
            Self::Ssh => lists.push(SSH),
            Self::Helper(name) => {
                let name = name.strip_suffix(".exe").unwrap_or(name);
                if !LOCAL_HELPERS.contains(&name) {
                    lists.push(NETWORK);
                }
                lists.extend(BY_HELPER.iter().filter(|(names, _)| names.contains(&name)).map(|(_, list)| *list));
            }
        }
        lists
    }

    fn may_see(self, name: &OsStr) -> bool {
        let name = name.to_string_lossy();
        self.lists().concat().into_iter().any(|pattern| matches(pattern, &name))
    }
}

/// An exact name, or the beginning of one. Windows knows no case.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|head| same(head, start)),
        None => same(pattern, name),
    }
}

fn same(a: &str, b: &str) -> bool {
    if cfg!(windows) { a.eq_ignore_ascii_case(b) } else { a == b }
}

/// The environment of whoever calls the library, of which the programs it starts receive what is on their lists. Empty, they start with
/// no variable at all. Its values are never printed.
#[derive(Clone, Default)]
pub struct Variables {
    all: Arc<BTreeMap<OsString, OsString>>,
    also: Arc<[String]>,
}

impl Variables {
    /// The variables `all`. Those named in `also`, each by its whole name, are received by every program.
    pub fn new(all: impl IntoIterator<Item = (OsString, OsString)>, also: &[String]) -> Self {
        Self { all: Arc::new(all.into_iter().collect()), also: also.into() }
    }

    /// A command for `program`, which starts with the variables of its kind, and is killed when nobody waits for it any more.
    pub(crate) fn command(&self, kind: Kind<'_>, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.of(kind)).kill_on_drop(true);
        command
    }

    fn of<'a>(&'a self, kind: Kind<'a>) -> impl Iterator<Item = (&'a OsString, &'a OsString)> {
        self.all.iter().filter(move |(name, _)| self.is_named(name) || kind.may_see(name))
    }

    fn is_named(&self, name: &OsStr) -> bool {
        self.also.iter().any(|also| same(also, &name.to_string_lossy()))
    }

    /// A line that a program of this kind said, as it may be shown: without control characters, without the secrets that it received and
    /// whatever looks like one, and not longer than a sentence.
    pub(crate) fn harmless(&self, kind: Kind<'_>, line: &str) -> String {
        let is_secret = |name: &OsStr| self.is_named(name) || names_a_secret(&name.to_string_lossy());
        let given = self.of(kind).filter(|(name, _)| is_secret(name)).filter_map(|(_, value)| value.to_str());
        let mut secrets: Vec<&str> = given.filter(|value| value.len() >= SHORTEST_SECRET).collect();
        // One may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        harmless(&secrets.into_iter().fold(line.to_owned(), |line, secret| line.replace(secret, "***")))
    }
}

/// The same of a program that the AWS SDK has started.
pub(crate) fn harmless(line: &str) -> String {
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = line.split_whitespace().map(|word| if looks_secret(word) { "***" } else { word }).collect();
    cut(&words.join(" "), LONGEST_LINE).to_owned()
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables").field("count", &self.all.len()).field("also", &self.also).finish()
    }
}

/// A value that is shorter is part of ordinary words.
const SHORTEST_SECRET: usize = 6;
const LONGEST_LINE: usize = 400;

fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    name.contains("SECRET") || ["TOKEN", "PASSWORD", "PSW", "_KEY"].iter().any(|end| name.ends_with(end))
}

/// A word with the form of a key or a token: long, of letters and digits. Hosts, paths and the dotted names of programs have it only if a
/// part of them has.
fn looks_secret(word: &str) -> bool {
    let has = |part: &str, of: fn(&char) -> bool| part.chars().any(|c| of(&c));
    let mixed = |part: &str| has(part, char::is_ascii_digit) && has(part, char::is_ascii_alphabetic);
    let cases = |part: &str| has(part, char::is_ascii_uppercase) && has(part, char::is_ascii_lowercase);
    if word.contains('.') || word.contains("://") || word.starts_with('/') {
        let mut parts = word.split(['.', '/', ':', '-', '_']);
        return parts.any(|part| part.len() >= 16 && mixed(part) || part.len() >= 24 && cases(part));
    }
    word.len() >= 12 && mixed(word) || word.len() >= 24 && cases(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That a program receives nothing else is in crates/ecr-push-cli/tests/children.rs.
    #[test]
    fn every_name_is_in_the_documentation() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/usage.md");
        let text = std::fs::read_to_string(path).unwrap();
        let by_helper = BY_HELPER.iter().flat_map(|(helpers, list)| [*helpers, *list]);
        for name in [EVERY, DESKTOP, SSH, NETWORK, LOCAL_HELPERS].into_iter().chain(by_helper).flatten() {
            assert!(text.contains(&format!("`{name}`")), "{name} is not in docs/usage.md");
        }
    }

    #[test]
    fn names_are_exact_or_beginnings() {
        assert!(Kind::Helper("ecr-login").may_see("AWS_REGION".as_ref()));
        assert!(Kind::Helper("desktop.exe").may_see("HTTPS_PROXY".as_ref()));
        for (kind, name) in [
            (Kind::Ssh, "AWS_REGION"),
            (Kind::Ssh, "PATHS"),
            (Kind::Ssh, "XDG"),
            (Kind::Helper("pass"), "PASSWORD"),
            (Kind::Helper("ecr-login2"), "AWS_REGION"),
            (Kind::Helper(""), "GITHUB_TOKEN"),
        ] {
            assert!(!kind.may_see(name.as_ref()), "{kind:?} {name}");
        }
    }

    #[test]
    fn what_a_program_says_is_made_harmless() {
        let all = [("AWS_SECRET_ACCESS_KEY", "geheim"), ("AWS_REGION", "us-east-1"), ("NAMED", "more geheim")];
        let variables = Variables::new(all.map(|(k, v)| (k.into(), v.into())), &["NAMED".to_owned()]);
        let kind = Kind::Helper("ecr-login");
        for (said, shown) in [
            ("no keys in us-east-1: geheim", "no keys in us-east-1: ***"),
            ("it is more geheim", "it is ***"),
            ("a\u{1b}[31m\tb \u{7} c", "a [31m b c"),
            ("the key wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY is wrong", "the key *** is wrong"),
            ("login-pass:word/0123456789", "***"),
            (
                "at https://123456789012.dkr.ecr.us-east-1.amazonaws.com/v2/ and https://index.docker.io/v1/",
                "at https://123456789012.dkr.ecr.us-east-1.amazonaws.com/v2/ and https://index.docker.io/v1/",
            ),
            (
                "GDBus.Error:org.freedesktop.DBus.Error.ServiceUnknown: no org.freedesktop.secrets",
                "GDBus.Error:org.freedesktop.DBus.Error.ServiceUnknown: no org.freedesktop.secrets",
            ),
        ] {
            assert_eq!(variables.harmless(kind, said), shown);
        }
        assert!(variables.harmless(kind, &"word ".repeat(1000)).len() <= LONGEST_LINE);
        assert!(!format!("{variables:?}").contains("geheim"));
    }
}
