//! The failures that users of other programs report, each met on purpose: what is said, the exit status, and what to do. The table in
//! `docs/errors.md` is what came out; with `ECR_PUSH_REWRITE` set, it is written anew.
#![cfg(unix)]

mod common;

use std::any::Any;
use std::path::Path;

use common::engine::RecordedEngine;
use common::{APP, Program, Run, Stand, closed_port, push_words, two};
use local_ecr::{Answer, Config, Fault, FaultAction, Sts};
use regex_lite::Regex;

const ROLE: &str = "arn:aws:iam::123456789012:role/pusher";
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
const BEGIN: &str = "<!-- written by errors_page.rs -->\n";

/// A push that fails, and what must live as long as it runs.
struct Failing(Program, Option<Box<dyn Any>>);

impl From<Program> for Failing {
    fn from(program: Program) -> Self {
        Self(program, None)
    }
}

/// One row of the page.
struct Case {
    /// Names the case.
    id: &'static str,
    /// What other programs show for it.
    others: &'static str,
    cause: &'static str,
    status: i32,
    config: fn() -> Config,
    make: fn(&Stand) -> Failing,
}

fn case(id: &'static str, others: &'static str, cause: &'static str, status: i32, make: fn(&Stand) -> Failing) -> Case {
    Case { id, others, cause, status, config: Config::default, make }
}

impl Case {
    fn with(self, config: fn() -> Config) -> Self {
        Self { config, ..self }
    }
}

fn put_manifest(stand: &Stand, answer: Answer) -> Failing {
    stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).method("PUT").path("/manifests/"));
    stand.push("--retry-budget 1s").into()
}

fn api(stand: &Stand, operation: &str, answer: Answer) -> Failing {
    stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).operation(operation));
    stand.push("--retry-budget 1s").into()
}

fn refusing_sts(code: &str, text: &str) -> Config {
    let sts = Sts { refuse: Some((code.into(), text.into())), ..Sts::default() };
    Config { sts, ..Config::default() }
}

fn denied(action: &str, reason: &str) -> Answer {
    let resource = if action == "ecr:GetAuthorizationToken" {
        "*".to_owned()
    } else {
        format!("arn:aws:ecr:us-east-1:123456789012:repository/{APP}")
    };
    let text = format!(
        "User: arn:aws:iam::123456789012:user/tester is not authorized to perform: {action} on resource: {resource} {reason}"
    );
    Answer::error(403, "DENIED", &text)
}

