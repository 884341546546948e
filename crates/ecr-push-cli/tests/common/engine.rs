//! A container engine on a unix socket: it answers as a recorded one did, and remembers names that are given and taken.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::recorded;

/// The recorded engine: Docker with its classic store.
const RECORDED: &str = "docker-28.5-overlay2";
/// The ID of its image `two:1`.
pub const IMAGE: &str = "sha256:765127d58036ffc1f37900d2867058de987d729a3b8278be1be9b10b56811d31";
/// The ID of an older build, which is described as that image is.
pub const OLDER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

/// What it does otherwise than it should.
#[derive(Clone, Debug, Default)]
pub struct Quirks {
    /// Refuses names for images, with this sentence.
    pub refuse_tag: Option<String>,
    /// A container uses the image: it is not removed.
    pub in_use: bool,
    /// The image has this text for its system and architecture, in its labels, and wherever else its author may write.
    pub authors_text: Option<String>,
    /// Names in its list of images, besides its own.
    pub more_names: Vec<String>,
    /// Refuses to look at an image, with this sentence.
    pub refuse_inspect: Option<String>,
    /// Never answers when an image is to get a name.
    pub silent_tag: bool,
    /// Names that mean the older build.
    pub older: Vec<String>,
}

/// The running engine. It ends with the test's process.
pub struct RecordedEngine {
    socket: PathBuf,
    state: Arc<State>,
    _folder: tempfile::TempDir,
}

struct State {
    quirks: Quirks,
    /// The image's ID, and its export, where it is not the recorded one.
    id: String,
    export: Option<Vec<u8>>,
    names: Mutex<BTreeSet<String>>,
    older: Mutex<BTreeSet<String>>,
    asked: Mutex<Vec<String>>,
}

impl RecordedEngine {
    pub fn start() -> Self {
        Self::with(Quirks::default())
    }

    pub fn with(quirks: Quirks) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (id, export) = match &quirks.authors_text {
            Some(text) => {
                let (id, export) = written_by(text);
                (id, Some(export))
            }
            None => (IMAGE.to_owned(), None),
        };
        let names = Mutex::new(["two:1".to_owned()].into());
        let older = Mutex::new(quirks.older.iter().cloned().collect());
        let state = State { quirks, id, export, names, older, asked: Mutex::default() };
        let state = Arc::new(state);
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        Self { socket, state, _folder: folder }
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The names that the image has now.
    pub fn names(&self) -> Vec<String> {
        self.state.names.lock().unwrap().iter().cloned().collect()
    }

    /// The names that the older build still has.
    pub fn older_names(&self) -> Vec<String> {
        self.state.older.lock().unwrap().iter().cloned().collect()
    }

    /// Gives the image another name.
    pub fn name(&self, name: &str) {
        self.state.names.lock().unwrap().insert(name.to_owned());
    }

    /// What was asked of it, without the version in the path: `GET /images/two:1/json`.
    pub fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    /// What was asked that changes something.
    pub fn changes(&self) -> Vec<String> {
        self.asked()
            .into_iter()
            .filter(|request| !request.starts_with("GET ") && !request.starts_with("HEAD "))
            .collect()
    }
}

enum Reply {
    File(&'static str),
    Json(u16, serde_json::Value),
    Tar(Vec<u8>),
    Created,
}

/// The ID and the export of the recorded image with this text of its author's.
fn written_by(text: &str) -> (String, Vec<u8>) {
    let tar = std::fs::read(recorded(&format!("{RECORDED}/export-two.tar"))).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(&tar[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), bytes);
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&files[manifest[0]["Config"].as_str().unwrap()]).unwrap();
    for field in ["os", "architecture", "author", "comment"] {
        config[field] = text.into();
    }
    config["config"]["Labels"] = serde_json::json!({ (text): text });
    let config = config.to_string().into_bytes();
    let id = ecr_push::image::Digest::of(&config).to_string();
    let name = format!("{}.json", &id["sha256:".len()..]);
    manifest[0]["Config"] = name.as_str().into();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    for layer in manifest[0]["Layers"].as_array().unwrap() {
        add(layer.as_str().unwrap(), &files[layer.as_str().unwrap()]);
    }
    add(&name, &config);
    add("manifest.json", manifest.to_string().as_bytes());
    (id, builder.into_inner().unwrap())
}

fn missing(name: &str) -> Reply {
    Reply::Json(404, serde_json::json!({ "message": format!("No such image: {name}") }))
}

fn file(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(recorded(&format!("{RECORDED}/{name}"))).unwrap()).unwrap()
}

impl State {
    /// The image's name or ID, if it is one.
    fn means(&self, name: &str) -> bool {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_id = hex.len() >= 12 && self.id["sha256:".len()..].starts_with(hex);
        is_id || self.names.lock().unwrap().contains(name)
    }

