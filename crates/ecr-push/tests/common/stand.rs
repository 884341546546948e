//! A local ECR, an image to push into it, and the request for that.

#![allow(dead_code, reason = "each test file uses a part")]

use std::time::Duration;

#[path = "layout.rs"]
mod layout;

use ecr_push::Result;
use ecr_push::aws::{AwsSettings, Keys};
use ecr_push::containerd::ContainerdSettings;
use ecr_push::engine::EngineSettings;
use ecr_push::events::{Event, Events};
use ecr_push::http::HttpSettings;
use ecr_push::push::{DestinationSpec, PushReport, PushRequest, ReuseSettings, push};
use ecr_push::registry::DockerConfig;
use ecr_push::source::Selection;
use local_ecr::{Config, LocalEcr, Mutability, RecordedRequest};
use std::sync::{Arc, Mutex};

pub use layout::write_layout;

/// The repository of every test.
pub const APP: &str = "team/app";

pub struct Stand {
    pub server: LocalEcr,
    pub folder: tempfile::TempDir,
}

impl Stand {
    /// A server with the repository [`APP`].
    pub async fn new() -> Self {
        let stand = Self::bare(Config::default()).await;
        stand.server.create_repository(APP, Mutability::mutable()).unwrap();
        stand
    }

    /// A server without a repository.
    pub async fn bare(config: Config) -> Self {
        Self { server: LocalEcr::start(config).await.unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    /// The request to push `image` as `v1`.
    pub fn request(&self, image: &str) -> PushRequest {
        PushRequest {
            source: image.parse().unwrap(),
            selection: Selection::default(),
            destination: DestinationSpec::Ecr { repository: APP.parse().unwrap(), registry_id: None, host: None },
            tags: vec!["v1".parse().unwrap()],
            create_repository: false,
            jobs: 4,
            threads: 2,
            compression: None,
            reuse: ReuseSettings::default(),
            use_engine_store: true,
            temp_dir: self.folder.path().to_owned(),
            retry_budget: Duration::from_secs(20),
            wait_visible: Some(Duration::from_secs(10)),
            dry_run: false,
            show_identity: false,
            engine: EngineSettings::default(),
            containerd: ContainerdSettings::default(),
            http: HttpSettings::default(),
            aws: AwsSettings {
                region: Some("us-east-1".parse().unwrap()),
                endpoint_url: Some(self.server.endpoint_url()),
                endpoint_url_sts: Some(self.server.endpoint_url()),
                explicit_keys: Some(Keys {
                    origin: "the test".into(),
                    access_key_id: "AKIATEST".into(),
                    secret_access_key: "very-secret".to_owned().into(),
                    session_token: None,
                }),
                ..AwsSettings::default()
            },
            docker_config: DockerConfig::default(),
        }
    }

    /// An OCI layout of random layers of these sizes. The registry is under test here, not the reading of archives.
    pub fn layout(&self, name: &str, sizes: &[usize]) -> String {
        let path = self.folder.path().join(name);
        write_layout(&path, sizes);
        format!("oci:{}", path.display())
    }

    /// What was asked, by API operation.
    pub fn asked(&self, operation: &str) -> Vec<RecordedRequest> {
        self.server.requests().into_iter().filter(|request| request.operation == operation).collect()
    }

    /// Bytes of blobs that the server read.
    pub fn body_bytes(&self) -> u64 {
        let bodies =
            self.server.requests().into_iter().filter(|r| r.method == "PUT" && r.path.contains("/blobs/uploads/"));
        bodies.map(|request| request.body_bytes).sum()
    }

    /// The manifest digest under a tag.
    pub fn tag(&self, tag: &str) -> Option<String> {
        self.server.repository(APP)?.tags.get(tag).cloned()
    }
}

/// Pushes, and gives the log too.
pub async fn push_with_log(request: PushRequest) -> (Result<PushReport>, Vec<String>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let events = {
        let log = Arc::clone(&log);
        Events::new(move |event| {
            let line = match event {
                Event::Warning(text) => format!("warning: {text}"),
                Event::Notice(text) => text.to_string(),
                Event::Detail(text) => text,
                Event::Retrying { what, why, .. } => format!("retry {what}: {why}"),
                _ => return,
            };
            log.lock().unwrap().push(line);
        })
    };
    let result = push(request, events).await;
    let log = log.lock().unwrap().clone();
    (result, log)
}
