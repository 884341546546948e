//! Image names as docker users write them, and names near a wrong one.

use crate::error::{Error, Result};
use crate::image::{Digest, Tag};

const OPERATION: &str = "parse image name";
const LONGEST_REPOSITORY: usize = 255;
/// How many of an engine's names are looked at for one that is near.
const MOST_COMPARED: usize = 10_000;

/// A name that fits the grammar, so it may go into a URL's path as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    repository: String,
    /// The tag, `latest` by default, or the digest.
    suffix: Suffix,
    /// The hex digits, if the text may be an image ID: with `sha256:` it can be nothing else.
    id: Option<String>,
    certainly_id: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Suffix {
    Tag(String),
    Digest { digest: Digest, tag: Option<String> },
}

impl Name {
    /// Reads `name`, `name:tag`, `name@digest`, an ID or a short ID.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(hex) = text.strip_prefix("sha256:") {
            if (1..=64).contains(&hex.len()) && is_hex(hex) {
                return Ok(Self::of_id(hex, true));
            }
        } else if text.len() == 64 && is_hex(text) {
            return Ok(Self::of_id(text, true));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        // A colon before the last slash is a port.
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, tag) = match name[last..].split_once(':') {
            Some((component, tag)) => (&name[..last + component.len()], Some(tag)),
            None => (name, None),
        };
        if !is_repository(repository) {
            return Err(refuse(text, repository));
        }
        let tag = tag.map(|tag| tag.parse::<Tag>()).transpose()?.map(|tag| tag.to_string());
        let id = (tag.is_none() && digest.is_none() && is_hex(repository)).then(|| repository.to_owned());
        Ok(Self {
            repository: repository.to_owned(),
            suffix: match digest {
                Some(digest) => Suffix::Digest { digest, tag },
                None => Suffix::Tag(tag.unwrap_or_else(|| "latest".to_owned())),
            },
            id,
            certainly_id: false,
        })
    }

    fn of_id(hex: &str, certainly_id: bool) -> Self {
        Self {
            repository: hex.to_owned(),
            suffix: Suffix::Tag("latest".to_owned()),
            id: Some(hex.to_owned()),
            certainly_id,
        }
    }

    /// What the engine is asked for. What may be an ID goes without a tag: the engine tries names first. A whole ID gets
    /// `sha256:`, a short one does not, because podman does not take it; a tag beside a digest has no meaning.
    pub fn request(&self) -> String {
        match (&self.id, &self.suffix) {
            (Some(hex), _) if hex.len() == 64 => format!("sha256:{hex}"),
            (Some(hex), _) => hex.clone(),
            (None, Suffix::Tag(tag)) => format!("{}:{tag}", self.repository),
            (None, Suffix::Digest { digest, .. }) => format!("{}@{digest}", self.repository),
        }
    }

    /// The digest in the name.
    pub fn digest(&self) -> Option<Digest> {
        match &self.suffix {
            Suffix::Digest { digest, .. } => Some(*digest),
            Suffix::Tag(_) => None,
        }
    }

    /// The hex digits, if the text may be an ID.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// True if the text can be nothing but an ID.
    pub fn is_certainly_id(&self) -> bool {
        self.certainly_id
    }

    /// The name with its default tag, `localhost/` and Docker Hub's prefixes as the user wrote them.
    pub fn with_tag(&self) -> String {
        match &self.suffix {
            Suffix::Tag(tag) => format!("{}:{tag}", self.repository),
            Suffix::Digest { digest, tag: None } => format!("{}@{digest}", self.repository),
            Suffix::Digest { digest, tag: Some(tag) } => format!("{}:{tag}@{digest}", self.repository),
        }
    }

    /// True if `full` (a name in the engine's list) is this name.
    pub fn is(&self, full: &str) -> bool {
        familiar(full) == familiar(&self.with_tag())
    }
}

/// At most five of `names` that a user who wrote `asked` may have meant, best first: the same repository with another
/// tag, the same last component, one a part of the other, few letters changed.
pub(super) fn near(asked: &Name, names: &[String]) -> Vec<String> {
    let wanted = familiar(&asked.with_tag()).to_owned();
    let (wanted_repository, _) = split(&wanted);
    // To compare two names takes as many steps as their lengths multiplied.
    let mut scored: Vec<(usize, usize, &str)> = names
        .iter()
        .filter(|name| name.len() <= 2 * LONGEST_REPOSITORY)
        .take(MOST_COMPARED)
        .filter_map(|name| {
            let (repository, _) = split(familiar(name));
            let distance = edit_distance(&wanted, familiar(name)).min(edit_distance(wanted_repository, repository));
            let score = if repository == wanted_repository {
                0
            } else if last_component(repository) == last_component(wanted_repository) {
                1
            } else if distance <= 1 + wanted_repository.chars().count() / 4 {
                1 + distance
            } else if wanted_repository.len() > 2
                && (repository.contains(wanted_repository) || wanted_repository.contains(repository))
            {
                100
            } else {
                return None;
            };
            Some((score, edit_distance(&wanted, familiar(name)), familiar(name)))
        })
        .collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(5).map(|(_, _, name)| name.to_owned()).collect()
}

