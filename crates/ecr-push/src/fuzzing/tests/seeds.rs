//! Seeds: what engines, registries and people really write. `fuzz/seeds` puts them into the corpus; here they are compared with it.

use std::fs;
use std::path::PathBuf;

use super::drive::seed;
use crate::fuzzing::recipe;
#[cfg(unix)]
use crate::fuzzing::store;
use crate::fuzzing::{SEPARATOR, cache};
use crate::image::Digest;

fn recorded(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engines").join(path);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&SEPARATOR)
}

fn chosen(choice: u8, rest: &[u8]) -> Vec<u8> {
    [&[choice], rest].concat()
}

/// The entries of a tar: a head as recipes have it, and content.
fn entries(tar: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let kind = entry.header().entry_type();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if kind.is_symlink() {
            let target = entry.link_name().unwrap().unwrap();
            entries.push((format!("{path} -> {}", target.display()), bytes));
        } else if kind.is_file() {
            entries.push((path, bytes));
        }
    }
    entries
}

/// Documents after those that they name.
fn in_order(mut left: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    let mut ordered: Vec<(String, Vec<u8>)> = Vec::new();
    while !left.is_empty() {
        let digests: Vec<String> = left.iter().map(|(_, bytes)| Digest::of(bytes).hex()).collect();
        let names = |at: usize, hex: &String| {
            let text = [left[at].0.as_bytes(), left[at].1.as_slice()].concat();
            text.windows(64).any(|window| window == hex.as_bytes())
        };
        let is_free = |at: &usize| {
            digests.iter().enumerate().all(|(other, hex)| other == *at || *hex == digests[*at] || !names(*at, hex))
        };
        let at = (0..left.len()).find(is_free).unwrap_or(0);
        ordered.push(left.remove(at));
    }
    ordered
}

/// A recorded archive as a recipe, without what is read by nobody, and with small layers in the place of compressed ones: their bytes
/// could be anything, marks and separators included.
fn recipe_of(path: &str) -> Vec<u8> {
    let mut all = entries(&recorded(path));
    all.retain(|(name, _)| !name.ends_with("VERSION") && name != "oci-layout" && name != "repositories");
    recipe::write(&in_order(all))
}

/// A small image of a containerd store: layer, config, manifest, attestation, index.
const SMALL: &str = "gz tar blobs/sha256/~@\nhello\x1e\
blobs/sha256/~@\n{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:%a\"]}}\x1e\
blobs/sha256/~@\n{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:~b\",\"size\":^b},\"layers\":[{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:~a\",\"size\":^a}]}\x1e\
blobs/sha256/~@\n{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:~b\",\"size\":^b},\"layers\":[]}\x1e\
blobs/sha256/~@\n{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:~c\",\"size\":^c,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}},{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:~d\",\"size\":^d,\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"},\"annotations\":{\"vnd.docker.reference.type\":\"attestation-manifest\"}}]}\x1e\
index.json\n{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"digest\":\"sha256:~e\",\"size\":^e,\"annotations\":{\"org.opencontainers.image.ref.name\":\"two:1\",\"io.containerd.image.name\":\"docker.io/library/two:1\"}}]}\x1e\
manifest.json\n[{\"Config\":\"blobs/sha256/~b\",\"RepoTags\":[\"two:1\"],\"Layers\":[\"blobs/sha256/~a\"]}]";

/// A small image as docker wrote them before version 25, with a link.
const OLD: &str = "tar one/layer.tar\nhello\x1e\
two/layer.tar -> ../one/layer.tar\n\x1e\
one/json\n{\"id\":\"one\",\"created\":\"1970-01-01T00:00:00Z\",\"os\":\"linux\"}\x1e\
~@.json\n{\"os\":\"linux\",\"architecture\":\"amd64\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:~a\",\"sha256:~a\"]}}\x1e\
manifest.json\n[{\"Config\":\"~d.json\",\"RepoTags\":[\"two:1\"],\"Layers\":[\"one/layer.tar\",\"two/layer.tar\"]}]";

/// A layer that is a hard link, and compressed layers in docker's form.
const PACKED: &str = "gz tar ~@.tar.gz\nhello\x1e\
other.tar => ~a.tar.gz\n\x1e\
c.json\n{\"rootfs\":{\"diff_ids\":[\"sha256:%a\"]},\"os\":\"linux\",\"architecture\":\"arm64\",\"variant\":\"v8\"}\x1e\
manifest.json\n[{\"Config\":\"c.json\",\"RepoTags\":null,\"Layers\":[\"other.tar\"]}]";

