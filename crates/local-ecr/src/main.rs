//! The command `local-ecr`.

#![forbid(unsafe_code)]

mod fault_proxy;
mod instructions;
mod record;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use instructions::Instructions;
use local_ecr::{Config, Imds, LocalEcr, MissingRepository, Mutability, Notices, Policy, Rule, Storage, Tls};
use record::Record;

/// A local Amazon ECR for tests and demos
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pass requests on to another server, but for the faults it is told
    FaultProxy(fault_proxy::Arguments),
    /// Serve the API and the registry on one port
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Listen on other addresses than loopback, where anyone may push
    #[arg(long)]
    allow_remote: bool,
    /// The host that clients know this server by, if it is none of this machine's own names and addresses
    #[arg(long, value_name = "HOST[:PORT]")]
    public_host: Option<String>,
    /// Keep images in this directory instead of in memory; one server at a time
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The account id
    #[arg(long, default_value = "123456789012")]
    account: String,
    /// The region
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Speak HTTPS under the real host names, with a certificate made at the start
    #[arg(long)]
    tls: bool,
    /// Write the certificate authority to trust to this file
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca_out: Option<PathBuf>,
    /// An IAM policy document that all principals are held to
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Serve instance metadata on a port of its own
    #[arg(long)]
    imds: bool,
    /// Make this repository if it is not there
    #[arg(long, value_name = "NAME", num_args = 1..)]
    create_repository: Vec<String>,
    /// What a push to a missing repository meets
    #[arg(long, value_enum, default_value_t = Missing::NameUnknown)]
    missing_repository: Missing,
    /// Allow blobs to be mounted from other repositories
    #[arg(long)]
    mounting: bool,
    /// A fault, such as 'PUT /blobs/uploads/ skip=1 times=1 reset=7340032'; the README has the words
    #[arg(long, value_name = "RULE")]
    rule: Vec<Rule>,
    /// Keep what was asked in this file, as JSON
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Missing {
    Close,
    Create,
    NameUnknown,
}

/// The exit status for what the user asked wrongly.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("cannot start: {error}")),
    };
    let arguments = match command {
        Command::FaultProxy(arguments) => return runtime.block_on(fault_proxy::run(arguments)),
        Command::Serve(arguments) => arguments,
    };
    let config = match arguments.config() {
        Ok(config) => config,
        Err(sentence) => return fail(USAGE, sentence),
    };
    runtime.block_on(serve(config, arguments))
}

impl Serve {
    fn config(&self) -> Result<Config, String> {
        if !self.listen.ip().is_loopback() && !self.allow_remote {
            return Err(format!("{} is not a loopback address; --allow-remote allows it", self.listen.ip()));
        }
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("the account '{}' is not twelve digits", self.account));
        }
        let is_region = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.region.is_empty() || !self.region.bytes().all(is_region) {
            return Err(format!("'{}' is not the name of a region", self.region));
        }
        let mut config = Config {
            account: self.account.clone(),
            region: self.region.clone(),
            listen: self.listen,
            missing_repository: match self.missing_repository {
                Missing::Close => MissingRepository::Close,
                Missing::Create => MissingRepository::Create,
                Missing::NameUnknown => MissingRepository::NameUnknown,
            },
            mounting: self.mounting,
            tls: self.tls.then(|| Tls { ca_out: self.ca_out.clone() }),
            imds: self.imds.then(Imds::default),
            public_host: self.public_host.clone(),
            notices: notices(),
            ..Config::default()
        };
        if let Some(directory) = &self.data {
            config.storage = Storage::Directory(directory.clone());
        }
        if let Some(path) = &self.policy {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read the policy {}: {error}", path.display()))?;
            let policy = Policy::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            config.policies.push(("*".into(), policy));
        }
        Ok(config)
    }
}

async fn serve(config: Config, arguments: Serve) -> ExitCode {
    let repositories = &arguments.create_repository;
    let stop = match stop() {
        Ok(stop) => stop,
        Err(error) => return fail(1, format_args!("cannot listen to signals: {error}")),
    };
    let region = config.region.clone();
    let server = match LocalEcr::start(config).await {
        Ok(server) => server,
        Err(error) => return fail(USAGE, error),
    };
    // A damaged one is there, and was named.
    let is_missing =
        |name: &&String| server.repository(name).is_none() && !server.damaged_repositories().contains(name);
    for name in repositories.iter().filter(is_missing) {
        if let Err(error) = server.create_repository(name, Mutability::mutable()) {
            return fail(USAGE, format_args!("cannot create the repository '{name}': {error}"));
        }
    }
    arguments.rule.into_iter().for_each(|rule| server.add_rule(rule));
    println!("{}", server.endpoint_url());
    let instructions = Instructions {
        server: &server,
        region: &region,
        repository: repositories.iter().find(|name| server.repository(name).is_some()).map(String::as_str),
        public_host: arguments.public_host.as_deref(),
        tls: arguments.tls.then_some(arguments.ca_out.as_deref()),
    };
    eprint!("{}", instructions.text());
    let outcome =
        record::keep(arguments.record.as_deref(), stop, || Record::new(server.hits(), &server.requests())).await;
    server.shutdown().await;
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(1, sentence),
    }
}

/// A line on standard error for each notice.
fn notices() -> Notices {
    Notices::new(|notice| eprintln!("local-ecr: {notice}"))
}

/// Waits for Control-C or a request to end. Listening starts with the call, not with the first wait.
#[cfg(unix)]
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Waits for Control-C, Control-Break, or the end of the console, the session or the system.
#[cfg(windows)]
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};
    let (mut interrupt, mut terminate, mut close) = (ctrl_c()?, ctrl_break()?, ctrl_close()?);
    let (mut logoff, mut shutdown) = (ctrl_logoff()?, ctrl_shutdown()?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = close.recv() => {}
            _ = logoff.recv() => {}
            _ = shutdown.recv() => {}
        }
    })
}

fn fail(status: u8, sentence: impl Display) -> ExitCode {
    eprintln!("local-ecr: {sentence}");
    ExitCode::from(status)
}
