//! The grammar of names, tags and settings.
//!
//! Every rule of this crate has an id (`R-01`, ...) that stands in a comment where the rule is enforced, and a row in
//! `docs/rules.md` with its source. A test holds the two together.

use serde_json::Value;

use crate::error::{Refusal, Result};
use crate::util::wildcard;

const NAME_PATTERN: &str =
    r"must satisfy regular expression '[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*'";

/// R-08: a repository name by the pattern of the API's model.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if !(2..=256).contains(&name.len()) {
        return Err(Refusal::parameter("repositoryName", "Member must have length between 2 and 256"));
    }
    if name.split('/').all(is_name_part) {
        return Ok(());
    }
    Err(Refusal::parameter("repositoryName", NAME_PATTERN))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_name_part(part: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = part.as_bytes();
    loop {
        let word = rest.iter().take_while(|&&byte| is_alphanumeric(byte)).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.iter().take_while(|&&byte| !is_alphanumeric(byte)).count();
        let is_separator = match &rest[..separator] {
            b"." | b"_" | b"__" => true,
            dashes => dashes.iter().all(|&byte| byte == b'-'),
        };
        if !is_separator {
            return false;
        }
        rest = &rest[separator..];
    }
}

/// R-23: a tag by the grammar of the distribution specification.
pub(crate) fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().enumerate().all(|(at, byte)| is_word(byte) || at > 0 && matches!(byte, b'.' | b'-'))
        && !tag.is_empty()
}

/// Which tags of a repository may be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutability {
    immutable: bool,
    /// Patterns of the tags for which the opposite holds.
    exclusions: Vec<String>,
}

impl Mutability {
    /// Every tag may be moved.
    pub fn mutable() -> Self {
        Self { immutable: false, exclusions: Vec::new() }
    }

    /// No tag may be moved.
    pub fn immutable() -> Self {
        Self { immutable: true, exclusions: Vec::new() }
    }

    /// No tag may be moved but those that match a filter.
    pub fn immutable_except(filters: &[&str]) -> Self {
        Self { immutable: true, exclusions: filters.iter().map(|&filter| filter.to_owned()).collect() }
    }

    /// Every tag may be moved but those that match a filter.
    pub fn mutable_except(filters: &[&str]) -> Self {
        Self { immutable: false, ..Self::immutable_except(filters) }
    }

    /// R-44: reads `imageTagMutability` and its filters.
    pub(crate) fn parse(mode: &str, filters: &Value) -> Result<Self> {
        const MODES: [&str; 4] = ["IMMUTABLE", "IMMUTABLE_WITH_EXCLUSION", "MUTABLE", "MUTABLE_WITH_EXCLUSION"];
        if !MODES.contains(&mode) {
            return Err(Refusal::parameter(
                "imageTagMutability",
                format_args!("Member must satisfy enum value set: [{}]", MODES.join(", ")),
            ));
        }
        let field = "imageTagMutabilityExclusionFilters";
        let filters = filters.as_array().map(Vec::as_slice).unwrap_or_default();
        if mode.ends_with("_WITH_EXCLUSION") == filters.is_empty() {
            return Err(Refusal::parameter(field, "filters belong to the modes WITH_EXCLUSION, which need them"));
        }
        if filters.len() > 5 {
            return Err(Refusal::parameter(field, "Member must have length less than or equal to 5"));
        }
        let mut exclusions = Vec::new();
        for filter in filters {
            let pattern = filter["filter"].as_str().unwrap_or_default();
            let is_pattern = (1..=128).contains(&pattern.len())
                && pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._*-".contains(&byte));
            if filter["filterType"] != "WILDCARD" || !is_pattern {
                return Err(Refusal::parameter(field, "must satisfy regular expression '^[0-9a-zA-Z._*-]{1,128}$'"));
            }
            exclusions.push(pattern.to_owned());
        }
        Ok(Self { immutable: mode.starts_with("IMMUTABLE"), exclusions })
    }

    pub(crate) fn mode(&self) -> &'static str {
        match (self.immutable, self.exclusions.is_empty()) {
            (false, false) => "MUTABLE_WITH_EXCLUSION",
            (false, true) => "MUTABLE",
            (true, false) => "IMMUTABLE_WITH_EXCLUSION",
            (true, true) => "IMMUTABLE",
        }
    }

    pub(crate) fn filters(&self) -> Value {
        let filter = |filter: &String| serde_json::json!({ "filterType": "WILDCARD", "filter": filter });
        self.exclusions.iter().map(filter).collect::<Vec<_>>().into()
    }

    /// R-22.
    pub(crate) fn fixes(&self, tag: &str) -> bool {
        self.immutable != self.exclusions.iter().any(|filter| wildcard(filter, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_model() {
        for good in ["ab", "a/b", "a__b", "a--b", "1a", "team/app.web_x-y"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["a", "A/b", "a/", "/a", "a..b", "a___b", "a.-b", "-ab", "ab-", "a b", "a//b", ""] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exclusions_turn_the_mode_around() {
        assert!(Mutability::immutable_except(&["dev-*"]).fixes("v1"));
        assert!(!Mutability::immutable_except(&["dev-*"]).fixes("dev-1"));
        assert!(Mutability::mutable_except(&["v*"]).fixes("v1"));
        assert!(!Mutability::mutable_except(&["v*"]).fixes("latest"));
    }

    #[test]
    fn a_tag_does_not_start_with_a_dash() {
        assert!(is_tag("_a.b-C9"));
        assert!(!is_tag("-a"));
        assert!(!is_tag(""));
        assert!(!is_tag("a+b"));
        assert!(!is_tag(&"a".repeat(129)));
    }
}