#[test]
fn seeds_of_archives_and_layouts() {
    for (name, choice, path) in [
        ("docker-20-two", 0, "docker-20.10-overlay2/export-two.tar"),
        ("docker-20-repeat", 0, "docker-20.10-overlay2/export-repeat.tar"),
        ("docker-20-two-gz", 0, "docker-20.10-overlay2/save-two.tar.gz"),
        ("docker-28-repeat", 0, "docker-28.5-overlay2/export-repeat.tar"),
        ("docker-28-stored", 0, "docker-28.5-containerd/export-two.tar"),
        ("docker-28-multi", 1, "docker-28.5-containerd/export-multi.tar"),
        ("docker-28-partial", 9, "docker-28.5-containerd/export-partial.tar"),
        ("docker-26-broken", 9, "docker-26.1-containerd/export-broken.tar"),
        ("podman-repeat", 0, "podman-4.3/export-repeat.tar"),
        ("podman-oci", 1, "podman-4.3/save-two-oci.tar"),
        ("skopeo-archive", 1, "skopeo-1.9/oci-archive.tar"),
    ] {
        seed("archive", name, &chosen(choice, &recorded(path)));
    }
    let recipes: [(&str, Vec<u8>); 3] = [
        ("docker-20", recipe_of("docker-20.10-overlay2/export-repeat.tar")),
        ("docker-28", recipe_of("docker-28.5-containerd/export-multi-amd64.tar")),
        ("podman", recipe_of("podman-4.3/export-repeat.tar")),
    ];
    for (name, recipe) in &recipes {
        seed("archive", &format!("recipe-{name}"), &chosen(4, recipe));
    }
    for (name, recipe) in [("small", SMALL), ("old", OLD), ("packed", PACKED)] {
        // As docker's archive, as a layout, compressed, for one platform, without attestations, as an engine's export.
        for choice in [0b100, 0b101, 0b110, 0b1100, 0b11101, 0b1000_0100] {
            seed("archive", &format!("{name}-{choice:02x}"), &chosen(choice, recipe.as_bytes()));
        }
    }
    for choice in [0, 0b1000, 0b1_0000, 0b100_0000] {
        seed("layout", &format!("small-{choice:02x}"), &chosen(choice, SMALL.as_bytes()));
    }
    for (name, path) in [
        ("skopeo", "skopeo-1.9/oci-archive.tar"),
        ("podman", "podman-4.3/save-two-oci.tar"),
        ("multi", "docker-28.5-containerd/export-multi.tar"),
        ("partial", "docker-28.5-containerd/export-partial.tar"),
        ("broken", "docker-28.5-containerd/export-broken-amd64.tar"),
    ] {
        seed("layout", name, &chosen(0, &recipe_of(path)));
    }
}

#[test]
fn seeds_of_manifests() {
    let mut number = 0;
    for path in [
        "docker-28.5-containerd/export-multi.tar",
        "docker-26.1-containerd/export-broken.tar",
        "skopeo-1.9/oci-archive.tar",
        "docker-28.5-overlay2/export-two.tar",
    ] {
        let all = entries(&recorded(path));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let config = all.iter().find(|(_, bytes)| text(bytes).contains("\"rootfs\"")).unwrap();
        for (_, bytes) in all.iter().filter(|(_, bytes)| text(bytes).contains("\"schemaVersion\"")) {
            seed("manifest", &format!("{number:02}"), &chosen(number as u8, &joined(&[bytes, &config.1])));
            number += 1;
        }
    }
    assert!(number > 6);
    let docker = "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\"config\":{\"mediaType\":\"application/vnd.docker.container.image.v1+json\",\"size\":2,\"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\"},\"layers\":[{\"mediaType\":\"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip\",\"size\":1,\"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"urls\":[\"https://a.example/\"]}]}";
    seed("manifest", "docker", &chosen(1, &joined(&[docker.as_bytes(), b"{}"])));
}

