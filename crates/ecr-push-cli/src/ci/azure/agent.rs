//! What an Azure Pipelines agent tells a task through its environment.

use ecr_push::aws::{Keys, RoleSettings};
use ecr_push::http::{HttpSettings, ProxySettings};
use ecr_push::{Error, Result};
use serde_json::Value;
use url::Url;

use crate::environment::{Environment, of_proxy};

/// The agent's side of the environment. Names are converted as the agent does it (its `VarUtil`).
pub struct Agent<'a>(pub &'a Environment);

/// `.` and blanks become `_`, letters upper case; hyphens stay.
fn converted(name: &str) -> String {
    name.replace(['.', ' '], "_").to_uppercase()
}

impl Agent<'_> {
    /// A task's input, also an empty one. The agent trims what was written, but not what a variable in it became.
    pub fn input(&self, name: &str) -> Option<String> {
        Some(self.0.raw(&format!("INPUT_{}", converted(name)))?.trim().to_owned())
    }

    /// A pipeline variable, secret or not, if it is not empty.
    pub fn variable(&self, name: &str) -> Option<String> {
        let key = converted(name);
        self.0.text(&format!("SECRET_{key}")).or_else(|| self.0.text(&key))
    }

    /// True if the job is to show what it does.
    pub fn is_debugging(&self) -> bool {
        self.variable("System.Debug").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// True if the step has a name that its outputs are read under. Servers before TFS 2018, and some releases, give none; the agent
    /// then fails a step that sets an output (its `ExecutionContext.SetVariable`).
    pub fn names_the_step(&self) -> bool {
        self.variable("System.TaskInstanceName").is_some()
    }

    /// The values of the job's secret variables.
    pub fn secret_variables(&self) -> Vec<String> {
        let names = self.0.text("VSTS_SECRET_VARIABLES").and_then(|names| serde_json::from_str(&names).ok());
        let names: Vec<String> = names.unwrap_or_default();
        names.iter().filter_map(|name| self.0.text(&format!("SECRET_{}", converted(name)))).collect()
    }

    /// What the service connection `id` holds, each value under its name in lower case. `None` if the job has no such
    /// connection.
    ///
    /// # Errors
    /// If what the agent gives is not understood.
    pub fn connection(&self, id: &str) -> Result<Option<Connection>> {
        // The agent writes GUIDs in lower case; an author may not.
        let id = &id.to_lowercase();
        let parameter = |name: &str| self.0.text(&format!("ENDPOINT_AUTH_PARAMETER_{id}_{}", converted(name)));
        let document = match self.0.text(&format!("ENDPOINT_AUTH_{id}")) {
            None => Value::Null,
            Some(text) => {
                let document = serde_json::from_str::<Value>(&text).ok();
                // The parser's own words could hold a piece of a secret.
                document.filter(|document| document["parameters"].is_object()).ok_or_else(|| {
                    Error::refused(
                        CHOOSE,
                        format!("the service connection `{id}` is not what an agent gives: no JSON with parameters"),
                    )
                    .with_hint("edit and save the connection in the project's settings")
                })?
            }
        };
        let is_here = !document.is_null()
            || self.0.raw(&format!("ENDPOINT_URL_{id}")).is_some()
            || self.0.raw(&format!("ENDPOINT_AUTH_SCHEME_{id}")).is_some()
            || PARAMETERS.iter().any(|name| parameter(name).is_some());
        if !is_here {
            return Ok(None);
        }
        let written = |name: &str| {
            let parameters = document.get("parameters")?.as_object()?;
            let (_, value) = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Some(text.trim().to_owned()).filter(|text| !text.is_empty() && text != "null")
        };
        let value = |name: &str| written(name).or_else(|| parameter(name));
        Ok(Some(Connection {
            id: id.to_owned(),
            key_id: value("username"),
            secret: value("password"),
            session_token: value("sessionToken"),
            role: value("assumeRoleArn"),
            session_name: value("roleSessionName"),
            external_id: value("externalId"),
            oidc: value("useOIDC"),
        }))
    }

    /// The job's token: mapped or allowed by the user, else the one of the agent's own connection.
    pub fn access_token(&self) -> Option<String> {
        let own = || {
            let document = self.0.text("ENDPOINT_AUTH_SYSTEMVSSCONNECTION")?;
            let document: Value = serde_json::from_str(&document).ok()?;
            Some(document.get("parameters")?.get("AccessToken")?.as_str()?.to_owned())
        };
        self.variable("System.AccessToken")
            .or_else(|| self.0.text("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN"))
            .or_else(own)
    }

    /// Where the job asks for an identity token that speaks for the service connection `id`.
    pub fn token_url(&self, id: &str) -> Option<String> {
        let base = self.variable("System.OidcRequestUri").or_else(|| {
            let collection = self.variable("System.CollectionUri")?;
            let of = |name: &str| self.variable(name);
            Some(format!(
                "{}/{}/_apis/distributedtask/hubs/{}/plans/{}/jobs/{}/oidctoken",
                collection.trim_end_matches('/'),
                of("System.TeamProjectId")?,
                of("System.HostType")?,
                of("System.PlanId")?,
                of("System.JobId")?
            ))
        })?;
        let joint = if base.contains('?') { '&' } else { '?' };
        Some(format!("{base}{joint}api-version=7.1&serviceConnectionId={id}"))
    }

    /// Adds the agent's proxy and certificate authority to what the environment says. Answers what cannot be honoured.
    ///
    /// # Errors
    /// If the proxy is not a URL.
    pub fn add_network(&self, http: &mut HttpSettings) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if let Some(file) = self.variable("Agent.CAInfo") {
            http.ca_files.push(file.into());
        }
        if self.variable("Agent.SkipCertValidation").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            warnings.push(
                "the agent was configured to skip the check of certificates; they are checked all the same, against the \
                 system's authorities and the agent's `--sslcacert`"
                    .to_owned(),
            );
        }
        let Some(address) = self.variable("Agent.ProxyUrl") else {
            // Upstream reads upper case only, and sends everything through HTTP_PROXY where there is no HTTPS_PROXY. What is
            // set in lower case counts where there is neither.
            let own = self.0.first(&["HTTPS_PROXY", "HTTP_PROXY"]);
            http.proxy.https = own.or_else(|| http.proxy.https.take()).or_else(|| http.proxy.http.clone());
            return Ok(warnings);
        };
        let proxy = self.proxy(&address)?;
        http.proxy = ProxySettings { http: Some(proxy.clone()), https: Some(proxy), ..std::mem::take(&mut http.proxy) };
        if let Some(list) = self.variable("Agent.ProxyBypassList") {
            match serde_json::from_str::<Vec<String>>(&list) {
                Ok(patterns) => http.proxy.bypass = patterns,
                Err(_) => warnings.push("the agent's list of hosts without a proxy is not understood".to_owned()),
            }
        }
        for pattern in http.proxy.unreadable() {
            warnings.push(format!("the agent's proxy bypass pattern `{pattern}` is not understood, and left out"));
        }
        Ok(warnings)
    }

    /// The proxy's address with its user and password.
    fn proxy(&self, address: &str) -> Result<String> {
        let refuse = || Error::refused("read the proxy settings", "the agent's proxy (Agent.ProxyUrl) is not a URL");
        let mut url = Url::parse(address).map_err(|_| refuse())?;
        if let Some(user) = self.variable("Agent.ProxyUsername") {
            // The URL's rules leave a percent sign as it is, which would start an escape then.
            let escaped = |text: String| text.replace('%', "%25");
            url.set_username(&escaped(user)).map_err(|()| refuse())?;
            let password = self.variable("Agent.ProxyPassword").map(escaped);
            url.set_password(password.as_deref()).map_err(|()| refuse())?;
        }
        Ok(url.to_string())
    }

    /// Every text that must not be seen and that this task knows from the start.
    pub fn secrets(&self, connection: Option<&Connection>) -> Vec<String> {
        let variables = ["AWS.AccessKeyID", "AWS.SecretAccessKey", "AWS.SessionToken", "Agent.ProxyPassword"];
        let environment = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
        let mut secrets: Vec<String> = variables.iter().filter_map(|name| self.variable(name)).collect();
        secrets.extend(environment.iter().filter_map(|name| self.0.text(name)));
        secrets.extend(self.access_token());
        secrets.extend(self.0.secrets(&[]));
        if let Some(proxy) = self.variable("Agent.ProxyUrl").and_then(|address| self.proxy(&address).ok()) {
            secrets.extend(of_proxy(&proxy));
        }
        if let Some(connection) = connection {
            secrets.extend(
                [&connection.key_id, &connection.secret, &connection.session_token].into_iter().flatten().cloned(),
            );
        }
        secrets
    }
}

