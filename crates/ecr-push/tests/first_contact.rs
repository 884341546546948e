//! The first contact with each service that a push speaks to, and each way in which it can fail: how long it is tried, how often, and what is
//! said. One table, and every cell of it is filled.
//!
//! Some sources of credentials read the environment of their process, so their cells run this test binary again, as a child.

#[path = "common/stand.rs"]
mod stand;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ecr_push::aws::{IdentityToken, RoleSettings, TokenMethod, TokenRequest, WebIdentity};
use ecr_push::push::{DestinationSpec, PushRequest};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use local_ecr::{Answer, Fault, FaultAction};
use stand::{APP, Stand, push_with_log};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ROLE: &str = "arn:aws:iam::123456789012:role/push";

/// What a push speaks to before anything is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Contact {
    /// The ECR API, for the token.
    Api,
    /// A registry of any kind, by `--to`.
    Registry,
    /// The token server that such a registry names.
    TokenServer,
    /// STS, for `--role-arn`.
    Role,
    /// STS, for the identity token of a CI system.
    IdentityToken,
    /// The CI system that gives such tokens.
    IdentityProvider,
    /// STS, for a profile with a role.
    ProfileRole,
    /// STS, for a token in a file (IRSA).
    TokenFile,
    /// SSO, for a profile.
    Sso,
    /// The agent of ECS or EKS.
    Container,
}

const CONTACTS: [Contact; 10] = [
    Contact::Api,
    Contact::Registry,
    Contact::TokenServer,
    Contact::Role,
    Contact::IdentityToken,
    Contact::IdentityProvider,
    Contact::ProfileRole,
    Contact::TokenFile,
    Contact::Sso,
    Contact::Container,
];

impl Contact {
    /// Whether its settings come from the environment of the process.
    fn is_ambient(self) -> bool {
        matches!(self, Self::ProfileRole | Self::TokenFile | Self::Sso | Self::Container)
    }