#[test]
fn seeds_of_names() {
    let names = [
        "app",
        "app:v1",
        "team/app",
        "localhost:5000/app:v1",
        "[::1]:5000/app",
        "docker.io/library/nginx:1.27",
        "app@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "cafe",
        "sha256:cafe",
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "docker-daemon:oci:v1",
        "docker-archive:a.tar:app:v1",
        "docker-archive:C:\\a.tar",
        "oci:dir:v1",
        "oci-archive:-",
        "containerd:k8s.io",
        "docker://a/b",
        "linux/arm/v7",
        "Linux/x86_64",
        "windows/amd64",
        "us-east-1",
        "us_gov_west_1",
        "123456789012",
        "123456789012.dkr.ecr.us-east-1.amazonaws.com",
        "123456789012.dkr-ecr.eu-west-1.on.aws",
        "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "host:443:127.0.0.1:8443",
        "::[::1]:80",
        "a.example::b.example:",
        "unix:///run/docker.sock",
        "tcp://build.example:2376",
        "ssh://me@build.example:22/run/docker.sock",
        "npipe:////./pipe/docker_engine",
        "a--b__c.d/e",
        "../..",
        "app?x=1",
        "Team/My App",
        "registry",
        "v1.0-rc_1",
        "-v",
        "\u{212a}s-east-1",
    ];
    for (number, name) in names.iter().enumerate() {
        seed("reference", &format!("{number:02}"), name.as_bytes());
    }
}

#[test]
fn seeds_of_answers() {
    for (name, asked) in [
        ("docker-20.10-overlay2", "two:1"),
        ("docker-26.1-containerd", "cafe"),
        ("docker-28.5-containerd", "too:1"),
        ("docker-28.5-overlay2", "sha256:8f4d31da"),
        ("podman-4.3", "localhost/two"),
    ] {
        let file = |file: &str| recorded(&format!("{name}/{file}"));
        let parts = [file("version.json"), file("info.json"), file("inspect-two.json"), file("list.json")];
        let parts = [&parts[0][..], &parts[1], &parts[2], &parts[3], asked.as_bytes(), &[0; 1024]];
        seed("engine_answer", name, &joined(&parts));
    }
    let broken = b"tar{\"errorDetail\":{\"message\":\"no space left\"},\"error\":\"no space left\"}\r\n";
    let info = br#"{"Driver":"overlay2","DockerRootDir":"/var/lib/docker"}"#;
    seed("engine_answer", "gave-up", &joined(&[b"{}", info, b"{\"Id\":\"sha256:00\"}", b"[]", b"app", broken]));
    for (number, (status, head, body, token)) in [
        ("401", "WWW-Authenticate: Basic realm=\"https://123456789012.dkr.ecr.us-east-1.amazonaws.com/\",service=\"ecr.amazonaws.com\"", "Not Authorized\n", ""),
        ("401", "www-authenticate: Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"repository:a/b:pull,push\"\ncontent-type: application/json", "{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"authentication required\",\"detail\":null}]}", "{\"token\":\"eyJ0\",\"expires_in\":300,\"issued_at\":\"2020-01-01T00:00:00Z\"}"),
        ("404", "content-type: application/json; charset=utf-8\nx-amzn-requestid: 00000000-0000", "{\"errors\":[{\"code\":\"NAME_UNKNOWN\",\"message\":\"The repository with name 'app' does not exist\"}]}", "{\"access_token\":\"a.b.c\"}"),
        ("202", "location: /v2/team/app/blobs/uploads/1?_state=x\nrange: 0-0", "", "{}"),
        ("202", "Location: https://registry.example:443/v2/team/app/blobs/uploads/1", "", "[]"),
        ("202", "location: https://other.example/upload", "", "{\"token\":\"\\n\"}"),
        ("202", "location: //other.example/upload", "", ""),
        ("429", "retry-after: 3600", "{\"errors\":[{\"code\":\"TOOMANYREQUESTS\"}]}", ""),
        ("502", "content-type: text/html", "<html>\r\n<b>Bearer QVdTOmVpbi1wYXNzd29ydC1mdWVyLWFsbGU=</b>", ""),
        ("405", "x-request-id: 1", "{\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"Invalid parameter at 'ImageManifest'\"}]}", ""),
        ("401", "www-authenticate: Bearer realm=\"http://auth.example\"\nwww-authenticate: Basic", "", ""),
    ]
    .iter()
    .enumerate()
    {
        let parts = [status, head, body, token].map(|part: &&str| part.as_bytes());
        seed("registry_answer", &format!("{number:02}"), &joined(&parts));
    }
}

