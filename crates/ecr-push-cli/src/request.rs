//! From flags and environment to one plain request. Every wrong input is refused here, before any network call.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use ecr_push::aws::{AwsSettings, IdentityToken, RegistryHost, RoleSettings, WebIdentity, is_aws_host};
use ecr_push::compress::Compression;
use ecr_push::containerd::ContainerdSettings;
use ecr_push::engine::EngineSettings;
use ecr_push::http::{HttpSettings, ProxySettings};
use ecr_push::image::{AccountId, Region, RepositoryName};
use ecr_push::known::Reuse;
use ecr_push::push::{DestinationSpec, PushRequest, ReuseSettings};
use ecr_push::registry::DockerConfig;
use ecr_push::source::{Attestations, Selection, SourceSpec};
use ecr_push::{Error, Result, Setting, text};

use crate::args::{
    AttestationsArg, AwsArgs, DestinationArgs, EngineArgs, EngineStoreArg, NetworkArgs, PushArgs, ReuseArg, ReuseArgs,
    SelectionArgs,
};
use crate::environment::Environment;
use crate::report::OutputFile;
use crate::slips;

/// A request, and what the log should say of how it came about.
#[derive(Debug)]
pub struct Request {
    pub push: PushRequest,
    /// Files that the result is written to.
    pub files: Vec<OutputFile>,
    pub notices: Vec<String>,
}

/// Makes the request.
pub fn request(args: &PushArgs, environment: &Environment) -> Result<Request> {
    slips::check(args)?;
    let mut notices = Vec::new();
    let files = args.report.output_file.iter().map(|path| OutputFile::new(path)).collect::<Result<_>>()?;
    let aws = aws(&args.aws, environment)?;
    let destination = destination(&args.destination, &aws, &mut notices)?;
    let tags = args.tags.iter().map(|tag| tag.parse()).collect::<Result<_>>()?;
    let threads = args.transfer.threads.map(usize::from);
    let source: SourceSpec = args.image.parse()?;
    slips::check_standard_input(&source, || std::io::stdin().is_terminal())?;
    match &source {
        SourceSpec::Daemon(name) => ecr_push::engine::check_name(name)?,
        _ if args.engine.tag_local => {
            return Err(Error::refused(
                "parse image",
                text![Setting::TagLocal, format!(" is for an engine's image, which `{source}` is not")],
            )
            .with_hint(text!["leave out ", Setting::TagLocal]));
        }
        _ => {}
    }
    if args.network.pass_env.iter().any(|name| !is_variable(name)) {
        // Not shown: what is behind a `=` is a value.
        return Err(Error::refused("parse --pass-env", "`--pass-env` is not a variable's name")
            .with_hint("give the name of one variable, without a value; the flag may be given several times"));
    }
    let variables = environment.for_children(&args.network.pass_env);
    let push = PushRequest {
        source,
        selection: selection(&args.selection)?,
        destination,
        tags,
        create_repository: args.destination.create_repository,
        jobs: args.transfer.jobs.into(),
        threads: threads.unwrap_or_else(default_threads),
        compression: compression(args)?,
        reuse: reuse(&args.reuse, environment)?,
        temp_dir: args.transfer.temp_dir.clone().unwrap_or_else(|| environment.temporary_directory()),
        retry_budget: args.network.retry_budget,
        wait_visible: args.network.wait_visible.0,
        dry_run: args.transfer.dry_run,
        show_identity: args.report.verbose,
        engine: EngineSettings { variables: variables.clone(), ..engine(&args.engine, environment) },
        use_engine_store: args.engine.engine_store == EngineStoreArg::Auto,
        containerd: ContainerdSettings {
            address: args.engine.containerd_address.clone().or_else(|| environment.text("CONTAINERD_ADDRESS")),
            namespace: args.engine.containerd_namespace.clone().or_else(|| environment.text("CONTAINERD_NAMESPACE")),
            candidates: None,
        },
        http: http(&args.network, environment)?,
        aws,
        docker_config: DockerConfig { directory: environment.docker_directory(), variables },
    };
    Ok(Request { push, files, notices })
}

