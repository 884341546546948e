//! Logins from docker's `config.json`, which is read and never written.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, Result, Side};

/// Where docker keeps its logins.
#[derive(Clone, Debug, Default)]
pub struct DockerConfig {
    /// The directory with `config.json`.
    pub directory: Option<PathBuf>,
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
    auths: HashMap<String, Stored>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
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
        // An empty helper means the file itself, as docker reads it.
        let helper = file.cred_helpers.get(host).or(file.creds_store.as_ref());
        if let Some(helper) = helper.filter(|helper| !helper.is_empty()) {
            return ask_helper(helper, host).await;
        }
        let matching = |key: &&String| {
            let bare = key.trim_start_matches("https://").trim_start_matches("http://");
            bare.split('/').next() == Some(host)
        };
        let Some(stored) = file.auths.get(host).or_else(|| {
            let key = file.auths.keys().find(matching)?;
            file.auths.get(key)
        }) else {
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
async fn ask_helper(helper: &str, host: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{helper}");
    let fail = |what: String| Error::new(Side::Credentials, "ask credential helper", format!("{program}: {what}"));
    if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(fail("is not the name of a helper".into()));
    }
    let spawned = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|error| fail(format!("cannot be started: {error}")).with_source(error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input answers for itself below.
        let _ = stdin.write_all(host.as_bytes()).await;
    }
    let waited = tokio::time::timeout(super::ANSWER, child.wait_with_output()).await;
    let output = waited.map_err(|_| fail("gives no answer".into()))?.map_err(|error| fail(error.to_string()))?;
    let said = Zeroizing::new(output.stdout);
    if !output.status.success() {
        // The protocol's one answer for "no login here".
        if String::from_utf8_lossy(&said).contains("credentials not found") {
            return Ok(None);
        }
        return Err(fail(format!("failed ({})", output.status)));
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
        DockerConfig { directory: Some(directory.path().to_owned()) }.login(host).await
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