#[test]
fn seeds_of_tokens_and_the_cache() {
    let jwt = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjpbImEiLCJiIl0sInN1YiI6InNjOi8vb3JnL3Byb2plY3QifQ.x";
    for (name, token, endpoint) in [
        ("ecr", "QVdTOmV5SndZWGxzYjJGa0lqb2lJbjA9", "https://123456789012.dkr.ecr.us-east-1.amazonaws.com"),
        ("newline", "QVdTOnBhc3N3b3JkCg==\n", "http://127.0.0.1:5000"),
        ("no-colon", "QVdT", "123456789012.dkr.ecr.us-east-1.amazonaws.com"),
        ("empty-password", "QVdTOg==", ""),
        ("not-text", "QVdTOv///w==", "https://user:pass@123456789012.dkr.ecr.us-east-1.amazonaws.com:443/v2/"),
    ] {
        seed("token", name, &joined(&[token.as_bytes(), endpoint.as_bytes(), jwt.as_bytes()]));
    }
    let (layer, blob) = (cache::layer(), Digest::of(b"blob"));
    let entry = |version: u32, own: bool, media_type: &str| {
        format!(
            "{{\"version\":{version},\"diff_id\":\"{layer}\",\"blobs\":[{{\"digest\":\"{blob}\",\"size\":4,\"media_type\":\"{media_type}\",\"own\":{own},\"places\":[\"host/app\",\"host/other\"]}},{{\"digest\":\"{}\",\"size\":7,\"media_type\":\"application/vnd.oci.image.layer.v1.tar+zstd\",\"own\":true,\"places\":[]}}]}}",
            Digest::of(b"another")
        )
    };
    seed("cache", "theirs", entry(1, false, "application/vnd.docker.image.rootfs.diff.tar.gzip").as_bytes());
    seed("cache", "ours", entry(1, true, "application/vnd.oci.image.layer.v1.tar").as_bytes());
    seed("cache", "version", entry(2, true, "text/plain").as_bytes());
    let tag = format!("{{\"version\":1,\"reference\":\"{}\",\"manifest\":\"{blob}\"}}", cache::TAG);
    seed("cache", "tag", tag.as_bytes());
}

/// CRC-64 as Go's `hash/crc64` has it for ISO, bit by bit.
#[cfg(unix)]
fn crc64(bytes: &[u8]) -> u64 {
    let step = |sum: u64| (sum >> 1) ^ if sum & 1 == 1 { 0xd800_0000_0000_0000 } else { 0 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u64::from(*byte), |sum, _| step(sum)))
}

#[cfg(unix)]
#[test]
fn seeds_of_stores() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let segment = |bytes: &[u8]| format!("{{\"type\":2,\"payload\":\"{}\",\"position\":0}}\n", STANDARD.encode(bytes));
    let file = |name: &str, content: &[u8]| {
        let sum = STANDARD.encode(crc64(content).to_be_bytes());
        format!("{{\"type\":1,\"name\":\"{name}\",\"size\":{},\"payload\":\"{sum}\",\"position\":1}}\n", content.len())
    };
    let mut whole = String::new();
    for (name, content) in store::FILES {
        whole.push_str(&segment(b"a header"));
        whole.push_str(&file(name, content));
    }
    whole.push_str(&segment(&[0; 1024]));
    seed("tar_split", "whole", &chosen(0, whole.as_bytes()));
    seed("tar_split", "packed", &chosen(2, &recipe::gzip(b"").into_iter().take(10).collect::<Vec<_>>()));
    for (name, odd) in [
        ("link", file("link", b"-- outside of the layer --")),
        ("link-within", file("dir/link", b"content")),
        ("up", file("up/secret", b"-- outside of the layer --")),
        ("dots", file("../../../secret", b"-- outside of the layer --")),
        ("roundabout", file("./dir/../a", b"content")),
        ("folder", file("dir", b"")),
        ("size", file("a", b"content").replace("\"size\":7", "\"size\":18446744073709551615")),
        ("raw", file("", b"content").replace("\"name\":\"\"", "\"name_raw\":\"YQ==\"")),
        ("nothing", "{\"type\":1,\"name\":\"../.wh.gone\",\"payload\":null,\"position\":1}\n".to_owned()),
    ] {
        seed("tar_split", name, &chosen(0, [segment(b"head"), odd].concat().as_bytes()));
    }
    let layer = Digest::of(b"layer").to_string();
    seed("tar_split", "files", &chosen(3, &joined(&[layer.as_bytes(), "ab".repeat(32).as_bytes(), b"7", b"{}"])));
    seed("tar_split", "cache-id", &chosen(3, &joined(&[layer.as_bytes(), b"../../secret", b"-1", b"{}"])));
}