const CHOOSE: &str = "choose credentials";
const PARAMETERS: [&str; 7] =
    ["username", "password", "sessionToken", "assumeRoleArn", "roleSessionName", "externalId", "useOIDC"];

/// A service connection of type AWS. Every field of it is optional.
pub struct Connection {
    /// Its GUID.
    pub id: String,
    key_id: Option<String>,
    secret: Option<String>,
    session_token: Option<String>,
    role: Option<String>,
    session_name: Option<String>,
    external_id: Option<String>,
    oidc: Option<String>,
}

impl Connection {
    /// The connection's keys.
    ///
    /// # Errors
    /// If there is only half a pair.
    pub fn keys(&self) -> Result<Option<Keys>> {
        match (&self.key_id, &self.secret) {
            (None, None) => Ok(None),
            (Some(id), Some(secret)) => Ok(Some(Keys {
                origin: format!("the service connection '{}'", self.id),
                access_key_id: id.clone(),
                secret_access_key: secret.clone().into(),
                session_token: self.session_token.clone().map(Into::into),
            })),
            _ => Err(Error::refused(
                CHOOSE,
                "Need to define or omit both \"Access Key ID\" and \"Secret Access Key\", not just one.",
            )
            .with_hint(format!("edit the service connection '{}' in the project's settings", self.id))),
        }
    }

