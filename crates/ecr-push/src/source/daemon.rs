//! An image of a container engine, through its API.

use std::collections::HashSet;

use tokio::runtime::Handle;
use tokio_util::io::SyncIoBridge;

use super::archive::{Archive, Input, config_digest, root_digest};
use super::tar_index::Mode;
use super::{Contents, Image, LayerSink, Preview, Selection, Source, source_error};
use crate::engine::{Engine, EngineImage};
use crate::error::Result;
use crate::image::Digest;

/// An image of a container engine. The name was resolved to an ID once; a neighbour who moves the tag changes nothing.
pub struct DockerDaemon {
    engine: Engine,
    image: EngineImage,
    selection: Selection,
    runtime: Handle,
}

impl DockerDaemon {
    /// Resolves `name` on `engine`. Must be called within a tokio runtime, which the later export uses.
    ///
    /// # Errors
    /// If the engine has no such image, or cannot be asked.
    pub async fn open(engine: Engine, name: &str, selection: Selection) -> Result<Self> {
        let image = engine.inspect(name).await?;
        Ok(Self { engine, image, selection, runtime: Handle::current() })
    }

    /// What the engine says of the image.
    pub fn image(&self) -> &EngineImage {
        &self.image
    }

    /// How the log calls the engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Source for DockerDaemon {
    fn preview(&self) -> Preview {
        Preview {
            config_digest: self.image.config_digest,
            // With a selection another manifest than the engine's root may be pushed.
            root_digest: self.image.root_digest.filter(|_| self.selection.is_everything()),
            blobs: Vec::new(),
            // The containerd store describes one platform's image, and exports all that it has.
            layers: (!self.engine.has_containerd_store())
                .then(|| self.image.diff_ids.iter().collect::<HashSet<_>>().len()),
            contents: Contents { platforms: self.image.platform.iter().cloned().collect(), ..Contents::default() },
        }
    }

    fn read(self: Box<Self>, sink: &mut dyn LayerSink) -> Result<Image> {
        let preview = self.preview();
        let export = self.runtime.block_on(self.engine.export(&self.image.id))?;
        let containerd = self.engine.has_containerd_store();
        let archive = Archive {
            name: format!("the export of {} by {}", self.image.reference, self.engine.describe()),
            mode: if containerd { Mode::Oci } else { Mode::Docker },
            reference: None,
            input: Input::Stream {
                reader: Box::new(SyncIoBridge::new_with_handle(export, self.runtime.clone())),
                all_needed: !containerd || self.selection.is_everything(),
            },
            selection: self.selection,
        };
        let image = Box::new(archive).read(sink)?;
        let differs = |promised: Option<Digest>, exported: Option<Digest>| {
            promised.filter(|promised| exported != Some(*promised))
        };
        let other = differs(self.image.config_digest, config_digest(&image))
            .or_else(|| differs(preview.root_digest, root_digest(&image)));
        if let Some(promised) = other {
            return Err(source_error(
                "export image",
                format!("{} was asked for the image {promised}, but exported another one", self.engine.describe()),
            )
            .with_hint("push again; if it stays so, restart the engine"));
        }
        Ok(image)
    }
}