    /// What local-ecr calls its requests, where it can stand in for the service.
    fn operation(self) -> Option<&'static str> {
        match self {
            Self::Api => Some("GetAuthorizationToken"),
            Self::Registry => Some("BatchGetImage"),
            Self::Role | Self::IdentityToken | Self::ProfileRole | Self::TokenFile => Some("STS"),
            Self::TokenServer | Self::IdentityProvider | Self::Sso | Self::Container => None,
        }
    }

    /// A good answer, where local-ecr has none.
    fn good(self) -> &'static str {
        match self {
            Self::IdentityProvider => r#"{"value":"token-of-the-test"}"#,
            Self::Sso => {
                r#"{"roleCredentials":{"accessKeyId":"ASIATEST","secretAccessKey":"s","sessionToken":"t","expiration":4102444800000}}"#
            }
            Self::Container => {
                r#"{"AccessKeyId":"ASIATEST","SecretAccessKey":"s","Token":"t","Expiration":"2100-01-01T00:00:00Z"}"#
            }
            _ => "",
        }
    }

    fn throttled(self) -> Answer {
        match self {
            Self::Api => Answer::error(400, "ThrottlingException", "Rate exceeded"),
            Self::Role | Self::IdentityToken | Self::ProfileRole | Self::TokenFile => {
                Answer::error(400, "Throttling", "Rate exceeded")
            }
            _ => Answer::error(429, "TOOMANYREQUESTS", "Rate exceeded"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    /// Takes the connection and never answers.
    Silent,
    /// Nobody listens there.
    Refuses,
    Unavailable,
    Throttled,
    /// Closes each connection without an answer.
    Reset,
    /// One of each of the last three, and then all is well.
    Passes,
}

const TROUBLES: [Trouble; 6] =
    [Trouble::Silent, Trouble::Refuses, Trouble::Unavailable, Trouble::Throttled, Trouble::Reset, Trouble::Passes];

impl Trouble {
    fn budget(self) -> Duration {
        Duration::from_millis(match self {
            Self::Silent => 5000,
            Self::Passes => 30_000,
            _ => 1200,
        })
    }

    /// What happens to the first requests, and whether it ends.
    fn faults(self, contact: Contact) -> (Vec<FaultAction>, bool) {
        let unavailable = FaultAction::Answer(Answer::error(503, "ServiceUnavailable", "come back later"));
        let throttled = FaultAction::Answer(contact.throttled());
        match self {
            Self::Silent | Self::Refuses => (Vec::new(), false),
            Self::Unavailable => (vec![unavailable], false),
            Self::Throttled => (vec![throttled], false),
            Self::Reset => (vec![FaultAction::Close], false),
            Self::Passes => (vec![unavailable, throttled, FaultAction::Close], true),
        }
    }
}

/// A server for one cell.
struct Service {
    address: SocketAddr,
    tries: Arc<AtomicUsize>,
}

/// Answers `faults` one after the other, the last one for good unless it `ends`, and then `good`.
async fn service(faults: Vec<FaultAction>, ends: bool, good: &'static str) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tries) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&tries);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let fault = match ends {
                true => faults.get(number),
                false => faults.get(number).or(faults.last()),
            };
            let (status, body) = match fault {
                None => (200, good.to_owned()),
                Some(FaultAction::Answer(answer)) => {
                    let code = answer.code.clone().unwrap_or_default();
                    (answer.status, format!(r#"{{"__type":"{code}","message":"{}"}}"#, answer.message))
                }
                Some(_) => continue,
            };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.ok();
        }
    });
    Service { address, tries }
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

/// A registry that asks for a token of `server`, whoever comes.
async fn asking_registry(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_head(&mut stream).await;
            let challenge = format!("www-authenticate: Bearer realm=\"http://{server}/token\",service=\"x\"\r\n");
            let answer = format!("HTTP/1.1 401 X\r\n{challenge}content-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    address
}

/// The request for a push in which `contact` is at `service`, and everything else in the stand.
async fn request(stand: &Stand, contact: Contact, service: SocketAddr, budget: Duration) -> PushRequest {
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.retry_budget = budget;
    request.aws.endpoint_url_sts = Some(stand.server.endpoint_url());
    let url = format!("http://{service}");
    let role = || RoleSettings { arn: ROLE.into(), ..RoleSettings::default() };
    let identity = |token| Some(WebIdentity { origin: "the test's identity provider".into(), role: role(), token });
    match contact {
        Contact::Api => request.aws.endpoint_url = Some(url),
        Contact::Registry | Contact::TokenServer => {
            let host = match contact {
                Contact::Registry => service,
                _ => asking_registry(service).await,
            };
            let (host, repository) = (host.to_string(), APP.to_owned());
            request.destination = DestinationSpec::Registry { host, repository, plain_http: false };
        }
        Contact::Role => {
            request.aws.role = Some(role());
            request.aws.endpoint_url_sts = Some(url);
        }
        Contact::IdentityToken => {
            request.aws.explicit_keys = None;
            request.aws.web_identity = identity(IdentityToken::Text("token-of-the-test".into()));
            request.aws.endpoint_url_sts = Some(url);
        }
        Contact::IdentityProvider => {
            request.aws.explicit_keys = None;
            request.aws.web_identity = identity(IdentityToken::Request(TokenRequest {
                method: TokenMethod::Get,
                url,
                headers: Vec::new(),
                body: None,
                field: "value".into(),
            }));
        }
        Contact::ProfileRole | Contact::TokenFile | Contact::Sso | Contact::Container => {
            request.aws.explicit_keys = None;
            request.aws.endpoint_url_sts = Some(url);
        }
    }
    request
}

/// What came of a cell.
#[derive(Debug)]
struct Outcome {
    /// Sentence and hints, or that it was pushed.
    text: String,
    took: Duration,
}

async fn attempt(request: PushRequest) -> Outcome {
    let started = Instant::now();
    let (result, _) = Box::pin(push_with_log(request)).await;
    let text = match result {
        Ok(_) => "pushed".to_owned(),
        Err(error) => format!("{error} | {}", [error.hints(), error.notes()].concat().join(" | ")),
    };
    Outcome { text, took: started.elapsed() }
}

/// Not a test of its own: what the child does. It has the endpoints of the parent's servers in its environment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the other test in a process of its own"]
async fn child() {
    let given = |name: &str| std::env::var(name).unwrap();
    let contact = CONTACTS.into_iter().find(|contact| format!("{contact:?}") == given("CONTACT")).unwrap();
    let budget = Duration::from_millis(given("BUDGET").parse().unwrap());
    let stand = Stand::new().await;
    let request = request(&stand, contact, given("SERVICE").parse().unwrap(), budget).await;
    let Outcome { text, took } = attempt(request).await;
    println!("RESULT {} {}", took.as_millis(), text.replace('\n', " "));
}

/// Runs a cell in a process whose environment says where credentials are.
async fn in_child(contact: Contact, service: SocketAddr, budget: Duration) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let config = format!(
        "[profile base]\naws_access_key_id=AKIATEST\naws_secret_access_key=very-secret\n\
         [profile role]\nrole_arn={ROLE}\nsource_profile=base\n\
         [profile sso]\nsso_start_url=https://sso.example/start\nsso_region=us-east-1\nsso_account_id=123456789012\n\
         sso_role_name=push\n"
    );
    std::fs::create_dir_all(path(".aws/sso/cache")).unwrap();
    std::fs::write(path(".aws/config"), config).unwrap();
    // Its name is the SHA-1 of the start URL.
    let session = r#"{"accessToken":"t","expiresAt":"2100-01-01T00:00:00Z","startUrl":"https://sso.example/start","region":"us-east-1"}"#;
    std::fs::write(path(".aws/sso/cache/98df91031e87f97bfc088c045be6442dc5d70b2a.json"), session).unwrap();
    std::fs::write(path("token"), "token-of-the-test").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("CONTACT", format!("{contact:?}"))
        .env("SERVICE", service.to_string())
        .env("BUDGET", budget.as_millis().to_string());
    let url = format!("http://{service}");
    match contact {
        Contact::ProfileRole => command.env("AWS_PROFILE", "role").env("AWS_ENDPOINT_URL_STS", url),
        Contact::Sso => command.env("AWS_PROFILE", "sso").env("AWS_ENDPOINT_URL_SSO", url),
        Contact::TokenFile => command
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", path("token"))
            .env("AWS_ROLE_ARN", ROLE)
            .env("AWS_ENDPOINT_URL_STS", url),
        _ => command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/credentials")),
    };
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    drop(home);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.split_once("RESULT "));
    let (_, result) = found.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let (millis, text) = result.split_once(' ').unwrap();
    Outcome { text: text.to_owned(), took: Duration::from_millis(millis.parse().unwrap()) }
}

