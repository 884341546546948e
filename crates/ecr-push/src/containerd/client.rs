//! The calls: version, content store, namespaces, images, blobs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::time::timeout;

use super::blob::Blob;
use super::connection::{Connection, Limits};
use super::failure::{Failure, NOT_FOUND};
use super::grpc::Answers;
use super::messages::{self, Image};
use super::{ContainerdImage, ContainerdSettings, name};
use crate::engine::near_names;
use crate::error::{Error, Result, Side};
use crate::image::Digest;
use crate::text;
use crate::text::{Setting, Text};

/// containerd's own, that of k3s and rke2, and that of a docker which starts its own containerd.
const SOCKETS: [&str; 3] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/run/docker/containerd/containerd.sock",
];
const DEFAULT_NAMESPACE: &str = "default";
const MOST_LISTED: usize = 10;

/// A reached containerd, and one of its namespaces. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Containerd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connection: Connection,
    namespace: String,
    description: String,
    /// The folder of the content store, as containerd names it.
    store: Option<PathBuf>,
}

impl Containerd {
    /// Reaches the containerd that `settings` names, or the first of the usual sockets that exists.
    ///
    /// # Errors
    /// If the address or namespace cannot be one (refused before any call), if there is no socket, or if the one that
    /// was named, or is the first there is, does not answer as containerd.
    pub async fn connect(settings: &ContainerdSettings) -> Result<Self> {
        Self::connect_within(settings, Limits::default()).await
    }

    pub(super) async fn connect_within(settings: &ContainerdSettings, limits: Limits) -> Result<Self> {
        let namespace = given(&settings.namespace).unwrap_or(DEFAULT_NAMESPACE);
        name::check_namespace(namespace)?;
        let path = match given(&settings.address) {
            Some(address) => parse_address(address)?,
            None => first_socket(settings)?,
        };
        let connection = Connection::new(path, limits);
        let version = connection.call(&messages::VERSION, namespace, Vec::new(), messages::version).await?;
        let version = if version.is_empty() { "of unknown version" } else { &version };
        let description = format!("containerd {version} at {}, namespace {namespace}", connection.origin());
        let store = store(&connection, namespace).await;
        Ok(Self(Arc::new(Inner { connection, namespace: namespace.to_owned(), description, store })))
    }

    /// containerd, its version, its address and the namespace, in one line.
    pub fn describe(&self) -> &str {
        &self.0.description
    }

    /// Resolves `name` to the image it means now: the store's own name, a name as Docker's users write it, a digest, a
    /// short digest.
    ///
    /// # Errors
    /// If it is unknown (near names or other namespaces are listed), an ambiguous short digest, or names what has no
    /// sha256 digest.
    pub async fn image(&self, name: &str) -> Result<ContainerdImage> {
        name::check(name)?;
        if let Some(image) = self.named(name, &self.0.namespace).await? {
            return self.described(image);
        }
        let images = self.0.connection.call(&messages::LIST_IMAGES, &self.0.namespace, Vec::new(), messages::images);
        let images = images.await?;
        if let Some(image) = with_digest(name, &images) {
            return self.described(image.clone());
        }
        match with_id(name, &images).as_slice() {
            [] => Err(self.unknown(name, &images).await),
            [one] => self.described((*one).clone()),
            several => Err(ambiguous(name, several)),
        }
    }

