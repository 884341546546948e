//! Which of several images a reference means: `@N`, a digest, a name.

use crate::image::Digest;

/// What a user wrote behind the archive's or layout's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reference<'a> {
    /// `@N`: the image's place in the list, from 0.
    Number(usize),
    /// The digest of a manifest, an index or a config.
    Digest(Digest),
    /// A name, or a tag where only that is noted.
    Name(&'a str),
}

impl<'a> Reference<'a> {
    /// Reads it. What is no number and no digest is a name.
    pub(super) fn parse(text: &'a str) -> Self {
        if let Some(number) = text.strip_prefix('@').and_then(|number| number.parse().ok()) {
            return Self::Number(number);
        }
        text.parse().map_or(Self::Name(text), Self::Digest)
    }
}

/// The candidates that `name` means. Those that have exactly this name come before those that have another spelling of it: `app` may be
/// `docker.io/library/app`, as Docker reads it, or `localhost/app`, as Podman does.
pub(super) fn named<'a, T>(name: &str, candidates: impl Iterator<Item = (T, Vec<&'a str>)>) -> Vec<T> {
    let (mut exact, mut equivalent) = (Vec::new(), Vec::new());
    for (candidate, names) in candidates {
        if names.iter().any(|other| *other == name || with_tag(other) == with_tag(name)) {
            exact.push(candidate);
        } else if names.iter().any(|other| familiar(other) == familiar(name)) {
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

/// The name without what Docker and Podman add by themselves.
fn familiar(name: &str) -> String {
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    with_tag(name.strip_prefix("library/").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_number_a_digest_or_a_name() {
        let digest = Digest::of(b"");
        assert_eq!(Reference::parse("@1"), Reference::Number(1));
        assert_eq!(Reference::parse(&digest.to_string()), Reference::Digest(digest));
        for name in ["app:v1", "@", "@x", "@-1", "sha256:12", "v1"] {
            assert_eq!(Reference::parse(name), Reference::Name(name));
        }
    }

    #[test]
    fn an_exact_name_wins_over_another_spelling() {
        let images = ["docker.io/library/app:latest", "localhost/app:latest", "team/app:v1", "host:5000/app"];
        let found = |name: &str| named(name, images.iter().map(|image| (*image, vec![*image])));
        assert_eq!(found("localhost/app"), ["localhost/app:latest"]);
        assert_eq!(found("docker.io/library/app"), ["docker.io/library/app:latest"]);
        assert_eq!(found("docker.io/library/app:latest"), ["docker.io/library/app:latest"]);
        // Neither is written so.
        assert_eq!(found("app"), ["docker.io/library/app:latest", "localhost/app:latest"]);
        assert_eq!(found("docker.io/app:latest").len(), 2);
        assert_eq!(found("docker.io/team/app:v1"), ["team/app:v1"]);
        assert_eq!(found("host:5000/app:latest"), ["host:5000/app"]);
        for name in ["app:v1", "team/app", "other/app:v1", "host:5000/app:v1", ""] {
            assert!(found(name).is_empty(), "{name}");
        }
    }
}
