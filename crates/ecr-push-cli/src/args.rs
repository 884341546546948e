//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Pushes container images to Amazon ECR.
#[derive(Debug, Parser)]
#[command(name = "ecr-push", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Push an image to a repository
    Push(Box<PushArgs>),
    /// Push an image to an ECR inside this program, read it back, verify every digest
    Demo(DemoArgs),
    /// Be the task of Azure Pipelines: everything comes from the agent's environment
    AzureTask(AzureTaskArgs),
    /// Be the action of GitHub: everything comes from the runner's environment
    GithubAction,
}

#[derive(Args, Debug)]
pub struct AzureTaskArgs {
    /// Stop when standard input ends: the program that started this one is gone then
    #[arg(long)]
    pub parent_pipe: bool,
}

#[derive(Args, Debug)]
pub struct PushArgs {
    #[arg(
        help = "The image: a container engine's name or ID, or docker-archive:FILE[:REF], oci:DIR[:REF], oci-archive:FILE[:REF], containerd:NAME",
        long_help = "The image: a container engine's name or ID, or docker-archive:FILE[:REF], oci:DIR[:REF], \
                     oci-archive:FILE[:REF], containerd:NAME\n\nFILE may be - for standard input. docker-daemon:NAME names an engine's \
                     image whatever it is called."
    )]
    pub image: String,

    /// The tag to push under; may be given several times, the first one is the reference that is reported
    #[arg(short, long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,

    #[command(flatten)]
    pub destination: DestinationArgs,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub aws: AwsArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub transfer: TransferArgs,
    #[command(flatten)]
    pub reuse: ReuseArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Destination")]
pub struct DestinationArgs {
    /// The ECR repository, in the caller's own registry; an ECR host in front decides account and region
    #[arg(short, long, value_name = "NAME", conflicts_with = "to")]
    pub repository: Option<String>,

    /// A repository of any OCI registry, or of ECR by its host
    #[arg(long, value_name = "HOST[:PORT]/REPOSITORY")]
    pub to: Option<String>,

    /// The account that owns the repository, if not the caller's
    #[arg(long, value_name = "ACCOUNT", conflicts_with = "to")]
    pub registry_id: Option<String>,

    /// Create the repository if it does not exist
    #[arg(long)]
    pub create_repository: bool,

    /// Speak http to a registry that is not on this machine; never to AWS
    #[arg(long)]
    pub plain_http: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Image")]
pub struct SelectionArgs {
    /// Push only the image for this platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,

    /// Whether BuildKit's attestations are pushed with an index; to leave them out changes its digest
    #[arg(long, value_enum, default_value_t = AttestationsArg::Keep)]
    pub attestations: AttestationsArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttestationsArg {
    /// They are pushed with the index
    Keep,
    /// They are left out
    Drop,
    /// One image is pushed, without attestations and without an index, as AWS Lambda takes it
    Lambda,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "AWS")]
pub struct AwsArgs {
    /// The region; without it: the ECR host given, AWS_REGION, AWS_DEFAULT_REGION, the profile, instance metadata
    #[arg(long)]
    pub region: Option<String>,

    /// Use this profile and nothing else
    #[arg(long)]
    pub profile: Option<String>,

    /// Take on this role
    #[arg(long, value_name = "ARN")]
    pub role_arn: Option<String>,

    /// The name of the role's session
    #[arg(long, value_name = "NAME", requires = "role_arn")]
    pub role_session_name: Option<String>,

    /// The external id that the role asks for
    #[arg(long, value_name = "ID", requires = "role_arn")]
    pub external_id: Option<String>,

    /// How long the role's session lasts, 900 to 43200
    #[arg(long, value_name = "SECONDS", requires = "role_arn")]
    pub role_duration_seconds: Option<u64>,

    /// Take on the role with the identity token in this variable, as CI systems hand it to a job
    #[arg(long, value_name = "NAME", conflicts_with_all = ["profile", "external_id"])]
    pub web_identity_token_env: Option<String>,

    /// Use FIPS endpoints
    #[arg(long)]
    pub fips: bool,

    /// Use dual-stack endpoints
    #[arg(long)]
    pub dualstack: bool,

    /// The ECR API's address; the registry is then where that API says
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Trust the certificates in this PEM file besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,

    /// Reach HOST:PORT at ADDR:PORT instead; may be given several times
    #[arg(long, value_name = "HOST:PORT:ADDR:PORT")]
    pub connect_to: Vec<String>,

    /// Pass this variable on to the programs that are started (ssh, credential helpers, a credential process); may be given several times
    #[arg(long, value_name = "NAME")]
    pub pass_env: Vec<String>,

    /// How long a push may go on trying, in seconds or as 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub retry_budget: std::time::Duration,

    /// How long to wait, after the tags were put, until each can be read back; or off
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = wait)]
    pub wait_visible: Wait,
}

/// A time to wait, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub Option<std::time::Duration>);

#[derive(Args, Debug)]
#[command(next_help_heading = "Container engine")]
pub struct EngineArgs {
    /// The engine's address, as in DOCKER_HOST
    #[arg(long, value_name = "URL", conflicts_with = "docker_context")]
    pub docker_host: Option<String>,

    /// The docker context that names the engine
    #[arg(long, value_name = "NAME")]
    pub docker_context: Option<String>,

