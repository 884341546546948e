//! Where the engine is: the docker CLI's own order, then the usual sockets.

use std::path::{Path, PathBuf};

use url::{Host, Url};

use super::EngineSettings;
use super::context;
use super::ssh::SshTarget;
use super::tls::TlsFiles;
use crate::error::{Error, Result};

const OPERATION: &str = "find engine";

/// An engine's address and who named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub address: Address,
    /// The address as people write it, such as `unix:///var/run/docker.sock`.
    pub text: String,
    /// The flag, variable or context that named it, for error messages; nobody named one of the usual sockets.
    pub chosen_by: Option<String>,
}

/// How the engine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A Windows named pipe.
    Pipe(PathBuf),
    /// `docker system dial-stdio` on another machine.
    Ssh(SshTarget),
    /// TCP, with TLS where files are given.
    Tcp { host: Host<String>, port: u16, tls: Option<TlsFiles> },
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// The endpoint of a socket or named pipe in one of the usual places.
    pub fn local(path: &Path) -> Self {
        let text = path.to_string_lossy().replace('\\', "/");
        let (address, scheme) = if is_pipe(path) {
            (Address::Pipe(path.to_owned()), "npipe")
        } else {
            (Address::Unix(path.to_owned()), "unix")
        };
        Self { address, text: format!("{scheme}://{text}"), chosen_by: None }
    }
}

