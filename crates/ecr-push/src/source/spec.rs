//! How the user writes where the image is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Where the image is, as the user wrote it: as docker users do (`name`, `name:tag`, an ID), or with a transport as in
/// skopeo and podman. A known prefix wins; `docker-daemon:oci:v1` is the way to an engine's image called `oci:v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSpec {
    /// An image of a container engine.
    Daemon(String),
    /// An image of containerd.
    Containerd(String),
    /// A tar as `docker save` writes it; `-` is standard input.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which image of the archive.
        reference: Option<String>,
    },
    /// An OCI layout in a directory.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// Which image of the layout.
        reference: Option<String>,
    },
    /// An OCI layout in a tar; `-` is standard input.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which image of the layout.
        reference: Option<String>,
    },
}

impl SourceSpec {
    /// False for a stream, which is gone once it has passed: standard input, a pipe.
    pub fn can_be_read_again(&self) -> bool {
        match self {
            Self::Daemon(_) | Self::Containerd(_) | Self::OciLayout { .. } => true,
            Self::DockerArchive { path, .. } | Self::OciArchive { path, .. } => {
                path.as_os_str() != "-" && path.metadata().is_ok_and(|metadata| metadata.is_file())
            }
        }
    }
}

impl FromStr for SourceSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim().is_empty() {
            return Err(Error::refused("parse image", "no image is named").with_hint(
                "give a name (`app:v1`), an image ID, or `docker-archive:FILE`, `oci:DIR`, `oci-archive:FILE`",
            ));
        }
        let Some((transport, rest)) = text.split_once(':') else {
            return Ok(Self::Daemon(text.to_owned()));
        };
        let later = |what: &str| {
            Err(Error::refused("parse image", format!("the source `{what}:` is not supported by this version"))
                .with_hint(format!("if an engine's image has this name, write `docker-daemon:{text}`")))
        };
        match transport {
            "docker-daemon" if rest.is_empty() => Err(Error::refused("parse image", "`docker-daemon:` names no image")),
            "docker-daemon" => Ok(Self::Daemon(rest.to_owned())),
            "docker-archive" | "oci" | "oci-archive" => {
                let (path, reference) = path_and_reference(transport, rest)?;
                Ok(match transport {
                    "docker-archive" => Self::DockerArchive { path, reference },
                    "oci" => Self::OciLayout { path, reference },
                    _ => Self::OciArchive { path, reference },
                })
            }
            "containerd" if rest.is_empty() => Err(Error::refused("parse image", "`containerd:` names no image")),
            "containerd" if cfg!(feature = "containerd") => Ok(Self::Containerd(rest.to_owned())),
            "containerd" => later("containerd"),
            "docker" if rest.starts_with("//") => later("docker"),
            _ => Ok(Self::Daemon(text.to_owned())),
        }
    }
}

/// The bytes of a Windows path up to and with its drive's colon: `C:\`, `\\?\C:\`, `\\.\C:\`; on Windows also `C:/`. 0 if it has none.
fn drive(path: &str) -> usize {
    let local = path.strip_prefix(r"\\?\").or_else(|| path.strip_prefix(r"\\.\")).unwrap_or(path);
    match local.as_bytes() {
        [letter, b':', slash, ..]
            if letter.is_ascii_alphabetic() && (*slash == b'\\' || (cfg!(windows) && *slash == b'/')) =>
        {
            path.len() - local.len() + 2
        }
        _ => 0,
    }
}

/// Splits `PATH[:REF]` at the first colon, as skopeo does; a Windows drive letter stays with its path.
fn path_and_reference(transport: &str, rest: &str) -> Result<(PathBuf, Option<String>)> {
    let from = drive(rest);
    let (path, reference) = match rest[from..].find(':') {
        Some(colon) => (&rest[..from + colon], Some(&rest[from + colon + 1..])),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err(Error::refused("parse image", format!("`{transport}:{rest}` names no file"))
            .with_hint(format!("write `{transport}:PATH` or `{transport}:PATH:REFERENCE`")));
    }
    if reference == Some("") {
        return Err(Error::refused("parse image", format!("`{transport}:{rest}` ends in a colon without a reference")));
    }
    Ok((path.into(), reference.map(str::to_owned)))
}

impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, reference) = match self {
            Self::Daemon(name) => return write!(f, "docker-daemon:{name}"),
            Self::Containerd(name) => return write!(f, "containerd:{name}"),
            Self::DockerArchive { path, reference } => ("docker-archive", path, reference),
            Self::OciLayout { path, reference } => ("oci", path, reference),
            Self::OciArchive { path, reference } => ("oci-archive", path, reference),
        };
        write!(f, "{transport}:{}", path.display())?;
        match reference {
            Some(reference) => write!(f, ":{reference}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_prefix_wins_and_anything_else_is_an_engine_image() {
        for (text, shown) in [
            ("app", "docker-daemon:app"),
            ("app:v1", "docker-daemon:app:v1"),
            ("host:5000/app:v1", "docker-daemon:host:5000/app:v1"),
            ("docker-daemon:oci:v1", "docker-daemon:oci:v1"),
            ("sha256:abc", "docker-daemon:sha256:abc"),
            ("oci:dir", "oci:dir"),
            ("oci:/a/b:v1", "oci:/a/b:v1"),
            ("docker-archive:x.tar", "docker-archive:x.tar"),
            ("docker-archive:x.tar:host:5000/app:v1", "docker-archive:x.tar:host:5000/app:v1"),
            ("docker-archive:-", "docker-archive:-"),
            ("oci-archive:x.tar:@1", "oci-archive:x.tar:@1"),
            #[cfg(feature = "containerd")]
            ("containerd:docker.io/library/app:v1", "containerd:docker.io/library/app:v1"),
        ] {
            assert_eq!(text.parse::<SourceSpec>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn sources_without_a_place_are_refused() {
        for text in
            ["", " ", "oci:", "oci::v1", "oci:dir:", "docker-archive:", "docker-daemon:", "containerd:", "docker://a/b"]
        {
            assert!(text.parse::<SourceSpec>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_drive_letter_stays_with_its_path() {
        for path in [
            r"C:\images\a.tar",
            r"\\?\C:\images\a.tar",
            r"\\.\c:\a.tar",
            r"\\?\UNC\server\images\a.tar",
            r"\\server\a.tar",
        ] {
            for reference in [None, Some("app:v1".to_owned())] {
                let text = reference.as_ref().map_or(path.to_owned(), |reference| format!("{path}:{reference}"));
                let spec: SourceSpec = format!("docker-archive:{text}").parse().unwrap();
                assert_eq!(spec, SourceSpec::DockerArchive { path: path.into(), reference });
            }
        }
    }
}