    /// The blob, if the namespace has it. Images that were pulled for one platform lack those of the others, and
    /// Kubernetes may drop layers once they are unpacked.
    ///
    /// # Errors
    /// If containerd cannot be asked.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Blob>> {
        let text = digest.to_string();
        let Inner { connection, namespace, .. } = &*self.0;
        match connection.call(&messages::INFO, namespace, messages::request(&text), messages::info).await {
            Ok((found, size)) if found == text => Ok(Some(Blob::new(self.clone(), *digest, size))),
            Ok((found, _)) => {
                let what = format!("it was asked for {text} and tells of `{}`", found.escape_debug());
                Err(Failure::new(connection.origin(), &messages::INFO).nonsense(&what))
            }
            Err(error) if error.code() == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder of the content store, as containerd names it.
    pub(super) fn store(&self) -> Option<&Path> {
        self.0.store.as_deref()
    }

    pub(super) async fn read(&self, digest: &Digest, offset: u64, len: u64) -> Result<Answers> {
        let request = messages::read_request(&digest.to_string(), offset, len);
        self.0.connection.stream(&messages::READ, &self.0.namespace, request).await
    }

    /// The image that has this name in `namespace`.
    async fn named(&self, name: &str, namespace: &str) -> Result<Option<Image>> {
        for candidate in name::candidates(name) {
            let request = messages::request(&candidate);
            match self.0.connection.call(&messages::GET_IMAGE, namespace, request, messages::images).await {
                // A name is free text: the digest in it need not be the image's.
                Ok(images) => {
                    return Ok(images.into_iter().find(|image| has_its_digest(&candidate, &image.target.digest)));
                }
                Err(error) if error.code() == Some(NOT_FOUND) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn described(&self, image: Image) -> Result<ContainerdImage> {
        let target = image.target;
        let digest = target.digest.parse().map_err(|error: Error| {
            let message = format!("the image `{}` of {} has no sha256 digest", image.name, self.describe());
            Error::new(Side::Source, messages::GET_IMAGE.operation, message).with_source(error)
        })?;
        Ok(ContainerdImage { name: image.name, media_type: target.media_type, digest, size: target.size })
    }

    async fn unknown(&self, name: &str, images: &[Image]) -> Error {
        let message = format!("there is no image `{name}` ({})", self.describe());
        let mut error = Error::new(Side::Source, messages::GET_IMAGE.operation, message).with_code(NOT_FOUND);
        let names: Vec<String> = images.iter().map(|image| image.name.clone()).collect();
        let near = near_names(name, &names);
        if !near.is_empty() {
            error = error.with_hint(format!("did you mean {}?", near.join(", ")));
        }
        // The error is complete without it.
        let elsewhere = timeout(self.0.connection.limits().call, self.elsewhere(name)).await;
        if let Ok(Ok(hint)) = elsewhere {
            error =
                if hint.names(Setting::ContainerdNamespace) { error.with_hint(hint) } else { error.with_note(hint) };
        }
        if !near.is_empty() {
            return error;
        }
        error.with_note(match names.len() {
            0 => "this namespace has no image".to_owned(),
            1 => "this namespace has one image, of another name".to_owned(),
            count => format!("this namespace has {count} images, none of a name like this"),
        })
    }

    /// Where the image may be instead: a user of Kubernetes easily forgets the namespace.
    async fn elsewhere(&self, name: &str) -> Result<Text> {
        let Inner { connection, namespace, .. } = &*self.0;
        let there = connection.call(&messages::NAMESPACES, namespace, Vec::new(), messages::namespaces).await?;
        for other in there.iter().filter(|other| *other != namespace).take(MOST_LISTED) {
            if self.named(name, other).await?.is_some() {
                return Ok(text![
                    format!("the namespace {other} has it: add "),
                    Setting::ContainerdNamespace.with(other)
                ]);
            }
        }
        let listed = listed(there.iter().map(String::as_str));
        Ok(if there.contains(namespace) {
            format!("namespaces there: {listed}").into()
        } else {
            format!("there is no namespace {namespace}; namespaces there: {listed}").into()
        })
    }
}

/// The folder of the content store. Its plugin tells; where it does not, the API is read from.
async fn store(connection: &Connection, namespace: &str) -> Option<PathBuf> {
    let request = messages::request("type==io.containerd.content.v1");
    let exports = connection.call(&messages::PLUGINS, namespace, request, messages::exports).await.ok()?;
    exports.into_iter().find_map(|mut exports| exports.remove("root")).map(PathBuf::from)
}

/// True unless the name has a digest that is another one.
fn has_its_digest(name: &str, digest: &str) -> bool {
    name.rsplit_once('@').is_none_or(|(_, named)| named.parse::<Digest>().is_err() || named == digest)
}

/// The image of `repository@digest`: such a name is stored only where it was pulled by it.
fn with_digest<'a>(name: &str, images: &'a [Image]) -> Option<&'a Image> {
    let (_, digest) = name.split_once('@')?;
    let full = name::full(name);
    let wanted = name::repository(&full);
    images.iter().find(|image| image.target.digest == digest && name::repository(&image.name) == wanted)
}

/// The images whose digest starts with the hex digits of `name`, one for each digest. Kubernetes names an image by its
/// config's digest too, which is what `crictl images` shows.
fn with_id<'a>(name: &str, images: &'a [Image]) -> Vec<&'a Image> {
    let Some(hex) = name::id(name) else { return Vec::new() };
    let answers = |text: &str| text.strip_prefix("sha256:").is_some_and(|digest| digest.starts_with(hex));
    let mut found: Vec<_> =
        images.iter().filter(|image| answers(&image.target.digest) || answers(&image.name)).collect();
    found.sort_by_key(|image| (&image.target.digest, image.name.starts_with("sha256:"), &image.name));
    found.dedup_by_key(|image| &image.target.digest);
    found
}

fn ambiguous(name: &str, images: &[&Image]) -> Error {
    let message = format!("the short digest `{name}` is ambiguous: {} images match", images.len());
    let error = Error::new(Side::Source, messages::GET_IMAGE.operation, message);
    let listed = images.iter().take(MOST_LISTED).map(|image| format!("{} ({})", image.target.digest, image.name));
    listed.fold(error.with_hint("give more digits of it"), Error::with_note)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.take(MOST_LISTED).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// A setting that says something.
fn given(setting: &Option<String>) -> Option<&str> {
    setting.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn parse_address(address: &str) -> Result<PathBuf> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    let message = format!("`{}` is not an address of containerd: `unix:///PATH` is expected", address.escape_debug());
    Err(Error::refused("find containerd", message))
}

fn first_socket(settings: &ContainerdSettings) -> Result<PathBuf> {
    let usual = || SOCKETS.iter().map(PathBuf::from).collect();
    let candidates = settings.candidates.clone().unwrap_or_else(usual);
    let absent = |path: &PathBuf| {
        path.metadata()
            .is_err_and(|error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
    };
    if let Some(path) = candidates.iter().find(|path| !absent(path)) {
        return Ok(path.clone());
    }
    let tried: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
    let message = format!("no containerd was found; there is no socket at {}", tried.join(", "));
    Err(Error::new(Side::Source, "find containerd", message)
        .with_hint(text!["start containerd, or name its socket with ", Setting::ContainerdAddress]))
}
