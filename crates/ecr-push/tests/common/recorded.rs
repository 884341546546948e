//! Recorded engines that answer again: their own bytes, on a socket.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::common::{json, recorded};

/// Answers as the recorded `engine` did for the image `name`, until the test's process ends.
pub fn serve(socket: &Path, engine: &'static str, name: &'static str) {
    let listener = UnixListener::bind(socket).unwrap();
    let folder = socket.parent().unwrap().to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || answer(stream, &folder, engine, name));
        }
    });
}

fn answer(mut stream: UnixStream, folder: &Path, engine: &str, name: &str) -> Option<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let path = head.split(' ').nth(1)?;
        let file = match path.split('?').next()? {
            path if path.ends_with("/version") => "version.json".to_owned(),
            path if path.ends_with("/info") => "info.json".to_owned(),
            path if path.ends_with("/images/json") => "list.json".to_owned(),
            path if path.ends_with("/json") => format!("inspect-{name}.json"),
            path if path.ends_with("/get") => format!("export-{name}.tar"),
            _ => String::new(),
        };
        // A socket's folder may hold what differs from the record.
        let own = std::fs::read(folder.join(&file));
        let body = own.or_else(|_| std::fs::read(recorded(&format!("{engine}/{file}")))).unwrap_or_default();
        let (status, kind) = match file.rsplit_once('.') {
            Some((_, "json")) => ("200 OK", "application/json"),
            Some(_) => ("200 OK", "application/x-tar"),
            None => ("404 Not Found", "text/plain"),
        };
        // Exports come in chunks and without a length, as engines send them.
        write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
        for chunk in body.chunks(3000) {
            write!(stream, "{:x}\r\n", chunk.len()).ok()?;
            stream.write_all(chunk).ok()?;
            stream.write_all(b"\r\n").ok()?;
        }
        stream.write_all(b"0\r\n\r\n").ok()?;
    }
}

/// An engine with the containerd store whose root folder is on this host: the blobs of its export lie where its containerd keeps them.
pub fn with_content_store(folder: &Path, engine: &'static str, name: &'static str) -> PathBuf {
    let root = folder.join("root");
    let content = root.join("containerd/daemon/io.containerd.content.v1.content");
    let export = std::fs::File::open(recorded(&format!("{engine}/export-{name}.tar"))).unwrap();
    tar::Archive::new(export).unpack(&content).unwrap();
    let mut info = json(&format!("{engine}/info.json"));
    info["DockerRootDir"] = root.display().to_string().into();
    std::fs::write(folder.join("info.json"), info.to_string()).unwrap();
    serve(&folder.join("s"), engine, name);
    content.join("blobs/sha256")
}
