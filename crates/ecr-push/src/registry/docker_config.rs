//! Logins from docker's `config.json`, which is read and never written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::child::{Kind, Variables};
use crate::error::{Error, Result, Side};

/// Where docker keeps its logins.
#[derive(Clone, Debug, Default)]
pub struct DockerConfig {
    /// The directory with `config.json`.
    pub directory: Option<PathBuf>,
    /// The environment, of which a credential helper receives what it needs.
    pub variables: Variables,
}

/// The names of Docker Hub: its own, its registry's, and the one before that.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The key under which `docker login` keeps Docker Hub's login, in a file or with a helper.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// True for Docker Hub, by whichever of its names.
pub(crate) fn is_docker_hub(host: &str) -> bool {
    HUB.contains(&host)
}

/// What a login for `host` may be kept under, docker's own way first. Other tools keep one for Docker Hub under one of its names.
fn keys(host: &str) -> Vec<&str> {
    match is_docker_hub(host) {
        true => std::iter::once(HUB_KEY).chain(HUB).collect(),
        false => vec![host],
    }
}

/// A login for one registry.
#[derive(Clone, Debug)]
pub enum Login {
    /// A user and a password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A token that is exchanged for access tokens.
    IdentityToken(SecretString),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Stored>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Stored {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    identitytoken: Option<SecretString>,
}

impl DockerConfig {
    /// The login for `host` (with its port), if there is one.
    ///
    /// # Errors
    /// If the file is there but cannot be understood, or a credential helper fails.
    pub async fn login(&self, host: &str) -> Result<Option<Login>> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let path = directory.join("config.json");
        let fail =
            |what: String| Error::new(Side::Credentials, "read docker config", format!("{}: {what}", path.display()));
        let text = match std::fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(format!("cannot be read: {error}")).with_source(error)),
        };
        // The parser's own words quote what it did not expect, which may be a password in the wrong place.
        let file: File = serde_json::from_slice(&text).map_err(|error| {
            fail("is not a docker config".into()).with_source(format!(
                "line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        let keys = keys(host);
        // An empty helper means the file itself, as docker reads it.
        let helper = keys.iter().find_map(|key| file.cred_helpers.get(*key)).or(file.creds_store.as_ref());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
            for key in keys {
                let login = ask_helper(helper, key, &self.variables).await?;
                if login.is_some() {
                    return Ok(login);
                }
            }
            return Ok(None);
        }
        let named = |key: &&String| {
            let bare = key.trim_start_matches("https://").trim_start_matches("http://");
            bare.split('/').next().is_some_and(|bare| keys.contains(&bare))
        };
        let exact = keys.iter().find_map(|key| file.auths.get(*key));
        let Some(stored) = exact.or_else(|| file.auths.get(file.auths.keys().find(named)?)) else {
            return Ok(None);
        };
        let given = |secret: &Option<SecretString>| secret.clone().filter(|secret| !secret.expose_secret().is_empty());
        if let Some(token) = given(&stored.identitytoken) {
            return Ok(Some(Login::IdentityToken(token)));
        }
        if let Some(auth) = given(&stored.auth) {
            let pair = Zeroizing::new(STANDARD.decode(auth.expose_secret().trim()).unwrap_or_default());
            let pair = std::str::from_utf8(&pair).ok();
            let Some((username, password)) = pair.and_then(|pair| pair.split_once(':')) else {
                return Err(fail(format!("the login for {host} is not `user:password` in base64")));
            };
            return Ok(Some(Login::Password { username: username.into(), password: password.into() }));
        }
        match (&stored.username, &stored.password) {
            (Some(username), Some(password)) => {
                Ok(Some(Login::Password { username: username.clone(), password: password.clone() }))
            }
            _ => Ok(None),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: SecretString,
}

/// Asks `docker-credential-HELPER get` (docker credential helper protocol).
async fn ask_helper(helper: &str, key: &str, variables: &Variables) -> Result<Option<Login>> {
    let program = format!("docker-credential-{helper}");
    let fail = |what: String| Error::new(Side::Credentials, "ask credential helper", format!("{program}: {what}"));
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(fail("is not the name of a helper".into()));
    }
    let kind = Kind::Helper(helper);
    let spawned = variables
        .command(kind, &program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| fail(format!("cannot be started: {error}")).with_source(error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input answers for itself below.
        let _ = stdin.write_all(key.as_bytes()).await;
    }
    let waited = tokio::time::timeout(super::ANSWER, child.wait_with_output()).await;
    let output = waited.map_err(|_| fail("gives no answer".into()))?.map_err(|error| fail(error.to_string()))?;
    let (said, complaint) = (Zeroizing::new(output.stdout), Zeroizing::new(output.stderr));
    let complaint = String::from_utf8_lossy(&complaint);
    let complaint = complaint.lines().map(str::trim).rfind(|line| !line.is_empty());
    let complaint = complaint.map(|line| variables.harmless(kind, line));
    if !output.status.success() {
        let answer = String::from_utf8_lossy(&said);
        // The protocol's one answer for "no login here".
        if answer.contains("credentials not found") {
            tracing::debug!(says = complaint.as_deref().unwrap_or("nothing more"), "{program} has no login for {key}");
            return Ok(None);
        }
        // The protocol has the reason on standard output.
        let reason = answer.lines().map(str::trim).find(|line| !line.is_empty() && !line.contains("\"Secret\""));
        let reason = reason.map(|line| variables.harmless(kind, line)).or(complaint);
        let what = match reason {
            Some(reason) => format!("it has no login for {key}: {reason} ({})", output.status),
            None => format!("failed and gave no reason ({})", output.status),
        };
        return Err(fail(what).with_hint(
            "ask it by hand; if it answers there, it may need a variable that it is not given here \
             (docs/usage.md: programs that are started)",
        ));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&said).map_err(|_| fail("gives an answer that is no login".into()))?;
    // `<token>` in place of a user marks an identity token.
    Ok(Some(if answer.username == "<token>" {
        Login::IdentityToken(answer.secret)
    } else {
        Login::Password { username: answer.username, password: answer.secret }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    async fn login(config: &str, host: &str) -> Result<Option<Login>> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), config).unwrap();
        DockerConfig { directory: Some(directory.path().to_owned()), ..DockerConfig::default() }.login(host).await
    }

    #[tokio::test]
    async fn logins_are_found_by_host() {
        let config = r#"{"auths":{"https://host:5000/v1/":{"auth":"dXNlcjpwYTpzcw=="},"other":{"identitytoken":"t"}}}"#;
        let Some(Login::Password { username, password }) = login(config, "host:5000").await.unwrap() else { panic!() };
        assert_eq!((username.as_str(), password.expose_secret()), ("user", "pa:ss"));
        assert!(matches!(login(config, "other").await.unwrap(), Some(Login::IdentityToken(_))));
        assert!(login(config, "host").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_login_for_docker_hub_is_found_under_every_key_that_is_in_use() {
        for key in [HUB_KEY, "index.docker.io", "docker.io", "registry-1.docker.io", "https://registry-1.docker.io/v2/"]
        {
            let config =
                serde_json::json!({ "auths": { key: { "auth": "dXNlcjpw" }, "x.docker.io": { "auth": "eDp4" } } });
            for host in HUB {
                let Some(Login::Password { username, .. }) = login(&config.to_string(), host).await.unwrap() else {
                    panic!("{key} for {host}")
                };
                assert_eq!(username, "user", "{key} for {host}");
            }
            assert!(login(&config.to_string(), "hub.docker.io").await.unwrap().is_none());
        }
        // docker's own goes first.
        let config = r#"{"auths":{"docker.io":{"auth":"eDp4"},"https://index.docker.io/v1/":{"auth":"dXNlcjpw"}}}"#;
        let Some(Login::Password { username, .. }) = login(config, "docker.io").await.unwrap() else { panic!() };
        assert_eq!(username, "user");
    }

    #[tokio::test]
    async fn a_damaged_config_is_named() {
        assert!(login("{", "host").await.unwrap_err().message().ends_with("is not a docker config"));
        let error = login(r#"{"auths":{"host":{"auth":"!"}}}"#, "host").await.unwrap_err();
        assert!(error.message().contains("not `user:password`"));
    }

    #[tokio::test]
    async fn a_password_in_the_wrong_place_is_not_quoted() {
        for config in [r#"{"auths":{"host":"geheimgeheim"}}"#, r#"{"auths":"geheimgeheim"}"#] {
            let error = login(config, "host").await.unwrap_err();
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
            assert!(std::error::Error::source(&error).unwrap().to_string().starts_with("line 1, column "));
        }
    }
}
