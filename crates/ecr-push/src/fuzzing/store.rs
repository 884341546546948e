//! A graph driver's store in which the files of one layer are not what they should be.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::parts;
use super::recipe::gzip;
use crate::image::{DiffId, Digest};
use crate::store::GraphStore;

/// More is not read: a line may be repeated for ever.
const MOST: u64 = 4 << 20;

/// What lies beside the layer, and must never be in it. That a segment spells it by chance is out of the question.
const SECRET: &[u8] = b"-- outside of the layer --";

/// The layer's files. Seeds name them.
pub(super) const FILES: [(&str, &[u8]); 4] =
    [("a", b"content"), ("dir/b", b""), ("dir/sub/c", b"another content"), ("secret", b"inside of the layer")];

struct Store {
    root: TempDir,
    layer: PathBuf,
    diff_id: DiffId,
}

thread_local! {
    static STORE: Store = Store::new().expect("the temporary folder can be written");
}

impl Store {
    fn new() -> io::Result<Self> {
        let root = TempDir::new()?;
        let diff_id = DiffId(Digest::of(b"layer"));
        let layer = root.path().join("image/overlay2/layerdb/sha256").join(diff_id.0.hex());
        fs::create_dir_all(&layer)?;
        fs::create_dir_all(root.path().join("image/overlay2/imagedb/content/sha256"))?;
        let files = root.path().join("overlay2").join(Self::cache_id()).join("diff");
        for (name, content) in FILES {
            let path = files.join(name);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, content)?;
        }
        fs::write(root.path().join("secret"), SECRET)?;
        for (link, target) in [("link", "../../../secret"), ("up", "../../.."), ("dir/link", "../a")] {
            std::os::unix::fs::symlink(target, files.join(link))?;
        }
        Ok(Self { root, layer, diff_id })
    }

    fn cache_id() -> String {
        "ab".repeat(32)
    }

    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.layer.join(name), content).expect("the temporary file can be written");
    }
}

/// Reads layers. The first byte chooses what the rest is: the lines of `tar-split.json.gz` before compression or after it; or the files
/// `diff`, `cache-id` and `size`, and the image's config.
pub fn tar_split(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    STORE.with(|store| {
        let sound = (store.diff_id.to_string(), Store::cache_id());
        let mut files = [sound.0.as_bytes(), sound.1.as_bytes(), b"7"].map(<[u8]>::to_vec);
        let mut config = Vec::new();
        let line = format!("{{\"type\":2,\"payload\":\"{}\"}}\n", "AAAA");
        let tar_split = match first & 3 {
            0 | 1 => gzip(rest),
            2 => rest.to_vec(),
            _ => {
                let mut parts = parts(rest).map(<[u8]>::to_vec);
                files.iter_mut().for_each(|file| *file = parts.next().unwrap_or_default());
                config = parts.next().unwrap_or_default();
                gzip(line.as_bytes())
            }
        };
        let [diff, cache_id, size] = &files;
        store.put("diff", diff);
        store.put("cache-id", cache_id);
        store.put("size", size);
        store.put("tar-split.json.gz", &tar_split);
        let graph = GraphStore::open(store.root.path(), "overlay2").expect("the store is there");
        if first & 3 == 3 {
            check_config(&graph, store.root.path(), &config);
        }
        let Ok(layers) = graph.layers(&[store.diff_id]) else { return };
        let [layer] = layers.as_slice() else { panic!("one layer was asked for") };
        assert_eq!(layer.diff_id(), store.diff_id, "no other layer is given");
        let whole = read(layer, 1 << 16);
        let in_pieces = read(layer, 7);
        assert_eq!(whole, in_pieces, "it does not matter how it is read");
        let bytes = whole.unwrap_or_default();
        assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET), "nothing leads out of the layer");
    });
}

fn read(layer: &crate::store::Layer, piece: usize) -> Option<Vec<u8>> {
    let mut reader = layer.open().ok()?.take(MOST);
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; piece]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Some(bytes),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(_) => {
                let again = reader.into_inner().read(&mut buffer);
                assert!(again.is_err(), "what has failed stays so");
                return None;
            }
        }
    }
}

fn check_config(graph: &GraphStore, root: &Path, config: &[u8]) {
    let digest = Digest::of(config);
    let path = root.join("image/overlay2/imagedb/content/sha256").join(digest.hex());
    fs::write(&path, config).expect("the temporary file can be written");
    assert_eq!(graph.config(digest).expect("it is there"), config);
    fs::write(&path, [config, b"x"].concat()).expect("the temporary file can be written");
    assert!(graph.config(digest).is_err(), "another config is not taken");
    drop(fs::remove_file(path));
}