/// Nothing is known of AWS Lambda and zstd, and it has refused layers that are not compressed: there a known blob of another codec does
/// not take the place of a layer unless it is asked for.
fn compression(args: &PushArgs) -> Result<Option<Compression>> {
    let for_lambda = (args.selection.attestations == AttestationsArg::Lambda).then_some("gzip");
    args.transfer.compression.as_deref().or(for_lambda).map(str::parse).transpose()
}

/// As many threads as there are cores, but no more than the rest of a push can feed: each has its blocks in memory.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(8)
}

fn reuse(args: &ReuseArgs, environment: &Environment) -> Result<ReuseSettings> {
    Ok(ReuseSettings {
        policy: match args.reuse {
            ReuseArg::Registry => Reuse::Registry,
            ReuseArg::Own => Reuse::Own,
            ReuseArg::Verify => Reuse::Verify,
            ReuseArg::Off => Reuse::Off,
        },
        from: args
            .reuse_from
            .iter()
            .map(|tag| tag.parse().map_err(of_setting(Setting::ReuseFrom)))
            .collect::<Result<_>>()?,
        mount_from: args.mount_from.iter().map(|name| mount_from(name)).collect::<Result<_>>()?,
        cache_dir: args.cache_dir.clone().or_else(|| environment.cache_directory()),
    })
}

/// Says which setting a bad word was given to, where another one takes the same kind.
fn of_setting(setting: Setting) -> impl Fn(Error) -> Error {
    move |error| error.prefixed(text![setting, ": "])
}

fn mount_from(name: &str) -> Result<RepositoryName> {
    let refuse = |what: &str| {
        let message = text![Setting::MountFrom, format!(": `{name}` {what}")];
        Err(Error::refused("parse repository name", message))
    };
    if name.contains([':', '@']) {
        return refuse("is not a repository's name").map_err(|error| {
            error.with_hint(text![
                "leave out the tag: the images under `latest`, the tags of this push and those of ",
                Setting::ReuseFrom,
                " are looked at",
            ])
        });
    }
    if name.split_once('/').is_some_and(|(first, _)| RegistryHost::parse(first).is_some()) {
        return refuse("has a host")
            .map_err(|error| error.with_hint("it has to be of the registry that is pushed to: leave out the host"));
    }
    name.parse().map_err(of_setting(Setting::MountFrom))
}

fn selection(args: &SelectionArgs) -> Result<Selection> {
    Ok(Selection {
        platform: args.platform.as_deref().map(str::parse).transpose()?,
        attestations: match args.attestations {
            AttestationsArg::Keep => Attestations::Keep,
            AttestationsArg::Drop => Attestations::Drop,
            AttestationsArg::Lambda => Attestations::SingleImage,
        },
    })
}

