//! The one place where the environment is read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ecr_push::child::Variables;
use percent_encoding::percent_decode_str;
use url::Url;

/// The environment, replaceable in tests.
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    /// True where a variable is found whatever the case of its name: on Windows.
    ignores_case: bool,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect(), ignores_case: cfg!(windows) }
    }

    /// The process's own as it is now, with what the AWS SDK's credential process has no business with taken away from the process, which
    /// it inherits: the job's own tokens, but for those that are `passed`. In a task of Azure Pipelines or an action of GitHub's
    /// (`is_task`) also everything that the agent or runner gives to that alone (ci-contracts 1.3).
    pub fn taken_from_process(is_task: bool, passed: &[String]) -> Self {
        let environment = Self::of_process();
        for name in environment.not_for_children(is_task, passed) {
            // SAFETY: `main` calls this before it starts a thread, so nobody reads the environment meanwhile.
            #[allow(unsafe_code)]
            unsafe {
                std::env::remove_var(name);
            }
        }
        environment
    }

    fn not_for_children(&self, is_task: bool, passed: &[String]) -> impl Iterator<Item = &OsStr> {
        let is_one = |one: &str, name: &str| one == name || self.ignores_case && one.eq_ignore_ascii_case(name);
        let is_taken = move |name: &str| {
            let shown = if self.ignores_case { name.to_ascii_uppercase() } else { name.to_owned() };
            !passed.iter().any(|passed| is_one(passed, name))
                && (JOB_TOKENS.contains(&shown.as_str()) || is_task && is_the_tasks_own(&shown))
        };
        self.variables.keys().map(OsString::as_os_str).filter(move |name| name.to_str().is_some_and(&is_taken))
    }

    /// The given variables and no others.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, ignores_case: cfg!(windows) }
    }

    /// The same without the variables that speak of AWS.
    pub fn without_aws(mut self) -> Self {
        self.variables.retain(|name, _| !name.to_string_lossy().starts_with("AWS_"));
        self
    }

    /// What programs that are started receive a part of, and all of those named in `passed`.
    pub fn for_children(&self, passed: &[String]) -> Variables {
        Variables::new(self.variables.clone(), passed)
    }

    fn get(&self, name: &str) -> Option<OsString> {
        let exact = self.variables.get(OsStr::new(name));
        let similar = || {
            let mut all = self.variables.iter().filter(|_| self.ignores_case);
            all.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        exact.or_else(similar).cloned()
    }

    /// A variable that is set, is text, and is not blank. Pipelines often set what they do not use to nothing.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = self.get(name)?.into_string().ok()?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// A variable as it is, also an empty one. What is no text in it becomes a letter that no name allows, so that a damaged value
    /// is refused and not taken for none.
    pub fn raw(&self, name: &str) -> Option<String> {
        Some(self.get(name)?.to_string_lossy().into_owned())
    }

    /// What must not be seen of the variables `names`, and of the addresses of proxies.
    pub fn secrets(&self, names: &[&str]) -> Vec<String> {
        let proxies = ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"];
        let passwords = proxies.iter().filter_map(|name| self.text(name)).flat_map(|url| of_proxy(&url));
        let addresses = CONTAINER_CREDENTIALS.iter().filter_map(|name| self.text(name));
        let named = names.iter().filter_map(|name| self.text(name));
        named.chain(passwords).chain(addresses.flat_map(|address| of_credentials(&address))).collect()
    }

    /// A variable that names a file or directory.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name)?;
        (!value.is_empty()).then(|| value.into())
    }

    /// True if the variable is `true` in any case, as the AWS SDKs read theirs.
    pub fn truth(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// The first of `names` that is set.
    pub fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.text(name))
    }

    /// The user's home.
    pub fn home(&self) -> Option<PathBuf> {
        self.path("HOME").or_else(|| self.path("USERPROFILE"))
    }

    /// Where docker keeps its configuration: `DOCKER_CONFIG`, or `.docker` in the home.
    pub fn docker_directory(&self) -> Option<PathBuf> {
        self.path("DOCKER_CONFIG").or_else(|| Some(self.home()?.join(".docker")))
    }

    /// Where this program keeps what it remembers: a folder of its own in the user's cache folder, as each system has it.
    pub fn cache_directory(&self) -> Option<PathBuf> {
        let base = if cfg!(windows) {
            self.path("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            self.home().map(|home| home.join("Library/Caches"))
        } else {
            self.path("XDG_CACHE_HOME").or_else(|| Some(self.home()?.join(".cache")))
        };
        // A relative path would be another folder in each job (XDG base directory specification).
        base.filter(|base| base.is_absolute()).map(|base| base.join("ecr-push"))
    }

    /// Where temporary files go: `TMPDIR`, else the folder that the CI system cleans after the job (GitHub's
    /// `RUNNER_TEMP`, Azure's `AGENT_TEMPDIRECTORY`), else the system's.
    pub fn temporary_directory(&self) -> PathBuf {
        let named = ["TMPDIR", "RUNNER_TEMP", "AGENT_TEMPDIRECTORY"].iter().find_map(|name| self.path(name));
        named.unwrap_or_else(std::env::temp_dir)
    }
}

/// Where a container's credentials are: who knows the address may have them.
const CONTAINER_CREDENTIALS: [&str; 2] =
    ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];

