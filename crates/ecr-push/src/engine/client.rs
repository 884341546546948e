//! The calls: version, info, inspect, list, export.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::errors::Error as BollardError;
use bollard::models::{ImageInspect, ImageSummary, SystemVersion};
use bollard::query_parameters::{ListImagesOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;

use super::endpoint::{self, Address, Endpoint};
use super::export::Export;
use super::failure::{chain, failed, within};
use super::name::{self, Name};
use super::transport::Transport;
use super::{EngineImage, EngineSettings, LocalStore};
use crate::error::{Error, Result, Side};
use crate::image::{DiffId, Digest, Platform};
use crate::text::count;

/// bollard's own limit, up to the response's headers: an export's come when the engine has staged the image. The other
/// calls have ours, which covers the body too.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// So many pings in a row have to go without an answer before an engine is given up that is silent in the middle of an export.
const PINGS: usize = 2;
const LARGEST_INFO: usize = 16 << 20;
const MOST_LISTED: usize = 10;

/// A reached engine.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    origin: String,
    description: String,
    containerd_store: bool,
    local: Option<LocalStore>,
    limits: Limits,
}

/// What tests make shorter.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub connect: Duration,
    pub call: Duration,
    pub remove: Duration,
    /// How long an export may be silent before the engine is asked whether it is still there.
    pub silence: Duration,
    /// How long an engine that answers pings may be silent between two pieces of an export.
    pub pause: Duration,
    pub ssh_program: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(30),
            remove: Duration::from_secs(120),
            silence: Duration::from_secs(30),
            // The whole image is on the engine's disk by then, or is read from there piece by piece.
            pause: Duration::from_secs(600),
            ssh_program: "ssh".to_owned(),
        }
    }
}

impl Engine {
    /// Finds and reaches the engine that the docker CLI would use; where nothing names one, the first of the usual
    /// sockets that exists.
    ///
    /// # Errors
    /// If the named engine, or the first socket there is, does not answer (the next one is not tried: it may hold
    /// another image of the same name), or if there is no socket at all.
    pub async fn connect(settings: &EngineSettings) -> Result<Self> {
        Self::connect_within(settings, Limits::default()).await
    }

    pub(super) async fn connect_within(settings: &EngineSettings, limits: Limits) -> Result<Self> {
        let wanted = settings.api_version.as_deref().map(str::trim).filter(|version| !version.is_empty());
        let wanted = wanted.map(parse_version).transpose()?;
        if let Some(endpoint) = endpoint::chosen(settings)? {
            return Self::open(endpoint, settings, wanted, limits).await;
        }
        let mut absent = Vec::new();
        for path in endpoint::candidates(settings) {
            match look(&path) {
                None => return Self::open(Endpoint::local(&path), settings, wanted, limits).await,
                Some(reason) => absent.push(format!("{}: {reason}", path.display())),
            }
        }
        let error = Error::new(
            Side::Source,
            "find engine",
            format!("no container engine was found; tried {}", absent.join("; ")),
        );
        Err(error
            .with_hint("start an engine, or name it with DOCKER_HOST or a docker context")
            .with_hint("`docker-archive:FILE` and `oci:DIR` are pushed without an engine"))
    }

    /// The engine, its version, its store and its address, in one line.
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// True if images are kept in containerd's store, where an image's ID is a manifest digest and layers are
    /// exported as they are stored.
    pub fn has_containerd_store(&self) -> bool {
        self.containerd_store
    }

    /// Where the engine keeps its images, if it is on this host. Nothing says that this process may read there.
    pub fn local_store(&self) -> Option<&LocalStore> {
        self.local.as_ref()
    }