fn destination(args: &DestinationArgs, aws: &AwsSettings, notices: &mut Vec<String>) -> Result<DestinationSpec> {
    let registry_id = args.registry_id.as_deref().map(str::parse::<AccountId>).transpose()?;
    let ecr = |host: &str| RegistryHost::parse(host.strip_suffix(":443").unwrap_or(host));
    let (host, name) = match (&args.repository, &args.to) {
        (Some(repository), _) if repository.contains("://") => {
            let bare = repository.split_once("://").map_or("", |(_, bare)| bare);
            // What stands before an `@` of the host may be a password.
            let bare = match bare.split_once('@') {
                Some((user, rest)) if !user.contains('/') => rest,
                _ => bare,
            };
            return Err(Error::refused("parse repository name", format!("`{repository}` has a scheme"))
                .with_hint(format!("write the repository as `{bare}`")));
        }
        (Some(repository), _) if ecr(repository.trim_end_matches('/')).is_some() => {
            return Err(Error::refused(
                "parse repository name",
                format!("`{repository}` is a registry's host without a repository"),
            )
            .with_hint("write the repository behind the host: HOST/NAME"));
        }
        (Some(repository), _) => match repository.split_once('/') {
            Some((first, name)) if ecr(first).is_some() => {
                notices
                    .push(format!("`{first}` in the repository gives account and region; the repository is `{name}`"));
                (ecr(first), name)
            }
            Some((first, _)) if is_aws_host(first) => return Err(not_ecr(first)),
            _ => (None, repository.as_str()),
        },
        (None, Some(to)) => {
            let (host, name) = split_to(to)?;
            match ecr(host) {
                Some(host) => (Some(host), name),
                None if is_aws_host(host) && host != "public.ecr.aws" => return Err(not_ecr(host)),
                None if args.create_repository => {
                    return Err(Error::refused(
                        "parse destination",
                        text![Setting::CreateRepository, format!(" is for Amazon ECR, which {host} is not")],
                    )
                    .with_hint("leave it out: most other registries create a repository at the first push"));
                }
                None => return other_registry(host, name, args.plain_http),
            }
        }
        (None, None) => {
            return Err(Error::refused("parse destination", "no repository is named").with_hint(text![
                "name one of Amazon ECR with ",
                Setting::Repository.with("NAME"),
                ", or of any registry with ",
                Setting::To.with("HOST/NAME"),
            ]));
        }
    };
    if let Some((first, rest)) = name.split_once('/')
        && host.is_some()
        && ecr(first).is_some()
    {
        let message = format!("the destination has a registry's host twice, the second time as `{first}`");
        let hint = format!("write the host once: `{first}/{rest}`");
        return Err(Error::refused("parse destination", message).with_hint(hint));
    }
    if let Some(host) = &host {
        agree(host, aws.region.as_ref(), registry_id.as_ref())?;
    }
    Ok(DestinationSpec::Ecr { repository: without_tag(name)?.parse()?, registry_id, host })
}

/// A host of Amazon's that is none of private ECR is a slip of the pen; as another registry it would be asked for a login.
fn not_ecr(host: &str) -> Error {
    Error::refused("parse destination", format!("`{host}` is not the host of a private ECR registry"))
        .with_hint("it looks like ACCOUNT.dkr.ecr.REGION.amazonaws.com, with an account of twelve digits")
}

/// A reference in the place of a repository: the tag has a flag of its own.
fn without_tag(name: &str) -> Result<&str> {
    match name.split_once([':', '@']) {
        Some((bare, rest)) if !rest.contains('/') => {
            Err(Error::refused("parse repository name", format!("`{name}` is a reference, not a repository"))
                .with_hint(text![format!("write the repository as `{bare}` and the tag as "), Setting::Tag.with(rest)]))
        }
        _ => Ok(name),
    }
}

fn split_to(to: &str) -> Result<(&str, &str)> {
    if to.rsplit("://").next().and_then(|to| to.split('/').next()).is_some_and(|host| host.contains('@')) {
        // Not shown: what is before it may be a password.
        return Err(Error::refused("parse destination", text![Setting::To, " has a user in front of the host"])
            .with_hint("log in with `docker login`, and write HOST[:PORT]/REPOSITORY"));
    }
    let refuse = |what: &str| Error::refused("parse destination", text![Setting::To.with(to), format!(" {what}")]);
    if let Some((scheme, rest)) = to.split_once("://") {
        let error = refuse("has a scheme").with_hint(text!["write ", Setting::To.with(rest)]);
        return Err(if scheme == "http" {
            error.with_hint(text!["for plain http add ", Setting::PlainHttp])
        } else {
            error
        });
    }
    match to.split_once('/') {
        Some((host, name)) if !host.is_empty() && !name.is_empty() => Ok((host, name)),
        _ => Err(refuse("is not HOST[:PORT]/REPOSITORY")),
    }
}

