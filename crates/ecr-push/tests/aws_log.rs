//! The log of the calls to AWS. A file of its own: a subscriber is for a whole process.

#[path = "common/stand.rs"]
mod stand;

use std::io;
use std::sync::{Arc, Mutex};

use ecr_push::aws::RoleSettings;
use ecr_push::events::{Event, Events};
use ecr_push::push::push;
use secrecy::ExposeSecret;
use stand::Stand;
use tracing_subscriber::fmt::MakeWriter;

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_logged_without_secrets() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    tracing::subscriber::set_global_default(subscriber.with_writer(log.clone()).finish()).unwrap();
    let secrets: Arc<Mutex<Vec<String>>> = Arc::default();
    let events = {
        let secrets = Arc::clone(&secrets);
        Events::new(move |event| {
            if let Event::Secret(secret) = event {
                secrets.lock().unwrap().push(secret.expose_secret().to_owned());
            }
        })
    };
    let stand = Stand::new().await;
    let mut request = stand.request(&stand.layout("image", &[1000]));
    request.aws.role = Some(RoleSettings { arn: "arn:aws:iam::123456789012:role/push".into(), ..Default::default() });
    push(request, events).await.unwrap();

    // The SDK's own lines hold whole bodies at this level: a program shows ours, and not those.
    let log = log.text();
    let ours = |target: &str| {
        let target = format!(" {target}: ");
        log.lines().filter(|line| line.contains(&target)).collect::<Vec<_>>()
    };
    let (calls, requests, answers) =
        (ours("ecr_push::aws"), ours("ecr_push::aws::request"), ours("ecr_push::aws::response"));
    let calls: Vec<&str> = calls.into_iter().filter(|line| line.contains(": call ")).collect();
    assert!(calls.len() >= 3 && calls.len() == requests.len() && calls.len() == answers.len(), "{calls:?}");
    let host = stand.server.endpoint_url().replace("http://", "");
    for operation in [
        "AssumeRole",
        "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken",
        "AmazonEC2ContainerRegistry_V20150921.BatchCheckLayerAvailability",
    ] {
        let expected = format!(r#"method="POST" host="{host}" operation="{operation}" status=200 request_id=""#);
        assert!(calls.iter().any(|line| line.contains(&expected) && line.contains(" ms=")), "{operation} in {calls:?}");
    }
    assert!(requests.iter().all(|line| line.contains(r#"path="/""#) && line.contains("authorization: ***")));
    assert!(
        requests[1].contains("x-amz-security-token: ***") && requests[1].contains("x-amz-target: "),
        "{requests:?}"
    );
    assert!(answers.iter().all(|line| line.contains("status=200 headers=") && line.contains("content-type: ")));

    let secrets = secrets.lock().unwrap().clone();
    assert_eq!(secrets.len(), 3 + 2, "a role's credentials, the token and its password");
    let ours: Vec<&str> = log.lines().filter(|line| line.contains(" ecr_push")).collect();
    for secret in secrets.iter().map(String::as_str).chain(["very-secret", "Signature="]) {
        assert!(ours.iter().all(|line| !line.contains(secret)), "{ours:?}");
    }
}

/// What a log wrote.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
