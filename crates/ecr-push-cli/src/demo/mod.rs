//! `ecr-push demo`: the main job on an ECR inside this process, from an empty registry to verified digests.

mod packed;

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ecr_push::aws::{AwsSettings, Keys};
use ecr_push::error::Side;
use ecr_push::events::{Event, Events};
use ecr_push::http::HttpSettings;
use ecr_push::push::{self, PushReport, PushRequest};
use ecr_push::{Error, Result};
use tempfile::TempDir;

use local_ecr::{Config, LocalEcr, Mutability, Notices, Storage};

use crate::args::{DemoArgs, PushArgs};
use crate::environment::Environment;
use crate::platform::Stops;
use crate::report::{Reporter, bytes};
use crate::run::{End, until_stopped};
use crate::{FAILED, PUSHED, request, status};

/// A line of the demo's story. A reader that goes away misses the rest of it, and nothing else.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout().lock(), $($text)*);
    }};
}

const REPOSITORY: &str = "demo";
const TAG: &str = "v1";
const REGION: &str = "us-east-1";

/// Runs the demo. Answers the exit status.
pub async fn run(args: &DemoArgs, environment: Environment) -> u8 {
    // The registry and the keys are the demo's own.
    let environment = &environment.without_aws();
    let mut stops = Stops::listen();
    let image = args.image.as_deref().filter(|image| !image.is_empty()).unwrap_or("demo");
    // The demo's push has the same defaults as a push on the command line.
    let words = ["--repository", REPOSITORY, "--tag", TAG, "--region", REGION, "--", image];
    let Ok(push_args) = PushArgs::of(&words) else { return FAILED };
    let reporter = Reporter::new(&push_args.report, environment);
    let result = match until_stopped(&mut stops, demo(args, &push_args, environment, &reporter)).await {
        End::Done(result) => result,
        End::Stopped(stop) => {
            reporter.stopped();
            return stop.status();
        }
    };
    // The directory goes with its guard; the server needs it as long as it runs.
    let (server, _directory) = match result {
        Ok(running) => running,
        Err(error) => {
            reporter.failed(&error);
            return status(&error);
        }
    };
    if !args.keep {
        say!("The registry ends with this program; `ecr-push demo --keep` leaves it running.");
        server.shutdown().await;
        return PUSHED;
    }
    print_how_to_pull(&server);
    stops.next().await;
    server.shutdown().await;
    PUSHED
}

async fn demo(
    args: &DemoArgs,
    push_args: &PushArgs,
    environment: &Environment,
    reporter: &Reporter,
) -> Result<(LocalEcr, TempDir)> {
    let fail = |what: &str, error: std::io::Error| {
        Error::new(Side::Local, "start the demo", format!("{what}: {error}")).with_source(error)
    };
    let directory = tempfile::tempdir_in(environment.temporary_directory())
        .map_err(|error| fail("no temporary directory can be made", error))?;
    let data = directory.path().join("registry");
    std::fs::create_dir(&data).map_err(|error| fail("the registry's directory cannot be made", error))?;
    let log = reporter.clone();
    let notices = Notices::new(move |notice| log.event(&Event::Warning(format!("the local ECR: {notice}").into())));
    let config = Config { region: REGION.to_owned(), storage: Storage::Directory(data), notices, ..Config::default() };
    let server = LocalEcr::start(config).await.map_err(|error| fail("the local ECR cannot start", error))?;
    say!("A local ECR listens on {}", server.endpoint_url());
    server
        .create_repository(REPOSITORY, Mutability::mutable())
        .map_err(|error| fail("the repository cannot be created", error))?;
    say!("Created the repository {}/{REPOSITORY}", server.registry_host());

    let mut request = request::request(push_args, environment)?.push;
    // What is remembered of a registry that ends with the program helps nobody.
    request.reuse.cache_dir = None;
    if args.image.is_none() {
        let path = directory.path().join("image.tar");
        packed::write(&path).map_err(|error| fail("the demo's image cannot be packed", error))?;
        request.source = format!("docker-archive:{}", path.display()).parse()?;
        say!("Packed a two-layer image from this program");
    }
    request.aws = aws(&server)?;
    // Everything is on this machine: no proxy, no other certificate authority.
    request.http = HttpSettings {
        // Readers of blobs are sent to another name of this machine, which a bare container cannot resolve.
        connect_to: vec![format!("localhost:{0}:127.0.0.1:{0}", server.address().port()).parse()?],
        ..HttpSettings::default()
    };

    let first = push_once(&request, reporter).await?;
    say!("Pushed    {}", first.references().collect::<Vec<_>>().join(", "));
    say!("Digest    {}", first.digest);
    say!("Seconds   {:.2}", first.elapsed.as_secs_f64());
    let verified = push::verify(&request, &first).await?;
    say!(
        "Read back {} and {}, {}: every digest is right",
        ecr_push::text::count(verified.manifests, "manifest", "manifests"),
        ecr_push::text::count(verified.blobs, "blob", "blobs"),
        bytes(verified.bytes)
    );

    let before = uploads(&server);
    let second = push_once(&request, reporter).await?;
    let sent = uploads(&server) - before;
    say!(
        "Pushed again in {:.2} s: {sent} uploads, {} sent",
        second.elapsed.as_secs_f64(),
        bytes(second.bytes(ecr_push::events::BlobAction::Sent))
    );
    if sent > 0 || second.digest != first.digest {
        return Err(Error::new(
            Side::Destination,
            "push again",
            "the second push sent something, though nothing had changed",
        ));
    }
    reporter.end();
    Ok((server, directory))
}

async fn push_once(request: &PushRequest, reporter: &Reporter) -> Result<PushReport> {
    let listener = reporter.clone();
    let result = push::push(request.clone(), Events::new(move |event| listener.event(&event))).await;
    reporter.settle();
    result
}

fn aws(server: &LocalEcr) -> Result<AwsSettings> {
    Ok(AwsSettings {
        region: Some(REGION.parse()?),
        endpoint_url: Some(server.endpoint_url()),
        endpoint_url_sts: Some(server.endpoint_url()),
        explicit_keys: Some(Keys {
            origin: "the demo".to_owned(),
            access_key_id: "AKIADEMO".to_owned(),
            secret_access_key: "demo".to_owned().into(),
            session_token: None,
        }),
        ..AwsSettings::default()
    })
}

/// Upload sessions that were opened so far.
fn uploads(server: &LocalEcr) -> usize {
    server.requests().iter().filter(|request| request.operation == "InitiateLayerUpload").count()
}

/// Commands that work as pasted. The password is one of this run's registry, and worth nothing elsewhere.
fn print_how_to_pull(server: &LocalEcr) {
    let token = server.authorization_token("demo");
    let password = STANDARD.decode(&token).ok().and_then(|pair| String::from_utf8(pair).ok());
    let password = password.as_deref().and_then(|pair| pair.split_once(':')).map(|(_, password)| password.to_owned());
    let host = server.registry_host();
    say!("\nThe registry goes on until Control-C. To log in and pull:\n");
    let password = password.unwrap_or_default();
    say!("  echo {password} | docker login --username AWS --password-stdin {host}");
    say!("  docker pull {host}/{REPOSITORY}:{TAG}\n");
    say!("or, without an engine:\n");
    say!("  skopeo inspect --tls-verify=false --creds AWS:{password} docker://{host}/{REPOSITORY}:{TAG}");
    say!(
        "  AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo aws ecr describe-images --repository-name {REPOSITORY} \
         --region {REGION} --endpoint-url {}",
        server.endpoint_url()
    );
}