/// The name without what engines add: Docker Hub's address, podman's `localhost`.
pub(super) fn familiar(name: &str) -> &str {
    ["docker.io/library/", "docker.io/", "localhost/"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name)
}

fn split(name: &str) -> (&str, &str) {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[last..].find([':', '@']) {
        Some(at) => name.split_at(last + at),
        None => (name, ""),
    }
}

fn last_component(repository: &str) -> &str {
    repository.rsplit('/').next().unwrap_or(repository)
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_repository(text: &str) -> bool {
    if text.len() > LONGEST_REPOSITORY {
        return false;
    }
    let path = match text.split_once('/') {
        Some((first, path)) if looks_like_domain(first) => {
            if !is_domain(first) {
                return false;
            }
            path
        }
        _ => text,
    };
    path.split('/').all(is_component)
}

/// docker's rule for telling a registry from a first component of a path.
fn looks_like_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '['])
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    port_fits && host_fits
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes
            .split(plain)
            .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn refuse(text: &str, repository: &str) -> Error {
    let message = if text.is_empty() {
        "the image name is empty".to_owned()
    } else if repository.len() > LONGEST_REPOSITORY {
        format!("the image name `{text}` is longer than {LONGEST_REPOSITORY} characters")
    } else {
        format!(
            "`{text}` is not an image name: use lower-case letters, digits and single `.`, `_`, `-` or `/` between them"
        )
    };
    let error = Error::refused(OPERATION, message);
    let corrected = correct(repository);
    if is_repository(&corrected) {
        let rest = &text[repository.len()..];
        error.with_hint(format!("did you mean `{corrected}{rest}`?"))
    } else {
        error
    }
}

fn correct(repository: &str) -> String {
    let (domain, path) = match repository.split_once('/') {
        Some((first, path)) if looks_like_domain(first) && is_domain(first) => (Some(first), path),
        _ => (None, repository),
    };
    let lower = path.trim().to_lowercase();
    let components = lower.split('/').filter_map(|component| {
        let mut out = String::new();
        for c in component.chars() {
            let c = if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
            if c.is_ascii_alphanumeric() || out.ends_with(|last: char| last.is_ascii_alphanumeric()) {
                out.push(c);
            }
        }
        let out = out.trim_end_matches(['.', '_', '-']);
        (!out.is_empty()).then(|| out.to_owned())
    });
    domain.map(str::to_owned).into_iter().chain(components).collect::<Vec<_>>().join("/")
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_default_tag() {
        for (text, request, full) in [
            ("app", "app:latest", "app:latest"),
            ("team/app:1.0", "team/app:1.0", "team/app:1.0"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000/app:1"),
            ("Reg.Example/app__x", "Reg.Example/app__x:latest", "Reg.Example/app__x:latest"),
            ("cafe", "cafe", "cafe:latest"),
            ("cafe:1", "cafe:1", "cafe:1"),
            ("sha256:cafe", "cafe", "cafe:latest"),
        ] {
            let name = Name::parse(text).unwrap();
            assert_eq!((name.request().as_str(), name.with_tag().as_str()), (request, full));
        }
        let digest = Digest::of(b"");
        let name = Name::parse(&format!("app:1@{digest}")).unwrap();
        assert_eq!(name.request(), format!("app@{digest}"));
        assert_eq!(name.with_tag(), format!("app:1@{digest}"));
    }

    #[test]
    fn names_outside_the_grammar_come_with_a_corrected_one() {
        for (text, hint) in [
            ("Team/My App:1.0", "did you mean `team/my-app:1.0`?"),
            ("reg.example:5000/App", "did you mean `reg.example:5000/app`?"),
            ("app/", "did you mean `app`?"),
            ("../../info", "did you mean `info`?"),
            ("a//b", "did you mean `a/b`?"),
            ("app?x=1", "did you mean `app-x-1`?"),
        ] {
            let error = Name::parse(text).unwrap_err();
            assert!(error.is_refused(), "{text}");
            assert_eq!(error.hints(), [hint], "{text}");
        }
        for text in ["", " ", "///", "app:", "app@sha256:12", "app%2f..", "é", &"a".repeat(256)] {
            assert!(Name::parse(text).unwrap_err().is_refused(), "{text}");
        }
    }

    #[test]
    fn near_names_are_the_likeliest_first() {
        let names: Vec<String> =
            ["localhost/team/app:2", "other/app:1", "web:1", "team/apq:1", "docker.io/library/nginx:1"]
                .map(str::to_owned)
                .into();
        let near = |text: &str| near(&Name::parse(text).unwrap(), &names);
        assert_eq!(near("team/app:1"), ["team/app:2", "other/app:1", "team/apq:1"]);
        assert_eq!(near("ngnix"), ["nginx:1"]);
        assert!(near("postgres").is_empty());
    }
}