fn other_registry(host: &str, name: &str, plain_http: bool) -> Result<DestinationSpec> {
    let name = without_tag(name)?;
    // Other registries allow a name of one character.
    if name.len() != 1 || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        name.parse::<RepositoryName>()?;
    }
    if !is_host(host) {
        return Err(Error::refused(
            "parse destination",
            format!("`{host}` is not a host name, with or without a port"),
        ));
    }
    Ok(DestinationSpec::Registry { host: host.to_owned(), repository: name.to_owned(), plain_http })
}

/// `HOST[:PORT]`, with an IPv6 address in brackets.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let known = address.parse::<std::net::Ipv6Addr>().is_ok();
            return known && rest.strip_prefix(':').map_or(rest.is_empty(), |port| port.parse::<u16>().is_ok());
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    !name.is_empty() && name.bytes().all(plain) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A flag that contradicts the host the user typed is a mistake somewhere; guessing which would push to a wrong place.
fn agree(host: &RegistryHost, region: Option<&Region>, registry_id: Option<&AccountId>) -> Result<()> {
    if let Some(region) = region
        && *region != host.region
    {
        return Err(Error::refused(
            "choose region",
            text![Setting::Region.with(region), format!(" contradicts the host, which is in {}", host.region)],
        )
        .with_hint(text!["leave out ", Setting::Region, ", or correct the host"]));
    }
    if let Some(account) = registry_id
        && *account != host.account
    {
        return Err(Error::refused(
            "choose account",
            text![
                Setting::RegistryId.with(account),
                format!(" contradicts the host, which belongs to {}", host.account)
            ],
        )
        .with_hint(text!["leave out ", Setting::RegistryId, ", or correct the host"]));
    }
    Ok(())
}

fn aws(args: &AwsArgs, environment: &Environment) -> Result<AwsSettings> {
    let configured = |service: &str| {
        if environment.truth("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
            return None;
        }
        environment.text(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| environment.text("AWS_ENDPOINT_URL"))
    };
    let regions = ["AWS_REGION", "AWS_DEFAULT_REGION"];
    let role = args.role_arn.clone().map(|arn| RoleSettings {
        arn,
        session_name: args.role_session_name.clone(),
        external_id: args.external_id.clone(),
        duration: args.role_duration_seconds.map(Duration::from_secs),
    });
    let (role, web_identity) = match &args.web_identity_token_env {
        Some(name) => (None, Some(web_identity(name, role, environment)?)),
        None => (role, None),
    };
    let settings = AwsSettings {
        region: args.region.as_deref().map(str::parse).transpose()?,
        environment_regions: regions.into_iter().filter_map(|name| Some((name, environment.text(name)?))).collect(),
        profile: args.profile.clone(),
        role,
        web_identity,
        endpoint_url: args.endpoint_url.clone(),
        endpoint_url_ecr: configured("ECR"),
        endpoint_url_sts: configured("STS"),
        fips: args.fips || environment.truth("AWS_USE_FIPS_ENDPOINT"),
        dual_stack: args.dualstack || environment.truth("AWS_USE_DUALSTACK_ENDPOINT"),
        ..AwsSettings::default()
    };
    settings.check()?;
    Ok(settings)
}

/// A name that a variable may have. A `*` would be taken for the beginning of many.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '=' || c == '*' || c.is_whitespace() || c.is_control())
}

/// The identity token that a CI system put into the variable `name`. Flag or not, the role is named as the AWS SDKs have it.
fn web_identity(name: &str, role: Option<RoleSettings>, environment: &Environment) -> Result<WebIdentity> {
    // A token in the place of its variable's name is not to be shown.
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(Error::refused(
            "choose credentials",
            text![Setting::WebIdentityTokenEnv, " is not a variable's name"],
        )
        .with_hint("give the name of the variable that holds the token, not the token"));
    }
    let Some(token) = environment.text(name).filter(|token| !token.contains(char::is_control)) else {
        return Err(Error::refused("choose credentials", format!("the variable {name} holds no identity token"))
            .with_hint(
                "have the job declare the token: GitLab's `id_tokens`, CircleCI's and Bitbucket's `oidc` settings",
            ));
    };
    let named = || {
        let arn = environment.text("AWS_ROLE_ARN")?;
        Some(RoleSettings { arn, session_name: environment.text("AWS_ROLE_SESSION_NAME"), ..RoleSettings::default() })
    };
    let Some(role) = role.or_else(named) else {
        return Err(Error::refused("choose credentials", "no role is named that the identity token is for")
            .with_hint(text!["name it with ", Setting::RoleArn, ", or AWS_ROLE_ARN"]));
    };
    Ok(WebIdentity { origin: format!("the variable {name}"), role, token: IdentityToken::Text(token.into()) })
}

