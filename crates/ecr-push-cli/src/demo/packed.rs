//! A small image packed from this program, as `docker save` would write it.

use std::fs::File;
use std::io::{self, BufWriter, Seek};
use std::path::Path;

use ecr_push::image::{Digest, Hasher};

/// Writes the archive: one layer with the program, one with a text file.
pub fn write(path: &Path) -> io::Result<()> {
    let program = File::open(std::env::current_exe()?)?;
    let mut layers = Vec::new();
    let directory = path.parent().unwrap_or(Path::new("."));

    let mut first = tar::Builder::new(tempfile::tempfile_in(directory)?);
    let size = program.metadata()?.len();
    first.append_data(&mut header(0o755, size), "ecr-push", program)?;
    layers.push(first.into_inner()?);

    let mut second = tar::Builder::new(tempfile::tempfile_in(directory)?);
    let text = b"This image was packed by `ecr-push demo`.\n";
    second.append_data(&mut header(0o644, text.len() as u64), "README.txt", &text[..])?;
    layers.push(second.into_inner()?);

    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    let mut names = Vec::new();
    let mut diff_ids = Vec::new();
    for mut layer in layers {
        let size = layer.stream_position()?;
        layer.rewind()?;
        let mut hasher = Hasher::default();
        io::copy(&mut layer, &mut Hashing(&mut hasher))?;
        let (digest, _) = hasher.finish();
        layer.rewind()?;
        let name = format!("{}.tar", digest.hex());
        archive.append_data(&mut header(0o644, size), &name, layer)?;
        names.push(name);
        diff_ids.push(digest.to_string());
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/ecr-push"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created_by": "ecr-push demo" }, { "created_by": "ecr-push demo" }],
    })
    .to_string();
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    archive.append_data(&mut header(0o644, config.len() as u64), &name, config.as_bytes())?;
    let manifest =
        serde_json::json!([{ "Config": name, "RepoTags": ["ecr-push-demo:latest"], "Layers": names }]).to_string();
    archive.append_data(&mut header(0o644, manifest.len() as u64), "manifest.json", manifest.as_bytes())?;
    archive.into_inner()?.into_inner()?.sync_data()
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

struct Hashing<'a>(&'a mut Hasher);

impl io::Write for Hashing<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
