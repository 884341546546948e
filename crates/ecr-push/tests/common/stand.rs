//! A local ECR, an image to push into it, and the request for that.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use ecr_push::Result;
use ecr_push::aws::{AwsSettings, Keys};
use ecr_push::containerd::ContainerdSettings;
use ecr_push::engine::EngineSettings;
use ecr_push::events::{Event, Events};
use ecr_push::http::HttpSettings;
use ecr_push::image::Digest;
use ecr_push::push::{DestinationSpec, PushReport, PushRequest, ReuseSettings, push};
use ecr_push::registry::DockerConfig;
use ecr_push::source::Selection;
use local_ecr::{Config, LocalEcr, Mutability, RecordedRequest};
use std::sync::{Arc, Mutex};

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
                Event::Notice(text) | Event::Detail(text) => text,
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

/// Writes an image of random layers.
pub fn write_layout(path: &Path, sizes: &[usize]) -> PathBuf {
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest.to_string()
    };
    let mut state =
        path.display().to_string().bytes().fold(88_172_645_463_325_252_u64, |s, b| s.rotate_left(7) ^ u64::from(b));
    let mut layer = |size: usize| -> Vec<u8> {
        let next = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            state.to_le_bytes()
        };
        (0..size.div_ceil(8)).flat_map(|_| next(&mut state)).take(size).collect()
    };
    let mut diff_ids = Vec::new();
    let mut layers = Vec::new();
    for size in sizes {
        let digest = put(&layer(*size));
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size
        }));
        diff_ids.push(digest);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids }
    })
    .to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config.as_bytes()), "size": config.len()
        },
        "layers": layers,
    })
    .to_string();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(manifest.as_bytes()), "size": manifest.len()
        }],
    });
    std::fs::write(path.join("index.json"), index.to_string()).unwrap();
    std::fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    path.to_owned()
}