/// Runs one cell. Answers a line for the table, or what is wrong.
async fn cell(contact: Contact, trouble: Trouble, budget: Duration, limit: Duration) -> Result<String, String> {
    let (faults, ends) = trouble.faults(contact);
    let stand = Stand::new().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut own = None;
    let address = match (trouble, contact.operation()) {
        (Trouble::Silent, _) => silent.local_addr().unwrap(),
        (Trouble::Refuses, _) => {
            let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
            closed.local_addr().unwrap()
        }
        (_, Some(operation)) => {
            let times = if ends { 1 } else { usize::MAX };
            // Each fault counts all that match, so that they come one after the other.
            for (skip, action) in faults.into_iter().enumerate() {
                stand.server.add_fault(Fault::new(action).operation(operation).skip(skip).times(times));
            }
            stand.server.address()
        }
        (_, None) => {
            let service = own.insert(service(faults, ends, contact.good()).await);
            service.address
        }
    };
    let outcome = match contact.is_ambient() {
        true => in_child(contact, address, budget).await,
        false => attempt(request(&stand, contact, address, budget).await).await,
    };
    let tries = match (&own, contact.operation()) {
        (Some(own), _) => own.tries.load(Ordering::Relaxed),
        (None, Some(operation)) => stand.asked(operation).len(),
        (None, None) => 0,
    };
    let checked = match outcome.took > limit + SLACK {
        true => Err("took too long"),
        false => check(contact, trouble, address, &outcome, tries),
    };
    checked.map_err(|what| format!("{contact:?} × {trouble:?}: {what} ({tries} tries, {outcome:?})"))?;
    Ok(format!("{contact:?} × {trouble:?}: {tries} tries, {} ms: {}", outcome.took.as_millis(), outcome.text))
}