    /// Resolves `name` (`name`, `name:tag`, `name@digest`, an ID or a short ID) to the image it means now.
    ///
    /// # Errors
    /// If the name is outside the grammar (refused before any call), unknown (near names are listed) or an ambiguous
    /// short ID (the images are listed).
    pub async fn inspect(&self, name: &str) -> Result<EngineImage> {
        let parsed = Name::parse(name)?;
        let found = match self.inspect_path(&parsed.request()).await {
            Ok(found) => found,
            Err(error) if error.status() == Some(404) || (parsed.id().is_some() && error.status().is_some()) => {
                self.explain_missing(name, &parsed, error).await?
            }
            Err(error) => return Err(error),
        };
        let digests: HashSet<String> = (found.repo_digests.iter().flatten())
            .filter_map(|name| Some(name.rsplit_once('@')?.1.to_owned()))
            .collect();
        let image = self.image(name, &parsed, found)?;
        let answers = |hex: &str| image.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex));
        if parsed.is_certainly_id() && !parsed.id().is_some_and(answers) {
            // A repository whose name looks like the short ID.
            return Err(unknown(name, self));
        }
        // An engine that answers with another image than the one of this digest.
        if parsed
            .digest()
            .is_some_and(|digest| !digests.contains(&digest.to_string()) && image.id != digest.to_string())
        {
            return Err(unknown(name, self));
        }
        Ok(image)
    }

    /// The engine's tar of the image `id` (an [`EngineImage::id`]). It returns with the first bytes, for which there is
    /// no time-out: many engines write the whole image to disk first. An engine that is silent has to answer a ping, though, and must
    /// not stop for ten minutes once it has begun. An end
    /// before the tar's own end is an [`io::Error`], never a short read.
    ///
    /// # Errors
    /// If the engine refuses before the first byte, or is not there any more.
    pub async fn export(&self, id: &str) -> Result<Export> {
        const OPERATION: &str = "export image";
        let mut body = self.docker.export_image(&Name::parse(id)?.request());
        let first = match self.while_alive(body.next(), Duration::MAX).await? {
            Some(Ok(first)) => first,
            Some(Err(error)) => return Err(failed(OPERATION, &self.origin, error)),
            None => Bytes::new(),
        };
        let rest = stream::unfold(Some((self.clone(), body)), |state| async {
            let (engine, mut body) = state?;
            match engine.while_alive(body.next(), engine.limits.pause).await {
                Ok(Some(chunk)) => Some((chunk.map_err(|error| io::Error::other(chain(&error))), Some((engine, body)))),
                Ok(None) => None,
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        });
        Ok(Export::new(stream::iter([Ok(first)]).chain(Box::pin(rest))))
    }

    /// Waits for the next piece of an export as long as the engine answers pings meanwhile, and no longer than `most`.
    async fn while_alive<T>(&self, piece: impl Future<Output = T>, most: Duration) -> Result<T> {
        let mut piece = std::pin::pin!(piece);
        let mut unanswered = 0;
        let started = Instant::now();
        loop {
            if let Ok(piece) = tokio::time::timeout(self.limits.silence, piece.as_mut()).await {
                return Ok(piece);
            }
            if started.elapsed() >= most {
                let text =
                    format!("{} answers, and has sent nothing of the export for {} s", self.origin, most.as_secs());
                return Err(
                    Error::new(Side::Source, "export image", text).with_hint("restart the engine, and push again")
                );
            }
            let ping = within(self.limits.call, "export image", &self.origin, self.docker.ping());
            let answer = tokio::select! {
                piece = piece.as_mut() => return Ok(piece),
                answer = ping => answer,
            };
            match answer {
                // Somebody on the way may let no ping through.
                Err(error) if error.status().is_none() => {
                    unanswered += 1;
                    if unanswered == PINGS {
                        return Err(error);
                    }
                }
                _ => unanswered = 0,
            }
        }
    }

    /// Gives the image `id` (an [`EngineImage::id`]) the name `repository:tag`. A name that means another image moves.
    ///
    /// # Errors
    /// If the engine has no such image any more, or refuses the name.
    pub async fn tag(&self, id: &str, repository: &str, tag: &str) -> Result<()> {
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        let call = self.docker.tag_image(id, Some(options));
        within(self.limits.call, "tag image", &self.origin, call).await
    }

    /// Removes `name`, and with an image's last name the image; `name` may be an ID. Never by force. Answers false if there
    /// is no such name.
    ///
    /// # Errors
    /// If the name is outside the grammar, or the engine refuses: a container uses the image, or it has more names than
    /// the ID that was given may remove.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        let request = Name::parse(name)?.request();
        let call = self.docker.remove_image(&request, None::<RemoveImageOptions>, None);
        // The engine deletes the layers before it answers.
        match within(self.limits.remove, "remove image", &self.origin, call).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn open(
        endpoint: Endpoint,
        settings: &EngineSettings,
        wanted: Option<(usize, usize)>,
        limits: Limits,
    ) -> Result<Self> {
        const OPERATION: &str = "reach engine";
        let transport = Transport::new(endpoint, limits.connect, &limits.ssh_program, &settings.variables)?;
        let transport = Arc::new(transport);
        let endpoint = transport.endpoint();
        let origin = match &endpoint.chosen_by {
            None => endpoint.text.clone(),
            Some(chosen_by) => format!("{} (from {chosen_by})", endpoint.text),
        };
        let callback = {
            let transport = transport.clone();
            move |request: BollardRequest| transport.clone().send(request)
        };
        let docker = Docker::connect_with_custom_transport(
            callback,
            Some("http://docker"),
            NO_TIMEOUT.as_secs(),
            API_DEFAULT_VERSION,
        )
        .map_err(|error| failed(OPERATION, &origin, error))?;

        let version = within(limits.call, OPERATION, &origin, docker.version()).await?;
        transport.set_version(&match wanted {
            Some((major, minor)) => format!("{major}.{minor}"),
            None => negotiated(&version),
        });
        let info = within(limits.call, OPERATION, &origin, info(transport.clone())).await.map_err(|error| {
            match (wanted, error.status()) {
                (Some(_), Some(400)) => {
                    let most = version.api_version.as_deref().unwrap_or("an older one");
                    error.with_hint(format!("unset DOCKER_API_VERSION; this engine's newest is {most}"))
                }
                _ => error,
            }
        })?;
        Ok(Self::described(docker, origin, transport.endpoint(), limits, &version, &info))
    }

    /// The engine that said this of itself.
    pub(super) fn described(
        docker: Docker,
        origin: String,
        endpoint: &Endpoint,
        limits: Limits,
        version: &SystemVersion,
        info: &Info,
    ) -> Self {
        // Only a unix socket is on this host for certain; a forwarded one leads to a folder that is missing or fails its checks.
        let is_unix = matches!(endpoint.address, Address::Unix(_));
        let local = match (&info.docker_root_dir, &info.driver) {
            (Some(root), Some(driver)) if is_unix && Path::new(root).is_absolute() && is_word(driver) => {
                Some(LocalStore { root: root.into(), driver: driver.clone() })
            }
            _ => None,
        };
        Self {
            docker,
            local,
            description: format!("{} at {}", product(version, info), endpoint.text),
            origin,
            containerd_store: info.has_containerd_store(),
            limits,
        }
    }

    async fn inspect_path(&self, name: &str) -> Result<ImageInspect> {
        within(self.limits.call, "inspect image", &self.origin, self.docker.inspect_image(name)).await
    }

    /// After the engine did not know `name`: an ambiguous short ID (engines answer 404), or near names.
    async fn explain_missing(&self, text: &str, name: &Name, error: Error) -> Result<ImageInspect> {
        // Every intermediate image counts when a short ID is looked up.
        let options = ListImagesOptionsBuilder::default().all(name.id().is_some()).build();
        let list = self.docker.list_images(Some(options));
        let images = match within(self.limits.call, "list images", &self.origin, list).await {
            Ok(images) => images,
            // The engine's own answer says more than the failed explanation.
            Err(_) => return Err(error),
        };
        let id = self.explain(text, name, &images, error)?;
        self.inspect_path(&Name::parse(&id)?.request()).await
    }

    /// The ID of the one image among `images` that `name` can mean after all.
    ///
    /// # Errors
    /// If there is none, or are several.
    pub(super) fn explain(&self, text: &str, name: &Name, images: &[ImageSummary], error: Error) -> Result<String> {
        if let Some(hex) = name.id() {
            let matches: Vec<_> = images
                .iter()
                .filter(|image| image.id.strip_prefix("sha256:").unwrap_or(&image.id).starts_with(hex))
                .collect();
            match matches.as_slice() {
                [] => {}
                [one] => return Ok(one.id.clone()),
                several => {
                    let message = format!("the short ID `{text}` is ambiguous: {} images match", several.len());
                    let error = Error::new(Side::Source, "inspect image", message);
                    let listed = several.iter().take(MOST_LISTED).map(|image| {
                        let names = image.repo_tags.join(", ");
                        format!("{} ({})", image.id, if names.is_empty() { "no name" } else { &names })
                    });
                    return Err(listed.fold(error.with_hint("give more digits of it"), Error::with_note));
                }
            }
        }
        if error.status() != Some(404) {
            return Err(error);
        }
        let tags = images.iter().flat_map(|image| image.repo_tags.clone());
        let names: Vec<String> = tags.filter(|tag| !tag.contains("<none>")).collect();
        let near = name::near(name, &names);
        let error = unknown(text, self).with_status(404);
        Err(if !near.is_empty() {
            error.with_hint(format!("did you mean {}?", near.join(", ")))
        } else if names.is_empty() {
            error.with_hint("the engine has no named image; was the image built on another engine or builder?")
        } else {
            let named = count(names.len(), "named image", "named images");
            error
                .with_hint("look at `docker images`, or build the image on this engine")
                .with_note(format!("the engine has {named}, none of a name like this"))
        })
    }

    pub(super) fn image(&self, text: &str, name: &Name, found: ImageInspect) -> Result<EngineImage> {
        let strange = |what: &str| {
            let message = format!("the engine's description of `{text}` has {what}");
            Error::new(Side::Source, "inspect image", message)
                .with_note(format!("it was given by {}", self.description))
        };
        let id = found.id.ok_or_else(|| strange("no ID"))?;
        // Podman leaves the algorithm out in places.
        let id = if id.contains(':') { id } else { format!("sha256:{id}") };
        let digest: Digest = id.parse().map_err(|_| strange("an ID that is no sha256 digest"))?;
        let layers = found.root_fs.and_then(|root| root.layers).unwrap_or_default();
        let diff_ids: Vec<DiffId> = layers
            .iter()
            .map(|layer| layer.parse().map(DiffId))
            .collect::<Result<_>>()
            .map_err(|_| strange("a layer that is no sha256 digest"))?;
        let names: Vec<String> = found.repo_tags.unwrap_or_default();
        let meant_id = name.is_certainly_id()
            || name.id().is_some_and(|hex| digest.hex().starts_with(hex) && !names.iter().any(|full| name.is(full)));
        let platform = match (found.os.as_deref(), found.architecture.as_deref()) {
            (Some(os), Some(architecture)) if !os.is_empty() && !architecture.is_empty() => {
                Some(Platform::new(os, architecture, found.variant.as_deref()))
            }
            _ => None,
        };
        Ok(EngineImage {
            by_id: meant_id,
            reference: if meant_id { text.to_owned() } else { name.with_tag() },
            config_digest: (!self.containerd_store).then_some(digest),
            root_digest: self.containerd_store.then_some(digest),
            diff_ids,
            size: found.size.and_then(|size| size.try_into().ok()).unwrap_or(0),
            names,
            platform,
            id,
        })
    }
}

