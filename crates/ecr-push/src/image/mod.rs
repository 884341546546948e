//! What an image is made of: digests, names, descriptors, manifests. Pure data, no input or output.

mod digest;
mod name;
mod platform;

pub use digest::{DiffId, Digest, Hasher};
pub use name::{AccountId, Region, RepositoryName, Tag};
pub use platform::Platform;
