//! Stores made by hand, whole and damaged in every way.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::crc64::Crc64;
use super::{GraphStore, Layer};
use crate::image::{DiffId, Digest};

/// A store with one layer, whose diff id is that of no tar.
struct Made {
    root: TempDir,
    layer: PathBuf,
    files: PathBuf,
    diff_id: DiffId,
}

impl Made {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let diff_id = DiffId(Digest::of(b"layer"));
        let cache_id = "ab".repeat(32);
        let layer = root.path().join("image/overlay2/layerdb/sha256").join(diff_id.0.hex());
        let files = root.path().join("overlay2").join(&cache_id).join("diff");
        for directory in [&layer, &files, &root.path().join("image/overlay2/imagedb/content/sha256")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(layer.join("diff"), diff_id.to_string()).unwrap();
        fs::write(layer.join("cache-id"), cache_id).unwrap();
        let made = Self { root, layer, files, diff_id };
        made.tar_split(&[segment(b"head"), file("dir/a", b"content"), segment(b"tail")]);
        made.file("dir/a", b"content");
        made
    }

    fn file(&self, name: &str, content: &[u8]) {
        let path = self.files.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn tar_split(&self, lines: &[String]) {
        self.raw_tar_split(&gzip(lines.concat().as_bytes()));
    }

    fn raw_tar_split(&self, bytes: &[u8]) {
        fs::write(self.layer.join("tar-split.json.gz"), bytes).unwrap();
    }

    fn store(&self) -> io::Result<GraphStore> {
        GraphStore::open(self.root.path(), "overlay2")
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let layer = self.store()?.layers(&[self.diff_id])?.remove(0);
        let (mut reader, mut bytes) = (layer.open()?, Vec::new());
        reader.read_to_end(&mut bytes).inspect_err(|_| {
            let again = reader.read(&mut [0; 8]).unwrap_err().to_string();
            assert!(again.contains("failed before"), "{again}");
        })?;
        Ok(bytes)
    }

    /// Reading fails, with a message that ends in `reason` and names the layer.
    #[track_caller]
    fn fails(&self, reason: &str) {
        let error = self.read().unwrap_err().to_string();
        assert!(error.contains(&self.diff_id.to_string()) && error.contains(reason), "{error}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn segment(bytes: &[u8]) -> String {
    format!(r#"{{"type":2,"payload":"{}","position":0}}{}"#, STANDARD.encode(bytes), "\n")
}

fn file(name: &str, content: &[u8]) -> String {
    let mut sum = Crc64::default();
    sum.update(content);
    let (size, sum) = (content.len(), STANDARD.encode(sum.value().to_be_bytes()));
    format!(r#"{{"type":1,"name":"{name}","size":{size},"payload":"{sum}","position":0}}{}"#, "\n")
}

#[test]
fn layers_may_be_read_on_other_threads() {
    fn check<T: Send + 'static>() {}
    check::<super::LayerReader>();
    check::<GraphStore>();
}

/// Whatever bytes of a tar-split are wrong: an error or a tar, and an end.
#[test]
fn no_damage_leads_to_a_panic() {
    let made = Made::new();
    let lines = [segment(b"head"), file("dir/../dir/a", b"content"), segment(&[0; 700])].concat().into_bytes();
    let layer = made.store().unwrap().layers(&[made.diff_id]).unwrap().remove(0);
    for at in 0..lines.len() {
        for byte in [b'"', b'\n', b'\\', b'9', 0, 0xff] {
            let mut damaged = lines.clone();
            damaged[at] = byte;
            made.raw_tar_split(&gzip(&damaged));
            let _ = io::copy(&mut layer.open().unwrap(), &mut io::sink());
        }
    }
    let whole = gzip(&lines);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        made.raw_tar_split(&damaged);
        let _ = layer.open().and_then(|mut reader| io::copy(&mut reader, &mut io::sink()));
        made.raw_tar_split(&whole[..at]);
        let cut = layer.open().and_then(|mut reader| io::copy(&mut reader, &mut io::sink()));
        assert!(cut.is_err() || at == 0, "{at}");
    }
}

#[test]
fn a_layer_is_put_together() {
    let made = Made::new();
    assert_eq!(made.read().unwrap(), b"headcontenttail");
}

#[test]
fn it_comes_whole_through_any_buffer() {
    let made = Made::new();
    let layer = made.store().unwrap().layers(&[made.diff_id]).unwrap().remove(0);
    for size in 1..20 {
        let (mut reader, mut buffer, mut bytes) = (layer.open().unwrap(), vec![0; size], Vec::new());
        loop {
            let n = reader.read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..n]);
            if n < size {
                break;
            }
        }
        assert_eq!(bytes, b"headcontenttail");
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
        assert_eq!(reader.read(&mut []).unwrap(), 0);
    }
}

#[test]
fn what_has_no_content_is_not_looked_for() {
    let made = Made::new();
    let nothing = r#"{"type":1,"name":"../.wh.gone","payload":null,"position":1}"#;
    made.tar_split(&[segment(b"head"), format!("{nothing}\n"), segment(b""), segment(b"tail")]);
    assert_eq!(made.read().unwrap(), b"headtail");
    made.tar_split(&[]);
    assert_eq!(made.read().unwrap(), b"");
}

#[test]
fn names_may_be_escaped_or_raw_or_roundabout() {
    let made = Made::new();
    made.file("<&>\u{2028}\"", b"escaped");
    made.file("plain", b"plain");
    let raw = OsStr::from_bytes(b"caf\xe9");
    fs::write(made.files.join(raw), b"raw").unwrap();
    let raw = file("", b"raw").replace(r#""name":"""#, &format!(r#""name_raw":"{}""#, STANDARD.encode(b"caf\xe9")));
    made.tar_split(&[
        file(r#"\u003c\u0026\u003e\u2028\""#, b"escaped"),
        raw,
        file("./dir/../plain", b"plain"),
        file("/dir//a", b"content"),
    ]);
    assert_eq!(made.read().unwrap(), b"escapedrawplaincontent");
}

#[test]
fn gzip_may_have_several_members() {
    let made = Made::new();
    let (a, b) = (segment(b"one"), segment(b"two"));
    made.raw_tar_split(&[gzip(&a.as_bytes()[..10]), gzip(&a.as_bytes()[10..]), gzip(b.as_bytes())].concat());
    assert_eq!(made.read().unwrap(), b"onetwo");
}

#[test]
fn layers_are_found_by_their_chain() {
    let made = Made::new();
    let store = made.store().unwrap();
    let above = DiffId(Digest::of(b"above"));
    let chain = Digest::of(format!("{} {above}", made.diff_id).as_bytes());
    let layer = made.layer.parent().unwrap().join(chain.hex());
    fs::create_dir(&layer).unwrap();
    fs::copy(made.layer.join("cache-id"), layer.join("cache-id")).unwrap();
    fs::write(layer.join("diff"), above.to_string()).unwrap();
    fs::write(layer.join("tar-split.json.gz"), gzip(&[])).unwrap();
    let layers = store.layers(&[made.diff_id, above]).unwrap();
    assert_eq!(layers.iter().map(Layer::diff_id).collect::<Vec<_>>(), [made.diff_id, above]);
    assert!(store.layers(&[above]).is_err());
    assert!(store.layers(&[]).unwrap().is_empty());
}

#[test]
fn a_layer_is_refused_if_its_directory_is_damaged() {
    for (name, content, reason) in [
        ("diff", Digest::of(b"other").to_string(), "does not name the layer"),
        ("diff", "x".repeat(1000), "has over 256 bytes"),
        ("cache-id", "../../../../etc".to_owned(), "does not have 64 hex digits"),
        ("cache-id", "cd".repeat(32), "cannot be read: No such file or directory"),
    ] {
        let made = Made::new();
        fs::write(made.layer.join(name), content).unwrap();
        let error = made.read().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    for name in ["diff", "cache-id", "tar-split.json.gz"] {
        let made = Made::new();
        fs::remove_file(made.layer.join(name)).unwrap();
        let error = made.read().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains(name), "{error}");
    }
    let made = Made::new();
    fs::remove_dir_all(&made.files).unwrap();
    symlink("/etc", &made.files).unwrap();
    made.fails("is no directory");
}

#[test]
fn a_damaged_tar_split_is_an_error() {
    let made = Made::new();
    let whole = gzip(segment(b"segment").as_bytes());
    made.raw_tar_split(&whole[..whole.len() - 9]);
    made.fails("tar-split.json.gz cannot be read");
    assert_eq!(made.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    made.raw_tar_split(b"no gzip at all, but long enough");
    made.fails("gzip");
    let mut flipped = whole.clone();
    let sum = whole.len() - 8;
    flipped[sum] ^= 1;
    made.raw_tar_split(&flipped);
    made.fails("corrupt");
    let good = file("dir/a", b"content");
    for (line, reason) in [
        ("{\"type\":2}".to_owned(), "ends within a line"),
        ("\n".to_owned(), "has a bad line"),
        ("[]\n".to_owned(), "has a bad line"),
        ("\"\\ud800\"\n".to_owned(), "has a bad line"),
        (segment(b"x").replace('2', "3"), "unknown type 3"),
        (segment(b"x").replace("eA==", "e!=="), "has bad base64"),
        (good.replace("\"size\":7", "\"size\":-7"), "has a bad line"),
        (good.replace("\"payload\":\"", "\"payload\":\"AAAA"), "without a CRC-64"),
        (r#"{"type":1,"name":"dir/a","size":7,"payload":null}"#.to_owned() + "\n", "without a CRC-64"),
        (segment(&vec![0; 13 << 20]), "over 16 MiB"),
    ] {
        made.tar_split(&[segment(b"head"), line]);
        made.fails(reason);
    }
}

#[test]
fn a_file_must_be_what_it_was() {
    let made = Made::new();
    made.file("dir/a", b"CONTENT");
    made.fails("`dir/a`: is not as it was when the layer was made");
    made.file("dir/a", b"short");
    made.fails("`dir/a`: has 5 bytes in the store, and 7 in the layer");
    made.file("dir/a", b"content and more");
    made.fails("`dir/a`: has 16 bytes in the store, and 7 in the layer");
    fs::remove_file(made.files.join("dir/a")).unwrap();
    made.fails("`dir/a`: No such file or directory");
    fs::create_dir(made.files.join("dir/a")).unwrap();
    made.fails("`dir/a`: is no regular file");
}

#[test]
fn nothing_outside_of_the_layer_is_read() {
    let made = Made::new();
    fs::write(made.root.path().join("secret"), b"content").unwrap();
    for name in ["../../../secret", "dir/../../../../secret", "/..", "", "."] {
        made.tar_split(&[file(name, b"content")]);
        made.fails("has a name that leads out of the layer");
    }
    let absolute = made.root.path().join("secret");
    made.tar_split(&[file(absolute.to_str().unwrap(), b"content")]);
    made.fails("No such file or directory");
    symlink(&absolute, made.files.join("link")).unwrap();
    symlink(made.root.path(), made.files.join("up")).unwrap();
    symlink("dir", made.files.join("inside")).unwrap();
    for (name, reason) in [
        ("link", "`link`: is no regular file"),
        ("up/secret", "is below something that is no directory"),
        ("dir/../up/secret", "is below something that is no directory"),
        ("inside/a", "is below something that is no directory"),
        ("dir/a/b", "is below something that is no directory"),
        ("nul\\u0000", "nul"),
    ] {
        // After a good one, so that the memory of the last directory is put to the test.
        made.tar_split(&[file("dir/a", b"content"), file(name, b"content")]);
        made.fails(reason);
    }
}

#[test]
fn nothing_that_blocks_is_opened() {
    let made = Made::new();
    let path = made.files.join("dir/a");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    made.fails("is no regular file");
    let path = made.layer.join("tar-split.json.gz");
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    made.fails("is no regular file");
}

#[test]
fn configs_are_read_and_checked() {
    let made = Made::new();
    let store = made.store().unwrap();
    let folder = made.root.path().join("image/overlay2/imagedb/content/sha256");
    let put = |digest: Digest, content: &[u8]| fs::write(folder.join(digest.hex()), content).unwrap();
    let digest = Digest::of(b"{}");
    assert_eq!(store.config(digest).unwrap_err().kind(), io::ErrorKind::NotFound);
    put(digest, b"{}");
    assert_eq!(store.config(digest).unwrap(), b"{}");
    put(digest, b"{ }");
    assert!(store.config(digest).unwrap_err().to_string().contains("does not have the digest that is its name"));
    put(digest, &vec![b' '; (8 << 20) + 1]);
    assert!(store.config(digest).unwrap_err().to_string().contains("has over 8388608 bytes"));
}

#[test]
fn a_store_that_cannot_be_used_says_why() {
    let missing = GraphStore::open(Path::new("/nowhere"), "overlay2").unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/image/overlay2/") && missing.contains("No such file"), "{missing}");
    let containerd = GraphStore::open(Path::new("/nowhere"), "overlayfs").unwrap_err();
    assert_eq!(containerd.kind(), io::ErrorKind::Unsupported);
    let made = Made::new();
    let locked = made.root.path().join("image/overlay2/layerdb/sha256");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let opened = made.store();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    // Root may read it all the same.
    if let Err(error) = opened {
        assert!(
            error.to_string().ends_with("layerdb/sha256 cannot be read: Permission denied (os error 13)"),
            "{error}"
        );
    }
}
