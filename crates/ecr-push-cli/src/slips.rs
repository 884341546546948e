//! Slips of the pen: what was typed cannot be what was meant, and what was meant can be seen. Each is one sentence that says what to type.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use ecr_push::source::SourceSpec;
use ecr_push::{Error, Result, Setting, Text, text};

use crate::args::PushArgs;

/// What `docker save` and its kin are called. Other files may have an image's name: the program `app` beside the image `app`.
const ARCHIVES: [&str; 8] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".tar.lz4", ".zip"];

/// Hyphens, dashes and the minus sign that word processors put in the place of `-`.
const DASHES: [char; 7] = ['\u{2010}', '\u{2011}', '\u{2012}', '\u{2013}', '\u{2014}', '\u{2015}', '\u{2212}'];

/// Looks at the words of a push.
///
/// # Errors
/// The first slip.
pub fn check(args: &PushArgs) -> Result<()> {
    carriage_return(&"the image".into(), &args.image)?;
    let destination = &args.destination;
    let single = [
        (Setting::Repository, &destination.repository),
        (Setting::To, &destination.to),
        (Setting::RegistryId, &destination.registry_id),
        (Setting::Platform, &args.selection.platform),
        (Setting::Region, &args.aws.region),
        (Setting::Profile, &args.aws.profile),
    ];
    let single = single.into_iter().flat_map(|(setting, value)| Some((setting, value.as_ref()?)));
    for (setting, value) in single.chain(args.tags.iter().map(|tag| (Setting::Tag, tag))) {
        carriage_return(&setting.into(), value)?;
    }
    args.tags.iter().try_for_each(|tag| reference_for_tag(tag))?;
    image(&args.image)
}

/// A script with Windows' line ends gives the last word of each line a letter that nobody sees.
fn carriage_return(what: &Text, value: &str) -> Result<()> {
    if !value.ends_with('\r') {
        return Ok(());
    }
    let message = text![what, format!(" `{}` ends in a carriage return (\\r)", value.trim_end())];
    Err(Error::refused("read the command line", message)
        .with_hint("save the script or the file that it comes from with the line ends of Unix (`dos2unix FILE`)"))
}

fn reference_for_tag(tag: &str) -> Result<()> {
    match tag.rsplit_once(':') {
        Some((repository, tag_alone)) if !repository.is_empty() && !tag_alone.is_empty() => {
            Err(Error::refused("parse tag", format!("`{tag}` is a reference, not a tag")).with_hint(text![
                "write ",
                Setting::Repository.with(repository),
                " and ",
                Setting::Tag.with(tag_alone)
            ]))
        }
        _ => Ok(()),
    }
}

fn image(image: &str) -> Result<()> {
    let refuse = |message: String| Error::refused("parse image", message);
    if let Some(flag) = flag_with_hyphens(image) {
        return Err(dashed(image, &flag));
    }
    if image == "-" {
        return Err(refuse("`-` names no image".to_owned())
            .with_hint("for an archive on standard input write `docker-archive:-`, or `oci-archive:-`"));
    }
    let (transport, path) = match image.split_once(':') {
        Some((transport @ ("docker-archive" | "oci" | "oci-archive"), path)) => (Some(transport), path),
        _ => (None, image),
    };
    if path.starts_with("~/") && !Path::new(path).exists() {
        let home = path.replacen('~', "$HOME", 1);
        return Err(refuse(format!("`{image}` begins with a `~` that the shell has left as it is"))
            .with_hint(format!("write `{}:{home}`", transport.unwrap_or("docker-archive"))));
    }
    if transport.is_some() {
        return Ok(());
    }
    let is_path = ["./", "../", "/", ".\\", "..\\"].iter().any(|start| image.starts_with(start));
    let is_archive = ARCHIVES.iter().any(|end| image.to_lowercase().ends_with(end));
    match std::fs::metadata(image) {
        Ok(found) if found.is_dir() && is_path => Err(refuse(format!("`{image}` is a folder, not an image's name"))
            .with_hint(format!(
                "for an OCI layout write `oci:{image}`; an engine's image is named as `docker images` shows it"
            ))),
        Ok(found) if !found.is_dir() && (is_path || is_archive) => {
            let error = refuse(format!("`{image}` is a file, not an image's name"));
            let hint = format!("write `docker-archive:{image}`, or `oci-archive:{image}` if it is an OCI layout");
            let engine = format!("for an engine's image of this name write `docker-daemon:{image}`");
            let error = error.with_hint(hint);
            Err(if is_path { error } else { error.with_hint(engine) })
        }
        Err(_) if is_path => Err(refuse(format!("`{image}` looks like a file, and there is none"))
            .with_hint("check the path, and write `docker-archive:FILE`, `oci-archive:FILE` or `oci:DIR`")),
        _ => Ok(()),
    }
}