fn cases() -> Vec<Case> {
    vec![
        // What is typed.
        case("account-id", "login attempt failed with status: 400 Bad Request", "dashes in the account's id", 2, |stand| {
            stand.push("--registry-id 1234-5678-9012").into()
        }),
        case("region-code", "getaddrinfo ENOTFOUND api.ecr.useast1.amazonaws.com", "a region that is none", 2, |stand| {
            stand.push("--region useast1").into()
        }),
        case("repository-name", "repository name must be lowercase", "upper case from a project's name", 2, |stand| {
            stand.program(&push_words("").replace(APP, "Team/App")).into()
        }),
        case("tag-plus", "400 Bad Request on manifest PUT", "a `+` in the tag", 2, |stand| {
            stand.program(&format!("push {} -r {APP} -t 1.0+5", two())).into()
        }),
        case("host-twice", "name unknown", "the whole URI in the place of a name, twice", 2, |stand| {
            let host = "123456789012.dkr.ecr.us-east-1.amazonaws.com";
            stand.program(&push_words("").replace(APP, &format!("{host}/{host}/app"))).into()
        }),
        case("file-as-image", "invalid reference format", "an archive in the place of an image", 2, |stand| {
            let file = stand.file("app.tar", "x").display().to_string();
            stand.program(&format!("push {file} -r {APP}")).into()
        }),
        // Credentials.
        case("no-credentials", "Missing credentials in config; NoCredentialProviders", "no source has any", 1, |stand| {
            stand.bare(&push_words("--region us-east-1")).env("AWS_EC2_METADATA_DISABLED", "true").into()
        }),
        case("no-region", "Missing region in config", "nothing names a region", 1, |stand| {
            stand.push("").without("AWS_REGION").env("AWS_EC2_METADATA_DISABLED", "true").into()
        }),
        case("wrong-key", "UnrecognizedClientException", "wrong, deleted or mixed keys", 1, |stand| {
            let text = "The security token included in the request is invalid.";
            api(stand, "GetAuthorizationToken", Answer::error(400, "UnrecognizedClientException", text))
        }),
        case("wrong-secret", "InvalidSignatureException", "the secret belongs to another key", 1, |stand| {
            let text = "The request signature we calculated does not match the signature you provided.";
            api(stand, "GetAuthorizationToken", Answer::error(400, "InvalidSignatureException", text))
        }),
        case("session-over", "ExpiredTokenException", "the role's session is over", 1, |stand| {
            let text = "The security token included in the request is expired";
            api(stand, "GetAuthorizationToken", Answer::error(400, "ExpiredTokenException", text))
        }),
        case("role-chaining", "DurationSeconds exceeds the 1 hour session limit", "a role assumed with a role", 1, |stand| {
            stand.push(&format!("--role-arn {ROLE} --role-duration-seconds 7200")).into()
        })
        .with(|| {
            let text = "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining";
            refusing_sts("ValidationError", text)
        }),
        case("role-denied", "AccessDenied: sts:AssumeRole", "one of the two policies does not allow it", 1, |stand| {
            stand.push(&format!("--role-arn {ROLE}")).into()
        })
        .with(|| {
            let text = "User: arn:aws:iam::123456789012:user/tester is not authorized to perform: sts:AssumeRole";
            refusing_sts("AccessDenied", text)
        }),
        case(
            "identity-denied",
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
            "issuer, audience or subject differ from the trust policy",
            1,
            |stand| {
                // `{"alg":"none"}` and `{"iss":"https://gitlab.example","aud":"sts.amazonaws.com","sub":"project_path:a/b"}`.
                let token = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2dpdGxhYi5leGFtcGxlIiwiYXVkIjoic3RzLmFtYXpvbmF3cy5jb20iLCJzdWIiOiJwcm9qZWN0X3BhdGg6YS9iIn0.eA";
                let program = stand.push(&format!("--role-arn {ROLE} --web-identity-token-env ID_TOKEN"));
                program.env("ID_TOKEN", token).into()
            },
        )
        .with(|| refusing_sts("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")),
        case("token-file", "No such file or directory", "the pod has no identity token", 1, |stand| {
            let program = stand.bare(&push_words("--region us-east-1"));
            program.env("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token").env("AWS_ROLE_ARN", ROLE).into()
        }),
        case("profile-file", "could not parse profile file", "a line of the profile file is wrong", 1, |stand| {
            stand.file(".aws/config", "[profile ci]\nregion us-east-1\n");
            stand.push("--profile ci").into()
        }),
        case("sso-over", "failed to load the cached SSO token", "nobody is logged in", 1, |stand| {
            let text = "[profile ci]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = r\n[sso-session s]\n\
                        sso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n";
            stand.file(".aws/config", text);
            stand.push("--profile ci").into()
        }),
        // Permissions.
        case("token-denied", "not authorized: ecr:GetAuthorizationToken on *", "it cannot be limited to a repository", 1, |stand| {
            let denied = denied("ecr:GetAuthorizationToken", "because no identity-based policy allows the action");
            api(stand, "GetAuthorizationToken", Answer { code: Some("AccessDeniedException".into()), ..denied })
        }),
        case("upload-denied", "denied: ecr:InitiateLayerUpload", "no policy of the caller allows it", 1, |stand| {
            let answer = denied("ecr:InitiateLayerUpload", "because no identity-based policy allows the action");
            stand.server.add_fault(Fault::new(FaultAction::Answer(answer)).method("POST").path("/blobs/uploads/"));
            stand.push("").into()
        }),
        case("other-account", "no resource-based policy allows", "both accounts must allow it", 1, |stand| {
            put_manifest(stand, denied("ecr:PutImage", "because no resource-based policy allows the action"))
        }),
        case("explicit-deny", "with an explicit deny", "a policy denies it", 1, |stand| {
            put_manifest(stand, denied("ecr:PutImage", "with an explicit deny in an identity-based policy"))
        }),
        case("empty-403", "error parsing HTTP 403 response body", "a proxy or firewall answered", 1, |stand| {
            api(stand, "GetAuthorizationToken", Answer::status(403))
        }),
        // The registry.
        case("token-expired", "Your authorization token has expired", "no token is accepted any more", 1, |stand| {
            let text = "Your authorization token has expired. Reauthenticate and try again.";
            put_manifest(stand, Answer::error(401, "DENIED", text))
        }),
        case("no-repository", "name unknown; EOF on /blobs/uploads/", "not created, or in another region or account", 1, |stand| {
            stand.program(&push_words("").replace(APP, "team/none")).into()
        }),
        case("immutable-tag", "tag invalid: the image tag already exists", "the tag may not move", 1, |stand| {
            let text = "The image tag 'v1' already exists in the 'team/app' repository and cannot be overwritten because the \
                        repository is immutable.";
            put_manifest(stand, Answer::error(400, "TAG_INVALID", text))
        }),
        case("manifest-refused", "405 Method Not Allowed, UNSUPPORTED", "ECR does not like the manifest", 1, |stand| {
            let text = "Invalid parameter at 'ImageManifest' failed to satisfy constraint: 'Invalid JSON syntax'";
            put_manifest(stand, Answer::error(405, "UNSUPPORTED", text))
        }),
        case("image-quota", "maximum allowed number of images", "the repository is full", 1, |stand| {
            let text = "The repository with name 'team/app' in registry with id '123456789012' already has the maximum allowed \
                        number of images which is '100000'";
            put_manifest(stand, Answer::error(403, "DENIED", text))
        }),
        case("blobs-lost", "BLOB_UPLOAD_UNKNOWN: Layers with digests ... do not exist", "the registry lost what it took", 1, |stand| {
            let text = "Layers with digests '[sha256:0]' required for pushing image do not exist";
            put_manifest(stand, Answer::error(404, "BLOB_UPLOAD_UNKNOWN", text))
        }),
        case("layer-digest", "None of the provided layer digests match", "the data changed on its way", 1, |stand| {
            let text = "None of the provided layer digests match the calculated layer digest";
            let answer = FaultAction::Answer(Answer::error(400, "DIGEST_INVALID", text));
            stand.server.add_fault(Fault::new(answer).method("PUT").path("/blobs/uploads/"));
            stand.push("").into()
        }),
        case("too-large", "413 Request Entity Too Large", "a proxy before the registry limits bodies", 1, |stand| {
            let answer = FaultAction::Answer(Answer::status(413));
            stand.server.add_fault(Fault::new(answer).method("PUT").path("/blobs/uploads/"));
            stand.push("--retry-budget 1s").into()
        }),
        case("throttled", "toomanyrequests: Rate exceeded", "more requests than the account may send", 1, |stand| {
            put_manifest(stand, Answer::error(429, "TOOMANYREQUESTS", "Rate exceeded"))
        }),
        case("unavailable", "received unexpected HTTP status: 503", "the service is down", 1, |stand| {
            put_manifest(stand, Answer::status(503))
        }),
        case("reset", "connection reset by peer; unexpected EOF", "the network, or who is on the way", 1, |stand| {
            stand.server.add_fault(Fault::new(FaultAction::Close).method("PUT"));
            stand.push("--retry-budget 1s").into()
        }),
        // The way.
        case("refused", "connect: connection refused", "nobody listens there", 1, |stand| {
            let closed = format!("http://127.0.0.1:{}", closed_port());
            stand.push("--retry-budget 1s").env("AWS_ENDPOINT_URL", closed).into()
        }),
        case("not-tls", "server gave HTTP response to HTTPS client", "the port speaks plain http", 1, |stand| {
            let address = format!("https://{}", stand.server.registry_host());
            stand.push("--retry-budget 1s").env("AWS_ENDPOINT_URL", address).into()
        }),
        case("proxy-gone", "proxyconnect tcp: connection refused", "the proxy's address is wrong", 1, |stand| {
            let proxy = format!("http://127.0.0.1:{}", closed_port());
            let program = stand.push("--retry-budget 1s").env("AWS_ENDPOINT_URL", "https://ecr.registry.example");
            program.env("HTTPS_PROXY", proxy).into()
        }),
        case("ca-file", "unable to get local issuer certificate", "the CA's file is not where it is said to be", 2, |stand| {
            stand.push("--ca-bundle /nowhere/ca.pem").into()
        }),
        // The source.
        case("no-engine", "Cannot connect to the Docker daemon", "no engine, or no right to its socket", 1, |stand| {
            let program = stand.program(&format!("push app -r {APP} -t v1"));
            program.env("DOCKER_HOST", "unix:///nowhere/docker.sock").into()
        }),
        case("no-image", "No such image", "another name, or another engine", 1, |stand| {
            let engine = RecordedEngine::start();
            let program = stand.program(&format!("push postgres:17 -r {APP} -t v1")).env("DOCKER_HOST", engine.host());
            Failing(program, Some(Box::new(engine)))
        }),
        case("no-platform", "image does not provide any platform", "the platform is not in the image", 1, |stand| {
            stand.program(&format!("push {} -r {APP} -t v1 --platform linux/s390x", common::multi())).into()
        }),
        case("packed", "archive/tar: invalid tar header", "an archive packed with xz", 1, |stand| {
            let file = stand.file("app.tar.xz", b"\xfd7zXZ\x00\x00\x04 and more").display().to_string();
            stand.program(&format!("push docker-archive:{file} -r {APP} -t v1")).into()
        }),
        case("cut-archive", "unexpected EOF", "the archive is not whole", 1, |stand| {
            let whole = std::fs::read(common::recorded("docker-20.10-overlay2/export-two.tar")).unwrap();
            let file = stand.file("short.tar", &whole[..whole.len() / 2]).display().to_string();
            stand.program(&format!("push docker-archive:{file} -r {APP} -t v1")).into()
        }),
        // This machine.
        case("no-temp", "no space left on device; permission denied", "temporary files go nowhere", 2, |stand| {
            stand.push("--temp-dir /nowhere").into()
        }),
    ]
}

