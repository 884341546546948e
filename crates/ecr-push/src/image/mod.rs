//! What an image is made of: digests, names, descriptors, manifests. Pure data, no input or output.

mod digest;
mod manifest;
mod name;
mod platform;

pub use digest::{DiffId, Digest, Hasher};
pub use manifest::{Config, Descriptor, Entry, Kind, Manifest, MediaType, image_manifest, is_foreign_layer, reindex};
pub use name::{AccountId, Region, RepositoryName, Tag};
pub use platform::Platform;