/// Standard input is to be read, and somebody is typing.
///
/// # Errors
/// If it is a terminal.
pub fn check_standard_input(source: &SourceSpec, is_terminal: impl FnOnce() -> bool) -> Result<()> {
    let reads = match source {
        SourceSpec::DockerArchive { path, .. } | SourceSpec::OciArchive { path, .. } => path.as_os_str() == "-",
        _ => false,
    };
    if !reads || !is_terminal() {
        return Ok(());
    }
    Err(Error::refused("parse image", format!("`{source}` reads an archive from standard input, which is a terminal"))
        .with_hint(format!("pipe one in: `docker save app:v1 | ecr-push push {source} ...`")))
}

/// What was meant by a command line that clap does not understand.
pub fn meant(words: &[String], error: &clap::Error) -> Option<Error> {
    if let Some((word, flag)) = words.iter().find_map(|word| Some((word, flag_with_hyphens(word)?))) {
        return Some(dashed(word, &flag));
    }
    let is_push = words.iter().any(|word| word == "push");
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument || word.starts_with('-') || !is_push {
        return None;
    }
    let last = word.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match word[last..].split_once(':') {
        Some((end, tag)) => (&word[..last + end.len()], Some(tag)),
        None => (word.as_str(), None),
    };
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let setting = match word.split_once('/') {
        Some((first, _)) if is_host(first) => Setting::To,
        _ => Setting::Repository,
    };
    let mut hint = text!["write ", setting.with(name)];
    if let Some(tag) = tag.filter(|tag| !tag.is_empty()) {
        hint = hint.and(" ").and(Setting::Tag.with(tag));
    }
    let message = format!("`{word}` is one word too many: behind the image, the destination is named by a flag");
    Some(Error::refused("read the command line", message).with_hint(hint))
}

fn dashed(word: &str, flag: &str) -> Error {
    let dash = word.chars().find(|c| DASHES.contains(c)).map_or(0, u32::from);
    let message = format!("`{word}` begins with a dash that no flag has (U+{dash:04X})");
    Error::refused("read the command line", message).with_hint(format!("write `{flag}` with hyphens"))
}

/// The flag that `word` would be if its dashes were hyphens, where they are not.
fn flag_with_hyphens(word: &str) -> Option<String> {
    let name = word.trim_start_matches(|c| c == '-' || DASHES.contains(&c));
    let dashes = &word[..word.len() - name.len()];
    if !dashes.contains(DASHES) || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let bare = name.split('=').next().unwrap_or(name);
    Some(if bare.len() == 1 { format!("-{name}") } else { format!("--{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_matters_only_where_standard_input_is_read() {
        for (image, refused) in [
            ("docker-archive:-", true),
            ("oci-archive:-:v1", true),
            ("docker-archive:x.tar", false),
            ("oci:-", false),
            ("app", false),
        ] {
            let source: SourceSpec = image.parse().unwrap();
            assert_eq!(check_standard_input(&source, || true).is_err(), refused, "{image}");
            assert!(check_standard_input(&source, || false).is_ok(), "{image}");
        }
    }

    #[test]
    fn dashes_are_taken_for_hyphens_in_front_of_a_word_only() {
        for (word, flag) in [
            ("\u{2013}r", Some("-r")),
            ("\u{2014}repository=app", Some("--repository=app")),
            ("-\u{2013}tag", Some("--tag")),
            ("--tag", None),
            ("a\u{2013}b", None),
            ("\u{2013}", None),
            ("\u{2013}1", None),
        ] {
            assert_eq!(flag_with_hyphens(word).as_deref(), flag, "{word}");
        }
    }
}