/// One request more: its limit while a host has never answered.
const SLACK: Duration = Duration::from_secs(5);

fn check(
    contact: Contact,
    trouble: Trouble,
    address: SocketAddr,
    outcome: &Outcome,
    tries: usize,
) -> Result<(), &'static str> {
    let has = |words: &str| outcome.text.contains(words);
    if trouble == Trouble::Passes {
        // These two have nothing behind them that could be pushed to.
        let goes_on = !matches!(contact, Contact::Registry | Contact::TokenServer);
        return match (tries > 3, !goes_on || outcome.text == "pushed") {
            (true, true) => Ok(()),
            (false, _) => Err("was not tried again"),
            (_, false) => Err("did not go on"),
        };
    }
    let answers = matches!(trouble, Trouble::Unavailable | Trouble::Throttled);
    if !answers && !has(&address.to_string()) {
        return Err("does not name the host");
    }
    if trouble == Trouble::Unavailable && !has("503") && !has("come back later") {
        return Err("does not say what was answered");
    }
    if trouble == Trouble::Throttled && !has("Rate exceeded") && !has("429") {
        return Err("does not say that it was throttled");
    }
    if answers || trouble == Trouble::Reset {
        if tries < 2 {
            return Err("was not tried again");
        }
        if tries > 16 {
            return Err("was tried too often");
        }
    }
    if !has("`retry_budget`") {
        return Err("does not say why it ended");
    }
    Ok(())
}

/// A push under way is large, and there are many.
type Cell = BoxFuture<'static, Result<String, String>>;

/// Runs cells, and fails with a table of all if one of them is wrong.
async fn run(cells: Vec<Cell>, at_once: usize) {
    let count = cells.len();
    let outcomes: Vec<_> = futures_util::stream::iter(cells).buffered(at_once).collect().await;
    assert!(outcomes.len() == count && count > 0);
    let mut table = String::new();
    for outcome in &outcomes {
        match outcome {
            Ok(line) => writeln!(table, "{line}").unwrap(),
            Err(line) => writeln!(table, "WRONG {line}").unwrap(),
        }
    }
    assert!(outcomes.iter().all(Result::is_ok), "\n{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_is_tried_by_one_rule() {
    let cell = |contact, trouble: Trouble| cell(contact, trouble, trouble.budget(), trouble.budget()).boxed();
    let cells = CONTACTS.into_iter().flat_map(|contact| TROUBLES.map(|trouble| cell(contact, trouble))).collect();
    run(cells, 16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_answers_is_given_up_after_twenty_seconds_whatever_the_budget() {
    let (budget, limit) = (Duration::from_secs(300), Duration::from_secs(20));
    let cell = |contact, trouble| cell(contact, trouble, budget, limit).boxed();
    let cells: Vec<_> = CONTACTS
        .into_iter()
        .flat_map(|contact| [cell(contact, Trouble::Silent), cell(contact, Trouble::Refuses)])
        .collect();
    let count = cells.len();
    run(cells, count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_resolved_is_tried_three_more_times_by_whomever() {
    for contact in [Contact::Api, Contact::Registry, Contact::Role] {
        let stand = Stand::new().await;
        let mut request = request(&stand, contact, stand.server.address(), Duration::from_secs(300)).await;
        let name = "no-such-host.invalid";
        match contact {
            Contact::Api => request.aws.endpoint_url = Some(format!("https://{name}")),
            Contact::Role => request.aws.endpoint_url_sts = Some(format!("https://{name}")),
            _ => {
                let repository = APP.to_owned();
                request.destination =
                    DestinationSpec::Registry { host: name.to_owned(), repository, plain_http: false };
            }
        }
        let (result, log) = push_with_log(request).await;
        let error = result.unwrap_err();
        assert!(error.message().contains(&format!("the host name {name} cannot be resolved")), "{error}");
        assert_eq!(log.iter().filter(|line| line.starts_with("retry ")).count(), 3, "{contact:?}: {log:?}");
    }
}
