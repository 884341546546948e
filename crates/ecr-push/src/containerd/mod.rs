//! The image store of containerd through its gRPC API: finds an image in a namespace and reads its blobs.
//!
//! The API is small here: seven calls, of which one streams. So the messages are read and written by hand (`proto`,
//! `messages`) and gRPC is a header, a frame of five bytes and two trailers over h2 (`grpc`): no generated code, no
//! `protoc`. Field numbers and method names are those of containerd's `api/services/*/v1/*.proto`.

mod blob;
mod client;
mod connection;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod grpc;
mod messages;
mod name;
mod proto;

#[cfg(all(test, unix))]
pub(crate) mod fake;
#[cfg(all(test, unix))]
mod tests;

use std::path::PathBuf;

pub use blob::{Blob, BlobStream};
pub use client::Containerd;

use crate::image::Digest;

/// Which containerd, and what in it.
#[derive(Clone, Debug, Default)]
pub struct ContainerdSettings {
    /// `unix:///PATH`, or the path alone (`CONTAINERD_ADDRESS`, or the flag for it). Without it, the first of the usual
    /// sockets that exists.
    pub address: Option<String>,
    /// The namespace (`CONTAINERD_NAMESPACE`, or the flag for it). Without it, `default`, as ctr and nerdctl have it;
    /// Kubernetes keeps its images in `k8s.io`.
    pub namespace: Option<String>,
    /// Takes the place of the usual sockets.
    pub candidates: Option<Vec<PathBuf>>,
}

/// An image as containerd knows it, resolved once: a neighbour may move the name afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerdImage {
    /// Its name in the store, such as `docker.io/library/app:latest`.
    pub name: String,
    /// The media type of the manifest or index the name points at.
    pub media_type: String,
    /// The digest of that manifest or index.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}