    /// Whether layers are read from the engine's own store, where that is on this host and can be read, or only through its API
    #[arg(long, value_enum, value_name = "WHETHER", default_value_t = EngineStoreArg::Auto)]
    pub engine_store: EngineStoreArg,

    /// The namespace of a containerd:NAME; without it CONTAINERD_NAMESPACE, or `default`
    #[arg(long, value_name = "NAME")]
    pub containerd_namespace: Option<String>,

    /// The socket of a containerd:NAME; without it CONTAINERD_ADDRESS, or the usual ones
    #[arg(long, value_name = "SOCKET")]
    pub containerd_address: Option<String>,

    /// Give the engine's image the names it was pushed under, as `docker tag` does
    #[arg(long)]
    pub tag_local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineStoreArg {
    Auto,
    Off,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Transfer")]
pub struct TransferArgs {
    /// Large layers sent at a time; four times as many small ones
    #[arg(short, long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,

    /// Threads that compress; without it as many as there are cores, up to 8
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,

    #[arg(
        long,
        value_name = "CODEC[:LEVEL]",
        help = "How layers are compressed: gzip, gzip:fast, gzip:1 to 9, zstd, zstd:1 to 19, none",
        long_help = "How layers are compressed that must be: gzip, gzip:fast, gzip:1 to gzip:9, zstd, zstd:1 to zstd:19, none\n\nWithout \
                     it gzip, and a blob of any codec that the registry has already may take the place of a layer."
    )]
    pub compression: Option<String>,

    /// Where compressed layers wait to be sent
    #[arg(long, value_name = "DIR")]
    pub temp_dir: Option<PathBuf>,

    /// Say what would be done, and send nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Reuse")]
pub struct ReuseArgs {
    /// Whose word is taken that a blob holds a layer, so that the layer need not be read
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t = ReuseArg::Registry)]
    pub reuse: ReuseArg,

    /// Look for known layers in the image with this tag too, besides the target's own and `latest`; may be given several times
    #[arg(long, value_name = "TAG")]
    pub reuse_from: Vec<String>,

    /// Mount blobs that this repository of the same registry has; may be given several times
    #[arg(long, value_name = "REPOSITORY")]
    pub mount_from: Vec<String>,

    /// Where this host remembers which blobs hold which layers; without it `ecr-push` in the user's cache folder
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReuseArg {
    /// That of images in the registry, and of this host's cache
    Registry,
    /// That of this host's cache, for blobs that were made or unpacked here
    Own,
    /// Nobody's: each blob is downloaded and looked into
    Verify,
    /// Nobody's: no layer is taken for known, and nothing is remembered
    Off,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub struct ReportArgs {
    /// What standard output carries: a line for each tag, or one JSON object
    #[arg(short, long, value_enum, default_value_t = OutputArg::Text)]
    pub output: OutputArg,

    /// Write the result to this file too; its ending names the form: .json, .env or .properties; may be given several times
    #[arg(long, value_name = "FILE")]
    pub output_file: Vec<PathBuf>,

    /// The CI system that the log is shaped for
    #[arg(long, value_enum, value_name = "SYSTEM", default_value_t = CiArg::Auto)]
    pub ci: CiArg,

    /// How progress is shown: bars on a terminal, else one line a layer
    #[arg(long, value_enum, default_value_t = ProgressArg::Auto)]
    pub progress: ProgressArg,

    /// Show errors, warnings and the result only
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Show more: who the credentials belong to, what was tried
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputArg {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CiArg {
    /// The one whose variables are set
    Auto,
    /// None: a plain log
    None,
    /// Azure Pipelines
    Azure,
    /// GitHub Actions
    Github,
    /// GitLab CI
    Gitlab,
    /// Buildkite
    Buildkite,
    /// CircleCI
    Circleci,
    /// Jenkins
    Jenkins,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    Auto,
    Bars,
    Lines,
}

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// The image; without it a small one is packed from this program
    pub image: Option<String>,

    /// Go on serving the registry afterwards, until interrupted
    #[arg(long)]
    pub keep: bool,
}

impl PushArgs {
    /// The defaults of the command line, for those who fill in the rest: tasks, and the demo. `words` are what has no default.
    ///
    /// # Errors
    /// If the words do not make a push; callers give constants.
    pub fn of(words: &[&str]) -> Result<Box<Self>, clap::Error> {
        match Cli::try_parse_from(["ecr-push", "push"].iter().chain(words))?.command {
            Command::Push(args) => Ok(args),
            _ => Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
        }
    }
}

fn wait(text: &str) -> Result<Wait, String> {
    if text.trim() == "off" {
        return Ok(Wait(None));
    }
    let time = duration(text).map_err(|error| format!("{error}; or off"))?;
    Ok(Wait(Some(time).filter(|time| !time.is_zero())))
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let text = text.trim();
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("a time is written as 90, 90s, 5m or 1h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a time is written as 90, 90s, 5m or 1h".to_owned())?;
    Ok(std::time::Duration::from_secs(number.saturating_mul(factor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("0", 0)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds);
        }
        for text in ["", "m", "5x", "-1", "1.5m"] {
            assert!(duration(text).is_err() && wait(text).is_err(), "{text}");
        }
        for (text, seconds) in [("off", None), ("0", None), ("0s", None), ("7", Some(7)), ("2m", Some(120))] {
            assert_eq!(wait(text).unwrap().0.map(|time| time.as_secs()), seconds, "{text}");
        }
    }
}