/// What a run says, without what differs from one to the next.
struct Steady([(Regex, &'static str); 7]);

impl Steady {
    fn new() -> Self {
        let of = |form: &str| Regex::new(form).unwrap();
        Self([
            (of(r"\b(127\.0\.0\.1|localhost):\d+"), "HOST:PORT"),
            (of(r"/tmp/\.tmp\w+"), "FOLDER"),
            (of(r"/\S+/tests/fixtures/engines"), "FOLDER"),
            // Which of two layers is refused first is open.
            (of(r"sha256:[0-9a-f]{64}"), "sha256:DIGEST"),
            (of(r"\b\d+(\.\d+)? s\b"), "N s"),
            (of(r"tried again for less than a second"), "tried again for N s"),
            // Which of the two a sender sees is up to the system.
            (
                of(r"the connection to HOST:PORT was reset|HOST:PORT closed the connection.*"),
                "HOST:PORT closed the connection",
            ),
        ])
    }

    fn text(&self, text: &str, stand: &Stand) -> String {
        let text = text.replace(&stand.folder.path().display().to_string(), "FOLDER");
        self.0.iter().fold(text, |text, (form, name)| form.replace_all(&text, *name).into_owned())
    }
}

/// The hints, each by its first line.
fn remedies(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter_map(|line| line.strip_prefix("  hint: ")).collect()
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_errors_says_what_happens_and_each_has_a_remedy() {
    let steady = Steady::new();
    let mut rows = String::new();
    let mut without = Vec::new();
    for Case { id, others, cause, status, config, make } in cases() {
        let stand = Stand::with(config()).await;
        let Failing(program, _alive) = make(&stand);
        let run = program.run().await;
        let sentence = steady.text(run.failed(status).trim_start_matches("error: "), &stand);
        assert_eq!(stand.tag("v1"), None, "{id}: nothing is tagged");
        let remedies: Vec<String> = remedies(&run).iter().map(|hint| cell(&steady.text(hint, &stand))).collect();
        if remedies.is_empty() {
            without.push(format!("{id}: {}", run.stderr));
        }
        let (others, cause, sentence) = (cell(others), cell(cause), cell(&sentence));
        rows.push_str(&format!(
            "| {others} | {cause} | {sentence} | {status} | {} | `{id}` |\n",
            remedies.join("<br>")
        ));
    }
    assert!(without.is_empty(), "no remedy:\n{}", without.join("\n"));
    assert!(rows.lines().count() >= 30, "{rows}");
    let old = std::fs::read_to_string(PAGE).unwrap_or_default();
    let head = old.split(BEGIN).next().unwrap_or_default();
    let table =
        "| Others say | Cause | ecr-push says | Exit | Remedy | Case |\n| --- | --- | --- | --- | --- | --- |\n";
    let page = format!("{head}{BEGIN}\n{table}{rows}");
    if std::env::var_os("ECR_PUSH_REWRITE").is_some() {
        std::fs::write(Path::new(PAGE), &page).unwrap();
        return;
    }
    let first = page.lines().zip(old.lines()).find(|(new, old)| new != old);
    assert!(page == old, "docs/errors.md says something else; set ECR_PUSH_REWRITE to write it anew: {first:?}");
}

#[test]
fn each_case_is_named_once() {
    let mut ids: Vec<&str> = cases().iter().map(|case| case.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
