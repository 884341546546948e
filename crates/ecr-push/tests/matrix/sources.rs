//! The sources of the matrix: archives and answers of real engines, and one layout with layers of some size.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ecr_push::engine::EngineSettings;
use ecr_push::push::PushRequest;
use local_ecr::{Config, Key, Mutability};

use crate::common::recorded as file;
use crate::recorded::{serve, with_content_store};
use crate::stand::{APP, Stand, push_with_log, write_layout};

/// Where an image comes from.
pub struct Source {
    /// What the table calls it.
    pub name: &'static str,
    image: String,
    socket: Option<PathBuf>,
    /// An archive that comes through a pipe.
    piped: Option<PathBuf>,
}

/// What a push of it is like when nothing goes wrong.
#[derive(Clone, Debug)]
pub struct Clean {
    pub digest: String,
    /// Bytes of all blobs.
    pub bytes: u64,
    /// Bytes of the largest.
    pub largest: u64,
    /// How many manifests are put, the two tags included.
    pub manifests: usize,
}

impl Source {
    /// All of them; what they need is put into `folder`.
    pub fn all(folder: &Path) -> Vec<Self> {
        let archive = |name, kind: &str, path: &str| Self {
            name,
            image: format!("{kind}:{}", file(path).display()),
            socket: None,
            piped: None,
        };
        let layout = write_layout(&folder.join("layout"), &[700_000, 300_000, 40_000]);
        let engine = |name, engine: &'static str, image: &'static str| {
            let socket = folder.join(name).join("s");
            std::fs::create_dir_all(folder.join(name)).unwrap();
            serve(&socket, engine, image);
            Self { name, image: format!("{image}:1"), socket: Some(socket), piped: None }
        };
        let store = "content store, 28.5";
        std::fs::create_dir_all(folder.join(store)).unwrap();
        with_content_store(&folder.join(store), "docker-28.5-containerd", "two");
        vec![
            Self { name: "OCI layout", image: format!("oci:{}", layout.display()), socket: None, piped: None },
            archive("skopeo oci-archive", "oci-archive", "skopeo-1.9/oci-archive.tar"),
            archive("podman save", "docker-archive", "podman-4.3/save-two.tar"),
            archive("docker save, gzipped", "docker-archive", "docker-20.10-overlay2/save-two.tar.gz"),
            engine("engine, 20.10", "docker-20.10-overlay2", "two"),
            engine("engine, 28.5 index", "docker-28.5-containerd", "multi"),
            engine("engine, podman", "podman-4.3", "two"),
            Self { name: store, image: "two:1".into(), socket: Some(folder.join(store).join("s")), piped: None },
            // What standard input is: it comes once, and cannot be read again.
            Self {
                name: "podman save, piped",
                image: String::new(),
                socket: None,
                piped: Some(file("podman-4.3/save-two.tar")),
            },
        ]
    }

    /// A registry with one key, and with TLS if asked for.
    pub async fn stand(&self, tls: bool) -> Stand {
        let key = Key {
            access_key_id: "AKIATEST".into(),
            secret_access_key: "very-secret".into(),
            user: "arn:aws:iam::123456789012:user/ci".into(),
        };
        let tls = tls.then(local_ecr::Tls::default);
        let stand = Stand::bare(Config { keys: vec![key], tls, ..Config::default() }).await;
        stand.server.create_repository(APP, Mutability::mutable()).unwrap();
        stand
    }

    /// The push of this image as `v1` and `latest`.
    pub fn request(&self, stand: &Stand) -> PushRequest {
        let image = match &self.piped {
            Some(archive) => format!("docker-archive:{}", piped(archive, stand.folder.path()).display()),
            None => self.image.clone(),
        };
        let mut request = stand.request(&image);
        request.tags.push("latest".parse().unwrap());
        request.retry_budget = Duration::from_secs(8);
        if let Some(socket) = &self.socket {
            let host = Some(format!("unix://{}", socket.display()));
            request.engine = EngineSettings { host, ..EngineSettings::default() };
        }
        if let Some(pem) = stand.server.ca_pem() {
            let ca = stand.folder.path().join("ca.pem");
            std::fs::write(&ca, pem).unwrap();
            request.http.ca_files = vec![ca];
            let real = stand.server.registry_host();
            let (host, port) = real.split_once(':').unwrap_or((&real, "443"));
            let address = stand.server.address();
            request.http.connect_to = vec![format!("{host}:{port}:127.0.0.1:{}", address.port()).parse().unwrap()];
        }
        request
    }

    /// Pushes without a fault.
    pub async fn clean(&self) -> Clean {
        let stand = self.stand(false).await;
        let (report, log) = push_with_log(self.request(&stand)).await;
        let report = report.unwrap_or_else(|error| panic!("{}: {error:?} {log:?}", self.name));
        let uploads = stand.asked("CompleteLayerUpload");
        Clean {
            digest: report.digest.to_string(),
            bytes: stand.body_bytes(),
            largest: uploads.iter().map(|upload| upload.body_bytes).max().unwrap(),
            manifests: stand.asked("PutImage").len(),
        }
    }
}

/// A named pipe in `folder` that an archive comes through, once.
fn piped(archive: &Path, folder: &Path) -> PathBuf {
    let pipe = folder.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let (archive, end) = (archive.to_owned(), pipe.clone());
    // It ends with its reader; a push that never reads leaves it waiting for one, until the test ends.
    std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(end)?;
        std::io::copy(&mut std::fs::File::open(archive)?, &mut pipe)
    });
    pipe
}
