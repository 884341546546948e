//! Image names as users of ctr, nerdctl and crictl write them, and the names the store may have them under.

use crate::error::{Error, Result};

const HUB: &str = "docker.io";

/// The names to ask for, in order: as it is written (a store's names are free text), then in the full form that
/// nerdctl, crictl and Docker give a name when they store it (distribution/reference, "ParseDockerRef").
pub(super) fn candidates(text: &str) -> Vec<String> {
    let mut names = vec![text.to_owned(), full(text)];
    names.dedup();
    names
}

/// The name with registry, `library/` and tag.
pub(super) fn full(text: &str) -> String {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some(("index.docker.io", path)) => (HUB, path),
        Some((first, path)) if first == "localhost" || first.contains(['.', ':']) => (first, path),
        _ => (HUB, name),
    };
    let library = if registry == HUB && !path.contains('/') { "library/" } else { "" };
    match digest {
        Some(digest) => format!("{registry}/{library}{path}@{digest}"),
        None if has_tag(path) => format!("{registry}/{library}{path}"),
        None => format!("{registry}/{library}{path}:latest"),
    }
}

/// Registry and path, without tag and digest.
pub(super) fn repository(full: &str) -> &str {
    let name = full.split_once('@').map_or(full, |(name, _)| name);
    match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    }
}

fn has_tag(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// The hex digits of a digest or short digest, with or without `sha256:`.
pub(super) fn id(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let fits = (1..=64).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    fits.then_some(hex)
}

/// Refuses what cannot be a name in any store, or could not be shown.
pub(super) fn check(text: &str) -> Result<()> {
    const LONGEST: usize = 1024;
    let what = match text {
        "" => "is empty".to_owned(),
        _ if text.len() > LONGEST => format!("is longer than {LONGEST} bytes"),
        _ if text.contains(|c: char| c.is_control() || c.is_whitespace()) => {
            format!("`{}` has a space or a control character", text.escape_debug())
        }
        _ => return Ok(()),
    };
    Err(Error::refused("parse image name", format!("the image name {what}")))
}

/// Refuses what cannot be a namespace (containerd's `identifiers.Validate`), so that it may go into a header.
pub(super) fn check_namespace(text: &str) -> Result<()> {
    const LONGEST: usize = 76;
    let words = |text: &str| {
        text.split(['.', '_', '-']).all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    if text.len() <= LONGEST && words(text) {
        return Ok(());
    }
    let message = format!(
        "`{}` is not a containerd namespace: up to {LONGEST} letters and digits are expected, with single `.`, `_` or `-` between them",
        text.escape_debug()
    );
    Err(Error::refused("find containerd", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_full_form() {
        for (text, whole) in [
            ("app", "docker.io/library/app:latest"),
            ("app:v1", "docker.io/library/app:v1"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/app", "docker.io/library/app:latest"),
            ("index.docker.io/team/app:v1", "docker.io/team/app:v1"),
            ("localhost/app", "localhost/app:latest"),
            ("host:5000/app", "host:5000/app:latest"),
            ("ghcr.io/team/app:v1", "ghcr.io/team/app:v1"),
            ("app@sha256:00", "docker.io/library/app@sha256:00"),
            ("app:v1@sha256:00", "docker.io/library/app:v1@sha256:00"),
        ] {
            assert_eq!(full(text), whole);
        }
        assert_eq!(candidates("ghcr.io/team/app:v1"), ["ghcr.io/team/app:v1"]);
        assert_eq!(candidates("app"), ["app", "docker.io/library/app:latest"]);
    }

    #[test]
    fn repositories_are_cut_out() {
        for (name, cut) in [
            ("docker.io/library/app:v1", "docker.io/library/app"),
            ("host:5000/app", "host:5000/app"),
            ("host:5000/app:v1@sha256:00", "host:5000/app"),
            ("", ""),
        ] {
            assert_eq!(repository(name), cut);
        }
    }

    #[test]
    fn ids_are_told_from_names() {
        assert_eq!(id("sha256:0a"), Some("0a"));
        assert_eq!(id("cafe"), Some("cafe"));
        for text in ["", "sha256:", "app", "CAFE", "cafe:v1", "sha512:00", &"0".repeat(65)] {
            assert_eq!(id(text), None, "{text}");
        }
    }

    #[test]
    fn namespaces_are_checked() {
        for text in ["default", "k8s.io", "moby", "a-b_c.d"] {
            assert!(check_namespace(text).is_ok(), "{text}");
        }
        for text in ["", "a b", "a\r\nb", "-a", "a..b", "é", &"a".repeat(77)] {
            assert!(check_namespace(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for text in ["", "a b", "a\nb", "a\u{1b}[31m", &"a".repeat(2000)] {
            assert!(check(text).unwrap_err().is_refused(), "{text}");
        }
        assert!(check("overlaybd/Foo@bar").is_ok());
    }
}