    /// The role to take on.
    pub fn role(&self) -> Option<RoleSettings> {
        Some(RoleSettings {
            arn: self.role.clone()?,
            session_name: self.session_name.clone(),
            external_id: self.external_id.clone(),
            duration: None,
        })
    }

    /// True if the connection asks for the job's identity token. The check box writes exactly this word.
    pub fn wants_oidc(&self) -> bool {
        self.oidc.as_deref() == Some("true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(variables: &[(&str, &str)], look: impl FnOnce(Agent<'_>) -> T) -> T {
        look(Agent(&Environment::of(variables)))
    }

    #[test]
    fn names_are_converted_as_the_agent_does_it() {
        let variables =
            [("INPUT_PUSHTAG", " v1 "), ("AWS_REGION", "eu-west-1"), ("SECRET_MY_TOKEN-X", "s"), ("INPUT_A", "")];
        with(&variables, |agent| {
            assert_eq!(agent.input("pushTag").as_deref(), Some("v1"));
            assert_eq!(agent.input("a").as_deref(), Some(""));
            assert_eq!(agent.input("b"), None);
            assert_eq!(agent.variable("AWS.Region").as_deref(), Some("eu-west-1"));
            assert_eq!(agent.variable("my token-x").as_deref(), Some("s"));
        });
    }

    #[test]
    fn a_connection_is_read_from_its_document_and_from_its_parts() {
        const ID: &str = "0a1b-2c";
        let document =
            r#"{"parameters":{"username":"AKIA","Password":"s","useOIDC":"true","externalId":""},"scheme":"X"}"#;
        let variables = [("ENDPOINT_AUTH_0a1b-2c", document), ("ENDPOINT_AUTH_PARAMETER_0a1b-2c_ASSUMEROLEARN", "arn")];
        with(&variables, |agent| {
            let connection = agent.connection(ID).unwrap().unwrap();
            assert_eq!(connection.keys().unwrap().unwrap().access_key_id, "AKIA");
            assert!(connection.wants_oidc());
            let role = connection.role().unwrap();
            assert_eq!((role.arn.as_str(), role.external_id), ("arn", None));
            assert!(agent.connection("other").unwrap().is_none());
        });
        with(&[("ENDPOINT_AUTH_0a1b-2c", "geheim")], |agent| {
            let error = agent.connection(ID).map(|_| ()).unwrap_err();
            assert!(error.is_refused() && !error.message().contains("geheim"));
        });
        with(&[("ENDPOINT_URL_0a1b-2c", "https://aws.amazon.com/")], |agent| {
            assert!(agent.connection(ID).unwrap().unwrap().keys().unwrap().is_none());
        });
    }

    #[test]
    fn the_jobs_token_is_looked_for_in_four_places() {
        let own = ("ENDPOINT_AUTH_SYSTEMVSSCONNECTION", r#"{"parameters":{"AccessToken":"d"},"scheme":"OAuth"}"#);
        let places = [
            ("SECRET_SYSTEM_ACCESSTOKEN", "a"),
            ("SYSTEM_ACCESSTOKEN", "b"),
            ("ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN", "c"),
            own,
        ];
        for (at, expected) in ["a", "b", "c", "d"].iter().enumerate() {
            with(&places[at..], |agent| assert_eq!(agent.access_token().as_deref(), Some(*expected)));
        }
        with(&[], |agent| assert_eq!(agent.access_token(), None));
    }

    #[test]
    fn the_token_url_is_given_or_composed() {
        with(&[("SYSTEM_OIDCREQUESTURI", "https://x/oidctoken")], |agent| {
            let url = agent.token_url("id").unwrap();
            assert_eq!(url, "https://x/oidctoken?api-version=7.1&serviceConnectionId=id");
        });
        let parts = [
            ("SYSTEM_COLLECTIONURI", "https://dev.azure.com/org/"),
            ("SYSTEM_TEAMPROJECTID", "p"),
            ("SYSTEM_HOSTTYPE", "build"),
            ("SYSTEM_PLANID", "n"),
            ("SYSTEM_JOBID", "j"),
        ];
        with(&parts, |agent| {
            let expected = "https://dev.azure.com/org/p/_apis/distributedtask/hubs/build/plans/n/jobs/j/oidctoken?";
            assert!(agent.token_url("id").unwrap().starts_with(expected));
        });
        with(&parts[1..], |agent| assert_eq!(agent.token_url("id"), None));
    }

    #[test]
    fn the_agents_proxy_wins_and_its_password_is_escaped() {
        let variables = [
            ("AGENT_PROXYURL", "http://proxy:3128"),
            ("AGENT_PROXYUSERNAME", "user"),
            ("SECRET_AGENT_PROXYPASSWORD", "p@ss:/w#rd"),
            ("AGENT_PROXYBYPASSLIST", r#"["\\.corp\\.example","(?=x)"]"#),
            ("AGENT_CAINFO", "/ca.pem"),
        ];
        let mut http = HttpSettings::default();
        http.proxy.https = Some("http://other:1".into());
        http.proxy.no_proxy = Some("a.example".into());
        let warnings = with(&variables, |agent| agent.add_network(&mut http).unwrap());
        assert_eq!(http.proxy.https.as_deref(), Some("http://user:p%40ss%3A%2Fw%23rd@proxy:3128/"));
        assert_eq!(http.proxy.no_proxy.as_deref(), Some("a.example"));
        assert_eq!(http.proxy.bypass.len(), 2);
        assert_eq!(http.ca_files, [std::path::PathBuf::from("/ca.pem")]);
        assert_eq!(warnings.len(), 1);
        let mut http = HttpSettings::default();
        http.proxy.http = Some("http://plain:1".into());
        with(&[], |agent| agent.add_network(&mut http).unwrap());
        assert_eq!(http.proxy.https.as_deref(), Some("http://plain:1"));
    }
}
