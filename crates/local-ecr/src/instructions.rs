//! What `serve` prints for whoever uses it. Lines that begin with two spaces are commands that work as pasted, with an image of
//! one's own for IMAGE; a test runs them.

use std::path::Path;

use local_ecr::LocalEcr;

/// What the text depends on, beside the server.
pub struct Instructions<'a> {
    pub server: &'a LocalEcr,
    pub region: &'a str,
    /// The repository to push into, if there is one.
    pub repository: Option<&'a str>,
    pub public_host: Option<&'a str>,
    /// With TLS, whether the authority was written to a file, and to which.
    pub tls: Option<Option<&'a Path>>,
}

impl Instructions<'_> {
    pub fn text(&self) -> String {
        let (host, repository) = (self.server.registry_host(), self.repository.unwrap_or("app"));
        let endpoint = match self.public_host {
            Some(host) => format!("{}://{host}", if self.tls.is_some() { "https" } else { "http" }),
            None => self.server.endpoint_url(),
        };
        let region = self.region;
        let mut text = String::new();
        let mut say = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        if let Some(ca) = self.tls {
            self.say_tls(ca, &host, &mut say);
        }
        say("For the AWS CLI and for ecr-push, first of all:\n");
        // Version 1 of the AWS CLI does not read AWS_REGION, older ones of either version not AWS_ENDPOINT_URL.
        say(&format!("  export AWS_ENDPOINT_URL={endpoint} AWS_REGION={region} AWS_DEFAULT_REGION={region}"));
        say("  export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local");
        if self.repository.is_none() {
            say(&format!("  aws ecr create-repository --repository-name {repository} --endpoint-url {endpoint}"));
        }
        let password = format!("aws ecr get-login-password --endpoint-url {endpoint}");
        say("\nTo push an image that Docker has:\n");
        say(&format!("  {password} | docker login --username AWS --password-stdin {host}"));
        say(&format!("  docker tag IMAGE {host}/{repository}:v1"));
        say(&format!("  docker push {host}/{repository}:v1"));
        say("\nor one that `docker save` has written to IMAGE.tar:\n");
        say(&format!(
            "  skopeo copy --dest-tls-verify=false --dest-creds \"AWS:$({password})\" docker-archive:IMAGE.tar \
             docker://{host}/{repository}:v1"
        ));
        if !self.server.address().ip().is_loopback() {
            say("\nOther machines ask for this one's address, or for the name that --public-host gives.");
            if self.tls.is_none() {
                say("Docker there needs HOST:PORT among the insecure-registries of its daemon.json.");
            }
        }
        if let Some(endpoint) = self.server.imds_endpoint() {
            say("\nInstance metadata, for clients without keys:\n");
            say(&format!("  export AWS_EC2_METADATA_SERVICE_ENDPOINT={endpoint}"));
        }
        text
    }

    fn say_tls(&self, ca: Option<&Path>, host: &str, say: &mut dyn FnMut(&str)) {
        if self.public_host.is_none() {
            let ip = self.server.address().ip();
            let address = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { ip.to_string() };
            let names = self.server.host_names().join(" ");
            say("The real names have to lead here:\n");
            say(&format!("  echo '{address} {names}' | sudo tee -a /etc/hosts"));
        }
        match ca {
            Some(file) => {
                say("\nClients have to trust the authority that was made at the start:\n");
                say(&format!("  export AWS_CA_BUNDLE='{}'", file.display()));
                say(&format!("  sudo install -D '{}' /etc/docker/certs.d/{host}/ca.crt\n", file.display()));
            }
            None => say("\nClients have to trust the authority that was made at the start; --ca-out FILE writes it.\n"),
        }
    }
}
