//! The store as a whole: which layers an image has, and where they are.
//!
//! Below the root directory of dockerd (moby's `layer/filestore.go`, `image/fs.go`, `daemon/graphdriver`):
//! * `image/<driver>/imagedb/content/sha256/<id>` is the config of an image.
//! * `image/<driver>/layerdb/sha256/<chain id>/` says what is known of a layer: `diff` is its diff id, `cache-id` where its
//!   files are, `tar-split.json.gz` how they make the tar. `size` is not that of the tar, but of the files.
//! * The files are where the driver has them.
//!
//! What is found is found by digest, so a store of another engine than the one that was asked does no harm.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::layer::Layer;
use super::tree::open_regular;
use crate::image::{DiffId, Digest};

const CONFIG_LIMIT: u64 = 8 << 20;

/// A digest, or the ID of a layer's directory, with room to spare.
const LINE_LIMIT: u64 = 256;

/// The store of a Docker engine on this machine.
#[derive(Clone, Debug)]
pub struct GraphStore {
    images: PathBuf,
    layers: PathBuf,
    files: PathBuf,
    /// Where a layer's files are in its directory.
    inside: &'static str,
}

impl GraphStore {
    /// The store below `root` that belongs to `driver`; `docker info` calls them `DockerRootDir` and `Driver`.
    ///
    /// # Errors
    /// If there is none that can be read. The message says why.
    pub fn open(root: &Path, driver: &str) -> io::Result<Self> {
        let (files, inside) = match driver {
            "overlay2" | "fuse-overlayfs" => (root.join(driver), "diff"),
            // Each directory has all that the layers below have, too, which does not matter: files are read by name.
            "vfs" => (root.join("vfs/dir"), ""),
            other => {
                let message = format!("the storage driver `{other}` is not one whose layers can be read");
                return Err(io::Error::new(io::ErrorKind::Unsupported, message));
            }
        };
        let image = root.join("image").join(driver);
        let (images, layers) = (image.join("imagedb/content/sha256"), image.join("layerdb/sha256"));
        for directory in [&images, &layers, &files] {
            fs::read_dir(directory).map_err(|error| unreadable(directory, &error))?;
        }
        Ok(Self { images, layers, files, inside })
    }

    /// The config of an image.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or is another.
    pub fn config(&self, digest: Digest) -> io::Result<Vec<u8>> {
        let path = self.images.join(digest.hex());
        let config = read(&path, CONFIG_LIMIT)?;
        if Digest::of(&config) != digest {
            return Err(damaged(&path, "does not have the digest that is its name"));
        }
        Ok(config)
    }

    /// The layers of an image, base first.
    ///
    /// # Errors
    /// If one is not there, or it is plain already that it cannot be read.
    pub fn layers(&self, diff_ids: &[DiffId]) -> io::Result<Vec<Layer>> {
        let chain_ids = DiffId::chain_ids(diff_ids);
        chain_ids.into_iter().zip(diff_ids).map(|(chain_id, diff_id)| self.layer(chain_id, *diff_id)).collect()
    }

    fn layer(&self, chain_id: Digest, diff_id: DiffId) -> io::Result<Layer> {
        let directory = self.layers.join(chain_id.hex());
        let path = directory.join("diff");
        if read_line(&path)? != diff_id.to_string() {
            return Err(damaged(&path, &format!("does not name the layer {diff_id}")));
        }
        let path = directory.join("cache-id");
        let cache_id = read_line(&path)?;
        // dockerd makes them of 32 random bytes, which look like a digest.
        if Digest::from_hex(&cache_id).is_err() {
            return Err(damaged(&path, "does not have 64 hex digits"));
        }
        let files = self.files.join(cache_id).join(self.inside);
        // Of the files, not of the tar: enough to tell large from small.
        let size_hint = read_line(&directory.join("size")).ok().and_then(|size| size.parse().ok()).unwrap_or(0);
        let layer = Layer { diff_id, size_hint, tar_split: directory.join("tar-split.json.gz"), files };
        layer.check()?;
        Ok(layer)
    }
}

fn read_line(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read(path, LINE_LIMIT)?).map_err(|_| damaged(path, "is not UTF-8"))?;
    Ok(text.trim().to_owned())
}

/// The content of a file that has no more than `limit` bytes.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_regular(path)
        .and_then(|(file, _)| file.take(limit + 1).read_to_end(&mut content))
        .map_err(|error| unreadable(path, &error))?;
    if content.len() as u64 > limit {
        return Err(damaged(path, &format!("has over {limit} bytes")));
    }
    Ok(content)
}

fn unreadable(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()))
}