/// The engine that the settings name, or `None` if the usual sockets are to be tried. As in the docker CLI,
/// `DOCKER_HOST` wins over `DOCKER_CONTEXT`, which wins over the current context; the context `default` is
/// `DOCKER_HOST` or the usual sockets.
pub(super) fn chosen(settings: &EngineSettings) -> Result<Option<Endpoint>> {
    let named = |text: &Option<String>| {
        let text = text.as_deref().map(str::trim)?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    if let Some(host) = named(&settings.host) {
        let tls = (settings.tls || settings.tls_verify).then_some(settings.tls_verify);
        let dir = settings.cert_path.clone().or(settings.config_dir.clone());
        let files = TlsFiles { dir: dir.unwrap_or_default(), verify: tls.unwrap_or(true) };
        let chosen_by = settings.host_from.unwrap_or("DOCKER_HOST");
        let address = parse(&host, chosen_by, files, tls.is_some())?;
        return Ok(Some(Endpoint { address, text: host, chosen_by: Some(chosen_by.to_owned()) }));
    }

    let config_dir = settings.config_dir.as_deref();
    let (name, chosen_by) = match named(&settings.context) {
        Some(name) => (name, settings.context_from.unwrap_or("DOCKER_CONTEXT")),
        None => match config_dir.and_then(context::current) {
            Some(name) => (name, "currentContext in docker's config.json"),
            None => return Ok(None),
        },
    };
    if name == "default" {
        return Ok(None);
    }
    let Some(config_dir) = config_dir else {
        return Err(Error::refused(
            OPERATION,
            format!(
                "the docker context `{name}` (named by {chosen_by}) cannot be looked up: there is no home directory"
            ),
        )
        .with_hint("set DOCKER_CONFIG to the folder that has docker's config.json"));
    };
    let context = context::load(config_dir, &name, chosen_by)?;
    if context.host.is_empty() {
        return Ok(None);
    }
    let chosen_by = format!("the docker context `{name}`, named by {chosen_by}");
    let tls = context.skip_tls_verify || context.tls_dir.is_some();
    let files = TlsFiles { dir: context.tls_dir.unwrap_or_default(), verify: !context.skip_tls_verify };
    Ok(Some(Endpoint {
        address: parse(&context.host, &chosen_by, files, tls)?,
        text: context.host,
        chosen_by: Some(chosen_by),
    }))
}

/// Where engines listen on Windows: Docker Desktop and dockerd, Docker Desktop for Linux containers, Podman's machine.
const PIPES: [&str; 3] =
    ["//./pipe/docker_engine", "//./pipe/dockerDesktopLinuxEngine", "//./pipe/podman-machine-default"];

/// True for the path of a named pipe.
pub(super) fn is_pipe(path: &Path) -> bool {
    path.to_string_lossy().replace('\\', "/").starts_with("//./pipe/")
}

/// The sockets where engines usually listen, in the order they are tried.
pub(super) fn candidates(settings: &EngineSettings) -> Vec<PathBuf> {
    if let Some(candidates) = &settings.candidates {
        return candidates.clone();
    }
    if cfg!(windows) {
        return PIPES.map(PathBuf::from).to_vec();
    }
    let runtime = |path: &str| settings.runtime_dir.as_ref().map(|dir| dir.join(path));
    let home = |path: &str| settings.home.as_ref().map(|dir| dir.join(path));
    [
        Some("/var/run/docker.sock".into()),
        runtime("docker.sock"),
        Some("/run/podman/podman.sock".into()),
        runtime("podman/podman.sock"),
        home(".docker/run/docker.sock"),
        home(".docker/desktop/docker.sock"),
        home(".colima/default/docker.sock"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Reads an address as the docker CLI does. `files` are used if `tls` says so or the address is `https`.
fn parse(text: &str, chosen_by: &str, files: TlsFiles, tls: bool) -> Result<Address> {
    let refuse = |why: &str| {
        Error::refused(
            OPERATION,
            format!("`{}` (from {chosen_by}) is not an engine address: {why}", without_user(text)),
        )
        .with_hint("unix:///PATH, tcp://HOST:PORT, ssh://[USER@]HOST and npipe:////./pipe/NAME are understood")
    };
    let (scheme, rest) = match text.split_once("://") {
        Some(parts) => parts,
        None if text.starts_with('/') => {
            return Err(refuse("it has no scheme").with_hint(format!("did you mean `unix://{text}`?")));
        }
        None => ("tcp", text),
    };
    match scheme {
        "unix" if rest.starts_with('/') => return Ok(Address::Unix(rest.into())),
        "unix" => return Err(refuse("a unix socket is an absolute path")),
        "npipe" if !rest.is_empty() => return Ok(Address::Pipe(rest.into())),
        "tcp" | "http" | "https" | "ssh" => {}
        _ => {
            return Err(refuse("its scheme is not one of those an engine is reached by"));
        }
    }

    // The `http` scheme makes the URL parser read the host by the rules of the web: IPv6, IDNA, ports.
    let url = Url::parse(&format!("http://{rest}")).map_err(|error| refuse(&error.to_string()))?;
    let Some(host) = url.host().map(|host| host.to_owned()) else {
        return Err(refuse("it names no host"));
    };
    if url.query().is_some() || url.fragment().is_some() || url.password().is_some() {
        return Err(refuse("a password, query or fragment has no meaning here"));
    }
    let port = explicit_port(rest).or(url.port());
    if scheme == "ssh" {
        let socket = Some(url.path()).filter(|path| !matches!(*path, "" | "/"));
        return SshTarget::new(url.username(), &host, port, socket)
            .map(Address::Ssh)
            .ok_or_else(|| refuse("the user, host or path has characters that ssh must not be given"));
    }
    if !matches!(url.path(), "" | "/") || !url.username().is_empty() {
        return Err(refuse("a user or path has no meaning over tcp"));
    }
    let tls = (tls || scheme == "https").then_some(files);
    Ok(Address::Tcp { host, port: port.unwrap_or(if tls.is_some() { 2376 } else { 2375 }), tls })
}

/// The address as it may be shown: without user and password.
fn without_user(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
            format!("{scheme}...@{host}")
        }
        None => text.to_owned(),
    }
}

/// The URL parser drops port 80 because it is what `http` implies.
fn explicit_port(rest: &str) -> Option<u16> {
    let authority = rest.split(['/', '?', '#']).next()?;
    let (_, port) = authority.rsplit_once(':')?;
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        parse(text, "a test", TlsFiles::default(), false).unwrap()
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: Host::parse(host).unwrap(), port, tls: None }
    }

    #[test]
    fn addresses_are_read_as_the_docker_cli_reads_them() {
        assert_eq!(address("unix:///run/d.sock"), Address::Unix("/run/d.sock".into()));
        assert_eq!(address("tcp://build.example"), tcp("build.example", 2375));
        assert_eq!(address("tcp://build.example:80/"), tcp("build.example", 80));
        assert_eq!(address("10.0.0.1:4243"), tcp("10.0.0.1", 4243));
        assert_eq!(address("tcp://[::1]:2375"), tcp("[::1]", 2375));
        assert_eq!(address("tcp://[::1]"), tcp("[::1]", 2375));
        assert_eq!(address("npipe:////./pipe/docker_engine"), Address::Pipe("//./pipe/docker_engine".into()));
        let files = TlsFiles { dir: "/certs".into(), verify: false };
        assert_eq!(
            parse("tcp://h", "a test", files.clone(), true).unwrap(),
            Address::Tcp { host: Host::parse("h").unwrap(), port: 2376, tls: Some(files) }
        );
        let Address::Ssh(target) = address("ssh://me@build.example:2222/run/d.sock") else {
            panic!("ssh expected");
        };
        assert_eq!(
            target.arguments(10),
            [
                "-o",
                "ConnectTimeout=10",
                "-T",
                "-l",
                "me",
                "-p",
                "2222",
                "--",
                "build.example",
                "docker",
                "--host",
                "unix:///run/d.sock",
                "system",
                "dial-stdio"
            ]
        );
    }

    #[test]
    fn other_addresses_are_refused_before_any_call() {
        for text in [
            "/var/run/docker.sock",
            "unix://run/d.sock",
            "fd://3",
            "tcp://",
            "tcp://h/path",
            "tcp://h:99999",
            "ssh://-oProxyCommand=x",
            "ssh://-x@h",
            "ssh://me:secret@h",
            "ssh://h/a;b",
        ] {
            let error = parse(text, "DOCKER_HOST", TlsFiles::default(), false).unwrap_err();
            assert!(error.is_refused() && !error.hints().is_empty(), "{text}: {error}");
        }
    }

    #[test]
    fn the_usual_sockets_follow_the_home_and_runtime_folders() {
        let settings = EngineSettings {
            home: Some("/home/me".into()),
            runtime_dir: Some("/run/user/7".into()),
            ..EngineSettings::default()
        };
        let paths = candidates(&settings);
        if cfg!(windows) {
            assert_eq!(paths, PIPES.map(PathBuf::from));
        } else {
            assert_eq!(paths[0], Path::new("/var/run/docker.sock"));
            assert_eq!(paths[1], Path::new("/run/user/7/docker.sock"));
            assert_eq!(paths.len(), 7);
            assert_eq!(candidates(&EngineSettings::default()).len(), 2);
        }
        for pipe in PIPES {
            assert_eq!(Endpoint::local(Path::new(pipe)).address, Address::Pipe(pipe.into()));
        }
        assert_eq!(Endpoint::local(Path::new("/a/d.sock")).text, "unix:///a/d.sock");
        assert_eq!(Endpoint::local(Path::new(r"\\.\pipe\docker_engine")).text, "npipe:////./pipe/docker_engine");
    }
}