/// Where Linux distributions keep their certificates in one file: Debian, Fedora, openSUSE, RHEL, Alpine.
const SYSTEM_STORES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn http(args: &NetworkArgs, environment: &Environment) -> Result<HttpSettings> {
    let named = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"].iter().filter_map(|name| environment.path(name));
    let mut ca_files: Vec<PathBuf> = args.ca_bundle.iter().cloned().chain(named).collect();
    ca_files.dedup();
    // On Linux the certificate verifier takes these in place of the system's store; here they are added to it.
    if cfg!(target_os = "linux")
        && (environment.path("SSL_CERT_FILE").is_some() || environment.path("SSL_CERT_DIR").is_some())
    {
        ca_files
            .extend(SYSTEM_STORES.iter().map(PathBuf::from).find(|path| path.is_file() && !ca_files.contains(path)));
    }
    Ok(HttpSettings {
        ca_files,
        proxy: ProxySettings {
            // Upper case HTTP_PROXY can be set from outside in a CGI program, which this is not.
            http: environment.first(&["http_proxy", "HTTP_PROXY"]),
            https: environment.first(&["https_proxy", "HTTPS_PROXY"]),
            no_proxy: environment.first(&["no_proxy", "NO_PROXY"]),
            bypass: Vec::new(),
        },
        connect_to: args.connect_to.iter().map(|text| text.parse()).collect::<Result<_>>()?,
        user_agent: None,
    })
}

