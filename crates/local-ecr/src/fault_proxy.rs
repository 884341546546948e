//! `local-ecr fault-proxy`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use local_ecr::{FaultProxy, ProxyConfig, Rule};

use crate::record::{self, Record};
use crate::{USAGE, fail, notices, stop};

#[derive(clap::Args)]
pub struct Arguments {
    /// Address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where everything goes, as http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL", required_unless_present = "connect")]
    upstream: Option<String>,
    /// Be an HTTP proxy (CONNECT) instead of standing in for the upstream
    #[arg(long)]
    connect: bool,
    /// Open TLS, so that requests inside meet faults
    #[arg(long)]
    open_tls: bool,
    /// Write the certificate authority to trust to this file
    #[arg(long, value_name = "FILE", requires = "open_tls")]
    ca_out: Option<PathBuf>,
    /// The authorities to trust upstream, a PEM file
    #[arg(long, value_name = "FILE", requires = "open_tls")]
    upstream_ca: Option<PathBuf>,
    /// Bytes a second that all request bodies together get
    #[arg(long, value_name = "BYTES")]
    rate: Option<u64>,
    /// A fault, such as 'PUT /blobs/uploads/ skip=1 times=1 reset=7340032'; the README has the words
    #[arg(long, value_name = "RULE")]
    rule: Vec<Rule>,
    /// Keep what was asked in this file, as JSON
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

pub async fn run(arguments: Arguments) -> ExitCode {
    let stop = match stop() {
        Ok(stop) => stop,
        Err(error) => return fail(1, format_args!("cannot listen to signals: {error}")),
    };
    let proxy = match start(&arguments).await {
        Ok(proxy) => proxy,
        Err(sentence) => return fail(USAGE, sentence),
    };
    println!("{}", proxy.url());
    let outcome =
        record::keep(arguments.record.as_deref(), stop, || Record::new(proxy.hits(), &proxy.requests())).await;
    proxy.shutdown().await;
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => fail(1, sentence),
    }
}

async fn start(arguments: &Arguments) -> Result<FaultProxy, String> {
    if !arguments.listen.ip().is_loopback() {
        return Err(format!("{} is not a loopback address", arguments.listen.ip()));
    }
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let config = ProxyConfig {
        listen: arguments.listen,
        upstream: arguments.upstream.clone(),
        connect: arguments.connect,
        open_tls: arguments.open_tls,
        upstream_ca: arguments.upstream_ca.as_ref().map(read).transpose()?,
        rate: arguments.rate,
        notices: notices(),
    };
    let proxy = FaultProxy::start(config).await.map_err(|error| error.to_string())?;
    for rule in &arguments.rule {
        proxy.add_rule(rule.clone()).map_err(|error| error.to_string())?;
    }
    if let (Some(path), Some(pem)) = (&arguments.ca_out, proxy.ca_pem()) {
        std::fs::write(path, pem).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(proxy)
}