/// What is secret in the address of a container's credentials: long parts of its path and query. Short ones, as in `/v1/credentials`, are
/// in other texts too.
fn of_credentials(address: &str) -> Vec<String> {
    const SHORTEST: usize = 16;
    let path = address.split_once("://").map_or(address, |(_, rest)| rest.split_once('/').map_or("", |(_, path)| path));
    path.split(['/', '?', '&', '=', '#']).filter(|part| part.len() >= SHORTEST).map(str::to_owned).collect()
}

/// The password in a proxy's address, in the forms in which a proxy may say it back: as it is written, as it is meant, and as it is sent.
pub fn of_proxy(address: &str) -> Vec<String> {
    let address = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let Ok(url) = Url::parse(&address) else { return Vec::new() };
    let Some(written) = url.password() else { return Vec::new() };
    let meant = percent_decode_str(written).collect::<Vec<u8>>();
    let sent = STANDARD.encode([percent_decode_str(url.username()).collect(), b":".into(), meant.clone()].concat());
    vec![written.to_owned(), String::from_utf8_lossy(&meant).into_owned(), sent]
}

/// What CI systems give to every job: the right to read and write its repository, its artifacts, its registry. Identity tokens are not
/// among it: a credential process may be there to exchange one.
const JOB_TOKENS: [&str; 12] = [
    "ACTIONS_RUNTIME_TOKEN",
    "BUILDKITE_AGENT_ACCESS_TOKEN",
    "BUILDKITE_AGENT_JOB_API_TOKEN",
    "CI_DEPENDENCY_PROXY_PASSWORD",
    "CI_DEPLOY_PASSWORD",
    "CI_JOB_TOKEN",
    "CI_REGISTRY_PASSWORD",
    "CI_REPOSITORY_URL",
    "DOCKER_AUTH_CONFIG",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "SYSTEM_ACCESSTOKEN",
];

/// True for what the agent gives to the task and not to the programs it starts: inputs, secrets, service connections, the
/// job's token. Microsoft's own library takes away all of it but the connections' addresses and data.
fn is_the_tasks_own(name: &str) -> bool {
    const BEGINNINGS: [&str; 6] =
        ["INPUT_", "ENDPOINT_", "SECRET_", "SECUREFILE_", "VSTS_TASKVARIABLE_", "VSTS_SECRET_VARIABLES"];
    const NAMES: [&str; 5] = [
        "VSTS_PUBLIC_VARIABLES",
        "COMMAND_CORRELATION_ID",
        "SYSTEM_ACCESSTOKEN",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        "ACTIONS_RUNTIME_TOKEN",
    ];
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) || NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_system_ignores_case_so_does_what_a_task_reads_and_takes_away() {
        let given = [("Input_awsRegion", "eu-west-1"), ("Endpoint_Auth_Parameter_x", "s"), ("Path", "p")];
        let windows = Environment { ignores_case: true, ..Environment::of(&given) };
        for name in ["INPUT_AWSREGION", "Input_awsRegion", "input_awsregion"] {
            assert_eq!(windows.get(name), Some("eu-west-1".into()), "{name}");
        }
        assert_eq!(windows.get("PATH"), Some("p".into()));
        let taken: Vec<_> = windows.not_for_children(true, &[]).collect();
        assert_eq!(taken, ["Endpoint_Auth_Parameter_x", "Input_awsRegion"]);
        let unix = Environment { ignores_case: false, ..Environment::of(&given) };
        assert_eq!((unix.get("PATH"), unix.get("Path")), (None, Some("p".into())));
        assert_eq!(unix.not_for_children(true, &[]).count(), 0);
    }

    #[test]
    fn every_token_that_is_taken_away_is_in_the_documentation() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/usage.md")).unwrap();
        for name in JOB_TOKENS {
            assert!(text.contains(&format!("`{name}`")), "{name} is not in docs/usage.md");
        }
    }

    #[test]
    fn what_is_secret_in_the_address_of_a_containers_credentials_are_its_long_parts() {
        let (path, token) = ("0123456789abcdef0123", "token-0123456789abcdef");
        for address in [format!("http://h/v2/{path}?t={token}"), format!("/v2/{path}?t={token}#x")] {
            assert_eq!(of_credentials(&address), [path, token]);
        }
        for address in ["http://169.254.170.23/v1/credentials", "http://a-very-long-host-name.example", ""] {
            assert!(of_credentials(address).is_empty(), "{address}");
        }
    }

    #[test]
    fn the_password_of_a_proxy_is_known_in_all_its_forms() {
        let basic = STANDARD.encode("us%er:p@ss:wörd%");
        let expected = ["p%40ss:w%C3%B6rd%", "p@ss:wörd%", basic.as_str()];
        for address in ["http://us%25er:p%40ss:w%C3%B6rd%@proxy:3128", "us%25er:p%40ss:w%C3%B6rd%@proxy:3128"] {
            let mut found = of_proxy(address);
            found[0] = found[0].replace("%3A", ":");
            assert_eq!(found, expected, "{address}");
        }
        assert!(of_proxy("http://user@proxy:3128").is_empty() && of_proxy("::").is_empty());
        let environment = Environment::of(&[("HTTPS_PROXY", "http://u:secret-of-u@h"), ("T", "token")]);
        assert_eq!(environment.secrets(&["T", "U"]), ["token", "secret-of-u", "secret-of-u", "dTpzZWNyZXQtb2YtdQ=="]);
    }
}