fn engine(args: &EngineArgs, environment: &Environment) -> EngineSettings {
    let set = |flag: &Option<String>| flag.clone().filter(|value| !value.trim().is_empty());
    let (host, context) = (set(&args.docker_host), set(&args.docker_context));
    let (host_from, context_from) =
        (host.as_ref().map(|_| "`--docker-host`"), context.as_ref().map(|_| "`--docker-context`"));
    let host = host.or_else(|| environment.text("DOCKER_HOST"));
    EngineSettings {
        // `--docker-context` is the later word; docker lets its own flag win over DOCKER_HOST too.
        host: host.filter(|_| context.is_none()),
        context: context.or_else(|| environment.text("DOCKER_CONTEXT")),
        host_from,
        context_from,
        tls: environment.text("DOCKER_TLS").is_some(),
        tls_verify: environment.text("DOCKER_TLS_VERIFY").is_some(),
        cert_path: environment.path("DOCKER_CERT_PATH"),
        api_version: environment.text("DOCKER_API_VERSION"),
        config_dir: environment.docker_directory(),
        home: environment.home(),
        runtime_dir: environment.path("XDG_RUNTIME_DIR"),
        ..EngineSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str, variables: &[(&str, &str)]) -> Result<Request> {
        let words = ["ecr-push", "push"].into_iter().chain(line.split_whitespace());
        let Command::Push(args) = Cli::try_parse_from(words).unwrap().command else { panic!("a push") };
        request(&args, &Environment::of(variables))
    }

    const HOST: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";

    #[test]
    fn a_host_in_the_repository_is_taken_off_and_said() {
        let request = parse(&format!("app --repository {HOST}/team/app"), &[]).unwrap();
        let DestinationSpec::Ecr { repository, host: Some(host), .. } = request.push.destination else { panic!() };
        assert_eq!((repository.as_str(), host.region.as_str()), ("team/app", "us-east-1"));
        assert_eq!(request.notices.len(), 1);
    }

    #[test]
    fn an_ecr_host_behind_to_is_ecr_in_every_respect() {
        let request = parse(&format!("app --to {HOST}/app"), &[]).unwrap();
        assert!(matches!(request.push.destination, DestinationSpec::Ecr { host: Some(_), .. }));
        let request = parse(&format!("app --to {HOST}:443/app"), &[]).unwrap();
        assert!(matches!(request.push.destination, DestinationSpec::Ecr { host: Some(_), .. }));
        let request = parse("app --to localhost:5000/app", &[]).unwrap();
        assert!(matches!(request.push.destination, DestinationSpec::Registry { .. }));
        let alike = format!("app --to {HOST}.evil.example/app");
        assert!(matches!(parse(&alike, &[]).unwrap().push.destination, DestinationSpec::Registry { .. }));
    }

    #[test]
    fn what_contradicts_the_host_is_refused() {
        for flags in ["--region us-west-2", "--registry-id 999999999999"] {
            let error = parse(&format!("app --repository {HOST}/app {flags}"), &[]).unwrap_err();
            assert!(error.is_refused() && error.message().contains("contradicts the host"), "{}", error.message());
        }
        assert!(parse(&format!("app --repository {HOST}/app --region US_EAST_1"), &[]).is_ok());
    }

    #[test]
    fn bad_words_are_refused_with_the_right_one() {
        for (line, hint) in [
            ("app --repository Team/App", "did you mean `team/app`?"),
            ("app --repository app -t a+b", "did you mean `a-b`?"),
            ("app --repository app:v1", "write the repository as `app` and the tag as `tag: v1`"),
            ("app --to https://host/app", "write `to: host/app`"),
        ] {
            let error = parse(line, &[]).unwrap_err();
            assert!(error.is_refused(), "{line}");
            assert_eq!(error.hints()[0], hint, "{line}");
        }
        for line in [
            "app --to host",
            "app --to host:99999/app",
            "app --to host/a/../../x",
            "app --to host/a..b",
            "app --to 1.dkr.ecr.us-east-1.amazonaws.com/app",
            "app --repository 1.dkr.ecr.us-east-1.amazonaws.com/app",
            "app --to a:b:c/app",
            "app --to /app",
            "app --to host/App",
            "app --repository app --registry-id 12",
            "app --repository app --region x",
        ] {
            assert!(parse(line, &[]).unwrap_err().is_refused(), "{line}");
        }
    }

    #[test]
    fn the_environment_is_read_and_flags_win() {
        let variables = [
            ("AWS_REGION", "eu-west-1"),
            ("AWS_DEFAULT_REGION", " "),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_CA_BUNDLE", "/ca.pem"),
            ("https_proxy", "http://proxy:3128"),
            ("RUNNER_TEMP", "/runner"),
            ("DOCKER_HOST", "tcp://engine:2376"),
        ];
        let push = parse("app --repository app", &variables).unwrap().push;
        assert_eq!(push.aws.environment_regions, [("AWS_REGION", "eu-west-1".to_owned())]);
        assert_eq!(push.aws.endpoint_url_ecr.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(push.http.ca_files, [std::path::PathBuf::from("/ca.pem")]);
        assert_eq!(push.http.proxy.https.as_deref(), Some("http://proxy:3128"));
        assert_eq!(push.temp_dir, std::path::PathBuf::from("/runner"));
        assert_eq!(push.engine.host.as_deref(), Some("tcp://engine:2376"));
        let push =
            parse("app --repository app --docker-context far --temp-dir /t --ca-bundle /b", &variables).unwrap().push;
        assert_eq!((push.engine.host, push.engine.context.as_deref()), (None, Some("far")));
        assert_eq!(push.temp_dir, std::path::PathBuf::from("/t"));
        assert_eq!(push.http.ca_files, [PathBuf::from("/b"), PathBuf::from("/ca.pem")]);
    }
}