/// True for a name that cannot lead out of a folder.
fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The few fields of `/info` that count. By hand, because bollard's type has closed enums (cgroup driver, isolation)
/// and so fails on an engine that is newer than it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Info {
    driver: Option<String>,
    driver_status: Option<Vec<Vec<String>>>,
    docker_root_dir: Option<String>,
}

impl Info {
    fn has_containerd_store(&self) -> bool {
        self.driver_status.iter().flatten().any(|row| {
            matches!(row.as_slice(), [key, value] if key == "driver-type" && value == "io.containerd.snapshotter.v1")
        })
    }
}

async fn info(transport: Arc<Transport>) -> std::result::Result<Info, BollardError> {
    let request = http::Request::get("/info").body(bollard::body_full(Bytes::new()))?;
    let response = transport.send(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_INFO).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes();
    if status.is_success() {
        return Ok(serde_json::from_slice(&body)?);
    }
    #[derive(Deserialize)]
    struct Answer {
        message: String,
    }
    let answer = serde_json::from_slice::<Answer>(&body).map(|answer| answer.message);
    Err(BollardError::DockerResponseServerError {
        status_code: status.as_u16(),
        message: answer.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned()),
    })
}

/// Why there is no engine at `path`, or `None` if there is one to be asked.
fn look(path: &Path) -> Option<String> {
    let error = std::fs::metadata(path).err()?;
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Some(match std::fs::read_link(path) {
            Ok(target) => format!("a link to {}, which does not exist", target.display()),
            Err(_) => "does not exist".to_owned(),
        }),
        // A folder on the way is closed to us (rootful podman's, to everyone but root): nothing says there is a socket.
        io::ErrorKind::PermissionDenied if !endpoint::is_pipe(path) => {
            Some("its folder may not be searched".to_owned())
        }
        _ => None,
    }
}

