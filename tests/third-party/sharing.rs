//! Only what the registry lacks is sent, and one layer always becomes the same blob.

use crate::image::{BIG, SHARED, SMALL};
use crate::push::{push, reported};
use crate::stack::{HOST, Request, Stack};
use crate::verify::{Image, pull_with_skopeo};

const PARTS: &[&str] = &["dockerd", "docker", "skopeo"];

/// The requests since `before` that open an upload or send bytes of a blob.
fn sent(stack: &Stack, repository: &str, before: usize) -> Vec<Request> {
    let writes = |request: &Request| {
        request.uri.contains("/blobs/uploads/") && request.method != "GET" && request.method != "HEAD"
    };
    stack.requests(repository).into_iter().skip(before).filter(writes).collect()
}

#[test]
fn two_images_that_share_layers_send_them_once() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    let sources = SHARED.map(|name| stack.image(name));
    let [one, two] = sources.map(|source| source.image.diff_ids());
    assert_eq!((one.len(), &one[..2]), (3, &two[..2]), "the first two layers are shared");
    assert_ne!(one[2], two[2]);
    stack.create_repository("sharing/layers");
    push(stack, SHARED[0], "sharing/layers", &["a"]).run().ok();
    assert_eq!(stack.stored("sharing/layers"), 4, "three layers and a config");
    let before = stack.requests("sharing/layers").len();
    push(stack, SHARED[1], "sharing/layers", &["b"]).run().ok();
    assert_eq!(stack.stored("sharing/layers"), 6, "one layer and a config");
    let bytes: u64 = sent(stack, "sharing/layers", before).iter().map(|request| request.length).sum();
    assert!(bytes < 64 << 10, "{bytes} bytes for a layer of some bytes and a config");
    for (source, tag) in sources.into_iter().zip(["a", "b"]) {
        source.image.assert_same(&pull_with_skopeo(stack, &format!("sharing/layers:{tag}")).image);
    }
}

#[test]
fn a_repeat_sends_no_blob() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(SMALL);
    stack.create_repository("sharing/repeat");
    let again = |tag: &str| {
        reported(
            push(stack, SMALL, "sharing/repeat", &[tag]).args(["--output", "json"]).run(),
            "sharing/repeat",
            &[tag],
        )
    };
    let first = again("v1");
    let before = stack.requests("sharing/repeat").len();
    // The same tag, then a second one. Each run is a machine without any memory.
    assert_eq!(again("v1"), first);
    assert_eq!(again("v2"), first);
    let sent = sent(stack, "sharing/repeat", before);
    assert!(sent.is_empty(), "{sent:?}");
}

#[test]
fn one_layer_is_always_the_same_blob() {
    let Some(stack) = Stack::signed(&[PARTS, &["taskset"]].concat()) else {
        return;
    };
    stack.image(SMALL);
    let mut digests = Vec::new();
    for (number, jobs) in ["1", "2", "7"].into_iter().enumerate() {
        let repository = format!("sharing/same{number}");
        stack.create_repository(&repository);
        let command = push(stack, SMALL, &repository, &["v1"]).args(["--jobs", jobs, "--output", "json"]);
        // Once on one processor, then on all.
        let command = if number == 0 { command.through(&["taskset", "-c", "0"]) } else { command };
        digests.push(reported(command.run(), &repository, &["v1"]));
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

/// Python's zlib, told to expect exactly one gzip member.
const ZLIB: &str = "
import hashlib, sys, zlib
decoder = zlib.decompressobj(31)
content = decoder.decompress(open(sys.argv[1], 'rb').read())
assert decoder.eof and not decoder.unused_data
print(hashlib.sha256(content).hexdigest())
";

#[test]
fn gzip_zlib_and_go_decode_the_same() {
    let Some(stack) = Stack::signed(&[PARTS, &["gzip", "sha256sum", "python3"]].concat()) else {
        return;
    };
    let source = stack.image(SMALL);
    stack.create_repository("sharing/gzip");
    push(stack, SMALL, "sharing/gzip", &["v1"]).run().ok();
    let folder = tempfile::tempdir_in(stack.space.folder()).expect("a folder");
    let from = format!("docker://{HOST}/sharing/gzip:v1");
    stack.skopeo(&["copy", "-q", &from, &format!("dir:{}", folder.path().display())]).ok();
    let manifest = pull_with_skopeo(stack, "sharing/gzip:v1").manifest;
    let layers = manifest["layers"].as_array().expect("layers");
    for (layer, diff_id) in layers.iter().zip(source.image.diff_ids()) {
        let blob = folder.path().join(layer["digest"].as_str().expect("a digest").trim_start_matches("sha256:"));
        let hash = diff_id.trim_start_matches("sha256:");
        stack.space.command("gzip").arg("--test").stdin(&blob).run().ok();
        let gzip = stack.space.command("sh").args(["-c", "gzip -dc | sha256sum"]).stdin(&blob).run().ok();
        assert!(gzip.stdout.starts_with(hash), "{gzip}");
        let zlib = stack.space.command("python3").args(["-c", ZLIB]).arg(&blob).run().ok();
        assert_eq!(zlib.stdout.trim(), hash);
    }
    // Go: skopeo unpacks the layers to write this format.
    let archive = folder.path().join("image.tar");
    stack.skopeo(&["copy", "-q", &from, &format!("docker-archive:{}", archive.display())]).ok();
    source.image.assert_same(&Image::of_docker_archive(&archive).expect("what skopeo wrote"));
}

#[test]
fn dry_run_sends_nothing() {
    let Some(stack) = Stack::signed(PARTS) else {
        return;
    };
    stack.image(BIG);
    stack.create_repository("sharing/dry");
    push(stack, BIG, "sharing/dry", &["v1"]).arg("--dry-run").run().ok();
    assert!(sent(stack, "sharing/dry", 0).is_empty());
}
