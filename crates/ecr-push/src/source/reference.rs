//! Which of several images a reference means: `@N`, a digest, a name.

use crate::image::Digest;

/// What a user wrote behind the archive's or layout's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference<'a> {
    /// `@N`: the image's place in the list, from 0.
    Number(usize),
    /// The digest of a manifest, an index or a config.
    Digest(Digest),
    /// A name with a digest in it: both have to be those of one image.
    Pinned(&'a str, Digest),
    /// A name, or a tag where only that is noted.
    Name(&'a str),
}

impl<'a> Reference<'a> {
    /// Reads it. What is no number and no digest is a name.
    pub(super) fn parse(text: &'a str) -> Self {
        if let Some(number) = text.strip_prefix('@').and_then(|number| number.parse().ok()) {
            return Self::Number(number);
        }
        if let Ok(digest) = text.parse() {
            return Self::Digest(digest);
        }
        match text.rsplit_once('@').map(|(_, digest)| digest.parse()) {
            Some(Ok(digest)) => Self::Pinned(text, digest),
            _ => Self::Name(text),
        }
    }
}

/// True if `other` is written as `name` is, but for the tag `latest`, which goes without saying.
pub(super) fn is_exact(name: &str, other: &str) -> bool {
    with_tag(other) == with_tag(name)
}

/// True if `other` is another spelling of `name`: Docker means `docker.io/library/app` by `app`. Whoever names no registry may also mean
/// Podman's `localhost/app`.
pub(super) fn is_equivalent(name: &str, other: &str) -> bool {
    canonical(name) == canonical(other) || !has_registry(name) && other == format!("localhost/{}", with_tag(name))
}

/// The candidates that `name` means: those that have exactly this name, and only where there is none, those that have another spelling of it.
pub(super) fn named<'a, T>(name: &str, candidates: impl Iterator<Item = (T, Vec<&'a str>)>) -> Vec<T> {
    let (mut exact, mut equivalent) = (Vec::new(), Vec::new());
    for (candidate, names) in candidates {
        if names.iter().any(|other| is_exact(name, other)) {
            exact.push(candidate);
        } else if names.iter().any(|other| is_equivalent(name, other)) {
            equivalent.push(candidate);
        }
    }
    if exact.is_empty() { equivalent } else { exact }
}

/// The name with its default tag.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

/// True if the first part is a host (distribution/reference, "splitDockerDomain").
fn has_registry(name: &str) -> bool {
    name.split_once('/').is_some_and(|(first, _)| first == "localhost" || first.contains(['.', ':']))
}

/// The name with registry, `library/` and tag.
fn canonical(name: &str) -> String {
    let name = with_tag(name);
    let path = match name.split_once('/') {
        Some(("docker.io" | "index.docker.io", path)) => path,
        Some(_) if has_registry(&name) => return name,
        _ => &name,
    };
    let library = if path.contains('/') { "" } else { "library/" };
    format!("docker.io/{library}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_number_a_digest_or_a_name() {
        let digest = Digest::of(b"");
        assert_eq!(Reference::parse("@1"), Reference::Number(1));
        assert_eq!(Reference::parse(&digest.to_string()), Reference::Digest(digest));
        let pinned = format!("host:5000/app:v1@{digest}");
        assert_eq!(Reference::parse(&pinned), Reference::Pinned(&pinned, digest));
        for name in ["app:v1", "@", "@x", "@-1", "sha256:12", "v1", "app@sha256:12"] {
            assert_eq!(Reference::parse(name), Reference::Name(name));
        }
    }

    #[test]
    fn an_exact_name_wins_over_another_spelling_and_no_registry_is_another() {
        let images = ["docker.io/library/app:latest", "localhost/app:latest", "team/app:v1", "host:5000/app"];
        let found = |name: &str| named(name, images.iter().map(|image| (*image, vec![*image])));
        assert_eq!(found("localhost/app"), ["localhost/app:latest"]);
        assert_eq!(found("docker.io/library/app"), ["docker.io/library/app:latest"]);
        assert_eq!(found("docker.io/library/app:latest"), ["docker.io/library/app:latest"]);
        // Neither is written so.
        assert_eq!(found("app"), ["docker.io/library/app:latest", "localhost/app:latest"]);
        assert_eq!(found("docker.io/app:latest"), ["docker.io/library/app:latest"]);
        assert_eq!(found("docker.io/team/app:v1"), ["team/app:v1"]);
        assert_eq!(found("host:5000/app:latest"), ["host:5000/app"]);
        for name in ["app:v1", "team/app", "other/app:v1", "host:5000/app:v1", "localhost/team/app:v1", "host/app", ""]
        {
            assert!(found(name).is_empty(), "{name}");
        }
        let local = |name: &str| named(name, [((), vec!["localhost/app:v1"])].into_iter()).len();
        assert_eq!((local("app:v1"), local("docker.io/library/app:v1"), local("library/app:v1")), (1, 0, 0));
    }
}
