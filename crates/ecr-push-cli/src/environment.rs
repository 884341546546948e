//! The one place where the environment is read. Every name this program looks at is here.

use std::ffi::OsString;
use std::path::PathBuf;

/// A look at one variable.
type Look = dyn Fn(&str) -> Option<OsString>;

/// A look at the environment, replaceable in tests.
pub struct Environment {
    get: Box<Look>,
}

impl Environment {
    /// The process's own.
    pub fn of_process() -> Self {
        Self { get: Box::new(|name| std::env::var_os(name)) }
    }

    /// The given variables and no others.
    #[cfg(test)]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let variables: Vec<(String, OsString)> = variables.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
        Self {
            get: Box::new(move |name| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())),
        }
    }

    /// The same without the variables that speak of AWS.
    pub fn without_aws(self) -> Self {
        Self { get: Box::new(move |name| if name.starts_with("AWS_") { None } else { (self.get)(name) }) }
    }

    /// A variable that is set, is text, and is not blank. Pipelines often set what they do not use to nothing.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = (self.get)(name)?.into_string().ok()?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// A variable that names a file or directory.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let value = (self.get)(name)?;
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

    /// Where temporary files go: `TMPDIR`, else the folder that the CI system cleans after the job (GitHub's
    /// `RUNNER_TEMP`, Azure's `AGENT_TEMPDIRECTORY`), else the system's.
    pub fn temporary_directory(&self) -> PathBuf {
        let named = ["TMPDIR", "RUNNER_TEMP", "AGENT_TEMPDIRECTORY"].iter().find_map(|name| self.path(name));
        named.unwrap_or_else(std::env::temp_dir)
    }
}
