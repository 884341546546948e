//! An image of a container engine: from the engine's own store if that is on this host and can be read, else through its API.
//!
//! What is read from a store is checked by its digest, like everything else, and nothing is ever written there. There is no lease on
//! it either: an image may be removed meanwhile. So a store is a short cut that may end anywhere, and then the engine is asked.

use std::collections::HashSet;
use std::io::{self, Read};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

#[cfg(unix)]
use super::OpenLayer;
use super::archive::{Archive, Input};
use super::layout::{Directory, deliver, preview_of};
use super::named::no_platform;
use super::select::{Blobs, Selected, from_root};
use super::tar_index::{Entries, Mode, Wanted};
use super::{Chosen, ConfigBlob, Contents, Image, LayerRef, LayerSink, Named, Preview, Selection, Source, StoredLayer};
use crate::engine::{Engine, EngineImage, Export, LocalStore};
use crate::error::Result;
use crate::image::{Config, Digest, Manifest, Platform};
#[cfg(unix)]
use crate::store::GraphStore;

/// An image of a container engine. The name was resolved to an ID once; a neighbour who moves the tag changes nothing.
pub struct DockerDaemon {
    engine: Engine,
    image: EngineImage,
    selection: Selection,
    runtime: Handle,
    door: Door,
    door_name: String,
    /// True if only the image's config says whether it is for the wanted platform.
    platform_open: bool,
}

/// Where the bytes come from.
enum Door {
    /// The layer store of a graph driver. The config is in hand already.
    #[cfg_attr(not(unix), expect(dead_code, reason = "only Unix has graph drivers"))]
    Graph { config: Bytes, layers: Vec<StoredLayer> },
    /// The blobs of a containerd content store.
    Content { directory: Directory, selected: Box<Selected> },
    /// The engine's export.
    Export,
}

impl DockerDaemon {
    /// Resolves `name` on `engine`. Must be called within a tokio runtime, which the later export uses. Without `use_store` the engine
    /// exports the image, wherever it is.
    ///
    /// # Errors
    /// If the engine has no such image, or cannot be asked.
    pub async fn open(engine: Engine, name: &str, selection: Selection, use_store: bool) -> Result<Self> {
        let image = engine.inspect(name).await?;
        let store = engine.local_store().filter(|_| use_store).cloned();
        let mut this = Self {
            engine,
            image,
            selection,
            runtime: Handle::current(),
            door: Door::Export,
            door_name: "the engine's export".to_owned(),
            platform_open: false,
        };
        let Some(store) = store else { return this.for_platform() };
        let found = match tokio::runtime::Handle::current().runtime_flavor() {
            tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(|| this.find_door(&store)),
            _ => this.find_door(&store),
        };
        match found {
            Ok((door, name)) => (this.door, this.door_name) = (door, name),
            Err(why) => this.door_name = format!("the engine's export ({why})"),
        }
        this.for_platform()
    }

    /// The same image, if it may be for the wanted platform. A classic store and Podman's have one platform for each name; what
    /// containerd's has is chosen when the index is read.
    fn for_platform(mut self) -> Result<Self> {
        let Some(wanted) = self.selection.platform.as_ref().filter(|_| !self.engine.has_containerd_store()) else {
            return Ok(self);
        };
        let (own, is_config) = match &self.door {
            Door::Graph { config, .. } => (
                Some(Config::parse(config)?).filter(|config| config.names_platform).map(|config| config.platform),
                true,
            ),
            _ => (self.image.platform.clone(), false),
        };
        // Some engines leave the variant out of their description.
        let fits =
            |own: &Platform| wanted.accepts(own) || !is_config && own.variant.is_none() && wanted.is_kind_of(own);
        match own {
            Some(own) if !fits(&own) => Err(no_platform(&self.image.reference, wanted, &[own]).with_hint(format!(
                "{} has this image for one platform: build or pull it for {wanted} first",
                self.engine.describe()
            ))),
            own => {
                self.platform_open = !own.is_some_and(|own| wanted.accepts(&own));
                Ok(self)
            }
        }
    }

    fn find_door(&self, store: &LocalStore) -> std::result::Result<(Door, String), String> {
        if self.engine.has_containerd_store() { self.content_door(store) } else { self.graph_door(store) }
    }