    fn reply(&self, method: &str, target: &str) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = percent_decoded(path);
        match (method, path.as_str()) {
            (_, "/_ping" | "/version") => return Reply::File("version.json"),
            (_, "/info") => return Reply::File("info.json"),
            ("GET", "/images/json") => {
                let mut list = file("list.json");
                let mut more = list[0].clone();
                more["RepoTags"] = self.quirks.more_names.clone().into();
                list.as_array_mut().unwrap().push(more);
                return Reply::Json(200, list);
            }
            _ => {}
        }
        let Some(rest) = path.strip_prefix("/images/") else { return missing(&path) };
        let (name, action) = match (method, rest.rsplit_once('/')) {
            ("GET", Some((name, action @ ("json" | "get")))) | ("POST", Some((name, action @ "tag"))) => (name, action),
            ("DELETE", _) => (rest, "remove"),
            _ => return missing(rest),
        };
        if action == "json"
            && let Some(sentence) = &self.quirks.refuse_inspect
        {
            return Reply::Json(500, serde_json::json!({ "message": sentence }));
        }
        if self.older.lock().unwrap().contains(name) {
            return match action {
                "json" => {
                    let mut image = file("inspect-two.json");
                    image["RepoTags"] = self.older.lock().unwrap().iter().cloned().collect::<Vec<_>>().into();
                    image["Id"] = OLDER.into();
                    Reply::Json(200, image)
                }
                _ => Reply::Json(500, serde_json::json!({ "message": "nobody has to do with the older build" })),
            };
        }
        if !self.means(name) {
            return missing(name);
        }
        match action {
            "json" => {
                let mut image = file("inspect-two.json");
                image["RepoTags"] = self.names.lock().unwrap().iter().cloned().collect::<Vec<_>>().into();
                image["Id"] = self.id.as_str().into();
                if let Some(text) = &self.quirks.authors_text {
                    for field in ["Os", "Architecture", "Author", "Comment"] {
                        image[field] = text.as_str().into();
                    }
                    image["Config"]["Labels"] = serde_json::json!({ (text): text });
                }
                Reply::Json(200, image)
            }
            "get" if self.export.is_some() => Reply::Tar(self.export.clone().unwrap_or_default()),
            "get" if name == "two:1" => Reply::File("export-two.tar"),
            "get" => Reply::File("export-two-by-id.tar"),
            "tag" => self.tag(query),
            _ => self.remove(name),
        }
    }

    fn tag(&self, query: &str) -> Reply {
        if self.quirks.silent_tag {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        if let Some(sentence) = &self.quirks.refuse_tag {
            return Reply::Json(409, serde_json::json!({ "message": sentence }));
        }
        let value = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let found = pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decoded(value)).next();
            found.unwrap_or_default()
        };
        let name = format!("{}:{}", value("repo"), value("tag"));
        self.older.lock().unwrap().remove(&name);
        self.names.lock().unwrap().insert(name);
        Reply::Created
    }

    /// As docker does it without force (docs.docker.com, "docker image rm").
    fn remove(&self, name: &str) -> Reply {
        let refused = |why: &str| Reply::Json(409, serde_json::json!({ "message": format!("conflict: {why}") }));
        let mut names = self.names.lock().unwrap();
        let by_name = names.contains(name);
        if !by_name && names.len() > 1 {
            return refused(
                "unable to delete 765127d58036 (must be forced) - image is referenced in multiple repositories",
            );
        }
        if names.len() == 1 && self.quirks.in_use {
            return refused(
                "unable to remove repository reference \"two:1\" (must force) - container 0a1b2c3d4e5f is using its referenced image 765127d58036",
            );
        }
        match by_name {
            true => {
                names.remove(name);
            }
            false => names.clear(),
        }
        Reply::Json(200, serde_json::json!([{ "Untagged": name }]))
    }
}

fn answer(mut stream: UnixStream, state: &State) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
        let mut words = head.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let unversioned =
            target.strip_prefix("/v1.").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(target);
        state.asked.lock().unwrap().push(format!("{method} {}", percent_decoded(unversioned)));
        let (status, kind, body) = match state.reply(method, unversioned) {
            Reply::Tar(bytes) => (200, "application/x-tar", bytes),
            Reply::Created => (201, "application/json", Vec::new()),
            Reply::Json(status, json) => (status, "application/json", json.to_string().into_bytes()),
            Reply::File(name) => {
                let kind = if name.ends_with(".tar") { "application/x-tar" } else { "application/json" };
                (200, kind, std::fs::read(recorded(&format!("{RECORDED}/{name}"))).unwrap())
            }
        };
        // Exports come in chunks and without a length, as engines send them.
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
        for chunk in body.chunks(3000) {
            write!(stream, "{:x}\r\n", chunk.len()).ok()?;
            stream.write_all(chunk).ok()?;
            stream.write_all(b"\r\n").ok()?;
        }
        stream.write_all(b"0\r\n\r\n").ok()?;
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code.filter(|_| byte == b'%') {
            Some(code) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