fn parse_version(text: &str) -> Result<(usize, usize)> {
    let bare = text.strip_prefix('v').unwrap_or(text);
    let parts = bare.split_once('.').map(|(major, minor)| (major.parse(), minor.parse()));
    match parts {
        Some((Ok(major), Ok(minor))) => Ok((major, minor)),
        _ => Err(Error::refused(
            "find engine",
            format!("DOCKER_API_VERSION is `{text}`, which is not a version such as `1.41`"),
        )),
    }
}

/// The lower of the engine's newest version and the newest this client knows.
pub(super) fn negotiated(version: &SystemVersion) -> String {
    let ours = (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);
    let theirs = version.api_version.as_deref().and_then(|text| parse_version(text).ok());
    let (major, minor) = theirs.map_or(ours, |theirs| theirs.min(ours));
    format!("{major}.{minor}")
}

fn product(version: &SystemVersion, info: &Info) -> String {
    let number = version.version.as_deref().unwrap_or("of unknown version");
    let mut components = version.components.iter().flatten();
    if let Some(podman) = components.find(|component| component.name.starts_with("Podman")) {
        return format!("Podman {}", podman.version);
    }
    let store = match (&info.driver, info.has_containerd_store()) {
        (Some(driver), true) => format!(" (containerd store, {driver})"),
        (Some(driver), false) => format!(" ({driver})"),
        (None, _) => String::new(),
    };
    format!("Docker {number}{store}")
}

fn unknown(text: &str, engine: &Engine) -> Error {
    let message = format!("the engine has no image `{text}` ({})", engine.description);
    Error::new(Side::Source, "inspect image", message)
}
