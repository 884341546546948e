//! The docker CLI's context store: `contexts/meta/<sha256 of the name>/meta.json` and the TLS files beside it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, Side};
use crate::image::Digest;

const OPERATION: &str = "read docker context";

/// What a context says about the Docker engine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Context {
    /// The engine's address; empty means the usual places.
    pub host: String,
    /// TLS without verification.
    pub skip_tls_verify: bool,
    /// The folder with the context's own `ca.pem`, `cert.pem`, `key.pem`, if it has one.
    pub tls_dir: Option<PathBuf>,
}

/// The `currentContext` of `config.json`. As with the docker CLI, a file that cannot be read is worth a warning only.
pub(super) fn current(config_dir: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "currentContext")]
        current_context: Option<String>,
    }
    let path = config_dir.join("config.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!("{} is left out: {error}", path.display());
            return None;
        }
    };
    match serde_json::from_slice::<Config>(&text) {
        Ok(config) => config.current_context.filter(|name| !name.is_empty()),
        Err(error) => {
            tracing::warn!("{} is left out: {error}", path.display());
            None
        }
    }
}

/// Reads the context `name`, which `chosen_by` named.
pub(super) fn load(config_dir: &Path, name: &str, chosen_by: &str) -> Result<Context> {
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Host", default)]
        host: String,
        #[serde(rename = "SkipTLSVerify", default)]
        skip_tls_verify: bool,
    }
    #[derive(Deserialize)]
    struct Endpoints {
        docker: Option<Endpoint>,
    }
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "Endpoints")]
        endpoints: Endpoints,
    }

    // The folder is named by a hash, so nothing in the name can lead out of the store.
    let folder = Digest::of(name.as_bytes()).hex();
    let contexts = config_dir.join("contexts");
    let path = contexts.join("meta").join(&folder).join("meta.json");
    let text = fs::read(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            unknown(&contexts, name, chosen_by)
        } else {
            let message = format!("the docker context `{name}` (named by {chosen_by}) cannot be read: {error}");
            Error::new(Side::Source, OPERATION, message).with_note(format!("its file is {}", path.display()))
        }
    })?;
    let meta: Meta = serde_json::from_slice(&text).map_err(|error| {
        let message = format!("the docker context `{name}` (named by {chosen_by}) cannot be understood: {error}");
        Error::new(Side::Source, OPERATION, message).with_note(format!("its file is {}", path.display()))
    })?;
    let Some(endpoint) = meta.endpoints.docker else {
        let message = format!("the docker context `{name}` (named by {chosen_by}) has no Docker endpoint");
        return Err(Error::new(Side::Source, OPERATION, message)
            .with_hint("choose another context, or name the engine by its address"));
    };
    let tls_dir = contexts.join("tls").join(&folder).join("docker");
    Ok(Context {
        host: endpoint.host,
        skip_tls_verify: endpoint.skip_tls_verify,
        tls_dir: tls_dir.is_dir().then_some(tls_dir),
    })
}

fn unknown(contexts: &Path, name: &str, chosen_by: &str) -> Error {
    let mut names = names(contexts);
    names.insert(0, "default".to_owned());
    let message = format!("there is no docker context `{name}` (named by {chosen_by})");
    Error::new(Side::Source, OPERATION, message)
        .with_hint("choose one that there is: `docker context ls` lists them")
        .with_note(format!("the contexts here are: {}", names.join(", ")))
}

fn names(contexts: &Path) -> Vec<String> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "Name")]
        name: String,
    }
    let Ok(folders) = fs::read_dir(contexts.join("meta")) else {
        return Vec::new();
    };
    let mut names: Vec<String> = folders
        .flatten()
        .filter_map(|folder| fs::read(folder.path().join("meta.json")).ok())
        .filter_map(|text| serde_json::from_slice::<Named>(&text).ok())
        .map(|named| named.name)
        .collect();
    names.sort();
    names
}