    #[cfg(not(unix))]
    fn graph_door(&self, store: &LocalStore) -> std::result::Result<(Door, String), String> {
        Err(format!("the {} store is not read on this system", store.driver))
    }

    #[cfg(unix)]
    fn graph_door(&self, store: &LocalStore) -> std::result::Result<(Door, String), String> {
        let digest = self.image.config_digest.ok_or("the engine does not name the image's config")?;
        let graph = GraphStore::open(&store.root, &store.driver).map_err(|error| error.to_string())?;
        let config = graph.config(digest).map_err(|error| error.to_string())?;
        let layers = graph.layers(&self.image.diff_ids).map_err(|error| error.to_string())?;
        let mut seen = HashSet::new();
        let stored = layers.into_iter().filter(|layer| seen.insert(layer.diff_id())).map(|layer| {
            let (diff_id, size) = (layer.diff_id(), layer.size_hint());
            let open: OpenLayer = Box::new(move || Ok(Box::new(layer.open()?)));
            StoredLayer { diff_id, size, name: "a layer of the engine's store".to_owned(), open }
        });
        let door = Door::Graph { config: config.into(), layers: stored.collect() };
        Ok((door, format!("the {} store at {}", store.driver, store.root.display())))
    }

    /// The content store is where dockerd's own containerd has it, or where a system's containerd has it. Blobs are found by digest, so
    /// a wrong place has none of them.
    fn content_door(&self, store: &LocalStore) -> std::result::Result<(Door, String), String> {
        let digest = self.image.root_digest.ok_or("the engine does not name the image's manifest")?;
        let places = [store.root.join("containerd/daemon"), "/var/lib/containerd".into()];
        let mut why = String::new();
        for place in places {
            let path = place.join("io.containerd.content.v1.content");
            let name = format!("the containerd content store at {}", path.display());
            let directory = Directory { path, name: name.clone() };
            let opened = directory.document(&digest).and_then(|bytes| Manifest::parse(bytes, None)).and_then(|root| {
                // The config says what a single image is for; engines leave a part of it out.
                from_root(&directory, root, None, &self.selection)
            });
            match opened {
                Ok(selected) => return Ok((Door::Content { directory, selected: Box::new(selected) }, name)),
                Err(error) if why.is_empty() => why = error.to_string(),
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// What the engine says of the image.
    pub fn image(&self) -> &EngineImage {
        &self.image
    }

    /// How the log calls the engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where the layers come from, and if that is not the fast way, why.
    pub fn door(&self) -> &str {
        &self.door_name
    }
}

impl Source for DockerDaemon {
    fn preview(&self) -> Preview {
        if let Door::Content { selected, .. } = &self.door {
            return preview_of(selected);
        }
        // Nothing may be found in the registry that is not known to be what is wanted.
        if self.platform_open {
            return Preview::default();
        }
        // The containerd store describes one platform's image, and exports all that it has.
        let is_classic = !self.engine.has_containerd_store();
        let diff_ids = if is_classic { self.image.diff_ids.clone() } else { Vec::new() };
        Preview {
            config_digest: self.image.config_digest,
            root_digest: self.named().root,
            manifests: Vec::new(),
            blobs: Vec::new(),
            layers: is_classic.then(|| diff_ids.iter().collect::<HashSet<_>>().len()),
            diff_ids,
            platform: self.image.platform.clone(),
            contents: Contents { platforms: self.image.platform.iter().cloned().collect(), ..Contents::default() },
        }
    }

    fn slower(&self) -> Option<Box<dyn Source>> {
        if matches!(self.door, Door::Export) {
            return None;
        }
        Some(Box::new(Self {
            engine: self.engine.clone(),
            image: self.image.clone(),
            selection: self.selection.clone(),
            runtime: self.runtime.clone(),
            door: Door::Export,
            door_name: "the engine's export".to_owned(),
            platform_open: self.platform_open,
        }))
    }

    fn read(mut self: Box<Self>, sink: &mut dyn LayerSink) -> Result<Chosen> {
        let image = match std::mem::replace(&mut self.door, Door::Export) {
            Door::Graph { config, layers } => {
                sink.layers(layers)?;
                self.assembled(config)?
            }
            Door::Content { directory, selected } => return deliver(&directory, *selected, sink),
            Door::Export if self.engine.has_containerd_store() || self.platform_open => self.read_stored(sink)?,
            Door::Export => self.read_export(sink)?,
        };
        Ok(Chosen { named: self.named(), image })
    }
}

impl DockerDaemon {
    /// What the engine resolved the name to. With a selection, another manifest than its root may go up.
    fn named(&self) -> Named {
        Named {
            root: self.image.root_digest.filter(|_| self.selection.is_everything()),
            config: self.image.config_digest,
            platform: self.selection.platform.clone(),
        }
    }

    /// The image of a classic store whose layers have all been delivered, or need not be.
    fn assembled(&self, config: Bytes) -> Result<Image> {
        let parsed = Config::parse(&config)?;
        let layers = parsed.diff_ids.iter().map(|diff_id| LayerRef::Uncompressed(*diff_id)).collect();
        let Config { diff_ids, platform, .. } = parsed;
        Ok(Image::Layers { config: ConfigBlob::Bytes(config), diff_ids, layers, platform })
    }

    /// Reads the export of a classic store, of which everything but the layers' bytes is known beforehand.
    fn read_export(&self, sink: &mut dyn LayerSink) -> Result<Image> {
        let Some(digest) = self.image.config_digest else { return self.read_stored(sink) };
        let diff_ids = &self.image.diff_ids;
        let needed = sink.needed(diff_ids);
        if needed.is_empty()
            && let Some(platform) = self.image.platform.clone()
            && let Some(size) = sink.config_there(&digest)
        {
            let layers = diff_ids.iter().map(|diff_id| LayerRef::Uncompressed(*diff_id)).collect();
            let config = ConfigBlob::There { digest, size };
            return Ok(Image::Layers { config, diff_ids: diff_ids.clone(), layers, platform });
        }
        let (name, export) = self.export()?;
        let mut wanted = Wanted::new(diff_ids, needed, &digest);
        let entries = Entries::of_stream(export, &name, Mode::Docker, Some(&mut wanted), sink)?;
        if wanted.is_all()
            && let Some(config) = wanted.config(&entries, &name)?.filter(|config| Digest::of(config) == digest)
        {
            return self.assembled(config);
        }
        let found = super::archive::find(&entries, &name, Mode::Docker, None, &self.selection)?;
        Ok(found.deliver(&entries, &name, sink)?.image)
    }

    /// Reads the export of a containerd store, whose manifests come with it.
    fn read_stored(&self, sink: &mut dyn LayerSink) -> Result<Image> {
        let (name, export) = self.export()?;
        let containerd = self.engine.has_containerd_store();
        let archive = Archive {
            name,
            mode: if containerd { Mode::Oci } else { Mode::Docker },
            // Whatever else the export holds.
            reference: self.image.root_digest.filter(|_| containerd).map(|root| root.to_string()),
            input: Input::Stream {
                reader: Box::new(export),
                all_needed: self.selection.is_everything() || !containerd && !self.platform_open,
            },
            selection: self.selection.clone(),
        };
        Ok(Box::new(archive).read(sink)?.image)
    }

    fn export(&self) -> Result<(String, ReadAhead)> {
        let export = self.runtime.block_on(self.engine.export(&self.image.id))?;
        let name = format!("the export of {} by {}", self.image.reference, self.engine.describe());
        Ok((name, ReadAhead::start(export, &self.runtime)))
    }
}

/// Bytes that the engine sends at a time, and how many of these pieces are taken in ahead of the reader.
const PIECE: usize = 256 * 1024;
const PIECES_AHEAD: usize = 8;

/// Reads an export ahead of whoever hashes and compresses it, so that the engine need not wait for either.
struct ReadAhead {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
    _reading: AbortOnDropHandle<()>,
}

impl ReadAhead {
    fn start(export: Export, runtime: &Handle) -> Self {
        let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
        let mut stream = ReaderStream::with_capacity(export, PIECE);
        let reading = runtime.spawn(async move {
            while let Some(piece) = stream.next().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        Self { pieces, rest: Bytes::new(), _reading: AbortOnDropHandle::new(reading) }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.rest.len());
        buffer[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}
